"""Training labels against the stored reference numbers (golden/net/README.md §6, golden/blocks)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_rules import arrays, block, compare, tolerance

from keepsight.training.labels import LabelGrid, density_labels, gaussian_labels

STEM = "labels_boxes"


@pytest.fixture(scope="module")
def case(golden: Path) -> tuple[Any, dict[str, Any], torch.Tensor]:
    values = arrays(golden, STEM)
    parameters = json.loads((golden / "net" / "cases.json").read_text())["parameters"][STEM]
    return values, parameters, torch.from_numpy(values["in_bb"])


def test_labels_and_densities(golden: Path, case: Any) -> None:
    values, parameters, boxes = case
    p = parameters["gauss"]
    found = [re.fullmatch(r"gauss_label_k(\d+)_d([01])", key) for key in values.files]
    matches = [m for m in found if m]
    assert matches
    for m in matches:
        grid = LabelGrid.square(p["crop"], p["feature"], int(m[1]))
        if m[2] == "1":  # the stored densities are not normalised
            got = density_labels(boxes, grid, p["sigma_factor"], normalise=False)
        else:
            got = gaussian_labels(boxes, grid, p["sigma_factor"])
        compare(got, values[m[0]], tolerance(golden, STEM, m[0]), m[0])


def test_label_without_end_cell(golden: Path, case: Any) -> None:
    values, parameters, boxes = case
    p = parameters["gauss"]
    grid = LabelGrid((p["crop"],) * 2, (p["feature"],) * 2, (4, 4), end_cell=False)
    got = gaussian_labels(boxes, grid, p["sigma_factor"])
    compare(got, values["gauss_label_nopad"], tolerance(golden, STEM, "gauss_label_nopad"), "no end cell")


def test_label_on_a_rectangle(golden: Path, case: Any) -> None:
    values, parameters, boxes = case
    p = parameters["gauss_label_rect"]
    grid = LabelGrid(tuple(p["crop_xy"]), tuple(p["feature_xy"]), tuple(p["kernel_xy"]))
    got = gaussian_labels(boxes, grid, p["sigma_factor"])
    compare(got, values["gauss_label_rect"], tolerance(golden, STEM, "gauss_label_rect"), "rectangle")


def test_density_with_uniform_share(golden: Path, case: Any) -> None:
    values, parameters, boxes = case
    p = parameters["gauss_label_uni"]
    grid = LabelGrid.square(p["crop"], p["feature"], p["kernel"])
    got = density_labels(boxes, grid, p["sigma_factor"], normalise=False, uniform_weight=p["uniform"])
    compare(got, values["gauss_label_uni"], tolerance(golden, STEM, "gauss_label_uni"), "uniform share")


def test_blocks(golden: Path) -> None:
    name = "label_fn_k4_f18_im288_sf0.05"
    entry = block(golden, name)
    boxes = torch.tensor(entry["bb"])
    feature, crop, factor = re.search(r"_f(\d+)_im(\d+)_sf([\d.]+)", name).groups()
    for key, kernel, density in ((name, 4, False), ("label_density_k4_f18", 4, True), ("label_fn_k5_f18", 5, False)):
        grid = LabelGrid.square(int(crop), int(feature), kernel)
        if density:
            got = density_labels(boxes, grid, float(factor), normalise=False)
        else:
            got = gaussian_labels(boxes, grid, float(factor))
        want = np.asarray(block(golden, key)["label"]).reshape(got.shape)
        compare(got, want, 2e-7, key)


# What no golden holds: normalised densities (§4.9)


def test_normalised_density_sums_to_one_and_is_uniform_without_target() -> None:
    grid = LabelGrid.square(288, 18)
    boxes = torch.tensor([[[100.0, 90.0, 40.0, 60.0]], [[2000.0, 2000.0, 40.0, 60.0]]])  # (2, 1, 4)
    maps = density_labels(boxes, grid, 0.05)
    assert maps.shape == (2, 1, 19, 19)
    assert maps.sum(dim=(-2, -1)).flatten().tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert torch.allclose(maps[1], torch.full((1, 19, 19), 1 / 361))
    plain = density_labels(boxes, grid, 0.05, normalise=False)
    assert torch.allclose(maps[0], plain[0] / plain[0].sum(), atol=1e-7)
    assert torch.allclose(density_labels(boxes, grid, 0.05, shrink=0.25), 0.75 * maps)


def test_published_labels_are_those_of_the_optimiser() -> None:
    """§4.9 at σ cells and §4.6 describe one map: PrDiMP's loss and its optimiser must want the same."""
    from keepsight.nn.target_filter import DensityConfig, label_density, score_centres

    boxes = torch.tensor([[100.0, 90.0, 40.0, 60.0]])
    want = label_density(score_centres(boxes, (4, 4), 16), (19, 19), DensityConfig(sigma=0.9))
    assert torch.allclose(density_labels(boxes, LabelGrid.square(288, 18), 0.25 / 5), want, atol=1e-6)
