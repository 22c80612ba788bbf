"""What the networks of ATOM and DiMP share: a backbone with two outputs, and the overlap predictor; spec/dimp-atom.md §1, 3."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..nn.fuse import fold_batch_norms, to_channels_last
from ..nn.iou_net import BoxScorer, IoUNet, Modulation
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

    @staticmethod
    def cat(parts: list[BackboneFeatures]) -> BackboneFeatures:
        """Of several batches, one after the other."""
        return BackboneFeatures(torch.cat([p.layer2 for p in parts]), torch.cat([p.layer3 for p in parts]))


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

    # --- the overlap predictor while tracking ---------------------------------------------------------------------------

    def box_reference(self, features: BackboneFeatures, boxes: Tensor) -> Modulation:
        """What to keep of the targets in ``boxes`` (B, 4), xywh in crop pixels, one in each of B crops."""
        return self.bb_regressor.modulation(features.layer2, features.layer3, boxes)

    def prepare_boxes(self, reference: Modulation) -> Any:
        """Everything about one target that :meth:`box_scorer` needs, computed once; ``reference`` of one crop."""
        return self.bb_regressor.scoring_weights(reference)

    def box_scorer(self, prepared: Any, features: BackboneFeatures) -> BoxScorer:
        """Scores boxes, xywh in crop pixels, of one crop for the target of :meth:`prepare_boxes`."""
        return BoxScorer(prepared, self.bb_regressor.test_branch(features.layer2, features.layer3))
