"""What the scoring rules share: which sequences have results, speed, messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from typing import Literal, TypeAlias

import numpy as np

from ..datasets.sequence import Sequence
from ..errors import InputError
from .runs import Run

Missing: TypeAlias = Literal["leave_out", "refuse"]
"""What a sequence without a run does: it is left out (a note says so), or it is an error."""


def with_results(
    sequences: Iterable[Sequence], runs: Mapping[str, Many[Run]], dataset: str, missing: Missing
) -> list[Sequence]:
    """All sequences, after it is made sure that enough of them have a run. Raises :class:`InputError` otherwise."""
    asked = list(sequences)
    lost = [s.name for s in asked if not runs.get(s.name)]
    if len(lost) == len(asked):
        raise InputError(
            f"none of {len(asked)} sequences of {dataset} has a result to score; run the tracker on them, or check that the "
            f"results are named after the sequences ({listed(lost) or 'none were given'})"
        )
    if lost and missing == "refuse":
        raise InputError(
            f"{len(lost)} of {len(asked)} sequences of {dataset} have no result: {listed(lost)}; run the tracker on them, or "
            "leave them out for all trackers alike"
        )
    return asked


def frames_per_second(runs: Iterable[Run]) -> float | None:
    """Frames after the first by their summed time, over all runs that recorded it."""
    times = [run.seconds[1:] for run in runs if run.seconds is not None and len(run.seconds) > 1]
    known = np.concatenate(times) if times else np.zeros(0)
    known = known[known > 0]  # nan is not
    return float(len(known) / known.sum()) if len(known) else None


def listed(names: Iterable[str], most: int = 5) -> str:
    """For messages: the first of them, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
