"""Augmentation of training frames (spec/dimp-atom.md §6.4; of LWL §5): what is drawn once per sample, and once per image.

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


@dataclass(frozen=True, eq=False)
class Affine:
    """Rotation and change of size about the middle of one crop."""

    matrix: Array
    """(2, 3): pixel (x, y, 1) -> where it goes; pixel (0, 0) is the middle of the first one."""
    scale: float
    """Factor of lengths."""

    def image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, bilinear; black comes in from outside."""
        return self._warped(image, nearest=False)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8, nearest; 0 comes in from outside."""
        return self._warped(mask, nearest=True)

    def box(self, box: Array) -> Array:
        """Boxes (..., 4) xywh: their centres move along, their sides keep their directions."""
        centre = box[..., :2] + 0.5 * box[..., 2:] - 0.5
        size = self.scale * box[..., 2:]
        moved = centre @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5
        return np.concatenate((moved - 0.5 * size, size), axis=-1)

    def _warped(self, image: np.ndarray, nearest: bool) -> np.ndarray:
        import cv2

        how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
        return np.asarray(cv2.warpAffine(image, self.matrix, image.shape[1::-1], flags=how, borderValue=0))


@dataclass(frozen=True)
class AffineTransform:
    """Rolled for every crop on its own."""

    rotation: float = 0.0
    """Degrees, at most, to either side."""
    scale: float = 0.0
    """The factor is exp of a number from U(-scale, scale)."""

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Affine | None:
        """For a crop of ``size`` (width, height); None: nothing happens, and nothing is drawn."""
        if not self.rotation and not self.scale:
            return None
        turn, growth = rng.uniform(-1, 1, 2)
        angle, factor = np.radians(self.rotation * turn), float(np.exp(self.scale * growth))
        cos, sin = factor * np.cos(angle), factor * np.sin(angle)
        linear = np.array([[cos, sin], [-sin, cos]])
        middle = (np.array(size) - 1) / 2
        return Affine(np.column_stack((linear, middle - linear @ middle)), factor)
