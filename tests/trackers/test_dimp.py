"""The DiMP loop where the golden traces do not look: densities, options, quirks, updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import moving_square, small_dimp, small_net

import keepsight as ks
from keepsight.images import AugmentationConfig, CropConfig
from keepsight.online.localise import LocalisationConfig
from keepsight.trackers.dimp import DiMPConfig, DiMPTracker, preset, presets

FRAMES, BOXES = moving_square(8)
ALWAYS = LocalisationConfig(target_not_found=-1e9, distractor=1e9, hard_negative=1e9)


def test_densities_sum_to_one_and_cover_the_search_region():
    tracker = small_dimp("prdimp18", localisation=LocalisationConfig("softmax", target_not_found=0.0, distractor=1e9))
    tracker.init(FRAMES[0], boxes=[BOXES[0], (80, 60, 30, 30)])
    with pytest.raises(ks.InputError, match="update"):
        tracker.densities()
    results = tracker.update_all(FRAMES[1])
    found = tracker.densities()
    assert len(found) == 2
    for density, result in zip(found, results, strict=True):
        for part in (density.centre, density.position, density.size):
            assert part.sum() == pytest.approx(1, abs=1e-6)
            assert (part >= 0).all()
        assert (density.position_offsets[0], density.position_offsets[-1]) == (-1, 1)
        assert density.size_factors[0] == pytest.approx(1 / 3)
        assert density.size_factors[-1] == pytest.approx(3)
        assert density.box == pytest.approx(result.box_unclipped)
        # the region holds 7 cells of 16 pixels around the crop's centre, where the previous box was
        assert density.centre.shape == (7, 7)
        w, h = density.centre_region[2:]
        assert (w, h) == pytest.approx((7 * 16 * tracker._last.views[0].scale,) * 2, rel=0.7)
    first = found[0].centre_region
    cx, cy = BOXES[0][0] + BOXES[0][2] / 2, BOXES[0][1] + BOXES[0][3] / 2
    assert first.x + first.w / 2 == pytest.approx(cx, abs=1.5)
    assert first.y + first.h / 2 == pytest.approx(cy, abs=1.5)


def test_position_density_is_the_softmax_of_the_overlap_predictor():
    from keepsight.nn.iou_net import BoxScorer, Modulation

    tracker = small_dimp("prdimp18", localisation=LocalisationConfig("softmax", target_not_found=0.0, distractor=1e9))
    tracker.init(FRAMES[0], box=BOXES[0])
    tracker.update(FRAMES[1])
    density, target = tracker.densities()[0], tracker._current().targets[0]
    features, view = tracker._last.features, tracker._last.views[0]
    net = tracker.net.bb_regressor
    x, y, w, h = view.to_crop(target.pos, target.size)
    offsets = torch.tensor(density.position_offsets, dtype=torch.float32)
    boxes = torch.stack(
        [torch.stack((x + c * w, y + r * h, torch.tensor(w), torch.tensor(h))) for r in offsets for c in offsets]
    )
    with torch.no_grad():
        maps = net.test_features(features.layer2, features.layer3)
        modulation = Modulation(target.modulation3, target.modulation4)
        scores = net.predict(modulation, maps, boxes[None].float())[0]
    want = torch.softmax(scores.double(), 0).view(len(offsets), -1).numpy()
    assert np.allclose(density.position, want, rtol=1e-3, atol=1e-9)
    assert isinstance(tracker._scorer(target, features), BoxScorer)


def test_only_probabilistic_trackers_have_densities():
    tracker = small_dimp("dimp18")
    tracker.init(FRAMES[0], box=BOXES[0])
    tracker.update(FRAMES[1])
    with pytest.raises(ks.InputError, match="prdimp18"):
        tracker.densities()


def run(tracker, frames=FRAMES, box=BOXES[0]):
    tracker.init(frames[0], box=box)
    return [tracker.update(f) for f in frames[1:]]


def test_updates_say_when_and_why():
    results = run(small_dimp("dimp18", localisation=ALWAYS, train_skipping=3))
    assert [r.update_reason for r in results] == [
        "not due", "not due", "scheduled", "not due", "not due", "scheduled", "not due",
    ]  # fmt: skip
    assert [r.updated for r in results] == [False, False, True, False, False, True, False]
    lost = run(small_dimp("dimp18", localisation=replace(ALWAYS, target_not_found=1e9)))
    assert {(r.status, r.updated, r.update_reason) for r in lost} == {(ks.Status.LOST, False, "target lost")}
    assert {r.box_unclipped for r in lost} == {ks.Box(*BOXES[0])}  # the last known box
    unsure = run(small_dimp("dimp18", localisation=replace(ALWAYS, uncertain=1e9)))
    assert {(r.status, r.update_reason) for r in unsure} == {(ks.Status.UNCERTAIN, "location uncertain")}
    hard = run(small_dimp("dimp18", localisation=replace(ALWAYS, hard_sample=1e9)))
    assert {(r.flag, r.updated, r.update_reason) for r in hard} == {("hard_negative", True, "hard negative")}
    low = run(small_dimp("dimp18", localisation=ALWAYS, low_score_threshold=1e9, low_score_iterations=2))
    assert {(r.updated, r.update_reason) for r in low} == {(True, "low score")}


def test_presence_is_one_half_at_the_threshold():
    from keepsight.trackers.base import presence_from_score

    assert presence_from_score(0.25, 0.25) == 0.5
    assert presence_from_score(-1, 0.25) == 0
    assert 0.5 < presence_from_score(1, 0.25) < presence_from_score(2, 0.25) < 1


def test_half_pixel_bias_can_be_switched_off():
    kept = run(small_dimp("dimp18", localisation=ALWAYS))
    fixed = run(small_dimp("dimp18", localisation=ALWAYS, keep_half_pixel_bias=False))
    assert kept[0].box_unclipped.x > fixed[0].box_unclipped.x
    assert kept[0].box_unclipped.w == pytest.approx(fixed[0].box_unclipped.w)


def test_modulation_from_augmented_samples():
    plain, averaged = small_dimp("dimp18"), small_dimp("dimp18", modulation_from_augmented=True)
    for tracker in (plain, averaged):
        tracker.init(FRAMES[0], box=BOXES[0])
    a, b = (t._current().targets[0].modulation3 for t in (plain, averaged))
    assert a.shape == b.shape == (1, 256)
    assert not torch.allclose(a, b)


def test_memory_stays_bounded():
    tracker = small_dimp("dimp18", localisation=ALWAYS)
    tracker.init(FRAMES[0], box=BOXES[0])
    shape = tracker._current().targets[0].memory.cells.shape
    for i in range(3 * shape[1]):
        tracker.update(FRAMES[i % len(FRAMES)])
    memory = tracker._current().targets[0].memory
    assert memory.cells.shape == shape
    assert memory.stored > shape[1]
    assert memory.weights.sum() == pytest.approx(1)
    assert memory.weights[: memory.initial].sum() >= 0.25 - 1e-9


@pytest.mark.parametrize("name", list(presets()))
def test_presets_are_consistent(name):
    config = preset(name)
    assert config.memory.size >= 15
    assert config.sample_size % 32 == 0


@pytest.mark.parametrize(
    "change",
    [
        {"sample_size": 100}, {"train_skipping": 0}, {"sample_interval": 0}, {"crop": CropConfig("inside")},
    ],
)  # fmt: skip
def test_contradictory_settings_are_refused(change):
    with pytest.raises(ks.InputError):
        replace(DiMPConfig(), **change)


def test_first_frame_samples_must_fit_the_memory():
    config = replace(preset("dimp18"), sample_size=64, memory=replace(preset("dimp18").memory, size=5))
    tracker = DiMPTracker("dimp18", config, small_net("dimp18"), torch.device("cpu"))
    with pytest.raises(ks.InputError, match="5 slots"):
        tracker.init(FRAMES[0], box=BOXES[0])


def test_samples_of_the_first_frame():
    tracker = small_dimp("dimp18")
    tracker.init(FRAMES[0], box=BOXES[0])
    memory = tracker._current().targets[0].memory
    assert memory.initial == 15  # 1 + 4 shifts + mirror + 3 blurs + 4 rotations + 2 dropout copies; spec §7.3
    none = small_dimp(
        "dimp18", augmentation=AugmentationConfig(fliplr=False, rotate=(), blur=(), relativeshift=(), dropout=None)
    )
    none.init(FRAMES[0], box=BOXES[0])
    assert none._current().targets[0].memory.initial == 1


def test_many_targets_share_one_backbone_pass(monkeypatch):
    tracker = small_dimp("dimp18", localisation=ALWAYS)
    tracker.init(FRAMES[0], boxes=[BOXES[0], (80, 60, 30, 30), (10, 70, 20, 20)])
    batches = []
    extract = tracker.net.extract
    monkeypatch.setattr(tracker.net, "extract", lambda crops: batches.append(len(crops)) or extract(crops))
    assert len(tracker.update_all(FRAMES[1])) == 3
    assert batches == [3]
