"""VOT's numbers against pysot's, vot-toolkit's and got10k's (golden/metrics/vot_*; its README names the versions).

Every file is found by pattern, every size, range and parameter is read from the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import agree, load, toolkit_name
from vot_results import read_vot_results

from keepsight.datasets.sequence import Sequence
from keepsight.datasets.vot import read_vot
from keepsight.evaluation.overlap import region_overlaps
from keepsight.evaluation.runs import Run
from keepsight.evaluation.scores import Scores
from keepsight.evaluation.vot import score_longterm, score_multistart, score_supervised
from keepsight.evaluation.vot_files import decode_regions, encode_regions, read_regions, write_regions
from keepsight.evaluation.vot_longterm import thresholds_vot
from keepsight.regions import Mask, Polygon, Rectangle, Region, Special, crop_mask, parse_region

OVERLAP = 1e-12  # pysot, vot, matlab: counts of pixels, so equal; got10k: areas
GEOMETRY = 1e-12
SCORE = 1e-12  # float64 sums in another order


def folder_of(golden: Path, name: str) -> Path:
    path = golden / "metrics" / name
    if not path.is_dir():
        pytest.skip(f"{golden} has no metrics/{name}")
    return path


def expected_file(folder: Path, pattern: str, rule: str = "") -> tuple[Any, Any]:
    """The file's content, and :func:`agree` under the name of its toolkit and our ``rule``."""
    (path,) = (folder / "expected").glob(pattern)
    return load(path), partial(agree, toolkit=toolkit_name(folder.parents[1], path.name), rule=rule)


# --- overlaps -----------------------------------------------------------------------------------------------------------

VARIANTS = [  # key in overlap_pairs.json, variant, what bounds subtract from W and H (None: no bounds), toolkit
    ("pysot_bounds_wh", "pysot", 0, "pysot"),
    ("pysot_unbounded", "pysot", None, "pysot"),
    ("vot_bounded", "vot", 1, "vot"),
    ("vot_unbounded", "vot", None, "vot"),
    ("matlab_legacy_bounds_w1h1", "matlab", 1, "trax"),
    ("matlab_legacy_unbounded", "matlab", None, "trax"),
    ("got10k_poly_iou_bounded", "got10k", 0, "got10k pypi"),
]


@pytest.mark.parametrize(("key", "variant", "less", "toolkit"), VARIANTS)
def test_overlaps_of_pairs(golden: Path, key: str, variant: Any, less: int | None, toolkit: str) -> None:
    """The toolkit answered some pairs with nothing or an error: those are left out, and are less than half."""
    data, _ = expected_file(folder_of(golden, "vot_supervised"), "overlap_pairs.json")
    pairs = [p for p in data["pairs"] if p[key] is not None and not str(p[key]).startswith("error")]
    assert len(pairs) > len(data["pairs"]) / 2
    a = [parse_region(",".join(map(str, p["a"]))) for p in pairs]
    b = [parse_region(",".join(map(str, p["b"]))) for p in pairs]
    width, height = data["image_size"]
    bounds = None if less is None else (width - less, height - less)
    tolerance = GEOMETRY if variant == "got10k" else OVERLAP
    for first, second, where in ((a, b, key), (b, a, f"{key}, exchanged")):
        agree(
            region_overlaps(first, second, bounds, variant),
            [p[key] for p in pairs],
            tolerance,
            toolkit=toolkit_name(golden, toolkit),
            rule=f"overlap variant {variant}",
            what="overlap of region pairs, " + ("unbounded" if less is None else "bounded"),
            where=where,
        )


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
    expected, meets = expected_file(folder, "pysot_*.json", "vot-supervised")
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        assert len(list(ranges(want))) > 1
        for key, dataset in ranges(want):
            got = score_supervised(sequences, results[tracker], tracker=tracker, dataset=dataset).values
            meets(got["EAO"], want[key], SCORE, what="EAO", where=(tracker, key))
            meets(got["A"], want["accuracy"], SCORE, what="A", where=tracker)
            meets(got["R"], want["robustness_x100"], SCORE, what="R", where=tracker)
            meets(got["lost"], want["lost_number"], SCORE, what="lost", where=tracker)


def test_supervised_scores_of_vot_toolkit(supervised: Any) -> None:
    folder, sequences, results = supervised
    file, meets = expected_file(folder, "vot_toolkit_*.json", "vot-supervised-py")
    expected = file["results"]
    assert {s.annotation.image_size for s in sequences} == {tuple(file["image_size"])}
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        for key, dataset in ranges(want):
            got = score_supervised(
                sequences, results[tracker], tracker=tracker, dataset=dataset, rule="vot-supervised-py"
            )
            meets(got.values["EAO"], want[key], SCORE, what="EAO", where=(tracker, key))
        average = want["average"]
        meets(got.values["A"], average["accuracy"], SCORE, what="A", where=tracker)
        failures = average["robustness_weighted_failures"]
        meets(got.values["failures"], failures, SCORE, what="failures", where=tracker)
        meets([got.values["R"], got.values["A"]], average["ar_point"], SCORE, what="AR point", where=tracker)
        meets(got.curves["eao"].y, want["eao_curve"], SCORE, what="EAO curve", where=tracker)
        meets(len(got.curves["eao"].y), want["eao_curve_length"], 0, what="length of the EAO curve", where=tracker)
        assert len(got.sequences) == len(want["per_sequence"])
        for one in got.sequences:
            part, where = want["per_sequence"][one.name], (tracker, one.name)
            meets(one.values["A"], part["accuracy"], SCORE, what="A of each sequence", where=where)
            meets(one.values["failures"], part["failures"], SCORE, what="failures of each sequence", where=where)
            point = [one.values["R"], one.values["A"]]
            meets(point, part["ar"], SCORE, what="AR point of each sequence", where=where)
            meets(one.frames, part["length"], 0, what="frames of each sequence", where=where)
        total = sum(one.values["failures"] for one in got.sequences)
        meets(total, want["total_failures_mean_over_reps"], 1e-10, what="all failures", where=tracker)


def test_supervised_overlaps_of_vot_toolkit(supervised: Any) -> None:
    folder, sequences, results = supervised
    stored, meets = expected_file(folder, "*_overlaps.npz", "vot-supervised-py")
    seen = 0
    for tracker, runs in results.items():
        scores = score_supervised(
            sequences, runs, tracker=tracker, dataset="", rule="vot-supervised-py", keep_per_frame=True
        )
        for one in scores.sequences:
            for number, overlap in enumerate(one.per_frame["overlap"], 1):
                key = f"{tracker}/{one.name}/{number:03d}/overlap"
                meets(overlap, stored[key], OVERLAP, what="overlap per frame", where=key)
                seen += 1
    assert seen == len([key for key in stored if key.endswith("/overlap")])


# --- multi-start --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def multistart(golden: Path) -> tuple[Path, Any, Any, dict[str, Scores]]:
    folder = folder_of(golden, "vot_multistart")
    expected, meets = expected_file(folder, "vot_toolkit_*.json", "vot-multistart")
    sequences = read_vot(folder / "data")
    assert {s.annotation.image_size for s in sequences} == {tuple(expected["image_size"])}
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
    return folder, expected, meets, scores


def test_multistart_scores(multistart: Any) -> None:
    _, expected, meets, scores = multistart
    for tracker, want in expected["results"].items():
        got = scores[tracker]
        meets(got.values["EAO"], want["eao"], SCORE, what="EAO", where=tracker)
        meets(got.values["A"], want["accuracy"], SCORE, what="A", where=tracker)
        meets(got.values["R"], want["robustness"], SCORE, what="R", where=tracker)
        meets(got.curves["eao"].y, want["eao_curve"], SCORE, what="EAO curve", where=tracker)
        assert {one.name for one in got.sequences} == want["per_sequence"].keys()
        for one in got.sequences:
            part, where = want["per_sequence"][one.name], (tracker, one.name)
            meets(one.values["A"], part["accuracy"], SCORE, what="A of each sequence", where=where)
            meets(one.values["R"], part["robustness"], SCORE, what="R of each sequence", where=where)
            phi = want["per_sequence_curve"][one.name]["phi"]
            meets(one.curves["eao"], phi, SCORE, what="EAO curve of each sequence", where=where)
            meets(one.frames, part["robustness_weight"], 0, what="weight of each sequence in R", where=where)
            tracked = one.values["R"] * np.isfinite(one.per_frame["overlap"]).sum()  # frames before the failures
            meets(tracked, part["accuracy_weight"], 1e-9, what="weight of each sequence in A", where=where)


def test_multistart_overlaps(multistart: Any) -> None:
    folder, _, _, scores = multistart
    stored, meets = expected_file(folder, "*_overlaps.npz", "vot-multistart")
    seen = 0
    for tracker, got in scores.items():
        for one in got.sequences:
            keys = sorted(key for key in stored if key.startswith(f"{tracker}/{one.name}_"))
            assert len(keys) == len(one.per_frame["overlap"])
            for key, overlap in zip(keys, one.per_frame["overlap"], strict=True):
                meets(overlap[np.isfinite(overlap)], stored[key], OVERLAP, what="overlap per frame", where=key)
                seen += 1
    assert seen == len(stored)


# --- long-term ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def longterm(golden: Path) -> tuple[Path, list[Sequence], dict[str, dict[str, list[Run]]]]:
    folder = folder_of(golden, "vot_longterm")
    sequences = read_vot(folder / "data", longterm=True)
    results = {p.name: read_vot_results(p, sequences, "longterm") for p in sorted((folder / "results").iterdir())}
    return folder, sequences, results


def test_longterm_scores_of_vot_toolkit(longterm: Any) -> None:
    folder, sequences, results = longterm
    file, meets = expected_file(folder, "vot_toolkit_*.json", "vot-lt")
    expected = file["results"]
    assert {s.annotation.image_size for s in sequences} == {tuple(file["image_size"])}
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        got = score_longterm(sequences, results[tracker], tracker=tracker, dataset="")
        meets(got.values["F"], want["fscore"], SCORE, what="F", where=tracker)
        meets(got.values["Pr"], want["precision"], SCORE, what="Pr", where=tracker)
        meets(got.values["Re"], want["recall"], SCORE, what="Re", where=tracker)
        meets(got.curves["f_score"].y, want["f_curve"], SCORE, what="F curve", where=tracker)
        recall, precision = np.array(want["curve_recall_precision"]).T
        meets(got.curves["precision_recall"].x, recall, SCORE, what="Re curve", where=tracker)
        meets(got.curves["precision_recall"].y, precision, SCORE, what="Pr curve", where=tracker)
        confidences = np.concatenate([run.presence for runs in results[tracker].values() for run in runs])
        meets(thresholds_vot(confidences), want["thresholds"], 0, what="thresholds", where=tracker)
        for one in got.sequences:
            pr, re = np.array(want["per_sequence_curves_precision_recall"][one.name]).T
            where = (tracker, one.name)
            meets(one.curves["precision_recall"], pr, SCORE, what="Pr curve of each sequence", where=where)
            meets(one.curves["recall"], re, SCORE, what="Re curve of each sequence", where=where)
            accuracy = want["sequence_accuracy_burnin10"][one.name]
            meets(one.values["accuracy"], accuracy, SCORE, what="A of each sequence, burn-in 10", where=where)
            counts = [one.values[key] for key in ("tracked", "drifted", "missed")]
            theirs = want["count_T_F_M_H_N"][one.name][0][:3]  # H and N (target absent) are not among our numbers
            meets(counts, theirs, 0, what="frames tracked, drifted, missed", where=where)


def test_longterm_scores_of_pysot(longterm: Any) -> None:
    folder, sequences, results = longterm
    expected, meets = expected_file(folder, "pysot_*.json", "vot-lt-pysot")
    assert expected.keys() == results.keys()
    for tracker, want in expected.items():
        got = score_longterm(sequences, results[tracker], tracker=tracker, dataset="", rule="vot-lt-pysot")
        meets(got.values["F"], want["f1"], SCORE, what="F", where=tracker)
        meets(got.values["Pr"], want["precision"], SCORE, what="Pr", where=tracker)
        meets(got.values["Re"], want["recall"], SCORE, what="Re", where=tracker)
        meets(got.curves["precision_recall"].y, want["precision_curve"], SCORE, what="Pr curve", where=tracker)
        meets(got.curves["precision_recall"].x, want["recall_curve"], SCORE, what="Re curve", where=tracker)
        f_score = got.curves["f_score"].y
        meets(int(np.argmax(f_score)), want["argmax"], 0, what="number of the best threshold", where=tracker)
        assert bool(np.isnan(f_score).any()) == want["nan_in_f1"]


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
