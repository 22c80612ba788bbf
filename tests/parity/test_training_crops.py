"""Training crops against the stored reference numbers (golden/net/README.md §6, golden/blocks)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from golden_rules import arrays, block, compare, tolerance

from keepsight.training.crops import Square, adaptive_region, atom_region, cut, cut_mask
from keepsight.training.transforms import flip_box

STEM = "train_crops"


class Case:
    """The picture, the boxes and the parameters of golden/net/train_crops.npz."""

    def __init__(self, golden: Path) -> None:
        self.golden, self.values = golden, arrays(golden, STEM)
        self.parameters = json.loads((golden / "net" / "cases.json").read_text())["parameters"][STEM]
        self.image = np.ascontiguousarray(cv2.imread(str(golden / "net" / "prep_image.png"))[..., ::-1])
        self.mask = self.image[..., 0] > self.parameters["mask_threshold"]
        self.around, self.truth = self.values["in_box_extract"], self.values["in_box_gt"]

    def atom(self, key: str) -> list[Square]:
        p = self.parameters[key]
        return [atom_region(box, p["factor"], p["size"]) for box in self.around]

    def adaptive(self, mode: str, change: float | None, size: int | tuple[int, int]) -> list[Square]:
        whole = self.image.shape[1::-1]
        factor = self.parameters["tic"]["factor"]
        return [adaptive_region(box, factor, size, whole, mode, change) for box in self.around]

    def check_crops(self, key: str, regions: list[Square], step: int) -> None:
        crops = np.stack([cut(self.image, r)[::step, ::step] for r in regions])
        assert crops.dtype == np.uint8
        compare(crops, self.values[f"{key}_crops"], 0, key)
        boxes = [r.box(box.tolist()) for r, box in zip(regions, self.truth, strict=True)]
        compare(boxes, self.values[f"{key}_boxes"], tolerance(self.golden, STEM, f"{key}_boxes"), key)


@pytest.fixture(scope="module")
def case(golden: Path) -> Case:
    return Case(golden)


def test_atom_crops(case: Case) -> None:
    case.check_crops("jcc", case.atom("jcc"), step=2)


def test_adaptive_crops(case: Case) -> None:
    found = [re.fullmatch(r"tic_(\w+)_(None|[\d.]+)_(\w+)_crops", key) for key in case.values.files]
    matches = [m for m in found if m]
    assert matches
    for m in matches:
        mode, change, size = m.groups()
        out = case.parameters["tic"]["sizes"][size]
        regions = case.adaptive(
            mode, None if change == "None" else float(change), out if isinstance(out, int) else tuple(out)
        )
        case.check_crops(m[0].removesuffix("_crops"), regions, step=3)


def test_masks_of_atom_crops_are_bilinear(case: Case) -> None:
    assert case.parameters["jcc_m_masks"]["resize"] == "bilinear"
    masks = [cut_mask(case.mask, r, nearest=False) for r in case.atom("jcc_m_masks")]
    compare(masks, case.values["jcc_m_masks"], tolerance(case.golden, STEM, "jcc_m_masks"), "masks")


def test_masks_of_adaptive_crops_are_nearest(case: Case) -> None:
    p = case.parameters["tic_masks"]
    assert p["resize"] == "nearest"
    regions = case.adaptive(p["mode"], p["max_scale_change"], tuple(p["size_wh"]))
    # the listed tolerance only says that float32 and float64 runs round to other pixels; the float32 run is exact here
    compare([cut_mask(case.mask, r, nearest=True) for r in regions], case.values["tic_masks"], 0, "masks")


def block_case(golden: Path) -> tuple[np.ndarray, float, int, list[dict[str, Any]]]:
    """Image, factor, output side and rows, as the description of the block gives them."""
    entry = block(golden, "train_crops")
    match = re.search(r"image (\d+)x(\d+)x3:.*factor (\d+), out (\d+)", entry["desc"])
    assert match, entry["desc"]
    height, width, factor, out = map(int, match.groups())
    row, col = np.mgrid[:height, :width]
    image = np.stack(((2 * row) % 256, (3 * col // 2) % 256, (row + col) % 256), axis=-1).astype(np.uint8)
    return image, factor, out, entry["rows"]


def test_block_crops(golden: Path) -> None:
    image, factor, out, rows = block_case(golden)
    common = np.ones((out, out), dtype=bool)
    for row in rows:
        for name, want in row.items():
            if name == "bb":
                continue
            if name == "atom":
                region = atom_region(row["bb"], factor, out)
                assert out / region.width == pytest.approx(want["resize"], abs=1e-12)
            else:
                mode, change = name.rsplit("_", 1)
                limit = None if change == "None" else float(change)
                region = adaptive_region(row["bb"], factor, out, image.shape[1::-1], mode, limit)
                assert [region.x, region.y, region.width, region.height] == want["crop_box"]
            what = f"{row['bb']} {name}"
            compare(region.box(row["bb"]), want["box_in_crop"], 5e-6, what)
            crop, (first, middle, last) = cut(image, region), want["px"]
            compare(np.stack((crop[0, 0], crop[-1, -1])), [first, last], 0, what)
            common &= (crop == middle).all(axis=-1)
    assert common.sum() == 1, (
        "the stored middle pixels are not those of one place in all crops"
    )  # the file has no place


def test_block_flip(golden: Path) -> None:
    want = block(golden, "train_flip")
    compare(flip_box(np.array(want["bbox_in"]), int(want["W"])), want["bbox_out"], 0, "published flip")


def test_image_border_is_not_reached_by_the_regions_of_all_cases(case: Case) -> None:
    """The goldens say nothing about padding unless some region leaves the image."""
    height, width = case.image.shape[:2]
    regions = case.atom("jcc")
    assert any(r.x < 0 or r.y < 0 or r.x + r.width > width or r.y + r.height > height for r in regions)
