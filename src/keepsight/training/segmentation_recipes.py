"""The published training settings of LWL and RTS, spec/keeptrack-rts-lwl.md §5, 8, and corrected variants beside them.

``lwl_stage1``, ``lwl_stage2``, ``lwl_boxinit``, ``rts50``: each begins with the one before it (``rts50`` with ``lwl_stage2``),
and the first with Mask R-CNN's backbone. ``rts50_ytvos`` goes on from ``rts50``, by the paper's appendix. ``.._corrected``: the
same without the published mistakes that one may mend:

- Q9: the filter is fitted further with the predicted masks, as in the paper; in the published code that had no effect;
- Q13: RTS's classifier pools its first filter with the stride of its features, 32 instead of 16;
- Q17: boxes that begin outside the image are cut off there instead of wrapping around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..models.segmentation import LWLBoxNet, LWLBoxNetConfig, LWLNet, LWLNetConfig, RTSNet, RTSNetConfig
from .objectives import BoxMaskObjective, MaskObjective, RTSObjective
from .recipe import (
    DEBUG,
    RANDOM,
    BaseRecipe,
    DrawnData,
    OptimConfig,
    ParameterGroup,
    WeightedSet,
    begins,
    catalogued,
)
from .segmentation import MaskProcessingConfig, MaskSamplerConfig

MASK_RCNN = "mask-rcnn-resnet50"
"""``SegmentationRecipe.init``: the backbone of Mask R-CNN, which you bring."""
MASK_RCNN_FILE = "e2e_mask_rcnn_R_50_FPN_1x_converted.pkl"
CORRECTED = "_corrected"
"""Behind a recipe's name: the same without the published mistakes."""


@dataclass(frozen=True)
class MaskData(DrawnData):
    """Groups of frames with masks."""

    sampler: MaskSamplerConfig
    """Which frames of an object are drawn."""
    processing: MaskProcessingConfig
    """How frames become tensors; validation uses ``processing.validation()``."""


@dataclass(frozen=True)
class SegmentationRecipe(BaseRecipe):
    """Everything that decides what training gives, for networks that learn from masks."""

    network: LWLNetConfig | LWLBoxNetConfig | RTSNetConfig
    """The network."""
    objective: MaskObjective | BoxMaskObjective | RTSObjective
    """What is minimised."""
    data: MaskData
    """What it learns from."""
    init: str = RANDOM
    """Initial weights: ``mask-rcnn-resnet50`` (a backbone, which you bring), a name of the weights catalogue (``lwl_stage1``), a
    file with a network or a backbone, or ``random``."""
    fresh: tuple[str, ...] = ()
    """Parts that the network of the initial weights need not have; they begin with random weights then."""

    def build_network(self, weights: bool = True) -> LWLNet:
        """The network in training mode with its initial weights (``weights`` False: random ones, to resume) and frozen parts set.

        Random weights come from torch's global generator. Raises :class:`WeightsError` if the initial weights are not here
        or are of another network.
        """
        net = _network(self.network)
        if weights and self.init != RANDOM:
            _load(net, self.initial_path(), self.fresh)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not any(begins(name, prefix) for prefix in self.frozen))
        self.train_mode(net)
        return net

    def initial_path(self) -> Path:
        return _mask_rcnn() if self.init == MASK_RCNN else catalogued(self.init)

    def build_objective(self) -> MaskObjective | BoxMaskObjective:
        """``objective(net, batch) -> Losses``."""
        return self.objective


def _network(config: LWLNetConfig) -> LWLNet:
    if isinstance(config, RTSNetConfig):
        return RTSNet(config)
    return LWLBoxNet(config) if isinstance(config, LWLBoxNetConfig) else LWLNet(config)


def _load(net: LWLNet, path: Path, fresh: tuple[str, ...]) -> None:
    """Fill the network, or its backbone if the file is one; what begins with ``fresh`` keeps its values if the file lacks it."""
    from ..weights.store import check_keys, read_any, strip_module_prefix

    tensors: dict[str, Tensor] = strip_module_prefix(read_any(path).tensors)
    own = net.state_dict()
    if not any(begins(name, "feature_extractor") for name in tensors):
        shapes = {name: tuple(value.shape) for name, value in net.feature_extractor.state_dict().items()}
        net.feature_extractor.load_state_dict(check_keys(tensors, shapes, what=f"a {net.config.backbone} backbone"))
        return
    made = {name: value for name, value in own.items() if any(begins(name, part) for part in fresh)}
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    net.load_state_dict(check_keys({**made, **tensors}, shapes, what="this recipe's network"))


def _mask_rcnn() -> Path:
    from ..weights.catalog import weights_folder

    folders = (weights_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    found = next((f / MASK_RCNN_FILE for f in folders if (f / MASK_RCNN_FILE).is_file()), None)
    if found is None:
        raise WeightsError(
            f"the Mask R-CNN backbone is not here: {MASK_RCNN_FILE} in {folders[0]} or {folders[1]}.\n"
            "  1. Get it from the page of the published LWL code (a state dict of ResNet-50, converted from Caffe2).\n"
            f"  2. Put it into {folders[0]}, or give its path: --set init=PATH.\n"
            f"To train from random weights: --set init={RANDOM}."
        )
    return found


# --- the published table (§5, 8) -----------------------------------------------------------------------------------------

_YOUTUBE, _DAVIS = "youtubevos2019:jjtrain", "davis2017:train"
_VALIDATION = (WeightedSet("youtubevos2019:jjvalid"),)
_VALIDATION_BATCHES = 100
_EARLY = tuple(f"feature_extractor.{part}" for part in ("conv1", "bn1", "layer1"))
_BACKBONE = tuple(f"feature_extractor.layer{i}" for i in (2, 3, 4))
_NORMED = ("feature_extractor", "decoder")
"""All that has batch norms; they never learn (§5: the whole network stays in evaluation mode)."""


def _data(sets: tuple[WeightedSet, ...], batch_size: int, samples: int, test: int = 3, **processing: Any) -> MaskData:
    return MaskData(
        sets, _VALIDATION, MaskSamplerConfig(n_test=test), MaskProcessingConfig(**processing), batch_size, samples,
        _VALIDATION_BATCHES * batch_size,
    )  # fmt: skip


_VIDEOS = (WeightedSet(_YOUTUBE, 6.0), WeightedSet(_DAVIS, 1.0))


def _lwl_stage1() -> SegmentationRecipe:
    """On a fixed backbone."""
    return SegmentationRecipe(
        "lwl_stage1",
        LWLNetConfig(),
        MaskObjective(),
        _data(_VIDEOS, 20, 20000),
        OptimConfig(
            (
                ParameterGroup("target_model.feature_extractor", 2e-5),
                ParameterGroup("target_model.filter_optimizer", 1e-4),
                ParameterGroup("decoder", 1e-4),
                ParameterGroup("label_encoder", 2e-4),
            ),
            step_at=(40,),
        ),
        init=MASK_RCNN,
        frozen=("feature_extractor",),
        fixed_statistics=_NORMED,
        epochs=70,
    )


def _lwl_stage2() -> SegmentationRecipe:
    """All but the backbone's first layers."""
    parts = ("target_model.feature_extractor", "target_model.filter_optimizer", "decoder", "label_encoder", *_BACKBONE)
    return SegmentationRecipe(
        "lwl_stage2",
        LWLNetConfig(),
        MaskObjective(),
        _data(_VIDEOS, 20, 20000),
        OptimConfig(tuple(ParameterGroup(part, 2e-5) for part in parts), step_at=(25, 75)),
        init="lwl_stage1",
        frozen=_EARLY,
        fixed_statistics=_NORMED,
        epochs=80,
    )


def _lwl_boxinit() -> SegmentationRecipe:
    """The box encoder alone; images too, and no affine augmentation."""
    return SegmentationRecipe(
        "lwl_boxinit",
        LWLBoxNetConfig(),
        BoxMaskObjective(),
        _data((WeightedSet(_YOUTUBE), WeightedSet("coco:train2014")), 8, 8000, test=1, rotation=0.0, scale=0.0),
        OptimConfig((ParameterGroup("box_label_encoder", 1e-3),), step_epochs=20),
        init="lwl_stage2",
        fresh=("box_label_encoder",),
        frozen=("feature_extractor", "target_model", "decoder", "label_encoder"),
        fixed_statistics=_NORMED,
    )


def _rts50() -> SegmentationRecipe:
    """LWL's networks go on, classifier and score encoder begin."""
    sets = (*_VIDEOS, WeightedSet("got10k_masks:vot_train", 6.0), WeightedSet("lasot_masks:train", 6.0))
    groups = (
        *(ParameterGroup(part, 4e-5) for part in _BACKBONE),
        *(ParameterGroup(part, 8e-5) for part in ("target_model", "label_encoder", "decoder")),
        *(
            ParameterGroup(part, 2e-4)
            for part in ("clf_encoder", "classifier.filter_initializer", "classifier.feature_extractor")
        ),
    )
    return SegmentationRecipe(
        "rts50",
        RTSNetConfig(),
        RTSObjective(),
        _data(sets, 15, 15000, label_sigma_factor=0.25 / 5),
        OptimConfig(groups, step_at=(25, 115, 160)),
        init="lwl_stage2",
        fresh=("classifier", "clf_encoder"),
        frozen=_EARLY,
        fixed_statistics=_NORMED,
        epochs=200,
    )


def _rts50_ytvos() -> SegmentationRecipe:
    """RTS goes on with YouTube-VOS alone, training and validation videos (§8.2): none are left to validate on.

    Its learning rates are nowhere stated: these are ``rts50``'s after its first drop, with another one half-way.
    """
    rts50 = _rts50()
    data = replace(rts50.data, train=(WeightedSet("youtubevos2019:train"),), validation=())
    optim = replace(rts50.optim, lr_factor=0.2, step_at=(25,))
    return replace(rts50, name="rts50_ytvos", data=data, optim=optim, init="rts50", fresh=(), epochs=50)


def _corrected(recipe: SegmentationRecipe) -> SegmentationRecipe:
    """Without Q9, Q13 and Q17."""
    network, objective = recipe.network, recipe.objective
    if isinstance(network, LWLBoxNetConfig):
        network = replace(network, wrap_boxes=False)
    if isinstance(network, RTSNetConfig):
        network = replace(network, clf_pool_stride=32)
    if isinstance(objective, MaskObjective):
        objective = replace(objective, refits=2)
    return replace(recipe, name=recipe.name + CORRECTED, network=network, objective=objective)


_PUBLISHED: dict[str, Callable[[], SegmentationRecipe]] = {
    "lwl_stage1": _lwl_stage1,
    "lwl_stage2": _lwl_stage2,
    "lwl_boxinit": _lwl_boxinit,
    "rts50": _rts50,
}

RECIPES: dict[str, Callable[[], SegmentationRecipe]] = {
    **_PUBLISHED,
    "rts50_ytvos": _rts50_ytvos,
    **{name + CORRECTED: lambda make=make: _corrected(make()) for name, make in _PUBLISHED.items()},  # type: ignore[misc]
}


# --- small variants ------------------------------------------------------------------------------------------------------

DEBUG_SIZE = (160, 96)


def debug_masks(recipe: SegmentationRecipe) -> SegmentationRecipe:
    """A variant that learns within three minutes on one core and needs no files: synthetic video, small crops, narrow parts.

    All weights are random, so all parts learn, batch norms too, at one rate, and the cross-entropy helps the Lovász loss. The
    object is larger in the crops and nearer to their middle, and the classifier's labels keep their width in cells.
    """
    narrow: dict[str, Any] = {
        "backbone": "resnet50-mrcnn-narrow", "feature_dim": 64, "num_filters": 8, "label_encoder_dims": (8, 16, 32),
        "decoder_dim": 16,
    }  # fmt: skip
    if isinstance(recipe.network, LWLBoxNetConfig):
        narrow["box_label_encoder_dims"] = (32, 32)
    processing, sets = recipe.data.processing, (WeightedSet("composite:procedural"),)
    published, sigma = processing.output_size, processing.label_sigma_factor
    shrink = (published[0] * published[1] / (DEBUG_SIZE[0] * DEBUG_SIZE[1])) ** 0.5
    data = replace(
        recipe.data,
        train=sets,
        validation=sets,
        processing=replace(
            processing,
            output_size=DEBUG_SIZE,
            search_factor=3.0,
            centre_jitter_train=(1.0, 1.0),
            centre_jitter_test=(1.0, 1.0),
            label_sigma_factor=None if sigma is None else sigma * shrink,
        ),
        batch_size=4,
        samples_per_epoch=200,
        validation_samples=32,
    )
    parts = dict.fromkeys(
        name.partition(".")[0] for name, _ in _network(replace(recipe.network, **narrow)).named_parameters()
    )
    return replace(
        recipe,
        name=recipe.name + DEBUG,
        network=replace(recipe.network, **narrow),
        objective=replace(recipe.objective, cross_entropy_weight=recipe.objective.mask_weight),
        data=data,
        optim=OptimConfig(tuple(ParameterGroup(part) for part in parts), lr=1e-3, schedule="cosine"),
        init=RANDOM,
        frozen=(),
        fixed_statistics=(),
        epochs=6,
        validate_every=1,
    )  # fmt: skip
