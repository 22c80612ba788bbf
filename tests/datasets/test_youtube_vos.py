"""YouTube-VOS reader: late starts, all frames, categories, damage."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from keepsight.datasets import youtube_vos
from keepsight.datasets.catalog import open_dataset
from keepsight.datasets.lists import names
from keepsight.datasets.masks import save_indexed_png
from keepsight.errors import InputError, VideoError

STEMS = ["00000", "00005", "00010"]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((20, 30, 3), int(path.stem), np.uint8))


def make(root: Path, part: str = "valid", video: str = "003234408d") -> Path:
    """Objects 2 from the first frame on, 1 from the second on."""
    folder = root / part
    objects = {"2": {"category": "penguin", "frames": STEMS}, "1": {"category": "dog", "frames": STEMS[1:]}}
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"videos": {video: {"objects": objects}}}))
    for stem in STEMS:
        picture(folder / "JPEGImages" / video / f"{stem}.jpg")
    first, second = np.zeros((2, 20, 30), np.uint8)
    first[4:8, 10:20], second[0:3, 2:7] = 2, 1
    save_indexed_png(folder / "Annotations" / video / "00000.png", first)
    save_indexed_png(folder / "Annotations" / video / "00005.png", second)
    return root


def test_objects_may_start_late(tmp_path: Path) -> None:
    dataset = open_dataset("youtubevos2018", make(tmp_path))
    assert (dataset.rule, dataset.protocol) == ("youtubevos", "vos")
    sequence = pickle.loads(pickle.dumps(dataset["003234408d"]))
    assert sequence.frame_names == tuple(STEMS)
    assert sequence.attributes == {"penguin", "dog"}
    assert abs(int(sequence.frames[2][0, 0, 0]) - 10) < 3
    annotation = sequence.annotation
    assert annotation.objects == (1, 2)
    assert annotation.first_seen == {1: 1, 2: 0}
    np.testing.assert_array_equal(annotation.annotated, [True, True, False])
    np.testing.assert_array_equal(annotation.boxes, [[10, 4, 10, 4], [np.nan] * 4, [np.nan] * 4])  # object 2 is first
    assert annotation.masks[2] is None
    assert annotation.tags == {}


def test_all_frames(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match="unpack the archive with all frames"):
        open_dataset("youtubevos2019:valid_all_frames", tmp_path)
    for i in range(12):
        picture(tmp_path / "valid_all_frames" / "JPEGImages" / "003234408d" / f"{i:05d}.jpg")
    sequence = open_dataset("youtubevos2019:valid_all_frames", tmp_path)["003234408d"]
    assert len(sequence) == 12
    annotation = sequence.annotation
    assert annotation.first_seen == {1: 5, 2: 0}
    np.testing.assert_array_equal(np.flatnonzero(annotation.tags["scored"]), [0, 5, 10])
    np.testing.assert_array_equal(np.flatnonzero(annotation.annotated), [0, 5])


def test_categories(tmp_path: Path) -> None:
    make(make(tmp_path), "train", "ffff")
    assert youtube_vos.object_categories(tmp_path) == {"003234408d": {1: "dog", 2: "penguin"}}
    assert youtube_vos.seen_categories(tmp_path) == {"dog", "penguin"}


def test_jjvalid_is_a_part_of_train(tmp_path: Path) -> None:
    wanted = names("youtubevos_jjvalid")
    make(tmp_path, "train", wanted[0])
    with pytest.raises(InputError, match=rf"lacks 299 of the 300 jjvalid videos, e\.g\. {wanted[1]}"):
        youtube_vos.read_youtube_vos(tmp_path, "jjvalid")
    meta: dict[str, Any] = json.loads((tmp_path / "train" / "meta.json").read_text())
    meta["videos"] = dict.fromkeys(("other", *reversed(wanted)), meta["videos"][wanted[0]])
    (tmp_path / "train" / "meta.json").write_text(json.dumps(meta))
    for name in wanted[1:]:
        (tmp_path / "train" / "Annotations" / name).mkdir()
    found = youtube_vos.read_youtube_vos(tmp_path, "jjvalid")
    assert tuple(s.name for s in found) == wanted


def test_opening_reads_no_mask_and_no_image(tmp_path: Path) -> None:
    make(tmp_path)
    for file in tmp_path.glob("valid/*/*/*"):
        file.write_bytes(b"")
    (sequence,) = youtube_vos.read_youtube_vos(tmp_path)
    assert len(sequence) == 3
    with pytest.raises(VideoError, match=r"00000\.png cannot be read"):
        _ = sequence.annotation


def test_damage(tmp_path: Path) -> None:
    make(tmp_path)
    mask = tmp_path / "valid" / "Annotations" / "003234408d" / "00005.png"
    kept = mask.read_bytes()
    mask.unlink()
    with pytest.raises(InputError, match="object 1 starts in 00005, and that mask is not there"):
        _ = youtube_vos.read_youtube_vos(tmp_path)[0].annotation
    mask.write_bytes(kept)
    (tmp_path / "valid" / "JPEGImages" / "003234408d" / "00000.jpg").unlink()
    with pytest.raises(InputError, match="object 2 starts in 00000, and that frame is not there"):
        _ = youtube_vos.read_youtube_vos(tmp_path)[0].annotation
    meta = tmp_path / "valid" / "meta.json"
    good = meta.read_text()
    meta.write_text(good.replace("003234408d", "deadbeef00"))
    with pytest.raises(InputError, match="names 'deadbeef00', but there is no"):
        youtube_vos.read_youtube_vos(tmp_path)
    for text in ("", good[:-20], "[]", '{"videos": {"a": {}}}', good.replace('"frames"', '"frame"')):
        meta.write_text(text)
        with pytest.raises(InputError, match=r"meta\.json is not as expected"):
            youtube_vos.read_youtube_vos(tmp_path)
    meta.unlink()
    with pytest.raises(VideoError, match=r"meta\.json cannot be read"):
        youtube_vos.read_youtube_vos(tmp_path)
