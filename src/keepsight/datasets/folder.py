"""One's own data: any depth of folders, each sequence a folder with ``groundtruth.txt``.

    <..>/<name>/groundtruth.txt     x,y,w,h per frame; nan: absent. Only the first line: a test set, nothing to score
    <..>/<name>/img/*.jpg           frames in natural order; or beside groundtruth.txt; or one video.mp4, .avi, ..,
                                    which may be one frame longer than its annotation
    <..>/<name>/mask/*.png          optional: object ids (indexed PNG) or 0/255; or mask.mp4, bright is the target
    <..>/<name>/polygon.txt         optional: x1,y1,..,x4,y4 per frame
    <..>/<name>/absent.txt          optional: 1 where the target is out of view or hidden, else 0
    <..>/<name>/attributes.txt      optional: words such as OCC, FM; or attributes.csv in the root

A sequence is called by its path below the root: ``otb/David``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError, VideoError
from ..text import read_rows
from .catalog import Entry
from .frames import FolderFrames, NoFrames, VideoFrames, count_packets, count_pictures, list_images
from .sequence import Annotation, Frames, Masks, Sequence
from .truth import check_length, count_lines, has_box, read_boxes, read_labels

_TRUTH = "groundtruth.txt"
_IMAGE_FOLDERS = ("img", "color")
_NOT_SEQUENCES = frozenset({*_IMAGE_FOLDERS, "mask"})

Listing = tuple[frozenset[str], frozenset[str]]
"""Names of the folders and of the files in a folder."""


def sequences(root: Path, split: str | None = None) -> list[Sequence]:
    return [_sequence(root, folder, listing) for folder, listing in scan(root, (_TRUTH,))]


def scan(root: Path, annotation_files: tuple[str, ...]) -> Iterator[tuple[Path, Listing]]:
    """Folders that hold one of the files, by name, with what is in them; image folders are not looked into."""
    entered = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_cannot_list):
        if not folder.isascii() and any("\ud800" <= c <= "\udfff" for c in folder):  # bytes that are no UTF-8
            raise InputError(f"the name of the folder {folder!a} is not UTF-8 text; rename the folder")
        if any(file in files for file in annotation_files):
            yield Path(folder), (frozenset(folders), frozenset(files))
            folders.clear()
        place = os.path.realpath(folder)
        if place in entered:  # a link back to a folder above
            folders.clear()
        entered.add(place)
        folders[:] = sorted(f for f in folders if f not in _NOT_SEQUENCES and not f.startswith("."))


def _cannot_list(error: OSError) -> None:
    """Without this, sequences below a folder that may not be read would be left out without a word."""
    raise VideoError(f"folder {error.filename} cannot be listed: {error.strerror}; check its permissions") from None


def frames_of(folder: Path, folders: frozenset[str], files: frozenset[str], truth: Path) -> Frames:
    """The frames of a sequence by the names in its folder: an image folder, a video, images beside the annotation."""
    from ..video.readers import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    for name in _IMAGE_FOLDERS:
        if name in folders:
            return FolderFrames(folder / name)
    videos = sorted(f for f in files if Path(f).suffix.lower() in VIDEO_SUFFIXES and Path(f).stem != "mask")
    videos = [v for v in videos if Path(v).stem == "video"] or videos
    if len(videos) > 1:
        raise InputError(
            f"{folder} holds {len(videos)} videos ({', '.join(videos)}); call the one of the sequence video.*"
        )
    if videos:
        return VideoFrames(folder / videos[0], partial(video_length, folder / videos[0], truth))
    if any(Path(f).suffix.lower() in IMAGE_SUFFIXES for f in files):
        return FolderFrames(folder)
    return NoFrames(partial(count_lines, truth))


def video_length(video: Path, truth: Path) -> int:
    """Frames of a video; one more than the annotation has rows is left out (the last frame of some has no annotation)."""
    rows = count_lines(truth)
    if count_packets(video) == rows:  # quick; where packets and frames may differ, decoding counts
        return rows
    pictures = count_pictures(video)
    return rows if pictures == rows + 1 and rows > 1 else pictures


def _sequence(root: Path, folder: Path, listing: Listing) -> Sequence:
    folders, files = listing
    frames = frames_of(folder, folders, files, folder / _TRUTH)
    name = folder.relative_to(root).as_posix() if folder != root else folder.name
    words = _read_words(folder / "attributes.txt") if "attributes.txt" in files else frozenset()
    return Sequence(name, "folder", frames, partial(read_annotation, folder, frames), attributes=words)


def _read_words(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return frozenset(word for word in re.split(r"[\s,;]+", text) if word)


def read_annotation(folder: Path, frames: Frames) -> Annotation:
    """All files of a sequence. Raises :class:`InputError` if they do not fit each other or the frames."""
    path = folder / _TRUTH
    boxes = read_boxes(path)
    count = len(frames)
    hidden = len(boxes) == 1 and count > 1  # a test set
    if not hidden:
        check_length(path, len(boxes), frames, folder)
    visible = None if hidden else has_box(boxes)
    if visible is not None and (folder / "absent.txt").is_file():
        visible &= read_labels(folder / "absent.txt", count) == 0
    masks = _masks(folder, frames)
    return Annotation(
        boxes=boxes,
        visible=visible,
        polygons=_read_polygons(folder / "polygon.txt", len(boxes)),
        masks=masks,
        objects=_objects(masks),
    )


def _read_polygons(path: Path, rows: int) -> np.ndarray | None:
    if not path.is_file():
        return None
    polygons = read_rows(path, columns=8)
    if len(polygons) != rows:
        raise InputError(f"{path} has {len(polygons)} lines, groundtruth.txt beside it has {rows}; give one per frame")
    return polygons


def _masks(folder: Path, frames: Frames) -> Masks | None:
    from .masks import MaskFiles, MaskVideo

    if (folder / "mask").is_dir():
        return MaskFiles(_mask_paths(folder / "mask", frames))
    if (folder / "mask.mp4").is_file():
        video = MaskVideo(folder / "mask.mp4")
        if len(video) != len(frames):
            raise InputError(
                f"{folder / 'mask.mp4'} has {len(video)} frames, the sequence has {len(frames)}; make them equal"
            )
        return video
    return None


def _mask_paths(folder: Path, frames: Frames) -> list[Path | None]:
    """One per frame; some frames may have none where the files bear the images' names."""
    masks = list_images(folder)
    if len(masks) == len(frames):
        return list(masks)
    by_stem = {m.stem: m for m in masks}
    paths = [by_stem.pop(p.stem, None) for p in frames.paths or ()]
    if by_stem or not paths:
        raise InputError(
            f"{folder} holds {len(masks)} masks for {len(frames)} frames; give one per frame, or call each by its frame's name"
        )
    return paths


def _objects(masks: Masks | None) -> tuple[int, ...]:
    """Ids in the first mask that there is."""
    from .masks import object_ids

    first = (
        next((m for m in (masks[i] for i in range(len(masks))) if m is not None), None) if masks is not None else None
    )
    return () if first is None else object_ids(first)


_LAYOUT = "\n".join(line.strip() for line in (__doc__ or "").split("\n\n")[1].splitlines())

ENTRIES = (
    Entry(
        name="folder",
        title="own data",
        read=sequences,
        folders=("sequences",),
        marks=(_TRUTH, "*/" + _TRUTH, "*/*/" + _TRUTH, "*/*/*/" + _TRUTH),
        layout=_LAYOUT,
        source="your own recordings",
        rule="present",
    ),
)
