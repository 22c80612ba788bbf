"""Scores as one self-contained HTML page: no network, no other files, readable on a phone, in the dark and by keyboard.

The page holds plotly's script (4.8 MB) for the curves; tables, legends and search are a few lines of its own. Needs
plotly and jinja2: ``pip install 'keepsight[report]'``.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .groups import Group, best_of, group_scores, is_best, print_interval, print_value, ranking_key
from .plots import ar_point
from .score import find_rule
from .scores import Metric, Scores
from .strips import Strip, make_strips
from .styles import TrackerStyle, tracker_styles

if TYPE_CHECKING:
    from ..datasets.sequence import Sequence as Video
    from .runs import Run
    from .statistics import Comparison


@dataclass(frozen=True)
class Provenance:
    """How the numbers came about; empty fields are left out of the page."""

    command: str = ""
    version: str = ""
    """Of keepsight."""
    commit: str = ""
    date: str = ""
    """The page itself asks no clock, so that the same scores give the same page."""
    machine: str = ""
    """Where the page was made; frames per second were measured where the trackers ran."""
    seed: str = ""
    more: Mapping[str, str] = field(default_factory=dict)
    """Anything else, name -> text."""

    def items(self) -> list[tuple[str, str]]:
        """Name and text of what is known."""
        named = [
            ("Command", self.command),
            ("keepsight", self.version),
            ("Commit", self.commit),
            ("Date", self.date),
            ("Scored on", self.machine),
            ("Seed", self.seed),
            *self.more.items(),
        ]
        return [(name, text) for name, text in named if text]


def html_page(
    scores: Sequence[Scores],
    *,
    title: str = "Tracking results",
    published: bool = True,
    attributes: bool = True,
    datasets: Mapping[str, Mapping[str, Video]] | None = None,
    runs: Mapping[str, Mapping[str, Mapping[str, Sequence[Run]]]] | None = None,
    strips: int = 3,
    comparisons: Mapping[tuple[str, str], Sequence[Comparison]] | None = None,
    provenance: Provenance | None = None,
) -> str:
    """The page as text.

    ``published``: numbers of papers beside ours, with their rule. ``datasets`` (name -> sequences) and ``runs`` (data
    set -> tracker -> sequence -> repetitions) give the frame strips of each tracker's ``strips`` worst sequences; without
    them there are none. ``comparisons``: (data set, rule) -> paired tests. The same arguments give the same text. Raises
    :class:`InputError` if there is nothing to show or a package is absent.
    """
    groups = group_scores(scores)
    styles = tracker_styles(one.tracker for group in groups for one in group.scores)
    plotly = _plotly_script()
    sections, data = [], []
    for number, group in enumerate(groups):
        tests = (comparisons or {}).get((group.dataset, group.rule), ())
        found: list[Strip] = []
        missing: list[str] = []
        if datasets is not None and runs is not None and strips > 0 and group.dataset in datasets:
            found, missing = make_strips(
                group,
                datasets[group.dataset],
                runs.get(group.dataset, {}),
                count=strips,
                max_bytes=6_000_000 // len(groups),
            )
        sections.append(_section(number, group, styles, published, attributes, found, missing, tests))
        data.append(_data(group, styles, attributes))
    return _template().render(
        title=title,
        sections=sections,
        summary=_summary(groups) if len(groups) > 1 else None,
        provenance=provenance.items() if provenance is not None else [],
        data=_json(data),
        plotly=plotly,
        css=_file("report.css"),
        script=_file("report.js"),
    )


# -------------------------------------------------------------------------------------------------------------- tables


def _section(
    number: int,
    group: Group,
    styles: Mapping[str, TrackerStyle],
    published: bool,
    attributes: bool,
    strips: Sequence[Strip],
    missing: Sequence[str],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """What the template needs for one data set under one rule."""
    return {
        "id": f"g{number}",
        "dataset": group.dataset,
        "rule": group.rule,
        "explanation": _explanation(group.rule),
        "sequence_count": len(group.sequences),
        "metrics": group.metrics,
        "legend": "; ".join(
            [
                *filter(None, [group.unit.capitalize()]),
                *(f"{m.name}: {m.label}" for m in group.metrics if m.label != m.name),
            ]
        ),
        "rows": [_overview_row(rank, one, group, styles) for rank, one in enumerate(group.scores, 1)],
        "published": [_published_row(row, group) for row in (group.published() if published else [])],
        "curves": any(one.curves for one in group.scores),
        "charts": [_without_traces(c) for c in _charts(group, attributes)],
        "attributes": _attribute_table(group) if attributes and group.attributes else None,
        "notes": _notes(group),
        "strips": [_strip(strip) for strip in strips],
        "strip_notes": list(missing),
        "comparisons": [_comparison(test, group) for test in comparisons],
        "has_intervals": any(one.intervals for one in group.scores),
        "has_fps": any(one.fps is not None for one in group.scores),
    }


def _notes(group: Group) -> list[tuple[str, str]]:
    """Trackers and what is to be known about them; what holds for several stands there once."""
    said: dict[str, list[str]] = {}
    for one in group.scores:
        for note in one.notes:
            said.setdefault(note, []).append(one.tracker)
    everyone = len(group.scores)
    return [("all trackers" if len(who) == everyone > 1 else ", ".join(who), note) for note, who in said.items()]


def _overview_row(rank: int, one: Scores, group: Group, styles: Mapping[str, TrackerStyle]) -> dict[str, Any]:
    lost = sum(s.lost for s in one.sequences)
    return {
        "rank": rank,
        "tracker": one.tracker,
        "style": styles[one.tracker],
        "cells": [
            _cell(one.values.get(m.name, math.nan), group.best(m), m, len(group.scores), one.intervals.get(m.name))
            for m in group.metrics
        ],
        "sequences": len(one.sequences),
        "lost": lost,
        "repetitions": one.repetitions,
        "fps": "–" if one.fps is None or not math.isfinite(one.fps) else f"{one.fps:.1f}",
        "fps_order": _order(one.fps),
    }


def _published_row(row: Any, group: Group) -> dict[str, Any]:
    return {
        "tracker": row.tracker,
        "cells": [_cell(row.values.get(m.name, math.nan), math.nan, m, 0, None) for m in group.metrics],
        "source": row.source,
        "places": row.places,
        "rule": row.rule,
        "same_rule": row.rule == group.rule,
        "note": row.note,
    }


def _cell(
    value: float, best: float, metric: Metric, trackers: int, interval: tuple[float, float] | None
) -> dict[str, Any]:
    return {
        "text": print_value(value, metric),
        "order": _order(value),
        "best": trackers > 1 and is_best(value, best, metric),
        "interval": print_interval(interval, metric),
    }


def _order(value: float | None) -> str:
    """What a column is sorted by; empty: last in either direction."""
    return "" if value is None or not math.isfinite(value) else repr(round(float(value), 9))


def _explanation(rule: str) -> str:
    try:
        return find_rule(rule).summary
    except InputError:  # somebody's own rule
        return ""


def _attribute_table(group: Group) -> dict[str, Any]:
    metric, rows = group.metrics[0], []
    for name in group.attributes:
        values = [one.attributes.get(name, {}).get(metric.name, math.nan) for one in group.scores]
        best = best_of(values, metric)
        rows.append(
            {
                "name": name,
                "size": max((one.attribute_sizes.get(name, 0) for one in group.scores), default=0),
                "cells": [_cell(value, best, metric, len(values), None) for value in values],
            }
        )
    return {"metric": metric, "trackers": [one.tracker for one in group.scores], "rows": rows}


def _comparison(test: Comparison, group: Group) -> dict[str, str]:
    metric = next((m for m in group.metrics if m.name == test.metric), group.metrics[0])
    p = test.p_value if math.isnan(test.p_holm) else test.p_holm
    return {
        "first": test.a,
        "second": test.b,
        "metric": metric.label,
        "sequences": str(test.sequences),
        "difference": f"{metric.factor * test.difference:+.{metric.digits + 1}f}",
        "interval": print_interval(test.interval, metric),
        "p": "< 0.001" if p < 0.001 else f"{p:.3f}",
        "verdict": verdict(test, metric),
    }


def verdict(test: Comparison, metric: Metric) -> str:
    """What a paired test says, in words: a p value of 0.05 separates, corrected where several pairs were tested."""
    p = test.p_value if math.isnan(test.p_holm) else test.p_holm
    counts = f"{test.a} is better on {test.wins} sequences, {test.b} on {test.losses}, {test.ties} tied"
    if not p < 0.05:
        return f"no difference that {test.sequences} sequences could show; {counts}"
    first = (test.difference > 0) == metric.higher_is_better
    return f"{test.a if first else test.b} is better; {counts}"


def _summary(groups: Sequence[Group]) -> dict[str, Any]:
    """The number that ranks, trackers down, data sets across; for reports on several."""
    trackers = list(dict.fromkeys(one.tracker for group in groups for one in group.scores))
    rows = []
    for tracker in trackers:
        cells = []
        for group in groups:
            values = {one.tracker: one.values.get(group.metrics[0].name, math.nan) for one in group.scores}
            value, best = values.get(tracker, math.nan), group.best(group.metrics[0])
            cells.append(_cell(value, best, group.metrics[0], len(values), None))
        rows.append({"tracker": tracker, "cells": cells})
    heads = [
        {"id": f"g{i}", "dataset": g.dataset, "rule": g.rule, "metric": g.metrics[0]} for i, g in enumerate(groups)
    ]
    return {"heads": heads, "rows": rows}


def _strip(strip: Strip) -> dict[str, Any]:
    return {
        "tracker": strip.tracker,
        "sequence": strip.sequence,
        "value": f"{strip.metric.name} {print_value(strip.value, strip.metric)}",
        "frames": [
            {
                "frame": t.frame,
                "overlap": f"{t.overlap:.2f}" if math.isfinite(t.overlap) else "",
                "source": "data:image/jpeg;base64," + base64.b64encode(t.jpeg).decode(),
                "width": t.width,
                "height": t.height,
            }
            for t in strip.thumbnails
        ],
    }


# -------------------------------------------------------------------------------------------------------------- charts


def _data(group: Group, styles: Mapping[str, TrackerStyle], attributes: bool) -> dict[str, Any]:
    """What the page's script needs for one data set under one rule; trackers are numbers, best first."""
    names = group.sequences
    frames = {s.name: s.frames for one in reversed(group.scores) for s in one.sequences}
    return {
        "trackers": [{"name": one.tracker, **vars(styles[one.tracker])} for one in group.scores],
        "metrics": [
            {"name": m.name, "label": m.label, "factor": m.factor, "digits": m.digits, "higher": m.higher_is_better}
            for m in group.metrics
        ],
        "charts": _charts(group, attributes),
        "sequences": {
            "names": names,
            "frames": [frames[name] for name in names],
            "values": [_sequence_values(group, metric, names) for metric in group.metrics],
        },
    }


def _sequence_values(group: Group, metric: Metric, names: Sequence[str]) -> list[list[float | None]]:
    """[tracker][sequence], None where there is no number."""
    table = []
    for one in group.scores:
        known = {s.name: s.values.get(metric.name, math.nan) for s in one.sequences}
        table.append([_rounded(known.get(name, math.nan)) for name in names])
    return table


def _charts(group: Group, attributes: bool) -> list[dict[str, Any]]:
    charts = [_curve_chart(group, name) for name in dict.fromkeys(n for one in group.scores for n in one.curves)]
    if any({"A", "R"} <= set(one.values) for one in group.scores):
        charts.append(_ar_chart(group))
    if any(m.name == "EAO" for m in group.metrics):
        charts.append(_ranking_chart(group, "EAO"))
    if attributes and len(group.attributes) >= 3:
        charts.append(_radar_chart(group))
    return charts


def _without_traces(chart: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chart.items() if key != "traces"}


def _curve_chart(group: Group, name: str) -> dict[str, Any]:
    have = [(i, one) for i, one in enumerate(group.scores) if name in one.curves]
    first = have[0][1].curves[name]
    metric = next((m for m in group.metrics if m.name == first.summary), None)
    if metric is not None:
        have.sort(key=lambda pair: ranking_key(pair[1], metric))
    traces: list[dict[str, Any]] = []
    for i, one in have:
        curve = one.curves[name]
        number = print_value(one.values.get(metric.name, math.nan), metric) if metric is not None else ""
        traces.append({"tracker": i, "x": _list(curve.x), "y": _list(curve.y), "number": number})
    title = metric.label if metric is not None else first.y_label
    y_range = [0, 1]
    x_range = [0, 1] if name == "precision_recall" else None
    return {
        "kind": "curve",
        "title": title,
        "x": first.x_label,
        "y": first.y_label,
        "x_range": x_range,
        "y_range": y_range,
        "traces": traces,
    }


def _ar_chart(group: Group) -> dict[str, Any]:
    robustness = next((m for m in group.metrics if m.name == "R"), None)
    failures = robustness is not None and not robustness.higher_is_better
    traces: list[dict[str, Any]] = []
    for i, one in enumerate(group.scores):
        if {"A", "R"} <= set(one.values):
            x, y = ar_point(one, failures=failures)
            traces.append({"tracker": i, "x": [_rounded(x)], "y": [_rounded(y)], "number": ""})
    axis = "Robustness (chance to survive 100 frames)" if failures else "Robustness"
    ends = {"x_range": [0, 1], "y_range": [0, 1]}
    return {"kind": "points", "title": "Accuracy and robustness", "x": axis, "y": "Accuracy", **ends, "traces": traces}


def _ranking_chart(group: Group, name: str) -> dict[str, Any]:
    metric = next(m for m in group.metrics if m.name == name)
    ranked = sorted(enumerate(group.scores), key=lambda pair: ranking_key(pair[1], metric))
    traces: list[dict[str, Any]] = []
    for rank, (i, one) in enumerate(ranked, 1):
        value = one.values.get(name, math.nan)
        trace: dict[str, Any] = {
            "tracker": i,
            "x": [rank],
            "y": [_rounded(value)],
            "number": print_value(value, metric),
        }
        if name in one.intervals:
            low, high = one.intervals[name]
            trace["error"] = [_rounded(high - value), _rounded(value - low)]
        traces.append(trace)
    title = f"{metric.label}: ranking"
    highest = max((v for t in traces for v in t["y"] if v is not None), default=1.0)
    ends = {"x_range": [len(ranked) + 0.6, 0.4], "y_range": [0, 1.12 * highest or 1.0]}
    return {"kind": "points", "title": title, "x": "Rank", "y": metric.label, **ends, "traces": traces}


def _radar_chart(group: Group) -> dict[str, Any]:
    metric = group.metrics[0]
    traces: list[dict[str, Any]] = []
    for i, one in enumerate(group.scores):
        values = [one.attributes.get(a, {}).get(metric.name, math.nan) * metric.factor for a in group.attributes]
        number = print_value(one.values.get(metric.name, math.nan), metric)
        traces.append({"tracker": i, "x": list(group.attributes), "y": _list(values, 3), "number": number})
    title = f"{metric.label} per attribute"
    known = [v for trace in traces for v in trace["y"] if v is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = max(high - low, 0.02 * metric.factor) / 4  # from a little below the worst: differences stay visible
    rings = [max(0.0, low - margin), high + margin / 3]
    return {"kind": "radar", "title": title, "x": "", "y": "", "x_range": None, "y_range": rings, "traces": traces}


def _list(values: Iterable[float], digits: int = 5) -> list[float | None]:
    return [_rounded(float(v), digits) for v in values]


def _rounded(value: float, digits: int = 5) -> float | None:
    return round(float(value), digits) if math.isfinite(value) else None


# -------------------------------------------------------------------------------------------------------------- the page


def _json(data: Any) -> str:
    """For a script element: nothing in it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError:
        raise _absent("jinja2") from None
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("report.html.j2"))


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise _absent("plotly") from None
    script: str = get_plotlyjs()
    return script


def _absent(package: str) -> InputError:
    return InputError(f"the HTML page needs {package}, which is not installed; run `pip install 'keepsight[report]'`")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(f"data/{name}").read_text(encoding="utf-8")
