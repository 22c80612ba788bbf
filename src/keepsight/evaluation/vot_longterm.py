"""VOT long-term: precision, recall and F-score over confidence thresholds (spec/evaluation.md §7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import InputError
from ..regions import Special
from .common import Missing, frames_per_second
from .overlap import OverlapVariant, image_bounds, region_overlaps
from .runs import Run
from .scores import Curve, Metric, Scores, SequenceScore
from .vot_files import run_regions
from .vot_input import Trial, collect

Array = npt.NDArray[np.float64]

THRESHOLDS = 100
"""Confidence thresholds, plus and minus infinity included."""
BURN_IN = 10
"""First frames that do not count for a sequence's accuracy."""


@dataclass(frozen=True, eq=False)
class _Sequence:
    """One sequence: all repetitions one after another."""

    overlap: Array
    """(R N,)"""
    confidence: Array
    """(R N,) nan: reported without confidence."""
    visible: int
    """Frames with a visible target, over all repetitions."""
    counts: Mapping[str, float]
    """``accuracy``, ``tracked``, ``drifted`` and ``missed``, see :func:`score_longterm`."""


def score_longterm(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str = "vot-lt",
    missing: Missing = "refuse",
    keep_per_frame: bool = False,
) -> Scores:
    """Score one-pass runs with confidences: ``F``, the best over 100 thresholds, with its ``Pr`` and ``Re``.

    ``vot-lt`` is vot-toolkit 0.9, ``vot-lt-pysot`` the pysot toolkit; they differ in the overlap and in the thresholds.
    ``Scores.values["threshold"]`` is the confidence where F is best; the sequences' values are at that threshold. They also
    have, without a threshold: ``accuracy``, the mean overlap after the first 10 frames where target and answer are there;
    and of the frames with a visible target, how many were ``tracked`` (overlap above 0), ``drifted`` (0), ``missed`` (no
    answer; the start is one of them).

    Args:
        runs: for every sequence runs with ``presence``; without ``regions``, the boxes are taken (row 0 is the start).
        missing: sequences without result are an error, or left out and noted.
        keep_per_frame: keep ``overlap`` and ``confidence`` of every sequence, (R, N).

    Raises:
        InputError: missing or damaged results, no confidences, an unknown rule.
    """
    if rule not in ("vot-lt", "vot-lt-pysot"):
        raise InputError(f"rule {rule!r}; expected 'vot-lt' or 'vot-lt-pysot'")
    pysot = rule == "vot-lt-pysot"
    sequences = list(sequences)
    trials, lost, notes = collect(sequences, runs, dataset, missing)
    found = [_score_trial(trial, pysot) for trial in trials]
    scores = np.concatenate([f.confidence for f in found])
    thresholds = thresholds_pysot(scores) if pysot else thresholds_vot(scores)
    curves = np.stack([_precision_recall(f, thresholds, pysot) for f in found])  # (S, 100, 2)
    precision, recall = curves.mean(axis=0).T
    total = precision + recall
    f_score = np.zeros(len(thresholds))
    np.divide(2 * precision * recall, total, out=f_score, where=total > 0)
    best = int(np.argmax(f_score))
    parts = {}
    for trial, f, curve in zip(trials, found, curves, strict=True):
        pr, re = float(curve[best, 0]), float(curve[best, 1])
        shape = (len(trial.runs), -1)
        parts[trial.name] = SequenceScore(
            trial.name,
            len(trial.truth),
            {"F": 2 * pr * re / (pr + re) if pr + re > 0 else 0.0, "Pr": pr, "Re": re, **f.counts},
            curves={"precision_recall": curve[:, 0], "recall": curve[:, 1]},
            per_frame={"overlap": f.overlap.reshape(shape), "confidence": f.confidence.reshape(shape)}
            if keep_per_frame
            else {},
        )
    parts |= {s.name: SequenceScore(s.name, len(s), {"F": np.nan, "Pr": np.nan, "Re": np.nan}, lost=True) for s in lost}
    return Scores(
        tracker=tracker,
        dataset=dataset,
        rule=rule,
        metrics=(Metric("F", "F-score"), Metric("Pr", "Precision"), Metric("Re", "Recall")),
        values={
            "F": float(f_score[best]),
            "Pr": float(precision[best]),
            "Re": float(recall[best]),
            "threshold": float(thresholds[best]),
        },
        sequences=tuple(parts[s.name] for s in sequences),
        curves={
            "precision_recall": Curve(recall, precision, "Recall", "Precision", "F"),
            "f_score": Curve(np.arange(len(thresholds), dtype=np.float64), f_score, "Threshold number", "F-score", "F"),
        },
        repetitions=max(len(t.runs) for t in trials),
        fps=frames_per_second(run for trial in trials for run in trial.runs),
        notes=tuple(notes),
    )


def _score_trial(trial: Trial, pysot: bool) -> _Sequence:
    count = len(trial.truth)
    overlaps, confidences = [], []
    for number, run in enumerate(trial.runs, 1):
        regions = run_regions(run)
        if len(regions) != count:
            raise InputError(
                f"{trial.name}, repetition {number}: the result has {len(regions)} lines, the sequence {count} frames; was it "
                "cut off? run it again"
            )
        if run.presence is None or len(run.presence) != count:
            raise InputError(
                f"{trial.name}, repetition {number}: long-term scores need a confidence per frame "
                f"(_confidence.value); it has {'none' if run.presence is None else len(run.presence)} for {count} frames"
            )
        variant: OverlapVariant = "pysot" if pysot else "vot"
        bounds = trial.size if pysot else image_bounds(trial.size, "vot")
        overlap = region_overlaps(regions, trial.truth, bounds, variant)
        overlaps.append(np.nan_to_num(overlap))
        confidences.append(run.presence)
    visible = np.tile([not isinstance(t, Special) for t in trial.truth], len(trial.runs))  # (R N,)
    answered = np.array([not isinstance(r, Special) for run in trial.runs for r in run_regions(run)])
    return _Sequence(
        np.concatenate(overlaps),
        np.concatenate(confidences),
        int(visible.sum()),
        _counts(np.concatenate(overlaps), visible, answered, len(trial.runs)),
    )


def _counts(
    overlap: Array, visible: npt.NDArray[np.bool_], answered: npt.NDArray[np.bool_], repetitions: int
) -> dict[str, float]:
    """All (R N,); numbers of frames are means over repetitions."""
    settled = (np.arange(len(overlap)) % (len(overlap) // repetitions) >= BURN_IN) & visible & answered
    return {
        "accuracy": float(overlap[settled].mean()) if settled.any() else np.nan,
        "tracked": float((visible & answered & (overlap > 0)).sum()) / repetitions,
        "drifted": float((visible & answered & (overlap <= 0)).sum()) / repetitions,
        "missed": float((visible & ~answered).sum()) / repetitions,
    }


def thresholds_vot(confidences: Array) -> Array:
    """(100,) from +inf down to -inf: 98 of the sorted confidences at equal distances in rank; no confidence is 0."""
    ordered = np.sort(np.nan_to_num(confidences))[::-1]
    step = len(ordered) // (THRESHOLDS - 2)
    ranks = np.round(np.linspace(step, len(ordered) - step, THRESHOLDS - 2)).astype(int)
    return np.concatenate(([np.inf], ordered[np.clip(ranks, 0, len(ordered) - 1)], [-np.inf]))


def thresholds_pysot(confidences: Array) -> Array:
    """(100,) likewise, ranks counted from the lowest confidence; frames without confidence are left out."""
    ordered = np.sort(confidences[np.isfinite(confidences)])
    if not len(ordered):
        raise InputError("the results hold no confidences at all; long-term scores need one per frame")
    step = len(ordered) // (THRESHOLDS - 2)
    ranks = np.floor(np.linspace(step - 1, len(ordered) - step, THRESHOLDS - 2) + 0.5).astype(int)
    return np.concatenate(([np.inf], ordered[np.clip(ranks, 0, len(ordered) - 1)][::-1], [-np.inf]))


def _precision_recall(sequence: _Sequence, thresholds: Array, pysot: bool) -> Array:
    """(T, 2) precision and recall; 1 and 0 where no frame is confident enough."""
    confidence = np.nan_to_num(sequence.confidence)  # both toolkits take frames without one, such as the start, as 0
    out = np.empty((len(thresholds), 2))
    for i, threshold in enumerate(thresholds):
        # pysot's lowest threshold stands for "any confidence above 0"
        chosen = confidence > 0 if pysot and threshold == -np.inf else confidence >= threshold
        count = int(chosen.sum())
        total = float(sequence.overlap[chosen].sum())
        out[i] = (total / count, total / sequence.visible if sequence.visible else 0.0) if count else (1.0, 0.0)
    return out
