"""What every tracker is started with: boxes and masks of several targets, in lists and in arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import FRAME, MASK, rectangle, small_lwl, target_of

import keepsight as ks

BOXES = [(60.0, 40.0, 24.0, 20.0), (10.0, 70.0, 30.0, 20.0)]
MASKS = [MASK, rectangle(10, 70, 30, 20)]
OF_BOXES = {
    "tuple": tuple, "array": np.array, "integers": lambda b: np.array(b, np.int32), "tensor": torch.tensor,
    "rows": lambda b: [torch.tensor(r) for r in b],
}  # fmt: skip
OF_MASKS = {
    "array": np.stack, "bytes": lambda m: np.stack(m).astype(np.uint8) * 255, "tuple": tuple,
    "tensor": lambda m: torch.from_numpy(np.stack(m)), "byte tensor": lambda m: torch.from_numpy(np.stack(m)).byte(),
    "rows": lambda m: [torch.from_numpy(r) for r in m],
}  # fmt: skip


def started(**given):
    """The tracker of masks after ``init``."""
    tracker = small_lwl(sample_size=(32, 48))
    tracker.init(FRAME, **given)
    return tracker


def same(a, b) -> bool:
    """Whether two trackers remember the same of their two targets."""
    assert a.target_count == b.target_count == 2
    pairs = [(target_of(a, i), target_of(b, i)) for i in (0, 1)]
    return all(
        (s.pos, s.size) == (t.pos, t.size)
        and torch.equal(s.filter, t.filter)
        and torch.equal(s.probability, t.probability)
        for s, t in pairs
    )


@pytest.mark.parametrize("form", OF_BOXES)
def test_boxes_in_any_form(form):
    assert same(started(boxes=OF_BOXES[form](BOXES)), started(boxes=BOXES))


@pytest.mark.parametrize("form", OF_MASKS)
def test_masks_in_any_form(form):
    masks = OF_MASKS[form](MASKS)
    found = started(masks=masks)
    assert same(found, started(masks=MASKS))
    for map_, mask in zip(found.probabilities(), MASKS, strict=True):
        assert np.array_equal(map_ > 0.5, mask)


def test_boxes_and_masks_in_arrays_together_and_later():
    known = started(boxes=BOXES, masks=MASKS)
    assert same(started(boxes=np.array(BOXES), masks=np.stack(MASKS)), known)
    assert same(started(boxes=torch.tensor(BOXES), masks=torch.from_numpy(np.stack(MASKS))), known)
    for given in ({"boxes": np.array(BOXES[1:])}, {"masks": np.stack(MASKS[1:])}):
        later, listed = started(mask=MASK), started(mask=MASK)
        later.add(FRAME, **given)
        listed.add(FRAME, **{k: list(v) for k, v in given.items()})
        assert same(later, listed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boxes": np.zeros((0, 4))}, "is empty"),
        ({"boxes": torch.zeros(0, 4)}, "is empty"),
        ({"masks": np.zeros((0, 120, 160), bool)}, "is empty"),
        ({"masks": torch.zeros(0, 120, 160)}, "is empty"),
        ({"boxes": np.array(BOXES), "masks": np.stack(MASKS[:1])}, "2 boxes and 1 masks"),
        ({"boxes": np.array(BOXES)[:, :3]}, "3 values"),
        ({"boxes": np.array([[np.nan, 1, 5, 5]])}, "finite"),
        ({"masks": np.stack(MASKS).astype(np.float32)}, "float32"),
        ({"masks": np.stack((MASK, np.zeros_like(MASK)))}, "empty"),
        ({"box": np.array(BOXES[0]), "masks": np.stack(MASKS)}, "give either"),
    ],
)
def test_arrays_that_cannot_be_used(given, message):
    tracker = small_lwl(sample_size=(32, 48))
    with pytest.raises(ks.InputError, match=message):
        tracker.init(FRAME, **given)
    assert tracker.target_count == 0
