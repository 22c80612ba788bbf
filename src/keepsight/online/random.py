"""Randomness with an owner: each target draws from its own seeded stream, whose state is plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RandomSource:
    """A stream of random numbers that can be saved, restored and, in tests, replaced by stored draws."""

    state: Tensor
    """(N,) uint8: state of the generator; always on the CPU, so that every device draws the same numbers."""

    @classmethod
    def seeded(cls, seed: int, stream: int) -> RandomSource:
        """Stream number ``stream`` of ``seed``; streams are independent."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)
        return cls(generator.get_state())

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 numbers in [0, 1)."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int, deviation: float = 1.0) -> Tensor:
        """Normal float32 numbers of mean 0."""
        return deviation * self._draw(torch.randn, shape)

    def _draw(self, kind: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator()
        generator.set_state(self.state)
        draw = kind(shape, generator=generator)
        self.state = generator.get_state()
        return draw

    def keep_channels(self, copies: int, channels: int, drop: float) -> Tensor:
        """(copies, channels) of 0 and 1: which channels survive a dropout of probability ``drop``."""
        return (self.uniform(copies, channels) >= drop).float()
