"""``keepsight train``: names, settings, exit status; the loop itself is tested in tests/training."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training_job import tiny

from keepsight.cli import main
from keepsight.cli.train import clock, describe, flat
from keepsight.training import job
from keepsight.training.checkpoint import list_checkpoints, load_checkpoint
from keepsight.training.logs import Status, read_log
from keepsight.training.recipes import (
    association_recipe_names,
    debug,
    find_recipe,
    override,
    recipe_names,
    rts_lite_recipe_names,
    segmentation_recipe_names,
)
from keepsight.weights import load_weights

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def small(monkeypatch):
    """Every recipe becomes the tiny job; what was asked for is noted."""
    asked = []

    def job_of(recipe, **options):
        asked.append((recipe, options))
        return tiny(name=recipe.name)

    monkeypatch.setattr(job, "job_of", job_of)
    return asked


def train(*arguments) -> int:
    return main(["train", *map(str, arguments)])


def test_list(capsys):
    assert train("list") == 0
    kinds = (recipe_names, association_recipe_names, segmentation_recipe_names, rts_lite_recipe_names)
    listed = tuple(n for names in kinds for n in names())
    assert tuple(capsys.readouterr().out.split()) == listed


def test_unknown_names(capsys):
    assert train("dimp19") == 2
    assert "did you mean 'dimp18'" in capsys.readouterr().err
    assert train("zzz") == 2
    assert "superdimp_simple" in capsys.readouterr().err
    assert train("dimp18", "--set", "optim.lrr=1") == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
    assert train("dimp18", "--set", "optim.lr=fast") == 2
    assert "'fast'" in capsys.readouterr().err
    assert train("dimp18", "--amp", "fp61", "--debug") == 2
    assert "did you mean 'fp16'" in capsys.readouterr().err


def test_show_prints_every_value_as_set_takes_it(capsys):
    assert train("dimp50", "--set", "data.batch_size=16", "--set", "optim.lr=1e-3", "--show") == 0
    lines = [line.partition(" = ") for line in capsys.readouterr().out.splitlines()]
    values = {path: json.loads(value) for path, _, value in lines}
    assert values["name"] == "dimp50"
    assert (values["data.batch_size"], values["optim.lr"], values["data.samples_per_epoch"]) == (16, 1e-3, 26000)
    recipe = find_recipe("dimp50")
    for path in (
        "epochs",
        "optim.step_factor",
        "data.processing.search_factor",
        "optim.groups.4.lr",
        "network.backbone",
    ):
        value = values[path]
        assert dict(flat(override(recipe, [f"{path}={value}"]).to_dict()))[path] == value


def test_runs_resumes_and_reports(small, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ("dimp18", "--debug", "--out", out, "--workers", 0, "--device", "cpu", "--log-every", 1)
    assert train(*arguments, "--steps", 12, "--seed", 0, "--data-root", "/data") == 0
    recipe, options = small[0]
    assert recipe == debug(find_recipe("dimp18"))
    assert options == {"data_root": "/data", "seed": 0, "fresh": True}
    told = capsys.readouterr()
    assert f"wrote {out}/dimp18-debug.safetensors: 12 steps, lowest validation loss" in told.out
    assert "dimp18-debug: step 12 of 12, epoch 2/3, loss" in told.err
    assert train(*arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert train(*arguments, "--resume", "--quiet") == 0
    assert small[-1][1]["fresh"] is False
    assert capsys.readouterr().err == ""
    assert [r["step"] for r in read_log(out) if r["kind"] == "train"] == list(range(1, 31))
    assert load_weights(out / "dimp18-debug.safetensors").header.family == "tiny"
    assert main(["weights", "info", str(out / "dimp18-debug.safetensors")]) == 0
    assert "30 steps (3 epochs)" in capsys.readouterr().out


def test_default_folder(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("dimp18", "--steps", 1, "--workers", 0, "--device", "cpu", "--quiet") == 0
    assert (tmp_path / "runs" / "dimp18" / "dimp18.safetensors").is_file()


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="no POSIX signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(small, tmp_path, capsys, monkeypatch, number, status):
    def job_of(recipe, **options):
        made = tiny(name=recipe.name)
        made.train_mode = lambda net: os.kill(os.getpid(), number)  # arrives in the middle of the first step
        return made

    monkeypatch.setattr(job, "job_of", job_of)
    before = signal.getsignal(number)
    assert train("dimp18", "--out", tmp_path, "--workers", 0, "--device", "cpu", "--quiet") == status
    assert "stopped after step 1 of 30; the same command with --resume goes on" in capsys.readouterr().err
    assert load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1]).step == 1
    assert signal.getsignal(number) == before


def test_missing_data_and_weights_are_told(tmp_path, capsys):
    assert train("dimp18", "--data-root", tmp_path, "--set", "init=random", "--out", tmp_path / "run") == 2
    assert "lasot" in capsys.readouterr().err.lower()
    assert not (tmp_path / "run").exists()
    assert train("dimp18", "--data-root", tmp_path, "--set", "init=/no/such/file", "--out", tmp_path / "run") == 2
    assert "/no/such/file" in capsys.readouterr().err


def test_words():
    status = Status(5, 10, 1, 3, {"total": 0.12345}, 84.2, 0.031, 245.0)
    assert describe(status) == "epoch 1/3, loss 0.1235, 84.2 samples/s, 3 % waiting for data, 4:05 left"
    assert describe(Status(5, 10, 1, 3, {}, 0.0, 0.0, float("inf"), "validation")) == "epoch 1/3, validation"
    assert clock(3661) == "1:01:01"


@pytest.mark.slow
def test_debug_recipe_learns(tmp_path, capsys):
    """The real recipe on made-up video, through data workers, validation and export."""
    arguments = ("--debug", "--out", tmp_path, "--device", "cpu", "--log-every", 5, "--workers", 1)
    assert train("dimp18", *arguments) == 0, capsys.readouterr().err
    losses = [r["losses"]["total"] for r in read_log(tmp_path) if r["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    header = load_weights(tmp_path / "dimp18-debug.safetensors").header
    assert (header.family, header.preset, header.config["backbone"]) == ("dimp", "dimp18", "resnet18-narrow")


@pytest.mark.slow
def test_torchrun(tmp_path):
    """Two processes through torchrun and the command line."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "keepsight",
    ]
    command += ["train", "atom", "--debug", "--out", str(tmp_path), "--device", "cpu", "--workers", "0", "--steps", "3"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1  # the first process speaks for both
    assert read_log(tmp_path)[0]["processes"] == 2
