"""Printing: the one place where keepsight does."""

from __future__ import annotations

from rich.console import Console


def say(text: str) -> None:
    """A line on standard output: what was asked for."""
    Console(markup=False, emoji=False, highlight=False, soft_wrap=True).print(text)


def tell(text: str) -> None:
    """A line on standard error: what happens meanwhile."""
    Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True).print(text)


def complain(text: str) -> None:
    Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True).print(text, style="red")


def complain_with_traceback() -> None:
    import traceback

    tell(traceback.format_exc().rstrip())
