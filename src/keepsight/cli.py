"""The command ``keepsight``: parse, call, print.

Exit status: 0 well; 1 something unexpected (a traceback is shown); 2 what the user can mend (the message says how;
``KEEPSIGHT_DEBUG=1`` shows the traceback too); 130 and 143 stopped by Ctrl-C and SIGTERM, with every file finished.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from . import __version__
from .boxes import Box
from .errors import InputError, KeepsightError, VideoError
from .online.state import Result, Status

if TYPE_CHECKING:
    from .trackers.base import Tracker
    from .video import BoxWriter, Frame, FrameSource, VideoWriter

DEBUG_VARIABLE = "KEEPSIGHT_DEBUG"
NEWS_SECONDS = 10.0  # between two lines of progress where there is no terminal

# ---------------------------------------------------------------------------------------------------- what can be asked


@dataclass(frozen=True)
class Track:
    """Follow one or several objects through a video, an image folder, a camera or a stream.

    keepsight track clip.mp4 --box 320,180,60,90 --save tracked.mp4 --save-boxes boxes.csv

    Without --save, --save-boxes or --save-densities the boxes go to standard output as CSV. Ctrl-C finishes the files.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Video file, folder or quoted glob of images, camera index (0), RTSP or HTTP address."""
    box: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="X,Y,W,H")] = ()
    """The object in the first frame: top-left corner, width, height in pixels. Repeat it for more objects."""
    tracker: Annotated[str, arg(metavar="NAME")] = "dimp-lite"
    """Tracker, or a weights file that says which tracker it is for."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """Weights file instead of the tracker's own; 'random' for seeded random numbers (tests, speed)."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    start: Annotated[int, arg(metavar="N")] = 0
    """First frame, counted from 0; the boxes belong to it."""
    end: Annotated[int | None, arg(metavar="M")] = None
    """Frame after the last one; default: the end."""
    save: Annotated[str | None, arg(metavar="FILE")] = None
    """Video with the boxes drawn: .mp4 .mov .mkv .avi .webm, or a folder of images (end it with /)."""
    save_boxes: Annotated[str | None, arg(metavar="FILE")] = None
    """Boxes: .csv (all fields), .json (all fields), .txt (x,y,w,h; with several objects one file each)."""
    save_densities: Annotated[str | None, arg(metavar="DIR")] = None
    """Predicted densities of PrDiMP trackers, for each frame one .npz and one picture."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of every random draw; same input and seed, same boxes."""
    skip_bad_frames: bool = False
    """Go on past damaged pictures and pictures of another size; they are counted at the end."""
    latest: bool = False
    """Drop to the newest frame when tracking is slower than the source (default for cameras and live streams)."""
    every_frame: bool = False
    """Take every frame of a live source, however late."""

    def run(self) -> int:
        return _track(self)


@dataclass(frozen=True)
class Demo:
    """Render a short synthetic clip with exact ground truth, track it, and say how well that went.

    keepsight demo --out keepsight-demo
    """

    out: Annotated[str, arg(metavar="DIR")] = "keepsight-demo"
    """Folder of the results; made if it is absent."""
    tracker: Annotated[str, arg(metavar="NAME")] = "dimp-lite"
    """Tracker, or a weights file that says which tracker it is for."""
    frames: Annotated[int, arg(metavar="N")] = 150
    """Length of the clip; 30 frames are a second."""

    def run(self) -> int:
        return _demo(self)


@dataclass(frozen=True)
class WeightsList:
    """Which weights are at hand, and where the others must lie."""

    def run(self) -> int:
        return _weights_list()


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file holds. Nothing in the file is executed."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A published checkpoint or a .safetensors file."""

    def run(self) -> int:
        return _weights_info(self.file)


@dataclass(frozen=True)
class WeightsConvert:
    """Turn a published checkpoint into a .safetensors file; every name and shape is checked.

    keepsight weights convert prdimp50.pth.tar --out prdimp50.safetensors
    """

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """The published file."""
    out: Annotated[str, arg(metavar="FILE")]
    """Where to write; must end in .safetensors."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Which network it is, if the file does not tell (`keepsight weights list` has the names)."""

    def run(self) -> int:
        return _weights_convert(self)


@dataclass(frozen=True)
class Weights:
    """Weights: list them, look into a file, convert a published one.

    keepsight weights list
    """

    action: (
        Annotated[WeightsList, subcommand("list")]
        | Annotated[WeightsInfo, subcommand("info")]
        | Annotated[WeightsConvert, subcommand("convert")]
    )

    def run(self) -> int:
        return self.action.run()


@dataclass(frozen=True)
class Env:
    """Print what a bug report needs: versions, devices, threads, weights."""

    def run(self) -> int:
        return _env()


Command = (
    Annotated[Track, subcommand("track")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Weights, subcommand("weights")]
    | Annotated[Env, subcommand("env")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (see the head of this file)."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given == ["--version"]:
        _say(f"keepsight {__version__}")
        return 0
    try:
        command: Any = tyro.cli(
            Command,
            prog="keepsight",
            description="Keep sight of an object in a video. `keepsight demo` shows it; --version tells the version.",
            args=given or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
    except SystemExit as error:  # --help, or arguments that do not fit
        return error.code if isinstance(error.code, int) else 2
    try:
        status: int = command.run()
        return status
    except KeepsightError as error:
        if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            _complain_with_traceback()
        _complain(f"error: {error}")
        return 2
    except (_Stopped, KeyboardInterrupt) as error:
        _complain("stopped before the first frame was tracked" if isinstance(error, _Stopped) else "stopped")
        return 128 + (error.number if isinstance(error, _Stopped) else signal.SIGINT)
    except BrokenPipeError:  # `keepsight ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except Exception:
        _complain_with_traceback()
        _complain(
            "this should not have happened; please report it with the lines above and the output of `keepsight env`"
        )
        return 1


# --------------------------------------------------------------------------------------------------------------- track


def _track(command: Track) -> int:
    from .trackers.registry import load
    from .video import open_source

    boxes = [parse_box(text) for text in command.box]
    if not boxes:
        raise InputError("--box is missing; say where the object is in the first frame: --box x,y,w,h")
    if command.latest and command.every_frame:
        raise InputError("--latest and --every-frame exclude each other; give one")
    for option, path in (("--save", command.save), ("--save-boxes", command.save_boxes)):
        if path is not None and _same_file(path, command.source):
            raise InputError(f"{option} {path} is the source itself; give another name")
    signals = _StopSignals()
    tally = _Tally(len(boxes))
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
                    tracker = load(command.tracker, weights=command.weights, device=command.device, seed=command.seed)
                    stack.enter_context(_one_thread(tracker))
                    if command.save_densities is not None:
                        _require_densities(tracker)
                    first = next(frames)
                    tracker.init(first.image, boxes=boxes)
                outputs = stack.enter_context(_Outputs(command, frames, tracker))
                outputs.write_first(first, boxes)
                progress = stack.enter_context(_Progress(frames.expected, bar=not outputs.owns_terminal))
                _follow(command, tracker, frames, outputs, signals, tally, progress)
        except _Stopped as stop:
            if outputs is None:
                raise
            tally.stopped = stop.number
        except BaseException:
            if outputs is not None and outputs.written():
                kept = ", ".join(str(p) for p in outputs.written())
                _complain(f"{tally.frames} frames were tracked before this error; kept: {kept}")
            raise
    _summarise(tally, frames, outputs)
    return 128 + tally.stopped if tally.stopped else 0


def _follow(
    command: Track,
    tracker: Tracker[Any],
    frames: FrameSource,
    outputs: _Outputs,
    signals: _StopSignals,
    tally: _Tally,
    progress: _Progress,
) -> None:
    """The loop: read, track, write. A signal ends it between two frames, never in the middle of a write."""
    tally.began = time.monotonic()
    while True:
        try:
            with signals.allowed():
                frame = next(frames, None)
                results = _results(command, tracker, frame, tally) if frame is not None else None
        except _Stopped as stop:
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


def _require_densities(tracker: Tracker[Any]) -> None:
    """The tracker's own error if it predicts no densities; before the first frame it can only be told by its kind."""
    from .trackers.dimp import DiMPTracker

    if not (isinstance(tracker, DiMPTracker) and tracker.net_config.optimiser == "prdimp"):
        tracker.densities()


@contextmanager
def _one_thread(tracker: Tracker[Any]) -> Iterator[None]:
    """One CPU thread for dimp-lite, which is made for it: on a busy machine threads that wait for each other are slower.

    Results then do not depend on the number of cores either. A given ``OMP_NUM_THREADS`` is left as it is.
    """
    import torch

    before = torch.get_num_threads()
    if tracker.name == "dimp-lite" and tracker.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
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


def _summarise(tally: _Tally, frames: FrameSource, outputs: _Outputs) -> None:
    say = _tell if outputs.rows is not None else _say  # standard output may carry the boxes
    seconds = max(time.monotonic() - tally.began, 1e-9)
    if tally.stopped:
        say(f"stopped by {signal.Signals(tally.stopped).name}; the files are finished")
    tracker_rate = f"; tracker alone {1000 * tally.frames / tally.milliseconds:.1f}" if tally.milliseconds else ""
    say(f"{tally.frames} frames tracked, {tally.frames / seconds:.1f} frames/s with reading and writing{tracker_rate}")
    for i, counter in enumerate(tally.statuses):
        shares = ", ".join(f"{s.value} {100 * counter[s.value] / tally.frames:.1f} %" for s in Status)
        say(f"target {i}: {shares}")
    passed_over = [*frames.skipped, *tally.passed_over]
    if passed_over:
        index, reason = min(passed_over)
        say(f"{len(passed_over)} bad frames passed over; the first is frame {index}: {reason}")
    if frames.dropped:
        say(f"{frames.dropped} frames dropped because a newer one had come")
    if frames.ended and not tally.stopped:
        say(f"note: {frames.ended}")
    for path in outputs.written():
        say(f"wrote {path}")


class _Outputs:
    """Everything that is written while tracking; as a context manager it finishes the files."""

    def __init__(self, command: Track, frames: FrameSource, tracker: Tracker[Any]) -> None:
        self._command, self._frames, self._tracker = command, frames, tracker
        self._stack = ExitStack()
        self.video: VideoWriter | None = None
        self.boxes: BoxWriter | None = None
        self.rows: Any = None
        self.densities: Path | None = None
        self.labels = ["target"] if len(command.box) == 1 else None

    @property
    def owns_terminal(self) -> bool:
        """Whether the boxes themselves go to the terminal, so that a progress bar would be in the way."""
        return self.rows is not None and sys.stdout.isatty()

    def __enter__(self) -> _Outputs:
        from .video import BOX_COLUMNS, BoxWriter, VideoWriter

        command = self._command
        with ExitStack() as stack:
            if command.save_densities is not None:
                self.densities = _make_folder(command.save_densities)
            if command.save is not None:
                self.video = stack.enter_context(VideoWriter(command.save, fps=self._frames.fps))
            if command.save_boxes is not None:
                about = {"source": self._frames.name, "size": list(self._frames.size), "fps": self._frames.fps}
                about |= {"tracker": self._tracker.name, "seed": command.seed, "keepsight": __version__}
                self.boxes = stack.enter_context(BoxWriter(command.save_boxes, len(command.box), about))
            if not (command.save or command.save_boxes or command.save_densities):
                self.rows = csv.writer(sys.stdout, lineterminator="\n")
                self.rows.writerow(BOX_COLUMNS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    def write_first(self, frame: Frame, boxes: Sequence[Box]) -> None:
        """The given boxes, in the frame they were given for."""
        for i, box in enumerate(boxes):
            if self.boxes is not None:
                self.boxes.write_init(frame.index, i, box)
            if self.rows is not None:
                self.rows.writerow([frame.index, i, *box, "", 1.0, "given", "given", True, "first frame", ""])
        self._draw(frame, [_given(box) for box in boxes])

    def write(self, frame: Frame, results: Sequence[Result]) -> None:
        """One frame with its results."""
        for i, r in enumerate(results):
            if self.boxes is not None:
                self.boxes.write(frame.index, i, r)
            if self.rows is not None:
                rest = [r.score, r.presence, r.status, r.flag, r.updated, r.update_reason, r.milliseconds]
                self.rows.writerow([frame.index, i, *r.box, *rest])
        if self.rows is not None:
            sys.stdout.flush()
        if self.densities is not None:
            _save_densities(self.densities, frame, self._tracker)
        self._draw(frame, results)

    def _draw(self, frame: Frame, results: Sequence[Result]) -> None:
        if self.video is not None:
            from .draw import draw_results

            self.video.write(draw_results(frame.image, results, labels=self.labels))

    def written(self) -> list[Path]:
        """Files and folders that hold results; right after closing too."""
        paths = [self.video.file] if self.video is not None and self.video.frames else []
        paths += list(self.boxes.paths) if self.boxes is not None else []
        return paths + ([self.densities] if self.densities is not None else [])


def _given(box: Box) -> Result:
    """The first frame's box as a result, for drawing."""
    return Result(box, box, 1.0, 1.0, Status.FOUND, "given", True, "first frame", 0.0)


def _make_folder(path: str) -> Path:
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

    from .draw import density_panels

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


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM, where it does no harm."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _StopSignals:
    """SIGINT and SIGTERM raise :class:`_Stopped` inside ``allowed()``; elsewhere they are noted, so no write is cut."""

    def __init__(self) -> None:
        self.received = 0
        self._allowed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        if self._allowed:
            self._allowed = False  # once: clean-up must not be stopped by a second one
            raise _Stopped(number)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Here a signal may interrupt."""
        if self.received:
            raise _Stopped(self.received)
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False


class _Progress:
    """Frames, frames per second and status: a bar on a terminal, else a line now and then; on standard error."""

    def __init__(self, total: int | None, *, bar: bool = True) -> None:
        self._console = Console(stderr=True)
        self._total = None if total is None else max(0, total - 1)  # the first frame is given, not tracked
        self._show_bar = bar and self._console.is_terminal
        self._quiet = not bar
        self._bar: Any = None
        self._done = 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> _Progress:
        if self._show_bar:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
            # Standard output stays as it is: it may be a pipe that carries the boxes.
            self._bar = Progress(*columns, console=self._console, transient=True, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, results: Sequence[Result]) -> None:
        """One more frame."""
        self._done += 1
        now = time.monotonic()
        rate = self._done / max(now - self._began, 1e-9)
        seen = "  ".join(f"{r.status} {r.presence:.2f}" for r in results[:4])
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{rate:.1f} frames/s  {seen}")
        elif not self._quiet and now - self._told >= NEWS_SECONDS:
            of = "" if self._total is None else f" of {self._total}"
            _tell(f"{self._done}{of} frames, {rate:.1f} frames/s, {seen}")
            self._told = now


# ---------------------------------------------------------------------------------------------------------------- demo


def _demo(command: Demo) -> int:
    from .datasets.synthetic import render_clip
    from .draw import draw_results
    from .evaluation.metrics import mean_iou, success_auc
    from .trackers.registry import load
    from .video import BoxWriter, VideoWriter

    if command.frames < 2:
        raise InputError(f"--frames is {command.frames}; give at least 2, the first one shows the target")
    tracker = load(command.tracker)
    clip = render_clip(frames=command.frames)
    folder = _make_folder(command.out)
    width, height = clip.size
    _tell(f"rendering and tracking {len(clip)} frames of {width}×{height} with {tracker.name} ...")
    tracked, milliseconds = [], 0.0
    with (
        _one_thread(tracker),
        VideoWriter(folder / "clip.mp4", clip.fps) as plain,
        VideoWriter(folder / "tracked.mp4", clip.fps) as video,
        BoxWriter(folder / "boxes.csv") as boxes,
        _Progress(len(clip)) as progress,
    ):
        for frame in clip:
            plain.write(frame.image)
            if frame.index == 0:
                tracker.init(frame.image, frame.box)
                result = _given(frame.box)
                boxes.write_init(0, 0, frame.box)
            else:
                result = tracker.update(frame.image)
                boxes.write(frame.index, 0, result)
                progress.advance([result])
            milliseconds += result.milliseconds
            tracked.append(result.box)
            video.write(draw_results(frame.image, [result], labels=["target"], truths=[frame.box]))
    truth = folder / "truth.txt"
    _write_text(truth, "".join(f"{x:g},{y:g},{w:g},{h:g}\n" for x, y, w, h in clip.boxes))
    auc, overlap = (measure(tracked[1:], clip.boxes[1:]) for measure in (success_auc, mean_iou))
    rate = 1000 * (len(clip) - 1) / milliseconds
    _say(f"success AUC {auc:.3f}, mean overlap {overlap:.3f} over {len(clip) - 1} frames (exact ground truth)")
    _say(f"{rate:.1f} frames/s on {tracker.device} (tracker alone: without rendering and writing)")
    _say(f"{video.path}   tracked box in colour, ground truth in white")
    _say(f"{boxes.path}   one row per frame")
    _say(f"{truth}   ground truth, x,y,w,h")
    _say(f"{plain.path}   the clip itself; the same by hand:")
    x, y, w, h = clip.boxes[0]
    _say(f"  keepsight track {plain.path} --box {x:g},{y:g},{w:g},{h:g} --save out.mp4")
    return 0


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VideoError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None


# ------------------------------------------------------------------------------------------------------------- weights


def _weights_list() -> int:
    from .weights import list_weights, weights_folder

    statuses = list_weights()
    width = max(len(s.name) for s in statuses)
    for status in statuses:
        size = "" if status.size is None else f"{status.size / 1e6:.1f} MB"
        place = "in the package" if status.packaged and status.found else str(status.path)
        _say(f"{status.name:<{width}}  {'here' if status.found else 'absent':<6}  {size:>9}  {place}")
    _say(f"Weights that are absent must lie in {weights_folder()}; loading such a tracker says where they come from.")
    return 0


def _weights_info(file: str) -> int:
    from .weights import describe

    info = describe(file)
    _say(f"file          {info.path}")
    _say(f"format        {info.format}")
    _say(f"architecture  {info.architecture or 'none that keepsight knows'}")
    _say(f"tensors       {info.tensors} ({info.parameters:,} parameters)")
    if info.header is not None:
        for name, value in vars(info.header).items():
            if value not in ("", {}):
                _say(f"{name:<13} {value}")
    if info.net_type is not None:
        _say(f"net type      {info.net_type}")
    if info.epoch is not None:
        _say(f"epoch         {info.epoch}")
    if info.constructor is not None:
        _say(f"constructor   {info.constructor.fun_module}.{info.constructor.fun_name}")
        for name, value in info.constructor.kwds.items():
            _say(f"  {name} = {value!r}")
    for name, what in info.other.items():
        _say(f"not read      {name}: {what}")
    for name, count in info.non_finite.items():
        _say(f"damaged       {name}: {count} values are NaN or infinite")
    return 0


def _weights_convert(command: WeightsConvert) -> int:
    from .trackers.registry import dimp_header
    from .weights import convert

    header = convert(command.file, command.out, validate=dimp_header(command.name), name=command.name)
    _say(f"wrote {command.out}: {header.preset}, from {header.source_file} (SHA-256 {header.source_sha256})")
    return 0


# ----------------------------------------------------------------------------------------------------------------- env


def _env() -> int:
    for name, look in _FACTS.items():
        try:
            value = look()
        except Exception as error:  # a broken part is what the report is for
            value = f"cannot be told: {type(error).__name__}: {error}"
        _say(f"{name:<12} {value}")
    return 0


def _python() -> str:
    return f"{sys.version.split()[0]} ({sys.executable})"


def _platform() -> str:
    import platform

    return f"{platform.platform()}, {_cpu()}, {os.cpu_count()} cores"


def _cpu() -> str:
    import platform

    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "not available" if torch.version.cuda is None else f"built for {torch.version.cuda}, no device"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, {names}"


def _mps() -> str:
    import torch

    return "available" if torch.backends.mps.is_available() else "not available"


def _version_of(module: str) -> str:
    import importlib

    return str(importlib.import_module(module).__version__)


def _package_version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


def _av() -> str:
    import av

    libraries = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in sorted(av.library_versions.items()))
    return f"{av.__version__} ({libraries})"


def _threads() -> str:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
    return ", ".join(f"{n}={os.environ[n]}" for n in names if n in os.environ) or "no variables set"


def _weights() -> str:
    from .weights import list_weights, weights_folder

    here = [s.name for s in list_weights() if s.found]
    return f"{', '.join(here) or 'none'} (folder {weights_folder()})"


_FACTS: dict[str, Callable[[], str]] = {
    "keepsight": lambda: f"{__version__} ({Path(__file__).parent})",
    "python": _python,
    "platform": _platform,
    "torch": _torch,
    "CUDA": _cuda,
    "MPS": _mps,
    "threads": _threads,
    "numpy": lambda: _version_of("numpy"),
    "opencv": lambda: _version_of("cv2"),
    "av": _av,
    "safetensors": lambda: _package_version("safetensors"),
    "tyro": lambda: _package_version("tyro"),
    "rich": lambda: _package_version("rich"),
    "weights": _weights,
}


# ------------------------------------------------------------------------------------------------------------ printing


def _say(text: str) -> None:
    """A line on standard output: what was asked for."""
    Console(markup=False, highlight=False, soft_wrap=True).print(text)


def _tell(text: str) -> None:
    """A line on standard error: what happens meanwhile."""
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(text)


def _complain(text: str) -> None:
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(text, style="red")


def _complain_with_traceback() -> None:
    import traceback

    _tell(traceback.format_exc().rstrip())
