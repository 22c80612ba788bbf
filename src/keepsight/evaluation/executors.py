"""Where tasks run: this process, a pool of processes, Ray or Dask. Existing engines; nothing is scheduled here.

An engine has ``slots`` tasks at once at most, and a slot belongs to one device. ``submit`` hands a function to a slot,
``wait`` returns the handles that have ended, ``result`` what the function returned. A worker that dies takes no other
task with it.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import InputError, nearest_names

EXECUTORS = ("processes", "serial", "ray", "dask")


class WorkerDied(Exception):
    """The process of a task has ended without a result: killed, out of memory, or crashed."""


class Engine(ABC):
    """Runs functions elsewhere."""

    devices: tuple[str, ...]
    """The device of each slot."""

    @abstractmethod
    def submit(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start ``function(*arguments)`` in a free slot; returns a hashable handle."""

    @abstractmethod
    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The handles that have ended; after ``seconds`` also an empty list."""

    @abstractmethod
    def result(self, handle: Any) -> Any:
        """What the function of an ended handle returned. Raises :class:`WorkerDied`, and what the function raised."""

    @abstractmethod
    def stop(self) -> None:
        """End what still runs, soon."""


def open_engine(name: str, devices: Sequence[str], processes: int) -> Engine:
    """``name``: one of :data:`EXECUTORS`; ``ray:ADDRESS`` and ``dask:ADDRESS`` join a running cluster.

    Slots are ``processes`` (at a Dask cluster's address: its threads), devices are dealt to them in turn.
    Raises :class:`InputError` for an unknown name or an engine that is not installed.
    """
    kind, _, address = name.partition(":")
    if kind not in EXECUTORS or (address and kind not in ("ray", "dask")):
        raise InputError(f"no executor {name!r}; {nearest_names(kind, EXECUTORS)}; ray and dask may have :ADDRESS")
    dealt = tuple(devices[i % len(devices)] for i in range(processes))
    if kind == "serial":
        return Serial(dealt[:1])
    if kind == "processes":
        return Processes(dealt)
    return Ray(dealt, address or None) if kind == "ray" else Dask(dealt, address or None)


class Serial(Engine):
    """Here and now."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.devices = devices

    def submit(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        return list(handles)

    def result(self, handle: Future[Any]) -> Any:
        return handle.result()

    def stop(self) -> None:
        pass


# --- processes of this machine ------------------------------------------------------------------------------------------


class Processes(Engine):
    """A process for each slot (each its own pool of one: if it dies, it is clear which task it was working on).

    Workers have one thread for arithmetic, unless OMP_NUM_THREADS says otherwise, and end when this process does, however
    it ends: they hold one side of a pipe whose other side is only here.
    """

    def __init__(self, devices: tuple[str, ...]) -> None:
        import multiprocessing

        if getattr(
            multiprocessing.current_process(), "_inheriting", False
        ):  # a worker that is importing the main script
            raise InputError(
                "worker processes import the script that starts them, and this one starts a run when it is imported: put the "
                "call under `if __name__ == '__main__':`"
            )
        self.devices = devices
        self._context = multiprocessing.get_context("spawn")  # fork and torch's threads do not go together
        self._lifelines: list[Any] = [None] * len(devices)
        self._pools: list[ProcessPoolExecutor | None] = [None] * len(devices)

    def submit(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with one_thread_environment(), _sigint_held_back():  # the process is started here if there is none yet
            try:
                return self._pool(slot).submit(function, *arguments)
            except BrokenProcessPool:  # died between two tasks
                self._close(slot)
                return self._pool(slot).submit(function, *arguments)

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        pool = self._pools[slot]
        if pool is None:
            theirs, self._lifelines[slot] = self._context.Pipe(duplex=False)
            pool = ProcessPoolExecutor(1, mp_context=self._context, initializer=_begin_worker, initargs=(theirs,))
            self._pools[slot] = pool
        return pool

    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        return list(wait(handles, timeout=seconds, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        try:
            return handle.result()
        except BrokenProcessPool:
            raise WorkerDied("its process ended (killed, out of memory, or crashed)") from None

    def stop(self) -> None:
        for slot in range(len(self._pools)):
            self._close(slot)

    def _close(self, slot: int) -> None:
        pool, lifeline = self._pools[slot], self._lifelines[slot]
        self._pools[slot] = self._lifelines[slot] = None
        if pool is not None:
            lifeline.close()
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker(lifeline: Any) -> None:
    """Runs first in each worker process."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process decides
    os.dup2(2, 1)  # what a tracker prints is not what the main process was asked for
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Any) -> None:
    with suppress(OSError):
        lifeline.poll(None)  # nothing is ever sent: this returns when the other side has closed
    os._exit(1)


@contextmanager
def _sigint_held_back() -> Iterator[None]:
    """Processes that are started here never get SIGINT, also while they import; here it arrives afterwards."""
    import signal

    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def one_thread_environment() -> Iterator[None]:
    """Processes that are started here compute with one thread: many that wait for each other are far slower than one."""
    names = [n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if n not in os.environ]
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)


# --- clusters -----------------------------------------------------------------------------------------------------------


class Ray(Engine):
    """Ray's tasks. With CUDA devices, Ray deals out the GPUs of its machines."""

    def __init__(self, devices: tuple[str, ...], address: str | None) -> None:
        ray = _module("ray")
        self._ray, self._started = ray, not ray.is_initialized()
        if self._started:
            own = {} if address else {"num_cpus": len(devices)}
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level="ERROR", **own)
        gpus = len({d for d in devices if d.startswith("cuda")})
        self._options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0}
        if gpus:
            self._options["num_gpus"] = gpus / len(devices)
        self.devices = tuple("cuda" if d.startswith("cuda") else d for d in devices)

    def submit(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._ray.remote(function).options(**self._options).remote(*arguments)

    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        done, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds)
        return list(done)

    def result(self, handle: Any) -> Any:
        try:
            return self._ray.get(handle)
        except (self._ray.exceptions.WorkerCrashedError, self._ray.exceptions.OutOfMemoryError) as error:
            raise WorkerDied(str(error).splitlines()[0]) from None

    def stop(self) -> None:
        if self._started:
            self._ray.shutdown()


class Dask(Engine):
    """Dask's futures, in processes of one thread each unless a running cluster is given."""

    def __init__(self, devices: tuple[str, ...], address: str | None) -> None:
        distributed = _module("distributed", "dask distributed")
        self._distributed = distributed
        with one_thread_environment():
            if address:
                self._client = distributed.Client(address)
                slots = max(1, sum(self._client.nthreads().values()))
                devices = tuple(devices[i % len(devices)] for i in range(slots))
            else:
                self._client = distributed.Client(
                    n_workers=len(devices), threads_per_worker=1, processes=True, dashboard_address=None
                )
        self.devices = devices

    def submit(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False, retries=0)

    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        with suppress(TimeoutError, self._distributed.TimeoutError):
            return list(self._distributed.wait(list(handles), timeout=seconds, return_when="FIRST_COMPLETED").done)
        return []

    def result(self, handle: Any) -> Any:
        try:
            return handle.result()
        except self._distributed.scheduler.KilledWorker as error:
            raise WorkerDied(str(error).splitlines()[0]) from None

    def stop(self) -> None:
        with suppress(Exception):  # a cluster that is going down complains in many ways
            self._client.close(timeout=5)
            if self._client.cluster is not None:
                self._client.cluster.close(timeout=5)


def _module(name: str, packages: str | None = None) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise InputError(
            f"the executor needs {name}, which is not installed: pip install {packages or name}; or --executor processes"
        ) from None
