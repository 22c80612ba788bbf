"""How the golden numbers' inputs are made: the rules of golden/net/README.md §2, §3 and spec/dimp-atom.md appendices B, C."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

REPO = Path(__file__).resolve().parents[1]


def golden_folder() -> Path:
    """The golden numbers: $KEEPSIGHT_GOLDEN, else ../shared/golden beside the checkout, else the excerpt in tests/data."""
    given = os.environ.get("KEEPSIGHT_GOLDEN")
    if given:
        if not Path(given).is_dir():
            raise pytest.UsageError(f"KEEPSIGHT_GOLDEN is {given!r}, which is not a folder")
        return Path(given)
    folder = REPO.parent / "shared" / "golden"
    return folder if folder.is_dir() else REPO / "tests" / "data" / "golden"


G_IOU = {
    "atom": 2, "dimp18": 2, "dimp50": 2, "prdimp18": 20, "prdimp50": 40, "super_dimp": 40, "super_dimp_simple": 40,
    "keep_track": 1,
}  # fmt: skip
DIMP_NETWORKS = ("dimp18", "dimp50", "prdimp18", "prdimp50", "super_dimp", "super_dimp_simple")


def random_state(seed: int, tag: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(f"{seed}/{tag}".encode()) & 0xFFFFFFFF)


def image(tag: str, n: int, h: int, w: int, seed: int) -> Tensor:
    """(n, 3, h, w) float32, fed to the networks as it is."""
    low = random_state(seed, tag + "/lo").standard_normal((n, 3, -(-h // 8), -(-w // 8)))
    low = low.repeat(8, axis=2).repeat(8, axis=3)[:, :, :h, :w]
    high = random_state(seed, tag + "/hi").standard_normal((n, 3, h, w))
    return torch.from_numpy((low + 0.5 * high).astype(np.float32))


def filled(key: str, shape: tuple[int, ...], seed: int, g_iou: float) -> np.ndarray:
    """The value of one state-dict tensor, float64; the first rule of the table that fits."""
    n = np.asarray(random_state(seed, key).standard_normal(shape))
    last = key.split(".")[-1]
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    if last == "num_batches_tracked":
        value = np.zeros(shape)
    elif last == "running_mean":
        value = 0.1 * n
    elif last == "running_var":
        value = 1 + 0.1 * abs(n)
    elif last == "log_step_length":
        value = 0.05 * n
    elif last == "filter_reg":
        value = 0.1 + 0.01 * n
    elif key.endswith(
        ("label_map_predictor.weight", "target_mask_predictor.0.weight", "spatial_weight_predictor.weight")
    ):
        d = 0.1 * np.arange(shape[1]).reshape(1, -1, 1, 1)
        if "label" in key:
            value = np.exp(-0.5 * (d / 0.9) ** 2) + 0.01 * n
        elif "mask" in key:
            value = 3 * np.tanh(2 - d) + 0.1 * n
        else:
            value = 1 + 0.05 * n
    elif last == "bin_score":
        value = 1 + 0.1 * n
    elif key.endswith("iou_predictor.weight"):
        value = g_iou * n / np.sqrt(shape[1])
    elif key.endswith("iou_predictor.bias"):
        value = 0.5 + 0.1 * n
    elif key.endswith("samp_w_pred.weight"):
        value = 0.1 * n / np.sqrt(fan_in)
    elif key.endswith("samp_w_pred.bias"):
        value = 1 + 0.1 * n
    elif len(shape) >= 2:
        value = (n - n.mean(axis=tuple(range(1, len(shape))), keepdims=True)) / np.sqrt(fan_in)
    elif last == "weight":
        value = 1 + 0.1 * n
    else:
        value = 0.1 * n
    if key.startswith("feature_extractor."):
        if len(shape) == 4:
            value = 1.3 * value
        elif last in ("bias", "running_mean") and len(shape) == 1:
            value = 0.2 * value
    return value


def fill_network(net: nn.Module, name: str | None, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fill every state-dict tensor by the rule; float32 casts the float64 values, float64 keeps them.

    ``name``: of a network that predicts overlaps, else None.
    """
    net, g_iou = net.to(dtype).eval(), 1 if name is None else G_IOU[name]
    state = {
        key: torch.from_numpy(np.asarray(filled(key, tuple(tensor.shape), seed, g_iou))).to(tensor.dtype)
        for key, tensor in net.state_dict().items()
    }
    net.load_state_dict(state, strict=True)
    return net


def fill_segmentation(
    net: nn.Module, seed: int, factors: dict[str, float], dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Fill a network of LWL, RTS or STA; ``factors``: the file's ``in_weight_factors``, README §3, applied after the cast."""
    state = fill_network(net, None, seed, dtype).state_dict()
    is_sta = any(key.startswith("target_model_segm.") for key in state)
    state["feature_extractor.conv1.weight"] *= factors.get("conv1", 1)
    state["decoder.project.conv2.weight"] *= factors.get("out_gain", 1)
    state["decoder.project.conv2.bias"] += factors.get("sta_out_bias" if is_sta else "out_bias", 0)
    for key, tensor in state.items():
        if "label_pred.0." in key:
            tensor *= factors.get("clf_label_pred" if key.startswith("clf_encoder.") else "label_pred", 1)
        if key.startswith("decoder.TSE.") and key.endswith("transform.0.weight"):
            tensor[:, -32 if is_sta else -16 :] *= factors.get("enc_in", 1)
    net.load_state_dict(state, strict=True)
    return net


def appendix_c_fill(net: nn.Module) -> nn.Module:
    """Spec appendix C: the rule of blocks/golden_nets.json."""
    state = net.state_dict()
    for k, key in enumerate(sorted(state)):
        tensor = state[key]
        if key.endswith("num_batches_tracked") or "filter_optimizer" in key:
            continue
        i = np.arange(tensor.numel(), dtype=np.float64)
        u = np.sin(12.9898 * i + 78.233 * k) * 43758.5453
        u = (u - np.floor(u)).reshape(tuple(tensor.shape))
        if key.endswith("running_mean"):
            value = np.zeros_like(u)
        elif key.endswith("running_var"):
            value = np.ones_like(u)
        elif tensor.dim() >= 2:
            value = (u - 0.5) * 2 * np.sqrt(3) * np.sqrt(2 / np.prod(tensor.shape[1:]))
        elif key.endswith("weight"):
            value = 0.5 + 0.5 * u
        else:
            value = 0.1 * (u - 0.5)
        state[key] = torch.from_numpy(value).to(tensor.dtype)
    net.load_state_dict(state)
    return net.eval()


def appendix_c_image(side: int, phase: float) -> Tensor:
    """(1, 3, side, side), normalised as the networks want it."""
    y, x = np.mgrid[:side, :side].astype(np.float64)
    planes = [
        127.5 + 60 * np.sin(0.11 * x + 0.5 * c + phase) + 60 * np.cos(0.07 * y - 0.3 * c + 0.02 * x + phase)
        for c in range(3)
    ]
    pixels = torch.from_numpy(np.stack(planes).astype(np.float32))[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / std[:, None, None]


def fill(*shape: int, a: float = 0.37, b: float = 0.11, amp: float = 1.0) -> Tensor:
    """Appendix B's filler."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy((amp * np.sin(a * i + b)).astype(np.float32).reshape(shape))


def block(golden: Path, *keys: str) -> Any:
    """An entry of blocks/*.json by its keys, wherever it is; a folder without blocks skips the test."""
    files = sorted((golden / "blocks").glob("*.json"))
    if not files:
        pytest.skip(f"{golden} has no blocks/*.json")
    for path in files:
        value = json.loads(path.read_text())
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            return value
    raise KeyError(f"{keys} in {golden / 'blocks'}")


def arrays(golden: Path, stem: str) -> Any:
    """net/<stem>.npz; a folder without it skips the test."""
    path = golden / "net" / f"{stem}.npz"
    if not path.is_file():
        pytest.skip(f"{golden} has no net/{stem}.npz")
    return np.load(path)


def tolerance(golden: Path, stem: str, key: str) -> float:
    """The absolute tolerance that net/tolerances.json suggests."""
    return float(json.loads((golden / "net" / "tolerances.json").read_text())[stem][key]["suggested_atol"])


def compare(got: Any, want: Any, atol: float, what: str) -> None:
    """Assert |got - want| <= atol everywhere, with a message that says by how much not."""
    got = np.asarray(got.detach().cpu() if isinstance(got, Tensor) else got, dtype=np.float64)
    want = np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    worst = float(np.abs(got - want).max()) if got.size else 0.0
    assert worst <= atol, (
        f"{what}: largest difference {worst:.3e}, tolerance {atol:.3e}, absmax {np.abs(want).max():.3e}"
    )
