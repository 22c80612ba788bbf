"""Box refinement by gradient ascent on predicted overlap; spec/dimp-atom.md §7.8 (and §7.11 for ATOM's step control)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..boxes import from_relative, to_relative
from ..errors import InputError


class Scorer(Protocol):
    """Anything that scores boxes (P, 4) xywh -> (P,) and gives the gradient (P, 4)."""

    def score_and_gradient(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and their gradient by each box (P, 4)."""

    def score(self, boxes: Tensor) -> Tensor:
        """Scores (P,)."""


@dataclass(frozen=True)
class RefineConfig:
    """Proposals, ascent and choice of the boxes."""

    space: str = "default"
    """``default``: (x, y, w, h) with steps scaled by the size; ``relative``: (cx / n_w, cy / n_h, ln w, ln h)."""
    iterations: int = 5
    """Ascent steps."""
    step: float | tuple[float, float] = 1.0
    """Step length λ, or one for the position and one for the size."""
    step_decay: float = 1.0
    """λ is multiplied by this after each step (a shrinking factor per proposal with ``step_control``)."""
    step_control: bool = False
    """ATOM's rule: a proposal whose score fell goes back, with a shorter step (only then is the decay applied)."""
    random_boxes: int = 9
    """Jittered copies of the box that are refined with it."""
    jitter_position: float = 0.1
    """Width of the uniform jitter of the centre, in units of √(w·h)."""
    jitter_size: float = 0.5
    """Width of the uniform jitter of the size, in units of √(w·h)."""
    top_k: int = 3
    """The mean of this many best boxes is taken."""
    max_aspect: float = 6.0
    """Boxes more elongated than this are dropped."""
    min_size: float = 1.0
    """Lower limit of a refined side in crop pixels."""
    rescore: bool = False
    """Rank by the scores of the final boxes; the published code ranks by those before the last step (quirk Q8)."""

    def __post_init__(self) -> None:
        if self.space not in ("default", "relative"):
            raise InputError(f"refinement space {self.space!r} is unknown; expected 'default' or 'relative'")
        if self.iterations < 0 or self.random_boxes < 0 or self.top_k < 1:
            raise InputError("refinement needs iterations >= 0, random_boxes >= 0 and top_k >= 1")


def proposals(box: Tensor, uniforms: Tensor | None, config: RefineConfig) -> Tensor:
    """The box itself and jittered copies: ``box`` (4,), ``uniforms`` (R, 4) in [0, 1) -> (1 + R, 4) xywh."""
    if uniforms is None or len(uniforms) == 0:
        return box[None]
    size = box[2:]
    unit = torch.sqrt(size.prod())
    jitter = (uniforms - 0.5) * unit  # (R, 4)
    sizes = torch.maximum(size + jitter[:, 2:] * config.jitter_size, size.min() / 3)
    centres = box[:2] + size / 2 + jitter[:, :2] * config.jitter_position
    return torch.cat((box[None], torch.cat((centres - sizes / 2, sizes), dim=1)))


def ascend(scorer: Scorer, boxes: Tensor, config: RefineConfig) -> tuple[Tensor, Tensor]:
    """Move ``boxes`` (P, 4) up the predicted score. Returns the boxes and their scores (P,) as §7.8 ranks them."""
    if config.iterations == 0:
        return boxes, scorer.score(boxes)
    position, size = config.step if isinstance(config.step, tuple) else (config.step, config.step)
    step = boxes.new_tensor([position, position, size, size]).expand_as(boxes)  # (P, 4)
    normaliser = boxes[:1, 2:]  # proposal 0's size, fixed for the call
    variables = to_relative(boxes, normaliser) if config.space == "relative" else boxes
    previous_score = boxes.new_full((len(boxes),), -99999999.0)
    previous_move = torch.zeros_like(boxes)
    scores = previous_score
    for _ in range(config.iterations):
        current = from_relative(variables, normaliser) if config.space == "relative" else variables
        scores, gradient = scorer.score_and_gradient(current)
        if config.space == "relative":  # chain rule through centre = r·n, size = exp(r), corner = centre - size / 2
            gradient = torch.cat(
                (gradient[:, :2] * normaliser, current[:, 2:] * (gradient[:, 2:] - 0.5 * gradient[:, :2])), dim=1
            )
            move = step * gradient
        else:
            move = step * gradient * torch.cat((current[:, 2:], current[:, 2:]), dim=1)
        if config.step_control and config.step_decay < 1:
            better = (scores > previous_score)[:, None]
            step = torch.where(better, step, step * config.step_decay)
            move = torch.where(better, move, -previous_move)
            previous_score, previous_move = scores, move
        else:
            step = step * config.step_decay
        variables = variables + move
    refined = from_relative(variables, normaliser) if config.space == "relative" else variables
    return refined, scorer.score(refined) if config.rescore else scores


def choose(boxes: Tensor, scores: Tensor, config: RefineConfig) -> Tensor | None:
    """Mean (4,) of the best boxes with a plausible shape, or None if there is none."""
    boxes = torch.cat((boxes[:, :2], boxes[:, 2:].clamp(min=config.min_size)), dim=1)
    aspect = boxes[:, 2] / boxes[:, 3]
    keep = ((aspect < config.max_aspect) & (aspect > 1 / config.max_aspect)).nonzero()[:, 0]
    if len(keep) == 0:
        return None
    best = scores[keep].topk(min(config.top_k, len(keep))).indices
    mean = boxes[keep][best].mean(dim=0)
    return mean if all(math.isfinite(v) for v in mean.tolist()) else None
