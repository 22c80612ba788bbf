"""``keepsight calibrate``: from results to a calibration that ``keepsight track`` uses; and what it says when it cannot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small import matcher_file

import keepsight as ks
from keepsight.cli import main
from keepsight.evaluation.runs import Run
from keepsight.evaluation.store import Key, Manifest, ResultStore
from keepsight.online.presence import LogisticMap, read_calibration
from keepsight.trackers.registry import RANDOM
from keepsight.weights import find_weights

FRAMES = 60
GONE = {"car": range(20, 40), "dog": range(45, 60), "cat": range(10, 30), "owl": range(0)}


def truth(name: str) -> np.ndarray:
    """(FRAMES, 4) a box that drifts and, ``owl``'s aside, is absent for a while."""
    boxes = np.array([4.0, 5, 10, 8]) + np.arange(FRAMES)[:, None] * np.array([0.2, 0.1, 0, 0])
    boxes[list(GONE[name])] = np.nan
    return boxes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sequences of one's own."""
    root = tmp_path_factory.mktemp("data") / "mydata"
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    for name in GONE:
        (root / name / "img").mkdir(parents=True)
        np.savetxt(root / name / "groundtruth.txt", truth(name), fmt="%.2f", delimiter=",")
        for i in range(FRAMES):
            assert cv2.imwrite(str(root / name / "img" / f"{i + 1:05d}.png"), picture)
    return root


def fill(
    folder: Path,
    tracker: str = "dimp-lite",
    spec: str = "dimp-lite@random",
    only: tuple[str, ...] = tuple(GONE),
    presence: bool = True,
    frames: int | None = None,
    weights: str = RANDOM,
    dataset: str = "mydata",
) -> Path:
    """Results of a tracker that is far too sure of itself, and knows something."""
    store = ResultStore(folder)
    identity = {"weights_sha256": weights, "code_sha256": "cafe"}
    store.begin(Manifest(tracker, spec, identity, dataset, "ope", "", frames=frames, seed=7))
    for seed, name in enumerate(only):
        boxes = truth(name)
        away = np.isnan(boxes[:, 0])
        boxes[away] = (1, 1, 10, 8)
        score = np.where(away, -1.0, 1.0) + np.random.default_rng(seed).normal(0, 1.2, FRAMES)
        said = 1 / (1 + np.exp(-(0.5 + 4 * score)))
        said[0] = np.nan
        run = Run(boxes[:frames], presence=said[:frames] if presence else None)
        store.write(Key(tracker, dataset, "ope", name), run)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_fits_judges_and_writes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    given = ["calibrate", "dimp-lite", "--data", str(data), "--results", str(fill(tmp_path / "r")), "--out", str(out)]
    assert main(given) == 0
    said = capsys.readouterr()
    assert (
        "dimp-lite, event in view: 3 sequences with 177 frames, 55 of them without it; 1 sequences always with it"
        in said.out
    )
    assert "less log loss than the tracker's own presence on 3 of 3 and" in said.out
    assert "not worth using" not in said.out
    assert "in 3 sequences only" in said.out
    tables = {"calibration.json", "summary.csv", "folds.csv", "reliability.csv", "roc.csv"}
    plots = {f"{name}.{kind}" for name in ("reliability", "roc") for kind in ("pdf", "png")}
    assert {p.name for p in out.iterdir()} == tables | plots
    picture = cv2.imread(str(out / "reliability.png"))
    assert picture is not None
    assert len(np.unique(picture)) > 20

    made = read_calibration(out / "calibration.json")
    assert (made.tracker, made.event, made.weights_sha256) == ("dimp-lite", "in-view", RANDOM)
    assert made.share == pytest.approx(np.mean([39 / 59, 44 / 59, 39 / 59]))
    assert made.provenance["frames"] == 177
    assert made.provenance["data"] == ["mydata"]
    assert made.provenance["seed"] == 7
    assert made.provenance["sequences"]["mydata/car"] == {"frames": 59, "without_the_event": 20}
    assert made.provenance["results"]["code_sha256"] == "cafe"

    summary = {(row["sequences"], row["method"]): row for row in rows(out / "summary.csv")}
    assert {name for name, _ in summary} == {"event fails somewhere", "event always holds", "all"}
    row = summary["event fails somewhere", "logistic"]
    assert float(row["ece"]) < float(summary["event fails somewhere", "own"]["ece"])
    assert float(row["brier_low"]) <= float(row["brier"]) <= float(row["brier_high"])
    assert float(row["log_loss"]) == made.provenance["held_out"]["logistic"]["log_loss"]
    assert summary["event always holds", "own"]["auc"] == ""
    assert float(summary["all", "own"]["for_share"]) == pytest.approx((3 * made.share + 1) / 4, abs=1e-6)
    folds = rows(out / "folds.csv")
    assert {(row["sequence"], row["fold"]) for row in folds} == {
        ("mydata/car", "0"),
        ("mydata/cat", "1"),
        ("mydata/dog", "2"),
        ("mydata/owl", ""),
    }
    assert sum(int(row["frames"]) for row in rows(out / "reliability.csv") if row["method"] == "own") == 2 * 4 * 59
    assert rows(out / "roc.csv")[0] == {
        "method": "own",
        "false_positive_rate": "0.0",
        "true_positive_rate": "0.0",
        "threshold": "inf",
    }


def run(data: Path, results: Path, out: Path, *more: str) -> int:
    command = ["calibrate", "dimp-lite", "--data", str(data), "--results", str(results), "--out", str(out)]
    return main([*command, *(() if "--formats" in more else ("--formats",)), *more])


def test_equal_results_equal_files(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = fill(tmp_path / "r")
    made = []
    for _ in range(2):
        assert run(data, results, tmp_path / "out", "--formats", "png", "pdf") == 0
        made.append({p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()})
    assert made[0] == made[1]


def test_method_event_and_share(data: Path, tmp_path: Path) -> None:
    results = fill(tmp_path / "r")
    assert run(data, results, tmp_path / "a", "--method", "logistic", "--event", "on-target") == 0
    first = read_calibration(tmp_path / "a" / "calibration.json")
    assert isinstance(first.map, LogisticMap)
    assert first.event == "on-target"
    assert run(data, results, tmp_path / "b", "--method", "logistic", "--event", "on-target", "--share", "0.95") == 0
    assert read_calibration(tmp_path / "b" / "calibration.json").map == first.with_share(0.95).map
    assert run(data, results, tmp_path / "c", "--method", "isotonic", "--only", "[cd]*", "--folds", "2") == 0
    assert json.loads((tmp_path / "c" / "calibration.json").read_text())["map"]["kind"] == "isotonic"
    assert {row["fold"] for row in rows(tmp_path / "c" / "folds.csv")} == {"0", "1"}


def test_results_under_another_name_are_their_trackers(data: Path, tmp_path: Path) -> None:
    results = fill(tmp_path / "r", tracker="mine")
    out = tmp_path / "out"
    assert (
        main(["calibrate", "mine", "--data", str(data), "--results", str(results), "--out", str(out), "--formats"]) == 0
    )
    assert read_calibration(out / "calibration.json").tracker == "dimp-lite"
    fill(tmp_path / "r", tracker="theirs", spec="opencv:Nano@there")
    assert (
        main(["calibrate", "theirs", "--data", str(data), "--results", str(results), "--out", str(out), "--formats"])
        == 0
    )
    assert read_calibration(out / "calibration.json").tracker == "theirs"


def test_what_cannot_be_calibrated(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(results: Path, *more: str) -> str:
        assert run(data, results, tmp_path / "out", *more) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    none = tmp_path / "none"
    assert f"run `keepsight eval dimp-lite {data} --results {none}` first" in says(none)
    fill(tmp_path / "other", tracker="kcf", spec="opencv:KCF")
    assert "has no results of dimp-lite on mydata (there are results of kcf); run" in says(tmp_path / "other")
    assert "have no confidence in any of 236 annotated frames" in says(fill(tmp_path / "mute", presence=False))
    assert "at least two sequences; of these 1 none does" in says(fill(tmp_path / "seen", only=("owl",)))
    assert "of these 2 only mydata/car does" in says(fill(tmp_path / "one", only=("car", "owl")))
    results = fill(tmp_path / "r")
    assert "--method spline: " in says(results, "--method", "spline")
    assert "--event gone: " in says(results, "--event", "gone")
    assert "folds is 9; expected 2 to 3" in says(results, "--folds", "9")
    assert "share is 2" in says(results, "--share", "2")
    assert "choose from pdf, png, svg" in says(results, "--formats", "gif")
    assert "matches 'zebra'" in says(results, "--only", "zebra")
    assert main(["calibrate", "dimp-lite"]) == 2
    assert "no data set is named" in capsys.readouterr().err


def test_left_out_frames_and_sequences_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, fill(tmp_path / "r", only=("car", "dog")), tmp_path / "out") == 0
    assert "2 of 4 sequences of mydata have no result" in capsys.readouterr().err
    assert run(data, fill(tmp_path / "cut", frames=50), tmp_path / "out") == 0
    assert "3 sequences with 147 frames" in capsys.readouterr().out


def test_a_tracker_that_gains_nothing_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Always 0.7, which is about how often the target is there."""
    results = fill(tmp_path / "r")
    store = ResultStore(results)
    for name in GONE:
        key = Key("dimp-lite", "mydata", "ope", name)
        run_of = store.read(key)
        store.write(key, Run(run_of.boxes, presence=np.full(FRAMES, 0.7)))
    assert run(data, results, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "the confidences never change within a sequence" in said
    assert "not worth using" in said


def test_tracking_with_a_calibration(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, fill(tmp_path / "r"), tmp_path / "out") == 0
    capsys.readouterr()
    calibration = tmp_path / "out" / "calibration.json"
    track = ["track", str(data / "owl" / "img"), "--box", "4,5,10,8", "--end", "3", "--weights", "random"]
    track += ["--calibration", str(calibration)]
    assert main(track) == 0
    printed = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    made = read_calibration(calibration)
    assert printed[0]["presence_probability"] == "1.0"
    for row in printed[1:]:
        assert float(row["presence_probability"]) == made(float(row["presence"]))
    for kind in ("csv", "json"):
        assert main([*track, "--save-boxes", str(tmp_path / f"b.{kind}")]) == 0
    written = rows(tmp_path / "b.csv")
    again = json.loads((tmp_path / "b.json").read_text())["frames"]
    for a, b, c in zip(printed, written, again, strict=True):
        assert a["presence_probability"] == b["presence_probability"] == str(c["presence_probability"])
    assert main([*track, "--tracker", "atom-lite"]) == 2
    assert "fitted to dimp-lite, and this is atom-lite" in capsys.readouterr().err
    plain = track[: track.index("--calibration")]
    assert main(plain) == 0
    assert "presence_probability" not in capsys.readouterr().out


def test_the_packaged_one(data: Path) -> None:
    tracker = ks.load("dimp-lite", device="cpu", calibration="default")
    frame = cv2.imread(str(data / "owl" / "img" / "00001.png"))[..., ::-1]
    tracker.init(frame, box=(4, 5, 10, 8))
    result = tracker.update(frame)
    assert result.presence_probability is not None
    assert result.presence_probability > 0.9


def test_eval_calibrate_and_track_with_two_networks(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results, calibration and tracker name the same weights; another second network is other weights for all of them."""
    matcher, results = matcher_file(tmp_path / "weights" / "keeptrack-lite.safetensors"), tmp_path / "results"
    name = f"keeptrack-lite={matcher}"
    given = ("--results", str(results), "--only", "c*")
    track = ["eval", name, str(data), *given, "--frames", "24", "--executor", "serial", "--no-score"]
    assert main([*track, "--devices", "cpu", "--quiet"]) == 0
    assert "2 runs tracked" in capsys.readouterr().err
    assert main([*track, "--devices", "cpu", "--quiet"]) == 0
    assert "0 runs tracked" in capsys.readouterr().err

    fit = ["calibrate", "keeptrack-lite", "--data", str(data), *given, "--out", str(tmp_path / "out"), "--formats"]
    assert main(fit) == 0
    made = read_calibration(tmp_path / "out" / "calibration.json")
    for weights in (matcher, [matcher], [matcher, find_weights("dimp-lite")]):
        loaded = ks.load("keeptrack-lite", weights=weights, device="cpu", calibration=made)
        assert loaded.calibration == made

    matcher_file(matcher, seed=1)
    capsys.readouterr()
    assert main([*track, "--devices", "cpu", "--quiet"]) == 2
    assert "weights_sha256" in capsys.readouterr().err
    for weights in (None, matcher):
        with pytest.raises(ks.InputError, match=f"with the weights {made.weights_sha256}, and these are"):
            ks.load("keeptrack-lite", weights=weights, device="cpu", calibration=made)
