"""``keepsight train``: find the recipe, change it, run the loop."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest_names
from .console import complain, say, tell
from .signals import StopSignals

if TYPE_CHECKING:
    from ..training.logs import Status
    from ..training.recipes import AssociationRecipe
    from . import Train

LIST = "list"
STAGES = ("network", "candidates")
CANDIDATE_FILE = "candidates.json"
NEWS_SECONDS = 30.0  # between two lines of progress where there is no terminal


def train(command: Train) -> int:
    from ..training.recipes import (
        DEBUG,
        AssociationRecipe,
        association_recipe_names,
        debug,
        find_recipe,
        override,
        recipe_names,
        rts_lite_recipe_names,
        segmentation_recipe_names,
    )

    if command.recipe == LIST:
        kinds = (recipe_names, association_recipe_names, segmentation_recipe_names, rts_lite_recipe_names)
        for name in (n for names in kinds for n in names()):
            say(name)
        return 0
    recipe = find_recipe(command.recipe)
    if command.debug and not recipe.name.endswith(DEBUG):
        recipe = debug(recipe)
    recipe = override(recipe, command.set)
    if command.stage not in STAGES:
        raise InputError(f"no stage {command.stage!r}; {nearest_names(command.stage, STAGES)}")
    pairs = isinstance(recipe, AssociationRecipe)
    given = [n for n in ("tracker", "weights", "data", "sequences") if getattr(command, n) not in (None, ())]
    if command.stage == "candidates":
        if not isinstance(recipe, AssociationRecipe):
            names = ", ".join(association_recipe_names())
            raise InputError(f"{recipe.name} has no stage 'candidates'; {names} have")
        recipe = with_build(recipe, {name: getattr(command, name) for name in given} | {"seed": command.seed})
    elif given:
        raise InputError(
            f"--{given[0]} is for --stage candidates; for the training itself use --set (--show has the names)"
        )
    if command.show:
        for path, value in flat(recipe.to_dict()):
            say(f"{path} = {json.dumps(value)}")
        return 0

    if command.stage == "candidates" and isinstance(recipe, AssociationRecipe):
        return candidates(recipe, command)

    from ..training import loop
    from ..training.checkpoint import list_checkpoints
    from ..training.job import LoopConfig, job_of

    config = LoopConfig(
        out=command.out or f"runs/{recipe.name}", resume=command.resume, device=command.device, amp=command.amp,
        seed=command.seed, accumulate=command.accumulate, workers=command.workers, steps=command.steps,
        log_every=command.log_every, checkpoint_minutes=command.checkpoint_minutes, keep_epochs=command.keep_epochs,
    )  # fmt: skip
    goes_on = command.resume and bool(list_checkpoints(loop.checkpoints_of(config.out)))
    options: dict[str, Any] = {"candidates": os.path.join(config.out, CANDIDATE_FILE)} if pairs else {}
    job = job_of(recipe, data_root=command.data_root, seed=command.seed, fresh=not goes_on, **options)
    is_first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    with TrainProgress(recipe.name, quiet=command.quiet or not is_first) as progress, StopSignals() as signals:
        outcome = loop.train(job, config, stop=lambda: signals.received, progress=progress)
    if outcome.stopped_by:
        if is_first:
            complain(
                f"stopped after step {outcome.step} of {outcome.steps}; the same command with --resume goes on from there"
            )
        return 128 + outcome.stopped_by
    if is_first:
        best = "" if outcome.best is None else f", lowest validation loss {outcome.best:.5g} (best.safetensors)"
        say(f"wrote {outcome.weights}: {outcome.step} steps{best}")
    return 0


def with_build(recipe: AssociationRecipe, changes: dict[str, Any]) -> AssociationRecipe:
    """The recipe with other settings of the stage ``candidates``."""
    return replace(recipe, data=replace(recipe.data, build=replace(recipe.data.build, **changes)))


def candidates(recipe: AssociationRecipe, command: Train) -> int:
    """Stage ``candidates``: track, and write one file."""
    from ..training.candidates import build_candidates

    path = command.out or f"runs/{recipe.name}/{CANDIDATE_FILE}"
    if not path.endswith(".json"):
        raise InputError(f"--out is {path!r}; for --stage candidates give a .json file")
    told = -NEWS_SECONDS

    def news(done: int, of: int, name: str) -> None:
        nonlocal told
        if not command.quiet and (time.monotonic() - told >= NEWS_SECONDS or done == of):
            tell(f"candidates: sequence {done} of {of} ({name})")
            told = time.monotonic()

    with StopSignals() as signals:
        found = build_candidates(
            recipe.data.build,
            path,
            root=command.data_root,
            device=command.device,
            progress=news,
            stop=lambda: signals.received,
        )
        if signals.received:
            complain(f"stopped; {path} has {len(found.sequences)} sequences, and the same command goes on from there")
            return 128 + signals.received
    counted = ", ".join(f"{name} {count}" for name, count in found.counts().items())
    say(f"wrote {path}: {len(found.sequences)} sequences; frames and pairs of each category: {counted}")
    return 0


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every single value with the path that ``--set`` takes."""
    if isinstance(value, dict):
        below = [flat(v, f"{path}.{k}" if path else k) for k, v in value.items() if k != "class"]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        below = [flat(v, f"{path}.{i}") for i, v in enumerate(value)]
    else:
        return [(path, value)]
    return [pair for part in below for pair in part]


class TrainProgress:
    """Steps, losses, speed and remaining time: a bar on a terminal, else a line now and then; on standard error."""

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._name, self._quiet = name, quiet
        self._bar: Any = None
        self._told = -NEWS_SECONDS

    def __enter__(self) -> TrainProgress:
        if self._console.is_terminal and not self._quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = TextColumn(self._name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
            self._bar = Progress(*columns, console=self._console, redirect_stdout=False)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, status: Status) -> None:
        words = describe(status)
        if self._bar is not None:
            self._bar.update(self._task, completed=status.step, total=status.steps, description=words)
        elif not self._quiet and (time.monotonic() - self._told >= NEWS_SECONDS or status.step == status.steps):
            tell(f"{self._name}: step {status.step} of {status.steps}, {words}")
            self._told = time.monotonic()


def describe(status: Status) -> str:
    """``epoch 2/50, loss 0.123, 84 samples/s, 3 % waiting for data, 4:05 left``."""
    if status.note:
        return f"epoch {status.epoch}/{status.epochs}, {status.note}"
    words = [f"epoch {status.epoch}/{status.epochs}"]
    if "total" in status.losses:
        words.append(f"loss {status.losses['total']:.4g}")
    words.append(f"{status.samples_per_second:.3g} samples/s")
    words.append(f"{100 * status.wait_share:.0f} % waiting for data")
    if status.seconds_left < float("inf"):
        words.append(f"{clock(status.seconds_left)} left")
    return ", ".join(words)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
