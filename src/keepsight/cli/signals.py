"""Ctrl-C and SIGTERM end a run between two frames, never in the middle of a write."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(BaseException):
    """Ctrl-C or SIGTERM, where it does no harm."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignals:
    """SIGINT and SIGTERM raise :class:`Stopped` inside ``allowed()``; elsewhere they are noted, so no write is cut."""

    def __init__(self) -> None:
        self.received = 0
        self._allowed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        if self._allowed:
            self._allowed = False  # once: clean-up must not be stopped by a second one
            raise Stopped(number)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here a signal may interrupt."""
        if self.received:
            raise Stopped(self.received)
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False
