"""ResNet-18 and ResNet-50 with torchvision's state-dict names and several named outputs.

He et al., "Deep residual learning" (CVPR 2016); v1 layout with the stride of a bottleneck on its 3×3 convolution
(spec/dimp-atom.md §1), or on the first 1×1 convolution as in Mask R-CNN (spec of LWL §4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, nearest_names

BACKBONES = ("resnet18", "resnet50", "resnet50-mrcnn", "resnet18-narrow", "resnet50-narrow", "resnet50-mrcnn-narrow")
STRIDES = {"conv1": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with an identity path."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _downsample(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with an identity path; four times wider outside than inside."""

    expansion = 4
    stride_first = False

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        channels_out = channels * self.expansion
        first, second = (stride, 1) if self.stride_first else (1, stride)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _downsample(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)), inplace=True)


class MaskRCNNBottleneck(Bottleneck):
    """The stride on the first 1×1 convolution, as Caffe2's networks have it."""

    stride_first = True


def _downsample(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """ResNet that returns the layers asked for and computes nothing above the deepest of them."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int], width: int = 64, classes: int = 1000
    ) -> None:
        """``depths``: blocks per layer; ``width``: channels of ``conv1``, 64 in every published network; 0 ``classes``: no fc."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for i, depth in enumerate(depths):
            channels, stride = width * 2**i, 1 if i == 0 else 2
            blocks: list[nn.Module] = [block(channels_in, channels, stride)]
            channels_in = channels * block.expansion
            blocks += [block(channels_in, channels) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        if classes:
            self.fc = nn.Linear(channels_in, classes)
        self.channels = {
            "conv1": width,
            **{f"layer{i + 1}": width * 2**i * block.expansion for i in range(len(depths))},
        }
        for m in self.modules():
            if isinstance(m, nn.Conv2d):  # N(0, sqrt(2 / (k·k·out))), spec §1
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, layers: Sequence[str] = ("fc",)) -> dict[str, Tensor]:
        """Normalised RGB ``x`` (B, 3, H, W) -> {name: (B, C, H/stride, W/stride)} for the wanted ``layers``.

        Names: ``conv1`` (after its ReLU, before max-pooling), ``layer1`` … ``layer4``, ``fc`` (B, 1000); strides in ``STRIDES``.
        Raises :class:`InputError` for another name.
        """
        known = [*STRIDES, *(["fc"] if hasattr(self, "fc") else [])]
        if unknown := set(layers) - set(known):
            raise InputError(f"unknown layers {sorted(unknown)}; expected some of {known}")
        wanted, found = set(layers), {}
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 64, H/2, W/2)
        if "conv1" in wanted:
            found["conv1"] = x
        for name in ("pool", "layer1", "layer2", "layer3", "layer4"):
            if len(found) == len(wanted):
                return found
            x = F.max_pool2d(x, 3, 2, 1) if name == "pool" else getattr(self, name)(x)
            if name in wanted:
                found[name] = x
        if "fc" in wanted:
            found["fc"] = self.fc(x.mean(dim=(2, 3)))
        return found


def resnet18() -> ResNet:
    """ResNet-18: 64 / 128 / 256 / 512 channels at strides 4 / 8 / 16 / 32."""
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """ResNet-50: 256 / 512 / 1024 / 2048 channels at strides 4 / 8 / 16 / 32."""
    return ResNet(Bottleneck, (3, 4, 6, 3))


def build_backbone(name: str) -> ResNet:
    """The backbone of a network's configuration: one of :data:`BACKBONES`.

    ``-mrcnn`` is Mask R-CNN's form, without the classes. ``-narrow`` is a quarter as wide with one block per layer: for tests
    and debug recipes, never published.
    """
    if name == "resnet18":
        return resnet18()
    if name == "resnet50":
        return resnet50()
    if name == "resnet18-narrow":
        return ResNet(BasicBlock, (1, 1, 1, 1), width=16)
    if name == "resnet50-narrow":
        return ResNet(Bottleneck, (1, 1, 1, 1), width=16)
    if name == "resnet50-mrcnn":
        return ResNet(MaskRCNNBottleneck, (3, 4, 6, 3), classes=0)
    if name == "resnet50-mrcnn-narrow":
        return ResNet(MaskRCNNBottleneck, (1, 1, 1, 1), width=16, classes=0)
    raise InputError(f"no backbone {name!r}; {nearest_names(name, BACKBONES)}")
