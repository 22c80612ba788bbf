"""One's own data in plain folders, and the real sequences of the project where they are."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path

import cv2
import layouts
import numpy as np
import pytest

from keepsight.datasets import Dataset, open_dataset
from keepsight.errors import InputError, KeepsightError
from keepsight.video import VideoWriter


def film(path: Path, frames: int) -> None:
    with VideoWriter(path, fps=10) as writer:
        for i in range(frames):
            writer.write(np.full((32, 48, 3), 40 + 10 * i, np.uint8))


def test_names_are_paths_and_pictures_lie_where_people_put_them(tmp_path: Path) -> None:
    layouts.own(tmp_path, "b/car", 3)
    layouts.own(tmp_path, "a/deep/down/dog", 3, images=".")
    layouts.own(tmp_path, "c", 3, images="color")
    layouts.write(tmp_path / "d/groundtruth.txt", layouts.boxes(3))
    film(tmp_path / "d/video.mp4", 3)
    layouts.write(tmp_path / "e/groundtruth.txt", layouts.boxes(3))
    dataset = open_dataset("folder", tmp_path)
    assert list(dataset) == ["a/deep/down/dog", "b/car", "c", "d", "e"]
    assert (dataset.rule, dataset.protocol) == ("present", "ope")
    for name, sequence in dataset.items():
        assert len(sequence) == 3
        np.testing.assert_array_equal(sequence.boxes, layouts.boxes(3))
        if name == "e":
            with pytest.raises(InputError, match="annotations only"):
                sequence.frames[0]
        else:
            assert sequence.frames[2].mean() == pytest.approx(60 if name == "d" else 3, abs=1)


def test_links_that_go_round(tmp_path: Path) -> None:
    layouts.own(tmp_path, "a/dog", 3)
    (tmp_path / "a/again").symlink_to(tmp_path)
    assert "a/dog" in open_dataset("folder", tmp_path)


def test_the_root_may_be_a_sequence(tmp_path: Path) -> None:
    assert list(open_dataset("folder", layouts.own(tmp_path, "dog", 3) / "dog")) == ["dog"]


def test_absence(tmp_path: Path) -> None:
    rows = layouts.boxes(4)
    rows[1] = np.nan
    layouts.own(tmp_path, "a", 4, rows=rows)
    annotation = open_dataset("folder", tmp_path)["a"].annotation
    assert annotation.visible is not None
    assert annotation.visible.tolist() == [True, False, True, True]
    (tmp_path / "a/absent.txt").write_text("0\n0\n0\n1\n")
    annotation = open_dataset("folder", tmp_path)["a"].annotation
    assert annotation.visible is not None
    assert annotation.visible.tolist() == [True, False, True, False]


def test_one_line_is_a_test_set(tmp_path: Path) -> None:
    sequence = open_dataset("folder", layouts.own(tmp_path, "a", 4, rows=layouts.boxes(1)))["a"]
    assert (len(sequence), sequence.boxes.shape, sequence.annotation.visible) == (4, (1, 4), None)
    one = open_dataset("folder", layouts.own(tmp_path, "b", 1, rows=layouts.boxes(1)))["b"].annotation
    assert one.visible is not None  # one frame, and its truth is known


def test_masks_polygons_and_attributes(tmp_path: Path) -> None:
    layouts.own(tmp_path, "a", 3)
    ids = np.zeros((16, 24), np.uint8)
    ids[2:5, 3:9] = 255
    for i in (1, 2, 3):
        (tmp_path / "a/mask").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"a/mask/{i:05d}.png"), ids)
    layouts.write(tmp_path / "a/polygon.txt", np.arange(24).reshape(3, 8))
    (tmp_path / "a/attributes.txt").write_text("OCC, FM\n")
    sequence = open_dataset("folder", tmp_path)["a"]
    assert sequence.attributes == {"OCC", "FM"}
    annotation = sequence.annotation
    assert annotation.polygons is not None
    assert annotation.polygons[2].tolist() == list(range(16, 24))
    assert annotation.masks is not None
    assert annotation.objects == (1,)
    mask = annotation.masks[2]
    assert mask is not None
    np.testing.assert_array_equal(mask, ids > 0)
    (tmp_path / "a/mask/00002.png").unlink()  # named like the frames, so the gap is known
    masks = open_dataset("folder", tmp_path)["a"].annotation.masks
    assert masks is not None
    assert masks[1] is None
    assert masks[2] is not None


def test_video_with_mask_video(tmp_path: Path) -> None:
    layouts.write(tmp_path / "a/groundtruth.txt", layouts.boxes(4))
    film(tmp_path / "a/video.mp4", 5)  # one more than annotated
    with VideoWriter(tmp_path / "a/mask.mp4", fps=10) as writer:
        for _ in range(4):
            mask = np.zeros((32, 48, 3), np.uint8)
            mask[8:24, 8:40] = 255
            writer.write(mask)
    sequence = open_dataset("folder", tmp_path)["a"]
    assert len(sequence) == 4
    masks = pickle.loads(pickle.dumps(sequence)).annotation.masks
    assert masks is not None
    assert masks[3].sum() == 16 * 32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: (a / "groundtruth.txt").write_text("1,2,3,4\n" * 3), r"groundtruth\.txt has 3 lines.*4 frames"),
        (lambda a: (a / "img/00002.jpg").unlink(), r"groundtruth\.txt has 4 lines.*3 frames"),
        (lambda a: (a / "groundtruth.txt").write_text("1,2,3\n" * 4), r"groundtruth\.txt, line 1 has 3 numbers"),
        (lambda a: (a / "groundtruth.txt").write_text("\n"), r"groundtruth\.txt"),
        (lambda a: (a / "polygon.txt").write_text("1,2,3,4,5,6,7,8\n"), r"polygon\.txt has 1 lines"),
        (lambda a: (a / "absent.txt").write_text("0\n"), r"absent\.txt has 1 numbers"),
        (lambda a: layouts.picture(a / "mask/odd.png", 3), r"mask holds 1 masks for 4 frames"),
        (lambda a: film(a / "mask.mp4", 3), r"mask\.mp4 has 3 frames, the sequence has 4"),
    ],
)
def test_damage(damage, message: str, tmp_path: Path) -> None:
    layouts.own(tmp_path, "a", 4)
    damage(tmp_path / "a")
    with pytest.raises(KeepsightError, match=message):
        _ = open_dataset("folder", tmp_path)["a"].annotation


def test_videos(tmp_path: Path) -> None:
    layouts.write(tmp_path / "a/groundtruth.txt", layouts.boxes(4))
    film(tmp_path / "a/one.mp4", 6)
    with pytest.raises(InputError, match=r"4 lines.*6 frames"):
        _ = open_dataset("folder", tmp_path)["a"].annotation
    film(tmp_path / "a/two.mp4", 4)
    with pytest.raises(InputError, match=r"one\.mp4, two\.mp4"):
        open_dataset("folder", tmp_path)
    film(tmp_path / "a/video.mp4", 4)
    assert len(open_dataset("folder", tmp_path)["a"].boxes) == 4


# --- the project's real sequences ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Dataset:
    root = Path(__file__).parents[3] / "shared/data/sequences"
    if not root.is_dir():
        pytest.skip(f"the real sequences are not here: {root}")
    return open_dataset("folder", root)


def test_real_sequences_are_those_of_the_readme(real: Dataset) -> None:
    table = re.findall(r"^\| (\w+) \| (\S+) \| (\d+) \| (\d+) \|", (real.root / "README.md").read_text(), re.MULTILINE)
    expected = {f"{family}/{name}": (int(frames), int(absent)) for family, name, frames, absent in table}
    assert len(real) == len(expected) == 29
    found = {}
    for name, sequence in real.items():
        visible = sequence.annotation.visible
        assert visible is not None
        found[name] = (len(sequence), int((~visible).sum()))
    assert found == expected


def test_real_frames_and_masks(real: Dataset) -> None:
    for name in ("otb/David", "tld/04_pedestrian2", "vot2015/bag", "davis2016/dog", "segtrackv2/parachute"):
        sequence = real[name]
        assert sequence.frames[0].ndim == 3
        x, y, w, h = sequence.first_box
        assert x + w <= sequence.frames[0].shape[1] + 1
        annotation = sequence.annotation
        assert (annotation.polygons is not None) == name.startswith("vot")
        if name.startswith(("davis", "seg")):
            assert annotation.masks is not None
            assert annotation.objects == (1,)
            mask = annotation.masks[0]
            assert mask is not None
            assert mask.shape == sequence.frames[0].shape[:2]
            rows, columns = np.nonzero(mask)
            assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names there are always text")
def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    layouts.own(tmp_path, os.fsdecode(b"a\xffb"))
    with pytest.raises(InputError, match=r"a\\udcffb' is not UTF-8 text; rename"):
        open_dataset("folder", tmp_path)
