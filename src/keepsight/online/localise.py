"""Score map -> where the target is and how much to trust it: one decision table; spec/dimp-atom.md §7.6."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

NORMAL, HARD_NEGATIVE, UNCERTAIN, NOT_FOUND = "normal", "hard_negative", "uncertain", "not_found"


@dataclass(frozen=True)
class LocalisationConfig:
    """Thresholds of the decision table."""

    score_preprocess: str = "none"
    """``none``, ``softmax`` (probabilities over the map) or ``exp``."""
    advanced: bool = True
    """Run the decision table; otherwise take the maximum as it is."""
    target_not_found: float = 0.25
    """A maximum below this is ``not_found``."""
    uncertain: float = -math.inf
    """A maximum below this is ``uncertain``."""
    hard_sample: float = -math.inf
    """A maximum below this is a ``hard_negative``."""
    distractor: float = 0.8
    """A second peak above this share of the first is a rival for being the target."""
    hard_negative: float = 0.5
    """A second peak above this share of the first makes the frame a ``hard_negative``."""
    neighbourhood_scale: float = 2.2
    """Size of the area around the first peak that is not searched for a second one, in target sizes."""
    displacement_scale: float = 0.8
    """A peak farther from the previous position than this share of half the map's side is far."""
    window: bool = False
    """Multiply the score map with a Hann window."""
    window_hard_negatives: bool = False
    """Find the first peak on windowed, the second on plain scores ('perform_hn_without_windowing'); else no window in the
    advanced table at all (a published quirk)."""
    subcell: bool = False
    """Take peaks, and their scores, between the cells by a parabola on either axis; the published trackers take the cell."""

    def __post_init__(self) -> None:
        if self.score_preprocess not in ("none", "softmax", "exp"):
            raise InputError(f"score_preprocess {self.score_preprocess!r} is unknown; expected none, softmax or exp")


@dataclass(frozen=True)
class Localisation:
    """Outcome of :func:`localise`."""

    translation: tuple[float, float]
    """(row, column) from the crop's centre to the target, in image pixels."""
    flag: str
    """normal, hard_negative, uncertain or not_found."""
    max_score: float
    """Score of the chosen first peak, after preprocessing (and windowing where it applies)."""


def hann_window(size: int, *, centred: bool = True) -> np.ndarray:
    """Hann window of ``size`` cells that is above 0 everywhere: 0.5 (1 - cos(2πi / (size + 1))), i = 1 … size.

    Not ``centred``, its peak is at cell 0 and it falls off around the ends: 0.5 (1 + cos(2πi / (size + 2))), i = 0 … size / 2.
    """
    if centred:
        i = np.arange(1, size + 1)
        return 0.5 * (1 - np.cos(2 * math.pi * i / (size + 1)))
    i = np.arange(size)
    return 0.5 * (1 + np.cos(2 * math.pi * np.minimum(i, size - i) / (size + 2)))


def peak(scores: np.ndarray) -> tuple[float, tuple[int, int]]:
    """Maximum and its (row, column); among equals the smallest column, then the smallest row."""
    col = int(scores.max(axis=0).argmax())
    row = int(scores[:, col].argmax())
    return float(scores[row, col]), (row, col)


def subcell_peak(scores: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Maximum between the cells and its (row, column): :func:`between_cells` at the :func:`peak`."""
    return between_cells(scores, *peak(scores)[1])


def between_cells(scores: np.ndarray, row: int, col: int) -> tuple[float, tuple[float, float]]:
    """Top of the parabolas through a peak's cell and its neighbours, and its (row, column).

    It lies within ±0.5 cells of the peak; along an axis on which the peak is at the border it stays on the cell.
    """

    def top(line: np.ndarray, i: int) -> tuple[float, float]:
        """(offset, gain) along one axis."""
        if not 0 < i < len(line) - 1:
            return 0.0, 0.0
        before, here, after = (float(v) for v in line[i - 1 : i + 2])
        bend = before - 2 * here + after
        offset = (before - after) / (2 * bend) if bend < 0 else 0.0
        return offset, 0.25 * (after - before) * offset

    (dy, gain_y), (dx, gain_x) = top(scores[:, col], row), top(scores[row], col)
    return float(scores[row, col]) + gain_y + gain_x, (row + dy, col + dx)


def localise(
    scores: np.ndarray,
    config: LocalisationConfig,
    *,
    cell: float,
    sample_scale: float,
    sample_pos: Sequence[float],
    previous_pos: Sequence[float],
    target_size: Sequence[float],
    centre: tuple[float, float] | None = None,
    window: np.ndarray | None = None,
) -> Localisation:
    """Apply the decision table to one preprocessed score map.

    ``scores``: (H', W'). ``cell``: crop pixels per score cell, Z / o (o: the map's side without an even filter's extra cell).
    ``sample_scale``: image pixels per crop pixel. ``sample_pos``: centre of the crop, ``previous_pos``: last position of the
    target, both (row, column) in image pixels. ``target_size``: (h, w) in image pixels. ``centre``: the
    map's cell (row, column) at the crop's centre, by default its middle. ``window``: (H', W'), instead of the Hann window.
    """
    height, width = scores.shape
    if centre is None:
        centre = (height - 1) / 2, (width - 1) / 2
    to_image = cell * sample_scale  # image pixels per score cell
    first_map = scores
    if config.window and window is None:
        window = np.outer(hann_window(height), hann_window(width)).astype(scores.dtype)
    if config.window and window is not None and (not config.advanced or config.window_hard_negatives):
        first_map = scores * window
    find = subcell_peak if config.subcell else peak
    m1, (row, col) = find(first_map)
    d1 = row - centre[0], col - centre[1]

    def found(displacement: tuple[float, float], flag: str) -> Localisation:
        return Localisation((displacement[0] * to_image, displacement[1] * to_image), flag, m1)

    if not config.advanced:
        return found(d1, NORMAL)
    if not m1 >= config.target_not_found:  # NaN is no score
        return found(d1, NOT_FOUND)
    if m1 < config.uncertain:
        return found(d1, UNCERTAIN)
    if m1 < config.hard_sample:
        return found(d1, HARD_NEGATIVE)

    # second peak outside the first one's neighbourhood; Python's round is half-to-even, as in the reference
    extent = [config.neighbourhood_scale * size / sample_scale / cell for size in target_size]
    rest = scores.copy()
    rest[
        max(round(row - extent[0] / 2), 0) : max(min(round(row + extent[0] / 2 + 1), height), 0),
        max(round(col - extent[1] / 2), 0) : max(min(round(col + extent[1] / 2 + 1), width), 0),
    ] = 0
    m2, (row2, col2) = find(rest)
    d2 = row2 - centre[0], col2 - centre[1]
    previous = [(p - s) / to_image for p, s in zip(previous_pos, sample_pos, strict=True)]
    if m2 > config.distractor * m1:
        n1 = math.hypot(d1[0] - previous[0], d1[1] - previous[1])
        n2 = math.hypot(d2[0] - previous[0], d2[1] - previous[1])
        limit = config.displacement_scale * math.sqrt(height * width) / 2
        if n2 > limit and n1 < limit:
            return found(d1, HARD_NEGATIVE)
        if n2 < limit and n1 > limit:
            return found(d2, HARD_NEGATIVE)
        return found(d1, UNCERTAIN)
    if m2 > config.hard_negative * m1 and m2 > config.target_not_found:
        return found(d1, HARD_NEGATIVE)
    return found(d1, NORMAL)
