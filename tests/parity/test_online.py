"""Decision table, position clamp, memory weights, crop geometry, windows, relative boxes against the golden numbers."""

from __future__ import annotations

import json

import numpy as np
import torch
from golden_rules import arrays, block, compare, tolerance

from keepsight.boxes import from_relative, iou, to_relative
from keepsight.online.localise import LocalisationConfig, hann_window, localise
from keepsight.online.memory import next_weights
from keepsight.online.search import View, clamp_position


def test_decision_table_and_clamp(golden):
    data = arrays(golden, "localisation")
    thresholds = json.loads(str(data["in_thresholds"]))
    config = LocalisationConfig(
        target_not_found=thresholds["target_not_found_threshold"],
        distractor=thresholds["distractor_threshold"],
        hard_negative=thresholds["hard_negative_threshold"],
        neighbourhood_scale=thresholds["target_neighborhood_scale"],
        displacement_scale=thresholds["displacement_scale"],
    )
    size = tuple(int(v) for v in data["in_image_size"])
    start, flags = 0, set()
    for j, side in enumerate(int(s) for s in data["in_side"]):
        scores = data["in_score"][start : start + side * side].reshape(side, side)
        start += side * side
        sample_pos, target = data["in_sample_pos"][j].tolist(), data["in_target_sz"][j].tolist()
        found = localise(
            scores,
            config,
            cell=16.0,
            sample_scale=float(data["in_sample_scale"][j]),
            sample_pos=sample_pos,
            previous_pos=data["in_pos"][j].tolist(),
            target_size=target,
        )
        assert found.flag == str(data["flag"][j]), f"case {j}"
        compare(found.translation, data["translation"][j], 1e-4, f"case {j} translation")
        moved = (sample_pos[0] + found.translation[0], sample_pos[1] + found.translation[1])
        clamped = clamp_position(moved, target, size, thresholds["target_inside_ratio"])
        compare(clamped, data["new_pos"][j], 1e-4, f"case {j} position")
        flags.add(found.flag)
    assert flags == {"normal", "hard_negative", "uncertain", "not_found"}


def run_schedule(want, rate: float, size: int, initial: int, minimum: float) -> None:
    weights = np.zeros(size)
    weights[:initial] = 1 / initial
    stored, previous = initial, None
    for step in want["steps"]:
        weights, slot = next_weights(weights, stored, initial, previous, step.get("lr") or rate, minimum)
        assert slot == step["replace"]
        compare(weights, step["w"], 1e-6, "weights")
        stored, previous = stored + 1, slot


def test_memory_weights(golden):
    want = block(golden, "dimp_sample_weights")
    size, initial, minimum = want["memory"], want["num_init"], want["min_init_w"]
    run_schedule(want, want["lr"], size, initial, minimum)
    run_schedule(block(golden, "dimp_sample_weights_lr0.3"), 0.3, size, initial, minimum)


def test_crop_boxes_there_and_back(golden):
    want = block(golden, "iounet_box")
    view = View(tuple(want["sample_pos"]), want["scale"], 352)  # the side is not in the file
    box = view.to_crop(tuple(want["pos"]), tuple(want["sz"]))
    compare(box, want["box_xywh"], 1e-4, "box")
    compare(view.to_image(box, half_pixel_bias=True)[0], want["inverse_pos"], 1e-4, "inverse")
    compare(view.to_image(box, half_pixel_bias=False)[0], want["pos"], 1e-9, "exact inverse")


def test_hann_window(golden):
    want = block(golden, "hann2d", "centered_19")
    compare(hann_window(len(want)), want, 1e-6, "window")
    data = arrays(golden, "labels_boxes")
    keys = [k for k in data.files if k.startswith("hann_") and k.endswith("_1")]
    assert keys
    for key in keys:
        compare(hann_window(data[key].size), data[key].ravel(), 1e-6, key)


def test_relative_boxes(golden):
    data = arrays(golden, "labels_boxes")
    cases = json.loads((golden / "net" / "cases.json").read_text())["parameters"]["labels_boxes"]
    boxes, n = torch.from_numpy(data["boxes"]), torch.tensor(cases["rel_normaliser_wh"], dtype=torch.float32)

    def check(key, got):
        compare(got.reshape(data[key].shape), data[key], tolerance(golden, "labels_boxes", key), key)

    check("rect_to_rel", to_relative(boxes, n))
    check("rel_to_rect", from_relative(to_relative(boxes, n), n))
    check("rect_to_rel_nonorm", to_relative(boxes))
    check("rel_to_rect_nonorm", from_relative(to_relative(boxes)))
    check("iou", iou(boxes[:1], boxes))
