"""Errors that keepsight raises on purpose. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KeepsightError(Exception):
    """Base of every error raised on purpose; the command line prints its message without a traceback."""


class InputError(KeepsightError, ValueError):
    """A frame, box, name or option that cannot be used."""


class HiddenTruthError(InputError):
    """Ground truth that its benchmark keeps to itself: scores come from its server, results go there."""


class StateError(KeepsightError, RuntimeError):
    """A call at the wrong time, such as ``update`` before ``init``."""


class VideoError(KeepsightError, OSError):
    """A video, image or camera that cannot be read, or an output that cannot be written."""


class WeightsError(KeepsightError, RuntimeError):
    """Weights that are absent, damaged, unsafe or of another network."""


def nearest_names(name: str, known: Iterable[str]) -> str:
    """A phrase such as ``"did you mean 'dimp18'?"`` for the message of an unknown-name error; known names otherwise."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known names: " + ", ".join(known)
