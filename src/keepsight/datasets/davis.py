"""DAVIS 2016 and 2017, semi-supervised: the first frame's masks are given (spec/evaluation.md §10).

Files (480p is taken; a copy that has only ``Full-Resolution`` works too)::

    ImageSets/2017/val.txt                    names; 2016: names, or lines "/JPEGImages/480p/bear/00000.jpg .."
    JPEGImages/480p/<name>/%05d.jpg
    Annotations/480p/<name>/%05d.png          indexed PNG, palette index = object id (2016: 0/255)

``davis2016`` makes one object of all. ``davis2017`` keeps the objects, with the first object's box in
``Annotation.boxes``. ``davis2017_objects`` is for box trackers: one sequence per object, named ``<name>_<id>``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from .catalog import Entry, Expected
from .frames import ImageFrames, NoFrames
from .lines import read_lines
from .masks import VOID, MaskFiles, boxes_of_mask, list_pictures, object_ids, read_mask
from .sequence import Annotation, Array, Frames, Masks, Sequence

_FIRST_ONLY = "test-dev"
"""The split whose masks after the first frame are not published."""


def read_davis(root: Path, split: str | None = "val", *, year: int = 2017) -> list[Sequence]:
    """The videos of ``ImageSets/<year>/<split>.txt``. ``year`` 2016: one object per video, whatever the files hold.

    Ids above the first frame's largest are not among ``Annotation.objects`` (they are ignored). Raises
    :class:`InputError` if a listed video or one of its masks is not there (the masks: when the annotation is read).
    """
    return [_open(root, name, split or "val", year) for name in _names(root, split or "val", year)]


def read_objects(root: Path, split: str | None = "val") -> list[Sequence]:
    """One sequence per object of each video, as box trackers take them. Reads the first masks: they say how many there are."""
    sequences = []
    for video in read_davis(root, split):
        folder = root / "Annotations" / _resolution(root) / video.name
        for number in object_ids(read_mask(folder / f"{_stems(video)[0]}.png")):
            read = partial(_object, video.read, number)
            sequences.append(
                Sequence(
                    name=f"{video.name}_{number}",
                    dataset="davis2017_objects",
                    frames=video.frames,
                    read=read,
                    frame_names=video.frame_names,
                )
            )
    return sequences


def _names(root: Path, split: str, year: int) -> list[str]:
    path = root / "ImageSets" / str(year) / f"{split}.txt"
    if not path.is_file():
        path = root / "ImageSets" / "480p" / f"{split}.txt"  # DAVIS 2016 as first published: one line per frame
    if not path.is_file():
        raise InputError(
            f"there is no {root / 'ImageSets' / str(year) / f'{split}.txt'}; it names the videos of the split"
        )
    names = [line.split()[0] for line in read_lines(path)]
    return list(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in names))


def _resolution(root: Path) -> str:
    found = [name for name in ("480p", "Full-Resolution") if (root / "Annotations" / name).is_dir()]
    if not found:
        raise InputError(f"there is no {root / 'Annotations' / '480p'}; unpack DAVIS so that it is there")
    return found[0]


def _open(root: Path, name: str, split: str, year: int) -> Sequence:
    resolution = _resolution(root)
    images, masks = root / "JPEGImages" / resolution / name, root / "Annotations" / resolution / name
    files, mask_files = list_pictures(images), list_pictures(masks)
    if not mask_files:
        raise InputError(f"{split}.txt of DAVIS {year} names {name!r}, but {masks} holds no masks; restore it")
    frames: Frames = ImageFrames(files) if files else NoFrames(len(mask_files))
    stems = tuple(file.stem for file in files or mask_files)
    read = partial(read_annotation, masks, stems, year == 2016, split == _FIRST_ONLY)
    return Sequence(name=name, dataset=f"davis{year}", frames=frames, read=read, frame_names=stems)


def _stems(sequence: Sequence) -> tuple[str, ...]:
    return sequence.frame_names or ()


def read_annotation(
    folder: Path, stems: tuple[str, ...], one_object: bool = False, first_only: bool = False
) -> Annotation:
    """Masks of one video, one file ``<stem>.png`` per frame. Reads each once for the boxes; they are not kept.

    Raises :class:`InputError` if a frame has no mask (unless ``first_only``: test sets) or the first mask no object.
    """
    there = {file.name for file in list_pictures(folder)}
    missing = [f"{stem}.png" for stem in stems[: 1 if first_only else None] if f"{stem}.png" not in there]
    if missing:
        raise InputError(
            f"{folder} has no mask {missing[0]} ({len(missing)} of {len(stems)} frames have none); every frame needs one: "
            "copy the video's masks again"
        )
    extra = sorted(there - {f"{stem}.png" for stem in stems})
    if extra:
        raise InputError(
            f"{folder} has a mask {extra[0]}, but there is no picture of that frame ({len(extra)} of {len(there)} masks have "
            "none): copy the video's pictures again"
        )
    masks = MaskFiles([folder / f"{s}.png" if f"{s}.png" in there else None for s in stems], binary=one_object)
    first = masks[0]
    objects = () if first is None else object_ids(first)
    if not objects:
        raise InputError(f"the first mask {folder / stems[0]}.png holds no object, so no tracker can be started on it")
    boxes = boxes_of_objects(masks, objects)
    return Annotation(
        boxes=boxes[0, :1] if first_only else boxes[0],
        masks=masks,
        objects=objects,
        first_seen=first_frames(boxes, objects),
        annotated=np.array([path is not None for path in masks.paths]) if first_only else None,
        image_size=(first.shape[1], first.shape[0]) if first is not None else None,
    )


def boxes_of_objects(masks: Masks, objects: tuple[int, ...]) -> Array:
    """(K, N, 4) xywh of K objects; nan where an object has no pixels or the frame no mask. Reads every mask once."""
    boxes = np.full((len(objects), len(masks), 4), np.nan)
    for frame in range(len(masks)):
        ids = masks[frame]
        if ids is not None:
            boxes[:, frame] = [boxes_of_mask(ids, number) for number in objects]
    return boxes


def first_frames(boxes: Array, objects: tuple[int, ...]) -> dict[int, int]:
    """Object id -> the first frame in which it has pixels; ids that never have any are left out. ``boxes``: (K, N, 4)."""
    seen = np.isfinite(boxes[..., 0])  # (K, N)
    return {number: int(row.argmax()) for number, row in zip(objects, seen, strict=True) if row.any()}


class OneObject(Masks):
    """One object of several: its id becomes 1, the others background; void stays."""

    def __init__(self, masks: Masks, number: int) -> None:
        self.masks, self.number = masks, number

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> np.ndarray | None:
        ids = self.masks[index]
        return None if ids is None else np.where(ids == VOID, ids, ids == self.number).astype(np.uint8)


def _object(read: Callable[[], Annotation], number: int) -> Annotation:
    annotation = read()
    if annotation.masks is None:
        return annotation
    masks = OneObject(annotation.masks, number)
    boxes = boxes_of_objects(masks, (1,))
    return Annotation(
        boxes=boxes[0],
        masks=masks,
        objects=(1,),
        first_seen=first_frames(boxes, (1,)),
        visible=np.isfinite(boxes[0, :, 0]),
        image_size=annotation.image_size,
    )


def _layout(year: int) -> str:
    return f"""\
ImageSets/{year}/val.txt
JPEGImages/480p/blackswan/00000.jpg ..
Annotations/480p/blackswan/00000.png .."""


_SOURCE = "davischallenge.org: the TrainVal 480p archive (test-dev: its own archive, unpacked over it)"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="davis2016",
        title="DAVIS 2016",
        read=partial(read_davis, year=2016),
        folders=("DAVIS2016", "DAVIS"),
        marks=("ImageSets/2016", "ImageSets/480p"),
        layout=_layout(2016),
        source=_SOURCE,
        rule="davis2016",
        protocol="vos",
        splits=("val", "train"),
        expected={"val": Expected(20), "train": Expected(30)},
    ),
    Entry(
        name="davis2017",
        title="DAVIS 2017",
        read=read_davis,
        folders=("DAVIS2017", "DAVIS"),
        marks=("ImageSets/2017",),
        layout=_layout(2017),
        source=_SOURCE,
        rule="davis2017",
        protocol="vos",
        splits=("val", "train", _FIRST_ONLY),
        expected={"val": Expected(30), "train": Expected(60), _FIRST_ONLY: Expected(30)},
    ),
    Entry(
        name="davis2017_objects",
        title="DAVIS 2017, each object by itself (boxes)",
        read=read_objects,
        folders=("DAVIS2017", "DAVIS"),
        marks=("ImageSets/2017",),
        layout=_layout(2017),
        source=_SOURCE,
        splits=("val", "train"),
    ),
)
