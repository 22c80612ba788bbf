"""``keepsight experiment``: experiments of the papers, repeated."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, nearest_names
from .console import say, tell
from .eval import open_any
from .outputs import make_folder

if TYPE_CHECKING:
    from ..datasets import Sequence
    from ..trackers.atom import AtomTracker
    from . import AtomConvergence, LookAlikes


_EXPERIMENTS = {
    "atom-convergence": "ATOM, supplement, Figure S3: loss of the first frame against BackProp calls",
    "look-alikes": "KeepTrack: what association gains where look-alikes cross the target",
}


def list_them() -> int:
    for name, about in _EXPERIMENTS.items():
        say(f"{name:<18} {about}")
    return 0


def atom_convergence(command: AtomConvergence) -> int:
    """Measure, write, print; exit status 2 if all is written but the plot, for which matplotlib is needed."""
    from ..evaluation.plots import require_matplotlib
    from ..experiments import atom_convergence as experiment

    experiment.check_formats(command.formats)
    config = experiment.ConvergenceConfig(seeds=command.seeds, calls=command.calls)
    tracker = _atom(command)
    videos = _chosen(command.data, command.data_root, command.only)
    out = make_folder(command.out)
    try:
        require_matplotlib()
    except InputError as error:
        tell(f"there will be numbers but no plot: {error}")
    done = experiment.Convergence(tracker, videos, out, config, (lambda _: None) if command.quiet else tell)
    try:
        summary = done.run()
    except KeyboardInterrupt:
        tell(f"{out / experiment.CURVES} has the runs that were finished")
        raise
    for line in (*experiment.table(summary), *experiment.describe(summary)):
        say(line)
    for name in (experiment.CURVES, experiment.MEANS, experiment.SUMMARY):
        tell(f"wrote {out / name}")
    for path in _plots(out, command.formats):
        tell(f"wrote {path}")
    return 0


def look_alikes(command: LookAlikes) -> int:
    """Track, write, print."""
    from ..experiments import look_alikes as experiment

    config = experiment.LookAlikesConfig(
        seeds=command.seeds, videos=command.videos, frames=command.frames, gap=command.gap
    )
    trackers = experiment.load_trackers(command.matcher, command.device)
    out = make_folder(command.out)
    done = experiment.LookAlikes(trackers, out, config, (lambda _: None) if command.quiet else tell)
    try:
        summary = done.run()
    except KeyboardInterrupt:
        tell(f"{out / experiment.RUNS} has the videos that were finished")
        raise
    for line in (*experiment.table(summary), *experiment.describe(summary)):
        say(line)
    for name in (experiment.RUNS, experiment.SUMMARY):
        tell(f"wrote {out / name}")
    return 0


def _atom(command: AtomConvergence) -> AtomTracker:
    from ..trackers import atom
    from ..trackers.registry import load

    known = (*atom.presets(), *atom.lite_presets())
    if command.tracker not in known:
        raise InputError(
            f"{command.tracker!r} is no tracker that learns by Gauss-Newton and conjugate gradients; "
            + nearest_names(command.tracker, known)
        )
    tracker = load(command.tracker, weights=command.weights, device=command.device)
    assert isinstance(tracker, atom.AtomTracker)
    return tracker


def _chosen(name: str, data_root: str | None, only: str) -> list[Sequence]:
    dataset = open_any(name, data_root)
    videos = [video for video in dataset.values() if fnmatchcase(video.name, only)]
    if not videos:
        raise InputError(f"no sequence of {dataset.name} matches {only!r}; {nearest_names(only, dataset)}")
    return videos


def _plots(out: Path, formats: tuple[str, ...]) -> list[Path]:
    from ..experiments.atom_convergence import write_plot

    try:
        return write_plot(out, formats)
    except InputError as error:
        again = f'python -c "from {write_plot.__module__} import write_plot; write_plot({str(out)!r})"'
        raise InputError(f"{error}; then `{again}` draws what was measured") from None
