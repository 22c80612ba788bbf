"""Every data set with masks gives training items; LaSOT and GOT-10k with pseudo masks, their frames and what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import layouts as videos
import numpy as np
import pytest
import training_layouts

from keepsight.datasets.lists import names
from keepsight.datasets.masks import save_indexed_png
from keepsight.datasets.training_sets import open_training_set
from keepsight.errors import InputError, VideoError
from keepsight.training.segmentation import (
    MaskProcessing,
    MaskProcessingConfig,
    MaskSampler,
    MaskSamplerConfig,
    collate_masks,
)

FRAMES = 12
SIZE = (60, 40)  # width, height


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPSIGHT_CACHE", str(tmp_path / "cache"))


def a_mask(frame: int, number: int = 1) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[10:22, 5 + frame : 15 + frame] = number
    return mask


def picture(path: Path, frame: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.repeat(200 * a_mask(frame)[..., None], 3, axis=2))


def youtube(root: Path) -> str:
    import json

    base = root / "YouTubeVOS2019" / "train"
    for k in range(FRAMES):
        picture(base / "JPEGImages" / "0a" / f"{5 * k:05d}.jpg", k)
        save_indexed_png(base / "Annotations" / "0a" / f"{5 * k:05d}.png", a_mask(k, 3))
    objects = {"3": {"category": "cat", "frames": ["00000"]}}
    (base / "meta.json").write_text(json.dumps({"videos": {"0a": {"objects": objects}}}))
    return "youtubevos2019:train"


def davis(root: Path) -> str:
    base = root / "DAVIS2017"
    (base / "ImageSets" / "2017").mkdir(parents=True)
    (base / "ImageSets" / "2017" / "train.txt").write_text("bear\n")
    for k in range(FRAMES):
        picture(base / "JPEGImages" / "480p" / "bear" / f"{k:05d}.jpg", k)
        save_indexed_png(base / "Annotations" / "480p" / "bear" / f"{k:05d}.png", a_mask(k))
    return "davis2017:train"


def segtrack(root: Path) -> str:
    base = root / "SegTrackv2"
    for k in range(FRAMES):
        picture(base / "JPEGImages" / "frog" / f"{k:03d}.png", k)
        picture(base / "GroundTruth" / "frog" / f"{k:03d}.png", k)
    return "segtrackv2"


def coco(root: Path) -> str:
    training_layouts.coco(root / "COCO")
    return "coco:train2014"


def own_folder(root: Path) -> str:
    """With a mask for every other frame only."""
    base = root / "clip"
    for k in range(2 * FRAMES):
        picture(base / "img" / f"{k:05d}.png", k)
        if k % 2 == 0:
            save_indexed_png(base / "mask" / f"{k:05d}.png", a_mask(k))
    (base / "groundtruth.txt").write_text("".join(f"{5 + k},10,10,12\n" for k in range(2 * FRAMES)))
    return f"folder:{base}"


def pseudo_lasot(root: Path) -> str:
    (name,) = names("lasot_train_split")[:1]
    videos.lasot(root / "LaSOT", (name,), frames=60)
    folder = root / "LaSOT" / name.rpartition("-")[0] / name
    for k in range(60):
        picture(folder / "img" / f"{k + 1:08d}.jpg", k // 5)
        if k % 5 == 0:
            save_indexed_png(root / "lasot_masks" / name / f"{k + 1:08d}.png", a_mask(k // 5))
    (folder / "groundtruth.txt").write_text("".join(f"{5 + k // 5},10,10,12\n" for k in range(60)))
    for kind in ("full_occlusion", "out_of_view"):
        (folder / f"{kind}.txt").write_text(",".join("0" for _ in range(60)))
    return "lasot_masks:train"


def pseudo_got10k(root: Path) -> str:
    videos.got10k(root / "GOT-10k", "train", 1, frames=FRAMES)
    folder = root / "GOT-10k" / "train" / "GOT-10k_Train_000001"
    for k in range(FRAMES):
        picture(folder / f"{k + 1:08d}.jpg", k)
        save_indexed_png(root / "got10k_masks" / folder.name / f"{k + 1:08d}.png", a_mask(k))
    (folder / "groundtruth.txt").write_text("".join(f"{5 + k},10,10,12\n" for k in range(FRAMES)))
    for kind, value in (("absence", 0), ("cover", 8), ("cut_by_image", 0)):
        (folder / f"{kind}.label").write_text(f"{value}\n" * FRAMES)
    return "got10k_masks:train"


MAKERS = (youtube, davis, segtrack, coco, own_folder, pseudo_lasot, pseudo_got10k)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_gives_items_with_masks(make: Callable[[Path], str], tmp_path: Path) -> None:
    """Where the picture is bright there is the object."""
    spec = make(tmp_path)
    sampler = MaskSampler([open_training_set(spec, None if spec.startswith("folder") else tmp_path)])
    process, rng = (
        MaskProcessing(MaskProcessingConfig(output_size=(64, 48), brightness_jitter=0.0)),
        np.random.default_rng(0),
    )
    for _ in range(4):
        group = sampler.draw(rng)
        assert (len(group.train_images), len(group.test_images)) == (1, 3)
        for image, mask, box in zip(
            (*group.train_images, *group.test_images), (*group.train_masks, *group.test_masks),
            (*group.train_boxes, *group.test_boxes), strict=True,
        ):  # fmt: skip
            assert mask.shape == image.shape[:2]
            assert mask.sum() > 10
            if make is not coco:  # whose pictures are grey
                assert ((image[..., 0] > 127) != mask).mean() < 0.01
                np.testing.assert_allclose(box, [np.nonzero(mask.any(axis=0))[0][0], 10, 10, 12])
        batch = collate_masks([process(group, rng)]).as_floats()
        assert set(batch.train_masks.unique().tolist()) <= {0.0, 1.0}
        assert batch.train_masks.any()


def test_lasots_frames_are_every_fifth_of_the_first_thousand(tmp_path: Path) -> None:
    (name,) = names("lasot_train_split")[:1]
    videos.lasot(tmp_path / "LaSOT", (name,), frames=7)
    folder = tmp_path / "LaSOT" / name.rpartition("-")[0] / name
    truth, lines = folder / "groundtruth.txt", 1203
    truth.write_text("".join(f"{k},2,3,4\n" for k in range(lines)))
    for k in range(lines):
        (folder / "img" / f"{k + 1:08d}.jpg").touch()
    for kind in ("full_occlusion", "out_of_view"):
        (folder / f"{kind}.txt").write_text(",".join(str(int(k == 10)) for k in range(lines)))
    save_indexed_png(tmp_path / "lasot_masks" / name / "00000001.png", a_mask(0))
    sequence = open_training_set("lasot_masks:train", tmp_path)[0]
    assert len(sequence) == len(sequence.boxes) == 200
    assert sequence.boxes[:, 0].tolist() == list(range(0, 1000, 5))
    assert [p.name for p in sequence.frames.paths[:2]] == ["00000001.jpg", "00000006.jpg"]
    assert sequence.annotation.visible.tolist() == [k != 2 for k in range(200)]
    with pytest.raises(VideoError, match=r"no mask file .*00000996.png"):
        _ = sequence.annotation.masks[199]


def test_videos_without_masks_are_named(tmp_path: Path) -> None:
    pseudo_got10k(tmp_path)
    shutil.move(tmp_path / "got10k_masks" / "GOT-10k_Train_000001", tmp_path / "got10k_masks" / "other")
    with pytest.raises(
        InputError, match=r"no masks of 1 of the 1 sequences .*GOT-10k_Train_000001; make them with `keepsight masks`"
    ):
        open_training_set("got10k_masks:train", tmp_path)
    shutil.rmtree(tmp_path / "got10k_masks")
    with pytest.raises(InputError, match=r"GOT-10k with masks made of its boxes is not found"):
        open_training_set("got10k_masks:train", tmp_path)


def test_got10ks_unusable_video_is_left_out(tmp_path: Path) -> None:
    """§8.1; also where it has masks."""
    pseudo_got10k(tmp_path)
    train, masks, bad = tmp_path / "GOT-10k" / "train", tmp_path / "got10k_masks", "GOT-10k_Train_004419"
    shutil.copytree(train / "GOT-10k_Train_000001", train / bad)
    shutil.copytree(masks / "GOT-10k_Train_000001", masks / bad)
    (train / "list.txt").write_text(f"GOT-10k_Train_000001\n{bad}\n")
    assert len(open_training_set("got10k:train", tmp_path)) == 2
    for _ in range(2):
        found = open_training_set("got10k_masks:train", tmp_path)
        assert [found[k].name for k in range(len(found))] == ["GOT-10k_Train_000001"]
        assert found.skipped == {"without usable masks": 1}
        shutil.rmtree(masks / bad, ignore_errors=True)


def test_masks_of_several_objects_are_refused(tmp_path: Path) -> None:
    pseudo_got10k(tmp_path)
    save_indexed_png(tmp_path / "got10k_masks" / "GOT-10k_Train_000001" / "00000003.png", a_mask(2, number=2))
    masks = open_training_set("got10k_masks:train", tmp_path)[0].annotation.masks
    assert masks[0].max() == 1
    with pytest.raises(InputError, match=r"00000003.png holds ids up to 2"):
        _ = masks[2]


def test_a_set_of_boxes_is_no_set_of_masks(tmp_path: Path) -> None:
    videos.lasot(tmp_path / "LaSOT", names("lasot_train_split")[:1])
    with pytest.raises(InputError, match="lasot:train has no masks"):
        MaskSampler([open_training_set("lasot:train", tmp_path)], config=MaskSamplerConfig())
