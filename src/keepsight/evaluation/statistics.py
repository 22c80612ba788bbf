"""How sure a score is, and whether one tracker is better than another: sequences are the unit that is resampled.

Frames of a sequence are far from independent, so intervals over frames would be much too narrow. Scores that are means over
sequences weigh all sequences alike; pooled scores (GOT-10k's AO) are ``sum(w x) / sum(w)`` with a sequence's frames as its
weight, and resampling draws value and weight together. All of it is vectorised and seeded. Needs numpy only.

Intervals are bias-corrected and accelerated (BCa; Efron, JASA 1987), because success rates are bounded and skewed. Measured
on samples of beta(4, 0.8), whose mean is known, 95 % intervals held it in 89 % (10 sequences), 92 % (20) and 95 % (100) of 2,000
samples; plain percentile intervals in 0.2 to 0.8 % fewer. With a handful of sequences every bootstrap interval is too narrow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .scores import Scores

Array = npt.NDArray[np.float64]

_SAME = 1e-12  # differences that are nothing but rounding


@dataclass(frozen=True)
class Comparison:
    """Two trackers on the same sequences."""

    a: str
    b: str
    metric: str
    sequences: int
    """How many both have."""
    difference: float
    """Score of a minus score of b, as a fraction."""
    interval: tuple[float, float]
    """Bootstrap interval of the difference over sequences."""
    p_value: float
    """Two-sided: how often a difference at least as large arises when each sequence's sign is tossed."""
    wins: int
    """Sequences on which a is better (its value is larger, or smaller where smaller is better)."""
    ties: int
    losses: int
    p_holm: float = math.nan
    """The p value corrected for all pairs of :func:`compare_all`."""


def bootstrap_interval(
    values: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Array:
    """BCa interval of the (weighted) mean over sequences.

    ``values``: (S,) or (S, M), one column per metric; ``weights``: (S,) frames of each sequence for pooled scores, None for
    plain means. Returns (2,) or (M, 2), lower and upper end; nan for fewer than two sequences and for columns that hold a
    nan. Raises :class:`InputError` for other shapes, negative weights and a confidence outside 0..1.
    """
    x, w = _checked(values, weights, confidence)
    single = x.ndim == 1
    x = x.reshape(len(x), -1)  # (S, M)
    ends = np.full((x.shape[1], 2), np.nan)
    usable = np.isfinite(x).all(axis=0)
    if len(x) > 1 and usable.any():
        ends[usable] = _bca(x[:, usable], w, confidence, resamples, seed)
    return ends[0] if single else ends


def paired_comparison(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    names: tuple[str, str] = ("a", "b"),
    metric: str = "",
    higher_is_better: bool = True,
    confidence: float = 0.95,
    resamples: int = 5000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two trackers by their values on the same sequences.

    ``a``, ``b``: (S,) each, ``weights`` as in :func:`bootstrap_interval`. The p value is a sign-flip permutation test: under
    the null hypothesis the two trackers are exchangeable on every sequence. All 2^S sign patterns are tried if they are not
    more than ``permutations``, else ``permutations`` of them at random, with the observed one counted in.
    """
    x, w = _checked(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), weights, confidence)
    if x.ndim != 1 or np.shape(a) != np.shape(b):
        raise InputError(f"the two trackers have values of shapes {np.shape(a)} and {np.shape(b)}; give (S,) twice")
    if not np.isfinite(x).all():
        raise InputError("a value is not finite; leave out the sequences that one of the two trackers lacks")
    low, high = bootstrap_interval(x, w, confidence=confidence, resamples=resamples, seed=seed)
    better = x if higher_is_better else -x
    wins, losses = int((better > _SAME).sum()), int((better < -_SAME).sum())
    return Comparison(
        *names,
        metric,
        len(x),
        float((w * x).sum() / w.sum()),
        (float(low), float(high)),
        _sign_flip(w * x, permutations, seed),
        wins,
        len(x) - wins - losses,
        losses,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979): the chance of any false alarm stays below the level."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [math.nan] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def compare_all(scores: Sequence[Scores], metric: str | None = None, *, seed: int = 0) -> list[Comparison]:
    """Compare every pair of trackers on the sequences that both have; p values are corrected by Holm.

    ``scores``: of one data set under one rule. ``metric``: a key of ``Scores.values``; the first metric if None.
    Raises :class:`InputError` if data sets or rules differ, if the metric is unknown or has no values per sequence.
    """
    if not scores:
        return []
    for one in scores[1:]:
        if (one.dataset, one.rule) != (scores[0].dataset, scores[0].rule):
            raise InputError(
                f"{one.tracker} was scored on {one.dataset} under {one.rule!r}, {scores[0].tracker} on {scores[0].dataset} "
                f"under {scores[0].rule!r}; compare scores of one data set and one rule"
            )
    by_name = {m.name: m for m in scores[0].metrics}
    key = metric or scores[0].metrics[0].name
    if key not in by_name:
        raise InputError(f"there is no metric {key!r}; known metrics: {', '.join(by_name)}")
    found = [_pair(a, b, key, by_name[key].higher_is_better, seed) for a, b in itertools.combinations(scores, 2)]
    corrected = holm([one.p_value for one in found])
    return [Comparison(**{**one.__dict__, "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


def _pair(a: Scores, b: Scores, key: str, higher_is_better: bool, seed: int) -> Comparison:
    theirs = {s.name: s for s in b.sequences}
    both = [
        (s, theirs[s.name])
        for s in a.sequences
        if s.name in theirs
        and math.isfinite(s.values.get(key, math.nan))
        and math.isfinite(theirs[s.name].values.get(key, math.nan))
    ]
    if not both:
        raise InputError(
            f"{a.tracker} and {b.tracker} have no sequence with a {key} in common; score both on the same set"
        )
    return paired_comparison(
        [s.values[key] for s, _ in both],
        [t.values[key] for _, t in both],
        [s.weight for s, _ in both],
        names=(a.tracker, b.tracker),
        metric=key,
        higher_is_better=higher_is_better,
        seed=seed,
    )


def _checked(values: npt.ArrayLike, weights: npt.ArrayLike | None, confidence: float) -> tuple[Array, Array]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim not in (1, 2) or len(x) == 0:
        raise InputError(f"values have shape {x.shape}; give (S,) or (S, metrics), one row per sequence")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(x),) or not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise InputError(f"weights have shape {w.shape}; give {(len(x),)} numbers that are not negative, not all 0")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; give a number between 0 and 1, e.g. 0.95")
    return x, w


def _bca(x: Array, w: Array, confidence: float, resamples: int, seed: int) -> Array:
    """(M, 2) ends of the interval for (S, M) finite values."""
    count = len(x)
    drawn = _draws(count, resamples, seed) * w  # (B, S) weight of each sequence in each resample
    total = drawn.sum(axis=1, keepdims=True)  # (B, 1)
    drawn, total = drawn[total[:, 0] > 0], total[total[:, 0] > 0]
    means = np.sort(drawn @ x / total, axis=0)  # (B, M)
    mean = (w @ x) / w.sum()  # (M,)
    # leave one sequence out: the influence of each on the mean
    rest = w.sum() - w
    without = np.divide(w @ x - w[:, None] * x, rest[:, None], out=np.tile(mean, (count, 1)), where=rest[:, None] > 0)
    influence = without.mean(axis=0) - without  # (S, M)
    spread = (influence**2).sum(axis=0)  # (M,)
    skew = np.divide((influence**3).sum(axis=0), 6 * spread**1.5, out=np.zeros(x.shape[1]), where=spread > _SAME**2)
    normal = NormalDist()
    ends = np.empty((x.shape[1], 2))
    for m in range(x.shape[1]):
        if spread[m] <= _SAME**2:  # all sequences alike
            ends[m] = mean[m]
            continue
        below = (np.searchsorted(means[:, m], mean[m], "left") + np.searchsorted(means[:, m], mean[m], "right")) / 2
        bias = normal.inv_cdf(min(max(below, 0.5), len(means) - 0.5) / len(means))
        for side, share in enumerate(((1 - confidence) / 2, (1 + confidence) / 2)):
            z = bias + normal.inv_cdf(share)
            level = normal.cdf(bias + z / (1 - skew[m] * z)) if skew[m] * z < 1 else float(share > 0.5)
            ends[m, side] = np.quantile(means[:, m], level)
    return ends


def _draws(count: int, resamples: int, seed: int) -> Array:
    """(resamples, count) how often each of ``count`` sequences is drawn when ``count`` are drawn with replacement."""
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    drawn += np.arange(resamples)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def _sign_flip(x: Array, permutations: int, seed: int) -> float:
    """Two-sided p value of the sum of ``x`` (S,) under random signs."""
    observed = abs(x.sum())
    slack = _SAME * max(1.0, np.abs(x).sum())
    if 2 ** len(x) <= permutations:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(x))[:, None] >> np.arange(len(x))) & 1)  # (2^S, S)
        return float((np.abs(signs @ x) >= observed - slack).mean())
    signs = np.random.default_rng([seed, 1]).integers(0, 2, (permutations, len(x)), dtype=np.int8) * 2.0 - 1.0
    return float((1 + (np.abs(signs @ x) >= observed - slack).sum()) / (permutations + 1))
