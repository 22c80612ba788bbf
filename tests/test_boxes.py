"""Round trips and clipping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keepsight.boxes import Box, box_to_state, check_box, clip_box, from_relative, iou, state_to_box, to_relative
from keepsight.errors import InputError
from keepsight.online.search import View

coordinate = st.floats(-500, 500)
extent = st.floats(0.5, 400)
boxes = st.tuples(coordinate, coordinate, extent, extent)


@given(boxes)
def test_state_round_trip(box):
    assert state_to_box(*box_to_state(box)) == pytest.approx(box, abs=1e-9)


@given(boxes, st.floats(1, 100), st.floats(1, 100))
def test_relative_round_trip(box, n_w, n_h):
    b = torch.tensor([box], dtype=torch.float64)
    assert torch.allclose(
        from_relative(to_relative(b, torch.tensor([n_w, n_h])), torch.tensor([n_w, n_h])), b, atol=1e-6
    )
    assert torch.allclose(from_relative(to_relative(b, b[:, 2:]), b[:, 2:]), b, atol=1e-6)


@given(boxes, coordinate, coordinate, st.floats(0.1, 8))
def test_crop_round_trip(box, row, col, scale):
    view = View((row, col), scale, 288)
    pos, size = box_to_state(box)
    there = view.to_crop(pos, size)
    back = view.to_image(there, half_pixel_bias=False)
    assert back[0] == pytest.approx(pos, abs=1e-6)
    assert back[1] == pytest.approx(size, abs=1e-6)
    biased = view.to_image(there, half_pixel_bias=True)  # quirk Q2
    assert biased[0] == pytest.approx((pos[0] + scale / 2, pos[1] + scale / 2), abs=1e-6)


@given(boxes, st.integers(1, 300), st.integers(1, 300))
def test_clipped_boxes_lie_inside(box, height, width):
    x, y, w, h = clip_box(box, height, width)
    assert x >= 0
    assert y >= 0
    assert x + w <= width + 1e-9
    assert y + h <= height + 1e-9
    assert w >= min(1, width) - 1e-9
    assert h >= min(1, height) - 1e-9


def test_clipping_keeps_what_is_inside():
    assert clip_box((10, 20, 30, 40), 100, 100) == (10, 20, 30, 40)
    assert clip_box((-5, 90, 30, 40), 100, 100) == (0, 90, 25, 10)


def test_overlaps():
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]])
    assert torch.allclose(iou(a, b), torch.tensor([1.0, 1 / 3, 0, 0]))


def test_a_good_box_is_returned_as_floats():
    assert check_box([1, 2, 3, 4], 10, 10) == Box(1.0, 2.0, 3.0, 4.0)
    assert isinstance(check_box(torch.tensor([1, 2, 3, 4]), 10, 10).x, float)
    with pytest.raises(InputError, match="10 wide"):
        check_box((10, 0, 5, 5), 10, 10)
