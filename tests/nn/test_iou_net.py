"""The closed form against the network and autograd, wherever the boxes lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from keepsight.nn.fuse import fold_batch_norms
from keepsight.nn.iou_net import BoxScorer, IoUNet, LevelMap


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    net = IoUNet((16, 32), channels=24).double().eval()
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


def test_folded_network_gives_the_same(problem):
    net, layer2, layer3, modulation = problem
    lean = fold_batch_norms(net)
    boxes = torch.tensor([[30.0, 30, 40, 20]], dtype=torch.float64)
    with torch.no_grad():
        scores = [
            BoxScorer(n.scoring_weights(modulation), n.test_branch(layer2[:1], layer3[:1])).score(boxes)
            for n in (net, lean)
        ]
    assert torch.allclose(*scores)
