"""What a scoring rule returns, whichever benchmark it belongs to; tables, plots and reports read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How one number is to be read and printed."""

    name: str
    """Key in ``Scores.values``, e.g. ``AUC``, ``P20``, ``NP20``, ``EAO``, ``J&F``."""
    label: str
    """For tables and axes, e.g. ``Success (AUC)``."""
    factor: float = 100.0
    """Values are kept as fractions where the rule has fractions; tables print ``factor * value``."""
    digits: int = 1
    """Decimals that the field prints."""
    higher_is_better: bool = True


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve over the whole data set."""

    x: Array
    """(K,) thresholds or frame numbers."""
    y: Array
    """(K,) values, fractions."""
    x_label: str
    y_label: str
    summary: str = ""
    """Key in ``Scores.values`` that the legend prints beside the tracker's name."""


@dataclass(frozen=True, eq=False)
class SequenceScore:
    """One sequence's part."""

    name: str
    frames: int
    """Frames of the ground truth."""
    values: Mapping[str, float]
    """Same keys as ``Scores.values`` where the number exists for one sequence; nan where it is undefined."""
    curves: Mapping[str, Array] = field(default_factory=dict)
    """Curve name -> (K,) values on the x of ``Scores.curves``."""
    per_frame: Mapping[str, Array] = field(default_factory=dict, repr=False)
    """E.g. ``overlap``, ``centre_error``: (N,) or (repetitions, N); empty if they were not kept."""
    lost: bool = False
    """No result was found for this sequence (how the rule treats that is in ``Scores.notes``)."""
    weight: float = 1.0
    """Its share in the data set's number: 1 where sequences weigh alike, its scored frames where frames are pooled."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One tracker on one data set under one rule."""

    tracker: str
    dataset: str
    rule: str
    """Name of the convention: every number carries it (spec/evaluation.md §13)."""
    metrics: tuple[Metric, ...]
    """The headline numbers in the order of the table's columns; ``metrics[0]`` ranks."""
    values: Mapping[str, float]
    sequences: tuple[SequenceScore, ...]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """E.g. ``success``, ``precision``, ``norm_precision``, ``eao``, ``precision_recall``."""
    attributes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Attribute -> metric -> value over the sequences (or frames) that have it."""
    attribute_sizes: Mapping[str, int] = field(default_factory=dict)
    """Attribute -> number of sequences (or frames) behind it."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Metric -> 95 % bootstrap interval over sequences."""
    repetitions: int = 1
    fps: float | None = None
    """Mean frames per second where times were recorded."""
    notes: tuple[str, ...] = ()
    """What a reader must know: missing sequences, padded results, absent data, rules not applicable."""
