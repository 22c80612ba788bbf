"""The evaluation readers' training parts as training sets: LaSOT, GOT-10k, TrackingNet, YouTube-VOS, DAVIS, own folders."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, KeepsightError
from . import davis, folder, got10k, lasot, segtrack, trackingnet, youtube_vos
from .cache import folder_times, kept
from .catalog import Entry
from .davis import OneObject, boxes_of_objects
from .frames import ImageFrames, NumberedFrames
from .lists import names as listed
from .masks import MaskFiles, list_pictures, object_ids, read_mask
from .sequence import Annotation, Sequence
from .tracks import SequenceSet, TrainingSet
from .training_entry import TrainingEntry, pack_names, unpack_name
from .truth import list_folder

_FORMAT = 1
"""Of the kept boxes; to be raised when what is gathered changes."""


class Videos(SequenceSet):
    """Sequences of a box data set. Elements are given out without their annotations being kept, so that memory stays
    bounded however many are drawn."""

    def __init__(self, name: str, sequences: list[Sequence], skipped: Counter[str]) -> None:
        super().__init__(name, sequences)
        self.skipped: dict[str, int] = {reason: n for reason, n in skipped.items() if n}

    def __getitem__(self, index: int) -> Sequence:
        return replace(self._sequences[index], dataset=self.name)


class VideoObjects(TrainingSet):
    """One element per object of videos with masks (several objects per video).

    Boxes are those of the masks; they are gathered when a video is first used and kept, see :mod:`.cache`. Frames
    without a mask are left out.

    Args:
        images, masks: folders with one sub-folder per video; masks bear the images' names.
        objects: (video, object id, category) per element.
    """

    is_video = True

    def __init__(
        self, name: str, images: Path, masks: Path, objects: Iterable[tuple[str, int, str]], skipped: Counter[str]
    ) -> None:
        self.name, self.images, self.masks = name, images, masks
        listed_objects = list(objects)
        self.videos = pack_names(video for video, _, _ in listed_objects)  # (M,)
        self.ids = np.array([number for _, number, _ in listed_objects], dtype=np.int64)
        self._labels = pack_names(label for _, _, label in listed_objects)
        self.skipped: dict[str, int] = {reason: n for reason, n in skipped.items() if n}

    @property
    def labels(self) -> list[str]:
        """What each element is, as the data set says; "" where it does not."""
        return [unpack_name(self._labels, index) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sequence:
        """Lists the video's folders."""
        index = range(len(self))[index]
        video, number, label = unpack_name(self.videos, index), int(self.ids[index]), unpack_name(self._labels, index)
        there = {path.stem: path for path in list_pictures(self.masks / video)}
        pictures = [path for path in list_pictures(self.images / video) if path.stem in there]
        return Sequence(
            name=f"{video}/{number}",
            dataset=self.name,
            frames=ImageFrames(pictures),
            read=partial(_read_object, tuple(there[path.stem] for path in pictures), number),
            attributes=frozenset({label} if label else ()),
            frame_names=tuple(path.stem for path in pictures),
        )


def _read_object(paths: tuple[Path, ...], number: int) -> Annotation:
    boxes = _boxes_of_video(paths).get(number, np.full((len(paths), 4), np.nan))
    return Annotation(
        boxes=boxes, visible=np.isfinite(boxes[:, 0]), masks=OneObject(MaskFiles(paths), number), objects=(1,)
    )


def _boxes_of_video(paths: tuple[Path, ...]) -> dict[int, np.ndarray]:
    """Object id -> (N, 4) xywh."""
    if not paths:
        return {}
    signature = (_FORMAT, *folder_times({path.parent for path in paths}), *(path.name for path in paths))
    found = kept("boxes_of_masks", signature, partial(_gather, paths))
    return {int(number): found["boxes"][k] for k, number in enumerate(found["ids"])}


def _gather(paths: tuple[Path, ...]) -> dict[str, np.ndarray]:
    masks = MaskFiles(paths)
    ids = sorted({number for k in range(len(masks)) for number in object_ids(_there(masks[k]))})
    return {"ids": np.array(ids, dtype=np.int64), "boxes": boxes_of_objects(masks, tuple(ids))}


def _there(mask: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 0), np.uint8) if mask is None else mask


# --- opening ------------------------------------------------------------------------------------------------------------


def open_lasot(root: Path, split: str) -> Videos:
    found = lasot.sequences(root, split)
    return Videos(f"lasot:{split}", found, Counter({"sequence not there": len(lasot.names(split)) - len(found)}))


def open_got10k(root: Path, split: str) -> Videos:
    if split != "val" and not (root / "train/list.txt").is_file() and not (root / "list.txt").is_file():
        raise InputError(f"there is no {root / 'train/list.txt'}, which lists the training set")
    found = got10k.sequences(root, split)
    parents = {_folder(s).parent for s in found}
    there = {parent: list_folder(parent) for parent in parents}
    present = [s for s in found if s.name in there[_folder(s).parent]]
    return Videos(f"got10k:{split}", present, Counter({"sequence not there": len(found) - len(present)}))


def _folder(sequence: Sequence) -> Path:
    assert isinstance(sequence.frames, NumberedFrames)
    return sequence.frames.folder


_PARTS = re.compile(r"train_(\d+(-\d+)?(,(train_)?\d+(-\d+)?)*)")
_LAST_PART = 11


def _is_range(split: str) -> bool:
    return _PARTS.fullmatch(split) is not None


def trackingnet_parts(split: str) -> tuple[int, ...]:
    """``train_0-3`` -> 0, 1, 2, 3; ``train_0,4,train_9-11`` joins. Raises :class:`InputError` for parts that do not exist."""
    parts: dict[int, None] = {}
    for piece in split.split(","):
        first, _, last = piece.removeprefix("train_").partition("-")
        found = range(int(first), int(last or first) + 1)
        if not found or found[-1] > _LAST_PART:
            raise InputError(f"trackingnet:{split}: {piece!r} is no range within 0-{_LAST_PART}; write train_0-3")
        parts.update(dict.fromkeys(found))
    return tuple(parts)


def open_trackingnet(root: Path, split: str) -> Videos:
    """``train``: every part that is there; named parts must all be there."""
    numbers = range(_LAST_PART + 1) if split == "train" else trackingnet_parts(split)
    absent = [f"TRAIN_{k}" for k in numbers if not (root / f"TRAIN_{k}/anno").is_dir()]
    if absent and (split != "train" or len(absent) == len(numbers)):
        raise InputError(f"{root} has no {', '.join(f'{part}/anno' for part in absent)}")
    found = [s for k in numbers for s in trackingnet.sequences(root, f"train_{k}")]
    return Videos(f"trackingnet:{split}", found, Counter({"part not there": len(absent)}))


def open_segtrack(root: Path, split: str) -> Videos:
    return Videos("segtrackv2", segtrack.read_segtrack(root), Counter())


def open_folder(root: Path, path: str) -> Videos:
    """``path`` may be relative to ``root``; empty: the root itself."""
    place = root / Path(path).expanduser()
    if not place.is_dir():
        raise InputError(f"there is no folder {place}")
    return Videos(f"folder:{path}" if path else "folder", folder.sequences(place), Counter())


def _open_youtube_vos(year: int, root: Path, split: str) -> VideoObjects:
    base, skipped = root / "train", Counter[str]()
    videos = _meta(base / "meta.json")
    if split != "train":
        names = listed(f"youtubevos_{split}")
        skipped["video not in meta.json"] += sum(name not in videos for name in names)
        videos = {name: videos[name] for name in names if name in videos}
    for part in ("JPEGImages", "Annotations"):
        if not (base / part).is_dir():
            raise InputError(f"there is no folder {base / part}")
    there = list_folder(base / "JPEGImages") & list_folder(base / "Annotations")
    objects = []
    for video, entry in videos.items():
        if video not in there:
            skipped["video not there"] += 1
            continue
        objects += [(video, number, label) for number, label in _objects(entry, skipped)]
    return VideoObjects(f"youtubevos{year}:{split}", base / "JPEGImages", base / "Annotations", objects, skipped)


def _meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no {path}, which names the videos")
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return dict(videos.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not as expected ({type(error).__name__}: {error}); copy it again") from None


def _objects(entry: Any, skipped: Counter[str]) -> list[tuple[int, str]]:
    """(id, category) of a video's objects, by id."""
    objects = entry.get("objects") if isinstance(entry, dict) else None
    found = []
    for number, thing in objects.items() if isinstance(objects, dict) else ():
        if number.isdecimal() and isinstance(thing, dict) and thing.get("frames"):
            found.append((int(number), str(thing.get("category", ""))))
        else:
            skipped["object without id or frames"] += 1
    return sorted(found)


def _open_davis(year: int, root: Path, split: str) -> VideoObjects | Videos:
    """Reads the first mask of each video: it says how many objects there are."""
    skipped, objects = Counter[str](), []
    if not (root / "ImageSets").is_dir():
        raise InputError(f"there is no folder {root / 'ImageSets'}")
    resolution = davis._resolution(root)
    images, masks = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    for video in davis._names(root, split, year):
        files = list_pictures(masks / video)
        try:
            numbers = object_ids(read_mask(files[0])) if files else ()
        except KeepsightError:
            numbers = ()
        if not numbers:
            skipped["video without a usable first mask"] += 1
        objects += [(video, number, "") for number in numbers]
    return VideoObjects(f"davis{year}:{split}", images, masks, objects, skipped)


def _like(
    entry: Entry,
    opens: Callable[[Path, str], TrainingSet],
    splits: tuple[str, ...],
    any_split: Callable[[str], bool] | None = None,
    takes_path: bool = False,
) -> TrainingEntry:
    return TrainingEntry(
        name=entry.name,
        title=entry.title,
        open=opens,
        folders=entry.folders,
        marks=entry.marks,
        layout=entry.layout,
        source=entry.source,
        splits=splits,
        any_split=any_split,
        root_name=entry.name,
        takes_path=takes_path,
    )


_GOT10K = ("train", "vot_train", "vot_val", "train_without_vot", "train_split", "val_split", "val")

TRAINING = (
    _like(lasot.ENTRIES[0], open_lasot, ("train", "train_train", "train_val", "all")),
    _like(got10k.ENTRIES[0], open_got10k, _GOT10K),
    _like(trackingnet.ENTRIES[0], open_trackingnet, ("train",), any_split=_is_range),
    *(
        _like(entry, partial(_open_youtube_vos, year), ("train", "jjtrain", "jjvalid"))
        for year, entry in zip((2018, 2019), youtube_vos.ENTRIES, strict=True)
    ),
    _like(davis.ENTRIES[1], partial(_open_davis, 2017), ("train", "val")),
    _like(segtrack.ENTRIES[0], open_segtrack, ("",)),
    _like(folder.ENTRIES[0], open_folder, ("",), takes_path=True),
)
