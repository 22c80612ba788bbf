"""Numbers printed in papers, with the rule behind each: what our own are shown beside.

The file ``data/published.csv`` holds what five papers and pytracking's model zoo print (scripts/compact_published.py
made it). Which program computed a number is not always printed; spec/evaluation.md §0 says what is known.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

_SOURCES = {
    "PrDiMP": "Danelljan et al., CVPR 2020 (PrDiMP)",
    "DuML": "Dual-Modal Localization, 2021 (DuML)",
    "RTS": "Paul et al., ECCV 2022 (RTS)",
    "ATOM": "Danelljan et al., CVPR 2019 (ATOM)",
    "KeepTrack": "Mayer et al., ICCV 2021 (KeepTrack)",
    "zoo": "pytracking model zoo",
}
# Whose numbers a source measured itself; it quotes the others.
_OWN = {
    "PrDiMP": ("prdimp",),
    "DuML": ("duml",),
    "RTS": ("rts", "lwl", "sta"),
    "ATOM": ("atom",),
    "KeepTrack": ("keeptrack",),
    "zoo": ("",),
}
_RULES = {
    "trackingnet": "trackingnet",
    "got10ktest": "got10k",
    "vot2018": "vot-supervised",
    "vot2019": "vot-supervised",
    "votlt2018": "vot-lt",
    "votlt2019": "vot-lt",
    "oxuvatest": "oxuva",
    "davis2017": "davis2017",
    "youtubevos2019": "youtubevos",
}  # everything else: pytracking
_RULE_NOTES = {
    "trackingnet": "scored by TrackingNet's server",
    "got10ktest": "scored by GOT-10k's server",
    "oxuvatest": "scored by OxUvA's server",
    "youtubevos2019": "scored by the challenge's server, whose code is not public",
}
# Other names of the same data.
_ALIASES = {
    "otb2015": "otb100",
    "lasottest": "lasot",
    "lasotext": "lasotextension",
    "lasotextensionsubset": "lasotextension",
    "trackingnettest": "trackingnet",
    "vot2018lt": "votlt2018",
    "vot2019lt": "votlt2019",
    "vot2020lt": "votlt2019",
    "votlt2020": "votlt2019",
    "oxuvalttest": "oxuvatest",
    "davis2017val": "davis2017",
    "youtubevos2019val": "youtubevos2019",
    "youtubevos2019valid": "youtubevos2019",
}
_SAME_DATA = {"votlt2020": "votlt2019"}  # the challenge took the same sequences in both years
_UAV_NOTE = "two protocols are in use on UAV123: ±1.3 points"  # pytracking changed its own in April 2020


@dataclass(frozen=True)
class PublishedNumber:
    """One number of one printed table."""

    tracker: str
    """As printed."""
    variant: str
    """Which of the paper's settings; empty or with the word ``final``: the tracker itself."""
    dataset: str
    """keepsight's name, e.g. ``otb100``."""
    metric: str
    """Key as in ``Scores.values``: ``AUC``, ``P20``, ``NP20``, ``EAO``, ..."""
    value: float
    """Fraction of 1, except VOT's short-term ``R`` (100 × failures / frames)."""
    source: str
    """Who printed it."""
    place: str
    """Table or section."""
    rule: str
    """The convention behind it, a name of ``evaluation.score.rules()``."""
    attribute: str = ""
    """Attribute's full name if the number is over the sequences that have it; empty: all."""
    note: str = ""
    """What makes the comparison doubtful."""

    @property
    def is_final(self) -> bool:
        """Whether the number is the tracker's own, not one of an ablation."""
        return not self.variant or re.search(r"\bfinal\b", self.variant) is not None


@dataclass(frozen=True)
class PublishedRow:
    """All that one source prints about one tracker on one data set; a row of a table."""

    tracker: str
    source: str
    places: str
    rule: str
    values: dict[str, float] = field(default_factory=dict)
    """Metric -> value."""
    note: str = ""


def published(dataset: str, metric: str | None = None) -> list[PublishedNumber]:
    """What is printed about ``dataset`` (spelling does not matter: ``OTB-100`` is ``otb100``), in the papers' order.

    ``metric``: only that one. Unknown data sets have no numbers: the list is empty.
    """
    key = _key(dataset)
    return [n for n in _everything() if _key(n.dataset) == key and metric in (None, n.metric)]


def published_rows(dataset: str, metrics: Iterable[str]) -> list[PublishedRow]:
    """The trackers themselves, no ablations and no attributes: one row per tracker and source, best first metric first.

    ``dataset``: keepsight's exact name, since somebody's own folder may be called ``OTB-2015`` and hold anything.
    Where one source prints several numbers for the same thing the first stands in the row and ``note`` has the others.
    """
    metrics = tuple(metrics)
    found: dict[tuple[str, str], list[PublishedNumber]] = {}
    for number in _everything():
        if (
            number.dataset == _SAME_DATA.get(dataset, dataset)
            and number.metric in metrics
            and number.is_final
            and not number.attribute
        ):
            found.setdefault((number.tracker, number.source), []).append(number)
    rows = [_row(numbers) for numbers in found.values()]
    first = metrics[0] if metrics else ""
    return sorted(rows, key=lambda r: (-r.values.get(first, -1.0), r.tracker.lower(), r.source))


def _row(numbers: list[PublishedNumber]) -> PublishedRow:
    values: dict[str, float] = {}
    places: dict[str, None] = {}
    notes: dict[str, None] = {}
    for n in numbers:
        if n.metric not in values:
            values[n.metric] = n.value
            places[n.place] = None
        elif n.value != values[n.metric]:
            notes[f"{n.metric} {n.value:g} in {n.place}"] = None
        if n.note:
            notes[n.note] = None
    first = numbers[0]
    return PublishedRow(first.tracker, first.source, ", ".join(places), first.rule, values, "; ".join(notes))


def _key(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _ALIASES.get(plain, plain)


@lru_cache(maxsize=1)
def _everything() -> tuple[PublishedNumber, ...]:
    file = resources.files(__package__).joinpath("data/published.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(_number(row) for row in csv.DictReader(lines))


def _number(row: dict[str, str]) -> PublishedNumber:
    paper, key = row["paper"], _key(row["dataset"])
    rule = _RULES.get(key, "pytracking")
    notes = [row["note"], _RULE_NOTES.get(key, "")]
    if paper == "DuML" and rule == "pytracking":
        rule = "pysot"
        notes.append("pysot toolkit, very likely")
    if key == "uav123":
        notes.append(_UAV_NOTE)
    if not row["tracker"].lower().startswith(_OWN[paper]):
        notes.append("quoted there")
    return PublishedNumber(
        tracker=row["tracker"],
        variant=row["variant"],
        dataset=row["dataset"],
        metric=row["metric"],
        value=float(row["value"]),
        source=_SOURCES[paper],
        place=row["place"],
        rule=rule,
        attribute=row["attribute"],
        note="; ".join(n for n in notes if n),
    )
