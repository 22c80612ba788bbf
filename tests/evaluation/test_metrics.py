"""Overlap, success and precision against numbers worked out by hand and against boxes.iou; scores of whole data sets.

The rules themselves are compared with the toolkits in tests/parity/test_metrics_ope.py.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight import boxes
from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError
from keepsight.evaluation import metrics, one_pass
from keepsight.evaluation.metrics import common_sequences, score_got10k, score_ope
from keepsight.evaluation.one_pass import measure, measure_all, prepare
from keepsight.evaluation.rules import OPERule, ope_rule, rule_names
from keepsight.evaluation.runs import Run

NAN = math.nan
box = st.tuples(*[st.floats(-50, 50)] * 2, *[st.floats(0.1, 60)] * 2)


def test_ious_by_hand():
    gt = [(0, 0, 10, 10)] * 7
    pred = [
        (0, 0, 10, 10),
        (5, 0, 10, 10),
        (0, 5, 10, 5),
        (10, 0, 10, 10),
        (2, 2, 0, 5),
        (NAN, 0, 10, 10),
        (2, 2, -3, -3),
    ]
    assert metrics.ious(pred, gt) == pytest.approx([1, 1 / 3, 0.5, 0, 0, 0, 0])


def test_absent_frames_are_left_out():
    gt = [(0, 0, 10, 10), (NAN, NAN, NAN, NAN), (0, 0, 10, 10)]
    pred = [(0, 0, 10, 10), (0, 0, 10, 10), (0, 5, 10, 5)]
    assert np.isnan(metrics.ious(pred, gt)).tolist() == [False, True, False]
    assert metrics.mean_iou(pred, gt) == pytest.approx(0.75)
    # 20 of 21 thresholds lie below 1, 10 below 0.5 (0 to 0.45; not 0.5 itself: the test is "above")
    assert metrics.success_auc(pred, gt) == pytest.approx((20 / 21 + 10 / 21) / 2)
    assert metrics.precision(pred, gt) == 1.0
    with pytest.raises(InputError, match="none of 1 frames"):
        metrics.success_auc(pred[1:2], gt[1:2])


def test_success_ends():
    gt = np.array([(3.0, 4.0, 20.0, 30.0)] * 5)
    assert metrics.success_auc(gt, gt) == pytest.approx(20 / 21)
    assert metrics.success_auc(gt + np.array([100, 0, 0, 0]), gt) == 0.0
    half = gt * [1, 1, 1, 0.5]  # IoU 0.5: above 0, ..., 0.45, not above 0.5 itself
    assert metrics.success_auc(half, gt) == pytest.approx(10 / 21)


def test_precision_at_exactly_twenty_pixels():
    gt = [(0, 0, 10, 10)] * 4
    pred = [(12, 16, 10, 10), (12, 16, 11, 10), (40, 0, 10, 10), (NAN, 0, 10, 10)]  # errors 20, above 20, 40, none
    assert metrics.centre_errors(pred, gt)[[0, 2, 3]].tolist() == [20.0, 40.0, math.inf]
    assert metrics.precision(pred, gt) == 0.25
    assert metrics.precision(pred, gt, threshold=40) == 0.75


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(box, box), min_size=1, max_size=5), st.floats(-9, 9))
def test_agrees_with_the_tensor_version_and_the_origin_cancels(pairs, shift):
    pred, gt = (np.array(b) for b in zip(*pairs, strict=True))
    expected = boxes.iou(torch.from_numpy(pred), torch.from_numpy(gt)).numpy()
    assert metrics.ious(pred, gt) == pytest.approx(expected, abs=1e-9)
    move = np.array([shift, shift, 0, 0])
    assert metrics.ious(pred + move, gt + move) == pytest.approx(expected, abs=1e-7)
    assert metrics.success_auc(pred, gt) == pytest.approx(np.mean([(expected > k * 0.05).mean() for k in range(21)]))


@pytest.mark.parametrize(("pred", "gt"), [((3, 4), (2, 4)), ((3, 5), (3, 5)), ((4,), (4,))])
def test_shapes_that_do_not_fit(pred, gt):
    with pytest.raises(InputError, match=r"give \(N, 4\) twice"):
        metrics.ious(np.zeros(pred), np.zeros(gt))


def test_the_file_itself_imports_nothing_heavy():
    """Benchmarks load it in environments without torch; keepsight/__init__.py is replaced by an empty package."""
    source = str(Path(metrics.__file__).parents[1])
    code = (
        "import sys, types\n"
        f"for name, path in (('keepsight', {source!r}), ('keepsight.evaluation', {source + '/evaluation'!r})):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [path]\n"
        "import keepsight.evaluation.metrics as m\n"
        "assert m.success_auc([[0, 0, 2, 2]], [[0, 0, 2, 2]]) > 0.9\n"
        "assert not {'torch', 'cv2', 'av'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the array engine against the rules said plainly --------------------------------------------------------------------


def plainly(rule: OPERule, pred: np.ndarray, gt: np.ndarray) -> tuple[np.ndarray, ...]:
    """Spec §1 for predictions without anything odd, with frames × thresholds comparisons."""
    pred = pred.copy()
    if rule.first_frame == "as_gt":
        pred[0] = gt[0]
    one = 1 if rule.overlap == "inclusive" else 0
    side = np.minimum(pred[:, :2] + pred[:, 2:] - one, gt[:, :2] + gt[:, 2:] - one) - np.maximum(pred[:, :2], gt[:, :2])
    inter = (side + one).clip(0).prod(axis=1)
    union = pred[:, 2:].prod(axis=1) + gt[:, 2:].prod(axis=1) - inter
    overlap = inter / (union + (np.finfo(float).eps if rule.overlap == "clipped_eps" else 0))
    overlap = overlap.clip(0, 1) if rule.overlap.startswith("clipped") else overlap
    half = 0.5 * (1 if rule.centre == "inclusive" else 0)
    centres = [b[:, :2] + (0.5 * b[:, 2:] - half) for b in (pred, gt)]
    size = {"size": gt[:, 2:], "size_plus_tiny": gt[:, 2:] + 1e-16, "at_least_one": gt[:, 2:].clip(1)}[rule.norm_by]
    error = np.sqrt(((centres[0] - centres[1]) ** 2).sum(axis=1))
    norm = np.sqrt(((centres[0] / size - centres[1] / size) ** 2).sum(axis=1))
    if rule.norm_what == "difference":
        norm = np.sqrt((((centres[0] - centres[1]) / size) ** 2).sum(axis=1))
    take = slice(1, None) if rule.first_frame == "excluded" else slice(None)
    hit = overlap[:, None] > rule.success_thresholds() if rule.strict else overlap[:, None] >= rule.success_thresholds()
    return (
        hit[take].sum(axis=0),
        (error[:, None] <= rule.precision_thresholds())[take].sum(axis=0),
        (norm[:, None] <= rule.norm_thresholds())[take].sum(axis=0),
    )


# whole and half pixels: ties with thresholds are frequent, and all sums are exact in any order
pixel = st.integers(2, 60).map(lambda v: v / 2)
track = st.lists(st.tuples(*[pixel] * 8), min_size=2, max_size=12)


@settings(max_examples=80)
@given(st.lists(track, min_size=1, max_size=4), st.sampled_from(rule_names()), st.integers(1, 12))
def test_counts_equal_plain_comparisons(tracks: list, name: str, block: int) -> None:
    rule = replace(ope_rule(name), storage="float")
    rows = [np.array(t) for t in tracks]
    truth = prepare(rule, [str(i) for i in range(len(rows))], [r[:, 4:] for r in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_pass, "_BLOCK", block)
        blocks = measure(truth, [r[:, :4] for r in rows])
    whole = measure_all(truth, [[r[:, :4] for r in rows]] * 2)[1]
    kept = measure(truth, [r[:, :4] for r in rows], keep_per_frame=True)
    for i, r in enumerate(rows):
        expected = plainly(rule, r[:, :4], r[:, 4:])
        for found in (blocks, whole, kept):
            for ours, theirs in zip((found.success, found.precision, found.norm), expected, strict=True):
                np.testing.assert_array_equal(ours[i], theirs)


def test_values_around_every_threshold() -> None:
    """Overlaps a few bits below, at and above each threshold of every grid: a product must not move them."""
    for name in ("pytracking", "pysot", "otb"):
        grid = ope_rule(name).success_thresholds()
        overlap = np.concatenate([grid + k * np.spacing(grid) for k in range(-6, 7)])
        overlap = overlap[(overlap > 1e-5) & (overlap <= 1)]  # below, another way of counting is taken
        gt = np.tile([0.0, 0.0, 1.0, 1.0], (len(overlap), 1))
        pred = gt.copy()
        pred[:, 3] = overlap  # IoU = h but for one rounding
        rule = replace(
            ope_rule(name), first_frame="as_is", overlap="continuous", valid="present", bad_predictions="as_is"
        )
        found = measure(prepare(rule, ["a"], [gt]), [pred], keep_per_frame=True)
        assert found.overlap is not None
        assert (found.overlap[:, None] == grid).sum() >= 15  # ties
        np.testing.assert_array_equal(found.success[0], (found.overlap[:, None] > grid).sum(axis=0))
        tiny = np.array([[0, 0, 1, 5e-324], [0, 0, 1, 1e-300], [0, 0, 1, 0]])
        found = measure(prepare(rule, ["a"], [gt[:3]]), [tiny])
        assert found.success[0, :2].tolist() == [2, 0]
    shares = ope_rule("pysot").norm_thresholds()
    error = np.concatenate([shares + k * np.spacing(shares) for k in range(-6, 7)])
    error = error[error > 1e-9]
    pred = np.concatenate((error[:, None], np.zeros((len(error), 1)), np.ones((len(error), 2))), axis=1)
    gt = np.tile([0.0, 0.0, 1.0, 1.0], (len(error), 1))
    rule = replace(ope_rule("pysot"), valid="present", norm_by="size", centre_valid="as_valid")
    found = measure(prepare(rule, ["a"], [gt]), [pred], keep_per_frame=True)
    np.testing.assert_array_equal(found.norm_error, error)
    np.testing.assert_array_equal(found.norm[0], (error[:, None] <= shares).sum(axis=0))


def test_shapes_and_numbers_of_sequences() -> None:
    truth = prepare(ope_rule("otb"), ["a"], [np.ones((3, 4))])
    with pytest.raises(InputError, match="predictions for 2 sequences and ground truth for 1"):
        measure(truth, [np.ones((3, 4))] * 2)
    with pytest.raises(InputError, match=r"a: the predictions have shape \(3, 5\)"):
        measure(truth, [np.ones((3, 5))])
    with pytest.raises(InputError, match=r"b: the ground truth has shape \(0, 4\)"):
        prepare(ope_rule("otb"), ["b"], [np.ones((0, 4))])


# --- whole data sets ----------------------------------------------------------------------------------------------------

TEN = np.array([1.0, 1.0, 10.0, 10.0])
FAR = np.array([500.0, 500.0, 10.0, 10.0])


def sequence(name: str, known: Annotation, attributes: str = "", frames: int | None = None) -> Sequence:
    return Sequence(
        name, "toy", NoFrames(frames or len(known.boxes)), partial(replace, known), frozenset(attributes.split())
    )


def track_of(hits: str) -> np.ndarray:
    """One box per letter: ``x`` on the target, anything else far away."""
    return np.array([TEN if c == "x" else FAR for c in hits])


TOY = (
    sequence("one", Annotation(track_of("x" * 4)), "OCC"),
    sequence("two", Annotation(track_of("x" * 8)), "OCC FM"),
    sequence("three", Annotation(track_of("x" * 4))),
)
RUNS = {"one": [Run(track_of("xxx-"))], "two": [Run(track_of("xx------"))], "three": [Run(track_of("x---"))]}


def test_scores_of_a_data_set() -> None:
    scores = score_ope(TOY, RUNS, tracker="t", dataset="toy", rule="otb")
    assert (scores.tracker, scores.dataset, scores.rule, scores.notes) == ("t", "toy", "otb", ())
    assert [m.name for m in scores.metrics] == ["AUC", "OP50", "OP75", "P20", "NP20"]
    assert set(scores.values) == {m.name for m in scores.metrics} | {"mean_overlap"} == set(scores.sequences[0].values)
    assert scores.values["OP50"] == pytest.approx((3 / 4 + 2 / 8 + 1 / 4) / 3)  # the first frame counts
    assert [s.values["P20"] for s in scores.sequences] == [0.75, 0.25, 0.25]
    assert scores.values["P20"] == pytest.approx((0.75 + 0.25 + 0.25) / 3)
    assert scores.values["AUC"] == pytest.approx(20 / 21 * 1.25 / 3)
    assert [s.frames for s in scores.sequences] == [4, 8, 4]
    assert scores.attributes["OCC"]["P20"] == 0.5
    assert scores.attributes["FM"]["P20"] == 0.25
    assert scores.attribute_sizes == {"FM": 1, "OCC": 2}
    low, high = scores.intervals["P20"]
    assert 0.25 <= low < scores.values["P20"] < high <= 0.75
    for curve in scores.curves.values():
        assert curve.x.shape == curve.y.shape
        assert curve.summary in scores.values
    assert scores.curves["success"].y.mean() == pytest.approx(scores.values["AUC"])
    assert scores.sequences[0].per_frame == {}


def test_per_frame_numbers_and_speed() -> None:
    runs = {
        "one": [Run(track_of("xxx-"), seconds=np.array([9, 0.1, 0.1, np.nan])), Run(track_of("xx--"))],
        **{k: RUNS[k] for k in ("two", "three")},
    }
    scores = score_ope(TOY, runs, tracker="t", dataset="toy", rule="otb", keep_per_frame=True, confidence=None)
    one = scores.sequences[0].per_frame
    assert {k: v.shape for k, v in one.items()} == {"overlap": (2, 4), "centre_error": (2, 4), "norm_error": (2, 4)}
    assert one["overlap"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert scores.sequences[1].per_frame["overlap"].shape == (1, 8)
    assert scores.fps == pytest.approx(10)
    assert scores.intervals == {}
    assert scores.repetitions == 2
    assert scores.sequences[0].values["P20"] == 0.625  # the mean of two runs
    assert scores.notes == ("sequences have different numbers of repetitions: 2 sequences with 1, 1 sequence with 2",)


def test_missing_results() -> None:
    runs = {k: v for k, v in RUNS.items() if k != "two"} | {"two": []}
    scores = score_ope(TOY, runs, tracker="t", dataset="toy", rule="otb")
    assert scores.values["P20"] == 0.5
    assert [s.lost for s in scores.sequences] == [False, True, False]
    assert math.isnan(scores.sequences[1].values["P20"])
    assert scores.notes == ("1 of 3 sequences have no result and are left out: two",)
    assert scores.attribute_sizes == {"OCC": 1}
    with pytest.raises(InputError, match="1 of 3 sequences of toy have no result: two"):
        score_ope(TOY, runs, tracker="t", dataset="toy", missing="refuse")
    for nothing in ({}, {"other": RUNS["one"]}):
        with pytest.raises(InputError, match="none of 3 sequences of toy has a result"):
            score_ope(TOY, nothing, tracker="t", dataset="toy")
    both, notes = common_sequences(TOY, {"a": RUNS, "b": runs})
    assert [s.name for s in both] == ["one", "three"]
    assert notes == ("1 sequence left out for all trackers because b has no result: two",)
    zeros = score_ope(TOY, runs, tracker="t", dataset="toy", rule="trackingnet")
    assert zeros.notes == ("1 of 3 sequences have no result and count as zeros: two",)
    assert zeros.sequences[1].values["Coverage"] == 1 / 8
    assert zeros.values["Coverage"] == (4 + 1 + 4) / 16


def test_hidden_ground_truth_is_named() -> None:
    hidden = sequence("test_1", Annotation(track_of("x")), frames=5)
    for score in (score_ope, score_got10k, partial(score_ope, rule="trackingnet")):
        with pytest.raises(InputError, match=r"toy/test_1: the ground truth is not public"):
            score([hidden], {"test_1": [Run(track_of("xxxxx"))]}, tracker="t", dataset="toy")


def test_notes_tell_what_was_done_to_the_results() -> None:
    odd = np.array([TEN, [NAN] * 4, TEN * [1, 1, 0, 1], FAR, TEN, TEN])
    scores = score_ope(TOY[:1], {"one": [Run(odd)]}, tracker="t", dataset="toy", rule="otb")
    assert scores.notes == (
        "2 predictions without area or with nan were replaced by the box before",
        "2 predictions behind the end of a sequence are not used",
    )
    short = score_ope(TOY[:1], {"one": [Run(odd[:1])]}, tracker="t", dataset="toy", rule="otb")
    assert short.notes == ("results end 3 frames before their sequences; those frames count as misses",)
    flags = score_ope(TOY[:1], RUNS, tracker="t", dataset="lasot", rule="lasot")
    assert "1 sequence without absence flags" in flags.notes[0]
    empty = sequence("none", Annotation(np.full((3, 4), NAN)))
    runs = {**RUNS, "none": [Run(track_of("xxx"))]}
    partly = score_ope((*TOY, empty), runs, tracker="t", dataset="toy", rule="present")
    assert partly.notes == ("1 sequence without any frame to score: none",)
    assert partly.values == score_ope(TOY, RUNS, tracker="t", dataset="toy", rule="present").values


@pytest.mark.parametrize("rule", rule_names())
def test_present_numbers_are_those_of_two_arrays(rule: str) -> None:
    rng = np.random.default_rng(5)
    gt = rng.uniform(5, 60, (40, 4))
    pred = gt + rng.normal(0, 4, (40, 4)).clip(-4, 4)
    if rule == "present":
        gt[7] = NAN
    scores = score_ope([sequence("a", Annotation(gt))], {"a": [Run(pred)]}, tracker="t", dataset="toy", rule=rule)
    if rule == "present":
        assert scores.values["AUC"] == pytest.approx(metrics.success_auc(pred[1:], gt[1:]), abs=1e-15)
        assert scores.values["P20"] == pytest.approx(metrics.precision(pred[1:], gt[1:]), abs=1e-15)
        assert scores.values["mean_overlap"] == pytest.approx(metrics.mean_iou(pred[1:], gt[1:]), abs=1e-15)
    assert all(0 <= v <= 1 for v in scores.values.values())
    assert all((np.diff(c.y) * (-1 if n == "success" else 1) >= 0).all() for n, c in scores.curves.items())


# --- GOT-10k ------------------------------------------------------------------------------------------------------------


def test_got10k_pools_frames() -> None:
    scores = score_got10k(TOY, RUNS, tracker="t", dataset="toy", keep_per_frame=True)
    assert [s.values["AO"] for s in scores.sequences] == pytest.approx([2 / 3, 1 / 7, 0])
    assert scores.values["AO"] == scores.values["SR50"] == pytest.approx(3 / 13)
    assert [s.weight for s in scores.sequences] == [3, 7, 3]
    assert scores.attributes["OCC"]["AO"] == pytest.approx(3 / 10)
    assert scores.sequences[0].per_frame["overlap"].shape == (1, 4)
    assert np.isnan(scores.sequences[0].per_frame["overlap"][0, 0])
    assert scores.notes == (
        "3 sequences without cover labels: frames where the target is hidden count as failures, which the official rule "
        "leaves out",
        "3 sequences without an image size: boxes are not clipped to the image",
    )


def test_got10k_cover_and_clipping() -> None:
    gt = np.tile([0.0, 0.0, 20.0, 20.0], (4, 1))
    known = Annotation(gt, cover=np.array([8, 8, 0, 1]), image_size=(20, 10))
    pred = np.array([[0, 0, 1, 1], [0, 0, 20, 10], [NAN] * 4, [-5, 0, 15, 30]])
    scores = score_got10k([sequence("a", known)], {"a": [Run(pred)]}, tracker="t")
    # clipped, both are 20 x 10 in frame 1; in frame 3 x = -5 becomes 0 and w stays 15
    assert scores.sequences[0].weight == 2
    assert scores.values["AO"] == pytest.approx((1 + 0.75) / 2)
    assert (scores.values["SR50"], scores.values["SR75"]) == (1.0, 0.5)
    assert scores.notes == ()
    with pytest.raises(InputError, match=r"toy/a, repetition 1: 3 predictions for 4 frames"):
        score_got10k([sequence("a", known)], {"a": [Run(pred[:3])]}, tracker="t")
    seen = replace(known, cover=None)
    with pytest.raises(InputError, match=r"the prediction of frame 2 is \(nan"):
        score_got10k([sequence("a", seen)], {"a": [Run(pred)]}, tracker="t")
    with pytest.raises(InputError, match="one rule, 'got10k'"):
        score_got10k(TOY, RUNS, tracker="t", rule="otb")


def test_lost_and_no_frames_of_a_sequence_are_no_numbers() -> None:
    hidden = sequence("h", Annotation(track_of("xx"), cover=np.array([8, 0])))
    scores = score_got10k((*TOY, hidden), {**RUNS, "h": [Run(track_of("xx"))]}, tracker="t")
    assert math.isnan(scores.sequences[3].values["AO"])
    assert scores.values["AO"] == pytest.approx(3 / 13)
    assert any("without any frame to score: h" in note for note in scores.notes)
    for a, b in itertools.pairwise(scores.curves["success"].y):
        assert a >= b
