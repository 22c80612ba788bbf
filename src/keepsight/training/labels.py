"""Score maps that the target classifier should give: spec/dimp-atom.md §4.9.

The Gaussian is that of the filter optimisers (:func:`keepsight.nn.target_filter.gaussian_label`); what differs is its width,
a share of the feature map's side, and what makes a density of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..nn.target_filter import gaussian_label


@dataclass(frozen=True)
class LabelGrid:
    """The cells of a score map, (x, y) each."""

    crop: tuple[int, int]
    """Size of the crop in pixels."""
    feature: tuple[int, int]
    """Size of the feature map in cells."""
    kernel: tuple[int, int] = (4, 4)
    """Size of the target filter in cells: an even one puts the target between cells."""
    end_cell: bool = True
    """An even kernel makes the score map one cell larger than the feature map."""

    @classmethod
    def square(cls, crop: int, feature: int, kernel: int = 4) -> LabelGrid:
        return cls((crop, crop), (feature, feature), (kernel, kernel))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the score map."""
        width, height = (f + int(self.end_cell and k % 2 == 0) for f, k in zip(self.feature, self.kernel, strict=True))
        return height, width

    def sigma(self, factor: float) -> float:
        """σ in cells: ``factor`` times the (geometric mean) side of the feature map, the same on both axes."""
        return factor * math.sqrt(self.feature[0] * self.feature[1])

    def centres(self, boxes: Tensor) -> Tensor:
        """(..., 4) xywh in crop pixels -> (..., 2) cell (row, column), with fractions; odd kernels are half a cell off."""
        cells_per_pixel = boxes.new_tensor([f / c for f, c in zip(self.feature, self.crop, strict=True)])
        odd = boxes.new_tensor([k % 2 for k in self.kernel])
        return ((boxes[..., :2] + 0.5 * boxes[..., 2:]) * cells_per_pixel - 0.5 * odd).flip(-1)


def gaussian_labels(boxes: Tensor, grid: LabelGrid, sigma_factor: float) -> Tensor:
    """Gaussians of height 1 at the centres of ``boxes`` (..., 4), xywh in crop pixels: (..., H', W').

    ``sigma_factor``: σ in units of the feature map's side, published as 0.25 / search factor.
    """
    return gaussian_label(grid.centres(boxes), grid.size, _positive(grid.sigma(sigma_factor)))


def density_labels(
    boxes: Tensor,
    grid: LabelGrid,
    sigma_factor: float,
    *,
    normalise: bool = True,
    uniform_weight: float = 0.0,
    shrink: float = 0.0,
) -> Tensor:
    """The same as probability densities over the cells: (..., H', W').

    ``normalise``: divide by the sum; maps with a sum of at most 0.01 (target out of the crop) become uniform.
    ``uniform_weight``: share ω of the uniform density; ``shrink``: final factor 1 - shrink.
    """
    sigma = _positive(grid.sigma(sigma_factor))
    cells = grid.size[0] * grid.size[1]
    density = gaussian_label(grid.centres(boxes), grid.size, sigma) / (2 * math.pi * sigma**2)
    if uniform_weight:
        density = (1 - uniform_weight) * density + uniform_weight / cells
    if normalise:
        total = density.sum(dim=(-2, -1), keepdim=True)
        density = torch.where(total > 0.01, density / total.clamp(min=0.01), torch.full_like(density, 1 / cells))
    return (1 - shrink) * density


def _positive(sigma: float) -> float:
    if not sigma > 0:
        raise InputError(f"the label's σ is {sigma} cells; give a sigma_factor above 0")
    return sigma
