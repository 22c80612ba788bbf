"""VOT result trees as the tests want them: sequence name -> runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from keepsight.datasets.sequence import Sequence
from keepsight.evaluation.foreign import read_results
from keepsight.evaluation.runs import Run


def read_vot_results(folder: Path, sequences: Iterable[Sequence], experiment: str = "baseline") -> dict[str, list[Run]]:
    """One tracker's folder, ``<experiment>/<sequence>/<sequence>_NNN.txt`` below it."""
    return read_results(folder, {s.name: s for s in sequences}, layout="vot", experiment=experiment).runs
