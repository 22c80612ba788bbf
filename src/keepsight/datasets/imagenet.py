"""ImageNet VID and DET (Russakovsky et al., IJCV 2015): one XML file per frame, or per image.

VID: one element per track and run of consecutive frames in which it is seen; runs of a single frame are left out and
counted. DET: one element per object. Opening them for the first time reads all XML files (VID: a million, minutes on a
disk that is not fast); the result is kept, see :mod:`.cache`, until a folder changes. Boxes are xmin, ymin, xmax - xmin,
ymax - ymin in the files' own pixels.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from .cache import folder_times, kept
from .frames import ImageFrames, NumberedFrames
from .sequence import Annotation, Array, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, existing, pack_names, unpack_name, usable_box

_FORMAT = 1
"""Of the kept index; to be raised when what is gathered changes."""


class VidTracks(TrainingSet):
    """Tracks of ImageNet VID. ``annotations`` and ``images`` are folders with one sub-folder per snippet, at any depth."""

    is_video = True

    def __init__(self, name: str, annotations: Path, images: Path) -> None:
        self.name, self.images = name, images
        folders = list(_folders(annotations))
        found = kept("imagenet_vid", (_FORMAT, *folder_times(folders)), partial(_gather_vid, annotations, folders))
        self.folders, self.label_names = found["folders"], found["labels"]
        self.rows = found["rows"]  # (M, 4) folder, label, number of the first frame, first row in boxes
        self.lengths = found["lengths"]  # (M,)
        self.boxes, self.occluded = found["boxes"], found["occluded"]  # (F, 4), (F,) of all elements, end to end
        self.skipped: dict[str, int] = _counted(found)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        folder, label, first, begin = (int(v) for v in self.rows[index])
        count = int(self.lengths[index])
        place = unpack_name(self.folders, folder)
        part = slice(begin, begin + count)
        return Sequence(
            name=f"{place}/{index}",
            dataset=self.name,
            frames=NumberedFrames(self.images / place, count, first=first, digits=6, suffix=".JPEG"),
            read=partial(_track, self.boxes[part].astype(np.float64), self.occluded[part].copy()),
            attributes=frozenset({unpack_name(self.label_names, label)}),
            start=first,
        )


class DetObjects(TrainingSet):
    """Objects of ImageNet DET; the images lie below ``images`` as their XML files below ``annotations``."""

    is_video = False

    def __init__(self, name: str, annotations: Path, images: Path) -> None:
        self.name, self.images = name, images
        folders = list(_folders(annotations))
        found = kept("imagenet_det", (_FORMAT, *folder_times(folders)), partial(_gather_det, annotations, folders))
        self.files, self.label_names = found["files"], found["labels"]
        self.rows = found["rows"]  # (M, 2) file, label
        self.boxes, self.sizes = found["boxes"], found["sizes"]  # (M, 4) xywh; (I, 2) width, height
        self.skipped: dict[str, int] = _counted(found)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        file, label = (int(v) for v in self.rows[index])
        place = unpack_name(self.files, file)
        size = (int(self.sizes[file, 0]), int(self.sizes[file, 1]))
        return Sequence(
            name=f"{place}/{index}",
            dataset=self.name,
            frames=ImageFrames([self.images / f"{place}.JPEG"]),
            read=partial(_one, self.boxes[index : index + 1].astype(np.float64), size if min(size) > 0 else None),
            attributes=frozenset({unpack_name(self.label_names, label)}),
        )


def _track(boxes: Array, occluded: np.ndarray) -> Annotation:
    return Annotation(boxes=boxes, tags={"occluded": occluded})


def _one(box: Array, size: tuple[int, int] | None) -> Annotation:
    return Annotation(boxes=box, image_size=size)


def _folders(root: Path) -> Iterator[Path]:
    """Folders with XML files, in the order of their names."""
    for folder, inside, files in os.walk(root, followlinks=True):
        inside.sort()
        if any(f.endswith(".xml") for f in files):
            yield Path(folder)


def _gather_vid(root: Path, folders: list[Path]) -> dict[str, np.ndarray]:
    skipped: Counter[str] = Counter()
    labels: dict[str, int] = {}
    rows, lengths = array("q"), array("q")
    boxes, occluded = array("f"), array("b")
    for place, folder in enumerate(folders):
        for label, run in _runs(folder, skipped):
            if len(run) < 2:
                skipped["seen in a single frame"] += 1
                continue
            rows.extend((place, labels.setdefault(label, len(labels)), run[0][0], len(occluded)))
            lengths.append(len(run))
            for _, box, hidden in run:
                boxes.extend(box)
                occluded.append(hidden)
    return {
        "folders": pack_names(f.relative_to(root).as_posix() for f in folders),
        "labels": pack_names(labels),
        "rows": np.array(rows, dtype=np.int64).reshape(-1, 4),
        "lengths": np.array(lengths, dtype=np.int64),
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "occluded": np.array(occluded, dtype=np.bool_),
        **_counts(skipped),
    }


Box = tuple[float, float, float, float]
Seen = tuple[int, Box, bool]
"""Frame number, xywh, occluded."""


def _runs(folder: Path, skipped: Counter[str]) -> Iterator[tuple[str, list[Seen]]]:
    """(label, frames) per track and run of consecutive frame numbers, by the order of the tracks' first frames."""
    tracks: dict[str, tuple[str, list[Seen]]] = {}
    for file in sorted(folder.glob("*.xml")):
        objects = _objects(file, skipped)
        if not file.stem.isdecimal():
            skipped["file whose name is no frame number"] += 1
            continue
        for label, box, item in objects:
            track = tracks.setdefault(item.findtext("trackid", "").strip(), (label, []))[1]
            track.append((int(file.stem), box, item.findtext("occluded", "").strip() == "1"))
    for label, seen in tracks.values():
        seen.sort()  # file names without leading zeros
        begin = 0
        for k in range(1, len(seen) + 1):
            if k == len(seen) or seen[k][0] != seen[k - 1][0] + 1:
                yield label, seen[begin:k]
                begin = k


def _objects(file: Path, skipped: Counter[str]) -> list[tuple[str, Box, ElementTree.Element]]:
    """(label, xywh, the element) of each object with a usable box."""
    tree = _parsed(file, skipped)
    return [] if tree is None else _boxed(tree, skipped)


def _parsed(file: Path, skipped: Counter[str]) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(file.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError):  # LookupError: an encoding that is none
        skipped["XML file that cannot be read"] += 1
        return None


def _boxed(tree: ElementTree.Element, skipped: Counter[str]) -> list[tuple[str, Box, ElementTree.Element]]:
    found = []
    for item in tree.iter("object"):
        corners = usable_box([item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")])
        if corners is None:
            skipped["no usable box"] += 1
            continue
        x, y, right, bottom = corners
        if right <= x or bottom <= y:
            skipped["box without area"] += 1
            continue
        found.append((item.findtext("name", "").strip(), (x, y, right - x, bottom - y), item))
    return found


def _gather_det(root: Path, folders: list[Path]) -> dict[str, np.ndarray]:
    skipped: Counter[str] = Counter()
    labels: dict[str, int] = {}
    files: list[str] = []
    rows, boxes, sizes = array("q"), array("f"), array("q")
    for file in (f for folder in folders for f in sorted(folder.glob("*.xml"))):
        tree = _parsed(file, skipped)
        objects = [] if tree is None else _boxed(tree, skipped)
        if tree is None or not objects:
            continue
        for label, box, _ in objects:
            rows.extend((len(files), labels.setdefault(label, len(labels))))
            boxes.extend(box)
        files.append(file.relative_to(root).with_suffix("").as_posix())
        sizes.extend(_whole(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    return {
        "files": pack_names(files),
        "labels": pack_names(labels),
        "rows": np.array(rows, dtype=np.int64).reshape(-1, 2),
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 4),
        "sizes": np.array(sizes, dtype=np.int64).reshape(-1, 2),
        **_counts(skipped),
    }


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.strip().isdecimal() else 0


def _counts(skipped: Counter[str]) -> dict[str, np.ndarray]:
    return {"skipped": pack_names(skipped), "skips": np.array(list(skipped.values()), dtype=np.int64)}


def _counted(found: dict[str, np.ndarray]) -> dict[str, int]:
    return {unpack_name(found["skipped"], i): int(n) for i, n in enumerate(found["skips"])}


def open_vid(root: Path, split: str) -> VidTracks:
    return VidTracks(f"imagenet_vid:{split}", *_places(root, "VID", split))


def open_det(root: Path, split: str) -> DetObjects:
    return DetObjects(f"imagenet_det:{split}", *_places(root, "DET", split))


def _places(root: Path, task: str, split: str) -> tuple[Path, Path]:
    annotations = existing(root, (f"Annotations/{task}/{split}",), f"the XML files of {split}")
    images = existing(root, (f"Data/{task}/{split}",), f"the images of {split}")
    return annotations, images


_SOURCE = "image-net.org (ILSVRC 2015, after registration)"

TRAINING = (
    TrainingEntry(
        name="imagenet_vid",
        title="ImageNet VID",
        open=open_vid,
        folders=("ILSVRC2015", "ILSVRC2015_VID", "ILSVRC", "ImageNet_VID"),
        marks=("Annotations/VID",),
        layout="""\
Annotations/VID/train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000/000000.xml ..
Data/VID/train/ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000/000000.JPEG ..""",
        source=_SOURCE,
        splits=("train", "val"),
    ),
    TrainingEntry(
        name="imagenet_det",
        title="ImageNet DET",
        open=open_det,
        folders=("ILSVRC2015", "ILSVRC2014", "ILSVRC2015_DET", "ILSVRC", "ImageNet_DET"),
        marks=("Annotations/DET",),
        layout="""\
Annotations/DET/train/ILSVRC2013_train/n00007846/n00007846_6247.xml ..
Data/DET/train/ILSVRC2013_train/n00007846/n00007846_6247.JPEG ..""",
        source=_SOURCE,
        splits=("train", "val"),
    ),
)
