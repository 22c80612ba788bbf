"""``keepsight experiment``: what it is asked, what it says, exit status; the numbers are tested in tests/experiments."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from running import write_folder
from small import small_atom

from keepsight.cli import main
from keepsight.experiments import atom_convergence
from keepsight.nn.gauss_newton import SolverConfig


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "mine", {"car": 2, "dog": 2})


@pytest.fixture
def asked(monkeypatch) -> list:
    """ATOM's trackers become small ones; what was asked for is noted."""
    from keepsight.trackers import registry

    calls = []

    def load(name, *, weights=None, device="auto"):
        calls.append((name, weights, device))
        return small_atom(init_solver=SolverConfig(2, 3, preconditioner=(0.1, 1e-4)))

    monkeypatch.setattr(registry, "load", load)
    return calls


def experiment(*arguments) -> int:
    return main(["experiment", *map(str, arguments)])


def converge(data: Path, out: Path, *more) -> int:
    return experiment("atom-convergence", "--data", data, "--out", out, "--seeds", 1, "--calls", 14, *more)


def test_list(capsys):
    assert experiment("list") == 0
    assert capsys.readouterr().out.startswith("atom-convergence ")


def test_writes_and_says_what_it_measured(data, tmp_path, asked, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert converge(data, out, "--weights", "random", "--device", "cpu", "--only", "c*", "--formats", "png", "svg") == 0
    assert asked == [("atom-lite", "random", "cpu")]
    assert sorted(p.name for p in out.iterdir()) == [
        "convergence.png", "convergence.svg", "curves.csv", "mean.csv", "summary.json",
    ]  # fmt: skip
    with (out / "curves.csv").open(encoding="utf-8", newline="") as file:
        assert {row["sequence"] for row in csv.DictReader(file)} == {"car"}
    said = capsys.readouterr()
    assert "14 BackProp calls: gradient descent (momentum" in said.out
    assert "CG of the tracker" in said.err
    assert str(out / "convergence.svg") in said.err
    assert converge(data, out, "--quiet", "--formats", "png") == 0
    assert "CG of the tracker" not in capsys.readouterr().err
    assert not (out / "convergence.svg").exists()  # of the run before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--data", "/no/such/folder"), "/no/such/folder does not exist"),
        (("--only", "zebra*"), "no sequence of mine matches 'zebra*'"),
        (("--seeds", "0"), "0 seeds; expected at least 1"),
        (("--calls", "3"), "3 BackProp calls; one Gauss-Newton step alone takes 7"),
        (("--formats", "gif"), "plots cannot be written as gif"),
        (("--tracker", "dimp-lite"), "'dimp-lite' is no tracker that learns by Gauss-Newton"),
        (("--tracker", "atom-lit"), "did you mean 'atom-lite'"),
    ],
)
def test_errors(changes, said, data, tmp_path, asked, capsys):
    given = {
        "--data": str(data),
        "--out": str(tmp_path / "out"),
        "--seeds": "1",
        "--calls": "14",
        changes[0]: changes[1],
    }
    assert experiment("atom-convergence", *(word for pair in given.items() for word in pair)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "curves.csv").exists()


def test_a_folder_that_cannot_be_written(data, tmp_path, asked, capsys):
    (tmp_path / "file").write_text("")
    assert converge(data, tmp_path / "file") == 2
    assert "file cannot be made" in capsys.readouterr().err


def test_a_sequence_that_cannot_be_started_is_named_before_any_work(data, tmp_path, asked, capsys):
    (data / "dog" / "groundtruth.txt").write_text("nan,nan,nan,nan\n4,4,10,10\n")
    assert converge(data, tmp_path / "out") == 2
    assert "mine/dog: the first frame's box" in capsys.readouterr().err
    assert not (tmp_path / "out" / "curves.csv").exists()


def test_without_matplotlib_the_numbers_are_written(data, tmp_path, asked, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert converge(data, out, "--only", "car") == 2
    assert sorted(p.name for p in out.iterdir()) == ["curves.csv", "mean.csv", "summary.json"]
    said = capsys.readouterr()
    assert "14 BackProp calls" in said.out
    assert "pip install 'keepsight[report]'" in said.err
    assert "draws what was measured" in said.err


def test_ctrl_c(data, tmp_path, asked, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atom_convergence.Convergence, "_search", interrupted)
    out = tmp_path / "out"
    assert converge(data, out) == 130
    assert f"{out / 'curves.csv'} has the runs that were finished" in capsys.readouterr().err
    with (out / "curves.csv").open(encoding="utf-8", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"cg", "cg_plain"}
