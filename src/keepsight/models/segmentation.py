"""The networks of LWL, its box initialisation, STA and RTS; spec of RTS and LWL §4, 7, 10. Parts: ``nn/segmentation.py``.

Parameter names are those of the published checkpoints. Images are (N, 3, H, W) float: BGR in 0..255 minus the mean for LWL and
RTS; STA's tracker gives it raw RGB in 0..255 (Q23). Frames and sequences stand in front of all else: (I, S, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError, nearest_names
from ..nn import segmentation as parts
from ..nn.correlation import Samples
from ..nn.fuse import fold_batch_norms, to_channels_last
from ..nn.precision import at_least_float32, full_precision
from ..nn.resnet import BACKBONES, build_backbone
from ..nn.segmentation import LEVELS, BoxLabelEncoder, BoxMaskEncoder, ConcatFusion, LabelEncoder, TargetModel
from ..nn.target_filter import FilterInitialiser, FitResult, SimpleOptimiser

STRIDE = 16  # of the learner's features (backbone layer3) and of all encodings
CLASSIFIER_STRIDE = 32  # of RTS's classifier features
FUSIONS = ("add", "concat")

NetT = TypeVar("NetT", bound="SegmentationNet")
ConfigT = TypeVar("ConfigT", bound="LWLNetConfig")


@dataclass(frozen=True)
class LWLNetConfig:
    """What the weights of LWL's network do not say. Defaults are the published settings (§4)."""

    backbone: str = "resnet50-mrcnn"
    """Mask R-CNN's ResNet-50 as published (``backbone_type`` "mrcnn"), or another of ``nn/resnet.py``."""
    filter_size: int = 3
    """Side of the learner's filters in cells of stride 16; odd."""
    num_filters: int = 16
    """Filters of the learner: channels of the mask's encoding."""
    feature_dim: int = 512
    """Channels of the learner's features."""
    head_blocks: int = 0
    """Residual blocks in front of the features' convolution."""
    label_encoder_dims: tuple[int, ...] = (16, 32, 64)
    """Channels of the label encoder's stages."""
    decoder_dim: int = 64
    """Channels of the decoder at stride 4; deeper levels have two and four times as many."""
    init_filter_reg: float = 0.01
    """Initial λ of the learner (before squaring)."""
    iterations: int = 5
    """Steps of the learner in training; STA's also while tracking."""

    def __post_init__(self) -> None:
        _known("backbone", self.backbone, BACKBONES)
        for name, length in self._lengths().items():
            dims = getattr(self, name)
            if not isinstance(dims, (list, tuple)) or len(dims) != length:
                raise InputError(f"{name} is {dims!r}; expected {length} numbers of channels")
            object.__setattr__(self, name, tuple(dims))
        if self.filter_size < 1 or self.filter_size % 2 == 0:
            raise InputError(f"filter_size is {self.filter_size}; expected an odd number")

    def _lengths(self) -> dict[str, int]:
        return {"label_encoder_dims": 3}


@dataclass(frozen=True)
class LWLBoxNetConfig(LWLNetConfig):
    """LWL's network with the box initialisation (§4.8)."""

    box_label_encoder_dims: tuple[int, ...] = (64, 64)
    """Channels of the box encoder's residual blocks."""
    wrap_boxes: bool = True
    """Q17: boxes that begin outside the image count from its other end, as published; else they are cut off there."""

    def _lengths(self) -> dict[str, int]:
        return {**super()._lengths(), "box_label_encoder_dims": len(self.box_label_encoder_dims) or 1}


@dataclass(frozen=True)
class STANetConfig(LWLNetConfig):
    """STA's network (§10). The published file's own settings were never seen; these agree with its tensors."""

    label_encoder_dims: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of the two box encoders' stages; the mask encoder has the first three."""

    def _lengths(self) -> dict[str, int]:
        return {"label_encoder_dims": 4}


@dataclass(frozen=True)
class RTSNetConfig(LWLNetConfig):
    """RTS's network: LWL's with DiMP's classifier and the encoder of its scores (§7)."""

    clf_filter_size: int = 4
    """Side of the classifier's filter in cells of stride 32."""
    clf_hinge_threshold: float = 0.05
    """Labels above this are regressed on both sides."""
    clf_activation_leak: float = 0.1
    """Share of the residual that negative scores of the background keep."""
    clf_filter_reg: float = 0.01
    """λ of the classifier's optimiser (before squaring); fixed, not learned."""
    clf_pool_stride: int = 16
    """Stride by which the first filter is pooled. Q13: 16 as published and trained, though the features have 32."""
    fusion: str = "add"
    """``add`` as published, or ``concat``: the two encodings through a convolution, which was never published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _known("fusion", self.fusion, FUSIONS)


def _known(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise InputError(f"{name} {given!r} is unknown; {nearest_names(given, allowed)}")


# --- published constructors (§4, 4.8, 7, 13) -------------------------------------------------------------------------------

_FUNCTIONS = ("steepest_descent_resnet50", "steepest_descent_resnet50_with_clf_encoder")

# Constructor keyword of a published file -> our field. Keywords that only training uses are named with None.
_KEYWORDS: dict[str, str | None] = {
    "filter_size": "filter_size", "num_filters": "num_filters", "optim_iter": "iterations",
    "optim_init_reg": "init_filter_reg", "clf_feat_blocks": "head_blocks", "out_feature_dim": "feature_dim",
    "label_encoder_dims": "label_encoder_dims", "decoder_mdim": "decoder_dim", "backbone_type": "backbone",
    "box_label_encoder_dims": "box_label_encoder_dims", "clf_filter_size": "clf_filter_size",
    "clf_hinge_threshold": "clf_hinge_threshold", "clf_activation_leak": "clf_activation_leak", "fusion_type": "fusion",
    "backbone_pretrained": None, "frozen_backbone_layers": None, "detach_length": None, "init_bn": None,
}  # fmt: skip

_FIXED: dict[str, Any] = {
    "backbone_type": "mrcnn", "final_conv": True, "filter_groups": 1, "use_bn_in_label_enc": False, "use_gauss": False,
    "final_bn": False, "clf_feat_norm": True, "clf_score_act": "relu", "clf_with_extractor": True, "clf_enc_input": "sc",
    "target_model_input_layer": "layer3", "decoder_input_layers": LEVELS,
}  # fmt: skip


def segmentation_config_from_constructor(kind: type[ConfigT], fun_name: str, keywords: Mapping[str, Any]) -> ConfigT:
    """The configuration of ``kind`` that a published file's constructor record describes; absent keywords have our defaults.

    All four networks but RTS's are built by functions of one name, so ``kind`` has to be known from the tensors. A keyword that
    is None says nothing. Raises :class:`WeightsError` for another family's constructor, an unknown keyword, or a value that
    keepsight does not build.
    """
    if not fun_name.startswith(_FUNCTIONS[0]):
        raise WeightsError(f"constructor {fun_name!r} is not of LWL, RTS or STA; expected one of {_FUNCTIONS}")
    said = {key: value for key, value in keywords.items() if value is not None}
    if unknown := set(said) - set(_KEYWORDS) - set(_FIXED):
        raise WeightsError(f"constructor {fun_name} has keywords that keepsight does not know: {sorted(unknown)}")
    for key in set(said) & set(_FIXED):
        given, expected = _plain(said[key]), _plain(_FIXED[key])
        if given != expected:
            raise WeightsError(
                f"constructor {fun_name} has {key}={said[key]!r}; keepsight builds the published {expected!r}"
            )
    if issubclass(kind, STANetConfig):
        said.setdefault("optim_iter", 3)  # the default of STA's function, unlike the others' (§10)
    known = {f.name for f in fields(kind)}
    options = {_KEYWORDS[key]: value for key, value in said.items() if key in _KEYWORDS and key != "backbone_type"}
    try:
        return kind(**{name: value for name, value in options.items() if name is not None and name in known})
    except (InputError, TypeError) as error:
        raise WeightsError(f"constructor {fun_name} describes no network of ours: {error}") from None


def _plain(value: Any) -> Any:
    """Lists as tuples, those of one entry as the entry."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 1 else tuple(value)
    return value


# --- networks --------------------------------------------------------------------------------------------------------------


class SegmentationNet(nn.Module):
    """What all have: backbone, the learner's features, decoder."""

    config: LWLNetConfig

    def __init__(self, config: LWLNetConfig, encoding: int) -> None:
        """``encoding``: channels that the decoder reads."""
        super().__init__()
        self.config = config
        backbone = build_backbone(config.backbone)
        self.feature_extractor = backbone
        head = parts.target_head(backbone.channels["layer3"], config.feature_dim, config.head_blocks)
        self.target_model = TargetModel(config.init_filter_reg, head)
        self.decoder = parts.Decoder(backbone.channels, encoding, config.decoder_dim)

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> ``layer1`` … ``layer4``, (N, C, H/s, W/s) at strides 4, 8, 16, 32, sides rounded up."""
        return self.feature_extractor(images, LEVELS)

    def target_features(self, layer3: Tensor) -> Tensor:
        """The learner's features (N, D, h, w) of ``layer3`` (N, C, h, w); mean square 1 / (9·D)."""
        found: Tensor = self.target_model.feature_extractor(layer3)
        return found

    @property
    def regularisation(self) -> Tensor:
        """The learner's λ, (1,)."""
        return self.target_model.filter_optimizer.regularisation

    def zero_filter(self, sequences: int = 1) -> Tensor:
        """What the learner starts from: (S, M, D, k, k)."""
        c = self.config
        return self.regularisation.new_zeros(
            sequences, c.num_filters, c.feature_dim, c.filter_size, c.filter_size, requires_grad=False
        )

    def learn_filter(
        self, filter: Tensor, features: Tensor | Samples, labels: Tensor, weights: Tensor | None, iterations: int,
        **options: bool,
    ) -> FitResult:  # fmt: skip
        """:func:`~keepsight.nn.segmentation.learn_filter` with this network's λ; in float32 under autocast."""
        return _learn(filter, features, labels, weights, self.regularisation, iterations, **options)

    def fit_filter(
        self, filter: Tensor, features: Tensor | Samples, labels: Tensor, weights: Tensor | None, iterations: int
    ) -> Tensor:
        """The filter (S, M, D, k, k) after ``iterations`` steps."""
        return self.learn_filter(filter, features, labels, weights, iterations).weights

    def apply_filter(self, filter: Tensor, features: Tensor | Samples) -> Tensor:
        """Encoding (I, S, M, h, w) of ``features`` (I, S, D, h, w)."""
        with full_precision(filter):
            return parts.apply_filter(filter, _at_least_float32(features))

    def decode(self, encoding: Tensor, layers: Mapping[str, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Logits (N, 1, H, W) of ``image_size`` = (H, W); ``encoding`` (N, M, h, w), or (I, S, M, h, w) with I·S = N."""
        if encoding.dim() == 5:
            encoding = encoding.flatten(0, 1)
        logits: Tensor = self.decoder(encoding, layers, image_size)
        return logits

    def for_inference(self: NetT) -> NetT:
        """A faster copy for tracking: batch norms folded, channels-last. Same numbers up to rounding.

        Its parameters no longer have the published names, so keep the original for saving.
        """
        return to_channels_last(fold_batch_norms(self).requires_grad_(False).eval())


class LWLNet(SegmentationNet):
    """Learning what to learn: the label encoder, the learner and the decoder."""

    def __init__(self, config: LWLNetConfig | None = None) -> None:
        """``config``: the published network by default."""
        config = config or LWLNetConfig()
        super().__init__(config, config.num_filters)
        self.label_encoder = LabelEncoder(config.num_filters, config.label_encoder_dims)


class LWLBoxNet(LWLNet):
    """LWL with the encoder that makes the first mask from a box."""

    config: LWLBoxNetConfig

    def __init__(self, config: LWLBoxNetConfig | None = None) -> None:
        config = config or LWLBoxNetConfig()
        super().__init__(config)
        self.box_label_encoder = BoxMaskEncoder(config.num_filters, config.box_label_encoder_dims, config.feature_dim)

    def box_encoding(self, features: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """What :meth:`decode` reads: ``features`` (N, D, h, w) of :meth:`target_features` of images of ``image_size`` (H, W),
        ``boxes`` (N, 4) xywh in their pixels -> (N, M, h, w)."""
        masks = parts.box_masks(boxes, image_size, wrap=self.config.wrap_boxes).to(features)
        encoding: Tensor = self.box_label_encoder(masks, features)
        return encoding


class InstanceClassifier(nn.Module):
    """RTS's target classifier under its published names: the parts of DiMP's on features of stride 32; §7.1."""

    def __init__(self, channels_in: int, config: RTSNetConfig) -> None:
        super().__init__()
        self.filter_size = config.clf_filter_size
        self.feature_extractor = parts.target_head(channels_in, config.feature_dim, 0, stride=2)
        self.filter_initializer = FilterInitialiser(config.feature_dim, self.filter_size, config.clf_pool_stride)
        self.filter_optimizer = SimpleOptimiser(
            stride=CLASSIFIER_STRIDE, init_filter_reg=config.clf_filter_reg, hinge_threshold=config.clf_hinge_threshold,
            activation_leak=config.clf_activation_leak, learned_reg=False,
        )  # fmt: skip


class RTSNet(LWLNet):
    """LWL with a classifier that says which instance it is, whose scores join the mask's encoding."""

    config: RTSNetConfig
    classifier_stride = CLASSIFIER_STRIDE

    def __init__(self, config: RTSNetConfig | None = None) -> None:
        config = config or RTSNetConfig()
        super().__init__(config)
        self.classifier = InstanceClassifier(self.feature_extractor.channels["layer3"], config)
        self.clf_encoder = LabelEncoder(config.num_filters, config.label_encoder_dims, stride=1)
        self.fusion_module = ConcatFusion(config.num_filters) if config.fusion == "concat" else None

    def classifier_features(self, layer3: Tensor) -> Tensor:
        """The classifier's features (N, D, h/2, w/2) of ``layer3`` (N, C, h, w), sides rounded up."""
        found: Tensor = self.classifier.feature_extractor(layer3)
        return found

    def fuse(self, encoding: Tensor, scores: Tensor) -> Tensor:
        """The mask's ``encoding`` (I, S, M, h, w) with that of the classifier's ``scores`` (I, S, H', W'): (I, S, M, h, w)."""
        from_scores = self.clf_encoder.labels(scores).flatten(0, 1)  # (I·S, M, H', W')
        mask = encoding.flatten(0, 1)
        from_scores = parts.resize(from_scores, mask)
        fused = mask + from_scores if self.fusion_module is None else self.fusion_module(mask, from_scores)
        return fused.view_as(encoding)


class STANet(SegmentationNet):
    """Box to mask in two passes: the first learns from the box, the second from the first one's mask; §10."""

    config: STANetConfig

    def __init__(self, config: STANetConfig | None = None) -> None:
        config = config or STANetConfig()
        filters, dims = config.num_filters, config.label_encoder_dims
        super().__init__(config, 2 * filters)
        self.target_model_segm = TargetModel(config.init_filter_reg)
        self.label_encoder = BoxLabelEncoder(filters, dims, config.feature_dim)
        self.bbox_encoder = BoxLabelEncoder(filters, dims, config.feature_dim)
        self.segm_encoder = LabelEncoder(filters, dims[:3])

    def masks_from_boxes(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """``images`` (N, 3, H, W), ``boxes`` (N, 4) xywh in their pixels -> logits (N, 1, H, W) of both passes.

        The second is the result. A box without a pixel in the image has an empty mask as its input, and is no error.
        """
        size = (images.shape[2], images.shape[3])
        layers = self.extract(images)
        features = self.target_features(layers["layer3"])[None]  # (1, N, D, h, w)
        masks = parts.box_masks(boxes, size).to(features)[None]  # (1, N, H, W)
        hint = self.label_encoder(masks, features).labels  # (1, N, M, h, w)
        samples = Samples.from_maps(at_least_float32(features))

        def predict(label: parts.LabelEncoding, regularisation: Tensor) -> Tensor:
            zero = self.zero_filter(len(images))
            bank = _learn(zero, samples, *label, regularisation, self.config.iterations).weights
            return self.decode(torch.cat((hint, self.apply_filter(bank, samples)), dim=2), layers, size)

        first = predict(self.bbox_encoder(masks, features), self.regularisation)
        again = self.segm_encoder(torch.sigmoid(first).view(1, -1, *size))
        return first, predict(again, self.target_model_segm.filter_optimizer.regularisation)


def _learn(
    filter: Tensor, features: Tensor | Samples, labels: Tensor, weights: Tensor | None, regularisation: Tensor,
    iterations: int, **options: bool,
) -> FitResult:  # fmt: skip
    """The learner out of autocast's reach: its sums run over many cells."""
    with full_precision(filter):
        return parts.learn_filter(
            filter, _at_least_float32(features), at_least_float32(labels),
            None if weights is None else at_least_float32(weights), regularisation, iterations, **options,
        )  # fmt: skip


def _at_least_float32(features: Tensor | Samples) -> Tensor | Samples:
    return features if isinstance(features, Samples) else at_least_float32(features)


SEGMENTATION_NETWORKS: dict[str, tuple[type[SegmentationNet], type[LWLNetConfig]]] = {
    "lwl_stage1": (LWLNet, LWLNetConfig), "lwl_stage2": (LWLNet, LWLNetConfig), "lwl_boxinit": (LWLBoxNet, LWLBoxNetConfig),
    "sta": (STANet, STANetConfig), "rts50": (RTSNet, RTSNetConfig), "rts50_ytvos": (RTSNet, RTSNetConfig),
}  # fmt: skip
"""Published networks by their weights' names."""


def segmentation_network(name: str) -> tuple[type[SegmentationNet], LWLNetConfig]:
    """Class and configuration of a published network by its weights' name. Raises :class:`InputError` for an unknown name."""
    if name not in SEGMENTATION_NETWORKS:
        raise InputError(f"no network {name!r}; {nearest_names(name, SEGMENTATION_NETWORKS)}")
    net, config = SEGMENTATION_NETWORKS[name]
    return net, config()
