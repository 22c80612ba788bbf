"""OxUvA: is the target there, and if so, where (Valmadre et al., Long-term Tracking in the Wild, ECCV 2018).

Presence is said for each frame. Over all annotated frames after the first of all tracks together, TPR is the share of
frames with the target in which it was called present with enough overlap, TNR the share of frames without it in which it
was called absent. MaxGM is the best geometric mean that flipping "present" to "absent" by a coin could reach, so that
trackers which never say "absent" compare too (spec/evaluation.md §8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import HiddenTruthError, InputError
from .common import Missing, frames_per_second, listed, with_results
from .runs import Run
from .scores import Curve, Metric, Scores, SequenceScore

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PAPER_THRESHOLD = 0.5
"""Overlap at which papers report."""


@dataclass(frozen=True, eq=False)
class TrackFrames:
    """The scored frames of one track and one run, M of them."""

    frames: npt.NDArray[np.int64]
    """(M,) index from the frame of the start."""
    truth: Bools
    """(M,) the target is there."""
    said: Bools
    """(M,) the tracker says so."""
    overlap: Array
    """(M,) IoU, nan where there is no target or no box."""
    score: Array
    """(M,) confidence that the target is there, nan where unknown."""
    empty: int = 0
    """Frames where prediction and truth both have no area: overlap 0."""
    before: int = 0
    """Frames before the first prediction: absent."""
    borderless: bool = False
    """The size of the image is not known, and boxes are pixels."""


def max_gm(tpr: npt.ArrayLike, tnr: npt.ArrayLike) -> Array:
    """Largest sqrt((1-p) TPR ((1-p) TNR + p)) over 0 <= p <= 1, in closed form; same shape as given, fractions.

    For TNR >= 1/2 it is at p = 0, below at p = (1 - 2 TNR) / (2 - 2 TNR).
    """
    tpr, tnr = np.asarray(tpr, dtype=np.float64), np.asarray(tnr, dtype=np.float64)
    flipped = 0.5 * np.sqrt(tpr / np.where(tnr < 0.5, 1 - tnr, 1.0))
    return np.where(tnr < 0.5, flipped, np.sqrt(tpr * tnr))  # nan stays nan


def assess(sequence: Sequence, run: Run, present_above: float | None = None) -> TrackFrames:
    """What the run says in the annotated frames after the first.

    A frame without a prediction (no box, and not called absent) takes the latest earlier one. Boxes are clipped to the
    image. The target counts as called present unless ``run.lost``, or, with ``present_above``, where ``run.presence`` is
    larger. Raises :class:`InputError` for hidden or broken ground truth, an empty run, and if ``present_above`` is given
    and the run has no presence.
    """
    annotation = sequence.annotation
    n = len(annotation.boxes)
    if n < len(sequence):
        raise HiddenTruthError(
            f"{sequence.dataset}/{sequence.name}: the ground truth is not public (the annotation has {n} of {len(sequence)} "
            "frames); write the submission (format 'oxuva') and send it to the benchmark's server"
        )
    annotated = np.ones(n, np.bool_) if annotation.annotated is None else annotation.annotated.astype(np.bool_)
    frames = np.flatnonzero(annotated & (np.arange(n) > 0))  # (M,)
    truth_boxes = annotation.boxes[frames]
    has_box = np.asarray(np.isfinite(truth_boxes).all(axis=1))
    truth = has_box if annotation.visible is None else annotation.visible[frames].astype(np.bool_)
    if (truth & ~has_box).any():
        bad = frames[np.flatnonzero(truth & ~has_box)[0]]
        raise InputError(
            f"{sequence.dataset}/{sequence.name}: frame {bad + sequence.start} is annotated as present without a box; "
            f"run `keepsight data check {sequence.dataset}`"
        )
    if not len(run.boxes):
        raise InputError(f"the run on {sequence.dataset}/{sequence.name} has no rows; run the tracker on it again")
    said, made = _said(run, present_above, f"{sequence.dataset}/{sequence.name}")
    latest = np.maximum.accumulate(np.where(made, np.arange(len(made)), -1))  # (N,), -1: nothing yet
    source = latest[np.minimum(frames, len(made) - 1)]  # (M,)
    there = source >= 0
    said = there & said[source]
    boxes = np.where(there[:, None], run.boxes[source], np.nan)  # (M, 4)
    presence = np.full(len(run.boxes), np.nan) if run.presence is None else run.presence
    overlap, empty = _overlap(boxes, truth_boxes, annotation.image_size)
    return TrackFrames(
        frames,
        truth,
        said,
        overlap=np.where(truth, overlap, np.nan),
        score=np.where(there, presence[source], np.nan),
        empty=int((empty & truth & said).sum()),
        before=int((~there).sum()),
        borderless=_borderless(truth_boxes, annotation.image_size),
    )


def file_scale(sequence: Sequence) -> tuple[int, int]:
    """What OxUvA's relative corners are multiplied by to give the annotation's unit: width and height, or 1, 1.

    Raises :class:`InputError` if the annotation is in pixels and the size of the image is not known.
    """
    annotation = sequence.annotation
    if _borderless(annotation.boxes, annotation.image_size):
        raise InputError(
            f"{sequence.dataset}/{sequence.name}: OxUvA's files hold fractions of the image, whose size is not known here; "
            "add the images to the data set's folder, or take another format"
        )
    return annotation.image_size or (1, 1)


def _said(run: Run, present_above: float | None, where: str) -> tuple[Bools, Bools]:
    """(N,) called present, (N,) there is a prediction at all."""
    has_box = np.asarray(np.isfinite(run.boxes).all(axis=1))
    lost = np.zeros(len(has_box), np.bool_) if run.lost is None else run.lost.astype(np.bool_)
    if present_above is None:
        return has_box & ~lost, has_box | lost
    if run.presence is None:
        raise InputError(
            f"the run on {where} has no presence scores, so no threshold on them can decide; leave `present_above` out"
        )
    made = has_box | lost | np.isfinite(run.presence)
    return has_box & (run.presence > present_above), made


def _overlap(predicted: Array, truth: Array, size: tuple[int, int] | None) -> tuple[Array, Bools]:
    """(M,) IoU with the prediction clipped to the image, and (M,) union without area (IoU 0).

    Without ``size`` boxes are relative, 0..1, as OxUvA's files have them, unless the truth says otherwise: then they are
    pixels of an image whose right and lower border are not known. Order of operations as in relative corners.
    """
    w, h = size or (1, 1)
    scale = np.array([w, h, w, h], dtype=np.float64)
    border = np.inf if _borderless(truth, size) else 1.0
    a = predicted / scale  # (M, 4)
    b = truth / scale
    a_low, a_high = np.clip(a[:, :2], 0, border), np.clip(a[:, :2] + a[:, 2:], 0, border)
    b_low, b_high = b[:, :2], b[:, :2] + b[:, 2:]
    sides = np.maximum(np.minimum(a_high, b_high) - np.maximum(a_low, b_low), 0)  # (M, 2)
    inter = sides.prod(axis=1)
    union = (a_high - a_low).prod(axis=1) + (b_high - b_low).prod(axis=1) - inter
    empty = union <= 0
    return np.where(empty, 0.0, inter / np.where(empty, 1.0, union)), empty


def _borderless(truth: Array, size: tuple[int, int] | None) -> bool:
    """Whether boxes are pixels without a size to clip to; relative boxes reach a little over 1 at most."""
    return size is None and bool((truth[np.isfinite(truth).all(axis=1)] > 2).any())


@dataclass(frozen=True)
class Counts:
    """Frames of one or all tracks."""

    tp: int
    tn: int
    fp: int
    fn: int

    @property
    def values(self) -> dict[str, float]:
        """TPR, TNR, GM, MaxGM; nan where there is no frame with (or without) the target."""
        tpr = self.tp / (self.tp + self.fn) if self.tp + self.fn else math.nan
        tnr = self.tn / (self.tn + self.fp) if self.tn + self.fp else math.nan
        return {"TPR": tpr, "TNR": tnr, "GM": math.sqrt(tpr * tnr), "MaxGM": float(max_gm(tpr, tnr))}


def count(tracks: Iterable[TrackFrames], iou_threshold: float) -> Counts:
    """TP: present and called so with IoU >= threshold; FN: other frames with the target; TN, FP: without it."""
    tp = tn = fp = fn = 0
    for t in tracks:
        hit = t.truth & t.said & (t.overlap >= iou_threshold)
        tp += int(hit.sum())
        fn += int((t.truth & ~hit).sum())
        fp += int((~t.truth & t.said).sum())
        tn += int((~t.truth & ~t.said).sum())
    return Counts(tp, tn, fp, fn)


def posthoc_curve(tracks: Many[TrackFrames], iou_threshold: float) -> tuple[Array, Array, Array]:
    """TPR, TNR and the score above which they are reached, if "present" needed a score as well; (K,) each, K may be 0.

    From the strictest threshold (inf, nothing present) to the tracker's own decisions; equal points stand once.
    Frames whose score is unknown are passed first to go: they count as -inf.
    """
    said = np.concatenate([t.said for t in tracks]) if tracks else np.zeros(0, np.bool_)
    if not said.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    truth = np.concatenate([t.truth for t in tracks])
    hit = truth & (np.concatenate([t.overlap for t in tracks]) >= iou_threshold)
    score = np.concatenate([t.score for t in tracks])
    score = np.where(np.isnan(score), -np.inf, score)
    order = np.flatnonzero(said)[np.argsort(-score[said], kind="stable")]  # frames called present, surest first
    ends = np.append(score[order][1:] != score[order][:-1], True)  # all frames of one score come at once
    tp = np.append(0, np.cumsum(hit[order])[ends])  # (K,)
    fp = np.append(0, np.cumsum(~truth[order])[ends])
    thresholds = np.append(np.inf, score[order][ends])
    new = np.append(True, (np.diff(tp) != 0) | (np.diff(fp) != 0))
    present, absent = int(truth.sum()), int((~truth).sum())
    tpr = tp[new] / present if present else np.full(int(new.sum()), np.nan)
    tnr = 1 - fp[new] / absent if absent else np.full(int(new.sum()), np.nan)
    return tpr, tnr, thresholds[new]


def score_oxuva(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str = "oxuva",
    iou_thresholds: tuple[float, ...] = (0.3, 0.5, 0.7),
    present_above: float | None = None,
    missing: Missing = "leave_out",
    keep_per_frame: bool = False,
    confidence: float | None = 0.95,
    seed: int = 0,
) -> Scores:
    """TPR, TNR, GM and MaxGM over all tracks together, as fractions.

    Args:
        sequences: one per track; only annotated frames after the first count.
        runs: sequence name -> repetitions, whose frames are pooled.
        iou_thresholds: of a hit. Unnamed values (``MaxGM``) are at 0.5 (else at the first of these); the others are
            ``MaxGM@0.3`` and so on.
        present_above: call the target present where ``Run.presence`` is larger, instead of what the tracker said.
        missing: tracks without a run are left out, which a note says, or refused.
        keep_per_frame: keep ``overlap``, ``present`` and ``said`` of every track, (repetitions, M) over scored frames.
        confidence, seed: of the bootstrap intervals over tracks (percentiles of 5,000 draws); None for none.

    ``SequenceScore.values`` has the counts of each track too (``TP``, ``TN``, ``FP``, ``FN``). Curves ``posthoc@<iou>``: TPR
    over TNR when a score threshold is raised afterwards. Raises :class:`InputError` as :func:`assess`, for hidden ground truth,
    and if no track has a run.
    """
    if rule != "oxuva":
        raise InputError(f"score_oxuva has the rule 'oxuva', not {rule!r}")
    if not iou_thresholds:
        raise InputError("iou_thresholds is empty; give at least one overlap, such as 0.5")
    main = PAPER_THRESHOLD if PAPER_THRESHOLD in iou_thresholds else iou_thresholds[0]
    tracks: list[TrackFrames] = []
    parts: list[SequenceScore] = []
    sequences = with_results(sequences, runs, dataset, missing)
    for sequence in sequences:
        own = [assess(sequence, run, present_above) for run in runs.get(sequence.name, ())]
        tracks += own
        per_frame = {}
        if keep_per_frame and own:
            per_frame = {
                "overlap": np.stack([t.overlap for t in own]),  # (repetitions, M)
                "present": np.stack([t.truth.astype(np.float64) for t in own]),
                "said": np.stack([t.said.astype(np.float64) for t in own]),
            }
        values = _values(own, iou_thresholds, main) if own else {}
        weight = float(sum(len(t.frames) for t in own))
        parts.append(
            SequenceScore(sequence.name, len(sequence), values, per_frame=per_frame, lost=not own, weight=weight)
        )
    curves = {}
    for threshold in iou_thresholds:
        tpr, tnr, _ = posthoc_curve(tracks, threshold)
        if len(tpr):
            key = f"MaxGM@{threshold:g}"
            curves[f"posthoc@{threshold:g}"] = Curve(
                tnr, tpr, "True negative rate", f"True positive rate, IoU ≥ {threshold:g}", summary=key
            )
    metrics = (Metric("MaxGM", "MaxGM"), Metric("TPR", "TPR"), Metric("TNR", "TNR"), Metric("GM", "GM"))
    used = {s.name: len(runs.get(s.name, ())) for s in sequences}
    return Scores(
        tracker,
        dataset,
        rule,
        metrics,
        _values(tracks, iou_thresholds, main),
        tuple(parts),
        curves=curves,
        intervals=_intervals(parts, confidence, seed),
        repetitions=max(used.values(), default=1),
        fps=frames_per_second(run for s in sequences for run in runs.get(s.name, ())),
        notes=tuple(_notes(tracks, [n for n, k in used.items() if not k], len(used), main)),
    )


def _values(tracks: list[TrackFrames], iou_thresholds: tuple[float, ...], main: float) -> dict[str, float]:
    values: dict[str, float] = {}
    for threshold in (main, *iou_thresholds):
        c = count(tracks, threshold)
        found = c.values | {"TP": float(c.tp), "TN": float(c.tn), "FP": float(c.fp), "FN": float(c.fn)}
        if not values:
            values = dict(found)
        values |= {f"{name}@{threshold:g}": v for name, v in found.items()}
    return values


def _intervals(
    parts: list[SequenceScore], confidence: float | None, seed: int, draws: int = 5000
) -> dict[str, tuple[float, float]]:
    """Metric -> lower and upper end: tracks are drawn with replacement and their counts pooled."""
    rows = [[p.values[name] for name in ("TP", "TN", "FP", "FN")] for p in parts if not p.lost]
    if confidence is None or len(rows) < 2:
        return {}
    table = np.array(rows)  # (S, 4)
    share = np.full(len(table), 1 / len(table))
    tp, tn, fp, fn = (np.random.default_rng(seed).multinomial(len(table), share, draws) @ table).T  # (draws,) each
    with np.errstate(divide="ignore", invalid="ignore"):
        tpr, tnr = tp / (tp + fn), tn / (tn + fp)
    found = {"TPR": tpr, "TNR": tnr, "GM": np.sqrt(tpr * tnr), "MaxGM": max_gm(tpr, tnr)}
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)
    out = {}
    for name, values in found.items():
        known = values[~np.isnan(values)]  # a draw may hold no frame without the target
        if len(known) > draws // 2:
            low, high = np.quantile(known, ends)
            out[name] = (float(low), float(high))
    return out


def _notes(tracks: list[TrackFrames], lost: list[str], total: int, main: float) -> list[str]:
    notes = [f"hits need an overlap of at least {main:g}"]
    if lost:
        notes.append(f"{len(lost)} of {total} tracks have no result and are left out: {listed(lost)}")
    empty, before = sum(t.empty for t in tracks), sum(t.before for t in tracks)
    if empty:
        notes.append(f"{empty} frames where prediction and truth have no area count as overlap 0")
    if before:
        notes.append(f"{before} frames before the first prediction count as called absent")
    borderless = sum(t.borderless for t in tracks)
    if borderless:
        notes.append(f"the image's size is not known for {borderless} tracks, so predictions are not clipped to it")
    if not any((~t.truth).any() for t in tracks):
        notes.append("the target is always present, so TNR, GM and MaxGM are not defined")
    return notes
