"""Box formats, conversions and overlaps: the one file with pixel conventions.

Two conventions meet in the published trackers and both are kept (spec/dimp-atom.md §0):

* A box is ``(x, y, w, h)`` in pixels, top-left corner first. Networks read it as the continuous rectangle
  ``[x, x + w] × [y, y + h]``.
* A tracker keeps ``pos``, the centre as a pixel *index* in (row, column) order: ``pos = (y + (h - 1) / 2, x + (w - 1) / 2)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError


class Box(NamedTuple):
    """``(x, y, w, h)`` in pixels, top-left corner; unpacks to four floats."""

    x: float
    y: float
    w: float
    h: float


def check_box(box: Sequence[float], height: int, width: int) -> Box:
    """Return ``box`` as a :class:`Box` of floats if a target can be cut out of a ``height × width`` frame with it.

    Raises :class:`InputError` if it is not four finite numbers, has no area, or lies wholly outside the frame.
    """
    try:
        values = [float(v) for v in box]
    except (TypeError, ValueError):
        raise InputError(f"box {box!r} is not four numbers; give (x, y, w, h) in pixels") from None
    if len(values) != 4:
        raise InputError(f"box has {len(values)} values; give four: (x, y, w, h) in pixels")
    if not all(math.isfinite(v) for v in values):
        raise InputError(f"box {tuple(values)} has values that are not finite; give (x, y, w, h) in pixels")
    x, y, w, h = values
    if w <= 0 or h <= 0:
        raise InputError(f"box {tuple(values)} has no area; width and height must be above 0 (order is x, y, w, h)")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise InputError(f"box {tuple(values)} lies outside the frame, which is {width} wide and {height} high")
    return Box(x, y, w, h)


def clip_box(box: Sequence[float], height: int, width: int, min_size: float = 1.0) -> Box:
    """The part of ``box`` inside a ``height × width`` frame, at least ``min_size`` wide and high (moved in if outside)."""
    x, y, w, h = box
    min_w, min_h = min(min_size, width), min(min_size, height)
    x0 = min(max(x, 0.0), width - min_w)
    y0 = min(max(y, 0.0), height - min_h)
    x1 = min(max(x + w, x0 + min_w), float(width))
    y1 = min(max(y + h, y0 + min_h), float(height))
    return Box(x0, y0, x1 - x0, y1 - y0)


def box_to_state(box: Sequence[float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(x, y, w, h) -> centre index ``pos`` (row, column) and size (h, w); spec §0."""
    x, y, w, h = box
    return (y + (h - 1) / 2, x + (w - 1) / 2), (h, w)


def state_to_box(pos: Sequence[float], size: Sequence[float]) -> Box:
    """Inverse of :func:`box_to_state`."""
    return Box(pos[1] - (size[1] - 1) / 2, pos[0] - (size[0] - 1) / 2, size[1], size[0])


def xywh_to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) xywh -> (..., 4) x0, y0, x1, y1 of the continuous rectangle."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=-1)


def to_relative(boxes: Tensor, normaliser: Tensor | None = None) -> Tensor:
    """xywh (..., 4) -> relative coordinates (cx / n_w, cy / n_h, ln w, ln h); spec §2.

    ``normaliser``: (..., 2) as (n_w, n_h), broadcast over boxes; the box's own size if not given.
    """
    size = boxes[..., 2:]
    normaliser = size if normaliser is None else normaliser
    return torch.cat(((boxes[..., :2] + 0.5 * size) / normaliser, torch.log(size)), dim=-1)


def from_relative(relative: Tensor, normaliser: Tensor | None = None) -> Tensor:
    """Inverse of :func:`to_relative`; without ``normaliser`` the size encoded in ``relative`` is used."""
    size = torch.exp(relative[..., 2:])
    normaliser = size if normaliser is None else normaliser
    return torch.cat((relative[..., :2] * normaliser - 0.5 * size, size), dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of continuous xywh rectangles (..., 4), broadcast; two empty boxes give 0."""
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inter = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = a[..., 2:].prod(dim=-1) + b[..., 2:].prod(dim=-1) - inter
    return inter / union.clamp(min=torch.finfo(union.dtype).tiny)
