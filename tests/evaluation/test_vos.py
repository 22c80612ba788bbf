"""J, F and their means: corner cases, and the fast code against the definition written plainly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight.errors import InputError
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vos import (
    VosRule,
    boundary,
    boundary_radius,
    j_and_f,
    score_davis,
    score_youtubevos,
    seen_objects,
    statistics,
    vos_rule,
)

from .vos_parts import mask_run, mask_sequence


def picture(*squares: tuple[int, int, int, int, int], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Ids (H, W); each square is id, x, y, w, h."""
    ids = np.zeros(size, np.uint8)
    for k, x, y, w, h in squares:
        ids[y : y + h, x : x + w] = k
    return ids


def plain_f(prediction: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """The definition, pixel by pixel."""

    def edge(mask: np.ndarray) -> list[tuple[int, int]]:
        h, w = mask.shape
        found = []
        for y in range(h):
            for x in range(w):
                south, east = min(y + 1, h - 1), min(x + 1, w - 1)
                if len({bool(mask[y, x]), bool(mask[y, east]), bool(mask[south, x]), bool(mask[south, east])}) > 1:
                    found.append((y, x))
        return found

    def near(points: list[tuple[int, int]], others: list[tuple[int, int]]) -> float:
        hits = [any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points]
        return sum(hits) / len(points)

    a, b = edge(prediction), edge(truth)
    if not a or not b:
        return float(not a and not b)
    precision, recall = near(a, b), near(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 14), st.floats(0.05, 0.95), st.integers(1, 5))
def test_equals_the_definition(seed: int, height: int, width: int, share: float, radius: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.random((2, height, width)) < share).astype(np.uint8)
    a[: rng.integers(0, height + 1)] = 0  # so that windows smaller than the picture occur
    b[:, : rng.integers(0, width + 1)] = 0
    ((j, f),) = j_and_f(a, b, (1,), tolerance=radius)
    union = (a | b).sum()
    assert j == ((a & b).sum() / union if union else 1.0)
    assert f == pytest.approx(plain_f(a, b, radius), abs=1e-12)


def test_objects_of_one_frame_are_independent() -> None:
    truth = picture((1, 2, 2, 10, 10), (2, 30, 5, 12, 9), (3, 50, 30, 10, 10))
    guess = picture((1, 3, 2, 10, 10), (2, 30, 9, 12, 9), (3, 44, 30, 16, 10))
    together = j_and_f(guess, truth, (1, 2, 3))
    for i, k in enumerate((1, 2, 3)):
        alone = j_and_f((guess == k).astype(np.uint8), (truth == k).astype(np.uint8), (1,))
        np.testing.assert_array_equal(together[i], alone[0])


def test_empty_and_full() -> None:
    empty, full, square = picture(), picture((1, 0, 0, 60, 40)), picture((1, 5, 5, 6, 6))
    np.testing.assert_array_equal(j_and_f(empty, empty, (1,)), [[1, 1]])
    np.testing.assert_array_equal(j_and_f(empty, square, (1,)), [[0, 0]])
    np.testing.assert_array_equal(j_and_f(square, empty, (1,)), [[0, 0]])
    np.testing.assert_array_equal(j_and_f(full, full, (1,)), [[1, 1]])  # the whole picture has no boundary
    assert j_and_f(full, square, (1,))[0, 1] == 0


def test_one_pixel() -> None:
    dot = picture((1, 7, 9, 1, 1))
    np.testing.assert_array_equal(j_and_f(dot, dot, (1,)), [[1, 1]])
    radius = boundary_radius(dot.shape)
    assert list(j_and_f(picture((1, 7 + radius, 9, 1, 1)), dot, (1,))[0]) == [0, 1]  # the boundaries just touch
    assert j_and_f(picture((1, 10 + radius, 9, 1, 1)), dot, (1,))[0, 1] == 0


def test_boundary_at_the_edges() -> None:
    assert boundary(np.ones((1, 1), np.uint8)).tolist() == [[0]]
    assert boundary(np.array([[0, 1]], np.uint8)).tolist() == [[1, 0]]
    assert boundary(np.array([[0], [1]], np.uint8)).tolist() == [[1], [0]]
    assert boundary_radius((480, 854)) == 8


# --- sequences ------------------------------------------------------------------------------------------------------------


def moving(shift: int = 0, count: int = 6) -> list[np.ndarray | None]:
    return [picture((1, 5 + i + shift, 5, 12, 12)) for i in range(count)]


def score(truth: list[np.ndarray | None], guess: list[np.ndarray | None], rule: str | VosRule = "davis2017", **more):  # type: ignore[no-untyped-def]
    return score_davis(
        [mask_sequence("a", truth)], {"a": [mask_run(guess)]}, tracker="t", dataset="d", rule=rule, **more
    )


def test_first_and_last_frame_do_not_count() -> None:
    guess = moving()
    guess[0], guess[-1] = picture(), picture()
    assert score(moving(), guess).values["J&F"] == 1
    guess[2] = picture()
    values = score(moving(), guess).values
    assert values["J"] == values["F"] == values["J_recall"] == 0.75


def test_missing_files_are_empty_masks_and_noted() -> None:
    guess = moving()
    guess[2] = None
    found = score(moving(), guess)
    assert found.values["J"] == 0.75
    assert any("1 mask files are missing" in n for n in found.notes)
    short = score(moving(), moving()[:3])
    assert short.values["J"] == 0.5
    assert any("2 mask files" in n for n in short.notes)


def test_another_size_is_a_named_error() -> None:
    guess = moving()
    guess[3] = picture(size=(40, 61))
    with pytest.raises(InputError, match=r"test/a, frame 3: .* 61 x 40, .* 60 x 40"):
        score(moving(), guess)


def test_ids_above_the_first_frames() -> None:
    truth, guess = moving(), moving()
    truth[3] = np.where(truth[3] == 0, np.uint8(2), truth[3])  # a new object in the truth: ignored
    assert score(truth, guess).values["J&F"] == 1
    guess[3] = picture((1, 8, 5, 12, 12), (4, 40, 5, 5, 5))
    with pytest.raises(InputError, match=r"frame 3: the predicted mask has id 4, but the objects are 1\.\.1"):
        score(truth, guess)
    ignoring = score(truth, guess, replace(VosRule(), extra_ids="ignore"))
    assert ignoring.values["J&F"] == 1
    assert any("no object" in n for n in ignoring.notes)
    guess[3], guess[-1] = moving()[3], picture((9, 0, 0, 5, 5))  # frames that do not count are not looked at
    assert score(truth, guess).values["J&F"] == 1


def test_void_is_background_in_the_truth() -> None:
    truth = moving()
    truth[2] = np.where(truth[2] == 0, np.uint8(255), truth[2])
    assert score(truth, moving()).values["J&F"] == 1


def test_an_object_that_vanishes_counts_as_right_when_nothing_is_predicted() -> None:
    truth = moving()
    truth[2] = picture()
    guess = moving()
    assert score(truth, guess).values["J"] == 0.75
    guess[2] = picture()
    assert score(truth, guess).values["J"] == 1


def test_davis2016_is_one_object_and_recalls_fewer_frames() -> None:
    truth = [picture((1, 5, 5, 6, 12), (255, 11, 5, 6, 12)) for _ in range(6)]
    guess = [picture((255, 5, 5, 12, 12)) for _ in range(6)]
    guess[1] = picture()
    values = score(truth, guess, "davis2016").values
    assert values["J"] == 0.75
    assert values["J_recall"] == 1.0  # frames 2 and 3 of 1..4


def test_decay_in_eight_bits() -> None:
    values = np.linspace(1, 0, 300)
    plain = statistics(values, replace(VosRule(), decay_index="int"))[2]
    assert plain == pytest.approx(0.75, abs=0.01)
    assert statistics(values, VosRule())[2] != pytest.approx(plain)  # the last quarter's numbers wrapped around
    few = values[:200]
    assert statistics(few, VosRule()) == statistics(few, replace(VosRule(), decay_index="int"))
    assert all(math.isnan(v) for v in statistics(np.zeros(0), VosRule()))


def test_repetitions_are_averaged_and_kept() -> None:
    bad = moving()
    bad[2] = picture()
    found = score_davis(
        [mask_sequence("a", moving())],
        {"a": [mask_run(moving()), mask_run(bad)]},
        tracker="t",
        dataset="d",
        keep_per_frame=True,
    )
    assert found.values["J"] == 0.875
    assert found.repetitions == 2
    assert found.sequences[0].per_frame["J/1"].shape == (2, 6)
    assert found.sequences[0].per_frame["J/1"][1].tolist() == [1, 1, 0, 1, 1, 1]


def test_mean_over_objects_not_over_sequences_and_attributes() -> None:
    two = [picture((1, 5, 5, 6, 6), (2, 20, 5, 6, 6)) for _ in range(5)]
    one = [picture((1, 5, 5, 6, 6)) for _ in range(5)]
    sequences = [mask_sequence("two", two), mask_sequence("one", one)]
    object.__setattr__(sequences[1], "attributes", frozenset({"OCC"}))
    runs = {"two": [mask_run(two)], "one": [mask_run([picture() for _ in range(5)])]}
    found = score_davis(sequences, runs, tracker="t", dataset="d")
    assert found.values["J"] == pytest.approx(2 / 3)
    assert found.attributes["OCC"]["J"] == 0
    assert found.attribute_sizes == {"OCC": 1}
    assert found.sequences[0].values["J/2"] == 1
    assert [s.weight for s in found.sequences] == [2, 1]  # in paired tests


def test_sequences_without_result_are_left_out_and_named() -> None:
    sequences = [mask_sequence("a", moving()), mask_sequence("b", moving())]
    found = score_davis(sequences, {"a": [mask_run(moving())]}, tracker="t", dataset="d")
    assert found.values["J&F"] == 1
    assert [s.lost for s in found.sequences] == [False, True]
    assert any("1 of 2 sequences" in n and "b" in n for n in found.notes)


def test_masks_are_needed_on_both_sides() -> None:
    boxes = np.full((6, 4), np.nan)
    with pytest.raises(InputError, match="has no masks; give a tracker that segments"):
        score_davis([mask_sequence("a", moving())], {"a": [Run(boxes=boxes)]}, tracker="t", dataset="d")
    with pytest.raises(InputError, match="the first frame has no mask file"):
        score([None, *moving()[1:]], moving())
    with pytest.raises(InputError, match="not published"):
        score([moving()[0], None, None, None], moving()[:4])
    with pytest.raises(InputError, match="did you mean 'davis2017'"):
        vos_rule("davis2018")


def late() -> list[np.ndarray | None]:
    """Object 1 from the start, object 2 from frame 3 on."""
    return [picture((1, 5, 5, 12, 12), *([(2, 30, 5, 10, 10)] if i >= 3 else [])) for i in range(7)]


def test_youtube_objects_count_after_their_first_frame() -> None:
    guess = late()
    guess[3] = picture((1, 5, 5, 12, 12))  # object 2 is given here: not scored
    seen = seen_objects({"v": {1: "cat", 2: "ape"}}, ["cat"])
    assert seen == {"v": {1: True, 2: False}}
    sequences, runs = [mask_sequence("v", late())], {"v": [mask_run(guess)]}
    found = score_youtubevos(sequences, runs, tracker="t", dataset="d", seen=seen)
    assert [found.values[m.name] for m in found.metrics] == [1, 1, 1, 1, 1]
    guess[4] = picture((1, 5, 5, 12, 12))  # one of the two frames of object 2 that count
    found = score_youtubevos(sequences, runs, tracker="t", dataset="d", seen=seen)
    assert found.values["J_seen"] == 1
    assert found.values["J_unseen"] == found.values["F_unseen"] == 0.5
    assert found.values["G"] == 0.75


def test_youtube_object_that_starts_in_the_last_of_two_frames() -> None:
    truth = [picture((1, 5, 5, 6, 6)), picture((1, 5, 5, 6, 6), (2, 20, 5, 6, 6))]
    found = score_youtubevos([mask_sequence("v", truth)], {"v": [mask_run(truth)]}, tracker="t", dataset="d")
    assert math.isnan(found.values["G"])  # no frame counts, and that is said
    assert any("without a frame that counts" in n for n in found.notes)


def test_youtube_without_knowledge_of_categories_says_so() -> None:
    found = score_youtubevos([mask_sequence("v", late())], {"v": [mask_run(late())]}, tracker="t", dataset="d")
    assert found.values["G"] == 1
    assert any("not known" in n for n in found.notes)
    with pytest.raises(InputError, match="object 2 is seen is not given"):
        score_youtubevos(
            [mask_sequence("v", late())],
            {"v": [mask_run(late())]},
            tracker="t",
            dataset="d",
            seen={"v": {1: True}},
        )
