"""What all VOT rules need before they can score: ground truth as regions, the image's size, one checked result per run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import HiddenTruthError, InputError
from ..regions import Code, Polygon, Rectangle, Region, Special
from .common import Missing, with_results
from .runs import Run

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trial:
    """One sequence with the runs of one tracker. N frames."""

    sequence: Sequence
    truth: tuple[Region, ...]
    """N regions, a :class:`Special` where nothing is known or the target is absent."""
    size: tuple[int, int]
    """Width and height of the images."""
    runs: list[Run]

    @property
    def name(self) -> str:
        return self.sequence.name


def collect(
    sequences: Iterable[Sequence], runs: Mapping[str, list[Run]], dataset: str, missing: Missing
) -> tuple[list[Trial], list[Sequence], list[str]]:
    """Trials of the sequences that have a result; those that have none; notes about them.

    Raises :class:`InputError` if a result is missing (``missing="refuse"``), or if all are.
    """
    sequences = with_results(sequences, runs, dataset, missing)
    lost = [s for s in sequences if not runs.get(s.name)]
    notes = []
    if lost:
        notes.append(f"{len(lost)} of {len(sequences)} sequences have no result and were left out: not VOT's number")
    trials = [Trial(s, truth_regions(s), image_size(s), runs[s.name]) for s in sequences if runs.get(s.name)]
    return trials, lost, notes


def truth_regions(sequence: Sequence) -> tuple[Region, ...]:
    """N regions: the data set's own, else made from polygons or boxes (nan: unknown).

    Raises :class:`InputError` if not every frame has its line.
    """
    annotation = sequence.annotation
    regions = annotation.regions
    if regions is None:
        rows = annotation.boxes if annotation.polygons is None else annotation.polygons  # (N, 4) or (N, 8)
        regions = tuple(_region(row) for row in rows)
    if len(regions) == 1 < len(sequence):
        raise HiddenTruthError(
            f"{sequence.dataset}/{sequence.name}: the ground truth is not public (the annotation has the first frame only); "
            "write the submission files and send them to the benchmark's server"
        )
    if len(regions) != len(sequence):
        raise InputError(
            f"{sequence.dataset}/{sequence.name}: ground truth for {len(regions)} of {len(sequence)} frames; VOT's rules "
            "need it in every frame"
        )
    return regions


def _region(row: Array) -> Region:
    if not np.isfinite(row).all():
        return Special(Code.UNKNOWN)
    return Rectangle(*map(float, row)) if len(row) == 4 else Polygon(row.reshape(-1, 2))


def image_size(sequence: Sequence) -> tuple[int, int]:
    """Width and height: from the annotation, else of the first frame.

    Raises :class:`InputError` or :class:`VideoError` if neither is there.
    """
    if sequence.annotation.image_size is not None:
        return sequence.annotation.image_size
    height, width = sequence.frames[0].shape[:2]
    return width, height


def checked_regions(trial: Trial, number: int, expected: int) -> tuple[Region, ...]:
    """The regions of run ``number``: as many as expected, the first one is the code of a start.

    Raises :class:`InputError` that names sequence and repetition.
    """
    run = trial.runs[number]
    where = f"{trial.name}, " + (f"anchor {run.anchor}" if run.anchor is not None else f"repetition {number + 1}")
    if run.regions is None:
        raise InputError(f"{where}: the result has boxes but no VOT codes; run the data set's own protocol")
    if len(run.regions) != expected:
        raise InputError(
            f"{where}: the result has {len(run.regions)} lines, the run {expected} frames; was it cut off? run it again"
        )
    first = run.regions[0]
    if not isinstance(first, Special) or first.code != Code.INITIALISATION:
        raise InputError(f"{where}: the first line must be the code 1 (start), it is {first}")
    return run.regions


def region_codes(regions: tuple[Region, ...]) -> npt.NDArray[np.int64]:
    """(N,) the code of each line, -1 where it holds a region."""
    return np.array([r.code if isinstance(r, Special) else -1 for r in regions], dtype=np.int64)
