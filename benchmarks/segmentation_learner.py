"""LWL's learner: its analytic steps against the same steps with autograd's products, in one run on one thread.

    python benchmarks/segmentation_learner.py                        # about a minute
    python benchmarks/segmentation_learner.py --json out.json        # also as a file

480p: features of 52 x 30 cells and 512 channels, 16 filters of 3 x 3, one target. ``update``: 3 steps on a full memory of 32
samples; ``init``: 20 steps on one sample. All numbers are random.

``autograd``: spec §0.2 word by word. Residuals by ``conv2d``, J^T r by ``torch.autograd.grad`` with a graph, J g by
differentiating that once more. ``autograd, channels-last``: the same with features and filters in the memory format that suits
the CPU's convolutions best, which is also how the analytic steps find them: what is left between the two is the products saved.
Every case starts from the memory as it keeps it. That all give the same filter is checked in every round.

Every round runs all cases in turn, after one that warms up. A ratio is the median over rounds of a case's time / the
analytic time in the same round; the spread is from the 10th to the 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from provenance import provenance
from torch import Tensor

import keepsight as ks
from keepsight.nn.segmentation import fit_filter

WIDTH, HEIGHT, CHANNELS, FILTERS, KERNEL = 52, 30, 512, 16, 3
RIDGE = 0.01
SIZES = {"update": (32, 3), "init": (1, 20)}  # samples, steps
LIMIT = {"update": 2.0}  # of ``autograd``; on one sample the products are quick and all else weighs more
ANALYTIC, AUTOGRAD, AUTOGRAD_LAST = "analytic", "autograd", "autograd, channels-last"


def by_autograd(bank: Tensor, features: Tensor, labels: Tensor, weights: Tensor, steps: int) -> Tensor:
    """``bank`` (M, D, k, k), ``features`` (I, D, h, w), ``labels`` and ``weights`` (I, M, h, w)."""
    bank = bank.detach()
    for _ in range(steps):
        bank = bank.requires_grad_()
        data = weights * (F.conv2d(features, bank, padding=KERNEL // 2) - labels)
        residuals = (data, RIDGE * bank)
        dummies = tuple(r.detach().requires_grad_() for r in residuals)
        gradient = torch.autograd.grad(residuals, bank, dummies, create_graph=True)[0]  # J^T r
        change = torch.autograd.grad(gradient, dummies, gradient.detach())  # J g
        gradient = gradient.detach()
        square = change[0].square().sum() + change[1].square().sum()
        bank = bank.detach() - gradient.square().sum() / square.clamp(min=1e-8) * gradient
    return bank


def cases(samples: int, steps: int) -> dict[str, Callable[[], Tensor]]:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(samples, CHANNELS, HEIGHT, WIDTH, generator=g) / (3 * CHANNELS**0.5)  # as normalised
    labels = torch.rand(samples, FILTERS, HEIGHT, WIDTH, generator=g)
    weights = torch.rand(samples, FILTERS, HEIGHT, WIDTH, generator=g) / samples
    bank = torch.zeros(FILTERS, CHANNELS, KERNEL, KERNEL)
    last = features.contiguous(memory_format=torch.channels_last)
    bank_last = bank.contiguous(memory_format=torch.channels_last)
    memory = last[:, None]  # (I, 1, D, h, w), read where it is

    def analytic() -> Tensor:
        with torch.no_grad():
            return fit_filter(bank[None], memory, labels[:, None], weights[:, None], RIDGE, steps)[0]

    return {
        ANALYTIC: analytic,
        AUTOGRAD: lambda: by_autograd(bank, features, labels, weights, steps),
        AUTOGRAD_LAST: lambda: by_autograd(bank_last, last, labels, weights, steps),
    }


def measure(made: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every case in every round."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(-1, rounds):
        found = {}
        for name, run in made.items():
            start = time.perf_counter()
            found[name] = run()
            if turn >= 0:
                times[name].append((time.perf_counter() - start) * 1e3)
        for name, bank in found.items():
            off = float((bank - found[ANALYTIC]).abs().max() / bank.abs().max())
            if off > 1e-4:
                raise SystemExit(f"{name}: the filter differs by {off:.1e} of its largest value")
    return times


def spread(values: list[float]) -> dict[str, float]:
    low, high = np.percentile(values, (10, 90))
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["command"] = " ".join(["python", "benchmarks/segmentation_learner.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    report: dict[str, Any] = {"provenance": made, "threads": args.threads, "rounds": args.rounds}
    for size, (samples, steps) in SIZES.items():
        times = measure(cases(samples, steps), args.rounds)
        ratios = {
            name: spread([a / b for a, b in zip(own, times[ANALYTIC], strict=True)])
            for name, own in times.items()
            if name != ANALYTIC
        }
        report[size] = {
            "samples": samples, "steps": steps, "milliseconds": {name: spread(own) for name, own in times.items()},
            "time / analytic time": ratios,
        }  # fmt: skip
        if size in LIMIT:
            report[size] |= {"limit": LIMIT[size], "held": ratios[AUTOGRAD]["median"] >= LIMIT[size]}
        print(f"{size}: {samples} samples, {steps} steps; analytic {statistics.median(times[ANALYTIC]):.1f} ms")
        for name, row in ratios.items():
            took = statistics.median(times[name])
            print(f"  {name}: {took:.1f} ms, {row['median']:.2f} times ({row['low']:.2f} to {row['high']:.2f})")
    print(json.dumps(made))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
