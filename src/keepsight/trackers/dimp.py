"""DiMP, PrDiMP and SuperDiMP online; spec/dimp-atom.md §7.

Read top to bottom: the settings, what is remembered about a target, the first frame (§7.1, 7.3), every later frame (§7.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state, state_to_box
from ..errors import InputError, nearest_names
from ..images import (
    AugmentationConfig,
    CropConfig,
    apply_transforms,
    expanded_size,
    make_transforms,
    normalise,
    sample_patch,
)
from ..models.dimp import STRIDE, DiMPNet
from ..models.overlap import BackboneFeatures
from ..nn.correlation import Samples, correlate
from ..nn.iou_net import Modulation
from ..nn.target_filter import gaussian_label, softmax2d
from ..online.densities import Densities, box_densities
from ..online.first_frame import augmented_samples
from ..online.localise import HARD_NEGATIVE, NOT_FOUND, UNCERTAIN, Localisation, LocalisationConfig, localise
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.refine import RefineConfig
from ..online.search import View, centring_offset, clamp_position, initial_scale
from ..online.state import Candidate
from .base import Outcome, Session, presence_from_score
from .overlap import WIDE_BLURS, WIDE_ROTATIONS, OverlapTarget, OverlapTracker


@dataclass(frozen=True)
class DiMPConfig:
    """Settings of the family; the defaults are dimp18's and dimp50's (spec §7.9)."""

    weights: str = "dimp18"
    """Name of the published weights."""
    sample_size: int = 288
    """Side of the square crop in pixels; a multiple of 32."""
    search_area_scale: float = 5.0
    """Side of the search region in target sizes (geometric mean)."""
    crop: CropConfig = CropConfig()
    """How the search region becomes a crop."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the first frame."""
    memory: MemoryConfig = MemoryConfig()
    """Sample memory."""
    localisation: LocalisationConfig = LocalisationConfig()
    """Decision table."""
    refine: RefineConfig = RefineConfig()
    """Box refinement."""
    init_iterations: int = 10
    """Optimiser iterations on the first frame."""
    update_iterations: int = 2
    """Iterations at every scheduled update."""
    hard_negative_iterations: int = 1
    """Iterations after a frame with a distractor."""
    hard_negative_score: float = -math.inf
    """A frame with a distractor and a maximum below this is remembered but not learnt from at once."""
    low_score_threshold: float | None = None
    """A maximum below this gets ``low_score_iterations`` (unless a hard negative); None: never."""
    low_score_iterations: int = 0
    """Iterations after a frame with a low score."""
    train_skipping: int = 20
    """An update is scheduled every this many frames."""
    sample_interval: int = 1
    """A frame is remembered every this many frames (those with a distractor always are)."""
    modulation_from_augmented: bool = False
    """Average the overlap predictor's modulation over augmented samples too ('iounet_augmentation')."""
    update_scale_when_uncertain: bool = True
    """Let the refined size change the search region's scale in ``uncertain`` frames."""
    keep_half_pixel_bias: bool = True
    """Quirk Q2: each refinement moves the box by half a crop pixel; published settings were tuned with it."""
    keep_stale_position: bool = True
    """Quirk Q7: if every refined box is rejected, the position of an earlier refinement comes back."""
    presence_midpoint: float = 0.25
    """Score at which ``Result.presence`` is 0.5; not a published parameter."""

    def __post_init__(self) -> None:
        if self.sample_size % 32 or self.sample_size <= 0:
            raise InputError(f"sample_size is {self.sample_size}; expected a positive multiple of 32 pixels")
        if self.crop.border_mode == "inside":
            raise InputError(
                "border_mode 'inside' is not defined for the first frame's crop; use 'inside_major' or 'replicate'"
            )
        if self.train_skipping < 1 or self.sample_interval < 1:
            raise InputError("train_skipping and sample_interval count frames; expected at least 1")


def presets() -> dict[str, DiMPConfig]:
    """The published settings by name; spec §7.9."""
    dimp = DiMPConfig()
    relative = RefineConfig(space="relative", iterations=10, step=2.5e-3)
    prdimp = replace(
        dimp, weights="prdimp18", refine=relative, presence_midpoint=0.04,
        localisation=LocalisationConfig(score_preprocess="softmax", target_not_found=0.04),
    )  # fmt: skip
    inside_crop = CropConfig("inside_major", 1.5)
    large = {"sample_size": 352, "search_area_scale": 6.0, "crop": inside_crop}
    wide = AugmentationConfig(rotate=WIDE_ROTATIONS, blur=WIDE_BLURS, dropout=(7, 0.2))
    vot = LocalisationConfig(
        target_not_found=0.0, distractor=100.0, hard_negative=0.45, displacement_scale=0.7, window=True,
        window_hard_negatives=True,
    )  # fmt: skip
    vot18 = replace(
        dimp, sample_size=224, search_area_scale=4.0, augmentation=wide, localisation=vot, train_skipping=10,
        memory=MemoryConfig(250, 0.0075, 0.02, 0.0), init_iterations=25, update_iterations=3, hard_negative_iterations=3,
    )  # fmt: skip
    vot19 = replace(
        dimp, weights="dimp50", sample_size=256, search_area_scale=4.5, localisation=vot, train_skipping=10,
        augmentation=AugmentationConfig(
            rotate=(-5, 10, -30, 60), blur=((2, 0.2), (1, 3)), relativeshift=((0.6, 0.6), (-0.6, -0.6)), dropout=(3, 0.2),
            expansion_factor=1.4,
        ),
        memory=MemoryConfig(100, 0.0075, 0.02, 0.0), init_iterations=15, update_iterations=2, hard_negative_iterations=2,
        refine=RefineConfig(iterations=3),
    )  # fmt: skip
    return {
        "dimp18": dimp,
        "dimp50": replace(dimp, weights="dimp50"),
        "prdimp18": prdimp,
        "prdimp50": replace(prdimp, weights="prdimp50", **large),  # type: ignore[arg-type]
        "superdimp": replace(dimp, weights="super_dimp", refine=relative, **large),  # type: ignore[arg-type]
        "superdimp_simple": replace(dimp, weights="super_dimp_simple", refine=relative, **large),  # type: ignore[arg-type]
        "dimp18_vot18": vot18,
        "dimp50_vot18": replace(vot18, weights="dimp50"),
        "dimp50_vot19": vot19,
        "prdimp50_vot18": replace(
            vot18, weights="prdimp50", memory=MemoryConfig(250, 0.01, 0.02, 0.0), train_skipping=1, update_iterations=1,
            hard_negative_iterations=1, refine=relative,
            localisation=replace(vot, distractor=99999.0, hard_negative=999999.0), crop=inside_crop,
        ),
    }  # fmt: skip


def preset(name: str) -> DiMPConfig:
    """One of :func:`presets`; :class:`InputError` names the nearest if there is none."""
    known = presets()
    if name not in known:
        raise InputError(f"no DiMP preset {name!r}; {nearest_names(name, known)}")
    return known[name]


@dataclass(kw_only=True)
class DiMPTarget(OverlapTarget):
    """Everything remembered about one target."""

    filter: Tensor
    """(1, D, k, k) target model."""
    memory: SampleMemory


@dataclass(frozen=True)
class _LastFrame:
    """What :meth:`DiMPTracker.densities` needs of the frame just tracked; not part of the state."""

    features: BackboneFeatures
    views: list[View]
    scores: Tensor
    """(N, H', W'), raw."""


DiMPTargetT = TypeVar("DiMPTargetT", bound=DiMPTarget)


class DiMPTracker(OverlapTracker[DiMPTargetT]):
    """The family's online loop around a :class:`DiMPNet`."""

    session_type: Any = Session[DiMPTarget]
    target_type: type[DiMPTarget] = DiMPTarget
    """What is remembered; a family that remembers more gives defaults for the rest."""

    def __init__(self, name: str, config: DiMPConfig, net: DiMPNet, device: torch.device, seed: int = 0) -> None:
        super().__init__(name, device, seed)
        self.config, self.net_config = config, net.config
        self.net = net.for_inference().to(device)
        self.dtype = next(net.parameters()).dtype
        self.cells = config.sample_size // STRIDE  # F, side of the classifier's features
        self.cell = config.sample_size / self.cells  # crop pixels per score cell
        self._last: _LastFrame | None = None

    # --- first frame (§7.1, 7.3, 7.7) --------------------------------------------------------------------------------

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[DiMPTargetT]:
        self._last = None
        return [self._learn(frame, box, self._random_source(i)) for i, box in enumerate(boxes)]

    def _learn(self, frame: np.ndarray, box: Box, random: RandomSource) -> DiMPTargetT:
        cfg, side = self.config, self.config.sample_size
        pos, size = box_to_state(box)
        scale = initial_scale(size, cfg.search_area_scale, side)
        view = View((float(round(pos[0])), float(round(pos[1]))), scale, side)  # the exact crop is not asked: quirk Q9

        # one expanded patch, every augmentation cut from it
        expanded = expanded_size((side, side), cfg.augmentation.expansion_factor)
        patch = sample_patch(
            frame, view.pos, [scale * e for e in expanded], expanded, CropConfig("replicate", None, cfg.crop.patch_arithmetic),
            device=self.device, dtype=self.dtype,
        )  # fmt: skip
        transforms = make_transforms(cfg.augmentation, (side, side), random.uniform)
        crops = normalise(apply_transforms(patch.pixels, transforms, (side, side)))  # (T, 3, Z, Z)
        features = self._in_batches(self.net.extract, crops)
        maps = self.net.classifier_features(features)  # (T, D, F, F)

        first = torch.tensor(view.to_crop(pos, size), dtype=self.dtype, device=self.device)
        maps, shifted, shifts = augmented_samples(maps, first, transforms, cfg.augmentation.dropout, random)
        boxes = shifted[:, None]  # (I, 1, 4)

        start = self.net.classifier.filter_initializer(maps[:, None], boxes)  # (1, D, k, k)
        samples = Samples.from_maps(maps)
        base_size = (size[0] / scale, size[1] / scale)
        labels = boxes if not self._dense_labels else self._labels(pos, view, base_size, shifts)
        fit = self.net.classifier.filter_optimizer(start, samples, labels, None, cfg.init_iterations)
        modulation = self._modulation(features, shifted, [t.kind for t in transforms])
        return self.target_type(  # type: ignore[return-value]
            pos=pos, size=size, base_size=base_size, scale=scale, frame=1, refined_pos=None, filter=fit.weights,
            memory=SampleMemory.start(cfg.memory, samples, labels), modulation3=modulation.level3,
            modulation4=modulation.level4, random=random,
        )  # fmt: skip

    def _modulation(self, features: BackboneFeatures, boxes: Tensor, kinds: list[str]) -> Modulation:
        """From the identity sample; with ``modulation_from_augmented`` averaged up to the first warped one (§7.8)."""
        count = 1
        if self.config.modulation_from_augmented:
            kept = ("identity", "translation", "fliplr", "flipud", "blur")
            count = next((i for i, kind in enumerate(kinds) if kind not in kept), len(kinds))
        rows = features[slice(0, count)]
        each = self.net.box_reference(rows, boxes[:count])
        return Modulation(each.level3.mean(0, keepdim=True), each.level4.mean(0, keepdim=True))

    # --- every later frame (§7.5) ------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[DiMPTargetT]) -> list[Outcome]:
        cfg, side = self.config, self.config.sample_size
        patches = []
        for target in targets:
            target.frame += 1
            offset = centring_offset(self.cells, self.net.classifier.filter_size, target.scale, side)
            centre = target.pos[0] + offset, target.pos[1] + offset
            patches.append(
                sample_patch(
                    frame,
                    centre,
                    (target.scale * side,) * 2,
                    (side, side),
                    cfg.crop,
                    device=self.device,
                    dtype=self.dtype,
                )
            )
        views = [View(p.position, p.scale, side) for p in patches]
        pixels = patches[0].pixels if len(patches) == 1 else torch.cat([p.pixels for p in patches])
        features = self._in_batches(self.net.extract, normalise(pixels))  # one pass for all targets
        maps = self.net.classifier_features(features)  # (N, D, F, F)
        filters = targets[0].filter if len(targets) == 1 else torch.cat([t.filter for t in targets])
        raw = correlate(maps, filters)  # (N, H', W')
        scores = self._preprocess(raw).cpu().numpy()

        outcomes = [
            self._follow(target, view, scores[i], maps[i], features[slice(i, i + 1)], frame.shape[:2])
            for i, (target, view) in enumerate(zip(targets, views, strict=True))
        ]
        self._last = _LastFrame(features, views, raw)
        self._observe(raw, outcomes)
        return outcomes

    def _follow(
        self,
        target: DiMPTargetT,
        view: View,
        scores: np.ndarray,
        maps: Tensor,
        features: BackboneFeatures,
        frame_size: tuple[int, int],
    ) -> Outcome:
        """Move one target to where its scores (H', W') say, refine its box, and learn from its ``maps`` (D, F, F)."""
        cfg = self.config
        where = self._localise(target, view, scores, features, frame_size)
        if where.flag != NOT_FOUND:
            moved = view.pos[0] + where.translation[0], view.pos[1] + where.translation[1]
            target.pos = clamp_position(moved, target.size, frame_size)
            self._refine(target, view, where.flag, features)
        updated, reason = self._update(target, view, maps, where.flag, where.max_score)
        if where.flag != NOT_FOUND and cfg.keep_stale_position and target.refined_pos is not None:
            target.pos = target.refined_pos
        presence = presence_from_score(self._confidence(target, where.max_score), cfg.presence_midpoint)
        candidates = self._candidates(target)
        return Outcome(
            target.pos, target.size, where.max_score, presence, where.flag, updated, reason, candidates=candidates
        )

    def _candidates(self, target: DiMPTargetT) -> tuple[Candidate, ...]:
        """What to say about the peaks of this frame."""
        return ()

    def _localise(
        self,
        target: DiMPTargetT,
        view: View,
        scores: np.ndarray,
        features: BackboneFeatures,
        frame_size: tuple[int, int],
    ) -> Localisation:
        """Where the scores (H', W') put the target."""
        return localise(
            scores, self.config.localisation, cell=self.cell, sample_scale=view.scale,
            sample_pos=view.pos, previous_pos=target.pos, target_size=target.size,
        )  # fmt: skip

    def _confidence(self, target: DiMPTargetT, score: float) -> float:
        """How sure the tracker is of a frame with this maximum: for the sample's weight, if memory keeps it, and presence."""
        return score

    def _observe(self, raw_scores: Tensor, outcomes: list[Outcome]) -> None:
        """Hook for tests and analysis: raw score maps (N, H', W') and outcomes of the frame just tracked."""

    @property
    def _softmax_reg(self) -> float | None:
        return self.net_config.softmax_reg

    def _preprocess(self, raw: Tensor) -> Tensor:
        kind = self.config.localisation.score_preprocess
        if kind == "softmax":
            return softmax2d(raw, self._softmax_reg)
        return torch.exp(raw) if kind == "exp" else raw

    # --- memory and target model (§7.7, 7.10) ------------------------------------------------------------------------

    def _update(self, target: DiMPTargetT, view: View, maps: Tensor, flag: str, score: float) -> tuple[bool, str]:
        cfg = self.config
        if flag in (NOT_FOUND, UNCERTAIN):
            return False, "target lost" if flag == NOT_FOUND else "location uncertain"
        hard = flag == HARD_NEGATIVE
        if hard or target.frame % cfg.sample_interval == 0:
            if self._dense_labels:
                label = self._labels(target.pos, view, target.base_size, [(0, 0)])[0]
            else:
                label = self._crop_box(target, view)[None]
            confidence = self._confidence(target, score)
            target.memory.insert(maps.permute(1, 2, 0).flatten(0, 1), label, hard_negative=hard, confidence=confidence)
        if hard and score < cfg.hard_negative_score:
            return False, "hard negative of low score"
        if hard:
            iterations, reason = cfg.hard_negative_iterations, "hard negative"
        elif cfg.low_score_threshold is not None and score < cfg.low_score_threshold:
            iterations, reason = cfg.low_score_iterations, "low score"
        elif (target.frame - 1) % cfg.train_skipping == 0:
            iterations, reason = cfg.update_iterations, "scheduled"
        else:
            return False, "not due"
        if iterations == 0:
            return False, f"{reason}, no iterations configured"
        samples, labels, weights = target.memory.filled()
        target.filter = self.net.classifier.filter_optimizer(
            target.filter, samples, labels, weights, iterations
        ).weights
        return True, reason

    @property
    def _dense_labels(self) -> bool:
        return self.net_config.optimiser == "simple"

    def _labels(
        self, pos: tuple[float, float], view: View, base_size: tuple[float, float], shifts: list[tuple[int, int]]
    ) -> Tensor:
        """Dense Gaussian labels (I, 1, H', W') of SuperDiMP-simple, one for each crop-pixel shift (row, column); §7.10."""
        cells, side = self.cells, self.config.sample_size
        sigma = cells / side * math.sqrt(base_size[0] * base_size[1]) / 4
        centre = [cells * ((p - v) / (view.scale * side) + 0.5) for p, v in zip(pos, view.pos, strict=True)]
        centres = torch.tensor(shifts, dtype=self.dtype, device=self.device) * (cells / side)
        centres = centres + torch.tensor(centre, dtype=self.dtype, device=self.device)  # (I, 2)
        size = cells + 1 - self.net.classifier.filter_size % 2
        return gaussian_label(centres, (size, size), sigma)[:, None]

    # --- densities (PrDiMP, supplement §4) ---------------------------------------------------------------------------

    @property
    def predicts_densities(self) -> bool:
        return self.net_config.optimiser == "prdimp"

    def densities(self) -> list[Densities]:
        """p(centre), p(box centre | size) and p(size | centre) of every target in the last frame.

        Raises :class:`InputError` for trackers that are not probabilistic and before the first ``update``.
        """
        if not self.predicts_densities:
            return super().densities()
        session = self._current()
        if self._last is None:
            raise InputError("no frame tracked yet; call update(frame) before densities()")
        last, found = self._last, []
        with torch.inference_mode():
            probabilities = softmax2d(last.scores, self._softmax_reg).double().cpu().numpy()
            for i, (target, view) in enumerate(zip(session.targets, last.views, strict=True)):
                scorer = self._scorer(target, last.features[slice(i, i + 1)])
                position, offsets, size, factors = box_densities(scorer.score, self._crop_box(target, view))
                probability = probabilities[i]
                rows, cols = probability.shape
                top, left = view.point_to_image(-STRIDE / 2, -STRIDE / 2)  # cell n lies at crop pixel 16 n
                region = Box(left, top, cols * STRIDE * view.scale, rows * STRIDE * view.scale)
                box = state_to_box(target.pos, target.size)
                found.append(Densities(probability / probability.sum(), region, position, offsets, size, factors, box))
        return found

    def _restored(self) -> None:
        self._last = None
