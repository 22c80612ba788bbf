"""The command line: every command, what it writes, what it says, and its exit status."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small import matcher_file

import keepsight
from keepsight import video
from keepsight.boxes import Box
from keepsight.cli import main
from keepsight.cli.track import one_thread, parse_box
from keepsight.errors import InputError
from keepsight.trackers import registry
from keepsight.trackers.base import Outcome, Tracker
from keepsight.video import VideoWriter, open_source, read_boxes
from keepsight.weights import find_weights

BOX = "30,20,24,18"


class Steady(Tracker[Box]):
    """Says that each target moves one pixel to the right, and does what a test asks at one frame."""

    session_type = None

    def __init__(self, event: Any = None, at: int = 5, delay: float = 0.0) -> None:
        super().__init__("steady", torch.device("cpu"), 0)
        self.event, self.at, self.delay, self.frame = event, at, delay, 0

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[Box]:
        return list(boxes)

    def _advance(self, frame: np.ndarray, targets: list[Box]) -> list[Outcome]:
        self.frame += 1
        if self.event is not None and self.frame == self.at:
            self.event()
        targets[:] = [b._replace(x=b.x + 1) for b in targets]
        flags = ["not_found" if self.frame % 2 else "normal"] * len(targets)
        return [
            Outcome((b.y + (b.h - 1) / 2, b.x + (b.w - 1) / 2), (b.h, b.w), 0.5, 0.7, flag, True, "always")
            for b, flag in zip(targets, flags, strict=True)
        ]

    def _identity(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the trackers by a quick one: ``steady(event, at)``."""

    def use(*args: Any) -> None:
        monkeypatch.setattr(registry, "load", lambda *_, **__: Steady(*args))

    use()
    return use


def picture(number: int, width: int = 96, height: int = 72) -> np.ndarray:
    image = np.random.default_rng(0).integers(60, 120, (height, width, 3), dtype=np.uint8)
    cv2.circle(image, (42 + number % 20, 29), 9, (250, 200, 40), -1)
    cv2.circle(image, (42 + number % 20, 26), 3, (20, 40, 200), -1)
    return image


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, fps=12.5) as writer:
        for i in range(10):
            writer.write(picture(i))
    return path


def pictures(folder: Path, count: int = 8) -> Path:
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), picture(i)[..., ::-1])
    return folder


def frames_of(path: Path) -> list[np.ndarray]:
    with open_source(path) as source:
        return [f.image for f in source]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


# --------------------------------------------------------------------------------------------------- tracking for real


def test_track_with_the_default_tracker(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["track", str(clip), "--box", BOX, "--start", "2", "--end", "7", "--seed", "3"]
    out, boxes = tmp_path / "out.mp4", tmp_path / "boxes.json"
    assert main([*command, "--save", str(out), "--save-boxes", str(boxes)]) == 0
    told = capsys.readouterr().out
    assert "4 frames tracked" in told
    assert "target 0: found" in told
    assert f"wrote {out}" in told
    assert f"wrote {boxes}" in told
    with open_source(out) as source:
        assert source.fps == 12.5
        assert source.size == (96, 72)
        assert len(list(source)) == 5
    data = json.loads(boxes.read_text())
    assert [row["frame"] for row in data["frames"]] == [2, 3, 4, 5, 6]
    assert data["frames"][0]["status"] == "given"
    assert data["metadata"]["tracker"] == "dimp-lite"
    assert data["metadata"]["seed"] == 3
    assert np.abs(read_boxes(boxes)[-1] - [34, 20, 24, 18]).max() < 6  # the disc went on by four pixels
    assert main([*command, "--save-boxes", str(tmp_path / "again.txt")]) == 0  # the same boxes twice
    np.testing.assert_allclose(read_boxes(tmp_path / "again.txt"), read_boxes(boxes), atol=1e-4)


def test_track_with_two_networks_writes_candidates(clip: Path, tmp_path: Path) -> None:
    matcher, base = matcher_file(tmp_path / "matcher.safetensors"), tmp_path / "base.safetensors"
    base.write_bytes(find_weights("dimp-lite").read_bytes())
    command = ["track", str(clip), "--box", BOX, "--end", "4", "--tracker", "keeptrack-lite", "--device", "cpu"]
    files = [tmp_path / f"{name}.json" for name in ("both", "one", "csv")]
    files[2] = files[2].with_suffix(".csv")
    for path, given in zip(files, ((matcher, base), (matcher,), (base, matcher)), strict=True):
        weights = [word for file in given for word in ("--weights", str(file))]
        assert main([*command, *weights, "--save-boxes", str(path)]) == 0
    first, *later = json.loads(files[0].read_text())["frames"]
    assert first["candidates"] == []
    seen = [candidate for row in later for candidate in row["candidates"]]
    assert seen
    fields = {field.name for field in dataclasses.fields(keepsight.Candidate)}
    for row in later:
        assert all(set(c) == fields for c in row["candidates"])
        assert max([row["score"], *(c["score"] for c in row["candidates"])]) == pytest.approx(row["score"], abs=0.05)
    boxes = [read_boxes(path) for path in files]
    assert boxes[0].shape == (4, 4)
    assert all(np.array_equal(boxes[0], other) for other in boxes[1:])
    assert "candidates" not in files[2].read_text()


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        ([], None),
        (["--weights", "random"], ("random",)),
        (["--weights", "a.pth", "--weights", "b.pth"], ("a.pth", "b.pth")),
    ],
)
def test_weights_on_the_command_line(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], weights: Any
) -> None:
    given = {}
    monkeypatch.setattr(registry, "load", lambda *_, **options: given.update(options) or Steady())
    assert main(["track", str(clip), "--box", BOX, *words, "--save-boxes", str(tmp_path / "boxes.json")]) == 0
    assert given["weights"] == weights
    assert "candidates" not in (tmp_path / "boxes.json").read_text()


def test_densities_of_a_prdimp_tracker(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "densities"
    command = ["track", str(clip), "--box", BOX, "--end", "3", "--tracker", "prdimp18", "--weights", "random"]
    assert main([*command, "--save-densities", str(folder)]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["000001.npz", "000001.png", "000002.npz", "000002.png"]
    with np.load(folder / "000002.npz") as arrays:
        for name in ("centre", "position", "size"):
            assert arrays[name].sum() == pytest.approx(1)
        assert arrays["box"].shape == (4,)
        assert {"centre_region", "position_offsets", "size_factors"} <= set(arrays)
    panels = cv2.imread(str(folder / "000001.png"))
    assert panels.shape[1] > 2 * panels.shape[0]
    assert "frame," not in capsys.readouterr().out  # one output was asked for, so no CSV


def test_densities_of_other_trackers_are_refused_before_tracking(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", str(clip), "--box", BOX, "--save-densities", str(tmp_path / "d")]) == 2
    assert "prdimp18" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a" / "demo"
    assert main(["demo", "--out", str(folder), "--frames", "12"]) == 0
    told = capsys.readouterr().out
    auc = float(told.split("success AUC ")[1].split(",")[0])
    assert 0.4 < auc < 1
    assert "frames/s" in told
    assert len(frames_of(folder / "tracked.mp4")) == len(frames_of(folder / "clip" / "video.mp4")) == 12
    truth, tracked = read_boxes(folder / "clip" / "groundtruth.txt"), read_boxes(folder / "boxes.csv")
    assert truth.shape == tracked.shape == (12, 4)
    assert np.array_equal(truth[0], tracked[0])
    assert f"--box {','.join(f'{v:g}' for v in truth[0])}" in told
    assert main(["demo", "--out", str(folder), "--frames", "1"]) == 2


def test_one_thread_for_the_small_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, before = Steady(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for small, variable, threads in ((True, None, 1), (False, None, 2), (True, "2", 2)):
            monkeypatch.setattr(Steady, "suits_one_thread", small)
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if variable is not None:
                monkeypatch.setenv("OMP_NUM_THREADS", variable)
            with one_thread(tracker):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------ writing


def test_without_an_output_the_boxes_go_to_standard_output(
    clip: Path, steady: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", str(clip), "--box", BOX, "--box", "5,6,7.5,8"]) == 0
    told = capsys.readouterr()
    rows = rows_of(told.out)
    assert [(int(r["frame"]), int(r["target"])) for r in rows] == [(i, t) for i in range(10) for t in (0, 1)]
    assert [float(rows[5][k]) for k in "xywh"] == [7, 6, 7.5, 8]
    assert [r["status"] for r in rows[:6:2]] == ["given", "lost", "found"]
    assert "target 1: found 44.4 %, uncertain 0.0 %, lost 55.6 %" in told.err  # 4 and 5 of 9 frames


def test_the_rows_on_standard_output_are_those_of_the_file(
    clip: Path, steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["track", str(clip), "--box", BOX]) == 0
    printed = rows_of(capsys.readouterr().out)
    assert main(["track", str(clip), "--box", BOX, "--save-boxes", str(tmp_path / "b.csv")]) == 0
    written = rows_of((tmp_path / "b.csv").read_text())
    for rows in (printed, written):
        for row in rows:
            row.pop("milliseconds")
    assert printed == written


def test_several_targets_and_a_folder_of_pictures(clip: Path, steady: Any, tmp_path: Path) -> None:
    command = ["track", str(clip), "--box", BOX, "--box=-4,6,30,30", "--save", f"{tmp_path}/pictures/"]
    assert main([*command, "--save-boxes", str(tmp_path / "b.txt")]) == 0
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 10
    assert read_boxes(tmp_path / "b_0.txt")[9].tolist() == [39, 20, 24, 18]
    assert read_boxes(tmp_path / "b_1.txt")[9].tolist() == [5, 6, 30, 30]


def test_boxes_are_drawn(clip: Path, steady: Any, tmp_path: Path) -> None:
    assert main(["track", str(clip), "--box", BOX, "--save", str(tmp_path / "o.mp4")]) == 0
    for before, after in list(zip(frames_of(clip), frames_of(tmp_path / "o.mp4"), strict=True))[::3]:
        assert np.abs(before.astype(int) - after)[18:40, 28:70].max() > 60


def test_progress_without_a_terminal_is_a_line_now_and_then(
    clip: Path, steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepsight.cli.progress.NEWS_SECONDS", 0)
    assert main(["track", str(clip), "--box", BOX, "--save-boxes", str(tmp_path / "b.csv")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 9
    assert lines[3].startswith("4 of 9 frames")
    assert lines[3].endswith("frames/s, found 0.70")


@pytest.mark.parametrize(
    ("options", "latest", "on_error"),
    [
        ([], None, "raise"),
        (["--latest", "--skip-bad-frames"], True, "skip"),
        (["--every-frame"], False, "raise"),
    ],
)
def test_what_the_source_is_asked_for(
    options: list[str], latest: bool | None, on_error: str, clip: Path, steady: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def record(source: str, **given: Any) -> Any:
        asked.update(given)
        return open_source(source, **given)

    monkeypatch.setattr(video, "open_source", record)
    assert main(["track", str(clip), "--box", BOX, "--start", "1", "--end", "9", *options]) == 0
    assert asked == {"start": 1, "end": 9, "latest": latest, "on_error": on_error}


# ------------------------------------------------------------------------------------------ when it ends early


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_files(
    number: int, status: int, clip: Path, steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    steady(lambda: os.kill(os.getpid(), number))
    out, boxes = tmp_path / "o.mp4", tmp_path / "b.json"
    assert main(["track", str(clip), "--box", BOX, "--save", str(out), "--save-boxes", str(boxes)]) == status
    assert len(frames_of(out)) == len(json.loads(boxes.read_text())["frames"]) == 5
    assert "stopped by" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_a_signal_during_a_write_waits_for_its_end(
    clip: Path, steady: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = VideoWriter.write

    def interrupted(self: VideoWriter, image: np.ndarray) -> None:
        if self.frames == 3:
            os.kill(os.getpid(), signal.SIGINT)
        write(self, image)

    monkeypatch.setattr(VideoWriter, "write", interrupted)
    out, boxes = tmp_path / "o.mp4", tmp_path / "b.csv"
    assert main(["track", str(clip), "--box", BOX, "--save", str(out), "--save-boxes", str(boxes)]) == 130
    assert len(frames_of(out)) == len(read_boxes(boxes)) == 4


def test_ctrl_c_in_a_process_of_its_own(tmp_path: Path) -> None:
    source, out, boxes = tmp_path / "long.mp4", tmp_path / "o.mp4", tmp_path / "b.csv"
    with VideoWriter(source, quality=40) as writer:
        for i in range(1500):
            writer.write(picture(i))
    command = [sys.executable, "-m", "keepsight", "track", str(source), "--box", BOX]
    process = subprocess.Popen(
        [*command, "--save", str(out), "--save-boxes", str(boxes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if boxes.exists() and boxes.read_text().count("\n") > 4:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told, complaints = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, complaints.decode()
    assert b"stopped by SIGINT" in told
    assert b"Traceback" not in complaints
    assert 4 <= len(frames_of(out)) == len(read_boxes(boxes)) < 1500


def test_an_error_in_the_middle_leaves_everything_before_it(
    clip: Path, steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    steady(fail)
    out, boxes = tmp_path / "o.mp4", tmp_path / "b.csv"
    out.write_bytes(b"an earlier result")
    assert main(["track", str(clip), "--box", BOX, "--save", str(out), "--save-boxes", str(boxes)]) == 1
    told = capsys.readouterr().err
    assert "RuntimeError: out of memory" in told
    assert "4 frames were tracked before" in told
    assert "keepsight env" in told
    kept = tmp_path / "o.partial.mp4"
    assert str(kept) in told
    assert len(frames_of(kept)) == len(read_boxes(boxes)) == 5
    assert out.read_bytes() == b"an earlier result"


def test_a_damaged_picture_ends_it_or_is_passed_over(
    steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "frames")
    (folder / "3.png").write_bytes(b"no picture")
    cv2.imwrite(str(folder / "5.png"), picture(5, width=40))
    boxes = tmp_path / "b.txt"
    command = ["track", str(folder), "--box", BOX, "--save-boxes", str(boxes)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "frame 3" in told
    assert "--skip-bad-frames" in told
    assert len(read_boxes(boxes)) == 3
    assert main([*command, "--skip-bad-frames"]) == 0
    assert "2 bad frames passed over; the first is frame 3" in capsys.readouterr().out
    assert np.flatnonzero(np.isnan(read_boxes(boxes)[:, 0])).tolist() == [3, 5]
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes())
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "frame 5" in told
    assert "40×72" in told
    assert "--skip-bad-frames" in told


# ----------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10,20,30", "--box 10,20,30: 3 numbers; expected x,y,w,h"),
        ("10", "--box 10: 1 number; expected x,y,w,h"),
        ("1,2,3,4,5", "5 numbers"),
        ("1,2,x,4", "not four numbers"),
        ("", "expected x,y,w,h"),
    ],
)
def test_a_box_that_is_none(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_box(text)
    assert words in str(error.value)


def test_a_box_is_read() -> None:
    assert parse_box(" -1, 2.5,3e1,4") == (-1, 2.5, 30, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "500,5,10,10"], "outside the frame"),
        (["--box", "5,5,0,10"], "no area"),
        (["--box", "5,5,nan,10"], "finite"),
        (["--box", "1,2,3"], "expected x,y,w,h"),
        ([], "--box is missing"),
        (["--box", BOX, "--start", "50"], "10 frames"),
        (["--box", BOX, "--start", "5", "--end", "5"], "end 5"),
        (["--box", BOX, "--save", "{tmp}/absent/o.mp4"], "mkdir -p"),
        (["--box", BOX, "--save", "{tmp}/o.gif"], ".mp4"),
        (["--box", BOX, "--save-boxes", "{tmp}/absent/b.csv"], "mkdir -p"),
        (["--box", BOX, "--save-boxes", "{tmp}/b.xml"], ".csv"),
        (["--box", BOX, "--save", "{clip}"], "source itself"),
        (["--box", BOX, "--latest", "--every-frame"], "exclude each other"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: list[str], words: str, clip: Path, steady: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [a.format(tmp=tmp_path, clip=clip) for a in arguments]
    assert main(["track", str(clip), *given]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())  # nothing is left behind


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tracker", "dimp81"], "did you mean 'dimp18'"),
        (["--tracker", "nonsense"], "dimp-lite"),
        (["--tracker", "dimp18"], "keepsight weights convert dimp18.pth"),
        (["--weights", "absent.safetensors"], "absent.safetensors"),
        (["--device", "toaster"], "device"),
    ],
)
def test_trackers_that_cannot_be_had(
    arguments: list[str],
    words: str,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path))
    boxes = tmp_path / "b.csv"
    boxes.write_text("an earlier result")
    assert main(["track", str(clip), "--box", BOX, "--save-boxes", str(boxes), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert boxes.read_text() == "an earlier result"


def test_sources_that_cannot_be_read(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    for source, words in (
        (clip.parent / "clap.mp4", "did you mean"),
        (tmp_path / "empty", "no images"),
        (tmp_path / "text.mp4", "not a video"),
    ):
        assert main(["track", str(source), "--box", BOX]) == 2
        assert words in capsys.readouterr().err


def test_debug_shows_the_traceback(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSIGHT_DEBUG", "1")
    assert main(["track", str(clip), "--box", "1,2"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_arguments_that_do_not_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trak"]) == 2
    assert "track" in capsys.readouterr().err
    assert main(["track", "clip.mp4", "--box", BOX, "--start", "soon"]) == 2
    assert "soon" in capsys.readouterr().err
    assert main(["track", "clip.mp4", "--bxo", BOX]) == 2
    assert "--box" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- the other commands


@pytest.mark.parametrize("command", [[], ["track"], ["demo"], ["weights"], ["weights", "convert"], ["env"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    told = capsys.readouterr().out
    assert "keepsight" in told
    if command and command[0] in ("track", "demo"):
        assert f"keepsight {command[0]}" in told.split("options")[0]  # an example


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "track" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"keepsight {keepsight.__version__}\n"


def test_env_tells_versions_and_survives_what_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["env"]) == 0
    told = capsys.readouterr().out
    for part in (keepsight.__version__, torch.__version__, cv2.__version__, "libavcodec", "dimp-lite", "cores"):
        assert part in told
    monkeypatch.setitem(sys.modules, "av", None)  # as if it could not be imported
    assert main(["env"]) == 0
    told = capsys.readouterr().out
    assert "cannot be told: ModuleNotFoundError" in told
    assert torch.__version__ in told


def test_weights_info_takes_a_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", "dimp-lite"]) == 0
    said = capsys.readouterr().out
    assert "Apache-2.0" in said
    assert "recipe dimp_lite" in said


def test_weights_list_info_convert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keepsight.models.dimp import DiMPNet, network_config

    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path))
    tensors = DiMPNet(network_config("dimp18")).state_dict()
    published = tmp_path / "download.pth"
    torch.save({"net": tensors, "epoch": 50}, published)
    assert main(["weights", "info", str(published)]) == 0
    told = capsys.readouterr().out
    assert "dimp18" in told
    assert f"{len(tensors)} tensors" in told or f"tensors       {len(tensors)}" in told
    out = tmp_path / "dimp18.safetensors"
    assert main(["weights", "convert", str(published), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"wrote {out}: dimp18, from download.pth" in told
    assert main(["weights", "list"]) == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (lines["dimp-lite"], lines["dimp18"], lines["dimp50"]) == ("here", "here", "absent")
    assert main(["weights", "info", str(out)]) == 0
    assert "download.pth" in capsys.readouterr().out
    tensors.popitem()
    torch.save({"net": tensors}, published)
    assert main(["weights", "convert", str(published), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "1 missing" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
    assert main(["weights", "info", str(tmp_path / "absent.pth")]) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["eval", "--help"]])
def test_output_that_cannot_be_written(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "keepsight", *words], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"No space left on device; free some space" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs pipes as on POSIX")
def test_a_reader_of_the_help_may_stop_early() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "keepsight", "eval", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""
