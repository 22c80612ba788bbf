"""DAVIS readers: 2016, 2017, one sequence per object, damage."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from keepsight.datasets import davis
from keepsight.datasets.catalog import open_dataset
from keepsight.datasets.masks import boxes_of_mask, read_mask, save_indexed_png
from keepsight.errors import InputError, VideoError


def ids(*objects: tuple[int, int, int]) -> np.ndarray:
    """(20, 30) with 4 × 5 pixels of each (id, x, y)."""
    mask = np.zeros((20, 30), np.uint8)
    for number, x, y in objects:
        mask[y : y + 4, x : x + 5] = number
    return mask


CAR = [ids((1, 2, 3), (2, 20, 10)), ids((1, 3, 3), (3, 0, 0)), ids((2, 21, 10)), ids((1, 5, 3), (2, 22, 10))]


def make(root: Path, year: int = 2017, split: str = "val", frames: list[np.ndarray] = CAR, name: str = "car") -> Path:
    (root / "ImageSets" / str(year)).mkdir(parents=True, exist_ok=True)
    with open(root / "ImageSets" / str(year) / f"{split}.txt", "a") as file:
        file.write(name + "\n")
    for i, mask in enumerate(frames):
        save_indexed_png(root / "Annotations" / "480p" / name / f"{i:05d}.png", mask)
        image = root / "JPEGImages" / "480p" / name / f"{i:05d}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((20, 30, 3), 30 * i, np.uint8))
    return root


def test_golden_folder(golden: Path) -> None:
    root = golden / "metrics" / "davis" / "DAVIS"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    dataset = open_dataset("davis2017", root)
    assert list(dataset) == (root / "ImageSets" / "2017" / "val.txt").read_text().split()
    for sequence in dataset.values():
        files = sorted((root / "Annotations" / "480p" / sequence.name).glob("*.png"))
        annotation = sequence.annotation
        assert sequence.frame_names == tuple(f.stem for f in files)
        first = read_mask(files[0])
        assert annotation.objects == tuple(range(1, first[first < 255].max() + 1))
        assert annotation.image_size == first.shape[::-1]
        for i, file in enumerate(files):
            np.testing.assert_array_equal(annotation.masks[i], read_mask(file))
            np.testing.assert_array_equal(annotation.boxes[i], boxes_of_mask(read_mask(file), 1))


def test_objects_of_the_first_frame(tmp_path: Path) -> None:
    dataset = open_dataset("davis2017", make(tmp_path))
    assert (dataset.rule, dataset.protocol) == ("davis2017", "vos")
    sequence = pickle.loads(pickle.dumps(dataset["car"]))
    assert sequence.frame_names == ("00000", "00001", "00002", "00003")
    assert abs(int(sequence.frames[2][0, 0, 0]) - 60) < 3
    annotation = sequence.annotation
    assert annotation.objects == (1, 2)  # 3 comes later and is nobody
    assert annotation.first_seen == {1: 0, 2: 0}
    np.testing.assert_array_equal(annotation.boxes, [[2, 3, 5, 4], [3, 3, 5, 4], [np.nan] * 4, [5, 3, 5, 4]])
    np.testing.assert_array_equal(annotation.masks[1], CAR[1])
    assert annotation.annotated is None


def test_2016_has_one_object(tmp_path: Path) -> None:
    dataset = open_dataset("davis2016", make(tmp_path, 2016))
    assert dataset.rule == "davis2016"
    annotation = dataset["car"].annotation
    assert annotation.objects == (1,)
    np.testing.assert_array_equal(annotation.masks[0], CAR[0] > 0)
    np.testing.assert_array_equal(annotation.boxes[0], [2, 3, 23, 11])


def test_2016_masks_of_black_and_white(tmp_path: Path) -> None:
    make(tmp_path, 2016)
    for file in (tmp_path / "Annotations" / "480p" / "car").iterdir():
        cv2.imwrite(str(file), (read_mask(file) == 1).astype(np.uint8) * 255)
    annotation = davis.read_davis(tmp_path, "val", year=2016)[0].annotation
    np.testing.assert_array_equal(annotation.masks[3], CAR[3] == 1)


def test_2016_lists_of_frames(tmp_path: Path) -> None:
    make(tmp_path, 2016)
    (tmp_path / "ImageSets" / "2016").rename(tmp_path / "ImageSets" / "480p")
    rows = [f"/JPEGImages/480p/car/{i:05d}.jpg /Annotations/480p/car/{i:05d}.png\n" for i in range(4)]
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("".join(rows))
    assert list(open_dataset("davis2016", tmp_path)) == ["car"]


def test_one_sequence_per_object(tmp_path: Path) -> None:
    dataset = open_dataset("davis2017_objects", make(tmp_path))
    assert dataset.protocol == "ope"
    assert list(dataset) == ["car_1", "car_2"]
    two = pickle.loads(pickle.dumps(dataset["car_2"]))
    assert two.first_box == (20, 10, 5, 4)
    np.testing.assert_array_equal(two.annotation.visible, [True, False, True, True])
    np.testing.assert_array_equal(two.boxes[1], [np.nan] * 4)
    np.testing.assert_array_equal(two.annotation.masks[3], CAR[3] == 2)
    assert two.annotation.objects == (1,)
    assert len(two.frames) == 4


def test_void_stays_void(tmp_path: Path) -> None:
    mask = ids((1, 2, 3), (255, 10, 10))
    (one,) = davis.read_objects(make(tmp_path, frames=[mask, mask]))
    np.testing.assert_array_equal(one.annotation.masks[1], mask)


def test_test_dev_has_first_masks_only(tmp_path: Path) -> None:
    make(tmp_path, split="test-dev")
    for i in (1, 2, 3):
        (tmp_path / "Annotations" / "480p" / "car" / f"{i:05d}.png").unlink()
    annotation = open_dataset("davis2017:test-dev", tmp_path)["car"].annotation
    assert annotation.boxes.shape == (1, 4)
    assert annotation.objects == (1, 2)
    assert annotation.masks[1] is None
    np.testing.assert_array_equal(annotation.annotated, [True, False, False, False])


def test_without_images_and_full_resolution(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    (tmp_path / "Annotations" / "480p").rename(tmp_path / "Annotations" / "Full-Resolution")
    (sequence,) = davis.read_davis(tmp_path)
    assert len(sequence) == 4
    assert sequence.frame_names == ("00000", "00001", "00002", "00003")
    assert len(sequence.boxes) == 4
    with pytest.raises(InputError, match="no pictures"):
        sequence.frames[0]


def test_opening_reads_no_mask_and_no_image(tmp_path: Path) -> None:
    make(tmp_path)
    for file in tmp_path.glob("*/480p/car/*"):
        file.write_bytes(b"")
    (sequence,) = davis.read_davis(tmp_path)
    assert len(sequence) == 4
    with pytest.raises(VideoError, match=r"00000\.png cannot be read"):
        _ = sequence.annotation


def test_damage(tmp_path: Path) -> None:
    make(tmp_path)
    masks = tmp_path / "Annotations" / "480p" / "car"
    (masks / "00002.png").unlink()
    with pytest.raises(InputError, match=r"has no mask 00002\.png \(1 of 4 frames have none\)"):
        _ = davis.read_davis(tmp_path)[0].annotation
    save_indexed_png(masks / "00002.png", CAR[2])
    save_indexed_png(masks / "00000.png", CAR[0] * 0)
    with pytest.raises(InputError, match=r"00000\.png holds no object"):
        _ = davis.read_davis(tmp_path)[0].annotation
    with open(tmp_path / "ImageSets" / "2017" / "val.txt", "a") as file:
        file.write("bus\n")
    with pytest.raises(InputError, match=r"names 'bus', but .* holds no masks"):
        davis.read_davis(tmp_path)
    with pytest.raises(InputError, match=r"there is no .*train\.txt"):
        davis.read_davis(tmp_path, "train")


def test_a_lost_picture_does_not_make_the_video_shorter(tmp_path: Path) -> None:
    (make(tmp_path) / "JPEGImages/480p/car/00001.jpg").unlink()
    with pytest.raises(InputError, match=r"has a mask 00001\.png, but there is no picture"):
        _ = open_dataset("davis2017", tmp_path)["car"].boxes


def test_an_incomplete_copy_says_so(tmp_path: Path) -> None:
    assert open_dataset("davis2017", make(tmp_path)).notes == ("davis2017: only 1 of 30 sequences are there",)
