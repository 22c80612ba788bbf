"""Losses against golden/net/losses.npz: values in both precisions, gradients by autograd."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from golden_rules import arrays, block, compare, fill, tolerance
from torch import Tensor

from keepsight.training.losses import (
    box_kl,
    box_ml,
    classification_accuracy,
    focal_loss,
    giou_loss,
    grid_kl,
    iou_mse,
    lb_hinge,
    lb_hinge_per_sequence,
    lb_hinge_v2,
    lovasz_loss,
    matching_nll,
    target_cell_loss,
)


@dataclass
class Given:
    """The golden inputs in one precision."""

    arrays: Any
    parameters: dict[str, Any]
    dtype: torch.dtype

    def __call__(self, name: str) -> Tensor:
        tensor = torch.from_numpy(self.arrays[f"in_{name}"])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    @property
    def target(self) -> Tensor:
        return (self("label") > self.parameters["target_threshold"]).to(self.dtype)

    @property
    def density(self) -> Tensor:
        label = self("label")
        return label / label.sum(dim=(-2, -1), keepdim=True)

    @property
    def marked(self) -> Tensor:
        """Sample densities with the samples on axis 1 and the true box first."""
        density = self("mc_sample_density").transpose(1, 2).clone()
        density[:, 0] = -1
        return density

    def boxes(self, name: str) -> Tensor:
        return self(name).movedim(2, -1).reshape(-1, 4)

    @property
    def assignment(self) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self(f"gt_{n}")[0] for n in ("assignment", "matches0", "matches1"))


# name of the array -> (name of the prediction, the loss of prediction p); Given g has everything else
Loss = Callable[[Given, Tensor], Tensor]
LOSSES: dict[str, tuple[str, Loss]] = {
    "lbhinge_th0.05": ("pred", lambda g, p: lb_hinge(p, g("label"), 0.05)),
    "lbhinge_th0.5": ("pred", lambda g, p: lb_hinge(p, g("label"), 0.5)),
    "lbhinge_nothr": ("pred", lambda g, p: lb_hinge(p, g("label"), None)),
    "lbhinge_clip": ("pred", lambda g, p: lb_hinge(p, g("label"), **g.parameters["lbhinge_clip"])),
    "lbhinge2": ("pred", lambda g, p: lb_hinge_v2(p, g("label"), **g.parameters["lbhinge2"])),
    "lbhinge2_perseq": ("pred", lambda g, p: lb_hinge_per_sequence(p, g("label"), **g.parameters["lbhinge2"])),
    "lbhinge2_valid": (
        "pred",
        lambda g, p: lb_hinge_v2(p, g("label"), valid=torch.tensor(g.parameters["lbhinge2_valid"])),
    ),
    "celltarget": ("pred", lambda g, p: target_cell_loss(p, g.target)),
    "focal": ("pred", lambda g, p: focal_loss(p, g.target, **g.parameters["focal"])),
    "focal_alpha": ("pred", lambda g, p: focal_loss(p, g.target, **g.parameters["focal_alpha"])),
    "klgrid": ("pred", lambda g, p: grid_kl(p, g.density)),
    "klgrid_scale": ("pred", lambda g, p: grid_kl(p, g.density, g.parameters["klgrid_scale"])),
    "kl": ("mc_scores", lambda g, p: box_kl(p, g("mc_sample_density"), g("mc_gt_density"))),
    "kl_eps": (
        "mc_scores",
        lambda g, p: box_kl(
            p,
            g("mc_sample_density"),
            g("mc_gt_density"),
            g.parameters["kl_eps"]["eps"],
            g.parameters["kl_eps"]["axis"],
        ),
    ),
    "ml": ("mc_scores", lambda g, p: box_ml(p, g.marked, dim=1)),
    "lovasz_perimage1": ("seg_logits", lambda g, p: lovasz_loss(p, g("seg_target"), per_image=True)),
    "lovasz_perimage0": ("seg_logits", lambda g, p: lovasz_loss(p, g("seg_target"))),
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def given(golden, request) -> Given:
    found = arrays(golden, "losses")
    return Given(found, json.loads((golden / "net" / "cases.json").read_text())["parameters"]["losses"], request.param)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient(golden, given, name):
    what, loss = LOSSES[name]
    prediction = given(what)
    if name == "ml":
        prediction = prediction.transpose(1, 2)
    prediction = prediction.detach().requires_grad_()
    value = loss(given, prediction)
    compare(value, given.arrays[name], tolerance(golden, "losses", name), name)
    gradient = f"{name}_grad"
    if gradient in given.arrays:
        (grad,) = torch.autograd.grad(value.sum(), prediction)
        compare(grad, given.arrays[gradient], tolerance(golden, "losses", gradient), gradient)


def test_every_stored_gradient_is_compared(given):
    stored = {k.removesuffix("_grad") for k in given.arrays if k.endswith("_grad")}
    assert stored <= set(LOSSES)


def test_accuracy(golden, given):
    each = classification_accuracy(given("pred"), given("label"), given.parameters["clf_acc"])
    compare(each.flatten(), given.arrays["clf_acc_each"], tolerance(golden, "losses", "clf_acc_each"), "each")
    compare(each.mean(), given.arrays["clf_acc"], tolerance(golden, "losses", "clf_acc"), "mean")


@pytest.mark.parametrize(("name", "weighted"), [("giou", False), ("giou_w", True)])
def test_giou(golden, given, name, weighted):
    weights = given("giou_w").reshape(-1) if weighted else None
    loss, ious = giou_loss(given.boxes("ltrb"), given.boxes("ltrb_target"), weights)
    compare(loss, given.arrays[name], tolerance(golden, "losses", name), name)
    compare(ious, given.arrays[f"{name}_ious"], tolerance(golden, "losses", f"{name}_ious"), f"{name} IoU")


def test_matching(golden, given):
    found = matching_nll(given("log_assignment"), *given.assignment, given.parameters["tcm_balancing"])
    for name, value in zip(("total", "nll_pos", "nll_neg"), found, strict=True):
        key = f"tcm_nll_{name}"
        compare(value, given.arrays[key], tolerance(golden, "losses", key), key)


def test_spec_examples_of_other_losses():
    logits, labels = torch.tensor([[2.0, -1.0], [0.5, -3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert lovasz_loss(logits, labels).item() == pytest.approx(0.6322, abs=5e-5)
    z = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]]).log()[None]
    a, m0, m1 = torch.tensor([[[1, 0], [0, 0]]]), torch.tensor([[0, -1]]), torch.tensor([[1, -2]])
    total, positive, negative = matching_nll(z, a, m0, m1)
    assert [v.item() for v in (positive, negative, total)] == pytest.approx([0.35667, 1.20397, 0.78032], abs=2e-5)


def test_mse_is_the_plain_one(given):
    assert iou_mse(given("pred"), given("label")).item() == pytest.approx(
        float(given.arrays["lbhinge_nothr"]), rel=1e-5
    )


def test_blocks_losses(golden):
    """golden1.json: KL, ML, grid KL and the hinge on formula-filled tensors (spec appendix B)."""
    stored = block(golden, "losses")
    s, q, p = fill(2, 6, a=1.3), fill(2, 6, a=0.5).abs() + 0.1, fill(2, 6, a=0.7).abs()
    marked = q.clone()
    marked[:, 0] = -1
    grid = fill(2, 3, 5, 5)
    density = torch.softmax(fill(2, 3, 25, a=0.21), dim=-1).view(2, 3, 5, 5)
    label = fill(2, 3, 5, 5, a=0.21).clamp(min=0)
    ours = {
        "KL": box_kl(s, q, p, dim=1), "ML": box_ml(s, marked, dim=1), "KLGrid": grid_kl(grid, density),
        "LBHinge0.05": lb_hinge(grid, label, 0.05),
    }  # fmt: skip
    assert stored.keys() == ours.keys()
    for name, value in ours.items():
        assert value.item() == pytest.approx(stored[name][0], abs=1e-6), name  # stored with seven digits
