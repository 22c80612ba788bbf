"""Training items of LWL and RTS: one train frame and three later ones with masks; spec/keeptrack-rts-lwl.md §5, 8.

Read in the order of training: which frames (:class:`MaskSampler`), how they become crops with masks
(:class:`MaskProcessing`), and how samples become a batch (:func:`collate_masks`). Boxes are xywh in pixels, masks hold 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..datasets.tracks import TrainingSet
from ..errors import InputError, KeepsightError, nearest_names
from ..images import normalise_bgr
from .batch import Batch, Group
from .crops import Square, adaptive_region, cut, cut_mask, jitter_box
from .labels import LabelGrid, gaussian_labels
from .processing import CROP_MODES
from .sampler import GroupSampler, SamplerConfig, check_mask_size, draw_frames, read_group, read_mask
from .transforms import AffineTransform, ImageTransform, JointTransform

Array = npt.NDArray[np.float64]

PIXELS = ("bgr", "imagenet", "rgb")
LABEL_STRIDE, LABEL_KERNEL = 32, 4
"""Pixels per cell of RTS's classifier features, and the side of its filter (§8)."""
_LOOKED_AT = 10
"""Objects of a set that are looked at for masks before training begins."""


# --- which frames ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskSamplerConfig(SamplerConfig):
    """As of all recipes, with LWL's numbers (§5)."""

    n_train: int = 1
    n_test: int = 3
    max_gap: int = 100
    min_length: int = 1
    masks: bool = True
    mask_pixels: int = 10
    """A frame is drawn only if its mask has more pixels."""


class MaskSampler(GroupSampler):
    """Draws a train frame and test frames behind it, in the order of time; each shows more than a few pixels of the object.

    How many pixels a mask has is looked at when its frame is drawn: one that has too few, or no mask at all, counts as not
    visible from then on, and the object's frames are drawn again. Frames of an image data set are the same image.

    Raises :class:`InputError` when made with a set that has no masks.
    """

    config: MaskSamplerConfig

    def __init__(
        self, sets: SequenceOf[TrainingSet], weights: SequenceOf[float] | None = None, config: MaskSamplerConfig | None = None
    ) -> None:  # fmt: skip
        super().__init__(sets, weights, config or MaskSamplerConfig())
        for chosen, chance in zip(self.sets, self.chances, strict=True):
            if chance > 0:
                check_has_masks(chosen)

    def _group(self, chosen: TrainingSet, index: int, rng: np.random.Generator) -> Group:
        sequence = chosen[index]
        visible = self._usable_frames(chosen, sequence).copy()
        while True:
            train, test = (sorted(part) for part in draw_frames(visible, chosen.is_video, self.config, rng))
            masks = {f: read_mask(sequence, f) for f in sorted({*train, *test})}
            seen = {f: m for f, m in masks.items() if m is not None and np.count_nonzero(m) > self.config.mask_pixels}
            if len(seen) == len(masks):
                break
            visible[[f for f in masks if f not in seen]] = False
            self._check_visible(chosen, visible)
        group = read_group(chosen, sequence, train, test, masks=False)
        for f, image in zip((*train, *test), (*group.train_images, *group.test_images), strict=True):
            check_mask_size(seen[f], image, f)
        return replace(group, train_masks=[seen[f] for f in train], test_masks=[seen[f] for f in test])


def check_has_masks(chosen: TrainingSet) -> None:
    """Raises :class:`InputError` if none of a few objects, evenly spread, has masks; broken ones are left to the sampler."""
    looked = np.linspace(0, len(chosen) - 1, min(_LOOKED_AT, len(chosen))).astype(int).tolist()
    for index in looked:
        try:
            if chosen[index].annotation.masks is not None:
                return
        except (KeepsightError, OSError):
            return
    raise InputError(
        f"training set {chosen.name} has no masks, and this recipe learns from masks; take a set that has them (youtubevos2019, "
        "davis2017, coco, composite, ..), or make them from its boxes with `keepsight masks` (lasot_masks, got10k_masks)"
    )


# --- how they become crops ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskProcessingConfig:
    """How frames and masks become training tensors; the defaults are the published ones (§5)."""

    output_size: tuple[int, int] = (832, 480)
    """Width, height of the crop in pixels."""
    search_factor: float = 5.0
    """The search region has as many times √(w·h) of the (jittered) box, as geometric mean of its sides."""
    crop_mode: str = "inside_major"
    """``replicate`` keeps the region's size, ``inside`` shrinks it until it fits the image, ``inside_major`` only until it fits
    along one axis."""
    max_scale_change: float | None = None
    """Largest factor by which the inside modes shrink; None: any."""
    centre_jitter_train: tuple[float, float] = (3.0, 3.0)
    """Range (x, y) of the crop's random shift, in units of √(w·h) of the jittered box."""
    centre_jitter_test: tuple[float, float] = (5.5, 4.5)
    """The same for test frames."""
    scale_jitter_train: float = 0.25
    """Standard deviation of the random ln w and ln h of the box that is cropped around."""
    scale_jitter_test: float = 0.5
    """The same for test frames."""
    grey_probability: float = 0.05
    """Chance that the train frames lose their colour; the test frames likewise, on their own."""
    flip_probability: float = 0.5
    """Chance that the train frames are mirrored; the test frames likewise, on their own."""
    rotation: float = 15.0
    """Every crop is turned by an angle from U(-r, r) degrees about its middle."""
    scale: float = 0.2
    """Every crop is enlarged by exp of a number from U(-s, s)."""
    brightness_jitter: float = 0.2
    """Every crop is multiplied by a number from U(1 - j, 1 + j) and cut at white."""
    pixels: str = "bgr"
    """What the network reads: ``bgr`` (BGR in 0..255 less Mask R-CNN's mean, as published), ``imagenet`` (RGB in the units of
    ImageNet backbones) or ``rgb`` (0..255)."""
    label_sigma_factor: float | None = None
    """Make labels for RTS's classifier, with this σ as a share of the feature map's side; published: 0.25 / search factor."""

    def __post_init__(self) -> None:
        for name, value, choices in (("crop_mode", self.crop_mode, CROP_MODES), ("pixels", self.pixels, PIXELS)):
            if value not in choices:
                raise InputError(f"{name} {value!r} is unknown; {nearest_names(value, choices)}")
        if min(self.output_size) < 16 or not self.search_factor > 0:
            raise InputError(
                f"output_size {self.output_size}, search_factor {self.search_factor}; give at least 16 x 16 pixels, and a "
                "factor above 0"
            )
        for name in ("grey_probability", "flip_probability", "brightness_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        if self.max_scale_change is not None and self.max_scale_change < 1:
            raise InputError(f"max_scale_change is {self.max_scale_change}; give a factor of at least 1, or None")
        if self.label_sigma_factor is not None and any(side % LABEL_STRIDE for side in self.output_size):
            raise InputError(
                f"output_size {self.output_size} is no multiple of {LABEL_STRIDE}; the classifier's labels need whole cells"
            )

    def validation(self) -> MaskProcessingConfig:
        """The same for validation: joint rolls stay, what is drawn per image goes, as in the recipes for boxes."""
        return replace(self, brightness_jitter=0.0, rotation=0.0, scale=0.0)

    @property
    def grid(self) -> LabelGrid:
        """The cells of RTS's score map."""
        width, height = self.output_size
        return LabelGrid(
            self.output_size, (width // LABEL_STRIDE, height // LABEL_STRIDE), (LABEL_KERNEL, LABEL_KERNEL)
        )


@dataclass(eq=False)
class MaskCrops:
    """The train frames, or the test frames, of one sample: n crops."""

    images: npt.NDArray[np.uint8]
    """(n, H, W, 3) RGB."""
    masks: npt.NDArray[np.uint8]
    """(n, H, W) of 0 and 1."""
    gain: npt.NDArray[np.float32]
    """(n,) brightness factors, not applied yet."""
    boxes: Array
    """(n, 4) xywh in crop pixels."""


@dataclass(eq=False)
class MaskSample:
    """One group as arrays; images are bytes until the batch travels to its device."""

    train: MaskCrops
    test: MaskCrops
    config: MaskProcessingConfig
    is_video: bool = True
    identity: str = ""


class MaskProcessing:
    """Makes samples of groups: joint rolls, crops around jittered boxes, then rolls of each crop.

    The boxes are the data set's: those of the masks, in sets that have no others (§8.1: pseudo masks do not change them).

    Example::

        process = MaskProcessing(MaskProcessingConfig(output_size=(416, 240)))
        batch = collate_masks([process(sampler.draw(rng), rng) for _ in range(20)]).as_floats()
    """

    def __init__(self, config: MaskProcessingConfig | None = None) -> None:
        self.config = c = config or MaskProcessingConfig()
        self._joint = JointTransform(c.grey_probability, c.flip_probability, exact_flip=True)
        self._single = ImageTransform(c.brightness_jitter)
        self._affine = AffineTransform(c.rotation, c.scale)

    def __call__(self, group: Group, rng: np.random.Generator) -> MaskSample:
        """Everything random is drawn from ``rng``. Raises :class:`InputError` for groups without masks, boxes without area."""
        c = self.config
        if group.train_masks is None or group.test_masks is None:
            raise InputError(f"{group.identity or 'a group'} has no masks; draw it with MaskSampler")
        train = self._crops(
            group.train_images, group.train_masks, group.train_boxes, c.scale_jitter_train, c.centre_jitter_train, rng
        )
        test = self._crops(
            group.test_images, group.test_masks, group.test_boxes, c.scale_jitter_test, c.centre_jitter_test, rng
        )
        return MaskSample(train, test, c, group.is_video, group.identity)

    def _crops(
        self,
        images: list[np.ndarray],
        masks: list[np.ndarray],
        boxes: Array,
        scale_jitter: float,
        centre_jitter: tuple[float, float],
        rng: np.random.Generator,
    ) -> MaskCrops:
        count, (width, height) = len(images), self.config.output_size
        roll = self._joint.draw(rng)
        boxes = np.stack([roll.box(b, i.shape[1]) for b, i in zip(boxes, images, strict=True)])  # (n, 4)
        around = jitter_box(boxes, scale_jitter, np.asarray(centre_jitter), rng)  # (n, 4)
        rolls = self._single.draw(count, rng)
        pixels, covers = np.empty((count, height, width, 3), np.uint8), np.empty((count, height, width), np.uint8)
        inside = np.empty((count, 4))
        for k, image in enumerate(images):
            region = self._region(around[k], (image.shape[1], image.shape[0]))
            cut(roll.image(image), region, pixels[k])
            covers[k] = cut_mask(roll.mask(masks[k]), region, nearest=True)
            inside[k] = region.box(boxes[k])
            affine = self._affine.draw((width, height), rng)
            if affine is not None:
                pixels[k], covers[k] = affine.image(pixels[k]), affine.mask(covers[k])
                inside[k] = affine.box(inside[k])
        return MaskCrops(pixels, covers, rolls.gain, inside)

    def _region(self, box: Array, image_size: tuple[int, int]) -> Square:
        c = self.config
        return adaptive_region(
            box.tolist(), c.search_factor, c.output_size, image_size, c.crop_mode, c.max_scale_change
        )


# --- a batch -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class MaskBatch(Batch):
    """Its ``train_masks`` (n_train, B, H, W) and ``test_masks`` are bytes until :meth:`as_floats`, as the images are; labels are
    (n, B, H', W') of RTS's score map."""

    bgr: bool = True
    """Whether the floats are BGR less the mean; then ``normalise`` is False."""

    def as_floats(self) -> Batch:
        if self.gains is None:
            return self
        batch = super().as_floats()  # another object, to be changed
        assert batch.train_masks is not None  # collate_masks gives both
        assert batch.test_masks is not None
        batch.train_masks, batch.test_masks = batch.train_masks.float(), batch.test_masks.float()
        if self.bgr:
            batch.train_images, batch.test_images = normalise_bgr(batch.train_images), normalise_bgr(batch.test_images)
        return batch


def collate_masks(samples: SequenceOf[MaskSample]) -> MaskBatch:
    """Samples of one configuration as a batch; crops and masks as bytes, ``batch.to(device)`` makes floats of them."""
    if not samples:
        raise InputError("there are no samples to put together; give at least one")
    c, train, test = samples[0].config, [s.train for s in samples], [s.test for s in samples]
    batch = MaskBatch(
        train_images=_stacked([p.images for p in train]).permute(0, 1, 4, 2, 3),
        test_images=_stacked([p.images for p in test]).permute(0, 1, 4, 2, 3),
        train_boxes=_stacked([p.boxes for p in train]).float(),
        test_boxes=_stacked([p.boxes for p in test]).float(),
        train_masks=_stacked([p.masks for p in train]),
        test_masks=_stacked([p.masks for p in test]),
        is_video=torch.tensor([s.is_video for s in samples]),
        identities=[s.identity for s in samples],
        gains=(_stacked([p.gain for p in train]), _stacked([p.gain for p in test])),
        normalise=c.pixels == "imagenet",
        bgr=c.pixels == "bgr",
    )
    if c.label_sigma_factor is not None:
        batch.train_label = gaussian_labels(batch.train_boxes, c.grid, c.label_sigma_factor)
        batch.test_label = gaussian_labels(batch.test_boxes, c.grid, c.label_sigma_factor)
    return batch


def _stacked(arrays: SequenceOf[npt.NDArray[np.generic]]) -> Tensor:
    """B arrays (n, ...) -> (n, B, ...)."""
    return torch.from_numpy(np.stack(arrays, axis=1))
