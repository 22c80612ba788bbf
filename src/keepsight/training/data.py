"""Samples in, batches out: a stream that is the same whatever the number of workers and processes.

Sample ``k`` of epoch ``e`` is drawn with a generator seeded by (seed, purpose, e, k, attempt) and by nothing else. Step ``s``
of an epoch takes samples ``s * batch`` to ``(s + 1) * batch - 1``; its micro-batches cut them into equal runs, first by
accumulation, then by rank. So R processes see together, in the same order, what one process sees, and a resumed run goes on
in the middle of an epoch without drawing what was drawn before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError, KeepsightError
from .batch import Batch, Group

TRAINING, VALIDATION = 0, 1
"""Purposes: part of every sample's seed, so that validation never draws the training's samples."""
MOST_ATTEMPTS = 10
"""Broken draws in a row for one sample before the run stops."""
BROKEN_KEY = ": broken"
"""End of the sampler's reason for damaged data."""
FEW_BROKEN = 20
"""Broken draws that no share of all draws can forbid: a short run may have bad luck."""
BROKEN_DATA = (KeepsightError, OSError)
"""What damaged files raise; such a draw is counted and replaced. Anything else is a mistake in code and stops the run."""


class TrainingError(KeepsightError, RuntimeError):
    """Training that cannot go on: a loss that is no number, data that are broken throughout, a dead worker."""


class Sampler(Protocol):
    """Draws frames of one object (``training.sampler.GroupSampler``).

    May count objects that it passes over in ``skipped``, a Counter; keys that end in ``: broken`` are damaged data.
    """

    def draw(self, rng: np.random.Generator) -> Group: ...


Process = Callable[[Group, np.random.Generator], Any]
"""Frames of one object to one sample (``training.processing.Processing``)."""
Collate = Callable[[list[Any]], Batch]
"""Samples to a batch."""


@dataclass(frozen=True)
class Draw:
    """Names one sample of a run."""

    epoch: int
    index: int
    """Position in the epoch, counted from 0 over all processes."""


@dataclass(frozen=True)
class Source:
    """Where samples come from. Travels to the workers, so everything in it can be pickled."""

    sampler: Sampler
    process: Process
    collate: Collate
    seed: int = 0
    purpose: int = TRAINING

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; expected a whole number of at least 0")

    def rng(self, draw: Draw, attempt: int = 0) -> np.random.Generator:
        """The generator of one sample; validation draws the same samples in every epoch."""
        epoch = 0 if self.purpose == VALIDATION else draw.epoch
        return np.random.default_rng([self.seed, self.purpose, epoch, draw.index, attempt])

    def sample(self, draw: Draw) -> Sampled:
        """One sample. Broken data are replaced by the next attempt's draw and noted; the attempt is part of the seed."""
        notes: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            rng, group = self.rng(draw, attempt), None
            try:
                group = self.sampler.draw(rng)
                return Sampled(self.process(group, rng), notes)
            except BROKEN_DATA as error:
                notes.append(f"{_name(draw, group)}: {type(error).__name__}: {error}")
            except Exception:
                trace = traceback.format_exc()
                return Sampled(None, notes, f"{_name(draw, group)} cannot be made:\n{trace}")
        return Sampled(None, notes, f"{MOST_ATTEMPTS} draws in a row were broken, the last: {notes[-1]}")


@dataclass(eq=False)
class Sampled:
    """What a worker makes for one :class:`Draw`."""

    sample: Any
    broken: list[str]
    """Draws that were broken and replaced, in words."""
    failure: str = ""
    """Why there is no sample."""


@dataclass(eq=False)
class Loaded:
    """A micro-batch on its way from a worker."""

    batch: Batch | None
    broken: list[str]
    skipped: Counter[str]
    """Objects that the sampler passed over, by reason."""
    failure: str
    seconds: float
    """That the worker took for the whole micro-batch."""

    def pin_memory(self) -> Loaded:
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _Micros(Dataset[Loaded]):
    """Map-style and virtual: its index is the list of draws of a micro-batch."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, draws: Sequence[Draw]) -> Loaded:
        began = perf_counter()
        before = Counter(getattr(self.source.sampler, "skipped", {}))
        found = [self.source.sample(d) for d in draws]
        skipped = Counter(getattr(self.source.sampler, "skipped", {})) - before
        broken = [note for s in found for note in s.broken]
        failure = next((s.failure for s in found if s.failure), "")
        batch = None
        if not failure:
            try:
                batch = self.source.collate([s.sample for s in found])
            except Exception:
                names = ", ".join(_name(d, None) for d in draws)
                failure = f"{names} cannot be put together:\n{traceback.format_exc()}"
        return Loaded(batch, broken, skipped, failure, perf_counter() - began)


@dataclass(frozen=True)
class Shares:
    """How a step's samples are shared out."""

    batch: int
    """Samples of one step, over all processes."""
    ranks: int = 1
    rank: int = 0
    accumulate: int = 1
    """Micro-batches of a step in each process."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.accumulate < 1 or self.batch % (self.ranks * self.accumulate):
            raise InputError(
                f"a batch of {self.batch} cannot be shared equally by {self.ranks} processes with {self.accumulate} "
                f"micro-batches each; take a batch that is a multiple of {self.ranks * self.accumulate}"
            )

    @property
    def micro(self) -> int:
        """Samples of a micro-batch."""
        return self.batch // (self.ranks * self.accumulate)

    def draws(self, epoch: int, step: int) -> list[list[Draw]]:
        """This process's micro-batches of step ``step`` of epoch ``epoch``."""
        first = [
            step * self.batch + a * self.ranks * self.micro + self.rank * self.micro for a in range(self.accumulate)
        ]
        return [[Draw(epoch, i) for i in range(start, start + self.micro)] for start in first]


class Stream:
    """Iterates over the micro-batches of steps ``first`` to ``last - 1`` of a whole run (or of validation).

    One stream goes through all epochs, so workers prefetch over an epoch's end and over validation. ``workers=0`` draws in
    this process. Counts broken draws in ``broken``; raises :class:`TrainingError` when a sample cannot be made, a worker
    died, or more than ``max_broken_share`` of the draws were broken.
    """

    def __init__(
        self,
        source: Source,
        shares: Shares,
        steps_per_epoch: int,
        first: int,
        last: int,
        *,
        workers: int = 0,
        prefetch: int = 2,
        pin: bool = False,
        max_broken_share: float = 0.05,
        broken: int = 0,
    ) -> None:
        self.broken = broken
        """Broken draws of this process so far."""
        self.skipped: Counter[str] = Counter()
        """What the sampler passed over since the start of this stream, by reason."""
        self.drawn = first * shares.micro * shares.accumulate
        self.seconds = 0.0
        """That workers spent so far."""
        self._max_broken_share = max_broken_share
        plan = [divmod(step, steps_per_epoch) for step in range(first, last)]
        micros = (m for epoch, step in plan for m in shares.draws(epoch, step))
        options: dict[str, Any] = {}
        if workers:
            options = {
                "multiprocessing_context": _context(),
                "worker_init_fn": _start_worker,
                "prefetch_factor": prefetch,
            }
        self._loader = DataLoader(
            _Micros(source),
            sampler=_Once(micros),  # batch_size=None below: an index is a whole micro-batch
            batch_size=None,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # torch declares a list, and passes what __getitem__ gave
            generator=torch.Generator(),  # the loader draws a seed that nothing here uses
            num_workers=workers,
            pin_memory=pin,
            **options,
        )

    def __iter__(self) -> Iterator[tuple[Batch, list[str]]]:
        """Micro-batches, each with the words about broken draws that it replaced."""
        try:
            for loaded in self._loader:
                yield self._check(loaded), loaded.broken
        except RuntimeError as error:
            if isinstance(error, TrainingError) or "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"a data worker died: {error}. Killed workers mean too little memory (use fewer --workers) or a full "
                "/dev/shm; --workers 0 draws without them"
            ) from error

    def counts(self) -> dict[str, float]:
        """``broken`` and the sampler's reasons, for the log."""
        return {"broken": float(self.broken), **{k: float(v) for k, v in self.skipped.items()}}

    def _check(self, loaded: Loaded) -> Batch:
        self.skipped.update(loaded.skipped)
        self.broken += len(loaded.broken) + sum(n for k, n in loaded.skipped.items() if k.endswith(BROKEN_KEY))
        self.seconds += loaded.seconds
        if loaded.failure or loaded.batch is None:
            raise TrainingError(loaded.failure)
        self.drawn += len(loaded.batch) + len(loaded.broken) + sum(loaded.skipped.values())
        if self.broken > max(FEW_BROKEN, self._max_broken_share * self.drawn):
            raise TrainingError(
                f"{self.broken} of {self.drawn} draws were broken, more than {self._max_broken_share:.0%}; the log names "
                f"them, the last: {loaded.broken[-1] if loaded.broken else 'before this batch'}. "
                "Mend the data, or allow more with max_broken_share"
            )
        return loaded.batch


class _Once(torch.utils.data.Sampler[list[Draw]]):
    """The plan of a run as torch's loader wants it."""

    def __init__(self, micros: Iterator[list[Draw]]) -> None:
        self._micros = micros

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._micros


def _as_it_is(loaded: Loaded) -> Loaded:
    return loaded


def _context() -> Any:
    """Never a plain fork: it copies locks of threads (CUDA, OpenCV) that do not exist in the child."""
    if sys.platform == "linux":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["keepsight.training.data"])  # torch is imported once, not in each worker
        return context
    return multiprocessing.get_context("spawn")


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    import cv2

    cv2.setNumThreads(0)
    # torch's own watchdog looks at the parent, which here is the fork server; it lives as long as its workers do
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C and a batch system's SIGTERM go to every process of the group; the main one finishes its step with our samples.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_with_parent() -> None:
    """A killed run leaves no workers behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _name(draw: Draw, group: Group | None) -> str:
    what = f" ({group.identity})" if group is not None and group.identity else ""
    return f"sample {draw.index} of epoch {draw.epoch}{what}"
