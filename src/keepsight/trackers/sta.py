"""STA: a mask from a box, for RTS's first frame and for annotating videos that have boxes; spec/keeptrack-rts-lwl.md §10.

Zhao et al., "Generating masks from boxes by mining spatio-temporal consistencies in videos" (ICCV 2021), the single-frame part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state, check_box
from ..images import CropConfig, check_frame, sample_patch
from ..models.segmentation import STANet
from ..online.masks import OUTSIDE, paste
from ..online.search import View, initial_scale


@dataclass(frozen=True)
class STAConfig:
    """How a crop is taken for STA; the defaults are the published ones."""

    sample_size: tuple[int, int] = (480, 832)
    """(h, w) of the crop in pixels."""
    search_area_scale: float = 4.0
    """Side of the crop in target sizes, both as geometric means of their axes."""
    patch_arithmetic: str = "integer"
    """See :class:`~keepsight.images.CropConfig`."""


class BoxToMask:
    """Masks from boxes, one frame at a time."""

    def __init__(self, net: STANet, device: torch.device, config: STAConfig = STAConfig()) -> None:
        self.net: Any = net.for_inference().to(device)
        self.device, self.config = device, config
        self.dtype = next(net.parameters()).dtype

    def mask(self, frame: Any, box: Any) -> np.ndarray:
        """(H, W) bool, empty where the network sees nothing, and never beyond the box.

        ``frame``: as trackers take it; ``box``: (x, y, w, h) in pixels. Raises :class:`InputError` for one that cannot be used.
        """
        image = check_frame(frame)
        checked = check_box(box, *image.shape[:2])
        with torch.inference_mode():
            mask: np.ndarray = (self.logits(image, checked) > 0).cpu().numpy()
        return mask

    def logits(self, frame: np.ndarray, box: Box) -> Tensor:
        """(H, W) of a frame (H, W, 3) uint8; -100 outside the box."""
        cfg = self.config
        pos, size = box_to_state(box)
        scale = initial_scale(size, cfg.search_area_scale, math.sqrt(math.prod(cfg.sample_size)))
        patch = sample_patch(
            frame, pos, [scale * s for s in cfg.sample_size], cfg.sample_size,
            CropConfig("replicate", None, cfg.patch_arithmetic), device=self.device, dtype=self.dtype,
        )  # fmt: skip
        view = View(patch.position, patch.scale, cfg.sample_size[1], cfg.sample_size[0])
        inside = torch.tensor([view.to_crop(pos, size)], dtype=self.dtype, device=self.device)
        _, second = self.net.masks_from_boxes(patch.pixels, inside)  # raw RGB as it is: quirk Q23
        whole = paste(second[0, 0], view.pos, view.scale, (frame.shape[0], frame.shape[1]))
        x, y, w, h = (int(v) for v in box)
        kept = torch.full_like(whole, OUTSIDE)
        rows, cols = slice(max(y, 0), max(y + h, 0)), slice(max(x, 0), max(x + w, 0))
        kept[rows, cols] = whole[rows, cols]
        return kept
