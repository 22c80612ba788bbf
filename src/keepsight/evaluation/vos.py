"""Video object segmentation: region similarity J, boundary accuracy F (Perazzi et al., CVPR 2016; Pont-Tuset et al., 2017).

J = |A & B| / |A | B|. F is the harmonic mean of the share of predicted boundary pixels near a true one and the share of
true boundary pixels near a predicted one, "near" being a disk of 0.8 % of the image's diagonal. The exact rules are those
of davis2017-evaluation (spec/evaluation.md §10); per object, then mean over all objects of all sequences.

Example::

    scores = score_davis(dataset.values(), runs, tracker="mine", dataset="davis2017")
    scores.values["J&F"]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Annotation, Masks, Sequence
from ..errors import HiddenTruthError, InputError, nearest_names
from .common import Missing, frames_per_second, listed, with_results
from .runs import Run
from .scores import Metric, Scores, SequenceScore
from .statistics import bootstrap_interval

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.uint8]
Binary = npt.NDArray[np.uint8]

VOID = 255
TOLERANCE = 0.008
"""Radius of the disk as a share of the image's diagonal, rounded up to whole pixels."""

METRICS = (
    Metric("J&F", "J&F"),
    Metric("J", "J mean"),
    Metric("J_recall", "J recall"),
    Metric("J_decay", "J decay", higher_is_better=False),
    Metric("F", "F mean"),
    Metric("F_recall", "F recall"),
    Metric("F_decay", "F decay", higher_is_better=False),
)
YOUTUBE_METRICS = (
    Metric("G", "G"),
    Metric("J_seen", "J seen"),
    Metric("J_unseen", "J unseen"),
    Metric("F_seen", "F seen"),
    Metric("F_unseen", "F unseen"),
)


@dataclass(frozen=True)
class VosRule:
    """What conventions of segmentation differ in. The first frame of an object is given, so it is never scored."""

    objects: Literal["first frame", "annotated"] = "first frame"
    """Ids that are scored: 1 to the largest id of the first ground truth (DAVIS), or those that the data set lists,
    each from the frame after its first annotation on (YouTube-VOS)."""
    drop_last: bool = True
    """Leave out the last frame, as the DAVIS toolkits do."""
    binary: bool = False
    """All that is not background is one object (DAVIS 2016)."""
    extra_ids: Literal["error", "ignore"] = "error"
    """A predicted id without an object: davis2017-evaluation stops there."""
    recall_margin: int = 0
    """Frames at either end that do not count for recall (DAVIS 2016: 1)."""
    decay_index: Literal["uint8", "int"] = "uint8"
    """davis2017-evaluation keeps the frame numbers of its four quarters in 8 bits, which wraps around for sequences of
    more than 256 frames. ``uint8`` repeats that; ``int`` takes the quarters that are meant."""


def vos_rule(name: str) -> VosRule:
    """The convention ``davis2017``, ``davis2016`` or ``youtubevos``. Raises :class:`InputError` for other names."""
    known = {
        "davis2017": VosRule(),
        "davis2016": VosRule(binary=True, recall_margin=1),
        "youtubevos": VosRule(objects="annotated", extra_ids="ignore"),
    }
    if name not in known:
        raise InputError(f"there is no segmentation rule {name!r}; {nearest_names(name, known)}")
    return known[name]


# --- one frame ------------------------------------------------------------------------------------------------------------


def j_and_f(prediction: Ids, truth: Ids, objects: Many[int], tolerance: float = TOLERANCE) -> Array:
    """J and F of each object in one frame.

    Args:
        prediction, truth: object ids (H, W) uint8, 0 is background.
        objects: K ids.
        tolerance: as a share of the diagonal; 1 or more: pixels.

    Returns:
        (K, 2) float64: J, F. An object in neither of the two has 1, 1.
    """
    disk = _disk(boundary_radius(truth.shape, tolerance))
    scores = np.ones((len(objects), 2))  # (K, 2)
    rows, columns = _window(prediction | truth)
    prediction, truth = prediction[rows, columns], truth[rows, columns]
    for i, k in enumerate(objects):
        a, b = (prediction == k).view(np.uint8), (truth == k).view(np.uint8)
        rows, columns = _window(a | b)
        a, b = a[rows, columns], b[rows, columns]
        union = cv2.countNonZero(a | b)
        if union:
            scores[i] = cv2.countNonZero(a & b) / union, _boundary_accuracy(a, b, disk)
    return scores


def boundary_radius(shape: tuple[int, ...], tolerance: float = TOLERANCE) -> int:
    """Radius of the disk in pixels for images of ``shape`` (H, W); 8 for 480 x 854."""
    return int(tolerance) if tolerance >= 1 else math.ceil(tolerance * float(np.linalg.norm(shape[:2])))


def boundary(mask: Binary) -> Binary:
    """(h, w) of 0 and 1 -> the pixels that differ from their east, south or south-east neighbour, 0 and 1.

    Beyond the image's edge the mask goes on as it is at the edge.
    """
    more = np.asarray(cv2.copyMakeBorder(mask, 0, 1, 0, 1, cv2.BORDER_REPLICATE), np.uint8)  # (h+1, w+1)
    here = more[:-1, :-1]
    return (here ^ more[:-1, 1:]) | (here ^ more[1:, :-1]) | (here ^ more[1:, 1:])


def _boundary_accuracy(prediction: Binary, truth: Binary, disk: Binary) -> float:
    found, wanted = boundary(prediction), boundary(truth)
    n_found, n_wanted = cv2.countNonZero(found), cv2.countNonZero(wanted)
    if not n_found or not n_wanted:
        return float(n_found == n_wanted)
    precision = cv2.countNonZero(cv2.bitwise_and(found, cv2.dilate(wanted, disk))) / n_found
    recall = cv2.countNonZero(cv2.bitwise_and(wanted, cv2.dilate(found, disk))) / n_wanted
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _disk(radius: int) -> Binary:
    squares = np.arange(-radius, radius + 1) ** 2
    return (squares[:, None] + squares <= radius * radius).astype(np.uint8)


def _window(mask: Ids) -> tuple[slice, slice]:
    """Rows and columns around all that is not 0, and one more on every side where the image has one.

    With that margin the boundary in the window is the boundary in the image, and nothing outside it counts.
    """
    x, y, w, h = cv2.boundingRect(mask)
    return slice(max(y - 1, 0), y + h + 1), slice(max(x - 1, 0), x + w + 1)


# --- one sequence ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ObjectFrames:
    """J and F of one object over a sequence of N frames."""

    sequence: str
    id: int
    scored: npt.NDArray[np.bool_]
    """(N,) frames that count."""
    j: Array
    """(N,) of all frames that have a ground truth, also those that do not count; nan elsewhere."""
    f: Array
    """(N,) likewise."""


@dataclass(eq=False)
class _Findings:
    """What a reader of the numbers must know, collected over sequences."""

    missing_files: dict[str, int] = field(default_factory=dict)
    too_long: list[str] = field(default_factory=list)
    ignored_ids: dict[str, set[int]] = field(default_factory=dict)


def _evaluate(sequence: Sequence, run: Run, rule: VosRule, findings: _Findings) -> list[ObjectFrames]:
    """J and F of every object and frame of one run.

    Mask files that are missing count as empty. Raises :class:`InputError` if there are no masks, if the sizes differ, or
    (``rule.extra_ids == "error"``) if the prediction has ids above the objects'.
    """
    where = f"{sequence.dataset}/{sequence.name}"
    truths = sequence.annotation.masks
    if truths is None:
        raise InputError(f"{where} has no ground-truth masks, so J and F have no meaning; score its boxes instead")
    if run.masks is None:
        raise InputError(f"the run on {where} has no masks; give a tracker that segments, or score its boxes")
    n = len(truths)
    objects, starts = _objects(sequence.annotation, truths, rule, where)
    _check_published(truths, starts, where)
    values = np.full((n, len(objects), 2), np.nan)  # (N, K, 2)
    for i in range(n):
        truth = _truth(truths, i, rule)
        if truth is None:
            continue
        prediction = run.masks[i] if i < len(run.masks) else None
        counts = 0 < i < n - 1 or not rule.drop_last
        if prediction is None:
            if counts and i:
                findings.missing_files[sequence.name] = findings.missing_files.get(sequence.name, 0) + 1
            prediction = np.zeros_like(truth)
        if prediction.shape != truth.shape:
            raise InputError(
                f"{where}, frame {_frame_name(sequence, i)}: the predicted mask is {_size(prediction)}, the ground truth "
                f"{_size(truth)} pixels; write masks at the size of the data set's annotation"
            )
        if rule.binary:
            prediction = (prediction > 0).astype(np.uint8)
        if counts and i:
            _check_ids(prediction, objects, rule, f"{where}, frame {_frame_name(sequence, i)}", sequence.name, findings)
        values[i] = j_and_f(prediction, truth, objects)
    if len(run.masks) > n:
        findings.too_long.append(sequence.name)
    frames = np.arange(n)
    known = ~np.isnan(values[..., 0]).all(axis=1) if objects else np.zeros(n, bool)  # (N,)
    inside = known & (frames < n - 1) if rule.drop_last else known
    return [
        ObjectFrames(sequence.name, k, inside & (frames > starts[k]), values[:, j, 0], values[:, j, 1])
        for j, k in enumerate(objects)
    ]


def _truth(truths: Masks, index: int, rule: VosRule) -> Ids | None:
    """Ids of one frame; void is background, as in the semi-supervised task."""
    ids = truths[index]
    if ids is None:
        return None
    if rule.binary:
        return (ids > 0).astype(np.uint8)
    return np.where(ids == VOID, np.uint8(0), ids)


def _objects(annotation: Annotation, truths: Masks, rule: VosRule, where: str) -> tuple[list[int], dict[int, int]]:
    """Ids that are scored, and the frame after which each counts."""
    if rule.objects == "first frame":
        first = _truth(truths, 0, rule) if len(truths) else None
        if first is None:
            raise InputError(f"{where}: the first frame has no mask file, so its objects are not known; restore it")
        objects = list(range(1, int(first.max(initial=0)) + 1))
        return objects, dict.fromkeys(objects, 0)
    seen = dict(annotation.first_seen)
    for i in range(len(truths)) if not (annotation.objects and set(annotation.objects) <= set(seen)) else ():
        ids = _truth(truths, i, rule)
        for k in () if ids is None else np.flatnonzero(np.bincount(ids.ravel())).tolist():
            if k:
                seen.setdefault(k, i)
    return (sorted(k for k in (annotation.objects or seen) if k in seen)), seen


def _check_published(truths: Masks, starts: Mapping[int, int], where: str) -> None:
    """Test sets publish each object's first mask only; scoring others against those would give wrong numbers."""
    later = sorted(set(range(len(truths))) - set(starts.values()))
    if later and all(truths[i] is None for i in later):
        raise HiddenTruthError(
            f"{where} has no masks beyond the first of each object: this split's ground truth is not published; write the "
            "masks in the official format and submit them to the benchmark's server"
        )


def _check_ids(prediction: Ids, objects: list[int], rule: VosRule, frame: str, name: str, findings: _Findings) -> None:
    highest = max(objects, default=0)
    largest = int(prediction.max(initial=0))
    if largest <= highest:
        return
    if rule.extra_ids == "error":
        raise InputError(
            f"{frame}: the predicted mask has id {largest}, but the objects are 1..{highest}; write indices of the first "
            "frame's palette, and background (0) for what is undecided"
        )
    findings.ignored_ids.setdefault(name, set()).add(largest)


def _frame_name(sequence: Sequence, index: int) -> str:
    return sequence.frame_names[index] if sequence.frame_names else str(index)


def _size(ids: Ids) -> str:
    return " x ".join(str(v) for v in reversed(ids.shape))


# --- statistics -----------------------------------------------------------------------------------------------------------


def statistics(values: Array, rule: VosRule) -> tuple[float, float, float]:
    """Mean, recall (share above 0.5) and decay (first quarter minus last) of the scored frames' values (M,); nan if none."""
    if not len(values):
        return math.nan, math.nan, math.nan
    inner = values[rule.recall_margin : len(values) - rule.recall_margin]
    recall = float(np.mean(inner > 0.5)) if len(inner) else math.nan
    return float(np.mean(values)), recall, _decay(values, rule.decay_index)


def _decay(values: Array, index: Literal["uint8", "int"]) -> float:
    edges = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(np.int64) - 1  # (5,) of the four quarters
    if index == "uint8":
        edges %= 256
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]  # quarters share their end points
    return float(np.mean(first) - np.mean(last)) if len(first) and len(last) else math.nan


def _object_values(frames: ObjectFrames, rule: VosRule) -> dict[str, float]:
    j, f = statistics(frames.j[frames.scored], rule), statistics(frames.f[frames.scored], rule)
    names = ("J", "J_recall", "J_decay", "F", "F_recall", "F_decay")
    return dict(zip(names, (*j, *f), strict=True)) | {"J&F": (j[0] + f[0]) / 2}


def _mean(values: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every number; nan entries do not count, so that a quarter without frames does not hide the others."""
    rows = list(values)
    out = {}
    for name in rows[0] if rows else (m.name for m in METRICS):
        known = [row[name] for row in rows if not math.isnan(row[name])]
        out[name] = float(np.mean(known)) if known else math.nan
    if rows:
        out["J&F"] = (out["J"] + out["F"]) / 2
    return out


# --- data sets ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scored:
    """One sequence with the statistics of its objects, averaged over repetitions."""

    sequence: Sequence
    objects: dict[int, dict[str, float]]
    per_frame: dict[str, Array]
    lost: bool = False


def score_davis(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str | VosRule = "davis2017",
    missing: Missing = "leave_out",
    keep_per_frame: bool = False,
    confidence: float | None = 0.95,
    seed: int = 0,
) -> Scores:
    """DAVIS 2016 and 2017, semi-supervised: J, F, J&F as fractions, with recall and decay.

    Args:
        sequences: with masks in their annotation.
        runs: sequence name -> repetitions, averaged per object.
        rule: ``davis2017`` (mean over all objects of all sequences), ``davis2016``, or a :class:`VosRule`.
        missing: sequences without a run are left out, which a note says, or refused.
        keep_per_frame: keep ``J/<id>`` and ``F/<id>``, (repetitions, N), of every sequence.
        confidence, seed: of the bootstrap intervals over sequences; None for none.

    ``SequenceScore.values`` hold the mean over the sequence's objects, and every object's own as ``J/<id>`` and so on.
    Raises :class:`InputError` if there are no masks, if sizes differ, for ids the rule refuses, and if no sequence has a run.
    """
    how = vos_rule(rule) if isinstance(rule, str) else rule
    name = rule if isinstance(rule, str) else "davis"
    scored, notes = _score_all(sequences, runs, dataset, how, missing, keep_per_frame)
    values = _mean(o for s in scored for o in s.objects.values())
    scores = _scores(tracker, dataset, name, METRICS, values, scored, runs, notes)
    return replace(scores, intervals=_intervals(scored, METRICS, confidence, seed))


def score_youtubevos(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str | VosRule = "youtubevos",
    seen: Mapping[str, Mapping[int, bool]] | None = None,
    missing: Missing = "leave_out",
    keep_per_frame: bool = False,
    confidence: float | None = 0.95,
    seed: int = 0,
) -> Scores:
    """YouTube-VOS: J and F over seen and unseen categories and their mean G, as fractions.

    Args:
        seen: sequence name -> object id -> whether the training set has its category (:func:`seen_objects`). Without it
            G is the mean of J and F over all objects, which a note says.
        others: as :func:`score_davis`.

    The server's code is not public: J and F are DAVIS's, each object counts from the frame after its first annotation,
    and the last frame does not count (:class:`VosRule`).
    """
    how = vos_rule(rule) if isinstance(rule, str) else rule
    name = rule if isinstance(rule, str) else "youtubevos"
    scored, notes = _score_all(sequences, runs, dataset, how, missing, keep_per_frame)
    notes.append("the YouTube-VOS server's code is not public: J and F are DAVIS's, first and last frames do not count")
    everything = _mean(o for s in scored for o in s.objects.values())
    values = everything | {"G": everything["J&F"]}
    metrics: tuple[Metric, ...] = (YOUTUBE_METRICS[0], METRICS[1], METRICS[4])
    if seen is not None:
        values |= _seen_and_unseen(scored, seen)
        parts = [values[m.name] for m in YOUTUBE_METRICS[1:]]
        values["G"], metrics = float(np.mean(parts)), YOUTUBE_METRICS
        if math.isnan(values["G"]):
            notes.append("there are no objects of seen or none of unseen categories, so G is not defined")
    else:
        notes.append("seen and unseen categories are not known: G is the mean of J and F over all objects")
    scored = [replace(s, objects={k: o | {"G": o["J&F"]} for k, o in s.objects.items()}) for s in scored]
    scores = _scores(tracker, dataset, name, metrics, values, scored, runs, notes)
    return replace(scores, intervals=_intervals(scored, metrics, confidence, seed) if seen is None else {})


def _seen_and_unseen(scored: list[_Scored], seen: Mapping[str, Mapping[int, bool]]) -> dict[str, float]:
    groups: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for s in scored:
        for k, values in s.objects.items():
            known = seen.get(s.sequence.name, {}).get(k)
            if known is None:
                raise InputError(
                    f"{s.sequence.dataset}/{s.sequence.name}: whether the category of object {k} is seen is not given; "
                    "give it for every object, or leave `seen` out"
                )
            groups[known].append(values)
    means = {group: _mean(rows) for group, rows in groups.items()}
    return {
        f"{part}_{word}": means[group][part]
        for part in ("J", "F")
        for group, word in ((True, "seen"), (False, "unseen"))
    }


def _score_all(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    dataset: str,
    rule: VosRule,
    missing: Missing,
    keep_per_frame: bool,
) -> tuple[list[_Scored], list[str]]:
    findings, scored = _Findings(), []
    for sequence in with_results(sequences, runs, dataset, missing):
        repetitions = [_evaluate(sequence, run, rule, findings) for run in runs.get(sequence.name, ())]
        objects, per_frame = {}, {}
        for same in zip(*repetitions, strict=True):  # one object in every repetition
            objects[same[0].id] = _mean(_object_values(o, rule) for o in same)
            if keep_per_frame:
                per_frame[f"J/{same[0].id}"] = np.stack([o.j for o in same])  # (repetitions, N)
                per_frame[f"F/{same[0].id}"] = np.stack([o.f for o in same])
        scored.append(_Scored(sequence, objects, per_frame, lost=not repetitions))
    return scored, _notes(scored, findings)


def _intervals(
    scored: list[_Scored], metrics: tuple[Metric, ...], confidence: float | None, seed: int
) -> dict[str, tuple[float, float]]:
    """Metric -> lower and upper end. Sequences are drawn, and count by the number of their objects, as in the mean."""
    used = [s for s in scored if _weight(s)]
    if confidence is None or len(used) < 2:
        return {}
    table = np.array([[_mean(s.objects.values())[m.name] for m in metrics] for s in used])  # (S, M)
    weights = [_weight(s) for s in used]
    ends = bootstrap_interval(table, weights, confidence=confidence, seed=seed)  # (M, 2)
    found = {m.name: (float(low), float(high)) for m, (low, high) in zip(metrics, ends, strict=True)}
    return {name: pair for name, pair in found.items() if not math.isnan(pair[0])}


def _weight(scored: _Scored) -> float:
    """How many objects a sequence brings into the mean over all."""
    return float(sum(not math.isnan(o["J"]) for o in scored.objects.values()))


def _notes(scored: list[_Scored], findings: _Findings) -> list[str]:
    notes = []
    lost = [s.sequence.name for s in scored if s.lost]
    if lost:
        notes.append(f"{len(lost)} of {len(scored)} sequences have no result and are left out: {listed(lost)}")
    if findings.missing_files:
        total = sum(findings.missing_files.values())
        notes.append(f"{total} mask files are missing and count as empty, in {listed(findings.missing_files)}")
    if findings.too_long:
        notes.append(f"masks beyond the last frame were not used, in {listed(findings.too_long)}")
    if findings.ignored_ids:
        notes.append(f"predicted ids that are no object were not used, in {listed(findings.ignored_ids)}")
    empty = [s.sequence.name for s in scored if not s.lost and not s.objects]
    if empty:
        notes.append(f"no object to score in {listed(empty)}")
    short = [f"{s.sequence.name}/{k}" for s in scored for k, o in s.objects.items() if math.isnan(o["J"])]
    if short:
        notes.append(f"objects without a frame that counts are left out: {listed(short)}")
    wrapped = [f"{s.sequence.name}/{k}" for s in scored for k, o in s.objects.items() if math.isnan(o["J_decay"])]
    if set(wrapped) - set(short):
        notes.append(f"decay has no value where 8-bit frame numbers wrapped around, for {listed(wrapped)}")
    return notes


def _scores(
    tracker: str,
    dataset: str,
    rule: str,
    metrics: tuple[Metric, ...],
    values: dict[str, float],
    scored: list[_Scored],
    runs: Mapping[str, list[Run]],
    notes: list[str],
) -> Scores:
    parts = []
    for s in scored:
        own = {f"{name}/{k}": v for k, o in s.objects.items() for name, v in o.items()}
        mean = _mean(s.objects.values())
        parts.append(
            SequenceScore(
                s.sequence.name, len(s.sequence), mean | own, per_frame=s.per_frame, lost=s.lost, weight=_weight(s)
            )
        )
    names = sorted(set().union(*(s.sequence.attributes for s in scored))) if scored else []
    having = {a: [s for s in scored if a in s.sequence.attributes and not s.lost] for a in names}
    used = [run for s in scored for run in runs.get(s.sequence.name, ())]
    return Scores(
        tracker,
        dataset,
        rule,
        metrics,
        values,
        tuple(parts),
        attributes={a: _mean(o for s in those for o in s.objects.values()) for a, those in having.items() if those},
        attribute_sizes={a: len(those) for a, those in having.items() if those},
        repetitions=max((len(runs.get(s.sequence.name, ())) for s in scored), default=1),
        fps=frames_per_second(used),
        notes=tuple(notes),
    )


def seen_objects(
    categories: Mapping[str, Mapping[int, str]], seen_categories: Iterable[str]
) -> dict[str, dict[int, bool]]:
    """Sequence -> object -> category (``meta.json``) and the training set's categories -> what ``score_youtubevos`` takes."""
    known = set(seen_categories)
    return {name: {k: category in known for k, category in objects.items()} for name, objects in categories.items()}
