"""Scores as tables: plain text, CSV and LaTeX. Every table names the rule; published numbers stand beside ours on request.

All functions take ``scores`` of several trackers on one or several data sets; trackers that share a data set and a rule
share a table, best first.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from .groups import Group, best_of, group_scores, is_best, print_interval, print_value
from .published import PublishedRow
from .scores import Metric, Scores

# ------------------------------------------------------------------------------------------------------------- console


def console_table(scores: Sequence[Scores], *, published: bool = False, width: int | None = None) -> str:
    """Plain text, columns aligned; ``*`` marks the best of each column, intervals are 95 %, ``↓`` where lower is better.

    ``published``: add what papers print about the data set. ``width``: characters at most; None: as wide as needed.
    """
    return "\n".join(_console_group(group, published, width) for group in group_scores(scores))


def _console_group(group: Group, published: bool, width: int | None) -> str:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("Tracker", no_wrap=width is None, overflow="fold")
    for metric in group.metrics:
        table.add_column(_heading(metric), justify="right")
    table.add_column("Sequences", justify="right")
    table.add_column("FPS", justify="right")
    rows = group.published() if published else []
    if rows:
        table.add_column("Source", no_wrap=width is None, overflow="fold")
    for one in group.scores:
        cells = [_console_cell(one, metric, group) for metric in group.metrics]
        tail = ["ours"] if rows else []
        table.add_row(*map(_plain, [one.tracker, *cells, _sequence_count(one), _fps(one), *tail]))
    for row in rows:
        cells = [print_value(row.values.get(m.name, math.nan), m) + " " for m in group.metrics]
        table.add_row(*map(_plain, [row.tracker, *cells, "", "", f"{row.source}, rule {row.rule}"]))
    lines = _rendered(table, width).splitlines()
    notes = [f"  {one.tracker}: {note}" for one in group.scores for note in one.notes]
    return "\n".join([f"{group.dataset}, rule {group.rule}", "", *(line.rstrip() for line in lines), *notes, ""])


def _rendered(table: Any, width: int | None) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width or 10_000, color_system=None, force_terminal=False).print(table)
    return out.getvalue()


def _plain(text: str) -> Any:
    """Not rich's markup: trackers may be called ``[bold]``."""
    from rich.text import Text

    return Text(text)


def _console_cell(scores: Scores, metric: Metric, group: Group) -> str:
    value = scores.values.get(metric.name, math.nan)
    mark = "*" if _marked(group, value, metric) else " "
    interval = print_interval(scores.intervals.get(metric.name), metric)
    return f"{print_value(value, metric)}{mark} {interval}".rstrip() if interval else print_value(value, metric) + mark


def _heading(metric: Metric) -> str:
    return metric.name if metric.higher_is_better else f"{metric.name} ↓"


def _marked(group: Group, value: float, metric: Metric) -> bool:
    return len(group.scores) > 1 and is_best(value, group.best(metric), metric)


def _sequence_count(scores: Scores) -> str:
    lost = sum(s.lost for s in scores.sequences)
    return f"{len(scores.sequences)}" + (f" ({lost} missing)" if lost else "")


def _fps(scores: Scores) -> str:
    return "–" if scores.fps is None or not math.isfinite(scores.fps) else f"{scores.fps:.1f}"


# ----------------------------------------------------------------------------------------------------------------- CSV


def csv_table(scores: Sequence[Scores], *, published: bool = False) -> str:
    """One line per tracker, data set and rule, with all digits; fractions, not percents.

    Columns: dataset, rule, tracker, source (``ours`` or who printed it), sequences, missing, repetitions, fps, then for
    each metric its value and the ends of its 95 % interval (``AUC``, ``AUC_low``, ``AUC_high``), then ``note``.
    """
    groups = group_scores(scores)
    metrics = list(dict.fromkeys(m.name for group in groups for m in group.metrics))
    columns = [c for name in metrics for c in (name, f"{name}_low", f"{name}_high")]
    rows: list[list[Any]] = [
        ["dataset", "rule", "tracker", "source", "sequences", "missing", "repetitions", "fps", *columns, "note"]
    ]
    for group in groups:
        rows += [_csv_row(group, one, metrics) for one in group.scores]
        rows += [_csv_published(group, row, metrics) for row in (group.published() if published else [])]
    return _csv(rows)


def _csv_row(group: Group, one: Scores, metrics: list[str]) -> list[Any]:
    lost = sum(s.lost for s in one.sequences)
    cells = []
    for name in metrics:
        low, high = one.intervals.get(name, (math.nan, math.nan))
        cells += [_number(one.values.get(name)), _number(low), _number(high)]
    head = [group.dataset, group.rule, one.tracker, "ours", len(one.sequences), lost, one.repetitions, _number(one.fps)]
    return [*head, *cells, " | ".join(one.notes)]


def _csv_published(group: Group, row: PublishedRow, metrics: list[str]) -> list[Any]:
    cells = [cell for name in metrics for cell in (_number(row.values.get(name)), "", "")]
    return [group.dataset, row.rule, row.tracker, f"{row.source}, {row.places}", "", "", "", "", *cells, row.note]


def sequence_csv(scores: Sequence[Scores]) -> str:
    """One line per data set, rule, tracker and sequence: frames, whether its result is missing, every number."""
    groups = group_scores(scores)
    metrics = list(dict.fromkeys(k for g in groups for one in g.scores for s in one.sequences for k in s.values))
    rows: list[list[Any]] = [["dataset", "rule", "tracker", "sequence", "frames", "missing", *metrics]]
    for group in groups:
        for one in group.scores:
            for s in one.sequences:
                cells = [_number(s.values.get(name)) for name in metrics]
                rows.append([group.dataset, group.rule, one.tracker, s.name, s.frames, int(s.lost), *cells])
    return _csv(rows)


def attribute_csv(scores: Sequence[Scores]) -> str:
    """One line per data set, rule, tracker and attribute: the number of sequences behind it, every number."""
    groups = group_scores(scores)
    metrics = list(dict.fromkeys(k for g in groups for one in g.scores for a in one.attributes.values() for k in a))
    rows: list[list[Any]] = [["dataset", "rule", "tracker", "attribute", "size", *metrics]]
    for group in groups:
        for one in group.scores:
            for name, values in one.attributes.items():
                cells = [_number(values.get(metric)) for metric in metrics]
                size = one.attribute_sizes.get(name, "")
                rows.append([group.dataset, group.rule, one.tracker, name, size, *cells])
    return _csv(rows)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))


# --------------------------------------------------------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # after the end of a row these would be its options
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "\n": " ",
}


def latex_escape(text: str) -> str:
    """``text`` so that LaTeX prints it as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_table(scores: Sequence[Scores], *, published: bool = False, intervals: bool = True) -> str:
    r"""One ``table`` environment per data set and rule, for the package booktabs; the best of each column is bold.

    ``intervals``: print the 95 % intervals in small type where they are known.
    """
    return "\n".join(_latex_group(group, published, intervals) for group in group_scores(scores))


def _latex_group(group: Group, published: bool, intervals: bool) -> str:
    heads = [_latex_heading(m) for m in group.metrics]
    lines = [
        [latex_escape(one.tracker), *(_latex_cell(group, one, m, intervals) for m in group.metrics)]
        for one in group.scores
    ]
    caption = f"{latex_escape(group.dataset)}, scored under the rule \\texttt{{{latex_escape(group.rule)}}}"
    caption += f", {group.unit}" if group.unit else ""
    counts = {len(one.sequences) for one in group.scores}
    if len(counts) == 1:
        caption += f", {counts.pop()} sequences"
    if intervals and any(one.intervals for one in group.scores):
        caption += r". In brackets: 95\,\% bootstrap intervals over sequences"
    rows = group.published() if published else []
    if rows:
        caption += ". Below the line: as published, with the rule behind the numbers"
    body = [" & ".join(line) + r" \\" for line in lines]
    if rows:
        body += [r"\midrule", *(_latex_published(group, row) for row in rows)]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\label{{tab:{group.name}}}",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            " & ".join(["Tracker", *heads]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_heading(metric: Metric) -> str:
    return latex_escape(metric.name) + ("" if metric.higher_is_better else r" $\downarrow$")


def _latex_cell(group: Group, one: Scores, metric: Metric, intervals: bool) -> str:
    value = one.values.get(metric.name, math.nan)
    text = latex_escape(print_value(value, metric))
    if _marked(group, value, metric):
        text = rf"\textbf{{{text}}}"
    interval = print_interval(one.intervals.get(metric.name), metric) if intervals else ""
    return rf"{text} {{\scriptsize {interval}}}" if interval else text


def _latex_published(group: Group, row: PublishedRow) -> str:
    cells = [latex_escape(print_value(row.values.get(m.name, math.nan), m)) for m in group.metrics]
    name = rf"{latex_escape(row.tracker)} {{\scriptsize ({latex_escape(row.source)}; \texttt{{{latex_escape(row.rule)}}})}}"
    return " & ".join([name, *cells]) + r" \\"


def attribute_latex(scores: Sequence[Scores], metric: str | None = None) -> str:
    """One ``table*`` per data set and rule that has attributes: attributes down, trackers across, the best bold.

    ``metric``: which number; None: the one that ranks.
    """
    return "\n".join(_latex_attributes(group, metric) for group in group_scores(scores) if group.attributes)


def _latex_attributes(group: Group, name: str | None) -> str:
    metric = next((m for m in group.metrics if m.name == name), group.metrics[0])
    body = []
    for attribute in group.attributes:
        values = [one.attributes.get(attribute, {}).get(metric.name, math.nan) for one in group.scores]
        best = best_of(values, metric)
        cells = []
        for value in values:
            text = latex_escape(print_value(value, metric))
            cells.append(rf"\textbf{{{text}}}" if len(values) > 1 and is_best(value, best, metric) else text)
        size = max(one.attribute_sizes.get(attribute, 0) for one in group.scores)
        body.append(" & ".join([latex_escape(attribute), str(size) if size else "--", *cells]) + r" \\")
    heads = ["Attribute", "N", *(latex_escape(one.tracker) for one in group.scores)]
    place = f"{latex_escape(group.dataset)}, rule \\texttt{{{latex_escape(group.rule)}}}"
    caption = f"{latex_escape(metric.label)} per attribute on {place}"
    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\label{{tab:{group.name}-attributes}}",
            rf"\begin{{tabular}}{{lr{'r' * len(group.scores)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )
