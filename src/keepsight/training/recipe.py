"""What recipes of every kind are made of: training sets, learning rates, and the parts of a network that learn."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, nearest_names
from ..weights.store import WeightsHeader
from .settings import from_plain, to_plain

DEBUG = "-debug"
"""Behind a recipe's name: its small variant."""
RANDOM = "random"
"""``BaseRecipe.init``: start from random weights."""


@dataclass(frozen=True)
class WeightedSet:
    """One training set and how often it is drawn from."""

    name: str
    """As :mod:`keepsight.datasets.training_sets` knows it, e.g. ``lasot:train``."""
    weight: float = 1.0
    """Chance of the set relative to the others."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"training set {self.name!r} has weight {self.weight}; give a number that is at least 0")

    @classmethod
    def parse(cls, text: str) -> WeightedSet:
        """``name`` or ``name*weight``."""
        name, star, weight = text.rpartition("*")
        if not star:
            return cls(text)
        try:
            return cls(name, float(weight))
        except ValueError:
            raise InputError(f"{text!r} is not NAME or NAME*WEIGHT, such as lasot:train*0.25") from None


@dataclass(frozen=True)
class DrawnData:
    """What is drawn from training sets, how it is cut out, and how much of it."""

    train: tuple[WeightedSet, ...]
    """Training sets and their chances."""
    validation: tuple[WeightedSet, ...]
    """Sets to validate on; none: no validation."""
    sampler: Any
    """Which frames of an object are drawn."""
    processing: Any
    """How frames become tensors; validation uses ``processing.validation()``."""
    batch_size: int
    """Groups per optimiser step, over all processes."""
    samples_per_epoch: int
    """Groups per epoch; what does not fill a batch is dropped."""
    validation_samples: int
    """Groups per validation."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; give at least 1")
        if self.samples_per_epoch < self.batch_size:
            raise InputError(
                f"samples_per_epoch is {self.samples_per_epoch}, less than one batch of {self.batch_size}; give more samples "
                "or a smaller batch"
            )
        if not self.train:
            raise InputError("there is no training set; give at least one in data.train")


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    name: str
    """Beginning of their names up to a dot, e.g. ``classifier.filter_initializer``; the first group that fits takes them."""
    lr: float | None = None
    """Learning rate; None: ``OptimConfig.lr``."""


@dataclass(frozen=True)
class OptimConfig:
    """Adam and its learning rates."""

    groups: tuple[ParameterGroup, ...]
    """In the order of the published optimisers, so that their state could be taken over."""
    lr: float | None = None
    """Learning rate of the groups without their own."""
    lr_factor: float = 1.0
    """Multiplies every learning rate, e.g. for another batch size."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's running averages."""
    eps: float = 1e-8
    """Adam's ε."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) if above 0."""
    schedule: str = "step"
    """``step``: times ``step_factor`` every ``step_epochs``; ``cosine``: half a cosine to 0 over all epochs; ``constant``."""
    step_epochs: int = 15
    """``step``: epochs between two drops."""
    step_at: tuple[int, ...] = ()
    """``step``: epochs of the drops, instead of every ``step_epochs``."""
    step_factor: float = 0.2
    """``step``: factor of each drop."""
    clip_norm: float | None = None
    """Gradients longer than this (all parameters together) are scaled down to it; None: never."""

    def __post_init__(self) -> None:
        if self.schedule not in ("step", "cosine", "constant"):
            raise InputError(
                f"schedule {self.schedule!r} is unknown; {nearest_names(self.schedule, ('step', 'cosine', 'constant'))}"
            )
        without = [g.name for g in self.groups if g.lr is None]
        if without and self.lr is None:
            raise InputError(f"parameter group {without[0]!r} has no learning rate; set its own or optim.lr")
        rates = [self.lr_factor, *(r for r in (self.lr, *(g.lr for g in self.groups)) if r is not None)]
        if not all(math.isfinite(r) and r >= 0 for r in rates) or self.step_epochs < 1:
            raise InputError("learning rates must be finite and at least 0, step_epochs at least 1")

    def factor(self, epoch: float, epochs: int) -> float:
        """What the learning rates are multiplied by in ``epoch``, counted from 0, of ``epochs``."""
        if self.schedule == "step":
            drops = sum(epoch >= at for at in self.step_at) if self.step_at else int(epoch) // self.step_epochs
            return float(self.step_factor**drops)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(epoch / max(epochs, 1), 1.0)))
        return 1.0


RecipeT = TypeVar("RecipeT", bound="BaseRecipe")


@dataclass(frozen=True)
class BaseRecipe(ABC):
    """What recipes of every kind have: a network's parts that learn, and how."""

    name: str
    """Its name, e.g. ``dimp18``."""
    network: Any
    """The network."""
    objective: Any
    """What is minimised."""
    data: Any
    """What it learns from."""
    optim: OptimConfig
    """How it learns."""
    init: str = RANDOM
    """Initial weights."""
    frozen: tuple[str, ...] = ()
    """Beginnings of the names of parameters without gradient."""
    fixed_statistics: tuple[str, ...] = ()
    """Modules that stay in evaluation mode, so that their batch norms neither use nor follow the batch's statistics."""
    epochs: int = 50
    """Epochs."""
    validate_every: int = 5
    """Epochs between two validations."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.validate_every < 1:
            raise InputError(f"epochs = {self.epochs}, validate_every = {self.validate_every}; give at least 1 of each")

    @abstractmethod
    def initial_path(self) -> Path:
        """File of the initial weights, if they are not random; :class:`WeightsError` if there should be one and is none."""

    def initial_header(self) -> WeightsHeader | None:
        """What the initial weights' file says of itself; None for random weights and files without a header of ours.

        Raises :class:`WeightsError` if there should be a file and is none.
        """
        from ..weights.store import HEADER_KEY, parse_header, read_any

        if self.init == RANDOM:
            return None
        path = self.initial_path()
        found = read_any(path).metadata if path.suffix == ".safetensors" else {}
        return parse_header(found, path) if HEADER_KEY in found else None

    def train_mode(self, net: nn.Module) -> None:
        """Training mode for ``net`` with the ``fixed_statistics`` in evaluation mode; to be called after every validation."""
        net.train()
        for name in self.fixed_statistics:
            try:
                net.get_submodule(name).eval()
            except AttributeError:
                raise InputError(
                    f"fixed_statistics: the network has no module {name!r}; {nearest(net, name)}"
                ) from None

    def parameter_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        """Groups for ``torch.optim``: dictionaries with ``params``, ``lr``, ``initial_lr`` and ``name``, in the recipe's order.

        Frozen parameters are left out. Raises :class:`InputError` if a group is empty, or a parameter has no group.
        """
        found: dict[str, list[Tensor]] = {g.name: [] for g in self.optim.groups}
        for name, parameter in net.named_parameters():
            if not parameter.requires_grad:
                continue
            group = next((g.name for g in self.optim.groups if begins(name, g.name)), None)
            if group is None:
                raise InputError(f"parameter {name} is in no group of optim.groups; add one, or name it in frozen")
            found[group].append(parameter)
        groups = []
        for g in self.optim.groups:
            if not found[g.name]:
                raise InputError(f"group {g.name!r} of optim.groups has no parameters; {nearest(net, g.name)}")
            lr = self.optim.lr_factor * (g.lr if g.lr is not None else self.optim.lr or 0.0)
            groups.append({"params": found[g.name], "lr": lr, "initial_lr": lr, "name": g.name})
        return groups

    def build_optimiser(self, net: nn.Module) -> torch.optim.Optimizer:
        """Adam (AdamW with weight decay) over :meth:`parameter_groups`; the rates of epoch 0."""
        optim, groups = self.optim, self.parameter_groups(net)
        kind = torch.optim.AdamW if optim.weight_decay > 0 else torch.optim.Adam
        return kind(groups, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)

    def set_learning_rates(self, optimiser: torch.optim.Optimizer, epoch: float) -> None:
        """The rates of ``epoch``, counted from 0, by ``optim.schedule``."""
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * self.optim.factor(epoch, self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, for checkpoints and logs; :meth:`from_dict` gives an equal recipe back."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls: type[RecipeT], values: dict[str, Any]) -> RecipeT:
        """The inverse of :meth:`to_dict`; :class:`InputError` for unknown names or values of the wrong type."""
        return from_plain(cls, values)


def catalogued(init: str) -> Path:
    """A file, or the catalogue's file of this name."""
    from ..weights.catalog import find_weights

    path = Path(init).expanduser()
    return path if path.is_file() else find_weights(init)


def begins(name: str, prefix: str) -> bool:
    """Whether ``prefix`` is ``name`` or its beginning up to a dot."""
    return name == prefix or name.startswith(prefix + ".")


def nearest(net: nn.Module, name: str) -> str:
    return nearest_names(name, [n for n, _ in net.named_modules() if n and n.count(".") <= 2])
