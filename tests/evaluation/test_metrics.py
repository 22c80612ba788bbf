"""Overlap, success and precision against numbers worked out by hand and against boxes.iou."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight import boxes
from keepsight.errors import InputError
from keepsight.evaluation import metrics

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
    assert metrics.success_curve(gt, gt).tolist() == [1.0] * 20 + [0.0]
    assert metrics.thresholds()[[0, 1, 20]].tolist() == [0.0, 0.05, 1.0]


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
