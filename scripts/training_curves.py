"""Learning curves of a training run: its log as a small table and a picture.

python scripts/training_curves.py runs/dimp_lite/log.jsonl --csv training.csv --png training.png
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any


def records(log: Path) -> list[dict[str, Any]]:
    """One row per report or validation: kind, step, epoch, seconds per step, and every loss and statistic.

    Where a run was resumed, steps that were done twice count once, as they were done last.
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        if entry["kind"] not in ("train", "validation"):
            continue
        numbers = {**entry["losses"], **{f"statistic {k}": v for k, v in entry["statistics"].items()}}
        row = {"kind": entry["kind"], "step": entry["step"], "epoch": entry["epoch"]}
        if "step_seconds" in entry:
            row["seconds_per_step"] = entry["step_seconds"]
        rows[entry["kind"], entry["step"]] = {**row, **numbers}
    return sorted(rows.values(), key=lambda row: (row["step"], row["kind"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--png", type=Path, required=True)
    arguments = parser.parse_args()
    rows = records(arguments.log)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    with arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [c for c in columns if c not in ("kind", "step", "epoch", "seconds_per_step")]
    figure, axes = plt.subplots(1, len(shown), squeeze=False, figsize=(3.2 * len(shown), 2.8), constrained_layout=True)
    for axis, name in zip(axes[0], shown, strict=True):
        for kind, style in (("train", {"lw": 0.8, "alpha": 0.7}), ("validation", {"marker": "o", "lw": 1.5})):
            points = [(row["step"], row[name]) for row in rows if row["kind"] == kind and name in row]
            axis.plot(*zip(*points, strict=True), label=kind, **style)
        axis.set_title(name.removeprefix("statistic "), fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7)
    figure.savefig(arguments.png, dpi=110)


if __name__ == "__main__":
    main()
