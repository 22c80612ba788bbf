"""RTS online: LWL's segmentation, and a classifier beside it that finds the target again when its mask is lost.

Paul, Danelljan, Mayer, Van Gool, "Robust visual tracking by segmentation" (ECCV 2022); spec/keeptrack-rts-lwl.md §9. The
classifier is SuperDiMP-simple's: its scores are added to the encoded mask, and its own place of the target is the fallback.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state
from ..errors import InputError, nearest_names
from ..images import AugmentationConfig, apply_transforms, make_transforms, normalise_bgr, sample_patch
from ..models.segmentation import RTSNet, STANet
from ..nn.correlation import Samples, apply_filter
from ..nn.target_filter import gaussian_label
from ..online.localise import NORMAL, NOT_FOUND, UNCERTAIN, peak
from ..online.masks import spread, tight_box
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.search import Pair, RescaleConfig, ScaleHistory, View, clamp_position, initial_scale, scale_limits
from .base import Outcome, Session, presence_from_score
from .lwl import Look, LWLConfig, LWLTarget, LWLTracker, Scored, confidence
from .sta import BoxToMask, STAConfig


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of the classifier; the defaults are rts50's (spec §9.1)."""

    search_area_scale: float = 6.0
    """Side of the first frame's crops in target sizes; later the classifier shares the segmentation's crops."""
    memory: MemoryConfig = MemoryConfig(50, 0.01, 0.02, 0.0)
    """Samples that it is fitted to; those of the first frame can be replaced, too."""
    augmentation: AugmentationConfig = AugmentationConfig(
        rotate=(), relativeshift=(), dropout=None, expansion_factor=None, random_shift_factor=0.0
    )
    """Of the first frame: itself, its mirror image and three blurs."""
    init_iterations: int = 10
    """Iterations on the first frame."""
    update_iterations: int = 2
    """Iterations at every update."""
    train_skipping: int = 20
    """After ``init_phase``, an update is scheduled every this many frames."""
    init_phase: int = 100
    """Frames during which every frame that is found is learnt from at once."""
    sigma_factor: float = 0.25
    """Standard deviation of the label in target sizes."""
    not_found: float = 0.30
    """A maximum below this is ``not_found``."""


@dataclass(frozen=True)
class RTSConfig(LWLConfig):
    """Settings on top of LWL's; the defaults of their fields are not a preset, see :func:`presets`."""

    classifier: ClassifierConfig = ClassifierConfig()
    """The fallback."""
    init_phase: int = 100
    """Frames during which every mask is remembered and learnt from, even if the target seems lost."""
    rescale: RescaleConfig = RescaleConfig()
    """How the search region of a lost target grows back."""
    box_network: str = "sta"
    """Name of the weights that make the first mask of a box."""
    box_to_mask: STAConfig = STAConfig()
    """How they are used."""


def presets() -> dict[str, RTSConfig]:
    """The published settings by name; spec §9.1, and §8.2 for those of the network fine-tuned on YouTube-VOS.

    That network's weights are in no list of published files: `keepsight train rts50_ytvos` makes them. Where they are not,
    ``rts50_ytvos`` is rts50's network with these settings.
    """
    rts50 = RTSConfig(
        weights="rts50", search_area_scale=6.0, train_skipping=20, scale_change=(0.8, 1.2), merge_alone=False
    )
    # which of the two phases the paper's appendix means is not said (§8.2): both, which is the natural reading
    longer = replace(rts50.classifier, init_phase=200)
    return {
        "rts50": rts50,
        "rts50_ytvos": replace(rts50, weights="rts50_ytvos", scale_change=None, init_phase=200, classifier=longer),
    }


def preset(name: str) -> RTSConfig:
    """One of :func:`presets`; :class:`InputError` names the nearest if there is none."""
    known = presets()
    if name not in known:
        raise InputError(f"no RTS preset {name!r}; {nearest_names(name, known)}")
    return known[name]


@dataclass(kw_only=True)
class RTSTarget(LWLTarget):
    """Everything remembered about one target; the classifier's 50 samples of 15 × 26 cells are 40 MB beside LWL's 109 MB."""

    classifier: Tensor
    """(1, D, 4, 4) target model of the classifier."""
    samples: SampleMemory
    """What it was fitted to."""
    found_pos: Pair
    """Centre (row, column) by the classifier, or by the mask where there is one."""
    found_size: Pair
    """(h, w) that belongs to it."""
    found_base: Pair
    """(h, w) in pixels of the classifier's crops at the first frame."""
    scales: ScaleHistory
    """Of the search regions in which the target was found."""
    mask_lost: bool
    """Whether the last frame's mask was empty."""
    mask_small: bool
    """Whether it had too little probability to say where the target is."""
    score_lost: bool = False
    """Whether the classifier did not find the target in the last frame."""


class RTSTracker(LWLTracker[RTSTarget]):
    """LWL's online loop with a classifier."""

    session_type = Session[RTSTarget]
    target_type = RTSTarget
    config: RTSConfig

    def __init__(
        self,
        name: str,
        config: RTSConfig,
        net: RTSNet,
        box_network: STANet | None,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        """``box_network``: None where every first frame comes with a mask."""
        super().__init__(name, config, net, device, seed)
        self.box_to_mask = None if box_network is None else BoxToMask(box_network, device, config.box_to_mask)

    # --- first frame (§9.2) ------------------------------------------------------------------------------------------

    def _shape(self, frame: np.ndarray, box: Box) -> np.ndarray:
        """The box network's mask; where it sees nothing in the box, the ellipse."""
        if self.box_to_mask is None:
            raise InputError(
                f"{self.name} needs the weights {self.config.box_network!r} to start from a box, which are not here (see "
                "`keepsight weights list`); get them, or give mask="
            )
        mask: np.ndarray = (self.box_to_mask.logits(frame, box) > 0).cpu().numpy()
        return mask if mask.any() else super()._shape(frame, box)

    def _learn_more(self, frame: np.ndarray, pos: Pair, size: Pair, scale: float, label: Tensor) -> dict[str, Any]:
        cfg, (height, width) = self.config.classifier, self.config.sample_size
        wide = initial_scale(size, cfg.search_area_scale, self.side)
        base_size = size[0] / wide, size[1] / wide
        view = View((float(round(pos[0])), float(round(pos[1]))), wide, width, height)
        extent = wide * height, wide * width
        patch = sample_patch(
            frame, view.pos, extent, (height, width), self.first_crop, device=self.device, dtype=self.dtype
        )
        random = RandomSource.seeded(self.seed, 0)  # the published augmentation draws nothing
        transforms = make_transforms(cfg.augmentation, (height, width), random.uniform)
        crops = normalise_bgr(apply_transforms(patch.pixels, transforms, (height, width)))  # (I, 3, h, w)
        maps = torch.cat([self.net.classifier_features(self.net.extract(c[None])["layer3"]) for c in crops])
        samples = Samples.from_maps(maps)
        box = torch.tensor(view.to_crop(pos, size), dtype=self.dtype, device=self.device)
        start = self.net.classifier.filter_initializer(maps[:, None], box.expand(len(maps), 1, 4))
        label_map = self._label(pos, view, base_size, samples.size)
        labels = label_map.expand(len(maps), *label_map.shape)  # (I, 1, H', W'): the mirrored target stays where it is
        fit = self.net.classifier.filter_optimizer(start, samples, labels, None, cfg.init_iterations)
        small = float(label.count_nonzero()) <= self.config.min_mask_area
        return {
            "classifier": fit.weights, "samples": SampleMemory.start(cfg.memory, samples, labels), "found_pos": pos,
            "found_size": size, "found_base": base_size, "scales": ScaleHistory([scale]), "mask_lost": small,
            "mask_small": small,
        }  # fmt: skip

    def _label(self, pos: Pair, view: View, base_size: Pair, cells: tuple[int, int]) -> Tensor:
        """Gaussian label (1, H', W') of a target at ``pos`` in the crop ``view``, whose features have so many ``cells``; §3.2."""
        crop = self.config.sample_size
        per_pixel = [c / s for c, s in zip(cells, crop, strict=True)]
        sigma = self.config.classifier.sigma_factor * math.sqrt(math.prod(per_pixel) * math.prod(base_size))
        centre = [c * ((p - v) / (view.scale * s) + 0.5) for c, s, p, v in zip(cells, crop, pos, view.pos, strict=True)]
        more = 1 - self.net.classifier.filter_size % 2
        centres = torch.tensor([centre], dtype=self.dtype, device=self.device)
        return gaussian_label(centres, (cells[0] + more, cells[1] + more), sigma)

    # --- every later frame (§9.3) ------------------------------------------------------------------------------------

    def _update(self, target: RTSTarget) -> tuple[bool, str]:
        cfg = self.config
        if target.seen is None:
            return False, "the first frame's mask was learnt already"
        if target.frame < cfg.init_phase:
            self._remember(target, target.seen)
            self._fit(target)
            return True, "one of the first frames"
        if target.mask_lost or target.score_lost:
            return False, "target lost"
        return super()._update(target)

    def _reposition(self, target: RTSTarget) -> None:
        if target.score_lost:  # a mask alone does not move the search region: trust_seg_when_no_clf is off
            target.scale = target.scales.rescaled(target.scale, self.config.rescale)
            return
        where = target.found_pos, target.found_size
        if not (target.mask_lost or target.mask_small):
            where = spread(target.probability) or (target.pos, target.size)
        self._move(target, *where)
        target.scales.found(target.scale, self.config.rescale)

    def _fused(self, target: RTSTarget, encoding: Tensor, layer3: Tensor) -> tuple[Tensor, Scored]:
        samples = Samples.from_maps(self.net.classifier_features(layer3))
        scores = apply_filter(samples, target.classifier)  # (1, 1, H', W')
        return self.net.fuse(encoding, scores), Scored(scores[0, 0], samples)

    def _conclude(self, target: RTSTarget, look: Look, mask: Tensor) -> Outcome:
        """Flags by the target's own mask; box and presence by the one that is left if others compete for its pixels."""
        assert look.scored is not None  # for the type checker
        cfg, scored = self.config, look.scored
        own = look.logits > 0
        target.mask_lost = not bool(own.any())
        target.mask_small = float(torch.sigmoid(look.logits).sum()) <= cfg.min_mask_area
        trusted = not (target.mask_lost or target.mask_small)
        score, cell = peak(scored.scores.cpu().numpy())
        target.score_lost = not score >= cfg.classifier.not_found  # NaN is no score
        frame_size = look.logits.shape[0], look.logits.shape[1]
        if trusted:
            box = tight_box(own.cpu().numpy())
            assert box is not None  # for the type checker: not lost
            target.found_pos, target.found_size = box_to_state(box)
        elif not target.score_lost:
            target.found_pos, target.found_size = self._at_peak(
                target, look.view, cell, scored.scores.shape, frame_size
            )
        if not target.score_lost:
            self._fit_classifier(target, look.view, scored.samples)

        box = tight_box(mask.cpu().numpy()) if trusted else None
        pos, size = (target.found_pos, target.found_size) if box is None else box_to_state(box)
        presence = presence_from_score(score, cfg.classifier.not_found)
        if box is not None:
            return Outcome(pos, size, score, max(presence, confidence(target.probability, mask)), NORMAL, False, "")
        flag = NOT_FOUND if target.score_lost else UNCERTAIN
        return Outcome(pos, size, score, presence, flag, False, "")

    def _at_peak(
        self, target: RTSTarget, view: View, cell: tuple[int, int], cells: Sequence[int], frame_size: tuple[int, int]
    ) -> tuple[Pair, Pair]:
        """Place and size of the target by the classifier alone, whose peak is at ``cell`` of (H', W') ``cells``."""
        even = 1 - self.net.classifier.filter_size % 2
        row, col = (
            p + (at - (n - 1) / 2) * side / (n - even) * view.scale
            for p, at, n, side in zip(view.pos, cell, cells, self.config.sample_size, strict=True)
        )
        low, high = scale_limits(target.found_base, frame_size)
        scale = max(low, min(view.scale, high))
        pos = clamp_position((row, col), target.found_size, frame_size)
        return pos, (target.found_base[0] * scale, target.found_base[1] * scale)

    def _fit_classifier(self, target: RTSTarget, view: View, samples: Samples) -> None:
        cfg = self.config.classifier
        label = self._label(target.found_pos, view, target.found_base, samples.size)
        target.samples.insert(samples.cells[0, 0], label)
        if target.frame < cfg.init_phase or (target.frame - 1) % cfg.train_skipping == 0:
            kept, labels, weights = target.samples.filled()
            target.classifier = self.net.classifier.filter_optimizer(
                target.classifier, kept, labels, weights, cfg.update_iterations
            ).weights
