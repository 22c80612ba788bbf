"""The box estimator of the default tracker: how probable is a box, given the target's first view? For one CPU thread.

IoU-Net's plan (Danelljan et al., "ATOM", CVPR 2019; spec/dimp-atom.md §3) with the density of Danelljan et al.,
"Probabilistic Regression for Visual Tracking" (CVPR 2020): a score s(box) whose exponential is an unnormalised density, trained
with its KL loss. What differs: the maps are narrow and filtered depth-wise; a box is seen together with its surroundings,
the same box doubled; and the target's first view enters cell by cell, as a template that lies over the pooled box, so that
a box is judged by whether its content sits as it did, not only by whether it looks like an object.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet_lite import ConvNorm
from .precision import at_least_float32, full_precision
from .roi_pool import pool_corners

FINE, COARSE = 8, 16
"""Strides of the two maps."""


@dataclass(frozen=True)
class TargetView:
    """What is kept of S targets: weights of the first layer, made of their reference boxes."""

    weight: Tensor
    """(S, hidden, 2·C·g·g): of the pooled box and of the pooled surroundings."""
    bias: Tensor
    """(S, hidden)."""

    @staticmethod
    def cat(views: list[TargetView]) -> TargetView:
        """One view of all their targets."""
        if len(views) == 1:
            return views[0]
        return TargetView(torch.cat([v.weight for v in views]), torch.cat([v.bias for v in views]))


class BoxNet(nn.Module):
    """``fine`` and ``coarse``: channels of the maps of strides 8 and 16, whose cell j lies at pixel j times the stride."""

    def __init__(self, fine: int, coarse: int, channels: int = 64, hidden: int = 128, grid: int = 5) -> None:
        super().__init__()
        self.channels, self.hidden, self.grid = channels, hidden, grid
        self.lateral_fine = _norm(nn.Conv2d(fine, channels, 1, bias=False))
        self.lateral_coarse = _norm(nn.Conv2d(coarse, channels, 1, bias=False))
        self.reference = _branch(channels)
        self.test = _branch(channels)
        self.template = nn.Conv2d(2 * channels, 2 * channels, 1, groups=2)  # of the box, and of its surroundings
        self.gate = nn.Sequential(
            nn.Linear(channels * grid**2, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2 * channels)
        )
        inputs = 2 * channels * grid**2
        self.looks = nn.Linear(inputs, hidden)  # of what is in the box, channels weighed by the gate
        self.agreement = nn.Linear(inputs, hidden, bias=False)  # of it times the template, cell by cell
        self.mix = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(hidden, hidden), nn.ReLU(inplace=True))
        self.score = nn.Linear(hidden, 1)

    def fuse(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C1, 2n-1, 2n-1) and (B, C2, n, n) -> (B, C, 2n-1, 2n-1)."""
        lifted = F.interpolate(
            self.lateral_coarse(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=True
        )  # aligned corners: coarse cell j lies on fine cell 2j
        return F.relu(self.lateral_fine(fine) + lifted)

    def view(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> TargetView:
        """What to keep of the targets in ``boxes`` (S, 4), xywh in crop pixels, one in each of S crops."""
        maps = self.reference(self.fuse(fine, coarse))
        with full_precision(maps):
            pooled = self._pool(at_least_float32(maps), boxes[:, None])[:, 0]  # (S, 2, C, g, g)
            gate = 1 + self.gate(pooled[:, 0].flatten(1)).unflatten(1, (2, -1))  # (S, 2, C)
            templates = self.template(pooled.flatten(1, 2)).unflatten(1, (2, -1))  # (S, 2, C, g, g)
            looks = self.looks.weight.view(self.hidden, *templates.shape[1:])
            agreement = self.agreement.weight.view_as(looks)
            weight = looks * gate[:, None, ..., None, None] + agreement * templates[:, None]  # (S, hidden, 2, C, g, g)
            return TargetView(weight.flatten(2), self.looks.bias.expand(len(boxes), -1))

    def maps(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Of crops that are searched: (B, C, 2n-1, 2n-1)."""
        return at_least_float32(self.test(self.fuse(fine, coarse)))

    def scores(self, maps: Tensor, targets: TargetView, boxes: Tensor) -> Tensor:
        """ln density, up to a constant, of ``boxes`` (B, P, 4), xywh in crop pixels, of B targets in B ``maps``: (B, P)."""
        with full_precision(maps):
            pooled = self._pool(maps, boxes).flatten(2)  # (B, P, 2·C·g·g)
            first = torch.baddbmm(targets.bias[:, None], pooled, targets.weight.transpose(1, 2))  # (B, P, hidden)
            scores: Tensor = self.score(self.mix(first))[..., 0]
        return scores

    def _pool(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """(B, P, 4) -> (B, P, 2, C, g, g): inside the boxes, and inside boxes of twice their size around them."""
        x, y, w, h = boxes.unbind(-1)
        # cell 0 lies in the middle of pixel 0, which has the coordinate 0.5
        left, top = x - 0.5, y - 0.5
        near = torch.stack((left, top, left + w, top + h), dim=-1)
        wide = torch.stack((left - 0.5 * w, top - 0.5 * h, left + 1.5 * w, top + 1.5 * h), dim=-1)
        size = (self.grid, self.grid)  # one call for each: the cells that the smaller boxes touch are fewer
        return torch.stack([pool_corners(maps, corners, size, 1 / FINE) for corners in (near, wide)], dim=2)


def _norm(conv: nn.Conv2d) -> ConvNorm:
    return ConvNorm(OrderedDict(conv=conv, bn=nn.BatchNorm2d(conv.out_channels)))


def _branch(channels: int) -> nn.Sequential:
    """Depth-wise 3×3 and 1×1 convolution."""
    wide = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(
        _norm(wide), nn.ReLU(inplace=True), _norm(nn.Conv2d(channels, channels, 1, bias=False)), nn.ReLU(inplace=True)
    )
