"""Presence as a calibrated probability: fit it to results on annotated sequences, judge it on sequences it was not fitted to.

Sequences, not frames, are the unit: each has the same weight however long it is, one is held out at a time (or a fold of
them), and intervals are bootstraps over sequences. Fitted to are the sequences in which the event fails somewhere (for
``in-view``: the target is absent); the others are never fitted to and are a second test, of false alarms.

A probability depends on how often the event holds, and no share is right for all videos: it is that of the sequences fitted to,
unless another is asked for, and ``Calibration.with_share`` changes it later (odds are scaled). So probabilities for the share of
the mixed sequences are to be judged on those, and probabilities for the share of all (``share="all"``) on all.

Three numbers are compared: ``own`` (the tracker's presence as it is), ``isotonic`` (pool adjacent violators) and ``logistic``
(Platt's; log-odds of the confidence, never falling). Both maps are smoothed by one frame with and one without the event per
sequence (Platt adds one of each to the whole), for isotonic at the lowest and the highest confidence: no probability is 0 or 1.

    judged = [judge(sequence, runs[sequence.name]) for sequence in dataset.values()]
    study = cross_validate(judged)
    calibration = Calibration("dimp-lite", study.map(study.best), study.share)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets import sequence as datasets
from ..errors import InputError
from ..online.presence import EVENTS, IN_VIEW, IsotonicMap, LogisticMap, ProbabilityMap
from .oxuva import PAPER_THRESHOLD, assess
from .runs import Run

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

OWN = "own"
"""The tracker's own presence."""
METHODS = ("isotonic", "logistic")
MIXED, ALL = "mixed", "all"
"""Whose share of frames with the event probabilities are for, see :func:`cross_validate`."""
MEASURES = ("log_loss", "brier", "ece", "auc", "tpr", "tnr")
"""Names of what :func:`measure` gives, see there."""
BINS = 10
MOST_FOLDS = 20
_SMALLEST = 1e-6  # log loss takes no probability as nearer to 0 or 1


@dataclass(frozen=True, eq=False)
class Judged:
    """The frames of one sequence (all repetitions) in which tracker and truth both say something; M of them."""

    name: str
    confidence: Array
    """(M,) the tracker's presence, finite."""
    truth: Bools
    """(M,) whether the event holds."""
    skipped: int = 0
    """Annotated frames without a confidence."""

    @property
    def is_mixed(self) -> bool:
        """Whether the event fails somewhere: what calibrations are fitted to."""
        return not self.truth.all()


def judge(sequence: datasets.Sequence, runs: Iterable[Run], event: str = IN_VIEW) -> Judged:
    """Annotated frames after the first, as OxUvA's rule takes them (:func:`~.oxuva.assess`).

    ``event``: ``in-view`` or ``on-target`` (in view, and IoU >= 0.5). Raises :class:`InputError` for another one, for hidden or
    broken ground truth, and for infinite confidences.
    """
    if event not in EVENTS:
        raise InputError(f"event is {event!r}; expected one of {', '.join(EVENTS)}")
    parts = [assess(sequence, run) for run in runs]
    score = np.concatenate([p.score for p in parts] or [np.zeros(0)])
    truth = np.concatenate([p.truth for p in parts] or [np.zeros(0, np.bool_)])
    if event != IN_VIEW:
        truth = truth & (np.concatenate([p.overlap for p in parts] or [np.zeros(0)]) >= PAPER_THRESHOLD)
    if np.isinf(score).any():
        raise InputError(
            f"the run on {sequence.dataset}/{sequence.name} has infinite confidences; expected finite ones"
        )
    known = ~np.isnan(score)
    return Judged(f"{sequence.dataset}/{sequence.name}", score[known], truth[known], int((~known).sum()))


# --- fitting ------------------------------------------------------------------------------------------------------------


def fit(judged: Sequence[Judged], method: str) -> ProbabilityMap:
    """A map from confidence to the probability of the event, fitted to all these frames.

    Equal confidences everywhere give a constant. Raises :class:`InputError` if the event holds in all frames or in none.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    judged = [one for one in judged if len(one.truth)]
    truth = np.concatenate([one.truth for one in judged] or [np.zeros(0, np.bool_)])
    if truth.all() or not truth.any():
        what = (
            "there are no frames" if not judged else f"it does in all {len(truth)}" if truth.all() else "it never does"
        )
        raise InputError(
            f"a calibration needs frames in which the event holds and others in which it does not, and {what}; add sequences in "
            "which the target is absent for a while"
        )
    confidence = np.concatenate([one.confidence for one in judged])
    weight = np.concatenate([np.full(len(one.truth), 1 / len(one.truth)) for one in judged])
    added = sum(1 / len(one.truth) for one in judged)
    if method == "isotonic":
        return _isotonic(confidence, truth, weight, added)
    return _logistic(confidence, truth, weight, added)


def _isotonic(confidence: Array, truth: Bools, weight: Array, added: float) -> IsotonicMap:
    """Pool adjacent violators: the rising steps with the least squared error."""
    values, place = np.unique(confidence, return_inverse=True)  # (K,)
    total = np.bincount(place, weight)
    hits = np.bincount(place, weight * truth)
    total[0] += added
    total[-1] += added
    hits[0] += added
    blocks: list[list[float]] = []  # hits, weight, lowest and highest confidence
    for x, h, w in zip(values.tolist(), hits.tolist(), total.tolist(), strict=True):
        blocks.append([h, w, x, x])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            h, w, _, high = blocks.pop()
            blocks[-1] = [blocks[-1][0] + h, blocks[-1][1] + w, blocks[-1][2], high]
    knots = [(x, h / w) for h, w, low, high in blocks for x in dict.fromkeys((low, high))]
    return IsotonicMap(tuple(x for x, _ in knots), tuple(min(p, 1.0) for _, p in knots))


def _logistic(confidence: Array, truth: Bools, weight: Array, added: float) -> LogisticMap:
    """Newton's method on the log loss with Platt's targets; a slope below 0 becomes 0."""
    in_unit = bool(((confidence >= 0) & (confidence <= 1)).all())
    feature = LogisticMap(1.0, 0.0, in_unit).feature(confidence)
    held, failed = float(weight[truth].sum()), float(weight[~truth].sum())
    target = np.where(truth, (held + added) / (held + 2 * added), added / (failed + 2 * added))
    middle, spread = float(np.average(feature, weights=weight)), float(feature.std())
    mean = float(np.average(target, weights=weight))
    level = math.log(mean) - math.log1p(-mean)
    if not spread > 1e-12 * max(1.0, abs(middle)):
        return LogisticMap(0.0, level, in_unit)
    x = np.stack([(feature - middle) / spread, np.ones(len(feature))])  # (2, M)

    def loss(at: Array) -> float:
        z = at @ x
        return float(weight @ (np.logaddexp(0, z) - target * z))

    at = np.array([0.0, level])
    for _ in range(100):
        p = 0.5 + 0.5 * np.tanh(0.5 * (at @ x))
        gradient = x @ (weight * (p - target))  # (2,)
        curvature = (x * (weight * p * (1 - p))) @ x.T + 1e-12 * np.eye(2)
        step, length = np.linalg.solve(curvature, gradient), 1.0
        while loss(at - length * step) > loss(at) and length > 1e-6:
            length /= 2
        at = at - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    if at[0] < 0:
        return LogisticMap(0.0, level, in_unit)
    slope = float(at[0]) / spread
    return LogisticMap(slope, float(at[1]) - slope * middle, in_unit)


# --- judging ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A number and its 95 % bootstrap interval over sequences; nan where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Bin:
    """Frames whose probability lies between ``low`` and ``high``, see :func:`reliability`."""

    low: float
    high: float
    probability: float
    """Mean of what was said."""
    share: Measured
    """Share of frames in which the event held."""
    weight: float
    """Of these frames among all; each sequence counts alike."""
    frames: int
    sequences: int
    """How many have frames here."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """A sequence and what each method says of its frames, without having been fitted to it."""

    judged: Judged
    said: Mapping[str, Array]
    """Method (with ``own``) -> (M,)."""
    fold: int | None = None
    """Which fold held it out; None for sequences that no fit uses."""


@dataclass(frozen=True, eq=False)
class Study:
    """What :func:`cross_validate` found."""

    mixed: tuple[Predicted, ...]
    """Sequences in which the event fails somewhere, each held out."""
    steady: tuple[Predicted, ...]
    """Sequences in which it always holds; by maps fitted to all of ``mixed``."""
    maps: Mapping[str, ProbabilityMap]
    """Method -> the map fitted to all of ``mixed``."""
    share: float
    """Share of frames with the event that ``maps`` assume."""

    @property
    def all(self) -> tuple[Predicted, ...]:
        """``mixed`` and ``steady``."""
        return (*self.mixed, *self.steady)

    @property
    def best(self) -> str:
        """The method of :data:`METHODS` with the least log loss on held-out ``mixed`` sequences."""
        return min(METHODS, key=lambda method: measure(self.mixed, method, draws=0)["log_loss"].value)


def gain(predicted: Sequence[Predicted], method: str) -> float:
    """How much less log loss than the tracker's own presence it has on these sequences; infinite if that is no probability."""
    ours, own = (measure(predicted, name, draws=0)["log_loss"].value for name in (method, OWN))
    return math.inf if math.isnan(own) else own - ours


def cross_validate(judged: Sequence[Judged], folds: int | None = None, share: float | str = MIXED) -> Study:
    """Hold out each sequence in which the event fails (or each of ``folds`` groups of them), fit to the others, predict it.

    ``folds``: None for one per sequence, at most 20. ``share`` of frames with the event that the probabilities are for: a number
    between 0 and 1, ``"mixed"`` (the mean over sequences in which it fails) or ``"all"`` (over all); what is held out counts in
    neither.

    Sequences without usable frames do not count. Raises :class:`InputError` if fewer than two sequences are left to hold out, if
    the rest of a fold cannot be fitted to, for folds below 2 and for another share.
    """
    judged = [one for one in judged if len(one.truth)]
    mixed = [one for one in judged if one.is_mixed]
    if not judged:
        raise InputError(
            "no frame has a confidence, so there is nothing to calibrate; this tracker may not report presence"
        )
    if len(mixed) < 2:
        what = "none does" if not mixed else f"only {mixed[0].name} does"
        raise InputError(
            f"a calibration is judged on sequences that it was not fitted to, so the event must fail (the target be absent) "
            f"in at least two sequences; of these {len(judged)} {what}"
        )
    count = min(len(mixed), MOST_FOLDS) if folds is None else folds
    if not 2 <= count <= len(mixed):
        raise InputError(
            f"folds is {count}; expected 2 to {len(mixed)}, the sequences in which the event fails somewhere"
        )
    if share not in (MIXED, ALL) and (isinstance(share, str) or not 0 < share < 1):
        raise InputError(f"share is {share!r}; expected a number between 0 and 1, {MIXED!r} or {ALL!r}")

    def wanted(rest: Sequence[Judged]) -> float:
        if isinstance(share, str):
            rest = rest if share == ALL else [one for one in rest if one.is_mixed]
            return float(np.mean([one.truth.mean() for one in rest]))
        return share

    def moved(maps: Mapping[str, ProbabilityMap], out: Sequence[Judged]) -> dict[str, ProbabilityMap]:
        """Maps that were fitted without ``out``, for the share that is wanted."""
        rest = [one for one in judged if one not in out]
        fitted = float(np.mean([one.truth.mean() for one in rest if one.is_mixed]))
        by = math.log(wanted(rest) / (1 - wanted(rest))) - math.log(fitted / (1 - fitted))
        return {method: made.shifted(by) if by else made for method, made in maps.items()}

    held_out: list[Predicted] = []
    for fold in range(count):
        out = [one for i, one in enumerate(mixed) if i % count == fold]
        try:
            maps = {method: fit([one for one in mixed if one not in out], method) for method in METHODS}
        except InputError as error:
            raise InputError(f"{out[0].name} cannot be held out: {error}") from None
        held_out += [_predict(one, moved(maps, out), fold) for one in out]
    maps = {method: fit(mixed, method) for method in METHODS}
    steady = [_predict(one, moved(maps, [one]), None) for one in judged if not one.is_mixed]
    return Study(tuple(held_out), tuple(steady), moved(maps, []), wanted(judged))


def _predict(judged: Judged, maps: Mapping[str, ProbabilityMap], fold: int | None) -> Predicted:
    said = {method: made(judged.confidence) for method, made in maps.items()}
    return Predicted(judged, {OWN: judged.confidence, **said}, fold)


def measure(
    predicted: Sequence[Predicted], method: str, *, bins: int = BINS, draws: int = 2000, seed: int = 0
) -> dict[str, Measured]:
    """How good probabilities are; each sequence has the same weight.

    ``log_loss`` (mean of -ln of what was said of what came, nats), ``brier`` (mean squared error), ``ece`` (expected calibration
    error: mean distance of said and seen over ``bins`` equal bins), ``auc`` (under the ROC curve: the chance that a frame with
    the event has more than one without), ``tpr`` and ``tnr`` at 0.5 (share of frames with the event with at least 0.5, of the
    others below it). nan where not defined: ``auc`` and one of the rates without both kinds of frames; all but ``auc`` if
    something said is no probability. Intervals are percentiles of ``draws`` bootstraps over sequences, 95 %; with a handful of
    sequences they are too narrow. ``draws`` 0, or a single sequence: no intervals.
    """
    table = _Table.of(predicted, method, bins)
    values = {name: float(v[0]) for name, v in table.measures(np.ones((1, len(predicted)))).items()}
    if not draws or len(predicted) < 2:
        return {name: Measured(v) for name, v in values.items()}
    drawn = table.measures(_drawn(len(predicted), draws, seed))
    return {name: Measured(v, *_ends(drawn[name], v)) for name, v in values.items()}


def _drawn(count: int, draws: int, seed: int) -> Array:
    """(draws, count) how often each sequence is drawn."""
    shares = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, shares, draws).astype(np.float64)


def _ends(drawn: Array, value: float) -> tuple[float, float]:
    known = drawn[~np.isnan(drawn)]  # a draw may hold no frame without the event
    if math.isnan(value) or len(known) <= len(drawn) // 2:
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class _Table:
    """Sums over the frames of each of S sequences, weighted so that a sequence has weight 1."""

    log_loss: Array
    """(S,)"""
    brier: Array
    """(S,)"""
    said: Array
    """(S, bins) sum of probabilities."""
    held: Array
    """(S, bins) sum of the event."""
    above: Array
    """(S, S) chance-like sum of i's frames with the event over j's without; ties count half."""
    tp: Array
    """(S,)"""
    tn: Array
    """(S,)"""
    share: Array
    """(S,) of frames with the event."""

    @classmethod
    def of(cls, predicted: Sequence[Predicted], method: str, bins: int) -> _Table:
        said = [one.said[method] for one in predicted]
        truth = [one.judged.truth for one in predicted]
        if not said:
            raise InputError("there are no sequences to judge the probabilities on")
        is_chance = all(((p >= 0) & (p <= 1)).all() for p in said)
        rows = [
            _frame_sums(p if is_chance else np.full(len(p), np.nan), y, bins) for p, y in zip(said, truth, strict=True)
        ]
        lengths = np.array([len(y) for y in truth])
        own = np.concatenate([p[y] for p, y in zip(said, truth, strict=True)])
        whose = np.repeat(np.arange(len(said)), [y.sum() for y in truth])
        order = np.argsort(own)
        own, whose = own[order], whose[order]  # sorted, searching is several times as fast
        above = np.zeros((len(said), len(said)))
        for j in range(len(said)):
            others = np.sort(said[j][~truth[j]])
            if len(others):
                below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
                above[:, j] = np.bincount(whose, below, len(said)) / 2 / lengths / lengths[j]
        stacked = [np.array(column) for column in zip(*rows, strict=True)]
        log_loss, brier, sums, held, tp, tn, share = stacked
        return cls(log_loss, brier, sums, held, above, tp, tn, share)

    def measures(self, counts: Array) -> dict[str, Array]:
        """(B,) each, for (B, S) how often each sequence counts."""
        total = counts.sum(axis=1)
        held, failed = counts @ self.share, counts @ (1 - self.share)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "log_loss": counts @ self.log_loss / total,
                "brier": counts @ self.brier / total,
                "ece": np.abs(counts @ (self.said - self.held)).sum(axis=1) / total,
                "auc": np.einsum("bi,ij,bj->b", counts, self.above, counts) / (held * failed),
                "tpr": counts @ self.tp / held,
                "tnr": counts @ self.tn / failed,
            }


def _frame_sums(said: Array, truth: Bools, bins: int) -> tuple[float | Array, ...]:
    """One row of :class:`_Table`. If ``said`` is nan: everything is, but the event's sum."""
    p = np.clip(said, _SMALLEST, 1 - _SMALLEST)
    log_loss = -np.log(np.where(truth, p, 1 - p)).mean()
    place = _places(said, bins)
    n = len(truth)
    missing = math.nan if np.isnan(said).any() else 0.0
    return (
        float(log_loss),
        float(((said - truth) ** 2).mean()),
        np.bincount(place, said, bins) / n,
        np.bincount(place, truth, bins) / n,
        float((truth & (said >= 0.5)).sum()) / n + missing,
        float((~truth & (said < 0.5)).sum()) / n + missing,
        float(truth.mean()),
    )


def _places(said: Array, bins: int) -> npt.NDArray[np.int64]:
    """Bin of each frame; 1 is in the last."""
    return np.minimum(np.nan_to_num(said) * bins, bins - 1).astype(np.int64)


def reliability(
    predicted: Sequence[Predicted], method: str, *, bins: int = BINS, draws: int = 2000, seed: int = 0
) -> list[Bin]:
    """What was said against what was seen, in ``bins`` equal bins from 0 to 1, empty ones left out.

    Each sequence weighs the same. Intervals as in :func:`measure`. Raises :class:`InputError` if something is no probability.
    """
    table = _Table.of(predicted, method, bins)
    if np.isnan(table.log_loss).any():
        raise InputError(f"what {method!r} says is not always between 0 and 1, so it is no probability")
    places = [_places(one.said[method], bins) for one in predicted]
    frames = np.array([np.bincount(place, minlength=bins) for place in places])  # (S, bins)
    weight = np.array([np.bincount(place, minlength=bins) / len(place) for place in places])
    counts = _drawn(len(predicted), max(draws, 1), seed)
    found = []
    for k in np.flatnonzero(frames.sum(axis=0)):
        share = float(table.held[:, k].sum() / weight[:, k].sum())
        with np.errstate(invalid="ignore"):
            drawn = counts @ table.held[:, k] / (counts @ weight[:, k])
        ends = _ends(drawn, share) if draws and len(predicted) > 1 else (math.nan, math.nan)
        found.append(
            Bin(
                low=k / bins,
                high=(k + 1) / bins,
                probability=float(table.said[:, k].sum() / weight[:, k].sum()),
                share=Measured(share, *ends),
                weight=float(weight[:, k].sum() / len(predicted)),
                frames=int(frames[:, k].sum()),
                sequences=int((frames[:, k] > 0).sum()),
            )
        )
    return found


def roc(predicted: Sequence[Predicted], method: str) -> tuple[Array, Array, Array]:
    """False and true positive rates and the thresholds (said at least) that give them, from (0, 0) to (1, 1); each sequence
    weighs the same. Empty if all frames are of one kind."""
    said = np.concatenate([one.said[method] for one in predicted])
    truth = np.concatenate([one.judged.truth for one in predicted])
    if truth.all() or not truth.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    weight = np.concatenate([np.full(len(one.judged.truth), 1 / len(one.judged.truth)) for one in predicted])
    values, place = np.unique(-said, return_inverse=True)
    held = np.append(0, np.cumsum(np.bincount(place, weight * truth)))
    failed = np.append(0, np.cumsum(np.bincount(place, weight * ~truth)))
    return failed / failed[-1], held / held[-1], np.append(np.inf, -values)
