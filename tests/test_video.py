"""Sources, writers and what they do with broken input. Videos and images are made here; no file is needed."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from keepsight import video as video_module
from keepsight.boxes import Box
from keepsight.errors import InputError, VideoError
from keepsight.online.state import Candidate, Result, Status
from keepsight.video import BoxWriter, Frame, VideoWriter, open_source, read_boxes, read_image

H, W = 48, 64


def numbered(number: int, height: int = H, width: int = W) -> np.ndarray:
    """A picture that carries its number as eight black or white bars (readable after lossy coding) above noise."""
    image = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for bit in range(8):
        image[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    middles = [image[height // 4, (2 * bit + 1) * width // 16].mean() > 128 for bit in range(8)]
    return sum(on << bit for bit, on in enumerate(middles))


def make_video(path: Path, count: int = 30, *, rotation: int | None = None, options: dict | None = None) -> Path:
    """H.264 with B frames and a key frame every ten frames; the index first, so that a cut file still opens."""
    with av.open(str(path), "w", options={"movflags": "faststart"} if options is None else options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        stream.options = {"g": "10", "bf": "2", "crf": "10", "sc_threshold": "0"}
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a rotation")
            stream.set_display_rotation(rotation)
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_images(folder: Path, numbers: list[int], pattern: str = "{}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        assert cv2.imwrite(str(folder / pattern.format(i)), numbered(i))
    return folder


def read_all(source: Any, **options: Any) -> list[Frame]:
    with open_source(source, **options) as frames:
        return list(frames)


# ------------------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".h264"])
def test_video_frames_are_numbered_exactly(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"clip{suffix}", options={})
    for start, end in ((0, None), (7, None), (13, 22), (29, 30)):
        frames = read_all(path, start=start, end=end)
        assert [f.index for f in frames] == list(range(start, end or 30))
        assert [number_of(f.image) for f in frames] == [f.index for f in frames]
        if suffix != ".avi":  # which cannot say when reordered pictures are shown
            assert [f.time for f in frames] == pytest.approx([f.index / 25 for f in frames], abs=2e-3)


def test_video_attributes(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4")
    with open_source(path, start=4, end=100) as source:
        assert (source.name, source.fps, source.length, source.size) == (str(path), 25.0, 30, (W, H))
        assert (source.live, source.dropped, source.skipped, source.gaps) == (False, 0, [], [])
        assert source.expected == 26
        frames = list(source)
        assert source.ended is None
    image = frames[0].image
    assert image.shape == (H, W, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert frames[0].name is None
    assert list(source) == []  # closed


def test_frames_are_freed_without_garbage_collection(tmp_path: Path) -> None:
    """PyAV frames in reference cycles would pile up between collections: tens of megabytes."""
    path = make_video(tmp_path / "clip.mp4", 60)
    gc.collect()
    gc.disable()
    try:
        with open_source(path) as source:
            assert len([frame.index for frame in source]) == 60
            alive = sum(type(o) is av.VideoFrame for o in gc.get_objects())
    finally:
        gc.enable()
    assert alive < 15  # the decoder gives out a few at once


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_video_is_shown_upright(tmp_path: Path, rotation: int) -> None:
    path = make_video(tmp_path / "clip.mp4", 3, rotation=rotation)
    with open_source(path) as source:
        image = next(source).image
        assert source.size == (image.shape[1], image.shape[0])
    capture = cv2.VideoCapture(str(path))  # applies the header's rotation too
    _, expected = capture.read()
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected[:, :, ::-1]).mean() < 3


def test_variable_frame_rate_and_start_time(tmp_path: Path) -> None:
    times = [100, 103, 104, 110, 140]  # in 1/25 s; the clip does not begin at 0
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuv420p"
        for i, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_all(tmp_path / "clip.mkv")
    assert [f.time for f in frames] == pytest.approx([(t - 100) / 25 for t in times], abs=2e-3)
    assert [number_of(f.image) for f in frames] == list(range(5))


def test_colours_survive_writing_and_reading(tmp_path: Path) -> None:
    image = np.zeros((H, W, 3), np.uint8)
    image[:, : W // 2], image[:, W // 2 :] = (200, 30, 60), (20, 160, 220)
    for suffix in (".mp4", ".webm"):
        with VideoWriter(tmp_path / f"out{suffix}", quality=5) as video:
            for _ in range(3):
                video.write(image)
        frame = read_all(video.file)[1].image
        assert np.abs(frame[H // 2, W // 4].astype(int) - (200, 30, 60)).max() <= 4
        assert np.abs(frame[H // 2, 3 * W // 4].astype(int) - (20, 160, 220)).max() <= 4


def test_truncated_video(tmp_path: Path) -> None:
    data = make_video(tmp_path / "whole.mp4", 100).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    seen = []
    with open_source(cut) as source, pytest.raises(VideoError, match=r"frame \d+ cannot be used.*--skip-bad-frames"):
        seen.extend(source)
    with open_source(cut, on_error="skip") as source:
        frames = list(source)
    assert [f.index for f in seen] == list(range(source.skipped[0][0]))
    assert 10 < len(frames) < 90
    assert [number_of(f.image) for f in frames] == [f.index for f in frames]
    assert source.ended is not None
    with av.open(str(cut)) as container:
        indexed = hasattr(container.streams.video[0], "index_entries")  # from PyAV 18 on
    assert "cut short" in source.skipped[-1][1] if indexed else "header announces" in source.ended
    assert read_all(cut, end=10)[-1].index == 9  # the damage lies behind the end


def test_truncated_video_without_index_says_so(tmp_path: Path) -> None:
    data = make_video(tmp_path / "whole.mkv", 200, options={}).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    with open_source(tmp_path / "cut.mkv") as source:
        assert 10 < len(list(source)) < 190
    assert source.ended is not None
    assert "header announces 8.0 s" in source.ended


def test_damaged_packets_keep_later_numbers(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", 60)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    at, size = places[25]
    data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    with open_source(path) as source, pytest.raises(VideoError, match=r"frame 2\d cannot be used.*decoded"):
        list(source)
    with open_source(path, on_error="skip") as source:
        frames = list(source)
    assert len(source.skipped) == 1
    assert len(frames) == 59
    late = [f for f in frames if not 20 <= f.index < 30]  # all but the group of pictures that was hit
    assert [number_of(f.image) for f in late] == [f.index for f in late] == [*range(20), *range(30, 60)]


def test_frame_size_changing_in_a_stream(tmp_path: Path) -> None:
    """Joined MPEG-TS parts of two sizes."""
    parts = []
    for i, (width, height) in enumerate(((64, 48), (96, 80))):
        with av.open(str(tmp_path / f"{i}.ts"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for k in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(k, height, width), format="rgb24")))
            container.mux(stream.encode(None))
        parts.append((tmp_path / f"{i}.ts").read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    shapes = [f.image.shape for f in read_all(tmp_path / "joined.ts", on_error="skip")]
    assert shapes[0] == (48, 64, 3)
    assert shapes[-1] == (80, 96, 3)


# ------------------------------------------------------------------------------------------------------------- images


def test_folder_in_natural_order(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "frames", [1, 2, 10, 9, 100])
    (folder / "notes.txt").write_text("not an image")
    (folder / "._1.png").write_bytes(b"hidden")
    frames = read_all(folder)
    assert [f.name for f in frames] == ["1.png", "2.png", "9.png", "10.png", "100.png"]
    assert [number_of(f.image) for f in frames] == [1, 2, 9, 10, 100]
    assert [f.index for f in frames] == [0, 1, 2, 3, 4]
    assert [f.index for f in read_all(folder, start=1, end=3)] == [1, 2]
    assert [f.name for f in read_all(str(folder / "1*.png"))] == ["1.png", "10.png", "100.png"]
    assert [f.name for f in read_all(folder / "9.png")] == ["9.png"]


def test_folder_with_img_or_one_video(tmp_path: Path) -> None:
    make_images(tmp_path / "a" / "img", [1, 2])
    (tmp_path / "a" / "groundtruth.txt").write_text("1,2,3,4\n")
    assert len(read_all(tmp_path / "a")) == 2
    (tmp_path / "b").mkdir()
    make_video(tmp_path / "b" / "video.mp4", 4)
    make_video(tmp_path / "b" / "mask.mp4", 3)
    assert len(read_all(tmp_path / "b")) == 4
    (tmp_path / "b" / "video.mp4").rename(tmp_path / "b" / "other.mp4")
    with pytest.raises(VideoError, match="holds 2 videos"):
        open_source(tmp_path / "b")


def test_gaps_in_numbering_are_noted(tmp_path: Path) -> None:
    with open_source(make_images(tmp_path / "a", [1, 2, 4, 5, 8], "f{:05d}.png")) as source:
        assert source.gaps == [3, 6, 7]
        assert len(list(source)) == 5
    with open_source(make_images(tmp_path / "b", [0, 5, 10, 20])) as source:
        assert source.gaps == [15]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("grey.png", np.full((8, 6), 100, np.uint8)),
        ("deep.png", np.full((8, 6, 3), 100 * 256 + 7, np.uint16)),
        ("deepgrey.tif", np.full((8, 6), 100 * 256 + 7, np.uint16)),
        ("rgba.png", np.full((8, 6, 4), 100, np.uint8)),
        ("grey.jpg", np.full((8, 6), 100, np.uint8)),
    ],
)
def test_other_pixel_formats_become_rgb(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / name), pixels)
    image = read_image(tmp_path / name)
    assert image.shape == (8, 6, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 100).max() <= 1


def test_channel_order(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, 3), (0, 0, 255), np.uint8))  # OpenCV's order: red
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    _, data = cv2.imencode(".jpg", numbered(5))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6: turn right
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "a.jpg").write_bytes(data.tobytes()[:2] + app1 + data.tobytes()[2:])
    assert read_image(tmp_path / "a.jpg").shape == (W, H, 3)


@pytest.mark.parametrize("damage", ["text", "half", "empty", "missing"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_bad_file_in_a_folder(tmp_path: Path, damage: str, suffix: str) -> None:
    folder = make_images(tmp_path / "frames", [0, 1, 2, 3], "{}" + suffix)
    victim = folder / f"2{suffix}"
    whole = victim.read_bytes()

    def harm() -> None:
        if damage == "missing":
            victim.unlink()  # after the folder was listed
        else:
            victim.write_bytes({"text": b"not an image", "half": whole[: len(whole) // 2], "empty": b""}[damage])

    with open_source(folder) as source:
        harm()
        seen = [next(source).index, next(source).index]
        with pytest.raises(VideoError, match=rf"frame 2 .*2\{suffix}.*on_error='skip'.*--skip-bad-frames"):
            next(source)
    assert seen == [0, 1]
    victim.write_bytes(whole)
    with open_source(folder, on_error="skip") as source:
        harm()
        assert [f.index for f in source] == [0, 1, 3]
    assert [i for i, _ in source.skipped] == [2]
    assert victim.name in source.skipped[0][1]


def test_all_images_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no")
    with pytest.raises(VideoError, match=r"no frame that can be used.*a\.jpg"):
        open_source(tmp_path, on_error="skip")


# ------------------------------------------------------------------------------------------------------ wrong sources


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "empty").mkdir()
    make_video(tmp_path / "clip.mp4", 5)
    for source, words in (
        (tmp_path / "text.mp4", "cannot be read as a video"),
        (tmp_path / "zero.mp4", "0 bytes"),
        (tmp_path / "empty", "holds no images"),
        (str(tmp_path / "*.jpg"), "matches no file"),
        (str(tmp_path / "*.mp4"), "matches no image"),
        (tmp_path / "clipp.mp4", r"did you mean '.*clip.mp4'"),
        (tmp_path / "no" / "clip.mp4", "there is no folder"),
    ):
        with pytest.raises(VideoError, match=words):
            open_source(source)
    with pytest.raises(VideoError, match=r"has 5 frames \(0 to 4\); start 5 lies beyond"):
        open_source(tmp_path / "clip.mp4", start=5)
    for wrong in ({"start": 3, "end": 3}, {"start": -1}, {"end": 1.5}, {"on_error": "ignore"}, {"timeout": 0}):
        with pytest.raises(InputError):
            open_source(tmp_path / "clip.mp4", **wrong)
    for odd in (None, True, "", b"clip.mp4", -1, "a\0b"):
        with pytest.raises(InputError):
            open_source(odd)  # type: ignore[arg-type]


def test_sound_without_pictures(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(VideoError, match="no video"):
        open_source(tmp_path / "sound.wav")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, because the tests may run as root, whom no file mode stops."""
    path = make_video(tmp_path / "clip.mp4", 3)

    def refuse(*_: Any, **__: Any) -> None:
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match="permission denied; allow reading it"):
        open_source(path)


# --------------------------------------------------------------------------------------------------- live and network


class FakeCamera:
    """Stands for cv2.VideoCapture: `count` pictures, `pause` seconds apart."""

    count, pause, opened, released = 40, 0.005, True, 0

    def __init__(self, index: int) -> None:
        self.read_so_far = 0

    def isOpened(self) -> bool:
        return self.opened

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(self.pause)
        if self.read_so_far == self.count:
            return False, None
        self.read_so_far += 1
        return True, numbered(self.read_so_far - 1)

    def release(self) -> None:
        type(self).released += 1


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    fake = type("Camera", (FakeCamera,), {})
    monkeypatch.setattr(cv2, "VideoCapture", fake)
    return fake


@pytest.mark.parametrize("index", [0, "0"])
def test_camera_gives_the_latest_frame(camera: type[FakeCamera], index: Any) -> None:
    seen = []
    with open_source(index) as source:
        assert source.live
        assert source.size == (W, H)
        for frame in source:
            seen.append(frame.index)
            assert number_of(frame.image) == frame.index
            time.sleep(0.03)
    assert seen == sorted(set(seen))
    assert source.dropped > 10
    assert source.dropped + len(seen) == 40
    assert source.ended == "camera 0: no more pictures after 40 frames"
    assert camera.released == 1


def test_camera_with_every_frame(camera: type[FakeCamera]) -> None:
    with open_source(0, latest=False, start=2, end=12) as source:
        assert [f.index for f in source] == list(range(2, 12))
    assert source.dropped == 0


def reading_threads() -> int:
    return sum(t.name == "keepsight-reader" for t in threading.enumerate())


def wait_until(what: Callable[[], bool], seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def test_reading_thread_stops(camera: type[FakeCamera]) -> None:
    camera.count = 10**6
    source = open_source(0)
    next(source)
    assert reading_threads() == 1
    source.close()
    source.close()
    assert reading_threads() == 0
    assert camera.released == 1
    assert list(source) == []
    forgotten = open_source(0)
    next(forgotten)
    del forgotten
    gc.collect()
    assert wait_until(lambda: reading_threads() == 0)
    assert camera.released == 2


def test_camera_that_falls_silent(camera: type[FakeCamera]) -> None:
    camera.pause = 0.0
    reads = camera.read
    hang = threading.Event()

    def read(self: FakeCamera) -> tuple[bool, np.ndarray | None]:
        if self.read_so_far == 3:
            hang.wait(10)
            return False, None
        return reads(self)

    camera.read = read  # type: ignore[method-assign]
    threading.Timer(1.6, hang.set).start()
    with open_source(0, timeout=0.2) as source:
        assert list(source)[-1].index == 2
        assert source.ended == "camera 0: no picture came for 1.2 s"


def test_no_camera(camera: type[FakeCamera]) -> None:
    camera.opened = False
    with pytest.raises(VideoError, match="camera 7 cannot be opened"):
        open_source(7)
    camera.opened, camera.count = True, 0
    with pytest.raises(VideoError, match="camera 0 gave no frame"):
        open_source(0)


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Callable[[BaseHTTPRequestHandler], None]]]]:
    """A local web server: pages are functions that answer."""
    pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in pages:
                self.send_error(404)
                return
            with suppress(BrokenPipeError, ConnectionResetError):
                pages[self.path](self)
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_address[1]}", pages
    http.shutdown()
    http.server_close()


def served(data: bytes, send: int | None = None) -> Callable[[BaseHTTPRequestHandler], None]:
    """Announces all of ``data``, sends the first ``send`` bytes, cuts the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "video/mp4")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:send])

    return answer


def test_http_file_gives_every_frame(tmp_path: Path, server: Any) -> None:
    url, pages = server
    pages["/clip.mp4"] = served(make_video(tmp_path / "clip.mp4").read_bytes())
    with open_source(f"{url}/clip.mp4", timeout=5) as source:
        frames = list(source)
        assert (source.live, source.dropped, source.ended, source.length) == (False, 0, None, 30)
    assert [number_of(f.image) for f in frames] == list(range(30))
    with open_source(f"{url}/clip.mp4", timeout=5, latest=True) as source:
        indices = []
        for frame in source:
            indices.append(frame.index)
            time.sleep(0.02)
    assert len(indices) + source.dropped == 30
    assert indices[-1] == 29


def test_http_connection_cut_in_the_middle(tmp_path: Path, server: Any) -> None:
    url, pages = server
    data = make_video(tmp_path / "clip.mp4", 200).read_bytes()
    pages["/cut.mp4"] = served(data, len(data) * 2 // 3)
    with open_source(f"{url}/cut.mp4", timeout=5) as source:
        frames = list(source)
    assert 20 < len(frames) < 199
    assert source.ended is not None
    assert [number_of(f.image) for f in frames[:-3]] == list(range(len(frames) - 3))


def mjpeg(count: int, then: Callable[[], Any]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Pictures as IP cameras send them; after ``count`` of them, ``then``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        for i in range(count):
            data = cv2.imencode(".jpg", numbered(i % 256))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            handler.wfile.write(head.encode() + data + b"\r\n")
            time.sleep(0.004)
        then()

    return answer


def test_http_camera_stream(server: Any) -> None:
    url, pages = server
    pages["/mjpeg"] = mjpeg(150, then=lambda: None)
    with open_source(f"{url}/mjpeg", timeout=5) as source:
        assert source.live
        indices = []
        for frame in source:
            indices.append(frame.index)
            time.sleep(0.02)
    assert indices == sorted(set(indices))
    assert source.dropped > 0
    assert source.ended is not None
    assert "frame 149" in source.ended or "after 150 frames" in source.ended


@pytest.mark.parametrize("latest", [True, False])
def test_http_camera_stream_that_stops(server: Any, latest: bool) -> None:
    url, pages = server
    release = threading.Event()
    pages["/mjpeg"] = mjpeg(150, then=lambda: release.wait(10))
    began = time.monotonic()
    with open_source(f"{url}/mjpeg", timeout=0.8, latest=latest) as source:
        assert len(list(source)) > 2
        assert source.ended is not None
    release.set()
    assert time.monotonic() - began < 6


def test_url_that_cannot_be_opened(server: Any) -> None:
    url, pages = server
    release = threading.Event()
    pages["/silent"] = lambda handler: release.wait(10)
    with pytest.raises(VideoError, match=r"cannot be opened.*check the address"):
        open_source(f"{url}/missing.mp4", timeout=2)
    began = time.monotonic()
    with pytest.raises(VideoError, match="cannot be opened: no data came in time"):
        open_source(f"{url}/silent", timeout=0.5)
    assert time.monotonic() - began < 3
    release.set()
    with pytest.raises(VideoError, match=r"rtsp://127.0.0.1:1/a cannot be opened: connection refused") as caught:
        open_source("rtsp://user:secret@127.0.0.1:1/a", timeout=1)
    assert "secret" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- VideoWriter


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".webm"])
@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_written_video_is_read_back(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"out{suffix}"
    with VideoWriter(path, fps=30000 / 1001) as video:
        for i in range(40):
            video.write(numbered(i, *size))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert (video.frames, video.file) == (40, path)
    with open_source(path) as source:
        assert source.fps == pytest.approx(30000 / 1001, rel=1e-3)
        assert source.size == (size[1] + size[1] % 2, size[0] + size[0] % 2)
        assert [number_of(f.image[: size[0], : size[1]]) for f in source] == list(range(40))
        assert source.ended is None


def test_mp4_is_made_for_browsers(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4") as video:
        for i in range(30):
            video.write(numbered(i))
    data = video.file.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"moof" not in data
    with av.open(str(video.file)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 30)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)


def test_size_change_is_letterboxed(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", quality=5) as video:
        video.write(np.full((40, 80, 3), 200, np.uint8))
        video.write(np.full((80, 80, 3), 200, np.uint8))  # becomes 40 × 40 in the middle
        video.write(np.full((1, 1, 3), 200, np.uint8))
    images = [f.image for f in read_all(video.file)]
    assert {i.shape for i in images} == {(40, 80, 3)}
    assert images[1][20, 40].mean() > 180
    assert images[1][20, 5].mean() < 20
    assert images[1][20, 75].mean() < 20


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (17, 3)])
def test_tiny_videos(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "out.mp4") as video:
        for _ in range(3):
            video.write(np.zeros((*size, 3), np.uint8))
    assert len(read_all(video.file)) == 3


def test_folder_of_images(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        target = tmp_path / f"out{suffix[1:]}"
        with VideoWriter(f"{target}/", image_suffix=suffix) as video:  # type: ignore[arg-type]
            for i in range(3):
                video.write(numbered(i))
        frames = read_all(target)
        assert [f.name for f in frames] == [f"00000{i}{suffix}" for i in range(3)]
        assert [number_of(f.image) for f in frames] == [0, 1, 2]


def test_failure_keeps_the_frames_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"an earlier good video")
    with pytest.raises(ZeroDivisionError), VideoWriter(path) as video:  # noqa: PT012
        for i in range(50):
            video.write(numbered(i))
        raise ZeroDivisionError
    assert path.read_bytes() == b"an earlier good video"
    assert video.file == tmp_path / "out.partial.mp4"
    assert [number_of(f.image) for f in read_all(video.file)] == list(range(50))


def test_killed_writer_leaves_a_playable_part(tmp_path: Path) -> None:
    code = (
        "import os, sys, numpy as np\n"
        "from keepsight.video import VideoWriter\n"
        f"video = VideoWriter({str(tmp_path / 'out.mp4')!r}, fps=10)\n"
        "for i in range(55): video.write(np.full((48, 64, 3), 4 * i, np.uint8))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode != 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial.mp4"]
    frames = read_all(tmp_path / "out.partial.mp4", on_error="skip")
    assert len(frames) >= 40  # all but the last second or so
    assert abs(int(frames[39].image.mean()) - 4 * 39) <= 3


def test_no_frames_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4"):
        assert (tmp_path / "out.partial.mp4").exists()
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for writer in (VideoWriter, BoxWriter):
        suffix = ".mp4" if writer is VideoWriter else ".csv"
        with pytest.raises(VideoError, match="mkdir -p"):
            writer(tmp_path / "no" / f"out{suffix}")
        with pytest.raises(VideoError, match="cannot be written"):
            writer(tmp_path / "file" / f"out{suffix}")
        with pytest.raises(VideoError, match=r"suffix '.xyz'.*are written as"):
            writer(tmp_path / "out.xyz")
    with pytest.raises(VideoError, match="cannot be written"):
        VideoWriter(f"{tmp_path / 'file'}/")
    with pytest.raises(VideoError, match="cannot be written"):
        BoxWriter(tmp_path / "no" / "out.txt", targets=2)
    for wrong in ({"fps": 0}, {"fps": math.nan}, {"quality": 99}, {"image_suffix": ".gif"}):
        with pytest.raises(InputError):
            VideoWriter(tmp_path / "out.mp4", **wrong)
    with VideoWriter(tmp_path / "out.mp4") as video:
        for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8), None):
            with pytest.raises(InputError):
                video.write(image)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="closed"):
        video.write(numbered(0))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_full_disk_video(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"out.partial{suffix}").symlink_to("/dev/full")
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)

    def write() -> None:
        with VideoWriter(tmp_path / f"out{suffix}") as video:
            for _ in range(200):
                video.write(noise)

    with pytest.raises(VideoError, match="no space left on device"):
        write()


def test_full_disk_at_the_end_keeps_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = VideoWriter(tmp_path / "out.mp4")
    for i in range(30):
        video.write(numbered(i))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(VideoError, match=r"no space left on device; the 30 frames are in .*out.partial.mp4"):
        video.close()
    assert len(read_all(video.file)) == 30


# ---------------------------------------------------------------------------------------------------------- BoxWriter


def result(x: float, status: Status = Status.FOUND, reason: str = "every 20th frame") -> Result:
    box = Box(x, 2.0, 30.25, 1 / 3)
    return Result(box, box, 0.1 + 0.2, 0.75, status, "normal", True, reason, 12.5)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".txt"])
def test_boxes_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with BoxWriter(path) as boxes:
        boxes.write_init(10, 0, (1.5, 2.0, 30.0, 40.0))
        boxes.write(11, 0, result(0.1))
        boxes.write(13, 0, result(math.pi))
    read = read_boxes(path)
    exact = [(1.5, 2, 30, 40), (0.1, 2, 30.25, 1 / 3), (math.nan,) * 4, (math.pi, 2, 30.25, 1 / 3)]
    np.testing.assert_allclose(read, exact, atol=0 if suffix != ".txt" else 5.1e-5, rtol=0)


def test_csv_text(tmp_path: Path) -> None:
    with BoxWriter(tmp_path / "out.csv", targets=2) as boxes:
        boxes.write_init(0, 0, (1, 2, 3, 4))
        boxes.write(1, 1, result(0.1, Status.LOST, 'odd, "quoted"'))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "frame,target,x,y,w,h,score,presence,status,flag,updated,update_reason,milliseconds"
    assert lines[1] == "0,0,1.0,2.0,3.0,4.0,,1.0,given,given,True,first frame,"
    start = "1,1,0.1,2.0,30.25,0.3333333333333333,0.30000000000000004,0.75,lost,normal,True,"
    assert lines[2] == start + '"odd, ""quoted""",12.5'
    assert read_boxes(tmp_path / "out.csv", target=1).shape == (1, 4)


def test_every_row_is_on_disk_at_once(tmp_path: Path) -> None:
    """A copy of the file after any row is whole; JSON is valid each time."""
    for suffix in (".csv", ".json", ".txt"):
        path = tmp_path / f"out{suffix}"
        boxes = BoxWriter(path, metadata={"source": "Straße.mp4"})
        for i in range(4):
            boxes.write(i, 0, result(float(i), reason="überall"))
            assert read_boxes(path)[:, 0].tolist() == list(range(i + 1))
        boxes.close()
        boxes.close()
        with pytest.raises(VideoError, match="closed"):
            boxes.write(9, 0, result(0))


def test_json_document(tmp_path: Path) -> None:
    with BoxWriter(tmp_path / "out.json", targets=2, metadata={"tracker": "dimp-lite", "seed": 0}) as boxes:
        assert json.loads((tmp_path / "out.json").read_text())["frames"] == []
        boxes.write_init(0, 0, (1, 2, 3, 4))
        boxes.write(0, 1, result(math.nan))
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["metadata"] == {"tracker": "dimp-lite", "seed": 0}
    assert document["targets"] == 2
    assert document["frames"][0]["score"] is None
    assert document["frames"][1]["x"] is None
    assert document["frames"][1]["status"] == "found"
    with pytest.raises(InputError, match="metadata"):
        BoxWriter(tmp_path / "bad.json", metadata={"a": object()})


def test_candidates_in_a_json_document(tmp_path: Path) -> None:
    seen = Candidate(3, 0.25, (10.5, 7.0), True), Candidate(4, math.nan, (1.0, 2.0), False)
    for suffix in (".json", ".csv", ".txt"):
        with BoxWriter(tmp_path / f"out{suffix}", candidates=True) as boxes:
            boxes.write_init(0, 0, Box(1, 2, 3, 4))
            boxes.write(1, 0, replace(result(1.0), candidates=seen))
            boxes.write(2, 0, result(2.0))
    rows = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert [list(row)[-1] for row in rows] == ["candidates"] * 3
    assert [len(row["candidates"]) for row in rows] == [0, 2, 0]
    first, second = rows[1]["candidates"]
    assert first == json.loads(json.dumps(asdict(seen[0])))
    assert second["score"] is None, "JSON has no such number"
    read = [read_boxes(tmp_path / f"out{suffix}") for suffix in (".json", ".csv", ".txt")]
    assert read[0].shape == (3, 4)
    assert np.array_equal(read[0], read[1])
    assert np.allclose(read[0], read[2], atol=1e-4)
    assert "candidates" not in (tmp_path / "out.csv").read_text()


def test_txt_for_several_targets(tmp_path: Path) -> None:
    with BoxWriter(tmp_path / "out.txt", targets=2) as boxes:
        for i in range(3):
            for target in range(2):
                boxes.write(i, target, result(10.0 * target + i))
    assert [p.name for p in boxes.paths] == ["out_0.txt", "out_1.txt"]
    assert (tmp_path / "out_1.txt").read_text().splitlines()[0] == "10.0000,2.0000,30.2500,0.3333"
    assert read_boxes(tmp_path / "out_1.txt")[:, 0].tolist() == [10, 11, 12]


def test_rows_that_make_no_sense(tmp_path: Path) -> None:
    with BoxWriter(tmp_path / "out.csv") as boxes:
        boxes.write(3, 0, result(1))
        for frame, target in ((3, 0), (2, 0), (4, 1), (4, -1)):
            with pytest.raises(InputError):
                boxes.write(frame, target, result(1))
    with pytest.raises(InputError):
        BoxWriter(tmp_path / "out.csv", targets=0)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_boxes(tmp_path: Path) -> None:
    (tmp_path / "out.txt").symlink_to("/dev/full")
    with BoxWriter(tmp_path / "out.txt") as boxes, pytest.raises(VideoError, match=r"no space left.*0 rows"):
        boxes.write(0, 0, result(1))


def test_read_boxes_of_ground_truth(tmp_path: Path) -> None:
    path = tmp_path / "groundtruth.txt"
    expected = [[1.0, 2.0, 3.5, 4.0], [math.nan] * 4]
    for text in (
        "1,2,3.5,4\nnan,nan,nan,nan\n",
        "1\t2\t3.5\t4\r\nNaN\tNaN\tNaN\tNaN",
        "\ufeff 1 2  3.5 4\n\nnan nan nan nan\n",
    ):
        path.write_text(text, encoding="utf-8")
        np.testing.assert_array_equal(read_boxes(path), expected)
    for text, words in (("1,2,3\n", "line 1 has 3 numbers"), ("1,2,3,4\na,b,c,d\n", "line 2"), ("", "no boxes")):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            read_boxes(path)
    for text in ("{}", "{broken", '{"frames": 3}', '{"frames": [{"frame": 0}]}', "frame,target,x\n0,0,1\n"):
        path.write_text(text)
        with pytest.raises(InputError):
            read_boxes(path)
    with pytest.raises(VideoError, match="did you mean"):
        read_boxes(tmp_path / "groundtruht.txt")
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(VideoError, match="cannot be read"):
        read_boxes(path)


def test_import_is_light() -> None:
    """The module alone, without what the package's own __init__ loads."""
    code = (
        "import sys, types; package = types.ModuleType('keepsight'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['keepsight'] = package; import keepsight.video, keepsight.draw\n"
        "print([m for m in ('cv2', 'av', 'torch', 'matplotlib') if m in sys.modules])"
    )
    folder = str(Path(video_module.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
