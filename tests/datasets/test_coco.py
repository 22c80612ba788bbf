"""COCO, LVIS and their masks: polygons, run lengths, compact arrays, what is left out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import training_layouts as layouts
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.datasets import json_scan
from keepsight.datasets.coco import CocoObjects
from keepsight.datasets.coco_masks import compress, decode_segmentation, encode_segmentation, fill_polygon, uncompress
from keepsight.datasets.sequence import Annotation
from keepsight.datasets.tracks import visible_frames
from keepsight.datasets.training_sets import audit, open_training_set
from keepsight.errors import InputError, VideoError


def test_each_annotation_is_one_element(tmp_path: Path) -> None:
    objects = pickle.loads(pickle.dumps(open_training_set("coco:train2014", layouts.coco(tmp_path))))
    assert isinstance(objects, CocoObjects)
    assert (len(objects), objects.is_video, objects.name) == (4, False, "coco:train2014")
    assert objects.skipped == {"crowd": 1, "box without area": 1, "no usable box": 2, "image not listed": 1}
    assert [s.name.rpartition("/")[2] for s in (objects[i] for i in range(4))] == ["71", "72", "73", "79"]
    first, second = objects[0], objects[-3]
    assert (first.dataset, first.attributes, len(first)) == ("coco:train2014", {"dog"}, 1)
    assert objects.labels == ["dog"] * 4
    np.testing.assert_array_equal(first.boxes, [[4, 4, 10, 5]])
    assert abs(int(first.frames[0][0, 0, 0]) - 9) < 3
    assert abs(int(second.frames[0][0, 0, 0]) - 25) < 3
    assert second.annotation.image_size == (layouts.WIDTH, layouts.HEIGHT)
    assert visible_frames(second).tolist() == [True]
    assert audit(objects) == objects.skipped
    with pytest.raises(IndexError):
        objects[4]


def test_masks(tmp_path: Path) -> None:
    objects = open_training_set("coco:train2014", layouts.coco(tmp_path))
    masks = [_only(objects[i].annotation) for i in range(3)]
    wanted = np.zeros((layouts.HEIGHT, layouts.WIDTH), np.uint8)
    wanted[4:9, 4:14] = 1
    np.testing.assert_array_equal(masks[0], wanted)
    np.testing.assert_array_equal(masks[1], layouts.blob())
    np.testing.assert_array_equal(masks[2], layouts.blob())
    nothing = objects[3].annotation.masks
    assert nothing is not None
    assert nothing[0] is None


def _only(annotation: Annotation) -> np.ndarray:
    assert annotation.objects == (1,)
    assert annotation.masks is not None
    mask = annotation.masks[0]
    assert mask is not None
    assert mask.dtype == np.uint8
    return mask


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_compressed_run_lengths(runs: list[int]) -> None:
    assert uncompress(layouts.compress(runs)) == runs


def test_known_compressed_string() -> None:
    """6 = '6'; 1 = '1'; 40 = 01000 + 32, 00001 = 'X1'; 4 after 1 is a difference of 3; 20 after 40 is -20 = 01100 + 32, -1."""
    assert uncompress("61X13\\O") == [6, 1, 40, 4, 20]


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=30))
def test_run_lengths_are_compressed_as_the_format_says(runs: list[int]) -> None:
    assert compress(runs) == layouts.compress(runs)
    assert uncompress(compress(runs)) == runs


def test_differences_around_the_ends_of_groups() -> None:
    for difference in (-1025, -1024, -513, -512, -17, -16, -15, 15, 16, 17, 511, 512, 1023, 1024):
        runs = [0, 2000, 1, 2000 + difference]
        assert compress(runs) == layouts.compress(runs)


@given(st.integers(0, 2**20 - 1))
def test_masks_are_encoded_down_the_columns(bits: int) -> None:
    mask = np.array([bits >> k & 1 for k in range(20)], dtype=bool).reshape(4, 5)
    made = encode_segmentation(mask)
    assert made == {"size": [4, 5], "counts": layouts.compress(layouts.slow_rle(mask))}
    np.testing.assert_array_equal(decode_segmentation(json.loads(json.dumps(made)), 5, 4), mask)


@given(st.integers(0, 2**20 - 1), st.booleans())
def test_run_lengths_of_any_mask(bits: int, compressed: bool) -> None:
    mask = np.array([bits >> k & 1 for k in range(20)], dtype=bool).reshape(4, 5)
    runs = layouts.slow_rle(mask)
    counts = layouts.compress(runs) if compressed else runs
    np.testing.assert_array_equal(decode_segmentation({"counts": counts, "size": [4, 5]}, 5, 4), mask)


def test_polygons_by_a_pixel_loop() -> None:
    rng = np.random.default_rng(3)
    for corners in (3, 4, 7):
        outline = rng.uniform(-5, 25, (corners, 2))
        filled = fill_polygon(outline, 20, 16)
        for y in range(16):
            for x in range(20):
                assert filled[y, x] == _inside(x + 0.5, y + 0.5, outline), (x, y)


def _inside(x: float, y: float, outline: np.ndarray) -> bool:
    """Even-odd: crossings of the ray to the left."""
    inside = False
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
            inside = not inside
    return inside


def test_polygons_with_several_parts_and_touching_edges() -> None:
    left, right = [0, 0, 5, 0, 5, 4, 0, 4], [5, 0, 10, 0, 10, 4, 5, 4]
    assert decode_segmentation([left, right], 10, 4).all()
    assert not (fill_polygon(_points(left), 10, 4) & fill_polygon(_points(right), 10, 4)).any()
    assert not decode_segmentation([[1, 1, 2, 2]], 10, 4).any()  # two corners
    assert decode_segmentation([[-100, -100, 100, -100, 100, 100, -100, 100]], 10, 4).all()


def _points(flat: list[int]) -> np.ndarray:
    return np.array(flat, dtype=float).reshape(-1, 2)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3]], "no list of x, y"),
        ({"counts": [1, 2], "size": [3, 4]}, "4 x 3 pixels, the image has 5 x 4"),
        ({"counts": [1, 2], "size": [4, 5]}, "cover 3 pixels"),
        ({"counts": [1, -2], "size": [4, 5]}, "cover -1 pixels"),
        ({"counts": "é", "size": [4, 5]}, "characters beyond"),
        ({"counts": "X", "size": [4, 5]}, "end within a number"),
        ({"size": [4, 5]}, "KeyError"),
        ("text", "expected polygons"),
    ],
)
def test_damaged_segmentations(segmentation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_segmentation(segmentation, 5, 4)


def test_damage_in_the_file_names_file_and_place(tmp_path: Path) -> None:
    path = layouts.coco(tmp_path) / "annotations/instances_train2014.json"
    path.write_text(path.read_text().replace("[[4, 4, 14, 4, 14, 9, 4, 9]]", "[[4, 4, 14, 4, 14, 9, 4]]"))
    masks = open_training_set("coco:train2014", tmp_path)[0].annotation.masks
    assert masks is not None
    with pytest.raises(InputError, match=r"instances_train2014\.json, byte \d+"):
        masks[0]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [("", InputError, "is empty"), ('{"images": [', InputError, "not a JSON"), ("[1, 2]", InputError, "no lists")],
)
def test_files_that_are_none(tmp_path: Path, content: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CocoObjects("x", layouts.save(tmp_path / "x.json", content), tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be read"):
        CocoObjects("x", tmp_path / "x.json", tmp_path)


def test_own_ids_and_order(tmp_path: Path) -> None:
    """Images behind the annotations, ids that are texts, no ids, no categories, names beyond ASCII."""
    annotations = [{"image_id": "b", "bbox": [1, 2, 3, 4]}, {"image_id": "ä", "bbox": [5, 6, 7, 8], "category_id": "x"}]
    images = [{"id": "ä", "file_name": "ä.jpg"}, {"id": "b", "file_name": "b.jpg"}, {"id": "c", "file_name": 5}]
    path = layouts.save(tmp_path / "x.json", {"annotations": annotations, "images": images})
    objects = CocoObjects("own", path, tmp_path)
    assert [objects[i].frames.paths for i in range(2)] == [(tmp_path / "b.jpg",), (tmp_path / "ä.jpg",)]
    assert objects.skipped == {"image without a file name": 1}
    assert objects[0].annotation.masks is None
    assert objects[1].attributes == frozenset()
    assert audit(objects)["image file not there"] == 2


@settings(max_examples=30)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_is_found_again(value: object) -> None:
    for indent in (None, 1):
        text = json.dumps({"a": "]}\\", "segmentation": value, "b": 1}, indent=indent, ensure_ascii=indent is None)
        start = text.encode().index(b'"segmentation": ') + len(b'"segmentation": ')
        end = json_scan.value_end(text.encode(), start)
        assert json.loads(text.encode()[start:end]) == value
        assert json.loads(json_scan._lightened(text.encode())) == {"a": "]}\\", "segmentation": start, "b": 1}


def test_large_files_become_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening 200,000 objects makes no object per annotation, decodes no mask, and opens no image."""
    outline = [round(0.37 * k % 29, 2) for k in range(16)]
    entry = '{"segmentation": [%s], "area": 3.5, "iscrowd": 0, "image_id": %d, "bbox": [1.5, 2, 3, 4], "id": %d}'
    with open(tmp_path / "x.json", "w") as file:
        images = [{"id": k, "file_name": f"{k:012d}.jpg", "width": 40, "height": 30} for k in range(1000)]
        file.write('{"images": ' + json.dumps(images) + ', "annotations": [')
        file.write(", ".join(entry % (outline, k % 1000, k) for k in range(200_000)) + "]}")
    made = []
    monkeypatch.setattr("keepsight.datasets.coco.Sequence", lambda **kw: made.append(kw))
    monkeypatch.setattr("keepsight.datasets.coco_masks.read_value", lambda *_: made.append("value"))
    objects = CocoObjects("big", tmp_path / "x.json", tmp_path)
    assert len(objects) == 200_000
    assert made == []
    kept = vars(objects)
    assert sum(v.nbytes for v in kept.values() if isinstance(v, np.ndarray)) < 100 * len(objects)
    lengths = [len(v) for v in kept.values() if isinstance(v, list | tuple | dict)]
    assert max(lengths) < 10  # nothing per element but arrays
    assert len(pickle.dumps(objects)) < 100 * len(objects)
    assert objects.boxes[199_999].tolist() == [1.5, 2, 3, 4]
    assert json_scan.read_value(tmp_path / "x.json", int(objects.places[199_999])) == [outline]


@pytest.mark.parametrize(("version", "grey"), [("v1", 200), ("v0.5", 50)])
def test_lvis(tmp_path: Path, version: str, grey: int) -> None:
    root = layouts.lvis(tmp_path, version)
    for spec in ("lvis:train", f"lvis:train_{version}"):
        objects = open_training_set(spec, root)
        assert len(objects) == 1
        assert abs(int(objects[0].frames[0][0, 0, 0]) - grey) < 3
        assert objects[0].attributes == {"aerosol_can"}
        assert _only(objects[0].annotation).sum() > 20


def test_lvis_takes_the_newer_version(tmp_path: Path) -> None:
    objects = open_training_set("lvis", layouts.lvis(layouts.lvis(tmp_path, "v0.5"), "v1"))
    assert objects[0].frames.paths == (tmp_path / "val2017/000000000005.jpg",)
