"""Tables as text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
from fabricate import METRICS, VOT_METRICS, many, ope_scores, vot_scores

from keepsight.errors import InputError
from keepsight.evaluation.groups import group_scores, print_value
from keepsight.evaluation.scores import Metric, Scores
from keepsight.evaluation.tables import (
    attribute_csv,
    attribute_latex,
    console_table,
    csv_table,
    latex_escape,
    latex_table,
    sequence_csv,
)


def fixed(tracker: str, auc: float, **fields: object) -> Scores:
    """Numbers that a test can look for."""
    one = ope_scores(tracker, sequences=3, attributes=("IV", "OCC"))
    values = {"AUC": auc, "P20": auc / 2, "NP20": auc + 0.1}
    return replace(one, values=values, intervals={}, **fields)  # type: ignore[arg-type]


def cells(line: str) -> list[str]:
    return [c for c in line.split("  ") if c.strip()]


def test_console_ranks_marks_the_best_and_names_the_rule() -> None:
    lines = console_table([fixed("worse", 0.5), fixed("better", 0.6123)]).splitlines()
    assert lines[0] == "lasot, rule pytracking"
    assert [line.split()[0] for line in lines[3:5]] == ["better", "worse"]
    assert "61.2*" in lines[3]
    assert "50.0*" not in lines[4]


def test_console_columns_are_aligned_for_wide_letters_too() -> None:
    from rich.cells import cell_len

    lines = console_table([fixed("追踪器", 0.5), fixed("long name of a tracker", 0.6)]).splitlines()
    assert len({cell_len(line) for line in lines[3:5]}) == 1


def test_console_takes_markup_as_text() -> None:
    assert "[bold]x[/bold]" in console_table([fixed("[bold]x[/bold]", 0.5)])


def test_console_shows_intervals_missing_sequences_and_notes() -> None:
    one = replace(ope_scores("a", sequences=4, lost=1, notes=("padded",)), intervals={"AUC": (0.1, 0.2)})
    text = console_table([one])
    assert "[10.0, 20.0]" in text
    assert "4 (1 missing)" in text
    assert "a: padded" in text


def test_published_numbers_stand_beside_with_their_rule() -> None:
    text = console_table([fixed("a", 0.5)], published=True)
    line = next(line for line in text.splitlines() if line.startswith("RTS") and "model zoo" in line)
    assert "69.7" in line
    assert "rule pytracking" in line
    assert "model zoo" not in console_table([fixed("a", 0.5)])


def test_undefined_numbers_come_last_and_are_dashes() -> None:
    group = group_scores([fixed("none", math.nan), fixed("some", 0.1)])[0]
    assert [one.tracker for one in group.scores] == ["some", "none"]
    assert print_value(math.nan, METRICS[0]) == "–"


def test_lower_is_better_is_ranked_and_marked_the_other_way() -> None:
    metric = Metric("ERR", "Error", factor=1, digits=2, higher_is_better=False)
    pair = [replace(fixed(n, 0.5), metrics=(metric,), values={"ERR": v}) for n, v in (("a", 0.3), ("b", 0.2))]
    group = group_scores(pair)[0]
    assert [one.tracker for one in group.scores] == ["b", "a"]
    assert "0.20*" in console_table(pair)
    assert r"\textbf{0.20}" in latex_table(pair)
    assert r"ERR $\downarrow$" in latex_table(pair)


def test_equal_as_printed_is_marked_alike() -> None:
    text = latex_table([fixed("a", 0.61201), fixed("b", 0.61199)])
    assert text.count(r"\textbf{61.2}") == 2


def test_latex_is_booktabs_with_escaped_names() -> None:
    text = latex_table([fixed("a_b & 100% #1 {x} ~^\\", 0.5), fixed("c", 0.4)], published=True)
    for line in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrr}"):
        assert line in text
    assert r"a\_b \& 100\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"\textbf{50.0}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count("&") for line in rows} == {3}
    assert r"\texttt{pytracking}" in text


def test_latex_escape_leaves_no_special_letter() -> None:
    assert latex_escape("$x_1^2$") == r"\$x\_1\textasciicircum{}2\$"
    assert latex_escape("plain 1.0") == "plain 1.0"
    # at the start of a row these would be read as options of the row's end before it
    assert latex_escape("[b]*") == "{[}b{]}{*}"


def test_a_number_of_another_meaning_is_not_shown_beside_ours() -> None:
    """VOT's R is 100 x failures / frames under one rule and a chance, larger is better, under another."""
    known = {"EAO": 0.4, "A": 0.6, "R": 0.5}
    one = Scores("a", "vot2018", "vot-supervised", VOT_METRICS, known, ())
    for rule, shown in (("vot-supervised", True), ("vot-supervised-py", False)):
        rows = group_scores([replace(one, rule=rule)])[0].published()
        assert rows
        assert any("R" in row.values for row in rows) == shown
        assert any("EAO" in row.values for row in rows)
    assert "in percent" not in latex_table([one])
    assert "in percent" in latex_table([fixed("a", 0.5)])


def test_csv_keeps_all_digits_and_says_who_printed_what() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table([fixed("a, b", 0.123456789012)], published=True))))
    assert rows[0]["tracker"] == "a, b"
    assert float(rows[0]["AUC"]) == 0.123456789012
    assert rows[0]["source"] == "ours"
    zoo = [r for r in rows if "model zoo" in r["source"]]
    assert zoo
    assert all(r["rule"] == "pytracking" and float(r["AUC"]) < 1 for r in zoo)


def test_csv_of_several_data_sets_has_the_columns_of_all() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_table([fixed("a", 0.5), vot_scores("a")]))))
    assert [(r["dataset"], bool(r["AUC"]), bool(r["EAO"])) for r in rows] == [
        ("lasot", True, False),
        ("vot2018", False, True),
    ]


def test_sequence_csv_has_a_line_per_tracker_and_sequence() -> None:
    one = ope_scores("a", sequences=5, lost=1)
    rows = list(csv.DictReader(io.StringIO(sequence_csv([one, ope_scores("b", sequences=5)]))))
    assert len(rows) == 10
    assert [r["missing"] for r in rows].count("1") == 1
    by_name = {r["sequence"]: float(r["AUC"]) for r in rows if r["tracker"] == "a"}
    assert by_name == {s.name: s.values["AUC"] for s in one.sequences}


def test_attribute_tables() -> None:
    pair = [fixed("a", 0.5), fixed("b", 0.4)]
    rows = list(csv.DictReader(io.StringIO(attribute_csv(pair))))
    assert len(rows) == 4
    assert float(rows[0]["AUC"]) == pair[0].attributes["IV"]["AUC"]
    text = attribute_latex(pair)
    assert r"\begin{tabular}{lrrr}" in text
    assert text.count(r"\textbf{") >= 2
    assert attribute_latex([replace(pair[0], attributes={})]) == ""


def test_nothing_and_the_same_tracker_twice_are_refused() -> None:
    with pytest.raises(InputError, match="no scores"):
        console_table([])
    with pytest.raises(InputError, match="'a' appears more than once"):
        csv_table([fixed("a", 0.5), fixed("a", 0.6)])


def test_ten_trackers_fit() -> None:
    assert len(console_table(many(10, 5)).splitlines()) > 12
