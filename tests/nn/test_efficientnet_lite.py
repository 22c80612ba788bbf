"""EfficientNet-Lite0 against the public package's numbers, and the properties a tracker leans on."""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from keepsight.errors import InputError
from keepsight.nn.efficientnet_lite import ConvNorm, EfficientNetLite0
from keepsight.nn.fuse import fold_batch_norms

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "lite0_reference.json").read_text())["cases"]
WEIGHTS = Path(__file__).parents[2] / "src/keepsight/weights/files"


def formula_values(shape: torch.Size, salt: int) -> Tensor:
    """Numbers in [-1, 1) that look random but are written down by one formula, whatever the library's generators do."""
    n = torch.arange(shape.numel(), dtype=torch.float64)
    return ((torch.sin(n * 12.9898 + salt * 78.233) * 43758.5453).frac()).reshape(shape).float()


def formula_state() -> dict[str, Tensor]:
    """Weights and statistics of all layers to block 10, of sizes that neither vanish nor saturate on the way."""
    state = EfficientNetLite0(last_block=10).state_dict()
    for salt, (name, tensor) in enumerate(state.items()):
        noise = formula_values(tensor.shape, salt)
        if name.endswith("conv.weight"):
            state[name] = noise * math.sqrt(6.0 / tensor[0].numel())
        elif name.endswith("bn.weight") or name.endswith("running_var"):
            state[name] = 1 + 0.3 * noise
        elif name.endswith(("bn.bias", "running_mean")):
            state[name] = 0.3 * noise
    return state


def formula_input(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in about -1..1."""
    c, i, j = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, height, width)), indexing="ij")
    return torch.sin(0.13 * i + 0.07 * j * (c + 1) + 0.0021 * i * j + c)[None].float()


def summary(y: Tensor) -> dict[str, object]:
    """What the reference file keeps of a map (1, C, H, W): its shape, eight values and two moments."""
    flat = y.flatten().double()
    picks = torch.linspace(0, len(flat) - 1, 8).long()
    return {
        "shape": list(y.shape),
        "values": [round(v, 7) for v in flat[picks].tolist()],
        "mean": round(flat.mean().item(), 8),
        "rms": round(flat.square().mean().sqrt().item(), 8),
    }


def packaged_imagenet_state() -> dict[str, Tensor] | None:
    """The backbone's tensors in whichever weights file of ours holds them unchanged."""
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stems = [name for name in file.keys() if name.endswith("stem.conv.weight")]  # noqa: SIM118
            if len(stems) == 1:
                prefix = stems[0].removesuffix("stem.conv.weight")
                own = EfficientNetLite0(last_block=10).state_dict()
                names = [n for n in own if not n.endswith("num_batches_tracked")]
                return {n: file.get_tensor(prefix + n) for n in names}
    return None


def random_net(padding: str, last_block: int = 10) -> EfficientNetLite0:
    net = EfficientNetLite0(padding, last_block)  # type: ignore[arg-type]
    if last_block == 10:
        net.load_state_dict(formula_state())
    return net.eval()


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['weights']}-{c['size']}")
def test_same_padding_agrees_with_the_public_package(case):
    net = random_net("same")
    if case["weights"] == "imagenet":
        state = packaged_imagenet_state()
        if state is None:
            pytest.skip(f"no weights file with this backbone in {WEIGHTS}")
        net.load_state_dict(state, strict=False)
    with torch.no_grad():
        maps = net(formula_input(case["size"], case["size"]), list(case["maps"]))
    for name, expected in case["maps"].items():
        got = summary(maps[name])
        assert got["shape"] == expected["shape"], name
        for key in ("values", "mean", "rms"):
            assert got[key] == pytest.approx(expected[key], abs=1e-4 * expected["rms"] + 1e-6), (name, key)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 83)])
def test_shapes_strides_and_order(padding, height, width):
    net = random_net(padding, last_block=15)
    wanted = ["block10", "stem", "block4", "block7"]
    with torch.no_grad():
        maps = net(torch.zeros(2, 3, height, width), wanted)
    assert list(maps) == ["stem", "block4", "block7", "block10"]
    for name, stride, channels in (("stem", 2, 32), ("block4", 8, 40), ("block7", 16, 80), ("block10", 16, 112)):
        assert (net.strides[name], net.channels[name]) == (stride, channels)
        assert maps[name].shape == (2, channels, math.ceil(height / stride), math.ceil(width / stride))


def test_nothing_behind_the_deepest_layer_is_computed():
    net = random_net("symmetric")
    ran = []
    for i, block in enumerate(net.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    net(formula_input(32, 32), ["block1", "block4"])
    assert ran == [0, 1, 2, 3, 4]


def test_symmetric_padding_moves_with_the_image():
    """Cell j sits at pixel 16 j: a crop that starts 16 pixels later shows the same numbers one cell earlier."""
    wide = formula_values(torch.Size((1, 3, 32, 832)), salt=5)
    with torch.no_grad():
        net = random_net("symmetric")
        a = net(wide[..., :816])["block10"]
        b = net(wide[..., 16:])["block10"]
        reach = 17  # cells that the zeros beyond the border can reach, more than half the receptive field
        assert torch.allclose(a[..., reach + 1 : -reach], b[..., reach : -reach - 1], atol=1e-5)
        assert not torch.allclose(a[..., reach:-reach], b[..., reach:-reach], atol=1e-2)

        # with an odd width, mirrored input and mirrored kernels give the mirrored map: cells sit at the same places
        mirrored = random_net("symmetric")
        for module in mirrored.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.flip(-1)
        odd = wide[..., : 16 * 12 + 1]
        assert torch.allclose(net(odd)["block10"], mirrored(odd.flip(-1))["block10"].flip(-1), atol=1e-4)


def test_symmetric_cell_sits_at_stride_times_index():
    """The gradient of a cell is centred on pixel 16 j if all kernels are boxes; SAME on an even size is not."""
    centres = {}
    for padding in ("symmetric", "same"):
        net = random_net(padding)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, nn.ReLU6):
                module.forward = lambda x: x  # linear, so that the gradient shows the whole receptive field
        x = torch.ones(1, 3, 800, 800, requires_grad=True)
        net(x)["block10"][0, 0, 25, 25].backward()
        profile = x.grad[0].sum(dim=(0, 1))
        centres[padding] = (profile * torch.arange(800)).sum().item() / profile.sum().item()
    assert centres["symmetric"] == pytest.approx(16 * 25, abs=1e-2)
    assert centres["same"] > 16 * 25 + 5


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_folding_changes_nothing_but_rounding(padding):
    net = random_net(padding).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fold_batch_norms(net)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    layers = ["block4", "block10"]
    with torch.no_grad():
        plain, fast = net.eval()(formula_input(64, 80), layers), folded(formula_input(64, 80), layers)
    for name in layers:
        assert torch.allclose(plain[name], fast[name], atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_image_and_every_weight():
    net = random_net("symmetric").train()
    x = formula_input(64, 64).requires_grad_()
    net(x.expand(2, -1, -1, -1))["block10"].square().mean().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


# --- convolution and norm in one -----------------------------------------------------------------------------------------

CONVOLUTIONS = {"1x1": (6, 10, 1), "strided": (6, 10, 3, 2, 1), "depthwise": (6, 6, 5, 1, 2, 1, 6)}


@pytest.fixture(params=CONVOLUTIONS)
def layer(request) -> ConvNorm:
    torch.manual_seed(0)
    conv = nn.Conv2d(*CONVOLUTIONS[request.param], bias=False)
    norm = nn.BatchNorm2d(conv.out_channels, 1e-3, 0.25)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    return ConvNorm(OrderedDict(conv=conv, bn=norm, act=nn.ReLU6()))


def one_by_one(layer: ConvNorm, x: Tensor) -> Tensor:
    return layer.act(layer.bn(layer.conv(x)))


def test_a_fixed_norm_in_the_weights_is_the_same_function_with_the_same_gradients(layer):
    layer.eval()
    plain, x = copy.deepcopy(layer), torch.randn(3, 6, 13, 11).requires_grad_()
    kept = copy.deepcopy(layer.state_dict())
    got, want = layer(x), one_by_one(plain, x)
    assert (got - want).abs().max() < 1e-5
    assert not torch.equal(got, torch.zeros_like(got))
    direction = torch.randn_like(got)
    by_x = [torch.autograd.grad((y * direction).sum(), x, retain_graph=True)[0] for y in (got, want)]
    torch.testing.assert_close(*by_x, atol=1e-4, rtol=1e-4)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert set(gradients) == {"conv.weight", "bn.weight", "bn.bias"}
    for name, p in plain.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-3, rtol=1e-4)
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
    with torch.no_grad():
        assert torch.equal(layer(x), one_by_one(plain, x))  # without gradients nothing is multiplied


def test_a_fixed_norm_keeps_no_map_of_its_own(layer):
    """What it is for: less memory of the same forward pass."""

    def kept(run) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel() * (t.dim() == 4)), t)[1], lambda t: t
        ):
            run()
        return sum(sizes)

    layer.eval()
    x = torch.randn(2, 6, 64, 64).requires_grad_()
    assert kept(lambda: layer(x)) < kept(lambda: one_by_one(layer, x))


def test_a_learning_norm_follows_the_batch(layer):
    plain, x = copy.deepcopy(layer), 3 + 2 * torch.randn(4, 6, 9, 9)
    before = layer.bn.running_mean.clone()
    assert torch.equal(layer.train()(x), one_by_one(plain.train(), x))
    followed = 0.75 * before + 0.25 * layer.conv(x).mean(dim=(0, 2, 3))
    torch.testing.assert_close(layer.bn.running_mean, followed, atol=1e-5, rtol=1e-4)
    assert layer.bn.num_batches_tracked == 1
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())


def test_normalise():
    assert EfficientNetLite0.normalise(torch.tensor([0.0, 127.0, 255.0])).tolist() == [-127 / 128, 0.0, 1.0]


def test_what_cannot_be_asked_for():
    net = EfficientNetLite0(last_block=4)
    with pytest.raises(InputError, match=r"'block7'.*did you mean"):
        net(torch.zeros(1, 3, 32, 32), ["block7"])
    with pytest.raises(InputError, match="no layers"):
        net(torch.zeros(1, 3, 32, 32), [])
    with pytest.raises(InputError, match=r"'symetric'.*did you mean 'symmetric'"):
        EfficientNetLite0("symetric")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="last_block is 16"):
        EfficientNetLite0(last_block=16)
