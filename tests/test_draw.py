"""Boxes, labels and density pictures: what is drawn where, and that nothing odd makes drawing fail."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.boxes import Box
from keepsight.cli import main
from keepsight.draw import LOST_COLOUR, PALETTE, TRUTH_COLOUR, density_panels, draw_results, identity_colour
from keepsight.errors import InputError
from keepsight.models.keeptrack import KeepTrackNet, lite_config
from keepsight.online.densities import Densities
from keepsight.online.state import Candidate, Result, Status
from keepsight.weights import save_weights
from keepsight.weights.store import WeightsHeader

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


def test_masks_have_outlines_in_the_targets_colours() -> None:
    masks = [np.zeros((240, 320), bool) for _ in range(3)]
    for i, mask in enumerate(masks):
        mask[60:160, 20 + 100 * i : 80 + 100 * i] = True
        mask[100:120, 40 + 100 * i : 60 + 100 * i] = False  # a hole
    results = [result((10 + 100 * i, 20, 90, 200), mask=mask) for i, mask in enumerate(masks)]
    results[2] = replace(results[2], status=Status.LOST)
    out = draw_results(GREY, results)
    for i, colour in enumerate((*PALETTE[:2], LOST_COLOUR)):
        x = 20 + 100 * i
        assert has(out, colour)[60, x + 5 : x + 55].all(), "outline"
        assert has(out, colour)[99, x + 22 : x + 38].all(), "outline of the hole"
        assert (out[110, x + 30] == 128).all(), "the hole itself"
        assert (out[80, x + 10] != 128).any()
        assert not has(out, colour)[80, x + 10]
    nothing = draw_results(GREY, [result((90, 90, 60, 60), mask=np.zeros((240, 320), bool))])
    assert (nothing == draw_results(GREY, [result((90, 90, 60, 60))])).all()


def with_candidates(*candidates: tuple[int, float, float, bool]) -> Result:
    """Given as (identity, x, y, whether it is the target)."""
    found = tuple(Candidate(id, 0.5, (x, y), is_target) for id, x, y, is_target in candidates)
    return replace(result((100, 80, 60, 50)), candidates=found)


def test_candidates_are_drawn_on_request_only() -> None:
    shown = with_candidates((3, 130, 105, True), (5, 250, 160, False))
    without = draw_results(GREY, [result((100, 80, 60, 50))])
    assert (draw_results(GREY, [shown]) == without).all()
    out = draw_results(GREY, [shown], candidates=True)
    assert has(out, identity_colour(3))[105, 130], "the target's has a disc"
    assert (out[160, 250] == 128).all(), "the others have a ring only"
    for id, x, y in ((3, 130, 105), (5, 250, 160)):
        ring = has(out, identity_colour(id))
        rows, cols = np.nonzero(ring[y - 12 : y + 13, x - 12 : x + 9])  # without the number to the right
        assert (rows.mean() - 12, cols.mean() - 12) == pytest.approx((0, 0), abs=0.6)
        assert ring[y - 8, x]
        beside = (slice(y - 12, y + 13), slice(x + 13, x + 30))
        assert (out[beside] != without[beside]).any(), "the number"


def test_equal_identities_have_equal_colours() -> None:
    """Wherever the candidate is, whatever its place in the list, and whether or not it is the target."""
    first = draw_results(GREY, [with_candidates((0, 50, 200, True), (1, 250, 200, False))], candidates=True)
    later = draw_results(GREY, [with_candidates((1, 60, 200, True), (0, 200, 200, False))], candidates=True)
    for image, places in ((first, (50, 250)), (later, (200, 60))):
        for id, x in enumerate(places):
            assert has(image, PALETTE[id])[192, x]
    colours = [identity_colour(id) for id in range(200)]
    assert colours[: len(PALETTE)] == list(PALETTE)
    assert len(set(colours)) == 200, "no two identities that are near in time look the same"


def test_candidates_out_of_sight_or_hundreds() -> None:
    far = [
        (0, math.nan, 5, True),
        (1, math.inf, 5, False),
        (2, 1e30, -1e30, False),
        (3, -3, -3, True),
        (4, 322, 241, False),
    ]
    out = draw_results(GREY, [with_candidates(*far[:3])], candidates=True)
    assert (out == draw_results(GREY, [with_candidates()])).all()
    assert has(draw_results(GREY, [with_candidates(*far)], candidates=True), identity_colour(3)).any()
    many = [(i, 10 * (i % 31), 7 * (i // 31), i == 0) for i in range(961)]
    assert draw_results(GREY, [with_candidates(*many)], candidates=True).shape == GREY.shape
    tiny = np.zeros((3, 4, 3), np.uint8)
    assert draw_results(tiny, [with_candidates((0, 1, 1, True))], candidates=True).shape == tiny.shape


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        image = np.random.default_rng(0).integers(60, 120, (96, 128, 3), dtype=np.uint8)
        cv2.circle(image, (60 + 2 * i, 48), 9, (250, 200, 40), -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return folder


def test_track_draws_candidates(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = lite_config()
    header = WeightsHeader("keeptrack", "keeptrack-lite", asdict(config) | {"backbone": None})
    matcher = save_weights(tmp_path / "matcher.safetensors", KeepTrackNet(config).state_dict(), header)
    words = ["track", str(pictures), "--box", "50,38,20,20", "--weights", str(matcher), "--tracker", "keeptrack-lite"]
    assert main([*words, "--save", f"{tmp_path}/plain/"]) == 0
    assert main([*words, "--save", f"{tmp_path}/shown/", "--candidates"]) == 0
    plain, shown = ([cv2.imread(str(p)) for p in sorted((tmp_path / d).iterdir())] for d in ("plain", "shown"))
    assert len(plain) == len(shown) == 3
    assert (plain[0] == shown[0]).all(), "the first frame's box is given"
    assert any((a != b).any() for a, b in zip(plain[1:], shown[1:], strict=True))
    capsys.readouterr()
    assert main([*words, "--candidates"]) == 2
    assert "--save" in capsys.readouterr().err
    words[-3:] = ["random", "--tracker", "dimp-lite"]
    assert main([*words, "--candidates", "--save", f"{tmp_path}/none/"]) == 2
    assert "dimp-lite follows no candidates" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


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
