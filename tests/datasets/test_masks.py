"""Masks on disk: ids by palette index, grey and colour pictures, videos, writing, boxes."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from keepsight.datasets.masks import (
    MaskFiles,
    MaskVideo,
    boxes_of_mask,
    boxes_of_masks,
    davis_palette,
    object_ids,
    read_mask,
    save_grey_png,
    save_indexed_png,
    tracker_palette,
)
from keepsight.errors import InputError, VideoError
from keepsight.video import VideoWriter

IDS = np.zeros((12, 16), np.uint8)
IDS[2:5, 3:9] = 1
IDS[7:, 10:] = 3
IDS[0, 0] = 255


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_indexed_png_keeps_ids_and_has_the_davis_colours(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "00000.png"
    save_indexed_png(path, IDS)
    np.testing.assert_array_equal(read_mask(path), IDS)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), davis_palette()[IDS])
    assert [p.name for p in path.parent.iterdir()] == ["00000.png"]  # nothing unfinished beside it


def test_palette_is_the_one_of_the_published_masks(golden: Path) -> None:
    files = sorted(golden.glob("metrics/davis/DAVIS/Annotations/480p/*/*.png"))
    if not files:
        pytest.skip(f"{golden} has no DAVIS masks")
    with Image.open(files[0]) as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(davis_palette()[: len(palette)], palette)
    assert len(np.unique(davis_palette(), axis=0)) == 256


def test_palette_of_the_published_trackers(tmp_path: Path) -> None:
    """spec/keeptrack-rts-lwl.md §12."""
    palette = tracker_palette()
    listed = {
        9: (191, 0, 0),
        10: (64, 128, 0),
        15: (191, 128, 128),
        19: (128, 191, 0),
        20: (0, 64, 128),
        21: (128, 64, 128),
    }
    assert {i: tuple(palette[i].tolist()) for i in listed} == listed
    assert all((palette[i] == i).all() for i in range(22, 256))
    ids = np.arange(22, dtype=np.uint8).repeat(2).reshape(4, 11)
    save_indexed_png(tmp_path / "a.png", ids, palette)
    with Image.open(tmp_path / "a.png") as picture:
        colours = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(colours, palette[ids])
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", colours)), ids)  # as a colour picture, too


def test_grey_png_has_the_ids_in_every_reader(tmp_path: Path) -> None:
    ids = (IDS == 1).astype(np.uint8)
    save_grey_png(tmp_path / "a.png", ids)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., 0], ids)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_ids_survive_the_file(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "any.png"
    save_indexed_png(path, ids)
    np.testing.assert_array_equal(read_mask(path), ids)


@pytest.mark.parametrize(
    "ids", [np.zeros((2, 2)), np.zeros((2, 2, 1), np.uint8), np.array([[300]]), np.array([[-1]]), np.zeros((0, 3), int)]
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, ids: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"x\.png"):
        save_indexed_png(tmp_path / "x.png", ids)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match="cannot be written"):
        save_indexed_png(tmp_path / "file" / "x.png", IDS)


def test_grey_pictures(tmp_path: Path) -> None:
    one = np.where(IDS == 1, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", one)), IDS == 1)  # 0/255: one object
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", IDS)), IDS)  # ids and void
    np.testing.assert_array_equal(read_mask(save(tmp_path / "c.png", np.stack([one] * 3, -1))), IDS == 1)
    alpha = np.dstack([one, one, one, np.full_like(one, 255)])
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", alpha)), IDS == 1)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "e.png", IDS == 1)), IDS == 1)  # one bit per pixel
    np.testing.assert_array_equal(read_mask(save(tmp_path / "f.png", np.zeros((3, 3), np.uint8))), np.zeros((3, 3)))


def test_soft_edges_are_an_error_unless_there_is_one_object(tmp_path: Path) -> None:
    soft = np.full((4, 4), 255, np.uint8)
    soft[0] = (0, 100, 140, 200)
    path = save(tmp_path / "soft.png", soft)
    with pytest.raises(InputError, match=r"soft\.png is grey with 5 levels"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, binary=True)[0], [0, 0, 1, 1])


def test_binary_makes_one_object_of_all(tmp_path: Path) -> None:
    save_indexed_png(tmp_path / "a.png", IDS)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", binary=True), IDS > 0)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", np.minimum(IDS, 3)), binary=True), IDS > 0)


def test_colour_pictures(tmp_path: Path) -> None:
    drawn = davis_palette()[IDS]
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", drawn)), IDS)
    drawn[3, 4] = (10, 20, 30)
    with pytest.raises(InputError, match=r"\(10, 20, 30\) at x=4, y=3"):
        read_mask(save(tmp_path / "b.png", drawn))


def test_damaged_files(tmp_path: Path) -> None:
    save_indexed_png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 9, (40, 40)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("cut.png", "empty.png", "text.png"):
        with pytest.raises(VideoError, match=rf"{name} cannot be read"):
            read_mask(tmp_path / name)
    with pytest.raises(VideoError, match=r"there is no mask file .*absent\.png"):
        read_mask(tmp_path / "absent.png")
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png has pixels of kind"):
        read_mask(tmp_path / "deep.png")


def test_mask_files_are_opened_when_indexed(tmp_path: Path) -> None:
    masks = MaskFiles([tmp_path / "0.png", None])
    save_indexed_png(tmp_path / "0.png", IDS)
    masks = pickle.loads(pickle.dumps(masks))
    assert len(masks) == 2
    np.testing.assert_array_equal(masks[0], IDS)
    assert masks[1] is None


def test_mask_video(tmp_path: Path) -> None:
    drawn = np.zeros((3, 48, 64), np.uint8)
    for i in range(3):
        drawn[i, 10:30, 8 + i : 40 + i] = 255
    with VideoWriter(tmp_path / "mask.mp4", fps=10) as writer:
        for picture in drawn:
            writer.write(np.repeat(picture[..., None], 3, axis=2))
    masks = pickle.loads(pickle.dumps(MaskVideo(tmp_path / "mask.mp4")))
    assert len(masks) == 3
    for i in (2, 0, 1):  # back as well as forward
        assert masks[i].shape == (48, 64)
        assert np.mean((masks[i] == 1) != (drawn[i] == 255)) < 0.02  # the codec moves some edge pixels
    assert set(np.unique(MaskVideo(tmp_path / "mask.mp4", count=3)[1])) == {0, 1}
    assert MaskVideo(tmp_path / "mask.mp4", threshold=255)[1].max() == 0


def test_boxes(tmp_path: Path) -> None:
    assert boxes_of_mask(IDS, 1) == (3, 2, 6, 3)
    assert boxes_of_mask(IDS, 255) == (0, 0, 1, 1)
    assert np.isnan(boxes_of_mask(IDS, 2)).all()
    save_indexed_png(tmp_path / "0.png", IDS)
    boxes = boxes_of_masks(MaskFiles([tmp_path / "0.png", None]), 3)
    np.testing.assert_array_equal(boxes, [[10, 7, 6, 5], [np.nan] * 4])
    assert object_ids(IDS) == (1, 2, 3)
    assert object_ids(np.zeros((2, 2), np.uint8)) == ()
    assert object_ids(np.full((2, 2), 255, np.uint8)) == ()


def test_boxes_of_real_masks() -> None:
    root = Path(__file__).resolve().parents[3] / "shared" / "data" / "sequences" / "davis2016"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    folder = sorted(root.iterdir())[0]
    truth = np.loadtxt(folder / "groundtruth.txt", delimiter=",")
    masks = MaskFiles(sorted((folder / "mask").iterdir())[:10])
    np.testing.assert_array_equal(boxes_of_masks(masks), truth[:10])
