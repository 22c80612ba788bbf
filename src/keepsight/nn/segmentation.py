"""Tracking by segmentation: the few-shot learner of LWL with its mask encoders and decoder, which RTS and STA use too.

Bhat et al., "Learning what to learn for video object segmentation" (ECCV 2020); Paul et al., "Robust visual tracking by
segmentation" (ECCV 2022); spec of KeepTrack, RTS and LWL §4, 7, 10. A bank τ of M filters maps features x to an encoding of the
mask, τ * x (M channels at stride 16), which the decoder turns into the mask. Online, τ is fitted to encodings E(mask) of masks
that are known, with weights W(mask): LWL's equation (3).

Shapes: I samples ("frames") of S sequences, always in this order in front: (I, S, ...); D channels, features h × w.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import correlation
from .correlation import Samples
from .target_filter import FitResult, RidgeResiduals, feature_head, steepest_descent

# --- the few-shot learner (§0.2, 4.3) ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodingObjective:
    """Σ (W·(τ * x - E))²: the data term of LWL's equation (3), linear in τ, so that Gauss-Newton's curvature is exact."""

    label: Tensor
    """E, (S, I, M, h, w)"""
    weight: Tensor
    """W, multiplies the residual; broadcasts to the label's shape."""

    def linearise(self, scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Gradient of half the sum by the encoding (S, I, M, h, w), and ‖W·(g * x)‖² along a change g * x: (S,)."""
        residual = self.weight.square() * (scores - self.label)
        return residual, lambda change: (self.weight * change).square().flatten(1).sum(dim=1)

    def loss(self, scores: Tensor) -> Tensor:
        return (self.weight * (scores - self.label)).square().sum()


def learn_filter(
    filter: Tensor,
    features: Tensor | Samples,
    labels: Tensor,
    weights: Tensor | None,
    regularisation: Tensor | float,
    iterations: int,
    *,
    with_losses: bool = False,
    keep_iterates: bool = False,
) -> FitResult:
    """Steepest descent on Σ (W·(τ * x - E))² + Σ (λ·τ)²: LWL's equations (4) and (5), one step length for each sequence.

    ``filter`` (S, M, D, k, k), odd k; ``features`` (I, S, D, h, w), not copied if they are channels-last in memory; ``labels``
    (I, S, M, h, w). ``weights``: W of the same shape, (I,) for one of each sample, or None for √(1/I); it multiplies the residual
    as it is. ``regularisation``: λ. The losses are the sums over the number of residuals. Differentiable in everything.
    """
    samples = features if isinstance(features, Samples) else Samples.from_maps(features)
    label = labels.transpose(0, 1)  # (S, I, M, h, w)
    if weights is None:
        weights = label.new_tensor(1 / samples.count).sqrt()
    elif weights.dim() == 1:
        weights = weights[:, None, None, None]
    else:
        weights = weights.transpose(0, 1)
    objective = EncodingObjective(label, weights)
    ridge = torch.as_tensor(regularisation, dtype=filter.dtype, device=filter.device).square()

    def loss(scores: Tensor, bank: Tensor) -> Tensor:
        return (objective.loss(scores) + ridge * bank.square().sum()) / (scores.numel() + bank.numel())

    return steepest_descent(
        filter, samples, objective, iterations=iterations, regularisation=ridge, loss=loss if with_losses else None,
        keep_iterates=keep_iterates,
    )  # fmt: skip


def fit_filter(
    filter: Tensor,
    features: Tensor | Samples,
    labels: Tensor,
    weights: Tensor | None,
    regularisation: Tensor | float,
    iterations: int,
) -> Tensor:
    """The last iterate of :func:`learn_filter`: (S, M, D, k, k)."""
    return learn_filter(filter, features, labels, weights, regularisation, iterations).weights


def apply_filter(filter: Tensor, features: Tensor | Samples) -> Tensor:
    """τ * x: ``filter`` (S, M, D, k, k), ``features`` (I, S, D, h, w) -> encoding (I, S, M, h, w)."""
    samples = features if isinstance(features, Samples) else Samples.from_maps(features)
    return correlation.apply_filter(samples, filter).transpose(0, 1)


class FewShotLearner(nn.Module):
    """Holds λ, which is learned, under its published key."""

    def __init__(self, init_filter_reg: float) -> None:
        super().__init__()
        self.residual_module = RidgeResiduals(init_filter_reg)

    @property
    def regularisation(self) -> Tensor:
        """λ, (1,)."""
        return self.residual_module.filter_reg


class TargetModel(nn.Module):
    """λ, and the head that makes the learner's features unless another target model has it."""

    def __init__(self, init_filter_reg: float, head: nn.Sequential | None = None) -> None:
        super().__init__()
        if head is not None:
            self.feature_extractor = head
        self.filter_optimizer = FewShotLearner(init_filter_reg)


def target_head(channels_in: int, channels: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """The learner's features; the instance norm's σ is that of a 3×3 filter for every filter size (§0.4, Q13)."""
    return feature_head(channels_in, channels, blocks, filter_size=3, stride=stride)


# --- encoders of masks, boxes and scores (§4.4, 4.8, 7.2, 10) --------------------------------------------------------------


class LabelEncoding(NamedTuple):
    """What the learner is fitted to."""

    labels: Tensor
    """E, (I, S, M, h, w)"""
    weights: Tensor
    """W, (I, S, M, h, w)"""


class PlainBlock(nn.Module):
    """Two 3×3 convolutions beside a third one, without batch norms; §4.4."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.downsample = nn.Conv2d(channels_in, channels, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.downsample(x))


class LabelEncoder(nn.Module):
    """Masks to labels and weights of the learner at stride 16; with ``stride`` 1, score maps at their own size (§7.2)."""

    def __init__(self, filters: int, dims: Sequence[int] = (16, 32, 64), stride: int = 2) -> None:
        super().__init__()
        stem, middle, last = dims
        self.stride = stride
        self.conv_block = nn.Sequential(nn.Conv2d(1, stem, 3, stride, 1), nn.ReLU())
        self.res1 = PlainBlock(stem, middle, stride)
        self.res2 = PlainBlock(middle, last, stride)
        self.label_pred = nn.Sequential(nn.Conv2d(last, filters, 3, padding=1), nn.ReLU())
        self.samp_w_pred = nn.Conv2d(last, filters, 3, padding=1)
        _initialise(self)

    def shape_features(self, masks: Tensor) -> Tensor:
        """(N, H, W) -> (N, C, H/16, W/16), or without a stride (N, C, H, W)."""
        x = F.max_pool2d(self.conv_block(masks[:, None]), 3, self.stride, 1)
        out: Tensor = self.res2(self.res1(x))
        return out

    def labels(self, masks: Tensor) -> Tensor:
        """E alone, as :meth:`forward`."""
        found: Tensor = self.label_pred(self.shape_features(masks.flatten(0, 1)))
        return found.unflatten(0, masks.shape[:2])

    def forward(self, masks: Tensor) -> LabelEncoding:
        """Masks or probabilities (I, S, H, W) -> E and W (I, S, M, H/16, W/16), sides rounded up."""
        x = self.shape_features(masks.flatten(0, 1))
        labels, weights = self.label_pred(x), self.samp_w_pred(x)
        return LabelEncoding(labels.unflatten(0, masks.shape[:2]), weights.unflatten(0, masks.shape[:2]))


class BoxLabelEncoder(nn.Module):
    """STA's: box masks and image features to labels and weights; §10."""

    def __init__(self, filters: int, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        stem, middle, third, last = dims
        self.conv_block = nn.Sequential(nn.Conv2d(1, stem, 3, 2, 1), nn.ReLU())
        self.res1 = PlainBlock(stem, middle, 2)
        self.res2 = PlainBlock(middle, third, 2)
        self.res3 = PlainBlock(third + channels, last)
        self.label_pred = nn.Sequential(nn.Conv2d(last, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU())
        self.samp_w_pred = nn.Conv2d(last, filters, 3, padding=1)
        _initialise(self)

    def forward(self, masks: Tensor, features: Tensor) -> LabelEncoding:
        """``masks`` (I, S, H, W), ``features`` (I, S, D, H/16, W/16) -> E and W (I, S, M, H/16, W/16)."""
        x = F.max_pool2d(self.conv_block(masks.flatten(0, 1)[:, None]), 3, 2, 1)
        x = self.res3(torch.cat((self.res2(self.res1(x)), features.flatten(0, 1)), dim=1))
        labels, weights = self.label_pred(x), self.samp_w_pred(x)
        return LabelEncoding(labels.unflatten(0, masks.shape[:2]), weights.unflatten(0, masks.shape[:2]))


class BoxMaskEncoder(nn.Module):
    """LWL's box initialisation: features and a box to the encoding that the decoder reads, without a filter; §4.8."""

    def __init__(self, filters: int, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        sides = (channels + 1, *dims)
        self.res = nn.Sequential(*(PlainBlock(a, b) for a, b in itertools.pairwise(sides)))
        self.label_pred = nn.Sequential(nn.Conv2d(sides[-1], filters, 3, padding=1), nn.ReLU())
        _initialise(self)

    def forward(self, masks: Tensor, features: Tensor) -> Tensor:
        """Box ``masks`` (N, H, W), ``features`` (N, D, h, w) -> encoding (N, M, h, w)."""
        small = resize(masks[:, None], features)
        out: Tensor = self.label_pred(self.res(torch.cat((features, small), dim=1)))
        return out


def _initialise(module: nn.Module) -> None:
    """He et al. for every convolution, as many ReLUs in a row need it; the heads that predict W begin with 1 everywhere."""
    for name, conv in module.named_modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.constant_(conv.bias, float(name == "samp_w_pred"))
            if name == "samp_w_pred":
                nn.init.zeros_(conv.weight)


def box_masks(boxes: Tensor, size: tuple[int, int], *, wrap: bool = False) -> Tensor:
    """1 inside the boxes (..., 4), xywh in pixels, each number truncated first; 0 outside: (..., H, W), ``size`` = (H, W).

    ``wrap``: a box that begins left of or above the image is counted from the other end there, as in Python's slices, which
    mostly leaves nothing of it (Q17: LWL's box encoder was trained so); else only what lies in the image counts.
    """
    numbers = boxes.detach().cpu().trunc().long()
    masks = torch.zeros(*boxes.shape[:-1], *size)
    for mask, (x, y, w, h) in zip(masks.view(-1, *size), numbers.reshape(-1, 4).tolist(), strict=True):
        x1, y1 = x + w, y + h
        if not wrap:
            x, y, x1, y1 = max(x, 0), max(y, 0), max(x1, 0), max(y1, 0)
        mask[y:y1, x:x1] = 1
    return masks.to(boxes)


# --- fusion of masks and scores (§7.3) -------------------------------------------------------------------------------------


class ConcatFusion(nn.Module):
    """Both encodings through one convolution. Never published; which of the two comes first in its input is not known."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.fusion_conv1 = nn.Conv2d(2 * filters, filters, 3, padding=1)

    def forward(self, mask: Tensor, scores: Tensor) -> Tensor:
        out: Tensor = self.fusion_conv1(torch.cat((mask, scores), dim=1))
        return out


# --- decoder (§4.5) ----------------------------------------------------------------------------------------------------------

LEVELS = ("layer4", "layer3", "layer2", "layer1")
"""Backbone layers in the order of decoding."""


def _conv1x1(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 1)


class EncodingMerger(nn.Module):
    """The encoding joins the backbone's features; "TSE" in the keys."""

    def __init__(self, channels_in: int, channels: int, encoding: int) -> None:
        super().__init__()
        wide = channels + encoding
        self.reduce = nn.Sequential(_conv1x1(channels_in, channels), nn.ReLU(), _conv1x1(channels, channels))
        self.transform = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(),
            nn.Conv2d(wide, channels, 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, features: Tensor, encoding: Tensor, above: Tensor | None) -> tuple[Tensor, Tensor]:
        """(merged features, state from above: at the deepest level the features' own mean)."""
        reduced = self.reduce(features)
        if above is None:
            above = reduced.mean(dim=(2, 3), keepdim=True)
        return self.transform(torch.cat((reduced, resize(encoding, reduced)), dim=1)), above


class Refinement(nn.Module):
    """A 1×1 convolution and a residual branch; "RRB" in the keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = _conv1x1(channels, channels)
        self.bblock = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return F.relu(x + self.bblock(x))


class Gate(nn.Module):
    """Channel attention: how much of this level is added to the state from above; "CAB" in the keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convreluconv = nn.Sequential(_conv1x1(2 * channels, channels), nn.ReLU(), _conv1x1(channels, channels))

    def forward(self, x: Tensor, above: Tensor) -> Tensor:
        means = torch.cat((x.mean(dim=(2, 3), keepdim=True), above.mean(dim=(2, 3), keepdim=True)), dim=1)
        return x * torch.sigmoid(self.convreluconv(means)) + resize(above, x)


class Head(nn.Module):
    """State at stride 4 to logits of the image's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, 1, 3, padding=1)

    def forward(self, x: Tensor, image_size: tuple[int, int]) -> Tensor:
        x = F.relu(self.conv1(resize_bicubic(x, (2 * x.shape[2], 2 * x.shape[3]))))
        # conv2 of the resized maps: channels may be mixed before resizing, which leaves one map for each tap to resize
        taps = self.conv2.weight[0].flip(1, 2).flatten(1).T[:, :, None, None]  # (9, C, 1, 1); fold scatters, so flipped
        maps = resize_bicubic(F.conv2d(x, taps), image_size)
        bias = self.conv2.bias
        assert bias is not None  # for the type checker
        return F.fold(maps.flatten(2), image_size, 3, padding=1) + bias


class Decoder(nn.Module):
    """Encoding and backbone features to a mask, from the deepest layer up."""

    def __init__(self, channels_in: Mapping[str, int], encoding: int, channels: int = 64) -> None:
        """``channels_in``: of the backbone's layers; ``encoding``: channels of the encoding; ``channels``: at stride 4."""
        super().__init__()
        sides = dict(zip(LEVELS, (4 * channels, 2 * channels, 2 * channels, channels), strict=True))
        self.TSE = nn.ModuleDict({k: EncodingMerger(channels_in[k], c, encoding) for k, c in sides.items()})
        self.RRB1 = nn.ModuleDict({k: Refinement(c) for k, c in sides.items()})
        self.CAB = nn.ModuleDict({k: Gate(c) for k, c in sides.items()})
        self.RRB2 = nn.ModuleDict({k: Refinement(c) for k, c in sides.items()})
        pairs = itertools.pairwise(LEVELS)
        self.proj = nn.ModuleDict(
            {lower: nn.Sequential(_conv1x1(sides[upper], sides[lower]), nn.ReLU()) for upper, lower in pairs}
        )
        self.project = Head(channels)
        _initialise(self)

    def forward(self, encoding: Tensor, layers: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """``encoding`` (N, M, h, w), ``layers`` {name: (N, C, ., .)} -> logits (N, 1, H, W) of ``image_size`` = (H, W)."""
        x: Tensor | None = None
        for name in LEVELS:
            above = None if x is None else self.proj[name](x)
            merged, above = self.TSE[name](layers[name], encoding, above)
            x = self.RRB2[name](self.CAB[name](self.RRB1[name](merged), above))
        out: Tensor = self.project(x, image_size)
        return out


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of ``like``."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def resize_bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, ``x`` (N, C, h, w) to ``size`` = (H, W), as ``interpolate``; doubling takes a tenth of its time on a CPU."""
    channels = x.shape[1]
    if x.device.type != "cpu" or x.dtype is not torch.float32 or size != (2 * x.shape[2], 2 * x.shape[3]):
        return F.interpolate(x, size, mode="bicubic", align_corners=False)
    side = (
        x.new_tensor([-9, -27, 67, 225, 225, 67, -27, -9]) / 256
    )  # cubic convolution (a = -0.75) at odd quarters of a pixel
    kernel = torch.outer(side, side).expand(channels, 1, 8, 8)
    border = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return F.conv_transpose2d(border, kernel, stride=2, padding=7, groups=channels)
