"""Checkpoints hold a run exactly, appear whole or not at all, and are refused with a reason when they are not ours."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_job import tiny

from keepsight.errors import WeightsError
from keepsight.training.checkpoint import (
    CHECKPOINT_KEY,
    Checkpoint,
    check_same_run,
    checkpoint_path,
    differences,
    export,
    list_checkpoints,
    load_checkpoint,
    optimiser_state,
    prune,
    restore,
    save_checkpoint,
)
from keepsight.weights import describe, load_weights
from keepsight.weights.store import own_memory

RECIPE = {"recipe": {"optim": {"lr": 0.1, "groups": [1, 2]}, "data": {"batch": 8}}, "seed": 0}


def trained():
    """A job after two steps, and its checkpoint."""
    job = tiny()
    for _ in range(2):
        job.optimiser.zero_grad()
        job.net(torch.randn(4, 3, 8, 8)).square().mean().backward()
        job.optimiser.step()
    names = {id(p): n for n, p in job.net.named_parameters()}
    model, state = own_memory(job.net.state_dict()), optimiser_state(job.optimiser, names)
    scaler, counters = {"scale": 8.0, "_growth_tracker": 3}, {"broken": 2}
    return job, Checkpoint("tiny", RECIPE, 12, 10, model, state, scaler, 0.25, counters, job.header)


@pytest.fixture
def saved(tmp_path):
    job, checkpoint = trained()
    return job, checkpoint, save_checkpoint(tmp_path / "checkpoints" / "step-000000012.safetensors", checkpoint)


def test_everything_comes_back(saved):
    job, checkpoint, path = saved
    found = load_checkpoint(path)
    for name in ("name", "recipe", "step", "steps_per_epoch", "scaler", "best", "counters", "header"):
        assert getattr(found, name) == getattr(checkpoint, name), name
    assert found.model.keys() == checkpoint.model.keys()
    assert all(torch.equal(found.model[n], t) for n, t in checkpoint.model.items())
    fresh = tiny(seed=5)
    restore(found, fresh.net, fresh.optimiser, path)
    for a, b in zip(job.net.parameters(), fresh.net.parameters(), strict=True):
        assert torch.equal(a, b)
        there, here = job.optimiser.state.get(a, {}), fresh.optimiser.state.get(b, {})
        assert there.keys() == here.keys()
        assert all(torch.equal(there[k], here[k]) and there[k].dtype == here[k].dtype for k in there)
    assert fresh.optimiser.param_groups[0]["name"] == "body"


def test_file_holds_tensors_and_json_only(saved):
    path = saved[2]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()[CHECKPOINT_KEY])["step"] == 12
        assert any(n.startswith("optimiser.exp_avg.body.0.") for n in file.keys())  # noqa: SIM118
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert describe(path).header.family == "checkpoint"  # `keepsight weights info`


def test_truncated_files_are_refused(saved, tmp_path):
    data = saved[2].read_bytes()
    for size in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:size])
        with pytest.raises(WeightsError, match="is damaged"):
            load_checkpoint(cut)


def test_absent_and_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint of keepsight train"):
        load_checkpoint(tmp_path / "other.safetensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    with pytest.raises(WeightsError, match="is damaged"):
        load_checkpoint(tmp_path / "pickle.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "later keepsight"),
        ({"version": "1"}, "damaged header"),
        ({"step": -1}, "damaged header .step"),
        ({"step": "12"}, "damaged header .step"),
        ({"steps_per_epoch": 0}, "damaged header .steps_per_epoch"),
        ({"recipe": [1]}, "damaged header .recipe"),
        ({"surprise": 1}, "unknown fields"),
        ({"name": None}, "damaged header .name"),
    ],
)
def test_hostile_headers_are_refused(saved, tmp_path, change, words):
    with safe_open(saved[2], framework="pt") as file:
        values = json.loads(file.metadata()[CHECKPOINT_KEY])
    save_file(
        {"model.a": torch.zeros(1)}, tmp_path / "x.safetensors", {CHECKPOINT_KEY: json.dumps({**values, **change})}
    )
    with pytest.raises(WeightsError, match=words):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("text", ["", "null", "[1]", "{}", "{" * 5000, '{"version": 1}'])
def test_header_that_is_no_header(tmp_path, text):
    save_file({"model.a": torch.zeros(1)}, tmp_path / "x.safetensors", {CHECKPOINT_KEY: text})
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_other_recipes_are_refused_by_what_differs(saved):
    _, _, path = saved
    found = load_checkpoint(path)
    check_same_run(found, "tiny", RECIPE, path)
    with pytest.raises(WeightsError, match="of the recipe 'tiny', this run is 'other'"):
        check_same_run(found, "other", RECIPE, path)
    changed = json.loads(json.dumps(RECIPE))
    changed["recipe"]["optim"]["lr"], changed["amp"] = 0.2, "bf16"
    with pytest.raises(WeightsError, match=r'recipe.optim.lr: 0.1 -> 0.2; amp: "absent" -> "bf16"'):
        check_same_run(found, "tiny", changed, path)


def test_differences_are_shown_in_part():
    there, here = ({str(i): i + k for i in range(20)} for k in (0, 1))
    assert len(differences(there, here)) == 20
    with pytest.raises(WeightsError, match="and 14 more"):
        check_same_run(Checkpoint("a", there, 1, 1, {}, {}), "a", here, "file")


def test_optimiser_state_of_another_network_is_refused(saved):
    _, checkpoint, path = saved
    fresh = tiny()
    state = {**checkpoint.optimiser, "nobody.weight": {"exp_avg": torch.zeros(3)}}
    with pytest.raises(WeightsError, match=r"does not fit the network: nobody.weight"):
        restore(Checkpoint("tiny", {}, 1, 1, checkpoint.model, state), fresh.net, fresh.optimiser, path)
    state = {"head.2.bias": {"exp_avg": torch.zeros(9)}}
    with pytest.raises(WeightsError, match=r"does not fit the network: exp_avg of head.2.bias"):
        restore(Checkpoint("tiny", {}, 1, 1, checkpoint.model, state), fresh.net, fresh.optimiser, path)
    with pytest.raises(WeightsError, match="missing"):
        restore(Checkpoint("tiny", {}, 1, 1, {"a": torch.zeros(1)}, {}), fresh.net, fresh.optimiser, path)


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    _, checkpoint, path = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(WeightsError, match=r"cannot be written \(No space left on device\).*--resume"):
                save_checkpoint(path, checkpoint)
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "x.safetensors", trained()[1])


def test_pruning_keeps_the_newest_and_epochs(tmp_path):
    for step in (5, 10, 15, 20, 25, 30):
        checkpoint_path(tmp_path, step).write_text("")
    (tmp_path / "step-x.safetensors").write_text("not ours")
    (tmp_path / ".step-000000040.safetensors.77-abc.part").write_text("of a killed process")
    prune(tmp_path, 2, keep_every=10)
    assert not list(tmp_path.glob(".*.part"))
    assert [int(p.stem[5:]) for p in list_checkpoints(tmp_path)] == [10, 20, 25, 30]
    prune(tmp_path, 1)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000000030.safetensors"]
    assert (tmp_path / "step-x.safetensors").exists()


def test_export_is_a_weights_file_with_provenance(saved, tmp_path):
    _, checkpoint, path = saved
    for run in (path, path.parent, path.parent.parent):
        header = export(run, tmp_path / "net.safetensors")
        found = load_weights(tmp_path / "net.safetensors")
        assert found.header == header
        assert all(torch.equal(found.tensors[n], t) for n, t in checkpoint.model.items())
        assert (header.family, header.preset, header.config) == ("tiny", "tiny", {"dropout": 0.1})
        assert "12 steps (1.2 epochs)" in header.source
        assert "seed 0" in header.source
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(WeightsError, match="no checkpoint in"):
        export(tmp_path / "nowhere", tmp_path / "x")


def test_tied_parameters(tmp_path):
    weight = torch.arange(4.0)
    path = save_checkpoint(tmp_path / "tied.safetensors", Checkpoint("a", {}, 1, 1, {"a": weight, "b": weight}, {}))
    assert torch.equal(load_checkpoint(path).model["b"], weight)
