"""Apply a filter to feature maps, and the adjoint: as matrix products on channels-last features.

A score map is the cross-correlation of a (D, H, W) feature map with a (D, kh, kw) filter, zero padded by k // 2: for even k it
is one cell larger than the feature map; spec/dimp-atom.md §4.3. Because there is a single output channel, one product
features (cells × D) · filter (D × kh·kw) followed by adding kh·kw shifted maps needs no unfolded copy of the features; the
adjoint is the transposed product with the unfolded residuals. That is several times faster than a convolution here. A bank of
filters is wide enough for a convolution, which then is the faster one on the same channels-last features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight


@dataclass(frozen=True)
class Samples:
    """Feature maps of S sequences with I samples each, stored channels last."""

    cells: Tensor
    """(S, I, H·W, D), contiguous."""
    size: tuple[int, int]
    """(H, W) of the maps, in cells."""

    @classmethod
    def from_maps(cls, maps: Tensor) -> Samples:
        """``maps`` (I, S, D, H, W), or (I, D, H, W) of one sequence."""
        if maps.dim() == 4:
            maps = maps[:, None]
        return cls(maps.permute(1, 0, 3, 4, 2).flatten(2, 3).contiguous(), (maps.shape[-2], maps.shape[-1]))

    @property
    def count(self) -> int:
        """I, the number of samples of each sequence."""
        return self.cells.shape[1]

    @property
    def maps(self) -> Tensor:
        """(S, I, D, H, W), channels-last in memory."""
        return self.cells.unflatten(2, self.size).permute(0, 1, 4, 2, 3)


def score_size(size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    """(H', W') of the score map: one more than the features' side for an even kernel."""
    return size[0] + 2 * (kernel[0] // 2) - kernel[0] + 1, size[1] + 2 * (kernel[1] // 2) - kernel[1] + 1


def apply_filter(samples: Samples, weights: Tensor) -> Tensor:
    """Scores of every sample: ``weights`` (S, D, kh, kw) -> (S, I, H', W'); banks (S, M, D, kh, kw) -> (S, I, M, H', W')."""
    if weights.dim() == 5:
        padding = (weights.shape[-2] // 2, weights.shape[-1] // 2)
        pairs = zip(samples.maps, weights, strict=True)
        return torch.stack([F.conv2d(maps, bank, padding=padding) for maps, bank in pairs])
    sequences, count, cells, _ = samples.cells.shape
    kernel = (weights.shape[-2], weights.shape[-1])
    taps = weights.flatten(2).flip(-1).transpose(1, 2)  # (S, kh·kw, D); flipped, because fold scatters
    columns = samples.cells.flatten(1, 2).transpose(1, 2)  # (S, D, I·H·W)
    products = taps @ columns  # (S, kh·kw, I·H·W); several times as wide as high: faster
    products = products.unflatten(2, (count, cells)).transpose(1, 2).flatten(0, 1)  # (S·I, kh·kw, H·W)
    scores = F.fold(products, score_size(samples.size, kernel), kernel, padding=_fold_padding(kernel))
    return scores.view(sequences, count, *scores.shape[-2:])


def apply_adjoint(samples: Samples, residuals: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Adjoint of :func:`apply_filter` in the filter: ``residuals`` (S, I, H', W') -> (S, D, kh, kw); of banks likewise."""
    sequences, channels = len(residuals), samples.cells.shape[-1]
    if residuals.dim() == 5:
        size, padding = (residuals.shape[2], channels, *kernel), (kernel[0] // 2, kernel[1] // 2)
        pairs = zip(samples.maps, residuals, strict=True)
        return torch.stack([conv2d_weight(maps, size, r, padding=padding) for maps, r in pairs])
    taps = _patches(residuals, kernel) @ samples.cells.flatten(1, 2)  # (S, kh·kw, D)
    return taps.flip(1).transpose(1, 2).reshape(sequences, channels, *kernel)


def apply_adjoint_to_cells(residuals: Tensor, weights: Tensor) -> Tensor:
    """Adjoint of :func:`apply_filter` in the features: ``residuals`` (S, I, H', W'), ``weights`` (S, D, kh, kw) ->
    (S, I, H·W, D), laid out as :class:`Samples`."""
    kernel = (weights.shape[-2], weights.shape[-1])
    taps = weights.flatten(2).flip(-1)  # (S, D, kh·kw)
    cells = _patches(residuals, kernel).transpose(1, 2) @ taps.transpose(1, 2)  # (S, I·H·W, D)
    return cells.unflatten(1, (residuals.shape[1], -1))


def _patches(residuals: Tensor, kernel: tuple[int, int]) -> Tensor:
    """What each tap of the filter sees of the score maps (S, I, H', W') at every feature cell: (S, kh·kw, I·H·W)."""
    pad_y, pad_x = _fold_padding(kernel)
    patches = F.pad(residuals, (pad_x, pad_x, pad_y, pad_y)).unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)
    return patches.permute(0, 4, 5, 1, 2, 3).reshape(len(residuals), kernel[0] * kernel[1], -1)


def correlate(maps: Tensor, weights: Tensor) -> Tensor:
    """One score map per image: ``maps`` (N, D, H, W), own filter each ``weights`` (N, D, kh, kw) -> (N, H', W')."""
    return apply_filter(Samples.from_maps(maps[None]), weights)[:, 0]


def _fold_padding(kernel: tuple[int, int]) -> tuple[int, int]:
    return kernel[0] - 1 - kernel[0] // 2, kernel[1] - 1 - kernel[1] // 2


def instance_l2_norm(x: Tensor, scale: float, eps: float = 1e-5) -> Tensor:
    """``x`` (B, C, H, W) scaled so that its mean square is scale²; spec §4.1."""
    power = x.square().sum(dim=(1, 2, 3), keepdim=True) + eps
    return x * (scale * torch.sqrt(x[0].numel() / power))
