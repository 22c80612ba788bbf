"""The learner against autograd and against the optimum; encoders, fusion and decoder where the golden files do not look."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from keepsight.nn.correlation import Samples
from keepsight.nn.segmentation import (
    BoxMaskEncoder,
    Decoder,
    LabelEncoder,
    apply_filter,
    box_masks,
    fit_filter,
    learn_filter,
    resize_bicubic,
)


def problem(frames: int = 3, sequences: int = 2, filters: int = 4, channels: int = 5, size=(6, 7), kernel: int = 3):
    g = torch.Generator().manual_seed(frames + 10 * kernel)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return (
        0.1 * normal(sequences, filters, channels, kernel, kernel),
        normal(frames, sequences, channels, *size),
        normal(frames, sequences, filters, *size),
        normal(frames, sequences, filters, *size) + 1,
    )


def encoded(bank: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Every sequence by a convolution of its own."""
    maps = [F.conv2d(features[:, s], bank[s], padding=bank.shape[-1] // 2) for s in range(len(bank))]
    return torch.stack(maps, dim=1)


def by_autograd(bank, features, labels, weights, regularisation, iterations):
    """Spec §0.2 as it stands: g = Jᵀr and h = J·g by differentiation, one sequence after the other."""
    found = []
    for s in range(len(bank)):
        theta = bank[s].clone()
        for _ in range(iterations):

            def residuals(t: torch.Tensor, s: int = s) -> torch.Tensor:
                data = weights[:, s] * (F.conv2d(features[:, s], t, padding=t.shape[-1] // 2) - labels[:, s])
                return torch.cat((data.flatten(), (regularisation * t).flatten()))

            r, pull = torch.autograd.functional.vjp(residuals, theta, residuals(theta))
            assert torch.equal(r, residuals(theta))
            push = torch.autograd.functional.jvp(residuals, theta, pull)[1]
            theta = theta - pull.square().sum() / push.square().sum().clamp(min=1e-8) * pull
        found.append(theta)
    return torch.stack(found)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 3])
def test_the_learner_is_gauss_newton_with_autograd_s_products(frames, kernel):
    given = problem(frames, kernel=kernel)
    want = by_autograd(*given, 0.3, 4)
    got = fit_filter(*given, 0.3, 4)
    assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)
    assert torch.allclose(apply_filter(got, given[1]), encoded(got, given[1]))


def test_sequences_do_not_see_each_other():
    bank, features, labels, weights = problem()
    both = fit_filter(bank, features, labels, weights, 0.3, 3)
    for s in (0, 1):
        one = slice(s, s + 1)
        alone = fit_filter(bank[one], features[:, one], labels[:, one], weights[:, one], 0.3, 3)
        assert torch.allclose(both[one], alone)


def test_weights_of_samples_and_none():
    bank, features, labels, _ = problem()
    even = fit_filter(bank, features, labels, None, 0.1, 2)
    assert torch.allclose(even, fit_filter(bank, features, labels, torch.full_like(labels, 3**-0.5), 0.1, 2))
    gamma = torch.tensor([0.2, 0.0, 1.5], dtype=torch.float64)
    want = fit_filter(bank, features, labels, gamma.view(-1, 1, 1, 1, 1).expand_as(labels), 0.1, 2)
    assert torch.allclose(fit_filter(bank, features, labels, gamma, 0.1, 2), want)
    other = features.clone()
    other[1] = 7  # without weight
    assert torch.allclose(fit_filter(bank, other, labels, gamma, 0.1, 2), want)


def test_losses_fall_to_the_optimum():
    bank, features, labels, weights = problem(sequences=1)
    fit = learn_filter(bank, features, labels, weights, 2.0, 300, with_losses=True, keep_iterates=True)
    assert (len(fit.losses), len(fit.iterates)) == (301, 301)
    assert torch.equal(fit.iterates[0], bank)
    assert all(b <= a for a, b in zip(fit.losses, fit.losses[1:], strict=False))
    residual = weights * (encoded(fit.weights, features) - labels)
    total = residual.square().sum() + 4 * fit.weights.square().sum()
    assert fit.losses[-1] == pytest.approx(float(total) / (residual.numel() + bank.numel()))
    slopes = []
    for end in (bank, fit.weights):
        variable = end.clone().requires_grad_()
        residual = weights * (encoded(variable, features) - labels)
        slopes.append(torch.autograd.grad(residual.square().sum() + 4 * variable.square().sum(), variable)[0].norm())
    assert slopes[1] < 1e-5 * slopes[0], "a minimum"


def test_nothing_to_learn_from_is_no_error():
    bank, features, labels, weights = problem()
    zero = torch.zeros_like(weights)
    assert torch.equal(fit_filter(torch.zeros_like(bank), features, labels, zero, 0.0, 3), torch.zeros_like(bank))
    still = fit_filter(bank, features, labels, zero, 0.2, 1)
    assert still.abs().max() < 1e-12, "the ridge alone pulls to zero in one step"


def test_training_reaches_everything_through_the_steps():
    bank, features, labels, weights = (t.clone().requires_grad_() for t in problem(2, 2, 2, 3, (4, 3)))
    ridge = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: fit_filter(*given, 2), (bank, features, labels, weights, ridge), atol=1e-6
    )


def test_channels_last_memory_is_read_where_it_is():
    memory = torch.zeros(4, 1, 6, 7, 5).permute(0, 1, 4, 2, 3)  # (slots, 1, D, h, w)
    samples = Samples.from_maps(memory[:3])
    assert samples.cells.data_ptr() == memory.data_ptr()
    assert torch.equal(samples.maps, memory[:3].transpose(0, 1))
    bank, _, labels, weights = (t.float() for t in problem(3, 1))
    features = torch.randn(3, 1, 5, 6, 7)
    memory[:3] = features
    for given in (memory[:3], samples):
        assert torch.allclose(
            fit_filter(bank, given, labels, weights, 0.1, 2), fit_filter(bank, features, labels, weights, 0.1, 2)
        )


# --- encoders -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cells"), [((32, 48), (2, 3)), ((33, 50), (3, 4)), ((1, 1), (1, 1))])
def test_label_encoder(size, cells):
    torch.manual_seed(0)
    encoder = LabelEncoder(5, (3, 4, 6))
    masks = torch.rand(2, 3, *size)
    found = encoder(masks)
    assert found.labels.shape == found.weights.shape == (2, 3, 5, *cells)
    assert (found.labels >= 0).all()
    assert torch.equal(found.weights, torch.ones_like(found.weights)), "before training"
    assert torch.allclose(encoder(masks[1:, 2:]).labels, found.labels[1:, 2:], atol=1e-6)
    assert torch.equal(encoder.labels(masks), found.labels)


def test_score_encoder_keeps_the_size():
    encoder = LabelEncoder(5, (3, 4, 6), stride=1)
    assert encoder(torch.rand(2, 1, 16, 27)).labels.shape == (2, 1, 5, 16, 27)


@pytest.mark.parametrize(
    ("box", "wrap", "want"),
    [
        ((1.9, 2.9, 3.9, 1.9), False, (1, 2, 4, 3)),  # x0, y0, x1, y1
        ((1.9, 2.9, 3.9, 1.9), True, (1, 2, 4, 3)),
        ((-2.5, 1, 4, 2), False, (0, 1, 2, 3)),
        ((-2.5, 1, 4, 2), True, None),  # columns -2 to 2 of 8: none
        ((-3, 1, 2, 2), True, (5, 1, 7, 3)),  # wholly outside, seen at the other end
        ((-3, 1, 2, 2), False, None),
        ((6, 4, 9, 9), False, (6, 4, 8, 6)),
        ((40, 1, 2, 2), False, None),
        ((3, 3, 0.9, 5), False, None),
    ],
)
def test_box_masks(box, wrap, want):
    got = box_masks(torch.tensor([[box]]), (6, 8), wrap=wrap)
    expected = torch.zeros(1, 1, 6, 8)
    if want is not None:
        x0, y0, x1, y1 = want
        expected[..., y0:y1, x0:x1] = 1
    assert torch.equal(got, expected)


def test_box_encoder_resizes_the_mask_to_the_features():
    torch.manual_seed(0)
    encoder = BoxMaskEncoder(4, (6, 6), 5)
    features = torch.randn(2, 5, 3, 4)
    masks = box_masks(torch.tensor([[8.0, 8, 20, 20], [30, 10, 20, 30]]), (48, 64))
    out = encoder(masks, features)
    assert out.shape == (2, 4, 3, 4)
    assert not torch.allclose(out, encoder(masks.flip(0), features))


# --- decoder --------------------------------------------------------------------------------------------------------------


def decoder_problem(size=(37, 50)):
    torch.manual_seed(0)
    channels = {"layer1": 4, "layer2": 6, "layer3": 8, "layer4": 10}
    layers = {
        name: torch.randn(2, c, *(-(-side // stride) for side in size))
        for (name, c), stride in zip(channels.items(), (4, 8, 16, 32), strict=True)
    }
    encoding = torch.randn(2, 3, *layers["layer3"].shape[-2:])
    return Decoder(channels, 3, 8).eval(), encoding, layers, size


def test_decoder_makes_the_size_that_is_asked_for():
    decoder, encoding, layers, size = decoder_problem()
    out = decoder(encoding, layers, size)
    assert out.shape == (2, 1, *size)
    one = decoder(encoding[:1], {k: v[:1] for k, v in layers.items()}, size)
    assert torch.allclose(out[:1], one, atol=1e-5)
    other = decoder(encoding.flip(0), layers, size)
    assert (other - out).abs().max() > 1e-4, "the encoding decides"


@pytest.mark.parametrize("size", [(1, 1), (16, 40)])
def test_decoder_of_images_of_a_few_cells(size):
    decoder, encoding, layers, size = decoder_problem(size)
    assert decoder(encoding, layers, size).shape == (2, 1, *size)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (17, 30)])
def test_bicubic_doubling_is_interpolate_s(size, layout):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=g).contiguous(memory_format=layout)
    for height, width in ((2 * size[0], 2 * size[1]), (2 * size[0] + 1, 2 * size[1])):
        want = F.interpolate(x, (height, width), mode="bicubic", align_corners=False)
        assert torch.allclose(resize_bicubic(x, (height, width)), want, atol=1e-5)
    variable = x.clone().requires_grad_()
    resize_bicubic(variable, (2 * size[0], 2 * size[1])).square().sum().backward()
    want = x.clone().requires_grad_()
    F.interpolate(want, scale_factor=2, mode="bicubic").square().sum().backward()
    assert torch.allclose(variable.grad, want.grad, atol=1e-4)
