"""The stream of samples: the same whatever the workers, processes and interruptions; broken data are counted."""

import os
import signal
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from training_job import Squares, ToTensors, collate

from keepsight.errors import InputError
from keepsight.training.data import VALIDATION, Draw, Shares, Source, Stream, TrainingError


def source(seed=0, purpose=0, sampler=None, **process) -> Source:
    return Source(sampler or Squares(), ToTensors(**process), collate, seed, purpose)


def micros(given, shares, first=0, last=4, per_epoch=2, **options):
    return list(Stream(given, shares, per_epoch, first, last, **options))


def images(found) -> torch.Tensor:
    return torch.cat([batch.test_images[0] for batch, _ in found])  # (samples, 3, H, W)


def test_workers_change_nothing():
    alone, helped = (micros(source(), Shares(4), workers=w) for w in (0, 2))
    assert torch.equal(images(alone), images(helped))
    assert [b.identities for b, _ in alone] == [b.identities for b, _ in helped]
    assert len({tuple(b.identities) for b, _ in alone}) == 4  # epochs differ


def test_processes_see_together_what_one_sees():
    whole = [b.test_images[0] for b, _ in micros(source(), Shares(8))]
    first, second = ([b.test_images[0] for b, _ in micros(source(), Shares(8, 2, rank))] for rank in (0, 1))
    for step in range(4):
        assert torch.equal(whole[step], torch.cat([first[step], second[step]]))


def test_accumulation_and_processes_cut_a_step_into_runs():
    shares = [Shares(12, 2, rank, 3) for rank in (0, 1)]
    assert {s.micro for s in shares} == {2}
    found = [s.draws(epoch=5, step=2) for s in shares]
    order = [d for a in range(3) for rank in (0, 1) for d in found[rank][a]]
    assert order == [Draw(5, i) for i in range(24, 36)]


def test_goes_on_in_the_middle_of_an_epoch():
    assert torch.equal(images(micros(source(), Shares(4), 0, 6, 3))[16:], images(micros(source(), Shares(4), 4, 6, 3)))


def test_seeds_epochs_and_purposes_differ():
    def drawn(given, epoch):
        return given.rng(Draw(epoch, 3)).integers(2**60)

    assert drawn(source(), 0) == drawn(source(), 0)
    assert len({drawn(source(), 0), drawn(source(), 1), drawn(source(1), 0), drawn(source(purpose=VALIDATION), 0)}) == 4
    assert drawn(source(purpose=VALIDATION), 0) == drawn(source(purpose=VALIDATION), 9)  # always the same samples


@pytest.mark.parametrize(("batch", "ranks", "accumulate"), [(10, 4, 1), (8, 2, 3), (0, 1, 1), (3, 1, 4)])
def test_unequal_shares_are_refused(batch, ranks, accumulate):
    with pytest.raises(InputError, match="cannot be shared equally"):
        Shares(batch, ranks, 0, accumulate)


def test_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -1"):
        source(-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_draws_are_replaced_and_told(workers):
    stream = Stream(source(sampler=Squares(broken=0.2)), Shares(8), 2, 0, 4, workers=workers, max_broken_share=0.5)
    found = list(stream)
    notes = [n for _, told in found for n in told]
    assert stream.broken == len(notes) > 0
    assert all("of epoch" in n and "VideoError" in n and "cut off" in n for n in notes)
    again = micros(source(sampler=Squares(broken=0.2)), Shares(8), max_broken_share=0.5)
    assert torch.equal(images(found), images(again))  # replacements are part of the order


def test_too_many_broken_draws_stop():
    with pytest.raises(TrainingError, match=r"draws were broken, more than 5%.*cut off"):
        micros(source(sampler=Squares(broken=0.3)), Shares(8), 0, 50, 50)


def test_broken_throughout_stops():
    with pytest.raises(TrainingError, match=r"10 draws in a row were broken.*cut off"):
        micros(source(sampler=Squares(broken=1.0)), Shares(2))


@pytest.mark.parametrize("workers", [0, 1])
def test_mistakes_in_code_stop_and_name_the_sample(workers):
    with pytest.raises(
        TrainingError, match=r"(?s)sample 0 of epoch 0 \(squares/\d+\) cannot be made.*a mistake in code"
    ):
        micros(source(mistake=True), Shares(2), workers=workers)


def unequal(samples):
    return torch.stack([torch.zeros(i + 1) for i, _ in enumerate(samples)])


def test_samples_that_do_not_fit_together_are_named():
    given = Source(Squares(), ToTensors(), unequal)
    with pytest.raises(TrainingError, match=r"(?s)sample 0 of epoch 0, sample 1 of epoch 0 cannot be put together"):
        micros(given, Shares(2))


@dataclass
class Dies:
    def draw(self, rng):
        os.kill(os.getpid(), signal.SIGKILL)


def test_dead_workers_are_an_error():
    with pytest.raises(TrainingError, match=r"(?s)a data worker died.*--workers"):
        micros(source(sampler=Dies()), Shares(2), workers=1)


@dataclass
class PassesOver(Squares):
    skipped: Counter = field(default_factory=Counter)

    def draw(self, rng: np.random.Generator):
        self.skipped["squares: too short"] += 2
        self.skipped["squares: broken"] += int(rng.random() < 0.3)
        return super().draw(rng)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_sampler_passes_over_is_counted(workers):
    stream = Stream(source(sampler=PassesOver()), Shares(4), 2, 0, 4, workers=workers, max_broken_share=1.0)
    list(stream)
    counts = stream.counts()
    assert counts["squares: too short"] == 32
    assert 0 < counts["broken"] == counts["squares: broken"] < 16


def test_workers_spend_their_time_decoding(tmp_path):
    """Of a worker's processor time for 720p video, at least 70 % is reading frames (benchmarks/training.py: 84 to 90 %)."""
    import time
    from multiprocessing.reduction import ForkingPickler

    import cv2

    from keepsight.datasets.training_sets import open_training_set
    from keepsight.training.processing import Processing, collate_bytes
    from keepsight.training.recipes import find_recipe
    from keepsight.training.sampler import GroupSampler

    scene = cv2.resize(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8), (1280, 720))
    scene += np.random.default_rng(1).integers(0, 9, scene.shape, dtype=np.uint8)
    (tmp_path / "one" / "img").mkdir(parents=True)
    for f in range(24):
        cv2.imwrite(str(tmp_path / "one" / "img" / f"{f + 1:05d}.jpg"), np.roll(scene, f, 1))
    np.savetxt(tmp_path / "one" / "groundtruth.txt", [(400, 250, 120, 160)] * 24, fmt="%g", delimiter=",")
    recipe = find_recipe("dimp18")
    sampler = GroupSampler([open_training_set(f"folder:{tmp_path}", None)], None, recipe.data.sampler)
    process = Processing(recipe.data.processing)

    def share() -> float:
        rngs = [np.random.default_rng([0, k]) for k in range(8)]
        began = time.process_time()
        groups = [sampler.draw(rng) for rng in rngs]
        decoded = time.process_time()
        ForkingPickler.dumps(collate_bytes([process(g, rng) for g, rng in zip(groups, rngs, strict=True)]))
        return (decoded - began) / (time.process_time() - began)

    assert max(share() for _ in range(3)) > 0.7
