"""Regions: what a benchmark calls the target's place in one frame. Rectangle, polygon, mask, or a code instead of one.

Pixel conventions are those of the files: numbers as distributed, nothing subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np


class Code(IntEnum):
    """What a VOT result line says in place of a region (spec/evaluation.md §6); ground truth uses UNKNOWN."""

    UNKNOWN = 0
    """No region: frames between a failure and the new start, or the target is absent."""
    INITIALISATION = 1
    """The tracker was started here."""
    FAILURE = 2
    """The prediction no longer overlapped the target."""


@dataclass(frozen=True)
class Special:
    """No region but a code."""

    code: int


@dataclass(frozen=True)
class Rectangle:
    """Axis-aligned, pixels, top-left corner and size."""

    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True, eq=False)
class Polygon:
    """Corners in order."""

    points: np.ndarray
    """(K, 2) float64 x, y in pixels."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Pixels, stored as the part of the image that holds them."""

    x: int
    """Column of the stored part's first pixel."""
    y: int
    """Row of the stored part's first pixel."""
    pixels: np.ndarray
    """(h, w) bool."""


Region: TypeAlias = Special | Rectangle | Polygon | Mask
