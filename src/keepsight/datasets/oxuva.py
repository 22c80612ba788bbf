"""OxUvA long-term: one sequence per track, annotated once a second (spec/evaluation.md §8).

Files::

    tasks/{dev,test}.csv                  video,object,init_frame,last_frame,xmin,xmax,ymin,ymax
    annotations/dev.csv                   video,object,class_id,class_name,cuts,visible,frame,present|absent,xmin,xmax,ymin,ymax
    images/{dev,test}/<video>/%06d.jpeg

The files hold corners as fractions of the image, in the order xmin, xmax, ymin, ymax. Boxes here are pixels
(``Annotation.image_size`` says of which image); in a copy without images they stay fractions, x, y, w, h in 0..1, and
``image_size`` is None: overlaps are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError, VideoError
from .catalog import Entry, Expected
from .frames import NoFrames, NumberedFrames
from .lines import read_lines
from .sequence import Annotation, Frames, Sequence

_FARTHEST = 10.0
"""Boxes reach a little over the image's border, 0 .. 1; numbers beyond this are something else, such as pixels."""
_PRESENT = {"present": True, "true": True, "1": True, "absent": False, "false": False, "0": False}


@dataclass(frozen=True)
class Task:
    """One line of ``tasks/*.csv``."""

    video: str
    object: str
    first: int
    """Number of the frame in which the tracker is started."""
    last: int
    """Number of the last frame, inclusive."""
    box: tuple[float, float, float, float]
    """x, y, w, h as fractions of the image."""

    @property
    def name(self) -> str:
        return f"{self.video}_{self.object}"

    def __len__(self) -> int:
        return self.last - self.first + 1


def read_oxuva(root: Path, split: str | None = "dev") -> list[Sequence]:
    """The tracks of ``tasks/<split>.csv``, named ``<video>_<object>``, from their first frame to their last.

    ``annotated`` tells the frames that have an annotation, ``visible`` those of them with the target in view. The test
    split's annotations are not published: its sequences have the first frame's box only.
    Raises :class:`InputError` for a line that cannot be understood.
    """
    split = split or "dev"
    annotations = root / "annotations" / f"{split}.csv"
    if split == "dev" and not annotations.is_file():
        raise InputError(f"there is no {annotations}; `keepsight data check oxuva` shows how the folder should look")
    path = root / "tasks" / f"{split}.csv"
    tasks = [_task(path, number, line) for number, line in _rows(path)]
    return [_open(root / "images" / split, task, annotations) for task in tasks]


def _rows(path: Path) -> list[tuple[int, str]]:
    """Numbered lines without a header."""
    return [(n, line) for n, line in enumerate(read_lines(path, keep_blank=True), 1) if line and line[:6] != "video,"]


def _open(images: Path, task: Task, annotations: Path) -> Sequence:
    folder = images / task.video
    pictures = NumberedFrames(folder, len(task), first=task.first, digits=6, suffix=".jpeg")
    frames: Frames = pictures if folder.is_dir() else NoFrames(len(task))
    read = partial(read_annotation, task, annotations, pictures.path(0) if folder.is_dir() else None)
    return Sequence(name=task.name, dataset="oxuva", frames=frames, read=read, start=task.first)


def read_annotation(task: Task, path: Path, image: Path | None) -> Annotation:
    """The track's lines of ``path`` (if there is such a file); ``image``: picture whose size turns fractions into pixels."""
    size = None if image is None else _size(image)
    scale = np.array(size or (1, 1)) @ [[1, 0, 1, 0], [0, 1, 0, 1]]  # (4,): w, h, w, h
    if not path.is_file():
        return Annotation(boxes=np.array([task.box]) * scale, image_size=size)
    boxes = np.full((len(task), 4), np.nan)
    annotated, visible = np.zeros((2, len(task)), dtype=bool)
    for number, line in _rows(path):
        if not line.startswith(f"{task.video},{task.object},"):
            continue
        frame, present, box = _annotation(path, number, line)
        index = frame - task.first
        if not 0 <= index < len(task):
            raise InputError(
                f"{path}, line {number}: frame {frame} is outside {task.first}..{task.last} of {task.name}"
            )
        annotated[index], visible[index] = True, present
        if present:
            boxes[index] = box
    if not annotated.any():
        raise InputError(f"{path} has no line of {task.name}; copy it from the data set again")
    boxes[0] = task.box  # what a tracker is started with
    annotated[0] = visible[0] = True
    return Annotation(boxes=boxes * scale, visible=visible, annotated=annotated, image_size=size)


def _size(image: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(image) as picture:  # reads the header only
            return picture.size
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"image {image} cannot be read: {error}; copy it from the data set again") from None


def _task(path: Path, number: int, line: str) -> Task:
    cells = [cell.strip() for cell in line.split(",")]
    try:
        if len(cells) != 8:
            raise ValueError(f"{len(cells)} cells instead of 8")
        task = Task(cells[0], cells[1], int(cells[2]), int(cells[3]), _box(cells[4:]))
        if task.last < task.first:
            raise ValueError("the last frame is before the first")
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: {line[:80]!r} is no task ({error}); expected "
            "video,object,init_frame,last_frame,xmin,xmax,ymin,ymax"
        ) from None
    return task


def _annotation(path: Path, number: int, line: str) -> tuple[int, bool, tuple[float, float, float, float]]:
    """Frame number, presence and box (nan if absent) of one line."""
    cells = [cell.strip() for cell in line.split(",")]
    try:
        if len(cells) != 12:
            raise ValueError(f"{len(cells)} cells instead of 12")
        frame, present = int(cells[6]), _PRESENT.get(cells[7].lower())
        if present is None:
            raise ValueError(f"{cells[7]!r} is neither present nor absent")
        return frame, present, _box(cells[8:]) if present else (np.nan,) * 4
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}: {line[:80]!r} is no annotation ({error}); expected video,object,class_id,class_name,"
            "contains_cuts,always_visible,frame,present|absent,xmin,xmax,ymin,ymax"
        ) from None


def _box(cells: list[str]) -> tuple[float, float, float, float]:
    """xmin, xmax, ymin, ymax -> x, y, w, h."""
    left, right, top, bottom = (float(cell) for cell in cells)
    if not np.isfinite([left, right, top, bottom]).all() or right < left or bottom < top:
        raise ValueError("the corners are not xmin <= xmax, ymin <= ymax")
    if max(abs(left), abs(right), abs(top), abs(bottom)) > _FARTHEST:
        raise ValueError("the corners are not fractions of the image")
    return left, top, right - left, bottom - top


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="oxuva",
        title="OxUvA long-term",
        read=read_oxuva,
        folders=("OxUvA", "long-term-tracking-benchmark", "oxuva-lt"),
        marks=("tasks/dev.csv", "tasks/test.csv"),
        layout="""\
tasks/dev.csv, tasks/test.csv
annotations/dev.csv
images/dev/vid0000/000000.jpeg ..""",
        source="images on request from oxuva.github.io; tasks and annotations in github.com/oxuva/long-term-tracking-benchmark "
        "(its folder dataset/)",
        rule="oxuva",
        protocol="longterm",
        splits=("dev", "test"),
        expected={"dev": Expected(200), "test": Expected(166)},
    ),
)
