"""Published trackers' raw VOT results, scored again (../shared/data/published_results; skipped where it is absent).

``expected.json`` and the table per sequence hold numbers recomputed from the same files by pysot's toolkit, to six decimals;
what papers print is met to its last digit, as that folder's README says.
"""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import agree, load
from golden_rules import REPO
from vot_results import read_vot_results

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.evaluation.scores import Scores
from keepsight.evaluation.vot import score_longterm, score_supervised
from keepsight.regions import parse_region
from keepsight.text import read_rows

FOLDER = REPO.parent / "shared" / "data" / "published_results"
SIX_DECIMALS = 6e-7
TAGS = ("camera_motion", "illum_change", "motion_change", "size_change", "occlusion")


def _same(annotation: Annotation) -> Annotation:
    return annotation


def _expected(name: str) -> dict[str, Any]:
    if not (FOLDER / name).is_dir():
        pytest.skip(f"{FOLDER / name} is not there: published results are not part of the repository")
    return load(FOLDER / "expected.json")[name]


def _sequence(dataset: str, name: str, entry: dict[str, Any]) -> Sequence:
    regions = tuple(parse_region(",".join(map(str, row))) for row in entry["gt_rect"])
    annotation = Annotation(
        boxes=np.full((len(regions), 4), np.nan),
        regions=regions,
        image_size=(entry["width"], entry["height"]),
        tags={tag: np.array(entry[tag], dtype=bool) for tag in TAGS},
    )
    assert len(regions) == entry["length"]
    return Sequence(name, dataset, NoFrames(len(regions)), partial(_same, annotation))


@pytest.fixture(scope="module", params=["vot2018", "vot2019"])
def rescored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name, expected numbers, and tracker -> scores."""
    name = request.param
    expected = _expected(name)
    truth = json.loads(gzip.decompress((FOLDER / name / "groundtruth.json.gz").read_bytes()))
    sequences = [_sequence(name, one, entry) for one, entry in truth.items()]
    place = tmp_path_factory.mktemp(name)
    scores: dict[str, Scores] = {}
    for tracker in expected:
        with zipfile.ZipFile(FOLDER / name / "results" / f"{tracker}.zip") as archive:
            archive.extractall(place)
        runs = read_vot_results(place / tracker, sequences)
        scores[tracker] = score_supervised(sequences, runs, tracker=tracker, dataset=name)
    return name, expected, scores


def test_recomputed_scores(rescored: Any) -> None:
    name, expected, scores = rescored
    meets = partial(agree, toolkit=f"published results, {name}: recomputed", rule="vot-supervised")
    for tracker, entry in expected.items():
        want, got = entry["recomputed"]["pysot"], scores[tracker]
        for key in ("EAO", "A", "R", "lost"):
            meets(got.values[key], want[key], SIX_DECIMALS, what=key, where=tracker)
        meets(sum(one.frames for one in got.sequences), want["frames"], 0, what="frames", where=tracker)
        assert not got.notes


def test_recomputed_sequences(rescored: Any) -> None:
    name, _, scores = rescored
    with (FOLDER / name / "recomputed_per_sequence.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_name = {t: {one.name: one.values for one in s.sequences} for t, s in scores.items()}
    assert len(rows) == sum(len(s) for s in by_name.values())
    meets = partial(agree, toolkit=f"published results, {name}: recomputed", rule="vot-supervised")
    for row in rows:
        got, where = by_name[row["tracker"]][row["sequence"]], (row["tracker"], row["sequence"])
        meets(got["lost"], float(row["failures"]), 0, what="lost of each sequence", where=where)
        accuracy = float(row["accuracy"] or "nan")  # nothing: no frame left after burn-in
        meets(got["A"], accuracy, SIX_DECIMALS, what="A of each sequence", where=where)


def test_printed_scores(rescored: Any) -> None:
    """One in the last printed digit, as the folder's README finds."""
    name, expected, scores = rescored
    for tracker, entry in expected.items():
        for key, printed in entry["published"].items():
            agree(
                scores[tracker].values[key],
                printed,
                0 if key == "lost" else 0.0005,
                toolkit=f"published results, {name}: as printed",
                rule="vot-supervised",
                what=key,
                where=tracker,
            )


def test_tags_split_the_frames(rescored: Any) -> None:
    name, _, scores = rescored
    for tracker, got in scores.items():
        if name == "vot2019":  # its tags are all 0 in the source
            assert not got.attributes
            continue
        assert set(got.attributes) == {*TAGS, "empty"}, tracker
        frames = sum(one.frames for one in got.sequences)
        assert all(0 < size < frames for size in got.attribute_sizes.values())
        assert all(0 < values["EAO"] < 1 and 0 < values["A"] < 1 for values in got.attributes.values()), tracker
        assert sum(values["lost"] for values in got.attributes.values()) >= got.values["lost"]


def test_longterm_sequence(tmp_path: Path) -> None:
    expected = _expected("ltb35")
    (truth,) = (FOLDER / "ltb35").glob("*_groundtruth.txt")
    name = truth.name.removesuffix("_groundtruth.txt")
    boxes = read_rows(truth)
    annotation = Annotation(boxes=boxes, image_size=(640, 480))  # the size is in the folder's README
    sequence = Sequence(name, "votlt2018", NoFrames(len(boxes)), partial(_same, annotation))
    compared = 0
    for entry, numbers in expected.items():
        tracker = entry.removesuffix(f"_{name}")
        with zipfile.ZipFile(FOLDER / "ltb35" / f"{tracker}.zip") as archive:
            archive.extractall(tmp_path)
        runs = read_vot_results(tmp_path / tracker, [sequence], "longterm")
        got = score_longterm([sequence], runs, tracker=tracker, dataset="votlt2018", rule="vot-lt-pysot")
        for key, want in numbers["recomputed"]["pysot"].items():
            toolkit = "published results, ltb35: recomputed"
            agree(got.values[key], want, SIX_DECIMALS, toolkit=toolkit, rule="vot-lt-pysot", what=key, where=entry)
            compared += 1
        # vot-toolkit's rule counts pixels too, with rectangles one pixel smaller
        other = score_longterm([sequence], runs, tracker=tracker, dataset="votlt2018", rule="vot-lt")
        exact = numbers["recomputed"]["exact_rectangles"]
        for key in exact:
            toolkit = "published results, ltb35: recomputed with exact rectangles"
            agree(other.values[key], exact[key], 1e-3, toolkit=toolkit, rule="vot-lt", what=key, where=entry)
    assert compared
