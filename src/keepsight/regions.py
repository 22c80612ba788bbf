"""Regions: what a benchmark calls the target's place in one frame. Rectangle, polygon, mask, or a code instead of one.

Pixel conventions are those of the files: numbers as distributed, nothing subtracted. Text forms are VOT's
(spec/evaluation.md §6, §9): ``1`` | ``x,y,w,h`` | ``x1,y1,..,xK,yK`` | ``m<x>,<y>,<w>,<h>,<run lengths>``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import InputError

MAX_MASK_PIXELS = 2**28
"""A mask line that claims more than this (16384 x 16384) is taken for a damaged one before memory is asked for."""


class Code(IntEnum):
    """What a VOT result line says in place of a region (spec/evaluation.md §6); ground truth uses UNKNOWN."""

    UNKNOWN = 0
    """No region: frames between a failure and the new start, or the target is absent."""
    INITIALISATION = 1
    """The tracker was started here."""
    FAILURE = 2
    """The prediction no longer overlapped the target."""


@dataclass(frozen=True)
class Special:
    """No region but a code."""

    code: int


@dataclass(frozen=True)
class Rectangle:
    """Axis-aligned, pixels, top-left corner and size."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, eq=False)
class Polygon:
    """Corners in order."""

    points: np.ndarray
    """(K, 2) float64 x, y in pixels."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Pixels, stored as the part of the image that holds them."""

    x: int
    """Column of the stored part's first pixel."""
    y: int
    """Row of the stored part's first pixel."""
    pixels: np.ndarray
    """(h, w) bool."""


Region: TypeAlias = Special | Rectangle | Polygon | Mask


def parse_region(text: str) -> Region:
    """One line of a VOT file -> its region. Any nan among the numbers means "no region here": ``Special(UNKNOWN)``.

    Masks are cut to the box around their pixels, as the toolkits' text readers do. Separators: comma, blank, tab, semicolon.

    Raises:
        InputError: the text is no region; the caller adds file and line number.
    """
    text = text.strip()
    if text[:1] in ("m", "M"):
        return _parse_mask(text)
    try:
        numbers = [float(v) for v in text.split(",")]
    except ValueError:
        numbers = _loose_numbers(text)
    if any(math.isnan(v) for v in numbers):
        return Special(Code.UNKNOWN)
    if any(math.isinf(v) for v in numbers):
        raise InputError(f"{_shown(text)} has an infinite number; regions are made of finite pixels")
    if len(numbers) == 4:
        return Rectangle(*numbers)
    if len(numbers) == 1:
        if numbers[0] < 0 or numbers[0] != int(numbers[0]):
            raise InputError(f"{_shown(text)} is no code; codes are 0 (unknown), 1 (start), 2 (failure)")
        return Special(int(numbers[0]))
    if len(numbers) >= 6 and len(numbers) % 2 == 0:
        return Polygon(np.array(numbers).reshape(-1, 2))  # (K, 2)
    raise InputError(
        f"{_shown(text)} has {len(numbers)} numbers; expected 1 (a code), 4 (x, y, w, h) or an even count from 6 on (polygon)"
    )


def _loose_numbers(text: str) -> list[float]:
    words = [w for w in re.split(r"[,;\s]+", text) if w]
    try:
        numbers = [float(v) for v in words]
    except ValueError:
        numbers = []
    if not numbers:
        raise InputError(
            f"{_shown(text)} is no region; expected a code, x,y,w,h, a polygon x1,y1,.. or a mask m x,y,w,h,runs"
        )
    return numbers


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _parse_mask(text: str) -> Mask:
    try:
        numbers = [int(v) for v in re.split(r"[,;\s]+", text[1:].strip(" ,;\t"))]
    except ValueError:
        raise InputError(
            f"mask {_shown(text)} holds something that is no integer; expected m x,y,w,h,run,run,..."
        ) from None
    if len(numbers) < 4:
        raise InputError(f"mask {_shown(text)} has {len(numbers)} numbers; expected m x,y,w,h,run,run,...")
    x, y, w, h = numbers[:4]
    return crop_mask(Mask(x, y, decode_runs(numbers[4:], w, h)))


def format_region(region: Region, digits: int | None = None) -> str:
    """A region as a line of a VOT text file (no line end).

    ``digits``: decimals of coordinates; None writes the shortest text that reads back to the same float64.
    """
    if isinstance(region, Special):
        return str(int(region.code))
    if isinstance(region, Mask):
        h, w = region.pixels.shape
        return "m" + ",".join(map(str, (region.x, region.y, w, h, *encode_runs(region.pixels))))
    if isinstance(region, Rectangle):
        numbers = [region.x, region.y, region.w, region.h]
    else:
        numbers = region.points.ravel().tolist()
    return ",".join(repr(float(v)) if digits is None else f"{v:.{digits}f}" for v in numbers)


def encode_runs(pixels: npt.NDArray[np.bool_]) -> list[int]:
    """(h, w) bool -> lengths of equal runs in row-major order; the first counts zeros and may be 0."""
    flat = np.asarray(pixels, dtype=bool).ravel()
    if flat.size == 0:
        return []
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


def decode_runs(runs: Sequence[int], width: int, height: int) -> npt.NDArray[np.bool_]:
    """Inverse of :func:`encode_runs` -> (height, width) bool.

    Raises:
        InputError: negative runs or sizes, or runs that do not fill the rectangle exactly (a line that was cut off).
    """
    if width < 0 or height < 0 or width * height > MAX_MASK_PIXELS:
        raise InputError(f"mask of {width} x {height} pixels; both must be 0 or more, and their product at most 2^28")
    total = sum(runs)  # Python integers: damaged runs must not wrap around
    if min(runs, default=0) < 0 or total != width * height:
        raise InputError(
            f"mask's runs cover {total} pixels of {width} x {height} = {width * height}: was the line cut off?"
        )
    values = np.arange(len(runs)) % 2 == 1  # zeros first
    return np.repeat(values, runs).reshape(height, width)


def crop_mask(mask: Mask) -> Mask:
    """The same pixels, stored in the smallest rectangle that holds them; an empty mask becomes 0 x 0 at (0, 0)."""
    rows = np.flatnonzero(mask.pixels.any(axis=1))
    if rows.size == 0:
        return Mask(0, 0, np.zeros((0, 0), dtype=bool))
    columns = np.flatnonzero(mask.pixels.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask.pixels[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    return Mask(mask.x + left, mask.y + top, part)


PolygonRule: TypeAlias = Literal["area", "union"]


def polygon_to_box(points: npt.ArrayLike, how: PolygonRule = "area") -> npt.NDArray[np.float64]:
    """Corners (..., 2K) as x1, y1, .., xK, yK -> the boxes (..., 4) xywh that a box tracker is started with.

    ``area`` (spec/evaluation.md §6): around the mean of the corners, sides of the bounding box scaled so that the area is
    that of the first two sides' product, plus 1. ``union``: the bounding box. nan stays nan.
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim == 0 or corners.shape[-1] < 6 or corners.shape[-1] % 2:
        raise InputError(
            f"polygons of shape {corners.shape}; expected (..., 2K) with at least three corners: x1, y1, x2, y2, .."
        )
    corners = corners.reshape(*corners.shape[:-1], -1, 2)  # (..., K, 2)
    low, high = corners.min(axis=-2), corners.max(axis=-2)  # (..., 2)
    if how == "union":
        return np.concatenate((low, high - low), axis=-1)
    if how != "area":
        raise InputError(f"how={how!r}; expected 'area' or 'union'")
    sides = np.linalg.norm(np.diff(corners[..., :3, :], axis=-2), axis=-1)  # (..., 2): |p1 p2|, |p2 p3|
    area = (high - low).prod(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(area == 0, 1.0, np.sqrt(sides.prod(axis=-1) / area))  # a line has no area to keep
    size = scale[..., None] * (high - low) + 1
    return np.concatenate((corners.mean(axis=-2) - size / 2, size), axis=-1)


def region_to_box(region: Region, how: PolygonRule = "union") -> tuple[float, float, float, float]:
    """x, y, w, h around a region; four nan for a code or an empty mask. ``how`` is for polygons (:func:`polygon_to_box`)."""
    if isinstance(region, Rectangle):
        return region.x, region.y, region.w, region.h
    if isinstance(region, Polygon):
        x, y, w, h = (float(v) for v in polygon_to_box(region.points.ravel(), how))
        return x, y, w, h
    if isinstance(region, Mask):
        part = crop_mask(region)
        if part.pixels.size:
            return float(part.x), float(part.y), float(part.pixels.shape[1]), float(part.pixels.shape[0])
    return math.nan, math.nan, math.nan, math.nan
