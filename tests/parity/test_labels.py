"""ATOM's labels, windows, interpolated scores and peaks against labels_boxes.npz and blocks/golden2.json."""

from __future__ import annotations

import math

import numpy as np
import torch
from golden_rules import arrays, block, compare, fill, tolerance
from torch import Tensor

from keepsight.nn.target_filter import gaussian_label
from keepsight.online.fourier import interpolation_matrix
from keepsight.online.localise import hann_window, peak

STEM = "labels_boxes"
SIGMA = 1.3, 2.1  # README of the golden numbers
CENTRES = {"0": (0.0, 0.0), "1": (2.3, -1.7)}


def label_on_axis(centre: float, cells: int, sigma: float) -> Tensor:
    """One axis of :func:`gaussian_label`, (cells,)."""
    return gaussian_label(torch.tensor([[centre, 0.0]]), (cells, 1), sigma)[0, :, 0]


def test_tracker_labels(golden):
    """Centres count from the middle of the map; an end cell is one more cell on the same axis."""
    data = arrays(golden, STEM)
    keys = [k for k in data.files if k.startswith("dcf_label_")]
    assert keys
    for key in keys:
        _, _, centre, end = key.split("_")
        want = data[key][0, 0]
        axes = []
        for offset, cells, sigma in zip(CENTRES[centre], want.shape, SIGMA, strict=True):
            middle = (cells - int(end) - 1) / 2  # of the map without its end cell
            axes.append(label_on_axis(middle + offset, cells, sigma))
        compare(axes[0][:, None] * axes[1], want, tolerance(golden, STEM, key), key)


def test_one_deviation_for_both_axes():
    """What the tracker calls is the product of its axes."""
    label = gaussian_label(torch.tensor([[3.2, 4.7]]), (6, 9), 1.3)[0]
    axes = label_on_axis(3.2, 6, 1.3)[:, None] * label_on_axis(4.7, 9, 1.3)
    compare(label, axes, 1e-7, "label")


def test_windows(golden):
    data = arrays(golden, STEM)
    keys = [k for k in data.files if k.startswith("hann_")]
    assert {k[-1] for k in keys} == {"0", "1"}
    for key in keys:
        _, cells, centred = key.split("_")
        got = hann_window(int(cells), centred=centred == "1")
        compare(got, data[key].ravel(), tolerance(golden, STEM, key), key)
    height, width = data["hann2d"].shape[-2:]
    got = np.outer(hann_window(height), hann_window(width))
    compare(got, data["hann2d"][0, 0], tolerance(golden, STEM, "hann2d"), "hann2d")


def test_windows_of_blocks(golden):
    want = block(golden, "hann2d")
    for key in want:
        kind, cells = key.split("_")
        compare(hann_window(int(cells), centred=kind == "centered"), want[key], 1e-6, key)


def upsampled(maps: Tensor, size: tuple[int, int], offset: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """``maps`` (..., H, W) at ``size`` points, the first one ``offset`` cells from the first cell."""
    rows, cols = (
        interpolation_matrix(cells, torch.arange(points, dtype=torch.float64) * cells / points + start)
        for cells, points, start in zip(maps.shape[-2:], size, offset, strict=True)
    )
    return rows @ maps.double() @ cols.T


def test_fourier_interpolation(golden):
    """Every third sample is stored. A shift by an angle moves the points by that share of the map."""
    data = arrays(golden, STEM)
    keys = [k for k in data.files if k.startswith(("fourier_up_", "fourier_shiftup_"))]
    assert keys
    for key in keys:
        _, kind, height, width, *size = key.split("_")
        maps = torch.from_numpy(data[f"fourier_in_{height}_{width}"])
        angles = (math.pi, math.pi * (1 - 1 / int(width))) if kind == "shiftup" else (0.0, 0.0)
        offset = angles[0] / (2 * math.pi) * int(height), angles[1] / (2 * math.pi) * int(width)
        got = upsampled(maps, (int(size[0]), int(size[1])), offset)[..., ::3, ::3]
        compare(got, data[key], tolerance(golden, STEM, key), key)


def test_scores_at_crop_pixels(golden):
    """18 × 18 scores of an even filter at 288 × 288 crop pixels whose centre is index 144: cell 9 + (m - 144) / 16."""
    want = block(golden, "fourier_up")
    up = upsampled(fill(1, 1, 18, 18, a=0.19), (288, 288))[0, 0]
    compare(up[::16, ::16].flatten(), want["samples_every_16"], 2e-6, "every 16th")
    compare(up.diagonal()[::7], want["samples_diag"], 2e-6, "every 7th of the diagonal")


def test_peaks(golden):
    data = arrays(golden, STEM)
    for i, scores in enumerate(data["fourier_in"][:, 0]):
        value, cell = peak(scores)
        assert value == data["max2d_val"][i]
        assert list(cell) == data["max2d_arg"][i].tolist()
