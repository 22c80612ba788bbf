"""How a tracker is led through a sequence: the loops of the benchmarks' protocols, without files and processes.

* ``ope``: one pass, started with the first frame's box.
* ``longterm``: the same; every frame also has a confidence that the target is in view (spec/evaluation.md §7, §8).
* ``supervised``: VOT until 2019; started again five frames after each failure (§6).
* ``multistart``: VOT from 2020; one run from each anchor to the end or back to the beginning (§9).
* ``vos``: masks in, masks out (§10, §11).

Times are those of ``init`` and ``update``; reading a frame is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ..datasets.sequence import Annotation, Frames, Masks, Sequence
from ..errors import InputError
from ..regions import Code, Rectangle, Region, Special
from .entrants import Answer, Box, Entrant
from .overlap import OverlapVariant
from .runs import Run

PROTOCOLS = ("ope", "longterm", "supervised", "multistart", "vos")
REPETITIONS = {"ope": 1, "longterm": 1, "supervised": 15, "multistart": 1, "vos": 1}
"""How often a tracker that is not deterministic is run, if nothing else is asked for (GOT-10k: 3)."""


def run_ope(entrant: Entrant, sequence: Sequence, *, seed: int = 0) -> Run:
    """One pass from the first frame's box. Raises what reading a frame and the tracker raise."""
    return _follow(entrant, sequence, range(len(sequence)), sequence.first_box, seed)


def run_longterm(entrant: Entrant, sequence: Sequence, *, seed: int = 0) -> Run:
    """One pass; trackers that only say "lost" get the confidences 0 and 1, those that say nothing always 1.

    Row 0 of ``presence`` is nan: the benchmarks' files have no confidence there.
    """
    return as_longterm(run_ope(entrant, sequence, seed=seed))


def as_longterm(run: Run) -> Run:
    """A one-pass run with the confidences that long-term rules need, see :func:`run_longterm`."""
    if run.presence is not None:
        return run
    presence = np.ones(len(run.boxes))
    if run.lost is not None:
        presence[run.lost] = 0.0
    presence[0] = np.nan
    return replace(run, presence=presence)


def run_supervised(
    entrant: Entrant, sequence: Sequence, *, variant: OverlapVariant = "matlab", restart_after: int = 5, seed: int = 0
) -> Run:
    """Started again after failures: code 1 where it starts, 2 where it failed, 0 until the new start five frames later.

    ``variant``: whose overlap decides what a failure is, see :mod:`.overlap`. The rule is :func:`.vot.supervised_run`.
    """
    from .vot import supervised_run
    from .vot_input import truth_regions

    annotation = sequence.annotation
    truth = truth_regions(sequence)
    rows = _Rows(len(sequence))
    height, width = sequence.frames[0].shape[:2]

    def start(i: int, _: Region) -> None:
        rows.seconds[i] = _started(entrant, sequence.frames[i], _box_at(sequence, i), seed)

    def track(i: int) -> Region:
        answer, seconds = _timed(entrant, sequence.frames[i])
        rows.add(i, answer, seconds)
        return Rectangle(*answer.box)

    lines = supervised_run(
        start, track, truth, annotation.image_size or (width, height), variant, restart_after=restart_after
    )
    coded = np.array([isinstance(line, Special) for line in lines])  # (N,)
    rows.boxes[coded] = np.nan
    return replace(rows.run(), regions=tuple(lines))


# --- multi-start --------------------------------------------------------------------------------------------------------


def anchors(sequence: Sequence) -> tuple[int, ...]:
    """Frames where runs start. Raises :class:`InputError` for a sequence that has none."""
    given = sequence.annotation.anchors
    found = () if given is None else tuple(int(i) for i in np.flatnonzero(given))
    if not found:
        raise InputError(
            f"{sequence.dataset}/{sequence.name} has no anchors (anchor.value); choose another protocol, e.g. --protocol ope"
        )
    return found


def anchor_frames(sequence: Sequence, anchor: int) -> range:
    """The frames of the run that starts at ``anchor``, in the order they are shown."""
    from .vot_multistart import anchor_order

    given = sequence.annotation.anchors
    orders = {start: frames for start, _, frames in anchor_order(() if given is None else given)}
    if anchor not in orders:
        raise InputError(f"{sequence.dataset}/{sequence.name}: frame {anchor} is no anchor; see Annotation.anchors")
    return orders[anchor]


def run_anchor(entrant: Entrant, sequence: Sequence, anchor: int, *, seed: int = 0) -> Run:
    """From one anchor to the end of the sequence or, backward, to its beginning; row 0 has code 1."""
    order = anchor_frames(sequence, anchor)
    run = _follow(entrant, sequence, order, _box_at(sequence, anchor), seed)
    regions: list[Region] = [Rectangle(*map(float, box)) for box in run.boxes]
    regions[0] = Special(Code.INITIALISATION)
    boxes = run.boxes.copy()
    boxes[0] = np.nan
    return replace(run, boxes=boxes, regions=tuple(regions), anchor=anchor)


def run_multistart(entrant: Entrant, sequence: Sequence, *, seed: int = 0) -> list[Run]:
    """One run for each anchor."""
    return [run_anchor(entrant, sequence, anchor, seed=seed) for anchor in anchors(sequence)]


# --- masks --------------------------------------------------------------------------------------------------------------


class MaskArrays(Masks):
    """Segmentations in memory."""

    def __init__(self, ids: Iterable[np.ndarray]) -> None:
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[index]


def check_gives_masks(entrant: Entrant, sequence: Sequence) -> None:
    """Raises :class:`InputError` if the tracker cannot take part in a ``vos`` benchmark."""
    if not entrant.gives_masks:
        raise InputError(boxes_only(sequence.dataset, entrant.name))


def boxes_only(dataset: str, names: str) -> str:
    """What to say of trackers that a data set with masks cannot take."""
    return (
        f"{dataset} is scored by masks, and {names} answers with boxes only; take a tracker of masks, such as rts-lite. Boxes "
        "around the masks can be scored: --protocol ope --rule pytracking"
    )


def run_vos(entrant: Entrant, sequence: Sequence, *, seed: int = 0) -> Run:
    """All objects of ``sequence`` at once, each from its first mask on (spec/keeptrack-rts-lwl.md §6.4, 11).

    A new object has all pixels of its first mask; afterwards the tracker says whose a pixel is, and where it says so twice, the
    object that came first has it. ``boxes`` are those of the first object. Raises :class:`InputError` for trackers without masks.
    """
    check_gives_masks(entrant, sequence)
    annotation, count = sequence.annotation, len(sequence)
    masks = annotation.masks
    if masks is None or not annotation.objects:
        raise InputError(f"{sequence.dataset}/{sequence.name} has no masks to start from; choose another protocol")
    starts: dict[int, list[int]] = {}  # frame -> objects that start there
    for number in annotation.objects:
        if number in annotation.first_seen or not annotation.first_seen:  # else it has no pixel in any frame
            starts.setdefault(annotation.first_seen.get(number, 0), []).append(number)
    there: list[int] = []
    merged: list[np.ndarray | None] = [None] * count
    seconds, boxes = np.zeros(count), np.full((count, 4), np.nan)
    for i in range(min(starts), count):
        frame = sequence.frames[i]
        begin = time.perf_counter()
        answers = entrant.follow(frame) if there else []
        seconds[i] = time.perf_counter() - begin
        ids = _merge(answers, there, frame.shape[:2], f"{entrant.name} in frame {i} of {sequence.name}")
        for number, answer in zip(there, answers, strict=True):
            if number == annotation.objects[0]:
                boxes[i] = answer.box
        new = starts.get(i, [])
        if new:
            given = masks[i]
            if given is None or given.shape != ids.shape:
                raise InputError(
                    f"{sequence.dataset}/{sequence.name}: objects {new} have no mask of the frame's size in frame {i}"
                )
            own = [np.asarray(given == number) for number in new]
            start = [_meta_box(mask, f"{sequence.dataset}/{sequence.name}, frame {i}") for mask in own]
            begin = time.perf_counter()
            entrant.join(frame, start, own) if there else entrant.begin(frame, start, own, seed=seed)
            seconds[i] += time.perf_counter() - begin
            for number, mask, box in zip(new, own, start, strict=True):
                ids[mask] = number
                if number == annotation.objects[0]:
                    boxes[i] = box
            there += new
        merged[i] = ids
    shape = next(ids.shape for ids in merged if ids is not None)
    return Run(
        boxes=boxes,
        seconds=seconds,
        masks=MaskArrays(np.zeros(shape, np.uint8) if ids is None else ids for ids in merged),
    )


def _merge(answers: Iterable[Answer], numbers: Iterable[int], shape: tuple[int, ...], who: str) -> np.ndarray:
    """Object ids (H, W) uint8."""
    ids = np.zeros(shape, np.uint8)
    for number, answer in zip(numbers, answers, strict=True):
        if answer.mask is None or answer.mask.shape != ids.shape:
            raise InputError(f"no mask of shape {ids.shape} from {who}")
        ids[answer.mask.astype(bool) & (ids == 0)] = number
    return ids


def _meta_box(mask: np.ndarray, where: str) -> Box:
    """The box that the published evaluation starts an object with: quirk Q15, a pixel less wide and high than its mask."""
    from ..datasets.masks import boxes_of_mask

    x, y, w, h = boxes_of_mask(mask)
    if np.isnan(w):
        raise InputError(f"{where}: an object's mask is empty")
    return x, y, max(w - 1, 1.0), max(h - 1, 1.0)


# --- common -------------------------------------------------------------------------------------------------------------


class _Rows:
    """What a tracker says, frame by frame."""

    def __init__(self, count: int) -> None:
        self.boxes = np.full((count, 4), np.nan)
        self.presence = np.full(count, np.nan)
        self.lost = np.zeros(count, dtype=bool)
        self.seconds = np.full(count, np.nan)
        self._has_presence = self._has_lost = False

    def add(self, row: int, answer: Answer, seconds: float) -> None:
        self.boxes[row], self.seconds[row] = answer.box, seconds
        if answer.presence is not None:
            self.presence[row], self._has_presence = answer.presence, True
        if answer.lost is not None:
            self.lost[row], self._has_lost = answer.lost, True

    def run(self) -> Run:
        return Run(
            boxes=self.boxes,
            presence=self.presence if self._has_presence else None,
            lost=self.lost if self._has_lost else None,
            seconds=self.seconds,
        )


def _follow(entrant: Entrant, sequence: Sequence, order: range, box: Box, seed: int) -> Run:
    rows = _Rows(len(order))
    rows.boxes[0] = box
    rows.seconds[0] = _started(entrant, sequence.frames[order[0]], box, seed)
    for row, i in enumerate(order[1:], 1):
        answer, seconds = _timed(entrant, sequence.frames[i])
        rows.add(row, answer, seconds)
    return rows.run()


def _started(entrant: Entrant, frame: np.ndarray, box: Box, seed: int) -> float:
    begin = time.perf_counter()
    own = entrant.init(frame, box, seed=seed)
    return time.perf_counter() - begin if own is None else own


def _timed(entrant: Entrant, frame: np.ndarray) -> tuple[Answer, float]:
    begin = time.perf_counter()
    answer = entrant.update(frame)
    return answer, time.perf_counter() - begin if answer.seconds is None else answer.seconds


def _box_at(sequence: Sequence, frame: int) -> Box:
    x, y, w, h = (float(v) for v in sequence.boxes[frame])
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise InputError(f"{sequence.dataset}/{sequence.name}: frame {frame} has no box to start a tracker with")
    return x, y, w, h


# --- shorter sequences --------------------------------------------------------------------------------------------------


class _FirstFrames(Frames):
    def __init__(self, frames: Frames, count: int) -> None:
        self._frames, self._count = frames, count

    def __len__(self) -> int:
        return min(self._count, len(self._frames))

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self._frames[index % len(self)]


class _FirstMasks(Masks):
    def __init__(self, masks: Masks, count: int) -> None:
        self._masks, self._count = masks, count

    def __len__(self) -> int:
        return min(self._count, len(self._masks))

    def __getitem__(self, index: int) -> np.ndarray | None:
        return self._masks[index]


def first_frames(sequence: Sequence, count: int) -> Sequence:
    """The first ``count`` frames of a sequence and of its annotation."""
    if count < 1:
        raise InputError(f"{count} frames; give at least 1")
    names = None if sequence.frame_names is None else sequence.frame_names[:count]
    read = partial(_cut_annotation, sequence.read, count)
    return replace(sequence, frames=_FirstFrames(sequence.frames, count), read=read, frame_names=names)


def _cut_annotation(read: Callable[[], Annotation], count: int) -> Annotation:
    whole = read()
    rows = ("boxes", "visible", "annotated", "polygons", "regions", "cover", "anchors")
    cut = {name: getattr(whole, name)[:count] for name in rows if getattr(whole, name) is not None}
    tags: Mapping[str, np.ndarray] = {name: flags[:count] for name, flags in whole.tags.items()}
    masks = None if whole.masks is None else _FirstMasks(whole.masks, count)
    seen = {number: frame for number, frame in whole.first_seen.items() if frame < count}
    objects = tuple(n for n in whole.objects if whole.first_seen.get(n, 0) < count)
    return replace(whole, **cut, tags=tags, masks=masks, first_seen=seen, objects=objects)
