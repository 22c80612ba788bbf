"""Comparison with other toolkits' numbers, and the table of how closely they are met (docs/agreement.md).

``KEEPSIGHT_AGREEMENT=FILE.md`` makes a run of the tests write the table: every :func:`agree` adds to it, and files opened by
:func:`load` are listed with what the tests never read of them.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_rules import REPO, golden_folder

NOT_COMPARED = {  # pattern of a key (file:path, * for any name) -> why no test compares it
    "trackeval_*": "not for this task: TrackEval assigns ids anew, for unsupervised segmentation",
    "ytvos_*:rule": "words",
    "trackingnet_*:note": "words",
    "got10k_*:*.experiment": "the name of the toolkit's class",
    "got10k_*.json:*speed_fps": "no times in these results (one-pass), or ours is per data set only (got10k_val)",
    "*:*mean_length": "lengths weighted by lengths, used by nobody",
    "*:*per_sequence_curve.*.active": "the weights of the sequences' curves; they are met in eao_curve",
    "expected.json:*published_in": "words",
    "expected.json:ltb35.*mean_overlap_visible": "a number that no rule of ours reports",
}


@dataclass
class Row:
    """What was compared under one (toolkit, rule, what, tolerance)."""

    numbers: int = 0
    worst: float = 0.0


@dataclass
class Recorder:
    rows: dict[tuple[str, str, str, float, bool], Row]
    read: dict[str, set[str]]
    """File -> keys that a test took out of it."""

    def add(self, key: tuple[str, str, str, float, bool], numbers: int, worst: float) -> None:
        row = self.rows.setdefault(key, Row())
        row.numbers += numbers
        row.worst = max(row.worst, worst)

    def dump(self) -> dict[str, Any]:
        """In plain types, for pytest-xdist."""
        rows = [[*key, row.numbers, row.worst] for key, row in self.rows.items()]
        return {"rows": rows, "read": {file: sorted(keys) for file, keys in self.read.items()}}

    def merge(self, dumped: Mapping[str, Any]) -> None:
        for *key, numbers, worst in dumped["rows"]:
            self.add(tuple(key), numbers, worst)
        for file, keys in dumped["read"].items():
            self.read.setdefault(file, set()).update(keys)


RECORDER = Recorder({}, {})  # one per process: tests compare, the end of the session writes


def agree(
    got: Any,
    want: Any,
    tolerance: float,
    *,
    toolkit: str,
    rule: str,
    what: str,
    where: object = "",
    relative: bool = False,
) -> None:
    """Assert that ``got`` is the toolkit's ``want`` within ``tolerance``, and record the largest difference.

    Numbers or arrays of one shape; "NaN" and "Infinity" as words are numbers too. nan agrees with nan and an infinity with
    itself, and with nothing else. ``relative``: differences are divided by ``|want|`` where that is above 1.
    """
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    name = f"{toolkit}, rule {rule}, {what}" + (f", {where}" if where != "" else "")
    assert got.shape == want.shape, f"{name}: shape {got.shape}, expected {want.shape}"
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(got - want) / (np.maximum(np.abs(want), 1.0) if relative else 1.0))
    off = np.where(np.isfinite(off), off, np.inf)  # one of the two is nan or infinite
    worst = float(off.max()) if off.size else 0.0
    RECORDER.add((toolkit, rule, what, float(tolerance), relative), int(off.size), worst)
    if worst > tolerance:
        place = np.unravel_index(int(off.argmax()), off.shape)
        raise AssertionError(
            f"{name}: largest difference {worst:.3g}, tolerance {tolerance:.3g}; got {got[place]!r}, expected {want[place]!r}"
            + (f" at {[int(i) for i in place]}" if place else "")
        )


# --- files that know what was read of them --------------------------------------------------------------------------------


class Keys(dict[str, Any]):
    """An object of a JSON file; taking a value out is remembered under its path."""

    def __init__(self, content: Mapping[str, Any], file: str, path: str) -> None:
        super().__init__({key: _watched(value, file, _join(path, key)) for key, value in content.items()})
        self._file, self._path = file, path

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if not _is_inner(value):
            RECORDER.read.setdefault(self._file, set()).add(_join(self._path, key))
        return value

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]


class Arrays(Mapping[str, Any]):
    """The arrays of an .npz file, likewise."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            self._arrays = dict(stored)
        self._file = str(path)

    def __getitem__(self, key: str) -> Any:
        RECORDER.read.setdefault(self._file, set()).add(key)
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def load(path: Path) -> Any:
    """The content of a .json or .npz file."""
    RECORDER.read.setdefault(str(path), set())
    return Arrays(path) if path.suffix == ".npz" else _watched(json.loads(path.read_text()), str(path), "")


def _watched(value: Any, file: str, path: str) -> Any:
    if isinstance(value, dict):
        return Keys(value, file, path)
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [_watched(v, file, _join(path, str(i))) for i, v in enumerate(value)]
    return value


def _is_inner(value: Any) -> bool:
    """Objects, and lists of objects: not numbers themselves."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _join(path: str, key: str) -> str:
    return f"{path}\t{key}" if path else key  # names hold dots and slashes


# --- names of toolkits ----------------------------------------------------------------------------------------------------


def toolkit_name(golden: Path, file: str) -> str:
    """The toolkit that made ``file`` (its name, or words of it) and its version, from the table in metrics/README.md."""
    words = set(re.split(r"[_ ]", file.lower().removesuffix(".json").removesuffix(".npz")))
    readme = golden / "metrics" / "README.md"
    for line in readme.read_text().splitlines() if readme.is_file() else []:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and words.issuperset(cells[0].lower().split()):
            rest = " ".join(cells[1:])
            for version in (r"commit ([0-9a-f]{7,})", r"\b(\d+\.\d+(?:\.\d+)?)\b", r"\b([0-9a-f]{7})\b"):
                if found := re.search(version, rest):
                    return f"{cells[0]} {found[1]}"
            return cells[0]
    return Path(file).stem.replace("_", " ") if file.endswith((".json", ".npz")) else file


# --- the table ------------------------------------------------------------------------------------------------------------


def session_finished(config: pytest.Config, exitstatus: int) -> None:
    """Hand what was recorded to pytest-xdist's controller, or write the table if it was asked for."""
    if hasattr(config, "workeroutput"):
        config.workeroutput["agreement"] = RECORDER.dump()
    elif os.environ.get("KEEPSIGHT_AGREEMENT"):
        path = Path(os.environ["KEEPSIGHT_AGREEMENT"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*_head(config, exitstatus), *_table(), *_coverage(), ""]))


def _head(config: pytest.Config, exitstatus: int) -> list[str]:
    import torch

    readme = golden_folder() / "metrics" / "README.md"
    title = readme.read_text().splitlines()[0].strip("# ") if readme.is_file() else "no metrics in the golden folder"
    arguments = " ".join(f"'{a}'" if " " in a else a for a in map(str, config.invocation_params.args))
    total = sum(row.numbers for row in RECORDER.rows.values())
    return [
        "# Agreement with other toolkits' numbers",
        "",
        f"Written by the tests: `KEEPSIGHT_AGREEMENT={os.environ['KEEPSIGHT_AGREEMENT']} python -m pytest {arguments}`",
        "" if exitstatus == 0 else f"\n**This run did not pass (pytest's exit status {int(exitstatus)}).**\n",
        f"Commit {_commit()}; {datetime.date.today():%d %B %Y}; {_machine()};",
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}.",
        f"Golden folder: {title}. {total:,} numbers compared.",
        "",
        "Largest difference: of all trackers, sequences and frames; 0 means equal to the bit. Unit: the toolkit's, so percent",
        "points for pytracking and TrackingNet. Tolerance: what the test allows. The spec (§13) asks for 1e-12 per frame, 2e-5",
        "percent points for pytracking's scores, 1e-9 for others' scores, 1e-7 for pysot's and MATLAB's overlaps; **bold**: the",
        "test allows more. (rel.): divided by the expected number where that is above 1. Printed numbers are met to half of",
        "their last digit.",
        "",
    ]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPO, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _commit() -> str:
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "src", "tests")
    return (f"`{commit}`" if commit else "unknown") + (" and changes in src or tests" if changed else "")


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {platform.system()}"


def _table() -> list[str]:
    lines = [
        "| toolkit | rule | what | numbers compared | largest difference | tolerance |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for (toolkit, rule, what, tolerance, relative), row in sorted(RECORDER.rows.items(), key=lambda x: _order(x[0])):
        allowed = f"{tolerance:.3g}" + (" (rel.)" if relative else "")
        if tolerance > _specified(toolkit, what) and not toolkit.startswith("published"):
            allowed = f"**{allowed}**"
        worst = f"{row.worst:.1e}" if row.worst else "0"
        mark = " (too large)" if row.worst > tolerance else ""
        lines.append(f"| {toolkit} | {rule} | {what} | {row.numbers:,} | {worst}{mark} | {allowed} |")
    return lines


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return (key[0].startswith("published"), key[0].lower(), *key[1:])


def _specified(toolkit: str, what: str) -> float:
    """The tolerance of spec/evaluation.md §13.3."""
    if "as printed" in what:
        return float("inf")
    if "per frame" in what:
        return 1e-7 if toolkit.startswith(("pysot", "trax")) else 1e-12
    return 2e-5 if toolkit.startswith("pytracking") else 1e-9


def _coverage() -> list[str]:
    """What of each file the tests never took out: found by watching them, so only what this run selected counts."""
    lines = [
        "",
        "## What the files hold, and what was not read",
        "",
        "Every file of `metrics/*/expected` and of the published results. Values: numbers, words. Counted by watching which",
        "keys the tests take out of a file; what they take out they compare, or use as a parameter (orders, labels, ranges).",
        "Read but not compared: pairs of `overlap_pairs.json` for which a toolkit gave nothing or an error; `H` and `N` of",
        "`count_T_F_M_H_N` (frames without target), which no rule of ours reports; `metrics/vot_io` and `metrics/trax` have no",
        "`expected` folder and are compared in tests/parity/test_metrics_vot.py and tests/integrations.",
        "",
        "| file | values | read | never read, and why |",
        "| --- | ---: | ---: | --- |",
    ]
    files = {str(p) for p in golden_folder().glob("metrics/*/expected/*")} | set(RECORDER.read)
    for file in sorted(files, key=lambda f: (Path(f).name == "expected.json", f)):
        path = Path(file)
        leaves = _leaves(path)
        read = RECORDER.read.get(file, set())
        unread: dict[str, list[int]] = {}
        for key, (pattern, size) in leaves.items():
            if key not in read and size:
                unread.setdefault(pattern, []).append(size)
        reasons: dict[str, list[str]] = {}
        for pattern, sizes in unread.items():
            reasons.setdefault(_reason(path.name, pattern), []).append(f"`{pattern}` ({sum(sizes):,})")
        all_of_it = len(reasons) == 1 and not read
        why = [("all" if all_of_it else ", ".join(keys)) + f": {reason}" for reason, keys in reasons.items()]
        total, done = (sum(n for key, (_, n) in leaves.items() if key in among) for among in (leaves, read))
        name = "/".join(path.parts[-3:]) if path.name != "expected.json" else "/".join(path.parts[-2:])
        lines.append(f"| {name} | {total:,} | {done:,} | {'; '.join(why) or 'nothing'} |")
    return lines


def _reason(name: str, pattern: str) -> str:
    from fnmatch import fnmatchcase

    for known, why in NOT_COMPARED.items():
        file, _, key = known.partition(":")
        if fnmatchcase(name, file) and fnmatchcase(pattern, key or "*"):
            return why
    return "**no reason known**"


def _leaves(path: Path) -> dict[str, tuple[str, int]]:
    """Key -> (its pattern, numbers in it)."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return {key: ("*/" + key.rsplit("/", 1)[-1], stored[key].size) for key in stored.files}
    return dict(_walk(json.loads(path.read_text()), "", ""))


def _walk(value: Any, path: str, pattern: str) -> Iterator[tuple[str, tuple[str, int]]]:
    if not _is_inner(value):
        yield path, (pattern, int(np.size(np.array(value, dtype=object))))
        return
    parts = value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}
    inner = [set(v) for v in parts.values() if isinstance(v, dict)]
    names = len(inner) == len(parts) and bool(set.intersection(*inner))  # keys are names where all have the same inside
    for key, part in parts.items():
        word = "*" if names else key
        yield from _walk(part, _join(path, key), f"{pattern}.{word}" if pattern else word)
