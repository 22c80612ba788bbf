"""Turn spec/published.csv and the model zoo table of spec/evaluation.md §13.1 into the package's published.csv, once.

    python scripts/compact_published.py ../shared/spec src/keepsight/evaluation/data/published.csv

Numbers become fractions (VOT's short-term A, R and EAO stay as VOT prints them), names of data sets and metrics become
keepsight's, hashes of files become papers. Left out are speeds and gains that are given without the number itself.
"""

from __future__ import annotations

import argparse
import csv
import re
from decimal import Decimal
from pathlib import Path

COLUMNS = ("tracker", "variant", "dataset", "metric", "attribute", "value", "paper", "place", "note")
PAPERS = {"000": "PrDiMP", "001": "DuML", "002": "RTS", "003": "ATOM", "004": "KeepTrack"}
DATASETS = {
    "VOT2018": "vot2018",
    "VOT2019": "vot2019",
    "NUO323": "nuo323",
    "NFS30+UAV123 (223 videos)": "nfs30+uav123",
    "OTB-100": "otb100",
    "NFS30": "nfs30",
    "UAV123": "uav123",
    "LaSOT": "lasot",
    "TrackingNet": "trackingnet",
    "GOT-10k test": "got10k:test",
    "YouTube-VOS 2019": "youtubevos2019",
    "DAVIS 2017 val": "davis2017",
    "OxUvA-LT test": "oxuva:test",
    "VOT2019-LT/VOT2020-LT": "votlt2019",
    "VOT2018-LT": "votlt2018",
}
METRICS = {
    "R (failure rate)": "R",
    "SR0.50": "SR50",
    "SR0.75": "SR75",
    "OP0.50": "OP50",
    "OP0.75": "OP75",
    "F-score": "F",
}
ZOO = {
    "VOT18 EAO": ("vot2018", "EAO"),
    "OTB100": ("otb100", "AUC"),
    "NFS": ("nfs30", "AUC"),
    "UAV123": ("uav123", "AUC"),
    "LaSOT": ("lasot", "AUC"),
    "LaSOT-ext": ("lasot_extension", "AUC"),
    "TrackingNet": ("trackingnet", "AUC"),
    "GOT-10k AO": ("got10k:test", "AO"),
}
AS_PRINTED = ("vot2018", "vot2019", "nuo323")  # not in percent


def metric_name(dataset: str, metric: str) -> str:
    if metric in ("Precision", "NormPrecision"):
        if dataset.startswith("votlt"):
            return "Pr"
        short = "P" if metric == "Precision" else "NP"
        return short if dataset == "trackingnet" else f"{short}20"
    return "Re" if metric == "Recall" else METRICS.get(metric, metric)


def fraction(dataset: str, value: str) -> str:
    return value if dataset in AS_PRINTED else str(Decimal(value) / 100)


def paper_rows(spec: Path) -> list[list[str]]:
    rows = []
    with (spec / "published.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "FPS" or "gain" in row["metric"]:
                continue
            name, _, attribute = row["metric"].partition(" [")
            paper = PAPERS[row["seed_file"][:3]]
            tracker = row["tracker"].replace(" (printed DRDL)", "")
            dataset = DATASETS[row["benchmark"]]
            metric, value = metric_name(dataset, name), fraction(dataset, row["value"])
            place = row["table_or_figure"].replace(" text", "")
            rows.append(
                [tracker, row["variant"], dataset, metric, attribute.rstrip("]"), value, paper, place, row["note"]]
            )
    return rows


def zoo_rows(spec: Path) -> list[list[str]]:
    text = (spec / "evaluation.md").read_text(encoding="utf-8")
    table = text[text.index("### 13.1") :]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", table, re.M)]
    head, body = lines[0], [line for line in lines[2:] if len(line) == len(lines[0])]
    rows = []
    for line in body:
        for column, value in zip(head[1:], line[1:], strict=True):
            if value == "-":
                continue
            dataset, metric = ZOO[column]
            rows.append([line[0], "", dataset, metric, "", fraction(dataset, value), "zoo", "MODEL_ZOO, 7eb9e74", ""])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(paper_rows(given.spec) + zoo_rows(given.spec))


if __name__ == "__main__":
    main()
