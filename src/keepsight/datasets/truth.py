"""Ground-truth files of the box data sets, and whether they fit the frames. Used by the readers of this folder."""

from __future__ import annotations

import os
from collections.abc import Sized
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError, VideoError
from ..text import read_rows
from .frames import NumberedFrames, list_images
from .sequence import Array

_MEND = "get the sequence again, or mend the file (`keepsight data check` lists all)"
_FARTHEST = 1e9
"""Pixels; a number beyond is damage."""


def read_boxes(path: Path, frames: int | None = None) -> Array:
    """(N, 4) numbers of a file, as they stand there. ``frames``: how many rows there must be; None: any.

    Raises :class:`InputError` for other content or another number of rows, :class:`VideoError` for a missing file.
    """
    boxes = read_rows(path)
    far = np.flatnonzero((np.abs(boxes) > _FARTHEST).any(axis=1))  # nan compares false
    if len(far):
        raise InputError(f"{path}, line {far[0] + 1}: {boxes[far[0]].tolist()} are no pixels of any picture; {_MEND}")
    if frames is not None and len(boxes) != frames:
        raise InputError(f"{path} has {len(boxes)} lines, but the sequence has {frames} frames; {_MEND}")
    return boxes


def read_labels(path: Path, frames: int) -> npt.NDArray[np.int64]:
    """(N,) whole numbers, one per line or all in one line. Raises as :func:`read_boxes`."""
    labels = read_rows(path, columns=None).ravel()
    if len(labels) != frames:
        raise InputError(f"{path} has {len(labels)} numbers, but the sequence has {frames} frames; {_MEND}")
    if not np.isin(labels, np.arange(256)).all():
        odd = labels[~np.isin(labels, np.arange(256))][0]
        raise InputError(f"{path} holds {odd:g}; expected labels 0, 1, ..; {_MEND}")
    return labels.astype(np.int64)


def has_box(boxes: Array) -> npt.NDArray[np.bool_]:
    """(N,) rows of four finite numbers."""
    return np.asarray(np.isfinite(boxes).all(axis=1))


def count_lines(path: Path) -> int:
    """Lines of an annotation file, blank ones at the end left out. Raises :class:`VideoError` if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}; {_MEND}") from None
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip()
    if not data:
        raise InputError(f"{path} is empty; {_MEND}")
    return data.count(b"\n") + 1


def check_images(path: Path, rows: int, frames: NumberedFrames) -> None:
    """That the numbered images end where the annotation ``path`` ends. A copy without images is fine.

    Raises :class:`InputError` that names both numbers.
    """
    if frames.path(rows - 1).is_file() and not frames.path(rows).is_file():
        return
    images = len(list_images(frames.folder)) if frames.folder.is_dir() else 0
    if images == 0:
        return
    raise InputError(
        f"{path} has {rows} lines, but {frames.folder} holds {images} images (expected {frames.path(0).name} to "
        f"{frames.path(rows - 1).name}); {_MEND}"
    )


def check_length(path: Path, rows: int, frames: Sized, where: Path) -> None:
    """That a listed folder or a video has as many frames as the annotation rows. Raises :class:`InputError`."""
    if rows != len(frames):
        raise InputError(f"{path} has {rows} lines, but {where} has {len(frames)} frames; {_MEND}")


def list_folder(folder: Path) -> frozenset[str]:
    """Names in a folder; nothing where there is none."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise VideoError(f"folder {folder} cannot be listed: {error.strerror}; check its permissions") from None
