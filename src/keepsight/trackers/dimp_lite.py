"""The default tracker: DiMP's target filter on EfficientNet-Lite0 features, for one CPU thread; spec/dimp-atom.md §4, 7.

Read top to bottom: the settings, what is remembered about a target, the first frame, every later frame. What differs from
``dimp.py``: the crop's side is 16 n + 1 pixels and the backbone is padded symmetrically, so that cell j of every map lies at
crop pixel 16 j and the middle cell at the middle pixel; the filter is odd and learns a little on every frame.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state, from_relative, to_relative
from ..errors import InputError
from ..images import AugmentationConfig, CropConfig, apply_transforms, expanded_size, make_transforms, sample_patch
from ..models.lite import STRIDE, LiteFeatures, LiteNet, LiteNetConfig, to_filter_boxes
from ..nn.box_net import TargetView
from ..nn.correlation import Samples, correlate
from ..online.first_frame import augmented_samples
from ..online.localise import (
    HARD_NEGATIVE,
    NOT_FOUND,
    UNCERTAIN,
    Localisation,
    LocalisationConfig,
    localise,
    subcell_peak,
)
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.search import View, clamp_position, initial_scale
from ..online.state import Candidate
from .base import Outcome, Session, Tracker

__all__ = ["LiteConfig", "LiteNet", "LiteNetConfig", "LiteTarget", "LiteTracker", "presets"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class LiteConfig:
    """Settings of the tracker."""

    sample_size: int = 289
    """Side of the square crop in pixels; 16 n + 1, so that its middle pixel is a cell of the feature map."""
    search_area_scale: float = 5.0
    """Side of the search region in target sizes (geometric mean)."""
    crop: CropConfig = CropConfig()
    """How the search region becomes a crop."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the first frame."""
    memory: MemoryConfig = MemoryConfig(size=30, learning_rate=0.02, hard_negative_learning_rate=0.02)
    """Sample memory; an update's time grows with its size."""
    localisation: LocalisationConfig = LocalisationConfig(target_not_found=0.3, subcell=True)
    """Decision table."""
    init_iterations: int = 20
    """Optimiser iterations on the first frame."""
    update_iterations: int = 1
    """Optimiser iterations on every later frame that is learnt from."""
    sure_score: float = 0.45
    """A frame whose maximum is below this is not learnt from; nor is a lost target believed to be elsewhere below it."""
    box_samples: int = 32
    """Boxes around the last one that the estimator judges."""
    box_passes: int = 2
    """Rounds of judging; each after the first draws its boxes half as far."""
    box_spread: float = 0.18
    """Deviation of these boxes in relative coordinates (x / w, y / h, ln w, ln h)."""
    box_sharpness: float = 1.0
    """Their mean is weighted by the estimated density to this power."""
    box_smallest: float = 4.0
    """The estimator makes no side shorter than this many pixels (or than it was at first, if that is less)."""
    box_largest: float = 1.2
    """Nor longer than this many times the frame's longer side."""
    box_step_position: float = 1.0
    """Share of the way to the mean that the position goes."""
    box_step_size: float = 0.7
    """The same for the size."""
    steady_rate: float = 0.1
    """Rate of the mean size that is searched for where the target is cut off by the frame's border, or lost."""
    lost_reach: float = 0.6
    """While the target is lost, one more place per frame is searched, this many region sides from the last one."""
    presence_slope: float = 8.0
    """``Result.presence`` is a logistic function of the score with this slope, 0.5 at the localisation's lost limit."""

    def __post_init__(self) -> None:
        if self.sample_size % STRIDE != 1:
            raise InputError(
                f"sample_size is {self.sample_size}; expected a multiple of {STRIDE} and one more, such as 289"
            )
        if self.crop.border_mode != "replicate":
            raise InputError(f"border_mode is {self.crop.border_mode!r}; this tracker's geometry needs 'replicate'")
        if self.box_samples < 2 or self.box_samples % 2 or self.box_passes < 0 or not self.box_spread > 0:
            raise InputError(
                f"box_samples is {self.box_samples}, box_passes {self.box_passes}, box_spread {self.box_spread}; "
                "expected an even number, at least 0, above 0"
            )
        if not 0 <= self.steady_rate <= 1:
            raise InputError(f"steady_rate is {self.steady_rate}; expected a share from 0 to 1")


def presets() -> dict[str, LiteConfig]:
    """The settings by name."""
    return {"dimp-lite": LiteConfig()}


@dataclass
class LiteTarget:
    """Everything remembered about one target."""

    pos: Pair
    """Centre (row, column), pixel index."""
    size: Pair
    """(h, w) in pixels."""
    steady_size: Pair
    """(h, w) in pixels, a slow mean over frames in which it was surely and wholly in view."""
    scale: float
    """Image pixels per crop pixel of the next search region."""
    view: TargetView
    """How the target looked in the first frame, for the box estimator."""
    lost: int
    """Frames since the target was last found; 0 while it is in sight."""
    filter: Tensor
    """(1, D, k, k) target model."""
    memory: SampleMemory
    random: RandomSource


@dataclass(frozen=True)
class _Region:
    """A place to look for a target."""

    target: int
    """Whose it is."""
    pos: Pair
    """Centre (row, column) in the image."""
    scale: float
    """Image pixels per crop pixel, as asked for; the crop's own differs a little, because it has whole pixels."""


class LiteTracker(Tracker[LiteTarget]):
    """The online loop around a :class:`LiteNet`."""

    session_type: Any = Session[LiteTarget]
    target_type: type[LiteTarget] = LiteTarget
    """What is remembered; a tracker that remembers more gives defaults for the rest."""

    def __init__(self, name: str, config: LiteConfig, net: LiteNet, device: torch.device, seed: int = 0) -> None:
        super().__init__(name, device, seed)
        self.config, self.net_config = config, net.config
        self.net = net.for_inference().to(device)
        self.offsets = _spread_offsets(config.box_samples).to(device)  # (P, 4) standard normal

    # --- first frame -------------------------------------------------------------------------------------------------

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[LiteTarget]:
        return [self._learn(frame, box, RandomSource.seeded(self.seed, i)) for i, box in enumerate(boxes)]

    def _learn(self, frame: np.ndarray, box: Box, random: RandomSource) -> LiteTarget:
        """Fit the filter to augmentations of the first frame, all cut from one expanded patch."""
        cfg, side = self.config, self.config.sample_size
        pos, size = box_to_state(box)
        scale = initial_scale(size, cfg.search_area_scale, side)
        expanded = expanded_size((side, side), cfg.augmentation.expansion_factor)
        patch = sample_patch(frame, pos, [scale * e for e in expanded], expanded, cfg.crop, device=self.device)
        transforms = make_transforms(cfg.augmentation, (side, side), random.uniform)
        found = self.net.extract(apply_transforms(patch.pixels, transforms, (side, side)))
        maps = self.net.classifier_features(found)  # (T, D, F, F)

        first = self._crop_box(View(patch.position, patch.scale, side), pos, size)
        maps, boxes, _ = augmented_samples(maps, to_filter_boxes(first), transforms, cfg.augmentation.dropout, random)
        samples, labels = Samples.from_maps(maps), boxes[:, None]  # (I, 1, 4)
        kernel = (self.net_config.filter_size,) * 2
        start = maps.new_zeros(1, maps.shape[1], *kernel)
        fit = self.net.filter_optimizer(start, samples, labels, None, cfg.init_iterations)
        reference = found[:1]
        view = self.net.box_net.view(reference.fine, reference.coarse, first[None])
        return self.target_type(
            pos=pos, size=size, steady_size=size, scale=scale, lost=0, view=view,
            filter=fit.weights, memory=SampleMemory.start(cfg.memory, samples, labels), random=random,
        )  # fmt: skip

    def _crop_box(self, view: View, pos: Pair, size: Pair) -> Tensor:
        """(4,) xywh in crop pixels."""
        return torch.tensor(view.to_crop(pos, size), dtype=torch.float32, device=self.device)

    # --- every later frame -------------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[LiteTarget]) -> list[Outcome]:
        cfg, frame_size = self.config, (frame.shape[0], frame.shape[1])
        side = cfg.sample_size
        regions: list[_Region] = []
        for i, target in enumerate(targets):
            regions += [_Region(i, pos, scale) for pos, scale in self._regions(target, frame_size)]
        patches = [
            sample_patch(frame, r.pos, (r.scale * side,) * 2, (side, side), cfg.crop, device=self.device)
            for r in regions
        ]
        found = self.net.extract(torch.cat([p.pixels for p in patches]))  # one pass for all targets
        maps = self.net.classifier_features(found)  # (R, D, F, F)
        filters = torch.cat([targets[r.target].filter for r in regions])  # (R, D, k, k)
        scores = correlate(maps, filters).cpu().numpy()  # (R, F, F)

        # where: each target's best region, and the best place in it
        rows, views, places = [], [], []
        for i, target in enumerate(targets):
            own = [n for n, region in enumerate(regions) if region.target == i]
            row = own[self._choose(target, [subcell_peak(scores[n])[0] for n in own])]
            view = View(patches[row].position, patches[row].scale, side)
            where = self._localise(target, view, scores[row], found[slice(row, row + 1)], frame_size)
            target.lost = target.lost + 1 if where.flag == NOT_FOUND else 0
            if where.flag != NOT_FOUND:
                moved = view.pos[0] + where.translation[0], view.pos[1] + where.translation[1]
                target.pos = clamp_position(moved, target.size, frame_size)
            else:  # before it was lost, perhaps only a part of it was seen
                target.size = target.steady_size
                target.pos = clamp_position(target.pos, target.size, frame_size)
                target.scale = initial_scale(target.size, cfg.search_area_scale, side)
            rows.append(row)
            views.append(view)
            places.append(where)

        # how large, for those that are surely in sight
        sure = [i for i, where in enumerate(places) if where.flag not in (NOT_FOUND, UNCERTAIN)]
        if sure:
            chosen = [rows[i] for i in sure]
            seen = found if len(chosen) == len(regions) else found[chosen]  # mostly all: no copy of the maps
            self._fit_boxes([targets[i] for i in sure], seen, [views[i] for i in sure], frame_size)
        outcomes = [
            self._finish(target, view, maps[row], where)
            for target, view, row, where in zip(targets, views, rows, places, strict=True)
        ]
        self._observe(scores[rows], views, outcomes)
        return outcomes

    def _localise(
        self, target: LiteTarget, view: View, scores: np.ndarray, features: LiteFeatures, frame_size: tuple[int, int]
    ) -> Localisation:
        """Where the scores (F, F) of a target's region put it."""
        return localise(
            scores, self.config.localisation, cell=STRIDE, sample_scale=view.scale,
            sample_pos=view.pos, previous_pos=target.pos, target_size=target.size,
        )  # fmt: skip

    def _candidates(self, target: LiteTarget) -> tuple[Candidate, ...]:
        """What to say about the peaks of this frame."""
        return ()

    def _observe(self, scores: np.ndarray, views: list[View], outcomes: list[Outcome]) -> None:
        """Hook for analysis: each target's chosen score map (N, F, F), its crop, and the outcome of the frame just tracked."""

    def _regions(self, target: LiteTarget, frame_size: tuple[int, int]) -> list[tuple[Pair, float]]:
        """Where to look, (centre, scale): the last place and, if the target is lost, one other."""
        cfg, here = self.config, (target.pos, target.scale)
        if not target.lost:
            return [here]
        angle = 2 * math.pi * (3 * target.lost % 8) / 8  # eight directions; neighbours in time are far apart
        reach = cfg.lost_reach * cfg.sample_size * target.scale
        row, col = target.pos[0] + reach * math.sin(angle), target.pos[1] + reach * math.cos(angle)
        inside = 0 <= row < frame_size[0] and 0 <= col < frame_size[1]
        return [here, ((row, col), target.scale)] if inside else [here]

    def _choose(self, target: LiteTarget, maxima: list[float]) -> int:
        """Which of a target's regions to believe, by their scores' maxima."""
        if len(maxima) == 1:
            return 0
        here, other = maxima
        return int(other > here and other >= self.config.sure_score)

    def _fit_boxes(
        self, targets: list[LiteTarget], found: LiteFeatures, views: list[View], frame_size: tuple[int, int]
    ) -> None:
        """Let the estimator correct position and size of targets in their crops (B)."""
        cfg = self.config
        boxes = torch.stack([self._crop_box(v, t.pos, t.size) for t, v in zip(targets, views, strict=True)])  # (B, 4)
        change = self._estimate(found, TargetView.cat([t.view for t in targets]), boxes)  # (B, 4)
        largest = cfg.box_largest * max(frame_size)
        for target, step in zip(targets, change.tolist(), strict=True):
            if not all(map(math.isfinite, step)):
                continue
            (dx, dy), (dw, dh) = (
                (cfg.box_step_position * v for v in step[:2]),
                (cfg.box_step_size * v for v in step[2:]),
            )
            (row, col), (h, w) = target.pos, target.size
            low_h, low_w = (min(side, cfg.box_smallest) for side in target.size)
            target.size = min(max(h * math.exp(dh), low_h), largest), min(max(w * math.exp(dw), low_w), largest)
            target.pos = clamp_position((row + dy * h, col + dx * w), target.size, frame_size)
            self._choose_scale(target, frame_size)

    def _choose_scale(self, target: LiteTarget, frame_size: tuple[int, int]) -> None:
        """Search around the whole target, also where the frame's border cuts it off and only a rest is seen."""
        steady, sides = [], []
        for place, now, known, length in zip(target.pos, target.size, target.steady_size, frame_size, strict=True):
            is_cut = place + 0.5 - now / 2 < 1 or place + 0.5 + now / 2 > length - 1
            rate = self.config.steady_rate if not is_cut else 0.0
            steady.append(max(known ** (1 - rate) * now**rate, now if is_cut else 0.0))
            sides.append(max(now, known) if is_cut else now)
        target.steady_size = steady[0], steady[1]
        target.scale = initial_scale((sides[0], sides[1]), self.config.search_area_scale, self.config.sample_size)

    def _estimate(self, found: LiteFeatures, views: TargetView, boxes: Tensor) -> Tensor:
        """Where the density around ``boxes`` (B, 4), xywh in crop pixels, has its mean, as seen from a normal distribution
        around them: (B, 4) in relative coordinates."""
        cfg = self.config
        maps = self.net.box_net.maps(found.fine, found.coarse)  # (B, C, G, G)
        unit = boxes[:, None, 2:]  # (B, 1, 2)
        middle = to_relative(boxes[:, None], unit)  # (B, 1, 4)
        change, spread = boxes.new_zeros(boxes.shape)[:, None], cfg.box_spread
        for _ in range(cfg.box_passes):
            drawn = change + spread * self.offsets  # (B, P, 4)
            scores = self.net.box_net.scores(maps, views, from_relative(middle + drawn, unit))  # (B, P)
            shares = torch.softmax(cfg.box_sharpness * scores, dim=1)
            change = (shares[..., None] * drawn).sum(dim=1, keepdim=True)
            spread /= 2
        return change[:, 0]

    def _finish(self, target: LiteTarget, view: View, maps: Tensor, where: Localisation) -> Outcome:
        """Learn from the features ``maps`` (D, F, F) and report."""
        updated, reason = self._update(target, view, maps, where.flag, where.max_score)
        limit = self.config.localisation.target_not_found
        presence = 0.5 + 0.5 * math.tanh(0.5 * self.config.presence_slope * (where.max_score - limit))
        candidates = self._candidates(target)
        return Outcome(
            target.pos, target.size, where.max_score, presence, where.flag, updated, reason, candidates=candidates
        )

    def _update(self, target: LiteTarget, view: View, maps: Tensor, flag: str, score: float) -> tuple[bool, str]:
        """Remember the crop and improve the filter, unless it is doubtful that the crop shows the target."""
        cfg = self.config
        if flag in (NOT_FOUND, UNCERTAIN):
            return False, "target lost" if flag == NOT_FOUND else "location uncertain"
        if score < cfg.sure_score:
            return False, "low score"
        label = to_filter_boxes(self._crop_box(view, target.pos, target.size))[None]
        target.memory.insert(maps.permute(1, 2, 0).flatten(0, 1), label, hard_negative=flag == HARD_NEGATIVE)
        samples, labels, weights = target.memory.filled()
        target.filter = self.net.filter_optimizer(
            target.filter, samples, labels, weights, cfg.update_iterations
        ).weights
        return True, "every frame"

    @property
    def suits_one_thread(self) -> bool:
        return True

    def _identity(self) -> dict[str, Any]:
        return {
            "tracker": self.name,
            "settings": [dataclasses.asdict(self.config), dataclasses.asdict(self.net_config)],
        }


def _spread_offsets(count: int) -> Tensor:
    """(count, 4) standard normal numbers that lie evenly, in pairs of opposite ones: equal scores move nothing."""
    half = torch.quasirandom.SobolEngine(4, scramble=True, seed=0).draw(count // 2)  # (count / 2, 4)
    normal = math.sqrt(2) * torch.erfinv((2 * half - 1).clamp(-0.999, 0.999))
    return torch.cat((normal, -normal))
