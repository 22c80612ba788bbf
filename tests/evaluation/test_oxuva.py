"""OxUvA's counts in corner cases that the reference leaves to chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError
from keepsight.evaluation.oxuva import max_gm, score_oxuva
from keepsight.evaluation.runs import Run
from keepsight.evaluation.scores import Scores

from .vos_parts import sequence

BOX = [0.2, 0.2, 0.4, 0.4]
NONE = [np.nan] * 4


def track(present: list[bool | None], name: str = "v_o", box: list[float] = BOX, **more: Any) -> Sequence:
    """Frame 0 and one frame per entry; None is not annotated."""
    rows = [box] + [box if p else NONE for p in present]
    return sequence(
        name,
        Annotation(
            boxes=np.array(rows, dtype=np.float64),
            visible=np.array([True] + [bool(p) for p in present]),
            annotated=np.array([True] + [p is not None for p in present]),
            **more,
        ),
        len(rows),
    )


def score(tracks: list[Sequence], runs: dict[str, list[Run]], **options: Any) -> Scores:
    return score_oxuva(tracks, runs, tracker="t", dataset="oxuva", **options)


def counts(scores: Scores) -> tuple[float, ...]:
    return tuple(scores.values[n] for n in ("TP", "TN", "FP", "FN"))


def test_only_annotated_frames_after_the_first_count() -> None:
    run = Run(np.array([BOX] * 5), lost=np.array([False, False, True, True, False]))
    assert counts(score([track([True, None, False, False])], {"v_o": [run]})) == (1, 1, 1, 0)


def test_frames_without_prediction_take_the_latest_earlier_one() -> None:
    boxes = np.array([BOX, NONE, NONE, [0.8, 0.8, 0.1, 0.1], NONE])
    assert counts(score([track([True, True, True, True])], {"v_o": [Run(boxes)]})) == (2, 0, 0, 2)
    lost = np.array([False, True, False, False, False])
    found = score([track([True, True, False, False])], {"v_o": [Run(np.array([BOX, *[NONE] * 4]), lost=lost)]})
    assert counts(found) == (0, 2, 0, 2)  # "absent" holds until something else is said


def test_before_the_first_prediction_is_absent_and_noted() -> None:
    boxes = np.array([NONE, NONE, BOX])
    found = score([track([True, True])], {"v_o": [Run(boxes)]})
    assert counts(found) == (1, 0, 0, 1)
    assert any("1 frames before the first prediction" in n for n in found.notes)
    assert math.isnan(found.values["MaxGM"])
    assert any("TNR, GM and MaxGM are not defined" in n for n in found.notes)


def test_runs_that_end_early_keep_their_last_word() -> None:
    assert counts(score([track([True, True, False])], {"v_o": [Run(np.array([BOX, BOX]))]})) == (2, 0, 1, 0)


def test_no_area_at_all_is_no_overlap() -> None:
    point = [0.5, 0.5, 0.0, 0.0]
    found = score([track([True, False], box=point)], {"v_o": [Run(np.array([point] * 3))]})
    assert counts(found) == (0, 0, 1, 1)
    assert any("1 frames where prediction and truth have no area" in n for n in found.notes)


def test_predictions_are_clipped_to_the_image() -> None:
    whole = track([True], box=[0.0, 0.0, 1.0, 1.0])
    assert counts(score([whole], {"v_o": [Run(np.array([BOX, [-5, -5, 10, 10]]))]})) == (1, 0, 0, 0)
    pixels = track([True], box=[0, 0, 200, 100], image_size=(200, 100))
    assert counts(score([pixels], {"v_o": [Run(np.array([BOX, [-900, -900, 9000, 9000]]))]})) == (1, 0, 0, 0)


def test_threshold_on_scores_instead_of_the_trackers_word() -> None:
    run = Run(
        np.array([BOX] * 4), presence=np.array([np.nan, 0.9, 0.4, 0.6]), lost=np.array([False, True, False, False])
    )
    tracks = [track([True, True, False])]
    assert counts(score(tracks, {"v_o": [run]})) == (1, 0, 1, 1)
    assert counts(score(tracks, {"v_o": [run]}, present_above=0.5)) == (1, 0, 1, 1)
    assert counts(score(tracks, {"v_o": [run]}, present_above=0.7)) == (1, 1, 0, 1)
    with pytest.raises(InputError, match="no presence scores"):
        score(tracks, {"v_o": [Run(run.boxes)]}, present_above=0.5)


def test_tracks_are_pooled_and_missing_ones_named() -> None:
    tracks = [track([True] * 3 + [False], "v_a"), track([True, False, False], "v_b"), track([True], "v_c")]
    runs = {
        "v_a": [Run(np.array([BOX] * 5))],
        "v_b": [Run(np.array([BOX] * 4), lost=np.array([False, True, True, True]))],
    }
    found = score(tracks, runs, iou_thresholds=(0.25, 0.9))
    assert counts(found) == (3, 2, 1, 1)
    assert found.values["TPR"] == 0.75
    assert found.values["TNR"] == pytest.approx(2 / 3)
    assert found.values["MaxGM@0.25"] == found.values["MaxGM"] == pytest.approx(math.sqrt(0.5))
    assert [s.lost for s in found.sequences] == [False, False, True]
    assert any("1 of 3 tracks have no result and are left out: v_c" in n for n in found.notes)
    low, high = found.intervals["TPR"]
    assert low <= found.values["TPR"] <= high
    with pytest.raises(InputError, match="1 of 3 sequences of oxuva have no result: v_c"):
        score(tracks, runs, missing="refuse")
    with pytest.raises(InputError, match="none of 3 sequences"):
        score(tracks, {})


def test_repetitions_are_pooled() -> None:
    runs = [Run(np.array([BOX] * 3)), Run(np.array([BOX] * 3), lost=np.array([False, True, True]))]
    found = score([track([True, False])], {"v_o": runs}, keep_per_frame=True)
    assert counts(found) == (1, 1, 1, 1)
    assert found.repetitions == 2
    assert found.sequences[0].per_frame["said"].tolist() == [[1, 1], [0, 0]]


def test_hidden_truth_and_broken_truth() -> None:
    hidden = sequence("v_o", Annotation(boxes=np.array([BOX])), 5)
    with pytest.raises(InputError, match="not public"):
        score([hidden], {"v_o": [Run(np.array([BOX] * 5))]})
    broken = track([True])
    broken.annotation.boxes[1] = np.nan
    with pytest.raises(InputError, match="present without a box"):
        score([broken], {"v_o": [Run(np.array([BOX] * 2))]})
    with pytest.raises(InputError, match="has no rows"):
        score([track([True])], {"v_o": [Run(np.zeros((0, 4)))]})
    with pytest.raises(InputError, match="at least one overlap"):
        score([track([True])], {"v_o": [Run(np.array([BOX] * 2))]}, iou_thresholds=())


@given(st.floats(0, 1), st.floats(0, 1))
def test_maxgm_is_the_maximum(tpr: float, tnr: float) -> None:
    p = np.linspace(0, 1, 2001)
    searched = np.sqrt((1 - p) * tpr * ((1 - p) * tnr + p)).max()
    assert max_gm(tpr, tnr) >= searched - 1e-12
    assert max_gm(tpr, tnr) == pytest.approx(searched, abs=1e-3)


def test_pixels_without_an_image_size_are_not_taken_for_fractions():
    """A plain folder has no size: the same boxes in pixels and as fractions score the same, and a note says so."""
    pixels = np.array([[10.0, 20, 30, 40], [12, 22, 30, 40], [np.nan] * 4])
    shown = []
    for scale in (1.0, 100.0):
        one = sequence("a", Annotation(boxes=pixels / scale), 3)
        moved = Run(boxes=pixels / scale + np.array([1, 1, 0, 0]) / scale, lost=np.array([False, False, True]))
        shown.append(score_oxuva([one], {"a": [moved]}, tracker="t", dataset="own"))
    assert shown[0].values["TPR"] == shown[1].values["TPR"] == 1
    assert shown[0].values["TNR"] == 1
    assert any("not clipped" in note for note in shown[0].notes)
    assert not any("not clipped" in note for note in shown[1].notes)
