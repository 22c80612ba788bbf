"""One reader per kind of source: image files, video files and streams through PyAV, cameras through OpenCV."""

from __future__ import annotations

import difflib
import heapq
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import VideoError

if TYPE_CHECKING:
    pass

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


class Reader(ABC):
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

    @abstractmethod
    def pictures(self, start: int) -> Iterator[Frame]:
        """The source's pictures from number ``start`` on, one at a time."""

    def close(self) -> None:  # noqa: B027 (image readers hold nothing)
        """Give back what the reader holds; may be called twice."""

    def bad(self, index: int, reason: str) -> None:
        """A picture that cannot be used: an error, or a line in ``skipped``."""
        if self.on_error == "raise":
            raise VideoError(
                f"{self.name}: frame {index} cannot be used: {reason}; repair it, or go on without it: "
                "on_error='skip' (command line: --skip-bad-frames)"
            )
        self.skipped.append((index, reason))


class ImageReader(Reader):
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


class VideoReader(Reader):
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
            raise VideoError(cannot_open(name, error, self.remote)) from None
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
                self.ended = f"{self.name}: reading stopped after frame {self.count - 1}: {words(error)}"
                with suppress(av.FFmpegError, OSError):
                    yield from self.stream.codec_context.decode(None)
                return
            self.packets += packet.size > 0
            try:
                pictures = packet.decode()
            except (av.FFmpegError, OSError) as error:
                if packet.size > 0 and not self.live:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    yield (-1 << 62 if stamp is None else stamp), f"it cannot be decoded ({words(error)})"
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


class CameraReader(Reader):
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


def read_image(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8 RGB, upright by its EXIF orientation. Raises :class:`VideoError`."""
    import cv2

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise VideoError(f"image {path} cannot be read: {words(error)}") from None
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


def natural(files: Iterator[Path]) -> list[Path]:
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


def visible_files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / e.name for e in entries if not e.name.startswith(".") and e.is_file()]


def not_found(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{path} does not exist: there is no folder {folder}; check the path"
    with suppress(OSError):
        close = difflib.get_close_matches(path.name, os.listdir(folder), n=3, cutoff=0.6)
        if close:
            return f"{path} does not exist; did you mean {' or '.join(repr(str(folder / c)) for c in close)}?"
    return f"{path} does not exist in folder {folder}; give a video file, a folder of images, a camera index or a URL"


def cannot_open(name: str, error: Exception, remote: bool) -> str:
    if isinstance(error, PermissionError):
        return f"{name} cannot be read: permission denied; allow reading it (chmod +r) or copy it"
    if remote:
        return f"{name} cannot be opened: {words(error)}; check the address, and that the sender is running"
    return f"{name} cannot be read as a video: {words(error)}; it is damaged, or not a video"


def words(error: BaseException) -> str:
    """What an OSError or FFmpeg error says, without numbers and paths."""
    if type(error).__name__ == "ExitError":  # PyAV's time limit
        return "no data came in time"
    return str(getattr(error, "strerror", None) or error).rstrip(".").lower()


def without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
