"""The analytic steps against autograd, and the filter against a convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from keepsight.errors import InputError
from keepsight.nn.correlation import Samples, apply_adjoint, apply_filter, correlate, instance_l2_norm
from keepsight.nn.target_filter import (
    DensityConfig,
    DiMPOptimiser,
    L2Optimiser,
    PrDiMPOptimiser,
    SimpleOptimiser,
    gaussian_label,
)

SIDE = 7


def problem(kernel: int, sequences: int = 2, images: int = 3, channels: int = 5):
    torch.manual_seed(kernel)
    maps = torch.randn(images, sequences, channels, SIDE, SIDE, dtype=torch.float64)
    weights = 0.1 * torch.randn(sequences, channels, kernel, kernel, dtype=torch.float64)
    boxes = torch.rand(images, sequences, 4, dtype=torch.float64) * 40 + 20
    gamma = torch.rand(images, sequences, dtype=torch.float64) + 0.1
    return maps, weights, boxes, gamma


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_filter_is_a_padded_convolution(kernel):
    maps, weights, _, _ = problem(kernel)
    got = apply_filter(Samples.from_maps(maps), weights)
    for s in range(2):
        want = F.conv2d(maps[:, s], weights[s : s + 1], padding=kernel // 2)[:, 0]
        assert torch.allclose(got[s], want)
    assert torch.allclose(correlate(maps[0], weights), got[:, 0])


@pytest.mark.parametrize(("size", "kernel"), [((6, 9), (3, 5)), ((5, 4), (2, 1)), ((4, 7), (4, 3))])
def test_maps_and_filters_that_are_not_square(size, kernel):
    torch.manual_seed(0)
    maps, weights = torch.randn(3, 2, 5, *size, dtype=torch.float64), torch.randn(2, 5, *kernel, dtype=torch.float64)
    samples, variable = Samples.from_maps(maps), weights.clone().requires_grad_()
    scores = apply_filter(samples, variable)
    for s in range(2):
        want = F.conv2d(maps[:, s], weights[s : s + 1], padding=(kernel[0] // 2, kernel[1] // 2))[:, 0]
        assert torch.allclose(scores[s], want)
    residual = torch.randn_like(scores)
    want = torch.autograd.grad((scores * residual).sum(), variable)[0]
    assert torch.allclose(apply_adjoint(samples, residual, kernel), want)


@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_adjoint(kernel):
    maps, weights, _, _ = problem(kernel)
    samples = Samples.from_maps(maps)
    variable = weights.clone().requires_grad_()
    scores = apply_filter(samples, variable)
    residual = torch.randn_like(scores)
    want = torch.autograd.grad((scores * residual).sum(), variable)[0]
    assert torch.allclose(apply_adjoint(samples, residual.detach(), (kernel, kernel)), want)


def optimisers():
    density = DensityConfig(sigma=1.1, normalise=True, uniform_weight=0.05)
    return {
        "dimp": DiMPOptimiser(init_filter_reg=0.2, num_dist_bins=10, bin_displacement=0.5, init_step_length=0.8),
        "bentpar": DiMPOptimiser(init_filter_reg=0.2, score_act="bentpar", act_param=0.1, alpha_eps=0.02),
        "l2": L2Optimiser(init_filter_reg=0.2, hinge_threshold=0.05),
        "prdimp": PrDiMPOptimiser(init_filter_reg=0.2, alpha_eps=0.05, density=density),
        "prdimp_reg": PrDiMPOptimiser(init_filter_reg=0.2, softmax_reg=0.3, density=density),
        "simple": SimpleOptimiser(init_filter_reg=0.2),
    }


@pytest.mark.parametrize("name", list(optimisers()))
@pytest.mark.parametrize("kernel", [3, 4])
def test_steps_agree_with_autograd(name, kernel):
    """Gradient by autograd; curvature by Jacobian-vector products (Gauss-Newton) or the full Hessian (Newton)."""
    optimiser = optimisers()[name].double()
    maps, weights, boxes, gamma = problem(kernel)
    samples = Samples.from_maps(maps)
    target = boxes
    if name == "simple":
        side = SIDE + 1 - kernel % 2
        target = gaussian_label((boxes[..., :2] / 16), (side, side), 1.0)
    step = optimiser(weights, samples, target, gamma, 1).weights - weights

    objective = optimiser.objective(samples, target, gamma, (kernel, kernel))
    reg = optimiser.regularisation().detach()

    def half_loss(w):
        factor = 1.0 if name.startswith("prdimp") else 0.5
        return factor * objective.loss(apply_filter(samples, w)) + 0.5 * reg * w.square().sum()

    variable = weights.clone().requires_grad_()
    gradient = torch.autograd.grad(half_loss(variable), variable)[0]
    tau, eps = optimiser.step()
    for s in range(2):
        g = torch.zeros_like(gradient)
        g[s] = gradient[s]
        if name.startswith("prdimp"):
            hessian_g = torch.autograd.functional.hvp(half_loss, weights, g)[1]
            curvature = (g * hessian_g).sum()
        else:

            def residual(w):
                return objective.weight * (objective.activation(apply_filter(samples, w))[0] - objective.label)

            jacobian_g = torch.autograd.functional.jvp(residual, weights, g)[1]
            curvature = jacobian_g.square().sum() + reg * g.square().sum()
        alpha = g.square().sum() / (curvature + eps * g.square().sum())
        want = -tau * alpha * gradient[s]
        assert torch.allclose(step[s], want, rtol=1e-6, atol=1e-10), name


@pytest.mark.parametrize("name", list(optimisers()))
def test_loss_falls_and_zero_iterations_change_nothing(name):
    optimiser = optimisers()[name].double()
    maps, weights, boxes, _ = problem(4)
    samples = Samples.from_maps(maps)
    target = gaussian_label(boxes[..., :2] / 16, (SIDE + 1, SIDE + 1), 1.0) if name == "simple" else boxes
    losses = optimiser(weights, samples, target, None, 8, with_losses=True).losses
    assert losses[-1] < losses[0]
    assert torch.equal(optimiser(weights, samples, target, None, 0).weights, weights)


def test_zero_features_stay_finite():
    samples = Samples.from_maps(torch.zeros(2, 3, SIDE, SIDE))
    for optimiser in (DiMPOptimiser(), PrDiMPOptimiser()):
        out = optimiser(
            torch.zeros(1, 3, 4, 4), samples, torch.tensor([[10.0, 10, 20, 20]] * 2)[:, None], None, 3
        ).weights
        assert torch.isfinite(out).all()


def test_instance_norm_has_the_scale_asked_for():
    out = instance_l2_norm(torch.randn(3, 8, 5, 5) * 100, 0.25)
    assert torch.allclose(out.square().mean(dim=(1, 2, 3)), torch.full((3,), 0.25**2), rtol=1e-4)


def test_unknown_activations_are_named():
    with pytest.raises(InputError, match="swish"):
        DiMPOptimiser(score_act="swish")
    with pytest.raises(InputError, match="step"):
        DiMPOptimiser(mask_act="step")
