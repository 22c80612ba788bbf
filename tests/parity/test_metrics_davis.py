"""J and F against davis2017-evaluation, pytracking and the YouTube-VOS-like rule (golden/metrics/davis)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agreement import agree, load, toolkit_name

from keepsight.datasets.davis import read_davis
from keepsight.datasets.sequence import Sequence
from keepsight.evaluation.foreign import read_results
from keepsight.evaluation.scores import Scores
from keepsight.evaluation.vos import VosRule, score_davis, score_youtubevos

TOLERANCE = 1e-12
"""Counts of pixels divided once, in float64; means of them."""


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    path = golden / "metrics" / "davis"
    if not path.is_dir():
        pytest.skip(f"{golden} has no metrics/davis")
    return path


def expected(folder: Path, pattern: str) -> tuple[Any, Any]:
    """The file's content, and :func:`agree` under the name of its toolkit."""
    (path,) = (folder / "expected").glob(pattern)
    return load(path), partial(agree, toolkit=toolkit_name(folder.parents[1], path.name), rule="davis2017")


@pytest.fixture(scope="module")
def sequences(folder: Path) -> dict[str, Sequence]:
    (listed,) = (folder / "DAVIS" / "ImageSets").glob("*/*.txt")
    return {s.name: s for s in read_davis(folder / "DAVIS", listed.stem)}


@pytest.fixture(scope="module")
def scores(folder: Path, sequences: dict[str, Sequence]) -> dict[str, Scores]:
    out = {}
    for place in sorted((folder / "results").iterdir()):
        found = read_results(place, sequences)
        assert (found.layout, found.tracker, len(found.runs)) == ("masks", place.name, len(sequences))
        out[place.name] = score_davis(
            sequences.values(), found.runs, tracker=place.name, dataset="davis2017", keep_per_frame=True
        )
    return out


def objects(scores: Scores) -> dict[str, Mapping[str, float]]:
    """``<sequence>_<id>`` -> its numbers, in the toolkit's order."""
    out: dict[str, dict[str, float]] = {}
    for s in scores.sequences:
        for key, value in s.values.items():
            name, slash, number = key.rpartition("/")
            if slash:
                out.setdefault(f"{s.name}_{number}", {})[name] = value
    return out


def test_every_frame(folder: Path, scores: dict[str, Scores]) -> None:
    want, meets = expected(folder, "davis2017_per_frame.npz")
    seen = 0
    for key in want:
        tracker, name, number, what = key.split("/")
        part = next(s for s in scores[tracker].sequences if s.name == name)
        got = part.per_frame[f"{what[0]}/{number}"]
        meets(got[0], want[key], TOLERANCE, what=f"{what[0]} per frame", where=key)
        seen += 1
    assert seen == sum(len(s.per_frame) for one in scores.values() for s in one.sequences) > 0


def test_means_recalls_and_decays(folder: Path, scores: dict[str, Scores]) -> None:
    want, meets = expected(folder, "davis2017_evaluation_*.json")
    assert set(want) == set(scores)
    for tracker, entry in want.items():
        meets(scores[tracker].values["J&F"], entry["J&F-Mean"], TOLERANCE, what="J&F", where=tracker)
        for measure in "JF":
            for word, ours in (("Mean", measure), ("Recall", f"{measure}_recall"), ("Decay", f"{measure}_decay")):
                got = scores[tracker].values[ours]
                meets(got, entry[f"{measure}-{word}"], TOLERANCE, what=f"{measure} {word.lower()}", where=tracker)


def test_every_object(folder: Path, scores: dict[str, Scores]) -> None:
    want, meets = expected(folder, "davis2017_evaluation_*.json")
    for tracker, entry in want.items():
        got = objects(scores[tracker])
        assert set(got) == set(entry["J_per_object"])
        for measure in "JF":
            for name, value in entry[f"{measure}_per_object"].items():
                what = f"{measure} mean of each object"
                meets(got[name][measure], value, TOLERANCE, what=what, where=(tracker, name))
            for i, name in enumerate(entry[f"{measure}_per_object"]):
                for word in ("recall", "decay"):
                    value = entry[f"{measure}_{word}_per_object"][i]
                    what = f"{measure} {word} of each object"
                    meets(got[name][f"{measure}_{word}"], value, TOLERANCE, what=what, where=(tracker, name))


def test_pytrackings_numbers_are_the_same(folder: Path, scores: dict[str, Scores]) -> None:
    want, meets = expected(folder, "pytracking_vos_utils.json")
    for tracker, entry in want.items():
        got = objects(scores[tracker])
        assert set(got) == set(entry)
        for name, values in entry.items():
            for key, value in values.items():
                measure, word = key.split("-")
                ours = got[name][measure if word == "Mean" else f"{measure}_{word.lower()}"]
                what = f"{measure} {word.lower()} of each object"
                meets(ours, value, TOLERANCE, what=what, where=(tracker, name))


def test_seen_and_unseen_categories(folder: Path, sequences: dict[str, Sequence]) -> None:
    """The golden rule: object 1 of every sequence is seen; the objects and frames of davis2017."""
    rule = VosRule()
    file, meets = expected(folder, "ytvos_style_own_rule.json")
    for tracker, want in file["scores"].items():
        runs = read_results(folder / "results" / tracker, sequences).runs
        seen = {name: {k: k == 1 for k in s.annotation.objects} for name, s in sequences.items()}
        scores = score_youtubevos(sequences.values(), runs, tracker=tracker, dataset="youtubevos", rule=rule, seen=seen)
        name = "youtubevos, objects and frames of davis2017"
        for ours, theirs in (("J_seen", "Js"), ("J_unseen", "Ju"), ("F_seen", "Fs"), ("F_unseen", "Fu"), ("G", "G")):
            meets(scores.values[ours], want[theirs], TOLERANCE, rule=name, what=ours.replace("_", " "), where=tracker)


def test_trackeval() -> None:
    pytest.skip("TrackEval assigns ids anew (unsupervised task): its numbers are for another question")
