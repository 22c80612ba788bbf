"""Groups to samples to batches: shapes of every kind of recipe, boxes that follow their pixels, randomness with an owner."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from keepsight.boxes import iou
from keepsight.errors import InputError
from keepsight.images import normalise
from keepsight.training.batch import Batch, Group
from keepsight.training.crops import adaptive_region, atom_region, cut, cut_mask, jitter_box
from keepsight.training.processing import Processing, ProcessingConfig, collate, collate_bytes
from keepsight.training.proposals import gmm_proposals, sigma_list_proposals

RED, GREY = (255, 0, 0), (90, 90, 90)
SIDE = 96
DIMP = {"output_size": SIDE, "proposal_number": 8}
KINDS: dict[str, dict[str, object]] = {
    "atom": {
        **DIMP,
        "crop": "atom",
        "centre_jitter_train": 0.0,
        "scale_jitter_train": 0.0,
        "proposal_number": 16,
        "label_sigma_factor": None,
    },
    "atom_prob_ml": {**DIMP, "crop": "atom", "proposals": "gmm", "gmm_gt_sigma": (0.0, 0.0), "gmm_add_mean_box": True},
    "dimp": dict(DIMP),
    "prdimp": {**DIMP, "proposals": "gmm", "label_density": True},
    "superdimp": {
        **DIMP,
        "search_factor": 6.0,
        "crop_mode": "inside_major",
        "max_scale_change": 1.5,
        "proposals": "gmm",
        "joint_flip_probability": 0.5,
        "flip_probability": 0.5,
        "label_sigma_factor": 0.25 / 6,
    },
    "segmentation": {**DIMP, "proposals": "none", "masks": True, "flip_probability": 0.5},
}


def picture(box: tuple[int, int, int, int], size: tuple[int, int] = (240, 180)) -> np.ndarray:
    """A red rectangle on grey; ``size`` is (width, height)."""
    x, y, w, h = box
    image = np.empty((size[1], size[0], 3), np.uint8)
    image[:] = GREY
    image[max(y, 0) : y + h, max(x, 0) : x + w] = RED
    return image


def group(boxes: list[tuple[int, int, int, int]], n_train: int = 3, masks: bool = True, **more: object) -> Group:
    images = [picture(b) for b in boxes]
    covers = [i[..., 1] == 0 for i in images]
    values = np.array(boxes, dtype=np.float64)
    return Group(
        train_images=images[:n_train],
        test_images=images[n_train:],
        train_boxes=values[:n_train],
        test_boxes=values[n_train:],
        train_masks=covers[:n_train] if masks else None,
        test_masks=covers[n_train:] if masks else None,
        **more,  # type: ignore[arg-type]
    )


BOXES = [(100, 60, 40, 30), (104, 66, 38, 32), (90, 70, 44, 30), (98, 50, 42, 28), (5, 4, 40, 30), (190, 140, 42, 36)]


def red_box(image: np.ndarray) -> np.ndarray:
    """(x, y, w, h) of the red pixels; half-red ones count half."""
    red = (image[..., 0].astype(float) - GREY[0]) / (RED[0] - GREY[0])
    size, corner = [], []
    for profile in (red.max(axis=0), red.max(axis=1)):
        size.append(profile.sum())
        corner.append((profile * (np.arange(len(profile)) + 0.5)).sum() / size[-1] - size[-1] / 2)
    return np.array(corner + size)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_ranges(kind: str) -> None:
    config = ProcessingConfig(**KINDS[kind])  # type: ignore[arg-type]
    process, rng = Processing(config), np.random.default_rng(0)
    batch = collate([process(group(BOXES, identity=f"g{k}"), rng) for k in range(4)])
    proposals = config.proposal_number + config.gmm_add_mean_box
    cells = SIDE // 16 + 1
    want = {
        "train_images": (3, 4, 3, SIDE, SIDE),
        "test_images": (3, 4, 3, SIDE, SIDE),
        "train_boxes": (3, 4, 4),
        "test_boxes": (3, 4, 4),
        "is_video": (4,),
    }
    if config.proposals != "none":
        want |= {"proposals": (3, 4, proposals, 4), "proposal_iou": (3, 4, proposals)}
    if config.proposals == "gmm":
        want |= {"proposal_density": (3, 4, proposals), "gt_density": (3, 4, proposals)}
    if config.label_sigma_factor:
        want |= {"train_label": (3, 4, cells, cells), "test_label": (3, 4, cells, cells)}
    if config.label_density:
        want |= {"test_label_density": (3, 4, cells, cells)}
    if config.masks:
        want |= {"train_masks": (3, 4, SIDE, SIDE), "test_masks": (3, 4, SIDE, SIDE)}
    tensors = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    got = {k: tuple(v.shape) for k, v in tensors.items() if isinstance(v, torch.Tensor)}
    assert got == want
    assert all(v.dtype == torch.float32 for k, v in tensors.items() if k in want and k != "is_video")
    assert all(v.isfinite().all() for v in tensors.values() if isinstance(v, torch.Tensor))
    assert batch.identities == ["g0", "g1", "g2", "g3"]
    assert len(batch) == 4
    if batch.proposal_iou is not None:
        assert batch.proposals is not None
        assert torch.allclose(batch.proposal_iou, 2 * iou(batch.proposals, batch.test_boxes[:, :, None]) - 1, atol=1e-5)
    if config.gmm_add_mean_box:
        assert batch.proposal_density is not None
        assert batch.gt_density is not None
        assert (batch.proposal_density[..., 0] == -1).all()
        assert (batch.proposal_density[..., 1:] > 0).all()
        assert (batch.gt_density[..., 0] == 1).all()
        assert (batch.gt_density[..., 1:] == 0).all()
    if batch.test_label is not None:  # the highest cell lies at the target
        centre = (batch.test_boxes[..., :2] + 0.5 * batch.test_boxes[..., 2:]) / 16  # (3, 4, 2) x, y
        place = batch.test_label.flatten(2).argmax(dim=-1)  # (3, 4)
        assert ((place % cells - centre[..., 0].clamp(0, cells - 1)).abs() <= 0.501).all()
        assert ((place // cells - centre[..., 1].clamp(0, cells - 1)).abs() <= 0.501).all()


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_follow_their_pixels(kind: str) -> None:
    """Where a rendered rectangle lies in the crop against the crop's box: all routines, jitters and mirrorings."""
    side = 192
    plain = {"output_size": side, "brightness_jitter": 0.0, "grey_probability": 0.0, "exact_flip": True}
    config = ProcessingConfig(**{**KINDS[kind], **plain})  # type: ignore[arg-type]
    process, rng = Processing(config), np.random.default_rng(1)
    whole, images = 0, group(BOXES[:4], n_train=2)
    for _ in range(25):
        sample = process(images, rng)
        for crops, given in ((sample.train, images.train_boxes), (sample.test, images.test_boxes)):
            for k, box in enumerate(crops.boxes):
                if not ((box[:2] > 2).all() and (box[:2] + box[2:] < side - 2).all()):
                    continue  # the rectangle is cut by the border of the crop
                whole += 1
                scale = box[2] / given[k, 2]  # crop pixels per image pixel
                slack = 0.2 + max(0.0, 1 - scale)  # a shrunken edge falls between samples
                if config.crop == "atom":  # §6.2: real-valued centre and (out - 1) / 2, but a region of whole pixels
                    slack += 0.5 + 0.5 * scale
                seen = red_box(crops.images[k])
                assert np.abs(seen - box).max() <= slack, (seen, box)
                if crops.masks is not None:
                    assert ((crops.masks[k] > 0.5) == (crops.images[k][..., 1] < GREY[1] / 2)).mean() > 0.98
    assert whole > 30


def test_quirk_q6_moves_flipped_boxes_by_one_pixel() -> None:
    kind = {**KINDS["superdimp"], "flip_probability": 1.0, "joint_flip_probability": 0.0}
    exact = Processing(ProcessingConfig(**kind, exact_flip=True))(group(BOXES), np.random.default_rng(0))  # type: ignore[arg-type]
    quirk = Processing(ProcessingConfig(**kind))(group(BOXES), np.random.default_rng(0))  # type: ignore[arg-type]
    assert (exact.train.images == quirk.train.images).all()
    assert exact.train.boxes - quirk.train.boxes == pytest.approx(np.tile([1.0, 0, 0, 0], (3, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_all_chance_comes_from_the_generator(kind: str) -> None:
    process = Processing(ProcessingConfig(**KINDS[kind]))  # type: ignore[arg-type]
    a, b, c = (collate([process(group(BOXES), np.random.default_rng(seed))]) for seed in (5, 5, 6))
    for f in fields(Batch):
        first, again = getattr(a, f.name), getattr(b, f.name)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, again), f.name
    assert not torch.equal(a.test_images, c.test_images)
    if a.proposals is not None:
        assert not torch.equal(a.proposals, c.proposals)  # type: ignore[arg-type]


def test_given_images_are_not_changed() -> None:
    frames = group(BOXES)
    before = [i.copy() for i in frames.train_images]
    config = ProcessingConfig(output_size=SIDE, grey_probability=1.0, joint_flip_probability=1.0, flip_probability=1.0)
    Processing(config)(frames, np.random.default_rng(0))
    assert all((a == b).all() for a, b in zip(before, frames.train_images, strict=True))


def test_brightness_is_cut_at_white_and_normalised() -> None:
    process = Processing(ProcessingConfig(**DIMP))  # type: ignore[arg-type]
    samples = [process(group(BOXES), np.random.default_rng(k)) for k in range(3)]
    batch, raw = collate(samples), collate_bytes(samples)
    assert raw.train_images.dtype == torch.uint8
    assert raw.gains is not None
    pixels = raw.test_images.float() * raw.gains[1][..., None, None, None]
    assert (pixels > 255).any(), "red reaches white"
    assert torch.allclose(batch.test_images, normalise(pixels.clamp(max=255)), atol=1e-5)
    assert torch.equal(raw.to("cpu").test_images, batch.test_images)
    assert batch.gains is None
    assert batch.as_floats() is batch
    plain = Processing(ProcessingConfig(**DIMP, normalise=False))(group(BOXES), np.random.default_rng(0))  # type: ignore[arg-type]
    unit = collate([plain])
    assert unit.test_images.max() == pytest.approx(255)
    assert torch.allclose(normalise(unit.test_images), batch.test_images[:, :1], atol=1e-5)


def test_validation_keeps_joint_transforms_only() -> None:
    config = ProcessingConfig(**KINDS["superdimp"]).validation()  # type: ignore[arg-type]
    assert (config.brightness_jitter, config.flip_probability) == (0, 0)
    assert (config.joint_flip_probability, config.grey_probability) == (0.5, 0.05)
    sample = Processing(config)(group(BOXES), np.random.default_rng(0))
    assert (sample.train.gain == 1).all()


def test_negatives_have_no_target_in_test_labels() -> None:
    process = Processing(ProcessingConfig(**DIMP, label_density=True))  # type: ignore[arg-type]
    samples = [process(group(BOXES, is_negative=k == 1), np.random.default_rng(k)) for k in range(2)]
    batch = collate(samples)
    assert batch.is_negative is not None
    assert batch.is_negative.tolist() == [False, True]
    for label in (batch.test_label, batch.test_label_density):
        assert label is not None
        assert (label[:, 1] == 0).all()
        assert (label[:, 0].sum(dim=(-2, -1)) > 0.05).all()
    assert batch.train_label is not None
    assert (batch.train_label[:, 1].amax(dim=(-2, -1)) > 0.05).all()


def test_masks_are_left_out_where_a_sample_has_none() -> None:
    process, rng = Processing(ProcessingConfig(**KINDS["segmentation"])), np.random.default_rng(0)  # type: ignore[arg-type]
    batch = collate([process(group(BOXES, masks=m), rng) for m in (True, False)])
    assert batch.train_masks is None


def test_batch_travels_whole() -> None:
    raw = collate_bytes([Processing(ProcessingConfig(**DIMP))(group(BOXES), np.random.default_rng(0))])  # type: ignore[arg-type]
    moved = raw.to("meta", non_blocking=False)
    assert moved.test_images.dtype == torch.float32
    assert moved.gains is None
    tensors = [getattr(moved, f.name) for f in fields(Batch)]
    assert all(t.device.type == "meta" for t in tensors if isinstance(t, torch.Tensor))


# Crops and proposals beyond the goldens


def test_jitter_has_the_published_spread() -> None:
    box = np.tile([50.0, 60.0, 40.0, 10.0], (20000, 1))
    out = jitter_box(box, 0.25, 3.0, np.random.default_rng(0))
    logs = np.log(out[:, 2:] / box[:, 2:])
    assert logs.std(axis=0) == pytest.approx([0.25, 0.25], rel=0.03)
    assert np.corrcoef(logs.T)[0, 1] == pytest.approx(0, abs=0.03)
    shift = (out[:, :2] + 0.5 * out[:, 2:] - [70, 65]) / np.sqrt(out[:, 2] * out[:, 3])[:, None]
    assert np.abs(shift).max() == pytest.approx(1.5, abs=0.01)
    assert shift.std(axis=0) == pytest.approx([3 / 12**0.5] * 2, rel=0.02)
    assert (jitter_box(box, 0.0, 0.0, np.random.default_rng(0)) == box).all()


def test_train_and_test_frames_have_their_own_jitter() -> None:
    """Sizes tell the scale jitter, places the centre jitter; each alone, in the train or in the test frames."""
    calm = {"centre_jitter_train": 0.0, "centre_jitter_test": 0.0, "scale_jitter_train": 0.0, "scale_jitter_test": 0.0}
    same = [BOXES[0]] * 6
    for name, moves in (("centre", False), ("scale", True)):
        for part in ("train", "test"):
            config = ProcessingConfig(**{**DIMP, **calm, f"{name}_jitter_{part}": 0.4, "shift_inside": False})  # type: ignore[arg-type]
            sample = Processing(config)(group(same), np.random.default_rng(0))
            other = sample.test if part == "train" else sample.train
            assert np.ptp(other.boxes, axis=0).max() == 0
            spread = np.ptp(getattr(sample, part).boxes, axis=0)
            assert (spread[:2] > 0.5).all() or moves
            assert (spread[2:] > 0.5).all() == moves


@pytest.mark.parametrize("nearest", [True, False])
def test_masks_end_one_pixel_early_where_the_region_reaches_the_border(nearest: bool) -> None:
    whole = np.ones((40, 40), bool)  # quirk Q5
    touching = atom_region((10.0, 10.0, 20.0, 20.0), 2, 40)
    assert (touching.x, touching.x + touching.width) == (0, 40)
    cover = cut_mask(whole, touching, nearest)
    assert (cover[:-1, :-1] == 1).all()
    assert (cover[-1] == 0).all()
    assert (cover[:, -1] == 0).all()
    within = atom_region((10.0, 10.0, 20.0, 20.0), 1.9, 38)
    assert (cut_mask(whole, within, nearest) == 1).all()


def test_quirk_q4_can_be_switched_off() -> None:
    near_corner = (5.0, 8.0, 30.0, 24.0)
    moved = adaptive_region(near_corner, 5, 64, (160, 120))
    padded = adaptive_region(near_corner, 5, 64, (160, 120), shift_inside=False)
    assert moved.x == 0
    assert padded.x < 0
    assert padded.box(near_corner)[0] == pytest.approx(32 - 0.5 * padded.box(near_corner)[2], abs=0.5)


@pytest.mark.parametrize("factor", [60, 200, 5000])
def test_huge_regions_are_not_built(factor: float) -> None:
    """Far more pixels than a crop needs: read where they are needed, nearly the same as the copied region."""
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    region = atom_region((40.0, 30.0, 30.0, 20.0), factor, 96)
    crop = cut(image, region)
    assert crop.shape == (96, 96, 3)
    corners = crop[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == image[[0, 0, -2, -2], [0, -2, 0, -2]]).all(), "border repeated, quirk Q5"
    assert cut_mask(image[..., 0] > 0, region, nearest=True).shape == (96, 96)


def test_large_copied_and_warped_regions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    yy, xx = np.mgrid[:90, :120]
    image = np.stack((xx, yy, xx + yy), axis=-1).astype(np.uint8)
    for box in ((40.0, 30.0, 30.0, 20.0), (2.0, 70.0, 30.0, 20.0)):
        region = atom_region(box, 12, 96)
        copied = cut(image, region)
        with monkeypatch.context() as patch:
            patch.setattr("keepsight.training.crops._MAX_COPY", 0)
            assert np.abs(copied.astype(int) - cut(image, region)).max() <= 2


def test_region_beside_the_image_repeats_its_border() -> None:
    image = picture((100, 60, 40, 30))
    region = atom_region((1000.0, 60.0, 40.0, 30.0), 2, 64)
    assert (cut(image, region) == GREY).all()
    assert (cut_mask(image[..., 1] == 0, region, nearest=False) == 0).all()
    assert (cut_mask(image[..., 1] == 0, region, nearest=True) == 0).all()


@pytest.mark.parametrize("box", [(1.0, 1, 0, 5), (1.0, 1, 5, -2), (float("nan"), 1, 5, 5), (1.0, 1, float("inf"), 5)])
def test_boxes_without_area(box: tuple[float, float, float, float]) -> None:
    for make in (lambda: atom_region(box, 5, 64), lambda: adaptive_region(box, 5, 64, (99, 99))):
        with pytest.raises(InputError, match="no area"):
            make()


def test_sigma_list_proposals_overlap_and_lie_on_whole_pixels() -> None:
    truth = np.array([[[50.0, 60.0, 40.0, 20.0]], [[120.5, 30.25, 90.0, 140.0]]])  # (2, 1, 4)
    got = sigma_list_proposals(truth, 3000, (0.01, 0.05, 0.1, 0.2, 0.3), 0.1, np.random.default_rng(0))
    assert got.boxes.shape == (2, 1, 3000, 4)
    assert got.iou.min() > 0.1
    assert (got.boxes == np.rint(got.boxes)).all()
    side = np.sqrt(truth[..., 2] * truth[..., 3])[..., None]
    spread = (got.boxes[..., 2] - truth[..., None, 2]) / side
    want = np.sqrt(np.mean(np.square([0.01, 0.05, 0.1, 0.2, 0.3])))
    assert spread.std() == pytest.approx(want, rel=0.1)


def test_refused_boxes_are_drawn_again_ever_closer() -> None:
    truth = np.array([[100.0, 100.0, 400.0, 300.0]])
    got = sigma_list_proposals(truth, 200, (0.3,), 0.9, np.random.default_rng(0))  # the first try hardly ever does
    assert got.iou.min() > 0.9
    assert got.iou.mean() < 0.96, "the first that does is taken"


def test_tiny_boxes_keep_a_size_and_the_last_try_counts() -> None:
    tiny = np.array([[5.0, 5.0, 1.2, 1.5]])
    got = sigma_list_proposals(tiny, 500, (0.3,), 0.999, np.random.default_rng(0))  # no box can overlap that much
    assert (got.boxes[..., 2:] > 0).all()
    assert got.iou.shape == (1, 500)
    assert got.iou.max() <= 0.999


def test_gmm_proposals_have_the_density_they_claim() -> None:
    """Importance sampling: the mean of p / q over draws of q is the integral of p, one."""
    truth = np.array([[30.0, 40.0, 50.0, 25.0]])
    got = gmm_proposals(truth, 200_000, [(0.05, 0.05), (0.5, 0.5)], np.random.default_rng(0), gt_sigma=(0.1, 0.1))
    assert got.q is not None
    assert got.p is not None
    assert (got.p / got.q).mean() == pytest.approx(1, abs=0.03)
    centre = (got.boxes[..., 0] + 0.5 * got.boxes[..., 2] - 55) / 50
    assert centre.std() == pytest.approx(np.sqrt((0.05**2 + 0.5**2) / 2), rel=0.02)
    assert np.log(got.boxes[..., 3] / 25).std() == pytest.approx(np.sqrt((0.05**2 + 0.5**2) / 2), rel=0.02)


def test_proposals_of_boxes_without_area() -> None:
    with pytest.raises(InputError, match="no area"):
        sigma_list_proposals(np.array([[1.0, 1, 0, 4]]), 4, (0.1,), 0.1, np.random.default_rng(0))
    with pytest.raises(InputError, match="above 0"):
        gmm_proposals(np.array([[1.0, 1, 4, 4]]), 4, [(0.0, 0.1)], np.random.default_rng(0))


@pytest.mark.parametrize(
    "bad",
    [
        {"crop": "dimp"},
        {"crop_mode": "pad"},
        {"proposals": "random"},
        {"output_size": 100},
        {"search_factor": 0.0},
        {"max_scale_change": 0.5},
        {"proposal_number": 0},
        {"grey_probability": 1.5},
        {"brightness_jitter": -0.1},
        {"crop": "atom", "crop_mode": "inside"},
    ],
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        ProcessingConfig(**bad)  # type: ignore[arg-type]


def test_nothing_to_collate() -> None:
    with pytest.raises(InputError, match="at least one"):
        collate([])
