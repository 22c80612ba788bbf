"""How well boxes agree with ground truth: success, precision, AO, under any of the conventions in ``rules.py``.

For whole data sets, from the result files' boxes to numbers for tables and plots::

    scores = score_ope(dataset.values(), runs, tracker="dimp50", dataset="otb100", rule="pytracking")
    scores.values["AUC"], scores.intervals["AUC"], scores.curves["success"]

and for two arrays at hand, where boxes (x, y, w, h) are read as continuous rectangles and frames whose ground truth holds a
nan (target absent) are left out::

    success_auc(tracked[1:], annotated[1:])      # without the first frame, where the tracker was given the box

The corner's origin cancels, so ground truth that counts pixels from 1 (OTB, VOT) is used as distributed, provided that the
tracker was started with a box of the same file. Needs numpy only, so that benchmarks can use it beside trackers that live in
other environments.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import HiddenTruthError, InputError
from .common import Missing, frames_per_second, listed, with_results
from .one_pass import Measured, measure, prepare
from .rules import OPERule, family, ope_rule
from .scores import Curve, Metric, Scores, SequenceScore
from .statistics import bootstrap_interval

if TYPE_CHECKING:
    from ..datasets.sequence import Sequence
    from .runs import Run

Array = npt.NDArray[np.float64]

# --- two arrays ---------------------------------------------------------------------------------------------------------


def ious(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Array:
    """Intersection over union of each row, (N,) in 0..1; nan where ``gt`` holds a nan (target absent).

    ``pred``, ``gt``: (N, 4) xywh. A prediction that holds a nan or has no area overlaps nothing: 0.
    Raises :class:`InputError` if the shapes are not (N, 4) twice.
    """
    overlap = _two(pred, gt).overlap
    assert overlap is not None
    return overlap


def centre_errors(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Array:
    """Distance of the centres in pixels, (N,); nan where ``gt`` holds a nan, infinite where only ``pred`` does."""
    error = _two(pred, gt).centre_error
    assert error is not None
    return error


def success_auc(pred: npt.ArrayLike, gt: npt.ArrayLike) -> float:
    """Area under the success curve, in 0..1: the mean of its 21 values (a perfect tracker has 20/21, as in the papers).

    ``pred``, ``gt``: (N, 4) xywh; frames with a nan in ``gt`` are left out.
    Raises :class:`InputError` if the shapes differ or no frame is left.

    Example: ``success_auc(tracked[1:], annotated[1:])``
    """
    measured = _present(pred, gt)
    return float((measured.success[0] / measured.counted[0]).mean())


def mean_iou(pred: npt.ArrayLike, gt: npt.ArrayLike) -> float:
    """Mean overlap of the frames where the target is present, in 0..1."""
    return float(_present(pred, gt).mean_overlap[0])


def precision(pred: npt.ArrayLike, gt: npt.ArrayLike, threshold: float = 20.0) -> float:
    """Share of frames, in 0..1, whose centre error is at most ``threshold`` pixels."""
    measured = _present(pred, gt)
    assert measured.centre_error is not None
    return float((measured.centre_error <= threshold).sum() / measured.counted[0])


def _two(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Measured:
    p, g = np.asarray(pred, dtype=np.float64), np.asarray(gt, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 4 or p.shape != g.shape:
        raise InputError(
            f"predictions have shape {p.shape}, ground truth {g.shape}; give (N, 4) twice, one row per frame"
        )
    if len(p) == 0:
        raise InputError("none of 0 frames has ground truth; give (N, 4) boxes, one row per frame")
    rule = replace(ope_rule("present"), first_frame="as_is")
    return measure(prepare(rule, ["the boxes"], [g]), [p], keep_per_frame=True)


def _present(pred: npt.ArrayLike, gt: npt.ArrayLike) -> Measured:
    measured = _two(pred, gt)
    if measured.counted[0] == 0:
        raise InputError(f"none of {len(np.asarray(gt))} frames has ground truth; at least one is needed for a mean")
    return measured


# --- one-pass evaluation of a data set ----------------------------------------------------------------------------------

_CURVES = ("success", "precision", "norm_precision")


def score_ope(
    sequences: Iterable[Sequence],
    runs: Mapping[str, Rows[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str | OPERule = "pytracking",
    missing: Missing = "leave_out",
    keep_per_frame: bool = False,
    confidence: float | None = 0.95,
    seed: int = 0,
) -> Scores:
    """Success, precision and normalised precision of one tracker.

    ``runs[sequence.name]``: its repetitions; curves are averaged over them per sequence, then over sequences. ``rule``: a
    name, applied to ``dataset`` as :func:`ope_rule` says (in joined data sets to each sequence's own), or a rule of your
    own. ``missing``: sequences without result are left out, which a note says, or refused (TrackingNet's rule counts them
    as zeros). ``keep_per_frame``: keep ``overlap``, ``centre_error`` and ``norm_error``, (repetitions, N), of every
    sequence: an overlap of -1 never counts; an error of -1 always and inf never does; nan was not scored. ``confidence``:
    of the bootstrap intervals over sequences, None for none.

    Raises :class:`InputError`, which names sequence and frame, for predictions and ground truth that the rule refuses, for
    hidden ground truth, and if no sequence has a result.
    """
    how = ope_rule(rule, dataset) if isinstance(rule, str) else rule
    found = _find(sequences, runs, dataset, how.name, "zeros" if how.missing == "zeros" else missing)
    own = [_own_rule(rule, dataset, s) if isinstance(rule, str) else rule for s in found.scored]
    rounds = _measure(found, own, keep_per_frame)
    having = found.having()  # (R, S)
    curves = {
        "success": _rates([m.success for m in rounds], rounds, having, how),
        "precision": _rates([m.precision for m in rounds], rounds, having, how),
        "norm_precision": _rates([m.norm for m in rounds], rounds, having, how),
    }  # (S, 21), (S, K), (S, K): shares of frames
    values = _numbers(how, curves)  # (S,) each
    values["mean_overlap"] = _over_rounds(np.stack([m.mean_overlap for m in rounds]), having)
    if how.missing == "zeros":
        values["Coverage"] = _coverage(found)

    def summary(rows: npt.NDArray[np.bool_]) -> dict[str, float]:
        mean = {k: _mean_curve(c[rows], how) for k, c in curves.items()}
        numbers = {k: float(v) for k, v in _numbers(how, mean).items()}
        numbers["mean_overlap"] = _mean(values["mean_overlap"][rows])
        if "Coverage" in values:
            lengths = np.array([len(s.boxes) for s in found.scored])
            numbers["Coverage"] = float(np.average(values["Coverage"][rows], weights=lengths[rows]))
        return numbers

    per_frame = _per_frame(found, rounds, having) if keep_per_frame else {}
    counted = np.stack([m.counted for m in rounds]).max(axis=0)
    return Scores(
        tracker,
        dataset,
        how.name,
        _metrics(how),
        summary(np.ones(len(found.scored), bool)),
        found.parts(values, curves, per_frame, None),
        _data_set_curves(how, {k: _mean_curve(c, how) for k, c in curves.items()}),
        *_by_attribute(found, summary),
        _intervals(values, None, confidence, seed),
        found.repetitions,
        frames_per_second(run for own in found.runs.values() for run in own),
        (*found.notes(), *_ope_notes(how, found, rounds, counted)),
    )


def _own_rule(rule: str, dataset: str, sequence: Sequence) -> OPERule:
    """The rule as it is applied to one sequence: in joined data sets (NUO323) UAV123's keep their own special case."""
    return ope_rule(rule, dataset if family(dataset) != "otb" and "+" not in dataset else sequence.dataset)


def _measure(found: _Found, rules: list[OPERule], keep_per_frame: bool) -> list[Measured]:
    """Every repetition of all scored sequences, those of one rule at a time."""
    rounds: list[list[Measured]] = [[] for _ in range(found.repetitions)]
    boxes = [found.boxes(r) for r in range(found.repetitions)]
    stop = 0
    for how, group in itertools.groupby(rules):
        start, stop = stop, stop + len(list(group))
        part = found.scored[start:stop]
        visible = [None if how.absent == "ignored" else s.annotation.visible for s in part]
        truth = prepare(how, [s.name for s in part], [s.boxes for s in part], visible)
        for done, own in zip(rounds, boxes, strict=True):
            done.append(measure(truth, own[start:stop], keep_per_frame=keep_per_frame))
    return [_joined(parts) for parts in rounds]


def _joined(parts: list[Measured]) -> Measured:
    """The sequences of all ``parts``, one after another."""

    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return sum(values) if isinstance(values[0], int) else None if values[0] is None else np.concatenate(values)

    return Measured(**{f.name: joined(f.name) for f in fields(Measured)})


def _rates(
    counts: list[npt.NDArray[np.int64]], rounds: list[Measured], having: npt.NDArray[np.bool_], how: OPERule
) -> Array:
    """(S, K) shares of frames, averaged over the repetitions that a sequence has; nan where no frame counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = np.stack([c / m.counted[:, None] for c, m in zip(counts, rounds, strict=True)])  # (R, S, K)
    if how.single_precision:
        rates = rates.astype(np.float32).astype(np.float64)
    return _over_rounds(rates, having)


def _over_rounds(values: Array, having: npt.NDArray[np.bool_]) -> Array:
    """(R, S, ...) -> (S, ...): the mean over the repetitions that there are."""
    if having.all():
        return np.asarray(values.mean(axis=0), dtype=np.float64)
    mask = having.reshape(having.shape + (1,) * (values.ndim - 2))
    return np.asarray(np.where(mask, values, 0.0).sum(axis=0) / mask.sum(axis=0), dtype=np.float64)


def _mean_curve(curve: Array, how: OPERule) -> Array:
    """(S, K) -> (K,): the mean over sequences where it is defined."""
    rows = curve[np.isfinite(curve).all(axis=1)]
    if how.drop_zero_curves and (rows.sum(axis=1) > 0).any():
        rows = rows[rows.sum(axis=1) > 0]
    return rows.mean(axis=0) if len(rows) else np.full(curve.shape[1], np.nan)


def _numbers(how: OPERule, curves: Mapping[str, Array]) -> dict[str, Array]:
    """What the tables print, from curves (..., K): one value each, (...)."""
    success, error, norm = (curves[name] for name in _CURVES)
    found = {"AUC": success.mean(axis=-1) if how.success_score == "mean" else _area(success)}
    if how.success_score == "mean":
        found |= {"OP50": success[..., 10], "OP75": success[..., 15]}
    at_20 = (how.error_points - 1) * 2 // 5  # 20 px of 50, 0.20 of 0.5
    found[_precision_name(how)] = error[..., at_20] if how.precision_score == "value" else _area(error)
    found[_norm_name(how)] = {
        "value": lambda: norm[..., at_20],
        "mean": lambda: norm.mean(axis=-1),
        "area": lambda: _area(norm),
    }[how.norm_score]()
    return found


def _area(curve: Array) -> Array:
    """Trapezoid area of (..., K) over 0..1."""
    return np.asarray((curve[..., 1:] + curve[..., :-1]).sum(axis=-1) / (2 * (curve.shape[-1] - 1)))


def _precision_name(how: OPERule) -> str:
    return "P20" if how.precision_score == "value" else "P"


def _norm_name(how: OPERule) -> str:
    return "NP20" if how.norm_score == "value" else "NP"


def _metrics(how: OPERule) -> tuple[Metric, ...]:
    precise = Metric("P20", "Precision (20 px)") if _precision_name(how) == "P20" else Metric("P", "Precision (area)")
    label = {"value": "(0.20)", "mean": "(mean to 0.5)", "area": "(area)"}[how.norm_score]
    norm = Metric(_norm_name(how), f"Normalised precision {label}")
    if how.success_score == "area":
        return Metric("AUC", "Success (area)"), precise, norm, Metric("Coverage", "Coverage")
    return Metric("AUC", "Success (AUC)"), Metric("OP50", "OP50"), Metric("OP75", "OP75"), precise, norm


def _data_set_curves(how: OPERule, mean: Mapping[str, Array]) -> dict[str, Curve]:
    compare = ">" if how.strict else "≥"
    return {
        "success": Curve(
            how.success_thresholds(), mean["success"], "Overlap threshold", f"Share of frames with IoU {compare} threshold", "AUC"
        ),
        "precision": Curve(
            how.precision_thresholds(),
            mean["precision"],
            "Centre error threshold [px]",
            "Share of frames within threshold",
            _precision_name(how),
        ),
        "norm_precision": Curve(
            how.norm_thresholds(),
            mean["norm_precision"],
            "Normalised centre error threshold",
            "Share of frames within threshold",
            _norm_name(how),
        ),
    }  # fmt: skip


def _coverage(found: _Found) -> Array:
    """(S,) share of frames whose rounded numbers sum to more than 0; the first frame holds the true box."""
    shares = []
    for sequence in found.scored:
        per_run = []
        for run in found.runs[sequence.name]:
            rows = np.zeros((len(sequence.boxes), 4))
            rows[: len(run.boxes)] = np.rint(run.boxes[: len(rows)])
            rows[0] = np.rint(sequence.boxes[0])
            per_run.append(float((rows.sum(axis=1) > 0).mean()))
        shares.append(np.mean(per_run) if per_run else float(sequence.boxes[0].sum() > 0) / len(sequence.boxes))
    return np.array(shares)


def _per_frame(found: _Found, rounds: list[Measured], having: npt.NDArray[np.bool_]) -> dict[str, dict[str, Array]]:
    kept: dict[str, dict[str, Array]] = {}
    stop = 0
    for i, sequence in enumerate(found.scored):
        start, stop = stop, stop + len(sequence.boxes)
        here, own = slice(start, stop), np.flatnonzero(having[:, i])
        kept[sequence.name] = {
            part: np.stack([getattr(rounds[r], part)[here] for r in own])
            for part in ("overlap", "centre_error", "norm_error")
        }  # (repetitions, N) each
    return kept


def _ope_notes(how: OPERule, found: _Found, rounds: list[Measured], counted: npt.NDArray[np.int64]) -> list[str]:
    notes = []
    repaired, padded, cut = (sum(getattr(m, what) for m in rounds) for what in ("repaired", "padded", "cut"))
    if repaired:
        done = "count as misses" if how.bad_predictions == "miss" else "were replaced by the box before"
        notes.append(f"{_count(repaired, 'prediction')} without area or with nan {done}")
    if padded:
        done = "those frames are not scored" if how.short_results == "cut_truth" else "those frames count as misses"
        notes.append(f"results end {_count(padded, 'frame')} before their sequences; {done}")
    if cut:
        notes.append(f"{_count(cut, 'prediction')} behind the end of a sequence are not used")
    flagged = [s for s in found.scored if s.annotation.visible is not None]
    if (
        how.absent in ("wrong", "left_out", "removed")
        and family(found.dataset).startswith("lasot")
        and len(flagged) < len(found.scored)
    ):
        notes.append(
            f"{_count(len(found.scored) - len(flagged), 'sequence')} without absence flags: frames without the target that "
            "keep a box count as if it were there"
        )
    undefined = [s.name for s, n in zip(found.scored, counted, strict=True) if n == 0]
    if undefined:
        notes.append(f"{_count(len(undefined), 'sequence')} without any frame to score: {listed(undefined)}")
    return notes


# --- GOT-10k ------------------------------------------------------------------------------------------------------------


def score_got10k(
    sequences: Iterable[Sequence],
    runs: Mapping[str, Rows[Run]],
    *,
    tracker: str,
    dataset: str = "got10k",
    rule: str = "got10k",
    missing: Missing = "leave_out",
    keep_per_frame: bool = False,
    confidence: float | None = 0.95,
    seed: int = 0,
) -> Scores:
    """GOT-10k's AO and SR (spec/evaluation.md §5): all frames of all sequences and repetitions in one pool.

    The first frame is left out, and so are frames whose ``cover`` is 0; both boxes are clipped to the image where its size
    is known. Long sequences weigh more, so intervals resample sequences together with their numbers of frames. ``curves``:
    ``success`` on 101 thresholds. ``per_frame``: ``overlap`` (repetitions, N), nan where a frame is not scored. A note says
    what the annotation lacks. Arguments and errors as in :func:`score_ope`; results shorter than the sequence are refused.
    """
    if rule != "got10k":
        raise InputError(f"score_got10k has one rule, 'got10k', not {rule!r}; score_ope has others")
    found = _find(sequences, runs, dataset, rule, missing)
    frames = [_scored_frames(s, run, r) for s in found.scored for r, run in enumerate(found.runs[s.name])]
    owner = np.repeat(np.arange(len(found.scored)), [len(found.runs[s.name]) for s in found.scored])  # run -> sequence
    pred, truth, keep, limits = (np.concatenate(part) for part in zip(*frames, strict=True))
    overlap = _clipped_overlap(pred, truth, limits)  # (frames of all runs,)
    row = np.repeat(owner, [len(f[0]) for f in frames])
    size = len(found.scored)
    grid = np.linspace(0, 1, 101)
    place = np.searchsorted(grid, overlap[keep], side="left")  # thresholds below
    counts = np.bincount(row[keep] * 102 + place, minlength=size * 102).reshape(size, 102)
    above = counts[:, :0:-1].cumsum(axis=1)[:, ::-1]  # (S, 101)
    scored = counts.sum(axis=1)  # (S,)
    with np.errstate(invalid="ignore", divide="ignore"):
        curve = above / scored[:, None]
        ao = np.bincount(row[keep], weights=overlap[keep], minlength=size) / scored
    values = {"AO": ao, "SR50": curve[:, 50], "SR75": curve[:, 75]}
    weights = scored.astype(np.float64)

    def summary(rows: npt.NDArray[np.bool_]) -> dict[str, float]:
        return {k: _mean(v[rows], weights[rows]) for k, v in values.items()}

    per_frame: dict[str, dict[str, Array]] = {}
    if keep_per_frame:
        parts = np.split(np.where(keep, overlap, np.nan), np.cumsum([len(f[0]) for f in frames])[:-1])
        for i, sequence in enumerate(found.scored):
            rows = [np.concatenate(([np.nan], parts[j])) for j in np.flatnonzero(owner == i)]
            per_frame[sequence.name] = {"overlap": np.stack(rows)}
    notes = _got10k_notes(found, scored)
    return Scores(
        tracker,
        dataset,
        rule,
        (Metric("AO", "AO"), Metric("SR50", "SR 0.50"), Metric("SR75", "SR 0.75")),
        summary(np.ones(size, bool)),
        found.parts(values, {"success": curve}, per_frame, weights),
        {
            "success": Curve(
                grid, above.sum(axis=0) / max(1, scored.sum()), "Overlap threshold", "Share of frames with IoU > threshold", "AO"
            )
        },
        *_by_attribute(found, summary),
        _intervals(values, weights, confidence, seed),
        found.repetitions,
        _toolkit_speed(found),
        (*found.notes(), *notes),
    )  # fmt: skip


def _scored_frames(sequence: Sequence, run: Run, repetition: int) -> tuple[Array, Array, npt.NDArray[np.bool_], Array]:
    """Predictions (n, 4), ground truth (n, 4), whether a frame is scored (n,), image sizes (n, 2), without frame 0."""
    known = sequence.annotation
    pred, truth = np.asarray(run.boxes, dtype=np.float64), known.boxes
    where = f"{sequence.dataset}/{sequence.name}, repetition {repetition + 1}"
    if len(pred) < len(truth):
        raise InputError(
            f"{where}: {len(pred)} predictions for {len(truth)} frames; the result file is incomplete: run it again"
        )
    pred = pred[1 : len(truth)]
    keep = np.ones(len(truth) - 1, bool) if known.cover is None else known.cover[1:] > 0
    for what, rows in (("prediction", pred), ("ground truth", truth[1:])):
        bad = np.flatnonzero(keep & ~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise InputError(
                f"{where}: the {what} of frame {bad[0] + 1} is {tuple(map(float, rows[bad[0]]))}, and GOT-10k's rule has no "
                "place for that; give finite boxes (the last box where the tracker says lost), or choose the rule 'present'"
            )
    limits = np.full(
        (len(pred), 2), np.nan if known.image_size is None else np.array(known.image_size, dtype=np.float64)
    )
    return pred, truth[1:], keep, limits


def _clipped_overlap(pred: Array, truth: Array, limits: Array) -> Array:
    """(n,) IoU of the parts inside the image (n, 2; nan: unknown, not clipped)."""
    p, g = (_inside(boxes, limits) for boxes in (pred, truth))
    side = np.minimum(p[:, :2] + p[:, 2:], g[:, :2] + g[:, 2:]) - np.maximum(p[:, :2], g[:, :2])
    side = np.maximum(side, 0)
    inter = side[:, 0] * side[:, 1]
    union = p[:, 2] * p[:, 3] + g[:, 2] * g[:, 3] - inter
    return np.asarray(np.clip(inter / (union + np.finfo(np.float64).eps), 0, 1), dtype=np.float64)


def _inside(boxes: Array, limits: Array) -> Array:
    known = ~np.isnan(limits[:, :1])
    corner = np.where(known, np.clip(boxes[:, :2], 0, limits), boxes[:, :2])
    size = np.where(known, np.clip(boxes[:, 2:], 0, limits - corner), boxes[:, 2:])
    return np.concatenate((corner, size), axis=1)


def _got10k_notes(found: _Found, scored: npt.NDArray[np.int64]) -> list[str]:
    notes = []
    for what, lacking, effect in (
        (
            "cover labels",
            [s.name for s in found.scored if s.annotation.cover is None],
            "frames where the target is hidden count as failures, which the official rule leaves out",
        ),
        (
            "an image size",
            [s.name for s in found.scored if s.annotation.image_size is None],
            "boxes are not clipped to the image",
        ),
    ):
        if lacking:
            notes.append(f"{_count(len(lacking), 'sequence')} without {what}: {effect}")
    undefined = [s.name for s, n in zip(found.scored, scored, strict=True) if n == 0]
    if undefined:
        notes.append(f"{_count(len(undefined), 'sequence')} without any frame to score: {listed(undefined)}")
    return notes


def _toolkit_speed(found: _Found) -> float | None:
    """Mean over all frames of 1 / time, as the toolkit prints it."""
    times = [run.seconds for s in found.scored for run in found.runs[s.name] if run.seconds is not None]
    if not times:
        return None
    seconds = np.concatenate(times)
    seconds = seconds[seconds > 0]
    return float((1 / seconds).mean()) if len(seconds) else None


# --- shared -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Found:
    """Which sequences are scored, and with what."""

    dataset: str
    sequences: list[Sequence]
    """All that were asked for, in order."""
    scored: list[Sequence]
    """Those that have a result, or all where a missing one counts as zeros."""
    runs: dict[str, list[Run]]
    lost: list[str]
    """Names without result."""
    zeros: bool

    @property
    def repetitions(self) -> int:
        return max(1, *(len(r) for r in self.runs.values()))

    def having(self) -> npt.NDArray[np.bool_]:
        """(R, S) which repetitions there are."""
        counts = np.array([len(self.runs[s.name]) for s in self.scored])
        if self.zeros:
            counts = np.maximum(counts, 1)
        return np.arange(self.repetitions)[:, None] < counts

    def boxes(self, repetition: int) -> list[Array]:
        """(N, 4) for every scored sequence; for those that lack this repetition boxes that nobody looks at."""
        found = []
        for s in self.scored:
            own = self.runs[s.name]
            absent = np.zeros if self.zeros and not own else np.ones
            found.append(own[repetition].boxes if repetition < len(own) else absent((len(s.boxes), 4)))
        return found

    def parts(
        self,
        values: Mapping[str, Array],
        curves: Mapping[str, Array],
        per_frame: Mapping[str, Mapping[str, Array]],
        weights: Array | None,
    ) -> tuple[SequenceScore, ...]:
        """All sequences in order; nan for those without result."""
        place = {s.name: i for i, s in enumerate(self.scored)}
        parts = []
        for s in self.sequences:
            i = place.get(s.name)
            if i is None:
                parts.append(SequenceScore(s.name, len(s.boxes), dict.fromkeys(values, math.nan), lost=True))
                continue
            parts.append(
                SequenceScore(
                    s.name,
                    len(s.boxes),
                    {k: float(v[i]) for k, v in values.items()},
                    {k: c[i] for k, c in curves.items()},
                    per_frame.get(s.name, {}),
                    lost=s.name in self.lost,
                    weight=1.0 if weights is None else float(weights[i]),
                )
            )
        return tuple(parts)

    def notes(self) -> list[str]:
        notes = []
        if self.lost:
            done = "count as zeros" if self.zeros else "are left out"
            notes.append(
                f"{len(self.lost)} of {len(self.sequences)} sequences have no result and {done}: {listed(self.lost)}"
            )
        counts = Counter(len(self.runs[s.name]) for s in self.scored if self.runs[s.name])
        if len(counts) > 1:
            told = ", ".join(f"{_count(n, 'sequence')} with {c}" for c, n in sorted(counts.items()))
            notes.append(f"sequences have different numbers of repetitions: {told}")
        return notes


def _find(
    sequences: Iterable[Sequence],
    runs: Mapping[str, Rows[Run]],
    dataset: str,
    rule: str,
    missing: Literal["leave_out", "refuse", "zeros"],
) -> _Found:
    asked = with_results(sequences, runs, dataset, "leave_out" if missing == "zeros" else missing)
    own = {s.name: list(runs.get(s.name, ())) for s in asked}
    lost = [s.name for s in asked if not own[s.name]]
    scored = asked if missing == "zeros" else [s for s in asked if own[s.name]]
    for s in scored:
        if len(s.boxes) == 1 and any(len(run.boxes) > 1 for run in own[s.name]):
            raise HiddenTruthError(
                f"{dataset}/{s.name}: the ground truth is not public (the annotation has the first frame only), so "
                f"{rule!r} cannot be computed here; write the submission files and send them to the benchmark's server"
            )
    return _Found(dataset, asked, scored, own, lost, missing == "zeros")


def common_sequences(
    sequences: Iterable[Sequence], trackers: Mapping[str, Mapping[str, Rows[Run]]]
) -> tuple[list[Sequence], tuple[str, ...]]:
    """The sequences for which every tracker has a result, and notes on what was dropped because of whom.

    ``trackers[name][sequence.name]``: the runs of each tracker, as the scoring functions take them. Comparing trackers on
    different sets of sequences compares the sets.
    """
    asked = list(sequences)
    lacking = {name: [s.name for s in asked if not runs.get(s.name)] for name, runs in trackers.items()}
    dropped = {sequence for names in lacking.values() for sequence in names}
    notes = tuple(
        f"{_count(len(names), 'sequence')} left out for all trackers because {tracker} has no result: {listed(names)}"
        for tracker, names in lacking.items()
        if names
    )
    return [s for s in asked if s.name not in dropped], notes


def _mean(values: Array, weights: Array | None = None) -> float:
    """Mean of the defined values (S,); nan if there are none."""
    known = np.isfinite(values)
    if not known.any():
        return math.nan
    return float(np.average(values[known], weights=None if weights is None else weights[known]))


def _by_attribute(
    found: _Found, summary: Callable[[npt.NDArray[np.bool_]], dict[str, float]]
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Attribute -> metric -> value over the scored sequences that have it; attribute -> how many they are.

    ``summary``: (S,) which sequences -> their numbers.
    """
    names = sorted({a for s in found.scored for a in s.attributes})
    having = {name: np.array([name in s.attributes for s in found.scored]) for name in names}
    return {name: summary(rows) for name, rows in having.items()}, {n: int(rows.sum()) for n, rows in having.items()}


def _intervals(
    values: Mapping[str, Array], weights: Array | None, confidence: float | None, seed: int
) -> dict[str, tuple[float, float]]:
    if confidence is None:
        return {}
    table = np.column_stack(list(values.values()))  # (S, M)
    known = np.isfinite(table).all(axis=1)
    if known.sum() < 2:
        return {}
    ends = bootstrap_interval(
        table[known], None if weights is None else weights[known], confidence=confidence, seed=seed
    )  # (M, 2)
    return {name: (float(low), float(high)) for name, (low, high) in zip(values, ends, strict=True)}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
