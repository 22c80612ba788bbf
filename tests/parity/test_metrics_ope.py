"""Box metrics against the toolkits' own outputs (golden/metrics/ope and golden/metrics/got10k_val).

``lasot_toolkit_own_port.json`` is not the LaSOT toolkit's output but somebody's numpy port of it, with thresholds k * 0.05 where
MATLAB has its own bits: it is compared with that grid put into our rule. Everything in the two folders is compared.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import agree, load, toolkit_name

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.evaluation.metrics import score_got10k, score_ope
from keepsight.evaluation.rules import OPERule, ope_rule
from keepsight.evaluation.runs import Run
from keepsight.evaluation.scores import Scores
from keepsight.text import read_rows

PERCENT_FLOAT32 = 2e-5  # percent points: pytracking's means are float32
TWO_DECIMALS = 0.00502  # percent points: the printed report, of means in float32
FRAME = 1e-12
SCORE = 1e-9


def folder(golden: Path, name: str) -> Path:
    path = golden / "metrics" / name
    if not path.is_dir():
        pytest.skip(f"{path} is not in this golden folder")
    return path


opened = cache(load)


@cache
def index(folder: Path) -> Any:
    return json.loads((folder / "index.json").read_text())


def expected(golden: Path, pattern: str) -> list[tuple[str, Any]]:
    files = sorted(folder(golden, "ope").glob(f"expected/{pattern}"))
    if not files:
        pytest.skip(f"no file expected/{pattern} in {golden}/metrics/ope")
    return [(file.name, opened(file)) for file in files]


def annotation(group: Path, name: str) -> Annotation:
    data = group / "data"
    if (data / name).is_dir():
        return Annotation(read_rows(data / name / "groundtruth_rect.txt"))
    if (data / "anno").is_dir():
        return Annotation(read_rows(data / "anno" / f"{name}.txt"))
    place = data / name.rsplit("-", 1)[0] / name
    hidden, outside = (read_rows(place / f"{f}.txt", None).ravel() for f in ("full_occlusion", "out_of_view"))
    return Annotation(read_rows(place / "groundtruth.txt"), visible=(hidden == 0) & (outside == 0))


def two_decimals(boxes: np.ndarray) -> np.ndarray:
    return np.array([[float(f"{v:.2f}") for v in row] for row in boxes])


@cache
def sequences(group: Path, rounded: bool = False) -> tuple[Sequence, ...]:
    names = index(group.parent)["groups"][group.name]
    known = [annotation(group, name) for name in names]
    if rounded:
        known = [replace(a, boxes=two_decimals(a.boxes)) for a in known]
    return tuple(
        Sequence(n, group.name, NoFrames(len(a.boxes)), partial(replace, a)) for n, a in zip(names, known, strict=True)
    )


@cache
def boxes(group: Path, tracker: str, name: str) -> np.ndarray:
    return read_rows(group / "results" / tracker / f"{name}.txt")


def score(group: Path, trackers: list[str], rule: str | OPERule, label: str, **options: Any) -> Scores:
    found = sequences(group)
    runs = {s.name: [Run(boxes(group, t, s.name)) for t in trackers] for s in found}
    return score_ope(found, runs, tracker=trackers[0], dataset=label, rule=rule, confidence=None, **options)


def test_threshold_grids_to_the_bit(golden: Path) -> None:
    ((_, grids),) = expected(golden, "threshold_grids_hex.json")
    ours = {
        "pytracking": ope_rule("pytracking").success_thresholds(),
        "pysot": ope_rule("pysot").success_thresholds(),
        "got10k": ope_rule("got10k-ope").success_thresholds(),
        "GOT-10k": np.linspace(0, 1, 101),
        "norm": ope_rule("pytracking").norm_thresholds(),
    }
    assert {name.split()[0] for name in grids} == set(ours)
    for name, bits in grids.items():
        word = name.split()[0]
        agree(
            ours[word],
            [float.fromhex(b) for b in bits],
            0,
            toolkit=toolkit_name(
                golden, {"got10k": "got10k pypi", "GOT-10k": "got10k pypi", "norm": "pytracking"}.get(word, word)
            ),
            rule={"got10k": "got10k-ope", "GOT-10k": "got10k", "norm": "pytracking"}.get(word, word),
            what="thresholds, normalised precision" if word == "norm" else "thresholds, success",
            where=name,
        )
    for name, _, _, e in pytracking_groups(golden):
        if "threshold_set_overlap_float64" in e:
            want = e["threshold_set_overlap_float64"]
            toolkit = toolkit_name(golden, "pytracking")
            agree(
                ours["pytracking"], want, 0, toolkit=toolkit, rule="pytracking", what="thresholds, success", where=name
            )


def pytracking_groups(golden: Path) -> list[tuple[str, str, Path, dict[str, Any]]]:
    """(name, rule, folder, expected) of every group in pytracking.json."""
    ((_, found),) = expected(golden, "pytracking.json")
    return [
        (
            name,
            "pytracking-valid" if e["exclude_invalid_frames"] else "pytracking",
            golden / "metrics/ope" / name.split("__")[0],
            e,
        )
        for name, e in found.items()
    ]


NUMBERS = {"AUC": "AUC", "OP50": "OP50", "OP75": "OP75", "Precision": "P20", "NormPrecision": "NP20"}
CURVES = {"success_curve": "success", "precision_curve": "precision", "norm_precision_curve": "norm_precision"}


SHOWN = {"success": "success curve", "precision": "precision curve", "norm_precision": "normalised precision curve"}


def compare_pytracking(scores: Scores, theirs: dict[str, Any], place: int, toolkit: str, where: str, kind: str) -> None:
    for name, values in theirs.items():
        ours = scores.values[NUMBERS[name]] if name in NUMBERS else scores.curves[CURVES[name]].y
        what = (NUMBERS[name] if name in NUMBERS else SHOWN[CURVES[name]]) + kind
        agree(
            100 * np.asarray(ours),
            values[place],
            PERCENT_FLOAT32,
            toolkit=toolkit,
            rule=scores.rule,
            what=what,
            where=where,
        )


def test_pytracking_scores(golden: Path) -> None:
    toolkit = toolkit_name(golden, "pytracking")
    for name, rule, group, e in pytracking_groups(golden):
        for place, tracker in enumerate(e["tracker_order"]):
            scores = score(group, [tracker], rule, e["dataset_label"])
            compare_pytracking(scores, e["scores_percent_float32"], place, toolkit, f"{name} {tracker}", "")
            for part in scores.sequences:
                mean = e["avg_overlap_per_seq_tracker_float64"][part.name][place]
                agree(
                    part.values["mean_overlap"],
                    mean,
                    FRAME,
                    toolkit=toolkit,
                    rule=scores.rule,
                    what="mean overlap of each sequence",
                    where=f"{name} {tracker} {part.name}",
                )


def test_pytracking_printed_report(golden: Path) -> None:
    """Two decimals of percent, one line per tracker in order, under a line of column names."""
    columns = ["AUC", "OP50", "OP75", "Precision", "Norm Precision"]
    for name, rule, group, e in pytracking_groups(golden):
        lines = [[cell.strip() for cell in line.split("|")] for line in e["printed_report"].splitlines() if "|" in line]
        head, rows = lines[0], lines[1:]
        assert head[1:-1] == columns
        assert len(rows) == len(e["tracker_order"])
        for tracker, row in zip(e["tracker_order"], rows, strict=True):
            assert row[0].replace("_default", "") == tracker
            scores = score(group, [tracker], rule, e["dataset_label"])
            for column, printed in zip(columns, row[1:-1], strict=True):
                key = NUMBERS[column.replace(" ", "")]
                agree(
                    100 * scores.values[key],
                    float(printed),
                    TWO_DECIMALS,
                    toolkit=toolkit_name(golden, "pytracking"),
                    rule=scores.rule,
                    what=f"{key} as printed",
                    where=f"{name} {tracker}",
                )


def test_pytracking_merged_runs(golden: Path) -> None:
    for name, rule, group, e in pytracking_groups(golden):
        for place, merged in enumerate(e["merged_tracker_order"]):
            trackers = [t for t in e["tracker_order"] if t == merged or t[: -len("_000")] == merged]
            scores = score(group, trackers, rule, e["dataset_label"])
            assert scores.repetitions == len(trackers)
            toolkit = toolkit_name(golden, "pytracking")
            theirs = e["merged_scores_percent_float32"]
            compare_pytracking(scores, theirs, place, toolkit, f"{name} {merged}", ", merged runs")


def test_pytracking_every_frame_and_every_curve(golden: Path) -> None:
    ((_, labels),) = expected(golden, "pytracking.json")
    path = folder(golden, "ope") / "expected" / "pytracking_per_frame.npz"
    stored = load(path)
    toolkit = toolkit_name(golden, "pytracking")
    seen = 0
    for group, names in index(path.parents[1])["groups"].items():
        order = labels[group]["tracker_order"]
        for place, tracker in enumerate(order):
            scores = score(
                path.parents[1] / group, [tracker], "pytracking", labels[group]["dataset_label"], keep_per_frame=True
            )
            for part in scores.sequences:
                where = f"{group}/{part.name}"
                for theirs, ours in (("overlap", "overlap"), ("center", "centre_error"), ("center_norm", "norm_error")):
                    agree(
                        part.per_frame[ours][0],
                        stored[f"{where}/{tracker}/{theirs}"],
                        FRAME,
                        toolkit=toolkit,
                        rule="pytracking",
                        what=f"{ours.replace('_', ' ')} per frame",
                        where=f"{where}/{tracker}",
                    )
                agree(
                    part.per_frame["overlap"][0] >= 0,
                    stored[f"{where}/{tracker}/valid"],
                    0,
                    toolkit=toolkit,
                    rule="pytracking",
                    what="valid frames, per frame",
                    where=f"{where}/{tracker}",
                )
                for theirs, ours in CURVES.items():
                    agree(
                        part.curves[ours].astype(np.float32),
                        stored[f"{where}/{theirs}"][place],
                        0,
                        toolkit=toolkit,
                        rule="pytracking",
                        what=f"{SHOWN[ours]} of each sequence",
                        where=f"{where}/{tracker}",
                    )
                seen += 4
        seen += len(CURVES) * len(names)
    assert seen == len(stored)  # nothing in the file was passed over


PYSOT = {"success_auc": "AUC", "precision_20px": "P20", "norm_precision_0.20": "NP20"}
PER_SEQUENCE = {"success": "success", "precision": "precision", "norm_precision": "norm_precision"}


def test_pysot(golden: Path) -> None:
    ((_, found),) = expected(golden, "pysot_toolkit.json")
    for name, trackers in found.items():
        for tracker, e in trackers.items():
            scores = score(golden / "metrics/ope" / name, [tracker], "pysot", name)
            ours = {theirs: scores.values[key] for theirs, key in PYSOT.items()}
            ours |= {theirs: scores.curves[key].y for theirs, key in CURVES.items()}
            assert set(e) == {*ours, "seq"}
            for key, value in ours.items():
                what = PYSOT[key] if key in PYSOT else SHOWN[CURVES[key]]
                toolkit = toolkit_name(golden, "pysot")
                agree(value, e[key], SCORE, toolkit=toolkit, rule="pysot", what=what, where=f"{name} {tracker}")
            for part in scores.sequences:
                assert set(e["seq"][part.name]) == set(PER_SEQUENCE)
                for theirs, key in PER_SEQUENCE.items():
                    agree(
                        part.curves[key],
                        e["seq"][part.name][theirs],
                        SCORE,
                        toolkit=toolkit_name(golden, "pysot"),
                        rule="pysot",
                        what=f"{SHOWN[key]} of each sequence",
                        where=f"{name} {tracker} {part.name}",
                    )


def test_got10k_toolkit_on_other_benchmarks(golden: Path) -> None:
    numbers = {
        "success_score": "AUC",
        "precision_score": "P20",
        "normalized_precision_score": "NP",
        "success_rate": "OP50",
    }
    curves = {
        "success_curve": "success",
        "precision_curve": "precision",
        "normalized_precision_curve": "norm_precision",
    }
    for file, found in expected(golden, "got10k*.json"):
        for name, e in found.items():
            for tracker, theirs in e["performance"].items():
                scores = score(golden / "metrics/ope" / name, [tracker], "got10k-ope", name)
                rows = [("", scores.values, {k: c.y for k, c in scores.curves.items()}, theirs["overall"])]
                rows += [(p.name, p.values, dict(p.curves), theirs["seq_wise"][p.name]) for p in scores.sequences]
                for part, values, lines, their in rows:
                    for key in set(their) - {"speed_fps"}:
                        ours = values[numbers[key]] if key in numbers else lines[curves[key]]
                        what = numbers[key] if key in numbers else SHOWN[curves[key]]
                        agree(
                            ours,
                            their[key],
                            SCORE,
                            toolkit=toolkit_name(golden, file),
                            rule="got10k-ope",
                            what=what + (" of each sequence" if part else ""),
                            where=f"{name} {tracker} {part}",
                        )


def test_lasot_port(golden: Path) -> None:
    ((file, found),) = expected(golden, "lasot_toolkit_own_port.json")
    rule = replace(ope_rule("lasot"), grid="multiples")
    for name, trackers in found.items():
        for tracker, e in trackers.items():
            scores = score(golden / "metrics/ope" / name, [tracker], rule, name)
            mean = score(golden / "metrics/ope" / name, [tracker], replace(rule, norm_score="mean"), name)
            ours = {theirs: scores.values[key] for theirs, key in PYSOT.items()}
            ours |= {theirs: scores.curves[key].y for theirs, key in CURVES.items()}
            ours["norm_precision_auc_0_0.5"] = mean.values["NP"]
            assert set(e) == set(ours)
            for key, value in ours.items():
                what = {**PYSOT, "norm_precision_auc_0_0.5": "NP"}[key] if key not in CURVES else SHOWN[CURVES[key]]
                agree(
                    value,
                    e[key],
                    SCORE,
                    toolkit=toolkit_name(golden, file),
                    rule="lasot, thresholds k * 0.05",
                    what=what,
                    where=f"{name} {tracker}",
                )


def test_trackingnet(golden: Path) -> None:
    ((file, found),) = expected(golden, "trackingnet_metrics.json")
    group = golden / "metrics/ope" / found["group"]
    numbers = {"Success": "AUC", "Precision": "P", "NormalizedPrecision": "NP", "Coverage": "Coverage"}
    parts = sequences(group, rounded=True)
    for tracker, e in found["scores_percent"].items():
        lost = tracker == "missing_one_file"
        source = index(group.parent)["trackers"][0] if lost else tracker
        runs = {s.name: [Run(two_decimals(boxes(group, source, s.name)))] for s in parts[lost:]}
        scores = score_ope(parts, runs, tracker=tracker, dataset="trackingnet", rule="trackingnet", confidence=None)
        assert sum(s.lost for s in scores.sequences) == lost == len(scores.notes)
        assert set(e) == set(numbers)
        for theirs, ours in numbers.items():
            toolkit = toolkit_name(golden, file)
            agree(
                100 * scores.values[ours], e[theirs], SCORE, toolkit=toolkit, rule=scores.rule, what=ours, where=tracker
            )


@cache
def got10k_set(root: Path) -> tuple[Sequence, ...]:
    found = []
    for name in (root / "list.txt").read_text().split():
        line = next(x for x in (root / name / "meta_info.ini").read_text().splitlines() if x.startswith("resolution"))
        width, height = (int(v) for v in line.split("(")[1].rstrip(")").split(","))
        cover = read_rows(root / name / "cover.label", 1).ravel().astype(np.int64)
        known = Annotation(read_rows(root / name / "groundtruth.txt"), cover=cover, image_size=(width, height))
        found.append(Sequence(name, "got10k", NoFrames(len(known.boxes)), partial(replace, known)))
    return tuple(found)


def got10k_runs(place: Path) -> list[Run]:
    seconds = read_rows(place / f"{place.name}_time.txt", None)  # (N, repetitions)
    files = sorted(p for p in place.glob(f"{place.name}_*.txt") if not p.stem.endswith("_time"))
    return [Run(read_rows(file), seconds=seconds[:, i]) for i, file in enumerate(files)]


def test_got10k(golden: Path) -> None:
    root = folder(golden, "got10k_val")
    found = got10k_set(next((root / "data").glob("*/list.txt")).parent)
    ((path, e),) = [(p, load(p)) for p in sorted((root / "expected").glob("got10k*.json"))]
    meets = partial(agree, toolkit=toolkit_name(golden, path.name), rule="got10k")
    overlaps = load(next((root / "expected").glob("*.npz")))
    bare = tuple(replace_annotation(s, image_size=None) for s in found)
    seen = 0
    for tracker, theirs in e.items():
        runs = {s.name: got10k_runs(next((root / "results").glob(f"*/{tracker}/{s.name}"))) for s in found}
        scores = score_got10k(found, runs, tracker=tracker, keep_per_frame=True)
        overall = theirs["overall"]
        meets(scores.values["AO"], overall["ao"], SCORE, what="AO", where=tracker)
        meets(scores.values["SR50"], overall["sr"], SCORE, what="SR50", where=tracker)
        meets(scores.curves["success"].y, overall["succ_curve"], SCORE, what="success curve", where=tracker)
        meets(scores.fps, overall["speed_fps"], SCORE, what="frames per second", where=tracker)
        assert set(theirs["seq_wise"]) == {s.name for s in found}
        for part in scores.sequences:
            one = theirs["seq_wise"][part.name]
            where = f"{tracker} {part.name}"
            meets(part.values["AO"], one["ao"], SCORE, what="AO of each sequence", where=where)
            meets(part.values["SR50"], one["sr"], SCORE, what="SR50 of each sequence", where=where)
            meets(part.frames - 1, one["length"], 0, what="frames of each sequence", where=where)
        everything = tuple(replace_annotation(s, cover=None) for s in found)
        bounded = score_got10k(everything, runs, tracker=tracker, keep_per_frame=True, confidence=None)
        unbounded = score_got10k(
            tuple(replace_annotation(s, cover=None) for s in bare),
            runs,
            tracker=tracker,
            keep_per_frame=True,
            confidence=None,
        )
        assert len(bounded.notes) == 1
        assert len(unbounded.notes) == 2
        for kind, kept in (("iou_bounded", bounded), ("iou_unbounded", unbounded)):
            for part in kept.sequences:
                for r, overlap in enumerate(part.per_frame["overlap"], 1):
                    meets(
                        overlap[1:],
                        overlaps[f"{part.name}/{tracker}/{r}/{kind}"],
                        FRAME,
                        what=f"overlap per frame, {kind.removeprefix('iou_')}",
                        where=f"{tracker} {part.name} {r}",
                    )
                    seen += 1
        hidden = [
            s for s, p in zip(found, scores.sequences, strict=True) if p.weight < len(runs[s.name]) * (p.frames - 1)
        ]
        assert [s.name for s in hidden] == [s.name for s in found if (s.annotation.cover[1:] == 0).any()]
    assert seen == sum("iou" in key.rsplit("/", 1)[1] for key in overlaps)


def replace_annotation(sequence: Sequence, **changes: Any) -> Sequence:
    return Sequence(sequence.name, sequence.dataset, sequence.frames, partial(replace, sequence.annotation, **changes))
