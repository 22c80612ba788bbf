"""The network's names and shapes are the published ones; constructor records are understood or refused."""

from __future__ import annotations

import json

import pytest
import torch

from keepsight.errors import InputError, WeightsError
from keepsight.models.dimp import DiMPNet, DiMPNetConfig, config_from_constructor, network_config

NAMES = ("dimp18", "dimp50", "prdimp18", "prdimp50", "super_dimp", "super_dimp_simple")


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_is_the_published_one(golden, name):
    keys = golden.parent / "spec" / "keys" / f"{name}.json"
    if not keys.is_file():
        pytest.skip(f"no key list at {keys}")
    want = {k: tuple(v) for k, v in json.loads(keys.read_text()).items()}
    with torch.device("meta"):
        net = DiMPNet(network_config(name))
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == want


def published_keywords(name: str) -> tuple[str, dict]:
    """What a published file's constructor holds; spec §5 and §8."""
    dimp = {
        "filter_size": 4, "backbone_pretrained": True, "optim_iter": 5, "clf_feat_norm": True, "clf_feat_blocks": 1,
        "final_conv": True, "out_feature_dim": 256, "optim_init_step": 0.9, "optim_init_reg": 0.1, "init_gauss_sigma": 0.9,
        "num_dist_bins": 100, "bin_displacement": 0.1, "mask_init_factor": 3.0, "target_mask_act": "sigmoid",
        "score_act": "relu",
    }  # fmt: skip
    prdimp = {
        "filter_size": 4, "backbone_pretrained": True, "optim_iter": 5, "clf_feat_norm": True, "clf_feat_blocks": 1,
        "final_conv": True, "out_feature_dim": 256, "optim_init_step": 1.0, "optim_init_reg": 0.05, "optim_min_reg": 0.05,
        "gauss_sigma": 0.9, "alpha_eps": 0.05, "normalize_label": True, "init_initializer": "zero",
    }  # fmt: skip
    r50 = {"clf_feat_blocks": 0, "out_feature_dim": 512}
    simple = {
        "filter_size": 4, "optim_init_reg": 0.1, "hinge_threshold": 0.05, "activation_leak": 0.1, "clf_feat_blocks": 0,
        "final_conv": True, "out_feature_dim": 512, "frozen_backbone_layers": ["conv1", "bn1", "layer1", "layer2"],
    }  # fmt: skip
    return {
        "dimp18": ("dimpnet18", dimp),
        "dimp50": ("dimpnet50", {**dimp, **r50}),
        "prdimp18": ("klcedimpnet18", prdimp),
        "prdimp50": ("klcedimpnet50", {**prdimp, **r50}),
        "super_dimp": ("dimpnet50", {**dimp, **r50, "init_gauss_sigma": 0.25 * 22 / 6}),
        "super_dimp_simple": ("dimpnet50_simple", simple),
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_constructor_gives_the_published_configuration(name):
    assert config_from_constructor(*published_keywords(name)) == network_config(name)


def test_missing_keywords_have_the_functions_own_defaults():
    config = config_from_constructor("klcedimpnet18", {})
    assert (config.gauss_sigma, config.alpha_eps, config.min_filter_reg, config.normalise_label) == (
        1.0,
        0,
        1e-3,
        False,
    )
    config = config_from_constructor("dimpnet18", {})
    assert (config.num_dist_bins, config.bin_displacement) == (5, 1.0)


@pytest.mark.parametrize(
    ("fun", "keywords", "words"),
    [
        ("atom_resnet18", {}, "DiMP family"),
        ("dimpnet18", {"colour": 3}, "colour"),
        ("dimpnet18", {"feat_stride": 8}, "feat_stride"),
        ("dimpnet18", {"classification_layer": ["layer2"]}, "classification_layer"),
    ],
)
def test_other_constructors_are_refused(fun, keywords, words):
    with pytest.raises(WeightsError, match=words):
        config_from_constructor(fun, keywords)


def test_unknown_names_and_values():
    with pytest.raises(InputError, match="dimp18"):
        network_config("dimp19")
    with pytest.raises(InputError, match="resnet34"):
        DiMPNetConfig(backbone="resnet34")


def test_inference_copy_leaves_the_original_alone():
    torch.manual_seed(0)
    net = DiMPNet(network_config("dimp18")).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    lean = net.for_inference()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not hasattr(lean.feature_extractor, "layer4")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lean.feature_extractor.modules())
    assert not any(p.requires_grad for p in lean.parameters())
    assert all(p.requires_grad for p in net.parameters())
