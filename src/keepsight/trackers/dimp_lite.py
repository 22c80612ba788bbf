"""The default tracker: DiMP's target filter on EfficientNet-Lite0 features, for one CPU thread; spec/dimp-atom.md §4, 7.

Read top to bottom: the settings, what is remembered about a target, the first frame, every later frame. What differs from
``dimp.py``: the crop's side is 16 n + 1 pixels and the backbone is padded symmetrically, so that cell j of every map lies at
crop pixel 16 j and the middle cell at the middle pixel; the filter is odd and learns a little on every frame.
"""

from __future__ import annotations

import dataclasses
import json
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
from ..online.localise import HARD_NEGATIVE, NOT_FOUND, UNCERTAIN, LocalisationConfig, localise
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.search import View, clamp_position, initial_scale, scale_limits
from .base import Outcome, Session, Tracker, presence_from_score

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
    """Sample memory."""
    localisation: LocalisationConfig = LocalisationConfig(target_not_found=0.25, subcell=True)
    """Decision table."""
    init_iterations: int = 20
    """Optimiser iterations on the first frame."""
    update_iterations: int = 1
    """Iterations on every later frame that is learnt from."""
    min_update_score: float = 0.45
    """A frame whose maximum is below this is not learnt from."""
    scale_step: float = 1.03
    """Factor between neighbouring scales of the scale search; larger and smaller are tried on alternate frames."""
    scale_penalty: float = 0.99
    """The score of another scale counts this much of its value."""
    presence_midpoint: float = 0.25
    """Score at which ``Result.presence`` is 0.5."""

    def __post_init__(self) -> None:
        if self.sample_size % STRIDE != 1:
            raise InputError(
                f"sample_size is {self.sample_size}; expected a multiple of {STRIDE} and one more, such as 289"
            )
        if self.crop.border_mode != "replicate":
            raise InputError(f"border_mode is {self.crop.border_mode!r}; this tracker's geometry needs 'replicate'")


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
    filter: Tensor
    """(1, D, k, k) target model."""
    memory: SampleMemory
    random: RandomSource


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
        transforms = make_transforms(cfg.augmentation, (side, side), lambda n: random.uniform(n))
        maps = self._features(apply_transforms(patch.pixels, transforms, (side, side)))  # (T, D, F, F)

        shifts = [t.shift for t in transforms]
        if cfg.augmentation.dropout is not None:
            copies, drop = cfg.augmentation.dropout
            keep = random.keep_channels(copies, maps.shape[1], drop).to(maps)  # (copies, D)
            maps = torch.cat((maps, maps[:1] * (keep / (1 - drop))[:, :, None, None]))
            shifts += [(0, 0)] * copies
        first = self._label_box(View(patch.position, patch.scale, side), pos, size)
        boxes = first + torch.tensor([(dx, dy, 0, 0) for dy, dx in shifts], dtype=first.dtype, device=self.device)
        samples, labels = Samples.from_maps(maps), boxes[:, None]  # (I, 1, 4)
        kernel = (self.net_config.filter_size,) * 2
        start = maps.new_zeros(1, maps.shape[1], *kernel)
        fit = self.net.filter_optimizer(start, samples, labels, None, cfg.init_iterations)
        return LiteTarget(
            pos=pos, size=size, base_size=(size[0] / scale, size[1] / scale), scale=scale, frame=1, filter=fit.weights,
            memory=SampleMemory.start(cfg.memory, samples, labels), random=random,
        )  # fmt: skip

    def _features(self, crops: Tensor) -> Tensor:
        return self.net.features(crops.contiguous(memory_format=torch.channels_last)).coarse

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
        cfg, side = self.config, self.config.sample_size
        regions = []
        for i, target in enumerate(targets):
            target.frame += 1
            regions += [(i, target.pos, scale) for scale in self._scales(target, frame.shape[:2])]
        patches = [
            sample_patch(frame, pos, (scale * side,) * 2, (side, side), cfg.crop, device=self.device)
            for _, pos, scale in regions
        ]
        views = [View(p.position, p.scale, side) for p in patches]
        maps = self._features(torch.cat([p.pixels for p in patches]))  # (R, D, F, F), one pass for all targets
        filters = torch.cat([targets[i].filter for i, _, _ in regions])
        scores = correlate(maps, filters).cpu().numpy()  # (R, F, F)

        outcomes = []
        for i, target in enumerate(targets):
            rows = [r for r, region in enumerate(regions) if region[0] == i]
            value = [scores[r].max() * (1 if r == rows[0] else cfg.scale_penalty) for r in rows]
            best = rows[int(np.argmax(value))]
            outcomes.append(self._follow(frame, target, views[best], regions[best][2], maps[best], scores[best]))
        return outcomes

    def _scales(self, target: LiteTarget, frame_size: tuple[int, int]) -> list[float]:
        """Scales to look at: the last one, then by turns a larger or a smaller one."""
        factor = self.config.scale_step if target.frame % 2 else 1 / self.config.scale_step
        low, high = scale_limits(target.base_size, frame_size)
        other = target.scale * factor
        return [target.scale, other] if low <= other <= high else [target.scale]

    def _follow(
        self, frame: np.ndarray, target: LiteTarget, view: View, scale: float, maps: Tensor, scores: np.ndarray
    ) -> Outcome:
        """Move one target to where its score map ``scores`` (F, F) says, and learn from the crop's features ``maps`` (D, F, F)."""
        cfg = self.config
        where = localise(
            scores, cfg.localisation, cell=STRIDE, output_cells=self.cells, sample_scale=view.scale,
            sample_pos=view.pos, previous_pos=target.pos, target_size=target.size,
        )  # fmt: skip
        if where.flag != NOT_FOUND:
            moved = view.pos[0] + where.translation[0], view.pos[1] + where.translation[1]
            target.pos = clamp_position(moved, target.size, frame.shape[:2])
            if where.flag != UNCERTAIN:
                target.scale = scale
                target.size = target.base_size[0] * scale, target.base_size[1] * scale
        updated, reason = self._update(target, view, maps, where.flag, where.max_score)
        presence = presence_from_score(where.max_score, cfg.presence_midpoint)
        return Outcome(target.pos, target.size, where.max_score, presence, where.flag, updated, reason)

    def _update(self, target: LiteTarget, view: View, maps: Tensor, flag: str, score: float) -> tuple[bool, str]:
        """Remember the crop and improve the filter, unless it is doubtful that the crop shows the target."""
        cfg = self.config
        if flag in (NOT_FOUND, UNCERTAIN):
            return False, "target lost" if flag == NOT_FOUND else "location uncertain"
        if score < cfg.min_update_score:
            return False, "low score"
        label = self._label_box(view, target.pos, target.size)[None]
        target.memory.insert(maps.permute(1, 2, 0).flatten(0, 1), label, hard_negative=flag == HARD_NEGATIVE)
        samples, labels, weights = target.memory.filled()
        target.filter = self.net.filter_optimizer(
            target.filter, samples, labels, weights, cfg.update_iterations
        ).weights
        return True, "every frame"

    def _identity(self) -> dict[str, Any]:
        description = json.dumps([dataclasses.asdict(self.config), dataclasses.asdict(self.net_config)])
        return {"tracker": self.name, "settings": json.loads(description)}
