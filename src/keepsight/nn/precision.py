"""Keeping long sums out of half precision when a training loop runs under autocast."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``like``: operations run in their inputs' own precision."""
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
