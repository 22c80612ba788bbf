"""Objects of synthetic videos: where each pixel of their pictures lies in a frame, and how they are laid over it.

A pose is a place, a scale across and down, an angle, and a slow wave that bends the object. Rendering goes from the frame to
the picture, boxes and visibility from the picture to the frame; both are the same map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .composite_config import CompositeConfig, Range
from .composite_motion import rotated, uniform, velocity_of
from .sequence import Array

Bools = npt.NDArray[np.bool_]

_NODE = 8  # pixels between the nodes of a warp's grid; warps are smooth, between nodes they are linear


@dataclass(frozen=True, eq=False)
class Wave:
    """A slow wave that bends an object: x is moved depending on y and y on x, in shares of the shorter side."""

    amplitude: Array
    """(2,) of x and of y."""
    pitch: Array
    """(2,) waves per object."""
    phase: Array
    """(N, 2)."""

    @staticmethod
    def drawn(rng: np.random.Generator, amplitude: Range, n: int) -> Wave:
        speed = rng.uniform(-0.15, 0.15, 2)
        phase = rng.uniform(0, 2 * math.pi, 2) + speed * np.arange(n)[:, None]
        strength = uniform(rng, amplitude) * rng.uniform(0.4, 1, 2)
        shortest = np.minimum(1.2, 0.75 / (2 * math.pi * strength.clip(min=1e-3)))  # strong waves are long: no folds
        return Wave(strength, rng.uniform(0.5, shortest), phase)


@dataclass(frozen=True, eq=False)
class Paint:
    """What happens to an object's colours before it is shown."""

    hue: float
    """Shift, 0..180; 0: none."""
    saturation: float
    """Factor."""
    value: float
    """Factor."""
    print: float
    """Share of a background printed on it."""

    @staticmethod
    def drawn(rng: np.random.Generator, config: CompositeConfig, changed: bool) -> Paint:
        hue, saturation, value = rng.uniform(8, 172), rng.uniform(0.5, 1.5), rng.uniform(0.7, 1.3)
        other, printed = rng.random() < config.recolour, rng.random() < config.retexture
        if changed and not other:  # a look-alike: a little different
            hue, saturation, value = (
                float(rng.normal(0, 8)) % 180,
                rng.uniform(0.75, 1.25),
                rng.uniform(0.8, 1.2),
            )
        elif not other:
            hue, saturation, value = 0.0, 1.0, 1.0
        return Paint(hue, saturation, value, float(printed) * rng.uniform(0.3, 0.7))

    def on(self, rgba: np.ndarray, texture: np.ndarray | None) -> np.ndarray:
        """``rgba`` (h, w, 4) in these colours."""
        colour = rgba[..., :3]
        if (self.hue, self.saturation, self.value) != (0.0, 1.0, 1.0):
            h, s, v = cv2.split(cv2.cvtColor(colour, cv2.COLOR_RGB2HSV))
            h = ((h.astype(np.int32) + round(self.hue)) % 180).astype(np.uint8)
            s, v = cv2.convertScaleAbs(s, alpha=self.saturation), cv2.convertScaleAbs(v, alpha=self.value)
            colour = cv2.cvtColor(cv2.merge((h, s, v)), cv2.COLOR_HSV2RGB)
        if texture is not None and self.print > 0:
            high, wide = rgba.shape[:2]
            printed = cv2.resize(texture, (wide, high), interpolation=cv2.INTER_AREA)
            # The object's own light and dark stays: the print is multiplied by it.
            grey = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            printed = cv2.multiply(printed, grey, scale=1 / 128)
            colour = cv2.addWeighted(colour, 1 - self.print, printed, self.print, 0)
        return np.dstack((colour, rgba[..., 3]))


class Pyramid:
    """A picture (h, w, 4) in halves of its size, colours multiplied by alpha: what is reduced by much stays smooth."""

    def __init__(self, rgba: np.ndarray) -> None:
        alpha = rgba[..., 3]
        colour = cv2.multiply(rgba[..., :3], cv2.merge((alpha, alpha, alpha)), scale=1 / 255)
        self._levels = [np.dstack((colour, alpha))]

    def __getitem__(self, level: int) -> np.ndarray:
        while len(self._levels) <= level:
            high, wide = self._levels[-1].shape[:2]
            size = max(1, (wide + 1) // 2), max(1, (high + 1) // 2)
            self._levels.append(cv2.resize(self._levels[-1], size, interpolation=cv2.INTER_AREA))
        return self._levels[level]


@dataclass(frozen=True, eq=False)
class Stamp:
    """An object as it lies in a frame: a small picture and the frame pixel of its top-left corner."""

    rgba: np.ndarray
    """(h, w, 4) uint8, colours multiplied by alpha."""
    left: int
    top: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One object in all frames. Texture coordinates are pixels of its picture, continuous, from its middle."""

    rgba: np.ndarray
    """(h, w, 4) uint8 picture."""
    identity: int
    """In masks; 0: neither target nor distractor."""
    centre: Array
    """(N, 2) x, y in the frame."""
    scale: Array
    """(N, 2) frame pixels per texture pixel across and down."""
    angle: Array
    """(N,) radians."""
    wave: Wave
    paint: Paint
    velocity: Array = field(init=False)
    """(N, 2) frame pixels per frame, for motion blur: at most its own radius, for nothing is told from longer streaks."""

    def __post_init__(self) -> None:
        way = velocity_of(self.centre)
        most = self.reaches() / np.maximum(np.hypot(way[:, 0], way[:, 1]), 1e-9)
        object.__setattr__(self, "velocity", way * np.minimum(1, most)[:, None])

    @cached_property
    def shape(self) -> Pyramid:
        """The picture in its own colours."""
        return Pyramid(self.rgba)

    @cached_property
    def levels(self) -> npt.NDArray[np.int64]:
        """(N,) level of the pyramid from which each frame is drawn: it is reduced by less than two."""
        halves = np.floor(np.log2(1 / self.scale.max(axis=1)))
        most = max(0, math.floor(math.log2(min(self.rgba.shape[:2]) / 8)))
        return np.clip(halves, 0, most).astype(np.int64)

    def reach(self, k: int) -> float:
        """Radius about the centre in which the object lies."""
        return float(self.reaches()[k])

    def reaches(self) -> Array:
        """(N,) of :meth:`reach`."""
        high, wide = self.rgba.shape[:2]
        slack = 0.5 + self.wave.amplitude.max()
        return np.hypot(wide * self.scale[:, 0], high * self.scale[:, 1]) * slack

    # --- between texture and frame -----------------------------------------------------------------------------------

    def _bend(self, frames: npt.NDArray[np.int64], along: Array, axis: int) -> Array:
        """How far the wave moves ``axis`` (0: x) of points that are at ``along`` on the other axis, (F, ...)."""
        high, wide = self.rgba.shape[:2]
        length = (high, wide)[axis]
        phase = self.wave.phase[frames, axis].reshape(-1, *(1,) * (along.ndim - 1))
        strength = self.wave.amplitude[axis] * min(high, wide)
        turn = 2 * math.pi * self.wave.pitch[axis] / length * along + phase
        return np.asarray(strength * np.sin(turn.astype(np.float32)), np.float64)  # float32: several times faster

    def to_texture(self, frames: npt.NDArray[np.int64], points: Array) -> Array:
        """Texture coordinates (F, ..., 2) of frame points (F, ..., 2) in ``frames`` (F,)."""
        ones = (1,) * (points.ndim - 2)
        q = rotated(points - self.centre[frames].reshape(-1, *ones, 2), -self.angle[frames].reshape(-1, *ones))
        q = q / self.scale[frames].reshape(-1, *ones, 2)
        if not self.wave.amplitude.any():
            return q
        x, y = q[..., 0], q[..., 1]
        return np.stack((x + self._bend(frames, y, 0), y + self._bend(frames, x, 1)), axis=-1)

    def to_frame(self, frames: npt.NDArray[np.int64], points: Array) -> Array:
        """Frame points (F, P, 2) of texture points (P, 2): the inverse, by iteration (the wave is a contraction)."""
        u, v = points[:, 0], points[:, 1]
        x, y = np.broadcast_to(u, (len(frames), len(u))), np.broadcast_to(v, (len(frames), len(v)))
        if self.wave.amplitude.any():
            for _ in range(5 if self.wave.amplitude.max() <= 0.08 else 15):
                x = u - self._bend(frames, y, 0)
                y = v - self._bend(frames, x, 1)
        q = np.stack((x, y), axis=-1) * self.scale[frames][:, None]
        return self.centre[frames][:, None] + rotated(q, self.angle[frames][:, None])

    def _middled(self, pixels: Array, level: int) -> Array:
        """Texture coordinates of pixels (..., 2) x, y of a level."""
        high, wide = self.shape[level].shape[:2]
        full = np.array([self.rgba.shape[1], self.rgba.shape[0]])
        return np.asarray((pixels + 0.5) * (full / (wide, high)) - full / 2, np.float64)

    @cached_property
    def bounds(self) -> Array:
        """(N, 4) xywh of the object, from the outline of what is more than half opaque."""
        boxes = np.full((len(self.centre), 4), np.nan)
        for level in np.unique(self.levels):
            frames = np.flatnonzero(self.levels == level)
            solid = (self.shape[level][..., 3] > 127).astype(np.uint8)
            if not solid.any():
                continue
            outlines = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
            # The tips, and enough points between them for a bent outline.
            chosen = [np.concatenate((cv2.convexHull(o)[:, 0], o[:: max(1, len(o) // 80), 0])) for o in outlines]
            points = self._middled(np.concatenate(chosen).astype(np.float64), level)
            there = self.to_frame(frames, points)  # (F, P, 2)
            # Outline points are pixel centres; the edge is up to half a texture pixel further out, less at tips, which
            # interpolation rounds: on average this much, so that boxes are unbiased against the extents of masks.
            edge = 0.35 * self.rgba.shape[1] / solid.shape[1] * self.scale[frames]
            low, high = there.min(axis=1) - edge, there.max(axis=1) + edge
            boxes[frames] = np.concatenate((low, high - low), axis=1)
        return boxes

    def grid(self) -> Array:
        """(P, 2) about 350 texture points evenly over the object."""
        high, wide = self.rgba.shape[:2]
        solid = self.rgba[..., 3] > 127
        pitch = max(1.0, math.sqrt(int(solid.sum()) / 350))
        x, y = np.meshgrid(np.arange(pitch / 2, wide, pitch), np.arange(pitch / 2, high, pitch))
        points = np.stack((x, y), axis=-1)[solid[y.astype(np.int64), x.astype(np.int64)]]
        return np.asarray(points - np.array([wide, high]) / 2, np.float64)

    def covers(self, frames: npt.NDArray[np.int64], points: Array) -> Bools:
        """(F, P) whether frame points (F, P, 2) lie behind this object."""
        high, wide = self.rgba.shape[:2]
        at = np.floor(self.to_texture(frames, points) + np.array([wide, high]) / 2).astype(np.int64)
        x, y = at[..., 0], at[..., 1]
        inside = (x >= 0) & (x < wide) & (y >= 0) & (y < high)
        return np.asarray(inside & (self.rgba[y.clip(0, high - 1), x.clip(0, wide - 1), 3] > 127), np.bool_)

    def stamp(self, k: int, size: tuple[int, int] | None, picture: Pyramid) -> Stamp | None:
        """``picture`` as it lies in frame ``k``; only what is in a frame of ``size`` and a little around it, None: all.

        None if nothing of it is there."""
        frame = np.array([k])
        high, wide = self.rgba.shape[:2]
        slack = 1 + 2 * self.wave.amplitude * min(high, wide) / (wide, high)
        half = np.array([wide, high]) / 2 * slack * self.scale[k]
        cos, sin = abs(math.cos(self.angle[k])), abs(math.sin(self.angle[k]))
        reach = np.array([cos * half[0] + sin * half[1], sin * half[0] + cos * half[1]])
        low, top = np.floor(self.centre[k] - reach).astype(int), np.ceil(self.centre[k] + reach).astype(int)
        if size is not None:
            around = math.ceil(np.abs(self.velocity[k]).max()) // 2 + 4  # blur carries pixels in
            low, top = np.maximum(low, -around), np.minimum(top, np.array(size) + around)
        w, h = (top - low).tolist()
        if w <= 0 or h <= 0:
            return None
        level = int(self.levels[k])
        source = picture[level]
        # The map is made at every eighth pixel; between them it is linear.
        nodes = np.stack(
            np.meshgrid(
                low[0] + 0.5 + _NODE * np.arange(math.ceil(w / _NODE) + 1),
                low[1] + 0.5 + _NODE * np.arange(math.ceil(h / _NODE) + 1),
            ),
            axis=-1,
        )
        texture = self.to_texture(frame, nodes[None])[0] + np.array([wide, high]) / 2  # (gh, gw, 2)
        texture = texture * (np.array([source.shape[1], source.shape[0]]) / (wide, high)) - 0.5
        grow = np.array([[1 / _NODE, 0, 0], [0, 1 / _NODE, 0]])
        where = cv2.warpAffine(
            texture.astype(np.float32), grow, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )  # (h, w, 2)
        unused: Any = None  # both coordinates are in one map
        return Stamp(np.asarray(cv2.remap(source, where, unused, cv2.INTER_LINEAR)), int(low[0]), int(low[1]))


def clipped(boxes: Array, size: tuple[int, int]) -> Array:
    """(N, 4) xywh cut at the border of a frame; nan where nothing is left."""
    low = np.maximum(boxes[:, :2], 0)
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], size)
    cut = np.concatenate((low, high - low), axis=1)
    cut[~(cut[:, 2:] > 0).all(axis=1)] = np.nan
    return cut


# ---------------------------------------------------------------------------------------------------- laying them over


def halvings(way: Array) -> list[npt.NDArray[np.int64]]:
    """Shifts (x, y) whose averages, one after the other, smear a picture along ``way`` (2,): half of it, a quarter, .."""
    steps: list[npt.NDArray[np.int64]] = []
    way = np.asarray(way, np.float64) / 2
    while np.abs(way).max() >= 0.5 and len(steps) < 7:
        steps.append(np.round(way).astype(np.int64))
        way = way / 2
    return steps


def averaged(picture: np.ndarray, steps: list[npt.NDArray[np.int64]]) -> np.ndarray:
    """Mean of ``picture`` and itself moved by each step in turn; smaller by their sum, half of it on each side."""
    for x, y in steps:
        height, width = picture.shape[0] - abs(int(y)), picture.shape[1] - abs(int(x))
        r, c = max(0, int(y)), max(0, int(x))
        s, d = max(0, -int(y)), max(0, -int(x))
        picture = cv2.addWeighted(
            picture[r : r + height, c : c + width], 0.5, picture[s : s + height, d : d + width], 0.5, 0
        )
    return picture


def blurred(stamp: Stamp, way: Array, softness: float) -> Stamp:
    """``stamp`` smeared along ``way`` (2,) pixels and softened."""
    steps = halvings(way)
    rgba, left, top = stamp.rgba, stamp.left, stamp.top
    if steps:
        x, y = (int(v) for v in np.abs(np.sum(steps, axis=0)))
        rgba = cv2.copyMakeBorder(rgba, y, y, x, x, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
        rgba = averaged(rgba, steps)
        left, top = left - x + x // 2, top - y + y // 2
    if softness > 0.15:
        rgba = cv2.GaussianBlur(rgba, (0, 0), softness)
    return Stamp(rgba, left, top)


def overlap(image: np.ndarray, picture: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of ``image`` under a picture at (left, top), and the part of that picture inside ``image``."""
    height, width = picture.shape[:2]
    x0, y0 = max(0, -left), max(0, -top)
    x1, y1 = max(x0, min(width, image.shape[1] - left)), max(y0, min(height, image.shape[0] - top))
    area = image[max(0, top) : max(0, top) + y1 - y0, max(0, left) : max(0, left) + x1 - x0]
    return area, picture[y0:y1, x0:x1]


def paste(image: np.ndarray, stamp: Stamp) -> None:
    """Lay ``stamp`` over ``image`` (H, W, 3) uint8 in place; parts outside are cut off."""
    area, over = overlap(image, stamp.rgba, stamp.left, stamp.top)
    if area.size == 0:
        return
    rest = cv2.bitwise_not(over[..., 3])
    area[:] = cv2.add(cv2.multiply(area, cv2.merge((rest, rest, rest)), scale=1 / 255), over[..., :3])


def drop_shadow(image: np.ndarray, stamp: Stamp, reach: float) -> None:
    """A soft shadow to the lower right of ``stamp``, in place."""
    alpha = stamp.rgba[..., 3]
    pad = 4
    small = cv2.resize(alpha, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA) if min(alpha.shape) >= 8 else None
    if small is None:
        return
    small = cv2.copyMakeBorder(small, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    small = cv2.GaussianBlur(small, (0, 0), 0.3 + 0.02 * reach)
    soft = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    shift = round(0.08 * reach)
    area, dark = overlap(image, soft, stamp.left - 4 * pad + shift, stamp.top - 4 * pad + shift)
    if area.size == 0:
        return
    light = cv2.convertScaleAbs(dark, alpha=-0.45, beta=255)
    area[:] = cv2.multiply(area, cv2.merge((light, light, light)), scale=1 / 255)
