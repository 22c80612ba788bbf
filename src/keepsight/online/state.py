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
class Candidate:
    """A peak of the score map, and which object the tracker takes it for."""

    id: int
    """Identity: the same number in every frame in which the tracker took it for the same object."""
    score: float
    """Of the peak, in the tracker's own units."""
    position: tuple[float, float]
    """(x, y) in image pixels."""
    is_target: bool
    """Whether the tracker took it for the target."""


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
    """How sure the tracker is that the target is in view, in [0, 1], with 0.5 at its own limit for calling it lost; it rises with
    the tracker's confidence and is no probability."""
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
    presence_probability: float | None = None
    """Calibrated probability that the target is in view, or of what else the tracker's calibration says it is of
    (:attr:`Calibration.event`); None for a tracker without a calibration."""
    candidates: tuple[Candidate, ...] = ()
    """All peaks of the score map with their identities, best first, from trackers that follow them (KeepTrack)."""
