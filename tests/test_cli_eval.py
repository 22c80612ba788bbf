"""``keepsight eval`` as a user runs it: tables, errors, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from running import files, tracker, write_folder

from keepsight.cli import main
from keepsight.cli.eval import describe, open_any
from keepsight.evaluation.run import Progress

JITTER, STILL = tracker("Jitter"), tracker("Still")
SERIAL = ("--executor", "serial", "--devices", "cpu", "--quiet")
LENGTHS = {"a": 6, "group/b": 9, "group/c": 7}


@pytest.fixture
def data(tmp_path) -> Path:
    return write_folder(tmp_path / "videos", LENGTHS)


def test_own_folder_two_trackers_and_the_table(data, tmp_path, capsys):
    status = main(
        ["eval", f"{JITTER},b={STILL}", str(data), "--results", str(tmp_path / "r"), *SERIAL, "--rule", "present"]
    )
    out, err = capsys.readouterr()
    assert status == 0
    assert "videos, rule present" in out
    assert "\nJitter " in out
    assert "\nb " in out
    assert "6 runs tracked" in err
    found = files(tmp_path / "r")
    assert set(found) == {
        f"videos/ope/{t}/{f}" for t in ("Jitter", "b") for f in ("run.json", *(f"{s}_001.txt" for s in LENGTHS))
    }
    assert main(["eval", f"{JITTER},b={STILL}", str(data), "--results", str(tmp_path / "r"), *SERIAL]) == 0
    assert "0 runs tracked" in capsys.readouterr().err


def test_failed_sequences_are_named_and_the_status_says_so(data, tmp_path, capsys):
    (data / "group/b/img/00004.png").write_bytes(b"no picture")
    (data / "group/c/img/00007.png").unlink()
    status = main(["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score"])
    out, err = capsys.readouterr()
    assert status == 2
    assert "00004.png" in err
    assert "group/c" in err
    assert "2 runs failed" in err
    assert out == ""
    assert [f for f in files(tmp_path / "r") if f.endswith(".txt")] == ["videos/ope/Still/a_001.txt"]
    write_folder(tmp_path / "again", LENGTHS)
    (data / "group/b/img/00004.png").write_bytes((tmp_path / "again/group/b/img/00004.png").read_bytes())
    (data / "group/c/img/00007.png").write_bytes((tmp_path / "again/group/c/img/00007.png").read_bytes())
    assert main(["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score"]) == 0
    assert "2 runs tracked in 0:00, 1 were there" in capsys.readouterr().err


def test_bad_annotations_are_named_and_the_rest_is_scored(data, tmp_path, capsys):
    truth = data / "group/b/groundtruth.txt"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([*lines[:4], "1,2,x,4", *lines[5:]]))
    (data / "group/c/groundtruth.txt").write_text("nan,nan,nan,nan\n" * 7)
    words = ["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--rule", "present"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "groundtruth.txt, line 5" in err
    assert "videos/group/c" in err
    assert "\nStill " in out
    assert "left out" in out


def test_a_changed_first_box_is_tracked_again(data, tmp_path, capsys):
    words = ["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score"]
    assert main(words) == 0
    truth = data / "group/b/groundtruth.txt"
    truth.write_text("\n".join(["1,2,30,40", *truth.read_text().splitlines()[1:]]))
    assert main(words) == 0
    assert "1 runs tracked in 0:00, 2 were there" in capsys.readouterr().err
    assert files(tmp_path / "r")["videos/ope/Still/group/b_001.txt"].splitlines()[2] == b"1,2,30,40"


def test_a_result_stays_when_its_annotation_is_damaged_later(data, tmp_path, capsys):
    words = ["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score"]
    assert main(words) == 0
    before = files(tmp_path / "r")
    (data / "group/b/groundtruth.txt").write_text("x")
    assert main(words) == 2
    assert "groundtruth.txt, line 1" in capsys.readouterr().err
    assert files(tmp_path / "r") == before


def test_hidden_ground_truth_is_not_scored(tmp_path, capsys):
    data = write_folder(tmp_path / "videos", {"a": 5})
    first = (data / "a/groundtruth.txt").read_text().splitlines()[0]
    (data / "a/groundtruth.txt").write_text(first + "\n")
    assert main(["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "not public" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dimp-light", "DATA"], "did you mean 'dimp-lite'"),
        (["dimp-lite", "otb10"], "did you mean 'otb100'"),
        (["dimp-lite"], "no data set is named"),
        (["dimp-lite", ""], "the name of a data set is empty"),
        (["dimp-lite", "/nowhere/videos"], "/nowhere/videos does not exist"),
        (["dimp-lite", "DATA", "--rule", "present", "--protocol", "longterm"], "--protocol ope"),
        (["dimp-lite", "DATA", "--rule", "presnt"], "did you mean 'present'"),
        (["dimp-lite", "DATA", "--only", "nothing"], "no sequence of videos matches 'nothing'"),
        (["dimp-lite", "DATA", "--devices", "tpu"], "device 'tpu' cannot be used"),
        (["opencv:KCF", "DATA", "--python", "/nowhere"], "no interpreter '/nowhere'"),
        ([STILL, "DATA", "--export", "pdf"], "no such result format; known names: davis"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_way_out(data, tmp_path, capsys, words, message):
    words = [str(data) if w == "DATA" else w for w in words]
    assert (
        main(["eval", *words, "--results", str(tmp_path / "r"), *(w for w in SERIAL if "--devices" not in words)][:99])
        == 2
    )
    assert message in capsys.readouterr().err


def test_other_settings_are_refused_until_overwritten(data, tmp_path, capsys):
    words = ["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score"]
    assert main(words) == 0
    assert main([*words, "--frames", "3"]) == 2
    assert "frames: None there, 3 now" in capsys.readouterr().err
    assert main([*words, "--frames", "3", "--overwrite"]) == 0


def test_export_writes_an_official_format(data, tmp_path, capsys):
    status = main(
        ["eval", STILL, str(data), "--results", str(tmp_path / "r"), *SERIAL, "--no-score", "--export", "pytracking"]
    )
    out, _ = capsys.readouterr()
    assert status == 0, out
    assert "wrote" in out
    assert list((tmp_path / "r/export").rglob("*.txt"))


def test_a_folder_that_is_called_like_a_data_set(tmp_path):
    dataset = open_any(str(write_folder(tmp_path / "otb100", {"x": 2})) + "/")
    assert dataset.name == "my-otb100"
    assert dataset["x"].dataset == "my-otb100"


def test_progress_in_words():
    words = describe(Progress(3, 10, 1, 500, 3700.0, ("dimp-lite David", "dimp-lite Girl", "dimp-lite Man")), 10)
    assert words == "50 frames/s, 1:01:40 left, 1 failed, dimp-lite David, dimp-lite Girl"
    assert describe(Progress(0, 10, 0, 0, None, note="waiting for process 5"), 10) == "waiting for process 5"


# --- kills --------------------------------------------------------------------------------------------------------------


def start(data: Path, results: Path, *words: str, sleep: float = 0.02) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "keepsight",
        "eval",
        JITTER,
        str(data),
        "--results",
        str(results),
        "--devices",
        "cpu",
    ]
    source = str(Path(__file__).resolve().parents[1] / "src")
    environment = {**os.environ, "RUNNING_SLEEP": str(sleep), "PYTHONPATH": source}
    return subprocess.Popen(
        [*command, "--no-score", *words], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for_results(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.rglob("*_001.txt"))) < count:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "no results in time"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_twice_it_ends_with_the_same_files(tmp_path):
    data = write_folder(tmp_path / "videos", {f"s{i}": 8 + i for i in range(10)})
    for count in (2, 5):
        process = start(data, tmp_path / "killed", "--processes", "2")
        wait_for_results(tmp_path / "killed", count, process)
        workers = children(process.pid)
        process.kill()
        process.wait()
        if os.path.exists("/proc/self/stat"):
            deadline = time.monotonic() + 10
            while any(map(alive, workers)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not any(map(alive, workers)), "workers outlive the program that was killed"
    before = files(tmp_path / "killed")
    assert 5 <= sum(f.endswith(".txt") for f in before) < 10
    words = ["eval", JITTER, str(data), "--no-score", "--results"]
    assert main([*words, str(tmp_path / "killed"), *SERIAL]) == 0
    assert main([*words, str(tmp_path / "whole"), *SERIAL]) == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert sum(f.endswith("_001.txt") for f in files(tmp_path / "whole")) == 10


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_sigterm_stops_soon_and_says_what_is_kept(tmp_path):
    data = write_folder(tmp_path / "videos", {f"s{i}": 50 for i in range(4)})
    process = start(data, tmp_path / "r", "--processes", "1", sleep=0.03)
    wait_for_results(tmp_path / "r", 1, process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - asked < 10
    assert process.returncode == 143
    assert b"goes on from there" in err
    assert b"before the first frame" not in err
    assert not list((tmp_path / "r").rglob(".locks"))


# --- OpenCV's trackers --------------------------------------------------------------------------------------------------


def test_opencv_in_another_interpreter(data, tmp_path, capsys):
    """With this interpreter as the other one: MIL is in every OpenCV."""
    if not hasattr(cv2, "TrackerMIL"):
        pytest.skip("this OpenCV has no MIL")
    words = ["opencv:MIL", str(data), "--only", "a", "--python", sys.executable, "--rule", "present"]
    assert main(["eval", *words, "--results", str(tmp_path / "r"), *SERIAL]) == 0
    assert "opencv-MIL" in capsys.readouterr().out
