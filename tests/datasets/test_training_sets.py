"""Training sets by name: video data sets, ranges, roots, errors, audit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import layouts as videos
import numpy as np
import pytest
import training_layouts as layouts
from test_davis import make as make_davis
from test_youtube_vos import make as make_youtube_vos

from keepsight.datasets import dataset_names
from keepsight.datasets.lists import indices, names
from keepsight.datasets.masks import save_indexed_png
from keepsight.datasets.tracks import visible_frames
from keepsight.datasets.training_sets import (
    audit,
    list_training_sets,
    open_training_set,
    training_entries,
    training_set_names,
)
from keepsight.datasets.training_videos import trackingnet_parts
from keepsight.errors import InputError, KeepsightError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPSIGHT_CACHE", str(tmp_path / "cache"))


# --- videos of the evaluation readers --------------------------------------------------------------------------------------


def test_lasot(tmp_path: Path) -> None:
    there = names("lasot_train_split")[:2]
    root = videos.lasot(tmp_path / "LaSOT", there, frames=5)
    tracks = pickle.loads(pickle.dumps(open_training_set("lasot:train", tmp_path)))
    assert (len(tracks), tracks.name, tracks.is_video) == (2, "lasot:train", True)
    assert tracks.skipped == {"sequence not there": 1118}
    assert tracks[1].name == there[1]
    assert visible_frames(tracks[0]).tolist() == [True, True, False, True, False]
    assert root.is_dir()


def test_what_is_drawn_is_not_kept(tmp_path: Path) -> None:
    """A worker that goes through 30,000 videos must not end with all their annotations in memory."""
    root = videos.lasot(tmp_path / "LaSOT", names("lasot_train_split")[:1])
    tracks = open_training_set("lasot", root)
    assert len(tracks[0].boxes) == 4
    assert "annotation" not in vars(tracks._sequences[0])  # type: ignore[attr-defined]


def test_got10k(tmp_path: Path) -> None:
    root = videos.got10k(tmp_path / "GOT-10k", "train", 3)
    every = [f"GOT-10k_Train_{i:06d}" for i in range(1, 9336)]
    (root / "train/list.txt").write_text("\n".join(every) + "\n")
    tracks = open_training_set("got10k:train", tmp_path)
    assert [tracks[i].name for i in range(len(tracks))] == every[:3]
    assert vars(tracks)["skipped"] == {"sequence not there": 9332}
    assert visible_frames(tracks[0]).tolist() == [True, False, True, True]
    assert len(open_training_set("got10k:train_without_vot", root)) == 3 - len(
        set(every[:3]) & set(names("got10k_vot_exclude"))
    )
    wanted = {every[i] for i in indices("got10k_vot_train_split")} & set(every[:3])
    assert {s.name for s in _all("got10k:vot_train", root)} == wanted
    (root / "train/list.txt").unlink()
    with pytest.raises(InputError, match=r"GOT-10k is not found|there is no .*train/list.txt"):
        open_training_set("got10k:train", root)


def _all(spec: str, root: Path) -> list:
    found = open_training_set(spec, root)
    return [found[i] for i in range(len(found))]


def test_trackingnet(tmp_path: Path) -> None:
    root = tmp_path / "TrackingNet"
    for part, name in (("TRAIN_0", "a"), ("TRAIN_1", "b"), ("TRAIN_3", "c")):
        videos.trackingnet(root, part, name, 3, 3)
    assert [s.name for s in _all("trackingnet:train_0-1", tmp_path)] == ["a", "b"]
    assert [s.name for s in _all("trackingnet:train_3,0", tmp_path)] == ["c", "a"]
    tracks = open_training_set("trackingnet:train", tmp_path)
    assert len(tracks) == 3
    assert vars(tracks)["skipped"] == {"part not there": 9}
    with pytest.raises(InputError, match=r"has no TRAIN_2/anno(.|\n)*should look like"):
        open_training_set("trackingnet:train_0-3", tmp_path)


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train_0", (0,)),
        ("train_0-3", (0, 1, 2, 3)),
        ("train_0,4,9-11", (0, 4, 9, 10, 11)),
        ("train_2,train_1-2", (2, 1)),
    ],
)
def test_ranges(split: str, parts: tuple[int, ...]) -> None:
    assert trackingnet_parts(split) == parts


@pytest.mark.parametrize("split", ["train_12", "train_3-1", "train_0-99"])
def test_ranges_that_do_not_exist(split: str, tmp_path: Path) -> None:
    videos.trackingnet(tmp_path, "TRAIN_0", "a", 2, 2)
    with pytest.raises(InputError, match="no range within 0-11"):
        open_training_set(f"trackingnet:{split}", tmp_path)


def test_youtube_vos(tmp_path: Path) -> None:
    """One element per object; the frame without a mask is left out; boxes are gathered once."""
    root = make_youtube_vos(tmp_path / "data", "train")
    meta = json.loads((root / "train/meta.json").read_text())
    meta["videos"]["absent"] = {"objects": {"1": {"category": "cat", "frames": ["00000"]}}}
    meta["videos"]["003234408d"]["objects"]["x"] = {}
    (root / "train/meta.json").write_text(json.dumps(meta))
    objects = pickle.loads(pickle.dumps(open_training_set("youtubevos2019:train", root)))
    assert (len(objects), objects.labels) == (2, ["dog", "penguin"])
    assert objects.skipped == {"video not there": 1, "object without id or frames": 1}
    first, second = objects[0], objects[1]
    assert (first.name, second.attributes, len(first)) == ("003234408d/1", {"penguin"}, 2)
    np.testing.assert_array_equal(first.boxes, [[np.nan] * 4, [2, 0, 5, 3]])
    np.testing.assert_array_equal(second.boxes, [[10, 4, 10, 4], [np.nan] * 4])
    assert visible_frames(second).tolist() == [True, False]
    assert second.annotation.masks[0].sum() == 40
    assert audit(objects) == {**objects.skipped, "one frame with a box": 2}
    assert len(list((tmp_path / "cache/datasets").iterdir())) == 1


def test_boxes_of_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = open_training_set("youtubevos2018", make_youtube_vos(tmp_path / "data", "train"))
    wanted = objects[0].boxes

    def never(*_: object) -> None:
        raise AssertionError("a mask was read again")

    monkeypatch.setattr("keepsight.datasets.masks.read_mask", never)
    np.testing.assert_array_equal(objects[0].boxes, wanted)


def test_davis(tmp_path: Path) -> None:
    root = make_davis(tmp_path, split="train")
    objects = open_training_set("davis2017:train", root)
    assert len(objects) > 1
    assert {objects[i].name.split("/")[0] for i in range(len(objects))} == {"car"}
    assert all(visible_frames(objects[i])[0] for i in range(len(objects)))


def test_davis_with_a_damaged_video(tmp_path: Path) -> None:
    root = make_davis(tmp_path, split="train")
    listed = next((root / "ImageSets/2017").glob("train.txt"))
    listed.write_text(listed.read_text() + "\nempty\ngone\n")
    save_indexed_png(root / "Annotations/480p/empty/00000.png", np.zeros((4, 4), np.uint8))
    objects = open_training_set("davis2017", root)
    assert vars(objects)["skipped"] == {"video without a usable first mask": 2}


def test_own_folder(tmp_path: Path) -> None:
    videos.own(tmp_path, "a/x")
    videos.own(tmp_path, "b")
    for spec, root in (
        (f"folder:{tmp_path}", None),
        (f"folder:{tmp_path.name}", tmp_path.parent),
        ("folder", tmp_path),
    ):
        assert [s.name for s in _all(spec, root)] == ["a/x", "b"]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there is no folder"):
        open_training_set(f"folder:{tmp_path / 'c'}")


# --- names, roots, errors ---------------------------------------------------------------------------------------------------


def test_every_entry_is_complete() -> None:
    for name, entry in training_entries().items():
        assert name == entry.name == name.lower()
        assert all((entry.title, entry.layout.strip(), entry.source, entry.splits)), name
        assert entry.takes_path or (entry.folders and entry.marks), name
    assert {
        "lasot:train",
        "coco:train2014",
        "got10k:vot_train",
        "shared:tracks",
        "ecssd",
        "composite:procedural",
    } <= set(training_set_names())
    assert not {"coco", "lvis", "shared", "ecssd"} & set(dataset_names())  # nothing to evaluate on


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cocoo", "did you mean 'coco"),
        ("otb100", "unknown training set"),
        ("coco:train2015", "did you mean 'train2017' or 'train2014'"),
        ("ecssd:train", "ecssd has no parts"),
        ("lasot:test", "no part 'test'"),
        ("trackingnet:train_", "no part"),
        ("coco_video", "needs a path"),
        ("", "unknown training set"),
    ],
)
def test_unknown_names(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_training_set(spec)


@pytest.mark.parametrize("spec", [s for s in training_set_names() if s != "composite:procedural"])
def test_every_name_tells_what_is_missing(spec: str, tmp_path: Path) -> None:
    if spec == "coco_video":
        spec = "coco_video:x.json"
    with pytest.raises(KeepsightError) as error:
        open_training_set(spec, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "should look like" in str(error.value)


@pytest.mark.parametrize("spec", [s for s in training_set_names() if ":" in s and s != "composite:procedural"])
def test_a_root_that_lacks_the_part(spec: str, tmp_path: Path) -> None:
    """The data set is there, its training part is not: still one error that says how it should look."""
    entry = training_entries()[spec.partition(":")[0]]
    mark = entry.marks[0].replace("*-*", "a-1").replace("*", "x")
    layouts.save(tmp_path / mark, "") if Path(mark).suffix else (tmp_path / mark).mkdir(parents=True)
    with pytest.raises(KeepsightError, match="should look like"):
        open_training_set(spec, tmp_path)


def test_roots_by_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.coco(tmp_path / "data/COCO")
    monkeypatch.setenv("KEEPSIGHT_DATA", str(tmp_path / "data"))
    assert len(open_training_set("coco")) == 4
    monkeypatch.delenv("KEEPSIGHT_DATA")
    monkeypatch.setenv("KEEPSIGHT_DATA_COCO", str(tmp_path / "data/COCO"))
    assert len(open_training_set("coco")) == 4
    monkeypatch.delenv("KEEPSIGHT_DATA_COCO")
    config = layouts.save(tmp_path / "data.toml", f'[data]\ncoco = "{(tmp_path / "data/COCO").as_posix()}"\n')
    monkeypatch.setenv("KEEPSIGHT_CONFIG", str(config))
    assert len(open_training_set("coco")) == 4


def test_list(tmp_path: Path) -> None:
    layouts.coco(tmp_path / "COCO")
    rows = {row.name: row for row in list_training_sets(tmp_path)}
    assert (rows["coco"].root, rows["coco"].how) == (tmp_path / "COCO", "given")
    assert rows["lvis"].root is None
    assert not set(rows) & {*dataset_names(), "composite", "coco_video"}


def test_nothing_usable(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path, images=0)
    (root / "images/train2014").mkdir(parents=True)
    with pytest.raises(InputError, match=r"nothing to train on(.|\n)*crowd: 1(.|\n)*should look like"):
        open_training_set("coco", root)


@pytest.mark.parametrize(
    ("spec", "make"),
    [
        ("coco", layouts.coco),
        ("youtube_bb", layouts.youtube_bb),
        ("shared:images", layouts.shared),
        ("shared:tracks", layouts.shared),
        ("trackingnet:train_0", lambda root: videos.trackingnet(root, "TRAIN_0", "a", 3, 3)),
        ("ecssd", lambda root: layouts.saliency(root, "images", "ground_truth_mask", ".jpg")),
    ],
)
def test_opening_reads_no_image(
    spec: str, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a picture was read")

    for place in ("keepsight.video.readers.read_image", "keepsight.datasets.masks.read_mask", "PIL.Image.open"):
        monkeypatch.setattr(place, never)
    opened = open_training_set(spec, root)
    assert len(opened) > 0
    assert opened[0].frames.paths


def test_synthetic_videos(tmp_path: Path) -> None:
    assert len(open_training_set("composite:procedural")[0].boxes) == len(open_training_set("composite:procedural")[0])
    opened = open_training_set("composite:shared", layouts.shared(tmp_path))
    assert (opened.name, opened.is_video) == ("composite:shared", True)


def test_audit_looks_at_so_many(tmp_path: Path) -> None:
    objects = open_training_set("coco", layouts.coco(tmp_path))
    for file in (tmp_path / "images/train2014").iterdir():
        file.unlink()
    assert audit(objects, 2)["image file not there"] == 2
    assert audit(objects)["image file not there"] == 4
