"""Speed of tracking, as ratios to ResNet-18's plain forward pass in the same run; memory over a long video.

    python benchmarks/track.py                        # speed, one thread, about two minutes
    python benchmarks/track.py --memory 3000          # resident memory over 3,000 frames of dimp-lite and dimp18
    python benchmarks/track.py --json out.json        # also as a file

The reference is an eager float32 forward pass of ResNet-18 to layer3 on one 288 × 288 image, on the same device and thread.
Every round measures the reference and all parts in turn, and a ratio is the median over rounds of part / reference of the
same round, so that a machine that slows down slows both. Weights are random: the arithmetic does not depend on them, except
that boxes of a random overlap predictor do not settle, so the ascent starts from boxes as the tracker jitters them and moves
with the published settings scaled down to steps of a trained network's size (well below a cell).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from provenance import provenance

import keepsight as ks
from keepsight.boxes import xywh_to_corners
from keepsight.models.dimp import DiMPNet, network_config
from keepsight.nn.resnet import resnet18
from keepsight.nn.roi_pool import pool_corners
from keepsight.online.localise import LocalisationConfig
from keepsight.trackers.dimp import DiMPTracker, preset

LIMITS = {
    "dimp18 frame": 1.4, "prdimp18 frame": 1.8, "dimp18 first frame": 20.0, "prdimp18 first frame": 20.0,
    "PrRoI pooling, 10 boxes, with box gradients": 0.1,
}  # fmt: skip
LITE = "dimp-lite frame"
FRAMES_TIMED = {LITE: 2}
SMALL_STEPS = {"dimp18": 0.02, "prdimp18": 5e-4}


def clip(count: int, height: int = 480, width: int = 640) -> list[np.ndarray]:
    """A textured square that moves slowly over noise."""
    rng = np.random.default_rng(0)
    background = rng.integers(60, 140, (height, width, 3), dtype=np.uint8)
    patch = rng.integers(0, 256, (60, 56, 3), dtype=np.uint8)
    frames = []
    for i in range(count):
        frame = background.copy()
        y, x = 200 + i % 40, 280 + (2 * i) % 60
        frame[y : y + 60, x : x + 56] = patch
        frames.append(frame)
    return frames


def always_found(name: str, device: torch.device) -> DiMPTracker:
    """The preset with thresholds that never call a frame lost, and no scheduled update: an ordinary frame."""
    config = preset(name)
    localisation = LocalisationConfig(
        score_preprocess=config.localisation.score_preprocess, target_not_found=-1e9, distractor=1e9, hard_negative=1e9
    )
    refine = replace(config.refine, step=SMALL_STEPS[name])
    torch.manual_seed(0)
    net = DiMPNet(network_config(config.weights)).eval()
    config = replace(config, localisation=localisation, refine=refine, train_skipping=10**9)
    return DiMPTracker(name, config, net, device)


def parts(device: torch.device) -> dict[str, Callable[[], object]]:
    """Name -> one call to be timed."""
    frames = clip(60)
    calls: dict[str, Callable[[], object]] = {}
    torch.manual_seed(0)
    image = torch.randn(1, 3, 288, 288, device=device)
    plain = resnet18().eval().to(device)
    calls["reference"] = lambda: plain(image, ("layer3",))
    for name in ("dimp18", "prdimp18"):
        tracker = always_found(name, device)
        tracker.init(frames[0], box=(280, 200, 56, 60))
        turn = iter(range(10**9))
        calls[f"{name} frame"] = lambda t=tracker, i=turn: t.update(frames[next(i) % len(frames)])  # type: ignore[misc]
        first = always_found(name, device)
        calls[f"{name} first frame"] = lambda t=first: t.init(frames[0], box=(280, 200, 56, 60))  # type: ignore[misc]
    stages(calls, always_found("prdimp18", device), frames[0], device)

    features = torch.randn(1, 256, 36, 36, device=device)
    boxes = torch.tensor([[116.0, 116, 57, 57]], device=device).repeat(10, 1) + 6 * torch.randn(10, 4, device=device)

    def pool() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            corners = xywh_to_corners(boxes)[None].requires_grad_()
            torch.autograd.grad(pool_corners(features, corners, (5, 5), 1 / 8).sum(), corners)

    calls["PrRoI pooling, 10 boxes, with box gradients"] = pool
    lite = ks.load("dimp-lite", device=device)
    lite.init(frames[0], box=(280, 200, 56, 60))
    turn = iter(range(10**9))
    # every second frame of dimp-lite looks at another scale too, so two frames are timed and halved
    calls[LITE] = lambda: [lite.update(frames[next(turn) % len(frames)]) for _ in range(2)]
    return calls


def stages(
    calls: dict[str, Callable[[], object]], tracker: DiMPTracker, frame: np.ndarray, device: torch.device
) -> None:
    """The stages of one PrDiMP-18 frame."""
    from keepsight.images import normalise, sample_patch
    from keepsight.nn.correlation import correlate
    from keepsight.online.refine import ascend, proposals

    tracker.init(frame, box=(280, 200, 56, 60))
    target = tracker._current().targets[0]
    side = tracker.config.sample_size

    def crop() -> torch.Tensor:
        size = (target.scale * side,) * 2
        return normalise(sample_patch(frame, target.pos, size, (side, side), tracker.config.crop, device=device).pixels)

    with torch.inference_mode():
        pixels = crop()
        features = tracker.net.extract(pixels)
        maps = tracker.net.classifier_features(features)
        box = torch.tensor([116.0, 116, 57, 57], device=device)
        jittered = proposals(box, torch.rand(9, 4, device=device), tracker.config.refine)
    calls["  crop and normalise"] = crop
    calls["  backbone"] = lambda: tracker.net.extract(pixels)
    calls["  classifier head"] = lambda: tracker.net.classifier_features(features)
    calls["  filter"] = lambda: correlate(maps, target.filter)
    calls["  box refinement, 10 boxes, 10 steps"] = lambda: ascend(
        tracker._scorer(target, features), jittered, tracker.config.refine
    )
    samples, labels, weights = target.memory.filled()
    optimiser = tracker.net.classifier.filter_optimizer
    calls["  filter update, 15 samples, 2 iterations"] = lambda: optimiser(target.filter, samples, labels, weights, 2)


def measure(calls: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Milliseconds and ratios of every call: medians over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            call()
        for turn in range(rounds):
            for name, call in calls.items():
                if "first frame" in name and turn % 4:
                    times[name].append(times[name][-1])
                    continue
                best = float("inf")
                for _ in range(1 if "first frame" in name else 3):
                    start = time.perf_counter()
                    call()
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    best = min(best, (time.perf_counter() - start) / FRAMES_TIMED.get(name, 1))
                times[name].append(best * 1e3)
    reference = times["reference"]
    return {
        name: {
            "milliseconds": statistics.median(values),
            "ratio": statistics.median(v / r for v, r in zip(values, reference, strict=True)),
        }
        for name, values in times.items()
    }


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(count: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Resident memory in MB at frame 100 and at the end, for dimp-lite and for dimp18 with scheduled updates."""
    found = {}
    frames = clip(60)
    for name, tracker in (
        ("dimp-lite", ks.load("dimp-lite", device=device)),
        ("dimp18", always_found("dimp18", device)),
    ):
        tracker.init(frames[0], box=(280, 200, 56, 60))
        at_100, highest = 0.0, 0.0
        for i in range(1, count + 1):
            tracker.update(frames[i % len(frames)])
            if i == 100:
                at_100 = resident_megabytes()
            if i > 100 and (i % 50 == 0 or i == count):
                highest = max(highest, resident_megabytes())
        found[name] = {"at_frame_100": at_100, "highest_after": highest, "growth": highest - at_100}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, metavar="FRAMES", help="measure resident memory instead of speed")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    if args.memory is not None and args.memory <= 100:
        parser.error("--memory compares with frame 100; give more frames than that")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    report: dict[str, object] = {"provenance": made, "threads": args.threads, "device": str(device)}
    if args.memory:
        report["memory"] = found = memory(args.memory, device)
        for name, megabytes in found.items():
            print(f"{name:12s} " + ", ".join(f"{k} {v:.1f} MB" for k, v in megabytes.items()))
    else:
        report["speed"] = speed = measure(parts(device), args.rounds, device)
        print(f"{'part':46s} {'ms':>8s} {'ratio':>7s}  limit")
        for name, row in speed.items():
            limit = f"{LIMITS[name]:.1f}" if name in LIMITS else ""
            print(f"{name:46s} {row['milliseconds']:8.2f} {row['ratio']:7.3f}  {limit}")
        print(f"dimp-lite: {1e3 / speed[LITE]['milliseconds']:.1f} frames per second (limit: at least 25)")
    print(json.dumps(report["provenance"]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
