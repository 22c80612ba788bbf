"""What only the pictures of a synthetic video need: the photograph, the objects' colours, light, and the lens."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .composite_config import CompositeConfig
from .composite_layers import Layer, Pyramid, averaged, halvings
from .composite_motion import Camera, often_little, smooth_step, uniform, wander
from .cutouts import BackgroundSource
from .sequence import Array


class Scene:
    """Paints the background and turns a finished picture into what a camera gives.

    Args:
        seed: of the video, for the noise of each frame.
        config: what may happen.
        size: (width, height) of the frames.
        camera: its way over the background.
        layers: objects that get their colours here: :attr:`sprites`, one per layer.
        backgrounds: where the photograph is drawn from.
        harmony: share by which the objects' colours approach the photograph's.
        shutter: share of the time between frames in which light is collected.
    """

    def __init__(
        self,
        seed: tuple[int, ...],
        config: CompositeConfig,
        size: tuple[int, int],
        camera: Camera,
        layers: SequenceOf[Layer],
        backgrounds: BackgroundSource,
        harmony: float,
        shutter: float,
    ) -> None:
        rng, light, lens = map(np.random.default_rng, np.random.SeedSequence((*seed, 1)).spawn(3))
        self.seed, self.size, self.camera, self.shutter = seed, size, camera, shutter
        photograph = backgrounds.draw(rng)
        if rng.random() < config.mirror:
            photograph = photograph[:, ::-1]
        fit = camera.magnify * max(size[0] / photograph.shape[1], size[1] / photograph.shape[0])
        photograph = np.ascontiguousarray(photograph)
        if fit < 0.7:  # far larger than needed
            photograph = np.asarray(cv2.resize(photograph, None, fx=fit, fy=fit, interpolation=cv2.INTER_AREA))
            fit = 1.0
        self.photograph = photograph
        self.softness = 0.3 * max(0.0, fit - 1)
        """Blur of the objects, pixels: they are as soft as the enlarged photograph."""
        mean, spread = (np.asarray(v, np.float64)[:, 0] for v in cv2.meanStdDev(photograph))  # (3,) each
        self.sprites = []
        for layer in layers:
            texture = backgrounds.draw(rng) if layer.paint.print > 0 else None
            rgba = layer.paint.on(layer.rgba, texture)
            self.sprites.append(Pyramid(_harmonised(rgba, mean, spread, harmony)))
        self._light(light, config)
        low, high = config.defocus
        sharpness = low + 0.6 * (often_little(lens, config.defocus) - low)
        self.defocus = wander(lens, config.frames, 0.03 * (sharpness - low), low, high, start=sharpness)  # (N,)
        self.noise = often_little(lens, config.noise)
        worst, best = config.jpeg_quality
        self.quality = int(lens.integers(worst, best + 1)) if lens.random() < config.jpeg else None

    def _light(self, rng: np.random.Generator, config: CompositeConfig) -> None:
        n, strength = config.frames, often_little(rng, config.gain)
        self.gain = np.exp(wander(rng, n, strength / 10, -0.6, 0.5, start=float(rng.normal(0, 0.6 * strength))))  # (N,)
        reach = 2 * config.gamma
        self.gamma = np.exp(wander(rng, n, config.gamma / 20, -reach, reach, start=float(rng.normal(0, config.gamma))))
        self.cast = np.exp(rng.normal(0, config.cast, 3))  # (3,)
        self.shade = _Shade.drawn(rng, config) if rng.random() < config.shade else None

    def _curve(self, k: int) -> np.ndarray:
        """(1, 256, 3) uint8 grey levels in the light of frame ``k``."""
        grey = np.arange(256)[:, None] / 255
        curve = 255 * self.gain[k] * self.cast * grey ** self.gamma[k]
        return np.clip(curve, 0, 255).round().astype(np.uint8)[None]

    def ground(self, k: int) -> np.ndarray:
        """(H, W, 3) uint8 what the camera sees of the photograph, blurred by its motion."""
        steps = halvings(self.shutter * self.camera.ground_velocity(k))
        total = np.abs(np.sum(steps, axis=0, initial=0)).astype(int) * np.ones(2, int)  # x, y that averaging takes away
        width, height = self.size[0] + int(total[0]), self.size[1] + int(total[1])
        affine = self.camera.ground(k, self.photograph.shape[1], self.photograph.shape[0])
        affine[:, 2] -= affine[:, :2] @ (total / 2)
        view = cv2.warpAffine(
            self.photograph,
            affine,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return averaged(view, steps)

    def lens(self, picture: np.ndarray, k: int) -> np.ndarray:
        """Shadow, blur, light, noise and compression; (H, W, 3) uint8."""
        if self.shade is not None:
            picture = cv2.multiply(picture, self.shade.over(k, self.size), scale=1 / 255)
        if self.defocus[k] > 0.25:
            picture = cv2.GaussianBlur(picture, (0, 0), float(self.defocus[k]))
        picture = cv2.LUT(picture, self._curve(k))
        if self.noise > 0.2:
            row, col = np.random.default_rng((*self.seed, 2, k)).integers(0, 65, 2)
            sheet = grain(self.size[0] + 64, self.size[1] + 64)
            sheet = sheet[row : row + self.size[1], col : col + self.size[0]]
            share = self.noise / 32
            picture = cv2.addWeighted(picture, 1, sheet, share, -128 * share)
        if self.quality is not None:
            _, data = cv2.imencode(
                ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, self.quality]
            )
            picture = cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
        return np.asarray(picture)


@dataclass(frozen=True, eq=False)
class _Shade:
    """A soft dark band that wanders over the picture."""

    direction: Array
    """(2,) across the band, of length 1."""
    offset: Array
    """(N,) where its middle is, in frame sides from the frame's middle."""
    width: float
    """In frame sides."""
    depth: float

    @staticmethod
    def drawn(rng: np.random.Generator, config: CompositeConfig) -> _Shade:
        angle = rng.uniform(0, 2 * math.pi)
        offset = wander(rng, config.frames, 0.012, -0.8, 0.8, start=float(rng.uniform(-0.5, 0.5)))
        direction = np.array([math.cos(angle), math.sin(angle)])
        return _Shade(direction, offset, rng.uniform(0.15, 0.6), uniform(rng, config.shade_depth))

    def over(self, k: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W, 3) uint8 light that is left, 255: all of it."""
        w, h = 40, 30
        unit = math.sqrt(size[0] * size[1])
        x = (np.arange(w) + 0.5 - w / 2) * (size[0] / w / unit)
        y = (np.arange(h) + 0.5 - h / 2) * (size[1] / h / unit)
        away = np.abs(self.direction[0] * x + self.direction[1] * y[:, None] - self.offset[k]) - self.width / 2
        light = 1 - self.depth * (1 - smooth_step(away / 0.12 + 0.5))
        small = cv2.resize((255 * light).astype(np.float32), size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        return cv2.merge((small, small, small))


@lru_cache(maxsize=4)
def grain(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: noise about 128 with a standard deviation of 32; a little softer than white, as sensors'
    is after demosaicing."""
    noise = np.random.default_rng(20).normal(0, 1, (height, width, 3)).astype(np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.5), np.float32)
    return np.clip(128 + 32 * noise / noise.std(), 0, 255).round().astype(np.uint8)


def _harmonised(rgba: np.ndarray, mean: Array, spread: Array, share: float) -> np.ndarray:
    """``rgba`` (h, w, 4) with brightness and contrast, and by half as much colour, nearer to a background's ``mean`` and
    ``spread`` (3,)."""
    own, contrast = (v[:, 0] for v in cv2.meanStdDev(rgba[..., :3], mask=(rgba[..., 3] > 127).astype(np.uint8)))
    factor = float(np.clip((spread.mean() / max(contrast.mean(), 4.0)) ** share, 0.65, 1.3))
    move = share * (0.5 * (mean.mean() - own.mean()) + 0.5 * (mean - own))  # (3,)
    curve = (np.arange(256)[:, None] - own) * factor + own + move  # (256, 3)
    colour = cv2.LUT(rgba[..., :3], np.clip(curve, 0, 255).round().astype(np.uint8)[None])
    return np.dstack((colour, rgba[..., 3]))
