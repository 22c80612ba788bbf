"""ATOM's network: a backbone with fixed weights and the overlap predictor; spec/dimp-atom.md §1, 3 and appendix A.

Danelljan et al., "ATOM: accurate tracking by overlap maximization" (CVPR 2019). Its target classifier is learned online only
and has no weights here. Parameter names are those of the published checkpoints: ``feature_extractor.``, ``bb_regressor.``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError, nearest_names
from ..nn.iou_net import IoUNet
from ..nn.resnet import BACKBONES, build_backbone
from .overlap import OverlapNet, TrainingOutput


@dataclass(frozen=True)
class AtomNetConfig:
    """Everything about the network that its weights do not say."""

    backbone: str = "resnet18"
    """``resnet18`` or ``resnet50``; ``resnet18-narrow`` and ``resnet50-narrow`` are for tests and debug recipes."""

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise InputError(f"backbone {self.backbone!r} is unknown; {nearest_names(self.backbone, BACKBONES)}")


class AtomNet(OverlapNet):
    """Backbone and overlap predictor."""

    def __init__(self, config: AtomNetConfig = AtomNetConfig()) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config.backbone)
        self.feature_extractor = backbone
        self.bb_regressor = IoUNet((backbone.channels["layer2"], backbone.channels["layer3"]))

    def forward(
        self, train_images: Tensor, test_images: Tensor, train_boxes: Tensor, proposals: Tensor
    ) -> TrainingOutput:
        """The training call: scores of ``proposals`` (I, S, P, 4) in the test frames, given the first train frame and its box.

        ``train_images`` (n, S, 3, Z, Z), ``test_images`` (I, S, 3, Z, Z) normalised; ``train_boxes`` (n, S, 4); boxes are
        xywh in crop pixels.
        """
        train, test = self.extract(train_images.flatten(0, 1)), self.extract(test_images.flatten(0, 1))
        first = train[: train_images.shape[1]]
        scores = self.bb_regressor((first.layer2, first.layer3), train_boxes[0], (test.layer2, test.layer3), proposals)
        return TrainingOutput((), scores)
