"""The network's names and shapes are the published ones; constructor records are understood or refused; the lean copy."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from keepsight.errors import InputError, WeightsError
from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig, keeptrack_config_from_constructor
from keepsight.nn.association import Candidates, SetNorm, mutual_matches
from keepsight.weights import entry, recognise

FUNCTION = "target_candidate_matching_net_resnet50"
PUBLISHED = {  # spec §1
    "backbone_pretrained": True, "classification_layer": ["layer3"], "frozen_backbone_layers": ["conv1", "bn1"],
    "skip_gnn": False, "GNN_layers": ["self", "cross", "self", "cross"], "num_sinkhorn_iterations": 10,
    "output_normalization": "sinkhorn",
}  # fmt: skip


def narrow(**changes) -> KeepTrackNet:
    torch.manual_seed(0)
    small = {"backbone": "resnet50-narrow", "feature_channels": 256, "descriptor_channels": 32}
    return KeepTrackNet(KeepTrackNetConfig(**(small | changes))).eval()


def test_state_dict_is_the_published_one(golden):
    keys = golden.parent / "spec" / "keys" / "keep_track.json"
    if not keys.is_file():
        pytest.skip(f"no key list at {keys}")
    want = {k: tuple(v) for k, v in json.loads(keys.read_text()).items()}
    with torch.device("meta"):
        state = KeepTrackNet().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == want
    assert recognise(state) in entry("keep_track").architectures
    assert entry("keep_track").published_file == "keep_track.pth.tar"


def test_constructor_gives_the_published_configuration():
    assert keeptrack_config_from_constructor(FUNCTION, PUBLISHED) == KeepTrackNetConfig()
    assert keeptrack_config_from_constructor(FUNCTION, {}) == KeepTrackNetConfig()
    assert KeepTrackNetConfig().match_threshold == 0.2  # spec 1.7; no constructor says it
    other = {"GNN_layers": ["self", "cross"] * 9, "num_sinkhorn_iterations": 50, "skip_gnn": True}
    config = keeptrack_config_from_constructor(FUNCTION, other)
    assert (config.gnn_layers, config.sinkhorn_iterations, config.skip_gnn) == (("self", "cross") * 9, 50, True)


@pytest.mark.parametrize(
    ("fun", "keywords", "words"),
    [
        ("dimpnet50_simple", {}, "KeepTrack"),
        (FUNCTION, {"colour": 3}, "colour"),
        (FUNCTION, {"classification_layer": ["layer2"]}, "classification_layer"),
        (FUNCTION, {"GNN_layers": ["self", "both"]}, "both"),
        (FUNCTION, {"GNN_layers": 4}, "no network of ours"),
        (FUNCTION, {"output_normalization": "none"}, "sinkhorn"),
    ],
)
def test_other_constructors_are_refused(fun, keywords, words):
    with pytest.raises(WeightsError, match=words):
        keeptrack_config_from_constructor(fun, keywords)


def test_configurations_survive_a_file():
    config = KeepTrackNetConfig(gnn_layers=("self",), swapped_centre=False, backbone=None)
    assert KeepTrackNetConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_values_that_fit_no_network():
    with pytest.raises(InputError, match="resnet18"):
        KeepTrackNetConfig(backbone="resnet19")
    with pytest.raises(InputError, match="1024"):
        KeepTrackNet(KeepTrackNetConfig(backbone="resnet18-narrow"))
    with pytest.raises(InputError, match="base tracker"):
        narrow(backbone=None).extract(torch.zeros(1, 3, 32, 32))


def test_from_crops_to_matches():
    net = narrow()
    with torch.no_grad():
        features = net.extract(torch.randn(2, 3, 96, 96))
        assert features.shape == (2, 256, 6, 6)
        cells = torch.tensor([[[1, 1], [5, 2], [3, 6]], [[2, 2], [0, 5], [6, 0]]])
        scores = torch.tensor([[0.9, 0.5, 0.4], [0.8, 0.3, 0.1]])
        previous, current = (
            Candidates(net.describe(features[i, None], cells[i, None]), cells[i, None] * 16.0, scores[i, None])
            for i in (0, 1)
        )
        matches, log_assignment = net.match(previous, current, (96, 96))
        assert torch.equal(log_assignment, net(previous, current, (96, 96)))
    want = mutual_matches(log_assignment, 0.2)
    assert all(torch.equal(getattr(matches, f.name), getattr(want, f.name)) for f in dataclasses.fields(matches))


def test_features_are_brought_to_the_size_that_descriptors_expect():
    """Features seven times as large give the same descriptors where ``feature_size`` is 7, and others where it is 1."""
    plain, divided = narrow(), narrow(feature_size=7.0)  # the same weights
    features, cells = torch.randn(1, 256, 6, 6), torch.tensor([[[1, 1], [5, 2], [3, 6]]])
    with torch.no_grad():
        want = plain.describe(features, cells)
        torch.testing.assert_close(divided.describe(7 * features, cells), want)
        torch.testing.assert_close(divided.for_inference().describe(7 * features, cells), want)
        assert not torch.allclose(plain.describe(7 * features, cells), want)


def test_a_candidate_matches_its_like():
    """Equal descriptor, place and score: even an untrained network finds it, wherever it stands in the list."""
    net = narrow(gnn_layers=())
    g = torch.Generator().manual_seed(1)
    parts = torch.randn(1, 6, 32, generator=g), torch.rand(1, 6, 2, generator=g) * 90, torch.rand(1, 6, generator=g)
    order = torch.tensor([3, 0, 5, 1])  # 2 and 4 are gone
    with torch.no_grad():
        matches, _ = net.match(Candidates(*parts), Candidates(*(p[:, order] for p in parts)), (90, 90))
    assert matches.index1.tolist() == [order.tolist()]
    assert matches.index0.tolist() == [[1, 3, -1, 0, -1, 2]]


def test_threshold_and_centre_come_from_the_configuration():
    g = torch.Generator().manual_seed(1)
    side = Candidates(torch.randn(1, 3, 32, generator=g), torch.rand(1, 3, 2, generator=g) * 90, torch.rand(1, 3))
    with torch.no_grad():
        low, high = (narrow(match_threshold=t, gnn_layers=()).match(side, side, (90, 90))[0] for t in (0.0, 0.99))
        assert (low.index0 >= 0).any()
        assert (high.index0 == -1).all()
        swapped, plain = (narrow(swapped_centre=s) for s in (True, False))
        assert torch.equal(swapped(side, side, (90, 90)), plain(side, side, (90, 90)))
        assert not torch.equal(swapped(side, side, (90, 160)), plain(side, side, (90, 160)))


def test_points_are_taken_in_the_image_or_in_the_search_area():
    size, area = torch.tensor([[90.0, 160.0]]), torch.tensor([[-10.0, 5.0, 60.0, 40.0]])
    assert [t.tolist() for t in narrow().reference(size, area)] == [[[0, 0]], [[90, 160]]]
    assert [t.tolist() for t in narrow(in_search_area=True).reference(size, area)] == [[[5, -10]], [[40, 60]]]


def test_inference_copy_is_lean_and_leaves_the_original_alone():
    net = narrow()
    for m in net.modules():
        if isinstance(m, SetNorm):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    lean = net.for_inference()
    assert lean.feature_extractor is None
    assert not any(n.startswith("feature_extractor") for n in lean.state_dict())
    assert not any(isinstance(m, SetNorm) for m in lean.modules())
    assert not lean.training
    assert not any(p.requires_grad for p in lean.parameters())
    assert net.training
    assert net.feature_extractor is not None
    assert all(p.requires_grad for p in net.parameters())
    features, cells = torch.randn(1, 256, 6, 6), torch.tensor([[[1, 1], [5, 2], [3, 6]]])
    found = []
    for n in (net.eval(), lean):
        with torch.no_grad():
            side = Candidates(n.describe(features, cells), cells * 16.0, torch.tensor([[0.9, 0.5, 0.4]]))
            found.append(n(side, side, (96, 96)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_lean_copy_moves_alone():
    """To a device or precision, without the backbone that it lacks; of a lean copy it is one again."""
    net = narrow()
    moved = net.for_inference().to(torch.float64)
    assert {p.dtype for p in moved.parameters()} == {torch.float64}
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    again = moved.for_inference()
    assert again.feature_extractor is None
    side = Candidates(torch.randn(1, 3, 32).double(), torch.rand(1, 3, 2).double() * 90, torch.rand(1, 3).double())
    with torch.no_grad():
        assert torch.equal(moved(side, side, (90, 90)), again(side, side, (90, 90)))
