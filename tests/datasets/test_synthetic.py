"""The procedural clip: exact boxes, the same twice, everything that it promises to happen."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from keepsight.datasets.synthetic import ClipConfig, SyntheticClip, render_clip
from keepsight.errors import InputError

SMALL = (160, 120)


def painted(config: ClipConfig, index: int, level: int) -> np.ndarray:
    """The frame with the target in one grey level; its edge is as soft as before."""
    clip = SyntheticClip(config)
    clip._target.colour[:] = level
    return clip[index].image.astype(int)


def test_the_box_is_exactly_where_the_target_is_drawn() -> None:
    """Where black and white targets differ by more than half, there the target is; nothing stands in front of it."""
    config = ClipConfig(seed=4, frames=40, size=(320, 240), noise=0, blur=0, light=0, occlusion=0)
    for index in (0, 13, 39):
        frame = SyntheticClip(config)[index]
        drawn = (painted(config, index, 255) - painted(config, index, 0))[..., 0] > 127
        rows, cols = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        assert frame.box == (cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1)
        assert frame.visibility == 1


def test_visibility_is_the_share_in_front_of_the_post() -> None:
    config = ClipConfig(seed=4, frames=40, size=(320, 240), noise=0, blur=0, light=0)
    index = int(np.argmin(SyntheticClip(config).visibilities))
    whole = ClipConfig(seed=4, frames=40, size=(320, 240), noise=0, blur=0, light=0, occlusion=0)
    areas = [int((painted(c, index, 255) - painted(c, index, 0) > 127)[..., 0].sum()) for c in (config, whole)]
    assert SyntheticClip(config).visibilities[index] == pytest.approx(areas[0] / areas[1], abs=2e-3)
    assert 0 < areas[0] < areas[1]


def test_boxes_agree_with_frames_and_move_smoothly() -> None:
    clip = render_clip(seed=1, frames=60, size=SMALL)
    frames = list(clip)
    assert len(clip) == len(frames) == 60
    assert [f.index for f in frames] == list(range(60))
    assert np.array_equal(clip.boxes, np.array([f.box for f in frames]))
    assert np.array_equal(clip.visibilities, [f.visibility for f in frames])
    for f in frames:
        assert f.image.shape == (120, 160, 3)
        assert f.image.dtype == np.uint8
    assert clip.boxes.shape == (60, 4)
    assert np.abs(np.diff(clip.boxes, axis=0)).max() < 12  # pixels


@pytest.mark.parametrize("seed", range(8))
def test_every_seed_has_its_events(seed: int) -> None:
    clip = render_clip(seed=seed)
    width, height = clip.size
    x, y, w, h = clip.boxes.T
    assert min(x.min(), y.min()) >= 0
    assert (x + w).max() <= width
    assert (y + h).max() <= height
    areas = np.sqrt(w * h)
    assert areas.max() / areas.min() > 1.4  # it changes its size
    hidden = np.flatnonzero(clip.visibilities < 1)
    assert 3 <= len(hidden) <= 25  # the post passes ...
    assert np.array_equal(hidden, np.arange(hidden[0], hidden[-1] + 1))  # ... once
    assert 0.1 < clip.visibilities.min() < 0.8  # and never hides everything
    assert clip.visibilities[0] == 1


def test_the_same_seed_gives_the_same_frames_in_any_order() -> None:
    one, two = render_clip(seed=5, frames=20, size=SMALL), render_clip(seed=5, frames=20, size=SMALL)
    backwards = {i: two[i].image for i in reversed(range(20))}
    assert all(np.array_equal(f.image, backwards[f.index]) for f in one)
    assert np.array_equal(one[-1].image, one[19].image)
    assert [f.index for f in one[3:9:2]] == [3, 5, 7]
    other = render_clip(seed=6, frames=20, size=SMALL)
    assert not np.array_equal(one[0].image, other[0].image)
    assert not np.array_equal(one.boxes, other.boxes)


def test_light_noise_and_lookalike_are_seen() -> None:
    quiet = ClipConfig(frames=40, size=SMALL, noise=0, light=0)
    plain = SyntheticClip(quiet)
    noisy = SyntheticClip(ClipConfig(frames=40, size=SMALL, noise=6, light=0))
    difference = noisy[7].image.astype(float) - plain[7].image
    assert 5 < difference.std() < 7
    lit = SyntheticClip(ClipConfig(frames=40, size=SMALL, noise=0, light=0.3))
    ratios = [lit[i].image.mean() / plain[i].image.mean() for i in range(0, 40, 4)]
    assert max(ratios) - min(ratios) > 0.3
    alone = SyntheticClip(ClipConfig(frames=40, size=SMALL, noise=0, light=0, distractor_gap=30))
    at = round(quiet.distractor_time * 39)
    assert (np.abs(alone[at].image.astype(int) - plain[at].image).max(-1) > 60).sum() > 100


def test_memory_does_not_grow_with_the_clip() -> None:
    clip = render_clip(frames=400, size=SMALL)
    frames = iter(clip)
    for _ in range(20):
        next(frames)
    tracemalloc.start()
    for _ in range(100):
        next(frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 160 * 120 * 3  # a few frames in float


def test_what_makes_no_sense_is_refused() -> None:
    for options, word in (
        ({"frames": 0}, "frames"),
        ({"size": (640, 10)}, "640×10"),
        ({"scale_range": (1.3, 0.7)}, "scale_range"),
        ({"object_size": 0.0}, "object_size"),
        ({"object_size": 0.01, "size": (64, 64)}, "pixels"),
        ({"noise": -1.0}, "noise"),
    ):
        with pytest.raises(InputError, match=word):
            ClipConfig(**options)
    with pytest.raises(IndexError):
        render_clip(frames=3, size=SMALL)[3]
    assert len(list(render_clip(frames=1, size=(64, 64)))) == 1
