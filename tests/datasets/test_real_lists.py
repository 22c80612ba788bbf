"""Published annotations and attribute tables, put into the official layouts: every name and every length must fit."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keepsight.datasets import open_dataset
from keepsight.datasets.attributes import LONG_NAMES, _key, read_table
from keepsight.datasets.lists import frame_ranges, names


@pytest.fixture(scope="module")
def published() -> Path:
    root = Path(__file__).parents[3] / "shared/data/published_results"
    if not root.is_dir():
        pytest.skip(f"the published results are not here: {root}")
    return root


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def test_uav123_at_both_rates(published: Path, tmp_path: Path) -> None:
    unpacked(published / "uav123_10fps/groundtruth_30fps.zip", tmp_path / "a/anno/UAV123")
    unpacked(published / "uav123_10fps/groundtruth.zip", tmp_path / "b/anno/UAV123_10fps")
    full = open_dataset("uav123", tmp_path / "a")
    derived, own = (open_dataset("uav123_10fps", tmp_path / n) for n in "ab")
    assert (len(full), len(derived), len(own)) == (123, 123, 123)
    assert sum(len(s.boxes) for s in full.values()) == sum(map(len, full.values())) == 112_578
    assert sum(np.isnan(s.boxes).any(axis=1).sum() for s in full.values()) == 2_683
    assert sum(map(len, own.values())) == 37_607
    for name in own:
        np.testing.assert_array_equal(derived[name].boxes, own[name].boxes)


def test_otb100_rows(published: Path, tmp_path: Path) -> None:
    source = unpacked(published / "otb100/groundtruth.zip", tmp_path / "zip")
    first = (source / "extra/Tiger1_frames_1-5.txt").read_text()
    for r in frame_ranges("otb100"):
        text = (source / f"{r.name.replace('_', '-')}.txt").read_text()
        (tmp_path / "OTB100" / r.annotation).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "OTB100" / r.annotation).write_text((first if r.name == "Tiger1" else "") + text)
    dataset = open_dataset("otb100", tmp_path)
    assert sum(len(s.boxes) for s in dataset.values()) == sum(map(len, dataset.values())) == 59_035
    assert sum(len(s.boxes) for s in open_dataset("otb100:full", tmp_path).values()) == 59_040


def test_got10k_rows(published: Path, tmp_path: Path) -> None:
    unpacked(published / "got10k_val/groundtruth.zip", tmp_path / "x")
    dataset = open_dataset("got10k", next((tmp_path / "x").rglob("list.txt")).parent)
    assert not dataset.missing
    assert sum(len(s.boxes) for s in dataset.values()) == 21_007


def test_attribute_tables_name_every_sequence(published: Path) -> None:
    folder = published / "attributes"
    official = {n: [r.name for r in frame_ranges(n)] for n in ("otb100", "uav123")} | {
        "lasot": list(names("lasot_all"))
    }
    with (folder / "names.csv").open(newline="") as file:
        counts = list(csv.DictReader(file))
    for name, sequences in official.items():
        table = read_table(folder / f"{name}.csv")
        assert set(table) == {_key(s) for s in sequences}
        for row in counts:
            if row["dataset"] == name:
                assert LONG_NAMES[row["short"]] == row["long"]
                assert sum(row["short"] in flags for flags in table.values()) == int(row["sequences"])
