"""Geometry between image, search region and crop, for one target; spec/dimp-atom.md §7.1, 7.4, 7.5.

Positions are pixel-index centres (row, column), sizes (h, w), both in image pixels; the scale is image pixels per crop pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..boxes import Box

Pair = tuple[float, float]


@dataclass(frozen=True)
class View:
    """Where a crop was taken: what is needed to go between crop and image pixels."""

    pos: Pair
    """Centre of the crop in the image, (row, column)."""
    scale: float
    """Image pixels per crop pixel."""
    side: int
    """Side of the square crop in pixels."""

    def to_crop(self, pos: Pair, size: Pair) -> Box:
        """State -> box (x, y, w, h) in crop pixels."""
        h, w = size[0] / self.scale, size[1] / self.scale
        centre_y = (pos[0] - self.pos[0]) / self.scale + (self.side - 1) / 2
        centre_x = (pos[1] - self.pos[1]) / self.scale + (self.side - 1) / 2
        return Box(centre_x - (w - 1) / 2, centre_y - (h - 1) / 2, w, h)

    def to_image(self, box: Sequence[float], half_pixel_bias: bool) -> tuple[Pair, Pair]:
        """Box (x, y, w, h) in crop pixels -> state (position, size).

        ``half_pixel_bias`` keeps quirk Q2: the published inverse takes the centre half a crop pixel farther right and down.
        """
        x, y, w, h = box
        bias = 0.0 if half_pixel_bias else 0.5
        row = (y + h / 2 - bias - (self.side - 1) / 2) * self.scale + self.pos[0]
        col = (x + w / 2 - bias - (self.side - 1) / 2) * self.scale + self.pos[1]
        return (row, col), (h * self.scale, w * self.scale)

    def point_to_image(self, row: float, col: float) -> Pair:
        """Crop pixel coordinates -> image pixel coordinates."""
        half = (self.side - 1) / 2
        return (row - half) * self.scale + self.pos[0], (col - half) * self.scale + self.pos[1]


def initial_scale(size: Pair, search_area_scale: float, side: int) -> float:
    """Image pixels per crop pixel so that the search region is ``search_area_scale`` times the target (geometric mean)."""
    return math.sqrt(size[0] * size[1] * search_area_scale**2) / side


def scale_limits(base_size: Pair, frame_size: tuple[int, int]) -> Pair:
    """Smallest and largest scale: a target of ten pixels, and one as large as the frame (used without overlap predictor)."""
    return max(10 / s for s in base_size), min(f / s for f, s in zip(frame_size, base_size, strict=True))


def clamp_position(pos: Pair, size: Pair, frame_size: tuple[int, int], inside_ratio: float = 0.2) -> Pair:
    """Keep ``inside_ratio`` of the target inside the frame on each axis; §7.5."""
    rows, cols = (
        min(max(p, (inside_ratio - 0.5) * s), f + (0.5 - inside_ratio) * s)
        for p, s, f in zip(pos, size, frame_size, strict=True)
    )
    return rows, cols


def centring_offset(feature_cells: int, filter_size: int, scale: float, side: int) -> float:
    """Shift of the sampling centre that puts the target on a score cell; 0 for all published sizes; §7.5."""
    return ((feature_cells + filter_size) % 2) * scale * side / (2 * feature_cells)
