"""What the trackers make of the first frame beyond its pixels: dropout copies and the boxes of the augmented samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..images import Transform
from .random import RandomSource


def augmented_samples(
    maps: Tensor, box: Tensor, transforms: Sequence[Transform], dropout: tuple[int, float] | None, random: RandomSource
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Samples of the first frame from the features of its transforms; spec/dimp-atom.md §7.3.

    ``maps`` (T, D, F, F), the identity first; ``box`` (4,) of the identity, xywh in crop pixels; ``dropout``: (copies,
    probability) of channel dropout on the identity's features. Returns maps (I, D, F, F), boxes (I, 4) and the shifts (row,
    column) of all I samples; mirrored and rotated samples keep the upright box (quirk Q17).
    """
    shifts = [t.shift for t in transforms]
    if dropout is not None and dropout[0] > 0:
        copies, drop = dropout
        keep = random.keep_channels(copies, maps.shape[1], drop).to(maps)  # (copies, D)
        maps = torch.cat((maps, maps[:1] * (keep / (1 - drop))[:, :, None, None]))
        shifts += [transforms[0].shift] * copies
    offsets = torch.tensor([(dx, dy, 0, 0) for dy, dx in shifts], dtype=box.dtype, device=box.device)
    return maps, box + offsets, shifts
