"""VOT: short-term with re-initialisation (2015-2019), from anchors (2020-2022), and long-term (spec/evaluation.md §6, §7, §9).

All have the same files, with the toolkit's header or, in older copies, without::

    list.txt                  names, one per line
    <name>/groundtruth.txt    a region per line: polygon, rectangle, mask, or nan
    <name>/sequence           key=value: channels.color, length, width, height (copies by vot-toolkit)
    <name>/color/%08d.jpg     frames from 1; older copies: <name>/%08d.jpg
    <name>/*.tag              0/1 per frame: occlusion, camera_motion, ...
    <name>/anchor.value       +1, -1 or 0 per frame: where runs start (2020 and later)

A workspace of vot-toolkit is a root too: its ``sequences/`` is used. Channels other than colour are passed over.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..regions import Polygon, PolygonRule, Region, parse_region, region_to_box
from ..text import read_rows
from .catalog import Entry, Expected
from .frames import FolderFrames, NoFrames, NumberedFrames
from .lines import read_lines
from .sequence import Annotation, Array, Frames, Sequence

_COLOUR = "color/%08d.jpg"


def read_vot(
    root: Path, split: str | None = None, *, longterm: bool = False, how: PolygonRule = "area"
) -> list[Sequence]:
    """The sequences of ``list.txt`` in its order; without one, all folders with a ``groundtruth.txt`` by name.

    Args:
        longterm: nan means that the target is absent (``Annotation.visible``), not that its place is unknown.
        how: boxes from polygons: ``"area"`` keeps the target's area, as trackers were started for the published results,
            ``"union"`` is the rectangle around all corners.

    Raises :class:`InputError` if the list names a folder that is not there.
    """
    base = root / "sequences" if (root / "sequences").is_dir() and not (root / "list.txt").is_file() else root
    return [_open(base / name, longterm, how) for name in _names(base)]


def _names(base: Path) -> list[str]:
    listed = base / "list.txt"
    if not listed.is_file():
        return sorted(path.parent.name for path in base.glob("*/groundtruth.txt"))
    names = read_lines(listed)
    for name in names:
        if not (base / name / "groundtruth.txt").is_file():
            what = "no groundtruth.txt in it" if (base / name).is_dir() else "no such folder"
            raise InputError(
                f"{listed} names {name!r}, but there is {what}; restore {base / name}, or take the line out"
            )
    return names


def _open(folder: Path, longterm: bool, how: PolygonRule) -> Sequence:
    header = _header(folder / "sequence")
    frames = _frames(folder, header)
    size = _number(header, "width", folder), _number(header, "height", folder)
    read = partial(read_annotation, folder, frames, longterm, how, size if all(size) else None)
    return Sequence(name=folder.name, dataset="vot", frames=frames, read=read, start=1)


def _header(path: Path) -> dict[str, str]:
    """``key=value`` lines; empty without the file."""
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in read_lines(path) if not line.startswith(("#", "[")))
    return {key.strip(): value.strip() for key, _, value in pairs}


def _number(header: dict[str, str], key: str, folder: Path) -> int:
    """0 if the header does not have it."""
    value = header.get(key, "0")
    if not re.fullmatch(r"\d{1,9}(\.0*)?", value):
        raise InputError(f"{folder / 'sequence'}: {key}={value[:40]} is not a count; give a whole number")
    return int(float(value))


def _frames(folder: Path, header: dict[str, str]) -> Frames:
    """By the header's pattern and length; without a header what lies in ``color/`` or beside ``groundtruth.txt``."""
    pattern = header.get("channels.color", _COLOUR)
    parts = re.fullmatch(r"(?:([^%]*)/)?%0(\d+)d(\.\w+)", pattern)
    if parts is None:
        raise InputError(f"{folder / 'sequence'}: channels.color={pattern[:60]} is not understood; usual is {_COLOUR}")
    below, digits, suffix = parts.groups()
    count = _number(header, "length", folder)
    images = next((f for f in (folder / (below or ""), folder) if _has_images(f)), None)
    if images is None:
        return NoFrames(count or partial(_count_lines, folder / "groundtruth.txt"))
    if not count:
        return FolderFrames(images)
    return NumberedFrames(images, count, digits=int(digits), suffix=suffix)  # a missing file is missed at its own frame


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in folder.iterdir())


def _count_lines(path: Path) -> int:
    return len(read_lines(path, keep_blank=True))


def read_annotation(
    folder: Path, frames: Frames, longterm: bool = False, how: PolygonRule = "area", size: tuple[int, int] | None = None
) -> Annotation:
    """The files of one sequence.

    Raises :class:`InputError` for a line that is no region and for another number of lines than frames.
    """
    path, count = folder / "groundtruth.txt", len(frames)
    lines = read_lines(path, keep_blank=True)
    if len(lines) != count:
        raise InputError(
            f"{path} has {len(lines)} lines for {count} frames; each frame needs one (nan,nan,nan,nan where nothing is "
            "known): copy the sequence again"
        )
    regions = tuple(_region(path, number, line) for number, line in enumerate(lines, 1))
    boxes = boxes_of_regions(regions, how)
    return Annotation(
        boxes=boxes,
        visible=np.isfinite(boxes[:, 0]) if longterm else None,
        polygons=_polygons(regions),
        regions=regions,
        tags={tag.stem: _per_frame(tag, count) != 0 for tag in sorted(folder.glob("*.tag"))},
        anchors=_anchors(folder / "anchor.value", count),
        image_size=size,
    )


def _region(path: Path, number: int, line: str) -> Region:
    try:
        return parse_region(line)
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}") from None


def boxes_of_regions(regions: tuple[Region, ...], how: PolygonRule = "area") -> Array:
    """(N, 4) xywh for a box tracker; nan where a region is a code. ``how``: see :func:`read_vot`."""
    return np.array([region_to_box(region, how) for region in regions], dtype=np.float64).reshape(-1, 4)


def _polygons(regions: tuple[Region, ...]) -> Array | None:
    """(N, 8); None unless there are polygons and all have four corners."""
    corners = [region.points.ravel() if isinstance(region, Polygon) else np.full(8, np.nan) for region in regions]
    if not any(isinstance(r, Polygon) for r in regions) or any(len(c) != 8 for c in corners):
        return None
    return np.array(corners)  # (N, 8)


def _anchors(path: Path, count: int) -> npt.NDArray[np.int64] | None:
    if not path.is_file():
        return None
    values = _per_frame(path, count)
    if not np.isin(values, (-1, 0, 1)).all():
        line = int(np.flatnonzero(~np.isin(values, (-1, 0, 1)))[0]) + 1
        raise InputError(f"{path}, line {line} is {values[line - 1]:g}; anchors are 1 (forward), -1 (backward) or 0")
    return values.astype(np.int64)


def _per_frame(path: Path, count: int) -> Array:
    """(N,) numbers. Like the toolkit, frames after the file's end have 0: tag files of VOT often stop early."""
    values = read_rows(path, 1)[:, 0] if path.stat().st_size else np.zeros(0)
    if len(values) > count:
        raise InputError(f"{path} has {len(values)} lines for {count} frames; copy the sequence again")
    return np.pad(values, (0, count - len(values)))


_LAYOUT = """\
list.txt
bag/groundtruth.txt
bag/color/00000001.jpg ..     (or bag/00000001.jpg ..)
bag/sequence, bag/*.tag"""
_MARKS = ("list.txt", "sequences/list.txt", "*/groundtruth.txt")


def _short_term(year: int) -> Entry:
    return Entry(
        name=f"vot{year}",
        title=f"VOT{year}",
        read=read_vot,
        folders=(f"VOT{year}", f"vot{year}st", f"vot{year % 100}"),
        marks=_MARKS,
        layout=_LAYOUT,
        source=f"pip install vot-toolkit && vot initialize vot{year}/shortterm --workspace VOT{year} (votchallenge.net)",
        rule="vot-supervised",
        protocol="supervised",
        expected={"": Expected(sequences=60, frames=21356 if year == 2018 else None)},
    )


def _multi_start(name: str, title: str, stack: str, sequences: int | None) -> Entry:
    return Entry(
        name=name,
        title=title,
        read=read_vot,
        folders=(title, f"{name}st"),
        marks=_MARKS,
        layout=_LAYOUT + ", bag/anchor.value",
        source=f"pip install vot-toolkit && vot initialize {stack} --workspace {title} (votchallenge.net)",
        rule="vot-multistart",
        protocol="multistart",
        expected={"": Expected(sequences=sequences)},
    )


def _long_term(year: int, expected: Expected) -> Entry:
    return Entry(
        name=f"votlt{year}",
        title=f"VOT-LT{year}",
        read=partial(read_vot, longterm=True),
        folders=(f"VOT-LT{year}", f"VOT{year}-LT", f"LTB{year % 100}"),
        marks=_MARKS,
        layout=_LAYOUT.replace("bag", "ballet"),
        source=f"pip install vot-toolkit && vot initialize vot{year}/longterm --workspace VOT-LT{year} (votchallenge.net)",
        rule="vot-lt",
        protocol="longterm",
        expected={"": expected},
    )


ENTRIES: tuple[Entry, ...] = (
    *(_short_term(year) for year in range(2015, 2020)),
    _multi_start("vot2020", "VOT2020", "vot2020/shortterm", 60),
    _multi_start("vot2021", "VOT2021", "vot2021/shortterm", None),
    _multi_start("vot2022", "VOT2022", "vot2022/shortterm", None),
    _multi_start("vot2022_box", "VOT2022-box", "vot2022/shorttermbox", None),
    _long_term(2018, Expected(35)),
    _long_term(2019, Expected(50, 215294)),
    _long_term(2020, Expected(50, 215294)),
)
"""The long-term sets of 2019 and 2020 hold the same sequences."""
