"""A synthetic video with exact boxes: a textured object among clutter, made by arithmetic alone, without any file.

Example::

    clip = render_clip(seed=0, frames=150)
    for frame in clip:                       # rendered one at a time
        frame.image, frame.box, frame.visibility

The target moves on a smooth path, changes its size and turns; the camera pans and shakes; the light changes; a post
passes once in front of the target, and a look-alike passes close by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import overload

import cv2
import numpy as np

from ..boxes import Box
from ..errors import InputError
from .procedural import MARGIN, SIDE, Picture, blob_outline, post, spotted_object, stony_ground


@dataclass(frozen=True)
class ClipConfig:
    """What happens in a clip. Times are shares of its length, lengths are pixels unless they say otherwise."""

    seed: int = 0
    """Of everything random: textures, outlines, paths, noise."""
    frames: int = 150
    """Number of frames."""
    size: tuple[int, int] = (640, 480)
    """(width, height) of a frame; each at least 64."""
    fps: float = 30.0
    """Frames per second that the clip is meant to be shown with; what happens depends on ``frames`` alone."""
    object_size: float = 0.2
    """Mean side of the target at its ordinary scale, as a share of the frame's shorter side."""
    scale_range: tuple[float, float] = (0.75, 1.3)
    """Smallest and largest scale of the target."""
    rotation: float = 14.0
    """Largest turn of the target to either side, degrees."""
    path_extent: float = 0.3
    """How far the path reaches from the middle of the frame to either side, as a share of width and height."""
    pan: float = 0.35
    """Way of the camera over the background in the whole clip, as a share of the frame's width."""
    shake: float = 0.004
    """Amplitude of the camera's shake, as a share of the frame's shorter side."""
    light: float = 0.22
    """Relative change of brightness, up and down."""
    occlusion: float = 0.5
    """Width of the post that passes in front of the target, as a share of the target's side; 0: no post."""
    occlusion_time: float = 0.42
    """When the post is in front of the target's centre."""
    distractor_time: float = 0.74
    """When the look-alike is closest."""
    distractor_gap: float = 1.15
    """Its distance then, in target sides."""
    noise: float = 4.0
    """Standard deviation of the sensor noise, grey levels."""
    blur: float = 0.6
    """Standard deviation of the lens blur."""

    def __post_init__(self) -> None:
        width, height = self.size
        if self.frames < 1:
            raise InputError(f"frames is {self.frames}; give at least 1")
        if min(width, height) < 64:
            raise InputError(f"size is {width}×{height}; give at least 64×64 (width, height)")
        low, high = self.scale_range
        if not 0 < low <= high:
            raise InputError(f"scale_range is {self.scale_range}; give (smallest, largest), above 0")
        for name in ("object_size", "fps"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        smallest = self.object_size * min(self.size) * low
        if smallest < 4:
            raise InputError(
                f"the target is down to {smallest:.1f} pixels; give a larger object_size, scale_range or size"
            )
        for field in fields(self):
            if field.name in ("occlusion", "noise", "blur", "light", "shake", "pan") and getattr(self, field.name) < 0:
                raise InputError(f"{field.name} is {getattr(self, field.name)}; it must not be below 0")


@dataclass(frozen=True)
class ClipFrame:
    """One rendered frame."""

    index: int
    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    box: Box
    """Bounds of the target's mask in whole pixels, hidden and outside parts included."""
    visibility: float
    """Share of the target's mask that is inside the frame and not behind the post, in [0, 1]."""


@dataclass(frozen=True)
class _Pose:
    """Where a sprite is in a frame."""

    x: float
    y: float
    scale: float
    """Frame pixels per sprite pixel."""
    degrees: float


@dataclass(frozen=True)
class _Placed:
    """A sprite warped to its pose: a small picture and the frame pixel of its top-left corner."""

    colour: np.ndarray
    """(h, w, 3) float32."""
    alpha: np.ndarray
    """(h, w) float32, 0 to 1."""
    left: int
    top: int

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool: pixels that belong to the object by more than half."""
        return self.alpha > 0.5


class SyntheticClip:
    """A clip that renders each frame when it is asked for; the same frame always looks the same.

    ``clip[i]`` and iteration give :class:`ClipFrame`; ``clip.boxes`` and ``clip.visibilities`` know all frames without
    rendering their pictures. Memory does not grow with the number of frames.
    """

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        # One generator for each thing, so that a setting of one does not change the others.
        seeds = np.random.SeedSequence(config.seed).spawn(6)
        plan, ground, shape, spots, wood, grain = (np.random.default_rng(s) for s in seeds)
        width, height = config.size
        hue = float(plan.uniform(0, 180))
        self._phases = plan.uniform(0, 2 * math.pi, 8)
        self._mirror = 1 if plan.random() < 0.5 else -1  # half of the clips run right to left
        self._background = stony_ground(ground, width, height, config.pan, (hue + 75) % 180)
        outline = blob_outline(shape)
        self._target = spotted_object(spots, outline, hue)
        self._lookalike = spotted_object(spots, outline, hue)  # the same outline and colours, other spots
        self._post = post(wood, height, max(2, round(config.occlusion * self._side)), (hue + 110) % 180)
        self._noise = grain.normal(0, config.noise, (height + 64, width + 64, 3)).astype(np.float32)

    # --- what callers use --------------------------------------------------------------------------------------------

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.config.fps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of every frame."""
        return self.config.size

    def __len__(self) -> int:
        return self.config.frames

    @overload
    def __getitem__(self, index: int) -> ClipFrame: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipFrame]: ...
    def __getitem__(self, index: int | slice) -> ClipFrame | list[ClipFrame]:
        if isinstance(index, slice):
            return [self._render(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a clip of {len(self)} frames")
        return self._render(index % len(self))

    def __iter__(self) -> Iterator[ClipFrame]:
        for index in range(len(self)):
            yield self._render(index)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, 4) float64: x, y, w, h of the target in each frame."""
        return np.array([_bounds(_place(self._target, self._target_pose(i))) for i in range(len(self))], np.float64)

    @cached_property
    def visibilities(self) -> np.ndarray:
        """(N,) float64 in [0, 1]: see :attr:`ClipFrame.visibility`."""
        return np.array([self._visibility(i, _place(self._target, self._target_pose(i))) for i in range(len(self))])

    # --- how things move ---------------------------------------------------------------------------------------------

    @property
    def _side(self) -> float:
        """Mean side of the target at scale 1, in frame pixels."""
        return self.config.object_size * min(self.config.size)

    def _time(self, index: float) -> float:
        return index / max(1, self.config.frames - 1)

    def _shake(self, t: float) -> tuple[float, float]:
        a, b = self._phases[:2]
        reach = self.config.shake * min(self.config.size)
        wave = 2 * math.pi * t
        return (
            reach * (math.sin(13 * wave + a) + 0.6 * math.sin(29 * wave + b)),
            reach * (math.sin(17 * wave + b) + 0.6 * math.sin(23 * wave + a)),
        )

    def _path(self, t: float) -> tuple[float, float]:
        """The target's centre in the frame, without shake."""
        width, height = self.config.size
        c, d = self._phases[2:4]
        x = -math.cos(2 * math.pi * 0.8 * t + 0.3) + 0.18 * math.sin(2 * math.pi * 2.3 * t + c)
        y = math.sin(2 * math.pi * 1.15 * t + d) + 0.15 * math.sin(2 * math.pi * 3.1 * t + c)
        reach = self.config.path_extent
        return width * (0.5 + self._mirror * reach * x / 1.18), height * (0.5 + reach * y / 1.15)

    def _target_pose(self, index: float) -> _Pose:
        t = self._time(index)
        (x, y), (dx, dy) = self._path(t), self._shake(t)
        e, f = self._phases[4:6]
        low, high = self.config.scale_range
        wave = 0.5 + 0.5 * math.sin(2 * math.pi * 0.9 * t + e)
        scale = low * (high / low) ** wave * self._side / (SIDE - 2 * MARGIN)
        return _Pose(x + dx, y + dy, scale, self.config.rotation * math.sin(2 * math.pi * 1.3 * t + f))

    def _lookalike_pose(self, index: float) -> _Pose:
        """Comes in from the side, is closest at ``distractor_time`` and leaves; always about the target's size."""
        config, t = self.config, self._time(index)
        width, height = config.size
        below = 1 if self._path(config.distractor_time)[1] < height / 2 else -1  # where there is room
        (x, y), (dx, dy), g = self._path(t), self._shake(t), self._phases[6]
        away = t - config.distractor_time
        x -= self._mirror * 1.3 * width * away
        y += below * (config.distractor_gap * self._side + 0.8 * height * away**2)  # never nearer than the gap
        scale = 0.95 * self._side / (SIDE - 2 * MARGIN)
        return _Pose(x + dx, y + dy, scale, 10 * math.sin(2 * math.pi * 0.7 * t + g))

    def _post_left(self, index: float) -> int | None:
        """Column where the post begins; None if there is none. It is nearer than the background and passes faster."""
        config, t = self.config, self._time(index)
        if config.occlusion <= 0:
            return None
        at, _ = self._path(config.occlusion_time)
        shift = -self._mirror * 2.2 * config.size[0] * (t - config.occlusion_time)
        return round(at + shift + self._shake(t)[0] - self._post.alpha.shape[1] / 2)

    def _visibility(self, index: int, target: _Placed) -> float:
        rows, cols = np.nonzero(target.mask)
        rows, cols = rows + target.top, cols + target.left
        width, height = self.config.size
        seen = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        left = self._post_left(index)
        if left is not None:
            seen &= (cols < left) | (cols >= left + self._post.alpha.shape[1])
        return float(seen.mean())

    # --- rendering ---------------------------------------------------------------------------------------------------

    def _render(self, index: int) -> ClipFrame:
        t = self._time(index)
        target = _place(self._target, self._target_pose(index))
        image = self._camera_view(t)  # (H, W, 3) float32
        for placed in (_place(self._lookalike, self._lookalike_pose(index)), target):
            _shadow(image, placed, self._side)
            _paste(image, placed)
        left = self._post_left(index)
        if left is not None:
            _paste(image, _Placed(self._post.colour, self._post.alpha, left, 0))
        image = self._through_the_lens(image, index, t)
        return ClipFrame(index, image, Box(*_bounds(target)), self._visibility(index, target))

    def _camera_view(self, t: float) -> np.ndarray:
        """The part of the background that the camera sees, (H, W, 3) float32."""
        width, height = self.config.size
        dx, dy = self._shake(t)
        wide, high = self._background.shape[1], self._background.shape[0]
        pan = (t if self._mirror > 0 else 1 - t) * self.config.pan * width
        angle = math.radians(1.2 * math.sin(2 * math.pi * 0.6 * t + self._phases[7]))
        zoom = 1 + 0.03 * math.sin(2 * math.pi * 0.5 * t)
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        # Frame pixel -> background pixel: turn and zoom about the frame's middle, then pan.
        centre = (wide - self.config.pan * width) / 2 + pan - dx, high / 2 - dy
        affine = np.array(
            [
                [cos, -sin, centre[0] - cos * width / 2 + sin * height / 2],
                [sin, cos, centre[1] - sin * width / 2 - cos * height / 2],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        view = cv2.warpAffine(self._background, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        return view.astype(np.float32)

    def _through_the_lens(self, image: np.ndarray, index: int, t: float) -> np.ndarray:
        """Light, blur and noise; (H, W, 3) float32 -> uint8."""
        config = self.config
        width, height = config.size
        if config.blur > 0:
            image = cv2.GaussianBlur(image, (0, 0), config.blur)
        gain = 1 + config.light * math.sin(2 * math.pi * 0.75 * t + self._phases[5])
        ramp = 0.5 * config.light * math.cos(2 * math.pi * 0.5 * t + self._phases[6])  # light from one side
        across = np.linspace(-1, 1, width, dtype=np.float32)
        image *= (gain + ramp * across)[None, :, None]
        row, col = np.random.default_rng((config.seed, index)).integers(0, 65, 2)
        image += self._noise[row : row + height, col : col + width]
        return np.clip(image, 0, 255).round().astype(np.uint8)


def render_clip(
    seed: int = 0, frames: int = 150, size: tuple[int, int] = (640, 480), *, config: ClipConfig | None = None
) -> SyntheticClip:
    """A clip to iterate over; ``size`` is (width, height). ``config`` replaces the three short arguments.

    Raises :class:`~keepsight.errors.InputError` for values that make no sense.
    """
    return SyntheticClip(config or ClipConfig(seed=seed, frames=frames, size=size))


# ---------------------------------------------------------------------------------------------- putting it together


def _place(sprite: Picture, pose: _Pose) -> _Placed:
    """``sprite`` turned and scaled about its middle onto frame pixels."""
    side = math.ceil(SIDE * pose.scale * 1.42) + 2  # its diagonal
    left, top = math.floor(pose.x - side / 2), math.floor(pose.y - side / 2)
    angle = math.radians(pose.degrees)
    cos, sin = pose.scale * math.cos(angle), pose.scale * math.sin(angle)
    # The middle of the texture (between pixels) falls on (x, y); pixel k of a picture has its centre at k + 0.5.
    middle = SIDE / 2 - 0.5
    x, y = pose.x - left - 0.5, pose.y - top - 0.5
    affine = np.array([[cos, -sin, x - (cos - sin) * middle], [sin, cos, y - (sin + cos) * middle]])
    colour, alpha = sprite.colour, sprite.alpha
    if pose.scale < 1:  # average over the texture pixels that fall into one frame pixel
        spread = 0.4 * (1 / pose.scale - 1)
        if spread > 0.1:
            colour, alpha = (cv2.GaussianBlur(part, (0, 0), spread) for part in (colour, alpha))
    return _Placed(
        cv2.warpAffine(colour, affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        cv2.warpAffine(alpha, affine, (side, side), flags=cv2.INTER_LINEAR),
        left,
        top,
    )


def _bounds(placed: _Placed) -> tuple[float, float, float, float]:
    """(x, y, w, h) of the mask's pixels as a continuous rectangle."""
    mask = placed.mask
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(placed.left + cols[0]),
        float(placed.top + rows[0]),
        float(cols[-1] - cols[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )


def _paste(image: np.ndarray, placed: _Placed) -> None:
    """Blend ``placed`` over ``image`` (H, W, 3) float32 in place; parts outside are cut off."""
    area, colour, alpha = _overlap(image, placed.colour, placed.alpha, placed.left, placed.top)
    area += alpha[..., None] * (colour - area)


def _shadow(image: np.ndarray, placed: _Placed, side: float) -> None:
    """A soft shadow to the lower right of ``placed``."""
    soft = cv2.GaussianBlur(placed.alpha, (0, 0), 0.05 * side + 0.5)
    shift = round(0.08 * side)
    area, _, alpha = _overlap(image, placed.colour, soft, placed.left + shift, placed.top + shift)
    area *= 1 - 0.45 * alpha[..., None]


def _overlap(
    image: np.ndarray, colour: np.ndarray, alpha: np.ndarray, left: int, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of ``image`` under a picture at (left, top), and the part of that picture inside ``image``."""
    height, width = alpha.shape
    x0, y0 = max(0, -left), max(0, -top)
    x1, y1 = max(x0, min(width, image.shape[1] - left)), max(y0, min(height, image.shape[0] - top))
    inside = (slice(y0, y1), slice(x0, x1))
    area = image[max(0, top) : max(0, top) + y1 - y0, max(0, left) : max(0, left) + x1 - x0]
    return area, colour[inside], alpha[inside]
