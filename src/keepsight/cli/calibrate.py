"""``keepsight calibrate``: from results that are there to a calibration of the tracker's presence, and how far it holds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError, KeepsightError, nearest_names
from .console import say, tell
from .eval import open_any, with_annotation
from .report import _commit

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..evaluation.calibration import Bin, Judged, Measured, Predicted, Study
    from ..evaluation.store import Manifest, ResultStore
    from . import Calibrate


def calibrate(command: Calibrate) -> int:
    """Fit, hold out, write, say what it is worth."""
    from ..evaluation.calibration import ALL, METHODS, cross_validate
    from ..evaluation.plots import check_formats, require_matplotlib
    from ..online.presence import EVENTS, Calibration, write_calibration

    if not command.data:
        raise InputError("no data set is named: add --data NAME ..; see `keepsight data list`")
    for option, value, known in (("--method", command.method, (*METHODS, "auto")), ("--event", command.event, EVENTS)):
        if value not in known:
            raise InputError(f"{option} {value}: {nearest_names(value, known)}")
    check_formats(command.formats)
    if command.formats:
        require_matplotlib()
    judged, manifests, notes = _read(command)
    _check_confidences(judged, command.tracker)
    study = cross_validate(judged, command.folds)
    overall = cross_validate(judged, command.folds, ALL)
    method = study.best if command.method == "auto" else command.method
    made = Calibration(
        tracker=_own_name(manifests[0]),
        map=study.maps[method],
        share=study.share,
        event=command.event,
        weights_sha256=manifests[0].identity.get("weights_sha256", ""),
        provenance=_provenance(study, manifests),
    )
    if command.share is not None:
        made = made.with_share(command.share)
    tests = _tests(study, overall)
    out = Path(command.out).expanduser()
    write_calibration(out / "calibration.json", made)
    files = [out / "calibration.json", *_tables(study, tests, out), *_plots(command, study, method, out)]
    for note in notes:
        tell(f"note: {note}")
    for line in (*_summary(command, study, tests), "", *_verdict(study, overall, method)):
        say(line)
    tell(f"wrote {len(files)} files to {out}")
    return 0


# --- reading ------------------------------------------------------------------------------------------------------------


def _read(command: Calibrate) -> tuple[list[Judged], list[Manifest], list[str]]:
    from ..evaluation.calibration import judge
    from ..evaluation.protocols import first_frames
    from ..evaluation.store import ResultStore, read_runs

    store = ResultStore(command.results)
    judged: list[Judged] = []
    manifests: list[Manifest] = []
    notes: list[str] = []
    for name in dict.fromkeys(command.data):
        dataset = open_any(name, command.data_root)
        manifest = _manifest(command, store, dataset, name)
        manifests.append(manifest)
        chosen = [s for s in dataset.values() if fnmatchcase(s.name, command.only)]
        if not chosen:
            raise InputError(
                f"no sequence of {dataset.name} matches {command.only!r}; {nearest_names(command.only, dataset)}"
            )
        readable, unreadable = with_annotation(chosen)
        notes += [note for note, _ in unreadable]
        sequences = [s if manifest.frames is None else first_frames(s, manifest.frames) for s in readable.values()]
        runs = read_runs(store, command.tracker, dataset.name, manifest.protocol, sequences)
        missing = [s.name for s in sequences if s.name not in runs]
        if len(missing) == len(sequences):
            raise InputError(_no_results(command, store, dataset, name))
        if missing:
            notes.append(
                f"{len(missing)} of {len(sequences)} sequences of {dataset.name} have no result: {missing[0]} .."
            )
        judged += [judge(s, runs[s.name], command.event) for s in sequences if s.name in runs]
    sums = {m.identity.get("weights_sha256", "") for m in manifests}
    if len(sums) > 1:
        raise InputError(f"the results of {command.tracker} on {', '.join(command.data)} are of different weights")
    return judged, manifests, notes


def _manifest(command: Calibrate, store: ResultStore, dataset: Dataset, name: str) -> Manifest:
    """Of one-pass results, which have a confidence per frame."""
    for protocol in dict.fromkeys((dataset.protocol, "ope", "longterm")):
        manifest = store.manifest(dataset.name, protocol, command.tracker)
        if manifest is not None and protocol in ("ope", "longterm"):
            return manifest
    raise InputError(_no_results(command, store, dataset, name))


def _no_results(command: Calibrate, store: ResultStore, dataset: Dataset, name: str) -> str:
    there = {t for protocol in ("ope", "longterm") for t in store.trackers(dataset.name, protocol)}
    text = f"{store.root} has no results of {command.tracker} on {dataset.name}"
    if there:
        text += f" (there are results of {', '.join(sorted(there))})"
    return f"{text}; run `keepsight eval {command.tracker} {name} --results {store.root}` first"


def _check_confidences(judged: Sequence[Judged], tracker: str) -> None:
    frames, skipped = sum(len(one.truth) for one in judged), sum(one.skipped for one in judged)
    if not frames:
        raise InputError(
            f"the results of {tracker} have no confidence in any of {skipped} annotated frames, so there is nothing to calibrate"
        )
    if skipped:
        tell(f"note: {skipped} of {frames + skipped} annotated frames have no confidence and are left out")


def _own_name(manifest: Manifest) -> str:
    """Our tracker's name, whatever its results were called; else that of the results."""
    from ..evaluation.entrants import parse_entrant
    from ..trackers.registry import tracker_names, tracker_of_weights

    try:
        spec = parse_entrant(manifest.spec)
        if spec.kind != "own":
            return manifest.tracker
        return spec.target if spec.target in tracker_names() else tracker_of_weights(spec.target)
    except KeepsightError:  # its weights have gone, say
        return manifest.tracker


def _provenance(study: Study, manifests: Sequence[Manifest]) -> dict[str, Any]:
    mixed = [one.judged for one in study.mixed]
    return {
        "keepsight": __version__,
        "commit": _commit(),
        "data": [m.dataset for m in manifests],
        "seed": manifests[0].seed,
        "device": manifests[0].device,
        "results": dict(manifests[0].identity),
        "sequences": {
            one.name: {"frames": len(one.truth), "without_the_event": int((~one.truth).sum())} for one in mixed
        },
        "frames": sum(len(one.truth) for one in mixed),
        "held_out": {
            method: {name: _rounded(v.value) for name, v in values.items()}
            for method, values in _all_measures(study.mixed).items()
        },
    }


# --- writing ------------------------------------------------------------------------------------------------------------


def _all_measures(predicted: Sequence[Predicted]) -> dict[str, dict[str, Measured]]:
    from ..evaluation.calibration import METHODS, OWN, measure

    return {method: measure(predicted, method) for method in (OWN, *METHODS)}


@dataclass(frozen=True)
class Test:
    """Sequences that nothing was fitted to, and what is said of them."""

    name: str
    share: float
    """Of frames with the event that the probabilities are for."""
    predicted: tuple[Predicted, ...]


def _tests(study: Study, overall: Study) -> list[Test]:
    tests = [Test("event fails somewhere", study.share, study.mixed)]
    if study.steady:
        tests += [Test("event always holds", study.share, study.steady), Test("all", overall.share, overall.all)]
    return tests


def _tables(study: Study, tests: Sequence[Test], out: Path) -> list[Path]:
    from ..evaluation.calibration import MEASURES, METHODS, OWN, measure, reliability, roc

    def frames(part: Sequence[Predicted]) -> int:
        return sum(len(one.judged.truth) for one in part)

    summary = [
        [t.name, method, _rounded(t.share), len(t.predicted), frames(t.predicted)]
        + [_rounded(v) for m in MEASURES for v in (values[m].value, values[m].low, values[m].high)]
        for t in tests
        for method, values in _all_measures(t.predicted).items()
    ]
    heads = [f"{m}{end}" for m in MEASURES for end in ("", "_low", "_high")]
    files = [_csv(out / "summary.csv", ["sequences", "method", "for_share", "count", "frames", *heads], summary)]
    folds = [
        [
            one.judged.name,
            "" if one.fold is None else one.fold,
            len(one.judged.truth),
            int((~one.judged.truth).sum()),
            method,
        ]
        + [_rounded(v.value) for v in measure([one], method, draws=0).values()]
        for one in study.all
        for method in (OWN, *METHODS)
    ]
    heads = ["sequence", "fold", "frames", "without_the_event", "method", *MEASURES]
    files.append(_csv(out / "folds.csv", heads, folds))

    def numbers(b: Bin) -> tuple[float, ...]:
        return b.probability, b.share.value, b.share.low, b.share.high, b.weight

    bins = [
        [t.name, method, b.low, b.high, *map(_rounded, numbers(b)), b.frames, b.sequences]
        for t in tests
        for method in _chances(study)
        for b in reliability(t.predicted, method)
    ]
    heads = ["sequences", "method", "low", "high", "said", "seen", "seen_low", "seen_high", "weight", "frames", "count"]
    files.append(_csv(out / "reliability.csv", heads, bins))
    points = [
        [method, *map(_rounded, point)]
        for method in (OWN, *METHODS)
        for point in _thinned(list(zip(*roc(study.mixed, method), strict=True)))
    ]
    files.append(_csv(out / "roc.csv", ["method", "false_positive_rate", "true_positive_rate", "threshold"], points))
    return files


def _chances(study: Study) -> list[str]:
    """The methods that say probabilities; a tracker's own confidences may lie elsewhere."""
    from ..evaluation.calibration import METHODS, OWN, measure

    own = [OWN] if not math.isnan(measure(study.all, OWN, draws=0)["brier"].value) else []
    return [*own, *METHODS]


def _thinned(points: list[Any], most: int = 200) -> list[Any]:
    """Every n-th point, and the last."""
    step = -(-len(points) // most)
    return points if step < 2 else [*points[:-1:step], points[-1]]


def _csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    from ..text import write_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows])
    write_atomically(path, text.getvalue())
    return path


def _rounded(value: float) -> float | None:
    """Six decimals; None, which JSON has, for nan."""
    return None if math.isnan(value) else round(float(value), 6)


def _plots(command: Calibrate, study: Study, method: str, out: Path) -> list[Path]:
    from ..evaluation.calibration import METHODS, OWN, measure, reliability, roc
    from ..evaluation.plots import reliability_plot, roc_plot, save_plot

    if not command.formats:
        return []
    title, event = f"{command.tracker}: {len(study.mixed)} sequences, each held out", _words(command.event)
    values = {name: measure(study.mixed, name, draws=0) for name in (OWN, *METHODS)}
    bins = {
        f"{name} [log loss {values[name]['log_loss'].value:.3f}, ECE {values[name]['ece'].value:.3f}]": reliability(
            study.mixed, name
        )
        for name in _chances(study)
    }
    files = save_plot(reliability_plot(bins, title, event=event), out, "reliability", command.formats)
    curves = {f"{name} [AUC {values[name]['auc'].value:.3f}]": roc(study.mixed, name)[:2] for name in (OWN, method)}
    parts: dict[str, Any] = {}
    for one in study.mixed if len(study.mixed) <= 5 else ():
        curve = roc([one], OWN)[:2]
        if len(curve[0]):
            parts[f"{one.judged.name} [{measure([one], OWN, draws=0)['auc'].value:.3f}]"] = curve
    return files + save_plot(roc_plot(curves, title, parts=parts, event=event), out, "roc", command.formats)


# --- saying -------------------------------------------------------------------------------------------------------------


def _words(event: str) -> str:
    return event.replace("-", " ")


def _summary(command: Calibrate, study: Study, tests: Sequence[Test]) -> list[str]:
    """Small tables."""
    frames = sum(len(one.judged.truth) for one in study.mixed)
    without = sum(int((~one.judged.truth).sum()) for one in study.mixed)
    lines = [
        f"{command.tracker}, event {_words(command.event)}: {len(study.mixed)} sequences with {frames} frames, {without} of them "
        f"without it; {len(study.steady)} sequences always with it"
    ]
    heads = {"log_loss": "log loss", "brier": "Brier", "ece": "ECE", "auc": "AUC", "tpr": "TPR@0.5", "tnr": "TNR@0.5"}
    for t in tests:
        about = f"probabilities for videos where it holds in {100 * t.share:.1f} % of frames"
        lines += ["", f"{t.name}: {len(t.predicted)} sequences, none fitted to; {about}", _row("", heads.values())]
        lines += [_row(m, map(_cell, v.values())) for m, v in _all_measures(t.predicted).items()]
    return lines


def _verdict(study: Study, overall: Study, method: str) -> list[str]:
    """What it comes to."""
    from ..evaluation.calibration import gain

    tested = [study.mixed, overall.all] if study.steady else [study.mixed]
    wins = " and ".join(f"{sum(gain([one], method) > 0 for one in part)} of {len(part)}" for part in tested)
    lines = [
        f"{method}: less log loss than the tracker's own presence on {wins} sequences, each for the share of these"
    ]
    if not all(gain(part, method) > 0 for part in tested):
        lines.append("it is not worth using: on average it has more")
    if not any(len(set(one.judged.confidence.tolist())) > 1 for one in study.mixed):
        lines.append("the confidences never change within a sequence: they say nothing about its frames")
    if len(study.mixed) < 10:
        lines.append(
            f"the event fails in {len(study.mixed)} sequences only, which show little: intervals are too narrow"
        )
    return lines


def _row(head: str, cells: Iterable[str]) -> str:
    return f"{head:10}" + "".join(f"{cell:>23}" for cell in cells)


def _cell(value: Measured) -> str:
    if math.isnan(value.value):
        return "–"
    return f"{value.value:.3f}" + ("" if math.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]")
