"""The stage "candidates": categories as the specification's table, the file's fields, restarts, every kind of base tracker."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small import small_dimp

import keepsight as ks
from keepsight.datasets.composite import CompositeSet
from keepsight.datasets.sequence import Annotation, Frames, Sequence
from keepsight.errors import InputError, VideoError
from keepsight.nn.association import find_candidates, image_points
from keepsight.online.search import View
from keepsight.training import candidates
from keepsight.training.association import AssociationProcessing, CandidateSampler, ItemConfig, MiningConfig
from keepsight.training.candidates import (
    CandidateConfig,
    CandidateSet,
    FrameCandidates,
    ScoreMap,
    ScoreMaps,
    SequenceCandidates,
    annotation_cell,
    build_candidates,
    frame_state,
    open_sequences,
    pair_states,
    read_candidates,
    record,
)

# --- categories ----------------------------------------------------------------------------------------------------------

AT = (10.0, 10.0)


def state(near: float, far: float, scores=(0.9, 0.5), rank: int = 0) -> str | None:
    """Of a frame whose nearest candidate is ``near`` cells away and has this rank; the other is ``far`` cells away."""
    cells = [(AT[0] + near, AT[1]), (AT[0], AT[1] - far)]
    return frame_state(AT, cells if rank == 0 else cells[::-1], scores)


@pytest.mark.parametrize(
    ("near", "far", "scores", "rank", "expected"),
    [
        (1.5, 6, (0.9, 0.5), 0, "H"), (2.0, 6, (0.9, 0.5), 0, "H"), (2.5, 6, (0.9, 0.5), 0, None),
        (1, 3.5, (0.9, 0.5), 0, None), (1, 4.0, (0.9, 0.5), 0, None), (1, 4.5, (0.9, 0.5), 0, "H"),
        (1, 6, (0.25, 0.2), 0, "H"), (1, 6, (0.2499, 0.2), 0, "G"), (2.5, 6, (0.2, 0.1), 0, None),
        (1, 6, (0.25, 0.2), 1, "K"), (1, 6, (0.2499, 0.2), 1, None), (2.0, 4.5, (0.9, 0.5), 1, "K"),
        (2.5, 6, (0.9, 0.5), 1, None), (1, 4.0, (0.9, 0.5), 1, None), (1, 3.5, (0.9, 0.5), 1, None),
        (3.5, 6, (0.9, 0.5), 0, None), (4.0, 6, (0.9, 0.5), 0, None), (4.5, 6, (0.9, 0.5), 0, "J"),
        (4.5, 6, (0.2499, 0.2), 0, None), (4.5, 6, (0.25, 0.2), 1, "J"),
    ],
)  # fmt: skip
def test_table(near, far, scores, rank, expected):
    """Half a cell, and a little of a score, to both sides of every limit."""
    assert state(near, far, scores, rank) == expected


def test_one_candidate_has_no_category():
    assert frame_state(AT, [AT], [0.9]) is None
    assert frame_state(AT, np.zeros((0, 2)), []) is None


def test_pairs_are_neighbours():
    states = {3: "H", 4: "H", 5: "K", 7: "H", 8: "G", 9: "H", 12: "K", 13: "K", 15: "H", 17: "H"}
    assert pair_states(states) == {"HH": [3], "HK": [4], "HG": [7]}


def test_annotation_cell_is_where_a_gaussian_is_highest():
    view, cell, side = View((120.25, 80.5), 1.3, 289), 16, 19
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y, w, h = *rng.uniform(-100, 300, 2), *rng.uniform(5, 60, 2)
        centre = np.array((y + (h - 1) / 2, x + (w - 1) / 2))
        grid = (np.arange(side) - 9) * cell * view.scale
        away = [np.abs(p + grid - c) for p, c in zip(view.pos, centre, strict=True)]
        assert annotation_cell((x, y, w, h), view, cell, side) == tuple(int(a.argmin()) for a in away)
    half = (80.5 + 8 * 1.3, 120.25 - 8 * 1.3, 1, 1)  # between two cells on both axes: the first
    assert annotation_cell(half, View((120.25, 80.5), 1.3, 289), cell, side) == (8, 9)


# --- one sequence, with scripted score maps --------------------------------------------------------------------------------


class Grey(Frames):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        if not index < self.count:
            raise IndexError(index)
        return np.full((60, 80, 3), index, np.uint8)


def a_sequence(boxes, visible=None, name="a") -> Sequence:
    known = Annotation(np.asarray(boxes, np.float64), visible=None if visible is None else np.asarray(visible))
    return Sequence(name, "test", Grey(len(boxes)), lambda: known)


class Scripted:
    """A tracker and its score maps: frame k has the peaks ``script[k]``, (row, column, score)."""

    def __init__(self, script) -> None:
        self.script, self.last, self.started = script, None, []

    def init(self, frame, box) -> None:
        self.started.append((int(frame[0, 0, 0]), box))

    def update(self, frame) -> None:
        scores = np.zeros((19, 19), np.float32)
        for row, col, score in self.script[int(frame[0, 0, 0])]:
            scores[row, col] = score
        self.last = ScoreMap(scores, View((30.0, 40.0), 0.2, 289), 16)


H = [(9, 9, 0.9), (2, 9, 0.3)]
K = [(9, 9, 0.5), (2, 9, 0.8)]
BOX = (35.5, 25.5, 10, 10)  # centre (30, 40): cell (9, 9)


def test_record():
    boxes = [BOX] * 7
    boxes[4] = (np.nan,) * 4
    script = {1: H, 2: [*H, (15, 15, 0.05)], 3: K, 4: H, 5: [(9, 9, 0.9)], 6: H}
    tracker = Scripted(script)
    found, side = record(tracker, tracker, a_sequence([(np.nan,) * 4, *boxes[1:]]), frames=None)
    assert tracker.started == [(1, list(BOX))]  # the first frame in which the target is visible; it has no score map
    assert side == 19
    assert [f.index for f in found.frames] == [2, 3, 6]  # 4: out of view; 5: a single candidate
    assert found.states == {"G": (), "H": (2, 6), "J": (), "K": (3,)}
    assert found.pairs == {"HH": (), "HK": (2,), "HG": ()}
    first = found.frame(2)
    assert first.annotation == (9, 9)
    assert first.cells.tolist() == [[9, 9], [2, 9]]  # a score of τ is none
    assert first.scores.tolist() == pytest.approx([0.9, 0.3])
    extent = 0.2 * 289 - 1
    assert first.search_area == pytest.approx((40 - extent / 2, 30 - extent / 2, extent, extent))
    assert (found.frame(2).target, found.frame(3).target) == (0, 1)


def test_record_without_a_visible_target():
    tracker = Scripted({})
    found, side = record(tracker, tracker, a_sequence([BOX] * 3, visible=[False] * 3))
    assert (found.frames, side, tracker.started) == ((), 0, [])


def test_record_stops_early():
    tracker = Scripted(dict.fromkeys(range(9), H))
    found, _ = record(tracker, tracker, a_sequence([BOX] * 9), frames=4)
    assert [f.index for f in found.frames] == [1, 2, 3]


# --- the file ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """Data set ``test`` of three sequences, the second broken; every tracker sees H in all of their frames."""
    made = []

    def load(name, **options):
        tracker = Scripted(dict.fromkeys(range(9), H))
        tracker.reset = lambda: None
        made.append((name, options, tracker))
        return tracker

    sequences = {name: a_sequence([BOX] * 4, name=name) for name in ("a", "b", "c")}

    def broken():
        raise VideoError("b.txt is damaged")

    sequences["b"] = Sequence("b", "test", Grey(4), broken)
    monkeypatch.setattr(ks, "load", load)
    monkeypatch.setattr(candidates, "ScoreMaps", lambda tracker: tracker)
    monkeypatch.setattr(candidates, "open_sequences", lambda spec, root=None: sequences)
    return made


def test_file(scripted, tmp_path):
    path, told = tmp_path / "below" / "c.json", []
    config = CandidateConfig("any", "file", ("test",), seed=3)
    found = build_candidates(config, path, progress=lambda *news: told.append(news))
    assert [(n, o["weights"], o["seed"]) for n, o, _ in scripted] == [("any", "file", 3)]
    assert told == [(1, 3, "a"), (2, 3, "b"), (3, 3, "c")]
    assert list(found.sequences) == ["a", "c"]
    assert found.about["skipped"] == {"b": "b.txt is damaged"}
    assert found.counts() == {"G": 0, "H": 6, "J": 0, "K": 0, "HH": 4, "HK": 0, "HG": 0}
    values = json.loads(path.read_text())
    assert set(values) == {"keepsight", "a", "c"}
    fields = {"index", "search_area_box", "target_anno_coord", "target_candidate_scores", "target_candidate_coords",
              "frame_states", "subseq_states"}  # fmt: skip
    assert set(values["a"]) == fields
    assert values["a"]["index"] == [1, 2, 3]
    assert values["a"]["frame_states"] == {"G": [], "H": [1, 2, 3], "J": [], "K": []}
    assert values["a"]["subseq_states"] == {"HH": [1, 2], "HK": [], "HG": []}
    assert values["a"]["target_candidate_coords"][0] == [[9, 9], [2, 9]]
    assert list(path.parent.iterdir()) == [path]  # no halves left
    there = read_candidates(path)
    assert (there.data, there.side, there.counts()) == (("test",), 19, found.counts())
    again = there.sequences["a"].frame(2)
    assert again.scores == pytest.approx(found.sequences["a"].frame(2).scores)
    assert json.loads(json.dumps(there.sequences["c"].to_json())) == values["c"]


def test_restart_skips_what_is_there(scripted, tmp_path):
    path, config = tmp_path / "c.json", CandidateConfig("any", data=("test",))
    stops = iter([0, 0, 15])
    first = build_candidates(config, path, stop=lambda: next(stops))
    assert (list(first.sequences), first.about["skipped"]) == (["a"], {"b": "b.txt is damaged"})
    written = path.read_text()
    both = build_candidates(config, path)
    assert list(both.sequences) == ["a", "c"]
    assert len(scripted[1][2].started) == 1  # c alone
    build_candidates(config, path)
    assert scripted[2][2].started == []
    path.write_text(written)
    longer = build_candidates(CandidateConfig("any", data=("test",), sequences=3), path)
    assert list(longer.sequences) == ["a", "c"]
    with pytest.raises(InputError, match=r"other settings \(threshold\)"):
        build_candidates(CandidateConfig("any", data=("test",), threshold=0.1), path)
    with pytest.raises(InputError, match=r"other settings \(seed, tracker\)"):
        build_candidates(CandidateConfig("other", data=("test",), seed=2), path)


def test_several_data_sets_have_their_names_in_the_keys(scripted):
    found = build_candidates(CandidateConfig("any", data=("test", "test:two"), sequences=1))
    assert list(found.sequences) == ["test/a", "test:two/a"]
    assert found.picture("test:two/a", 2).mean() == 2
    with pytest.raises(InputError, match="'elsewhere/a'"):
        found.picture("elsewhere/a", 2)
    with pytest.raises(InputError, match="no sequence 'x'"):
        found.picture("test/x", 2)


def test_nothing_usable(scripted, monkeypatch):
    with pytest.raises(InputError, match="no data set"):
        CandidateConfig(data=())
    monkeypatch.setattr(candidates, "open_sequences", lambda spec, root=None: {"b": a_broken()})
    with pytest.raises(InputError, match="no sequence could be used"):
        build_candidates(CandidateConfig("any", data=("test",)))


def a_broken() -> Sequence:
    def read():
        raise VideoError("gone")

    return Sequence("b", "test", Grey(4), read)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"), ("[]", "no sequences"), ('{"keepsight": {"format": 99}}', "later keepsight"),
        ('{"a": {}}', "'a' of the candidate file is damaged"),
        ('{"a": {"index": [1], "search_area_box": [[0, 0, 1, 1]], "target_anno_coord": [[0, 0]], "target_candidate_scores": '
         '[[0.5]], "target_candidate_coords": [[[0, 0]]], "frame_states": {"H": [2]}, "subseq_states": {}}}', "frame 2"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, text, words):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_candidates(path)
    with pytest.raises(InputError, match="--stage candidates"):
        read_candidates(tmp_path / "none.json")


def a_file() -> dict[str, Any]:
    """Two sequences with every category that has two candidates or more, on a map of 19 cells."""
    frames = [
        FrameCandidates(i, (4.5, -3.25, 60.0, 48.5), (9, 9), np.array(scores), np.array(cells))
        for i, (cells, scores) in enumerate(
            [
                ([(9, 9), (2, 9)], [0.9, 0.3]), ([(9, 9), (2, 9)], [0.8, 0.5]), ([(2, 9), (9, 9), (18, 0)], [0.7, 0.5, 0.5]),
                ([(9, 9), (0, 18)], [0.2, 0.1]), ([(2, 9), (16, 16)], [0.6, 0.06]),
            ]
        )
    ]  # fmt: skip
    states = {0: "H", 1: "H", 2: "K", 3: "G", 4: "J"}
    found = {"a": SequenceCandidates.of(frames, states), "b": SequenceCandidates.of(frames[1:3], {1: "H", 2: "K"})}
    about = {"format": 1, "data": ["test"], "side": 19, "skipped": {"c": "gone"}}
    return {"keepsight": about, **{name: one.to_json() for name, one in found.items()}}


def read(values: Any, folder, **more) -> CandidateSet:
    path = folder / "c.json"
    path.write_text(json.dumps(values))
    return read_candidates(path, **more)


NAN, INFINITE = float("nan"), float("inf")
TO_DAMAGE = [
    (("b", "index"), [1], "target_anno_coord|search_area_box"),
    (("b", "index", 0), -1, "index has -1"),
    (("b", "index", 0), 2, "index has 2 after 2"),
    (("b", "index", 1), 0, "index has 0 after 1"),
    (("b", "index", 0), 1.5, "index has 1.5"),
    (("b", "index", 0), True, "index has True"),
    (("b", "index", 0), "1", "index has '1'"),
    (("b", "index"), None, "index is absent"),
    (("b", "search_area_box", 1), [0, 0, NAN, 5], "search_area_box of frame 2"),
    (("b", "search_area_box", 1), [0, INFINITE, 5, 5], "search_area_box of frame 2"),
    (("b", "search_area_box", 1), [0, 10**400, 5, 5], "search_area_box of frame 2"),
    (("b", "search_area_box", 1), [0, 0, 5, 0], "with an area"),
    (("b", "search_area_box", 1), [0, 0, -5, 5], "with an area"),
    (("b", "search_area_box", 1), [0, 5, 5], "search_area_box of frame 2"),
    (("b", "search_area_box", 1), "0155", "search_area_box"),
    (("b", "target_anno_coord", 0), [19, 0], "target_anno_coord of frame 1"),
    (("b", "target_anno_coord", 0), [1], "target_anno_coord"),
    (("b", "target_candidate_scores", 0), [0.8, NAN], "target_candidate_scores of frame 1"),
    (("b", "target_candidate_scores", 0), [0.5, 0.8], "highest first"),
    (("b", "target_candidate_scores", 0), [], "at least one"),
    (("b", "target_candidate_scores", 0), [[0.8], [0.5]], "target_candidate_scores"),
    (("b", "target_candidate_scores", 0), [0.8, 10**400], "target_candidate_scores"),
    (("b", "target_candidate_scores", 0), [0.8], "of 1 candidates"),
    (("b", "target_candidate_coords", 0), [[9, 9]], "of 2 candidates"),
    (("b", "target_candidate_coords", 0), [[9, 9], [2, 19]], "from 0 to 18"),
    (("b", "target_candidate_coords", 0), [[9, 9], [-1, 9]], "from 0 to 18"),
    (("b", "target_candidate_coords", 0), [9, 9, 2, 9], "target_candidate_coords of frame 1"),
    (("b", "frame_states", "H"), [3], "frame_states.H needs frame 3"),
    (("b", "frame_states", "H"), [1, 1], "each frame once"),
    (("b", "frame_states", "J"), [1], "frame 1 twice"),
    (("b", "frame_states", "D"), [1], "G, H, J, K"),
    (("b", "frame_states"), [], "frame_states is"),
    (("b", "frame_states", "H"), 1, "a list"),
    (("b", "subseq_states", "HK"), [2], "subseq_states.HK needs frame 3"),
    (("b", "subseq_states", "HJ"), [1], "HH, HK, HG"),
    (("b", "subseq_states"), None, "subseq_states is absent"),
    (("b",), 3, "3 is given"),
    (("keepsight",), 3, "an object"),
    (("keepsight", "format"), "x", "format is 'x'"),
    (("keepsight", "format"), 0, "format is 0"),
    (("keepsight", "format"), True, "format is True"),
    (("keepsight", "side"), "x", "side is 'x'"),
    (("keepsight", "side"), -19, "side is -19"),
    (("keepsight", "side"), 19.0, "side is 19.0"),
    (("keepsight", "side"), 10, "'a' .* from 0 to 9"),
    (("keepsight", "data"), "test", "data is 'test'"),
    (("keepsight", "data"), [1], "list of names"),
    (("keepsight", "skipped"), [], "skipped is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "words"), TO_DAMAGE, ids=[f"{'.'.join(map(str, p))}={v!r:.24}" for p, v, _ in TO_DAMAGE]
)
def test_damage_is_named(tmp_path, place, value, words):
    values = a_file()
    put(values, place, value)
    with pytest.raises(InputError, match=words) as told:
        read(values, tmp_path)
    said = str(told.value)
    named = (
        "'a'" if value == 10 else "'b'" if place[0] == "b" else "'keepsight'"
    )  # a side too small is found at a candidate
    assert named in said
    assert "make the file again" in said


def put(values: Any, place: tuple[Any, ...], value: Any) -> None:
    for step in place[:-1]:
        values = values[step]
    values[place[-1]] = value


def test_a_file_that_is_whole(tmp_path):
    found = read(a_file(), tmp_path)
    assert (found.side, found.data) == (19, ("test",))
    assert found.counts() == {"G": 1, "H": 3, "J": 1, "K": 2, "HH": 1, "HK": 2, "HG": 0}
    assert {name: one.to_json() for name, one in found.sequences.items()} == {k: a_file()[k] for k in "ab"}
    absent = a_file()  # empty categories may be left out
    del absent["a"]["subseq_states"]["HG"]
    assert read(absent, tmp_path).counts() == found.counts()


def test_the_callers_side_counts(tmp_path):
    values = a_file()
    del values["keepsight"]
    assert read(values, tmp_path).side == 23
    with pytest.raises(InputError, match="from 0 to 17"):
        read(values, tmp_path, side=18)


def places_of(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside nested lists and dictionaries."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for k, v in inner for found in [(*place, k), *places_of(v, (*place, k))]]


PLACES = places_of(a_file())
NONSENSE = st.one_of(
    st.none(), st.booleans(), st.integers(-30, 30), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.lists(st.one_of(st.integers(-3, 30), st.floats(), st.lists(st.integers(-3, 30), max_size=3)), max_size=5),
)  # fmt: skip


class Pictures(CandidateSet):
    def picture(self, key: str, index: int) -> np.ndarray:
        return np.zeros((40, 60, 3), np.uint8)


@settings(max_examples=300)
@given(damage=st.lists(st.tuples(st.sampled_from(PLACES), st.one_of(NONSENSE, st.just(...))), min_size=1, max_size=2))
@example(damage=[(("a", "search_area_box", 0), [0.0, 0.0, 1e-3, 5.0])])
@example(damage=[(("a", "search_area_box", 0), [1e6, 1e6, 1e6, 1e6])])
def test_random_damage_is_refused_or_read_as_it_stands(tmp_path_factory, damage):
    """Nothing else is raised, nothing that stands there becomes something else, and what was read can be trained on."""
    values = a_file()
    for place, value in damage:
        try:
            inner = values
            for step in place[:-1]:
                inner = inner[step]
            if value is ...:
                del inner[place[-1]]
            else:
                inner[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):  # the other damage took the place away
            continue
    try:
        found = read(values, tmp_path_factory.getbasetemp())
    except InputError:
        return
    wanted = {name: one for name, one in values.items() if name != "keepsight"}
    for one in wanted.values():
        one["frame_states"] = {s: one["frame_states"].get(s, []) for s in candidates.STATES}
        one["subseq_states"] = {p: one["subseq_states"].get(p, []) for p in candidates.PAIRS}
        for field in ("search_area_box", "target_candidate_scores"):
            one[field] = [[float(f"{v:.7g}") for v in row] for row in one[field]]
    made = {name: one.to_json() for name, one in found.sequences.items()}
    assert made == {n: {f: one[f] for f in made[n]} for n, one in wanted.items()}
    assert list(found.data) == values.get("keepsight", {}).get("data", [])
    try:
        sampler = CandidateSampler(Pictures(found.sequences, ("test",), found.side), MiningConfig())
    except InputError:
        return
    process = AssociationProcessing(ItemConfig(output_size=16, map_side=9))
    for seed in range(3):
        item = process(sampler.draw(np.random.default_rng(seed)), np.random.default_rng(seed))
        assert all(np.isfinite(side.points).all() and np.isfinite(side.scores).all() for side in item.sides)


def test_a_frame_that_the_video_lacks(scripted):
    found = build_candidates(CandidateConfig("any", data=("test",)))
    with pytest.raises(InputError, match=r"frame 17 of 'a', which has 4 frames"):
        found.picture("a", 17)


def test_published_files_say_less(tmp_path):
    """No entry ``keepsight``: the caller says the data set, and the map has 23 cells."""
    frame = FrameCandidates(5, (0.0, 1.0, 2.0, 3.0), (4, 4), np.array([0.5, 0.3]), np.array([[4, 4], [22, 22]]))
    values = {"airplane-1": SequenceCandidates.of([frame], {5: "H"}).to_json()}
    (tmp_path / "c.json").write_text(json.dumps(values))
    found = read_candidates(tmp_path / "c.json", data=("lasot:train",))
    assert (found.side, found.data, found.counts()["H"]) == (23, ("lasot:train",), 1)


# --- data sets and trackers ---------------------------------------------------------------------------------------------------


def test_look_alikes():
    videos = open_sequences("lookalikes:procedural").elements
    assert isinstance(videos, CompositeSet)
    video = videos.video(0)
    assert len(video.identities) >= 2  # never alone
    assert videos.config.meeting == 1
    with pytest.raises(InputError, match="procedural"):
        open_sequences("lookalikes:nothing")
    with pytest.raises(InputError, match="unknown"):
        open_sequences("nothing")


def test_pictures_of_a_set_that_travelled():
    found = candidates.CandidateSet({}, ("lookalikes:procedural",))
    picture = found.picture("000003", 4)
    other = pickle.loads(pickle.dumps(found))
    assert "_kept" not in vars(other)
    assert np.array_equal(other.picture("000003", 4), picture)
    assert np.array_equal(open_sequences("lookalikes:procedural")["000003"].frames[4], picture)


def test_dimp_lite_on_look_alikes(tmp_path):
    """The hook gives the map that decided: its best peak is where the tracker went."""
    tracker = ks.load("dimp-lite", device="cpu")
    maps = ScoreMaps(tracker)
    sequence = open_sequences("lookalikes:procedural")["000000"]
    tracker.init(sequence.frames[0], box=sequence.first_box)
    for k in range(1, 4):
        result = tracker.update(sequence.frames[k])
        assert maps.last.scores.shape == (19, 19)
        cells, scores = find_candidates(torch.from_numpy(maps.last.scores), 0.05)
        assert scores[0] == pytest.approx(result.score, abs=0.1)  # its score is that of the peak between cells
        y, x = image_points(cells[:1], maps.last.view.search_area, 19)[0].tolist()
        box = result.box
        assert abs(y - (box.y + box.h / 2)) < box.h / 2
        assert abs(x - (box.x + box.w / 2)) < box.w / 2
    config = CandidateConfig("dimp-lite", data=("lookalikes:procedural",), sequences=1, frames=12)
    found = build_candidates(config, tmp_path / "c.json", device="cpu")
    assert (found.side, list(found.sequences)) == (19, ["000000"])


@pytest.mark.parametrize(("name", "normal"), [("dimp18", False), ("prdimp18", True)])
def test_dimp_family(name, normal):
    tracker = small_dimp(name)
    maps = ScoreMaps(tracker)
    frame = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    tracker.init(frame, box=(60, 40, 30, 30))
    result = tracker.update(frame)
    side = tracker.cells + 1
    assert maps.last.scores.shape == (side, side)
    assert maps.last.scores.max() == pytest.approx(result.score)
    if normal:  # after the softmax, as its localisation reads them
        assert maps.last.scores.sum() == pytest.approx(1, abs=0.2)


def test_other_trackers_are_refused():
    with pytest.raises(InputError, match="DiMP family"):
        ScoreMaps(SimpleNamespace(name="atom"))
