"""Speed of scoring: ours against the plain loop over trackers and sequences, in memory and with result files read.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py               # about a minute; --json FILE also writes a file

280 sequences × 2,500 frames × 10 trackers with LaSOT's rules as pytracking applies them: 7 million boxes. The plain loop is what
one writes from the rules (spec/evaluation.md §1): for every sequence and tracker overlap and two centre errors, then frames ×
thresholds comparisons for three curves. It is written twice, with numpy and with torch as pytracking has it, and the faster of
the two is the reference. Files are tab-separated integers, as pytracking writes them; the plain loop reads them by trying
numpy.loadtxt with a tab and then with a comma. All variants run in turn in every round, ratios are medians over rounds, and the
results must be equal. For scale: pytracking itself took 3.5 s in memory and 4.7 s with files on another 2-core machine that had
other work (golden/metrics/README.md).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

import keepsight as ks
from keepsight.evaluation.one_pass import measure_all, prepare
from keepsight.evaluation.rules import ope_rule
from keepsight.text import read_rows, write_rows

LIMITS = {"in memory": 1 / 10, "with files": 1 / 4}
Curves = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Success (T, S, 21), precision and normalised precision (T, S, 51), float32; mean overlap (T, S) float64."""


class Data:
    """Fabricated annotations and results; every number is an integer, as in LaSOT and in pytracking's files."""

    def __init__(self, sequences: int, frames: int, trackers: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.names = [f"sequence-{i}" for i in range(sequences)]
        self.truth, self.visible = [], []
        self.results: list[list[np.ndarray]] = [[] for _ in range(trackers)]
        for _ in self.names:
            corner = 100 + np.abs(np.cumsum(rng.normal(0, 4, (frames, 2)), axis=0)) % 900
            scale = np.exp(np.cumsum(rng.normal(0, 0.01, (frames, 2)), axis=0)).clip(0.3, 3)
            truth = np.trunc(np.concatenate((corner, rng.uniform(30, 200, 2) * scale), axis=1)).clip(1)
            visible = np.ones(frames, bool)
            start = int(rng.integers(1, max(2, frames // 2)))
            visible[start : start + int(rng.integers(0, frames // 10))] = False  # about 5 % absent
            for t, results in enumerate(self.results):
                noise = (
                    rng.normal(0, 1 + 2 * t, (frames, 4)) + (np.arange(frames)[:, None] > frames * (1 - 0.05 * t)) * 400
                )
                box = np.trunc(truth + noise)
                box[:, 2:] = box[:, 2:].clip(1)
                if rng.random() < 0.1:  # some results have boxes without area, which repeat the box before
                    box[rng.random(frames) < 0.01, 2] = 0
                results.append(box)
            truth[~visible] = 0
            self.truth.append(truth)
            self.visible.append(visible)

    def write(self, folder: Path) -> list[list[Path]]:
        paths = []
        for t, results in enumerate(self.results):
            paths.append([folder / f"tracker_{t}" / f"{name}.txt" for name in self.names])
            for path, boxes in zip(paths[-1], results, strict=True):
                write_rows(path, boxes, fmt="%d", delimiter="\t")
        return paths


# --- the plain loop -----------------------------------------------------------------------------------------------------


def plain_numpy(data: Data, results: list[list[np.ndarray]]) -> Curves:
    """Straight from the rules, with numpy."""
    shape = (len(results), len(data.names))
    success, precision, norm = (np.zeros((*shape, k), np.float32) for k in (21, 51, 51))
    mean_overlap = np.zeros(shape)
    overlap_grid = ope_rule("pytracking").success_thresholds()
    pixels, shares = np.arange(51), np.arange(51) / 100
    for s, (truth, visible) in enumerate(zip(data.truth, data.visible, strict=True)):
        for t in range(len(results)):
            pred = results[t][s]
            if np.isnan(pred).any() or (pred[:, 2:] < 0).any() or np.isnan(truth).any():
                raise ValueError("nan or negative size")
            pred = previous_where_empty(pred, truth)
            pred[0] = truth[0]
            valid = (truth > 0).all(axis=1) & visible
            size = truth[:, 2:].copy()
            size[~valid] = 1
            centre, true_centre = (b[:, :2] + 0.5 * (b[:, 2:] - 1) for b in (pred, truth))
            error = np.sqrt(((centre - true_centre) ** 2).sum(axis=1))
            error_norm = np.sqrt(((centre / size - true_centre / size) ** 2).sum(axis=1))
            low = np.maximum(pred[:, :2], truth[:, :2])
            high = np.minimum(pred[:, :2] + pred[:, 2:] - 1, truth[:, :2] + truth[:, 2:] - 1)
            side = (high - low + 1).clip(0)
            inter = side.prod(axis=1)
            union = pred[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - inter
            with np.errstate(invalid="ignore"):
                overlap = inter / union
            overlap[~valid], error[~valid], error_norm[~valid] = -1, np.inf, -1
            error_norm[~visible] = np.inf
            if np.isnan(overlap).any():
                raise ValueError("undefined overlap")
            mean_overlap[t, s] = overlap[valid].mean()
            frames = len(truth)
            success[t, s] = (overlap[:, None] > overlap_grid).sum(axis=0) / frames
            precision[t, s] = (error[:, None] <= pixels).sum(axis=0) / frames
            norm[t, s] = (error_norm[:, None] <= shares).sum(axis=0) / frames
    return success, precision, norm, mean_overlap


def plain_torch(data: Data, results: list[list[np.ndarray]]) -> Curves:
    """Straight from the rules, with torch tensors, as pytracking's analysis works."""
    shape = (len(results), len(data.names))
    success, precision, norm = (torch.zeros((*shape, k), dtype=torch.float32) for k in (21, 51, 51))
    mean_overlap = torch.zeros(shape, dtype=torch.float64)
    overlap_grid = torch.from_numpy(ope_rule("pytracking").success_thresholds())
    pixels = torch.arange(51, dtype=torch.float64)
    shares = pixels / 100
    for s in range(len(data.names)):
        truth, visible = torch.from_numpy(data.truth[s]), torch.from_numpy(data.visible[s])
        for t in range(len(results)):
            pred = torch.from_numpy(results[t][s])
            if torch.isnan(pred).any() or (pred[:, 2:] < 0).any() or torch.isnan(truth).any():
                raise ValueError("nan or negative size")
            pred = torch.from_numpy(previous_where_empty(results[t][s], data.truth[s]))
            pred[0] = truth[0]
            valid = (truth > 0).all(dim=1) & visible
            size = truth[:, 2:].clone()
            size[~valid] = 1
            centre, true_centre = (b[:, :2] + 0.5 * (b[:, 2:] - 1) for b in (pred, truth))
            error = ((centre - true_centre) ** 2).sum(dim=1).sqrt()
            error_norm = ((centre / size - true_centre / size) ** 2).sum(dim=1).sqrt()
            low = torch.max(pred[:, :2], truth[:, :2])
            high = torch.min(pred[:, :2] + pred[:, 2:] - 1, truth[:, :2] + truth[:, 2:] - 1)
            side = (high - low + 1).clamp(min=0)
            inter = side.prod(dim=1)
            overlap = inter / (pred[:, 2:].prod(dim=1) + truth[:, 2:].prod(dim=1) - inter)
            overlap[~valid], error[~valid], error_norm[~valid] = -1.0, float("inf"), -1.0
            error_norm[~visible] = float("inf")
            if torch.isnan(overlap).any():
                raise ValueError("undefined overlap")
            mean_overlap[t, s] = overlap[valid].mean()
            frames = len(truth)
            success[t, s] = (overlap[:, None] > overlap_grid).sum(dim=0).float() / frames
            precision[t, s] = (error[:, None] <= pixels).sum(dim=0).float() / frames
            norm[t, s] = (error_norm[:, None] <= shares).sum(dim=0).float() / frames
    return success.numpy(), precision.numpy(), norm.numpy(), mean_overlap.numpy()


def previous_where_empty(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A copy in which boxes of zero width or height repeat the box before."""
    boxes = boxes.copy()
    if (boxes[:, 2:] == 0).any():
        for i in np.flatnonzero((boxes[:, 2:] == 0).any(axis=1)):
            if i > 0 and not np.isnan(truth[i]).any():
                boxes[i] = boxes[i - 1]
    return boxes


def plain_read(paths: list[list[Path]]) -> list[list[np.ndarray]]:
    def one(path: Path) -> np.ndarray:
        try:
            return np.loadtxt(str(path), delimiter="\t", dtype=np.float64)
        except ValueError:
            return np.loadtxt(str(path), delimiter=",", dtype=np.float64)

    return [[one(path) for path in row] for row in paths]


# --- ours ---------------------------------------------------------------------------------------------------------------


def ours(data: Data, results: list[list[np.ndarray]]) -> Curves:
    truth = prepare(ope_rule("pytracking", "lasot"), data.names, data.truth, data.visible)
    found = measure_all(truth, results)
    counted = found[0].counted[:, None]
    parts = ([m.success for m in found], [m.precision for m in found], [m.norm for m in found])
    success, precision, norm = ((np.stack(part) / counted).astype(np.float32) for part in parts)
    return success, precision, norm, np.stack([m.mean_overlap for m in found])


def ours_read(paths: list[list[Path]]) -> list[list[np.ndarray]]:
    return [[read_rows(path) for path in row] for row in paths]


# --- the comparison -----------------------------------------------------------------------------------------------------


def run(data: Data, paths: list[list[Path]], rounds: int) -> dict[str, float]:
    """Median seconds of every variant and median ratios; raises if results differ."""
    variants: dict[str, Callable[[], Curves]] = {
        "plain, numpy": lambda: plain_numpy(data, data.results),
        "plain, torch": lambda: plain_torch(data, data.results),
        "ours": lambda: ours(data, data.results),
        "plain, numpy, files": lambda: plain_numpy(data, plain_read(paths)),
        "plain, torch, files": lambda: plain_torch(data, plain_read(paths)),
        "ours, files": lambda: ours(data, ours_read(paths)),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    reference: Curves | None = None
    for _ in range(rounds):
        for name, variant in variants.items():
            start = time.perf_counter()
            found = variant()
            times[name].append(time.perf_counter() - start)
            reference = reference or found
            compare(name, found, reference)
    report = {name: statistics.median(values) for name, values in times.items()}
    for name, suffix in (("in memory", ""), ("with files", ", files")):
        plain = [min(pair) for pair in zip(times["plain, numpy" + suffix], times["plain, torch" + suffix], strict=True)]
        report[f"ratio {name}"] = statistics.median(o / p for o, p in zip(times["ours" + suffix], plain, strict=True))
    return report


def compare(name: str, found: Curves, reference: Curves) -> None:
    """Curves must be equal to the bit; mean overlaps may differ by the order of their sum."""
    for part, a, b in zip(("success", "precision", "normalised precision"), found, reference, strict=False):
        if not np.array_equal(a, b):
            sys.exit(f"{name} and the plain loop differ in {part} by up to {np.abs(a - b).max()}")
    if not np.allclose(found[3], reference[3], rtol=0, atol=1e-12):
        sys.exit(f"{name} and the plain loop differ in mean overlap by up to {np.abs(found[3] - reference[3]).max()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=280)
    parser.add_argument("--frames", type=int, default=2500)
    parser.add_argument("--trackers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1, so that all variants use one thread")
    torch.set_num_threads(1)
    data = Data(args.sequences, args.frames, args.trackers, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        paths = data.write(Path(folder))
        size = sum(path.stat().st_size for row in paths for path in row)
        report = run(data, paths, args.rounds)
    made = provenance() | {"numpy": np.__version__, "torch": torch.__version__, "keepsight": ks.__version__}
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    sizes = {"sequences": args.sequences, "frames": args.frames, "trackers": args.trackers, "seed": args.seed}
    for name, value in report.items():
        limit = LIMITS.get(name.removeprefix("ratio "))
        end = f"  (limit {limit:.3f})" if limit else " s"
        print(f"{name:22s} {value:8.3f}{end}")
    print(f"{size / 1e6:.0f} MB of text; all results equal; {made}")
    if args.json:
        document = {"provenance": made, "data": sizes | {"text_bytes": size}, "rounds": args.rounds, "seconds": report}
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
