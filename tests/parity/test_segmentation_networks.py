"""The networks of LWL, its box initialisation, RTS and STA against golden/net/{lwl,lwl_box,rts,sta}.npz, every array."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from golden_rules import arrays, compare, fill_segmentation, image, tolerance

from keepsight.models.segmentation import LWLBoxNet, LWLNet, RTSNet, SegmentationNet, STANet, STANetConfig
from keepsight.nn.correlation import Samples, apply_filter
from keepsight.nn.segmentation import box_masks, learn_filter
from keepsight.nn.target_filter import FitResult

FIT = {"with_losses": True, "keep_iterates": True}


class Golden:
    """One golden file: its network, its inputs, and which of its arrays were looked at."""

    def __init__(self, folder, stem: str, build: Callable[[], SegmentationNet], lean: bool) -> None:
        self.folder, self.stem, self.data = folder, stem, arrays(folder, stem)
        self.seed = int(self.data["in_seed"])
        self.size = (int(self.data["in_h"]), int(self.data["in_w"]))
        factors = json.loads(str(self.data["in_weight_factors"]))
        net = fill_segmentation(build(), self.seed, factors).requires_grad_(False)
        self.net = net.for_inference() if lean else net
        self.left = {key for key in self.data.files if not key.startswith("in_")}

    def image(self, tag: str, count: int) -> torch.Tensor:
        return image(tag, count, *self.size, self.seed) * float(self.data["in_image_scale"])

    def check(self, key: str, got: torch.Tensor | list[float]) -> None:
        """``got`` may have more channels than the file keeps."""
        self.left.remove(key)
        want, got = self.data[key], torch.as_tensor(got)
        if want.ndim > 1:
            got = got[tuple(slice(0, n) for n in want.shape)]
        compare(got, want, tolerance(self.folder, self.stem, key), f"{self.stem} {key}")

    def check_filter(self, key: str, bank: torch.Tensor) -> None:
        """``bank`` (1, M, D, k, k)."""
        self.check(f"{key}_norms", bank[0].flatten(1).norm(dim=1))
        self.check(f"{key}_c64", bank[0])

    def decode(self, encoding: torch.Tensor, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The decoder's state after each layer, and the logits."""
        levels: dict[str, torch.Tensor] = {}
        hooks = [
            block.register_forward_hook(lambda _m, _i, out, name=name: levels.update({name: out}))
            for name, block in self.net.decoder.RRB2.items()
        ]
        levels["logits"] = self.net.decode(encoding, layers, self.size)
        for hook in hooks:
            hook.remove()
        return levels


@pytest.fixture(params=[False, True], ids=["published", "for_inference"])
def lean(request) -> bool:
    return request.param


def learner(g: Golden) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """What LWL and RTS have in common; the layers of the train and the test images, and the test image's encoding."""
    count = int(g.data["in_n"])
    train = g.net.extract(g.image(f"{g.stem}/train", count))
    test = g.net.extract(g.image(f"{g.stem}/test", 1))
    for i, kept in (("1", 16), ("2", 32), ("3", 32), ("4", 32)):
        g.check(f"layer{i}_test_c{kept}", test[f"layer{i}"])
    features, test_features = g.net.target_features(train["layer3"]), g.net.target_features(test["layer3"])
    g.check("tm_feat_train_c32", features)
    g.check("tm_feat_test_c64", test_features)
    encoded = g.net.label_encoder(torch.from_numpy(g.data["in_masks"]))
    g.check("label_enc", encoded.labels)
    g.check("label_sw", encoded.weights)

    first: FitResult = g.net.learn_filter(g.net.zero_filter(), features[:, None], *encoded, 5, **FIT)
    g.check_filter("filter_it1", first.iterates[1])
    g.check_filter("filter_it5", first.weights)
    g.check("losses5", first.losses)
    alpha = torch.tensor([0.7, 0.3, 0.4][:count])
    weights = encoded.weights * (alpha / alpha.sum()).view(-1, 1, 1, 1, 1)
    later = g.net.learn_filter(first.weights, features[:, None], encoded.labels, weights, 3, **FIT)
    g.check_filter("filter_upd3", later.weights)
    g.check("losses_upd", later.losses)
    assert torch.equal(later.weights, g.net.fit_filter(first.weights, features[:, None], encoded.labels, weights, 3))

    encoding = g.net.apply_filter(later.weights, test_features[:, None])
    g.check("mask_encoding", encoding)
    levels = g.decode(encoding, test)
    g.check("dec_layer4_c64", levels["layer4"])
    g.check("dec_layer3_c64", levels["layer3"])
    g.check("dec_layer1_c8", levels["layer1"])
    g.check("mask_logits_s2", levels["logits"][..., ::2, ::2])
    return train, test, encoding


def test_lwl(golden, lean):
    g = Golden(golden, "lwl", LWLNet, lean)
    learner(g)
    assert not g.left


def test_lwl_box(golden, lean):
    g = Golden(golden, "lwl_box", LWLBoxNet, lean)
    layers = g.net.extract(g.image("lwlbox/im", 1))
    encoding = g.net.box_encoding(g.net.target_features(layers["layer3"]), torch.from_numpy(g.data["in_box"]), g.size)
    g.check("box_label_enc", encoding[None])
    g.check("init_mask_logits_s2", g.net.decode(encoding, layers, g.size)[..., ::2, ::2])
    assert not g.left


def test_rts(golden, lean):
    g = Golden(golden, "rts", RTSNet, lean)
    train, test, encoding = learner(g)
    clf, boxes = g.net.classifier, torch.from_numpy(g.data["in_boxes"])
    features, test_features = g.net.classifier_features(train["layer3"]), g.net.classifier_features(test["layer3"])
    g.check("clf_feat_test_c64", test_features)
    label = torch.from_numpy(g.data["clf_label"])
    centres, rows, cols = (boxes[:, :2] + boxes[:, 2:] / 2) / g.net.classifier_stride, *map(np.arange, label.shape[2:])
    distance = (rows[:, None] - centres[:, 1, None, None].numpy()) ** 2
    distance = distance + (cols - centres[:, 0, None, None].numpy()) ** 2
    g.check("clf_label", np.exp(-distance / 2)[:, None])  # README §5
    start = clf.filter_initializer(features[:, None], boxes[:, None])
    g.check("clf_filter_init_c128", start[0])
    g.check("clf_filter_init_norm", start.norm())
    fit = clf.filter_optimizer(start, Samples.from_maps(features), label, None, 10, with_losses=True)
    g.check("clf_filter_10_c128", fit.weights[0])
    g.check("clf_filter_10_norm", fit.weights.norm())
    g.check("clf_losses", fit.losses)
    scores = apply_filter(Samples.from_maps(test_features), fit.weights).transpose(0, 1)
    g.check("clf_scores", scores)
    encoded = g.net.clf_encoder(scores)
    g.check("clf_encoded", encoded.labels)
    g.check("clf_encoded_sw", encoded.weights)
    fused = g.net.fuse(encoding, scores)
    g.check("fused_mask_logits_s2", g.net.decode(fused, test, g.size)[..., ::2, ::2])
    g.check("unfused_mask_logits_s2", g.net.decode(encoding, test, g.size)[..., ::2, ::2])
    assert not g.left


def test_sta(golden, lean):
    steps = int(arrays(golden, "sta")["n_iterations"])  # a setting of the network: the published one, or the file's own
    g = Golden(golden, "sta", lambda: STANet(STANetConfig(iterations=steps)), lean)
    g.left.remove("n_iterations")
    net, images, boxes = g.net, g.image("sta/im", 1), torch.from_numpy(g.data["in_box"])
    regs = [net.regularisation, net.target_model_segm.filter_optimizer.regularisation]
    g.check("filter_regs", torch.cat(regs))
    layers = net.extract(images)
    features = net.target_features(layers["layer3"])
    g.check("tm_feat_c32", features)
    masks = box_masks(boxes, g.size)[None]
    hint = net.label_encoder(masks, features[None]).labels
    g.check("box_enc", hint)
    encoded = net.bbox_encoder(masks, features[None])
    g.check("bbox_label", encoded.labels)
    g.check("bbox_weight", encoded.weights)
    both = net.masks_from_boxes(images, boxes)
    for i, (whole, reg) in enumerate(zip(both, regs, strict=True), start=1):
        fit = learn_filter(net.zero_filter(), features[None], *encoded, reg, steps, keep_iterates=True)
        g.check(f"filter{i}_norms", torch.stack([bank[0].flatten(1).norm(dim=1) for bank in fit.iterates]))
        g.check(f"filter{i}_c64", fit.weights[0])
        encoding = net.apply_filter(fit.weights, features[None])
        g.check(f"encoding{i}", encoding)
        logits = net.decode(torch.cat((hint, encoding), dim=2), layers, g.size)
        g.check(f"logits{i}", logits)
        compare(whole, logits, 1e-5 * float(logits.abs().max()), f"pass {i} in one call")
        if i == 1:
            encoded = net.segm_encoder(torch.sigmoid(logits))
            g.check("segm_label", encoded.labels)
            g.check("segm_weight", encoded.weights)
    assert not g.left
