"""Frames in, results out: video files, image folders, cameras and streams; annotated video and box files.

Example::

    with open_source("clip.mp4") as frames, VideoWriter("out.mp4", fps=frames.fps) as video:
        for frame in frames:
            video.write(frame.image)

Reading keeps one frame in memory at a time. OpenCV and PyAV are imported when the first source or writer needs them.
"""

from __future__ import annotations

import csv
import difflib
import glob
import heapq
import json
import math
import os
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np

from .errors import InputError, VideoError

if TYPE_CHECKING:
    from .online.state import Result

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jp2"}
)
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Frame:
    """One picture of a source."""

    index: int
    """Number of the picture in its source, from 0; the same with and without ``start``."""
    image: np.ndarray
    """(H, W, 3) uint8, RGB, contiguous."""
    time: float | None
    """Seconds since the source's first picture; None for image files."""
    name: str | None
    """File name of an image; None for videos, cameras and streams."""


# ---------------------------------------------------------------------------------------------- readers, one per kind


class _Reader:
    """What every kind of source has in common. ``pictures`` yields each picture once, in order, from ``start`` on."""

    fps: float | None = None
    length: int | None = None
    live = False

    def __init__(self, name: str, on_error: OnError) -> None:
        self.name = name
        self.on_error = on_error
        self.count = 0  # pictures seen so far, bad ones and those before `start` included
        self.skipped: list[tuple[int, str]] = []
        self.gaps: list[int] = []
        self.ended: str | None = None

    def pictures(self, start: int) -> Iterator[Frame]:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the reader holds; may be called twice."""

    def bad(self, index: int, reason: str) -> None:
        """A picture that cannot be used: an error, or a line in ``skipped``."""
        if self.on_error == "raise":
            raise VideoError(
                f"{self.name}: frame {index} cannot be used: {reason}; repair it, or go on without it: "
                "on_error='skip' (command line: --skip-bad-frames)"
            )
        self.skipped.append((index, reason))


class _ImageReader(_Reader):
    """Image files in a given order."""

    def __init__(self, name: str, files: list[Path], on_error: OnError) -> None:
        super().__init__(name, on_error)
        self.files = files
        self.length = len(files)
        self.gaps = _gaps(files)

    def pictures(self, start: int) -> Iterator[Frame]:
        self.count = min(start, len(self.files))
        for index, file in enumerate(self.files[start:], start):
            self.count = index + 1
            try:
                image = read_image(file)
            except VideoError as error:
                self.bad(index, str(error))
                continue
            yield Frame(index, image, None, file.name)


class _VideoReader(_Reader):
    """A video file or a network stream, decoded from its start so that frame numbers are exact."""

    def __init__(self, url: str, name: str, on_error: OnError, timeout: float | None) -> None:
        self.remote = timeout is not None
        super().__init__(name, "skip" if self.remote else on_error)  # what the network loses is recorded, not an error
        import av

        options = {"rtsp_transport": "tcp"} if url.lower().startswith("rtsp") else {}
        try:
            self.container = av.open(url, options=options, timeout=timeout)
            stream: Any = self.container.streams.best("video")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(_cannot_open(name, error, self.remote)) from None
        if stream is None:
            self.container.close()
            raise VideoError(f"{name} holds no video; give a video file, a folder of images, a camera index or a URL")
        self.stream = stream
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.live = self.remote and self.container.duration is None
        self.length = None if self.live else stream.frames or None

    def close(self) -> None:
        self.container.close()

    def pictures(self, start: int) -> Iterator[Frame]:
        first_time: float | None = None
        last_time = 0.0
        matrix, known = None, False
        for decoded in self._decoded():
            index, self.count = self.count, self.count + 1
            if isinstance(decoded, str):
                self.bad(index, decoded)
                continue
            stamp = None if decoded.pts is None else float(decoded.pts * self.stream.time_base)
            if stamp is not None:
                first_time = stamp if first_time is None else first_time
                last_time = stamp - first_time
            if decoded.is_corrupt and not self.remote:
                self.bad(index, "the picture is damaged")
                continue
            if not known:  # once per source: PyAV's side data keeps each frame it is asked of until garbage collection
                matrix, known = _display_matrix(decoded), True
            if index >= start:
                if stamp is not None:
                    seconds: float | None = last_time
                else:
                    seconds = index / self.fps if self.fps else None
                yield Frame(index, _upright(_rgb(decoded), matrix), seconds, None)
        self._check_complete(last_time)

    def _decoded(self) -> Iterator[Any]:
        """Decoded pictures in order; for a packet that cannot be decoded the reason as a string stands in its place.

        Packets come in decoding order and pictures in showing order, so a lost one waits until its time stamp is due.
        """
        lost: list[tuple[int, str]] = []
        for item in self._decoded_or_lost():
            if isinstance(item, tuple):
                heapq.heappush(lost, item)
                continue
            while lost and (item.pts is None or lost[0][0] < item.pts):
                yield heapq.heappop(lost)[1]
            yield item
        yield from (reason for _, reason in sorted(lost))

    def _decoded_or_lost(self) -> Iterator[Any]:
        """What each packet gives: pictures, or (time stamp, reason)."""
        import av

        self.packets = 0
        demuxed = self.container.demux(self.stream)
        while True:
            try:
                packet = next(demuxed)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:  # the rest cannot be read: give out what the decoder still holds
                self.ended = f"{self.name}: reading stopped after frame {self.count - 1}: {_words(error)}"
                with suppress(av.FFmpegError, OSError):
                    yield from self.stream.codec_context.decode(None)
                return
            self.packets += packet.size > 0
            try:
                pictures = packet.decode()
            except (av.FFmpegError, OSError) as error:
                if packet.size > 0 and not self.live:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    yield (-1 << 62 if stamp is None else stamp), f"it cannot be decoded ({_words(error)})"
                continue
            yield from pictures

    def _check_complete(self, last_time: float) -> None:
        """Say so if the end came early: an error for a broken file, a record for a stream."""
        if self.live:
            self.ended = self.ended or f"{self.name}: the stream ended after {self.count} frames"
            return
        # The index of an MP4 lists every packet of the stream; of other formats only the announced duration is known.
        # (Its header's frame count will not do: it includes frames that an edit list leaves out. Older versions of
        # PyAV do not show the index; there the duration must do for MP4 too.)
        indexed = len(getattr(self.stream, "index_entries", ())) if "mp4" in self.container.format.name else 0
        seconds = (self.container.duration or 0) / 1e6
        if self.ended is None and self.packets < indexed:
            self.ended = f"{self.name}: the video is cut short: {self.count} of {indexed} frames can be read"
        if self.ended is not None and not self.remote:
            self.bad(self.count, self.ended.removeprefix(f"{self.name}: "))
        if self.ended is None and last_time < 0.9 * seconds - 1:
            self.ended = f"{self.name}: the video ends at {last_time:.1f} s; its header announces {seconds:.1f} s"


class _CameraReader(_Reader):
    """A camera of this machine, through OpenCV."""

    live = True

    def __init__(self, index: int, on_error: OnError) -> None:
        super().__init__(f"camera {index}", on_error)
        import cv2

        log = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 keeps the two functions at its top level
        level = log.getLogLevel()
        log.setLogLevel(0)  # silent: its warnings would stand beside our error
        try:
            self.capture = cv2.VideoCapture(index)
        finally:
            log.setLogLevel(level)
        if not self.capture.isOpened():
            self.capture.release()
            raise VideoError(
                f"camera {index} cannot be opened; check that it is plugged in, not used by another program and that "
                "you may read it (Linux: ls -l /dev/video*), or give another index"
            )
        fps = float(self.capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if math.isfinite(fps) and fps > 0 else None

    def close(self) -> None:
        self.capture.release()

    def pictures(self, start: int) -> Iterator[Frame]:
        began: float | None = None
        while True:
            good, image = self.capture.read()  # (H, W, 3) BGR, or (H, W) from some infrared cameras
            now = time.monotonic()
            if not good or image is None:
                self.ended = f"{self.name}: no more pictures after {self.count} frames"
                return
            began = now if began is None else began
            index, self.count = self.count, self.count + 1
            if index >= start:
                yield Frame(index, _bgr_to_rgb(image), now - began, None)


# -------------------------------------------------------------------------------------------------- the public source


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

    def __init__(self, reader: _Reader, start: int, end: int | None, latest: bool | None, timeout: float) -> None:
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


def _reader(source: str | Path | int, on_error: OnError, timeout: float) -> _Reader:
    if isinstance(source, bool) or not isinstance(source, (str, Path, int)):
        raise InputError(f"source {source!r} is not a path, pattern, URL or camera index")
    text = str(source)
    if isinstance(source, int) or (re.fullmatch(r"\d{1,2}", text) and not os.path.exists(text)):
        if int(source if isinstance(source, int) else text) < 0:
            raise InputError(f"camera index {source} is below 0; the first camera is 0")
        return _CameraReader(int(text), on_error)
    if isinstance(source, str) and text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        return _VideoReader(text, _without_password(text), on_error, timeout)
    if not text or "\0" in text:
        raise InputError(f"source {source!r} is not a path, pattern, URL or camera index")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder_reader(path, on_error)
        if path.exists():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                return _ImageReader(text, [path], on_error)
            if path.is_file() and path.stat().st_size == 0:
                raise VideoError(f"{text} is empty (0 bytes); give a video file or an image")
            return _VideoReader(str(path), text, on_error, None)
    except PermissionError as error:
        raise VideoError(_cannot_open(text, error, False)) from None
    if glob.has_magic(text):
        return _glob_reader(str(path), text, on_error)
    raise VideoError(_not_found(path))


def _folder_reader(folder: Path, on_error: OnError) -> _Reader:
    for place in (folder, folder / "img"):
        files = _visible_files(place) if place.is_dir() else []
        images = _natural(f for f in files if f.suffix.lower() in IMAGE_SUFFIXES)
        if images:
            return _ImageReader(str(place), images, on_error)
    videos = [f for f in _visible_files(folder) if f.suffix.lower() in VIDEO_SUFFIXES]
    videos = [f for f in videos if f.stem == "video"] or videos  # beside a mask video, say
    if len(videos) == 1:
        return _VideoReader(str(videos[0]), str(videos[0]), on_error, None)
    if videos:
        raise VideoError(f"folder {folder} holds {len(videos)} videos; give one of them, such as {videos[0]}")
    wanted = " ".join(sorted(IMAGE_SUFFIXES))
    raise VideoError(
        f"folder {folder} holds no images (looked for {wanted}, here and in 'img'); give a folder that does"
    )


def _glob_reader(pattern: str, name: str, on_error: OnError) -> _Reader:
    found = [Path(p) for p in glob.iglob(pattern, recursive=True)]
    images = _natural(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if images:
        return _ImageReader(name, images, on_error)
    if found:
        raise VideoError(
            f"pattern {name!r} matches no image, but {found[0]}; a pattern stands for images, one per frame"
        )
    raise VideoError(f"pattern {name!r} matches no file; check the folder and the suffix")


def _between(reader: _Reader, start: int, end: int | None) -> Iterator[Frame]:
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


# ----------------------------------------------------------------------------------------------- reading, small parts


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright by its EXIF orientation. Raises :class:`VideoError`."""
    import cv2

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise VideoError(f"image {path} cannot be read: {_words(error)}") from None
    if not data:
        raise VideoError(f"image {path} is empty (0 bytes)")
    if _is_cut_short(data):
        raise VideoError(f"image {path} is cut short ({len(data)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # (H, W, 3) BGR
    except cv2.error:
        image = None
    if image is None:
        raise VideoError(f"image {path} cannot be decoded; it is damaged or not an image")
    return _bgr_to_rgb(image)


def _is_cut_short(data: bytes) -> bool:
    """JPEG decoders fill a missing rest with grey without a word, so look for the end mark."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # end of image after the last start of scan
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]


def _bgr_to_rgb(image: np.ndarray) -> np.ndarray:
    import cv2

    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB))


def _rgb(decoded: Any) -> np.ndarray:
    """Picture of a PyAV frame as (H, W, 3) uint8 RGB."""
    # BT.709 by name: older PyAV takes BT.601 unless source and target differ; the target's matrix is not used for RGB.
    matrix = {"src_colorspace": "ITU709", "dst_colorspace": "ITU601"} if decoded.colorspace == 1 else {}
    image: np.ndarray = decoded.to_ndarray(format="rgb24", **matrix)
    return image


def _display_matrix(decoded: Any) -> tuple[int, int, int, int] | None:
    """(a, b, c, d) of a PyAV frame's display matrix: shown x = a x + c y, shown y = b x + d y."""
    data = decoded.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
    return a, b, c, d


def _upright(image: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """(H, W, 3) turned and mirrored by its display matrix; only turns by 90 degrees and mirrors occur in practice."""
    if matrix is not None:
        a, b, c, d = matrix
        if abs(b) + abs(c) > abs(a) + abs(d):
            image, a, d = image.swapaxes(0, 1), c, b
        image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _natural(files: Iterator[Path]) -> list[Path]:
    """Sorted with numbers by value: 2.jpg before 10.jpg."""

    def key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"(\d+)", str(path).lower())
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p], str(path)

    return sorted(files, key=key)


def _gaps(files: list[Path]) -> list[int]:
    """Numbers missing in the file names, where the names are numbered with a steady step."""
    found = [re.search(r"(\d+)\D*$", f.stem) for f in files]
    numbers = [int(m.group(1)) for m in found if m]
    steps = [b - a for a, b in pairwise(numbers)]
    if len(numbers) < len(files) or len(files) < 3 or min(steps) <= 0:
        return []
    step = Counter(steps).most_common(1)[0][0]
    missing: list[int] = []
    for a, b in pairwise(numbers):
        missing.extend(range(a + step, min(b, a + 1001 * step), step))
        if len(missing) >= 1000:
            break
    return missing[:1000]


def _visible_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / e.name for e in entries if not e.name.startswith(".") and e.is_file()]


def _not_found(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist: there is no folder {folder}; check the path"
    with suppress(OSError):
        close = difflib.get_close_matches(path.name, os.listdir(folder), n=3, cutoff=0.6)
        if close:
            return f"{path} does not exist; did you mean {' or '.join(repr(str(folder / c)) for c in close)}?"
    return f"{path} does not exist in folder {folder}; give a video file, a folder of images, a camera index or a URL"


def _cannot_open(name: str, error: Exception, remote: bool) -> str:
    if isinstance(error, PermissionError):
        return f"{name} cannot be read: permission denied; allow reading it (chmod +r) or copy it"
    if remote:
        return f"{name} cannot be opened: {_words(error)}; check the address, and that the sender is running"
    return f"{name} cannot be read as a video: {_words(error)}; it is damaged, or not a video"


def _words(error: BaseException) -> str:
    """What an OSError or FFmpeg error says, without numbers and paths."""
    if type(error).__name__ == "ExitError":  # PyAV's time limit
        return "no data came in time"
    return str(getattr(error, "strerror", None) or error).rstrip(".").lower()


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


# -------------------------------------------------------------------------------------------------------- video output

_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    ".mp4": ("libx264", {}),
    ".mov": ("libx264", {}),
    ".mkv": ("libx264", {}),
    ".avi": ("libx264", {"bf": "0"}),  # AVI has no place for the reordering of B frames
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "b": "0"}),
}


class VideoWriter:
    """Write RGB frames as a video, or as numbered images when ``path`` is a folder or ends in ``/``.

    Suffixes: ``.mp4 .mov .mkv .avi`` (H.264, yuv420p, BT.709) and ``.webm`` (VP9). MP4 and MOV have their index in
    front, so browsers start at once. Odd sizes get one more column or row, a copy of the last; frames of another size
    than the first are fitted into it with black bars.

    While it is written the video is called ``NAME.partial.SUFFIX``, playable up to its last second even if the program
    is killed; ``close`` gives it its name. Leaving a ``with`` block by an error finishes it under the partial name, so
    an earlier good file is never replaced by a broken one; ``file`` says which it is.

    Raises :class:`VideoError` when the output cannot be written, at once where that can be seen.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = 25.0,
        quality: int = 20,
        image_suffix: Literal[".jpg", ".png"] = ".jpg",
    ) -> None:
        """``fps``: None means 25. ``quality``: constant rate factor, 0 (lossless) to 51, lower is better and larger."""
        self.fps = 25.0 if fps is None else float(fps)
        if not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise InputError(f"fps is {fps!r}; give frames per second, above 0 and at most 1000")
        if not 0 <= quality <= 51:
            raise InputError(f"quality is {quality!r}; give 0 (best, largest) to 51")
        if image_suffix not in (".jpg", ".png"):
            raise InputError(f"image_suffix is {image_suffix!r}; give '.jpg' or '.png'")
        self._rate = Fraction(self.fps).limit_denominator(1001) or Fraction(1, 1001)  # keeps 30000/1001 exact
        self.path = Path(path).expanduser()
        self.quality = quality
        self.image_suffix = image_suffix
        self.frames = 0
        """Frames written so far."""
        self.file: Path = self.path
        """Where the frames are: the partial file while writing, the final one after :meth:`close`."""
        self.is_folder = self.path.is_dir() or str(path).endswith(("/", os.sep))
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None  # (height, width) of the first frame
        self._closed = False
        if self.is_folder:
            _make_folder(self.path)
        elif self.path.suffix.lower() not in _CODECS:
            raise VideoError(
                f"{path} has the suffix {self.path.suffix!r}; videos are written as {' '.join(_CODECS)}, "
                "images into a folder (end the path with '/')"
            )
        else:
            self.file = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
            _check_writable(self.file)

    def write(self, image: np.ndarray) -> None:
        """Append one frame, (H, W, 3) uint8 RGB."""
        if self._closed:
            raise VideoError(f"{self.path} is closed; open a new VideoWriter to write more")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"frame to write is {given}; give uint8 (H, W, 3) RGB")
        if 0 in image.shape:
            raise InputError(f"frame to write has the size {image.shape[1]}×{image.shape[0]}; it must not be empty")
        try:
            self._write_image(image) if self.is_folder else self._write_video(image)
        except (OSError, ValueError) as error:  # PyAV's errors are one or the other
            raise VideoError(
                f"{self.file} cannot be written: {_words(error)}; {self.frames} frames were written before"
            ) from None
        self.frames += 1

    def _write_image(self, image: np.ndarray) -> None:
        import cv2

        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if self.image_suffix == ".jpg" else []
        _, data = cv2.imencode(self.image_suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        (self.path / f"{self.frames:06d}{self.image_suffix}").write_bytes(data.tobytes())

    def _write_video(self, image: np.ndarray) -> None:
        import av

        if self._container is None:
            self._size = image.shape[:2]
            self._open(image.shape[0] + image.shape[0] % 2, image.shape[1] + image.shape[1] % 2)
        assert self._size is not None
        fitted = _even(_letterbox(image, *self._size))
        frame = av.VideoFrame.from_ndarray(fitted, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = self.frames, 1 / self._rate
        self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        import av

        codec, options = _CODECS[self.path.suffix.lower()]
        # Fragments of one second stay playable without the index that an ordinary MP4 gets at its end.
        fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if self._is_mp4 else {}
        self._container = av.open(str(self.file), "w", options={"flush_packets": "1", **fragments})
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        speed = {"preset": "veryfast", "tune": "zerolatency"} if codec == "libx264" else {}
        self._stream.options = {"crf": str(self.quality), "g": str(max(1, round(self.fps))), **speed, **options}
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235

    @property
    def _is_mp4(self) -> bool:
        return self.path.suffix.lower() in (".mp4", ".mov")

    def close(self) -> None:
        """Finish the file and give it its name; a writer that got no frame leaves none. May be called twice."""
        if self._closed:
            return
        self._finish()
        if self.is_folder or self.frames == 0:
            return
        ready = self.file
        try:
            if self._is_mp4:
                ready = self._with_index_in_front()
            os.replace(ready, self.path)
        except (OSError, ValueError) as error:
            raise VideoError(
                f"{self.path} cannot be written: {_words(error)}; the {self.frames} frames are in {self.file}"
            ) from None
        if ready != self.file:
            self.file.unlink(missing_ok=True)
        self.file = self.path

    def _finish(self) -> None:
        """Write what the encoder still holds and close the file under its partial name."""
        self._closed = True
        container, self._container = self._container, None
        try:
            if container is not None:
                try:
                    container.mux(self._stream.encode(None))
                finally:
                    container.close()
        except (OSError, ValueError) as error:
            raise VideoError(
                f"{self.file} cannot be finished: {_words(error)}; it holds most of the {self.frames} frames"
            ) from None
        if not self.is_folder and self.frames == 0:
            self.file.unlink(missing_ok=True)

    def _with_index_in_front(self) -> Path:
        """Copy the packets of the fragmented file into an ordinary one with the index at its start."""
        import av

        ready = self.path.with_name(f"{self.path.stem}.partial-index{self.path.suffix}")
        try:
            with av.open(str(self.file)) as old, av.open(str(ready), "w", options={"movflags": "faststart"}) as new:
                stream = new.add_stream_from_template(old.streams.video[0])
                for packet in old.demux(video=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        new.mux(packet)
        except BaseException:
            with suppress(OSError):
                ready.unlink(missing_ok=True)
            raise
        return ready

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            with suppress(VideoError):  # the error that is already on its way matters more
                self._finish()


def _letterbox(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``image`` fitted into (height, width, 3) without distortion, on black; unchanged if it has that size."""
    if image.shape[:2] == (height, width):
        return image
    import cv2

    scale = min(height / image.shape[0], width / image.shape[1])
    h, w = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    resized = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas[top : top + h, left : left + w] = resized
    return canvas


def _even(image: np.ndarray) -> np.ndarray:
    """yuv420p halves both sides: repeat the last row or column of an odd one. Coordinates stay."""
    pad = ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0))
    return np.ascontiguousarray(np.pad(image, pad, mode="edge") if any(p[1] for p in pad) else image)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
        probe = path / ".keepsight-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise VideoError(f"folder {path} cannot be written: {_words(error)}; {_folder_advice(path)}") from None


def _check_writable(path: Path) -> None:
    """Create ``path`` empty, so that a bad output path shows before hours of tracking."""
    try:
        with open(path, "wb"):
            pass
    except OSError as error:
        raise VideoError(f"{path} cannot be written: {_words(error)}; {_folder_advice(path)}") from None


def _folder_advice(path: Path) -> str:
    if not path.parent.is_dir():
        return f"make the folder first (mkdir -p {path.parent})"
    return "give a path in a folder that you may write"


# ---------------------------------------------------------------------------------------------------------- box output

BOX_COLUMNS = (
    "frame",
    "target",
    "x",
    "y",
    "w",
    "h",
    "score",
    "presence",
    "status",
    "flag",
    "updated",
    "update_reason",
    "milliseconds",
)


class BoxWriter:
    """Write one row per frame and target while the tracker runs. Every row is on disk before ``write`` returns.

    By suffix of ``path``:

    * ``.csv``: columns :data:`BOX_COLUMNS`, numbers with all their digits;
    * ``.json``: ``{"format", "version", "targets", "metadata", "frames": [row, ...]}``, valid JSON after each row;
    * ``.txt``: ``x,y,w,h`` with four decimals, one line per frame from the first written, as benchmarks expect. With
      several targets one file each, ``out_0.txt``, ``out_1.txt``, ... Frames passed over become ``nan,nan,nan,nan``, so
      that line numbers stay right.

    Boxes are ``Result.box``: pixels, top-left corner, clipped to the frame. The given box of the first frame has status
    ``given`` and no score. Raises :class:`VideoError` at once when the output cannot be written.
    """

    def __init__(self, path: str | Path, targets: int = 1, metadata: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path).expanduser()
        self.kind = self.path.suffix.lower()
        if self.kind not in (".csv", ".json", ".txt"):
            raise VideoError(f"{path} has the suffix {self.path.suffix!r}; boxes are written as .csv .json .txt")
        if targets < 1:
            raise InputError(f"targets is {targets}; give how many boxes each frame has, at least 1")
        self.targets = targets
        self.paths: tuple[Path, ...] = (self.path,)
        """The files that are written."""
        if self.kind == ".txt" and targets > 1:
            self.paths = tuple(self.path.with_name(f"{self.path.stem}_{i}{self.path.suffix}") for i in range(targets))
        self._last: list[int | None] = [None] * targets
        self._rows = 0
        self._files: list[IO[str]] = []
        try:
            for file in self.paths:
                self._files.append(open(file, "w", encoding="utf-8", newline=""))  # noqa: SIM115
        except OSError as error:
            self.close()
            raise VideoError(f"{file} cannot be written: {_words(error)}; {_folder_advice(file)}") from None
        try:
            self._start(dict(metadata or {}))
        except BaseException:
            self.close()
            raise

    def _start(self, metadata: dict[str, Any]) -> None:
        if self.kind == ".csv":
            self._put(0, ",".join(BOX_COLUMNS) + "\n")
        elif self.kind == ".json":
            head = {"format": "keepsight boxes", "version": 1, "targets": self.targets, "metadata": metadata}
            try:
                text = json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise InputError(f"metadata cannot be written as JSON ({error}); give plain finite values") from None
            self._put(0, text[:-2] + ',\n "frames": [\n')
            self._end = self._files[0].tell()
            self._put(0, "]}\n")

    def write_init(self, frame_index: int, target: int, box: tuple[float, float, float, float]) -> None:
        """Row of the frame in which ``box`` was given."""
        given: dict[str, Any] = {"score": None, "presence": 1.0, "status": "given", "flag": "given"}
        given |= {"updated": True, "update_reason": "first frame", "milliseconds": None}
        self._write(frame_index, target, box, given)

    def write(self, frame_index: int, target: int, result: Result) -> None:
        """Row of one target in one frame; frames in rising order for each target."""
        row: dict[str, Any] = {"score": float(result.score), "presence": float(result.presence)}
        row |= {"status": str(result.status), "flag": str(result.flag), "updated": bool(result.updated)}
        row |= {"update_reason": str(result.update_reason), "milliseconds": float(result.milliseconds)}
        self._write(frame_index, target, result.box, row)

    def _write(self, frame_index: int, target: int, box: tuple[float, ...], rest: dict[str, Any]) -> None:
        if not self._files:
            raise VideoError(f"{self.path} is closed; open a new BoxWriter to write more")
        if not 0 <= target < self.targets:
            raise InputError(f"target is {target}; this writer has targets 0 to {self.targets - 1}")
        last = self._last[target]
        if frame_index < 0 or (last is not None and frame_index <= last):
            raise InputError(f"frame {frame_index} of target {target} comes after frame {last}; write frames in order")
        x, y, w, h = (float(v) for v in box)
        if self.kind == ".txt":
            missed = 0 if last is None else frame_index - last - 1
            self._put(target, "nan,nan,nan,nan\n" * missed + f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n")
        else:
            row = {"frame": int(frame_index), "target": int(target), "x": x, "y": y, "w": w, "h": h, **rest}
            self._put_csv(row) if self.kind == ".csv" else self._put_json(row)
        self._last[target] = frame_index
        self._rows += 1

    def _put_csv(self, row: dict[str, Any]) -> None:
        cells = ["" if v is None else repr(v) if isinstance(v, float) else str(v) for v in row.values()]
        self._put(0, ",".join(f'"{c.replace(chr(34), chr(34) * 2)}"' if _needs_quotes(c) else c for c in cells) + "\n")

    def _put_json(self, row: dict[str, Any]) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        text = ("," if self._rows else "") + "  " + json.dumps(finite, ensure_ascii=False) + "\n"
        self._files[0].seek(self._end)  # over the closing brackets, which follow again in the same write
        self._put(0, text + "]}\n")
        self._end += len(text.encode())

    def _put(self, file: int, text: str) -> None:
        try:
            self._files[file].write(text)
            self._files[file].flush()
        except OSError as error:
            raise VideoError(
                f"{self.paths[file]} cannot be written: {_words(error)}; {self._rows} rows were written before"
            ) from None

    def close(self) -> None:
        """Close the files; may be called twice."""
        for file in self._files:
            with suppress(OSError):  # rows that could not be written have been reported by `write`
                file.close()
        self._files = []

    def __enter__(self) -> BoxWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _needs_quotes(cell: str) -> bool:
    return any(c in cell for c in ',"\n\r')


def read_boxes(path: str | Path, target: int = 0) -> np.ndarray:
    """Boxes of a file as (N, 4) float64, x, y, w, h; NaN where the target is absent or the frame was passed over.

    Reads what :class:`BoxWriter` writes (row 0 is the first frame in the file) and ground-truth files: four numbers per
    line, separated by commas, semicolons, tabs or blanks, ``nan`` allowed. Raises :class:`VideoError` when the file
    cannot be read and :class:`InputError` when its contents are not boxes.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise VideoError(_not_found(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"box file {path} cannot be read: {_words(error)}") from None
    if text.lstrip().startswith("{"):
        return _in_frame_order(_json_rows(path, text), path, target)
    if text.lstrip().startswith("frame,"):
        return _in_frame_order(list(csv.DictReader(text.splitlines())), path, target)
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = [c for c in re.split(r"[,;\s]+", line.strip()) if c]
        if not cells or cells[0].startswith("#"):
            continue
        try:
            values = [float(c) for c in cells]
        except ValueError:
            raise InputError(f"{path}, line {number}: {line.strip()[:60]!r} is not numbers; give x,y,w,h") from None
        if len(values) != 4:
            raise InputError(f"{path}, line {number} has {len(values)} numbers; give four: x,y,w,h")
        rows.append(values)
    if not rows:
        raise InputError(f"{path} holds no boxes; give a file with x,y,w,h on each line")
    return np.array(rows, dtype=np.float64)  # (N, 4)


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)["frames"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a box file of keepsight: no list 'frames' in it") from None
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise InputError(f"{path} is not a box file of keepsight: 'frames' is not a list of rows")
    return rows


def _in_frame_order(rows: list[dict[str, Any]], path: Path, target: int) -> np.ndarray:
    """Rows of one target, one per frame from the first to the last; frames without a row become NaN."""
    try:
        boxes = {
            int(r["frame"]): [math.nan if r[k] is None else float(r[k]) for k in "xywh"]
            for r in rows
            if int(r["target"]) == target
        }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} has a row without a proper frame, target, x, y, w or h ({error})") from None
    if not boxes:
        raise InputError(f"{path} holds no boxes of target {target}")
    first, last = min(boxes), max(boxes)
    if last - first > 10_000_000:
        raise InputError(f"{path} counts frames from {first} to {last}; at most ten million are read")
    return np.array([boxes.get(i, [math.nan] * 4) for i in range(first, last + 1)], dtype=np.float64)  # (N, 4)
