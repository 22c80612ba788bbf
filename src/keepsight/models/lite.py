"""The network of the default tracker: EfficientNet-Lite0 features for DiMP's target filter, quick on a CPU.

Without any training of ours the features come from ImageNet and the filter's optimiser from its analytic start values
(spec/dimp-atom.md §4.4); all of them are parameters, so that trained ones can take their place in the same file.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.correlation import instance_l2_norm
from ..nn.efficientnet_lite import EfficientNetLite0
from ..nn.fuse import fold_batch_norms, to_channels_last
from ..nn.target_filter import DiMPOptimiser

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


class LiteNet(nn.Module):
    """Backbone, projection to the filter's features, and the filter's optimiser."""

    def __init__(self, config: LiteNetConfig = LiteNetConfig()) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite0(padding="symmetric", last_block=10)
        self.projection = nn.Conv2d(sum(self.backbone.channels[t] for t in TAPS), config.channels, 1)
        self.filter_optimizer = DiMPOptimiser(
            stride=STRIDE, init_step_length=config.init_step, init_filter_reg=config.init_filter_reg,
            init_gauss_sigma=config.gauss_sigma, num_dist_bins=config.num_dist_bins,
            bin_displacement=config.bin_displacement, mask_init_factor=config.mask_init_factor,
        )  # fmt: skip

    def taps(self, crops: Tensor) -> Tensor:
        """RGB crops (B, 3, Z, Z) in 0..255 -> backbone features (B, C, F, F) with F = ceil(Z / 16).

        Cell j lies at crop pixel 16·j: of the stride-8 map every other cell is taken, averaged with its neighbours.
        """
        maps = self.backbone(self.backbone.normalise(crops), TAPS)
        fine, *coarse = (maps[name] for name in TAPS)
        halved = F.avg_pool2d(fine, 3, stride=2, padding=1, count_include_pad=False)  # (B, 40, F, F)
        return torch.cat((halved, *coarse), dim=1)

    def features(self, crops: Tensor) -> Tensor:
        """RGB crops (B, 3, Z, Z) in 0..255 -> the target filter's features (B, D, F, F), of unit-norm scale."""
        maps = self.projection(self.taps(crops))
        return instance_l2_norm(maps, math.sqrt(1 / (self.config.channels * self.config.filter_size**2)))

    def for_inference(self) -> LiteNet:
        """A faster copy for tracking: batch norms folded, channels-last; the same numbers up to rounding."""
        folded = copy.copy(self)
        folded._modules = dict(self._modules)
        return to_channels_last(fold_batch_norms(folded).requires_grad_(False).eval())
