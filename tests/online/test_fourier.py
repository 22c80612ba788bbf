"""Trigonometric interpolation: samples, constants, shifts, and where the highest frequency goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keepsight.online.fourier import interpolation_matrix


def grid(cells: int, per_cell: int = 1, offset: float = 0.0) -> torch.Tensor:
    return torch.arange(cells * per_cell, dtype=torch.float64) / per_cell + offset


@pytest.mark.parametrize("cells", [1, 2, 3, 8, 9, 18, 19])
def test_goes_through_the_samples(cells):
    exact = interpolation_matrix(cells, grid(cells), nyquist_double=False)
    assert torch.allclose(exact, torch.eye(cells, dtype=torch.float64), atol=1e-14)
    doubled = interpolation_matrix(cells, grid(cells))
    if cells % 2:
        assert torch.equal(doubled, exact)  # no such frequency
    else:
        alternating = (-1.0) ** (grid(cells)[:, None] - grid(cells))
        assert torch.allclose(doubled - exact, alternating / cells)


@given(cells=st.integers(1, 20), at=st.floats(-50, 50), doubled=st.booleans())
def test_constants_stay_and_the_series_is_periodic(cells, at, doubled):
    points = torch.tensor([at, at + cells, at - 3 * cells], dtype=torch.float64)
    matrix = interpolation_matrix(cells, points, doubled)
    assert matrix.shape == (3, cells)
    assert torch.allclose(matrix.sum(dim=1), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(matrix[1:], matrix[:1].expand(2, -1), atol=1e-10)


@pytest.mark.parametrize("cells", [6, 7])
def test_waves_are_continued_exactly(cells):
    points = torch.linspace(-3, 12, 40, dtype=torch.float64)
    for frequency in range((cells - 1) // 2 + 1):
        for phase in (0.0, 0.7):

            def wave(x, f=frequency, p=phase):
                return torch.cos(2 * math.pi * f * x / cells + p)

            for doubled in (True, False):
                got = interpolation_matrix(cells, points, doubled) @ wave(grid(cells))
                assert torch.allclose(got, wave(points), atol=1e-12)


@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("cells", [6, 7])
def test_moving_the_samples_moves_the_curve(cells, doubled):
    samples = torch.from_numpy(np.random.default_rng(0).standard_normal(cells))
    points = grid(cells, 16, 0.3)
    curve = interpolation_matrix(cells, points, doubled) @ samples
    rolled = interpolation_matrix(cells, points, doubled) @ samples.roll(1)
    assert torch.allclose(rolled, curve.roll(16))
    elsewhere = interpolation_matrix(cells, points - 1, doubled) @ samples
    assert torch.allclose(elsewhere, rolled)


@pytest.mark.parametrize("cells", [7, 8, 18])
def test_against_a_discrete_fourier_transform(cells):
    """Odd: zeros between the frequencies. Even: the Nyquist coefficient on both sides, in full or by half."""
    samples = np.random.default_rng(1).standard_normal(cells)
    points = np.linspace(0, cells, 33)
    coefficients = np.fft.fft(samples) / cells
    for doubled, share in ((True, 1.0), (False, 0.5)):
        want = np.zeros(len(points), dtype=complex)
        for k in range(-(cells // 2), cells // 2 + 1):
            factor = share if 2 * abs(k) == cells else 1.0
            want += factor * coefficients[k] * np.exp(2j * math.pi * k * points / cells)
        got = interpolation_matrix(cells, torch.from_numpy(points), doubled) @ torch.from_numpy(samples)
        assert np.allclose(got.numpy(), want.real, atol=1e-12)
        assert np.allclose(want.imag, 0, atol=1e-12)


def test_type_follows_the_points():
    assert interpolation_matrix(18, torch.zeros(2)).dtype == torch.float32
    assert interpolation_matrix(18, torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
