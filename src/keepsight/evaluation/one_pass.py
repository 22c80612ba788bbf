"""Curves of one-pass evaluation from arrays: all sequences of a tracker at once, under any :class:`OPERule`.

The ground truth is checked once (:func:`prepare`) and serves any number of trackers (:func:`measure_all`). Frames are worked
on in blocks that stay near the core; within a block every frame gets the number of the first threshold that it meets, those
numbers are counted per sequence, and running sums of the counts are the curves. The operations on boxes keep the toolkits'
order in float64, because rounding decides ties (spec/evaluation.md §1). Needs numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .rules import OPERule

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 25_000  # frames: fewer make numpy's cost per call felt, more leave the cache
_SEQUENCES = 1_000  # in a block: places are counted in float32, which is exact up to 2**24
_PLACES = (22, 52, 52)  # 21 and 51 thresholds have so many places between and around them
_EPS = float(np.finfo(np.float64).eps)
_TINY = 1e-16
_SMALL = 1e-6  # pixels
_FAR = 1e300  # a centre so far away that every distance to it is infinite


@dataclass(frozen=True, eq=False)
class _Block:
    """Some sequences of the ground truth, frames side by side."""

    first: int
    """Number of its first sequence."""
    last: int
    """Number behind its last sequence."""
    offsets: Ints
    """(S + 1,) first frame of each sequence, counted in the block."""
    lengths: Ints
    """(S,) frames of each sequence."""
    spans: tuple[tuple[int, int], ...]
    """First frame and the one behind the last, of each sequence."""
    base: npt.NDArray[np.float32]
    """(2, n) where the counts of a frame's sequence begin: overlap with centre error, and normalised error."""
    box: Array
    """(4, n) x, y, w, h; 1, 1, 1, 1 where it is not used."""
    right: Array
    """(2, n) x + w and y + h, less 1 for inclusive rules."""
    area: Array
    """(n,)."""
    centre: Array
    """(2, n)."""
    norm: Array
    """(2, n) what errors are divided by."""
    norm_centre: Array
    """(2, n) the centre divided by it. Both are far away where a frame is never precise, and ``area`` is infinite for a miss."""
    is_first: Bools
    """(n,) frames with which trackers start."""
    first_boxes: Array
    """(4, S) the boxes with which trackers start."""
    has_nan: Bools
    """(n,) ground truth with a nan."""
    scored: Bools
    """(n,) frames that belong to the sequence under this rule (no excluded first frames, no removed nan)."""
    in_denominator: Bools
    """(n,) frames that the rates are shares of."""
    counted: Ints
    """(S,) how many these are."""
    usual: bool
    """All boxes in use have an area, and not a tiny one."""
    miss: Ints
    """Frames whose overlap never counts."""
    tracked_frames: Bools
    """(n,) frames whose overlap does."""
    tracked: Ints
    """(S,) how many these are."""
    never: tuple[Ints, Ints]
    """Frames that are never precise, by centre error and by normalised error, where no infinity says so."""
    always: tuple[Ints, Ints]
    """Frames that are always precise."""

    @cached_property
    def row(self) -> Ints:
        """(n,) which sequence of the block a frame belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def per_sequence(self, frames: Ints) -> Ints:
        """(S,) how many of ``frames`` belong to each sequence."""
        return np.bincount(self.row[frames], minlength=len(self.lengths))


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of a data set, prepared for one rule."""

    rule: OPERule
    names: tuple[str, ...]
    lengths: Ints
    """(S,) frames of each sequence."""
    boxes: tuple[Array, ...] = field(repr=False)
    """S times (N, 4)."""
    visible: tuple[Bools | None, ...] = field(repr=False)
    """S times (N,) the data set's own flags; None: all."""

    def blocks(self) -> Iterator[_Block]:
        """The sequences in groups, with everything that can be computed without predictions; each overwrites the last."""
        first, frames, most = 0, 0, int(max(_BLOCK, self.lengths.max(initial=0)))
        space = np.empty((13, most)), np.empty((2, most), np.float32)
        for i, length in enumerate(self.lengths):
            if frames and (frames + length > _BLOCK or i - first == _SEQUENCES):
                yield _block(self, first, i, space)
                first, frames = i, 0
            frames += int(length)
        if frames:
            yield _block(self, first, len(self.lengths), space)


@dataclass(frozen=True, eq=False)
class Measured:
    """One tracker's curves. S sequences; counts are frames."""

    success: Ints
    """(S, 21) frames above each overlap threshold."""
    precision: Ints
    """(S, 51) or (S, 21) frames within each centre error."""
    norm: Ints
    """(S, 51) or (S, 21) frames within each normalised centre error."""
    counted: Ints
    """(S,) the denominator: ``success / counted[:, None]`` are the rates."""
    mean_overlap: Array
    """(S,) mean overlap of the valid frames; nan if there are none."""
    overlap: Array | None = None
    """(N,) if asked for: -1 where it never counts; nan for frames that are not scored."""
    centre_error: Array | None = None
    """(N,) pixels: inf where it is never precise, -1 where it always is; nan for frames that are not scored."""
    norm_error: Array | None = None
    """(N,) likewise."""
    repaired: int = 0
    """Predictions that the rule replaced or counted as misses because they hold a nan or have no area."""
    padded: int = 0
    """Frames without prediction at the ends of sequences."""
    cut: int = 0
    """Predictions behind the ends of sequences."""


# --- ground truth -------------------------------------------------------------------------------------------------------


def prepare(
    rule: OPERule,
    names: Sequence[str],
    boxes: Sequence[npt.ArrayLike],
    visible: Sequence[npt.ArrayLike | None] | None = None,
) -> Truth:
    """Ground truth for :func:`measure`.

    ``boxes[i]``: (N_i, 4) xywh of sequence ``names[i]``; ``visible[i]``: (N_i,) the data set's own flags, or None. Raises
    :class:`InputError`, which names the sequence, for other shapes and for a nan where the rule refuses it.
    """
    truth = [_truth_boxes(rule, n, b) for n, b in zip(names, boxes, strict=True)]
    flags = visible or [None] * len(truth)
    seen = [None if v is None else _flags(n, len(b), v) for n, b, v in zip(names, truth, flags, strict=True)]
    lengths = np.array([len(b) for b in truth], dtype=np.int64)
    return Truth(rule, tuple(names), lengths, tuple(truth), tuple(seen))


def _truth_boxes(rule: OPERule, name: str, boxes: npt.ArrayLike) -> Array:
    truth = np.asarray(boxes, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != 4 or len(truth) == 0:
        raise InputError(f"{name}: the ground truth has shape {truth.shape}; give (N, 4) xywh, one row per frame")
    if rule.nan_truth == "refuse" and not np.isfinite(truth.sum()) and np.isnan(truth).any():
        frame = int(np.flatnonzero(np.isnan(truth).any(axis=1))[0])
        raise InputError(
            f"{name}: the ground truth of frame {frame} holds a nan, which rule {rule.name!r} accepts for UAV123 only; "
            "choose the rule 'otb', 'uav' or 'present'"
        )
    return np.rint(truth) if rule.storage == "rounded" else truth


def _flags(name: str, length: int, visible: npt.ArrayLike) -> Bools:
    seen = np.asarray(visible, dtype=bool)
    if seen.shape != (length,):
        raise InputError(f"{name}: the visibility flags have shape {seen.shape}; give ({length},), one per frame")
    return seen


def _block(truth: Truth, first: int, last: int, space: tuple[Array, npt.NDArray[np.float32]]) -> _Block:
    rule, lengths = truth.rule, truth.lengths[first:last]
    offsets = np.concatenate(([0], np.cumsum(lengths)))  # (S + 1,)
    spans = tuple((int(a), int(b)) for a, b in itertools.pairwise(offsets))
    numbers, base = space[0][:, : offsets[-1]], space[1][:, : offsets[-1]]
    box, right, centre = numbers[:4], numbers[4:6], numbers[6:8]  # (4, n), (2, n), (2, n)
    norm, norm_centre, area = numbers[8:10], numbers[10:12], numbers[12]  # (2, n), (2, n), (n,)
    visible = np.ones(offsets[-1], bool)  # (n,)
    for (start, stop), boxes, seen in zip(spans, truth.boxes[first:last], truth.visible[first:last], strict=True):
        box[:, start:stop] = boxes.T
        if seen is not None:
            visible[start:stop] = seen
    smallest = box.min(axis=0)  # (n,) nan where any of the four is
    has_nan = np.isnan(smallest)
    is_first = np.zeros(len(visible), bool)
    is_first[offsets[:-1]] = True
    valid = smallest > 0 if rule.valid == "positive" else ~has_nan
    if rule.absent in ("invalid", "wrong"):
        valid &= visible
    scored = ~has_nan if rule.nan_truth == "removed" else np.ones(len(valid), bool)
    if rule.absent == "removed":
        scored &= visible
    if rule.first_frame == "excluded":
        scored &= ~is_first
    counting = scored & visible if rule.absent == "left_out" else scored  # may add to the numerators
    size = box[2:]
    if rule.norm_by == "at_least_one":
        np.maximum(size, 1.0, out=norm)
    else:
        np.add(size, _TINY if rule.norm_by == "size_plus_tiny" else 0.0, out=norm)
    np.subtract(size, 1.0 if rule.centre == "inclusive" else 0.0, out=centre)
    centre *= 0.5
    centre += box[:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(centre, norm, out=norm_centre)
    known = [valid, valid]
    if rule.centre_valid == "centre":
        known = [(c > 0).all(axis=0) for c in (centre, norm_centre)]
    never, always = [], []
    for k, invalid in zip(known, (rule.invalid_precision, rule.invalid_norm), strict=True):
        off = ~(counting & k) if invalid == "wrong" else ~counting
        if rule.absent == "wrong":
            off |= ~visible
        never.append(off)
        always.append(np.flatnonzero(~k & ~off))
    miss = ~(valid & counting)
    unused = np.flatnonzero(~(valid | known[0] | known[1]) | has_nan)
    for part in (box, norm, centre, norm_centre):
        part[:, unused] = 1.0
    np.add(box[:2], size, out=right)
    if rule.overlap == "inclusive":
        right -= 1.0
    np.multiply(size[0], size[1], out=area)
    usual, first_boxes = bool(size.min() > _SMALL and np.isfinite(box.sum())), box[:, offsets[:-1]]
    area[miss] = np.inf
    both = never[0] & never[1]
    infinite = [both, both] if rule.norm_what == "difference" else never
    centre[:, np.flatnonzero(infinite[0])] = _FAR
    norm_centre[:, np.flatnonzero(infinite[1])] = _FAR
    pair = _PLACES[0] * _PLACES[1]
    for i, (start, stop) in enumerate(spans):
        base[:, start:stop] = [[pair * i], [pair * len(spans) + _PLACES[2] * i]]
    in_denominator = scored & valid if rule.denominator == "valid" else scored
    return _Block(
        first=first,
        last=last,
        offsets=offsets,
        lengths=lengths,
        spans=spans,
        base=base,
        box=box,
        right=right,
        area=area,
        centre=centre,
        norm=norm,
        norm_centre=norm_centre,
        is_first=is_first,
        first_boxes=first_boxes,
        has_nan=has_nan,
        scored=scored,
        in_denominator=in_denominator,
        counted=np.add.reduceat(in_denominator, offsets[:-1], dtype=np.int64),
        usual=usual,
        miss=np.flatnonzero(miss),
        tracked_frames=~miss,
        tracked=lengths - np.add.reduceat(miss, offsets[:-1], dtype=np.int64),
        never=(np.flatnonzero(never[0] & ~infinite[0]), np.flatnonzero(never[1] & ~infinite[1])),
        always=(always[0], always[1]),
    )


# --- predictions --------------------------------------------------------------------------------------------------------


def measure(truth: Truth, predictions: Sequence[npt.ArrayLike], *, keep_per_frame: bool = False) -> Measured:
    """Curves of one tracker.

    ``predictions[i]``: (N_i, 4) xywh of sequence ``truth.names[i]``, as the tracker wrote them. Raises
    :class:`InputError`, which names the sequence and the frame, for what the rule refuses.
    """
    return measure_all(truth, [predictions], keep_per_frame=keep_per_frame)[0]


def measure_all(
    truth: Truth, trackers: Sequence[Sequence[npt.ArrayLike]], *, keep_per_frame: bool = False
) -> list[Measured]:
    """:func:`measure` of several trackers, block by block, so that the ground truth is in the cache for all of them."""
    sequences = len(truth.names)
    for predictions in trackers:
        if len(predictions) != sequences:
            raise InputError(f"there are predictions for {len(predictions)} sequences and ground truth for {sequences}")
    tallies = [_Tally(truth, keep_per_frame) for _ in trackers]
    work = _Work(int(max(_BLOCK, truth.lengths.max(initial=0))))
    for block in truth.blocks():
        for tally, predictions in zip(tallies, trackers, strict=True):
            tally.add(block, predictions[block.first : block.last], work)
    return [tally.measured() for tally in tallies]


class _Tally:
    """What is known of one tracker so far."""

    def __init__(self, truth: Truth, keep_per_frame: bool) -> None:
        rule, sequences = truth.rule, len(truth.names)
        self.truth, self.rule = truth, rule
        grids = (rule.success_thresholds(), rule.precision_thresholds(), rule.norm_thresholds())
        self.grids = grids
        self.quick = rule.strict and rule.error_points == 51
        self.counts = tuple(np.zeros((sequences, len(grid) + 1), np.int64) for grid in grids)
        self.counted = np.zeros(sequences, np.int64)
        self.sums, self.tracked = np.zeros(sequences), np.zeros(sequences, np.int64)
        self.repaired = self.padded = self.cut = 0
        self.kept: list[tuple[Array, ...]] | None = [] if keep_per_frame else None

    def add(self, block: _Block, predictions: Sequence[npt.ArrayLike], work: _Work) -> None:
        rule, here = self.rule, slice(block.first, block.last)
        names = self.truth.names[here]
        box, ends, bad, usual, repaired = _load(rule, block, names, predictions, work)
        self.repaired += repaired
        usual = usual and block.usual
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            overlap = _overlaps(rule, block, box, work)  # (n,)
            centre, norm = _errors(rule, block, box, work)  # (n,), (n,)
        undefined = block.miss[:0]
        if not usual:
            if rule.bad_predictions == "miss":
                overlap[bad], centre[bad], norm[bad] = 0.0, np.inf, np.inf
            undefined = np.flatnonzero(np.isnan(overlap))  # nan is above no threshold and within none
            overlap[undefined] = overlap[block.miss] = 0.0
            centre[np.isnan(centre)] = np.inf
            norm[np.isnan(norm)] = np.inf
        for error, off, on in ((centre, block.never[0], block.always[0]), (norm, block.never[1], block.always[1])):
            error[off], error[on] = np.inf, 0.0
        self.counted[here], self.tracked[here] = block.counted, block.tracked
        scored, miss = block.scored, block.miss
        if ends is not None:
            behind = self._mind_lengths(block, ends, overlap, centre, norm)
            scored, miss = scored & ~behind, np.union1d(miss, np.flatnonzero(behind))
        self.sums[here] = np.add.reduceat(overlap, block.offsets[:-1])
        if usual and self.quick:
            found = _count(overlap, centre, norm, self.grids, block, work)
        else:
            if not rule.strict:
                overlap[miss] = overlap[undefined] = -1.0  # 0 would reach the first threshold
            sides: tuple[Literal["left", "right"], ...] = ("left" if rule.strict else "right", "left", "left")
            found = [
                _count_carefully(values, grid, block, side)
                for values, grid, side in zip((overlap, centre, norm), self.grids, sides, strict=True)
            ]
        for counts, part in zip(self.counts, found, strict=True):
            counts[here] = part
        if self.kept is not None:
            overlap[block.miss] = centre[block.always[0]] = norm[block.always[1]] = -1.0
            self.kept.append(tuple(np.where(scored, values, np.nan) for values in (overlap, centre, norm)))

    def _mind_lengths(self, block: _Block, ends: Ints, overlap: Array, centre: Array, norm: Array) -> Bools:
        """Results that do not fit their sequences; ``ends``: (S,) rows of each file. Returns (n,) frames to be left out."""
        self.padded += int(np.maximum(block.lengths - ends, 0).sum())
        self.cut += int(np.maximum(ends - block.lengths, 0).sum())
        behind = np.zeros(len(overlap), bool)
        if self.rule.short_results == "cut_truth":
            behind = np.arange(len(overlap)) >= np.repeat(block.offsets[:-1] + ends, block.lengths)
            overlap[behind], centre[behind], norm[behind] = 0.0, np.inf, np.inf
            here = slice(block.first, block.last)
            self.counted[here] -= block.per_sequence(np.flatnonzero(behind & block.in_denominator))
            self.tracked[here] -= block.per_sequence(np.flatnonzero(behind & block.tracked_frames))
        return behind

    def measured(self) -> Measured:
        above = self.counts[0][:, :0:-1].cumsum(axis=1)[:, ::-1]  # (S, 21) frames with more than k thresholds below
        within = [counts[:, :-1].cumsum(axis=1) for counts in self.counts[1:]]  # (S, 51) each
        with np.errstate(invalid="ignore"):
            mean = self.sums / self.tracked
        found = Measured(
            above, within[0], within[1], self.counted, mean, repaired=self.repaired, padded=self.padded, cut=self.cut
        )
        if not self.kept:
            return found
        frames = [np.concatenate(part) for part in zip(*self.kept, strict=True)]
        return replace(found, overlap=frames[0], centre_error=frames[1], norm_error=frames[2])


class _Work:
    """Arrays that are written over in every block: making new ones costs more than filling them."""

    def __init__(self, frames: int) -> None:
        self._rows = np.empty((11, frames))
        self._small = np.empty((6, frames), np.float32)
        self._bools = np.empty((2, frames), bool)
        self._index = np.empty((2, frames), np.int32)
        # numpy compares with an array several times as fast as with a number
        self._zeros = np.zeros((2, frames))
        self._beyond = np.repeat(np.array([[20.5], [50.5], [50.5]], np.float32), frames, axis=1)
        self.sized(frames)

    def sized(self, frames: int) -> None:
        """Views of ``frames`` columns under the names of what they hold."""
        rows = self._rows[:, :frames]
        self.box, self.side, self.low = rows[:4], rows[4:6], rows[6:8]
        self.area, self.error, self.norm = rows[8], rows[9], rows[10]
        self.overlap, self.centre, self.offset = self.side[0], self.low, self.box[:2]  # reused once they are free
        self.scaled = self.box[2]
        self.place, self.whole = self._small[:3, :frames], self._small[3:, :frames]
        self.near, self.positive = self._bools[0, :frames], self._bools[1, :frames]
        self.index = self._index[:, :frames]
        self.zeros, self.beyond = self._zeros[:, :frames], self._beyond[:, :frames]


def _load(
    rule: OPERule, block: _Block, names: Sequence[str], predictions: Sequence[npt.ArrayLike], work: _Work
) -> tuple[Array, Ints | None, Ints, bool, int]:
    """(4, n) boxes of a block as the rule sees them.

    And: the rows of each file, or None if they are as many as the frames; the frames whose box still holds a nan or has no
    area; whether all boxes are usual; how many predictions were bad at first.
    """
    work.sized(len(block.area))
    box, ends = work.box, None
    for i, given in enumerate(predictions):
        start, stop = block.spans[i]
        rows = np.asarray(given, dtype=np.float64)
        if rows.shape != (stop - start, 4):
            if rows.ndim != 2 or rows.shape[1] != 4:
                raise InputError(
                    f"{names[i]}: the predictions have shape {rows.shape}; give (N, 4) xywh, one row per frame"
                )
            if len(rows) < stop - start and rule.short_results == "refuse":
                raise InputError(
                    f"{names[i]}: {len(rows)} predictions for {stop - start} frames, which rule {rule.name!r} refuses; "
                    "the result file is incomplete: run the sequence again"
                )
            ends = block.lengths.copy() if ends is None else ends
            ends[i] = len(rows)
            box[:, start + min(len(rows), stop - start) : stop] = 0.0
            rows = rows[: stop - start]
        box[:, start : start + len(rows)] = rows.T
    if rule.storage == "truncated":
        np.trunc(box, out=box)
    elif rule.storage == "rounded":
        np.rint(box, out=box)
    odd = _frames_below(box, _SMALL)
    bad = odd[_frames_below(box[:, odd], 0.0)] if len(odd) else odd
    repaired = 0
    if len(bad) and rule.bad_predictions != "as_is":
        given = bad
        if ends is not None:  # what was filled in behind a short result is not a prediction
            given = bad[bad < np.repeat(block.offsets[:-1] + ends, block.lengths)[bad]]
        repaired = _repair(rule, block, names, box, given)
    if rule.first_frame == "as_gt":
        box[:, block.offsets[:-1]] = block.first_boxes
    if len(bad):  # look again after the repair
        odd = odd[_frames_below(box[:, odd], _SMALL)]
        bad = odd[_frames_below(box[:, odd], 0.0)]
    return box, ends, bad, len(odd) == 0, repaired


def _frames_below(box: Array, size: float) -> Ints:
    """Numbers of the frames whose box (4, n) has a width or height of at most ``size``, a nan or minus infinity."""
    if box[2:].min(initial=np.inf) > size and box[:2].min(initial=np.inf) > -np.inf:
        return np.zeros(0, np.int64)
    usual = np.minimum(box[2], box[3]) > size
    usual &= np.minimum(box[0], box[1]) > -np.inf
    return np.flatnonzero(~usual)


def _repair(rule: OPERule, block: _Block, names: Sequence[str], box: Array, bad: Ints) -> int:
    """Replace the predictions of frames ``bad`` in place where the rule says so; how many were bad."""
    if rule.bad_predictions == "refuse":
        rows = box[:, bad]
        right = (rows[2:] >= 0).all(axis=0) & (rows[:2] > -np.inf).all(axis=0)
        if not right.all():
            wrong = bad[~right]
            frame, i = int(wrong[0]), int(block.row[wrong[0]])
            raise InputError(
                f"{names[i]}: the prediction of frame {frame - int(block.offsets[i])} is "
                f"{tuple(float(v) for v in box[:, frame])}, and rule {rule.name!r} refuses nan and negative sizes; choose "
                "'otb' (repeats the previous box) or 'present' (counts a miss), or correct the file"
            )
        bad = bad[~block.has_nan[bad]]
    if rule.bad_predictions == "miss":
        return len(bad)
    bad = bad[~block.is_first[bad]]  # nothing comes before a first frame
    follows = bad[1:] - bad[:-1] == 1
    source = bad - 1
    if follows.any():  # runs of neighbours: all take the box before the run
        begins = np.flatnonzero(np.concatenate(([True], ~follows)))
        source = np.repeat(source[begins], np.diff(begins, append=len(bad)))
    box[:, bad] = box[:, source]
    return len(bad)


def _overlaps(rule: OPERule, block: _Block, box: Array, work: _Work) -> Array:
    """(n,) intersection over union, in the order of operations of spec §1 step 7."""
    side, low, area = work.side, work.low, work.area
    corner, size = box[:2], box[2:]
    np.add(corner, size, out=side)
    if rule.overlap == "inclusive":
        side -= 1.0
    np.minimum(side, block.right, out=side)
    np.maximum(corner, block.box[:2], out=low)
    side -= low
    if rule.overlap == "inclusive":
        side += 1.0
    np.maximum(side, work.zeros, out=side)
    np.multiply(size[0], size[1], out=area)
    area += block.area
    overlap = np.multiply(side[0], side[1], out=work.overlap)
    area -= overlap
    if rule.overlap == "clipped_eps":
        area += _EPS
    overlap /= area
    if rule.overlap in ("clipped", "clipped_eps"):
        np.clip(overlap, 0.0, 1.0, out=overlap)
    return overlap


def _errors(rule: OPERule, block: _Block, box: Array, work: _Work) -> tuple[Array, Array]:
    """(n,) distances of the centres in pixels, and the same after both were divided by the true size. Overwrites ``box``."""
    centre, offset = work.centre, work.offset
    if rule.centre == "inclusive":
        np.subtract(box[2:], 1.0, out=centre)
        centre *= 0.5
    else:
        np.multiply(box[2:], 0.5, out=centre)
    centre += box[:2]
    np.subtract(centre, block.centre, out=offset)
    if rule.norm_what == "difference":
        np.divide(offset, block.norm, out=centre)
    else:
        centre /= block.norm
        centre -= block.norm_centre
    offset *= offset
    error = np.add(offset[0], offset[1], out=work.error)
    np.sqrt(error, out=error)
    centre *= centre
    normalised = np.add(centre[0], centre[1], out=work.norm)
    np.sqrt(normalised, out=normalised)
    return error, normalised


def _count(
    overlap: Array, centre: Array, norm: Array, grids: Sequence[Array], block: _Block, work: _Work
) -> list[npt.NDArray[np.intp]]:
    """(S, K + 1) for each of the three: how many of a sequence's values have exactly k of the K thresholds below them.

    For thresholds k / 20, k and k / 100: a multiplication finds the place; only where that is as good as a whole number is
    the exact place searched. Values are finite or +inf, and not negative.
    """
    place, whole = work.place, work.whole  # (3, n) float32, whole numbers wherever float64 is within rounding of one
    for row, values, scale in ((0, overlap, 20.0), (2, norm, 100.0)):
        np.multiply(values, scale, out=work.scaled)
        np.copyto(place[row], work.scaled, casting="same_kind")
    np.ceil(centre, out=work.scaled)  # whole thresholds: nothing is rounded
    np.copyto(place[1], work.scaled, casting="same_kind")
    np.minimum(place, work.beyond, out=place)
    np.ceil(place, out=whole)
    for row, values in ((0, overlap), (2, norm)):
        near = np.equal(place[row], whole[row], out=work.near)
        near &= np.greater(whole[row], 0.0, out=work.positive)  # a value of 0 has no threshold below
        if near.any():
            ties = np.flatnonzero(near)
            whole[row, ties] = np.searchsorted(grids[row], values[ties], side="left")
    # overlap and centre error are counted in pairs: one table for two curves costs less than two
    whole[0] *= _PLACES[1]
    whole[1] += whole[0]
    whole[1:] += block.base
    np.copyto(work.index, whole[1:], casting="unsafe")
    sequences = len(block.lengths)
    pairs = sequences * _PLACES[0] * _PLACES[1]
    counts = np.bincount(work.index.reshape(-1), minlength=pairs + sequences * _PLACES[2])
    table = counts[:pairs].reshape(sequences, *_PLACES[:2])
    return [table.sum(axis=2), table.sum(axis=1), counts[pairs:].reshape(sequences, -1)]


def _count_carefully(values: Array, grid: Array, block: _Block, side: Literal["left", "right"]) -> npt.NDArray[np.intp]:
    """(S, K + 1) as :func:`_count`, of any values and thresholds; ``right`` also counts thresholds that equal the value."""
    sequences, places = len(block.lengths), len(grid) + 1
    index = block.row * places + np.searchsorted(grid, values, side=side)
    return np.bincount(index, minlength=sequences * places).reshape(sequences, places)
