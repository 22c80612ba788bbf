"""``keepsight report``: score results that are there and write tables, plots and the page."""

from __future__ import annotations

import glob
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InputError, nearest_names
from .console import complain, say, tell
from .env import cpu
from .eval import open_any, with_annotation

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..evaluation.html import Provenance
    from ..evaluation.runs import Run
    from ..evaluation.scores import Scores
    from ..evaluation.store import ResultStore
    from . import Report

Runs = dict[str, dict[str, list["Run"]]]
"""Tracker -> sequence -> repetitions."""


def report(command: Report) -> int:
    """Score, print the table, write the folder."""
    from ..evaluation.report import paired_tests, write_report
    from ..evaluation.store import ResultStore
    from ..evaluation.tables import console_table

    store = ResultStore(command.results)
    if not command.data:
        raise InputError("no data set is named: add --data NAME ..; see `keepsight data list`")
    datasets: dict[str, Dataset] = {}
    runs: dict[str, Runs] = {}
    protocols: dict[str, str] = {}
    scores: list[Scores] = []
    for name in dict.fromkeys(command.data):
        dataset = open_any(name, command.data_root)
        rule = _rule(command, dataset)
        protocol = protocols[dataset.name] = _protocol(store, dataset, rule)
        dataset, partial = _chosen(command, store, dataset, protocol)
        found, notes = _results(command, store, dataset, protocol)
        dataset, dropped = _compared(dataset, found, rule, protocol)
        partial += dropped
        datasets[dataset.name], runs[dataset.name] = dataset, found
        for tracker in found:
            scores.append(_score(dataset, tracker, found[tracker], rule, (*partial, *notes.get(tracker, ()))))
    if not scores:
        raise InputError(_nothing(command, store))
    tests = paired_tests(scores, command.compare) if command.compare else {}
    say(console_table(scores))
    for tested in tests.values():
        for test in tested:
            say(_sentence(test, scores))
    files = write_report(
        scores,
        command.out,
        formats=command.formats,
        title=command.title or "Results on " + ", ".join(datasets),
        published=not command.no_published,
        attributes=not command.no_attributes,
        datasets=datasets,
        runs=runs,
        strips=command.strips,
        comparisons=tests,
        provenance=_provenance(command, store, protocols, runs),
    )
    out = Path(command.out).expanduser()
    page = next((file for file in files if file.suffix == ".html"), None)
    tell(f"wrote {len(files)} files to {out}" + (f"; open {page}" if page is not None else ""))
    return 0


def _rule(command: Report, dataset: Dataset) -> str:
    from ..evaluation.score import find_rule

    return find_rule(command.rule or dataset.rule).name


def _protocol(store: ResultStore, dataset: Dataset, rule: str) -> str:
    """The protocol whose results the rule scores. Long-term rules take one-pass results where there are no others."""
    from ..evaluation.score import find_rule

    protocol = find_rule(rule).protocol
    if protocol == "longterm" and not store.trackers(dataset.name, protocol) and store.trackers(dataset.name, "ope"):
        return "ope"
    return protocol


def _wanted(command: Report, store: ResultStore, dataset: Dataset, protocol: str) -> list[str]:
    """Our trackers that have results and were asked for."""
    return [t for t in store.trackers(dataset.name, protocol) if not command.trackers or t in command.trackers]


def _compared(dataset: Dataset, found: Runs, rule: str, protocol: str) -> tuple[Dataset, tuple[str, ...]]:
    """The sequences that every tracker has, as pytracking compares trackers; rules that say themselves what a missing
    result is get all."""
    from ..evaluation.metrics import common_sequences

    if len(found) < 2 or rule == "trackingnet" or protocol in ("supervised", "multistart"):
        return dataset, ()
    common, notes = common_sequences(dataset.values(), found)
    if not common:
        raise InputError(
            f"no sequence of {dataset.name} has results of all of {', '.join(found)}: {'; '.join(notes)}; name those to "
            "compare with --trackers"
        )
    return replace(dataset, sequences={s.name: s for s in common}), notes


def _chosen(command: Report, store: ResultStore, dataset: Dataset, protocol: str) -> tuple[Dataset, list[str]]:
    """The sequences that match ``--only``, cut as the results were when ``keepsight eval`` was given --frames; and notes
    that say so."""
    from ..evaluation.protocols import first_frames

    names = [name for name in dataset if fnmatchcase(name, command.only)]
    if not names:
        raise InputError(
            f"no sequence of {dataset.name} matches {command.only!r}; {nearest_names(command.only, dataset)}"
        )
    notes = [] if len(names) == len(dataset) else [f"only the {len(names)} sequences that match {command.only!r}"]
    cuts: dict[int | None, list[str]] = {}
    for tracker in _wanted(command, store, dataset, protocol):
        manifest = store.manifest(dataset.name, protocol, tracker)
        cuts.setdefault(manifest.frames if manifest is not None else None, []).append(tracker)
    if len(cuts) > 1:
        told = "; ".join(f"{', '.join(who)}: {n or 'all'} frames of each sequence" for n, who in cuts.items())
        raise InputError(f"these results on {dataset.name} cannot be compared: {told}; choose some with --trackers")
    count = next(iter(cuts), None)
    sequences = {name: dataset[name] for name in names}
    if count is not None:
        sequences = {name: first_frames(sequence, count) for name, sequence in sequences.items()}
        notes.append(f"only the first {count} frames of each sequence")
    readable, unreadable = with_annotation(sequences.values())
    for note, why in unreadable:
        complain(f"{note}: {why}")
        notes.append(note)
    return replace(dataset, sequences=readable), notes


def _results(
    command: Report, store: ResultStore, dataset: Dataset, protocol: str
) -> tuple[Runs, dict[str, tuple[str, ...]]]:
    """Our own results and those of other toolkits on one data set, with what is to be known about the latter."""
    from ..evaluation.foreign import read_results
    from ..evaluation.protocols import as_longterm
    from ..evaluation.score import find_rule
    from ..evaluation.store import read_runs

    found: Runs = {}
    for tracker in _wanted(command, store, dataset, protocol):
        runs = read_runs(store, tracker, dataset.name, protocol, dataset.values())
        if runs:
            found[tracker] = runs
    if find_rule(_rule(command, dataset)).protocol == "longterm":
        found = {t: {name: [as_longterm(r) for r in one] for name, one in found[t].items()} for t in found}
    notes: dict[str, tuple[str, ...]] = {}
    for text in command.others:
        name, path = _named(text)
        foreign = read_results(path, dataset)
        tracker = name or foreign.tracker
        if command.trackers and tracker not in command.trackers:
            continue
        if tracker in found:
            raise InputError(f"two results are called {tracker!r}; name the other one: --others other-name={path}")
        found[tracker], notes[tracker] = foreign.runs, (f"results of another toolkit, {path}", *foreign.notes)
    return found, notes


def _named(text: str) -> tuple[str, str]:
    """``NAME=PATH`` or ``PATH``; a path that exists is never split."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return "", text
    return name, path


def _score(dataset: Dataset, tracker: str, runs: Mapping[str, list[Run]], rule: str, notes: Sequence[str]) -> Scores:
    from ..evaluation.score import score_dataset

    return score_dataset(dataset, runs, tracker=tracker, rule=rule, notes=notes)


def _nothing(command: Report, store: ResultStore) -> str:
    """Why there is nothing to report."""
    there = sorted({Path(run).parent.name for run in glob.glob(f"{glob.escape(str(store.root))}/*/*/*/run.json")})
    where = f"{store.root} has no results on {', '.join(command.data)}"
    if not there:
        return f"{where}; run `keepsight eval TRACKER {command.data[0]} --results {store.root}` first"
    unknown = [tracker for tracker in command.trackers if tracker not in there]
    if unknown:
        return f"{where} by {', '.join(unknown)}; {nearest_names(unknown[0], there)}"
    return f"{where} under the rule asked for; trackers with other results there: {', '.join(there)}"


def _sentence(test: object, scores: Sequence[Scores]) -> str:
    from ..evaluation.html import verdict
    from ..evaluation.statistics import Comparison

    assert isinstance(test, Comparison)
    metric = next(m for one in scores for m in one.metrics if m.name == test.metric)
    low, high = (metric.factor * v for v in test.interval)
    digits = metric.digits + 1
    numbers = (
        f"{metric.factor * test.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], p = {test.p_holm:.3g}"
    )
    return f"{test.a} - {test.b}, {metric.label}: {numbers}: {verdict(test, metric)}"


def _provenance(
    command: Report, store: ResultStore, protocols: Mapping[str, str], runs: Mapping[str, Runs]
) -> Provenance:
    from ..evaluation.html import Provenance

    more: dict[str, str] = {}
    seeds: dict[int, None] = {}
    for name, protocol in protocols.items():
        for tracker in runs[name]:
            manifest = store.manifest(name, protocol, tracker)
            if manifest is None:
                continue
            seeds[manifest.seed] = None
            known = {"asked for as": manifest.spec, "device": manifest.device, **manifest.identity}
            more[tracker] = ", ".join(f"{k} {v}" for k, v in known.items() if v)
    return Provenance(
        command=shlex.join(["keepsight", *sys.argv[1:]]) if sys.argv else "",
        version=__version__,
        commit=_commit(),
        date=command.date or datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        machine=f"{cpu()}, {os.cpu_count()} cores",
        seed=", ".join(map(str, seeds)),
        more=more,
    )


def _commit() -> str:
    """Of the source tree keepsight runs from; empty for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""
