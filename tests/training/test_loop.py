"""The loop: exact resume, equal processes, honest stops. Everything runs a network of a few hundred weights."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import training_job
from safetensors import safe_open
from training_job import tiny

from keepsight.errors import InputError, WeightsError
from keepsight.training.checkpoint import list_checkpoints, load_checkpoint
from keepsight.training.data import TrainingError
from keepsight.training.job import LoopConfig
from keepsight.training.logs import RunLog, read_log
from keepsight.training.loop import train
from keepsight.weights import load_weights

PROGRAM = Path(__file__).resolve().parent.parent / "training_job.py"
SOURCE = Path(__file__).resolve().parents[2] / "src"
DDP_TOLERANCE = 2e-6
"""Largest difference of a weight (of size about 0.1 to 1) after 50 steps; measured 1.2e-7 with 2 and 4 processes."""


def config(out, **changes) -> LoopConfig:
    return replace(LoopConfig(out=str(out), device="cpu", workers=0, log_every=1, tensorboard=False), **changes)


def run(out, *, ranks=1, timeout=60, **settings) -> list[SimpleNamespace]:
    """``training_job.py`` in ``ranks`` processes of their own (forked: torch is imported already), as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings["config"] = {"workers": 0, **settings.get("config", {})}
    torchrun = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = {}
    for rank in range(ranks):
        told = Path(f"{out}-process-{rank}.txt")
        pid = os.fork()
        if pid == 0:
            _child(
                told,
                {**torchrun, "RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {},
                str(out),
                json.dumps(settings),
            )
        started[pid] = told
    return [SimpleNamespace(returncode=_wait(pid, timeout), stderr=told.read_text()) for pid, told in started.items()]


def _child(told, environment, *arguments) -> None:
    """Never returns."""
    code = 1
    try:
        os.environ.update({k: str(v) for k, v in environment.items()})
        handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        code = training_job.main(*arguments)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _wait(pid, timeout) -> int:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a run did not end in {timeout} s")


def end_of(folder):
    return load_checkpoint(list_checkpoints(Path(folder) / "checkpoints")[-1])


def same(a, b, tolerance=0.0) -> float:
    """Largest difference of the weights and of the optimiser's state."""
    assert (a.step, a.model.keys(), a.optimiser.keys()) == (b.step, b.model.keys(), b.optimiser.keys())
    pairs = [(a.model[n], b.model[n]) for n in a.model]
    pairs += [(a.optimiser[n][k], b.optimiser[n][k]) for n in a.optimiser for k in a.optimiser[n]]
    worst = max(float((x.double() - y.double()).abs().max()) for x, y in pairs)
    assert worst <= tolerance
    return worst


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny(), config(folder))


# --- exact resume --------------------------------------------------------------------------------------------------------


def test_killed_and_resumed_equals_never_killed(whole, tmp_path):
    settings = {"workers": 1, "checkpoint_steps": 4}
    command = [sys.executable, str(PROGRAM), str(tmp_path), json.dumps({"config": settings, "kill_at": 17})]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    # its pipes close only when its workers have ended too
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert end_of(tmp_path).step == 16  # in the middle of the second epoch
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "train"] == list(range(1, 18))
    train(tiny(), config(tmp_path, **settings, resume=True))
    same(end_of(tmp_path), end_of(whole.folder))
    a, b = (load_weights(f / "tiny.safetensors").tensors for f in (tmp_path, whole.folder))
    assert all(torch.equal(a[n], b[n]) for n in a)
    records = [r for r in read_log(tmp_path) if r["kind"] == "train"]
    assert [r["step"] for r in records] == list(range(1, 31))  # what was done twice stands once
    there = [r for r in read_log(whole.folder) if r["kind"] == "train"]
    assert [r["losses"] for r in records] == [r["losses"] for r in there]


def test_sigterm_writes_a_checkpoint_and_resumes(whole, tmp_path):
    (stopped,) = run(tmp_path, signal_at=13)
    assert stopped.returncode == 143
    assert end_of(tmp_path).step == 13
    assert read_log(tmp_path)[-1] == {**read_log(tmp_path)[-1], "kind": "stop", "signal": 15, "step": 13}
    assert not (tmp_path / "tiny.safetensors").exists()
    train(tiny(), config(tmp_path, resume=True))
    same(end_of(tmp_path), end_of(whole.folder))


@pytest.mark.parametrize("stop_at", [0, 1, 10, 20, 29])
def test_stop_anywhere(whole, tmp_path, stop_at):
    seen = []

    def stop():
        return signal.SIGINT if len(seen) >= stop_at else 0

    outcome = train(tiny(), config(tmp_path), stop=stop, progress=lambda s: seen.append(s) if not s.note else None)
    assert (outcome.step, outcome.stopped_by, outcome.weights) == (stop_at, signal.SIGINT, None)
    outcome = train(tiny(), config(tmp_path, resume=True))
    assert outcome.step == 30
    same(end_of(tmp_path), end_of(whole.folder))
    assert outcome.best == whole.best
    validations = [[r for r in read_log(f) if r["kind"] == "validation"] for f in (tmp_path, whole.folder)]
    assert validations[0] == validations[1]


def test_a_signal_in_validation_validates_again(whole, tmp_path):
    noted = []
    outcome = train(
        tiny(), config(tmp_path), stop=lambda: signal.SIGTERM if noted else 0,
        progress=lambda s: noted.append(s) if s.note else None,
    )  # fmt: skip
    assert outcome.step == 10
    assert end_of(tmp_path).counters["validated"] == 0
    train(tiny(), config(tmp_path, resume=True))
    same(end_of(tmp_path), end_of(whole.folder))
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "validation"] == [10, 20, 30]


@pytest.mark.parametrize("steps", [14, 20])
def test_steps_in_two_runs(whole, tmp_path, steps):
    first = train(tiny(), config(tmp_path, steps=steps))
    assert first.step == steps
    assert first.weights is not None
    train(tiny(), config(tmp_path, resume=True))
    same(end_of(tmp_path), end_of(whole.folder))
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "validation"] == [10, 20, 30]  # each once


def test_resume_without_a_run_starts(tmp_path):
    assert train(tiny(), config(tmp_path, resume=True, steps=2)).step == 2


def test_workers_change_nothing(whole, tmp_path):
    train(tiny(), config(tmp_path, workers=2))
    same(end_of(tmp_path), end_of(whole.folder))


def test_learning_norms_resume_too(tmp_path):
    train(tiny(learn_norm=True), config(tmp_path / "a"))
    train(tiny(learn_norm=True), config(tmp_path / "b", steps=13))
    train(tiny(learn_norm=True), config(tmp_path / "b", resume=True))
    same(end_of(tmp_path / "a"), end_of(tmp_path / "b"))


def test_other_settings_are_refused(whole, tmp_path):
    train(tiny(), config(tmp_path, steps=3))
    with pytest.raises(InputError, match=r"holds a run .*--resume"):
        train(tiny(), config(tmp_path))
    with pytest.raises(WeightsError, match=r"recipe.lr: 0.01 -> 0.02"):
        train(tiny(lr=0.02), config(tmp_path, resume=True))
    with pytest.raises(WeightsError, match=r"seed: 0 -> 1"):
        train(tiny(), config(tmp_path, resume=True, seed=1))
    with pytest.raises(WeightsError, match=r"recipe 'tiny', this run is 'other'"):
        train(tiny(name="other"), config(tmp_path, resume=True))
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="is damaged"):
        train(tiny(), config(tmp_path, resume=True))


# --- processes, accumulation, precision ----------------------------------------------------------------------------------


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path):
    job = {"dropout": 0.0, "batch": 8, "samples": 200, "epochs": 2}
    for done in run(tmp_path / "two", ranks=2, job=job):
        assert done.returncode == 0, done.stderr
    train(tiny(**job), config(tmp_path / "one"))
    one, two = end_of(tmp_path / "one"), end_of(tmp_path / "two")
    assert one.step == 50
    worst = same(one, two, DDP_TOLERANCE)
    assert worst > 0  # the sums were really made in another order
    a, b = ([r for r in read_log(tmp_path / f) if r["kind"] == "validation"][-1]["losses"] for f in ("one", "two"))
    assert a["total"] == pytest.approx(b["total"], rel=1e-5)
    start = tiny(**job).net.state_dict()
    assert float((one.model["head.2.weight"] - start["head.2.weight"]).abs().max()) > 1000 * DDP_TOLERANCE


def test_two_processes_stop_together_and_resume_exactly(tmp_path):
    job = {"learn_norm": True}
    for done in run(tmp_path / "whole", ranks=2, job=job):
        assert done.returncode == 0, done.stderr
    stopped = run(tmp_path / "cut", ranks=2, job=job, signal_at=13)  # the first process gets it, both stop
    assert [s.returncode for s in stopped] == [143, 143]
    assert end_of(tmp_path / "cut").step == 13
    for done in run(tmp_path / "cut", ranks=2, job=job, config={"resume": True}):
        assert done.returncode == 0, done.stderr
    same(end_of(tmp_path / "whole"), end_of(tmp_path / "cut"))
    assert end_of(tmp_path / "whole").best == end_of(tmp_path / "cut").best  # by running statistics, equal in both


def test_accumulation_equals_a_larger_batch(tmp_path):
    job = {"dropout": 0.0, "epochs": 2}
    train(tiny(**job), config(tmp_path / "one"))
    train(tiny(**job), config(tmp_path / "four", accumulate=4))
    same(end_of(tmp_path / "one"), end_of(tmp_path / "four"), DDP_TOLERANCE)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast(whole, tmp_path, amp):
    outcome = train(tiny(), config(tmp_path / "whole", amp=amp))
    records = [r for r in read_log(tmp_path / "whole") if r["kind"] == "train"]
    mean = np.mean([r["losses"]["total"] for r in records[-5:]])
    assert mean < 0.5 * records[0]["losses"]["total"]
    assert outcome.best == pytest.approx(whole.best, rel=0.2)
    assert outcome.best != whole.best
    assert all(
        t.dtype == torch.float32 for t in load_weights(outcome.weights).tensors.values() if t.is_floating_point()
    )
    train(tiny(), config(tmp_path / "cut", amp=amp, steps=13))
    train(tiny(), config(tmp_path / "cut", amp=amp, resume=True))
    same(end_of(tmp_path / "whole"), end_of(tmp_path / "cut"))
    assert end_of(tmp_path / "cut").scaler == end_of(tmp_path / "whole").scaler
    assert bool(end_of(tmp_path / "cut").scaler) == (amp == "fp16")


# --- what goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("job", "words"), [
    ({"process": {"nan_share": 0.01}}, "the loss is not finite"),
    ({"loss": "overflowing"}, "gradient's norm is"),
])  # fmt: skip
def test_no_number_stops_and_keeps_the_batch(tmp_path, job, words):
    with pytest.raises(
        TrainingError, match=rf"(?s)step \d+, epoch \d.*{words}.*No weight was changed by it.*safetensors"
    ) as caught:
        train(tiny(validate=False, **job), config(tmp_path, checkpoint_steps=1))
    (path,) = tmp_path.glob("nan-step-*.safetensors")
    assert str(path) in str(caught.value)
    step = int(path.name.split("-")[2])
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["keepsight.batch"])
        images = file.get_tensor("0.test_images")
    assert images.shape == (1, 8, 3, 8, 8)
    assert len(told["identities"]) == 8
    assert all(name.startswith("squares/") and name in str(caught.value) for name in told["identities"])
    assert bool(torch.isnan(images).any()) == ("process" in job)
    assert read_log(tmp_path)[-1]["kind"] == "error"
    if step:  # the newest checkpoint is of the moment before
        assert end_of(tmp_path).step == step
        assert all(bool(torch.isfinite(t).all()) for t in end_of(tmp_path).model.values())


def test_no_number_in_one_process_stops_both(tmp_path):
    done = run(tmp_path, ranks=2, job={"process": {"nan_share": 0.02}, "validate": False})
    assert [d.returncode for d in done] == [1, 1]
    told = [d.stderr.strip().splitlines()[-1] for d in done]
    assert sum("the loss is not finite" in t for t in told) >= 1
    assert all("the loss is not finite" in t or "another process met a loss" in t for t in told)
    assert 1 <= len(list(tmp_path.glob("nan-step-*"))) <= 2


def test_gradients_that_always_overflow_in_fp16_stop(tmp_path):
    with pytest.raises(TrainingError, match="every gradient overflows in fp16"):
        train(tiny(loss="overflowing", epochs=9, validate=False), config(tmp_path, amp="fp16"))


def test_nan_in_validation_stops(tmp_path):
    job = tiny()
    job.validation = replace(job.validation, process=tiny(process={"nan_share": 1.0}).source.process)
    with pytest.raises(TrainingError, match=r"in validation the loss is not finite"):
        train(job, config(tmp_path))


def test_broken_data_are_logged_and_counted(tmp_path):
    train(tiny(sampler={"broken": 0.02}), config(tmp_path / "whole", max_broken_share=0.2))
    records = read_log(tmp_path / "whole")
    skips = [r for r in records if r["kind"] == "skip"]
    assert len(skips) == records[-4]["skipped"]["broken"] > 0
    assert all("is cut off" in r["reason"] for r in skips)
    train(tiny(sampler={"broken": 0.02}), config(tmp_path / "cut", max_broken_share=0.2, steps=20))
    train(tiny(sampler={"broken": 0.02}), config(tmp_path / "cut", max_broken_share=0.2, resume=True))
    same(end_of(tmp_path / "cut"), end_of(tmp_path / "whole"))
    assert end_of(tmp_path / "cut").counters == end_of(tmp_path / "whole").counters


def test_full_disk_keeps_what_was_there(tmp_path):
    size = 8_000  # a checkpoint of the first steps is larger
    (done,) = run(tmp_path, job={"epochs": 1}, limit_bytes=size)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "--resume" in done.stderr
    assert list_checkpoints(tmp_path / "checkpoints") == []
    assert [r["kind"] for r in read_log(tmp_path)][-1] in ("error", "train", "validation")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("changes", "words"), [
    ({"amp": "fp61"}, "did you mean 'fp16'"),
    ({"workers": -1}, "workers is -1"),
    ({"log_every": 0}, "log_every is 0"),
    ({"steps": 0}, "steps is 0"),
    ({"seed": -1}, "seed is -1"),
])  # fmt: skip
def test_settings_that_cannot_be(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        config(tmp_path, **changes)


def test_jobs_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="an epoch needs at least one batch"):
        tiny(batch=8, samples=7)
    with pytest.raises(InputError, match="cannot be shared equally"):
        train(tiny(), config(tmp_path, accumulate=3))


def test_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"log .* cannot be written"):
        train(tiny(), config(tmp_path / "file"))


# --- what a run does and tells --------------------------------------------------------------------------------------------


def test_it_learns_and_tells(whole):
    records = read_log(whole.folder)
    trained = [r for r in records if r["kind"] == "train"]
    assert whole.best < 0.5 * trained[0]["losses"]["total"]
    assert [trained[i]["lr"] for i in (0, 9, 10, 29)] == [
        {"body": 0.01 * f, "head": 0.005 * f} for f in (1, 1, 0.5, 0.25)
    ]
    assert {r["epoch"] for r in trained[:10]} == {1}
    for r in trained:
        assert r["losses"].keys() == {"total", "box"}
        assert r["statistics"].keys() == {"error"}
        assert r["samples_per_second"] == pytest.approx(8 / r["step_seconds"])
        assert 0 < r["wait_share"] < 1
        assert r["grad_norm"] > 0
        assert r["memory"]["process_mb"] > 10
    assert [r["step"] for r in records if r["kind"] == "validation"] == [10, 20, 30]
    assert min(r["losses"]["total"] for r in records if r["kind"] == "validation") == whole.best
    best = load_weights(whole.folder / "best.safetensors")
    assert f"{whole.best:.6g}" in best.header.source
    assert len(list_checkpoints(whole.folder / "checkpoints")) == 2
    suffixes = {p.suffix for p in whole.folder.rglob("*") if p.is_file()}
    assert suffixes == {".safetensors", ".jsonl"}  # no pickles


def test_frozen_and_unused_parts_stay(whole):
    start, end = tiny().net.state_dict(), load_weights(whole.folder / "tiny.safetensors").tensors
    changed = {n for n in start if not torch.equal(start[n], end[n])}
    assert changed == {n for n in start if n.startswith(("body", "head")) and "running" not in n and "num" not in n}


def test_clipping(tmp_path):
    job = tiny(clip=1e-3)
    norms = []
    step = job.optimiser.step

    def noting(*args, **kwargs):
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in job.net.parameters() if p.grad is not None])))
        return step(*args, **kwargs)

    job.optimiser.step = noting
    train(job, config(tmp_path, steps=3))
    assert norms == pytest.approx([1e-3] * 3, rel=1e-4)
    assert all(r["grad_norm"] > 1e-3 for r in read_log(tmp_path) if r["kind"] == "train")  # before clipping


def test_every_epochs_checkpoint_on_request(tmp_path):
    train(tiny(), config(tmp_path, keep_epochs=True, keep=1, checkpoint_steps=7))
    assert [load_checkpoint(p).step for p in list_checkpoints(tmp_path / "checkpoints")] == [10, 20, 30]


def test_the_clock_asks_for_checkpoints(tmp_path):
    train(tiny(), config(tmp_path, checkpoint_minutes=0, keep=99, steps=4))
    assert [load_checkpoint(p).step for p in list_checkpoints(tmp_path / "checkpoints")] == [1, 2, 3, 4]


def test_progress_and_randomness_of_the_caller(tmp_path):
    seen = []
    torch.manual_seed(3)
    job = tiny()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(job, config(tmp_path, log_every=7), progress=seen.append)
    assert torch.equal(torch.rand(4), expected)
    steps = [s for s in seen if not s.note]
    assert [s.step for s in steps] == [7, 14, 21, 28, 30]
    assert steps[-1].seconds_left == 0 < steps[0].seconds_left
    assert {s.epoch for s in seen if s.note == "validation"} == {1, 2, 3}


def test_log_lines_are_whole_after_a_kill(tmp_path):
    (killed,) = run(tmp_path, kill_at=5)
    assert killed.returncode == -signal.SIGKILL
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # as a full disk or power cut leaves it
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "train"] == [1, 2, 3, 4, 5]
    train(tiny(), config(tmp_path, resume=True, steps=3))
    assert [r["step"] for r in read_log(tmp_path) if r["kind"] == "train"] == [1, 2, 3]


def test_log_that_is_none(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1}\nnonsense\n')
    with pytest.raises(InputError, match=r"line 2 is no record of a run: b'nonsense'"):
        read_log(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_numbers_that_json_lacks(tmp_path):
    log = RunLog(tmp_path, tensorboard=False)
    log.write("train", 1, grad_norm=float("inf"), losses={"total": float("nan")}, lr=[1.0])
    log.close()
    assert read_log(tmp_path) == [
        {"kind": "train", "step": 1, "grad_norm": "inf", "losses": {"total": "nan"}, "lr": [1.0]}
    ]


def test_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written, opened = [], []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            opened.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(tiny(), config(tmp_path, steps=12, tensorboard=True))
    train(tiny(), config(tmp_path, steps=13, tensorboard=True, resume=True))
    assert opened == [(str(tmp_path / "tensorboard"), None), (str(tmp_path / "tensorboard"), 13)]
    names = {w[0] for w in written}
    assert {"train/losses/total", "train/lr/body", "train/wait_share", "validation/losses/total"} <= names
    assert written.count("closed") == 2


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tiny(), config(tmp_path, steps=2, tensorboard=True))
    assert not (tmp_path / "tensorboard").exists()
