"""LVIS, Gupta et al., CVPR 2019: COCO's 2017 images with more than a thousand categories; versions 0.5 and 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .coco import CocoObjects
from .training_entry import TrainingEntry, existing

_DIGITS = 16
"""Length of COCO's 2017 file names; version 0.5 puts ``COCO_train2014_`` before them."""


def open_lvis(root: Path, split: str) -> CocoObjects:
    """``train`` or ``val``: version 1 if it is there, else 0.5; ``train_v1``, ``train_v0.5``, ..: that version."""
    part, _, version = split.partition("_")
    files = [f"lvis_{v}_{part}.json" for v in ([version] if version else ["v1", "v0.5"])]
    path = existing(root, [name for f in files for name in (f, f"annotations/{f}")], f"the annotations of {split}")
    folder = existing(root, ("images/train2017", "train2017"), "COCO's images of 2017").parent
    of_part = _of_train if part == "train" else _of_val
    return CocoObjects(f"lvis:{split}", path, folder, of_part)


def _of_train(image: Mapping[str, Any]) -> str:
    return _file(image, "train2017")


def _of_val(image: Mapping[str, Any]) -> str:
    return _file(image, "val2017")


def _file(image: Mapping[str, Any], usual: str) -> str:
    """Version 1 tells the folder by its address (its parts are not COCO's); 0.5 has COCO's own parts."""
    address = image.get("coco_url")
    if isinstance(address, str) and address.count("/") >= 2:
        return "/".join(address.split("/")[-2:])
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError("no file name")
    return f"{usual}/{name[-_DIGITS:]}"


TRAINING = (
    TrainingEntry(
        name="lvis",
        title="LVIS",
        open=open_lvis,
        folders=("LVIS",),
        marks=("lvis_v*_*.json", "annotations/lvis_v*_*.json"),
        layout="""\
lvis_v1_train.json or lvis_v0.5_train.json     (or in annotations/)
train2017/000000000009.jpg ..                  (or images/train2017/..; COCO's images; version 1 also needs val2017/)""",
        source="lvisdataset.org (annotations), cocodataset.org (images of 2017)",
        splits=("train", "val", "train_v1", "train_v0.5", "val_v1", "val_v0.5"),
    ),
)
