"""Scores as plots that a paper can print: success, precision, attributes, accuracy-robustness, expected overlap, and how
far probabilities can be taken at their word.

Every function returns a matplotlib ``Figure`` of a paper's column width (:func:`write_plots` saves them as PDF and PNG
with embedded TrueType fonts). No window is opened and matplotlib's own settings stay as they are. Needs matplotlib:
``pip install 'keepsight[report]'``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, nearest_names
from .groups import Group, best_of, group_scores, is_best, print_value, ranking_key, safe_name
from .scores import Metric, Scores
from .styles import TrackerStyle, tracker_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .calibration import Bin

COLUMN = 3.3
"""Width of a column in inches (CVPR, ECCV and PAMI are within 0.2 of it)."""
PAGE = 6.9
"""Width of a page's text in inches."""

_LINES: Mapping[str, Any] = {"solid": "-", "dash": (0, (5, 2)), "dashdot": (0, (5, 1.5, 1, 1.5)), "dot": (0, (1, 1.3))}
_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "star": "*",
    "cross": "P",
    "x": "X",
    "pentagon": "p",
}


def curve_plot(scores: Sequence[Scores], curve: str = "success", *, styles: Styles | None = None) -> Figure:
    """One line per tracker, ranked in the legend by the number that sums the curve up.

    ``curve``: a key of ``Scores.curves``, e.g. ``success``, ``precision``, ``norm_precision``, ``eao``,
    ``precision_recall``. Raises :class:`InputError` if none of the scores has it.
    """
    group = _one_group(scores)
    have = [one for one in group.scores if curve in one.curves]
    if not have:
        known = {name for one in group.scores for name in one.curves}
        raise InputError(f"no tracker has a curve {curve!r}; {nearest_names(curve, known)}")
    first = have[0].curves[curve]
    metric = _metric(group, first.summary)
    ranked = sorted(have, key=lambda one: ranking_key(one, metric)) if metric is not None else have
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN * 0.78)
        looks = styles or tracker_styles(one.tracker for one in group.scores)
        for order, one in enumerate(ranked):
            line = one.curves[curve]
            label = one.tracker
            if metric is not None:
                label += f" [{print_value(one.values.get(metric.name, math.nan), metric)}]"
            axes.plot(line.x, line.y, **line_style(looks[one.tracker]), label=_label(label), zorder=30 - order)
        axes.set_xlabel(first.x_label)
        axes.set_ylabel(first.y_label)
        axes.set_title(_title(group))
        _limits(axes, curve, have)
        falling = first.y[0] >= first.y[-1]
        _legend(axes, len(ranked), "lower left" if curve == "success" else "upper right" if falling else "lower right")
    return figure


def attribute_radar(scores: Sequence[Scores], metric: str | None = None, *, styles: Styles | None = None) -> Figure:
    """One spoke per attribute, one outline per tracker; the rings are the metric's values, labelled.

    ``metric``: None: the one that ranks. Raises :class:`InputError` if no tracker has attributes, or the metric is unknown.
    """
    group = _one_group(scores)
    names, chosen = _attributes(group, metric)
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    looks = styles or tracker_styles(one.tracker for one in group.scores)
    table = _attribute_values(group, names, chosen) * chosen.factor  # (trackers, attributes)
    with plot_look():
        figure, axes = new_figure(COLUMN * 1.25, COLUMN * 1.25, projection="polar")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        for one, row in zip(group.scores, table, strict=True):
            keep = dict(line_style(looks[one.tracker]), marker=_MARKERS[looks[one.tracker].marker], markersize=2.6)
            axes.plot([*angles, angles[0]], [*row, row[0]], **keep, label=_label(one.tracker))
        finite = table[np.isfinite(table)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        margin = max(high - low, 0.02 * chosen.factor) * 0.25
        axes.set_ylim(max(0.0, low - margin), high + margin * 0.3)
        axes.set_xticks(angles, [_label(name) for name in names])
        axes.tick_params(axis="x", pad=1)
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):  # long names grow away from the circle
            side = math.sin(angle)
            label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
        axes.set_rlabel_position(180 / len(names))
        axes.yaxis.set_major_locator(_locator(4))
        axes.set_title(f"{_title(group)}\n{chosen.label} per attribute", pad=10)
        _legend_below(figure, axes, len(group.scores))
    return figure


def attribute_table_plot(scores: Sequence[Scores], metric: str | None = None) -> Figure:
    """Attributes across, trackers down, the number in each cell; darker is better within the attribute, bold is best."""
    group = _one_group(scores)
    names, chosen = _attributes(group, metric)
    table = _attribute_values(group, names, chosen)  # (trackers, attributes)
    rank = np.full(table.shape, 0.0)
    for column in range(len(names)):
        values = table[:, column] if chosen.higher_is_better else -table[:, column]
        low, high = np.nanmin([*values, np.inf]), np.nanmax([*values, -np.inf])
        rank[:, column] = (values - low) / (high - low) if high > low else 0.0
    with plot_look():
        widest = max(len(one.tracker) for one in group.scores)
        width = min(PAGE, 0.07 * widest + 0.42 * len(names) + 0.3)
        figure, axes = new_figure(max(width, 2.0), 0.85 + 0.17 * len(group.scores))
        axes.imshow(np.nan_to_num(rank), cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            best = is_best(value, best_of([float(v) for v in table[:, column]], chosen), chosen)
            weight = "bold" if best and len(table) > 1 else "normal"
            axes.text(column, row, print_value(value, chosen), ha="center", va="center", fontsize=6, fontweight=weight)
        sizes = [max(one.attribute_sizes.get(name, 0) for one in group.scores) for name in names]
        heads = [_label(f"{name}\n({size})" if size else name) for name, size in zip(names, sizes, strict=True)]
        long = max(map(len, names)) > 6
        axes.set_xticks(range(len(names)), heads, rotation=60 if long else 0, ha="left" if long else "center")
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(group.scores)), [_label(one.tracker) for one in group.scores])
        axes.tick_params(length=0, labelsize=6)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(f"{_title(group)}\n{chosen.label}", loc="left")
    return figure


def ar_plot(scores: Sequence[Scores], *, styles: Styles | None = None, sensitivity: float = 100.0) -> Figure:
    """Accuracy over robustness, one point per tracker; the best is at the top right.

    Where a small ``R`` is better (VOT 2013 to 2019, 100 × failures / frames) the horizontal axis is VOT's
    exp(-S R / 100), the chance that a tracker is still on the target after ``sensitivity`` = S frames. Where a large
    ``R`` is better (VOT 2020 and later) it is R itself. Raises :class:`InputError` if no tracker has ``A`` and ``R``.
    """
    group = _one_group(scores)
    have = [one for one in group.scores if {"A", "R"} <= set(one.values)]
    if not have:
        raise InputError(f"no tracker has accuracy and robustness on {group.dataset} under the rule {group.rule}")
    robustness = _metric(group, "R")
    failures = robustness is not None and not robustness.higher_is_better
    looks = styles or tracker_styles(one.tracker for one in group.scores)
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN)
        for one in have:
            x, y = ar_point(one, failures=failures, sensitivity=sensitivity)
            style = looks[one.tracker]
            axes.plot(
                [x], [y], color=style.colour, marker=_MARKERS[style.marker], ls="", ms=6, label=_label(one.tracker)
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        axes.set_xlabel(f"Robustness (S = {sensitivity:g})" if failures else "Robustness")
        axes.set_ylabel("Accuracy")
        axes.set_title(_title(group))
        _legend_below(figure, axes, len(have))
    return figure


def ar_point(scores: Scores, *, failures: bool, sensitivity: float = 100.0) -> tuple[float, float]:
    """Place of a tracker in the accuracy-robustness plot, both axes 0..1, see :func:`ar_plot`."""
    r = float(scores.values["R"])
    return (math.exp(-sensitivity * r / 100) if failures else r), float(scores.values["A"])


def ranking_plot(scores: Sequence[Scores], metric: str = "EAO", *, styles: Styles | None = None) -> Figure:
    """VOT's ranking plot: trackers from worst (left) to best (right, rank 1), the value upwards, interval as a bar."""
    group = _one_group(scores)
    chosen = _metric(group, metric)
    if chosen is None:
        raise InputError(f"there is no metric {metric!r}; {nearest_names(metric, [m.name for m in group.metrics])}")
    ranked = sorted(group.scores, key=lambda one: ranking_key(one, chosen))
    looks = styles or tracker_styles(one.tracker for one in group.scores)
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN * 0.78)
        for rank, one in enumerate(ranked, start=1):
            value = one.values.get(metric, math.nan) * chosen.factor
            style, interval = looks[one.tracker], one.intervals.get(metric)
            if interval is not None:
                ends = [v * chosen.factor for v in interval]
                axes.plot([rank, rank], ends, color=style.colour, lw=1, alpha=0.6)
            label = _label(f"{one.tracker} [{print_value(one.values.get(metric, math.nan), chosen)}]")
            axes.plot([rank], [value], color=style.colour, marker=_MARKERS[style.marker], ls="", ms=5, label=label)
        axes.set_xlim(len(ranked) + 0.7, 0.3)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(_locator(10, integer=True))
        axes.set_xlabel("Rank")
        axes.set_ylabel(chosen.label)
        axes.set_title(_title(group))
        _legend_below(figure, axes, len(ranked))
    return figure


def reliability_plot(bins: Mapping[str, Sequence[Bin]], title: str = "", *, event: str = "in view") -> Figure:
    """What was said against what was seen, a line per key of ``bins``; on the diagonal probabilities hold. Below it how many of
    the frames each bin has (markers grow with it), sequences weighing alike. Vertical lines are intervals over sequences."""
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN * 1.25)
        axes.remove()
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot([0, 1], [0, 1], color="#808080", lw=0.7)
        styles = tracker_styles(bins)
        for place, (name, rows) in enumerate(bins.items()):
            x = [row.probability for row in rows]
            line, aside = line_style(styles[name]), 0.006 * (place - (len(bins) - 1) / 2)
            upper.vlines(
                [v + aside for v in x],
                [row.share.low for row in rows],
                [row.share.high for row in rows],
                color=line["color"],
                lw=0.6,
                alpha=0.5,
            )
            shares, look = [row.share.value for row in rows], _MARKERS[styles[name].marker]
            upper.plot(x, shares, **dict(line, lw=0.7, marker=look, ms=2.4), label=_label(name))
            sizes = [4 + 110 * row.weight for row in rows]  # a bin of few frames says little
            upper.scatter(x, shares, s=sizes, marker=look, color=line["color"], linewidths=0, alpha=0.8, zorder=3)
            width = 0.1 / (len(bins) + 1)
            middles = [(row.low + row.high) / 2 + width * (place - (len(bins) - 1) / 2) for row in rows]
            lower.bar(middles, [100 * row.weight for row in rows], width=width, color=line["color"])
        upper.set_xlim(-0.01, 1.01)
        upper.set_ylim(-0.02, 1.02)
        upper.set_ylabel(f"Share of frames {event}")
        upper.set_title(_label(title))
        _legend_below(figure, upper, len(bins))
        lower.set_yscale("log")
        lower.set_axisbelow(True)
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        lower.set_ylabel("Frames [%]")
        lower.set_xlabel("Probability said")
    return figure


def roc_plot(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    title: str = "",
    *,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    event: str = "in view",
) -> Figure:
    """ROC curves: false and true positive rates, (K,) each, by label; ``parts`` are drawn thin and grey (single sequences)."""
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN)
        axes.plot([0, 1], [0, 1], color="#808080", lw=0.7)
        for (name, (x, y)), dash in zip((parts or {}).items(), [*_LINES.values()] * len(parts or {}), strict=False):
            axes.plot(x, y, color="#9a9a9a", lw=0.8, linestyle=dash, label=_label(name))
        styles = tracker_styles(curves)
        for name, (x, y) in curves.items():
            axes.plot(x, y, **line_style(styles[name]), label=_label(name))
        axes.set_xlim(-0.005, 1)
        axes.set_ylim(0, 1.005)
        axes.set_aspect("equal")
        axes.set_xlabel(f"False positive rate (frames not {event})")
        axes.set_ylabel(f"True positive rate (frames {event})")
        axes.set_title(_label(title))
        _legend(axes, min(7, len(curves) + len(parts or {})), "lower right")
    return figure


def save_plot(figure: Figure, folder: str | Path, name: str, formats: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """The files ``folder/name.format``; the same figure gives the same bytes. Raises :class:`InputError` for other formats than
    ``pdf``, ``png`` and ``svg``."""
    check_formats(formats)
    return [save_figure(figure, Path(folder).expanduser() / f"{name}.{kind}") for kind in formats]


def write_plots(
    scores: Sequence[Scores],
    folder: str | Path,
    *,
    formats: Sequence[str] = ("pdf", "png"),
    attributes: bool = True,
) -> list[Path]:
    """Every plot that the scores have, as ``<data set>-<rule>-<plot>.<format>`` in ``folder`` (made if absent).

    ``attributes``: with radar and table of the attributes.

    Returns the files. The same scores give the same bytes. Raises :class:`InputError` for other formats than ``pdf``,
    ``png`` and ``svg``, or without matplotlib.
    """
    check_formats(formats)
    require_matplotlib()
    out = Path(folder).expanduser()
    groups = group_scores(scores)
    styles = tracker_styles(one.tracker for group in groups for one in group.scores)
    files = []
    for group in groups:
        for name, make in _plots_of(group, styles, attributes):
            figure = make()
            for kind in formats:
                files.append(save_figure(figure, out / f"{group.name}-{safe_name(name)}.{kind}"))
    return files


Styles = Mapping[str, TrackerStyle]


def _plots_of(group: Group, styles: Styles, attributes: bool) -> list[tuple[str, Callable[[], Figure]]]:
    """Name and maker of each plot that ``group`` has the numbers for."""
    scores = group.scores
    plots: list[tuple[str, Callable[[], Figure]]] = []
    for curve in dict.fromkeys(name for one in scores for name in one.curves):
        plots.append((curve, lambda curve=curve: curve_plot(scores, curve, styles=styles)))  # type: ignore[misc]
    if any({"A", "R"} <= set(one.values) for one in scores):
        plots.append(("ar", lambda: ar_plot(scores, styles=styles)))
    if _metric(group, "EAO") is not None:
        plots.append(("eao-ranking", lambda: ranking_plot(scores, "EAO", styles=styles)))
    if attributes and len(group.attributes) >= 3:
        plots.append(("attribute-radar", lambda: attribute_radar(scores, styles=styles)))
    if attributes and group.attributes:
        plots.append(("attribute-table", lambda: attribute_table_plot(scores)))
    return plots


def check_formats(formats: Sequence[str]) -> None:
    """Raises :class:`InputError` for other formats than ``pdf``, ``png`` and ``svg``."""
    unknown = sorted(set(formats) - {"pdf", "png", "svg"})
    if unknown:
        raise InputError(f"plots cannot be written as {', '.join(unknown)}; choose from pdf, png, svg")


def require_matplotlib() -> None:
    """Raises :class:`InputError` that names the command to run if matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed; run `pip install 'keepsight[report]'`"
        ) from None


# ------------------------------------------------------------------------------------------------------------ the look


def plot_look() -> AbstractContextManager[None]:
    """Small type, thin lines, fonts embedded as TrueType (Type 42: publishers refuse Type 3)."""
    require_matplotlib()
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 7,
            "axes.titlesize": 7.5,
            "axes.labelsize": 7,
            "axes.linewidth": 0.6,
            "axes.grid": True,
            "grid.color": "#d9d9d9",
            "grid.linewidth": 0.4,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "legend.fontsize": 5.8,
            "lines.linewidth": 1.2,
            "pdf.fonttype": 42,
            "ps.fonttype": 42,
            "svg.hashsalt": "keepsight",
            "figure.dpi": 150,
        }
    )


def new_figure(width: float, height: float, **axes: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` × ``height`` inches and its axes; ``axes``: matplotlib's, e.g. ``projection``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot(**axes)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as the suffix of ``path`` says, .pdf, .png or .svg; the same figure gives the same bytes."""
    from ..text import write_atomically

    out = io.BytesIO()
    kind = path.suffix[1:]
    about: dict[str, Any] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
    with plot_look():  # fonts are embedded when the file is written
        figure.savefig(out, format=kind, dpi=300, metadata=about)
    write_atomically(path, out.getvalue())
    return path


def line_style(style: TrackerStyle) -> dict[str, Any]:
    """Keywords of matplotlib's ``plot``."""
    return {"color": style.colour, "linestyle": _LINES[style.dash]}


def _label(text: str) -> str:
    """Text as it is: a dollar sign starts no formula, and a leading underscore does not hide the entry."""
    text = text.replace("$", r"\$")
    return "\u200b" + text if text.startswith("_") else text


def _title(group: Group) -> str:
    return _label(f"{group.dataset} (rule {group.rule})")


def _limits(axes: Any, curve: str, scores: Sequence[Scores]) -> None:
    """The axes the field is used to: from the first threshold to the last, shares from 0 to 1."""
    x = np.concatenate([one.curves[curve].x for one in scores])
    x = x[np.isfinite(x)]
    if curve == "precision_recall":
        axes.set_xlim(0, 1)
    elif x.size and x.max() > x.min():
        axes.set_xlim(float(x.min()), float(x.max()))
    axes.set_ylim(0, 1)


def _legend(axes: Any, count: int, place: str) -> None:
    """Inside the plot while it fits there, else below it."""
    if count <= 7:
        axes.legend(loc=place, framealpha=0.85, edgecolor="none", handlelength=2.6, labelspacing=0.25, borderpad=0.3)
    else:
        _legend_below(axes.figure, axes, count)


def _legend_below(figure: Figure, axes: Any, count: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=0)
    columns = min(count, 1 if longest > 34 else 2 if longest > 16 else 3)
    figure.set_figheight(figure.get_figheight() + 0.115 * math.ceil(count / columns))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handlelength=2.6,
        columnspacing=1.0,
        labelspacing=0.25,
    )


def _locator(count: int, *, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=integer)


# ---------------------------------------------------------------------------------------------------------- the numbers


def _one_group(scores: Sequence[Scores]) -> Group:
    groups = group_scores(scores)
    if len(groups) > 1:
        names = ", ".join(f"{g.dataset} ({g.rule})" for g in groups)
        raise InputError(f"one plot shows one data set under one rule, not {names}; call it once for each")
    return groups[0]


def _metric(group: Group, name: str) -> Metric | None:
    return next((m for m in group.metrics if m.name == name), None)


def _attributes(group: Group, metric: str | None) -> tuple[tuple[str, ...], Metric]:
    if not group.attributes:
        raise InputError(f"no tracker has scores per attribute on {group.dataset} under the rule {group.rule}")
    chosen = group.metrics[0] if metric is None else _metric(group, metric)
    if chosen is None:
        raise InputError(
            f"there is no metric {metric!r}; {nearest_names(str(metric), [m.name for m in group.metrics])}"
        )
    return group.attributes, chosen


def _attribute_values(group: Group, names: Sequence[str], metric: Metric) -> np.ndarray:
    """(trackers, attributes), nan where a tracker has no number."""
    rows = [[one.attributes.get(n, {}).get(metric.name, math.nan) for n in names] for one in group.scores]
    return np.array(rows, dtype=np.float64).reshape(len(group.scores), len(names))
