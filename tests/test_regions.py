"""Regions: text forms, run lengths, boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keepsight.errors import InputError
from keepsight.regions import (
    Code,
    Mask,
    Polygon,
    Rectangle,
    Special,
    crop_mask,
    decode_runs,
    encode_runs,
    format_region,
    parse_region,
    polygon_to_box,
    region_to_box,
)

coordinates = st.floats(-1e6, 1e6)
bitmaps = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(st.lists(coordinates, min_size=4, max_size=4))
def test_rectangles_survive_text(numbers):
    region = parse_region(format_region(Rectangle(*numbers)))
    assert region == Rectangle(*numbers)


@given(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8))
def test_polygons_survive_text(points):
    region = parse_region(format_region(Polygon(np.array(points))))
    assert isinstance(region, Polygon)
    assert np.array_equal(region.points, points)


@given(bitmaps, st.integers(-50, 50), st.integers(-50, 50))
def test_masks_keep_their_pixels_in_text(pixels, x, y):
    region = parse_region(format_region(Mask(x, y, pixels)))
    assert isinstance(region, Mask)
    canvas = np.zeros((140, 140), dtype=bool)
    copy = canvas.copy()
    canvas[y + 60 : y + 60 + pixels.shape[0], x + 60 : x + 60 + pixels.shape[1]] = pixels
    copy[
        region.y + 60 : region.y + 60 + region.pixels.shape[0], region.x + 60 : region.x + 60 + region.pixels.shape[1]
    ] = region.pixels
    assert np.array_equal(canvas, copy)
    if pixels.any():  # cut to its pixels
        assert region.pixels[0].any()
        assert region.pixels[-1].any()
        assert region.pixels[:, 0].any()
        assert region.pixels[:, -1].any()
    else:
        assert region.pixels.size == 0


@given(bitmaps)
def test_runs_survive(pixels):
    runs = encode_runs(pixels)
    assert sum(runs) == pixels.size
    assert all(run > 0 for run in runs[1:])
    height, width = pixels.shape
    assert np.array_equal(decode_runs(runs, width, height), pixels)


def test_runs_by_hand():
    pixels = np.array([[0, 0, 1], [1, 0, 0]], dtype=bool)
    assert encode_runs(pixels) == [2, 2, 2]
    assert encode_runs(~pixels) == [0, 2, 2, 2]
    assert format_region(Mask(3, 4, ~pixels)) == "m3,4,3,2,0,2,2,2"


@pytest.mark.parametrize("separator", [",", " ", "\t", ";", ", "])
def test_separators(separator):
    assert parse_region(separator.join(["1", "2", "3.5", "4"]) + "\r\n") == Rectangle(1, 2, 3.5, 4)


@pytest.mark.parametrize("text", ["nan,nan,nan,nan", "NaN NaN NaN NaN", "NaN", "0", "1,2,nan,4", "0.0000"])
def test_unknown(text):
    assert parse_region(text) == Special(Code.UNKNOWN)


def test_codes():
    assert [parse_region(t).code for t in ("0", "1", "2", "1.0000")] == [0, 1, 2, 1]
    assert format_region(Special(Code.FAILURE)) == "2"


def test_digits():
    assert format_region(Rectangle(1, 2.25, 3, 4.123456), digits=3) == "1.000,2.250,3.000,4.123"
    assert format_region(Rectangle(1, 0.1, 3, 1 / 3)) == "1.0,0.1,3.0,0.3333333333333333"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no region"),
        ("lost", "'lost'"),
        ("1,2,3", "has 3 numbers"),
        ("1,2,3,4,5", "has 5 numbers"),
        ("1,2,3,inf", "infinite"),
        ("1.5", "no code"),
        ("-1", "no code"),
        ("m1,2,3", "has 3 numbers"),
        ("m0,0,2,2,a", "integer"),
        ("m0,0,3,2,1,2", "cover 3 pixels of 3 x 2"),
        ("m0,0,3,2,1,9", "cover 10 pixels"),
        ("m0,0,3,2,7,-1", "cover"),
        ("m0,0,-3,-2,6", "-3 x -2"),
        ("m0,0,999999,999999,999998000001", "2^28"),
        ("m0,0,4,4,9223372036854775807,9223372036854775807,18", "cover"),
        ("m0,0,4,4,1000000000000000000000", "cover"),
    ],
)
def test_what_is_no_region(text, said):
    with pytest.raises(InputError, match=said.replace("^", r"\^")):
        parse_region(text)


@given(st.text(max_size=30))
def test_any_text_is_a_region_or_a_named_error(text):
    try:
        region = parse_region(text)
    except InputError:
        return
    assert isinstance(region, (Special, Rectangle, Polygon, Mask))


# --- boxes --------------------------------------------------------------------------------------------------------------


def test_area_box_of_an_upright_rectangle():
    """Nothing to scale: the same centre, one pixel more."""
    assert polygon_to_box([10, 20, 30, 20, 30, 60, 10, 60]).tolist() == [9.5, 19.5, 21, 41]
    assert polygon_to_box([10, 20, 30, 20, 30, 60, 10, 60], "union").tolist() == [10, 20, 20, 40]


def test_area_box_of_a_rhombus():
    """A square on its tip: half the bounding box's area, so sides shrink by sqrt(1/2)."""
    x, y, w, h = polygon_to_box([0, 10, 10, 0, 20, 10, 10, 20])
    assert w == h == pytest.approx(20 * math.sqrt(0.5) + 1)
    assert (x + w / 2, y + h / 2) == pytest.approx((10, 10))
    assert (w - 1) * (h - 1) == pytest.approx(200)


@given(
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.floats(1, 100),
    st.floats(1, 100),
    st.floats(0, 2 * math.pi),
)
def test_area_box_keeps_the_area_of_rotated_rectangles(x, y, w, h, angle):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 @ turn.T + [x, y]
    box = polygon_to_box(corners.ravel())
    assert (box[2] - 1) * (box[3] - 1) == pytest.approx(w * h, rel=1e-9)
    assert box[:2] + box[2:] / 2 == pytest.approx([x, y], abs=1e-9)


def test_many_polygons_at_once():
    polygons = np.random.default_rng(0).uniform(0, 100, (5, 8))
    polygons[3] = np.nan
    for how in ("area", "union"):
        boxes = polygon_to_box(polygons, how)
        assert boxes.shape == (5, 4)
        for polygon, box in zip(polygons, boxes, strict=True):
            np.testing.assert_array_equal(polygon_to_box(polygon, how), box)
        assert np.isnan(boxes[3]).all()


def test_polygons_without_area_keep_their_extent():
    assert polygon_to_box([0, 5, 10, 5, 10, 5, 0, 5]).tolist() == [-0.5, 4.5, 11, 1]


@pytest.mark.parametrize("points", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], 3.0])
def test_no_polygons(points):
    with pytest.raises(InputError, match="three corners"):
        polygon_to_box(points)


def test_unknown_box_rule():
    with pytest.raises(InputError, match="'area' or 'union'"):
        polygon_to_box([0, 0, 1, 0, 1, 1], "tight")


def test_boxes_of_regions():
    assert region_to_box(Rectangle(1, 2, 3, 4)) == (1, 2, 3, 4)
    assert region_to_box(Polygon(np.array([[0, 0], [4, 1], [2, 5]]))) == (0, 0, 4, 5)
    pixels = np.zeros((6, 7), dtype=bool)
    pixels[2:4, 1:6] = True
    assert region_to_box(Mask(10, 20, pixels)) == (11, 22, 5, 2)
    for region in (Special(1), Mask(0, 0, np.zeros((3, 3), dtype=bool))):
        assert all(math.isnan(v) for v in region_to_box(region))


def test_cropping_keeps_what_is_full():
    full = Mask(3, 4, np.ones((2, 5), dtype=bool))
    part = crop_mask(full)
    assert (part.x, part.y, part.pixels.shape) == (3, 4, (2, 5))
