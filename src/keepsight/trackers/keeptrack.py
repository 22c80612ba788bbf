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
    threshold_included: bool = False
    """So is one that equals it."""
    rules: AssociationRules = AssociationRules()
    """When an identity goes on, ends, and is the target's."""
    skip_matching: bool = True
    """One sure candidate after another is matched without the network."""
    subcell: bool = False
    """Candidates' places and scores lie between the cells; the published tracker takes those of the cell."""
    own_score: bool = False
    """A frame's score is that of the target's candidate; the published tracker takes the whole map's largest."""
    lowest: float = -math.inf
    """A target that is followed but scores less is not found; the published tracker calls it found at any score."""

    def __post_init__(self) -> None:
        if math.isnan(self.threshold) or math.isnan(self.lowest):
            raise InputError(f"threshold {self.threshold}, lowest {self.lowest}; expected scores, not NaN")


@dataclass(frozen=True)
class KeepTrackConfig(DiMPConfig):
    """Settings of the family on top of DiMP's; the defaults are not a preset, see :func:`presets` (spec §3.1)."""

    association: FollowConfig | None = FollowConfig()
    """Candidates and identities; None: the base tracker's decision (ablation)."""
    rescale: RescaleConfig | None = RescaleConfig()
    """How the search region of a lost target grows back; None: it stays (ablation)."""


def presets() -> dict[str, KeepTrackConfig]:
    """The published settings, those of the paper where they differ, and the ablations of its tables, by name; spec §3.1.

    ``keeptrack_paper`` has the paper's rules (§14, 4 to 10 and 16) on the published network (not 1 to 3).
    """
    base = {f.name: getattr(dimp_preset("superdimp_simple"), f.name) for f in dataclasses.fields(DiMPConfig)}
    base |= {"memory": MemoryConfig(confidence_threshold=0.5), "hard_negative_score": 0.5, "presence_midpoint": 0.55}
    keeptrack = KeepTrackConfig(**{**base, "sample_size": 480, "search_area_scale": 8.0})
    refine = RefineConfig(space="relative", iterations=3, step=2.5e-3)
    fast = KeepTrackConfig(**{**base, "refine": refine}, association=FollowConfig(threshold=0.1))
    paper = FollowConfig(threshold_included=True, rules=AssociationRules.paper())
    # any sample may go, the first frame's too: a floor under the weight of these has no meaning then
    paper_memory = MemoryConfig(min_init_weight=0.0, confidence_threshold=0.5, erase_low_confidence=False)
    return {
        "keeptrack": keeptrack,
        "keeptrack_fast": fast,
        "keeptrack_paper": replace(keeptrack, association=paper, rescale=RescaleConfig.paper(), memory=paper_memory),
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
    """The candidates of a frame, as the next one's matching needs them."""

    points: Tensor
    """(1, N, 2), (y, x) in image pixels."""
    scores: Tensor
    """(1, N)"""
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
    """Identities of the last frame that had candidates; their places are (y, x) in image pixels."""
    seen: Seen | None = None
    """The same frame's candidates."""
    target: int | None = None
    """Which of them the box follows; None: the target was not found."""
    offset: int = 0
    """Added to identities that are shown: they begin anew at every restart, and a number shown means one object."""

    def restart(self, objects: CandidateState) -> None:
        """Fresh identities."""
        if self.objects is not None:
            self.offset += self.objects.next_id
        self.objects = objects

    def candidates(self) -> tuple[Candidate, ...]:
        """Of this frame, best first."""
        if self.objects is None or self.objects.frame != self.frame:
            return ()
        return tuple(
            Candidate(self.offset + known.id, known.recent[-1], known.coords[::-1], self.target == i)
            for i, known in enumerate(self.objects.objects)
        )


class Follower:
    """Matches a frame's candidates with those of the frame before, and says which is the target."""

    def __init__(self, config: FollowConfig, matcher: KeepTrackNet, cell: float, device: torch.device) -> None:
        """``cell``: crop pixels per score cell."""
        self.config, self.matcher, self.cell = config, matcher.for_inference().to(device), cell

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
        kept.target = None
        if not base.max_score >= self.config.threshold:
            return base
        rules = self.config.rules
        cells, heights, places = self._candidates(scores)  # (N, 2), (N,), (N, 2)
        before, kept.seen = kept.seen, self._seen(cells, scores, view, maps)
        points = image_points(torch.tensor(places).reshape(-1, 2), view.search_area, scores.shape[-1]).tolist()
        state = kept.objects
        if state is None or before is None or not state.precedes(kept.frame):
            kept.restart(start(heights, points, kept.frame, rules))
            if base.flag != NOT_FOUND and len(places):
                kept.target = min(
                    range(len(places)), key=lambda i: math.dist(self._way(places[i], view, scores), base.translation)
                )
            return base
        if self.config.skip_matching and match_is_certain(state, heights, rules):
            matches, probabilities = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.float32)
        else:
            matches, probabilities = self._match(before, kept.seen, frame_size, view)
        state = kept.objects = associate(state, matches, probabilities, heights, points, rules)
        chosen = state.selected
        score = base.max_score if chosen is None or not self.config.own_score else heights[chosen]
        if chosen is None or heights[chosen] < self.config.lowest:
            return Localisation(base.translation, NOT_FOUND, score)
        kept.target = chosen
        return Localisation(self._way(places[chosen], view, scores), NORMAL, score)

    def _candidates(self, scores: np.ndarray) -> tuple[Tensor, list[float], list[tuple[float, float]]]:
        """Cells, scores and places (row, column) of the candidates, best first."""
        cells, values = find_candidates(
            torch.from_numpy(scores), self.config.threshold, included=self.config.threshold_included
        )
        most = ((scores.shape[0] + 2) // 3) ** 2  # peaks lie three cells apart, but for ties: these stay bounded, too
        cells, heights = cells[:most], values[:most].tolist()
        places = [(float(row), float(col)) for row, col in cells.tolist()]
        if self.config.subcell and heights:
            between = [between_cells(scores, row, col) for row, col in cells.tolist()]
            order = sorted(range(len(between)), key=lambda i: -between[i][0])
            cells, heights = cells[order], [between[i][0] for i in order]
            places = [between[i][1] for i in order]
        return cells, heights, places

    def _seen(self, cells: Tensor, scores: np.ndarray, view: View, maps: Tensor) -> Seen:
        """As the network was trained: of whole cells."""
        values = torch.from_numpy(scores)[cells[:, 0], cells[:, 1]]
        points = image_points(cells, view.search_area, scores.shape[-1])
        return Seen(points[None], values[None], cells[None], maps)

    def _way(self, place: tuple[float, float], view: View, scores: np.ndarray) -> tuple[float, float]:
        """(row, column) on the score map -> from the crop's centre, in image pixels."""
        step, middle = self.cell * view.scale, (scores.shape[0] - 1) / 2
        return (place[0] - middle) * step, (place[1] - middle) * step

    def _match(self, before: Seen, now: Seen, frame_size: tuple[int, int], view: View) -> tuple[np.ndarray, np.ndarray]:
        """Of each candidate its partner in the frame before, or -1, and the match's probability, (N,) each."""
        sizes = (torch.tensor([values], dtype=now.points.dtype) for values in (frame_size, view.search_area))
        corner, size = self.matcher.reference(*sizes)  # (1, 2) each
        found, _ = self.matcher.match(self._described(before, corner), self._described(now, corner), size)
        return found.index1[0].numpy(), found.probability1[0].numpy()

    def _described(self, seen: Seen, corner: Tensor) -> Candidates:
        if seen.descriptors is None:
            assert seen.maps is not None  # for the type checker: kept until here
            seen.descriptors = self.matcher.describe(seen.maps, seen.cells.to(seen.maps.device))
            seen.maps = None
        points = (seen.points - corner).to(seen.descriptors)
        return Candidates(seen.descriptors, points, seen.scores.to(seen.descriptors))


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
        self.follower = None if settings is None else Follower(settings, matcher, self.cell, device)

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
        settings = self.config.association
        return certainty(score, target.followed.objects, None if settings is None else settings.rules)

    def _candidates(self, target: KeepTrackTarget) -> tuple[Candidate, ...]:
        return target.followed.candidates()

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "matcher": dataclasses.asdict(self.matcher_config)}


# --- the same on the default tracker ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepTrackLiteConfig(LiteConfig):
    """Settings of the default tracker with association."""

    association: FollowConfig = FollowConfig(
        matcher="keeptrack-lite", threshold=0.1, rules=AssociationRules(redetection=0.3), subcell=True, own_score=True,
        lowest=0.3,
    )  # fmt: skip
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
        self.follower = Follower(config.association, matcher, STRIDE, device)

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
