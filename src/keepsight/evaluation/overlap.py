"""Region overlap as the VOT toolkits count it: on pixels, not on geometry (spec/evaluation.md §6).

Four variants are in use and differ by up to 0.18 on small targets, so every score names its own. The three that count
pixels scan a polygon row by row: where edges cross a row, the sorted crossings bound runs of pixels. They differ in how
corners are rounded, which edges cross a row, and whether a run includes its last pixel (:class:`Raster`).

Nothing is drawn: a run is two numbers, so areas and intersections of all frames are sums over one long list of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..regions import MAX_MASK_PIXELS, Mask, Polygon, Rectangle, Region, Special, crop_mask
from .polygons import polygon_overlap

Array: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.floating]
Ints: TypeAlias = npt.NDArray[np.int32]
OverlapVariant: TypeAlias = Literal["pysot", "vot", "matlab", "got10k"]

ROWS_AT_ONCE = 32768
"""Rows of all pairs that are worked on together: what stays in a core's cache."""
FAR = 2**29
"""Columns beyond this are cut to it: far outside any image, inside int32."""
HUGE = 1e30
"""Coordinates beyond this are cut to it, so that sums stay inside float32."""


@dataclass(frozen=True)
class Raster:
    """How one toolkit turns a region into pixels."""

    dtype: type[np.floating]
    """Number type of its arithmetic; overlaps are rounded to float32 where ``single``."""
    single: bool
    """The toolkit returns float32."""
    rounding: Literal["away", "even", "none"]
    """Corners go to the nearest pixel, halves away from zero or to even; ``none`` keeps fractions."""
    rectangle_less: int
    """1: a rectangle's last corner is x + w - 1."""
    closed: bool
    """Runs include their last pixel, and an edge crosses the rows of both of its ends; else half-open in both."""
    counts_empty: bool = False
    """Two empty regions overlap by 1, an empty and another by 0, a union one pixel wide or high counts as empty; else nan."""
    tips: bool = False
    """A row with two equal crossings only (the tip of a triangle) is one pixel; else it is none."""
    level_edges: bool = False
    """A horizontal edge adds a crossing at its second corner."""
    outer_box: bool = False
    """Windows go around the corners before these are rounded. Regions whose own such boxes share at most a border have
    overlap 0, whatever pixels they share."""


RASTERS: dict[str, Raster] = {
    "pysot": Raster(np.float64, single=True, rounding="away", rectangle_less=0, closed=True, outer_box=True),
    "vot": Raster(
        np.float64,
        single=False,
        rounding="even",
        rectangle_less=1,
        closed=True,
        counts_empty=True,
        tips=True,
        level_edges=True,
    ),
    "matlab": Raster(np.float32, single=True, rounding="none", rectangle_less=1, closed=False),
}


def image_bounds(image_size: tuple[float, float], variant: OverlapVariant) -> tuple[float, float]:
    """Largest x and y that count inside a protocol and in EAO: (W - 1, H - 1); got10k cuts at (W, H)."""
    width, height = image_size
    return (width, height) if variant == "got10k" else (width - 1, height - 1)


def region_overlaps(
    predictions: Sequence[Region],
    truths: Sequence[Region],
    bounds: tuple[float, float] | None,
    variant: OverlapVariant = "pysot",
) -> Array:
    """Overlap (intersection over union) of N pairs, (N,) float64 in [0, 1].

    Args:
        predictions, truths: N regions each. A code is no region: its overlap is nan; in variant ``vot`` it is empty, which
            gives 1 against another empty region and 0 against anything else.
        bounds: largest x and y that count, in the toolkit's own terms: (W, H) or (W - 1, H - 1); None: no limit.
        variant: ``pysot`` and ``matlab`` (the MATLAB toolkit's old raster): float32 values; ``vot`` (vot-toolkit 0.9);
            ``got10k``: exact areas of the polygons.

    Raises:
        InputError: unequal lengths, an unknown variant, masks under a variant that has none.
    """
    if len(predictions) != len(truths):
        raise InputError(f"{len(predictions)} predictions for {len(truths)} annotated frames")
    if variant == "got10k":
        return np.array([polygon_overlap(a, b, bounds) for a, b in zip(predictions, truths, strict=True)])
    if variant not in RASTERS:
        raise InputError(f"overlap variant {variant!r}; known variants: got10k, matlab, pysot, vot")
    raster = RASTERS[variant]
    out = np.full(len(predictions), np.nan)
    flat, masked = [], []
    for i, (p, t) in enumerate(zip(predictions, truths, strict=True)):
        empty = raster.counts_empty and (is_empty(p), is_empty(t))
        if empty and any(empty):
            out[i] = float(all(empty))
        elif isinstance(p, Mask) or isinstance(t, Mask):
            masked.append(i)
        elif not (isinstance(p, Special) or isinstance(t, Special)):
            flat.append(i)
    if masked and not raster.counts_empty:
        raise InputError(f"variant {variant!r} has no masks; use 'vot', or turn the masks into boxes (region_to_box)")
    for i in masked:
        out[i] = _mask_overlap(predictions[i], truths[i], bounds, raster)
    if flat:
        a = _corners([predictions[i] for i in flat], raster)
        b = _corners([truths[i] for i in flat], raster)
        out[flat] = _overlaps(a, b, bounds, raster)
    return out


def region_overlap(
    prediction: Region, truth: Region, image_size: tuple[float, float] | None, variant: OverlapVariant = "matlab"
) -> float:
    """Overlap of one pair as a protocol counts it, inside :func:`image_bounds`; ``image_size`` is (width, height)."""
    bounds = None if image_size is None else image_bounds(image_size, variant)
    return float(region_overlaps([prediction], [truth], bounds, variant)[0])


def is_empty(region: Region) -> bool:
    """Rule ``vot``: codes, masks without pixels and rectangles that round to no pixel."""
    if isinstance(region, Mask):
        return not region.pixels.any()
    if isinstance(region, Rectangle):
        return min(region.w, region.h) <= 0.5  # half to even: 0
    return isinstance(region, Special)


@dataclass(frozen=True, eq=False)
class _Shapes:
    """N polygons with the same number of corners."""

    corners: Floats
    """(N, K, 2) in pixels, rounded as the rule wants."""
    rectangle: npt.NDArray[np.bool_]
    """(N,)"""
    low: Floats
    """(N, 2) smallest x and y: where a window around the shape begins."""
    high: Floats
    """(N, 2) largest x and y."""


def _corners(regions: Sequence[Region], raster: Raster) -> _Shapes:
    """All toolkits hold coordinates as float32; polygons of fewer corners repeat their last one."""
    count = max(len(r.points) if isinstance(r, Polygon) else 4 for r in regions)
    out = np.empty((len(regions), count, 2), dtype=np.float32)
    boxes, box_rows = [], []
    for i, r in enumerate(regions):
        if isinstance(r, Polygon):
            out[i, : len(r.points)] = np.clip(r.points, -HUGE, HUGE)
            out[i, len(r.points) :] = out[i, len(r.points) - 1]
        elif isinstance(r, Rectangle):
            boxes.append((r.x, r.y, r.w, r.h))
            box_rows.append(i)
    rectangle = np.zeros(len(regions), dtype=bool)
    rectangle[box_rows] = True
    if boxes:
        x, y, w, h = np.clip(np.array(boxes), -HUGE, HUGE).astype(np.float32).T
        if raster.rounding == "even":  # position and size are rounded, not the corners
            x, y, w, h = (np.rint(v) for v in (x, y, w, h))
        x1, y1 = x + w - np.float32(raster.rectangle_less), y + h - np.float32(raster.rectangle_less)
        corners = np.stack((x, y, x1, y, x1, y1, x, y1), axis=-1).reshape(-1, 4, 2)
        out[box_rows, :4] = corners
        out[box_rows, 4:] = corners[:, 3:4]
    corners = out.astype(raster.dtype)
    if raster.rounding == "away":
        corners = np.copysign(np.floor(np.abs(corners) + 0.5), corners)
    elif raster.rounding == "even":
        corners = np.rint(corners)
    low, high = corners.min(axis=1), corners.max(axis=1)
    if raster.outer_box:
        low, high = np.floor(out.min(axis=1)).astype(raster.dtype), np.ceil(out.max(axis=1)).astype(raster.dtype)
    return _Shapes(corners, rectangle, low, high)


def _overlaps(a: _Shapes, b: _Shapes, bounds: tuple[float, float] | None, raster: Raster) -> Array:
    """(N,) overlaps; counted inside the window around both regions, cut to the bounds."""
    low, high = np.minimum(a.low, b.low), np.maximum(a.high, b.high)  # (N, 2)
    thin = raster.counts_empty & (low >= high).any(axis=1)  # one pixel wide or high
    if bounds is not None:
        limit = np.array(bounds, dtype=low.dtype)
        low, high = np.maximum(low, 0), np.minimum(high, limit)
    size = np.trunc(high - low).astype(np.float64) + 1  # (N, 2) width, height of the window
    # quirk of vot-toolkit without bounds: a rectangle's last column and row, counted from the window's corner, are cut at
    # the window's last column and row counted from the image's; negative ones count from the window's end, as slices do
    last = np.where(high < -1, high + size, high)
    seen = (high >= low).all(axis=1) & np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1) & ~thin
    apart = (np.maximum(a.low, b.low) >= np.minimum(a.high, b.high)).any(axis=1) & raster.outer_box
    if bounds is None and (size[seen] > FAR).any():
        raise InputError("regions span more than 2^29 pixels; give the image size as bounds")
    inter, union = np.zeros(len(low)), np.zeros(len(low))
    for part in _parts(np.flatnonzero(seen), size[:, 1]):
        origin = low[part][:, None]  # (n, 1, 2)
        widths, heights = size[part, 0].astype(np.int32), size[part, 1].astype(np.int64)
        cut = last[part] if raster.counts_empty and bounds is None else None
        runs_a = _runs(a.corners[part] - origin, widths, heights, raster, cut, a.rectangle[part])
        runs_b = _runs(b.corners[part] - origin, widths, heights, raster, cut, b.rectangle[part])
        inter[part], union[part] = _count(runs_a, runs_b, heights)
    empty = seen & (union == 0)
    with np.errstate(invalid="ignore"):
        if raster.single:
            out = (inter.astype(np.float32) / union.astype(np.float32)).astype(np.float64)
        else:
            out = inter / union
    out[~seen] = 0.0
    out[thin] = 1.0
    out[empty] = 0.0 if raster.counts_empty else np.nan
    out[apart & ~empty] = 0.0
    return out


def _parts(index: npt.NDArray[np.int64], rows: Array) -> Iterator[npt.NDArray[np.int64]]:
    """``index`` in parts of about ROWS_AT_ONCE rows together, at least one pair each."""
    ends = np.cumsum(rows[index])
    first = 0
    while first < len(index):
        done = ends[first - 1] if first else 0.0
        stop = max(int(np.searchsorted(ends, done + ROWS_AT_ONCE)), first + 1)
        yield index[first:stop]
        first = stop


Run: TypeAlias = tuple[Ints, Ints]
"""First and last column (R,) of one run of pixels in each of R rows; empty where first > last."""


def _runs(
    corners: Floats,
    widths: Ints,
    heights: npt.NDArray[np.int64],
    raster: Raster,
    cut: Floats | None = None,
    rectangle: npt.NDArray[np.bool_] | None = None,
) -> list[Run]:
    """Runs of pixels of n polygons (n, K, 2), in the coordinates of their windows, for all rows of all windows."""
    row = np.arange(int(heights.sum())) - np.repeat(np.cumsum(heights) - heights, heights)  # (R,) 0.. in each window
    y = row.astype(raster.dtype)
    width = np.repeat(widths, heights)
    crossings, count = _crossings(corners, y, heights, raster)
    runs = _closed_runs(crossings, count, raster) if raster.closed else _half_open_runs(crossings, width)
    out = []
    for start, end in runs:
        np.maximum(start, 0, out=start)
        np.minimum(end, width - 1, out=end)
        if cut is not None and rectangle is not None and rectangle.any():
            limit = np.where(rectangle[:, None], cut, FAR).astype(np.int32)
            np.minimum(end, np.repeat(limit[:, 0], heights), out=end)
            end[row > np.repeat(limit[:, 1], heights)] = -1
        if (start <= end).any():
            out.append((start, end))
    return out


def _crossings(
    corners: Floats, y: Floats, heights: npt.NDArray[np.int64], raster: Raster
) -> tuple[list[Ints], npt.NDArray[np.int8]]:
    """Columns (R,) where each edge crosses each row, sorted over the edges (FAR: no crossing), and how many do."""
    found: list[Ints] = []
    count = np.zeros(len(y), dtype=np.int8)
    for i in range(corners.shape[1]):
        start, along = corners[:, i], corners[:, i - 1] - corners[:, i]  # (n, 2) from this corner to the one before
        y0, dy = np.repeat(start[:, 1], heights), np.repeat(along[:, 1], heights)
        x0, dx = np.repeat(start[:, 0], heights), np.repeat(along[:, 0], heights)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = (y - y0) / dy  # (R,) where the row cuts the edge
            if raster.closed:
                hit = (t >= 0) & (t <= 1)
            else:
                other = np.repeat(corners[:, i - 1, 1], heights)
                hit = ((y0 < y) & (y <= other)) | ((other < y) & (y <= y0))
            x = t * dx
            x += x0
        if raster.level_edges:
            level = (dy == 0) & (y == y0)
            x = np.where(level, x0, x)
            hit |= level
        x = np.where(hit, x, FAR)
        found.append(np.clip(x, -FAR, FAR, out=x).astype(np.int32))  # towards zero
        count += hit
    for last in range(len(found) - 1, 0, -1):  # bubble sort over edges, all rows at once
        for k in range(last):
            lower = np.minimum(found[k], found[k + 1])
            np.maximum(found[k], found[k + 1], out=found[k + 1])
            found[k] = lower
    return found, count


def _closed_runs(x: list[Ints], count: npt.NDArray[np.int8], raster: Raster) -> list[Run]:
    """Pairs of crossings, first to last pixel; of two equal crossings (a corner) the first is passed over.

    A run starts at crossing k and ends at k + 1, so runs 2j and 2j + 1 exclude each other and share one array.
    """
    runs: list[Run] = []
    at = np.zeros(len(count), dtype=np.int8)  # (R,) the crossing that comes next
    previous_end = np.full(len(count), -FAR, dtype=np.int32)
    for k in range(len(x) - 1):
        active = (at == k) & (k < count - 1)
        corner = active & (x[k] == x[k + 1])
        if raster.tips:
            corner &= k < count - 2
        fill = active & ~corner
        at[corner] = k + 1
        at[fill] = k + 2
        if k % 2 == 0:
            runs.append((np.ones(len(count), dtype=np.int32), np.zeros(len(count), dtype=np.int32)))
        start, end = runs[-1]
        # neighbouring runs may share a pixel, which counts once
        np.copyto(start, np.maximum(x[k], previous_end + 1), where=fill)
        np.copyto(end, x[k + 1], where=fill)
        np.copyto(previous_end, x[k + 1], where=fill)
    return runs


def _half_open_runs(x: list[Ints], width: Ints) -> list[Run]:
    """Crossings 2j to 2j + 1, without the last pixel; a run that passes the window's edge loses the window's last column."""
    runs: list[Run] = []
    for k in range(0, len(x) - 1, 2):
        start, end = x[k].copy(), np.where(x[k + 1] > width, width - 1, x[k + 1]) - 1
        end[x[k + 1] == FAR] = -1  # no partner: no run
        runs.append((start, end))
    return runs


def _count(a: list[Run], b: list[Run], heights: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Pixels in both and in either of n pairs, (n,) float64 each; the runs of one region are disjoint."""
    rows = int(heights.sum())
    both, either = np.zeros(rows, dtype=np.int32), np.zeros(rows, dtype=np.int32)
    for start, end in (*a, *b):
        either += np.maximum(end - start + 1, 0)
    for start_a, end_a in a:
        for start_b, end_b in b:
            both += np.maximum(np.minimum(end_a, end_b) - np.maximum(start_a, start_b) + 1, 0)
    first = np.cumsum(heights) - heights
    inter = np.add.reduceat(both, first, dtype=np.float64)
    return inter, np.add.reduceat(either, first, dtype=np.float64) - inter


def _mask_overlap(a: Region, b: Region, bounds: tuple[float, float] | None, raster: Raster) -> float:
    """Overlap where at least one of two non-empty regions is a mask (variant ``vot``)."""
    x0, y0, x1, y1 = _extent(a, raster)
    bx0, by0, bx1, by1 = _extent(b, raster)
    x0, y0, x1, y1 = min(x0, bx0), min(y0, by0), max(x1, bx1), max(y1, by1)
    if x0 >= x1 or y0 >= y1:
        return 1.0  # as in _overlaps: a union one pixel wide or high is taken for an empty one
    if bounds is not None:
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, int(bounds[0])), min(y1, int(bounds[1]))
    if x0 > x1 or y0 > y1:
        return 0.0
    window = x0, y0, x1 - x0 + 1, y1 - y0 + 1
    if window[2] * window[3] > MAX_MASK_PIXELS:
        raise InputError(f"regions span {window[2]} x {window[3]} pixels; give the image size as bounds")
    pixels_a, pixels_b = _pixels(a, window, raster), _pixels(b, window, raster)
    inter = np.count_nonzero(pixels_a & pixels_b)
    union = np.count_nonzero(pixels_a | pixels_b)
    return inter / union if union else 0.0


def _extent(region: Region, raster: Raster) -> tuple[int, int, int, int]:
    """First and last column and row: x0, y0, x1, y1."""
    if isinstance(region, Mask):
        part = crop_mask(region)
        return part.x, part.y, part.x + part.pixels.shape[1] - 1, part.y + part.pixels.shape[0] - 1
    if isinstance(region, Rectangle):
        numbers = np.array([region.x, region.y, region.w, region.h]).clip(-FAR, FAR).astype(np.float32)
        x, y, w, h = (int(v) for v in np.rint(numbers))
        return x, y, x + w - 1, y + h - 1
    shape = _corners([region], raster)
    (x0, y0), (x1, y1) = np.clip(shape.low[0], -FAR, FAR), np.clip(shape.high[0], -FAR, FAR)
    return int(x0), int(y0), int(x1), int(y1)


def _pixels(region: Region, window: tuple[int, int, int, int], raster: Raster) -> npt.NDArray[np.bool_]:
    """The region's pixels inside a window x, y, width, height -> (height, width) bool."""
    x, y, width, height = window
    out = np.zeros((height, width), dtype=bool)
    if isinstance(region, Polygon):
        corners = _corners([region], raster).corners - np.array([x, y], dtype=np.float64)
        columns = np.arange(width)
        for start, end in _runs(corners, np.array([width], dtype=np.int32), np.array([height]), raster):
            out |= (start[:, None] <= columns) & (columns <= end[:, None])
        return out
    if isinstance(region, Mask):
        x0, y0 = region.x, region.y
        x1, y1 = x0 + region.pixels.shape[1] - 1, y0 + region.pixels.shape[0] - 1
    else:
        x0, y0, x1, y1 = _extent(region, raster)
    left, right = max(x0, x), min(x1 + 1, x + width)
    top, bottom = max(y0, y), min(y1 + 1, y + height)
    if left < right and top < bottom:
        part = region.pixels[top - y0 : bottom - y0, left - x0 : right - x0] if isinstance(region, Mask) else True
        out[top - y : bottom - y, left - x : right - x] = part
    return out
