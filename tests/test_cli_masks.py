"""Masks on the command line: `keepsight track --mask --save-masks`, and `keepsight masks`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from running import write_folder
from small import NARROW

from keepsight.boxes import Box
from keepsight.cli import console, main
from keepsight.datasets import lasot
from keepsight.datasets.coco_masks import decode_segmentation
from keepsight.datasets.masks import read_mask, save_indexed_png
from keepsight.datasets.training_sets import open_training_set
from keepsight.models.segmentation import STANet, STANetConfig
from keepsight.online.masks import check_mask
from keepsight.trackers import registry
from keepsight.trackers.base import Outcome, Tracker
from keepsight.trackers.sta import BoxToMask, STAConfig
from keepsight.video import read_boxes

SIZE = (48, 64)


class Sliding(Tracker[list[Any]]):
    """Answers with the masks that it was given, moved one pixel to the right in each frame; does what a test asks at frame 3."""

    session_type = None
    event: Any = None

    def __init__(self) -> None:
        super().__init__("sliding", torch.device("cpu"), 0)

    @property
    def gives_masks(self) -> bool:
        return True

    def probabilities(self) -> list[np.ndarray]:
        return [mask.astype(np.float32) for mask, _ in self._current().targets]

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[list[Any]]:
        raise AssertionError

    def _start_with(self, frame: np.ndarray, boxes: list[Box], masks: list[np.ndarray | None]) -> list[list[Any]]:
        started = []
        for (x, y, w, h), mask in zip(boxes, masks, strict=True):
            inside = np.zeros(frame.shape[:2], bool)
            inside[int(y) : int(y + h), int(x) : int(x + w)] = True
            started.append([inside if mask is None else mask, 0])
        return started

    def _advance(self, frame: np.ndarray, targets: list[list[Any]]) -> list[Outcome]:
        outcomes = []
        for target in targets:
            target[0], target[1] = np.roll(target[0], 1, axis=1), target[1] + 1
            if self.event is not None and target[1] == 3:
                self.event()
            outcomes.append(Outcome((10.0, 10.0), (5.0, 5.0), 0.5, 0.7, "normal", False, "never", target[0]))
        return outcomes

    def _identity(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def sliding(monkeypatch: pytest.MonkeyPatch) -> Sliding:
    tracker = Sliding()
    monkeypatch.setattr(registry, "load", lambda *_, **__: tracker)
    return tracker


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A folder of six pictures."""
    (tmp_path / "v").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(tmp_path / "v" / f"pic{i}.png"), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    return tmp_path / "v"


def ids(**objects: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels of each number in a rectangle x, y, w, h."""
    whole = np.zeros(SIZE, np.uint8)
    for name, (x, y, w, h) in objects.items():
        whole[y : y + h, x : x + w] = int(name[1:])
    return whole


def saved(path: Path, whole: np.ndarray) -> str:
    save_indexed_png(path, whole)
    return str(path)


# --- keepsight track ------------------------------------------------------------------------------------------------------


def test_a_mask_in_masks_out(video: Path, sliding: Sliding, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ids(n2=(4, 5, 10, 12), n7=(30, 20, 12, 14))
    mask, out, boxes = saved(tmp_path / "first.png", first), tmp_path / "masks", tmp_path / "b.json"
    assert main(["track", str(video), "--mask", mask, "--save-masks", str(out), "--save-boxes", str(boxes)]) == 0
    told = capsys.readouterr().out
    assert f"wrote {out}" in told
    assert "target 1: found 100.0 %" in told
    assert sorted(p.name for p in out.iterdir()) == [f"pic{i}.png" for i in range(6)]  # as the pictures
    for i in range(6):
        np.testing.assert_array_equal(read_mask(out / f"pic{i}.png"), np.roll(first, i, axis=1))  # with its own numbers
    data = json.loads(boxes.read_text())
    assert (data["targets"], data["metadata"]["masks"], data["metadata"]["object_ids"]) == (2, str(out), [2, 7])
    assert read_boxes(boxes, 0)[0].tolist() == [4, 5, 10, 12]  # of a given mask, the tight box
    assert read_boxes(boxes, 1)[0].tolist() == [30, 20, 12, 14]


def test_boxes_and_several_pictures_of_masks_are_numbered_in_order(
    video: Path, sliding: Sliding, tmp_path: Path
) -> None:
    one, two = ids(n5=(30, 20, 12, 14)), ids(n1=(50, 2, 9, 9), n9=(0, 40, 8, 8))
    out = tmp_path / "m.json"
    command = ["track", str(video), "--mask", saved(tmp_path / "1.png", one), "--mask", saved(tmp_path / "2.png", two)]
    assert main([*command, "--box", "4,5,10,12", "--save-masks", str(out), "--end", "3"]) == 0
    data = json.loads(out.read_text())
    assert [c["id"] for c in data["categories"]] == [1, 2, 3, 4]
    assert data["info"]["tracker"] == "sliding"
    assert [i["file_name"] for i in data["images"]] == ["pic0.png", "pic1.png", "pic2.png"]
    wanted = [ids(n1=(4, 5, 10, 12)) == 1, one == 5, two == 1, two == 9]
    for row in data["annotations"]:
        mask = decode_segmentation(row["segmentation"], SIZE[1], SIZE[0])
        np.testing.assert_array_equal(mask, np.roll(wanted[row["object_id"] - 1], row["frame"], axis=1))
    assert len(data["annotations"]) == 12


def test_a_mask_starts_a_tracker_of_boxes(video: Path, tmp_path: Path) -> None:
    mask, boxes = saved(tmp_path / "first.png", ids(n1=(14, 15, 20, 12))), tmp_path / "b.txt"
    assert main(["track", str(video), "--mask", mask, "--save-boxes", str(boxes), "--end", "2"]) == 0
    assert read_boxes(boxes)[0].tolist() == [14, 15, 20, 12]


def test_the_overlay_shows_the_mask_in_the_first_frame_too(video: Path, sliding: Sliding, tmp_path: Path) -> None:
    command = ["track", str(video), "--box", "14,15,20,12", "--save", f"{tmp_path}/o/", "--end", "2"]
    assert main([*command, "--save-masks", str(tmp_path / "m")]) == 0
    before, after = (cv2.imread(str(f)).astype(int) for f in (video / "pic0.png", tmp_path / "o/000000.jpg"))
    assert np.abs(before - after)[17:25, 17:31].mean() > 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask", "{tmp}/small.png"], "32×24 pixels, the first frame has 64×48"),
        (["--mask", "{tmp}/empty.png"], "no pixel belongs to an object"),
        (["--mask", "{tmp}/text.png"], "text.png cannot be read"),
        (["--mask", "{tmp}/absent.png"], "there is no mask file"),
        (["--mask", "{tmp}/soft.png"], "object ids cannot be told"),
        (["--box", "5,5,9,9", "--save-masks", "{tmp}/v"], "source itself"),
        (["--box", "5,5,9,9", "--save-masks", "{tmp}/absent/m"], "mkdir -p"),
        (["--box", "5,5,9,9", "--save-masks", "{tmp}/m.png"], "a folder, or as one .json"),
    ],
)
def test_masks_that_cannot_be_used(
    arguments: list[str], words: str, video: Path, sliding: Sliding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_indexed_png(tmp_path / "small.png", np.ones((24, 32), np.uint8))
    save_indexed_png(tmp_path / "empty.png", np.zeros(SIZE, np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    cv2.imwrite(str(tmp_path / "soft.png"), np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1)))
    before = sorted(tmp_path.rglob("*"))
    assert main(["track", str(video), *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert sorted(tmp_path.rglob("*")) == before


def test_trackers_of_boxes_save_no_masks(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", str(video), "--box", "5,5,20,20", "--save-masks", str(tmp_path / "m")]) == 2
    assert "dimp-lite answers with boxes; use a tracker of masks" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_what_was_tracked_before_an_error_or_a_signal_stays(video: Path, sliding: Sliding, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    for event, status, count in ((fail, 1, 3), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, 3)):
        sliding.event = event
        for path in (tmp_path / f"m{status}", tmp_path / f"m{status}.json"):
            assert main(["track", str(video), "--box", "5,5,20,20", "--save-masks", str(path)]) == status
        assert len(list((tmp_path / f"m{status}").glob("*.png"))) == count
        assert len(json.loads((tmp_path / f"m{status}.json").read_text())["annotations"]) == count


# --- keepsight masks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_sta(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    net = STANet(STANetConfig(**{**NARROW, "label_encoder_dims": (4, 6, 8, 8)})).eval()
    model = BoxToMask(net, torch.device("cpu"), STAConfig((64, 96)))
    monkeypatch.setattr(registry, "load_box_to_mask", lambda *_, **__: model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = write_folder(tmp_path / "videos", {"a": 5, "group/b": 3})
    truth = root / "a/groundtruth.txt"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([*lines[:2], "nan,nan,nan,nan", *lines[3:]]) + "\n")  # absent in its third frame
    return root


def test_masks_of_boxes(data: Path, small_sta: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks"
    words = ["masks", str(data), "--out", str(out), "--weights", "random", "--quiet"]
    assert main([*words, "--only", "a", "--most", "4", "--step", "3"]) == 0
    assert [p.name for p in sorted((out / "a").iterdir())] == ["00000001.png", "00000004.png"]
    capsys.readouterr()
    kept = (out / "a/00000001.png").stat().st_mtime_ns
    (out / "a/00000004.png").unlink()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "6 masks made" in said
    assert "1 were there, 1 frames without target; 2 of 2 sequences" in said
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png")) == [
        "a/00000001.png", "a/00000002.png", "a/00000004.png", "a/00000005.png",
        "group/b/00000001.png", "group/b/00000002.png", "group/b/00000003.png",
    ]  # fmt: skip
    assert (out / "a/00000001.png").stat().st_mtime_ns == kept
    grey = cv2.imread(str(out / "a/00000001.png"))
    assert grey.shape == (48, 64, 3)
    assert set(np.unique(grey)) <= {0, 1}  # for readers that take a channel
    box = [int(v) for v in np.loadtxt(data / "a/groundtruth.txt", delimiter=",")[0]]
    outside = np.ones((48, 64), bool)
    outside[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = False
    assert not grey[..., 0][outside].any()


def test_masks_of_other_weights_are_not_mixed(
    data: Path, small_sta: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    words = ["masks", str(data), "--out", str(out), "--only", "a", "--quiet"]
    assert main([*words, "--weights", "random"]) == 0
    (tmp_path / "other.safetensors").write_bytes(b"other")
    assert main([*words, "--weights", str(tmp_path / "other.safetensors")]) == 2
    assert "were made with the weights random 0" in capsys.readouterr().err
    assert main([*words, "--weights", str(tmp_path / "other.safetensors"), "--overwrite"]) == 0
    assert "4 masks made" in capsys.readouterr().out


def test_what_cannot_be_read_is_named_and_the_rest_is_made(
    data: Path, small_sta: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "a/img/00002.png").write_bytes(b"no picture")
    (data / "group/b/groundtruth.txt").write_text("1,2,x,4\n")
    assert main(["masks", str(data), "--out", str(tmp_path / "m"), "--weights", "random", "--quiet"]) == 2
    told = capsys.readouterr()
    assert "a, frame 1: " in told.err
    assert "group/b: " in told.err
    assert "3 masks made" in told.out
    assert main(["masks", str(data), "--out", str(data), "--weights", "random"]) == 2
    assert "folder of the videos themselves" in capsys.readouterr().err
    assert main(["masks", str(data), "--out", str(tmp_path / "m"), "--only", "z*", "--weights", "random"]) == 2
    assert "no sequence" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["masks", str(data), "--out", str(tmp_path / "file"), "--weights", "random"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_signal_ends_it_and_the_same_command_goes_on(
    data: Path, small_sta: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, count = BoxToMask.mask, 0

    def interrupted(self: BoxToMask, frame: Any, box: Any) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return mask(self, frame, box)

    monkeypatch.setattr(BoxToMask, "mask", interrupted)
    words = ["masks", str(data), "--out", str(tmp_path / "m"), "--weights", "random", "--quiet"]
    assert main(words) == 130
    told = capsys.readouterr()
    assert "2 masks made" in told.out
    assert "goes on from there" in told.err
    assert main(words) == 0
    assert "5 masks made" in capsys.readouterr().out


def test_training_reads_what_masks_writes(tmp_path: Path, small_sta: None) -> None:
    """LaSOT's every fifth frame, by default, under the names that the reader of pseudo masks expects."""
    name = lasot.names("train")[0]
    folder = tmp_path / "LaSOT" / name.rpartition("-")[0] / name
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(12):
        cv2.imwrite(str(folder / "img" / f"{i + 1:08d}.jpg"), rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    (folder / "groundtruth.txt").write_text("10,12,20,16\n" * 12)
    for file in ("full_occlusion.txt", "out_of_view.txt"):
        (folder / file).write_text(",".join("0" * 12))
    words = ["masks", "lasot:train", "--data-root", str(tmp_path / "LaSOT"), "--out", str(tmp_path / "lasot_masks")]
    assert main([*words, "--weights", "random", "--quiet"]) == 0
    made = sorted(p.name for p in (tmp_path / "lasot_masks" / name).iterdir())
    assert made == ["00000001.png", "00000006.png", "00000011.png"]
    videos = open_training_set("lasot_masks:train", tmp_path)
    sequence = next(videos[i] for i in range(len(videos)) if videos[i].name == name)
    masks = sequence.annotation.masks
    assert len(masks) == len(sequence) == 3
    for i in range(3):
        found = masks[i]
        assert found.max() <= 1
        if found.any():
            check_mask(found, *SIZE)


def test_words_between_colons_stay_words(capsys: pytest.CaptureFixture[str]) -> None:
    """rich would make a picture of ``:train:``."""
    for speak in (console.say, console.tell, console.complain):
        speak("lasot:train: not here")
        told = capsys.readouterr()
        assert told.out + told.err == "lasot:train: not here\n"
