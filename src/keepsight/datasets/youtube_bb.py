"""YouTube-BoundingBoxes, Real et al., CVPR 2017: boxes at one frame per second in videos that one downloads oneself.

The table (no header) has ``youtube_id, timestamp_ms, class_id, class_name, object_id, presence, xmin, xmax, ymin, ymax``,
corners as fractions of the picture. Pictures are ``<part>/<youtube_id>/<timestamp_ms>.jpg``. One element per object of a
video; videos that are not there are left out and counted, frames that are not there are left out.
"""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError, VideoError
from .frames import ImageFrames
from .sequence import Annotation, Array, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, existing, pack_names, unpack_name, usable_box
from .truth import list_folder

_COLUMNS = 10
Objects = dict[tuple[str, str, str], int]
"""Video, class id and object id -> number of the element."""


class YouTubeBoxes(TrainingSet):
    """Objects of the table ``path``; the pictures are in ``images/<youtube_id>/<timestamp_ms>.jpg``.

    Rows that cannot be understood, and videos without pictures, are counted in ``skipped``. Raises :class:`VideoError` if
    the table cannot be read.
    """

    is_video = True

    def __init__(self, name: str, path: Path, images: Path) -> None:
        self.name, self.images = name, images
        skipped: Counter[str] = Counter()
        objects, labels, owner, times, corners = _read_table(path, list_folder(images), skipped)
        order = np.lexsort((times, owner))  # by object, then by time
        self.times, self.corners = times[order], corners[order]  # (R,) ms, (R, 4) x1, x2, y1, y2; nan: not in view
        self.begins = np.searchsorted(owner[order], np.arange(len(objects) + 1))  # (M + 1,)
        self.videos = pack_names(video for video, _, _ in objects)
        self.ids = pack_names(f"{label}+{number}" for _, label, number in objects)
        self._labels = pack_names(labels)  # (M,)
        self.skipped: dict[str, int] = dict(skipped)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Sequence:
        """Lists the video's folder."""
        index = range(len(self))[index]
        part = slice(int(self.begins[index]), int(self.begins[index + 1]))
        video = unpack_name(self.videos, index)
        there = list_folder(self.images / video)
        files = [f"{time}.jpg" for time in self.times[part]]
        kept = np.array([file in there for file in files], dtype=np.bool_)
        frames = ImageFrames(self.images / video / file for file, here in zip(files, kept, strict=True) if here)
        return Sequence(
            name=f"{video}/{unpack_name(self.ids, index)}",
            dataset=self.name,
            frames=frames,
            read=partial(_annotation, self.corners[part][kept].astype(np.float64), frames),
            attributes=frozenset({unpack_name(self._labels, index)}),
        )


def _read_table(
    path: Path, videos: frozenset[str], skipped: Counter[str]
) -> tuple[Objects, list[str], np.ndarray, np.ndarray, np.ndarray]:
    objects: Objects = {}
    labels: list[str] = []
    owner, times, corners = array("q"), array("q"), array("f")
    absent: set[str] = set()
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            for row in csv.reader(file):
                if not row:
                    continue
                if len(row) < _COLUMNS or not row[1].isdecimal():
                    skipped["row that is not as expected"] += 1
                    continue
                if row[0] not in videos:
                    absent.add(row[0])
                    continue
                box = usable_box(row[6:10]) if row[5].strip().lower() == "present" else (np.nan,) * 4
                if box is None:
                    skipped["row that is not as expected"] += 1
                    continue
                key = (row[0], row[2], row[4])
                if key not in objects:
                    labels.append(row[3])
                owner.append(objects.setdefault(key, len(objects)))
                times.append(int(row[1]))
                corners.extend(box)
    except (OSError, csv.Error) as error:
        raise VideoError(f"{path} cannot be read: {error}; get the table again") from None
    if absent:
        skipped["video without pictures"] = len(absent)
    return (
        objects,
        labels,
        np.array(owner, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(corners, dtype=np.float32).reshape(-1, 4),
    )


def _annotation(corners: Array, frames: ImageFrames) -> Annotation:
    """Boxes in pixels; the size of the pictures is that of the first one (its header is read)."""
    if not len(corners):
        return Annotation(boxes=np.zeros((0, 4)))
    width, height = _size(frames.paths[0])
    x1, x2, y1, y2 = (corners * (width, width, height, height)).T  # (N,) each
    boxes = np.stack((x1, y1, x2 - x1, y2 - y1), axis=1)  # (N, 4)
    return Annotation(boxes=boxes, visible=np.isfinite(boxes[:, 0]), image_size=(width, height))


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return int(picture.size[0]), int(picture.size[1])
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"image {path} cannot be read: {error}; get the video's frames again") from None


def open_youtube_bb(root: Path, split: str) -> YouTubeBoxes:
    part = "validation" if split == "val" else split
    path = existing(root, (f"yt_bb_detection_{part}.csv",), "the table of boxes")
    return YouTubeBoxes(f"youtube_bb:{split}", path, existing(root, (part, f"frames/{part}"), "the pictures"))


TRAINING = (
    TrainingEntry(
        name="youtube_bb",
        title="YouTube-BoundingBoxes",
        open=open_youtube_bb,
        folders=("YouTubeBB", "YT-BB", "yt_bb", "YouTube-BoundingBoxes"),
        marks=("yt_bb_detection_*.csv",),
        layout="""\
yt_bb_detection_train.csv                            no header, as distributed
train/<youtube_id>/<timestamp_ms>.jpg ..             (or frames/train/..) pictures that you took out of the videos""",
        source="research.google.com/youtube-bb (the table); the videos are YouTube's",
        splits=("train", "val"),
    ),
)
