"""Which frames make a training sample: spec/dimp-atom.md §6.1, and pairs as in spec/duml.md §8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..datasets.tracks import TrainingSet, visible_frames
from ..errors import InputError, KeepsightError, nearest_names
from .batch import Group

MODES = ("causal", "interval", "pairs", "sequence")


@dataclass(frozen=True)
class SamplerConfig:
    """Which frames of an object are drawn; the defaults are those of dimp18 and dimp50 (§5)."""

    n_train: int = 3
    """Train frames of a group."""
    n_test: int = 3
    """Test frames of a group."""
    max_gap: int = 30
    """Frames between the base frame and the others, at most (it grows where too few frames are visible)."""
    mode: str = "causal"
    """``causal``: the other train frames before the base, test frames after it. ``interval``: both on either side.
    ``pairs``: test frames on either side, drawn at will or, for negatives, from another object. ``sequence``: one run of
    ``n_train + n_test`` consecutive frames."""
    negative_probability: float = 0.0
    """``pairs``: chance that the test frames show another object (SiamRPN++: 0.2)."""
    min_length: int = 20
    """Shorter videos are passed over."""
    visible_factor: float = 2.0
    """Videos need more than this many visible frames per drawn frame."""
    gap_growth: int = 5
    """Frames that the gap grows by after each attempt that finds no visible frame."""
    masks: bool = False
    """Read masks too, where the data set has them."""
    max_tries: int = 1000
    """Objects looked at for one draw before it is an error."""
    max_broken_share: float = 0.1
    """Share of broken objects (unreadable files, boxes outside the image) from which drawing is an error."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is unknown; {nearest_names(self.mode, MODES)}")
        if self.n_train < 1 or self.n_test < 1:
            raise InputError(
                f"n_train = {self.n_train}, n_test = {self.n_test}; a group needs at least one frame of each"
            )
        if self.max_gap < 1 or self.gap_growth < 1 or self.max_tries < 1:
            raise InputError(
                f"max_gap = {self.max_gap}, gap_growth = {self.gap_growth}, max_tries = {self.max_tries}; give at least 1 each"
            )
        if not 0 <= self.negative_probability <= 1 or not 0 <= self.max_broken_share <= 1:
            raise InputError(
                f"negative_probability = {self.negative_probability}, max_broken_share = {self.max_broken_share}; "
                "both are shares from 0 to 1"
            )
        if self.negative_probability and self.mode != "pairs":
            raise InputError(f"mode {self.mode!r} has no negatives; set negative_probability to 0, or mode to 'pairs'")


class Unusable(KeepsightError):
    """This object cannot give a sample; the message is the reason that is counted."""


class GroupSampler:
    """Draws groups of frames from training sets: set by weight, object uniformly, frames by the mode's rule.

    Args:
        sets: at least one, none of them empty.
        weights: chance of each set, in any unit; None: all alike.

    Attributes:
        drawn: groups given so far.
        skipped: ``"<set>: <reason>"`` -> objects passed over, e.g. because no file could be read. Copies in worker
            processes count on their own.
        examples: the same keys -> the first message.

    Raises :class:`InputError` when made of nothing, and from :meth:`draw` when too much is broken.
    """

    def __init__(
        self,
        sets: SequenceOf[TrainingSet],
        weights: SequenceOf[float] | None = None,
        config: SamplerConfig | None = None,
    ) -> None:
        self.sets, self.config = tuple(sets), config or SamplerConfig()
        if not self.sets:
            raise InputError("there is no training set to draw from; give at least one")
        empty = [s.name for s in self.sets if len(s) == 0]
        if empty:
            raise InputError(f"training set {', '.join(empty)} has no objects; check its folder, or leave it out")
        chances = np.ones(len(self.sets)) if weights is None else np.asarray(weights, dtype=np.float64)
        if chances.shape != (len(self.sets),) or not np.isfinite(chances).all() or (chances < 0).any():
            raise InputError(f"weights {weights} do not fit; give {len(self.sets)} numbers, none below 0, one per set")
        if chances.sum() <= 0:
            raise InputError(f"weights {weights} are all 0; at least one must be above 0")
        self.chances = chances / chances.sum()
        self.drawn, self.looked_at, self.broken = 0, 0, 0
        self.skipped: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def draw(self, rng: np.random.Generator) -> Group:
        """One group; all chance comes from ``rng``. Objects that cannot be used are counted in :attr:`skipped`.

        Raises :class:`InputError` if ``max_tries`` objects in a row cannot be used, or too large a share is broken.
        """
        chosen = self._pick_set(rng)
        passed: list[str] = []
        for _ in range(self.config.max_tries):
            index = int(rng.integers(len(chosen)))
            self.looked_at += 1
            try:
                group = self._group(chosen, index, rng)
            except Unusable as error:  # the published rule: too short, too little seen
                self._skip(f"{chosen.name}: {error}", f"object {index}")
            except (KeepsightError, OSError) as error:
                passed.append(f"{chosen.name}, object {index}: {error}")
                self._skip(f"{chosen.name}: broken", f"object {index}: {error}")
                self._check_broken_share()
            else:
                self.drawn += 1
                group.skipped = passed
                return group
        raise InputError(
            f"{self.config.max_tries} objects of {chosen.name} in a row cannot be used for mode {self.config.mode!r} with "
            f"{self.config.n_train} + {self.config.n_test} frames: {self.report()}; lower min_length or visible_factor, or "
            "leave the set out"
        )

    def report(self) -> str:
        """What was passed over and why, in one line."""
        parts = (f"{count} × {key} (first: {self.examples[key]})" for key, count in self.skipped.most_common())
        return "; ".join(parts) or "nothing was skipped"

    # -----------------------------------------------------------------------------------------------------------------

    def _pick_set(self, rng: np.random.Generator) -> TrainingSet:
        return self.sets[int(rng.choice(len(self.sets), p=self.chances))]

    def _skip(self, key: str, message: str) -> None:
        self.skipped[key] += 1
        self.examples.setdefault(key, message)

    def _check_broken_share(self) -> None:
        self.broken += 1
        if self.looked_at >= 50 and self.broken > self.config.max_broken_share * self.looked_at:
            raise InputError(
                f"{self.broken} of {self.looked_at} objects drawn are broken, more than max_broken_share = "
                f"{self.config.max_broken_share:g}: {self.report()}; restore the files (`keepsight data check`)"
            )

    def _group(self, chosen: TrainingSet, index: int, rng: np.random.Generator) -> Group:
        c = self.config
        sequence = chosen[index]
        train, test = draw_frames(self._usable_frames(chosen, sequence), chosen.is_video, c, rng)
        other = sequence
        if c.mode == "pairs" and c.negative_probability and rng.random() < c.negative_probability:
            other_set = self._pick_set(rng)
            other_index = int(rng.integers(len(other_set)))
            if other_set is not chosen or other_index != index:
                other = other_set[other_index]
                seen = _seen(other)
                test = [int(f) for f in rng.choice(seen, size=c.n_test)]
        return read_group(chosen, sequence, train, test, other, masks=c.masks)

    def _usable_frames(self, chosen: TrainingSet, sequence: Sequence) -> npt.NDArray[np.bool_]:
        """(N,) visible frames; raises :class:`Unusable` if the object is too short or seen too little."""
        c = self.config
        if len(sequence) == 0:
            raise Unusable("no frames")
        if len(sequence.boxes) < len(sequence):
            raise InputError(f"{len(sequence)} frames but {len(sequence.boxes)} boxes; training needs a box for each")
        visible = visible_frames(sequence)[: len(sequence)]
        if not visible.any():
            raise Unusable("never visible")
        if chosen.is_video and len(sequence) < c.min_length:
            raise Unusable(f"fewer than {c.min_length} frames")
        self._check_visible(chosen, visible)
        return visible

    def _check_visible(self, chosen: TrainingSet, visible: npt.NDArray[np.bool_]) -> None:
        """Raises :class:`Unusable` for too few visible frames."""
        c = self.config
        wanted = c.visible_factor * (c.n_train + c.n_test) if chosen.is_video else 0
        if visible.sum() <= wanted:
            raise Unusable(f"not more than {wanted:g} visible frames" if wanted else "never visible")


def draw_frames(
    visible: npt.NDArray[np.bool_], is_video: bool, config: SamplerConfig, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Frame numbers (train, test) by the mode's rule; the first train frame is the base, in ``causal`` the latest one.

    ``visible``: (N,), true at least once. Raises :class:`Unusable` where no choice of frames satisfies the rule.
    """
    seen = np.flatnonzero(visible)
    if not is_video:  # the same image for all frames
        frame = int(rng.choice(seen))
        return [frame] * config.n_train, [frame] * config.n_test
    if config.mode == "sequence":
        return _consecutive(visible, config, rng)
    if config.mode == "pairs":
        base = int(rng.choice(seen))
        near = _window(seen, base - config.max_gap, base + config.max_gap + 1)
        draws = rng.choice(near, size=config.n_train - 1 + config.n_test).tolist()
        return [base, *draws[: config.n_train - 1]], draws[config.n_train - 1 :]
    return _around_base(seen, len(visible), config, rng)


def _around_base(
    seen: npt.NDArray[np.int64], length: int, config: SamplerConfig, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Modes ``interval`` and ``causal``: a base, the other frames in windows around it that grow until they are found."""
    causal, others = config.mode == "causal", config.n_train - 1
    bases = _window(seen, config.n_train - 1, length - config.n_test) if causal else seen
    if not len(bases):  # the published code stops here with an exception (§6.1)
        raise Unusable("no visible base frame")
    gap = config.max_gap
    while True:
        if gap >= length and causal:  # windows cover the video: keep the bases that can work, the others never will
            bases = bases[(bases < seen[-1]) & ((bases > seen[0]) | (others == 0))]
            if not len(bases):
                raise Unusable("no visible frames on both sides of a base")
        base = int(rng.choice(bases))
        before = _window(seen, base - gap, base if causal else base + gap)
        after = _window(seen, base + 1 if causal else base - gap, base + gap)
        if len(after) and (len(before) or not others):
            train = rng.choice(before, size=others).tolist() if others else []
            return [base, *train], rng.choice(after, size=config.n_test).tolist()
        gap += config.gap_growth


def _consecutive(
    visible: npt.NDArray[np.bool_], config: SamplerConfig, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """A run of frames that are all visible: train frames first, given backwards so that the latest leads."""
    count = config.n_train + config.n_test
    total = np.concatenate(([0], np.cumsum(visible)))
    starts = np.flatnonzero(total[count:] - total[:-count] == count) if len(visible) >= count else np.empty(0, int)
    if not len(starts):
        raise Unusable(f"no {count} visible frames in a row")
    start = int(rng.choice(starts))
    middle = start + config.n_train
    return list(range(middle - 1, start - 1, -1)), list(range(middle, start + count))


def _window(seen: npt.NDArray[np.int64], low: int, high: int) -> npt.NDArray[np.int64]:
    """The visible frame numbers in [low, high); ``seen`` is sorted."""
    first, last = np.searchsorted(seen, (low, high))
    return seen[first:last]


def _seen(sequence: Sequence) -> npt.NDArray[np.int64]:
    seen = np.flatnonzero(visible_frames(sequence)[: len(sequence)]) if len(sequence) else np.empty(0, int)
    if not len(seen):
        raise Unusable("negative never visible")
    return seen


def _numbers(frames: list[int]) -> str:
    return ",".join(map(str, frames))


def read_group(
    chosen: TrainingSet,
    sequence: Sequence,
    train: list[int],
    test: list[int],
    other: Sequence | None = None,
    *,
    masks: bool,
) -> Group:
    """The drawn frames of ``sequence``, the test frames those of ``other`` for a negative. Frames drawn twice are read once.

    Raises :class:`VideoError` for broken files and :class:`InputError` for boxes outside the image.
    """
    other = sequence if other is None else other
    negative = other is not sequence
    if negative:
        found, tested = _read(sequence, train, masks), _read(other, test, masks)
    else:
        found = tested = _read(sequence, train + test, masks)
    label = f"{chosen.name}/{sequence.name} train {_numbers(train)} test "
    label += f"{other.dataset}/{other.name} {_numbers(test)}" if negative else _numbers(test)
    return Group(
        train_images=[found.images[f] for f in train],
        test_images=[tested.images[f] for f in test],
        train_boxes=np.asarray(sequence.boxes[train], dtype=np.float64),
        test_boxes=np.asarray(other.boxes[test], dtype=np.float64),
        train_masks=None if found.masks is None else [found.masks[f] for f in train],
        test_masks=None if tested.masks is None else [tested.masks[f] for f in test],
        is_video=chosen.is_video,
        identity=label,
        is_negative=negative,
    )


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Frame number -> what was read of it."""

    images: dict[int, np.ndarray]
    masks: dict[int, np.ndarray] | None


def _read(sequence: Sequence, frames: list[int], with_masks: bool) -> _Pictures:
    images = {f: sequence.frames[f] for f in sorted(set(frames))}  # in order: videos decode forward
    for f, image in images.items():
        x, y, w, h = sequence.boxes[f]
        height, width = image.shape[:2]
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise InputError(f"frame {f}: box ({x:g}, {y:g}, {w:g}, {h:g}) lies outside the {width} × {height} image")
    masked = with_masks and sequence.annotation.masks is not None
    return _Pictures(images, _read_masks(sequence, images) if masked else None)


def _read_masks(sequence: Sequence, images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Frame -> (H, W) bool of this sequence's object."""
    masks = {}
    for f, image in images.items():
        mask = read_mask(sequence, f)
        if mask is None:
            raise Unusable("frame without a mask")
        check_mask_size(mask, image, f)
        masks[f] = mask
    return masks


def read_mask(sequence: Sequence, frame: int) -> npt.NDArray[np.bool_] | None:
    """(H, W) pixels of this sequence's object, the first of its ``objects``; None where the frame has no mask."""
    known = sequence.annotation
    ids = None if known.masks is None else known.masks[frame]
    return None if ids is None else ids == (known.objects[0] if known.objects else 1)


def check_mask_size(mask: np.ndarray, image: np.ndarray, frame: int) -> None:
    """Raises :class:`InputError` for a mask of another size than its image."""
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"frame {frame}: the mask is {mask.shape[::-1]}, the image {image.shape[1::-1]} (width, height)"
        )
