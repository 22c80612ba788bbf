"""``keepsight report``: what it reads, what it writes, what it says when something does not fit."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from keepsight.cli import main
from keepsight.evaluation.runs import Run
from keepsight.evaluation.store import Key, Manifest, ResultStore

FRAMES = 30


def truth(seed: int) -> np.ndarray:
    """(FRAMES, 4) a box that drifts."""
    start = np.array([20.0 + 5 * seed, 15, 20, 16])
    return start + np.arange(FRAMES)[:, None] * np.array([1.0, 0.5, 0, 0])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sequences of one's own."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("car", "dog", "cat")):
        folder = tmp_path / "mydata" / name
        (folder / "img").mkdir(parents=True)
        np.savetxt(folder / "groundtruth.txt", truth(number), fmt="%.2f", delimiter=",")
        (folder / "attributes.txt").write_text("OCC SV" if number else "SV FM")
        for i in range(FRAMES):
            picture = rng.integers(0, 255, (80, 120, 3), dtype=np.uint8)
            assert cv2.imwrite(str(folder / "img" / f"{i + 1:05d}.jpg"), picture)
    return tmp_path / "mydata"


def fill(folder: Path, tracker: str, shift: float, frames: int | None = None) -> None:
    """Results of a tracker that is ``shift`` pixels beside the target."""
    store = ResultStore(folder)
    store.begin(Manifest(tracker, tracker, {"version": "1"}, "mydata", "ope", "", frames=frames, seed=7))
    for number, name in enumerate(("car", "dog", "cat")):
        boxes = truth(number) + np.array([shift * (number + 1), 0, 0, 0])
        boxes[0] = truth(number)[0]
        seconds = np.full(FRAMES, 0.05)
        store.write(Key(tracker, "mydata", "ope", name), Run(boxes[:frames], seconds=seconds[:frames]))


@pytest.fixture
def results(tmp_path: Path, data: Path) -> Path:
    fill(tmp_path / "results", "near", 1)
    fill(tmp_path / "results", "far", 4)
    return tmp_path / "results"


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "tables" / "scores.csv").open(encoding="utf-8") as file:
        return {row["tracker"]: row for row in csv.DictReader(file)}


def test_scores_what_is_there_and_writes_the_folder(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    given = ["report", str(results), "--data", str(data), "--out", str(out), "--compare", "near", "far", "--date", "D"]
    assert main(given) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "mydata, rule present"
    assert [line.split()[0] for line in lines[3:5]] == ["near", "far"]
    assert "near - far, Success (AUC): +" in said.out
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {"report.html", "tables/scores.csv", "tables/sequences.csv", "tables/scores.tex"} <= names
    assert {"tables/comparisons.csv", "tables/attributes.csv", "tables/attributes.tex"} <= names
    assert {f"plots/mydata-present-success.{kind}" for kind in ("pdf", "png")} <= names
    assert not [n for n in names if ".part" in n or n.startswith(".")]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2 * 3 * 6  # two trackers, three sequences, six frames
    for text in ("version 1", "<dd>D</dd>", "<dd>7</dd>"):
        assert text in page
    scored = rows(out)
    assert float(scored["near"]["AUC"]) > float(scored["far"]["AUC"])
    assert float(scored["near"]["fps"]) == pytest.approx(20)


def test_same_results_same_files(results: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    for _ in range(2):
        out = tmp_path / "out"
        given = [
            "report",
            str(results),
            "--data",
            str(data),
            "--out",
            str(out),
            "--date",
            "D",
            "--formats",
            "html",
            "pdf",
        ]
        assert main(given) == 0
        files = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        (tmp_path / "before").mkdir(exist_ok=True)
        for name, content in files.items():
            before = tmp_path / "before" / name
            assert not before.exists() or before.read_bytes() == content, name
            before.write_bytes(content)


def test_results_of_other_toolkits_stand_beside_ours(results: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "Foreign"
    other.mkdir()
    for number, name in enumerate(("car", "dog", "cat")):
        np.savetxt(other / f"{name}.txt", truth(number), fmt="%.3f", delimiter=",")
    out = tmp_path / "out"
    given = ["report", str(results), "--data", str(data), "--out", str(out), "--formats", "csv"]
    assert main([*given, "--others", f"perfect={other}", "--trackers", "near", "perfect"]) == 0
    scored = rows(out)
    assert list(scored) == ["perfect", "near"]
    assert float(scored["perfect"]["P20"]) == 1
    assert "results of another toolkit" in scored["perfect"]["note"]


def test_another_rule_and_some_sequences(results: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["report", str(results), "--data", str(data), "--out", str(out), "--formats", "csv", "txt"]
    assert main([*given, "--rule", "otb", "--only", "c*"]) == 0
    scored = rows(out)["near"]
    assert (scored["rule"], scored["sequences"]) == ("otb", "2")
    assert "'c*'" in scored["note"]
    assert (out / "tables" / "scores.txt").read_text(encoding="utf-8").startswith("mydata, rule otb\n")
    assert not (out / "report.html").exists()


def test_cut_results_are_scored_on_the_same_cut(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "results", "short", 1, frames=10)
    out = tmp_path / "out"
    given = ["report", str(tmp_path / "results"), "--data", str(data), "--out", str(out), "--formats", "csv"]
    assert main(given) == 0
    assert "only the first 10 frames" in rows(out)["short"]["note"]
    fill(tmp_path / "results", "whole", 1)
    assert main(given) == 2
    assert "cannot be compared: short: 10 frames of each sequence; whole: all frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "{data}", "--trackers", "neer"], "has no results on"),
        (["--data", "{data}", "--rule", "obt"], "there is no scoring rule 'obt'"),
        (["--data", "{data}", "--formats", "gif"], "choose from html, csv"),
        (["--data", "{data}", "--only", "zebra*"], "no sequence of mydata matches"),
        (["--data", "{data}", "--compare", "near", "nobody"], "'nobody'; give two or more of far, near"),
        (["--data", "nosuchset"], "unknown data set 'nosuchset'"),
        ([], "no data set is named"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    out = tmp_path / "out"
    given = ["report", str(results), "--out", str(out), *(m.replace("{data}", str(data)) for m in more)]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_without_results_it_says_how_to_make_some(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "none"), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "run `keepsight eval TRACKER" in capsys.readouterr().err


def test_damaged_results_are_named(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(results.rglob("car_001.txt"))
    file.write_bytes(file.read_bytes()[:-40])
    assert main(["report", str(results), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "car_001.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_annotation_that_cannot_be_read_leaves_its_sequence_out(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "dog/groundtruth.txt").write_text("1,2,3\n")
    out = tmp_path / "out"
    assert main(["report", str(results), "--data", str(data), "--out", str(out), "--formats", "csv"]) == 0
    assert "dog/groundtruth.txt, line 1 has 3 numbers" in capsys.readouterr().err
    assert "dog is left out" in rows(out)["near"]["note"]


def test_results_of_an_annotation_that_was_changed_since_are_refused(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth_file = data / "dog/groundtruth.txt"
    truth_file.write_text("\n".join(["1,2,30,40", *truth_file.read_text().splitlines()[1:]]))
    given = ["report", str(results), "--data", str(data), "--out", str(tmp_path / "out"), "--formats", "csv"]
    assert main(given) == 2
    assert "the annotation's first box is (1.0, 2.0, 30.0, 40.0) now" in capsys.readouterr().err


def test_a_sequence_that_one_tracker_lacks_is_left_out_for_all(
    results: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means over different sequences compare the sequences."""
    for file in (results / "mydata" / "ope" / "far").glob("cat_001*"):
        file.unlink()
    given = ["report", str(results), "--data", str(data), "--formats", "csv", "--out"]
    assert main([*given, str(tmp_path / "both")]) == 0
    assert "left out for all trackers because far has no result: cat" in capsys.readouterr().out
    assert main([*given, str(tmp_path / "same"), "--only", "[cd][ao][rg]"]) == 0
    assert rows(tmp_path / "both")["near"]["AUC"] == rows(tmp_path / "same")["near"]["AUC"]
    assert main([*given, str(tmp_path / "near"), "--trackers", "near"]) == 0
    assert rows(tmp_path / "near")["near"]["sequences"] == "3"
