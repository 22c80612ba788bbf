"""What every tracker shares: the two verbs, checked input, many targets, saved states."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from ..boxes import Box, check_box, clip_box, state_to_box
from ..errors import InputError, StateError
from ..images import check_frame
from ..online import snapshot
from ..online.densities import Densities
from ..online.localise import NOT_FOUND, UNCERTAIN
from ..online.masks import box_slices, check_mask, tight_box
from ..online.presence import Calibration
from ..online.state import Candidate, Result, Status

TargetT = TypeVar("TargetT")


@dataclass(frozen=True)
class Outcome:
    """What a family reports about one target in one frame; :class:`Tracker` makes a :class:`Result` of it."""

    pos: tuple[float, float]
    """Centre (row, column), pixel index."""
    size: tuple[float, float]
    """(h, w) in pixels."""
    score: float
    presence: float
    flag: str
    updated: bool
    reason: str
    mask: np.ndarray | None = None
    candidates: tuple[Candidate, ...] = ()


@dataclass
class Session(Generic[TargetT]):
    """Everything a tracker remembers between frames."""

    frame_size: tuple[int, int]
    """(H, W) of the video."""
    targets: list[TargetT]


class Tracker(ABC, Generic[TargetT]):
    """Keeps sight of one or several targets: ``init(frame, box)``, then ``update(frame)`` for every later frame.

    A frame is RGB uint8 (H, W, 3), numpy or torch; grey (H, W) frames are repeated to three channels, the alpha channel of
    (H, W, 4) is dropped. A box is (x, y, w, h) in pixels, top-left corner first. A mask is (H, W), bool or integers that are
    0 outside the target.
    """

    session_type: Any
    """``Session[...]`` of the family, for restoring a saved state."""

    def __init__(self, name: str, device: torch.device, seed: int) -> None:
        self.name, self.device, self.seed = name, device, seed
        self._session: Session[TargetT] | None = None
        self._calibration: Calibration | None = None

    # --- the public loop ---------------------------------------------------------------------------------------------

    def init(
        self,
        frame: Any,
        box: Sequence[float] | None = None,
        *,
        mask: Any = None,
        boxes: Sequence[Sequence[float]] | None = None,
        masks: Sequence[Any] | None = None,
    ) -> None:
        """Start on ``frame`` with the target's ``box`` or ``mask``, or several targets' ``boxes`` or ``masks``; forgets others.

        Of a mask, a tracker of boxes takes the tight box. Box and mask may both be given: trackers of masks then learn from the
        mask and take place and size from the box; entries of ``masks`` beside ``boxes`` may be None.

        Raises :class:`InputError` for a frame, box or mask that cannot be used (the tracker is then unchanged).
        """
        image = check_frame(frame)
        height, width = image.shape[:2]
        checked = _check_start(height, width, box, mask, boxes, masks)
        with torch.inference_mode():
            targets = self._start_with(image, *checked)
        self._session = Session((height, width), targets)

    def add(
        self,
        frame: Any,
        box: Sequence[float] | None = None,
        *,
        mask: Any = None,
        boxes: Sequence[Sequence[float]] | None = None,
        masks: Sequence[Any] | None = None,
    ) -> None:
        """More targets, behind those that are there, given as in :meth:`init`.

        ``frame``: the one that ``update_all`` or ``init`` was called with last. Of trackers of masks, a new target takes its
        pixels from the others. Raises :class:`StateError` before ``init``, and :class:`InputError` as ``init``.
        """
        session = self._current()
        image = self._check_next(frame)
        checked = _check_start(*session.frame_size, box, mask, boxes, masks)
        with torch.inference_mode():
            new = self._start_with(image, *checked)
            self._make_room(session.targets, new)
        session.targets.extend(new)

    def _check_next(self, frame: Any) -> np.ndarray:
        """A frame of the video that is being followed."""
        session = self._current()
        image = check_frame(frame)
        height, width = image.shape[:2]
        if (height, width) != session.frame_size:
            raise InputError(
                f"the frame is {width}×{height} but the video began with {session.frame_size[1]}×{session.frame_size[0]}; "
                "resize the frame to the first one's size, or call init again with a box in the new frame"
            )
        return image

    def update(self, frame: Any) -> Result:
        """The target in the next frame. Raises :class:`StateError` before ``init`` or when there are several targets."""
        if self._session is not None and len(self._session.targets) > 1:
            raise StateError(f"this tracker follows {len(self._session.targets)} targets; call update_all(frame)")
        return self.update_all(frame)[0]

    def update_all(self, frame: Any) -> list[Result]:
        """Every target in the next frame, in the order of ``boxes``.

        Raises :class:`StateError` before ``init``, :class:`InputError` for a frame that cannot be used or has another size
        than the first; the state is unchanged then, and tracking can go on with the next good frame.
        """
        start = time.perf_counter()
        session = self._current()
        image = self._check_next(frame)
        with torch.inference_mode():
            outcomes = self._advance(image, session.targets)
        spent = (time.perf_counter() - start) * 1000 / len(outcomes)
        return [self._result(o, *session.frame_size, spent) for o in outcomes]

    def reset(self) -> None:
        """Forget all targets; the next call must be ``init``."""
        self._session = None

    @property
    def target_count(self) -> int:
        """Number of targets being tracked; 0 before ``init``."""
        return 0 if self._session is None else len(self._session.targets)

    # --- presence as a probability -----------------------------------------------------------------------------------

    @property
    def calibration(self) -> Calibration | None:
        """What makes ``Result.presence_probability``; None: results have none. It is no part of a saved state.

        Setting one that was fitted to another tracker raises :class:`InputError`.
        """
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if calibration is not None and calibration.tracker != self.name:
            raise InputError(
                f"the calibration was fitted to {calibration.tracker}, and this is {self.name}, whose confidences mean something "
                f"else; fit one with `keepsight calibrate {self.name}`"
            )
        self._calibration = calibration

    # --- saved states ------------------------------------------------------------------------------------------------

    def save_state(self, path: str | Path) -> None:
        """Write everything needed to go on after this frame (of the networks' weights only a digest) to a safetensors file."""
        snapshot.save(Path(path), self._current(), self._belonging())

    def load_state(self, path: str | Path) -> None:
        """Go on where :meth:`save_state` stopped; the next ``update`` gives what it would have given then.

        Raises :class:`StateError` if the file belongs to another tracker, or to one with other weights or settings.
        """
        with torch.inference_mode():
            self._session = snapshot.load(Path(path), self.session_type, self._belonging(), self.device)
        self._restored()

    @property
    def predicts_densities(self) -> bool:
        """Whether :meth:`densities` has something to say."""
        return False

    @property
    def suits_one_thread(self) -> bool:
        """Whether the network is so small that several CPU threads gain nothing."""
        return False

    @property
    def follows_candidates(self) -> bool:
        """Whether results say what every peak of the score map is (``Result.candidates``)."""
        return False

    @property
    def gives_masks(self) -> bool:
        """Whether results have a mask, and :meth:`probabilities` something to say."""
        return False

    def probabilities(self) -> list[np.ndarray]:
        """Of each target, the probability (H, W) float32 of every pixel of the last frame to belong to it.

        Raises :class:`InputError` for trackers of boxes (see :attr:`gives_masks`), :class:`StateError` before ``init``.
        """
        raise InputError(f"{self.name} answers with boxes; use a tracker of masks such as 'rts50'")

    def densities(self) -> list[Densities]:
        """Predicted densities of each target in the last frame.

        Raises :class:`InputError` for trackers that are not probabilistic (see :attr:`predicts_densities`).
        """
        raise InputError(f"{self.name} predicts no densities; use a PrDiMP tracker such as 'prdimp18'")

    # --- what a family fills in --------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, frame: np.ndarray, boxes: list[Box]) -> list[TargetT]:
        """Learn the targets from the first frame, uint8 (H, W, 3)."""

    def _start_with(self, frame: np.ndarray, boxes: list[Box], masks: list[np.ndarray | None]) -> list[TargetT]:
        """As :meth:`_start`, with the (H, W) bool masks that were given; trackers of masks override it."""
        return self._start(frame, boxes)

    def _make_room(self, targets: list[TargetT], new: list[TargetT]) -> None:
        """Called when ``new`` targets join others; trackers of masks take the new ones' pixels from them."""

    @abstractmethod
    def _advance(self, frame: np.ndarray, targets: list[TargetT]) -> list[Outcome]:
        """Find every target in the next frame and update its state in place."""

    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """JSON data of the settings, which must agree for a saved state to fit."""

    def _belonging(self) -> dict[str, Any]:
        """Settings and weights, which must agree for a saved state to fit."""
        return {**self._identity(), "weights": snapshot.weights_digest(self._networks())}

    def _networks(self) -> list[nn.Module]:
        """Every network that tracks: attributes of the tracker, and of its parts, such as KeepTrack's follower."""
        own = list(vars(self).values())
        inner = [v for part in own if not isinstance(part, nn.Module) for v in getattr(part, "__dict__", {}).values()]
        return [value for value in (*own, *inner) if isinstance(value, nn.Module)]

    def _restored(self) -> None:
        """Called after a state was loaded; drop what was derived from the old one."""

    def _current(self) -> Session[TargetT]:
        if self._session is None:
            raise StateError("no target yet; call init(frame, box=(x, y, w, h)) first")
        return self._session

    def _result(self, outcome: Outcome, height: int, width: int, milliseconds: float) -> Result:
        box = state_to_box(outcome.pos, outcome.size)
        presence = min(max(0.0, outcome.presence), 1.0)  # in this order NaN becomes 0
        status = {NOT_FOUND: Status.LOST, UNCERTAIN: Status.UNCERTAIN}.get(outcome.flag, Status.FOUND)
        return Result(
            box=clip_box(box, height, width),
            box_unclipped=box,
            score=outcome.score,
            presence=presence,
            status=status,
            flag=outcome.flag,
            updated=outcome.updated,
            update_reason=outcome.reason,
            milliseconds=milliseconds,
            candidates=outcome.candidates,
            mask=outcome.mask,
            presence_probability=None if self._calibration is None else self._calibration(presence),
        )


def _check_start(
    height: int,
    width: int,
    box: Sequence[float] | None,
    mask: Any,
    boxes: Sequence[Sequence[float]] | None,
    masks: Sequence[Any] | None,
) -> tuple[list[Box], list[np.ndarray | None]]:
    """What ``init`` and ``add`` are given -> a box and, if there is one, a mask (H, W) bool of each target."""
    several = boxes is not None or masks is not None
    if several == (box is not None or mask is not None):
        raise InputError("give either box=(x, y, w, h) or mask=..., or boxes=[...] or masks=[...] for several targets")
    given_masks = [mask] if not several else [] if masks is None else list(masks)
    given_boxes = [box] if not several else [] if boxes is None else list(boxes)
    if several and boxes is not None and masks is not None and len(boxes) != len(masks):
        raise InputError(f"there are {len(boxes)} boxes and {len(masks)} masks; give one of each per target")
    if several and not given_boxes and not given_masks:
        raise InputError("boxes or masks is empty; give at least one (x, y, w, h), or one mask")
    count = max(len(given_boxes), len(given_masks))
    checked_masks = [None if m is None else check_mask(m, height, width) for m in given_masks or [None] * count]
    checked = []
    for b, m in zip(given_boxes or [None] * count, checked_masks, strict=True):
        if b is None and m is None:
            raise InputError("a target has neither box nor mask; give one of them")
        inside = check_box(tight_box(m) if b is None else b, height, width)  # type: ignore[arg-type]
        if b is not None and m is not None and not m[box_slices(inside)].any():
            raise InputError(
                f"the mask has no pixel in the box {tuple(b)}; give the two of the same target, or one of them"
            )
        checked.append(inside)
    return checked, checked_masks


def presence_from_score(score: float, midpoint: float) -> float:
    """A score above 0 as a number in [0, 1) that is 0.5 at ``midpoint``; monotone, not a calibrated probability."""
    return score / (score + midpoint) if score > 0 else 0.0
