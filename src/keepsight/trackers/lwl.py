"""LWL online: learn what to segment from the first frame's mask, and go on learning from one's own masks.

Bhat et al., "Learning what to learn for video object segmentation" (ECCV 2020); spec/keeptrack-rts-lwl.md §6. Every frame, a
filter bank learnt for this target turns a crop's features into an encoding of its mask, and the decoder turns that into logits.
Read top to bottom: the settings, what is remembered about a target, the first frame (§6.1), every later frame (§6.2), several
targets (§6.4).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state, clip_box
from ..errors import InputError, nearest_names
from ..images import CropConfig, Transform, apply_transforms, normalise_bgr, sample_patch
from ..models.segmentation import STRIDE, LWLBoxNet, LWLNet
from ..nn.correlation import Samples
from ..online.localise import NORMAL, NOT_FOUND
from ..online.masks import OUTSIDE, ellipse, merge, paste, spread
from ..online.memory import MemoryConfig, SampleMemory
from ..online.search import Pair, View, centring_offset, initial_scale, pulled_inside
from .base import Outcome, Session, Tracker


@dataclass(frozen=True)
class LWLConfig:
    """Settings of the family; the defaults are lwl_ytvos's (spec §6)."""

    weights: str = "lwl_stage2"
    """Name of the published weights."""
    sample_size: tuple[int, int] = (480, 832)
    """(h, w) of the crop in pixels; multiples of 16."""
    search_area_scale: float = 5.0
    """Side of the search region in target sizes, both as geometric means of their axes."""
    crop: CropConfig = CropConfig("inside_major")
    """How the search region becomes a crop."""
    memory: MemoryConfig = MemoryConfig(32, 0.1, 0.1, 0.25)
    """Masks that are learnt from."""
    init_iterations: int = 20
    """Iterations of the learner on the first frame."""
    update_iterations: int = 3
    """Iterations at every update."""
    train_skipping: int = 1
    """An update is scheduled every this many frames."""
    scale_change: Pair | None = (0.95, 1.1)
    """Least and largest factor by which the search region changes from frame to frame; None: any."""
    min_mask_area: float = 100.0
    """A mask of fewer pixels does not move the search region."""
    merge_alone: bool = True
    """Put a single target against the background as several are put against each other, as the published results were made."""
    square_sample_weights: bool = True
    """Quirk Q10: residuals are multiplied by the weight of their sample, not by its root, so that it counts squared."""
    keep_crop_offset: bool = True
    """Quirk Q11: crops after the first one are shifted by half a feature cell along axes with an odd number of cells."""
    first_logits: bool = False
    """Quirk Q21, for parity: the second frame reads the first mask's logits as if they were probabilities."""

    def __post_init__(self) -> None:
        if len(self.sample_size) != 2 or any(s % STRIDE or s <= 0 for s in self.sample_size):
            raise InputError(
                f"sample_size is {self.sample_size}; expected (h, w), positive multiples of {STRIDE} pixels"
            )
        if self.train_skipping < 1:
            raise InputError("train_skipping counts frames; expected at least 1")
        if self.scale_change is not None and not 0 < self.scale_change[0] <= 1 <= self.scale_change[1]:
            raise InputError(
                f"scale_change is {self.scale_change}; expected (at most 1, at least 1), both above 0, or None"
            )


def presets() -> dict[str, LWLConfig]:
    """The published settings by name; spec §6."""
    return {
        "lwl_ytvos": LWLConfig(),
        "lwl_boxinit": LWLConfig(
            weights="lwl_boxinit", memory=MemoryConfig(32, 0.2, 0.2, 0.0, equal_second=True), update_iterations=5,
            train_skipping=5, merge_alone=False,
        ),
    }  # fmt: skip


def preset(name: str) -> LWLConfig:
    """One of :func:`presets`; :class:`InputError` names the nearest if there is none."""
    known = presets()
    if name not in known:
        raise InputError(f"no LWL preset {name!r}; {nearest_names(name, known)}")
    return known[name]


@dataclass(kw_only=True)
class LWLTarget:
    """Everything remembered about one target: by far the most are the features in ``memory``, whose slots are limited.

    With the published settings, 32 samples of 30 × 52 cells and 512 channels: 102 MB, and 6.4 MB of encoded masks and weights.
    """

    pos: Pair
    """Centre (row, column) of the search region, pixel index."""
    size: Pair
    """(h, w) in pixels, of the first frame's aspect."""
    base_size: Pair
    """(h, w) in crop pixels at the first frame."""
    scale: float
    """Image pixels per crop pixel of the search region."""
    frame: int
    """Frame counter, 1 at initialisation."""
    filter: Tensor
    """(1, M, D, 3, 3) bank that encodes the target's mask."""
    memory: SampleMemory
    """Features, and the encodings of their masks with the encodings' weights."""
    probability: Tensor
    """(H, W) of the last frame."""
    seen: Tensor | None = None
    """(1, D, h, w) features of the last crop, to be remembered with its mask."""


@dataclass(frozen=True)
class Scored:
    """What a classifier said of a crop (RTS)."""

    scores: Tensor
    """(H', W')"""
    samples: Samples
    """The features that were scored."""


@dataclass(frozen=True)
class Look:
    """What one frame's crop said."""

    logits: Tensor
    """(H, W), in the frame."""
    view: View
    scored: Scored | None = None


LWLTargetT = TypeVar("LWLTargetT", bound=LWLTarget)


class LWLTracker(Tracker[LWLTargetT]):
    """The family's online loop around a :class:`LWLNet`."""

    session_type: Any = Session[LWLTarget]
    target_type: type[LWLTarget] = LWLTarget

    def __init__(self, name: str, config: LWLConfig, net: LWLNet, device: torch.device, seed: int = 0) -> None:
        super().__init__(name, device, seed)
        self.config, self.net_config = config, net.config
        self.net: Any = net.for_inference().to(device)
        self.boxes_to_masks = isinstance(net, LWLBoxNet)
        self.dtype = next(net.parameters()).dtype
        self.side = math.sqrt(math.prod(config.sample_size))  # of a square crop with as many pixels
        self.first_crop = CropConfig("replicate", None, config.crop.patch_arithmetic)

    @property
    def gives_masks(self) -> bool:
        return True

    def probabilities(self) -> list[np.ndarray]:
        return [t.probability.float().clamp(0, 1).cpu().numpy() for t in self._current().targets]

    # --- first frame (§6.1) ------------------------------------------------------------------------------------------

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[LWLTargetT]:
        return self._start_with(frame, boxes, [None] * len(boxes))

    def _start_with(self, frame: np.ndarray, boxes: list[Box], masks: list[np.ndarray | None]) -> list[LWLTargetT]:
        logits, targets = [], []
        for box, mask in zip(boxes, masks, strict=True):
            first = self._from_box(frame, box) if mask is None and self.boxes_to_masks else None
            if first is not None and bool((first > 0).any()):
                label = torch.sigmoid(first)  # soft, without a threshold
            else:  # also where the box network sees nothing
                shape = self._shape(frame, box) if mask is None else mask
                label = torch.from_numpy(shape).to(self.device, self.dtype)
                first = (2 * label - 1) * -OUTSIDE
            logits.append(first)
            targets.append(self._learn(frame, box, label))
        maps, _ = self._shared(logits)
        if len(logits) == 1 and self.config.first_logits:
            maps = logits
        for target, probability in zip(targets, maps, strict=True):
            target.probability = probability
        return targets

    def _make_room(self, targets: list[LWLTargetT], new: list[LWLTargetT]) -> None:
        """What merging (§6.4) comes to in a new target's first frame, where its logits are +100 and -100."""
        for target in targets:
            for other in new:
                target.probability = target.probability * (1 - other.probability)

    def _shape(self, frame: np.ndarray, box: Box) -> np.ndarray:
        """(H, W) bool: what to learn from if there is a box alone, and nothing that makes masks of boxes."""
        return ellipse(box, *frame.shape[:2])

    def _from_box(self, frame: np.ndarray, box: Box) -> Tensor:
        """Logits (H, W) of the box network on the whole frame."""
        height, width = frame.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None].to(self.dtype)
        layers = self.net.extract(normalise_bgr(pixels))
        features = self.net.target_features(layers["layer3"])
        x, y, w, h = clip_box(box, height, width)  # what begins outside would count from the other end: quirk Q17
        x, y, w, h = (
            min(x, width - 1.0),
            min(y, height - 1.0),
            max(w, 1.0),
            max(h, 1.0),
        )  # of whole pixels, one at least
        boxes = torch.tensor([(x, y, w, h)], dtype=self.dtype, device=self.device)
        encoding = self.net.box_encoding(features, boxes, (height, width))
        logits: Tensor = self.net.decode(encoding, layers, (height, width))[0, 0]
        return logits

    def _learn(self, frame: np.ndarray, box: Box, label: Tensor) -> LWLTargetT:
        """A target with ``box`` whose pixels are ``label`` (H, W), 0 to 1."""
        cfg = self.config
        pos, size = box_to_state(box)
        scale = initial_scale(size, cfg.search_area_scale, self.side)
        pixels, mask = self._first_crops(frame, label, pos, scale)
        features = self.net.target_features(self.net.extract(normalise_bgr(pixels))["layer3"])  # (1, D, h, w)
        encoded = self.net.label_encoder(mask)
        bank = self.net.fit_filter(
            self.net.zero_filter(), features[:, None], encoded.labels, encoded.weights, cfg.init_iterations
        )
        memory = SampleMemory.start(cfg.memory, Samples.from_maps(features), torch.stack(encoded, dim=2))
        return self.target_type(  # type: ignore[return-value]
            pos=pos, size=size, base_size=(size[0] / scale, size[1] / scale), scale=scale, frame=1, filter=bank,
            memory=memory, probability=label, **self._learn_more(frame, pos, size, scale, label),
        )  # fmt: skip

    def _first_crops(self, frame: np.ndarray, label: Tensor, pos: Pair, scale: float) -> tuple[Tensor, Tensor]:
        """The first frame's crop (1, 3, h, w) and its mask (1, 1, h, w), cut from twice as large a patch."""
        size = self.config.sample_size
        scale, shift = pulled_inside(pos, scale, size, (label.shape[0], label.shape[1]))
        expanded = 2 * size[0], 2 * size[1]
        centre, extent = (float(round(pos[0])), float(round(pos[1]))), [scale * e for e in expanded]
        cuts = []
        for image, is_mask in ((frame, False), (label[None, None], True)):
            patch = sample_patch(
                image, centre, extent, expanded, self.first_crop, mask=is_mask, device=self.device, dtype=self.dtype
            )
            cuts.append(apply_transforms(patch.pixels, [Transform(shift=shift)], size))
        return cuts[0], cuts[1]

    def _learn_more(self, frame: np.ndarray, pos: Pair, size: Pair, scale: float, label: Tensor) -> dict[str, Any]:
        """Further fields of the target; a family that remembers more overrides it."""
        return {}

    # --- every later frame (§6.2) ------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[LWLTargetT]) -> list[Outcome]:
        looks, learnt = [], []
        for target in targets:
            target.frame += 1
            learnt.append(self._update(target))
            self._reposition(target)
            looks.append(self._look(frame, target))
        maps, masks = self._shared([look.logits for look in looks])
        outcomes = []
        for target, look, (updated, reason), probability, mask in zip(targets, looks, learnt, maps, masks, strict=True):
            target.probability = probability
            found = self._conclude(target, look, mask)
            outcomes.append(replace(found, updated=updated, reason=reason, mask=mask.cpu().numpy()))
        self._observe(looks, outcomes)
        return outcomes

    def _update(self, target: LWLTargetT) -> tuple[bool, str]:
        """Remember the last frame with its mask, and learn from all that is remembered (§6.3); whether, and why."""
        if target.seen is None:
            return False, "the first frame's mask was learnt already"
        self._remember(target, target.seen)
        if (target.frame - 1) % self.config.train_skipping:
            return False, "not due"
        self._fit(target)
        return True, "scheduled"

    def _remember(self, target: LWLTargetT, features: Tensor) -> None:
        patch = sample_patch(
            target.probability[None, None], self._centre(target), self._extent(target), self.config.sample_size,
            self.config.crop, mask=True,
        )  # fmt: skip
        encoded = self.net.label_encoder(patch.pixels)
        target.memory.insert(features[0].permute(1, 2, 0).flatten(0, 1), torch.stack(encoded, dim=2)[0])

    def _fit(self, target: LWLTargetT) -> None:
        samples, encoded, weights = target.memory.filled()  # encoded (n, 1, 2, M, h, w), weights (n, 1)
        weights = weights if self.config.square_sample_weights else weights.sqrt()
        spatial = encoded[:, :, 1] * weights[..., None, None, None]
        target.filter = self.net.fit_filter(
            target.filter, samples, encoded[:, :, 0], spatial, self.config.update_iterations
        )

    def _state(self, probability: Tensor) -> tuple[Pair, Pair] | None:
        """Centre and size of a map that has enough of the target."""
        return spread(probability) if float(probability.sum()) >= self.config.min_mask_area else None

    def _reposition(self, target: LWLTargetT) -> None:
        """Move the search region to where the target was in the last frame."""
        where = self._state(target.probability)
        if where is not None:
            self._move(target, *where)

    def _move(self, target: LWLTargetT, pos: Pair, size: Pair) -> None:
        change = math.sqrt(math.prod(size) / math.prod(target.base_size)) / target.scale
        if self.config.scale_change is not None:
            change = min(max(change, self.config.scale_change[0]), self.config.scale_change[1])
        target.pos, target.scale = pos, target.scale * change
        target.size = target.base_size[0] * target.scale, target.base_size[1] * target.scale

    def _centre(self, target: LWLTargetT) -> Pair:
        """Where the crop's centre is asked to be."""
        if not self.config.keep_crop_offset:
            return target.pos
        offsets = [
            centring_offset(s // STRIDE, self.net_config.filter_size, target.scale, s) for s in self.config.sample_size
        ]
        return target.pos[0] + offsets[0], target.pos[1] + offsets[1]

    def _extent(self, target: LWLTargetT) -> Pair:
        """(h, w) of the search region in image pixels."""
        return target.scale * self.config.sample_size[0], target.scale * self.config.sample_size[1]

    def _look(self, frame: np.ndarray, target: LWLTargetT) -> Look:
        """Segment the target in a crop around it."""
        size = self.config.sample_size
        patch = sample_patch(
            frame, self._centre(target), self._extent(target), size, self.config.crop, device=self.device,
            dtype=self.dtype,
        )  # fmt: skip
        view = View(patch.position, patch.scale, size[1], size[0])
        layers = self.net.extract(normalise_bgr(patch.pixels))
        target.seen = self.net.target_features(layers["layer3"])  # (1, D, h, w)
        encoding = self.net.apply_filter(target.filter, target.seen[:, None])  # (1, 1, M, h, w)
        encoding, scored = self._fused(target, encoding, layers["layer3"])
        logits = self.net.decode(encoding, layers, size)[0, 0]
        self._observe_crop(target, patch.coordinates, encoding, logits)
        whole = paste(logits, view.pos, view.scale, (frame.shape[0], frame.shape[1]))
        return Look(whole, view, scored)

    def _fused(self, target: LWLTargetT, encoding: Tensor, layer3: Tensor) -> tuple[Tensor, Scored | None]:
        """What the decoder is given: the encoded mask, and what a family adds to it (RTS)."""
        return encoding, None

    def _conclude(self, target: LWLTargetT, look: Look, mask: Tensor) -> Outcome:
        """What this frame says of the target, whose ``probability`` is this frame's; the box is the published rule's."""
        pos, size = self._state(target.probability) or (target.pos, target.size)
        presence = confidence(target.probability, mask)
        flag = NORMAL if presence > 0 else NOT_FOUND
        return Outcome(pos, size, float(target.probability.max()), presence, flag, False, "")

    # --- several targets (§6.4) --------------------------------------------------------------------------------------

    def _shared(self, logits: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Probability maps and masks (H, W) of targets that compete for pixels."""
        if len(logits) == 1 and not self.config.merge_alone:
            return [torch.sigmoid(logits[0])], [logits[0] > 0]
        maps, owner = merge(torch.stack(logits))
        return list(maps), [owner == i for i in range(len(logits))]

    # --- for tests and saved states ----------------------------------------------------------------------------------

    def _observe_crop(
        self, target: LWLTargetT, coordinates: tuple[float, float, float, float], encoding: Tensor, logits: Tensor
    ) -> None:
        """Hook for tests and analysis: where the crop lay, what the decoder was given and what it made of it."""

    def _observe(self, looks: list[Look], outcomes: list[Outcome]) -> None:
        """Hook for tests and analysis: what was seen of every target in the frame just tracked, and what came of it."""

    def _identity(self) -> dict[str, Any]:
        settings = [dataclasses.asdict(self.config), dataclasses.asdict(self.net_config)]
        return {"tracker": self.name, "dtype": str(self.dtype), "settings": settings}


def confidence(probability: Tensor, mask: Tensor) -> float:
    """Mean probability of the mask's pixels, both (H, W); 0 for an empty mask, and at least about a half for others."""
    return float(probability[mask].mean()) if bool(mask.any()) else 0.0
