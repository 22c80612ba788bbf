"""What one tracker said about one sequence, once: the type that every scoring rule takes.

It comes from our own runner (``store.py``) or from the result files of another toolkit (``foreign.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Masks
from ..regions import Region

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One tracker, one sequence, one repetition. N is the number of frames that the file holds (it may not fit the truth)."""

    boxes: Array
    """(N, 4) xywh, row 0 is the frame of the start; nan where the tracker reported none."""
    presence: Array | None = None
    """(N,) confidence that the target is in view, larger is surer, nan where unknown (VOT-LT, OxUvA scores)."""
    lost: npt.NDArray[np.bool_] | None = None
    """(N,) the tracker called the target absent."""
    seconds: Array | None = None
    """(N,) time of each frame, nan where unknown; row 0 is the initialisation."""
    regions: tuple[Region, ...] | None = None
    """VOT protocols: N regions or codes as in the result file; ``boxes`` then has nan where this holds a code."""
    masks: Masks | None = None
    """Segmentations, one per frame (DAVIS, YouTube-VOS)."""
    anchor: int | None = None
    """VOT2020 multi-start: the frame where this run started; row 0 is that frame and backward runs go to frame 0."""
