"""Need for Speed, 30 fps: Galoogahi et al., "Need for Speed: A Benchmark for Higher Frame Rate Object Tracking", ICCV 2017.

Two layouts, spec/evaluation.md §2.2: the copy with converted annotations that published results were made on
(``anno/nfs_<seq>.txt``, x y w h), and the data set as distributed (``<seq>/30/<seq>.txt``, corners at 240 fps). Numbers
from the two differ slightly. Names are ``nfs_<seq>`` in both, as in result files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError, VideoError
from .catalog import Entry, Expected
from .frames import FolderFrames, Frames, NoFrames, NumberedFrames
from .lists import FrameRange, frame_ranges
from .sequence import Annotation, Array, Sequence
from .truth import list_folder, read_boxes

_ANNOTATED_FPS, _FPS = 240, 30
_PER_FRAME = _ANNOTATED_FPS // _FPS
_SLACK = 1  # frames by which images and annotation of the distributed copy may differ


def names(split: str | None) -> tuple[str, ...]:
    return tuple(r.name for r in frame_ranges("nfs30"))


def sequences(root: Path, split: str | None = None) -> list[Sequence]:
    annotated = list_folder(root / "anno")
    if annotated:
        return [_converted(root, r) for r in frame_ranges("nfs30") if Path(r.annotation).name in annotated]
    folders = list_folder(root)
    return [_distributed(root, r) for r in frame_ranges("nfs30") if r.name.removeprefix("nfs_") in folders]


def _converted(root: Path, r: FrameRange) -> Sequence:
    frames = NumberedFrames(root / r.path, len(r), first=r.first_frame, digits=r.digits)
    read = partial(_read_converted, root / r.annotation, len(r))
    return Sequence(r.name, "nfs30", frames, read, start=r.first_frame)


def _read_converted(path: Path, rows: int) -> Annotation:
    return Annotation(boxes=read_boxes(path, rows))


def _distributed(root: Path, r: FrameRange) -> Sequence:
    name = r.name.removeprefix("nfs_")
    folder = root / name / str(_FPS)
    images, annotation = folder / name, folder / f"{name}.txt"
    count = partial(_common_length, images, annotation)
    frames: Frames = NumberedFrames(images, count, first=r.first_frame, digits=r.digits)
    if not images.is_dir():
        frames = NoFrames(count)
    return Sequence(r.name, "nfs30", frames, partial(_read_distributed, images, annotation), start=r.first_frame)


def _read_distributed(images: Path, annotation: Path) -> Annotation:
    return Annotation(boxes=read_vatic(annotation)[::_PER_FRAME][: _common_length(images, annotation)])


def _common_length(images: Path, annotation: Path) -> int:
    """Frames that have an image and an annotation. Raises :class:`InputError` if more than one has only one of them."""
    rows = len(read_vatic(annotation)[::_PER_FRAME])
    if not images.is_dir():
        return rows
    frames = len(FolderFrames(images))
    if abs(rows - frames) > _SLACK:
        raise InputError(
            f"{annotation} has boxes for {rows} frames (every {_PER_FRAME}th line), but {images} holds {frames} images; "
            "get the sequence again"
        )
    return min(rows, frames)


def read_vatic(path: Path) -> Array:
    """(N, 4) xywh of all lines: id xmin ymin xmax ymax frame lost occluded generated "label".

    ``lost`` is not used, as in the published evaluations. Raises :class:`InputError` for other content.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}; get the sequence again") from None
    rows = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        try:
            rows.append([float(v) for v in line.split(maxsplit=6)[1:6]])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != 5:
            raise InputError(
                f'{path}, line {number}: {line[:60]!r}; expected: id xmin ymin xmax ymax frame lost .. "label"'
            )
    if not rows:
        raise InputError(f"{path} is empty; get the sequence again")
    corners = np.array(rows)[:, :4]  # (N, 4) xmin ymin xmax ymax
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])


_LAYOUT = """\
either the converted copy
  sequences/<seq>/00001.jpg ..
  anno/nfs_<seq>.txt                 x y w h per frame
or as distributed
  <seq>/30/<seq>/00001.jpg ..
  <seq>/30/<seq>.txt                 id xmin ymin xmax ymax frame lost .. at 240 fps"""

ENTRIES = (
    Entry(
        name="nfs30",
        title="NFS 30 fps",
        read=sequences,
        folders=("NFS30", "nfs", "NeedForSpeed", "need for speed"),
        marks=("anno/nfs_*.txt", "*/30/*.txt"),
        layout=_LAYOUT,
        source="the project page of Need for Speed (Galoogahi et al., Carnegie Mellon University)",
        expected={"": Expected(100, 47_953)},
        official=names,
    ),
)
