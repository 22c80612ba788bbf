"""What the readers of training sets share: their line in the catalog of :mod:`.training_sets`, and small tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .tracks import TrainingSet


@dataclass(frozen=True)
class TrainingEntry:
    """One data set to train on. Reader modules of this folder export ``TRAINING: tuple[TrainingEntry, ...]``."""

    name: str
    """Lower-case letters, digits and ``_``; what stands before the colon."""
    title: str
    """As people write it, e.g. ``COCO``."""
    open: Callable[[Path, str], TrainingSet]
    """``open(root, split)``: reads lists and indices only; ``split`` is one of ``splits``, or what ``any_split`` allows.
    Raises :class:`InputError` or :class:`VideoError` for files or folders that are not there; how the folder should look
    is added by :func:`open_training_set`."""
    folders: tuple[str, ...]
    """Usual names of its folder; upper and lower case, ``-`` and ``_`` do not matter."""
    marks: tuple[str, ...]
    """Glob patterns below the root; a folder in which one of them matches is taken for the root."""
    layout: str
    """What the root should look like, a few lines of text."""
    source: str
    """Where one gets it, in words."""
    splits: tuple[str, ...] = ("",)
    """Names after the colon; the first is the default. ``("",)``: there are none."""
    any_split: Callable[[str], bool] | None = None
    """Says whether another text after the colon has a meaning (ranges such as ``train_0-3``)."""
    root_name: str = ""
    """Data set whose folder it shares (``lasot``: the one for evaluation; else one to train on); empty: its own."""
    without_root: tuple[str, ...] = ()
    """Splits that need no files."""
    takes_path: bool = False
    """What stands after the colon may be a path instead, and no folder is looked for (own data)."""


def existing(root: Path, candidates: Iterable[str], what: str) -> Path:
    """The first of the paths below ``root`` that is there. Raises :class:`InputError` that names all of them."""
    names = tuple(candidates)
    for name in names:
        if (root / name).exists():
            return root / name
    raise InputError(f"there is no {' or '.join(names)} in {root}, where {what} should be")


def pack_names(names: Iterable[str]) -> npt.NDArray[np.bytes_]:
    """Hundreds of thousands of names as one array of UTF-8 bytes."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], dtype=np.bytes_)


def unpack_name(names: npt.NDArray[np.bytes_], index: int) -> str:
    """One name of :func:`pack_names`."""
    return bytes(names[index]).decode("utf-8", "surrogateescape")


def usable_box(box: object) -> tuple[float, float, float, float] | None:
    """Four finite numbers x, y, w, h of an annotation; None for anything else."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return None
    try:
        x, y, w, h = float(box[0]), float(box[1]), float(box[2]), float(box[3])
    except (TypeError, ValueError, OverflowError):
        return None
    return (x, y, w, h) if isfinite(x) and isfinite(y) and isfinite(w) and isfinite(h) else None
