"""rts-lite beside GrabCut on the DAVIS and SegTrack sequences, from the first frame's mask and from its box alone.

    python benchmarks/rts_lite.py --out benchmarks/results/rts-lite

Writes ``sequences.csv`` (J and F of each sequence by the rule of DAVIS 2016: first and last frame do not count; GrabCut's column
is ``grabcut_baseline.py``'s, run here again), ``summary.json`` (means over sequences, milliseconds per frame by stage) and, with
``--pictures``, frames with the masks drawn over them. None of the sequences is in the training data.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from grabcut_baseline import DATA, FAMILIES, RULE, VARIANTS, propagate
from provenance import provenance

import keepsight as ks
from keepsight.datasets import Sequence, open_dataset
from keepsight.evaluation.protocols import MaskArrays
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vos import score_davis
from keepsight.online.masks import tight_box
from keepsight.trackers import dimp_lite, rts_lite

T = TypeVar("T")
STAGES = ("locate", "crop and backbone", "learner", "decode", "the rest")
STARTS = ("mask", "box")


class Stages:
    """Milliseconds of each stage, by wrapping the tracker's methods."""

    def __init__(self, tracker: Any) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.frames = 0
        for name, stage in (("_crop", 1), ("_remember", 2), ("_decode", 3)):
            setattr(tracker, name, self._timed(getattr(tracker, name), STAGES[stage]))
        apply = tracker.masks.apply_filter
        tracker.masks.apply_filter = self._timed(apply, STAGES[2])
        located = dimp_lite.LiteTracker._advance
        self._whole = tracker._advance
        tracker._advance = self._frame
        timed = self._timed(located, STAGES[0])

        def locate(self_: Any, *arguments: Any) -> Any:  # what super()._advance finds, of this tracker only
            return (timed if self_ is tracker else located)(self_, *arguments)

        rts_lite.LiteTracker._advance = locate

    def _timed(self, function: Callable[..., T], stage: str) -> Callable[..., T]:
        def call(*arguments: Any) -> T:
            start = time.perf_counter()
            result = function(*arguments)
            self.spent[stage] += 1e3 * (time.perf_counter() - start)
            return result

        return call

    def _frame(self, *arguments: Any) -> Any:
        start, before = time.perf_counter(), sum(self.spent.values())
        result = self._whole(*arguments)
        self.spent[STAGES[4]] += 1e3 * (time.perf_counter() - start) - (sum(self.spent.values()) - before)
        self.frames += 1
        return result

    def means(self) -> dict[str, float]:
        return {stage: round(self.spent[stage] / self.frames, 2) for stage in STAGES}


def follow(tracker: Any, sequence: Sequence, start: str) -> tuple[Run, list[float]]:
    """Masks and boxes of every frame; the first one's mask is the one that the tracker made or was given."""
    truths = sequence.annotation.masks
    first = None if truths is None else truths[0]
    if first is None:
        raise SystemExit(f"{sequence.name} has no mask in its first frame")
    masks: list[np.ndarray] = []
    boxes, presence = [], []
    for frame in sequence.frames:
        if not masks:
            known = first > 0
            box = tight_box(known)
            tracker.init(frame, mask=known) if start == "mask" else tracker.init(frame, box=box)
            masks.append(tracker.probabilities()[0] > 0.5)
            boxes.append(tuple(box or 4 * (np.nan,)))
        else:
            result = tracker.update(frame)
            masks.append(result.mask)
            boxes.append(tuple(result.box))
            presence.append(result.presence)
    made = MaskArrays(m.astype(np.uint8) for m in masks)
    return Run(np.array(boxes, float), masks=made), presence


def tables(runs: dict[str, Run], sequences: list[tuple[str, Sequence]], name: str) -> dict[str, dict[str, float]]:
    """J and F of each sequence."""
    scores = score_davis(
        [s for _, s in sequences], {k: [r] for k, r in runs.items()}, tracker=name, dataset="mask sequences", rule=RULE
    )
    return {
        f"{family}/{s.name}": {"J": s.values["J"], "F": s.values["F"], "frames": s.frames}
        for (family, _), s in zip(sequences, scores.sequences, strict=True)
    }


def pictures(sequence: Sequence, runs: dict[str, Run], folder: Path, count: int = 4) -> None:
    """A strip for each start: a few frames, the mask in red, the truth's outline in white."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.linspace(1, len(sequence) - 1, count).astype(int)
    rows = []
    for run in runs.values():
        row = []
        for i in chosen:
            image = np.array(sequence.frames[int(i)])
            mask, truth = run.masks[int(i)] > 0, sequence.annotation.masks[int(i)]  # type: ignore[index]
            image[mask] = image[mask] // 2 + np.array([127, 0, 0], np.uint8)
            if truth is not None:
                lines, _ = cv2.findContours((truth > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(image, lines, -1, (255, 255, 255), 1)
            row.append(cv2.resize(image, (360, round(360 * image.shape[0] / image.shape[1]))))
        rows.append(np.hstack(row))
    cv2.imwrite(str(folder / f"{sequence.name}.png"), np.vstack(rows)[:, :, ::-1])


def chosen(data: Path, names: list[str]) -> Iterator[tuple[str, Sequence]]:
    for family in FAMILIES:
        for sequence in open_dataset("folder", root=data / family).values():
            if not names or sequence.name in names:
                yield family, sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with davis2016 and segtrackv2")
    parser.add_argument("--weights", type=Path, help="other weights than the packaged ones")
    parser.add_argument("--only", nargs="*", default=[], help="names of sequences")
    parser.add_argument("--pictures", type=Path, help="folder for frames with masks")
    parser.add_argument("--out", type=Path, help="folder for the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)  # k-means begins GrabCut's colour models
    sequences = list(chosen(args.data, args.only))
    stages = None
    found: dict[str, dict[str, dict[str, float]]] = {}
    runs: dict[str, dict[str, Run]] = {}
    for start in STARTS:
        tracker = ks.load("rts-lite", weights=args.weights, device="cpu")
        stages = stages or Stages(tracker)
        runs[start] = {s.name: follow(tracker, s, start)[0] for _, s in sequences}
        found[start] = tables(runs[start], sequences, "rts-lite")
    found["grabcut"] = tables({s.name: propagate(s, VARIANTS["GrabCut"]) for _, s in sequences}, sequences, "grabcut")
    assert stages is not None
    means = {
        kind: {metric: round(float(np.mean([row[metric] for row in rows.values()])), 4) for metric in ("J", "F")}
        for kind, rows in found.items()
    }
    for key in found["mask"]:
        words = "   ".join(
            f"{kind} J {100 * found[kind][key]['J']:5.1f} F {100 * found[kind][key]['F']:5.1f}" for kind in found
        )
        print(f"{key:30s} {words}")
    print(json.dumps({"mean": means, "milliseconds": stages.means()}, indent=1))
    if args.pictures:
        for _, sequence in sequences:
            pictures(sequence, {start: runs[start][sequence.name] for start in STARTS}, args.pictures)
    if args.out:
        write(args.out, found, means, stages)


def write(
    folder: Path, found: dict[str, dict[str, dict[str, float]]], means: dict[str, dict[str, float]], stages: Stages
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "sequences.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sequence", "frames", *(f"{kind} {m}" for kind in found for m in ("J", "F", "J&F"))])
        for key, row in found["mask"].items():
            values = [found[kind][key] for kind in found]
            numbers = [f"{100 * n:.1f}" for v in values for n in (v["J"], v["F"], (v["J"] + v["F"]) / 2)]
            table.writerow([key, row["frames"], *numbers])
    made = provenance() | {"keepsight": ks.__version__, "torch": torch.__version__, "opencv": cv2.__version__}
    made["command"] = " ".join(["python", "benchmarks/rts_lite.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    summary = {
        "provenance": made, "rule": RULE, "threads": 1, "mean": means, "milliseconds per frame": stages.means(),
        "frames timed": stages.frames,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
