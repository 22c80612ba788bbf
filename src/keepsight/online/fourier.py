"""Score maps at the resolution of the crop: trigonometric interpolation; spec/dimp-atom.md §7.11."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def interpolation_matrix(cells: int, points: Tensor, nyquist_double: bool = True) -> Tensor:
    """Values at ``points`` (M,), in cells, of the periodic series through ``cells`` samples: (M, cells), in their dtype.

    ``nyquist_double``: with an even number of cells, the highest frequency counts at both +n/2 and -n/2 in full (quirk Q10,
    with which the published settings were tuned), so that even the samples themselves are changed; False: half each.
    """
    distance = points[:, None] - torch.arange(cells, dtype=points.dtype, device=points.device)  # (M, cells)
    kernel = torch.ones_like(distance)
    for k in range(1, cells // 2 + 1):
        share = 0.5 if 2 * k == cells and not nyquist_double else 1.0
        kernel += 2 * share * torch.cos(distance * (2 * math.pi * k / cells))
    return kernel / cells
