"""The training calls of the networks give the golden scores: another way through the same parts as in tracking."""

from __future__ import annotations

import pytest
import torch
from golden_rules import DIMP_NETWORKS, arrays, compare, fill_network, image, tolerance

from keepsight.models.atom import AtomNet
from keepsight.models.dimp import DiMPNet, network_config


@pytest.mark.parametrize("name", DIMP_NETWORKS)
def test_scores_of_filter_and_boxes(golden, name):
    data = arrays(golden, name)
    seed, side = int(data["in_seed"]), int(data["in_size"])
    net = fill_network(DiMPNet(network_config(name)), name, seed)
    boxes, proposals = (
        torch.from_numpy(data["in_train_bb"]),
        torch.from_numpy(data["in_proposals"]),
    )  # (n, 4), (2, P, 4)
    train, test = image(f"{name}/train", len(boxes), side, side, seed), image(f"{name}/test", 2, side, side, seed)
    label = torch.from_numpy(data["train_label"]) if "train_label" in data else None
    with torch.no_grad():
        out = net(train[:, None], test[:, None], boxes[:, None], proposals[:, None], label)  # one sequence
        assert len(out.scores) == 6
        compare(out.scores[0], data["scores_init"], tolerance(golden, name, "scores_init"), f"{name} scores_init")
        compare(out.scores[5], data["scores_it5"], tolerance(golden, name, "scores_it5"), f"{name} scores_it5")
        # the boxes' numbers were made with reference i for test image i: two sequences of one frame each
        features, reference = net.extract(test), net.extract(train[:2])
        iou = net.bb_regressor(
            (reference.layer2, reference.layer3), boxes[:2], (features.layer2, features.layer3), proposals[None]
        )
        compare(iou[0], data["iou"], tolerance(golden, name, "iou"), f"{name} iou")
        # with one sequence, the first train frame is the reference of both test frames
        compare(out.boxes[0, 0], data["iou"][0], tolerance(golden, name, "iou"), f"{name} iou by forward")


def test_atom(golden):
    data = arrays(golden, "atom_iounet")
    seed, side = int(data["in_seed"]), int(data["in_size"])
    net = fill_network(AtomNet(), "atom", seed)
    ref, test = image("atom/ref", 2, side, side, seed), image("atom/test", 2, side, side, seed)
    boxes = torch.from_numpy(data["in_proposals"])[None].requires_grad_()  # (1, 2, P, 4)
    out = net(ref[None], test[None], torch.from_numpy(data["in_ref_boxes"])[None], boxes)
    assert out.scores == ()
    compare(out.boxes[0], data["iou"], tolerance(golden, "atom_iounet", "iou"), "iou")
    (gradient,) = torch.autograd.grad(out.boxes.sum(), boxes)
    compare(gradient[0], data["iou_grad"], tolerance(golden, "atom_iounet", "iou_grad"), "iou_grad")
