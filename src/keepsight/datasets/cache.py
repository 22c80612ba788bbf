"""What takes minutes to gather from a data set and never changes (boxes out of a million small files), kept as ``.npz``.

Files lie in ``$KEEPSIGHT_CACHE``, else ``$XDG_CACHE_HOME/keepsight``, else ``~/.cache/keepsight``; they can be deleted at
any time. Each appears whole or not at all, so several processes may gather the same; no pickles.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import KeepsightError
from ..text import write_atomically

Arrays = Mapping[str, np.ndarray]


def cache_folder() -> Path:
    """Where kept files lie, whether or not the folder is there."""
    own = os.environ.get("KEEPSIGHT_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "keepsight"


def kept(name: str, signature: Iterable[Any], gather: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays that ``gather`` makes, from the cache where it has them for this ``signature``.

    ``signature``: everything they depend on: the data's folder, its files' times, a number of the format. A cache that
    cannot be read or written costs time, nothing else.
    """
    digest = hashlib.sha256(repr(tuple(signature)).encode()).hexdigest()[:20]
    path = cache_folder() / "datasets" / f"{name}-{digest}.npz"
    with suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile), np.load(path) as stored:
        return dict(stored)
    arrays = dict(gather())
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    with suppress(KeepsightError):
        write_atomically(path, packed.getvalue())
    return arrays


def folder_times(folders: Iterable[Path]) -> tuple[tuple[str, int], ...]:
    """(name, time of change in ns) per folder: changes when a file is added or removed; 0 where there is no folder."""
    return tuple((str(folder), _time(folder)) for folder in folders)


def _time(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
