"""Online traces played again: the stored draws, the reference's parameter names, the loop over the frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from golden_rules import golden_folder
from torch import Tensor

from keepsight.online.state import Result
from keepsight.trackers.base import Tracker


def traces(*trackers: str) -> list[str]:
    """Names of the golden traces of these trackers."""
    folder = golden_folder() / "net"
    files = sorted(folder.glob("trace_*.npz"))
    cases = json.loads((folder / "cases.json").read_text())["traces"] if files else {}
    return [p.name for p in files if cases[p.name]["tracker"] in trackers]


class Replay:
    """Hands out the stored draws in order."""

    def __init__(self, data: Any) -> None:
        self.draws = [data[k] for k in sorted(k for k in data.files if k.startswith("rnd"))]
        self.next = 0

    def _take(self, *shape: int) -> Tensor:
        draw = self.draws[self.next]
        self.next += 1
        assert draw.shape == shape, f"draw {self.next - 1} has shape {draw.shape}, asked for {shape}"
        return torch.from_numpy(draw)

    def uniform(self, *shape: int) -> Tensor:
        return self._take(*shape)

    def normal(self, *shape: int, deviation: float = 1.0) -> Tensor:
        """Stored with their deviation."""
        return self._take(*shape)

    def keep_channels(self, copies: int, channels: int, drop: float) -> Tensor:
        return self._take(copies, channels)


def recorded(kind: type) -> type:
    """The tracker ``kind`` that plays stored draws and keeps what the golden files hold; made with ``draws``."""

    class Recorded(kind):
        def __init__(self, *args: Any, draws: Replay, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.draws = draws
            self.raw: list[np.ndarray] = []
            self.boxes: list[np.ndarray] = []
            self.values: list[np.ndarray] = []

        def _random_source(self, index: int) -> Replay:
            return self.draws

        def _observe(self, raw_scores: Tensor, outcomes: Any) -> None:
            self.raw.append(raw_scores[0].reshape(raw_scores.shape[-2:]).numpy().copy())

        def _observe_boxes(self, boxes: Tensor, values: Tensor) -> None:
            self.boxes.append(boxes.numpy().copy())
            self.values.append(values.numpy().copy())

    return Recorded


# the reference's parameter names -> where our settings hold them, the same in all families
OVERRIDES = {
    "dropout": "augmentation.dropout", "random_shift_factor": "augmentation.random_shift_factor",
    "augmentation_expansion_factor": "augmentation.expansion_factor", "num_init_random_boxes": "refine.random_boxes",
    "box_jitter_pos": "refine.jitter_position", "box_jitter_sz": "refine.jitter_size", "iounet_k": "refine.top_k",
    "box_refinement_iter": "refine.iterations", "box_refinement_step_length": "refine.step",
    "box_refinement_step_decay": "refine.step_decay", "box_refinement_space": "refine.space",
    "maximal_aspect_ratio": "refine.max_aspect", "sample_memory_size": "memory.size",
    "learning_rate": "memory.learning_rate", "hard_negative_learning_rate": "memory.hard_negative_learning_rate",
    "init_samples_minimum_weight": "memory.min_init_weight", "train_skipping": "train_skipping",
    "search_area_scale": "search_area_scale", "image_sample_size": "sample_size", "border_mode": "crop.border_mode",
    "patch_max_scale_change": "crop.max_scale_change",
    "update_scale_when_uncertain": "update_scale_when_uncertain", "window_output": "localisation.window",
    "perform_hn_without_windowing": "localisation.window_hard_negatives", "score_preprocess": "localisation.score_preprocess",
    "target_not_found_threshold": "localisation.target_not_found", "distractor_threshold": "localisation.distractor",
    "hard_negative_threshold": "localisation.hard_negative", "uncertain_threshold": "localisation.uncertain",
    "hard_sample_threshold": "localisation.hard_sample", "dispalcement_scale": "localisation.displacement_scale",
    "displacement_scale": "localisation.displacement_scale", "advanced_localization": "localisation.advanced",
    "target_neighborhood_scale": "localisation.neighbourhood_scale",
}  # fmt: skip


def overridden(config: Any, overrides: dict[str, Any], names: dict[str, str]) -> Any:
    """The settings of a trace: ``names`` says where the family holds a parameter of the reference, as "part.field"."""
    for key, value in {**overrides, "patch arithmetic": "float"}.items():
        path = "crop.patch_arithmetic" if key == "patch arithmetic" else names[key]
        config = _changed(config, path.split("."), tuple(value) if isinstance(value, list) else value)
    return config


def _changed(config: Any, path: list[str], value: Any) -> Any:
    if len(path) > 1:
        value = _changed(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})


@dataclass
class Played:
    """One trace played by one tracker."""

    data: Any
    """What the golden file holds."""
    tracker: Any
    """After the last frame."""
    first: Any
    """What ``note`` took from the target after the first frame."""
    results: list[Result] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    positions: list[tuple[float, float]] = field(default_factory=list)


def play(
    golden: Path, name: str, make: Callable[[dict[str, Any], Replay], Tracker[Any]], note: Callable[[Any], Any]
) -> Played:
    """Run the trace ``name``: ``make`` builds the tracker of its case, ``note`` copies what matters of the first frame."""
    data = np.load(golden / "net" / name)
    case = json.loads((golden / "net" / "cases.json").read_text())["traces"][name]
    tracker = make(case, Replay(data))
    files = sorted((golden / "net" / case["video"]).glob("*.png"))[: case["frames"]]
    frames = [cv2.imread(str(f))[:, :, ::-1] for f in files]  # type: ignore[index]
    tracker.init(frames[0], box=data["init_bbox"].tolist())
    played = Played(data, tracker, note(tracker._current().targets[0]))
    for frame in frames[1:]:
        played.results.append(tracker.update(frame))
        target = tracker._current().targets[0]
        played.scales.append(target.scale)
        played.positions.append(target.pos)
    return played
