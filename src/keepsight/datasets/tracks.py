"""What training draws from: annotated objects, each in a video or in a single image.

Readers for training are the readers of this package; a :class:`TrainingSet` adds what sampling needs. One element is one
object: a video with one box per frame, or one object of a still image (a sequence of one frame).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as SequenceOf

import numpy as np
import numpy.typing as npt

from .sequence import Sequence


class TrainingSet(ABC):
    """Objects to train on, opened lazily: making one reads lists, not images, and element ``i`` reads its own files."""

    name: str
    """E.g. ``lasot:train`` or ``coco``; recipes and messages use it."""
    is_video: bool
    """False: every element is one image; samplers repeat it (spec/dimp-atom.md §6.1)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Sequence:
        """Object ``index``; ``annotation`` has boxes, and masks where the data set has them."""


class SequenceSet(TrainingSet):
    """Sequences as a training set."""

    def __init__(self, name: str, sequences: SequenceOf[Sequence], is_video: bool = True) -> None:
        self.name, self.is_video, self._sequences = name, is_video, sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> Sequence:
        return self._sequences[index]


def visible_frames(sequence: Sequence) -> npt.NDArray[np.bool_]:
    """(N,) frames that may be drawn: box of positive size, in view by the data set's own word, cover above 0 (§6.1)."""
    known = sequence.annotation
    boxes = known.boxes
    found = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if known.visible is not None:
        found &= known.visible
    if known.cover is not None:
        found &= known.cover > 0
    return np.asarray(found, dtype=np.bool_)
