"""The command ``keepsight``: parse, call, print.

Exit status: 0 well; 1 something unexpected (a traceback is shown); 2 what the user can mend (the message says how;
``KEEPSIGHT_DEBUG=1`` shows the traceback too); 130 and 143 stopped by Ctrl-C and SIGTERM, with every file finished.
"""

from __future__ import annotations

import errno
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

    keepsight track clip.mp4 --mask first.png --tracker rts-lite --save-masks masks/

    Without a --save.. option the boxes go to standard output as CSV. Ctrl-C finishes the files.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Video file, folder or quoted glob of images, camera index (0), RTSP or HTTP address."""
    box: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="X,Y,W,H")] = ()
    """The object in the first frame: top-left corner, width, height in pixels. Repeat it for more objects."""
    mask: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE")] = ()
    """Picture of the object in the first frame, or of several: an indexed PNG with their numbers. Repeat it for more pictures;
    objects given by boxes come first. Trackers of boxes take the box around a mask."""
    tracker: Annotated[str, arg(metavar="NAME")] = "dimp-lite"
    """Tracker, or a weights file that says which tracker it is for."""
    weights: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE")] = ()
    """Weights file instead of the tracker's own; 'random' for seeded random numbers (tests, speed). Repeat it for a tracker with
    two networks, such as KeepTrack's; a file that is not given is looked for beside the other one, then in the usual places."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    start: Annotated[int, arg(metavar="N")] = 0
    """First frame, counted from 0; the boxes belong to it."""
    end: Annotated[int | None, arg(metavar="M")] = None
    """Frame after the last one; default: the end."""
    save: Annotated[str | None, arg(metavar="FILE")] = None
    """Video with the boxes drawn: .mp4 .mov .mkv .avi .webm, or a folder of images (end it with /)."""
    candidates: bool = False
    """Draw a KeepTrack tracker's candidates on the video too: a numbered ring around each, a colour for each identity."""
    save_boxes: Annotated[str | None, arg(metavar="FILE")] = None
    """Boxes: .csv (all fields), .json (all fields, and a KeepTrack tracker's candidates), .txt (x,y,w,h; with several objects one
    file each)."""
    save_masks: Annotated[str | None, arg(metavar="PATH")] = None
    """Masks, from trackers that make them: a folder for one indexed PNG per frame, or a .json file of COCO run lengths."""
    save_densities: Annotated[str | None, arg(metavar="DIR")] = None
    """Predicted densities of PrDiMP trackers, for each frame one .npz and one picture."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of every random draw; same input and seed, same boxes."""
    calibration: Annotated[str | None, arg(metavar="FILE")] = None
    """Adds presence_probability to the rows: a file of `keepsight calibrate`, or 'default' for the one keepsight comes with."""
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
class DataList:
    """Which data sets keepsight reads, which are on this machine, and where the others can be obtained."""

    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder that holds data sets; default: what the environment or the settings file names."""

    def run(self) -> int:
        from .data import list_them

        return list_them(self.data_root)


@dataclass(frozen=True)
class DataCheck:
    """Look for everything that is wrong with a copy of a data set: missing files, lines that do not fit, damage.

    keepsight data check otb100 --data-root /data/OTB100

    Exit status 0 if it is complete, 2 if not.
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Data set, e.g. otb100, got10k:test, nfs30+uav123 (`keepsight data list` has the names), or a folder of your own."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Its folder, or the folder that holds it; default: what the environment or the settings file names."""
    frames: bool = False
    """Decode every picture, not only each sequence's first and last."""

    def run(self) -> int:
        from .data import check_one

        return check_one(self)


@dataclass(frozen=True)
class Data:
    """Data sets: list them, check a copy.

    keepsight data list
    """

    action: Annotated[DataList, subcommand("list")] | Annotated[DataCheck, subcommand("check")]

    def run(self) -> int:
        return self.action.run()


@dataclass(frozen=True)
class Masks:
    """Make masks of a data set's boxes: annotations that RTS is trained on. Needs the weights sta.

    keepsight masks got10k:vot_train --data-root /data --out /data/got10k_masks

    keepsight masks lasot:train --data-root /data --out /data/lasot_masks

    One grey PNG (0 and 1) for each frame, OUT/SEQUENCE/00000001.png, and on; none where the target is absent. Stopped, or
    killed? The same command goes on.
    """

    sequences: Annotated[Positional[str], arg(metavar="SEQUENCES")]
    """Data set, for training or evaluation (`keepsight data list`), or a folder of your own sequences."""
    out: Annotated[str, arg(metavar="DIR")]
    """Folder to write; made if absent."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """Weights of the network, or 'random' (tests); default: those called sta."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set, or the folder that holds it."""
    only: Annotated[str, arg(metavar="GLOB")] = "*"
    """Only the sequences whose names match, e.g. 'car*'."""
    step: Annotated[int | None, arg(metavar="N")] = None
    """Every N-th frame; default: 5 for LaSOT, as RTS is trained, else 1."""
    most: Annotated[int | None, arg(metavar="N")] = None
    """Of the first N frames; default: 1000 for LaSOT, else all."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    overwrite: bool = False
    """Make masks again that are there; needed where those were made with other weights."""
    quiet: bool = False
    """No progress."""

    def run(self) -> int:
        from .masks import masks

        return masks(self)


@dataclass(frozen=True)
class Eval:
    """Track whole data sets and score them as their official toolkits do.

    keepsight eval dimp-lite otb100 uav123 --processes 8

    keepsight eval dimp-lite,opencv:MIL my-videos/ --rule present

    A run that was stopped, or killed, goes on when the same command is given again.
    """

    tracker: Annotated[Positional[str], arg(metavar="TRACKER[,TRACKER..]")]
    """Ours (`dimp-lite`, `superdimp`, `dimp18@FILE`, `dimp18@random`), OpenCV's (`opencv:CSRT` KCF MIL, `opencv:Nano@FOLDER`),
    or a class with got10k's init and update (`python:package.module:Class`, `file.py:Class`). NAME=TRACKER renames one."""
    datasets: Annotated[Positional[tuple[str, ...]], arg(metavar="DATASET [DATASET ..]")]
    """Data sets by name (`keepsight data list`), with a split (`got10k:val`), or a folder of your own sequences."""
    results: Annotated[str, arg(metavar="DIR")] = "results"
    """Where results are kept, and looked for before anything is tracked."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set, or the folder that holds it."""
    protocol: Annotated[str | None, arg(metavar="P")] = None
    """ope, longterm, supervised, multistart or vos; default: the data set's own."""
    rule: Annotated[str | None, arg(metavar="R")] = None
    """Scoring convention, e.g. pytracking, otb, lasot, got10k, present; default: the data set's own."""
    repetitions: Annotated[int | None, arg(metavar="N")] = None
    """Runs of each sequence; default: the protocol's (VOT 15, GOT-10k 3, else 1). Deterministic trackers run once."""
    only: Annotated[str, arg(metavar="GLOB")] = "*"
    """Only the sequences whose names match, e.g. 'car*'."""
    frames: Annotated[int | None, arg(metavar="N")] = None
    """Only the first N frames of each sequence."""
    processes: Annotated[int | None, arg(metavar="N")] = None
    """Trackers that run at once; default: one per GPU, or one per core."""
    devices: Annotated[str, arg(metavar="D[,D..]")] = "auto"
    """auto (all GPUs, or the CPU), cpu, cuda:0,cuda:1; processes get them in turn."""
    executor: Annotated[str, arg(metavar="E")] = "processes"
    """processes, serial, ray[:ADDRESS], dask[:ADDRESS]."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of every random draw; each sequence and repetition has its own, derived from it."""
    python: Annotated[str | None, arg(metavar="FILE")] = None
    """Interpreter of another environment for trackers that are not ours, such as one with OpenCV's contrib build."""
    overwrite: bool = False
    """Track again what has results; needed where those were made with other settings."""
    stop: bool = False
    """Stop at the first sequence that cannot be tracked, instead of going on with the others."""
    export: Annotated[str | None, arg(metavar="FORMAT")] = None
    """Write the results in an official format too, below DIR/export."""
    no_score: bool = False
    """Only track."""
    quiet: bool = False
    """No progress."""

    def run(self) -> int:
        from .eval import evaluate

        return evaluate(self)


@dataclass(frozen=True)
class Report:
    """Score results that are there and write tables, plots and one self-contained HTML page.

    keepsight report results --data otb100 uav123 --out report

    keepsight report --data otb100 --others SiamFC=siamfc.zip --compare dimp-lite SiamFC

    Nothing is tracked. Scores of our own come from `keepsight eval`. Plots and the page need `pip install 'keepsight[report]'`.
    """

    results: Annotated[Positional[str], arg(metavar="RESULTS")] = "results"
    """Where `keepsight eval` kept its results."""
    data: Annotated[tuple[str, ...], arg(metavar="NAME..")] = ()
    """Data sets (`keepsight data list`), or folders of your own sequences."""
    trackers: Annotated[tuple[str, ...], arg(metavar="NAME..")] = ()
    """Only these; default: all that have results."""
    others: Annotated[tuple[str, ...], arg(metavar="PATH..")] = ()
    """Results of other toolkits (pytracking, pysot, got10k, LaSOT, OTB, VOT): folders or zip files; NAME=PATH names one."""
    only: Annotated[str, arg(metavar="GLOB")] = "*"
    """Only the sequences whose names match, e.g. 'car*'."""
    rule: Annotated[str | None, arg(metavar="R")] = None
    """Scoring convention, e.g. pytracking, otb, lasot, got10k, present; default: the data set's own."""
    compare: Annotated[tuple[str, ...], arg(metavar="TRACKER..")] = ()
    """Two or more trackers: each pair is compared on the sequences of both (bootstrap, permutation test)."""
    out: Annotated[str, arg(metavar="DIR")] = "report"
    """Folder to write; made if absent."""
    formats: Annotated[tuple[str, ...], arg(metavar="F..")] = ("html", "csv", "latex", "pdf", "png")
    """Any of html, csv, latex, txt, pdf, png, svg."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set, or the folder that holds it."""
    title: Annotated[str, arg(metavar="TEXT")] = ""
    """Of the page."""
    strips: Annotated[int, arg(metavar="N")] = 3
    """Worst sequences of each tracker whose frames the page shows; 0: none, and no frames are read."""
    no_published: bool = False
    """Leave out the numbers of papers, which stand beside ours otherwise."""
    no_attributes: bool = False
    """Leave out the scores per attribute."""
    date: Annotated[str, arg(metavar="TEXT")] = ""
    """Date on the page instead of today's; with it the same results give the same page."""

    def run(self) -> int:
        from .report import report

        return report(self)


@dataclass(frozen=True)
class Calibrate:
    """Fit a calibration, which makes a probability of a tracker's presence, to results that are there, and judge it.

    keepsight calibrate dimp-lite --data tld --results results --out calibration

    Nothing is tracked. At least two sequences must have frames in which the target is absent; each is held out in turn. Use the
    file with `keepsight track --calibration calibration/calibration.json`. Plots need `pip install 'keepsight[report]'`.
    """

    tracker: Annotated[Positional[str], arg(metavar="TRACKER")]
    """Whose results: its name in them."""
    data: Annotated[tuple[str, ...], arg(metavar="NAME..")] = ()
    """Data sets (`keepsight data list`), or folders of your own sequences."""
    results: Annotated[str, arg(metavar="DIR")] = "results"
    """Where `keepsight eval` kept its results."""
    out: Annotated[str, arg(metavar="DIR")] = "calibration"
    """Folder to write; made if absent."""
    event: Annotated[str, arg(metavar="E")] = "in-view"
    """What the probability is of: in-view (the target, wherever the box is) or on-target (and the box overlaps it by half)."""
    method: Annotated[str, arg(metavar="M")] = "auto"
    """isotonic, logistic, or auto: which does better on sequences held out."""
    share: Annotated[float | None, arg(metavar="P")] = None
    """Share of frames with the event in the videos it is for, such as 0.95; default: as in the sequences fitted to."""
    folds: Annotated[int | None, arg(metavar="N")] = None
    """Sequences are held out in N groups; default: one by one, in 20 groups if they are more."""
    only: Annotated[str, arg(metavar="GLOB")] = "*"
    """Only the sequences whose names match, e.g. 'car*'."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set, or the folder that holds it."""
    formats: Annotated[tuple[str, ...], arg(metavar="F..")] = ("pdf", "png")
    """Of the plots, any of pdf, png, svg."""

    def run(self) -> int:
        from .calibrate import calibrate

        return calibrate(self)


@dataclass(frozen=True)
class Train:
    """Train a tracker by one of the published recipes, or a change of one.

    keepsight train dimp18 --debug

    keepsight train dimp18 --data-root /data --set data.batch_size=16 --amp bf16

    torchrun --standalone --nproc-per-node 2 -m keepsight train dimp50 --data-root /data

    keepsight train keeptrack --stage candidates --tracker dimp-lite --data got10k:train --out candidates.json

    keepsight train keeptrack --set data.candidates=candidates.json

    Ctrl-C and SIGTERM finish the step and write a checkpoint; the same command with --resume goes on exactly there.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")]
    """Its name; `keepsight train list` has the names."""
    debug: bool = False
    """The recipe's small variant: made-up video, a narrow network, two minutes on a CPU."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder that holds the data sets; default: what the environment or the settings file names."""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of checkpoints, logs and the trained network; default: runs/RECIPE."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Change a value of the recipe, e.g. optim.lr=1e-3; --show has the names. Repeat it for more."""
    stage: Annotated[str, arg(metavar="STAGE")] = "network"
    """network, or, before it, candidates (KeepTrack's recipes): a base tracker follows the targets of data sets, and --out, a
    .json file, keeps what its score maps showed. The same command goes on where it was stopped."""
    tracker: Annotated[str | None, arg(metavar="NAME")] = None
    """Stage candidates: the base tracker; default: the recipe's."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """Stage candidates: weights of the base tracker instead of its own."""
    data: Annotated[tuple[str, ...], arg(metavar="NAME..")] = ()
    """Stage candidates: data sets to track, for training or evaluation, or lookalikes:procedural; default: the recipe's."""
    sequences: Annotated[int | None, arg(metavar="N")] = None
    """Stage candidates: only the first N sequences of each data set."""
    show: bool = False
    """Only print the recipe with every value."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, if there is one."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    amp: Annotated[str, arg(metavar="TYPE")] = "none"
    """Autocast: none, bf16 or fp16."""
    accumulate: Annotated[int, arg(metavar="N")] = 1
    """Cut each batch into N parts, for less memory."""
    workers: Annotated[int, arg(metavar="N")] = 2
    """Processes that read and cut out the images, for each GPU; 0: none."""
    steps: Annotated[int | None, arg(metavar="N")] = None
    """Stop after N steps; default: all epochs of the recipe."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Of samples and fresh weights."""
    checkpoint_minutes: Annotated[float, arg(metavar="M")] = 10.0
    """Between two checkpoints inside an epoch; there is one at every epoch's end."""
    keep_epochs: bool = False
    """Keep the checkpoint of every epoch, not only the newest two."""
    log_every: Annotated[int, arg(metavar="N")] = 10
    """Steps between two lines of the log."""
    quiet: bool = False
    """No progress."""

    def run(self) -> int:
        from .train import train

        return train(self)


@dataclass(frozen=True)
class ExperimentList:
    """Which experiments there are."""

    def run(self) -> int:
        from .experiment import list_them

        return list_them()


@dataclass(frozen=True)
class AtomConvergence:
    """ATOM's first frame: loss against the number of BackProp calls, conjugate gradients beside gradient descent.

    keepsight experiment atom-convergence --data my-videos/ --out convergence

    Supplement of the ATOM paper, Figure S3. Writes every curve and the means as CSV, a summary as JSON, and a plot, which needs
    `pip install 'keepsight[report]'`. Gradient descent has the step length that serves it best.
    """

    data: Annotated[str, arg(metavar="DATASET")]
    """Data set (`keepsight data list`), or a folder of your own sequences; only first frames are used."""
    out: Annotated[str, arg(metavar="DIR")] = "atom-convergence"
    """Folder to write; made if absent."""
    tracker: Annotated[str, arg(metavar="NAME")] = "atom-lite"
    """One of ATOM's."""
    weights: Annotated[str | None, arg(metavar="FILE")] = None
    """Weights file instead of the tracker's own; 'random' for seeded random numbers."""
    seeds: Annotated[int, arg(metavar="N")] = 5
    """Runs of each sequence, with seeds 0, 1, ..; under a minute each on one core."""
    only: Annotated[str, arg(metavar="GLOB")] = "*"
    """Only the sequences whose names match, e.g. 'otb/*'."""
    calls: Annotated[int, arg(metavar="N")] = 630
    """BackProp calls of each method; the tracker makes 126."""
    formats: Annotated[tuple[str, ...], arg(metavar="F..")] = ("png", "pdf")
    """Of the plot: any of png, pdf, svg."""
    data_root: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of the data set, or the folder that holds it."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """No progress."""

    def run(self) -> int:
        from .experiment import atom_convergence

        return atom_convergence(self)


@dataclass(frozen=True)
class LookAlikes:
    """KeepTrack's association beside its base tracker, on synthetic videos in which look-alikes cross the target.

    keepsight experiment look-alikes --out look-alikes

    Nothing is needed but the weights. Writes one row per video and tracker as CSV, and means, intervals and differences as JSON.
    Matching by position and by score rank in the network's place shows what the network adds.
    """

    out: Annotated[str, arg(metavar="DIR")] = "look-alikes"
    """Folder to write; made if absent."""
    matcher: Annotated[str | None, arg(metavar="FILE")] = None
    """Association network instead of keeptrack-lite's own; 'random' for one that is not trained."""
    seeds: Annotated[int, arg(metavar="N")] = 5
    """Seeds 0, 1, .., each with videos of its own; under two minutes each on one core."""
    videos: Annotated[int, arg(metavar="N")] = 4
    """Videos of each seed."""
    frames: Annotated[int, arg(metavar="N")] = 150
    """Frames of each video."""
    gap: Annotated[tuple[float, float], arg(metavar="LOW HIGH")] = (0.8, 1.5)
    """How near look-alikes come to the target: least distance of the centres, in sides of the object, drawn between these."""
    device: Annotated[str, arg(metavar="D")] = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    quiet: bool = False
    """No progress."""

    def run(self) -> int:
        from .experiment import look_alikes

        return look_alikes(self)


@dataclass(frozen=True)
class Experiment:
    """Experiments of the papers, repeated.

    keepsight experiment list
    """

    action: (
        Annotated[ExperimentList, subcommand("list")]
        | Annotated[AtomConvergence, subcommand("atom-convergence")]
        | Annotated[LookAlikes, subcommand("look-alikes")]
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
    | Annotated[Data, subcommand("data")]
    | Annotated[Masks, subcommand("masks")]
    | Annotated[Eval, subcommand("eval")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Calibrate, subcommand("calibrate")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Experiment, subcommand("experiment")]
    | Annotated[Env, subcommand("env")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (see the head of this file)."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given == ["--version"]:
            say(f"keepsight {__version__}")
            return 0
        command = _parse(given or ["--help"])
        status: int = command if isinstance(command, int) else command.run()
        sys.stdout.flush()  # what cannot be written is to be known here, not at exit
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
        _drop_output()
        return 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            return _unexpected()
        if error.filename is None:
            _drop_output()
        complain(f"error: {error.filename or 'the output'} cannot be written: {error.strerror}; free some space")
        return 2
    except Exception:
        return _unexpected()


def _parse(given: list[str]) -> Any:
    """The command; the exit status instead if there is none: --help, or arguments that do not fit."""
    try:
        return tyro.cli(
            Command,
            prog="keepsight",
            description="Keep sight of an object in a video. `keepsight demo` shows it; --version tells the version.",
            args=given,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2


def _drop_output() -> None:
    """What is still to be written would raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected() -> int:
    complain_with_traceback()
    complain("this should not have happened; please report it with the lines above and the output of `keepsight env`")
    return 1
