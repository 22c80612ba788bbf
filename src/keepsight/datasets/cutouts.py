"""Cut-out objects and backgrounds, from annotated photographs or by arithmetic: what :mod:`.composite` is made of.

Example::

    objects = CutOuts(SharedObjects("shared", Path("data/train"), masks_only=True))  # any TrainingSet with masks
    photographs = Backgrounds("data/train/backgrounds")
    cut = objects.draw(np.random.default_rng(0), side=80)      # at least 80 pixels, sharp enough for 100
    cut.rgba, cut.label

Files are read when an object is drawn, never before; what was cut out is kept in a small cache of each process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from ..errors import InputError
from . import procedural
from .frames import ImageFrames, list_images
from .sequence import Sequence
from .tracks import TrainingSet

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class CutOut:
    """An object without its surroundings."""

    rgba: np.ndarray
    """(h, w, 4) uint8; the colours go on behind the edge, so that a soft edge shows nothing of the old background. The
    outermost pixels are transparent."""
    label: str
    """What it is; "" where nobody said."""
    identity: str
    """Where it is from, for messages."""

    @cached_property
    def side(self) -> float:
        """Square root of the width times the height of its visible part, pixels."""
        rows, cols = (np.flatnonzero((self.rgba[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
        return float(np.sqrt((np.ptp(rows) + 1.0) * (np.ptp(cols) + 1.0)))


class CutOutSource(ABC):
    """Where objects are drawn from; travels to worker processes."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, side: float = 0, label: str | None = None) -> CutOut | None:
        """An object of at least ``side`` pixels where there is one, else a smaller one; None if ``label`` is given and
        nothing of it was found."""


class BackgroundSource(ABC):
    """Where backgrounds are drawn from; travels to worker processes."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A picture (H, W, 3) uint8 RGB; not to be written into."""


# ------------------------------------------------------------------------------------------------------- from annotations


@dataclass(frozen=True)
class CutOutConfig:
    """Which annotated objects are good enough, and how they are cut out."""

    smallest: float = 32.0
    """Least side, the square root of the box's area, pixels."""
    largest_share: float = 0.5
    """Largest share of the image's area that the box may take; what is larger is mostly the place itself."""
    margin: float = 2.0
    """Least distance of the box from the image's border, pixels; what touches the border is cut off."""
    whole: float = 0.8
    """Least share of the mask in its largest connected part; less: something stands in front of the object."""
    solidity: float = 0.62
    """Least area of that part relative to its convex hull; less: nets, frames, objects full of holes."""
    fill: float = 0.3
    """Least share of the box that the mask fills."""
    feather: float = 0.8
    """Standard deviation of the edge's softness in pixels of the photograph."""
    largest: int = 256
    """Longest side of a cut-out in pixels; larger ones are reduced."""

    def __post_init__(self) -> None:
        for name in ("largest_share", "whole", "solidity", "fill"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share in 0..1")
        for name in ("smallest", "margin", "feather"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.largest < 16:
            raise InputError(f"largest is {self.largest}; give at least 16 pixels")


class CutOuts(CutOutSource):
    """Objects of a training set with masks: of each element the object of the first frame that has a box and a mask.

    Args:
        objects: elements whose annotation has ``masks`` and ``objects``; its optional attribute ``labels`` (one text per
            element) lets distractors be other objects of the same kind.
        config: what is good enough.
    """

    def __init__(self, objects: TrainingSet, config: CutOutConfig | None = None) -> None:
        if len(objects) == 0:
            raise InputError(f"{objects.name} has no objects to cut out; give a training set with masks")
        self.objects, self.config = objects, config or CutOutConfig()
        self._kept: _Cache[CutOut | None] = _Cache(64 << 20)

    def draw(self, rng: np.random.Generator, side: float = 0, label: str | None = None) -> CutOut | None:
        among = None if label is None else self._by_label.get(label)
        if label is not None and among is None:
            return None
        for attempt in range(240):
            if among is None:
                index = int(rng.integers(len(self.objects)))
            else:
                index = int(among[rng.integers(len(among))])
            # The wanted size is asked for less and less: a set may have no object so large.
            found = self._cut(index, side * 0.5 ** (attempt // 40))
            if found is not None:
                return found
            if among is not None and attempt >= 8 * len(among):
                return None
        if label is not None:
            return None
        raise InputError(
            f"none of 240 objects drawn from {self.objects.name} could be cut out: they have no masks, touch the image's "
            f"border, or are below {self.config.smallest:g} pixels or in pieces; loosen CutOutConfig or use another set"
        )

    @cached_property
    def _by_label(self) -> dict[str, np.ndarray]:
        labels = getattr(self.objects, "labels", None)
        if labels is None:
            return {}
        places: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            places.setdefault(label, []).append(index)
        return {label: np.array(found) for label, found in places.items()}

    def _cut(self, index: int, side: float) -> CutOut | None:
        """Object ``index`` if it is large and good enough."""
        sequence = self.objects[index]
        boxes = sequence.boxes
        frame = int(np.argmax(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)))
        if not boxes[frame, 2:].prod() >= max(side, self.config.smallest) ** 2:  # nan too
            return None
        if sequence.annotation.image_size is not None and not self._inside(
            boxes[frame], sequence.annotation.image_size
        ):
            return None
        return self._kept.get(index, partial(self._read, sequence, frame, index), _weight)

    def _inside(self, box: np.ndarray, size: tuple[int, int]) -> bool:
        x, y, w, h = box
        m = self.config.margin
        inside = x >= m and y >= m and x + w <= size[0] - m and y + h <= size[1] - m
        return bool(inside and w * h <= self.config.largest_share * size[0] * size[1])

    def _read(self, sequence: Sequence, frame: int, index: int) -> CutOut | None:
        known = sequence.annotation
        ids = None if known.masks is None else known.masks[frame]
        if ids is None:
            return None
        mask = np.equal(ids, known.objects[0] if known.objects else 1)  # (H, W)
        if not self._inside(known.boxes[frame], (ids.shape[1], ids.shape[0])):
            return None
        labels = getattr(self.objects, "labels", None)
        label = "" if labels is None else labels[index]
        rgba = cut_out(sequence.frames[frame], mask, self.config)
        return None if rgba is None else CutOut(rgba, label, f"{self.objects.name}/{sequence.name}")


def cut_out(image: np.ndarray, mask: np.ndarray, config: CutOutConfig | None = None) -> np.ndarray | None:
    """(h, w, 4) uint8 picture of the largest part of ``mask`` (H, W) bool in ``image`` (H, W, 3); None if it is not
    whole, solid and large enough."""
    config = config or CutOutConfig()
    left, top, *extent = cv2.boundingRect(mask.astype(np.uint8))
    if not all(extent):
        return None  # OpenCV does not survive components of nothing
    inner = mask[top : top + extent[1], left : left + extent[0]]
    _, parts, measures, _ = cv2.connectedComponentsWithStats(inner.astype(np.uint8), connectivity=8)
    largest = 1 + int(np.argmax(measures[1:, cv2.CC_STAT_AREA]))
    x, y, w, h, area = (int(v) for v in measures[largest])
    if area < config.whole * measures[1:, cv2.CC_STAT_AREA].sum() or area < config.fill * w * h:
        return None
    if w * h < config.smallest**2:
        return None
    pad = 5  # room for the soft edge
    alpha = np.zeros((h + 2 * pad, w + 2 * pad), np.uint8)
    alpha[pad:-pad, pad:-pad] = np.where(parts[y : y + h, x : x + w] == largest, 255, 0)
    outlines = cv2.findContours(alpha, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    hull = cv2.contourArea(cv2.convexHull(outlines[0]))
    if area < config.solidity * hull:
        return None
    rows = np.clip(np.arange(y - pad, y + h + pad) + top, 0, image.shape[0] - 1)
    cols = np.clip(np.arange(x - pad, x + w + pad) + left, 0, image.shape[1] - 1)
    colour = image[rows[:, None], cols[None, :]]  # (h', w', 3)
    # Annotators draw a little outside, and border pixels are half background: the outermost ring is not trusted.
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    alpha = np.asarray(cv2.erode(alpha, cross))
    core = np.asarray(cv2.erode(alpha, cross))
    known = cv2.blur(core.astype(np.float32) / 255, (7, 7))
    inner_colour = np.where(core[..., None] > 0, colour, 0)
    spread = cv2.blur(inner_colour.astype(np.float32), (7, 7)) / np.maximum(known, 1e-3)[..., None]
    colour = np.where(core[..., None] > 0, colour, np.clip(spread, 0, 255).astype(np.uint8))
    soft = cv2.GaussianBlur(alpha, (0, 0), config.feather) if config.feather > 0 else alpha
    rgba = np.dstack((colour, soft))
    shrink = config.largest / max(rgba.shape[:2])
    if shrink < 1:
        size = max(8, round(rgba.shape[1] * shrink)), max(8, round(rgba.shape[0] * shrink))
        rgba = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA)
    for border in (rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]):
        border[:, 3] = 0
    return rgba if (rgba[..., 3] > 127).any() else None


class Backgrounds(BackgroundSource):
    """Photographs in files: a folder of images, or paths."""

    def __init__(self, where: str | Path | Iterable[str | Path]) -> None:
        if isinstance(where, str | Path):
            folder = Path(where)
            paths: SequenceOf[Path] = list_images(folder) if folder.is_dir() else ()
            if not paths:
                raise InputError(
                    f"{folder} has no images; give a folder of photographs, or no folder for drawn backgrounds"
                )
        else:
            paths = [Path(p) for p in where]
            if not paths:
                raise InputError("no backgrounds were given; give at least one image file")
        self._frames = ImageFrames(paths)
        self._kept: _Cache[np.ndarray] = _Cache(32 << 20)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        index = int(rng.integers(len(self._frames)))
        return self._kept.get(index, lambda: self._frames[index], lambda image: image.nbytes)

    def __len__(self) -> int:
        return len(self._frames)


# ------------------------------------------------------------------------------------------------------- by arithmetic


class DrawnCutOuts(CutOutSource):
    """``kinds`` × 4 drawn objects; the four of a kind have one outline and colour and differ in their patterns."""

    def __init__(self, kinds: int = 64, seed: int = 0) -> None:
        if kinds < 1:
            raise InputError(f"kinds is {kinds}; give at least 1")
        self.kinds, self.seed = kinds, seed
        self._kept: _Cache[CutOut] = _Cache(32 << 20)

    def draw(self, rng: np.random.Generator, side: float = 0, label: str | None = None) -> CutOut | None:
        kind, pattern = int(rng.integers(self.kinds)), int(rng.integers(4))
        if label is not None:
            if not label.startswith("kind ") or not label[5:].isdecimal() or int(label[5:]) >= self.kinds:
                return None
            kind = int(label[5:])
        return self._kept.get(4 * kind + pattern, lambda: self._make(kind, pattern), _weight)

    def _make(self, kind: int, pattern: int) -> CutOut:
        shape = np.random.default_rng((self.seed, 0, kind))
        outline, hue = procedural.thing_outline(shape), float(shape.uniform(0, 180))
        picture = procedural.thing(np.random.default_rng((self.seed, 1, kind, pattern)), outline, hue)
        rgba = np.dstack((picture.colour, 255 * picture.alpha)).round().astype(np.uint8)
        return CutOut(rgba, f"kind {kind}", f"drawn object {kind}.{pattern}")


class DrawnBackgrounds(BackgroundSource):
    """``count`` drawn places of ``size`` (width, height)."""

    def __init__(self, count: int = 64, size: tuple[int, int] = (320, 240), seed: int = 0) -> None:
        if count < 1 or min(size) < 16:
            raise InputError(f"count is {count} and size {size}; give at least 1 and 16×16 pixels")
        self.count, self.size, self.seed = count, size, seed
        self._kept: _Cache[np.ndarray] = _Cache(32 << 20)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        index = int(rng.integers(self.count))
        return self._kept.get(index, lambda: self._make(index), lambda image: image.nbytes)

    def _make(self, index: int) -> np.ndarray:
        return procedural.clutter(np.random.default_rng((self.seed, 2, index)), *self.size)


class _Cache(Generic[T]):
    """Keeps what was used last, up to ``limit`` bytes; what is made again is the same, so it changes nothing but time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._items: OrderedDict[int, tuple[T, int]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Cache, (self.limit,)  # worker processes begin with an empty one

    def get(self, key: int, make: Callable[[], T], weight: Callable[[T], int]) -> T:
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key][0]
        item = make()
        self._items[key] = item, weight(item)
        self.size += self._items[key][1]
        while self.size > self.limit and len(self._items) > 1:
            self.size -= self._items.popitem(last=False)[1][1]
        return item


def _weight(cut: CutOut | None) -> int:
    return 64 if cut is None else cut.rgba.nbytes
