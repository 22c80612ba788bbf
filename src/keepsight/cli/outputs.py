"""Everything that ``keepsight track`` writes."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..boxes import Box
from ..errors import InputError, VideoError
from ..online.state import Result, Status

if TYPE_CHECKING:
    from ..trackers.base import Tracker
    from ..video import BoxWriter, Frame, FrameSource, MaskWriter, VideoWriter
    from . import Track


class Outputs:
    """Everything that is written while tracking; as a context manager it finishes the files."""

    def __init__(self, command: Track, frames: FrameSource, tracker: Tracker[Any], numbers: Sequence[int]) -> None:
        """``numbers``: of the objects, in pictures of masks.

        Raises :class:`InputError` for something to be written that this tracker does not give.
        """
        _check_candidates(command, tracker)
        if command.save_masks is not None and not tracker.gives_masks:
            tracker.probabilities()  # its own error
        self._command, self._frames, self._tracker, self._numbers = command, frames, tracker, tuple(numbers)
        self._stack = ExitStack()
        self.video: VideoWriter | None = None
        self.boxes: BoxWriter | None = None
        self.masks: MaskWriter | None = None
        self.rows: Any = None
        self.densities: Path | None = None
        self.labels = ["target"] if len(numbers) == 1 else None

    @property
    def has_probability(self) -> bool:
        """Whether results say how likely the target is in view: the tracker has a calibration."""
        return self._tracker.calibration is not None

    @property
    def owns_terminal(self) -> bool:
        """Whether the boxes themselves go to the terminal, so that a progress bar would be in the way."""
        return self.rows is not None and sys.stdout.isatty()

    def __enter__(self) -> Outputs:
        from ..video import BOX_COLUMNS, BoxWriter, MaskWriter, VideoWriter

        command = self._command
        about = {"source": self._frames.name, "size": list(self._frames.size), "fps": self._frames.fps}
        about |= {"tracker": self._tracker.name, "seed": command.seed, "keepsight": __version__}
        with ExitStack() as stack:
            if command.save_densities is not None:
                self.densities = make_folder(command.save_densities)
            if command.save is not None:
                self.video = stack.enter_context(VideoWriter(command.save, fps=self._frames.fps))
            if command.save_masks is not None:
                self.masks = stack.enter_context(MaskWriter(command.save_masks, self._numbers, about))
                about = about | {"masks": command.save_masks, "object_ids": list(self._numbers)}
            if command.save_boxes is not None:
                fields = {"probability": self.has_probability, "candidates": self._tracker.follows_candidates}
                self.boxes = stack.enter_context(BoxWriter(command.save_boxes, len(self._numbers), about, **fields))
            if not (command.save or command.save_boxes or command.save_masks or command.save_densities):
                self.rows = csv.writer(sys.stdout, lineterminator="\n")
                self.rows.writerow([*BOX_COLUMNS, *(["presence_probability"] if self.has_probability else [])])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    def write_first(self, frame: Frame, boxes: Sequence[Box]) -> None:
        """What was given, in its frame; of a tracker of masks, the masks that it begins with."""
        for i, box in enumerate(boxes):
            if self.boxes is not None:
                self.boxes.write_init(frame.index, i, box)
            if self.rows is not None:
                more = [1.0] if self.has_probability else []
                self.rows.writerow([frame.index, i, *box, "", 1.0, "given", "given", True, "first frame", "", *more])
        has_masks = self._tracker.gives_masks and (self.masks is not None or self.video is not None)
        masks = [p > 0.5 for p in self._tracker.probabilities()] if has_masks else [None] * len(boxes)
        self._show(frame, [given(box, mask) for box, mask in zip(boxes, masks, strict=True)])

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """One frame with its results."""
        for i, r in enumerate(results):
            if self.boxes is not None:
                self.boxes.write(frame.index, i, r)
            if self.rows is not None:
                rest = [r.score, r.presence, r.status, r.flag, r.updated, r.update_reason, r.milliseconds]
                more = [r.presence_probability] if self.has_probability else []
                self.rows.writerow([frame.index, i, *r.box, *rest, *more])
        if self.rows is not None:
            sys.stdout.flush()
        if self.densities is not None:
            _save_densities(self.densities, frame, self._tracker)
        self._show(frame, results)

    def _show(self, frame: Frame, results: Sequence[Result]) -> None:
        if self.masks is not None:
            self.masks.write(frame.index, results, name=frame.name)
        if self.video is not None:
            from ..draw import draw_results

            shown = draw_results(frame.image, results, labels=self.labels, candidates=self._command.candidates)
            self.video.write(shown)

    def written(self) -> list[Path]:
        """Files and folders that hold results; right after closing too."""
        paths = [self.video.file] if self.video is not None and self.video.frames else []
        paths += list(self.boxes.paths) if self.boxes is not None else []
        paths += [self.masks.path] if self.masks is not None else []
        return paths + ([self.densities] if self.densities is not None else [])


def _check_candidates(command: Track, tracker: Tracker[Any]) -> None:
    if not command.candidates:
        return
    if not tracker.follows_candidates:
        raise InputError(
            f"--candidates: {tracker.name} follows no candidates; use a KeepTrack tracker such as 'keeptrack-lite'"
        )
    if command.save is None:
        raise InputError(
            "--candidates are drawn on the video; say where to write it with --save, e.g. --save tracked.mp4. "
            "Their numbers go to --save-boxes FILE.json without --candidates"
        )


def given(box: Box, mask: np.ndarray | None = None) -> Result:
    """The first frame's box and mask as a result, for drawing."""
    return Result(box, box, 1.0, 1.0, Status.FOUND, "given", True, "first frame", 0.0, mask)


def make_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VideoError(f"folder {folder} cannot be made: {reason}; give a folder that you may write to") from None
    return folder


def _save_densities(folder: Path, frame: Frame, tracker: Tracker[Any]) -> None:
    """For each target ``NNNNNN.npz`` with the arrays of :class:`Densities`, and the picture ``NNNNNN.png``."""
    import cv2

    from ..draw import density_panels

    found = tracker.densities()
    for i, densities in enumerate(found):
        stem = f"{frame.index:06d}" if len(found) == 1 else f"{frame.index:06d}_{i}"
        _, png = cv2.imencode(".png", cv2.cvtColor(density_panels(frame.image, densities), cv2.COLOR_RGB2BGR))
        try:
            arrays: dict[str, Any] = {k: np.asarray(v) for k, v in vars(densities).items()}
            np.savez_compressed(folder / f"{stem}.npz", **arrays)
            (folder / f"{stem}.png").write_bytes(png.tobytes())
        except OSError as error:
            raise VideoError(f"{folder / stem} cannot be written: {error.strerror or error}; free some space") from None
