"""The DiMP family's network: backbone, target classifier, overlap predictor; spec/dimp-atom.md §1, 3, 4, 8 and appendix A.

Parameter names are those of the published checkpoints: ``feature_extractor.``, ``classifier.``, ``bb_regressor.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, WeightsError, nearest_names
from ..nn.correlation import Samples, apply_filter
from ..nn.iou_net import IoUNet
from ..nn.precision import at_least_float32, full_precision
from ..nn.resnet import BACKBONES, build_backbone
from ..nn.target_filter import (
    DensityConfig,
    DiMPOptimiser,
    FilterInitialiser,
    FilterOptimiser,
    L2Optimiser,
    PrDiMPOptimiser,
    SimpleOptimiser,
    feature_head,
)
from .overlap import BackboneFeatures, OverlapNet, TrainingOutput

STRIDE = 16  # of the classifier's features (backbone layer3)


@dataclass(frozen=True)
class DiMPNetConfig:
    """Everything about the network that its weights do not say; a published file keeps these in its constructor (spec §8).

    Defaults are the published functions' own defaults, so that a constructor with few keywords means the same here.
    """

    backbone: str = "resnet18"
    """``resnet18`` or ``resnet50``; ``resnet18-narrow`` and ``resnet50-narrow`` are for tests and debug recipes."""
    optimiser: str = "dimp"
    """``dimp`` (Gauss-Newton), ``l2``, ``prdimp`` (Newton) or ``simple`` (hinge residuals)."""
    filter_size: int = 4
    """Side of the target filter in cells of stride 16."""
    classifier_dim: int = 256
    """Channels of the classifier's features."""
    head_blocks: int = 1
    """Residual blocks at the start of the classifier's feature head."""
    normalise_features: bool = True
    """Instance L2 norm at the end of the feature head."""
    filter_norm: bool = False
    """Divide the initial filter by its number of elements."""
    zero_init: bool = False
    """Start the initialiser's convolution from zeros (matters for training and random weights)."""
    init_step: float = 1.0
    """Initial step factor of the optimiser."""
    init_filter_reg: float = 1e-2
    """Initial weight of the filter's regulariser (before squaring)."""
    min_filter_reg: float = 1e-3
    """Lower limit of the regulariser's weight (before squaring)."""
    alpha_eps: float = 0.0
    """ε added to λ in the step length's denominator."""
    gauss_sigma: float = 1.0
    """Standard deviation of the label in score cells."""
    num_dist_bins: int = 5
    """Bins of the distance maps (dimp)."""
    bin_displacement: float = 1.0
    """Distance between two bins in score cells (dimp)."""
    mask_init_factor: float = 4.0
    """Initial scale of the target mask (dimp)."""
    score_act: str = "relu"
    """Activation of the scores in the residual: ``relu`` or ``bentpar`` (dimp)."""
    act_param: float | None = None
    """Bend of ``bentpar`` (dimp)."""
    mask_act: str = "sigmoid"
    """Activation of the target mask: ``sigmoid`` or ``linear`` (dimp)."""
    normalise_label: bool = False
    """Normalise the label density on the grid (prdimp)."""
    label_threshold: float = 0.0
    """Label density at or below this is 0 (prdimp)."""
    label_shrink: float = 0.0
    """Shrinks the label density (prdimp)."""
    uniform_weight: float = 0.0
    """Share of a uniform density in the label (prdimp)."""
    softmax_reg: float | None = None
    """Extra logit in the softmax (prdimp)."""
    hinge_threshold: float = 0.05
    """Labels above this are regressed on both sides (simple, l2)."""
    activation_leak: float = 0.1
    """Share of the residual that negative scores of the background keep (simple)."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backbone", BACKBONES),
            ("optimiser", ("dimp", "l2", "prdimp", "simple")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is unknown; {nearest_names(getattr(self, name), allowed)}"
                )


def network_config(name: str) -> DiMPNetConfig:
    """Configuration of a published network by its weights' name (spec §5, "net options").

    Raises :class:`InputError` for an unknown name.
    """
    r50 = {"backbone": "resnet50", "classifier_dim": 512, "head_blocks": 0}
    dimp = {
        "optimiser": "dimp", "init_step": 0.9, "init_filter_reg": 0.1, "gauss_sigma": 0.9, "num_dist_bins": 100,
        "bin_displacement": 0.1, "mask_init_factor": 3.0,
    }  # fmt: skip
    prdimp = {
        "optimiser": "prdimp", "init_step": 1.0, "init_filter_reg": 0.05, "min_filter_reg": 0.05, "gauss_sigma": 0.9,
        "alpha_eps": 0.05, "normalise_label": True, "zero_init": True,
    }  # fmt: skip
    simple = {"optimiser": "simple", "init_filter_reg": 0.1, "hinge_threshold": 0.05, "activation_leak": 0.1}
    configs: dict[str, dict[str, Any]] = {
        "dimp18": dimp,
        "dimp50": {**r50, **dimp},
        "prdimp18": prdimp,
        "prdimp50": {**r50, **prdimp},
        "super_dimp": {**r50, **dimp, "gauss_sigma": 0.25 * 22 / 6},
        "super_dimp_simple": {**r50, **simple},
    }
    if name not in configs:
        raise InputError(f"no network {name!r}; {nearest_names(name, configs)}")
    return DiMPNetConfig(**configs[name])


# Constructor keyword of a published file -> our field. Keywords that only training uses are named with None.
_KEYWORDS: dict[str, str | None] = {
    "filter_size": "filter_size", "out_feature_dim": "classifier_dim", "clf_feat_blocks": "head_blocks",
    "clf_feat_norm": "normalise_features", "init_filter_norm": "filter_norm", "optim_init_step": "init_step",
    "optim_init_reg": "init_filter_reg", "optim_min_reg": "min_filter_reg", "alpha_eps": "alpha_eps",
    "init_gauss_sigma": "gauss_sigma", "gauss_sigma": "gauss_sigma", "num_dist_bins": "num_dist_bins",
    "bin_displacement": "bin_displacement", "mask_init_factor": "mask_init_factor", "score_act": "score_act",
    "act_param": "act_param", "target_mask_act": "mask_act", "normalize_label": "normalise_label",
    "label_threshold": "label_threshold", "label_shrink": "label_shrink", "init_uni_weight": "uniform_weight",
    "softmax_reg": "softmax_reg", "hinge_threshold": "hinge_threshold", "activation_leak": "activation_leak",
    "init_initializer": None, "optim_iter": None, "optim_init_iter": None, "backbone_pretrained": None,
    "classification_layer": None, "feat_stride": None, "final_conv": None, "iou_input_dim": None, "iou_inter_dim": None,
    "detach_length": None, "frozen_backbone_layers": None, "train_feature_extractor": None, "train_iounet": None,
    "init_pool_square": None,
}  # fmt: skip

_CONSTRUCTORS: dict[str, dict[str, Any]] = {
    "dimpnet18": {"optimiser": "dimp"},
    "dimpnet50": {"optimiser": "dimp", "backbone": "resnet50", "classifier_dim": 512, "head_blocks": 0},
    "L2dimpnet18": {"optimiser": "l2", "hinge_threshold": -999.0},
    "klcedimpnet18": {"optimiser": "prdimp"},
    "klcedimpnet50": {"optimiser": "prdimp", "backbone": "resnet50", "classifier_dim": 512, "head_blocks": 0},
    "dimpnet50_simple": {"optimiser": "simple", "backbone": "resnet50", "classifier_dim": 512, "head_blocks": 0},
}


def config_from_constructor(fun_name: str, keywords: Mapping[str, Any]) -> DiMPNetConfig:
    """The configuration that a published file's constructor record describes (spec §8).

    Raises :class:`WeightsError` for another family's constructor, an unknown keyword, or a layout that was never published.
    """
    if fun_name not in _CONSTRUCTORS:
        raise WeightsError(
            f"constructor {fun_name!r} is not of the DiMP family; expected one of {sorted(_CONSTRUCTORS)}"
        )
    unknown = set(keywords) - set(_KEYWORDS)
    if unknown:
        raise WeightsError(f"constructor {fun_name} has keywords that keepsight does not know: {sorted(unknown)}")
    fixed = {"feat_stride": STRIDE, "classification_layer": "layer3", "final_conv": True, "init_pool_square": False}
    for key, expected in fixed.items():
        given = keywords.get(key, expected)
        if isinstance(given, (list, tuple)) and len(given) == 1:
            given = given[0]
        if given != expected:
            raise WeightsError(
                f"constructor {fun_name} has {key}={given!r}; keepsight builds the published {key}={expected!r}"
            )
    options = {ours: keywords[key] for key, ours in _KEYWORDS.items() if ours is not None and key in keywords}
    kind = {f.name: f.type for f in fields(DiMPNetConfig)}
    for name, value in options.items():
        if value is not None and kind[name] in ("float", "float | None"):
            options[name] = float(value)
    options["zero_init"] = keywords.get("init_initializer") == "zero"
    return replace(DiMPNetConfig(**_CONSTRUCTORS[fun_name]), **options)


class Classifier(nn.Module):
    """Target classifier: feature head, filter initialiser and optimiser, under their published names."""

    def __init__(self, channels_in: int, config: DiMPNetConfig) -> None:
        super().__init__()
        self.filter_size = config.filter_size
        self.filter_initializer = FilterInitialiser(
            config.classifier_dim, config.filter_size, STRIDE, zero=config.zero_init, filter_norm=config.filter_norm
        )
        self.filter_optimizer = _optimiser(config)
        self.feature_extractor = feature_head(
            channels_in, config.classifier_dim, config.head_blocks, config.filter_size, config.normalise_features
        )


def _optimiser(config: DiMPNetConfig) -> FilterOptimiser:
    common: dict[str, Any] = {"stride": STRIDE, "init_filter_reg": config.init_filter_reg}
    if config.optimiser == "simple":
        return SimpleOptimiser(**common, hinge_threshold=config.hinge_threshold, activation_leak=config.activation_leak)
    common |= {
        "init_step_length": config.init_step, "min_filter_reg": config.min_filter_reg, "alpha_eps": config.alpha_eps,
    }  # fmt: skip
    if config.optimiser == "l2":
        return L2Optimiser(**common, gauss_sigma=config.gauss_sigma, hinge_threshold=config.hinge_threshold)
    if config.optimiser == "prdimp":
        density = DensityConfig(
            config.gauss_sigma,
            config.normalise_label,
            config.uniform_weight,
            config.label_shrink,
            config.label_threshold,
        )
        return PrDiMPOptimiser(**common, softmax_reg=config.softmax_reg, density=density)
    return DiMPOptimiser(
        **common, init_gauss_sigma=config.gauss_sigma, num_dist_bins=config.num_dist_bins, score_act=config.score_act,
        bin_displacement=config.bin_displacement, mask_init_factor=config.mask_init_factor, act_param=config.act_param,
        mask_act=config.mask_act,
    )  # fmt: skip


class DiMPNet(OverlapNet):
    """One network for DiMP, PrDiMP and SuperDiMP; ``config`` says which."""

    def __init__(self, config: DiMPNetConfig) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config.backbone)
        c2, c3 = backbone.channels["layer2"], backbone.channels["layer3"]
        self.feature_extractor = backbone
        self.classifier = Classifier(c3, config)
        self.bb_regressor = IoUNet((c2, c3))

    def classifier_features(self, features: BackboneFeatures) -> Tensor:
        """(B, D, Z/16, Z/16), of unit-norm scale."""
        return self.classifier.feature_extractor(features.layer3)

    def forward(
        self,
        train_images: Tensor,
        test_images: Tensor,
        train_boxes: Tensor,
        proposals: Tensor | None = None,
        train_label: Tensor | None = None,
        iterations: int = 5,
    ) -> TrainingOutput:
        """The training call: fit the filter on the train frames, score the test frames with every iterate; §4, end of 4.9.

        ``train_images`` (I, S, 3, Z, Z) and ``test_images`` (I', S, 3, Z, Z) normalised, ``train_boxes`` (I, S, 4) xywh in
        crop pixels, ``proposals`` (I', S, P, 4) or None, ``train_label`` (I, S, H', W') for SuperDiMP-simple, which fits a
        given label (others make theirs from the boxes). Gradients run through the unrolled steps and both branches into
        the backbone. The box branch's reference is the first train frame alone (§3). Train and test frames pass the
        backbone one after the other, so batch norms in training mode see each kind by itself.

        Under autocast, the filter's fit and the box pooling stay in float32: they are sums over many cells.
        """
        count, sequences = train_images.shape[:2]
        train = self.extract(train_images.flatten(0, 1))  # frame-major rows: (I·S, C, F, F)
        test = self.extract(test_images.flatten(0, 1))
        train_maps = self.classifier_features(train).unflatten(0, (count, sequences))  # (I, S, D, F, F)
        test_maps = self.classifier_features(test).unflatten(0, (-1, sequences))  # (I', S, D, F, F)
        scores = self.filter_scores(train_maps, test_maps, train_boxes, train_label, iterations)
        if proposals is None:
            return TrainingOutput(scores, None)
        first = train[:sequences]
        return TrainingOutput(
            scores,
            self.bb_regressor((first.layer2, first.layer3), train_boxes[0], (test.layer2, test.layer3), proposals),
        )

    def filter_scores(
        self, train: Tensor, test: Tensor, boxes: Tensor, label: Tensor | None, iterations: int
    ) -> tuple[Tensor, ...]:
        """Fit the filter on ``train`` (I, S, D, F, F); scores (I', S, H', W') of ``test`` at all ``iterations`` + 1 iterates."""
        simple = self.config.optimiser == "simple"
        if simple and label is None:
            raise InputError("this network fits a given label: pass train_label (processing makes it, spec §4.7)")
        with full_precision(train):
            train, test = at_least_float32(train), at_least_float32(test)
            initial = self.classifier.filter_initializer(train, boxes.to(train.dtype))  # (S, D, k, k)
            target = label if simple else boxes
            assert target is not None  # for the type checker: simple networks have their label here
            fit = self.classifier.filter_optimizer(
                initial, Samples.from_maps(train), target.to(train.dtype), None, iterations, keep_iterates=True
            )
            samples = Samples.from_maps(test)
            return tuple(apply_filter(samples, weights).transpose(0, 1) for weights in fit.iterates)
