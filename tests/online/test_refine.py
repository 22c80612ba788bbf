"""Box ascent on a known score: both spaces, step control, choice."""

from __future__ import annotations

import math

import pytest
import torch

from keepsight.boxes import to_relative
from keepsight.errors import InputError
from keepsight.online.refine import RefineConfig, ascend, choose, proposals

GOAL = torch.tensor([50.0, 40.0, 30.0, 20.0], dtype=torch.float64)


class Bowl:
    """Score -|b - goal|² by corner and size, with its gradient."""

    def __init__(self, goal=GOAL):
        self.goal = goal

    def score(self, boxes):
        return -(boxes - self.goal).square().sum(dim=1)

    def score_and_gradient(self, boxes):
        return self.score(boxes), -2 * (boxes - self.goal)


START = torch.tensor([[46.0, 44.0, 26.0, 25.0], [55.0, 35.0, 33.0, 22.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "config",
    [
        RefineConfig(iterations=200, step=0.005),
        RefineConfig(space="relative", iterations=400, step=(1e-4, 1e-4)),
        RefineConfig(iterations=200, step=0.005, step_decay=0.999),
        RefineConfig(iterations=100, step=0.2, step_decay=0.5, step_control=True),
    ],
)
def test_reaches_the_summit(config):
    boxes, scores = ascend(Bowl(), START, config)
    assert torch.allclose(boxes, GOAL.expand_as(boxes), atol=0.05)
    assert (scores > -0.05).all()


def test_relative_steps_are_autograd_in_relative_space():
    config = RefineConfig(space="relative", iterations=1, step=(1e-3, 5e-3))
    from keepsight.boxes import from_relative

    normaliser = START[:1, 2:]
    r = to_relative(START, normaliser).requires_grad_()
    gradient = torch.autograd.grad(Bowl().score(from_relative(r, normaliser)).sum(), r)[0]
    want = from_relative(r + torch.tensor([1e-3, 1e-3, 5e-3, 5e-3]) * gradient, normaliser)
    assert torch.allclose(ascend(Bowl(), START, config)[0], want)


def test_scores_lag_one_step_unless_rescored():
    lagging = ascend(Bowl(), START, RefineConfig(iterations=1, step=1e-3))
    assert torch.equal(lagging[1], Bowl().score(START))  # quirk Q8
    fresh = ascend(Bowl(), START, RefineConfig(iterations=1, step=1e-3, rescore=True))
    assert torch.equal(fresh[1], Bowl().score(fresh[0]))


def test_step_control_undoes_a_worse_step():
    config = RefineConfig(iterations=2, step=0.1, step_decay=0.5, step_control=True)  # the first step overshoots
    boxes, _ = ascend(Bowl(), START[:1], config)
    assert torch.allclose(boxes, START[:1])


def test_proposals_follow_the_rule():
    box = torch.tensor([10.0, 20.0, 40.0, 10.0])
    uniforms = torch.rand(9, 4)
    got = proposals(box, uniforms, RefineConfig())
    unit = math.sqrt(400)
    size = torch.maximum(box[2:] + (uniforms[:, 2:] - 0.5) * unit * 0.5, torch.tensor(10 / 3))
    centre = box[:2] + box[2:] / 2 + (uniforms[:, :2] - 0.5) * unit * 0.1
    assert torch.equal(got[0], box)
    assert torch.allclose(got[1:], torch.cat((centre - size / 2, size), 1))
    assert torch.equal(proposals(box, None, RefineConfig()), box[None])


def test_choice_drops_elongated_boxes_and_averages_the_best():
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [2, 0, 10, 10], [4, 0, 10, 10], [0, 0, 61, 10], [0, 0, 10, 0.1], [50, 0, 10, 10]]
    )
    scores = torch.tensor([3.0, 2, 1, 99, 98, 0])
    assert choose(boxes, scores, RefineConfig()).tolist() == [2, 0, 10, 10]
    assert choose(boxes, scores, RefineConfig(top_k=1)).tolist() == [0, 0, 10, 10]
    assert choose(boxes[3:5], scores[3:5], RefineConfig()) is None
    assert choose(boxes[:1] * math.nan, scores[:1], RefineConfig()) is None


def test_zero_iterations_return_the_boxes():
    boxes, scores = ascend(Bowl(), START, RefineConfig(iterations=0))
    assert torch.equal(boxes, START)
    assert torch.equal(scores, Bowl().score(START))


def test_bad_settings():
    for bad in ({"space": "polar"}, {"iterations": -1}, {"top_k": 0}):
        with pytest.raises(InputError):
            RefineConfig(**bad)
