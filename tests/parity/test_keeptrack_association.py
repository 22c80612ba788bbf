"""KeepTrack's bookkeeping on the scripted sequences of net/keeptrack_association.npz: no network, no images.

The loop below puts the parts together as spec/keeptrack-rts-lwl.md §3.3 to 3.7 says; what a network would have answered (score
maps, matches, refined scales) is read from the file. Each rule is also changed, and some sequence must then disagree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from golden_rules import arrays

from keepsight.nn.association import find_candidates, image_points, normalise_points
from keepsight.nn.correlation import Samples
from keepsight.online.candidates import (
    AssociationRules,
    CandidateState,
    associate,
    certainty,
    match_is_certain,
    start,
)
from keepsight.online.localise import HARD_NEGATIVE, NORMAL, NOT_FOUND, LocalisationConfig, localise
from keepsight.online.memory import MemoryConfig, SampleMemory
from keepsight.online.search import RescaleConfig, ScaleHistory, View, clamp_position, initial_scale

# the setting that net/README.md describes in words
CELLS, SIDE, SEARCH_AREA = 30, 480, 8.0
MAP, STRIDE = CELLS + 1, SIDE // CELLS
SIZE, BACKGROUND, TAU = (40.0, 50.0), 0.01, 0.05
TRAIN_SKIPPING, UPDATE_ITERATIONS, HARD_ITERATIONS, HARD_MINIMUM = 20, 2, 1, 0.5
TOLERANCE = 1e-5
PER_CANDIDATE = ("ids", "history_max", "coords", "image_coords", "image_coords_normalised")


@dataclass
class Bookkeeping:
    """All settings that the file decides."""

    rules: AssociationRules = AssociationRules()
    rescale: RescaleConfig = RescaleConfig()
    memory: MemoryConfig = MemoryConfig(confidence_threshold=0.5)


@dataclass
class Loop:
    """One scripted sequence."""

    script: dict[str, np.ndarray]
    image: tuple[int, int]
    settings: Bookkeeping
    state: CandidateState | None = None
    history: ScaleHistory = field(default_factory=ScaleHistory.start)

    def __post_init__(self) -> None:
        self.pos, self.size = (self.image[0] / 2, self.image[1] / 2), SIZE
        self.scale = initial_scale(SIZE, SEARCH_AREA, SIDE)
        self.base = (SIZE[0] / self.scale, SIZE[1] / self.scale)
        initial = int(self.script["in_num_init"])
        config = replace(self.settings.memory, size=int(self.script["in_memory_size"]))
        samples = Samples(torch.zeros(1, initial, 1, 1), (1, 1))
        self.memory = SampleMemory.start(config, samples, torch.zeros(initial, 1, 4))

    def step(self, t: int) -> dict[str, object]:
        frame = int(self.script["frame"][t])
        view, refined = View(self.pos, self.scale, SIDE), float(self.script["in_refined_scale"][t])
        given = ~np.isnan(self.script["in_scores"][t])
        peaks, cells = self.script["in_scores"][t][given], self.script["in_coords"][t][given]
        scores = np.full((MAP, MAP), BACKGROUND, dtype=np.float32)
        scores[cells[:, 0], cells[:, 1]] = peaks
        sigma = float(scores.max())
        found, heights = find_candidates(torch.from_numpy(scores), TAU)
        points = image_points(found, view.search_area, MAP)  # (N, 2)
        normalised = normalise_points(points[None], self.image, swapped_centre=True)[0]

        flag, translation, seen, matched = self._locate(t, frame, view, scores, heights.numpy(), found.numpy())
        used = self.scale
        if flag == NOT_FOUND:
            self.scale = self.history.rescaled(self.scale, self.settings.rescale)
        else:
            self.history.found(self.scale, self.settings.rescale)
            moved = view.pos[0] + translation[0], view.pos[1] + translation[1]
            self.pos = clamp_position(moved, self.size, self.image)
            if not math.isnan(refined):
                self.scale, self.size = refined, (self.base[0] * refined, self.base[1] * refined)

        sure = certainty(sigma, self.state)
        slot, iterations = -1, -1
        if flag in (NORMAL, HARD_NEGATIVE):
            hard = flag == HARD_NEGATIVE
            slot = self.memory.insert(torch.zeros(1, 1), torch.zeros(1, 4), hard_negative=hard, confidence=sure)
            if hard:
                iterations = HARD_ITERATIONS if sigma >= HARD_MINIMUM else 0
            else:
                iterations = UPDATE_ITERATIONS if (frame - 1) % TRAIN_SKIPPING == 0 else 0
        objects = self.state.objects if seen else ()
        return {
            "ids": [o.id for o in objects], "history_max": [o.maximum for o in objects],
            "coords": [o.coords for o in objects], "image_coords": points.numpy(),
            "image_coords_normalised": normalised.numpy(),
            "selected": self.state.selected if seen and self.state.selected is not None else -1,
            "selected_id": -1 if self.state is None else self.state.selected_id,
            "matched": matched, "stored": seen, "flag": flag, "presence": sure, "scale_used": used, "scale_next": self.scale,
            "pos": self.pos, "size": self.size, "lost_count": self.history.lost, "history_len": len(self.history.scales),
            "replaced": slot, "iterations": iterations, "beta": self.memory.confidence, "alpha": self.memory.weights,
        }  # fmt: skip

    def _locate(self, t, frame, view, scores, peaks, cells):
        """(flag, translation, were there candidates, did the network match them)"""
        base = localise(
            scores, LocalisationConfig(), cell=STRIDE, sample_scale=view.scale, sample_pos=view.pos, previous_pos=self.pos,
            target_size=self.size,
        )  # fmt: skip
        if scores.max() < TAU:
            return base.flag, base.translation, False, False
        rules = self.settings.rules
        if self.state is None or not self.state.precedes(frame):
            self.state = start(peaks, cells, frame, rules)
            return base.flag, base.translation, True, False
        skip = match_is_certain(self.state, peaks, rules)
        row = slice(0, len(peaks))
        matches, probability = self.script["in_matches"][t][row], self.script["in_match_prob"][t][row]
        if skip:
            matches, probability = [0], [1.0]
        self.state = associate(self.state, matches, probability, peaks, cells, rules)
        if self.state.selected is None:
            return NOT_FOUND, (0.0, 0.0), True, not skip
        row, col = self.state.objects[self.state.selected].coords
        to_image = STRIDE * view.scale
        return NORMAL, ((row - (MAP - 1) / 2) * to_image, (col - (MAP - 1) / 2) * to_image), True, not skip


def disagreements(data, name: str, settings: Bookkeeping) -> list[str]:
    """What differs in one sequence, the first frame of each kind."""
    script = {key.split("/", 1)[1]: data[key] for key in data.files if key.startswith(f"{name}/")}
    loop = Loop(script, tuple(int(v) for v in data["in_image_size"]), settings)
    wrong: dict[str, str] = {}
    for t in range(len(script["frame"])):
        for key, got in loop.step(t).items():
            want = script["in_coords" if key == "coords" else key][t]
            if key in PER_CANDIDATE:
                want = want[: int((script["ids"][t] >= 0).sum())]
            if key == "history_len":  # ours forgets what lies beyond the horizon
                want = min(want, settings.rescale.horizon)
            want, value = np.asarray(want), np.asarray(got)
            same = value.size == want.size
            if same and want.dtype.kind == "f":
                # image pixels are float32 on both sides
                rounding = np.finfo(np.float32).eps * max(loop.image) if key == "image_coords" else 0.0
                same = bool((abs(value.astype(float).reshape(want.shape) - want) <= TOLERANCE + rounding).all())
            elif same:
                same = np.array_equal(value.reshape(want.shape), want)
            if not same:
                wrong.setdefault(key, f"{name}, frame {script['frame'][t]}, {key}: {got}, expected {want}")
    return list(wrong.values())


def test_every_scripted_sequence(golden):
    data = arrays(golden, "keeptrack_association")
    names = [str(n) for n in data["sequences"]]
    assert names
    wrong = [text for name in names for text in disagreements(data, name, Bookkeeping())]
    assert not wrong, "\n".join(wrong)


RULES = AssociationRules()
CONFIDENCE = MemoryConfig(confidence_threshold=0.5)
# coarse, so that any file's scripts can tell; the exact limits are tested in tests/online
CHANGES = {
    "split probability": Bookkeeping(replace(RULES, split_probability=0.7)),
    "split probability, lower": Bookkeeping(replace(RULES, split_probability=0.5)),
    "weak split probability": Bookkeeping(replace(RULES, weak_split_probability=0.95)),
    "weak split probability, lower": Bookkeeping(replace(RULES, weak_split_probability=0.75)),
    "weak score": Bookkeeping(replace(RULES, weak_score=0.3)),
    "weak score, lower": Bookkeeping(replace(RULES, weak_score=0.1)),
    "distractors split too": Bookkeeping(replace(RULES, split_distractors=True)),
    "switch on the current score": Bookkeeping(replace(RULES, switch_on_current=True)),
    "redetection": Bookkeeping(replace(RULES, redetection=0.3)),
    "redetection, lower": Bookkeeping(replace(RULES, redetection=0.2)),
    "redetection at the limit": Bookkeeping(replace(RULES, redetection_inclusive=True)),
    "restart always from 0": Bookkeeping(replace(RULES, restart_frame=10**6)),
    "restart always from 1": Bookkeeping(replace(RULES, restart_frame=0)),
    "skip score": Bookkeeping(replace(RULES, skip_score=0.6)),
    "skip score, lower": Bookkeeping(replace(RULES, skip_score=0.4)),
    "the paper's rules": Bookkeeping(AssociationRules.paper()),
    "horizon": Bookkeeping(rescale=RescaleConfig(horizon=50)),
    "fewest": Bookkeeping(rescale=RescaleConfig(fewest=1)),
    "most": Bookkeeping(rescale=RescaleConfig(most=33)),
    "most, lower": Bookkeeping(rescale=RescaleConfig(most=27)),
    "larger scales only": Bookkeeping(rescale=RescaleConfig(inclusive=False)),
    "the paper's scales": Bookkeeping(rescale=RescaleConfig.paper()),
    "no confidence": Bookkeeping(memory=MemoryConfig()),
    "confidence threshold": Bookkeeping(memory=replace(CONFIDENCE, confidence_threshold=0.6)),
    "confidence threshold, lower": Bookkeeping(memory=replace(CONFIDENCE, confidence_threshold=0.4)),
    "learning rate": Bookkeeping(memory=replace(CONFIDENCE, learning_rate=0.011)),
    "learning rate of hard negatives": Bookkeeping(memory=replace(CONFIDENCE, hard_negative_learning_rate=0.022)),
    "initial weight": Bookkeeping(memory=replace(CONFIDENCE, min_init_weight=0.9)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_rule_disagrees(golden, change):
    data = arrays(golden, "keeptrack_association")
    wrong = [disagreements(data, str(name), CHANGES[change]) for name in data["sequences"]]
    wrong = [
        [text for text in texts if ", history_len:" not in text] for texts in wrong
    ]  # follows from the horizon alone
    assert any(wrong), f"no sequence notices: {change}"
