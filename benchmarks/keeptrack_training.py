"""How KeepTrack's matcher learns: held-out error and loss over a run of a recipe, step 0 included, for several seeds.

    python benchmarks/keeptrack_training.py                                  # keeptrack-debug, three seeds: about five minutes
    python benchmarks/keeptrack_training.py --seeds 0 1                      # fewer
    python benchmarks/keeptrack_training.py --recipe keeptrack_lite --device cuda --candidates c.json
    python benchmarks/keeptrack_training.py --out benchmarks/results/keeptrack-training

Error: 1 - recall, the share of candidates known to have a partner that are not matched with it. ``self``: a frame and its
changed copy; ``HH``, ``HK``: real pairs, of which the target's partner is known. A match must be more probable than 0.2, which
none of a copy's five candidates is before training: their error begins at 1. Of two candidates any network matches some.
The run's own validations are read from its log; at step 0, before any training, the same samples are judged here, and
again at the end, which must give what the log says. The base tracker's candidates are made once and are the same for all
seeds: these decide the fresh weights and what is drawn. The picture needs ``pip install 'keepsight[report]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance

import keepsight as ks
from keepsight.errors import InputError
from keepsight.evaluation.plots import plot_look, require_matplotlib, save_figure
from keepsight.training.candidates import build_candidates, read_candidates
from keepsight.training.data import Shares, Stream
from keepsight.training.job import Job, LoopConfig, job_of
from keepsight.training.logs import Meter, read_log
from keepsight.training.loop import train
from keepsight.training.recipes import AssociationRecipe, find_recipe, override

NAME = "keeptrack-training"
AGREEMENT = 1e-3  # of the last validation with the same samples judged here: sums in another order


def judge(job: Job) -> dict[str, float]:
    """A row of :func:`learn` for the network as it is, on the samples of the loop's validation."""
    assert job.validation is not None
    device = next(job.net.parameters()).device
    steps = max(1, job.validation_samples // job.batch)
    meter = Meter()
    job.net.eval()
    with torch.no_grad():
        for batch, _ in Stream(job.validation, Shares(job.batch), steps, 0, steps):
            meter.add(job.objective(job.net, batch.to(device)))
    means = {name: float(total) / meter.counts[name] for name, total in meter.sums.items()}
    losses, statistics = (
        {name.removeprefix(kind): value for name, value in means.items() if name.startswith(kind)}
        for kind in ("losses/", "statistics/")
    )
    return row(losses, statistics)


def row(losses: Mapping[str, float], statistics: Mapping[str, float]) -> dict[str, float]:
    """``loss``, its parts ``loss_positive`` and ``loss_negative``, and the errors."""
    parts = {"loss" if name == "total" else f"loss_{name}": value for name, value in losses.items()}
    recalls = {n.removeprefix("recall_"): value for n, value in statistics.items() if n.startswith("recall_")}
    return parts | {f"error_{name}": 1 - value for name, value in recalls.items()}


def learn(recipe: AssociationRecipe, seed: int, device: str, workers: int, root: str | None) -> dict[str, Any]:
    """One run: ``curve``, rows of step, loss and errors."""
    job = job_of(recipe, seed=seed, data_root=root)
    if job.validation is None:
        raise InputError(f"{recipe.name} holds no sequences out; set data.validation_every to at least 2")
    curve = [{"step": 0, **judge(job)}]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        train(job, LoopConfig(out=out, device=device, workers=workers, seed=seed, tensorboard=False))
        log = [r for r in read_log(out) if r["kind"] == "validation"]
    seconds = time.perf_counter() - began
    curve += [{"step": r["step"], **row(r["losses"], r["statistics"])} for r in log]
    again = judge(job)
    apart = max(abs(again[name] - curve[-1][name]) for name in again)
    if not apart < AGREEMENT:
        raise InputError(
            f"the last validation and the same samples judged here differ by {apart}; the step 0 is no measure"
        )
    return {"seed": seed, "seconds": round(seconds, 1), "judged again": apart, "curve": curve}


def picture(runs: list[dict[str, Any]], path: Path) -> None:
    """Errors left, loss right: a thin line for each seed, a thick one for their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = (("error_self", "copies"), ("error_HH", "pairs HH"), ("error_HK", "pairs HK"))
    steps = [r["step"] for r in runs[0]["curve"]]
    with plot_look():
        figure = Figure(figsize=(6.8, 2.3), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for number, (name, label) in enumerate(shown):
            draw(left, runs, steps, name, f"C{number}", label)
        draw(right, runs, steps, "loss", "C3", "loss")
        for axes, title in ((left, "held-out matching error (1 - recall)"), (right, "held-out loss")):
            axes.set(xlabel="optimiser step", title=title, xlim=(0, steps[-1]))
            axes.set_ylim(bottom=0)
        left.legend()
    save_figure(figure, path)


def draw(axes: Any, runs: list[dict[str, Any]], steps: list[int], name: str, colour: str, label: str) -> None:
    values = np.array([[r.get(name, np.nan) for r in run["curve"]] for run in runs])  # (seeds, validations)
    if np.isnan(values).any():  # there were no such pairs
        return
    axes.plot(steps, values.T, color=colour, linewidth=0.5, alpha=0.5)
    axes.plot(steps, values.mean(axis=0), color=colour, label=label)


@contextmanager
def candidate_file(recipe: AssociationRecipe, given: str | None, root: str | None) -> Iterator[str]:
    """The file ``given``, or one that is made as the recipe says and is gone afterwards."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidates.json"
        build_candidates(recipe.data.build, path, root=root, device="cpu")
        yield str(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="keeptrack-debug")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the recipe, NAME=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--candidates", help="candidate file; without it one is made")
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / NAME)
    args = parser.parse_args()
    require_matplotlib()  # before the minutes
    torch.set_num_threads(args.threads)
    recipe = override(find_recipe(args.recipe), args.set)
    if not isinstance(recipe, AssociationRecipe):
        raise InputError(f"{args.recipe} is no recipe of KeepTrack's matcher")
    made = provenance() | {"torch": torch.__version__, "keepsight": ks.__version__}
    made["command"] = " ".join(["python", "benchmarks/keeptrack_training.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    with candidate_file(recipe, args.candidates, args.data_root) as path:
        found = read_candidates(path, args.data_root)
        runs = []
        for seed in args.seeds:
            ready = override(recipe, [f"data.candidates={path}"])
            runs.append(learn(ready, seed, args.device, args.workers, args.data_root))
            first, last = runs[-1]["curve"][0], runs[-1]["curve"][-1]
            print(
                f"seed {seed}: error of copies {first['error_self']:.3f} -> {last['error_self']:.3f}, loss {first['loss']:.3f} "
                f"-> {last['loss']:.3f}, {runs[-1]['seconds']} s"
            )
    report = {
        "provenance": made,
        "threads": args.threads,
        "device": args.device,
        "recipe": recipe.to_dict(),
        "candidates": {"sequences": len(found.sequences), **found.counts()},
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "curves.json").write_text(json.dumps(report, indent=1) + "\n")
    picture(runs, args.out / "curves.png")
    print(f"wrote curves.json and curves.png to {args.out}")


if __name__ == "__main__":
    main()
