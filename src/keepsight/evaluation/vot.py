"""VOT short-term with re-initialisation, VOT2013 to 2019: accuracy, robustness and expected average overlap.

Two conventions (spec/evaluation.md §6): ``vot-supervised`` is that of the MATLAB toolkit and of pysot, behind every
published number of these years; ``vot-supervised-py`` is that of vot-toolkit 0.9, whose numbers differ.

The rules for later short-term challenges and for long-term tracking are in :mod:`.vot_multistart` and
:mod:`.vot_longterm`; all three are found here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import InputError
from ..regions import Code, Region, Special
from .common import Missing, frames_per_second
from .overlap import OverlapVariant, image_bounds, region_overlap, region_overlaps
from .runs import Run
from .scores import Curve, Metric, Scores, SequenceScore
from .vot_input import Trial, checked_regions, collect, region_codes
from .vot_longterm import score_longterm
from .vot_multistart import score_multistart

__all__ = ["score_longterm", "score_multistart", "score_supervised", "supervised_failed", "supervised_run"]

Array = npt.NDArray[np.float64]
SupervisedRule: TypeAlias = Literal["vot-supervised", "vot-supervised-py"]

EAO_RANGES: Mapping[str, tuple[int, int]] = {
    "vot2016": (108, 371),
    "vot2017": (100, 356),
    "vot2018": (100, 356),
    "vot2019": (46, 291),
}
"""Sequence lengths over which the expected overlap is averaged; derived by VOT from the lengths of its sequences."""
RESTART_AFTER = 5
"""Frames from a failure to the new start."""
BURN_IN = 10
"""Frames from each start on, the start included, that do not count for accuracy."""
SENSITIVITY = 30.0
"""S of vot-toolkit's accuracy-robustness point, exp(-S failures / length)."""


# --- the protocol -------------------------------------------------------------------------------------------------------


def supervised_failed(
    prediction: Region, truth: Region, image_size: tuple[float, float] | None, variant: OverlapVariant = "matlab"
) -> bool:
    """Whether a tracker is stopped here: no overlap left. Frames without ground truth cannot fail."""
    if isinstance(truth, Special):
        return False
    return not region_overlap(prediction, truth, image_size, variant) > 0


def supervised_run(
    start: Callable[[int, Region], None],
    track: Callable[[int], Region],
    truth: tuple[Region, ...],
    image_size: tuple[float, float] | None,
    variant: OverlapVariant = "matlab",
    *,
    restart_after: int = RESTART_AFTER,
) -> list[Region]:
    """Lead a tracker through one sequence: the lines of the result file, codes included.

    ``start(i, region)`` starts it at frame i with the true region, ``track(i)`` gives its answer for frame i. A failure is
    followed by a new start ``restart_after`` frames later, or at the first frame after that with a ground truth.
    """
    lines: list[Region] = [Special(Code.UNKNOWN)] * len(truth)
    next_start = 0
    running = False
    for i, region in enumerate(truth):
        if running:
            answer = track(i)
            lines[i] = answer
            if supervised_failed(answer, region, image_size, variant):
                lines[i] = Special(Code.FAILURE)
                running, next_start = False, i + restart_after
        elif i >= next_start and not isinstance(region, Special):
            start(i, region)
            lines[i] = Special(Code.INITIALISATION)
            running = True
    return lines


# --- scores -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scored:
    """One sequence: R repetitions of N frames."""

    trial: Trial
    codes: npt.NDArray[np.int64]
    """(R, N) code of each line, -1 for a region."""
    accuracy_overlap: Array
    """(R, N) nan where it does not count for accuracy."""
    eao_overlap: Array
    """(R, N)"""

    @property
    def failures(self) -> Array:
        """(N,) mean over repetitions of the failures at each frame."""
        failures: Array = (self.codes == Code.FAILURE).mean(axis=0)
        return failures


def score_supervised(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str = "vot-supervised",
    eao_range: tuple[int, int] | None = None,
    missing: Missing = "refuse",
    keep_per_frame: bool = False,
) -> Scores:
    """Score runs with codes and re-initialisation.

    ``vot-supervised``: ``EAO``; ``A``, mean overlap of all frames (burn-in left out, averaged over repetitions first); ``R``,
    100 x failures / frames; ``lost``, failures (means over repetitions). ``attributes`` has the same per tag of the frames,
    ``empty`` being frames without any. ``vot-supervised-py``: ``EAO``, ``A``, ``R`` = exp(-30 failures / length) and
    ``failures``, mean per sequence, all weighted by length.

    Args:
        runs: repetitions of every sequence, each with N regions or codes that begin with 1.
        eao_range: first and last sequence length of the EAO; by default the data set's year decides. Without one, EAO is
            nan and ``notes`` says so.
        missing: sequences without result are an error, or left out and noted.
        keep_per_frame: keep ``overlap`` (R, N) of every sequence.

    Raises:
        InputError: missing or damaged results, an unknown rule.
    """
    if rule not in ("vot-supervised", "vot-supervised-py"):
        raise InputError(f"rule {rule!r}; expected 'vot-supervised' or 'vot-supervised-py'")
    sequences = list(sequences)
    trials, lost, notes = collect(sequences, runs, dataset, missing)
    matlab = rule == "vot-supervised"
    scored = [_score_trial(t, "pysot" if matlab else "vot") for t in trials]
    eao_range = eao_range or EAO_RANGES.get(dataset)
    curve = _expected_overlap(scored) if matlab else _expected_overlap_py(scored)
    eao, eao_notes = _eao(curve, eao_range, dataset, first=1 if matlab else 0)
    notes += eao_notes
    values, attributes, sizes = _matlab_values(scored) if matlab else _py_values(scored)
    values = {"EAO": eao, **values}
    if matlab:
        for tag in attributes:
            attributes[tag]["EAO"] = _eao(_expected_overlap(scored, tag), eao_range, dataset, first=1)[0]
    parts = {s.trial.name: _sequence_score(s, matlab, keep_per_frame) for s in scored}
    parts |= {s.name: SequenceScore(s.name, len(s), dict.fromkeys(values, np.nan), lost=True) for s in lost}
    x = np.arange(len(curve), dtype=np.float64) + (1.0 if matlab else 0.0)
    return Scores(
        tracker=tracker,
        dataset=dataset,
        rule=rule,
        metrics=_MATLAB_METRICS if matlab else _PY_METRICS,
        values=values,
        sequences=tuple(parts[s.name] for s in sequences),
        curves={"eao": Curve(x, curve, "Sequence length (frames)", "Expected overlap", "EAO")},
        attributes=attributes,
        attribute_sizes=sizes,
        repetitions=max(len(t.runs) for t in trials),
        fps=frames_per_second(run for trial in trials for run in trial.runs),
        notes=tuple(notes),
    )


def _score_trial(trial: Trial, variant: OverlapVariant) -> _Scored:
    count = len(trial.truth)
    lines = [checked_regions(trial, k, count) for k in range(len(trial.runs))]
    codes = np.stack([region_codes(regions) for regions in lines])  # (R, N)
    if not np.isin(codes, (-1, *Code)).all():
        bad = sorted(set(codes[~np.isin(codes, (-1, *Code))].tolist()))
        raise InputError(f"{trial.name}: the result holds codes {bad}; 0, 1 and 2 are known")
    said = [region for regions in lines for region in regions]
    truth = list(trial.truth) * len(lines)

    def overlaps(bounds: tuple[float, float]) -> Array:
        return region_overlaps(said, truth, bounds, variant).reshape(codes.shape)

    inside = overlaps(image_bounds(trial.size, variant))
    # pysot cuts at (W, H) for accuracy, at (W - 1, H - 1) for EAO; vot-toolkit always at the latter
    accuracy = overlaps(trial.size) if variant == "pysot" else inside.copy()
    accuracy[codes >= 0] = np.nan
    for repetition, frame in np.argwhere(codes == Code.INITIALISATION):
        accuracy[repetition, frame : frame + BURN_IN] = np.nan
    return _Scored(trial, codes, accuracy, inside)


def _mean(values: Array, axis: int | None = None) -> Array:
    """Mean of what is not nan; nan where nothing is left."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Array = np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)
    return mean


def _sequence_score(scored: _Scored, matlab: bool, keep_per_frame: bool) -> SequenceScore:
    failures, frames = float(scored.failures.sum()), len(scored.trial.truth)
    if matlab:
        accuracy = float(_mean(_mean(scored.accuracy_overlap, axis=0)))
        values = {"EAO": np.nan, "A": accuracy, "R": 100 * failures / frames, "lost": failures}
    else:
        accuracy = float(_mean(_mean(scored.accuracy_overlap, axis=1)))
        robustness = float(np.exp(-SENSITIVITY * failures / frames))
        values = {"EAO": np.nan, "A": accuracy, "R": robustness, "failures": failures}
    per_frame = {"overlap": scored.eao_overlap} if keep_per_frame else {}
    counted = np.isfinite(scored.accuracy_overlap).any(axis=0).sum() if matlab else frames  # what A is pooled over
    return SequenceScore(scored.trial.name, frames, values, per_frame=per_frame, weight=float(counted))


# --- the rule of the MATLAB toolkit and of pysot ------------------------------------------------------------------------

_MATLAB_METRICS = (
    Metric("EAO", "EAO", factor=1, digits=3),
    Metric("A", "Accuracy", factor=1, digits=3),
    Metric("R", "Robustness", factor=1, digits=3, higher_is_better=False),
    Metric("lost", "Failures", factor=1, digits=1, higher_is_better=False),
)


def _matlab_values(scored: list[_Scored]) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, int]]:
    """A, R and lost over all frames, and A and R over the frames of each tag with the number of those frames."""
    accuracy = np.concatenate([_mean(s.accuracy_overlap, axis=0) for s in scored])  # (all frames,)
    failures = np.concatenate([s.failures for s in scored])

    def values(chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
        lost, frames = float(failures[chosen].sum()), int(chosen.sum())
        return {"A": float(_mean(accuracy[chosen])), "R": 100 * lost / frames if frames else np.nan, "lost": lost}

    tags = {name: np.concatenate([_tagged(s.trial, name) for s in scored]) for name in _tag_names(scored)}
    overall = values(np.ones(len(accuracy), dtype=bool))
    return overall, {t: values(chosen) for t, chosen in tags.items()}, {t: int(c.sum()) for t, c in tags.items()}


def _tag_names(scored: list[_Scored]) -> list[str]:
    """Names of the tags that some frame has, and ``empty``; nothing if there are none."""
    names = {name for s in scored for name, tagged in s.trial.sequence.annotation.tags.items() if np.any(tagged)}
    return [*sorted(names - {"empty"}), "empty"] if names else []


def _tagged(trial: Trial, tag: str | None) -> npt.NDArray[np.bool_]:
    """(N,) frames with a tag; ``empty``: with none; None: all. Tags that a sequence lacks, or whose file is short, are 0."""
    count = len(trial.truth)
    out = np.zeros(count, dtype=bool)
    if tag is None:
        return ~out
    tags = trial.sequence.annotation.tags
    for given in tags.values() if tag == "empty" else [tags[tag]] if tag in tags else []:
        out[: len(given)] |= np.asarray(given, dtype=bool)[:count]
    return ~out if tag == "empty" else out


def _expected_overlap(scored: list[_Scored], tag: str | None = None) -> Array:
    """phi (L,): expected mean overlap of a run of 1, 2, .. L frames, L being the longest sequence; kept in float32.

    Runs are cut where the tracker was started again, both parts having that frame. Parts that ended in a failure go on with
    zeros, others end. A part weighs by its share of tagged frames.
    """
    longest = max(len(s.trial.truth) for s in scored)
    fragments, weights = [], []
    for s in scored:
        tagged, count = _tagged(s.trial, tag), len(s.trial.truth)
        for codes, overlap in zip(s.codes, np.nan_to_num(s.eao_overlap), strict=True):
            cuts = np.flatnonzero(codes == Code.FAILURE) + RESTART_AFTER
            cuts = cuts[cuts <= count]  # a failure in the last frames has no new start
            starts, last_starts_at = [0, *cuts.tolist()], int(cuts[-1]) if len(cuts) else 0
            for first, after in zip(starts, [*cuts.tolist(), None], strict=True):
                stop = count if after is None else after + 1
                length = max(count - last_starts_at, 1) if after is None else after - first + 1
                fragment = np.full(longest, np.nan if after is None else 0.0)
                fragment[: min(stop, count) - first] = overlap[first:stop]
                fragments.append(fragment)
                weights.append(float(tagged[first:stop].sum()) / length / len(s.codes))
    return _phi(np.stack(fragments), np.array(weights)).astype(np.float32).astype(np.float64)


def _phi(fragments: Array, weights: Array) -> Array:
    """(F, L) overlaps, nan behind the end of a fragment -> (L,) weighted mean of their means over frames 2 to k.

    The first frame, a start, counts in no mean; phi of length 1 is 1. nan where no fragment with weight is left.
    """
    known = np.isfinite(fragments)
    sums = np.cumsum(np.where(known, fragments, 0.0)[:, 1:], axis=1)  # (F, L - 1)
    means = sums / np.arange(1, fragments.shape[1])
    weight = weights[:, None] * known[:, 1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate(([1.0], (weight * means).sum(axis=0) / weight.sum(axis=0)))


def _eao(curve: Array, eao_range: tuple[int, int] | None, dataset: str, first: int) -> tuple[float, list[str]]:
    """Mean of the curve over the range, both ends included; ``first`` is the length that ``curve[0]`` belongs to."""
    if eao_range is None:
        known = ", ".join(EAO_RANGES)
        return np.nan, [
            f"no EAO: its range of lengths is known for {known}, not for {dataset!r}; pass eao_range=(low, high)"
        ]
    low, high = eao_range
    if not 1 <= low <= high:
        raise InputError(f"eao_range {eao_range}; expected 1 <= low <= high, in frames")
    part = curve[low - first : high + 1 - first]
    if part.size == 0:
        return np.nan, [f"no EAO: the longest fragment has {len(curve)} frames, the range begins at {low}"]
    notes = []
    if part.size < high + 1 - low:
        notes.append(f"EAO over {low} to {low + part.size - 1} frames only: no fragment is as long as {high}")
    return float(part.mean()), notes


# --- the rule of vot-toolkit 0.9 ----------------------------------------------------------------------------------------

_PY_METRICS = (
    Metric("EAO", "EAO", factor=1, digits=3),
    Metric("A", "Accuracy", factor=1, digits=3),
    Metric("R", "Robustness exp(-30 F/L)", factor=1, digits=3),
    Metric("failures", "Failures per sequence", factor=1, digits=3, higher_is_better=False),
)


def _py_values(scored: list[_Scored]) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, int]]:
    """Sequences weighted by their lengths; this toolkit has no scores by tag."""
    lengths = np.array([len(s.trial.truth) for s in scored], dtype=np.float64)
    accuracy = np.array([_mean(_mean(s.accuracy_overlap, axis=1)) for s in scored])
    failures = np.array([s.failures.sum() for s in scored])
    mean_failures = float(np.average(failures, weights=lengths))
    values = {
        "A": float(np.average(accuracy, weights=lengths)),
        "R": float(np.exp(-SENSITIVITY * mean_failures / lengths.mean())),
        "failures": mean_failures,
    }
    return values, {}, {}


def _expected_overlap_py(scored: list[_Scored]) -> Array:
    """(L,) float32 curve whose index is the number of frames after the start; L is the longest fragment.

    A fragment goes from a start to the frame before the failure, then on with zeros; the last one ends with the sequence.
    """
    fragments: list[tuple[npt.NDArray[np.float32], bool]] = []
    for s in scored:
        for codes, overlap in zip(s.codes, s.eao_overlap.astype(np.float32), strict=True):
            starts, failures = np.flatnonzero(codes == Code.INITIALISATION), np.flatnonzero(codes == Code.FAILURE)
            for start in starts:
                after = failures[failures > start]
                fragments.append((overlap[start : after[0] if len(after) else None], len(after) > 0))
    longest = max(len(overlap) for overlap, _ in fragments)
    table = np.full((len(fragments), longest), np.nan)
    for row, (overlap, ended) in zip(table, fragments, strict=True):
        row[: len(overlap)] = overlap
        if ended:
            row[len(overlap) :] = 0.0
    # the toolkit's own order of float32 sums: the mean of each fragment's first k frames, then fragment by fragment
    known = np.isfinite(table)[:, 1:]  # (F, L - 1)
    kept = np.where(known, table[:, 1:], 0).astype(np.float32)
    means = np.zeros_like(kept)
    for k in range(kept.shape[1]):
        means[:, k] = kept[:, : k + 1].mean(axis=1)
    curve = np.zeros(longest)
    curve[1:] = np.where(known, means, np.float32(0)).sum(axis=0).astype(np.float64) / known.sum(axis=0)
    return curve
