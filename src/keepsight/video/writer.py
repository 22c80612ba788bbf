"""Video out: H.264 through PyAV, or a folder of images; what was written stays playable whatever happens."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, VideoError
from .readers import words

if TYPE_CHECKING:
    pass

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
                f"{self.file} cannot be written: {words(error)}; {self.frames} frames were written before"
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
                f"{self.path} cannot be written: {words(error)}; the {self.frames} frames are in {self.file}"
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
                f"{self.file} cannot be finished: {words(error)}; it holds most of the {self.frames} frames"
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
        raise VideoError(f"folder {path} cannot be written: {words(error)}; {folder_advice(path)}") from None


def _check_writable(path: Path) -> None:
    """Create ``path`` empty, so that a bad output path shows before hours of tracking."""
    try:
        with open(path, "wb"):
            pass
    except OSError as error:
        raise VideoError(f"{path} cannot be written: {words(error)}; {folder_advice(path)}") from None


def folder_advice(path: Path) -> str:
    if not path.parent.is_dir():
        return f"make the folder first (mkdir -p {path.parent})"
    return "give a path in a folder that you may write"
