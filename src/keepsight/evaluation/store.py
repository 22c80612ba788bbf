"""Results on disk: one text file per tracker, sequence and repetition, complete or absent.

::

    results/                        ResultStore("results")
      otb100/ope/                   data set, protocol
        dimp-lite/
          run.json                  what the results depend on: tracker, weights, code, seed, device, data
          David_001.txt             repetition 1 of David; VOT anchors: David_001_00000050.txt
          David_001.time.txt        seconds per frame, one number per line
          David_001.masks/          indexed PNG files, from trackers that segment

A result file has a line per frame: ``x,y,w,h``, and where the tracker says so its confidence ``presence``, ``lost`` (0 or
1) and VOT's ``code``; other tools read it as ``numpy.loadtxt(file, delimiter=",")``::

    # keepsight result 1: otb100/David, repetition 1
    # x,y,w,h,presence,lost
    129,80,64,78,nan,0
    ...
    # end: 471 frames, sha256 0a1b2c3d4e5f6071

The last line tells a whole file from one that was cut or changed. Times are written before it, so a result file means
done. Numbers keep all their digits; equal runs make equal files, times aside.

Several programs may work in one folder: who tracks something first makes ``.locks/NAME`` there. Locks save work and are not
needed for safety: every file takes its place in one step, and ``run.json`` keeps different runs apart, so that two who do
track the same thing write the same bytes. A lock counts for nothing if its process has died on this machine, or if another
machine's process has not renewed it for five minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..errors import InputError, KeepsightError, VideoError
from ..regions import Code, Rectangle, Region, Special
from ..text import parse_rows, write_atomically
from .runs import Run

STALE_SECONDS = 300
"""A lock of another machine that is older counts for nothing."""
_COLUMNS = ("x", "y", "w", "h", "presence", "lost", "code")
_END = re.compile(rb"# end: (\d+) frames, sha256 ([0-9a-f]{16})\n?")


class ResultsError(KeepsightError, OSError):
    """Results that are damaged, belong to another run, are being written by someone else, or cannot be written."""


@dataclass(frozen=True)
class Key:
    """Which result."""

    tracker: str
    dataset: str
    protocol: str
    sequence: str
    repetition: int = 1
    """From 1."""
    anchor: int | None = None
    """VOT multi-start: the frame where the run starts."""

    def __str__(self) -> str:
        anchor = "" if self.anchor is None else f", anchor {self.anchor}"
        return f"{self.tracker} on {self.dataset}/{self.sequence}, repetition {self.repetition}{anchor}"


@dataclass(frozen=True)
class Manifest:
    """What the results of one tracker on one data set depend on, besides the sequence. Written to ``run.json``."""

    tracker: str
    """Its name."""
    spec: str
    """How it was asked for (:mod:`.entrants`)."""
    identity: Mapping[str, str]
    """Versions and sums of code and weights."""
    dataset: str
    protocol: str
    data_root: str
    frames: int | None = None
    """Sequences were cut to their first so many frames."""
    seed: int = 0
    device: str = ""
    """Kind of device of our own trackers: cpu, cuda, mps."""

    def differences(self, other: Manifest) -> list[str]:
        """``name: mine, theirs`` for everything that is not equal."""
        mine, theirs = (_flat(asdict(m)) for m in (self, other))
        names = [*mine, *(n for n in theirs if n not in mine)]
        return [f"{n}: {theirs.get(n)!r} there, {mine.get(n)!r} now" for n in names if mine.get(n) != theirs.get(n)]


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in fields.items() if k != "identity"}, **fields["identity"]}


class ResultStore:
    """Reads and writes the results below ``root``. Paths with odd characters are percent-encoded."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    # --- where --------------------------------------------------------------------------------------------------------

    def folder(self, dataset: str, protocol: str, tracker: str) -> Path:
        """All results of a tracker on a data set."""
        return self.root / _safe(dataset) / protocol / _safe(tracker)

    def path(self, key: Key) -> Path:
        """The result file."""
        *folders, name = _stem(key).split("/")
        return self.folder(key.dataset, key.protocol, key.tracker).joinpath(*map(_safe, folders), f"{_safe(name)}.txt")

    def time_path(self, key: Key) -> Path:
        """Its times."""
        return self.path(key).with_suffix(".time.txt")

    def masks_path(self, key: Key) -> Path:
        """Its segmentations."""
        return self.path(key).with_suffix(".masks")

    def trackers(self, dataset: str, protocol: str) -> tuple[str, ...]:
        """Names of those that have a ``run.json`` for this data set."""
        found = (self.root / _safe(dataset) / protocol).glob("*/run.json")
        return tuple(sorted(m.tracker for m in map(_read_manifest, found) if m is not None))

    def manifests(self) -> list[Manifest]:
        """What there is: one for each data set, protocol and tracker."""
        found = sorted(self.root.glob("*/*/*/run.json"))
        return [m for m in map(_read_manifest, found) if m is not None]

    # --- what belongs together ----------------------------------------------------------------------------------------

    def begin(self, manifest: Manifest, *, overwrite: bool = False) -> None:
        """Make sure that the results there, if any, were made by the same configuration.

        ``overwrite``: if not, remove them all instead. Raises :class:`ResultsError` that names what differs.
        """
        folder = self.folder(manifest.dataset, manifest.protocol, manifest.tracker)
        path = folder / "run.json"
        text = (
            json.dumps({"format": "keepsight run", "version": 1, **asdict(manifest)}, indent=1, ensure_ascii=False)
            + "\n"
        )
        for _ in range(2):  # again if another run makes the file in between
            orphans = next(
                folder.rglob("*_[0-9][0-9][0-9]*.txt"), None
            )  # looked for first: run.json is older than results
            before = _read_manifest(path)
            if before is None and orphans is not None and not overwrite:
                raise ResultsError(
                    f"{folder} holds results without a run.json, so what they depend on is unknown; give another --results "
                    "folder, or --overwrite to remove them"
                )
            if before is None and overwrite and folder.exists():
                self._remove(folder)
            if before is None and _write_new(path, text):
                return
            if before is None:
                continue
            differences = manifest.differences(before)
            if not differences:
                return
            if not overwrite:
                raise ResultsError(
                    f"{folder} holds results of another run ({'; '.join(differences)}); give another --results folder, or "
                    "--overwrite to remove them"
                )
            self._remove(folder)
        raise ResultsError(f"{path} is being changed by another run; wait until it has ended, then start again")

    def _remove(self, folder: Path) -> None:
        busy = [lock for lock in (folder / ".locks").glob("*") if not _is_stale(lock)]
        if busy:
            raise ResultsError(f"{folder} cannot be overwritten: {_owner(_read_lock(busy[0]))} works there ({busy[0]})")
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise ResultsError(
                f"{folder} cannot be removed: {error.strerror or error}; give another --results folder"
            ) from None

    def manifest(self, dataset: str, protocol: str, tracker: str) -> Manifest | None:
        """What ``run.json`` says; None if there is none."""
        return _read_manifest(self.folder(dataset, protocol, tracker) / "run.json")

    # --- results ------------------------------------------------------------------------------------------------------

    def write(self, key: Key, run: Run) -> Path:
        """Masks, times, then the result. Raises :class:`ResultsError` if it cannot be written; nothing half is left."""
        text = _format(key, run)
        try:
            if run.masks is not None:
                self._write_masks(key, run)
            if run.seconds is not None:
                write_atomically(self.time_path(key), "".join(f"{s:.6f}\n" for s in run.seconds))
            write_atomically(self.path(key), text)
        except VideoError as error:
            raise ResultsError(
                f"the result of {key} is lost: {error}. Results that are complete are kept; when there is space, run the same "
                "command again and it goes on from there"
            ) from None
        return self.path(key)

    def _write_masks(self, key: Key, run: Run) -> None:
        from ..datasets.masks import save_indexed_png

        assert run.masks is not None
        folder = self.masks_path(key)
        part = folder.with_name(f"{folder.name}.part")
        for old in (part, folder):
            if old.exists():
                shutil.rmtree(old)
        for i in range(len(run.masks)):
            ids = run.masks[i]
            if ids is not None:
                save_indexed_png(part / f"{i:05d}.png", ids)
        os.replace(part, folder)

    def read(self, key: Key) -> Run:
        """Raises :class:`ResultsError` if the result is absent, cut or changed."""
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ResultsError(f"there is no result of {key}: no file {path}; run keepsight eval") from None
        except OSError as error:
            raise ResultsError(f"{path} cannot be read: {error.strerror or error}; remove it") from None
        rows, columns = _parse(data, path, _title(key))
        run = _run(rows, columns, key.anchor)
        return _with_masks(_with_times(run, self.time_path(key)), self.masks_path(key))

    def is_done(self, key: Key, frames: int, start: tuple[float, ...] | None = None) -> bool:
        """Whether there is a whole result with as many frames as the sequence.

        ``start``: the first frame's box; a one-pass result that was started with another one (the annotation has been
        changed since) is not done. What is damaged is not done either: it is tracked again.
        """
        try:
            run = self.read(key)
        except ResultsError:
            return False
        if key.protocol == "vos" and run.masks is None:
            return False
        return len(run.boxes) == frames and (start is None or tuple(run.boxes[0]) == start)

    def discard(self, key: Key) -> None:
        """Remove a result, and what a killed program left of one. Only for who holds the lock.

        Raises :class:`ResultsError` if it cannot be removed.
        """
        path, times = self.path(key), self.time_path(key)
        unfinished = [left for f in (path, times) for left in f.parent.glob(f".{_glob(f.name[:80])}.*.part")]
        for file in (path, *unfinished):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:  # a directory, say, or a folder that may not be changed
                why = error.strerror or error
                raise ResultsError(
                    f"{file} cannot be replaced: {why}; remove it, or give another --results folder"
                ) from None

    def repetitions(self, key: Key) -> list[Run]:
        """All repetitions of a result that are there, in order. ``key.repetition`` does not matter."""
        first = self.path(replace(key, repetition=1))
        before, _, after = first.name.rpartition("_001")
        pattern = re.compile(f"{re.escape(before)}_(\\d{{3,}}){re.escape(after)}")
        names = os.listdir(first.parent) if first.parent.is_dir() else []
        numbers = sorted(int(found[1]) for found in map(pattern.fullmatch, names) if found)
        return [self.read(replace(key, repetition=number)) for number in numbers]

    # --- who works on what --------------------------------------------------------------------------------------------

    def claim(self, key: Key) -> Claim | None:
        """The right to track this; None if another process that is alive (as far as one can tell) has it."""
        lock = self._lock(key)
        for _ in range(2):
            if _write_new(lock, json.dumps(_me())):
                return Claim(lock)
            if not _is_stale(lock):
                return None
            lock.unlink(missing_ok=True)
        return None

    def _lock(self, key: Key) -> Path:
        return self.folder(key.dataset, key.protocol, key.tracker) / ".locks" / quote(_stem(key), safe=" +")

    def claimable(self, key: Key) -> bool:
        """Whether nobody works on it, as far as one can tell."""
        return _is_stale(self._lock(key))

    def owner(self, key: Key) -> str:
        """Who has the lock, for messages."""
        lock = self._lock(key)
        return f"{_owner(_read_lock(lock))} ({lock})"

    def sweep(self, dataset: str, protocol: str, tracker: str) -> None:
        """Remove locks and unfinished files of processes that have died."""
        folder = self.folder(dataset, protocol, tracker)
        locks = list((folder / ".locks").glob("*"))
        alive = [lock for lock in locks if not _is_stale(lock)]
        for lock in locks:
            if lock not in alive:
                lock.unlink(missing_ok=True)
        if not alive:  # else they may be another run's, being written
            for left in folder.rglob(".*.part"):
                left.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never there
            (folder / ".locks").rmdir()


@dataclass
class Claim:
    """A lock that is held."""

    path: Path

    def renew(self) -> None:
        """Show other machines that its process is alive; to be called more often than every :data:`STALE_SECONDS`."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Others may take it. Can be called twice."""
        with suppress(OSError):
            self.path.unlink()


def _safe(name: str) -> str:
    """A file name of any text, different for different texts."""
    plain = quote(name, safe=" +@=,()")
    return plain.replace(".", "%2E") if plain.strip(".") == "" else plain


def _stem(key: Key) -> str:
    anchor = "" if key.anchor is None else f"_{key.anchor:08d}"
    return f"{key.sequence}_{key.repetition:03d}{anchor}"


def _glob(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


# --- files --------------------------------------------------------------------------------------------------------------


def _format(key: Key, run: Run) -> str:
    """The file's text."""
    boxes = np.asarray(run.boxes, dtype=np.float64)
    columns, names = [boxes], ["x", "y", "w", "h"]
    for name, values in (("presence", run.presence), ("lost", run.lost), ("code", _codes(run, key))):
        if values is not None:
            columns.append(np.asarray(values, dtype=np.float64)[:, None])
            names.append(name)
    rows = np.concatenate(columns, axis=1)  # (N, columns)
    lines = [f"# keepsight result 1: {_title(key)}", f"# {','.join(names)}"]
    lines += [",".join(_digits(v) for v in row) for row in rows.tolist()]
    text = "\n".join(lines) + "\n"
    return text + f"# end: {len(rows)} frames, sha256 {_sum(text.encode())}\n"


def _title(key: Key) -> str:
    """What a file says of whom it is, in one line: it may have been copied to another's place."""
    what = f"{key.dataset}/{key.sequence}, repetition {key.repetition}"
    what += "" if key.anchor is None else f", anchor {key.anchor}"
    return "".join(c if c.isprintable() else quote(c) for c in what)


def _digits(value: float) -> str:
    """All digits, whole numbers without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _codes(run: Run, key: Key) -> np.ndarray | None:
    if run.regions is None:
        return None
    odd = next((r for r in run.regions if not isinstance(r, (Special, Rectangle))), None)
    if odd is not None:
        raise InputError(f"{key}: a {type(odd).__name__} cannot be stored; results hold rectangles, codes and masks")
    return np.array([r.code if isinstance(r, Special) else np.nan for r in run.regions])  # (N,)


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _parse(data: bytes, path: Path, title: str) -> tuple[np.ndarray, list[str]]:
    """(N, columns) numbers and the columns' names. ``title``: whose result it must be."""
    again = "keepsight eval tracks it again; or remove the file"
    data = data.replace(b"\r\n", b"\n")
    body, mark, last = data.rpartition(b"# end: ")
    end = _END.fullmatch(mark + last)
    if not data.startswith(b"# keepsight result "):
        raise ResultsError(f"{path} is no keepsight result; {again}")
    if end is None:
        raise ResultsError(f"{path} is cut off: its last line is not '# end: ..'; {again}")
    if _sum(body) != end[2].decode():
        raise ResultsError(f"{path} was changed or damaged after it was written (its sum does not fit); {again}")
    head, names, numbers = body.split(b"\n", 2)
    if not head.startswith(b"# keepsight result 1:"):
        raise ResultsError(f"{path} was written by another version of keepsight; {again}")
    whose = head.decode().removeprefix("# keepsight result 1: ")
    if whose != title:
        raise ResultsError(f"{path} holds the result of {whose}, not of {title}; {again}")
    columns = names.decode().removeprefix("# ").split(",")
    if columns[:4] != ["x", "y", "w", "h"] or not set(columns) <= set(_COLUMNS):
        raise ResultsError(f"{path} has the columns {columns}, which are unknown; {again}")
    try:
        rows = parse_rows(numbers, str(path), len(columns))
    except InputError as error:
        raise ResultsError(f"{error}; {again}") from None
    if len(rows) != int(end[1]):
        raise ResultsError(f"{path} has {len(rows)} of {int(end[1])} lines; {again}")
    return rows, columns


def _run(rows: np.ndarray, columns: list[str], anchor: int | None) -> Run:
    extra = {name: rows[:, i] for i, name in enumerate(columns) if i >= 4}
    regions: tuple[Region, ...] | None = None
    if "code" in extra:
        regions = tuple(
            Rectangle(*box) if np.isnan(code) else Special(Code(int(code)))
            for box, code in zip(rows[:, :4].tolist(), extra["code"], strict=True)
        )
    lost = extra["lost"] == 1 if "lost" in extra else None
    return Run(boxes=rows[:, :4], presence=extra.get("presence"), lost=lost, regions=regions, anchor=anchor)


def _with_times(run: Run, path: Path) -> Run:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return run
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}; remove it") from None
    try:
        seconds = parse_rows(data, str(path), 1)[:, 0]
    except InputError as error:
        raise ResultsError(f"{error}; remove this file of times, or let keepsight eval track it again") from None
    if len(seconds) != len(run.boxes):
        raise ResultsError(f"{path} has {len(seconds)} times for {len(run.boxes)} frames; remove this file of times")
    return replace(run, seconds=seconds)


def _with_masks(run: Run, folder: Path) -> Run:
    from ..datasets.masks import MaskFiles

    if not folder.is_dir():
        return run
    files = [folder / f"{i:05d}.png" for i in range(len(run.boxes))]
    return replace(run, masks=MaskFiles([f if f.is_file() else None for f in files]))


def _read_manifest(path: Path) -> Manifest | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("format") != "keepsight run" or fields.pop("version") != 1:
            raise ValueError
        manifest = Manifest(**fields)
        texts = [
            manifest.tracker,
            manifest.spec,
            manifest.dataset,
            manifest.protocol,
            manifest.data_root,
            manifest.device,
        ]
        texts += [text for pair in manifest.identity.items() for text in pair]
        numbers = [manifest.seed] if manifest.frames is None else [manifest.seed, manifest.frames]
        if not all(isinstance(v, str) for v in texts) or not all(isinstance(v, int) for v in numbers):
            raise TypeError
        return manifest
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}; give another --results folder") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ResultsError(
            f"{path} is no keepsight run.json, so what the results beside it depend on is unknown; give another --results "
            "folder, or remove this one"
        ) from None


def _write_new(path: Path, text: str) -> bool:
    """Make a file that is not there yet, whole; False if it is there."""
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}-{threading.get_ident()}.part")
    for attempt in (1, 2, 3):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            _link(part, path)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < 3:
                continue  # another run has just removed the folder, as it was empty
            why = error.strerror or error
            raise ResultsError(f"{path} cannot be written: {why}; give another --results folder") from None
        finally:
            with suppress(OSError):
                part.unlink()
    return False


def _link(part: Path, path: Path) -> None:
    """Give a file its name; FileExistsError if it is taken."""
    try:
        os.link(part, path)  # its content is whole at once
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without links: not whole at once, and still only one makes it
        with open(path, "x", encoding="utf-8") as file:
            file.write(part.read_text(encoding="utf-8"))


# --- processes ----------------------------------------------------------------------------------------------------------


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _start_time(os.getpid())}


def _read_lock(path: Path) -> Mapping[str, Any] | None:
    """Its owner; None if it is gone; empty if it cannot be read."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def _is_stale(lock: Path) -> bool:
    """Whether its process has died; of another machine's process that is told by not renewing it."""
    owner = _read_lock(lock)
    if not owner:
        return True
    if owner.get("host") != socket.gethostname():
        try:
            return time.time() - lock.stat().st_mtime > STALE_SECONDS
        except OSError:
            return True
    pid, started = owner.get("pid"), owner.get("started")
    if not isinstance(pid, int) or not _is_alive(pid):
        return True
    return started is not None and started != _start_time(pid)  # another process has the number now


def _owner(owner: Mapping[str, Any] | None) -> str:
    return "another process" if not owner else f"process {owner.get('pid')} on {owner.get('host')}"


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end it
        import ctypes

        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
        handle = kernel.OpenProcess(0x1000, False, pid)  # may ask for its state
        if not handle:
            return False
        still = kernel.WaitForSingleObject(handle, 0) != 0
        kernel.CloseHandle(handle)
        return bool(still)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _proc_fields(pid: int) -> list[str]:
    """Linux: the fields of /proc/PID/stat after the name; empty elsewhere."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_zombie(pid: int) -> bool:
    fields = _proc_fields(pid)
    return bool(fields) and fields[0] == "Z"


def _start_time(pid: int) -> str | None:
    """In ticks since the machine started, where that can be known."""
    fields = _proc_fields(pid)
    return fields[19] if len(fields) > 19 else None


def read_runs(
    store: ResultStore, tracker: str, dataset: str, protocol: str, sequences: Iterable[Any]
) -> dict[str, list[Run]]:
    """Sequence name -> its repetitions (multi-start: anchors of all repetitions), where there are results.

    Raises :class:`ResultsError` for a damaged one, and for a one-pass run of another first box than the annotation has now.
    """
    found: dict[str, list[Run]] = {}
    for sequence in sequences:
        if protocol == "multistart":
            from .protocols import anchors

            keys = [Key(tracker, dataset, protocol, sequence.name, 1, anchor) for anchor in anchors(sequence)]
        else:
            keys = [Key(tracker, dataset, protocol, sequence.name)]
        runs = [run for key in keys for run in store.repetitions(key)]
        if protocol in ("ope", "longterm") and runs:
            _check_start(keys[0], runs, sequence)
        if runs:
            found[sequence.name] = runs
    return found


def _check_start(key: Key, runs: list[Run], sequence: Any) -> None:
    try:
        start = sequence.first_box
    except KeepsightError:  # scoring says why
        return
    odd = next((tuple(run.boxes[0].tolist()) for run in runs if tuple(run.boxes[0]) != start), None)
    if odd is not None:
        raise ResultsError(
            f"{key.tracker} was started on {key.dataset}/{key.sequence} with the box {odd}, and the annotation's first box is "
            f"{start} now; run keepsight eval, which tracks it again, or restore the annotation"
        )
