"""The pictures of a sequence: numbered image files, a folder, a video file, arrays in memory, or none at all.

Nothing is listed, opened or counted before the first use, so that data sets of thousands of sequences open at once.
All kinds survive pickling (worker processes); what was counted or listed travels along, an open decoder does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, VideoError
from .sequence import Frames

if TYPE_CHECKING:
    from ..video.readers import Frame, VideoReader

Count = int | Callable[[], int]
"""A number, or a picklable function that finds it at first use."""


class ImageFrames(Frames):
    """Image files in the given order."""

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self._paths = tuple(Path(p) for p in paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return _read(self._paths[_inside(index, len(self))])

    @property
    def paths(self) -> tuple[Path, ...]:
        return self._paths


class NumberedFrames(Frames):
    """Image files ``folder/00001.jpg``, ``folder/00002.jpg``, ..: known without looking into the folder.

    ``first``: number of frame 0. ``digits``: width of the number, padded with zeros. ``step``: between the numbers.
    """

    def __init__(
        self, folder: str | Path, count: Count, *, first: int = 1, digits: int = 8, suffix: str = ".jpg", step: int = 1
    ) -> None:
        self.folder = Path(folder)
        self.first, self.digits, self.suffix, self.step = first, digits, suffix, step
        self._count = count

    def __len__(self) -> int:
        if not isinstance(self._count, int):
            self._count = self._count()
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        return _read(self.path(_inside(index, len(self))))

    def path(self, index: int) -> Path:
        """File of frame ``index``; may lie beyond the end."""
        return self.folder / f"{self.first + self.step * index:0{self.digits}d}{self.suffix}"

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.path(i) for i in range(len(self)))


class FolderFrames(Frames):
    """All images of a folder in natural order (``2.jpg`` before ``10.jpg``), listed at first use."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return _read(self.paths[_inside(index, len(self))])

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Raises :class:`VideoError` if the folder cannot be listed or holds no image."""
        found = list_images(self.folder)
        if not found:
            raise VideoError(f"folder {self.folder} holds no images; put the sequence's frames there")
        return found


class VideoFrames(Frames):
    """Frames ``start``, ``start + 1``, .. of a video file.

    Going forward decodes on; going back decodes again from the beginning, which is slow and right in every format. The
    last frame is kept; after the sequence's last one the decoder is closed. Not for several threads at once.
    ``count`` None: the video's own, counted by decoding.
    """

    def __init__(self, path: str | Path, count: Count | None = None, start: int = 0) -> None:
        self.path, self.start = Path(path), start
        self._count = count
        self._reader: VideoReader | None = None
        self._pictures: Iterator[Frame] | None = None  # goes on behind _last
        self._last: Frame | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = max(0, count_pictures(self.path) - self.start)
        elif not isinstance(self._count, int):
            self._count = self._count()
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        wanted = self.start + _inside(index, len(self))
        if self._last is not None and self._last.index == wanted:
            return self._last.image
        if self._pictures is None or self._last is None or wanted < self._last.index:
            self._open()
        assert self._pictures is not None
        for picture in self._pictures:
            if picture.index >= wanted:
                self._last = picture
                break
        if self._last is not None and self._last.index == wanted:
            if index in (-1, len(self) - 1):  # a pass ends here: thousands of sequences must not keep decoders open
                self._close_decoder()
            return self._last.image
        message = self._why_not(wanted, index)
        self.close()
        raise VideoError(message)

    def _open(self) -> None:
        from ..video.readers import VideoReader

        self.close()
        if not self.path.is_file():
            raise VideoError(f"there is no video {self.path}; restore it, or check the folder's path")
        self._reader = VideoReader(str(self.path), str(self.path), "skip", None)  # a lost picture keeps its number
        self._pictures = self._reader.pictures(0)

    def _why_not(self, wanted: int, index: int) -> str:
        reader = self._reader
        assert reader is not None
        lost = dict(reader.skipped).get(wanted)
        if lost is not None and wanted < reader.count:
            return f"{self.path}: frame {wanted} cannot be used: {lost}; get the video again, or repair it"
        return (
            f"{self.path}: frame {index} of the sequence is frame {wanted} of the video, which has only {reader.count}; "
            "get the whole video, or cut the annotation to its length"
        )

    def close(self) -> None:
        """Close the decoder and drop the kept frame; the next use opens the video again."""
        self._close_decoder()
        self._last = None

    def _close_decoder(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = self._pictures = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_pictures": None, "_last": None}


class ArrayFrames(Frames):
    """Pictures in memory, each (H, W, 3) uint8 RGB."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[_inside(index, len(self))]


class NoFrames(Frames):
    """Annotations without pictures: enough for scoring results, not for running a tracker."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def __len__(self) -> int:
        if not isinstance(self._count, int):
            self._count = self._count()
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        _inside(index, len(self))
        raise InputError(
            "this sequence has annotations only, no pictures: results can be scored, but no tracker can run on it; "
            "get the data set's images"
        )


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """Images of a folder in natural order; hidden files are left out. Raises :class:`VideoError` if it cannot be listed."""
    from ..video.readers import IMAGE_SUFFIXES, natural

    try:
        names = os.listdir(folder)
    except OSError as error:
        raise VideoError(f"folder {folder} cannot be listed: {error.strerror}; restore it, or check the path") from None
    base = Path(folder)
    images = (base / n for n in names if not n.startswith(".") and os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES)
    return tuple(natural(images))


def count_pictures(path: str | Path) -> int:
    """Frames of a video file, by decoding all of it. Raises :class:`VideoError` if it cannot be read."""
    from ..video.readers import VideoReader

    if not Path(path).is_file():
        raise VideoError(f"there is no video {path}; restore it, or check the folder's path")
    reader = VideoReader(str(path), str(path), "skip", None)
    try:
        return sum(1 for _ in reader._decoded())
    finally:
        reader.close()


def count_packets(path: str | Path) -> int:
    """Frames of a video file by its packets, without decoding: fast, and right for all but a few files.

    Raises :class:`VideoError` if the file cannot be read.
    """
    from ..video.readers import VideoReader

    if not Path(path).is_file():
        raise VideoError(f"there is no video {path}; restore it, or check the folder's path")
    reader = VideoReader(str(path), str(path), "skip", None)
    try:
        return sum(packet.size > 0 for packet in reader.container.demux(reader.stream))
    except OSError:  # av.FFmpegError of a damaged file: decoding knows how far it can be read
        return count_pictures(path)
    finally:
        reader.close()


def _read(path: Path) -> np.ndarray:
    from ..video.readers import read_image

    try:
        return read_image(path)
    except VideoError as error:
        raise VideoError(f"{error}; restore this file of the data set (`keepsight data check` lists all)") from None


def _inside(index: int, count: int) -> int:
    """The index, counted from 0; negative ones count from the end as in lists."""
    if not -count <= index < count:
        raise IndexError(f"frame {index} of {count}")  # IndexError: what Python's own iteration expects
    return index % count
