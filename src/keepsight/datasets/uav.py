"""UAV123, and the same at 10 fps: Mueller, Smith, Ghanem, "A Benchmark and Simulator for UAV Tracking", ECCV 2016.

91 videos hold 123 sequences: many are a range of frames of one folder (spec/evaluation.md §2.3). ``NaN,NaN,NaN,NaN``:
the target is out of view or hidden. Names are ``uav_<seq>``, as in result files; at 10 fps they have no prefix.
At 10 fps rows are the rows 1, 4, 7, .. of the 30 fps annotation; without folders of its own the 30 fps copy serves.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from . import attributes
from .catalog import Entry, Expected
from .frames import NumberedFrames
from .lists import FrameRange, frame_ranges
from .sequence import Annotation, Sequence
from .truth import list_folder, read_boxes

_STEP = 3
"""30 fps / 10 fps."""


def names(split: str | None) -> tuple[str, ...]:
    return tuple(r.name for r in frame_ranges("uav123"))


def names_10fps(split: str | None) -> tuple[str, ...]:
    return tuple(_plain(r) for r in frame_ranges("uav123"))


def sequences(root: Path, split: str | None = None) -> list[Sequence]:
    annotated = list_folder(root / "anno/UAV123")
    return [_at_30(root, r) for r in frame_ranges("uav123") if Path(r.annotation).name in annotated]


def sequences_10fps(root: Path, split: str | None = None) -> list[Sequence]:
    own = list_folder(root / "anno/UAV123_10fps")
    annotated = own or list_folder(root / "anno/UAV123")
    return [_at_10(root, r, bool(own)) for r in frame_ranges("uav123") if Path(r.annotation).name in annotated]


def _at_30(root: Path, r: FrameRange) -> Sequence:
    return Sequence(
        name=r.name,
        dataset="uav123",
        frames=NumberedFrames(root / r.path, len(r), first=r.first_frame, digits=r.digits),
        read=partial(read_annotation, root / r.annotation, len(r), 1),
        attributes=_attributes(root, r, "UAV123"),
        start=r.first_frame,
    )


def _at_10(root: Path, r: FrameRange, own_annotation: bool) -> Sequence:
    count = -(-len(r) // _STEP)
    images = root / "data_seq/UAV123_10fps" / Path(r.path).name
    if images.is_dir() or not (root / r.path).is_dir():
        first = (r.first_frame - 1) // _STEP + 1  # every range starts at 1 modulo 3
        frames = NumberedFrames(images, count, first=first, digits=r.digits)
    else:
        first = r.first_frame
        frames = NumberedFrames(root / r.path, count, first=first, digits=r.digits, step=_STEP)
    if own_annotation:
        read = partial(read_annotation, root / f"anno/UAV123_10fps/{_plain(r)}.txt", count, 1)
    else:
        read = partial(read_annotation, root / r.annotation, len(r), _STEP)
    found = _attributes(root, r, "UAV123_10fps") or _attributes(root, r, "UAV123")
    return Sequence(_plain(r), "uav123_10fps", frames, read, attributes=found, start=first)


def read_annotation(path: Path, rows: int, step: int) -> Annotation:
    """Every ``step``-th of the ``rows`` lines that the file must have; nan stays."""
    return Annotation(boxes=read_boxes(path, rows)[::step])


def _attributes(root: Path, r: FrameRange, kind: str) -> frozenset[str]:
    return attributes.read_flags(root / f"anno/{kind}/att/{_plain(r)}.txt", attributes.UAV)


def _plain(r: FrameRange) -> str:
    return r.name.removeprefix("uav_")


_LAYOUT = """\
data_seq/UAV123/<video>/000001.jpg ..
anno/UAV123/<seq>.txt                x,y,w,h per frame; NaN,NaN,NaN,NaN: out of view
anno/UAV123/att/<seq>.txt            12 attributes as 0/1, optional; or attributes.csv in the root"""

_LAYOUT_10FPS = """\
data_seq/UAV123_10fps/<video>/000001.jpg ..
anno/UAV123_10fps/<seq>.txt          x,y,w,h per frame; NaN,NaN,NaN,NaN: out of view
anno/UAV123_10fps/att/<seq>.txt      12 attributes as 0/1, optional; or attributes.csv in the root
or the 30 fps data set, of which every third frame is taken"""

_SOURCE = "the project page of UAV123 (Image and Video Understanding Lab, KAUST)"

ENTRIES = (
    Entry(
        name="uav123",
        title="UAV123",
        read=sequences,
        folders=("UAV123", "Dataset_UAV123"),
        marks=("anno/UAV123/*.txt",),
        layout=_LAYOUT,
        source=_SOURCE,
        expected={"": Expected(123, 112_578)},
        official=names,
    ),
    Entry(
        name="uav123_10fps",
        title="UAV123 10 fps",
        read=sequences_10fps,
        folders=("UAV123_10fps", "Dataset_UAV123_10fps", "UAV123", "Dataset_UAV123"),
        marks=("anno/UAV123_10fps/*.txt", "anno/UAV123/*.txt"),
        layout=_LAYOUT_10FPS,
        source=_SOURCE,
        rule="otb",
        expected={"": Expected(123, 37_607)},
        official=names_10fps,
    ),
)
