"""Synthetic training videos: cut-out objects that move over photographs, with exact boxes, masks and visibility.

Example::

    objects = CutOuts(SharedObjects("shared", root, masks_only=True))
    video = render_video(7, CompositeConfig(), objects, Backgrounds(root / "backgrounds"))
    frame = video[31]                       # any frame by itself: nothing is rendered before it
    frame.image, frame.box, frame.visibility, frame.mask
    CompositeSet(100_000)[4711]             # the same as a training set; without sources everything is drawn

A video is decided once, in a few milliseconds: every path is a table with one row per frame. A frame is then painted from
back to front: the camera's view of the photograph, distractors, the target, what passes in front of it, and the lens.

Three things move together: the camera's shake, zoom and roll move everything, its pan moves the background and, as far
as they stand still in the world, the objects. Positions are continuous: pixel k covers [k, k + 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..boxes import Box
from ..errors import InputError
from . import procedural
from .composite_config import CompositeConfig
from .composite_layers import Bools, Layer, Paint, Wave, blurred, clipped, drop_shadow, overlap, paste
from .composite_motion import (
    Camera,
    draw_count,
    log_uniform,
    meeting_path,
    often_little,
    own_path,
    soft_bounds,
    uniform,
    wander,
    with_absence,
)
from .composite_scene import Scene
from .cutouts import BackgroundSource, CutOut, CutOutSource, DrawnBackgrounds, DrawnCutOuts
from .sequence import Annotation, Array, Frames, Masks, Sequence
from .tracks import TrainingSet

__all__ = ["CompositeConfig", "CompositeFrame", "CompositeSet", "CompositeVideo", "render_video"]


@dataclass(frozen=True)
class CompositeFrame:
    """One rendered frame."""

    index: int
    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    mask: np.ndarray
    """(H, W) uint8: 1 where the target is seen, 2, 3, .. where a distractor is, else 0."""
    box: Box
    """Extent of the whole target, hidden parts included, cut at the frame's border as tracking data sets have it; nan
    where it is outside."""
    visible_box: Box
    """Extent of the target's pixels in ``mask``; nan where there are none."""
    visibility: float
    """Share of the target's pixels that is seen: inside the frame and with nothing in front."""


class CompositeVideo:
    """A video that renders each frame when it is asked for; the same frame always looks the same.

    Boxes and visibilities of all frames are known without rendering. Memory does not grow with the number of frames.
    Made by :func:`render_video`.
    """

    def __init__(
        self, seed: tuple[int, ...], config: CompositeConfig, cutouts: CutOutSource, backgrounds: BackgroundSource
    ) -> None:
        self.config, self.seed = config, seed
        # One generator for each thing, so that a setting of one does not change the others.
        children = np.random.SeedSequence((*seed, 0)).spawn(5)
        plan, route, camera, crowd, front = map(np.random.default_rng, children)
        self.size: tuple[int, int] = config.sizes[int(plan.integers(len(config.sizes)))]
        """(width, height) of every frame."""
        self._backgrounds = backgrounds
        self._unit = math.sqrt(self.size[0] * self.size[1])
        self._shutter = uniform(plan, config.shutter)
        self._harmony = uniform(plan, config.harmony)
        self._drops = plan.random() < config.drop_shadow
        self._camera = Camera.drawn(camera, config, self.size)

        side = self._unit * log_uniform(plan, config.side)
        own = _any_object(plan, cutouts, side / config.enlarge)
        side = max(4.0, min(side, own.side * config.enlarge))
        follow = uniform(plan, config.follow)
        self.labels: tuple[str, ...]
        """Of the target and then the distractors; "" where the source has none."""
        path = own_path(route, config, self.size, side) + (1 - follow) * self._camera.offset
        path = soft_bounds(path, self.size)
        if route.random() < config.leave:
            path = with_absence(route, config, path, self.size, 0.75 * side * config.scale_range[1])
        target = self._actor(route, own, side, path, identity=1, changed=False)
        self._target = target

        layers, labels = [target], [own.label]
        for number in range(draw_count(crowd, config.distractors)):
            cut, changed = _other_object(crowd, config, cutouts, own, side)
            size = min(side * math.exp(crowd.normal(0, 0.15 if changed else 0.35)), cut.side * 2, 0.6 * self._unit)
            way = own_path(crowd, config, self.size, size) + (1 - follow) * self._camera.offset
            way = soft_bounds(way, self.size)
            if crowd.random() < config.meeting:
                way = meeting_path(crowd, config, way, path, side)
            layer = self._actor(crowd, cut, size, way, identity=2 + number, changed=changed)
            layers.insert(int(crowd.integers(len(layers) + 1)), layer)
            labels.append(cut.label)
        for _ in range(draw_count(front, config.occluders)):
            layers.append(self._occluder(front, cutouts, path, side))
        self._layers = layers
        self.labels = tuple(labels)

    # --- what callers use --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.config.frames

    def __getitem__(self, index: int) -> CompositeFrame:
        """Frame ``index``, rendered now."""
        k = self._inside(index)
        mask, visibility = self._geometry(k)
        seen = np.argwhere(mask == 1)  # (P, 2) row, column
        extent = Box(*(4 * (math.nan,)))
        if len(seen):
            (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0)
            extent = Box(float(left), float(top), float(right - left + 1), float(bottom - top + 1))
        return CompositeFrame(k, self.image(k), mask, Box(*(float(v) for v in self.boxes[k])), extent, visibility)

    def __iter__(self) -> Iterator[CompositeFrame]:
        return (self[k] for k in range(len(self)))

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of one frame."""
        k = self._inside(index)
        scene = self._scene
        picture = scene.ground(k)
        for layer, sprite in zip(self._layers, scene.sprites, strict=True):
            stamp = layer.stamp(k, self.size, sprite)
            if stamp is None:
                continue
            if self._drops and layer.identity:
                drop_shadow(picture, stamp, layer.reach(k))
            paste(picture, blurred(stamp, self._shutter * layer.velocity[k], scene.softness))
        return scene.lens(picture, k)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 object ids of one frame, see :attr:`CompositeFrame.mask`."""
        return self._geometry(self._inside(index))[0]

    @cached_property
    def amodal(self) -> Array:
        """(N, 4) xywh of the whole target, parts outside the frame included."""
        return self._target.bounds

    @cached_property
    def boxes(self) -> Array:
        """(N, 4) xywh of the target as :attr:`CompositeFrame.box` says; nan where it is outside the frame."""
        return clipped(self.amodal, self.size)

    @cached_property
    def visibilities(self) -> Array:
        """(N,) share of the target that is seen, in 0..1: counted at a few hundred points of it, so within about 0.02 of
        the count of pixels in :attr:`CompositeFrame.visibility`."""
        return self._seen_share(self._target)

    @cached_property
    def visible(self) -> Bools:
        """(N,) frames in which at least ``config.in_view`` of the target is seen."""
        return np.asarray((self.visibilities >= self.config.in_view) & np.isfinite(self.boxes[:, 0]), np.bool_)

    @property
    def identities(self) -> tuple[int, ...]:
        """Ids in the masks: 1, the target, and then the distractors; each is the same object in all frames."""
        return tuple(range(1, len(self.labels) + 1))

    @cached_property
    def distractor_boxes(self) -> Array:
        """(D, N, 4) xywh of the distractors with ids 2, 3, .., as :attr:`boxes`."""
        tables = [clipped(self._by_id(i).bounds, self.size) for i in self.identities[1:]]
        return np.stack(tables) if tables else np.zeros((0, len(self), 4))

    @cached_property
    def distractor_visibilities(self) -> Array:
        """(D, N) as :attr:`visibilities`."""
        shares = [self._seen_share(self._by_id(i)) for i in self.identities[1:]]
        return np.stack(shares) if shares else np.zeros((0, len(self)))

    # --- who is where ------------------------------------------------------------------------------------------------

    def _inside(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a video of {len(self)} frames")
        return index % len(self)

    def _by_id(self, identity: int) -> Layer:
        return next(layer for layer in self._layers if layer.identity == identity)

    def _actor(
        self, rng: np.random.Generator, cut: CutOut, side: float, path: Array, *, identity: int, changed: bool
    ) -> Layer:
        """An object of ``side`` pixels on ``path`` (N, 2), as the camera sees it. ``changed``: unlike its cut-out."""
        config, n = self.config, self.config.frames
        rgba = cut.rgba
        if rng.random() < config.mirror:
            rgba = np.ascontiguousarray(rgba[:, ::-1])
        # A range that the frame and the cut-out's sharpness allow.
        low, high = config.scale_range
        high = max(1.0, min(high, 0.8 * min(self.size) / side, 2.2 * cut.side / side))
        low = min(1.0, max(low, 8 / side))
        speed = often_little(rng, config.scale_speed)
        scale = np.exp(wander(rng, n, speed, math.log(low), math.log(high), start=0.0))
        aspect = np.exp(0.5 * (wander(rng, n, config.aspect / 10, -2 * config.aspect, 2 * config.aspect, start=0.0)))
        if changed:
            aspect = aspect * math.exp(rng.normal(0, 0.15))
        angle = rng.normal(0, config.tilt) + wander(rng, n, often_little(rng, config.turn), -70, 70, start=0.0)
        if rng.random() < config.spin:
            angle = angle + rng.uniform(-12, 12) * np.arange(n)
        steady = side / cut.side * scale
        wave = Wave.drawn(rng, config.deformation, n)
        paint = Paint.drawn(rng, config, changed)
        pose = self._camera.seen(path, np.stack((steady * aspect, steady / aspect), axis=1), np.radians(angle))
        return Layer(rgba, identity, *pose, wave, paint)

    def _occluder(self, rng: np.random.Generator, cutouts: CutOutSource, path: Array, side: float) -> Layer:
        """Something that passes in front of the target at a time after the first seventh of the video."""
        config, n = self.config, self.config.frames
        at = int(rng.integers(n // 7, n)) if n > 1 else 0
        heading = rng.uniform(0, 2 * math.pi)
        if rng.random() < config.bars:
            width = side * rng.uniform(0.3, 1.2)
            rgba = _bar(rng)
            # As long as the frame's diagonal; upright more often than not, and passing across its length.
            scale = np.array([width / (rgba.shape[1] - 4), 2.2 * math.hypot(*self.size) / rgba.shape[0]])
            angle = rng.normal(0, 8) + (90 if rng.random() < 0.25 else 0)
            heading = math.radians(angle) + (math.pi if rng.random() < 0.5 else 0)
            across = width
        else:
            cut = _any_object(rng, cutouts, 0.8 * side)
            rgba, across = cut.rgba, min(side * rng.uniform(0.7, 2), 2.5 * cut.side, 0.7 * self._unit)
            scale, angle = np.full(2, across / cut.side), rng.normal(0, 15)
        speed = (side + across) / rng.integers(config.passing[0], config.passing[1] + 1).clip(1)
        way = np.array([math.cos(heading), math.sin(heading)]) * speed
        miss = rng.normal(0, 0.15, 2) * side
        place = path[at] + miss + (np.arange(n) - at)[:, None] * way  # (N, 2)
        pose = self._camera.seen(place, np.broadcast_to(scale, (n, 2)), np.full(n, math.radians(angle)))
        still = Wave.drawn(rng, (0.0, 0.0), n)
        return Layer(rgba, 0, *pose, still, Paint.drawn(rng, config, False))

    def _geometry(self, k: int) -> tuple[np.ndarray, float]:
        """Object ids (H, W) of frame ``k``, and the share of the target's pixels that is seen."""
        ids = np.zeros((self.size[1], self.size[0]), np.uint8)
        total = 0
        for layer in self._layers:
            stamp = layer.stamp(k, self.size if layer.identity != 1 else None, layer.shape)
            if stamp is None:
                continue
            solid = stamp.rgba[..., 3] > 127
            if layer.identity == 1:
                total = int(solid.sum())
            area, part = overlap(ids, solid, stamp.left, stamp.top)
            area[part] = layer.identity
        return ids, int((ids == 1).sum()) / total if total else 0.0

    def _seen_share(self, layer: Layer) -> Array:
        """(N,) share of ``layer`` that is in the frame and not behind another."""
        boxes = layer.bounds
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        partly: Bools = np.asarray(
            ~((low >= 0) & (high <= self.size)).all(axis=1)
        )  # (N,) frames where points must be counted
        behind: list[tuple[Layer, Bools]] = []
        for other in self._layers[self._layers.index(layer) + 1 :]:
            reach = other.reaches()[:, None]
            near = ((other.centre + reach > low) & (other.centre - reach < high)).all(axis=1)
            behind.append((other, np.asarray(near)))
            partly |= near
        shares = np.ones(len(self))
        frames = np.flatnonzero(partly)
        if not len(frames):
            return shares
        points = layer.to_frame(frames, layer.grid())  # (F, P, 2)
        seen: Bools = np.asarray(((points >= 0) & (points < self.size)).all(axis=-1))  # (F, P)
        for other, near in behind:
            which = np.flatnonzero(near[frames])
            if len(which):
                seen[which] &= ~other.covers(frames[which], points[which])
        shares[frames] = seen.mean(axis=1)
        return shares

    @cached_property
    def _scene(self) -> Scene:
        return Scene(
            self.seed,
            self.config,
            self.size,
            self._camera,
            self._layers,
            self._backgrounds,
            self._harmony,
            self._shutter,
        )


def render_video(
    seed: int | tuple[int, ...] = 0,
    config: CompositeConfig | None = None,
    cutouts: CutOutSource | None = None,
    backgrounds: BackgroundSource | None = None,
) -> CompositeVideo:
    """A video of cut-out objects over backgrounds; sources that are not given are drawn by arithmetic, without any file.

    The same seed, configuration and sources give the same video in every process. ``seed``: not below 0. Raises
    :class:`~keepsight.errors.InputError` for a seed that is.
    """
    parts = seed if isinstance(seed, tuple) else (seed,)
    if not parts or min(parts) < 0:
        raise InputError(f"seed is {seed}; give a number that is not below 0, or several")
    return CompositeVideo(
        parts, config or CompositeConfig(), cutouts or DrawnCutOuts(), backgrounds or DrawnBackgrounds()
    )


# ---------------------------------------------------------------------------------------------------- as a training set


class CompositeSet(TrainingSet):
    """``videos`` synthetic videos; element ``i`` is the target of the video with seed (``seed``, i).

    Nothing is decided before an element's annotation or a frame is used, and only frames that are asked for are rendered.
    Boxes are whole extents cut at the frame's border; ``visible`` is at least ``config.in_view`` of the target seen;
    masks have 1 for the target and 2, 3, .. for distractors.
    """

    is_video = True

    def __init__(
        self,
        videos: int = 100_000,
        seed: int = 0,
        config: CompositeConfig | None = None,
        cutouts: CutOutSource | None = None,
        backgrounds: BackgroundSource | None = None,
        name: str = "composite",
    ) -> None:
        if videos < 1 or seed < 0:
            raise InputError(f"videos is {videos} and seed {seed}; give at least one video and a seed not below 0")
        self.videos, self.seed, self.name = videos, seed, name
        self.config = config or CompositeConfig()
        self.cutouts, self.backgrounds = cutouts or DrawnCutOuts(), backgrounds or DrawnBackgrounds()

    def __len__(self) -> int:
        return self.videos

    def __getitem__(self, index: int) -> Sequence:
        if not -self.videos <= index < self.videos:
            raise IndexError(f"video {index} of {self.videos}")
        video = VideoOnDemand(self, index % self.videos)
        return Sequence(f"{index % self.videos:06d}", self.name, CompositeFrames(video), video.annotation)

    def video(self, index: int) -> CompositeVideo:
        """The video behind element ``index``, with what a sequence does not hold: distractors' boxes, visible shares."""
        return render_video((self.seed, index), self.config, self.cutouts, self.backgrounds)


class VideoOnDemand:
    """Element ``index`` of a set: decided at first use, and once more in each process that it travels to."""

    def __init__(self, videos: CompositeSet, index: int) -> None:
        self.videos, self.index = videos, index

    @cached_property
    def video(self) -> CompositeVideo:
        return self.videos.video(self.index)

    def annotation(self) -> Annotation:
        video = self.video
        return Annotation(
            boxes=video.boxes,
            visible=video.visible,
            masks=CompositeMasks(self),
            objects=video.identities,
            image_size=video.size,
        )

    def __reduce__(self) -> tuple[type[VideoOnDemand], tuple[CompositeSet, int]]:
        return VideoOnDemand, (self.videos, self.index)


class CompositeFrames(Frames):
    """The pictures of a synthetic video."""

    def __init__(self, source: VideoOnDemand) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.videos.config.frames

    def __getitem__(self, index: int) -> np.ndarray:
        return self.source.video.image(index)


class CompositeMasks(Masks):
    """The object ids of a synthetic video: 1 the target, 2, 3, .. distractors."""

    def __init__(self, source: VideoOnDemand) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.videos.config.frames

    def __getitem__(self, index: int) -> np.ndarray:
        return self.source.video.mask(index)


# ---------------------------------------------------------------------------------------------------------- other things


def _any_object(rng: np.random.Generator, cutouts: CutOutSource, side: float) -> CutOut:
    found = cutouts.draw(rng, side)
    if found is None:  # only a wanted label may be missing
        raise InputError(f"{type(cutouts).__name__}.draw gave no object of any label; a source must give one")
    return found


def _other_object(
    rng: np.random.Generator, config: CompositeConfig, cutouts: CutOutSource, own: CutOut, side: float
) -> tuple[CutOut, bool]:
    """A distractor's cut-out, and whether it is the target's own one, which must then look a little different."""
    chance = rng.random()
    if chance < config.same:
        return own, True
    other = None
    if chance < config.same + config.kindred and own.label:
        other = cutouts.draw(rng, side / 2, label=own.label)
    if other is None:
        other = _any_object(rng, cutouts, side / 2)
    return other, other is own


def _bar(rng: np.random.Generator) -> np.ndarray:
    """(h, w, 4) uint8: a post with transparent borders."""
    width = int(rng.integers(16, 64))
    picture = procedural.post(rng, 192, width, float(rng.uniform(0, 180)))
    rgba = np.zeros((192, width + 4, 4), np.uint8)
    rgba[:, 2:-2, :3], rgba[:, 2:-2, 3] = picture.colour.astype(np.uint8), 255
    rgba[:, :2, :3], rgba[:, -2:, :3] = rgba[:, 2:3, :3], rgba[:, -3:-2, :3]
    return rgba
