"""What travels through training: drawn frames, then tensors, then losses. Three dataclasses, no dictionaries of strings."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
    identities: list[str] = field(default_factory=list)
    """One per group."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: v.to(device, non_blocking=non_blocking) for k, v in moved.items() if isinstance(v, Tensor)}
        )

    def pin_memory(self) -> Batch:
        pinned = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.pin_memory() for k, v in pinned.items() if isinstance(v, Tensor)})

    def __len__(self) -> int:
        return self.test_images.shape[1]


@dataclass(eq=False)
class Losses:
    """What an objective returns for one batch."""

    total: Tensor
    """Scalar, with gradient."""
    parts: dict[str, Tensor]
    """Name -> weighted scalar, detached, for logs; e.g. ``box``, ``classifier``, ``classifier_initial``."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """Numbers that are not losses, e.g. ``accuracy``, ``iou``."""
