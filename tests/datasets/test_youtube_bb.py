"""YouTube-BB: the table, fractions to pixels, pictures that are not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import training_layouts as layouts

from keepsight.datasets.tracks import visible_frames
from keepsight.datasets.training_sets import audit, open_training_set


def test_objects(tmp_path: Path) -> None:
    objects = pickle.loads(pickle.dumps(open_training_set("youtube_bb:train", layouts.youtube_bb(tmp_path))))
    assert (len(objects), objects.is_video) == (2, True)
    assert objects.skipped == {"video without pictures": 1, "row that is not as expected": 1}
    first, second = objects[0], objects[1]
    assert [p.stem for p in first.frames.paths] == ["1000", "2000", "3000"]  # by time; 4000 has no picture
    np.testing.assert_allclose(first.boxes, [[0, 3, 20, 6], [10, 3, 10, 9], [np.nan] * 4], atol=1e-5)
    assert visible_frames(first).tolist() == [True, True, False]
    np.testing.assert_allclose(second.boxes, [[20, 0, 20, 30]], atol=1e-5)
    assert (first.name, second.name, second.attributes) == ("A/0+0", "A/0+1", {"person"})
    assert abs(int(first.frames[1][0, 0, 0]) - 40) < 3
    assert audit(objects) == {**objects.skipped, "one frame with a box": 1}


def test_a_video_without_a_single_picture(tmp_path: Path) -> None:
    root = layouts.youtube_bb(tmp_path)
    (root / "train/B").mkdir()
    objects = open_training_set("youtube_bb", root)
    assert len(objects[2]) == len(objects[2].boxes) == 0
    assert audit(objects)["no frame with a box"] == 1
