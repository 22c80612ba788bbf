"""The conventions by name, and what each flag does to one small example."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from keepsight.errors import InputError
from keepsight.evaluation.one_pass import Measured, measure, prepare
from keepsight.evaluation.rules import OPERule, family, ope_rule, rule_names
from keepsight.evaluation.score import rules

NAN = math.nan
PLAIN = OPERule("plain", first_frame="as_is")
TEN = (1.0, 1.0, 10.0, 10.0)
FAR = (500.0, 500.0, 10.0, 10.0)


def run(rule: OPERule, pred: object, gt: object, visible: object = None) -> Measured:
    truth = prepare(rule, ["one"], [np.array(gt, dtype=float)], [visible])
    return measure(truth, [np.array(pred, dtype=float)], keep_per_frame=True)


def hits(measured: Measured) -> tuple[int, int, int]:
    """Frames with IoU above 0.5, within 20 px, within 0.2."""
    return measured.success[0, 10], measured.precision[0, 20], measured.norm[0, 20]


def test_names() -> None:
    assert set(rule_names()) == {
        "pytracking", "pytracking-valid", "otb", "lasot", "uav", "pysot", "got10k-ope", "present", "trackingnet"
    }  # fmt: skip
    assert {r.name for r in rules() if r.protocol == "ope"} == {*rule_names(), "got10k"}
    assert all(ope_rule(name).name == name for name in rule_names())
    with pytest.raises(InputError, match=r"no rule 'pytraking'.*did you mean 'pytracking'"):
        ope_rule("pytraking")


def test_every_flag_is_documented_and_used() -> None:
    from pathlib import Path

    import keepsight.evaluation.rules as module

    source = Path(module.__file__).read_text()
    users = "".join((Path(module.__file__).parent / n).read_text() for n in ("one_pass.py", "metrics.py", "rules.py"))
    for field in fields(OPERule):
        after = source.split(f"\n    {field.name}: ")[1].split("\n", 1)[1]
        assert after.lstrip().startswith('"""'), field.name
        assert f"rule.{field.name}" in users or f"how.{field.name}" in users or f"self.{field.name}" in users, (
            field.name
        )


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("otb100", "otb"), ("nfs30", "otb"), ("uav123", "uav"), ("UAV123_10fps", "uav"), ("lasot", "lasot"),
        ("LaSOT", "lasot"), ("lasot_extension_subset", "lasot_extension"), ("lasot-ext", "lasot_extension"), ("", "otb"),
    ],
)  # fmt: skip
def test_families(dataset: str, kind: str) -> None:
    assert family(dataset) == kind


def test_pytracking_by_data_set() -> None:
    otb, uav, lasot, extension = (ope_rule("pytracking", d) for d in ("otb100", "uav123", "lasot", "lasot_extension"))
    assert (otb.nan_truth, uav.nan_truth) == ("refuse", "invalid")
    assert (otb.invalid_precision, uav.invalid_precision) == ("wrong", "right")
    assert (lasot.absent, extension.absent) == ("wrong", "invalid")
    assert (lasot.short_results, extension.short_results) == ("refuse", "pad")
    assert ope_rule("pytracking-valid", "lasot") == replace(lasot, name="pytracking-valid", denominator="valid")
    assert replace(uav, name="uav") == ope_rule("uav", "otb100")


def test_thresholds_differ_where_toolkits_do() -> None:
    torch_grid = ope_rule("pytracking").success_thresholds()
    plain = ope_rule("pysot").success_thresholds()
    assert plain.tolist() == [k * 0.05 for k in range(21)]
    ulps = (torch_grid - plain) / np.spacing(plain)
    assert {k: u for k, u in enumerate(ulps) if u} == {13: 1.0, 15: 1.0}
    assert ope_rule("otb").success_thresholds()[19] == 1 - 0.05
    for name in rule_names():
        rule = ope_rule(name)
        assert len(rule.precision_thresholds()) == len(rule.norm_thresholds()) == rule.error_points
        assert rule.precision_thresholds()[-1] == 50
        assert rule.norm_thresholds()[-1] == 0.5


def test_first_frame() -> None:
    pred, gt = [FAR, TEN], [TEN, TEN]
    assert [hits(run(replace(PLAIN, first_frame=f), pred, gt)) for f in ("as_gt", "as_is", "excluded")] == [
        (2, 2, 2), (1, 1, 1), (1, 1, 1)
    ]  # fmt: skip
    assert run(replace(PLAIN, first_frame="excluded"), pred, gt).counted.tolist() == [1]
    assert math.isnan(run(replace(PLAIN, first_frame="excluded"), pred, gt).overlap[0])


def test_bad_predictions() -> None:
    gt = [TEN] * 5
    pred = [TEN, (NAN,) * 4, (1, 1, 0, 10), FAR, (3, 3, 10, -2)]
    found = {b: run(replace(PLAIN, bad_predictions=b), pred, gt) for b in ("previous", "as_is", "miss")}
    assert {b: hits(m)[0] for b, m in found.items()} == {"previous": 3, "as_is": 1, "miss": 1}
    assert [m.repaired for m in found.values()] == [3, 0, 3]
    assert found["miss"].centre_error[1] == math.inf
    refuse = replace(PLAIN, bad_predictions="refuse")
    with pytest.raises(InputError, match=r"one: the prediction of frame 1 is \(nan.*'plain' refuses nan"):
        run(refuse, pred, gt)
    with pytest.raises(InputError, match="prediction of frame 4"):
        run(refuse, [TEN, TEN, TEN, FAR, pred[4]], gt)
    # a size of zero repeats the box before, which may itself be repeated, except where the truth is nan
    empty = (1.0, 1.0, 0.0, 10.0)
    chain = run(
        replace(refuse, nan_truth="invalid"), [TEN, empty, empty, empty, empty], [TEN, TEN, (NAN,) * 4, TEN, TEN]
    )
    assert chain.overlap.round(12).tolist() == [1, 1, -1, 0, 0]
    assert chain.repaired == 3


def test_an_empty_first_box_has_none_before_it() -> None:
    """Also not the last box of the sequence before."""
    rule = replace(PLAIN, bad_predictions="previous")
    truth = prepare(rule, ["a", "b"], [np.array([TEN] * 2), np.array([TEN] * 3)])
    empty = (1.0, 1.0, 0.0, 0.0)
    measured = measure(truth, [np.array([TEN, TEN]), np.array([empty, empty, TEN])], keep_per_frame=True)
    assert measured.overlap.tolist() == [1, 1, 0, 0, 1]


def test_lengths() -> None:
    gt = [TEN] * 4
    long, short = [TEN] * 6, [TEN] * 3
    assert run(PLAIN, long, gt).cut == 2
    assert hits(run(PLAIN, long, gt)) == (4, 4, 4)
    padded = run(PLAIN, short, gt)
    assert (padded.padded, hits(padded)[0], padded.counted[0], padded.mean_overlap[0]) == (1, 3, 4, 0.75)
    cut = run(replace(PLAIN, short_results="cut_truth"), short, gt)
    assert (hits(cut)[0], cut.counted[0], cut.mean_overlap[0]) == (3, 3, 1.0)
    assert math.isnan(cut.overlap[3])
    assert run(replace(PLAIN, short_results="cut_truth", strict=False), short, gt).success[0].tolist() == [3] * 21
    with pytest.raises(InputError, match="one: 3 predictions for 4 frames"):
        run(replace(PLAIN, short_results="refuse"), short, gt)
    # what was padded is no prediction: it repeats nothing
    assert hits(run(replace(PLAIN, bad_predictions="previous"), short, gt))[0] == 3


def test_invalid_and_absent_truth() -> None:
    gt = [TEN, (0, 1, 10, 10), (NAN,) * 4, TEN]
    pred = [TEN, (0, 1, 10, 10), TEN, TEN]
    seen = [True, True, True, False]
    assert hits(run(PLAIN, pred, gt, seen)) == (2, 2, 4)
    assert hits(run(replace(PLAIN, invalid_precision="right", invalid_norm="wrong"), pred, gt)) == (2, 4, 2)
    removed = run(replace(PLAIN, nan_truth="removed"), pred, gt)
    assert (hits(removed), removed.counted[0]) == ((2, 2, 3), 3)
    present = run(replace(PLAIN, valid="present", nan_truth="removed"), pred, gt)
    assert (hits(present), present.counted[0]) == ((3, 3, 3), 3)
    assert hits(run(replace(PLAIN, absent="invalid"), pred, gt, seen)) == (1, 1, 4)
    assert hits(run(replace(PLAIN, absent="wrong"), pred, gt, seen)) == (1, 1, 3)
    assert hits(run(replace(PLAIN, absent="left_out"), pred, gt, seen)) == (1, 1, 3)
    assert hits(run(replace(PLAIN, absent="left_out", invalid_precision="right"), pred, gt, seen)) == (1, 3, 3)
    valid_only = run(replace(PLAIN, denominator="valid", absent="invalid"), pred, gt, seen)
    assert (valid_only.counted[0], valid_only.mean_overlap[0]) == (1, 1.0)
    with pytest.raises(InputError, match="one: the ground truth of frame 2 holds a nan"):
        run(replace(PLAIN, nan_truth="refuse"), pred, gt)
    with pytest.raises(InputError, match="visibility flags have shape"):
        run(PLAIN, pred, gt, [True])


@pytest.mark.parametrize("bad", ["as_is", "previous", "miss"])
def test_infinite_predictions_hit_nothing(bad: str) -> None:
    gt = [TEN, (0, 1, 10, 10), (NAN,) * 4, TEN, TEN, TEN]
    for place, sign in ((0, 1), (1, -1), (2, 1), (3, 1)):
        pred = np.array([TEN] * 5 + [FAR])
        pred[1:4, place] = sign * math.inf
        rule = replace(PLAIN, bad_predictions=bad, invalid_norm="wrong", absent="wrong")
        found = run(rule, pred, gt, [True] * 4 + [False, True])
        filled = bad == "previous" and sign < 0  # only minus infinity is looked for
        assert hits(found) == ((2, 2, 2) if filled else (1, 1, 1)), (place, sign)
        assert not np.isnan(found.overlap).any()


def test_centre_valid() -> None:
    """pysot asks only whether the centre is above 0: x = 0 is precise or not, as its distance says."""
    gt, pred = [(0, 0, 10, 10)], [FAR]
    assert hits(run(replace(PLAIN, invalid_precision="right"), pred, gt)) == (0, 1, 1)
    assert hits(run(replace(PLAIN, invalid_precision="right", centre_valid="centre"), pred, gt)) == (0, 0, 0)


def test_strictness_and_storage() -> None:
    gt, pred = [(1, 1, 10, 10)], [(1, 1, 10, 5)]  # IoU 0.5
    assert hits(run(PLAIN, pred, gt))[0] == 0
    assert hits(run(replace(PLAIN, strict=False), pred, gt))[0] == 1
    miss = run(replace(PLAIN, strict=False), [FAR], [(0, 0, 10, 10)])  # invalid: not even at threshold 0
    assert miss.success[0].sum() == 0
    assert run(replace(PLAIN, storage="truncated"), [(1.9, 1.9, 10.9, 10.9)], gt).overlap[0] == 1
    rounded = replace(PLAIN, storage="rounded", valid="present")
    assert run(rounded, [(0.5, 1.4, 9.5, 10.5)], [(0.4, 1, 10, 10)]).overlap[0] == 1  # halves to even


def test_norm_by() -> None:
    gt, pred = [(1, 1, 0.1, 0.1)], [(1.05, 1, 0.1, 0.1)]
    assert run(PLAIN, pred, gt).norm_error[0] == pytest.approx(0.5)
    assert run(replace(PLAIN, norm_by="at_least_one", norm_what="difference"), pred, gt).norm_error[0] == pytest.approx(
        0.05
    )
