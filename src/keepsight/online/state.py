"""What a tracker knows about its target, and what it says about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from ..boxes import Box


class Status(str, Enum):
    """Whether the target was seen in this frame."""

    FOUND = "found"
    UNCERTAIN = "uncertain"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Result:
    """What a tracker says about one target in one frame.

    Example: ``x, y, w, h = tracker.update(frame).box``
    """

    box: Box
    """(x, y, w, h) in pixels, clipped to the frame (at least one pixel of it)."""
    box_unclipped: Box
    """The box as the published trackers report it; it may reach over the frame's border."""
    score: float
    """Maximum of the target classifier's score map, in the tracker's own units."""
    presence: float
    """How likely the target is in view, in [0, 1]; 0.5 is the tracker's own limit for calling it lost."""
    status: Status
    """``found``, ``uncertain`` (several likely places) or ``lost`` (the box is the last known one)."""
    flag: str
    """The localisation's own word (spec/dimp-atom.md §7.6): normal, hard_negative, uncertain or not_found."""
    updated: bool
    """Whether the target model was changed by this frame."""
    update_reason: str
    """Why it was or was not, e.g. ``every 20th frame``, ``hard negative``, ``not due``, ``target lost``."""
    milliseconds: float
    """Time spent in this ``update`` call for this target (a joint call's time is shared out evenly)."""
    mask: np.ndarray | None = None
    """Segmentation of the target, (H, W) bool, from trackers that make one."""
