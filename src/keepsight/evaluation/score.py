"""From runs to numbers: one table that says which function scores which convention.

Every number carries the name of its convention (spec/evaluation.md §13): two rules give two numbers for the same files,
and published tables mix them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..datasets.sequence import Sequence
from ..errors import InputError, nearest_names
from .runs import Run
from .scores import Scores

if TYPE_CHECKING:
    from ..datasets import Dataset


@dataclass(frozen=True)
class Rule:
    """One convention and the function that computes it."""

    name: str
    protocol: str
    """What the runs must be made by: ``ope``, ``supervised``, ``multistart``, ``longterm`` or ``vos``."""
    scorer: str
    """``module:function`` in this package."""
    summary: str
    """One sentence for tables and reports."""


_RULES = (
    Rule(
        "pytracking",
        "ope",
        "metrics:score_ope",
        "pytracking's analysis, behind ATOM's, PrDiMP's, KeepTrack's and RTS's tables: all frames count, AUC is the mean of "
        "21 rates (IoU > t), precision at 20 px, normalised precision at 0.20",
    ),
    Rule(
        "pytracking-valid",
        "ope",
        "metrics:score_ope",
        "pytracking's analysis with exclude_invalid_frames: frames without a valid ground truth do not count",
    ),
    Rule("otb", "ope", "metrics:score_ope", "the MATLAB code of OTB: bad predictions repeat the previous box"),
    Rule("lasot", "ope", "metrics:score_ope", "the MATLAB code of LaSOT: absent frames stay in the denominator"),
    Rule(
        "uav", "ope", "metrics:score_ope", "pytracking's analysis as for UAV123: frames without truth count as precise"
    ),
    Rule("pysot", "ope", "metrics:score_ope", "the pysot toolkit: continuous IoU, first frame as it is in the file"),
    Rule(
        "got10k-ope",
        "ope",
        "metrics:score_ope",
        "the got10k toolkit on OTB, NFS, UAV123 and LaSOT: frames without truth are removed on UAV123 only",
    ),
    Rule(
        "present",
        "ope",
        "metrics:score_ope",
        "keepsight's own: the first frame and frames without the target are left out, boxes are continuous rectangles",
    ),
    Rule(
        "trackingnet",
        "ope",
        "metrics:score_ope",
        "TrackingNet's metrics.py: integers, IoU >= t, all three numbers are areas under their curves",
    ),
    Rule(
        "got10k",
        "ope",
        "metrics:score_got10k",
        "GOT-10k: all frames pooled, first frame and frames with cover 0 excluded, boxes clipped to the image",
    ),
    Rule(
        "vot-supervised",
        "supervised",
        "vot:score_supervised",
        "the rules of the VOT MATLAB toolkit and of pysot, behind the published VOT2018 and VOT2019 numbers",
    ),
    Rule("vot-supervised-py", "supervised", "vot:score_supervised", "vot-toolkit 0.9 (Python) on supervised results"),
    Rule("vot-multistart", "multistart", "vot:score_multistart", "VOT2020 and later: a run from every anchor"),
    Rule("vot-lt", "longterm", "vot:score_longterm", "VOT long-term: precision, recall and F over 100 thresholds"),
    Rule("vot-lt-pysot", "longterm", "vot:score_longterm", "VOT long-term as the pysot toolkit computes it"),
    Rule("oxuva", "longterm", "oxuva:score_oxuva", "OxUvA: TPR and TNR pooled over tracks at IoU 0.5, MaxGM"),
    Rule(
        "davis2017", "vos", "vos:score_davis", "davis2017-evaluation: mean over objects, first and last frame left out"
    ),
    Rule("davis2016", "vos", "vos:score_davis", "DAVIS 2016: one object, recall over two frames fewer"),
    Rule(
        "youtubevos",
        "vos",
        "vos:score_youtubevos",
        "YouTube-VOS: seen and unseen categories; the server's code is not public",
    ),
)


def rules() -> tuple[Rule, ...]:
    """Every convention there is."""
    return _RULES


def find_rule(name: str) -> Rule:
    """The convention called ``name``. Raises :class:`InputError` with the nearest names."""
    for rule in _RULES:
        if rule.name == name:
            return rule
    raise InputError(f"there is no scoring rule {name!r}; {nearest_names(name, [r.name for r in _RULES])}")


def score(
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    dataset: str,
    rule: str,
    **options: Any,
) -> Scores:
    """Score one tracker on one data set under the convention ``rule``.

    ``runs[sequence.name]``: the repetitions (VOT2020: the anchors) of that sequence. ``options`` go to the rule's own
    function, e.g. ``keep_per_frame=True``. Only annotations are read, no frames.
    """
    entry = find_rule(rule)
    module, function = entry.scorer.split(":")
    scorer = getattr(import_module(f".{module}", __package__), function)
    scores: Scores = scorer(list(sequences), runs, tracker=tracker, dataset=dataset, rule=rule, **options)
    return scores


def score_dataset(
    dataset: Dataset,
    runs: Mapping[str, list[Run]],
    *,
    tracker: str,
    rule: str | None = None,
    notes: Iterable[str] = (),
    **options: Any,
) -> Scores:
    """:func:`score` of a whole data set, by its own rule unless another is named.

    Adds what the data set's folder tells: which sequences are missing (``Scores.notes``), and for YouTube-VOS which
    categories are seen in training (its ``train`` split says so). Raises :class:`HiddenTruthError` where only the
    benchmark's server can score.
    """
    name = rule or dataset.rule
    if name == "youtubevos" and "seen" not in options:
        options["seen"] = _seen(dataset)
    scores = score(dataset.values(), runs, tracker=tracker, dataset=dataset.name, rule=name, **options)
    return replace(scores, notes=tuple(dict.fromkeys((*dataset.notes, *notes, *scores.notes))))


def _seen(dataset: Dataset) -> dict[str, dict[int, bool]] | None:
    """Video -> object -> whether its category is in the training set; None where the training set is not there."""
    from ..datasets.youtube_vos import object_categories, seen_categories
    from .vos import seen_objects

    if not (dataset.root / "train" / "meta.json").is_file():
        return None
    split = dataset.name.partition(":")[2] or None
    return seen_objects(object_categories(dataset.root, split), seen_categories(dataset.root))
