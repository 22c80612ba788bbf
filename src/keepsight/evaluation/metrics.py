"""How well boxes agree with ground truth: overlap, success and precision (Wu et al., OTB, TPAMI 2015).

Boxes are (x, y, w, h), read as continuous rectangles [x, x + w] × [y, y + h]. The corner's origin cancels, so ground
truth that counts pixels from 1 (OTB, VOT) is used as distributed, provided that the tracker was started with a box of
the same file. A frame whose ground truth holds a nan (target absent) is left out everywhere. Whether the first frame,
where the tracker was given the box, takes part is the caller's choice: ``success_auc(pred[1:], gt[1:])``.

Needs numpy only, so that benchmarks can use it beside trackers that live in other environments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Array = npt.NDArray[np.float64]


def thresholds() -> Array:
    """(21,) overlap thresholds 0, 0.05, ..., 1, as multiples of 0.05 (pysot, got10k)."""
    return np.arange(21) * np.float64(0.05)


def ious(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Array:
    """Intersection over union of each row, (N,) in 0..1; nan where ``gt`` holds a nan (target absent).

    ``pred``, ``gt``: (N, 4) xywh. A prediction that holds a nan or has no area overlaps nothing: 0.
    Raises :class:`InputError` if the shapes are not (N, 4) twice.
    """
    p, g = _checked(pred, gt)
    side = np.minimum(p[:, :2] + p[:, 2:], g[:, :2] + g[:, 2:]) - np.maximum(p[:, :2], g[:, :2])  # (N, 2)
    inter = np.clip(side, 0, None).prod(axis=1)
    union = p[:, 2:].prod(axis=1) + g[:, 2:].prod(axis=1) - inter
    usable = np.isfinite(p).all(axis=1) & (p[:, 2:] > 0).all(axis=1) & (union > 0)
    overlap = np.divide(inter, union, out=np.zeros(len(p)), where=usable)
    overlap[np.isnan(g).any(axis=1)] = np.nan
    return overlap


def success_curve(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Array:
    """(21,) share of frames whose overlap is above each of :func:`thresholds`; see :func:`success_auc`."""
    overlap = _present(ious(pred, gt))
    return (overlap[:, None] > thresholds()).mean(axis=0)


def success_auc(pred: npt.ArrayLike, gt: npt.ArrayLike) -> float:
    """Area under the success curve, in 0..1: the mean of its 21 values (a perfect tracker has 20/21, as in the papers).

    ``pred``, ``gt``: (N, 4) xywh; frames with a nan in ``gt`` are left out.
    Raises :class:`InputError` if the shapes differ or no frame is left.

    Example: ``success_auc(tracked[1:], annotated[1:])``
    """
    return float(success_curve(pred, gt).mean())


def mean_iou(pred: npt.ArrayLike, gt: npt.ArrayLike) -> float:
    """Mean overlap of the frames where the target is present, in 0..1."""
    return float(_present(ious(pred, gt)).mean())


def centre_errors(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Array:
    """Distance of the centres in pixels, (N,); nan where ``gt`` holds a nan, infinite where only ``pred`` does."""
    p, g = _checked(pred, gt)
    offset = (p[:, :2] + 0.5 * p[:, 2:]) - (g[:, :2] + 0.5 * g[:, 2:])  # (N, 2)
    error = np.hypot(offset[:, 0], offset[:, 1])
    error[np.isnan(p).any(axis=1)] = np.inf
    error[np.isnan(g).any(axis=1)] = np.nan
    return error


def precision(pred: npt.ArrayLike, gt: npt.ArrayLike, threshold: float = 20.0) -> float:
    """Share of frames, in 0..1, whose centre error is at most ``threshold`` pixels."""
    return float((_present(centre_errors(pred, gt)) <= threshold).mean())


def _checked(pred: npt.ArrayLike, gt: npt.ArrayLike) -> tuple[Array, Array]:
    p: np.ndarray[Any, Any] = np.asarray(pred, dtype=np.float64)
    g: np.ndarray[Any, Any] = np.asarray(gt, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 4 or p.shape != g.shape:
        raise InputError(
            f"predictions have shape {p.shape}, ground truth {g.shape}; give (N, 4) twice, one row per frame"
        )
    return p, g


def _present(values: Array) -> Array:
    """``values`` of the frames where the target is present."""
    present = values[~np.isnan(values)]
    if len(present) == 0:
        raise InputError(f"none of {len(values)} frames has ground truth; at least one is needed for a mean")
    return present
