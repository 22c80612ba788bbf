"""Search regions for training: jittered boxes and the two published crop routines (spec/dimp-atom.md §6.2, §6.3).

Boxes are xywh in pixels. A :class:`Square` says which pixels make a crop; :func:`cut` fetches them as uint8, so that the
conversion to floats happens once, for a whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Array = npt.NDArray[np.float64]

_MAX_COPY = 2**21  # larger padded regions are sampled directly, not copied first


def jitter_box(box: Array, scale: float, centre: float | Array, rng: np.random.Generator) -> Array:
    """Boxes (..., 4) xywh with random size and place, each on its own; §6.2.

    ``scale``: standard deviation of ln w and ln h. ``centre``: range of the shift in units of √(w·h) of the new size, or the
    ranges (x, y).
    """
    box = np.asarray(box, dtype=np.float64)
    size = box[..., 2:] * np.exp(scale * rng.standard_normal((*box.shape[:-1], 2)))
    reach = centre * np.sqrt(size.prod(axis=-1, keepdims=True))
    middle = box[..., :2] + 0.5 * box[..., 2:] + reach * (rng.random((*box.shape[:-1], 2)) - 0.5)
    return np.concatenate((middle - 0.5 * size, size), axis=-1)


@dataclass(frozen=True)
class Square:
    """A region of an image and what it is resized to; a rectangle if the output is one."""

    x: int
    y: int
    width: int
    height: int
    output: tuple[int, int]
    """Width, height of the crop in pixels."""
    origin: tuple[float, float] | None = None
    """Centre (x, y) that lands on the crop's middle pixel, (out - 1) / 2, by the convention of :func:`atom_region`;
    None: the region's corner lands on (0, 0)."""

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """An image box (xywh) in pixels of the crop."""
        x, y, w, h = box
        fx, fy = self.output[0] / self.width, self.output[1] / self.height
        if self.origin is None:
            return (x - self.x) * fx, (y - self.y) * fy, w * fx, h * fy
        cx = (self.output[0] - 1) / 2 + (x + 0.5 * w - self.origin[0]) * fx
        cy = (self.output[1] - 1) / 2 + (y + 0.5 * h - self.origin[1]) * fy
        return cx - 0.5 * w * fx, cy - 0.5 * h * fy, w * fx, h * fy


def atom_region(box: Sequence[float], factor: float, output: int) -> Square:
    """ATOM's square around ``box``, ``factor`` times as wide as √(w·h); it may reach over the image (§6.2).

    Raises :class:`InputError` for a box without area.
    """
    x, y, w, h = (float(v) for v in box)
    _check(x, y, w, h)
    side = math.ceil(math.sqrt(w * h) * factor)
    left, top = round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5)
    return Square(left, top, side, side, (output, output), origin=(x + 0.5 * w, y + 0.5 * h))


def adaptive_region(
    box: Sequence[float],
    factor: float,
    output: int | tuple[int, int],
    image_size: tuple[int, int],
    mode: str = "replicate",
    max_scale_change: float | None = None,
    shift_inside: bool = True,
) -> Square:
    """DiMP's region around ``box``, shrunk by ``mode`` and moved into the image (§6.3).

    ``output``, ``image_size``: (width, height). ``mode``: ``replicate``, ``inside`` or ``inside_major``.
    ``shift_inside`` False: the mode ``replicate`` pads and never moves, as the trackers do (quirk Q4).
    Raises :class:`InputError` for a box without area.
    """
    out = (output, output) if isinstance(output, int) else output
    x, y, w, h = (float(v) for v in box)
    _check(x, y, w, h)
    # float32, as published: it decides on which side of an integer a length falls
    single = np.float32
    stretch = np.sqrt(single(w) * single(h) / single(out[0] * out[1]))
    sides = [math.ceil(single(length) * stretch * single(factor)) for length in out]
    if mode != "replicate":
        ratios = [side / length for side, length in zip(sides, image_size, strict=True)]
        shrink = max(1.0, max(ratios) if mode == "inside" else min(ratios))
        if max_scale_change is not None:
            shrink = min(shrink, max_scale_change)
        sides = [max(1, math.floor(side / shrink)) for side in sides]
    starts = [
        round(float(single(low) + single(0.5) * single(length) - single(0.5) * single(side)))
        for low, length, side in ((x, w, sides[0]), (y, h, sides[1]))
    ]
    if mode != "replicate" or shift_inside:
        starts = [_move_inside(s, side, length) for s, side, length in zip(starts, sides, image_size, strict=True)]
    return Square(starts[0], starts[1], sides[0], sides[1], out)


def _check(x: float, y: float, w: float, h: float) -> None:
    if not (math.isfinite(x + y + w + h) and w > 0 and h > 0):
        raise InputError(
            f"box ({x:g}, {y:g}, {w:g}, {h:g}) has no area; a crop needs finite numbers and a size above 0"
        )


def _move_inside(start: int, side: int, length: int) -> int:
    """A region over the border is moved in; one larger than the image is centred on it."""
    start += max(0, -start) + min(0, length - start - side)
    over = (max(0, -start) + max(0, start + side - length)) // 2
    return -over if over > 0 else start


# ---------------------------------------------------------------------------------------------------------------------
# Pixels


def cut(image: np.ndarray, region: Square, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """The region of an (H, W, 3) uint8 image, resized bilinearly to (h, w, 3); the border is repeated beyond it.

    ``out``: where to write it, in rows without gaps.
    Quirk Q5: where the region reaches the right or lower border, the last column or row repeats the one before it.
    """
    import cv2

    height, width = image.shape[:2]
    x0, x1, left, right = _overlap(region.x, region.width, width)
    y0, y1, top, bottom = _overlap(region.y, region.height, height)
    padded = left or right or top or bottom
    if x1 <= x0 or y1 <= y0 or (padded and region.width * region.height > _MAX_COPY):
        return _warp(image, region, out)
    pixels = image[y0:y1, x0:x1]
    if padded:
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(pixels, region.output, dst=out, interpolation=cv2.INTER_LINEAR))


def _overlap(start: int, side: int, length: int) -> tuple[int, int, int, int]:
    """(first, end, before, after) pixels to read and to add along one axis; one too many at the far end (quirk Q5)."""
    before, after = max(0, -start), max(0, start + side - length + 1)
    return start + before, start + side - after, before, after


def _warp(image: np.ndarray, region: Square, out: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.uint8]:
    """What :func:`cut` does for regions far larger than the image or beside it, without building them; pixels differ by a
    few grey levels, because OpenCV warps with weights in steps of 1/32."""
    import cv2

    height, width = image.shape[:2]
    width -= int(region.x + region.width >= width > 1)  # quirk Q5
    height -= int(region.y + region.height >= height > 1)
    across, down = region.width / region.output[0], region.height / region.output[1]
    to_image = np.array([[across, 0, 0.5 * across - 0.5 + region.x], [0, down, 0.5 * down - 0.5 + region.y]])
    return np.asarray(
        cv2.warpAffine(
            image[:height, :width],
            to_image,
            region.output,
            dst=out,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def cut_mask(mask: np.ndarray, region: Square, nearest: bool) -> npt.NDArray[np.float32]:
    """The region of an (H, W) mask as (h, w) float32, 0 beyond the image (§6.3).

    ``nearest``: the pixel at floor(index × scale), as the adaptive crop has it; else bilinear, as ATOM's.
    """
    import cv2

    height, width = mask.shape
    out_w, out_h = region.output
    if nearest:
        rows = _nearest(region.y, region.height, out_h, height)
        cols = _nearest(region.x, region.width, out_w, width)
        picked = mask[rows[0]][:, cols[0]].astype(np.float32)  # (h, w)
        return picked * rows[1][:, None] * cols[1]
    x0, x1, left, right = _overlap(region.x, region.width, width)
    y0, y1, top, bottom = _overlap(region.y, region.height, height)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((out_h, out_w), np.float32)
    pixels = np.ascontiguousarray(mask[y0:y1, x0:x1], dtype=np.float32)
    padded = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.resize(padded, region.output, interpolation=cv2.INTER_LINEAR))


def _nearest(start: int, side: int, out: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each pixel of the crop the nearest pixel of the image, (out,), and whether the image has it."""
    scale = np.float32(side) / np.float32(out)  # in float32, as published: products may fall just below a whole number
    index = start + (np.arange(out, dtype=np.float32) * scale).astype(np.int64)
    end = length - 1 if start + side >= length else length  # quirk Q5: the last one counts as beyond the image
    return index.clip(0, length - 1), (index >= 0) & (index < end)
