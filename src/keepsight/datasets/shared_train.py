"""A folder of small images with boxes and masks, short tracks, and photographs as backgrounds, gathered from many sources.

    index.jsonl     per line: image, width, height, source, objects [{bbox, label, mask}], masks
    tracks.jsonl    per line: source, label, frames [[file, x, y, w, h], ..] in time order, some frames left out
    backgrounds/    photographs without labels
    README.md       a table | source | used | licence |, the only place that tells the licences

For models that ship, sources whose licence is for research or non-commercial use are left out; so it is by default.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .davis import OneObject
from .frames import ImageFrames, list_images
from .lines import read_lines
from .masks import MaskFiles
from .sequence import Annotation, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, usable_box

_RESTRICTED = re.compile(r"research|non-?commercial|\bnc\b|personal|academic", re.IGNORECASE)
_NO_IDS = 255
"""Mask values from here on are no object ids."""


def read_licences(root: Path) -> dict[str, str]:
    """Source -> licence as found, from the table in ``README.md``. Raises :class:`InputError` if there is none."""
    path = root / "README.md"
    if not path.is_file():
        raise InputError(f"there is no {path}, and only its table tells the licences of the sources")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in read_lines(path) if line.startswith("|")]
    found = {row[0]: row[2] for row in rows if len(row) == 3 and "/" in row[0]}
    if not found:
        raise InputError(f"{path} has no table | source | used | licence |; get the file again")
    return found


def commercial_ok(licence: str) -> bool:
    """Whether a licence, in the words of the table, is not marked as for research or non-commercial use only."""
    return _RESTRICTED.search(licence) is None


class SharedObjects(TrainingSet):
    """Objects of the images; masks where the object has one.

    Args:
        root: the folder described above.
        commercial_only: leave out sources that are marked research-only or non-commercial, or that the table lacks.
        masks_only: leave out objects without a mask.

    ``sources`` are the sources that are in, with their licences; ``has_mask`` (M,) tells which objects have a mask,
    ``labels`` what they are; ``images`` is the number of images.
    """

    is_video = False

    def __init__(self, name: str, root: Path, commercial_only: bool = True, masks_only: bool = False) -> None:
        self.name, self.root = name, root
        self.sources, wanted = _sources(root, commercial_only)
        skipped: Counter[str] = Counter()
        self._images: list[tuple[str, tuple[int, int], str | None, str]] = []  # file, size, masks, source
        self.labels: list[str] = []
        rows: list[tuple[int, int]] = []
        boxes: list[tuple[float, float, float, float]] = []
        for entry in _lines(root / "index.jsonl", skipped):
            source, objects = _source(entry), entry.get("objects")
            if wanted is not None and source not in wanted:
                skipped["image of a source left out for its licence"] += 1
                continue
            if not isinstance(entry.get("image"), str) or not isinstance(objects, list):
                skipped["line that is not as expected"] += 1
                continue
            masks = entry.get("masks")
            size = int(entry.get("width") or 0), int(entry.get("height") or 0)
            for thing in objects:
                box = usable_box(thing.get("bbox")) if isinstance(thing, dict) else None
                if box is None or min(box[2:]) <= 0:
                    skipped["no usable box" if box is None else "box without area"] += 1
                    continue
                mask = thing.get("mask")
                has = isinstance(masks, str) and isinstance(mask, int) and 0 < mask < _NO_IDS
                if masks_only and not has:
                    continue
                rows.append((len(self._images), mask if has else 0))
                boxes.append(box)
                self.labels.append(str(thing.get("label", "")))
            self._images.append((entry["image"], size, masks if isinstance(masks, str) else None, source))
        self._rows = np.array(rows, dtype=np.int64).reshape(-1, 2)  # (M, 2) image, mask value (0: none)
        self._boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        self.has_mask = self._rows[:, 1] > 0
        self.images = len(self._images)
        self.sources = {s: licence for s, licence in self.sources.items() if s in {image[3] for image in self._images}}
        self.skipped: dict[str, int] = dict(skipped)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        image, mask = (int(v) for v in self._rows[index])
        file, size, masks, _ = self._images[image]
        path = self.root / masks if masks is not None and mask else None
        return Sequence(
            name=f"{Path(file).stem}/{index}",
            dataset=self.name,
            frames=ImageFrames([self.root / file]),
            read=partial(_object, self._boxes[index : index + 1].copy(), path, mask, size),
            attributes=frozenset({self.labels[index]}),
        )

    def files(self) -> tuple[Path, ...]:
        """The images."""
        return tuple(self.root / image for image, *_ in self._images)

    def source(self, index: int) -> str:
        """Where object ``index`` comes from."""
        return self._images[int(self._rows[index, 0])][3]


def _object(box: np.ndarray, path: Path | None, mask: int, size: tuple[int, int]) -> Annotation:
    masks = None if path is None else OneObject(MaskFiles([path]), mask)
    known = size if min(size) > 0 else None
    return Annotation(boxes=box, masks=masks, objects=() if masks is None else (1,), image_size=known)


class SharedTracks(TrainingSet):
    """The short tracks. Arguments and ``sources`` as for :class:`SharedObjects`."""

    is_video = True

    def __init__(self, name: str, root: Path, commercial_only: bool = True) -> None:
        self.name, self.root = name, root
        licences, wanted = _sources(root, commercial_only)
        skipped: Counter[str] = Counter()
        self._tracks: list[tuple[tuple[str, ...], np.ndarray, str, str]] = []  # files, (N, 4), label, source
        for entry in _lines(root / "tracks.jsonl", skipped):
            source, frames = _source(entry), entry.get("frames")
            if wanted is not None and source not in wanted:
                skipped["track of a source left out for its licence"] += 1
                continue
            rows = [f for f in frames if isinstance(f, list) and len(f) == 5] if isinstance(frames, list) else []
            boxes = [usable_box(row[1:]) for row in rows]
            good = [(str(row[0]), box) for row, box in zip(rows, boxes, strict=True) if box is not None]
            if len(good) < 2:
                skipped["track of fewer than two boxes"] += 1
                continue
            boxes_of_track = np.array([box for _, box in good], dtype=np.float64)  # (N, 4)
            self._tracks.append((tuple(f for f, _ in good), boxes_of_track, str(entry.get("label", "")), source))
        self.sources = {s: licence for s, licence in licences.items() if s in {track[3] for track in self._tracks}}
        self.skipped: dict[str, int] = dict(skipped)

    def __len__(self) -> int:
        return len(self._tracks)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        files, boxes, label, _ = self._tracks[index]
        return Sequence(
            name=Path(files[0]).parent.name + f"/{index}",
            dataset=self.name,
            frames=ImageFrames(self.root / f for f in files),
            read=partial(Annotation, boxes),
            attributes=frozenset({label}),
        )


def backgrounds(root: Path, commercial_only: bool = True) -> tuple[Path, ...]:
    """The photographs, by name.

    The table counts them per source, and files are numbered in the table's order (checked: the first 240 have BSDS's
    shape): that is how a file's licence is known. If the counts do not fit the files, none has a known licence.
    """
    files = list_images(root / "backgrounds")
    if not commercial_only:
        return files
    text = (root / "README.md").read_text(encoding="utf-8") if (root / "README.md").is_file() else ""
    licences = read_licences(root)
    counts = re.findall(r"^\|\s*([^|\s]+/[^|\s]+)\s*\|\s*(\d+) \(background\)", text, re.MULTILINE)
    owners = [source for source, count in counts for _ in range(int(count))]
    if len(owners) != len(files):
        return ()
    return tuple(f for f, source in zip(files, owners, strict=True) if commercial_ok(licences[source]))


def _sources(root: Path, commercial_only: bool) -> tuple[dict[str, str], frozenset[str] | None]:
    """Licences, and the sources that may be used; None: all."""
    try:
        licences = read_licences(root)
    except InputError:
        if commercial_only:
            raise
        return {}, None
    return licences, frozenset(
        s for s, licence in licences.items() if commercial_ok(licence)
    ) if commercial_only else None


def _source(entry: dict[str, Any]) -> str:
    """As the table calls it: what follows a blank tells which part of the source it is."""
    return str(entry.get("source", "")).partition(" ")[0]


def _lines(path: Path, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"there is no {path}")
    for line in read_lines(path):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            yield entry
        else:
            skipped["line that is no JSON object"] += 1


def open_shared(root: Path, split: str) -> TrainingSet:
    """``images``, ``tracks``; ``images_all``, ``tracks_all``: with sources for research only."""
    kind, _, every = split.partition("_")
    make = SharedTracks if kind == "tracks" else SharedObjects
    return make(f"shared:{split}", root, commercial_only=not every)


TRAINING = (
    TrainingEntry(
        name="shared",
        title="shared training images and tracks",
        open=open_shared,
        folders=("train", "keepsight_train"),
        marks=("index.jsonl", "tracks.jsonl"),
        layout="""\
README.md                                 table | source | used | licence |
index.jsonl, images/00001.jpg .., masks/00001.png ..
tracks.jsonl, tracks/<track>/001.jpg ..
backgrounds/00001.jpg ..""",
        source="../shared/data/train beside the project",
        splits=("images", "tracks", "images_all", "tracks_all"),
    ),
)
