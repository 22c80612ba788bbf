"""Calibrations: maps, files, and who may use them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import moving_square, small_dimp, tiny_dimp

import keepsight as ks
from keepsight.errors import InputError
from keepsight.evaluation.guest import sha256_of
from keepsight.online.presence import (
    ON_TARGET,
    Calibration,
    IsotonicMap,
    LogisticMap,
    read_calibration,
    weights_sum,
    write_calibration,
)
from keepsight.trackers.registry import RANDOM, tracker_names

STEPS = IsotonicMap((0.2, 0.4, 0.6), (0.1, 0.1, 0.8))
CURVE = LogisticMap(2.0, -1.0)
PACKAGED = Path(ks.__file__).parent / "weights" / "files"


def test_isotonic_is_linear_between_knots_and_level_outside() -> None:
    np.testing.assert_allclose(STEPS([0, 0.2, 0.3, 0.5, 0.6, 1]), [0.1, 0.1, 0.1, 0.45, 0.8, 0.8])
    assert IsotonicMap((0.5,), (0.3,))(0.9) == 0.3


def test_logistic_reads_log_odds_or_the_confidence_itself() -> None:
    assert CURVE(0.5) == pytest.approx(1 / (1 + math.exp(1)))
    assert CURVE(0.8) == pytest.approx(1 / (1 + math.exp(1 - 2 * math.log(4))))
    assert replace(CURVE, log_odds=False)(3.0) == pytest.approx(1 / (1 + math.exp(-5)))
    assert 0 < CURVE(0.0) < 1e-9 < CURVE(1.0) < 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.01, 0.99), st.sampled_from([STEPS, CURVE]))
def test_more_confidence_is_never_less_probability(confidences: list[float], share: float, made: object) -> None:
    calibration = Calibration("t", made, 0.6).with_share(share)  # type: ignore[arg-type]
    said = [calibration(c) for c in sorted(confidences)]
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(said))


@pytest.mark.parametrize("made", [STEPS, CURVE])
def test_another_share_scales_the_odds(made: IsotonicMap | LogisticMap) -> None:
    """Bayes: odds 4 at a share of 1/2 are odds 4/9 at a share of 1/10."""
    before = Calibration("t", made, 0.5)
    after = before.with_share(0.1)
    assert after.share == 0.1
    for confidence in (0.2, 0.4, 0.6):
        p, q = before(confidence), after(confidence)
        assert q / (1 - q) == pytest.approx(p / (1 - p) / 9)
    assert after.with_share(0.5)(0.6) == pytest.approx(before(0.6))
    with pytest.raises(InputError, match="share is 1"):
        before.with_share(1)


def test_certain_knots_stay_certain() -> None:
    assert IsotonicMap((0.1, 0.9), (0.0, 1.0)).shifted(3.0).probability == (0.0, 1.0)


def test_an_unknown_confidence_has_an_unknown_probability() -> None:
    assert math.isnan(Calibration("t", STEPS, 0.5)(math.nan))
    assert math.isnan(Calibration("t", CURVE, 0.5)(math.nan))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((), ()),
        ((0.1, 0.2), (0.1,)),
        ((0.2, 0.1), (0, 1)),
        ((0.1, 0.2), (0.5, 0.4)),
        ((0.1,), (1.1,)),
        ((math.nan,), (1,)),
    ],
)
def test_maps_that_fall_are_refused(x: tuple[float, ...], y: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="no isotonic map"):
        IsotonicMap(x, y)


def test_a_falling_curve_is_refused() -> None:
    for slope, intercept in ((-1, 0), (math.nan, 0), (1, math.inf)):
        with pytest.raises(InputError, match="no logistic map"):
            LogisticMap(slope, intercept)


@pytest.mark.parametrize("made", [STEPS, CURVE])
def test_files_keep_everything(tmp_path: Path, made: IsotonicMap | LogisticMap) -> None:
    calibration = Calibration("dimp18", made, 1 / 3, ON_TARGET, "ab" * 8, {"frames": 12, "data": ["köln"]})
    write_calibration(tmp_path / "new" / "c.json", calibration)
    assert read_calibration(tmp_path / "new" / "c.json") == calibration


def damaged(**changes: object) -> str:
    data = json.loads(Calibration("t", STEPS, 0.5).to_json())
    data.update(changes)
    return json.dumps({k: v for k, v in data.items() if v != "gone"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "damaged: no JSON"),
        ("[]", "is no calibration"),
        ('{"format": "keepsight run"}', "is no calibration"),
        (damaged(version=2), "another version"),
        (damaged(map="gone"), "damaged .KeyError: 'map'"),
        (damaged(tracker=3), "damaged .TypeError"),
        (damaged(share=0), "damaged .share is 0"),
        (damaged(share="x"), "damaged .ValueError"),
        (damaged(event="asleep"), "damaged .event is 'asleep'"),
        (damaged(map={"kind": "spline"}), "damaged .KeyError: 'spline'"),
        (damaged(map={"kind": "isotonic", "confidence": [0.5], "probability": [2]}), "no isotonic map"),
        (damaged(map={"kind": "logistic", "slope": "x", "intercept": 0}), "damaged .TypeError"),
        (damaged(map={"kind": "logistic", "slope": 1, "intercept": 0, "log_odds": "no"}), "log_odds is 'no'"),
        (damaged(map={"kind": "logistic", "slope": 1, "intercept": 0, "log_odds": 0}), "log_odds is 0"),
        (damaged(provenance=None), "damaged .TypeError"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=f"c.json .*{says}"):
        read_calibration(tmp_path / "c.json")


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no calibration .*keepsight calibrate"):
        read_calibration(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no calibration"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(tmp_path)


# --- trackers -----------------------------------------------------------------------------------------------------------


def test_results_have_a_probability_only_with_a_calibration() -> None:
    tracker = tiny_dimp()
    frames, boxes = moving_square(4)
    tracker.init(frames[0], box=boxes[0])
    first = tracker.update(frames[1])
    assert first.presence_probability is None
    tracker.calibration = Calibration("dimp18", CURVE, 0.5)
    second = tracker.update(frames[2])
    assert second.presence_probability == pytest.approx(float(CURVE(second.presence)))
    tracker.calibration = None
    assert tracker.update(frames[3]).presence_probability is None


def test_presence_and_boxes_do_not_depend_on_it() -> None:
    frames, boxes = moving_square(4)
    said = []
    for calibration in (None, Calibration("dimp18", STEPS, 0.5)):
        tracker = tiny_dimp()
        tracker.calibration = calibration
        tracker.init(frames[0], box=boxes[0])
        results = [tracker.update(frame) for frame in frames[1:]]
        said.append([replace(r, presence_probability=None, milliseconds=0.0) for r in results])
    assert said[0] == said[1]


def test_a_tracker_refuses_that_of_another() -> None:
    tracker = small_dimp("dimp18")
    with pytest.raises(InputError, match="fitted to prdimp18, and this is dimp18"):
        tracker.calibration = Calibration("prdimp18", STEPS, 0.5)
    assert tracker.calibration is None


def test_loading(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    made = Calibration("dimp-lite", STEPS, 0.5, weights_sha256=RANDOM)
    write_calibration(path, made)
    for given_as in (path, str(path), made):
        assert ks.load("dimp-lite", weights="random", device="cpu", calibration=given_as).calibration == made
    with pytest.raises(InputError, match=r"with the weights random, and these are [0-9a-f]{16}, whose"):
        ks.load("dimp-lite", device="cpu", calibration=path)
    with pytest.raises(InputError, match="fitted to dimp-lite, and this is atom-lite"):
        ks.load("atom-lite", weights="random", device="cpu", calibration=path)
    with pytest.raises(InputError, match="there is no calibration"):
        ks.load("dimp-lite", device="cpu", calibration=tmp_path / "absent.json")
    unknown = replace(made, weights_sha256="")
    assert ks.load("dimp-lite", device="cpu", calibration=unknown).calibration == unknown


def test_the_default_one_is_named_where_there_is_none() -> None:
    with pytest.raises(
        InputError, match=r"comes with no calibration for dimp18 \(with: dimp-lite\).*keepsight calibrate"
    ):
        ks.load("dimp18", weights="random", device="cpu", calibration="default")


def test_packaged_calibrations_fit_the_packaged_weights() -> None:
    """New weights, or a new way to make presence of scores, need a new calibration: benchmarks/results/presence."""
    files = sorted(PACKAGED.glob("*.presence.json"))
    assert files
    for file in files:
        name = file.name.partition(".")[0]
        assert name in tracker_names()
        calibration = ks.load(name, device="cpu", calibration="default").calibration
        assert calibration is not None
        held_out = calibration.provenance["held_out"]
        method = "isotonic" if isinstance(calibration.map, IsotonicMap) else "logistic"
        assert held_out[method]["log_loss"] < held_out["own"]["log_loss"]
        assert calibration(0.05) < 0.2 < 0.8 < calibration(0.995)


def test_sums_are_those_of_results(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    (tmp_path / "v").write_bytes(b"of the second network")
    both = tmp_path / "w", tmp_path / "v"
    assert weights_sum(tmp_path / "w") == sha256_of((tmp_path / "w",))
    assert weights_sum(*both) == sha256_of(both)
    assert len({weights_sum(*both), weights_sum(*both[::-1]), weights_sum(both[0])}) == 3


@pytest.mark.parametrize("calibration", [5, {"tracker": "dimp-lite"}, b"default", LogisticMap(1, 0)])
def test_what_is_no_calibration(calibration: object) -> None:
    with pytest.raises(InputError, match=r"calibration is .*; expected 'default', a file of `keepsight calibrate`"):
        ks.load("dimp-lite", weights="random", device="cpu", calibration=calibration)  # type: ignore[arg-type]


def test_what_makes_and_reads_them_is_exported() -> None:
    assert (ks.Calibration, ks.read_calibration) == (Calibration, read_calibration)
    assert {"Calibration", "Candidate", "read_calibration"} <= set(ks.__all__)
    assert ks.Candidate.__module__ == "keepsight.online.state"
