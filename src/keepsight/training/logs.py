"""What a run tells while it goes: one JSON object per line, TensorBoard where it is installed, and a callback for progress."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .batch import Losses

LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class Status:
    """How far a run is, for a display."""

    step: int
    """Optimiser steps done, of ``steps``."""
    steps: int
    epoch: int
    """Epochs begun, of ``epochs``; counted from 1."""
    epochs: int
    losses: Mapping[str, float]
    """``total`` and the parts, means since the last report."""
    samples_per_second: float
    wait_share: float
    """Share of the time in which the network waited for data, 0 to 1."""
    seconds_left: float
    """By the speed since the start; infinite before the first report."""
    note: str = ""
    """What happens besides steps, e.g. ``validation``."""


class RunLog:
    """Appends records to ``folder/log.jsonl``, each with one write, so that a killed run leaves whole lines.

    With ``step`` the file is continued: records of later steps, which a killed run wrote after its last checkpoint, are
    removed. Raises :class:`InputError` if the file cannot be written.
    """

    def __init__(self, folder: str | Path, *, step: int = 0, tensorboard: bool = True) -> None:
        folder = Path(folder)
        self.path = folder / LOG_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_until(self.path, step)
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"the log {self.path} cannot be written: {error.strerror or error}") from None
        self._board = _summary_writer(folder / "tensorboard", step) if tensorboard else None

    def write(self, kind: str, step: int, **values: Any) -> None:
        """One record. ``kind``: ``train``, ``validation``, ``skip``, ``checkpoint``, ``start``, ``stop`` or ``error``."""
        record = {"kind": kind, "step": step, **values}
        line = json.dumps(_plain(record), allow_nan=False) + "\n"
        try:
            os.write(self._handle, line.encode())
        except OSError as error:
            raise InputError(f"the log {self.path} cannot be written: {error.strerror or error}") from None
        if self._board is not None and kind in ("train", "validation"):
            for name, number in _numbers(values):
                self._board.add_scalar(f"{kind}/{name}", number, step)

    def close(self) -> None:
        os.close(self._handle)
        if self._board is not None:
            self._board.close()


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Records of a log file or of the folder that holds it; a last line that was cut off is left out.

    Raises :class:`InputError` for a missing file or a line that is no record.
    """
    path = Path(path)
    path = path / LOG_FILE if path.is_dir() else path
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the log {path} cannot be read: {error.strerror or error}") from None
    records = []
    for number, line in enumerate(lines[:-1], 1):  # after the last newline stands nothing, or a piece of a line
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record["step"], int):
                raise ValueError
        except (ValueError, KeyError, RecursionError):
            raise InputError(f"{path}, line {number} is no record of a run: {line[:60]!r}") from None
        records.append(record)
    return records


@dataclass
class Meter:
    """Sums between two log records, of losses that stay on their device until they are read."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, losses: Losses) -> None:
        """Names become ``losses/total``, ``losses/box``, ``statistics/iou``."""
        values = {"losses/total": losses.total, **{f"losses/{k}": v for k, v in losses.parts.items()}}
        for name, value in {**values, **{f"statistics/{k}": v for k, v in losses.statistics.items()}}.items():
            value = value.detach().double() if value.device.type != "mps" else value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def clear(self) -> None:
        self.sums.clear()
        self.counts.clear()


def memory(device: torch.device) -> dict[str, float]:
    """Megabytes at the highest point so far, of this process and of the GPU."""
    found = {}
    if os.name == "posix":
        import resource
        import sys

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["process_mb"] = used / (1e6 if sys.platform == "darwin" else 1e3)
    if device.type == "cuda":
        found["gpu_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return {name: round(value, 1) for name, value in found.items()}


def _keep_until(path: Path, step: int) -> None:
    """Drop records after ``step`` and a last line that was cut off; the file is replaced as a whole."""
    if not path.exists():
        return
    kept = [r for r in read_log(path) if r["step"] <= step]
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    part.write_text("".join(json.dumps(r) + "\n" for r in kept))
    os.replace(part, path)


def _summary_writer(folder: Path, step: int) -> Any:
    """None where TensorBoard is not installed: the JSON lines hold the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found
