"""The training loop, from top to bottom: processes, data, network, optimiser, resume, then steps until the end.

One path for one process and for many (``torchrun``), on CPUs and GPUs. A run is exact: the weights after step n depend on
the recipe and the seed, not on workers, interruptions, or (up to rounding) the number of processes, because everything
random is seeded by its place in the run and the place is the step. In a run's folder:

    log.jsonl                          one record per report, validation, checkpoint, broken draw
    checkpoints/step-000001000.safetensors
    best.safetensors                   network of the lowest validation loss, for ``keepsight.load``
    NAME.safetensors                   network at the end
    tensorboard/                       where TensorBoard is installed
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from ..weights.store import own_memory, save_weights
from .batch import Batch, Losses
from .checkpoint import (
    Checkpoint,
    check_same_run,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    optimiser_state,
    provenance,
    prune,
    restore,
    save_checkpoint,
)
from .data import Shares, Stream, TrainingError
from .job import Job, LoopConfig, Outcome
from .logs import Meter, RunLog, Status, memory
from .losses import NonFiniteLossError
from .processes import Processes, join

NOTES_LOGGED = 200
"""Broken draws that get a record of their own; later ones are only counted."""
SMALLEST_SCALE = 2.0**-14
"""Of fp16's loss scaler; below it every gradient overflows and the run would stand still."""
_STEP_SEEDS = 2  # beside the purposes of training.data


def train(
    job: Job,
    config: LoopConfig,
    *,
    stop: Callable[[], int] = lambda: 0,
    progress: Callable[[Status], object] = lambda status: None,
) -> Outcome:
    """Train ``job``. ``stop()`` is asked at every step: the number of a signal that arrived ends the run after a checkpoint.

    ``progress`` is called with a :class:`Status` at every report, in the first process only.

    Raises :class:`InputError` for settings that contradict each other, :class:`WeightsError` for a checkpoint that cannot be
    written or belongs to another run, and :class:`TrainingError` when training cannot go on; for a loss or gradient that is no
    number the batch is in ``out`` as a safetensors file with the identity of every sample.
    """
    with join(config.device) as processes, _own_randomness(processes.device):
        return _train(job, config, processes, stop, progress)


def _train(
    job: Job, config: LoopConfig, processes: Processes, stop: Callable[[], int], progress: Callable[[Status], object]
) -> Outcome:
    device, folder = processes.device, Path(config.out).expanduser()

    # --- the run in numbers
    shares = Shares(job.batch, processes.count, processes.rank, config.accumulate)
    steps_per_epoch = job.samples_per_epoch // job.batch
    steps = job.epochs * steps_per_epoch
    last = steps if config.steps is None else min(steps, config.steps)
    identity = json.loads(
        json.dumps({"recipe": job.recipe, "seed": config.seed, "batch": job.batch, "amp": config.amp})
    )

    # --- network and optimiser: everyone starts with the first process's numbers
    net, optimiser = job.net.to(device), job.optimiser
    names = {id(p): n for n, p in net.named_parameters()}
    groups = [str(g.get("name", i)) for i, g in enumerate(optimiser.param_groups)]
    trained = [p for g in optimiser.param_groups for p in g["params"]]
    chosen = {id(p) for p in trained}
    for p in net.parameters():  # what no group has is frozen
        p.requires_grad_(id(p) in chosen)
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")

    # --- resume
    first, best = 0, None
    counters = {"broken": 0, "overflows": 0, "validated": 0}
    found = _newest(folder, config.resume)
    if found is not None:
        there = load_checkpoint(found)
        check_same_run(there, job.name, identity, found)
        restore(there, net, optimiser, found)
        if scaler.is_enabled() and there.scaler:
            scaler.load_state_dict(dict(there.scaler))
        first, best, counters = there.step, there.best, {**counters, **there.counters}
    processes.share([*net.parameters(), *net.buffers()])

    # --- data
    stream = Stream(
        job.source, shares, steps_per_epoch, first, max(first, last), workers=config.workers, prefetch=config.prefetch,
        pin=device.type == "cuda", max_broken_share=config.max_broken_share, broken=counters["broken"] // processes.count,
    )  # fmt: skip
    batches = iter(stream)

    # --- logs
    log = RunLog(folder, step=first, tensorboard=config.tensorboard) if processes.is_first else None
    start = {"recipe": job.name, "steps": last, "processes": processes.count, "device": str(device)}
    settings = {f.name: getattr(config, f.name) for f in fields(config)}
    _write(log, "start", first, **start, settings=settings, resumed=str(found) if found else None)
    meter, notes_logged = Meter(), 0
    waited = 0.0
    began = report_began = checkpoint_at = time.perf_counter()
    step, reported, saved, stopped_by = first, first, first if found else -1, 0

    def save() -> None:
        """A checkpoint of this moment, and away with the old ones."""
        nonlocal saved, checkpoint_at
        counters["broken"] = int(processes.sums({"broken": stream.broken})["broken"])
        saved, checkpoint_at = step, time.perf_counter()
        if not processes.is_first:
            return
        path = save_checkpoint(checkpoint_path(checkpoints_of(folder), step), snapshot())
        prune(path.parent, config.keep, steps_per_epoch if config.keep_epochs else None)
        _write(log, "checkpoint", step, file=path.name)

    def snapshot() -> Checkpoint:
        return Checkpoint(
            job.name, identity, step, steps_per_epoch, own_memory(net.state_dict()), optimiser_state(optimiser, names),
            scaler.state_dict() if scaler.is_enabled() else {}, best, counters, job.header,
        )  # fmt: skip

    def status(
        losses: Mapping[str, float] | None = None,
        speed: float = 0.0,
        wait: float = 0.0,
        left: float = math.inf,
        note: str = "",
    ) -> Status:
        epoch = min(job.epochs, -(-max(step, 1) // steps_per_epoch))
        return Status(step, last, epoch, job.epochs, losses or {}, speed, wait, left, note)

    # --- steps
    try:
        while True:
            epoch, in_epoch = divmod(step, steps_per_epoch)
            epochs_done = epoch if in_epoch == 0 else None

            # validation at an epoch's end; a run that was killed during it does it again
            due = epochs_done and (epochs_done % job.validate_every == 0 or step == steps)
            if job.validation is not None and due and counters["validated"] < step and not stopped_by:
                pause = time.perf_counter()
                if processes.is_first:
                    progress(status(note="validation"))
                values, stopped_by = _validate(job, config, processes, net, stop)
                if values:
                    counters["validated"] = step
                    total = values["losses"]["total"]
                    is_best = best is None or total < best
                    best = total if is_best else best
                    if is_best and processes.is_first:
                        save_weights(folder / "best.safetensors", own_memory(net.state_dict()), provenance(snapshot()))
                    _write(log, "validation", step, epoch=epochs_done, **values, best=best)
                report_began += time.perf_counter() - pause  # speeds are those of steps

            # checkpoint: all processes agree on when, by the first one's clock
            late = processes.is_first and time.perf_counter() - checkpoint_at > 60 * config.checkpoint_minutes
            by_steps = config.checkpoint_steps is not None and step % config.checkpoint_steps == 0
            is_late, asked = processes.largest([late, stop()])
            stopped_by = stopped_by or int(asked)
            is_end = step >= last or bool(stopped_by)
            if step > saved and (is_end or (step > first and (is_late or by_steps or in_epoch == 0))):
                save()
            if is_end:
                break

            # one step: forward and backward of every micro-batch
            _seed(config.seed, step, processes.rank)
            job.train_mode(net)
            job.set_learning_rates(optimiser, epoch + in_epoch / steps_per_epoch)
            optimiser.zero_grad(set_to_none=True)
            micros: list[Batch] = []
            trouble = ""
            for _ in range(config.accumulate):
                waiting = time.perf_counter()
                batch, notes = next(batches)
                waited += time.perf_counter() - waiting
                for note in notes[: NOTES_LOGGED - notes_logged]:
                    _write(log, "skip", step, reason=note)
                    notes_logged += 1
                batch = batch.to(device)
                micros.append(batch)
                try:
                    with _autocast(device, config.amp):
                        losses = job.objective(net, batch)
                    _check_finite(losses, batch)
                except NonFiniteLossError as error:
                    trouble = str(error)
                    break
                scaler.scale(losses.total / config.accumulate).backward()
                meter.add(losses)

            # a loss that is no number ends the run in all processes, before it can reach a weight
            (is_bad,) = processes.largest([bool(trouble)])
            if is_bad:
                raise _not_a_number(folder, step, epoch, processes.rank, micros[-1:], trouble)
            processes.average_gradients(trained)
            processes.average_statistics(net)
            scaler.unscale_(optimiser)
            norm = float(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
            if job.clip is not None and job.clip < norm < math.inf:
                for p in trained:
                    if p.grad is not None:
                        p.grad.mul_(job.clip / norm)
            if not math.isfinite(norm) and not scaler.is_enabled():
                raise _not_a_number(folder, step, epoch, processes.rank, micros, f"the gradient's norm is {norm}")
            scaler.step(optimiser)
            scaler.update()
            if not math.isfinite(norm):  # the scaler left the weights alone and lowers its scale
                counters["overflows"] += 1
                if scaler.get_scale() < SMALLEST_SCALE:
                    raise _not_a_number(folder, step, epoch, processes.rank, micros, "every gradient overflows in fp16")
            step += 1

            # report
            if step % config.log_every == 0 or step == last:
                values = _means(meter, processes)
                rates = {name: g["lr"] for name, g in zip(groups, optimiser.param_groups, strict=True)}
                skipped = {k: int(v) for k, v in processes.sums(stream.counts()).items()}
                now = time.perf_counter()
                seconds, done = now - report_began, step - reported
                told = status(
                    values["losses"],
                    done * job.batch / seconds,
                    waited / seconds,
                    (now - began) / (step - first) * (last - step),
                )
                _write(
                    log, "train", step, epoch=told.epoch, **values, lr=rates,
                    grad_norm=norm, samples_per_second=told.samples_per_second, step_seconds=seconds / done,
                    wait_share=told.wait_share, skipped=skipped, overflows=counters["overflows"],
                    loss_scale=scaler.get_scale() if scaler.is_enabled() else None, memory=memory(device),
                )  # fmt: skip
                if processes.is_first:
                    progress(told)
                meter.clear()
                waited, reported, report_began = 0.0, step, now

        # --- the end
        weights = None
        if step >= last and not stopped_by and processes.is_first:
            weights = save_weights(
                folder / f"{job.name}.safetensors", own_memory(net.state_dict()), provenance(snapshot())
            )
        _write(log, "stop", step, signal=stopped_by, best=best, seconds=round(time.perf_counter() - began, 3))
        return Outcome(folder, step, last, stopped_by, best, weights)
    except (TrainingError, WeightsError, InputError) as error:
        _write(log, "error", step, reason=str(error))
        raise
    finally:
        if log is not None:
            log.close()


def _validate(
    job: Job, config: LoopConfig, processes: Processes, net: nn.Module, stop: Callable[[], int]
) -> tuple[dict[str, dict[str, float]], int]:
    """Mean losses over the validation samples, the same ones every time; empty with the signal's number if one arrives."""
    assert job.validation is not None
    micro = max(1, job.batch // (processes.count * config.accumulate))
    shares = Shares(micro * processes.count, processes.count, processes.rank)
    steps = max(1, job.validation_samples // shares.batch)
    stream = Stream(
        job.validation, shares, steps, 0, steps, workers=config.workers, prefetch=config.prefetch,
        pin=processes.device.type == "cuda", max_broken_share=config.max_broken_share,
    )  # fmt: skip
    meter = Meter()
    _seed(config.seed, 0, processes.rank)
    net.eval()
    for batch, _ in stream:
        (asked,) = processes.largest([stop()])
        if asked:
            return {}, int(asked)
        try:
            with torch.no_grad(), _autocast(processes.device, config.amp):
                losses = job.objective(net, batch.to(processes.device))
            _check_finite(losses, batch)
        except NonFiniteLossError as error:
            raise TrainingError(f"in validation {error}") from None
        meter.add(losses)
    return _means(meter, processes), 0


def _means(meter: Meter, processes: Processes) -> dict[str, dict[str, float]]:
    """``losses`` and ``statistics`` over all processes."""
    sums = processes.sums({f"sum {k}": float(v) for k, v in meter.sums.items()})
    counts = processes.sums({k: float(v) for k, v in meter.counts.items()})
    means: dict[str, dict[str, float]] = {"losses": {}, "statistics": {}}
    for name, count in counts.items():
        kind, _, short = name.partition("/")
        means[kind][short] = sums[f"sum {name}"] / count
    return means


def checkpoints_of(out: str | Path) -> Path:
    """Where a run keeps its checkpoints."""
    return Path(out).expanduser() / "checkpoints"


def _newest(folder: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from."""
    found = list_checkpoints(checkpoints_of(folder))
    if found and not resume:
        raise InputError(
            f"{folder} holds a run ({found[-1].name}); add --resume to go on with it, or give another --out"
        )
    return found[-1] if found else None


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The caller's generators are as before afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _seed(seed: int, step: int, rank: int) -> None:
    """Torch's own generators (dropout) at this place of the run, whatever happened before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, _STEP_SEEDS, step, rank]).generate_state(1, np.uint64)[0] >> 1))


def _autocast(device: torch.device, amp: str) -> Any:
    if amp == "none":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


def _write(log: RunLog | None, kind: str, step: int, **values: Any) -> None:
    if log is not None:
        log.write(kind, step, **values)


def _not_a_number(
    folder: Path, step: int, epoch: int, rank: int, micros: Sequence[Batch], trouble: str
) -> TrainingError:
    """Keep the batch that did it, and say where it is."""
    from safetensors.torch import save_file

    if not trouble:
        return TrainingError(f"step {step}: another process met a loss that is no number; its message says more")
    path = folder / f"nan-step-{step:09d}-process-{rank}.safetensors"
    identities = [name for b in micros for name in b.identities]
    tensors = {f"{i}.{name}": tensor for i, b in enumerate(micros) for name, tensor in _tensors(b)}
    words = {"step": step, "epoch": epoch + 1, "trouble": trouble, "identities": identities}
    kept = f"the batch is in {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own_memory(tensors), path, metadata={"keepsight.batch": json.dumps(words)})
    except Exception as error:  # the message matters more than the file
        kept = f"the batch cannot be kept ({error})"
    known = "" if all(name in trouble for name in identities) else f". Groups of this batch: {'; '.join(identities)}"
    return TrainingError(f"step {step}, epoch {epoch + 1}: {trouble}{known}. No weight was changed by it; {kept}")


def _check_finite(losses: Losses, batch: Batch) -> None:
    if not bool(torch.isfinite(losses.total)):
        raise NonFiniteLossError({k: float(v) for k, v in losses.parts.items()}, batch.identities)


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            yield f.name, value
