"""Videos made of annotated photographs: one picture, seen again from elsewhere in every frame, with the object's box.

A still repeated as it is teaches nothing about change. Here every frame is the photograph through its own affine map and its
own camera: another scale, proportion and angle, other light, sharpness, noise and compression. Besides whole objects the
target may be a part of one, an arbitrary rectangle of it: what tracks must follow the box it was given, not the
object around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .sequence import Annotation, Frames, Sequence
from .tracks import TrainingSet

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StillConfig:
    """What may happen between frames; deviations are those of normal distributions around no change."""

    frames: int = 24
    """Frames of a video."""
    part: float = 0.25
    """Chance that the target is a part of the object; objects that fill most of the picture always give a part."""
    part_size: tuple[float, float] = (0.3, 0.8)
    """Sides of a part relative to the object's, each drawn evenly."""
    smallest: float = 14.0
    """Least side of a target, the square root of its area, pixels."""
    largest_share: float = 0.4
    """A target with more of the picture's area than this is cut down to a part."""
    scale: float = 0.2
    """Deviation of ln size."""
    aspect: float = 0.2
    """Deviation of ln (width : height)."""
    angle: float = 6.0
    """Deviation of the angle, degrees."""
    gain: float = 0.12
    """Deviation of ln brightness."""
    gamma: float = 0.15
    """Deviation of ln of the exponent that bends the grey levels."""
    cast: float = 0.04
    """Deviation of ln of each colour's brightness."""
    blur: float = 0.3
    """Chance of a blur with a deviation of up to 1.6 pixels."""
    noise: float = 0.4
    """Chance of noise with a deviation of up to 8 grey levels."""
    jpeg: float = 0.35
    """Chance of compression, quality 25 to 90."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InputError(f"frames is {self.frames}; give at least 1")
        for name in ("part", "blur", "noise", "jpeg", "largest_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        for name in ("scale", "aspect", "angle", "gain", "gamma", "cast", "smallest"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be below 0")
        low, high = self.part_size
        if not 0 < low <= high <= 1:
            raise InputError(f"part_size is {self.part_size}; give (lowest, highest) above 0 and at most 1")


class StillVideos(TrainingSet):
    """``videos`` videos of single annotated pictures; element ``i`` depends on (``seed``, i) alone.

    ``objects``: elements of one frame with a box. Frames are independent of each other, and made when asked for.
    """

    is_video = True

    def __init__(
        self, name: str, objects: TrainingSet, config: StillConfig | None = None, videos: int = 100_000, seed: int = 0
    ) -> None:
        if len(objects) == 0 or videos < 1:
            raise InputError(f"{name}: {len(objects)} objects for {videos} videos; give at least one of each")
        self.name, self.objects, self.videos, self.seed = name, objects, videos, seed
        self.config = config or StillConfig()
        for part in ("skipped", "sources"):
            if hasattr(objects, part):
                setattr(self, part, getattr(objects, part))

    def __len__(self) -> int:
        return self.videos

    def __getitem__(self, index: int) -> Sequence:
        if not -self.videos <= index < self.videos:
            raise IndexError(f"video {index} of {self.videos}")
        video = _Video(self, index % self.videos)
        return Sequence(f"{index % self.videos:06d}", self.name, _Pictures(video), video.annotation)


class _Video:
    def __init__(self, owner: StillVideos, index: int) -> None:
        self.owner, self.index = owner, index

    def __reduce__(self) -> tuple[type[_Video], tuple[StillVideos, int]]:
        return _Video, (self.owner, self.index)

    @cached_property
    def _chosen(self) -> tuple[np.ndarray, Array]:
        """The photograph (H, W, 3), and the target's box in it, (4,)."""
        config, objects = self.owner.config, self.owner.objects
        rng = np.random.default_rng((self.owner.seed, self.index))
        for _ in range(200):
            sequence = objects[int(rng.integers(len(objects)))]
            x, y, w, h = (float(v) for v in sequence.boxes[0])
            if math.sqrt(w * h) < config.smallest:
                continue
            picture = sequence.frames[0]
            area = picture.shape[0] * picture.shape[1]
            if rng.random() < config.part or w * h > config.largest_share * area:
                fx, fy = rng.uniform(*config.part_size, 2)
                x, y = x + rng.uniform(0, (1 - fx) * w), y + rng.uniform(0, (1 - fy) * h)
                w, h = fx * w, fy * h
                if math.sqrt(w * h) < config.smallest or max(w, h) > 5 * min(w, h):
                    continue
            return picture, np.array((x, y, w, h))
        raise InputError(
            f"{self.owner.name}: none of 200 objects drawn is at least {config.smallest:g} pixels large, or has parts "
            "that are, of less than 5 : 1"
        )

    @cached_property
    def maps(self) -> Array:
        """(N, 2, 3) of every frame: from the photograph's pixels to the frame's, about the target's centre."""
        config = self.owner.config
        rng = np.random.default_rng((self.owner.seed, self.index, 1))
        n = config.frames
        scale, aspect, angle = rng.normal(0, 1, (3, n)) * np.array([[config.scale], [config.aspect], [config.angle]])
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        sx, sy = np.exp(scale + aspect / 2), np.exp(scale - aspect / 2)
        linear = np.stack((cos * sx, -sin * sy, sin * sx, cos * sy), axis=1).reshape(n, 2, 2)
        x, y, w, h = self._chosen[1]
        centre = np.array((x + w / 2, y + h / 2))
        height, width = self._chosen[0].shape[:2]
        wander = rng.normal(0, 0.06, (n, 2)) * math.sqrt(width * height)
        # The target stays where the frame still shows it.
        place = np.clip(centre + wander, 0.15 * np.array((width, height)), 0.85 * np.array((width, height)))
        return np.concatenate((linear, (place - linear @ centre)[..., None]), axis=2)

    @cached_property
    def boxes(self) -> Array:
        """(N, 4): the extent of the ellipse in the target's box, so that turning a little does not enlarge it."""
        x, y, w, h = self._chosen[1]
        half = np.array((w / 2, h / 2))
        reach = np.sqrt(((self.maps[..., :2] * half) ** 2).sum(axis=2))  # (N, 2)
        centre = self.maps[..., :2] @ np.array((x + w / 2, y + h / 2)) + self.maps[..., 2]
        height, width = self._chosen[0].shape[:2]
        low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach, (width, height))
        return np.concatenate((low, high - low), axis=1)

    def annotation(self) -> Annotation:
        height, width = self._chosen[0].shape[:2]
        return Annotation(boxes=self.boxes, image_size=(width, height))

    def image(self, k: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of frame ``k``."""
        import cv2

        picture = self._chosen[0]
        height, width = picture.shape[:2]
        affine = self.maps[k].copy()
        affine[:, 2] += affine[:, :2].sum(axis=1) / 2 - 0.5  # OpenCV counts from the pixels' middles
        shown = cv2.warpAffine(
            picture, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return _through_camera(shown, np.random.default_rng((self.owner.seed, self.index, 2, k)), self.owner.config)


def _through_camera(picture: np.ndarray, rng: np.random.Generator, config: StillConfig) -> np.ndarray:
    """Light, blur, noise and compression."""
    import cv2

    from .composite_scene import grain

    gain = np.exp(rng.normal(0, config.gain) + rng.normal(0, config.cast, 3))
    curve = 255 * (np.arange(256)[:, None] / 255) ** math.exp(rng.normal(0, config.gamma)) * gain  # (256, 3)
    picture = cv2.LUT(picture, np.clip(curve, 0, 255).round().astype(np.uint8)[None])
    blur, noise, jpeg = rng.random(3)
    if blur < config.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.6)))
    if noise < config.noise:
        row, col = rng.integers(0, 65, 2)
        share = float(rng.uniform(1, 8)) / 32
        height, width = picture.shape[:2]
        sheet = grain(width + 64, height + 64)[row : row + height, col : col + width]
        picture = cv2.addWeighted(picture, 1, sheet, share, -128 * share)
    if jpeg < config.jpeg:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 91))]
        picture = np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR))
    return np.asarray(picture)


class _Pictures(Frames):
    def __init__(self, video: _Video) -> None:
        self.video = video

    def __len__(self) -> int:
        return self.video.owner.config.frames

    def __getitem__(self, index: int) -> np.ndarray:
        return self.video.image(index)
