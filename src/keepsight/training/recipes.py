"""The published training settings, every number of them, as frozen dataclasses; spec/dimp-atom.md §5.

recipe = find_recipe("dimp18")                          # or "dimp18-debug": seconds on a CPU, no data needed
recipe = override(recipe, ["data.batch_size=16", "optim.lr_factor=0.5"])
net = recipe.build_network()                            # initial weights in, frozen parts without gradient
groups = recipe.parameter_groups(net)                   # for torch.optim
losses = recipe.objective(net, batch)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, WeightsError, nearest_names
from ..models.atom import ABLATED_NETWORKS, AtomNet, AtomNetConfig, atom_network
from ..models.dimp import DiMPNet, DiMPNetConfig, network_config
from ..models.keeptrack import LITE, FrozenFeatures, KeepTrackNet, KeepTrackNetConfig, lite_config
from ..models.lite import LiteNet, LiteNetConfig
from . import settings
from .association import AssociationData, ItemConfig
from .candidates import CandidateConfig
from .objectives import (
    AssociationObjective,
    AtomObjective,
    DiMPObjective,
    LiteObjective,
    Objective,
    PrDiMPObjective,
    SuperDiMPObjective,
)
from .processing import ProcessingConfig
from .recipe import (
    DEBUG,
    RANDOM,
    BaseRecipe,
    DrawnData,
    OptimConfig,
    ParameterGroup,
    RecipeT,
    WeightedSet,
    begins,
    catalogued,
)
from .rts_lite import RECIPES as _RTS_LITE_RECIPES
from .rts_lite import RTSLiteRecipe, debug_rts_lite
from .sampler import SamplerConfig
from .segmentation_recipes import RECIPES as _SEGMENTATION_RECIPES
from .segmentation_recipes import SegmentationRecipe, debug_masks

__all__ = [
    "DEBUG", "AnyRecipe", "AssociationRecipe", "DataConfig", "OptimConfig", "ParameterGroup", "RTSLiteRecipe", "Recipe",
    "SegmentationRecipe", "WeightedSet", "association_recipe_names", "debug", "find_recipe", "override", "recipe_names",
    "rts_lite_recipe_names", "segmentation_recipe_names",
]  # fmt: skip

IMAGENET = {
    "resnet18": ("resnet18-5c106cde.pth", "resnet18-f37072fd.pth"),
    "resnet50": ("resnet50-19c8e357.pth", "resnet50-0676ba61.pth"),
}
"""``Recipe.init``: torchvision's ImageNet weights (its version 1), by the names under which its download page has them."""
LITE_START = "dimp-lite-start"
"""``Recipe.init``: ImageNet's EfficientNet-Lite0 with a whitening projection, part of the package."""


@dataclass(frozen=True)
class DataConfig(DrawnData):
    """Groups of frames with boxes."""

    sampler: SamplerConfig
    """Which frames of an object are drawn."""
    processing: ProcessingConfig
    """How frames become tensors; validation uses ``processing.validation()``."""


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Everything that decides what training gives, except the seed and the machine."""

    network: AtomNetConfig | DiMPNetConfig | LiteNetConfig
    """The network."""
    objective: AtomObjective | DiMPObjective | PrDiMPObjective | SuperDiMPObjective | LiteObjective
    """What is minimised; :meth:`build_objective`."""
    data: DataConfig
    """What it learns from."""
    init: str = RANDOM
    """Initial weights: ``resnet18`` or ``resnet50`` (torchvision's ImageNet weights, which you bring), ``dimp-lite-start``
    (packaged), ``random``, or a file with weights of the whole network or, except for dimp_lite, of a backbone."""

    def build_network(self, weights: bool = True) -> DiMPNet | AtomNet | LiteNet:
        """The network in training mode with its initial weights (``weights`` False: random ones, to resume) and frozen parts set.

        Random weights come from torch's global generator. Raises :class:`WeightsError` if the initial weights are not here
        or are of another network.
        """
        net = _network(self.network)
        if weights and self.init != RANDOM:
            _load_initial(net, self.init)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not any(begins(name, prefix) for prefix in self.frozen))
        self.train_mode(net)
        return net

    def initial_path(self) -> Path:
        return _initial_file(self.init)

    def build_objective(self) -> Objective:
        """``objective(net, batch) -> Losses``."""
        return self.objective


@dataclass(frozen=True)
class AssociationRecipe(BaseRecipe):
    """The same for KeepTrack, whose items are pairs of frames with candidates; spec/keeptrack-rts-lwl.md §2.

    The backbone never learns, is no part of the trained weights, and is loaded from ``init`` also when a run goes on.
    """

    network: KeepTrackNetConfig
    """The network; its ``backbone`` is that of training."""
    objective: AssociationObjective
    """What is minimised."""
    data: AssociationData
    """What it learns from."""
    init: str = RANDOM
    """Weights of the backbone: a name of the weights catalogue (``super_dimp_simple``, ``dimp-lite``) or a file with a network
    that has it, or ``random``."""
    batch_statistics: tuple[str, ...] = ()
    """Parts of the frozen backbone whose batch norms use the batch's statistics in training (quirk Q5 of the published one)."""

    def build_network(self, weights: bool = True) -> KeepTrackNet:
        """The network in training mode, its backbone frozen and loaded. Random weights come from torch's global generator.

        ``weights``: no difference; checkpoints lack the backbone. Raises :class:`WeightsError` if its weights are not here.
        """
        net = KeepTrackNet(self.network)
        net.freeze_backbone(self.batch_statistics)
        held = net.feature_extractor
        if self.init != RANDOM and isinstance(held, FrozenFeatures):
            _load_backbone(held, self.network.backbone == LITE, self.init)
        self.train_mode(net)
        return net

    def initial_path(self) -> Path:
        return catalogued(self.init)

    def build_objective(self) -> AssociationObjective:
        """``objective(net, batch) -> Losses``."""
        return self.objective


AnyRecipe = Recipe | AssociationRecipe | SegmentationRecipe | RTSLiteRecipe
"""What :func:`find_recipe` gives."""


# --- initial weights -----------------------------------------------------------------------------------------------------


def _network(config: AtomNetConfig | DiMPNetConfig | LiteNetConfig) -> DiMPNet | AtomNet | LiteNet:
    """With random weights."""
    if isinstance(config, AtomNetConfig):
        return AtomNet(config)
    return LiteNet(config) if isinstance(config, LiteNetConfig) else DiMPNet(config)


def _load_initial(net: DiMPNet | AtomNet | LiteNet, init: str) -> None:
    """Fill the backbone, or the whole network, from the file that ``init`` names."""
    from ..weights.store import check_keys, read_any, strip_module_prefix

    path = _initial_file(init)
    tensors = strip_module_prefix(read_any(path).tensors)
    if isinstance(net, LiteNet):  # the parts that only training makes keep their fresh values if the file lacks them
        fresh = net.state_dict()
        made = {name: value for name, value in fresh.items() if name.startswith(("residual.", "box_net."))}
        if not any(name.startswith("box_net.") for name in tensors):
            tensors = {**made, **tensors}
        shapes = {name: tuple(value.shape) for name, value in fresh.items()}
        net.load_state_dict(check_keys(tensors, shapes, what="dimp-lite's network"))
        return
    backbone = net.config.backbone
    whole = any(name.startswith("feature_extractor.") for name in tensors)
    part: nn.Module = net if whole else net.feature_extractor
    shapes = {name: tuple(value.shape) for name, value in part.state_dict().items()}
    part.load_state_dict(
        check_keys(tensors, shapes, what="this recipe's network" if whole else f"a {backbone} backbone")
    )


def _load_backbone(held: FrozenFeatures, is_lite: bool, init: str) -> None:
    """Fill KeepTrack's frozen backbone from the base tracker's network."""
    from ..weights.store import check_keys, read_any, strip_module_prefix

    tensors = strip_module_prefix(read_any(catalogued(init)).tensors)
    prefix = "feature_extractor."
    if not is_lite and any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    shapes = {name: tuple(value.shape) for name, value in held.net.state_dict().items()}
    held.load(check_keys(tensors, shapes, what="dimp-lite's network" if is_lite else "the backbone"))


def _initial_file(init: str) -> Path:
    from ..weights.catalog import find_weights, weights_folder

    if init == LITE_START:
        return find_weights(init)
    if init not in IMAGENET:
        path = Path(init).expanduser()
        if path.is_file():
            return path
        raise WeightsError(
            f"init={init!r} is no file; give a path, one of {', '.join(IMAGENET)} (ImageNet weights), {LITE_START}, or {RANDOM!r}"
        )

    folders = (weights_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        for name in IMAGENET[init]:
            if (folder / name).is_file():
                return folder / name
    first = IMAGENET[init][0]
    raise WeightsError(
        f"the ImageNet weights of {init} are not here: {' or '.join(IMAGENET[init])} in {folders[0]} or {folders[1]}.\n"
        f"  1. Get https://download.pytorch.org/models/{first} on a machine with a connection (torchvision's file).\n"
        f"  2. Put it into {folders[0]}, or give its path: --set init=PATH.\n"
        f"To train from random weights: --set init={RANDOM}."
    )


# --- the published table (§5) --------------------------------------------------------------------------------------------

_LASOT, _GOT, _COCO = "lasot:train", "got10k:vot_train", "coco:train2014"
_TRACKINGNET = "trackingnet:train_0-3"
_GOT_VALIDATION = (WeightedSet("got10k:vot_val"),)


def _sets(*names: str, first: float = 1.0) -> tuple[WeightedSet, ...]:
    return tuple(WeightedSet(name, first if i == 0 else 1.0) for i, name in enumerate(names))


_FOUR_SETS = (_LASOT, _GOT, _TRACKINGNET, _COCO)
_UNUSED_BACKBONE = (
    "feature_extractor.layer4",
    "feature_extractor.fc",
)  # never evaluated, in the checkpoints all the same
_GMM: dict[str, Any] = {"proposals": "gmm", "proposal_number": 128, "gmm_sigmas": ((0.05, 0.05), (0.5, 0.5))}


def _atom(
    name: str,
    *,
    max_gap: int = 50,
    box_loss: str = "mse",
    train: tuple[WeightedSet, ...] = _sets(*_FOUR_SETS),
    validation: tuple[WeightedSet, ...] = _GOT_VALIDATION,
    **processing: Any,
) -> Recipe:
    """ATOM: one train and one test frame, the overlap predictor on a fixed backbone.

    Quirk Q1: the backbone's weights are fixed, yet its batch norms follow the training data. To keep ImageNet's statistics:
    ``--set fixed_statistics=feature_extractor``.
    """
    own: dict[str, Any] = {"proposals": "sigma_list", "proposal_number": 16, **processing}
    return Recipe(
        name,
        atom_network(name),
        AtomObjective(box_loss),
        DataConfig(
            train,
            validation,
            SamplerConfig(n_train=1, n_test=1, max_gap=max_gap, mode="interval"),
            ProcessingConfig(
                search_factor=5.0, output_size=288, crop="atom", centre_jitter_train=0.0, centre_jitter_test=4.5,
                scale_jitter_train=0.0, scale_jitter_test=0.5, label_sigma_factor=None, **own,
            ),
            batch_size=64,
            samples_per_epoch=64000,
            validation_samples=32000,
        ),
        OptimConfig((ParameterGroup("bb_regressor"),), lr=1e-3),
        init="resnet18",
        frozen=("feature_extractor",),
    )  # fmt: skip


def _dimp_data(max_gap: int, batch_size: int, **processing: Any) -> DataConfig:
    """What dimp18, dimp50, prdimp18 and prdimp50 share."""
    return DataConfig(
        _sets(*_FOUR_SETS, first=0.25),
        _GOT_VALIDATION,
        SamplerConfig(n_train=3, n_test=3, max_gap=max_gap, mode="causal"),
        ProcessingConfig(
            search_factor=5.0, output_size=288, crop="adaptive", crop_mode="replicate", centre_jitter_train=3.0,
            centre_jitter_test=4.5, scale_jitter_train=0.25, scale_jitter_test=0.5, label_sigma_factor=0.25 / 5, **processing,
        ),
        batch_size=batch_size,
        samples_per_epoch=26000,
        validation_samples=5000,
    )  # fmt: skip


def _classifier_groups() -> tuple[ParameterGroup, ...]:
    return (
        ParameterGroup("classifier.filter_initializer", 5e-5),
        ParameterGroup("classifier.filter_optimizer", 5e-4),
        ParameterGroup("classifier.feature_extractor", 5e-5),
    )


def _dimp(name: str, batch_size: int, iou_lr: float | None, backbone_lr: float | None) -> Recipe:
    network = network_config(name)
    groups = (
        *_classifier_groups(),
        ParameterGroup("bb_regressor", iou_lr),
        ParameterGroup("feature_extractor", backbone_lr),
    )
    return Recipe(
        name,
        network,
        DiMPObjective(),
        _dimp_data(30, batch_size, proposals="sigma_list", proposal_number=8),
        OptimConfig(groups, lr=2e-4),
        init=network.backbone,
        frozen=_UNUSED_BACKBONE,
    )


def _prdimp(name: str, batch_size: int, backbone_lr: float) -> Recipe:
    network = network_config(name)
    groups = (
        ParameterGroup("classifier", 1e-3),
        ParameterGroup("bb_regressor", 1e-3),
        ParameterGroup("feature_extractor", backbone_lr),
    )
    data = _dimp_data(
        200, batch_size, label_density=True, label_density_normalise=True, gmm_gt_sigma=(0.05, 0.05), **_GMM
    )
    return Recipe(
        name, network, PrDiMPObjective(), data, OptimConfig(groups), init=network.backbone, frozen=_UNUSED_BACKBONE
    )


def _superdimp(name: str, network: DiMPNetConfig) -> Recipe:
    groups = (
        *_classifier_groups(),
        ParameterGroup("bb_regressor", 1e-3),
        ParameterGroup("feature_extractor.layer3", 2e-5),
    )
    still = tuple(f"feature_extractor.{part}" for part in ("conv1", "bn1", "layer1", "layer2"))
    return Recipe(
        name,
        network,
        SuperDiMPObjective(),
        DataConfig(
            _sets(*_FOUR_SETS),
            _GOT_VALIDATION,
            SamplerConfig(n_train=3, n_test=3, max_gap=200, mode="causal"),
            ProcessingConfig(
                search_factor=6.0, output_size=352, crop="adaptive", crop_mode="inside_major", max_scale_change=1.5,
                centre_jitter_train=3.0, centre_jitter_test=5.5, scale_jitter_train=0.25, scale_jitter_test=0.5,
                label_sigma_factor=0.25 / 6, gmm_gt_sigma=(0.05, 0.05), joint_flip_probability=0.5, flip_probability=0.5,
                **_GMM,
            ),
            batch_size=20,
            samples_per_epoch=40000,
            validation_samples=10000,
        ),
        OptimConfig(groups),
        init=network.backbone,
        frozen=(*still, *_UNUSED_BACKBONE),
        fixed_statistics=still,
    )  # fmt: skip


def _atom_paper() -> Recipe:
    return _atom(
        "atom_paper",
        train=_sets(_LASOT, "trackingnet:train_0-10", _COCO),
        validation=(WeightedSet("trackingnet:train_11"),),
    )


def _dimp_lite() -> Recipe:
    """The default tracker's network: the library's own recipe, docs/dimp-lite.md."""
    return Recipe(
        "dimp_lite",
        LiteNetConfig(),
        LiteObjective(),
        DataConfig(
            (WeightedSet("composite:shared", 0.64), WeightedSet("composite:stills", 0.26), WeightedSet("shared:tracks", 0.1)),
            (WeightedSet("composite:shared", 0.5), WeightedSet("composite:stills", 0.5)),
            SamplerConfig(n_train=2, n_test=2, max_gap=40, mode="interval", min_length=4, visible_factor=0.9),
            ProcessingConfig(
                search_factor=5.0 * 241 / 289, output_size=241, crop="adaptive", crop_mode="replicate", shift_inside=False,
                centre_jitter_train=1.2, centre_jitter_test=2.6, scale_jitter_train=0.1, scale_jitter_test=0.25,
                proposals="gmm", proposal_number=32, gmm_sigmas=((0.05, 0.05), (0.2, 0.3)), gmm_gt_sigma=(0.05, 0.05),
                label_sigma_factor=None, grey_probability=0.1, joint_flip_probability=0.5, exact_flip=True,
                brightness_jitter=0.15, normalise=False,
            ),
            batch_size=16,
            samples_per_epoch=4000,
            validation_samples=320,
        ),
        OptimConfig(
            (
                ParameterGroup("projection", 2e-4),
                ParameterGroup("residual", 1e-3),
                ParameterGroup("filter_optimizer", 1e-4),
                ParameterGroup("box_net", 1e-3),
                ParameterGroup("backbone", 1e-4),
            ),
            schedule="cosine",
            clip_norm=10.0,
        ),
        init=LITE_START,
        frozen=("backbone.stem", *(f"backbone.blocks.{i}" for i in range(5))),
        fixed_statistics=("backbone",),
        epochs=15,
        validate_every=3,
    )  # fmt: skip


def _keeptrack() -> AssociationRecipe:
    """The published code (§2.7, 2.8; §14: the code is the default), with ``data.items.published_quirks``.

    The base tracker follows LaSOT's training videos first, which takes days on a CPU: make the candidate file once and give
    it as ``data.candidates``.
    """
    return AssociationRecipe(
        "keeptrack",
        KeepTrackNetConfig(swapped_centre=False),  # as trained; the published tracker swaps it (quirk Q1)
        AssociationObjective(),
        AssociationData(items=ItemConfig(published_quirks=True)),
        OptimConfig((ParameterGroup("descriptor_extractor"), ParameterGroup("matcher")), lr=1e-4, step_epochs=6),
        init="super_dimp_simple",
        epochs=15,
        validate_every=1,
        batch_statistics=("layer3", "layer4"),
    )


def _keeptrack_paper() -> AssociationRecipe:
    """The paper's labels and augmentation where they differ from the code's (§14, 13 and 14; §15, Q2 and Q3): made-up candidates
    of a copied frame are ignored by the loss, the copy is blurred (p 0.75, σ 0.5), and a target removed from the second frame is
    always labelled as gone.

    All else is :func:`_keeptrack`'s, also where the paper says otherwise: noise is added to the copy's scores instead of random
    factors to those of both frames and of real pairs; batches mix both kinds of items, and the loss is the mean of both
    kinds of labels instead of a sum of two batches' losses (15); categories ask for d2 > 4 (12); the backbone's upper norms
    use the batch's statistics (Q5); pairs whose target is not among the five best candidates are passed over (Q4).
    """
    recipe = _keeptrack()
    items = replace(recipe.data.items, published_quirks=False)
    return replace(recipe, name="keeptrack_paper", data=replace(recipe.data, items=items))


def _keeptrack_lite() -> AssociationRecipe:
    """Our narrow network on dimp-lite's features, from synthetic videos with look-alikes that cross the target's way."""
    return AssociationRecipe(
        "keeptrack_lite",
        lite_config(),
        AssociationObjective(),
        AssociationData(
            build=CandidateConfig("dimp-lite", data=("lookalikes:shared", "lookalikes:procedural"), sequences=300),
            items=ItemConfig(output_size=289, map_side=19, normalise=False),
            batch_size=64,
            samples_per_epoch=3200,
            validation_samples=192,
        ),
        OptimConfig(
            (ParameterGroup("descriptor_extractor"), ParameterGroup("matcher")),
            lr=1e-3,
            schedule="cosine",
            clip_norm=10.0,
        ),
        init="dimp-lite",
        epochs=8,
        validate_every=1,
    )


_KEEPTRACK_ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "keeptrack_self_supervised": ({}, {"self_supervised": 1.0}),
    "keeptrack_partly_supervised": ({}, {"self_supervised": 0.0}),
    "keeptrack_no_mining": ({}, {"by_count": True}),
    "keeptrack_gnn0": ({"gnn_layers": ()}, {}),
    "keeptrack_gnn9": ({"gnn_layers": ("self", "cross") * 9}, {}),
    "keeptrack_sinkhorn50": ({"sinkhorn_iterations": 50}, {}),
}
"""The paper's ablations of training, as changes of the published recipe's network and mining."""


def _keeptrack_ablation(name: str) -> AssociationRecipe:
    recipe, (network, mining) = _keeptrack(), _KEEPTRACK_ABLATIONS[name]
    data = replace(recipe.data, mining=replace(recipe.data.mining, **mining))
    return replace(recipe, name=name, network=replace(recipe.network, **network), data=data)


_ASSOCIATION_RECIPES: dict[str, Callable[[], AssociationRecipe]] = {
    "keeptrack": _keeptrack,
    "keeptrack_paper": _keeptrack_paper,
    "keeptrack_lite": _keeptrack_lite,
    **{name: partial(_keeptrack_ablation, name) for name in _KEEPTRACK_ABLATIONS},
}

_RECIPES: dict[str, Callable[[], Recipe]] = {
    "dimp_lite": _dimp_lite,
    "atom": lambda: _atom("atom"),
    "atom_paper": _atom_paper,
    "atom_prob_ml": lambda: _atom(
        "atom_prob_ml", max_gap=200, box_loss="ml", gmm_gt_sigma=(0.0, 0.0), gmm_add_mean_box=True, **_GMM
    ),
    "atom_gmm_sampl": lambda: _atom("atom_gmm_sampl", max_gap=200, **_GMM),
    # Table 1 of the paper (Danelljan et al., CVPR 2019): `atom` with another overlap predictor
    **{name: partial(_atom, name) for name in ABLATED_NETWORKS},
    "dimp18": lambda: _dimp("dimp18", 26, iou_lr=1e-3, backbone_lr=None),
    "dimp50": lambda: _dimp("dimp50", 10, iou_lr=None, backbone_lr=2e-5),
    "prdimp18": lambda: _prdimp("prdimp18", 26, backbone_lr=2e-4),
    "prdimp50": lambda: _prdimp("prdimp50", 10, backbone_lr=2e-5),
    "superdimp": lambda: _superdimp("superdimp", network_config("super_dimp")),
    "superdimp_simple": lambda: _superdimp("superdimp_simple", network_config("super_dimp_simple")),
}  # fmt: skip


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that learn from frames and boxes, for :func:`find_recipe`; each also with ``-debug`` behind it."""
    return tuple(_RECIPES)


def association_recipe_names() -> tuple[str, ...]:
    """Names of KeepTrack's recipes, likewise."""
    return tuple(_ASSOCIATION_RECIPES)


def segmentation_recipe_names() -> tuple[str, ...]:
    """Names of the recipes that learn from masks, likewise."""
    return tuple(_SEGMENTATION_RECIPES)


def rts_lite_recipe_names() -> tuple[str, ...]:
    """Names of the recipes that learn masks on the default tracker's features, likewise."""
    return tuple(_RTS_LITE_RECIPES)


def find_recipe(name: str) -> AnyRecipe:
    """The recipe of this name (``dimp18``), or its debug variant (``dimp18-debug``); ``super_dimp`` is ``superdimp``.

    Raises :class:`InputError` with the nearest name if there is none.
    """
    plain = name.removesuffix(DEBUG)
    recipes: dict[str, Callable[[], AnyRecipe]] = {
        **_RECIPES, **_ASSOCIATION_RECIPES, **_SEGMENTATION_RECIPES, **_RTS_LITE_RECIPES
    }  # fmt: skip
    known = {n.replace("_", ""): n for n in recipes}
    found = known.get(plain.lower().replace("_", "").replace("-", ""))
    if found is None:
        raise InputError(f"no recipe {name!r}; {nearest_names(plain, recipes)}")
    recipe = recipes[found]()
    return debug(recipe) if name.endswith(DEBUG) else recipe


def override(recipe: RecipeT, changes: Sequence[str]) -> RecipeT:
    """The recipe with ``changes`` such as ``"optim.lr=1e-3"``, ``"data.train=lasot:train*0.5,got10k:train"`` or
    ``"optim.groups.bb_regressor.lr=1e-3"``; :func:`keepsight.training.settings.override` has the rules and errors.

    A new ``optim.lr`` that no group would use is an error, too.
    """
    changed = settings.override(recipe, changes)
    paths = [c.partition("=")[0].strip() for c in changes]
    if "optim.lr" in paths and all(g.lr is not None for g in changed.optim.groups):
        names = ", ".join(g.name for g in changed.optim.groups)
        raise InputError(
            f"optim.lr has no effect in {recipe.name}, every group has its own rate; set optim.groups.NAME.lr (of {names}), "
            "or optim.lr_factor, which multiplies all of them"
        )
    return changed


def debug(recipe: AnyRecipe) -> AnyRecipe:
    """A variant that trains within two minutes on a CPU (three for masks) and needs no files; see the functions it calls."""
    if isinstance(recipe, SegmentationRecipe):
        return debug_masks(recipe)
    if isinstance(recipe, RTSLiteRecipe):
        return debug_rts_lite(recipe)
    return _debug_pairs(recipe) if isinstance(recipe, AssociationRecipe) else _debug_frames(recipe)


def _debug_pairs(recipe: AssociationRecipe) -> AssociationRecipe:
    """KeepTrack's: dimp-lite on procedural videos as base tracker, small crops, and for random features tenfold rates.

    The published network gets a narrow backbone with random weights, with its norms fixed; the lite one keeps dimp-lite's.
    """
    is_lite = recipe.network.backbone == LITE
    side = 145 if is_lite else 128
    data = replace(
        recipe.data,
        build=CandidateConfig("dimp-lite", data=("lookalikes:procedural",), sequences=18, frames=40),
        items=replace(recipe.data.items, output_size=side, map_side=10 if is_lite else 9),
        validation_every=3,
        batch_size=16,
        samples_per_epoch=240,
        validation_samples=96,
    )
    network = recipe.network if is_lite else replace(recipe.network, backbone="resnet50-narrow", feature_channels=256)
    optim = replace(recipe.optim, lr_factor=1.0 if is_lite else 10.0, schedule="cosine")
    changes: dict[str, Any] = {} if is_lite else {"init": RANDOM, "batch_statistics": ()}
    return replace(
        recipe, name=recipe.name + DEBUG, network=network, data=data, optim=optim, epochs=8, validate_every=1, **changes
    )


def _debug_frames(recipe: Recipe) -> Recipe:
    """A variant that trains within two minutes on a CPU and needs no files: procedural video, small crops, a narrow backbone.

    All else, down to the order of the parameter groups, is the recipe's own, so that what breaks here breaks there. Labels
    keep their width in cells. Weights are random, so rates are three times as high, and where only the upper layers of an
    ImageNet backbone would learn, all of it does: random layers below are nothing to keep. dimp_lite's network has one width,
    and its backbone's norms stay fixed, since they follow too slowly for a validation after so few steps.
    """
    processing, published = recipe.data.processing, recipe.data.processing.output_size
    sigma, network = processing.label_sigma_factor, recipe.network
    size, frozen, fixed = 128, _UNUSED_BACKBONE if recipe.fixed_statistics else recipe.frozen, tuple[str, ...]()
    if isinstance(network, LiteNetConfig):
        size, frozen, fixed = 129, (), recipe.fixed_statistics  # 16 n + 1 pixels: a cell in the middle
    else:
        network = replace(network, backbone=f"{network.backbone}-narrow")
    if isinstance(network, DiMPNetConfig):
        network = replace(network, classifier_dim=64)
    data = replace(
        recipe.data,
        train=(WeightedSet("composite:procedural"),),
        validation=(WeightedSet("composite:procedural"),),
        processing=replace(
            processing,
            output_size=size,
            proposal_number=min(processing.proposal_number, 16),
            label_sigma_factor=None if sigma is None else sigma * published / size,
        ),
        batch_size=4,
        samples_per_epoch=120,
        validation_samples=16,
    )
    groups = tuple(replace(g, name=g.name.removesuffix(".layer3")) for g in recipe.optim.groups)
    return replace(
        recipe,
        name=recipe.name + DEBUG,
        network=network,
        data=data,
        optim=replace(recipe.optim, groups=groups, lr_factor=3.0),
        init=RANDOM,
        frozen=frozen,
        fixed_statistics=fixed,
        epochs=2,
        validate_every=1,
    )
