"""Result folders of other toolkits, read into :class:`Run`: pytracking, pysot, got10k, LaSOT, OTB, VOT, OxUvA, masks.

Example::

    found = read_results("results/SiamFC.zip", dataset)      # folder or zip; says what it took
    scores = score(dataset.values(), found.runs, tracker=found.tracker, dataset="otb100", rule="otb")

Nothing is unpacked: zip files are read in place. Numbers are taken as they are: whether a file that is longer or shorter
than the ground truth is an error is the scoring rule's decision. A file that cannot be understood is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import InputError
from ..regions import region_to_box
from ..text import parse_rows
from .common import listed
from .file_tree import FileTree, open_tree
from .oxuva import file_scale
from .runs import Run
from .vot_files import decode_regions, parse_regions

Array = npt.NDArray[np.float64]

LAYOUTS: Mapping[str, str] = {
    "pytracking": "<tracker>/<param>[_NNN]/<seq>.txt, with <seq>_time.txt and <seq>_object_presence_scores.txt",
    "pysot": "<dataset>/<tracker>/<seq>.txt",
    "got10k": "<tracker>/<seq>/<seq>_NNN.txt with <seq>_time.txt, or <tracker>/<seq>.txt",
    "lasot": "<tracker>_tracking_result/<seq>.txt",
    "otb": "<tracker>/<seq>.txt",
    "vot": "<tracker>/<experiment>/<seq>/<seq>_NNN.txt or .bin, with _time.value and _confidence.value",
    "oxuva": "<tracker>/<video>_<object>.csv",
    "masks": "<tracker>/<seq>/<frame>.png (DAVIS), Annotations/<video>/<frame>.png (YouTube-VOS)",
}
"""What is understood, and how it looks below the given folder or inside the zip file; leading folders may be absent."""

EXPERIMENTS = ("baseline", "longterm", "unsupervised", "realtime", "redetection")
"""VOT's, most wanted first."""

_AUXILIARY = re.compile(r"(?P<seq>.+?)(?P<role>_time|_object_presence_scores)$")
_NESTED = re.compile(r"_(?P<rep>\d{3}|\d{8})(?P<role>_time|_confidence)?$")


@dataclass(frozen=True, eq=False)
class ForeignResults:
    """What was found."""

    tracker: str
    """From the folder's or the zip's names."""
    runs: dict[str, list[Run]]
    """Sequence name of the data set -> repetitions (VOT2020: anchors), in the data set's order."""
    layout: str
    """Key of :data:`LAYOUTS`."""
    notes: tuple[str, ...] = ()
    """Which layout was taken, files that match no sequence, sequences without a file, files left aside."""


def read_results(
    path: str | Path,
    dataset: Mapping[str, Sequence],
    layout: str = "auto",
    *,
    tracker: str | None = None,
    experiment: str | None = None,
) -> ForeignResults:
    """Read one tracker's results on one data set.

    Args:
        path: a folder, or a ``.zip`` file.
        dataset: sequence name -> sequence. Names are matched exactly, then without regard to case, to the kind of
            separator (``jogging.1``, ``Jogging(2)``) and to the prefixes ``nfs_``, ``uav_``, ``otb_``.
        layout: a key of :data:`LAYOUTS`, or ``auto``.
        tracker: which one, if the folder holds several.
        experiment: which of VOT's (:data:`EXPERIMENTS`), if there are several.

    Raises :class:`VideoError` if something cannot be read and :class:`InputError` if no layout fits, if several trackers
    are there, or if a file does not hold what it should (with file and line).
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise InputError(f"there is no result layout {layout!r}; give auto or one of {_layout_lines()}")
    if not dataset:
        raise InputError("the data set has no sequences, so no result file can belong to one")
    expected = f"the folder or zip file with a tracker's results: {_layout_lines()}"
    with open_tree(Path(path).expanduser(), expected) as tree:
        files = _find(tree, _Names(dataset), layout)
        files, notes = _choose(tree, files, tracker, experiment)
        runs = _READERS[files.family](tree, files, dataset, notes)
    ordered = {name: runs[name] for name in dataset if name in runs}
    missing = [name for name in dataset if name not in runs]
    notes.insert(0, f"read as {files.layout}: {len(ordered)} of {len(dataset)} sequences")
    if missing:
        notes.append(f"no result for {listed(missing)}")
    if files.unknown:
        notes.append(f"files that match no sequence: {listed(files.unknown)}")
    return ForeignResults(files.tracker, ordered, files.layout, tuple(notes))


# --- which file belongs to which sequence ---------------------------------------------------------------------------------


class _Names:
    """Finds the sequence that a result file's name means."""

    def __init__(self, dataset: Mapping[str, Sequence]) -> None:
        self._exact = set(dataset)
        self._folded = _unique((name.casefold(), name) for name in dataset)
        self._plain = _unique((_plain(name), name) for name in dataset)
        # "Human4" means Human4-2 where that is the only numbered one
        bases = ((re.sub(r"-\d+$", "", _plain(name)), name) for name in dataset if re.search(r"-\d+$", _plain(name)))
        self._base = {base: name for base, name in _unique(bases).items() if base and base not in self._plain}

    def find(self, text: str) -> str | None:
        """The sequence's own name, or None."""
        if text in self._exact:
            return text
        plain = _plain(text)
        return self._folded.get(text.casefold()) or self._plain.get(plain) or self._base.get(plain)


def _plain(name: str) -> str:
    """Lower case, ``-`` for every kind of separator, without the prefixes that toolkits add."""
    plain = re.sub(r"[\s._()-]+", "-", name.casefold()).strip("-")
    return re.sub(r"^(nfs|uav|otb)-", "", plain)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keys that stand for one name only."""
    found: dict[str, set[str]] = {}
    for key, name in pairs:
        found.setdefault(key, set()).add(name)
    return {key: next(iter(names)) for key, names in found.items() if len(names) == 1}


@dataclass(frozen=True)
class _File:
    """A file that belongs to a sequence."""

    name: str
    group: tuple[str, ...]
    """Folders above."""
    sequence: str
    text: str
    """How the file names the sequence."""
    role: str = "result"
    """``result``, ``time``, ``presence``, ``confidence``, or the name of a mask's frame."""
    repetition: int | None = None
    anchor: bool = False
    """The number is not a repetition but the frame where a run of VOT2020's protocol started (eight digits)."""


@dataclass(frozen=True)
class _Files:
    """Files of one family of layouts."""

    family: str
    """``flat``, ``nested``, ``vot``, ``csv`` or ``png``: what reads them."""
    layout: str
    tracker: str
    files: tuple[_File, ...]
    unknown: tuple[str, ...] = ()
    """Files of the right kind whose sequence the data set does not have."""

    @property
    def sequences(self) -> set[str]:
        return {f.sequence for f in self.files if f.role not in ("time", "presence", "confidence")}


_FAMILIES = {
    "pytracking": ("flat",),
    "pysot": ("flat", "nested"),
    "got10k": ("nested", "flat"),
    "lasot": ("flat",),
    "otb": ("flat",),
    "vot": ("nested",),
    "oxuva": ("csv",),
    "masks": ("png",),
}


def _find(tree: FileTree, names: _Names, layout: str) -> _Files:
    """The family of layouts under which most sequences have a file."""
    sorted_out = {
        "nested": _nested(tree.names, names),
        "flat": _flat(tree.names, names),
        "csv": _csv(tree.names, names),
        "png": _png(tree.names, names),
    }
    wanted = tuple(sorted_out) if layout == "auto" else _FAMILIES[layout]
    tried = [_Files(f, layout, "", tuple(sorted_out[f][0]), tuple(sorted_out[f][1])) for f in wanted]
    best = max(tried, key=lambda t: len(t.sequences))  # the first of equals
    if not best.sequences:
        raise InputError(_nothing_found(tree, layout))
    return best


def _nothing_found(tree: FileTree, layout: str) -> str:
    kinds = sorted({PurePosixPath(n).suffix.lower() or "no suffix" for n in tree.names})
    shown = f"{len(tree.names)} files ({', '.join(kinds[:6])}), e.g. {tree.names[0]}" if tree.names else "no files"
    where = f"{tree.path} has {shown}"
    if ".mat" in kinds:
        return (
            f"{where}; MATLAB files are not read: save each sequence's boxes as text, in MATLAB with "
            "writematrix(results{1}.res, 'Basketball.txt'), or in Python with scipy.io.loadmat and numpy.savetxt"
        )
    looked = _layout_lines() if layout == "auto" else f"{layout}: {LAYOUTS[layout]}"
    return f"{where}, and none belongs to a sequence of the data set; looked for {looked}"


def _layout_lines() -> str:
    return "".join(f"\n  {name}: {looks}" for name, looks in LAYOUTS.items())


def _nested(paths: list[str], names: _Names) -> tuple[list[_File], list[str]]:
    """``<seq>/<seq>_NNN.txt`` and what lies beside it."""
    files, unknown = [], []
    for path in paths:
        parts = PurePosixPath(path).parts
        if len(parts) < 2 or PurePosixPath(path).suffix not in (".txt", ".bin", ".value"):
            continue
        folder, stem = parts[-2], PurePosixPath(path).stem
        if not stem.startswith(f"{folder}_"):
            continue
        end = _NESTED.fullmatch(stem[len(folder) :])
        if end is None and stem != f"{folder}_time":
            continue
        sequence = names.find(folder)
        if sequence is None:
            unknown.append(path)
            continue
        if end is None:
            files.append(_File(path, parts[:-2], sequence, folder, "time"))
            continue
        role = {None: "result", "_time": "time", "_confidence": "confidence"}[end["role"]]
        files.append(_File(path, parts[:-2], sequence, folder, role, int(end["rep"]), len(end["rep"]) == 8))
    return files, unknown


def _flat(paths: list[str], names: _Names) -> tuple[list[_File], list[str]]:
    """``<seq>.txt``, ``<seq>_time.txt``, ``<seq>_object_presence_scores.txt``, ``times/<seq>_time.txt``."""
    files, unknown = [], []
    for path in paths:
        if PurePosixPath(path).suffix != ".txt":
            continue
        group, stem = PurePosixPath(path).parts[:-1], PurePosixPath(path).stem
        sequence, role, text = names.find(stem), "result", stem
        end = _AUXILIARY.fullmatch(stem)
        if sequence is None and end is not None:
            text, role = end["seq"], "time" if end["role"] == "_time" else "presence"
            sequence = names.find(text)
        if role == "time" and group[-1:] == ("times",):
            group = group[:-1]
        if sequence is None:
            unknown.append(path)
        else:
            files.append(_File(path, group, sequence, text, role))
    return files, unknown


def _csv(paths: list[str], names: _Names) -> tuple[list[_File], list[str]]:
    files, unknown = [], []
    for path in paths:
        if PurePosixPath(path).suffix != ".csv":
            continue
        stem = PurePosixPath(path).stem
        sequence = names.find(stem)
        if sequence is None:
            unknown.append(path)
        else:
            files.append(_File(path, PurePosixPath(path).parts[:-1], sequence, stem))
    return files, unknown


def _png(paths: list[str], names: _Names) -> tuple[list[_File], list[str]]:
    files, unknown = [], []
    for path in paths:
        parts = PurePosixPath(path).parts
        if PurePosixPath(path).suffix.lower() != ".png" or len(parts) < 2:
            continue
        sequence = names.find(parts[-2])
        group = tuple(p for p in parts[:-2] if p not in ("Annotations", "480p", "Full-Resolution"))
        if sequence is None:
            unknown.append(path)
        else:
            files.append(_File(path, group, sequence, parts[-2], PurePosixPath(path).stem))
    return files, unknown


def _choose(tree: FileTree, found: _Files, tracker: str | None, experiment: str | None) -> tuple[_Files, list[str]]:
    """One tracker, and for VOT one experiment; names the layout."""
    notes: list[str] = []
    layout, family = found.layout, found.family
    if family == "nested" and layout != "got10k":
        first = next(f for f in found.files if f.role == "result")
        if layout == "vot" or first.name.endswith(".bin") or _starts_with_code(tree.read(first.name)):
            family = layout = "vot"
    if layout == "auto":
        layout = {"nested": "got10k", "csv": "oxuva", "png": "masks", "flat": _flat_layout(found)}[family]
    if family == "vot":
        found, notes = _one_experiment(found, experiment)
    labels = {f.group: _label(f.group, layout, tree.path.absolute()) for f in found.files}
    trackers = sorted(set(labels.values()))
    fits = [n for n in trackers if tracker is None or tracker == n or tracker == n.rpartition("/")[2]]
    if len(fits) != 1:
        asked = (
            "" if tracker is None else f", and tracker={tracker!r} means {'none' if not fits else 'several'} of them"
        )
        raise InputError(
            f"{tree.path} holds results of {listed(trackers, 12)}{asked}; give the folder of one tracker, or its name as "
            "`tracker`"
        )
    files = tuple(f for f in found.files if labels[f.group] == fits[0])
    files, doubles = _without_doubles(files)
    if doubles:
        notes.append(f"two files for one sequence, these were not used: {listed(doubles)}")
    folders = {
        PurePosixPath(f.name).parent if family in ("flat", "csv") else PurePosixPath(f.name).parent.parent
        for f in files
    }
    unknown = tuple(u for u in found.unknown if folders & set(PurePosixPath(u).parents))
    return replace(found, family=family, layout=layout, tracker=fits[0], files=files, unknown=unknown), notes


def _starts_with_code(data: bytes) -> bool:
    """Whether the first line is one number, as in VOT's files."""
    first = data.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    return re.fullmatch(rb"[0-9.eE+-]+", first) is not None


def _flat_layout(found: _Files) -> str:
    groups = {f.group for f in found.files}
    if all(g and g[-1].endswith("_tracking_result") for g in groups):
        return "lasot"
    if any(PurePosixPath(f.name).parent.name == "times" for f in found.files):
        return "got10k"
    beside = {f.role for f in found.files}
    if "presence" in beside or "time" in beside or any(g and re.search(r"_\d{3}$", g[-1]) for g in groups):
        return "pytracking"
    return "otb"


def _label(group: tuple[str, ...], layout: str, path: Path) -> str:
    """Name of the tracker whose files lie in ``group`` below ``path``."""
    parts = (*path.parts[1:-1], re.sub(r"\.zip$", "", path.name, flags=re.IGNORECASE))
    while layout == "vot" and not group and len(parts) > 1 and parts[-1] in EXPERIMENTS:
        parts = parts[:-1]
    name = group[-1] if group else parts[-1]
    if layout == "lasot":
        return re.sub(r"_tracking_result$", "", name)
    if layout == "pytracking":
        above = group[-2] if len(group) > 1 else parts[-1] if group else parts[-2] if len(parts) > 1 else ""
        return f"{above}/{re.sub(r'_[0-9]{3}$', '', name)}"
    return name


def _one_experiment(found: _Files, experiment: str | None) -> tuple[_Files, list[str]]:
    """Files of one of VOT's experiments, whose folder is then no part of the group."""

    def of(file: _File) -> str | None:
        return file.group[-1] if file.group and file.group[-1] in (*EXPERIMENTS, experiment) else None

    there = sorted({e for f in found.files if (e := of(f)) is not None})
    if experiment is not None and experiment not in there and there:
        raise InputError(f"there is no experiment {experiment!r} among the results; there are {', '.join(there)}")
    wanted = experiment or next((e for e in EXPERIMENTS if e in there), None)
    files = [replace(f, group=f.group[:-1] if of(f) else f.group) for f in found.files if of(f) in (wanted, None)]
    notes = []
    if len(there) > 1:
        notes.append(f"experiment {wanted} was read, not {', '.join(e for e in there if e != wanted)}")
    elif wanted:
        notes.append(f"experiment {wanted}")
    return replace(found, files=tuple(files)), notes


def _without_doubles(files: tuple[_File, ...]) -> tuple[tuple[_File, ...], list[str]]:
    """Of several files for one place the one whose name is most like the sequence's."""
    best: dict[tuple[object, ...], _File] = {}
    doubles = []
    for f in sorted(files, key=lambda f: (f.text != f.sequence, f.text.casefold() != f.sequence.casefold(), f.name)):
        place = (f.group, f.sequence, f.role, f.repetition, f.name.endswith(".bin"))
        if place in best:
            doubles.append(f.name)
        best.setdefault(place, f)
    kept = {f.name for f in best.values()}
    return tuple(f for f in files if f.name in kept), doubles


# --- reading --------------------------------------------------------------------------------------------------------------


def _read_flat(
    tree: FileTree, files: _Files, dataset: Mapping[str, Sequence], notes: list[str]
) -> dict[str, list[Run]]:
    """One folder per repetition (pytracking: ``param_000``, ``param_001``), or one folder."""
    runs: dict[str, list[Run]] = {}
    aside = {(f.group, f.sequence, f.role): f.name for f in files.files}
    for f in sorted(files.files, key=lambda f: (f.group, f.name)):
        if f.role != "result":
            continue
        boxes = parse_rows(tree.read(f.name), tree.label(f.name), 4)  # (N, 4)
        seconds = _beside(tree, aside.get((f.group, f.sequence, "time")), len(boxes), notes)
        presence = _beside(tree, aside.get((f.group, f.sequence, "presence")), len(boxes), notes)
        runs.setdefault(f.sequence, []).append(Run(boxes=boxes, seconds=seconds, presence=presence))
    return runs


def _read_nested(
    tree: FileTree, files: _Files, dataset: Mapping[str, Sequence], notes: list[str]
) -> dict[str, list[Run]]:
    """GOT-10k: ``<seq>_001.txt``, ...; ``<seq>_time.txt`` has a column per repetition."""
    runs: dict[str, list[Run]] = {}
    times = {f.sequence: f.name for f in files.files if f.role == "time"}
    results = sorted((f for f in files.files if f.role == "result"), key=lambda f: (f.sequence, f.repetition or 0))
    for f in results:
        boxes = parse_rows(tree.read(f.name), tree.label(f.name), 4)
        runs.setdefault(f.sequence, []).append(Run(boxes=boxes))
    for sequence, name in times.items():
        own = runs.get(sequence, [])
        table = parse_rows(tree.read(name), tree.label(name), None)  # (N, repetitions)
        if table.shape[1] == len(own):
            runs[sequence] = [
                replace(r, seconds=_fitted(table[:, k], len(r.boxes), name, notes)) for k, r in enumerate(own)
            ]
        elif table.shape[1] == 1 and own:  # pytracking keeps the last repetition's
            own[-1] = replace(own[-1], seconds=_fitted(table[:, 0], len(own[-1].boxes), name, notes))
        elif own:
            notes.append(f"{name} has {table.shape[1]} columns for {len(own)} repetitions, so times are not known")
    return runs


def _beside(tree: FileTree, name: str | None, count: int, notes: list[str]) -> Array | None:
    """(N,) of a file with one number per line; None if there is no file."""
    if name is None:
        return None
    return _fitted(parse_rows(tree.read(name), tree.label(name), 1)[:, 0], count, name, notes)


def _fitted(values: Array, count: int, name: str, notes: list[str]) -> Array:
    """(count,): cut, or filled up with nan."""
    if len(values) == count:
        return values
    notes.append(f"{name} has {len(values)} lines for {count} boxes")
    return np.concatenate((values[:count], np.full(max(count - len(values), 0), np.nan)))


def _confidences(text: bytes, label: str, count: int) -> Array:
    """(count,) numbers, nan for empty lines. They decide the score, so a file that does not fit is an error."""
    lines = text.count(b"\n") + (not text.endswith(b"\n"))
    values = parse_rows(text, label, 1, blank="nan")[:, 0] if text.strip() else np.zeros(0)  # no empty lines at the end
    if len(values) > count or lines < count - 1:  # the last frame's line may be empty and without line end
        raise InputError(f"{label} has {lines} lines for {count} frames of its run; run this sequence again")
    return np.pad(values, (0, count - len(values)), constant_values=np.nan)


def _read_vot(tree: FileTree, files: _Files, dataset: Mapping[str, Sequence], notes: list[str]) -> dict[str, list[Run]]:
    """Regions and codes, with times and confidences where they lie beside. Binary is taken where text is there too."""
    runs: dict[str, list[Run]] = {}
    aside = {(f.sequence, f.role, f.repetition): f.name for f in files.files if f.role != "result"}
    results = [f for f in files.files if f.role == "result"]
    as_binary = {(f.sequence, f.repetition) for f in results if f.name.endswith(".bin")}
    numbers = {(f.sequence, f.repetition or 0) for f in results}
    for f in sorted(results, key=lambda f: (f.sequence, f.repetition or 0)):
        if f.name.endswith(".txt") and (f.sequence, f.repetition) in as_binary:
            continue
        decode = decode_regions if f.name.endswith(".bin") else parse_regions
        regions = decode(tree.read(f.name), tree.label(f.name))
        boxes = np.array([region_to_box(r) for r in regions])  # (N, 4)
        presence, seconds = None, None
        confidence = aside.get((f.sequence, "confidence", f.repetition))
        if confidence is not None:
            presence = _confidences(tree.read(confidence), tree.label(confidence), len(regions))
        name = aside.get((f.sequence, "time", f.repetition)) or aside.get((f.sequence, "time", None))
        if name is not None:
            table = parse_rows(tree.read(name), tree.label(name), None, blank="nan")  # (N, 1 or repetitions)
            first = min(1, min(r for s, r in numbers if s == f.sequence))  # repetitions count from 1, or from 0
            column = min((f.repetition or 0) - first, table.shape[1] - 1) if not f.anchor else 0
            seconds = _fitted(table[:, column], len(regions), name, notes)
        run = Run(boxes, presence, seconds=seconds, regions=regions, anchor=f.repetition if f.anchor else None)
        runs.setdefault(f.sequence, []).append(run)
    return runs


def _read_png(tree: FileTree, files: _Files, dataset: Mapping[str, Sequence], notes: list[str]) -> dict[str, list[Run]]:
    """Mask files by the frames' names; frames without one have None."""
    runs: dict[str, list[Run]] = {}
    by_sequence: dict[str, dict[str, str]] = {}
    for f in files.files:
        by_sequence.setdefault(f.sequence, {})[f.role] = f.name
    for name, there in by_sequence.items():
        wanted = frame_names(dataset[name])
        fitting = set(wanted) & set(there)
        if not fitting:
            raise InputError(
                f"{tree.label(next(iter(there.values())))}: no mask file of {name} is named like a frame of the data set "
                f"({wanted[0]}.png, ...); rename the files"
            )
        if set(there) - fitting:
            notes.append(f"{name}: {len(set(there) - fitting)} mask files belong to no frame")
        masks = tree.masks(tuple(there.get(frame) for frame in wanted))
        runs[name] = [Run(boxes=np.full((len(wanted), 4), np.nan), masks=masks)]
    return runs


def frame_names(sequence: Sequence) -> tuple[str, ...]:
    """Names of the frames in mask files: the data set's own, else five digits from the first frame's number on."""
    if sequence.frame_names is not None:
        return sequence.frame_names
    return tuple(f"{sequence.start + i:05d}" for i in range(len(sequence)))


_PRESENT = {"true": True, "1": True, "present": True, "false": False, "0": False, "absent": False}
_HEADER = "video,object,frame_num,present,score,xmin,xmax,ymin,ymax"


def _read_csv(tree: FileTree, files: _Files, dataset: Mapping[str, Sequence], notes: list[str]) -> dict[str, list[Run]]:
    return {f.sequence: [_track(tree.read(f.name), tree.label(f.name), dataset[f.sequence])] for f in files.files}


def _track(data: bytes, label: str, sequence: Sequence) -> Run:
    """One OxUvA track. Frames without a line have no box and are not called absent; row 0, the given box, has none.

    Boxes are in the unit of the data set's annotation: pixels, or fractions if it has no images. Those of frames called
    absent are kept as they are in the file.
    """
    w, h = file_scale(sequence)
    n = len(sequence)
    boxes, presence = np.full((n, 4), np.nan), np.full(n, np.nan)
    lost = np.zeros(n, np.bool_)
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{label} is not text; give lines {_HEADER}") from None
    done: set[int] = set()
    for number, line in enumerate(lines, 1):
        cells = [c.strip() for c in line.split(",")]
        if not line.strip() or (number == 1 and cells == _HEADER.split(",")):
            continue
        where = f"{label}, line {number}"
        frame, present, score, (left, right, top, bottom) = _track_line(cells, where, sequence)
        if not 0 <= frame < n or frame in done:
            what = "stands twice" if frame in done else f"is outside {sequence.start}..{sequence.start + n - 1}"
            raise InputError(f"{where}: frame {frame + sequence.start} {what}; write each frame of the track once")
        done.add(frame)
        lost[frame], presence[frame] = not present, score
        boxes[frame] = left * w, top * h, (right - left) * w, (bottom - top) * h
    if not done:
        raise InputError(f"{label} holds no predictions; give lines {_HEADER}")
    return Run(boxes=boxes, presence=presence, lost=lost)


def _track_line(
    cells: list[str], where: str, sequence: Sequence
) -> tuple[int, bool, float, tuple[float, float, float, float]]:
    """Frame from the start, present, score, and xmin, xmax, ymin, ymax (nan for empty cells of an absent frame)."""
    if len(cells) != 9:
        raise InputError(f"{where} has {len(cells)} cells instead of 9: {','.join(cells)[:60]!r}; expected {_HEADER}")
    if f"{cells[0]}_{cells[1]}" != sequence.name:
        raise InputError(f"{where} is of {cells[0]}_{cells[1]}, the file's name says {sequence.name}")
    present = _PRESENT.get(cells[3].lower())
    if present is None:
        raise InputError(f"{where}: present is {cells[3]!r}; expected true or false, 1 or 0, present or absent")
    try:
        left, right, top, bottom = (np.nan if not present and not c else float(c) for c in cells[5:])
        return int(cells[2]) - sequence.start, present, float(cells[4]), (left, right, top, bottom)
    except ValueError as error:
        raise InputError(f"{where}: {error}; expected {_HEADER}") from None


_READERS = {"flat": _read_flat, "nested": _read_nested, "vot": _read_vot, "csv": _read_csv, "png": _read_png}
