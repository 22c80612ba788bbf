"""TrackingNet: Müller et al., ECCV 2018. spec/evaluation.md §4.

Files are numbered from 0 without leading zeros. The test set's annotation is one line, the first frame's box; scores come
from the benchmark's server.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .catalog import Entry, Expected
from .frames import FolderFrames, NoFrames, NumberedFrames
from .sequence import Annotation, Frames, Sequence
from .truth import check_images, check_length, count_lines, list_folder, read_boxes

_CHUNKS = tuple(f"TRAIN_{k}" for k in range(12))


def sequences(root: Path, split: str | None = "test") -> list[Sequence]:
    """``test``, ``train`` (all twelve parts that are there) or ``train_0`` .. ``train_11``; by name within a part."""
    split = split or "test"
    parts = _CHUNKS if split == "train" else (split.upper(),)
    return [s for part in parts for s in _part(root / part)]


def _part(part: Path) -> list[Sequence]:
    names = sorted(n.removesuffix(".txt") for n in list_folder(part / "anno") if n.endswith(".txt"))
    make = _test if part.name == "TEST" else _train
    return [make(part, name) for name in names]


def _test(part: Path, name: str) -> Sequence:
    folder, path = part / "frames" / name, part / f"anno/{name}.txt"
    frames: Frames = FolderFrames(folder) if folder.is_dir() else NoFrames(partial(count_lines, path))
    return Sequence(name, "trackingnet", frames, partial(_read_test, path, frames))


def _read_test(path: Path, frames: Frames) -> Annotation:
    boxes = read_boxes(path)
    if len(boxes) > 1:  # copies with their own annotation
        check_length(path, len(boxes), frames, getattr(frames, "folder", path))
    return Annotation(boxes=boxes)


def _train(part: Path, name: str) -> Sequence:
    path = part / f"anno/{name}.txt"
    folder = part / "frames" / name
    frames = NumberedFrames(folder, partial(_length, path, folder), first=0, digits=1)
    return Sequence(name, "trackingnet", frames, partial(_read_train, path, folder))


def _length(path: Path, folder: Path) -> int:
    rows = count_lines(path)
    check_images(path, rows, NumberedFrames(folder, rows, first=0, digits=1))
    return rows


def _read_train(path: Path, folder: Path) -> Annotation:
    boxes = read_boxes(path)
    check_images(path, len(boxes), NumberedFrames(folder, len(boxes), first=0, digits=1))
    return Annotation(boxes=boxes)


_LAYOUT = """\
TEST/frames/<seq>/0.jpg, 1.jpg ..
TEST/anno/<seq>.txt                  x,y,w,h of the first frame
TRAIN_0 .. TRAIN_11/frames/<seq>/0.jpg ..
TRAIN_0 .. TRAIN_11/anno/<seq>.txt   x,y,w,h per frame"""

ENTRIES = (
    Entry(
        name="trackingnet",
        title="TrackingNet",
        read=sequences,
        folders=("TrackingNet",),
        marks=("TEST/anno", "TRAIN_*/anno"),
        layout=_LAYOUT,
        source="the project page of TrackingNet (Image and Video Understanding Lab, KAUST)",
        rule="trackingnet",
        splits=("test", "train", *(chunk.lower() for chunk in _CHUNKS)),
        expected={"test": Expected(511, None)},
    ),
)
