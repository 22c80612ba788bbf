"""``keepsight env``: what a bug report needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import __version__
from .console import say


def env() -> int:
    for name, look in _FACTS.items():
        try:
            value = look()
        except Exception as error:  # a broken part is what the report is for
            value = f"cannot be told: {type(error).__name__}: {error}"
        say(f"{name:<12} {value}")
    return 0


def _python() -> str:
    return f"{sys.version.split()[0]} ({sys.executable})"


def _platform() -> str:
    import platform

    return f"{platform.platform()}, {cpu()}, {os.cpu_count()} cores"


def cpu() -> str:
    import platform

    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "not available" if torch.version.cuda is None else f"built for {torch.version.cuda}, no device"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, {names}"


def _mps() -> str:
    import torch

    return "available" if torch.backends.mps.is_available() else "not available"


def _version_of(module: str) -> str:
    import importlib

    return str(importlib.import_module(module).__version__)


def _package_version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


def _av() -> str:
    import av

    libraries = ", ".join(f"{k} {'.'.join(map(str, v))}" for k, v in sorted(av.library_versions.items()))
    return f"{av.__version__} ({libraries})"


def _threads() -> str:
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
    return ", ".join(f"{n}={os.environ[n]}" for n in names if n in os.environ) or "no variables set"


def _weights() -> str:
    from ..weights import list_weights, weights_folder

    here = [s.name for s in list_weights() if s.found]
    return f"{', '.join(here) or 'none'} (folder {weights_folder()})"


_FACTS: dict[str, Callable[[], str]] = {
    "keepsight": lambda: f"{__version__} ({Path(__file__).parents[1]})",
    "python": _python,
    "platform": _platform,
    "torch": _torch,
    "CUDA": _cuda,
    "MPS": _mps,
    "threads": _threads,
    "numpy": lambda: _version_of("numpy"),
    "opencv": lambda: _version_of("cv2"),
    "av": _av,
    "safetensors": lambda: _package_version("safetensors"),
    "tyro": lambda: _package_version("tyro"),
    "rich": lambda: _package_version("rich"),
    "weights": _weights,
}
