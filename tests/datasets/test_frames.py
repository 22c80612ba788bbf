"""Pictures of a sequence from every kind of source: right frames, clear errors, and pickling."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import layouts
import numpy as np
import pytest

from keepsight.datasets import frames as fr
from keepsight.datasets.frames import (
    ArrayFrames,
    FolderFrames,
    Frames,
    ImageFrames,
    NoFrames,
    NumberedFrames,
    VideoFrames,
)
from keepsight.errors import InputError, VideoError
from keepsight.video import VideoWriter


def shown(image: np.ndarray) -> int:
    """The number that a picture of layouts.py tells."""
    assert image.shape == (layouts.HEIGHT, layouts.WIDTH, 3)
    assert image.dtype == np.uint8
    return round(float(image.mean()))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames; frame i is grey 40 + 5 i."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, fps=10) as writer:
        for i in range(30):
            writer.write(np.full((32, 48, 3), 40 + 5 * i, np.uint8))
    return path


def number(image: np.ndarray) -> float:
    return (float(image.mean()) - 40) / 5


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    layouts.pictures(tmp_path, 5, 14, 4, every=True)
    return tmp_path


def test_image_files_are_read_as_rgb(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 5, 3), (10, 20, 30), np.uint8))
    frames = ImageFrames([tmp_path / "a.png"])
    assert frames[0][0, 0].tolist() == [30, 20, 10]
    assert frames.paths == (tmp_path / "a.png",)


def test_numbered_files(numbered: Path) -> None:
    frames = NumberedFrames(numbered, 10, first=5, digits=4)
    assert [shown(f) for f in frames] == list(range(5, 15))
    assert shown(frames[-1]) == 14
    assert frames.paths[3] == numbered / "0008.jpg"
    assert [shown(f) for f in NumberedFrames(numbered, 4, first=5, digits=4, step=3)] == [5, 8, 11, 14]


def test_folder_in_order_of_numbers(tmp_path: Path) -> None:
    layouts.pictures(tmp_path, 0, 11, 1, every=True)
    (tmp_path / ".hidden.jpg").touch()
    (tmp_path / "notes.txt").touch()
    assert [shown(f) for f in FolderFrames(tmp_path)] == list(range(12))


def test_counts_are_asked_for_once_and_late(numbered: Path) -> None:
    asked = []

    def count() -> int:
        asked.append(1)
        return 3

    for frames in (NumberedFrames(numbered, count), NoFrames(count), VideoFrames(numbered / "x.mp4", count)):
        asked.clear()
        assert len(frames) == len(frames) == 3
        assert len(asked) == 1


@pytest.mark.parametrize("index", [3, -4])
def test_index_outside(index: int, numbered: Path) -> None:
    for frames in (NumberedFrames(numbered, 3), ArrayFrames([np.zeros((2, 2, 3), np.uint8)] * 3), NoFrames(3)):
        with pytest.raises(IndexError):
            frames[index]


def test_missing_damaged_and_empty_files_are_named(numbered: Path) -> None:
    frames = NumberedFrames(numbered, 10, first=5, digits=4)
    frames.path(0).unlink()
    frames.path(1).write_bytes(b"")
    frames.path(2).write_bytes(frames.path(3).read_bytes()[:200])
    frames.path(4).write_bytes(b"no image")
    for i in (0, 1, 2, 4):
        with pytest.raises(VideoError, match=frames.path(i).name):
            frames[i]
    assert shown(frames[3]) == 8
    with pytest.raises(VideoError, match="nowhere"):
        len(FolderFrames(numbered / "nowhere"))
    (numbered / "empty").mkdir()
    with pytest.raises(VideoError, match="no images"):
        FolderFrames(numbered / "empty")[0]


def test_no_frames_say_so() -> None:
    with pytest.raises(InputError, match="annotations only"):
        NoFrames(5)[0]
    assert NoFrames(5).paths is None


def test_video_in_any_order(video: Path) -> None:
    frames = VideoFrames(video)
    assert len(frames) == fr.count_packets(video) == fr.count_pictures(video) == 30
    for i in (0, 0, 1, 2, 7, 3, 29, 28, 0, -1):
        assert number(frames[i]) == pytest.approx(i % 30, abs=0.4)


def test_video_part(video: Path) -> None:
    frames = VideoFrames(video, start=10)
    assert len(frames) == 20
    assert number(frames[0]) == pytest.approx(10, abs=0.4)
    assert [round(number(f)) for f in VideoFrames(video, 3, start=4)] == [4, 5, 6]


def test_video_is_opened_once_for_a_forward_pass(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = VideoFrames._open
    monkeypatch.setattr(VideoFrames, "_open", lambda self: (opened.append(1), original(self))[1])
    frames = VideoFrames(video, 30)
    for i in range(30):
        frames[i], frames[i]
    assert len(opened) == 1
    assert frames._reader is None  # closed at the end, and the last frame kept
    assert number(frames[29]) == pytest.approx(29, abs=0.4)
    assert len(opened) == 1
    frames[4]
    assert len(opened) == 2


def test_video_shorter_than_said_and_missing(video: Path, tmp_path: Path) -> None:
    frames = VideoFrames(video, 40)
    with pytest.raises(VideoError, match=r"clip\.mp4.*frame 35.*only 30"):
        frames[35]
    assert number(frames[5]) == pytest.approx(5, abs=0.4)  # still usable
    for call in (lambda: VideoFrames(tmp_path / "no.mp4", 3)[0], lambda: len(VideoFrames(tmp_path / "no.mp4"))):
        with pytest.raises(VideoError, match=r"no\.mp4"):
            call()
    (tmp_path / "bad.mp4").write_bytes(b"nothing of a video")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        VideoFrames(tmp_path / "bad.mp4", 3)[0]


def test_video_cut_in_the_middle(video: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-400])
    with pytest.raises(VideoError, match=r"cut\.mp4"):
        VideoFrames(cut, 30)[29]


def test_everything_survives_pickling(video: Path, numbered: Path) -> None:
    kinds: list[Frames] = [
        ImageFrames([numbered / "0005.jpg"]),
        NumberedFrames(numbered, partial(int, 10), first=5, digits=4),
        FolderFrames(numbered),
        VideoFrames(video, partial(int, 30)),
        ArrayFrames([np.zeros((2, 2, 3), np.uint8)]),
    ]
    for frames in kinds:
        before = pickle.loads(pickle.dumps(frames))
        np.testing.assert_array_equal(before[0], frames[0])
        after = pickle.loads(pickle.dumps(frames))  # with a decoder open and lengths known
        np.testing.assert_array_equal(after[len(after) - 1], frames[len(frames) - 1])
    assert len(pickle.loads(pickle.dumps(NoFrames(3)))) == 3
