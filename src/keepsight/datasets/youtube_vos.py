"""YouTube-VOS 2018 and 2019: several objects per video, some of which start late (spec/evaluation.md §11).

Files::

    valid/meta.json                           videos.<video>.objects.<id>.{category, frames}
    valid/JPEGImages/<video>/%05d.jpg         every fifth frame
    valid/Annotations/<video>/%05d.png        indexed PNG; valid and test: each object's first mask only
    valid_all_frames/JPEGImages/<video>/..    every frame (optional)
    train/..                                  the same, with all masks

Splits: ``valid``, ``valid_all_frames`` (results count at the frames of ``valid``, which carry the tag ``scored``),
``test``, ``train``, and ``jjvalid``, 300 training videos that people validate on because the others' masks are secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, VideoError
from .catalog import Entry, Expected
from .davis import boxes_of_objects
from .frames import ImageFrames, NoFrames
from .lists import names
from .masks import MaskFiles, list_pictures
from .sequence import Annotation, Frames, Sequence

_JJVALID = "jjvalid"
_ALL_FRAMES = "valid_all_frames"

Objects = Mapping[int, tuple[str, str]]
"""Object id -> (category, name of its first frame)."""


def read_youtube_vos(root: Path, split: str | None = "valid") -> list[Sequence]:
    """The videos of ``meta.json`` in its order. Reads that file; masks when the annotation is asked for.

    ``Sequence.attributes`` are the categories. ``Annotation.first_seen`` tells where each object starts,
    ``Annotation.annotated`` which frames have masks, ``Annotation.boxes`` the box of the object that starts first.
    """
    split = split or "valid"
    folder = root / {_JJVALID: "train", _ALL_FRAMES: "valid"}.get(split, split)
    videos = _meta(folder / "meta.json")
    if split == _JJVALID:
        missing = [name for name in names("youtubevos_jjvalid") if name not in videos]
        if missing:
            raise InputError(
                f"{folder / 'meta.json'} lacks {len(missing)} of the 300 jjvalid videos, e.g. {missing[0]}"
            )
        videos = {name: videos[name] for name in names("youtubevos_jjvalid")}
    images = (root / _ALL_FRAMES if split == _ALL_FRAMES else folder) / "JPEGImages"
    if split == _ALL_FRAMES and not images.is_dir():
        raise InputError(f"there is no {images}; unpack the archive with all frames, or take the split 'valid'")
    return [_open(folder, images / name, name, objects) for name, objects in videos.items()]


def object_categories(root: Path, split: str | None = "valid") -> dict[str, dict[int, str]]:
    """Video -> object id -> category, as :func:`keepsight.evaluation.vos.seen_objects` takes it."""
    folder = root / {_JJVALID: "train", _ALL_FRAMES: "valid"}.get(split or "valid", split or "valid")
    videos = _meta(folder / "meta.json")
    return {name: {i: category for i, (category, _) in objects.items()} for name, objects in videos.items()}


def seen_categories(root: Path) -> frozenset[str]:
    """Categories of the training set; the others of ``valid`` and ``test`` are the unseen ones."""
    videos = _meta(root / "train" / "meta.json")
    return frozenset(category for objects in videos.values() for category, _ in objects.values())


def _meta(path: Path) -> dict[str, Objects]:
    try:
        videos: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["videos"]
        return {video: _objects(entry["objects"]) for video, entry in videos.items()}
    except OSError as error:
        raise VideoError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}; it names the videos"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path} is not as expected ({type(error).__name__}: {error}); it holds videos.<video>.objects.<id>.frames: "
            "copy it from the data set again"
        ) from None


def _objects(entries: Mapping[str, Any]) -> Objects:
    found = {int(number): entry for number, entry in entries.items()}
    return {n: (str(found[n].get("category", "")), str(found[n]["frames"][0])) for n in sorted(found)}


def _open(folder: Path, images: Path, name: str, objects: Objects) -> Sequence:
    pictures, masks = list_pictures(images), folder / "Annotations" / name
    if not masks.is_dir():
        raise InputError(f"{folder / 'meta.json'} names {name!r}, but there is no {masks}; restore it")
    scored = {p.stem for p in list_pictures(folder / "JPEGImages" / name)} if images.parent.parent != folder else None
    stems = tuple(p.stem for p in pictures or list_pictures(masks))
    frames: Frames = ImageFrames(pictures) if pictures else NoFrames(len(stems))
    return Sequence(
        name=name,
        dataset="youtubevos",
        frames=frames,
        read=partial(read_annotation, masks, stems, objects, scored),
        attributes=frozenset(category for category, _ in objects.values() if category),
        frame_names=stems,
    )


def read_annotation(
    folder: Path, stems: tuple[str, ...], objects: Objects, scored: set[str] | None = None
) -> Annotation:
    """Masks of one video. Reads each once for the boxes; they are not kept.

    ``scored``: names of the frames in which results count; None: all, and there is no such tag.
    Raises :class:`InputError` if an object's first frame or its mask is not there.
    """
    there = {path.stem: path for path in list_pictures(folder)}
    where = {stem: index for index, stem in enumerate(stems)}
    for number, (_, first) in objects.items():
        if first not in where or first not in there:
            what = "frame" if first not in where else "mask"
            raise InputError(
                f"{folder}: object {number} starts in {first}, and that {what} is not there; copy the video again"
            )
    masks = MaskFiles([there.get(stem) for stem in stems])
    first_seen = {number: where[first] for number, (_, first) in objects.items()}
    leading = min(first_seen, key=lambda number: (first_seen[number], number), default=1)
    return Annotation(
        boxes=boxes_of_objects(masks, (leading,))[0],
        masks=masks,
        objects=tuple(first_seen),
        first_seen=first_seen,
        annotated=np.array([path is not None for path in masks.paths]),
        tags={} if scored is None else {"scored": np.array([stem in scored for stem in stems])},
    )


def _entry(year: int, valid: int) -> Entry:
    return Entry(
        name=f"youtubevos{year}",
        title=f"YouTube-VOS {year}",
        read=read_youtube_vos,
        folders=(f"YouTubeVOS{year}", f"YTVOS{year}", str(year)),
        marks=("valid/meta.json", "train/meta.json", "test/meta.json"),
        layout="""\
valid/meta.json
valid/JPEGImages/0062f687f1/00000.jpg ..
valid/Annotations/0062f687f1/00000.png ..
valid_all_frames/JPEGImages/.., train/.., test/..   (for these splits)""",
        source="youtube-vos.org (after registration)",
        rule="youtubevos",
        protocol="vos",
        splits=("valid", _ALL_FRAMES, "test", "train", _JJVALID),
        expected={
            "valid": Expected(valid),
            _ALL_FRAMES: Expected(valid),
            "train": Expected(3471),
            _JJVALID: Expected(300),
        },
    )


ENTRIES: tuple[Entry, ...] = (_entry(2018, 474), _entry(2019, 507))
