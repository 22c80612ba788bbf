"""``keepsight data``: list, check."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from .console import say, tell
from .progress import NEWS_SECONDS

if TYPE_CHECKING:
    from ..datasets.check import CheckReport, Finding
    from . import DataCheck

NAMES_SHOWN, NOTES_SHOWN, MISSING_SHOWN = 5, 10, 20


def list_them(data_root: str | None) -> int:
    from ..datasets.catalog import UNIONS, entries
    from ..datasets.check import list_datasets
    from ..datasets.roots import config_path
    from ..datasets.training_sets import list_training_sets

    statuses, training = list_datasets(data_root), list_training_sets(data_root)
    name_width, title_width = (max(len(getattr(s, k)) for s in (*statuses, *training)) for k in ("name", "title"))
    for status in statuses:
        found = f"{_count(status.sequences)}/{_count(status.expected.sequences)}"
        place = f"from: {entries()[status.name].source}"
        if status.root is not None:
            place = f"{status.root} ({status.how})" + (f": {status.problem}" if status.problem else "")
        if len(status.splits) > 1:
            place += f"; splits: {_some(status.splits)}"
        state = "absent" if status.root is None else "broken" if status.problem else "here"
        say(f"{status.name:<{name_width}}  {status.title:<{title_width}}  {state:<6}  {found:>9}  {place}")
    say("To train on, `keepsight train` (the data sets above have parts for it too):")
    for entry in training:
        place = f"from: {entry.source}" if entry.root is None else f"{entry.root} ({entry.how})"
        if len(entry.splits) > 1:
            place += f"; parts: {_some(entry.splits)}"
        state = "absent" if entry.root is None else "here"
        say(f"{entry.name:<{name_width}}  {entry.title:<{title_width}}  {state:<6}  {'':>9}  {place}")
    joined = "; ".join(f"{name} is {parts}" for name, (parts, _) in UNIONS.items())
    say(f"Numbers: sequences found/published, of the first split; others are NAME:SPLIT. A+B joins two ({joined}).")
    say(
        f"Say where data sets lie with --data-root, the variable KEEPSIGHT_DATA, or [data] in {config_path()}; "
        "`keepsight data check NAME` shows how a folder should look."
    )
    return 0


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _some(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def check_one(command: DataCheck) -> int:
    from ..datasets import dataset_names
    from ..datasets.check import check

    if (
        Path(command.name).is_dir() and command.name not in dataset_names()
    ):  # one's own data, as `keepsight eval` takes it
        command = replace(command, name="folder", data_root=command.name)
    report = check(command.name, command.data_root, progress=_News("sequences"))
    damaged = tuple(_damaged_pictures(report, command)) if command.frames else ()
    _tell_report(report, damaged)
    return 0 if report.ok and not damaged else 2


def _tell_report(report: CheckReport, damaged: tuple[Finding, ...]) -> None:
    parts = report.parts or (report,)
    there = [part for part in parts if part.root is not None]
    say(f"data set    {report.title} ({report.name})")
    for part in parts:
        place = "not found" if part.root is None else f"{part.root} ({part.how})"
        say(f"folder      {place}" + (f", {part.title}" if report.parts else ""))
    say(f"sequences   {report.sequences:,}{_of(report.expected.sequences)}")
    say(f"frames      {report.frames:,}{_of(report.expected.frames)}")
    for part in there:
        if part.missing:
            say(f"missing     {_some(part.missing, MISSING_SHOWN)}")
    errors, notes = (*report.errors, *damaged), [f for f in report.findings if f.level == "note"]
    for line in _errors_by_sequence(errors):
        say(f"error       {line}")
    lines = _notes_by_message(notes)
    for line in lines[:NOTES_SHOWN]:
        say(f"note        {line}")
    if len(lines) > NOTES_SHOWN:
        say(f"note        .. and {len(lines) - NOTES_SHOWN} more, ordinary for many data sets")
    if report.ok and not damaged:
        known = report.expected.sequences is not None
        say("complete" if known else "nothing is wrong (how many sequences there should be is not known)")
    else:
        say("not complete" + (f", {len(errors)} error{'s' * (len(errors) > 1)}" if errors else ""))
    for part in there:  # the error about one that is not there says the same
        if not part.ok:
            say(f"The folder of {part.title} should look like this:")
            say(indent(part.layout.strip(), "  "))
            say(f"It can be obtained from: {part.source}")


def _of(expected: int | None) -> str:
    return "" if expected is None else f" of {expected:,}"


def _errors_by_sequence(errors: Sequence[Finding]) -> list[str]:
    """Files of one sequence with the same fault share a line."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in errors:
        groups.setdefault((finding.sequence, finding.message), []).append(finding)
    lines = []
    for (sequence, message), found in groups.items():
        files = [f.file for f in found if f.file is not None and str(f.file) not in message]
        names = [] if not files else [str(files[0])] if len(files) == 1 else [_of_one_folder(files)]
        lines.append(": ".join([*([sequence] if sequence else []), *names, message]))
    return lines


def _of_one_folder(files: list[Path]) -> str:
    return f"{files[0].parent}, {len(files)} files ({_some([f.name for f in files])})"


def _notes_by_message(notes: Sequence[Finding]) -> list[str]:
    """The same note on many sequences is one line."""
    groups: dict[str, list[str]] = {}
    for finding in notes:
        groups.setdefault(finding.message, []).append(finding.sequence)
    return [f"{_some(list(dict.fromkeys(names)))}: {message}" for message, names in groups.items()]


def _damaged_pictures(report: CheckReport, command: DataCheck) -> Iterator[Finding]:
    """Every picture of the sequences that can be opened, decoded; those between the first and the last were not yet."""
    from ..datasets.catalog import open_dataset
    from ..datasets.check import Finding
    from ..datasets.frames import NoFrames
    from ..errors import KeepsightError

    try:
        sequences = list(open_dataset(report.name, command.data_root).values())
    except KeepsightError:  # the report says why
        return
    told, news = {f.message for f in report.errors}, _News("sequences decoded")
    for done, sequence in enumerate(sequences, 1):
        if not isinstance(sequence.frames, NoFrames):
            for i in range(len(sequence)):
                try:
                    _ = sequence.frames[i]
                except KeepsightError as error:
                    if str(error) not in told:
                        yield Finding("error", sequence.name, None, str(error))
        news(done, len(sequences))


class _News:
    """A line on standard error now and then."""

    def __init__(self, what: str) -> None:
        self.what, self.told = what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self.told >= NEWS_SECONDS:
            tell(f"{done} of {total} {self.what}")
            self.told = time.monotonic()
