"""ATOM's network: a backbone with fixed weights and the overlap predictor; spec/dimp-atom.md §1, 3 and appendix A.

Danelljan et al., "ATOM: accurate tracking by overlap maximization" (CVPR 2019). Its target classifier is learned online only
and has no weights here. Parameter names are those of the published checkpoints: ``feature_extractor.``, ``bb_regressor.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, WeightsError, nearest_names
from ..images import normalise
from ..nn.box_net import TargetView
from ..nn.iou_net import AutogradScorer, IoUNet, Modulation, check_kind
from ..nn.resnet import BACKBONES, build_backbone
from .lite import LiteFeatures, LiteNet
from .overlap import BackboneFeatures, OverlapNet, TrainingOutput

STRIDE = 16  # of the classifier's features (backbone layer3)


@dataclass(frozen=True)
class AtomNetConfig:
    """Everything about the network that its weights do not say. The defaults are the published network.

    Raises :class:`InputError` for unknown values.
    """

    backbone: str = "resnet18"
    """``resnet18`` or ``resnet50``; ``resnet18-narrow`` and ``resnet50-narrow`` are for tests and debug recipes."""
    reference: str = "modulation"
    """How the overlap predictor uses the reference frame: ``modulation``, or for the paper's Table 1 ``none``,
    ``concatenation`` or ``siamese``; :class:`keepsight.nn.iou_net.IoUNet`."""
    levels: tuple[int, ...] = (3, 4)
    """The backbone's blocks, as the paper counts them, that the overlap predictor uses: (3, 4), (3,) or (4,)."""

    def __post_init__(self) -> None:
        if isinstance(self.levels, list):  # JSON has no tuples
            object.__setattr__(self, "levels", tuple(self.levels))
        check_kind(self.reference, self.levels)
        if self.backbone not in BACKBONES:
            raise InputError(f"backbone {self.backbone!r} is unknown; {nearest_names(self.backbone, BACKBONES)}")


_TABLE_1 = {
    "atom_no_reference": AtomNetConfig(reference="none"),
    "atom_concatenation": AtomNetConfig(reference="concatenation"),
    "atom_siamese": AtomNetConfig(reference="siamese"),
    "atom_block3": AtomNetConfig(levels=(3,)),
    "atom_block4": AtomNetConfig(levels=(4,)),
}
ABLATED_NETWORKS = tuple(_TABLE_1)
"""Networks of the paper's Table 1 that were never published; a recipe of the same name trains each."""


def atom_network(name: str) -> AtomNetConfig:
    """Configuration of a network by its weights' name: ``atom`` and its published variants, or one of the paper's Table 1.

    Raises :class:`InputError` for an unknown name.
    """
    configs = {name: AtomNetConfig() for name in ("atom", "atom_prob_ml", "atom_gmm_sampl", "atom_paper")} | _TABLE_1
    if name not in configs:
        raise InputError(f"no network {name!r}; {nearest_names(name, configs)}")
    return configs[name]


_CONSTRUCTORS = {"atom_resnet18": "resnet18", "atom_resnet50": "resnet50"}
_PUBLISHED_DIMS = {"iou_input_dim": (256, 256), "iou_inter_dim": (256, 256)}


def atom_config_from_constructor(fun_name: str, keywords: Mapping[str, Any]) -> AtomNetConfig:
    """The configuration that a published file's constructor record describes (spec §8).

    Raises :class:`WeightsError` for another family's constructor, an unknown keyword, or a layout that was never published.
    """
    if fun_name not in _CONSTRUCTORS:
        raise WeightsError(f"constructor {fun_name!r} is not ATOM's; expected one of {sorted(_CONSTRUCTORS)}")
    unknown = set(keywords) - set(_PUBLISHED_DIMS) - {"backbone_pretrained"}
    if unknown:
        raise WeightsError(f"constructor {fun_name} has keywords that keepsight does not know: {sorted(unknown)}")
    for key, expected in _PUBLISHED_DIMS.items():
        given = keywords.get(key, expected)
        if (tuple(given) if isinstance(given, list) else given) != expected:
            raise WeightsError(
                f"constructor {fun_name} has {key}={given!r}; keepsight builds the published {key}={expected!r}"
            )
    return AtomNetConfig(_CONSTRUCTORS[fun_name])


class AtomNet(OverlapNet):
    """Backbone and overlap predictor."""

    def __init__(self, config: AtomNetConfig = AtomNetConfig()) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config.backbone)
        self.feature_extractor = backbone
        channels = backbone.channels["layer2"], backbone.channels["layer3"]
        self.bb_regressor = IoUNet(channels, reference=config.reference, levels=config.levels)

    # --- what the online loop asks of a network --------------------------------------------------------------------------

    @staticmethod
    def cells(side: int) -> int:
        """Side of the classifier's features for crops of ``side`` pixels."""
        if side % STRIDE:
            raise InputError(f"sample_size is {side}; expected a multiple of {STRIDE} pixels for this network")
        return side // STRIDE

    def features(self, crops: Tensor) -> BackboneFeatures:
        """RGB crops (B, 3, Z, Z) in 0..255 -> backbone features."""
        return self.extract(normalise(crops))

    def classifier_maps(self, features: BackboneFeatures) -> Tensor:
        """What the online classifier sees, (B, D, Z/16, Z/16): ``layer3`` scaled to a mean square of 1 per crop; §7.11."""
        return unit_power(features.layer3)

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


class AtomLiteNet(LiteNet):
    """The default tracker's network under ATOM's online loop: EfficientNet-Lite0 features in place of ResNet-18's.

    The classifier is learnt online from the backbone's features, as with a ResNet; the box estimator is the default tracker's,
    whose score is a log-density in place of an overlap.
    """

    @staticmethod
    def cells(side: int) -> int:
        """Side of the classifier's features for crops of ``side`` pixels, 16 n + 1."""
        if side % STRIDE != 1:
            raise InputError(f"sample_size is {side}; expected a multiple of {STRIDE} and one more for this network")
        return side // STRIDE + 1

    def features(self, crops: Tensor) -> LiteFeatures:
        """RGB crops (B, 3, Z, Z) in 0..255 -> backbone features."""
        return self.extract(crops)

    def classifier_maps(self, features: LiteFeatures) -> Tensor:
        """What the online classifier sees, (B, D, F, F), scaled to a mean square of 1 per crop."""
        return unit_power(self.taps(features))

    def box_reference(self, features: LiteFeatures, boxes: Tensor) -> Modulation:
        """What to keep of the targets in ``boxes`` (B, 4), xywh in crop pixels, one in each of B crops."""
        view = self.box_net.view(features.fine, features.coarse, boxes)
        return Modulation(view.weight, view.bias)

    def prepare_boxes(self, reference: Modulation) -> Modulation:
        """Nothing to prepare: the view is folded into the estimator's first layer already."""
        return reference

    def box_scorer(self, prepared: Modulation, features: LiteFeatures) -> AutogradScorer:
        """Scores boxes, xywh in crop pixels, of one crop for the target of :meth:`box_reference`."""

        def score(boxes: Tensor, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return self.box_net.scores(maps, TargetView(weight, bias), boxes[None])[0]

        maps = self.box_net.maps(features.fine, features.coarse)
        return AutogradScorer(score, maps, prepared.level3, prepared.level4)


def unit_power(maps: Tensor) -> Tensor:
    """``maps`` (B, C, H, W), each sample scaled to a mean square of 1; §7.11."""
    return maps * torch.rsqrt(maps.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-10)
