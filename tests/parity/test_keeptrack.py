"""KeepTrack's network against golden/net/keeptrack_tcm.npz, its candidates against labels_boxes.npz, its loss's figures."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_rules import arrays, compare, fill_network, random_state, tolerance

from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig
from keepsight.nn.association import Candidates, double_softmax, find_candidates, log_sinkhorn, normalise_points
from keepsight.training.losses import matching_metrics, sinkhorn_row_norm

STEM = "keeptrack_tcm"


@cache
def filled_network(seed: int, dtype: torch.dtype = torch.float32) -> KeepTrackNet:
    """Without the backbone, which the golden file does not use."""
    net = fill_network(KeepTrackNet(KeepTrackNetConfig(backbone=None)), "keep_track", seed, dtype)
    return net.requires_grad_(False)


@cache
def feature_maps(path: Path) -> torch.Tensor:
    """Both frames' features; some 4×4 blocks of the first are copied to the second, README §5."""
    with np.load(path) as data:
        shape, coords = tuple(data["in_feat_shape"]), (data["in_coords0"], data["in_coords1"])
        normal = random_state(int(data["in_seed"]), "tcm/feat").standard_normal(shape)
    maps = 0.5 * np.abs(normal.astype(np.float32))
    side, copied = shape[-1], min(len(coords[0]), len(coords[1]), 3)
    for i in range(copied):
        (r0, c0), (r1, c1) = (np.clip(c - 2, 0, side - 4) for c in (coords[0][i], coords[1][copied - 1 - i]))
        maps[1, :, r1 : r1 + 4, c1 : c1 + 4] = maps[0, :, r0 : r0 + 4, c0 : c0 + 4]
    return torch.from_numpy(maps)


@pytest.fixture(params=[False, True], ids=["published", "for_inference"])
def case(golden, request):
    data = arrays(golden, STEM)
    net = filled_network(int(data["in_seed"]))
    compare(net.matcher.bin_score, data["bin_score"], tolerance(golden, STEM, "bin_score"), "bin_score")
    return data, net.for_inference() if request.param else net


def candidates(golden, data, net) -> list[Candidates]:
    maps = feature_maps(golden / "net" / f"{STEM}.npz").to(next(net.parameters()).dtype)

    def given(name: str) -> torch.Tensor:
        found = torch.from_numpy(data[f"in_{name}"])[None]
        return found.to(maps.dtype) if found.is_floating_point() else found

    return [
        Candidates(net.describe(maps[i : i + 1], given(f"coords{i}")), given(f"img_coords{i}"), given(f"scores{i}"))
        for i in (0, 1)
    ]


def test_matching_network(golden, case):
    data, net = case
    sides = candidates(golden, data, net)
    counts, size = [s.scores.shape[1] for s in sides], data["in_image_size"]

    def check(key: str, got: torch.Tensor) -> None:
        compare(got, data[key], tolerance(golden, STEM, key), key)

    def check_sides(key: str, both: torch.Tensor) -> None:  # (B, M + N, D)
        for i, side in enumerate(both.split(counts, dim=1)):
            if key.format(i) in data:
                check(key.format(i), side.mT)

    encoded, layers = [], []
    hooks = [net.matcher.kenc.register_forward_hook(lambda _m, _i, out: encoded.append(out))]
    hooks += [a.register_forward_hook(lambda _m, _i, out: layers.append(out)) for a in net.matcher.gnn.layers]
    matches, log_assignment = net.match(*sides, size)
    for hook in hooks:
        hook.remove()
    for i, side in enumerate(sides):
        check(f"desc{i}", side.descriptors.mT)
    check("kpts_norm0", normalise_points(sides[0].points, size, swapped_centre=True))
    check_sides("kenc{}", encoded[0])
    assert [f"gnn{len(layers)}_0" in data, f"gnn{len(layers) - 1}_0" in data] == [False, True]
    for number, layer in enumerate(layers):
        check_sides(f"gnn{number}_{{}}", layer)
    check("scores", net.matcher.similarity(*sides, size))
    check("log_assignment", log_assignment)
    assert matches.index0.tolist() == data["matches0"].tolist()
    assert matches.index1.tolist() == data["matches1"].tolist()
    check("match_scores0", matches.probability0)
    check("match_scores1", matches.probability1)


def test_matching_network_in_float64(golden):
    """The golden numbers are float32: they are as near to our float64 as the reference's own float64."""
    data = arrays(golden, STEM)
    net = filled_network(int(data["in_seed"]), torch.float64)
    log_assignment = net(*candidates(golden, data, net), data["in_image_size"])
    compare(log_assignment, data["log_assignment"], tolerance(golden, STEM, "log_assignment"), "log_assignment")


def test_the_centre_matters(golden):
    data = arrays(golden, STEM)
    want = data["kpts_norm0"]
    points = torch.from_numpy(data["in_img_coords0"])[None]
    plain = normalise_points(points, data["in_image_size"], swapped_centre=False)
    height, width = data["in_image_size"].tolist()
    shift = (width - height) / 2 / (0.7 * max(height, width))
    compare(plain - torch.tensor([shift, -shift]), want, tolerance(golden, STEM, "kpts_norm0"), "centre moved")


def test_assignments(golden):
    data = arrays(golden, STEM)
    similarity, alpha = torch.from_numpy(data["in_sinkhorn_in"]), float(data["in_sinkhorn_alpha"])
    names = [key for key in data.files if key.startswith("sinkhorn_it")]
    assert len(names) == 3
    for key in names:
        found = log_sinkhorn(similarity, alpha, int(key.removeprefix("sinkhorn_it")))
        compare(found, data[key], tolerance(golden, STEM, key), key)
    found = double_softmax(similarity, alpha)
    compare(found, data["double_softmax"], tolerance(golden, STEM, "double_softmax"), "double_softmax")


def test_every_array_is_compared(golden):
    """A new one in the file would need a line above."""
    read = {f"{name}{i}" for name in ("desc", "kenc", "matches", "match_scores") for i in (0, 1)}
    read |= {f"gnn{layer}_{i}" for layer in range(4) for i in (0, 1)}
    read |= {"kpts_norm0", "scores", "log_assignment", "bin_score", "double_softmax"}
    left = {k for k in arrays(golden, STEM).files if not k.startswith(("in_", "sinkhorn_it"))} - read
    assert not left


@pytest.mark.parametrize("window", [3, 5])
def test_peaks(golden, window):
    data = arrays(golden, "labels_boxes")
    parameters = json.loads((golden / "net" / "cases.json").read_text())["parameters"]["labels_boxes"]
    cells, scores = find_candidates(torch.from_numpy(data["heat"]), parameters["peak_threshold"], window)
    assert cells.tolist() == data[f"peaks_coords_ks{window}"].tolist()
    key = f"peaks_vals_ks{window}"
    compare(scores, data[key], tolerance(golden, "labels_boxes", key), key)


def test_logged_figures(golden):
    data = arrays(golden, "losses")
    norm = sinkhorn_row_norm(torch.from_numpy(data["in_log_assignment"]))
    key = "tcm_nll_sinkhorn_norm"
    compare(norm, data[key], tolerance(golden, "losses", key), key)
    labels = [data[f"in_gt_matches{i}"][0] for i in (0, 1)]
    assert [int(n) for n in data["tcm_nll_num_matchable"]] == data["in_gt_assignment"][0].sum((1, 2)).tolist()
    alone = sum((side == -1).sum(1) for side in labels)
    assert [int(n) for n in data["tcm_nll_num_unmatchable"]] == alone.tolist()


def test_recall_and_precision():
    """Spec §2.7: labels of -1 are no match, -2 is not judged; an item without a partner has no figure."""
    labels = torch.tensor([[1, 0, -1, -2, 2], [-1, -1, -1, -2, -2], [0, -1, -1, -1, -1]])
    predicted = torch.tensor([[1, -1, 3, 4, 2], [-1, 0, -1, -1, 3], [-1, -1, -1, -1, -1]])
    recall, precision = matching_metrics(predicted, labels)
    nan = float("nan")
    assert recall.tolist() == pytest.approx([2 / 3, nan, 0], nan_ok=True)
    assert precision.tolist() == pytest.approx([2 / 3, 0, nan], nan_ok=True)
    assert recall.nanmean().item() == pytest.approx(1 / 3)
