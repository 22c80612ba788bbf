"""Curves of one-pass evaluation from arrays: all sequences of a tracker at once, under any :class:`OPERule`.

The ground truth is prepared once (:func:`prepare`) and serves any number of trackers (:func:`measure`). Frames are worked on
in blocks that stay in the cache; within a block every frame gets the number of the first threshold that it meets, those
numbers are counted per sequence, and running sums of the counts are the curves. The operations on boxes keep the toolkits'
order in float64, because rounding decides ties (spec/evaluation.md §1). Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .rules import OPERule

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BLOCK = 8192  # frames: 30 arrays of that size fit a core's cache
_EPS = float(np.finfo(np.float64).eps)
_TINY = 1e-16


@dataclass(frozen=True, eq=False)
class _Block:
    """Some sequences of the ground truth, frames side by side."""

    first: int
    """Number of its first sequence."""
    last: int
    """Number behind its last sequence."""
    offsets: Ints
    """(S + 1,) first frame of each sequence, counted in the block."""
    row: Array
    """(n,) which sequence of the block a frame belongs to."""
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
    """(2, n) the centre divided by it."""
    has_nan: Bools
    """(n,) ground truth with a nan."""
    in_denominator: Bools
    """(n,)."""
    usual: bool
    """All boxes in use have an area, so nothing is undefined."""
    miss: Ints
    """Frames whose overlap never counts."""
    never: tuple[Ints, Ints]
    """Frames that are never precise: by centre error, by normalised error."""
    always: tuple[Ints, Ints]
    """Frames that are always precise."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of a data set, prepared for one rule."""

    rule: OPERule
    names: tuple[str, ...]
    lengths: Ints
    """(S,) frames of each sequence."""
    counted: Ints
    """(S,) frames in the denominator."""
    valid: Bools
    """(N,) frames with a valid ground truth, all sequences one after another."""
    scored: Bools
    """(N,) frames that belong to the sequence under this rule (no excluded first frames, no removed nan)."""
    blocks: tuple[_Block, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Measured:
    """One tracker's curves. S sequences; counts are frames."""

    success: Array
    """(S, 21) frames above each overlap threshold."""
    precision: Array
    """(S, 51) or (S, 21) frames within each centre error."""
    norm: Array
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
    seen = [_flags(n, len(b), v) for n, b, v in zip(names, truth, visible or [None] * len(truth), strict=True)]
    lengths = np.array([len(b) for b in truth], dtype=np.int64)
    blocks, valids, scoreds, counts = [], [], [], []
    for first, last in _spans(lengths):
        block, valid, scored, counted = _block(rule, first, truth[first:last], seen[first:last])
        blocks.append(block)
        valids.append(valid)
        scoreds.append(scored)
        counts.append(counted)
    none = np.zeros(0, bool)
    return Truth(
        rule,
        tuple(names),
        lengths,
        np.concatenate(counts) if counts else np.zeros(0, np.int64),
        np.concatenate(valids) if valids else none,
        np.concatenate(scoreds) if scoreds else none,
        tuple(blocks),
    )


def _truth_boxes(rule: OPERule, name: str, boxes: npt.ArrayLike) -> Array:
    truth = np.asarray(boxes, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != 4 or len(truth) == 0:
        raise InputError(f"{name}: the ground truth has shape {truth.shape}; give (N, 4) xywh, one row per frame")
    if rule.nan_truth == "refuse" and np.isnan(truth).any():
        frame = int(np.flatnonzero(np.isnan(truth).any(axis=1))[0])
        raise InputError(
            f"{name}: the ground truth of frame {frame} holds a nan, which rule {rule.name!r} accepts for UAV123 only; "
            "choose the rule 'otb', 'uav' or 'present'"
        )
    return np.rint(truth) if rule.storage == "rounded" else truth


def _flags(name: str, length: int, visible: npt.ArrayLike | None) -> Bools:
    if visible is None:
        return np.ones(length, bool)
    seen = np.asarray(visible, dtype=bool)
    if seen.shape != (length,):
        raise InputError(f"{name}: the visibility flags have shape {seen.shape}; give ({length},), one per frame")
    return seen


def _spans(lengths: Ints) -> Iterator[tuple[int, int]]:
    """Groups of sequences of about one block each."""
    first, frames = 0, 0
    for i, length in enumerate(lengths):
        if frames and frames + length > _BLOCK:
            yield first, i
            first, frames = i, 0
        frames += int(length)
    if frames:
        yield first, len(lengths)


def _block(rule: OPERule, first: int, boxes: list[Array], seen: list[Bools]) -> tuple[_Block, Bools, Bools, Ints]:
    lengths = np.array([len(b) for b in boxes])
    offsets = np.concatenate(([0], np.cumsum(lengths)))  # (S + 1,)
    box = np.concatenate(boxes).T.copy()  # (4, n)
    visible = np.concatenate(seen)  # (n,)
    has_nan = np.isnan(box).any(axis=0)
    positive = (box > 0).all(axis=0)
    valid = (positive if rule.valid == "positive" else ~has_nan) & (visible | (rule.absent not in ("invalid", "wrong")))
    scored = ~has_nan if rule.nan_truth == "removed" else np.ones(len(valid), bool)
    if rule.first_frame == "excluded":
        scored[offsets[:-1]] = False
    dropped = ~scored
    if rule.absent == "left_out":
        dropped |= ~visible
    size = box[2:]
    norm = {"size": size.copy(), "size_plus_tiny": size + _TINY, "at_least_one": np.maximum(size, 1)}[rule.norm_by]
    centre = box[:2] + 0.5 * (size - 1 if rule.centre == "inclusive" else size)
    with np.errstate(divide="ignore", invalid="ignore"):
        norm_centre = centre / norm
        if rule.centre_valid == "centre":
            known = ((centre > 0).all(axis=0), (norm_centre > 0).all(axis=0))
        else:
            known = (valid, valid)
    right = (rule.invalid_precision == "right", rule.invalid_norm == "right")
    wrong = rule.absent == "wrong"
    never = tuple(dropped | (~k & (not r)) | (~visible & wrong) for k, r in zip(known, right, strict=True))
    always = tuple(~k & r & ~n for k, r, n in zip(known, right, never, strict=True))
    unused = ~valid & ~known[0] & ~known[1]
    for numbers in (box, norm, centre, norm_centre):
        numbers[:, unused | has_nan] = 1.0
    in_denominator = scored & valid if rule.denominator == "valid" else scored
    block = _Block(
        first,
        first + len(boxes),
        offsets,
        np.repeat(np.arange(len(boxes), dtype=np.float64), lengths),
        box,
        box[:2] + box[2:] - (1.0 if rule.overlap == "inclusive" else 0.0),
        box[2] * box[3],
        centre,
        norm,
        norm_centre,
        has_nan,
        in_denominator,
        bool((box[2:] > 0).all()),
        np.flatnonzero(~valid | dropped),
        (np.flatnonzero(never[0]), np.flatnonzero(never[1])),
        (np.flatnonzero(always[0]), np.flatnonzero(always[1])),
    )
    return block, valid, scored, np.add.reduceat(in_denominator, offsets[:-1], dtype=np.int64)


# --- predictions --------------------------------------------------------------------------------------------------------


def measure(truth: Truth, predictions: Sequence[npt.ArrayLike], *, keep_per_frame: bool = False) -> Measured:
    """Curves of one tracker.

    ``predictions[i]``: (N_i, 4) xywh of sequence ``truth.names[i]``, as the tracker wrote them. Raises
    :class:`InputError`, which names the sequence and the frame, for what the rule refuses.
    """
    rule, sequences = truth.rule, len(truth.names)
    if len(predictions) != sequences:
        raise InputError(f"there are predictions for {len(predictions)} sequences and ground truth for {sequences}")
    thresholds = (rule.success_thresholds(), rule.precision_thresholds(), rule.norm_thresholds())
    counts = [np.zeros((sequences, len(t) + 1)) for t in thresholds]
    counted, sums, tracked = truth.counted.copy(), np.zeros(sequences), np.zeros(sequences, dtype=np.int64)
    kept: list[tuple[Array, Array, Array]] = []
    repaired = padded = cut = 0
    work = _Work(max((len(b.row) for b in truth.blocks), default=0))
    for block in truth.blocks:
        names = truth.names[block.first : block.last]
        box, usual, ends, fixed = _load(rule, block, names, predictions[block.first : block.last], work)
        repaired += fixed
        lengths = np.diff(block.offsets)
        padded += int(np.maximum(lengths - ends, 0).sum())
        cut += int(np.maximum(ends - lengths, 0).sum())
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            overlap = _overlaps(rule, block, box, work)
            centre, norm = _errors(rule, block, box, work)
        if not usual:
            _settle(rule, box, overlap, centre, norm)
        here = slice(block.first, block.last)
        miss, never, always = block.miss, block.never, block.always
        if rule.short_results == "cut_truth" and (ends < lengths).any():
            late = np.flatnonzero(np.arange(len(block.row)) >= np.repeat(block.offsets[:-1] + ends, lengths))
            miss, never = np.union1d(miss, late), (np.union1d(never[0], late), np.union1d(never[1], late))
            uncounted = late[block.in_denominator[late]]
            counted[here] -= np.bincount(block.row[uncounted].astype(np.int64), minlength=len(lengths))
        overlap[miss] = 0.0
        sums[here] = np.add.reduceat(overlap, block.offsets[:-1])
        tracked[here] = lengths - np.bincount(block.row[miss].astype(np.int64), minlength=len(lengths))
        overlap[miss] = -1.0
        for error, off, on in zip((centre, norm), never, always, strict=True):
            error[off], error[on] = np.inf, -1.0
        for values, grid, into in zip((overlap, centre, norm), thresholds, counts, strict=True):
            into[here] = _histogram(values, grid, block, values is overlap and not rule.strict, work)
        if keep_per_frame:
            kept.append((overlap.copy(), centre.copy(), norm.copy()))
    success = counts[0][:, :0:-1].cumsum(axis=1)[:, ::-1]  # (S, 21): frames that lie above threshold k
    precision, norm_precision = (c[:, :-1].cumsum(axis=1) for c in counts[1:])
    with np.errstate(invalid="ignore"):
        mean = sums / tracked
    measured = Measured(success, precision, norm_precision, counted, mean, repaired=repaired, padded=padded, cut=cut)
    if not kept:
        return measured
    frames = [np.where(truth.scored, np.concatenate(part), np.nan) for part in zip(*kept, strict=True)]
    return replace(measured, overlap=frames[0], centre_error=frames[1], norm_error=frames[2])


class _Work:
    """Arrays that are written over in every block: making new ones costs more than filling them."""

    def __init__(self, frames: int) -> None:
        self._rows = np.empty((16, frames))
        self._index = np.empty(frames, np.intp)

    def rows(self, first: int, count: int, frames: int) -> Array:
        return self._rows[first : first + count, :frames]

    def index(self, frames: int) -> npt.NDArray[np.intp]:
        return self._index[:frames]


def _load(
    rule: OPERule, block: _Block, names: Sequence[str], predictions: Sequence[npt.ArrayLike], work: _Work
) -> tuple[Array, bool, Ints, int]:
    """(4, n) boxes of a block as the rule sees them, whether all are finite with an area, rows per file, rows repaired."""
    box = work.rows(0, 4, len(block.row))
    ends = np.zeros(len(names), np.int64)
    for i, (name, given) in enumerate(zip(names, predictions, strict=True)):
        start, stop = block.offsets[i], block.offsets[i + 1]
        rows = np.asarray(given, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 4:
            raise InputError(f"{name}: the predictions have shape {rows.shape}; give (N, 4) xywh, one row per frame")
        ends[i] = len(rows)
        if len(rows) < stop - start:
            if rule.short_results == "refuse":
                raise InputError(
                    f"{name}: {len(rows)} predictions for {stop - start} frames, which rule {rule.name!r} refuses; "
                    "the result file is incomplete: run the sequence again"
                )
            box[:, start + len(rows) : stop] = 0.0
        box[:, start : min(stop, start + len(rows))] = rows[: stop - start].T
    if rule.storage == "truncated":
        np.trunc(box, out=box)
    elif rule.storage == "rounded":
        np.rint(box, out=box)
    repaired = 0
    lengths = np.diff(block.offsets)
    usual = _all_usual(box)
    if not usual and rule.bad_predictions in ("refuse", "previous", "miss"):
        given_rows = np.arange(len(block.row)) < np.repeat(block.offsets[:-1] + np.minimum(ends, lengths), lengths)
        repaired = _repair(rule, block, names, box, given_rows)
    if rule.first_frame == "as_gt":
        starts = block.offsets[:-1]
        box[:, starts] = block.box[:, starts]
    return box, block.usual and (usual or _all_usual(box)), ends, repaired


def _all_usual(box: Array) -> bool:
    """All numbers are finite and all sizes above 0."""
    return bool(box[2:].min() > 0 and np.isfinite(box.sum()))


def _repair(rule: OPERule, block: _Block, names: Sequence[str], box: Array, given: Bools) -> int:
    """Replace bad predictions in place where the rule says so; how many. ``given``: (n,) rows that the files hold."""
    nan = ~np.isfinite(box).all(axis=0)
    if rule.bad_predictions == "refuse":
        wrong = given & (nan | (box[2:] < 0).any(axis=0))
        if wrong.any():
            frame = int(np.flatnonzero(wrong)[0])
            i = int(block.row[frame])
            raise InputError(
                f"{names[i]}: the prediction of frame {frame - int(block.offsets[i])} is "
                f"{tuple(float(v) for v in box[:, frame])}, and rule {rule.name!r} refuses nan and negative sizes; choose "
                "'otb' (repeats the previous box) or 'present' (counts a miss), or correct the file"
            )
        bad = given & (box[2:] == 0).any(axis=0) & ~block.has_nan
    else:
        bad = given & (nan | (box[2:] <= 0).any(axis=0))
    if rule.bad_predictions == "miss":
        return int(bad.sum())
    bad[block.offsets[:-1]] = False  # nothing comes before the first row
    source = np.maximum.accumulate(np.where(bad, 0, np.arange(len(bad))))
    box[:] = box[:, source]
    return int(bad.sum())


def _overlaps(rule: OPERule, block: _Block, box: Array, work: _Work) -> Array:
    """(n,) intersection over union, in the order of operations of spec §1 step 7."""
    n = len(block.row)
    side, low, area = work.rows(4, 2, n), work.rows(6, 2, n), work.rows(8, 1, n)[0]
    corner, size = box[:2], box[2:]
    inclusive = rule.overlap == "inclusive"
    np.add(corner, size, out=side)
    if inclusive:
        side -= 1.0
    np.minimum(side, block.right, out=side)
    np.maximum(corner, block.box[:2], out=low)
    side -= low
    if inclusive:
        side += 1.0
    np.maximum(side, 0.0, out=side)
    np.multiply(size[0], size[1], out=area)
    area += block.area
    overlap = np.multiply(side[0], side[1], out=side[0])
    area -= overlap
    if rule.overlap == "clipped_eps":
        area += _EPS
    overlap /= area
    if rule.overlap in ("clipped", "clipped_eps"):
        np.clip(overlap, 0.0, 1.0, out=overlap)
    return overlap


def _errors(rule: OPERule, block: _Block, box: Array, work: _Work) -> tuple[Array, Array]:
    """(n,) distances of the centres in pixels, and the same after both were divided by the true size."""
    n = len(block.row)
    centre, offset = work.rows(9, 2, n), work.rows(11, 2, n)
    if rule.centre == "inclusive":
        np.subtract(box[2:], 1.0, out=centre)
    else:
        centre[:] = box[2:]
    centre *= 0.5
    centre += box[:2]
    np.subtract(centre, block.centre, out=offset)
    np.square(offset, out=offset)
    error = np.add(offset[0], offset[1], out=work.rows(13, 1, n)[0])
    np.sqrt(error, out=error)
    if rule.norm_what == "difference":
        np.subtract(centre, block.centre, out=offset)
        offset /= block.norm
    else:
        np.divide(centre, block.norm, out=offset)
        offset -= block.norm_centre
    np.square(offset, out=offset)
    normalised = np.add(offset[0], offset[1], out=work.rows(14, 1, n)[0])
    np.sqrt(normalised, out=normalised)
    return error, normalised


def _settle(rule: OPERule, box: Array, overlap: Array, centre: Array, norm: Array) -> None:
    """Boxes with nan or without area, in place: what is undefined is a miss."""
    if rule.bad_predictions == "miss":
        nan = ~np.isfinite(box).all(axis=0)
        overlap[nan | (box[2:] <= 0).any(axis=0)] = 0.0
        centre[nan] = norm[nan] = np.inf
    overlap[np.isnan(overlap)] = -1.0
    centre[np.isnan(centre)] = np.inf
    norm[np.isnan(norm)] = np.inf


def _histogram(values: Array, grid: Array, block: _Block, at_or_above: bool, work: _Work) -> Array:
    """(S, K + 1) how many of a sequence's values have exactly k of the K thresholds below them (or at them: ``at_or_above``).

    The grids are uniform, so a multiplication finds the place; only where that lands within rounding of a threshold is the
    exact place searched.
    """
    n, places = len(values), len(grid) + 1
    scale = (len(grid) - 1) / grid[-1]
    place, distance = work.rows(15, 1, n)[0], work.rows(8, 1, n)[0]
    if scale == 1:  # whole thresholds: nothing is rounded
        np.clip(values, 0.0, places - 0.5, out=place)
        np.ceil(place, out=place)
    else:
        np.multiply(values, scale, out=place)
        np.clip(place, 0.0, places - 0.5, out=place)
        np.rint(place, out=distance)
        distance -= place
        np.abs(distance, out=distance)
        near = np.flatnonzero((distance < 1e-9) & ((place > 0) | at_or_above))
        np.ceil(place, out=place)
        if len(near):
            place[near] = np.searchsorted(grid, values[near], side="right" if at_or_above else "left")
    np.minimum(place, places - 1.0, out=place)
    np.multiply(block.row, float(places), out=distance)
    place += distance
    index = work.index(n)
    np.copyto(index, place, casting="unsafe")
    sequences = len(block.offsets) - 1
    return np.bincount(index, minlength=sequences * places).reshape(sequences, places).astype(np.float64)
