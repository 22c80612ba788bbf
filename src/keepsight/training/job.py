"""What the loop needs to know: how a run is carried out, what is trained, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InputError, nearest_names
from .batch import Batch, Losses
from .data import VALIDATION, Source

if TYPE_CHECKING:
    from .recipe import WeightedSet
    from .recipes import AnyRecipe, AssociationRecipe, Recipe, RTSLiteRecipe, SegmentationRecipe

AMP = ("none", "bf16", "fp16")


@dataclass(frozen=True)
class LoopConfig:
    """How a run is carried out. Nothing here but ``amp`` and ``seed`` changes what is learned (beyond rounding)."""

    out: str = "runs/debug"
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in ``out``, if there is one. False: a folder with checkpoints is an error."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    amp: str = "none"
    """Autocast: none, bf16, or fp16 with a loss scaler."""
    seed: int = 0
    """Of samples, fresh weights and dropout."""
    accumulate: int = 1
    """Micro-batches of a step: less memory, same batch (norms that learn see the micro-batch)."""
    workers: int = 2
    """Processes that make samples, for each process of the run; 0: none."""
    prefetch: int = 2
    """Micro-batches that each worker keeps ready."""
    steps: int | None = None
    """Stop after this many steps of the run; None: all epochs. The schedule stays as it is."""
    log_every: int = 10
    """Steps between two records."""
    checkpoint_minutes: float = 10.0
    """Between two checkpoints inside an epoch; one is always written at an epoch's end."""
    checkpoint_steps: int | None = None
    """Steps between two checkpoints, besides."""
    keep: int = 2
    """Newest checkpoints kept."""
    keep_epochs: bool = False
    """Keep the checkpoint of every epoch too."""
    max_broken_share: float = 0.05
    """Broken draws are counted and replaced; with a larger share the run stops."""
    tensorboard: bool = True
    """Write TensorBoard's files too, where it is installed."""

    def __post_init__(self) -> None:
        if self.amp not in AMP:
            raise InputError(f"amp {self.amp!r} is unknown; {nearest_names(self.amp, AMP)}")
        least = {
            "seed": 0,
            "accumulate": 1,
            "workers": 0,
            "prefetch": 1,
            "log_every": 1,
            "keep": 1,
            "checkpoint_minutes": 0,
        }
        least |= {name: 1 for name in ("steps", "checkpoint_steps") if getattr(self, name) is not None}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {value}")


@dataclass(eq=False)
class Job:
    """What is trained: a recipe's parts, made; :func:`job_of` makes one from a recipe."""

    name: str
    """Of the recipe."""
    recipe: Mapping[str, Any]
    """All that decides the result, as JSON values; a resumed run must have the same."""
    net: nn.Module
    """With its starting weights."""
    objective: Callable[[nn.Module, Batch], Losses]
    """Means over the batch, so that equal shares can be averaged."""
    optimiser: torch.optim.Optimizer
    """Over ``net``'s parameters; its groups may have a ``name``. Parameters in no group are frozen."""
    set_learning_rates: Callable[[torch.optim.Optimizer, float], object]
    """Called before every step with the epochs done, a fraction inside an epoch."""
    train_mode: Callable[[nn.Module], object]
    """Puts ``net`` into training mode, frozen norms excepted."""
    source: Source
    batch: int
    """Samples of one step, over all processes."""
    samples_per_epoch: int
    """An incomplete last batch is left out."""
    epochs: int
    clip: float | None = None
    """Largest norm of all gradients together."""
    validation: Source | None = None
    validation_samples: int = 0
    validate_every: int = 1
    """Epochs between two validations; the last epoch is always validated."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """For the weights file: family, preset, config, licence, source."""

    def __post_init__(self) -> None:
        if self.samples_per_epoch < self.batch or self.epochs < 1 or self.validate_every < 1:
            raise InputError(
                f"{self.epochs} epochs of {self.samples_per_epoch} samples cannot be trained with batches of {self.batch}; "
                "an epoch needs at least one batch, and a run one epoch"
            )


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    folder: Path
    step: int
    """Steps done, of ``steps``."""
    steps: int
    stopped_by: int
    """Number of the signal that ended the run early (a checkpoint was written); 0: it went to its end."""
    best: float | None
    """Lowest validation loss."""
    weights: Path | None
    """The network, if the run went to its end."""


def job_of(
    recipe: AnyRecipe,
    *,
    data_root: str | Path | None = None,
    seed: int = 0,
    fresh: bool = True,
    candidates: str | Path | None = None,
) -> Job:
    """A recipe's network, optimiser and data, ready for :func:`~keepsight.training.loop.train`.

    ``data_root``: folder that holds the data sets. ``seed``: of random weights and samples. ``fresh`` False: the weights come
    from a checkpoint, so the recipe's initial ones are not looked for. ``candidates``: KeepTrack's candidate file, where the
    recipe names none; it is made if it is not there (None: made, and not kept).
    Raises :class:`InputError` and :class:`WeightsError` for data and weights that are not here.
    """
    from ..datasets.training_sets import open_training_set
    from .processing import Processing, collate_bytes
    from .recipes import AssociationRecipe, RTSLiteRecipe, SegmentationRecipe
    from .sampler import GroupSampler
    from .segmentation import MaskProcessing, MaskSampler, collate_masks

    if isinstance(recipe, AssociationRecipe):
        return _association_job(recipe, data_root, seed, candidates)
    kinds: tuple[Any, Any, Any] = (GroupSampler, Processing, collate_bytes)
    if isinstance(recipe, (SegmentationRecipe, RTSLiteRecipe)):
        kinds = (MaskSampler, MaskProcessing, collate_masks)
    draws, process, collate = kinds
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = recipe.build_network(weights=fresh)
    optimiser = recipe.build_optimiser(net)
    data = recipe.data

    def sampler(sets: tuple[WeightedSet, ...]) -> Any:
        return draws([open_training_set(s.name, data_root) for s in sets], [s.weight for s in sets], data.sampler)

    source = Source(sampler(data.train), process(data.processing), collate, seed)
    validation = None
    if data.validation:
        judged = process(data.processing.validation())
        validation = Source(sampler(data.validation), judged, collate, seed, VALIDATION)
    return Job(
        recipe.name, recipe.to_dict(), net, recipe.build_objective(), optimiser, recipe.set_learning_rates, recipe.train_mode,
        source, data.batch_size, data.samples_per_epoch, recipe.epochs, recipe.optim.clip_norm, validation,
        data.validation_samples, recipe.validate_every, weights_header(recipe),
    )  # fmt: skip


def _association_job(recipe: AssociationRecipe, root: str | Path | None, seed: int, path: str | Path | None) -> Job:
    """KeepTrack's; validation judges real pairs with all their candidates, none of them made up."""
    from .association import AssociationProcessing, CandidateSampler, collate_pairs, split
    from .candidates import build_candidates, read_candidates

    data = recipe.data
    if data.candidates:
        published = data.build.data
        found = read_candidates(data.candidates, root)
        found = found if found.data else read_candidates(data.candidates, root, published)
    else:
        found = build_candidates(data.build, path, root=root, device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = recipe.build_network()
    trained, held = split(found, data.validation_every)
    sampler: Any = CandidateSampler(trained, data.mining, data.items.slots)
    process: Any = AssociationProcessing(data.items)  # of other groups than the frames' processing
    source = Source(sampler, process, collate_pairs, seed)
    validation = None
    if held.sequences:
        judged: Any = CandidateSampler(held, data.validation_mining, None)
        as_detected: Any = AssociationProcessing(data.items, True)
        validation = Source(judged, as_detected, collate_pairs, seed, VALIDATION)
    return Job(
        recipe.name, recipe.to_dict(), net, recipe.build_objective(), recipe.build_optimiser(net), recipe.set_learning_rates,
        recipe.train_mode, source, data.batch_size, data.samples_per_epoch, recipe.epochs, recipe.optim.clip_norm, validation,
        data.validation_samples, recipe.validate_every, association_header(recipe, found.data),
    )  # fmt: skip


def association_header(recipe: AssociationRecipe, data: tuple[str, ...]) -> dict[str, Any]:
    """As :func:`weights_header`; ``config`` is that of a network without backbone, which is what the file holds."""
    from ..models.keeptrack import LITE

    preset = "keeptrack-lite" if recipe.network.backbone == LITE else "keep_track"  # of ablations, too
    config = asdict(recipe.network) | {"backbone": None}
    header: dict[str, Any] = {"family": "keeptrack", "preset": preset, "config": config}
    words = ["candidates of " + ", ".join(data), f"backbone {recipe.init}"]
    return _with_origin(header, words, recipe)


def weights_header(recipe: Recipe | SegmentationRecipe | RTSLiteRecipe) -> dict[str, Any]:
    """``family``, ``preset`` (the published network's name), ``config`` and ``source`` for the weights file, and the licence
    and the origin of the weights that training begins with, where these have a header."""
    from ..models.atom import AtomNetConfig
    from ..models.lite import LiteNetConfig
    from ..models.rts_lite import RTSLiteNetConfig
    from ..models.segmentation import LWLNetConfig
    from .recipe import RANDOM

    preset = recipe.name.removesuffix("-debug").removesuffix("_corrected")
    published = {"superdimp": "super_dimp", "superdimp_simple": "super_dimp_simple", "dimp_lite": "dimp-lite"}
    published["rts_lite"] = "rts-lite"
    preset = published.get(preset, preset)
    families = {AtomNetConfig: "atom", LiteNetConfig: "lite", RTSLiteNetConfig: "rts-lite"}
    family = "segmentation" if isinstance(recipe.network, LWLNetConfig) else families.get(type(recipe.network), "dimp")
    header: dict[str, Any] = {"family": family, "preset": preset, "config": asdict(recipe.network)}
    words = ["data " + ", ".join(s.name for s in recipe.data.train), f"began with {recipe.init}"]
    if isinstance(recipe.network, RTSLiteNetConfig):
        words[-1] = f"backbone {recipe.init}"
        if recipe.start != RANDOM:
            words.insert(1, f"went on from {Path(recipe.start).name}")
    return _with_origin(header, words, recipe)


def _with_origin(header: dict[str, Any], words: list[str], recipe: AnyRecipe) -> dict[str, Any]:
    """``header`` with its source in ``words``, and what the file that training begins with says of itself."""
    from ..errors import WeightsError

    with suppress(WeightsError):  # whoever needs the file says that it is not there
        start = recipe.initial_header()
        if start is not None:
            header["licence"] = start.licence
            words[-1] += f" ({start.source})"
    return {**header, "source": "; ".join(words)}
