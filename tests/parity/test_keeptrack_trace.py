"""KeepTrack's whole loop against golden/net/trace_keep_track_*: boxes, flags, candidates and their matches, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rules import compare, fill_network
from replay import OVERRIDES, Played, overridden, play, recorded, traces

from keepsight.models.dimp import DiMPNet, network_config
from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig
from keepsight.trackers.keeptrack import KeepTrackTracker, preset

BASE = "super_dimp_simple"


def matching_network(seed: int, dtype: torch.dtype) -> KeepTrackNet:
    """Without the backbone, which the tracker does not use."""
    net = fill_network(KeepTrackNet(KeepTrackNetConfig(backbone=None)), "keep_track", seed, dtype)
    return net.requires_grad_(False)


def run(golden: Path, name: str, dtype: torch.dtype) -> Played:
    def make(case, draws):
        seed = int(case["weight_seed"])
        config = overridden(preset("keeptrack"), case["overrides"], OVERRIDES)
        net = fill_network(DiMPNet(network_config(BASE)), BASE, seed, dtype)
        matcher = matching_network(seed, dtype)
        return recorded(KeepTrackTracker)("keeptrack", config, net, matcher, torch.device("cpu"), draws=draws)

    return play(golden, name, make, lambda target: None)


@pytest.mark.parametrize("name", traces("keep_track"))
def test_trace(golden, name):
    played = run(golden, name, torch.float32)
    data, tracker, results = played.data, played.tracker, played.results
    listed = json.loads((golden / "net" / "tolerances_traces.json").read_text())[name]
    assert [r.flag for r in results] == data["flag"].tolist()
    per_frame = np.maximum(10 * np.asarray(listed["boxes"]["per_frame"]), 1e-3)
    for i, result in enumerate(results):
        compare(result.box_unclipped, data["boxes"][i], per_frame[i], f"frame {i + 1} box")
    limit = max(2e-4, 8 * listed["max_score"]["max_abs_diff_f32_f64"])
    compare([r.score for r in results], data["max_score"], limit, "max score")
    compare(played.scales, data["target_scale"], 1e-4, "scale")
    target = tracker._current().targets[0]
    compare(target.memory.weights, data["sample_weights_final"], 1e-6, "sample weights")
    calls = sorted(k[: -len("_frame")] for k in data.files if k.startswith("cand") and k.endswith("_frame"))
    assert calls
    for call in calls:  # a matching of frame t with the one before; frame t is row t - 2
        found = results[int(data[f"{call}_frame"]) - 2].candidates
        compare([c.score for c in found], data[f"{call}_scores1"], limit, f"{call} scores")
        places = [c.position[::-1] for c in found]  # (row, column)
        compare(places, data[f"{call}_img_coords1"], 0.05, f"{call} places")
        matches = data[f"{call}_matches1"]
        before = results[int(data[f"{call}_frame"]) - 3].candidates if int(data[f"{call}_frame"]) > 2 else ()
        for candidate, match in zip(found, matches, strict=True):
            kept = [c.id for c in before]
            if match < 0:
                assert candidate.id not in kept, call
            elif candidate.id in kept:  # unless a rule split it, the identity is the match's
                assert before[int(match)].id == candidate.id, call


@pytest.mark.parametrize("name", traces("keep_track"))
def test_trace_in_float64(golden, name):
    """The sharp test: no rounding to hide behind, but the candidates' positions, which are float32 in the reference too."""
    played = run(golden, name, torch.float64)
    data, results = played.data, played.results
    assert [r.flag for r in results] == data["f64_flag"].tolist()
    compare([r.box_unclipped for r in results], data["f64_boxes"], 1e-6, "boxes")
