"""PrRoI pooling, label maps and every optimiser on small problems: blocks/*.json and net/optimizers.npz."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden_rules import arrays, block, compare, fill, tolerance

from keepsight.nn.correlation import Samples, apply_filter
from keepsight.nn.roi_pool import prroi_pool
from keepsight.nn.target_filter import (
    DensityConfig,
    DiMPOptimiser,
    L2Optimiser,
    PrDiMPOptimiser,
    SimpleOptimiser,
    label_density,
    score_centres,
)


def test_precise_roi_pooling(golden):
    want = block(golden, "prroi")
    features, rois = fill(2, 3, 7, 9).requires_grad_(), torch.tensor(want["rois"]).requires_grad_()
    out = prroi_pool(features, rois, (2, 3), 1 / 16)
    compare(out.flatten(), want["out"], 1e-6, "pooled")
    by_features, by_rois = torch.autograd.grad((out * fill(*out.shape, a=0.91)).sum(), (features, rois))
    compare(by_features.flatten(), want["grad_feat"], 1e-6, "gradient by features")
    compare(by_rois.flatten(), want["grad_rois"], 2e-6, "gradient by boxes")


# blocks/golden1.json: 4 frames × 2 sequences, 3 channels, 6 × 6 features, 4 × 4 filter (spec appendix B)
def small_problem():
    features = fill(4, 2, 3, 6, 6, a=0.713)
    return Samples.from_maps(features), fill(2, 3, 4, 4, a=0.531, amp=0.1)


def small_dimp():
    optimiser = DiMPOptimiser(
        init_step_length=0.9, init_filter_reg=0.1, init_gauss_sigma=0.9, num_dist_bins=100, bin_displacement=0.1,
        mask_init_factor=3.0,
    )  # fmt: skip
    with torch.no_grad():
        optimiser.spatial_weight_predictor.weight += 0.2 * fill(1, 100, 1, 1, a=0.05)
    return optimiser


def small_prdimp():
    density = DensityConfig(sigma=0.9, normalise=True)
    return PrDiMPOptimiser(
        init_step_length=1.0, init_filter_reg=0.05, min_filter_reg=0.05, alpha_eps=0.05, density=density
    )


@pytest.mark.parametrize(("name", "make"), [("dimp_gn", small_dimp), ("prdimp_newton", small_prdimp)])
def test_small_problems(golden, name, make):
    samples, start = small_problem()
    boxes = torch.tensor(block(golden, "dimp_gn", "bb"))
    with torch.no_grad():
        want = block(golden, name)
        got = make()(start, samples, boxes, None, 3, with_losses=True, keep_iterates=True)
        for i, iterate in enumerate(want["w"]):
            compare(got.iterates[i].flatten(), iterate, 1e-6, f"{name} iterate {i}")
        compare(np.ravel(got.losses), np.ravel(want["losses"]), 1e-5, f"{name} losses")
        want = block(golden, f"{name}_sw")
        gamma = torch.tensor(block(golden, "dimp_gn_sw", "sample_weight"))
        got = make()(start, samples, boxes, gamma, 2, with_losses=True)
        compare(got.weights.flatten(), want["w"], 1e-6, f"{name} weighted")
        compare(np.ravel(got.losses), np.ravel(want["losses"]), 1e-5, f"{name} weighted losses")


def test_small_simple_problem(golden):
    want = block(golden, "simple_gn")
    samples, start = small_problem()
    label = fill(4, 2, 7, 7, a=0.233).clamp(min=0)
    with torch.no_grad():
        got = SimpleOptimiser(init_filter_reg=0.1)(start, samples, label, None, 3, with_losses=True, keep_iterates=True)
    for i, iterate in enumerate(want["w"]):
        compare(got.iterates[i].flatten(), iterate, 1e-6, f"iterate {i}")
    compare(np.ravel(got.losses), np.ravel(want["losses"]), 1e-6, "losses")


def variant(name: str, p: dict):
    """An optimiser of cases.json by its parameters."""
    if name.startswith("dimp"):
        optimiser = DiMPOptimiser(
            init_step_length=p["step"], init_filter_reg=p["reg"], init_gauss_sigma=p["sigma"], num_dist_bins=p["bins"],
            bin_displacement=p["displacement"], mask_init_factor=p["mask_factor"], score_act=p.get("act", "relu"),
            act_param=p.get("act_param"), mask_act=p.get("mask", "sigmoid"), alpha_eps=p.get("alpha_eps", 0.0),
        )  # fmt: skip
        if "mask_bias" in p:
            assert p["mask_bias"] == 0.5, "the linear mask's bias is fixed"
        return optimiser
    if name == "l2":
        return L2Optimiser(
            gauss_sigma=p["sigma"], hinge_threshold=p["hinge"], init_filter_reg=p["reg"], alpha_eps=p["alpha_eps"]
        )
    if name.startswith("prdimp"):
        density = DensityConfig(
            p.get("sigma", 1.0), p.get("normalise", False), p.get("uniform_weight", 0.0), p.get("shrink", 0.0),
            p.get("threshold", 0.0),
        )  # fmt: skip
        return PrDiMPOptimiser(
            init_filter_reg=p["reg"], min_filter_reg=p["min_reg"], alpha_eps=p["alpha_eps"],
            softmax_reg=p.get("softmax_reg"), density=density,
        )  # fmt: skip
    return SimpleOptimiser(init_filter_reg=p["reg"], hinge_threshold=p["hinge"], activation_leak=p["leak"])


def test_every_variant(golden):
    data = arrays(golden, "optimizers")
    cases = json.loads((golden / "net" / "cases.json").read_text())["parameters"]["optimizers"]
    features, boxes = torch.from_numpy(data["in_feat"]), torch.from_numpy(data["in_bb"])
    gamma = torch.from_numpy(data["in_sample_weight"])
    samples = Samples.from_maps(features)

    def check(key, got):
        compare(got, data[key], tolerance(golden, "optimizers", key), key)

    checked = 0
    for name, parameters in cases["variants"].items():
        for kernel in (4, 3):  # the k1 arrays hold quirk Q14, which we correct
            start = torch.from_numpy(data[f"in_w0_{kernel}"])
            target = boxes
            if name.startswith("hinge"):
                side = features.shape[-1] + 1 - kernel % 2
                target = torch.from_numpy(data["hinge_label"])[:side, :side].expand(*boxes.shape[:2], side, side)
            with torch.no_grad():
                optimiser = variant(name, parameters)
                got = optimiser(
                    start, samples, target, gamma, cases["iterations"], with_losses=True, keep_iterates=True
                )
                prefix = f"{name}_k{kernel}"
                if f"{prefix}_w1" in data:
                    check(f"{prefix}_w1", got.iterates[1])
                check(f"{prefix}_w4", got.weights)
                check(f"{prefix}_losses", got.losses)
                if f"{prefix}_nosw_w5" in data:
                    even = optimiser(start, samples, target, None, cases["nosw"]["iterations"], with_losses=True)
                    check(f"{prefix}_nosw_w5", even.weights)
                    check(f"{prefix}_nosw_losses", even.losses)
                checked += 1
    assert checked == 2 * len(cases["variants"])


def test_maps_of_the_variants(golden):
    data = arrays(golden, "optimizers")
    cases = json.loads((golden / "net" / "cases.json").read_text())["parameters"]["optimizers"]
    boxes = torch.from_numpy(data["in_bb"])
    kernel, side = (4, 4), data["in_feat"].shape[-1] + 1
    centres = score_centres(boxes, kernel, cases["stride"])  # (I, S, 2)

    def check(key, got):
        compare(got.reshape(data[key].shape), data[key], tolerance(golden, "optimizers", key), key)

    p = cases["variants"]["dimp_relu"]
    optimiser = variant("dimp_relu", p)
    with torch.no_grad():
        label, mask, weight = optimiser.maps(centres, (side, side))
        check("label_map", label)
        check("target_mask", mask)
        check("spatial_weight", weight)
        for key, name in (("pr_label_density", "prdimp"), ("pr_label_density_opts", "prdimp_opts")):
            check(key, label_density(centres, (side, side), variant(name, cases["variants"][name]).density))
        final = torch.from_numpy(data["dimp_relu_k4_w4"])
        scores = apply_filter(Samples.from_maps(torch.from_numpy(data["in_testfeat"])), final)
        check("scores_dimp_relu", scores.transpose(0, 1))
