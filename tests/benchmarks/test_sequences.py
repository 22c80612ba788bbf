"""The sequence benchmark on two tiny sequences of its own: reading, caching, rules and tables."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sequences.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as when the script is run
    spec = importlib.util.spec_from_file_location("sequences_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path) -> Path:
    """Two sequences of a textured square that moves 2 pixels a frame; absent in the last frame of the second."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    background = cv2.resize(rng.integers(0, 80, (12, 16, 3), dtype=np.uint8), (128, 96))
    for name in ("one", "two"):
        folder = tmp_path / "data" / "made" / name
        (folder / "img").mkdir(parents=True)
        lines = []
        for i in range(6):
            frame, x = background.copy(), 20 + 2 * i
            frame[30:54, x : x + 24] = texture
            cv2.imwrite(str(folder / "img" / f"{i + 1:05d}.jpg"), frame)
            lines.append("nan,nan,nan,nan" if name == "two" and i == 5 else f"{x},30,24,24")
        (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def run(bench, monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/sequences.py", *words])
    bench.main()


def test_rules_cache_and_tables(bench, data, tmp_path, monkeypatch, capsys):
    started = []

    def start(name, nano, frame, box):
        """Follows the square for three frames, then stays and says it is lost."""
        started.append((frame.shape, box.tolist()))
        answers = iter([(22, False, 0.9), (24, False, 0.9), (26, False, 0.9), (26, True, 0.2), (26, True, 0.1)])

        def update(frame):
            x, lost, presence = next(answers)
            return (x, 30, 24, 24), lost, presence

        return update, 3.0

    monkeypatch.setattr(bench, "start_opencv", start)
    words = ("--data", str(data), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out" / "table"))
    run(bench, monkeypatch, *words, "--trackers", "opencv:Fake")
    assert started == [((96, 128, 3), [20.0, 30.0, 24.0, 24.0])] * 2

    rows = {r["sequence"]: r for r in csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())}
    # frames 2-4 overlap fully; frame 5 by 22/26 = 0.846 (17 thresholds), frame 6 by 20/28 = 0.714 (15) where it counts
    assert float(rows["made/one"]["auc"]) == pytest.approx((3 * 20 + 17 + 15) / 21 / 5, abs=1e-5)
    assert float(rows["made/two"]["auc"]) == pytest.approx((3 * 20 + 17) / 21 / 4, abs=1e-5)
    assert rows["made/two"]["absent_frames"] == "1"
    everything = json.loads((tmp_path / "out" / "table.json").read_text())
    summary = everything["summary"][0]
    assert summary["mean_auc"] == pytest.approx((92 / 21 / 5 + 77 / 21 / 4) / 2)
    assert summary["lost_when_absent"] == 1.0
    assert summary["lost_when_present"] == pytest.approx(3 / 9)
    assert summary["presence_when_absent"] == pytest.approx(0.1)
    assert {"command", "date", "commit", "cpu", "seed", "data"} <= set(everything["run"])
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| made/one | 6 | 0 | 0.876 |" in text
    assert text in capsys.readouterr().out

    run(bench, monkeypatch, *words, "--trackers", "opencv:Fake")
    assert len(started) == 2, "a second run takes everything from the cache"
    run(bench, monkeypatch, *words, "--trackers", "opencv:Fake", "--only", "*/two", "--frames", "4")
    assert len(started) == 3, "another number of frames is another result"
    monkeypatch.setattr(bench.cv2, "setNumThreads", lambda n: None)
    run(bench, monkeypatch, *words, "--trackers", "opencv:Fake", "--threads", "2")
    assert len(started) == 5, "another number of threads is another result"


def test_keepsight_gets_rgb_and_the_given_weights(bench, data, monkeypatch):
    """Frames are RGB from the first one on, boxes plain floats; name@weights is split."""
    calls = []

    class Tracker:
        def init(self, frame, box):
            calls.append(("init", frame[0, 0].tolist(), box))

        def update(self, frame):
            calls.append(("update", frame[0, 0].tolist()))
            return types.SimpleNamespace(box=(1, 2, 3, 4), status="lost", presence=0.1)

    def load(name, **options):
        calls.append((name, options))
        return Tracker()

    monkeypatch.setitem(sys.modules, "keepsight", types.SimpleNamespace(load=load))
    sequence = bench.read_sequences(data, "made/one", 2)[0]
    monkeypatch.setattr(bench.Sequence, "frames", lambda self: iter([np.full((4, 4, 3), (1, 2, 3), np.uint8)] * 2))
    args = argparse.Namespace(seed=7, device="cpu")
    record = bench.track("keepsight:dimp18@random", sequence, args)
    assert calls == [
        ("dimp18", {"weights": "random", "device": "cpu", "seed": 7}),
        ("init", [3, 2, 1], (20.0, 30.0, 24.0, 24.0)),
        ("update", [3, 2, 1]),
    ]
    assert (record["boxes"], record["lost"], record["presence"]) == ([(1.0, 2.0, 3.0, 4.0)], [True], [0.1])


def test_opencv_in_another_interpreter(data, tmp_path):
    """MIL is in every OpenCV wheel; the interpreter is this one, started afresh."""
    words = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--trackers", "opencv:MIL", "--only", "made/one"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--frames", "3", "--opencv-python", sys.executable],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "| opencv:MIL |" in done.stdout
    record = json.loads(next((tmp_path / "cache").rglob("*.json")).read_text())
    assert len(record["boxes"]) == 2
    assert record["depends"]["opencv"] == cv2.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trackers", "opencv:Nothing"], "has no tracker 'Nothing'"),
        (["--trackers", "CSRT"], "neither keepsight:NAME nor opencv:NAME"),
        (["--only", "x/*"], "matches 'x/*'"),
        (["--trackers", "opencv:Nano"], "--nano FOLDER"),
    ],
)
def test_what_cannot_be_asked_for(bench, data, tmp_path, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        run(bench, monkeypatch, "--data", str(data), "--cache", str(tmp_path), "--out", str(tmp_path / "o"), *words)
    assert message in str(error.value) + capsys.readouterr().err


def test_a_frame_that_is_missing_is_named(bench, data, tmp_path, monkeypatch):
    (data / "made" / "one" / "img" / "00006.jpg").unlink()
    sequence = bench.read_sequences(data, "made/one", None)[0]
    with pytest.raises(SystemExit, match="frame 6 of 6"):
        list(sequence.frames())
