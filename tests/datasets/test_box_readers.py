"""Readers of the box data sets, each on a tiny copy in the official layout."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest

from keepsight.datasets import Dataset, Sequence, open_dataset
from keepsight.errors import InputError, KeepsightError, VideoError


def shown(sequence: Sequence, index: int) -> int:
    return round(float(sequence.frames[index].mean()))


def check_ends(sequence: Sequence, first: int, last: int) -> None:
    """Frames and boxes of a sequence made by layouts.py from file ``first`` to ``last``."""
    assert sequence.start == first
    assert len(sequence) == last - first + 1 == len(sequence.boxes)
    assert [shown(sequence, i) for i in (0, 1, -2, -1)] == [layouts.grey(n) for n in (first, first + 1, last - 1, last)]


# --- OTB ----------------------------------------------------------------------------------------------------------------

OTB = (
    "David",
    "Board",
    "Jogging_1",
    "Jogging_2",
    "Skating2_2",
    "Human4_2",
    "KiteSurf",
    "Tiger1",
    "BlurCar3",
    "Crossing",
)


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_otb_boxes_whatever_stands_between_them(separator: str, tmp_path: Path) -> None:
    dataset = open_dataset("otb100", layouts.otb(tmp_path, ("Crossing",), separator))
    np.testing.assert_array_equal(dataset["Crossing"].boxes, layouts.boxes(120))


def test_otb_exceptions(tmp_path: Path) -> None:
    dataset = open_dataset("otb100", layouts.otb(tmp_path, OTB))
    assert set(dataset) == set(OTB) | {"Skating2_1"}  # its folder is there, its annotation is not
    assert len(dataset.missing) == 100 - 11
    assert dataset.notes[0].startswith("otb100: only 11 of 100 sequences are there; missing: Basketball,")
    assert (dataset.rule, dataset.protocol, dataset.title) == ("pytracking", "ope", "OTB-100")
    check_ends(dataset["David"], 300, 770)
    check_ends(dataset["BlurCar3"], 3, 359)
    check_ends(dataset["Board"], 1, 698)
    check_ends(dataset["KiteSurf"], 1, 84)
    assert dataset["Board"].frames.paths[0] == tmp_path / "Board/img/00001.jpg"
    assert dataset["Jogging_2"].frames.paths == dataset["Jogging_1"].frames.paths
    assert dataset["KiteSurf"].frames.paths[83] == tmp_path / "KiteSurf/jpg/0084.png"
    assert dataset["Human4_2"].first_box == (1, 2, 10, 8)
    with pytest.raises(VideoError, match=r"Skating2/groundtruth_rect\.1\.txt"):
        _ = dataset["Skating2_1"].annotation


def test_otb_targets_of_one_folder_have_their_own_files(tmp_path: Path) -> None:
    layouts.otb(tmp_path, ("Jogging_1", "Jogging_2"))
    layouts.write(tmp_path / "Jogging/groundtruth_rect.2.txt", layouts.boxes(307) + 100)
    dataset = open_dataset("otb100", tmp_path)
    assert dataset["Jogging_1"].first_box == (1, 2, 10, 8)
    assert dataset["Jogging_2"].first_box == (101, 102, 110, 108)


def test_otb_tiger1_is_cut_unless_asked(tmp_path: Path) -> None:
    layouts.otb(tmp_path, ("Tiger1",))
    layouts.pictures(tmp_path / "Tiger1/img", 6, 7, 4)
    cut, full = open_dataset("otb100", tmp_path)["Tiger1"], open_dataset("otb100:full", tmp_path)["Tiger1"]
    check_ends(full, 1, 354)
    check_ends(cut, 6, 354)
    np.testing.assert_array_equal(cut.boxes, full.boxes[5:])
    assert (cut.dataset, full.dataset) == ("otb100", "otb100:full")


def test_otb_kitesurf_like_the_others(tmp_path: Path) -> None:
    layouts.otb(tmp_path, ("KiteSurf",))
    shutil.rmtree(tmp_path / "KiteSurf/jpg")
    layouts.pictures(tmp_path / "KiteSurf/img", 1, 84, 4)
    check_ends(open_dataset("otb100", tmp_path)["KiteSurf"], 1, 84)


def test_otb_attributes(tmp_path: Path) -> None:
    layouts.otb(tmp_path, ("Crossing", "Jogging_1", "David"))
    (tmp_path / "Crossing/attrs.txt").write_text("SV, DEF, fm\nOPR BC nonsense\n")
    assert open_dataset("otb100", tmp_path)["Crossing"].attributes == {"SV", "DEF", "FM", "OPR", "BC"}
    (tmp_path / "attributes.csv").write_text("sequence,IV,OCC,test\nJogging-1,0,1,1\nCrossing,1,0,0\n")
    dataset = open_dataset("otb100", tmp_path)
    assert dataset["Jogging_1"].attributes == {"OCC"}
    assert dataset["Crossing"].attributes == {"IV"}
    assert dataset["David"].attributes == frozenset()


@pytest.mark.parametrize("table", ["", "sequence\n", "sequence,IV\nDavid,2\n", "sequence,IV\nDavid\n"])
def test_attribute_tables_that_make_no_sense(table: str, tmp_path: Path) -> None:
    layouts.otb(tmp_path, ("Crossing",))
    (tmp_path / "attributes.csv").write_text(table)
    with pytest.raises(InputError, match=r"attributes\.csv"):
        open_dataset("otb100", tmp_path)


# --- NFS ----------------------------------------------------------------------------------------------------------------


def test_nfs_converted_copy(tmp_path: Path) -> None:
    dataset = open_dataset("nfs30", layouts.nfs(tmp_path, ("nfs_Gymnastics", "nfs_zebra_fish")))
    assert list(dataset) == ["nfs_Gymnastics", "nfs_zebra_fish"]
    check_ends(dataset["nfs_Gymnastics"], 1, 368)
    check_ends(dataset["nfs_zebra_fish"], 1, 671)


@pytest.mark.parametrize(("images", "lines", "frames"), [(4, 32, 4), (4, 25, 4), (5, 32, 4), (3, 32, 3)])
def test_nfs_as_distributed(images: int, lines: int, frames: int, tmp_path: Path) -> None:
    layouts.nfs_distributed(tmp_path, "zebra_fish", images, lines)
    sequence = open_dataset("nfs30", tmp_path)["nfs_zebra_fish"]
    assert len(sequence) == frames
    np.testing.assert_array_equal(sequence.boxes, [(8 * i, 2, 10, 8) for i in range(frames)])
    assert shown(sequence, frames - 1) == frames


def test_nfs_lengths_too_far_apart(tmp_path: Path) -> None:
    sequence = open_dataset("nfs30", layouts.nfs_distributed(tmp_path, "zebra_fish", 9, 32))["nfs_zebra_fish"]
    for use in (lambda: len(sequence), lambda: sequence.boxes):
        with pytest.raises(InputError, match=r"zebra_fish\.txt has boxes for 4 frames.*9 images"):
            use()


def test_nfs_lines_of_another_kind(tmp_path: Path) -> None:
    layouts.nfs_distributed(tmp_path, "zebra_fish", 4, 32)
    (tmp_path / "zebra_fish/30/zebra_fish.txt").write_text("0 1 2 3 4 0\n1,2,3,4\n")
    with pytest.raises(InputError, match=r"zebra_fish\.txt, line 2"):
        _ = open_dataset("nfs30", tmp_path)["nfs_zebra_fish"].boxes


# --- UAV123 -------------------------------------------------------------------------------------------------------------


def test_uav_ranges_and_nan(tmp_path: Path) -> None:
    dataset = open_dataset("uav123", layouts.uav(tmp_path, ("uav_bike1", "uav_bird1_2", "uav_car6_5")))
    check_ends(dataset["uav_bike1"], 1, 3085)
    check_ends(dataset["uav_bird1_2"], 775, 1477)
    check_ends(dataset["uav_car6_5"], 3925, 4861)
    assert dataset["uav_car6_5"].frames.paths[0] == tmp_path / "data_seq/UAV123/car6/003925.jpg"
    assert np.isnan(dataset["uav_bike1"].boxes[1]).all()
    assert np.isfinite(dataset["uav_bike1"].boxes[2:]).all()


def test_uav_attributes(tmp_path: Path) -> None:
    layouts.uav(tmp_path, ("uav_bike1", "uav_bird1_2"))
    layouts.write(tmp_path / "anno/UAV123/att/bike1.txt", [[1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1]])
    dataset = open_dataset("uav123", tmp_path)
    assert dataset["uav_bike1"].attributes == {"SV", "ARC", "FM", "IV", "VC", "CM", "SOB"}
    assert dataset["uav_bird1_2"].attributes == frozenset()
    (tmp_path / "attributes.csv").write_text("sequence,SV,ARC\nbird1_2,0,1\n")
    assert open_dataset("uav123", tmp_path)["uav_bird1_2"].attributes == {"ARC"}


def test_uav_at_10_fps_from_the_30_fps_copy(tmp_path: Path) -> None:
    layouts.uav(tmp_path, ("uav_bird1_2",))
    sequence = open_dataset("uav123_10fps", tmp_path)["bird1_2"]
    assert len(sequence) == 235
    np.testing.assert_array_equal(sequence.boxes, layouts.boxes(703)[::3])
    assert sequence.frames.paths[:2] == tuple(tmp_path / f"data_seq/UAV123/bird1/000{n}.jpg" for n in (775, 778))


def test_uav_at_10_fps_with_its_own_folders(tmp_path: Path) -> None:
    layouts.uav(tmp_path, ("uav_bird1_2",))
    layouts.write(tmp_path / "anno/UAV123_10fps/bird1_2.txt", layouts.boxes(235))
    layouts.pictures(tmp_path / "data_seq/UAV123_10fps/bird1", 259, 493, 6)
    sequence = open_dataset("uav123_10fps", tmp_path)["bird1_2"]
    check_ends(sequence, 259, 493)
    np.testing.assert_array_equal(sequence.boxes, layouts.boxes(235))


# --- LaSOT --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
def test_lasot(flat: bool, tmp_path: Path) -> None:
    layouts.lasot(tmp_path, ("airplane-1", "zebra-17", "airplane-2"), flat=flat)
    dataset = open_dataset("lasot", tmp_path)
    assert list(dataset) == ["airplane-1", "zebra-17"]
    assert len(dataset.missing) == 278
    check_ends(dataset["airplane-1"], 1, 4)
    annotation = dataset["airplane-1"].annotation
    assert annotation.visible is not None
    assert annotation.visible.tolist() == [True, True, False, False]
    assert annotation.boxes[2].tolist() == [0, 0, 0, 0]
    assert list(open_dataset("lasot:train", tmp_path)) == ["airplane-2"]
    assert list(open_dataset("lasot:all", tmp_path)) == ["airplane-1", "airplane-2", "zebra-17"]


def test_lasot_extension(tmp_path: Path) -> None:
    dataset = open_dataset("lasot_extension", layouts.lasot(tmp_path, ("atv-10", "wingsuit-3")))
    assert list(dataset) == ["atv-10", "wingsuit-3"]
    assert dataset["atv-10"].dataset == "lasot_extension"


def test_lasot_attributes(tmp_path: Path) -> None:
    layouts.lasot(tmp_path, ("airplane-1",))
    layouts.write(tmp_path / "att/airplane-1.txt", [[0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0]])
    assert open_dataset("lasot", tmp_path)["airplane-1"].attributes == {"POC", "ROT", "SV", "LR"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("groundtruth.txt", "1,2,3,4\n" * 3, "3 lines, but .*img holds 4 images"),
        ("groundtruth.txt", "1,2,3,4\n" * 5, "5 lines, but .*img holds 4 images"),
        ("groundtruth.txt", "", r"groundtruth\.txt"),
        ("groundtruth.txt", "1|2|3|4\n" * 4, r"groundtruth\.txt, line 1"),
        ("groundtruth.txt", "1,2,3,4\n1,2,3\n1,2,3,4\n1,2,3,4\n", r"groundtruth\.txt, line 2"),
        ("full_occlusion.txt", "0,0,0", r"full_occlusion\.txt has 3 numbers.*4 frames"),
        ("out_of_view.txt", "0,0,x,0", r"out_of_view\.txt"),
        ("out_of_view.txt", "0,0,-1,0", r"out_of_view\.txt holds -1"),
        ("out_of_view.txt", None, r"out_of_view\.txt"),
        ("groundtruth.txt", None, r"groundtruth\.txt"),
    ],
)
def test_lasot_damage_is_named_when_it_is_used(file: str, text: str | None, message: str, tmp_path: Path) -> None:
    layouts.lasot(tmp_path, ("airplane-1", "airplane-9"))
    path = tmp_path / "airplane/airplane-1" / file
    path.unlink() if text is None else path.write_text(text)
    dataset = open_dataset("lasot", tmp_path)  # opening is not using
    with pytest.raises(KeepsightError, match=message):
        _ = dataset["airplane-1"].annotation
    if file == "groundtruth.txt" and (text is None or "1,2,3,4\n" * 3 in text):
        with pytest.raises(KeepsightError, match=message):
            len(dataset["airplane-1"])
    assert len(dataset["airplane-9"]) == len(dataset["airplane-9"].boxes) == 4


def test_lasot_annotation_without_images_can_be_scored(tmp_path: Path) -> None:
    layouts.lasot(tmp_path, ("airplane-1",))
    shutil.rmtree(tmp_path / "airplane/airplane-1/img")
    sequence = open_dataset("lasot", tmp_path)["airplane-1"]
    assert len(sequence) == len(sequence.boxes) == 4
    with pytest.raises(VideoError, match=r"00000001\.jpg"):
        sequence.frames[0]


# --- TrackingNet --------------------------------------------------------------------------------------------------------


def test_trackingnet(tmp_path: Path) -> None:
    layouts.trackingnet(tmp_path, "TEST", "b_0", 12, 1)
    layouts.trackingnet(tmp_path, "TEST", "a_0", 3, 1)
    layouts.trackingnet(tmp_path, "TRAIN_2", "c_0", 12, 12)
    layouts.trackingnet(tmp_path, "TRAIN_11", "d_0", 3, 3)
    dataset = open_dataset("trackingnet", tmp_path)
    assert (list(dataset), dataset.rule) == (["a_0", "b_0"], "trackingnet")
    assert [shown(dataset["b_0"], i) for i in range(12)] == list(range(12))  # 2.jpg before 10.jpg
    assert dataset["b_0"].boxes.shape == (1, 4)
    assert dataset["b_0"].first_box == (1, 2, 10, 8)
    train = open_dataset("trackingnet:train", tmp_path)
    assert list(train) == ["c_0", "d_0"]
    assert [shown(train["c_0"], i) for i in (0, 2, 10, 11)] == [0, 2, 10, 11]
    assert list(open_dataset("trackingnet:train_11", tmp_path)) == ["d_0"]
    with pytest.raises(InputError, match="no sequence found"):
        open_dataset("trackingnet:train_0", tmp_path)


def test_trackingnet_lengths(tmp_path: Path) -> None:
    layouts.trackingnet(tmp_path, "TEST", "a", 5, 3)
    layouts.trackingnet(tmp_path, "TRAIN_0", "b", 5, 6)
    with pytest.raises(InputError, match=r"a\.txt has 3 lines.*5 frames"):
        _ = open_dataset("trackingnet", tmp_path)["a"].annotation
    with pytest.raises(InputError, match=r"b\.txt has 6 lines.*5 images"):
        _ = open_dataset("trackingnet:train", tmp_path)["b"].annotation


# --- GOT-10k ------------------------------------------------------------------------------------------------------------


def test_got10k(tmp_path: Path) -> None:
    layouts.got10k(tmp_path, "val", 2)
    layouts.got10k(tmp_path, "test", 2)
    dataset = open_dataset("got10k", tmp_path)
    assert (dataset.name, dataset.rule, len(dataset)) == ("got10k", "got10k", 2)
    check_ends(dataset["GOT-10k_Val_000001"], 1, 4)
    annotation = dataset["GOT-10k_Val_000002"].annotation
    assert annotation.image_size == (layouts.WIDTH, layouts.HEIGHT)
    assert annotation.visible is not None
    assert annotation.visible.tolist() == [True, False, True, True]
    assert annotation.cover is not None
    assert annotation.cover.tolist() == [8, 0, 7, 7]
    assert annotation.tags["cut_by_image"].all()
    hidden = open_dataset("got10k:test", tmp_path)["GOT-10k_Test_000002"]
    assert len(hidden) == 4
    assert hidden.boxes.shape == (1, 4)
    assert hidden.dataset == "got10k:test"


def test_got10k_subset_folder_itself_and_annotation_alone(tmp_path: Path) -> None:
    layouts.got10k(tmp_path, "val", 1)
    folder = tmp_path / "val/GOT-10k_Val_000001"
    for path in folder.iterdir():
        if path.name != "groundtruth.txt":
            path.unlink()
    sequence = open_dataset("got10k:val", tmp_path / "val")["GOT-10k_Val_000001"]
    annotation = sequence.annotation
    assert (len(sequence), annotation.cover, annotation.visible, annotation.image_size) == (4, None, None, None)


def test_got10k_parts_of_the_training_set(tmp_path: Path) -> None:
    from keepsight.datasets.lists import indices

    (tmp_path / "train").mkdir()
    names = [f"GOT-10k_Train_{i:06d}" for i in range(1, 9336)]
    (tmp_path / "train/list.txt").write_text("\n".join(names))
    assert list(open_dataset("got10k:train", tmp_path)) == names
    part = list(open_dataset("got10k:val_split", tmp_path))
    assert part[:2] == [names[i] for i in indices("got10k_val_split")[:2]]
    assert len(open_dataset("got10k:vot_train", tmp_path)) == 7086
    assert len(open_dataset("got10k:train_without_vot", tmp_path)) == 8335
    (tmp_path / "train/list.txt").write_text("\n".join(names[:-1]))
    with pytest.raises(InputError, match=r"list\.txt has 9334 names"):
        open_dataset("got10k:val_split", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("GOT-10k_Val_000001/cover.label", "8\n9\n8\n8\n", r"cover\.label holds 9"),
        ("GOT-10k_Val_000001/absence.label", "0\n", r"absence\.label has 1 numbers"),
        ("GOT-10k_Val_000001/meta_info.ini", "[METAINFO]\n", r"meta_info\.ini"),
        ("list.txt", "", r"list\.txt is empty"),
        ("list.txt", "GOT-10k_Test_000001\n", r"list\.txt holds 'GOT-10k_Test_000001'"),
    ],
)
def test_got10k_damage(file: str, text: str, message: str, tmp_path: Path) -> None:
    layouts.got10k(tmp_path, "val", 1)
    (tmp_path / "val" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        _ = open_dataset("got10k", tmp_path)["GOT-10k_Val_000001"].annotation


# --- TLD ----------------------------------------------------------------------------------------------------------------


def test_tld_by_the_name_of_the_file(tmp_path: Path) -> None:
    rows = layouts.boxes(3)
    rows[1] = np.nan
    layouts.own(tmp_path, "06_car", 3, rows=rows)
    layouts.pictures(tmp_path / "01_david", 1, 3, 5)
    layouts.write(tmp_path / "01_david/gt.txt", [[1, 2, 10, 9], [np.nan] * 4, [3, 2, 12, 9]])
    dataset = open_dataset("tld", tmp_path)
    assert (list(dataset), dataset.rule) == (["01_david", "06_car"], "present")
    for name in dataset:
        annotation = dataset[name].annotation
        np.testing.assert_array_equal(annotation.boxes, rows)
        assert annotation.visible is not None
        assert annotation.visible.tolist() == [True, False, True]
        assert [shown(dataset[name], i) for i in range(3)] == [1, 2, 3]


def test_tld_corners_that_are_none(tmp_path: Path) -> None:
    layouts.pictures(tmp_path / "x", 1, 2, 5)
    layouts.write(tmp_path / "x/gt.txt", [[1, 2, 10, 9], [30, 20, 10, 9]])
    with pytest.raises(InputError, match=r"gt\.txt, line 2.*groundtruth\.txt"):
        _ = open_dataset("tld", tmp_path)["x"].boxes


# --- all ----------------------------------------------------------------------------------------------------------------


def everything(root: Path) -> list[Dataset]:
    """One copy of each, opened."""
    layouts.trackingnet(root / "trackingnet", "TEST", "a", 3, 1)
    layouts.trackingnet(root / "trackingnet", "TRAIN_0", "b", 3, 3)
    made: list[tuple[str, Callable[[], Path]]] = [
        ("otb100", lambda: layouts.otb(root / "otb", ("Jogging_1", "BlurCar3"))),
        ("nfs30", lambda: layouts.nfs(root / "nfs", ("nfs_zebra_fish",))),
        ("nfs30", lambda: layouts.nfs_distributed(root / "nfs2", "zebra_fish", 4, 32)),
        ("uav123", lambda: layouts.uav(root / "uav", ("uav_car6_5",))),
        ("uav123_10fps", lambda: root / "uav"),
        ("lasot", lambda: layouts.lasot(root / "lasot", ("airplane-1",))),
        ("trackingnet", lambda: root / "trackingnet"),
        ("trackingnet:train", lambda: root / "trackingnet"),
        ("got10k", lambda: layouts.got10k(root / "got10k", "val", 2)),
        ("got10k:test", lambda: layouts.got10k(root / "got10k", "test", 2)),
        ("tld", lambda: layouts.own(root / "tld", "06_car", 3)),
        ("folder", lambda: layouts.own(root / "own", "a/b/c", 3)),
    ]
    return [open_dataset(name, make()) for name, make in made]


def test_every_sequence_survives_pickling(tmp_path: Path) -> None:
    for dataset in everything(tmp_path):
        for sequence in dataset.values():
            if sequence.name == "Jogging_2":
                continue
            fresh = pickle.loads(pickle.dumps(sequence))
            np.testing.assert_array_equal(fresh.boxes, sequence.boxes)
            used = pickle.loads(pickle.dumps(sequence))
            np.testing.assert_array_equal(used.frames[0], sequence.frames[0])
            assert len(used) == len(sequence)


def test_opening_reads_no_annotation_and_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(tmp_path)
    opened: list[str] = []
    read_bytes, read_text, plain_open = Path.read_bytes, Path.read_text, Path.open
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self.name), read_bytes(self))[1])
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: (opened.append(self.name), read_text(self, *a, **k))[1]
    )
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), plain_open(self, *a, **k))[1])
    roots = {
        "otb100": "otb",
        "nfs30": "nfs",
        "uav123": "uav",
        "uav123_10fps": "uav",
        "lasot": "lasot",
        "got10k": "got10k",
    }
    roots |= {"trackingnet": "trackingnet", "tld": "tld", "folder": "own"}
    for name, folder in roots.items():
        assert len(open_dataset(name, tmp_path / folder))
    assert set(opened) <= {"list.txt"}
