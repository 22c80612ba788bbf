"""ATOM's online learning in closed form beside the same solver with autograd products, in one run on one thread.

    python benchmarks/atom_update.py                        # about two minutes
    python benchmarks/atom_update.py --json out.json        # also as a file
    python benchmarks/atom_update.py --device cuda

``update``: the filter (4 × 4 of 64 channels), a full memory of 250 samples of 18 × 18, one Gauss-Newton step of 5 conjugate
gradient iterations. ``first frame``: filter and projection (256 -> 64) together, 30 samples, 6 steps of 10 iterations. The
autograd way is :class:`AutogradProblem` with the residuals as one would write them, with convolutions on (I, C, H, W) maps.
Both ways solve the same problem with the same solver; that they agree is checked first, in float64 (of the first frame, the
first 5 iterations: later ones multiply rounding). Features are random, rectified and scaled as the tracker scales them; the
arithmetic does not depend on their values.

Every round measures all in turn; a ratio is the median over rounds of autograd's time / the closed form's, or of a part's time /
a backbone's forward pass, in the same round. The spread is from the 10th to the 90th percentile.

Memory: the bytes of what the sample memory keeps, and how far one update raises the peak above what was held before it, each
in a process of its own (Linux: resident memory; CUDA: allocated memory).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance
from torch import Tensor

import keepsight as ks
from keepsight.models.atom import AtomLiteNet, AtomNet, unit_power
from keepsight.nn.correlation import Samples
from keepsight.nn.gauss_newton import (
    AutogradProblem,
    ClassifierTargets,
    FilterProblem,
    Problem,
    SolverConfig,
    TwoLayerProblem,
    Variables,
    minimise,
    project,
)
from keepsight.nn.target_filter import gaussian_label
from keepsight.online.memory import MemoryConfig, SampleMemory
from keepsight.trackers.atom import preset

CELLS, CHANNELS, INITIAL = 18, 256, 30  # features of a 288 px crop; samples of the first frame
LIMIT = 1 / 3  # of autograd's time, for an update
PLAIN, FAST = "autograd", "closed form"
WAYS = (FAST, PLAIN)
RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Task:
    """One problem in both ways."""

    problems: dict[str, Problem]
    start: Variables
    solver: SolverConfig

    def solve(self, way: str) -> Variables:
        return minimise(self.problems[way], self.start, self.solver).variables


def random_maps(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Features (count, 256, 18, 18), of mean square 1."""
    return unit_power(torch.randn(count, CHANNELS, CELLS, CELLS, device=device, dtype=dtype).relu())


def random_labels(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Gaussians (count, 18, 18) near the middle, for a target of a fifth of the crop."""
    centres = CELLS / 2 + torch.randn(count, 2, device=device, dtype=dtype)
    return gaussian_label(centres, (CELLS, CELLS), preset("atom").label_sigma_factor * CELLS / 5)


def residuals(
    scores: Tensor, labels: Tensor, weights: Tensor, bend: float | None, regularised: list[tuple[float, Tensor]]
) -> list[Tensor]:
    """As one would write them, of ``scores`` (I, 1, H + 1, W + 1): √γ·(φ(s) - y) and √λ·w."""
    assert bend is not None
    s = scores[:, 0, :-1, :-1]
    value = torch.where(s >= 0, s, bend * (torch.exp(s.clamp(max=0) / bend) - 1))
    return [weights.sqrt()[:, None, None] * (value - labels), *(math.sqrt(factor) * w for factor, w in regularised)]


def first_frame(device: torch.device, dtype: torch.dtype) -> Task:
    """The joint fit of filter and projection."""
    config = preset("atom")
    torch.manual_seed(0)
    maps, labels = random_maps(INITIAL, device, dtype), random_labels(INITIAL, device, dtype)
    weights, bend = labels.new_full((INITIAL,), 1 / INITIAL), config.response_bend
    factors = config.filter_reg, config.projection_reg

    def residual(f: Tensor, p: Tensor) -> list[Tensor]:
        scores = F.conv2d(F.conv2d(maps, p), f, padding=config.kernel_size // 2)
        return residuals(scores, labels, weights, bend, [(factors[0], f), (factors[1], p)])

    fast = TwoLayerProblem(Samples.from_maps(maps), ClassifierTargets(labels, weights, bend), factors)
    start = random_filter(device, dtype), random_projection(device, dtype)
    return Task({FAST: fast, PLAIN: AutogradProblem(residual)}, start, config.init_solver)


def update(
    device: torch.device, dtype: torch.dtype, ways: tuple[str, ...] = WAYS, size: int | None = None
) -> tuple[Task, SampleMemory]:
    """The update with a full memory of ``size`` samples, by default the tracker's 250."""
    config = preset("atom")
    bank = full_memory(config.memory if size is None else replace(config.memory, size=size), device, dtype)
    samples, labels, weights = bank.filled()
    labels, weights, bend = labels[:, 0], weights[:, 0], config.response_bend
    problems: dict[str, Problem] = {}
    if FAST in ways:
        targets = ClassifierTargets(labels, weights, bend)
        problems[FAST] = FilterProblem(samples, targets, config.filter_reg)
    if PLAIN in ways:
        maps = samples.cells[0].unflatten(1, samples.size).permute(0, 3, 1, 2).contiguous()  # (250, 64, 18, 18)

        def residual(f: Tensor) -> list[Tensor]:
            scores = F.conv2d(maps, f, padding=config.kernel_size // 2)
            return residuals(scores, labels, weights, bend, [(config.filter_reg, f)])

        problems[PLAIN] = AutogradProblem(residual)
    return Task(problems, (random_filter(device, dtype),), config.update_solver), bank


def full_memory(config: MemoryConfig, device: torch.device, dtype: torch.dtype) -> SampleMemory:
    """All slots filled, one sample after the other as in tracking."""
    torch.manual_seed(0)
    projection = random_projection(device, dtype)
    labels = random_labels(config.size, device, dtype)

    def projected(count: int) -> Samples:
        maps = Samples.from_maps(random_maps(count, device, dtype))
        return Samples(project(maps.cells, projection), maps.size)

    bank = SampleMemory.start(config, projected(INITIAL), labels[:INITIAL, None])
    for label in labels[INITIAL:]:
        bank.insert(projected(1).cells[0, 0], label[None])
    return bank


def random_filter(device: torch.device, dtype: torch.dtype) -> Tensor:
    config = preset("atom")
    shape = 1, config.projected_channels, config.kernel_size, config.kernel_size
    return torch.randn(shape, device=device, dtype=dtype) / math.prod(shape)


def random_projection(device: torch.device, dtype: torch.dtype) -> Tensor:
    shape = preset("atom").projected_channels, CHANNELS, 1, 1
    return torch.randn(shape, device=device, dtype=dtype) / math.sqrt(CHANNELS)


# --- measuring -----------------------------------------------------------------------------------------------------------


def disagreement(task: Task) -> float:
    """Largest difference of the two ways' variables after 5 iterations, as a share of their largest value."""
    solver = replace(task.solver, gauss_newton_steps=1, cg_iterations=5)
    fast, plain = (minimise(task.problems[way], task.start, solver).variables for way in WAYS)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(fast, plain, strict=True))


def measure(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of every call in every round, the best of three each; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            best = float("inf")
            for _ in range(1 if name.startswith("first frame") else 3):
                start = time.perf_counter()
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - start)
            if turn:
                times[name].append(best * 1e3)
    return times


def spread(values: list[float]) -> dict[str, float]:
    low, high = np.percentile(values, (10, 90))
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def ratio(times: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    return spread([a / b for a, b in zip(times[one], times[other], strict=True)])


def held_bytes(bank: SampleMemory) -> dict[str, int]:
    """Bytes of what is kept: of the storages, not of views."""
    tensors = {"features": bank.cells, "labels": bank.targets}
    return {name: t.untyped_storage().nbytes() for name, t in tensors.items()} | {"weights": bank.weights.nbytes}


def peak_rise(way: str, device: torch.device) -> float | None:
    """Megabytes by which an update raises the peak above what is held before it; None where it cannot be measured."""
    task, _ = update(device, torch.float32, (way,))
    small, _ = update(device, torch.float32, (way,), size=INITIAL)
    with torch.inference_mode():
        small.solve(way)  # code and workspaces are loaded once
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            task.solve(way)
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        if not RESET_PEAK.exists():
            return None
        RESET_PEAK.write_text("5")  # the high-water mark falls to what is resident now
        before = resident("VmRSS")
        task.solve(way)
        return (resident("VmHWM") - before) / 1e6


def resident(key: str) -> int:
    """Bytes of memory of this process, by a name in Linux's /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", choices=WAYS, help="only print the peak memory of an update made this way, in MB")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.peak:
        print(json.dumps(peak_rise(args.peak, device)))
        return
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["command"] = " ".join(["python", "benchmarks/atom_update.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())

    agree = {
        "update": disagreement(update(device, torch.float64)[0]),
        "first frame": disagreement(first_frame(device, torch.float64)),
    }
    if max(agree.values()) > 1e-8:
        raise SystemExit(f"the ways disagree: {agree}")

    later, bank = update(device, torch.float32)
    first = first_frame(device, torch.float32)
    calls: dict[str, Callable[[], object]] = {}
    for name, task in (("update", later), ("first frame", first)):
        for way in WAYS:
            calls[f"{name}, {way}"] = lambda t=task, w=way: t.solve(w)  # type: ignore[misc]
    crop = 255 * torch.rand(1, 3, CELLS * 16, CELLS * 16, device=device)
    nets: dict[str, AtomNet | AtomLiteNet] = {"ResNet-18": AtomNet(), "EfficientNet-Lite0": AtomLiteNet()}
    for name, net in nets.items():
        fast = net.eval().for_inference().to(device)
        calls[f"{name} forward"] = lambda n=fast: n.extract(crop)  # type: ignore[misc]
    with torch.inference_mode():
        times = measure(calls, args.rounds, device)

    interval = preset("atom").train_skipping
    ratios = {name: ratio(times, f"{name}, {PLAIN}", f"{name}, {FAST}") for name in ("update", "first frame")}
    shares = {
        name: {
            "update / forward": ratio(times, f"update, {FAST}", f"{name} forward"),
            f"per frame, one update in {interval}": spread(
                [a / b / interval for a, b in zip(times[f"update, {FAST}"], times[f"{name} forward"], strict=True)]
            ),
        }
        for name in nets
    }
    held = held_bytes(bank)
    peaks = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--peak", way, "--device", args.device, "--threads", str(args.threads)]
        # glibc then gives freed tensors back at once, so that the peak is not hidden in memory freed before
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        peaks[way] = json.loads(done.stdout)

    for name, values in times.items():
        row = spread(values)
        print(f"{name:28s} {row['median']:9.2f} ms  ({row['low']:.2f} to {row['high']:.2f})")
    for name, row in ratios.items():
        print(f"{name}: autograd takes {row['median']:.1f} ({row['low']:.1f} to {row['high']:.1f}) times as long")
    used = 1 / ratios["update"]["median"]
    print(f"update: {used:.3f} of autograd's time (limit {LIMIT:.3f}: {'held' if used <= LIMIT else 'NOT HELD'})")
    for name, share in shares.items():
        print(f"{name}: " + ", ".join(f"{what} {row['median']:.3f}" for what, row in share.items()))
    print(f"the memory holds {sum(held.values()) / 1e6:.2f} MB: {held} bytes")
    print(f"an update raises the peak by (MB): {peaks}")
    print(f"largest relative difference in float64: {agree}")
    print(json.dumps(made))
    if args.json:
        report = {
            "provenance": made,
            "threads": args.threads,
            "device": str(device),
            "rounds": args.rounds,
            "milliseconds": {name: spread(values) for name, values in times.items()},
            "autograd / closed form": ratios,
            "closed form / autograd, update": {"median": used, "limit": LIMIT},
            "closed form's update / backbone": shares,
            "memory bank, bytes": held | {"total": sum(held.values())},
            "peak above what was held, one update, MB": peaks,
            "largest relative difference in float64": agree,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
