"""Training items with masks: which frames, crops in which mask and image stay aligned, what a batch holds."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.datasets.frames import ArrayFrames
from keepsight.datasets.sequence import Annotation, Masks, Sequence
from keepsight.datasets.tracks import SequenceSet
from keepsight.datasets.training_sets import open_training_set
from keepsight.errors import InputError, VideoError
from keepsight.images import normalise_bgr
from keepsight.training.batch import Group
from keepsight.training.labels import gaussian_labels
from keepsight.training.segmentation import (
    MaskProcessing,
    MaskProcessingConfig,
    MaskSampler,
    MaskSamplerConfig,
    check_has_masks,
    collate_masks,
)
from keepsight.training.transforms import AffineTransform

SMALL = MaskProcessingConfig(output_size=(96, 64))
PLAIN = replace(
    SMALL, grey_probability=0.0, flip_probability=0.0, rotation=0.0, scale=0.0, brightness_jitter=0.0,
    centre_jitter_train=(0.0, 0.0), centre_jitter_test=(0.0, 0.0), scale_jitter_train=0.0, scale_jitter_test=0.0,
)  # fmt: skip


class Sizes(Masks):
    """Object 2 of a video has ``pixels[k]`` pixels in frame ``k``; None: no mask; "lost": no file where one should be."""

    def __init__(self, pixels) -> None:
        self.pixels = list(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> np.ndarray | None:
        count = self.pixels[index]
        if count == "lost":
            raise VideoError("there is no mask file 00007.png; restore it")
        if count is None:
            return None
        ids = np.zeros((20, 30), np.uint8)
        ids.ravel()[:count] = 2
        ids[-1] = 1  # another object
        return ids


def known(pixels, visible=None) -> Annotation:
    boxes = np.tile([1.0, 1.0, 5.0, 4.0], (len(pixels), 1))
    return Annotation(boxes, visible=visible, masks=Sizes(pixels), objects=(2,))


def unmasked(count: int) -> Annotation:
    return Annotation(np.tile([1.0, 1.0, 5.0, 4.0], (count, 1)))


def a_set(pixels, is_video: bool = True, visible=None, shape=(20, 30, 3)) -> SequenceSet:
    frames = ArrayFrames(np.full(shape, k % 256, np.uint8) for k in range(len(pixels)))
    return SequenceSet("made", [Sequence("clip", "made", frames, partial(known, pixels, visible))], is_video)


def drawn(sampler: MaskSampler, count: int = 300) -> list[tuple[int, list[int]]]:
    rng = np.random.default_rng(0)
    groups = [sampler.draw(rng) for _ in range(count)]
    return [(int(g.train_images[0][0, 0, 0]), [int(i[0, 0, 0]) for i in g.test_images]) for g in groups]


# --- which frames ------------------------------------------------------------------------------------------------------------


def test_three_frames_behind_the_first_in_the_order_of_time():
    found = drawn(MaskSampler([a_set([50] * 150)]))
    gaps = [t - base for base, test in found for t in test]
    assert all(len(test) == 3 and test == sorted(test) for _, test in found)
    assert min(gaps) == 1
    assert 80 < max(gaps) <= 99, "frames in (base, base + 100)"
    assert any(len(set(test)) < 3 for _, test in drawn(MaskSampler([a_set([50] * 12)]))), "with replacement"


def test_frames_show_more_than_ten_pixels_and_have_a_mask():
    pixels = [10, 11, None, 300, 5, 80] * 4
    found = drawn(MaskSampler([a_set(pixels)]))
    assert {f for base, test in found for f in (base, *test)} <= {k for k, n in enumerate(pixels) if n and n > 10}
    assert {base for base, _ in found} >= {1, 3, 5}


def test_the_window_grows_by_five_until_a_frame_is_found():
    pixels = [50 if k % 130 == 0 else 0 for k in range(12 * 130 + 1)]
    config = MaskSamplerConfig(mask_pixels=10)
    visible = np.array(pixels) > 0
    found = drawn(MaskSampler([a_set(pixels, visible=visible)], config=config), 40)
    assert all({(t - base) % 256 for t in test} == {130} for base, test in found), (
        "100, 105, .. 135 reaches the next, no other"
    )


def test_objects_with_eight_visible_frames_are_passed_over():
    for pixels, visible in (([50] * 8 + [10] * 20, None), ([50] * 28, np.arange(28) < 8)):
        sampler = MaskSampler([a_set(pixels, visible=visible)], config=MaskSamplerConfig(max_tries=3))
        rng, refused = np.random.default_rng(0), 0
        for _ in range(20):  # pixels are counted when a frame is drawn, so some draws never see how few have enough
            try:
                sampler.draw(rng)
            except InputError as error:
                refused += "not more than 8 visible frames" in str(error)
        assert refused >= (1 if visible is None else 20)
    assert drawn(MaskSampler([a_set([50] * 9 + [10] * 20)]), 5)


def test_frames_that_the_data_set_calls_absent_are_not_drawn():
    visible = np.arange(40) % 2 == 0
    assert all(
        f % 2 == 0 for base, test in drawn(MaskSampler([a_set([50] * 40, visible=visible)])) for f in (base, *test)
    )


def test_an_image_is_repeated():
    sampler = MaskSampler([a_set([50], is_video=False)])
    group = sampler.draw(np.random.default_rng(0))
    assert (len(group.train_images), len(group.test_images), group.is_video) == (1, 3, False)
    assert all((m == (Sizes([50])[0] == 2)).all() for m in (*group.train_masks, *group.test_masks)), "its own id alone"
    with pytest.raises(InputError, match="never visible"):
        MaskSampler([a_set([10], is_video=False)], config=MaskSamplerConfig(max_tries=5)).draw(np.random.default_rng(0))


def test_a_set_without_masks_is_an_error_at_once():
    frames = ArrayFrames([np.zeros((20, 30, 3), np.uint8)] * 30)
    without = SequenceSet("boxes", [Sequence("clip", "boxes", frames, partial(unmasked, 30))])
    with pytest.raises(InputError, match=r"boxes has no masks.*keepsight masks"):
        MaskSampler([a_set([50] * 20), without])
    MaskSampler([a_set([50] * 20), without], weights=[1, 0])  # never drawn
    check_has_masks(a_set([50] * 20))


def test_a_mask_file_that_is_not_there_is_named():
    sampler = MaskSampler([a_set(["lost"] * 30)], config=MaskSamplerConfig(max_tries=60))
    with pytest.raises(InputError, match=r"broken.*no mask file 00007.png"):
        sampler.draw(np.random.default_rng(0))


def test_a_mask_of_another_size_than_its_image_is_broken():
    sampler = MaskSampler([a_set([50] * 20, shape=(21, 30, 3))], config=MaskSamplerConfig(max_tries=3))
    with pytest.raises(InputError, match=r"mask is \(30, 20\), the image \(30, 21\)"):
        sampler.draw(np.random.default_rng(0))


# --- crops -------------------------------------------------------------------------------------------------------------------


def group(boxes, size=(200, 150), n_train: int = 1) -> Group:
    """White rectangles on black, of which the masks are the white pixels. ``size`` (width, height)."""
    images, masks = [], []
    for x, y, w, h in boxes:
        mask = np.zeros(size[::-1], bool)
        mask[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        masks.append(mask)
        images.append(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
    values = np.array(boxes, np.float64)
    return Group(
        images[:n_train], images[n_train:], values[:n_train], values[n_train:], masks[:n_train], masks[n_train:]
    )


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(0, 1), y=st.floats(0, 1), w=st.integers(8, 80), h=st.integers(8, 80), seed=st.integers(0, 2**32),
    size=st.sampled_from(((200, 150), (150, 260), (640, 90))), mode=st.sampled_from(("inside_major", "replicate", "inside")),
)  # fmt: skip
def test_mask_and_image_stay_aligned(x, y, w, h, seed, size, mode):
    """Whatever is drawn, a pixel of the mask is white and others are black, but for what resampling does at the edges."""
    corner = (3 + round(x * (size[0] - w - 6)), 3 + round(y * (size[1] - h - 6)))  # off the border, which is repeated
    process = MaskProcessing(replace(SMALL, crop_mode=mode, brightness_jitter=0.0))
    sample = process(group([(*corner, w, h)] * 3, size), np.random.default_rng(seed))
    for crops in (sample.train, sample.test):
        assert crops.images.shape[1:] == (64, 96, 3)
        assert set(np.unique(crops.masks)) <= {0, 1}
        for image, mask in zip(crops.images, crops.masks, strict=True):
            bright = image[..., 0] > 127
            assert not (bright & (_spread(mask) == 0)).any()
            assert bright[_spread(1 - mask) == 0].all()


def _spread(mask: np.ndarray) -> np.ndarray:
    """Larger by two pixels on every side: nearest and bilinear resampling differ by no more, one after the other."""
    import cv2

    return cv2.dilate(mask, np.ones((5, 5), np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    x=st.integers(70, 110),
    y=st.integers(50, 80),
    w=st.integers(20, 40),
    h=st.integers(20, 40),
    seed=st.integers(0, 2**32),
)
def test_boxes_follow_their_masks(x, y, w, h, seed):
    jitter = replace(SMALL, centre_jitter_train=(1.0, 1.0), centre_jitter_test=(1.0, 1.0), search_factor=4.0)
    sample = MaskProcessing(jitter)(group([(x, y, w, h)] * 4), np.random.default_rng(seed))
    for crops in (sample.train, sample.test):
        for mask, box in zip(crops.masks, crops.boxes, strict=True):
            if not mask.any() or mask[[0, -1]].any() or mask[:, [0, -1]].any():
                continue
            rows, columns = np.nonzero(mask)
            assert columns.mean() + 0.5 == pytest.approx(box[0] + box[2] / 2, abs=1.5)
            assert rows.mean() + 0.5 == pytest.approx(box[1] + box[3] / 2, abs=1.5)
            assert mask.sum() == pytest.approx(box[2] * box[3], rel=0.35)


def test_the_mask_is_0_beyond_the_image_where_the_picture_is_repeated():
    crops = MaskProcessing(replace(PLAIN, crop_mode="replicate", search_factor=8.0))(
        group([(0, 0, 60, 60)] * 2, (61, 61)), np.random.default_rng(0)
    ).train
    assert crops.images[0].min() > 200
    assert 0.005 < crops.masks[0].mean() < 0.5
    assert crops.masks[0][0].max() == 0


def test_train_and_test_frames_are_rolled_on_their_own():
    process = MaskProcessing(replace(PLAIN, flip_probability=0.5, search_factor=3.0))
    given_frames = group([(20, 60, 30, 30)] * 4)  # far on the left: the crop ends there
    rng, mirrored = np.random.default_rng(0), []
    for _ in range(60):
        sample = process(given_frames, rng)
        sides = [m[:, :48].sum() < m[:, 48:].sum() for m in (*sample.train.masks, *sample.test.masks)]
        assert sides[1] == sides[2] == sides[3]
        mirrored.append((sides[0], sides[1]))
    assert len(set(mirrored)) == 4, "all four combinations"


@pytest.mark.parametrize("change", [{"rotation": 15.0}, {"scale": 0.2}])
def test_every_crop_is_turned_and_enlarged_on_its_own(change):
    process, rng = MaskProcessing(replace(PLAIN, search_factor=3.0, **change)), np.random.default_rng(0)
    still = MaskProcessing(replace(PLAIN, search_factor=3.0))(group([(40, 50, 50, 20)] * 4), rng)
    changed, different = [], []
    for _ in range(10):
        sample = process(group([(40, 50, 50, 20)] * 4), rng)
        every = [*sample.train.masks, *sample.test.masks]
        changed += [(mask != still.train.masks[0]).any() for mask in every]
        different += [(a != b).any() for k, a in enumerate(every) for b in every[:k]]
        if "scale" in change:
            assert len({*sample.train.boxes[:, 2], *sample.test.boxes[:, 2]}) == 4
    assert min(np.mean(changed), np.mean(different)) > 0.7, "but for changes that are less than a pixel"


def coloured(count: int) -> Group:
    plain = group([(70, 50, 40, 30)] * count)
    tint = np.array([1.0, 0.5, 0.1])
    paint = [[(i * tint).astype(np.uint8) for i in part] for part in (plain.train_images, plain.test_images)]
    return replace(plain, train_images=paint[0], test_images=paint[1])


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_train_and_test_frames_lose_their_colour_on_their_own(chance):
    process, rng = (
        MaskProcessing(replace(PLAIN, output_size=(32, 32), grey_probability=chance)),
        np.random.default_rng(0),
    )
    found = []
    for _ in range(200):
        sample = process(coloured(4), rng)
        grey = [bool((i == i[..., :1]).all()) for i in (*sample.train.images, *sample.test.images)]
        assert grey[1] == grey[2] == grey[3], "test frames alike"
        found.append((grey[0], grey[1]))
    for side in zip(*found, strict=True):
        assert np.mean(side) == pytest.approx(chance, abs=0.12)
    assert len(set(found)) == (4 if chance == 0.5 else 1)


def test_jitter_of_test_frames_is_wider_along_x():
    wide = MaskProcessing(replace(SMALL, rotation=0.0, scale=0.0, crop_mode="replicate", flip_probability=0.0))
    rng, boxes = np.random.default_rng(0), {"train": [], "test": []}
    for _ in range(400):
        sample = wide(group([(300, 250, 6, 6)] * 2, (600, 500)), rng)
        for name, crops in (("train", sample.train), ("test", sample.test)):
            boxes[name].append(crops.boxes[0])
    for name, (rx, ry), spread in (("train", (3.0, 3.0), 0.25), ("test", (5.5, 4.5), 0.5)):
        b = np.array(boxes[name])
        factor = np.sqrt(b[:, 2] * b[:, 3]) / (np.sqrt(96 * 64) / 5)  # of the box over the jittered one
        shift = (b[:, :2] + b[:, 2:] / 2 - (48, 32)) / (np.sqrt(96 * 64) / 5)
        reach = np.abs(shift).max(axis=0)
        assert reach == pytest.approx([rx / 2, ry / 2], rel=0.12)
        assert np.log(factor).std() == pytest.approx(spread / np.sqrt(2), rel=0.15)


def test_affine_maps_the_middle_onto_itself_and_turns_by_its_angle():
    rng = np.random.default_rng(0)
    angles, scales = [], []
    for _ in range(300):
        affine = AffineTransform(15.0, 0.2).draw((97, 65), rng)
        assert affine is not None
        np.testing.assert_allclose(affine.matrix @ (48, 32, 1), (48, 32), atol=1e-9)
        angles.append(np.degrees(np.arctan2(affine.matrix[0, 1], affine.matrix[0, 0])))
        scales.append(affine.scale)
        assert np.linalg.det(affine.matrix[:, :2]) == pytest.approx(affine.scale**2)
    assert 14 < max(angles) <= 15
    assert -15 <= min(angles) < -14
    assert (min(scales), max(scales)) == pytest.approx((np.exp(-0.2), np.exp(0.2)), rel=0.02)
    assert AffineTransform().draw((97, 65), rng) is None


def test_an_enlarged_crop_is_black_and_empty_outside():
    affine = AffineTransform(0.0, 0.2).draw((96, 64), np.random.default_rng(3))
    assert affine is not None
    white, full = np.full((64, 96, 3), 255, np.uint8), np.ones((64, 96), np.uint8)
    edge = affine.mask(full)[0].max(), affine.image(white)[0].max()
    assert edge == ((0, 0) if affine.scale < 0.97 else (1, 255))


# --- a batch -----------------------------------------------------------------------------------------------------------------


def a_batch(config=SMALL, count: int = 2):
    process, rng = MaskProcessing(config), np.random.default_rng(0)
    return collate_masks([process(group([(70, 50, 40, 30)] * 4), rng) for _ in range(count)])


def test_batch_shapes_and_units():
    batch = pickle.loads(pickle.dumps(a_batch()))
    assert batch.train_images.shape == (1, 2, 3, 64, 96)
    assert batch.test_masks.dtype == torch.uint8
    floats = batch.to("cpu")
    assert floats.test_images.shape == (3, 2, 3, 64, 96)
    assert floats.test_masks.shape == (3, 2, 64, 96)
    assert floats.train_boxes.shape == (1, 2, 4)
    assert set(floats.test_masks.unique().tolist()) == {0.0, 1.0}
    assert len(floats) == 2
    assert floats.as_floats() is floats


@pytest.mark.parametrize("pixels", ["bgr", "rgb", "imagenet"])
def test_pixels_in_the_units_of_the_network(pixels):
    batch = a_batch(replace(PLAIN, pixels=pixels))
    rgb = batch.train_images.float()
    floats = batch.as_floats().train_images
    if pixels == "imagenet":
        assert floats.max() == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)
    else:
        assert torch.allclose(floats, normalise_bgr(rgb) if pixels == "bgr" else rgb, atol=1e-4)


def test_brightness_is_cut_at_white_before_the_mean_is_taken_off():
    floats = a_batch(replace(PLAIN, brightness_jitter=0.2), count=8).as_floats()
    top = floats.train_images.amax(dim=(0, 3, 4)) + torch.tensor((102.9801, 115.9465, 122.7717))  # (B, 3)
    assert top.max() <= 255.001
    assert top.min() > 255 * 0.8 - 0.01
    assert top[:, 0].unique().numel() > 2


@pytest.mark.parametrize("part", ["train", "test"])
def test_brightness_of_every_crop_is_its_own(part):
    batch = a_batch(replace(PLAIN, brightness_jitter=0.2, pixels="rgb"), count=8)
    images = getattr(batch.as_floats(), f"{part}_images")
    top = images.amax(dim=(2, 3, 4)).flatten()  # white times a factor, cut at white
    assert top.max() == pytest.approx(255)
    assert 255 * 0.8 - 0.01 <= top.min() < 255 * 0.95
    dimmed = top[top < 254.9].round(decimals=3)
    assert len(dimmed.unique()) == len(dimmed) >= (2 if part == "train" else 6)


def test_labels_peak_where_the_masks_are():
    """Train and test frames of a sample lie elsewhere, and labels are made of their own boxes."""
    wide = replace(PLAIN, output_size=(288, 192), search_factor=4.0, label_sigma_factor=0.1, crop_mode="replicate")
    config = replace(wide, centre_jitter_train=(1.5, 1.0), centre_jitter_test=(1.5, 1.0))
    rng = np.random.default_rng(1)
    samples = [MaskProcessing(config)(group([(70, 50, 40, 30)] * 4), rng) for _ in range(3)]
    batch = collate_masks(samples)
    for name in ("train", "test"):
        masks, boxes, labels = (getattr(batch, f"{name}_{kind}") for kind in ("masks", "boxes", "label"))
        own = np.stack([getattr(s, name).boxes for s in samples], axis=1)
        np.testing.assert_allclose(boxes.numpy(), own, rtol=1e-6)
        assert torch.equal(labels, gaussian_labels(boxes, config.grid, 0.1))
        for mask, label in zip(masks.flatten(0, 1), labels.flatten(0, 1), strict=True):
            middle = mask.nonzero().float().mean(dim=0) + 0.5  # (row, column)
            best = torch.tensor(divmod(int(label.argmax()), label.shape[1]))
            assert (32 * best - middle).abs().max() <= 16 + 2, "cell k lies at pixel 32 k"


def test_labels_are_those_of_the_specification():
    """§8: box (400, 200, 60, 80) -> 16 x 27 cells, two equal maxima 0.7974 in rows 7 and 8 of column 13."""
    config = MaskProcessingConfig(label_sigma_factor=0.25 / 5)
    label = gaussian_labels(torch.tensor([400.0, 200.0, 60.0, 80.0]), config.grid, 0.25 / 5)
    assert label.shape == (16, 27)
    assert label.max().item() == pytest.approx(0.7974, abs=5e-5)
    assert sorted(map(tuple, (label == label.max()).nonzero().tolist())) == [(7, 13), (8, 13)]
    batch = a_batch(replace(SMALL, label_sigma_factor=0.1))
    assert batch.train_label.shape == (1, 2, 3, 4)
    assert batch.test_label.shape == (3, 2, 3, 4)


def test_validation_keeps_joint_rolls_alone():
    c = SMALL.validation()
    assert (c.rotation, c.scale, c.brightness_jitter) == (0, 0, 0)
    assert (c.flip_probability, c.grey_probability, c.centre_jitter_test) == (0.5, 0.05, (5.5, 4.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "outside"}, "crop_mode 'outside' is unknown"),
        ({"pixels": "hsv"}, "pixels 'hsv' is unknown"),
        ({"output_size": (8, 64)}, "at least 16"),
        ({"flip_probability": 1.5}, "flip_probability is 1.5"),
        ({"max_scale_change": 0.5}, "max_scale_change is 0.5"),
        ({"label_sigma_factor": 0.05, "output_size": (100, 64)}, "no multiple of 32"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)


def test_groups_without_masks_are_refused():
    with pytest.raises(InputError, match="has no masks; draw it with MaskSampler"):
        MaskProcessing(SMALL)(replace(group([(70, 50, 40, 30)] * 4), train_masks=None), np.random.default_rng(0))
    with pytest.raises(InputError, match="no samples"):
        collate_masks([])


def test_procedural_videos_have_exact_masks():
    """The visible target of a synthetic video lies in its box, also after cropping, turning and mirroring."""
    sampler = MaskSampler([open_training_set("composite:procedural")])
    process, rng, shares = (
        MaskProcessing(replace(SMALL, output_size=(160, 96), search_factor=3.0)),
        np.random.default_rng(1),
        [],
    )
    for _ in range(3):
        sample = process(sampler.draw(rng), rng)
        for mask, (x, y, w, h) in zip(sample.test.masks, sample.test.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            reach = 0.15 * (w + h) + 2  # a turned box is larger than its sides
            inside = (columns > x - reach) & (columns < x + w + reach) & (rows > y - reach) & (rows < y + h + reach)
            shares.append(inside.mean() if len(rows) else 1.0)
    assert min(shares) > 0.97
