"""Scores out of thin air, with the shape of real ones: for tests of tables, plots and pages. The numbers mean nothing."""

from __future__ import annotations

import numpy as np

from keepsight.evaluation.scores import Curve, Metric, Scores, SequenceScore

METRICS = (
    Metric("AUC", "Success (AUC)"),
    Metric("P20", "Precision (20 px)"),
    Metric("NP20", "Normalised precision (0.20)"),
)
VOT_METRICS = (
    Metric("EAO", "Expected average overlap", factor=1.0, digits=3),
    Metric("A", "Accuracy", factor=1.0, digits=3),
    Metric("R", "Robustness", factor=1.0, digits=3, higher_is_better=False),
)
ATTRIBUTES = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
NAMES = (
    "KeepTrack",
    "SuperDiMP",
    "PrDiMP50",
    "PrDiMP18",
    "DiMP50",
    "DiMP18",
    "ATOM",
    "SiamRPN++",
    "dimp-lite",
    "CSRT",
)


def names(count: int) -> tuple[str, ...]:
    return tuple(NAMES[i % len(NAMES)] + (f" v{i // len(NAMES) + 1}" if i >= len(NAMES) else "") for i in range(count))


def ope_scores(
    tracker: str = "dimp-lite",
    *,
    dataset: str = "lasot",
    rule: str = "pytracking",
    sequences: int = 280,
    frames: int = 2500,
    skill: float = 0.6,
    seed: int = 0,
    attributes: tuple[str, ...] = ATTRIBUTES,
    keep_per_frame: bool = False,
    lost: int = 0,
    notes: tuple[str, ...] = (),
) -> Scores:
    """One tracker on a LaSOT-like data set; ``skill`` is about its AUC."""
    rng = np.random.default_rng(seed)
    overlap = np.linspace(0, 1, 21)
    pixels, shares = np.arange(51.0), np.linspace(0, 0.5, 51)
    level = np.clip(rng.normal(skill, 0.18, sequences), 0.02, 0.93)  # (S,)
    success = 1 / (1 + np.exp((overlap[None] - level[:, None]) * 12))  # (S, 21)
    precision = 1 - np.exp(-pixels[None] * level[:, None] ** 2 / 8)  # (S, 51)
    normalised = 1 - np.exp(-shares[None] * 12 * level[:, None])  # (S, 51)
    parts = []
    for i in range(sequences):
        values = {"AUC": success[i].mean(), "P20": precision[i, 20], "NP20": normalised[i, 20]}
        per_frame = {"overlap": rng.uniform(0, 2 * level[i], frames).clip(0, 1)} if keep_per_frame else {}
        parts.append(
            SequenceScore(
                f"class{i // 4}-{i % 4 + 1}",
                frames,
                {k: float(v) for k, v in values.items()},
                {"success": success[i], "precision": precision[i], "norm_precision": normalised[i]},
                per_frame,
                lost=i < lost,
            )
        )
    values = {name: float(np.mean([p.values[name] for p in parts])) for name in ("AUC", "P20", "NP20")}
    by_attribute = {
        name: {m: float(np.clip(v * rng.uniform(0.75, 1.1), 0, 1)) for m, v in values.items()} for name in attributes
    }
    return Scores(
        tracker,
        dataset,
        rule,
        METRICS,
        values,
        tuple(parts),
        {
            "success": Curve(overlap, success.mean(axis=0), "Overlap threshold", "Success rate", "AUC"),
            "precision": Curve(pixels, precision.mean(axis=0), "Location error threshold [px]", "Precision", "P20"),
            "norm_precision": Curve(
                shares, normalised.mean(axis=0), "Normalised location error threshold", "Normalised precision", "NP20"
            ),
        },
        by_attribute,
        {name: int(rng.integers(10, 180)) for name in attributes},
        {name: (v - 0.021, v + 0.02) for name, v in values.items()},
        repetitions=1,
        fps=float(rng.uniform(5, 80)),
        notes=notes,
    )


def many(trackers: int = 10, sequences: int = 280, **options: object) -> list[Scores]:
    """The largest report that the issue speaks of."""
    return [
        ope_scores(name, sequences=sequences, skill=0.68 - 0.03 * i, seed=i, **options)  # type: ignore[arg-type]
        for i, name in enumerate(names(trackers))
    ]


def vot_scores(tracker: str, *, skill: float = 0.4, sequences: int = 60, seed: int = 0) -> Scores:
    """One tracker on VOT2018, supervised."""
    rng = np.random.default_rng(seed)
    length = np.arange(1.0, 501.0)
    curve = skill * 0.7 + (1 - skill * 0.7) * np.exp(-length / (60 + 200 * skill))
    parts = tuple(
        SequenceScore(
            f"vot{i:02d}", 300, {"A": float(rng.uniform(0.3, 0.8)), "R": float(rng.uniform(0, 1)), "EAO": float("nan")}
        )
        for i in range(sequences)
    )
    values = {"EAO": skill, "A": 0.5 + 0.2 * skill, "R": float(0.6 * (1 - skill) ** 2)}
    tags = ("camera_motion", "illum_change", "motion_change", "occlusion", "size_change")
    return Scores(
        tracker,
        "vot2018",
        "vot-supervised",
        VOT_METRICS,
        values,
        parts,
        {"eao": Curve(length, curve, "Sequence length [frames]", "Expected average overlap", "EAO")},
        {
            t: {"A": values["A"] * rng.uniform(0.8, 1.1), "R": values["R"], "EAO": skill * rng.uniform(0.6, 1.2)}
            for t in tags
        },
        dict.fromkeys(tags, 3000),
        repetitions=15,
        fps=20.0,
    )


def longterm_scores(tracker: str, *, skill: float = 0.6, seed: int = 0) -> Scores:
    """One tracker on VOT-LT 2019."""
    threshold = np.linspace(0, 1, 100)
    recall = skill * 1.2 * (1 - threshold**3)
    precision = np.clip(skill * (0.9 + 0.6 * threshold), 0, 1)
    metrics = (Metric("F", "F-score"), Metric("Pr", "Precision"), Metric("Re", "Recall"))
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    k = int(f.argmax())
    values = {"F": float(f[k]), "Pr": float(precision[k]), "Re": float(recall[k])}
    parts = tuple(SequenceScore(f"lt{i}", 4000, {}) for i in range(50))
    curves = {"precision_recall": Curve(recall, precision, "Recall", "Precision", "F")}
    return Scores(tracker, "votlt2019", "vot-lt", metrics, values, parts, curves)
