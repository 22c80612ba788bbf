"""RTS's rules of losing and finding again, and STA's first mask, where the golden traces do not look.

Networks are narrow and random; masks and score maps are made by hand where a rule is tested.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small import FRAME, MASK, NARROW, held, moving_square, rectangle, small_rts, target_of

import keepsight as ks
from keepsight.boxes import box_to_state
from keepsight.models.segmentation import RTSNet, RTSNetConfig
from keepsight.nn.correlation import Samples
from keepsight.online.memory import SampleMemory
from keepsight.trackers import registry
from keepsight.trackers.lwl import Scored
from keepsight.trackers.rts import RTSTracker, preset, presets
from keepsight.trackers.sta import BoxToMask

NOTHING = np.zeros_like(MASK)


class Scripted(RTSTracker):
    """``world(frame number)`` -> mask (H, W) bool and where a peak of the scores lies: (row, column, score) in the image."""

    world = staticmethod(lambda frame: (MASK, (50.0, 72.0, 0.9)))

    def _look(self, frame, target):
        look = super()._look(frame, target)
        mask, (row, col, score) = self.world(target.frame)
        rows, cols = look.scored.scores.shape
        height, width = self.config.sample_size
        at = (
            round((row - look.view.pos[0]) / look.view.scale / (height / (rows - 1)) + (rows - 1) / 2),
            round((col - look.view.pos[1]) / look.view.scale / (width / (cols - 1)) + (cols - 1) / 2),
        )
        scores = torch.full((rows, cols), -0.1)
        if 0 <= at[0] < rows and 0 <= at[1] < cols:
            scores[at] = score
        logits = torch.where(torch.from_numpy(mask), 8.0, -30.0)
        return replace(look, logits=logits, scored=Scored(scores, look.scored.samples))


def scripted(world, name: str = "rts50", **changes) -> Scripted:
    tracker = small_rts(name, kind=Scripted, **changes)
    tracker.world = world
    return tracker


class Each(Scripted):
    """``world(frame number, target number)`` of several targets."""

    def _advance(self, frame, targets):
        self.order = {id(t): i for i, t in enumerate(targets)}
        return super()._advance(frame, targets)

    def _look(self, frame, target):
        both, index = self.world, self.order[id(target)]
        self.world = lambda number: both(number, index)
        try:
            return super()._look(frame, target)
        finally:
            self.world = both


def two(first: np.ndarray, second: np.ndarray, score: float, **changes) -> Each:
    """Targets that both begin at :data:`MASK` and then claim ``first`` and ``second``."""
    tracker = small_rts(kind=Each, scale_change=None, **changes)
    tracker.world = lambda frame, index: ((first, second)[index], (50, 72, score))
    tracker.init(FRAME, masks=[MASK, MASK])
    return tracker


def started(world, **changes) -> Scripted:
    tracker = scripted(world, **changes)
    tracker.init(FRAME, mask=MASK)
    return tracker


# --- settings -----------------------------------------------------------------------------------------------------------


def test_published_presets():
    """Spec §9.1's table and §8.2."""
    rts50, ytvos = presets()["rts50"], presets()["rts50_ytvos"]
    assert (rts50.sample_size, rts50.search_area_scale, rts50.scale_change) == ((480, 832), 6.0, (0.8, 1.2))
    assert (rts50.crop.border_mode, rts50.crop.max_scale_change, rts50.min_mask_area) == ("inside_major", None, 100)
    assert (rts50.memory.size, rts50.memory.learning_rate, rts50.memory.min_init_weight) == (32, 0.1, 0.25)
    assert (rts50.train_skipping, rts50.init_iterations, rts50.update_iterations) == (20, 20, 3)
    clf = rts50.classifier
    assert (clf.memory.size, clf.memory.learning_rate, clf.memory.min_init_weight) == (50, 0.01, 0)
    assert (clf.train_skipping, clf.init_iterations, clf.update_iterations, clf.not_found) == (20, 10, 2, 0.30)
    assert (rts50.init_phase, clf.init_phase, clf.sigma_factor) == (100, 100, 0.25)
    assert clf.augmentation.blur == ((3, 1), (1, 3), (2, 2))
    assert rts50.box_to_mask.search_area_scale == 4.0
    assert (ytvos.init_phase, ytvos.classifier.init_phase, ytvos.scale_change) == (200, 200, None)
    with pytest.raises(ks.InputError, match="rts50"):
        preset("rts5")


# --- losing and finding (§9.3) ------------------------------------------------------------------------------------------


def test_mask_and_scores_there():
    tracker = started(lambda frame: (MASK, (50, 72, 0.9)))
    results = [tracker.update(FRAME) for _ in range(3)]
    for r in results:
        assert (r.flag, r.status) == ("normal", ks.Status.FOUND)
        assert r.box_unclipped == (60, 40, 24, 20), "the mask's tight box"
        assert np.array_equal(r.mask, MASK)
        assert r.presence > 0.9
    target = target_of(tracker)
    assert target.pos == (pytest.approx(49.5, abs=0.1), pytest.approx(71.5, abs=0.1)), "centre of mass"
    assert len(target.scales.scales) == 4  # the first frame's, and one per frame


def test_classifier_takes_over_where_the_mask_is_lost():
    elsewhere = (70.0, 100.0, 0.9)
    tracker = started(lambda frame: (MASK if frame < 4 else NOTHING, (50, 72, 0.9) if frame < 4 else elsewhere))
    for _ in range(2):
        tracker.update(FRAME)
    before = target_of(tracker).pos
    lost = tracker.update(FRAME)  # frame 4: the mask is empty
    assert (lost.flag, lost.status, lost.mask.any()) == ("uncertain", ks.Status.UNCERTAIN, False)
    x, y, w, h = lost.box_unclipped
    assert math.dist((y + h / 2, x + w / 2), elsewhere[:2]) < 30, "a score cell is 30 pixels or so"
    assert 0.5 < lost.presence < 1
    assert target_of(tracker).pos != elsewhere[:2]
    tracker.update(FRAME)  # frame 5: the search region goes where the classifier found it
    target = target_of(tracker)
    assert target.pos != before
    assert math.dist(target.pos, elsewhere[:2]) < 30
    assert len(target.scales.scales) == 5


def test_neither_finds_it():
    """The box stays, the search region grows back to the mean of the larger scales (§3.5), and the history does not."""
    tracker = started(lambda frame: (MASK if frame < 4 else NOTHING, (50, 72, 0.9 if frame < 4 else 0.1)))
    results = [tracker.update(FRAME) for _ in range(2)]
    target = target_of(tracker)
    target.scales.scales = [3.0, 2.0, 1.0]
    box = results[-1].box_unclipped
    for i in range(6):
        result = tracker.update(FRAME)
        assert (result.flag, result.status) == ("not_found", ks.Status.LOST)
        assert result.presence < 0.5
        assert result.box_unclipped == box
        if i == 0:  # the frame before was found: it moved, and was appended
            assert len(target.scales.scales) == 4
            first = target.scales.scales[-1]
    assert target.scales.lost == 5
    larger = [s for s in (3.0, 2.0, 1.0, first) if s >= first]
    assert target.scale == pytest.approx(sum(larger[-5:]) / len(larger[-5:]))


def test_a_mask_that_the_classifier_does_not_see_keeps_the_search_region():
    """Table of §9.3, last row: the box is the mask's, the search region does not follow it."""
    moved = rectangle(80, 60, 24, 20)
    tracker = started(lambda frame: (MASK if frame < 4 else moved, (50, 72, 0.9 if frame < 4 else 0.1)))
    for _ in range(3):
        result = tracker.update(FRAME)
    before = target_of(tracker).pos
    for _ in range(3):
        result = tracker.update(FRAME)
        assert (result.flag, result.box_unclipped) == ("normal", (80, 60, 24, 20))
    target = target_of(tracker)
    assert target.pos == before
    assert len(target.scales.scales) == 4
    assert target.scales.lost == 3


@pytest.mark.parametrize(
    ("scale", "size", "cell"),
    [(0.1, None, (2, 3)), (3.0, 3.0, (1, 1)), (3.0, 3.0, (0, 0)), (3.0, 3.0, (2, 3)), (50.0, None, (2, 0))],
)
def test_place_by_the_classifier_alone_has_limits(scale, size, cell):
    """§9.3.6: at least ten pixels, at most the frame; a fifth of the target stays in the frame."""
    tracker = started(lambda frame: (NOTHING, (50, 72, 0.9)))
    plain = tracker._look

    def look(frame, target):
        found = plain(frame, target)
        scores = torch.full((3, 4), -0.1)
        scores[cell] = 0.9
        view = replace(found.view, pos=(60.0, 80.0), scale=scale)
        return replace(found, view=view, scored=Scored(scores, found.scored.samples))

    tracker._look = look
    pos, found = box_to_state(tracker.update(FRAME).box_unclipped)
    place = 60 + (cell[0] - 1) * 32 * scale, 80 + (cell[1] - 1.5) * 32 * scale  # 3 × 4 scores of a crop of 64 × 96
    h, w = 20, 24  # of the target as it was known before
    wanted = min(max(place[0], -0.3 * h), 120 + 0.3 * h), min(max(place[1], -0.3 * w), 160 + 0.3 * w)
    assert pos == pytest.approx(wanted)
    assert found[1] / found[0] == pytest.approx(w / h)
    if size is None:
        assert (min(found) if scale < 1 else found[0]) == pytest.approx(10 if scale < 1 else 120)
    else:
        assert found == pytest.approx(np.multiply(target_of(tracker).found_base, size))


@pytest.mark.parametrize(("score", "lost"), [(0.25, False), (0.2499, True)])
def test_a_score_at_the_threshold_is_found(score, lost):
    """§9.3.6: ``not_found`` is below the threshold; one that float32 holds exactly."""
    assert preset("rts50").classifier.not_found == 0.30
    classifier = replace(small_rts().config.classifier, not_found=0.25)
    tracker = started(lambda frame: (NOTHING, (50, 72, score)), classifier=classifier)
    result = tracker.update(FRAME)
    assert target_of(tracker).score_lost == lost
    assert (result.status, result.flag) == (
        (ks.Status.LOST, "not_found") if lost else (ks.Status.UNCERTAIN, "uncertain")
    )


@pytest.mark.parametrize(("count", "small"), [(100, True), (101, False)])
def test_a_mask_of_a_hundred_pixels_is_too_small(count, small):
    """§9.2 and §9.3.5: of the first mask its pixels, later the sum of probabilities."""
    mask = rectangle(20, 50, count, 1)
    tracker = started(lambda frame: (MASK, (50, 72, 0.9)))
    tracker.init(FRAME, mask=mask)
    target = target_of(tracker)
    assert (target.mask_small, target.mask_lost) == (small, small)
    plain = tracker._look
    sure = torch.where(torch.from_numpy(mask), 100.0, -100.0)  # probabilities of 0 and 1
    tracker._look = lambda frame, target: replace(plain(frame, target), logits=sure)
    result = tracker.update(FRAME)
    assert (target.mask_small, target.mask_lost) == (small, False)
    assert (result.box_unclipped == (20, 50, count, 1)) == (not small)


def test_a_small_mask_is_not_trusted():
    small = rectangle(66, 46, 9, 9)  # 81 pixels
    tracker = started(lambda frame: (small, (50, 72, 0.9)))
    result = tracker.update(FRAME)
    target = target_of(tracker)
    assert (target.mask_lost, target.mask_small) == (False, True)
    assert (result.flag, np.array_equal(result.mask, small)) == ("uncertain", True)
    assert result.box_unclipped != (66, 46, 9, 9)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, -0.5])
def test_scores_that_are_none(bad):
    tracker = started(lambda frame: (NOTHING, (50, 72, bad)))
    for _ in range(3):
        result = tracker.update(FRAME)
        assert result.status is ks.Status.LOST
        assert np.isfinite(result.box_unclipped).all()
        assert 0 <= result.presence < 0.5


def test_scale_limits():
    large = rectangle(10, 10, 140, 100)
    scales = {}
    for name in presets():
        tracker = scripted(lambda frame: (large, (60, 80, 0.9)), name)
        tracker.init(FRAME, mask=MASK)
        tracker.update(FRAME)
        before = target_of(tracker).scale
        tracker.update(FRAME)
        scales[name] = target_of(tracker).scale / before
    assert scales["rts50"] == pytest.approx(1.2)
    assert scales["rts50_ytvos"] > 3


def test_learning_in_the_first_phase_and_after_it():
    """During the phase every frame, lost or not; after it not the lost ones, and only as scheduled."""
    away = {4, 9, 12}
    tracker = started(
        lambda frame: (NOTHING if frame in away else MASK, (50, 72, 0.9 if frame != 12 else 0.1)),
        init_phase=8, train_skipping=5,
    )  # fmt: skip
    stored, updated = {}, []
    for frame in range(2, 18):
        result = tracker.update(FRAME)
        stored[frame] = target_of(tracker).memory.stored
        if result.updated:
            updated.append(frame)
        if frame in (10, 13):
            assert result.update_reason == "target lost"
    steps = {frame: stored[frame] - stored[frame - 1] for frame in range(3, 18)}
    assert [f for f, n in steps.items() if n == 0] == [10, 13], "the frame after a lost one would remember that one"
    assert updated == [3, 4, 5, 6, 7, 11, 16]


def test_classifier_learns_what_it_found():
    classifier = replace(small_rts().config.classifier, init_phase=5, train_skipping=4)
    tracker = started(lambda frame: (MASK, (50, 72, 0.1 if frame in (3, 9) else 0.9)), classifier=classifier)
    kept, changed = target_of(tracker).samples.stored, []
    assert kept == 5  # the first frame, mirrored, three blurs
    for frame in range(2, 14):
        before = target_of(tracker).classifier
        tracker.update(FRAME)
        if target_of(tracker).classifier is not before:
            changed.append(frame)
    assert target_of(tracker).samples.stored == kept + 10
    assert changed == [2, 4, 5, 13]


# --- first frame --------------------------------------------------------------------------------------------------------


def test_box_alone_becomes_the_box_networks_mask():
    tracker = small_rts()
    tracker.init(FRAME, box=(60, 40, 24, 20))
    mask = tracker.probabilities()[0] > 0.5
    want = tracker.box_to_mask.mask(FRAME, (60, 40, 24, 20))
    assert np.array_equal(mask, want) or not want.any()
    assert mask.any()
    assert not (mask & ~rectangle(60, 40, 24, 20)).any(), "never beyond the box"


def test_a_box_network_that_sees_nothing():
    tracker = small_rts()
    bias = tracker.box_to_mask.net.decoder.project.conv2.bias
    bias.data.fill_(-1000.0)
    assert not tracker.box_to_mask.mask(FRAME, (60, 40, 24, 20)).any()
    tracker.init(FRAME, box=(60, 40, 24, 20))
    assert (tracker.probabilities()[0] > 0.5).sum() == pytest.approx(math.pi / 4 * 24 * 20, rel=0.05)
    bias.data.fill_(1000.0)  # everything: cut at the box, whose numbers are truncated
    assert np.array_equal(tracker.box_to_mask.mask(FRAME, (60.7, 40.2, 24.9, 20.0)), rectangle(60, 40, 24, 20))
    assert np.array_equal(tracker.box_to_mask.mask(FRAME, (-5, -4, 20, 10)), rectangle(0, 0, 15, 6))


def test_without_box_network():
    tracker = small_rts(box_network=False)
    with pytest.raises(ks.InputError, match=r"'sta'.*mask="):
        tracker.init(FRAME, box=(60, 40, 24, 20))
    tracker.init(FRAME, mask=MASK)
    assert tracker.update(FRAME).mask is not None


def test_loads_without_the_box_networks_file(monkeypatch):
    def find(name, beside=None):
        if name == "sta":
            raise ks.WeightsError("absent")
        return Path(f"{name}.safetensors")

    monkeypatch.setattr(registry, "find_weights", find)
    monkeypatch.setattr(registry, "_loaded", lambda *_: RTSNet(RTSNetConfig(**NARROW)))
    assert registry.load("rts50", device="cpu").box_to_mask is None
    monkeypatch.setattr(registry, "find_weights", lambda name, beside=None: find("sta"))
    with pytest.raises(ks.WeightsError, match="absent"):
        registry.load("rts50", device="cpu")


def test_a_weights_file_takes_its_own_networks_place(monkeypatch):
    given = Path("given.pth")
    monkeypatch.setattr(registry, "find_weights", lambda name, beside: Path(name))
    for part, places in (("target_model_segm", (Path("rts50"), given)), ("clf_encoder", (given, Path("sta")))):
        tensors = {f"{p}.weight": torch.zeros(1) for p in ("target_model", "label_encoder", "decoder", part)}
        monkeypatch.setattr(registry, "read_any", lambda path, t=tensors: SimpleNamespace(tensors=t))
        assert registry.weights_files("rts50", given) == places


@pytest.mark.parametrize("box", [(500, 40, 24, 20), (10, 10, 0, 5), (1, 2, 3)])
def test_boxes_that_the_box_network_refuses(box):
    tool = small_rts().box_to_mask
    assert isinstance(tool, BoxToMask)
    with pytest.raises(ks.InputError, match="box"):
        tool.mask(FRAME, box)


@pytest.mark.parametrize(
    "mask", [rectangle(5, 5, 1, 1), rectangle(0, 0, 1, 1), rectangle(3, 3, 40, 1), rectangle(0, 0, 160, 120)]
)
def test_masks_of_any_size(mask):
    tracker = small_rts()
    tracker.init(FRAME, mask=mask)
    small = mask.sum() <= 100
    target, (rows, cols) = target_of(tracker), np.nonzero(mask)
    assert (target.mask_small, target.mask_lost) == (small, small)
    middle = (rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2
    assert (target.pos, target.size) == (middle, (np.ptp(rows) + 1, np.ptp(cols) + 1))
    assert (target.found_pos, target.found_size) == (target.pos, target.size)
    for frame in range(2, 6):
        result = tracker.update(FRAME)
        if frame == 2:  # the whole frame's mean is its middle, a small mask's box says where it is
            assert target.pos == pytest.approx(middle, abs=0.05)
        check_box(result)


@pytest.mark.parametrize(
    "box", [(-10, -8, 24, 20), (150, 110, 40, 40), (70.4, 60.7, 0.5, 0.4), (-400, -300, 1000, 800)]
)
def test_boxes_of_any_size(box):
    tracker = small_rts()
    tracker.init(FRAME, box=box)
    target = target_of(tracker)
    assert (target.pos, target.size) == box_to_state(box)
    rows, cols = np.nonzero(tracker.probabilities()[0] > 0.5)
    assert box[1] - 1 < rows.min() <= rows.max() < box[1] + box[3]
    assert box[0] - 1 < cols.min() <= cols.max() < box[0] + box[2]
    for _ in range(3):
        check_box(tracker.update(FRAME))


def check_box(result: ks.Result) -> None:
    """A part of it is in the frame, and of a mask all of it."""
    x, y, w, h = result.box_unclipped
    assert np.isfinite((x, y, w, h)).all()
    assert min(w, h, x + w, y + h) > 0
    assert x < 160
    assert y < 120
    if result.flag == "normal":
        rows, cols = np.nonzero(result.mask)
        assert (x, y, w, h) == (cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1)


# --- several targets, bounds, saved states -------------------------------------------------------------------------------


def test_several_targets_have_different_pixels_and_tight_boxes():
    tracker = scripted(lambda frame: (MASK, (50, 72, 0.9)))
    tracker.init(FRAME, masks=[MASK, rectangle(70, 40, 24, 20)])
    for _ in range(3):
        first, second = tracker.update_all(FRAME)  # both claim the first one's pixels
        assert (first.box_unclipped, first.status) == ((60, 40, 24, 20), ks.Status.FOUND)
        assert not second.mask.any()
        assert second.status is not ks.Status.FOUND
        assert np.isfinite(second.box_unclipped).all()
        assert second.box_unclipped != (0, 0, 1, 1), "the published word for an empty merged mask"


def test_flags_are_the_targets_own_and_the_next_search_is_the_merged_maps():
    """§9.2 to 9.4: two that claim half of each other's pixels."""
    left, right = rectangle(70, 50, 20, 12), rectangle(80, 50, 20, 12)
    tracker = two(left, right, 0.4)
    first, second = tracker.update_all(FRAME)
    assert np.array_equal(first.mask, left)  # the first of equals
    assert np.array_equal(second.mask, rectangle(90, 50, 10, 12))
    assert (first.box_unclipped, second.box_unclipped) == ((70, 50, 20, 12), (90, 50, 10, 12))
    # mean of the merged map, above what a score of 0.4 is worth
    assert (first.presence, second.presence) == (pytest.approx(0.75, abs=0.01), pytest.approx(1.0, abs=0.01))
    a, b = target_of(tracker), target_of(tracker, 1)
    assert not any(t.mask_lost or t.mask_small for t in (a, b))
    assert (a.found_pos, a.found_size) == box_to_state((70, 50, 20, 12))
    assert (b.found_pos, b.found_size) == box_to_state((80, 50, 20, 12))
    tracker.update_all(FRAME)
    share = (10 * 74.5 + 5 * 84.5) / 15, (5 * 84.5 + 10 * 94.5) / 15  # shared pixels count by half
    for target, col in ((a, share[0]), (b, share[1])):
        assert target.pos == (pytest.approx(55.5, abs=0.02), pytest.approx(col, abs=0.02))


def test_targets_that_claim_the_same_pixels_both_follow_them():
    """Of 144 pixels half belong to each, too few for a mask of its own; but trusted is what its own logits say, and then the
    merged map's mean and variance count without an area."""
    square = rectangle(70, 50, 12, 12)
    tracker = two(square, square, 0.9)
    first, second = tracker.update_all(FRAME)
    maps = tracker.probabilities()
    assert max(m.sum() for m in maps) < 100
    assert np.array_equal(first.mask, square)
    assert not second.mask.any()
    assert (first.status, second.status) == (ks.Status.FOUND, ks.Status.UNCERTAIN)
    assert first.box_unclipped == second.box_unclipped == (70, 50, 12, 12)
    targets = [target_of(tracker, i) for i in (0, 1)]
    assert not any(t.mask_lost or t.mask_small or t.score_lost for t in targets)
    tracker.update_all(FRAME)
    for target in targets:
        assert target.pos == (pytest.approx(55.5, abs=0.02), pytest.approx(75.5, abs=0.02))
        assert math.sqrt(math.prod(target.size)) == pytest.approx(4 * math.sqrt((12**2 - 1) / 12), abs=0.1)
        assert len(target.scales.scales) == 3


def test_own_flags_when_the_merged_map_says_otherwise():
    """A target whose own mask is small or empty is so, whatever the other one leaves it."""
    for own, (lost, small) in ((NOTHING, (True, True)), (rectangle(66, 46, 9, 9), (False, True))):
        tracker = two(MASK, own, 0.9)
        first, second = tracker.update_all(FRAME)
        b = target_of(tracker, 1)
        assert (b.mask_lost, b.mask_small) == (lost, small)
        assert (first.status, second.status) == (ks.Status.FOUND, ks.Status.UNCERTAIN)
        assert (target_of(tracker).mask_lost, target_of(tracker).mask_small) == (False, False)


def test_memory_is_flat_over_two_thousand_frames():
    """Found, without a mask, without scores and without both, again and again."""
    config = small_rts().config
    frame, mask = FRAME[:40, :48], MASK[20:60, 40:88]
    tracker = scripted(
        lambda number: (mask if number % 3 else np.zeros_like(mask), (30, 32, 0.9 if number % 5 else 0.1)),
        sample_size=(32, 32), classifier=replace(config.classifier, init_phase=30), init_phase=30, box_network=False,
        rescale=replace(config.rescale, horizon=30), update_iterations=1,
    )  # fmt: skip
    tracker.init(frame, mask=mask)
    sizes = []
    for number in range(2, 2002):
        tracker.update(frame)
        if number % 400 == 2 and number > 300:
            sizes.append(held(tracker))
    target = target_of(tracker)
    assert len(target.scales.scales) == 30
    assert len({size for size, _ in sizes}) == 1
    assert max(n for _, n in sizes) <= min(n for _, n in sizes) + 60  # digits of numbers
    assert target.memory.stored > 1000
    assert target.memory.cells.shape[1] == 6
    assert target.samples.stored > 1000
    assert target.samples.cells.shape[1] == 8


def test_published_memories_in_megabytes():
    """What the docstrings of the targets say."""
    config, net = preset("rts50"), RTSNetConfig()
    height, width = config.sample_size
    for memory, stride, target, megabytes in (
        (config.memory, 16, (2, net.num_filters, height // 16, width // 16), (102, 6.4)),
        (config.classifier.memory, 32, (height // 32 + 1, width // 32 + 1), (40, 0.1)),
    ):
        cells = torch.zeros(1, 1, height // stride * (width // stride), net.feature_dim)
        made = SampleMemory.start(
            memory, Samples(cells, (height // stride, width // stride)), torch.zeros(1, 1, *target)
        )
        assert [part.nbytes / 1e6 for part in (made.cells, made.targets)] == pytest.approx(
            megabytes, rel=0.02, abs=0.05
        )


def test_a_saved_state_goes_on_with_the_same_masks(tmp_path):
    frames, boxes = moving_square(8)
    tracker = small_rts()
    tracker.init(frames[0], boxes=[boxes[0], (90, 60, 30, 20)])
    for frame in frames[1:4]:
        tracker.update_all(frame)
    tracker.save_state(tmp_path / "state.safetensors")
    other = small_rts()
    other.load_state(tmp_path / "state.safetensors")
    for frame in frames[4:]:
        for got, want in zip(other.update_all(frame), tracker.update_all(frame), strict=True):
            assert np.array_equal(got.mask, want.mask)
            assert (got.box_unclipped, got.score, got.flag) == (want.box_unclipped, want.score, want.flag)
