"""EfficientNet-Lite0: a backbone of 4 M parameters that is quick on a CPU.

Tan and Le, EfficientNet (ICML 2019), Table 1: the B0 stages of inverted bottlenecks. The Lite variant leaves out
squeeze-and-excitation and uses ReLU6 in place of swish, so that it runs well without special kernels.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, nearest_names

Padding = Literal["same", "symmetric"]

# (repeats, kernel, stride of the first block, expansion, output channels): Table 1, stages 2 to 8
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_BN_EPS, _BN_MOMENTUM = 1e-3, 0.01  # the values the network was trained with, in PyTorch's sense of momentum


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, with named multi-layer output.

    Layers in order of depth: ``stem`` (stride 2, 32 channels), ``block0`` ... ``block15``. Those a tracker wants:

    ========= ====== ========
    layer     stride channels
    ========= ====== ========
    block4    8      40
    block7    16     80
    block10   16     112
    ========= ====== ========

    ``padding="same"`` is TensorFlow's, which the ImageNet weights were trained with: zeros are added so that a map has
    ceil(n / stride) cells, the odd one at the bottom and right, so where a cell sits depends on the size of the input.
    ``padding="symmetric"`` adds k // 2 on every side: the maps have the same sizes and cell j of a map of stride s sits
    at pixel s * j whatever the input's size, which is what a tracker needs.

    ``last_block`` (0 to 15) leaves out the blocks behind it; a tracker that reads up to ``block10`` needs 10.

    Example: ``maps = EfficientNetLite0(last_block=10)(net.normalise(rgb), ["block4", "block10"])``
    """

    def __init__(self, padding: Padding = "symmetric", last_block: int = 15) -> None:
        super().__init__()
        n_blocks = sum(stage[0] for stage in _STAGES)
        if padding not in ("same", "symmetric"):
            raise InputError(f"padding {padding!r} is unknown; {nearest_names(str(padding), ('same', 'symmetric'))}")
        if not 0 <= last_block < n_blocks:
            raise InputError(f"last_block is {last_block}; give 0 to {n_blocks - 1}")
        self.stem = _conv_bn(3, _STEM_CHANNELS, 3, padding, stride=2)
        self.blocks = nn.ModuleList()
        self.channels: dict[str, int] = {"stem": _STEM_CHANNELS}
        """Number of channels of each layer."""
        self.strides: dict[str, int] = {"stem": 2}
        """Pixels of the input from one cell to the next, of each layer."""
        c_in, total_stride = _STEM_CHANNELS, 2
        for repeats, kernel, first_stride, expansion, c_out in _STAGES:
            for stride in (first_stride,) + (1,) * (repeats - 1):
                if len(self.blocks) > last_block:
                    break
                name = f"block{len(self.blocks)}"
                self.blocks.append(InvertedBottleneck(c_in, c_out, kernel, stride, expansion, padding))
                c_in, total_stride = c_out, total_stride * stride
                self.channels[name], self.strides[name] = c_out, total_stride
        self.apply(_init_weights)

    @staticmethod
    def normalise(images: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in 0..255 -> the network's input (x - 127) / 128, about -1..1."""
        return (images - 127.0) / 128.0

    def forward(self, x: Tensor, layers: Sequence[str] = ("block10",)) -> dict[str, Tensor]:
        """Feature maps of ``layers`` by name, in order of depth; nothing behind the deepest one is computed.

        ``x``: (B, 3, H, W), normalised by :meth:`normalise`. Maps: (B, channels, ceil(H / stride), ceil(W / stride)).
        Raises :class:`InputError` for a layer this network does not have, or none.
        """
        for name in layers:
            if name not in self.channels:
                raise InputError(f"layer {name!r} is not in this backbone; {nearest_names(name, self.channels)}")
        if not layers:
            raise InputError(f"no layers were asked for; {nearest_names('', self.channels)}")
        maps: dict[str, Tensor] = {}
        wanted = set(layers)
        for name, part in zip(self.channels, [self.stem, *self.blocks], strict=True):
            x = part(x)  # (B, channels[name], ceil(H / strides[name]), ceil(W / strides[name]))
            if name in wanted:
                maps[name] = x
            if len(maps) == len(wanted):
                break
        return maps


class InvertedBottleneck(nn.Module):
    """Widen by 1×1 convolution, filter each channel alone, narrow by linear 1×1 convolution; skip if shapes allow."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int, padding: Padding) -> None:
        super().__init__()
        wide = c_in * expansion
        self.expand = _conv_bn(c_in, wide, 1, padding) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_bn(wide, wide, kernel, padding, stride=stride, groups=wide)
        self.project = _conv_bn(wide, c_out, 1, padding, activation=False)
        self.has_skip = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_skip else y


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: ceil(n / stride) outputs, the odd zero at the bottom and right."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        pads = []
        for n, k, s in zip(reversed(input.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True):
            total = max((math.ceil(n / s) - 1) * s + k - n, 0)
            pads += [total // 2, total - total // 2]  # left, right, then top, bottom: the order of F.pad
        return super().forward(F.pad(input, pads))


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and what follows, called ``conv``, ``bn``, ...

    While gradients are recorded and the norm's statistics are fixed, the norm is multiplied into the weights at every call: the
    same function of the same parameters, but training keeps and passes over one large map less.
    """

    def forward(self, input: Tensor) -> Tensor:
        conv, norm, *rest = self
        fixed = isinstance(norm, nn.BatchNorm2d) and not norm.training
        plain = type(conv) is nn.Conv2d and conv.bias is None
        if not (fixed and plain and torch.is_grad_enabled()):
            x: Tensor = super().forward(input)
            return x
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)  # (C,)
        bias = norm.bias - norm.running_mean * scale
        weight = conv.weight * scale[:, None, None, None]
        x = F.conv2d(input, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        for layer in rest:
            x = layer(x)
        return x


def _conv_bn(
    c_in: int, c_out: int, kernel: int, padding: Padding, stride: int = 1, groups: int = 1, activation: bool = True
) -> ConvNorm:
    """Convolution without bias, batch norm and, unless the block is linear, ReLU6."""
    # a 1×1 convolution needs no padding in either convention
    if padding == "same" and kernel > 1:
        conv: nn.Conv2d = SameConv2d(c_in, c_out, kernel, stride, groups=groups, bias=False)
    else:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    parts: list[tuple[str, nn.Module]] = [("conv", conv), ("bn", nn.BatchNorm2d(c_out, _BN_EPS, _BN_MOMENTUM))]
    if activation:
        parts.append(("act", nn.ReLU6(inplace=True)))
    return ConvNorm(OrderedDict(parts))


def _init_weights(module: nn.Module) -> None:
    """Normal weights that keep the variance of the gradients (He et al. 2015, fan-out)."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
