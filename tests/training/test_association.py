"""KeepTrack's items: every rule of the specification, the mended and the published labels, batches, and that they teach."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from keepsight.cli import main
from keepsight.errors import InputError
from keepsight.models.keeptrack import (
    FrozenFeatures,
    KeepTrackNet,
    KeepTrackNetConfig,
    lite_config,
)
from keepsight.nn.association import DescriptorExtractor
from keepsight.training import candidates, job
from keepsight.training.association import (
    KINDS,
    NO_PAIR,
    NO_SINGLE,
    TOO_FAR_BACK,
    AssociationBatch,
    AssociationData,
    AssociationProcessing,
    CandidateSampler,
    DrawnFrames,
    ItemConfig,
    MiningConfig,
    Side,
    augmented_scores,
    cells_of,
    collate_pairs,
    copy_labels,
    farthest_point,
    jittered,
    pair_labels,
    shifted_area,
    simulated_occlusions,
    split,
)
from keepsight.training.candidates import CandidateSet, FrameCandidates, SequenceCandidates
from keepsight.training.crops import Square, cut
from keepsight.training.job import LoopConfig, job_of
from keepsight.training.logs import read_log
from keepsight.training.loop import train
from keepsight.training.losses import matching_nll
from keepsight.training.objectives import AssociationObjective
from keepsight.training.recipes import AssociationRecipe, Recipe, association_recipe_names, find_recipe, override
from keepsight.weights import load_weights

SIZE = (120, 160)  # (H, W) of every picture
SMALL = ItemConfig(output_size=64, map_side=5)


class Drawn(CandidateSet):
    """Candidates whose pictures are noise, softly changing from frame to frame."""

    def picture(self, key: str, index: int) -> np.ndarray:
        rng = np.random.default_rng(int(key[1:]))
        coarse = rng.integers(0, 255, (2, 12, 16, 3)).astype(np.uint8)
        first, second = (c.repeat(10, axis=0).repeat(10, axis=1) for c in coarse)
        return (first * (1 - index / 20) + second * (index / 20)).astype(np.uint8)


def a_frame(index: int, cells, scores, annotation=(9, 9), area=(20.3, 10.7, 95.6, 95.6)) -> FrameCandidates:
    return FrameCandidates(index, area, annotation, np.asarray(scores, np.float64), np.asarray(cells, np.int64))


CELLS = [(9, 9), (2, 3), (15, 4), (4, 15), (16, 16), (9, 2)]
SCORES = [0.9, 0.6, 0.4, 0.3, 0.2, 0.1]
H = CELLS[:4], SCORES[:4]
K = [CELLS[1], CELLS[0], *CELLS[2:4]], SCORES[:4]
FAR_BACK = [*CELLS[1:6], CELLS[0]], SCORES


def a_set(sequences: int = 12, back: bool = False) -> Drawn:
    found = {}
    for n in range(sequences):
        seen = [H, H, K, H, (CELLS[:2], [0.2, 0.1]), (CELLS[1:3], SCORES[:2])]
        states = {0: "H", 1: "H", 2: "K", 3: "H", 4: "G", 5: "J"}
        if back:
            seen[2] = FAR_BACK
        found[f"s{n}"] = SequenceCandidates.of([a_frame(i, *s) for i, s in enumerate(seen)], states)
    return Drawn(found, ("drawn",), 19)


def drawn(kind="self", frames=None, **more) -> DrawnFrames:
    frames = frames or [a_frame(0, *H)] * (1 if kind == "self" else 2)
    pictures = [a_set().picture("s1", 3 * i) for i in range(len(frames))]
    return DrawnFrames(kind, frames, pictures, 19, "s1", **more)


def many(count=200, seed=0):
    return [np.random.default_rng((seed, i)) for i in range(count)]


# --- drawing (§2.3) ---------------------------------------------------------------------------------------------------


def test_mining_ratios():
    sampler = CandidateSampler(a_set(), MiningConfig())
    kinds, states = Counter(), Counter()
    n = 4000
    for rng in many(n):
        found = sampler.draw(rng)
        kinds[found.kind] += 1
        if found.kind == "self":
            states[found.identity[-2]] += 1
            assert len(found.frames) == len(found.images) == 1
        else:
            assert [f.index for f in found.frames] in ([0, 1], [1, 2], [3, 4])
    assert kinds["self"] / n == pytest.approx(0.5, abs=0.03)
    shares = {"HH": 1 / 1.2, "HK": 0.1 / 1.2, "HG": 0.1 / 1.2}
    for kind, share in shares.items():
        assert kinds[kind] / (n - kinds["self"]) == pytest.approx(share, abs=0.03)
    assert {s: round(4 * c / kinds["self"]) for s, c in states.items()} == {"H": 2, "K": 1, "J": 1}


def test_absent_categories_are_left_out():
    only = {"s0": SequenceCandidates.of([a_frame(4, *K)], {4: "K"})}
    sampler = CandidateSampler(Drawn(only, ("drawn",), 19), MiningConfig())
    assert {sampler.draw(rng).kind for rng in many(20)} == {"self"}
    with pytest.raises(InputError, match="K 1"):
        CandidateSampler(Drawn(only, ("drawn",), 19), MiningConfig(states=(0, 1, 0, 0)))
    with pytest.raises(InputError, match="no frames"):
        CandidateSampler(Drawn({}, ("drawn",), 19), MiningConfig())


def only_one_kind(kind: str) -> Drawn:
    """Single frames and no pair, a pair whose target is beyond the slots, or pairs whose frames have no category to draw."""
    frames = {
        "singles": [a_frame(0, *H), a_frame(2, *H)], "pairs": [a_frame(0, *H), a_frame(1, *H)],
        "far back": [a_frame(0, *H), a_frame(1, *FAR_BACK)],
    }[kind]  # fmt: skip
    states = {f.index: "H" for f in frames} if kind != "far back" else {0: "H", 1: "K"}
    return Drawn({"s0": SequenceCandidates.of(frames, states)}, ("drawn",), 19)


@pytest.mark.parametrize("kind", ["singles", "far back"])
def test_pairs_alone_were_asked_for_and_there_are_none(kind):
    with pytest.raises(
        InputError, match=r"no pairs of neighbouring frames .* self_supervised=0 .*H [12], .*data\.mining"
    ):
        CandidateSampler(only_one_kind(kind), MiningConfig(0.0))


def test_single_frames_alone_were_asked_for_and_there_are_none():
    mining = MiningConfig(1.0, states=(0, 0, 1, 0))  # J
    with pytest.raises(InputError, match=r"no single frames .* self_supervised=1 .*H 2"):
        CandidateSampler(only_one_kind("pairs"), mining)


@pytest.mark.parametrize(
    ("kind", "states", "drawn_kind", "reason"),
    [("singles", (0, 1, 0.5, 0.5), "self", NO_PAIR),
     ("far back", (0, 1, 0.5, 0.5), "self", NO_PAIR),
     ("pairs", (0, 0, 1, 0), "HH", NO_SINGLE)],
)  # fmt: skip
def test_a_kind_that_is_absent_is_replaced_and_counted(kind, states, drawn_kind, reason):
    sampler = CandidateSampler(only_one_kind(kind), MiningConfig(0.3 if reason == NO_SINGLE else 0.7, states=states))
    assert {sampler.draw(rng).kind for rng in many(200)} == {drawn_kind}
    assert set(sampler.skipped) == {reason}
    assert sampler.skipped[reason] / 200 == pytest.approx(0.3, abs=0.07)


def test_true_candidates_beyond_the_slots_are_dropped_and_counted():
    """Q4: the published code stops with an index error."""
    mining = MiningConfig(0.0, pairs=(1, 1, 0))
    sampler = CandidateSampler(a_set(back=True), mining)
    assert {sampler.draw(rng).kind for rng in many(60)} == {"HH"}
    assert sampler.skipped[TOO_FAR_BACK] > 10
    judged = CandidateSampler(a_set(back=True), mining, None)  # validation takes all candidates
    assert {judged.draw(rng).kind for rng in many(60)} == {"HH", "HK"}
    assert not judged.skipped


def test_split():
    trained, held = split(a_set(20), 9)
    assert list(held.sequences) == ["s8", "s17"]
    assert not set(trained.sequences) & set(held.sequences)
    assert len(trained.sequences) == 18
    both = replace(a_set(4), data=("a", "b"))
    both.sequences = {f"{d}/{k}": v for d in "ab" for k, v in both.sequences.items()}
    assert list(split(both, 3)[1].sequences) == ["a/s2", "b/s2"]
    assert not split(a_set(20), 0)[1].sequences


# --- one frame twice (§2.4) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "chance"), [(1, 0), (2, 0), (3, 1 / 3), (4, 1 / 2), (5, 0.6)])
def test_simulated_occlusions(count, chance):
    rng = np.random.default_rng(0)
    hidden = [simulated_occlusions(count, 0.25, rng) for _ in range(4000)]
    assert max(hidden) <= 1
    assert np.mean(hidden) == pytest.approx(chance, abs=0.03)


def test_shifted_area():
    moves = np.array([shifted_area((7, 3, 250, 300), rng) for rng in many(600)]) - (7, 3, 250, 300)
    for column, low, high in zip(moves.T, (-3, -3, -3, -3), (2, 3, 2, 3), strict=True):
        assert sorted(set(column.tolist())) == list(range(low, high + 1))
    small = np.array([shifted_area((7, 3, 50, 50), rng) for rng in many(60)]) - (7, 3, 50, 50)
    assert set(small.flatten().tolist()) == {-1, 0}  # floor division


def test_farthest_point():
    used = np.array([(15.0, 15.0), (30.0, 40.0)])
    for rng in many(30):
        point = farthest_point((-10, -20, 60, 50), (25, 100), used, np.random.default_rng(rng.bit_generator.seed_seq))
        points = rng.uniform((0, 0), (25, 50), (20, 2))  # inside both the search area and the image
        best = points[np.linalg.norm(points[:, None] - used, axis=-1).min(axis=1).argmax()]
        assert point == pytest.approx(best)
    beside = farthest_point((200, 0, 10, 10), (25, 100), used, np.random.default_rng(0))
    assert 0 <= beside[0] <= 10
    assert 200 <= beside[1] <= 210


def test_jitter_keeps_neighbours_apart():
    points = np.array([(50.0, 50.0), (50.0, 58.0), (20.0, 80.0)])
    moved = np.stack([jittered(points, (0, 0, 115, 230), SIZE, 23, rng) for rng in many(300)]) - points
    reach = np.minimum(np.sqrt(2) * 8 / 4, (230 / 23, 115 / 23))
    assert (np.abs(moved) <= reach).all()
    assert np.abs(moved).max() > 0.95 * reach.max()
    wide = points * 3
    far = np.stack([jittered(wide, (0, 0, 115, 46), (999, 999), 23, rng) for rng in many(300)]) - wide
    assert np.abs(far).max(axis=(0, 1)) == pytest.approx((46 / 23, 115 / 23), rel=0.05)  # at most a cell
    equal = np.stack([jittered(np.full((5, 2), 40.0), (0, 0, 115, 46), SIZE, 23, r) for r in many(300)]) - 40
    assert np.abs(equal).max(axis=(0, 1)) == pytest.approx((1, 2.5), rel=0.05)  # half a cell
    corner = np.stack([jittered(np.array([(0.0, 160.0)] * 2), (0, 0, 99, 99), SIZE, 23, r) for r in many(50)])
    assert (corner >= 0).all()
    assert (corner <= SIZE).all()


def test_score_augmentation():
    scores, seen = np.array([0.9, 0.6, 0.3]), Counter()
    for rng in many(600):
        e = np.random.default_rng(rng.bit_generator.seed_seq).normal(0, 0.1, 3)
        noisy = np.maximum(-np.sort(-(scores + e)), 0.075)
        near = -np.sort(-np.array([0.9 - abs(e[0]), 0.6 + abs(e[1]), 0.3 + e[2]]))
        closer, swapped = np.maximum(near, 0.075), np.maximum(near[[1, 0, 2]], 0.075)
        found = augmented_scores(scores, 0.1, False, rng)
        cases = {"a": noisy, "b": closer, "c": swapped}
        matching = [name for name, want in cases.items() if found == pytest.approx(want)]
        assert matching
        seen[matching[0]] += 1
    assert {name: round(seen[name] / 200) for name in "abc"} == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("scores", "occluded"), [((0.9, 0.6), False), ((0.9, 0.6, 0.3), True), ((0.9, 0.45, 0.3), False), ((0.25, 0.2, 0.1), False)]
)  # fmt: skip
def test_score_augmentation_leaves_the_order_where_there_is_no_rival(scores, occluded):
    for rng in many(100):
        e = np.random.default_rng(rng.bit_generator.seed_seq).normal(0, 0.1, len(scores))
        found = augmented_scores(np.array(scores), 0.1, occluded, rng)
        assert found == pytest.approx(np.maximum(-np.sort(-(np.array(scores) + e)), 0.075))


def a_side(real) -> Side:
    real = np.array(real, bool)
    return Side(np.zeros((len(real), 2)), np.ones(len(real)), real, real.copy(), np.zeros((len(real), 2), np.int64))


def test_labels_of_a_copy():
    sides = a_side([1, 1, 0, 1, 0]), a_side([1, 0, 0, 1, 0])
    assignment, (m0, m1) = copy_labels(*sides, published=True)
    assert np.diag(assignment).tolist() == [1, 0, 0, 1, 0]
    assert assignment.sum() == 2
    assert m0.tolist() == m1.tolist() == [0, -1, -1, 3, -1]
    mended, (m0, m1) = copy_labels(*sides, published=False)
    assert (mended == assignment).all()
    assert m0.tolist() == [0, -1, -2, 3, -2]  # slot 1 is really there and has no partner
    assert m1.tolist() == [0, -2, -2, 3, -2]


@pytest.mark.parametrize("published", [False, True])
def test_item_of_one_frame(published):
    config = ItemConfig(output_size=64, map_side=19, published_quirks=published)
    process, frame = AssociationProcessing(config), a_frame(0, *H)
    whole = (20, 10, 95, 95)
    hidden, sides_hidden, blurred = 0, Counter(), 0
    picture = a_set().picture("s1", 0)
    for rng in many(150):
        item = process(drawn(frames=[frame]), rng)
        first, second = item.sides
        assert item.areas[0] == whole
        assert (item.crops[0] == cut(picture, Square(*whole, (64, 64)))).all()
        same = (item.crops[1] == cut(picture, Square(*item.areas[1], (64, 64)))).all()
        blurred += not same
        assert item.gains[0] == 1
        assert 0.5 <= item.gains[1] <= 1.5
        assert first.filled.all()
        assert second.filled.all()
        both = first.real & second.real
        gone = 4 - int(both.sum())
        hidden += gone
        assert gone <= 1
        if gone:
            sides_hidden[int(first.real.sum())] += 1
        assert (np.diag(item.assignment) == both).all()
        for side, area in zip(item.sides, item.areas, strict=True):
            fake = ~side.real
            assert fake[4]
            assert ((side.scores[fake] >= 0.05) & (side.scores[fake] < 0.0751)).all()
            assert (side.cells[side.real] == np.array(CELLS[:5])[side.real]).all()  # also where the crop moved
            if side is first:
                assert (cells_of(side.points[fake], area, 19) == side.cells[fake]).all()
        assert first.scores[first.real] == pytest.approx(np.array([*H[1], 0])[first.real])
        assert np.abs(second.points - first.points)[both].max() < 6
        labels = set(item.matches[0][~first.real].tolist())
        assert labels == ({-1} if published else {-2})
        assert item.image_size == SIZE
    assert 0.35 < hidden / 150 < 0.65
    assert set(sides_hidden) == {3, 4}  # from either side
    assert (blurred > 90) != published


# --- two frames (§2.5, 2.6) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [(0, 0), (0, 2), (1, 1)])
def test_labels_of_real_pairs(true):
    g0, g1 = true
    nothing = np.full(5, -2)
    for published in (False, True):
        assignment, (m0, m1) = pair_labels((5, 5), true, None, published)
        assert np.argwhere(assignment).tolist() == [[g0, g1]]
        assert m0[g0] == g1
        assert m1[g1] == g0
        assert (np.delete(m0, g0) == -2).all()
        assignment, (m0, m1) = pair_labels((5, 5), true, 0, published)
        assert (assignment.any(), m1[g1]) == (False, -1)
        assert (m0 == nothing).all()
        assignment, (m0, m1) = pair_labels((5, 5), true, 1, published)
        assert not assignment.any()
        assert (m1 == nothing).all()
        lost = published and g0 == g1  # Q3
        assert m0[g0] == (-2 if lost else -1)


def test_item_of_two_frames():
    frames = [a_frame(0, *H), a_frame(1, *K, area=(24.0, 12.0, 90.0, 90.0))]
    process, removed = AssociationProcessing(replace(SMALL, map_side=19)), Counter()
    for rng in many(300):
        item = process(drawn("HK", frames), rng)
        assert item.gains == (1, 1)
        assert item.areas == ((20, 10, 95, 95), (24, 12, 90, 90))
        real = [s.real.tolist() for s in item.sides]
        which = real[0][0], real[1][1]
        removed[which] += 1
        assert real[0][1:4] == [True] * 3
        assert [real[1][i] for i in (0, 2, 3)] == [True] * 3
        assert item.assignment[0, 1] == all(which)
        assert item.assignment.sum() == all(which)
        if which == (True, False):
            assert (item.matches[0][0], set(item.matches[1].tolist())) == (-1, {-2})
        elif which == (False, True):
            assert (item.matches[1][1], set(item.matches[0].tolist())) == (-1, {-2})
        assert item.sides[1].scores[item.sides[1].real] == pytest.approx(np.array([*K[1], 0])[item.sides[1].real])
    assert set(removed) == {(True, True), (False, True), (True, False)}
    assert removed[True, True] / 300 == pytest.approx(0.75, abs=0.07)


def test_detected_only():
    frames = [a_frame(0, *H), a_frame(1, *FAR_BACK)]
    process = AssociationProcessing(replace(SMALL, map_side=19), detected_only=True)
    item = process(drawn("HK", frames), np.random.default_rng(0))
    assert [len(s.scores) for s in item.sides] == [4, 6]
    assert item.sides[1].cells.tolist() == [list(c) for c in FAR_BACK[0]]  # untouched
    assert (item.matches[0][0], item.matches[1][5]) == (5, 0)
    assert np.argwhere(item.assignment).tolist() == [[0, 5]]
    other = AssociationProcessing(replace(SMALL, map_side=10), detected_only=True)
    assert other(drawn("HK", frames), np.random.default_rng(0)).sides[0].cells[2].tolist() == [8, 2]  # 15 and 4, halved


# --- batches and losses -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> KeepTrackNet:
    torch.manual_seed(0)
    net = KeepTrackNet(
        KeepTrackNetConfig(
            backbone="resnet50-narrow", feature_channels=256, descriptor_channels=32, swapped_centre=False
        )
    )
    net.freeze_backbone()
    return net.eval()


def a_batch(kinds, detected=False, seed=0, config=SMALL) -> AssociationBatch:
    process = AssociationProcessing(config, detected)
    pairs = [[a_frame(0, *H), a_frame(1, *K)], [a_frame(0, *H), a_frame(1, *FAR_BACK)]]
    items = [
        process(drawn(kind, [a_frame(0, *H)] if kind == "self" else pairs[i % (2 if detected else 1)]), rng)
        for i, (kind, rng) in enumerate(zip(kinds, many(len(kinds), seed), strict=True))
    ]
    return collate_pairs(items)


def test_batch():
    batch = a_batch(["self", "HK", "HH"])
    assert batch.cells.shape == (2, 3, 5, 2)
    assert batch.cells.dtype == batch.matches.dtype == torch.int64
    assert (batch.counts == 5).all()
    assert batch.kinds.tolist() == [0, KINDS.index("HK"), 1]
    assert batch.image_size.tolist() == [list(SIZE)] * 3
    assert (len(batch), len(batch.identities)) == (3, 3)
    assert batch.train_images.shape == (1, 3, 3, 64, 64)
    assert batch.train_images.dtype == torch.uint8
    floats = batch.to("cpu")
    assert isinstance(floats, AssociationBatch)
    assert floats.test_images.dtype == torch.float32
    assert floats.cells is batch.cells or (floats.cells == batch.cells).all()
    raw = a_batch(["self"], config=replace(SMALL, normalise=False)).to("cpu")
    gain = raw_gain = a_batch(["self"], config=replace(SMALL, normalise=False)).gains[1].item()
    pixels = a_batch(["self"], config=replace(SMALL, normalise=False)).test_images[0, 0].float()
    assert raw.test_images[0, 0] == pytest.approx((pixels * gain).clamp(max=255), abs=1e-3)
    assert raw_gain != 1


def test_pairs_of_unequal_counts_are_judged_one_by_one(narrow):
    objective = find_recipe("keeptrack").objective
    batch = a_batch(["HK", "HH", "self", "HK"], detected=True).to("cpu")
    assert sorted(set(map(tuple, batch.counts.T.tolist()))) == [(4, 4), (4, 6), (5, 5)]
    assert (batch.matches[:, 0, 4:] == -2).all()
    with torch.no_grad():
        whole = objective(narrow, batch)
        single = []
        for i, (kind, pair) in enumerate(zip(["HK", "HH", "self", "HK"], range(4), strict=True)):
            part = dataclasses.replace(
                batch, train_images=batch.train_images[:, [i]], test_images=batch.test_images[:, [i]],
                cells=batch.cells[:, [i]], points=batch.points[:, [i]], scores=batch.scores[:, [i]],
                assignment=batch.assignment[[i]], matches=batch.matches[:, [i]], counts=batch.counts[:, [i]],
                kinds=batch.kinds[[i]], image_size=batch.image_size[[i]],
            )  # fmt: skip
            assert kind == KINDS[int(part.kinds[0])], pair
            single.append(objective(narrow, part))
    assert float(whole.total) == pytest.approx(np.mean([float(s.total) for s in single]), rel=1e-4)
    for name in ("recall_HK", "recall_self"):
        assert float(whole.statistics[name]) == pytest.approx(
            np.mean([float(s.statistics[name]) for s in single if name in s.statistics])
        )
    assert float(whole.total) == pytest.approx(float(sum(whole.parts.values())))


def test_objective_is_the_mean_of_the_items_losses(narrow):
    batch = a_batch(["self", "HK", "HH", "self"]).to("cpu")
    objective = replace(find_recipe("keeptrack").objective, weight=2.0)
    with torch.no_grad():
        found = objective(narrow, batch)
        from keepsight.models.keeptrack import Spots

        maps = [narrow.extract(i[0]) for i in (batch.train_images, batch.test_images)]
        spots = [Spots(batch.cells[i], batch.points[i], batch.scores[i]) for i in (0, 1)]
        z = narrow.associate(*maps, tuple(spots), batch.image_size)
        total, _, _ = matching_nll(z, batch.assignment, *batch.matches)
    assert float(found.total) == pytest.approx(2 * float(total.mean()), rel=1e-5)


def test_a_recipe_of_frames_cannot_have_this_objective():
    values = find_recipe("dimp18").to_dict()
    values["objective"] = find_recipe("keeptrack").to_dict()["objective"]
    with pytest.raises(InputError, match="AssociationObjective"):
        Recipe.from_dict(values)


def test_objective_refuses_other_networks():
    with pytest.raises(InputError, match="keeptrack recipe"):
        find_recipe("keeptrack").objective(torch.nn.Linear(1, 1), a_batch(["self"]))


# --- the network's parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_descriptors_are_the_convolution_at_the_cells(kernel):
    torch.manual_seed(0)
    extractor = DescriptorExtractor(6, 8, kernel)
    features = torch.randn(2, 6, 7, 9)
    whole = extractor.conv(features)
    side = (7 + (kernel % 2 == 0), 9 + (kernel % 2 == 0))
    assert whole.shape[-2:] == side
    cells = torch.stack([torch.randint(s, (2, 5)) for s in side], dim=-1)
    cells[0, 0], cells[0, 1] = torch.tensor((0, 0)), torch.tensor(side) - 1
    found = extractor(features, cells)
    for b in range(2):
        for n, (row, col) in enumerate(cells[b].tolist()):
            torch.testing.assert_close(found[b, n], whole[b, :, row, col], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="outside the score map"):
        extractor(features, torch.tensor([[side], [side]]))
    if kernel == 4:
        published = DescriptorExtractor(6, 8)
        published.load_state_dict(extractor.state_dict())
        torch.testing.assert_close(published(features, cells), found)


def test_lite_network():
    torch.manual_seed(0)
    net = KeepTrackNet(lite_config()).eval()
    assert 0.9e6 < sum(p.numel() for p in net.parameters()) < 1.1e6
    assert not any(name.startswith("feature_extractor") for name in net.state_dict())
    lite = net.feature_extractor.net
    crops = 255 * torch.rand(1, 3, 97, 97)  # 16 · 6 + 1
    with torch.no_grad():
        maps = net.extract(crops)
        assert maps.shape == (1, 232, 7, 7)
        torch.testing.assert_close(
            maps, lite.taps(lite.extract(crops)), rtol=1e-4, atol=1e-4
        )  # norms are folded: rounding
        cells = torch.tensor([[(0, 0), (6, 6)]])
        conv = net.descriptor_extractor.conv
        want = F.conv2d(maps / 7, conv.weight, conv.bias, padding=1)[0, :, [0, 6], [0, 6]].T
        torch.testing.assert_close(net.describe(maps, cells)[0], want, rtol=1e-4, atol=1e-4)
    bare = KeepTrackNet(replace(lite_config(), backbone=None))  # as a tracker loads it
    bare.load_state_dict(net.state_dict())
    torch.testing.assert_close(bare.describe(maps, cells), net.describe(maps, cells))
    with pytest.raises(InputError, match="descriptor_kernel"):
        replace(lite_config(), descriptor_kernel=0)
    with pytest.raises(InputError, match="232"):
        KeepTrackNet(replace(lite_config(), feature_channels=200))


def test_frozen_features():
    torch.manual_seed(0)
    net = KeepTrackNet(KeepTrackNetConfig(backbone="resnet50-narrow", feature_channels=256, descriptor_channels=32))
    names = set(net.state_dict())
    net.freeze_backbone(("layer3", "layer4"))
    held = net.feature_extractor
    assert isinstance(held, FrozenFeatures)
    assert {n.split(".")[0] for n in names - set(net.state_dict())} == {"feature_extractor"}
    assert not any(p.requires_grad for p in held.net.parameters())
    norms = {n: m for n, m in held.net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    before = {n: m.running_mean.clone() for n, m in norms.items()}
    net.train()
    assert {n.split(".")[0] for n, m in norms.items() if m.training} == {"layer3", "layer4"}  # quirk Q5
    crops = torch.randn(4, 3, 64, 64)
    trained = net.extract(crops)
    assert all(torch.equal(before[n], m.running_mean) for n, m in norms.items())
    net.eval()
    assert not any(m.training for m in norms.values())
    assert not torch.allclose(net.extract(crops), trained)
    assert next(net.to(torch.float64).feature_extractor.net.parameters()).dtype == torch.float64


# --- recipes and the loop ---------------------------------------------------------------------------------------------


def test_published_numbers():
    recipe = find_recipe("keeptrack")
    data, optim = recipe.data, recipe.optim
    assert (data.batch_size, data.samples_per_epoch, recipe.epochs, data.validation_samples) == (64, 6400, 15, 1088)
    assert [recipe.optim.factor(e, 15) for e in (0, 5, 6, 11, 12)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])
    assert (optim.lr, optim.weight_decay, optim.clip_norm) == (1e-4, 0, None)
    assert (data.mining.states, data.mining.pairs, data.mining.self_supervised) == (
        (0, 1, 0.5, 0.5),
        (1, 0.1, 0.1),
        0.5,
    )
    judged = data.validation_mining
    assert (judged.states, judged.pairs) == ((0.2, 0.4, 0.2, 0.2), (320, 128, 0))
    assert 1088 * judged.self_supervised == pytest.approx(640)
    assert (data.items.output_size, data.items.map_side, data.items.slots) == (352, 23, 5)
    assert recipe.network == KeepTrackNetConfig(swapped_centre=False)
    assert (recipe.init, recipe.batch_statistics) == ("super_dimp_simple", ("layer3", "layer4"))
    assert recipe.data.build == candidates.CandidateConfig("superdimp_simple", data=("lasot:train",))
    assert data.items.published_quirks


def test_the_papers_recipe_differs_in_its_items_alone():
    code, paper = find_recipe("keeptrack"), find_recipe("keeptrack_paper")
    items = replace(code.data.items, published_quirks=False)
    assert paper == replace(code, name="keeptrack_paper", data=replace(code.data, items=items))
    assert (items.blur_probability, items.blur_sigma) == (0.75, 0.5)
    assert not find_recipe("keeptrack_lite").data.items.published_quirks
    for name in association_recipe_names():  # the ablations are of the published code
        quirks = find_recipe(name).data.items.published_quirks
        assert quirks == find_recipe(f"{name}-debug").data.items.published_quirks
        assert quirks == (name not in ("keeptrack_paper", "keeptrack_lite"))


def test_ablations_differ_in_what_they_are_named_after():
    full = find_recipe("keeptrack")
    gnn0, gnn9 = find_recipe("keeptrack_gnn0"), find_recipe("keeptrack_gnn9")
    assert (len(gnn0.network.gnn_layers), len(gnn9.network.gnn_layers)) == (0, 18)
    assert find_recipe("keeptrack_sinkhorn50").network.sinkhorn_iterations == 50
    assert find_recipe("keeptrack_self_supervised").data.mining.self_supervised == 1
    assert find_recipe("keeptrack_partly_supervised").data.mining.self_supervised == 0
    for name in association_recipe_names():
        recipe = find_recipe(name)
        if name not in ("keeptrack", "keeptrack_paper", "keeptrack_lite"):
            assert replace(recipe, name="keeptrack", network=full.network, data=full.data) == full
            assert (recipe.network, recipe.data) != (full.network, full.data)


@pytest.mark.parametrize("name", association_recipe_names())
def test_weights_name_the_network_they_are_of(name):
    """So that `ks.load(FILE)` finds the tracker, for an ablation's weights, too."""
    header = job.association_header(find_recipe(name), ("made-up",))
    assert header["preset"] == ("keeptrack-lite" if name == "keeptrack_lite" else "keep_track")
    assert header["config"]["backbone"] is None
    assert header["config"]["gnn_layers"] == find_recipe(name).network.gnn_layers


def test_without_mining_every_frame_is_as_likely():
    found = a_set()
    sampler = CandidateSampler(found, MiningConfig(1.0, by_count=True))
    counts = found.counts()
    there = {s: counts[s] for s in candidates.STATES if counts[s]}
    assert sampler.single_chances == pytest.approx({s: n / sum(there.values()) for s, n in there.items()})
    assert sampler.single_chances != CandidateSampler(found, MiningConfig(1.0)).single_chances


@pytest.mark.parametrize("name", [n + d for n in association_recipe_names() for d in ("", "-debug")])
def test_recipes_survive_json_and_overrides(name):
    recipe = find_recipe(name)
    assert AssociationRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    changed = override(recipe, ["data.items.published_quirks=true", "optim.lr_factor=0.5", "data.candidates=/x/y.json"])
    assert changed.data.items.published_quirks is True
    assert changed.data.candidates == "/x/y.json"
    assert AssociationRecipe.from_dict(changed.to_dict()) == changed
    with pytest.raises(InputError, match="batch_size"):
        override(recipe, ["data.batchsize=3"])
    if name.endswith("debug"):
        assert recipe.data.build.data == ("lookalikes:procedural",)  # nothing is needed that is not in the package
        assert recipe.init in ("random", "dimp-lite")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (ItemConfig, {"removal": 1.5}, "removal"), (ItemConfig, {"slots": 0}, "slots"),
        (ItemConfig, {"score_noise": -1.0}, "score_noise"), (MiningConfig, {"pairs": (0, 0, 0)}, "pairs"),
        (MiningConfig, {"self_supervised": 2.0}, "self_supervised"), (AssociationData, {"validation_every": 1}, "at least 2"),
        (AssociationObjective, {"balancing": -3.0}, "balancing"),
        (AssociationObjective, {"balancing": float("nan")}, "balancing"),
        (AssociationObjective, {"balancing": 1.01}, "balancing"), (AssociationObjective, {"weight": float("nan")}, "weight"),
        (AssociationObjective, {"weight": float("inf")}, "weight"), (AssociationObjective, {"weight": 0.0}, "weight"),
        (AssociationData, {"samples_per_epoch": 3}, "batch"), (AssociationData, {"batch_size": 0}, "batch_size"),
    ],
)  # fmt: skip
def test_senseless_settings(kind, change, words):
    with pytest.raises(InputError, match=words):
        kind(**change)


@pytest.fixture
def small_recipe(monkeypatch) -> AssociationRecipe:
    """A narrow network on noise pictures; the candidate set is made of nothing."""
    monkeypatch.setattr(candidates, "build_candidates", lambda *_, **__: a_set())
    recipe = find_recipe("keeptrack-debug")
    data = replace(
        recipe.data, items=SMALL, batch_size=8, samples_per_epoch=64, validation_samples=16, validation_every=4
    )
    network = replace(recipe.network, descriptor_channels=32, encoder_channels=(16, 32), gnn_layers=("self", "cross"))
    return replace(recipe, data=data, network=network, epochs=2)


def held_out_loss(made: job.Job) -> float:
    made.net.eval()
    from keepsight.training.data import Draw

    items = [made.validation.sample(Draw(0, i)).sample for i in range(24)]
    with torch.no_grad():
        return float(made.objective(made.net, made.validation.collate(items).as_floats()).total)


def test_training_lowers_the_held_out_loss_and_keeps_only_what_learns(small_recipe, tmp_path):
    made = job_of(small_recipe, seed=1)
    before = held_out_loss(made)
    outcome = train(made, LoopConfig(out=str(tmp_path), device="cpu", workers=0, seed=1, tensorboard=False))
    assert held_out_loss(made) < 0.8 * before
    weights = load_weights(outcome.weights)
    assert {name.split(".")[0] for name in weights.tensors} == {"descriptor_extractor", "matcher"}
    header = weights.header
    assert (header.family, header.preset, header.config["backbone"]) == ("keeptrack", "keep_track", None)
    assert "drawn" in header.source
    KeepTrackNet(KeepTrackNetConfig(**header.config)).load_state_dict(weights.tensors)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    judged = [r["statistics"] for r in logged if r["kind"] == "validation"]
    assert {"recall_self", "recall_HH", "recall_HK", "row_norm", "bin_score"} <= set(judged[0])
    with torch.no_grad():
        assert not any(p.requires_grad for p in made.net.feature_extractor.net.parameters())


def test_the_log_tells_what_took_the_place_of_pairs(small_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "build_candidates", lambda *_, **__: only_one_kind("singles"))
    data = replace(small_recipe.data, validation_every=0)
    config = LoopConfig(out=str(tmp_path), device="cpu", workers=0, steps=2, tensorboard=False)
    train(job_of(replace(small_recipe, data=data)), config)
    (told,) = [r["skipped"] for r in read_log(tmp_path) if r["kind"] == "train"]
    assert 0 < told[NO_PAIR] < 16
    pairs = override(replace(small_recipe, data=data), ["data.mining.self_supervised=0"])
    with pytest.raises(InputError, match="no pairs"):
        job_of(pairs)


def test_a_resumed_run_ends_the_same(small_recipe, tmp_path):
    def run(folder, steps, resume=False):
        made = job_of(small_recipe, fresh=not resume)
        config = LoopConfig(
            out=str(tmp_path / folder), device="cpu", workers=0, steps=steps, resume=resume, tensorboard=False
        )
        train(replace(made, validation=None), config)
        return made.net.state_dict()

    whole = run("a", 4)
    run("b", 2)
    again = run("b", 4, resume=True)
    assert all(torch.equal(whole[n], again[n]) for n in whole)


def test_unlearning_rates(small_recipe, tmp_path):
    """What the tests above measure is learning."""
    made = job_of(override(small_recipe, ["optim.lr_factor=0"]))
    start = {n: t.clone() for n, t in made.net.state_dict().items() if "running" not in n and "batches" not in n}
    train(made, LoopConfig(out=str(tmp_path), device="cpu", workers=0, steps=2, tensorboard=False))
    assert all(torch.equal(t, made.net.state_dict()[n]) for n, t in start.items())


# --- command line -----------------------------------------------------------------------------------------------------


def test_command_line(tmp_path, capsys, monkeypatch):
    asked = []

    def build(config, path, **options):
        asked.append((config, path, options["root"]))
        return a_set()

    monkeypatch.setattr(candidates, "build_candidates", build)
    out = str(tmp_path / "c.json")
    command = ["train", "keeptrack_lite", "--stage", "candidates", "--tracker", "dimp18", "--weights", "w.pth", "--data",
               "otb100", "lasot:train", "--sequences", "7", "--seed", "5", "--data-root", "/data"]  # fmt: skip
    assert main([*command, "--out", out]) == 0
    config = candidates.CandidateConfig("dimp18", "w.pth", ("otb100", "lasot:train"), 7, seed=5)
    assert asked == [(config, out, "/data")]
    assert "12 sequences; frames and pairs of each category: G 12, H 36" in capsys.readouterr().out
    assert main([*command, "--out", str(tmp_path / "folder")]) == 2
    assert ".json" in capsys.readouterr().err
    assert main(["train", "dimp18", "--stage", "candidates"]) == 2
    assert "keeptrack" in capsys.readouterr().err
    assert main(["train", "keeptrack", "--stage", "candidate"]) == 2
    assert "did you mean 'candidates'" in capsys.readouterr().err
    assert main(["train", "keeptrack", "--tracker", "dimp18"]) == 2
    assert "--stage candidates" in capsys.readouterr().err
    assert main(["train", "list"]) == 0
    assert set(association_recipe_names()) <= set(capsys.readouterr().out.split())
    assert main(["train", "keeptrack", "--show"]) == 0
    assert "data.items.published_quirks = true" in capsys.readouterr().out
