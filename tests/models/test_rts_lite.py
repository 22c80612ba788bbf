"""rts-lite's network: where its cells lie, what a hint is, the learner's part, and the packaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from keepsight.models.lite import LiteNet
from keepsight.models.rts_lite import BOX_HINT, CHANNELS, TAPS, RTSLiteNet, RTSLiteNetConfig, hint
from keepsight.weights import find_weights
from keepsight.weights.store import load_weights

NARROW = RTSLiteNetConfig(
    feature_dim=12, num_filters=4, label_encoder_dims=(4, 6, 8), hint_encoder_dims=(4, 6, 8), decoder_dim=4
)
SIDE = 81  # 16 n + 1


@pytest.fixture(scope="module")
def base() -> LiteNet:
    torch.manual_seed(0)
    return LiteNet().eval()


@pytest.fixture(scope="module")
def net(base: LiteNet) -> RTSLiteNet:
    torch.manual_seed(1)
    made = RTSLiteNet(NARROW).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    made.attach(base)
    return made


def crops(count: int, side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator) * 255
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear")


def test_levels_are_dimp_lites_taps(net: RTSLiteNet, base: LiteNet) -> None:
    layers = net.extract(crops(2))
    assert [tuple(layers[f"layer{i}"].shape) for i in (1, 2, 3, 4)] == [
        (2, 24, 21, 21), (2, 40, 11, 11), (2, 80, 6, 6), (2, 112, 6, 6)
    ]  # fmt: skip
    assert {level: base.backbone.channels[tap] for level, tap in TAPS.items()} == CHANNELS
    with torch.no_grad():
        maps = base.backbone(base.backbone.normalise(crops(2)), tuple(TAPS.values()))
    for (level, tap), size in zip(TAPS.items(), net.config.feature_sizes, strict=True):
        assert torch.allclose(layers[level] * size, maps[tap], atol=1e-3)
    same = net.extract(crops(2), base.backbone)
    assert all(torch.allclose(same[k], layers[k], atol=1e-4) for k in layers)


@torch.inference_mode()
def test_from_features_to_logits(net: RTSLiteNet) -> None:
    layers = net.extract(crops(2))
    features = net.target_features(layers)  # (2, 12, 6, 6)
    assert features.shape == (2, 12, 6, 6)
    assert torch.allclose(features.square().mean(dim=(1, 2, 3)), torch.full((2,), 1 / (9 * 12)), rtol=1e-3)
    masks = torch.zeros(1, 2, SIDE, SIDE)
    masks[..., 20:50, 30:60] = 1
    labels, weights = net.label_encoder(masks)
    assert labels.shape == weights.shape == (1, 2, 4, 6, 6)
    bank = net.fit_filter(net.zero_filter(2), features[None], labels, weights, 10)
    encoding = net.apply_filter(bank, features[None])
    left = ((encoding - labels) * weights).square().sum()
    assert left < 0.8 * (labels * weights).square().sum(), "the filter was learnt"
    hints = hint(torch.tensor([[20.0, 30, 30, 30]]).expand(2, 4), None, (SIDE, SIDE))
    logits = net.decode(encoding[0] + net.encode_hint(hints), layers, SIDE)
    assert logits.shape == (2, 41, 41)
    fast = net.for_inference()
    quick = fast.decode(encoding[0] + fast.encode_hint(hints), layers, SIDE)
    assert torch.allclose(quick, logits, atol=1e-4 * float(logits.abs().max()))


@torch.inference_mode()
def test_cells_of_the_logits_lie_on_every_second_pixel(net: RTSLiteNet) -> None:
    """A mirrored crop gives mirrored logits, up to the borders' padding, if kernels are symmetric."""
    import copy

    symmetric = copy.deepcopy(net)
    backbone = LiteNet().eval().backbone
    for module in [*symmetric.modules(), *backbone.modules()]:
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight + module.weight.flip(-1)) / 2
    hints = torch.zeros(1, SIDE, SIDE)
    hints[:, 20:50, 10:40] = 0.5

    def logits(images: Tensor, hints: Tensor) -> Tensor:
        return symmetric.decode(symmetric.encode_hint(hints), symmetric.extract(images, backbone), SIDE)

    straight, mirrored = logits(crops(1), hints), logits(crops(1).flip(-1), hints.flip(-1))
    assert torch.allclose(straight, mirrored.flip(-1), atol=1e-3 * float(straight.abs().max()))


def test_hint() -> None:
    boxes, probability = torch.tensor([[2.0, 3, 4, 5]]), torch.zeros(1, 17, 17)
    probability[0, 4, 4] = 0.8
    both = hint(boxes, probability, (17, 17))
    assert both.shape == (1, 17, 17)
    assert both[0, 3, 2] == BOX_HINT
    assert both[0, 2, 2] == 0
    assert both[0, 4, 4] == pytest.approx(BOX_HINT + (1 - BOX_HINT) * 0.8)
    assert hint(boxes, None, (17, 17)).max() == BOX_HINT
    assert hint(None, probability, (17, 17)).max() == pytest.approx((1 - BOX_HINT) * 0.8)


def test_backbone_is_no_part_of_the_weights(net: RTSLiteNet) -> None:
    assert {name.partition(".")[0] for name in net.state_dict()} == {
        "target_model", "label_encoder", "hint_encoder", "decoder"
    }  # fmt: skip


def test_packaged_weights() -> None:
    path = find_weights("rts-lite")
    assert path.stat().st_size < 5e6
    assert path.stat().st_size + find_weights("dimp-lite").stat().st_size < 15e6
    file = load_weights(path)
    net = RTSLiteNet(RTSLiteNetConfig(**file.header.config))
    net.load_state_dict(file.tensors)
    assert (file.header.family, file.header.preset) == ("rts-lite", "rts-lite")
    assert "composite:shared" in file.header.source
