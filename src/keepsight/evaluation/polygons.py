"""Exact areas of polygons and of their intersections: overlap as geometry (rule ``got10k``), not as pixels."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from ..regions import Polygon, Rectangle, Region

Point: TypeAlias = tuple[float, float]


def polygon_overlap(a: Region, b: Region, bounds: tuple[float, float] | None) -> float:
    """Intersection over union of two simple polygons or rectangles, both cut to the image [0, W] x [0, H] first.

    nan for codes and masks. The union gets got10k's epsilon, so two regions without area give 0.
    """
    corners_a, corners_b = corners_of(a), corners_of(b)
    if corners_a is None or corners_b is None:
        return math.nan
    image = [] if bounds is None else [(0.0, 0.0), (bounds[0], 0.0), (bounds[0], bounds[1]), (0.0, bounds[1])]
    area_a, area_b = intersection_area(corners_a, image), intersection_area(corners_b, image)
    inter = intersection_area(corners_a, corners_b, image)
    union = area_a + area_b - inter
    return min(max(inter / (union + float(np.finfo(float).eps)), 0.0), 1.0)


def corners_of(region: Region) -> list[Point] | None:
    """Corners in order; None for codes and masks."""
    if isinstance(region, Rectangle):
        x, y, w, h = region.x, region.y, region.w, region.h
        return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    if isinstance(region, Polygon):
        return [(float(x), float(y)) for x, y in region.points]
    return None


def intersection_area(polygon: list[Point], *others: list[Point]) -> float:
    """Area of the intersection of simple polygons, convex or not; an empty list stands for the whole plane.

    Each polygon is a sum of signed triangles (from its first corner over each of its sides), so the area is a sum over
    tuples of triangles, which are convex and can be cut by one another.
    """
    parts: list[tuple[float, list[Point]]] = _convex_parts(polygon)
    for other in others:
        if other:
            windows = _convex_parts(other)
            parts = [(s * t, cut) for s, part in parts for t, window in windows if (cut := _clip(part, window))]
    return abs(sum(sign * abs(_signed_area(part)) for sign, part in parts))


def _signed_area(points: list[Point]) -> float:
    return 0.5 * sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True))


def _turns(points: list[Point]) -> list[float]:
    """Cross product at each corner: all of one sign in a convex polygon."""
    after, after2 = points[1:] + points[:1], points[2:] + points[:2]
    return [
        (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
        for a, b, c in zip(points, after, after2, strict=True)
    ]


def _convex_parts(points: list[Point]) -> list[tuple[float, list[Point]]]:
    """Convex polygons with positive orientation whose signed sum is the polygon."""
    turns = _turns(points)
    convex_quad = len(points) <= 4 and (min(turns) >= 0 or max(turns) <= 0)
    triangles = [points] if convex_quad else [[points[0], b, c] for b, c in pairwise(points[1:])]
    parts = []
    for part in triangles:
        area = _signed_area(part)
        if area:
            parts.append((1.0, part) if area > 0 else (-1.0, part[::-1]))
    return parts


def _clip(points: list[Point], window: list[Point]) -> list[Point]:
    """The part of a convex polygon inside a convex window (Sutherland and Hodgman 1974), both positively oriented."""
    for (x0, y0), (x1, y1) in zip(window, window[1:] + window[:1], strict=True):
        inside = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in points]  # >= 0: on the inner side
        kept: list[Point] = []
        for k, (x, y) in enumerate(points):
            (px, py), before, now = points[k - 1], inside[k - 1], inside[k]
            if (before < 0) != (now < 0):
                t = before / (before - now)
                kept.append((px + t * (x - px), py + t * (y - py)))
            if now >= 0:
                kept.append((x, y))
        points = kept
        if not points:
            break
    return points
