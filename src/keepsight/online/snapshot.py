"""Whole tracker states to and from safetensors: plain data and tensors, no pickles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import StateError
from ..weights.store import WeightsHeader, load_weights, save_weights

FAMILY = "tracker-state"
SAMPLES = 256
"""Values of each tensor that :func:`weights_digest` reads: training moves all of them."""


def derived() -> Any:
    """A field of a state that is computed from the others when needed: None at first, and never saved."""
    return dataclasses.field(default=None, repr=False, compare=False, metadata={"saved": False})


def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """``value`` as JSON data; tensors and arrays in it go to ``tensors`` under their path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value)).clone()
        return {"array": path}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.metadata.get("saved", True)]
        return {"fields": {name: pack(getattr(value, name), tensors, f"{path}.{name}") for name in names}}
    if isinstance(value, (list, tuple)):
        return {"items": [pack(v, tensors, f"{path}.{i}") for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise StateError(f"{path} is a {type(value).__name__}, which a saved state cannot hold")


def unpack(data: Any, tensors: dict[str, Tensor], hint: Any, device: torch.device) -> Any:
    """Inverse of :func:`pack`, with the type annotation ``hint`` saying which dataclass or container to build."""
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        # random streams stay on the CPU; everything else goes where the network is. Copies, because a tensor of the file lies
        # at an odd address, and matrix products of it would be rounded otherwise than those of the one that was saved
        tensor = tensors[data["tensor"]]
        return tensor.clone() if tensor.dtype == torch.uint8 else tensor.to(device, copy=True)
    if "array" in data:
        return tensors[data["array"]].numpy().copy()
    options = [h for h in typing.get_args(hint) if h is not type(None)] if _is_optional(hint) else [hint]
    hint = options[0]
    if "items" in data:
        args = typing.get_args(hint)
        inner = args[0] if args else Any
        items = [unpack(v, tensors, inner, device) for v in data["items"]]
        return items if typing.get_origin(hint) is list else tuple(items)
    kind = typing.get_origin(hint) or hint  # Session[DiMPTarget] -> Session
    hints = {
        name: h[typing.get_args(hint)] if getattr(h, "__parameters__", ()) else h
        for name, h in typing.get_type_hints(kind).items()
    }
    return kind(**{name: unpack(v, tensors, hints[name], device) for name, v in data["fields"].items()})


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def weights_digest(networks: Iterable[nn.Module]) -> str:
    """16 hexadecimal digits of the networks' names, shapes and evenly drawn values; the same on every device."""
    digest = hashlib.sha256()
    for net in networks:
        for name, tensor in net.state_dict().items():
            values = tensor.detach()
            if values.numel() > SAMPLES:
                chosen = torch.arange(SAMPLES, device=values.device) * values.numel() // SAMPLES
                values = values[
                    torch.unravel_index(chosen, values.shape)
                ]  # (SAMPLES,): no copy of channels-last weights
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(values.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save(path: Path, state: Any, identity: dict[str, Any]) -> None:
    """Write ``state`` with what it belongs to; atomically, so that a full disk leaves the previous file.

    Raises :class:`WeightsError` if the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    layout = pack(state, tensors)
    text = json.dumps({"identity": identity, "layout": layout})  # a string: JSON proper has no infinite thresholds
    save_weights(
        path, tensors, WeightsHeader(family=FAMILY, preset=str(identity.get("tracker", "")), config={"state": text})
    )


def load(path: Path, kind: Any, identity: dict[str, Any], device: torch.device) -> Any:
    """Read a state of type ``kind`` that belongs to the same tracker.

    Raises :class:`StateError` that says what differs if it does not, or that the file is of an earlier keepsight, which did not
    say so much; :class:`WeightsError` if the file cannot be read.
    """
    file = load_weights(path)
    if file.header.family != FAMILY:
        raise StateError(f"{path} holds weights, not a tracker state; make one with tracker.save_state(path)")
    try:
        saved = json.loads(file.header.config["state"])
        theirs = saved["identity"]
        absent = [k for k in identity if k not in theirs]
        differs = [k for k in identity if json.dumps(theirs.get(k)) != json.dumps(identity[k])]
        if not differs:
            return unpack(saved["layout"], dict(file.tensors), kind, device)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(
            f"{path} is damaged or of another version of keepsight ({error!r}); save the state again"
        ) from error
    if absent:
        raise StateError(
            f"{path} is of another version of keepsight: it does not say what {' and '.join(absent)} it belongs to; "
            "save the state again"
        )
    detail = "; ".join(f"{k} is {_short(theirs.get(k))} there and {_short(identity[k])} here" for k in differs)
    raise StateError(f"{path} belongs to another tracker ({detail}); load the tracker that saved it")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
