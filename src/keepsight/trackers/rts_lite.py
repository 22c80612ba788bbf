"""``rts-lite``: the default tracker finds the target, and a small network says which pixels are its own.

RTS's division of work (Paul et al., ECCV 2022; spec/keeptrack-rts-lwl.md §9) on the default tracker: its box places a second,
closer crop, which goes through the same backbone; LWL's few-shot learner and the hint (that box, and the last mask) make an
encoding, and the decoder makes the mask of it. Where the mask is sound, the box is the mask's; a target that the tracker of
boxes has lost has no mask. Read top to bottom: settings, what is remembered, first frame, later frames.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import Box, box_to_state, state_to_box
from ..errors import InputError
from ..images import sample_patch
from ..models.lite import LiteNet
from ..models.rts_lite import STRIDE, RTSLiteNet, hint
from ..nn.correlation import Samples
from ..online.localise import NOT_FOUND, UNCERTAIN
from ..online.masks import OUTSIDE, ellipse, merge
from ..online.memory import MemoryConfig, SampleMemory
from ..online.search import View, initial_scale
from .base import Outcome, Session
from .dimp_lite import LiteConfig, LiteTarget, LiteTracker, Pair
from .lwl import confidence


@dataclass(frozen=True)
class MaskConfig:
    """How masks are made."""

    weights: str = "rts-lite"
    """Name of the network's weights."""
    sample_size: int = 289
    """Side of the square crop in pixels; 16 n + 1."""
    search_area_scale: float = 2.5
    """Side of the crop in target sizes (geometric mean), ..."""
    longest: float = 1.4
    """... and at least so many times the target's longer side."""
    memory: MemoryConfig = MemoryConfig(20, 0.05, 0.05, 0.5)
    """Masks that are learnt from."""
    init_iterations: int = 10
    """Iterations of the learner on the first frame."""
    update_iterations: int = 3
    """Iterations at every update."""
    train_skipping: int = 2
    """Frames from one update to the next."""
    min_area: float = 0.1
    """A mask with a smaller share of the box's pixels, ..."""
    max_area: float = 4.0
    """... or of more than so many, or ..."""
    min_confidence: float = 0.75
    """... whose pixels have a lower mean probability, is not sound: it neither makes the box nor is it learnt from."""
    min_part: float = 0.15
    """Connected parts of a mask that have a smaller share of its largest part's pixels do not count for the box."""

    def __post_init__(self) -> None:
        if self.sample_size % STRIDE != 1 or self.sample_size <= STRIDE:
            raise InputError(
                f"sample_size of masks is {self.sample_size}; expected a multiple of {STRIDE} and one more, such as 241"
            )
        if self.train_skipping < 1:
            raise InputError("train_skipping counts frames; expected at least 1")


@dataclass(frozen=True)
class RTSLiteConfig(LiteConfig):
    """Settings of the default tracker with masks."""

    masks: MaskConfig = MaskConfig()
    """How masks are made; places and limits are the default tracker's."""


def presets() -> dict[str, RTSLiteConfig]:
    """The settings by name."""
    return {"rts-lite": RTSLiteConfig()}


@dataclass
class Masked:
    """What is remembered about a target's pixels; the features in ``memory`` have a limited number of slots."""

    filter: Tensor
    """(1, M, D, 3, 3) bank that encodes the target's mask."""
    memory: SampleMemory
    """Features, and the encodings of their masks with the encodings' weights."""
    probability: Tensor
    """(H, W) of the last frame."""
    pos: Pair
    """Where the target was then."""
    frame: int = 1
    """Frame counter, 1 at initialisation."""


@dataclass
class RTSLiteTarget(LiteTarget):
    """Everything remembered about one target."""

    masked: Masked | None = None
    """None only while the target is being made."""


@dataclass(frozen=True)
class Look:
    """What one crop said."""

    view: View
    logits: Tensor
    """(h, h), of every second crop pixel."""
    features: Tensor
    """(1, D, n, n)"""


class RTSLiteTracker(LiteTracker):
    """The default tracker's loop with masks."""

    session_type = Session[RTSLiteTarget]
    target_type = RTSLiteTarget
    config: RTSLiteConfig

    def __init__(
        self, name: str, config: RTSLiteConfig, net: LiteNet, masks: RTSLiteNet, device: torch.device, seed: int = 0
    ) -> None:
        super().__init__(name, config, net, device, seed)
        self.mask_config = masks.config
        self.masks = masks.for_inference().to(device)

    @property
    def gives_masks(self) -> bool:
        return True

    def probabilities(self) -> list[np.ndarray]:
        return [_masked(t).probability.clamp(0, 1).cpu().numpy() for t in self._current().targets]

    # --- first frame -------------------------------------------------------------------------------------------------

    def _start_with(self, frame: np.ndarray, boxes: list[Box], masks: list[np.ndarray | None]) -> list[LiteTarget]:
        targets = super()._start_with(frame, boxes, masks)
        for target, mask in zip(targets, masks, strict=True):
            assert isinstance(target, RTSLiteTarget)  # for the type checker
            target.masked = self._know(frame, target, mask)
        return targets

    def _make_room(self, targets: list[LiteTarget], new: list[LiteTarget]) -> None:
        """A new target takes its pixels from those that are there."""
        for known in map(_masked, targets):
            for other in map(_masked, new):
                known.probability = known.probability * (1 - other.probability)

    def _know(self, frame: np.ndarray, target: LiteTarget, mask: np.ndarray | None) -> Masked:
        """Learn the target's pixels from its mask, or from the one that its box gives."""
        cfg, size = self.config.masks, (frame.shape[0], frame.shape[1])
        view, layers, features = self._crop(frame, target.pos, target.size)
        if mask is None:
            nothing = features.new_zeros(1, self.mask_config.num_filters, *features.shape[-2:])
            logits = self._decode(nothing, self._hint(view, target, None), layers)
            probability = _inside(_in_frame(logits, view, size).sigmoid(), target)
        else:
            probability = torch.from_numpy(mask).to(self.device, torch.float32)
        labels = self.masks.label_encoder(self._cut(probability, view.pos, view))
        bank = self.masks.fit_filter(
            self.masks.zero_filter(), features[:, None], labels.labels, labels.weights, cfg.init_iterations
        )
        memory = SampleMemory.start(cfg.memory, Samples.from_maps(features), torch.stack(labels, dim=2))
        return Masked(bank, memory, probability, target.pos)

    def _crop(self, frame: np.ndarray, pos: Pair, size: Pair) -> tuple[View, dict[str, Tensor], Tensor]:
        """The crop around a box: where it lies, the decoder's levels, the learner's features."""
        cfg = self.config.masks
        side = cfg.sample_size
        scale = max(initial_scale(size, cfg.search_area_scale, side), cfg.longest * max(size) / side)
        patch = sample_patch(frame, pos, (scale * side,) * 2, (side, side), self.config.crop, device=self.device)
        layers = self.masks.extract(patch.pixels, self.net.backbone)
        return View(patch.position, patch.scale, side), layers, self.masks.target_features(layers)

    def _hint(self, view: View, target: LiteTarget, before: Tensor | None) -> Tensor:
        """(1, Z, Z): the target's box in the crop, and what the mask was ``before`` (1, 1, Z, Z)."""
        box = self._crop_box(view, target.pos, target.size)[None]
        return hint(box, None if before is None else before[0], (view.side, view.side))

    def _cut(self, probability: Tensor, pos: Pair, view: View) -> Tensor:
        """A map of the frame (H, W) in a crop like ``view`` around ``pos``: (1, 1, Z, Z)."""
        rows, cols = (
            (torch.arange(view.side, device=self.device) - m) * view.scale + p
            for m, p in zip(view.middle, pos, strict=True)
        )
        return _sampled(probability, rows, cols)[None, None]

    def _decode(self, encoding: Tensor, hints: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """Logits (h, h) of every second pixel of the crop."""
        return self.masks.decode(encoding + self.masks.encode_hint(hints), layers, hints.shape[-1])[0]

    # --- every later frame -------------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[LiteTarget]) -> list[Outcome]:
        found = super()._advance(frame, targets)
        size = frame.shape[0], frame.shape[1]
        looks = [self._look(frame, target) for target in targets]
        logits = [
            _in_frame(look.logits, look.view, size)
            if outcome.flag != NOT_FOUND
            else look.logits.new_full(size, OUTSIDE)  # a lost target competes for no pixel
            for look, outcome in zip(looks, found, strict=True)
        ]
        if len(targets) == 1:
            maps, masks = [logits[0].sigmoid()], [logits[0] > 0]
        else:
            shared, owner = merge(torch.stack(logits))
            maps, masks = list(shared), [owner == i for i in range(len(targets))]
        every = zip(targets, looks, found, maps, masks, strict=True)
        return [self._conclude(target, look, outcome, p, mask) for target, look, outcome, p, mask in every]

    def _look(self, frame: np.ndarray, target: LiteTarget) -> Look:
        """Segment the target where its box is."""
        known = _masked(target)
        view, layers, features = self._crop(frame, target.pos, target.size)
        moved = known.pos[0] + view.pos[0] - target.pos[0], known.pos[1] + view.pos[1] - target.pos[1]
        before = self._cut(known.probability, moved, view)  # the mask moves along with the box
        encoding = self.masks.apply_filter(known.filter, features[:, None])[0]  # (1, M, n, n)
        return Look(view, self._decode(encoding, self._hint(view, target, before), layers), features)

    def _conclude(self, target: LiteTarget, look: Look, outcome: Outcome, probability: Tensor, mask: Tensor) -> Outcome:
        """What the tracker of boxes said, corrected by the mask (H, W) where that is sound."""
        cfg, known = self.config.masks, _masked(target)
        known.frame += 1
        pixels: np.ndarray = mask.cpu().numpy()
        known.probability, known.pos = probability, target.pos
        if outcome.flag == NOT_FOUND:  # what is segmented then is something else
            known.probability = torch.zeros_like(probability)
            return replace(outcome, mask=np.zeros_like(pixels))
        area, certainty = int(pixels.sum()) / math.prod(target.size), confidence(probability, mask)
        box = _tight(pixels, cfg.min_part)
        if box is None or not cfg.min_area <= area <= cfg.max_area or certainty < cfg.min_confidence:
            return replace(outcome, mask=pixels)
        if outcome.flag != UNCERTAIN and outcome.score >= self.config.sure_score:
            self._remember(known, look)
        pos, size = box_to_state(box)
        return replace(outcome, pos=pos, size=size, presence=max(outcome.presence, certainty), mask=pixels)

    def _remember(self, known: Masked, look: Look) -> None:
        """Learn from the mask that was just made."""
        cfg = self.config.masks
        made = look.logits.sigmoid()[None, None]  # (1, 1, h, h)
        full = F.interpolate(made, look.view.side, mode="bilinear", align_corners=True)
        encoded = self.masks.label_encoder(full)
        known.memory.insert(look.features[0].permute(1, 2, 0).flatten(0, 1), torch.stack(encoded, dim=2)[0])
        if known.frame % cfg.train_skipping:
            return
        samples, kept, weights = known.memory.filled()  # encodings (n, 1, 2, M, n, n), weights (n, 1)
        spatial = kept[:, :, 1] * weights.sqrt()[..., None, None, None]
        known.filter = self.masks.fit_filter(known.filter, samples, kept[:, :, 0], spatial, cfg.update_iterations)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "masks": dataclasses.asdict(self.mask_config)}


def _masked(target: LiteTarget) -> Masked:
    assert isinstance(target, RTSLiteTarget)  # for the type checker
    assert target.masked is not None  # set as soon as the target is made
    return target.masked


def _sampled(maps: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """A map (H, W) at pixel indices ``rows`` (R,) and ``cols`` (C,) with fractions, bilinear: (R, C); 0 outside."""
    height, width = maps.shape
    y, x = 2 * rows / max(height - 1, 1) - 1, 2 * cols / max(width - 1, 1) - 1
    grid = torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))), dim=-1)  # (R, C, 2)
    return F.grid_sample(maps[None, None], grid[None].to(maps), align_corners=True)[0, 0]


def _in_frame(logits: Tensor, view: View, size: tuple[int, int]) -> Tensor:
    """Logits (h, h) of every second crop pixel in the frame: (H, W), :data:`OUTSIDE` beyond the crop."""
    whole = logits.new_full(size, OUTSIDE)
    reach = view.scale * (view.side - 1) / 2
    spans = [
        (max(math.ceil(p - reach), 0), min(math.floor(p + reach) + 1, length))
        for p, length in zip(view.pos, size, strict=True)
    ]
    if any(low >= high for low, high in spans):
        return whole
    rows, cols = (
        ((torch.arange(low, high, device=logits.device) - p) / view.scale + m) / 2
        for (low, high), p, m in zip(spans, view.pos, view.middle, strict=True)
    )
    whole[slice(*spans[0]), slice(*spans[1])] = _sampled(logits, rows, cols)
    return whole


def _inside(probability: Tensor, target: LiteTarget, margin: float = 0.05) -> Tensor:
    """The map (H, W) with nothing beyond the target's box; the box's ellipse if it has nothing inside either."""
    kept = torch.zeros_like(probability)
    (top, bottom), (left, right) = (
        (p + 0.5 - s * (0.5 + margin), p + 0.5 + s * (0.5 + margin))
        for p, s in zip(target.pos, target.size, strict=True)
    )
    part = slice(max(round(top), 0), max(round(bottom), 0)), slice(max(round(left), 0), max(round(right), 0))
    kept[part] = probability[part]
    if bool((kept > 0.5).any()):
        return kept
    return torch.from_numpy(ellipse(state_to_box(target.pos, target.size), *probability.shape)).to(probability)


def _tight(mask: np.ndarray, min_part: float) -> Box | None:
    """The box of a mask's larger connected parts; None if it is empty."""
    import cv2

    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    large = 1 + np.flatnonzero(areas >= min_part * areas.max())
    left, top, width, height = (
        statistics[large, i] for i in (cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT)
    )
    x, y = int(left.min()), int(top.min())
    return Box(float(x), float(y), float((left + width).max() - x), float((top + height).max() - y))
