"""Gauss-Newton with conjugate gradients: how ATOM learns its target classifier while it tracks.

Danelljan et al., "ATOM" (CVPR 2019) §3.2, Algorithm 1; spec/dimp-atom.md §7.11. The problem is a sum of squares
L(w) = ‖r(w)‖². A Gauss-Newton step linearises the residuals at w, r(w + Δ) ≈ r + JΔ, and solves JᵀJ Δ = -Jᵀr by a few conjugate
gradient iterations from Δ = 0. :func:`minimise` is general; a problem says how it linearises:

* :class:`AutogradProblem`: any residual function, products by two backward passes, as the paper has it.
* :class:`FilterProblem`, :class:`TwoLayerProblem`: the target classifier, products in closed form, several times faster.

Shapes: I samples of one target, D channels of their features, C of the projected ones, features H × W, filter kh × kw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, nearest_names
from .correlation import Samples, apply_adjoint, apply_adjoint_to_cells, apply_filter

Variables = tuple[Tensor, ...]
"""One or several tensors that are optimised together; inner products are sums over all of them."""

DIRECTIONS = ("fletcher_reeves", "polak_ribiere")


class Linearised(Protocol):
    """The problem around one point: r(w + Δ) ≈ r + JΔ."""

    @property
    def loss(self) -> Tensor:
        """‖r‖², a scalar."""

    def gradient(self) -> Variables:
        """Jᵀr, which is half of the loss's gradient."""

    def product(self, direction: Variables) -> Variables:
        """JᵀJ times ``direction``."""


class Problem(Protocol):
    """Minimise ‖r(w)‖²."""

    def linearise(self, variables: Variables) -> Linearised:
        """The problem around ``variables``."""


# --- the solver ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SolverConfig:
    """How a problem is solved; the defaults are those of ATOM's updates (spec §7.9, §7.11)."""

    gauss_newton_steps: int = 1
    """N_GN: linearisations."""
    cg_iterations: int = 5
    """N_CG: conjugate gradient iterations after each of them."""
    direction: str = "polak_ribiere"
    """Formula of β: ``fletcher_reeves`` ρ / ρ', or ``polak_ribiere`` (ρ - ⟨r', z⟩) / ρ', which is never below 0."""
    preconditioner: tuple[float, ...] | None = None
    """One positive number for each variable, by which residuals are divided (a diagonal preconditioner); None: plain."""
    standard_alpha: bool = True
    """Step length ρ / ⟨p, Ap⟩; False: ⟨p, r⟩ / ⟨p, Ap⟩, which also holds for directions kept from an earlier call."""
    forgetting: float | None = None
    """Factor in (0, 1] by which the search direction of the last call counts in the next (it divides the stored ρ); None:
    every call starts afresh. A Gauss-Newton step with several linearisations always starts afresh."""
    tolerance: float = 0.0
    """Stop the iterations when ρ, the squared norm of the residual, is at most this share of the first one; with 0 they
    stop when only rounding is left of it."""

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction {self.direction!r} is unknown; {nearest_names(self.direction, DIRECTIONS)}")
        if self.gauss_newton_steps < 0 or self.cg_iterations < 0:
            raise InputError(
                f"{self.gauss_newton_steps} Gauss-Newton steps of {self.cg_iterations} iterations; expected 0 or more"
            )
        if self.preconditioner is not None and not all(0 < p < math.inf for p in self.preconditioner):
            raise InputError(f"preconditioner is {self.preconditioner}; expected numbers above 0")
        if self.forgetting is not None and not 0 < self.forgetting <= 1:
            raise InputError(f"forgetting is {self.forgetting}; expected a factor in (0, 1], or None")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"tolerance is {self.tolerance}; expected a share in [0, 1)")

    @staticmethod
    def paper(gauss_newton_steps: int, cg_iterations: int) -> SolverConfig:
        """Algorithm 1 as printed: Fletcher-Reeves, nothing else."""
        return SolverConfig(gauss_newton_steps, cg_iterations, "fletcher_reeves")


@dataclass
class SearchState:
    """What conjugate gradients keep from one call to the next, with ``forgetting``."""

    direction: list[Tensor] = field(default_factory=list)
    """p, one tensor for each variable; empty before the first call and after one that ended early."""
    previous: list[Tensor] = field(default_factory=list)
    """r', the residual before the last iteration."""
    rho: float = 1.0
    """ρ of the last iteration."""


@dataclass(frozen=True)
class Solution:
    """Outcome of :func:`minimise` and :func:`gradient_descent`."""

    variables: Variables
    losses: list[float]
    """‖r‖² at the start of every Gauss-Newton step (every step of gradient descent)."""
    residual_norms: list[float]
    """Norm of the linear system's residual, at first and after every iteration, of every Gauss-Newton step."""
    stopped: str
    """Why it ended: ``iterations`` (all done), ``solved`` (the residual is gone, or within the tolerance), or ``singular``
    (no curvature along the direction; the last good point is returned)."""


Observer = Callable[[int, Variables], object]
"""Called with the number of BackProp calls so far (as Algorithm 1 would make them) and the variables at that point."""


def minimise(
    problem: Problem,
    start: Variables,
    config: SolverConfig,
    state: SearchState | None = None,
    observe: Observer | None = None,
) -> Solution:
    """Algorithm 1: Gauss-Newton steps, each solved by conjugate gradients from zero.

    ``state``: kept between calls by whoever uses ``config.forgetting``; changed in place. ``observe``: for experiments;
    a linearisation counts one BackProp call, an iteration two.

    Zero steps or iterations return ``start``. A singular problem is solved within the span of its gradients (with all sample
    weights 0 and no regulariser there is nothing to solve: ``start``). Where rounding leaves no curvature along the direction,
    the last point is returned, with ``stopped`` = ``singular``. Raises :class:`InputError` if residuals or products are not
    finite, or without variables.
    """
    _check_start(start, config.preconditioner)
    if observe is not None:
        observe(0, start)
    variables, losses, norms, stopped, calls = start, [], [], "iterations", 0
    for step in range(config.gauss_newton_steps):
        if config.cg_iterations == 0:
            break
        linear = problem.linearise(variables)
        losses.append(_finite(linear.loss, "the loss", step))
        kept = state if state is not None and config.forgetting is not None and config.gauss_newton_steps == 1 else None
        here, calls = variables, calls + 1

        def watch(iteration: int, change: Variables, here: Variables = here, calls: int = calls) -> None:
            if observe is not None:
                observe(calls + 2 * iteration, _add(here, change))

        change, of_step, stopped = conjugate_gradients(linear, config, kept, watch)
        variables, calls = _add(variables, change), calls + 2 * config.cg_iterations
        norms += of_step
    return Solution(variables, losses, norms, stopped)


def conjugate_gradients(
    linear: Linearised,
    config: SolverConfig,
    state: SearchState | None = None,
    watch: Callable[[int, Variables], object] | None = None,
) -> tuple[Variables, list[float], str]:
    """Iterations on JᵀJ Δ = -Jᵀr from Δ = 0: (Δ, residual norms, why it ended).

    ``watch`` is called with the iterations done and Δ. See :func:`minimise` for the rest.
    """
    residual = _scaled(linear.gradient(), -1)
    change = _scaled(residual, 0)
    scales = config.preconditioner or (1.0,) * len(residual)
    state = state if state is not None else SearchState()
    direction, previous = tuple(state.direction), tuple(state.previous)
    rho_before = state.rho / (config.forgetting or 1.0)
    norms, first_rho, stopped = [_norm(residual)], 0.0, "iterations"
    limits = torch.finfo(residual[0].dtype)
    # below 16 roundings the residual is noise, in which a singular problem has no curvature: steps would be enormous
    # (8 was enough in 1440 random singular problems, 1 was not in 394)
    share = max(config.tolerance, (16 * limits.eps) ** 2)
    for i in range(config.cg_iterations):
        z = tuple(r / s for r, s in zip(residual, scales, strict=True))
        rho = _finite(_dot(residual, z), "the gradient", i)
        first_rho = first_rho or rho
        if rho <= share * first_rho:
            stopped = "solved"
            break
        if not direction:
            direction = z
        else:
            gain = rho if config.direction == "fletcher_reeves" else rho - float(_dot(previous, z))
            direction = _add(z, direction, max(gain / rho_before, 0.0))
        product = linear.product(direction)
        curvature = _finite(_dot(direction, product), "the curvature", i)
        length = rho if config.standard_alpha else float(_dot(direction, residual))
        if curvature <= 0 or abs(length) > curvature * limits.max:  # no step, or one beyond finite numbers
            stopped = "singular"
            break
        alpha = length / curvature
        change, previous = _add(change, direction, alpha), residual
        residual, rho_before = _add(residual, product, -alpha), rho
        norms.append(_norm(residual))
        if watch is not None:
            watch(i + 1, change)
    if stopped != "iterations":  # nothing to go on with; beside a ρ of almost nothing the next one would be enormous
        direction, previous, rho_before = (), (), 1.0
    state.direction, state.previous, state.rho = list(direction), list(previous), rho_before
    return change, norms, stopped


@dataclass(frozen=True)
class DescentConfig:
    """Gradient descent with momentum, which ATOM is compared with (paper, Table 2 and supplement)."""

    steps: int
    """One BackProp call each."""
    step_length: float
    """Factor of the gradient of ‖r‖²."""
    momentum: float = 0.9
    """Share of the last change in the next."""

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.step_length > 0 or not 0 <= self.momentum < 1:
            raise InputError(
                f"{self.steps} steps of length {self.step_length} with momentum {self.momentum}; "
                "expected steps >= 0, a length above 0, a momentum in [0, 1)"
            )


def gradient_descent(
    problem: Problem, start: Variables, config: DescentConfig, observe: Observer | None = None
) -> Solution:
    """w ← w - η·d, d ← ∇‖r‖² + μ·d. Raises :class:`InputError` when it diverges beyond finite numbers."""
    _check_start(start, None)
    variables, losses = start, []
    velocity = _scaled(start, 0)
    if observe is not None:
        observe(0, start)
    for step in range(config.steps):
        linear = problem.linearise(variables)
        if step and not bool(linear.loss.isfinite()):
            raise InputError(f"gradient descent diverged in step {step}; shorten its steps of {config.step_length}")
        losses.append(_finite(linear.loss, "the loss", step))
        velocity = _add(_scaled(linear.gradient(), 2), velocity, config.momentum)
        variables = _add(variables, velocity, -config.step_length)
        if observe is not None:
            observe(step + 1, variables)
    if not all(bool(v.isfinite().all()) for v in variables):
        raise InputError(f"gradient descent diverged in step {config.steps}, its last; shorten its steps")
    return Solution(variables, losses, [], "iterations")


def _dot(one: Variables, two: Variables) -> Tensor:
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(one, two, strict=True)]).sum()


def _norm(one: Variables) -> float:
    return float(_dot(one, one).sqrt())


def _scaled(one: Variables, factor: float) -> Variables:
    return tuple(factor * a for a in one)


def _add(one: Variables, two: Variables, factor: float = 1.0) -> Variables:
    return tuple(torch.add(a, b, alpha=factor) for a, b in zip(one, two, strict=True))


def _finite(value: Tensor, what: str, step: int) -> float:
    number = float(value)
    if number - number != 0:  # NaN or infinite
        raise InputError(
            f"{what} is {number} in step {step + 1}; residuals must be finite: check features, labels, weights and start"
        )
    return number


def _check_start(start: Variables, preconditioner: tuple[float, ...] | None) -> None:
    if not start:
        raise InputError("there are no variables; expected a tuple of at least one tensor")
    if not all(v.is_floating_point() for v in start):
        raise InputError(f"variables are {[str(v.dtype) for v in start]}; expected floating point numbers")
    if preconditioner is not None and len(preconditioner) != len(start):
        raise InputError(
            f"{len(start)} variables and a preconditioner for {len(preconditioner)}; expected equally many"
        )


# --- any residuals, by autograd ------------------------------------------------------------------------------------------


class AutogradProblem:
    """Products by reverse passes only: h(u) = Jᵀu is linear in u, so its own backward pass along p gives Jp."""

    def __init__(self, residual: Callable[..., Tensor | Sequence[Tensor]]) -> None:
        """``residual(*variables)``: one tensor or several, of any shapes, made by differentiable operations.

        It is called outside of inference mode; tensors that it brings along must have been made outside of it, too.
        """
        self.residual = residual

    def linearise(self, variables: Variables) -> Linearised:
        return _AutogradLinearised(self.residual, variables)


class _AutogradLinearised:
    def __init__(self, residual: Callable[..., Tensor | Sequence[Tensor]], variables: Variables) -> None:
        # trackers run in inference mode, whose tensors autograd does not take
        with torch.inference_mode(False), torch.enable_grad():
            self.variables = tuple(v.clone().detach().requires_grad_() for v in variables)
            found = residual(*self.variables)
            parts = (found,) if isinstance(found, Tensor) else tuple(found)
            if not parts:
                raise InputError("the residual function returned no tensors; expected at least one")
            self.residual = torch.cat([part.flatten() for part in parts])  # (all residuals,)
            if not self.residual.requires_grad:
                raise InputError("the residual does not depend on its variables in a way that autograd can follow")
            self.fixed = self.residual.detach()
            self.dual = torch.zeros_like(self.fixed).requires_grad_()
            self.transposed = self._backward(self.residual, self.variables, self.dual)  # Jᵀu as a function of u

    @property
    def loss(self) -> Tensor:
        return self.fixed.square().sum()

    def gradient(self) -> Variables:
        with torch.inference_mode(False):
            return self._backward(self.residual, self.variables, self.fixed, create_graph=False)

    def product(self, direction: Variables) -> Variables:
        with torch.inference_mode(False):
            along = tuple(d.clone() for d in direction)
            inner = [t for t in zip(self.transposed, along, strict=True) if t[0].requires_grad]
            outputs, given = [t for t, _ in inner], [d for _, d in inner]
            (forward,) = torch.autograd.grad(outputs, self.dual, given, retain_graph=True)  # Jp
            return self._backward(self.residual, self.variables, forward, create_graph=False)

    @staticmethod
    def _backward(residual: Tensor, variables: Variables, dual: Tensor, create_graph: bool = True) -> Variables:
        return torch.autograd.grad(
            residual, variables, dual, create_graph=create_graph, retain_graph=True, materialize_grads=True
        )


# --- the target classifier, in closed form -------------------------------------------------------------------------------


def mlu(scores: Tensor, bend: float | None) -> tuple[Tensor, Tensor]:
    """φ(s) and its derivative: s for s ≥ 0, b·(exp(s / b) - 1) below, with ``bend`` b; None is the identity. §7.11."""
    if bend is None:
        return scores, torch.ones_like(scores)
    slope = torch.exp(scores.clamp(max=0) / bend)
    return torch.where(scores >= 0, scores, bend * (slope - 1)), slope


def classify(samples: Samples, filters: Tensor) -> Tensor:
    """Scores of the target filter ``filters`` (1, C, kh, kw) on projected samples: (1, I, H, W), the features' own size.

    The last row and column that an even filter adds are left out, so cell n lies between features n - 1 and n.
    """
    return apply_filter(samples, filters)[..., : samples.size[0], : samples.size[1]]


def project(cells: Tensor, projection: Tensor) -> Tensor:
    """The first layer, a 1×1 convolution: ``cells`` (..., D), ``projection`` (C, D, 1, 1) -> (..., C)."""
    return cells @ projection.flatten(1).T


@dataclass(frozen=True)
class ClassifierTargets:
    """What the classifier is fitted to; §7.11."""

    labels: Tensor
    """y, (I, H, W)"""
    weights: Tensor
    """γ, (I,): residuals are √γ·(φ(s) - y)."""
    bend: float | None
    """Of the response's activation φ, :func:`mlu`."""

    def linearise(self, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``scores`` (1, I, H, W): Σ of squares (a scalar), gradient and curvature by each score (1, I, H, W)."""
        value, slope = mlu(scores, self.bend)
        error = value - self.labels  # (1, I, H, W)
        weighted = self.weights[:, None, None] * slope
        return (self.weights[:, None, None] * error.square()).sum(), weighted * error, weighted * slope


@dataclass(frozen=True)
class FilterProblem:
    """ATOM's updates: the filter (1, C, kh, kw) alone, on projected samples; residuals √γ·(φ(f ⋆ x) - y) and √λ·f."""

    samples: Samples
    """Projected, one sequence."""
    targets: ClassifierTargets
    regularisation: float
    """λ of the filter."""

    def linearise(self, variables: Variables) -> Linearised:
        (filters,) = variables
        data, slope, curvature = self.targets.linearise(classify(self.samples, filters))
        loss = data + self.regularisation * filters.square().sum()
        return _FilterLinearised(self, filters, loss, slope, curvature)


@dataclass(frozen=True)
class _FilterLinearised:
    problem: FilterProblem
    filters: Tensor
    loss: Tensor
    by_score: Tensor  # (1, I, H, W)
    curvature: Tensor  # (1, I, H, W)

    def gradient(self) -> Variables:
        return (self._backward(self.by_score, self.filters),)

    def product(self, direction: Variables) -> Variables:
        (along,) = direction
        return (self._backward(self.curvature * classify(self.problem.samples, along), along),)

    def _backward(self, by_score: Tensor, filters: Tensor) -> Tensor:
        kernel = (filters.shape[-2], filters.shape[-1])
        found = apply_adjoint(self.problem.samples, _whole(by_score, kernel), kernel)
        return found + self.problem.regularisation * filters


@dataclass(frozen=True)
class TwoLayerProblem:
    """ATOM's first frame: filter f (1, C, kh, kw) and projection P (C, D, 1, 1) together.

    Residuals √γ·(φ(f ⋆ Px) - y), √λ_f·f and √λ_P·P.
    """

    samples: Samples
    """Not projected, one sequence."""
    targets: ClassifierTargets
    regularisation: tuple[float, float]
    """λ of the filter and of the projection."""

    def linearise(self, variables: Variables) -> Linearised:
        filters, projection = variables
        projected = replace(self.samples, cells=project(self.samples.cells, projection))
        data, slope, curvature = self.targets.linearise(classify(projected, filters))
        loss = data + self.regularisation[0] * filters.square().sum()
        loss = loss + self.regularisation[1] * projection.square().sum()
        return _TwoLayerLinearised(self, variables, projected, loss, slope, curvature)


@dataclass(frozen=True)
class _TwoLayerLinearised:
    problem: TwoLayerProblem
    variables: Variables
    projected: Samples
    loss: Tensor
    by_score: Tensor  # (1, I, H, W)
    curvature: Tensor  # (1, I, H, W)

    def gradient(self) -> Variables:
        return self._backward(self.by_score, self.variables)

    def product(self, direction: Variables) -> Variables:
        along_filter, along_projection = direction
        moved = replace(self.projected, cells=project(self.problem.samples.cells, along_projection))
        change = classify(self.projected, along_filter) + classify(moved, self.variables[0])  # product rule
        return self._backward(self.curvature * change, direction)

    def _backward(self, by_score: Tensor, regularised: Variables) -> Variables:
        filters, projection = self.variables
        kernel = (filters.shape[-2], filters.shape[-1])
        whole = _whole(by_score, kernel)
        by_filter = apply_adjoint(self.projected, whole, kernel)
        by_cells = apply_adjoint_to_cells(whole, filters).flatten(0, 2)  # (I·H·W, C)
        by_projection = by_cells.T @ self.problem.samples.cells.flatten(0, 2)  # (C, D)
        found = by_filter, by_projection.view_as(projection)
        return tuple(
            g + weight * v for g, weight, v in zip(found, self.problem.regularisation, regularised, strict=True)
        )


def _whole(scores: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Zeros in the row and column that :func:`classify` leaves out."""
    return F.pad(scores, (0, 1 - kernel[1] % 2, 0, 1 - kernel[0] % 2))
