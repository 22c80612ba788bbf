"""Videos of single photographs: deterministic, boxes that follow the picture's content, parts of objects."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import training_layouts as layouts

from keepsight.datasets.sequence import Annotation, Frames, Sequence
from keepsight.datasets.stills import StillConfig, StillVideos
from keepsight.datasets.tracks import TrainingSet, visible_frames
from keepsight.datasets.training_sets import audit, open_training_set
from keepsight.errors import InputError

SIZE = (200, 160)  # width, height
BOX = (80.0, 50.0, 40.0, 60.0)
CLEAN = StillConfig(frames=12, part=0, gain=0, gamma=0, cast=0, blur=0, noise=0, jpeg=0)
"""The geometry alone."""


class OneFrame(Frames):
    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.picture


class Known:
    def __init__(self, box: tuple[float, ...]) -> None:
        self.box = box

    def __call__(self) -> Annotation:
        return Annotation(boxes=np.array([self.box]))


class Painted(TrainingSet):
    """Grey pictures with a red rectangle in ``boxes``."""

    name, is_video = "painted", False
    sources: ClassVar = {"a/painter": "MIT"}

    def __init__(self, *boxes: tuple[float, ...], size: tuple[int, int] = SIZE) -> None:
        self.boxes, self.size = boxes, size

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Sequence:
        x, y, w, h = (round(v) for v in self.boxes[index])
        picture = np.full((*self.size[::-1], 3), 100, np.uint8)
        picture[max(y, 0) : y + h, max(x, 0) : x + w] = (220, 30, 30)
        return Sequence(str(index), self.name, OneFrame(picture), Known(self.boxes[index]))


def videos(config: StillConfig = CLEAN, boxes: tuple[tuple[float, ...], ...] = (BOX,), **options) -> StillVideos:
    return StillVideos("stills", Painted(*boxes), config, **{"videos": 50, **options})


def redness(picture: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
    """(H, W): 1 on the rectangle, 0 beside it, between them on its border; only near ``box``.

    Where the photograph ends the frame mirrors it, and the rectangle may be seen twice.
    """
    seen = ((picture[..., 0].astype(float) - picture[..., 1]) / 190).clip(0, 1)
    if box is not None:
        x, y, w, h = (round(v) for v in box)
        near = np.zeros_like(seen)
        near[max(y - 12, 0) : y + h + 12, max(x - 12, 0) : x + w + 12] = 1
        seen *= near
    return seen


def painted_extent(seen: np.ndarray) -> tuple[float, float, float, float]:
    """xywh of the red rectangle, to a fraction of a pixel: a border pixel counts as much as it is red."""
    columns, rows = seen.max(axis=0), seen.max(axis=1)
    left = int(np.argmax(columns > 0.5)) + 1 - columns[: int(np.argmax(columns > 0.5)) + 1].sum()
    top = int(np.argmax(rows > 0.5)) + 1 - rows[: int(np.argmax(rows > 0.5)) + 1].sum()
    return left, top, columns.sum(), rows.sum()


# --- chance --------------------------------------------------------------------------------------------------------------


def test_a_video_depends_on_seed_and_index_alone():
    config = StillConfig(frames=5)
    boxes = (BOX, (20.0, 30.0, 50.0, 50.0))
    first, second = videos(config, boxes, seed=3), videos(config, boxes, seed=3)
    for index in (0, 7):
        one, two = first[index], second[index]
        np.testing.assert_array_equal(one.boxes, two.boxes)
        backwards = [two.frames[k] for k in (4, 2, 0)]
        assert all(np.array_equal(one.frames[k], seen) for k, seen in zip((4, 2, 0), backwards, strict=True))
    assert not np.array_equal(first[0].boxes, first[1].boxes)
    assert not np.array_equal(first[0].boxes, videos(config, boxes, seed=4)[0].boxes)
    assert not np.array_equal(first[0].frames[0], first[0].frames[1])


def test_index_from_the_end_and_beyond():
    found = videos()
    assert len(found) == 50
    np.testing.assert_array_equal(found[-1].boxes, found[49].boxes)
    assert found[-1].name == "000049"
    for index in (50, -51):
        with pytest.raises(IndexError):
            found[index]


def test_pickled_videos_are_the_same():
    sequence = videos(StillConfig(frames=4), seed=2)[5]
    before = pickle.loads(pickle.dumps(sequence))
    seen = sequence.frames[3]
    after = pickle.dumps(sequence)
    assert len(after) < 300_000  # the photograph is the stub's; what was made of it stays behind
    for copy in (before, pickle.loads(after)):
        np.testing.assert_array_equal(copy.boxes, sequence.boxes)
        np.testing.assert_array_equal(copy.frames[3], seen)


# --- boxes ---------------------------------------------------------------------------------------------------------------


def test_boxes_lie_inside_the_picture_and_can_be_drawn():
    wild = StillConfig(scale=0.6, aspect=0.4, angle=40)
    found = videos(wild, (BOX, (0.0, 0.0, 60.0, 40.0), (150.0, 100.0, 50.0, 60.0)))
    for index in range(20):
        sequence = found[index]
        boxes = sequence.boxes
        assert boxes.shape == (24, 4) == (len(sequence), 4)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= np.array(SIZE) + 1e-9).all()
        assert visible_frames(sequence).all()
        assert sequence.annotation.image_size == SIZE
        assert sequence.frames[0].shape == (160, 200, 3)
        assert sequence.frames[0].dtype == np.uint8
    assert audit(found, 10) == {}


def test_the_box_follows_the_content():
    """Without turning, the painted rectangle is the box, whatever the scale, proportion and place."""
    found = videos(replace(CLEAN, angle=0))
    checked = 0
    for index in range(6):
        sequence = found[index]
        for k, box in enumerate(sequence.boxes):
            if (box[:2] < 3).any() or (box[:2] + box[2:] > np.array(SIZE) - 3).any():
                continue  # cut at the border, where the picture is mirrored
            checked += 1
            assert painted_extent(redness(sequence.frames[k], box)) == pytest.approx(box.tolist(), abs=0.75), (index, k)
    assert checked > 40
    sides = np.concatenate([found[i].boxes[:, 2:] for i in range(6)])
    assert np.log(sides).std(axis=0) == pytest.approx(2 * [np.hypot(CLEAN.scale, CLEAN.aspect / 2)], abs=0.07)
    assert np.log(sides[:, 0] / sides[:, 1]).std() == pytest.approx(CLEAN.aspect, abs=0.05)


def test_enlarged_pictures_stay_at_their_place():
    """Scaling about the pixels' corners, as boxes count, not about their middles: the difference is half a pixel at twice."""
    found = videos(replace(CLEAN, angle=0, aspect=0, scale=0.6), ((90.0, 70.0, 20.0, 20.0),))
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    beside = []
    for index in range(12):
        for k, (x, y, w, h) in enumerate(found[index].boxes):
            if w < 30 or min(x, y) < 3 or x + w > SIZE[0] - 3 or y + h > SIZE[1] - 3:
                continue
            seen = redness(found[index].frames[k], np.array((x, y, w, h)))
            beside.append(
                ((seen * columns).sum() / seen.sum() - x - w / 2, (seen * rows).sum() / seen.sum() - y - h / 2)
            )
    assert len(beside) > 15
    assert np.mean(beside, axis=0) == pytest.approx([0, 0], abs=0.08)


def test_turned_boxes_are_about_the_content():
    """The centre is the rectangle's; the sides are those of the ellipse in it, not longer ones of its corners."""
    found = videos(replace(CLEAN, angle=20, scale=0, aspect=0))
    sequence = found[1]
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    for k, box in enumerate(sequence.boxes):
        x, y, w, h = box
        if min(x, y) < 8 or x + w > SIZE[0] - 8 or y + h > SIZE[1] - 8:
            continue
        seen = redness(sequence.frames[k], box)
        assert (seen * columns).sum() / seen.sum() == pytest.approx(x + w / 2, abs=0.5)
        assert (seen * rows).sum() / seen.sum() == pytest.approx(y + h / 2, abs=0.5)
        assert seen.sum() == pytest.approx(BOX[2] * BOX[3], rel=0.03)
        # an ellipse's extent: w² + h² = W² + H² at any angle
        assert math.hypot(w, h) == pytest.approx(math.hypot(BOX[2], BOX[3]))
    assert sequence.boxes[:, 2].max() > BOX[2] + 1


def test_every_frame_shows_the_target():
    found = videos(replace(CLEAN, angle=0), ((0.0, 0.0, 40.0, 40.0),))
    for index in range(5):
        boxes = found[index].boxes
        centres = boxes[:, :2] + boxes[:, 2:] / 2
        assert (centres > 0).all()
        assert (centres < SIZE).all()
        assert all(redness(found[index].frames[k]).sum() > 0.5 * boxes[k, 2] * boxes[k, 3] for k in range(12))


# --- which target --------------------------------------------------------------------------------------------------------


def still(**changes) -> StillConfig:
    """Every frame is the photograph, moved."""
    return replace(CLEAN, frames=1, scale=0, aspect=0, angle=0, **changes)


def test_whole_objects_and_parts():
    whole = videos(still(part=0))
    assert all(whole[i].boxes[0, 2:].tolist() == pytest.approx(BOX[2:]) for i in range(10))
    parts = videos(still(part=1, part_size=(0.5, 0.7)))
    sides = np.array([parts[i].boxes[0, 2:] for i in range(40)])
    shares = sides / BOX[2:]
    assert (shares >= 0.5 - 1e-9).all()
    assert (shares <= 0.7 + 1e-9).all()
    assert shares.std(axis=0) == pytest.approx([0.2 / math.sqrt(12)] * 2, abs=0.02)
    mixed = videos(still(part=0.35), videos=400)
    count = sum(mixed[i].boxes[0, 2] < BOX[2] - 1e-6 for i in range(400))
    assert 100 < count < 180


def test_parts_lie_inside_the_object():
    found = videos(still(part=1))
    for index in range(20):
        x, y, w, h = found[index].boxes[0]
        seen = redness(found[index].frames[0])[math.ceil(y) : int(y + h), math.ceil(x) : int(x + w)]
        assert seen.min() > 0.95


def test_objects_that_fill_the_picture_give_parts():
    large = (10.0, 10.0, 170.0, 140.0)
    found = videos(still(part=0), (large,))
    sides = np.array([found[i].boxes[0, 2:] for i in range(10)])
    assert (sides <= 0.8 * np.array(large[2:]) + 1e-9).all()


def test_small_objects_are_passed_over():
    found = videos(still(part=0), ((10.0, 10.0, 13.0, 14.0), BOX))
    assert all(found[i].boxes[0, 2:].tolist() == pytest.approx(BOX[2:]) for i in range(12))
    none = videos(still(part=0), ((10.0, 10.0, 13.0, 14.0),))
    with pytest.raises(InputError, match=r"stills: none of 200 objects.*14 pixels"):
        none[0].boxes  # noqa: B018


def test_light_noise_and_compression_leave_the_geometry_alone():
    bright = videos(replace(CLEAN, gain=0.3), seed=1)[0]
    rough = videos(replace(CLEAN, blur=1, noise=1, jpeg=1), seed=1)[0]
    clean = videos(seed=1)[0]
    np.testing.assert_array_equal(bright.boxes, clean.boxes)
    np.testing.assert_array_equal(rough.boxes, clean.boxes)
    factors = [bright.frames[k].mean() / clean.frames[k].mean() for k in range(12)]
    assert np.log(factors).std() > 0.1
    for k in range(3):
        difference = rough.frames[k].astype(float) - clean.frames[k]
        assert 0.5 < np.abs(difference).mean() < 15
        x, y, w, h = (round(v) for v in rough.boxes[k])
        assert redness(cv2.medianBlur(rough.frames[k], 5))[y + 4 : y + h - 4, x + 4 : x + w - 4].mean() > 0.6


# --- as a training set ---------------------------------------------------------------------------------------------------


def test_wrong_arguments():
    with pytest.raises(InputError, match=r"none: 0 objects for 5 videos"):
        StillVideos("none", Painted(), videos=5)
    with pytest.raises(InputError, match=r"none: 1 objects for 0 videos"):
        StillVideos("none", Painted(BOX), videos=0)


def test_by_name(tmp_path):
    opened = open_training_set("composite:stills", layouts.shared(tmp_path))
    assert (opened.name, opened.is_video, len(opened)) == ("composite:stills", True, 100_000)
    assert opened.sources == {"a/free": "MIT (LICENSE)"}  # models that ship
    assert opened.skipped["image of a source left out for its licence"] == 2
    assert len(opened.objects) == 3
    assert len(open_training_set("composite:stills_all", tmp_path).objects) == 5
    assert videos().sources == Painted.sources
    assert not hasattr(videos(), "skipped")
