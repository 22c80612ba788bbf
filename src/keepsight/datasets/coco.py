"""COCO, Lin et al., ECCV 2014: objects in still images, each annotation one element; crowds are left out.

The annotation file is gone through once (seconds); what stays are arrays of about 70 bytes per object. Masks are decoded
from their place in the file when they are asked for.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .coco_masks import SegmentationMasks
from .frames import ImageFrames
from .json_scan import read_light
from .sequence import Annotation, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, existing, pack_names, unpack_name, usable_box


class CocoObjects(TrainingSet):
    """Objects of still images from one annotation file of COCO's form (``images``, ``annotations``, ``categories``).

    Left out and counted in ``skipped``: crowds, boxes without area or that are none, objects of images that are not listed.

    Args:
        name: e.g. ``coco:train2014``.
        path: the annotation file. Raises :class:`VideoError` and :class:`InputError` if it cannot be read or is no such file.
        folder: where the images are.
        file_of: the image's path below ``folder`` from its entry in the file.
    """

    is_video = False

    def __init__(
        self, name: str, path: Path, folder: Path, file_of: Callable[[Mapping[str, Any]], str] | None = None
    ) -> None:
        self.name, self.path, self.folder = name, path, folder
        rows = _Rows(file_of or _file_name)
        content = read_light(path, rows.take)
        if not isinstance(content, dict) or "images" not in content or "annotations" not in content:
            raise InputError(
                f"{path} has no lists 'images' and 'annotations'; give a file of COCO's instance annotations"
            )
        keys, first = np.unique(np.array(rows.image_keys, dtype=np.int64), return_index=True)  # (I,): twins once
        key = np.array(rows.keys_of_objects, dtype=np.int64)
        kept = np.isin(key, keys)
        rows.skipped["image not listed"] += int((~kept).sum())
        self.skipped: dict[str, int] = {reason: n for reason, n in rows.skipped.items() if n}
        self.image = np.searchsorted(keys, key[kept])  # (M,) row of its image
        self.boxes = np.array(rows.boxes).reshape(-1, 4)[kept]  # (M, 4) xywh, as in the file
        self.places = np.array(rows.places, dtype=np.int64)[kept]  # (M,) byte of the segmentation; -1: none
        self.numbers = np.array(rows.numbers, dtype=np.int64)[kept]  # (M,) annotation ids
        self.category = np.array(rows.categories, dtype=np.int64)[kept]  # (M,) category ids
        self.files = pack_names(rows.files[i] for i in first)  # (I,)
        self.sizes = np.array(rows.sizes, dtype=np.int32).reshape(-1, 2)[first]  # (I, 2) width, height; 0: not said
        self.categories = category_names(content.get("categories"))

    @property
    def labels(self) -> list[str]:
        """The category of each element; "" where the file does not say."""
        return [self.categories.get(number, "") for number in self.category.tolist()]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        image = int(self.image[index])
        file = unpack_name(self.files, image)
        size = (int(self.sizes[image, 0]), int(self.sizes[image, 1]))
        label = self.categories.get(int(self.category[index]))
        return Sequence(
            name=f"{Path(file).stem}/{self.numbers[index]}",
            dataset=self.name,
            frames=ImageFrames([self.folder / file]),
            read=partial(_object, self.boxes[index : index + 1].copy(), self.path, int(self.places[index]), size),
            attributes=frozenset() if label is None else frozenset({label}),
        )


class _Rows:
    """Collects annotations and images while the file is parsed, so that no object of it is kept."""

    def __init__(self, file_of: Callable[[Mapping[str, Any]], str]) -> None:
        self.file_of = file_of
        self.skipped: Counter[str] = Counter()
        self.keys: dict[Any, int] = {}  # image id, of whatever type, -> small number
        self.image_keys, self.files, self.sizes = array("q"), list[str](), array("q")
        self.keys_of_objects, self.boxes, self.places = array("q"), array("d"), array("q")
        self.numbers, self.categories = array("q"), array("q")

    def take(self, found: dict[str, Any]) -> Any:
        """``object_hook``: None in place of annotations and images, which are now in the arrays."""
        if "image_id" in found:
            self._annotation(found)
            return None
        if "id" in found and ("file_name" in found or "coco_url" in found):
            try:
                self.files.append(self.file_of(found))
            except ValueError:
                self.skipped["image without a file name"] += 1
                return None
            self.sizes.extend(image_size(found))
            self.image_keys.append(self._key_of(found["id"]))
            return None
        return found

    def _key_of(self, number: Any) -> int:
        return self.keys.setdefault(number if isinstance(number, int | str) else str(number), len(self.keys))

    def _annotation(self, found: dict[str, Any]) -> None:
        if found.get("iscrowd"):
            self.skipped["crowd"] += 1
            return
        box = usable_box(found.get("bbox"))
        if box is None:
            self.skipped["no usable box"] += 1
            return
        if box[2] <= 0 or box[3] <= 0:
            self.skipped["box without area"] += 1
            return
        place, number, category = found.get("segmentation"), found.get("id"), found.get("category_id")
        self.keys_of_objects.append(self._key_of(found["image_id"]))
        self.boxes.extend(box)
        self.places.append(place if isinstance(place, int) else -1)
        self.numbers.append(whole(number, len(self.numbers)))
        self.categories.append(whole(category, -1))


def whole(value: Any, otherwise: int) -> int:
    """Ids that fit an array; own files may have others."""
    return value if isinstance(value, int) and abs(value) < 2**62 else otherwise


def image_size(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height that an image's or video's entry tells; 0, 0 if it does not, or not rightly."""
    width, height = entry.get("width"), entry.get("height")
    whole = isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 and width * height < 2**31
    return (int(width or 0), int(height or 0)) if whole else (0, 0)


def category_names(entries: Any) -> dict[int, str]:
    """Category id -> name; entries that are none are left out."""
    if not isinstance(entries, list):
        return {}
    return {whole(e.get("id"), -1): str(e["name"]) for e in entries if isinstance(e, dict) and "name" in e}


def _file_name(image: Mapping[str, Any]) -> str:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError("no file name")
    return name


def _object(box: np.ndarray, path: Path, place: int, size: tuple[int, int]) -> Annotation:
    known = size if min(size) > 0 else None
    masks = SegmentationMasks(path, (place,), known) if place >= 0 and known is not None else None
    return Annotation(boxes=box, masks=masks, objects=() if masks is None else (1,), image_size=known)


def open_coco(root: Path, split: str) -> CocoObjects:
    """COCO of one year and part: ``train2014``, .."""
    file = f"instances_{split}.json"
    path = existing(root, (f"annotations/{file}", file), f"the annotations of {split}")
    folder = existing(root, (f"images/{split}", split), f"the images of {split}")
    return CocoObjects(f"coco:{split}", path, folder)


TRAINING = (
    TrainingEntry(
        name="coco",
        title="COCO",
        open=open_coco,
        folders=("COCO", "MSCOCO", "coco2014", "coco2017"),
        marks=("annotations/instances_*.json", "instances_*.json"),
        layout="""\
annotations/instances_train2014.json      (or beside images/)
images/train2014/COCO_train2014_000000000009.jpg ..   (or train2014/..)""",
        source="cocodataset.org (images and annotations of the year)",
        splits=("train2014", "train2017", "val2014", "val2017"),
    ),
)
