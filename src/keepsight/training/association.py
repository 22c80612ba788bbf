"""KeepTrack's training items: pairs of crops with labelled candidates; spec/keeptrack-rts-lwl.md §2.3 to 2.6.

Read in the order of training: what is drawn (:class:`CandidateSampler`), how it becomes a labelled pair
(:class:`AssociationProcessing`: one frame twice, or two neighbouring frames of which only the target is known), and how pairs
become a batch (:func:`collate_pairs`). Points are (y, x) in image pixels, as in ``nn/association.py``.

A slot is a candidate's place in its frame, 0 the best. Labels of a slot: the partner's slot, -1 for no partner, -2 for unknown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..nn.association import image_points
from .batch import Batch
from .candidates import PAIRS, STATES, CandidateConfig, CandidateSet, FrameCandidates
from .crops import Square, cut

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NO_PARTNER, UNKNOWN = -1, -2
KINDS = ("self", *PAIRS)
"""Of an item: one frame twice, or the pair's category."""
TOO_FAR_BACK = "true candidate beyond the slots"
"""Reason for a dropped pair: the published code stops with an index error there (quirk Q4)."""
NO_PAIR, NO_SINGLE = (
    "no pair in the candidate set: a single frame instead",
    "no single frame in the set: a pair instead",
)
"""Reasons for an item of the other kind than was to be drawn."""
SCORE_FLOOR = 0.05
"""Made-up candidates score a little more than the candidates' own threshold."""
AUGMENTED_FLOOR = 0.075


@dataclass(frozen=True)
class ItemConfig:
    """How a drawn frame or pair becomes an item; the defaults are the published numbers with the code's mistakes mended, as the
    recipes ``keeptrack_paper`` and ``keeptrack_lite`` have them. ``keeptrack`` has ``published_quirks``."""

    output_size: int = 352
    """Side of the crops in pixels."""
    map_side: int = 23
    """Cells of the score map that the network makes of such a crop."""
    normalise: bool = True
    """Crops in the units of ImageNet backbones; False: RGB in 0..255."""
    slots: int = 5
    """Candidates of each frame: the best ones, and made-up ones where there are fewer."""
    removal: float = 0.25
    """Chance that the true candidate of one frame of a real pair is removed, as if occluded."""
    occlusion: float = 0.25
    """Largest share of the candidates that is removed from one of two copies of a frame."""
    brightness: float = 0.5
    """The copy's pixels are multiplied by a number from U(1 - b, 1 + b)."""
    blur_probability: float = 0.75
    """Chance that the copy is blurred; in the published training never (quirk Q2)."""
    blur_sigma: float = 0.5
    """Standard deviation of that blur, crop pixels."""
    score_noise: float = 0.1
    """Standard deviation of what is added to the copy's scores."""
    published_quirks: bool = False
    """True: as the published code does, which differs from the paper: the copy is never blurred (Q2); a real pair whose
    true candidate was removed from the second frame has no label if it has the same slot in both (Q3); made-up candidates of
    a copied frame are trained as unmatched, where the paper ignores them. The rest of the published behaviour holds for both."""

    def __post_init__(self) -> None:
        for name, least in (("output_size", 16), ("map_side", 2), ("slots", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}")
        for name in ("removal", "occlusion", "brightness", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        for name in ("blur_sigma", "score_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be below 0")


@dataclass(frozen=True)
class MiningConfig:
    """How often each kind of item is drawn; chances in any unit. Kinds that the candidate set lacks are left out."""

    self_supervised: float = 0.5
    """Share of single frames, the rest are real pairs."""
    states: tuple[float, float, float, float] = (0.0, 1.0, 0.5, 0.5)
    """Chances of single frames of the categories G, H, J, K."""
    pairs: tuple[float, float, float] = (1.0, 0.1, 0.1)
    """Chances of pairs HH, HK, HG."""
    by_count: bool = False
    """No mining: every kept frame, and every pair, is as likely as any other; ``states`` and ``pairs`` are not read."""

    def __post_init__(self) -> None:
        if not 0 <= self.self_supervised <= 1:
            raise InputError(f"self_supervised is {self.self_supervised}; give a share from 0 to 1")
        for name in ("states", "pairs"):
            values = getattr(self, name)
            if min(values) < 0 or not 0 < sum(values) < math.inf:
                raise InputError(f"{name} is {values}; give chances, none below 0 and not all 0")


VALIDATION_MINING = MiningConfig(640 / 1088, (0.2, 0.4, 0.2, 0.2), (320.0, 128.0, 0.0))
"""§2.3: 640 single frames, 320 pairs HH and 128 HK an epoch."""


@dataclass(frozen=True)
class AssociationData:
    """What KeepTrack learns from, how it is cut out, and how much of it."""

    candidates: str = ""
    """File of the stage ``candidates``; empty: made as ``build`` says, and kept in the run's folder."""
    build: CandidateConfig = CandidateConfig()
    """How the candidate set is made, where no file is given."""
    items: ItemConfig = ItemConfig()
    """How frames become items; validation has no augmentation of pairs."""
    mining: MiningConfig = MiningConfig()
    """What is drawn for training."""
    validation_mining: MiningConfig = VALIDATION_MINING
    """What is drawn for validation."""
    validation_every: int = 9
    """Every so-maniest sequence is for validation alone; 0: no validation. Published: 120 of 1120, by name."""
    batch_size: int = 64
    """Items per optimiser step, over all processes."""
    samples_per_epoch: int = 6400
    """Items per epoch; what does not fill a batch is dropped."""
    validation_samples: int = 1088
    """Items per validation."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; give at least 1")
        if self.samples_per_epoch < self.batch_size:
            raise InputError(
                f"samples_per_epoch is {self.samples_per_epoch}, less than one batch of {self.batch_size}; give more samples "
                "or a smaller batch"
            )
        if self.validation_every < 0 or self.validation_every == 1:
            raise InputError(
                f"validation_every is {self.validation_every}; give 0, or at least 2: with 1 nothing is left to train on"
            )


def split(found: CandidateSet, every: int) -> tuple[CandidateSet, CandidateSet]:
    """Sequences for training and for validation: every ``every``-th of each data set is held out; 0: none.

    Their order in the file counts, which is the data set's; sequences without kept frames count too.
    """
    trained: list[str] = []
    held: list[str] = []
    seen: Counter[str] = Counter()
    for key in found.sequences:
        spec = next((s for s in found.data if len(found.data) > 1 and key.startswith(s + "/")), "")
        seen[spec] += 1
        (held if every and seen[spec] % every == 0 else trained).append(key)
    return found.only(trained), found.only(held)


# --- what is drawn (§2.3) --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DrawnFrames:
    """One frame, or two neighbouring ones, with their pictures."""

    kind: str
    """One of :data:`KINDS`."""
    frames: list[FrameCandidates]
    images: list[npt.NDArray[np.uint8]]
    """Each (H, W, 3) RGB."""
    side: int
    """Cells of the recorded score map."""
    identity: str
    """Sequence and frames, for messages."""


class CandidateSampler:
    """Draws single frames and pairs: kind and category by their chances, then uniformly.

    ``slots``: pairs whose true candidate is not among the first so many are passed over; None: all are taken. ``skipped``
    counts them, and the items of one kind that took the place of the other where the set has nothing of that.
    Raises :class:`InputError` for a candidate set that has nothing of what ``mining`` asks for.
    """

    def __init__(self, found: CandidateSet, mining: MiningConfig, slots: int | None = 5) -> None:
        self.found, self.mining, self.slots = found, mining, slots
        self.skipped: Counter[str] = Counter()
        keys = list(found.sequences)
        self.singles = {s: _places(keys, [found.sequences[k].states[s] for k in keys]) for s in STATES}
        self.pairs = {p: _places(keys, [found.sequences[k].pairs[p] for k in keys]) for p in PAIRS}
        states: SequenceOf[float] = mining.states
        pairs: SequenceOf[float] = mining.pairs
        if mining.by_count:
            states, pairs = ([len(p) for p in places.values()] for places in (self.singles, self.pairs))
        self.single_chances = _chances(STATES, states, self.singles)
        self.pair_chances = _chances(PAIRS, pairs, self.pairs)
        has_pair = bool(self.pair_chances) and (slots is None or self._has_a_pair())
        self.self_share = mining.self_supervised if has_pair else 1.0
        """Share of single frames that is really drawn."""
        if not self.single_chances:
            self.self_share = 0.0
        wanted, lacks_all = mining.self_supervised, not (has_pair or self.single_chances)
        if lacks_all or (wanted == 0 and not has_pair) or (wanted == 1 and not self.single_chances):
            what = "pairs of neighbouring frames" if wanted == 0 else "single frames" if wanted == 1 else "frames"
            counted = ", ".join(f"{k} {v}" for k, v in found.counts().items()) if keys else "no sequences"
            chances = f"{tuple(states)} of {', '.join(STATES)} and {tuple(pairs)} of {', '.join(PAIRS)}"
            raise InputError(
                f"the candidate set has no {what} to draw from, which self_supervised={wanted:g} asks for ({counted}; the "
                f"chances are {chances}); track more sequences, or ones with look-alikes, or change data.mining"
            )

    def _has_a_pair(self) -> bool:
        """Whether any pair can be used."""
        found, slots = self.found, self.slots or 0
        return any(
            max(found.sequences[k].frame(f + step).target for step in (0, 1)) < slots
            for p in self.pair_chances for k, f in self.pairs[p]
        )  # fmt: skip

    def draw(self, rng: np.random.Generator) -> DrawnFrames:
        """One item's frames; all chance comes from ``rng``."""
        while True:
            alone = rng.random() < self.mining.self_supervised
            if self.self_share in (0.0, 1.0) and alone != bool(self.self_share):  # the set lacks what was drawn
                self.skipped[NO_SINGLE if alone else NO_PAIR] += 1
                alone = not alone
            chances, places = (self.single_chances, self.singles) if alone else (self.pair_chances, self.pairs)
            category = list(chances)[int(rng.choice(len(chances), p=list(chances.values())))]
            key, index = places[category][int(rng.integers(len(places[category])))]
            sequence = self.found.sequences[key]
            frames = [sequence.frame(index)] if alone else [sequence.frame(index), sequence.frame(index + 1)]
            if not alone and self.slots is not None and max(f.target for f in frames) >= self.slots:
                self.skipped[TOO_FAR_BACK] += 1
                continue
            images = [self.found.picture(key, f.index) for f in frames]
            names = " and ".join(str(f.index) for f in frames)
            return DrawnFrames(
                KINDS[0] if alone else category, frames, images, self.found.side, f"{key} frame {names} ({category})"
            )


def _places(keys: SequenceOf[str], frames: SequenceOf[SequenceOf[int]]) -> list[tuple[str, int]]:
    return [(key, frame) for key, found in zip(keys, frames, strict=True) for frame in found]


def _chances(
    names: SequenceOf[str], wanted: SequenceOf[float], there: dict[str, list[tuple[str, int]]]
) -> dict[str, float]:
    """Chances that sum to 1, of the categories that are wanted and there."""
    found = {name: chance for name, chance in zip(names, wanted, strict=True) if chance > 0 and there[name]}
    total = sum(found.values())
    return {name: chance / total for name, chance in found.items()}


# --- one item ----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Side:
    """The candidates of one of an item's two frames; K slots."""

    points: Array
    """(K, 2) (y, x)."""
    scores: Array
    """(K,)"""
    real: npt.NDArray[np.bool_]
    """(K,): False for made-up candidates."""
    filled: npt.NDArray[np.bool_]
    """(K,): False for slots that are still empty."""
    cells: Ints
    """(K, 2) (row, column) on the network's score map."""

    def remove(self, slot: int) -> None:
        """The candidate disappears."""
        self.real[slot] = self.filled[slot] = False


@dataclass(eq=False)
class Pair:
    """An item, ready for a batch."""

    kind: str
    crops: list[npt.NDArray[np.uint8]]
    """Two of (Z, Z, 3)."""
    gains: tuple[float, float]
    """Brightness factors, not applied yet."""
    sides: tuple[Side, Side]
    assignment: npt.NDArray[np.float32]
    """(K0, K1) of 0 and 1."""
    matches: tuple[Ints, Ints]
    """(K0,), (K1,)."""
    image_size: tuple[int, int]
    """(H, W) of the second frame."""
    areas: tuple[tuple[int, int, int, int], tuple[int, int, int, int]]
    """xywh of the crops in image pixels."""
    identity: str = ""
    normalise: bool = True


class AssociationProcessing:
    """Drawn frames to a labelled pair. ``detected_only``: real pairs as they are, all candidates, none removed or made up."""

    def __init__(self, config: ItemConfig | None = None, detected_only: bool = False) -> None:
        self.config, self.detected_only = config or ItemConfig(), detected_only

    def __call__(self, drawn: DrawnFrames, rng: np.random.Generator) -> Pair:
        """Everything random is drawn from ``rng``."""
        if drawn.kind == KINDS[0]:
            return self._one_frame_twice(drawn, rng)
        return self._detected(drawn) if self.detected_only else self._two_frames(drawn, rng)

    # --- one frame twice (§2.4)

    def _one_frame_twice(self, drawn: DrawnFrames, rng: np.random.Generator) -> Pair:
        c, frame, image = self.config, drawn.frames[0], drawn.images[0]
        size = (image.shape[0], image.shape[1])
        areas = _whole(frame.search_area), shifted_area(_whole(frame.search_area), rng)
        crops = [self._crop(image, area) for area in areas]
        if not c.published_quirks and rng.random() < c.blur_probability and c.blur_sigma > 0:
            crops[1] = _blurred(crops[1], c.blur_sigma)
        gain = 1 + c.brightness * (2 * rng.random() - 1)

        sides = self._side(frame, drawn.side), self._side(frame, drawn.side)
        count = int(sides[0].real.sum())
        hidden = simulated_occlusions(count, c.occlusion, rng)
        if hidden:
            side = sides[int(rng.integers(2))]
            for slot in rng.choice(count, hidden, replace=False):
                side.remove(int(slot))
        for slot in range(c.slots):
            for side, area in zip(sides, areas, strict=True):
                if not side.filled[slot]:
                    used = np.concatenate([s.points[s.filled] for s in sides])
                    self._invent(side, slot, area, size, used, rng)

        second, real = sides[1], sides[1].real
        second.points = jittered(second.points, areas[1], size, c.map_side, rng)
        second.scores[real] = augmented_scores(second.scores[real], c.score_noise, hidden > 0, rng)
        return self._item(drawn, crops, (1.0, gain), sides, areas, *copy_labels(*sides, c.published_quirks))

    # --- two frames (§2.5)

    def _two_frames(self, drawn: DrawnFrames, rng: np.random.Generator) -> Pair:
        c = self.config
        areas = [_whole(f.search_area) for f in drawn.frames]
        sides = [self._side(f, drawn.side) for f in drawn.frames]
        true = [f.target for f in drawn.frames]
        removed = int(rng.integers(2)) if rng.random() < c.removal else None
        if removed is not None:
            sides[removed].remove(true[removed])
        for side, area, image, frame, target in zip(sides, areas, drawn.images, drawn.frames, true, strict=True):
            place = self._points(frame, drawn.side)[target]
            for slot in np.flatnonzero(~side.filled):
                used = np.concatenate([side.points[side.filled], place[None]])
                self._invent(side, int(slot), area, (image.shape[0], image.shape[1]), used, rng)
        crops = [self._crop(i, a) for i, a in zip(drawn.images, areas, strict=True)]
        labels = pair_labels((c.slots, c.slots), (true[0], true[1]), removed, c.published_quirks)
        return self._item(drawn, crops, (1.0, 1.0), (sides[0], sides[1]), (areas[0], areas[1]), *labels)

    # --- two frames, for validation (§2.6)

    def _detected(self, drawn: DrawnFrames) -> Pair:
        areas = [_whole(f.search_area) for f in drawn.frames]
        sides = [
            Side(
                self._points(f, drawn.side), f.scores.copy(), np.ones(len(f.scores), np.bool_),
                np.ones(len(f.scores), np.bool_), _rescaled(f.cells, drawn.side, self.config.map_side),
            )
            for f in drawn.frames
        ]  # fmt: skip
        crops = [self._crop(i, a) for i, a in zip(drawn.images, areas, strict=True)]
        counts = len(sides[0].scores), len(sides[1].scores)
        labels = pair_labels(counts, (drawn.frames[0].target, drawn.frames[1].target), None, False)
        return self._item(drawn, crops, (1.0, 1.0), (sides[0], sides[1]), (areas[0], areas[1]), *labels)

    # --- parts

    def _item(
        self,
        drawn: DrawnFrames,
        crops: list[npt.NDArray[np.uint8]],
        gains: tuple[float, float],
        sides: tuple[Side, Side],
        areas: tuple[tuple[int, int, int, int], tuple[int, int, int, int]],
        assignment: npt.NDArray[np.float32],
        matches: tuple[Ints, Ints],
    ) -> Pair:
        height, width = drawn.images[-1].shape[:2]
        return Pair(
            drawn.kind, crops, gains, sides, assignment, matches, (height, width), areas, drawn.identity,
            self.config.normalise,
        )  # fmt: skip

    def _crop(self, image: npt.NDArray[np.uint8], area: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
        side = self.config.output_size
        return np.ascontiguousarray(cut(image, Square(*area, (side, side))))

    def _points(self, frame: FrameCandidates, side: int) -> Array:
        """(N, 2) of all candidates."""
        return image_points(torch.from_numpy(frame.cells), frame.search_area, side).double().numpy()

    def _side(self, frame: FrameCandidates, side: int) -> Side:
        """The best candidates in their slots; their cells are those of the whole-pixel search area, wherever it moves to."""
        slots = self.config.slots
        count = min(len(frame.scores), slots)
        points, scores, cells = np.zeros((slots, 2)), np.zeros(slots), np.zeros((slots, 2), np.int64)
        points[:count], scores[:count] = self._points(frame, side)[:count], frame.scores[:count]
        cells[:count] = cells_of(points[:count], _whole(frame.search_area), self.config.map_side)
        there = np.arange(slots) < count
        return Side(points, scores, there, there.copy(), cells)

    def _invent(
        self,
        side: Side,
        slot: int,
        area: tuple[int, int, int, int],
        image_size: tuple[int, int],
        used: Array,
        rng: np.random.Generator,
    ) -> None:
        """A made-up candidate: the farthest of 20 random points from the points ``used`` (U, 2), with a low score."""
        point = farthest_point(area, image_size, used, rng)
        side.points[slot], side.filled[slot] = point, True
        side.cells[slot] = cells_of(point, area, self.config.map_side)
        side.scores[slot] = SCORE_FLOOR + min(abs(float(rng.standard_normal())) / 50, 0.025)


def _whole(area: SequenceOf[float]) -> tuple[int, int, int, int]:
    """Cut to whole pixels, towards 0; at least one."""
    x, y, w, h = (int(v) for v in area)
    return x, y, max(w, 1), max(h, 1)


def shifted_area(area: tuple[int, int, int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """xywh, each moved by whole pixels of U[⌊-s/100⌋, ⌊s/100⌋], s the width for x and w, the height for y and h."""
    lengths = (area[2], area[3], area[2], area[3])
    x, y, w, h = (
        value + int(rng.integers(-side // 100, side // 100 + 1)) for value, side in zip(area, lengths, strict=True)
    )
    return x, y, max(w, 1), max(h, 1)


def cells_of(points: Array, area: tuple[int, int, int, int], side: int) -> Ints:
    """(..., 2) (y, x) in image pixels -> (row, column) of a score map with ``side`` cells, its corners those of ``area``."""
    x, y, w, h = area
    cells = (points - np.array((y, x))) / np.array((h, w)) * (side - 1)
    return np.asarray(np.clip(np.rint(cells), 0, side - 1), np.int64)


def _rescaled(cells: Ints, side: int, wanted: int) -> Ints:
    """Cells of a map with ``side`` cells on one with ``wanted``; the same numbers if they are equal."""
    return np.asarray(np.rint(cells * ((wanted - 1) / max(side - 1, 1))), np.int64)


def simulated_occlusions(count: int, share: float, rng: np.random.Generator) -> int:
    """How many of ``count`` candidates disappear: ⌊share · count · U(0, 1)⌉."""
    return round(share * count * float(rng.random()))


def farthest_point(
    area: tuple[int, int, int, int], image_size: tuple[int, int], used: Array, rng: np.random.Generator, tries: int = 20
) -> Array:
    """Of ``tries`` random points in the search area and the image the one farthest from its nearest in ``used`` (U, 2)."""
    x, y, w, h = area
    low = np.array((max(y, 0), max(x, 0)), np.float64)
    high = np.array((min(y + h, image_size[0]), min(x + w, image_size[1])), np.float64)
    if (high <= low).any():  # beside the image
        low, high = np.array((y, x), np.float64), np.array((y + h, x + w), np.float64)
    points = rng.uniform(low, high, (tries, 2))
    if not len(used):
        return np.asarray(points[0])
    away = np.linalg.norm(points[:, None] - used, axis=-1).min(axis=1)  # (tries,)
    return np.asarray(points[int(away.argmax())])


def jittered(
    points: Array, area: tuple[int, int, int, int], image_size: tuple[int, int], side: int, rng: np.random.Generator
) -> Array:
    """(K, 2) moved a little: by at most a cell, and by so little that two never change places; inside the image."""
    cell = np.array((area[3], area[2])) / side
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    apart = apart[apart > 0]
    reach = np.minimum(math.sqrt(2) * apart.min() / 4, cell) if apart.size else cell / 2
    return np.clip(points + rng.uniform(-1, 1, points.shape) * reach, 0, image_size)


def augmented_scores(scores: Array, noise: float, is_occluded: bool, rng: np.random.Generator) -> Array:
    """Real candidates' scores (N,), descending, in the copy of a frame.

    Noise e and sorted again; if there are more than two, none is hidden, and the two best are of like height, by even
    chance also (b) the best two closer together, s0 - |e0| and s1 + |e1|, or (c) the same with the two exchanged.
    """
    e = rng.normal(0, noise, len(scores))
    changed = scores + e
    case = 0
    if len(scores) > 2 and not is_occluded and scores[1] > 0.5 * scores[0] and min(scores[:2]) > 0.2:
        case = int(rng.integers(3))
    if case:
        changed[0], changed[1] = scores[0] - abs(e[0]), scores[1] + abs(e[1])
    changed = -np.sort(-changed)
    if case == 2:
        changed[:2] = changed[1::-1]
    return np.maximum(changed, AUGMENTED_FLOOR)


def copy_labels(first: Side, second: Side, published: bool) -> tuple[npt.NDArray[np.float32], tuple[Ints, Ints]]:
    """Labels of a frame and its copy: slots match themselves where both are real.

    ``published``: every other slot is without partner, made-up ones too; else these are unknown.
    """
    both = first.real & second.real
    slots = np.arange(len(both))

    def labels(own: Side) -> Ints:
        alone = np.full(len(both), NO_PARTNER) if published else np.where(own.real, NO_PARTNER, UNKNOWN)
        return np.where(both, slots, alone)

    return np.diag(both).astype(np.float32), (labels(first), labels(second))


def pair_labels(
    counts: tuple[int, int], true: tuple[int, int], removed: int | None, published: bool
) -> tuple[npt.NDArray[np.float32], tuple[Ints, Ints]]:
    """Labels of two real frames, of which only the targets' slots ``true`` are known; ``removed``: from which frame, or None.

    ``published``: of a target removed from the second frame the label is lost if the slots are equal (quirk Q3).
    """
    assignment = np.zeros(counts, np.float32)
    m0, m1 = (np.full(n, UNKNOWN, np.int64) for n in counts)
    g0, g1 = true
    if removed is None:
        assignment[g0, g1], m0[g0], m1[g1] = 1, g1, g0
    elif removed == 0:
        m1[g1] = NO_PARTNER
    else:
        m0[g0] = NO_PARTNER
        if published:
            m0[g1] = UNKNOWN
    return assignment, (m0, m1)


def _blurred(crop: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.uint8)


# --- a batch -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class AssociationBatch(Batch):
    """Tensors of B pairs: the first frames' crops are ``train_images`` (1, B, 3, Z, Z), the second's ``test_images``, and the
    boxes are the search areas. Pairs with fewer than K candidates are filled up; ``counts`` has their number."""

    cells: Tensor = field(default_factory=lambda: torch.empty(0))
    """(2, B, K, 2) int64 (row, column)."""
    points: Tensor = field(default_factory=lambda: torch.empty(0))
    """(2, B, K, 2) (y, x) in image pixels."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))
    """(2, B, K)"""
    assignment: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B, K, K) of 0 and 1."""
    matches: Tensor = field(default_factory=lambda: torch.empty(0))
    """(2, B, K) int64: the partner's slot, -1 none, -2 unknown."""
    counts: Tensor = field(default_factory=lambda: torch.empty(0))
    """(2, B) int64: candidates of each frame."""
    kinds: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B,) int64: place in :data:`KINDS`."""
    image_size: Tensor = field(default_factory=lambda: torch.empty(0))
    """(B, 2): (H, W) of the second frames."""


def collate_pairs(pairs: SequenceOf[Pair]) -> AssociationBatch:
    """Items as a batch; crops as bytes, ``batch.to(device)`` makes floats of them."""
    if not pairs:
        raise InputError("there are no pairs to put together; give at least one")
    most = max(len(s.scores) for p in pairs for s in p.sides)

    def stacked(values: SequenceOf[npt.NDArray[np.generic]], fill: int, axes: int = 1) -> Tensor:
        """B arrays (k, ...) -> (B, K, ...), the first ``axes`` axes filled up."""
        filled = np.full((len(values), *axes * (most,), *values[0].shape[axes:]), fill, values[0].dtype)
        for row, value in zip(filled, values, strict=True):
            row[tuple(slice(n) for n in value.shape[:axes])] = value
        return torch.from_numpy(filled)

    sides = [[p.sides[i] for p in pairs] for i in (0, 1)]
    images = [torch.from_numpy(np.stack([p.crops[i] for p in pairs])[None]).permute(0, 1, 4, 2, 3) for i in (0, 1)]
    gains = [torch.tensor([[p.gains[i] for p in pairs]], dtype=torch.float32) for i in (0, 1)]
    areas = [torch.tensor([[p.areas[i] for p in pairs]], dtype=torch.float32) for i in (0, 1)]
    return AssociationBatch(
        images[0], images[1], areas[0], areas[1], identities=[p.identity for p in pairs], gains=(gains[0], gains[1]),
        normalise=pairs[0].normalise,
        cells=torch.stack([stacked([s.cells for s in side], 0) for side in sides]),
        points=torch.stack([stacked([s.points for s in side], 0) for side in sides]).float(),
        scores=torch.stack([stacked([s.scores for s in side], 0) for side in sides]).float(),
        assignment=stacked([p.assignment for p in pairs], 0, axes=2),
        matches=torch.stack([stacked([p.matches[i] for p in pairs], UNKNOWN) for i in (0, 1)]),
        counts=torch.tensor([[len(p.sides[i].scores) for p in pairs] for i in (0, 1)]),
        kinds=torch.tensor([KINDS.index(p.kind) for p in pairs]),
        image_size=torch.tensor([p.image_size for p in pairs], dtype=torch.float32),
    )  # fmt: skip
