"""Augmentation of training frames (spec/dimp-atom.md §6.4): what is drawn once per sample, and once per image.

A transform holds chances; ``draw`` gives what happened this time, as plain data, which is then applied to every frame. Images
stay uint8: brightness is a factor that the conversion to floats multiplies in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) RGB -> the same with three equal channels (luma)."""
    import cv2

    return np.asarray(cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def flip_image(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) mirrored from left to right."""
    import cv2

    return np.asarray(cv2.flip(np.ascontiguousarray(image), 1))


def flip_box(box: Array, width: int, exact: bool = False) -> Array:
    """Boxes (..., 4) xywh in the mirror image of a picture of ``width`` pixels.

    The published training has them one pixel too far left, W - 1 - x - w (quirk Q6); ``exact``: W - x - w.
    """
    flipped = np.array(box, dtype=np.float64)
    flipped[..., 0] = width - (0 if exact else 1) - flipped[..., 0] - flipped[..., 2]
    return flipped


@dataclass(frozen=True)
class JointRoll:
    """What happens to all frames of a sample."""

    grey: bool = False
    flip: bool = False
    exact_flip: bool = False

    def image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the same."""
        image = to_grey(image) if self.grey else image
        return flip_image(image) if self.flip else image

    def mask(self, mask: np.ndarray) -> np.ndarray:
        return mask[:, ::-1] if self.flip else mask

    def box(self, box: Array, width: int) -> Array:
        return flip_box(box, width, self.exact_flip) if self.flip else box


@dataclass(frozen=True)
class JointTransform:
    """Rolled once for a sample, train and test frames alike."""

    grey_probability: float = 0.05
    flip_probability: float = 0.0
    exact_flip: bool = False

    def draw(self, rng: np.random.Generator) -> JointRoll:
        grey, flip = rng.random(2)
        return JointRoll(bool(grey < self.grey_probability), bool(flip < self.flip_probability), self.exact_flip)


@dataclass(frozen=True, eq=False)
class ImageRolls:
    """What happens to each of n crops."""

    gain: npt.NDArray[np.float32]
    """(n,) brightness factors."""
    flip: npt.NDArray[np.bool_]
    """(n,) mirrored."""


@dataclass(frozen=True)
class ImageTransform:
    """Rolled for every crop on its own."""

    brightness_jitter: float = 0.2
    flip_probability: float = 0.0

    def draw(self, count: int, rng: np.random.Generator) -> ImageRolls:
        gain = 1 + self.brightness_jitter * (2 * rng.random(count) - 1)
        return ImageRolls(gain.astype(np.float32), rng.random(count) < self.flip_probability)
