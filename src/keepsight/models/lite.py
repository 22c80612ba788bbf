"""The network of the default tracker: EfficientNet-Lite0 features for DiMP's target filter, quick on a CPU.

Training (recipe ``dimp_lite``) starts from ImageNet features, half whitened, and the optimiser's analytic values
(spec/dimp-atom.md §4.4), with which the filter already tracks; it adds a residual branch to the features, moves the backbone's
deeper blocks and the optimiser's values, and makes the box estimator.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.box_net import BoxNet, TargetView
from ..nn.correlation import Samples, apply_filter, instance_l2_norm
from ..nn.efficientnet_lite import ConvNorm, EfficientNetLite0
from ..nn.fuse import fold_batch_norms, fuse_convolutions, to_channels_last
from ..nn.precision import at_least_float32, full_precision
from ..nn.target_filter import DiMPOptimiser
from .overlap import TrainingOutput

STRIDE = 16  # crop pixels from one cell of the target filter's features to the next
TAPS = ("block4", "block7", "block10")  # strides 8, 16, 16


@dataclass(frozen=True)
class LiteNetConfig:
    """Everything about the network that its weights do not say."""

    channels: int = 96
    """Channels of the target filter's features."""
    filter_size: int = 5
    """Side of the target filter in cells; odd, so that the filter has a middle cell."""
    init_step: float = 0.9
    """Initial step factor of the filter's optimiser."""
    init_filter_reg: float = 0.1
    """Initial weight of the filter's regulariser (before squaring)."""
    gauss_sigma: float = 0.9
    """Initial standard deviation of the label in cells."""
    num_dist_bins: int = 100
    """Bins of the distance maps."""
    bin_displacement: float = 0.1
    """Distance between two bins in cells."""
    mask_init_factor: float = 3.0
    """Initial scale of the target mask."""
    residual_channels: int = 128
    """Channels inside the trained branch beside the projection."""
    box_channels: int = 64
    """Channels of the box estimator's maps."""
    box_hidden: int = 128
    """Width of the box estimator's layers behind the pooling."""
    box_grid: int = 5
    """A box is pooled into this many bins along each side."""


@dataclass(frozen=True)
class LiteFeatures:
    """What one pass over B crops of Z × Z pixels gives to the classifier and to the box estimator; n = ceil(Z / 16)."""

    fine: Tensor
    """(B, 40, 2n - 1, 2n - 1): ``block4``, stride 8."""
    coarse: Tensor
    """(B, 192, n, n): ``block7`` and ``block10``, stride 16."""

    def __getitem__(self, rows: slice | list[int]) -> LiteFeatures:
        return LiteFeatures(self.fine[rows], self.coarse[rows])

    @staticmethod
    def cat(parts: list[LiteFeatures]) -> LiteFeatures:
        """Of several batches, one after the other."""
        return LiteFeatures(torch.cat([p.fine for p in parts]), torch.cat([p.coarse for p in parts]))


class LiteNet(nn.Module):
    """Backbone, the target filter's features and its optimiser, and the box estimator."""

    def __init__(self, config: LiteNetConfig = LiteNetConfig()) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite0(padding="symmetric", last_block=10)
        fine, *coarse = (self.backbone.channels[t] for t in TAPS)
        inputs = fine + sum(coarse)
        self.projection = nn.Conv2d(inputs, config.channels, 1)
        self.residual = _Residual(inputs, config.residual_channels, config.channels)
        self.filter_optimizer = DiMPOptimiser(
            stride=STRIDE, init_step_length=config.init_step, init_filter_reg=config.init_filter_reg,
            init_gauss_sigma=config.gauss_sigma, num_dist_bins=config.num_dist_bins,
            bin_displacement=config.bin_displacement, mask_init_factor=config.mask_init_factor,
        )  # fmt: skip
        self.box_net = BoxNet(fine, sum(coarse), config.box_channels, config.box_hidden, config.box_grid)

    def extract(self, crops: Tensor) -> LiteFeatures:
        """RGB crops (B, 3, Z, Z) in 0..255 -> backbone features. Cell j of a map of stride s lies at crop pixel s·j."""
        crops = crops.contiguous(memory_format=torch.channels_last)
        maps = self.backbone(self.backbone.normalise(crops), TAPS)
        fine, *coarse = (maps[name] for name in TAPS)
        return LiteFeatures(fine, torch.cat(coarse, dim=1))

    def taps(self, features: LiteFeatures) -> Tensor:
        """Everything at stride 16: (B, 232, n, n).

        Of the stride-8 map every other cell is taken, averaged with its neighbours: exactly the coarse cells' places.
        """
        halved = F.avg_pool2d(features.fine, 3, stride=2, padding=1, count_include_pad=False)  # (B, 40, n, n)
        return torch.cat((halved, features.coarse), dim=1)

    def classifier_features(self, features: LiteFeatures) -> Tensor:
        """The target filter's features (B, D, n, n), of unit-norm scale."""
        taps = self.taps(features)
        maps = self.projection(taps) + self.residual(taps)
        return instance_l2_norm(
            at_least_float32(maps), math.sqrt(1 / (self.config.channels * self.config.filter_size**2))
        )

    def forward(
        self,
        train_images: Tensor,
        test_images: Tensor,
        train_boxes: Tensor,
        proposals: Tensor | None = None,
        iterations: int = 5,
    ) -> TrainingOutput:
        """The training call: fit a filter to the train frames from zero, score the test frames with every iterate.

        ``train_images`` (I, S, 3, Z, Z) and ``test_images`` (I', S, 3, Z, Z) RGB in 0..255, ``train_boxes`` (I, S, 4) xywh in
        crop pixels, ``proposals`` (I', S, P, 4). The box estimator's reference is the first train frame.
        Under autocast, the filter's fit and the box pooling stay in float32: they are sums over many cells.
        """
        count, sequences = train_images.shape[:2]
        found = self.extract(torch.cat((train_images, test_images)).flatten(0, 1))  # frame-major rows
        maps = self.classifier_features(found).unflatten(0, (-1, sequences))  # (I + I', S, D, n, n)
        with full_precision(maps):
            start = maps.new_zeros(sequences, maps.shape[2], *(2 * (self.config.filter_size,)))
            fit = self.filter_optimizer(
                start,
                Samples.from_maps(maps[:count]),
                to_filter_boxes(train_boxes),
                None,
                iterations,
                keep_iterates=True,
            )
            tests = Samples.from_maps(maps[count:])
            scores = tuple(apply_filter(tests, weights).transpose(0, 1) for weights in fit.iterates)
        if proposals is None:
            return TrainingOutput(scores, None)
        first, tested = found[:sequences], found[count * sequences :]
        view = self.box_net.view(first.fine, first.coarse, train_boxes[0])
        frames = len(test_images)
        views = TargetView(view.weight.repeat(frames, 1, 1), view.bias.repeat(frames, 1))
        found_scores = self.box_net.scores(
            self.box_net.maps(tested.fine, tested.coarse), views, proposals.flatten(0, 1)
        )
        return TrainingOutput(scores, found_scores.unflatten(0, (frames, sequences)))

    def for_inference(self) -> LiteNet:
        """A faster copy for tracking: norms folded, convolutions fused with what follows; the same numbers up to rounding."""
        return fuse_convolutions(to_channels_last(fold_batch_norms(self).requires_grad_(False)))


class _Residual(nn.Sequential):
    """What training adds to the projection; it starts as nothing."""

    def __init__(self, inputs: int, wide: int, outputs: int) -> None:
        spread = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        super().__init__(
            ConvNorm(OrderedDict(conv=nn.Conv2d(inputs, wide, 1, bias=False), bn=nn.BatchNorm2d(wide))), nn.ReLU(inplace=True),
            ConvNorm(OrderedDict(conv=spread, bn=nn.BatchNorm2d(wide))), nn.ReLU(inplace=True),
            nn.Conv2d(wide, outputs, 1),
        )  # fmt: skip
        for parameter in self[-1].parameters():
            nn.init.zeros_(parameter)


def cell_of(boxes: Tensor) -> Tensor:
    """(..., 4) xywh in crop pixels -> (..., 2) row, column of the centre in cells of the feature map, with fractions."""
    return ((boxes[..., :2] + 0.5 * boxes[..., 2:] - 0.5) / STRIDE).flip(-1)


def to_filter_boxes(boxes: Tensor) -> Tensor:
    """(..., 4) xywh in crop pixels as the filter's optimiser wants them.

    The family's odd filters put cell n at pixel coordinate 16 (n + ½); here it lies at pixel 16 n, whose middle has the
    coordinate 16 n + ½: boxes move by the difference.
    """
    shift = boxes.new_tensor((1, 1, 0, 0)) * ((STRIDE - 1) / 2)
    return boxes + shift
