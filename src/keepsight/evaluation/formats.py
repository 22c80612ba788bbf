"""Official result formats: what the benchmarks' servers and toolkits take.

Example::

    export("got10k", dataset, runs, "mine.zip")                       # ready for the GOT-10k server
    export("pytracking", dataset, runs, "tracking_results", tracker="mine")

``out`` ending in ``.zip`` makes a zip file with the same content a folder would have; the same runs give the same bytes.
What is written appears complete or not at all. :mod:`.foreign` reads all of it back.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..datasets.masks import save_indexed_png
from ..datasets.sequence import Sequence
from ..errors import InputError, VideoError, nearest_names
from ..text import write_atomically, write_rows
from .common import listed
from .foreign import frame_names
from .oxuva import file_scale
from .runs import Run
from .vot_files import run_regions, write_vot_results

Array = npt.NDArray[np.float64]

GOT10K_REPETITIONS = 3
"""As many as the GOT-10k server takes."""


@dataclass(frozen=True, eq=False)
class Export:
    """What :func:`export` wrote."""

    path: Path
    """Folder or zip file."""
    sequences: int
    notes: tuple[str, ...] = ()
    """Sequences left out, frames without a box."""


@dataclass(frozen=True, eq=False)
class _Job:
    """What a writer needs."""

    runs: Mapping[str, list[Run]]
    sequences: tuple[Sequence, ...]
    """Those with a result, in the data set's order."""
    tracker: str
    param: str
    repetition: int
    experiment: str
    notes: list[str]

    def chosen(self) -> Iterator[tuple[Sequence, Run]]:
        """Sequences with the one run that formats without repetitions take."""
        return ((s, self.runs[s.name][self.repetition]) for s in self.sequences)


@dataclass(frozen=True)
class _Format:
    write: Callable[[Path, _Job], None]
    """Writes the files below an empty folder."""
    masks: bool = False
    """Takes the runs' masks, not their boxes."""
    rows: bool = True
    """Every run has one row per frame (VOT's runs from anchors have not)."""


def format_names() -> tuple[str, ...]:
    """Formats that :func:`export` writes."""
    return tuple(_FORMATS)


def export(
    format_name: str,
    dataset: Mapping[str, Sequence],
    runs: Mapping[str, list[Run]],
    out: str | Path,
    *,
    tracker: str = "keepsight",
    param: str = "default",
    repetition: int = 0,
    experiment: str = "baseline",
    allow_missing: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write runs in an official format.

    Args:
        format_name: ``got10k``, ``trackingnet``, ``lasot``, ``otb``, ``pytracking``, ``vot``, ``oxuva``, ``davis``,
            ``youtubevos``.
        dataset: all sequences of the submission.
        runs: sequence name -> repetitions.
        out: folder, or ``.zip`` file.
        tracker: name in folders' names (``lasot``, ``pytracking``, ``vot``).
        param: pytracking's name of the settings.
        repetition: which run, for formats that hold one (all but ``got10k``, ``pytracking``, ``vot``).
        experiment: VOT's folder, e.g. ``baseline`` or ``longterm``.
        allow_missing: write what there is; else missing or incomplete sequences are an error.
        overwrite: replace an existing zip, or files in an existing folder; else that is an error.

    Frames without a box: ``nan`` for ``lasot`` and ``otb``, 0,0,0,0 for ``got10k``, ``trackingnet`` and ``pytracking``,
    whose readers accept no nan (pytracking takes the box before); code 0 for ``vot``, no line for ``oxuva``.

    Raises :class:`InputError` if sequences are missing or do not fit their frames (names them), and
    :class:`VideoError` if the files cannot be written, for example because the disk is full; nothing is left then.
    """
    if format_name not in _FORMATS:
        raise InputError(f"there is no result format {format_name!r}; {nearest_names(format_name, _FORMATS)}")
    kind, out = _FORMATS[format_name], Path(out).expanduser()
    for what, name in (("tracker", tracker), ("param", param), ("experiment", experiment)):
        if not name or set(name) & set('/\\:*?"<>|') or name in (".", ".."):
            raise InputError(f"{what}={name!r} cannot be the name of a folder; give letters, digits, - and _")
    if not overwrite and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise InputError(f"{out} exists already; give another name, or overwrite=True to replace what it holds")
    notes: list[str] = []
    sequences = _complete(kind, format_name, dataset, runs, repetition, allow_missing, notes)
    job = _Job(runs, sequences, tracker, param, repetition, experiment, notes)
    try:
        with _workspace(out) as folder:
            kind.write(folder, job)
            _publish(folder, out, notes)
    except VideoError as error:
        raise VideoError(
            f"{format_name} results were not written to {out}: {error}; free some space or give another place"
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).rstrip(".").lower()
        raise VideoError(
            f"{format_name} results were not written to {out}: {why}; free some space or give another place"
        ) from None
    return Export(out, len(sequences), tuple(dict.fromkeys(notes)))


# --- completeness ---------------------------------------------------------------------------------------------------------


def _complete(
    kind: _Format,
    format_name: str,
    dataset: Mapping[str, Sequence],
    runs: Mapping[str, list[Run]],
    repetition: int,
    allow_missing: bool,
    notes: list[str],
) -> tuple[Sequence, ...]:
    """Sequences that can be written; the others are an error, or a note."""
    good, bad = [], []
    for name, sequence in dataset.items():
        why = _incomplete(kind, sequence, runs.get(name) or [], repetition)
        if why:
            bad.append(f"{name} ({why})")
        else:
            good.append(sequence)
    strange = sorted(set(runs) - set(dataset))
    if strange:
        notes.append(f"runs of sequences that the data set does not have were not written: {listed(strange)}")
    if bad and not allow_missing:
        raise InputError(
            f"{len(bad)} of {len(dataset)} sequences are missing or incomplete, so this is no full {format_name} submission: "
            f"{listed(bad)}; run them, or allow_missing=True to write the others"
        )
    if bad:
        notes.append(f"left out: {listed(bad)}")
    if not good:
        raise InputError(
            f"there is nothing to write: no run fits a sequence of the data set ({listed(list(dataset), 3)})"
        )
    return tuple(good)


def _incomplete(kind: _Format, sequence: Sequence, own: list[Run], repetition: int) -> str:
    """What is wrong with a sequence's runs; empty if nothing."""
    if len(own) <= repetition:
        return "no result" if not own else f"no repetition {repetition}"
    n = len(sequence)
    for run in own if kind.rows else ():
        if kind.masks:
            if run.masks is None:
                return "no masks"
            missing = sum(run.masks[i] is None for i in _needed(sequence) if i < len(run.masks))
            if missing or len(run.masks) < n:
                return f"{missing + max(n - len(run.masks), 0)} masks missing"
        elif len(run.boxes) != n:
            return f"{len(run.boxes)} rows for {n} frames"
    return ""


def _needed(sequence: Sequence) -> list[int]:
    """Frames whose masks a submission holds and a tracker must give: the first frame's is given."""
    scored = sequence.annotation.tags.get("scored")  # YouTube-VOS with all frames: results count at some
    chosen = np.ones(len(sequence), bool) if scored is None else scored
    return [i for i in np.flatnonzero(chosen).tolist() if i]


# --- one function per format ----------------------------------------------------------------------------------------------


def _write_got10k(folder: Path, job: _Job) -> None:
    """``<seq>/<seq>_001.txt``, ..., ``<seq>/<seq>_time.txt`` with a column per repetition."""
    for sequence in job.sequences:
        own = job.runs[sequence.name]
        if len(own) > GOT10K_REPETITIONS:
            raise InputError(
                f"{sequence.name} has {len(own)} runs; GOT-10k takes at most {GOT10K_REPETITIONS} repetitions: leave some out"
            )
        place = folder / sequence.name
        for k, run in enumerate(own, 1):
            write_rows(place / f"{sequence.name}_{k:03d}.txt", _zeros_for_nan(run.boxes, sequence, job), "%.3f")
        if all(run.seconds is not None for run in own):
            seconds = np.stack([_seconds(run) for run in own], axis=1)  # (N, repetitions)
            write_rows(place / f"{sequence.name}_time.txt", seconds, "%.8f")
        else:
            job.notes.append("times were not recorded for all runs; those sequences have no _time.txt")


def _write_trackingnet(folder: Path, job: _Job) -> None:
    for sequence, run in job.chosen():
        write_rows(folder / f"{sequence.name}.txt", _zeros_for_nan(run.boxes, sequence, job), "%.2f")


def _write_lasot(folder: Path, job: _Job) -> None:
    for sequence, run in job.chosen():
        write_rows(folder / f"{job.tracker}_tracking_result" / f"{sequence.name}.txt", run.boxes, "%.4f")


def _write_otb(folder: Path, job: _Job) -> None:
    for sequence, run in job.chosen():
        write_rows(folder / f"{sequence.name}.txt", run.boxes, "%.4f")


def _write_pytracking(folder: Path, job: _Job) -> None:
    """Whole pixels, cut off toward zero, tab separated: what pytracking keeps and its tables are made from."""
    several = max(len(job.runs[s.name]) for s in job.sequences) > 1
    for sequence in job.sequences:
        for k, run in enumerate(job.runs[sequence.name]):
            place = folder / job.tracker / (f"{job.param}_{k:03d}" if several else job.param)
            boxes = np.trunc(_zeros_for_nan(run.boxes, sequence, job))
            write_rows(place / f"{sequence.name}.txt", boxes, "%d", "\t")
            if run.seconds is not None:
                write_rows(place / f"{sequence.name}_time.txt", run.seconds, "%f")
            if run.presence is not None:
                write_rows(place / f"{sequence.name}_object_presence_scores.txt", run.presence, "%f")


def _write_vot(folder: Path, job: _Job) -> None:
    for sequence in job.sequences:
        for run in job.runs[sequence.name]:
            if run.anchor is None and len(run_regions(run)) != len(sequence):
                raise InputError(f"{sequence.name}: {len(run_regions(run))} regions for {len(sequence)} frames")
    write_vot_results(folder / job.tracker, job.sequences, job.runs, job.experiment)


def _write_oxuva(folder: Path, job: _Job) -> None:
    """``<video>_<object>.csv``, frames after the first; corners are fractions of the image, cut at its edges."""
    for sequence, run in job.chosen():
        video, _, thing = sequence.name.rpartition("_")
        if not video:
            raise InputError(f"{sequence.name!r} is no name of an OxUvA track; expected <video>_<object>")
        w, h = file_scale(sequence)
        low = np.clip(run.boxes[:, :2] / (w, h), 0, 1)  # (N, 2)
        high = np.clip((run.boxes[:, :2] + run.boxes[:, 2:]) / (w, h), 0, 1)
        lost = np.zeros(len(low), np.bool_) if run.lost is None else run.lost
        known = np.asarray(np.isfinite(run.boxes).all(axis=1))
        lines = []
        for i in range(1, len(sequence)):
            if not (known[i] or lost[i]):
                continue  # the evaluation then takes the latest earlier prediction
            corners = (low[i, 0], high[i, 0], low[i, 1], high[i, 1]) if known[i] else (0.0, 0.0, 0.0, 0.0)
            score = math.nan if run.presence is None else float(run.presence[i])
            score = float(not lost[i]) if math.isnan(score) else score
            word = "false" if lost[i] else "true"
            numbers = ",".join(f"{v:.6f}" for v in corners)
            lines.append(f"{video},{thing},{sequence.start + i},{word},{score!r},{numbers}\n")
        if not lines:
            raise InputError(f"{sequence.name}: the run says nothing about any frame after the first; run it again")
        if len(lines) < len(sequence) - 1:
            job.notes.append(
                f"{sequence.name}: {len(sequence) - 1 - len(lines)} frames without a prediction have no line"
            )
        write_atomically(folder / f"{sequence.name}.csv", "".join(lines))


def _write_davis(folder: Path, job: _Job) -> None:
    _write_masks(folder, job)


def _write_youtubevos(folder: Path, job: _Job) -> None:
    _write_masks(folder / "Annotations", job)


def _write_masks(folder: Path, job: _Job) -> None:
    for sequence, run in job.chosen():
        names = frame_names(sequence)
        for i in (0, *_needed(sequence)):
            ids = run.masks[i] if run.masks is not None else None
            if ids is None and i == 0 and sequence.annotation.masks is not None:
                ids = sequence.annotation.masks[0]  # given to the tracker, which need not repeat it
            if ids is None:
                raise InputError(f"{sequence.name}: there is no mask for frame {names[i]}; run the tracker again")
            save_indexed_png(folder / sequence.name / f"{names[i]}.png", ids)


def _zeros_for_nan(boxes: Array, sequence: Sequence, job: _Job) -> Array:
    """(N, 4) with 0,0,0,0 in rows without a box."""
    none = np.asarray(~np.isfinite(boxes).all(axis=1))
    if none.any():
        job.notes.append(f"{sequence.name}: {int(none.sum())} frames without a box are written as 0,0,0,0")
    return np.where(none[:, None], 0.0, boxes)


def _seconds(run: Run) -> Array:
    """(N,) times; 0, which the toolkit leaves out, where they are not known."""
    seconds = np.zeros(len(run.boxes)) if run.seconds is None else run.seconds
    return np.nan_to_num(seconds, nan=0.0)


_FORMATS: Mapping[str, _Format] = {
    "got10k": _Format(_write_got10k),
    "trackingnet": _Format(_write_trackingnet),
    "lasot": _Format(_write_lasot),
    "otb": _Format(_write_otb),
    "pytracking": _Format(_write_pytracking),
    "vot": _Format(_write_vot, rows=False),
    "oxuva": _Format(_write_oxuva),
    "davis": _Format(_write_davis, masks=True),
    "youtubevos": _Format(_write_youtubevos, masks=True),
}


# --- complete or not at all -----------------------------------------------------------------------------------------------


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, on the same disk, that is gone afterwards."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:80]}.", suffix=".part") as name:
        folder = Path(name) / "content"
        folder.mkdir()
        yield folder


def _publish(folder: Path, out: Path, notes: list[str]) -> None:
    """Put the finished files in their place."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    if out.suffix.lower() == ".zip":
        packed = folder.parent / "packed.zip"
        _pack(folder, files, packed)
        os.replace(packed, out)
        return
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        with suppress(FileNotFoundError):
            out.rmdir()  # an empty folder; Windows does not replace it
        shutil.move(folder, out)
        return
    others = {p for p in out.rglob("*") if p.is_file()} - {out / f.relative_to(folder) for f in files}
    if others:
        notes.append(
            f"{len(others)} other files were in {out} already and still are, e.g. {min(others).relative_to(out)}"
        )
    for file in files:  # overwrite: each file is whole at every moment
        place = out / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


def _pack(folder: Path, files: list[Path], packed: Path) -> None:
    """The same content gives the same bytes: names in order, no dates, no owners."""
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in files:
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(info, file.read_bytes())
