"""The network of ``rts-lite``: RTS's segmentation on the default tracker's features, small enough for a CPU.

As in RTS (Paul et al., ECCV 2022) the mask's encoding by LWL's few-shot learner and one of what the tracker knows already are
added and decoded; spec/keeptrack-rts-lwl.md §4, 7.3. Here that is a *hint*: the box that the tracker of boxes found and the
last frame's mask, shown as one map. A hint alone, without a learnt filter, makes the first mask of a box.

The backbone is dimp-lite's and no part of these weights. Crops are squares of 16 n + 1 pixels, RGB in 0..255; frames and
sequences stand in front of all else: (I, S, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..nn import segmentation as parts
from ..nn.correlation import Samples
from ..nn.efficientnet_lite import EfficientNetLite0
from ..nn.fuse import fold_batch_norms, fuse_convolutions, to_channels_last
from ..nn.precision import at_least_float32, full_precision
from ..nn.segmentation import LabelEncoder, TargetModel
from .lite import LiteNet

STRIDE = 16  # of the learner's features and of all encodings
TAPS = {"layer4": "block10", "layer3": "block7", "layer2": "block4", "layer1": "block2"}
"""The decoder's levels in dimp-lite's backbone: strides 16, 16, 8, 4."""
CHANNELS = {"layer4": 112, "layer3": 80, "layer2": 40, "layer1": 24}
BOX_HINT = 0.5
"""Value of the hint inside the box; the mask's probability adds up to as much again."""


@dataclass(frozen=True)
class RTSLiteNetConfig:
    """Everything about the network that its weights do not say."""

    feature_dim: int = 64
    """Channels of the learner's features."""
    num_filters: int = 16
    """Filters of the learner: channels of all encodings."""
    filter_size: int = 3
    """Side of the filters in cells; odd."""
    label_encoder_dims: tuple[int, ...] = (16, 32, 64)
    """Channels of the label encoder's stages."""
    hint_encoder_dims: tuple[int, ...] = (8, 16, 32)
    """The same for the hint's encoder."""
    decoder_dim: int = 16
    """Channels of the decoder at stride 4; deeper levels have two and four times as many."""
    init_filter_reg: float = 0.01
    """Initial λ of the learner (before squaring)."""
    iterations: int = 4
    """Steps of the learner in training."""
    feature_sizes: tuple[float, ...] = (7.5, 7.1, 8.0, 9.4)
    """The taps are divided by these, their root mean squares over 24 of the training photographs, deepest first."""

    def __post_init__(self) -> None:
        for name in ("label_encoder_dims", "hint_encoder_dims", "feature_sizes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


class Head(parts.Head):
    """State at stride 4 to logits at stride 2, whose cells lie exactly on every second pixel of a crop of 16 n + 1."""

    def forward(self, x: Tensor, image_size: tuple[int, int]) -> Tensor:
        """(N, C, n, n) -> (N, 1, h, h) of ``image_size`` (h, h)."""
        x = F.interpolate(x, image_size, mode="bilinear", align_corners=True)
        out: Tensor = self.conv2(F.relu(self.conv1(x)))
        return out


class RTSLiteNet(nn.Module):
    """Learner, encoders of masks and hints, and decoder."""

    def __init__(self, config: RTSLiteNetConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or RTSLiteNetConfig()
        inputs = CHANNELS["layer4"] + CHANNELS["layer3"] + CHANNELS["layer2"]
        head = parts.target_head(inputs, c.feature_dim, blocks=0)
        self.target_model = TargetModel(c.init_filter_reg, head)
        self.label_encoder = LabelEncoder(c.num_filters, c.label_encoder_dims)
        self.hint_encoder = LabelEncoder(c.num_filters, c.hint_encoder_dims)
        del self.hint_encoder.samp_w_pred  # a hint is no label of the learner
        self.decoder = parts.Decoder(CHANNELS, c.num_filters, c.decoder_dim)
        project = Head(c.decoder_dim)
        project.load_state_dict(self.decoder.project.state_dict())  # as the decoder was initialised
        self.decoder.project = project
        self._backbone: tuple[EfficientNetLite0, ...] = ()  # in a tuple: no part of the state dict

    def _apply(self, fn: Any, recurse: bool = True) -> RTSLiteNet:
        self._backbone = tuple(part._apply(fn, recurse) for part in self._backbone)  # to the device with the rest
        super()._apply(fn, recurse)
        return self

    # --- features ----------------------------------------------------------------------------------------------------

    def attach(self, base: LiteNet) -> None:
        """Take the features of :meth:`extract` from ``base``, whose backbone does not learn."""
        self._backbone = (base.for_inference().backbone,)

    def extract(self, crops: Tensor, backbone: EfficientNetLite0 | None = None) -> dict[str, Tensor]:
        """Crops (N, 3, Z, Z) -> the decoder's levels ``layer1`` … ``layer4``, (N, C, n, n) at strides 4, 8, 16, 16.

        ``backbone``: the base tracker's; None: the one that was attached. Cell j of a map of stride s lies at pixel s·j.
        """
        if backbone is None and not self._backbone:
            raise InputError("this network has no backbone of its own; attach one, or give the base tracker's")
        backbone = backbone or self._backbone[0]
        crops = crops.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            maps = backbone(backbone.normalise(crops), tuple(TAPS.values()))
            sizes = zip(TAPS.items(), self.config.feature_sizes, strict=True)
            return {level: maps[tap] / size for (level, tap), size in sizes}

    def target_features(self, layers: Mapping[str, Tensor]) -> Tensor:
        """The learner's features (N, D, n, n) at stride 16; mean square 1 / (9·D)."""
        fine = F.avg_pool2d(layers["layer2"], 3, stride=2, padding=1, count_include_pad=False)  # to stride 16
        found: Tensor = self.target_model.feature_extractor(
            torch.cat((layers["layer4"], layers["layer3"], fine), dim=1)
        )
        return found

    # --- the learner -------------------------------------------------------------------------------------------------

    def zero_filter(self, sequences: int = 1) -> Tensor:
        """What the learner starts from: (S, M, D, k, k)."""
        c = self.config
        regularisation = self.target_model.filter_optimizer.regularisation
        return regularisation.new_zeros(
            sequences, c.num_filters, c.feature_dim, *(2 * (c.filter_size,)), requires_grad=False
        )

    def fit_filter(
        self, filter: Tensor, features: Tensor | Samples, labels: Tensor, weights: Tensor | None, iterations: int
    ) -> Tensor:
        """:func:`~keepsight.nn.segmentation.fit_filter` with this network's λ; in float32 under autocast."""
        with full_precision(filter):
            features = features if isinstance(features, Samples) else at_least_float32(features)
            weights = None if weights is None else at_least_float32(weights)
            regularisation = self.target_model.filter_optimizer.regularisation
            return parts.fit_filter(filter, features, at_least_float32(labels), weights, regularisation, iterations)

    def apply_filter(self, filter: Tensor, features: Tensor) -> Tensor:
        """Encoding (I, S, M, n, n) of ``features`` (I, S, D, n, n)."""
        with full_precision(filter):
            return parts.apply_filter(filter, at_least_float32(features))

    # --- hint and mask -----------------------------------------------------------------------------------------------

    def encode_hint(self, hints: Tensor) -> Tensor:
        """Maps (N, Z, Z) of :func:`hint` -> encoding (N, M, n, n)."""
        found: Tensor = self.hint_encoder.label_pred(self.hint_encoder.shape_features(hints))
        return found

    def decode(self, encoding: Tensor, layers: Mapping[str, Tensor], side: int) -> Tensor:
        """Logits (N, h, h) of a crop of ``side`` pixels, every second pixel: h = (side + 1) / 2; ``encoding`` (N, M, n, n)."""
        half = (side + 1) // 2
        logits: Tensor = self.decoder(encoding, layers, (half, half))[:, 0]
        return logits

    def for_inference(self) -> RTSLiteNet:
        """A faster copy for tracking, without a backbone; the same numbers up to rounding."""
        return fuse_convolutions(to_channels_last(fold_batch_norms(self).requires_grad_(False)))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backbone": ()}


def hint(boxes: Tensor | None, probability: Tensor | None, size: tuple[int, int]) -> Tensor:
    """What is known of a target before it is segmented: (N, Z, Z). ``boxes`` (N, 4) xywh in crop pixels, ``probability``
    (N, Z, Z) of the mask; None: not known."""
    known = [] if boxes is None else [BOX_HINT * parts.box_masks(boxes, size)]
    if probability is not None:
        known.append((1 - BOX_HINT) * probability)
    return torch.stack(known).sum(dim=0)
