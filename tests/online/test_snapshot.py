"""Saved states: which weights they belong to."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from small import moving_square, small_keeptrack, tiny_dimp
from torch import nn

import keepsight as ks
from keepsight.nn.fuse import to_channels_last
from keepsight.online import snapshot
from keepsight.online.snapshot import SAMPLES, weights_digest
from keepsight.trackers.base import Tracker

FRAMES, BOXES = moving_square(3)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1, bias=False))


def test_a_digest_is_of_the_values_alone() -> None:
    digest = weights_digest([network()])
    assert len(digest) == 16
    assert weights_digest([network()]) == digest
    assert weights_digest([to_channels_last(copy.deepcopy(network()))]) == digest, "however they lie in memory"
    assert weights_digest([network().requires_grad_(False).eval()]) == digest
    with torch.inference_mode():
        assert weights_digest([network()]) == digest
    assert weights_digest([network(1)]) != digest
    assert weights_digest([network(), network(1)]) != weights_digest([network(1), network()])
    assert weights_digest([network().double()]) != digest
    assert weights_digest([]) != digest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", ["dimp-lite", "dimp18", "atom-lite", "keeptrack-lite"])
def test_a_digest_is_the_same_on_the_gpu(name: str, tmp_path: Path) -> None:
    on_cpu, on_gpu = (ks.load(name, weights="random", device=device) for device in ("cpu", "cuda"))
    on_gpu.init(FRAMES[0], BOXES[0])
    on_gpu.save_state(tmp_path / "state.safetensors")
    on_cpu.load_state(tmp_path / "state.safetensors")
    on_cpu.update(FRAMES[1])


def test_every_tensor_counts() -> None:
    digest = weights_digest([network()])
    assert network()[0].weight.numel() > SAMPLES
    for key in network().state_dict():
        changed = network()
        values = changed.state_dict()[key]
        values.mul_(0.5) if values.is_floating_point() and values.any() else values.add_(1)
        assert weights_digest([changed]) != digest, key


def saved(tracker: Tracker, path: Path) -> Path:
    tracker.init(FRAMES[0], BOXES[0])
    tracker.update(FRAMES[1])
    tracker.save_state(path)
    return path


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = saved(tiny_dimp(), tmp_path / "state.safetensors")
    same, other = tiny_dimp(), tiny_dimp()
    same.load_state(path)
    same.update(FRAMES[2])
    next(other.net.parameters()).mul_(1.01)
    with pytest.raises(ks.StateError, match=r"weights is '[0-9a-f]{16}' there and '[0-9a-f]{16}' here"):
        other.load_state(path)
    assert other.target_count == 0


@pytest.mark.parametrize("part", ["net", "matcher"])
def test_both_networks_count(part: str, tmp_path: Path) -> None:
    path = saved(small_keeptrack(), tmp_path / "state.safetensors")
    small_keeptrack().load_state(path)
    other = small_keeptrack()
    next((other.net if part == "net" else other.follower.matcher).parameters()).mul_(1.01)
    with pytest.raises(ks.StateError, match="weights is"):
        other.load_state(path)


def test_random_weights_are_told_apart_by_their_seed(tmp_path: Path) -> None:
    def random(seed: int) -> Tracker:
        return ks.load("keeptrack-lite", weights="random", device="cpu", seed=seed)

    path = saved(random(1), tmp_path / "state.safetensors")
    random(1).load_state(path)
    with pytest.raises(ks.StateError, match="weights is"):
        random(2).load_state(path)


def test_a_state_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    tracker, path = tiny_dimp(), tmp_path / "state.safetensors"
    tracker.init(FRAMES[0], BOXES[0])
    snapshot.save(path, tracker._current(), tracker._identity())  # as it was written before weights were named
    with pytest.raises(
        ks.StateError, match=r"another version of keepsight: it does not say what weights .* save the state again"
    ):
        tracker.load_state(path)
    tracker.update(FRAMES[1])
