"""Joint and per-image transforms (spec/dimp-atom.md §6.4)."""

from __future__ import annotations

import numpy as np
import pytest

from keepsight.training.transforms import ImageTransform, JointRoll, JointTransform, flip_box, flip_image, to_grey

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def test_grey_has_three_equal_channels_of_the_luma() -> None:
    grey = to_grey(IMAGE)
    assert grey.shape == IMAGE.shape
    assert (grey == grey[..., :1]).all()
    luma = IMAGE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 1


def test_flipped_box_surrounds_the_flipped_pixels() -> None:
    box = np.array([[3.0, 2.0, 4.0, 5.0], [0.0, 0.0, 20.0, 12.0]])
    exact = flip_box(box, 20, exact=True)
    assert exact.tolist() == [[13, 2, 4, 5], [0, 0, 20, 12]]
    x, y, w, h = box[0].astype(int)
    fx = int(exact[0, 0])
    assert (flip_image(IMAGE)[y : y + h, fx : fx + w] == IMAGE[y : y + h, x : x + w][:, ::-1]).all()
    assert (flip_box(box, 20) == exact - [1, 0, 0, 0]).all(), "quirk Q6: one pixel too far left"
    assert (flip_box(flip_box(box, 20), 20) == box).all()
    assert box[0, 0] == 3, "the given boxes stay as they are"


def test_joint_roll_treats_image_mask_and_box_alike() -> None:
    mask = np.arange(240).reshape(12, 20) % 7 == 0
    roll = JointRoll(grey=True, flip=True, exact_flip=True)
    assert (roll.image(IMAGE) == to_grey(IMAGE)[:, ::-1]).all()
    assert (roll.mask(mask) == mask[:, ::-1]).all()
    assert roll.box(np.array([3.0, 2, 4, 5]), 20).tolist() == [13, 2, 4, 5]
    nothing = JointRoll()
    assert nothing.image(IMAGE) is IMAGE
    assert nothing.mask(mask) is mask


def test_joint_chances() -> None:
    rng = np.random.default_rng(0)
    rolls = [JointTransform(0.05, 0.5).draw(rng) for _ in range(4000)]
    assert np.mean([r.grey for r in rolls]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([r.flip for r in rolls]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([r.flip for r in rolls if r.grey]) == pytest.approx(0.5, abs=0.12), "independent"
    never = [JointTransform(0, 0).draw(rng) for _ in range(100)]
    assert not any(r.grey or r.flip for r in never)


def test_image_chances() -> None:
    rolls = ImageTransform(0.2, 0.5).draw(4000, np.random.default_rng(0))
    assert rolls.gain.dtype == np.float32
    assert rolls.gain.min() == pytest.approx(0.8, abs=0.002)
    assert rolls.gain.max() == pytest.approx(1.2, abs=0.002)
    assert rolls.gain.mean() == pytest.approx(1, abs=0.01)
    assert rolls.flip.mean() == pytest.approx(0.5, abs=0.03)
    off = ImageTransform(0, 0).draw(50, np.random.default_rng(0))
    assert (off.gain == 1).all()
    assert not off.flip.any()
