"""The files below a folder or in a zip file, read in place: nothing is unpacked, and an archive is trusted with nothing."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ..datasets.masks import MaskFiles
from ..datasets.sequence import Masks
from ..errors import InputError, VideoError

MAX_MEMBER_BYTES = 256 * 2**20
"""A file in a zip that is larger is not unpacked."""
MAX_TOTAL_BYTES = 8 * 2**30
"""Nor is a zip whose files are larger together."""


class FileTree(ABC):
    """Files below a folder or in a zip, by names with ``/``."""

    path: Path
    names: list[str]

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def masks(self, names: tuple[str | None, ...]) -> Masks: ...

    def label(self, name: str) -> str:
        """For messages."""
        return str(self.path / name)

    def __enter__(self) -> FileTree:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class FolderTree(FileTree):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            list(path.iterdir())  # says why, where rglob is silent
            found = [p.relative_to(path) for p in path.rglob("*") if p.is_file()]
        except OSError as error:
            raise VideoError(f"folder {path} cannot be read: {_why(error)}; allow reading it, or copy it") from None
        self.names = sorted(str(PurePosixPath(p)) for p in found if not any(part.startswith(".") for part in p.parts))

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise VideoError(
                f"{self.path / name} cannot be read: {_why(error)}; allow reading it, or copy it again"
            ) from None

    def masks(self, names: tuple[str | None, ...]) -> Masks:
        return MaskFiles([None if name is None else self.path / name for name in names])


class ZipTree(FileTree):
    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            why = _why(error) if isinstance(error, OSError) else f"{error}; was it copied completely?"
            raise VideoError(f"{path} cannot be read as a zip file: {why}") from None
        infos = [i for i in self._zip.infolist() if not i.is_dir()]
        for info in infos:
            _check_member(path, info)
        total = sum(i.file_size for i in infos)
        if total > MAX_TOTAL_BYTES:
            raise InputError(
                f"{path} unpacks to {total / 2**30:.1f} GiB, more than {MAX_TOTAL_BYTES // 2**30}; unpack it yourself if "
                "you trust it, and give the folder"
            )
        self._infos = {i.filename: i for i in infos}
        if len(self._infos) != len(infos):
            raise InputError(f"{path} holds two files of one name; unpack it and give the folder with the right ones")
        hidden = re.compile(r"(^|/)(\.|__MACOSX/)")
        self.names = sorted(n for n in self._infos if not hidden.search(n))

    def read(self, name: str) -> bytes:
        return _read_member(self._zip, self._infos[name], self.path)

    def masks(self, names: tuple[str | None, ...]) -> Masks:
        return ZipMasks(self.path, names)

    def label(self, name: str) -> str:
        return f"{self.path}:{name}"

    def __exit__(self, *_: object) -> None:
        self._zip.close()


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name) or "\\" in name:
        raise InputError(f"{path} holds a file named {name!r}, which leads out of it; do not use this archive")
    if info.file_size > MAX_MEMBER_BYTES:
        raise InputError(
            f"{path}: {name} unpacks to {info.file_size / 2**20:.0f} MiB, more than {MAX_MEMBER_BYTES // 2**20}, which is "
            "no result file; do not use this archive"
        )
    if info.flag_bits & 1:
        raise InputError(f"{path}: {name} is encrypted; unpack it with its password and give the folder")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    """All bytes of one file, and no more than it announces."""
    try:
        with archive.open(info) as file:
            return file.read(MAX_MEMBER_BYTES + 1)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise VideoError(f"{path}:{info.filename} cannot be unpacked: {error}; copy the archive again") from None


class ZipMasks(Masks):
    """Indexed PNG files inside a zip; None for frames without one."""

    def __init__(self, path: Path, names: tuple[str | None, ...]) -> None:
        self.path, self.names = path, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | None:
        from PIL import Image

        name = self.names[index]
        if name is None:
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                data = _read_member(archive, archive.getinfo(name), self.path)
            with Image.open(io.BytesIO(data)) as picture:
                mode, ids = picture.mode, np.array(picture)  # (H, W)
        except (OSError, KeyError, SyntaxError, ValueError, zipfile.BadZipFile) as error:
            raise VideoError(f"{self.path}:{name} cannot be read: {error}; copy the archive again") from None
        if mode == "P":
            return ids.astype(np.uint8)
        if mode in ("1", "L") and set(np.unique(ids).tolist()) <= {0, 1, 255}:
            return (ids > 0).astype(np.uint8)
        raise InputError(
            f"{self.path}:{name} is a PNG of kind {mode!r}, not an indexed one, so its ids are not certain; write indexed "
            "PNGs, or unpack the archive and give the folder"
        )


def open_tree(path: Path, expected: str) -> FileTree:
    """A folder or a zip file; ``expected`` says what to give, in the error message."""
    if path.is_dir():
        return FolderTree(path)
    if path.suffix.lower() == ".zip" or (path.is_file() and zipfile.is_zipfile(path)):
        if not path.exists():
            raise VideoError(f"{path} does not exist; check the path")
        return ZipTree(path)
    what = "is neither a folder nor a zip file" if path.exists() else "does not exist"
    raise VideoError(f"{path} {what}; give {expected}")


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".").lower()
