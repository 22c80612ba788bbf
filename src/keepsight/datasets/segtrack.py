"""SegTrack v2: 14 videos with 24 objects, one sequence per object.

Files::

    ImageSets/all.txt                         names (optional; lines may begin with *)
    JPEGImages/<video>/...                    frames, .png or .bmp, numbered in several ways
    GroundTruth/<video>/...                   masks of the only object
    GroundTruth/<video>/1/.., 2/..            masks, where there are several

The first object's sequence has the video's name, the others a number behind it: ``bmx``, ``bmx2``. Frame and mask
files are matched by their order, because their names differ in some videos.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from .catalog import Entry, Expected
from .frames import ImageFrames, NoFrames
from .masks import MaskFiles, boxes_of_masks, list_pictures
from .sequence import Annotation, Frames, Sequence


def read_segtrack(root: Path, split: str | None = None) -> list[Sequence]:
    """One sequence per folder of masks, videos by name and objects by number.

    Boxes are the extent of the mask's pixels, nan in frames where the object is not seen.
    """
    truth = root / "GroundTruth"
    if not truth.is_dir():
        raise InputError(f"there is no {truth}; `keepsight data check segtrackv2` shows how the folder should look")
    return [s for video in sorted(p for p in truth.iterdir() if p.is_dir()) for s in _objects(root, video)]


def _objects(root: Path, truth: Path) -> list[Sequence]:
    numbered = sorted((p for p in truth.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))
    images = list_pictures(root / "JPEGImages" / truth.name)
    sequences = []
    for folder in numbered or [truth]:
        masks = list_pictures(folder)
        if not masks:
            continue
        number = "" if folder == truth or int(folder.name) == 1 else str(int(folder.name))
        frames: Frames = ImageFrames(images) if images else NoFrames(len(masks))
        read = partial(read_annotation, masks, len(frames), folder)
        sequences.append(Sequence(name=truth.name + number, dataset="segtrackv2", frames=frames, read=read))
    return sequences


def read_annotation(paths: tuple[Path, ...], count: int, folder: Path) -> Annotation:
    """Masks in the frames' order. Raises :class:`InputError` unless there is one for each of ``count`` frames."""
    if len(paths) != count:
        raise InputError(
            f"{folder} has {len(paths)} masks for {count} frames; they are matched by their order, so each frame needs one: "
            "copy the video again"
        )
    masks = MaskFiles(paths, binary=True)
    boxes = boxes_of_masks(masks)
    visible = np.isfinite(boxes[:, 0])
    return Annotation(boxes=boxes, visible=visible, masks=masks, objects=(1,), first_seen={1: int(visible.argmax())})


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="segtrackv2",
        title="SegTrack v2",
        read=read_segtrack,
        folders=("SegTrackv2", "SegTrack"),
        marks=("GroundTruth",),
        layout="""\
JPEGImages/bmx/bmx_06668.png ..
GroundTruth/bmx/1/bmx_06668.png ..    (several objects)
GroundTruth/frog/001.png ..           (one object)""",
        source="SegTrackv2.zip from web.engr.oregonstate.edu/~lif/SegTrack2",
        expected={"": Expected(24)},
    ),
)
