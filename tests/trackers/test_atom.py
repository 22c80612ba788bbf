"""ATOM's loop where the golden traces do not look: presets, ablations, options, quirks, updates, saved states."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import moving_square, small_atom

import keepsight as ks
import keepsight.trackers.atom as atom
from keepsight.boxes import iou
from keepsight.errors import InputError
from keepsight.images import AugmentationConfig, CropConfig, sample_scales
from keepsight.nn.gauss_newton import SearchState, SolverConfig, gradient_descent
from keepsight.online.localise import HARD_NEGATIVE, NORMAL, NOT_FOUND, LocalisationConfig
from keepsight.online.memory import MemoryConfig
from keepsight.online.search import View
from keepsight.trackers.atom import AtomConfig, preset, presets, principal_directions

FRAMES, BOXES = moving_square(8)
ALWAYS = LocalisationConfig(target_not_found=-1e9, distractor=1e9, hard_negative=1e9)
LOST, UNSURE = replace(ALWAYS, target_not_found=1e9), replace(ALWAYS, uncertain=1e9)
HARD = replace(ALWAYS, hard_sample=1e9)


def run(tracker, frames=FRAMES, box=BOXES[0]):
    tracker.init(frames[0], box=box)
    return [tracker.update(f) for f in frames[1:]]


def target_of(tracker):
    return tracker._current().targets[0]


def overlaps(results) -> list[float]:
    found = torch.tensor([r.box_unclipped for r in results], dtype=torch.float64)
    return iou(found, torch.tensor(BOXES[1:], dtype=torch.float64)).tolist()


# --- presets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_tracks(name):
    for r in run(small_atom(name), FRAMES[:4]):
        assert all(math.isfinite(v) for v in (*r.box, *r.box_unclipped, r.score))
        assert min(r.box.w, r.box.h) > 0
        assert r.update_reason


def test_published_presets():
    """Spec §7.9; the sizes that small_atom replaces."""
    atom_, vot, paper = preset("atom"), preset("atom_vot"), preset("atom_paper")
    assert (atom_.sample_size, atom_.memory.size, atom_.kernel_size, atom_.projected_channels) == (288, 250, 4, 64)
    augmentation = atom_.augmentation
    transforms = 2 + len(augmentation.rotate) + len(augmentation.blur) + len(augmentation.relativeshift)
    assert transforms + augmentation.dropout[0] == 30
    assert atom_.init_solver == SolverConfig(6, 10, "fletcher_reeves", (0.1, 1e-4))
    assert (vot.sample_size, vot.memory.min_init_weight, vot.localisation.window) == (224, 0, True)
    assert paper.init_solver == SolverConfig.paper(6, 10)
    assert paper.update_solver.direction == "fletcher_reeves"
    assert preset("atom_multiscale").refine is None
    # BackProp calls: one for a linearisation, two for an iteration
    assert (preset("atom_gd").init_descent.steps, preset("atom_gd").update_descent.steps) == (126, 11)
    assert (preset("atom_gdpp").init_descent.steps, preset("atom_gdpp").update_descent.steps) == (630, 55)
    with pytest.raises(ks.InputError, match="atom_vot"):
        preset("atom_vto")


# --- does the classifier learn? ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["atom_multiscale", "atom_no_refinement"])
@pytest.mark.parametrize("change", [{}, {"kernel_size": 5}, {"projection_init": "pca"}, {"filter_init": "zeros"}])
def test_what_it_learns_online_finds_the_target(name, change):
    """Random features, no overlap predictor: everything known about the target was learnt in the first frame."""
    scales = {"scale_factors": (1.0,)} if name == "atom_no_refinement" else {}
    results = run(small_atom("atom_multiscale", sample_size=192, **scales, **change))
    assert np.mean(overlaps(results)) > 0.6  # a box that stays where it was: 0.22
    assert min(overlaps(results)) > 0.3
    assert min(r.score for r in results) > 0.25
    nothing = small_atom("atom_multiscale", sample_size=192, init_solver=SolverConfig(0, 0), localisation=ALWAYS)
    assert np.mean(overlaps(run(nothing))) < 0.4


def test_updates_help():
    """The square slowly turns into another: a filter that goes on learning sees it better than one that does not."""
    rng = np.random.default_rng(5)
    other = rng.integers(0, 255, (24, 20, 3), dtype=np.uint8)
    frames = []
    for i, (frame, (x, y, w, h)) in enumerate(zip(*moving_square(16), strict=True)):
        changed, share = frame.copy(), min(i / 10, 1)
        part = changed[int(y) : int(y + h), int(x) : int(x + w)]
        part[:] = (1 - share) * part + share * other
        frames.append(changed)
    memory = MemoryConfig(24, learning_rate=0.1)
    settings = {"sample_size": 192, "scale_factors": (1.0,), "localisation": ALWAYS, "memory": memory}
    learning = run(small_atom("atom_multiscale", train_skipping=1, **settings), frames)
    fixed = run(small_atom("atom_multiscale", train_skipping=1000, **settings), frames)
    assert all(r.updated for r in learning)
    assert not any(r.updated for r in fixed)
    assert np.mean([r.score for r in learning[-5:]]) > np.mean([r.score for r in fixed[-5:]]) + 0.05


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("exact", [True, False])
def test_the_first_frame_again(kernel, exact):
    """Half a cell of error anywhere between label, filter and score map would move the box by 5 pixels."""
    tracker = small_atom(
        "atom_multiscale", sample_size=192, scale_factors=(1.0,), kernel_size=kernel, use_crop_coordinates=exact
    )
    tracker.init(FRAMES[0], box=BOXES[0])
    box = tracker.update(FRAMES[0]).box_unclipped
    assert abs(box.x - BOXES[0][0]) < 2.5
    assert abs(box.y - BOXES[0][1]) < 2.5


# --- ablations ---------------------------------------------------------------------------------------------------------------


def test_multi_scale_changes_size_by_its_factors_alone():
    tracker = small_atom("atom_multiscale", localisation=ALWAYS)
    tracker.init(FRAMES[0], box=BOXES[0])
    before, factors, seen = (BOXES[0][2], BOXES[0][3]), preset("atom_multiscale").scale_factors, set()
    for frame in FRAMES[1:]:
        box = tracker.update(frame).box_unclipped
        ratios = box.w / before[0], box.h / before[1]
        assert ratios[0] == pytest.approx(ratios[1])
        nearest = min(factors, key=lambda f, r=ratios[0]: abs(f - r))
        assert ratios[0] == pytest.approx(nearest)
        seen.add(nearest)
        before = box.w, box.h
    assert len(seen) > 1
    assert target_of(tracker).modulation3.numel() == 0


def test_scale_stays_within_its_limits():
    """A target of ten pixels at least, and no larger than the frame."""
    for factor, side in ((0.5, 10.0), (2.0, 120.0)):
        tracker = small_atom("atom_multiscale", scale_factors=(factor,), localisation=ALWAYS)
        results = run(tracker)
        w, h = results[-1].box_unclipped[2:]
        assert (min(w, h) if factor < 1 else max(w, h)) == pytest.approx(side)


def test_without_classifier():
    tracker = small_atom("atom_no_classifier", train_skipping=1, localisation=HARD)
    results = run(tracker)
    assert {(r.flag, r.updated, r.update_reason) for r in results} == {(NORMAL, False, "no classifier")}
    target = target_of(tracker)
    assert target.memory is None
    assert target.filter.numel() == target.projection.numel() == 0
    assert len({r.box for r in results}) > 1  # the overlap predictor goes on
    assert all(-2 < r.score < 2 for r in results)  # its value


def test_without_hard_negatives():
    with_, without = small_atom("atom", localisation=HARD), small_atom("atom_no_hard_negatives", localisation=HARD)
    results = run(with_, FRAMES[:4]), run(without, FRAMES[:4])
    assert {(r.flag, r.updated, r.update_reason) for r in results[0]} == {(HARD_NEGATIVE, True, "hard negative")}
    assert {(r.flag, r.updated, r.update_reason) for r in results[1]} == {(HARD_NEGATIVE, False, "not due")}
    rates = with_.config.memory.hard_negative_learning_rate, with_.config.memory.learning_rate
    for tracker, rate in zip((with_, without), rates, strict=True):
        memory = target_of(tracker).memory
        assert memory.stored == memory.initial + 3
        # each new sample weighs 1 / (1 - rate) of the last, and the first `rate` before all are scaled
        last = memory.weights[memory.previous]
        assert last / memory.weights[memory.previous - 1] == pytest.approx(1 / (1 - rate))


def test_hard_negative_iterations_may_be_zero():
    results = run(small_atom("atom", localisation=HARD, hard_negative_iterations=0))
    assert {(r.updated, r.update_reason) for r in results} == {(False, "hard negative, no iterations configured")}


def test_gradient_descent_in_place_of_the_solver(monkeypatch):
    def solver(*args):
        raise AssertionError("the solver was called")

    monkeypatch.setattr(atom, "minimise", solver)
    tracker = small_atom("atom_gd", train_skipping=1, localisation=ALWAYS)
    tracker.init(FRAMES[0], box=BOXES[0])
    before = target_of(tracker).filter.clone()
    assert tracker.update(FRAMES[1]).updated
    assert not torch.equal(target_of(tracker).filter, before)
    with pytest.raises(AssertionError, match="was called"):
        small_atom("atom").init(FRAMES[0], box=BOXES[0])


def test_without_the_reference():
    """'iounet_not_use_reference': all channels are modulated alike."""
    plain, constant = small_atom("atom"), small_atom("atom", reference=False)
    for tracker in (plain, constant):
        tracker.init(FRAMES[0], box=BOXES[0])
    a, b = target_of(plain).modulation3, target_of(constant).modulation3
    assert a.shape == b.shape
    assert a.unique().numel() > 1
    assert b.flatten().tolist() == pytest.approx([float(a.norm()) / a.numel()] * a.numel())


# --- when it learns ----------------------------------------------------------------------------------------------------------


def test_updates_say_when_and_why():
    results = run(small_atom("atom", localisation=ALWAYS, train_skipping=3))
    assert [r.update_reason for r in results] == [
        "not due", "not due", "scheduled", "not due", "not due", "scheduled", "not due",
    ]  # fmt: skip
    assert [r.updated for r in results] == [False, False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("table", "status", "reason"), [(LOST, "LOST", "target lost"), (UNSURE, "UNCERTAIN", "location uncertain")]
)
@pytest.mark.parametrize("remember", [False, True])
def test_scheduled_updates_happen_whatever_the_frame_shows(table, status, reason, remember):
    """§7.11: 'regardless of flag'; but the frame itself is not remembered, unless the settings want it."""
    tracker = small_atom("atom", localisation=table, train_skipping=3, remember_doubtful=remember)
    tracker.init(FRAMES[0], box=BOXES[0])
    filters = [target_of(tracker).filter.clone()]
    results = []
    for frame in FRAMES[1:]:
        results.append(tracker.update(frame))
        filters.append(target_of(tracker).filter.clone())
    assert {r.status for r in results} == {ks.Status[status]}
    assert [r.update_reason for r in results] == [reason, reason, "scheduled", reason, reason, "scheduled", reason]
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(filters)]
    assert changed == [r.updated for r in results] == [False, False, True, False, False, True, False]
    memory = target_of(tracker).memory
    assert memory.stored == memory.initial + (7 if remember else 0)
    if status == "LOST":
        assert {r.box_unclipped for r in results} == {ks.Box(*BOXES[0])}  # the last known box


def test_uncertain_frames_may_leave_the_scale_alone():
    moved = small_atom("atom", localisation=UNSURE)
    kept = small_atom("atom", localisation=UNSURE, update_scale_when_uncertain=False)
    for tracker in (moved, kept):
        tracker.init(FRAMES[0], box=BOXES[0])
    scale = target_of(kept).scale
    for tracker in (moved, kept):
        tracker.update(FRAMES[1])
    assert target_of(kept).scale == scale != target_of(moved).scale


def test_memory_stays_bounded():
    tracker = small_atom("atom", localisation=ALWAYS)
    tracker.init(FRAMES[0], box=BOXES[0])
    shape = target_of(tracker).memory.cells.shape
    for i in range(2 * shape[1]):
        tracker.update(FRAMES[i % len(FRAMES)])
    memory = target_of(tracker).memory
    assert memory.cells.shape == shape == (1, 16, 36, 8)  # projected features alone
    assert memory.targets.shape == (16, 1, 6, 6)
    assert memory.stored > shape[1]
    assert memory.weights[: memory.initial].sum() >= 0.25 - 1e-9


def test_first_frame_must_fit_the_memory():
    with pytest.raises(ks.InputError, match="5 slots"):
        small_atom("atom", memory=MemoryConfig(5)).init(FRAMES[0], box=BOXES[0])


# --- several targets, saved states, seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["atom", "atom_multiscale", "atom_no_classifier"])
def test_several_targets_are_followed_as_if_alone(name):
    boxes = [BOXES[0], (80, 60, 30, 30), (10, 70, 20, 20)]
    settings = {"localisation": ALWAYS, "train_skipping": 2}
    together = small_atom(name, **settings)
    together.init(FRAMES[0], boxes=boxes)
    batches = []
    extract = together.net.extract
    together.net.extract = lambda crops: batches.append(len(crops)) or extract(crops)
    found = [together.update_all(f) for f in FRAMES[1:4]]
    assert sum(batches) == 3 * 3 * len(together.config.scale_factors)
    for i, box in enumerate(boxes):
        alone = small_atom(name, **settings)
        alone._random_source = lambda index, i=i, t=alone: type(t)._random_source(t, i)  # the stream of the i-th target
        for results, single in zip(found, run(alone, FRAMES[:4], box), strict=True):
            assert results[i].box_unclipped == pytest.approx(
                single.box_unclipped, abs=0.05
            )  # batches round differently
            assert results[i].updated == single.updated


@pytest.mark.parametrize("name", ["atom", "atom_multiscale", "atom_no_classifier", "atom_gd"])
def test_saved_state_continues_identically(name, tmp_path):
    solver = SolverConfig(1, 3, forgetting=0.6)
    settings = {"localisation": ALWAYS, "train_skipping": 2, "update_solver": solver}
    tracker = small_atom(name, **settings)
    tracker.init(FRAMES[0], boxes=[BOXES[0], (80, 60, 30, 30)])
    for frame in FRAMES[1:4]:
        tracker.update_all(frame)
    tracker.save_state(tmp_path / "state.safetensors")
    other = small_atom(name, seed=9, **settings)
    other.load_state(tmp_path / "state.safetensors")
    for frame in FRAMES[4:]:
        one, two = tracker.update_all(frame), other.update_all(frame)
        for a, b in zip(one, two, strict=True):
            assert replace(a, milliseconds=0) == replace(b, milliseconds=0)
    a, b = target_of(tracker), target_of(other)
    assert torch.equal(a.filter, b.filter)
    if name in ("atom", "atom_multiscale"):
        assert torch.equal(a.search.direction[0], b.search.direction[0])
        assert torch.equal(a.search.previous[0], b.search.previous[0])
        assert a.search.rho == b.search.rho != 1
    with pytest.raises(ks.StateError, match="settings"):
        small_atom(name, localisation=LOST).load_state(tmp_path / "state.safetensors")


def test_kept_directions_matter():
    """Without the state of the search the next update is another one: it is worth saving."""
    settings = {"localisation": ALWAYS, "train_skipping": 2, "update_solver": SolverConfig(1, 3, forgetting=0.6)}
    filters = []
    for forget in (False, True):
        tracker = small_atom("atom", **settings)
        tracker.init(FRAMES[0], box=BOXES[0])
        for i, frame in enumerate(FRAMES[1:5]):
            if forget and i == 3:
                target_of(tracker).search = SearchState()
            tracker.update(frame)
        filters.append(target_of(tracker).filter)
    assert not torch.allclose(*filters)


def test_seeds():
    one, again, other = (run(small_atom("atom", seed=s), FRAMES[:3])[-1].box_unclipped for s in (3, 3, 4))
    assert one == again != other


# --- options and quirks ------------------------------------------------------------------------------------------------------


def started(**changes):
    tracker = small_atom("atom", **changes)
    tracker.init(FRAMES[0], box=BOXES[0])
    return tracker, target_of(tracker)


def peaks(*cells: tuple[int, int, float]) -> torch.Tensor:
    """Raw scores (1, 6, 6) of one scale."""
    raw = torch.zeros(1, 6, 6)
    for row, col, value in cells:
        raw[0, row, col] = value
    return raw


def test_scores_become_translations():
    """Cell 3 of 6 is the centre of an even filter's map; a cell is 16 crop pixels."""
    tracker, target = started(nyquist_double=False, localisation=ALWAYS)
    view = View((50.0, 60.0), 1.5, 96)
    for cell, move in (((3, 3), (0, 0)), ((2, 4), (-1, 1)), ((1, 5), (-2, 2))):
        where, chosen = tracker._localise(target, [view], peaks((*cell, 1.0)))
        assert where.translation == (move[0] * 24, move[1] * 24)
        assert where.max_score == pytest.approx(1)
        assert chosen == 0
    odd, _ = started(kernel_size=3, nyquist_double=False, localisation=ALWAYS)
    where, _ = odd._localise(target, [view], peaks((3, 2, 1.0)))
    assert where.translation == (12, -12)  # between two cells: the centre of an odd filter's map of even size
    doubled, _ = started(localisation=ALWAYS)
    assert doubled._localise(target, [view], peaks((3, 3, 1.0)))[0].max_score == pytest.approx((7 / 6) ** 2)  # Q10


def test_chosen_scale_and_its_translation():
    """Quirk Q11: in the advanced table the chosen factor is left out of the translation."""
    factors = (0.5, 1.0, 2.0)
    raw = torch.cat((peaks((3, 4, 0.5)), peaks((3, 4, 0.6)), peaks((3, 4, 1.0))))
    views = [View((50.0, 60.0), f, 96) for f in factors]
    for change, move in (({}, 16), ({"scale_in_translation": True}, 32)):
        tracker, target = started(scale_factors=factors, localisation=ALWAYS, **change)
        where, chosen = tracker._localise(target, views, raw)
        assert (where.translation, chosen) == ((0, move), 2)
    tracker, target = started(scale_factors=factors, localisation=replace(ALWAYS, advanced=False))
    assert tracker._localise(target, views, raw)[0].translation == (0, 32)


def test_windows():
    """A larger peak at the border loses against one in the middle; it stays a rival where only the first peak is windowed."""
    table = LocalisationConfig(target_not_found=0.1, distractor=100.0, hard_negative=0.5)
    raw, view = peaks((3, 3, 0.6), (3, 0, 0.9)), View((50.0, 60.0), 1.0, 96)

    def found(**change):
        tracker, target = started(nyquist_double=False, localisation=replace(table, **change))
        where, _ = tracker._localise(target, [view], raw)
        return round(where.translation[1]), where.flag

    assert found()[0] == -48
    assert found(window=True) == (0, NORMAL)
    assert found(window=True, window_hard_negatives=True) == (0, HARD_NEGATIVE)
    assert found(window=True, advanced=False) == (0, NORMAL)
    assert found(advanced=False)[0] == -48
    tracker, _ = started(localisation=replace(table, window=True))
    assert tracker.window.shape == (96, 96)
    assert np.unravel_index(tracker.window.argmax(), (96, 96)) == (48, 48)


@pytest.mark.parametrize("kernel", [4, 5])
def test_labels(kernel):
    tracker, target = started(kernel_size=kernel)
    view, pos = View((50.0, 60.0), 2.0, 96), (50.0, 60.0)
    middle = 3 if kernel == 4 else 2.5
    sigma = 0.25 * math.sqrt(target.base_size[0] * target.base_size[1]) / 16
    label = tracker._labels(pos, view, target.base_size, [(0, 0), (16, -32)])
    axis = np.arange(6)

    def gaussian(row, col):
        along = [np.exp(-((axis - c) ** 2) / (2 * sigma**2)) for c in (row, col)]
        return np.outer(*along)

    assert np.allclose(label[0], gaussian(middle, middle), atol=1e-6)
    assert np.allclose(label[1], gaussian(middle + 1, middle - 2), atol=1e-6)
    moved = tracker._labels((50 + 32, 60.0), view, target.base_size, [(0, 0)])  # 32 image pixels are 16 crop pixels
    assert np.allclose(moved[0], gaussian(middle + 1, middle), atol=1e-6)


@pytest.mark.parametrize("pos", [(60.4, 80.7), (60.5, 80.5), (61.0, 81.99)])
def test_where_the_crop_was_taken(pos):
    """A spot in the crop, taken back to the image: exact with the crop's own coordinates, about a pixel off without (Q9)."""
    rows, cols = np.mgrid[:120, :160]
    spot = (63.0, 77.0)
    light = 255 * np.exp(-((rows - spot[0]) ** 2 + (cols - spot[1]) ** 2) / (2 * 4.0**2))
    frame = np.repeat(light.astype(np.uint8)[:, :, None], 3, axis=2)
    offsets = []
    for exact in (True, False):
        tracker = small_atom("atom", use_crop_coordinates=exact)
        scales = [1.37]
        pixels, patches = sample_scales(frame, pos, scales, (96, 96), tracker.config.crop, device="cpu")
        view = tracker._view(pos, scales[0], patches[0])
        weights = pixels[0, 0].double()
        total = weights.sum()
        row = float((weights.sum(dim=1) * torch.arange(96)).sum() / total)
        col = float((weights.sum(dim=0) * torch.arange(96)).sum() / total)
        back = view.point_to_image(row, col)
        offsets.append(max(abs(b - s) for b, s in zip(back, spot, strict=True)))
    assert offsets[0] < 0.2
    assert offsets[1] < 1.6
    assert offsets[0] < offsets[1]


def test_half_pixel_bias_can_be_switched_off():
    kept = run(small_atom("atom", localisation=ALWAYS), FRAMES[:2])
    fixed = run(small_atom("atom", localisation=ALWAYS, keep_half_pixel_bias=False), FRAMES[:2])
    assert kept[0].box_unclipped.x > fixed[0].box_unclipped.x
    assert kept[0].box_unclipped.w == pytest.approx(fixed[0].box_unclipped.w)


def test_principal_directions():
    vectors = torch.randn(200, 6, dtype=torch.float64) * torch.tensor([5.0, 1, 3, 0.1, 2, 0.5]) + 7
    found = principal_directions(vectors, 3)
    assert found.shape == (3, 6, 1, 1)
    rows = found.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
    values, directions = np.linalg.eigh(np.cov(vectors.numpy().T))
    assert np.allclose(np.abs(rows.numpy() @ directions[:, ::-1][:, :3]), np.eye(3), atol=1e-8)
    assert values[-1] > values[-2]
    with pytest.raises(ks.InputError, match="6 channels"):
        principal_directions(vectors, 7)


def test_more_channels_than_features():
    with pytest.raises(ks.InputError, match="65 principal"):
        small_atom("atom", projection_init="pca", projected_channels=65).init(FRAMES[0], box=BOXES[0])


def test_random_numbers_are_drawn_only_where_they_are_used():
    """With a fixed start and no other randomness, seeds make no difference."""
    settings = {
        "projection_init": "pca", "filter_init": "zeros", "refine": None,
        "augmentation": AugmentationConfig(rotate=(20,), blur=(), dropout=None, random_shift_factor=0),
    }  # fmt: skip
    one, two = (run(small_atom("atom", seed=s, **settings), FRAMES[:3]) for s in (1, 2))
    assert [r.box for r in one] == [r.box for r in two]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample_size": 48}, "sample_size is 48"),
        ({"crop": CropConfig("inside")}, "inside"),
        ({"scale_factors": ()}, "scale_factors"),
        ({"scale_factors": (1.0, 0.0)}, "scale_factors"),
        ({"train_skipping": 0}, "train_skipping"),
        ({"hard_negative_iterations": -1}, "hard_negative_iterations"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"projection_init": "rand"}, "projection_init 'rand'"),
        ({"filter_init": "pca"}, "filter_init 'pca'"),
        ({"refine": None, "classifier": False}, "nothing follows"),
        ({"update_solver": SolverConfig(2, 5, forgetting=0.5)}, "forgetting"),
    ],
)
def test_contradictory_settings_are_refused(change, words):
    with pytest.raises(ks.InputError, match=words):
        replace(AtomConfig(), **change)


def test_crop_sides_that_do_not_fit_the_network():
    with pytest.raises(ks.InputError, match="multiple of 16"):
        small_atom("atom", sample_size=100)


def test_lost_frames_keep_the_flag():
    tracker = small_atom("atom", localisation=LOST)
    assert {r.flag for r in run(tracker)} == {NOT_FOUND}
    assert {r.presence <= 1 for r in run(tracker)} == {True}


@pytest.mark.parametrize("name", ["atom_gd", "atom-lite_gd"])
def test_gradient_descents_step_suits_the_whole_network(name):
    """A full-size first frame: random weights for ``atom``, the packaged ones for ``atom-lite``."""
    tracker = ks.load(name, weights="random" if name == "atom_gd" else None, device="cpu")
    problem, start = tracker.first_problem(FRAMES[0], BOXES[0])
    solution = gradient_descent(problem, start, tracker.config.init_descent)
    assert solution.losses[-1] < 0.5 * solution.losses[0]


def test_an_update_that_cannot_be_solved_keeps_the_filter(monkeypatch):
    tracker = small_atom("atom", localisation=ALWAYS, train_skipping=1)
    tracker.init(FRAMES[0], box=BOXES[0])
    before = tracker._current().targets[0].filter

    def broken(*_, **__):
        raise InputError("the loss is nan in step 1")

    monkeypatch.setattr("keepsight.trackers.atom.minimise", broken)
    result = tracker.update(FRAMES[1])
    assert not result.updated
    assert "scheduled, not solved: the loss is nan" in result.update_reason
    assert tracker._current().targets[0].filter is before


def test_presets_of_the_paper_rank_final_boxes():
    assert preset("atom_paper").refine.rescore
    assert not preset("atom").refine.rescore


@pytest.mark.parametrize("box", [(50, 40, 1, 100), (-30, -30, 300, 200)])
def test_without_overlap_predictor_sizes_and_places_stay_within_the_frame(box):
    tracker = small_atom("atom_multiscale", localisation=ALWAYS)
    tracker.init(FRAMES[0], box=box)
    height, width = FRAMES[0].shape[:2]
    for frame in FRAMES[1:4]:
        found = tracker.update(frame).box_unclipped
        assert found.w <= width + 1e-6
        assert found.h <= height + 1e-6
        assert found.x < width
        assert found.y < height
        assert found.x + found.w > 0
        assert found.y + found.h > 0
