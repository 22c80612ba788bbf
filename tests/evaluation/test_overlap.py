"""Region overlap: against a painter that draws pixel by pixel, and against what must hold for any overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.errors import InputError
from keepsight.evaluation import overlap as module
from keepsight.evaluation.overlap import image_bounds, region_overlap, region_overlaps
from keepsight.evaluation.polygons import intersection_area
from keepsight.regions import Code, Mask, Polygon, Rectangle, Region, Special

SIZE = (60, 40)
VARIANTS = ("pysot", "vot", "matlab", "got10k")

near_image = st.floats(-15, 75, width=32)
sizes = st.floats(0, 40, width=32)
rectangles = st.builds(Rectangle, near_image, near_image, sizes, sizes)
polygons = st.lists(st.tuples(near_image, near_image), min_size=3, max_size=7).map(lambda p: Polygon(np.array(p)))
quads = st.lists(st.tuples(near_image, near_image), min_size=4, max_size=4).map(lambda p: Polygon(np.array(p)))
shapes = st.one_of(rectangles, polygons, quads)


# --- a slow painter of the rule "rounded corners, inclusive runs, equal crossings passed over" -----------------------------


def painted_pysot(a: Region, b: Region, bounds: tuple[float, float]) -> float:
    corners = [_rounded(r) for r in (a, b)]
    outer = [_outer(r) for r in (a, b)]
    low = np.maximum(np.minimum(outer[0][0], outer[1][0]), 0)
    high = np.minimum(np.maximum(outer[0][1], outer[1][1]), bounds)
    if (high < low).any():
        return 0.0
    width, height = (high - low + 1).astype(int)
    one, two = (_paint(c - low, width, height) for c in corners)
    if not (one | two).any():
        return math.nan
    if (np.maximum(outer[0][0], outer[1][0]) >= np.minimum(outer[0][1], outer[1][1])).any():
        return 0.0
    return float(np.float32((one & two).sum()) / np.float32((one | two).sum()))


def _points(region: Region) -> np.ndarray:
    if isinstance(region, Polygon):
        return region.points.astype(np.float32)
    x, y, w, h = np.float32([region.x, region.y, region.w, region.h])
    return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], dtype=np.float32)


def _rounded(region: Region) -> np.ndarray:
    points = _points(region).astype(float)
    return np.sign(points) * np.floor(np.abs(points) + 0.5)


def _outer(region: Region) -> tuple[np.ndarray, np.ndarray]:
    points = _points(region).astype(float)
    return np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))


def _paint(points: np.ndarray, width: int, height: int) -> np.ndarray:
    picture = np.zeros((height, width), dtype=bool)
    for row in range(height):
        crossings = []
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, 1, axis=0), strict=True):
            if y0 != y1 and min(y0, y1) <= row <= max(y0, y1):
                crossings.append(math.trunc(x0 + (row - y0) / (y1 - y0) * (x1 - x0)))
        crossings.sort()
        k = 0
        while k + 1 < len(crossings):
            if crossings[k] == crossings[k + 1]:
                k += 1
                continue
            picture[row, max(crossings[k], 0) : max(crossings[k + 1] + 1, 0)] = True
            k += 2
    return picture


@given(shapes, shapes)
@settings(max_examples=200)
def test_pysot_against_the_painter(a, b):
    got, want = region_overlap_in(a, b, SIZE, "pysot"), painted_pysot(a, b, SIZE)
    assert got == want or (math.isnan(got) and math.isnan(want))


def region_overlap_in(a, b, bounds, variant):
    return float(region_overlaps([a], [b], bounds, variant)[0])


# --- what holds for all -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(shapes, shapes), min_size=1, max_size=6), st.sampled_from(["pysot", "vot", "matlab"]))
def test_many_pairs_are_many_single_pairs(pairs, variant):
    """Polygons of different numbers of corners in one call, and calls that are cut into parts."""
    a, b = (list(x) for x in zip(*pairs, strict=True))
    single = [region_overlap(p, q, SIZE, variant) for p, q in pairs]
    np.testing.assert_array_equal(region_overlaps(a, b, image_bounds(SIZE, variant), variant), single)


def test_parts_do_not_show(monkeypatch):
    rng = np.random.default_rng(3)
    a = [Polygon(rng.uniform(0, 60, (4, 2))) for _ in range(40)]
    b = [Polygon(p.points + rng.normal(0, 3, (4, 2))) for p in a]
    whole = region_overlaps(a, b, SIZE, "pysot")
    assert (whole > 0.1).sum() > 20
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)
    np.testing.assert_array_equal(region_overlaps(a, b, SIZE, "pysot"), whole)


@given(rectangles, rectangles, st.sampled_from(VARIANTS))
def test_overlaps_of_rectangles_are_symmetric_shares(a, b, variant):
    one, two = region_overlap(a, b, SIZE, variant), region_overlap(b, a, SIZE, variant)
    assert one == pytest.approx(two, abs=1e-12, nan_ok=True)
    assert math.isnan(one) or 0 <= one <= 1


@given(st.integers(0, 40), st.integers(0, 30), st.integers(3, 15), st.integers(3, 8), st.sampled_from(VARIANTS))
def test_a_rectangle_inside_the_image_overlaps_itself(x, y, w, h, variant):
    region = Rectangle(x, y, w, h)
    assert region_overlap(region, region, SIZE, variant) == pytest.approx(1, abs=1e-12)


@given(
    st.integers(0, 30), st.integers(0, 20), st.integers(2, 20), st.integers(2, 18), st.integers(0, 9), st.integers(0, 9)
)
def test_whole_pixels_by_hand(x, y, w, h, dx, dy):
    """vot-toolkit's rectangles of whole numbers are w x h pixels; pysot's have one more each way."""
    a, b = Rectangle(x, y, w, h), Rectangle(x + dx, y + dy, w, h)
    inter = max(w - dx, 0) * max(h - dy, 0)
    assert region_overlap(a, b, None, "vot") == inter / (2 * w * h - inter)
    if dx < w and dy < h:
        inter = (w + 1 - dx) * (h + 1 - dy)
        want = np.float32(inter) / np.float32(2 * (w + 1) * (h + 1) - inter)
        assert region_overlap(a, b, None, "pysot") == want


@given(quads, quads)
def test_areas_against_shapely(a, b):
    shapely = pytest.importorskip("shapely.geometry")
    one, two = shapely.Polygon(a.points), shapely.Polygon(b.points)
    if one.is_valid and two.is_valid and one.area > 1e-3 and two.area > 1e-3:
        got = intersection_area([tuple(p) for p in a.points], [tuple(p) for p in b.points])
        assert got == pytest.approx(one.intersection(two).area, abs=1e-9)


def test_masks_are_pixels():
    pixels = np.zeros((12, 20), dtype=bool)
    pixels[2:9, 3:15] = True  # 7 x 12 pixels
    mask = Mask(5, 6, pixels)
    assert region_overlap(mask, mask, SIZE, "vot") == 1
    assert region_overlap(mask, Mask(8, 8, np.ones((7, 12), dtype=bool)), SIZE, "vot") == 1  # the same, stored closer
    assert region_overlap(mask, Rectangle(8, 8, 12, 7), SIZE, "vot") == 1
    assert region_overlap(Rectangle(8, 8, 6, 7), mask, SIZE, "vot") == 0.5
    corners = np.array([[8, 8], [19, 8], [19, 14], [8, 14]])
    assert region_overlap(Polygon(corners), mask, SIZE, "vot") == 1
    assert region_overlap(mask, Rectangle(30, 30, 5, 5), SIZE, "vot") == 0
    outside = Mask(55, 6, pixels)
    assert region_overlap(outside, Mask(58, 8, np.ones((7, 2), dtype=bool)), SIZE, "vot") == 1  # beyond the border


def test_masks_only_where_the_toolkit_has_them():
    with pytest.raises(InputError, match="has no masks"):
        region_overlap(Mask(0, 0, np.ones((2, 2), dtype=bool)), Rectangle(0, 0, 2, 2), SIZE, "pysot")


def test_codes():
    unknown, box = Special(Code.UNKNOWN), Rectangle(1, 2, 10, 10)
    for variant in ("pysot", "matlab", "got10k"):
        assert math.isnan(region_overlap(unknown, box, SIZE, variant))
        assert math.isnan(region_overlap(box, unknown, SIZE, variant))
    assert region_overlap(unknown, unknown, SIZE, "vot") == 1
    assert region_overlap(unknown, box, SIZE, "vot") == 0
    assert region_overlap(Rectangle(5, 5, 0, 0), unknown, SIZE, "vot") == 1


@pytest.mark.parametrize("variant", ["pysot", "matlab", "vot"])
def test_runaway_trackers_cost_nothing(variant):
    """A tracker that is lost may answer with anything finite; the image's bounds keep the work small."""
    truth = [Rectangle(5, 5, 20, 20)] * 4
    far = [
        Rectangle(1e12, 5, 20, 20),
        Rectangle(-1e12, -1e12, 2e12, 2e12),
        Rectangle(5, 5, 1e30, 20),
        Rectangle(5, 5, 20, -9),
    ]
    overlaps = region_overlaps(far, truth, image_bounds(SIZE, variant), variant)
    assert ((overlaps >= 0) & (overlaps < 1)).all()
    assert overlaps[0] == 0
    with np.errstate(all="raise"):
        huge = [Rectangle(5, 5, 1e300, 20), Polygon(np.array([[0, 0], [1e300, 5], [-1e300, 1e300]]))]
        overlaps = region_overlaps(huge, truth[:2], image_bounds(SIZE, variant), variant)
        assert ((overlaps >= 0) & (overlaps < 1)).all()
        if variant == "vot":
            mask = Mask(5, 5, np.ones((20, 20), dtype=bool))
            assert 0 < region_overlap(huge[0], mask, SIZE, "vot") < 1
    with pytest.raises(InputError, match="image size"):
        region_overlaps(far[:1], truth[:1], None, variant)


def test_unequal_lengths_and_unknown_variants():
    box = Rectangle(0, 0, 2, 2)
    with pytest.raises(InputError, match="2 predictions for 1"):
        region_overlaps([box, box], [box], None)
    with pytest.raises(InputError, match="known variants"):
        region_overlaps([box], [box], None, "voc")
    assert region_overlaps([], [], SIZE).shape == (0,)
