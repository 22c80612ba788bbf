"""Proposals and their densities against the stored reference numbers (golden/net/losses.npz, golden/blocks)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_rules import arrays, block, compare, tolerance

from keepsight.training.proposals import gaussian_density, gmm_offsets, gmm_proposals_at, mixture_density

STEM = "losses"


@pytest.fixture(scope="module")
def case(golden: Path) -> tuple[Any, dict[str, Any]]:
    return arrays(golden, STEM), json.loads((golden / "net" / "cases.json").read_text())["parameters"][STEM]


def test_densities_at_given_offsets(golden: Path, case: Any) -> None:
    values, p = case
    offsets = values["in_gmm_x"].astype(np.float64)
    sigmas = [(s, s * p["gmm_std_size_factor"]) for s in p["gmm_std_centre"]]
    compare(mixture_density(offsets, sigmas), values["gmm_density"], tolerance(golden, STEM, "gmm_density"), "mixture")
    centre, _, size, _ = p["gauss_std"]
    compare(
        gaussian_density(offsets, (centre, size)),
        values["gauss_density"],
        tolerance(golden, STEM, "gauss_density"),
        "gaussian",
    )


def test_boxes_densities_and_overlaps_of_given_draws(golden: Path, case: Any) -> None:
    values, p = case
    sigmas = [tuple(s) for s in p["gmm_sigma"]]
    offsets = gmm_offsets(values["in_gmm_component"], values["in_gmm_eps"].astype(np.float64), sigmas)
    mean = np.array(p["mean_box"], dtype=np.float64)
    got = gmm_proposals_at(mean, offsets, sigmas, gt_sigma=tuple(p["gmm_gt_sigma"]), add_mean_box=True)
    for key, value in (
        ("gmm_boxes", got.boxes),
        ("gmm_prop_density", got.q),
        ("gmm_gt_density", got.p),
        ("iou_boxes", got.iou),
    ):
        compare(value, values[key], tolerance(golden, STEM, key), key)


def test_blocks(golden: Path) -> None:
    entry = block(golden, "gmm_density")
    offsets = np.array(entry["x"]).reshape(-1, 4)
    compare(mixture_density(offsets, entry["std"]), entry["q"], 2e-7, "q")
    compare(gaussian_density(offsets, (0.05, 0.05)), entry["gt(0.05)"], 1e-7, "p")
