"""Step lengths of gradient descent for the presets ``atom_gd`` and ``atom_gdpp``: the best powers of two on real sequences.

    OMP_NUM_THREADS=1 python benchmarks/atom_descent_steps.py ../shared/data/sequences --json OUT.json

Two problems of every sequence, as the tracker meets them: filter and projection on the first frame, and the filter alone at the
first scheduled update (after ten tracked frames), where the first frame was solved by conjugate gradients, by GD and by GD++.
Gradient descent with momentum 0.9 solves each with as many BackProp calls as the tracker's own solver makes (GD of the paper's
Table 2), and with five times as many (GD++). A step that leaves the loss higher than it was, or beyond finite numbers, on any
sequence in either is out; of the others the lowest mean loss is the best.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance

import keepsight
from keepsight.datasets import Sequence, open_dataset
from keepsight.errors import InputError
from keepsight.experiments.atom_convergence import descent_losses
from keepsight.nn.gauss_newton import DescentConfig, Problem, SolverConfig, Variables, minimise
from keepsight.trackers.atom import AtomTracker

MOMENTUM, FACTORS = 0.9, (1, 5)
FRAMES = 10  # tracked before the first scheduled update


class Captured(Exception):
    """Carries the problem that the tracker was about to solve."""


def update_problem(tracker: AtomTracker, video: Sequence) -> tuple[Problem, Variables]:
    """Of the first scheduled update, with the memory and the filter that the tracker has then."""
    tracker.init(video.frames[0], video.first_box)
    for i in range(1, FRAMES):
        tracker.update(video.frames[i])
    solve = tracker._solve

    def capture(problem: Problem, start: Variables, *_: object) -> Variables:
        raise Captured(problem, start)

    tracker._solve = capture  # type: ignore[method-assign]
    try:
        tracker.update(video.frames[FRAMES])
    except Captured as caught:
        return caught.args[0], caught.args[1]
    finally:
        tracker._solve = solve  # type: ignore[method-assign]
    raise InputError(f"{video.name}: no update after {FRAMES} frames")


def problems(tracker: AtomTracker, videos: Iterable[Sequence], kind: str) -> Iterator[tuple[str, Problem, Variables]]:
    for video in videos:
        made = (
            tracker.first_problem(video.frames[0], video.first_box)
            if kind == "first frame"
            else update_problem(tracker, video)
        )
        yield video.name, *made


def measure(
    tracker: AtomTracker, videos: list[Sequence], kind: str, solver: SolverConfig, exponents: range
) -> dict[str, Any]:
    """Mean losses for each step length after the calls of GD and of GD++, and the best of each."""
    calls = solver.gauss_newton_steps * (1 + 2 * solver.cg_iterations)
    budgets = [factor * calls for factor in FACTORS]
    losses: dict[int, list[list[float]]] = {e: [] for e in exponents}  # exponent -> sequences -> loss at each budget
    worse: dict[int, str] = {}
    own, before = [], []
    for name, problem, start in problems(tracker, videos, kind):
        before.append(float(problem.linearise(start).loss))
        own.append(float(problem.linearise(minimise(problem, start, solver).variables).loss))
        for exponent in exponents:
            if exponent in worse:
                continue
            curve = descent_losses(problem, start, DescentConfig(budgets[-1], 2.0**exponent, MOMENTUM))
            ends = [curve[b] for b in budgets]
            losses[exponent].append(ends)
            if not all(end <= curve[0] for end in ends):  # nan is not
                worse[exponent] = name
    means = {
        e: [sum(column) / len(column) for column in zip(*losses[e], strict=True)] for e in exponents if e not in worse
    }
    best = [min(means, key=lambda e, i=i: means[e][i]) for i in range(len(budgets))] if means else []
    return {
        "start": rounded(sum(before) / len(before)),
        "solver": rounded(sum(own) / len(own)),
        "calls": budgets,
        "losses": {f"2^{e}": [rounded(v) for v in means[e]] for e in means},
        "out": {f"2^{e}": name for e, name in worse.items()},
        "best": [f"2^{e}" for e in best],
    }


def inclusive(ends: tuple[int, int]) -> range:
    return range(ends[0], ends[1] + 1)


def tell(result: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(result, indent=1), flush=True)
    return result


def rounded(value: float) -> float:
    return float(f"{value:.5g}") if math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of sequences")
    parser.add_argument("--tracker", default="atom-lite")
    parser.add_argument("--weights", help="a file, or 'random'")
    parser.add_argument("--json", type=Path, help="write here too")
    parser.add_argument("--first", type=int, nargs=2, default=(-17, -14), help="exponents for the first frame")
    parser.add_argument("--update", type=int, nargs=2, default=(-19, -10), help="exponents for the update")
    given = parser.parse_args()
    tracker = keepsight.load(given.tracker, weights=given.weights)
    videos = list(open_dataset("folder", given.data).values())
    found: dict[str, object] = {"tracker": tracker.name, "sequences": len(videos), "seed": 0, "momentum": MOMENTUM}
    config = tracker.config
    with torch.inference_mode():
        first = measure(tracker, videos, "first frame", config.init_solver, inclusive(given.first))
        found["first frame"] = tell(first)
        descents = zip(("GD", "GD++"), first["calls"], first["best"], strict=True)
        solved = {"CG": None} | {name: DescentConfig(c, 2.0 ** int(b[2:]), MOMENTUM) for name, c, b in descents}
        for name, descent in solved.items():
            tracker.config = replace(config, init_descent=descent)
            result = measure(tracker, videos, "update", config.update_solver, inclusive(given.update))
            found[f"update after {name}"] = tell(result)
    found |= {"torch": torch.__version__, **provenance()}
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
