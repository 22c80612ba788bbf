"""What travels through training: drawn frames, then tensors, then losses. Three dataclasses, no dictionaries of strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..images import normalise


@dataclass(eq=False)
class Group:
    """Frames of one object as the sampler drew them, before any processing. Train frames fit the target model, test frames
    judge it."""

    train_images: list[np.ndarray]
    """Each (H, W, 3) uint8 RGB; the first is the latest one, the reference of the box estimator (spec §6.1)."""
    test_images: list[np.ndarray]
    train_boxes: npt.NDArray[np.float64]
    """(n_train, 4) xywh in pixels of the image."""
    test_boxes: npt.NDArray[np.float64]
    """(n_test, 4)."""
    train_masks: list[np.ndarray] | None = None
    """Each (H, W) bool, where the data set has masks."""
    test_masks: list[np.ndarray] | None = None
    is_video: bool = True
    identity: str = ""
    """Data set, sequence and frame numbers, for error messages and the file of a batch that gave NaN."""
    is_negative: bool = False
    """The test frames show another object (sampler mode ``pairs``)."""
    skipped: list[str] = field(default_factory=list)
    """Broken objects that were drawn before this one and passed over, in words."""


@dataclass(eq=False)
class Batch:
    """Tensors of B groups; frames come first, as the papers' code and goldens have them. Optional parts are None where a
    recipe does not use them."""

    train_images: Tensor
    """(n_train, B, 3, Z, Z) float, as the network takes it (normalised or 0..255: the recipe's processing decides)."""
    test_images: Tensor
    """(n_test, B, 3, Z, Z)."""
    train_boxes: Tensor
    """(n_train, B, 4) xywh in crop pixels."""
    test_boxes: Tensor
    """(n_test, B, 4)."""
    proposals: Tensor | None = None
    """(n_test, B, P, 4) xywh in crop pixels (§6.5)."""
    proposal_iou: Tensor | None = None
    """(n_test, B, P) target of the IoU loss, 2 IoU - 1."""
    proposal_density: Tensor | None = None
    """(n_test, B, P) q."""
    gt_density: Tensor | None = None
    """(n_test, B, P) p."""
    train_label: Tensor | None = None
    """(n_train, B, F, F)."""
    test_label: Tensor | None = None
    """(n_test, B, F, F) Gaussian of height 1 (§4.9)."""
    test_label_density: Tensor | None = None
    """(n_test, B, F, F) the density version."""
    train_masks: Tensor | None = None
    """(n_train, B, Z, Z) 0 or 1."""
    test_masks: Tensor | None = None
    is_video: Tensor | None = None
    """(B,) bool."""
    is_negative: Tensor | None = None
    """(B,) bool: the target is not in the test frames; their labels are 0. None: it always is."""
    identities: list[str] = field(default_factory=list)
    """One per group."""
    gains: tuple[Tensor, Tensor] | None = None
    """Brightness factors (n_train, B) and (n_test, B) of images that are still uint8, as loader workers send them (a quarter
    of the bytes); None: the images are floats. :meth:`to` and :meth:`as_floats` make floats of them."""
    normalise: bool = True
    """Whether the floats are in units of ImageNet backbones or 0..255."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on another device, its images as floats."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking)).as_floats()

    def as_floats(self) -> Batch:
        """The same batch with float images: bytes times brightness, cut at white, then normalised (§6.4)."""
        if self.gains is None:
            return self
        train, test = self.gains
        return replace(
            self,
            train_images=_floats(self.train_images, train, self.normalise),
            test_images=_floats(self.test_images, test, self.normalise),
            gains=None,
        )

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        done: dict[str, Any] = {k: function(v) for k, v in values.items() if isinstance(v, Tensor)}
        if self.gains is not None:
            done["gains"] = (function(self.gains[0]), function(self.gains[1]))
        return replace(self, **done)

    def __len__(self) -> int:
        return self.test_images.shape[1]


def _floats(images: Tensor, gains: Tensor, normalised: bool) -> Tensor:
    """(n, B, 3, Z, Z) uint8 and factors (n, B) -> float32 of the same shape."""
    black = torch.zeros(3, 1, 1, device=images.device)
    white = torch.full_like(black, 255)
    if normalised:
        black, white = normalise(black), normalise(white)
    slope = (white - black) / 255 * gains[..., None, None, None]  # (n, B, 3, 1, 1)
    if images.device.type != "cpu":
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
        return torch.minimum(pixels.mul_(slope).add_(black), white)
    out = torch.empty(images.shape)
    # one image at a time stays in the processor's cache; a channel's limit is a plain number, which is quicker still
    limits = white.flatten().tolist()
    for pixels, source, factor in zip(out.flatten(0, 1), images.flatten(0, 1), slope.flatten(0, 1), strict=True):
        pixels.copy_(source).mul_(factor).add_(black)
        for channel, limit in zip(pixels, limits, strict=True):
            channel.clamp_(max=limit)
    return out


@dataclass(eq=False)
class Losses:
    """What an objective returns for one batch."""

    total: Tensor
    """Scalar, with gradient."""
    parts: dict[str, Tensor]
    """Name -> weighted scalar, detached, for logs; e.g. ``box``, ``classifier``, ``classifier_initial``."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """Numbers that are not losses, e.g. ``accuracy``, ``iou``."""
