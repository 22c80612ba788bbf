"""Folding batch norms and fusing activations: what is replaced, that numbers stay, and what must stay as it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from keepsight.models.lite import LiteNet
from keepsight.nn.fuse import FusedConv2d, fold_batch_norms, fuse_convolutions, to_channels_last


class Residual(nn.Module):
    """Named as torchvision's ResNet names its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4, affine=False)
        self.downsample = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, eps=0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())) + self.downsample(x)


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch norms that do something, from a few training passes."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        for _ in range(3):
            net.train()(2 * torch.randn(4, 3, 8, 8) + 1)
    return net.eval()


def batch_norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_named_pairs_and_sequential_pairs():
    net = with_statistics(nn.Sequential(Residual(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.ReLU()))
    folded = fold_batch_norms(net)
    x = torch.randn(2, 3, 8, 8)
    assert batch_norms(net) == 4
    assert batch_norms(folded) == 0
    assert torch.allclose(net(x), folded(x), atol=1e-5)
    channels_last = folded.to(memory_format=torch.channels_last)
    assert torch.allclose(net(x), channels_last(x.to(memory_format=torch.channels_last)), atol=1e-5)


def test_a_batch_norm_that_follows_no_convolution_stays():
    net = with_statistics(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    folded = fold_batch_norms(net)
    assert batch_norms(folded) == 2
    assert torch.equal(net(torch.ones(1, 3, 8, 8)), folded(torch.ones(1, 3, 8, 8)))


def test_a_batch_norm_without_running_statistics_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert batch_norms(fold_batch_norms(net)) == 1


def test_a_layer_in_two_places_parts_neighbours_in_both():
    act = nn.ReLU()
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), act, nn.Conv2d(4, 4, 1), act, nn.BatchNorm2d(4)))
    folded = fold_batch_norms(net)
    x = torch.randn(2, 3, 8, 8)
    assert batch_norms(folded) == 1
    assert torch.equal(net(x), folded(x))


# --- fused convolutions --------------------------------------------------------------------------------------------------


def has_operators() -> bool:
    """Whether this PyTorch can do it at all; asked apart from the module under test."""
    known = ("mkldnn::_convolution_pointwise", "mkldnn::_reorder_convolution_weight")
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    return torch.backends.mkldnn.is_available() and all(name in names for name in known)


needs_operators = pytest.mark.skipif(not has_operators(), reason="this PyTorch has no fused oneDNN convolutions")


def frozen() -> nn.Sequential:
    """Strides, groups, dilation, kernels that are not square; activations beside, outside and away from their convolution."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(12, 12, (5, 3), padding=(2, 1), groups=12, bias=False), nn.Identity())
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU6(inplace=True), inner, nn.ReLU(inplace=True),
        nn.Conv2d(12, 8, 3, padding=2, dilation=2, groups=2), nn.Sigmoid(), nn.ReLU(), nn.Conv2d(8, 8, 1),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)  # so that six is reached
    return to_channels_last(net.requires_grad_(False).eval())


def fused_layers(net: nn.Module) -> list[FusedConv2d]:
    return [m for m in net.modules() if isinstance(m, FusedConv2d)]


def close(a: Tensor, b: Tensor) -> bool:
    largest = max(b.abs().flatten().tolist(), default=0.0)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every convolution that goes the fast way."""
    made: list[int] = []
    original = FusedConv2d._in_one_call

    def counted(self: FusedConv2d, x: Tensor, weight: Tensor | None) -> Tensor:
        made.append(1)
        return original(self, x, weight)

    monkeypatch.setattr(FusedConv2d, "_in_one_call", counted)
    return made


def test_activations_join_their_convolutions():
    plain = frozen()
    fused = fuse_convolutions(copy.deepcopy(plain))
    kinds = [type(layer.activation) for layer in fused_layers(fused)]
    assert kinds == [nn.ReLU6, nn.ReLU, nn.Identity, nn.Identity]
    left = [type(m) for m in fused.children() if not isinstance(m, (FusedConv2d, nn.Identity, nn.Sequential))]
    assert left == [nn.Sigmoid, nn.ReLU]
    assert fused.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "shape", [(1, 3, 33, 33), (2, 3, 33, 33), (5, 3, 7, 40), (1, 3, 1, 2), (3, 3, 120, 9), (0, 3, 9, 9)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_numbers_at_any_size(shape: tuple[int, ...], layout: torch.memory_format):
    plain = frozen()
    fused = fuse_convolutions(copy.deepcopy(plain))
    x = torch.randn(shape).contiguous(memory_format=layout)
    kept = x.clone()
    for _ in range(2):
        assert close(fused(x), plain(x))
    assert torch.equal(x, kept)


@needs_operators
def test_fast_way_is_taken(calls: list[int]):
    fused = fuse_convolutions(frozen())
    state = torch.get_rng_state()
    assert all(layer.fused for layer in fused_layers(fused))
    assert torch.equal(torch.get_rng_state(), state)
    calls.clear()
    with torch.inference_mode():
        fused(torch.randn(1, 3, 16, 16))
    assert len(calls) == 4


@needs_operators
def test_gradients_go_through_ordinary_layers(calls: list[int]):
    plain = frozen()
    fused = fuse_convolutions(copy.deepcopy(plain))
    assert all(layer.fused for layer in fused_layers(fused))
    calls.clear()
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    got, want = (torch.autograd.grad(net(x).square().sum(), x)[0] for net in (fused, plain))
    assert not calls
    assert close(got, want)
    first = fused_layers(fused)[0]
    assert first.bias is not None
    first.bias.requires_grad_()
    fused(x.detach()).sum().backward()
    assert first.bias.grad is not None


@needs_operators
def test_other_types_go_through_ordinary_layers(calls: list[int]):
    plain = frozen()
    fused = fuse_convolutions(copy.deepcopy(plain))
    x = torch.randn(1, 3, 16, 16)
    assert close(fused(x), plain(x))
    calls.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fused(x), plain(x))
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(fused.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype)))
    assert not calls
    plain, back = frozen(), fused.to(torch.float32)
    back.load_state_dict(plain.state_dict())
    assert close(back(x), plain(x))
    assert calls  # fast again, with the new weights


def test_loaded_weights_are_used():
    fused = fuse_convolutions(frozen())
    x = torch.randn(1, 3, 16, 16)
    before = fused(x)
    fused.load_state_dict({name: value * 0.5 for name, value in fused.state_dict().items()})
    assert not torch.allclose(fused(x), before)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies(again: Any, calls: list[int]):
    fused = fuse_convolutions(frozen())
    x = torch.randn(1, 3, 16, 16)
    want = fused(x)
    second = again(fused)
    calls.clear()
    assert torch.equal(second(x), want)
    assert bool(calls) == has_operators()


@pytest.mark.parametrize("failure", ["absent", "raises", "wrong"])
def test_without_the_operators_the_ordinary_layers_do_it(failure: str, monkeypatch: pytest.MonkeyPatch):
    class Broken:
        @staticmethod
        def default(x: Tensor, *_: Any) -> Tensor:
            if failure == "raises":
                raise RuntimeError("not compiled")
            return torch.zeros_like(x)

    class Operators:
        pass

    if failure != "absent":
        Operators._convolution_pointwise = Operators._reorder_convolution_weight = Broken  # type: ignore[attr-defined]
    plain = frozen()
    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    fused = fuse_convolutions(copy.deepcopy(plain))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(fused(x), plain(x))
    assert not any(layer.fused for layer in fused_layers(fused))


def test_convolutions_of_other_kinds_stay():
    class Own(nn.Conv2d):
        pass

    net = fuse_convolutions(nn.Sequential(Own(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.ReLU()))
    assert [type(m) for m in net] == [Own, nn.ReLU, nn.ConvTranspose2d, nn.ReLU]
    same = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()
    )
    same.requires_grad_(False)
    x = torch.randn(1, 3, 9, 9)
    want = same(x)
    assert torch.equal(fuse_convolutions(same)(x), want)


@needs_operators
def test_the_default_model_has_fused_convolutions_and_the_same_numbers(calls: list[int]):
    torch.manual_seed(0)
    plain = LiteNet().eval()
    fast = plain.for_inference().to("cpu")
    layers = fused_layers(fast)
    assert all(layer.fused for layer in layers)
    calls.clear()
    with torch.inference_mode():
        for batch, side in ((1, 97), (3, 65)):
            crops = 255 * torch.rand(batch, 3, side, side)
            want, got = plain.extract(crops), fast.extract(crops)
            assert close(got.fine, want.fine)
            assert close(got.coarse, want.coarse)
            assert close(fast.classifier_features(got), plain.classifier_features(want))
            assert close(fast.box_net.maps(got.fine, got.coarse), plain.box_net.maps(want.fine, want.coarse))
    assert calls
    assert not any(type(m) is nn.Conv2d for m in fast.modules())
    # stem, 11 × (expand, depth-wise) but for block 0's expand, residual branch, two branches of the box estimator
    assert sum(not isinstance(layer.activation, nn.Identity) for layer in layers) == 1 + 21 + 2 + 4
