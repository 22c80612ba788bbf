"""Masks between frames: into and out of crops, where a target is by its mask, several targets in one frame.

spec/keeptrack-rts-lwl.md §6 (LWL) and §9 (RTS). Positions are (row, column), sizes (h, w), as in ``search.py``; a probability map
(H, W) covers the whole frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box
from ..errors import InputError
from ..regions import Mask, region_to_box
from .search import Pair

OUTSIDE = -100.0
"""Logit of what lies outside the crop, and with the other sign that of a given mask's pixels."""


def check_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """The mask as (H, W) bool, if a target can be learnt from it in a ``height × width`` frame.

    All that is not 0 is target, also what a data set marks as void (255). Raises :class:`InputError` if it is no array of bool or
    integers, has another size than the frame, or has no pixel.
    """
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "bui":
        given = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else f"of type {type(mask).__name__}"
        raise InputError(
            f"the mask is {given}; expected (H, W) of bool, or of integers that are 0 outside the target; of probabilities, "
            "give (probability > 0.5)"
        )
    if mask.shape != (height, width):
        raise InputError(
            f"the mask has shape {mask.shape}; expected ({height}, {width}), the frame's height and width; resize it with the "
            "nearest pixel (cv2.INTER_NEAREST)"
        )
    pixels: np.ndarray = mask != 0
    if not pixels.any():
        raise InputError("the mask is empty, so there is no target in it; start in a frame where it is visible")
    return pixels


def box_slices(box: Sequence[float]) -> tuple[slice, slice]:
    """Rows and columns of all pixels that a box (x, y, w, h) touches, from the frame's first on."""
    x, y, w, h = box
    spans = ((math.floor(y), math.ceil(y + h)), (math.floor(x), math.ceil(x + w)))
    rows, cols = (slice(max(low, 0), max(high, low + 1, 0)) for low, high in spans)
    return rows, cols


def tight_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the pixels of a (H, W) bool mask, their last row and column included; None for an empty one."""
    box = Box(*region_to_box(Mask(0, 0, mask)))
    return None if math.isnan(box.x) else box


def ellipse(box: Box, height: int, width: int) -> np.ndarray:
    """(H, W) bool: the pixels whose centre lies in the largest ellipse inside ``box``; at least the one nearest its centre.

    What stands for a mask where only a box is known: of a typical object it has fewer background pixels than the box.
    """
    rows = (np.arange(height) + 0.5 - box.y - box.h / 2) / (box.h / 2)
    cols = (np.arange(width) + 0.5 - box.x - box.w / 2) / (box.w / 2)
    mask: np.ndarray = rows[:, None] ** 2 + cols[None, :] ** 2 <= 1
    if not mask.any():
        mask[abs(rows).argmin(), abs(cols).argmin()] = True
    return mask


def spread(weights: Tensor, factor: float = 4.0) -> tuple[Pair, Pair] | None:
    """Centre and size of a target by its probability map (H, W): mean place, ``factor`` times the standard deviation; §6.2.

    None if the map is no distribution: a sum or a variance that is not above 0, as of an empty map or a single pixel.
    """
    pos, size = [], []
    for axis in (1, 0):
        along = weights.sum(axis).cpu().double()  # (H,), then (W,); not every device has float64
        total = float(along.sum())
        if not total > 0:
            return None
        places = torch.arange(len(along), dtype=torch.float64)
        mean = float((along * places).sum()) / total
        variance = float((along * (places - mean).square()).sum()) / total
        if not 0 < variance < math.inf:
            return None
        pos.append(mean)
        size.append(factor * math.sqrt(variance))
    return (pos[0], pos[1]), (size[0], size[1])


MUCH = 4
"""A resized crop with so many times the frame's pixels is made only where it lies in the frame."""


def paste(logits: Tensor, position: Pair, scale: float, frame_size: tuple[int, int]) -> Tensor:
    """A crop's logits (h, w) in the frame: (H, W), :data:`OUTSIDE` beyond the crop; §6.2.

    ``position`` of the crop's centre, ``scale`` in image pixels per crop pixel.
    """
    whole = logits.new_full(frame_size, OUTSIDE)
    lengths = [math.floor(n * scale) for n in logits.shape]
    if min(lengths) < 1:
        return whole
    put, take = [], []
    for n, p, length in zip(lengths, position, frame_size, strict=True):
        first = math.trunc(p - n / 2)
        low, high = min(max(first, 0), length), min(max(first + n, 0), length)
        put.append(slice(low, high))
        take.append(slice(low - first, high - first))
    if math.prod(lengths) > MUCH * math.prod(frame_size):
        part = _resized(_resized(logits, 0, scale, take[0]), 1, scale, take[1])
    else:  # the factor itself makes the grid, not the rounded size: hence interpolate's scale_factor
        part = F.interpolate(
            logits[None, None], scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
        )[0, 0, take[0], take[1]]
    whole[put[0], put[1]] = part
    return whole


def _resized(values: Tensor, axis: int, factor: float, lines: slice) -> Tensor:
    """The same along one axis of a map (h, w), but only these lines of it: a crop may reach far beyond the frame."""
    at = (torch.arange(lines.start, lines.stop, device=values.device, dtype=values.dtype) + 0.5) / factor - 0.5
    most = values.shape[axis] - 1
    below = at.clamp(0, most).floor()
    share = (at.clamp_min(0) - below).clamp(0, 1)
    low = below.long()
    high = (low + 1).clamp(max=most)
    share = share[:, None] if axis == 0 else share
    return values.index_select(axis, low) * (1 - share) + values.index_select(axis, high) * share


def merge(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Several targets in one frame: ``logits`` (N, H, W) -> probabilities (N, H, W) and who has a pixel, (H, W); §6.4.

    The background's probability is that of all targets being absent; -1 where it is the largest, else the target's index. The
    first of two equals has the pixel.
    """
    eps = 1e-7
    absent = F.logsigmoid(-logits).sum(0).exp().clamp(eps, 1 - eps)  # (H, W)
    background = torch.log(absent / (1 - absent))
    every = torch.softmax(torch.cat((background[None], logits)), dim=0)  # (1 + N, H, W)
    return every[1:], every.max(dim=0).indices - 1  # argmax is many times slower
