"""Objectives on small random networks: what they add up, which parameters learn, and that learning lowers them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from keepsight.boxes import iou
from keepsight.errors import InputError
from keepsight.models.lite import cell_of
from keepsight.models.overlap import TrainingOutput
from keepsight.nn.target_filter import gaussian_label
from keepsight.training.batch import Batch
from keepsight.training.losses import NonFiniteLossError, box_kl, grid_kl, iou_mse, lb_hinge
from keepsight.training.objectives import (
    AtomObjective,
    DiMPObjective,
    LiteObjective,
    PrDiMPObjective,
    SuperDiMPObjective,
)
from keepsight.training.recipes import debug, find_recipe, recipe_names

SIDE = 64


def random_batch(frames: int = 2, groups: int = 2, proposals: int = 6, seed: int = 0, marked: bool = False) -> Batch:
    """Bright squares on noise, with every optional tensor."""
    rng = torch.Generator().manual_seed(seed)
    cells = SIDE // 16 + 1
    images, boxes = [], []
    for _ in range(2):
        image = 0.3 * torch.randn(frames, groups, 3, SIDE, SIDE, generator=rng)
        corner = torch.randint(10, 30, (frames, groups, 2), generator=rng)
        for i in range(frames):
            for j in range(groups):
                x, y = corner[i, j].tolist()
                image[i, j, :, y : y + 20, x : x + 20] += 1.5
        images.append(image)
        boxes.append(torch.cat((corner.float(), torch.full_like(corner, 20).float()), dim=-1))
    centres = (boxes[1][..., :2] + 10) / 16  # (frames, groups, 2) as x, y in cells
    grid = torch.arange(cells).float()
    dx, dy = grid - centres[..., :1], grid - centres[..., 1:]
    label = torch.exp(-(dy[..., :, None] ** 2) / 1.28) * torch.exp(-(dx[..., None, :] ** 2) / 1.28)
    shift = torch.randn(frames, groups, proposals, 4, generator=rng) * torch.tensor([4.0, 4.0, 3.0, 3.0])
    guesses = boxes[1][:, :, None] + shift
    q = 0.1 + torch.rand(frames, groups, proposals, generator=rng)
    if marked:
        guesses[:, :, 0], q[:, :, 0] = boxes[1], -1.0
    return Batch(
        images[0], images[1], boxes[0], boxes[1], proposals=guesses,
        proposal_iou=2 * iou(guesses, boxes[1][:, :, None]) - 1, proposal_density=q,
        gt_density=torch.rand(q.shape, generator=rng), train_label=label.clone(), test_label=label,
        test_label_density=label / label.sum(dim=(-2, -1), keepdim=True), identities=["a", "b"],
    )  # fmt: skip


class Fixed(nn.Module):
    """A network that answers with given numbers."""

    def __init__(self, scores: tuple[Tensor, ...], boxes: Tensor) -> None:
        super().__init__()
        self.scores, self.boxes = scores, boxes

    def forward(self, *_: object) -> TrainingOutput:
        return TrainingOutput(self.scores, self.boxes)


def fixed(batch: Batch, iterates: int = 6) -> Fixed:
    rng = torch.Generator().manual_seed(3)
    assert batch.test_label is not None
    assert batch.proposals is not None
    scores = tuple(torch.randn(batch.test_label.shape, generator=rng).requires_grad_() for _ in range(iterates))
    return Fixed(scores, torch.randn(batch.proposals.shape[:3], generator=rng).requires_grad_())


def test_dimp_weighs_every_iterate_by_a_hundred():
    batch = random_batch()
    net = fixed(batch)
    losses = DiMPObjective()(net, batch)
    each = [lb_hinge(s, batch.test_label) for s in net.scores]
    want = iou_mse(net.boxes, batch.proposal_iou) + 100 * sum(each)
    assert losses.total.item() == pytest.approx(want.item(), rel=1e-6)
    assert losses.parts["classifier"].item() == pytest.approx(100 * each[5].item(), rel=1e-6)
    assert losses.parts["classifier_initial"].item() == pytest.approx(100 * each[0].item(), rel=1e-6)
    assert losses.parts["classifier_iterations"].item() == pytest.approx(100 * sum(each[1:5]).item(), rel=1e-6)
    assert losses.statistics["iou_error"].item() == pytest.approx(
        0.5 * (net.boxes - batch.proposal_iou).abs().mean().item(), rel=1e-5
    )


def test_prdimp_and_superdimp_totals():
    batch = random_batch()
    net = fixed(batch)
    box = box_kl(net.boxes, batch.proposal_density, batch.gt_density)
    each = [grid_kl(s, batch.test_label_density) for s in net.scores]
    want = 0.0025 * box + 0.25 * each[-1] + 0.25 * each[0] + 0.25 * sum(each[1:5])
    assert PrDiMPObjective()(net, batch).total.item() == pytest.approx(want.item(), rel=1e-6)
    want = 0.01 * box + 100 * sum(lb_hinge(s, batch.test_label) for s in net.scores)
    assert SuperDiMPObjective()(net, batch).total.item() == pytest.approx(want.item(), rel=1e-6)


def test_dimp_lite_weighs_the_final_filter_and_the_mean_of_those_before_it():
    batch = random_batch()
    net = fixed(batch)
    label = gaussian_label(cell_of(batch.test_boxes), (5, 5), 0.9)
    each = [lb_hinge(s, label) for s in net.scores]
    box = box_kl(net.boxes, batch.proposal_density, batch.gt_density)
    losses = LiteObjective()(net, batch)
    assert losses.parts["classifier"].item() == pytest.approx(100 * each[5].item(), rel=1e-6)
    assert losses.parts["classifier_iterations"].item() == pytest.approx(25 * sum(each[1:5]).item(), rel=1e-6)
    assert losses.parts["box"].item() == pytest.approx(0.3 * box.item(), rel=1e-6)
    losses.total.backward()
    assert net.scores[0].grad is None  # the zero filter's
    assert all(s.grad.any() for s in net.scores[1:])
    alone = LiteObjective()(Fixed(net.scores[:1] + net.scores[5:], net.boxes), batch)  # one iteration
    assert set(alone.parts) == {"box", "classifier"}
    assert alone.parts["classifier"].item() == pytest.approx(100 * each[5].item(), rel=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 1)])
def test_dimp_lites_label_peaks_in_the_cell_whose_pixel_the_target_is_at(row, column):
    """Scores that are 1 there and 0 elsewhere are accurate, and better than those of any other cell."""
    batch = random_batch()
    width, height = 26.0, 18.0
    centre = torch.tensor([16 * column + 0.5, 16 * row + 0.5])  # cell n lies at pixel 16 n, whose middle is at 16 n + ½
    size = torch.tensor([width, height])
    batch = replace(batch, test_boxes=torch.cat((centre - size / 2, size)).expand(2, 2, 4).clone())
    found, accurate = {}, set()
    for cell in range(25):
        scores = torch.zeros(2, 2, 25)
        scores[..., cell] = 1
        losses = LiteObjective()(Fixed((scores.view(2, 2, 5, 5),) * 2, torch.zeros(2, 2, 6)), batch)
        found[divmod(cell, 5)] = losses.parts["classifier"].item()
        if losses.statistics["accuracy"] == 1:
            accurate.add(divmod(cell, 5))
    assert min(found, key=found.__getitem__) == (row, column)
    nearer = {c for c in found if (c[0] - row) ** 2 + (c[1] - column) ** 2 <= 2}  # e^(-d² / 2·0.81) is at least 0.25
    assert accurate == nearer


@pytest.mark.parametrize("objective", [DiMPObjective(), PrDiMPObjective(), SuperDiMPObjective(), LiteObjective()])
def test_parts_add_up_and_carry_no_gradient(objective):
    batch = random_batch()
    losses = objective(fixed(batch), batch)
    assert sum(losses.parts.values()).item() == pytest.approx(losses.total.item(), rel=1e-6)
    assert losses.total.requires_grad
    assert not any(v.requires_grad for v in (*losses.parts.values(), *losses.statistics.values()))
    assert 0 <= losses.statistics["accuracy"] <= 1
    assert 0 <= losses.statistics["iou"] <= 1


def test_the_iou_statistic_is_of_the_best_scored_guess():
    batch = random_batch(marked=True)
    assert batch.proposals is not None
    truth = batch.proposals.clone()
    net = fixed(batch)
    net.boxes = torch.zeros(2, 2, 6)
    net.boxes[..., 0] = 9  # the true box itself, which for the likelihood is no guess
    net.boxes[..., 3] = 1
    want = iou(truth[..., 3, :], batch.test_boxes).mean().item()
    assert AtomObjective("ml")(net, batch).statistics["iou"].item() == pytest.approx(want)
    assert AtomObjective("mse")(net, batch).statistics["iou"].item() == pytest.approx(1)


@pytest.mark.parametrize("objective", [DiMPObjective(), PrDiMPObjective(), AtomObjective()])
def test_frames_without_target_have_no_box_loss(objective):
    batch = random_batch()
    part, gone = random_batch(), random_batch()
    part.test_boxes[0, 1, 0] = 99999.0
    gone.test_boxes[:] = 99999.0
    net = fixed(batch)
    box = objective(net, part).parts["box"]
    keep = torch.tensor([[True, False], [True, True]])
    alone = replace(batch, **{
        k: getattr(batch, k)[keep][None] for k in ("proposals", "proposal_iou", "proposal_density", "gt_density", "test_boxes")
    })  # fmt: skip
    assert box.item() == pytest.approx(objective(_boxes_only(net, keep), alone).parts["box"].item(), rel=1e-6)
    none = objective(net, gone)
    assert none.parts["box"].item() == 0
    none.total.backward()
    assert torch.isfinite(net.boxes.grad).all()
    negative = replace(batch, is_negative=torch.tensor([True, True]))
    assert objective(net, negative).parts["box"].item() == 0


def _boxes_only(net: Fixed, keep: Tensor) -> Fixed:
    return Fixed(net.scores, net.boxes[keep][None])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "objective", [PrDiMPObjective(), SuperDiMPObjective(), DiMPObjective(), AtomObjective(), LiteObjective()]
)
def test_numbers_that_are_none_raise(objective, value):
    batch = random_batch()
    net = fixed(batch)
    net.boxes = torch.full_like(net.boxes, value)
    with pytest.raises(NonFiniteLossError, match="Groups of this batch: a; b") as caught:
        objective(net, batch)
    assert not math.isfinite(caught.value.parts["box"])


@pytest.mark.parametrize(
    ("objective", "part"),
    [
        (AtomObjective(), "proposals"),
        (AtomObjective(), "proposal_iou"),
        (AtomObjective("ml"), "proposal_density"),
        (DiMPObjective(), "test_label"),
        (PrDiMPObjective(), "test_label_density"),
        (PrDiMPObjective(), "gt_density"),
        (LiteObjective(), "proposals"),
        (LiteObjective(), "proposal_density"),
    ],
)
def test_missing_parts_are_named(objective, part):
    batch = random_batch(marked=True)
    net = fixed(batch)
    with pytest.raises(InputError, match=rf"no {part}\b"):
        objective(net, replace(batch, **{part: None}))


def test_unknown_box_loss():
    with pytest.raises(InputError, match="'ml'"):
        AtomObjective("map")


@pytest.fixture(scope="module", params=recipe_names())
def trained(request):
    """A small network after backward on one batch, with the recipe and the batch."""
    recipe = debug(find_recipe(request.param))
    torch.manual_seed(1)
    net = recipe.build_network()
    batch = random_batch(1 if request.param.startswith("atom") else 2, marked=request.param == "atom_prob_ml")
    if not recipe.data.processing.normalise:
        batch = replace(batch, train_images=100 + 50 * batch.train_images, test_images=100 + 50 * batch.test_images)
    losses = recipe.objective(net, batch)
    losses.total.backward()
    return recipe, net, batch, losses


def test_gradients_reach_what_is_trained_and_nothing_else(trained):
    recipe, net, _, _ = trained
    with_gradient = {n for n, p in net.named_parameters() if p.grad is not None}
    assert with_gradient == {n for n, p in net.named_parameters() if p.requires_grad}
    still = {n for n, p in net.named_parameters() if p.grad is not None and not p.grad.any()}
    # batch norm takes away whatever a bias before it adds; PrDiMP starts with its regulariser at the limit, or with dead
    # units at this size; dimp_lite's residual branch starts as nothing, so that at first only its last layer learns
    weights = {n for n in still if not n.endswith("bias") and not n.startswith("residual.")}
    assert weights <= {"classifier.filter_optimizer.filter_reg"}, recipe.name
    parts = {n.split(".")[0] for n in with_gradient - still}
    if recipe.name.startswith("dimp_lite"):
        assert parts == {"backbone", "projection", "residual", "filter_optimizer", "box_net"}
        assert "residual.4.weight" not in still
    elif recipe.name.startswith("atom"):
        assert parts == {"bb_regressor"}
    else:
        assert parts == {"feature_extractor", "classifier", "bb_regressor"}


def test_batch_norm_statistics_move_where_they_should(trained):
    recipe, net, _, _ = trained
    moved = {n.rsplit(".", 1)[0] for n, b in net.named_buffers() if n.endswith("num_batches_tracked") and b > 0}
    fixed_parts = recipe.fixed_statistics
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "layer4" not in name:
            stays = any(name == f or name.startswith(f + ".") for f in fixed_parts)
            assert (name in moved) == (not stays), name


def test_the_box_loss_teaches_the_backbone(trained):
    recipe, net, batch, _ = trained
    atom = recipe.name.startswith("atom")
    given = (batch.train_images, batch.test_images, batch.train_boxes, batch.proposals)
    lite = recipe.name.startswith("dimp_lite")
    net.zero_grad()
    net(*given, *([] if atom or lite else [batch.train_label])).boxes.square().mean().backward()
    gradient = (
        (net.backbone.blocks[0].project if lite else net.feature_extractor.layer3[0])
        .get_parameter("conv.weight" if lite else "conv1.weight")
        .grad
    )
    assert gradient is None if atom else gradient.abs().max() > 0  # ATOM's backbone does not learn


def test_a_few_steps_lower_the_loss(trained):
    recipe, net, batch, _ = trained
    optimiser = recipe.build_optimiser(net)
    values = []
    for _ in range(6):
        optimiser.zero_grad()
        losses = recipe.objective(net, batch)
        losses.total.backward()
        optimiser.step()
        values.append(losses.total.item())
    assert values[-1] < values[0], values
