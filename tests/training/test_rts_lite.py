"""The recipe rts_lite: its hints, its objective and its network's parts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from keepsight.errors import InputError
from keepsight.models.rts_lite import BOX_HINT, RTSLiteNet, RTSLiteNetConfig
from keepsight.training.batch import Batch
from keepsight.training.job import job_of, weights_header
from keepsight.training.losses import NonFiniteLossError
from keepsight.training.recipes import find_recipe, rts_lite_recipe_names
from keepsight.training.rts_lite import RTSLiteObjective, RTSLiteRecipe, jittered, spoilt, tight_boxes

SIDE = 81
NARROW = RTSLiteNetConfig(
    feature_dim=12, num_filters=4, label_encoder_dims=(4, 6, 8), hint_encoder_dims=(4, 6, 8), decoder_dim=4
)


def squares(count: int, side: int = SIDE) -> Tensor:
    masks = torch.zeros(count, side, side)
    for i in range(count):
        masks[i, 20 + i : 48 + i, 30:60] = 1
    return masks


def recipe() -> RTSLiteRecipe:
    found = find_recipe("rts_lite-debug")
    assert isinstance(found, RTSLiteRecipe)
    return replace(found, network=NARROW)


def batch(groups: int = 2) -> Batch:
    torch.manual_seed(5)
    masks = squares(3 * groups).view(3, groups, SIDE, SIDE)
    images = (60 + 40 * torch.rand(3, groups, 3, SIDE, SIDE) + 90 * masks[:, :, None]).clamp(0, 255)
    boxes = torch.zeros(3, groups, 4)
    return Batch(
        images[:1], images[1:], boxes[:1], boxes[1:], train_masks=masks[:1], test_masks=masks[1:], identities=["a", "b"]
    )


def test_recipe_and_its_debug_variant_as_json() -> None:
    for name in [n + d for n in rts_lite_recipe_names() for d in ("", "-debug")]:
        found = find_recipe(name)
        assert isinstance(found, RTSLiteRecipe)
        assert RTSLiteRecipe.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    header = weights_header(find_recipe("rts_lite"))  # type: ignore[arg-type]
    assert (header["family"], header["preset"]) == ("rts-lite", "rts-lite")
    assert "composite:shared" in header["source"]
    assert RTSLiteNetConfig(**json.loads(json.dumps(header["config"]))) == find_recipe("rts_lite").network


def test_training_groups_hold_every_parameter_and_no_backbone() -> None:
    made = recipe()
    net = made.build_network()
    grouped = sum(p.numel() for g in made.parameter_groups(net) for p in g["params"])
    assert grouped == sum(p.numel() for p in net.parameters())
    assert not any("backbone" in name for name in net.state_dict())


def test_a_run_can_go_on_from_weights(tmp_path) -> None:
    from keepsight.weights.store import WeightsHeader, save_weights

    first = recipe().build_network()
    path = save_weights(tmp_path / "first.safetensors", first.state_dict(), WeightsHeader("rts-lite", "rts-lite"))
    again = replace(recipe(), start=str(path)).build_network()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    fresh = replace(recipe(), start=str(path)).build_network(weights=False)
    assert not torch.equal(fresh.decoder.project.conv1.weight, first.decoder.project.conv1.weight)


def test_tight_boxes_and_jitter() -> None:
    masks = torch.cat((squares(2), torch.zeros(1, SIDE, SIDE)))
    boxes = tight_boxes(masks)
    assert boxes.tolist() == [[30, 20, 30, 28], [30, 21, 30, 28], [0, 0, 0, 0]]
    assert torch.equal(jittered(boxes, 0.0), boxes)
    torch.manual_seed(0)
    moved = jittered(boxes[:1].expand(4000, 4), 0.1)
    assert torch.allclose((moved[:, 2:] / boxes[0, 2:]).log().std(dim=0), torch.full((2,), 0.1), rtol=0.1)


def test_spoilt_masks_are_like_the_true_ones_and_yet_not_they() -> None:
    torch.manual_seed(0)
    true = squares(40)
    found = spoilt(true)
    assert found.shape == true.shape
    assert found.min() >= 0
    assert found.max() <= 1
    a, b = found > 0.5, true > 0.5
    overlap = (a & b).sum(dim=(1, 2)) / (a | b).sum(dim=(1, 2))
    assert 0.5 < overlap.median() < 0.95
    assert overlap.max() < 0.999
    mild = spoilt(true, 0.2) > 0.5
    assert ((mild & b).sum(dim=(1, 2)) / (mild | b).sum(dim=(1, 2))).median() > overlap.median()


def test_objective_sees_masks_hints_and_the_first_frames_box() -> None:
    torch.manual_seed(1)
    net, data = recipe().build_network(), batch()
    found = RTSLiteObjective()(net, data)
    assert set(found.parts) == {"mask", "cross_entropy"}
    assert found.total.item() == pytest.approx(sum(p.item() for p in found.parts.values()), rel=1e-6)
    assert set(found.statistics) == {"jaccard", "jaccard_box"}
    found.total.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())

    sure = RTSLiteObjective(box_share=1.0, mask_share=0.0, box_jitter=0.0)
    masks = data.test_masks.flatten(0, 1)
    assert torch.equal(sure._hints(masks), BOX_HINT * masks), "a square's box is the square"
    assert torch.equal(sure._first_hints(masks), BOX_HINT * masks)
    assert not RTSLiteObjective(box_share=0.0, mask_share=0.0)._hints(masks).any()
    shown = RTSLiteObjective(box_share=0.0, mask_share=1.0)._hints(masks)
    assert 0 < shown.max() <= 1 - BOX_HINT


def test_objective_refuses_what_it_cannot_use() -> None:
    net, data = recipe().build_network(), batch()
    with pytest.raises(InputError, match="masks"):
        RTSLiteObjective()(net, replace(data, train_masks=None))
    with pytest.raises(InputError, match="rts_lite"):
        RTSLiteObjective()(torch.nn.Linear(1, 1), data)
    with torch.no_grad():
        net.decoder.project.conv1.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError):
        RTSLiteObjective()(net, data)


def test_it_learns() -> None:
    torch.manual_seed(0)
    net = recipe().build_network()
    assert isinstance(net, RTSLiteNet)
    optimiser = torch.optim.Adam(net.parameters(), 6e-3)
    data, losses = batch(1), []
    for _ in range(16):
        found = RTSLiteObjective()(net, data)
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
        losses.append(found.total.item())
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4]), losses


def test_job_draws_masks() -> None:
    from keepsight.training.data import Draw

    made = replace(recipe(), data=replace(recipe().data, samples_per_epoch=4))
    job = job_of(made)
    sampled = job.source.sample(Draw(0, 0))
    assert sampled.sample.test.masks.shape == (2, 129, 129)
    drawn = job.source.collate([sampled.sample]).as_floats()
    assert drawn.test_images.shape == (2, 1, 3, 129, 129)
    assert drawn.test_images.max() > 1, "0..255"
