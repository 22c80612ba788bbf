"""The published results' data sets as sequences without pictures: name -> Sequence, from ../shared/data/published_results."""

from __future__ import annotations

import gzip
import json
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from golden_rules import REPO

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.text import parse_rows

FOLDER = REPO.parent / "shared" / "data" / "published_results"


def folder(name: str) -> Path:
    """``published_results/<name>``; the test is skipped where it is absent."""
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{FOLDER / name} is not there: published results are not part of the repository")
    return FOLDER / name


def result_files(name: str) -> list[Path]:
    found = [p for p in sorted(folder(name).rglob("*.zip")) if not p.name.startswith("groundtruth")]
    assert found, f"{folder(name)} holds no result zips"
    return found


def sequences(name: str) -> dict[str, Sequence]:
    """The data set whose published results lie in ``published_results/<name>``."""
    base = folder(name)
    if (base / "groundtruth.zip").exists():
        return _from_zip(name, base / "groundtruth.zip")
    if (base / "groundtruth.json.gz").exists():
        truth = json.loads(gzip.decompress((base / "groundtruth.json.gz").read_bytes()))
        return {seq: _sequence(name, seq, np.array(entry["gt_rect"])) for seq, entry in truth.items()}
    found = {}
    for path in base.glob("*_groundtruth.txt"):
        seq = path.name.removesuffix("_groundtruth.txt")
        found[seq] = _sequence(name, seq, parse_rows(path.read_bytes(), str(path)))
    return found


def _from_zip(name: str, path: Path) -> dict[str, Sequence]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            parts = Path(member).parts
            if parts[0] == "extra" or member == "list.txt":
                continue
            seq = parts[0] if len(parts) == 2 else Path(member).stem
            found[seq] = _sequence(name, seq, parse_rows(archive.read(member), member))
    return found


def _sequence(dataset: str, name: str, rows: np.ndarray) -> Sequence:
    boxes = rows if rows.shape[1] == 4 else np.full((len(rows), 4), np.nan)
    return Sequence(name, dataset, NoFrames(len(rows)), partial(_same, Annotation(boxes=boxes)))


def _same(annotation: Annotation) -> Annotation:
    return annotation
