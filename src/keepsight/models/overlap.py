"""What the networks of ATOM and DiMP share: a backbone with two outputs, and the overlap predictor; spec/dimp-atom.md §1, 3."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from ..nn.fuse import fold_batch_norms, to_channels_last
from ..nn.iou_net import IoUNet
from ..nn.resnet import ResNet

NetT = TypeVar("NetT", bound="OverlapNet")


@dataclass(frozen=True)
class BackboneFeatures:
    """What one pass over a batch of crops (B, 3, Z, Z) gives to the two branches."""

    layer2: Tensor
    """(B, C2, Z/8, Z/8)"""
    layer3: Tensor
    """(B, C3, Z/16, Z/16)"""

    def __getitem__(self, rows: slice) -> BackboneFeatures:
        return BackboneFeatures(self.layer2[rows], self.layer3[rows])


@dataclass(frozen=True)
class TrainingOutput:
    """What a network gives its objective for I test frames of S sequences."""

    scores: tuple[Tensor, ...]
    """Score maps (I, S, H', W') of the initial filter and of the filter after every step; empty without a classifier."""
    boxes: Tensor | None
    """(I, S, P) scores of the proposals, if there were any."""


class OverlapNet(nn.Module):
    """Backbone and overlap predictor under their published names."""

    feature_extractor: ResNet
    bb_regressor: IoUNet

    def extract(self, crops: Tensor) -> BackboneFeatures:
        """Normalised RGB crops (B, 3, Z, Z) -> backbone features."""
        found = self.feature_extractor(crops, ("layer2", "layer3"))
        return BackboneFeatures(found["layer2"], found["layer3"])

    def for_inference(self: NetT) -> NetT:
        """A faster copy for tracking: batch norms folded, channels-last, the layers that tracking never uses left out.

        Same numbers up to rounding; its parameters no longer have the published names, so keep the original for saving.
        """
        lean = copy.copy(self)  # share tensors until folding copies what it changes
        lean._modules = dict(self._modules)
        backbone = copy.copy(self.feature_extractor)
        backbone._modules = {k: v for k, v in self.feature_extractor._modules.items() if k not in ("layer4", "fc")}
        lean._modules["feature_extractor"] = backbone
        return to_channels_last(fold_batch_norms(lean).requires_grad_(False).eval())
