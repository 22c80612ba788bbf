"""``keepsight eval``: track data sets, score them, print the table."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HiddenTruthError, InputError, KeepsightError, nearest_names
from .console import complain, say, tell
from .signals import Stopped, StopSignals

if TYPE_CHECKING:
    from ..datasets import Dataset, Sequence
    from ..evaluation.run import Progress, RunReport
    from ..evaluation.scores import Scores
    from . import Eval

NEWS_SECONDS = 10.0  # between two lines of progress where there is no terminal
FAILURES_SHOWN = 10
DEFAULT_RULES = {
    "ope": "pytracking",
    "longterm": "vot-lt",
    "supervised": "vot-supervised",
    "multistart": "vot-multistart",
    "vos": "davis2017",
}
"""For a protocol that is not the data set's own."""


def evaluate(command: Eval) -> int:
    """Exit status 2 if a sequence could not be tracked, or a tracker not scored."""
    from ..evaluation.entrants import parse_entrants
    from ..evaluation.run import run
    from ..evaluation.tables import console_table

    specs = parse_entrants(command.tracker, command.python)
    datasets = [open_any(name, command.data_root) for name in _distinct(command.datasets)]
    rules = [_rule(command, dataset) for dataset in datasets]
    _check_format(command.export)
    well = True
    with StopSignals() as signals:
        try:
            for dataset, rule in zip(datasets, rules, strict=True):
                with signals.allowed(), EvalProgress(dataset.name, quiet=command.quiet) as progress:
                    report = run(
                        specs,
                        dataset,
                        results=command.results,
                        protocol=command.protocol,
                        repetitions=command.repetitions,
                        processes=command.processes,
                        devices=command.devices.split(","),
                        executor=command.executor,
                        seed=command.seed,
                        only=command.only,
                        frames=command.frames,
                        overwrite=command.overwrite,
                        on_error="stop" if command.stop else "skip",
                        progress=progress,
                    )
                well = well and not report.failures
                _tell_failures(report)
                with signals.allowed():
                    if command.export is not None:
                        _export(command, dataset, report)
                    if not command.no_score:
                        scores, all_scored = _score(report, dataset, rule)
                        well = well and all_scored
                        if scores:
                            say(console_table(scores))
        except Stopped as stop:
            tell(
                f"stopped by {signal.Signals(stop.number).name}; complete results are kept in {command.results}, and the"
            )
            tell("same command goes on from there")
            return 128 + stop.number
    return 0 if well else 2


def open_any(name: str, data_root: str | None = None) -> Dataset:
    """A data set by name, or one's own data by the path of its folder, which then gives the name."""
    from ..datasets import dataset_names, open_dataset

    folder = Path(name).expanduser()
    if not name:
        raise InputError("the name of a data set is empty; give one of `keepsight data list`, or a folder")
    if "/" in name and not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise InputError(
            f"{name} {what}; give the folder of your sequences, or a data set's name (`keepsight data list`)"
        )
    if name.split(":")[0].split("+")[0] in dataset_names() or not folder.is_dir():
        return open_dataset(name, data_root)
    dataset = open_dataset("folder", folder)
    own = folder.resolve().name
    if own in dataset_names():
        own = f"my-{own}"
    sequences = {n: replace(sequence, dataset=own) for n, sequence in dataset.sequences.items()}
    return replace(dataset, name=own, sequences=sequences)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise InputError("no data set is named: keepsight eval TRACKER DATASET ..; see `keepsight data list`")
    return tuple(dict.fromkeys(names))


def _rule(command: Eval, dataset: Dataset) -> str:
    """The scoring rule's name; it must fit the protocol."""
    from ..evaluation.score import find_rule

    protocol = command.protocol or dataset.protocol
    if command.rule is None:
        return dataset.rule if protocol == dataset.protocol else DEFAULT_RULES.get(protocol, dataset.rule)
    rule = find_rule(command.rule)
    if rule.protocol != protocol and not command.no_score:
        raise InputError(
            f"the rule {rule.name!r} scores runs of the protocol {rule.protocol!r}, and {dataset.name} would be run by "
            f"{protocol!r}; add --protocol {rule.protocol}, or take another rule"
        )
    return rule.name


def _score(report: RunReport, dataset: Dataset, rule: str) -> tuple[list[Scores], bool]:
    """The trackers that can be scored, and whether all can."""
    from ..evaluation.score import score_dataset

    readable, unreadable = with_annotation(report.sequences)
    notes = [note for note, _ in unreadable]
    scores, all_well = [], True
    for spec in report.trackers:
        runs = report.runs(spec.name)
        if not runs:
            continue
        try:
            part = replace(dataset, sequences=readable)
            scores.append(score_dataset(part, runs, tracker=spec.name, rule=rule, notes=notes))
        except HiddenTruthError as error:
            tell(f"{dataset.name} has no score here: {error}; --export writes what the benchmark's server takes")
            return [], True
        except KeepsightError as error:  # results are complete and kept; the other trackers still have their scores
            complain(f"error: {spec.name} cannot be scored: {error}")
            all_well = False
    return scores, all_well


def with_annotation(sequences: Iterable[Sequence]) -> tuple[dict[str, Sequence], list[tuple[str, str]]]:
    """The sequences whose annotation can be read; a note for each of the others, and why."""
    readable: dict[str, Sequence] = {}
    lost: list[tuple[str, str]] = []
    for sequence in sequences:
        try:
            _ = sequence.annotation
            readable[sequence.name] = sequence
        except KeepsightError as error:
            lost.append((f"{sequence.name} is left out: its annotation cannot be read", str(error)))
    return readable, lost


def _check_format(name: str | None) -> None:
    """Before hours of tracking."""
    from ..evaluation.formats import format_names

    if name is not None and name not in format_names():
        raise InputError(f"--export {name}: there is no such result format; {nearest_names(name, format_names())}")


def _export(command: Eval, dataset: Dataset, report: RunReport) -> None:
    """Each tracker's results in an official format."""
    from ..evaluation import formats

    name, sequences = str(command.export), {s.name: s for s in report.sequences}
    experiment = {"supervised": "baseline", "longterm": "longterm"}.get(report.protocol, "baseline")
    for spec in report.trackers:
        folder = Path(command.results).expanduser() / "export" / name / spec.name / dataset.name.replace(":", "-")
        written = formats.export(
            name,
            sequences,
            report.runs(spec.name),
            folder,
            tracker=spec.name.replace(":", "-"),
            experiment=experiment,
            overwrite=True,
        )
        say(f"wrote {written.path}: {written.sequences} sequences")
        for note in written.notes:
            tell(f"note: {note}")


def _tell_failures(report: RunReport) -> None:
    for failure in report.failures[:FAILURES_SHOWN]:
        complain(f"error: {failure}")
        if failure.trace:
            tell(failure.trace.rstrip())
    count = len(report.failures)
    if count > FAILURES_SHOWN:
        complain(f"error: and {count - FAILURES_SHOWN} more")
    if count:
        complain(f"{report.dataset}: {count} runs failed; mend what is named and run the same command again")
    kept = f"{report.dataset}: {report.tracked} runs tracked in {_clock(report.seconds)}"
    tell(kept + (f", {report.present} were there" if report.present else "") + f"; results in {report.store.root}")


class EvalProgress:
    """Runs done, frames per second, remaining time: a bar on a terminal, else a line now and then; on standard error."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._name, self._quiet = name, quiet
        self._bar: Any = None
        self._began = time.monotonic()
        self._told = self._began

    def __enter__(self) -> EvalProgress:
        if self._console.is_terminal and not self._quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = TextColumn(self._name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            self._bar = Bar(*columns, TextColumn("{task.description}"), console=self._console, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        words = describe(progress, time.monotonic() - self._began)
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.done, total=progress.total, description=words)
        elif not self._quiet and time.monotonic() - self._told >= NEWS_SECONDS:
            tell(f"{self._name}: {progress.done} of {progress.total} runs, {words}")
            self._told = time.monotonic()


def describe(progress: Progress, seconds: float) -> str:
    """``123 frames/s, 4:05 left, dimp-lite David``."""
    words = [f"{progress.frames / max(seconds, 1e-9):.0f} frames/s"] if progress.frames else []
    if progress.remaining is not None:
        words.append(f"{_clock(progress.remaining)} left")
    if progress.failed:
        words.append(f"{progress.failed} failed")
    words += [progress.note] if progress.note else list(progress.running[:2])
    return ", ".join(words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
