"""Properties that every loss must have whatever its numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keepsight.errors import InputError, KeepsightError
from keepsight.training.losses import (
    NonFiniteLossError,
    box_kl,
    box_ml,
    classification_accuracy,
    focal_loss,
    giou_loss,
    grid_kl,
    lb_hinge,
    lb_hinge_per_sequence,
    lb_hinge_v2,
    lovasz_loss,
    target_cell_loss,
)

seeds = st.integers(0, 2**31 - 1)


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
def test_hinge_ignores_how_low_the_background_scores(seed):
    label = maps(seed, 2, 3, 5, 5).clamp(min=0)
    scores = maps(seed + 1, 2, 3, 5, 5)
    lower = torch.where(label < 0.05, scores - 10 * (scores <= 0), scores)
    assert torch.equal(lb_hinge(scores, label), lb_hinge(lower, label))


def test_hinge_is_zero_for_the_label_itself_where_the_target_is_and_below_elsewhere():
    label = torch.tensor([[0.0, 0.04], [0.05, 1.0]])
    scores = torch.tensor([[-3.0, 0.0], [0.05, 1.0]])
    assert lb_hinge(scores, label).item() == 0
    assert lb_hinge(scores + 1, label).item() == pytest.approx(3 / 4)  # (0, 1, 1, 1)²


def test_hinge_gradient_is_cut_at_the_clip():
    scores = torch.full((4, 4), 5.0, requires_grad=True)
    lb_hinge(scores, torch.zeros(4, 4), clip=0.1).backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() == 0


@given(seeds)
def test_validity_mask_means_the_mean_over_valid_maps(seed):
    scores, label = maps(seed, 3, 2, 4, 4), maps(seed + 1, 3, 2, 4, 4).clamp(min=0)
    valid = torch.tensor([[1, 0], [0, 1], [1, 1]])
    each = lb_hinge_per_sequence(scores, label)
    assert lb_hinge_v2(scores, label, valid=valid).item() == pytest.approx(each[valid.bool()].mean().item())
    cells = target_cell_loss(scores, (label > 1).double(), valid)
    alone = torch.stack([target_cell_loss(scores[i, j], (label[i, j] > 1).double()) for i, j in valid.nonzero()])
    assert cells.item() == pytest.approx(alone.mean().item())


@given(seeds, st.floats(-50, 50))
def test_densities_do_not_care_about_a_constant_in_the_scores(seed, shift):
    scores, q = maps(seed, 4, 16), maps(seed + 1, 4, 16).exp()
    p = q * torch.softmax(maps(seed + 2, 4, 16), dim=-1) * 16
    p = p / (p / q).mean(dim=-1, keepdim=True)  # Monte-Carlo estimate of ∫p is 1
    assert box_kl(scores + shift, q, p).item() == pytest.approx(box_kl(scores, q, p).item(), abs=1e-9)
    marked = q.clone()
    marked[:, 0] = -1
    assert box_ml(scores + shift, marked).item() == pytest.approx(box_ml(scores, marked).item(), abs=1e-9)
    grid = scores.view(4, 4, 4)
    density = torch.softmax(maps(seed + 3, 4, 16), -1).view(4, 4, 4)
    assert grid_kl(grid + shift, density).item() == pytest.approx(grid_kl(grid, density).item(), abs=1e-9)


@given(seeds)
def test_grid_kl_is_smallest_at_the_density(seed):
    density = torch.softmax(maps(seed, 1, 25), -1).view(1, 5, 5)
    best = grid_kl(density.log(), density)
    entropy = -(density * density.log()).sum()
    assert best.item() == pytest.approx(entropy.item())
    assert grid_kl(density.log() + 0.1 * maps(seed + 1, 1, 5, 5), density) >= best


@given(seeds)
def test_box_kl_is_smallest_at_the_density(seed):
    q, p = maps(seed, 2, 8).exp(), maps(seed + 1, 2, 8).exp()
    p = p / (p / q).mean(dim=-1, keepdim=True)
    at = p.log().detach().requires_grad_()
    (gradient,) = torch.autograd.grad(box_kl(at, q, p), at)
    assert gradient.abs().max() < 1e-12


def test_large_scores_do_not_overflow():
    scores = torch.full((1, 4), 1e4)
    q = torch.ones(1, 4)
    assert math.isfinite(box_kl(scores, q, q).item())
    assert math.isfinite(grid_kl(scores.view(1, 2, 2), torch.full((1, 2, 2), 0.25)).item())


def test_ml_wants_the_true_box_first():
    with pytest.raises(InputError, match="add_mean_box"):
        box_ml(torch.zeros(1, 3), torch.ones(1, 3))


@given(seeds)
def test_focal_without_focus_is_cross_entropy(seed):
    scores, target = maps(seed, 6, 6), (maps(seed + 1, 6, 6) > 0).double()
    assert focal_loss(scores, target, gamma=0).item() == pytest.approx(target_cell_loss(scores, target).item())
    assert focal_loss(scores, target, gamma=2) <= focal_loss(scores, target, gamma=1)


def test_accuracy_of_peaks():
    label = torch.zeros(3, 3, 3)
    label[:2, 1, 1] = 1.0  # maps 0 and 1 have the target, map 2 does not
    scores = torch.zeros(3, 3, 3)
    scores[0, 1, 1], scores[1, 0, 0], scores[2, 2, 2] = 1, 1, 1
    assert classification_accuracy(scores, label).tolist() == [1, 0, 1]
    label[2, 2, 2] = -5  # a marker below 0 counts as 0
    assert classification_accuracy(scores, label).tolist() == [1, 0, 1]


def test_giou_limits():
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    loss, iou = giou_loss(box, box)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert iou.item() == pytest.approx(1, abs=1e-6)
    half = box.clone()
    half[0, 2] = 1.0  # half as wide, inside
    loss, iou = giou_loss(half, box)
    assert (loss.item(), iou.item()) == (pytest.approx(0.5, abs=1e-6), pytest.approx(0.5, abs=1e-6))
    assert giou_loss(half.repeat(2, 1), box.repeat(2, 1), torch.zeros(2))[1].shape == (2,)  # no weight: all count
    assert giou_loss(half.repeat(2, 1), box.repeat(2, 1), torch.tensor([0.0, 1.0]))[1].shape == (1,)


@given(seeds)
def test_lovasz_of_hard_masks_is_the_jaccard_loss(seed):
    mask = (maps(seed, 1, 30) > 0).double()
    guess = (maps(seed + 1, 1, 30) > 0).double()
    mask[0, 0] = guess[0, 0] = 1
    loss = lovasz_loss(2000 * guess - 1000, mask)
    jaccard = (mask * guess).sum() / torch.maximum(mask, guess).sum()
    assert loss.item() == pytest.approx(1 - jaccard.item(), abs=1e-9)


def test_gradients():
    scores = maps(0, 2, 2, 3, 3).requires_grad_()
    q, p = maps(1, 2, 2, 9).exp(), maps(2, 2, 2, 9).exp()
    label = maps(3, 2, 2, 3, 3).clamp(min=0)
    for loss in (
        lambda s: lb_hinge(s, label),
        lambda s: grid_kl(s, label),
        lambda s: box_kl(s.flatten(2), q, p),
        lambda s: focal_loss(s, (label > 0).double(), 2.0, 0.25),
    ):
        assert torch.autograd.gradcheck(loss, scores)


def test_error_of_non_finite_losses_names_the_parts_and_groups():
    error = NonFiniteLossError({"box": math.nan, "classifier": 1.5}, ["coco/12 frames 0", "lasot/cat-1 frames 3, 5"])
    assert isinstance(error, KeepsightError)
    assert "box nan" in str(error)
    assert "lasot/cat-1" in str(error)
    assert error.identities[0] == "coco/12 frames 0"
