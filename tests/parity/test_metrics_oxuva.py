"""OxUvA's numbers against assess.py's (golden/metrics/oxuva)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import agree, load, toolkit_name

from keepsight.datasets.oxuva import read_oxuva
from keepsight.datasets.sequence import Sequence
from keepsight.evaluation.foreign import read_results
from keepsight.evaluation.oxuva import assess, max_gm, posthoc_curve, score_oxuva
from keepsight.evaluation.scores import Scores

TOLERANCE = 1e-12  # all are ratios of counts, in float64
NAMES = ("TPR", "TNR", "GM", "MaxGM", "TP", "TN", "FP", "FN")


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    path = golden / "metrics" / "oxuva"
    if not path.is_dir():
        pytest.skip(f"{golden} has no metrics/oxuva")
    return path


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "expected").glob("oxuva_*.json")
    return load(path)


@pytest.fixture(scope="module")
def meets(folder: Path) -> Any:
    (path,) = (folder / "expected").glob("oxuva_*.json")
    return partial(agree, toolkit=toolkit_name(folder.parents[1], path.name), rule="oxuva")


@pytest.fixture(scope="module")
def tracks(folder: Path) -> dict[str, Sequence]:
    return {s.name: s for s in read_oxuva(folder / "data", "dev")}


@pytest.fixture(scope="module")
def scores(folder: Path, expected: dict[str, Any], tracks: dict[str, Sequence]) -> dict[str, Scores]:
    out = {}
    for tracker, entries in expected["results"].items():
        found = read_results(folder / "predictions" / tracker, tracks)
        assert (found.layout, found.tracker) == ("oxuva", tracker)
        thresholds = tuple(float(key.removeprefix("iou_")) for key in entries)
        out[tracker] = score_oxuva(
            tracks.values(), found.runs, tracker=tracker, dataset="oxuva", iou_thresholds=thresholds
        )
    return out


def test_rates_and_counts_of_all_tracks_together(expected: Any, scores: dict[str, Scores], meets: Any) -> None:
    for tracker, entries in expected["results"].items():
        for key, entry in entries.items():
            suffix = key.replace("iou_", "@")
            for name in NAMES:
                got = scores[tracker].values[f"{name}{suffix}"]
                meets(got, entry["dataset"][name], TOLERANCE, what=name, where=(tracker, key))
            frames(meets, {n: scores[tracker].values[f"{n}{suffix}"] for n in COUNTS}, entry["dataset"], (tracker, key))


COUNTS = ("TP", "TN", "FP", "FN")


def frames(meets: Any, counts: dict[str, float], want: Any, where: object) -> None:
    present, absent = counts["TP"] + counts["FN"], counts["TN"] + counts["FP"]
    got = [present, absent, present + absent]
    theirs = [want["num_present"], want["num_absent"], want["num_frames"]]
    meets(got, theirs, 0, what="frames: present, absent, all", where=where)


def test_counts_of_each_track(expected: Any, scores: dict[str, Scores], meets: Any) -> None:
    for tracker, entries in expected["results"].items():
        parts = {s.name: s for s in scores[tracker].sequences}
        for key, entry in entries.items():
            assert set(entry["per_track"]) == set(parts)
            for track, counts in entry["per_track"].items():
                suffix = key.replace("iou_", "@")
                got = {n: parts[track].values[f"{n}{suffix}"] for n in COUNTS}
                for name in COUNTS:
                    meets(got[name], counts[name], 0, what=f"{name} of each track", where=(tracker, key, track))
                frames(meets, got, counts, (tracker, key, track))


def test_curve_over_score_thresholds(expected: Any, scores: dict[str, Scores], meets: Any) -> None:
    for tracker, entries in expected["results"].items():
        for key, entry in entries.items():
            want = np.array([(p["TPR"], p["TNR"]) for p in entry["posthoc_curve"]]).reshape(-1, 2)
            curve = scores[tracker].curves.get(key.replace("iou_", "posthoc@"))
            got = np.zeros((0, 2)) if curve is None else np.stack((curve.y, curve.x), axis=1)
            assert got.shape == want.shape, (tracker, key)
            meets(got, want, TOLERANCE, what="TPR and TNR over score thresholds", where=(tracker, key))


def test_closed_form_of_maxgm(expected: Any, meets: Any) -> None:
    table = np.array(expected["maxgm_TPR_TNR_MaxGM"], dtype=np.float64)  # (K, 3)
    meets(max_gm(table[:, 0], table[:, 1]), table[:, 2], TOLERANCE, what="MaxGM of TPR and TNR")


def test_the_curve_ends_at_the_trackers_own_operating_point(
    folder: Path, expected: dict[str, Any], tracks: dict[str, Sequence]
) -> None:
    for tracker, entries in expected["results"].items():
        runs = read_results(folder / "predictions" / tracker, tracks).runs
        found = [assess(tracks[name], run) for name, own in runs.items() for run in own]
        for key, entry in entries.items():
            tpr, tnr, thresholds = posthoc_curve(found, float(key.removeprefix("iou_")))
            if not len(tpr):
                continue
            assert tpr[-1] == pytest.approx(entry["dataset"]["TPR"], abs=TOLERANCE)
            assert tnr[-1] == pytest.approx(entry["dataset"]["TNR"], abs=TOLERANCE)
            assert (np.diff(thresholds) < 0).all()
            assert max_gm(tpr[-1], tnr[-1]) == pytest.approx(entry["dataset"]["MaxGM"], abs=TOLERANCE)
