"""The bounded memory of training samples: features, boxes, weights; spec/dimp-atom.md §7.7.

With a confidence for every sample (KeepTrack): spec/keeptrack-rts-lwl.md §3.6, α there is the weight here and β the confidence.
With encoded masks as targets (LWL, RTS): §6.3 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..nn.correlation import Samples


@dataclass(frozen=True)
class MemoryConfig:
    """How many samples are kept and how fast old ones fade."""

    size: int = 50
    """Number of slots."""
    learning_rate: float = 0.01
    """Weight of a new sample."""
    hard_negative_learning_rate: float = 0.02
    """Weight of a new sample from a frame with a distractor."""
    min_init_weight: float = 0.25
    """The first frame's samples together never weigh less than this, and are then never replaced; 0 turns both off."""
    confidence_threshold: float | None = None
    """Samples weigh by age times confidence, and not at all if their confidence is below this; None: by age alone."""
    equal_second: bool = False
    """The first sample after the first frame weighs as much as that one ('lower_init_weight')."""
    erase_low_confidence: bool = True
    """A confidence below the threshold counts as 0 also when the next sample to replace is looked for."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a memory of {self.size} samples cannot hold anything; give at least 1")
        for name in ("learning_rate", "hard_negative_learning_rate", "min_init_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.confidence_threshold is not None and not 0 <= self.confidence_threshold <= 1:
            raise InputError(
                f"confidence_threshold is {self.confidence_threshold}; expected 0 to 1, the first frame's samples have 1"
            )


def next_weights(
    weights: np.ndarray,
    stored: int,
    initial: int,
    previous: int | None,
    rate: float,
    min_init_weight: float,
    confidence: np.ndarray | None = None,
    equal_second: bool = False,
) -> tuple[np.ndarray, int]:
    """Weights after one insertion, and the slot it goes to; §7.7.

    ``weights``: (M,) float64. ``stored``: insertions so far, the ``initial`` ones included. ``previous``: slot of the last
    insertion after the initial ones, if any. ``confidence``: (M,); with it the sample is replaced that weighs least by both,
    and one that replaces the last keeps its weight.
    """
    worth = weights if confidence is None else weights * confidence
    weights = weights.copy()
    keep = initial if min_init_weight > 0 else 0
    if stored < len(weights):
        slot = stored
    else:
        slot = keep + int(worth[keep:].argmin()) if keep < len(weights) else int(worth.argmin())
    if stored == 0 or rate == 1:
        weights[:] = 0
        weights[0] = 1
        return weights, 0
    if previous is None and equal_second:
        weights[slot] = 1
    elif previous is None:  # the new sample ends slightly below the rate: quirk Q13
        weights /= 1 - rate
        weights[slot] = rate
    elif confidence is None or slot != previous:
        weights[slot] = weights[previous] / (1 - rate)
    weights /= weights.sum()
    if keep and weights[:keep].sum() < min_init_weight:
        weights /= min_init_weight + weights[keep:].sum()
        weights[:keep] = min_init_weight / keep
    return weights, slot


@dataclass
class SampleMemory:
    """Training samples of one target; never grows beyond its configured size."""

    config: MemoryConfig
    cells: Tensor
    """(1, M, H·W, D) features, channels last."""
    targets: Tensor
    """(M, 1, 4) boxes xywh in crop pixels, (M, 1, H', W') dense labels, or (M, 1, 2, F, H, W) encoded masks and weights."""
    weights: np.ndarray
    """(M,) float64, sum 1; 0 in free slots."""
    map_size: tuple[int, int]
    """(H, W) of the features."""
    initial: int
    """Samples of the first frame."""
    stored: int
    """Insertions so far; may exceed M."""
    previous: int | None = None
    """Slot of the last insertion after the first frame."""
    confidence: np.ndarray | None = None
    """(M,) float64, 0 in free slots, and unless the configuration says otherwise where it was too low; None: no threshold."""

    @classmethod
    def start(cls, config: MemoryConfig, samples: Samples, targets: Tensor) -> SampleMemory:
        """A memory with the first frame's ``samples`` (one sequence) and their ``targets`` (I, 1, ...), equally weighted."""
        count = samples.count
        if count > config.size:
            raise InputError(
                f"the first frame makes {count} samples but the memory has {config.size} slots; enlarge it"
            )
        cells = samples.cells.new_zeros(1, config.size, *samples.cells.shape[2:])
        cells[:, :count] = samples.cells
        kept = targets.new_zeros(config.size, *targets.shape[1:])
        kept[:count] = targets
        weights = np.zeros(config.size)
        weights[:count] = 1 / count
        confidence = None if config.confidence_threshold is None else (weights > 0).astype(float)
        return cls(config, cells, kept, weights, samples.size, count, count, confidence=confidence)

    def insert(self, cells: Tensor, target: Tensor, *, hard_negative: bool = False, confidence: float = 1.0) -> int:
        """Store one sample: ``cells`` (H·W, D), ``target`` (1, 4), (1, H', W') or (1, 2, F, H, W). Returns its slot.

        ``confidence``: at least 0, not limited to 1; only read if the memory has a threshold.
        """
        rate = self.config.hard_negative_learning_rate if hard_negative else self.config.learning_rate
        cfg = self.config
        self.weights, slot = next_weights(
            self.weights, self.stored, self.initial, self.previous, rate, cfg.min_init_weight, self.confidence,
            cfg.equal_second,
        )  # fmt: skip
        self.cells[0, slot], self.targets[slot] = cells, target
        if self.confidence is not None:
            # the published tracker erases low ones at the next solve, which follows every insertion (quirk Q7)
            kept = self._is_enough(confidence) or not (self.config.erase_low_confidence or math.isnan(confidence))
            self.confidence[slot] = confidence if kept else 0.0
        self.previous = slot
        self.stored += 1
        return slot

    def _is_enough(self, confidence: float | np.ndarray) -> np.ndarray:
        return np.asarray(confidence) >= (self.config.confidence_threshold or 0.0)

    def filled(self) -> tuple[Samples, Tensor, Tensor]:
        """Samples (views), their targets (n, 1, ...) and weights (n, 1) of the slots in use, times confidence if kept."""
        n = min(self.stored, self.config.size)
        worth = self.weights
        if self.confidence is not None:
            worth = worth * np.where(self._is_enough(self.confidence), self.confidence, 0.0)
        weights = torch.as_tensor(worth[:n, None], dtype=self.cells.dtype, device=self.cells.device)
        return Samples(self.cells[:, :n], self.map_size), self.targets[:n], weights
