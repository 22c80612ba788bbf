"""What offline training minimises, one function per equation of spec/dimp-atom.md §4.8.

Letters: s = prediction, Y = label, both of equal shape, frames I, sequences S, score maps H' × W'. Every function returns a
scalar mean unless it says otherwise, and is differentiable in the prediction. Sums are taken in the prediction's own precision:
give float32 or better, not half precision.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, KeepsightError


class NonFiniteLossError(KeepsightError, ArithmeticError):
    """A loss became NaN or infinite; training must stop, because the next step would spoil every weight."""

    def __init__(self, parts: dict[str, float], identities: list[str]) -> None:
        told = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        groups = "; ".join(identities) if identities else "not recorded"
        super().__init__(
            f"the loss is not finite ({told}). Groups of this batch: {groups}. Look at their boxes and images, or lower "
            "the learning rate"
        )
        self.parts = parts
        """Weighted loss terms by name."""
        self.identities = identities
        """The groups of the batch, as :attr:`keepsight.training.batch.Batch.identities` names them."""


# --- classification ------------------------------------------------------------------------------------------------------


def lb_hinge(scores: Tensor, label: Tensor, threshold: float | None = 0.05, clip: float | None = None) -> Tensor:
    """DiMP's hinge loss: mean of (φ(s) - (1 - n)·Y)², n = 1[Y < T], φ(s) = n·max(0, s) + (1 - n)·s.

    Background cells (n = 1) may score as low as they like. ``threshold`` None is plain mean squared error over every cell;
    ``clip`` bounds the mean from above (and cuts its gradient there).
    """
    if threshold is None:
        loss = F.mse_loss(scores, label)
    else:
        loss = _hinge_residual(scores, label, threshold).square().mean()
    return loss if clip is None else loss.clamp(max=clip)


def _hinge_residual(scores: Tensor, label: Tensor, threshold: float) -> Tensor:
    background = label < threshold
    return torch.where(background, F.relu(scores), scores - label)


def lb_hinge_v2(scores: Tensor, label: Tensor, threshold: float = 0.05, valid: Tensor | None = None) -> Tensor:
    """The same hinge loss over (I, S, H', W') with a validity mask v (I, S): the mean over the valid maps.

    v·s and v·Y enter the mean over all maps, which is multiplied by numel(v) / (Σv + 1e-12).
    """
    if valid is None:
        return lb_hinge(scores, label, threshold)
    v = valid.to(scores.dtype)[..., None, None]  # (I, S, 1, 1)
    return lb_hinge(v * scores, v * label, threshold) * (valid.numel() / (v.sum() + 1e-12))


def lb_hinge_per_sequence(scores: Tensor, label: Tensor, threshold: float = 0.05) -> Tensor:
    """The hinge loss of every map of (I, S, H', W'): (I, S)."""
    return _hinge_residual(scores, label, threshold).square().mean(dim=(-2, -1))


def grid_kl(scores: Tensor, density: Tensor, cell_area: float = 1.0) -> Tensor:
    """PrDiMP's classification loss: mean over maps of ln Σ eˢ + ln A - A·Σ s·p, the KL divergence up to a constant.

    ``scores``, ``density`` p: (..., H', W'); ``cell_area`` A is the area of a grid cell, 1 in all recipes.
    """
    log_partition = torch.logsumexp(scores.flatten(-2), dim=-1) + math.log(cell_area)  # (...)
    return (log_partition - cell_area * (scores * density).sum(dim=(-2, -1))).mean()


def target_cell_loss(scores: Tensor, is_target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Is a cell of the target? Binary cross-entropy with logits, mean over cells.

    ``is_target`` holds 0 or 1; ``valid`` (I, S): mean per map first, then mean over the valid maps.
    """
    if valid is None:
        return F.binary_cross_entropy_with_logits(scores, is_target)
    each = F.binary_cross_entropy_with_logits(scores, is_target, reduction="none").mean(dim=(-2, -1))  # (I, S)
    v = valid.to(each.dtype)
    return (each * v).sum() / (v.sum() + 1e-12)


def focal_loss(scores: Tensor, is_target: Tensor, gamma: float = 2.0, alpha: float = -1.0) -> Tensor:
    """Mean of BCE(s, Y)·(1 - p_t)^γ, p = sigmoid(s), p_t = pY + (1 - p)(1 - Y); Lin et al., "Focal loss" (ICCV 2017).

    ``alpha`` ≥ 0 weighs target cells by α and the others by 1 - α; negative is off.
    """
    p = torch.sigmoid(scores)
    p_true = p * is_target + (1 - p) * (1 - is_target)
    each = F.binary_cross_entropy_with_logits(scores, is_target, reduction="none") * (1 - p_true) ** gamma
    if alpha >= 0:
        each = each * (alpha * is_target + (1 - alpha) * (1 - is_target))
    return each.mean()


def classification_accuracy(
    scores: Tensor, label: Tensor, threshold: float = 0.25, negative_threshold: float | None = None
) -> Tensor:
    """Whether each map's peak is right: (..., H', W') -> (...) of 0 or 1; no gradient.

    With y* = max(0, Y at the arg-max of s) and M = max Y: right if y* ≥ ``threshold`` and M > 0.25 (the target is there and
    was found), or y* < ``negative_threshold`` (the same number by default) and M < 0.25 (it is not there).
    """
    negative_threshold = threshold if negative_threshold is None else negative_threshold
    flat = label.flatten(-2)
    peak = scores.detach().flatten(-2).argmax(dim=-1, keepdim=True)
    found = flat.gather(-1, peak)[..., 0].clamp(min=0)
    highest = flat.amax(dim=-1)
    right = ((found >= threshold) & (highest > 0.25)) | ((found < negative_threshold) & (highest < 0.25))
    return right.to(torch.get_default_dtype())


# --- boxes ---------------------------------------------------------------------------------------------------------------


def iou_mse(scores: Tensor, target: Tensor) -> Tensor:
    """Mean of (s - (2·IoU - 1))²; ``target`` is 2·IoU - 1 in [-1, 1] of the proposals (I, S, P)."""
    return F.mse_loss(scores, target)


def box_kl(scores: Tensor, sample_density: Tensor, gt_density: Tensor, eps: float = 0.0, dim: int = -1) -> Tensor:
    """PrDiMP's box loss: ln((1/N) Σₙ e^{sₙ} / qₙ) - (1/N) Σₙ sₙ·pₙ / qₙ, averaged over all but the sample axis ``dim``.

    A Monte-Carlo estimate of the KL divergence from p to the density that s predicts, up to a constant; N samples drawn
    from q = ``sample_density`` > 0, p = ``gt_density``; ``eps`` is added to q.
    """
    q = sample_density + eps
    log_partition = torch.logsumexp(scores - torch.log(q), dim=dim) - math.log(scores.shape[dim])
    return (log_partition - (scores * (gt_density / q)).mean(dim=dim)).mean()


def box_ml(scores: Tensor, sample_density: Tensor, eps: float = 0.0, dim: int = -1) -> Tensor:
    """Negative log-likelihood of the ground truth: ln((1/(N-1)) Σₙ≥₁ e^{sₙ} / qₙ) - s₀, averaged.

    The first sample along ``dim`` is the ground truth itself, marked by q₀ = -1; :class:`InputError` if it is not.
    """
    first = sample_density.select(dim, 0)
    if not bool((first == -1).all()):
        raise InputError(
            f"the first sample's density is {first.flatten()[0].item():g}, expected -1: the maximum likelihood loss wants "
            "the ground truth as first proposal (add_mean_box in the proposals' configuration)"
        )
    count = scores.shape[dim] - 1
    s, q = scores.narrow(dim, 1, count), sample_density.narrow(dim, 1, count) + eps
    log_partition = torch.logsumexp(s - torch.log(q), dim=dim) - math.log(count)
    return (log_partition - scores.select(dim, 0)).mean()


def giou_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Generalised IoU of boxes that share a cell, given as distances (l, t, r, b) ≥ 0 from it to their sides.

    IoU = I / (U + 1e-7), loss = 1 - (IoU - (C - U) / (C + 1e-7)), averaged over cells, C the enclosing box;
    Rezatofighi et al., "Generalized intersection over union" (CVPR 2019). ``predicted``, ``target``: (N, 4); ``weights`` (N,):
    only cells of weight above 0 count, unless all are 0. Returns the loss and the IoU of each cell that counts, without gradient.
    """
    if weights is not None and bool((weights > 0).any()):
        predicted, target = predicted[weights > 0], target[weights > 0]

    def area(sides: Tensor) -> Tensor:
        left, top, right, bottom = sides.unbind(-1)
        return (left + right) * (top + bottom)

    overlap, enclosing = area(torch.minimum(predicted, target)), area(torch.maximum(predicted, target))
    union = area(predicted) + area(target) - overlap
    iou = overlap / (union + 1e-7)
    loss = 1 - (iou - (enclosing - union) / (enclosing + 1e-7))
    return loss.mean(), iou.detach()


# --- losses of later families (spec/keeptrack-rts-lwl.md) ----------------------------------------------------------------


def lovasz_loss(logits: Tensor, mask: Tensor, per_image: bool = False) -> Tensor:
    """Lovász extension of the Jaccard loss of one foreground class; Berman et al. (CVPR 2018); spec of LWL §5.

    ``logits``, ``mask`` of 0 and 1: (B, ...). Errors |Y - sigmoid(s)|, largest first, times the growth of the Jaccard loss as
    the pixels are misjudged in this order. ``per_image``: mean over the first axis instead of one sum over the batch.
    """
    if per_image:
        return torch.stack([lovasz_loss(s, y) for s, y in zip(logits, mask, strict=True)]).mean()
    y = mask.flatten().to(logits.dtype)
    errors, order = (y - torch.sigmoid(logits.flatten())).abs().sort(descending=True)
    y = y[order]
    overlap = y.sum() - y.cumsum(0)
    union = y.sum() + (1 - y).cumsum(0)
    jaccard = 1 - overlap / union  # loss when the pixels so far are misjudged
    return (errors * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum()


def jaccard(logits: Tensor, mask: Tensor) -> Tensor:
    """Region similarity |A & B| / |A | B| of every mask, DAVIS's J (spec of LWL §5): (..., H, W) -> (...); no gradient.

    A pixel is foreground from a probability of one half on; two empty masks are alike, 1.
    """
    a, b = logits.detach() > 0, mask > 0.5
    union = (a | b).sum(dim=(-2, -1))
    return torch.where(union > 0, (a & b).sum(dim=(-2, -1)) / union.clamp(min=1), 1.0)


def matching_nll(
    log_assignment: Tensor, assignment: Tensor, matches0: Tensor, matches1: Tensor, balancing: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """KeepTrack's association loss of each of B pairs of frames: (total, positive, negative), (B,) each; spec of KeepTrack §2.7.

    ``log_assignment`` Z (B, n0 + 1, n1 + 1) with the "no match" bins last, ``assignment`` A (B, n0, n1) of 0 and 1,
    ``matches0`` (B, n0), ``matches1`` (B, n1): -1 for candidates without a partner, other negative values have no label.
    positive = -Σ Z·A / max(#A, 1); negative = -(Σ Z[i, bin] + Σ Z[bin, j]) / max(count, 1) over the -1;
    total = ``balancing``·positive + (1 - ``balancing``)·negative.
    """
    a = assignment.to(log_assignment.dtype)
    alone0, alone1 = (matches0 == -1).to(a.dtype), (matches1 == -1).to(a.dtype)
    positive = -(log_assignment[:, :-1, :-1] * a).sum(dim=(1, 2)) / a.sum(dim=(1, 2)).clamp(min=1)
    to_bins = (log_assignment[:, :-1, -1] * alone0).sum(dim=1) + (log_assignment[:, -1, :-1] * alone1).sum(dim=1)
    negative = -to_bins / (alone0.sum(dim=1) + alone1.sum(dim=1)).clamp(min=1)
    return balancing * positive + (1 - balancing) * negative, positive, negative


def matching_metrics(predicted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Recall and precision of each of B pairs of frames, (B,) each; spec of KeepTrack §2.7.

    ``predicted``, ``labels`` (B, N): partners of one frame's candidates, -1 for none; labels below -1 are not judged. Recall:
    share of the labelled partners (> -1) that are predicted exactly. Precision: share of the predicted partners whose
    label (>= -1) is the same. NaN where there is nothing to judge: average with ``nanmean``.
    """
    right = predicted == labels
    partner, claimed = labels > -1, (predicted > -1) & (labels >= -1)
    return (right & partner).sum(dim=1) / partner.sum(dim=1), (right & claimed).sum(dim=1) / claimed.sum(dim=1)


def sinkhorn_row_norm(log_assignment: Tensor) -> Tensor:
    """How well Sinkhorn's iterations met the rows' mass, (B,): mean over the candidates of Σ exp(Z), their bin included.

    ``log_assignment`` (B, M + 1, N + 1); 1 is perfect. Columns are always met, rows only by enough iterations.
    """
    return log_assignment[:, :-1].exp().sum(dim=-1).mean(dim=-1)
