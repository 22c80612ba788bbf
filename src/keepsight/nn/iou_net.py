"""ATOM's overlap predictor: how well does a box fit the target seen in the reference frame?

Danelljan et al., "ATOM" (CVPR 2019) §3.1; spec/dimp-atom.md §3. Networks trained on overlaps regress 2·IoU - 1, probabilistic
ones an unnormalised log-density; trackers use the raw number in both cases.

:class:`IoUNet` is the network as published. :class:`BoxScorer` computes the same scores, and their gradient by the box, for
one target in one frame in closed form: tracking needs nothing but these two, many times per frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import xywh_to_corners
from .roi_pool import hat_integrals, pool_corners

STRIDE_3, STRIDE_4 = 8, 16  # of the backbone's layer2 and layer3, which the paper calls blocks 3 and 4


def conv_block(channels_in: int, channels_out: int, kernel: int, padding: int) -> nn.Sequential:
    """Convolution with bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding), nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)
    )


class LinearBlock(nn.Module):
    """Linear on the flattened map, batch norm, ReLU."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features_in, features_out)
        self.bn = nn.BatchNorm2d(features_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))  # (N, out)
        return F.relu(self.bn(x[:, :, None, None]))[:, :, 0, 0]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in) and bias (out,) with the batch norm's running statistics folded in."""
        if not isinstance(self.bn, nn.BatchNorm2d):
            return self.linear.weight, self.linear.bias
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)  # type: ignore[operator]
        return self.linear.weight * scale[:, None], (self.linear.bias - self.bn.running_mean) * scale + self.bn.bias


@dataclass(frozen=True)
class Modulation:
    """Channel weights that the reference branch gives to the two test branches."""

    level3: Tensor
    """(B, C)"""
    level4: Tensor
    """(B, C)"""


class IoUNet(nn.Module):
    """Reference branch, test branch and predictor; keys as in the published checkpoints (prefix ``bb_regressor.``)."""

    def __init__(self, channels_in: tuple[int, int] = (128, 256), channels: int = 256) -> None:
        """``channels_in``: of the backbone's layer2 and layer3; ``channels``: of every inner map, 256 in all published nets."""
        super().__init__()
        c3, c4 = channels_in
        self.conv3_1r = conv_block(c3, 128, 3, 1)
        self.conv3_1t = conv_block(c3, 256, 3, 1)
        self.conv3_2t = conv_block(256, channels, 3, 1)
        self.fc3_1r = conv_block(128, 256, 3, 0)
        self.conv4_1r = conv_block(c4, 256, 3, 1)
        self.conv4_1t = conv_block(c4, 256, 3, 1)
        self.conv4_2t = conv_block(256, channels, 3, 1)
        self.fc34_3r = conv_block(512, channels, 1, 0)
        self.fc34_4r = conv_block(512, channels, 1, 0)
        self.fc3_rt = LinearBlock(channels * 5 * 5, channels)
        self.fc4_rt = LinearBlock(channels * 3 * 3, channels)
        self.iou_predictor = nn.Linear(2 * channels, 1)
        for m in self.modules():  # spec §3: Kaiming with fan_in; batch norm weights uniform for legacy reasons
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(m.bias) if m.bias is not None else None
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight)

    def modulation(self, layer2: Tensor, layer3: Tensor, boxes: Tensor) -> Modulation:
        """Reference branch: ``layer2`` (B, C2, H, W), ``layer3`` (B, C3, H/2, W/2), ``boxes`` (B, 4) xywh in crop pixels."""
        corners = xywh_to_corners(boxes)[:, None]  # (B, 1, 4)
        pooled3 = pool_corners(self.conv3_1r(layer2), corners, (3, 3), 1 / STRIDE_3)[:, 0]  # (B, 128, 3, 3)
        pooled4 = pool_corners(self.conv4_1r(layer3), corners, (1, 1), 1 / STRIDE_4)[:, 0]  # (B, 256, 1, 1)
        joint = torch.cat((self.fc3_1r(pooled3), pooled4), dim=1)  # (B, 512, 1, 1)
        return Modulation(self.fc34_3r(joint)[:, :, 0, 0], self.fc34_4r(joint)[:, :, 0, 0])

    def test_features(self, layer2: Tensor, layer3: Tensor) -> tuple[Tensor, Tensor]:
        """Test branch up to the pooling: (B, C, H, W) at stride 8 and (B, C, H/2, W/2) at stride 16."""
        return self.conv3_2t(self.conv3_1t(layer2)), self.conv4_2t(self.conv4_1t(layer3))

    def predict(self, modulation: Modulation, test_features: tuple[Tensor, Tensor], boxes: Tensor) -> Tensor:
        """Scores (B, P) of ``boxes`` (B, P, 4) xywh in crop pixels; differentiable in everything."""
        corners = xywh_to_corners(boxes)
        pooled3 = pool_corners(test_features[0] * modulation.level3[:, :, None, None], corners, (5, 5), 1 / STRIDE_3)
        pooled4 = pool_corners(test_features[1] * modulation.level4[:, :, None, None], corners, (3, 3), 1 / STRIDE_4)
        joint = torch.cat((self.fc3_rt(pooled3.flatten(0, 1)), self.fc4_rt(pooled4.flatten(0, 1))), dim=1)  # (B·P, 2C)
        return self.iou_predictor(joint).view(boxes.shape[:2])

    def scoring_weights(self, modulation: Modulation, index: int = 0) -> ScoringWeights:
        """Fold target ``index``'s modulation and the batch norms into the linear layers: once per target, not per frame."""
        levels = []
        half = self.iou_predictor.in_features // 2
        for block, factors, bins, stride, out in (
            (self.fc3_rt, modulation.level3[index], 5, STRIDE_3, self.iou_predictor.weight[0, :half]),
            (self.fc4_rt, modulation.level4[index], 3, STRIDE_4, self.iou_predictor.weight[0, half:]),
        ):
            weight, bias = block.folded()
            weight = weight.view(len(weight), -1, bins, bins) * factors[:, None, None]  # pooling is linear: modulate after it
            weight = weight.permute(0, 2, 3, 1).flatten(1).contiguous()  # (out, bins·bins·C), channels last
            levels.append(LevelWeights(weight.detach(), bias.detach(), out.detach(), bins, stride))
        return ScoringWeights(levels[0], levels[1], self.iou_predictor.bias.detach())


@dataclass(frozen=True)
class LevelWeights:
    """One pooling level of the predictor with everything linear folded together."""

    weight: Tensor
    """(out, bins·bins·C)"""
    bias: Tensor
    """(out,)"""
    out: Tensor
    """(out,), this level's half of the final linear layer."""
    bins: int
    stride: int


@dataclass(frozen=True)
class ScoringWeights:
    """Both levels for one target."""

    level3: LevelWeights
    level4: LevelWeights
    bias: Tensor


class BoxScorer:
    """Scores of boxes for one target in one frame, with their gradient, in closed form.

    The same numbers as :meth:`IoUNet.predict` and autograd, without graph, repeated modulation, or work on cells that no box
    touches.
    """

    def __init__(self, weights: ScoringWeights, test_features: tuple[Tensor, Tensor], index: int = 0) -> None:
        """``test_features`` of the frame as :meth:`IoUNet.test_features` gives them; ``index``: this target's row in them."""
        self.bias = weights.bias
        self.levels = (
            _LevelScorer(weights.level3, test_features[0][index]),
            _LevelScorer(weights.level4, test_features[1][index]),
        )

    def score(self, boxes: Tensor) -> Tensor:
        """``boxes`` (P, 4) xywh in crop pixels -> (P,)."""
        return self.bias + sum(level.score(boxes)[0] for level in self.levels)

    def score_and_gradient(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and d score / d (x, y, w, h) of each box (P, 4)."""
        (score3, back3), (score4, back4) = (level.score(boxes) for level in self.levels)
        return self.bias + score3 + score4, back3() + back4()


class _LevelScorer:
    """Pool, linear, ReLU, linear at one level; spec §2 gives the gradient of the pooling."""

    def __init__(self, weights: LevelWeights, features: Tensor) -> None:
        self.weights = weights
        self.features = features.permute(1, 2, 0)  # (H, W, C), free for channels-last maps
        self.window: tuple[int, int, int, int] | None = None  # cells [top, bottom) × [left, right) held in self.cells
        self.cells = self.features

    def _cut_window(self, corners: Tensor) -> None:
        """Keep a compact copy of the cells that the boxes can touch; boxes move little between calls, so it is rarely renewed."""
        height, width, _ = self.features.shape
        low, high = corners[:, :2].amin(0).tolist(), corners[:, 2:].amax(0).tolist()

        def clip(value: float, limit: int) -> int:
            return int(min(max(value, 0.0), float(limit)))

        need = clip(low[1] - 1, height), clip(high[1] + 2, height), clip(low[0] - 1, width), clip(high[0] + 2, width)
        have = self.window
        if have is not None and have[0] <= need[0] and have[1] >= need[1] and have[2] <= need[2] and have[3] >= need[3]:
            return
        slack = 2
        top, left = max(need[0] - slack, 0), max(need[2] - slack, 0)
        bottom, right = min(need[1] + slack, height), min(need[3] + slack, width)
        bottom, right = max(bottom, top + 1), max(right, left + 1)
        top, left = min(top, bottom - 1, height - 1), min(left, right - 1, width - 1)
        self.window = top, bottom, left, right
        self.cells = self.features[top:bottom, left:right].contiguous()  # (h, w, C)

    def score(self, boxes: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """This level's part of the scores (P,), and a function for the gradient (P, 4) by x, y, w, h."""
        bins, stride = self.weights.bins, self.weights.stride
        corners = xywh_to_corners(boxes) / stride
        corners[:, 2:] = torch.maximum(corners[:, 2:], corners[:, :2])
        self._cut_window(corners)
        top, _, left, _ = self.window  # type: ignore[misc]
        height, width, channels = self.cells.shape
        count = len(boxes)
        origin = corners.new_tensor([left, top])
        low, high = corners[:, :2] - origin, corners[:, 2:] - origin  # (P, 2) as x, y, in window cells
        along_x = hat_integrals(low[:, 0], high[:, 0], bins, width)  # (P, bins, w)
        along_y = hat_integrals(low[:, 1], high[:, 1], bins, height)  # (P, bins, h)
        side = (high - low) / bins  # (P, 2), of one bin
        area = side.prod(dim=1)
        inverse = torch.where(area > 0, 1 / area.clamp(min=torch.finfo(area.dtype).tiny), torch.zeros_like(area))  # (P,)
        along_y = along_y * inverse[:, None, None]
        rows = (along_y.view(count * bins, height) @ self.cells.view(height, width * channels)).view(
            count * bins, width, channels
        )
        along_x_rows = along_x[:, None].expand(count, bins, bins, width).reshape(count * bins, bins, width)
        pooled = torch.bmm(along_x_rows, rows)  # (P·bins rows, bins columns, C)
        hidden = torch.addmm(self.weights.bias, pooled.view(count, -1), self.weights.weight.T)  # (P, out)
        score = hidden.clamp(min=0) @ self.weights.out

        def backward() -> Tensor:
            grad_hidden = self.weights.out * (hidden > 0)  # (P, out)
            grad_pooled = (grad_hidden @ self.weights.weight).view(count * bins, bins, channels)
            # d score / d along_x: columns of the pooled map against the row-pooled cells, summed over the bin rows
            grad_x = torch.bmm(grad_pooled, rows.transpose(1, 2)).view(count, bins, bins, width).sum(dim=1)
            spread = torch.bmm(along_x_rows.transpose(1, 2), grad_pooled)  # (P·bins, w, C)
            grad_y = (spread.view(count * bins, -1) @ self.cells.view(height, -1).T).view(count, bins, height)
            total = (grad_pooled * pooled).sum(dim=2).view(count, -1).sum(dim=1)  # Σ gradient · value, for d inverse
            x0, x1 = _edge_gradient(grad_x, low[:, 0], high[:, 0], total, area)
            y0, y1 = _edge_gradient(grad_y * inverse[:, None, None], low[:, 1], high[:, 1], total, area)
            return torch.stack((x0 + x1, y0 + y1, x1, y1), dim=1) / stride

        return score, backward





def _edge_gradient(grad: Tensor, low: Tensor, high: Tensor, total: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient by the two ends (P,) of an axis, from the gradient by its hat integrals ``grad`` (P, bins, length).

    ``total``: Σ gradient · value of the box, because the mean divides by the extent.
    """
    bins, length = grad.shape[1:]
    part = torch.arange(bins + 1, dtype=grad.dtype, device=grad.device) / bins
    edges = low[:, None] + part * (high - low)[:, None]  # (P, bins + 1)
    hat = (1 - (edges[..., None] - torch.arange(length, dtype=grad.dtype, device=grad.device)).abs()).clamp(min=0)
    step = F.pad(grad, (0, 0, 1, 0)) - F.pad(grad, (0, 0, 0, 1))  # bin ending at the edge minus bin starting there
    by_edge = (hat * step).sum(dim=2)  # (P, bins + 1)
    usable = area > 0
    extent = torch.where(usable, high - low, torch.ones_like(low))
    by_extent = torch.where(usable, total / extent, torch.zeros_like(total))
    by_low = (by_edge * (1 - part)).sum(dim=1) + by_extent
    by_high = (by_edge * part).sum(dim=1) - by_extent
    zero = torch.zeros_like(by_low)
    return torch.where(usable, by_low, zero), torch.where(usable, by_high, zero)
