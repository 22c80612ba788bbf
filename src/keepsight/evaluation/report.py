"""A folder with everything a paper and its readers need: one HTML page, tables as CSV and LaTeX, plots as PDF and PNG.

Example::

    scores = [score(dataset.values(), runs[t], tracker=t, dataset="otb100", rule="pytracking") for t in trackers]
    write_report(scores, "report", datasets={"otb100": dataset}, runs={"otb100": runs})

writes ``report/report.html``, ``report/tables/`` and ``report/plots/``. Needs ``pip install 'keepsight[report]'`` except for
the tables.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..text import write_atomically
from .groups import group_scores
from .html import Provenance, html_page
from .plots import write_plots
from .scores import Scores
from .statistics import Comparison, compare_all
from .tables import attribute_csv, attribute_latex, console_table, csv_table, latex_table, sequence_csv

if TYPE_CHECKING:
    from ..datasets.sequence import Sequence as Video
    from .runs import Run

FORMATS = ("html", "csv", "latex", "txt", "pdf", "png", "svg")
_PLOTS = ("pdf", "png", "svg")


def write_report(
    scores: Sequence[Scores],
    out: str | Path,
    *,
    formats: Sequence[str] = ("html", "csv", "latex", "pdf", "png"),
    title: str = "Tracking results",
    published: bool = True,
    attributes: bool = True,
    datasets: Mapping[str, Mapping[str, Video]] | None = None,
    runs: Mapping[str, Mapping[str, Mapping[str, Sequence[Run]]]] | None = None,
    strips: int = 3,
    comparisons: Mapping[tuple[str, str], Sequence[Comparison]] | None = None,
    provenance: Provenance | None = None,
) -> list[Path]:
    """Write the report of ``scores``, any trackers on any data sets, into the folder ``out``; returns its files.

    ``formats``: of :data:`FORMATS`. ``published``: numbers of papers beside ours. ``attributes``: radar and tables per
    attribute. ``datasets`` (name -> sequences) and ``runs`` (data set -> tracker -> sequence -> repetitions): for the frame
    strips of each tracker's ``strips`` worst sequences. ``comparisons``: see :func:`paired_tests`.

    Each file appears whole or not at all; files of the same names are replaced, others are left. Raises
    :class:`InputError` for unknown formats, nothing to report or an absent package, and :class:`VideoError` if a file cannot be
    written.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise InputError(f"formats are {', '.join(unknown) or 'none'}; choose from {', '.join(FORMATS)}")
    group_scores(scores)  # complains before anything is written
    folder = Path(out).expanduser()
    texts: dict[str, str] = {}
    if "html" in formats:
        texts["report.html"] = html_page(
            scores,
            title=title,
            published=published,
            attributes=attributes,
            datasets=datasets,
            runs=runs,
            strips=strips,
            comparisons=comparisons,
            provenance=provenance,
        )
    texts |= _tables(scores, formats, published, attributes, comparisons or {})
    plots = (
        write_plots(scores, folder / "plots", formats=[f for f in formats if f in _PLOTS], attributes=attributes)
        if set(formats) & set(_PLOTS)
        else []
    )
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [*(folder / name for name in texts), *plots]


def _tables(
    scores: Sequence[Scores],
    formats: Sequence[str],
    published: bool,
    attributes: bool,
    comparisons: Mapping[tuple[str, str], Sequence[Comparison]],
) -> dict[str, str]:
    """File name -> content."""
    has_attributes = attributes and any(one.attributes for one in scores)
    texts: dict[str, str] = {}
    if "txt" in formats:
        texts["tables/scores.txt"] = console_table(scores, published=published)
    if "csv" in formats:
        texts["tables/scores.csv"] = csv_table(scores, published=published)
        texts["tables/sequences.csv"] = sequence_csv(scores)
        if has_attributes:
            texts["tables/attributes.csv"] = attribute_csv(scores)
        if any(comparisons.values()):
            texts["tables/comparisons.csv"] = comparison_csv(comparisons)
    if "latex" in formats:
        texts["tables/scores.tex"] = latex_table(scores, published=published)
        if has_attributes:
            texts["tables/attributes.tex"] = attribute_latex(scores)
    return texts


def paired_tests(
    scores: Sequence[Scores], trackers: Sequence[str], metric: str | None = None
) -> dict[tuple[str, str], list[Comparison]]:
    """Compare each pair of ``trackers`` wherever both were scored: (data set, rule) -> tests, p corrected by Holm.

    ``metric``: None: the one that ranks, or where single sequences have no such number (VOT's EAO) the first they have.
    Raises :class:`InputError` for fewer than two trackers and for a tracker that has no scores.
    """
    names = list(dict.fromkeys(trackers))
    known = sorted({one.tracker for one in scores})
    absent = [name for name in names if name not in known]
    if len(names) < 2 or absent:
        given = ", ".join(map(repr, absent or names)) or "none"
        raise InputError(f"trackers to compare: {given}; give two or more of {', '.join(known)}")
    found: dict[tuple[str, str], list[Comparison]] = {}
    for group in group_scores(scores):
        members = [one for name in names for one in group.scores if one.tracker == name]
        usable = (m.name for m in group.metrics if all(_has_sequence_values(one, m.name) for one in members))
        chosen = metric if metric is not None else next(usable, None)
        if len(members) > 1 and chosen is not None:
            found[group.dataset, group.rule] = compare_all(members, chosen)
    return found


def _has_sequence_values(scores: Scores, metric: str) -> bool:
    return any(math.isfinite(s.values.get(metric, math.nan)) for s in scores.sequences)


def comparison_csv(comparisons: Mapping[tuple[str, str], Sequence[Comparison]]) -> str:
    """One line per pair, data set and rule; fractions with all digits."""
    columns = (
        "a",
        "b",
        "metric",
        "sequences",
        "difference",
        "low",
        "high",
        "p_value",
        "p_holm",
        "wins",
        "ties",
        "losses",
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("dataset", "rule", *columns))
    for (dataset, rule), tests in comparisons.items():
        for t in tests:
            numbers = (t.difference, *t.interval, t.p_value, t.p_holm)
            counts = (t.wins, t.ties, t.losses)
            writer.writerow((dataset, rule, t.a, t.b, t.metric, t.sequences, *map(repr, numbers), *counts))
    return out.getvalue()
