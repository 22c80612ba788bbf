"""The command ``keepsight``: parse, call, print.

Exit status: 0 well; 1 something unexpected (a traceback is shown); 2 what the user can mend (the message says how;
``KEEPSIGHT_DEBUG=1`` shows the traceback too); 130 and 143 stopped by Ctrl-C and SIGTERM, with every file finished.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from .. import __version__
from ..errors import KeepsightError
from .console import complain, complain_with_traceback, say
from .signals import Stopped

DEBUG_VARIABLE = "KEEPSIGHT_DEBUG"


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
        from .track import track

        return track(self)


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
        from .demo import demo

        return demo(self)


@dataclass(frozen=True)
class WeightsList:
    """Which weights are at hand, and where the others must lie."""

    def run(self) -> int:
        from .weights import list_them

        return list_them()


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file holds. Nothing in the file is executed."""

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """A published checkpoint or a .safetensors file."""

    def run(self) -> int:
        from .weights import info

        return info(self.file)


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
        from .weights import convert_one

        return convert_one(self)


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
        from .env import env

        return env()


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
        say(f"keepsight {__version__}")
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
            complain_with_traceback()
        complain(f"error: {error}")
        return 2
    except (Stopped, KeyboardInterrupt) as error:
        complain("stopped before the first frame was tracked" if isinstance(error, Stopped) else "stopped")
        return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)
    except BrokenPipeError:  # `keepsight ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except Exception:
        complain_with_traceback()
        complain(
            "this should not have happened; please report it with the lines above and the output of `keepsight env`"
        )
        return 1
