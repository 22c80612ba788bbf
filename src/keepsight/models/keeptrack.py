"""KeepTrack's network of target candidate association; spec of KeepTrack §1. Equations: ``nn/association.py``.

Parameter names are those of the published checkpoint: ``feature_extractor.``, ``descriptor_extractor.``, ``matcher.``. While
tracking, the features come from the base tracker's network; the backbone in the file is a copy that only training uses.
Training: :meth:`KeepTrackNet.extract`, then :meth:`KeepTrackNet.associate`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError, nearest_names
from ..nn.association import (
    AssociationConfig,
    CandidateMatcher,
    Candidates,
    DescriptorExtractor,
    Matches,
    fold_set_norms,
    mutual_matches,
)
from ..nn.resnet import BACKBONES, build_backbone
from .lite import LiteNet

LAYER = "layer3"  # of the backbone, stride 16: what descriptors are made of
LITE = "lite"  # dimp-lite's backbone, its taps at stride 16
LITE_CHANNELS = 232
CACHED_CROPS = 2


@dataclass(frozen=True)
class KeepTrackNetConfig(AssociationConfig):
    """The association network with its backbone; everything that its weights do not say. Defaults are the published ones."""

    backbone: str | None = "resnet50"
    """``resnet50`` as published, another name of ``nn/resnet.py``, ``lite`` (dimp-lite's taps; crops of 16 n + 1 pixels in
    0..255), or None: no backbone, features come from outside."""
    descriptor_kernel: int = 4
    """Side of the descriptor convolution. The score map has the features' side F if it is odd, F + 1 if it is even."""
    in_search_area: bool = False
    """Take points in the current frame's search area, whose size follows the target's, instead of in the image."""
    feature_size: float = 1.0
    """Features are divided by this first. Of about the size 1, they suit the descriptors' usual initial weights and rates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*BACKBONES, LITE)
        if self.backbone is not None and self.backbone not in known:
            raise InputError(f"backbone {self.backbone!r} is unknown; {nearest_names(self.backbone, known)}")
        if self.descriptor_kernel < 1:
            raise InputError(f"descriptor_kernel is {self.descriptor_kernel}; expected at least 1")
        if not self.feature_size > 0:
            raise InputError(f"feature_size is {self.feature_size}; expected a number above 0")


def lite_config() -> KeepTrackNetConfig:
    """The narrow network on dimp-lite's features: 0.97 M parameters besides the backbone. Points are normalised as trained.

    A step from frame to frame is small in the image and in (y, x); in the search area, and with its sines, a short training
    learns to tell it from the way to a look-alike (held-out pairs matched: 90 % without, 100 % with; docs/keeptrack.md).

    ``feature_size``: the taps' root mean square is 6.9 over 32 search areas of procedural videos.
    """
    return KeepTrackNetConfig(
        backbone=LITE, feature_channels=LITE_CHANNELS, descriptor_kernel=3, descriptor_channels=128,
        encoder_channels=(32, 64, 128), feature_size=7.0, swapped_centre=False, position_frequencies=5, in_search_area=True,
    )  # fmt: skip


# Constructor keyword of a published file -> our field. Keywords that only training uses are named with None.
_KEYWORDS: dict[str, str | None] = {
    "skip_gnn": "skip_gnn", "GNN_layers": "gnn_layers", "num_sinkhorn_iterations": "sinkhorn_iterations",
    "output_normalization": "normalisation", "backbone_pretrained": None, "frozen_backbone_layers": None,
    "classification_layer": None,
}  # fmt: skip

_CONSTRUCTORS = ("target_candidate_matching_net_resnet50",)


def keeptrack_config_from_constructor(fun_name: str, keywords: Mapping[str, Any]) -> KeepTrackNetConfig:
    """The configuration that a published file's constructor record describes; absent keywords have its function's defaults.

    Raises :class:`WeightsError` for another network's constructor, an unknown keyword, or a value that keepsight does not build.
    """
    if fun_name not in _CONSTRUCTORS:
        raise WeightsError(f"constructor {fun_name!r} is not KeepTrack's; expected one of {sorted(_CONSTRUCTORS)}")
    unknown = set(keywords) - set(_KEYWORDS)
    if unknown:
        raise WeightsError(f"constructor {fun_name} has keywords that keepsight does not know: {sorted(unknown)}")
    layer = keywords.get("classification_layer", [LAYER])
    if layer != LAYER and list(layer) != [LAYER]:
        raise WeightsError(
            f"constructor {fun_name} has classification_layer={layer!r}; keepsight builds the published {[LAYER]!r}"
        )
    options = {ours: keywords[key] for key, ours in _KEYWORDS.items() if ours is not None and key in keywords}
    try:
        return KeepTrackNetConfig(**options)
    except (InputError, TypeError) as error:
        raise WeightsError(f"constructor {fun_name} describes no network of ours: {error}") from None


@dataclass(frozen=True)
class Spots:
    """Candidates of B frames with N each, before they have descriptors."""

    cells: Tensor
    """(B, N, 2) int64 (row, column) on the score map."""
    points: Tensor
    """(B, N, 2): (y, x) in image pixels."""
    scores: Tensor
    """(B, N)"""

    def __getitem__(self, rows: Tensor) -> Spots:
        return Spots(self.cells[rows], self.points[rows], self.scores[rows])

    def first(self, count: int) -> Spots:
        """Only the first ``count`` candidates of each frame."""
        return Spots(self.cells[:, :count], self.points[:, :count], self.scores[:, :count])


class FrozenFeatures(nn.Module):
    """A backbone that does not learn. It is no part of the state dict: its weights have a file of their own.

    ``batch_statistics``: children whose batch norms use the batch's statistics while the network trains, as in the published
    training (quirk Q5). Their running ones stay as they are: published training lets them drift, but nothing trained reads them.
    """

    def __init__(self, net: nn.Module, batch_statistics: Sequence[str] = ()) -> None:
        super().__init__()
        self._held = (net.eval().requires_grad_(False),)  # in a tuple: not registered
        self._quick: tuple[LiteNet, ...] = ()  # dimp-lite's, folded and fused as its tracker has it; made at first use
        self.batch_statistics = tuple(batch_statistics)

    @property
    def net(self) -> nn.Module:
        """The backbone; to change its weights use :meth:`load`."""
        return self._held[0]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Weights of the whole backbone."""
        self.net.load_state_dict(tensors)
        self._quick = ()

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (B, 3, Z, Z), as the backbone takes them -> features (B, C, F, F)."""
        with torch.no_grad():
            if isinstance(self.net, LiteNet):
                if not self._quick:
                    self._quick = (self.net.for_inference(),)
                quick = self._quick[0]
                # few at a time stay in the processor's cache
                parts = crops.split(CACHED_CROPS) if crops.device.type == "cpu" else (crops,)
                return torch.cat([quick.taps(quick.extract(part)) for part in parts])
            features: Tensor = self.net(crops, (LAYER,))[LAYER]
            return features

    def train(self, mode: bool = True) -> FrozenFeatures:
        super().train(mode)
        for name in self.batch_statistics:
            for module in self.net.get_submodule(name).modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train(mode)
                    module.momentum = 0.0  # the running statistics stay
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> FrozenFeatures:
        self.net._apply(fn, recurse)  # to another device or precision
        self._quick = ()
        super()._apply(fn, recurse)
        return self


class KeepTrackNet(nn.Module):
    """Backbone, descriptor extractor and matcher."""

    def __init__(self, config: KeepTrackNetConfig | None = None) -> None:
        """``config``: the published network by default. Raises :class:`InputError` if its channels are not the backbone's."""
        super().__init__()
        self.config = config = config or KeepTrackNetConfig()
        self.feature_extractor: nn.Module | None = None
        channels = config.feature_channels
        if config.backbone == LITE:
            self.feature_extractor, channels = FrozenFeatures(LiteNet()), LITE_CHANNELS
        elif config.backbone is not None:
            resnet = build_backbone(config.backbone)
            self.feature_extractor, channels = resnet, resnet.channels[LAYER]
        if channels != config.feature_channels:
            raise InputError(
                f"feature_channels is {config.feature_channels}, but {config.backbone} has {channels} at stride 16"
            )
        self.descriptor_extractor = DescriptorExtractor(
            config.feature_channels, config.descriptor_channels, config.descriptor_kernel
        )
        self.matcher = CandidateMatcher(config)

    def freeze_backbone(self, batch_statistics: Sequence[str] = ()) -> None:
        """Make the backbone :class:`FrozenFeatures`, whose weights the state dict leaves out; ``batch_statistics`` as there."""
        held = self.feature_extractor
        if held is not None and not isinstance(held, FrozenFeatures):
            self.feature_extractor = FrozenFeatures(held, batch_statistics)

    def extract(self, crops: Tensor) -> Tensor:
        """Crops (B, 3, Z, Z), as the backbone takes them -> its features (B, C, F, F), F = Z/16 rounded up."""
        if self.feature_extractor is None:
            raise InputError("this network has no backbone of its own; give it the base tracker's features")
        if isinstance(self.feature_extractor, FrozenFeatures):
            return self.feature_extractor(crops)
        found: Tensor = self.feature_extractor(crops, (LAYER,))[LAYER]
        return found

    def describe(self, features: Tensor, cells: Tensor) -> Tensor:
        """Descriptors (B, N, D) of the candidates in ``cells`` (B, N, 2), row and column on the score map of ``features``."""
        if self.config.feature_size != 1:
            features = features / self.config.feature_size
        return self.descriptor_extractor(features, cells)

    def reference(self, image_size: Tensor, search_area: Tensor) -> tuple[Tensor, Tensor]:
        """What points are taken in: its corner (B, 2), (y, x), and its size (B, 2), (h, w), in image pixels.

        ``image_size`` (B, 2), (H, W), and ``search_area`` (B, 4), (x, y, w, h), of the current frame.
        """
        if self.config.in_search_area:
            return search_area[:, :2].flip(-1), search_area[:, 2:].flip(-1)
        return torch.zeros_like(image_size), image_size

    def forward(self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]) -> Tensor:
        """Log assignment (B, M + 1, N + 1) with the "no match" bins last; :meth:`CandidateMatcher.forward`."""
        return self.matcher(previous, current, image_size)

    def associate(
        self, previous: Tensor, current: Tensor, spots: tuple[Spots, Spots], image_size: Tensor | Sequence[float]
    ) -> Tensor:
        """The training call: features (B, C, F, F) of both crops and their candidates -> log assignment (B, M + 1, N + 1)."""
        before, now = (
            Candidates(self.describe(maps, s.cells), s.points, s.scores)
            for maps, s in zip((previous, current), spots, strict=True)
        )
        return self(before, now, image_size)

    def match(
        self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]
    ) -> tuple[Matches, Tensor]:
        """Partners of the candidates of two frames, and the log assignment that they come from; both on the CPU.

        The tracker reads them there, and Sinkhorn's many steps on a small matrix are no work for an accelerator.
        """
        log_assignment = self.matcher.normalise(self.matcher.similarity(previous, current, image_size).cpu())
        return mutual_matches(log_assignment, self.config.match_threshold), log_assignment

    def for_inference(self) -> KeepTrackNet:
        """A copy for tracking without the backbone, batch norms folded; same numbers up to rounding.

        Its parameters no longer have the published names, so keep the original for saving.
        """
        lean = copy.copy(self)
        lean._modules = {**self._modules, "feature_extractor": None, "matcher": fold_set_norms(self.matcher)}
        lean._modules["descriptor_extractor"] = copy.deepcopy(self.descriptor_extractor)
        return lean.requires_grad_(False).eval()
