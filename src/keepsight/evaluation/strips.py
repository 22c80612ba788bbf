"""Strips of frames that show where trackers fail: thumbnails with the prediction and the ground truth drawn.

The only part of a report that needs the data set's frames and the runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..draw import LOST_COLOUR, PALETTE, TRUTH_COLOUR, Colour
from ..errors import KeepsightError
from ..regions import Mask, Polygon, Rectangle, Special
from .groups import Group
from .metrics import ious
from .runs import Run
from .scores import Metric, Scores, SequenceScore

if TYPE_CHECKING:
    from ..datasets.sequence import Sequence as Video

PREDICTION_COLOUR: Colour = PALETTE[0]
"""Orange, grey where the tracker says that it has lost the target; the ground truth is white."""
_RIM: Colour = (20, 20, 20)
_LOST = 0.1
"""A tracker that overlaps less than this has lost the target: VOT 2020's bound."""


@dataclass(frozen=True)
class Thumbnail:
    """One frame of a strip."""

    frame: int
    """Index in the sequence, from 0."""
    overlap: float
    """Of prediction and truth as plain rectangles, for the reader's eye; nan where one is absent."""
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """Frames of one sequence with one tracker's answer."""

    tracker: str
    sequence: str
    metric: Metric
    value: float
    """The sequence's score."""
    thumbnails: tuple[Thumbnail, ...]


def worst_sequences(scores: Scores, count: int) -> list[tuple[SequenceScore, Metric]]:
    """The ``count`` sequences with the worst score, the worst first, and the metric that says so.

    That is the first of ``scores.metrics`` which single sequences have (VOT's EAO they have not). Sequences without a
    result are left out.
    """
    for metric in scores.metrics:
        values = [(s.values.get(metric.name, math.nan), s) for s in scores.sequences if not s.lost]
        known = [(v, s) for v, s in values if math.isfinite(v)]
        if known:
            known.sort(key=lambda pair: ((pair[0] if metric.higher_is_better else -pair[0]), pair[1].name))
            return [(s, metric) for _, s in known[:count]]
    return []


def make_strips(
    group: Group,
    dataset: Mapping[str, Video],
    runs: Mapping[str, Mapping[str, Sequence[Run]]],
    *,
    count: int = 3,
    frames: int = 6,
    width: int = 240,
    max_bytes: int = 6_000_000,
) -> tuple[list[Strip], list[str]]:
    """Strips of the ``count`` worst sequences of every tracker, and what could not be shown.

    ``runs``: tracker -> sequence -> repetitions, of which the first is shown. ``frames`` per strip: the first, the last,
    the frames around the longest failure, the rest evenly between. ``width`` of a thumbnail in pixels. ``max_bytes``:
    of all JPEGs together; strips beyond it are left out, and the notes say so.
    """
    strips: list[Strip] = []
    notes: dict[str, None] = {}
    used = 0
    for rank in range(count):  # everyone's worst first, so that a small budget is shared fairly
        for scores in group.scores:
            worst = worst_sequences(scores, count)
            if rank >= len(worst):
                continue
            score, metric = worst[rank]
            found = [r for r in runs.get(scores.tracker, {}).get(score.name, ()) if r.anchor is None]
            if not found or score.name not in dataset:
                continue
            try:
                thumbnails = _thumbnails(dataset[score.name], found[0], frames, width)
            except KeepsightError as error:
                notes[f"{score.name} is not shown: {error}"] = None
                continue
            used += sum(len(t.jpeg) for t in thumbnails)
            if used > max_bytes:
                notes[f"only the worst {len(strips)} are shown, to keep the page small"] = None
                return _by_tracker(strips, group), list(notes)
            strips.append(Strip(scores.tracker, score.name, metric, score.values[metric.name], thumbnails))
    return _by_tracker(strips, group), list(notes)


def _by_tracker(strips: list[Strip], group: Group) -> list[Strip]:
    order = {scores.tracker: i for i, scores in enumerate(group.scores)}
    return sorted(strips, key=lambda strip: order[strip.tracker])  # stable: the worst stays first


def _thumbnails(video: Video, run: Run, frames: int, width: int) -> tuple[Thumbnail, ...]:
    overlaps = _overlaps(video, run)
    return tuple(_thumbnail(video, run, i, overlaps, width) for i in choose_frames(overlaps, frames))


def choose_frames(overlaps: np.ndarray, count: int) -> list[int]:
    """Which ``count`` of N frames to show: first, last, the start of the longest failure and shortly before it, and
    frames spread evenly where the gaps are widest. ``overlaps``: (N,), nan where the target is absent."""
    n = len(overlaps)
    if n <= count:
        return list(range(n))
    chosen = {0, n - 1}
    start = _longest_failure(overlaps)
    if start is not None and count >= 4:
        chosen |= {start, max(0, start - max(1, n // 50))}
    while len(chosen) < count:
        known = sorted(chosen)
        gap = max(range(len(known) - 1), key=lambda i: known[i + 1] - known[i])
        chosen.add((known[gap] + known[gap + 1]) // 2)
    return sorted(chosen)


def _longest_failure(overlaps: np.ndarray) -> int | None:
    """First frame of the longest stretch of frames without the target in the box; absent frames end no stretch."""
    longest, best, start, length = 0, None, 0, 0
    for i, overlap in enumerate(overlaps):
        if math.isnan(overlap):
            continue
        if overlap >= _LOST:
            length = 0
            continue
        if length == 0:
            start = i
        length += 1
        if length > longest:
            longest, best = length, start
    return best


def _overlaps(video: Video, run: Run) -> np.ndarray:
    """(N,) of the frames that the run and the video have; nan without truth. For choosing frames, not for scores."""
    n = min(len(run.boxes), len(video))
    truth = np.full((n, 4), np.nan)
    known = min(n, len(video.boxes))
    truth[:known] = video.boxes[:known]
    return ious(run.boxes[:n], truth)


def _thumbnail(video: Video, run: Run, index: int, overlaps: np.ndarray, width: int) -> Thumbnail:
    import cv2

    frame = video.frames[index]  # (H, W, 3) uint8 RGB
    scale = min(1.0, width / frame.shape[1])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame.copy()
    small = np.ascontiguousarray(small)
    for outline in truth_outlines(video, index):
        _draw(small, outline * scale, TRUTH_COLOUR, 1)
    lost = run.lost is not None and index < len(run.lost) and bool(run.lost[index])
    for outline in predicted_outlines(run, index):
        _draw(small, outline * scale, LOST_COLOUR if lost else PREDICTION_COLOUR, 2)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 72])
    return Thumbnail(index, float(overlaps[index]), data.tobytes(), small.shape[1], small.shape[0])


def truth_outlines(video: Video, index: int) -> list[np.ndarray]:
    """(K, 2) corners of what the data set says about frame ``index``: masks, else the polygon, else the box."""
    annotation = video.annotation
    if annotation.masks is not None and index < len(annotation.masks):
        ids = annotation.masks[index]
        return [] if ids is None else mask_outlines((ids > 0) & (ids < 255))
    if annotation.regions is not None and index < len(annotation.regions):
        return region_outlines(annotation.regions[index])
    if annotation.polygons is not None and index < len(annotation.polygons):
        return _finite(annotation.polygons[index].reshape(-1, 2))
    return _finite(_corners(annotation.boxes[index])) if index < len(annotation.boxes) else []


def predicted_outlines(run: Run, index: int) -> list[np.ndarray]:
    """(K, 2) corners of the tracker's answer in frame ``index``, also where it calls the target lost: most rules count it."""
    if run.masks is not None and index < len(run.masks):
        ids = run.masks[index]
        return [] if ids is None else mask_outlines(ids > 0)
    if run.regions is not None and index < len(run.regions):
        return region_outlines(run.regions[index])
    return _finite(_corners(run.boxes[index])) if index < len(run.boxes) else []


def region_outlines(region: Any) -> list[np.ndarray]:
    """(K, 2) corners of a region; a code has none."""
    if isinstance(region, Special):
        return []
    if isinstance(region, Rectangle):
        return _finite(_corners((region.x, region.y, region.w, region.h)))
    if isinstance(region, Polygon):
        return _finite(np.asarray(region.points, dtype=np.float64))
    if isinstance(region, Mask):
        return [outline + np.array([region.x, region.y]) for outline in mask_outlines(region.pixels)]
    raise TypeError(f"not a region: {type(region).__name__}")


def mask_outlines(pixels: np.ndarray) -> list[np.ndarray]:
    """(K, 2) float64 outlines of the parts of a mask (H, W) bool."""
    import cv2

    found, _ = cv2.findContours(pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [outline.reshape(-1, 2).astype(np.float64) for outline in found]


def _corners(box: Iterable[float]) -> np.ndarray:
    x, y, w, h = (float(v) for v in box)
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])


def _finite(outline: np.ndarray) -> list[np.ndarray]:
    return [outline] if np.isfinite(outline).all() else []


def _draw(image: np.ndarray, outline: np.ndarray, colour: Colour, line: int) -> None:
    """A closed line with a dark rim, so that it is seen on bright and dark ground."""
    import cv2

    points = np.clip(np.round(outline), -10_000, 10_000).astype(np.int32).reshape(-1, 1, 2)
    for shade, thickness in ((_RIM, line + 2), (colour, line)):
        cv2.polylines(image, [points], True, shade, thickness, cv2.LINE_AA)
