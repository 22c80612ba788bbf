"""Speed of training: the input pipeline against loops that only decode the same images, and steps of a recipe.

    python benchmarks/training.py                                                     # the pipeline, one minute
    python benchmarks/training.py --sets shared:images --data-root ../shared/data     # ... on other data
    python benchmarks/training.py --step dimp50 --device cuda --amp bf16              # step time, images/s, waiting for data
    python benchmarks/training.py --json out.json                                     # also as a file

Pipeline: samples per second of a recipe's sampler, processing and collation with worker processes, as a share of (a) one
process that decodes the frames of the same draws and does nothing else, and (b) the same number of worker processes that do
so. The three take turns, and each ratio is the median over rounds, so that a busy machine slows all alike.
Steps: the loop's own log of a run, without its first report. Data: 720p videos made up on the spot, or ``--sets``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

from keepsight.datasets.training_sets import open_training_set
from keepsight.training.batch import Batch, Group
from keepsight.training.data import Shares, Source, Stream
from keepsight.training.job import LoopConfig, job_of
from keepsight.training.logs import read_log
from keepsight.training.loop import train
from keepsight.training.processing import Processing, collate_bytes
from keepsight.training.recipes import find_recipe, override
from keepsight.training.sampler import GroupSampler

BLOCKS = 16  # micro-batches of one measurement


@dataclass
class Decoded:
    """What is left of a group that was only decoded."""

    identity: str


def write_videos(root: Path, size: tuple[int, int] = (1280, 720), videos: int = 6, frames: int = 25) -> None:
    """Videos as public data sets have them: JPEG frames of 720p, photograph-like, and a file of boxes."""
    import cv2

    rng = np.random.default_rng(0)
    for v in range(videos):
        (root / f"{v:02d}" / "img").mkdir(parents=True)
        coarse = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        scene = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        for f in range(frames):
            noise = rng.integers(-4, 5, scene.shape, dtype=np.int16)  # film grain
            path = root / f"{v:02d}" / "img" / f"{f + 1:05d}.jpg"
            cv2.imwrite(str(path), np.clip(np.roll(scene, 3 * f, 1) + noise, 0, 255).astype(np.uint8))
        boxes = [(400 + 3 * f, 250, 120, 160) for f in range(frames)]
        np.savetxt(root / f"{v:02d}" / "groundtruth.txt", boxes, fmt="%g", delimiter=",")


def only_decode(group: Group, rng: np.random.Generator) -> Decoded:
    return Decoded(group.identity)


def nothing(samples: list[Decoded]) -> Batch:
    none = torch.zeros(1, len(samples))
    return Batch(none, none, none, none, identities=[s.identity for s in samples])


def pipeline(name: str, sets: list[str], root: str | None, workers: int, rounds: int, batch: int) -> dict[str, Any]:
    recipe = find_recipe(name)
    sampler = GroupSampler([open_training_set(s, root) for s in sets], None, recipe.data.sampler)

    def rate(process: Any, together: Any, count: int) -> float:
        """Samples per second; a stream of its own, so that no other one's workers fill their stock meanwhile."""
        shares, first = Shares(batch), 2 * count
        stream = iter(Stream(Source(sampler, process, together), shares, 10**6, 0, first + BLOCKS, workers=count))
        for _ in range(first):  # workers have started, and what they had in stock is gone
            next(stream)
        began = time.perf_counter()
        seen = sum(len(found.identities) for found, _ in stream)
        return seen / (time.perf_counter() - began)

    ways: dict[str, tuple[Any, Any, int]] = {
        "pipeline": (Processing(recipe.data.processing), collate_bytes, workers),
        "decode, one process": (only_decode, nothing, 0),
        f"decode, {workers} workers": (only_decode, nothing, workers),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, arguments in ways.items():
            rates[way].append(rate(*arguments))
    found: dict[str, Any] = {f"{k}: samples per second": round(statistics.median(v), 1) for k, v in rates.items()}
    found["share of draw and decode in a worker's time"] = round(
        _decode_share(sampler, Processing(recipe.data.processing)), 3
    )
    for kind in list(ways)[1:]:
        ratios = [a / b for a, b in zip(rates["pipeline"], rates[kind], strict=True)]
        found[f"share of {kind}"] = round(statistics.median(ratios), 3)
    return found


def _decode_share(sampler: GroupSampler, process: Processing, count: int = 16) -> float:
    """By processor time, which other programs do not change."""
    from multiprocessing.reduction import ForkingPickler

    times = []
    for _ in range(2):  # the first fills caches
        rngs = [np.random.default_rng([0, k]) for k in range(count)]
        began = time.process_time()
        groups = [sampler.draw(rng) for rng in rngs]
        decoded = time.process_time()
        ForkingPickler.dumps(collate_bytes([process(g, rng) for g, rng in zip(groups, rngs, strict=True)]))
        times.append((decoded - began) / (time.process_time() - began))
    return times[-1]


def steps(name: str, sets: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Step time of a recipe with random weights, from the loop's log."""
    recipe = override(
        find_recipe(name), ["init=random", f"data.train={','.join(sets)}", "data.validation=[]", *args.set]
    )
    with tempfile.TemporaryDirectory() as out:
        config = LoopConfig(
            out=out,
            device=args.device,
            amp=args.amp,
            workers=args.workers,
            steps=args.steps,
            log_every=10,
            tensorboard=False,
        )
        train(job_of(recipe, data_root=args.data_root), config)
        records = [r for r in read_log(out) if r["kind"] == "train"][1:]
    frames = recipe.data.sampler.n_train + recipe.data.sampler.n_test
    seconds = statistics.median(r["step_seconds"] for r in records)
    return {
        "batch": recipe.data.batch_size,
        "images per step": frames * recipe.data.batch_size,
        "step seconds": round(seconds, 4),
        "images per second": round(frames * recipe.data.batch_size / seconds, 1),
        "share of time waiting for data": round(statistics.median(r["wait_share"] for r in records), 3),
        "memory": records[-1]["memory"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", default=["dimp18", "prdimp18", "superdimp", "atom"])
    parser.add_argument("--step", metavar="RECIPE", help="measure steps of this recipe instead of the pipeline")
    parser.add_argument(
        "--sets", nargs="+", help="training sets (default: shared:images, for steps composite:procedural)"
    )
    parser.add_argument("--data-root")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="samples that a worker puts together, of the pipeline")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="none")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe, of steps")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1 if args.step is None or args.device == "cpu" else torch.get_num_threads())
    result: dict[str, Any] = provenance()
    with tempfile.TemporaryDirectory() as folder:
        if not args.sets:
            write_videos(Path(folder))
        sets = args.sets or [f"folder:{folder}"]
        if args.step:
            result[f"steps of {args.step}"] = steps(args.step, sets, args)
        for name in () if args.step else args.recipe:
            found = pipeline(name, sets, args.data_root, args.workers, args.rounds, args.batch)
            result[name] = found
            print(name, json.dumps(found, indent=2), flush=True)
    if args.step:
        print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
