"""KeepTrack online: DiMP's loop, and in every frame the question which of the peaks is the target.

Mayer, Danelljan, Paudel, Van Gool, "Learning target candidate association to keep track of what not to track" (ICCV 2021);
spec/keeptrack-rts-lwl.md §3. The base tracker (``dimp.py``) gives features and scores; the peaks of the score map are matched
with those of the frame before (``nn/association.py``), and identities follow them (``online/candidates.py``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, nearest_names
from ..models.dimp import DiMPNet
from ..models.keeptrack import KeepTrackNet
from ..models.lite import STRIDE, LiteFeatures, LiteNet
from ..models.overlap import BackboneFeatures
from ..nn.association import Candidates, find_candidates, image_points
from ..online.candidates import AssociationRules, CandidateState, associate, certainty, match_is_certain, start
from ..online.localise import NORMAL, NOT_FOUND, Localisation, between_cells
from ..online.memory import MemoryConfig
from ..online.refine import RefineConfig
from ..online.search import RescaleConfig, ScaleHistory, View
from ..online.state import Candidate
from .base import Session
from .dimp import DiMPConfig, DiMPTarget, DiMPTracker
from .dimp import preset as dimp_preset
from .dimp_lite import LiteConfig, LiteTarget, LiteTracker


@dataclass(frozen=True)
class FollowConfig:
    """How candidates are found and followed; the defaults are the published ones (spec §3.1)."""

    matcher: str = "keep_track"
    """Name of the association network's weights."""
    threshold: float = 0.05
    """A peak above this is a candidate (τ)."""
    rules: AssociationRules = AssociationRules()
    """When an identity goes on, ends, and is the target's."""
    skip_matching: bool = True
    """One sure candidate after another is matched without the network."""
    subcell: bool = False
    """Take the target's place between the cells; the published tracker takes the cell."""
    lowest: float = -math.inf
    """A target that is followed but scores less is not found; the published tracker calls it found at any score."""


@dataclass(frozen=True)
class KeepTrackConfig(DiMPConfig):
    """Settings of the family on top of DiMP's; the defaults are not a preset, see :func:`presets` (spec §3.1)."""

    association: FollowConfig | None = FollowConfig()
    """Candidates and identities; None: the base tracker's decision (ablation)."""
    rescale: RescaleConfig | None = RescaleConfig()
    """How the search region of a lost target grows back; None: it stays (ablation)."""


def presets() -> dict[str, KeepTrackConfig]:
    """The published settings, those of the paper where they differ, and the ablations of its tables, by name; spec §3.1."""
    base = {f.name: getattr(dimp_preset("superdimp_simple"), f.name) for f in dataclasses.fields(DiMPConfig)}
    base |= {"memory": MemoryConfig(confidence_threshold=0.5), "hard_negative_score": 0.5, "presence_midpoint": 0.55}
    keeptrack = KeepTrackConfig(**{**base, "sample_size": 480, "search_area_scale": 8.0})
    refine = RefineConfig(space="relative", iterations=3, step=2.5e-3)
    fast = KeepTrackConfig(**{**base, "refine": refine}, association=FollowConfig(threshold=0.1))
    paper = FollowConfig(rules=AssociationRules.paper())
    return {
        "keeptrack": keeptrack,
        "keeptrack_fast": fast,
        "keeptrack_paper": replace(keeptrack, association=paper, rescale=RescaleConfig.paper()),
        "keeptrack_no_association": replace(keeptrack, association=None),
        "keeptrack_no_rescaling": replace(keeptrack, rescale=None),
        "keeptrack_no_confidence": replace(keeptrack, memory=MemoryConfig()),
        "keeptrack_small_area": replace(keeptrack, sample_size=352, search_area_scale=6.0),
    }


def preset(name: str) -> KeepTrackConfig:
    """One of :func:`presets`; :class:`InputError` names the nearest if there is none."""
    known = presets()
    if name not in known:
        raise InputError(f"no KeepTrack preset {name!r}; {nearest_names(name, known)}")
    return known[name]


# --- following candidates, under any base tracker (§3.3, 3.4) ----------------------------------------------------------------


@dataclass
class Seen:
    """The candidates of a frame, as the next one needs them."""

    points: Tensor
    """(1, N, 2), (y, x) in image pixels."""
    scores: Tensor
    """(1, N), descending."""
    cells: Tensor
    """(1, N, 2), (row, column) in the score map."""
    maps: Tensor | None
    """(1, C, F, F) backbone features, until descriptors are made of them: a frame that matches without them spares that."""
    descriptors: Tensor | None = None
    """(1, N, D)"""


@dataclass
class Followed:
    """What is remembered about a target's candidates."""

    frame: int = 1
    """Frame counter, 1 at initialisation."""
    objects: CandidateState | None = None
    """Identities of the last frame that had candidates."""
    seen: Seen | None = None
    """The same frame's candidates."""

    def candidates(self) -> tuple[Candidate, ...]:
        """Of this frame, best first."""
        if self.objects is None or self.seen is None or self.objects.frame != self.frame:
            return ()
        places, values = self.seen.points[0].tolist(), self.seen.scores[0].tolist()
        return tuple(
            Candidate(known.id, score, (x, y), self.objects.selected == i)
            for i, (known, score, (y, x)) in enumerate(zip(self.objects.objects, values, places, strict=True))
        )


class Follower:
    """Matches a frame's candidates with those of the frame before, and says which is the target."""

    def __init__(self, config: FollowConfig, matcher: KeepTrackNet, cell: float) -> None:
        """``cell``: crop pixels per score cell."""
        self.config, self.matcher, self.cell = config, matcher.for_inference(), cell

    def follow(
        self,
        kept: Followed,
        view: View,
        scores: np.ndarray,
        maps: Tensor,
        frame_size: tuple[int, int],
        base: Localisation,
    ) -> Localisation:
        """Of one frame with ``scores`` (S, S) and features ``maps`` (1, C, F, F) in the crop ``view``; advances ``kept``.

        Without candidates in the frame before, ``base`` stands, and identities begin anew.
        """
        kept.frame += 1
        if not base.max_score >= self.config.threshold:
            return base
        rules = self.config.rules
        cells, values = find_candidates(torch.from_numpy(scores), self.config.threshold)
        most = (
            (scores.shape[0] + 2) // 3
        ) ** 2  # peaks of a map without ties lie three cells apart; ties stay bounded, too
        cells, values = cells[:most], values[:most]
        points = image_points(cells, view.search_area, scores.shape[-1])
        before, kept.seen = kept.seen, Seen(points[None], values[None], cells[None], maps)
        state = kept.objects
        if state is None or before is None or not state.precedes(kept.frame):
            kept.objects = start(values, cells, kept.frame, rules)
            return base
        if self.config.skip_matching and match_is_certain(state, values, rules):
            matches, probabilities = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.float32)
        else:
            found, _ = self.matcher.match(self._described(before), self._described(kept.seen), frame_size)
            matches, probabilities = found.index1[0].numpy(), found.probability1[0].numpy()
        state = kept.objects = associate(state, matches, probabilities, values, cells, rules)
        if state.selected is None:
            return Localisation(base.translation, NOT_FOUND, base.max_score)
        if float(values[state.selected]) < self.config.lowest:
            return Localisation(base.translation, NOT_FOUND, base.max_score)
        row, col = cells[state.selected].tolist()
        if self.config.subcell:
            _, (row, col) = between_cells(scores, row, col)
        step, middle = self.cell * view.scale, (scores.shape[0] - 1) / 2
        return Localisation(((row - middle) * step, (col - middle) * step), NORMAL, base.max_score)

    def _described(self, seen: Seen) -> Candidates:
        if seen.descriptors is None:
            assert seen.maps is not None  # for the type checker: kept until here
            seen.descriptors = self.matcher.describe(seen.maps, seen.cells.to(seen.maps.device))
            seen.maps = None
        return Candidates(seen.descriptors, seen.points.to(seen.descriptors), seen.scores.to(seen.descriptors))


# --- the published tracker ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class KeepTrackTarget(DiMPTarget):
    """Everything remembered about one target."""

    followed: Followed = field(default_factory=Followed)
    scales: ScaleHistory = field(default_factory=ScaleHistory.start)
    """Of the search regions in which the target was found."""


class KeepTrackTracker(DiMPTracker[KeepTrackTarget]):
    """DiMP's online loop with target candidate association."""

    session_type = Session[KeepTrackTarget]
    target_type = KeepTrackTarget
    config: KeepTrackConfig

    def __init__(
        self,
        name: str,
        config: KeepTrackConfig,
        net: DiMPNet,
        matcher: KeepTrackNet,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(name, config, net, device, seed)
        self.matcher_config = matcher.config
        settings = config.association
        self.follower = None if settings is None else Follower(settings, matcher.to(device), self.cell)

    def _localise(
        self,
        target: KeepTrackTarget,
        view: View,
        scores: np.ndarray,
        features: BackboneFeatures,
        frame_size: tuple[int, int],
    ) -> Localisation:
        where = super()._localise(target, view, scores, features, frame_size)
        if self.follower is not None:
            where = self.follower.follow(target.followed, view, scores, features.layer3, frame_size, where)
        if where.flag != NOT_FOUND:
            target.scales.found(target.scale, self.config.rescale or RescaleConfig())
        elif self.config.rescale is not None:
            target.scale = target.scales.rescaled(target.scale, self.config.rescale)
        return where

    @property
    def follows_candidates(self) -> bool:
        return self.follower is not None

    def _confidence(self, target: KeepTrackTarget, score: float) -> float:
        return certainty(score, target.followed.objects)

    def _candidates(self, target: KeepTrackTarget) -> tuple[Candidate, ...]:
        return target.followed.candidates()

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "matcher": dataclasses.asdict(self.matcher_config)}


# --- the same on the default tracker ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepTrackLiteConfig(LiteConfig):
    """Settings of the default tracker with association."""

    association: FollowConfig = FollowConfig(
        matcher="keeptrack-lite", threshold=0.1, rules=AssociationRules(redetection=0.3), subcell=True, lowest=0.3
    )
    """Candidates and identities; places and limits are the default tracker's."""


def lite_presets() -> dict[str, KeepTrackLiteConfig]:
    """Association on the default tracker, by name."""
    return {"keeptrack-lite": KeepTrackLiteConfig()}


@dataclass
class KeepTrackLiteTarget(LiteTarget):
    """Everything remembered about one target."""

    followed: Followed = field(default_factory=Followed)


class KeepTrackLiteTracker(LiteTracker):
    """The default tracker's loop with target candidate association."""

    session_type = Session[KeepTrackLiteTarget]
    target_type = KeepTrackLiteTarget

    def __init__(
        self,
        name: str,
        config: KeepTrackLiteConfig,
        net: LiteNet,
        matcher: KeepTrackNet,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(name, config, net, device, seed)
        self.matcher_config = matcher.config
        self.follower = Follower(config.association, matcher.to(device), STRIDE)

    def _localise(
        self, target: LiteTarget, view: View, scores: np.ndarray, features: LiteFeatures, frame_size: tuple[int, int]
    ) -> Localisation:
        assert isinstance(target, KeepTrackLiteTarget)  # for the type checker
        where = super()._localise(target, view, scores, features, frame_size)
        return self.follower.follow(target.followed, view, scores, self.net.taps(features), frame_size, where)

    @property
    def follows_candidates(self) -> bool:
        return True

    def _candidates(self, target: LiteTarget) -> tuple[Candidate, ...]:
        assert isinstance(target, KeepTrackLiteTarget)  # for the type checker
        return target.followed.candidates()

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "matcher": dataclasses.asdict(self.matcher_config)}
