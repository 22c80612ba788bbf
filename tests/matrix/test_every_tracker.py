"""Every tracker name through the public loop: sane results, several targets, saved states, determinism."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from small import make, moving_square

import keepsight as ks
from keepsight.trackers.registry import tracker_names

NAMES = tracker_names()


def check(result: ks.Result, height: int, width: int) -> None:
    x, y, w, h = result.box
    assert all(math.isfinite(v) for v in (*result.box, *result.box_unclipped, result.score, result.milliseconds))
    assert 0 <= x < x + w <= width + 1e-9
    assert 0 <= y < y + h <= height + 1e-9
    assert 0 <= result.presence <= 1
    assert isinstance(result.status, ks.Status)
    assert result.update_reason
    assert result.milliseconds > 0
    if result.mask is not None:
        assert (result.mask.shape, result.mask.dtype) == ((height, width), np.dtype(bool))


def boxes_of(results) -> np.ndarray:
    return np.array([r.box_unclipped for r in results])


@pytest.mark.parametrize("name", NAMES)
def test_public_loop(name, tmp_path):
    frames, boxes = moving_square()
    tracker = make(name)
    tracker.init(frames[0], box=boxes[0])
    results = [tracker.update(f) for f in frames[1:]]
    for r in results:
        check(r, *frames[0].shape[:2])

    again = make(name)  # the same seed gives the same boxes
    again.init(frames[0], box=boxes[0])
    first = [again.update(f) for f in frames[1:3]]
    again.save_state(tmp_path / "state.safetensors")
    rest = [again.update(f) for f in frames[3:]]
    assert np.array_equal(boxes_of(first + rest), boxes_of(results))

    other = make(name)  # a saved state continues identically, in another tracker object
    other.init(frames[3], box=(10, 10, 30, 30))
    other.load_state(tmp_path / "state.safetensors")
    resumed = [other.update(f) for f in frames[3:]]
    assert np.array_equal(boxes_of(resumed), boxes_of(rest))
    assert [r.score for r in resumed] == [r.score for r in rest]
    assert [(r.flag, r.updated, r.update_reason) for r in resumed] == [
        (r.flag, r.updated, r.update_reason) for r in rest
    ]

    tracker.reset()
    assert tracker.target_count == 0
    with pytest.raises(ks.StateError, match="init"):
        tracker.update(frames[0])


FORMS = (list, np.array, torch.tensor, tuple)


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_are_independent(name):
    """In whatever form the boxes are given; forms take turns for time."""
    frames, boxes = moving_square(4)
    alone = make(name)
    alone.init(frames[0], box=boxes[0])
    single = [alone.update(f) for f in frames[1:]]
    tracker = make(name)
    form = FORMS[NAMES.index(name) % len(FORMS)]
    tracker.init(frames[0], boxes=form([boxes[0], (90, 60, 30, 20), (5, 5, 40, 60)]))
    assert tracker.target_count == 3
    for i, frame in enumerate(frames[1:]):
        results = tracker.update_all(frame)
        assert len(results) == 3
        for r in results:
            check(r, *frame.shape[:2])
        if not tracker.gives_masks:  # masks compete for pixels
            # a batch rounds differently from a single image, nothing more
            assert np.allclose(results[0].box_unclipped, single[i].box_unclipped, atol=0.05)
    with pytest.raises(ks.StateError, match="update_all"):
        tracker.update(frames[0])


@pytest.mark.parametrize("name", NAMES)
def test_targets_join_later(name, tmp_path):
    frames, boxes = moving_square(4)
    tracker = make(name)
    with pytest.raises(ks.StateError, match="init"):
        tracker.add(frames[0], box=boxes[0])
    tracker.init(frames[0], box=(90, 60, 30, 20))
    tracker.update(frames[1])
    tracker.add(frames[1], box=boxes[1])
    tracker.save_state(tmp_path / "state.safetensors")
    alone = make(name)
    alone.init(frames[1], box=boxes[1])
    again = make(name)
    again.load_state(tmp_path / "state.safetensors")
    for frame in frames[2:]:
        results, single = tracker.update_all(frame), alone.update(frame)
        assert len(results) == tracker.target_count == 2
        for r in results:
            check(r, *frame.shape[:2])
        if not tracker.gives_masks:  # masks compete for pixels
            assert np.allclose(results[1].box_unclipped, single.box_unclipped, atol=0.05)
        assert np.array_equal(boxes_of(again.update_all(frame)), boxes_of(results))
    with pytest.raises(ks.InputError, match="began with"):
        tracker.add(frames[0][:100], box=boxes[0])
    with pytest.raises(ks.InputError, match="give either"):
        tracker.add(frames[0])
    assert tracker.target_count == 2


def _strided(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frame.transpose(1, 0, 2)).transpose(1, 0, 2)


SOURCES = {
    "torch": torch.from_numpy, "alpha": lambda f: np.concatenate((f, f[:, :, :1]), axis=2), "other strides": _strided,
    "mirrored twice": lambda f: np.ascontiguousarray(f[:, ::-1])[:, ::-1],
}  # fmt: skip


@pytest.mark.parametrize(("name", "source"), [(n, list(SOURCES)[i % 4]) for i, n in enumerate(NAMES)])
def test_masks_and_sources_of_frames(name, source):
    """A mask stands for its tight box, and however a frame comes, it is the same frame; sources take turns for time."""
    frames, boxes = moving_square(2)
    x, y, w, h = (int(v) for v in boxes[0])
    mask = np.zeros(frames[0].shape[:2], np.uint8)
    mask[y : y + h, x : x + w] = 255
    tracker = make(name)
    tracker.init(frames[0], mask=mask)
    want = tracker.update(frames[1])
    check(want, *mask.shape)
    assert (want.mask is not None) == tracker.gives_masks
    if tracker.gives_masks:
        (map_,) = tracker.probabilities()
        assert (map_.shape, map_.dtype) == (mask.shape, np.dtype(np.float32))
        assert map_.min() >= 0
        assert map_.max() <= 1
    else:
        with pytest.raises(ks.InputError, match="boxes"):
            tracker.probabilities()
    convert = SOURCES[source]
    tracker = make(name)
    tracker.init(convert(frames[0]), box=boxes[0], mask=mask > 0 if tracker.gives_masks else None)
    got = tracker.update(convert(frames[1]))
    assert got.box_unclipped == want.box_unclipped
    if want.mask is not None:
        assert np.array_equal(got.mask, want.mask)


@pytest.mark.parametrize("name", NAMES)
def test_seed_matters_only_through_random_draws(name):
    frames, boxes = moving_square(3)
    runs = []
    for _ in range(2):
        tracker = make(name, seed=5)
        tracker.init(frames[0], box=boxes[0])
        runs.append(boxes_of([tracker.update(f) for f in frames[1:]]))
    assert np.array_equal(*runs)


def test_same_boxes_in_two_processes(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; torch.set_num_threads(1)\n"
        "from small import small_dimp, moving_square\n"
        "frames, boxes = moving_square()\n"
        "t = small_dimp(); t.init(frames[0], box=boxes[0])\n"
        "print([tuple(t.update(f).box_unclipped) for f in frames[1:]])\n"
    )
    folder = str(__import__("pathlib").Path(__file__).parents[1])
    outs = [
        subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outs[0] == outs[1]
    assert "(" in outs[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", NAMES)
def test_on_the_gpu(name):
    frames, boxes = moving_square(4)
    runs = []
    for device in ("cpu", "cuda"):
        tracker = ks.load(name, weights="random", device=device)
        tracker.init(frames[0], box=boxes[0])
        runs.append(boxes_of([tracker.update(f) for f in frames[1:]]))
    assert np.allclose(*runs, atol=0.5)
