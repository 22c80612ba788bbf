"""The networks' names and shapes are the published ones; constructor records are understood or refused; what trackers call."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from keepsight.errors import InputError, WeightsError
from keepsight.models.segmentation import (
    LWLBoxNet,
    LWLBoxNetConfig,
    LWLNet,
    LWLNetConfig,
    RTSNet,
    RTSNetConfig,
    STANet,
    STANetConfig,
    segmentation_config_from_constructor,
    segmentation_network,
)
from keepsight.nn.correlation import Samples, apply_filter
from keepsight.nn.resnet import build_backbone
from keepsight.weights import entry, recognise, used_tensors

NETWORKS = {LWLNet: LWLNetConfig, LWLBoxNet: LWLBoxNetConfig, STANet: STANetConfig, RTSNet: RTSNetConfig}
LWL = "steepest_descent_resnet50"
RTS = "steepest_descent_resnet50_with_clf_encoder"
PUBLISHED = {  # spec §4
    "filter_size": 3, "num_filters": 16, "optim_iter": 5, "backbone_pretrained": False, "out_feature_dim": 512,
    "frozen_backbone_layers": ["conv1", "bn1"], "label_encoder_dims": (16, 32, 64), "use_bn_in_label_enc": False,
    "clf_feat_blocks": 0, "final_conv": True, "backbone_type": "mrcnn", "decoder_mdim": 64, "filter_groups": 1,
    "dilation": None,
}  # fmt: skip
PUBLISHED_RTS = PUBLISHED | {  # spec §7
    "clf_filter_size": 4, "clf_score_act": "relu", "clf_hinge_threshold": 0.05, "clf_activation_leak": 0.1,
    "clf_with_extractor": True, "clf_enc_input": "sc", "fusion_type": "add",
}  # fmt: skip
PUBLISHED_BOX = PUBLISHED | {"box_label_encoder_dims": (64, 64), "use_gauss": False, "final_bn": False, "init_bn": 1}
PUBLISHED_STA = PUBLISHED | {"label_encoder_dims": (16, 32, 64, 128)}


def narrow(kind, **changes):
    torch.manual_seed(0)
    small = {"backbone": "resnet50-mrcnn-narrow", "feature_dim": 24, "num_filters": 4, "decoder_dim": 8}
    net = kind(NETWORKS[kind](**(small | changes))).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # no longer what a fresh network has
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.requires_grad_(False)


def images(count: int = 2, size=(70, 100)) -> torch.Tensor:
    return 60 * torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


# --- names and shapes -------------------------------------------------------------------------------------------------------


def key_list(golden, name: str) -> dict[str, tuple[int, ...]]:
    path = golden.parent / "spec" / "keys" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no key list at {path}")
    return {k: tuple(v) for k, v in json.loads(path.read_text()).items()}


@pytest.mark.parametrize(
    ("keys", "weights", "config"),
    [
        ("lwl_stage1", "lwl_stage1", {}),
        ("lwl_stage2", "lwl_stage2", {}),
        ("lwl_boxinit", "lwl_boxinit", {}),
        ("sta", "sta", {}),
        ("rts50", "rts50", {}),
        ("rts50_concat_variant", "rts50", {"fusion": "concat"}),
        ("rts50_boxinit_variant", "rts50", {}),
    ],
)
def test_state_dict_is_the_published_one(golden, keys, weights, config):
    build, default = segmentation_network(weights)
    with torch.device("meta"):
        state = build(dataclasses.replace(default, **config)).state_dict()
        listed = {k: torch.empty(shape) for k, shape in key_list(golden, keys).items()}
    assert recognise(listed) in entry(weights).architectures
    used = used_tensors(listed)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in used.items()}
    assert (len(used) < len(listed)) == (keys == "rts50_boxinit_variant"), "its network from box to mask is left out"


def test_the_stride_of_mask_rcnn_s_backbone_is_on_the_first_convolution():
    plain, caffe = build_backbone("resnet50-narrow"), build_backbone("resnet50-mrcnn-narrow")
    assert (plain.layer2[0].conv1.stride, plain.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert (caffe.layer2[0].conv1.stride, caffe.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert caffe.layer1[0].conv1.stride == (1, 1)
    with pytest.raises(InputError, match="fc"):
        caffe(torch.zeros(1, 3, 32, 32), ("fc",))


# --- configurations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fun", "keywords"),
    [
        (LWLNetConfig, LWL, PUBLISHED),
        (LWLBoxNetConfig, LWL, PUBLISHED_BOX),
        (STANetConfig, LWL, PUBLISHED_STA),
        (RTSNetConfig, RTS, PUBLISHED_RTS),
    ],
)
def test_constructors_give_the_published_configuration(kind, fun, keywords):
    assert segmentation_config_from_constructor(kind, fun, keywords) == kind()
    unsaid = {"iterations": 3} if kind is STANetConfig else {}  # STA's function has a default of its own (§10)
    assert segmentation_config_from_constructor(kind, fun, {}) == kind(**unsaid)
    changed = segmentation_config_from_constructor(kind, fun, keywords | {"optim_iter": 3, "optim_init_reg": 0.2})
    assert (changed.iterations, changed.init_filter_reg) == (3, 0.2)


def test_constructors_of_rts_say_what_is_fused():
    changed = {"fusion_type": "concat", "clf_hinge_threshold": 0.1, "clf_activation_leak": 0.0, "clf_filter_size": 3}
    config = segmentation_config_from_constructor(RTSNetConfig, RTS, PUBLISHED_RTS | changed)
    assert (config.fusion, config.clf_hinge_threshold, config.clf_activation_leak) == ("concat", 0.1, 0.0)
    assert RTSNet(dataclasses.replace(config, backbone="resnet50-mrcnn-narrow")).classifier.filter_size == 3


@pytest.mark.parametrize(
    ("fun", "keywords", "words"),
    [
        ("dimpnet50", {}, "not of LWL"),
        (LWL, {"colour": 3}, "colour"),
        (LWL, {"backbone_type": "imagenet"}, "backbone_type"),
        (LWL, {"use_bn_in_label_enc": True}, "use_bn_in_label_enc"),
        (LWL, {"target_model_input_layer": ("layer2",)}, "target_model_input_layer"),
        (LWL, {"label_encoder_dims": (16, 32)}, "label_encoder_dims"),
        (LWL, {"filter_size": 4}, "odd"),
    ],
)
def test_other_constructors_are_refused(fun, keywords, words):
    with pytest.raises(WeightsError, match=words):
        segmentation_config_from_constructor(LWLNetConfig, fun, keywords)


def test_values_that_fit_no_network():
    for kind in NETWORKS.values():
        assert kind(**json.loads(json.dumps(dataclasses.asdict(kind())))) == kind(), "survives a file"
    with pytest.raises(InputError, match="resnet50"):
        LWLNetConfig(backbone="resnet51")
    with pytest.raises(InputError, match="concat"):
        RTSNetConfig(fusion="concatenate")
    with pytest.raises(InputError, match="box_label_encoder_dims"):
        LWLBoxNetConfig(box_label_encoder_dims=())
    with pytest.raises(InputError, match="4 numbers"):
        STANetConfig(label_encoder_dims=(1, 2, 3))
    with pytest.raises(InputError, match="lwl_stage2"):
        segmentation_network("lwl_stage3")


# --- what trackers call -----------------------------------------------------------------------------------------------------


def segment(net: LWLNet, size=(70, 100)) -> torch.Tensor:
    """Logits of a second frame, learned from the first."""
    layers = net.extract(images(2, size))
    features = net.target_features(layers["layer3"])
    mask = torch.zeros(1, 1, *size)
    mask[..., 20:50, 30:60] = 1
    encoded = net.label_encoder(mask)
    bank = net.fit_filter(net.zero_filter(), features[:1, None], *encoded, 3)
    encoding = net.apply_filter(bank, features[1:, None])
    return net.decode(encoding, {k: v[1:] for k, v in layers.items()}, size)


@pytest.mark.parametrize("kind", [LWLNet, LWLBoxNet, RTSNet])
def test_from_a_mask_to_the_next_frame_s(kind):
    net = narrow(kind)
    logits = segment(net)
    assert logits.shape == (1, 1, 70, 100)
    assert logits.std() > 0
    features = net.target_features(net.extract(images())["layer3"])
    assert torch.allclose(features.square().mean(dim=(1, 2, 3)), torch.tensor(1 / (9 * 24)), rtol=1e-4)
    assert torch.allclose(segment(net.for_inference()), logits, atol=2e-4 * float(logits.abs().max()))


def test_networks_in_double_precision():
    net = narrow(RTSNet).double()
    encoding = net.apply_filter(net.zero_filter(2), torch.randn(1, 2, 24, 3, 3, dtype=torch.float64))
    assert encoding.dtype == torch.float64
    assert net.fuse(encoding, torch.randn(1, 2, 3, 3, dtype=torch.float64)).dtype == torch.float64


def test_several_sequences_at_once():
    net = narrow(LWLNet)
    layers = net.extract(images(2))
    features = net.target_features(layers["layer3"])[None]  # one frame of two sequences
    masks = torch.rand(1, 2, 70, 100)
    bank = net.fit_filter(net.zero_filter(2), features, *net.label_encoder(masks), 2)
    both = net.decode(net.apply_filter(bank, features), layers, (70, 100))
    for s in (0, 1):
        one = slice(s, s + 1)
        alone = net.fit_filter(net.zero_filter(), features[:, one], *net.label_encoder(masks[:, one]), 2)
        assert torch.allclose(alone, bank[one], rtol=1e-3, atol=1e-5 * float(bank.abs().max()))
        some = {k: v[one] for k, v in layers.items()}
        logits = net.decode(net.apply_filter(alone, features[:, one]), some, (70, 100))
        assert torch.allclose(logits, both[one], atol=1e-4 * float(both.abs().max()))


def test_boxes_make_encodings():
    net, size = narrow(LWLBoxNet), (70, 100)
    layers = net.extract(images())
    features = net.target_features(layers["layer3"])
    boxes = torch.tensor([[10.0, 10, 40, 40], [-10, -10, 30, 30]])
    encoding = net.box_encoding(features, boxes, size)
    assert encoding.shape == (2, 4, *features.shape[-2:])
    assert net.decode(encoding, layers, size).shape == (2, 1, *size)
    cut = narrow(LWLBoxNet, wrap_boxes=False).box_encoding(features, boxes, size)
    assert torch.equal(cut[0], encoding[0])
    assert not torch.equal(cut[1], encoding[1]), "Q17"
    assert torch.isfinite(encoding).all()


def test_the_classifier_of_rts():
    net = narrow(RTSNet)
    layer3 = net.extract(images(3, (96, 160)))["layer3"]
    features = net.classifier_features(layer3)
    assert features.shape == (3, 24, 3, 5)
    assert torch.allclose(features.square().mean(dim=(1, 2, 3)), torch.tensor(1 / (9 * 24)), rtol=1e-4)
    boxes = torch.tensor([[32.0, 32, 32, 32]]).expand(3, 1, 4)
    start = net.classifier.filter_initializer(features[:, None], boxes)
    true = narrow(RTSNet, clf_pool_stride=32).classifier.filter_initializer(features[:, None], boxes)
    twice = narrow(RTSNet, clf_pool_stride=32).classifier.filter_initializer(features[:, None], 2 * boxes)
    assert not torch.allclose(start, true)
    assert torch.allclose(start, twice), "Q13"
    label = torch.zeros(3, 1, 4, 6)
    label[:, :, 2, 2] = 1
    samples = Samples.from_maps(features)
    fit = net.classifier.filter_optimizer(start, samples, label, None, 5, with_losses=True)
    assert fit.losses[-1] < fit.losses[0]
    assert net.classifier.filter_optimizer.regularisation().item() == pytest.approx(1e-4)
    assert not any("filter_optimizer" in key for key in net.classifier.state_dict()), "λ is fixed"
    scores = apply_filter(samples, fit.weights).transpose(0, 1)
    assert scores.shape == (3, 1, 4, 6)


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_scores_join_the_encoding(fusion):
    net = narrow(RTSNet, fusion=fusion)
    encoding, scores = torch.randn(2, 3, 4, 6, 10), torch.randn(2, 3, 4, 6)
    fused = net.fuse(encoding, scores)
    assert fused.shape == encoding.shape
    one = net.fuse(encoding[1:, 2:], scores[1:, 2:])
    assert torch.allclose(one, fused[1:, 2:], atol=1e-5)
    assert not torch.allclose(fused, net.fuse(encoding, scores.flip(-1)))


def test_masks_from_boxes():
    net = narrow(STANet)
    boxes = torch.tensor([[10.0, 10, 40, 40], [60, 30, 30, 30]])
    first, second = net.masks_from_boxes(images(), boxes)
    assert first.shape == second.shape == (2, 1, 70, 100)
    alone = net.masks_from_boxes(images()[1:], boxes[1:])
    for both, one in zip((first, second), alone, strict=True):
        assert torch.allclose(both[1:], one, atol=1e-3 * float(both.abs().max()))
    lean = net.for_inference().masks_from_boxes(images(), boxes)
    for got, want in zip(lean, (first, second), strict=True):
        assert torch.allclose(got, want, atol=1e-3 * float(want.abs().max()))
    outside = net.masks_from_boxes(images(1), torch.tensor([[-50.0, -50, 10, 10]]))
    assert all(torch.isfinite(logits).all() for logits in outside)


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_that_tracking_needs_is_in_the_file(kind):
    net = narrow(kind)
    with torch.device("meta"):
        other = kind(net.config)
    other.load_state_dict(net.state_dict(), assign=True)
    lean = other.eval().for_inference()
    if kind is STANet:
        assert lean.masks_from_boxes(images(1), torch.tensor([[10.0, 10, 40, 40]]))[1].shape == (1, 1, 70, 100)
    else:
        assert segment(lean).shape == (1, 1, 70, 100)
    if kind is RTSNet:
        maps = torch.randn(1, 1, 24, 3, 4)
        fit = lean.classifier.filter_optimizer(
            torch.randn(1, 24, 4, 4), Samples.from_maps(maps), torch.rand(1, 1, 4, 5), None, 2
        )
        assert fit.weights.dtype == torch.float32


def test_training_reaches_every_part():
    """One step of RTS by hand: train frame, two test frames (§8)."""
    net = narrow(RTSNet).requires_grad_(True)
    frames = images(3, (64, 96))
    layers = net.extract(frames)
    features = net.target_features(layers["layer3"])[:, None]
    encoded = net.label_encoder((torch.rand(1, 1, 64, 96) > 0.5).float())
    fit = net.learn_filter(net.zero_filter(), features[:1], *encoded, 2, keep_iterates=True)
    maps = net.classifier_features(layers["layer3"])[:, None]
    clf = net.classifier
    start = clf.filter_initializer(maps[:1], torch.tensor([[[10.0, 10, 30, 30]]]))
    label = torch.rand(1, 1, 3, 4)
    weights = clf.filter_optimizer(start, Samples.from_maps(maps[:1]), label, None, 2).weights
    scores = apply_filter(Samples.from_maps(maps[1:]), weights).transpose(0, 1)
    fused = net.fuse(net.apply_filter(fit.weights, features[1:]), scores)
    logits = net.decode(fused, {k: v[1:] for k, v in layers.items()}, (64, 96))
    logits.square().mean().backward()
    untouched = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name.rpartition(".")[0] for name in untouched} == {"clf_encoder.samp_w_pred"}, "stored, but of no use"
