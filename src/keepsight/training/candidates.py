"""Stage "candidates" of KeepTrack's training: what a base tracker's score maps look like; spec/keeptrack-rts-lwl.md §2.2.

A base tracker follows the targets of a data set. Of every frame in which the peaks of its score map tell something about
distractors, one JSON file keeps the search area, the peaks, and where the target truly was; no pictures. Training opens the
data set again and cuts its crops from there (``association.py``).

    {"keepsight": {...}, "NAME": {"index": [7, 8], "search_area_box": [[x, y, w, h], ..], "target_anno_coord": [[row, col], ..],
     "target_candidate_scores": [[..], ..], "target_candidate_coords": [[[row, col], ..], ..],
     "frame_states": {"G": [], "H": [7, 8], "J": [], "K": []}, "subseq_states": {"HH": [7], "HK": [], "HG": []}}}

NAME is the sequence's; with several data sets it is ``SPEC/NAME``. The entry ``keepsight`` says how the file was made;
published files lack it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..datasets.sequence import Sequence
from ..datasets.tracks import TrainingSet, visible_frames
from ..errors import InputError, VideoError
from ..nn.association import find_candidates
from ..online.search import View
from ..trackers.base import Outcome, Tracker

STATES = ("G", "H", "J", "K")
"""Categories of a frame, see :func:`frame_state`."""
PAIRS = ("HH", "HK", "HG")
"""Categories of two neighbouring frames that are kept."""
ABOUT = "keepsight"
"""Entry of the file that is no sequence."""
FORMAT = 1
SURE = 0.25
"""η: below it the tracker takes the target for lost."""
NEAR, FAR = 2.0, 4.0
"""Distances between annotation and candidate, in cells: at it, and not at it."""
LOOK_ALIKES = "lookalikes:"
"""In front of a synthetic set's split: its videos with look-alikes that cross the target's way."""

Progress = Callable[[int, int, str], object]


# --- categories (§2.2) ---------------------------------------------------------------------------------------------------


def frame_state(annotation: SequenceOf[float], cells: Any, scores: Any) -> str | None:
    """Category of a frame whose target is visible, None if it has none.

    ``annotation``: (row, column) of the true target; ``cells`` (N, 2) and ``scores`` (N,) of the candidates, best first. With
    d1, d2 the smallest distances and s the highest score (all need N >= 2; the paper's D, a single candidate, is not kept):

    ====  =======  ======  ===================  =======
    H     d1 <= 2  d2 > 4  nearest is the best  s >= η   the target stands out
    G     d1 <= 2  d2 > 4  nearest is the best  s < η    it does, weakly
    K     d1 <= 2  d2 > 4  nearest is another   s >= η   a distractor scores higher
    J     d1 > 4                                s >= η   the target is no candidate
    ====  =======  ======  ===================  =======
    """
    cells, scores = np.asarray(cells, np.float64).reshape(-1, 2), np.asarray(scores, np.float64)
    if len(cells) < 2:
        return None
    away = np.hypot(*(cells - np.asarray(annotation, np.float64)).T)  # (N,)
    nearest, (d1, d2), is_sure = int(away.argmin()), np.sort(away)[:2], scores[0] >= SURE
    if d1 <= NEAR and d2 > FAR:
        if nearest == 0:
            return "H" if is_sure else "G"
        return "K" if is_sure else None
    return "J" if d1 > FAR and is_sure else None


def pair_states(states: Mapping[int, str]) -> dict[str, list[int]]:
    """Frame -> category  to  pair -> first frames of the neighbouring frames that have these two categories."""
    found: dict[str, list[int]] = {pair: [] for pair in PAIRS}
    for frame in sorted(states):
        pair = states[frame] + states.get(frame + 1, "")
        if pair in found:
            found[pair].append(frame)
    return found


def annotation_cell(box: SequenceOf[float], view: View, cell: float, side: int) -> tuple[int, int]:
    """Where a Gaussian label around the centre of ``box`` (xywh) has its maximum: (row, column); outside: at the border.

    ``cell``: crop pixels between two cells. The middle of the map lies at the middle of the crop.
    """
    x, y, w, h = box
    found = []
    for centre, middle in ((y + (h - 1) / 2, view.pos[0]), (x + (w - 1) / 2, view.pos[1])):
        place = (side - 1) / 2 + (centre - middle) / (cell * view.scale)
        found.append(min(max(math.ceil(place - 0.5), 0), side - 1))  # between two cells the first, as arg-max
    return found[0], found[1]


# --- one tracked sequence --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FrameCandidates:
    """One kept frame."""

    index: int
    """Of the frame, from 0."""
    search_area: tuple[float, float, float, float]
    """(x, y, w, h) of the crop in image pixels, §1.3."""
    annotation: tuple[int, int]
    """(row, column) of the true target."""
    scores: npt.NDArray[np.float64]
    """(N,), descending."""
    cells: npt.NDArray[np.int64]
    """(N, 2) (row, column)."""

    @property
    def target(self) -> int:
        """Number of the candidate nearest to the annotation."""
        return int(np.hypot(*(self.cells - np.asarray(self.annotation)).T).argmin())


@dataclass(frozen=True, eq=False)
class SequenceCandidates:
    """The kept frames of a sequence, in order, with their categories."""

    frames: tuple[FrameCandidates, ...]
    states: Mapping[str, tuple[int, ...]]
    """Category -> frame numbers."""
    pairs: Mapping[str, tuple[int, ...]]
    """Pair -> numbers of its first frame."""

    @classmethod
    def of(cls, frames: SequenceOf[FrameCandidates], states: Mapping[int, str]) -> SequenceCandidates:
        """``states``: frame number -> category, of the frames given."""
        by_state = {s: tuple(f for f in sorted(states) if states[f] == s) for s in STATES}
        return cls(tuple(frames), by_state, {k: tuple(v) for k, v in pair_states(states).items()})

    def frame(self, index: int) -> FrameCandidates:
        """The kept frame of this number."""
        return self.frames[self._places[index]]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {f.index: i for i, f in enumerate(self.frames)}

    def to_json(self) -> dict[str, Any]:
        """The fields of §2.2."""
        return {
            "index": [f.index for f in self.frames],
            "search_area_box": [[_short(v) for v in f.search_area] for f in self.frames],
            "target_anno_coord": [list(f.annotation) for f in self.frames],
            "target_candidate_scores": [[_short(v) for v in f.scores.tolist()] for f in self.frames],
            "target_candidate_coords": [f.cells.tolist() for f in self.frames],
            "frame_states": {k: list(v) for k, v in self.states.items()},
            "subseq_states": {k: list(v) for k, v in self.pairs.items()},
        }

    @classmethod
    def from_json(cls, values: Any, name: str, side: int | None = None) -> SequenceCandidates:
        """The inverse. ``side``: cells of the score map, in which all places must lie; None: not known.

        Raises :class:`InputError` that names the sequence ``name``, the field, and what stands there, for anything else than
        the fields of §2.2: lists of unlike lengths, numbers that are none, frames out of order or without candidates, scores
        that do not descend, search areas without area, and categories of frames that are not kept.
        """
        try:
            return cls._from_json(values, side)
        except _Damage as damage:
            raise InputError(
                f"sequence {name!r} of the candidate file is damaged: {damage}; make the file again with `keepsight train "
                "keeptrack --stage candidates`, or take the sequence out"
            ) from None

    @classmethod
    def _from_json(cls, values: Any, side: int | None) -> SequenceCandidates:
        if not isinstance(values, dict):
            raise _Damage(f"{_shown(values)} is given, expected the fields {', '.join(FIELDS)}")
        columns: list[list[Any]] = []
        for field_name in FIELDS[:5]:
            column = values.get(field_name)
            if not isinstance(column, list):
                raise _Damage(f"{field_name} is {_shown(column)}, expected a list with an entry for each frame")
            if columns and len(column) != len(columns[0]):
                raise _Damage(f"{field_name} has {len(column)} entries, expected {len(columns[0])}, as many as index")
            columns.append(column)
        frames: list[FrameCandidates] = []
        for index, area, annotation, scores, cells in zip(*columns, strict=True):
            number = _integer(index, "index")
            if frames and number <= frames[-1].index:
                raise _Damage(f"index has {number} after {frames[-1].index}, expected the frames in order, each once")
            frames.append(_read_frame(number, area, annotation, scores, cells, side))
        kept = {f.index for f in frames}
        states = _read_categories(values, "frame_states", STATES, kept, (0,))
        pairs = _read_categories(values, "subseq_states", PAIRS, kept, (0, 1))
        taken = [i for group in states.values() for i in group]
        if len(set(taken)) < len(taken):
            twice = next(i for i in taken if taken.count(i) > 1)
            raise _Damage(f"frame_states names frame {twice} twice, expected one category for each frame")
        return cls(tuple(frames), states, pairs)


FIELDS = (
    "index", "search_area_box", "target_anno_coord", "target_candidate_scores", "target_candidate_coords", "frame_states",
    "subseq_states",
)  # fmt: skip
"""Of a sequence in the file."""
LARGEST = 2**20
"""No search area reaches farther, in pixels, and no score is higher."""


class _Damage(Exception):
    """What is wrong with a sequence, without its name."""


def _shown(value: Any) -> str:
    """What stands in the file, shortened."""
    text = "absent" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _integer(value: Any, what: str, end: int = 2**31) -> int:
    if not _is_integer(value, end):
        raise _Damage(f"{what} has {_shown(value)}, expected an integer from 0 to {end - 1}")
    return int(value)


def _is_integer(value: Any, end: int) -> bool:
    return type(value) is int and 0 <= value < end  # true and false are none


def _are_numbers(values: Any, most: float) -> bool:
    """A list of at least one number, none larger than ``most``, and no NaN."""
    return isinstance(values, list) and bool(values) and all(type(v) in (int, float) and abs(v) <= most for v in values)


def _are_places(values: Any, end: int) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, list) and len(v) == 2 and _is_integer(v[0], end) and _is_integer(v[1], end) for v in values
    )


def _read_frame(index: int, area: Any, annotation: Any, scores: Any, cells: Any, side: int | None) -> FrameCandidates:
    """Lists are short and files long, so all is checked without arrays."""
    here, end = f"of frame {index}", side or 2**31
    if not (_are_numbers(area, LARGEST) and len(area) == 4 and min(area[2:]) > 0):
        raise _Damage(f"search_area_box {here} is {_shown(area)}, expected (x, y, w, h) in pixels with an area")
    if not _are_numbers(scores, LARGEST) or any(a < b for a, b in itertools.pairwise(scores)):
        raise _Damage(
            f"target_candidate_scores {here} is {_shown(scores)}, expected numbers, at least one, highest first"
        )
    if not _are_places(cells, end) or len(cells) != len(scores):
        raise _Damage(
            f"target_candidate_coords {here} is {_shown(cells)}, expected (row, column) of {len(scores)} candidates, as many "
            f"as there are scores, each from 0 to {end - 1}"
        )
    if not _are_places([annotation], end):
        raise _Damage(
            f"target_anno_coord {here} is {_shown(annotation)}, expected (row, column), each from 0 to {end - 1}"
        )
    x, y, w, h = map(float, area)
    row, column = annotation
    return FrameCandidates(index, (x, y, w, h), (row, column), np.array(scores, np.float64), np.array(cells, np.int64))


def _read_categories(
    values: dict[str, Any], what: str, names: SequenceOf[str], kept: set[int], steps: SequenceOf[int]
) -> dict[str, tuple[int, ...]]:
    """Category -> frame numbers; absent categories have none. ``steps``: frames that each needs, from its own on."""
    found = values.get(what)
    if not isinstance(found, dict) or set(found) - set(names):
        raise _Damage(f"{what} is {_shown(found)}, expected lists of frame numbers by category: {', '.join(names)}")
    read: dict[str, tuple[int, ...]] = {}
    for name in names:
        group = found.get(name, [])
        if not isinstance(group, list):
            raise _Damage(f"{what}.{name} is {_shown(group)}, expected a list of frame numbers")
        numbers = read[name] = tuple(_integer(i, f"{what}.{name}") for i in group)
        absent = [i + step for i in numbers for step in steps if i + step not in kept]
        if absent:
            raise _Damage(f"{what}.{name} needs frame {absent[0]}, which has no candidates in index")
        if len(set(numbers)) < len(numbers):
            raise _Damage(f"{what}.{name} is {_shown(group)}, expected each frame once")
    return read


def _short(value: float) -> float:
    return float(f"{value:.7g}")  # a float32's digits


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """What a base tracker saw in one frame."""

    scores: npt.NDArray[np.floating]
    """(S, S), as its localisation reads them."""
    view: View
    """The crop."""
    cell: float
    """Crop pixels between two cells."""


class ScoreMaps:
    """Listens to a tracker of the DiMP family, or to dimp-lite: :attr:`last` is the first target's map of the last frame.

    Raises :class:`InputError` for a tracker without score maps of this kind.
    """

    def __init__(self, tracker: Tracker[Any]) -> None:
        from ..models.lite import STRIDE
        from ..trackers.dimp import DiMPTracker
        from ..trackers.dimp_lite import LiteTracker

        self.last: ScoreMap | None = None
        if isinstance(tracker, LiteTracker):

            def observe_lite(scores: np.ndarray, views: list[View], outcomes: list[Outcome]) -> None:
                self.last = ScoreMap(scores[0], views[0], STRIDE)

            tracker._observe = observe_lite  # type: ignore[method-assign]
        elif isinstance(tracker, DiMPTracker):
            dimp = tracker

            def observe(raw: torch.Tensor, outcomes: list[Outcome]) -> None:
                assert dimp._last is not None  # set just before
                scores = dimp._preprocess(raw[:1])[0].cpu().numpy()
                self.last = ScoreMap(scores, dimp._last.views[0], dimp.cell)

            dimp._observe = observe  # type: ignore[method-assign, assignment]
        else:
            raise InputError(f"{tracker.name} makes no score maps; use dimp-lite or a tracker of the DiMP family")


def record(
    tracker: Tracker[Any], maps: ScoreMaps, sequence: Sequence, *, threshold: float = 0.05, frames: int | None = None
) -> tuple[SequenceCandidates, int]:
    """Follow the target of ``sequence`` from its first visible frame on; the kept frames, and the side of the score map.

    ``threshold``: τ of the candidates. ``frames``: look at no more than this many. Side 0: the target was never visible.
    """
    visible = visible_frames(sequence)
    last = len(sequence) if frames is None else min(frames, len(sequence))
    seen = np.flatnonzero(visible[:last])
    if not len(seen):
        return SequenceCandidates.of((), {}), 0
    first, side = int(seen[0]), 0
    tracker.init(sequence.frames[first], box=[float(v) for v in sequence.boxes[first]])
    kept: list[FrameCandidates] = []
    states: dict[int, str] = {}
    for index in range(first + 1, last):
        tracker.update(sequence.frames[index])
        if maps.last is None:
            raise InputError(f"{tracker.name} gave no score map for frame {index}")
        side = maps.last.scores.shape[-1]
        if not (index < len(visible) and visible[index]):
            continue
        cells, scores = find_candidates(torch.from_numpy(np.asarray(maps.last.scores, np.float32)), threshold)
        view = maps.last.view
        annotation = annotation_cell([float(v) for v in sequence.boxes[index]], view, maps.last.cell, side)
        state = frame_state(annotation, cells.numpy(), scores.numpy())
        if state is None:
            continue
        states[index] = state
        area = view.search_area
        kept.append(
            FrameCandidates(index, (area.x, area.y, area.w, area.h), annotation, scores.double().numpy(), cells.numpy())
        )
    return SequenceCandidates.of(kept, states), side


# --- data sets -------------------------------------------------------------------------------------------------------------


def open_sequences(spec: str, root: str | Path | None = None) -> Mapping[str, Sequence]:
    """Sequences by name of a training set (``lasot:train``), an evaluation data set (``otb100``), or synthetic videos.

    ``lookalikes:procedural``, ``lookalikes:shared``: the videos of ``composite:`` with one to three distractors, mostly the
    target's own cut-out or another of its kind, each of which comes close to the target once.
    Raises :class:`InputError` for unknown names and data that is not there.
    """
    from ..datasets.catalog import entries, open_dataset
    from ..datasets.training_sets import open_training_set, training_entries

    if spec.startswith(LOOK_ALIKES):
        return ByName(_with_look_alikes(open_training_set("composite:" + spec.removeprefix(LOOK_ALIKES), root), spec))
    base, _, split = spec.partition(":")
    known = training_entries().get(base)
    if known is None or (split not in known.splits and base in entries()):
        return open_dataset(spec, root)
    return ByName(open_training_set(spec, root))


def _with_look_alikes(videos: TrainingSet, name: str) -> TrainingSet:
    from ..datasets.composite import CompositeSet

    if not isinstance(videos, CompositeSet):
        raise InputError(f"{name!r}: only procedural, shared and shared_all videos have look-alikes")
    config = replace(
        videos.config, distractors=(0.0, 0.4, 0.35, 0.25), same=0.65, kindred=0.25, meeting=1.0, meeting_gap=(0.2, 1.2)
    )
    return CompositeSet(videos.videos, videos.seed, config, videos.cutouts, videos.backgrounds, name)


class ByName(Mapping[str, Sequence]):
    """A training set's elements by the names of their sequences; names that come twice get their number behind them."""

    def __init__(self, elements: TrainingSet) -> None:
        self.elements = elements
        self._numbered: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self) -> Iterator[str]:
        """In order; elements are opened only as far as asked for."""
        taken: set[str] = set()
        for index in range(len(self)):
            name = self.elements[index].name
            name = f"{name}#{index}" if name in taken else name
            taken.add(name)
            yield name

    def __getitem__(self, name: str) -> Sequence:
        from ..datasets.composite import CompositeSet

        if isinstance(self.elements, CompositeSet) and name.isdecimal():  # its names are its numbers
            return self.elements[int(name)]
        if self._numbered is None:
            self._numbered = {n: i for i, n in enumerate(self)}
        return self.elements[self._numbered[name]]


# --- the file --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CandidateConfig:
    """How a candidate set is made."""

    tracker: str = "superdimp_simple"
    """Base tracker."""
    weights: str | None = None
    """Its weights, if not its own."""
    data: tuple[str, ...] = ("lasot:train",)
    """Data sets, see :func:`open_sequences`."""
    sequences: int | None = None
    """Only the first so many of each; None: all."""
    frames: int | None = None
    """Only the first so many frames of each; None: all."""
    threshold: float = 0.05
    """A peak above this is a candidate (τ)."""
    seed: int = 0
    """Of the tracker."""

    def __post_init__(self) -> None:
        if not self.data:
            raise InputError("there is no data set to track; give at least one in data")
        for name in ("sequences", "frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1, or none for all")


@dataclass(eq=False)
class CandidateSet:
    """Candidates of many sequences; pictures come from the data sets that were tracked."""

    sequences: dict[str, SequenceCandidates]
    """By key: the sequence's name, with several data sets ``SPEC/NAME``."""
    data: tuple[str, ...] = ()
    side: int = 23
    """Of the score map, in cells."""
    root: str | None = None
    """Folder of the data sets."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, JSON values."""

    def picture(self, key: str, index: int) -> npt.NDArray[np.uint8]:
        """Frame ``index`` (H, W, 3) RGB of a sequence. :class:`InputError`: the data set has no such sequence or frame."""
        frames = self._opened(key).frames
        try:
            image: npt.NDArray[np.uint8] = frames[index]
        except IndexError:
            raise InputError(
                f"the candidate file names frame {index} of {key!r}, which has {len(frames)} frames; it was made of other data: "
                "make it again, or give the --data-root of then"
            ) from None
        return image

    def _opened(self, key: str) -> Sequence:
        """Opened sequences stay open: a synthetic video is decided at its first picture."""
        kept: dict[str, Sequence] = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            sets: dict[str, Mapping[str, Sequence]] = self.__dict__.setdefault("_sets", {})
            spec, name = self._place(key)
            if spec not in sets:
                sets[spec] = open_sequences(spec, self.root)
            try:
                kept[key] = sets[spec][name]
            except (KeyError, IndexError):
                raise InputError(f"{spec} has no sequence {name!r}, which the candidate file names") from None
            while len(kept) > KEPT:
                kept.pop(next(iter(kept)))
        return kept[key]

    def _place(self, key: str) -> tuple[str, str]:
        if len(self.data) == 1:
            return self.data[0], key
        for spec in self.data:
            if key.startswith(spec + "/"):
                return spec, key.removeprefix(spec + "/")
        raise InputError(f"the candidate file names {key!r}, but not the data set that it is of; its data: {self.data}")

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_kept", "_sets")}  # workers open their own

    def counts(self) -> dict[str, int]:
        """Frames of each category and pairs of each kind."""
        found = dict.fromkeys((*STATES, *PAIRS), 0)
        for sequence in self.sequences.values():
            for name, frames in (*sequence.states.items(), *sequence.pairs.items()):
                found[name] += len(frames)
        return found

    def only(self, keys: SequenceOf[str]) -> CandidateSet:
        """The same with these sequences alone."""
        return replace(self, sequences={k: self.sequences[k] for k in keys})


KEPT = 256
"""Opened sequences that a :class:`CandidateSet` remembers."""


def read_candidates(
    path: str | Path, root: str | Path | None = None, data: SequenceOf[str] = (), side: int | None = None
) -> CandidateSet:
    """A candidate file. ``data`` and ``side``: for published files, which do not say them (their score map has 23 cells).

    Raises :class:`InputError` for a file that is not there or damaged; it names the sequence and the field.
    """
    try:
        values = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(
            f"the candidate file {path} cannot be read ({error.strerror or error}); make it with `keepsight train keeptrack "
            f"--stage candidates --out {path}`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the candidate file {path} is no JSON ({error}); make it again") from None
    if not isinstance(values, dict):
        raise InputError(f"the candidate file {path} holds no sequences; make it again")
    about = _read_about(values.pop(ABOUT, {}), path)
    cells = side or about.get("side") or PUBLISHED_SIDE
    found = {name: SequenceCandidates.from_json(v, name, cells) for name, v in values.items()}
    return CandidateSet(
        found, tuple(data) or tuple(about.get("data", ())), cells, None if root is None else str(root), about
    )


PUBLISHED_SIDE = 23
"""Cells of the score map of the published candidate files."""


def _read_about(about: Any, path: str | Path) -> dict[str, Any]:
    """The entry ``keepsight``: all that is read of it is what it should be."""

    def damaged(what: str, expected: str) -> InputError:
        return InputError(
            f"the entry {ABOUT!r} of the candidate file {path} is damaged: {what}, expected {expected}; make the file again"
        )

    if not isinstance(about, dict):
        raise damaged(f"it is {_shown(about)}", "an object")
    form, side, data = about.get("format", FORMAT), about.get("side", 0), about.get("data", [])
    if type(form) is not int or form < 1:
        raise damaged(f"format is {_shown(form)}", f"an integer from 1 to {FORMAT}")
    if form > FORMAT:
        raise InputError(f"the candidate file {path} was written by a later keepsight; upgrade it")
    if type(side) is not int or not 0 <= side < 2**16:
        raise damaged(f"side is {_shown(side)}", "the cells of the score map, an integer")
    if not isinstance(data, list) or not all(isinstance(spec, str) and spec for spec in data):
        raise damaged(f"data is {_shown(data)}", "a list of names of data sets")
    skipped = about.get("skipped", {})
    if not isinstance(skipped, dict) or not all(isinstance(reason, str) for reason in skipped.values()):
        raise damaged(f"skipped is {_shown(skipped)}", "reasons by sequence")
    return about


def build_candidates(
    config: CandidateConfig,
    path: str | Path | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: Progress = lambda done, of, name: None,
    stop: Callable[[], int] = lambda: 0,
) -> CandidateSet:
    """Track and keep. With a ``path`` the file is rewritten after each sequence (as a whole or not at all), and sequences that
    it has are not tracked again. ``stop()`` is asked before each sequence: then what is there is returned. ``progress(done, of,
    name)`` is called after each.

    A sequence whose files are broken is left out and named in ``about["skipped"]``.
    Raises :class:`InputError` for a file that was made with other settings, and for data and trackers that are not there.
    """
    import keepsight as ks

    about: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(config)}))
    found = CandidateSet({}, config.data, 0, None if root is None else str(root), about)
    if path is not None and Path(path).exists():
        there = read_candidates(path, root)
        made = {k: v for k, v in there.about.items() if k in about}
        # more sequences of the same kind are a longer run, not another one
        differing = sorted(k for k in about if k != "sequences" and made.get(k) != about[k])
        if differing:
            raise InputError(
                f"{path} was made with other settings ({', '.join(differing)}); give another --out, or remove it"
            )
        found.sequences, found.side = there.sequences, int(there.about.get("side", 0))
        about["skipped"] = there.about.get("skipped", {})
    skipped: dict[str, str] = about.setdefault("skipped", {})
    tracker = ks.load(config.tracker, weights=config.weights, device=device, seed=config.seed)
    maps = ScoreMaps(tracker)
    plan = [(spec, opened, name) for spec in config.data for opened, name in _listed(spec, root, config.sequences)]
    for number, (spec, opened, name) in enumerate(plan, 1):
        key = name if len(config.data) == 1 else f"{spec}/{name}"
        if key in found.sequences:
            continue
        if stop():
            return found
        try:
            recorded, side = record(tracker, maps, opened[name], threshold=config.threshold, frames=config.frames)
            found.sequences[key] = recorded
            skipped.pop(key, None)  # files were mended since
            found.side = found.side or side
        except (VideoError, InputError) as error:
            skipped[key] = str(error)
        finally:
            tracker.reset()
        about["side"] = found.side
        if path is not None:
            _write(Path(path), {ABOUT: about, **{k: v.to_json() for k, v in found.sequences.items()}})
        progress(number, len(plan), key)
    if not found.sequences:
        reason = next(iter(skipped.values()), "none was tracked")
        raise InputError(f"{', '.join(config.data)}: no sequence could be used ({reason})")
    return found


def _listed(spec: str, root: str | Path | None, limit: int | None) -> Iterator[tuple[Mapping[str, Sequence], str]]:
    opened = open_sequences(spec, root)
    for number, name in enumerate(opened):
        if limit is not None and number >= limit:
            return
        yield opened, name


def _write(path: Path, values: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(values, separators=(",", ":"), allow_nan=False))
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"the candidate file {path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
