"""Boxes, labels and density pictures: what is drawn where, and that nothing odd makes drawing fail."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.boxes import Box
from keepsight.draw import LOST_COLOUR, PALETTE, TRUTH_COLOUR, density_panels, draw_results
from keepsight.errors import InputError
from keepsight.online.densities import Densities
from keepsight.online.state import Result, Status

GREY = np.full((240, 320, 3), 128, np.uint8)


def result(box: tuple, status: Status = Status.FOUND, presence: float = 0.9, mask: np.ndarray | None = None) -> Result:
    return Result(Box(*box), Box(*box), 0.5, presence, status, "normal", False, "", 1.0, mask)


def has(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool: pixels of exactly this colour."""
    return (image == np.array(colour)).all(-1)


def test_found_box_lies_on_the_rectangle_and_the_input_stays() -> None:
    image = GREY.copy()
    out = draw_results(image, [result((100, 80, 60, 50))])
    assert (image == 128).all()
    lines = has(out, PALETTE[0])
    assert lines[129, 100:160].all()  # lower side, from first to last pixel of the box
    assert lines[80:130, 100].all()
    assert lines[80:130, 159].all()
    assert not lines[85:125, 105:155].any()
    assert not lines[135:].any()
    assert not lines[:, :96].any()


def test_status_shows_in_style_and_colour() -> None:
    box = (100, 80, 60, 50)
    solid = has(draw_results(GREY, [result(box)]), PALETTE[0])[129, 100:160]
    dashed = has(draw_results(GREY, [result(box, Status.UNCERTAIN)]), PALETTE[0])[129, 100:160]
    lost = draw_results(GREY, [result(box, Status.LOST)])
    assert solid.all()
    assert 0.3 < dashed.mean() < 0.8
    assert dashed[0]
    assert dashed[-1]
    assert 0.3 < has(lost, LOST_COLOUR)[129, 100:160].mean() < 0.8
    assert not has(lost, PALETTE[0]).any()


def test_every_target_has_its_own_colour() -> None:
    boxes = [(20 + 40 * i, 100, 30, 30) for i in range(7)]
    out = draw_results(GREY, [result(b) for b in boxes])
    for box, colour in zip(boxes, PALETTE, strict=True):
        assert has(out, colour)[129, box[0] : box[0] + 30].all()
    out = draw_results(GREY, [result(boxes[0]), result(boxes[1])], colours=[(1, 2, 3)])
    assert has(out, (1, 2, 3))[129, 60:90].all()


def test_labels_stay_inside_and_apart() -> None:
    """The box in each corner, and two at one place: every label is drawn whole."""
    label = draw_results(GREY, [result((100, 100, 40, 40))])[:97]  # above the box
    rows, cols = np.nonzero(has(label, PALETTE[0]))
    label = label[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    assert label.shape[1] > 50
    for place in ((-20, -20), (300, -20), (-20, 220), (300, 220)):
        out = draw_results(GREY, [result((*place, 40, 40))])
        assert cv2.matchTemplate(out, label, cv2.TM_SQDIFF).min() < 100  # the same up to rounding
    two = draw_results(GREY, [result((100, 100, 40, 40)), result((100, 100, 40, 40))])
    blocks = [has(two, PALETTE[i]).sum() for i in range(2)]
    assert min(blocks) > 500


def test_line_and_letters_grow_with_the_frame() -> None:
    small = has(draw_results(GREY, [result((100, 80, 60, 50))]), PALETTE[0])
    big = has(draw_results(np.full((2160, 3840, 3), 128, np.uint8), [result((1000, 800, 600, 500))]), PALETTE[0])
    assert big[1295:1310, 1300].sum() + big[1285:1295, 1300].sum() > 2 * small[120:140, 130].sum()
    assert big[:795].sum() > 10 * small[:78].sum()


def test_truth_is_drawn_where_there_is_one() -> None:
    out = draw_results(GREY, [], truths=[(50, 50, 40, 40), None, (math.nan,) * 4])
    assert has(out, TRUTH_COLOUR)[89, 50:90].all()
    assert has(out, TRUTH_COLOUR).sum() == 4 * 39
    assert (draw_results(GREY, []) == GREY).all()


def test_mask_is_tinted() -> None:
    mask = np.zeros((240, 320), bool)
    mask[100:110, 100:110] = True
    out = draw_results(GREY, [result((90, 90, 60, 60), mask=mask)])
    assert (out[105, 105] != 128).any()
    assert (out[120, 120] == 128).all()


def test_wrong_input() -> None:
    for image in (GREY[..., 0], GREY.astype(float), None):
        with pytest.raises(InputError, match="uint8"):
            draw_results(image, [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 labels for 1"):
        draw_results(GREY, [result((1, 1, 5, 5))], labels=["a", "b"])


coordinate = st.one_of(st.floats(-1e9, 1e9), st.floats(-50, 350), st.just(math.nan), st.just(math.inf))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    box=st.tuples(coordinate, coordinate, coordinate, coordinate),
    status=st.sampled_from(list(Status)),
)
def test_any_box_on_any_frame(size: tuple[int, int], box: tuple, status: Status) -> None:
    out = draw_results(np.zeros((*size, 3), np.uint8), [result(box, status)] * 2, truths=[box])
    assert out.shape == (*size, 3)
    assert out.dtype == np.uint8


def densities(n: int = 33, at: tuple[int, int] = (16, 16), region: tuple = (110, 70, 96, 96)) -> Densities:
    """All three maps have their whole mass in one cell, ``at`` (row, column) of position and size."""
    maps = []
    for shape, cell in (((24, 24), (6, 18)), ((n, n), at), ((n, n), at)):
        density = np.zeros(shape)
        density[cell] = 1.0
        maps.append(density)
    offsets = np.linspace(-1, 1, n)
    box = Box(130, 80, 40, 50)
    return Densities(maps[0], Box(*region), maps[1], offsets, maps[2], np.exp(offsets * np.log(3)), box)


def test_centre_density_lies_over_the_right_place() -> None:
    """Cell (6, 18) of 24 × 24 over 96 × 96 pixels from (110, 70): its centre is the image point (184, 96)."""
    out = density_panels(GREY, densities(), height=240)  # the frame panel is drawn at scale 1
    plain = density_panels(GREY, densities(region=(1e5, 1e5, 96, 96)), height=240)
    changed = np.argwhere(np.abs(out.astype(int) - plain).sum(-1) > 150)  # the bright cell, and the region's outline
    top, left = first_panel_corner(plain)
    inner = [(y - top, x - left) for y, x in changed if 80 < y - top < 112 and 168 < x - left < 200]
    assert np.mean(inner, axis=0) == pytest.approx((95.5, 183.5), abs=0.6)


def first_panel_corner(picture: np.ndarray) -> tuple[int, int]:
    """Where the grey frame begins in the picture."""
    rows, cols = np.nonzero(has(picture, (128, 128, 128)))
    rows = rows[cols < picture.shape[1] // 3]
    values, counts = np.unique(rows, return_counts=True)
    top = int(values[counts > 200].min())
    return top, int(np.nonzero(has(picture, (128, 128, 128))[top])[0].min())


def test_maps_have_rows_and_columns_the_right_way() -> None:
    """Mass at row 8, column 24: up and to the right in the map of centres, below and to the right in that of sizes."""
    height = 330
    base, moved = (
        density_panels(GREY, densities(), height=height),
        density_panels(GREY, densities(at=(8, 24)), height=height),
    )
    gained = np.argwhere((moved.max(-1) > 230) & (base.max(-1) < 60))
    middle = gained[(gained[:, 1] > 480) & (gained[:, 1] < 880)].mean(0)
    right = gained[gained[:, 1] >= 880].mean(0)
    lost = np.argwhere((base.max(-1) > 230) & (moved.max(-1) < 60))
    middle_before = lost[(lost[:, 1] > 480) & (lost[:, 1] < 880)].mean(0)
    right_before = lost[lost[:, 1] >= 880].mean(0)
    assert middle - middle_before == pytest.approx((-80, 80), abs=6)  # 8 cells of 10 pixels
    assert right - right_before == pytest.approx((80, 80), abs=6)


def test_density_panels_of_odd_sizes() -> None:
    for shape, height in (((1, 1), 64), ((2000, 30), 100), ((30, 900), 64)):
        out = density_panels(np.zeros((*shape, 3), np.uint8), densities(), height=height)
        assert out.dtype == np.uint8
        assert out.shape[0] > height
        assert out.flags.c_contiguous
    flat = densities()
    flat.centre[:] = 0
    density_panels(GREY, flat)
    with pytest.raises(InputError, match="at least 64"):
        density_panels(GREY, densities(), height=10)
