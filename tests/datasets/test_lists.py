"""The lists that travel with the package, against the spec's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import keepsight.datasets.lists as lists
from keepsight.datasets.catalog import entries
from keepsight.errors import InputError


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    path = Path(__file__).parents[3] / "shared/spec/sequence_lists.json"
    if not path.is_file():
        pytest.skip(f"the spec's lists are not here: {path}")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["otb100", "nfs30", "uav123"])
def test_frame_ranges_are_those_of_the_spec(name: str, spec: dict[str, Any]) -> None:
    assert [vars(r) for r in lists.frame_ranges(name)] == [{"skip_first": 0, **s} for s in spec[name]]


def test_every_list_of_the_spec_is_there_and_equal(spec: dict[str, Any]) -> None:
    for name, content in spec.items():
        if name.startswith("_") or isinstance(content[0], dict):
            continue
        assert list(lists.indices(name) if isinstance(content[0], int) else lists.names(name)) == content, name


@pytest.mark.parametrize(
    ("name", "count", "frames"), [("otb100", 100, 59_040), ("nfs30", 100, 47_953), ("uav123", 123, 112_578)]
)
def test_totals(name: str, count: int, frames: int) -> None:
    ranges = lists.frame_ranges(name)
    assert len(ranges) == len({r.name for r in ranges}) == count
    assert sum(map(len, ranges)) == frames


def test_names_of_whole_data_sets() -> None:
    sizes = {"otb100": 100, "nfs30": 100, "uav123": 123, "uav123_10fps": 123, "lasot": 280, "lasot_extension": 150}
    for name, count in sizes.items():
        entry = entries()[name]
        assert entry.official is not None
        official = entry.official(entry.splits[0] if entry.splits else None)
        assert len(set(official)) == count == entry.size(entry.splits[0] if entry.splits else None).sequences
    assert len(lists.names("lasot_all")) == 1400
    assert len(lists.names("lasot_train_split")) == 1120
    assert set(lists.names("lasot_train_split")).isdisjoint(lists.names("lasot_test"))


def test_frames_of_uav123_at_10_fps() -> None:
    assert sum(-(-len(r) // 3) for r in lists.frame_ranges("uav123")) == 37_607
    assert all(r.first_frame % 3 == 1 for r in lists.frame_ranges("uav123"))


def test_splits_of_got10k() -> None:
    official = entries()["got10k"].official
    assert official is not None
    assert [len(official(s)) for s in ("val", "test", "train", "train_split", "val_split")] == [
        180,
        180,
        9335,
        7934,
        1401,
    ]
    assert len(official("train_without_vot")) == 8335
    assert set(official("train_without_vot")).isdisjoint(lists.names("got10k_vot_exclude"))


def test_unknown_lists() -> None:
    with pytest.raises(InputError, match="lasot_test"):
        lists.names("lasot_tst")
    with pytest.raises(InputError, match="got10k_train_split"):
        lists.indices("got10k_train_splt")


def test_the_packed_file_is_small() -> None:
    assert (Path(lists.__file__).parent / "lists.json.gz").stat().st_size < 60_000
