"""From a tracker's own confidence to a probability that can be taken at its word: plain data, fitted by ``keepsight calibrate``.

``Result.presence`` rises with the tracker's confidence, and that is all it promises: of the frames where it is 0.9 the target
may be in view in 99 or in 60 out of 100. A calibration maps it to a probability (isotonic: steps that rise, Zadrozny and
Elkan, KDD 2002; logistic: a line in log-odds, Platt 1999). How it is fitted and judged: ``evaluation/calibration.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..text import write_atomically

Array = npt.NDArray[np.float64]

IN_VIEW = "in-view"
"""The target is in view, wherever the box is."""
ON_TARGET = "on-target"
"""The target is in view and the box overlaps it by half (IoU >= 0.5)."""
EVENTS = (IN_VIEW, ON_TARGET)

_FORMAT = "keepsight presence calibration"
_SMALLEST = 1e-6  # confidences nearer to 0 or 1 count as this near: log-odds are finite then


@dataclass(frozen=True)
class IsotonicMap:
    """Straight lines between knots, level outside them."""

    confidence: tuple[float, ...]
    """Of the knots, rising."""
    probability: tuple[float, ...]
    """At the knots, never falling."""

    def __post_init__(self) -> None:
        x, y = np.array(self.confidence, dtype=np.float64), np.array(self.probability, dtype=np.float64)
        fits = len(x) == len(y) > 0 and np.isfinite(x).all() and (np.diff(x) > 0).all()
        if not fits or not ((y >= 0) & (y <= 1)).all() or (np.diff(y) < 0).any():
            raise InputError(
                f"{len(x)} confidences and {len(y)} probabilities are no isotonic map; expected as many of both, confidences "
                "that rise, and probabilities from 0 to 1 that do not fall"
            )

    def __call__(self, confidence: npt.ArrayLike) -> Array:
        """Probabilities of confidences of any shape; nan stays nan."""
        return np.interp(np.asarray(confidence, dtype=np.float64), self.confidence, self.probability)

    def shifted(self, log_odds: float) -> IsotonicMap:
        """With ``log_odds`` added to every knot's log-odds."""
        y = np.array(self.probability)
        with np.errstate(divide="ignore"):  # 0 and 1 stay what they are
            moved = _sigmoid(np.log(y) - np.log1p(-y) + log_odds)
        return replace(self, probability=tuple(np.maximum.accumulate(moved).tolist()))


@dataclass(frozen=True)
class LogisticMap:
    """``1 / (1 + exp(-(slope * x + intercept)))``."""

    slope: float
    """Not negative: more confidence is never less probability."""
    intercept: float
    log_odds: bool = True
    """x is the confidence's log-odds, for confidences from 0 to 1 as all our trackers give; else the confidence itself."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope >= 0):
            raise InputError(
                f"slope {self.slope} and intercept {self.intercept} are no logistic map; expected finite, slope >= 0"
            )
        if not isinstance(self.log_odds, bool):  # any text would count as true
            raise InputError(f"log_odds is {self.log_odds!r}; expected true or false")

    def feature(self, confidence: npt.ArrayLike) -> Array:
        """x."""
        c = np.asarray(confidence, dtype=np.float64)
        if not self.log_odds:
            return c
        c = np.clip(c, _SMALLEST, 1 - _SMALLEST)
        return np.asarray(np.log(c) - np.log1p(-c))

    def __call__(self, confidence: npt.ArrayLike) -> Array:
        """Probabilities of confidences of any shape; nan stays nan."""
        return _sigmoid(self.slope * self.feature(confidence) + self.intercept)

    def shifted(self, log_odds: float) -> LogisticMap:
        """With ``log_odds`` added."""
        return replace(self, intercept=self.intercept + log_odds)


ProbabilityMap: TypeAlias = IsotonicMap | LogisticMap


@dataclass(frozen=True)
class Calibration:
    """What makes a probability of one tracker's confidence.

    Example::

        tracker = ks.load("dimp-lite", calibration="default")
        tracker.update(frame).presence_probability
    """

    tracker: str
    """Name of the tracker whose confidence it reads; others refuse it."""
    map: ProbabilityMap
    share: float
    """Share of frames with the event in the videos it is for: what it believes before it has seen a confidence."""
    event: str = IN_VIEW
    """What the probability is of: ``in-view`` or ``on-target``."""
    weights_sha256: str = ""
    """First 16 digits of the weights' sum, as results name them; trackers with other weights refuse it. Empty: not known."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How it was made; JSON data."""

    def __post_init__(self) -> None:
        if self.event not in EVENTS:
            raise InputError(f"event is {self.event!r}; expected one of {', '.join(EVENTS)}")
        if not 0 < self.share < 1:
            raise InputError(f"share is {self.share}; expected a number between 0 and 1")

    def __call__(self, confidence: float) -> float:
        """Probability of the event at a ``Result.presence``; nan of nan."""
        return float(self.map(confidence))

    def with_share(self, share: float) -> Calibration:
        """For videos in which the event holds in another share of frames, 0 to 1 exclusive: odds are scaled (Bayes).

        A doorbell camera whose visitor is there in 5 of 100 frames: ``read_calibration(path).with_share(0.05)``.
        """
        moved = replace(self, share=share)  # checks it
        return replace(moved, map=self.map.shifted(_log_odds(share) - _log_odds(self.share)))

    def to_json(self) -> str:
        """Text of the file; :meth:`from_json` reads it."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": 1,
                "tracker": self.tracker,
                "weights_sha256": self.weights_sha256,
                "event": self.event,
                "share": self.share,
                "map": {"kind": "isotonic" if isinstance(self.map, IsotonicMap) else "logistic", **vars(self.map)},
                "provenance": dict(self.provenance),
            },
            indent=1,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str, name: str = "the given text") -> Calibration:
        """Raises :class:`InputError` that begins with ``name`` if the text is no calibration."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{name} is damaged: no JSON ({error}); run keepsight calibrate again") from None
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise InputError(f"{name} is no calibration; give a calibration.json that keepsight calibrate wrote")
        if data.get("version") != 1:
            raise InputError(f"{name} was written by another version of keepsight; run keepsight calibrate again")
        try:
            fields = dict(data["map"])
            kind = fields.pop("kind")
            if kind == "isotonic":
                fields = {key: tuple(float(v) for v in values) for key, values in fields.items()}
            made: ProbabilityMap = {"isotonic": IsotonicMap, "logistic": LogisticMap}[kind](**fields)
            texts = {key: data[key] for key in ("tracker", "weights_sha256", "event")}
            if not all(isinstance(v, str) for v in texts.values()) or not isinstance(data["provenance"], dict):
                raise TypeError("a text is none")
            return cls(map=made, share=float(data["share"]), provenance=data["provenance"], **texts)
        except (KeyError, TypeError, ValueError) as error:  # InputError is a ValueError
            what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(f"{name} is damaged ({what}); run keepsight calibrate again") from None


def read_calibration(path: str | Path) -> Calibration:
    """Raises :class:`InputError` if the file is absent, damaged or something else."""
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no calibration {path}; keepsight calibrate makes one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give a calibration.json") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is no calibration; give a calibration.json that keepsight calibrate wrote") from None
    return Calibration.from_json(text, str(path))


def write_calibration(path: str | Path, calibration: Calibration) -> None:
    """Raises :class:`VideoError` if it cannot be written; an older file is unchanged then."""
    write_atomically(path, calibration.to_json() + "\n")


def weights_sum(*paths: str | Path) -> str:
    """16 hexadecimal digits of a tracker's weights files, in the order of its networks, as ``run.json`` of results names them."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).expanduser().read_bytes()).digest())
    return digest.hexdigest()[:16]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _log_odds(share: float) -> float:
    return math.log(share) - math.log1p(-share)
