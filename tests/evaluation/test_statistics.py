"""Intervals hold the truth as often as they say, p values are as rare as they say, by fabricated data with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from keepsight.errors import InputError
from keepsight.evaluation.scores import Metric, Scores, SequenceScore
from keepsight.evaluation.statistics import bootstrap_interval, compare_all, holm, paired_comparison


def test_intervals_cover_the_true_mean() -> None:
    """Success rates of 30 sequences, skewed as good trackers' are; 300 repetitions have a standard error of 1.3 %."""
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        low, high = bootstrap_interval(rng.beta(4, 1, 30), resamples=500, seed=seed)
        held += low <= 0.8 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_pooled_intervals_cover_the_true_mean() -> None:
    """Sequences of very different length whose value depends on it: the plain mean's interval would be elsewhere."""
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        frames = rng.integers(10, 400, 40).astype(float)
        values = 0.3 + 0.001 * frames + rng.normal(0, 0.1, 40)
        low, high = bootstrap_interval(values, frames, resamples=500, seed=seed)
        lengths = np.arange(10, 400)
        held += low <= 0.3 + 0.001 * (lengths**2).sum() / lengths.sum() <= high
    assert 0.89 <= held / 300 <= 0.98


def test_intervals_by_hand_and_at_the_edges() -> None:
    x = np.random.default_rng(0).normal(0.5, 0.1, (400, 3))
    ends = bootstrap_interval(x)
    normal = 1.96 * x.std(axis=0, ddof=1) / 20
    np.testing.assert_allclose(ends[:, 0], x.mean(axis=0) - normal, atol=0.1 * normal.max())
    np.testing.assert_allclose(ends[:, 1], x.mean(axis=0) + normal, atol=0.1 * normal.max())
    np.testing.assert_array_equal(ends, bootstrap_interval(x))  # seeded
    assert (bootstrap_interval(x, seed=1) != ends).any()
    wide, narrow = (bootstrap_interval(x[:, 0], confidence=c) for c in (0.99, 0.5))
    assert wide[0] < ends[0, 0] < narrow[0] < narrow[1] < ends[0, 1] < wide[1]
    assert bootstrap_interval([0.7] * 5).tolist() == pytest.approx([0.7, 0.7])
    assert np.isnan(bootstrap_interval([0.7])).all()
    assert np.isnan(bootstrap_interval([[0.1, math.nan], [0.2, 0.3]])[1]).all()
    # a sequence of weight 0 is none, and equal weights are none
    np.testing.assert_allclose(bootstrap_interval(x[:, 0], np.full(400, 7.0)), ends[0], atol=1e-12)
    low, high = bootstrap_interval([0.2, 0.4, 0.9], [1, 1, 0])
    assert 0.2 <= low <= high <= 0.4 + 1e-12


@pytest.mark.parametrize(
    ("values", "weights", "confidence"),
    [
        ([], None, 0.95),
        ([[[1.0]]], None, 0.95),
        ([1.0, 2], [1.0], 0.95),
        ([1.0, 2], [-1.0, 2], 0.95),
        ([1.0, 2], None, 95),
    ],
)
def test_interval_arguments(values: object, weights: object, confidence: float) -> None:
    with pytest.raises(InputError):
        bootstrap_interval(values, weights, confidence=confidence)


def test_p_values_are_rare_when_nothing_differs() -> None:
    rng = np.random.default_rng(3)
    p = [
        paired_comparison(*rng.normal(0.5, 0.1, (2, 25)), resamples=20, permutations=499, seed=seed).p_value
        for seed in range(300)
    ]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09
    assert 0.4 < np.mean(p) < 0.6


def test_sign_flips_by_hand() -> None:
    a, b = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.5, 0.7, 0.7, 0.65])
    found = paired_comparison(a, b)
    flips = [abs(np.dot(s, a - b)) for s in itertools.product((1, -1), repeat=4)]
    assert found.p_value == pytest.approx(np.mean([f >= abs((a - b).sum()) - 1e-12 for f in flips]))
    assert (found.wins, found.ties, found.losses, found.sequences) == (2, 1, 1, 4)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.interval[0] <= found.difference <= found.interval[1]
    lower = paired_comparison(a, b, higher_is_better=False)
    assert (lower.wins, lower.losses) == (1, 2)
    assert paired_comparison(a, a).p_value == 1.0
    clear = paired_comparison(np.linspace(0.6, 0.7, 40), np.linspace(0.5, 0.55, 40), permutations=999)
    assert clear.p_value == 1 / 1000  # the observed signs are one of those counted


def test_weights_decide_pooled_differences() -> None:
    a, b = [0.9, 0.1], [0.5, 0.5]
    assert paired_comparison(a, b).difference == pytest.approx(0)
    assert paired_comparison(a, b, [30, 10]).difference == pytest.approx(0.2)
    with pytest.raises(InputError, match="not finite"):
        paired_comparison([math.nan, 1], [0, 0])
    with pytest.raises(InputError, match="shapes"):
        paired_comparison([1.0], [0.0, 0.0])


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def scores(tracker: str, values: dict[str, float], dataset: str = "toy") -> Scores:
    parts = tuple(SequenceScore(n, 10, {"AUC": v}) for n, v in values.items())
    return Scores(tracker, dataset, "otb", (Metric("AUC", "AUC"),), {"AUC": 0.5}, parts)


def test_all_pairs_on_the_sequences_that_both_have() -> None:
    rng = np.random.default_rng(0)
    base = {f"s{i}": float(v) for i, v in enumerate(rng.uniform(0.3, 0.7, 30))}
    good = scores("good", {n: v + 0.1 for n, v in base.items()})
    gaps = scores("gaps", {n: math.nan if n == "s0" else v for n, v in base.items() if n != "s1"})
    same = scores("same", dict(base))
    pairs = {(c.a, c.b): c for c in compare_all([good, gaps, same])}
    assert list(pairs) == [("good", "gaps"), ("good", "same"), ("gaps", "same")]
    assert [c.sequences for c in pairs.values()] == [28, 30, 28]
    assert pairs["good", "same"].difference == pytest.approx(0.1)
    assert pairs["gaps", "same"].ties == 28
    assert pairs["good", "same"].p_holm == pytest.approx(3 * pairs["good", "same"].p_value)
    assert pairs["gaps", "same"].p_holm == 1.0
    assert compare_all([]) == []
    with pytest.raises(InputError, match="known metrics: AUC"):
        compare_all([good, same], "EAO")
    with pytest.raises(InputError, match="one data set and one rule"):
        compare_all([good, scores("other", base, "else")])
    with pytest.raises(InputError, match="no sequence"):
        compare_all([good, scores("other", {"x": 0.5})])
