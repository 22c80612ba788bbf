"""The public source of frames: opens a reader, keeps one frame in memory, follows live streams at the latest frame."""

from __future__ import annotations

import glob
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import InputError, VideoError
from .readers import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    CameraReader,
    Frame,
    ImageReader,
    OnError,
    Reader,
    VideoReader,
    cannot_open,
    natural,
    not_found,
    visible_files,
    without_password,
)

if TYPE_CHECKING:
    pass


class _LatestSlot:
    """A thread that reads ahead and keeps only the newest frame.

    It never refers to the source, so that a forgotten source is collected and stops the thread.
    """

    def __init__(self, frames: Iterator[Frame], close: Callable[[], None]) -> None:
        self.dropped = 0
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._error: BaseException | None = None
        self._done = False
        self._stopping = False
        self._thread = threading.Thread(target=self._pump, args=(frames, close), name="keepsight-reader", daemon=True)
        self._thread.start()

    def _pump(self, frames: Iterator[Frame], close: Callable[[], None]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    if self._stopping:
                        break
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify_all()
        except BaseException as error:
            self._error = error
        finally:
            close()  # by the thread that reads: closing under a running read would crash
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def wait(self, timeout: float) -> Frame | None:
        """Newest frame, left in place; None at the end. Raises what the reader raised, or TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._frame is not None or self._done, timeout):
                raise TimeoutError
            if self._frame is None and self._error is not None:
                raise self._error
            return self._frame

    def take(self, timeout: float) -> Frame | None:
        with self._changed:
            frame = self.wait(timeout)
            self._frame = None
            return frame

    def stop(self) -> None:
        with self._changed:
            self._stopping = True

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)


class FrameSource(Iterator[Frame]):
    """Frames of a video, folder, camera or stream, one at a time; made by :func:`open_source`."""

    name: str
    """What was opened, in words."""
    fps: float | None
    """Frames per second as the source states it, if it does."""
    length: int | None
    """Frames in the whole source where its header says so (``start`` and ``end`` do not change it)."""
    size: tuple[int, int]
    """(width, height) of the first frame, upright; later frames may differ."""
    live: bool
    """True for cameras and for streams without an end."""

    def __init__(self, reader: Reader, start: int, end: int | None, latest: bool | None, timeout: float) -> None:
        self._reader = reader
        self._start, self._end, self._timeout = start, end, timeout
        self.name, self.fps, self.length, self.live = reader.name, reader.fps, reader.length, reader.live
        self._slot: _LatestSlot | None = None
        self._next: Frame | None = None
        self._ended: str | None = None
        self._closed = False
        self._frames = _between(reader, start, end)
        if reader.live if latest is None else latest:
            self._slot = _LatestSlot(self._frames, reader.close)
            self._finalizer = weakref.finalize(self, self._slot.stop)
        else:
            self._finalizer = weakref.finalize(self, reader.close)
        try:
            first = self._first()
        except BaseException:
            self.close()
            raise
        self.size = (first.image.shape[1], first.image.shape[0])

    def _first(self) -> Frame:
        """Wait for the first frame, so that what cannot be read fails here and the size is known."""
        try:
            if self._slot is not None:
                frame = self._slot.wait(self._timeout)
            else:
                frame = self._next = next(self._frames, None)
        except TimeoutError:
            raise VideoError(f"{self.name}: no picture came within {self._timeout:g} s") from None
        if frame is not None:
            return frame
        if 0 < self._reader.count <= self._start:
            raise VideoError(
                f"{self.name} has {self._reader.count} frames (0 to {self._reader.count - 1}); "
                f"start {self._start} lies beyond its end"
            )
        bad = f"; all {len(self.skipped)} were skipped: {self.skipped[0][1]}" if self.skipped else ""
        why = f" ({self._reader.ended.removeprefix(self.name + ': ')})" if self._reader.ended else ""
        raise VideoError(f"{self.name} gave no frame that can be used{bad}{why}")

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """(index, reason) of each picture passed over because it could not be read (``on_error="skip"``)."""
        return self._reader.skipped

    @property
    def gaps(self) -> list[int]:
        """Numbers that are missing in the file names of a folder (at most 1000); noted, not an error."""
        return self._reader.gaps

    @property
    def dropped(self) -> int:
        """Frames passed over so far because a newer one had come."""
        return 0 if self._slot is None else self._slot.dropped

    @property
    def ended(self) -> str | None:
        """Why the frames stopped, if it was not the ordinary end of a file or ``end``: a live source that fell silent,
        a file cut short. None while running and after an ordinary end."""
        return self._ended or self._reader.ended

    @property
    def expected(self) -> int | None:
        """Frames this iteration gives out, at most; None when unknown."""
        stops = [stop for stop in (self.length, self._end) if stop is not None]
        return max(0, min(stops) - self._start) if stops else None

    def __iter__(self) -> FrameSource:
        return self

    def __next__(self) -> Frame:
        if self._closed:
            raise StopIteration
        if self._slot is None:
            frame, self._next = self._next or next(self._frames, None), None
        else:
            try:
                frame = self._slot.take(self._timeout + 1)
            except TimeoutError:
                self._ended = f"{self.name}: no picture came for {self._timeout + 1:g} s"
                frame = None
        if frame is None:
            self.close()
            raise StopIteration
        return frame

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and give everything back; may be called twice."""
        self._closed = True
        self._next = None
        self._finalizer()
        if self._slot is not None:
            self._slot.join(self._timeout + 1)  # a read in progress ends by its own time limit


def open_source(
    source: str | Path | int,
    *,
    start: int = 0,
    end: int | None = None,
    latest: bool | None = None,
    on_error: OnError = "raise",
    timeout: float = 10.0,
) -> FrameSource:
    """Open a video, image folder, camera or stream and return its frames as an iterator and context manager.

    ``source``:

    * a video file, anything FFmpeg reads; shown upright (rotation in the header is applied), pixels as stored
      (a pixel aspect ratio is not applied);
    * a folder of images in natural order (``2.jpg`` before ``10.jpg``), one with an ``img`` subfolder, or one that
      holds a single video; a glob pattern such as ``"frames/*.png"``; a single image. Grey, palette, 16-bit and
      transparent images become RGB uint8 (16 bit: the high byte; transparency: dropped). EXIF orientation is honoured;
    * a camera index (``0`` or ``"0"``);
    * an RTSP, HTTP, UDP or other URL that FFmpeg reads.

    ``start``, ``end``: first frame and the one after the last, numbered from 0 in the source. A video is decoded from
    its beginning, so numbers are exact in every format.
    ``latest``: a reading thread keeps only the newest frame and counts the others in ``dropped``. Default: for cameras
    and streams without an end; a video file on a web server has an end, and gives every frame.
    ``on_error``: what a damaged or missing picture of a file or folder does: ``"raise"`` VideoError, or ``"skip"`` it
    and record it in ``skipped``. A packet that cannot be decoded counts as one frame, so later frames keep their
    numbers.
    ``timeout``: seconds to wait for a connection or the next picture of a camera or URL. A live source that stops ends
    the iteration; ``ended`` says why. Damage on the way through the network is recorded, never raised.

    Raises :class:`VideoError` for what cannot be read and :class:`InputError` for arguments that make no sense.
    """
    _check_range(start, end)
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}; give 'raise' or 'skip'")
    if not timeout > 0:
        raise InputError(f"timeout is {timeout!r}; give seconds above 0")
    return FrameSource(_reader(source, on_error, timeout), start, end, latest, timeout)


def _reader(source: str | Path | int, on_error: OnError, timeout: float) -> Reader:
    if isinstance(source, bool) or not isinstance(source, (str, Path, int)):
        raise InputError(f"source {source!r} is not a path, pattern, URL or camera index")
    text = str(source)
    if isinstance(source, int) or (re.fullmatch(r"\d{1,2}", text) and not os.path.exists(text)):
        if int(source if isinstance(source, int) else text) < 0:
            raise InputError(f"camera index {source} is below 0; the first camera is 0")
        return CameraReader(int(text), on_error)
    if isinstance(source, str) and text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return VideoReader(text, without_password(text), on_error, timeout)
    if not text or "\0" in text:
        raise InputError(f"source {source!r} is not a path, pattern, URL or camera index")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder_reader(path, on_error)
        if path.exists():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                return ImageReader(text, [path], on_error)
            if path.is_file() and path.stat().st_size == 0:
                raise VideoError(f"{text} is empty (0 bytes); give a video file or an image")
            return VideoReader(str(path), text, on_error, None)
    except PermissionError as error:
        raise VideoError(cannot_open(text, error, False)) from None
    if glob.has_magic(text):
        return _glob_reader(str(path), text, on_error)
    raise VideoError(not_found(path))


def _folder_reader(folder: Path, on_error: OnError) -> Reader:
    for place in (folder, folder / "img"):
        files = visible_files(place) if place.is_dir() else []
        images = natural(f for f in files if f.suffix.lower() in IMAGE_SUFFIXES)
        if images:
            return ImageReader(str(place), images, on_error)
    videos = [f for f in visible_files(folder) if f.suffix.lower() in VIDEO_SUFFIXES]
    videos = [f for f in videos if f.stem == "video"] or videos  # beside a mask video, say
    if len(videos) == 1:
        return VideoReader(str(videos[0]), str(videos[0]), on_error, None)
    if videos:
        raise VideoError(f"folder {folder} holds {len(videos)} videos; give one of them, such as {videos[0]}")
    wanted = " ".join(sorted(IMAGE_SUFFIXES))
    raise VideoError(
        f"folder {folder} holds no images (looked for {wanted}, here and in 'img'); give a folder that does"
    )


def _glob_reader(pattern: str, name: str, on_error: OnError) -> Reader:
    found = [Path(p) for p in glob.iglob(pattern, recursive=True)]
    images = natural(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if images:
        return ImageReader(name, images, on_error)
    if found:
        raise VideoError(
            f"pattern {name!r} matches no image, but {found[0]}; a pattern stands for images, one per frame"
        )
    raise VideoError(f"pattern {name!r} matches no file; check the folder and the suffix")


def _between(reader: Reader, start: int, end: int | None) -> Iterator[Frame]:
    for frame in reader.pictures(start):
        if end is not None and frame.index >= end:
            return
        yield frame
        if end is not None and frame.index + 1 >= end:
            return


def _check_range(start: int, end: int | None) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0):
            raise InputError(f"{name} is {value!r}; give a frame number, counted from 0")
    if end is not None and end <= start:
        raise InputError(f"end {end} is not after start {start}; end is the frame after the last one, counted from 0")
