"""Masks between frames: what is accepted, where a target is by its mask, in and out of crops, several targets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from keepsight.boxes import Box, state_to_box
from keepsight.errors import InputError
from keepsight.images import CropConfig, sample_patch
from keepsight.online.masks import OUTSIDE, box_slices, check_mask, ellipse, merge, paste, spread, tight_box
from keepsight.online.search import View, pulled_inside


def rectangle(x: int, y: int, w: int, h: int, height: int = 300, width: int = 400) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[y : y + h, x : x + w] = True
    return mask


# --- what is accepted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.uint16])
def test_masks_of_bool_and_integers(dtype):
    mask = rectangle(3, 2, 5, 4, 10, 12)
    got = check_mask((mask * 7).astype(dtype), 10, 12)
    assert got.dtype == bool
    assert np.array_equal(got, mask)
    assert np.array_equal(check_mask(torch.from_numpy(mask), 10, 12), mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((10, 12), bool), "empty"),
        (np.ones((12, 10), bool), r"\(12, 10\); expected \(10, 12\)"),
        (np.ones((10, 12, 1), np.uint8), "shape"),
        (np.ones((10, 12)), "float64.*probability > 0.5"),
        ([[1, 0]], "list"),
        ("mask.png", "str"),
    ],
)
def test_masks_that_cannot_be_used(mask, message):
    with pytest.raises(InputError, match=message):
        check_mask(mask, 10, 12)


# --- places -------------------------------------------------------------------------------------------------------------


def test_tight_box_holds_the_last_pixel():
    assert tight_box(rectangle(7, 5, 3, 2)) == (7, 5, 3, 2)
    assert tight_box(rectangle(0, 0, 1, 1)) == (0, 0, 1, 1), "not the published word for an empty mask (Q14)"
    assert tight_box(rectangle(0, 0, 0, 0)) is None


def test_spread_of_a_rectangle():
    """The spec's example, §6.4: four deviations of a rectangle are 4/√12 of its sides."""
    state = spread(torch.from_numpy(rectangle(150, 100, 80, 60)).float())
    assert state is not None
    assert np.allclose(state_to_box(*state), (143.8, 95.4, 92.4, 69.3), atol=0.05)


@given(st.integers(0, 380), st.integers(0, 280), st.integers(2, 19), st.integers(2, 19), st.floats(0.01, 100))
def test_spread_knows_no_units(x, y, w, h, factor):
    mask = torch.from_numpy(rectangle(x, y, w, h)).double()
    (row, col), (high, wide) = spread(factor * mask)
    assert row == pytest.approx(y + (h - 1) / 2)
    assert col == pytest.approx(x + (w - 1) / 2)
    assert high == pytest.approx(4 * math.sqrt((h * h - 1) / 12))
    assert wide == pytest.approx(4 * math.sqrt((w * w - 1) / 12))


def test_maps_that_are_no_distribution():
    one = torch.from_numpy(rectangle(9, 9, 1, 1)).float()
    line = torch.from_numpy(rectangle(9, 9, 5, 1)).float()
    ring = torch.from_numpy(rectangle(100, 100, 9, 9)).float() - 0.99 * torch.from_numpy(rectangle(0, 0, 30, 1)).float()
    for probability in (torch.zeros(30, 40), -one, one, line, ring, one * math.nan):
        assert spread(probability) is None


@given(st.floats(-50, 380), st.floats(-50, 280), st.floats(0.1, 500), st.floats(0.1, 500))
def test_ellipse_lies_in_its_box_and_has_a_pixel(x, y, w, h):
    box = Box(x, y, w, h)
    mask = ellipse(box, 300, 400)
    assert mask.any()
    if mask.sum() > 1:
        got = tight_box(mask)
        assert got.x >= x - 0.5
        assert got.y >= y - 0.5
        assert got.x + got.w <= x + w + 0.5
        assert got.y + got.h <= y + h + 0.5


def test_area_of_the_ellipse():
    assert ellipse(Box(50, 60, 120, 80), 300, 400).sum() == pytest.approx(math.pi / 4 * 120 * 80, rel=0.005)


# --- crops --------------------------------------------------------------------------------------------------------------


def test_crops_of_masks_are_nearest_and_zero_outside():
    soft = torch.rand(1, 1, 40, 40) + 1
    patch = sample_patch(soft, (2.0, 2.0), (20.0, 20.0), (31, 31), CropConfig("replicate"), mask=True).pixels
    values = set(patch.unique().tolist())
    assert values <= {0.0, *soft.unique().tolist()}
    assert 0.0 in values


@pytest.mark.parametrize("scale", [0.31, 0.5, 1.0, 1.37, 2.2])
@pytest.mark.parametrize("position", [(60.0, 80.0), (3.2, 150.9), (115.0, -2.0)])
def test_paste_undoes_the_crop(scale, position):
    """A smooth picture, cut and put back, is itself where the crop was, and nowhere else."""
    rows, cols = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    picture = 0.05 * rows + 0.03 * cols + 1
    size = (48, 64)
    patch = sample_patch(
        picture[None, None], position, [s * scale for s in size], size, CropConfig("replicate"), dtype=torch.float32
    )
    whole = paste(patch.pixels[0, 0], patch.position, patch.scale, (120, 160))
    inside = whole != OUTSIDE
    top, left, bottom, right = (round(v) for v in patch.coordinates)
    box = tight_box(inside.numpy())
    assert box is not None
    assert abs(box.y - max(top, 0)) <= 2
    assert abs(box.x - max(left, 0)) <= 2
    assert abs(box.y + box.h - min(bottom, 120)) <= 2
    assert abs(box.x + box.w - min(right, 160)) <= 2
    away = torch.zeros_like(inside)
    away[int(box.y) + 3 : int(box.y + box.h) - 3, int(box.x) + 3 : int(box.x + box.w) - 3] = True
    error = (whole - picture)[inside & away & (rows > 3) & (cols > 3) & (rows < 116) & (cols < 156)]
    if len(error):
        assert error.abs().max() < 0.15  # less than a pixel and a half of either slope


def test_paste_of_what_has_no_pixel_in_the_frame():
    logits = torch.ones(16, 32)
    for position, scale in (((-90.0, 20.0), 1.0), ((20.0, 900.0), 2.0), ((20.0, 20.0), 1e-3)):
        assert (paste(logits, position, scale, (50, 60)) == OUTSIDE).all()


@pytest.mark.parametrize("scale", [3.7, 0.9, 12.25])
def test_paste_of_a_crop_far_larger_than_the_frame(scale):
    """Only what lies in the frame is made, and it is what resizing the whole crop would give."""
    logits = torch.rand(40, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    position, frame = (17.3 * scale, 30.1 * scale), (9, 11)
    middle = position[0] - 17.3 * scale + 5, position[1] - 30.1 * scale + 6  # the crop's centre is near the frame's
    whole = F.interpolate(logits[None, None], scale_factor=scale, mode="bilinear", recompute_scale_factor=False)[0, 0]
    first = [math.trunc(p - n / 2) for p, n in zip(middle, whole.shape, strict=True)]
    want = whole[-first[0] : -first[0] + 9, -first[1] : -first[1] + 11]
    torch.testing.assert_close(paste(logits, middle, scale, frame), want, rtol=1e-9, atol=1e-12)


def test_paste_of_an_enormous_crop_takes_little_memory():
    assert (paste(torch.ones(48, 80), (100.0, 100.0), 1e5, (200, 200)) == 1).all()


def test_box_slices_touch_every_pixel():
    assert box_slices((1.5, 2.0, 3.0, 0.2)) == (slice(2, 3), slice(1, 5))
    assert box_slices((-3, -3, 4, 5)) == (slice(0, 2), slice(0, 1))


def test_first_crop_is_pulled_inside():
    # in the middle nothing moves; at the corner the crop's corner lies in the frame's
    assert pulled_inside((150.0, 200.0), 0.5, (100, 200), (300, 400)) == (0.5, (0, 0))
    scale, (rows, cols) = pulled_inside((10.0, 390.0), 0.5, (100, 200), (300, 400))
    assert scale == 0.5
    assert rows == math.trunc(-(49 / 2 - 10) / 0.5)  # the content goes up
    assert cols == math.trunc((390 + 50 + 1 - 400) / 0.5)
    # larger than the frame on both axes: shrunk until it fits on one
    scale, _ = pulled_inside((150.0, 200.0), 8.0, (100, 200), (300, 400))
    assert scale == pytest.approx(3.0)
    assert pulled_inside((150.0, 200.0), 3.5, (100, 100), (300, 400))[0] == 3.5  # on one axis only: as it is


def test_views_that_are_not_square():
    view = View((100.0, 200.0), 0.5, 96, 64)
    pos, size = (101.0, 190.0), (10.0, 20.0)
    box = view.to_crop(pos, size)
    assert box == ((190 - 200) / 0.5 + 47.5 - 19.5, (101 - 100) / 0.5 + 31.5 - 9.5, 40.0, 20.0)
    back = view.to_image(box, half_pixel_bias=False)
    assert np.allclose((*back[0], *back[1]), (*pos, *size))
    assert view.point_to_image(31.5, 47.5) == view.pos


# --- several targets ----------------------------------------------------------------------------------------------------


def test_one_target_against_the_background():
    logits = torch.linspace(-6, 6, 30, dtype=torch.float64).view(1, 5, 6)
    maps, owner = merge(logits)
    assert torch.allclose(maps, torch.sigmoid(2 * logits), atol=1e-9)
    assert torch.equal(owner == 0, logits[0] > 0)


def test_several_targets_share_probability_one():
    torch.manual_seed(0)
    logits = 3 * torch.randn(3, 8, 9, dtype=torch.float64)
    maps, owner = merge(logits)
    absent = (1 - torch.sigmoid(logits)).prod(0)
    odds = torch.cat(((absent / (1 - absent)).log()[None], logits)).exp()
    assert torch.allclose(maps, odds[1:] / odds.sum(0), atol=1e-9)
    assert (maps.sum(0) < 1).all()
    assert torch.equal(owner, odds.argmax(0) - 1)


def test_given_masks_that_overlap():
    """The first one has the pixels that both claim; nothing is infinite."""
    a, b = (torch.from_numpy(rectangle(x, 5, 6, 6, 20, 20)) for x in (3, 6))
    maps, owner = merge(torch.where(torch.stack((a, b)), -OUTSIDE, OUTSIDE))
    assert torch.equal(owner == 0, a)
    assert torch.equal(owner == 1, b & ~a)
    assert torch.equal(owner == -1, ~a & ~b)
    assert torch.isfinite(maps).all()
    assert torch.allclose(maps[:, 6, 7], torch.tensor([0.5, 0.5]))
