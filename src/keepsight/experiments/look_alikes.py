"""Does association keep the target among look-alikes that cross it? Mayer et al., KeepTrack (ICCV 2021).

Each video shows a target and one to three objects of its outline and colours, some of them its exact twins, that cross it or
pass close by, in front of it or behind; places and identities are known exactly. Four trackers with the same features and the
same settings follow the target: the base tracker, the association network on it, and the network replaced by two rules, which
match candidates by position or by rank of the score. A video is tracked with the seed it was made with, and all are different.
"""

from __future__ import annotations

import copy
import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..boxes import Box, iou
from ..datasets.procedural import Picture, blob_outline, spotted_object, stony_ground
from ..errors import InputError
from ..evaluation.statistics import bootstrap_interval, paired_comparison
from ..models.keeptrack import KeepTrackNet, lite_config
from ..nn.association import Candidates, Matches
from ..text import write_atomically
from ..trackers.base import Tracker
from ..trackers.keeptrack import Follower, KeepTrackLiteTracker
from ..trackers.registry import RANDOM, load

RUNS, SUMMARY = "runs.csv", "summary.json"
BASE, KEPT, POSITION, RANK = "dimp-lite", "keeptrack-lite", "by position", "by score rank"

_COLUMNS = ("seed", "video", "look_alikes", "tracker", "frames", "on_target", "on_look_alike", "elsewhere", "switches")
_SHARES = ("on_target", "on_look_alike", "elsewhere")
_DRAW = 0x100C  # of these videos' random draws, which no training video has


@dataclass(frozen=True)
class LookAlikesConfig:
    """What is shown and how often. Lengths are pixels, times frames."""

    seeds: int = 5
    """Groups of videos; the seed is that of the tracker too."""
    videos: int = 4
    """Per seed, all different."""
    frames: int = 150
    """Of a video."""
    size: tuple[int, int] = (320, 240)
    """(width, height)"""
    side: int = 40
    """Longer side of the objects, about."""
    look_alikes: tuple[int, int] = (1, 3)
    """Fewest and most in a video; each meets the target at a time of its own."""
    twins: float = 0.5
    """Chance that a look-alike has the target's very picture; else it has other spots in the same colours."""
    gap: tuple[float, float] = (0.8, 1.5)
    """Smallest distance of a look-alike's centre from the target's in the whole video, in sides of the object: drawn between
    these. Below about 1 one hides a part of the other; far below, their peaks are one, and no association can tell them apart."""
    speed: tuple[float, float] = (1.0, 3.5)
    """Of a look-alike, pixels per frame. It goes straight and turns back at the frame's border."""
    noise: float = 4.0
    """Standard deviation of the sensor noise, grey levels."""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("videos", 1), ("frames", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give at least {least}")


# --- the videos -------------------------------------------------------------------------------------------------------------


class CrossingVideo:
    """A target and its look-alikes; ``video[i]`` renders frame i, (H, W, 3) uint8."""

    def __init__(self, config: LookAlikesConfig, seed: int, number: int) -> None:
        self.config, self.key = config, (_DRAW, seed, number)
        plan, ground, shape, *spots = (
            np.random.default_rng(s) for s in np.random.SeedSequence(self.key).spawn(4 + config.look_alikes[1])
        )
        width, height = config.size
        hue, outline = float(plan.uniform(0, 180)), blob_outline(shape)
        self._ground = stony_ground(ground, width, height, 0.0, (hue + 75) % 180)
        pictures = [_shrunk(spotted_object(rng, outline, hue), config.side) for rng in spots]
        self._picture, count = pictures[0], int(plan.integers(config.look_alikes[0], config.look_alikes[1] + 1))
        self._others = [pictures[0] if plan.random() < config.twins else p for p in pictures[1 : 1 + count]]
        self._behind = [bool(plan.random() < 0.5) for _ in self._others]
        self._drift = plan.uniform(-1, 1, 2)  # way of the camera, in shares of the spare ground
        path = _target_path(plan, config)
        paths = [_passing_path(plan, config, path) for _ in self._others]
        bounds = _bounds(self._picture)
        self.boxes = _boxes(path, bounds)
        """(N, 4) x, y, w, h of the target."""
        self.others = np.stack([_boxes(p, _bounds(s)) for p, s in zip(paths, self._others, strict=True)])
        """(K, N, 4) of the look-alikes."""
        self._paths = path, paths

    def __len__(self) -> int:
        return self.config.frames

    def __getitem__(self, index: int) -> np.ndarray:
        width, height = self.config.size
        share = self._drift * (index / (len(self) - 1) - 0.5)
        spare = np.array([self._ground.shape[1] - width, self._ground.shape[0] - height])
        left, top = spare * (0.5 + share)
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top]])
        image: np.ndarray = cv2.warpAffine(self._ground, shift, (width, height)).astype(np.float32)
        path, paths = self._paths
        placed = list(zip(self._others, paths, self._behind, strict=True))
        order = [(s, p) for s, p, behind in placed if behind]
        order += [(self._picture, path), *((s, p) for s, p, behind in placed if not behind)]
        for picture, way in order:
            _paste(image, picture, way[index])
        image = cv2.GaussianBlur(image, (0, 0), 0.6)
        np.add(image, np.random.default_rng((*self.key, index)).normal(0, self.config.noise, image.shape), out=image)
        return np.clip(image, 0, 255).round().astype(np.uint8)


def _shrunk(picture: Picture, side: int) -> Picture:
    size = (side, side)
    colour, alpha = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (picture.colour, picture.alpha))
    return Picture(colour, alpha)


def _bounds(picture: Picture) -> np.ndarray:
    """(4,) x, y, w, h of the object's pixels, from its picture's middle."""
    rows, cols = (np.flatnonzero((picture.alpha > 0.5).any(axis=axis)) for axis in (1, 0))
    half = len(picture.alpha) / 2
    return np.array([cols[0] - half, rows[0] - half, cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1])


def _boxes(path: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    return np.concatenate([path + bounds[:2], np.broadcast_to(bounds[2:], path.shape)], axis=1)


def _target_path(rng: np.random.Generator, config: LookAlikesConfig) -> np.ndarray:
    """(N, 2) centres x, y: two slow waves across the frame's middle."""
    t = np.arange(config.frames)[:, None]
    periods, phases = rng.uniform(120, 240, 2), rng.uniform(0, 2 * math.pi, 2)
    middle = np.array(config.size) / 2
    return middle + 0.3 * np.array(config.size) * np.sin(2 * math.pi * t / periods + phases)


def _passing_path(rng: np.random.Generator, config: LookAlikesConfig, target: np.ndarray) -> np.ndarray:
    """(N, 2) centres of a look-alike that passes the target at the smallest distance that was asked for; as near as could be
    drawn where there is no such way. In the first frame it is not upon the target."""
    t, best, least = np.arange(config.frames)[:, None], target, math.inf
    low, high = np.full(2, config.side / 2), np.array(config.size) - config.side / 2
    gap = rng.uniform(*config.gap)
    for _ in range(2000):
        meeting = int(rng.uniform(0.15, 0.9) * config.frames)
        way, towards = rng.uniform(0, 2 * math.pi, 2)
        place = target[meeting] + gap * config.side * _direction(towards)
        line = place + rng.uniform(*config.speed) * _direction(way) * (t - meeting)
        path = high - np.abs((line - low) % (2 * (high - low)) - (high - low))  # turned back at the border
        apart = np.hypot(*(path - target).T) / config.side  # (N,)
        off = abs(float(apart.min()) - gap) + max(0.0, 1.5 - float(apart[0]))
        if off < least:
            best, least = path, off
        if off < 0.1:
            break
    return best


def _direction(angle: float) -> np.ndarray:
    return np.array([math.cos(angle), math.sin(angle)])


def _paste(image: np.ndarray, picture: Picture, centre: np.ndarray) -> None:
    """Blend ``picture`` over ``image`` (H, W, 3) float32 in place, with its middle at ``centre``."""
    side = len(picture.alpha) + 1
    corner = centre - (side - 1) / 2
    left, top = (int(v) for v in np.floor(corner))
    fraction = corner - (left, top)
    shift = np.array([[1.0, 0.0, fraction[0]], [0.0, 1.0, fraction[1]]])
    colour = cv2.warpAffine(picture.colour, shift, (side, side), borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(picture.alpha, shift, (side, side))[..., None]
    x0, y0 = max(0, -left), max(0, -top)
    area = image[top + y0 : top + side, left + x0 : left + side]
    inside = (slice(y0, y0 + area.shape[0]), slice(x0, x0 + area.shape[1]))
    area += alpha[inside] * (colour[inside] - area)


# --- the trackers -----------------------------------------------------------------------------------------------------------


class RuleMatcher(KeepTrackNet, ABC):
    """In the network's place: matches candidates without looking at them, each match with probability 1."""

    def __init__(self) -> None:
        super().__init__(replace(lite_config(), backbone=None))

    def describe(self, features: Tensor, cells: Tensor) -> Tensor:
        return features.new_zeros(*cells.shape[:2], 0)

    def match(
        self, previous: Candidates, current: Candidates, image_size: Tensor | Sequence[float]
    ) -> tuple[Matches, Tensor]:
        chosen = self.choose(
            previous.points[0].cpu(), current.points[0].cpu()
        )  # (M, N) bool, at most one per row, column
        partners = [torch.where(c.any(dim=1), c.long().argmax(dim=1), -1)[None] for c in (chosen, chosen.T)]
        sure = [(p >= 0).float() for p in partners]
        return Matches(partners[0], partners[1], sure[0], sure[1]), chosen.float()[None]

    @abstractmethod
    def choose(self, before: Tensor, now: Tensor) -> Tensor:
        """Pairs of candidates at ``before`` (M, 2) and ``now`` (N, 2), both by falling score -> (M, N) bool."""


class PositionMatcher(RuleMatcher):
    """Those that are each other's nearest."""

    def choose(self, before: Tensor, now: Tensor) -> Tensor:
        apart = torch.cdist(before, now)  # (M, N)
        mine, theirs = (torch.zeros_like(apart, dtype=torch.bool) for _ in range(2))
        mine[torch.arange(len(before)), apart.argmin(dim=1)] = True
        theirs[apart.argmin(dim=0), torch.arange(len(now))] = True
        return mine & theirs


class RankMatcher(RuleMatcher):
    """The best with the best, the second with the second."""

    def choose(self, before: Tensor, now: Tensor) -> Tensor:
        return torch.eye(len(before), len(now), dtype=torch.bool)


def with_matcher(tracker: KeepTrackLiteTracker, matcher: KeepTrackNet, name: str) -> KeepTrackLiteTracker:
    """A copy of ``tracker`` that matches in another way; the network that scores is shared."""
    other = copy.copy(tracker)
    other.name, other.matcher_config = name, matcher.config
    other.follower = Follower(tracker.follower.config, matcher.eval(), tracker.follower.cell, tracker.device)
    return other


def load_trackers(matcher: str | None = None, device: str = "auto") -> dict[str, Tracker[Any]]:
    """The four trackers by name. ``matcher``: file of the association network; None: keeptrack-lite's own; ``"random"``:
    not trained.

    Raises what :func:`keepsight.load` raises.
    """
    base, kept = load(BASE, device=device), load(KEPT, weights=matcher, device=device)
    assert isinstance(kept, KeepTrackLiteTracker)
    if matcher == RANDOM:
        kept.net = base.net  # type: ignore[attr-defined]  # only the matcher is to be random
    rules = {POSITION: PositionMatcher(), RANK: RankMatcher()}
    return {BASE: base, KEPT: kept} | {name: with_matcher(kept, rule, name) for name, rule in rules.items()}


# --- the experiment ---------------------------------------------------------------------------------------------------------


def judge(boxes: np.ndarray, target: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Shares of frames by what the tracker's box (N, 4) overlaps by half or more: the target (N, 4), or else a look-alike
    (K, N, 4). ``switches``: how often it was on a look-alike in a frame after it had last been on the target."""
    found, own, foreign = (torch.as_tensor(b, dtype=torch.float64) for b in (boxes, target, others))
    with_target, with_other = iou(found, own), iou(found[None], foreign).amax(dim=0)  # (N,)
    on_target = (with_target >= 0.5) & (with_target >= with_other)
    on_other = (with_other >= 0.5) & ~on_target
    switches, state = 0, True
    for mine, theirs in zip(on_target.tolist(), on_other.tolist(), strict=True):
        switches += state and theirs
        state = mine or (state and not theirs)
    shares = float(on_target.double().mean()), float(on_other.double().mean())
    rest = float((~on_target & ~on_other).double().mean())
    return {**dict(zip(_SHARES, (*shares, rest), strict=True)), "switches": int(switches)}


def follow(tracker: Tracker[Any], frames: Sequence[np.ndarray], box: Sequence[float]) -> np.ndarray:
    """Boxes (N - 1, 4) of the frames after the first."""
    tracker.init(frames[0], Box(*(float(v) for v in box)))
    return np.array([tracker.update(frame).box_unclipped for frame in frames[1:]])


@dataclass
class LookAlikes:
    """The experiment: ``run`` writes ``runs.csv`` as it goes, then ``summary.json``."""

    trackers: Mapping[str, Tracker[Any]]
    out: Path
    """Folder, which exists."""
    config: LookAlikesConfig = LookAlikesConfig()
    tell: Callable[[str], object] = lambda _: None
    """Called with a line of news now and then."""
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)

    def run(self) -> dict[str, Any]:
        """Track, write, and return what ``summary.json`` says. What was tracked before an interruption stays in ``runs.csv``."""
        config = self.config
        (self.out / SUMMARY).unlink(missing_ok=True)  # of a run before
        with (self.out / RUNS).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            for seed in range(config.seeds):
                for number in range(config.videos):
                    rows = self._track(seed, number)
                    self.rows += rows
                    writer.writerows(rows)
                    file.flush()
                    shares = ", ".join(f"{r['tracker']} {100 * r['on_target']:.1f}" for r in rows)
                    self.tell(f"seed {seed}, video {number + 1} of {config.videos}: on the target in % {shares}")
        summary = self.summary()
        write_atomically(self.out / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return summary

    def _track(self, seed: int, number: int) -> list[dict[str, Any]]:
        video = CrossingVideo(self.config, seed, number)
        frames = [video[i] for i in range(len(video))]
        rows = []
        for name, tracker in self.trackers.items():
            tracker.seed = seed
            found = judge(follow(tracker, frames, video.boxes[0]), video.boxes[1:], video.others[:, 1:])
            known = {"seed": seed, "video": number, "look_alikes": len(video.others), "frames": len(video) - 1}
            rows.append({**known, "tracker": name, **found})
        return rows

    def values(self, tracker: str, column: str) -> np.ndarray:
        """(seeds, videos)"""
        own = [row[column] for row in self.rows if row["tracker"] == tracker]
        return np.array(own, np.float64).reshape(self.config.seeds, self.config.videos)

    def summary(self) -> dict[str, Any]:
        """Means over all videos with 95 % bootstrap intervals over videos, and the network's lead on the other three."""
        results = {}
        for name in self.trackers:
            parts = {column: self.values(name, column) for column in (*_SHARES, "switches")}
            results[name] = {
                **{column: float(v.mean()) for column, v in parts.items()},
                "on_target_interval": _ends(bootstrap_interval(parts["on_target"].ravel())),
                "on_target_of_seeds": parts["on_target"].mean(axis=1).tolist(),
                "on_look_alike_of_seeds": parts["on_look_alike"].mean(axis=1).tolist(),
            }
        return {
            "keepsight": __version__,
            "config": asdict(self.config),
            "results": results,
            "lead": {n: self._lead(n) for n in self.trackers if n != KEPT},
        }

    def _lead(self, other: str) -> dict[str, Any]:
        """Of the network on another tracker, video by video."""
        lead: dict[str, Any] = {}
        for column in ("on_target", "on_look_alike"):
            mine, theirs = self.values(KEPT, column), self.values(other, column)
            is_better = column == "on_target"
            found = paired_comparison(mine.ravel(), theirs.ravel(), higher_is_better=is_better, metric=column)
            lead[column] = {
                "difference": found.difference, "interval": _ends(found.interval), "p_value": found.p_value,
                "wins": found.wins, "ties": found.ties, "losses": found.losses,
                "of_seeds": (mine - theirs).mean(axis=1).tolist(),
            }  # fmt: skip
        return lead


def _ends(interval: Sequence[float] | np.ndarray) -> list[float] | None:
    """None for too few videos."""
    low, high = (float(v) for v in interval)
    return None if math.isnan(low) else [low, high]


# --- words ------------------------------------------------------------------------------------------------------------------


def table(summary: Mapping[str, Any]) -> list[str]:
    """The results as lines to print."""
    head = ("on the target", "on a look-alike", "elsewhere", "switches a video", "seeds, on the target")
    lines = [f"{'% of frames':<16}" + "  ".join(head)]
    for name, row in summary["results"].items():
        cells = [f"{100 * row[column]:.1f}" for column in _SHARES] + [f"{row['switches']:.2f}"]
        lines.append(
            f"{name:<16}"
            + "  ".join(f"{cell:>{len(h)}}" for cell, h in zip(cells, head, strict=False))
            + "  "
            + " ".join(f"{100 * v:.1f}" for v in row["on_target_of_seeds"])
        )
    return lines


def describe(summary: Mapping[str, Any]) -> list[str]:
    """The differences as lines to print."""
    lines = []
    for other, lead in summary["lead"].items():
        row = lead["on_target"]
        ends = row["interval"]
        interval = "" if ends is None else f" (95 %: {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"
        lines.append(
            f"{KEPT} - {other}: on the target {100 * row['difference']:+.1f}{interval}, better in {row['wins']}, "
            f"equal in {row['ties']}, worse in {row['losses']} videos, p = {row['p_value']:.2g}; "
            f"on a look-alike {100 * lead['on_look_alike']['difference']:+.1f}"
        )
    return lines
