"""Boxes around the target on which the box estimator is trained (spec/dimp-atom.md §6.5).

Boxes are xywh in crop pixels, float64; ``...`` stands for any leading axes (frames, batch). Offsets d live in relative
coordinates (x / w, y / h, ln w, ln h of the true box), in which both densities are products over the four dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..boxes import from_relative, iou, to_relative
from ..errors import InputError

Array = npt.NDArray[np.float64]
Pair = tuple[float, float]

_TRIES = 100  # per box; the last one counts whatever its overlap
_DECAY = 0.9  # of the spread, after each refused try
_SMALL = (0.15, 0.5)  # sizes of at most one pixel become this share of the true size


@dataclass(frozen=True, eq=False)
class Proposals:
    """P boxes for every true box."""

    boxes: Array
    """(..., P, 4) xywh."""
    iou: Array
    """(..., P) overlap with the true box, 0..1."""
    q: Array | None = None
    """(..., P) density of the distribution that the box was drawn from; -1 marks a true box that was added."""
    p: Array | None = None
    """(..., P) density of the ground truth there."""

    @property
    def iou_target(self) -> Array:
        """(..., P) what the overlap predictor learns, 2·IoU - 1."""
        return 2 * self.iou - 1


def overlaps(boxes: Array, truth: Array) -> Array:
    """(..., P, 4) against (..., 4): (..., P) IoU."""
    return np.asarray(iou(torch.from_numpy(boxes), torch.from_numpy(truth[..., None, :])).numpy())


# ---------------------------------------------------------------------------------------------------------------------
# Spreads from a list, with retries (ATOM, DiMP)


def sigma_list_proposals(
    boxes: Array, number: int, sigmas: Sequence[float], min_iou: float, rng: np.random.Generator
) -> Proposals:
    """``number`` boxes per true box (..., 4), each drawn with a spread from the list until it overlaps more than ``min_iou``.

    All boxes that are not accepted yet are drawn again together, with 0.9 of their spread. Their corners and sizes are
    whole pixels.
    """
    truth = np.broadcast_to(_checked(boxes)[..., None, :], (*boxes.shape[:-1], number, 4)).reshape(-1, 4)  # (N, 4)
    spread = np.sqrt(truth[:, 2] * truth[:, 3]) * rng.choice(np.asarray(sigmas, dtype=np.float64), size=len(truth))
    drawn, overlap = np.empty_like(truth), np.empty(len(truth))
    left = np.arange(len(truth))  # boxes that are still looked for
    for _ in range(_TRIES):
        drawn[left] = _perturbed(truth[left], spread[left], rng)
        overlap[left] = overlaps(drawn[left, None], truth[left])[:, 0]
        left = left[overlap[left] <= min_iou]
        if not len(left):
            break
        spread[left] *= _DECAY
    shape = (*boxes.shape[:-1], number)
    return Proposals(drawn.reshape(*shape, 4), overlap.reshape(shape))


def _perturbed(truth: Array, spread: Array, rng: np.random.Generator) -> Array:
    """(N, 4) boxes with centre and size drawn around ``truth`` (N, 4) with deviations ``spread`` (N,)."""
    noise = spread[:, None] * rng.standard_normal(truth.shape)
    size = _not_small(truth[:, 2:] + noise[:, 2:], truth[:, 2:], rng)
    corner = truth[:, :2] + 0.5 * truth[:, 2:] + noise[:, :2] - 0.5 * size
    corner, size = np.rint(corner), np.rint(size)
    return np.concatenate((corner, _not_small(size, truth[:, 2:], rng)), axis=1)


def _not_small(size: Array, true_size: Array, rng: np.random.Generator) -> Array:
    small = size <= 1
    if small.any():
        size[small] = true_size[small] * rng.uniform(*_SMALL, size=int(small.sum()))
    return size


# ---------------------------------------------------------------------------------------------------------------------
# Gaussian mixtures (PrDiMP and the probabilistic ATOM variants)


def gmm_proposals(
    boxes: Array,
    number: int,
    sigmas: Sequence[Pair],
    rng: np.random.Generator,
    *,
    gt_sigma: Pair = (0.0, 0.0),
    add_mean_box: bool = False,
) -> Proposals:
    """``number`` boxes per true box (..., 4) from a mixture around it, with both densities.

    ``sigmas``: deviations (centre, ln size) of each component. ``gt_sigma``: those of the ground-truth density.
    ``add_mean_box``: the true box comes first, with q = -1 and p = 1, so that there are ``number`` + 1.
    """
    shape = (*boxes.shape[:-1], number)
    component = rng.integers(len(sigmas), size=shape)
    offsets = gmm_offsets(component, rng.standard_normal((*shape, 4)), sigmas)
    return gmm_proposals_at(boxes, offsets, sigmas, gt_sigma=gt_sigma, add_mean_box=add_mean_box)


def gmm_offsets(component: npt.NDArray[np.int64], noise: Array, sigmas: Sequence[Pair]) -> Array:
    """Offsets d (..., 4): standard normal ``noise`` (..., 4), scaled by the chosen ``component`` (...)."""
    return _deviations(sigmas)[component] * noise


def gmm_proposals_at(
    boxes: Array,
    offsets: Array,
    sigmas: Sequence[Pair],
    *,
    gt_sigma: Pair = (0.0, 0.0),
    add_mean_box: bool = False,
) -> Proposals:
    """The boxes at ``offsets`` (..., P, 4) of the true ``boxes`` (..., 4), with densities and overlaps."""
    truth = _checked(boxes)
    q, p = mixture_density(offsets, sigmas), gaussian_density(offsets, gt_sigma)
    if add_mean_box:
        offsets = np.concatenate((np.zeros_like(offsets[..., :1, :]), offsets), axis=-2)
        q = np.concatenate((np.full_like(q[..., :1], -1), q), axis=-1)
        p = np.concatenate((np.ones_like(p[..., :1]), p), axis=-1)
    mean = torch.from_numpy(truth[..., None, :])  # (..., 1, 4)
    normaliser = mean[..., 2:]
    drawn = from_relative(to_relative(mean, normaliser) + torch.from_numpy(offsets), normaliser).numpy()
    return Proposals(drawn, overlaps(drawn, truth), q, p)


def mixture_density(offsets: Array, sigmas: Sequence[Pair]) -> Array:
    """q (...) at offsets (..., 4): mean over the components of their normal densities."""
    return _normal(offsets[..., None, :], _deviations(sigmas)).mean(axis=-1)


def gaussian_density(offsets: Array, sigma: Pair) -> Array:
    """p (...) at offsets (..., 4); 0 everywhere for deviations of (0, 0), as the ML loss has it."""
    if tuple(sigma) == (0, 0):
        return np.zeros(offsets.shape[:-1])
    return _normal(offsets, _deviations([sigma])[0])


def _deviations(sigmas: Sequence[Pair]) -> Array:
    """(components, 4) in the order centre, centre, size, size."""
    pairs = np.asarray(sigmas, dtype=np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not (pairs > 0).all():
        raise InputError(f"deviations {sigmas} cannot be used; give (centre, ln size) pairs of numbers above 0")
    return np.repeat(pairs, 2, axis=1)


def _normal(offsets: Array, deviations: Array) -> Array:
    """Product over the last axis of normal densities of mean 0."""
    exponent = -0.5 * np.square(offsets / deviations).sum(axis=-1)
    return np.asarray(np.exp(exponent) / ((2 * math.pi) ** 2 * deviations.prod(axis=-1)))


def _checked(boxes: Array) -> Array:
    if not np.isfinite(boxes).all() or not (boxes[..., 2:] > 0).all():
        raise InputError("a true box has no area or values that are not finite; proposals need boxes of positive size")
    return np.ascontiguousarray(boxes, dtype=np.float64)
