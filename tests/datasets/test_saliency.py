"""MSRA10K, ECSSD, HKU-IS: pairs of images and masks, boxes from masks."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import training_layouts as layouts

from keepsight.datasets.training_sets import audit, open_training_set
from keepsight.errors import InputError


@pytest.mark.parametrize(
    ("name", "images", "masks", "suffix"),
    [
        ("msra10k", "Imgs", "Imgs", ".jpg"),
        ("msra10k", "MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs", ".jpg"),
        ("ecssd", "images", "ground_truth_mask", ".jpg"),
        ("hku_is", "imgs", "gt", ".png"),
    ],
)
def test_pairs(tmp_path: Path, name: str, images: str, masks: str, suffix: str) -> None:
    root = layouts.saliency(tmp_path / "data", images, masks, suffix)
    objects = pickle.loads(pickle.dumps(open_training_set(name, root)))
    assert (len(objects), objects.name, objects.is_video) == (2, name, False)
    assert objects.skipped == {"image without a mask": 1}
    second = objects[1]
    np.testing.assert_array_equal(second.boxes, [[5, 3, 12, 6]])
    assert second.annotation.masks[0].sum() == 12 * 6
    assert abs(int(second.frames[0][0, 0, 0]) - 100) < 3
    assert (second.name, audit(objects)) == ("0002", {"image without a mask": 1})


def test_empty_and_damaged_masks_are_found(tmp_path: Path) -> None:
    root = layouts.saliency(tmp_path, "images", "ground_truth_mask", ".jpg")
    (root / "ground_truth_mask/0001.png").write_bytes(b"\x89PNG")
    layouts.image(root / "ground_truth_mask/0002.png", 0)
    objects = open_training_set("ecssd", root)
    assert audit(objects) == {"image without a mask": 1, "VideoError when read": 1, "no frame with a box": 1}


def test_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"images and ground_truth_mask; images and masks(.|\n)*should look like"):
        open_training_set("ecssd", tmp_path)
