"""Mask propagation with GrabCut: what a segmenting tracker has to beat, on the DAVIS and SegTrack sequences.

    python benchmarks/grabcut_baseline.py --json benchmarks/results/grabcut-baseline.json     # about a minute

Each frame, from the first frame's mask on, in a window around the last mask: the last mask is shifted as its pixels moved (the
median of DIS optical flow); what lies deep inside it is object, what lies far outside is background, and GrabCut (Rother et
al., SIGGRAPH 2004) cuts the band between by colour and edges, with the colour models of the first frame, where the mask is
known. Parts of the cut that do not touch the shifted mask are dropped, and a cut whose area jumps is refused for that mask.

``--variants`` runs other ways that were tried, too (five more minutes). The constants were chosen among a dozen on these very
sequences, which favours the baseline. J is the library's, by the rule of DAVIS 2016 (first and last frame do not count); the
mean is over sequences.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from provenance import provenance

import keepsight as ks
from keepsight.datasets import Sequence, open_dataset
from keepsight.evaluation.protocols import MaskArrays
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vos import score_davis

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "sequences"
FAMILIES = ("davis2016", "segtrackv2")
RULE = "davis2016"

Binary = npt.NDArray[np.uint8]
"""(H, W) of 0 and 1."""


@dataclass(frozen=True)
class GrabCutConfig:
    """How masks are carried on."""

    side: float = 120.0
    """The window is resized so that the square root of the object's area has this many pixels (never enlarged)."""
    margin: float = 0.8
    """Width of the window beyond the mask's box, in square roots of the mask's area."""
    motion: str = "shift"
    """How the last mask is carried into the frame: ``shift`` by the median of its pixels' flow, ``flow`` by each, ``none``."""
    inside: float = 0.09
    """Pixels farther inside the carried mask than this share of √area are object for certain."""
    outside: float = 0.18
    """Pixels farther outside are background for certain."""
    colours: str = "first"
    """Colour models: ``first`` frame's, kept; ``carried`` from frame to frame; ``frame``: made anew from the carried mask."""
    iterations: int = 1
    """Of GrabCut."""
    area_change: float = 1.6
    """A cut whose area differs from the carried mask's by more than this factor is refused."""


class GrabCutPropagation:
    """The state between frames: the last frame, its mask, the colour models."""

    def __init__(self, frame: np.ndarray, mask: np.ndarray, config: GrabCutConfig) -> None:
        self.config, self.frame = config, frame
        self.mask: Binary = (mask > 0).astype(np.uint8)
        self.background, self.foreground = np.zeros((1, 65)), np.zeros((1, 65))
        window, factor = self._window(self.mask)
        known = _shrunk(self.mask[window], factor, nearest=True)
        certain = np.where(known > 0, cv2.GC_FGD, cv2.GC_BGD).astype(np.uint8)
        if known.any() and not known.all():  # the models of this mask, no cut
            picture = _shrunk(frame[window], factor)
            cv2.grabCut(picture, certain, None, self.background, self.foreground, 0, cv2.GC_INIT_WITH_MASK)

    def update(self, frame: np.ndarray) -> Binary:
        """The mask in the next frame, (H, W) of 0 and 1. ``frame``: (H, W, 3) RGB."""
        if self.mask.any():
            window, factor = self._window(self.mask)
            before, after = (_shrunk(f[window], factor) for f in (self.frame, frame))
            carried = self._carried(before, after, _shrunk(self.mask[window], factor, nearest=True))
            cut = self._cut(after, carried)
            mask = np.zeros_like(self.mask)
            size = mask[window].shape[::-1]
            mask[window] = cv2.resize(cut.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
            self.mask = mask
        self.frame = frame
        return self.mask

    def _window(self, mask: Binary) -> tuple[tuple[slice, slice], float]:
        """Rows and columns around the mask, and the factor from there to the working size."""
        x, y, w, h = cv2.boundingRect(mask)
        length = max(float(mask.sum()) ** 0.5, 1.0)
        room = int(self.config.margin * length) + 8
        rows, columns = slice(max(y - room, 0), y + h + room), slice(max(x - room, 0), x + w + room)
        return (rows, columns), min(1.0, self.config.side / length)

    def _carried(self, before: np.ndarray, after: np.ndarray, mask: Binary) -> Binary:
        """The mask where its pixels went."""
        if self.config.motion == "none" or min(mask.shape) < 16:
            return mask
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (after, before)]
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        flow = search.calc(grey[0], grey[1], None)  # (h, w, 2): from each pixel of the new frame to the old one
        if self.config.motion == "shift":
            back = search.calc(grey[1], grey[0], None)
            flow = np.broadcast_to(-np.median(back[mask > 0], axis=0), flow.shape)
        y, x = np.mgrid[: mask.shape[0], : mask.shape[1]].astype(np.float32)
        moved = cv2.remap(mask.astype(np.float32), x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        return (moved > 0.5).astype(np.uint8)

    def _cut(self, picture: np.ndarray, carried: Binary) -> Binary:
        """GrabCut in the band around the carried mask's edge."""
        c, area = self.config, int(carried.sum())
        if not area:
            return carried
        length = area**0.5
        depth = cv2.distanceTransform(np.pad(carried, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        away = cv2.distanceTransform(1 - carried, cv2.DIST_L2, 5)
        trimap = np.where(carried > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        trimap[depth > max(c.inside * length, 1.5)] = cv2.GC_FGD
        trimap[away > max(c.outside * length, 2.0)] = cv2.GC_BGD
        models = (self.background, self.foreground)
        mode = {"first": cv2.GC_EVAL_FREEZE_MODEL, "carried": cv2.GC_EVAL, "frame": cv2.GC_INIT_WITH_MASK}[c.colours]
        if c.colours == "frame":
            models = (np.zeros((1, 65)), np.zeros((1, 65)))
        if not (trimap & 1).any() or (trimap & 1).all() or not self.foreground.any():
            return carried
        cv2.grabCut(picture, trimap, None, *models, c.iterations, mode)
        cut = _touching((trimap & 1).astype(np.uint8), carried)
        is_sound = area / c.area_change < int(cut.sum()) < area * c.area_change
        return cut if is_sound else carried


def _shrunk(image: np.ndarray, factor: float, nearest: bool = False) -> np.ndarray:
    if factor >= 1:
        return np.ascontiguousarray(image)
    size = tuple(max(1, round(n * factor)) for n in image.shape[1::-1])
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=how))


def _touching(cut: Binary, carried: Binary) -> Binary:
    """The connected parts of ``cut`` that hold pixels of ``carried``."""
    _, parts = cv2.connectedComponents(cut)
    kept = np.unique(parts[(carried > 0) & (cut > 0)])
    return np.isin(parts, kept[kept > 0]).astype(np.uint8)


def propagate(sequence: Sequence, config: GrabCutConfig) -> Run:
    """Masks of every frame from the first one's."""
    masks, seconds = list(_masks(sequence, config)), np.full(len(sequence), np.nan)
    seconds[:] = [spent for _, spent in masks]
    return Run(np.full((len(masks), 4), np.nan), seconds=seconds, masks=MaskArrays(mask for mask, _ in masks))


def _masks(sequence: Sequence, config: GrabCutConfig) -> Iterator[tuple[Binary, float]]:
    truths = sequence.annotation.masks
    first = truths[0] if truths is not None else None
    if first is None:
        raise SystemExit(f"{sequence.name} has no mask in its first frame")
    propagation: GrabCutPropagation | None = None
    for frame in sequence.frames:
        start = time.perf_counter()
        if propagation is None:
            propagation = GrabCutPropagation(frame, first, config)
            mask = propagation.mask
        else:
            mask = propagation.update(frame)
        yield mask, time.perf_counter() - start


VARIANTS = {
    "GrabCut": GrabCutConfig(),
    "flow instead of a shift": GrabCutConfig(motion="flow"),
    "no motion": GrabCutConfig(motion="none"),
    "wider band": GrabCutConfig(inside=0.12, outside=0.25),
    "narrower band": GrabCutConfig(inside=0.06, outside=0.12),
    "colours carried on": GrabCutConfig(colours="carried"),
    "colours of each frame": GrabCutConfig(colours="frame"),
}
"""The first one is the baseline."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with davis2016 and segtrackv2")
    parser.add_argument("--variants", action="store_true", help="also the other ways that were tried")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)  # k-means begins the colour models
    sequences = [(f, s) for f in FAMILIES for s in open_dataset("folder", root=args.data / f).values()]
    made = provenance() | {"keepsight": ks.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
    made["command"] = " ".join(["python", "benchmarks/grabcut_baseline.py", *sys.argv[1:]])
    made["load average"] = " ".join(f"{v:.1f}" for v in os.getloadavg())
    report: dict[str, object] = {"provenance": made, "rule": RULE, "threads": 1}
    results: dict[str, object] = {}
    for name, config in VARIANTS.items() if args.variants else list(VARIANTS.items())[:1]:
        runs = {s.name: [propagate(s, config)] for _, s in sequences}
        scores = score_davis([s for _, s in sequences], runs, tracker="grabcut", dataset="mask sequences", rule=RULE)
        rows = {
            f"{family}/{s.name}": {"frames": s.frames, "J": s.values["J"], "F": s.values["F"]}
            for (family, _), s in zip(sequences, scores.sequences, strict=True)
        }
        mean = {metric: float(np.mean([row[metric] for row in rows.values()])) for metric in ("J", "F")}
        spent = float(np.nanmean(np.concatenate([r[0].seconds[1:] for r in runs.values() if r[0].seconds is not None])))
        results[name] = {"config": asdict(config), "mean": mean, "milliseconds": 1e3 * spent, "sequences": rows}
        for key, row in rows.items() if config == GrabCutConfig() else ():
            print(f"{key:30s} {row['frames']:4d} frames   J {100 * row['J']:5.1f}   F {100 * row['F']:5.1f}")
        print(
            f"{name:30s} mean of {len(rows)}   J {100 * mean['J']:5.1f}   F {100 * mean['F']:5.1f}   {1e3 * spent:.0f} ms"
        )
    report["results"] = results
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
