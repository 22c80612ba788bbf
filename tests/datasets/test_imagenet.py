"""ImageNet VID and DET: runs of consecutive frames, the kept index, damaged files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import training_layouts as layouts

from keepsight.datasets import cache
from keepsight.datasets.training_sets import audit, open_training_set


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPSIGHT_CACHE", str(tmp_path / "cache"))


def test_vid(tmp_path: Path) -> None:
    tracks = pickle.loads(pickle.dumps(open_training_set("imagenet_vid:train", layouts.vid(tmp_path / "ILSVRC2015"))))
    assert (len(tracks), tracks.is_video) == (3, True)
    assert tracks.skipped == {
        "seen in a single frame": 1,
        "box without area": 1,
        "XML file that cannot be read": 1,
    }
    first, second, third = (tracks[i] for i in range(3))
    np.testing.assert_array_equal(first.boxes, [[10 + k, 5, 10, 10] for k in (0, 1, 2)])
    assert first.boxes.dtype == np.float64
    assert first.annotation.tags["occluded"].tolist() == [False, True, False]
    np.testing.assert_array_equal(second.boxes, [[10 + k, 5, 10, 10] for k in (4, 5)])
    assert abs(int(second.frames[1][0, 0, 0]) - 100) < 3
    assert (second.start, second.attributes) == (4, {"n1"})
    np.testing.assert_array_equal(third.boxes, [[1, 2, 8, 7]] * 2)
    assert third.attributes == {"n2"}
    assert len({s.name for s in (first, second, third)}) == 3
    assert audit(tracks) == tracks.skipped


def test_det(tmp_path: Path) -> None:
    objects = open_training_set("imagenet_det", layouts.det(tmp_path))
    assert (len(objects), objects.is_video) == (2, False)
    np.testing.assert_array_equal([objects[i].boxes[0] for i in range(2)], [[10, 5, 9, 10], [1, 2, 29, 18]])
    assert [objects[i].attributes for i in range(2)] == [{"n01"}, {"n02"}]
    assert objects[1].annotation.image_size == (layouts.WIDTH, layouts.HEIGHT)
    assert abs(int(objects[1].frames[0][0, 0, 0]) - 33) < 3
    assert audit(objects) == {"no usable box": 1}


def test_the_index_is_kept_until_a_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layouts.vid(tmp_path / "data")
    wanted = open_training_set("imagenet_vid", root)
    read = []
    monkeypatch.setattr("keepsight.datasets.imagenet._parsed", lambda file, skipped: read.append(file))
    again = open_training_set("imagenet_vid", root)
    assert read == []
    assert vars(again)["skipped"] == vars(wanted)["skipped"]
    np.testing.assert_array_equal(again[1].boxes, wanted[1].boxes)
    snippet = next((root / "Annotations/VID/train").glob("*/*"))
    (snippet / "000007.xml").write_text("<annotation/>")
    with pytest.raises(ValueError, match="nothing to train on"):  # _parsed is put out of action
        open_training_set("imagenet_vid", root)
    assert len(read) == 8


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_a_damaged_or_unwritable_cache_costs_time_only(tmp_path: Path, damage: bytes) -> None:
    calls: list[int] = []

    def gather() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        assert cache.kept("x", (1, "é"), gather)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    (file,) = (tmp_path / "cache/datasets").iterdir()
    file.write_bytes(damage)
    assert cache.kept("x", (1, "é"), gather)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 2
    assert cache.kept("x", (2,), gather)["a"].tolist() == [0, 1, 2]
    assert len(list((tmp_path / "cache/datasets").iterdir())) == 2


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSIGHT_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("in the way")
    assert len(open_training_set("imagenet_vid", layouts.vid(tmp_path / "data"))) == 3
