"""Paths of objects and of the camera of synthetic videos: tables with one row per frame."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from .composite_config import CompositeConfig, Range
from .sequence import Array


def uniform(rng: np.random.Generator, between: Range) -> float:
    return float(rng.uniform(*between))


def log_uniform(rng: np.random.Generator, between: Range) -> float:
    return math.exp(rng.uniform(math.log(between[0]), math.log(between[1])))


def often_little(rng: np.random.Generator, between: Range) -> float:
    """Between the two, mostly near the lower."""
    return between[0] + (between[1] - between[0]) * float(rng.random()) ** 2


def draw_count(rng: np.random.Generator, chances: SequenceOf[float]) -> int:
    return int(rng.choice(len(chances), p=np.array(chances) / sum(chances)))


def _through(times: Array, values: Array, n: int) -> Array:
    """(n, ...) a smooth curve through ``values`` (K, ...) at ``times`` (K,): cubic between knots, with the slope of the
    neighbours' chord at each (Catmull and Rom)."""
    if len(times) == 1:
        return np.repeat(values, n, axis=0)
    shape = (-1,) + (1,) * (values.ndim - 1)
    before, after = np.maximum(np.arange(len(times)) - 1, 0), np.minimum(np.arange(len(times)) + 1, len(times) - 1)
    slopes = (values[after] - values[before]) / (times[after] - times[before]).reshape(shape)
    t = np.arange(n, dtype=np.float64)
    i = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)  # (n,)
    step = (times[i + 1] - times[i]).reshape(shape)
    u = (t - times[i]).reshape(shape) / step
    a, b = values[i], values[i + 1]
    return np.asarray(
        (1 + 2 * u) * (1 - u) ** 2 * a
        + u * (1 - u) ** 2 * step * slopes[i]
        + u**2 * (3 - 2 * u) * b
        + u**2 * (u - 1) * step * slopes[i + 1],
        np.float64,
    )


def wander(rng: np.random.Generator, n: int, speed: float, low: float, high: float, start: float) -> Array:
    """(n,) a smooth random walk from ``start`` within about [low, high]; ``speed``: change per frame."""
    times, values = [0.0], [start]
    while times[-1] < n - 1:
        gap = float(rng.integers(6, 20))
        value = values[-1] + rng.normal(0, speed * gap)
        times.append(times[-1] + gap)
        values.append(min(max(value, low), high))
    return np.clip(_through(np.array(times), np.array(values), n), low, high)


def own_path(rng: np.random.Generator, config: CompositeConfig, size: tuple[int, int], side: float) -> Array:
    """(N, 2) x, y of an object's centre in the frame: calm stretches, turns, and jumps."""
    n = config.frames
    frame = np.array(size, np.float64)
    # Large objects stay near the middle; the centre never comes nearer to the border than half a side, or a sixth of it.
    room = np.maximum(frame / 2 - 0.5 * side, frame / 12)
    where = frame / 2 + rng.uniform(-1, 1, 2) * room
    speed = side * log_uniform(rng, config.speed)
    heading, jumps = rng.uniform(0, 2 * math.pi), uniform(rng, config.sudden)
    times, points = [0.0], [where]
    while times[-1] < n - 1:
        if len(times) > 1 and rng.random() < jumps:
            gap, pace = float(rng.integers(2, 6)), side * uniform(rng, config.sudden_speed)
            heading += rng.normal(0, 1.5)
        else:
            gap, pace = float(rng.integers(8, 25)), speed * math.exp(rng.normal(0, 0.5))
        way = gap * pace * np.array([math.cos(heading), 0.7 * math.sin(heading)])
        way *= min(1.0, float(np.hypot(*frame)) / 2 / max(float(np.hypot(*way)), 1e-9))
        free = points[-1] + way
        kept = np.clip(free, frame / 2 - room, frame / 2 + room)
        back = kept - 0.7 * np.clip(free - kept, -room, room)  # what would go too far comes back
        heading = math.atan2(*(back - points[-1])[::-1]) + rng.normal(0, 0.6)
        points.append(back)
        times.append(times[-1] + gap)
    return _through(np.array(times), np.array(points), n)


def soft_bounds(path: Array, size: tuple[int, int]) -> Array:
    """``path`` (N, 2), kept inside the frame: unchanged near the middle, ever slower towards the border."""
    half = np.array(size) / 2
    u = (path - half) / half
    beyond = np.maximum(np.abs(u) - 0.7, 0)
    return np.asarray(
        half + half * np.sign(u) * (np.minimum(np.abs(u), 0.7) + 0.28 * np.tanh(beyond / 0.28)), np.float64
    )


def smooth_step(t: Array) -> Array:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def with_absence(
    rng: np.random.Generator, config: CompositeConfig, path: Array, size: tuple[int, int], reach: float
) -> Array:
    """``path`` (N, 2) that leaves the frame once, by ``reach`` beyond the border, and returns where it pleases."""
    n = len(path)
    away = int(rng.integers(config.away[0], config.away[1] + 1))
    out, back = (int(v) for v in rng.integers(3, 12, 2))  # frames that it takes to go and to come
    first = max(1, n // 6)
    gone = int(rng.integers(first, max(first + 1, n - away - back // 2))) + out
    t = np.arange(n, dtype=np.float64)
    share = smooth_step((t - gone + out) / out) * (1 - smooth_step((t - gone - away) / back))
    exits = []
    for at in (gone - out, gone + away + back):
        x, y = path[min(at, n - 1)]
        distances = np.array([x, size[0] - x, y, size[1] - y])
        border = int(rng.choice(4, p=(1 / (distances + 20)) / (1 / (distances + 20)).sum()))
        exits.append(
            np.array([(-reach, y), (size[0] + reach, y), (x, -reach), (x, size[1] + reach)][border], dtype=np.float64)
        )
    outside = np.where((t < gone + away / 2)[:, None], exits[0], exits[1])
    return path + share[:, None] * (outside - path)


def meeting_path(rng: np.random.Generator, config: CompositeConfig, way: Array, path: Array, side: float) -> Array:
    """``way`` (N, 2) of another object, bent so that it comes close to the target's ``path`` once."""
    n = len(way)
    at, lasts = rng.uniform(0.1, 1) * n, rng.uniform(0.08, 0.3) * n
    angle = rng.uniform(0, 2 * math.pi) + np.radians(rng.normal(0, 2)) * np.arange(n)
    gap = side * uniform(rng, config.meeting_gap)
    beside = path + gap * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    near = np.exp(-(((np.arange(n) - at) / lasts) ** 2))[:, None]
    return way + near * (beside - way)


@dataclass(frozen=True, eq=False)
class Camera:
    """The camera in each frame."""

    offset: Array
    """(N, 2) how far the background has moved in the frame, pixels."""
    zoom: Array
    """(N,) factor."""
    roll: Array
    """(N,) radians."""
    shake: Array
    """(N, 2) pixels."""
    middle: Array
    """(2,) of the frame."""
    magnify: float
    """Frame pixels per pixel of a background that fits the frame."""

    @staticmethod
    def drawn(rng: np.random.Generator, config: CompositeConfig, size: tuple[int, int]) -> Camera:
        n, unit = config.frames, math.sqrt(size[0] * size[1])
        magnify = uniform(rng, config.magnify)
        room = (magnify - 1) / 2 * np.array(size)  # to either side
        speed = unit * often_little(rng, config.pan)
        start = rng.uniform(-1, 1, 2) * room
        offset = np.stack([wander(rng, n, speed * 0.8, -r, r, s) for r, s in zip(room, start, strict=True)], axis=1)
        zoom = np.exp(wander(rng, n, often_little(rng, config.zoom), -0.15, 0.25, start=0.0))
        roll = np.radians(wander(rng, n, often_little(rng, config.roll), -8, 8, start=0.0))
        jitter = rng.normal(0, 1, (n + 4, 2))
        weights = (0.2, 0.5, 0.65, 0.5, 0.2)  # squares sum to about 1
        jitter = np.sum([w * jitter[i : i + n] for i, w in enumerate(weights)], axis=0)
        shake = unit * often_little(rng, config.shake) * jitter
        return Camera(offset, zoom, roll, shake, np.array(size) / 2, magnify)

    def seen(self, path: Array, scale: Array, angle: Array) -> tuple[Array, Array, Array]:
        """Centre (N, 2), scale (N, 2) and angle (N,) in the frame of something at ``path`` (N, 2) before zoom, roll, shake."""
        turned = self.zoom[:, None] * rotated(path - self.middle, self.roll)
        return self.middle + turned + self.shake, scale * self.zoom[:, None], angle + self.roll

    def ground(self, k: int, wide: int, high: int) -> Array:
        """(2, 3) affine map from pixels of frame ``k`` to pixels of a background (``wide`` × ``high``), both by centres."""
        fit = self.magnify * max(
            2 * self.middle[0] / wide, 2 * self.middle[1] / high
        )  # frame pixels per background pixel
        turn = _rotation(-self.roll[k]) / (self.zoom[k] * fit)  # (2, 2)
        origin = np.array([wide, high]) / 2 - turn @ (self.middle + self.shake[k] - 0.5) - self.offset[k] / fit - 0.5
        return np.column_stack((turn, origin))

    def ground_velocity(self, k: int) -> Array:
        """(2,) way of the background's middle, pixels per frame."""
        return velocity_of(self.offset * self.zoom[:, None] + self.shake)[k]


def _rotation(angle: float) -> Array:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def rotated(points: Array, angle: Array) -> Array:
    """``points`` (..., 2) turned by ``angle`` (...)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack((cos * x - sin * y, sin * x + cos * y), axis=-1)


def velocity_of(path: Array) -> Array:
    """(N, 2) way per frame."""
    return np.gradient(path, axis=0) if len(path) > 1 else np.zeros_like(path)
