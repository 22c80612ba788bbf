"""Numbers of papers: all of them are there, in one unit, with a rule that exists."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from keepsight.datasets.catalog import parse_name
from keepsight.evaluation.published import _everything, published, published_rows
from keepsight.evaluation.score import find_rule

SPEC = Path(__file__).resolve().parents[3] / "shared" / "spec"
FRACTIONS = ("A", "EAO", "R")


def test_every_number_parses_and_is_a_fraction() -> None:
    numbers = _everything()
    assert len(numbers) > 1300
    for n in numbers:
        assert 0 < n.value < 1, n
        assert all((n.tracker, n.source, n.place, n.metric)), n
        assert find_rule(n.rule).name == n.rule
        assert not n.attribute or n.metric == "AUC"


def test_percent_and_fraction_of_one_benchmark_are_not_mixed() -> None:
    """A forgotten division would leave numbers a hundred times too large or small in one column."""
    for dataset in {n.dataset for n in _everything()}:
        for metric in {n.metric for n in published(dataset)}:
            values = [n.value for n in published(dataset, metric)]
            assert max(values) < 12 * min(values), (dataset, metric, min(values), max(values))
            if metric not in FRACTIONS:
                assert max(values) > 0.3, (dataset, metric)


def test_data_sets_are_those_that_can_be_opened() -> None:
    for name in {n.dataset for n in _everything()}:
        assert parse_name(name)


def test_known_numbers() -> None:
    assert [
        (n.value, n.rule) for n in published("lasot", "AUC") if n.tracker == "RTS" and n.source.startswith("pyt")
    ] == [(0.697, "pytracking")]
    eao = {n.value for n in published("vot2018", "EAO") if n.tracker == "ATOM"}
    assert eao == {0.401}
    assert {n.rule for n in published("VOT2018")} == {"vot-supervised"}
    assert {n.rule for n in published("trackingnet")} == {"trackingnet"}
    assert {n.rule for n in published("otb100") if n.source.endswith("(DuML)")} == {"pysot"}
    assert all("±1.3" in n.note for n in published("uav123"))
    assert {n.metric for n in published("got10k:test")} == {"AO", "SR50", "SR75"}
    assert {n.metric for n in published("votlt2019")} == {"F", "Pr", "Re"}


@pytest.mark.parametrize(
    ("spelling", "name"), [("OTB-100", "otb100"), ("OTB-2015", "otb100"), ("VOT2020-LT", "votlt2019")]
)
def test_spelling_does_not_matter(spelling: str, name: str) -> None:
    assert published(spelling) == published(name) != []


def test_unknown_data_sets_have_none() -> None:
    assert published("my-own") == []
    assert published("got10k") == []  # its validation set: papers print the test set
    assert published_rows("lasot", ["nothing"]) == []


def test_rows_want_the_exact_name() -> None:
    """A folder of somebody's own is called what they like."""
    assert published_rows("OTB-2015", ["AUC"]) == published_rows("otb", ["AUC"]) == []
    assert published_rows("otb100", ["AUC"])
    assert published_rows("votlt2020", ["F"]) == published_rows("votlt2019", ["F"]) != []


def test_rows_hold_no_ablations_and_no_attributes() -> None:
    rows = published_rows("lasot", ["AUC", "P20", "NP20"])
    values = [row.values.get("AUC", -1) for row in rows]
    assert values == sorted(values, reverse=True)
    assert Counter((row.tracker, row.source) for row in rows).most_common(1)[0][1] == 1
    best = next(row for row in rows if row.tracker == "KeepTrack" and "KeepTrack" in row.source)
    assert best.values == {"AUC": 0.671, "P20": 0.702, "NP20": 0.772}
    assert "quoted" not in best.note
    quoted = next(row for row in rows if row.tracker == "TransT" and "KeepTrack" in row.source)
    assert "quoted" in quoted.note


def test_numbers_that_contradict_each_other_are_named() -> None:
    row = next(r for r in published_rows("uav123", ["AUC"]) if r.tracker == "SuperDiMP" and "KeepTrack" in r.source)
    assert row.values == {"AUC": 0.681}
    assert "0.677 in Table 13" in row.note


@pytest.mark.skipif(not (SPEC / "published.csv").is_file(), reason=f"{SPEC} is not there to compare with")
def test_nothing_of_the_specification_was_lost() -> None:
    """Every row of spec/published.csv but speeds and gains is there, with its number."""
    with (SPEC / "published.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] != "FPS" and "gain" not in r["metric"]]
    ours = [n for n in _everything() if n.source != "pytracking model zoo"]
    assert len(rows) == len(ours)
    for row, n in zip(rows, ours, strict=True):
        printed = float(row["value"])
        assert n.value == pytest.approx(printed if printed <= 1 else printed / 100, abs=1e-12), row
        assert row["tracker"].startswith(n.tracker)
        assert row["variant"] == n.variant
        assert n.attribute in row["metric"]
    zoo = [n for n in _everything() if n.source == "pytracking model zoo"]
    assert len(zoo) == 72
