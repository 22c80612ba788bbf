"""``keepsight track``: read, track, write."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..boxes import Box
from ..errors import InputError
from ..online.state import Result, Status
from .console import complain, say, tell
from .outputs import Outputs
from .progress import Progress
from .signals import Stopped, StopSignals

if TYPE_CHECKING:
    from ..trackers.base import Tracker
    from ..video import Frame, FrameSource
    from . import Track


def track(command: Track) -> int:
    from ..trackers.registry import load
    from ..video import open_source

    starts = read_starts(command.box, command.mask)
    if command.latest and command.every_frame:
        raise InputError("--latest and --every-frame exclude each other; give one")
    outputs_of = ("save", "save_boxes", "save_masks", "save_densities")
    for option, path in ((f"--{name.replace('_', '-')}", getattr(command, name)) for name in outputs_of):
        if path is not None and _same_file(path, command.source):
            raise InputError(f"{option} {path} is the source itself; give another name")
    signals = StopSignals()
    tally = _Tally(len(starts))
    outputs = None
    with signals:
        try:
            with ExitStack() as stack:
                with signals.allowed():
                    latest = True if command.latest else False if command.every_frame else None
                    on_error: Any = "skip" if command.skip_bad_frames else "raise"
                    frames = stack.enter_context(
                        open_source(
                            command.source, start=command.start, end=command.end, latest=latest, on_error=on_error
                        )
                    )
                    tracker = load(
                        command.tracker,
                        weights=command.weights or None,
                        device=command.device,
                        seed=command.seed,
                        calibration=command.calibration,
                    )
                    stack.enter_context(one_thread(tracker))
                    if command.save_densities is not None and not tracker.predicts_densities:
                        tracker.densities()  # its own error, before the first frame
                    first = next(frames)
                    _check_sizes(starts, *first.image.shape[:2])
                    tracker.init(first.image, boxes=[s.box for s in starts], masks=[s.mask for s in starts])
                outputs = stack.enter_context(Outputs(command, frames, tracker, [s.number for s in starts]))
                outputs.write_first(first, [s.box for s in starts])
                progress = stack.enter_context(Progress(frames.expected, bar=not outputs.owns_terminal))
                _follow(command, tracker, frames, outputs, signals, tally, progress)
        except Stopped as stop:
            if outputs is None:
                raise
            tally.stopped = stop.number
        except BaseException:
            if outputs is not None and outputs.written():
                kept = ", ".join(str(p) for p in outputs.written())
                complain(f"{tally.frames} frames were tracked before this error; kept: {kept}")
            raise
    _summarise(tally, frames, outputs)
    return 128 + tally.stopped if tally.stopped else 0


def _follow(
    command: Track,
    tracker: Tracker[Any],
    frames: FrameSource,
    outputs: Outputs,
    signals: StopSignals,
    tally: _Tally,
    progress: Progress,
) -> None:
    """The loop: read, track, write. A signal ends it between two frames, never in the middle of a write."""
    tally.began = time.monotonic()
    while True:
        try:
            with signals.allowed():
                frame = next(frames, None)
                results = _results(command, tracker, frame, tally) if frame is not None else None
        except Stopped as stop:
            tally.stopped = stop.number
            return
        if frame is None:
            return
        if results is not None:
            outputs.write(frame, results)
            tally.count(results)
            progress.advance(results)


def _results(command: Track, tracker: Tracker[Any], frame: Frame, tally: _Tally) -> list[Result] | None:
    """What the tracker says about a frame; None for one of another size that is to be passed over."""
    try:
        return tracker.update_all(frame.image)
    except InputError as error:  # the tracker is unchanged then
        if not command.skip_bad_frames:
            hint = "to pass over such frames: --skip-bad-frames"
            raise InputError(f"frame {frame.index}: {error} ({hint})") from None
        tally.passed_over.append((frame.index, str(error)))
        return None


@dataclass(frozen=True, eq=False)
class Start:
    """One object as it was given."""

    box: Box
    number: int
    """In pictures of masks."""
    mask: np.ndarray | None = None
    """(H, W) bool, ..."""
    file: str = ""
    """... and where it stands."""


def read_starts(boxes: Sequence[str], masks: Sequence[str]) -> list[Start]:
    """The objects of ``--box`` and ``--mask``: numbered from 1, or as in the picture if there is nothing but one picture.

    Raises :class:`InputError` and :class:`VideoError` that name what cannot be used.
    """
    from ..datasets.masks import VOID, read_mask
    from ..online.masks import tight_box

    starts = [Start(parse_box(text), i) for i, text in enumerate(boxes, 1)]
    keeps = not boxes and len(masks) == 1
    for file in masks:
        ids = read_mask(Path(file).expanduser())  # (H, W)
        numbers = [int(n) for n in np.unique(ids) if n not in (0, VOID)]
        if not numbers:
            raise InputError(f"--mask {file}: no pixel belongs to an object; paint the object with a number above 0")
        for number in numbers:
            box = tight_box(ids == number)
            assert box is not None  # for the type checker
            starts.append(Start(box, number if keeps else len(starts) + 1, ids == number, file))
    if not starts:
        raise InputError(
            "--box is missing; say where the object is in the first frame: --box x,y,w,h, or --mask FILE.png"
        )
    return starts


def _check_sizes(starts: Sequence[Start], height: int, width: int) -> None:
    for start in starts:
        if start.mask is not None and start.mask.shape != (height, width):
            rows, columns = start.mask.shape
            raise InputError(
                f"--mask {start.file} has {columns}×{rows} pixels, the first frame has {width}×{height}; give a mask of the "
                "frame's size"
            )


def parse_box(text: str) -> Box:
    """``"x,y,w,h"`` as a box; raises :class:`InputError` that says what is wrong with it."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4:
        numbers = "1 number" if len(parts) == 1 else f"{len(parts)} numbers"
        raise InputError(f"--box {text}: {numbers}; expected x,y,w,h")
    try:
        return Box(*(float(part) for part in parts))
    except ValueError:
        raise InputError(f"--box {text}: not four numbers; expected x,y,w,h in pixels, such as 320,180,60,90") from None


def _same_file(a: str, b: str) -> bool:
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)


@contextmanager
def one_thread(tracker: Tracker[Any]) -> Iterator[None]:
    """One CPU thread for the small trackers, made for it: on a busy machine threads that wait for each other are slower.

    Results then do not depend on the number of cores either. A given ``OMP_NUM_THREADS`` is left as it is.
    """
    import torch

    before = torch.get_num_threads()
    if tracker.suits_one_thread and tracker.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Tally:
    """What the summary tells."""

    targets: int
    frames: int = 0
    milliseconds: float = 0.0
    statuses: list[Counter[str]] = field(default_factory=list)
    passed_over: list[tuple[int, str]] = field(default_factory=list)
    stopped: int = 0
    began: float = 0.0

    def count(self, results: Sequence[Result]) -> None:
        self.statuses = self.statuses or [Counter() for _ in results]
        self.frames += 1
        for counter, result in zip(self.statuses, results, strict=True):
            counter[str(result.status)] += 1
            self.milliseconds += result.milliseconds


def _summarise(tally: _Tally, frames: FrameSource, outputs: Outputs) -> None:
    write = tell if outputs.rows is not None else say  # standard output may carry the boxes
    seconds = max(time.monotonic() - tally.began, 1e-9)
    if tally.stopped:
        write(f"stopped by {signal.Signals(tally.stopped).name}; the files are finished")
    tracker_rate = f"; tracker alone {1000 * tally.frames / tally.milliseconds:.1f}" if tally.milliseconds else ""
    write(
        f"{tally.frames} frames tracked, {tally.frames / seconds:.1f} frames/s with reading and writing{tracker_rate}"
    )
    for i, counter in enumerate(tally.statuses):
        shares = ", ".join(f"{s.value} {100 * counter[s.value] / tally.frames:.1f} %" for s in Status)
        write(f"target {i}: {shares}")
    passed_over = [*frames.skipped, *tally.passed_over]
    if passed_over:
        index, reason = min(passed_over)
        write(f"{len(passed_over)} bad frames passed over; the first is frame {index}: {reason}")
    if frames.dropped:
        write(f"{frames.dropped} frames dropped because a newer one had come")
    if frames.ended and not tally.stopped:
        write(f"note: {frames.ended}")
    for path in outputs.written():
        write(f"wrote {path}")
