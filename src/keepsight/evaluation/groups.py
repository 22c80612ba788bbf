"""Which scores can stand in one table, and how their numbers are printed; tables, plots and the page share it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InputError
from .published import PublishedRow, published_rows
from .scores import Metric, Scores


@dataclass(frozen=True, eq=False)
class Group:
    """Trackers that were scored on one data set under one rule."""

    dataset: str
    rule: str
    metrics: tuple[Metric, ...]
    """Columns of the tables; the first ranks."""
    scores: tuple[Scores, ...]
    """Best first; undefined numbers last."""

    @property
    def name(self) -> str:
        """For files: ``otb100-pytracking``, safe in every file system."""
        return safe_name(f"{self.dataset}-{self.rule}")

    @property
    def unit(self) -> str:
        """``in percent`` where all numbers of the tables are."""
        return "in percent" if all(m.factor == 100 for m in self.metrics) else ""

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences of all trackers, in the data set's order."""
        return tuple(dict.fromkeys(s.name for one in self.scores for s in one.sequences))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Those that any tracker has a number for."""
        known = [a for one in self.scores for a, v in one.attributes.items() if any(map(math.isfinite, v.values()))]
        return tuple(dict.fromkeys(known))

    def published(self) -> list[PublishedRow]:
        """What papers print about the data set, in this group's metrics.

        Every VOT rule has an ``R`` of its own: failures, a chance, a share. It is shown under the same rule only.
        """
        rows = published_rows(self.dataset, [m.name for m in self.metrics])
        same = [
            r if r.rule == self.rule else replace(r, values={k: v for k, v in r.values.items() if k != "R"})
            for r in rows
        ]
        return [r for r in same if r.values]

    def best(self, metric: Metric) -> float:
        """The best value any tracker of the group has; nan if none has one."""
        return best_of([one.values.get(metric.name, math.nan) for one in self.scores], metric)


def safe_name(text: str) -> str:
    """``text`` as part of a file name in every file system."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).lstrip(".") or "results"


def group_scores(scores: Sequence[Scores]) -> tuple[Group, ...]:
    """Sort ``scores`` into groups by data set and rule, in the order they first appear; the best tracker first.

    Raises :class:`InputError` if there are none, if one has no metrics, or if a tracker appears twice in a group.
    """
    if not scores:
        raise InputError("no scores were given, so there is nothing to report; score at least one tracker")
    members: dict[tuple[str, str], list[Scores]] = {}
    for one in scores:
        members.setdefault((one.dataset, one.rule), []).append(one)
    return tuple(_group(dataset, rule, found) for (dataset, rule), found in members.items())


def _group(dataset: str, rule: str, scores: list[Scores]) -> Group:
    names = [one.tracker for one in scores]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{', '.join(map(repr, twice))} appears more than once on {dataset} under the rule {rule}; "
            "give each set of results its own name"
        )
    metrics = tuple({m.name: m for one in scores for m in one.metrics}.values())
    if not metrics:
        raise InputError(f"the scores on {dataset} under the rule {rule} hold no metrics")
    main = metrics[0]
    return Group(dataset, rule, metrics, tuple(sorted(scores, key=lambda one: ranking_key(one, main))))


def ranking_key(scores: Scores, metric: Metric) -> tuple[float, str]:
    """Sorts the better first, undefined numbers last, equal numbers by name."""
    value = scores.values.get(metric.name, math.nan)
    if not math.isfinite(value):
        return math.inf, scores.tracker
    return (-value if metric.higher_is_better else value), scores.tracker


def best_of(values: Sequence[float], metric: Metric) -> float:
    """The best of the finite ``values``; nan if there is none."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return math.nan
    return max(finite) if metric.higher_is_better else min(finite)


def print_value(value: float, metric: Metric) -> str:
    """As a table prints it: ``61.2``; an en dash where there is no number."""
    return f"{metric.factor * value:.{metric.digits}f}" if math.isfinite(value) else "–"


def print_interval(interval: tuple[float, float] | None, metric: Metric) -> str:
    """``[59.1, 63.4]``, empty if unknown."""
    if interval is None or not all(math.isfinite(v) for v in interval):
        return ""
    return f"[{print_value(interval[0], metric)}, {print_value(interval[1], metric)}]"


def is_best(value: float, best: float, metric: Metric) -> bool:
    """Whether ``value`` is printed like the best one: what looks equal in the table is marked alike."""
    return math.isfinite(value) and print_value(value, metric) == print_value(best, metric)
