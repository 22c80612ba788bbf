"""OxUvA reader: tracks, fractions and pixels, annotated frames, the test split, damage."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from keepsight.datasets import oxuva
from keepsight.datasets.catalog import open_dataset
from keepsight.errors import InputError, VideoError

TASKS = "vid0000,obj0000,2,62,0.1,0.3,0.2,0.6\nvid0000,obj0001,0,32,0.5,0.75,0.25,0.5\n"
DEV = """\
vid0000,obj0000,3,cat,false,unknown,2,present,0.1,0.3,0.2,0.6
vid0000,obj0000,3,cat,false,unknown,32,absent,-1,-1,-1,-1
vid0000,obj0000,3,cat,false,unknown,62,present,0.4,0.5,0.4,0.9
vid0000,obj0001,4,dog,false,unknown,30,present,0.5,1,0.0,0.5
"""


def make(root: Path, images: bool = True, tasks: str = TASKS, dev: str = DEV) -> Path:
    for folder in ("tasks", "annotations", "images/dev/vid0000"):
        (root / folder).mkdir(parents=True)
    (root / "tasks" / "dev.csv").write_text(tasks)
    (root / "tasks" / "test.csv").write_text("vid0009,obj0000,1,9,0.1,0.3,0.2,0.6\n")
    (root / "annotations" / "dev.csv").write_text(dev)
    if images:
        for i in range(63):
            picture = np.full((20, 40, 3), i, np.uint8)
            cv2.imwrite(str(root / "images" / "dev" / "vid0000" / f"{i:06d}.jpeg"), picture)
    else:
        (root / "images/dev/vid0000").rmdir()
    return root


def test_golden_folder(golden: Path) -> None:
    root = golden / "metrics" / "oxuva" / "data"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    tasks = list(csv.reader((root / "tasks" / "dev.csv").open()))
    rows = list(csv.reader((root / "annotations" / "dev.csv").open()))
    sequences = oxuva.read_oxuva(root)
    assert [s.name for s in sequences] == [f"{t[0]}_{t[1]}" for t in tasks]
    for sequence, task in zip(sequences, tasks, strict=True):
        first = int(task[2])
        annotation = pickle.loads(pickle.dumps(sequence)).annotation
        own = [row for row in rows if row[:2] == task[:2]]
        assert len(sequence) == int(task[3]) - first + 1
        assert sequence.start == first
        assert annotation.image_size is None
        assert annotation.annotated.sum() == len({int(r[6]) for r in own} | {first})
        for row in own:
            index, present = int(row[6]) - first, row[7] == "present"
            assert annotation.visible[index] == present
            if present:
                left, right, top, bottom = map(float, row[8:])
                np.testing.assert_allclose(annotation.boxes[index], [left, top, right - left, bottom - top], atol=1e-12)


def test_tracks_in_pixels(tmp_path: Path) -> None:
    dataset = open_dataset("oxuva", make(tmp_path))
    assert (dataset.rule, dataset.protocol) == ("oxuva", "longterm")
    assert list(dataset) == ["vid0000_obj0000", "vid0000_obj0001"]
    one, two = (pickle.loads(pickle.dumps(s)) for s in dataset.values())
    assert (len(one), one.start) == (61, 2)
    assert one.frames.paths[0].name == "000002.jpeg"
    assert abs(int(one.frames[60][0, 0, 0]) - 62) < 3
    annotation = one.annotation
    assert annotation.image_size == (40, 20)
    np.testing.assert_allclose(annotation.boxes[[0, 60]], [[4, 4, 8, 8], [16, 8, 4, 10]])
    np.testing.assert_array_equal(np.flatnonzero(annotation.annotated), [0, 30, 60])
    np.testing.assert_array_equal(np.flatnonzero(annotation.visible), [0, 60])
    assert np.isnan(annotation.boxes[1:60]).all()
    # the first frame of the second track is annotated by its task alone
    np.testing.assert_array_equal(np.flatnonzero(two.annotation.annotated), [0, 30])
    np.testing.assert_allclose(two.first_box, (20, 5, 10, 5))


def test_without_images_boxes_are_fractions(tmp_path: Path) -> None:
    one = oxuva.read_oxuva(make(tmp_path, images=False))[0]
    assert one.annotation.image_size is None
    np.testing.assert_allclose(one.boxes[0], [0.1, 0.2, 0.2, 0.4])
    assert len(one) == 61
    with pytest.raises(InputError, match="no pictures"):
        one.frames[0]


def test_the_test_split_has_first_boxes_only(tmp_path: Path) -> None:
    (sequence,) = open_dataset("oxuva:test", make(tmp_path)).values()
    assert len(sequence) == 9
    assert sequence.boxes.shape == (1, 4)
    assert sequence.annotation.annotated is None


def test_opening_reads_no_annotation_and_no_image(tmp_path: Path) -> None:
    make(tmp_path, dev="not, an, annotation\n")
    for image in (tmp_path / "images" / "dev" / "vid0000").iterdir():
        image.write_bytes(b"")
    one = oxuva.read_oxuva(tmp_path)[0]
    assert len(one) == 61
    with pytest.raises(VideoError, match=r"000002\.jpeg cannot be read"):
        _ = one.boxes


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("vid0000,obj0000,2,62,0.1,0.3,0.2", "line 1: .*7 cells instead of 8"),
        ("vid0000,obj0000,2,62,0.3,0.1,0.2,0.6", "line 1: .*xmin <= xmax"),
        ("vid0000,obj0000,2,62,nan,0.3,0.2,0.6", "line 1: .*xmin <= xmax"),
        ("vid0000,obj0000,62,2,0.1,0.3,0.2,0.6", "line 1: .*before the first"),
        ("vid0000,obj0000,2,62,0.1,30,0.2,0.6", "line 1: .*not fractions"),
        ("vid0000;obj0000;2;62;0.1;0.3;0.2;0.6", "line 1: .*1 cells instead of 8"),
        ("", "is empty"),
    ],
)
def test_damaged_tasks(tmp_path: Path, task: str, message: str) -> None:
    make(tmp_path, tasks=task)
    with pytest.raises(InputError, match=rf"dev\.csv.*{message}"):
        oxuva.read_oxuva(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("vid0000,obj0000,3,cat,false,unknown,2,present,0.1,0.3,0.2", "line 1: .*11 cells instead of 12"),
        ("vid0000,obj0000,3,cat,false,unknown,2,maybe,0.1,0.3,0.2,0.6", "line 1: .*neither present nor absent"),
        ("vid0000,obj0000,3,cat,false,unknown,63,present,0.1,0.3,0.2,0.6", r"line 1: frame 63 is outside 2\.\.62"),
        ("vid0000,obj0000,3,cat,false,unknown,2,present,0.1,0.3,x,0.6", "line 1: "),
        ("vid0000,obj0001,3,cat,false,unknown,2,present,0.1,0.3,0.2,0.6", "has no line of vid0000_obj0000"),
    ],
)
def test_damaged_annotations(tmp_path: Path, row: str, message: str) -> None:
    make(tmp_path, images=False, dev=row + "\n")
    with pytest.raises(InputError, match=rf"annotations.dev\.csv.*{message}"):
        _ = oxuva.read_oxuva(tmp_path)[0].annotation


def test_missing_files(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "annotations" / "dev.csv").unlink()
    with pytest.raises(InputError, match=r"there is no .*dev\.csv"):
        oxuva.read_oxuva(tmp_path)
    (tmp_path / "tasks" / "test.csv").unlink()
    with pytest.raises(VideoError, match=r"test\.csv cannot be read"):
        oxuva.read_oxuva(tmp_path, "test")
