"""Every rule against the text of spec/evaluation.md said once more, slowly: loops over frames, one sequence at a time.

The inputs are what the golden sets hold little of: nan, absent frames, odd sizes, results of other lengths, one frame.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import HiddenTruthError, InputError
from keepsight.evaluation.one_pass import measure, prepare
from keepsight.evaluation.oxuva import score_oxuva
from keepsight.evaluation.rules import ope_rule
from keepsight.evaluation.runs import Run
from keepsight.evaluation.score import rules, score
from keepsight.evaluation.statistics import compare_all
from keepsight.evaluation.vot_longterm import score_longterm
from keepsight.evaluation.vot_multistart import score_multistart
from keepsight.regions import Code, Mask, Rectangle, Special

NAN = math.nan
OVERLAPS = [0.05 * (k // 4 * 4) + 0.05 * (k % 4) for k in range(21)]  # torch.arange's bits


def make(boxes, name="a", *, count=None, **known) -> Sequence:
    boxes = np.array(boxes, dtype=float)
    known = {"boxes": boxes, **known}
    return Sequence(name, known.pop("dataset", "toy"), NoFrames(count or len(boxes)), partial(Annotation, **known))


# --- §1, §3, §4: one-pass evaluation ------------------------------------------------------------------------------------


def overlap_and_errors(p, g, one):
    """§1, steps 6 and 7 of one frame; ``one``: inclusive corners."""
    px, py, pw, ph = p
    gx, gy, gw, gh = g
    side_x = max(min(px + pw - one, gx + gw - one) - max(px, gx) + one, 0)
    side_y = max(min(py + ph - one, gy + gh - one) - max(py, gy) + one, 0)
    union = pw * ph + gw * gh - side_x * side_y
    overlap = side_x * side_y / union if union else NAN
    px, py, gx, gy = px + 0.5 * (pw - 1), py + 0.5 * (ph - 1), gx + 0.5 * (gw - 1), gy + 0.5 * (gh - 1)
    error = math.hypot(px - gx, py - gy)
    norm = math.hypot(px / gw - gx / gw, py / gh - gy / gh) if gw and gh else NAN
    return overlap, error, norm


def fitted(pred, count):
    pred = [list(p) for p in pred[:count]]
    return pred + [[0.0] * 4] * (count - len(pred))


def rates(frames, total):
    """Rates at three thresholds of each curve, of (overlap, error, normalised error)."""
    return [
        [sum(o > t for o, _, _ in frames) / total for t in OVERLAPS],
        [sum(e <= t for _, e, _ in frames) / total for t in range(51)],
        [sum(n <= t / 100 for _, _, n in frames) / total for t in range(51)],
    ]


def pytracking(pred, gt, visible, kind, only_valid):
    pred = [list(p) for p in pred]
    if any(p[2] == 0 or p[3] == 0 for p in pred):
        for i in range(1, len(pred)):
            if (pred[i][2] == 0 or pred[i][3] == 0) and not (i < len(gt) and np.isnan(gt[i]).any()):
                pred[i] = pred[i - 1]
    pred = fitted(pred, len(gt))
    pred[0] = list(gt[0])
    frames, valid_frames = [], 0
    for p, g, seen in zip(pred, gt, visible, strict=True):
        o, e, n = overlap_and_errors(p, g, 1)
        valid = all(v > 0 for v in g) and seen
        valid_frames += valid
        if not valid:
            o, e, n = -1, -1 if kind == "uav" else math.inf, -1
        if kind == "lasot" and not seen:
            e, n = math.inf, math.inf
        frames.append((o, e, n))
    return rates(frames, valid_frames if only_valid else len(gt)), valid_frames


def matlab(pred, gt, absent):
    """The MATLAB code of OTB, and of LaSOT with ``absent``."""
    pred = [list(p) for p in pred]
    for i in range(1, len(pred)):
        if np.isnan(pred[i]).any() or pred[i][2] <= 0 or pred[i][3] <= 0:
            pred[i] = pred[i - 1]
    pred = fitted(pred, len(gt))
    pred[0] = list(gt[0])
    frames = []
    for p, g, gone in zip(pred, gt, absent, strict=True):
        if not gone:
            frames.append(overlap_and_errors(p, g, 1) if all(v > 0 for v in g) else (-1, -1, -1))
    return rates(frames, len(gt))


def pysot(pred, gt):
    frames = []
    for p, g in zip(fitted(pred, len(gt)), gt, strict=True):
        o, e, n = overlap_and_errors(p, g, 0)
        o = min(max(o, 0), 1) if all(v > 0 for v in g) else -1
        if not (g[0] + (g[2] - 1) / 2 > 0 and g[1] + (g[3] - 1) / 2 > 0):
            e, n = -1, -1
        frames.append((o, e, n))
    return rates(frames, len(gt))


def trackingnet(pred, gt):
    """§4, metrics.py, as numpy does it: 0 / 0 is nan, and nan is not >= 0."""
    with np.errstate(all="ignore"):
        p, g = np.rint(np.array(fitted(pred, len(gt)))), np.rint(np.array(gt))
        p[0] = g[0]
        low, high = np.maximum(p[:, :2], g[:, :2]), np.minimum(p[:, :2] + p[:, 2:] - 1, g[:, :2] + g[:, 2:] - 1)
        inter = np.maximum(high - low + 1, 0).prod(axis=1)
        overlap = inter / (p[:, 2:].prod(axis=1) + g[:, 2:].prod(axis=1) - inter)
        off = p[:, :2] + (p[:, 2:] + 1) / 2 - g[:, :2] - (g[:, 2:] + 1) / 2
        error, norm = np.sqrt((off**2).sum(axis=1)), np.sqrt(((off / g[:, 2:]) ** 2).sum(axis=1))
        return [
            [(overlap >= 0.05 * k).mean() for k in range(21)],
            [(error <= 2.5 * k).mean() for k in range(21)],
            [(norm <= 0.025 * k).mean() for k in range(21)],
        ]


def curves(rule, pred, gt, visible=None):
    got = measure(prepare(rule, ["a"], [np.array(gt)], [visible]), [np.array(pred, dtype=float).reshape(-1, 4)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return [c[0] / got.counted[0] for c in (got.success, got.precision, got.norm)]


def same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12, equal_nan=True)


# sixteenths: all sums are exact, so that the order of operations decides no tie, and ties are frequent
place = st.integers(-3, 12).map(lambda v: v / 2)
size = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
some = st.tuples(place, place, size, size)
absent_box = st.sampled_from([(0.0, 0.0, 0.0, 0.0)])
unknown = st.sampled_from([(NAN,) * 4])
broken = st.sampled_from([(NAN, 1.0, 2.0, 2.0), (1.0, 1.0, -2.0, 2.0), (3.0, 2.0, -1.0, -4.0), (1.0, 1.0, 2.0, NAN)])
truth_rows = st.lists(st.tuples(some | absent_box, st.booleans()), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(truth_rows, st.lists(some, max_size=14), st.sampled_from(["otb100", "lasot", "lasot_extension"]), st.booleans())
def test_pytracking(truth, pred, dataset, only_valid):
    gt, visible = [g for g, _ in truth], np.array([v for _, v in truth])
    rule = ope_rule("pytracking-valid" if only_valid else "pytracking", dataset)
    if dataset == "lasot" and len(pred) < len(gt):
        with pytest.raises(InputError, match="incomplete"):
            curves(rule, pred, gt, visible)
        return
    want, valid = pytracking(pred, gt, visible, dataset, False)
    if only_valid and not valid:
        assert np.isnan(curves(rule, pred, gt, visible)[0]).all() or np.isinf(curves(rule, pred, gt, visible)[2]).any()
        return
    same(curves(rule, pred, gt, visible), pytracking(pred, gt, visible, dataset, True)[0] if only_valid else want)


@settings(max_examples=100, deadline=None)
@given(st.lists(some | unknown, min_size=1, max_size=12), st.lists(some, max_size=14))
def test_pytracking_on_uav(gt, pred):
    want, _ = pytracking(pred, gt, [True] * len(gt), "uav", False)
    same(curves(ope_rule("pytracking", "uav123"), pred, gt), want)
    same(curves(ope_rule("uav"), pred, gt), want)


@settings(max_examples=150, deadline=None)
@given(truth_rows, st.lists(some | broken, min_size=12, max_size=14))
def test_matlab_rules(truth, pred):
    gt, visible = [g for g, _ in truth], np.array([v for _, v in truth])
    same(curves(ope_rule("otb"), pred, gt), matlab(pred, gt, [False] * len(gt)))
    same(curves(ope_rule("lasot"), pred, gt, visible), matlab(pred, gt, ~visible))


@settings(max_examples=150, deadline=None)
@given(st.lists(some | unknown, min_size=1, max_size=12), st.lists(some | broken, max_size=14))
def test_pysot(gt, pred):
    with np.errstate(all="ignore"):
        got = curves(ope_rule("pysot"), pred, gt)
    want = pysot(pred, gt)
    same(got[:2], want[:2])
    whole = [k for k, g in enumerate(gt) if g[2] == 0 or g[3] == 0]
    if not whole:  # the 1e-16 beside a size of 0 is not repeated here
        same(got[2:], want[2:])


@settings(max_examples=200, deadline=None)
@given(st.lists(some, min_size=1, max_size=12), st.lists(some | broken, max_size=14))
def test_trackingnet(gt, pred):
    same(curves(ope_rule("trackingnet"), pred, gt), trackingnet(pred, gt))


def test_trackingnet_an_undefined_overlap_is_no_hit():
    gt, pred = [(1, 1, 4, 4), (2, 2, 0, 0), (2, 2, 4, 4)], [(1, 1, 4, 4), (9, 9, 0, 0), (NAN, 2, 4, 4)]
    assert curves(ope_rule("trackingnet"), pred, gt)[0][0] == pytest.approx(1 / 3)


@settings(max_examples=100, deadline=None)
@given(truth_rows, st.lists(some | broken, min_size=12, max_size=12))
def test_keepsights_own_rule_leaves_out_the_first_and_absent_frames(truth, pred):
    gt, visible = [g for g, _ in truth], np.array([v for _, v in truth])
    kept = [i for i in range(1, len(gt)) if visible[i]]
    frames = []
    for i in kept:
        o, e, n = overlap_and_errors(pred[i], gt[i], 0)
        bad = np.isnan(pred[i]).any() or min(pred[i][2:]) <= 0
        frames.append((0, math.inf, math.inf) if bad else (o, e, n))
    got = curves(ope_rule("present"), pred[: len(gt)], gt, visible)
    if kept:
        same(got, rates(frames, len(kept)))
    else:
        assert np.isnan(got[0]).all()


def test_joined_data_sets_keep_each_their_own_case():
    """NUO323: UAV123's invalid frames count as precise and may hold nan, the others' do not."""
    uav = make([(5, 5, 4, 4), (NAN,) * 4], "uav_a", dataset="uav123")
    otb = make([(5, 5, 4, 4), (0, 5, 4, 4)], "otb_a", dataset="otb100")
    runs = {s.name: [Run(np.array([(5.0, 5, 4, 4)] * 2))] for s in (uav, otb)}
    for name in ("nuo323", "uav123+otb100", "otb100+uav123"):
        for order in ([uav, otb], [otb, uav]):
            got = score(order, runs, tracker="t", dataset=name, rule="pytracking", keep_per_frame=True)
            values = {s.name: s.values["P20"] for s in got.sequences}
            assert values == {"uav_a": 1.0, "otb_a": 0.5}, name
            assert [s.per_frame["centre_error"][0, 1] for s in got.sequences if s.name == "otb_a"] == [math.inf]


def got10k(pairs):
    """§5: pooled over all frames of all sequences and repetitions."""
    overlaps = []
    for pred, gt, cover, (width, height) in pairs:
        for p, g, seen in list(zip(pred, gt, cover, strict=True))[1:]:
            if not seen:
                continue
            corners = []
            for x, y, w, h in (p, g):
                x, y = min(max(x, 0), width), min(max(y, 0), height)
                corners.append((x, y, min(max(w, 0), width - x), min(max(h, 0), height - y)))
            (px, py, pw, ph), (gx, gy, gw, gh) = corners
            inter = max(min(px + pw, gx + gw) - max(px, gx), 0) * max(min(py + ph, gy + gh) - max(py, gy), 0)
            overlaps.append(min(inter / (pw * ph + gw * gh - inter + np.finfo(float).eps), 1))
    return overlaps


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.tuples(some, st.lists(some, min_size=3, max_size=3), st.integers(0, 2)), min_size=1, max_size=6),
                min_size=1, max_size=4), st.lists(st.integers(1, 3), min_size=4, max_size=4))  # fmt: skip
def test_got10k(rows, repetitions):
    sequences, runs, pairs = [], {}, []
    for k, (frames, count) in enumerate(zip(rows, repetitions, strict=False)):
        gt, cover = [f[0] for f in frames], np.array([f[2] for f in frames])
        sequences.append(make(gt, f"s{k}", cover=cover, image_size=(5, 4)))
        runs[f"s{k}"] = [Run(np.array([f[1][r] for f in frames])) for r in range(count)]
        pairs += [([f[1][r] for f in frames], gt, cover > 0, (5, 4)) for r in range(count)]
    overlaps = np.array(got10k(pairs))
    got = score(sequences, runs, tracker="t", dataset="got10k:val", rule="got10k", confidence=None).values
    if len(overlaps):
        want = [overlaps.mean(), (overlaps > 0.5).mean(), (overlaps > 0.75).mean()]
        assert [got["AO"], got["SR50"], got["SR75"]] == pytest.approx(want, abs=1e-12)
    else:
        assert math.isnan(got["AO"])


# --- §7, §8, §9 ---------------------------------------------------------------------------------------------------------


def oxuva(tracks, threshold):
    tp = fn = tn = fp = 0
    for gt, pred, lost in tracks:
        latest = None
        for i, (g, p, gone) in enumerate(zip(gt, pred, lost, strict=True)):
            if gone or not np.isnan(p).any():
                latest = None if gone else p
            if not i:
                continue
            if np.isnan(g).any():
                tn, fp = tn + (latest is None), fp + (latest is not None)
                continue
            hit = False
            if latest is not None:
                x0, y0, x1, y1 = (
                    min(max(v, 0), 1) for v in (*latest[:2], latest[0] + latest[2], latest[1] + latest[3])
                )
                inter = max(min(x1, g[0] + g[2]) - max(x0, g[0]), 0) * max(min(y1, g[1] + g[3]) - max(y0, g[1]), 0)
                union = (x1 - x0) * (y1 - y0) + g[2] * g[3] - inter
                hit = union > 0 and inter / union >= threshold
            tp, fn = tp + hit, fn + (not hit)
    tpr, tnr = (tp / (tp + fn) if tp + fn else NAN), (tn / (tn + fp) if tn + fp else NAN)
    p = np.linspace(0, 1, 2001)
    return tpr, tnr, float(np.sqrt((1 - p) * tpr * ((1 - p) * tnr + p)).max())


unit = st.tuples(*[st.integers(-2, 8).map(lambda v: v / 8)] * 2, *[st.integers(0, 8).map(lambda v: v / 8)] * 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(unit | unknown, unit | unknown, st.booleans()), min_size=1, max_size=8),
                min_size=1, max_size=3))  # fmt: skip
@example([[((0, 0, 0.25, 1), (0, 0, 0.25, 1), False), ((0, 0, 0.25, 1), (-0.5, 0, 0.75, 1), False)]])  # over the border
def test_oxuva(rows):
    tracks = [([f[0] for f in t], [f[1] for f in t], [f[2] and i > 0 for i, f in enumerate(t)]) for t in rows]
    sequences = [make(gt, f"s{k}") for k, (gt, _, _) in enumerate(tracks)]
    runs = {f"s{k}": [Run(np.array(p), lost=np.array(lost))] for k, (_, p, lost) in enumerate(tracks)}
    tpr, tnr, best = oxuva(tracks, 0.5)
    got = score_oxuva(sequences, runs, tracker="t", dataset="toy", confidence=None).values
    assert [got["TPR"], got["TNR"]] == pytest.approx([tpr, tnr], nan_ok=True)
    assert got["MaxGM"] == pytest.approx(best, abs=1e-6, nan_ok=True)


def multistart(found):
    """§9 for one sequence: overlaps of every run in its order and whether the truth is there -> A, R, EAO curve."""
    progress, points = [], {}
    for overlap, there in found:
        row, end = 0, len(overlap)
        for j, (o, t) in enumerate(zip(overlap, there, strict=True)):
            row = row + 1 if o <= 0.1 and t else 0
            if row == 10:
                end = j + 1 - 10
                break
        progress.append(end)
        kept = [o if i < end else 0.0 for i, o in enumerate(overlap)]
        for j in range(1, 40):
            if j < len(kept):
                points.setdefault(j, []).append(sum(kept[1 : j + 1]) / j)
            elif end < len(kept):
                points.setdefault(j, []).append(sum(kept) / (j - 1))
    total = sum(sum(o[:end]) for (o, _), end in zip(found, progress, strict=True))
    a = total / sum(progress) if sum(progress) else 0.0
    return (
        a,
        sum(progress) / sum(len(o) for o, _ in found),
        [np.mean(points[j]) if j in points else 0 for j in range(1, 40)],
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.data())
def test_multistart_with_empty_truth_and_an_anchor_at_the_end(count, data):
    full, empty = Mask(2, 2, np.ones((4, 4), bool)), Mask(0, 0, np.zeros((0, 0), bool))
    truth = data.draw(st.lists(st.sampled_from([full, full, empty]), min_size=count, max_size=count))
    anchors = np.zeros(count, int)
    anchors[0], anchors[-1] = 1, -1
    there = [t is full for t in truth]
    runs, found = [], []
    for anchor, frames in ((0, range(count)), (count - 1, range(count - 1, -1, -1))):
        on = [data.draw(st.integers(0, 3)) > 1 for _ in frames]
        regions = [Rectangle(2, 2, 4, 4) if k else Rectangle(20, 20, 4, 4) for k in on]
        regions[0] = Special(Code.INITIALISATION)
        runs.append(Run(np.full((count, 4), NAN), regions=tuple(regions), anchor=anchor))
        overlap = [float(i > 0 and k and there[f]) for i, (k, f) in enumerate(zip(on, frames, strict=True))]
        if not there[frames[0]]:
            overlap[0] = 1.0  # two empty regions
        found.append((overlap, [there[f] for f in frames]))
    known = {"regions": tuple(truth), "anchors": anchors, "image_size": (64, 64)}
    got = score_multistart(
        [make([(NAN,) * 4] * count, **known)], {"a": runs}, tracker="t", dataset="x", eao_range=(1, 40)
    )
    a, r, curve = multistart(found)
    assert [got.values["A"], got.values["R"]] == pytest.approx([a, r])
    assert got.curves["eao"].y[1:] == pytest.approx(curve)


def longterm(overlaps, confidences, visible):
    """§7, vot-toolkit: per sequence lists -> best F and the precision and recall there."""
    scores = sorted((c for row in confidences for c in row), reverse=True)
    delta = len(scores) // 98
    ranks = np.round(np.linspace(delta, len(scores) - delta, 98)).astype(int)
    best = (-1.0, 0.0, 0.0)
    for threshold in [math.inf, *(scores[min(r, len(scores) - 1)] for r in ranks), -math.inf]:
        pr, re = [], []
        for o, c, n in zip(overlaps, confidences, visible, strict=True):
            subset = [a for a, b in zip(o, c, strict=True) if b >= threshold]
            pr.append(np.mean(subset) if subset else 1.0)
            re.append(sum(subset) / n if subset and n else 0.0)
        p, r = np.mean(pr), np.mean(re)
        f = 2 * p * r / (p + r) if p + r else 0.0
        if f > best[0]:
            best = f, p, r
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.booleans(), st.sampled_from([0, 1, 2]), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
                         min_size=1, max_size=9), min_size=1, max_size=3), st.sampled_from([1, 30]))  # fmt: skip
def test_longterm_with_ties_and_silence(rows, times):
    sequences, runs, parts = [], {}, []
    for k, once in enumerate(rows):
        frames = once * times
        gt = [(10.0, 10, 8, 8) if seen or not i else (NAN,) * 4 for i, (seen, _, _) in enumerate(frames)]
        answer = [(10.0, 10, 8, 8), (14.0, 10, 8, 8), (NAN,) * 4]
        pred = np.array([answer[what] for _, what, _ in frames])
        confidence = np.array([NAN if not i else c for i, (_, _, c) in enumerate(frames)])
        sequences.append(make(gt, f"s{k}", image_size=(64, 64)))
        runs[f"s{k}"] = [Run(pred, presence=confidence)]
        overlap = [0.0]
        for g, (_, what, _) in list(zip(gt, frames, strict=True))[1:]:
            gone = math.isnan(g[0])
            overlap.append(float(what == 2) if gone else (1.0, 1 / 3, 0.0)[what])
        parts.append((overlap, np.nan_to_num(confidence).tolist(), sum(not math.isnan(g[0]) for g in gt)))
    got = score_longterm(sequences, runs, tracker="t", dataset="x").values
    assert [got["F"], got["Pr"], got["Re"]] == pytest.approx(longterm(*zip(*parts, strict=True)), abs=1e-12)


# --- every rule on data that it was not made for ------------------------------------------------------------------------

BOXES = np.array([(40.0, 30, 20, 10), (42, 31, 20, 10), (44, 32, 20, 10), (0, 0, 0, 0)])
SETS = {
    "pixels": make(BOXES),
    "with nan": make(np.where(BOXES[:, 2:3] > 0, BOXES, NAN)),
    "flags": make(BOXES, visible=np.array([True, True, True, False])),
    "hidden": make(BOXES[:1], count=4),
}


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("rule", [r.name for r in rules()])
def test_a_perfect_tracker_is_perfect_or_the_rule_refuses(rule, kind):
    """What is asked here: no rule gives a number that means something else, whatever data set it is asked for."""
    sequence = SETS[kind]
    boxes = np.where(BOXES[:, 2:3] > 0, BOXES, BOXES[2])
    run = Run(boxes, presence=np.array([NAN, 1, 1, 0]), lost=np.array([False, False, False, True]))
    try:
        got = score([sequence], {"a": [run]}, tracker="t", dataset="folder", rule=rule)
    except InputError as error:
        assert ";" in str(error) or ":" in str(error), "what was given, and what to do"
        if kind == "hidden" and find_protocol(rule) == "ope":
            assert isinstance(error, HiddenTruthError)
        return
    assert kind != "hidden"
    if rule == "oxuva" and kind != "pixels":
        assert (got.values["TPR"], got.values["TNR"]) == (1.0, 1.0)
    # four frames: the last is a miss where only a box of size 0 says that the target is gone, and the first may not count
    value = got.values[got.metrics[0].name]
    assert math.isnan(value) or 0.6 <= value <= 1.0, got.values


def find_protocol(rule: str) -> str:
    return next(r.protocol for r in rules() if r.name == rule)


# --- §6: supervised -------------------------------------------------------------------------------------------------------


def supervised(runs_of, low, high):
    """EAO, A and R of the MATLAB rules; ``runs_of``: per sequence, repetitions of (code or None, overlap) per frame."""
    longest = max(len(run) for runs in runs_of for run in runs)
    parts, accuracy, failures, frames = [], [], 0.0, 0
    for runs in runs_of:
        count = len(runs[0])
        frames += count
        for run in runs:
            failed = [i for i, (code, _) in enumerate(run) if code == 2]
            failures += len(failed) / len(runs)
            cuts = [f + 5 for f in failed if f + 5 <= count]
            for k, start in enumerate([0, *cuts]):
                last = k == len(cuts)
                values = [o or 0.0 for _, o in run[start : None if last else cuts[k] + 1]]
                share = 1.0 if last and values else len(values) / 1 if last else len(values) / (cuts[k] - start + 1)
                parts.append((values, share / len(runs), not last))
        for i in range(count):
            seen = []
            for run in runs:
                burnt = any(run[j][0] == 1 for j in range(max(i - 9, 0), i + 1))
                if run[i][0] is None and not burnt:
                    seen.append(run[i][1])
            if seen:
                accuracy.append(np.mean(seen))
    phi = []
    for length in range(low, high + 1):
        total = weight = 0.0
        for values, share, failed in parts:
            if failed:
                values = values + [0.0] * (longest - len(values))
            if len(values) >= length:
                total, weight = total + share * sum(values[1:length]) / (length - 1), weight + share
        phi.append(total / weight)
    return np.mean(phi), np.mean(accuracy) if accuracy else NAN, 100 * failures / frames


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_supervised_with_failures_near_the_end(data):
    sequences, runs, plain = [], {}, []
    for k in range(data.draw(st.integers(1, 3))):
        count, repetitions = data.draw(st.integers(12, 24)), data.draw(st.integers(1, 3))
        lines = []
        for _ in range(repetitions):
            run: list = []
            while len(run) < count:
                run.append((1, None))
                run += [(None, o) for o in data.draw(st.lists(st.sampled_from([1.0, 0.5]), max_size=count))]
                run += [(2, None), *[(0, None)] * 4]
            lines.append(run[:count])
        here = {None: {1.0: Rectangle(8, 8, 9, 9), 0.5: Rectangle(8, 8, 9, 4)}}
        codes = {1: Special(Code.INITIALISATION), 2: Special(Code.FAILURE), 0: Special(Code.UNKNOWN)}
        sequences.append(make([(8.0, 8, 9, 9)] * count, f"s{k}", image_size=(64, 64)))
        runs[f"s{k}"] = [
            Run(np.full((count, 4), NAN), regions=tuple(here[c][o] if c is None else codes[c] for c, o in run))
            for run in lines
        ]
        plain.append(lines)  # pysot draws both corners: 10 x 10 pixels and 10 x 5
    low, high = 2, max(len(s) for s in sequences)
    got = score(sequences, runs, tracker="t", dataset="x", rule="vot-supervised", eao_range=(low, high)).values
    eao, a, r = supervised(plain, low, high)
    assert got["EAO"] == pytest.approx(eao, abs=1e-6)
    assert [got["A"], got["R"]] == pytest.approx([a, r], abs=1e-6, nan_ok=True)


# --- paired tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["pytracking", "got10k", "vot-supervised", "vot-supervised-py", "oxuva"])
def test_the_difference_that_is_tested_is_that_of_the_scores(rule):
    """Sequences weigh in the test as they do in the number."""
    rng = np.random.default_rng(3)
    sequences = [make([(40.0, 30, 20, 10)] * n, f"s{n}", image_size=(99, 99)) for n in (12, 30, 45)]
    found = []
    for tracker, noise in (("a", 1.0), ("b", 3.0)):
        runs = {}
        for s in sequences:
            boxes = s.boxes + rng.uniform(-noise, noise, (len(s), 4)) * [1, 1, 0, 0]
            regions = [Special(Code.INITIALISATION), *(Rectangle(*map(float, b)) for b in boxes[1:])]
            runs[s.name] = [Run(boxes, regions=tuple(regions) if rule.startswith("vot") else None)]
        found.append(score(sequences, runs, tracker=tracker, dataset="toy", rule=rule))
    key = {"oxuva": "TPR"}.get(rule, "A" if rule.startswith("vot") else found[0].metrics[0].name)
    (test,) = compare_all(found, key)
    assert test.difference == pytest.approx(found[0].values[key] - found[1].values[key], abs=1e-7)
    assert test.difference > 0.01
