"""Identities of candidates, rule by rule: half a percent to either side of every limit, equalities, bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from keepsight.errors import InputError
from keepsight.online.candidates import (
    AssociationRules,
    CandidateState,
    associate,
    certainty,
    match_is_certain,
    start,
)
from keepsight.online.snapshot import pack, unpack

CODE, PAPER = AssociationRules(), AssociationRules.paper()
NAN = float("nan")


def places(n: int) -> np.ndarray:
    return np.stack([np.arange(n), 2 * np.arange(n)], axis=1)


def begin(*scores: float, frame: int = 2, rules: AssociationRules = CODE) -> CandidateState:
    return start(scores, places(len(scores)), frame, rules)


def follow(state, *candidates: tuple[int, float, float], rules: AssociationRules = CODE) -> CandidateState:
    """The next frame; each candidate is (match, probability, score)."""
    matches, probabilities, scores = zip(*candidates, strict=True) if candidates else ((), (), ())
    return associate(state, matches, probabilities, scores, places(len(scores)), rules)


def ids(state: CandidateState) -> list[int]:
    return [o.id for o in state.objects]


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frame", "first"), [(2, 0), (9, 0), (10, 1), (11, 1)])
def test_restart_numbers_from_0_before_frame_10_and_from_1_after(frame, first):
    state = begin(0.6, 0.3, 0.1, frame=frame)
    assert ids(state) == [first, first + 1, first + 2]
    assert (state.selected, state.selected_id, state.flag, state.next_id) == (0, first, "normal", first + 3)
    assert state.certain == (first == 0)
    assert state.precedes(frame + 1)
    assert not state.precedes(frame)
    assert not state.precedes(frame + 2)


def test_restart_takes_the_top_candidate_whatever_its_score():
    state = begin(0.06)
    assert state.flag == "normal"
    assert follow(state, (0, 0.9, 0.21)).flag == "normal"  # and stays with it below the limit of re-detection


# --- (i) who goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("probability", "goes_on"), [(0.597, False), (0.6, True), (0.603, True), (NAN, False)])
def test_target_needs_probability(probability, goes_on):
    state = follow(begin(0.9, 0.3), (0, probability, 0.5), (1, 0.21, 0.3))
    assert ids(state) == ([0, 1] if goes_on else [2, 1])


@pytest.mark.parametrize(
    ("probability", "score", "goes_on"),
    [
        (0.84575, 0.199, False), (0.85, 0.199, True), (0.85425, 0.199, True), (0.84575, 0.2, True), (0.84575, 0.201, True),
        (0.603, 0.2, True), (0.597, 0.2, False), (0.84575, NAN, True),
    ],
)  # fmt: skip
def test_weak_target_needs_more(probability, score, goes_on):
    assert ids(follow(begin(0.9), (0, probability, score))) == ([0] if goes_on else [1])


@pytest.mark.parametrize("probability", [0.21, 0.597, NAN])
def test_distractors_go_on_at_any_probability(probability):
    assert ids(follow(begin(0.9, 0.3), (0, 0.9, 0.8), (1, probability, 0.1))) == [0, 1]


@pytest.mark.parametrize(("probability", "goes_on"), [(0.74625, False), (0.75, True), (0.75375, True)])
def test_paper_splits_every_object_below_omega(probability, goes_on):
    for score in (0.15, 0.5):  # no weaker or stricter limit for weak ones
        state = follow(begin(0.9, 0.3), (0, probability, score), (1, probability, 0.1), rules=PAPER)
        assert ids(state) == ([0, 1] if goes_on else [2, 3])


def test_fresh_identities_in_rank_order_and_lost_ones_vanish():
    state = follow(begin(0.9, 0.5, 0.4), (-1, 0.0, 0.8), (0, 0.9, 0.7), (-1, 0.0, 0.3))
    assert ids(state) == [3, 0, 4]
    assert state.next_id == 5
    state = follow(state, (2, 0.9, 0.8), (-1, 0.0, 0.3))
    assert ids(state) == [4, 5]


def test_split_target_gets_a_fresh_identity_that_may_be_taken_up_at_once():
    state = follow(begin(0.9), (0, 0.5, 0.4))
    assert (ids(state), state.selected, state.selected_id, state.flag) == ([1], 0, 1, "normal")
    assert not state.certain


# --- (ii), (iii) which one it is --------------------------------------------------------------------------------------


def test_target_is_followed_down_the_ranks():
    state = follow(begin(0.9, 0.3), (1, 0.9, 0.8), (0, 0.9, 0.2))
    assert (state.selected, state.selected_id, state.flag) == (1, 0, "normal")


@pytest.mark.parametrize(("score", "selected"), [(0.8 * 0.995, 1), (0.8, 1), (0.8 * 1.005, 0)])
def test_switch_on_the_history_maximum(score, selected):
    state = follow(begin(0.8, 0.3), (1, 0.9, score), (0, 0.9, 0.2))
    assert state.selected == selected
    assert state.selected_id == (1 if selected == 0 else 0)


def test_switch_reads_the_histories_of_both():
    # the rival's best score lies in the past, today it is above no one's best
    state = follow(begin(0.8, 0.3), (1, 0.9, 0.79), (0, 0.9, 0.2))
    state = follow(state, (-1, 0.0, 0.7), (1, 0.9, 0.2), (0, 0.9, 0.1))  # 0 still the target, rival 1 now third
    assert state.selected_id == 0
    state = follow(begin(0.6, 0.5), (0, 0.5, 0.55), (1, 0.9, 0.5))  # split: object 2 is the target with 0.55
    assert state.selected_id == 2
    state = follow(state, (0, 0.5, 0.4), (1, 0.9, 0.3))  # split again: 3 with 0.4
    assert state.selected_id == 3
    state = follow(state, (1, 0.9, 0.35), (0, 0.9, 0.3))  # 1 was at 0.5 once
    assert (state.selected, state.selected_id) == (0, 1)
    state = follow(begin(0.6, 0.5), (0, 0.5, 0.55), (1, 0.9, 0.5), rules=PAPER)
    state = follow(state, (0, 0.5, 0.4), (1, 0.9, 0.3), rules=PAPER)
    state = follow(state, (1, 0.9, 0.35), (0, 0.9, 0.3), rules=PAPER)
    assert (state.selected, state.selected_id) == (1, 3), "the paper compares the score of this frame"


def test_only_the_top_candidate_can_take_over():
    state = follow(begin(0.9, 0.5), (1, 0.9, 0.8), (0, 0.5, 0.45))  # 0 is split: 2 at 0.45; the top, object 1, is taken
    assert state.selected_id == 1
    state = follow(state, (-1, 0.0, 0.5), (1, 0.9, 0.4), (0, 0.7, 0.3))  # top: fresh 3 at 0.5; target 1 was at 0.8
    assert (state.selected, state.selected_id) == (2, 1)
    weak_target = replace(state, objects=(state.objects[0], replace(state.objects[1], maximum=0.95), state.objects[2]))
    state = follow(weak_target, (0, 0.9, 0.5), (1, 0.9, 0.4), (2, 0.9, 0.3))
    assert (state.selected, state.selected_id) == (2, 1), "the second has the best history, but is not the top"


@pytest.mark.parametrize(("score", "selected"), [(0.8 * 0.995, 1), (0.8, 1), (0.8 * 1.005, 0)])
def test_paper_switches_on_a_current_score_above_the_target_s_history(score, selected):
    state = follow(begin(0.8, 0.3), (1, 0.9, score), (0, 0.9, 0.2), rules=PAPER)
    assert state.selected == selected


# --- (iv) found again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "found"), [(0.25 * 0.995, False), (0.25, False), (0.25 * 1.005, True), (NAN, False)])
@pytest.mark.parametrize("rules", [CODE, PAPER])
def test_redetection_limit(score, found, rules):
    found = found or (rules is PAPER and score == 0.25)
    state = follow(begin(0.9), (-1, 0.0, score), (-1, 0.0, 0.1), rules=rules)
    assert (state.selected, state.flag) == ((0, "normal") if found else (None, "not_found"))
    assert state.selected_id == (1 if found else 0)


def test_redetection_reads_the_current_score_not_the_history():
    state = follow(begin(0.9, 0.6), (-1, 0.0, 0.2), (1, 0.9, 0.15))
    assert state.flag == "not_found"
    assert ids(state) == [2, 1]


def test_redetection_takes_the_highest_the_first_among_equals():
    assert follow(begin(0.9), (-1, 0.0, 0.4), (-1, 0.0, 0.3)).selected == 0
    assert follow(begin(0.9), (-1, 0.0, 0.4), (-1, 0.0, 0.4)).selected == 0
    assert follow(begin(0.9), (-1, 0.0, NAN), (-1, 0.0, 0.3), (-1, 0.0, 0.4)).selected == 2


def test_an_identity_that_was_lost_never_returns():
    state = begin(0.9)
    state = follow(state, (-1, 0.0, 0.2))
    assert (state.flag, state.selected_id, ids(state)) == ("not_found", 0, [1])
    state = follow(state, (0, 0.9, 0.24))  # the last id stays what it was
    assert (state.flag, state.selected_id, ids(state)) == ("not_found", 0, [1])
    state = follow(state, (0, 0.5, 0.26))  # 1 was never the target, so a low probability does not split it
    assert (state.flag, state.selected_id, ids(state)) == ("normal", 1, [1])


# --- the network is not asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "skipped"),
    [
        (0.5025, 0.5025, True), (0.5, 0.5025, False), (0.5025, 0.5, False), (0.4975, 0.9, False), (0.9, 0.4975, False),
        (NAN, 0.9, False), (0.9, NAN, False),
    ],
)  # fmt: skip
def test_single_candidates_match_without_the_network(before, now, skipped):
    assert match_is_certain(begin(before), [now], CODE) == skipped


def test_several_or_no_candidates_need_the_network():
    assert not match_is_certain(begin(0.9, 0.6), [0.9], CODE)
    assert not match_is_certain(begin(0.9), [0.9, 0.6], CODE)
    assert not match_is_certain(begin(), [0.9], CODE)
    assert not match_is_certain(begin(0.9), [], CODE)


def test_the_last_score_counts_not_the_best():
    assert not match_is_certain(follow(begin(0.9), (0, 0.9, 0.4)), [0.9], CODE)


# --- certainty --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("score", "boosted"), [(0.49, 0.7), (1.0, 1.0), (1.21, 1.21), (0.0, 0.0), (-0.2, -0.2)])
def test_certainty_is_boosted_for_the_first_target(score, boosted):
    assert certainty(score, None) == pytest.approx(boosted)
    assert certainty(score, begin(0.9)) == pytest.approx(boosted)
    assert certainty(score, begin(0.9, frame=10)) == score
    assert certainty(score, follow(begin(0.9), (0, 0.5, 0.4))) == score
    assert certainty(score, follow(begin(0.9), (-1, 0.0, 0.2))) == pytest.approx(boosted), "lost, but still the first"


@pytest.mark.parametrize("score", [0.3, 0.7, 1.44])
def test_paper_certainty_is_the_root_with_the_first_identity_only(score):
    rules = AssociationRules.paper()
    assert certainty(score, None, rules) == score
    assert certainty(score, begin(0.9), rules) == pytest.approx(math.sqrt(score))
    assert certainty(score, begin(0.9, frame=10), rules) == score
    assert certainty(-0.5, begin(0.9), rules) == -0.5


def test_certainty_of_nan_is_nan():
    assert math.isnan(certainty(NAN, None))


# --- single precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_limits_are_compared_in_float32(kind):
    below = np.nextafter(np.float32(0.6), np.float32(0))
    assert ids(follow(begin(0.9), (0, kind(below), 0.5))) == [1]
    assert ids(follow(begin(0.9), (0, kind(np.float32(0.6)), 0.5))) == [0]
    assert ids(follow(begin(0.9), (0, kind(np.float32(0.85)), 0.1))) == [0]
    # a float64 a hair above a limit is that limit in float32
    assert follow(begin(0.9), (-1, 0.0, np.float64(0.25) + 1e-10)).flag == "not_found"
    assert follow(begin(np.float64(0.8), 0.3), (1, 0.9, np.float64(0.8) + 1e-10), (0, 0.9, 0.2)).selected == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [2, 20])
def test_zero_candidates(frame):
    state = follow(begin(0.9, 0.5, frame=frame))
    assert (state.objects, state.selected, state.flag) == ((), None, "not_found")
    assert follow(state).flag == "not_found"
    state = follow(state, (-1, 0.0, 0.8))
    assert state.flag == "normal"
    assert state.selected_id == begin(0.9, 0.5, frame=frame).next_id


@pytest.mark.parametrize("frame", [2, 20])
def test_start_without_candidates(frame):
    state = begin(frame=frame)
    assert (state.objects, state.flag) == ((), "not_found")
    assert follow(state, (-1, 0.0, 0.2)).flag == "not_found", (
        "a first weak candidate does not inherit the unused number"
    )


def test_hundreds_of_equal_candidates():
    n = 961
    state = follow(begin(*[0.3] * n), *[(n - 1 - i, 0.9, 0.3) for i in range(n)])
    assert ids(state) == list(range(n - 1, -1, -1))
    assert (state.selected, state.selected_id) == (n - 1, 0), "equal maxima do not switch"


def test_nan_scores():
    state = begin(NAN, NAN)
    assert [o.maximum for o in state.objects] == [-math.inf, -math.inf]
    assert state.flag == "normal"
    state = follow(state, (1, 0.9, NAN), (0, 0.9, 0.3))
    assert (state.selected, state.selected_id) == (1, 0)
    assert [o.maximum for o in state.objects] == [-math.inf, pytest.approx(0.3)]
    state = follow(state, (1, 0.9, NAN))
    assert state.objects[0].maximum == pytest.approx(0.3), "NaN does not spoil a history"
    assert follow(state, (0, 0.5, NAN)).flag == "not_found"


@pytest.mark.parametrize(
    ("matches", "message"),
    [([0, 0], "mutual"), ([2, -1], "expected -1 or 0 … 1"), ([-2, 0], "expected -1"), ([0], r"expected \(2,\)")],
)
def test_impossible_matches(matches, message):
    with pytest.raises(InputError, match=message):
        associate(begin(0.9, 0.5), matches, [0.9] * len(matches), [0.8, 0.4], places(2), CODE)


def test_sizes_must_fit():
    with pytest.raises(InputError, match="coords"):
        start([0.9, 0.5], places(3), 2, CODE)
    with pytest.raises(InputError, match="coords"):
        start([[0.9, 0.5]], places(2), 2, CODE)
    with pytest.raises(InputError, match="expected -1"):
        associate(begin(), [0], [0.9], [0.8], places(1), CODE)


@pytest.mark.parametrize(
    "wrong", [{"split_probability": 1.1}, {"weak_split_probability": NAN}, {"redetection": NAN}, {"recent_scores": 0}]
)
def test_rules_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AssociationRules(**wrong)


# --- long videos ------------------------------------------------------------------------------------------------------


def random_frame(rng: np.random.Generator, before: int) -> list[tuple[int, float, float]]:
    n = int(rng.integers(0, 6))
    matches = rng.permutation(before)[:n].tolist() + [-1] * n
    scores = np.sort(rng.choice([0.1, 0.2, 0.24, 0.25, 0.3, 0.5, 0.7, 0.9], n))[::-1]
    order = rng.permutation(matches[:n])
    return [
        (int(m) if rng.random() < 0.8 else -1, float(rng.choice([0.3, 0.6, 0.7, 0.85, 0.95])), float(s))
        for m, s in zip(order, scores, strict=True)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_bounded_histories_decide_as_whole_ones(seed):
    """Against a plain loop that keeps every score of every object."""
    rng = np.random.default_rng(seed)
    rules = replace(CODE, recent_scores=2)
    state = begin(0.9, 0.3, rules=rules)
    histories, carried, target, fresh = {0: [0.9], 1: [0.3]}, [0, 1], 0, 2
    for _ in range(500):
        candidates = random_frame(rng, len(carried))
        state = follow(state, *candidates, rules=rules)
        now = []
        for match, p, s in candidates:
            known = carried[match] if match >= 0 else None
            if known is None or (known == target and (p < 0.6 or (p < 0.85 and s < 0.2))):
                known, fresh = fresh, fresh + 1
                histories[known] = []
            histories[known].append(s)
            now.append(known)
        carried, selected = now, None
        if target in now:
            selected = now.index(target)
            if selected and max(histories[now[0]]) > max(histories[target]):
                selected = 0
        elif candidates and max(s for _, _, s in candidates) > 0.25:
            selected = 0
        target = target if selected is None else now[selected]
        assert (ids(state), state.selected, state.selected_id, state.next_id) == (now, selected, target, fresh)
        assert all(len(o.recent) <= 2 for o in state.objects)


def test_recent_scores_are_the_last_ones():
    state = begin(0.9)
    for i in range(100):
        state = follow(state, (0, 0.9, 0.5 + i / 1000))
    (only,) = state.objects
    assert only.maximum == float(np.float32(0.9))
    assert np.allclose(only.recent, 0.5 + np.arange(70, 100) / 1000)
    assert len(only.recent) == CODE.recent_scores
    assert state.frame == 102


def test_objects_remember_where_they_were_seen():
    assert [o.coords for o in begin(0.9, 0.3).objects] == [(0.0, 0.0), (1.0, 2.0)]
    state = associate(begin(0.9), [0], [0.9], torch.tensor([0.8]), torch.tensor([[7, 3]]), CODE)
    assert state.objects[0].coords == (7.0, 3.0)


@pytest.mark.parametrize("state", [begin(), begin(0.9, NAN), follow(begin(0.9, 0.5), (1, 0.9, 0.2), (-1, 0.0, 0.1))])
def test_states_can_be_saved(state):
    tensors = {}
    text = json.dumps(pack(state, tensors))
    again = unpack(json.loads(text), tensors, CandidateState, torch.device("cpu"))
    assert repr(again) == repr(state)
    assert isinstance(again.objects, tuple)
