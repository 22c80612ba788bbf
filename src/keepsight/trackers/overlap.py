"""What ATOM and DiMP share online: a state with a search region, and boxes refined by the overlap predictor; §7.4, 7.8.

The families differ in the target classifier: how it is learnt, and how its scores become a position.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..nn.iou_net import Modulation
from ..online.localise import UNCERTAIN
from ..online.random import RandomSource
from ..online.refine import RefineConfig, Scorer, ascend, choose, proposals
from ..online.search import View
from ..online.snapshot import derived
from .base import Tracker

WIDE_ROTATIONS = (5, -5, 10, -10, 20, -20, 30, -30, 45, -45, -60, 60)
"""Degrees, of the first frame's augmentation in ATOM and DiMP's settings for VOT; spec §7.9."""
WIDE_BLURS = ((2, 0.2), (0.2, 2), (3, 1), (1, 3), (2, 2))
"""Deviations (vertical, horizontal), crop pixels, of the same."""
CPU_BATCH = 4  # crops per backbone pass on a CPU: larger batches leave its caches, measured 25 % slower

FeaturesT = TypeVar("FeaturesT")


@dataclass(kw_only=True)
class OverlapTarget:
    """What is remembered about one target, whatever finds it."""

    pos: tuple[float, float]
    """Centre (row, column), pixel index."""
    size: tuple[float, float]
    """(h, w) in pixels."""
    base_size: tuple[float, float]
    """(h, w) in crop pixels at the first frame."""
    scale: float
    """Image pixels per crop pixel of the next search region."""
    frame: int
    """Frame counter, 1 at initialisation."""
    refined_pos: tuple[float, float] | None
    """Position of the last accepted refinement."""
    modulation3: Tensor
    """(1, C) for the overlap predictor's stride-8 level."""
    modulation4: Tensor
    """(1, C) for its stride-16 level."""
    random: RandomSource
    scoring: Any | None = derived()
    """The overlap predictor prepared for this target; made when first needed."""


TargetT = TypeVar("TargetT", bound=OverlapTarget)


class OverlapTracker(Tracker[TargetT]):
    """Refines boxes with ``self.net``'s overlap predictor, as ``self.config`` says."""

    net: Any
    """An :class:`~keepsight.models.overlap.OverlapNet`, or another network with its methods for boxes."""
    config: Any
    """With ``sample_size``, ``refine``, ``keep_half_pixel_bias`` and ``update_scale_when_uncertain``."""
    net_config: Any
    """A dataclass: what the network's weights do not say."""
    dtype: torch.dtype

    def _random_source(self, index: int) -> RandomSource:
        return RandomSource.seeded(self.seed, index)

    def _in_batches(self, extract: Callable[[Tensor], FeaturesT], crops: Tensor) -> FeaturesT:
        """``extract`` of all ``crops`` (B, 3, Z, Z), a few at a time on a CPU; features must have ``cat``."""
        crops = crops.contiguous(memory_format=torch.channels_last)
        if self.device.type != "cpu" or len(crops) <= CPU_BATCH:
            return extract(crops)
        parts = [extract(part) for part in crops.split(CPU_BATCH)]
        return type(parts[0]).cat(parts)  # type: ignore[attr-defined]

    def _crop_box(self, target: TargetT, view: View) -> Tensor:
        """(4,) xywh in crop pixels."""
        return torch.tensor(view.to_crop(target.pos, target.size), dtype=self.dtype, device=self.device)

    def _refine(self, target: TargetT, view: View, flag: str, features: Any) -> Tensor:
        """Let the overlap predictor correct position, size and scale; returns the values (P,) of the refined boxes."""
        cfg: RefineConfig = self.config.refine
        box = self._crop_box(target, view)
        uniforms = target.random.uniform(cfg.random_boxes, 4).to(box) if cfg.random_boxes else None
        boxes, values = ascend(self._scorer(target, features), proposals(box, uniforms, cfg), cfg)
        self._observe_boxes(boxes, values)
        best = choose(boxes, values, cfg)
        if best is None:
            return values  # position, size and scale stay as the classifier left them
        target.pos, target.size = view.to_image(best.tolist(), self.config.keep_half_pixel_bias)
        target.refined_pos = target.pos
        if flag != UNCERTAIN or self.config.update_scale_when_uncertain:
            base = target.base_size
            target.scale = math.sqrt(target.size[0] * target.size[1] / (base[0] * base[1]))
        return values

    def _observe_boxes(self, boxes: Tensor, values: Tensor) -> None:
        """Hook for tests and analysis: refined boxes (P, 4) and their values (P,) before the choice."""

    def _scorer(self, target: TargetT, features: Any) -> Scorer:
        """Scores boxes of one crop, ``features`` (1, ...), for ``target``."""
        if target.scoring is None:
            target.scoring = self.net.prepare_boxes(Modulation(target.modulation3, target.modulation4))
        scorer: Scorer = self.net.box_scorer(target.scoring, features)
        return scorer

    def _identity(self) -> dict[str, Any]:
        settings = [dataclasses.asdict(self.config), dataclasses.asdict(self.net_config)]
        return {"tracker": self.name, "dtype": str(self.dtype), "settings": settings}
