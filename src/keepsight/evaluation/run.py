"""Trackers × sequences × repetitions, in parallel, into a :class:`ResultStore`; what is done is not done again.

Example::

    report = run(["dimp-lite", "opencv:MIL"], open_dataset("otb100"), results="results", processes=4)
    runs = report.runs("dimp-lite")            # sequence name -> repetitions, for evaluation.score

A task is one sequence (multi-start: one anchor) and one repetition. Its seed depends on the data set, the sequence and the
repetition only, so results do not depend on order, number of processes or trackers. Tasks run in worker processes; this
process writes the results, so that a worker may die at any time; if this process dies, the workers end, and the next
run of the same command goes on with what is missing.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..datasets.sequence import Sequence as Video
from ..errors import InputError, KeepsightError, nearest_names
from .entrants import Box, Description, Entrant, EntrantSpec, distinct, parse_entrant
from .executors import Engine, WorkerDied, open_engine
from .protocols import (
    PROTOCOLS,
    REPETITIONS,
    anchor_frames,
    anchors,
    boxes_only,
    first_frames,
    run_anchor,
    run_longterm,
    run_ope,
    run_supervised,
    run_vos,
)
from .runs import Run
from .store import Claim, Key, Manifest, ResultsError, ResultStore, read_runs

SAME_RUNS = 3
"""After so many equal repetitions a tracker is taken for deterministic, as VOT's toolkits do."""
RENEW_SECONDS = 30
"""How often locks are renewed."""
TRIES = 2
"""How often a task whose worker died is tried."""


class RunError(KeepsightError, RuntimeError):
    """A sequence could not be tracked, and the run was to stop then."""


class DatasetLike(Protocol):
    """What the runner needs of a data set; :class:`keepsight.datasets.Dataset` has it."""

    @property
    def name(self) -> str: ...
    @property
    def root(self) -> Path: ...
    @property
    def protocol(self) -> str: ...
    @property
    def sequences(self) -> Mapping[str, Video]: ...


@dataclass(frozen=True)
class Failure:
    """A sequence without a result."""

    key: Key
    reason: str
    trace: str = field(default="", repr=False)
    """Where it happened, if it was not foreseen."""

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    """Tasks that have ended, failed ones included, those of earlier runs too."""
    total: int
    failed: int
    frames: int
    """Frames tracked in this run."""
    remaining: float | None
    """Seconds, from the speed of each tracker so far; None before anything is known."""
    running: tuple[str, ...] = ()
    """What is being tracked."""
    note: str = ""


@dataclass(frozen=True, eq=False)
class RunReport:
    """What a run did."""

    store: ResultStore
    dataset: str
    protocol: str
    sequences: tuple[Video, ...]
    """Those that were asked for, cut as asked for: what the results are to be scored against."""
    trackers: tuple[EntrantSpec, ...]
    tracked: int
    """Tasks done by this run."""
    present: int
    """Tasks whose results were there."""
    failures: tuple[Failure, ...]
    seconds: float

    def runs(self, tracker: str) -> dict[str, list[Run]]:
        """Sequence name -> repetitions (multi-start: anchors) of the tracker of this name; as the scoring rules take them."""
        return read_runs(self.store, tracker, self.dataset, self.protocol, self.sequences)


@dataclass(frozen=True)
class Task:
    """One result to be made."""

    spec: EntrantSpec
    sequence: Video
    key: Key
    frames: int
    """Length of the result."""
    start: Box | None
    """The first frame's box, of one-pass protocols: what the result must have been started with."""
    weights_seed: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: a run, or why there is none."""

    run: Run | None = None
    reason: str = ""
    trace: str = ""


def seed_of(seed: int, dataset: str, sequence: str, repetition: int) -> int:
    """Seed of one tracker run, 0 .. 2**63 - 1: the first 63 bits of SHA-256 of the four, one per line."""
    text = f"{seed}\n{dataset}\n{sequence}\n{repetition}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def run(
    trackers: Sequence[str | EntrantSpec],
    dataset: DatasetLike,
    *,
    results: str | Path | ResultStore = "results",
    protocol: str | None = None,
    repetitions: int | None = None,
    processes: int | None = None,
    devices: Sequence[str] = ("auto",),
    executor: str = "processes",
    seed: int = 0,
    only: str = "*",
    frames: int | None = None,
    overwrite: bool = False,
    python: str | None = None,
    on_error: Literal["skip", "stop"] = "skip",
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Track every sequence with every tracker, and keep the results.

    Args:
        trackers: as :mod:`.entrants` reads them.
        dataset: e.g. from :func:`keepsight.datasets.open_dataset`.
        results: folder of results (:mod:`.store`); made if it is absent.
        protocol: one of :data:`PROTOCOLS`; None: the data set's own.
        repetitions: None: the protocol's (supervised 15, GOT-10k 3, else 1). Deterministic trackers run once; others
            stop after three equal repetitions.
        processes: workers; None: one per GPU, or one per core.
        devices: of our own trackers; "auto" is all GPUs, or the CPU. Workers get them in turn.
        executor: ``processes``, ``serial`` (this process), ``ray[:ADDRESS]``, ``dask[:ADDRESS]``.
        seed: see :func:`seed_of`; also of random weights.
        only: glob on sequence names.
        frames: track only the first so many frames of each sequence.
        overwrite: remove earlier results of these trackers: of ``only`` if they fit this run, else all.
        python: interpreter for trackers that are not ours.
        on_error: "skip" a sequence that cannot be tracked (it is in ``failures``), or "stop" and raise :class:`RunError`.
        progress: called now and then, in this thread.

    Raises :class:`InputError` before anything runs for what cannot be run; :class:`ResultsError` if results cannot be
    written, or belong to another run. Any exception, Ctrl-C too, leaves complete results and ends the workers.
    """
    began = time.monotonic()
    store = results if isinstance(results, ResultStore) else ResultStore(results)
    protocol = protocol or dataset.protocol
    if protocol not in PROTOCOLS:
        raise InputError(f"no protocol {protocol!r}; {nearest_names(protocol, PROTOCOLS)}")
    if processes is not None and processes < 1:
        raise InputError(f"{processes} processes; give at least 1")
    if repetitions is not None and repetitions < 1:
        raise InputError(f"{repetitions} repetitions; give at least 1")
    specs = distinct([parse_entrant(t, python) if isinstance(t, str) else t for t in trackers])
    chosen = _choose(dataset, only, frames)
    found = _find_devices(devices)
    about = {spec.name: spec.describe() for spec in specs}
    _check_masks(protocol, dataset, about)
    wanted = repetitions or (
        3 if dataset.name.split(":")[0] == "got10k" and protocol == "ope" else REPETITIONS[protocol]
    )
    for spec in specs:
        kind = found[0].partition(":")[0] if spec.kind == "own" else ""
        store.begin(
            Manifest(
                spec.name,
                spec.text,
                dict(about[spec.name].identity),
                dataset.name,
                protocol,
                str(Path(dataset.root).resolve()),
                frames,
                seed,
                kind,
            ),
            overwrite=overwrite,
        )
        store.sweep(dataset.name, protocol, spec.name)
    work = _Work(store, on_error, progress)
    for spec in specs:
        count = 1 if about[spec.name].deterministic else wanted
        work.plan(spec, chosen, dataset.name, protocol, count, seed, overwrite)
    if work.queue:
        slots = min(processes or _default_processes(found), len(work.queue) + sum(map(len, work.held.values())))
        try:
            work.run(open_engine(executor, found, slots))
        finally:
            for spec in specs:
                store.sweep(dataset.name, protocol, spec.name)
    return RunReport(
        store,
        dataset.name,
        protocol,
        tuple(chosen),
        specs,
        work.tracked,
        work.present,
        tuple(work.failures),
        time.monotonic() - began,
    )


def _choose(dataset: DatasetLike, only: str, frames: int | None) -> list[Video]:
    names = [name for name in dataset.sequences if fnmatch.fnmatchcase(name, only)]
    if not names:
        near = nearest_names(only, dataset.sequences)
        raise InputError(f"no sequence of {dataset.name} matches {only!r} ({len(dataset.sequences)} sequences); {near}")
    found = [dataset.sequences[name] for name in names]
    return found if frames is None else [first_frames(sequence, frames) for sequence in found]


def _find_devices(devices: Sequence[str]) -> tuple[str, ...]:
    """Devices that are there, all of one kind."""
    import torch

    from ..trackers.registry import choose_device

    named: list[str] = []
    for device in devices:
        if device == "auto" and torch.cuda.is_available():
            named += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        else:
            named.append(str(choose_device(device)))
    if not named:
        raise InputError("no device is named; give cpu, cuda:0, .. or auto")
    kinds = sorted({d.partition(":")[0] for d in named})
    if len(kinds) > 1:
        raise InputError(
            f"devices of the kinds {', '.join(kinds)}: their results differ in the last digits; give one kind"
        )
    return tuple(named)


def _default_processes(devices: tuple[str, ...]) -> int:
    if devices[0].startswith("cuda"):
        return len(devices)
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _check_masks(protocol: str, dataset: DatasetLike, about: Mapping[str, Description]) -> None:
    without = [name for name, said in about.items() if not said.gives_masks]
    if protocol == "vos" and without:
        raise InputError(boxes_only(dataset.name, ", ".join(without)))


# --- the loop -----------------------------------------------------------------------------------------------------------


class _Work:
    """What is to be done, what runs, and what has been done."""

    def __init__(self, store: ResultStore, on_error: str, progress: Callable[[Progress], None] | None) -> None:
        self.store, self.on_error, self._progress = store, on_error, progress
        self.queue: deque[Task] = deque()
        self.held: dict[Key, list[Task]] = {}
        """First repetition -> later ones that are needed only if the first three differ."""
        self.busy: deque[Task] = deque()
        """Another process is tracking these."""
        self.running: dict[Any, tuple[Task, int, Claim]] = {}
        self.tries: dict[Key, int] = {}
        self.tracked = self.present = 0
        self.failures: list[Failure] = []
        self._pace: dict[str, tuple[int, float]] = {}
        """Tracker -> frames, seconds of workers."""
        self._begun: dict[Key, float] = {}
        self._renewed = time.monotonic()

    # --- planning

    def plan(
        self,
        spec: EntrantSpec,
        sequences: Sequence[Video],
        dataset: str,
        protocol: str,
        repetitions: int,
        seed: int,
        overwrite: bool,
    ) -> None:
        """Queue what is missing of one tracker, the longest sequences first."""
        tasks: list[Task] = []
        for sequence in sequences:
            key = Key(spec.name, dataset, protocol, sequence.name)
            try:
                lengths = _lengths(sequence, protocol)
                start = sequence.first_box if protocol in ("ope", "longterm") else None
            except Exception as error:
                self._fail(key, *_explain(error))
                continue
            for anchor, length in lengths:
                for number in range(1, repetitions + 1):
                    one = replace(key, repetition=number, anchor=anchor)
                    own_seed = seed_of(seed, dataset, sequence.name, number)
                    tasks.append(Task(spec, sequence, one, length, start, seed, own_seed))
        missing: list[Task] = []
        for task in sorted(tasks, key=lambda t: -t.frames):
            if overwrite:
                self.store.discard(task.key)
            if not overwrite and self._is_done(task):
                self.present += 1
            elif task.key.repetition > SAME_RUNS:
                self.held.setdefault(replace(task.key, repetition=1), []).append(task)
            else:
                missing.append(task)
        self.queue.extend(missing)
        for key in [k for k in self.held if k.tracker == spec.name]:
            self._settle(key)

    def _is_done(self, task: Task) -> bool:
        return self.store.is_done(task.key, task.frames, task.start)

    def _settle(self, key: Key) -> None:
        """Once the first three repetitions are there: drop the later ones if the three are equal, else queue them."""
        first = replace(key, repetition=1)
        if first not in self.held:
            return
        runs = []
        for number in range(1, SAME_RUNS + 1):
            try:
                runs.append(self.store.read(replace(first, repetition=number)))
            except ResultsError:
                if not self._has_failed(replace(first, repetition=number)):
                    return
        later = self.held.pop(first)
        if len(runs) < SAME_RUNS or not all(same_answers(runs[0], other) for other in runs[1:]):
            self.queue.extend(later)

    def _has_failed(self, key: Key) -> bool:
        return any(failure.key == key for failure in self.failures)

    # --- running

    def run(self, engine: Engine) -> None:
        """Until nothing is left. Whatever happens, workers end and locks are released."""
        free = list(range(len(engine.devices)))
        try:
            while self.queue or self.running or self.busy:
                while self.queue and free:
                    self._start(engine, free)
                self._tell()
                for handle in engine.wait(list(self.running), 0.5) if self.running else ():
                    self._finish(engine, handle, free)
                self._renew()
                if not self.queue and not self.running and self.busy:
                    self._wait_for_others()
        finally:
            engine.stop()
            for _, _, claim in self.running.values():
                claim.release()
        self._tell()

    def _start(self, engine: Engine, free: list[int]) -> None:
        task = self.queue.popleft()
        claim = self.store.claim(task.key)
        if claim is None:
            self.busy.append(task)
            return
        try:
            if self._is_done(task):  # another run did it in the meantime
                self.present += 1
                claim.release()
                self._settle(task.key)
                return
            self.store.discard(task.key)  # a damaged one
            slot = free.pop()
            self._begun[task.key] = time.monotonic()
            handle = engine.submit(slot, track, task, engine.devices[slot])
        except BaseException:
            claim.release()
            raise
        self.running[handle] = (task, slot, claim)

    def _finish(self, engine: Engine, handle: Any, free: list[int]) -> None:
        task, slot, claim = self.running[handle]
        try:
            outcome = engine.result(handle)
        except WorkerDied as died:
            self.tries[task.key] = self.tries.get(task.key, 0) + 1
            again = self.tries[task.key] < TRIES
            outcome = Outcome(reason="" if again else f"its worker process died {TRIES} times: {died}")
            if again:
                self.queue.appendleft(task)
        except Exception as error:  # of the engine, or of a sequence that cannot be pickled
            last = (str(error).strip().splitlines() or [""])[-1]
            outcome = Outcome(
                reason=f"its task could not be run in a worker: {type(error).__name__}: {last}", trace=str(error)
            )
        try:
            if outcome.run is not None:
                self.store.write(task.key, outcome.run)
                self.tracked += 1
                frames, seconds = self._pace.get(task.spec.name, (0, 0.0))
                spent = time.monotonic() - self._begun[task.key]
                self._pace[task.spec.name] = frames + task.frames, seconds + spent
        finally:
            del self.running[handle]
            claim.release()
        free.append(slot)
        if outcome.reason:
            self._fail(task.key, outcome.reason, outcome.trace)
        self._settle(task.key)

    def _wait_for_others(self) -> None:
        """All that is left is being tracked by another process: wait for it while it lives."""
        task = self.busy.popleft()
        if self._is_done(task) or self.store.claimable(task.key):
            self.queue.append(task)
            return
        self.busy.append(task)
        self._tell(f"waiting for {self.store.owner(task.key)}")
        time.sleep(0.2)

    def _renew(self) -> None:
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            for _, _, claim in self.running.values():
                claim.renew()
            self._renewed = time.monotonic()

    def _fail(self, key: Key, reason: str, trace: str = "") -> None:
        failure = Failure(key, reason, trace)
        self.failures.append(failure)
        if self.on_error == "stop":
            raise RunError(f"{failure}{chr(10) if trace else ''}{trace}")

    def _tell(self, note: str = "") -> None:
        if self._progress is None:
            return
        left = [*self.queue, *(task for task, _, _ in self.running.values()), *self.busy]
        done = self.tracked + self.present + len(self.failures)
        running = tuple(f"{t.key.tracker} {t.key.sequence}" for t, _, _ in self.running.values())
        frames = sum(f for f, _ in self._pace.values())
        self._progress(
            Progress(done, done + len(left), len(self.failures), frames, self._remaining(left), running, note)
        )

    def _remaining(self, left: list[Task]) -> float | None:
        if not self._pace:
            return None
        frames, seconds = (sum(p[i] for p in self._pace.values()) for i in (0, 1))
        pace = {name: s / f for name, (f, s) in self._pace.items()}  # seconds per frame
        now, work = time.monotonic(), 0.0
        for task in left:
            whole = task.frames * pace.get(task.spec.name, seconds / frames)
            begun = self._begun.get(task.key, now)  # of those that run
            work += max(0.0, whole - (now - begun))
        return work / max(1, len(self.running))


def _lengths(sequence: Video, protocol: str) -> list[tuple[int | None, int]]:
    """Anchor (or None) and length of each result of a sequence."""
    if protocol == "multistart":
        return [(anchor, len(anchor_frames(sequence, anchor))) for anchor in anchors(sequence)]
    count = len(sequence)
    if count == 0:
        raise InputError(
            f"{sequence.dataset}/{sequence.name} has no frames; run `keepsight data check {sequence.dataset}`"
        )
    return [(None, count)]


def same_answers(a: Run, b: Run) -> bool:
    """Whether two runs say the same, times aside."""
    pairs = ((a.boxes, b.boxes), (a.presence, b.presence), (a.lost, b.lost))
    for mine, theirs in pairs:
        if (mine is None) != (theirs is None):
            return False
        if mine is not None and theirs is not None and not np.array_equal(mine, theirs, equal_nan=True):
            return False
    return a.regions == b.regions


# --- in the worker ------------------------------------------------------------------------------------------------------


def track(task: Task, device: str) -> Outcome:
    """Make one run. What goes wrong is told, not raised: exceptions of others do not travel between processes."""
    try:
        with one_thread():
            entrant = _entrant(task.spec, device, task.weights_seed, threading.get_ident())
            return Outcome(lead(entrant, task.sequence, task.key.protocol, task.key.anchor, task.seed))
    except Exception as error:
        return Outcome(None, *_explain(error))


def _explain(error: Exception) -> tuple[str, str]:
    """Reason and trace; what was foreseen needs no trace."""
    if isinstance(error, KeepsightError):
        return str(error), ""
    return f"{type(error).__name__}: {error}", traceback.format_exc(limit=-8)


def lead(entrant: Entrant, sequence: Video, protocol: str, anchor: int | None, seed: int) -> Run:
    """Run one protocol."""
    if anchor is not None:
        return run_anchor(entrant, sequence, anchor, seed=seed)
    loops = {"ope": run_ope, "longterm": run_longterm, "supervised": run_supervised, "vos": run_vos}
    return loops[protocol](entrant, sequence, seed=seed)


@lru_cache(maxsize=2)
def _entrant(spec: EntrantSpec, device: str, seed: int, thread: int) -> Entrant:
    """A tracker is loaded once and used for many sequences; each thread has its own."""
    return spec.open(device, seed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Arithmetic on one thread, or as many as OMP_NUM_THREADS says: results and times then depend less on the machine."""
    import cv2
    import torch

    given = os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(int(given) if given.isdigit() and int(given) > 0 else 1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
