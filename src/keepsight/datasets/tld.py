"""TLD: Kalal, Mikolajczyk, Matas, "Tracking-Learning-Detection", PAMI 2012, and folders made like it. Targets leave the view.

The name of the annotation file decides what its four columns are, never the numbers:

* ``gt.txt`` (the original): xmin,ymin,xmax,ymax of the corner pixels, both counted in, so w = xmax - xmin + 1;
* ``groundtruth.txt`` or ``groundtruth_rect.txt``: x,y,w,h as everywhere else.

``nan`` means absent.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from .catalog import Entry
from .folder import frames_of, scan
from .sequence import Annotation, Array, Frames, Sequence
from .truth import check_length, has_box, read_boxes

NAMES = (
    "01_david",
    "02_jumping",
    "03_pedestrian1",
    "04_pedestrian2",
    "05_pedestrian3",
    "06_car",
    "07_motocross",
    "08_volkswagen",
    "09_carchase",
    "10_panda",
)
"""The ten sequences of the paper."""

_CORNERS = "gt.txt"
_FILES = ("groundtruth.txt", "groundtruth_rect.txt", _CORNERS)


def names(split: str | None) -> tuple[str, ...]:
    return NAMES


def sequences(root: Path, split: str | None = None) -> list[Sequence]:
    found = [_sequence(root, folder, files) for folder, files in scan(root, _FILES)]
    order = {name: i for i, name in enumerate(NAMES)}
    return sorted(found, key=lambda s: (order.get(s.name, len(order)), s.name))


def _sequence(root: Path, folder: Path, files: tuple[frozenset[str], frozenset[str]]) -> Sequence:
    path = next(folder / f for f in _FILES if f in files[1])
    frames = frames_of(folder, *files, path)
    name = folder.relative_to(root).as_posix() if folder != root else folder.name
    return Sequence(name, "tld", frames, partial(read_annotation, path, frames), start=1)


def read_annotation(path: Path, frames: Frames) -> Annotation:
    """Boxes x,y,w,h, nan where absent. Raises :class:`InputError` for corners that are none, or another length."""
    boxes = read_boxes(path)
    check_length(path, len(boxes), frames, path.parent)
    if path.name == _CORNERS:
        boxes = _from_corners(path, boxes)
    return Annotation(boxes=boxes, visible=has_box(boxes))


def _from_corners(path: Path, corners: Array) -> Array:
    turned = np.flatnonzero((corners[:, 2:] < corners[:, :2]).any(axis=1))  # nan compares false
    if len(turned):
        raise InputError(
            f"{path}, line {turned[0] + 1}: {corners[turned[0]].tolist()} are not xmin,ymin,xmax,ymax; a file of x,y,w,h is "
            "to be called groundtruth.txt"
        )
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1])


_LAYOUT = """\
<seq>/00001.jpg ..  or <seq>/img/*.jpg or <seq>/video.*
<seq>/gt.txt                  xmin,ymin,xmax,ymax per frame, NaN: absent
or <seq>/groundtruth.txt      x,y,w,h per frame, nan: absent"""

ENTRIES = (
    Entry(
        name="tld",
        title="TLD",
        read=sequences,
        folders=("TLD", "OpenTLD", "TLD_dataset"),
        marks=tuple(f"*/{file}" for file in _FILES),
        layout=_LAYOUT,
        source="the web page of TLD (Kalal; University of Surrey), or the examples of OpenTLD",
        rule="present",
        official=names,
    ),
)
