"""Official lists that travel with the package: names, frame ranges and splits (spec/sequence_lists.json, compact).

``lists.json.gz`` leaves out what a rule gives: file names that follow the data set's pattern, LaSOT's training set
(all that is not test), and the GOT-10k lists without VOT sequences.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ...errors import InputError, nearest_names


@dataclass(frozen=True)
class FrameRange:
    """One sequence as a part of a folder of numbered images. Paths are relative to the data set's root."""

    name: str
    """As result files name it."""
    path: str
    """Folder of the images."""
    annotation: str
    first_frame: int
    """File number of the first frame."""
    last_frame: int
    """File number of the last frame, inclusive."""
    digits: int
    """Width of the number in the file name."""
    extension: str
    skip_first: int = 0
    """Frames that pytracking leaves out at the beginning, of images and annotation (Tiger1 of OTB)."""

    def __len__(self) -> int:
        return self.last_frame - self.first_frame + 1


_PATTERNS = {  # name, path, annotation, digits; `n` is the sequence's name in the file
    "otb100": ("{n}", "{n}/img", "{n}/groundtruth_rect.txt", 4),
    "nfs30": ("nfs_{n}", "sequences/{n}", "anno/nfs_{n}.txt", 5),
    "uav123": ("uav_{n}", "data_seq/UAV123/{n}", "anno/UAV123/{n}.txt", 6),
}

LASOT_PER_CLASS = 20


@cache
def frame_ranges(name: str) -> tuple[FrameRange, ...]:
    """The sequences of ``otb100``, ``nfs30`` or ``uav123`` in their order."""
    title, path, annotation, digits = _PATTERNS[name]
    ranges = []
    for n, first, last, *odd in _file()[name]:
        usual = {"path": path.format(n=n), "annotation": annotation.format(n=n), "digits": digits, "extension": "jpg"}
        ranges.append(
            FrameRange(
                name=title.format(n=n), first_frame=first, last_frame=last, **{**usual, **(odd[0] if odd else {})}
            )
        )
    return tuple(ranges)


@cache
def names(name: str) -> tuple[str, ...]:
    """Sequence names of a list: ``lasot_test``, ``lasot_all``, ``lasot_train_split``, ``lasot_train_train_split``,
    ``lasot_train_val_split``, ``lasot_extension``, ``got10k_vot_exclude``, ``youtubevos_jjtrain``, ``youtubevos_jjvalid``."""
    if name in ("lasot_test", "lasot_extension", "lasot_train_val_split"):
        return tuple(f"{group[0]}-{i}" for group in _file()[name] for i in group[1:])
    if name == "lasot_all":
        classes = sorted(group[0] for group in _file()["lasot_test"])
        return tuple(f"{c}-{i}" for c in classes for i in range(1, LASOT_PER_CLASS + 1))
    if name == "lasot_train_split":
        return tuple(sorted(set(names("lasot_all")) - set(names("lasot_test"))))
    if name == "lasot_train_train_split":
        return tuple(sorted(set(names("lasot_train_split")) - set(names("lasot_train_val_split"))))
    if name == "got10k_vot_exclude":
        return tuple(f"GOT-10k_Train_{i:06d}" for i in _file()[name])
    if name in ("youtubevos_jjtrain", "youtubevos_jjvalid"):
        return tuple(_file()[name])
    raise InputError(f"no list of names {name!r}; {nearest_names(name, _file())}")


@cache
def indices(name: str) -> tuple[int, ...]:
    """Positions (0 is the first line) in the ``list.txt`` of GOT-10k's training set: ``got10k_train_split``,
    ``got10k_val_split``, ``got10k_vot_train_split``, ``got10k_vot_val_split``.

    The lists without VOT leave out position k for the excluded sequence number k, which is the sequence before the one
    meant (numbers count from 1): 890 of the 1,000 are still in. Kept, because published models were trained with it;
    :func:`names` gives the excluded sequences themselves.
    """
    if name in ("got10k_vot_train_split", "got10k_vot_val_split"):
        excluded = set(_file()["got10k_vot_exclude"])
        return tuple(i for i in indices(name.replace("_vot", "")) if i not in excluded)
    if name in ("got10k_train_split", "got10k_val_split"):
        return tuple(_file()[name])
    raise InputError(f"no list of positions {name!r}; {nearest_names(name, _file())}")


@cache
def _file() -> Mapping[str, Any]:
    with (files(__package__) / "lists.json.gz").open("rb") as packed:
        content: Mapping[str, Any] = json.loads(gzip.decompress(packed.read()))
    return content
