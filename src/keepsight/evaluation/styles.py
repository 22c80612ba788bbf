"""Colours and line styles of trackers: the same tracker looks the same in every plot of a report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colours for colour-blind eyes without yellow, which white paper swallows. Line styles and markers take
# part so that grey prints stay readable: 7 colours, 4 styles and 9 markers repeat together after 252 trackers only.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("solid", "dash", "dashdot", "dot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "cross", "x", "pentagon")


@dataclass(frozen=True)
class TrackerStyle:
    """How one tracker is drawn."""

    colour: str
    """``#rrggbb``; black stands for the text colour, which is light on dark ground."""
    dash: str
    """``solid``, ``dash``, ``dashdot`` or ``dot``."""
    marker: str
    """Plotly's name of the symbol."""


def tracker_styles(trackers: Iterable[str]) -> dict[str, TrackerStyle]:
    """A style for each of ``trackers``, in their order; repeated names keep their first style."""
    names = list(dict.fromkeys(trackers))
    return {
        name: TrackerStyle(_COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)], _MARKERS[i % len(_MARKERS)])
        for i, name in enumerate(names)
    }
