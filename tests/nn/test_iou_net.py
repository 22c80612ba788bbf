"""The closed form against the network and autograd, wherever the boxes lie; the networks of ATOM's Table 1."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from keepsight.errors import InputError
from keepsight.nn.box_net import BoxNet, TargetView
from keepsight.nn.fuse import fold_batch_norms
from keepsight.nn.iou_net import LEVELS, REFERENCES, AutogradScorer, BoxScorer, IoUNet, LevelMap, Modulation

KINDS = list(itertools.product(REFERENCES, LEVELS))
PROPOSALS = torch.tensor(
    [[38.0, 52, 41, 33], [30, 40, 20, 60], [-20, 60, 70, 50], [100, 90, 80, 90], [45, 48, 25, 25]], dtype=torch.float64
)
"""Inside, half outside and larger than the maps, which cover 144 pixels."""


@pytest.fixture(scope="module")
def problem():
    return small()


@cache
def small(reference="modulation", levels=(3, 4)):
    """Network with plausible statistics, maps of two crops, and what is kept of a target in each."""
    torch.manual_seed(0)
    net = IoUNet((16, 32), 24, reference, levels).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.bias)
    layer2, layer3 = torch.randn(2, 16, 18, 18).double(), torch.randn(2, 32, 9, 9).double()
    with torch.no_grad():
        modulation = net.modulation(layer2, layer3, torch.tensor([[40.0, 50, 40, 30], [30, 40, 35, 45]]).double())
    return net, layer2, layer3, modulation


boxes = st.lists(
    st.tuples(st.floats(-80, 200), st.floats(-80, 200), st.floats(0.5, 120), st.floats(0.5, 120)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(first=boxes, second=boxes)
def test_scores_and_gradients(problem, first, second):
    net, layer2, layer3, modulation = problem
    maps = net.test_features(layer2, layer3)
    scorer = BoxScorer(net.scoring_weights(modulation, 1), net.test_branch(layer2[1:], layer3[1:]))
    for given_boxes in (first, second):  # the second call may leave the table of the first
        variable = torch.tensor(given_boxes, dtype=torch.float64)[None].repeat(2, 1, 1).requires_grad_()
        want = net.predict(modulation, maps, variable)[1]
        gradient = torch.autograd.grad(want.sum(), variable)[0][1]
        with torch.no_grad():
            score, got = scorer.score_and_gradient(variable[1].detach())
        assert torch.allclose(score, want, atol=1e-9)
        assert torch.allclose(got, gradient, atol=1e-8)
        assert torch.allclose(scorer.score(variable[1].detach()), want, atol=1e-9)


def test_boxes_without_area(problem):
    net, layer2, layer3, modulation = problem
    scorer = BoxScorer(net.scoring_weights(modulation), net.test_branch(layer2[:1], layer3[:1]))
    with torch.no_grad():
        score, gradient = scorer.score_and_gradient(
            torch.tensor([[30.0, 30, 0, 20], [30, 30, 20, 20]], dtype=torch.float64)
        )
    assert torch.isfinite(score).all()
    assert gradient[0].abs().max() == 0
    assert gradient[1].abs().max() > 0


def test_part_of_a_map_is_the_map(problem):
    net, layer2, _, _ = problem
    layers = nn.Sequential(net.conv3_1t, net.conv3_2t)
    with torch.no_grad():
        whole = layers(layer2[:1])
        for window in ((0, 18, 0, 18), (3, 9, 5, 18), (0, 1, 17, 18), (8, 12, 0, 4)):
            part = LevelMap(layer2[:1], layers).cells(*window)
            top, bottom, left, right = window
            assert torch.allclose(part.permute(2, 0, 1), whole[0, :, top:bottom, left:right])


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_folded_network_gives_the_same(reference, levels):
    net, layer2, layer3, modulation = small(reference, levels)
    lean = fold_batch_norms(net)
    boxes = torch.tensor([[30.0, 30, 40, 20]], dtype=torch.float64)
    with torch.no_grad():
        scores = [
            BoxScorer(n.scoring_weights(modulation), n.test_branch(layer2[:1], layer3[:1])).score(boxes)
            for n in (net, lean)
        ]
    assert torch.allclose(*scores)


# --- the networks of Table 1 ---------------------------------------------------------------------------------------------


def scorers(net, layer2, layer3, modulation, index):
    """Closed form and autograd on :meth:`IoUNet.predict`, for one of the targets in its crop."""
    rows = slice(index, index + 1)

    def score(boxes, *given):
        return net.predict(Modulation(*given[:2]), given[2:], boxes[None])[0]

    with torch.no_grad():
        maps = net.test_features(layer2[rows], layer3[rows])
        prepared = net.scoring_weights(modulation, index)
    kept = modulation.level3[rows], modulation.level4[rows]
    return BoxScorer(prepared, net.test_branch(layer2[rows], layer3[rows])), AutogradScorer(score, *kept, *maps)


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_layers_of_each_kind(reference, levels):
    net, layer2, layer3, modulation = small(reference, levels)
    own = {3: {"conv3_1t", "conv3_2t", "fc3_rt"}, 4: {"conv4_1t", "conv4_2t", "fc4_rt"}}
    of_reference = {3: {"conv3_1r", "fc3_1r", "fc34_3r"}, 4: {"conv4_1r", "fc34_4r"}}
    branch = reference in ("modulation", "concatenation")
    want = {"iou_predictor"}.union(*(own[k] for k in levels), *(of_reference[k] for k in levels if branch))
    assert {n for n, _ in net.named_children()} == want
    joined = 24 if reference == "concatenation" else 0
    for level, block, bins in ((3, "fc3_rt", 5), (4, "fc4_rt", 3)):
        if level in levels:
            assert getattr(net, block).linear.in_features == 24 * bins**2 + joined
            if branch:
                assert getattr(net, f"fc34_{level}r")[0].in_channels == 256 * len(levels)
        columns = 24 if level in levels and reference != "none" else 0
        assert getattr(modulation, f"level{level}").shape == (2, columns)
    assert net.iou_predictor.in_features == (1 if reference == "siamese" else 24 * len(levels))
    maps = net.test_features(layer2, layer3)
    assert [tuple(m.shape) for m in maps] == [(2, 24 * (3 in levels), 18, 18), (2, 24 * (4 in levels), 9, 9)]


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_training_call_of_each_kind(reference, levels):
    torch.manual_seed(1)
    net = IoUNet((16, 32), 24, reference, levels)
    maps = [(torch.randn(n, 16, 18, 18), torch.randn(n, 32, 9, 9)) for n in (3, 6)]  # 3 sequences, 2 test frames
    boxes = torch.tensor([40.0, 50, 40, 30]) + 10 * torch.rand(2, 3, 4, 4)
    scores = net(maps[0], boxes[0, :, 0], maps[1], boxes)
    assert scores.shape == (2, 3, 4)
    scores.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert all(p.grad.any() for n, p in net.named_parameters() if n.endswith("weight"))
    net.eval()
    whole = net(maps[0], boxes[0, :, 0], maps[1], boxes)
    alone = net([m[1:2] for m in maps[0]], boxes[0, 1:2, 0], [m[4:5] for m in maps[1]], boxes[1:, 1:2])
    torch.testing.assert_close(alone, whole[1:, 1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_scorers_of_each_kind(reference, levels):
    """Closed form and autograd agree with the network and with central differences."""
    net, layer2, layer3, modulation = small(reference, levels)
    with torch.no_grad():
        want = net.predict(modulation, net.test_features(layer2, layer3), PROPOSALS.expand(2, -1, -1))
        assert want[1].std() > 1e-3
    steps = 1e-6 * torch.eye(4, dtype=torch.float64)
    shifted = (PROPOSALS[:, None, None] + torch.stack((steps, -steps))).view(-1, 4)  # of box, sign, coordinate
    with torch.no_grad():
        up, down = (
            BoxScorer(net.scoring_weights(modulation, 1), net.test_branch(layer2[1:], layer3[1:]))
            .score(shifted)
            .view(-1, 2, 4)
            .unbind(1)
        )
    for scorer in scorers(net, layer2, layer3, modulation, 1):
        with torch.no_grad():
            score, gradient = scorer.score_and_gradient(PROPOSALS)
            torch.testing.assert_close(score, want[1], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(scorer.score(PROPOSALS), score)
        torch.testing.assert_close(gradient, (up - down) / 2e-6, rtol=1e-6, atol=1e-7)
        assert not score.requires_grad


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_scorers_in_inference_mode(reference, levels):
    net, layer2, layer3, modulation = small(reference, levels)
    want = [s.score_and_gradient(PROPOSALS) for s in scorers(net, layer2, layer3, modulation, 0)]
    with torch.inference_mode():
        there = layer2 + 0, layer3 + 0
        box = torch.tensor([[40.0, 50, 40, 30], [30, 40, 35, 45]]).double()
        kept = net.modulation(*there, box)
        assert kept.level3.is_inference()
        made = scorers(net, *there, kept, 0)
        inside = [s.score_and_gradient(PROPOSALS + 0) for s in made]
    outside = [s.score_and_gradient(PROPOSALS) for s in made]
    for found in (inside, outside):
        for (score, gradient), (want_score, want_gradient) in zip(found, want, strict=True):
            torch.testing.assert_close(score, want_score)
            torch.testing.assert_close(gradient, want_gradient)


def test_autograd_serves_any_function_of_boxes():
    """Another box estimator, under ``no_grad`` and inference mode; what is kept of the tensors is its own."""
    torch.manual_seed(0)
    net = BoxNet(8, 12, channels=8, hidden=16).double().eval()
    with torch.inference_mode():
        fine, coarse = torch.randn(1, 8, 17, 17).double(), torch.randn(1, 12, 9, 9).double()
        view = net.view(fine, coarse, PROPOSALS[:1])
        maps = net.maps(fine, coarse)
        scorer = AutogradScorer(
            lambda b, m, weight, bias: net.scores(m, TargetView(weight, bias), b[None])[0], maps, view.weight, view.bias
        )
        score, gradient = scorer.score_and_gradient(PROPOSALS)
        maps.zero_()
        again = scorer.score(PROPOSALS)
    assert torch.equal(score, again)
    with torch.no_grad():
        steps = 1e-6 * torch.eye(4, dtype=torch.float64)
        for i, step in enumerate(steps):
            slope = (scorer.score(PROPOSALS + step) - scorer.score(PROPOSALS - step)) / 2e-6
            torch.testing.assert_close(gradient[:, i], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("reference", "levels"), KINDS)
def test_what_the_scores_depend_on(reference, levels):
    net, layer2, layer3, _ = small(reference, levels)
    box = torch.tensor([[40.0, 50, 40, 30]]).double()

    def score(*, reference_maps=(layer2[:1], layer3[:1]), test=(layer2[1:], layer3[1:]), box=box):
        with torch.no_grad():
            return net.predict(net.modulation(*reference_maps, box), net.test_features(*test), PROPOSALS[None])

    before = score()
    used = reference != "none"
    assert torch.equal(before, score(box=box + 9)) != used
    for level in (3, 4):
        changed = layer2[:1] + (level == 3), layer3[:1] + (level == 4)
        assert torch.equal(before, score(reference_maps=changed)) != (used and level in levels)
        changed = layer2[1:] + (level == 3), layer3[1:] + (level == 4)
        assert torch.equal(before, score(test=changed)) != (level in levels)


@pytest.mark.parametrize("levels", LEVELS)
def test_a_siamese_network_treats_both_frames_alike(levels):
    net, layer2, layer3, _ = small("siamese", levels)
    boxes = torch.tensor([[40.0, 50, 40, 30], [30, 40, 35, 45]]).double()
    with torch.no_grad():
        kept, maps = net.modulation(layer2, layer3, boxes), net.test_features(layer2, layer3)
        swapped = Modulation(kept.level3.flip(0), kept.level4.flip(0))
        found = net.predict(swapped, maps, boxes[:, None])[:, 0]  # 0 as seen by 1, and 1 as seen by 0
        assert found[0].item() == pytest.approx(found[1].item(), rel=1e-12)
        of_itself = net.predict(kept, maps, boxes[:, None])[:, 0]
        squares = kept.level3.square().sum(1) + kept.level4.square().sum(1)
        scale, bias = net.iou_predictor.weight[0, 0], net.iou_predictor.bias[0]
        torch.testing.assert_close(of_itself, scale * squares + bias)
    assert scale.item() == pytest.approx((24 * len(levels)) ** -0.5)


@pytest.mark.parametrize("levels", LEVELS)
def test_kinds_that_differ_in_the_reference_alone(levels):
    """Weights of one, and joined vectors that nothing is made of, leave the network without reference."""
    net, layer2, layer3, nothing = small("none", levels)
    maps = net.test_features(layer2, layer3)
    boxes = PROPOSALS.expand(2, -1, -1)
    want = net.predict(nothing, maps, boxes)
    other, *_, kept = small("modulation", levels)
    same = net.state_dict()
    modulated = IoUNet((16, 32), 24, "modulation", levels).double().eval()
    modulated.load_state_dict({**other.state_dict(), **same})
    ones = Modulation(torch.ones_like(kept.level3), torch.ones_like(kept.level4))
    torch.testing.assert_close(modulated.predict(ones, maps, boxes), want)
    joined, *_, kept = small("concatenation", levels)
    weights = {**joined.state_dict(), **same}
    for name in [n for n in same if n.endswith("linear.weight")]:
        weights[name] = torch.cat((same[name], torch.zeros(24, 24).double()), dim=1)
    deaf = IoUNet((16, 32), 24, "concatenation", levels).double().eval()
    deaf.load_state_dict(weights)
    torch.testing.assert_close(deaf.predict(kept, maps, boxes), want)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"reference": "siamse"}, "siamese"),
        ({"reference": None}, "unknown"),
        ({"levels": (4, 3)}, r"\(3, 4\)"),
        ({"levels": ()}, "unknown"),
        ({"levels": (2,)}, r"\(3,\)"),
    ],
)
def test_unknown_kinds(kind, words):
    with pytest.raises(InputError, match=words):
        IoUNet(**kind)
