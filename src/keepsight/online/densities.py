"""PrDiMP's predicted densities (Danelljan et al., CVPR 2020, supplement §4): where the target is, and how large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..boxes import Box

GRID = 33  # odd, so that the estimate itself is the middle cell


@dataclass(frozen=True)
class Densities:
    """Three densities of one target in one frame; each array sums to 1."""

    centre: np.ndarray
    """(H', W'): p(centre) over the search region, from the target classifier."""
    centre_region: Box
    """Image pixels that ``centre`` covers (may reach over the border)."""
    position: np.ndarray
    """(N, N): p(box centre) with the estimated size, from the overlap predictor; rows are y."""
    position_offsets: np.ndarray
    """(N,): offsets of rows and columns from -1 to 1, in box heights and widths."""
    size: np.ndarray
    """(N, N): p(size) with the estimated centre; rows are height factors, columns width factors."""
    size_factors: np.ndarray
    """(N,): factors from 1/3 to 3, evenly spaced in the logarithm."""
    box: Box
    """The estimate that offsets and factors refer to, in image pixels."""


def box_densities(
    score: Callable[[Tensor], Tensor], box: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """p(box centre) and p(size) around ``box`` (4,) in crop pixels, from log-densities ``score`` (P, 4) -> (P,).

    Returns (position (N, N), offsets (N,), size (N, N), factors (N,)).
    """
    offsets = torch.linspace(-1, 1, GRID, dtype=box.dtype, device=box.device)
    factors = torch.exp(offsets * float(np.log(3.0)))
    corner, extent = box[:2], box[2:]
    rows, cols = torch.meshgrid(offsets, offsets, indexing="ij")
    moved = torch.stack((corner[0] + cols * extent[0], corner[1] + rows * extent[1]), dim=-1).view(-1, 2)
    position = torch.softmax(score(torch.cat((moved, extent.expand_as(moved)), dim=1)), dim=0)  # (N·N,)
    heights, widths = torch.meshgrid(factors, factors, indexing="ij")
    sizes = torch.stack((widths * extent[0], heights * extent[1]), dim=-1).view(-1, 2)
    size = torch.softmax(score(torch.cat((corner + 0.5 * extent - 0.5 * sizes, sizes), dim=1)), dim=0)
    maps = [p.view(GRID, GRID).double().cpu().numpy() for p in (position, size)]
    return maps[0], offsets.double().cpu().numpy(), maps[1], factors.double().cpu().numpy()
