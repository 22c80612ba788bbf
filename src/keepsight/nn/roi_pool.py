"""Precise RoI pooling in closed form: exact, batched, differentiable in features and boxes, no compiled code.

Jiang et al., "Acquisition of localization confidence" (ECCV 2018); spec/dimp-atom.md §2. The feature map is read as the
bilinear surface f(y, x) = Σ F[i, j] hat(y - i) hat(x - j), zero outside, and a bin's value is the mean of f over the bin.
Both integrals separate, so a bin is a row of 1-D integrals, times the map, times a column of 1-D integrals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hat_integrals(start: Tensor, end: Tensor, bins: int, length: int, first: int = 0) -> Tensor:
    """Integrals of each grid node's hat function over ``bins`` equal parts of [start, end]; the nodes are ``first`` and on.

    ``start``, ``end``: (...) in cells. Returns (..., bins, length); rows sum to the bin's width where it lies among the nodes.
    """
    part = torch.arange(bins + 1, device=start.device, dtype=start.dtype) / bins  # (bins + 1,)
    edges = start[..., None] + part * (end - start)[..., None]  # (..., bins + 1)
    nodes = torch.arange(first, first + length, device=start.device, dtype=start.dtype)
    t = edges[..., None] - nodes  # (..., bins + 1, length)
    t = t.clamp(-1, 1)
    primitive = 0.5 + t - 0.5 * t * t.abs()  # Φ(t): 0 below -1, (t+1)²/2, 1 - (1-t)²/2, 1 above 1
    return primitive[..., 1:, :] - primitive[..., :-1, :]


def pool_corners(features: Tensor, corners: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """Pool ``P`` boxes of each image: ``features`` (B, C, H, W), ``corners`` (B, P, 4) as x0, y0, x1, y1 in image pixels.

    Returns (B, P, C, ph, pw). Boxes without area give zeros and no gradient.
    """
    images, channels = features.shape[:2]
    boxes, (rows, cols) = corners.shape[1], output_size
    x0, y0, x1, y1 = (corners * spatial_scale).unbind(-1)  # (B, P) each, in cells
    x1, y1 = torch.maximum(x0, x1), torch.maximum(y0, y1)
    top, bottom = _touched(y0, y1, features.shape[2])
    left, right = _touched(x0, x1, features.shape[3])
    features, height, width = features[:, :, top:bottom, left:right], bottom - top, right - left
    along_y = hat_integrals(y0, y1, rows, height, top)  # (B, P, ph, H)
    along_x = hat_integrals(x0, x1, cols, width, left)  # (B, P, pw, W)
    area = (x1 - x0) * (y1 - y0) / (rows * cols)  # (B, P), of one bin
    usable = area > 0
    scale = torch.where(usable, 1 / torch.where(usable, area, torch.ones_like(area)), torch.zeros_like(area))
    along_y = (along_y * scale[..., None, None]).view(images, boxes * rows, height)
    along_x = along_x[:, :, None].expand(-1, -1, rows, -1, -1).reshape(-1, cols, width)  # (B·P·ph, pw, W)
    cells = features.permute(0, 2, 3, 1).reshape(images, height, width * channels)  # free for channels-last maps
    pooled = torch.bmm(along_y, cells).view(-1, width, channels)  # (B·P·ph, W, C)
    pooled = torch.bmm(along_x, pooled).view(images, boxes, rows, cols, channels)
    return pooled.permute(0, 1, 4, 2, 3)  # (B, P, C, ph, pw)


def _touched(start: Tensor, end: Tensor, length: int) -> tuple[int, int]:
    """First and last + 1 of the grid nodes that any of the intervals [start, end] gives a weight; at least one node.

    All nodes on a GPU, where looking would cost more than it saves.
    """
    if start.device.type != "cpu" or start.numel() == 0:
        return 0, length
    low, high = float(start.detach().min()), float(end.detach().max())
    if not math.isfinite(low + high):
        return 0, length
    first = min(max(math.floor(low), 0), length - 1)
    return first, min(max(math.ceil(high) + 1, first + 1), length)


def prroi_pool(features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float) -> Tensor:
    """Pool a table of RoIs: ``rois`` (N, 5) as (image index, x0, y0, x1, y1) in image pixels -> (N, C, ph, pw).

    ``features`` (B, C, H, W) with cell j at pixel j / ``spatial_scale``. Differentiable in ``features`` and the corners.
    """
    image = rois[:, 0].long()
    if features.shape[0] == 1:
        return pool_corners(features, rois[None, :, 1:], output_size, spatial_scale)[0]
    out = features.new_zeros(len(rois), features.shape[1], *output_size)
    for b in image.unique().tolist():
        rows = (image == b).nonzero()[:, 0]
        out = out.index_copy(
            0, rows, pool_corners(features[b : b + 1], rois[None, rows, 1:], output_size, spatial_scale)[0]
        )
    return out
