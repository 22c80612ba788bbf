"""Which candidate is the target: identities that follow every peak of the score map; spec/keeptrack-rts-lwl.md §3.3, 3.4.

Every candidate of a frame carries an object: an identity and the history of its scores. A frame's candidates take over the
objects of the frame before through the matches that the association network found (:func:`associate`), or start new ones
(:func:`start`). Comparisons are made in float32, as the published tracker makes them, and are strict where they say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .localise import NORMAL, NOT_FOUND


@dataclass(frozen=True)
class AssociationRules:
    """When an identity goes on, ends, and is the target's; the defaults are the published code's, :meth:`paper` the paper's."""

    split_probability: float = 0.6
    """A match less probable than this ends the target's object: the candidate starts a fresh one."""
    weak_split_probability: float = 0.85
    """The same limit for a candidate whose score is below ``weak_score``."""
    weak_score: float = 0.2
    """A candidate's score below this asks for the stricter limit."""
    split_distractors: bool = False
    """Apply the limits to every object; otherwise only to the target's."""
    switch_on_current: bool = False
    """The top candidate becomes the target when its score in this frame exceeds the target's largest score so far;
    otherwise when its own largest score so far does."""
    redetection: float = 0.25
    """A lost target is taken up again at the highest score above this."""
    redetection_inclusive: bool = False
    """A score equal to ``redetection`` is enough."""
    restart_frame: int = 10
    """From this frame on (the first frame is 1) a restart numbers its objects from 1: the first target is not among them."""
    skip_score: float = 0.5
    """A single candidate follows a single candidate without the network if both scores are above this."""
    root_by_identity: bool = False
    """The confidence of a frame is the root of its score if the target has its first identity, and else the score itself;
    otherwise, as :func:`certainty` has it, the larger of both, also as long as there are no identities."""
    recent_scores: int = 30
    """Scores of an object that are kept for display; no decision reads more than the last and the largest."""

    def __post_init__(self) -> None:
        for name in ("split_probability", "weak_split_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a probability between 0 and 1")
        for name in ("weak_score", "redetection", "skip_score"):
            if math.isnan(getattr(self, name)):
                raise InputError(f"{name} is NaN; expected a score (±inf turns the rule on or off for all)")
        if self.recent_scores < 1:
            raise InputError(f"recent_scores is {self.recent_scores}; expected at least 1, the last score is needed")

    @classmethod
    def paper(cls) -> AssociationRules:
        """The paper's values (spec §14, 5 to 7, 16): ω = 0.75 for all, current score against the target's maximum, η included."""
        return cls(
            split_probability=0.75, weak_split_probability=0.75, split_distractors=True, switch_on_current=True,
            redetection_inclusive=True, root_by_identity=True,
        )  # fmt: skip


@dataclass(frozen=True)
class TrackedObject:
    """One identity, at the candidate that carries it."""

    id: int
    """Never given twice between two restarts."""
    coords: tuple[float, float]
    """(row, column) of its candidate, in the units given to :func:`associate`."""
    maximum: float
    """Largest of all its scores; -inf while none was a number."""
    recent: tuple[float, ...]
    """Its last scores, oldest first, at most ``recent_scores``."""

    def seen(self, score: float, coords: tuple[float, float], keep: int) -> TrackedObject:
        """The same object with one score more."""
        largest = self.maximum if math.isnan(score) else max(self.maximum, score)
        return TrackedObject(self.id, coords, largest, (*self.recent, score)[-keep:])


@dataclass(frozen=True)
class CandidateState:
    """The objects of one frame and which of them is the target; plain data that a snapshot can save."""

    frame: int
    """The frame these candidates are of; the first frame is 1."""
    objects: tuple[TrackedObject, ...]
    """One for each candidate, in the order of the candidates (descending score)."""
    selected: int | None
    """Index of the target among ``objects``; None: not found."""
    selected_id: int
    """Identity of the target, or the last one it had: that one never returns."""
    next_id: int
    """The next fresh identity."""

    @property
    def flag(self) -> str:
        """``normal`` or ``not_found``."""
        return NOT_FOUND if self.selected is None else NORMAL

    @property
    def certain(self) -> bool:
        """Whether the target was followed from the first frame on, without change of identity (id 0)."""
        return self.selected_id == 0

    def precedes(self, frame: int) -> bool:
        """Whether ``frame`` comes right after; if not, its candidates cannot be matched with these: :func:`start` anew."""
        return self.frame + 1 == frame


def start(scores: Any, coords: Any, frame: int, rules: AssociationRules) -> CandidateState:
    """Fresh objects for all candidates of ``frame``, the first of them the target, whatever its score; §3.4, reset.

    ``scores``: (N,), descending. ``coords``: (N, 2), (row, column). Without candidates the target is not found.
    Raises :class:`InputError` if the sizes do not fit.
    """
    scores, coords = _candidates(scores, coords)
    first = 0 if frame < rules.restart_frame else 1
    objects = tuple(_fresh(first + i, s, c, rules) for i, (s, c) in enumerate(zip(scores, coords, strict=True)))
    # the target's number is spent also when there is no candidate to carry it
    return CandidateState(frame, objects, 0 if objects else None, first, first + max(len(objects), 1))


def associate(
    state: CandidateState, matches: Any, probabilities: Any, scores: Any, coords: Any, rules: AssociationRules
) -> CandidateState:
    """The objects of the next frame; §3.4, update.

    ``matches``: (N,), index of the previous frame's candidate or -1, none twice. ``probabilities``: (N,) of the matches.
    ``scores``: (N,), descending. ``coords``: (N, 2), (row, column). N may be 0: not found. A NaN probability counts as 0. A
    NaN score never makes a candidate the target, nor a match weak, and does not enter the history's maximum.

    Raises :class:`InputError` if the sizes do not fit or a match does not exist.
    """
    scores, coords = _candidates(scores, coords)
    matches, probabilities = _matches(matches, probabilities, len(scores), len(state.objects))

    objects, next_id = [], state.next_id
    for match, probability, score, place in zip(matches, probabilities, scores, coords, strict=True):
        previous = state.objects[match] if match >= 0 else None
        if previous is None or _splits(previous.id == state.selected_id, probability, score, rules):
            objects.append(_fresh(next_id, score, place, rules))
            next_id += 1
        else:
            objects.append(previous.seen(score, place, rules.recent_scores))

    selected = next((i for i, o in enumerate(objects) if o.id == state.selected_id), None)
    if selected is None:
        selected = _redetected(scores, rules)
    elif selected > 0:  # candidates come in descending order: what holds for the first holds for any
        rival = scores[0] if rules.switch_on_current else objects[0].maximum
        selected = 0 if rival > objects[selected].maximum else selected
    target = state.selected_id if selected is None else objects[selected].id
    return CandidateState(state.frame + 1, tuple(objects), selected, target, next_id)


def match_is_certain(state: CandidateState, scores: Any, rules: AssociationRules) -> bool:
    """Whether the next frame's ``scores`` (N,) match without the network, 0 to 0 with probability 1; §3.3.

    One candidate in either frame, both scores above ``skip_score``.
    """
    scores = np.asarray(scores, dtype=np.float32)
    limit = _single(rules.skip_score)
    return len(state.objects) == scores.size == 1 and state.objects[0].recent[-1] > limit and float(scores[0]) > limit


def certainty(score: float, state: CandidateState | None, rules: AssociationRules | None = None) -> float:
    """How sure the frame's maximum ``score`` makes us of the target: confidence of its sample and its presence; §3.6, 3.7.

    The root where that is larger, as long as there is no database or the target is the first frame's; not clamped to 1.
    Scores that are negative or NaN come back as they are (the published tracker makes NaN of the former, quirk Q24).
    ``rules``: the published ones by default.
    """
    if rules is not None and rules.root_by_identity:
        return math.sqrt(score) if score > 0 and state is not None and state.certain else score
    if score > 0 and (state is None or state.certain):
        return max(score, math.sqrt(score))
    return score


def _splits(is_target: bool, probability: float, score: float, rules: AssociationRules) -> bool:
    if not (is_target or rules.split_distractors):
        return False
    weak = score < _single(rules.weak_score) and not probability >= _single(rules.weak_split_probability)
    return weak or not probability >= _single(rules.split_probability)  # so put, a NaN splits


def _redetected(scores: list[float], rules: AssociationRules) -> int | None:
    limit = _single(rules.redetection)
    found = [i for i, s in enumerate(scores) if s > limit or (rules.redetection_inclusive and s == limit)]
    return max(found, key=lambda i: scores[i], default=None)  # the first among equals


def _fresh(id: int, score: float, coords: tuple[float, float], rules: AssociationRules) -> TrackedObject:
    return TrackedObject(id, coords, -math.inf, ()).seen(score, coords, rules.recent_scores)


def _single(value: float) -> float:
    """Rounded to float32."""
    return float(np.float32(value))


def _candidates(scores: Any, coords: Any) -> tuple[list[float], list[tuple[float, float]]]:
    """Scores rounded to float32, and places, as Python numbers."""
    values = np.asarray(scores, dtype=np.float32)
    places = np.asarray(coords, dtype=np.float64)
    if values.ndim != 1 or ((places.size or values.size) and places.shape != (len(values), 2)):
        raise InputError(f"scores {values.shape} and coords {places.shape}; expected (N,) and (N, 2) for N candidates")
    return values.tolist(), [(row, col) for row, col in places.reshape(-1, 2).tolist()]


def _matches(matches: Any, probabilities: Any, now: int, before: int) -> tuple[list[int], list[float]]:
    indices = np.asarray(matches, dtype=np.int64)
    values = np.asarray(probabilities, dtype=np.float32)
    if indices.shape != (now,) or values.shape != (now,):
        raise InputError(
            f"matches {indices.shape} and probabilities {values.shape}; expected ({now},) for the candidates"
        )
    used = indices[indices != -1]
    if used.size and (used.min() < 0 or used.max() >= before):
        raise InputError(f"matches reach from {used.min()} to {used.max()}; expected -1 or 0 … {before - 1}")
    if len(np.unique(used)) < len(used):
        raise InputError("two candidates match the same previous one; give mutual matches only")
    return indices.tolist(), values.tolist()
