"""DiMP's target classifier: a linear filter, its first guess, and the optimisers that fit it online.

Bhat et al., "Learning discriminative model prediction for tracking" (ICCV 2019); Danelljan et al., "Probabilistic regression
for visual tracking" (CVPR 2020), supplement Algorithm 1; spec/dimp-atom.md §4. All optimisers are steepest descent with the
step length that minimises a local quadratic model; they differ in the residual and its curvature only. Every step is analytic.

Shapes: I samples of S sequences, D channels, features H × W, filter kh × kw, score maps H' × W'.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import xywh_to_corners
from ..errors import InputError
from .correlation import Samples, apply_adjoint, apply_filter, instance_l2_norm, score_size
from .resnet import BasicBlock
from .roi_pool import pool_corners

# --- feature head and initialiser (§4.1, §4.2) ---------------------------------------------------------------------------


class InstanceL2Norm(nn.Module):
    """Scales every sample to a mean square of scale²."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return instance_l2_norm(x, self.scale)


def feature_head(
    channels_in: int, channels_out: int, blocks: int, filter_size: int, normalise: bool = True, stride: int = 1
) -> nn.Sequential:
    """Residual blocks, a 3×3 convolution and the instance norm with σ = √(1 / (D·k·k)); keys are the positions in the list."""
    layers: list[nn.Module] = [BasicBlock(channels_in, channels_in) for _ in range(blocks)]
    layers.append(nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False))
    if normalise:
        layers.append(InstanceL2Norm(math.sqrt(1 / (channels_out * filter_size * filter_size))))
    head = nn.Sequential(*layers)
    for m in head.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, 0, math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels)))
    return head


class FilterInitialiser(nn.Module):
    """First guess of the filter: a convolution, pooled over the target box of every sample, averaged over samples; §4.2."""

    def __init__(
        self, channels: int, filter_size: int, stride: int, *, zero: bool = False, filter_norm: bool = False
    ) -> None:
        super().__init__()
        self.filter_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.filter_size, self.stride, self.filter_norm = filter_size, stride, filter_norm
        if self.filter_conv.bias is not None:  # it always is; the type does not say so
            nn.init.zeros_(self.filter_conv.bias)
        if zero:
            nn.init.zeros_(self.filter_conv.weight)
        else:
            nn.init.normal_(self.filter_conv.weight, 0, math.sqrt(2 / (9 * channels)))

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """``features`` (I, S, D, H, W), ``boxes`` (I, S, 4) xywh in crop pixels -> filter (S, D, k, k)."""
        images, sequences = features.shape[:2]
        maps = self.filter_conv(features.flatten(0, 1))  # (I·S, D, H, W)
        corners = xywh_to_corners(boxes).flatten(0, 1)[:, None]  # (I·S, 1, 4)
        size = (self.filter_size, self.filter_size)
        pooled = pool_corners(maps, corners, size, 1 / self.stride)[:, 0]  # (I·S, D, k, k)
        weights = pooled.view(images, sequences, *pooled.shape[1:]).mean(dim=0)
        return weights / weights[0].numel() if self.filter_norm else weights


# --- maps over the score grid (§4.4 to §4.6) -----------------------------------------------------------------------------


def score_centres(boxes: Tensor, filter_size: tuple[int, int], stride: int) -> Tensor:
    """Box centres (..., 4 xywh, crop pixels) -> (..., 2) as (row, column) on the score grid; even filters need no offset."""
    centre = (boxes[..., :2] + 0.5 * boxes[..., 2:]).flip(-1) / stride
    return centre - 0.5 * torch.tensor([k % 2 for k in filter_size], dtype=boxes.dtype, device=boxes.device)


def distances(centres: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Signed distances of every cell row and column from ``centres`` (..., 2): (..., H'), (..., W')."""
    rows = torch.arange(size[0], dtype=centres.dtype, device=centres.device)
    cols = torch.arange(size[1], dtype=centres.dtype, device=centres.device)
    return rows - centres[..., :1], cols - centres[..., 1:]


def gaussian_label(centres: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Unnormalised Gaussian exp(-d² / 2σ²) around ``centres`` (..., 2): (..., H', W')."""
    dy, dx = distances(centres, size)
    return torch.exp(-(dy**2) / (2 * sigma**2))[..., :, None] * torch.exp(-(dx**2) / (2 * sigma**2))[..., None, :]


@dataclass(frozen=True)
class DensityConfig:
    """PrDiMP's label density p over the score grid (§4.6); the values live only in a checkpoint's constructor."""

    sigma: float = 0.9
    """Standard deviation in cells; 0 is one-hot at the nearest cell."""
    normalise: bool = True
    """Divide by the sum over the grid."""
    uniform_weight: float = 0.0
    """Share ω of a uniform density."""
    shrink: float = 0.0
    """Final factor 1 - shrink."""
    threshold: float = 0.0
    """Values not above it are set to 0 before normalising."""


def label_density(centres: Tensor, size: tuple[int, int], config: DensityConfig) -> Tensor:
    """Density around ``centres`` (..., 2): (..., H', W'); §4.6."""
    dy, dx = distances(centres, size)
    if config.sigma == 0:
        onehot_y = F.one_hot(dy.abs().argmin(dim=-1), size[0]).to(dy.dtype)
        onehot_x = F.one_hot(dx.abs().argmin(dim=-1), size[1]).to(dx.dtype)
        density = onehot_y[..., :, None] * onehot_x[..., None, :]
    else:
        two_var = 2 * config.sigma**2
        density = (torch.exp(-(dy**2) / two_var) / (math.pi * two_var))[..., :, None]
        density = density * torch.exp(-(dx**2) / two_var)[..., None, :]
    density = density * (density > config.threshold)
    if config.normalise:
        density = density / (density.sum(dim=(-2, -1), keepdim=True) + 1e-8)
    uniform = config.uniform_weight / (size[0] * size[1])
    return (1 - config.shrink) * ((1 - config.uniform_weight) * density + uniform)


# --- steepest descent ----------------------------------------------------------------------------------------------------


class Objective(Protocol):
    """What an optimiser minimises, seen from the score maps (S, I, H', W')."""

    def linearise(self, scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Gradient by the scores (S, I, H', W'), and the curvature along a change of the scores: (S, I, H', W') -> (S,)."""

    def loss(self, scores: Tensor) -> Tensor:
        """Data term, summed (a scalar); the factor ½ is left out, as in the published logs."""


@dataclass(frozen=True)
class FitResult:
    """Outcome of :func:`steepest_descent`."""

    weights: Tensor
    """(S, D, kh, kw), or banks (S, M, D, kh, kw)"""
    losses: list[float]
    """Loss at every iterate, N + 1 numbers, if asked for; else empty."""
    iterates: list[Tensor]
    """Filters at every iterate, N + 1 tensors, if asked for; else empty."""


def steepest_descent(
    weights: Tensor,
    samples: Samples,
    objective: Objective,
    *,
    iterations: int,
    regularisation: Tensor,
    step_factor: Tensor | float = 1.0,
    alpha_eps: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    keep_iterates: bool = False,
) -> FitResult:
    """w ← w - τ·α·g with the α that minimises the quadratic model along g (§4.4); ``regularisation`` is λ of ½λ‖w‖².

    ``weights`` (S, D, kh, kw), or banks of M filters (S, M, D, kh, kw), which have one α together; then all score maps
    below are (S, I, M, H', W'). ``loss(scores, weights)`` is evaluated at every iterate when given.
    """
    kernel = (weights.shape[-2], weights.shape[-1])
    losses: list[float] = []
    iterates = [weights]
    scores = apply_filter(samples, weights)  # (S, I, H', W')
    for _ in range(iterations):
        if loss is not None:
            losses.append(float(loss(scores, weights).detach()))
        residual, curvature = objective.linearise(scores)
        gradient = apply_adjoint(samples, residual, kernel) + regularisation * weights  # (S, D, kh, kw)
        norm = gradient.square().flatten(1).sum(dim=1)  # (S,)
        change = apply_filter(samples, gradient)  # (S, I, H', W')
        denominator = curvature(change) + (regularisation + alpha_eps) * norm
        alpha = norm / denominator.clamp(min=1e-8)
        step = (step_factor * alpha).view(-1, *[1] * (weights.dim() - 1))
        weights, scores = weights - step * gradient, scores - step * change  # scores are linear in the filter
        if keep_iterates:
            iterates.append(weights)
    if loss is not None:
        losses.append(float(loss(scores, weights).detach()))
    return FitResult(weights, losses, iterates if keep_iterates else [])


@dataclass(frozen=True)
class GaussNewtonObjective:
    """½ Σ (q·(φ(s; m) - y))² with the Gauss-Newton curvature; DiMP, L2 and SuperDiMP-simple (§4.4, 4.5, 4.7)."""

    label: Tensor
    """y, (S, I, H', W')"""
    mask: Tensor
    """m in [0, 1]: 1 = regression on both sides, 0 = hinge (negative scores are free)."""
    weight: Tensor
    """q, root of the sample weight times the spatial weight."""
    bend: float | None = None
    """b of the smooth 'bentpar' activation; None is the published 'relu' kind."""
    flat_at_zero: bool = False
    """Derivative at s = 0 is m instead of ½(1 + m), as the L2 variant has it."""

    def activation(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """φ(s; m) and its derivative."""
        half_out, half_in = 0.5 * (1 - self.mask), 0.5 * (1 + self.mask)
        if self.bend is None:
            sign = torch.where(scores > 0, 1.0, -1.0).to(scores.dtype) if self.flat_at_zero else torch.sign(scores)
            return half_out * scores.abs() + half_in * scores, half_out * sign + half_in
        root = torch.sqrt(scores**2 + 4 * self.bend**2)
        return half_out * (root - 2 * self.bend) + half_in * scores, half_out * (scores / root) + half_in

    def linearise(self, scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        value, slope = self.activation(scores)
        slope = self.weight * slope
        residual = slope * (self.weight * (value - self.label))
        return residual, lambda change: (slope * change).square().sum(dim=(1, 2, 3))

    def loss(self, scores: Tensor) -> Tensor:
        return (self.weight * (self.activation(scores)[0] - self.label)).square().sum()


@dataclass(frozen=True)
class NewtonObjective:
    """Σ γ·(ln Σ eˢ - Σ p·s): KL divergence to the label density, with its Hessian as curvature; supplement Algorithm 1 (§4.6)."""

    density: Tensor
    """p, (S, I, H', W')"""
    sample_weight: Tensor
    """γ, (S, I)"""
    softmax_reg: float | None = None
    """Logit of an extra outcome 'nowhere' in the softmax, if any."""

    def linearise(self, scores: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        prob = softmax2d(scores, self.softmax_reg)
        gamma = self.sample_weight[..., None, None]

        def curvature(change: Tensor) -> Tensor:
            mean = (prob * change).sum(dim=(2, 3), keepdim=True)
            along = (prob * change * (change - mean)).sum(dim=(2, 3))  # vᵀHv, (S, I)
            return (self.sample_weight * along.clamp(min=0)).sum(dim=1)

        return gamma * (prob - self.density), curvature

    def loss(self, scores: Tensor) -> Tensor:
        flat = _with_extra_logit(scores, self.softmax_reg)
        per_sample = torch.logsumexp(flat, dim=-1) - (self.density * scores).sum(dim=(2, 3))
        return (self.sample_weight * per_sample).sum()


def softmax2d(scores: Tensor, softmax_reg: float | None = None) -> Tensor:
    """Softmax over the last two axes; the probability of the extra logit ``softmax_reg`` is dropped."""
    flat = torch.softmax(_with_extra_logit(scores, softmax_reg), dim=-1)
    return flat[..., : scores.shape[-2] * scores.shape[-1]].view_as(scores)


def _with_extra_logit(scores: Tensor, softmax_reg: float | None) -> Tensor:
    flat = scores.flatten(-2)
    return flat if softmax_reg is None else torch.cat((flat, torch.full_like(flat[..., :1], softmax_reg)), dim=-1)


# --- the four optimisers, with the published parameter names -------------------------------------------------------------


def _weights_or_even(sample_weight: Tensor | None, samples: Samples) -> Tensor:
    """γ as (S, I): given as (I, S) or (I,), else 1/I each."""
    cells = samples.cells
    if sample_weight is None:
        return cells.new_full(cells.shape[:2], 1 / samples.count)
    if sample_weight.dim() == 1:
        sample_weight = sample_weight[:, None]
    return sample_weight.to(cells.dtype).T.expand(cells.shape[:2])


class FilterOptimiser(nn.Module, ABC):
    """Common call of the optimisers.

    ``forward(weights, samples, target, sample_weight, iterations)``: ``weights`` (S, D, kh, kw), ``target`` the boxes (I, S, 4)
    xywh in crop pixels (the dense label (I, S, H', W') for :class:`SimpleOptimiser`), ``sample_weight`` (I, S) or (I,) or None
    for 1/I. Returns a :class:`FitResult`.
    """

    stride: int

    @abstractmethod
    def objective(
        self, samples: Samples, target: Tensor, sample_weight: Tensor | None, kernel: tuple[int, int]
    ) -> Objective:
        """What is minimised, for these samples and targets and a filter of size ``kernel``."""

    @abstractmethod
    def regularisation(self) -> Tensor:
        """λ of ½λ‖w‖²."""

    def step(self) -> tuple[Tensor | float, float]:
        """(step factor τ, ε of the denominator)."""
        return 1.0, 0.0

    def reported_loss(self, objective: Objective, scores: Tensor, weights: Tensor) -> Tensor:
        """The number the published code logs; §4.4."""
        return (objective.loss(scores) + self.regularisation() * weights.square().sum()) / len(weights)

    def forward(
        self,
        weights: Tensor,
        samples: Samples,
        target: Tensor,
        sample_weight: Tensor | None = None,
        iterations: int = 5,
        *,
        with_losses: bool = False,
        keep_iterates: bool = False,
    ) -> FitResult:
        kernel = (weights.shape[-2], weights.shape[-1])
        objective = self.objective(samples, target, sample_weight, kernel)
        step_factor, alpha_eps = self.step()
        return steepest_descent(
            weights,
            samples,
            objective,
            iterations=iterations,
            regularisation=self.regularisation(),
            step_factor=step_factor,
            alpha_eps=alpha_eps,
            loss=(lambda s, w: self.reported_loss(objective, s, w)) if with_losses else None,
            keep_iterates=keep_iterates,
        )


class _LearnedSteps(FilterOptimiser):
    """The two learned numbers that DiMP, L2 and PrDiMP share, under their published names."""

    def __init__(
        self, stride: int, init_step_length: float, init_filter_reg: float, min_filter_reg: float, alpha_eps: float
    ) -> None:
        super().__init__()
        self.stride, self.min_filter_reg, self.alpha_eps = stride, min_filter_reg, alpha_eps
        self.log_step_length = nn.Parameter(torch.full((1,), math.log(init_step_length)))
        self.filter_reg = nn.Parameter(torch.full((1,), init_filter_reg))

    def regularisation(self) -> Tensor:
        return (self.filter_reg**2).clamp(min=self.min_filter_reg**2)

    def step(self) -> tuple[Tensor, float]:
        return torch.exp(self.log_step_length), self.alpha_eps


def _centres(samples: Samples, boxes: Tensor, kernel: tuple[int, int], stride: int) -> tuple[Tensor, tuple[int, int]]:
    """Target centres (S, I, 2) on the score grid and the grid's size."""
    boxes = boxes[:, None] if boxes.dim() == 2 else boxes
    return score_centres(boxes.transpose(0, 1).to(samples.cells.dtype), kernel, stride), score_size(
        samples.size, kernel
    )


class DiMPOptimiser(_LearnedSteps):
    """DiMP's Gauss-Newton steepest descent with learned label, mask and spatial weight; §4.4."""

    def __init__(
        self,
        *,
        stride: int = 16,
        init_step_length: float = 1.0,
        init_filter_reg: float = 1e-2,
        init_gauss_sigma: float = 1.0,
        num_dist_bins: int = 5,
        bin_displacement: float = 1.0,
        mask_init_factor: float = 4.0,
        score_act: str = "relu",
        act_param: float | None = None,
        min_filter_reg: float = 1e-3,
        mask_act: str = "sigmoid",
        alpha_eps: float = 0.0,
    ) -> None:
        super().__init__(stride, init_step_length, init_filter_reg, min_filter_reg, alpha_eps)
        if score_act not in ("relu", "bentpar"):
            raise InputError(f"score_act {score_act!r} is unknown; expected 'relu' or 'bentpar'")
        if mask_act not in ("sigmoid", "linear"):
            raise InputError(f"mask_act {mask_act!r} is unknown; expected 'sigmoid' or 'linear'")
        self.bins, self.displacement = num_dist_bins, bin_displacement
        self.bend = None if score_act == "relu" else (1.0 if act_param is None else act_param)
        d = torch.arange(num_dist_bins, dtype=torch.float32) * bin_displacement
        gauss = torch.zeros_like(d) if init_gauss_sigma == 0 else torch.exp(-0.5 * (d / init_gauss_sigma) ** 2)
        if init_gauss_sigma == 0:
            gauss[0] = 1
        self.label_map_predictor = _bin_map(gauss - gauss.min())
        linear_bias = 0.5 if mask_act == "linear" else 0.0
        mask = _bin_map(mask_init_factor * torch.tanh(2.0 - d) + linear_bias)
        self.target_mask_predictor = nn.Sequential(mask, *([nn.Sigmoid()] if mask_act == "sigmoid" else []))
        self.spatial_weight_predictor = _bin_map(torch.ones_like(d))

    def maps(self, centres: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Label y, mask m and spatial weight v around ``centres`` (..., 2): (..., H', W') each."""
        dy, dx = distances(centres, size)
        rho = torch.sqrt(dy[..., :, None] ** 2 + dx[..., None, :] ** 2) / self.displacement  # (..., H', W')
        # §4.4 spreads each cell over two bins and weighs them by a 1×1 convolution: linear interpolation in its weights,
        # constant beyond the last bin
        rho = rho.clamp(max=self.bins - 1)
        low = rho.floor().clamp(max=max(self.bins - 2, 0))
        index, share = low.long(), rho - low
        high = (index + 1).clamp(max=self.bins - 1)

        def interpolate(conv: nn.Conv2d) -> Tensor:
            table = conv.weight.flatten()  # (bins,)
            return torch.lerp(table[index], table[high], share)  # (..., H', W')

        mask, *activation = self.target_mask_predictor
        m = interpolate(mask)  # type: ignore[arg-type]
        for function in activation:
            m = function(m)
        return interpolate(self.label_map_predictor), m, interpolate(self.spatial_weight_predictor)

    def objective(
        self, samples: Samples, target: Tensor, sample_weight: Tensor | None, kernel: tuple[int, int]
    ) -> GaussNewtonObjective:
        label, mask, weight = self.maps(*_centres(samples, target, kernel, self.stride))
        gamma = _weights_or_even(sample_weight, samples)[..., None, None]
        return GaussNewtonObjective(label, mask, gamma.sqrt() * weight, self.bend)


def _bin_map(values: Tensor) -> nn.Conv2d:
    """A function of the distance: one value for each bin, as a 1×1 convolution over the bins."""
    conv = nn.Conv2d(len(values), 1, 1, bias=False)
    conv.weight.data = values.view(1, -1, 1, 1).clone()
    return conv


class L2Optimiser(_LearnedSteps):
    """DiMP's ablation with a fixed Gaussian label and a plain hinge; §4.5. No published checkpoint."""

    def __init__(
        self,
        *,
        stride: int = 16,
        init_step_length: float = 1.0,
        gauss_sigma: float = 1.0,
        hinge_threshold: float = -999.0,
        init_filter_reg: float = 1e-2,
        min_filter_reg: float = 1e-3,
        alpha_eps: float = 0.0,
    ) -> None:
        super().__init__(stride, init_step_length, init_filter_reg, min_filter_reg, alpha_eps)
        self.sigma, self.hinge_threshold = gauss_sigma, hinge_threshold

    def objective(
        self, samples: Samples, target: Tensor, sample_weight: Tensor | None, kernel: tuple[int, int]
    ) -> GaussNewtonObjective:
        centres, size = _centres(samples, target, kernel, self.stride)
        label = gaussian_label(centres, size, self.sigma)
        mask = (label > self.hinge_threshold).to(label.dtype)
        gamma = _weights_or_even(sample_weight, samples)[..., None, None]
        return GaussNewtonObjective(label * mask, mask, gamma.sqrt(), flat_at_zero=True)


class PrDiMPOptimiser(_LearnedSteps):
    """PrDiMP's Newton steepest descent on the KL divergence to a label density; §4.6."""

    def __init__(
        self,
        *,
        stride: int = 16,
        init_step_length: float = 1.0,
        init_filter_reg: float = 1e-2,
        min_filter_reg: float = 1e-3,
        alpha_eps: float = 0.0,
        softmax_reg: float | None = None,
        density: DensityConfig = DensityConfig(),
    ) -> None:
        super().__init__(stride, init_step_length, init_filter_reg, min_filter_reg, alpha_eps)
        self.density, self.softmax_reg = density, softmax_reg

    def objective(
        self, samples: Samples, target: Tensor, sample_weight: Tensor | None, kernel: tuple[int, int]
    ) -> NewtonObjective:
        density = label_density(*_centres(samples, target, kernel, self.stride), self.density)
        return NewtonObjective(density, _weights_or_even(sample_weight, samples), self.softmax_reg)


class RidgeResiduals(nn.Module):
    """Holds the learned λ of the residual λ·w under its published key."""

    def __init__(self, init_filter_reg: float) -> None:
        super().__init__()
        self.filter_reg = nn.Parameter(torch.full((1,), init_filter_reg))


class SimpleOptimiser(FilterOptimiser):
    """SuperDiMP-simple's hinge residuals against a given dense label, with unit steps; §4.7."""

    def __init__(
        self,
        *,
        stride: int = 16,
        init_filter_reg: float = 0.1,
        hinge_threshold: float = 0.05,
        activation_leak: float = 0.1,
        learned_reg: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.hinge_threshold, self.activation_leak = stride, hinge_threshold, activation_leak
        self.fixed_reg = None if learned_reg else init_filter_reg
        if learned_reg:
            self.residual_module = RidgeResiduals(init_filter_reg)

    def regularisation(self) -> Tensor:
        if self.fixed_reg is not None:
            return torch.tensor(
                self.fixed_reg**2, dtype=torch.float64
            )  # a scalar takes the others' precision and device
        return torch.square(self.residual_module.filter_reg)

    def objective(
        self, samples: Samples, target: Tensor, sample_weight: Tensor | None, kernel: tuple[int, int]
    ) -> GaussNewtonObjective:
        """``target`` is the dense label here: (I, S, H', W')."""
        label = target.transpose(0, 1).to(samples.cells.dtype)  # (S, I, H', W')
        mask = ((label > self.hinge_threshold).to(label.dtype) + self.activation_leak).clamp(max=1)
        gamma = _weights_or_even(sample_weight, samples)[..., None, None]
        return GaussNewtonObjective(mask * label, mask, gamma.sqrt())

    def reported_loss(self, objective: Objective, scores: Tensor, weights: Tensor) -> Tensor:
        total = objective.loss(scores) + self.regularisation() * weights.square().sum()
        return total / (scores.numel() + weights.numel())
