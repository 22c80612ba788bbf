"""Fitting and judging calibrations: against numbers worked out by hand, slow definitions, and made-up trackers whose chances
are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from running import sequence

from keepsight.errors import InputError
from keepsight.evaluation.calibration import (
    ALL,
    METHODS,
    OWN,
    Judged,
    Predicted,
    cross_validate,
    fit,
    gain,
    judge,
    measure,
    reliability,
    roc,
)
from keepsight.evaluation.runs import Run
from keepsight.online.presence import ON_TARGET, IsotonicMap, LogisticMap

NAN = float("nan")


def frames(confidence, truth, name: str = "a") -> Judged:
    return Judged(name, np.array(confidence, dtype=np.float64), np.array(truth, dtype=np.bool_))


def made_up(seed: int, count: int = 400, share: float = 0.7, tilt: float = 1.0, shift: float = 0.0) -> Judged:
    """Confidence c with log-odds (l - shift) / tilt where l are the true log-odds: a logistic map of slope ``tilt`` undoes it."""
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < share
    scores = np.where(truth, 1.5, -1.5) + rng.normal(0, np.sqrt(3), count)  # likelihood ratio exp(score)
    odds = scores + math.log(share / (1 - share))
    confidence = 1 / (1 + np.exp(-(odds - shift) / tilt))
    return Judged(f"s{seed}", confidence, truth)


def predicted(judged: Judged, said=None) -> Predicted:
    return Predicted(judged, {OWN: judged.confidence if said is None else np.asarray(said, dtype=np.float64)})


# --- frames -------------------------------------------------------------------------------------------------------------


def run_on(absent: list[int], presence: list[float], shift: float = 0.0):
    one = sequence(count=len(presence))
    boxes = one.boxes.copy()
    said = boxes + np.array([shift, 0, 0, 0])
    boxes[absent] = NAN
    return sequence(count=len(presence), boxes=boxes), Run(said, presence=np.array(presence))


def test_annotated_frames_after_the_first_count() -> None:
    found = judge(*[(s := run_on([2], [NAN, 0.9, 0.2, 0.8]))[0], [s[1]]])
    assert found.name == "made/one"
    np.testing.assert_array_equal(found.confidence, [0.9, 0.2, 0.8])
    np.testing.assert_array_equal(found.truth, [True, False, True])
    assert found.is_mixed


def test_on_target_needs_the_box_too() -> None:
    """14 pixels wide: 10 beside it the overlap is 4 / 24."""
    one, run = run_on([2], [NAN, 0.9, 0.2, 0.8], shift=10)
    assert judge(one, [run], ON_TARGET).truth.tolist() == [False, False, False]
    assert judge(one, [run]).truth.tolist() == [True, False, True]


def test_frames_without_a_confidence_are_counted() -> None:
    one, run = run_on([2], [NAN, 0.9, NAN, 0.8])
    found = judge(one, [run, run])
    assert (len(found.truth), found.skipped) == (4, 2)
    assert judge(one, [Run(run.boxes)]).skipped == 3
    assert judge(one, []).skipped == 0


def test_odd_input_is_named() -> None:
    one, run = run_on([2], [NAN, 0.9, np.inf, 0.8])
    with pytest.raises(InputError, match="made/one has infinite confidences"):
        judge(one, [run])
    with pytest.raises(InputError, match="expected one of in-view, on-target"):
        judge(one, [run], "asleep")


# --- fitting ------------------------------------------------------------------------------------------------------------


def test_isotonic_by_hand() -> None:
    """Six frames of weight 1/6, and one frame more with the event at 0.1 and one without at 0.9: 0.1: 1 of 2; 0.2 falls: with
    0.1 it is 1 of 3; 0.3 and 0.4: 1 of 2; 0.5: 1 of 1, pooled with 0.9 (1 of 2) to 2 of 3."""
    found = fit([frames([0.1, 0.2, 0.3, 0.4, 0.5, 0.9], [0, 0, 1, 0, 1, 1])], "isotonic")
    assert isinstance(found, IsotonicMap)
    np.testing.assert_allclose(found.confidence, [0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    np.testing.assert_allclose(found.probability, [1 / 3, 1 / 3, 1 / 2, 1 / 2, 2 / 3, 2 / 3])


def test_isotonic_is_the_best_rising_map() -> None:
    """No other rising values at the same confidences have less squared error (checked by projected descent)."""
    one = made_up(3, 60)
    found = fit([one], "isotonic")
    x = np.r_[one.confidence, one.confidence.min(), one.confidence.max()]
    y = np.r_[one.truth, 1.0, 0.0]
    best = ((found(x) - y) ** 2).sum()
    rng = np.random.default_rng(0)
    order = np.argsort(x)
    for _ in range(300):
        other = np.maximum.accumulate(
            np.clip(found(x[order]) + rng.normal(0, 0.05, len(x)) * rng.integers(0, 2, len(x)), 0, 1)
        )
        assert ((other - y[order]) ** 2).sum() >= best - 1e-12


def test_logistic_finds_the_curve_that_made_the_frames() -> None:
    judged = [made_up(seed, 4000, tilt=2.0, shift=0.7) for seed in range(4)]
    found = fit(judged, "logistic")
    assert isinstance(found, LogisticMap)
    assert found.log_odds
    assert found.slope == pytest.approx(2.0, abs=0.1)
    assert found.intercept == pytest.approx(0.7, abs=0.1)


def test_logistic_is_at_the_minimum() -> None:
    judged = [made_up(1, 50), made_up(2, 90)]
    found = fit(judged, "logistic")
    assert isinstance(found, LogisticMap)
    x = found.feature(np.concatenate([one.confidence for one in judged]))
    truth = np.concatenate([one.truth for one in judged])
    w = np.r_[np.full(50, 1 / 50), np.full(90, 1 / 90)]
    added = 1 / 50 + 1 / 90
    target = np.where(
        truth, (w[truth].sum() + added) / (w[truth].sum() + 2 * added), added / (w[~truth].sum() + 2 * added)
    )

    def loss(slope: float, intercept: float) -> float:
        z = slope * x + intercept
        return float((w * (np.logaddexp(0, z) - target * z)).sum())

    least = loss(found.slope, found.intercept)
    for a, b in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(found.slope + a, found.intercept + b) > least


@pytest.mark.parametrize("method", METHODS)
def test_long_sequences_do_not_dominate(method: str) -> None:
    """Ten times each frame: the same sequence, and (smoothing aside) the same fit."""
    a, b = made_up(1, 300), made_up(2, 300, share=0.3)
    long = Judged("long", np.tile(b.confidence, 10), np.tile(b.truth, 10))
    at = np.linspace(0.02, 0.98, 9)
    np.testing.assert_allclose(fit([a, long], method)(at), fit([a, b], method)(at), atol=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_separable_frames_are_not_certain(method: str) -> None:
    found = fit([frames([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])], method)
    low, high = found([0.1, 0.9])
    assert 0.05 < low < 0.5 < high < 0.95


@pytest.mark.parametrize("method", METHODS)
def test_equal_confidences_give_a_constant(method: str) -> None:
    said = fit([frames([0.9] * 10, [1] * 6 + [0] * 4)], method)([0.1, 0.9, 1.0])
    assert said[0] == said[1] == said[2] == pytest.approx((6 + 1) / 12, abs=0.02)


def test_a_curve_never_falls() -> None:
    found = fit([frames([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1])], "logistic")
    assert isinstance(found, LogisticMap)
    assert found.slope == 0
    assert found(0.3) == pytest.approx(0.5)


def test_confidences_of_any_unit() -> None:
    found = fit([frames([-5, -3, 2, 8, 900], [0, 0, 1, 0, 1])], "logistic")
    assert isinstance(found, LogisticMap)
    assert not found.log_odds
    assert 0 < found(-5) < 0.4 < 0.7 < found(900) < 1


def test_what_cannot_be_fitted_to() -> None:
    for judged, says in (
        ([], "there are no frames"),
        ([frames([], [])], "there are no frames"),
        ([frames([0.5, 0.6], [1, 1])], "it does in all 2"),
        ([frames([0.5, 0.6], [0, 0])], "it never does"),
    ):
        for method in METHODS:
            with pytest.raises(InputError, match=says):
                fit(judged, method)
    with pytest.raises(InputError, match="isotonic, logistic"):
        fit([made_up(0)], "spline")


# --- measures -----------------------------------------------------------------------------------------------------------


def test_measures_by_hand() -> None:
    one = predicted(frames([0.9, 0.6, 0.4, 0.1], [1, 0, 1, 0]))
    got = {name: m.value for name, m in measure([one], OWN).items()}
    assert got["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.9]).mean())
    assert got["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert got["ece"] == pytest.approx((0.1 + 0.6 + 0.6 + 0.1) / 4)
    assert got["auc"] == pytest.approx(3 / 4)
    assert (got["tpr"], got["tnr"]) == (0.5, 0.5)


def test_auc_is_the_area_under_the_roc_curve_and_ties_count_half() -> None:
    rng = np.random.default_rng(0)
    parts = [
        predicted(frames(rng.integers(0, 8, n) / 10, rng.random(n) < share, str(n)))
        for n, share in ((30, 0.6), (90, 0.3), (7, 0.9))
    ]
    x, y, thresholds = roc(parts, OWN)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert thresholds[0] == np.inf
    assert (np.diff(thresholds) < 0).all()
    area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    assert measure(parts, OWN)["auc"].value == pytest.approx(area)
    s = [(p.said[OWN], p.judged.truth, 1 / len(p.judged.truth)) for p in parts]
    pairs = [
        (w * v, (a > b) + (a == b) / 2) for c, t, w in s for a in c[t] for d, u, v in s for b in d[~u]
    ]  # fmt: skip
    assert area == pytest.approx(sum(w * v for w, v in pairs) / sum(w for w, _ in pairs))


def test_a_short_sequence_counts_as_much_as_a_long_one() -> None:
    good, bad = frames([0.9] * 100, [1] * 100), frames([0.1], [1])
    assert measure([predicted(good), predicted(bad)], OWN)["brier"].value == pytest.approx((0.01 + 0.81) / 2)


def test_one_kind_of_frames_has_no_auc() -> None:
    got = measure([predicted(frames([0.9, 0.7], [1, 1])), predicted(frames([0.2, 0.3, 0.6], [1, 1, 1]))], OWN)
    assert math.isnan(got["auc"].value)
    assert math.isnan(got["tnr"].value)
    assert got["tpr"].value == pytest.approx((1 + 1 / 3) / 2)
    assert roc([predicted(frames([0.9, 0.7], [1, 1]))], OWN)[0].size == 0


def test_what_is_no_probability_has_an_auc_only() -> None:
    one = predicted(frames([3.0, 2.0, -1.0], [1, 0, 0]))
    got = measure([one], OWN)
    assert got["auc"].value == pytest.approx(1)
    assert all(math.isnan(got[name].value) for name in ("log_loss", "brier", "ece", "tpr", "tnr"))
    with pytest.raises(InputError, match="no probability"):
        reliability([one], OWN)
    with pytest.raises(InputError, match="no sequences"):
        measure([], OWN)


def test_intervals_hold_the_value_and_shrink_with_sequences() -> None:
    few = [predicted(made_up(seed, 100)) for seed in range(5)]
    many = [predicted(made_up(seed, 100)) for seed in range(60)]
    spread = {}
    for parts in (few, many):
        for name, m in measure(parts, OWN).items():
            assert name == "ece" or m.low <= m.value <= m.high
            spread.setdefault(name, []).append(m.high - m.low)
    assert all(b < a for a, b in spread.values())
    assert measure(many, OWN) == measure(many, OWN)
    assert math.isnan(measure(few[:1], OWN)["brier"].low)
    assert math.isnan(measure(few, OWN, draws=0)["brier"].low)


def test_bins_of_a_reliability_diagram() -> None:
    parts = [predicted(frames([0.05, 0.95, 1.0, 0.95], [0, 1, 1, 0])), predicted(frames([0.05, 0.06], [1, 0], "b"))]
    low, high = reliability(parts, OWN)
    assert (low.low, low.high, high.low, high.high) == (0, 0.1, 0.9, 1.0)
    assert (low.frames, low.sequences, high.frames, high.sequences) == (3, 2, 3, 1)
    assert low.weight == pytest.approx((1 / 4 + 1) / 2)
    assert low.share.value == pytest.approx((1 / 2) / (1 / 4 + 1))
    assert high.probability == pytest.approx((0.95 + 1 + 0.95) / 3)
    assert high.share.value == pytest.approx(2 / 3)


def test_bins_and_ece_agree() -> None:
    parts = [predicted(made_up(seed, 200, tilt=3)) for seed in range(4)]
    by_bins = sum(b.weight * abs(b.probability - b.share.value) for b in reliability(parts, OWN))
    assert measure(parts, OWN)["ece"].value == pytest.approx(by_bins)


# --- held out -----------------------------------------------------------------------------------------------------------


def test_calibration_mends_overconfidence_on_sequences_it_has_not_seen() -> None:
    study = cross_validate([made_up(seed, 400, tilt=0.4, shift=-1) for seed in range(12)])
    before = measure(study.mixed, OWN)
    for method in METHODS:
        after = measure(study.mixed, method)
        assert after["ece"].value < 0.04 < before["ece"].value
        assert after["log_loss"].value < 0.8 * before["log_loss"].value
        assert gain(study.mixed, method) == pytest.approx(before["log_loss"].value - after["log_loss"].value)
    assert study.best == "logistic"  # which these frames were made by
    assert study.share == pytest.approx(0.7, abs=0.02)


def test_what_is_calibrated_already_gains_nothing() -> None:
    study = cross_validate([made_up(seed) for seed in range(12)])
    assert gain(study.mixed, "isotonic") < 0
    assert measure(study.mixed, OWN)["ece"].value < 0.03


def test_no_map_has_seen_what_it_is_judged_on() -> None:
    """The held-out sequence's own frames may be anything: what is said of it depends on the others alone."""
    judged = [made_up(seed, 100) for seed in range(4)]
    other = Judged("s0", judged[0].confidence, ~judged[0].truth)
    a, b = cross_validate(judged), cross_validate([other, *judged[1:]])
    for method in METHODS:
        np.testing.assert_array_equal(a.mixed[0].said[method], b.mixed[0].said[method])
        assert (a.mixed[1].said[method] != b.mixed[1].said[method]).any()


def test_folds_hold_out_groups() -> None:
    study = cross_validate([made_up(seed, 100) for seed in range(7)], folds=3)
    assert sorted(one.fold for one in study.mixed) == [0, 0, 0, 1, 1, 2, 2]
    assert [len({one.fold for one in cross_validate([made_up(s, 30) for s in range(25)]).mixed})] == [20]
    for folds in (1, 8):
        with pytest.raises(InputError, match=f"folds is {folds}; expected 2 to 7"):
            cross_validate([made_up(seed, 100) for seed in range(7)], folds=folds)


def test_sequences_always_in_view_are_judged_and_not_fitted_to() -> None:
    mixed = [made_up(seed) for seed in range(3)]
    steady = frames([0.9, 0.2], [1, 1], "steady")
    given = [*mixed, steady, frames([], [], "empty")]
    study, overall = cross_validate(given), cross_validate(given, share=ALL)
    assert [one.judged.name for one in study.steady] == ["steady"]
    assert study.steady[0].fold is None
    assert study.maps == cross_validate(mixed).maps
    shares = [one.truth.mean() for one in mixed]
    assert study.share == pytest.approx(np.mean(shares))
    assert overall.share == pytest.approx((sum(shares) + 1) / 4)
    for method in METHODS:  # the others give the share only, and none gives its own
        own = fit(mixed, method)(steady.confidence)
        np.testing.assert_array_equal(study.steady[0].said[method], own)
        np.testing.assert_allclose(overall.steady[0].said[method], own)
        assert overall.maps == cross_validate(mixed, share=overall.share).maps
    odds = [p / (1 - p) for p in (overall.maps["logistic"](0.4), study.maps["logistic"](0.4))]
    assert odds[0] / odds[1] == pytest.approx(overall.share / (1 - overall.share) / (study.share / (1 - study.share)))


def test_another_share_helps_where_it_is_right() -> None:
    """Half of the frames of what was fitted to, and 19 of 20 of the rest: each is calibrated at its own share."""
    judged = [made_up(seed, 400, share=0.5, tilt=0.5) for seed in range(8)]
    study = cross_validate(judged)
    rare = [made_up(100 + seed, 400, share=0.95, tilt=0.5) for seed in range(8)]
    # the tracker does not know the share: its log-odds are those of the score alone
    moved = [
        Judged(r.name, 1 / (1 + np.exp(-(np.log(r.confidence / (1 - r.confidence)) - math.log(19) / 0.5))), r.truth)
        for r in rare
    ]

    def ece(at) -> float:
        return measure([predicted(one, at.maps["logistic"](one.confidence)) for one in moved], OWN)["ece"].value

    assert ece(cross_validate(judged, share=0.95)) < 0.03 < ece(study)
    assert cross_validate(judged, share=study.share).maps == study.maps
    for share in (0, 1.0, "half"):
        with pytest.raises(InputError, match=f"share is {share!r}"):
            cross_validate(judged, share=share)


def test_what_cannot_be_judged() -> None:
    good, steady, gone = made_up(0), frames([0.9], [1], "steady"), frames([0.4, 0.5], [0, 0], "gone")
    with pytest.raises(InputError, match="at least two sequences; of these 1 none does"):
        cross_validate([steady])
    with pytest.raises(InputError, match="of these 2 only s0 does"):
        cross_validate([good, steady])
    with pytest.raises(InputError, match="no frame has a confidence"):
        cross_validate([frames([], [])])
    with pytest.raises(InputError, match=r"s0 cannot be held out: .* it never does"):
        cross_validate([good, gone])


def test_equal_confidences_everywhere_are_a_defined_result() -> None:
    study = cross_validate([frames([0.9] * 10, [1] * k + [0] * (10 - k), str(k)) for k in (4, 6, 8)])
    for method in METHODS:
        assert all(len(set(one.said[method])) == 1 for one in study.mixed)
    assert measure(study.mixed, OWN)["auc"].value == 0.5
