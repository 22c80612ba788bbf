"""The default tracker on small synthetic videos whose truth is known exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import keepsight as ks
from keepsight.errors import InputError, StateError
from keepsight.images import CropConfig
from keepsight.trackers.dimp_lite import LiteConfig, LiteNet, LiteTracker
from keepsight.trackers.registry import read_network
from keepsight.weights import find_weights

HEIGHT, WIDTH = 200, 260


@pytest.fixture(scope="module")
def net() -> LiteNet:
    tensors, config = read_network(find_weights("dimp-lite"), LiteNet().config)
    net = LiteNet(config).eval()
    net.load_state_dict(tensors)
    return net


def make(net: LiteNet, seed: int = 0, **changes: object) -> LiteTracker:
    return LiteTracker("dimp-lite", dataclasses.replace(LiteConfig(), **changes), net, torch.device("cpu"), seed)  # type: ignore[arg-type]


def texture(height: int, width: int, seed: int, cell: int = 6) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def scene(x: float | None, y: float = 0, size: float = 40, seed: int = 1) -> np.ndarray:
    """A quiet background with a textured square of ``size`` whose corner is at (x, y); None: without it."""
    import cv2

    frame = cv2.GaussianBlur(texture(HEIGHT, WIDTH, 100, cell=40), (0, 0), 9)
    if x is None:
        return frame
    patch = texture(48, 48, seed, cell=8)
    # pixel i of the patch covers [i, i + 1) of the square's 48 parts
    k = size / 48
    matrix = np.array([[k, 0, x + k / 2 - 0.5], [0, k, y + k / 2 - 0.5]])
    inside = cv2.warpAffine(np.ones((48, 48), np.float32), matrix, (WIDTH, HEIGHT))[..., None]
    moved = cv2.warpAffine(patch, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return (inside * moved + (1 - inside) * frame).astype(np.uint8)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


# --- where things are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0, 0), (5, 3), (-9, 14), (21, -17)])
def test_a_shifted_image_moves_the_box_by_as_much(net: LiteNet, shift: tuple[int, int]) -> None:
    """Half a cell is 5.5 pixels here: a wrong convention of odd filters would show at once, at no shift too."""
    tracker = make(net)
    frame = scene(100, 80)
    tracker.init(frame, box=(100, 80, 40, 40))
    result = tracker.update(np.roll(frame, (shift[1], shift[0]), (0, 1)))
    centre = result.box.x + result.box.w / 2, result.box.y + result.box.h / 2
    assert centre == pytest.approx((120 + shift[0], 100 + shift[1]), abs=1.5)
    assert (str(result.status), result.flag) == ("found", "normal")


@pytest.mark.parametrize("rate", [1.012, 0.99])
def test_follows_a_target_that_moves_and_changes_size(net: LiteNet, rate: float) -> None:
    tracker = make(net)
    size = start = 44.0
    tracker.init(scene(50, 50, size), box=(50, 50, size, size))
    overlaps = []
    for t in range(1, 25):
        size, x, y = start * rate**t, 50 + 3 * t, 50 + t
        overlaps.append(iou(tuple(tracker.update(scene(x, y, size)).box), (x, y, size, size)))
    assert min(overlaps) > 0.55
    found = tracker._current().targets[0].size[0] / start
    assert found == pytest.approx(rate**24, rel=0.12)


def test_says_lost_and_finds_the_target_again_elsewhere(net: LiteNet) -> None:
    tracker = make(net, search_area_scale=3.0)
    tracker.init(scene(30, 30, 32), box=(30, 30, 32, 32))
    for t in range(1, 4):
        seen = tracker.update(scene(30 + t, 30, 32))
    assert seen.presence > 0.9
    for _ in range(3):
        gone = tracker.update(scene(None))
        assert str(gone.status) == "lost"
        assert gone.presence < 0.5
        assert not gone.updated
        assert tuple(gone.box) == pytest.approx(tuple(seen.box), abs=2)  # the place; the size is the mean one
    places = [tracker.update(scene(95, 33, 32)) for _ in range(10)]  # outside the search region of 96 pixels
    assert str(places[-1].status) == "found"
    assert iou(tuple(places[-1].box), (95, 33, 32, 32)) > 0.5


def test_learns_nothing_from_a_doubtful_frame(net: LiteNet) -> None:
    tracker = make(net, sure_score=2.0)
    tracker.init(scene(100, 80), box=(100, 80, 40, 40))
    before = tracker._current().targets[0].filter.clone()
    result = tracker.update(scene(101, 80))
    assert (result.updated, result.update_reason) == (False, "low score")
    assert torch.equal(tracker._current().targets[0].filter, before)
    assert make_and_update(net).updated


def make_and_update(net: LiteNet) -> ks.Result:
    tracker = make(net)
    tracker.init(scene(100, 80), box=(100, 80, 40, 40))
    return tracker.update(scene(101, 80))


def test_peaks_are_found_between_cells_with_their_height() -> None:
    from keepsight.online.localise import subcell_peak

    rows, cols = np.mgrid[:9, :9]
    for y, x in ((4.3, 3.8), (2.0, 6.45), (4.0, 4.0)):
        height, place = subcell_peak(0.9 - 0.05 * (rows - y) ** 2 - 0.08 * (cols - x) ** 2)
        assert place == pytest.approx((y, x))
        assert height == pytest.approx(0.9)
    corner = np.zeros((5, 5))
    corner[0, 4] = 1
    assert subcell_peak(corner) == (1.0, (0, 4))


# --- many targets, same numbers --------------------------------------------------------------------------------------


def test_targets_do_not_see_each_other(net: LiteNet) -> None:
    boxes = [(40, 50, 40, 40), (150, 90, 30, 44)]
    frames = [texture(HEIGHT, WIDTH, 5)] + [np.roll(texture(HEIGHT, WIDTH, 5), (t, 2 * t), (0, 1)) for t in (1, 2, 3)]
    both = make(net)
    both.init(frames[0], boxes=boxes)
    alone = make(net)
    alone.init(frames[0], box=boxes[0])
    for frame in frames[1:]:
        together = both.update_all(frame)
        assert len(together) == 2
        assert tuple(together[0].box) == pytest.approx(tuple(alone.update(frame).box), abs=1e-3)


def test_same_seed_same_boxes_and_a_saved_state_goes_on_alike(net: LiteNet, tmp_path: Path) -> None:
    def run(tracker: LiteTracker, frames: range) -> list[tuple[float, ...]]:
        return [tuple(tracker.update(scene(60 + 3 * t, 60)).box) for t in frames]

    first, second = make(net), make(net)
    for tracker in (first, second):
        tracker.init(scene(60, 60), box=(60, 60, 40, 40))
    early = run(first, range(1, 5))
    assert run(second, range(1, 5)) == early
    first.save_state(tmp_path / "state.safetensors")
    third = make(net)
    third.load_state(tmp_path / "state.safetensors")
    assert run(third, range(5, 9)) == run(first, range(5, 9))
    other = make(net, box_spread=0.2)
    with pytest.raises(StateError):
        other.load_state(tmp_path / "state.safetensors")


def test_memory_is_bounded(net: LiteNet) -> None:
    config = dataclasses.replace(LiteConfig().memory, size=16)
    tracker = make(net, memory=config)
    tracker.init(scene(60, 60), box=(60, 60, 40, 40))
    for t in range(4):
        tracker.update(scene(60 + t, 60))
    memory = tracker._current().targets[0].memory
    assert memory.stored == 19
    assert memory.cells.shape == (1, 16, 19 * 19, net.config.channels)
    assert memory.weights.sum() == pytest.approx(1)


# --- odd input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box", [(10, 10, 1, 1), (-20, -20, 60, 60), (0, 0, WIDTH, HEIGHT), (50, 50, 200, 2), (255, 195, 300, 300)]
)
def test_any_box_gives_finite_boxes_inside_the_frame(net: LiteNet, box: tuple[int, ...]) -> None:
    tracker = make(net)
    tracker.init(scene(100, 80), box=box)
    for t in range(2):
        x, y, w, h = tracker.update(scene(100 + t, 80)).box
        assert np.isfinite((x, y, w, h)).all()
        assert min(x, y) >= 0
        assert min(w, h) >= 1
        assert x + w <= WIDTH + 1e-6
        assert y + h <= HEIGHT + 1e-6


@pytest.mark.parametrize("shape", [(36, 60), (64, 30)])
def test_follows_a_change_of_shape(net: LiteNet, shape: tuple[int, int]) -> None:
    """A square that is drawn out, (w, h): what a search over scales alone cannot follow."""
    tracker = make(net)
    tracker.init(scene(90, 70, 44), box=(90, 70, 44, 44))
    for t in range(1, 31):
        w, h = (44 + (end - 44) * min(t, 20) / 20 for end in shape)
        result = tracker.update(stretched(90, 70, w, h))
    assert iou(tuple(result.box), (90, 70, *shape)) > 0.75


def stretched(x: float, y: float, w: float, h: float) -> np.ndarray:
    import cv2

    frame = scene(None)
    patch = cv2.resize(texture(48, 48, 1, cell=8), (round(w), round(h)))
    frame[round(y) : round(y) + patch.shape[0], round(x) : round(x) + patch.shape[1]] = patch
    return frame


def test_a_tiny_target_does_not_vanish(net: LiteNet) -> None:
    tracker = make(net, box_spread=0.5, box_step_size=1.0)
    tracker.init(scene(100, 80), box=(118, 98, 3, 9))
    for t in range(5):
        tracker.update(scene(100, 80 + t))
        height, width = tracker._current().targets[0].size
        assert width >= 3
        assert height >= 4


def test_a_box_that_is_not_what_the_estimator_would_choose_stays_as_given(net: LiteNet) -> None:
    """Nothing moves, so whatever the estimator thinks of the first box it is the right one."""
    tracker = make(net)
    frame = scene(100, 80, 48)
    given = (112, 84, 24, 40)  # a part of the square
    tracker.init(frame, box=given)
    for _ in range(20):
        result = tracker.update(frame)
    assert iou(tuple(result.box), given) > 0.85


def test_a_target_lost_at_the_border_is_still_looked_for_inside(net: LiteNet) -> None:
    """Its size goes back to the mean one, its place must follow."""
    tracker = make(net)
    tracker.init(scene(100, 80), box=(100, 80, 40, 40))
    target = tracker._current().targets[0]
    target.pos, target.size, target.steady_size = (100.0, WIDTH + 25.0), (100.0, 100.0), (30.0, 30.0)
    tracker.update(scene(None))
    assert target.lost
    assert target.size == (30.0, 30.0)
    assert target.pos[1] - 15 < WIDTH - 5


def test_where_the_border_cuts_a_target_off_its_whole_size_is_kept(net: LiteNet) -> None:
    tracker = make(net)
    tracker.init(scene(120, 80), box=(120, 80, 40, 40))
    for t in range(1, 14):  # leaves to the right until an eighth is seen
        tracker.update(scene(120 + 10 * t if t < 13 else 255, 80))
    target = tracker._current().targets[0]
    assert target.steady_size == pytest.approx((40, 40), rel=0.2)
    assert target.scale * LiteConfig().sample_size == pytest.approx(5 * 40, rel=0.25)


def test_scores_that_are_no_numbers_are_not_learnt_from(net: LiteNet) -> None:
    tracker = make(net)
    tracker.init(scene(100, 80), box=(100, 80, 40, 40))
    target = tracker._current().targets[0]
    target.filter = torch.full_like(target.filter, float("nan"))
    result = tracker.update(scene(100, 80))
    assert str(result.status) == "lost"
    assert not result.updated
    assert np.isfinite(tuple(result.box)).all()


def test_a_flat_image_and_random_weights_are_no_error() -> None:
    tracker = ks.load("dimp-lite", weights="random", device="cpu")
    flat = np.full((60, 80, 3), 127, np.uint8)
    tracker.init(flat, box=(20, 20, 20, 20))
    result = tracker.update(flat)
    assert np.isfinite(tuple(result.box)).all()
    assert 0 <= result.presence <= 1


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InputError, match="sample_size is 288"):
        LiteConfig(sample_size=288)
    with pytest.raises(InputError, match="replicate"):
        LiteConfig(crop=CropConfig("inside_major"))
    with pytest.raises(InputError, match="box_samples"):
        LiteConfig(box_samples=1)
