"""Random sizes, boxes and frames: finite, clipped results or a clear error, never anything else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import moving_square, tiny_dimp

import keepsight as ks

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def dimp():
    return tiny_dimp()


@pytest.fixture(scope="module")
def lite():
    return ks.load("dimp-lite", device="cpu")


def drive(tracker, height, width, box, seed):
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)]
    try:
        tracker.init(frames[0], box=box)
    except ks.InputError as error:
        assert "box" in str(error)
        return
    for frame in frames[1:]:
        result = tracker.update(frame)
        x, y, w, h = result.box
        assert all(math.isfinite(v) for v in (x, y, w, h, result.score, result.presence))
        assert w > 0
        assert h > 0
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-6
        assert y + h <= height + 1e-6
        assert 0 <= result.presence <= 1


sizes = st.integers(1, 220)
numbers = st.one_of(st.floats(-50, 300), st.floats(0.01, 2), st.integers(-5, 250).map(float))


@SETTINGS
@given(height=sizes, width=sizes, box=st.tuples(numbers, numbers, numbers, numbers), seed=st.integers(0, 9))
def test_dimp(dimp, height, width, box, seed):
    drive(dimp, height, width, box, seed)


@settings(SETTINGS, max_examples=25)
@given(height=sizes, width=sizes, box=st.tuples(numbers, numbers, numbers, numbers), seed=st.integers(0, 9))
def test_lite(lite, height, width, box, seed):
    drive(lite, height, width, box, seed)


@SETTINGS
@given(box=st.lists(st.one_of(st.floats(), st.none(), st.text(max_size=2), st.integers()), max_size=6))
def test_anything_as_a_box(dimp, box):
    frame = np.zeros((40, 50, 3), np.uint8)
    try:
        dimp.init(frame, box=box)
    except ks.InputError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((10, 10, 0, 5), "no area"),
        ((10, 10, 5, -1), "no area"),
        ((500, 10, 5, 5), "outside"),
        ((-20, 10, 5, 5), "outside"),
        ((math.nan, 10, 5, 5), "finite"),
        ((10, math.inf, 5, 5), "finite"),
        ((10, 10, 5), "four"),
        ("abcd", "numbers"),
        (None, "give either"),
        (7, "numbers"),
    ],
)
def test_bad_boxes(dimp, box, words):
    frames, good = moving_square(2)
    dimp.init(frames[0], box=good[0])
    with pytest.raises(ks.InputError, match=words):
        dimp.init(frames[0], box=box)
    dimp.update(frames[1])  # the earlier target is still there


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, "None"),
        (np.zeros((40, 50, 3), np.float32), "float"),
        (np.zeros((40, 50, 3), np.uint16), "uint16"),
        (np.zeros((3, 40, 50), np.uint8), "channels come last"),
        (np.zeros((0, 50, 3), np.uint8), "no pixels"),
        (np.zeros((2, 40, 50, 3), np.uint8), "shape"),
        ("frame.png", "str"),
    ],
)
def test_bad_frames(dimp, frame, words):
    with pytest.raises(ks.InputError, match=words):
        dimp.init(frame, box=(5, 5, 10, 10))


def test_frame_size_may_not_change(dimp):
    frames, boxes = moving_square(3)
    dimp.init(frames[0], box=boxes[0])
    with pytest.raises(ks.InputError, match="160×120"):
        dimp.update(frames[1][:100])
    assert dimp.update(frames[1]).box  # nothing is lost: the next good frame goes on


@pytest.mark.parametrize("shape", [(120, 160), (120, 160, 1), (120, 160, 4)])
def test_grey_and_rgba_frames(dimp, shape):
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    dimp.init(frame, box=(40, 30, 20, 24))
    assert dimp.update(frame).status in ks.Status


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 2)])
def test_tiny_images_and_one_pixel_boxes(dimp, lite, size):
    frame = np.full((*size, 3), 77, np.uint8)
    for tracker in (dimp, lite):
        tracker.init(frame, box=(0, 0, 1, 1))
        for _ in range(3):
            result = tracker.update(frame)
        assert all(math.isfinite(v) for v in result.box)


def test_calls_in_the_wrong_order():
    tracker = tiny_dimp()
    with pytest.raises(ks.StateError, match="init"):
        tracker.update(np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(ks.InputError, match="either"):
        tracker.init(np.zeros((10, 10, 3), np.uint8), box=(1, 1, 5, 5), boxes=[(1, 1, 5, 5)])
    with pytest.raises(ks.InputError, match="empty"):
        tracker.init(np.zeros((10, 10, 3), np.uint8), boxes=[])


def test_unknown_names():
    with pytest.raises(ks.InputError, match="dimp18"):
        ks.load("dimp81")
    with pytest.raises(ks.InputError, match="superdimp"):
        ks.load("super-dimp")
    with pytest.raises(ks.InputError, match="device"):
        ks.load("dimp18", weights="random", device="abacus")
    with pytest.raises(ks.InputError, match="seed"):
        ks.load("dimp18", weights="random", seed=1.5)
