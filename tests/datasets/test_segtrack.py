"""SegTrack v2 reader: one sequence per object, files matched by order, soft edges, damage."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from keepsight.datasets import segtrack
from keepsight.datasets.catalog import open_dataset
from keepsight.errors import InputError


def draw(path: Path, x: int | None) -> None:
    """Three grey channels, a 4 × 3 object with soft edges at (x, 5)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((16, 24, 3), np.uint8)
    if x is not None:
        mask[4:9, x - 1 : x + 5] = 90
        mask[5:8, x : x + 4] = 255
    cv2.imwrite(str(path), mask)


def make(root: Path) -> Path:
    for i, number in enumerate((8, 9, 10)):  # natural order: 10 is last
        image = root / "JPEGImages" / "frog" / f"frog_{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((16, 24, 3), 40 * i, np.uint8))
        draw(root / "GroundTruth" / "frog" / f"{i:03d}.png", 4 + i)  # other names than the frames
    for number in range(2):
        for i in range(2):
            bmx = root / "JPEGImages" / "bmx" / f"bmx_{6668 + i}.bmp"
            bmx.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(bmx), np.zeros((16, 24, 3), np.uint8))
            draw(root / "GroundTruth" / "bmx" / str(number + 1) / f"bmx_{6668 + i}.png", None if i and number else 3)
    return root


def test_one_sequence_per_object(tmp_path: Path) -> None:
    dataset = open_dataset("segtrackv2", make(tmp_path))
    assert (dataset.rule, dataset.protocol) == ("pytracking", "ope")
    assert list(dataset) == ["bmx", "bmx2", "frog"]
    frog, bmx2 = (pickle.loads(pickle.dumps(dataset[n])) for n in ("frog", "bmx2"))
    np.testing.assert_array_equal(frog.boxes, [[4, 5, 4, 3], [5, 5, 4, 3], [6, 5, 4, 3]])
    assert int(frog.frames[2][0, 0, 0]) == 80
    assert frog.annotation.masks[1].sum() == 12
    np.testing.assert_array_equal(bmx2.annotation.visible, [True, False])
    assert np.isnan(bmx2.boxes[1]).all()
    assert len(bmx2.frames) == 2


def test_opening_reads_no_picture(tmp_path: Path) -> None:
    make(tmp_path)
    for file in tmp_path.rglob("*.png"):
        file.write_bytes(b"")
    assert [len(s) for s in segtrack.read_segtrack(tmp_path)] == [2, 2, 3]


def test_without_images(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    frog = open_dataset("segtrackv2", tmp_path)["frog"]
    assert len(frog.boxes) == len(frog) == 3
    with pytest.raises(InputError, match="no pictures"):
        frog.frames[0]


def test_damage(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "GroundTruth" / "frog" / "001.png").unlink()
    with pytest.raises(InputError, match="frog has 2 masks for 3 frames"):
        _ = segtrack.read_segtrack(tmp_path)[2].annotation
    (tmp_path / "GroundTruth").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"there is no .*GroundTruth"):
        segtrack.read_segtrack(tmp_path)
