"""Speed of J and F on 480p masks, beside the definition written plainly, in one run on one thread.

    python benchmarks/masks.py                        # about half a minute
    python benchmarks/masks.py --json out.json        # also as a file

Masks are fabricated (480 x 854, ellipses with wavy outlines, prediction shifted and a little larger) and in memory; reading
two PNG files is a row of its own. ``plain`` works on whole frames in numpy: boundary by three comparisons, dilation as the
union of the mask shifted by every offset of the disk. ``whole frame, cv2`` is the usual way of the toolkits: the same with
OpenCV's dilation. All three give the same numbers, which is checked first. Every round measures all in turn; a ratio is the
median over rounds of the other's time / keepsight's time in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from provenance import provenance

from keepsight.datasets.masks import read_mask, save_indexed_png
from keepsight.evaluation.vos import boundary_radius, j_and_f

SIZE = (480, 854)
# name -> radii in pixels of the objects
SCENES = {"one small object": (30,), "one object": (100,), "one large object": (220,), "three objects": (60, 80, 100)}


def scene(radii: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth, ids (H, W) uint8."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    prediction, truth = np.zeros((2, *SIZE), np.uint8)
    for k, radius in enumerate(radii, 1):
        cx, cy = SIZE[1] * k / (len(radii) + 1), SIZE[0] / 2
        for ids, shift, scale in ((truth, 0, 1.0), (prediction, 3, 1.03)):
            angle = np.arctan2(y - cy, x - cx - shift)
            wavy = scale * radius * (1 + 0.08 * np.sin(7 * angle))
            ids[np.hypot((x - cx - shift) / 1.2, y - cy) < wavy] = k
    return prediction, truth


def plain(
    prediction: np.ndarray, truth: np.ndarray, objects: tuple[int, ...], fast_dilation: bool = False
) -> np.ndarray:
    """J and F (K, 2) by the definition."""
    out = np.zeros((len(objects), 2))
    for i, k in enumerate(objects):
        a, b = prediction == k, truth == k
        union = np.sum(a | b)
        out[i, 0] = 1 if union == 0 else np.sum(a & b) / union
        edge_a, edge_b = outline(a), outline(b)
        n_a, n_b = np.sum(edge_a), np.sum(edge_b)
        if n_a == 0 or n_b == 0:
            out[i, 1] = float(n_a == n_b)
            continue
        dilate = dilate_cv2 if fast_dilation else dilate_plain
        radius = boundary_radius(SIZE)
        precision = np.sum(edge_a & dilate(edge_b, radius)) / n_a
        recall = np.sum(edge_b & dilate(edge_a, radius)) / n_b
        out[i, 1] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return out


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels unlike their east, south or south-east neighbour."""
    more = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ more[:-1, 1:]) | (mask ^ more[1:, :-1]) | (mask ^ more[1:, 1:])


def dilate_plain(mask: np.ndarray, radius: int) -> np.ndarray:
    """Union of the mask shifted by every offset of the disk."""
    h, w = mask.shape
    room = np.pad(mask, radius)
    out = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                out |= room[radius + dy : radius + dy + h, radius + dx : radius + dx + w]
    return out


def dilate_cv2(mask: np.ndarray, radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1) ** 2
    disk = (offsets[:, None] + offsets <= radius * radius).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk) > 0


def measure(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each call and its ratio to ``keepsight``: medians over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            best = float("inf")
            for _ in range(1 if name == "plain" else 5):
                start = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - start)
            if turn:  # the first round warms up
                times[name].append(best * 1e3)
    ours = times["keepsight"]
    return {
        name: {
            "milliseconds": statistics.median(values),
            "ratio": statistics.median(v / o for v, o in zip(values, ours, strict=True)),
        }
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    made = provenance() | {"numpy": np.__version__, "opencv": cv2.__version__}
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    report: dict[str, object] = {"provenance": made, "threads": 1, "size": list(SIZE)}
    speed: dict[str, dict[str, dict[str, float]]] = {}
    print(f"{'480p frame':20s} {'way':18s} {'ms':>8s} {'ratio':>8s}")
    with tempfile.TemporaryDirectory() as folder:
        for name, radii in SCENES.items():
            prediction, truth = scene(radii)
            objects = tuple(range(1, len(radii) + 1))
            files = [Path(folder) / f"{k}.png" for k in range(2)]
            for file, ids in zip(files, (prediction, truth), strict=True):
                save_indexed_png(file, ids)
            calls: dict[str, Callable[[], object]] = {
                "keepsight": lambda p=prediction, t=truth, o=objects: j_and_f(p, t, o),  # type: ignore[misc]
                "whole frame, cv2": lambda p=prediction, t=truth, o=objects: plain(p, t, o, True),  # type: ignore[misc]
                "plain": lambda p=prediction, t=truth, o=objects: plain(p, t, o),  # type: ignore[misc]
                "reading two PNGs": lambda f=files: [read_mask(file) for file in f],  # type: ignore[misc]
            }
            results = [np.asarray(calls[way]()) for way in ("keepsight", "whole frame, cv2", "plain")]
            for other in results[1:]:
                if not (results[0] == other).all():
                    raise SystemExit(f"{name}: the ways disagree: {results}")
            speed[name] = measure(calls, args.rounds)
            for way, row in speed[name].items():
                print(f"{name:20s} {way:18s} {row['milliseconds']:8.3f} {row['ratio']:8.1f}")
    report["speed"] = speed
    print(json.dumps(made))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
