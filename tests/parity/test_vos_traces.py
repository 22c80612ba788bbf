"""LWL's and RTS's whole loops against golden/net/vos_*: masks, boxes, crops, filters and memories, frame by frame.

In float32, RTS runs with the network as published: the folded batch norms of the shipped one round otherwise, by 1e-6, and the
classifier's hinge has a kink on either side of which a float32 solve may fall (5e-4 in one trace; golden README §8).
The shipped form is held to the float64 run of the reference, where nothing rounds: boxes and states to 1e-6.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from golden_rules import compare, fill_segmentation, golden_folder
from replay import overridden

from keepsight.models.segmentation import LWLBoxNet, LWLNet, RTSNet, STANet
from keepsight.trackers import lwl, rts
from keepsight.trackers.lwl import LWLTracker
from keepsight.trackers.rts import RTSTracker

# the reference's parameter names -> where our settings hold them
NAMES = {
    "search_area_scale": "search_area_scale", "clf_target_not_found_threshold": "classifier.not_found",
    "clf_net_opt_iter": "classifier.init_iterations", "net_opt_iter": "init_iterations", "train_skipping": "train_skipping",
    "net_opt_update_iter": "update_iterations", "clf_net_opt_update_iter": "classifier.update_iterations",
    "clf_train_skipping": "classifier.train_skipping", "learning_rate": "memory.learning_rate",
    "sample_memory_size": "memory.size", "clf_sample_memory_size": "classifier.memory.size",
    "min_mask_area": "min_mask_area", "max_scale_change": "scale_change",
}  # fmt: skip


def traces() -> list[str]:
    return [p.name for p in sorted((golden_folder() / "net").glob("vos_*.npz"))]


def recorded(kind: type) -> type:
    """The tracker ``kind`` that keeps what the golden files hold of a frame."""

    class Recorded(kind):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.crops: list[tuple[Any, ...]] = []

        def _observe_crop(self, target, coordinates, encoding, logits):
            self.crops.append((coordinates, encoding.flatten(0, 1)[0].numpy().copy(), logits.numpy().copy()))

        def _observe(self, looks, outcomes):
            scored = looks[0].scored
            self.scores = None if scored is None else scored.scores.numpy().copy()

    return Recorded


def build(name: str, data: Any, dtype: torch.dtype) -> LWLTracker:
    seed, factors = int(data["in_weight_seed"]), json.loads(str(data["in_weight_factors"]))
    overrides = json.loads(str(data["in_overrides"])) | {"patch arithmetic": "float"}
    size = tuple(int(n) for n in data["in_image_sample_size"])
    device = torch.device("cpu")

    def filled(net):
        return fill_segmentation(net, seed, factors, dtype).requires_grad_(False)

    def settings(config):
        config = overridden(config, overrides, NAMES)
        return overridden(config, {"image_sample_size": list(size)}, {"image_sample_size": "sample_size"})

    if name.startswith("vos_rts"):
        config = overridden(
            settings(rts.preset("rts50")), {"sta_size": list(size)}, {"sta_size": "box_to_mask.sample_size"}
        )
        config = overridden(config, {"sta": "float"}, {"sta": "box_to_mask.patch_arithmetic"})
        box_network = filled(STANet()) if "init_mask" in data.files else None
        return recorded(RTSTracker)("rts50", config, filled(RTSNet()), box_network, device)
    if name.startswith("vos_lwlbox"):  # in single-object mode, where the second frame reads logits (Q21)
        config = overridden(
            lwl.preset("lwl_boxinit"), {"a": False, "b": True}, {"a": "merge_alone", "b": "first_logits"}
        )
        return recorded(LWLTracker)("lwl_boxinit", settings(config), filled(LWLBoxNet()), device)
    return recorded(LWLTracker)("lwl_ytvos", settings(lwl.preset("lwl_ytvos")), filled(LWLNet()), device)


def frames_of(golden: Path, name: str, data: Any) -> list[np.ndarray]:
    """As ``in_frame_index`` and ``in_transpose`` say."""
    video = golden / "net" / name[name.index("video_") : -len(".npz")]
    files, made = sorted(video.glob("*.png")), []
    height, width = cv2.imread(str(files[0])).shape[:2]
    for index in data["in_frame_index"].tolist():
        if index >= 0:
            frame = cv2.imread(str(files[index]))[:, :, ::-1]
        elif index == -4:
            frame = np.random.RandomState(4).randint(0, 256, (height, width, 3)).astype(np.uint8)
        else:
            frame = np.full((height, width, 3), {-1: 128, -2: 0, -3: 255}[index], np.uint8)
        made.append(frame.transpose(1, 0, 2) if int(data["in_transpose"]) else frame)
    return made


@dataclass
class Played:
    """One trace played by one tracker: arrays by the names of the golden file, one row per frame."""

    data: Any
    rows: dict[str, list[Any]] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        for key, value in values.items():
            self.rows.setdefault(key, []).append(value)


def play(golden: Path, name: str, dtype: torch.dtype, most: int | None = None) -> Played:
    """The first ``most`` frames, or all."""
    data = np.load(golden / "net" / name)
    tracker, frames = build(name, data, dtype), frames_of(golden, name, data)[:most]
    ids = data["init_mask_in"]
    boxes = data["init_boxes"].tolist()
    from_box = "init_mask" in data.files
    masks = None if from_box else [ids == i + 1 for i in range(len(boxes))]
    tracker.init(frames[0], boxes=boxes, masks=masks)
    played, filters = Played(data), data["filter_index"]
    target = tracker._current().targets[0]
    played.first["filter_init_f2c64"] = target.filter[0, filters, :64].numpy().copy()
    if from_box:
        played.first["init_mask"] = target.probability.numpy().copy()  # the logits of lwl_box
    if "clf_filter_init_c64" in data.files:
        played.first["clf_filter_init_c64"] = target.classifier[0, :64].numpy().copy()
    for frame in frames[1:]:
        results = tracker.update_all(frame)
        targets = tracker._current().targets
        coordinates, encoding, logits = tracker.crops[0]
        tracker.crops.clear()
        t = targets[0]
        played.add(
            boxes=[r.box_unclipped for r in results],
            state=[(o.scale, *o.pos, *o.size) for o in targets],
            crop=coordinates,
            masks=[r.mask for r in results],
            raw_s4=[o.probability[::4, ::4].numpy() for o in targets],
            mask_encoding_c4=encoding[data["encoding_index"]],
            logits_s8=logits[4::8, 4::8],
            filter_f2c64=t.filter[0, filters, :64].numpy().copy(),
            filter_norms=t.filter[0].flatten(1).norm(dim=1).numpy(),
            sample_weights=t.memory.weights.copy(),
        )
        if "clf_scores" in data.files:
            (top, left), (h, w) = [t.found_pos[i] - (t.found_size[i] - 1) / 2 for i in (0, 1)], t.found_size
            played.add(
                clf_boxes=(left, top, w, h),
                clf_scores=tracker.scores,
                clf_filter_c64=t.classifier[0, :64].numpy().copy(),
                clf_sample_weights=t.samples.weights.copy(),
                clf_info=("not_found" if t.score_lost else "normal", results[0].score, t.mask_lost, t.mask_small),
            )
    return played


def limit(listed: dict[str, Any], row: int) -> float:
    """README §1: eight times what the reference's own float32 costs in this frame, and the last digits."""
    return 8 * float(listed["per_frame"][row]) + 2e-6 * float(listed["absmax"])


def wanted_masks(data: Any, row: int, count: int) -> list[np.ndarray]:
    stored = data["segmentation"][row]
    if count > 1:
        return [stored == i + 1 for i in range(count)]
    return [np.unpackbits(stored, axis=-1)[:, : data["init_mask_in"].shape[1]].astype(bool)]


@pytest.mark.parametrize("name", traces())
def test_trace(golden, name, monkeypatch):
    if name.startswith("vos_rts"):
        monkeypatch.setattr(RTSNet, "for_inference", lambda net: net)
    played = play(golden, name, torch.float32)
    data = played.data
    tolerances = json.loads((golden / "net" / "tolerances_traces.json").read_text())[name]
    for key in ("filter_init_f2c64", "clf_filter_init_c64"):
        if key in played.first:
            listed = tolerances[key]
            atol = 8 * listed["max_abs_diff_f32_f64"] + 2e-6 * float(np.abs(data[key]).max())
            compare(played.first[key], data[key], atol, key)
    if "init_mask" in played.first:
        got = torch.from_numpy(played.first["init_mask"])
        if data["init_mask"].dtype == np.uint8:
            assert np.array_equal(np.packbits((got > 0.5).numpy(), axis=-1), data["init_mask"])
        else:
            compare(torch.sigmoid(got)[::4, ::4], data["init_mask"], 1e-3, "init_mask")
    assert len(played.rows["boxes"]) == len(data["boxes"])
    for row in range(len(data["boxes"])):
        for key, rows in played.rows.items():
            if key == "masks":
                atol = max(8 * tolerances["segmentation"]["mismatch_fraction_per_frame"][row], 5e-5)
                got, count = rows[row], len(rows[row])
                for mask, want in zip(got, wanted_masks(data, row, count), strict=True):
                    assert float((mask != want).mean()) <= atol, f"frame {row + 1} mask"
            elif key == "clf_info":
                flag, score, lost, small = data["clf_info"][row].tolist()
                assert (rows[row][0], str(rows[row][2]), str(rows[row][3])) == (flag, lost, small), f"frame {row + 1}"
                assert abs(rows[row][1] - float(score)) <= limit(tolerances["clf_scores"], row)
            else:
                compare(np.asarray(rows[row]), data[key][row], limit(tolerances[key], row), f"frame {row + 1} {key}")


@pytest.mark.parametrize("name", traces())
def test_trace_in_float64(golden, name):
    """The sharp test: no rounding to hide behind; for time, only until a frame is searched with what the one before taught."""
    played = play(golden, name, torch.float64, most=3)
    for key in ("boxes", "state", "crop", "clf_boxes"):
        if key in played.rows:
            got = np.asarray(played.rows[key])
            compare(got, played.data[f"f64_{key}"][: len(got)], 1e-6, key)
