"""Every recipe's debug variant learns: the whole pipeline, from drawn video to the optimiser, in CI's size.

The loss of single batches is too noisy after so few steps, so it is judged on groups that are fixed in advance and never
trained on, the same ones before and after. The networks are judged as they train, with the batch's statistics: those that they
collect would change the loss even if nothing were learned.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from keepsight.training.association import CandidateSampler
from keepsight.training.batch import Batch
from keepsight.training.data import Draw
from keepsight.training.job import Job, LoopConfig, job_of
from keepsight.training.loop import train
from keepsight.training.recipes import (
    AnyRecipe,
    AssociationRecipe,
    find_recipe,
    override,
    recipe_names,
)

GROUPS = 16
STEPS = {"dimp_lite": 30, "atom": 30, "atom_paper": 30, "atom_gmm_sampl": 30, "atom_block4": 30}
"""Steps of four groups; of the others 12. The overlap regression gets worse before it gets better."""
GENTLE = ("dimp18", "dimp50", "superdimp", "superdimp_simple")
"""With the hinge loss the debug variants' threefold rates are made for their 60 steps; here the published ones fall steadily."""
FEW_CANDIDATES = ("data.build.sequences=6", "data.build.frames=24")
"""For KeepTrack's: the base tracker's part is most of the time."""
LEAST_FALL = 0.02
"""Share by which the loss must fall. Measured with two seeds: at least 0.04, and mostly 0.1 to 0.6."""


@dataclass(frozen=True)
class Learned:
    """Mean losses on the fixed groups, ``total`` and the parts by their first words, before and after training."""

    before: dict[str, float]
    after: dict[str, float]


def learn(recipe: AnyRecipe, steps: int, seed: int = 0) -> Learned:
    """Train with the real loop on the recipe's own data."""
    job = job_of(recipe, seed=seed)
    groups = held_out(job, recipe)
    before = judge(job, groups)
    with TemporaryDirectory() as out:
        unjudged = replace(job, validation=None)
        train(unjudged, LoopConfig(out=out, device="cpu", workers=0, seed=seed, steps=steps, tensorboard=False))
        assert (Path(out) / f"{recipe.name}.safetensors").is_file()
    return Learned(before, judge(job, groups))


def held_out(job: Job, recipe: AnyRecipe) -> list[Batch]:
    assert job.validation is not None
    source = replace(job.validation, process=job.source.process)
    if isinstance(recipe, AssociationRecipe):  # drawn as for training, from the sequences held out
        sampler = CandidateSampler(job.validation.sampler.found, recipe.data.mining, recipe.data.items.slots)
        source = replace(source, sampler=sampler)
    samples = [source.sample(Draw(0, i)).sample for i in range(GROUPS)]
    return [source.collate(samples[i : i + job.batch]).as_floats() for i in range(0, GROUPS, job.batch)]


def judge(job: Job, groups: list[Batch]) -> dict[str, float]:
    net: nn.Module = copy.deepcopy(job.net)  # whose norms may collect what they see
    job.train_mode(net)
    sums: Counter[str] = Counter()
    with torch.no_grad():
        for batch in groups:
            losses = job.objective(net, batch)
            sums["total"] += float(losses.total) / len(groups)
            for name, value in losses.parts.items():
                sums[name.partition("_")[0]] += float(value) / len(groups)
    return dict(sums)


@cache
def learned(recipe: AnyRecipe, steps: int) -> Learned:
    return learn(recipe, steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_lowers_its_loss(name):
    recipe = override(find_recipe(f"{name}-debug"), ["optim.lr_factor=1"] if name in GENTLE else [])
    # atom and atom_paper differ in their data sets alone, which the debug variant exchanges
    found = learned(replace(recipe, name="debug"), STEPS.get(name, 12))
    assert found.after["total"] < (1 - LEAST_FALL) * found.before["total"], found
    if getattr(recipe.objective, "box_loss", "kl") == "kl":  # else it is too early to tell
        assert found.after["box"] < found.before["box"], found


@pytest.mark.slow
def test_the_matcher_lowers_its_loss():
    """KeepTrack's debug variant."""
    found = learned(override(find_recipe("keeptrack-debug"), FEW_CANDIDATES), 12)
    # measured with three seeds: it falls by 0.34 to 0.56, all of it by candidates without partner, which are learned first
    assert found.after["total"] < 0.85 * found.before["total"], found


def test_without_learning_rates_nothing_falls():
    """The judgement above can fail."""
    still = override(find_recipe("prdimp18-debug"), ["optim.lr_factor=0"])
    found = learn(still, 2)
    assert found.after == pytest.approx(found.before, rel=1e-6)
