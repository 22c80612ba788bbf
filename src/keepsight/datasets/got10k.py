"""GOT-10k: Huang, Zhao, Huang, PAMI 2019. spec/evaluation.md §5.

Opened by name alone: the validation set. The test set has the first frame's box only; scores come from the benchmark's
server. Parts of the training set: ``train_split``/``val_split``, the same without VOT's sequences as published models
were trained (``vot_train``/``vot_val``), and everything without them (``train_without_vot``).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from ..errors import InputError, VideoError
from .catalog import Entry, Expected
from .frames import FolderFrames, NumberedFrames
from .lists import indices
from .lists import names as listed
from .sequence import Annotation, Frames, Sequence
from .truth import check_images, check_length, count_lines, read_boxes, read_labels

_SIZES = {"val": 180, "test": 180, "train": 9335}
_PARTS = {
    "train_split": "got10k_train_split",
    "val_split": "got10k_val_split",
    "vot_train": "got10k_vot_train_split",
    "vot_val": "got10k_vot_val_split",
}


def official(split: str | None) -> tuple[str, ...]:
    """Names follow a pattern, so they are known without the data."""
    split = split or "val"
    if split in _SIZES:
        return tuple(f"GOT-10k_{split.capitalize()}_{i:06d}" for i in range(1, _SIZES[split] + 1))
    return _part(split, official("train"))


def _part(split: str, train: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a part, from all names of the training set in the order of its list."""
    if split == "train_without_vot":
        excluded = set(listed("got10k_vot_exclude"))
        return tuple(n for n in train if n not in excluded)
    return tuple(train[i] for i in indices(_PARTS[split]))


def sequences(root: Path, split: str | None = "val") -> list[Sequence]:
    split = split or "val"
    subset = split if split in _SIZES else "train"
    folder = root / subset
    if not folder.is_dir() and (root / "list.txt").is_file():
        folder = root  # one subset's own folder was given
    names = _read_list(folder / "list.txt", subset)
    if split not in _SIZES:
        if len(names) != _SIZES["train"]:
            raise InputError(
                f"{folder / 'list.txt'} has {len(names)} names; the part {split!r} is defined for all {_SIZES['train']} of "
                "the training set: get the complete list"
            )
        names = _part(split, names)
    make = _test if subset == "test" else _annotated
    return [make(folder / name) for name in names]


def _read_list(path: Path, subset: str) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(
            f"{path} cannot be read: {error}; it lists the sequences of {subset!r}: get it again"
        ) from None
    odd = [n for n in names if not n.startswith(f"GOT-10k_{subset.capitalize()}_")]
    if not names or odd:
        what = f"holds {odd[0]!r}" if odd else "is empty"
        raise InputError(f"{path} {what}; expected names such as GOT-10k_{subset.capitalize()}_000001, one per line")
    return names


def _test(folder: Path) -> Sequence:
    path = folder / "groundtruth.txt"
    return Sequence(folder.name, "got10k", FolderFrames(folder), partial(_read_test, folder, path), start=1)


def _read_test(folder: Path, path: Path) -> Annotation:
    boxes = read_boxes(path)
    if len(boxes) > 1:
        check_length(path, len(boxes), FolderFrames(folder), folder)
    return Annotation(boxes=boxes, image_size=read_size(folder))


def _annotated(folder: Path) -> Sequence:
    frames: Frames = NumberedFrames(folder, partial(_length, folder))
    return Sequence(folder.name, "got10k", frames, partial(read_annotation, folder), start=1)


def _length(folder: Path) -> int:
    path = folder / "groundtruth.txt"
    rows = count_lines(path)
    check_images(path, rows, NumberedFrames(folder, rows))
    return rows


def read_annotation(folder: Path) -> Annotation:
    """Boxes and the labels that are there. Raises :class:`InputError` if files do not fit each other or the images."""
    path = folder / "groundtruth.txt"
    boxes = read_boxes(path)
    check_images(path, len(boxes), NumberedFrames(folder, len(boxes)))
    labels = {}
    for name in ("absence", "cover", "cut_by_image"):
        label = folder / f"{name}.label"
        if label.is_file():  # copies of the annotation alone lack them
            labels[name] = read_labels(label, len(boxes))
    cover = labels.get("cover")
    if cover is not None and cover.max() > 8:
        raise InputError(f"{folder / 'cover.label'} holds {cover.max()}; cover is counted in eighths, 0 to 8")
    return Annotation(
        boxes=boxes,
        visible=labels["absence"] == 0 if "absence" in labels else None,
        cover=cover,
        tags={"cut_by_image": labels["cut_by_image"] > 0} if "cut_by_image" in labels else {},
        image_size=read_size(folder),
    )


def read_size(folder: Path) -> tuple[int, int] | None:
    """Width and height by ``meta_info.ini``; None without the file. Raises :class:`InputError` if it does not say."""
    path = folder / "meta_info.ini"
    if not path.is_file():
        return None
    found = re.search(
        r"^\s*resolution\s*[:=]\s*\(?\s*(\d+)\s*,\s*(\d+)", path.read_text(errors="replace"), re.MULTILINE
    )
    if found is None:
        raise InputError(f"{path} has no line such as 'resolution: (1920, 1080)'; get the file again")
    return int(found[1]), int(found[2])


_LAYOUT = """\
train|val|test/list.txt                       names, one per line
val/GOT-10k_Val_000001/00000001.jpg ..
val/GOT-10k_Val_000001/groundtruth.txt        x,y,w,h per frame (test: first frame only)
val/GOT-10k_Val_000001/meta_info.ini          resolution: (W, H)
val/GOT-10k_Val_000001/absence.label, cover.label, cut_by_image.label"""

ENTRIES = (
    Entry(
        name="got10k",
        title="GOT-10k",
        read=sequences,
        folders=("GOT-10k", "GOT10k", "full_data"),
        marks=("val/list.txt", "test/list.txt", "train/list.txt", "list.txt"),
        layout=_LAYOUT,
        source="the project page of GOT-10k (Institute of Automation, Chinese Academy of Sciences)",
        rule="got10k",
        splits=("val", "test", "train", *_PARTS, "train_without_vot"),
        expected={"val": Expected(180, 21_007), "test": Expected(180, None), "train": Expected(9335, None)},
        official=official,
    ),
)
