"""What KeepTrack's association adds to a frame of its base tracker, in one run on one thread.

    python benchmarks/keeptrack.py                        # about three minutes
    python benchmarks/keeptrack.py --json out.json        # also as a file

``published``: the preset ``keeptrack`` (ResNet-50, search region of 480 px) and the same without association. ``lite``:
``keeptrack-lite`` and ``dimp-lite`` (289 px). Networks are random. Score maps are planted: one peak of 0.95 in the middle and
as many lower ones as the case asks for, far enough apart that each is a candidate; all else is done as ever, from the crop
to the box, and the network's scores are computed before they are replaced. After the decision every tracker goes on from
the same place and flag, so that what follows costs the same. That the candidates are as many as planted, and that the network
was asked in every frame with several and in none with one, is checked.

Every round tracks a frame with every case in turn, after two that warm up. A ratio is the median over rounds of a case's time /
the base tracker's in the same round, minus 1. The base tracker is measured twice in every round: the ratio of the two is the
noise. ``decision``: time from the scores to the decision alone, of which the base tracker has a part too; ``decision's share``
is what association adds to it / the base tracker's frame. The spread is from the 10th to the 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

import keepsight as ks
from keepsight.models.dimp import DiMPNet, network_config
from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig, lite_config
from keepsight.models.lite import LiteNet
from keepsight.online.localise import NORMAL, Localisation
from keepsight.trackers.dimp_lite import LiteTracker
from keepsight.trackers.dimp_lite import presets as lite_presets
from keepsight.trackers.keeptrack import KeepTrackLiteTracker, KeepTrackTracker, preset
from keepsight.trackers.keeptrack import lite_presets as kept_lite_presets

BASE, AGAIN = "off", "off, again"
COUNTS = (1, 2, 15)
LIMITS = {2: 0.25, 15: 0.60}
BOX = (280, 200, 80, 60)
STEP = 4  # cells between peaks; candidates are maxima of 5 x 5 cells


def planted(side: int, count: int) -> np.ndarray:
    """Scores (side, side) with ``count`` peaks, the first in the middle, the others nearest to it."""
    scores, middle, reach = np.zeros((side, side), np.float32), side // 2, (side // 2) // STEP
    offsets = range(-reach * STEP, reach * STEP + 1, STEP)
    places = sorted(((r, c) for r in offsets for c in offsets), key=lambda p: p[0] ** 2 + p[1] ** 2)
    for i, (row, col) in enumerate(places[:count]):
        scores[middle + row, middle + col] = 0.95 if i == 0 else 0.6 - 0.02 * i
    return scores


class Planted:
    """Mixed into a tracker: scores are replaced, and the decision is timed and then made harmless."""

    count = 2
    spent = 0.0

    def _localise(self, target: Any, view: Any, scores: np.ndarray, features: Any, frame_size: Any) -> Localisation:
        scores = planted(scores.shape[0], self.count)
        start = time.perf_counter()
        where = super()._localise(target, view, scores, features, frame_size)  # type: ignore[misc]
        self.spent = time.perf_counter() - start
        return Localisation((0.0, 0.0), NORMAL, where.max_score)


class Counted(KeepTrackNet):
    """Knows how often it was asked."""

    asked = 0

    def match(self, *given: Any) -> Any:
        Counted.asked += 1
        return super().match(*given)


class PlantedKeepTrack(Planted, KeepTrackTracker):
    pass


class PlantedLite(Planted, LiteTracker):
    pass


class PlantedKeepTrackLite(Planted, KeepTrackLiteTracker):
    pass


def published() -> dict[str, Planted]:
    """Cases by name."""
    on = preset("keeptrack")
    off, device = replace(on, association=None), torch.device("cpu")
    torch.manual_seed(0)
    net = DiMPNet(network_config(on.weights)).eval()
    matcher = Counted(KeepTrackNetConfig(backbone=None)).eval()
    bases = (PlantedKeepTrack(name, off, net, matcher, device) for name in (BASE, AGAIN))
    kept = [PlantedKeepTrack(f"{n} candidates", on, net, matcher, device) for n in COUNTS]
    return _cases([*bases, *kept])


def lite() -> dict[str, Planted]:
    """Cases by name."""
    torch.manual_seed(0)
    net, device = LiteNet().eval(), torch.device("cpu")
    matcher = Counted(replace(lite_config(), backbone=None)).eval()
    off, on = lite_presets()["dimp-lite"], kept_lite_presets()["keeptrack-lite"]
    bases = (PlantedLite(name, off, net, device) for name in (BASE, AGAIN))
    kept = [PlantedKeepTrackLite(f"{n} candidates", on, net, matcher, device) for n in COUNTS]
    return _cases([*bases, *kept])


def _cases(trackers: list[Any]) -> dict[str, Planted]:
    for tracker, count in zip(trackers, (2, 2, *COUNTS), strict=True):
        tracker.count = count
        tracker.net = trackers[0].net
    return {tracker.name: tracker for tracker in trackers}


def measure(cases: dict[str, Any], rounds: int, best_of: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every case in every round, of the frame and of the decision; the best of ``best_of`` frames each."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for tracker in cases.values():
        tracker.init(frame, BOX)
    times: dict[str, dict[str, list[float]]] = {name: {"frame": [], "decision": []} for name in cases}
    for turn in range(-2, rounds):
        for name, tracker in cases.items():
            Counted.asked, frames, decisions = 0, [], []
            for _ in range(best_of):
                start = time.perf_counter()
                result = tracker.update(frame)
                frames.append(time.perf_counter() - start)
                decisions.append(tracker.spent)
            is_on = name not in (BASE, AGAIN)
            if len(result.candidates) != (tracker.count if is_on else 0):
                raise SystemExit(f"{name}: {len(result.candidates)} candidates")
            if turn >= 0:
                if Counted.asked != (best_of if is_on and tracker.count > 1 else 0):
                    raise SystemExit(f"{name}: the network was asked {Counted.asked} times in {best_of} frames")
                times[name]["frame"].append(min(frames) * 1e3)
                times[name]["decision"].append(min(decisions) * 1e3)
    return times


def spread(values: list[float]) -> dict[str, float]:
    low, high = np.percentile(values, (10, 90))
    return {"median": statistics.median(values), "low": float(low), "high": float(high)}


def costs(times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """What each case adds to the base tracker, as shares of its frame."""
    base = times[BASE]
    found: dict[str, Any] = {}
    for name, own in times.items():
        if name == BASE:
            continue
        found[name] = {
            "frame": spread([a / b - 1 for a, b in zip(own["frame"], base["frame"], strict=True)]),
            "decision's share": spread(
                [(a - b) / f for a, b, f in zip(own["decision"], base["decision"], base["frame"], strict=True)]
            ),
        }
    for count, limit in LIMITS.items():
        row = found[f"{count} candidates"]
        row |= {"limit": limit, "held": row["frame"]["median"] <= limit}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of the published size; the lite ones get twice as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["command"] = " ".join(["python", "benchmarks/keeptrack.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())

    sizes: dict[str, tuple[Callable[[], dict[str, Planted]], int, int]] = {
        "published": (published, args.rounds, 1),
        "lite": (lite, 2 * args.rounds, 3),
    }
    report: dict[str, Any] = {"provenance": made, "threads": args.threads}
    for size, (build, rounds, best_of) in sizes.items():
        times = measure(build(), rounds, best_of)
        added = costs(times)
        report[size] = {
            "rounds": rounds,
            "milliseconds": {name: {what: spread(v) for what, v in own.items()} for name, own in times.items()},
            "added / base tracker's frame": added,
        }
        for name, own in times.items():
            whole, part = spread(own["frame"]), statistics.median(own["decision"])
            print(f"{size}, {name:14s} {whole['median']:8.1f} ms ({whole['low']:.1f} to {whole['high']:.1f}), ", end="")
            print(f"the decision {part:.2f} ms")
        for name, row in added.items():
            frame, share = row["frame"], row["decision's share"]["median"]
            said = "" if "limit" not in row else f"; limit {row['limit']:.0%}: {'held' if row['held'] else 'NOT HELD'}"
            print(
                f"{size}, {name}: {frame['median']:+.1%} ({frame['low']:+.1%} to {frame['high']:+.1%}) of a frame, "
                f"by the decision alone {share:+.1%}{said}"
            )
    print(json.dumps(made))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
