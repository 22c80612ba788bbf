"""LaSOT and its extension: Fan et al., CVPR 2019 and IJCV 2021. spec/evaluation.md §3.1.

Sequences lie in class folders (``airplane/airplane-1``) or side by side. The target is absent where it is fully occluded
or out of view, by two files of flags; the box is then mostly 0,0,0,0. Opened by name alone: the test set of 280.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from . import attributes
from .catalog import Entry, Expected
from .frames import NumberedFrames
from .lists import names as listed
from .sequence import Annotation, Sequence
from .truth import check_images, count_lines, list_folder, read_boxes, read_labels

_LISTS = {
    "test": "lasot_test",
    "train": "lasot_train_split",
    "all": "lasot_all",
    "train_train": "lasot_train_train_split",
    "train_val": "lasot_train_val_split",
}


def names(split: str | None) -> tuple[str, ...]:
    return listed(_LISTS[split or "test"])


def extension_names(split: str | None) -> tuple[str, ...]:
    return listed("lasot_extension")


def sequences(root: Path, split: str | None = "test") -> list[Sequence]:
    return _present(root, names(split))


def extension_sequences(root: Path, split: str | None = None) -> list[Sequence]:
    return _present(root, extension_names(split))


def _present(root: Path, wanted: tuple[str, ...]) -> list[Sequence]:
    side_by_side = list_folder(root)
    with_attributes = (root / "att").is_dir()
    classes = {c: list_folder(root / c) for c in {_class(n) for n in wanted} if c in side_by_side}
    found = []
    for name in wanted:
        if name in classes.get(_class(name), ()):
            found.append(_sequence(root, root / _class(name) / name, with_attributes))
        elif name in side_by_side:
            found.append(_sequence(root, root / name, with_attributes))
    return found


def _class(name: str) -> str:
    return name.rpartition("-")[0]


def _sequence(root: Path, folder: Path, with_attributes: bool) -> Sequence:
    flags = attributes.read_flags(root / f"att/{folder.name}.txt", attributes.LASOT) if with_attributes else frozenset()
    frames = NumberedFrames(folder / "img", partial(_length, folder), digits=8)
    return Sequence(folder.name, "lasot", frames, partial(read_annotation, folder), attributes=flags, start=1)


def _length(folder: Path) -> int:
    """Lines of the annotation, if they fit the images."""
    path = folder / "groundtruth.txt"
    rows = count_lines(path)
    check_images(path, rows, NumberedFrames(folder / "img", rows))
    return rows


def read_annotation(folder: Path) -> Annotation:
    """Boxes and presence. Raises :class:`InputError` if the files do not fit each other or the images."""
    path = folder / "groundtruth.txt"
    boxes = read_boxes(path)
    check_images(path, len(boxes), NumberedFrames(folder / "img", len(boxes)))
    hidden = read_labels(folder / "full_occlusion.txt", len(boxes)) > 0
    outside = read_labels(folder / "out_of_view.txt", len(boxes)) > 0
    return Annotation(boxes=boxes, visible=~(hidden | outside), tags={"full_occlusion": hidden, "out_of_view": outside})


_LAYOUT = """\
<class>/<class>-<n>/img/00000001.jpg ..     (or <class>-<n>/ without class folders)
<class>/<class>-<n>/groundtruth.txt         x,y,w,h per frame
<class>/<class>-<n>/full_occlusion.txt      0/1 per frame, in one line
<class>/<class>-<n>/out_of_view.txt         0/1 per frame, in one line
att/<class>-<n>.txt                         14 attributes as 0/1, optional; or attributes.csv in the root"""

_SOURCE = "the project page of LaSOT (Fan et al.; Stony Brook University and others)"
_MARKS = ("*/*-*/full_occlusion.txt", "*-*/full_occlusion.txt", "*/*-*/groundtruth.txt", "*-*/groundtruth.txt")

ENTRIES = (
    Entry(
        name="lasot",
        title="LaSOT",
        read=sequences,
        folders=("LaSOT", "LaSOTBenchmark", "LaSOT_test"),
        marks=_MARKS,
        layout=_LAYOUT,
        source=_SOURCE,
        splits=tuple(_LISTS),
        expected={"test": Expected(280, 685_360)},
        official=names,
    ),
    Entry(
        name="lasot_extension",
        title="LaSOT extension",
        read=extension_sequences,
        folders=("LaSOT_extension_subset", "LaSOT_extension", "LaSOT_ext"),
        marks=_MARKS,
        layout=_LAYOUT,
        source=_SOURCE,
        expected={"": Expected(150, None)},
        official=extension_names,
    ),
)
