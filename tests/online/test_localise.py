"""The decision table's thresholds, half a percent to either side of each; window; ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keepsight.online.localise import LocalisationConfig, hann_window, localise, peak
from keepsight.online.search import centring_offset, clamp_position, initial_scale, scale_limits

SIDE = 19


def score_map(*peaks: tuple[int, int, float]) -> np.ndarray:
    scores = np.zeros((SIDE, SIDE), dtype=np.float32)
    for row, col, value in peaks:
        scores[row, col] = value
    return scores


def run(scores, previous=(0.0, 0.0), size=(16.0, 16.0), **config):
    return localise(
        scores, LocalisationConfig(**config), cell=16.0, sample_scale=1.0, sample_pos=(0.0, 0.0),
        previous_pos=previous, target_size=size,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "m1", "m2", "below", "above"),
    [
        ("target_not_found", 0.25, 0.0, "not_found", "normal"),
        ("uncertain", 0.4, 0.0, "uncertain", "normal"),
        ("hard_sample", 0.4, 0.0, "hard_negative", "normal"),
    ],
)
def test_thresholds_of_the_maximum(name, m1, m2, below, above):
    config = {} if name == "target_not_found" else {name: m1}
    for factor, flag in ((0.995, below), (1.005, above)):
        assert run(score_map((9, 9, m1 * factor)), **config).flag == flag


@pytest.mark.parametrize(
    ("share", "below", "above"), [(0.5, "normal", "hard_negative"), (0.8, "hard_negative", "uncertain")]
)
def test_thresholds_of_the_second_peak(share, below, above):
    # two peaks two cells apart: both near the previous position
    for factor, flag in ((0.995, below), (1.005, above)):
        assert run(score_map((9, 9, 0.9), (9, 12, 0.9 * share * factor))).flag == flag


def test_second_peak_must_itself_be_above_the_lost_limit():
    assert run(score_map((9, 9, 0.4), (9, 14, 0.24))).flag == "normal"
    assert run(score_map((9, 9, 0.4), (9, 14, 0.26))).flag == "hard_negative"


def test_far_and_near_peaks():
    limit = 0.8 * SIDE / 2  # 7.6 cells
    for factor, flag in ((0.995, "uncertain"), (1.005, "hard_negative")):
        # previous position so that peak 2 is just inside / outside the limit, peak 1 well inside
        previous = (0.0, 16 * (5 - limit * factor))
        found = run(score_map((9, 9, 0.9), (9, 14, 0.85)), previous=previous)
        assert found.flag == flag
        assert found.translation == (0, 0)
    # peak 1 far, peak 2 near: the target is at peak 2
    found = run(score_map((9, 16, 0.9), (9, 9, 0.85)), previous=(0.0, -2 * 16.0))
    assert (found.flag, found.translation) == ("hard_negative", (0.0, 0.0))
    # both far
    assert run(score_map((9, 18, 0.9), (9, 0, 0.85)), previous=(0.0, 0.0)).flag == "uncertain"


def test_neighbourhood_size():
    # extent 2.2 · size / 16 cells; rows round(r - t/2) up to round(r + t/2 + 1)
    scores = score_map((9, 9, 1.0), (9, 13, 0.7))
    assert run(scores, size=(16 * 6 / 2.2, 16 * 5.8 / 2.2)).flag == "hard_negative"  # columns 6 … 12
    assert run(scores, size=(16 * 6 / 2.2, 16 * 7.2 / 2.2)).flag == "normal"  # columns 5 … 13


def test_neighbourhood_at_the_border():
    assert run(score_map((0, 0, 1.0), (18, 18, 0.1)), size=(200.0, 200.0)).flag == "normal"


def test_translation_is_in_image_pixels():
    found = localise(
        score_map((7, 12, 1.0)), LocalisationConfig(), cell=16.0, sample_scale=0.5, sample_pos=(50.0, 60.0),
        previous_pos=(50.0, 60.0), target_size=(20.0, 20.0),
    )  # fmt: skip
    assert found.translation == (-16.0, 24.0)
    assert found.max_score == 1


def test_ties_go_to_the_smallest_column_then_row():
    assert peak(score_map((3, 9, 1.0), (12, 4, 1.0), (8, 4, 1.0))) == (1.0, (8, 4))


def test_window_is_used_as_published():
    scores = score_map((9, 9, 0.6), (9, 17, 0.9))
    columns = lambda **c: run(scores, distractor=100.0, **c).translation[1] / 16  # noqa: E731
    assert columns() == 8
    assert columns(window=True) == 8  # quirk: no window in the advanced table without the second switch
    assert columns(window=True, window_hard_negatives=True) == 0
    assert columns(window=True, advanced=False) == 0
    window = hann_window(SIDE)
    assert window[9] == 1
    assert window[0] == pytest.approx(0.5 * (1 - math.cos(2 * math.pi / 20)))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 288])
def test_window_around_the_first_cell(size):
    """Highest at cell 0, falling to both sides around the ends: what a score map looks like before its centre is moved."""
    window = hann_window(size, centred=False)
    assert window[0] == 1
    assert (window > 0).all()
    assert np.allclose(window[1:], window[1:][::-1])
    half = size // 2
    assert (np.diff(window[: half + 1]) < 0).all()
    assert window[half] == pytest.approx(0.5 * (1 + math.cos(2 * math.pi * half / (size + 2))))
    middle = np.roll(window, half)
    assert middle.argmax() == half


def test_centre_of_the_map():
    """ATOM's maps at crop pixels have their centre at half the side, not half a cell before it."""

    def at(centre, **config):
        return localise(
            score_map((7, 12, 1.0)), LocalisationConfig(**config), cell=1.0, sample_scale=2.0, sample_pos=(0.0, 0.0),
            previous_pos=(0.0, 0.0), target_size=(4.0, 4.0), centre=centre,
        ).translation  # fmt: skip

    assert at(None) == (-4, 6)
    assert at((9.5, 9.5)) == (-5, 5)
    assert at((9.5, 9.5), advanced=False) == (-5, 5)
    # a rival near the previous position is found from the same centre
    second = localise(
        score_map((9, 18, 0.9), (9, 11, 0.85)), LocalisationConfig(displacement_scale=0.5), cell=1.0, sample_scale=1.0,
        sample_pos=(0.0, 0.0), previous_pos=(0.0, 0.0), target_size=(2.0, 2.0), centre=(8.0, 10.0),
    )  # fmt: skip
    assert (second.flag, second.translation) == ("hard_negative", (1, 1))


def test_another_window():
    scores = score_map((9, 9, 0.6), (9, 17, 0.9))
    right = np.zeros((SIDE, SIDE))
    right[:, 15:] = 1

    def columns(shape, **config):
        found = localise(
            scores, LocalisationConfig(distractor=100.0, **config), cell=1.0, sample_scale=1.0, sample_pos=(0.0, 0.0),
            previous_pos=(0.0, 0.0), target_size=(2.0, 2.0), window=shape,
        )  # fmt: skip
        return found.translation[1]

    assert columns(np.ones((SIDE, SIDE)), window=True, advanced=False) == 8  # where the Hann window says 0
    assert columns(right[:, ::-1], window=True, advanced=False) != 8
    assert columns(right, window=True, window_hard_negatives=True) == 8
    assert columns(right[:, ::-1]) == 8  # no window unless the settings have one


def test_geometry():
    assert initial_scale((40, 90), 5.0, 288) == pytest.approx(300 / 288)
    assert clamp_position((-50, 500), (40, 20), (100, 200)) == (pytest.approx(-12), pytest.approx(206))
    assert scale_limits((20, 40), (100, 200)) == (0.5, 5)
    assert centring_offset(18, 4, 2.0, 288) == 0
    assert centring_offset(18, 5, 2.0, 288) == 16


def test_unknown_preprocessing():
    with pytest.raises(ValueError, match="relu"):
        LocalisationConfig(score_preprocess="relu")
