"""The loops: what a tracker is shown, in which order, and what is kept of its answers."""

from __future__ import annotations

import time

import numpy as np
import pytest
from running import Scripted, pictures, sequence

from keepsight.datasets.frames import ArrayFrames
from keepsight.errors import InputError
from keepsight.evaluation.entrants import Answer, Entrant
from keepsight.evaluation.protocols import (
    MaskArrays,
    first_frames,
    run_longterm,
    run_multistart,
    run_ope,
    run_supervised,
    run_vos,
)
from keepsight.regions import Rectangle, Special


class Watcher(Entrant):
    """Answers with the square's true column, read from the picture; keeps what it was shown."""

    name = "watcher"

    def __init__(self):
        self.seen, self.inits = [], []

    def init(self, frame, box, *, seed=0):
        self.seen.append(column(frame))
        self.inits.append(box)

    def update(self, frame):
        self.seen.append(column(frame))
        return Answer((float(column(frame)), 16.0, 14.0, 14.0))


def column(frame: np.ndarray) -> int:
    return int(np.flatnonzero((frame > 100).all(axis=2).any(axis=0))[0])


def test_ope_starts_with_the_first_box_and_times_leave_reading_out():
    class SlowFrames(ArrayFrames):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    one = sequence(count=6)
    object.__setattr__(one, "frames", SlowFrames(one.frames.images))
    watcher = Watcher()
    run = run_ope(watcher, one)
    assert watcher.inits == [one.first_box]
    np.testing.assert_array_equal(run.boxes, one.boxes)
    assert run.presence is None
    assert run.lost is None
    assert run.seconds.shape == (6,)
    assert np.nanmax(run.seconds) < 0.015


def test_own_time_of_the_tracker_counts():
    answers = [Answer((1, 1, 5, 5), seconds=7.0), Answer((2, 2, 5, 5), seconds=8.0)]
    assert run_ope(Scripted(answers), sequence(count=3)).seconds.tolist()[1:] == [7.0, 8.0]


def test_presence_and_lost_are_kept_with_nan_where_nothing_was_said():
    answers = [Answer((1, 1, 5, 5), presence=0.25, lost=True), Answer((2, 2, 5, 5), lost=False)]
    run = run_ope(Scripted(answers), sequence(count=3))
    np.testing.assert_array_equal(run.presence, [np.nan, 0.25, np.nan])
    assert run.lost.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Answer((1, 1, 5, 5), presence=0.25, lost=True), Answer((1, 1, 5, 5), presence=0.5)], [np.nan, 0.25, 0.5]),
        ([Answer((1, 1, 5, 5), lost=True), Answer((1, 1, 5, 5), lost=False)], [np.nan, 0, 1]),
        ([(1, 1, 5, 5), (1, 1, 5, 5)], [np.nan, 1, 1]),
    ],
)
def test_longterm_has_a_confidence_in_every_frame(answers, expected):
    np.testing.assert_array_equal(run_longterm(Scripted(answers), sequence(count=3)).presence, expected)


def test_a_first_frame_without_a_box_is_an_error():
    boxes = pictures(4)[1]
    boxes[0] = np.nan
    with pytest.raises(InputError, match="made/one"):
        run_ope(Watcher(), sequence(count=4, boxes=boxes))


def test_supervised_restarts_five_frames_after_a_failure():
    one = sequence(count=14)
    far = (60.0, 1.0, 3.0, 3.0)
    good = one.boxes
    answers = [good[1], good[2], far, *good[9:14]]  # fails at 3, starts again at 8
    tracker = Scripted(answers)
    run = run_supervised(tracker, one)
    codes = [r.code if isinstance(r, Special) else None for r in run.regions]
    assert codes == [1, None, None, 2, 0, 0, 0, 0, 1, None, None, None, None, None]
    assert [box for box, _ in tracker.started] == [tuple(good[0]), tuple(good[8])]
    assert run.regions[9] == Rectangle(*good[9])
    assert np.isnan(run.boxes[[0, 3, 4, 8]]).all()
    np.testing.assert_array_equal(run.boxes[1], good[1])


def test_supervised_failure_near_the_end_is_not_followed_by_a_start():
    one = sequence(count=6)
    tracker = Scripted([one.boxes[1], (60, 1, 3, 3)])
    run = run_supervised(tracker, one)
    assert [r.code if isinstance(r, Special) else None for r in run.regions] == [1, None, 2, 0, 0, 0]
    assert tracker.answers == []


def test_multistart_goes_forward_and_backward_from_the_anchors():
    anchors = np.array([1, 0, 0, -1, 0, 0])
    one = sequence(count=6, anchors=anchors)
    watcher = Watcher()
    forward, backward = run_multistart(watcher, one)
    x = one.boxes[:, 0].astype(int).tolist()
    assert watcher.seen == [*x, x[3], x[2], x[1], x[0]]
    assert (forward.anchor, backward.anchor) == (0, 3)
    assert forward.regions[0] == backward.regions[0] == Special(1)
    assert len(forward.regions) == 6
    assert [r.x for r in backward.regions[1:]] == x[2::-1]


def test_multistart_needs_anchors():
    with pytest.raises(InputError, match="no anchors"):
        run_multistart(Watcher(), sequence())


class Painter(Watcher):
    """Answers with the masks it was given, moved with the square; keeps which boxes it was given, and when."""

    gives_masks = True

    def init(self, frame, box, *, seed=0):
        raise AssertionError("masks are to be given")

    def begin(self, frame, boxes, masks, *, seed=0):
        self.things, self.started = [], []
        self.join(frame, boxes, masks)

    def join(self, frame, boxes, masks):
        self.started.append((column(frame), [tuple(b) for b in boxes]))
        self.things += [(m, column(frame)) for m in masks]

    def follow(self, frame):
        at = column(frame)
        return [Answer((float(at), 1.0, 2.0, 3.0), mask=np.roll(m, at - x, axis=1)) for m, x in self.things]


def painted():
    ids = [np.zeros((48, 64), np.uint8) for _ in range(5)]
    ids[1][18:24, 6:12] = 1
    ids[1][30:34, 40:46] = 4
    ids[3][16:22, 8:14] = 2  # overlaps object 1 as it will be then (moved by 4)
    return ids


def test_vos_follows_all_objects_at_once_and_starts_late_ones_late():
    one = sequence(count=5, masks=MaskArrays(painted()), objects=(1, 2, 4), first_seen={1: 1, 2: 3, 4: 1})
    painter = Painter()
    run = run_vos(painter, one)
    assert len(run.masks) == 5
    assert not run.masks[0].any()  # nothing has begun yet
    assert set(np.unique(run.masks[2])) == {0, 1, 4}
    assert (run.masks[3][16:22, 8:14] == 2).all()  # a new object has all pixels of its mask
    assert run.masks[3][23, 10] == 1
    assert run.masks[4][16, 10] == 2
    assert (run.masks[4][18:24, 12:18] == 1).all()  # later the one that came first has what two claim
    x = one.boxes[:, 0].tolist()
    # quirk Q15: a pixel less wide and high than the mask
    assert painter.started == [(x[1], [(6, 18, 5, 5), (40, 30, 5, 3)]), (x[3], [(8, 16, 5, 5)])]
    np.testing.assert_array_equal(run.boxes[:3], [[np.nan] * 4, [6, 18, 5, 5], [x[2], 1, 2, 3]])


def test_vos_leaves_out_objects_that_never_have_a_pixel_and_names_masks_that_are_missing():
    masks = MaskArrays(painted())
    run = run_vos(Painter(), sequence(count=5, masks=masks, objects=(1, 3), first_seen={1: 1}))
    assert set(np.unique(run.masks[4])) == {0, 1}
    with pytest.raises(InputError, match="made/one, frame 1: an object's mask is empty"):
        run_vos(Painter(), sequence(count=5, masks=masks, objects=(2,), first_seen={2: 1}))
    absent = MaskArrays([None, *painted()[1:]])
    with pytest.raises(InputError, match=r"objects \[1\] have no mask .* in frame 0"):
        run_vos(Painter(), sequence(count=5, masks=absent, objects=(1,)))


def test_vos_refuses_masks_of_another_size():
    class Wrong(Painter):
        def follow(self, frame):
            return [Answer(a.box, mask=a.mask[:5]) for a in super().follow(frame)]

    with pytest.raises(InputError, match=r"no mask of shape \(48, 64\) from watcher in frame 2 of one"):
        run_vos(Wrong(), sequence(count=5, masks=MaskArrays(painted()), objects=(1,), first_seen={1: 1}))


def test_vos_refuses_trackers_without_masks():
    one = sequence(masks=MaskArrays([np.ones((48, 64), np.uint8)] * 8), objects=(1,))
    with pytest.raises(InputError, match="boxes only"):
        run_vos(Watcher(), one)


def test_first_frames_cuts_frames_and_annotation():
    one = sequence(count=8, visible=np.arange(8) % 2 == 0, tags={"occlusion": np.ones(8, bool)}, anchors=np.arange(8))
    cut = first_frames(one, 3)
    assert len(cut) == len(cut.boxes) == len(cut.annotation.visible) == len(cut.annotation.tags["occlusion"]) == 3
    np.testing.assert_array_equal(cut.frames[2], one.frames[2])
    np.testing.assert_array_equal(cut.frames[-1], one.frames[2])
    with pytest.raises(IndexError):
        cut.frames[3]
    assert len(first_frames(one, 100)) == 8
    with pytest.raises(InputError):
        first_frames(one, 0)
