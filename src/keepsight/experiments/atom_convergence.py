"""How fast ATOM's solver learns the first frame; Danelljan et al., "ATOM" (CVPR 2019), §3.2 and supplement, Figure S3.

The problem is the tracker's own: filter and projection together, on the augmented first frame, from its random start.
Gauss-Newton with conjugate gradients is compared with gradient descent by the number of BackProp calls: one for a
linearisation or a step of descent, two for a conjugate gradient iteration (Algorithm 1).

Descent gets a fair chance. For each momentum its step length is the power of two with the lowest mean loss over all
sequences and seeds after as many calls as the solver gets. The search starts at the first problem's best and goes on to
neighbours until those on both sides of the best are worse; a step that diverges on any problem is out.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import __version__
from ..datasets import Sequence as Video
from ..errors import InputError, VideoError
from ..nn.gauss_newton import DescentConfig, Linearised, Problem, SolverConfig, Variables, gradient_descent, minimise
from ..text import write_atomically
from ..trackers.atom import AtomTracker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, MEANS, SUMMARY, PLOT = "curves.csv", "mean.csv", "summary.json", "convergence"
PUBLISHED, PLAIN, DESCENT = "cg", "cg_plain", "gd"
"""Methods: the tracker's own solver, Algorithm 1 as printed, gradient descent."""
FORMATS = ("png", "pdf", "svg")
"""Of the plot."""

_WORDS = {PUBLISHED: "CG of the tracker", PLAIN: "CG, Algorithm 1"}

_COLUMNS = ("sequence", "seed", "method", "step", "momentum", "calls", "loss")
_MEAN_COLUMNS = ("method", "step", "momentum", "best", "calls", "loss", "deviation")
_EXPONENTS = range(-60, 21)  # of step lengths


@dataclass(frozen=True)
class ConvergenceConfig:
    """What is measured."""

    seeds: int = 5
    """Runs of each sequence, with seeds 0, 1, ..: augmentation and start differ."""
    calls: int = 630
    """BackProp calls of every method, rounded down to whole Gauss-Newton steps. ATOM itself makes 126; the paper's GD++ five
    times as many."""
    momenta: tuple[float, ...] = (0.9, 0.0)
    """Of gradient descent; each gets its own step length."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise InputError(f"{self.seeds} seeds; expected at least 1")
        if not self.momenta or not all(0 <= m < 1 for m in self.momenta):
            raise InputError(f"momenta are {self.momenta}; expected one or more in [0, 1)")


@dataclass(frozen=True)
class Method:
    """One way to solve the problem."""

    name: str
    """``cg``, ``cg_plain`` or ``gd``."""
    config: SolverConfig | DescentConfig

    @property
    def descent(self) -> tuple[str, str]:
        """Step length and momentum as the files have them; empty for solvers."""
        if isinstance(self.config, SolverConfig):
            return "", ""
        return f"{self.config.step_length:.9g}", f"{self.config.momentum:g}"

    def __str__(self) -> str:
        if isinstance(self.config, DescentConfig):
            exponent = math.log2(self.config.step_length)
            return f"gradient descent, momentum {self.config.momentum:g}, step 2^{exponent:g}"
        return _WORDS[self.name]


@dataclass
class Measured:
    """Losses of one method on every problem."""

    method: Method
    losses: np.ndarray
    """(sequences, seeds, calls) at :attr:`Convergence.axis`; nan where it was not measured or no longer finite."""
    diverged: str = ""
    """The problem on which it did, after which no other was tried; empty if on none."""

    @property
    def mean(self) -> np.ndarray:
        """(calls,) over sequences and seeds."""
        return np.asarray(self.losses.mean(axis=(0, 1)))

    @property
    def deviation(self) -> np.ndarray:
        """(calls,) over seeds, of the mean over sequences."""
        of_seed = self.losses.mean(axis=0)  # (seeds, calls)
        return np.asarray(of_seed.std(axis=0, ddof=1) if len(of_seed) > 1 else np.zeros(of_seed.shape[1]))

    @property
    def final(self) -> float:
        """Mean loss at the end; infinite if it diverged."""
        return math.inf if self.diverged else float(self.mean[-1])


@dataclass
class Convergence:
    """The experiment: ``run`` writes ``curves.csv`` as it goes, then ``mean.csv`` and ``summary.json``."""

    tracker: AtomTracker
    videos: Sequence[Video]
    out: Path
    """Folder, which exists."""
    config: ConvergenceConfig = ConvergenceConfig()
    tell: Callable[[str], object] = lambda _: None
    """Called with a line of news now and then."""
    measured: list[Measured] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tracker, AtomTracker):
            raise InputError(
                f"{self.tracker.name} does not learn by Gauss-Newton and conjugate gradients; give one of ATOM's trackers, "
                "such as 'atom-lite'"
            )
        if not self.videos:
            raise InputError("there are no sequences; give at least one")
        solver = self.tracker.config.init_solver
        a_step = 1 + 2 * solver.cg_iterations  # BackProp calls
        self.own = solver.gauss_newton_steps * a_step  # what the tracker makes
        count = self.config.calls // a_step
        if count < 1 or self.own < 3:
            raise InputError(
                f"{self.config.calls} BackProp calls; one Gauss-Newton step alone takes {a_step}, give more"
            )
        self.calls = count * a_step
        self.solvers = [Method(PUBLISHED, replace(solver, gauss_newton_steps=count))]
        plain = SolverConfig.paper(count, solver.cg_iterations)
        if plain != self.solvers[0].config:
            self.solvers.append(Method(PLAIN, plain))
        steps = np.arange(count)[:, None] * a_step + 1 + 2 * np.arange(1, solver.cg_iterations + 1)
        self.axis = np.concatenate(([0], steps.ravel()))  # calls after which conjugate gradients have a new point

    # --- measuring -----------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Measure, write, and return what ``summary.json`` says.

        Raises :class:`InputError` for a sequence that cannot be started, and :class:`VideoError` for frames that cannot be read
        or files that cannot be written. What was measured before stays in ``curves.csv``, whole runs only.
        """
        self.firsts = [(video.frames[0], video.first_box) for video in self.videos]  # errors come before the work
        with _Rows(self.out / CURVES, _COLUMNS) as self.rows, torch.inference_mode():
            for stale in (MEANS, SUMMARY, *(f"{PLOT}.{kind}" for kind in FORMATS)):  # of a run before
                with suppress(OSError):
                    (self.out / stale).unlink()
            for method in self.solvers:
                self._measure(method)
            for momentum in self.config.momenta:
                self._search(momentum)
        summary = self.summary()
        _write_rows(self.out / MEANS, _MEAN_COLUMNS, self._mean_rows())
        write_atomically(self.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return summary

    def _descent(self, momentum: float, exponent: int) -> Method:
        return Method(DESCENT, DescentConfig(self.calls, 2.0**exponent, momentum))

    def _problems(self) -> Iterator[tuple[int, int, Problem, Variables]]:
        """(index of the sequence, seed, problem, start); made anew each time, for they are large."""
        for i, (frame, box) in enumerate(self.firsts):
            for seed in range(self.config.seeds):
                self.tracker.seed = seed
                yield i, seed, *self.tracker.first_problem(frame, box)

    def _measure(self, method: Method) -> Measured:
        """On every problem, until it diverges on one."""
        losses = np.full((len(self.videos), self.config.seeds, len(self.axis)), np.nan)
        measured = Measured(method, losses)
        for i, seed, problem, start in self._problems():
            curve = losses[i, seed] = self._curve(problem, start, method)
            name = self.videos[i].name
            fixed = (name, seed, method.name, *method.descent)
            finite = zip(self.axis, curve, strict=True)
            self.rows.write([(*fixed, calls, f"{loss:.7g}") for calls, loss in finite if math.isfinite(loss)])
            if not curve[-1] <= curve[0]:  # nan is not
                measured.diverged = f"{name}, seed {seed}"
                break
        self.measured.append(measured)
        ending = f"loss {measured.final:.4g} after {self.calls} calls"
        self.tell(f"{method}: {f'diverges on {measured.diverged}' if measured.diverged else ending}")
        return measured

    def _curve(self, problem: Problem, start: Variables, method: Method) -> np.ndarray:
        """(calls,) losses at :attr:`axis`."""
        if isinstance(method.config, DescentConfig):
            return np.array(descent_losses(problem, start, method.config))[self.axis]
        seen: dict[int, float] = {}
        minimise(
            problem,
            start,
            method.config,
            observe=lambda calls, variables: seen.__setitem__(calls, float(problem.linearise(variables).loss)),
        )
        curve, last = [], math.nan
        for calls in self.axis:  # where it stopped early, nothing changes
            last = seen.get(int(calls), last)
            curve.append(last)
        return np.array(curve)

    def _search(self, momentum: float) -> None:
        """Measure step lengths until the best of all problems lies between two worse ones."""
        _, _, problem, first = next(self._problems())

        def of_first_problem(exponent: int, steps: int = self.calls) -> float:
            losses = descent_losses(problem, first, DescentConfig(steps, 2.0**exponent, momentum))
            return losses[-1] if losses[-1] < losses[0] else math.inf

        largest = next(
            (e for e in range(0, _EXPONENTS.start, -1) if of_first_problem(e, self.calls // 10 + 1) < math.inf), 0
        )
        start = _bracket(of_first_problem, largest)  # quick: it spares steps far from the best on all problems
        _bracket(lambda exponent: self._measure(self._descent(momentum, exponent)).final, start)

    # --- summing up ----------------------------------------------------------------------------------------------------

    def best_descent(self, calls: int, momentum: float | None = None) -> Measured | None:
        """Gradient descent with the lowest mean loss after ``calls``, of those that diverged nowhere; None if all did."""
        at = int(np.flatnonzero(self.axis <= calls)[-1])
        members = [m for m in self.measured if isinstance(m.method.config, DescentConfig) and not m.diverged]
        if momentum is not None:
            members = [m for m in members if m.method.config.momentum == momentum]  # type: ignore[union-attr]
        return min(members, key=lambda m: float(m.mean[at]), default=None)

    def summary(self) -> dict[str, Any]:
        """As written to ``summary.json``; nothing but what was measured."""
        tracker = self.tracker
        return {
            "experiment": "atom-convergence",
            "tracker": tracker.name,
            "keepsight": __version__,
            "torch": torch.__version__,
            "device": str(tracker.device),
            "sequences": [video.name for video in self.videos],
            "seeds": list(range(self.config.seeds)),
            "calls": self.calls,
            "calls_of_the_tracker": self.own,
            "start": float(self.measured[0].mean[0]),
            "methods": [self._method_summary(m) for m in self.measured],
            "comparison": [
                row for calls in sorted({min(self.own, self.calls), self.calls}) for row in self._compare(calls)
            ],
        }

    def _method_summary(self, measured: Measured) -> dict[str, Any]:
        step, momentum = measured.method.descent
        told: dict[str, Any] = {"method": measured.method.name}
        if step:
            told |= {"step": float(step), "momentum": float(momentum)}
        if measured.diverged:
            return told | {"diverged": measured.diverged}
        own = int(np.flatnonzero(self.axis <= self.own)[-1])
        return told | {"loss": _short(measured.mean[-1]), f"loss_at_{self.axis[own]}": _short(measured.mean[own])}

    def _compare(self, calls: int) -> Iterator[dict[str, Any]]:
        """When the solvers have reached what the best descent reaches in ``calls``; in the mean and on each sequence."""
        descent, at = self.best_descent(calls), int(np.flatnonzero(self.axis == calls)[0])
        if descent is None:
            return
        step, momentum = descent.method.descent
        for measured in self.measured[: len(self.solvers)]:
            curves = [("all", measured.mean, descent.mean)]
            each = zip(self.videos, measured.losses.mean(axis=1), descent.losses.mean(axis=1), strict=True)
            curves += [(video.name, solver, slope) for video, solver, slope in each]
            for name, solver, slope in curves:
                reached = np.flatnonzero(solver <= slope[at])
                first = int(self.axis[reached[0]]) if len(reached) else None
                yield {
                    "calls": calls,
                    "sequence": name,
                    "method": measured.method.name,
                    "step": float(step),
                    "momentum": float(momentum),
                    "descent_loss": _short(slope[at]),
                    "loss": _short(solver[at]),
                    "reached_after": first,
                    "fraction": None if first is None else round(first / calls, 4),
                }

    def _mean_rows(self) -> Iterator[tuple[object, ...]]:
        best = [self.best_descent(self.calls, momentum) for momentum in self.config.momenta]
        for one in self.measured:
            if one.diverged:
                continue
            drawn = int(one in self.measured[: len(self.solvers)] or any(one is b for b in best))
            for calls, loss, deviation in zip(self.axis, one.mean, one.deviation, strict=True):
                yield one.method.name, *one.method.descent, drawn, calls, f"{loss:.5g}", f"{deviation:.3g}"


class _Recorder:
    """A problem that notes its loss wherever it is linearised."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.losses = problem, list[float]()

    def linearise(self, variables: Variables) -> Linearised:
        linear = self.problem.linearise(variables)
        self.losses.append(float(linear.loss))
        return linear


def descent_losses(problem: Problem, start: Variables, config: DescentConfig) -> list[float]:
    """After 0, 1, .., ``steps`` calls; nan from where it left finite numbers."""
    recorder = _Recorder(problem)
    with suppress(InputError):
        recorder.linearise(gradient_descent(recorder, start, config).variables)
    losses = [loss if math.isfinite(loss) else math.nan for loss in recorder.losses]
    return losses + [math.nan] * (config.steps + 1 - len(losses))


def _bracket(evaluate: Callable[[int], float], start: int) -> int:
    """Evaluate whole numbers from ``start`` on until the lowest value has worse ones on both sides; the one it is."""
    found: dict[int, float] = {}
    centre = start
    while True:
        for exponent in (centre, centre - 1, centre + 1):
            if exponent not in found:
                found[exponent] = evaluate(exponent)
        best = min(found, key=lambda exponent: (found[exponent], exponent))  # all infinite: towards small steps
        if best == centre:
            return centre
        if best not in _EXPONENTS:
            raise InputError(
                f"no step length from 2^{_EXPONENTS.start} to 2^{_EXPONENTS[-1]} is the best; check the network"
            )
        centre = best


def _short(value: float) -> float:
    return float(f"{value:.5g}")


# --- files ---------------------------------------------------------------------------------------------------------------


class _Rows:
    """A CSV file that grows by whole blocks of rows: an interruption cuts none."""

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path, self.columns = path, tuple(columns)

    def __enter__(self) -> _Rows:
        try:
            self.file = open(self.path, "wb", buffering=0)
        except OSError as error:
            raise VideoError(
                f"{self.path} cannot be written: {error.strerror}; give a folder that you may write to"
            ) from None
        self.write([self.columns])
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        try:
            self.file.write(_csv(rows))
        except OSError as error:
            raise VideoError(f"{self.path} cannot be written: {error.strerror}; free some space") from None


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    write_atomically(path, _csv([columns, *rows]))


# --- words and picture ----------------------------------------------------------------------------------------------------


def describe(summary: dict[str, Any]) -> list[str]:
    """What ``summary.json`` says, as lines to print."""
    lines = []
    for row in summary["comparison"]:
        if row["sequence"] != "all":
            continue
        reached = (
            f"is there after {row['reached_after']} ({100 * row['fraction']:.1f} %)"
            if row["reached_after"] is not None
            else f"does not get there in {summary['calls']}"
        )
        lines.append(
            f"{row['calls']} BackProp calls: gradient descent (momentum {row['momentum']:g}, step {row['step']:.3g}) reaches "
            f"{row['descent_loss']:.4g}; {_WORDS[row['method']]} {reached}, and reaches {row['loss']:.4g} itself"
        )
    if not lines:
        lines.append("no step length of gradient descent is without divergence on these sequences")
    return lines


def table(summary: dict[str, Any]) -> list[str]:
    """Per sequence: loss of the best descent at its end, and after how many calls each solver was there."""
    rows = [row for row in summary["comparison"] if row["calls"] == summary["calls"]]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if not rows:
        return []
    width = max(len(row["sequence"]) for row in rows)
    lines = [f"{'sequence':<{width}}  {'gd':>8}" + "".join(f"  {method + ' there after':>20}" for method in methods)]
    for name in dict.fromkeys(row["sequence"] for row in rows):
        mine = [row for row in rows if row["sequence"] == name]
        cells = []
        for row in mine:
            said = (
                "never" if row["reached_after"] is None else f"{row['reached_after']} ({100 * row['fraction']:.1f} %)"
            )
            cells.append(f"  {said:>20}")
        lines.append(f"{name:<{width}}  {mine[0]['descent_loss']:>8.4g}" + "".join(cells))
    return lines


def write_plot(folder: str | Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Draw ``mean.csv`` and ``summary.json`` of ``folder``, as ``convergence.png`` and so on beside them.

    Raises :class:`InputError` for other formats than png, pdf and svg, without matplotlib, or if the folder holds no
    finished experiment.
    """
    from ..evaluation.plots import require_matplotlib, save_figure

    check_formats(formats)
    out = Path(folder).expanduser()
    if not (out / MEANS).is_file() or not (out / SUMMARY).is_file():
        raise InputError(
            f"{out} has no {MEANS} and {SUMMARY}; run `keepsight experiment atom-convergence --out {out}` first"
        )
    require_matplotlib()
    figure = _draw(out)
    return [save_figure(figure, out / f"{PLOT}.{kind}") for kind in formats]


def check_formats(formats: Sequence[str]) -> None:
    """Raises :class:`InputError` for kinds of plots that cannot be written."""
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise InputError(f"plots cannot be written as {', '.join(unknown)}; choose from {', '.join(FORMATS)}")


def _draw(folder: Path) -> Figure:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from ..evaluation.plots import COLUMN, line_style, new_figure, plot_look
    from ..evaluation.styles import tracker_styles

    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    with open(folder / MEANS, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["best"] == "1"]
    keys = list(dict.fromkeys((row["method"], row["step"], row["momentum"]) for row in rows))
    styles = tracker_styles(map(str, sorted(keys)))
    with plot_look():
        figure, axes = new_figure(COLUMN, COLUMN * 0.8)
        for key in keys:
            mine = [row for row in rows if (row["method"], row["step"], row["momentum"]) == key]
            calls, loss, deviation = (np.array([float(r[c]) for r in mine]) for c in ("calls", "loss", "deviation"))
            look = line_style(styles[str(key)])
            axes.plot(calls, loss, **look, label=_label(*key))
            low = np.maximum(loss - deviation, loss / 10)  # the logarithm's axis has no 0
            axes.fill_between(calls, low, loss + deviation, color=look["color"], alpha=0.2, linewidth=0)
        _mark(axes, summary)
        for axis in (axes.xaxis, axes.yaxis):
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(float(row["calls"]) for row in rows if row["calls"] != "0"), summary["calls"])
        axes.set_xlabel("BackProp calls")
        axes.set_ylabel("Loss of filter and projection")
        axes.set_title(f"First frame of {summary['tracker']}, {_counts(summary)}")
        axes.legend(framealpha=0.85, edgecolor="none", handlelength=2.6, labelspacing=0.25)
    return figure


def _counts(summary: dict[str, Any]) -> str:
    videos, seeds = len(summary["sequences"]), len(summary["seeds"])
    words = f"{videos} sequence{'s' * (videos > 1)}"
    return f"{words},\nmean and deviation of {seeds} seeds" if seeds > 1 else words


def _label(method: str, step: str, momentum: str) -> str:
    if method == DESCENT:
        exponent = round(math.log2(float(step)))
        return f"Gradient descent, momentum {momentum}, step $2^{{{exponent}}}$"
    return "Gauss-Newton and CG, as published" if method == PUBLISHED else "Gauss-Newton and CG, Algorithm 1"


def _mark(axes: Any, summary: dict[str, Any]) -> None:
    """Where the solvers have reached the end of the best descent, and where the tracker stops."""
    look: dict[str, Any] = {"color": "#555555", "linewidth": 0.6, "linestyle": (0, (1, 1.5)), "zorder": 1}
    own = summary["calls_of_the_tracker"]
    if own < summary["calls"]:
        axes.axvline(own, **look)
        _say(axes, f"the tracker's {own}", (own, 0.02), (-2, 0), "right", axes.get_xaxis_transform())
    rows = [r for r in summary["comparison"] if r["sequence"] == "all" and r["calls"] == summary["calls"]]
    if not rows:
        return
    level = rows[0]["descent_loss"]
    axes.axhline(level, **look)
    for row in rows:
        if (calls := row["reached_after"]) is not None:
            axes.plot([calls], [level], "o", color="#000000", markersize=2.6, zorder=40)
            _say(axes, f"{calls} calls", (calls, level), (-3, -8), "right", axes.transData)


def _say(axes: Any, text: str, point: tuple[float, float], shift: tuple[int, int], side: str, system: Any) -> None:
    """Words ``shift`` points beside ``point``."""
    axes.annotate(
        text, point, xycoords=system, textcoords="offset points", xytext=shift, ha=side, fontsize=5.8, zorder=41
    )
