"""Our own weights files: safetensors with a JSON header, written atomically; and the strict check of names."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from .inert_pickle import printable
from .pickle_reader import ForeignCheckpoint, identify, open_weights, read_checkpoint

FORMAT_VERSION = 1
"""Version of the header; a file with a higher one was written by a later keepsight."""
HEADER_KEY = "keepsight"
"""The safetensors metadata entry that holds the header as JSON."""
NAMES_SHOWN = 8
"""Names of each kind in an error about state-dict names."""


@dataclass(frozen=True)
class WeightsHeader:
    """What a weights file says about itself."""

    family: str
    """The tracker family that reads it, e.g. ``dimp``."""
    preset: str
    """Name in the catalogue or of the preset, e.g. ``dimp50``."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The network's configuration, JSON values only (PrDiMP's σ, ε and minimum regularisation live here)."""
    source_file: str = ""
    """Name of the file the weights came from, without its folder."""
    source_sha256: str = ""
    """SHA-256 of that file in hexadecimal."""
    source: str = ""
    """Who made them and how, in words."""
    licence: str = ""
    """The weights' licence, or who to ask."""
    keepsight_version: str = ""
    """The keepsight that wrote the file; filled in by :func:`save_weights`."""
    format_version: int = FORMAT_VERSION
    """Version of this header."""


@dataclass(frozen=True)
class WeightsFile:
    """Content of one of our own weights files."""

    tensors: dict[str, Tensor]
    """State dict, CPU."""
    header: WeightsHeader


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], header: WeightsHeader) -> Path:
    """Write ``tensors`` and ``header`` to ``path``; the file appears whole or not at all. Returns the path.

    The folder is made if it is absent. Raises :class:`WeightsError` if it cannot be written or the disk is full (an
    older file at ``path`` stays as it was), or if the header's ``config`` is not JSON.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    path = Path(path)
    if not tensors:
        raise WeightsError(f"nothing to write to {path}: the state dict is empty")
    header = replace(header, keepsight_version=header.keepsight_version or _own_version())
    try:
        text = json.dumps(asdict(header), allow_nan=False, sort_keys=True)
        own = own_memory(tensors)
        data = save(own, metadata={HEADER_KEY: text})
    except (TypeError, ValueError, AttributeError, SafetensorError, KeyError) as error:
        raise WeightsError(f"weights for {path} cannot be stored: {error}") from None
    _write_atomically(path, data)
    return path


def load_weights(path: str | Path) -> WeightsFile:
    """Read one of our own weights files.

    Raises :class:`WeightsError` if the file is absent, damaged, of another kind (with the command that converts it) or
    written by a later keepsight.
    """
    path = Path(path)
    with open_weights(path) as file:
        looks = identify(file)
    if looks in ("zip", "legacy"):
        raise WeightsError(
            f"{path} is a torch checkpoint; convert it first: "
            f"keepsight weights convert {path} --out {path.stem}.safetensors"
        )
    if looks != "safetensors":
        raise WeightsError(f"{path} holds no weights that can be read: {looks}")
    tensors, metadata = _read_safetensors(path)
    return WeightsFile(tensors, parse_header(metadata, path))


def read_any(path: str | Path) -> ForeignCheckpoint:
    """Read weights of any kind, told apart by content: safetensors (ours or others') or a torch checkpoint.

    Of a safetensors file the header's text entries are in ``metadata``; :func:`parse_header` reads ours.
    Raises :class:`WeightsError` as :func:`read_checkpoint` does.
    """
    path = Path(path)
    with open_weights(path) as file:
        looks = identify(file)
    if looks != "safetensors":
        return read_checkpoint(path)
    tensors, metadata = _read_safetensors(path)
    return ForeignCheckpoint(tensors, None, None, None, {}, "safetensors", metadata)


def parse_header(metadata: Mapping[str, str], path: str | Path) -> WeightsHeader:
    """The header in a safetensors file's metadata; :class:`WeightsError` if it is absent, damaged or too new."""
    if HEADER_KEY not in metadata:
        raise WeightsError(
            f"{path} is a safetensors file without keepsight's header, so its network is not known; "
            f"convert it: keepsight weights convert {path} --out OTHER.safetensors"
        )
    try:
        values = json.loads(metadata[HEADER_KEY])
        version = values["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WeightsError(f"{path} has a damaged header; download or convert it again") from None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} has header version {version}, this keepsight reads up to {FORMAT_VERSION}; "
            "run `pip install --upgrade keepsight`"
        )
    known = {f.name: values[f.name] for f in fields(WeightsHeader) if f.name in values}
    config = known.get("config", {})
    is_text = all(isinstance(v, str) for k, v in known.items() if k not in ("config", "format_version"))
    if not is_text or not isinstance(config, dict) or not {"family", "preset"} <= known.keys():
        raise WeightsError(f"{path} has a damaged header; download or convert it again")
    return WeightsHeader(**known)


def check_keys(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, what: str
) -> dict[str, Tensor]:
    """The state dict in the order of ``expected`` (name -> shape), if names and shapes agree exactly.

    A ``module.`` in front of every name (DataParallel) is stripped; absent ``num_batches_tracked`` counters (torch
    before 0.4.1) become 0. ``what``: the network's name for the message. Raises :class:`WeightsError` with the missing,
    unexpected and wrongly shaped names.
    """
    tensors = strip_module_prefix(tensors)
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in tensors if n not in expected]
    wrong = [
        f"{n} is {tuple(tensors[n].shape)}, expected {tuple(shape)}"
        for n, shape in expected.items()
        if n in tensors and tuple(tensors[n].shape) != tuple(shape)
    ]
    if missing or unexpected or wrong:
        groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        told = "; ".join(f"{len(names)} {kind}: {_first_names(names)}" for kind, names in groups if names)
        raise WeightsError(
            f"these weights are not of {what}: {told}. `keepsight weights info FILE` tells what a file holds"
        )
    counter = torch.zeros((), dtype=torch.int64)
    return {n: tensors[n] if n in tensors else counter.expand(tuple(s)).clone() for n, s in expected.items()}


def strip_module_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the ``module.`` that DataParallel puts in front of every one."""
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def non_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Names of tensors with NaN or infinity, and how many such values each has."""
    counts = {
        n: int((~torch.isfinite(t.float() if t.element_size() == 1 else t)).sum())  # isfinite knows no 8-bit floats
        for n, t in tensors.items()
        if t.is_floating_point()
    }
    return {name: count for name, count in counts.items() if count}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise WeightsError(f"{path} is a damaged safetensors file ({str(error)[:200]}); download it again") from None


def own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory: safetensors refuses tied ones."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        place = plain.untyped_storage().data_ptr()
        own[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return own


def _write_atomically(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written ({error.strerror or error}); nothing was left behind. "
            f"{len(data) / 1e6:.1f} MB are needed in a folder that you may write to"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it is gone if all went well
            part.unlink()


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("keepsight")
    except PackageNotFoundError:  # run from a source tree
        return "not installed"


def _first_names(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(printable(n) for n in names[:NAMES_SHOWN]) + rest
