"""Training of ``rts-lite``: its objective, which makes its own hints, and the recipe.

Real photographs with masks and synthetic video; the backbone is the default tracker's and does not learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..models.lite import LiteNet
from ..models.rts_lite import RTSLiteNet, RTSLiteNetConfig, hint
from ..nn.precision import at_least_float32
from .batch import Batch, Losses
from .losses import NonFiniteLossError, jaccard, lovasz_loss
from .recipe import DEBUG, RANDOM, BaseRecipe, OptimConfig, ParameterGroup, WeightedSet, begins, catalogued
from .segmentation import MaskProcessingConfig, MaskSamplerConfig
from .segmentation_recipes import MaskData


@dataclass(frozen=True)
class RTSLiteObjective:
    """The masks of the test frames by the learner and a hint, and that of the train frame by its box alone."""

    mask_weight: float = 1.0
    """Factor of the Lovász loss, one mask at a time."""
    cross_entropy_weight: float = 0.5
    """Factor of the mean binary cross-entropy."""
    box_share: float = 0.8
    """Chance that a test frame's hint has the box, ..."""
    mask_share: float = 0.75
    """... and that it has a mask: the true one, spoilt."""
    box_jitter: float = 0.16
    """Standard deviation of the hint's box in relative coordinates (x / w, y / h, ln w, ln h); of the train frame's a quarter."""
    spoilt_labels: float = 0.3
    """Chance that the learner is fitted to a spoilt mask, as it is to its own masks while tracking."""

    def __call__(self, net: nn.Module, batch: Batch) -> Losses:
        """Losses ``mask``, ``cross_entropy``; statistics ``jaccard`` of the test frames, ``jaccard_box`` of the train frame."""
        if not isinstance(net, RTSLiteNet):
            raise InputError("this objective needs rts-lite's network; use the recipe rts_lite")
        if batch.train_masks is None or batch.test_masks is None:
            raise InputError("the batch has no masks; let the recipe's processing make them (data.processing)")
        known, asked, groups = batch.train_masks[:1], batch.test_masks, len(batch)  # (1, S, Z, Z), (I, S, Z, Z)
        side = known.shape[-1]
        images = torch.cat((batch.train_images[:1], batch.test_images)).flatten(0, 1)  # frame-major rows
        # few at a time stay in the processor's cache
        found = [net.extract(part) for part in (images.split(2) if images.device.type == "cpu" else (images,))]
        layers = {level: torch.cat([f[level] for f in found]) for level in found[0]}
        features = net.target_features(layers).unflatten(0, (-1, groups))  # (1 + I, S, D, n, n)

        shown = _some(spoilt(known.flatten(0, 1), 0.5), known.flatten(0, 1), self.spoilt_labels).view(known.shape)
        labels, weights = net.label_encoder(shown)
        bank = net.fit_filter(net.zero_filter(groups), features[:1], labels, weights, net.config.iterations)
        encoding = net.apply_filter(bank, features[1:]).flatten(0, 1)  # (I·S, M, n, n)

        encoding = torch.cat((encoding.new_zeros(groups, *encoding.shape[1:]), encoding))
        hints = torch.cat((self._first_hints(known.flatten(0, 1)), self._hints(asked.flatten(0, 1))))
        logits = at_least_float32(net.decode(encoding + net.encode_hint(hints), layers, side))
        masks = torch.cat((known, asked)).flatten(0, 1)[:, ::2, ::2]
        parts = {
            "mask": self.mask_weight * lovasz_loss(logits, masks, per_image=True),
            "cross_entropy": self.cross_entropy_weight * F.binary_cross_entropy_with_logits(logits, masks),
        }
        total = torch.stack(list(parts.values())).sum()
        if not bool(torch.isfinite(total)):
            raise NonFiniteLossError({k: float(v.detach()) for k, v in parts.items()}, batch.identities)
        right = jaccard(logits, masks)  # ((1 + I)·S,)
        statistics = {"jaccard": right[groups:].mean(), "jaccard_box": right[:groups].mean()}
        return Losses(total, {k: v.detach() for k, v in parts.items()}, statistics)

    def _first_hints(self, masks: Tensor) -> Tensor:
        return hint(jittered(tight_boxes(masks), self.box_jitter / 4), None, (masks.shape[-2], masks.shape[-1]))

    def _hints(self, masks: Tensor) -> Tensor:
        size = (masks.shape[-2], masks.shape[-1])
        boxes = hint(jittered(tight_boxes(masks), self.box_jitter), None, size)
        before = hint(None, spoilt(masks), size)
        return _some(boxes, torch.zeros_like(boxes), self.box_share) + _some(
            before, torch.zeros_like(before), self.mask_share
        )


def _some(these: Tensor, others: Tensor, share: float) -> Tensor:
    """Rows of ``these`` with the chance ``share``, else of ``others``."""
    chosen = torch.rand(len(these), *(these.dim() - 1) * (1,), device=these.device) < share
    return torch.where(chosen, these, others)


def tight_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) of 0 and 1 -> (N, 4) xywh; of an empty mask all 0."""
    rows, cols = masks.amax(dim=2) > 0.5, masks.amax(dim=1) > 0.5  # (N, H), (N, W)
    ends = []
    for seen in (cols, rows):
        first = seen.float().argmax(dim=1)
        last = seen.shape[1] - seen.flip(1).float().argmax(dim=1)
        there = seen.any(dim=1)
        ends += [torch.where(there, first, 0), torch.where(there, last - first, 0)]
    x, w, y, h = ends
    return torch.stack((x, y, w, h), dim=1).to(masks)


def jittered(boxes: Tensor, sigma: float) -> Tensor:
    """Boxes (N, 4) xywh moved and resized at random, ``sigma`` in relative coordinates."""
    noise = sigma * torch.randn_like(boxes)
    size = boxes[:, 2:] * noise[:, 2:].exp()
    centre = boxes[:, :2] + 0.5 * boxes[:, 2:] + noise[:, :2] * boxes[:, 2:]
    return torch.cat((centre - 0.5 * size, size), dim=1)


def spoilt(masks: Tensor, strength: float = 1.0) -> Tensor:
    """Masks (N, H, W) of 0 and 1 as an earlier frame or a mistaken network may have them: moved, turned, bent, grown or shrunk,
    and sometimes cut in two; soft at the edge."""
    count, side = len(masks), masks.shape[-1]
    device = masks.device
    boxes = tight_boxes(masks)
    reach = boxes[:, 2:].prod(dim=1).sqrt()[:, None]  # (N, 1) pixels
    centre = boxes[:, :2] + 0.5 * boxes[:, 2:]
    angle, growth = (
        strength * 0.1 * torch.randn(count, device=device),
        strength * 0.08 * torch.randn(count, 2, device=device),
    )
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((cos, -sin, sin, cos), dim=1).view(count, 2, 2) * growth.exp()[:, None]
    shift = strength * 0.06 * reach * torch.randn(count, 2, device=device)
    bend = strength * 0.05 * torch.randn(count, 2, 6, 6, device=device) * reach[..., None, None]
    bend = F.interpolate(bend, masks.shape[-2:], mode="bicubic", align_corners=True)
    along = torch.arange(side, dtype=masks.dtype, device=device)
    pixels = torch.stack((along.expand(side, side), along[:, None].expand(side, side)), dim=-1)  # (H, W, 2) x, y
    source = (pixels[None] - centre[:, None, None]) @ turn.transpose(1, 2)[:, None] + (centre + shift)[:, None, None]
    source = (source + bend.permute(0, 2, 3, 1)) * (2 / (side - 1)) - 1
    moved = F.grid_sample(masks[:, None], source, align_corners=True)
    soft = F.avg_pool2d(moved, 9, 1, 4)[:, 0]
    level = 0.5 + strength * 0.35 * (2 * torch.rand(count, 1, 1, device=device) - 1)
    soft = torch.sigmoid((soft - level) * 12)
    # a half-plane is missing
    normal = torch.randn(count, 2, device=device)
    normal = normal / normal.norm(dim=1, keepdim=True)
    offset = (torch.rand(count, device=device) - 0.5) * 0.6 * reach[:, 0]
    beyond = ((pixels[None] - centre[:, None, None]) * normal[:, None, None]).sum(dim=-1) > offset[:, None, None]
    return _some(soft * ~beyond, soft, 0.15 * strength)


@dataclass(frozen=True)
class RTSLiteRecipe(BaseRecipe):
    """Everything that decides what training gives."""

    network: RTSLiteNetConfig
    """The network."""
    objective: RTSLiteObjective
    """What is minimised."""
    data: MaskData
    """What it learns from."""
    init: str = RANDOM
    """Weights of the backbone, which does not learn and is no part of the trained weights: a name of the weights catalogue
    (``dimp-lite``), a file with that network, or ``random``."""
    start: str = RANDOM
    """Weights of all else to go on from: ``rts-lite``, a file of an earlier run, or ``random``."""

    def build_network(self, weights: bool = True) -> RTSLiteNet:
        """The network in training mode with its backbone. Random weights come from torch's global generator.

        ``weights`` False: random ones, to resume; checkpoints lack the backbone, which is read all the same. Raises
        :class:`WeightsError` if weights are not here or are of another network.
        """
        net, base = RTSLiteNet(self.network), LiteNet()
        if self.init != RANDOM:
            _fill(base, self.initial_path(), "dimp-lite's network")
        if weights and self.start != RANDOM:
            _fill(net, catalogued(self.start), "rts-lite's network")
        net.attach(base)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not any(begins(name, prefix) for prefix in self.frozen))
        self.train_mode(net)
        return net

    def initial_path(self) -> Path:
        return catalogued(self.init)

    def build_objective(self) -> RTSLiteObjective:
        """``objective(net, batch) -> Losses``."""
        return self.objective


def _fill(net: nn.Module, path: Path, what: str) -> None:
    from ..weights.store import check_keys, read_any, strip_module_prefix

    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(check_keys(strip_module_prefix(read_any(path).tensors), shapes, what=what))


def rts_lite() -> RTSLiteRecipe:
    """The library's own recipe; how the shipped weights were made: benchmarks/results/rts-lite."""
    sets = (WeightedSet("composite:shared", 0.5), WeightedSet("shared:images", 0.5))
    return RTSLiteRecipe(
        "rts_lite",
        RTSLiteNetConfig(),
        RTSLiteObjective(),
        MaskData(
            sets,
            sets,
            MaskSamplerConfig(n_test=2, max_gap=25, mask_pixels=60),
            MaskProcessingConfig(
                output_size=(257, 257), search_factor=2.5 * 257 / 289, crop_mode="replicate", centre_jitter_train=(0.4, 0.4),
                centre_jitter_test=(0.6, 0.6), scale_jitter_train=0.1, scale_jitter_test=0.15, pixels="rgb",
            ),
            batch_size=4,
            samples_per_epoch=800,
            validation_samples=64,
        ),
        OptimConfig(
            tuple(ParameterGroup(part) for part in ("target_model", "label_encoder", "hint_encoder", "decoder")),
            lr=1e-3,
            schedule="cosine",
            clip_norm=5.0,
        ),
        init="dimp-lite",
        epochs=8,
        validate_every=2,
    )  # fmt: skip


def debug_rts_lite(recipe: RTSLiteRecipe) -> RTSLiteRecipe:
    """A variant that learns within three minutes and needs no files but the package's: synthetic video, small crops."""
    sets = (WeightedSet("composite:procedural"),)
    processing = replace(recipe.data.processing, output_size=(129, 129))
    data = replace(
        recipe.data, train=sets, validation=sets, processing=processing, samples_per_epoch=120, validation_samples=16
    )
    return replace(recipe, name=recipe.name + DEBUG, data=data, epochs=2, validate_every=1)


RECIPES: dict[str, Callable[[], RTSLiteRecipe]] = {"rts_lite": rts_lite}
