"""Masks out: pictures and COCO files, frame by frame, and what stays when something goes wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from keepsight.boxes import Box
from keepsight.datasets.coco_masks import decode_segmentation
from keepsight.datasets.masks import read_mask
from keepsight.errors import InputError, VideoError
from keepsight.online.state import Result, Status
from keepsight.video import MaskWriter


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((24, 32), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def result(mask: np.ndarray | None, presence: float = 0.9, status: Status = Status.FOUND) -> Result:
    return Result(Box(0, 0, 1, 1), Box(0, 0, 1, 1), 0.5, presence, status, "normal", False, "", 1.0, mask)


A, B = rectangle(2, 3, 10, 8), rectangle(8, 6, 12, 9)  # they overlap
NOTHING = np.zeros((24, 32), bool)


def test_pictures_hold_object_ids_and_the_first_object_has_a_pixel(tmp_path: Path) -> None:
    with MaskWriter(tmp_path / "masks", ids=(3, 9)) as writer:
        writer.write(4, [result(A), result(B)])
        writer.write(6, [result(NOTHING), result(B)], name="frame7.jpg")
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == ["00004.png", "frame7.png"]
    ids = read_mask(tmp_path / "masks" / "00004.png")
    np.testing.assert_array_equal(ids == 3, A)
    np.testing.assert_array_equal(ids == 9, B & ~A)
    with Image.open(tmp_path / "masks" / "frame7.png") as picture:
        assert picture.mode == "P"
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert colours.tolist() == [[0, 0, 0], [191, 0, 0]]


def test_coco_file_has_an_annotation_per_frame_and_object(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    with MaskWriter(path, ids=(1, 2), metadata={"tracker": "näme"}) as writer:
        for i in range(3):
            assert len(json.loads(path.read_text(encoding="utf-8"))["annotations"]) == 2 * i  # valid after each frame
            writer.write(10 + i, [result(A), result(NOTHING, 0.25, Status.LOST)], name=f"{i}.jpg")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["info"]["tracker"] == "näme"
    assert data["categories"] == [{"id": 1, "name": "object 1"}, {"id": 2, "name": "object 2"}]
    assert data["images"][2] == {"id": 12, "width": 32, "height": 24, "file_name": "2.jpg"}
    assert [(a["id"], a["image_id"], a["category_id"]) for a in data["annotations"]] == [
        (1, 10, 1), (2, 10, 2), (3, 11, 1), (4, 11, 2), (5, 12, 1), (6, 12, 2),
    ]  # fmt: skip
    first, second = data["annotations"][:2]
    np.testing.assert_array_equal(decode_segmentation(first["segmentation"], 32, 24), A)
    assert (first["area"], first["bbox"], first["score"], first["status"]) == (80, [2, 3, 10, 8], 0.9, "found")
    assert (first["frame"], first["object_id"], first["iscrowd"]) == (10, 1, 0)
    assert not decode_segmentation(second["segmentation"], 32, 24).any()
    assert (second["area"], second["bbox"], second["score"], second["status"]) == (0, [0, 0, 0, 0], 0.25, "lost")


def test_coco_tools_read_it(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    with MaskWriter(tmp_path / "m.json", ids=(1, 2)) as writer:
        writer.write(0, [result(A), result(NOTHING)])
    data = coco.COCO(str(tmp_path / "m.json"))
    assert (data.annToMask(data.loadAnns([1])[0]) == A).all()
    assert not data.annToMask(data.loadAnns([2])[0]).any()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a file system to fill")
def test_a_full_disk_leaves_a_file_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    writer = MaskWriter(path)
    for i in range(3):
        writer.write(i, [result(A)])
    whole, room = path.read_bytes(), 40

    class Full:
        """Takes no more bytes than the file has room for."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, data) -> int:
            left = len(whole) + room - self.file.tell()
            if left <= 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data[:left])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    writer._file = Full(writer._file)
    with pytest.raises(VideoError, match=r"m\.json cannot be written: no space left on device; 3 frames were written"):
        writer.write(3, [result(B)])
    assert path.read_bytes() == whole
    room = 10_000  # space again: it goes on
    writer.write(3, [result(B)])
    writer.close()
    data = json.loads(path.read_text())
    assert [i["id"] for i in data["images"]] == [a["image_id"] for a in data["annotations"]] == [0, 1, 2, 3]


def test_frames_of_the_video_are_not_replaced_by_masks(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), picture)
    before = (tmp_path / "0.png").read_bytes()
    with pytest.raises(VideoError, match=r"0\.png is a picture and no mask"):
        MaskWriter(tmp_path).write(0, [result(A)], name="0.png")
    assert (tmp_path / "0.png").read_bytes() == before
    for mask in (A, B):  # a mask of an earlier run is
        MaskWriter(tmp_path).write(1, [result(mask)], name="1.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "1.png"), mask)


@pytest.mark.parametrize(("ids"), [(), (0,), (256,), (1, 1)])
def test_ids_that_cannot_be_written(tmp_path: Path, ids: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="object ids"):
        MaskWriter(tmp_path / "m", ids)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m", "m.json"])
def test_results_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    writer = MaskWriter(tmp_path / name, (1, 2))
    for results in ([result(A)], [result(A), result(None)], [result(A), result(B.astype(np.uint8))]):
        with pytest.raises(InputError, match="2 results, each with a mask"):
            writer.write(0, results)
    with pytest.raises(InputError, match="different sizes"):
        writer.write(0, [result(A), result(B[:5])])
    writer.write(5, [result(A), result(B)])
    with pytest.raises(InputError, match="frame 5 comes after frame 5"):
        writer.write(5, [result(A), result(B)])
    writer.close()
    writer.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent/m.json", "mkdir -p"),
        ("absent/m", "mkdir -p"),
        ("m.png", "folder, or as one .json"),
        ("file", "cannot be written"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(VideoError, match=message):
        MaskWriter(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = MaskWriter(tmp_path / "m.json")
    writer.close()
    with pytest.raises(VideoError, match="closed"):
        writer.write(0, [result(A)])
