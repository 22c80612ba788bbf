"""The box estimator against slow formulas, and what its scores depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from keepsight.nn.box_net import COARSE, FINE, BoxNet, TargetView
from keepsight.nn.roi_pool import prroi_pool

FINE_CHANNELS, COARSE_CHANNELS, CELLS = 6, 10, 5


def small_net(**changes: int) -> BoxNet:
    torch.manual_seed(0)
    net = BoxNet(FINE_CHANNELS, COARSE_CHANNELS, **{"channels": 8, "hidden": 12, "grid": 3, **changes}).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def net() -> BoxNet:
    return small_net()


def features(count: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Of ``count`` crops of 65 × 65 pixels."""
    rng = torch.Generator().manual_seed(seed)
    fine = torch.randn(count, FINE_CHANNELS, 2 * CELLS - 1, 2 * CELLS - 1, generator=rng).double()
    return fine, torch.randn(count, COARSE_CHANNELS, CELLS, CELLS, generator=rng).double()


def boxes(*shape: int, seed: int = 2) -> Tensor:
    """xywh, some of them reaching out of the crop."""
    rng = torch.Generator().manual_seed(seed)
    return 5 + 35 * torch.rand(*shape, 4, generator=rng).double()


def slow_pool(net: BoxNet, maps: Tensor, box: Tensor) -> Tensor:
    """(C, h, w), (4,) -> (2, C, g, g): the box, and the box doubled about its centre, in the grid's own coordinates."""
    x, y, w, h = box.tolist()
    pooled = []
    for factor in (1, 2):
        centre_x, centre_y, wide, high = x + w / 2, y + h / 2, factor * w, factor * h
        # what is called 0.5, the middle of the first pixel, is cell 0
        roi = (
            centre_x - wide / 2 - 0.5,
            centre_y - high / 2 - 0.5,
            centre_x + wide / 2 - 0.5,
            centre_y + high / 2 - 0.5,
        )
        pooled.append(prroi_pool(maps[None], maps.new_tensor([[0, *roi]]), (net.grid, net.grid), 1 / FINE)[0])
    return torch.stack(pooled)


def slow_scores(net: BoxNet, reference: Tensor, reference_box: Tensor, maps: Tensor, guesses: Tensor) -> Tensor:
    """Of one target, box by box: looks of what is in the box, channels weighed, plus its product with the template."""
    first = slow_pool(net, reference, reference_box)  # (2, C, g, g)
    gate = 1 + net.gate(first[0].flatten()[None])[0].view(2, net.channels)
    halves = net.template.weight.view(2, net.channels, net.channels), net.template.bias.view(2, net.channels)
    template = torch.stack([
        torch.einsum("oc,cyx->oyx", weight, part) + bias[:, None, None]
        for weight, bias, part in zip(*halves, first, strict=True)
    ])  # fmt: skip
    found = []
    for guess in guesses:
        pooled = slow_pool(net, maps, guess)  # (2, C, g, g)
        looks = net.looks((pooled * gate[..., None, None]).flatten())
        found.append(net.score(net.mix(looks + net.agreement((pooled * template).flatten()))))
    return torch.cat(found)


@torch.no_grad()
def test_shapes(net: BoxNet) -> None:
    fine, coarse = features()
    assert COARSE == 2 * FINE
    assert net.fuse(fine, coarse).shape == (3, 8, 9, 9)
    maps = net.maps(fine, coarse)
    assert maps.shape == (3, 8, 9, 9)
    view = net.view(fine, coarse, boxes(3))
    assert view.weight.shape == (3, 12, 2 * 8 * 3 * 3)
    assert view.bias.shape == (3, 12)
    assert net.scores(maps, view, boxes(3, 7)).shape == (3, 7)


@torch.no_grad()
def test_coarse_cells_lie_on_every_other_fine_cell(net: BoxNet) -> None:
    fine, coarse = features(1)
    want = net.lateral_coarse(coarse) + net.lateral_fine(fine)[..., ::2, ::2]
    torch.testing.assert_close(net.fuse(fine, coarse)[..., ::2, ::2], want.relu())


@torch.no_grad()
def test_pooling_of_boxes_and_of_doubled_boxes(net: BoxNet) -> None:
    maps = features(2)[0]
    guesses = boxes(2, 4)
    pooled = net._pool(maps, guesses)
    assert pooled.shape == (2, 4, 2, FINE_CHANNELS, 3, 3)
    for b in range(2):
        for p in range(4):
            torch.testing.assert_close(pooled[b, p], slow_pool(net, maps[b], guesses[b, p]))


def test_a_cell_lies_in_the_middle_of_its_pixel(net: BoxNet) -> None:
    """A box of one cell's pixels around pixel (8·4, 8·2) gives that cell, when the map is linear."""
    row, column = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    box = torch.tensor([[[8 * 4 + 0.5 - 6, 8 * 2 + 0.5 - 6, 12.0, 12.0]]])
    pooled = net._pool(torch.stack((row, column))[None], box)  # (1, 1, 2, 2, g, g)
    torch.testing.assert_close(pooled[0, 0, :, :, 1, 1], torch.tensor([[2.0, 4.0], [2.0, 4.0]]))


@torch.no_grad()
def test_view_then_scores_is_the_slow_formula(net: BoxNet) -> None:
    fine, coarse = features(2)
    other, guesses, reference_boxes = features(2, seed=5), boxes(2, 5), boxes(2, seed=7)
    got = net.scores(net.maps(*other), net.view(fine, coarse, reference_boxes), guesses)
    reference = net.reference(net.fuse(fine, coarse))
    for s in range(2):
        want = slow_scores(net, reference[s], reference_boxes[s], net.maps(*other)[s], guesses[s])
        torch.testing.assert_close(got[s], want)


@torch.no_grad()
def test_targets_together_are_as_one_by_one(net: BoxNet) -> None:
    fine, coarse = features()
    maps, guesses, reference_boxes = net.maps(*features(seed=5)), boxes(3, 4), boxes(3, seed=7)
    view = net.view(fine, coarse, reference_boxes)
    together = net.scores(maps, view, guesses)
    for s in range(3):
        rows = slice(s, s + 1)
        alone = net.view(fine[rows], coarse[rows], reference_boxes[rows])
        torch.testing.assert_close(net.scores(maps[rows], alone, guesses[rows]), together[rows])


@torch.no_grad()
def test_the_score_depends_on_the_target_and_on_the_picture(net: BoxNet) -> None:
    fine, coarse = features(2)
    guesses = boxes(1, 4)
    maps = net.maps(fine[:1], coarse[:1])
    view = net.view(fine, coarse, boxes(2))

    def of(target: int, maps: Tensor = maps) -> Tensor:
        return net.scores(maps, TargetView(view.weight[target : target + 1], view.bias[:1]), guesses)

    assert (of(0) - of(1)).abs().min() > 1e-4
    assert (of(0) - of(0, net.maps(fine[1:], coarse[1:]))).abs().min() > 1e-4
    wider = net.view(fine[:1], coarse[:1], boxes(2)[:1] + 3)  # the same crop, another box
    assert not torch.allclose(wider.weight, view.weight[:1])


def test_the_gradient_reaches_every_parameter() -> None:
    net = small_net().train()
    fine, coarse = (f.requires_grad_() for f in features())
    guesses = boxes(3, 6).requires_grad_()
    scores = net.scores(net.maps(fine, coarse), net.view(fine, coarse, boxes(3)), guesses)
    scores.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(t.grad.abs().sum() > 0 for t in (fine, coarse, guesses))


def test_the_gradient_by_the_boxes(net: BoxNet) -> None:
    """What a tracker climbs."""
    with torch.no_grad():
        maps, view = net.maps(*features(1)), net.view(*features(1, seed=4), boxes(1))
    guesses = boxes(1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: net.scores(maps, view, b), guesses, eps=1e-6, atol=1e-6)


def test_autocast_keeps_the_scores_in_float32() -> None:
    net = small_net().float()
    fine, coarse = (f.float() for f in features())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps, view = net.maps(fine, coarse), net.view(fine, coarse, boxes(3).float())
        scores = net.scores(maps, view, boxes(3, 4).float())
    assert {t.dtype for t in (maps, view.weight, view.bias, scores)} == {torch.float32}
