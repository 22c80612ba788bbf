"""Synthetic training videos: exact boxes, masks, visibility and identities; any frame by itself; the same in all processes."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepsight.datasets.composite import CompositeConfig, CompositeSet, CompositeVideo, render_video
from keepsight.datasets.cutouts import (
    Backgrounds,
    BackgroundSource,
    CutOutConfig,
    CutOuts,
    DrawnBackgrounds,
    DrawnCutOuts,
    cut_out,
)
from keepsight.datasets.frames import ArrayFrames
from keepsight.datasets.sequence import Annotation, Masks, Sequence
from keepsight.datasets.tracks import SequenceSet, visible_frames
from keepsight.errors import InputError

SMALL = ((128, 96),)
CALM = CompositeConfig(
    sizes=SMALL, frames=20, side=(0.25, 0.5), enlarge=3.0, distractors=(1.0,), occluders=(1.0,), leave=0.0
)
OBJECTS, PLACES = DrawnCutOuts(kinds=6), DrawnBackgrounds(count=4, size=(160, 120))


def video(seed: int, config: CompositeConfig = CALM) -> CompositeVideo:
    return render_video(seed, config, OBJECTS, PLACES)


def extent(mask: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of the pixels that are set."""
    rows, cols = np.nonzero(mask)
    return np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1], dtype=np.float64)


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), axis=-1)


class Plain(BackgroundSource):
    """One grey level everywhere."""

    def __init__(self, level: int) -> None:
        self.level = level

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.full((60, 80, 3), self.level, np.uint8)


# ------------------------------------------------------------------------------------------------------ exact annotation


def test_boxes_are_the_extent_of_the_mask_where_nothing_hides_the_target() -> None:
    errors = []
    for seed in range(25):
        clip = video(seed)
        for k in (0, 9, 19):
            frame = clip[k]
            if frame.visibility == 1:
                errors.append(extent(frame.mask == 1) - corners(np.array(frame.box)))
                assert np.allclose(corners(np.array(frame.visible_box)), extent(frame.mask == 1))
    assert len(errors) > 40
    assert np.abs(errors).max() < 1.25  # pixels are whole, boxes are not
    assert np.abs(errors).mean() < 0.5
    assert np.abs(np.mean(errors, axis=0)).max() < 0.2  # to no side


def test_masks_are_where_the_target_is_painted() -> None:
    """Under an unchanging light, everything that differs from the empty background is the target, and the reverse."""
    still = replace(
        CALM, pan=(0, 0), shake=(0, 0), zoom=(0, 0), roll=(0, 0), gain=(0, 0), gamma=0, cast=0, shade=0, drop_shadow=0,
        harmony=(0, 0), recolour=0, retexture=0, defocus=(0, 0), shutter=(0, 0), noise=(0, 0), jpeg=0,
        magnify=(1, 1), sizes=((80, 60),),
    )  # fmt: skip
    for seed in range(6):
        pair = [render_video(seed, still, OBJECTS, Plain(level))[7] for level in (0, 255)]
        assert np.array_equal(pair[0].mask, pair[1].mask)
        shown = np.abs(pair[0].image.astype(int) - pair[1].image).max(axis=2)  # 255 × (1 - alpha)
        assert (
            np.array_equal(shown < 126, pair[0].mask == 1)
            or (np.abs(shown - 127)[(shown < 126) != (pair[0].mask == 1)] < 4).all()
        )
        assert (shown < 126).any()


def test_visibility_is_the_share_of_the_mask_that_is_left() -> None:
    crowded = replace(CALM, occluders=(0.0, 0.5, 0.5), distractors=(0.3, 0.7), meeting_gap=(0.2, 0.5), side=(0.3, 0.4))
    partly = 0
    for seed in range(12):
        clip = video(seed, crowded)
        target = clip._target
        for k in range(0, 20, 3):
            stamp = target.stamp(k, None, target.shape)
            assert stamp is not None
            whole = int((stamp.rgba[..., 3] > 127).sum())  # of the target alone, parts outside the frame included
            frame = clip[k]
            assert frame.visibility == pytest.approx((frame.mask == 1).sum() / whole)
            assert clip.visibilities[k] == pytest.approx(frame.visibility, abs=0.04)
            partly += 0.05 < frame.visibility < 0.95
    assert partly > 8


def test_the_box_stays_whole_behind_an_occluder_and_is_cut_at_the_border() -> None:
    hidden = 0
    for seed in range(10):
        behind = video(seed, replace(CALM, occluders=(0.0, 1.0), bars=1.0))
        free = video(seed)
        assert np.array_equal(behind.boxes, free.boxes, equal_nan=True)  # what passes in front changes no box
        hidden += int((behind.visibilities < free.visibilities - 0.2).sum())
        inside = free.boxes[np.isfinite(free.boxes[:, 0])]
        assert (corners(inside) >= 0).all()
        assert (corners(inside)[:, 2:] <= free.size).all()
    assert hidden > 5


def test_distractors_have_identities_boxes_and_labels() -> None:
    config = replace(CALM, distractors=(0.0, 0.0, 0.0, 1.0), same=0.3, kindred=0.7)
    seen = 0
    for seed in range(8):
        clip = video(seed, config)
        assert clip.identities == (1, 2, 3, 4)
        assert len(clip.labels) == 4
        assert set(clip.labels) == {clip.labels[0]}  # the same object or its kind
        assert clip.distractor_boxes.shape == (3, 20, 4)
        assert clip.distractor_visibilities.shape == (3, 20)
        frame = clip[11]
        for number, identity in enumerate((2, 3, 4)):
            share = clip.distractor_visibilities[number, 11]
            if share == 1:
                error = extent(frame.mask == identity) - corners(clip.distractor_boxes[number, 11])
                assert np.abs(error).max() < 1.5
                seen += 1
            elif share == 0:
                assert (frame.mask == identity).sum() < 30
    assert seen > 5
    others = video(3, replace(config, same=0.0, kindred=0.0))
    assert len(set(others.labels)) > 1


def test_the_target_leaves_and_returns() -> None:
    config = replace(CALM, leave=1.0, frames=60, away=(4, 10))
    returned = 0
    for seed in range(12):
        clip = video(seed, config)
        gone = clip.visibilities == 0
        assert clip.visible[0]
        assert gone.sum() >= 4
        assert (
            np.isnan(clip.boxes[gone]).all()
            or (clip.boxes[gone][np.isfinite(clip.boxes[gone, 0]), 2:] < 3).any(1).all()
        )
        assert not clip.visible[gone].any()
        k = int(np.flatnonzero(gone)[0])
        assert not (clip.mask(k) == 1).any()
        returned += bool(clip.visible[np.flatnonzero(gone)[-1] :].any())
    assert returned >= 8
    assert all((video(seed, replace(config, leave=0.0)).visibilities > 0).all() for seed in range(6))


# ----------------------------------------------------------------------------------------- the same frame, the same video


def test_a_frame_alone_is_the_frame_of_a_whole_pass() -> None:
    config = CompositeConfig(sizes=SMALL, frames=8)
    for seed in (1, 2):
        through = list(video(seed, config))
        assert [f.index for f in through] == list(range(8))
        alone = video(seed, config)[5]
        assert np.array_equal(alone.image, through[5].image)
        assert np.array_equal(alone.mask, through[5].mask)
        assert (alone.box, alone.visibility) == (through[5].box, through[5].visibility)
        assert np.array_equal(video(seed, config)[-3].image, alone.image)
        assert not np.array_equal(through[4].image, alone.image)
    with pytest.raises(IndexError):
        video(1, config)[8]


def digest() -> str:
    """Of some frames of some videos."""
    total = hashlib.sha256()
    for seed in (0, 1, 2):
        clip = video(seed, CompositeConfig(sizes=SMALL, frames=8))
        total.update(
            clip[3].image.tobytes() + clip[3].mask.tobytes() + clip.boxes.tobytes() + clip.visibilities.tobytes()
        )
    return total.hexdigest()


def test_the_same_in_another_process() -> None:
    assert digest() == digest()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_composite as t; print(t.digest())"
    )
    paths = [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == digest()


def test_seeds_differ_and_settings_are_apart() -> None:
    assert not np.array_equal(video(1).boxes, video(2).boxes)
    assert not np.array_equal(render_video((1, 2), CALM).boxes, render_video((1, 3), CALM).boxes)
    quiet, noisy = video(4, replace(CALM, noise=(0, 0), jpeg=0)), video(4, replace(CALM, noise=(6, 6), jpeg=0))
    assert np.array_equal(quiet.boxes, noisy.boxes)
    assert 4 < (quiet.image(3).astype(float) - noisy.image(3)).std() < 7.5
    fast = replace(CALM, speed=(0.2, 0.2), noise=(0, 0), jpeg=0, defocus=(0, 0))
    sharp, smeared = video(4, replace(fast, shutter=(0, 0))), video(4, replace(fast, shutter=(1, 1)))
    assert np.array_equal(sharp.mask(3), smeared.mask(3))
    change = np.abs(sharp.image(3).astype(int) - smeared.image(3)).max(axis=2)
    assert change[sharp.mask(3) == 1].mean() > 1  # on the object, which moves


def test_a_video_survives_pickling() -> None:
    clip = video(5)
    image = clip.image(4)  # what was rendered travels too
    again = pickle.loads(pickle.dumps(clip))
    assert np.array_equal(again.image(4), image)
    assert np.array_equal(again.boxes, clip.boxes)


# ---------------------------------------------------------------------------------------------------- as a training set


class Counting(DrawnBackgrounds):
    """Counts the backgrounds that were asked for."""

    drawn = 0

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        self.drawn += 1
        return super().draw(rng)


def test_a_training_set_is_lazy_and_agrees_with_its_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Counting(count=2, size=(160, 120))
    config = CompositeConfig(sizes=SMALL, frames=12, retexture=0.0)
    videos = CompositeSet(1000, seed=3, config=config, cutouts=OBJECTS, backgrounds=places)
    assert (len(videos), videos.is_video) == (1000, True)
    sequence = videos[998]
    assert len(sequence) == len(sequence.frames) == 12
    assert (sequence.name, sequence.dataset) == ("000998", "composite")
    clip = videos.video(998)
    assert np.array_equal(sequence.boxes, clip.boxes, equal_nan=True)
    assert np.array_equal(visible_frames(sequence), clip.visible)
    assert sequence.annotation.image_size == (128, 96)
    assert places.drawn == 0  # the annotation needs no picture
    rendered = []
    monkeypatch.setattr(CompositeVideo, "image", _noted(CompositeVideo.image, rendered))
    assert np.array_equal(sequence.frames[7], clip.image(7))
    assert rendered == [7, 7]  # this frame alone, once by each
    masks = sequence.annotation.masks
    assert masks is not None
    assert len(masks) == 12
    assert np.array_equal(masks[7], clip.mask(7))
    assert sequence.annotation.objects == clip.identities
    assert np.array_equal(videos[-2].boxes, sequence.boxes, equal_nan=True)
    with pytest.raises(IndexError):
        videos[1000]


def _noted(method, calls):
    def call(self, index):
        calls.append(index)
        return method(self, index)

    return call


def test_sequences_travel_to_other_processes_without_their_pictures() -> None:
    videos = CompositeSet(10, config=CompositeConfig(sizes=SMALL, frames=6), cutouts=OBJECTS, backgrounds=PLACES)
    sequence = videos[4]
    image = sequence.frames[2]
    packed = pickle.dumps(sequence)
    assert len(packed) < 8000
    again = pickle.loads(packed)
    assert np.array_equal(again.frames[2], image)
    assert np.array_equal(again.boxes, sequence.boxes, equal_nan=True)


def test_without_files() -> None:
    sequence = CompositeSet(5, config=CompositeConfig(sizes=SMALL, frames=5))[2]
    assert sequence.frames[0].shape == (96, 128, 3)
    assert sequence.frames[0].dtype == np.uint8
    assert sequence.frames[0].std() > 5


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"frames": 0}, "frames"),
        ({"sizes": ()}, "sizes"),
        ({"sizes": ((640, 10),)}, "sizes"),
        ({"side": (0.5, 0.1)}, "side"),
        ({"side": (0.0, 0.1)}, "side"),
        ({"scale_range": (1.2, 1.5)}, "scale_range"),
        ({"deformation": (0.0, 0.3)}, "deformation"),
        ({"magnify": (0.5, 1.2)}, "magnify"),
        ({"noise": (-1.0, 2.0)}, "noise"),
        ({"noise": (0.0, float("nan"))}, "noise"),
        ({"leave": 1.5}, "leave"),
        ({"aspect": -0.1}, "aspect"),
        ({"distractors": (0.0, 0.0)}, "distractors"),
        ({"occluders": ()}, "occluders"),
        ({"jpeg_quality": (0, 50)}, "jpeg_quality"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        CompositeConfig(**options)  # type: ignore[arg-type]


def test_bad_seeds_and_counts_are_refused() -> None:
    with pytest.raises(InputError, match="seed"):
        render_video(-1)
    with pytest.raises(InputError, match="videos"):
        CompositeSet(0)
    with pytest.raises(InputError, match="kinds"):
        DrawnCutOuts(kinds=0)


def pair(least: float, most: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(least, most), st.floats(least, most)).map(lambda p: (min(p), max(p)))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    frames=st.integers(1, 9),
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    side=pair(0.02, 1.0),
    speed=pair(0.001, 2.0),
    magnify=pair(1.0, 4.0),
    pan=pair(0.0, 0.2),
    shake=pair(0.0, 0.2),
    spin=st.sampled_from((0.0, 1.0)),
    leave=st.sampled_from((0.0, 1.0)),
    deformation=pair(0.0, 0.08),
    away=st.integers(0, 20),
    crowd=st.integers(0, 2),
)
def test_any_settings_give_a_sound_video(
    seed, frames, size, side, speed, magnify, pan, shake, spin, leave, deformation, away, crowd
) -> None:
    config = CompositeConfig(
        frames=frames, sizes=(size,), side=side, speed=speed, magnify=magnify, pan=pan, shake=shake, spin=spin, leave=leave,
        deformation=deformation, away=(0, away), distractors=(0.0,) * crowd + (1.0,), occluders=(0.0,) * crowd + (1.0,),
        retexture=0.5, recolour=0.5, shade=0.5, shutter=(0.0, 1.0),
    )  # fmt: skip
    clip = video(seed, config)
    frame = clip[seed % frames]
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.image.dtype == frame.mask.dtype == np.uint8
    assert set(np.unique(frame.mask)) <= {0, *clip.identities}
    assert ((clip.visibilities >= 0) & (clip.visibilities <= 1)).all()
    assert 0 <= frame.visibility <= 1
    assert np.isfinite(clip.amodal).all()
    assert (clip.amodal[:, 2:] > 0).all()
    there = clip.boxes[np.isfinite(clip.boxes).all(axis=1)]
    assert (corners(there) >= 0).all()
    assert (corners(there)[:, 2:] <= np.array(size) + 1e-9).all()


# ---------------------------------------------------------------------------------------------------- sources of objects


class OneMask(Masks):
    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids


def annotated(mask: np.ndarray, name: str = "a", inside: int = 200, outside: int = 20) -> Sequence:
    """A still image with one object: bright where ``mask``."""
    image = np.where(mask[..., None], np.uint8(inside), np.uint8(outside)).repeat(3, axis=2)
    x0, y0, x1, y1 = extent(mask)
    known = Annotation(np.array([[x0, y0, x1 - x0, y1 - y0]]), masks=OneMask(mask.astype(np.uint8)), objects=(1,))
    return Sequence(name, "drawn", ArrayFrames([image]), lambda: known)


def disc(x: int, y: int, r: int) -> np.ndarray:
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (x, y), r, 1, -1)
    return mask.astype(bool)


def test_an_object_is_cut_out_without_its_surroundings() -> None:
    sequence = annotated(disc(80, 60, 25))
    cuts = CutOuts(SequenceSet("drawn", [sequence], is_video=False))
    cut = cuts.draw(np.random.default_rng(0), side=30)
    assert cut is not None
    assert cut.identity == "drawn/a"
    assert cut.side == pytest.approx(49, abs=2.5)  # 51 less the ring that is not trusted
    seen = cut.rgba[..., 3] > 8
    assert (cut.rgba[seen][:, :3] > 195).all()  # nothing of the dark background, not even in the soft edge
    assert (cut.rgba[0, :, 3] == 0).all()
    assert (cut.rgba[:, -1, 3] == 0).all()
    assert ((cut.rgba[..., 3] > 20) & (cut.rgba[..., 3] < 235)).any()
    assert cuts.draw(np.random.default_rng(0), label="thing") is None  # the set has no labels


def test_objects_that_are_cut_off_small_or_in_pieces_are_left_out() -> None:
    good = disc(80, 60, 25)
    ring = disc(80, 60, 40) & ~disc(80, 60, 34)
    cases = {
        "whole": good,
        "border": disc(10, 60, 25),
        "small": disc(80, 60, 8),
        "pieces": disc(40, 60, 20) | disc(120, 60, 20),
        "comb": disc(80, 60, 40) & (np.arange(160) % 8 < 2)[None],
    }
    objects = SequenceSet("drawn", [annotated(mask, name) for name, mask in cases.items()], is_video=False)
    cuts, rng = CutOuts(objects), np.random.default_rng(1)
    assert {cuts.draw(rng).identity for _ in range(30)} == {"drawn/whole"}  # type: ignore[union-attr]
    assert cut_out(np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), bool)) is None
    assert cut_out(np.zeros((120, 160, 3), np.uint8), ring, CutOutConfig(fill=0.5)) is None
    with pytest.raises(InputError, match="could be cut out"):
        CutOuts(SequenceSet("drawn", [annotated(cases["small"])], is_video=False)).draw(rng)
    with pytest.raises(InputError, match="no objects"):
        CutOuts(SequenceSet("drawn", [], is_video=False))


class Labelled(SequenceSet):
    labels = ("cup", "dog", "dog")


def test_objects_of_a_label_and_of_a_size() -> None:
    masks = [disc(80, 60, r) for r in (20, 30, 45)]
    objects = Labelled("drawn", [annotated(m, str(i)) for i, m in enumerate(masks)], is_video=False)
    cuts, rng = CutOuts(objects), np.random.default_rng(2)
    assert {cuts.draw(rng, label="dog").identity for _ in range(20)} == {"drawn/1", "drawn/2"}  # type: ignore[union-attr]
    assert {cuts.draw(rng, side=70).identity for _ in range(10)} == {"drawn/2"}  # type: ignore[union-attr]
    assert cuts.draw(rng, side=500) is not None  # the largest size there is, sooner or later
    assert cuts.draw(rng, label="cat") is None
    assert cuts.draw(rng, label="cup").label == "cup"  # type: ignore[union-attr]


def test_photographs_from_a_folder(tmp_path: Path) -> None:
    for level in (40, 200):
        cv2.imwrite(str(tmp_path / f"{level}.png"), np.full((50, 70, 3), level, np.uint8))
    places = pickle.loads(pickle.dumps(Backgrounds(tmp_path)))
    rng = np.random.default_rng(0)
    assert {int(places.draw(rng)[0, 0, 0]) for _ in range(20)} == {40, 200}
    assert len(Backgrounds([tmp_path / "40.png"])) == 1
    with pytest.raises(InputError, match="no images"):
        Backgrounds(tmp_path / "nowhere")


def test_real_cut_outs_over_real_photographs() -> None:
    root = Path(__file__).parents[3] / "shared" / "data" / "train"
    if not (root / "index.jsonl").is_file():
        pytest.skip(f"{root} is absent")
    from keepsight.datasets.shared_train import SharedObjects, backgrounds

    objects = CutOuts(SharedObjects("shared", root, commercial_only=False, masks_only=True))
    videos = CompositeSet(
        100, config=CompositeConfig(sizes=SMALL), cutouts=objects, backgrounds=Backgrounds(backgrounds(root, False))
    )
    clip = videos.video(11)
    frame = clip[int(np.argmax(clip.visibilities))]
    assert frame.visibility > 0.95
    assert clip.labels[0]
    assert frame.image.std() > 10
