"""How far a run is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..online.state import Result
from .console import tell

NEWS_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Progress:
    """Frames, frames per second and status: a bar on a terminal, else a line now and then; on standard error."""

    def __init__(self, total: int | None, *, bar: bool = True) -> None:
        self._console = Console(stderr=True)
        self._total = None if total is None else max(0, total - 1)  # the first frame is given, not tracked
        self._show_bar = bar and self._console.is_terminal
        self._quiet = not bar
        self._bar: Any = None
        self._done = 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Progress:
        if self._show_bar:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            # Standard output stays as it is: it may be a pipe that carries the boxes.
            self._bar = Progress(*columns, console=self._console, transient=True, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, results: Sequence[Result]) -> None:
        """One more frame."""
        self._done += 1
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-9)
        seen = "  ".join(f"{r.status} {r.presence:.2f}" for r in results[:4])
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{rate:.1f} frames/s  {seen}")
        elif not self._quiet and now - self._told >= NEWS_SECONDS:
            of = "" if self._total is None else f" of {self._total}"
            tell(f"{self._done}{of} frames, {rate:.1f} frames/s, {seen}")
            self._told = now
