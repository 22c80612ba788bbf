"""Success of trackers on a folder of annotated sequences, side by side.

    python benchmarks/sequences.py --data ../shared/data/sequences --trackers keepsight:dimp-lite
    python benchmarks/sequences.py --data ../shared/data/sequences --trackers keepsight:dimp-lite opencv:CSRT \\
        opencv:KCF opencv:Nano --opencv-python ../venv-base/bin/python --nano ../shared/data/peers/nanotrackv2

Trackers: ``keepsight:NAME`` or ``keepsight:NAME@WEIGHTS`` (a file, or ``random``), and ``opencv:NAME`` for OpenCV's
Tracker<NAME>. CSRT and KCF need opencv-contrib-python-headless, which cannot share an environment with the OpenCV
that keepsight depends on: --opencv-python names the interpreter of another environment (OpenCV and numpy are all it
needs), in which that part then runs.

Rules: the tracker gets the ground truth of the first frame, as distributed (OTB and VOT count pixels from 1, masks
from 0: the field uses the numbers as they are, and so does the measurement). The first frame and frames without the
target (nan) do not count. Overlap is that of continuous rectangles; success AUC is the mean over 21 thresholds 0,
0.05 .. 1 of the share of frames above; means are over sequences. Precision: centre error at most 20 pixels. Frames
per second: the time inside ``update`` on --threads threads; reading and decoding are not counted, nor is the first
frame's initialisation (its own column). A tracker that says "lost" is measured by the box it then reports; OpenCV's
report none, and their last one is taken. On frames without the target: how often the tracker says "lost", and its
mean presence where it gives one.

One result per tracker and sequence is kept in --cache and used again as long as the code (or OpenCV version), weights,
seed, threads and number of frames are the same: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from provenance import ROOT, provenance

SOURCE = ROOT / "src" / "keepsight"

# frame (BGR) -> box xywh, lost or not, presence in 0..1 or None
Update = Callable[[np.ndarray], tuple[tuple[float, ...], bool, float | None]]


# --- sequences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """One annotated video on disk."""

    name: str
    """family/sequence."""
    folder: Path
    """Holds groundtruth.txt and img/*.jpg or a video file."""
    boxes: np.ndarray
    """(N, 4) xywh ground truth in pixels, nan where the target is absent."""

    def frames(self) -> Iterator[np.ndarray]:
        """BGR frames (H, W, 3) uint8, one per row of ``boxes``."""
        images = sorted((self.folder / "img").glob("*.*"))
        videos = sorted(self.folder.glob("video.*"))
        if not images and not videos:
            sys.exit(f"{self.folder} has neither img/ nor a video file")
        capture = None if images else cv2.VideoCapture(str(videos[0]))
        for i in range(len(self.boxes)):
            if capture is None:
                frame = cv2.imread(str(images[i])) if i < len(images) else None
            else:
                frame = capture.read()[1]
            if frame is None:
                sys.exit(f"{self.folder}: frame {i + 1} of {len(self.boxes)} cannot be read")
            yield frame


def read_sequences(data: Path, only: str, n_frames: int | None) -> list[Sequence]:
    """All sequences below ``data`` whose name matches the glob, cut to their first ``n_frames``."""
    found = []
    for file in sorted(data.glob("*/*/groundtruth.txt")):
        name = f"{file.parent.parent.name}/{file.parent.name}"
        if fnmatch.fnmatch(name, only):
            boxes = np.loadtxt(file, delimiter=",", dtype=np.float64, ndmin=2)[:n_frames]  # (N, 4)
            found.append(Sequence(name, file.parent, boxes))
    if not found:
        sys.exit(f"no sequence below {data} matches {only!r}; expected FAMILY/NAME/groundtruth.txt")
    return found


# --- trackers -----------------------------------------------------------------------------------------------


def start_keepsight(name: str, seed: int, device: str, frame: np.ndarray, box: np.ndarray) -> tuple[Update, float]:
    """A keepsight tracker started on the first frame, and the milliseconds its ``init`` took."""
    import keepsight

    preset, _, weights = name.partition("@")
    tracker = keepsight.load(preset, weights=weights or None, device=device, seed=seed)
    rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    start = time.perf_counter()
    tracker.init(rgb, box=tuple(box.tolist()))
    init_ms = 1e3 * (time.perf_counter() - start)

    def update(frame: np.ndarray) -> tuple[tuple[float, ...], bool, float | None]:
        result = tracker.update(frame)
        return tuple(result.box), str(result.status) == "lost", result.presence

    return update, init_ms


def start_opencv(name: str, nano: Path | None, frame: np.ndarray, box: np.ndarray) -> tuple[Update, float]:
    """OpenCV's Tracker<name> started on the first frame (its boxes are integers), and the milliseconds that took."""
    kind = getattr(cv2, f"Tracker{name}", None)
    if kind is None:
        known = ", ".join(n[7:] for n in dir(cv2) if re.fullmatch(r"Tracker[A-Za-z]+", n))
        sys.exit(f"OpenCV {cv2.__version__} here has no tracker {name!r} (it has {known}); see --opencv-python")
    if name == "Nano":
        if nano is None:
            sys.exit("opencv:Nano needs --nano FOLDER with its two .onnx files")
        params = cv2.TrackerNano_Params()
        params.backbone, params.neckhead = (str(next(nano.glob(f"*{part}*.onnx"))) for part in ("backbone", "head"))
        tracker = kind.create(params)
    else:
        tracker = kind.create()
    last = tuple(round(float(v)) for v in box)
    start = time.perf_counter()
    tracker.init(frame, last)
    init_ms = 1e3 * (time.perf_counter() - start)

    def update(frame: np.ndarray) -> tuple[tuple[float, ...], bool, float | None]:
        nonlocal last
        found, new = tracker.update(frame)
        last = tuple(new) if found else last
        return last, not found, float(tracker.getTrackingScore()) if name == "Nano" else None

    return update, init_ms


def track(tracker: str, sequence: Sequence, args: argparse.Namespace) -> dict[str, Any]:
    """Run one tracker through one sequence: a box, lost or not, and presence for every frame after the first."""
    family, _, name = tracker.partition(":")
    boxes: list[tuple[float, ...]] = []
    lost: list[bool] = []
    presence: list[float | None] = []
    seconds = 0.0
    frames = sequence.frames()
    if family == "keepsight":
        update, init_ms = start_keepsight(name, args.seed, args.device, next(frames), sequence.boxes[0])
    else:
        update, init_ms = start_opencv(name, args.nano, next(frames), sequence.boxes[0])
    for frame in frames:
        if family == "keepsight":
            frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        start = time.perf_counter()
        box, is_lost, present = update(frame)
        seconds += time.perf_counter() - start
        boxes.append(tuple(float(v) for v in box))
        lost.append(bool(is_lost))
        presence.append(None if present is None else float(present))
    return {"boxes": boxes, "lost": lost, "presence": presence, "seconds": seconds, "init_ms": init_ms}


# --- results that are kept ----------------------------------------------------------------------------------


def cache_file(tracker: str, sequence: Sequence, args: argparse.Namespace) -> Path:
    slug = re.sub(r"[^\w.-]+", "_", f"{tracker}-{args.device}" if tracker.startswith("keepsight:") else tracker)
    length = "all" if args.frames is None else str(args.frames)
    return Path(args.cache) / slug / length / (sequence.name.replace("/", "__") + ".json")


def fingerprint(tracker: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on besides the sequence."""
    family, _, name = tracker.partition(":")
    depends: dict[str, Any] = {"threads": args.threads, "python": platform.python_version(), "opencv": cv2.__version__}
    if family == "keepsight":
        import torch

        code = [p for p in SOURCE.rglob("*") if p.suffix in (".py", ".safetensors")]
        weights = name.partition("@")[2]
        files = sorted(code) + ([Path(weights)] if weights not in ("", "random") else [])
        depends |= {"torch": torch.__version__, "device": args.device, "seed": args.seed}
    else:
        files = sorted(args.nano.glob("*.onnx")) if name == "Nano" and args.nano else []
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return depends | ({"files_sha256": digest.hexdigest()[:16]} if files else {})


def run_missing(trackers: list[str], sequences: list[Sequence], args: argparse.Namespace) -> None:
    """Fill the cache; every result is on disk before the next one starts."""
    cv2.setNumThreads(args.threads)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # Nano warns about its back end on every start
    if any(t.startswith("keepsight:") for t in trackers):
        import torch

        torch.set_num_threads(args.threads)
    for tracker in trackers:
        depends = fingerprint(tracker, args)
        for i, sequence in enumerate(sequences):
            file = cache_file(tracker, sequence, args)
            if file.exists() and json.loads(file.read_text())["depends"] == depends:
                continue
            record = {"tracker": tracker, "sequence": sequence.name, "depends": depends, **provenance()}
            record |= track(tracker, sequence, args)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".part{os.getpid()}")
            part.write_text(json.dumps(record))
            part.replace(file)
            fps = len(record["boxes"]) / max(record["seconds"], 1e-9)
            auc = score(record, sequence)["auc"]
            print(f"{tracker} {i + 1}/{len(sequences)} {sequence.name}: AUC {auc:.3f}, {fps:.0f} fps", file=sys.stderr)


def run_elsewhere(python: Path, trackers: list[str], args: argparse.Namespace) -> None:
    """Fill the cache for ``trackers`` in another interpreter."""
    command = [str(python), str(Path(__file__).resolve()), "--fill-cache-only", "--trackers", *trackers]
    for option in ("data", "cache", "only", "frames", "nano", "threads"):
        if getattr(args, option) is not None:
            command += [f"--{option}", str(getattr(args, option))]
    if subprocess.run(command).returncode:
        sys.exit(f"the OpenCV part failed under {python}; results so far are kept in {args.cache}")


# --- scores and tables --------------------------------------------------------------------------------------


def metrics() -> types.ModuleType:
    """keepsight.evaluation.metrics, which needs numpy only, also where ``import keepsight`` cannot find torch."""
    name = "keepsight.evaluation.metrics"
    if name not in sys.modules:
        sys.path.insert(0, str(SOURCE.parent))
        try:
            return importlib.import_module(name)
        except ImportError:
            for package, path in (("keepsight", SOURCE), ("keepsight.evaluation", SOURCE / "evaluation")):
                sys.modules[package] = types.ModuleType(package)
                sys.modules[package].__path__ = [str(path)]
    return importlib.import_module(name)


def score(record: dict[str, Any], sequence: Sequence) -> dict[str, Any]:
    """One row of the table."""
    m = metrics()
    gt = sequence.boxes[1:]
    pred = np.array(record["boxes"], dtype=np.float64).reshape(-1, 4)
    absent = np.isnan(gt).any(axis=1)
    lost = np.array(record["lost"], dtype=float)
    presence = np.array(record["presence"], dtype=float)  # None becomes nan
    return {
        "tracker": record["tracker"],
        "sequence": sequence.name,
        "frames": len(gt),
        "auc": m.success_auc(pred, gt),
        "mean_iou": m.mean_iou(pred, gt),
        "precision_20px": m.precision(pred, gt),
        "fps": len(gt) / max(record["seconds"], 1e-9),
        "init_ms": record["init_ms"],
        "absent_frames": int(absent.sum()),
        "lost_when_absent": _mean(lost[absent]),
        "lost_when_present": _mean(lost[~absent]),
        "presence_when_absent": _mean(presence[absent]),
        "presence_when_present": _mean(presence[~absent]),
    }


def summarise(tracker: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over sequences; speed and presence are over all frames."""
    frames = np.array([r["frames"] for r in rows])
    absent = np.array([r["absent_frames"] for r in rows])

    def pooled(key: str, weights: np.ndarray) -> float | None:
        known = [i for i, r in enumerate(rows) if r[key] is not None]  # where there are such frames and numbers
        return float(np.average([rows[i][key] for i in known], weights=weights[known])) if known else None

    return {
        "tracker": tracker,
        "sequences": len(rows),
        "frames": int(frames.sum()),
        "mean_auc": float(np.mean([r["auc"] for r in rows])),
        "mean_iou": float(np.mean([r["mean_iou"] for r in rows])),
        "mean_precision_20px": float(np.mean([r["precision_20px"] for r in rows])),
        "fps": float(frames.sum() / sum(r["frames"] / r["fps"] for r in rows)),
        "init_ms": float(np.median([r["init_ms"] for r in rows])),
        "lost_when_absent": pooled("lost_when_absent", absent),
        "lost_when_present": pooled("lost_when_present", frames - absent),
        "presence_when_absent": pooled("presence_when_absent", absent),
        "presence_when_present": pooled("presence_when_present", frames - absent),
    }


def markdown(summaries: list[dict[str, Any]], rows: list[dict[str, Any]], run: dict[str, Any]) -> str:
    """The summary table, success AUC per sequence, and how it was made."""
    names = [s["tracker"] for s in summaries]
    columns = {
        "mean_auc": "mean success AUC",
        "mean_iou": "mean IoU",
        "mean_precision_20px": "precision at 20 px",
        "fps": "frames/s",
        "init_ms": "init (median ms)",
        "lost_when_absent": "says lost, target absent",
        "lost_when_present": "says lost, target present",
        "presence_when_absent": "presence, absent",
        "presence_when_present": "presence, present",
    }
    digits = {"fps": 1, "init_ms": 1}
    lines = ["| tracker | " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * len(columns)]
    for s in summaries:
        cells = [_number(s[key], digits.get(key, 3)) for key in columns]
        lines.append(f"| {s['tracker']} | " + " | ".join(cells) + " |")
    table = ["Success AUC per sequence:", "", "| sequence | frames | absent | " + " | ".join(names) + " |"]
    table.append("| --- | ---: | ---: |" + " ---: |" * len(names))
    by_key = {(r["tracker"], r["sequence"]): r for r in rows}
    for r in (r for r in rows if r["tracker"] == names[0]):
        aucs = [_number(by_key[name, r["sequence"]]["auc"], 3) for name in names]
        table.append(f"| {r['sequence']} | {r['frames'] + 1} | {r['absent_frames']} | " + " | ".join(aucs) + " |")
    cells = [_number(s["mean_auc"], 3) for s in summaries]
    table.append(f"| **mean of {summaries[0]['sequences']}** | | | " + " | ".join(f"**{c}**" for c in cells) + " |")
    made = ["How it was made:", "", f"    {run['command']}", ""]
    made += [f"- {key}: {run[key]}" for key in ("data", "date", "commit", "cpu", "threads", "seed")]
    for name, details in run["trackers"].items():
        made.append(f"- {name}: " + ", ".join(f"{k} {v}" for k, v in details.items()))
    rules = (
        "Rules: see the head of `benchmarks/sequences.py` (first frame and absent frames excluded, decoding not timed)."
    )
    return "\n".join(["# Trackers on annotated sequences", "", *lines, "", *table, "", *made, "", rules, ""])


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def write(out: Path, summaries: list[dict[str, Any]], rows: list[dict[str, Any]], run: dict[str, Any]) -> None:
    """OUT.csv (one row per tracker and sequence), OUT.json (everything) and OUT.md (for reading)."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{out}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    Path(f"{out}.json").write_text(json.dumps({"run": run, "summary": summaries, "sequences": rows}, indent=1) + "\n")
    Path(f"{out}.md").write_text(markdown(summaries, rows, run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with FAMILY/NAME/groundtruth.txt")
    parser.add_argument("--trackers", nargs="+", default=["keepsight:dimp-lite"], metavar="FAMILY:NAME")
    parser.add_argument("--opencv-python", type=Path, help="interpreter that runs the opencv: trackers")
    parser.add_argument("--nano", type=Path, help="folder with NanoTrack's two .onnx files, for opencv:Nano")
    parser.add_argument("--only", default="*", help="glob over FAMILY/NAME")
    parser.add_argument("--frames", type=int, help="use only the first FRAMES frames of each sequence")
    default_cache = Path.home() / ".cache" / "keepsight" / "benchmarks"
    parser.add_argument("--cache", type=Path, default=default_cache, help="where results are kept (%(default)s)")
    parser.add_argument(
        "--out", type=Path, help="OUT.csv, .json, .md; benchmarks/results/sequences for a full run, none else"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fill-cache-only", action="store_true", help="track what is missing and write no tables")
    args = parser.parse_args()
    for tracker in args.trackers:
        if not re.fullmatch(r"(keepsight|opencv):.+", tracker):
            parser.error(f"tracker {tracker!r} is neither keepsight:NAME nor opencv:NAME")
    if args.out is None and args.only == "*" and args.frames is None:
        args.out = ROOT / "benchmarks" / "results" / "sequences"
    return args


def main() -> None:
    args = parse()
    sys.path.insert(0, str(SOURCE.parent))  # this checkout, not an installed keepsight
    sequences = read_sequences(args.data, args.only, args.frames)
    elsewhere = [t for t in args.trackers if args.opencv_python and t.startswith("opencv:")]
    if elsewhere:
        run_elsewhere(args.opencv_python, elsewhere, args)
    run_missing([t for t in args.trackers if t not in elsewhere], sequences, args)
    if args.fill_cache_only:
        return

    run: dict[str, Any] = {"command": "python " + " ".join(sys.argv), **provenance()}
    run |= {
        "data": f"{args.data}, {len(sequences)} sequences",
        "threads": args.threads,
        "seed": args.seed,
        "trackers": {},
    }
    rows, summaries = [], []
    for tracker in args.trackers:
        records = [json.loads(cache_file(tracker, s, args).read_text()) for s in sequences]
        mine = [score(record, s) for record, s in zip(records, sequences, strict=True)]
        rows += mine
        summaries.append(summarise(tracker, mine))
        keys = ("date", "cpu", "commit")
        seen = {key: "; ".join(sorted({record[key] for record in records})) for key in keys}
        run["trackers"][tracker] = {"tracked": seen["date"], "on": seen["cpu"], "commit": seen["commit"]}
        run["trackers"][tracker] |= records[0]["depends"]
    print(markdown(summaries, rows, run))
    if args.out is not None:
        write(args.out, summaries, rows, run)


if __name__ == "__main__":
    main()
