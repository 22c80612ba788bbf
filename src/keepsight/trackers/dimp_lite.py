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

from ..boxes import Box, box_to_state
from ..errors import InputError
from ..images import AugmentationConfig, CropConfig, apply_transforms, expanded_size, make_transforms, sample_patch
from ..models.lite import STRIDE, LiteNet, LiteNetConfig
from ..nn.correlation import Samples, correlate
from ..online.first_frame import augmented_samples
from ..online.localise import HARD_NEGATIVE, NOT_FOUND, UNCERTAIN, LocalisationConfig, localise, subcell_peak
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.search import View, clamp_position, initial_scale, scale_limits
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
    scale_step: float = 1.03
    """Factor by which the scale search looks at a larger or a smaller target: by turns, until one of them scores better."""
    scale_interval: int = 2
    """Another scale is looked at every this many frames."""
    scale_penalty: float = 0.995
    """The maximum at another scale counts this much of its value."""
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
        if not self.scale_step > 1 or self.scale_interval < 1:
            raise InputError(
                f"scale_step is {self.scale_step} and scale_interval {self.scale_interval}; expected above 1, at least 1"
            )


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
    base_size: Pair
    """(h, w) in crop pixels at the first frame."""
    scale: float
    """Image pixels per crop pixel of the next search region."""
    frame: int
    """Frame counter, 1 at initialisation."""
    grow: bool
    """Whether the scale search looks at a larger target next, or at a smaller one."""
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

    session_type = Session[LiteTarget]

    def __init__(self, name: str, config: LiteConfig, net: LiteNet, device: torch.device, seed: int = 0) -> None:
        super().__init__(name, device, seed)
        self.config, self.net_config = config, net.config
        self.net = net.for_inference().to(device)
        self.cells = config.sample_size // STRIDE + 1  # F, side of the feature and score maps

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
        maps = self._features(apply_transforms(patch.pixels, transforms, (side, side)))  # (T, D, F, F)

        first = self._label_box(View(patch.position, patch.scale, side), pos, size)
        maps, boxes, _ = augmented_samples(maps, first, transforms, cfg.augmentation.dropout, random)
        samples, labels = Samples.from_maps(maps), boxes[:, None]  # (I, 1, 4)
        kernel = (self.net_config.filter_size,) * 2
        start = maps.new_zeros(1, maps.shape[1], *kernel)
        fit = self.net.filter_optimizer(start, samples, labels, None, cfg.init_iterations)
        return LiteTarget(
            pos=pos, size=size, base_size=(size[0] / scale, size[1] / scale), scale=scale, frame=1, grow=True, lost=0,
            filter=fit.weights, memory=SampleMemory.start(cfg.memory, samples, labels), random=random,
        )  # fmt: skip

    def _features(self, crops: Tensor) -> Tensor:
        return self.net.features(crops.contiguous(memory_format=torch.channels_last))

    def _label_box(self, view: View, pos: Pair, size: Pair) -> Tensor:
        """(4,) box in crop pixels as the filter's optimiser wants it.

        The family's odd filters put cell n at pixel coordinate 16 (n + ½); here it lies at pixel 16 n, whose middle has
        the coordinate 16 n + ½: the box moves by the difference.
        """
        x, y, w, h = view.to_crop(pos, size)
        shift = (STRIDE - 1) / 2
        return torch.tensor((x + shift, y + shift, w, h), dtype=torch.float32, device=self.device)

    # --- every later frame -------------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[LiteTarget]) -> list[Outcome]:
        side, frame_size = self.config.sample_size, (frame.shape[0], frame.shape[1])
        regions: list[_Region] = []
        for i, target in enumerate(targets):
            target.frame += 1
            regions += [_Region(i, pos, scale) for pos, scale in self._regions(target, frame_size)]
        patches = [
            sample_patch(frame, r.pos, (r.scale * side,) * 2, (side, side), self.config.crop, device=self.device)
            for r in regions
        ]
        maps = self._features(torch.cat([p.pixels for p in patches]))  # (R, D, F, F), one pass for all targets
        filters = torch.cat([targets[r.target].filter for r in regions])  # (R, D, k, k)
        scores = correlate(maps, filters).cpu().numpy()  # (R, F, F)

        outcomes = []
        for i, target in enumerate(targets):
            rows = [n for n, region in enumerate(regions) if region.target == i]
            best = rows[self._choose(target, [subcell_peak(scores[n])[0] for n in rows])]
            view = View(patches[best].position, patches[best].scale, side)
            outcomes.append(self._follow(target, regions[best], view, maps[best], scores[best], frame_size))
        return outcomes

    def _regions(self, target: LiteTarget, frame_size: tuple[int, int]) -> list[tuple[Pair, float]]:
        """Where to look, (centre, scale): first the last place, then at most one other scale or, if lost, one other place."""
        cfg, here = self.config, (target.pos, target.scale)
        if target.lost:
            angle = 2 * math.pi * (3 * target.lost % 8) / 8  # eight directions; neighbours in time are far apart
            reach = cfg.lost_reach * cfg.sample_size * target.scale
            row, col = target.pos[0] + reach * math.sin(angle), target.pos[1] + reach * math.cos(angle)
            inside = 0 <= row < frame_size[0] and 0 <= col < frame_size[1]
            return [here, ((row, col), target.scale)] if inside else [here]
        if target.frame % cfg.scale_interval:
            return [here]
        scale = target.scale * cfg.scale_step if target.grow else target.scale / cfg.scale_step
        low, high = scale_limits(target.base_size, frame_size)
        if scale > high if target.grow else scale < low:
            target.grow = not target.grow
            return [here]
        return [here, (target.pos, scale)]

    def _choose(self, target: LiteTarget, maxima: list[float]) -> int:
        """Which of a target's regions to believe, by their scores' maxima."""
        if len(maxima) == 1:
            return 0
        here, other = maxima
        if target.lost:
            return int(other > here and other >= self.config.sure_score)
        better = other * self.config.scale_penalty > here
        target.grow ^= not better  # stay with a direction that paid off
        return int(better)

    def _follow(
        self,
        target: LiteTarget,
        region: _Region,
        view: View,
        maps: Tensor,
        scores: np.ndarray,
        frame_size: tuple[int, int],
    ) -> Outcome:
        """Move a target to where the scores (F, F) of its region say, and learn from the features ``maps`` (D, F, F)."""
        cfg = self.config
        where = localise(
            scores, cfg.localisation, cell=STRIDE, sample_scale=view.scale,
            sample_pos=view.pos, previous_pos=target.pos, target_size=target.size,
        )  # fmt: skip
        target.lost = target.lost + 1 if where.flag == NOT_FOUND else 0
        if where.flag != NOT_FOUND:
            moved = view.pos[0] + where.translation[0], view.pos[1] + where.translation[1]
            target.pos = clamp_position(moved, target.size, frame_size)
            if where.flag != UNCERTAIN:
                self._estimate_size(target, region)
        updated, reason = self._update(target, view, maps, where.flag, where.max_score)
        limit = cfg.localisation.target_not_found
        presence = 0.5 + 0.5 * math.tanh(0.5 * cfg.presence_slope * (where.max_score - limit))
        return Outcome(target.pos, target.size, where.max_score, presence, where.flag, updated, reason)

    def _estimate_size(self, target: LiteTarget, region: _Region) -> None:
        """The best scale says the target's size; a trained box estimator will say more (position and aspect) here."""
        target.scale = region.scale
        target.size = target.base_size[0] * region.scale, target.base_size[1] * region.scale

    def _update(self, target: LiteTarget, view: View, maps: Tensor, flag: str, score: float) -> tuple[bool, str]:
        """Remember the crop and improve the filter, unless it is doubtful that the crop shows the target."""
        cfg = self.config
        if flag in (NOT_FOUND, UNCERTAIN):
            return False, "target lost" if flag == NOT_FOUND else "location uncertain"
        if score < cfg.sure_score:
            return False, "low score"
        label = self._label_box(view, target.pos, target.size)[None]
        target.memory.insert(maps.permute(1, 2, 0).flatten(0, 1), label, hard_negative=flag == HARD_NEGATIVE)
        samples, labels, weights = target.memory.filled()
        target.filter = self.net.filter_optimizer(
            target.filter, samples, labels, weights, cfg.update_iterations
        ).weights
        return True, "every frame"

    def _identity(self) -> dict[str, Any]:
        return {
            "tracker": self.name,
            "settings": [dataclasses.asdict(self.config), dataclasses.asdict(self.net_config)],
        }
