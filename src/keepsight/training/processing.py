"""From drawn frames to the tensors of one sample, and from samples to a batch (spec/dimp-atom.md §6.2 to §6.5, §4.9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError, nearest_names
from .batch import Batch, Group
from .crops import Square, adaptive_region, atom_region, cut, cut_mask, jitter_box
from .labels import LabelGrid, density_labels, gaussian_labels
from .proposals import Proposals, gmm_proposals, sigma_list_proposals
from .transforms import ImageTransform, JointRoll, JointTransform, flip_box, flip_image

Array = npt.NDArray[np.float64]

CROPS = ("atom", "adaptive")
CROP_MODES = ("replicate", "inside", "inside_major")
PROPOSALS = ("none", "sigma_list", "gmm")


@dataclass(frozen=True)
class ProcessingConfig:
    """How frames become training tensors; the defaults are those of dimp18 and dimp50 (§5)."""

    search_factor: float = 5.0
    """Side of the search region in units of √(w·h) of the (jittered) box."""
    output_size: int = 288
    """Side of the square crop in pixels."""
    centre_jitter_train: float = 3.0
    """Range of the crop's random shift, in units of √(w·h) of the jittered box."""
    centre_jitter_test: float = 4.5
    """The same for test frames."""
    scale_jitter_train: float = 0.25
    """Standard deviation of the random ln w and ln h of the box that is cropped around."""
    scale_jitter_test: float = 0.5
    """The same for test frames."""
    crop: str = "adaptive"
    """``atom`` (§6.2) or ``adaptive`` (§6.3)."""
    crop_mode: str = "replicate"
    """Adaptive crop: ``replicate`` keeps the region's size, ``inside`` shrinks it until it fits the image,
    ``inside_major`` only until it fits along one axis."""
    max_scale_change: float | None = None
    """Largest factor by which the inside modes shrink; None: any."""
    shift_inside: bool = True
    """Quirk Q4: also in mode ``replicate`` the region is moved into the image, which the trackers do not do. False: pad."""
    proposals: str = "sigma_list"
    """``none``, ``sigma_list`` (§6.5 default) or ``gmm``."""
    proposal_number: int = 8
    """Boxes per test frame (the mean box of ``gmm_add_mean_box`` comes on top)."""
    proposal_min_iou: float = 0.1
    """``sigma_list``: boxes must overlap the target more than this."""
    proposal_sigmas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3)
    """``sigma_list``: spreads in units of √(w·h), one chosen per box."""
    gmm_sigmas: tuple[tuple[float, float], ...] = ((0.05, 0.05), (0.5, 0.5))
    """``gmm``: one (centre, ln size) pair of standard deviations per component, in relative coordinates."""
    gmm_gt_sigma: tuple[float, float] = (0.05, 0.05)
    """Deviation of the ground-truth density p in (centre, ln size); (0, 0): p is 0 everywhere."""
    gmm_add_mean_box: bool = False
    """Prepend the true box with q = -1 and p = 1 (the ML loss wants it)."""
    label_sigma_factor: float | None = 0.25 / 5
    """Label σ as a share of the feature map's side; published: 0.25 / search factor. None: no labels."""
    label_density: bool = False
    """Also make the density version of the test labels (PrDiMP)."""
    label_density_normalise: bool = True
    """Divide each density by its sum."""
    label_uniform_weight: float = 0.0
    """Share ω of a uniform density in the density labels."""
    label_shrink: float = 0.0
    """The density labels are multiplied by 1 - shrink."""
    stride: int = 16
    """Pixels per cell of the classifier's features."""
    kernel: int = 4
    """Side of the target filter in cells; even kernels make score maps one cell larger than the features."""
    grey_probability: float = 0.05
    """Chance that all frames of a sample lose their colour."""
    joint_flip_probability: float = 0.0
    """Chance that all whole frames of a sample are mirrored before cropping (0.5 in SuperDiMP)."""
    flip_probability: float = 0.0
    """Chance of every crop to be mirrored on its own (0.5 in SuperDiMP)."""
    exact_flip: bool = False
    """False: mirrored boxes lie one pixel too far left, as in the published training (quirk Q6)."""
    brightness_jitter: float = 0.2
    """Every crop is multiplied by a number from U(1 - j, 1 + j) and cut at white."""
    normalise: bool = True
    """True: images in the units of ImageNet backbones; False: RGB in 0..255."""
    masks: bool = False
    """Crop masks too, where the data set has them."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("crop", self.crop, CROPS),
            ("crop_mode", self.crop_mode, CROP_MODES),
            ("proposals", self.proposals, PROPOSALS),
        ):
            if value not in choices:
                raise InputError(f"{name} {value!r} is unknown; {nearest_names(value, choices)}")
        for name in ("search_factor", "output_size", "stride", "kernel"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("grey_probability", "joint_flip_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a probability from 0 to 1")
        if not 0 <= self.brightness_jitter <= 1:
            raise InputError(f"brightness_jitter is {self.brightness_jitter}; give a number from 0 to 1")
        if self.label_sigma_factor is not None and self.output_size % self.stride:
            raise InputError(
                f"output_size {self.output_size} is no multiple of stride {self.stride}; labels need whole cells"
            )
        if self.max_scale_change is not None and self.max_scale_change < 1:
            raise InputError(f"max_scale_change is {self.max_scale_change}; give a factor of at least 1, or None")
        if self.proposals != "none" and self.proposal_number < 1:
            raise InputError(f"proposal_number is {self.proposal_number}; give at least 1, or proposals='none'")
        if self.crop == "atom" and self.crop_mode != "replicate":
            raise InputError(f"crop 'atom' always pads; crop_mode {self.crop_mode!r} needs crop='adaptive'")

    def validation(self) -> ProcessingConfig:
        """The same for validation: joint transforms stay (quirk Q21), what is drawn per image goes (§5)."""
        return replace(self, brightness_jitter=0.0, flip_probability=0.0)

    @property
    def grid(self) -> LabelGrid:
        """The score map's cells."""
        return LabelGrid.square(self.output_size, self.output_size // self.stride, self.kernel)


@dataclass(eq=False)
class Crops:
    """The train frames, or the test frames, of one sample: n crops of Z × Z pixels."""

    images: npt.NDArray[np.uint8]
    """(n, Z, Z, 3) RGB."""
    gain: npt.NDArray[np.float32]
    """(n,) brightness factors, not applied yet."""
    boxes: Array
    """(n, 4) xywh in crop pixels."""
    masks: npt.NDArray[np.float32] | None = None
    """(n, Z, Z) 0..1."""


@dataclass(eq=False)
class Sample:
    """One group as arrays; images are bytes until :func:`collate`."""

    train: Crops
    test: Crops
    proposals: Proposals | None
    """Around the test boxes: (n_test, P, ...)."""
    config: ProcessingConfig
    is_video: bool = True
    is_negative: bool = False
    identity: str = ""


class Processing:
    """Makes samples of groups: joint transforms, jittered crops, transforms of each crop, proposals.

    Example::

        process = Processing(ProcessingConfig(search_factor=5.0, output_size=288))
        batch = collate([process(sampler.draw(rng), rng) for _ in range(26)])
    """

    def __init__(self, config: ProcessingConfig | None = None) -> None:
        self.config = c = config or ProcessingConfig()
        self._joint = JointTransform(c.grey_probability, c.joint_flip_probability, c.exact_flip)
        self._single = ImageTransform(c.brightness_jitter, c.flip_probability)

    def __call__(self, group: Group, rng: np.random.Generator) -> Sample:
        """Everything random is drawn from ``rng``. Raises :class:`InputError` for boxes without area."""
        c = self.config
        roll = self._joint.draw(rng)
        images = {id(i): roll.image(i) for i in (*group.train_images, *group.test_images)}  # repeated ones once
        jitters = ((c.scale_jitter_train, c.centre_jitter_train), (c.scale_jitter_test, c.centre_jitter_test))
        train = self._crops(
            [images[id(i)] for i in group.train_images], group.train_boxes, group.train_masks, roll, jitters[0], rng
        )
        test = self._crops(
            [images[id(i)] for i in group.test_images], group.test_boxes, group.test_masks, roll, jitters[1], rng
        )
        return Sample(
            train=train,
            test=test,
            proposals=self._proposals(test.boxes, rng),
            config=c,
            is_video=group.is_video,
            is_negative=group.is_negative,
            identity=group.identity,
        )

    def _crops(
        self,
        images: list[np.ndarray],
        boxes: Array,
        masks: list[np.ndarray] | None,
        roll: JointRoll,
        jitter: tuple[float, float],
        rng: np.random.Generator,
    ) -> Crops:
        c, count = self.config, len(images)
        boxes = np.stack([roll.box(b, i.shape[1]) for b, i in zip(boxes, images, strict=True)])  # (n, 4)
        around = jitter_box(boxes, *jitter, rng)  # (n, 4)
        rolls = self._single.draw(count, rng)
        pixels = np.empty((count, c.output_size, c.output_size, 3), np.uint8)
        inside = np.empty((count, 4))
        covers = np.empty((count, c.output_size, c.output_size), np.float32) if c.masks and masks is not None else None
        for k, image in enumerate(images):
            region = self._region(around[k], (image.shape[1], image.shape[0]))
            cut(image, region, pixels[k])
            if rolls.flip[k]:
                pixels[k] = flip_image(pixels[k])
            inside[k] = region.box(boxes[k])
            if covers is not None and masks is not None:
                cover = cut_mask(roll.mask(masks[k]), region, nearest=c.crop == "adaptive")
                covers[k] = cover[:, ::-1] if rolls.flip[k] else cover
        inside[rolls.flip] = flip_box(inside[rolls.flip], c.output_size, c.exact_flip)
        return Crops(pixels, rolls.gain, inside, covers)

    def _region(self, box: Array, image_size: tuple[int, int]) -> Square:
        c = self.config
        values = box.tolist()
        if c.crop == "atom":
            return atom_region(values, c.search_factor, c.output_size)
        return adaptive_region(
            values, c.search_factor, c.output_size, image_size, c.crop_mode, c.max_scale_change, c.shift_inside
        )

    def _proposals(self, boxes: Array, rng: np.random.Generator) -> Proposals | None:
        c = self.config
        if c.proposals == "none":
            return None
        if c.proposals == "sigma_list":
            return sigma_list_proposals(boxes, c.proposal_number, c.proposal_sigmas, c.proposal_min_iou, rng)
        return gmm_proposals(
            boxes, c.proposal_number, c.gmm_sigmas, rng, gt_sigma=c.gmm_gt_sigma, add_mean_box=c.gmm_add_mean_box
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one configuration as a batch with float images; frames first, then samples."""
    return collate_bytes(samples).as_floats()


def collate_bytes(samples: Sequence[Sample]) -> Batch:
    """The same with images as bytes: for loader workers, whose batches travel; ``batch.to(device)`` makes floats of them."""
    if not samples:
        raise InputError("there are no samples to put together; give at least one")
    config = samples[0].config
    train, test = [s.train for s in samples], [s.test for s in samples]
    found = [s.proposals for s in samples if s.proposals is not None]
    batch = Batch(
        train_images=_images(train),
        test_images=_images(test),
        train_boxes=_stack([c.boxes for c in train]),
        test_boxes=_stack([c.boxes for c in test]),
        train_masks=_masks(train),
        test_masks=_masks(test),
        is_video=torch.tensor([s.is_video for s in samples]),
        is_negative=torch.tensor([s.is_negative for s in samples]) if any(s.is_negative for s in samples) else None,
        identities=[s.identity for s in samples],
        gains=(_stack([c.gain for c in train]), _stack([c.gain for c in test])),
        normalise=config.normalise,
    )
    if found:
        batch.proposals = _stack([p.boxes for p in found])
        batch.proposal_iou = _stack([p.iou_target for p in found])
    if config.proposals == "gmm":
        batch.proposal_density = _stack([p.q for p in found if p.q is not None])
        batch.gt_density = _stack([p.p for p in found if p.p is not None])
    return _with_labels(batch, config)


def _with_labels(batch: Batch, config: ProcessingConfig) -> Batch:
    """Labels (n, B, F, F) of all frames at once; 0 where the target is not in the test frames."""
    factor = config.label_sigma_factor
    if factor is None:
        return batch
    present = 1 if batch.is_negative is None else (~batch.is_negative).float()[:, None, None]  # (B, 1, 1)
    batch.train_label = gaussian_labels(batch.train_boxes, config.grid, factor)
    batch.test_label = gaussian_labels(batch.test_boxes, config.grid, factor) * present
    if config.label_density:
        batch.test_label_density = present * density_labels(
            batch.test_boxes,
            config.grid,
            factor,
            normalise=config.label_density_normalise,
            uniform_weight=config.label_uniform_weight,
            shrink=config.label_shrink,
        )
    return batch


def _images(crops: Sequence[Crops]) -> Tensor:
    """(n, B, 3, Z, Z) uint8, a view with channels last in memory."""
    return torch.from_numpy(np.stack([c.images for c in crops], axis=1)).permute(0, 1, 4, 2, 3)


def _masks(crops: Sequence[Crops]) -> Tensor | None:
    """(n, B, Z, Z), if every sample has masks."""
    masks = [c.masks for c in crops if c.masks is not None]
    return _stack(masks) if len(masks) == len(crops) else None


def _stack(arrays: Sequence[npt.NDArray[np.floating]]) -> Tensor:
    """B arrays (n, ...) -> (n, B, ...) float32."""
    return torch.from_numpy(np.stack(arrays, axis=1).astype(np.float32, copy=False))
