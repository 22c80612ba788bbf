"""VOT short-term from anchors, 2020 and later: accuracy, robustness, expected average overlap (spec/evaluation.md §9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import InputError
from .common import Missing, frames_per_second
from .overlap import image_bounds, is_empty, region_overlaps
from .runs import Run
from .scores import Curve, Metric, Scores, SequenceScore
from .vot_input import Trial, checked_regions, collect

Array = npt.NDArray[np.float64]

MULTISTART_RANGE = (115, 755)
"""Run lengths that EAO is averaged over: 115 to 754, as the toolkit's curve has 755 entries from 0 on."""
THRESHOLD = 0.1
"""Overlap at or below which a frame counts as lost."""
GRACE = 10
"""Lost frames in a row that make a failure."""


def anchor_order(anchors: npt.ArrayLike) -> list[tuple[int, int, range]]:
    """(N,) +1, -1, 0 -> (frame of the start, direction, frames in the order they are shown) of every run."""
    values = np.asarray(anchors).astype(int)
    return [
        (int(a), int(values[a]), range(int(a), len(values)) if values[a] > 0 else range(int(a), -1, -1))
        for a in np.flatnonzero(values)
    ]


def failing_frame(
    overlap: Array, has_truth: npt.NDArray[np.bool_], threshold: float = THRESHOLD, grace: int = GRACE
) -> int | None:
    """Index of the first of ``grace`` frames in a row with a truth and an overlap of at most ``threshold``; None: never.

    The start counts as such a frame: its own line is a code, whose overlap is 0.
    """
    lost_in_row = 0
    for i, lost in enumerate((overlap <= threshold) & has_truth):
        lost_in_row = lost_in_row + 1 if lost else 0
        if lost_in_row == grace:
            return i + 1 - grace
    return None


@dataclass(frozen=True, eq=False)
class _AnchorRun:
    anchor: int
    overlap: Array
    """(M,) in the order of the run."""
    progress: int
    """Frames before the failure; M without one."""


def score_multistart(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str = "vot-multistart",
    eao_range: tuple[int, int] = MULTISTART_RANGE,
    threshold: float = THRESHOLD,
    grace: int = GRACE,
    missing: Missing = "refuse",
    keep_per_frame: bool = False,
) -> Scores:
    """Score runs from all anchors of every sequence: ``EAO``, ``A`` (overlap until failure), ``R`` (share tracked).

    Args:
        runs: for every sequence one run per anchor; backward runs begin at their anchor and end at frame 0.
        eao_range: first length and, not included, last length of the EAO's mean.
        threshold, grace: what makes a failure, see :func:`failing_frame`.
        missing: sequences without result are an error, or left out and noted. A missing anchor is always an error.
        keep_per_frame: keep ``overlap``, (anchors, N), nan behind the end of a run.

    Raises:
        InputError: no anchors, missing or damaged results.
    """
    if rule != "vot-multistart":
        raise InputError(f"rule {rule!r}; score_multistart has 'vot-multistart'")
    low, high = eao_range
    if not 1 <= low < high:
        raise InputError(f"eao_range {eao_range}; expected 1 <= low < high, in frames")
    sequences = list(sequences)
    trials, lost, notes = collect(sequences, runs, dataset, missing)
    parts: dict[str, SequenceScore] = {}
    curves, actives, weights = [], [], []
    for trial in trials:
        found = _score_anchors(trial, threshold, grace)
        curve, active = _expected_overlap(found, high)
        curves.append(curve)
        actives.append(active)
        progress, length = sum(r.progress for r in found), sum(len(r.overlap) for r in found)
        kept = sum(float(r.overlap[: r.progress].sum()) for r in found)
        values = {"EAO": np.nan, "A": kept / progress if progress else 0.0, "R": progress / length}
        weights.append((progress, len(trial.truth)))
        parts[trial.name] = SequenceScore(
            trial.name,
            len(trial.truth),
            values,
            curves={"eao": curve},
            per_frame={"overlap": _table(found, len(trial.truth))} if keep_per_frame else {},
            weight=float(len(trial.truth)),
        )
    phi = _weighted(np.stack(curves), np.stack(actives))  # (high,)
    part = phi[low:high][np.stack(actives)[:, low:high].any(axis=0)]
    if part.size < high - low:
        notes.append(f"EAO over {part.size} of {high - low} lengths: no run is longer")
    progress, lengths = np.array(weights, dtype=np.float64).T
    values = {
        "EAO": float(part.mean()) if part.size else np.nan,
        "A": _average([parts[t.name].values["A"] for t in trials], progress),
        "R": _average([parts[t.name].values["R"] for t in trials], lengths),
    }
    parts |= {s.name: SequenceScore(s.name, len(s), dict.fromkeys(values, np.nan), lost=True) for s in lost}
    return Scores(
        tracker=tracker,
        dataset=dataset,
        rule=rule,
        metrics=(
            Metric("EAO", "EAO", factor=1, digits=3),
            Metric("A", "Accuracy", factor=1, digits=3),
            Metric("R", "Robustness", factor=1, digits=3),
        ),
        values=values,
        sequences=tuple(parts[s.name] for s in sequences),
        curves={"eao": Curve(np.arange(high, dtype=np.float64), phi, "Run length (frames)", "Expected overlap", "EAO")},
        fps=frames_per_second(run for trial in trials for run in trial.runs),
        notes=tuple(notes),
    )


def _average(values: list[float], weights: Array) -> float:
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else 0.0


def _score_anchors(trial: Trial, threshold: float, grace: int) -> list[_AnchorRun]:
    given = trial.sequence.annotation.anchors
    order = anchor_order(given) if given is not None else []
    if not order:
        raise InputError(f"{trial.name} has no anchors (anchor.value); score it under another rule")
    by_anchor = {run.anchor: k for k, run in enumerate(trial.runs)}
    absent = [anchor for anchor, _, _ in order if anchor not in by_anchor]
    if absent or len(by_anchor) != len(trial.runs) or len(by_anchor) != len(order):
        raise InputError(
            f"{trial.name}: results for the anchors {sorted(map(str, by_anchor))}, expected {[a for a, _, _ in order]}, each once"
            + (f"; run {absent[:5]} again" if absent else "")
        )
    found = []
    for anchor, _, frames in order:
        regions = checked_regions(trial, by_anchor[anchor], len(frames))
        truth = [trial.truth[i] for i in frames]
        overlap = region_overlaps(regions, truth, image_bounds(trial.size, "vot"), "vot")  # (M,)
        has_truth = np.array([not is_empty(t) for t in truth])
        failed = failing_frame(overlap, has_truth, threshold, grace)
        found.append(_AnchorRun(anchor, overlap, len(overlap) if failed is None else failed))
    return found


def _expected_overlap(runs: list[_AnchorRun], count: int) -> tuple[Array, Array]:
    """Curve (count,) over the frames after the start and how many runs each of its points rests on (count,)."""
    means = np.full((len(runs), count), np.nan)  # (anchors, frames after the start)
    for row, run in zip(means, runs, strict=True):
        overlap = run.overlap.copy()
        overlap[run.progress :] = 0.0
        reached = min(len(overlap), count)
        row[1:reached] = np.cumsum(overlap[1:reached]) / np.arange(1, reached)
        if run.progress < len(overlap):  # lost for good; vot-toolkit divides by one frame less here
            row[reached:] = overlap.sum() / (np.arange(reached, count) - 1)
    active = np.isfinite(means)
    number = active.sum(axis=0).astype(np.float64)
    curve = np.zeros(count)
    np.divide(np.where(active, means, 0.0).sum(axis=0), number, out=curve, where=number > 0)
    return curve, number


def _weighted(curves: Array, actives: Array) -> Array:
    """(S, L) curves and their numbers of runs -> (L,), 0 where there is no run."""
    out = np.zeros(curves.shape[1])
    total = actives.sum(axis=0)
    np.divide((curves * actives).sum(axis=0), total, out=out, where=total > 0)
    return out


def _table(runs: list[_AnchorRun], frames: int) -> Array:
    table = np.full((len(runs), frames), np.nan)
    for row, run in zip(table, runs, strict=True):
        row[: len(run.overlap)] = run.overlap
    return table
