"""ATOM's overlap predictor: how well does a box fit the target seen in the reference frame?

Danelljan et al., "ATOM" (CVPR 2019) §3.1; spec/dimp-atom.md §3. Networks trained on overlaps regress 2·IoU - 1, probabilistic
ones an unnormalised log-density; trackers use the raw number in both cases.

:class:`IoUNet` is the network as published, and the other kinds of the paper's Table 1. :class:`BoxScorer` computes the same
scores, and their gradient by the box, for one target in one frame in closed form: tracking needs nothing but these two, many
times per frame. :class:`AutogradScorer` does so for any other function of boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import xywh_to_corners
from ..errors import InputError, nearest_names
from .precision import at_least_float32, full_precision
from .roi_pool import pool_corners

STRIDE_3, STRIDE_4 = 8, 16  # of the backbone's layer2 and layer3, which the paper calls blocks 3 and 4
REFERENCES = ("modulation", "none", "concatenation", "siamese")
"""How a network can use the reference frame; the first is the published one."""
LEVELS = ((3, 4), (3,), (4,))
"""The paper's blocks that a network can use; the first is the published choice."""


def conv_block(channels_in: int, channels_out: int, kernel: int, padding: int) -> nn.Sequential:
    """Convolution with bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=padding),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
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
        mean, var = self.bn.running_mean, self.bn.running_var
        assert mean is not None
        assert var is not None
        scale = self.bn.weight / torch.sqrt(var + self.bn.eps)
        return self.linear.weight * scale[:, None], (self.linear.bias - mean) * scale + self.bn.bias


@dataclass(frozen=True)
class Modulation:
    """What is kept of B targets. By ``IoUNet.reference``: ``modulation``: weights of the test maps' channels;
    ``concatenation``: vectors that the pooled test features are joined by; ``siamese``: the outputs for the reference boxes.

    A level that the network does not have, and both of a network without reference, have n = 0 columns.
    """

    level3: Tensor
    """(B, n)"""
    level4: Tensor
    """(B, n)"""


def check_kind(reference: str, levels: tuple[int, ...]) -> None:
    """Raises :class:`InputError` unless these are of :data:`REFERENCES` and :data:`LEVELS`."""
    if reference not in REFERENCES:
        raise InputError(f"reference {reference!r} is unknown; {nearest_names(str(reference), REFERENCES)}")
    if levels not in LEVELS:
        raise InputError(f"levels {levels!r} are unknown; {nearest_names(str(levels), map(str, LEVELS))}")


class IoUNet(nn.Module):
    """Reference branch, test branch and predictor; keys as in the published checkpoints (prefix ``bb_regressor.``).

    With another ``reference`` or fewer ``levels`` than published, it is one of the networks of the paper's Table 1.
    """

    def __init__(
        self,
        channels_in: tuple[int, int] = (128, 256),
        channels: int = 256,
        reference: str = "modulation",
        levels: tuple[int, ...] = (3, 4),
    ) -> None:
        """``channels_in``: of the backbone's layer2 and layer3; ``channels``: of every inner map, 256 in all published nets.

        ``reference``: ``modulation``; ``none``: the test frame alone; ``concatenation``: the vectors that would modulate
        are joined with the pooled test features in front of the linear layers; ``siamese``: the test branch's layers serve
        the reference too, and the prediction is the scalar product of both outputs, with a learned scale and bias, since
        outputs of a ReLU have no negative one and 2·IoU - 1 is often negative.
        ``levels``: (3, 4), or (3,) or (4,) without the other's layers. Raises :class:`InputError` for others.
        """
        super().__init__()
        check_kind(reference, levels)
        self.reference, self.levels = reference, levels
        c3, c4 = channels_in
        branch = reference in ("modulation", "concatenation")
        if 3 in levels:
            if branch:
                self.conv3_1r = conv_block(c3, 128, 3, 1)
            self.conv3_1t = conv_block(c3, 256, 3, 1)
            self.conv3_2t = conv_block(256, channels, 3, 1)
            if branch:
                self.fc3_1r = conv_block(128, 256, 3, 0)
        if 4 in levels:
            if branch:
                self.conv4_1r = conv_block(c4, 256, 3, 1)
            self.conv4_1t = conv_block(c4, 256, 3, 1)
            self.conv4_2t = conv_block(256, channels, 3, 1)
        if branch and 3 in levels:
            self.fc34_3r = conv_block(256 * len(levels), channels, 1, 0)
        if branch and 4 in levels:
            self.fc34_4r = conv_block(256 * len(levels), channels, 1, 0)
        joined = channels if reference == "concatenation" else 0
        if 3 in levels:
            self.fc3_rt = LinearBlock(channels * 5 * 5 + joined, channels)
        if 4 in levels:
            self.fc4_rt = LinearBlock(channels * 3 * 3 + joined, channels)
        outputs = channels * len(levels)
        self.iou_predictor = nn.Linear(1 if reference == "siamese" else outputs, 1)
        for m in self.modules():  # spec §3: Kaiming with fan_in; batch norm weights uniform for legacy reasons
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight)
        if reference == "siamese":  # a product of n independent numbers varies by √n
            nn.init.constant_(self.iou_predictor.weight, outputs**-0.5)

    def modulation(self, layer2: Tensor, layer3: Tensor, boxes: Tensor) -> Modulation:
        """Reference branch: ``layer2`` (B, C2, H, W), ``layer3`` (B, C3, H/2, W/2), ``boxes`` (B, 4) xywh in crop pixels."""
        corners = xywh_to_corners(boxes)[:, None]  # (B, 1, 4)
        found = {3: layer2.new_zeros(len(boxes), 0), 4: layer3.new_zeros(len(boxes), 0)}
        if self.reference == "siamese":
            maps = self.test_features(layer2, layer3)
            found |= {level: self._outputs(level, maps[level - 3], found[level], corners) for level in self.levels}
        elif self.reference != "none":
            parts = []
            if 3 in self.levels:
                pooled3 = pool_corners(self.conv3_1r(layer2), corners, (3, 3), 1 / STRIDE_3)[:, 0]  # (B, 128, 3, 3)
                parts.append(self.fc3_1r(pooled3))
            if 4 in self.levels:
                pooled4 = pool_corners(self.conv4_1r(layer3), corners, (1, 1), 1 / STRIDE_4)[:, 0]  # (B, 256, 1, 1)
                parts.append(pooled4)
            joint = torch.cat(parts, dim=1)  # (B, 256 per level, 1, 1)
            if 3 in self.levels:
                found[3] = self.fc34_3r(joint)[:, :, 0, 0]
            if 4 in self.levels:
                found[4] = self.fc34_4r(joint)[:, :, 0, 0]
        return Modulation(found[3], found[4])

    def test_features(self, layer2: Tensor, layer3: Tensor) -> tuple[Tensor, Tensor]:
        """Test branch up to the pooling: (B, C, H, W) at stride 8 and (B, C, H/2, W/2) at stride 16.

        A level that the network does not have gets no channels.
        """
        return (
            self.conv3_2t(self.conv3_1t(layer2)) if 3 in self.levels else layer2[:, :0],
            self.conv4_2t(self.conv4_1t(layer3)) if 4 in self.levels else layer3[:, :0],
        )

    def test_branch(self, layer2: Tensor, layer3: Tensor) -> tuple[LevelMap, LevelMap]:
        """The test branch of one image (1, C2, H, W), (1, C3, H/2, W/2), to be computed only around the boxes asked for."""
        map3, map4 = LevelMap(layer2[:, :0]), LevelMap(layer3[:, :0])  # of levels that the network does not have
        if 3 in self.levels:
            map3 = LevelMap(layer2, nn.Sequential(self.conv3_1t, self.conv3_2t))
        if 4 in self.levels:
            map4 = LevelMap(layer3, nn.Sequential(self.conv4_1t, self.conv4_2t))
        return map3, map4

    def predict(self, modulation: Modulation, test_features: tuple[Tensor, Tensor], boxes: Tensor) -> Tensor:
        """Scores (B, P) of ``boxes`` (B, P, 4) xywh in crop pixels; differentiable in everything."""
        corners, targets = xywh_to_corners(boxes), (modulation.level3, modulation.level4)
        joint = torch.cat(
            [self._outputs(level, test_features[level - 3], targets[level - 3], corners) for level in self.levels],
            dim=1,
        )  # (B·P, C per level)
        if self.reference == "siamese":
            known = torch.cat(targets, dim=1)  # (B, C per level)
            joint = (joint.unflatten(0, boxes.shape[:2]) * known[:, None]).sum(dim=2).view(-1, 1)  # (B·P, 1)
        return self.iou_predictor(joint).view(boxes.shape[:2])

    def _outputs(self, level: int, maps: Tensor, targets: Tensor, corners: Tensor) -> Tensor:
        """The test branch from the pooling on: ``maps`` (B, C, h, w), ``targets`` (B, n), ``corners`` (B, P, 4) -> (B·P, C)."""
        block, bins, stride = self._pooling(level)
        if self.reference == "modulation":
            maps = maps * targets[:, :, None, None]
        pooled = pool_corners(maps, corners, (bins, bins), 1 / stride).flatten(0, 1)  # (B·P, C, bins, bins)
        if self.reference == "concatenation":
            pooled = torch.cat((pooled.flatten(1), targets.repeat_interleave(corners.shape[1], dim=0)), dim=1)
        return block(pooled)

    def _pooling(self, level: int) -> tuple[LinearBlock, int, int]:
        """The linear layer behind a level's pooling, the bins on a side, the stride of the map."""
        return (self.fc3_rt, 5, STRIDE_3) if level == 3 else (self.fc4_rt, 3, STRIDE_4)

    def forward(
        self, reference: tuple[Tensor, Tensor], boxes: Tensor, test: tuple[Tensor, Tensor], proposals: Tensor
    ) -> Tensor:
        """The training call: scores (I, S, P) of ``proposals`` (I, S, P, 4) xywh in crop pixels, in I test frames of S sequences.

        ``reference``: layer2 (S, C2, H, W) and layer3 (S, C3, H/2, W/2) of one frame per sequence, with ``boxes`` (S, 4);
        ``test``: the same of all test frames, frame-major (I·S, …). One modulation serves all test frames. Under autocast
        only the convolutions run in half precision. A siamese network's norms see reference and test frames one after the
        other.
        """
        frames = proposals.shape[0]
        with full_precision(boxes):
            reference = at_least_float32(reference[0]), at_least_float32(reference[1])
            modulation = self.modulation(*reference, boxes.to(reference[0].dtype))
        repeated = Modulation(modulation.level3.repeat(frames, 1), modulation.level4.repeat(frames, 1))  # (I·S, n)
        maps = self.test_features(*test)
        with full_precision(boxes):
            maps = at_least_float32(maps[0]), at_least_float32(maps[1])
            scores = self.predict(repeated, maps, proposals.flatten(0, 1).to(maps[0].dtype))  # (I·S, P)
        return scores.unflatten(0, (frames, -1))

    def scoring_weights(self, modulation: Modulation, index: int = 0) -> ScoringWeights:
        """Fold all that is known of target ``index``, and the batch norms, into the linear layers.

        Whatever the reference is, it leaves two linear layers behind a pooled map that does not depend on it.
        """
        targets = {3: modulation.level3[index], 4: modulation.level4[index]}  # (n,)
        halves = self.iou_predictor.weight[0].chunk(len(self.levels))
        levels = {}
        for i, level in enumerate(self.levels):
            block, bins, stride = self._pooling(level)
            target = targets[level]
            weight, bias = block.folded()
            if self.reference == "concatenation":  # what the joined vector adds is the same for all boxes
                weight, joined = weight[:, : -len(target)], weight[:, -len(target) :]
                bias = bias + joined @ target
            weight = weight.unflatten(1, (-1, bins, bins))  # (out, C, bins, bins)
            if self.reference == "modulation":
                weight = weight * target[:, None, None]  # pooling is linear: modulate after it
            out = self.iou_predictor.weight[0] * target if self.reference == "siamese" else halves[i]
            weight = weight.permute(2, 3, 1, 0).flatten(0, 1).contiguous()  # (bins·bins, C, out)
            levels[level] = LevelWeights(weight.detach(), bias.detach(), out.detach(), bins, stride)
        return ScoringWeights(levels.get(3), levels.get(4), self.iou_predictor.bias.detach())


@dataclass(frozen=True)
class LevelWeights:
    """One pooling level of the predictor with everything linear folded together."""

    weight: Tensor
    """(bins·bins, C, out)"""
    bias: Tensor
    """(out,)"""
    out: Tensor
    """(out,), this level's part of the final linear layer."""
    bins: int
    stride: int


@dataclass(frozen=True)
class ScoringWeights:
    """The levels for one target; None for one that the network does not have."""

    level3: LevelWeights | None
    level4: LevelWeights | None
    bias: Tensor


@dataclass(frozen=True)
class LevelMap:
    """A test-branch map that is computed where it is needed: the boxes of a frame touch a small part of it."""

    source: Tensor
    """(1, C, H, W)"""
    layers: nn.Sequential | None = None
    """Two 3×3 convolutions with padding 1 that make the map of ``source``; None if ``source`` is the map."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), which the convolutions keep."""
        return self.source.shape[-2], self.source.shape[-1]

    def cells(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """The map's rows [top, bottom) and columns [left, right) as (h, w, C), contiguous."""
        height, width = self.size
        layers = list(self.layers or ())

        def span(context: int) -> tuple[int, int, int, int]:
            return (
                max(top - context, 0),
                min(bottom + context, height),
                max(left - context, 0),
                min(right + context, width),
            )

        # one ring of context per convolution: a cut inside the map spoils the outermost cells, the map's own border is right
        have = span(len(layers))
        part = self.source[:, :, have[0] : have[1], have[2] : have[3]]
        for context, layer in zip(reversed(range(len(layers))), layers, strict=True):
            need = span(context)
            part = layer(part)[:, :, need[0] - have[0] : need[1] - have[0], need[2] - have[2] : need[3] - have[2]]
            have = need
        return part[0].permute(1, 2, 0).contiguous()


class BoxScorer:
    """Scores of boxes for one target in one frame, with their gradient, in closed form.

    The same numbers as :meth:`IoUNet.predict` and autograd, without graph, repeated modulation, or work on cells that no box
    touches.
    """

    def __init__(self, weights: ScoringWeights, maps: tuple[LevelMap, LevelMap]) -> None:
        self.bias = weights.bias
        levels = zip((weights.level3, weights.level4), maps, strict=True)
        self.levels = [_LevelScorer(level, level_map) for level, level_map in levels if level is not None]

    def score(self, boxes: Tensor) -> Tensor:
        """``boxes`` (P, 4) xywh in crop pixels -> (P,)."""
        return sum((level.forward(boxes).score for level in self.levels), start=self.bias)

    def score_and_gradient(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and d score / d (x, y, w, h) of each box (P, 4)."""
        passes = [level.forward(boxes) for level in self.levels]
        by_corner = sum(level.backward(p) for level, p in zip(self.levels, passes, strict=True))  # (P, 2 ends, 2 axes)
        low, high = by_corner[:, 0], by_corner[:, 1]  # type: ignore[index]
        return sum((p.score for p in passes), start=self.bias), torch.cat((low + high, high), dim=1)


class AutogradScorer:
    """Scores of boxes by any differentiable function, with their gradient by autograd; for where there is no closed form.

    Works inside inference mode too, which trackers run in and whose tensors autograd refuses: of ``tensors`` it keeps copies
    made outside of it. Example: ``AutogradScorer(lambda b, *maps: net.predict(kept, maps, b[None])[0], *maps)``; ``kept`` has
    to be among the tensors as well if it was made in inference mode.
    """

    def __init__(self, function: Callable[..., Tensor], *tensors: Tensor) -> None:
        """``function(boxes, *tensors)``: (P, 4) xywh in crop pixels -> (P,), each score of its own box alone.

        ``tensors``: whatever it uses that may have been made in inference mode.
        """
        self.function = function
        self.tensors = [ordinary(t) for t in tensors]

    def score(self, boxes: Tensor) -> Tensor:
        """``boxes`` (P, 4) xywh in crop pixels -> (P,)."""
        with torch.inference_mode(False), torch.no_grad():
            return self.function(ordinary(boxes), *self.tensors)

    def score_and_gradient(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and d score / d (x, y, w, h) of each box (P, 4)."""
        with torch.inference_mode(False), torch.enable_grad():
            variable = ordinary(boxes).requires_grad_()
            scores = self.function(variable, *self.tensors)  # (P,)
            (gradient,) = torch.autograd.grad(scores.sum(), variable)
        return scores.detach(), gradient


def ordinary(x: Tensor) -> Tensor:
    """A copy without history that autograd can work with, though inference mode may have made ``x``, or is on."""
    with torch.inference_mode(False):
        return x.detach().clone()


@dataclass(frozen=True)
class _Pass:
    """What the backward pass needs of a forward pass over P boxes; letters as in spec §2."""

    score: Tensor  # (P,)
    extent: Tensor  # (P, 2) y, x, in cells
    inverse: Tensor  # (P,) 1 / bin area, 0 without area
    hat: Tensor  # (P, 2 axes, 2 ends, bins, L) hat functions at both ends of every bin
    along_y: Tensor  # (P, bins, Ly) integrals, divided by the bin area
    along_x: Tensor  # (P, bins, Lx)
    mean: Tensor  # (P, bins, bins, Ly, Lx) share of every cell in every bin's mean
    hidden: Tensor  # (P, out) before the ReLU


class _LevelScorer:
    """Pool, linear, ReLU, linear at one level.

    Pooling and the first linear layer are both linear in the map, so the cells that bin (k, q) of any box can touch are put
    through the bin's own slice of that layer once (``table``); after that a box costs its shares of a few cells per bin,
    not a product with the whole layer, forward and backward.
    """

    def __init__(self, weights: LevelWeights, level: LevelMap) -> None:
        self.weights, self.level = weights, level
        bins = weights.bins
        self.part = torch.arange(bins + 1).to(level.source) / bins  # (bins + 1,)
        self.size = torch.tensor(level.size).to(level.source)  # (2,) y, x
        self.slack = 0
        self.first = level.source.new_zeros(2, bins)  # (2, bins) first cell of each bin row and column in the table
        self.last = self.first - 1  # one behind the last
        self.grid = self.first
        self.lengths = (0, 0)
        self.table = level.source.new_zeros(0, 0)

    def _tabulate(self, starts: Tensor, ends: Tensor) -> None:
        """Have the table cover all cells that bins from ``starts`` to ``ends`` (P, 2, bins) touch."""
        limit = self.size[:, None]
        first = torch.minimum(starts.amin(0).floor().clamp(min=0), limit - 1)  # (2, bins)
        last = torch.minimum(ends.amax(0).ceil() + 1, limit)
        last = torch.maximum(last, first + 1)
        if bool((first >= self.first).all() and (last <= self.last).all()):
            return
        # room to move: one cell at first, then five; boxes that wander farther get the whole map
        self.slack = 4 * self.slack + 1
        first = (first - self.slack).clamp(min=0)
        last = torch.minimum(last + self.slack, limit)
        length = (last - first).amax(1, keepdim=True)  # (2, 1), the same for all bins of an axis
        self.first = torch.minimum(first, limit - length)
        self.last = self.first + length
        (rows, cols), (height, width) = self.first.long().tolist(), length[:, 0].long().tolist()
        self.lengths = height, width
        top, left = min(rows), min(cols)
        cells = self.level.cells(top, max(rows) + height, left, max(cols) + width)  # (h, w, C)
        blocks = [
            cells[y - top : y - top + height, x - left : x - left + width].flatten(0, 1) for y in rows for x in cols
        ]
        self.table = torch.bmm(torch.stack(blocks), self.weights.weight).flatten(0, 1)  # (bins·bins·Ly·Lx, out)
        steps = torch.arange(max(height, width), dtype=self.part.dtype, device=self.part.device)
        self.grid = self.first[:, None, :, None] + steps  # (2 axes, 1, bins, L)

    def forward(self, boxes: Tensor) -> _Pass:
        """``boxes`` (P, 4) xywh in crop pixels."""
        cells = (boxes / self.weights.stride).view(-1, 2, 2).flip(2)  # (P, corner | size, y | x)
        corner, extent = cells[:, 0], cells[:, 1].clamp(min=0)
        edges = corner[..., None] + self.part * extent[..., None]  # (P, 2, bins + 1)
        starts, ends = edges[..., :-1], edges[..., 1:]
        self._tabulate(starts, ends)
        t = (torch.stack((starts, ends), dim=2)[..., None] - self.grid).clamp(-1, 1)  # (P, 2 axes, 2 ends, bins, L)
        magnitude = t.abs()
        primitive = torch.addcmul(t, t, magnitude, value=-0.5)  # Φ(t) - ½; the constant cancels in the difference
        along = primitive[:, :, 1] - primitive[:, :, 0]  # (P, 2, bins, L)
        area = extent[:, 0] * extent[:, 1]
        inverse = torch.where(area > 0, self.weights.bins**2 / area, 0.0)  # (P,)
        along_y = along[:, 0, :, : self.lengths[0]] * inverse[:, None, None]  # (P, bins, Ly)
        along_x = along[:, 1, :, : self.lengths[1]]  # (P, bins, Lx)
        mean = along_y[:, :, None, :, None] * along_x[:, None, :, None, :]  # (P, bins, bins, Ly, Lx)
        hidden = torch.addmm(self.weights.bias, mean.flatten(1), self.table)
        score = hidden.clamp(min=0) @ self.weights.out
        return _Pass(score, extent, inverse, 1 - magnitude, along_y, along_x, mean, hidden)

    def backward(self, p: _Pass) -> Tensor:
        """Gradient of the scores by the boxes' corners in crop pixels, (P, 2 ends, 2 as x, y)."""
        by_mean = ((self.weights.out * (p.hidden > 0)) @ self.table.T).view_as(p.mean)
        by_along = p.hat.new_zeros(p.hat.shape[0], 2, self.weights.bins, p.hat.shape[-1])
        by_along[:, 0, :, : self.lengths[0]] = (
            torch.einsum("pkqyx,pqx->pky", by_mean, p.along_x) * p.inverse[:, None, None]
        )
        by_along[:, 1, :, : self.lengths[1]] = torch.einsum("pkqyx,pky->pqx", by_mean, p.along_y)
        by_end = (p.hat * by_along[:, :, None]).sum(dim=4)  # (P, 2 axes, 2 ends, bins)
        by_edge = F.pad(by_end[:, :, 1], (1, 0)) - F.pad(by_end[:, :, 0], (0, 1))  # (P, 2, bins + 1)
        # the mean divides by the extent
        value = (by_mean * p.mean).flatten(1).sum(dim=1)  # Σ gradient · pooled
        usable = (p.inverse > 0)[:, None]
        by_extent = torch.where(usable, value[:, None] / p.extent, 0.0)  # (P, 2)
        along_far = by_edge @ self.part  # an edge at fraction q moves by q with the far end, by 1 - q with the near one
        high = along_far - by_extent
        low = by_edge.sum(dim=2) - along_far + by_extent
        return (torch.stack((low, high), dim=1) * (usable[..., None] / self.weights.stride)).flip(2)
