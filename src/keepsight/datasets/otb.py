"""OTB-100 (OTB-2015): Wu, Lim, Yang, "Object Tracking Benchmark", PAMI 2015. spec/evaluation.md §2.1.

98 folders hold 100 sequences: Jogging and Skating2 have two targets. Some sequences are a part of their folder (David
starts at file 300). Boxes are whole numbers, pixels counted from 1. Tiger1 starts at file 6, as in pytracking and in
nearly all published results; ``otb100:full`` has its 354 frames.
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


def names(split: str | None) -> tuple[str, ...]:
    return tuple(r.name for r in frame_ranges("otb100"))


def sequences(root: Path, split: str | None = None) -> list[Sequence]:
    there = list_folder(root)
    full = split == "full"
    return [_sequence(root, r, full) for r in frame_ranges("otb100") if r.annotation.split("/")[0] in there]


def _sequence(root: Path, r: FrameRange, full: bool) -> Sequence:
    skipped = 0 if full else r.skip_first
    first = r.first_frame + skipped
    folder, suffix = root / r.path, f".{r.extension}"
    if r.name == "KiteSurf" and not folder.is_dir():  # the list describes one download; others are like all the rest
        folder, suffix = root / "KiteSurf/img", ".jpg"
    annotation = root / r.annotation
    return Sequence(
        name=r.name,
        dataset="otb100",
        frames=NumberedFrames(folder, len(r) - skipped, first=first, digits=r.digits, suffix=suffix),
        read=partial(read_annotation, annotation, len(r), skipped),
        attributes=attributes.read_words(annotation.parent / "attrs.txt", attributes.OTB),
        start=first,
    )


def read_annotation(path: Path, rows: int, skipped: int = 0) -> Annotation:
    """``rows``: lines that the file must have; the first ``skipped`` are left out."""
    return Annotation(boxes=read_boxes(path, rows)[skipped:])


_LAYOUT = """\
<Sequence>/img/0001.jpg ..           (Board: 00001.jpg)
<Sequence>/groundtruth_rect.txt      x,y,w,h per frame
Jogging, Skating2: groundtruth_rect.1.txt and .2.txt; Human4: groundtruth_rect.2.txt
KiteSurf: img/*.jpg, or jpg/*.png as in one download
<Sequence>/attrs.txt                 attributes, optional; or attributes.csv in the root"""

ENTRIES = (
    Entry(
        name="otb100",
        title="OTB-100",
        read=sequences,
        folders=("OTB100", "OTB-100", "OTB2015", "OTB"),
        marks=("*/groundtruth_rect.txt", "*/groundtruth_rect.[12].txt"),
        layout=_LAYOUT,
        source="the web page of the Visual Tracker Benchmark (Wu, Lim, Yang; Hanyang University)",
        splits=("cut", "full"),
        expected={"cut": Expected(100, 59_035), "full": Expected(100, 59_040)},
        official=names,
    ),
)
