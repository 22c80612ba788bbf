"""Crops and first-frame augmentation against the stored reference numbers (golden/net/README.md §6, golden/blocks)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from keepsight.images import (
    CropConfig,
    Transform,
    apply_transforms,
    frame_to_tensor,
    sample_patch,
    sample_scales,
)


def load(path: Path) -> Any:
    if not path.exists():
        pytest.skip(f"{path} is not in this golden folder")
    return np.load(path) if path.suffix == ".npz" else json.loads(path.read_text())


class Net:
    """A file of golden/net with its parameters and tolerances."""

    def __init__(self, golden: Path, name: str) -> None:
        self.values = load(golden / "net" / f"{name}.npz")
        self.tolerances = load(golden / "net" / "tolerances.json")[name]
        self.parameters = load(golden / "net" / "cases.json")["parameters"].get(name, {})
        png = golden / "net" / "prep_image.png"
        if not png.exists():
            pytest.skip(f"{png} is not in this golden folder")
        self.frame = np.ascontiguousarray(cv2.imread(str(png))[..., ::-1])  # (H, W, 3) RGB

    def check(self, key: str, value: Any, what: str = "") -> None:
        expected = self.values[key]
        value = np.asarray(value)
        assert value.shape == expected.shape, f"{key} {what}: shape {value.shape}, expected {expected.shape}"
        tolerance = self.tolerances[key]
        atol = 0 if tolerance.get("exact") else tolerance["suggested_atol"]
        error = np.abs(value.astype(np.float64) - expected).max()
        assert error <= atol, f"{key} {what}: differs by {error:.3g}, allowed {atol:.3g}"


def crop_config(mode: str, max_change: float | None, arithmetic: str) -> CropConfig:
    return CropConfig(str(mode), None if max_change is None or max_change < 0 else float(max_change), arithmetic)


# Patch sampling, both arithmetics: value = row + 0.01 column


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("file", "block", "arithmetic"),
    [
        ("golden1.json", "sample_patch_HEAD_float", "float"),
        ("golden3.json", "sample_patch_integer", "integer"),
    ],
)
def test_sample_patch_blocks(golden: Path, file: str, block: str, arithmetic: str, dtype: torch.dtype) -> None:
    # the image is described in words in golden1; golden3 says "same inputs"
    desc = load(golden / "blocks" / "golden1.json")["sample_patch_HEAD_float"]["desc"]
    (h, w), (zh, zw) = [(int(a), int(b)) for a, b in re.findall(r"(\d+)x(\d+)", desc)]
    step = float(re.search(r"row\+([\d.]+)\*col", desc)[1])  # type: ignore[index]
    image = torch.arange(h, dtype=dtype)[:, None] + step * torch.arange(w, dtype=dtype)
    image = image[None, None]  # (1, 1, H, W)
    rows = load(golden / "blocks" / file)[block]["rows"]
    assert rows
    for row in rows:
        config = crop_config(row["mode"], row["max_scale_change"], arithmetic)
        patch = sample_patch(image, row["pos_yx"], [row["sample_sz"]] * 2, (zh, zw), config)
        assert patch.pixels.shape == (1, 1, zh, zw)
        assert patch.pixels.dtype == dtype
        np.testing.assert_allclose(patch.coordinates, row["coord_tl_br"], atol=1e-4, err_msg=str(row))
        pixels = patch.pixels[0, 0]
        found = [pixels[0, 0], pixels[zh // 2, zw // 2], pixels[-1, -1]]
        expected = [row["px_00"], row["px_mm"], row["px_last"]]  # rounded to 4 decimals, float32 of up to 640
        np.testing.assert_allclose(torch.stack(found), expected, atol=4e-4, rtol=0, err_msg=str(row))


@pytest.mark.parametrize("source", ["frame", "tensor", "float64"])
def test_sample_patch_images(golden: Path, source: str) -> None:
    net = Net(golden, "sample_patch")
    dtype = torch.float64 if source == "float64" else torch.float32
    image = net.frame if source == "frame" else frame_to_tensor(net.frame, "cpu", dtype)
    assert len(net.values["in_pos"])
    for j, pos in enumerate(net.values["in_pos"]):
        output = net.values["in_output_sz"][j]
        size = None if output[0] < 0 else tuple(int(z) for z in output)
        config = crop_config(net.values["in_mode"][j], net.values["in_max_scale_change"][j], "float")
        patch = sample_patch(image, pos, net.values["in_sample_sz"][j], size, config)
        what = f"({source}, {config}, pos {pos}, output {size})"
        assert patch.pixels.dtype == dtype
        net.check(f"coord_{j:03d}", [patch.coordinates], what)
        net.check(f"shape_{j:03d}", patch.pixels.shape, what)
        net.check(f"sum_{j:03d}", patch.pixels.double().sum(dim=(0, 2, 3)), what)
        height, width = patch.pixels.shape[-2:]
        net.check(f"patch_{j:03d}", patch.pixels[0, :, :: max(1, height // 24), :: max(1, width // 24)], what)


@pytest.mark.parametrize("source", ["array", "tensor"])
def test_sample_patch_masks(golden: Path, source: str) -> None:
    net, cases = Net(golden, "sample_patch_mask"), Net(golden, "sample_patch")
    mask = (net.frame[..., 0] > net.parameters["mask_threshold"]).astype(np.uint8)  # (H, W)
    image = torch.from_numpy(mask).float()[None, None] if source == "tensor" else mask
    names = [name for name in net.values.files if re.fullmatch(r"mask_\d+", name)]
    assert names
    for name in names:
        j = int(name.removeprefix("mask_"))
        output = cases.values["in_output_sz"][j]
        size = None if output[0] < 0 else tuple(int(z) for z in output)
        config = crop_config(cases.values["in_mode"][j], cases.values["in_max_scale_change"][j], "float")
        pos, sample_size = cases.values["in_pos"][j], cases.values["in_sample_sz"][j]
        net.check(name, sample_patch(image, pos, sample_size, size, config, mask=True).pixels[0, 0])


def test_sample_scales(golden: Path) -> None:
    net = Net(golden, "sample_patch_mask")
    multi = net.parameters["multi"]
    config = crop_config(multi["mode"], multi["max_scale_change"], "float")
    pos = [f * length for f, length in zip(multi["pos_fraction_yx"], net.frame.shape[:2], strict=True)]
    pixels, patches = sample_scales(net.frame, pos, multi["scales"], multi["size"], config)
    assert pixels.shape == (len(multi["scales"]), 3, *multi["size"])
    net.check("multi_coords", [patch.coordinates for patch in patches])
    net.check("multi_patches", pixels[..., ::2, ::2])


# First-frame augmentation


def transform_of(case: dict[str, Any]) -> Transform:
    """A transform of cases.json; its translation and its shift add."""
    shift = [a + b for a, b in zip(case.get("shift", (0, 0)), case.get("translation", (0, 0)), strict=True)]
    keys = {"sigma": "blur", "factor": "scale", "angle": "rotate", "translation": "translation"}
    kind = next((k for key, k in keys.items() if key in case), "identity")
    values = {key: case[key] for key in ("sigma", "factor", "angle") if key in case}
    return Transform(kind, (int(shift[0]), int(shift[1])), **values)


def test_base_patch(golden: Path) -> None:
    net = Net(golden, "augmentation")
    base = net.parameters["base_patch"]
    centre = [length / 2 for length in net.frame.shape[:2]]
    config = CropConfig(patch_arithmetic="float")
    net.check("base_patch", sample_patch(net.frame, centre, [base["region"]] * 2, [base["output"]] * 2, config).pixels)


def test_augmentations(golden: Path) -> None:
    net = Net(golden, "augmentation")
    patch = torch.from_numpy(net.values["base_patch"])
    names = [name.removeprefix("aug_") for name in net.values.files if name.startswith("aug_")]
    assert set(names) == set(net.parameters["transforms"])
    for name in names:
        case = net.parameters["transforms"][name]
        transform = transform_of(case)
        if name in ("fliplr", "flipud"):
            transform = Transform(name, transform.shift)
        output = case.get("output", net.parameters["output"])
        for dtype in (torch.float32, torch.float64):
            got = apply_transforms(patch.to(dtype), [transform], output)
            assert got.dtype == dtype
            if transform.kind == "rotate" and int(cv2.__version__.split(".")[0]) < 5:
                assert np.abs(got.numpy() - net.values[f"aug_{name}"]).max() < 4  # OpenCV 4: 1/32 pixel steps
            else:
                net.check(f"aug_{name}", got, f"({transform})")


def test_transformed(golden: Path) -> None:
    net = Net(golden, "augmentation")
    case = net.parameters["transformed"]
    pos = [f * length for f, length in zip(case["pos_fraction_yx"], net.frame.shape[:2], strict=True)]
    size = [case["size"]] * 2
    config = CropConfig(patch_arithmetic="float")
    patch = sample_patch(net.frame, pos, [case["scale"] * s for s in size], size, config)
    transforms = []
    for t in case["transforms"]:
        t = {} if t == "identity" else t
        transform = transform_of(t)
        transforms.append(Transform("fliplr", transform.shift) if t.get("fliplr") else transform)
    net.check("transformed", apply_transforms(patch.pixels, transforms, net.values["transformed"].shape[-2:]))


def test_first_frame_aug(golden: Path) -> None:
    blocks = load(golden / "blocks" / "golden3.json")
    aug = blocks["first_frame_aug"]
    last = int(re.search(r"0\.\.(\d+)", aug["desc"])[1])  # type: ignore[index]
    size = int(re.search(r"output_sz (\d+)", aug["desc"])[1])  # type: ignore[index]
    row, col = np.mgrid[: last + 1, : last + 1]  # the image in the words of train_crops' "desc"
    image = np.stack(((2 * row) % 256, (3 * col // 2) % 256, (row + col) % 256))  # (3, E, E)
    patch = torch.from_numpy(image)[None].float()

    # the five stored pixels lie where the identity has their values
    identity = apply_transforms(patch, [Transform()], (size, size))[0]
    places = []
    for pixel in aug["out"]["identity"]["px"]:
        hits = (identity == torch.tensor(pixel)[:, None, None]).all(dim=0).nonzero()
        assert len(hits) == 1
        places.append(tuple(hits[0].tolist()))
    assert places[0] == (0, 0)
    assert places[-1] == (size - 1, size - 1)

    for name, expected in aug["out"].items():
        found = re.search(r"(?:shift|s)\(([-\d]+),([-\d]+)\)", name)
        shift = (int(found[1]), int(found[2])) if found else (0, 0)
        if name.startswith("rotate"):
            transform = Transform("rotate", shift, angle=float(re.match(r"rotate([-\d.]+)", name)[1]))  # type: ignore[index]
        elif name.startswith("blur"):
            sigma = re.match(r"blur\(([\d.]+),([\d.]+)\)", name)
            transform = Transform("blur", shift, sigma=(float(sigma[1]), float(sigma[2])))  # type: ignore[index]
        else:
            transform = Transform("fliplr" if name.startswith("fliplr") else "identity", shift)
        got = apply_transforms(patch, [transform], (size, size))
        assert list(got.shape) == expected["shape"]
        # float32 of up to 255; OpenCV 4 turns in steps of 1/32 pixel
        exact = transform.kind != "rotate" or int(cv2.__version__.split(".")[0]) >= 5
        pixels = [got[0, :, y, x].tolist() for y, x in places]
        np.testing.assert_allclose(pixels, expected["px"], atol=1e-3 if exact else 4, rtol=0, err_msg=name)
        np.testing.assert_allclose(got.double().mean(), expected["mean"], atol=1e-3 if exact else 0.1, err_msg=name)
