"""One process or many: what ``torchrun`` started, and the few sums that the processes of a run exchange."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import InputError

BUCKET_BYTES = 64 * 2**20
"""Gradients are summed in pieces of about this size, so that the copy stays small."""
TIMEOUT_MINUTES = 30
"""That a process waits for the others, e.g. while they read their lists of files."""


@dataclass(frozen=True)
class Processes:
    """This process among the ``count`` of the run."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes files and shows progress."""
        return self.rank == 0

    def largest(self, values: Sequence[float]) -> list[float]:
        """Element by element the largest of all processes' values."""
        if self.count == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float32, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [float(v) for v in found.tolist()]

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Name by name the sum over all processes, which need not know the same names."""
        if self.count == 1:
            return dict(values)
        known: list[dict[str, float] | None] = [None] * self.count
        dist.all_gather_object(known, values)
        names = dict.fromkeys(name for k in known if k for name in k)
        return {name: sum(k.get(name, 0.0) for k in known if k) for name in names}

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Everyone gets the first process's values."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.data, 0)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Mean of every gradient over the processes.

        Done after backward instead of by DistributedDataParallel's hooks during it: a process whose loss is no number can
        say so first, parameters without gradient need no search, and the order of summation never changes, so that a
        resumed run adds the same numbers. Where one process has no gradient for a parameter that another has, it counts 0.
        """
        if self.count == 1:
            return
        found = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        used = [p for p, has in zip(parameters, found.tolist(), strict=True) if has]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self._average([p.grad for p in used if p.grad is not None])

    def average_statistics(self, net: nn.Module) -> None:
        """Mean of the running statistics of batch norms that learn them; equal in all processes after it."""
        if self.count == 1:
            return
        learning = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        self._average(
            [b for m in learning for b in (m.running_mean, m.running_var) if m.track_running_stats and b is not None]
        )

    def _average(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([t.detach().reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            flat /= self.count
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.detach().copy_(part.view_as(tensor))


@contextmanager
def join(device: str | torch.device) -> Iterator[Processes]:
    """The processes of this run: those that ``torchrun`` started (gloo on CPUs, nccl on GPUs), or this one alone.

    ``device``: ``auto``, ``cpu``, ``cuda``...; with several processes on GPUs each takes the one of its local rank.
    Raises :class:`InputError` for a device that is not there.
    """
    from ..trackers.registry import choose_device

    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Processes(choose_device(device))
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no GPU: {torch.cuda.device_count()} are here; "
                "start fewer with --nproc-per-node, or add --device cpu"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=TIMEOUT_MINUTES))
    try:
        yield Processes(chosen, rank, count)
    finally:
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one type, each of about ``BUCKET_BYTES``."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket
