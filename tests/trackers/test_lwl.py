"""LWL's loop where the golden traces do not look: bad input, targets that leave, overlap or have one pixel, bounds, states."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import FRAME, MASK, held, moving_square, rectangle, small_lwl, target_of

import keepsight as ks
from keepsight.boxes import box_to_state
from keepsight.trackers.lwl import LWLConfig, LWLTracker, confidence, preset, presets

BOTH = pytest.mark.parametrize("name", list(presets()))


class Scripted(LWLTracker):
    """Segments what ``world(frame number, target number)`` says, a (H, W) bool mask."""

    world = staticmethod(lambda frame, index: MASK)

    def _advance(self, frame, targets):
        self.order = {id(t): i for i, t in enumerate(targets)}
        return super()._advance(frame, targets)

    def _look(self, frame, target):
        look = super()._look(frame, target)
        mask = torch.from_numpy(self.world(target.frame, self.order[id(target)]))
        return replace(look, logits=torch.where(mask, 8.0, -8.0))


def scripted(world, name: str = "lwl_ytvos", **changes) -> Scripted:
    tracker = small_lwl(name, kind=Scripted, **changes)
    tracker.world = world
    return tracker


# --- settings -----------------------------------------------------------------------------------------------------------


def test_published_presets():
    """Spec §6's table."""
    ytvos, boxinit = presets()["lwl_ytvos"], presets()["lwl_boxinit"]
    assert (ytvos.memory.learning_rate, ytvos.memory.min_init_weight, ytvos.memory.equal_second) == (0.1, 0.25, False)
    assert (boxinit.memory.learning_rate, boxinit.memory.min_init_weight, boxinit.memory.equal_second) == (0.2, 0, True)
    assert (ytvos.init_iterations, ytvos.update_iterations, ytvos.train_skipping) == (20, 3, 1)
    assert (boxinit.init_iterations, boxinit.update_iterations, boxinit.train_skipping) == (20, 5, 5)
    for config in (ytvos, boxinit):
        assert (config.sample_size, config.search_area_scale, config.memory.size) == ((480, 832), 5.0, 32)
        assert (config.scale_change, config.min_mask_area, config.crop.border_mode) == (
            (0.95, 1.1),
            100,
            "inside_major",
        )
        assert config.crop.max_scale_change is None


def test_settings_are_checked():
    with pytest.raises(ks.InputError, match="multiples of 16"):
        LWLConfig(sample_size=(480, 840))
    with pytest.raises(ks.InputError, match="train_skipping"):
        LWLConfig(train_skipping=0)
    with pytest.raises(ks.InputError, match="scale_change"):
        LWLConfig(scale_change=(1.1, 0.95))
    with pytest.raises(ks.InputError, match="lwl_ytvos"):
        preset("lwl_ytvoss")


# --- the published rules ------------------------------------------------------------------------------------------------


def test_weights_of_the_memory():
    """Spec §16: measured in the reference."""
    tracker = small_lwl()
    tracker.init(FRAME, mask=MASK)
    seen = []
    for _ in range(3):
        tracker.update(FRAME)
        seen.append(target_of(tracker).memory.weights[:3].round(4).tolist())
    assert seen == [[1, 0, 0], [0.9174, 0.0826, 0], [0.8403, 0.0756, 0.0840]]


def test_second_sample_weighs_as_much_after_a_box():
    tracker = small_lwl("lwl_boxinit")
    tracker.init(FRAME, box=(60, 40, 24, 20))
    for _ in range(2):
        tracker.update(FRAME)
    assert target_of(tracker).memory.weights[:3].tolist() == [0.5, 0.5, 0]


def test_first_sample_keeps_a_quarter():
    tracker = small_lwl()
    tracker.init(FRAME, mask=MASK)
    for _ in range(30):
        tracker.update(FRAME)
    weights = target_of(tracker).memory.weights
    assert weights[0] == pytest.approx(0.25)
    assert (weights[1:] > 0).all()


def test_learning_is_scheduled():
    reasons = {}
    for name in presets():
        tracker = scripted(lambda frame, index: MASK, name)
        tracker.init(FRAME, box=(60, 40, 24, 20))
        results = [tracker.update(FRAME) for _ in range(11)]
        reasons[name] = [i + 2 for i, r in enumerate(results) if r.updated]
        assert not results[0].updated
        assert "first frame" in results[0].update_reason
    assert reasons == {"lwl_ytvos": list(range(3, 13)), "lwl_boxinit": [6, 11]}


def test_crops_are_shifted_along_axes_with_an_odd_number_of_cells():
    tracker = small_lwl(sample_size=(80, 96))  # 5 × 6 cells; spec §16: 8 pixels of the crop
    tracker.init(FRAME, mask=MASK)
    target = target_of(tracker)
    row, col = tracker._centre(target)
    # 5 + 3 is even, 6 + 3 is odd
    assert (row, col) == (target.pos[0], pytest.approx(target.pos[1] + 8 * target.scale))
    plain = small_lwl(sample_size=(80, 96), keep_crop_offset=False)
    assert plain._centre(target) == target.pos


def test_scale_follows_within_limits():
    large = rectangle(20, 20, 100, 90)
    limited, free = scripted(lambda f, i: large), scripted(lambda f, i: large, scale_change=None)
    for tracker, least, most in ((limited, 1.1, 1.1), (free, 3.0, 6.0)):
        tracker.init(FRAME, mask=MASK)
        tracker.update(FRAME)
        before = target_of(tracker).scale
        tracker.update(FRAME)
        assert least - 1e-9 <= target_of(tracker).scale / before <= most + 1e-9
        target = target_of(tracker)
        assert np.allclose(target.size, np.multiply(target.base_size, target.scale))


def test_scale_shrinks_within_limits():
    small = rectangle(66, 44, 12, 12)
    for change, least, most in (((0.95, 1.1), 0.95, 0.95), (None, 0.54, 0.555)):
        tracker = scripted(lambda f, i: small, scale_change=change)
        tracker.init(FRAME, mask=MASK)
        tracker.update(FRAME)
        before = target_of(tracker).scale
        tracker.update(FRAME)
        assert least - 1e-9 <= target_of(tracker).scale / before <= most + 1e-9


def test_a_map_of_little_area_moves_nothing():
    """§6.2.3: below a sum of 100, place and size are the previous ones; that of exactly 100 counts."""
    small, enough = rectangle(20, 80, 9, 11), rectangle(24, 80, 11, 11)
    tracker = scripted(lambda frame, index: small if frame < 5 else enough)
    tracker.init(FRAME, mask=MASK)
    before = None
    for _ in range(3):
        box = tracker.update(FRAME).box_unclipped
        target = target_of(tracker)
        now = target.pos, target.size
        assert box == (
            target.pos[1] - (target.size[1] - 1) / 2,
            target.pos[0] - (target.size[0] - 1) / 2,
            *target.size[::-1],
        )
        assert before is None or now == before
        before = now
    box = tracker.update(FRAME).box_unclipped
    assert (box.x + (box.w - 1) / 2, box.y + (box.h - 1) / 2) == (
        pytest.approx(29, abs=0.01),
        pytest.approx(85, abs=0.01),
    )
    tracker.update(FRAME)
    assert target_of(tracker).pos == (pytest.approx(85, abs=0.01), pytest.approx(29, abs=0.01))
    for width, found in ((9, False), (10, True)):
        assert (tracker._state(torch.from_numpy(rectangle(20, 80, width, 10)).float()) is not None) == found
    assert tracker._state(torch.from_numpy(rectangle(20, 80, 33, 3)).float()) is None, "99 pixels"


def test_presence_is_the_masks_mean_probability():
    probability = torch.tensor([[0.9, 0.6], [0.2, 0.0]])
    assert confidence(probability, probability > 0.5) == pytest.approx(0.75)
    assert confidence(probability, probability > 1) == 0
    tracker = small_lwl()
    tracker.init(FRAME, mask=MASK)
    result = tracker.update(FRAME)
    (map_,) = tracker.probabilities()
    assert result.mask.any()
    assert result.presence == pytest.approx(float(map_[result.mask].mean()), rel=1e-5)
    assert result.score == pytest.approx(float(map_.max()))
    assert result.presence < result.score - 0.01


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((60, 40, 24, 20), (60, 40, 24, 20)),
        ((-10, -8, 24, 20), (0, 0, 14, 12)),
        ((150, -8, 40, 20), (150, 0, 10, 12)),
        ((150, 110, 40, 40), (150, 110, 10, 10)),
        ((-400, -300, 1000, 800), (0, 0, 160, 120)),
        ((70.4, 60.7, 0.5, 0.4), (70, 60, 1, 1)),
    ],
)
def test_the_box_network_is_shown_the_part_in_the_frame(box, pixels):
    """Quirk Q17: a box that begins outside would count from the frame's other end."""
    tracker, given = small_lwl("lwl_boxinit"), []
    tracker.net.box_label_encoder.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    tracker.init(FRAME, box=box)
    (shown,) = given
    assert np.array_equal(shown[0].numpy() > 0, rectangle(*pixels))


def test_weight_of_samples_counts_squared_as_published():
    runs = []
    for square in (True, False):
        tracker = small_lwl(square_sample_weights=square)
        tracker.init(FRAME, mask=MASK)
        for _ in range(3):
            tracker.update(FRAME)
        runs.append(target_of(tracker).filter)
    assert not torch.allclose(*runs)


def test_a_single_target_alone_or_against_the_background():
    merged, alone = small_lwl(), small_lwl(merge_alone=False)
    for tracker in (merged, alone):
        tracker.init(FRAME, mask=MASK)
        tracker.update(FRAME)
    a, b = (torch.logit(torch.from_numpy(t.probabilities()[0]).double()) for t in (merged, alone))
    some = (b.abs() < 4) & (b.abs() > 0.01)
    assert some.any()
    assert torch.allclose(a[some], 2 * b[some], rtol=1e-3, atol=1e-4)


def test_the_first_mask_is_read_as_probability():
    """Quirk Q21 (logits instead) is there for parity only; Q18 (a given mask fails) does not exist."""
    kept = {}
    for quirk in (False, True):
        tracker = small_lwl("lwl_boxinit", first_logits=quirk, merge_alone=False)
        tracker.init(FRAME, box=(60, 40, 24, 20))
        kept[quirk] = target_of(tracker).probability
    assert torch.allclose(torch.sigmoid(kept[True]), kept[False])
    assert 0 <= kept[False].min() <= kept[False].max() <= 1
    tracker = small_lwl(merge_alone=False)
    tracker.init(FRAME, mask=MASK)
    assert np.array_equal(tracker.probabilities()[0] > 0.5, MASK)
    assert tracker.update(FRAME).mask is not None


@BOTH
def test_box_alone(name):
    """Without the box network the mask is an ellipse; with it, what the network says, over the whole frame."""
    tracker = small_lwl(name)
    tracker.init(FRAME, box=(60, 40, 24, 20))
    probability = tracker.probabilities()[0]
    hard = set(np.unique(probability.round(3))) <= {0.0, 1.0}
    assert hard == (name == "lwl_ytvos")
    if hard:
        rows, cols = np.nonzero(probability > 0.5)
        assert (rows.min(), rows.max(), cols.min(), cols.max()) == (40, 59, 60, 83)


def check_box(result: ks.Result) -> None:
    """Of a map in the frame, or the first one: its centre is in the frame, or at least a part of it."""
    x, y, w, h = result.box_unclipped
    assert np.isfinite((x, y, w, h)).all()
    assert min(w, h) > 0
    assert x < 160
    assert y < 120
    assert min(x + w, y + h) > 0
    assert w <= max(2 * 160, 1000)  # of a map, four deviations are at most twice the frame
    x, y, w, h = result.box
    assert 0 <= x < x + w <= 160 + 1e-9
    assert 0 <= y < y + h <= 120 + 1e-9


# --- targets that are small, leave, or compete ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "mask",
    [
        rectangle(5, 5, 1, 1),
        rectangle(0, 0, 1, 1),
        rectangle(159, 119, 1, 1),
        rectangle(3, 3, 40, 1),
        rectangle(0, 0, 160, 120),
    ],
    ids=["pixel", "first pixel", "last pixel", "line", "whole frame"],
)
def test_masks_of_any_size(name, mask):
    """The search starts in the middle of the mask, and no box leaves the frame altogether."""
    tracker = small_lwl(name)
    tracker.init(FRAME, mask=mask)
    target, (rows, cols) = target_of(tracker), np.nonzero(mask)
    middle = (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2
    assert (target.pos, target.size) == (middle, (np.ptp(rows) + 1, np.ptp(cols) + 1))
    for frame in range(2, 6):
        result = tracker.update(FRAME)
        if frame == 2:  # one pixel or a line is too little to move; the whole frame's mean is its middle
            assert target.pos == pytest.approx(middle, abs=0.05)
        check_box(result)
        assert result.mask.shape == mask.shape


@BOTH
@pytest.mark.parametrize(
    "box", [(-10, -8, 24, 20), (150, 110, 40, 40), (70.4, 60.7, 0.5, 0.4), (-400, -300, 1000, 800), (-5, 30, 300, 2)]
)
def test_boxes_of_any_size(name, box):
    tracker = small_lwl(name)
    tracker.init(FRAME, box=box)
    target = target_of(tracker)
    assert (target.pos, target.size) == box_to_state(box)
    if name == "lwl_ytvos":  # the ellipse in it
        rows, cols = np.nonzero(tracker.probabilities()[0] > 0.5)
        assert box[1] - 1 < rows.min() <= rows.max() < box[1] + box[3]
        assert box[0] - 1 < cols.min() <= cols.max() < box[0] + box[2]
    for _ in range(3):
        check_box(tracker.update(FRAME))


def test_a_target_that_leaves_for_good():
    """Lost, with the last known box; the tracker goes on, and finds it where the search region still is."""
    back = 40
    tracker = scripted(lambda frame, index: MASK if frame < 5 or frame >= back else np.zeros_like(MASK))
    tracker.init(FRAME, mask=MASK)
    results = {frame: tracker.update(FRAME) for frame in range(2, back + 3)}
    assert results[4].status is ks.Status.FOUND
    assert results[4].presence > 0.5
    box = results[5].box_unclipped  # the region's, which by then has the size of the last box
    assert box == pytest.approx(results[4].box_unclipped, abs=0.1)
    for frame in range(5, back):
        assert (results[frame].status, results[frame].presence) == (ks.Status.LOST, 0)
        assert not results[frame].mask.any()
        assert results[frame].box_unclipped == box, "unmoved while it is away"
    assert results[back].status is ks.Status.FOUND
    assert np.array_equal(results[back].mask, MASK)


def test_box_is_four_deviations_of_the_mask():
    tracker = scripted(lambda frame, index: MASK)
    tracker.init(FRAME, mask=MASK)
    x, y, w, h = tracker.update(FRAME).box_unclipped
    assert (w, h) == (
        pytest.approx(4 * math.sqrt((24**2 - 1) / 12), abs=0.05),
        pytest.approx(4 * math.sqrt((20**2 - 1) / 12), abs=0.05),
    )
    assert (x + (w - 1) / 2, y + (h - 1) / 2) == (pytest.approx(71.5, abs=0.01), pytest.approx(49.5, abs=0.01))


def test_several_targets_have_different_pixels():
    left, right = rectangle(30, 40, 40, 30), rectangle(50, 40, 40, 30)
    tracker = scripted(lambda frame, index: (left, right)[index])
    tracker.init(FRAME, masks=[left, right])  # they overlap
    for _ in range(4):
        a, b = tracker.update_all(FRAME)
        assert not (a.mask & b.mask).any()
        assert np.array_equal(a.mask | b.mask, left | right)
        maps = tracker.probabilities()
        assert (sum(maps) <= 1 + 1e-6).all()
    alone = scripted(lambda frame, index: left)
    alone.init(FRAME, mask=left)
    assert alone.update(FRAME).mask.sum() == left.sum()


def test_a_target_hidden_by_another():
    tracker = scripted(lambda frame, index: MASK)
    tracker.init(FRAME, masks=[MASK, MASK])
    for _ in range(3):
        first, second = tracker.update_all(FRAME)
    assert np.array_equal(first.mask, MASK)
    assert (second.status, second.mask.any()) == (ks.Status.LOST, False)
    assert np.isfinite(second.box_unclipped).all()


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": np.zeros_like(MASK)}, "empty"),
        ({"mask": MASK[:-1]}, r"\(119, 160\); expected \(120, 160\)"),
        ({"mask": MASK.astype(np.float32)}, "float32"),
        ({"box": (500, 500, 10, 10)}, "outside"),
        ({"box": (500, 500, 10, 10), "mask": MASK}, "outside"),
        ({}, "give either"),
        ({"box": (1, 1, 5, 5), "masks": [MASK]}, "give either"),
        ({"masks": []}, "is empty"),
        ({"boxes": []}, "is empty"),
        ({"masks": [MASK, None]}, "neither"),
        ({"boxes": [(1, 1, 5, 5)], "masks": [MASK, MASK]}, "1 boxes and 2 masks"),
        ({"masks": [MASK, np.zeros_like(MASK)]}, "empty"),
    ],
)
def test_what_cannot_start_a_tracker_changes_nothing(given, message):
    tracker = small_lwl()
    tracker.init(FRAME, mask=MASK)
    kept = tracker._session
    with pytest.raises(ks.InputError, match=message):
        tracker.init(FRAME, **given)
    assert tracker._session is kept


def test_boxes_with_some_masks():
    tracker = small_lwl()
    tracker.init(FRAME, boxes=[(60, 40, 24, 20), (10, 10, 30, 30)], masks=[MASK, None])
    assert np.array_equal(tracker.probabilities()[0] > 0.5, MASK)
    assert len(tracker.update_all(FRAME)) == 2


def test_a_tracker_of_boxes_checks_masks_too():
    from small import tiny_dimp

    with pytest.raises(ks.InputError, match="empty"):
        tiny_dimp().init(FRAME, mask=np.zeros_like(MASK))


# --- memory and saved states --------------------------------------------------------------------------------------------


def test_memory_is_flat_over_two_thousand_frames():
    tracker = small_lwl(sample_size=(16, 32), update_iterations=1, train_skipping=10)
    tracker.init(FRAME[:40, :48], mask=MASK[20:60, 40:88])
    sizes = []
    for frame in range(2, 2002):
        tracker.update(FRAME[:40, :48])
        if frame % 400 == 2:
            sizes.append(held(tracker))
    assert len({size for size, _ in sizes}) == 1
    assert max(n for _, n in sizes) <= min(n for _, n in sizes) + 60  # digits of numbers
    memory = target_of(tracker).memory
    assert memory.stored == 2000
    assert memory.cells.shape[1] == len(memory.targets) == len(memory.weights) == 6


@BOTH
def test_published_memory_has_32_slots(name):
    tracker = small_lwl(name, sample_size=(16, 32), memory=preset(name).memory)
    tracker.init(FRAME, box=(60, 40, 24, 20))
    assert target_of(tracker).memory.cells.shape[:3] == (1, 32, 2)


@BOTH
def test_a_saved_state_goes_on_with_the_same_masks(tmp_path, name):
    frames, boxes = moving_square(8)
    tracker = small_lwl(name)
    tracker.init(frames[0], boxes=[boxes[0], (90, 60, 30, 20)])
    for frame in frames[1:4]:
        tracker.update_all(frame)
    tracker.save_state(tmp_path / "state.safetensors")
    other = small_lwl(name)
    other.load_state(tmp_path / "state.safetensors")
    for got, want in zip(other.probabilities(), tracker.probabilities(), strict=True):
        assert np.array_equal(got, want)
    for frame in frames[4:]:
        for got, want in zip(other.update_all(frame), tracker.update_all(frame), strict=True):
            assert np.array_equal(got.mask, want.mask)
            assert got.box_unclipped == want.box_unclipped
    with pytest.raises(ks.StateError, match="settings"):
        small_lwl(name, train_skipping=7).load_state(tmp_path / "state.safetensors")


def test_probabilities_before_the_first_frame():
    with pytest.raises(ks.StateError, match="init"):
        small_lwl().probabilities()


# --- targets that come later ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lwl_ytvos", "lwl_boxinit"])
def test_a_new_target_takes_its_pixels_from_the_others(name):
    """As merging does with logits of +100 and -100 (§6.4): the others' maps fall to 0 there, and stay elsewhere."""
    tracker, new = small_lwl(name), rectangle(70, 45, 30, 20)
    tracker.init(FRAME, mask=MASK)
    before = target_of(tracker).probability.clone()
    assert before.numpy()[new & MASK].min() > 0.9
    tracker.add(FRAME, mask=new)
    after, own = (target_of(tracker, i).probability.numpy() for i in (0, 1))
    assert (after[new] < 1e-4).all()
    np.testing.assert_allclose(after[~new], before.numpy()[~new], atol=1e-6)
    assert ((own > 0.5) == new).all()
    first, second = tracker.update_all(FRAME)
    assert not (first.mask & second.mask).any()


def test_masks_that_join_are_merged_as_in_one_init():
    """Both given in the first frame, at once or one after the other: the same from then on."""
    other = rectangle(10, 70, 30, 20)
    once, later = small_lwl(), small_lwl()
    once.init(FRAME, masks=[MASK, other])
    later.init(FRAME, mask=MASK)
    later.add(FRAME, mask=other)
    for _ in range(3):
        for a, b in zip(once.update_all(FRAME), later.update_all(FRAME), strict=True):
            np.testing.assert_allclose(a.box_unclipped, b.box_unclipped, atol=1e-3)
            assert (a.mask != b.mask).mean() < 1e-3


def test_box_and_mask_of_different_places_are_refused():
    tracker = small_lwl()
    with pytest.raises(ks.InputError, match="no pixel in the box"):
        tracker.init(FRAME, box=(0, 0, 6, 6), mask=MASK)
    tracker.init(FRAME, box=(58, 38, 20, 20), mask=MASK)  # they need not be the same
