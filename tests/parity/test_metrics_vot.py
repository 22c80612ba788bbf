"""VOT's numbers against pysot's, vot-toolkit's and got10k's (golden/metrics/vot_*; its README names the versions).

Every file is found by pattern, every size, range and parameter is read from the files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keepsight.datasets.sequence import Sequence
from keepsight.datasets.vot import read_vot
from keepsight.evaluation.overlap import region_overlaps
from keepsight.evaluation.runs import Run
from keepsight.evaluation.scores import Scores
from keepsight.evaluation.vot import score_longterm, score_multistart, score_supervised
from keepsight.evaluation.vot_files import decode_regions, encode_regions, read_regions, read_vot_results, write_regions
from keepsight.evaluation.vot_longterm import thresholds_vot
from keepsight.regions import Mask, Polygon, Rectangle, Region, Special, crop_mask, parse_region

OVERLAP = 1e-12  # pysot, vot, matlab: counts of pixels, so equal; got10k: areas
GEOMETRY = 1e-12
SCORE = 1e-12  # float64 sums in another order
FLOAT32_CURVE = 5e-7  # vot-toolkit sums its supervised curve in float32
FLOAT32_EAO = 5e-8


def folder_of(golden: Path, name: str) -> Path:
    path = golden / "metrics" / name
    if not path.is_dir():
        pytest.skip(f"{golden} has no metrics/{name}")
    return path


def expected_file(folder: Path, pattern: str) -> Any:
    (path,) = (folder / "expected").glob(pattern)
    return json.loads(path.read_text())


def number(value: Any) -> float:
    return float(value)  # "NaN" and "Infinity" are words in the files


def near(got: float, want: float, atol: float, what: object) -> None:
    assert abs(got - want) <= atol or (math.isnan(got) and math.isnan(want)), f"{what}: {got!r}, expected {want!r}"


def near_all(got: Any, want: Any, atol: float, what: object) -> None:
    got, want = np.asarray(got, dtype=float), np.array([number(v) for v in want])
    assert got.shape == want.shape, f"{what}: {got.shape}, expected {want.shape}"
    with np.errstate(invalid="ignore"):
        off = np.abs(got - want)  # nan for infinities
    same = (got == want) | (off <= atol) | (np.isnan(got) & np.isnan(want))
    assert same.all(), f"{what}: largest difference {np.nanmax(off):.2e} at {np.flatnonzero(~same)[:5]}"


# --- overlaps -----------------------------------------------------------------------------------------------------------

VARIANTS = [  # key in overlap_pairs.json, variant, what bounds subtract from W and H (None: no bounds)
    ("pysot_bounds_wh", "pysot", 0),
    ("pysot_unbounded", "pysot", None),
    ("vot_bounded", "vot", 1),
    ("vot_unbounded", "vot", None),
    ("matlab_legacy_bounds_w1h1", "matlab", 1),
    ("matlab_legacy_unbounded", "matlab", None),
    ("got10k_poly_iou_bounded", "got10k", 0),
]


@pytest.mark.parametrize(("key", "variant", "less"), VARIANTS)
def test_overlaps_of_pairs(golden: Path, key: str, variant: Any, less: int | None) -> None:
    data = expected_file(folder_of(golden, "vot_supervised"), "overlap_pairs.json")
    pairs = [p for p in data["pairs"] if p[key] is not None and not str(p[key]).startswith("error")]
    assert len(pairs) > len(data["pairs"]) / 2
    a = [parse_region(",".join(map(str, p["a"]))) for p in pairs]
    b = [parse_region(",".join(map(str, p["b"]))) for p in pairs]
    width, height = data["image_size"]
    bounds = None if less is None else (width - less, height - less)
    got = region_overlaps(a, b, bounds, variant)
    near_all(got, [p[key] for p in pairs], GEOMETRY if variant == "got10k" else OVERLAP, key)
    flipped = region_overlaps(b, a, bounds, variant)
    near_all(flipped, [p[key] for p in pairs], GEOMETRY if variant == "got10k" else OVERLAP, f"{key}, exchanged")


# --- supervised ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supervised(golden: Path) -> tuple[Path, list[Sequence], dict[str, dict[str, list[Run]]]]:
    folder = folder_of(golden, "vot_supervised")
    sequences = read_vot(folder / "data")
    results = {p.name: read_vot_results(p, sequences) for p in sorted((folder / "results").iterdir())}
    assert results
    return folder, sequences, results


def ranges(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys ``eao_VOT2018`` or ``eao_vot2018`` and the data set whose range they mean."""
    return ((key, key.removeprefix("eao_").lower()) for key in entry if key.lower().startswith("eao_vot"))


def test_supervised_scores_of_pysot(supervised: Any) -> None:
    folder, sequences, results = supervised
    expected = expected_file(folder, "pysot_*.json")
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        assert len(list(ranges(want))) > 1
        for key, dataset in ranges(want):
            got = score_supervised(sequences, results[tracker], tracker=tracker, dataset=dataset).values
            near(got["EAO"], want[key], SCORE, (tracker, key))
            near(got["A"], want["accuracy"], SCORE, (tracker, "A"))
            near(got["R"], want["robustness_x100"], SCORE, (tracker, "R"))
            near(got["lost"], want["lost_number"], SCORE, (tracker, "lost"))


def test_supervised_scores_of_vot_toolkit(supervised: Any) -> None:
    folder, sequences, results = supervised
    expected = expected_file(folder, "vot_toolkit_*.json")["results"]
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        for key, dataset in ranges(want):
            got = score_supervised(
                sequences, results[tracker], tracker=tracker, dataset=dataset, rule="vot-supervised-py"
            )
            near(got.values["EAO"], want[key], FLOAT32_EAO, (tracker, key))
        near(got.values["A"], want["average"]["accuracy"], SCORE, tracker)
        near(got.values["failures"], want["average"]["robustness_weighted_failures"], SCORE, tracker)
        near(got.values["R"], want["average"]["ar_point"][0], SCORE, tracker)
        near_all(got.curves["eao"].y, want["eao_curve"], FLOAT32_CURVE, tracker)
        assert len(got.sequences) == len(want["per_sequence"])
        for one in got.sequences:
            part = want["per_sequence"][one.name]
            near(one.values["A"], part["accuracy"], SCORE, (tracker, one.name))
            near(one.values["failures"], part["failures"], SCORE, (tracker, one.name))
            near_all([one.values["R"], one.values["A"]], part["ar"], SCORE, (tracker, one.name, "ar"))
        total = sum(one.values["failures"] for one in got.sequences)
        near(total, want["total_failures_mean_over_reps"], 1e-10, tracker)


def test_supervised_overlaps_of_vot_toolkit(supervised: Any) -> None:
    folder, sequences, results = supervised
    (path,) = (folder / "expected").glob("*_overlaps.npz")
    seen = 0
    with np.load(path) as stored:
        for tracker, runs in results.items():
            scores = score_supervised(
                sequences, runs, tracker=tracker, dataset="", rule="vot-supervised-py", keep_per_frame=True
            )
            for one in scores.sequences:
                for number, overlap in enumerate(one.per_frame["overlap"], 1):
                    key = f"{tracker}/{one.name}/{number:03d}/overlap"
                    near_all(overlap, stored[key], OVERLAP, key)
                    seen += 1
        assert seen == len([key for key in stored.files if key.endswith("/overlap")])


# --- multi-start --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def multistart(golden: Path) -> tuple[Path, dict[str, Any], dict[str, Scores]]:
    folder = folder_of(golden, "vot_multistart")
    expected = expected_file(folder, "vot_toolkit_*.json")
    sequences = read_vot(folder / "data")
    scores = {
        tracker: score_multistart(
            sequences,
            read_vot_results(folder / "results" / tracker, sequences),
            tracker=tracker,
            dataset="",
            eao_range=(expected["eao_low"], expected["eao_high"]),
            grace=expected["grace"],
            threshold=expected["threshold"],
            keep_per_frame=True,
        )
        for tracker in expected["results"]
    }
    return folder, expected, scores


def test_multistart_scores(multistart: Any) -> None:
    _, expected, scores = multistart
    for tracker, want in expected["results"].items():
        got = scores[tracker]
        near(got.values["EAO"], want["eao"], SCORE, tracker)
        near(got.values["A"], want["accuracy"], SCORE, tracker)
        near(got.values["R"], want["robustness"], SCORE, tracker)
        near_all(got.curves["eao"].y, want["eao_curve"], SCORE, tracker)
        assert {one.name for one in got.sequences} == want["per_sequence"].keys()
        for one in got.sequences:
            part = want["per_sequence"][one.name]
            near(one.values["A"], part["accuracy"], SCORE, (tracker, one.name))
            near(one.values["R"], part["robustness"], SCORE, (tracker, one.name))
            near_all(one.curves["eao"], want["per_sequence_curve"][one.name]["phi"], SCORE, (tracker, one.name))
            assert one.frames == part["robustness_weight"]


def test_multistart_overlaps(multistart: Any) -> None:
    folder, _, scores = multistart
    (path,) = (folder / "expected").glob("*_overlaps.npz")
    seen = 0
    with np.load(path) as stored:
        for tracker, got in scores.items():
            for one in got.sequences:
                keys = sorted(key for key in stored.files if key.startswith(f"{tracker}/{one.name}_"))
                assert len(keys) == len(one.per_frame["overlap"])
                for key, overlap in zip(keys, one.per_frame["overlap"], strict=True):
                    near_all(overlap[np.isfinite(overlap)], stored[key], OVERLAP, key)
                    seen += 1
        assert seen == len(stored.files)


# --- long-term ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longterm(golden: Path) -> tuple[Path, list[Sequence], dict[str, dict[str, list[Run]]]]:
    folder = folder_of(golden, "vot_longterm")
    sequences = read_vot(folder / "data", longterm=True)
    results = {p.name: read_vot_results(p, sequences, "longterm") for p in sorted((folder / "results").iterdir())}
    return folder, sequences, results


def test_longterm_scores_of_vot_toolkit(longterm: Any) -> None:
    folder, sequences, results = longterm
    expected = expected_file(folder, "vot_toolkit_*.json")["results"]
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        got = score_longterm(sequences, results[tracker], tracker=tracker, dataset="")
        near(got.values["F"], want["fscore"], SCORE, tracker)
        near(got.values["Pr"], want["precision"], SCORE, tracker)
        near(got.values["Re"], want["recall"], SCORE, tracker)
        near_all(got.curves["f_score"].y, want["f_curve"], SCORE, tracker)
        recall, precision = np.array(want["curve_recall_precision"]).T
        near_all(got.curves["precision_recall"].x, recall, SCORE, tracker)
        near_all(got.curves["precision_recall"].y, precision, SCORE, tracker)
        confidences = np.concatenate([run.presence for runs in results[tracker].values() for run in runs])
        near_all(thresholds_vot(confidences), want["thresholds"], 0.0, tracker)
        for one in got.sequences:
            pr, re = np.array(want["per_sequence_curves_precision_recall"][one.name]).T
            near_all(one.curves["precision_recall"], pr, SCORE, (tracker, one.name))
            near_all(one.curves["recall"], re, SCORE, (tracker, one.name))
            near(one.values["accuracy"], want["sequence_accuracy_burnin10"][one.name], SCORE, (tracker, one.name))
            counts = [one.values[key] for key in ("tracked", "drifted", "missed")]
            near_all(counts, want["count_T_F_M_H_N"][one.name][0][:3], 0.0, (tracker, one.name))


def test_longterm_scores_of_pysot(longterm: Any) -> None:
    folder, sequences, results = longterm
    expected = expected_file(folder, "pysot_*.json")
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        got = score_longterm(sequences, results[tracker], tracker=tracker, dataset="", rule="vot-lt-pysot")
        near(got.values["F"], want["f1"], SCORE, tracker)
        near(got.values["Pr"], want["precision"], SCORE, tracker)
        near(got.values["Re"], want["recall"], SCORE, tracker)
        near_all(got.curves["precision_recall"].y, want["precision_curve"], SCORE, tracker)
        near_all(got.curves["precision_recall"].x, want["recall_curve"], SCORE, tracker)
        assert int(np.argmax(got.curves["f_score"].y)) == want["argmax"], tracker


# --- files --------------------------------------------------------------------------------------------------------------


def same_region(region: Region, want: dict[str, Any]) -> None:
    kind = want["type"]
    if kind == "special":
        assert isinstance(region, Special)
        assert region.code == want["code"]
    elif kind == "rectangle":
        assert isinstance(region, Rectangle)
        assert [region.x, region.y, region.w, region.h] == want["xywh"]
    elif kind == "polygon":
        assert isinstance(region, Polygon)
        assert region.points.tolist() == want["points"]
    else:
        assert isinstance(region, Mask)
        assert [region.x, region.y] == want["offset"]
        assert list(region.pixels.shape) == want["shape_hw"]
        assert region.pixels.astype(int).tolist() == want["rows"]


@pytest.mark.parametrize(("suffix", "key"), [(".txt", "from_text"), (".bin", "from_binary")])
def test_trajectories_decode_as_in_vot_toolkit(golden: Path, tmp_path: Path, suffix: str, key: str) -> None:
    folder = folder_of(golden, "vot_io")
    (decoded,) = folder.glob("*_decoded.json")
    want = json.loads(decoded.read_text())[key]
    (path,) = folder.glob(f"*{suffix}")
    regions = read_regions(path)
    assert len(regions) == len(want)
    for region, entry in zip(regions, want, strict=True):
        same_region(region, entry)
    write_regions(tmp_path / path.name, regions)
    for region, entry in zip(read_regions(tmp_path / path.name), want, strict=True):
        same_region(region, entry)


def test_binary_trajectories_are_written_to_the_byte(golden: Path) -> None:
    (path,) = folder_of(golden, "vot_io").glob("*.bin")
    assert encode_regions(decode_regions(path.read_bytes())) == path.read_bytes()


def test_text_and_binary_hold_the_same_pixels(golden: Path) -> None:
    folder = folder_of(golden, "vot_io")
    (text,), (binary,) = folder.glob("*.txt"), folder.glob("*.bin")
    masks = 0
    for a, b in zip(read_regions(text), read_regions(binary), strict=True):
        if isinstance(a, Mask):
            b = crop_mask(b)
            assert (a.x, a.y) == (b.x, b.y)
            assert np.array_equal(a.pixels, b.pixels)
            masks += 1
    assert masks
