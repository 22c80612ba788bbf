"""The sample memory with and without confidence: what is replaced, what a sample weighs, what is erased."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from keepsight.errors import InputError
from keepsight.nn.correlation import Samples
from keepsight.online.memory import MemoryConfig, SampleMemory, next_weights
from keepsight.online.snapshot import pack, unpack

INITIAL = 2


def memory(size: int = 5, threshold: float | None = 0.5, **config) -> SampleMemory:
    first = Samples(torch.zeros(1, INITIAL, 1, 1), (1, 1))
    return SampleMemory.start(
        MemoryConfig(size, confidence_threshold=threshold, **config), first, torch.zeros(INITIAL, 1, 4)
    )


def insert(store: SampleMemory, *confidences: float, hard: bool = False) -> list[int]:
    return [
        store.insert(torch.full((1, 1), c), torch.zeros(1, 4), hard_negative=hard, confidence=c) for c in confidences
    ]


def test_first_frame_is_certain():
    assert memory().confidence.tolist() == [1, 1, 0, 0, 0]
    assert memory(threshold=None).confidence is None


def test_weights_are_age_times_confidence():
    store = memory()
    insert(store, 0.8, 1.2)
    _, _, weights = store.filled()
    want = store.weights[:4] * [1, 1, 0.8, 1.2]  # not limited to 1
    assert torch.allclose(weights, torch.tensor(want, dtype=torch.float32)[:, None])
    assert store.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("confidence", "kept"), [(0.4975, 0.0), (0.5, 0.5), (0.5025, 0.5025), (float("nan"), 0.0), (-1.0, 0.0)]
)
def test_below_the_threshold_a_sample_weighs_nothing_for_good(confidence, kept):
    store = memory()
    slot = insert(store, confidence)[0]
    assert store.confidence[slot] == kept
    insert(store, 0.9)
    assert float(store.filled()[2][slot]) == pytest.approx(kept * store.weights[slot])


def test_paper_ignores_unsure_samples_but_remembers_how_unsure():
    store = memory(min_init_weight=0.0, erase_low_confidence=False)
    assert insert(store, 0.45, 0.1, 0.9) == [2, 3, 4]
    assert store.confidence[2:].tolist() == [0.45, 0.1, 0.9]
    assert store.filled()[2][2:4].tolist() == [[0.0], [0.0]], "below the threshold they weigh nothing"
    assert insert(store, 0.9) == [3], "the least certain goes, not the first of the unsure"
    assert memory(min_init_weight=0.0).config.erase_low_confidence, "the published rule is another"


def test_paper_may_replace_the_first_frame_s_samples():
    store = memory(min_init_weight=0.0, erase_low_confidence=False)
    assert min(insert(store, *[0.9] * 1000)) < INITIAL


def test_nan_confidence_is_none_at_all():
    store = memory(min_init_weight=0.0, erase_low_confidence=False)
    assert store.confidence[insert(store, float("nan"))[0]] == 0


def test_least_by_age_and_confidence_is_replaced():
    store = memory()
    assert insert(store, 0.9, 0.6, 0.9) == [2, 3, 4]
    assert insert(store, 0.9) == [3], "not the oldest: the least certain"
    assert insert(store, 0.9) == [2], "then the oldest"


def test_unsure_samples_go_first_and_the_first_of_them_first():
    store = memory()
    insert(store, 0.9, 0.3, 0.2)
    assert insert(store, 0.9) == [3]
    assert insert(store, 0.9) == [4]


def test_first_frame_s_samples_stay():
    store = memory()
    slots = insert(store, *[5.0] * 60)
    assert min(slots) == INITIAL
    assert store.confidence[:INITIAL].tolist() == [1, 1]
    assert store.weights[:INITIAL].sum() >= 0.2475


def test_a_sample_that_replaces_the_last_one_keeps_its_weight():
    store = memory()
    insert(store, 0.9, 0.9, 0.3)  # slot 4 was written last and counts least
    before = store.weights.copy()
    assert insert(store, 0.8) == [4]
    assert np.allclose(store.weights, before)
    assert store.confidence[4] == 0.8


def test_without_confidence_it_grows_in_weight_as_published_for_dimp():
    weights, slot = next_weights(np.array([0.5, 0.5]), 2, 1, 1, 0.1, 0.25)
    assert slot == 1
    assert weights[1] > weights[0]
    same, slot = next_weights(np.array([0.5, 0.5]), 2, 1, 1, 0.1, 0.25, confidence=np.ones(2))
    assert slot == 1
    assert same.tolist() == [0.5, 0.5]


def test_hard_negatives_weigh_more():
    soft, hard = memory(), memory()
    insert(soft, 0.9)
    insert(hard, 0.9, hard=True)
    assert hard.weights[2] / soft.weights[2] == pytest.approx((0.02 / (1 / 0.98 + 0.02)) / (0.01 / (1 / 0.99 + 0.01)))


@pytest.mark.parametrize("size", [INITIAL + 2, 9])
def test_full_confidence_is_plain_dimp(size):
    plain, certain = memory(size, None), memory(size)
    for i in range(30):
        hard = i % 7 == 3
        assert insert(plain, 0.1, hard=hard) == insert(certain, 1.0, hard=hard)
        assert np.array_equal(plain.weights, certain.weights)
        assert torch.equal(plain.filled()[2], certain.filled()[2])


def test_the_weights_given_are_not_changed():
    weights = np.array([0.4, 0.3, 0.3])
    next_weights(weights, 3, 1, 2, 0.01, 0.25, confidence=np.array([1.0, 0.9, 0.8]))
    assert weights.tolist() == [0.4, 0.3, 0.3]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_is_checked(threshold):
    with pytest.raises(InputError, match="confidence_threshold"):
        MemoryConfig(confidence_threshold=threshold)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_memory_can_be_saved(threshold):
    store = memory(threshold=threshold)
    insert(store, 0.9, 0.3)
    tensors = {}
    text = json.dumps(pack(store, tensors))
    again = unpack(json.loads(text), tensors, SampleMemory, torch.device("cpu"))
    for c in (0.7, 0.6, 0.9, 0.8):
        assert insert(store, c) == insert(again, c)
    assert torch.equal(store.filled()[2], again.filled()[2])
