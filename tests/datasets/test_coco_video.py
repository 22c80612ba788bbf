"""Videos in COCO's JSON form: per image and per video, tracks, masks, where images lie."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_layouts as layouts

from keepsight.datasets.coco_video import VideoTracks
from keepsight.datasets.training_sets import audit, open_training_set
from keepsight.errors import InputError

SIZE = {"width": layouts.WIDTH, "height": layouts.HEIGHT}
RLE = {"size": [layouts.HEIGHT, layouts.WIDTH], "counts": layouts.slow_rle(layouts.blob())}


def per_image(root: Path, key: str = "track_id", folder: str = "images") -> Path:
    """Two videos; the frames of the second are listed backwards, and ids of tracks are the same in both."""
    images, number = [], 0
    for video, order in ((1, (0, 1, 2)), (2, (1, 0))):
        for k in order:
            number += 1
            name = f"v{video}/{k}.jpg"
            images.append({"id": number, "video_id": video, "frame_index": k, "file_name": name, **SIZE})
            layouts.image(root / folder / name, 20 * k + 100 * (video - 1))
    annotations: list[dict[str, Any]] = [
        {"image_id": 1, key: 7, "bbox": [1, 1, 5, 5], "category_id": 3, "segmentation": RLE},
        {"image_id": 3, key: 7, "bbox": [3, 1, 5, 5], "category_id": 3},
        {"image_id": 4, key: 7, "bbox": [9, 9, 4, 4], "category_id": 4},
        {"image_id": 5, key: 7, "bbox": [8, 8, 4, 4], "category_id": 4},
        {"image_id": 5, key: 7, "bbox": [0, 0, 1, 1], "category_id": 4},
        {"image_id": 5, "bbox": [0, 0, 1, 1]},
        {"image_id": 99, key: 7, "bbox": [0, 0, 1, 1]},
        {"image_id": 1, key: 8, "bbox": [0, 0, 0, 1]},
        {"image_id": 1, key: 8, "bbox": "?"},
        {"image_id": 1, key: 9, "bbox": [1, 1, 1, 1], "iscrowd": 1},
    ]
    content = {
        "videos": [{"id": 1, "name": "first"}, {"id": 2, "name": "second"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}],
    }
    return layouts.save(root / "annotations/train.json", content)


@pytest.mark.parametrize("key", ["track_id", "instance_id"])
@pytest.mark.parametrize("folder", ["images", "annotations", "frames", "annotations/train", "train/JPEGImages"])
def test_per_image(tmp_path: Path, key: str, folder: str) -> None:
    path = per_image(tmp_path, key, folder)
    tracks = pickle.loads(pickle.dumps(open_training_set(f"coco_video:{path}")))
    assert (len(tracks), tracks.is_video) == (2, True)
    assert tracks.skipped == {
        "second box of a track in one frame": 1,
        "no track_id or instance_id": 1,
        "image not listed": 1,
        "box without area": 1,
        "no usable box": 1,
        "crowd": 1,
    }
    first, second = tracks[0], tracks[1]
    np.testing.assert_array_equal(first.boxes, [[1, 1, 5, 5], [np.nan] * 4, [3, 1, 5, 5]])
    assert first.annotation.visible.tolist() == [True, False, True]
    assert (first.name, first.attributes, second.attributes) == ("first/7", {"cat"}, frozenset())
    np.testing.assert_array_equal(first.annotation.masks[0], layouts.blob())
    assert first.annotation.masks[1] is None
    np.testing.assert_array_equal(second.boxes, [[8, 8, 4, 4], [9, 9, 4, 4]])
    assert abs(int(second.frames[0][0, 0, 0]) - 100) < 3  # frame_index orders, not the list
    assert second.annotation.masks is None


def test_per_video(tmp_path: Path) -> None:
    """YouTube-VIS."""
    names = [f"003/{k:05d}.jpg" for k in (0, 5, 10)]
    for k, name in enumerate(names):
        layouts.image(tmp_path / "train/JPEGImages" / name, 50 * k)
    annotations: list[dict[str, Any]] = [
        {"id": 1, "video_id": 4, "category_id": 2, "bboxes": [None, [1, 1, 5, 5], [2, 1, 5, 5]]}
        | {"segmentations": [None, RLE, {**RLE, "counts": layouts.compress(RLE["counts"])}]},
        {"id": 2, "video_id": 4, "bboxes": [[1, 1, 5, 5]]},
        {"id": 3, "video_id": 5, "bboxes": []},
    ]
    content = {
        "videos": [{"id": 4, "file_names": names, **SIZE}],
        "annotations": annotations,
        "categories": [{"id": 2, "name": "ape"}],
    }
    tracks = open_training_set("coco_video:train.json", layouts.save(tmp_path / "train.json", content).parent)
    assert len(tracks) == 1
    track = tracks[0]
    assert (track.name, track.attributes, len(track)) == ("003/1", {"ape"}, 3)
    np.testing.assert_array_equal(track.boxes, [[np.nan] * 4, [1, 1, 5, 5], [2, 1, 5, 5]])
    masks = track.annotation.masks
    assert masks is not None
    assert masks[0] is None
    for k in (1, 2):
        np.testing.assert_array_equal(masks[k], layouts.blob())
    assert audit(tracks) == {"track that does not fit its video": 2}


def test_images_elsewhere_and_nowhere(tmp_path: Path) -> None:
    path = per_image(tmp_path, folder="somewhere/else")
    with pytest.raises(InputError, match=r"'v1/0\.jpg', which is in none of these folders:(.|\n)*/images"):
        open_training_set(f"coco_video:{path}")
    tracks = VideoTracks("mine", path, tmp_path / "somewhere/else")
    assert audit(tracks) == tracks.skipped


@pytest.mark.parametrize("content", ["[]", '{"videos": []}', '{"videos": {}, "annotations": []}'])
def test_other_files(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="no lists 'videos' and 'annotations'"):
        VideoTracks("x", layouts.save(tmp_path / "x.json", content))
