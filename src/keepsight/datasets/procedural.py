"""Pictures made by arithmetic alone: ground, objects and posts for synthetic videos that need no files.

Everything random comes from the generator that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 224
"""Side of an object's picture in pixels; the outline fills it up to a margin."""
MARGIN = 8
"""Pixels between the outline and the picture's border."""


@dataclass(frozen=True)
class Picture:
    """A picture with a soft outline."""

    colour: np.ndarray
    """(S, S, 3) float32, 0 to 255."""
    alpha: np.ndarray
    """(S, S) float32, 0 to 1."""


def fractal(rng: np.random.Generator, height: int, width: int, coarsest: int, octaves: int = 6) -> np.ndarray:
    """(height, width) float32 in 0..1: noise at several scales, each half as strong and twice as fine as the last."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = max(1.0, coarsest / 2**octave)
        grid = rng.random((math.ceil(height / cell) + 2, math.ceil(width / cell) + 2)).astype(np.float32)
        total += 0.55**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = np.quantile(total, (0.005, 0.995))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1)


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) float32, 0 to 255; ``hue`` in 0..180, the others in 0..1."""
    hsv = np.array([[[hue % 180, 255 * saturation, 255 * value]]]).round().astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def stony_ground(rng: np.random.Generator, width: int, height: int, pan: float, hue: float) -> np.ndarray:
    """Ground with stones and tufts, (H', W', 3) uint8, large enough for the camera's way."""
    wide, high = math.ceil(width * (1.2 + pan)), math.ceil(height * 1.2)
    soil = fractal(rng, high, wide, coarsest=max(16, width // 4))[..., None]
    detail = fractal(rng, high, wide, coarsest=max(8, width // 32))[..., None]
    ground = (1 - soil) * rgb(hue, 0.38, 0.30) + soil * rgb(hue - 12, 0.30, 0.62)
    ground = ground * (0.72 + 0.5 * detail)
    unit = min(width, height) / 480
    for _ in range(90):
        _stone(rng, ground, unit * float(rng.uniform(5, 30)), hue)
    return np.clip(ground, 0, 255).astype(np.uint8)


def _stone(rng: np.random.Generator, ground: np.ndarray, radius: float, hue: float) -> None:
    """A shaded lump with a shadow, painted onto ``ground`` (H', W', 3) in place."""
    height, width = ground.shape[:2]
    x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
    angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    radii = radius * (1 + 0.22 * np.sin(angles * 2 + rng.uniform(0, 6)) + 0.1 * np.sin(angles * 5 + rng.uniform(0, 6)))
    points = np.stack((radii * np.cos(angles), 0.75 * radii * np.sin(angles)), axis=1)  # (24, 2)
    reach = math.ceil(1.6 * radius) + 2
    x0, y0, x1, y1 = max(0, round(x) - reach), max(0, round(y) - reach), round(x) + reach, round(y) + reach
    area = ground[y0:y1, x0:x1]
    if area.size == 0:
        return
    mask = np.zeros(area.shape[:2], np.uint8)
    shape = np.round((points + np.array([x - x0, y - y0])) * 16).astype(np.int32)
    cv2.fillPoly(mask, [shape + round(4 * radius)], 255, cv2.LINE_AA, shift=4)
    area *= 1 - 0.35 * cv2.GaussianBlur(mask, (0, 0), 0.1 * radius + 1)[..., None].astype(np.float32) / 255
    mask[:] = 0
    cv2.fillPoly(mask, [shape], 255, cv2.LINE_AA, shift=4)
    rows, cols = np.mgrid[y0 : y0 + area.shape[0], x0 : x0 + area.shape[1]].astype(np.float32)
    light = 0.95 - 0.22 * ((cols - x) + (rows - y)) / radius  # from the top left
    colour = rgb(hue + rng.uniform(-25, 25), rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.75))
    grain = fractal(rng, area.shape[0], area.shape[1], coarsest=max(3, int(radius / 2)), octaves=3)
    shade = (light * (0.75 + 0.4 * grain))[..., None] * colour
    alpha = mask[..., None].astype(np.float32) / 255
    area += alpha * (shade - area)


def blob_outline(rng: np.random.Generator) -> np.ndarray:
    """(P, 2) points x, y of a smooth closed outline about the texture's middle."""
    angles = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    radii = np.ones_like(angles)
    for order, strength in ((2, 0.10), (3, 0.13), (4, 0.05), (5, 0.06)):
        radii += strength * np.sin(order * angles + rng.uniform(0, 2 * math.pi))
    points = np.stack((radii * np.cos(angles), 0.85 * radii * np.sin(angles)), axis=1)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    return points * ((SIDE / 2 - MARGIN) / np.abs(points).max()) + SIDE / 2


def spotted_object(rng: np.random.Generator, outline: np.ndarray, hue: float) -> Picture:
    """A rounded, spotted thing with a dark rim and light from the top left."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    grain = fractal(rng, SIDE, SIDE, coarsest=28, octaves=4)[..., None]
    colour = (0.8 + 0.4 * grain) * rgb(hue, 0.75, 0.85)
    spots = np.zeros((SIDE, SIDE), np.uint8)
    for x, y in rng.uniform(0.12 * SIDE, 0.88 * SIDE, (16, 2)):
        axes = rng.uniform(7, 20, 2).round().astype(int).tolist()
        cv2.ellipse(spots, (round(x), round(y)), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
    pattern = spots[..., None].astype(np.float32) / 255
    colour += pattern * (rgb(hue + 88, 0.55, 0.92) * (0.85 + 0.3 * grain) - colour)
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    round_shape = np.clip(depth / (0.28 * SIDE), 0, 1) ** 0.5
    shade = (0.45 + 0.65 * round_shape) * (1 - 0.45 * (rows + cols))
    colour = colour * shade[..., None]
    shine = np.exp(-(((rows + 0.17) / 0.07) ** 2 + ((cols + 0.15) / 0.11) ** 2))[..., None]
    colour += 0.5 * shine * (255 - colour)
    return Picture(np.clip(colour, 0, 255).astype(np.float32), mask.astype(np.float32) / 255)


def post(rng: np.random.Generator, height: int, width: int, hue: float) -> Picture:
    """A wooden post from top to bottom of the frame, (height, width)."""
    grain = cv2.resize(
        fractal(rng, 16, 8 * width, coarsest=12, octaves=4), (width, height), interpolation=cv2.INTER_CUBIC
    )
    across = np.linspace(-1, 1, width, dtype=np.float32)
    light = (1.05 - 0.3 * across) * np.sqrt(np.clip(1.1 - across**2, 0, 1))
    colour = (rgb(hue, 0.35, 0.55) * (0.6 + 0.6 * grain[..., None])) * light[None, :, None]
    return Picture(np.clip(colour, 0, 255).astype(np.float32), np.ones((height, width), np.float32))


# ------------------------------------------------------------------------------------- more variety, for training


def thing(rng: np.random.Generator, outline: np.ndarray, hue: float) -> Picture:
    """An object of ``outline`` (P, 2) with one of several patterns, rounded by its shading."""
    if rng.random() < 0.25:
        return spotted_object(rng, outline, hue)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5)
    grain = fractal(rng, SIDE, SIDE, coarsest=int(rng.integers(12, 80)), octaves=5)
    first = rgb(hue, rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.95))
    second = rgb(hue + rng.uniform(20, 160), rng.uniform(0.1, 0.8), rng.uniform(0.15, 0.95))
    share = _pattern(rng, grain)[..., None]
    colour = first + share * (second - first)
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    angle = rng.uniform(-math.pi, 0)  # light from above
    rounded = np.clip(depth / (rng.uniform(0.1, 0.35) * SIDE), 0, 1) ** 0.5
    shade = (0.5 + 0.5 * rounded) * (1 + 0.5 * (math.cos(angle) * cols + math.sin(angle) * rows)) * (0.8 + 0.35 * grain)
    return Picture(np.clip(colour * shade[..., None], 0, 255).astype(np.float32), mask.astype(np.float32) / 255)


def thing_outline(rng: np.random.Generator) -> np.ndarray:
    """(P, 2) points x, y of an outline about the picture's middle: round, angular or long."""
    angles = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    radii = np.ones_like(angles)
    if rng.random() < 0.35:  # a regular polygon with rounded corners
        corners = int(rng.integers(3, 7))
        wedge = np.mod(angles, 2 * math.pi / corners) - math.pi / corners
        radii = (math.cos(math.pi / corners) / np.cos(wedge)) ** rng.uniform(0.5, 1)
    for order in range(2, 8):
        radii = radii + rng.uniform(0, 0.28) / order * np.sin(order * angles + rng.uniform(0, 2 * math.pi))
    aspect = math.exp(rng.normal(0, 0.35))
    turn = rng.uniform(0, 2 * math.pi)
    points = np.stack((radii * np.cos(angles + turn), aspect * radii * np.sin(angles + turn)), axis=1)
    points -= (points.max(axis=0) + points.min(axis=0)) / 2
    return points * ((SIDE / 2 - MARGIN) / np.abs(points).max()) + SIDE / 2


def _pattern(rng: np.random.Generator, grain: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) float32 in 0..1: stripes, checks, halves or clouds, bent a little by ``grain``."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(2, 9)
    along = math.cos(angle) * cols + math.sin(angle) * rows + 0.12 * grain
    across = -math.sin(angle) * cols + math.cos(angle) * rows
    sharp = rng.uniform(2, 12)
    kind = rng.integers(4)
    if kind == 0:
        wave = np.sin(2 * math.pi * pitch * along)
    elif kind == 1:
        wave = np.sin(2 * math.pi * pitch * along) * np.sin(2 * math.pi * pitch * across)
    elif kind == 2:
        wave = 4 * (along - along.mean())
    else:
        wave = 3 * (grain - 0.5)
    return np.asarray(0.5 + 0.5 * np.tanh(sharp * wave), np.float32)


def clutter(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A place with things in it, (height, width, 3) uint8: stony ground, or shapes before a graded wall."""
    hue = float(rng.uniform(0, 180))
    if rng.random() < 0.4:
        ground = stony_ground(rng, math.ceil(width / 1.2), math.ceil(height / 1.2), 0.0, hue)
        return cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA)
    grain = fractal(rng, height, width, coarsest=max(8, width // 3))[..., None]
    rise = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    low, high = (rgb(hue + rng.uniform(-40, 40), rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.9)) for _ in range(2))
    shade = 0.7 + 0.5 * grain  # (H, W, 1)
    view = (low + rise * (high - low)) * shade  # (H, W, 3)
    for _ in range(int(rng.integers(15, 60))):
        shape = np.zeros((height, width), np.uint8)
        centre = rng.uniform((0, 0), (width, height))
        reach = width * rng.uniform(0.02, 0.16) * rng.uniform(0.3, 1, 2)
        if rng.random() < 0.5:
            points = centre + rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2)) * reach
            cv2.fillConvexPoly(shape, cv2.convexHull(np.round(points * 16).astype(np.int32)), 255, cv2.LINE_AA, shift=4)
        else:
            x, y, a, b = np.round([*centre, *reach]).astype(int).tolist()
            cv2.ellipse(shape, (x, y), (a + 1, b + 1), float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA)
        colour = rgb(hue + rng.normal(0, 50), rng.uniform(0.05, 0.7), rng.uniform(0.1, 0.95))
        x, y, w, h = cv2.boundingRect(shape)
        part = slice(y, y + h), slice(x, x + w)
        alpha = shape[part][..., None].astype(np.float32) * np.float32(rng.uniform(0.6, 1) / 255)
        view[part] += alpha * (colour * shade[part] - view[part])
    return np.clip(view, 0, 255).astype(np.uint8)
