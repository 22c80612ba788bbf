"""Geometry between image, search region and crop, for one target; spec/dimp-atom.md §7.1, 7.4, 7.5.

And the size of the search region while the target is lost; spec/keeptrack-rts-lwl.md §3.5.

Positions are pixel-index centres (row, column), sizes (h, w), both in image pixels; the scale is image pixels per crop pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..boxes import Box
from ..errors import InputError

Pair = tuple[float, float]


@dataclass(frozen=True)
class View:
    """Where a crop was taken: what is needed to go between crop and image pixels."""

    pos: Pair
    """Centre of the crop in the image, (row, column)."""
    scale: float
    """Image pixels per crop pixel."""
    side: int
    """Side of the square crop in pixels, or the width of one that has ``height``."""
    height: int | None = None
    """Height of a crop that is not square."""

    @property
    def middle(self) -> Pair:
        """(row, column) of the crop's centre in crop pixels."""
        return ((self.side if self.height is None else self.height) - 1) / 2, (self.side - 1) / 2

    def to_crop(self, pos: Pair, size: Pair) -> Box:
        """State -> box (x, y, w, h) in crop pixels."""
        h, w = size[0] / self.scale, size[1] / self.scale
        centre_y = (pos[0] - self.pos[0]) / self.scale + self.middle[0]
        centre_x = (pos[1] - self.pos[1]) / self.scale + self.middle[1]
        return Box(centre_x - (w - 1) / 2, centre_y - (h - 1) / 2, w, h)

    def to_image(self, box: Sequence[float], half_pixel_bias: bool) -> tuple[Pair, Pair]:
        """Box (x, y, w, h) in crop pixels -> state (position, size).

        ``half_pixel_bias`` keeps quirk Q2: the published inverse takes the centre half a crop pixel farther right and down.
        """
        x, y, w, h = box
        bias = 0.0 if half_pixel_bias else 0.5
        row = (y + h / 2 - bias - self.middle[0]) * self.scale + self.pos[0]
        col = (x + w / 2 - bias - self.middle[1]) * self.scale + self.pos[1]
        return (row, col), (h * self.scale, w * self.scale)

    def point_to_image(self, row: float, col: float) -> Pair:
        """Crop pixel coordinates -> image pixel coordinates."""
        return (row - self.middle[0]) * self.scale + self.pos[0], (col - self.middle[1]) * self.scale + self.pos[1]

    @property
    def search_area(self) -> Box:
        """(x, y, w, h) from the crop's first to its last pixel, in image pixels; spec/keeptrack-rts-lwl.md §1.3."""
        extent = self.scale * self.side - 1
        return Box(self.pos[1] - extent / 2, self.pos[0] - extent / 2, extent, extent)


def initial_scale(size: Pair, search_area_scale: float, side: float) -> float:
    """Image pixels per crop pixel so that the search region is ``search_area_scale`` times the target (geometric mean).

    ``side`` of the crop in pixels; of one that is not square, the geometric mean of its sides.
    """
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
    """Shift of the sampling centre that puts the target on a score cell; §7.5. Of boxes' trackers, 0 for all published sizes."""
    return ((feature_cells + filter_size) % 2) * scale * side / (2 * feature_cells)


def pulled_inside(
    pos: Pair, scale: float, sample_size: tuple[int, int], frame_size: tuple[int, int]
) -> tuple[float, tuple[int, int]]:
    """Scale and content shift (rows, columns; crop pixels) that bring the first frame's crop into the frame.

    Crops in the mode ``inside_major`` follow the same rule in :func:`~keepsight.images.sample_patch`; this one is for the
    first frame, whose crop is cut from a larger patch; spec/keeptrack-rts-lwl.md §6.1.
    """
    scale /= max(1.0, min(scale * s / f for s, f in zip(sample_size, frame_size, strict=True)))
    shift = []
    for p, s, f in zip(pos, sample_size, frame_size, strict=True):
        size = scale * s
        low, high = p - (size - 1) / 2, p + size / 2 + 1
        shift.append(math.trunc(-(max(0.0, -low) - max(0.0, high - f)) / scale))
    return scale, (shift[0], shift[1])


@dataclass(frozen=True)
class RescaleConfig:
    """How the search region of a lost target grows back: to the mean of the larger regions in which it was last found."""

    horizon: int = 60
    """Scales that are remembered: those of the last frames in which the target was found."""
    fewest: int = 2
    """Of the scales not below the last one, at least this many (the latest) are averaged, ..."""
    most: int = 30
    """... at most this many, and in between as many as frames were lost."""
    inclusive: bool = True
    """Scales equal to the last one take part, so that itself does; otherwise larger ones only."""

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most or self.horizon < 1:
            raise InputError(
                f"scales to average: fewest {self.fewest}, most {self.most}, horizon {self.horizon}; expected 1 <= fewest <= "
                f"most and a horizon of at least 1"
            )

    @classmethod
    def paper(cls) -> RescaleConfig:
        """The paper's values (spec §3.5): larger scales only, up to 30, no horizon; ours of 1000 keeps the memory bounded."""
        return cls(horizon=1000, fewest=1, inclusive=False)


@dataclass
class ScaleHistory:
    """Scales at which the target was found, and for how many frames it has been lost; plain data that a snapshot can save."""

    scales: list[float]
    """Image pixels per crop pixel of the crops, oldest first; at most ``horizon``."""
    lost: int = 0
    """Frames since the target was last found."""

    @classmethod
    def start(cls) -> ScaleHistory:
        """At the first frame: nothing searched yet."""
        return cls([])

    def found(self, scale: float, config: RescaleConfig) -> None:
        """The target was found in a crop of this ``scale`` (before refinement)."""
        self.scales = [*self.scales, scale][-config.horizon :]
        self.lost = 0

    def rescaled(self, scale: float, config: RescaleConfig) -> float:
        """The target was lost in a crop of this ``scale``: the scale of the next crop. Never found yet: the same."""
        if not self.scales:
            return scale
        self.lost += 1
        last = self.scales[-1]
        larger = [s for s in self.scales if s > last or (config.inclusive and s == last)]
        kept = larger[-min(max(self.lost, config.fewest), config.most) :]
        return sum(kept) / len(kept) if kept else scale
