"""The convergence experiment: what it measures is what the solvers do, and what it writes is what it measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from running import sequence
from small import small_atom, small_dimp

from keepsight.errors import InputError, VideoError
from keepsight.experiments import atom_convergence as experiment
from keepsight.experiments.atom_convergence import (
    CURVES,
    MEANS,
    SUMMARY,
    Convergence,
    ConvergenceConfig,
    _bracket,
    descent_losses,
    describe,
    table,
    write_plot,
)
from keepsight.nn.gauss_newton import AutogradProblem, DescentConfig, SolverConfig, minimise

CONFIG = ConvergenceConfig(seeds=2, calls=44)
SOLVER = SolverConfig(3, 4, "fletcher_reeves", (0.1, 1e-4))  # 9 calls a step, 27 in all


def tracker(**changes):
    return small_atom(**{"init_solver": SOLVER, **changes})


def run(out: Path, config: ConvergenceConfig = CONFIG, **changes) -> tuple[Convergence, dict]:
    out.mkdir(exist_ok=True)
    done = Convergence(tracker(**changes), [sequence("one", 2), sequence("two", 2, seed=1)], out, config)
    return done, done.run()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Convergence, dict]:
    return run(tmp_path_factory.mktemp("convergence"))


def test_every_method_is_measured_at_the_same_calls(done):
    convergence, summary = done
    written = rows(convergence.out / CURVES)
    assert list(written[0]) == ["sequence", "seed", "method", "step", "momentum", "calls", "loss"]
    assert (summary["calls"], summary["calls_of_the_tracker"]) == (36, 27)
    # a linearisation is one call, an iteration two: Algorithm 1
    axis = [0, *(9 * k + 1 + 2 * i for k in range(4) for i in range(1, 5))]
    for method in ("cg", "cg_plain"):
        for name in ("one", "two"):
            for seed in ("0", "1"):
                mine = [r for r in written if (r["method"], r["sequence"], r["seed"]) == (method, name, seed)]
                assert [int(r["calls"]) for r in mine] == axis
    assert {r["momentum"] for r in written if r["method"] == "gd"} == {"0.9", "0"}
    assert {int(r["calls"]) for r in written if r["method"] == "gd"} <= set(axis)


def test_the_problem_is_the_trackers_own(done):
    """After the tracker's own number of calls, the loss is that of the filter and projection that the tracker learns."""
    convergence, _ = done
    atom = tracker()
    atom.seed = 1
    video = convergence.videos[1]
    atom.init(video.frames[0], video.first_box)
    target = atom._current().targets[0]
    problem, _ = atom.first_problem(video.frames[0], video.first_box)
    with torch.inference_mode():
        loss = float(problem.linearise((target.filter, target.projection)).loss)
    wanted = {"method": "cg", "sequence": "two", "seed": "1", "calls": "27"}
    found = [r for r in rows(convergence.out / CURVES) if wanted.items() <= r.items()]
    assert len(found) == 1
    assert float(found[0]["loss"]) == pytest.approx(loss, rel=1e-5)


def test_means_and_deviations_follow_from_the_curves(done):
    convergence, summary = done
    curves = rows(convergence.out / CURVES)
    means = rows(convergence.out / MEANS)
    assert list(means[0]) == ["method", "step", "momentum", "best", "calls", "loss", "deviation"]
    for row in (r for r in means if r["calls"] in ("11", "36")):
        mine = [r for r in curves if all(r[c] == row[c] for c in ("method", "step", "momentum", "calls"))]
        losses = np.array(
            [[float(r["loss"]) for r in mine if r["seed"] == seed] for seed in "01"]
        )  # (seeds, sequences)
        assert losses.shape == (2, 2)
        assert float(row["loss"]) == pytest.approx(losses.mean(), rel=1e-4)
        assert float(row["deviation"]) == pytest.approx(losses.mean(axis=1).std(ddof=1), rel=1e-2, abs=1e-6)
    drawn = {(r["method"], r["momentum"]) for r in means if r["best"] == "1"}
    assert drawn == {("cg", ""), ("cg_plain", ""), ("gd", "0.9"), ("gd", "0")}
    assert summary["start"] == pytest.approx(float(means[0]["loss"]), rel=1e-4)


def test_the_best_step_has_worse_ones_on_both_sides(done):
    _, summary = done
    for momentum in (0.9, 0.0):
        losses = {
            round(math.log2(m["step"])): m.get("loss", math.inf)
            for m in summary["methods"]
            if m["method"] == "gd" and m["momentum"] == momentum
        }
        best = min(losses, key=losses.__getitem__)
        assert losses[best] < math.inf
        assert losses[best - 1] > losses[best] < losses[best + 1]


def test_the_comparison_is_read_off_the_curves(done):
    convergence, summary = done
    means = rows(convergence.out / MEANS)
    assert {r["calls"] for r in summary["comparison"]} == {27, 36}
    assert {r["sequence"] for r in summary["comparison"]} == {"all", "one", "two"}
    for row in summary["comparison"]:
        if row["sequence"] != "all":
            continue
        gd = [r for r in means if r["method"] == "gd" and int(r["calls"]) == row["calls"]]
        assert row["descent_loss"] == pytest.approx(min(float(r["loss"]) for r in gd), rel=1e-4)
        mine = [r for r in means if r["method"] == row["method"]]
        there = [int(r["calls"]) for r in mine if float(r["loss"]) <= row["descent_loss"] * (1 + 1e-4)]
        assert row["reached_after"] == (there[0] if there else None)
        if there:
            assert row["fraction"] == pytest.approx(there[0] / row["calls"], abs=1e-4)
    said = "\n".join((*table(summary), *describe(summary)))
    assert "one" in said
    assert f"{summary['comparison'][0]['descent_loss']:.4g}" in said


def test_where_conjugate_gradients_never_get_there_it_says_so(done):
    summary = json.loads(json.dumps(done[1]))
    for row in summary["comparison"]:
        row |= {"reached_after": None, "fraction": None}
    assert "does not get there in 36" in describe(summary)[0]
    assert "never" in table(summary)[1]


def test_the_same_seeds_give_the_same_bytes(done, tmp_path):
    run(tmp_path)
    for name in (CURVES, MEANS, SUMMARY):
        assert (tmp_path / name).read_bytes() == (done[0].out / name).read_bytes(), name


def test_a_solver_that_is_the_papers_is_drawn_once(tmp_path):
    done = Convergence(tracker(init_solver=SolverConfig.paper(3, 4)), [sequence()], tmp_path, CONFIG)
    assert [m.name for m in done.solvers] == ["cg"]


def test_divergence_is_recorded(tmp_path):
    done = Convergence(tracker(), [sequence("one", 2)], tmp_path, CONFIG)
    done.firsts = [(video.frames[0], video.first_box) for video in done.videos]
    told = []
    done.tell = told.append
    with experiment._Rows(tmp_path / CURVES, ("loss",)) as done.rows, torch.inference_mode():
        measured = done._measure(done._descent(0.9, 10))
    assert measured.diverged == "one, seed 0"
    assert measured.final == math.inf
    assert "diverges on one, seed 0" in told[0]
    assert done._method_summary(measured)["diverged"] == "one, seed 0"
    assert done.best_descent(36) is None


def test_the_best_descent_depends_on_the_calls(tmp_path):
    """Large steps are ahead at first; what diverged does not count."""
    done = Convergence(tracker(), [sequence()], tmp_path, ConvergenceConfig(seeds=1, calls=18))
    quick, slow, wild = (
        experiment.Measured(done._descent(momentum, -5), np.linspace(1, end, 9)[None, None], "one" * (end == 0))
        for momentum, end in ((0.9, 0.3), (0.0, 0.2), (0.5, 0.0))
    )
    quick.losses[..., 1:6] = 0.4
    done.measured = [quick, slow, wild]
    assert done.axis.tolist() == [0, 3, 5, 7, 9, 12, 14, 16, 18]
    assert done.best_descent(9) is quick
    assert done.best_descent(18) is slow
    assert done.best_descent(18, momentum=0.9) is quick
    assert done.best_descent(18, momentum=0.5) is None
    done.own = 9
    assert done._method_summary(quick) == {
        "method": "gd",
        "step": 2**-5,
        "momentum": 0.9,
        "loss": 0.3,
        "loss_at_9": 0.4,
    }


def parabola(steepness: float) -> AutogradProblem:
    return AutogradProblem(lambda w: steepness * (w - 1))


def test_descent_losses_at_every_call():
    problem, start = parabola(2.0), (torch.zeros(3),)
    losses = descent_losses(
        problem, start, DescentConfig(4, 0.125, 0.0)
    )  # the gradient is 8 (w - 1): solved in one step
    assert losses == pytest.approx([12.0, 0, 0, 0, 0])
    wild = descent_losses(problem, start, DescentConfig(60, 1e30, 0.0))
    assert len(wild) == 61
    assert wild[0] == 12
    assert math.isnan(wild[-1])


def test_conjugate_gradients_that_end_early_keep_their_loss(tmp_path):
    """The parabola is solved by one iteration; no point of the axis is missing for it."""
    done = Convergence(tracker(), [sequence()], tmp_path, CONFIG)
    problem, start = parabola(2.0), (torch.zeros(3),)
    assert len(minimise(problem, start, SolverConfig.paper(1, 4)).residual_norms) < 5
    curve = done._curve(problem, start, experiment.Method("cg", SolverConfig.paper(4, 4)))
    assert curve.shape == done.axis.shape
    assert curve[0] == 12
    assert np.abs(curve[1:]).max() < 1e-6


@pytest.mark.parametrize("best", [-7, 0, 3])
def test_the_search_goes_to_where_it_is_best(best):
    asked = []

    def value(exponent):
        asked.append(exponent)
        return math.inf if exponent > 4 else abs(exponent - best)

    assert _bracket(value, 6) == best
    assert {best - 1, best, best + 1} <= set(asked)
    assert len(asked) == len(set(asked))


def test_a_search_without_an_end_ends():
    with pytest.raises(InputError, match="no step length"):
        _bracket(lambda _: math.inf, 0)


def test_plot(done, tmp_path):
    pytest.importorskip("matplotlib")
    for name in (MEANS, SUMMARY):
        (tmp_path / name).write_bytes((done[0].out / name).read_bytes())
    png, pdf = write_plot(tmp_path)
    assert (png.name, pdf.name) == ("convergence.png", "convergence.pdf")
    assert (png.read_bytes()[:4], pdf.read_bytes()[:4]) == (b"\x89PNG", b"%PDF")
    first = png.read_bytes()
    write_plot(tmp_path, ("png",))
    assert png.read_bytes() == first
    with pytest.raises(InputError, match="gif"):
        write_plot(tmp_path, ("gif",))
    with pytest.raises(InputError, match="keepsight experiment atom-convergence"):
        write_plot(tmp_path / "none")


def test_settings_that_cannot_be_used(tmp_path):
    for changes in ({"seeds": 0}, {"momenta": ()}, {"momenta": (1.0,)}):
        with pytest.raises(InputError):
            ConvergenceConfig(**changes)
    with pytest.raises(InputError, match="one Gauss-Newton step alone takes 9"):
        Convergence(tracker(), [sequence()], tmp_path, ConvergenceConfig(calls=8))
    with pytest.raises(InputError, match="no sequences"):
        Convergence(tracker(), [], tmp_path)
    with pytest.raises(InputError, match="dimp18 does not learn by"):
        Convergence(small_dimp(), [sequence()], tmp_path)
    with pytest.raises(InputError, match="no target classifier"):
        Convergence(tracker(classifier=False), [sequence()], tmp_path, CONFIG).run()
    with pytest.raises(VideoError, match=r"curves\.csv cannot be written"):
        Convergence(tracker(), [sequence()], tmp_path / "absent", CONFIG).run()


def test_an_interruption_leaves_whole_runs_and_no_stale_results(tmp_path):
    run(tmp_path, ConvergenceConfig(seeds=1, calls=9, momenta=(0.9,)))
    assert (tmp_path / SUMMARY).is_file()
    done = Convergence(tracker(), [sequence("one", 2)], tmp_path, CONFIG)
    learn, calls = done._curve, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 3:
            assert len(rows(tmp_path / CURVES)) == 2 * 17  # on the disk already, whatever happens to this process
            raise KeyboardInterrupt
        return learn(*given)

    done._curve = interrupted
    with pytest.raises(KeyboardInterrupt):
        done.run()
    written = rows(tmp_path / CURVES)
    assert len(written) == 2 * 17  # two whole curves
    assert all(r["loss"] for r in written)
    assert not (tmp_path / MEANS).exists()
    assert not (tmp_path / SUMMARY).exists()
