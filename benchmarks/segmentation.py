"""What a frame of the trackers of masks costs, stage by stage, beside the backbone's bare forward pass; memory over a long video.

    python benchmarks/segmentation.py                        # about a minute, one thread
    python benchmarks/segmentation.py --memory 2000          # resident memory over 2,000 frames instead
    python benchmarks/segmentation.py --json out.json        # also as a file

Frames of 854 x 480 pixels, one target, memories filled to their last slot before the first frame that is timed. ``lwl_ytvos``
and ``rts50`` have random weights: the arithmetic does not depend on them. So that they search where the target is, and learn,
every frame begins with the true mask of the frame before. ``rts50`` learns in each of its first 100 frames, later in every
20th; what a later frame costs is 19 frames without and one with an update. ``rts-lite`` is the packaged network.

The reference is the tracker's own backbone (folded, channels-last) on one crop of its own size, run before every frame. A ratio
is a stage's time / the reference's, both summed over the frames, so the stages add up to the frame. ``crop`` cuts out frame and
mask, ``features`` are the learner's, ``update`` its steps, ``classifier`` is RTS's, learning included, ``boxes`` all that
rts-lite's tracker of boxes does, ``state`` what follows from the mask, ``rest`` what is in no stage.

``--memory``: resident memory of ``rts-lite``, and of ``lwl_ytvos`` and ``rts50`` on a backbone a quarter as wide and crops of
128 x 224 with the published number of slots, over a real sequence from front to back and back again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import ROOT, provenance
from track import clip, resident_megabytes

import keepsight as ks
from keepsight.datasets import open_dataset
from keepsight.models.segmentation import LWLNet, LWLNetConfig, RTSNet, RTSNetConfig
from keepsight.online.memory import SampleMemory
from keepsight.trackers import dimp_lite, lwl, rts, rts_lite

HEIGHT, WIDTH = 480, 854
BOX = (280, 200, 56, 60)
LITE = "rts-lite"
STAGES = (
    "crop", "backbone", "boxes", "features", "classifier", "filter", "decode", "paste", "merge", "state",
    "label encoder", "memory", "update", "rest",
)  # fmt: skip
SEQUENCE = "dog"
DATA = ROOT.parent / "shared" / "data" / "sequences"


class Stages:
    """Milliseconds of every stage; one that is called inside another does not count for that."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.running = ["rest"]
        self.since = 0.0

    def _until_now(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.spent[self.running[-1]] += 1e3 * (now - self.since)
        self.since = now

    def timed(self, owner: Any, name: str, stage: str) -> None:
        """Count the calls of ``owner.name`` for ``stage``, from now on."""
        function = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._until_now()
            self.running.append(stage)
            try:
                return function(*arguments, **options)
            finally:
                self._until_now()
                self.running.pop()

        setattr(owner, name, call)

    def frame(self, run: Callable[[], Any]) -> dict[str, float]:
        """One frame: milliseconds by stage, and all together."""
        self.spent.clear()
        self.since = time.perf_counter()
        run()
        self._until_now()
        return {**self.spent, "frame": sum(self.spent.values())}


@torch.inference_mode()
def fill(memory: SampleMemory) -> None:
    """Copies of the first sample in every slot that is free."""
    cells, target = memory.cells[0, 0].clone(), memory.targets[0].clone()
    while memory.stored < memory.config.size:
        memory.insert(cells, target)


def published(name: str, stages: Stages, device: torch.device) -> tuple[Callable[..., None], Callable[[], Any], Any]:
    """One frame, a bare forward pass of the backbone, and the target: of ``lwl_ytvos`` or ``rts50``."""
    torch.manual_seed(0)
    tracker: Any
    if name == "rts50":
        config = rts.preset(name)
        never = replace(config.classifier, not_found=-1e9)  # random scores would call every target lost
        tracker = rts.RTSTracker(name, replace(config, classifier=never), RTSNet().eval(), None, device)
        size = config.sample_size
    else:
        tracker = lwl.LWLTracker(name, lwl.preset(name), LWLNet().eval(), device)
        size = tracker.config.sample_size
    net = tracker.net
    image = torch.randn(1, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    bare = lambda extract=net.extract: extract(image)  # noqa: E731
    stages.timed(net, "extract", "backbone")
    stages.timed(net, "target_features", "features")
    stages.timed(net, "apply_filter", "filter")
    stages.timed(net, "decode", "decode")
    stages.timed(net.label_encoder, "forward", "label encoder")
    stages.timed(net, "fit_filter", "update")
    for method, stage in (("_shared", "merge"), ("_conclude", "state"), ("_reposition", "state")):
        stages.timed(tracker, method, stage)
    if name == "rts50":
        for method in ("_fused", "_fit_classifier"):
            stages.timed(tracker, method, "classifier")
    frames = clip(60, HEIGHT, WIDTH)
    tracker.init(frames[0], mask=square(0))
    target = tracker._current().targets[0]
    tracker.update(frames[1])
    fill(target.memory)
    stages.timed(target.memory, "insert", "memory")
    if name == "rts50":
        fill(target.samples)
        stages.timed(target.samples, "insert", "classifier")

    def step(number: int) -> None:
        target.probability = torch.from_numpy(square(number - 1)).to(tracker.device, tracker.dtype)
        target.mask_lost = target.mask_small = False
        tracker.update(frames[number % len(frames)])

    return step, bare, target


def square(frame: int) -> np.ndarray:
    """(H, W) bool: where the target of ``track.clip`` is."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    frame %= 60
    y, x = 200 + frame % 40, 280 + (2 * frame) % 60
    mask[y : y + 60, x : x + 56] = True
    return mask


def lite(stages: Stages, device: torch.device) -> tuple[Callable[..., None], Callable[[], Any]]:
    tracker: Any = ks.load(LITE, device=device)
    side = tracker.config.masks.sample_size
    image = torch.rand(1, 3, side, side, device=device).mul(255).contiguous(memory_format=torch.channels_last)
    bare = lambda extract=tracker.masks.extract: extract(image, tracker.net.backbone)  # noqa: E731
    net = tracker.masks
    for name, stage in (
        ("extract", "backbone"), ("target_features", "features"), ("apply_filter", "filter"), ("decode", "decode"),
        ("encode_hint", "label encoder"), ("fit_filter", "update"),
    ):  # fmt: skip
        stages.timed(net, name, stage)
    stages.timed(net.label_encoder, "forward", "label encoder")
    stages.timed(tracker, "_cut", "crop")
    stages.timed(tracker, "_conclude", "state")
    frames = clip(60, HEIGHT, WIDTH)
    tracker.init(frames[0], box=BOX)
    target = tracker._current().targets[0]
    fill(target.masked.memory)
    fill(target.memory)
    stages.timed(target.masked.memory, "insert", "memory")
    return lambda number: tracker.update(frames[number % len(frames)]), bare


def shared_functions(stages: Stages) -> None:
    """What the trackers' modules call by name."""
    for name, stage in (("sample_patch", "crop"), ("normalise_bgr", "crop"), ("paste", "paste")):
        stages.timed(lwl, name, stage)
    stages.timed(rts_lite, "sample_patch", "crop")
    stages.timed(rts_lite, "_in_frame", "paste")
    stages.timed(dimp_lite.LiteTracker, "_advance", "boxes")


def measure(step: Callable[[int], None], bare: Callable[[], Any], stages: Stages, numbers: range) -> dict[str, Any]:
    total: dict[str, float] = defaultdict(float)
    for number in numbers:
        with torch.inference_mode():
            total["reference"] += stages.frame(bare)["frame"]
        for stage, spent in stages.frame(lambda: step(number)).items():  # noqa: B023
            total[stage] += spent
    rows = {
        name: {"milliseconds": total[name] / len(numbers), "ratio": total[name] / total["reference"]}
        for name in ("reference", *STAGES, "frame")
        if name in total
    }
    return {"frames": len(numbers), **rows}


def speed(count: int, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stages = Stages()
    shared_functions(stages)
    for name in ("lwl_ytvos", "rts50"):
        step, bare, target = published(name, stages, device)
        step(2)
        row = measure(step, bare, stages, range(3, 3 + count))
        if name == "lwl_ytvos":
            found[name] = row
            continue
        target.frame = 101  # neither learner is due before frame 121
        later = measure(step, bare, stages, range(3, 3 + count))
        mean = {k: (19 * later["frame"][k] + row["frame"][k]) / 20 for k in ("milliseconds", "ratio")}
        found |= {
            "rts50, a frame that learns": row, "rts50, a frame that does not": later,
            "rts50, mean after 100 frames": {"frame": mean},
        }  # fmt: skip
    step_lite, bare = lite(stages, device)
    for number in range(1, 6):
        step_lite(number)
    found[LITE] = measure(step_lite, bare, stages, range(6, 6 + 10 * count))
    return found


# --- memory --------------------------------------------------------------------------------------------------------------


def narrow(name: str, device: torch.device) -> Any:
    torch.manual_seed(0)
    small: dict[str, Any] = {"backbone": "resnet50-mrcnn-narrow", "feature_dim": 32, "decoder_dim": 8}
    if name == "rts50":
        config = replace(rts.preset(name), sample_size=(128, 224))
        return rts.RTSTracker(name, config, RTSNet(RTSNetConfig(**small)).eval(), None, device)
    config_lwl = replace(lwl.preset(name), sample_size=(128, 224))
    return lwl.LWLTracker(name, config_lwl, LWLNet(LWLNetConfig(**small)).eval(), device)


def to_and_fro(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
    while True:
        yield from frames[1:]
        yield from frames[-2::-1]


def memory(count: int, data: Path, device: torch.device) -> dict[str, dict[str, float]]:
    """Resident memory in MB at frame 100, the highest later, and the difference."""
    sequence = open_dataset("folder", root=data / "davis2016")[SEQUENCE]
    frames = [np.array(frame) for frame in sequence.frames]
    truths = sequence.annotation.masks
    assert truths is not None  # for the type checker
    first = np.asarray(truths[0]) > 0
    found = {}
    for name in (LITE, "lwl_ytvos", "rts50"):
        tracker: Any = ks.load(LITE, device=device) if name == LITE else narrow(name, device)
        tracker.init(frames[0], mask=first)
        at_100, highest = 0.0, 0.0
        for i, frame in zip(range(1, count + 1), to_and_fro(frames), strict=False):
            tracker.update(frame)
            if i == 100:
                at_100 = resident_megabytes()
            if i > 100 and (i % 50 == 0 or i == count):
                highest = max(highest, resident_megabytes())
        found[name] = {"at_frame_100": at_100, "highest_after": highest, "growth": highest - at_100}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--frames", type=int, default=8, help="frames of each published tracker; ten times as many of rts-lite"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, metavar="FRAMES", help="measure resident memory instead of speed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with davis2016, for --memory")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    if args.memory is not None and args.memory <= 100:
        parser.error("--memory compares with frame 100; give more frames than that")
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["command"] = " ".join(["python", "benchmarks/segmentation.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    report: dict[str, Any] = {"provenance": made, "threads": args.threads, "device": str(device)}
    if args.memory:
        report |= {
            "sequence": SEQUENCE,
            "frames": args.memory,
            "memory": (found := memory(args.memory, args.data, device)),
        }
        for name, megabytes in found.items():
            print(f"{name:12s} " + ", ".join(f"{k} {v:.1f} MB" for k, v in megabytes.items()))
    else:
        report["speed"] = table = speed(args.frames, device)
        for name, rows in table.items():
            print(f"{name:42s} {'ms':>8s} {'ratio':>7s}")
            for stage, row in rows.items():
                if isinstance(row, dict):
                    print(f"  {stage:40s} {row['milliseconds']:8.2f} {row['ratio']:7.3f}")
    print(json.dumps(report["provenance"]))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
