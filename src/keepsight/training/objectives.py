"""What each recipe minimises: a network and a batch in, :class:`~keepsight.training.batch.Losses` out; spec/dimp-atom.md §4.8.

An objective is a frozen dataclass of weights, so a recipe can write it down, and a function of ``(net, batch)``. It calls the
network as a whole, so that a wrapper such as DistributedDataParallel sees every forward pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boxes import iou
from ..errors import InputError
from ..models.keeptrack import KeepTrackNet, Spots
from ..models.lite import cell_of
from ..models.overlap import TrainingOutput
from ..models.segmentation import LWLBoxNet, LWLNet, RTSNet
from ..nn.association import mutual_matches
from ..nn.correlation import Samples, apply_filter
from ..nn.precision import at_least_float32, full_precision
from ..nn.target_filter import gaussian_label
from .association import KINDS, AssociationBatch
from .batch import Batch, Losses
from .losses import (
    NonFiniteLossError,
    box_kl,
    box_ml,
    classification_accuracy,
    grid_kl,
    iou_mse,
    jaccard,
    lb_hinge,
    lovasz_loss,
    matching_metrics,
    matching_nll,
    sinkhorn_row_norm,
)

NO_BOX = 99999.0
"""A test box with x at or above this marks a frame that has a distractor but no target: it has no box loss."""


@dataclass(frozen=True)
class AtomObjective:
    """ATOM: overlap regression, or the maximum likelihood of the true box (``atom_prob_ml``)."""

    box_loss: str = "mse"
    """``mse`` against 2·IoU - 1, or ``ml``, whose first proposal is the true box."""
    box_weight: float = 1.0
    """Factor of the box loss."""

    def __post_init__(self) -> None:
        if self.box_loss not in ("mse", "ml"):
            raise InputError(f"box_loss {self.box_loss!r} is unknown; expected 'mse' or 'ml'")

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``box``; statistics ``iou`` and, for ``mse``, ``iou_error``."""
        out: TrainingOutput = net(batch.train_images, batch.test_images, batch.train_boxes, _need(batch, "proposals"))
        loss, statistics = _box_loss(self.box_loss, out, batch)
        return _losses({"box": self.box_weight * loss}, statistics, batch)


@dataclass(frozen=True)
class _TargetModelObjective(ABC):
    """A box loss, and a classification loss on the scores of every iterate of the target filter."""

    box_weight: float
    final_weight: float
    initial_weight: float
    iteration_weight: float

    @property
    @abstractmethod
    def box_loss(self) -> str:
        """``mse`` or ``kl``."""

    @abstractmethod
    def classifier_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Loss of one iterate's score maps (I, S, H', W'), a scalar."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``box``, ``classifier``, ``classifier_initial``, ``classifier_iterations``; statistics ``accuracy``, ``iou``.

        With an overlap regression also the statistic ``iou_error``.
        """
        out: TrainingOutput = net(
            batch.train_images, batch.test_images, batch.train_boxes, _need(batch, "proposals"), batch.train_label
        )
        box, statistics = _box_loss(self.box_loss, out, batch)
        each = [self.classifier_loss(scores, batch) for scores in out.scores]  # initial filter, every step, final
        weights = (self.initial_weight, self.iteration_weight, self.final_weight)
        parts = {"box": self.box_weight * box, **_iterates(each, *weights)}
        if batch.test_label is not None:
            statistics["accuracy"] = classification_accuracy(out.scores[-1], batch.test_label).mean()
        return _losses(parts, statistics, batch)


@dataclass(frozen=True)
class DiMPObjective(_TargetModelObjective):
    """DiMP: overlap regression and the hinge loss; every iterate of the filter weighs 100."""

    box_weight: float = 1.0
    """Factor of the overlap regression."""
    final_weight: float = 100.0
    """Factor of the classification loss of the final filter."""
    initial_weight: float = 100.0
    """Factor of the classification loss of the initialiser's filter."""
    iteration_weight: float = 400.0
    """Factor of the mean classification loss of the iterates between; over four of them in the papers."""
    hinge_threshold: float = 0.05
    """Labels below this are background: their scores are only pushed down to 0."""

    @property
    def box_loss(self) -> str:
        return "mse"

    def classifier_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        return lb_hinge(scores, _need(batch, "test_label"), self.hinge_threshold)


@dataclass(frozen=True)
class PrDiMPObjective(_TargetModelObjective):
    """PrDiMP: KL divergences to densities of the box and of the target's centre."""

    box_weight: float = 0.0025
    """Factor of the box KL divergence."""
    final_weight: float = 0.25
    """Factor of the classification loss of the final filter."""
    initial_weight: float = 0.25
    """Factor of the classification loss of the initialiser's filter."""
    iteration_weight: float = 1.0
    """Factor of the mean classification loss of the iterates between."""

    @property
    def box_loss(self) -> str:
        return "kl"

    def classifier_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        return grid_kl(scores, _need(batch, "test_label_density"))


@dataclass(frozen=True)
class SuperDiMPObjective(DiMPObjective):
    """SuperDiMP: PrDiMP's box loss with DiMP's classification loss."""

    box_weight: float = 0.01
    """Factor of the box KL divergence."""

    @property
    def box_loss(self) -> str:
        return "kl"


@dataclass(frozen=True)
class LiteObjective:
    """dimp-lite: the hinge loss of every iterate of the filter, which starts from zero, and the box's KL divergence."""

    box_weight: float = 0.3
    """Factor of the box KL divergence."""
    final_weight: float = 100.0
    """Factor of the classification loss of the final filter."""
    iteration_weight: float = 100.0
    """Factor of the mean classification loss of the iterates before it."""
    hinge_threshold: float = 0.05
    """Labels below this are background: their scores are only pushed down to 0."""
    label_sigma: float = 0.9
    """Standard deviation of the label in cells."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``box``, ``classifier``, ``classifier_iterations``; statistics ``accuracy``, ``iou``."""
        out: TrainingOutput = net(batch.train_images, batch.test_images, batch.train_boxes, _need(batch, "proposals"))
        box, statistics = _box_loss("kl", out, batch)
        scores = out.scores[1:]  # those of the zero filter teach nothing
        size = (scores[0].shape[-2], scores[0].shape[-1])
        label = gaussian_label(cell_of(batch.test_boxes), size, self.label_sigma)  # (I, S, n, n)
        each = [lb_hinge(s, label, self.hinge_threshold) for s in scores]
        parts = {"box": self.box_weight * box, "classifier": self.final_weight * each[-1]}
        if len(each) > 1:
            parts["classifier_iterations"] = self.iteration_weight * torch.stack(each[:-1]).mean()
        statistics["accuracy"] = classification_accuracy(scores[-1], label).mean()
        return _losses(parts, statistics, batch)


@dataclass(frozen=True)
class AssociationObjective:
    """KeepTrack: likelihood of the known matches and of the candidates known to have none; spec/keeptrack-rts-lwl.md §2.7."""

    weight: float = 1.0
    """Factor of the loss."""
    balancing: float = 0.5
    """Share of the matches in the loss; the rest is of those without."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise InputError(f"weight is {self.weight}; give a finite number above 0")
        if not 0 <= self.balancing <= 1:
            raise InputError(f"balancing is {self.balancing}; give a share from 0 to 1")

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``positive``, ``negative``; statistics ``recall``, ``precision`` (of ``self``, ``HH``, .. items), ``row_norm``,
        ``bin_score``."""
        if not isinstance(batch, AssociationBatch) or not isinstance(net, KeepTrackNet):
            raise InputError("this objective needs KeepTrack's network and batches of pairs; use a keeptrack recipe")
        # the backbone sees first and second frames apart, as the matcher does: its norms may use the batch's statistics
        maps = net.extract(batch.train_images[0]), net.extract(batch.test_images[0])  # (B, C, F, F) each
        _, group = batch.counts.unique(dim=1, return_inverse=True)  # (B,); while training there is only one
        equal = [(group == g).nonzero()[:, 0] for g in range(int(group.max()) + 1)]
        found = [self._of_equal_counts(net, batch, rows, maps) for rows in equal]
        positive, negative, recall, precision, norm, kinds = (torch.cat(part) for part in zip(*found, strict=True))
        parts = {
            "positive": self.weight * self.balancing * positive.mean(),
            "negative": self.weight * (1 - self.balancing) * negative.mean(),
        }
        statistics = {"row_norm": norm.mean(), "bin_score": net.matcher.bin_score.detach().clone()}
        for number, kind in enumerate(KINDS):
            for name, values in (("recall", recall), ("precision", precision)):
                judged = values[(kinds == number) & ~values.isnan()]
                if len(judged):
                    statistics[f"{name}_{kind}"] = judged.mean()
        return _losses(parts, statistics, batch)

    def _of_equal_counts(
        self, net: KeepTrackNet, batch: AssociationBatch, rows: Tensor, maps: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        """Of the items ``rows`` (R,), whose frames have equally many candidates: losses, metrics, kinds, (R,) each."""
        m, n = (int(batch.counts[i, rows[0]]) for i in (0, 1))
        corner, size = net.reference(batch.image_size, batch.test_boxes[0])
        points = batch.points - corner[:, None]  # (2, B, K, 2)
        spots = [Spots(batch.cells[i], points[i], batch.scores[i])[rows].first(c) for i, c in ((0, m), (1, n))]
        z = net.associate(maps[0][rows], maps[1][rows], (spots[0], spots[1]), size[rows])  # (R, m + 1, n + 1)
        m0, m1 = batch.matches[0, rows, :m], batch.matches[1, rows, :n]
        _, positive, negative = matching_nll(z, batch.assignment[rows, :m, :n], m0, m1, self.balancing)
        with torch.no_grad():
            predicted = mutual_matches(z, net.config.match_threshold).index0
            recall, precision = matching_metrics(predicted, m0)
            return positive, negative, recall, precision, sinkhorn_row_norm(z), batch.kinds[rows]


# --- masks (spec/keeptrack-rts-lwl.md §4.6, 5, 8) ----------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskObjective:
    """LWL: the Lovász loss of the masks of all test frames together, decoded with a filter that is fitted to the train frame."""

    mask_weight: float = 100.0
    """Factor of the Lovász loss."""
    cross_entropy_weight: float = 0.0
    """Factor of the mean binary cross-entropy of all pixels, beside it. Published: none. From random weights the Lovász loss
    alone first draws all pixels to a probability of one half, from where small runs do not return."""
    refits: int = 0
    """Steps by which the filter is fitted further after each test frame but the last, with the mask predicted there: 2 in the
    paper. 0: as the published code, whose two steps had no effect on any output (quirk Q9)."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``mask`` (and ``cross_entropy``); statistics ``jaccard``, the mean over the test frames."""
        if not isinstance(net, LWLNet):
            raise InputError("this objective needs LWL's network; use an lwl recipe")
        logits = _mask_logits(net, *_layers(net, batch), batch, self.refits)
        masks = _need(batch, "test_masks")
        return _losses(*_mask_loss(logits, masks, self.mask_weight, self.cross_entropy_weight), batch)


@dataclass(frozen=True)
class BoxMaskObjective:
    """LWL's box initialisation: the Lovász loss of the train frame's mask, predicted from the box."""

    mask_weight: float = 10.0
    """Factor of the Lovász loss."""
    cross_entropy_weight: float = 0.0
    """Factor of the mean binary cross-entropy of all pixels, beside it. Published: none."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``mask`` (and ``cross_entropy``); statistics ``jaccard``."""
        if not isinstance(net, LWLBoxNet):
            raise InputError("this objective needs LWL's network with its box encoder; use the recipe lwl_boxinit")
        masks = _need(batch, "train_masks")
        size = (masks.shape[-2], masks.shape[-1])
        layers = net.extract(batch.train_images.flatten(0, 1))
        encoding = net.box_encoding(net.target_features(layers["layer3"]), batch.train_boxes.flatten(0, 1), size)
        logits = net.decode(encoding, layers, size).view(masks.shape)
        return _losses(*_mask_loss(logits, masks, self.mask_weight, self.cross_entropy_weight), batch)


@dataclass(frozen=True)
class RTSObjective(MaskObjective):
    """RTS: LWL's, and the hinge loss of the classifier's scores of the test frames, whose encoding joins the mask's (§8)."""

    mask_weight: float = 10.0
    """Factor of the Lovász loss."""
    final_weight: float = 100.0
    """Factor of the classification loss of the final filter: η = 10 of the paper, times that of the masks."""
    initial_weight: float = 100.0
    """Factor of the classification loss of the initialiser's filter."""
    iteration_weight: float = 400.0
    """Factor of the mean classification loss of the iterates between."""
    hinge_threshold: float = 0.05
    """Labels below this are background: their scores are only pushed down to 0."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``mask`` (and ``cross_entropy``), ``classifier``, ``classifier_initial``, ``classifier_iterations``; statistics
        ``jaccard``, ``accuracy``."""
        if not isinstance(net, RTSNet):
            raise InputError("this objective needs RTS's network; use an rts recipe")
        label = _need(batch, "test_label")
        train, test = _layers(net, batch)
        scores = _classifier_scores(net, train["layer3"], test["layer3"], batch)
        logits = _mask_logits(net, train, test, batch, self.refits, scores[-1])
        masks = _need(batch, "test_masks")
        parts, statistics = _mask_loss(logits, masks, self.mask_weight, self.cross_entropy_weight)
        each = [lb_hinge(s, label, self.hinge_threshold) for s in scores]
        parts |= _iterates(each, self.initial_weight, self.iteration_weight, self.final_weight)
        statistics["accuracy"] = classification_accuracy(scores[-1], label).mean()
        return _losses(parts, statistics, batch)


def _layers(net: LWLNet, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's layers of the train and of the test frames, frame-major rows (I·S, C, H, W)."""
    return net.extract(batch.train_images.flatten(0, 1)), net.extract(batch.test_images.flatten(0, 1))


def _mask_logits(
    net: LWLNet,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    batch: Batch,
    refits: int,
    scores: Tensor | None = None,
) -> Tensor:
    """Logits (I, S, H, W) of the test frames; ``scores`` (I, S, H', W') of RTS's classifier. Gradients do not run through a
    predicted mask that the filter is fitted to."""
    groups, size = len(batch), (batch.test_images.shape[-2], batch.test_images.shape[-1])
    features = net.target_features(train["layer3"]).unflatten(0, (-1, groups))  # (1, S, D, h, w)
    judged = net.target_features(test["layer3"]).unflatten(0, (-1, groups))  # (I, S, D, h, w)
    labels, weights = net.label_encoder(_need(batch, "train_masks"))  # (1, S, M, h, w) each
    bank = net.fit_filter(net.zero_filter(groups), features, labels, weights, net.config.iterations)

    def decoded(first: int, last: int) -> Tensor:
        """Logits of the frames ``first`` to ``last`` - 1."""
        encoding = net.apply_filter(bank, judged[first:last])
        if scores is not None and isinstance(net, RTSNet):
            encoding = net.fuse(encoding, scores[first:last])
        rows = {name: maps[first * groups : last * groups] for name, maps in test.items()}
        return net.decode(encoding, rows, size).view(last - first, groups, *size)

    if not refits:
        return decoded(0, len(judged))
    logits = [decoded(0, 1)]
    for i in range(1, len(judged)):
        found = net.label_encoder(torch.sigmoid(logits[-1]).detach())
        features = torch.cat((features, judged[i - 1 : i]))
        labels, weights = torch.cat((labels, found.labels)), torch.cat((weights, found.weights))
        bank = net.fit_filter(bank, features, labels, weights, refits)
        logits.append(decoded(i, i + 1))
    return torch.cat(logits)


def _classifier_scores(net: RTSNet, train: Tensor, test: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """Scores (I, S, H', W') of the test frames' ``layer3`` by the initial filter and the filter after every step."""
    known, judged = (
        at_least_float32(net.classifier_features(f)).unflatten(0, (-1, len(batch))) for f in (train, test)
    )  # (I, S, D, h', w') each
    with full_precision(known):
        initial = net.classifier.filter_initializer(known, batch.train_boxes.to(known.dtype))  # (S, D, k, k)
        label = _need(batch, "train_label").to(known.dtype)
        fit = net.classifier.filter_optimizer(
            initial, Samples.from_maps(known), label, None, net.config.iterations, keep_iterates=True
        )
        samples = Samples.from_maps(judged)
        return tuple(apply_filter(samples, weights).transpose(0, 1) for weights in fit.iterates)


def _mask_loss(
    logits: Tensor, masks: Tensor, weight: float, cross_entropy_weight: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parts and statistics of masks (I, S, H, W)."""
    logits = at_least_float32(logits)
    parts = {"mask": weight * lovasz_loss(logits, masks)}
    if cross_entropy_weight:
        parts["cross_entropy"] = cross_entropy_weight * F.binary_cross_entropy_with_logits(logits, masks)
    return parts, {"jaccard": jaccard(logits, masks).mean()}


def _iterates(each: list[Tensor], initial: float, between: float, final: float) -> dict[str, Tensor]:
    """The weighted losses of the initial filter's scores, of those between (their mean), and of the final one's."""
    parts = {"classifier": final * each[-1], "classifier_initial": initial * each[0]}
    if len(each) > 2:
        parts["classifier_iterations"] = between * torch.stack(each[1:-1]).mean()
    return parts


Objective = LiteObjective | AtomObjective | DiMPObjective | PrDiMPObjective | SuperDiMPObjective
"""Any that learns from frames and boxes: ``objective(net, batch) -> Losses``. :class:`AssociationObjective` learns from pairs
and has recipes of its own class, so it is none of them: a recipe of frames that names it is refused when it is read."""


def _box_loss(kind: str, out: TrainingOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The box loss over the frames that have a target, and its statistics."""
    assert out.boxes is not None  # proposals were given
    there = batch.test_boxes[..., 0] < NO_BOX  # (I, S)
    if batch.is_negative is not None:
        there = there & ~batch.is_negative
    scores = at_least_float32(out.boxes)[there]  # (N, P)
    if len(scores) == 0:
        return 0 * out.boxes.sum(), {}
    proposals = _need(batch, "proposals")[there]  # (N, P, 4)
    if kind == "mse":
        target = _need(batch, "proposal_iou")[there]
        loss, statistics = iou_mse(scores, target), {"iou_error": 0.5 * (scores - target).detach().abs().mean()}
    elif kind == "ml":
        loss, statistics = box_ml(scores, _need(batch, "proposal_density")[there]), {}
        scores, proposals = scores[:, 1:], proposals[:, 1:]  # the true box is no guess
    else:
        density, gt = _need(batch, "proposal_density")[there], _need(batch, "gt_density")[there]
        loss, statistics = box_kl(scores, density, gt), {}
    best = scores.detach().argmax(dim=1)[:, None, None].expand(-1, 1, 4)
    chosen = proposals.gather(1, best)[:, 0]  # (N, 4)
    statistics["iou"] = iou(chosen, batch.test_boxes[there]).mean()
    return loss, statistics


def _need(batch: Batch, part: str) -> Tensor:
    value: Tensor | None = getattr(batch, part)
    if value is None:
        raise InputError(
            f"the batch has no {part}, which this objective needs; let the recipe's processing make it (data.processing)"
        )
    return value


def _losses(parts: dict[str, Tensor], statistics: dict[str, Tensor], batch: Batch) -> Losses:
    """Sum the weighted ``parts``; :class:`NonFiniteLossError` if the sum is NaN or infinite."""
    total = torch.stack(list(parts.values())).sum()
    if not bool(torch.isfinite(total)):
        raise NonFiniteLossError({name: float(value.detach()) for name, value in parts.items()}, batch.identities)
    return Losses(total, {name: value.detach() for name, value in parts.items()}, statistics)
