"""ATOM online; Danelljan et al., "ATOM: accurate tracking by overlap maximization" (CVPR 2019); spec/dimp-atom.md §7.11.

Read top to bottom: the settings, what is remembered about a target, the first frame (joint fit of projection and filter, §3.2 of
the paper), every later frame. The target classifier has no weights of its own: all it knows it learns online, with
``nn/gauss_newton.py``. Boxes are refined as in DiMP (``overlap.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box, box_to_state, check_box
from ..errors import InputError, nearest_names
from ..images import (
    AugmentationConfig,
    CropConfig,
    Patch,
    apply_transforms,
    check_frame,
    expanded_size,
    make_transforms,
    sample_patch,
    sample_scales,
)
from ..models.atom import ABLATED_NETWORKS, STRIDE, AtomLiteNet, AtomNet
from ..nn.correlation import Samples
from ..nn.gauss_newton import (
    ClassifierTargets,
    DescentConfig,
    FilterProblem,
    Problem,
    SearchState,
    SolverConfig,
    TwoLayerProblem,
    Variables,
    classify,
    gradient_descent,
    minimise,
    project,
)
from ..nn.iou_net import Modulation
from ..nn.target_filter import gaussian_label
from ..online.first_frame import augmented_samples
from ..online.fourier import interpolation_matrix
from ..online.localise import (
    HARD_NEGATIVE,
    NORMAL,
    NOT_FOUND,
    UNCERTAIN,
    Localisation,
    LocalisationConfig,
    hann_window,
    localise,
    peak,
)
from ..online.memory import MemoryConfig, SampleMemory
from ..online.random import RandomSource
from ..online.refine import RefineConfig
from ..online.search import View, clamp_position, initial_scale, scale_limits
from .base import Outcome, Session, presence_from_score
from .overlap import WIDE_BLURS, WIDE_ROTATIONS, OverlapTarget, OverlapTracker

_AUGMENTATION = AugmentationConfig(rotate=WIDE_ROTATIONS, blur=WIDE_BLURS, dropout=(7, 0.2))


@dataclass(frozen=True)
class AtomConfig:
    """Settings of the family; the defaults are ATOM's (spec §7.9)."""

    weights: str = "atom"
    """Name of the weights."""
    sample_size: int = 288
    """Side of the square crop in pixels."""
    search_area_scale: float = 5.0
    """Side of the search region in target sizes (geometric mean)."""
    scale_factors: tuple[float, ...] = (1.0,)
    """Scales that are searched in every frame, relative to the last one."""
    crop: CropConfig = CropConfig()
    """How the search region becomes a crop."""
    augmentation: AugmentationConfig = _AUGMENTATION
    """Augmentation of the first frame: 30 samples."""
    kernel_size: int = 4
    """Side of the target filter in cells of stride 16."""
    projected_channels: int = 64
    """Channels behind the classifier's first layer."""
    projection_init: str = "randn"
    """Start of the first layer: ``randn``, or ``pca`` (principal directions of the first frame's features)."""
    filter_init: str = "randn"
    """Start of the filter: ``randn`` or ``zeros``."""
    response_bend: float | None = 0.05
    """α of the response's activation MLU in the residuals (detection is linear); None: no activation."""
    filter_reg: float = 0.1
    """Weight of the filter's regulariser."""
    projection_reg: float = 1e-4
    """Weight of the projection's regulariser."""
    label_sigma_factor: float = 0.25
    """Deviation of the Gaussian labels in target sizes (geometric mean)."""
    init_solver: SolverConfig = SolverConfig(6, 10, "fletcher_reeves", (0.1, 1e-4))
    """First frame: filter and projection together."""
    update_solver: SolverConfig = SolverConfig(1, 5, "polak_ribiere")
    """Every later update: the filter alone."""
    hard_negative_iterations: int = 5
    """Conjugate gradient iterations after a frame with a distractor (``update_descent`` makes its own number of steps)."""
    init_descent: DescentConfig | None = None
    """Gradient descent in place of ``init_solver`` (ablation)."""
    update_descent: DescentConfig | None = None
    """Gradient descent in place of ``update_solver`` (ablation)."""
    memory: MemoryConfig = MemoryConfig(size=250)
    """Sample memory."""
    train_skipping: int = 10
    """An update is scheduled every this many frames."""
    remember_doubtful: bool = False
    """Remember also frames in which the target was lost or uncertain, as the paper's text has it."""
    hard_negatives: bool = True
    """Remember a frame with a distractor at the higher rate, and learn from it at once."""
    localisation: LocalisationConfig = LocalisationConfig()
    """Decision table."""
    refine: RefineConfig | None = RefineConfig(step_control=True)
    """Box refinement; None: no overlap predictor, the size follows ``scale_factors`` alone."""
    classifier: bool = True
    """False: no target classifier, boxes are only refined from where they were (ablation). The score is then the best box's, and
    the target is never called lost."""
    reference: bool = True
    """False: the target's modulation is replaced by a constant of the same size ('iounet_not_use_reference', ablation)."""
    update_scale_when_uncertain: bool = True
    """Let the refined size change the search region's scale in ``uncertain`` frames."""
    nyquist_double: bool = True
    """Quirk Q10: the interpolation of the scores counts the highest frequency twice."""
    keep_half_pixel_bias: bool = True
    """Quirk Q2: each refinement moves the box by half a crop pixel; published settings were tuned with it."""
    use_crop_coordinates: bool = False
    """Use where the crop really was taken; False: quirk Q9, the position is taken for rounded and the scale for exact."""
    scale_in_translation: bool = False
    """Multiply the translation by the chosen scale factor; False: quirk Q11."""
    presence_midpoint: float = 0.25
    """Score at which ``Result.presence`` is 0.5; not a published parameter."""

    def __post_init__(self) -> None:
        if self.sample_size < 4 * STRIDE:
            raise InputError(f"sample_size is {self.sample_size}; expected at least {4 * STRIDE} pixels")
        if self.localisation.score_preprocess != "none":
            raise InputError(
                f"score_preprocess is {self.localisation.score_preprocess!r}; ATOM takes scores as they are"
            )
        if self.crop.border_mode != "replicate":
            raise InputError(f"border_mode is {self.crop.border_mode!r}; ATOM's first frame is defined for 'replicate'")
        if not self.scale_factors or not all(0 < f < math.inf for f in self.scale_factors):
            raise InputError(f"scale_factors is {self.scale_factors}; expected one or more finite numbers above 0")
        bend = 1.0 if self.response_bend is None else self.response_bend
        for name, value in (
            ("search_area_scale", self.search_area_scale), ("label_sigma_factor", self.label_sigma_factor),
            ("response_bend", bend), ("presence_midpoint", self.presence_midpoint),
        ):  # fmt: skip
            if not 0 < value < math.inf:
                raise InputError(f"{name} is {value}; expected a finite number above 0")
        for name, value in (("filter_reg", self.filter_reg), ("projection_reg", self.projection_reg)):
            if not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}; expected a finite number, at least 0")
        for name, count, least in (
            ("kernel_size", self.kernel_size, 1), ("projected_channels", self.projected_channels, 1),
            ("train_skipping", self.train_skipping, 1), ("hard_negative_iterations", self.hard_negative_iterations, 0),
        ):  # fmt: skip
            if not isinstance(count, int) or count < least:
                raise InputError(f"{name} is {count}; expected a whole number, at least {least}")
        for name, solver, count in (("init_solver", self.init_solver, 2), ("update_solver", self.update_solver, 1)):
            given = solver.preconditioner
            if given is not None and len(given) != count:
                raise InputError(f"{name} has a preconditioner for {len(given)} variables; it solves for {count}")
        for name, allowed in (("projection_init", ("randn", "pca")), ("filter_init", ("randn", "zeros"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown; expected one of {allowed}")
        if self.refine is None and not self.classifier:
            raise InputError(
                "without classifier and without box refinement nothing follows the target; keep one of them"
            )
        if self.update_solver.gauss_newton_steps > 1 and self.update_solver.forgetting is not None:
            raise InputError("directions are forgotten at every linearisation; forgetting needs gauss_newton_steps = 1")


def presets() -> dict[str, AtomConfig]:
    """The published settings, the paper's own, and the ablations of its Tables 1 and 2, by name; spec §7.9, §10."""
    atom = AtomConfig()
    relative = RefineConfig(space="relative", iterations=10, step_control=True)
    return {
        "atom": atom,
        "atom_prob_ml": replace(atom, weights="atom_prob_ml", refine=replace(relative, step=(2e-4, 1e-3))),
        "atom_gmm_sampl": replace(atom, weights="atom_gmm_sampl", refine=replace(relative, step=(1e-2, 5e-2))),
        "atom_vot": replace(
            atom, sample_size=224, search_area_scale=4.0, memory=MemoryConfig(250, 0.0075, 0.02, 0.0),
            localisation=LocalisationConfig(
                target_not_found=-1.0, distractor=100.0, hard_negative=0.3, displacement_scale=0.7, window=True,
                window_hard_negatives=True,  # §7.6: all VOT settings; §7.9 does not list it for ATOM
            ),
        ),
        # the paper where the published code differs (spec §10): Algorithm 1 as printed, every frame remembered at the plain rate,
        # relative box coordinates (with the steps that the code publishes for them, atom_gmm_sampl's)
        "atom_paper": replace(
            atom, init_solver=SolverConfig.paper(6, 10), update_solver=SolverConfig.paper(1, 5), remember_doubtful=True,
            memory=MemoryConfig(250, 0.01, 0.02, 0.0), refine=replace(relative, iterations=5, step=(1e-2, 5e-2), rescore=True),
        ),
        # Table 1: the overlap predictor; networks of the recipes of the same names
        **{name: replace(atom, weights=name) for name in ABLATED_NETWORKS},
        # descent's step is the longest that converged with random weights (2^-17 did not); trained ones were not at hand
        **_components("atom", atom, descent_step=2.0**-18),
    }  # fmt: skip


def lite_presets() -> dict[str, AtomConfig]:
    """The same loop on the default tracker's network (EfficientNet-Lite0), whose weights come with keepsight.

    Its geometry is centred: an odd filter on crops of 16 n + 1 pixels, and the positions and scales of the crops as they were cut
    (quirk Q3 remains: beside a target of more than twice the crop's resolution they are off by up to half a stride).
    """
    lite = AtomConfig(
        weights="dimp-lite", sample_size=289, kernel_size=5, refine=RefineConfig(space="relative", iterations=10, step=2.5e-3),
        keep_half_pixel_bias=False, use_crop_coordinates=True, scale_in_translation=True,
    )  # fmt: skip
    # of the powers of two that lower the loss on each of 29 real sequences the one with the lowest mean loss, for GD and GD++,
    # first frame and updates alike: benchmarks/atom_descent_steps.py
    return {"atom-lite": lite, **_components("atom-lite", lite, descent_step=2.0**-16)}


def _components(name: str, config: AtomConfig, descent_step: float) -> dict[str, AtomConfig]:
    """The paper's Table 2: what each component does, by leaving it out. Multi-scale is also a published setting (§7.9)."""
    return {
        f"{name}_multiscale": replace(config, scale_factors=tuple(1.02**n for n in range(-2, 3)), refine=None),
        f"{name}_no_classifier": replace(config, classifier=False),
        f"{name}_gd": _by_descent(config, 1, descent_step),
        f"{name}_gdpp": _by_descent(config, 5, descent_step),
        f"{name}_no_hard_negatives": replace(config, hard_negatives=False),
    }


def _by_descent(config: AtomConfig, factor: int, step: float) -> AtomConfig:
    """Gradient descent with ``factor`` times as many BackProp calls as the solvers make."""
    calls = [s.gauss_newton_steps * (1 + 2 * s.cg_iterations) for s in (config.init_solver, config.update_solver)]
    init, update = (DescentConfig(factor * count, step) for count in calls)
    return replace(config, init_descent=init, update_descent=update)


def preset(name: str) -> AtomConfig:
    """One of :func:`presets`; :class:`InputError` names the nearest if there is none."""
    known = presets()
    if name not in known:
        raise InputError(f"no ATOM preset {name!r}; {nearest_names(name, known)}")
    return known[name]


@dataclass(kw_only=True)
class AtomTarget(OverlapTarget):
    """Everything remembered about one target."""

    projection: Tensor
    """(C, D, 1, 1): the classifier's first layer, fixed after the first frame."""
    filter: Tensor
    """(1, C, k, k): its second layer."""
    memory: SampleMemory | None
    """Projected features and labels; None without classifier."""
    search: SearchState
    """What the solver keeps between updates."""


@dataclass(frozen=True)
class _FirstFrame:
    """What the first frame shows of one target."""

    pos: tuple[float, float]
    size: tuple[float, float]
    scale: float
    base_size: tuple[float, float]
    """As of :class:`AtomTarget`."""
    box: Tensor
    """(4,) xywh in crop pixels."""
    features: Any
    """The network's, of all T transforms, the identity first."""
    samples: Samples | None
    """The classifier's, of I samples; None without classifier."""
    labels: Tensor
    """(I, F, F)"""


class AtomTracker(OverlapTracker[AtomTarget]):
    """The online loop around an :class:`AtomNet`, or another network with its methods."""

    session_type = Session[AtomTarget]

    def __init__(
        self, name: str, config: AtomConfig, net: AtomNet | AtomLiteNet, device: torch.device, seed: int = 0
    ) -> None:
        super().__init__(name, device, seed)
        self.config, self.net_config = config, net.config
        self.net = net.for_inference().to(device)
        self.dtype = next(net.parameters()).dtype
        self.cells = net.cells(config.sample_size)  # F, side of the classifier's features
        self.even = config.kernel_size % 2 == 0
        # scores at every crop pixel: index m lies m - side / 2 crop pixels from the centre
        self.side = self.cells * STRIDE
        middle = self.cells / 2 if self.even else (self.cells - 1) / 2
        points = middle + (torch.arange(self.side, dtype=torch.float64) - self.side / 2) / STRIDE
        self.upsampling = interpolation_matrix(self.cells, points, config.nyquist_double).to(device, self.dtype)
        self.window: np.ndarray | None = None
        if config.localisation.window:
            line = np.roll(hann_window(self.side, centred=False), self.side // 2)
            self.window = np.outer(line, line).astype(np.float64 if self.dtype == torch.float64 else np.float32)

    @property
    def suits_one_thread(self) -> bool:
        return isinstance(self.net, AtomLiteNet)

    # --- first frame -------------------------------------------------------------------------------------------------

    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[AtomTarget]:
        return [self._learn(frame, box, self._random_source(i)) for i, box in enumerate(boxes)]

    def first_problem(self, frame: Any, box: Sequence[float]) -> tuple[TwoLayerProblem, Variables]:
        """What :meth:`init` solves, without solving it: the problem and its start (filter, projection). For experiments.

        Raises :class:`InputError` as ``init`` does, and if the settings have no target classifier.
        """
        image = check_frame(frame)
        checked, random = check_box(box, *image.shape[:2]), self._random_source(0)
        with torch.inference_mode():
            seen = self._see_first(image, checked, random)
            if seen.samples is None:
                raise InputError(f"{self.name} has no target classifier, so nothing is learnt from the first frame")
            return self._first_problem(seen.samples, seen.labels, random)

    def _learn(self, frame: np.ndarray, box: Box, random: RandomSource) -> AtomTarget:
        cfg = self.config
        seen = self._see_first(frame, box, random)
        projection = filters = torch.zeros(0, dtype=self.dtype, device=self.device)
        memory = None
        if seen.samples is not None:
            problem, start = self._first_problem(seen.samples, seen.labels, random)
            filters, projection = self._solve(problem, start, cfg.init_solver, cfg.init_descent)
            projected = replace(seen.samples, cells=project(seen.samples.cells, projection))
            memory = SampleMemory.start(cfg.memory, projected, seen.labels[:, None])
        modulation = self._reference(seen.features, seen.box)
        return AtomTarget(
            pos=seen.pos, size=seen.size, base_size=seen.base_size, scale=seen.scale, frame=1, refined_pos=seen.pos,
            projection=projection, filter=filters, memory=memory, search=SearchState(), modulation3=modulation.level3,
            modulation4=modulation.level4, random=random,
        )  # fmt: skip

    def _see_first(self, frame: np.ndarray, box: Box, random: RandomSource) -> _FirstFrame:
        """Crop the target and augment the crop."""
        cfg, side = self.config, self.config.sample_size
        pos, size = box_to_state(box)
        scale = initial_scale(size, cfg.search_area_scale, side)
        expanded = expanded_size((side, side), cfg.augmentation.expansion_factor)
        patch = sample_patch(
            frame, pos, [scale * e for e in expanded], expanded, cfg.crop, device=self.device, dtype=self.dtype
        )
        view = self._view(pos, scale, patch)
        transforms = make_transforms(cfg.augmentation, (side, side), random.uniform)
        features = self._in_batches(self.net.features, apply_transforms(patch.pixels, transforms, (side, side)))
        first = torch.tensor(view.to_crop(pos, size), dtype=self.dtype, device=self.device)
        base_size = size[0] / scale, size[1] / scale
        seen = _FirstFrame(pos, size, scale, base_size, first, features, None, torch.zeros(0))
        if not cfg.classifier:
            return seen
        maps = self.net.classifier_maps(features)  # (T, D, F, F)
        maps, _, shifts = augmented_samples(maps, first, transforms, cfg.augmentation.dropout, random)
        return replace(seen, samples=Samples.from_maps(maps), labels=self._labels(pos, view, base_size, shifts))

    def _first_problem(
        self, samples: Samples, labels: Tensor, random: RandomSource
    ) -> tuple[TwoLayerProblem, Variables]:
        """To fit filter (1, C, k, k) and projection (C, D, 1, 1) together to the augmented first frame; and where from."""
        cfg = self.config
        channels, kernel = samples.cells.shape[-1], cfg.kernel_size
        if cfg.projection_init == "pca":
            projection = principal_directions(samples.cells.flatten(0, 2), cfg.projected_channels)
        else:
            projection = random.normal(cfg.projected_channels, channels, 1, 1, deviation=1 / math.sqrt(channels))
        filters = torch.zeros(1, cfg.projected_channels, kernel, kernel)
        if cfg.filter_init == "randn":
            filters = random.normal(*filters.shape, deviation=1 / filters.numel())
        start = filters.to(labels), projection.to(labels)
        even = labels.new_full((len(labels),), 1 / len(labels))
        targets = ClassifierTargets(labels, even, cfg.response_bend)
        return TwoLayerProblem(samples, targets, (cfg.filter_reg, cfg.projection_reg)), start

    @staticmethod
    def _solve(
        problem: Problem,
        start: Variables,
        solver: SolverConfig,
        descent: DescentConfig | None,
        state: SearchState | None = None,
    ) -> Variables:
        if descent is not None:
            return gradient_descent(problem, start, descent).variables
        return minimise(problem, start, solver, state).variables

    def _reference(self, features: Any, box: Tensor) -> Modulation:
        """From the identity sample alone."""
        if self.config.refine is None:
            nothing = box.new_zeros(1, 0)
            return Modulation(nothing, nothing)
        modulation: Modulation = self.net.box_reference(features[slice(0, 1)], box[None])
        if self.config.reference:
            return modulation
        level3, level4 = (
            torch.full_like(m, float(m.norm()) / m.numel()) for m in (modulation.level3, modulation.level4)
        )
        return Modulation(level3, level4)

    def _view(self, pos: tuple[float, float], scale: float, patch: Patch) -> View:
        """Of the crop asked for at ``pos`` with ``scale``."""
        if self.config.use_crop_coordinates:
            return View(patch.position, patch.scale, self.config.sample_size)
        return View((float(round(pos[0])), float(round(pos[1]))), scale, self.config.sample_size)

    def _labels(
        self, pos: tuple[float, float], view: View, base_size: tuple[float, float], shifts: list[tuple[int, int]]
    ) -> Tensor:
        """Gaussians (I, F, F) around ``pos`` as seen in ``view``, moved by crop-pixel ``shifts`` (row, column)."""
        sigma = self.config.label_sigma_factor * math.sqrt(base_size[0] * base_size[1]) / STRIDE
        middle = self.cells / 2 if self.even else (self.cells - 1) / 2
        centre = [middle + (p - v) / (view.scale * STRIDE) for p, v in zip(pos, view.pos, strict=True)]
        moved = torch.tensor(shifts, dtype=self.dtype, device=self.device) / STRIDE  # (I, 2)
        centres = moved + torch.tensor(centre, dtype=self.dtype, device=self.device)
        return gaussian_label(centres, (self.cells, self.cells), sigma)

    # --- every later frame -------------------------------------------------------------------------------------------

    def _advance(self, frame: np.ndarray, targets: list[AtomTarget]) -> list[Outcome]:
        cfg, side = self.config, self.config.sample_size
        views, crops = [], []
        for target in targets:
            target.frame += 1
            scales = [target.scale * factor for factor in cfg.scale_factors]
            pixels, patches = sample_scales(
                frame, target.pos, scales, (side, side), cfg.crop, device=self.device, dtype=self.dtype
            )
            crops.append(pixels)
            views.append([self._view(target.pos, s, p) for s, p in zip(scales, patches, strict=True)])
        features = self._in_batches(self.net.features, torch.cat(crops))  # rows: targets × scales, in one pass
        projected, raw = self._classify(features, targets)
        outcomes, count = [], len(cfg.scale_factors)
        for i, target in enumerate(targets):
            where, chosen = self._localise(target, views[i], None if raw is None else raw[i])
            row = i * count + chosen
            cells = None if projected is None else projected[i, chosen]  # (H·W, C)
            seen = features[slice(row, row + 1)]
            outcomes.append(self._follow(target, views[i][chosen], where, chosen, cells, seen, frame.shape[:2]))
        if raw is not None:
            self._observe(raw, outcomes)
        return outcomes

    def _classify(self, features: Any, targets: list[AtomTarget]) -> tuple[Tensor | None, Tensor | None]:
        """Projected features (T, S, H·W, C) and scores (T, S, F, F) of T targets in S scales."""
        if not self.config.classifier:
            return None, None
        maps = self.net.classifier_maps(features).unflatten(0, (len(targets), -1))  # (T, S, D, F, F)
        samples = Samples.from_maps(maps.transpose(0, 1))  # (T, S, H·W, D)
        projections = torch.stack([t.projection.flatten(1) for t in targets])[:, None]  # (T, 1, C, D)
        projected = replace(samples, cells=samples.cells @ projections.transpose(2, 3))
        return projected.cells, classify(projected, torch.cat([t.filter for t in targets]))

    def _localise(self, target: AtomTarget, views: list[View], raw: Tensor | None) -> tuple[Localisation, int]:
        """Where the scores ``raw`` (S, F, F) put the target, and in which of the scales."""
        table, factors = self.config.localisation, self.config.scale_factors
        if raw is None:
            chosen = factors.index(min(factors, key=lambda f: abs(f - 1)))
            (row, col), (top, left) = target.pos, views[chosen].pos
            return Localisation((row - top, col - left), NORMAL, 0.0), chosen  # stay
        scores = (self.upsampling @ raw @ self.upsampling.T).cpu().numpy()  # (S, side, side), at crop pixels
        first = scores
        if self.window is not None:
            first = scores * self.window
            if not (table.advanced and table.window_hard_negatives):  # windowed for good, then the table as it is
                scores, table = first, replace(table, window=False)
        chosen = int(np.argmax([peak(s)[0] for s in first]))
        view, factor = views[chosen], factors[chosen]
        exact = self.config.scale_in_translation or not table.advanced
        where = localise(
            scores[chosen], table, cell=1.0, sample_scale=view.scale if exact else view.scale / factor, sample_pos=view.pos,
            previous_pos=view.pos, target_size=target.size, centre=(self.side / 2, self.side / 2), window=self.window,
        )  # fmt: skip
        return where, chosen

    def _follow(
        self,
        target: AtomTarget,
        view: View,
        where: Localisation,
        chosen: int,
        cells: Tensor | None,
        features: Any,
        frame_size: tuple[int, int],
    ) -> Outcome:
        """Move one target to where its scores say, refine its box, and learn from its projected ``cells`` (H·W, C)."""
        cfg, score = self.config, where.max_score
        if where.flag != NOT_FOUND:
            moved = view.pos[0] + where.translation[0], view.pos[1] + where.translation[1]
            target.pos = clamp_position(moved, target.size, frame_size)
            if cfg.refine is not None:
                values = self._refine(target, view, where.flag, features)
                score = score if cfg.classifier else float(values.max())
            else:
                low, high = scale_limits(target.base_size, frame_size)
                target.scale = min(max(target.scale * cfg.scale_factors[chosen], low), high)
                target.size = target.base_size[0] * target.scale, target.base_size[1] * target.scale
                target.refined_pos = target.pos = clamp_position(target.pos, target.size, frame_size)
        updated, reason = self._update(target, view, cells, where.flag)
        if where.flag != NOT_FOUND and target.refined_pos is not None:
            target.pos = target.refined_pos  # quirk Q7: of an earlier frame if all refined boxes were rejected
        return Outcome(
            target.pos,
            target.size,
            score,
            presence_from_score(score, cfg.presence_midpoint),
            where.flag,
            updated,
            reason,
        )

    def _observe(self, raw_scores: Tensor, outcomes: list[Outcome]) -> None:
        """Hook for tests and analysis: raw score maps (T, S, F, F) and outcomes of the frame just tracked."""

    def _update(self, target: AtomTarget, view: View, cells: Tensor | None, flag: str) -> tuple[bool, str]:
        """Remember the frame if it surely shows the target; improve the filter when due, whatever the frame shows."""
        cfg, memory = self.config, target.memory
        if memory is None or cells is None:
            return False, "no classifier"
        hard = flag == HARD_NEGATIVE and cfg.hard_negatives
        doubtful = flag in (NOT_FOUND, UNCERTAIN)
        if cfg.remember_doubtful or not doubtful:
            label = self._labels(target.pos, view, target.base_size, [(0, 0)])
            memory.insert(cells, label, hard_negative=hard)
        if hard:
            iterations, reason = cfg.hard_negative_iterations, "hard negative"
        elif (target.frame - 1) % cfg.train_skipping == 0:
            iterations, reason = cfg.update_solver.cg_iterations, "scheduled"
        elif doubtful:
            return False, "target lost" if flag == NOT_FOUND else "location uncertain"
        else:
            return False, "not due"
        if iterations == 0:
            return False, f"{reason}, no iterations configured"
        samples, labels, weights = memory.filled()
        problem = FilterProblem(
            samples, ClassifierTargets(labels[:, 0], weights[:, 0], cfg.response_bend), cfg.filter_reg
        )
        solver = replace(cfg.update_solver, cg_iterations=iterations)
        try:
            (target.filter,) = self._solve(problem, (target.filter,), solver, cfg.update_descent, target.search)
        except InputError as error:  # the filter stays as it was, and tracking goes on
            return False, f"{reason}, not solved: {error}"
        return True, reason


def principal_directions(vectors: Tensor, count: int) -> Tensor:
    """The ``count`` directions in which ``vectors`` (N, D) vary most, as a projection (count, D, 1, 1)."""
    if count > vectors.shape[1]:
        raise InputError(f"features of {vectors.shape[1]} channels have no {count} principal directions")
    centred = vectors - vectors.mean(dim=0)
    _, _, rows = torch.linalg.svd(centred.T @ centred)
    return rows[:count, :, None, None].contiguous()
