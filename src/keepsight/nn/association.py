"""Target candidate association of KeepTrack.

Mayer et al., "Learning target candidate association to keep track of what not to track" (ICCV 2021). Reads in the order of the
paper's section 3: candidates of a score map, their descriptors, positions and scores; one embedding of each; an attention
network over both frames; similarities; an assignment with a "no match" bin. Spec of KeepTrack §1.1 to 1.8.

Letters: S = side of the score map, F = side of the feature map (stride 16), D = channels of a descriptor, M and N = candidates
of the previous and of the current frame, B = pairs of frames with equal M and N. A candidate is a row of (B, N, D).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError, nearest_names
from .precision import at_least_float32, full_precision

HEADS = 4
LAYER_KINDS = ("self", "cross")
NORMALISATIONS = ("sinkhorn", "double_softmax")

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class AssociationConfig:
    """The association network; defaults are the published ones."""

    feature_channels: int = 1024
    """Channels of the backbone's features at stride 16 (layer3 of ResNet-50: 1024)."""
    descriptor_channels: int = 256
    """Channels D of a descriptor and of everything after it; a multiple of 4, the number of attention heads."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256)
    """Hidden channels of the encoder of score and position."""
    position_frequencies: int = 0
    """The encoder also sees sin and cos of π 2^k p, k below this, of each coordinate p: small steps become large ones."""
    gnn_layers: tuple[str, ...] = ("self", "cross", "self", "cross")
    """What each layer attends to: candidates of its own frame or of the other. The paper counts pairs: its ablation of 0, 2
    and 9 layers is ``("self", "cross") * n``."""
    skip_gnn: bool = False
    """Leave the layers out of the computation, though their parameters are there."""
    sinkhorn_iterations: int = 10
    """Normalisations of rows and columns, one after the other."""
    normalisation: str = "sinkhorn"
    """``sinkhorn`` or ``double_softmax``: how similarities become an assignment."""
    match_threshold: float = 0.2
    """A match must be more probable than this."""
    swapped_centre: bool = True
    """Take the image's centre as (W/2, H/2) for points (y, x), as the published tracker does (quirk Q1). Its network was
    trained with (H/2, W/2): our own training sets False, and square images are the same in both."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "gnn_layers", tuple(self.gnn_layers))  # lists in files
        object.__setattr__(self, "encoder_channels", tuple(self.encoder_channels))
        for kind in self.gnn_layers:
            if kind not in LAYER_KINDS:
                raise InputError(f"gnn_layers has {kind!r}; {nearest_names(str(kind), LAYER_KINDS)}")
        if self.normalisation not in NORMALISATIONS:
            raise InputError(
                f"normalisation {self.normalisation!r} is unknown; {nearest_names(self.normalisation, NORMALISATIONS)}"
            )
        if self.descriptor_channels % HEADS or self.descriptor_channels < HEADS:
            raise InputError(f"descriptor_channels is {self.descriptor_channels}; expected a multiple of {HEADS}")
        if self.sinkhorn_iterations < 1:
            raise InputError(f"sinkhorn_iterations is {self.sinkhorn_iterations}; expected 1 or more")
        if self.position_frequencies < 0:
            raise InputError(f"position_frequencies is {self.position_frequencies}; expected 0 or more")
        if not 0 <= self.match_threshold < 1:
            raise InputError(f"match_threshold is {self.match_threshold}; expected a probability, 0 <= t < 1")


@dataclass(frozen=True)
class Candidates:
    """What is known of each candidate of a frame; B frames with N candidates each."""

    descriptors: Tensor
    """(B, N, D), of :class:`DescriptorExtractor`."""
    points: Tensor
    """(B, N, 2): (y, x) in image pixels, of :func:`image_points`."""
    scores: Tensor
    """(B, N): classifier's scores as they are."""


@dataclass(frozen=True)
class Matches:
    """Partners of the candidates of a pair of frames; index0 and probability0 belong to the previous frame."""

    index0: Tensor
    """(B, M) int64: the partner's number in the current frame, -1 for none."""
    index1: Tensor
    """(B, N) int64: the partner's number in the previous frame, -1 for none."""
    probability0: Tensor
    """(B, M): of the mutual best pair that the candidate belongs to, even one below the threshold; 0 if it is in none."""
    probability1: Tensor
    """(B, N), likewise."""


# --- 1.1 candidates: local maxima of the score map ------------------------------------------------------------------------


def find_candidates(
    scores: Tensor, threshold: float, window: int = 5, *, included: bool = False
) -> tuple[Tensor, Tensor]:
    """Local maxima of a score map (S, S') above ``threshold``, by falling score: cells (N, 2) int64 (row, column), scores (N,).

    A maximum equals the largest score within ``window`` × ``window`` cells around it, so equal neighbours are all there (up
    to S·S' of a flat map); equals come in row-major order. NaN counts as -∞. There may be none: (0, 2) and (0,).
    """
    if scores.dim() != 2 or window % 2 != 1:
        raise InputError(
            f"expected one score map (rows, columns) and an odd window, got {tuple(scores.shape)}, {window}"
        )
    scores = torch.where(scores.isnan(), -math.inf, scores)
    largest = F.max_pool2d(scores[None, None], window, stride=1, padding=window // 2)[0, 0]  # (S, S')
    is_high = scores >= threshold if included else scores > threshold
    cells = ((scores == largest) & is_high).nonzero()  # (N, 2)
    found = scores[cells[:, 0], cells[:, 1]]
    order = found.argsort(descending=True, stable=True)
    return cells[order], found[order]


# --- 1.2 descriptors ------------------------------------------------------------------------------------------------------


class DescriptorExtractor(nn.Module):
    """Backbone features -> a descriptor of each candidate.

    A convolution of side k with padding k // 2 over the whole map (4 in the published network), read at the candidates' cells.
    Here the patches under these cells are taken out first, and meet the kernel in one matrix product: for N of the S² cells,
    N / S² of the work.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2)

    def forward(self, features: Tensor, cells: Tensor) -> Tensor:
        """``features`` (B, C, F, F'), ``cells`` (B, N, 2) int64 (row, column) of the score map -> (B, N, D).

        The map has F × F' cells if the kernel is odd, one more on either axis if it is even.

        Raises :class:`InputError` for a cell outside the map.
        """
        height, width = features.shape[-2:]
        k = self.conv.kernel_size[0]
        more = (k + 1) % 2
        limits = torch.tensor((height + more, width + more), device=cells.device)
        if ((cells < 0) | (cells >= limits)).any():
            raise InputError(f"a candidate lies outside the score map of {height + more} x {width + more} cells")
        reach = torch.arange(k, device=cells.device) - k // 2  # of 4: rows r - 2 … r + 1 of the features
        rows = (cells[..., 0, None] + reach)[..., :, None]  # (B, N, k, 1)
        columns = (cells[..., 1, None] + reach)[..., None, :]  # (B, N, 1, k)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (B, N, k, k)
        image = torch.arange(len(features), device=cells.device)[:, None, None, None]
        patches = features[image, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]  # (B, N, k, k, C)
        patches = patches.masked_fill(~inside[..., None], 0).permute(0, 1, 4, 2, 3)
        return F.linear(patches.flatten(2), self.conv.weight.flatten(1), self.conv.bias)


# --- 1.3 positions --------------------------------------------------------------------------------------------------------


def image_points(cells: Tensor, search_area: Sequence[float], side: int) -> Tensor:
    """Cells (..., 2) (row, column) of a score map with ``side`` cells -> (y, x) in image pixels, float32.

    ``search_area``: (x, y, w, h) of the crop, = (x1, y1, x2 - x1 - 1, y2 - y1 - 1) of the crop's corners; its corners are
    the first and the last cell.
    """
    x, y, w, h = search_area
    share = cells.to(torch.float32) / (side - 1)
    return share * share.new_tensor((h, w)) + share.new_tensor((y, x))


def normalise_points(points: Tensor, image_size: Tensor | Sequence[float], *, swapped_centre: bool) -> Tensor:
    """(p - c) / (0.7 max(H, W)) of points (B, N, 2), (y, x) in image pixels.

    ``image_size``: (H, W), or (B, 2). c = (H/2, W/2), or with ``swapped_centre`` (W/2, H/2): see :class:`AssociationConfig`.
    """
    size = torch.as_tensor(image_size, dtype=points.dtype, device=points.device)[..., None, :]  # (1, 2) or (B, 1, 2)
    centre = (size.flip(-1) if swapped_centre else size) / 2
    return (points - centre) / (0.7 * size.amax(dim=-1, keepdim=True))


# --- layers on sets: 1×1 convolutions and batch norms over the last axis ----------------------------------------------------


class Pointwise(nn.Conv1d):
    """A 1×1 convolution of a set (..., N, C) -> (..., N, C'), under the published shape of its weights (C', C, 1)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight[..., 0], self.bias)


class SetNorm(nn.BatchNorm1d):
    """Batch norm of the channels of (B, N, C)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, -2)).view(input.shape)


def perceptron(*channels: int) -> nn.Sequential:
    """Pointwise layers; batch norm and ReLU behind each but the last, whose bias starts at 0."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in itertools.pairwise(channels):
        layers += [Pointwise(channels_in, channels_out), SetNorm(channels_out), nn.ReLU()]
    _zero_bias(layers[-3])
    return nn.Sequential(*layers[:-2])


def _zero_bias(layer: nn.Module) -> None:
    assert isinstance(layer.bias, Tensor)  # for the type checker
    nn.init.zeros_(layer.bias)


def frame_by_frame(module: nn.Module, x: Tensor, count: int) -> Tensor:
    """``module`` of both frames' candidates (B, M + N, C), M = ``count``.

    In training one frame after the other, for batch norms to take the statistics of each by itself; otherwise at once.
    """
    if not module.training:
        return module(x)
    return torch.cat([module(x[:, :count]), module(x[:, count:])], dim=1)


def fold_set_norms(module: ModuleT) -> ModuleT:
    """A copy for inference, every :class:`SetNorm` folded into the layer before it; same numbers up to rounding."""
    folded = copy.deepcopy(module).eval()
    for parent in [m for m in folded.modules() if isinstance(m, nn.Sequential)]:
        for i, (layer, norm) in enumerate(itertools.pairwise(list(parent))):
            if isinstance(layer, Pointwise) and isinstance(norm, SetNorm):
                parent[i], parent[i + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return folded


# --- 1.4 score and position ---------------------------------------------------------------------------------------------------


class ScorePositionEncoder(nn.Module):
    """ψ: (y, x, score) of a candidate -> D channels, to be added to its descriptor."""

    def __init__(self, hidden: Sequence[int], channels: int, frequencies: int = 0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.encoder = perceptron(3 + 4 * frequencies, *hidden, channels)

    def forward(self, points_and_scores: Tensor) -> Tensor:
        """(B, N, 3), points normalised -> (B, N, D)."""
        known = points_and_scores
        if self.frequencies:
            steps = math.pi * 2.0 ** torch.arange(self.frequencies, device=known.device)
            angles = (known[..., :2, None] * steps).flatten(-2)  # (B, N, 2 frequencies)
            known = torch.cat([known, angles.sin(), angles.cos()], dim=-1)
        return self.encoder(known)


# --- 1.5 attention graph network ----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Four-headed attention; every candidate gathers a message from the candidates it sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = Pointwise(channels, channels)
        self.proj = nn.ModuleList(copy.deepcopy(self.merge) for _ in range(3))  # of queries, keys, values

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        """``x`` (B, T, D), ``sees`` (T, T) bool: who (row) sees whom (column) -> messages (B, T, D)."""
        query, key, value = (self._heads(project(x)) for project in self.proj)
        message = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)  # (B, 4, T, D/4)
        return self.merge(message.movedim(1, -1).flatten(-2))

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        """(B, T, D) -> (B, 4, T, D/4); channel c belongs to head c mod 4."""
        return x.unflatten(-1, (-1, HEADS)).movedim(-1, 1)


class Update(nn.Module):
    """What a candidate learns in one layer: MLP of itself and the message it got."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = Attention(channels)
        self.mlp = perceptron(2 * channels, 2 * channels, channels)

    def forward(self, x: Tensor, sees: Tensor, count: int) -> Tensor:
        return frame_by_frame(self.mlp, torch.cat([x, self.attn(x, sees)], dim=-1), count)


class GraphLayer(nn.Module):
    """x <- x + update(x), of all candidates of both frames at once."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.update = Update(channels)

    def forward(self, x: Tensor, sees: Tensor, count: int) -> Tensor:
        return x + self.update(x, sees, count)


class GraphNetwork(nn.Module):
    """Layers of self- and cross-attention over one graph: the candidates of both frames."""

    def __init__(self, channels: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.layers = nn.ModuleList(GraphLayer(channels) for _ in kinds)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """``x`` (B, M + N, D), the M = ``count`` candidates of the previous frame first; same shape."""
        previous = torch.arange(x.shape[1], device=x.device) < count
        same_frame = previous[:, None] == previous  # (M + N, M + N)
        sees = {"self": same_frame, "cross": ~same_frame}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = layer(x, sees[kind], count)
        return x


# --- 1.6 assignment ------------------------------------------------------------------------------------------------------------


def with_bins(similarity: Tensor, bin_score: Tensor | float) -> Tensor:
    """(B, M, N) -> (B, M + 1, N + 1): the bins "no match" as last row and column, their corner too."""
    *lead, m, n = similarity.shape
    bin_score = torch.as_tensor(bin_score, dtype=similarity.dtype, device=similarity.device)
    upper = torch.cat([similarity, bin_score.expand(*lead, m, 1)], dim=-1)
    return torch.cat([upper, bin_score.expand(*lead, 1, n + 1)], dim=-2)


def log_sinkhorn(similarity: Tensor, bin_score: Tensor | float, iterations: int) -> Tensor:
    """Optimal transport by Sinkhorn's iterations in log space: similarities (B, M, N) -> log assignment (B, M + 1, N + 1).

    Each candidate has mass 1, the bin of either frame as much as all candidates of the other. The last step normalises the
    columns: they sum to exactly 1 (the bin's: to M), rows nearly so. Letters as in Cuturi, "Sinkhorn distances" (2013).
    """
    with full_precision(similarity):
        scores = with_bins(at_least_float32(similarity), bin_score)
        m, n = similarity.shape[-2:]
        log_mu = F.pad(scores.new_zeros(m, 1), (0, 0, 0, 1), value=math.log(n))  # (M + 1, 1), masses of the rows
        log_nu = F.pad(scores.new_zeros(1, n), (0, 1), value=math.log(m))  # (1, N + 1)
        v = torch.zeros_like(log_nu)
        for _ in range(iterations):
            u = log_mu - torch.logsumexp(scores + v, dim=-1, keepdim=True)
            v = log_nu - torch.logsumexp(scores + u, dim=-2, keepdim=True)
        return scores + u + v


def double_softmax(similarity: Tensor, bin_score: Tensor | float) -> Tensor:
    """The alternative to :func:`log_sinkhorn`: mean of the log-softmax over rows and over columns; bins have their own side's.

    The corner is 0.
    """
    with full_precision(similarity):
        scores = with_bins(at_least_float32(similarity), bin_score)
        rows = scores[..., :-1, :].log_softmax(dim=-1)  # (B, M, N + 1)
        columns = scores[..., :, :-1].log_softmax(dim=-2)  # (B, M + 1, N)
        inner = (rows[..., :-1] + columns[..., :-1, :]) / 2
        upper = torch.cat([inner, rows[..., -1:]], dim=-1)
        return torch.cat([upper, F.pad(columns[..., -1:, :], (0, 1))], dim=-2)


class CandidateMatcher(nn.Module):
    """Candidates of two frames -> log probabilities that they are the same objects."""

    def __init__(self, config: AssociationConfig) -> None:
        super().__init__()
        self.config = config
        d = config.descriptor_channels
        self.kenc = ScorePositionEncoder(config.encoder_channels, d, config.position_frequencies)
        self.gnn = GraphNetwork(d, config.gnn_layers)
        self.final_proj = Pointwise(d, d)
        nn.init.orthogonal_(self.final_proj.weight)
        _zero_bias(self.final_proj)
        self.bin_score = nn.Parameter(torch.tensor(0.0))

    def forward(self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]) -> Tensor:
        """Log assignment (B, M + 1, N + 1), "no match" last; ``image_size``: (H, W) of the current frame, or (B, 2).

        If one side has no candidates, those of the other are unmatched for certain: zeros. NaN or infinity in any input
        makes the whole assignment of this pair NaN, which :func:`mutual_matches` reads as no match.
        """
        return self.normalise(self.similarity(previous, current, image_size))

    def similarity(self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]) -> Tensor:
        """Scores (B, M, N) of every pair: <m0, m1> / √D of what the embeddings became in the graph network."""
        m, n = previous.scores.shape[-1], current.scores.shape[-1]
        if m == 0 or n == 0:
            return self.bin_score.new_zeros(len(previous.scores), m, n)
        z = self.embed(previous, current, image_size)
        if not self.config.skip_gnn:
            z = self.gnn(z, m)
        projected = self.final_proj(z)
        return projected[:, :m] @ projected[:, m:].mT / math.sqrt(z.shape[-1])

    def embed(self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]) -> Tensor:
        """z = f + ψ(x, s) of both frames' candidates, (B, M + N, D)."""
        descriptors = torch.cat([previous.descriptors, current.descriptors], dim=1)
        points = torch.cat([previous.points, current.points], dim=1)
        scores = torch.cat([previous.scores, current.scores], dim=1)
        points = normalise_points(points, image_size, swapped_centre=self.config.swapped_centre)
        position = torch.cat([points, scores[..., None]], dim=-1)  # (B, M + N, 3)
        return descriptors + frame_by_frame(self.kenc, position, previous.scores.shape[-1])

    def normalise(self, similarity: Tensor) -> Tensor:
        """(B, M, N) -> log assignment (B, M + 1, N + 1)."""
        b, m, n = similarity.shape
        if m == 0 or n == 0:
            return at_least_float32(similarity.new_zeros(b, m + 1, n + 1))
        if self.config.normalisation == "double_softmax":
            return double_softmax(similarity, self.bin_score)
        return log_sinkhorn(similarity, self.bin_score, self.config.sinkhorn_iterations)


# --- 1.7 matches ---------------------------------------------------------------------------------------------------------------


def mutual_matches(log_assignment: Tensor, threshold: float = 0.2) -> Matches:
    """Pairs that are each other's most probable partner and more probable than ``threshold``: (B, M + 1, N + 1) -> matches.

    NaN counts as probability 0. No candidates on one side: no match.
    """
    inner = log_assignment[..., :-1, :-1].exp().nan_to_num(nan=0.0)  # (B, M, N)
    m, n = inner.shape[-2:]
    if m == 0 or n == 0:
        none0, none1 = log_assignment[..., :-1, -1], log_assignment[..., -1, :-1]  # (B, M), (B, N)
        index0, index1 = (torch.full_like(none, -1, dtype=torch.int64) for none in (none0, none1))
        return Matches(index0, index1, torch.zeros_like(none0), torch.zeros_like(none1))
    best, partner0 = inner.max(dim=-1)  # (B, M)
    partner1 = inner.argmax(dim=-2)  # (B, N)
    mutual0 = partner1.gather(-1, partner0) == torch.arange(m, device=inner.device)
    mutual1 = partner0.gather(-1, partner1) == torch.arange(n, device=inner.device)
    probability0 = torch.where(mutual0, best, 0)
    probability1 = torch.where(mutual1, best.gather(-1, partner1), 0)
    return Matches(
        torch.where(probability0 > threshold, partner0, -1),
        torch.where(probability1 > threshold, partner1, -1),
        probability0,
        probability1,
    )
