"""What is wrong with a copy of a data set: every finding with its file, and never a crash.

Example::

    report = check("otb100", root="/data/OTB100")
    report.sequences, report.expected.sequences, report.missing
    for finding in report.findings:
        finding.level, finding.sequence, finding.file, finding.message
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import KeepsightError
from .catalog import UNIONS, Entry, Expected, entries, full_name, parse_name
from .frames import FolderFrames, NoFrames, VideoFrames, count_packets
from .roots import find_root
from .sequence import Sequence

Level = Literal["error", "note"]
_SHOWN = 5  # numbers or names listed in one message


@dataclass(frozen=True)
class Finding:
    """One thing about one sequence."""

    level: Level
    """``error``: the sequence cannot be used, or not rightly. ``note``: worth knowing, and ordinary for some data sets."""
    sequence: str
    """Its name; empty for what concerns the whole data set."""
    file: Path | None
    """The file or folder meant; None where the message names several."""
    message: str
    """One line: what is there and what was expected."""


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check` found."""

    name: str
    title: str
    root: Path | None
    """None: not found; the only finding then says where was looked."""
    how: str
    """What named the root: ``given``, an environment variable or the TOML file; empty if there is none."""
    sequences: int
    """Sequences found."""
    frames: int
    """Frames of the sequences that can be used."""
    expected: Expected
    """Published numbers of sequences and frames."""
    missing: tuple[str, ...]
    """Names of sequences that are not there, where the names are known."""
    findings: tuple[Finding, ...]
    """In the order of the sequences."""
    layout: str
    """How the folder should look."""
    source: str
    """Where the data set can be obtained, in words."""
    parts: tuple[CheckReport, ...] = ()
    """Reports of the members of joined data sets; the other fields then hold the sum."""

    @property
    def ok(self) -> bool:
        """Everything is there and nothing is wrong (notes do not count)."""
        complete = self.expected.sequences is None or self.sequences == self.expected.sequences
        return self.root is not None and self.sequences > 0 and complete and not self.missing and not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.level == "error")


@dataclass(frozen=True)
class DatasetStatus:
    """One line of ``keepsight data list``."""

    name: str
    title: str
    splits: tuple[str, ...]
    root: Path | None
    """None: not found."""
    how: str
    """What named the root; empty if there is none."""
    sequences: int | None
    """Sequences there (of the default split); None if it is not found or cannot be opened."""
    expected: Expected
    rule: str
    protocol: str
    problem: str = ""
    """First line of the error if it is found but cannot be opened, or if a named place does not hold it."""


def list_datasets(root: str | Path | None = None) -> tuple[DatasetStatus, ...]:
    """Every data set and whether it is there. ``root``: the folder that holds them; None: see :mod:`.roots`."""
    return tuple(_status(entry, root) for entry in entries().values())


def _status(entry: Entry, root: str | Path | None) -> DatasetStatus:
    split = entry.splits[0] if entry.splits else None
    place, how, count, problem = None, "", None, ""
    try:
        found = find_root(entry.name, root)
        place, how = found.path, found.how
        count = len(entry.read(found.path, split))
    except (KeepsightError, OSError) as error:
        problem = str(error).splitlines()[0] if place is not None else ""
    expected = entry.size(split)
    return DatasetStatus(
        entry.name, entry.title, entry.splits, place, how, count, expected, entry.rule, entry.protocol, problem
    )


def check(
    name: str, root: str | Path | None = None, *, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Look at every sequence of a data set: annotations, image files, first and last picture.

    ``progress(done, total)`` is called after each sequence. Raises :class:`InputError` for an unknown name only; whatever
    is wrong with the data is a finding.
    """
    parts = tuple(_check_one(entry, split, root, progress) for entry, split in parse_name(name))
    if len(parts) == 1:
        return parts[0]
    found = all(p.root is not None for p in parts)
    return CheckReport(
        name=name,
        title=UNIONS[name][1] if name in UNIONS else " + ".join(p.title for p in parts),
        root=parts[0].root if found else None,
        how=", ".join(dict.fromkeys(p.how for p in parts if p.how)),
        sequences=sum(p.sequences for p in parts),
        frames=sum(p.frames for p in parts),
        expected=Expected(_sum(p.expected.sequences for p in parts), _sum(p.expected.frames for p in parts)),
        missing=tuple(m for p in parts for m in p.missing),
        findings=tuple(f for p in parts for f in p.findings),
        layout="\n".join(f"{p.title}:\n{p.layout}" for p in parts),
        source="; ".join(dict.fromkeys(p.source for p in parts)),
        parts=parts,
    )


def _sum(numbers: Iterator[int | None]) -> int | None:
    known = list(numbers)
    return None if None in known else sum(n for n in known if n is not None)


def _check_one(
    entry: Entry, split: str | None, root: str | Path | None, progress: Callable[[int, int], None] | None
) -> CheckReport:
    name, expected = full_name(entry, split), entry.size(split)
    place, how, frames = None, "", 0
    sequences: list[Sequence] = []
    findings: list[Finding] = []
    try:
        found = find_root(entry.name, root)
        place, how = found.path, found.how
        sequences = entry.read(place, split)
    except (KeepsightError, OSError) as error:
        findings.append(Finding("error", "", place, str(error)))
    for done, sequence in enumerate(sequences, 1):
        problems = list(_problems(sequence, entry.protocol))
        findings += problems
        if not any(p.level == "error" for p in problems):
            frames += len(sequence)
        if progress is not None:
            progress(done, len(sequences))
    there = {s.name for s in sequences}
    official = entry.official(split) if entry.official is not None else ()
    missing = tuple(n for n in official if n not in there)
    return CheckReport(
        name=name,
        title=entry.title,
        root=place,
        how=how,
        sequences=len(sequences),
        frames=frames,
        expected=expected,
        missing=missing,
        findings=tuple(findings),
        layout=entry.layout,
        source=entry.source,
    )


def _problems(sequence: Sequence, protocol: str) -> Iterator[Finding]:
    told = set()  # an annotation that does not fit is met again by whoever asks for the length
    start = {"multistart": (_start, _anchors), "vos": ()}.get(protocol, (_start,))  # vos: objects may come later
    for look in (_annotation, *start, _files, _pictures):
        try:
            for level, file, message in look(sequence):
                yield Finding(level, sequence.name, file, message)
        except Exception as error:  # a report must not end at the first strange file
            expected = isinstance(error, (KeepsightError, OSError))
            message = str(error) if expected else f"{look.__name__[1:]}: {type(error).__name__}: {error}"
            if str(error) not in told:
                told.add(str(error))
                yield Finding("error", sequence.name, None, message)
    vars(sequence).pop("annotation", None)  # a check of thousands must not keep them all


_Told = Iterator[tuple[Level, Path | None, str]]


def _annotation(sequence: Sequence) -> _Told:
    """Files that cannot be read or do not fit raise here, with their names; odd numbers are told."""
    boxes = sequence.boxes
    if len(boxes) not in (1, len(sequence)):
        yield "error", None, f"{len(boxes)} boxes for {len(sequence)} frames"
    if np.isinf(boxes).any():
        rows = np.flatnonzero(np.isinf(boxes).any(axis=1))
        yield "error", None, f"infinite numbers in {len(rows)} rows of the annotation: {_some(rows + 1)}"
    if len(boxes) == 1 < len(sequence):
        yield "note", None, "only the first frame has a box: a test set, which cannot be scored here"
    nan = int(np.isnan(boxes).any(axis=1).sum())
    flat = int((boxes[:, 2:] <= 0).any(axis=1).sum())
    if nan:
        yield "note", None, f"{nan} of {len(boxes)} rows are nan"
    if flat:
        yield "note", None, f"{flat} of {len(boxes)} rows have a width or height of 0 or less"


def _start(sequence: Sequence) -> _Told:
    first = sequence.boxes[0]
    if not np.isfinite(first).all() or (first[2:] <= 0).any():
        text = ", ".join(f"{v:g}" for v in first)
        yield "error", None, f"the first frame's box is {text}; no tracker can be started on it"


def _anchors(sequence: Sequence) -> _Told:
    anchors = sequence.annotation.anchors
    if anchors is None or not anchors.any():
        yield "error", None, "no anchors (anchor.value), so no run can start"


def _files(sequence: Sequence) -> _Told:
    """Missing and empty image files; a video that is shorter than the sequence."""
    from ..video.readers import _gaps

    frames = sequence.frames
    if isinstance(frames, NoFrames):
        yield "note", None, "annotation only, no images"
        return
    if isinstance(frames, VideoFrames):
        packets = count_packets(frames.path)
        if packets < frames.start + len(frames):
            yield (
                "error",
                frames.path,
                f"the video has {packets} frames, the sequence needs {frames.start + len(frames)}",
            )
        return
    paths = frames.paths or ()
    sizes: dict[Path, dict[str, int]] = {}
    missing = []
    for i, path in enumerate(paths):
        if path.parent not in sizes:
            sizes[path.parent] = _sizes(path.parent)
        size = sizes[path.parent].get(path.name)
        if size is None:
            missing.append(i)
        elif size == 0:
            yield "error", path, "image file is empty (0 bytes)"
    gaps = _gaps(list(paths)) if isinstance(frames, FolderFrames) else []
    if gaps:  # of a folder that is taken as it is, only the numbers tell that a file is missing
        level: Level = "note" if len(sequence.boxes) == len(paths) else "error"
        yield level, paths[0].parent, f"the file numbers leave out {_some(np.array(gaps))}"
    if missing and len(missing) == len(paths):
        yield "error", paths[0].parent, f"none of the {len(paths)} images is there (expected {paths[0].name}, ..)"
    elif missing:
        where = (
            "the last"
            if missing[0] == len(paths) - len(missing)
            else "the first"
            if missing[-1] < len(missing)
            else "between"
        )
        names = ", ".join(paths[i].name for i in missing[:_SHOWN]) + (", .." if len(missing) > _SHOWN else "")
        yield "error", paths[0].parent, f"{len(missing)} of {len(paths)} images are missing ({where}): {names}"


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as found:
            return {f.name: f.stat().st_size for f in found if f.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _pictures(sequence: Sequence) -> _Told:
    """The first and the last picture can be decoded and are of one size."""
    frames = sequence.frames
    if isinstance(frames, NoFrames) or len(frames) == 0:
        return
    paths = frames.paths
    ends = sorted({0, len(frames) - 1})
    if paths is not None:
        ends = [i for i in ends if paths[i].is_file() and paths[i].stat().st_size]  # told by _files
    shapes = {i: frames[i].shape for i in ends}
    if len(set(shapes.values())) > 1:
        (h0, w0, _), (h1, w1, _) = shapes[ends[0]], shapes[ends[-1]]
        yield "note", None, f"the first picture is {w0}x{h0}, the last {w1}x{h1}"
    if 0 in shapes:
        (height, width, _), (x, y, w, h) = shapes[0], sequence.boxes[0]
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            where = f"{x:g}, {y:g}, {w:g}, {h:g}"
            yield "error", None, f"the first frame's box {where} lies outside the picture of {width}x{height}"


def _some(numbers: np.ndarray) -> str:
    return ", ".join(str(int(n)) for n in numbers[:_SHOWN]) + (", .." if len(numbers) > _SHOWN else "")
