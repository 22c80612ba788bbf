"""The adjoints of the correlation, in the filter and in the features: sizes, odd and even filters, several sequences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.nn.correlation import (
    Samples,
    apply_adjoint,
    apply_adjoint_to_cells,
    apply_filter,
    correlate,
    score_size,
)

SIDES = st.tuples(st.integers(1, 8), st.integers(1, 8))
KERNELS = st.tuples(st.integers(1, 5), st.integers(1, 5))


def drawn(size, kernel, sequences, images, channels, dtype=torch.float64):
    torch.manual_seed(size[0] * 100 + kernel[1])
    maps = torch.randn(images, sequences, channels, *size, dtype=dtype)
    weights = torch.randn(sequences, channels, *kernel, dtype=dtype)
    residuals = torch.randn(sequences, images, *score_size(size, kernel), dtype=dtype)
    return maps, weights, residuals


@settings(max_examples=60)
@given(size=SIDES, kernel=KERNELS, sequences=st.integers(1, 3), images=st.integers(1, 3), channels=st.integers(1, 4))
def test_both_adjoints(size, kernel, sequences, images, channels):
    """⟨f ⋆ x, r⟩ = ⟨f, Aᵀr⟩ = ⟨x, Bᵀr⟩: the score is linear in either."""
    maps, weights, residuals = drawn(size, kernel, sequences, images, channels)
    samples = Samples.from_maps(maps)
    forward = (apply_filter(samples, weights) * residuals).sum()
    by_filter = apply_adjoint(samples, residuals, kernel)
    by_cells = apply_adjoint_to_cells(residuals, weights)
    assert by_filter.shape == weights.shape
    assert by_cells.shape == samples.cells.shape
    scale = float((maps.norm() * weights.norm() * residuals.norm()).clamp(min=1e-12))
    assert float((weights * by_filter).sum() - forward) == pytest.approx(0, abs=1e-13 * scale)
    assert float((samples.cells * by_cells).sum() - forward) == pytest.approx(0, abs=1e-13 * scale)


@pytest.mark.parametrize(("size", "kernel"), [((6, 9), (3, 5)), ((5, 4), (2, 1)), ((4, 7), (4, 3)), ((3, 3), (5, 4))])
def test_adjoints_are_the_derivatives_of_a_convolution(size, kernel):
    """An inner product alone would not see a permutation of cells that both sides share."""
    maps, weights, residuals = drawn(size, kernel, 2, 3, 5)
    maps.requires_grad_()
    weights.requires_grad_()
    padding = kernel[0] // 2, kernel[1] // 2
    scores = torch.stack([F.conv2d(maps[:, s], weights[s : s + 1], padding=padding)[:, 0] for s in range(2)])
    want_maps, want_weights = torch.autograd.grad((scores * residuals).sum(), (maps, weights))
    with torch.no_grad():
        samples = Samples.from_maps(maps)
        assert torch.allclose(apply_filter(samples, weights), scores)
        assert torch.allclose(apply_adjoint(samples, residuals, kernel), want_weights)
        by_cells = apply_adjoint_to_cells(residuals, weights)
        assert torch.allclose(by_cells, Samples.from_maps(want_maps).cells)


def test_memory_layout_does_not_matter():
    """Filled slots of a memory, transposed residuals and channels-last filters are views."""
    maps, weights, residuals = drawn((6, 6), (4, 4), 1, 5, 8)
    whole = Samples.from_maps(maps)
    part = Samples(whole.cells[:, :3], whole.size)
    layouts = (weights.contiguous(memory_format=torch.channels_last), weights.transpose(2, 3).contiguous().mT)
    turned = residuals[:, :3].mT.contiguous().mT
    assert not turned.is_contiguous()
    for other in layouts:
        assert not other.is_contiguous()
        assert torch.allclose(apply_filter(part, other), apply_filter(whole, weights)[:, :3])
        assert torch.allclose(apply_adjoint_to_cells(turned, other), apply_adjoint_to_cells(residuals[:, :3], weights))
    assert torch.allclose(apply_adjoint(part, turned, (4, 4)), apply_adjoint(part, residuals[:, :3], (4, 4)))


def test_maps_of_one_sequence():
    maps, weights, _ = drawn((5, 6), (3, 3), 1, 4, 2)
    assert torch.equal(Samples.from_maps(maps[:, 0]).cells, Samples.from_maps(maps).cells)
    assert Samples.from_maps(maps).count == 4
    one_each = correlate(maps[:, 0], weights.expand(4, -1, -1, -1))  # an own filter for each image
    assert torch.allclose(one_each, apply_filter(Samples.from_maps(maps), weights)[0])
