"""KeepTrack's loop where the golden traces do not look: bad score maps, long gaps, look-alikes, several targets, saved states.

Networks are narrow and random. The score maps are made by hand: objects at known places of the image, each a peak in the map of
the crop that the tracker really took; the associations are the network's, or those of an oracle.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import small_keeptrack, small_matcher

import keepsight as ks
from keepsight.images import AugmentationConfig
from keepsight.models.keeptrack import KeepTrackNet, lite_config
from keepsight.models.lite import LiteNet
from keepsight.nn.association import Candidates, Matches
from keepsight.online.localise import NORMAL, NOT_FOUND, Localisation
from keepsight.online.memory import SampleMemory
from keepsight.online.search import View
from keepsight.trackers.keeptrack import (
    FollowConfig,
    Followed,
    Follower,
    KeepTrackLiteConfig,
    KeepTrackLiteTracker,
    KeepTrackTracker,
    lite_presets,
    preset,
    presets,
)

FRAME = np.random.default_rng(0).integers(60, 200, (320, 320, 3), dtype=np.uint8)
SIDE, CELL, BACKGROUND = 24, 16, 0.01
"""Of the target's box; image pixels of a score cell, about, at the scale that this box has; scores where nothing is."""

Spot = tuple[float, float, float]
"""(row, column, score) of an object in the image."""
World = Callable[[int], list[Spot]]
"""The objects of a frame; the first frame is 1."""


def score_map(view: View, side: int, spots: list[Spot]) -> np.ndarray:
    scores = np.full((side, side), BACKGROUND, dtype=np.float32)
    for row, col, score in spots:
        cell = [
            round((p - v) / (CELL * view.scale) + (side - 1) / 2) for p, v in zip((row, col), view.pos, strict=True)
        ]
        if all(0 <= c < side for c in cell):
            scores[tuple(cell)] = score
    return scores


class _Scripted:
    """Scores come from ``world``; boxes keep their sizes."""

    world: World
    override: Callable[[int, np.ndarray], np.ndarray] | None = None

    def _localise(self, target, view, scores, features, frame_size):
        frame = getattr(target, "frame", target.followed.frame + 1)
        made = score_map(view, len(scores), self.world(frame))
        if self.override is not None:
            made = self.override(frame, made)
        return super()._localise(target, view, made, features, frame_size)


class Scripted(_Scripted, KeepTrackTracker):
    shrink = 1.0

    def _refine(self, target, view, flag, features):
        target.scale *= self.shrink


class ScriptedLite(_Scripted, KeepTrackLiteTracker):
    def _fit_boxes(self, targets, found, views, frame_size):
        pass

    def _choose(self, target, maxima):
        return 0


def scripted(world: World, name: str = "keeptrack", **changes) -> Scripted:
    """13 × 13 scores."""
    few = AugmentationConfig(rotate=(20,), blur=(), relativeshift=(), dropout=None)
    tracker = small_keeptrack(name, kind=Scripted, **{"sample_size": 192, "augmentation": few, **changes})
    tracker.world = world
    return tracker


def scripted_lite(world: World, config: KeepTrackLiteConfig | None = None) -> ScriptedLite:
    """19 × 19 scores."""
    torch.manual_seed(7)
    matcher = KeepTrackNet(replace(lite_config(), backbone=None, descriptor_channels=16, encoder_channels=(8, 16)))
    few = AugmentationConfig(rotate=(20,), blur=(), relativeshift=(), dropout=None)
    config = replace(config or lite_presets()["keeptrack-lite"], augmentation=few, search_area_scale=12.0)
    tracker = ScriptedLite("keeptrack-lite", config, LiteNet().eval(), matcher.eval(), torch.device("cpu"))
    tracker.world = world
    return tracker


BOTH = pytest.mark.parametrize("make", [scripted, scripted_lite], ids=["keeptrack", "lite"])


def nearest(previous: Candidates, current: Candidates, image_size) -> tuple[Matches, None]:
    """An oracle: candidates of two frames that are each other's nearest, at most 40 pixels apart, are the same."""
    distance = torch.cdist(previous.points[0].double(), current.points[0].double())  # (M, N)
    before = [-1] * distance.shape[1]
    for j in range(distance.shape[1]):
        i = int(distance[:, j].argmin())
        if int(distance[i].argmin()) == j and distance[i, j] < 40:
            before[j] = i
    return matches(before, len(distance)), None


def nobody(previous: Candidates, current: Candidates, image_size) -> tuple[Matches, None]:
    return matches([-1] * current.scores.shape[1], previous.scores.shape[1]), None


def matches(before: list[int], count: int) -> Matches:
    after = [before.index(i) if i in before else -1 for i in range(count)]
    sides = [torch.tensor([side], dtype=torch.int64) for side in (after, before)]
    return Matches(*sides, *((side >= 0).float() for side in sides))


def with_oracle(tracker, oracle=nearest):
    """The same tracker; what the network was asked for is counted in ``tracker.asked``."""
    tracker.asked = 0

    def match(*args):
        tracker.asked += 1
        return oracle(*args)

    tracker.follower.matcher.match = match
    return tracker


def box_at(row: float, col: float) -> tuple[float, float, float, float]:
    return col - (SIDE - 1) / 2, row - (SIDE - 1) / 2, SIDE, SIDE


def centre(result: ks.Result) -> tuple[float, float]:
    x, y, w, h = result.box_unclipped
    return y + (h - 1) / 2, x + (w - 1) / 2


def start(tracker, *places: tuple[float, float]):
    tracker.init(FRAME, boxes=[box_at(*p) for p in places])
    return tracker


def run(tracker, frames: int) -> list[ks.Result]:
    return [tracker.update(FRAME) for _ in range(frames)]


def still(*spots: Spot) -> World:
    return lambda frame: list(spots)


def shown(frames, *spots: Spot) -> World:
    """Objects that are there in some frames only."""
    return lambda frame: list(spots) if frame in frames else []


# --- look-alikes --------------------------------------------------------------------------------------------------------


def crossing(frame: int) -> list[Spot]:
    """Two squares of one look pass each other, three and a half cells apart; then the wrong one looks more like the target."""
    step, confused = 8 * (frame - 2), 6 <= frame <= 12
    return [(140, 110 + step, 0.35 if confused else 0.9), (196, 206 - step, 0.6)]


@BOTH
def test_identities_stay_with_moving_look_alikes(make):
    results = run(with_oracle(start(make(crossing), (140, 110))), 13)
    for frame, result in enumerate(results, start=2):
        for id, (row, col, score) in enumerate(crossing(frame)):
            (found,) = [c for c in result.candidates if c.id == id]
            assert np.hypot(found.position[0] - col, found.position[1] - row) < CELL
            assert found.score == pytest.approx(score)
            assert found.is_target == (id == 0)
        assert [c.score for c in result.candidates] == sorted((c.score for c in result.candidates), reverse=True)
        assert result.flag == NORMAL or frame == 2, "there the base tracker decides, and it sees a distractor"
        row, col, _ = crossing(frame)[0]
        assert np.hypot(*np.subtract(centre(result), (row, col))) < CELL


def test_without_association_the_look_alike_is_followed():
    """So the test above needs it."""
    tracker = start(scripted(crossing, "keeptrack_no_association"), (140, 110))
    assert tracker.follower is None
    results = run(tracker, 6)
    assert all(r.candidates == () for r in results)
    assert centre(results[-1])[0] > 180


def test_a_match_that_is_denied_ends_the_identity():
    tracker = with_oracle(start(scripted(still((160, 160, 0.9), (220, 220, 0.3))), (160, 160)), nobody)
    ids = [[c.id for c in r.candidates] for r in run(tracker, 3)]
    assert ids == [[0, 1], [2, 3], [4, 5]]
    assert tracker.asked == 2


# --- the network is not asked -------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("spots", "asked"),
    [([(160, 160, 0.6)], 0), ([(160, 160, 0.4)], 3), ([(160, 160, 0.6), (220, 220, 0.3)], 3)],
    ids=["one sure", "one unsure", "two"],
)
def test_the_network_is_asked_only_where_needed(make, spots, asked, monkeypatch):
    described = []
    real = KeepTrackNet.describe
    monkeypatch.setattr(KeepTrackNet, "describe", lambda *args: described.append(1) or real(*args))
    tracker = with_oracle(start(make(still(*spots)), (160, 160)))
    results = run(tracker, 4)
    assert tracker.asked == asked
    assert len(described) == (asked + 1 if asked else 0), "each frame's descriptors are made once, if ever"
    assert all(r.candidates[0].id == 0 for r in results)


def test_skipping_can_be_turned_off():
    settings = FollowConfig(skip_matching=False)
    tracker = with_oracle(start(scripted(still((160, 160, 0.9)), association=settings), (160, 160)))
    run(tracker, 4)
    assert tracker.asked == 3


# --- frames without candidates ------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("gap", [1, 2, 5])
@pytest.mark.parametrize("begin", [4, 10])
def test_a_gap_restarts_the_identities(make, gap, begin):
    """Before the 10th frame with the target's first number, 0; later with 1, which is not the first target's. What is shown
    never means two objects: after the gap come fresh numbers."""
    spots = (160, 160, 0.9), (224, 224, 0.3)
    tracker = with_oracle(start(make(lambda f: [] if begin <= f < begin + gap else list(spots)), (160, 160)))
    results = dict(enumerate(run(tracker, begin + gap), start=2))
    for frame, result in results.items():
        if begin <= frame < begin + gap:
            assert (result.candidates, result.status) == ((), ks.Status.LOST)
            assert result.presence < 0.5
            continue
        first = 0 if frame < begin else 2 + (begin + gap >= 10)
        assert [(c.id, c.is_target) for c in result.candidates] == [(first, True), (first + 1, False)]
        assert result.status == ks.Status.FOUND
    assert tracker._current().targets[0].followed.objects.selected_id == (begin + gap >= 10)
    before_and_after = len([f for f in results if f < begin]) - 1, len([f for f in results if f >= begin + gap]) - 1
    assert tracker.asked == sum(before_and_after)


@BOTH
def test_never_any_candidate(make):
    results = run(start(make(still()), (160, 160)), 4)
    for result in results:
        assert (result.candidates, result.flag) == ((), NOT_FOUND)
        assert all(map(math.isfinite, result.box_unclipped))


# --- broken score maps --------------------------------------------------------------------------------------------------


def one_nan(scores: np.ndarray) -> np.ndarray:
    scores[0, 3] = math.nan
    return scores


BROKEN = {
    "all NaN": lambda scores: np.full_like(scores, math.nan),
    "one NaN": one_nan,
    "minus infinity": lambda scores: np.full_like(scores, -math.inf),
    "zero": np.zeros_like,
}


@BOTH
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_maps_are_no_find_and_tracking_goes_on(make, kind):
    tracker = with_oracle(start(make(still((160, 160, 0.9))), (160, 160)))
    tracker.override = lambda frame, scores: BROKEN[kind](scores) if frame in (2, 4, 5) else scores
    results = dict(enumerate(run(tracker, 6), start=2))
    for frame, result in results.items():
        broken = frame in (2, 4, 5)
        assert all(map(math.isfinite, (*result.box, *result.box_unclipped)))
        assert result.status == (ks.Status.LOST if broken else ks.Status.FOUND)
        assert not broken or (result.candidates, result.updated) == ((), False)
        assert broken or [c.id for c in result.candidates] == [0 if frame < 4 else 1]
        assert 0 <= result.presence <= 1
    assert np.hypot(*np.subtract(centre(results[7]), (160, 160))) < CELL


def test_a_network_of_nan_matches_nothing():
    """Its candidates start anew, and the highest is the target."""
    tracker = start(scripted(still((160, 160, 0.9), (220, 220, 0.3))), (160, 160))
    for parameter in tracker.follower.matcher.parameters():
        parameter.fill_(math.nan)
    results = run(tracker, 3)
    assert [[(c.id, c.is_target) for c in r.candidates] for r in results] == [
        [(0, True), (1, False)], [(2, True), (3, False)], [(4, True), (5, False)],
    ]  # fmt: skip
    assert all(r.flag == NORMAL for r in results)


@BOTH
def test_a_flat_map_has_defined_results(make):
    """Every cell is a peak."""
    tracker = start(make(still()), (160, 160))
    tracker.override = lambda frame, scores: np.full_like(scores, 0.4)
    for result in run(tracker, 3):
        assert all(map(math.isfinite, result.box_unclipped))
        assert 0 < len(result.candidates) <= 19**2
        assert len({c.id for c in result.candidates}) == len(result.candidates)
        assert sum(c.is_target for c in result.candidates) <= 1


def followed_map(scores: np.ndarray, base: Localisation, times: int = 1) -> list[tuple[Localisation, Followed]]:
    """A map of the published size, 31 × 31, straight to the part that follows, several times."""
    follower, kept = Follower(FollowConfig(), small_matcher(8), CELL, torch.device("cpu")), Followed()
    view, maps = View((240.0, 240.0), 1.0, 480), torch.randn(1, 8, 30, 30)
    found = []
    with torch.inference_mode():
        for _ in range(times):
            found.append((follower.follow(kept, view, scores, maps, (480, 480), base), copy.copy(kept)))
    return found


def test_hundreds_of_equal_peaks():
    """On a flat map each of the 961 cells is a peak; as many are followed as peaks without ties could be."""
    flat = np.full((31, 31), 0.3, np.float32)
    for where, kept in followed_map(flat, Localisation((0.0, 0.0), NORMAL, 0.3), 2):
        assert where.flag == NORMAL
        found = kept.candidates()
        assert len(found) == 121
        assert len({c.id for c in found}) == len(found)
        assert sum(c.is_target for c in found) == 1


def test_all_peaks_without_ties_are_followed():
    """11 × 11, three cells apart: no closer ones can be."""
    scores = np.zeros((31, 31), np.float32)
    scores[::3, ::3] = 0.9 - 0.005 * np.random.default_rng(0).permutation(121).reshape(11, 11)
    ((_, kept),) = followed_map(scores, Localisation((0.0, 0.0), NORMAL, 0.9))
    found = kept.candidates()
    assert [c.score for c in found] == pytest.approx([0.9 - 0.005 * i for i in range(121)])


# --- several targets ----------------------------------------------------------------------------------------------------

PLACES = (110, 110), (110, 200), (200, 150)


def three(frame: int) -> list[Spot]:
    return [(r + 3 * (frame - 1), c + 4 * (frame - 1), 0.9 - 0.2 * i) for i, (r, c) in enumerate(PLACES)]


@BOTH
def test_several_targets_at_once_equal_one_at_a_time(make):
    """With the network's own associations."""
    together = start(make(three), *PLACES)
    at_once = [together.update_all(FRAME) for _ in range(5)]
    for i, place in enumerate(PLACES):
        alone = run(start(make(three), place), 5)
        for one, all_of_them in zip(alone, at_once, strict=True):
            other = all_of_them[i]
            assert one.candidates == other.candidates
            assert len(one.candidates) >= 2
            assert one.box_unclipped == other.box_unclipped
            assert (one.flag, one.score, one.presence, one.updated) == (
                other.flag, other.score, other.presence, other.updated,
            )  # fmt: skip


# --- saved states -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("at", [2, 4, 5])
def test_a_saved_state_goes_on_identically(make, at, tmp_path):
    """Saved after a frame with candidates, and in a gap; identities, histories and scales are all in it."""

    def world(frame):
        return [] if frame in (5, 6) else three(frame)

    tracker = start(make(world), *PLACES[:2])
    for _ in range(at):
        tracker.update_all(FRAME)
    tracker.save_state(tmp_path / "state.safetensors")
    other = start(make(world), (60, 60))
    other.load_state(tmp_path / "state.safetensors")
    for _ in range(4):
        for a, b in zip(tracker.update_all(FRAME), other.update_all(FRAME), strict=True):
            assert replace(a, milliseconds=0.0) == replace(b, milliseconds=0.0)


def test_a_state_of_other_settings_or_another_matcher_is_refused(tmp_path):
    tracker = start(scripted(three), PLACES[0])
    tracker.save_state(tmp_path / "state.safetensors")
    with pytest.raises(ks.StateError, match="another tracker"):
        scripted(three, association=FollowConfig(threshold=0.1)).load_state(tmp_path / "state.safetensors")
    changed = replace(tracker.matcher_config, match_threshold=0.3)
    other = scripted(three)
    other.matcher_config = changed
    with pytest.raises(ks.StateError, match="another tracker"):
        other.load_state(tmp_path / "state.safetensors")


# --- confidence of samples ----------------------------------------------------------------------------------------------


def remembered(monkeypatch, name: str) -> tuple[list[float], Scripted, list[ks.Result]]:
    """Confidences that a run gives its samples: sure of the first target, then of new ones; at 0.4 not sure."""
    given, real = [], SampleMemory.insert

    def insert(self, *args, confidence=1.0, **kwargs):
        given.append(confidence)
        return real(self, *args, confidence=confidence, **kwargs)

    monkeypatch.setattr(SampleMemory, "insert", insert)
    scores = {2: 0.49, 3: 0.64, 4: 0.4}
    tracker = with_oracle(start(scripted(lambda f: [(160, 160, scores[f])], name), (160, 160)), nobody)
    return given, tracker, run(tracker, 3)


def test_confidence_of_samples_and_presence(monkeypatch):
    given, tracker, results = remembered(monkeypatch, "keeptrack")
    sure = [0.7, 0.64, 0.4]  # the root as long as the target is the first frame's
    assert given == pytest.approx(sure, abs=1e-6)
    assert [r.presence for r in results] == pytest.approx(
        [s / (s + 0.55) for s in sure]
    )  # §3.1: OxUvA's limit is at a half
    memory = tracker._current().targets[0].memory
    kept = memory.confidence[memory.initial : memory.initial + 3]
    assert kept == pytest.approx([0.7, 0.64, 0.0], abs=1e-6)  # below the limit a sample counts for nothing
    weights = memory.filled()[2].flatten()
    assert weights[memory.initial + 2] == 0
    assert (weights[: memory.initial + 2] > 0).all()


def test_without_confidence_every_sample_counts(monkeypatch):
    _, tracker, _ = remembered(monkeypatch, "keeptrack_no_confidence")
    memory = tracker._current().targets[0].memory
    assert memory.confidence is None
    assert (memory.filled()[2] > 0).all()


# --- the search region of a lost target ---------------------------------------------------------------------------------


def scales_while_lost(name: str) -> list[float]:
    """In units of the first; the target shrinks by a tenth in each of four frames, then it is lost for six."""
    tracker = scripted(shown(range(2, 6), (160, 160, 0.9)), name)
    tracker.shrink = 0.9
    target = start(tracker, (160, 160))._current().targets[0]
    first = target.scale
    assert [r.status for r in run(tracker, 4)] == [ks.Status.FOUND] * 4
    found = []
    for result in (tracker.update(FRAME) for _ in range(6)):
        assert result.status == ks.Status.LOST
        found.append(tracker._current().targets[0].scale / first)
    return found


def test_the_search_region_of_a_lost_target_grows_back():
    """Crops had the scales 1, 0.9, 0.81, 0.729; the mean of the last two, then of as many as frames were lost."""
    s = [1, 0.9, 0.81, 0.729]
    means = [sum(s[-n:]) / n for n in (2, 2, 3, 4, 4, 4)]
    assert scales_while_lost("keeptrack") == pytest.approx(means)


def test_the_papers_rule_takes_larger_regions_only():
    """The last one, 0.729, takes no part: of the three before it the latest, then two, then all."""
    s = [1, 0.9, 0.81]
    assert scales_while_lost("keeptrack_paper") == pytest.approx([sum(s[-n:]) / n for n in (1, 2, 3, 3, 3, 3)])


def test_without_rescaling_the_region_stays():
    assert scales_while_lost("keeptrack_no_rescaling") == pytest.approx([0.9**4] * 6)


# --- the default tracker's limits -----------------------------------------------------------------------------------------


RIVAL = (230, 230, 0.8)


@pytest.mark.parametrize(("score", "is_found"), [(0.31, True), (0.29, False)])
def test_lite_loses_a_target_that_it_follows_below_its_limit(score, is_found):
    """Among look-alikes, too, where the highest score is another's: the target's own decides."""
    world = lambda frame: [(160, 160, 0.9 if frame < 5 else score), RIVAL]  # noqa: E731
    results = run(with_oracle(start(scripted_lite(world), (160, 160))), 5)
    assert [r.status for r in results[1:3]] == [ks.Status.FOUND] * 2  # before, there was nothing to match with
    for result in results[3:]:
        assert result.status == (ks.Status.FOUND if is_found else ks.Status.LOST)
        assert [c.id for c in result.candidates if c.is_target] == ([0] if is_found else [])
        assert np.hypot(*np.subtract(centre(result), (160, 160))) < CELL


def test_the_published_tracker_has_no_such_limit():
    world = lambda frame: [(160, 160, 0.9 if frame < 5 else 0.1), RIVAL]  # noqa: E731
    results = run(with_oracle(start(scripted(world), (160, 160))), 5)
    assert [r.status for r in results] == [ks.Status.FOUND] * 5
    assert results[-1].candidates[1].is_target


@pytest.mark.parametrize(("score", "ids"), [(0.11, [0, 1]), (0.09, [0])])
def test_lite_candidates_score_above_a_tenth(score, ids):
    (result,) = run(start(scripted_lite(still((160, 160, 0.9), (230, 230, score))), (160, 160)), 1)
    assert [c.id for c in result.candidates] == ids


@pytest.mark.parametrize(("make", "score", "is_found"), [
    (scripted_lite, 0.32, True), (scripted_lite, 0.28, False), (scripted, 0.26, True), (scripted, 0.24, False),
])  # fmt: skip
def test_a_lost_target_is_taken_up_again_above_the_limit(make, score, is_found):
    """After its match was denied: 0.3 for the default tracker, 0.25 for the published."""
    tracker = start(make(lambda frame: [(160, 160, 0.9 if frame < 4 else score)]), (160, 160))
    results = run(with_oracle(tracker, nobody), 3)
    assert [r.status for r in results[:2]] == [ks.Status.FOUND] * 2
    assert results[2].status == (ks.Status.FOUND if is_found else ks.Status.LOST)
    assert [c.is_target for c in results[2].candidates] == [is_found]


def place_of_a_leaning_peak(make, slope: float) -> tuple[float, float]:
    """Where the target is found, (row, column) in cells, if in the third frame the cell to the right of its peak has the
    score 0.5 + slope and the one to the left 0.5 - slope; the cell itself 0.9."""

    def lean(frame: int, scores: np.ndarray) -> np.ndarray:
        if frame == 3:
            row, col = divmod(int(scores.argmax()), scores.shape[1])
            scores[row, col - 1 : col + 2] = 0.5 - slope, 0.9, 0.5 + slope
        return scores

    tracker = with_oracle(start(make(still((160, 160, 0.9), RIVAL)), (160, 160)))
    tracker.override = lean
    run(tracker, 1)
    scale = tracker._current().targets[0].scale
    (third,) = run(tracker, 1)
    assert third.flag == NORMAL
    assert third.candidates[0].is_target
    row, col = centre(third)
    return row / (CELL * scale), col / (CELL * scale)


def test_lite_finds_the_place_between_the_cells():
    """The parabola through 0.2, 0.9, 0.8 has its top at (0.8 - 0.2) / (2 · (2 · 0.9 - 0.2 - 0.8)) = 0.375 cells."""
    even, right, left = (place_of_a_leaning_peak(scripted_lite, s) for s in (0.0, 0.3, -0.3))
    assert right[1] - even[1] == pytest.approx(0.375, abs=0.02)
    assert left[1] - even[1] == pytest.approx(-0.375, abs=0.02)
    assert right[0] == left[0] == even[0]


def test_the_published_tracker_takes_the_cell():
    assert place_of_a_leaning_peak(scripted, 0.3) == place_of_a_leaning_peak(scripted, 0.0)


# --- settings -----------------------------------------------------------------------------------------------------------


PUBLISHED = {  # spec §3.1, line by line: default, default_fast where it differs
    "weights": ("super_dimp_simple",), "association.matcher": ("keep_track",),
    "sample_size": (480, 352), "search_area_scale": (8.0, 6.0), "association.threshold": (0.05, 0.1),
    "refine.iterations": (10, 3),
    "crop.border_mode": ("inside_major",), "crop.max_scale_change": (1.5,),
    "memory.size": (50,), "memory.learning_rate": (0.01,), "memory.min_init_weight": (0.25,),
    "memory.hard_negative_learning_rate": (0.02,), "memory.confidence_threshold": (0.5,),
    "memory.erase_low_confidence": (True,),
    "train_skipping": (20,), "sample_interval": (1,), "init_iterations": (10,), "update_iterations": (2,),
    "hard_negative_iterations": (1,), "hard_negative_score": (0.5,), "low_score_threshold": (None,),
    "localisation.window": (False,), "localisation.advanced": (True,), "localisation.score_preprocess": ("none",),
    "localisation.target_not_found": (0.25,), "localisation.distractor": (0.8,), "localisation.hard_negative": (0.5,),
    "localisation.neighbourhood_scale": (2.2,), "localisation.displacement_scale": (0.8,), "localisation.subcell": (False,),
    "localisation.uncertain": (-math.inf,), "localisation.hard_sample": (-math.inf,),
    "augmentation.fliplr": (True,), "augmentation.rotate": ((10, -10, 45, -45),),
    "augmentation.blur": (((3, 1), (1, 3), (2, 2)),), "augmentation.dropout": ((2, 0.2),),
    "augmentation.relativeshift": (((0.6, 0.6), (-0.6, 0.6), (0.6, -0.6), (-0.6, -0.6)),),
    "augmentation.scale": ((),), "augmentation.shift": ((),),
    "augmentation.expansion_factor": (2,), "augmentation.random_shift_factor": (1 / 3,),
    "refine.space": ("relative",), "refine.top_k": (3,), "refine.random_boxes": (9,), "refine.jitter_position": (0.1,),
    "refine.jitter_size": (0.5,), "refine.max_aspect": (6,), "refine.step": (2.5e-3,), "refine.step_decay": (1,),
    "modulation_from_augmented": (False,), "update_scale_when_uncertain": (True,),
    "presence_midpoint": (0.55,),
    # §3.3 to 3.5
    "association.skip_matching": (True,), "association.subcell": (False,), "association.own_score": (False,),
    "association.threshold_included": (False,), "association.lowest": (-math.inf,),
    "association.rules.split_probability": (0.6,), "association.rules.weak_split_probability": (0.85,),
    "association.rules.weak_score": (0.2,), "association.rules.split_distractors": (False,),
    "association.rules.switch_on_current": (False,), "association.rules.redetection": (0.25,),
    "association.rules.redetection_inclusive": (False,), "association.rules.restart_frame": (10,),
    "association.rules.skip_score": (0.5,), "association.rules.root_by_identity": (False,),
    "rescale.horizon": (60,), "rescale.fewest": (2,), "rescale.most": (30,), "rescale.inclusive": (True,),
}  # fmt: skip


LITE = {
    "sample_size": 289, "search_area_scale": 5.0, "memory.size": 30,  # dimp-lite's
    "association.threshold": 0.1, "association.matcher": "keeptrack-lite",  # the threshold is keeptrack_fast's
    # dimp-lite's own limit of being lost, for a target that is followed and for one that was lost
    "localisation.target_not_found": 0.3, "association.lowest": 0.3, "association.rules.redetection": 0.3,
    # as dimp-lite takes places and scores: its cell is 5 / 18 of the target's size
    "localisation.subcell": True, "association.subcell": True, "association.own_score": True,
    # the published ones
    "association.rules.split_probability": 0.6, "association.rules.weak_split_probability": 0.85,
    "association.rules.weak_score": 0.2, "association.rules.skip_score": 0.5, "association.skip_matching": True,
    "association.rules.split_distractors": False, "association.rules.switch_on_current": False,
}  # fmt: skip
"""What ``lowest`` and ``subcell`` are worth on real sequences: docs/keeptrack.md."""


def setting(config, path: str):
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("number", [0, 1], ids=["keeptrack", "keeptrack_fast"])
def test_published_numbers(number):
    config = preset(("keeptrack", "keeptrack_fast")[number])
    want = {path: values[number % len(values)] for path, values in PUBLISHED.items()}
    assert {path: setting(config, path) for path in want} == want


def test_numbers_of_the_default_trackers():
    config = lite_presets()["keeptrack-lite"]
    assert {path: setting(config, path) for path in LITE} == LITE


def test_presets_differ_as_their_names_say():
    known = presets()
    full = known["keeptrack"]
    assert (full.sample_size, full.search_area_scale, full.memory.confidence_threshold) == (480, 8.0, 0.5)
    assert known["keeptrack_fast"].refine.iterations == 3
    assert known["keeptrack_fast"].association.threshold == 0.1
    assert known["keeptrack_no_association"].association is None
    assert known["keeptrack_no_rescaling"].rescale is None
    assert known["keeptrack_no_confidence"].memory.confidence_threshold is None
    assert known["keeptrack_small_area"].search_area_scale == 6.0
    assert known["keeptrack_paper"].association.rules != full.association.rules
    assert known["keeptrack_paper"].association.threshold_included
    assert not known["keeptrack_paper"].memory.erase_low_confidence
    assert len({repr(config) for config in known.values()}) == len(known)
    with pytest.raises(ks.InputError, match="keeptrack_fast"):
        preset("keeptrack_fats")
