"""VOT's three rules on small made-up results whose numbers can be worked out by hand, and every way a result can be wrong."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import HiddenTruthError, InputError
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vot import (
    score_longterm,
    score_multistart,
    score_supervised,
    supervised_failed,
    supervised_run,
)
from keepsight.evaluation.vot_multistart import anchor_order, failing_frame
from keepsight.regions import Rectangle, Special, region_to_box

SIZE = (100, 80)
TRUTH = Rectangle(10, 10, 20, 20)
HALF = Rectangle(10, 10, 20, 10)  # inside TRUTH: 231 of 441 pixels by pysot, 200 of 400 by vot-toolkit
MISS = Rectangle(60, 50, 20, 20)
UNKNOWN, START, FAILED = Special(0), Special(1), Special(2)
PYSOT_HALF = float(np.float32(231) / np.float32(441))


def _same(annotation):
    return annotation


def sequence(name="a", truth=(TRUTH,) * 30, **more):
    annotation = Annotation(
        boxes=np.array([region_to_box(r) for r in truth]), regions=tuple(truth), image_size=SIZE, **more
    )
    return Sequence(name, "made", NoFrames(len(truth)), partial(_same, annotation))


def run(lines, presence=None, seconds=None, anchor=None):
    boxes = np.array([region_to_box(r) for r in lines])
    return Run(boxes, presence=presence, seconds=seconds, regions=tuple(lines), anchor=anchor)


# --- the supervised protocol ----------------------------------------------------------------------------------------------


def scripted(answers, truth, **options):
    starts = []
    lines = supervised_run(lambda i, region: starts.append((i, region)), lambda i: answers[i], truth, SIZE, **options)
    return lines, starts


def test_no_failure_one_start():
    truth = (TRUTH,) * 6
    lines, starts = scripted([HALF] * 6, truth)
    assert lines == [START, *[HALF] * 5]
    assert starts == [(0, TRUTH)]


def test_a_failure_starts_anew_five_frames_later():
    answers = [HALF] * 12
    answers[3] = MISS
    lines, starts = scripted(answers, (TRUTH,) * 12)
    assert lines == [START, HALF, HALF, FAILED, *[UNKNOWN] * 4, START, *[HALF] * 3]
    assert [i for i, _ in starts] == [0, 8]


def test_a_failure_near_the_end_has_no_new_start():
    answers = [HALF] * 8
    answers[3] = MISS
    lines, starts = scripted(answers, (TRUTH,) * 8)
    assert lines == [START, HALF, HALF, FAILED, *[UNKNOWN] * 4]
    assert len(starts) == 1


def test_frames_without_truth_neither_fail_nor_start():
    truth = [TRUTH] * 14
    truth[2] = truth[9] = truth[10] = UNKNOWN
    answers = [HALF] * 14
    answers[2] = answers[4] = MISS
    lines, starts = scripted(answers, tuple(truth))
    assert lines[2] == MISS
    assert lines[4] == FAILED
    assert [i for i, _ in starts] == [0, 11]
    assert lines[5:] == [*[UNKNOWN] * 6, START, HALF, HALF]


def test_what_a_failure_is():
    assert supervised_failed(MISS, TRUTH, SIZE)
    assert not supervised_failed(HALF, TRUTH, SIZE)
    assert not supervised_failed(MISS, UNKNOWN, SIZE)
    assert supervised_failed(UNKNOWN, TRUTH, SIZE)  # no answer at all
    outside = Rectangle(95, 10, 40, 20)  # both overlap, but only outside the image
    assert supervised_failed(Rectangle(100, 10, 30, 20), outside, SIZE)


# --- supervised scores ----------------------------------------------------------------------------------------------------

FAILING = [START, *[HALF] * 11, FAILED, *[UNKNOWN] * 4, START, *[HALF] * 12]  # 30 frames, failure at 12, start at 17


def supervised(runs, sequences=None, rule="vot-supervised", **options):
    return score_supervised(
        sequences or [sequence()], runs, tracker="t", dataset="made", rule=rule, **({"eao_range": (5, 10)} | options)
    )


def test_supervised_by_hand():
    scores = supervised({"a": [run(FAILING)]}, keep_per_frame=True)
    assert scores.values["A"] == PYSOT_HALF  # frames 10, 11 and 27 to 29 are left by burn-in
    assert np.isfinite(scores.sequences[0].per_frame["overlap"]).sum() == 23
    assert scores.values["lost"] == 1
    assert scores.values["R"] == pytest.approx(100 / 30)
    # two fragments: 0 to 17 with 11 frames of overlap, then zeros; 17 to 29 with 12
    phi = [1.0] + [PYSOT_HALF] * 11
    np.testing.assert_allclose(scores.curves["eao"].y[:12], phi, rtol=1e-6)
    assert scores.values["EAO"] == pytest.approx(PYSOT_HALF, rel=1e-6)
    # of 13 frames: the first fragment fell to 11/12, the second is whole
    assert scores.curves["eao"].y[12] == pytest.approx(PYSOT_HALF * (11 / 12 + 1) / 2, rel=1e-6)
    # beyond the second fragment's end only the first counts
    assert scores.curves["eao"].y[13] == pytest.approx(PYSOT_HALF * 11 / 13, rel=1e-6)
    assert scores.curves["eao"].x[12] == 13


def test_supervised_py_by_hand():
    scores = supervised({"a": [run(FAILING)]}, rule="vot-supervised-py")
    assert scores.values["A"] == 0.5
    assert scores.values["failures"] == 1
    assert scores.values["R"] == pytest.approx(math.exp(-30 / 30))
    # fragments 0 to 11 and 17 to 29: the curve is as long as the longer one
    assert len(scores.curves["eao"].y) == 13
    assert scores.curves["eao"].y[11] == pytest.approx(0.5)
    assert scores.curves["eao"].y[12] == pytest.approx(0.5 * (11 / 12 + 1) / 2)


def test_repetitions_are_averaged():
    whole = [START, *[HALF] * 29]
    scores = supervised({"a": [run(FAILING), run(whole)]})
    assert scores.repetitions == 2
    assert scores.values["lost"] == 0.5
    assert scores.sequences[0].values["R"] == pytest.approx(100 * 0.5 / 30)


def test_tags():
    tagged = np.zeros(30, dtype=bool)
    tagged[10:15] = True
    scores = supervised({"a": [run(FAILING)]}, [sequence(tags={"occlusion": tagged, "blur": np.zeros(30, dtype=bool)})])
    assert set(scores.attributes) == {"occlusion", "empty"}  # nothing has blur
    assert scores.attribute_sizes == {"occlusion": 5, "empty": 25}
    assert scores.attributes["occlusion"]["lost"] == 1
    assert scores.attributes["occlusion"]["R"] == 20
    assert scores.attributes["empty"]["R"] == 0


def test_eao_range_follows_the_data_set():
    long = (TRUTH,) * 400
    lines = [START, *[HALF] * 399]
    for dataset in ("vot2018", "vot2019"):
        scores = score_supervised([sequence(truth=long)], {"a": [run(lines)]}, tracker="t", dataset=dataset)
        assert scores.values["EAO"] == pytest.approx(PYSOT_HALF, rel=1e-6)
        assert not scores.notes
    scores = score_supervised([sequence(truth=long)], {"a": [run(lines)]}, tracker="t", dataset="mine")
    assert math.isnan(scores.values["EAO"])
    assert "eao_range" in scores.notes[0]


def test_short_videos_are_noted():
    scores = supervised({"a": [run(FAILING)]}, eao_range=(20, 50))
    assert "20 to 30 frames only" in scores.notes[0]
    scores = supervised({"a": [run(FAILING)]}, eao_range=(60, 90))
    assert math.isnan(scores.values["EAO"])
    assert "no EAO" in scores.notes[0]
    with pytest.raises(InputError, match="1 <= low <= high"):
        supervised({"a": [run(FAILING)]}, eao_range=(0, 5))


def test_speed():
    seconds = np.full(30, 0.05)
    seconds[0], seconds[5] = 9.0, np.nan
    assert supervised({"a": [run(FAILING, seconds=seconds)]}).fps == pytest.approx(20)
    assert supervised({"a": [run(FAILING)]}).fps is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (FAILING[:-1], "29 lines, the run 30 frames"),
        ([*FAILING, HALF], "31 lines"),
        ([HALF, *FAILING[1:]], "first line must be the code 1"),
        ([*FAILING[:-1], Special(7)], r"codes \[7\]"),
    ],
)
@pytest.mark.parametrize("rule", ["vot-supervised", "vot-supervised-py"])
def test_damaged_results_are_named(lines, said, rule):
    with pytest.raises(InputError, match=said) as error:
        supervised({"a": [run(FAILING), run(lines)]}, rule=rule)
    assert "a" in str(error.value)


def test_results_without_codes():
    with pytest.raises(InputError, match="repetition 1: the result has boxes but no VOT codes"):
        supervised({"a": [Run(np.zeros((30, 4)))]})


def test_missing_sequences():
    both = [sequence("a"), sequence("b")]
    with pytest.raises(InputError, match="1 of 2 sequences of made have no result: b"):
        supervised({"a": [run(FAILING)], "b": []}, both)
    scores = supervised({"a": [run(FAILING)]}, both, missing="leave_out")
    assert [one.lost for one in scores.sequences] == [False, True]
    assert math.isnan(scores.sequences[1].values["A"])
    assert "1 of 2 sequences have no result" in scores.notes[0]
    with pytest.raises(InputError, match="none of 2 sequences of made"):
        supervised({}, both, missing="leave_out")


def test_truth_from_boxes_and_polygons():
    boxes = np.tile([10.0, 10, 20, 20], (30, 1))
    corners = np.tile([10.0, 10, 30, 10, 30, 30, 10, 30], (30, 1))
    for annotation in (Annotation(boxes, image_size=SIZE), Annotation(boxes, polygons=corners, image_size=SIZE)):
        one = Sequence("a", "made", NoFrames(30), partial(_same, annotation))
        assert supervised({"a": [run(FAILING)]}, [one]).values["A"] == PYSOT_HALF
    hidden = Sequence("a", "made", NoFrames(30), partial(_same, Annotation(boxes[:1], image_size=SIZE)))
    with pytest.raises(HiddenTruthError, match="not public"):
        supervised({"a": [run(FAILING)]}, [hidden])
    bare = Sequence("a", "made", NoFrames(30), partial(_same, Annotation(boxes)))
    with pytest.raises(InputError, match="no pictures"):  # the image's size is nowhere
        supervised({"a": [run(FAILING)]}, [bare])


def test_unknown_rules():
    for score in (score_supervised, score_multistart, score_longterm):
        with pytest.raises(InputError, match="vot9"):
            score([sequence()], {"a": [run(FAILING)]}, tracker="t", dataset="made", rule="vot9")


# --- multi-start ----------------------------------------------------------------------------------------------------------


def test_anchors():
    assert anchor_order([1, 0, 0, -1]) == [(0, 1, range(0, 4)), (3, -1, range(3, -1, -1))]
    assert list(anchor_order([0, -1, 0])[0][2]) == [1, 0]
    assert anchor_order(np.zeros(5)) == []


def test_failing_frame():
    overlap = np.array([0, 0.9, 0.1, 0, 0, 0.5, 0, 0, 0, 0])
    seen = np.ones(10, dtype=bool)
    assert failing_frame(overlap, seen, grace=3) == 2
    assert failing_frame(overlap, seen, grace=4) == 6
    assert failing_frame(overlap, seen, grace=5) is None
    assert failing_frame(overlap, seen, threshold=0.05, grace=3) == 6
    seen[3] = False  # frames without truth break the row
    assert failing_frame(overlap, seen, grace=3) == 6
    assert failing_frame(np.zeros(10), np.ones(10, dtype=bool), grace=10) == 0  # the start is counted


ANCHORS = np.array([1, *[0] * 28, -1])
WHOLE = [START, *[HALF] * 29]
LOST = [START, *[HALF] * 9, *[MISS] * 20]


def multistart(runs, anchors=ANCHORS, **options):
    return score_multistart(
        [sequence(anchors=anchors)], {"a": runs}, tracker="t", dataset="made", **({"eao_range": (5, 20)} | options)
    )


def test_multistart_by_hand():
    scores = multistart([run(LOST, anchor=29), run(WHOLE, anchor=0)], keep_per_frame=True)
    assert scores.values["R"] == pytest.approx((30 + 10) / 60)
    assert scores.values["A"] == pytest.approx((29 * 0.5 + 9 * 0.5) / 40)
    curve = scores.curves["eao"].y
    assert curve[:10].tolist() == [0] + [0.5] * 9
    np.testing.assert_allclose(curve[10:20], [(0.5 + 0.5 * 9 / j) / 2 for j in range(10, 20)])
    assert scores.values["EAO"] == pytest.approx(curve[5:20].mean())
    assert scores.sequences[0].per_frame["overlap"][0, :3].tolist() == [0, 0.5, 0.5]  # by anchor, not by file
    assert not scores.notes


def test_multistart_range_longer_than_the_runs():
    scores = multistart([run(WHOLE, anchor=0), run(WHOLE, anchor=29)], eao_range=(5, 755))
    assert scores.values["EAO"] == pytest.approx(0.5)
    assert "25 of 750 lengths" in scores.notes[0]
    with pytest.raises(InputError, match="1 <= low < high"):
        multistart([run(WHOLE, anchor=0), run(WHOLE, anchor=29)], eao_range=(20, 20))


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run(WHOLE, anchor=0)], r"run \[29\] again"),
        ([run(WHOLE, anchor=0), run(WHOLE, anchor=0)], "each once"),
        ([run(WHOLE, anchor=0), run(WHOLE, anchor=29), run(WHOLE[:5], anchor=25)], "each once"),
        ([run(WHOLE, anchor=None), run(WHOLE, anchor=29)], "anchors"),
        ([run(WHOLE, anchor=0), run(WHOLE[:-1], anchor=29)], "anchor 29: the result has 29 lines, the run 30"),
        ([run([HALF] * 30, anchor=0), run(WHOLE, anchor=29)], "anchor 0: the first line must be"),
    ],
)
def test_damaged_multistart_results(runs, said):
    with pytest.raises(InputError, match=said):
        multistart(runs)


def test_no_anchors():
    with pytest.raises(InputError, match="has no anchors"):
        multistart([run(WHOLE, anchor=0)], anchors=None)


# --- long-term ------------------------------------------------------------------------------------------------------------


def longterm(lines, presence, truth=(TRUTH,) * 30, rule="vot-lt", **options):
    return score_longterm(
        [sequence(truth=truth)], {"a": [run(lines, presence)]}, tracker="t", dataset="made", rule=rule, **options
    )


@pytest.mark.parametrize("rule", ["vot-lt", "vot-lt-pysot"])
def test_longterm_by_hand(rule):
    """20 visible frames tracked by half with confidence, 10 absent frames with none: the best threshold parts them."""
    truth = (TRUTH,) * 21 + (UNKNOWN,) * 9
    presence = np.array([np.nan] + [0.9] * 20 + [0.1] * 9)
    scores = longterm([START, *[HALF] * 29], presence, truth, rule)
    half = PYSOT_HALF if rule == "vot-lt-pysot" else 0.5
    pr, re = half, 20 * half / 21
    assert scores.values["Pr"] == pytest.approx(pr)
    assert scores.values["Re"] == pytest.approx(re)
    assert scores.values["F"] == pytest.approx(2 * pr * re / (pr + re))
    assert scores.values["threshold"] == 0.9
    assert scores.sequences[0].values["tracked"] == 20
    assert scores.sequences[0].values["missed"] == 1
    assert len(scores.curves["precision_recall"].x) == 100
    assert scores.curves["precision_recall"].y[0] == 1  # nobody is infinitely sure
    assert scores.curves["precision_recall"].x[0] == 0


def test_longterm_takes_boxes_of_a_plain_run():
    boxes = np.tile([10.0, 10, 20, 10], (30, 1))
    boxes[7] = np.nan
    scores = score_longterm(
        [sequence()], {"a": [Run(boxes, presence=np.full(30, 0.5))]}, tracker="t", dataset="made", keep_per_frame=True
    )
    overlap = scores.sequences[0].per_frame["overlap"]
    assert overlap.shape == (1, 30)
    assert overlap[0, [0, 1, 7]].tolist() == [0, 0.5, 0]


def test_longterm_needs_confidences():
    with pytest.raises(InputError, match="it has none for 30 frames"):
        longterm(WHOLE, None)
    with pytest.raises(InputError, match="it has 29 for 30 frames"):
        longterm(WHOLE, np.ones(29))
    with pytest.raises(InputError, match="no confidences at all"):
        longterm(WHOLE, np.full(30, np.nan), rule="vot-lt-pysot")
    with pytest.raises(InputError, match="29 lines, the sequence 30 frames"):
        longterm(WHOLE[:-1], np.ones(29))


def test_longterm_without_a_visible_target():
    scores = longterm(WHOLE, np.ones(30), truth=(UNKNOWN,) * 30)
    assert scores.values["Re"] == 0
    assert scores.values["F"] == 0
