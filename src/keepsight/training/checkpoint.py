"""Checkpoints: one safetensors file with a JSON header holds all that a run needs to go on exactly. No pickles.

Nothing random is stored: every generator of a run (samples, dropout) is seeded by its place in the run (see
``training.data`` and ``training.loop``), so the step is the state of all of them, on any device.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..weights.store import HEADER_KEY, WeightsHeader, check_keys, load_weights, own_memory, save_weights

CHECKPOINT_KEY = "keepsight.checkpoint"
"""The safetensors metadata entry that holds the header as JSON."""
CHECKPOINT_VERSION = 1
FAMILY = "checkpoint"
"""What ``keepsight weights info`` shows as the family of such a file."""
DIFFERENCES_SHOWN = 6
_MODEL, _OPTIMISER = "model.", "optimiser."


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps."""

    name: str
    """Of the recipe."""
    recipe: Mapping[str, Any]
    """The recipe and all that decides the result besides it (seed, batch), as JSON values; a run goes on only with the same."""
    step: int
    """Optimiser steps done; with ``steps_per_epoch`` it is also the place in the epoch, the schedule and every generator."""
    steps_per_epoch: int
    model: Mapping[str, Tensor]
    """State dict, CPU."""
    optimiser: Mapping[str, Mapping[str, Tensor]]
    """Parameter name -> its state, e.g. ``exp_avg``; CPU."""
    scaler: Mapping[str, float] = field(default_factory=dict)
    """Of fp16's loss scaler; empty without one."""
    best: float | None = None
    """Lowest validation loss so far."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """``broken`` draws, ``skipped`` steps (fp16 overflow), ``validated``: step of the last validation."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """Of the network's weights file: family, preset, config, source, licence (:class:`WeightsHeader`)."""


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint``; the file appears whole or not at all, and is on the disk when this returns.

    Raises :class:`WeightsError` if it cannot be written or the disk is full; what stood at ``path`` stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {_MODEL + name: tensor for name, tensor in checkpoint.model.items()}
    for parameter, state in checkpoint.optimiser.items():
        tensors |= {f"{_OPTIMISER}{key}.{parameter}": tensor for key, tensor in state.items()}
    values = {k: v for k, v in vars(checkpoint).items() if k not in ("model", "optimiser")}
    told = WeightsHeader(FAMILY, checkpoint.name, {"step": checkpoint.step}, source="checkpoint of keepsight train")
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        text = json.dumps({**values, "version": CHECKPOINT_VERSION}, allow_nan=False, sort_keys=True)
        metadata = {CHECKPOINT_KEY: text, HEADER_KEY: json.dumps(asdict(told), sort_keys=True)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own_memory(tensors), part, metadata=metadata)
        _to_disk(part)
        os.replace(part, path)
        _to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        raise WeightsError(
            f"the checkpoint {path} cannot be written ({getattr(error, 'strerror', None) or error}); {size / 1e6:.1f} MB are "
            "needed. Earlier checkpoints are whole: make room and go on with --resume"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint. Raises :class:`WeightsError` if it is absent, damaged, something else, or from a later keepsight."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(CHECKPOINT_KEY)
            if text is None:
                raise WeightsError(f"{path} is a safetensors file but no checkpoint of keepsight train")
            values = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        RuntimeError,
        AttributeError,
        RecursionError,
    ) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"the checkpoint {path} is damaged ({str(error)[:200]}); remove it, and --resume takes the one before"
        ) from None
    return _from_values(path, values, tensors)


def _from_values(path: Path, values: Any, tensors: Mapping[str, Tensor]) -> Checkpoint:
    """Every field is checked: the file may come from anywhere."""
    kinds: dict[str, tuple[type, ...]] = {
        "name": (str,), "recipe": (dict,), "step": (int,), "steps_per_epoch": (int,), "scaler": (dict,),
        "best": (float, int, type(None)), "counters": (dict,), "header": (dict,), "version": (int,),
    }  # fmt: skip
    is_ours = isinstance(values, dict) and isinstance(values.get("version"), int)
    if is_ours and values["version"] > CHECKPOINT_VERSION:
        raise WeightsError(f"{path} was written by a later keepsight; run `pip install --upgrade keepsight`")
    wrong = [k for k, kind in kinds.items() if not is_ours or not isinstance(values.get(k, kinds), kind)]
    wrong += [k for k in ("step", "steps_per_epoch") if not wrong and values[k] < (k != "step")]
    if wrong or set(values) != set(kinds):
        raise WeightsError(f"the checkpoint {path} has a damaged header ({', '.join(wrong) or 'unknown fields'})")
    model = {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}
    optimiser: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMISER):
            key, _, parameter = name.removeprefix(_OPTIMISER).partition(".")
            optimiser.setdefault(parameter, {})[key] = tensor
    del values["version"]
    return Checkpoint(**values, model=model, optimiser=optimiser)


def check_same_run(found: Checkpoint, name: str, recipe: Mapping[str, Any], path: Path) -> None:
    """Raises :class:`WeightsError` that names what differs, unless ``found`` belongs to this recipe with these values."""
    if found.name != name:
        raise WeightsError(f"{path} is of the recipe {found.name!r}, this run is {name!r}; take another --out")
    differs = differences(found.recipe, json.loads(json.dumps(recipe)))
    if differs:
        shown = "; ".join(differs[:DIFFERENCES_SHOWN])
        more = f"; and {len(differs) - DIFFERENCES_SHOWN} more" if len(differs) > DIFFERENCES_SHOWN else ""
        raise WeightsError(
            f"{path} is of a run with other settings: {shown}{more} (there -> here). "
            "Give the same settings to go on, or another --out to start anew"
        )


def differences(there: Any, here: Any, at: str = "") -> list[str]:
    """Words such as ``optim.lr: 0.1 -> 0.2`` for every value in which two JSON values differ."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = list(there) + [n for n in here if n not in there]
        below = (differences(there.get(n, "absent"), here.get(n, "absent"), f"{at}.{n}" if at else n) for n in names)
        return [words for part in below for words in part]
    return [] if there == here else [f"{at}: {json.dumps(there)} -> {json.dumps(here)}"]


def optimiser_state(optimiser: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, dict[str, Tensor]]:
    """The optimiser's state by parameter name; ``names``: id of a parameter -> its name. Everything becomes a CPU tensor."""
    found = {}
    for parameter, state in optimiser.state.items():
        values = {k: torch.as_tensor(v).detach().cpu() for k, v in state.items() if v is not None}
        found[names[id(parameter)]] = values
    return found


def restore(checkpoint: Checkpoint, net: nn.Module, optimiser: torch.optim.Optimizer, path: str | Path) -> None:
    """Put a checkpoint's tensors into ``net`` and ``optimiser``. Raises :class:`WeightsError` if names or shapes differ."""
    wanted = {n: tuple(t.shape) for n, t in net.state_dict().items()}
    net.load_state_dict(check_keys(checkpoint.model, wanted, what=f"the recipe {checkpoint.name} ({path})"))
    parameters = {
        n: p for n, p in net.named_parameters() if any(p is q for g in optimiser.param_groups for q in g["params"])
    }
    unknown = [n for n in checkpoint.optimiser if n not in parameters]
    wrong = [
        f"{key} of {name}"
        for name, state in checkpoint.optimiser.items()
        for key, tensor in state.items()
        if name in parameters and tensor.ndim and tensor.shape != parameters[name].shape
    ]
    if unknown or wrong:
        raise WeightsError(
            f"{path} has optimiser state that does not fit the network: {', '.join((unknown + wrong)[:6])}"
        )
    # torch puts each value where the optimiser wants it (Adam's step counter stays on the CPU)
    names = {id(p): n for n, p in parameters.items()}
    order = [names[id(p)] for g in optimiser.param_groups for p in g["params"]]
    plain = optimiser.state_dict()
    plain["state"] = {i: dict(checkpoint.optimiser[n]) for i, n in enumerate(order) if n in checkpoint.optimiser}
    optimiser.load_state_dict(plain)


def checkpoint_path(folder: str | Path, step: int) -> Path:
    return Path(folder) / f"step-{step:09d}.safetensors"


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoints in ``folder``, the oldest first."""
    found = Path(folder).glob("step-*.safetensors")
    return sorted(p for p in found if p.stem.removeprefix("step-").isdigit())


def prune(folder: str | Path, keep: int, keep_every: int | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints and those whose step is a multiple of ``keep_every``.

    What a killed process left half written goes too.
    """
    for part in Path(folder).glob(".step-*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
    for path in list_checkpoints(folder)[: -max(1, keep)]:
        step = int(path.stem.removeprefix("step-"))
        if keep_every is None or step % keep_every:
            with contextlib.suppress(OSError):  # another process may read it; it goes next time
                path.unlink()


def export(run: str | Path, out: str | Path) -> WeightsHeader:
    """Write the network of a run as a weights file that ``keepsight.load`` takes; returns its header.

    ``run``: the folder of a run (its newest checkpoint is taken) or a checkpoint. Raises :class:`WeightsError` if there is
    none, or ``out`` cannot be written.
    """
    run = Path(run)
    if run.is_dir():
        found = list_checkpoints(run / "checkpoints") or list_checkpoints(run)
        if not found:
            raise WeightsError(f"there is no checkpoint in {run}; give the folder that `keepsight train --out` wrote")
        run = found[-1]
    checkpoint = load_checkpoint(run)
    header = provenance(checkpoint)
    save_weights(out, checkpoint.model, header)
    return load_weights(out).header


def provenance(checkpoint: Checkpoint) -> WeightsHeader:
    """The header of a network that this run trained."""
    epochs = checkpoint.step / checkpoint.steps_per_epoch
    words = [f"trained by keepsight: recipe {checkpoint.name}, {checkpoint.step} steps ({epochs:.4g} epochs)"]
    if checkpoint.best is not None:
        words.append(f"lowest validation loss {checkpoint.best:.6g}")
    words += [f"{key} {checkpoint.recipe[key]}" for key in ("seed", "batch", "amp") if key in checkpoint.recipe]
    given = {k: v for k, v in checkpoint.header.items() if k in ("family", "preset", "config", "licence")}
    if checkpoint.header.get("source"):
        words.append(str(checkpoint.header["source"]))
    return WeightsHeader(**{"family": "unknown", "preset": checkpoint.name, **given, "source": "; ".join(words)})


def _to_disk(path: Path) -> None:
    """Survives a power cut; folders cannot be synced on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
