"""load(): names, files, published checkpoints; every failure says what to do."""

from __future__ import annotations

import sys
import types
from dataclasses import asdict

import numpy as np
import pytest
import torch
from small import matcher_file

import keepsight as ks
from keepsight.models.atom import ABLATED_NETWORKS, AtomNet, AtomNetConfig, atom_network
from keepsight.models.dimp import DiMPNet, network_config
from keepsight.models.keeptrack import KeepTrackNet, KeepTrackNetConfig, lite_config
from keepsight.models.segmentation import segmentation_config_from_constructor, segmentation_network
from keepsight.trackers.registry import load, published_header, read_network, tracker_of_weights, weights_files
from keepsight.weights import convert, find_weights, load_weights, save_weights
from keepsight.weights.store import WeightsHeader

FRAME = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def empty_weights_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def published(path, name: str, fun_name: str, kwds: dict, *, zip_format: bool, net=None, extra=None) -> torch.nn.Module:
    """A file as the authors' trainer writes it: tensors, a pickled constructor of a package that is not here.

    ``net``: the network, if it is none of ATOM's, DiMP's or KeepTrack's; ``extra``: tensors besides its own.
    """
    torch.manual_seed(1)
    if net is not None:
        pass
    elif fun_name.startswith("target_candidate"):
        net = KeepTrackNet()
    else:
        net = AtomNet(AtomNetConfig(name)) if fun_name.startswith("atom") else DiMPNet(network_config(name))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):  # no longer what a fresh network has
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    module = types.ModuleType("ltr.admin.model_constructor")

    class NetConstructor:
        def __init__(self):
            self.fun_name, self.fun_module, self.args, self.kwds = fun_name, "ltr.models.tracking.dimpnet", (), kwds

    NetConstructor.__module__, NetConstructor.__qualname__ = module.__name__, "NetConstructor"
    module.NetConstructor = NetConstructor
    fakes = {"ltr": types.ModuleType("ltr"), "ltr.admin": types.ModuleType("ltr.admin"), module.__name__: module}
    sys.modules.update(fakes)
    try:
        tensors = net.state_dict() | (extra or {})
        content = {"epoch": 50, "net_type": "DiMPnet", "net": tensors, "constructor": NetConstructor()}
        torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    finally:
        for key in fakes:
            del sys.modules[key]
    return net


KWDS = {
    "filter_size": 4, "backbone_pretrained": True, "optim_iter": 5, "clf_feat_norm": True, "clf_feat_blocks": 1,
    "final_conv": True, "out_feature_dim": 256, "optim_init_step": 1.0, "optim_init_reg": 0.05, "optim_min_reg": 0.05,
    "gauss_sigma": 0.77, "alpha_eps": 0.05, "normalize_label": True, "init_initializer": "zero",
}  # fmt: skip


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_published_file_loads_and_converts(tmp_path, empty_weights_folder, zip_format):
    path = tmp_path / "prdimp18.pth.tar"
    net = published(path, "prdimp18", "klcedimpnet18", KWDS, zip_format=zip_format)
    direct = load("prdimp18", weights=path, device="cpu")
    assert direct.net_config.gauss_sigma == 0.77  # lives in the constructor only
    out = empty_weights_folder / "prdimp18.safetensors"
    header = convert(path, out, validate=published_header(None))
    assert (header.preset, header.config["gauss_sigma"], header.source_file) == ("prdimp18", 0.77, path.name)
    assert set(load_weights(out).tensors) == set(net.state_dict())
    found = load("prdimp18", device="cpu")  # now the name finds it
    by_path = load(str(out), device="cpu")
    boxes = []
    for tracker in (direct, found, by_path):
        assert tracker.name == "prdimp18"
        tracker.init(FRAME, box=(40, 30, 30, 40))
        boxes.append(tracker.update(FRAME).box_unclipped)
    assert boxes[0] == boxes[1] == boxes[2]


def test_absent_weights_say_where_to_get_them(empty_weights_folder):
    with pytest.raises(ks.WeightsError) as error:
        load("superdimp", device="cpu")
    message = str(error.value)
    assert "super_dimp.pth.tar" in message
    assert "model zoo" in message
    assert "keepsight weights convert super_dimp.pth.tar --name super_dimp --out" in message
    assert str(empty_weights_folder / "super_dimp.safetensors") in message


def test_weights_of_another_network(tmp_path):
    path = tmp_path / "prdimp18.pth.tar"
    published(path, "prdimp18", "klcedimpnet18", KWDS, zip_format=True)
    with pytest.raises(ks.WeightsError, match=r"resnet18 \+ prdimp.*resnet50 \+ dimp"):
        load("superdimp", weights=path, device="cpu")
    with pytest.raises(ks.WeightsError):
        load("dimp-lite", weights=path, device="cpu")
    state = DiMPNet(network_config("dimp18")).state_dict()
    removed = dict(state)
    removed.pop("bb_regressor.iou_predictor.bias")
    removed["bb_regressor.extra"] = torch.zeros(1)
    config = asdict(network_config("dimp18"))
    save_weights(tmp_path / "broken.safetensors", removed, WeightsHeader("dimp", "dimp18", config))
    with pytest.raises(ks.WeightsError) as error:
        load("dimp18", weights=tmp_path / "broken.safetensors", device="cpu")
    assert "bb_regressor.iou_predictor.bias" in str(error.value)
    assert "bb_regressor.extra" in str(error.value)


def test_super_dimp_and_dimp50_are_told_apart_by_the_constructor(tmp_path):
    kwds = {
        "filter_size": 4, "clf_feat_norm": True, "clf_feat_blocks": 0, "final_conv": True, "out_feature_dim": 512,
        "optim_init_step": 0.9, "optim_init_reg": 0.1, "num_dist_bins": 100, "bin_displacement": 0.1,
        "mask_init_factor": 3.0, "init_gauss_sigma": 0.25 * 22 / 6,
    }  # fmt: skip
    path = tmp_path / "unnamed.pth"
    published(path, "super_dimp", "dimpnet50", kwds, zip_format=True)
    assert tracker_of_weights(path) == "superdimp"


def test_random_weights_follow_the_seed():
    one, same, other = (load("dimp18", weights="random", device="cpu", seed=s) for s in (3, 3, 4))
    first = lambda t: next(iter(t.net.parameters()))  # noqa: E731
    assert torch.equal(first(one), first(same))
    assert not torch.equal(first(one), first(other))


def test_a_state_of_another_tracker_is_refused(tmp_path):
    from small import small_dimp

    tracker = small_dimp("dimp18")
    tracker.init(FRAME, box=(40, 30, 30, 40))
    tracker.save_state(tmp_path / "s.safetensors")
    with pytest.raises(ks.StateError, match="another tracker"):
        small_dimp("prdimp18").load_state(tmp_path / "s.safetensors")
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, WeightsHeader("dimp", "dimp18"))
    with pytest.raises(ks.StateError, match="not a tracker state"):
        tracker.load_state(tmp_path / "w.safetensors")
    (tmp_path / "s.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:999])
    with pytest.raises(ks.KeepsightError):
        tracker.load_state(tmp_path / "s.safetensors")
    with pytest.raises(ks.KeepsightError):
        tracker.save_state(tmp_path / "s.safetensors" / "below-a-file.safetensors")
    with pytest.raises(ks.StateError, match="init"):
        small_dimp("dimp18").save_state(tmp_path / "x.safetensors")


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_atoms_published_file_loads_and_converts(tmp_path, empty_weights_folder, backbone, zip_format):
    path = tmp_path / "atom_default.pth"
    net = published(path, backbone, f"atom_{backbone}", {"backbone_pretrained": True}, zip_format=zip_format)
    direct = load("atom", weights=path, device="cpu")
    assert direct.net_config == AtomNetConfig(backbone)
    assert tracker_of_weights(path) == "atom"
    out = empty_weights_folder / "atom.safetensors"
    header = convert(path, out, validate=published_header(None))
    assert (header.family, header.preset, header.config["backbone"]) == ("atom", "atom", backbone)
    tensors, state = load_weights(out).tensors, net.state_dict()
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[key], value) for key, value in state.items())  # batch norm statistics included
    likely = convert(path, tmp_path / "ml.safetensors", validate=published_header("atom_prob_ml"), name="atom_prob_ml")
    assert likely.preset == "atom_prob_ml"
    plain = tmp_path / "plain.pth"  # without a constructor, the tensors tell the backbone
    torch.save({"net": state}, plain, _use_new_zipfile_serialization=zip_format)
    for other in (load("atom", device="cpu"), load(str(out), device="cpu"), load("atom", weights=plain, device="cpu")):
        assert (other.name, other.net_config) == ("atom", direct.net_config)
        assert all(map(torch.equal, other.net.parameters(), direct.net.parameters()))


@pytest.mark.parametrize("name", ABLATED_NETWORKS)
def test_networks_of_the_ablations_are_kept_apart(tmp_path, name):
    config = atom_network(name)
    net = AtomNet(config)
    own = save_weights(tmp_path / f"{name}.safetensors", net.state_dict(), WeightsHeader("atom", name, asdict(config)))
    assert load(str(own), device="cpu").name == name
    bare = tmp_path / "bare.pth"
    torch.save({"net": net.state_dict()}, bare)
    assert tracker_of_weights(bare) == name
    with pytest.raises(ks.WeightsError, match="this tracker needs modulation"):
        load("atom", weights=own, device="cpu")
    atom = save_weights(
        tmp_path / "atom.safetensors", AtomNet().state_dict(), WeightsHeader("atom", "atom", asdict(AtomNetConfig()))
    )
    with pytest.raises(ks.WeightsError, match="this tracker needs"):
        load(name, weights=atom, device="cpu")
    with pytest.raises(ks.WeightsError, match=f"keepsight train {name}"):
        load(name, device="cpu")


def test_a_recipe_of_its_own_finds_its_tracker(tmp_path):
    header = WeightsHeader("atom", "atom_paper", asdict(AtomNetConfig()))
    path = save_weights(tmp_path / "a.safetensors", AtomNet().state_dict(), header)
    assert load(str(path), device="cpu").name == "atom_paper"


@pytest.mark.parametrize(
    ("fun_name", "kwds", "message"),
    [
        ("atom_resnet101", {}, "not ATOM's"),
        ("atom_resnet18", {"iou_input_dim": (128, 128)}, r"iou_input_dim=\(128, 128\)"),
        ("atom_resnet18", {"surprise": 1}, "surprise"),
    ],
)
def test_atom_constructors_that_were_never_published(tmp_path, fun_name, kwds, message):
    path = tmp_path / "odd.pth"
    published(path, "resnet18", fun_name, kwds, zip_format=True)
    with pytest.raises(ks.WeightsError, match=message):
        load("atom", weights=path, device="cpu")


# --- two networks -------------------------------------------------------------------------------------------------------

MATCHER_KWDS = {
    "output_normalization": "sinkhorn", "num_sinkhorn_iterations": 7, "skip_gnn": False, "backbone_pretrained": True,
    "GNN_layers": ["self", "cross"] * 2, "frozen_backbone_layers": "all",
}  # fmt: skip
MATCHER = "target_candidate_matching_net_resnet50"


def base_weights(folder) -> DiMPNet:
    config = network_config("super_dimp_simple")
    torch.manual_seed(2)
    net = DiMPNet(config)
    header = WeightsHeader("dimp", "super_dimp_simple", asdict(config))
    save_weights(folder / "super_dimp_simple.safetensors", net.state_dict(), header)
    return net


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("zip_format", [True, False])
def test_keeptracks_published_file_converts(tmp_path, zip_format):
    path, out = tmp_path / "keep_track.pth.tar", tmp_path / "keep_track.safetensors"
    net = published(path, "keep_track", MATCHER, MATCHER_KWDS, zip_format=zip_format)
    assert tracker_of_weights(path) == "keeptrack"
    header = convert(path, out, validate=published_header(None))
    assert (header.family, header.preset, header.source_file) == ("keeptrack", "keep_track", path.name)
    assert (header.config["sinkhorn_iterations"], header.config["backbone"]) == (7, "resnet50")
    kept = load_weights(out).tensors
    assert set(kept) == set(net.state_dict())
    assert all(torch.equal(kept[key], value) for key, value in net.state_dict().items())
    named = convert(path, tmp_path / "named.safetensors", validate=published_header("keep_track"), name="keep_track")
    assert named == header


def test_keeptracks_published_file_loads(tmp_path, empty_weights_folder):
    path, out = tmp_path / "keep_track.pth.tar", empty_weights_folder / "keep_track.safetensors"
    net = published(path, "keep_track", MATCHER, MATCHER_KWDS, zip_format=True)
    empty_weights_folder.mkdir()
    base = base_weights(empty_weights_folder)
    convert(path, out, validate=published_header(None))
    found = load("keeptrack", device="cpu")
    assert found.matcher_config == KeepTrackNetConfig(sinkhorn_iterations=7)
    assert equal(found.follower.matcher, net.for_inference())
    assert equal(found.net, base.for_inference())
    out.unlink()
    for other in (load("keeptrack_fast", weights=path, device="cpu"), load(str(path), device="cpu")):
        assert equal(other.follower.matcher, found.follower.matcher)
        assert equal(other.net, found.net), "the base tracker's comes from its own file"
    assert other.name == "keeptrack", "the file says so"
    convert(path, out, validate=published_header(None))
    given = load("keeptrack", weights=empty_weights_folder / "super_dimp_simple.safetensors", device="cpu")
    assert equal(given.follower.matcher, found.follower.matcher), "a base tracker's file takes the base tracker's place"


def test_converting_keeptracks_file_from_the_command_line(tmp_path, capsys):
    from keepsight.cli import main

    path, out = tmp_path / "keep_track.pth.tar", tmp_path / "out.safetensors"
    net = published(path, "keep_track", MATCHER, MATCHER_KWDS, zip_format=True)
    assert main(["weights", "convert", str(path), "--out", str(out)]) == 0
    assert f"wrote {out}: keep_track, from keep_track.pth.tar" in capsys.readouterr().out
    assert main(["weights", "info", str(out)]) == 0
    assert "keeptrack" in capsys.readouterr().out
    tensors = net.state_dict()
    del tensors["matcher.bin_score"]
    torch.save({"net": tensors}, path)
    assert main(["weights", "convert", str(path), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "bin_score" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_absent_second_weights_say_where_to_get_them(empty_weights_folder):
    empty_weights_folder.mkdir()
    with pytest.raises(ks.WeightsError, match=r"super_dimp_simple\.pth\.tar"):
        load("keeptrack", device="cpu")
    base_weights(empty_weights_folder)
    with pytest.raises(ks.WeightsError, match=r"keep_track\.pth\.tar") as error:
        load("keeptrack", device="cpu")
    assert "keepsight weights convert keep_track.pth.tar --name keep_track --out" in str(error.value)


# --- LWL, RTS, STA ------------------------------------------------------------------------------------------------------

SEGMENTATION_KWDS = {  # narrow, but for the backbone, which the constructor cannot change
    "filter_size": 3, "num_filters": 4, "optim_iter": 5, "out_feature_dim": 8, "label_encoder_dims": (2, 3, 4),
    "use_bn_in_label_enc": False, "clf_feat_blocks": 0, "final_conv": True, "backbone_type": "mrcnn", "decoder_mdim": 4,
    "backbone_pretrained": False, "filter_groups": 1,
}  # fmt: skip
LWL, RTS = "steepest_descent_resnet50", "steepest_descent_resnet50_with_clf_encoder"
BOX_PARTS = {"box_target_model.x": torch.ones(2), "segm_encoder.y": torch.ones(2), "bbox_encoder.z": torch.ones(2)}


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize(
    ("name", "file", "fun_name", "more", "extra"),
    [
        ("lwl_stage2", "lwl_stage2.pth", LWL, {}, {}),
        ("lwl_boxinit", "lwl_boxinit.pth", LWL, {"box_label_encoder_dims": (5, 5), "final_bn": False}, {}),
        ("sta", "sta.pth.tar", LWL, {"label_encoder_dims": (2, 3, 4, 5), "optim_iter": 7}, {}),
        ("rts50", "rts50.pth", RTS, {"clf_filter_size": 3, "fusion_type": "add"}, {}),
        ("rts50", "rts50.pth", RTS, {"clf_filter_size": 3, "fusion_type": "concat"}, {}),
        ("rts50", "rts50.pth", f"{LWL}_boxinit", {"clf_filter_size": 3}, BOX_PARTS),
    ],
    ids=["lwl_stage2", "lwl_boxinit", "sta", "rts50", "rts50_concat", "rts50_boxinit"],
)
def test_published_segmentation_networks_convert(tmp_path, name, file, fun_name, more, extra, zip_format):
    build, default = segmentation_network(name)
    kwds = SEGMENTATION_KWDS | more
    config = segmentation_config_from_constructor(type(default), fun_name, kwds)
    torch.manual_seed(4)
    path, out = tmp_path / file, tmp_path / "out.safetensors"
    net = published(path, name, fun_name, kwds, zip_format=zip_format, net=build(config), extra=extra)
    header = convert(path, out, validate=published_header(None), name=name)
    assert (header.family, header.preset, header.source_file) == ("segmentation", name, file)
    assert type(config)(**header.config) == config
    kept, state = load_weights(out).tensors, net.state_dict()
    assert set(kept) == set(state), "not the parts that no network here has"
    assert all(torch.equal(kept[key], value) for key, value in state.items())
    for given in (path, out):
        tensors, found = read_network(given, default)
        assert found == config
        assert set(tensors) == set(state)
    for other in ("lwl_stage2", "lwl_boxinit", "sta", "rts50"):
        if other != name:
            with pytest.raises(ks.WeightsError):
                convert(path, tmp_path / "wrong.safetensors", validate=published_header(None), name=other)


def lite_matcher(folder, header: bool = True):
    """As training writes it: without a backbone."""
    torch.manual_seed(3)
    config = lite_config()
    net = KeepTrackNet(config)
    about = WeightsHeader("keeptrack", "keeptrack-lite", asdict(config) | {"backbone": None})
    path = folder / ("matcher.safetensors" if header else "matcher.pth")
    if header:
        return net, save_weights(path, net.state_dict(), about)
    torch.save({"net": net.state_dict()}, path)
    return net, path


@pytest.mark.parametrize("header", [True, False])
def test_a_trained_matcher_of_the_default_tracker(tmp_path, header):
    net, path = lite_matcher(tmp_path, header)
    tracker = load("keeptrack-lite", weights=path, device="cpu")
    assert equal(tracker.follower.matcher, net.for_inference())
    assert equal(tracker.net, load("dimp-lite", device="cpu").net)
    tracker.init(FRAME, box=(40, 30, 30, 40))
    assert tracker.update(FRAME).candidates
    if header:
        assert tracker_of_weights(path) == "keeptrack-lite"
        assert load(str(path), device="cpu").name == "keeptrack-lite"
    else:
        out = tmp_path / "named.safetensors"
        made = convert(path, out, validate=published_header("keeptrack-lite"), name="keeptrack-lite")
        assert (made.family, made.preset, made.config["descriptor_kernel"]) == ("keeptrack", "keeptrack-lite", 3)
        assert load(str(out), device="cpu").name == "keeptrack-lite"


def test_a_matcher_for_other_features_is_refused(tmp_path, empty_weights_folder):
    empty_weights_folder.mkdir()
    base_weights(empty_weights_folder)
    _, lite = lite_matcher(tmp_path)
    with pytest.raises(ks.WeightsError, match=r"feature_channels 232 .* needs feature_channels 1024"):
        load("keeptrack", weights=lite, device="cpu")
    path = tmp_path / "keep_track.pth.tar"
    published(path, "keep_track", MATCHER, MATCHER_KWDS, zip_format=True)
    with pytest.raises(ks.WeightsError, match=r"feature_channels 1024 .* needs feature_channels 232"):
        load("keeptrack-lite", weights=path, device="cpu")
    with pytest.raises(ks.WeightsError):
        load("dimp-lite", weights=lite, device="cpu")


def test_the_base_tracker_s_own_file_is_still_the_base_tracker_s(empty_weights_folder):
    empty_weights_folder.mkdir()
    base_weights(empty_weights_folder)
    assert tracker_of_weights(empty_weights_folder / "super_dimp_simple.safetensors") == "superdimp_simple"


def telling(path, *names: str):
    """A file of which only the kind can be told."""
    torch.save({"net": {name: torch.zeros(1) for name in names}}, path)
    return path


def telling_base(path):
    optimiser = "classifier.filter_optimizer.residual_module.filter_reg"
    return telling(path, "feature_extractor.layer1.0.conv3.weight", "bb_regressor.x", optimiser)


def telling_matcher(path):
    return telling(path, "descriptor_extractor.x", "matcher.x")


def test_files_of_two_networks_are_told_apart(tmp_path, empty_weights_folder):
    base, matcher = telling_base(tmp_path / "b.pth"), telling_matcher(tmp_path / "m.pth")
    for given in ((base, matcher), (matcher, base), [str(matcher), base]):
        assert weights_files("keeptrack", given) == (base, matcher)
    other = telling(tmp_path / "o.pth", "rpn_head.x", "backbone.features.0.weight")
    with pytest.raises(
        ks.WeightsError, match=r"o\.pth holds weights of siamrpn_alex, .* super_dimp_simple and keep_track"
    ):
        weights_files("keeptrack", (base, other))
    with pytest.raises(ks.WeightsError, match=r"holds weights of no network known here"):
        weights_files("keeptrack", telling(tmp_path / "x.pth", "x"))
    again = telling_matcher(tmp_path / "again.pth")
    with pytest.raises(ks.WeightsError, match=r"m\.pth and .*again\.pth are both weights of keep_track"):
        weights_files("keeptrack", (matcher, again))
    with pytest.raises(ks.WeightsError, match=r"b\.pth and .*b\.pth are both weights of super_dimp_simple"):
        weights_files("superdimp_simple", (base, base))
    assert weights_files("superdimp_simple", [matcher]) == (matcher,), "loading says what it is"
    with pytest.raises(ks.InputError, match="in no file"):
        weights_files("keeptrack", "random")


@pytest.mark.parametrize("name", ["keep_track.safetensors", "keep_track.pth.tar", "keep_track.pth"])
def test_the_other_file_lies_beside_the_given_one(tmp_path, empty_weights_folder, name):
    empty_weights_folder.mkdir()
    base = telling_base(tmp_path / "any name.pth.tar")
    usual = telling_matcher(empty_weights_folder / "keep_track.pth")
    assert weights_files("keeptrack", base) == (base, usual)
    beside = telling_matcher(tmp_path / name)
    assert weights_files("keeptrack", base) == (base, beside)
    assert weights_files("keeptrack", (base, usual)) == (base, usual), "both are given"
    telling_base(empty_weights_folder / "super_dimp_simple.pth")
    assert weights_files("keeptrack")[1] == usual, "nothing is given"


def test_an_absent_second_file_says_the_three_ways_to_give_it(tmp_path, empty_weights_folder):
    for given in (None, telling_base(tmp_path / "base.pth")):
        with pytest.raises(ks.WeightsError) as error:
            weights_files("keeptrack", given)
        told = str(error.value)
        assert "beside it" in told
        assert str(empty_weights_folder) in told
        assert "KEEPSIGHT_WEIGHTS" in told
        assert "--weights FILE --weights FILE" in told
    with pytest.raises(ks.WeightsError) as error:
        weights_files("dimp18")
    assert "beside" not in str(error.value), "it has one network"


@pytest.mark.parametrize("weights", [5, {"a": 1}, (), [], ("a", 5), b"a", {"a"}, ("random", "a")])
@pytest.mark.parametrize("name", ["dimp-lite", "keeptrack-lite"])
def test_weights_that_are_no_such_thing(name, weights):
    with pytest.raises(ks.InputError, match=r"weights is .*(expected the path of a weights file|give it alone)"):
        load(name, weights=weights, device="cpu")


def test_a_name_that_is_none():
    with pytest.raises(ks.InputError, match="the tracker is 5; expected a name"):
        load(5, device="cpu")


def test_both_files_of_the_default_tracker_with_association(tmp_path):
    copied, matcher = tmp_path / "mine.safetensors", matcher_file(tmp_path / "matcher.safetensors", seed=3)
    copied.write_bytes(find_weights("dimp-lite").read_bytes())
    both = load("keeptrack-lite", weights=(str(matcher), copied), device="cpu")
    one = load("keeptrack-lite", weights=[matcher], device="cpu")
    assert equal(both.net, one.net)
    assert equal(both.follower.matcher, one.follower.matcher)
    lone = load("dimp-lite", weights=[copied], device="cpu")
    assert equal(lone.net, one.net)
    random = load("keeptrack-lite", weights=["random"], device="cpu", seed=3)
    assert equal(random.net, load("keeptrack-lite", weights="random", device="cpu", seed=3).net)


def test_small_networks_suit_one_thread():
    from small import tiny_dimp

    names = ("dimp-lite", "atom-lite", "keeptrack-lite")
    assert all(load(name, weights="random", device="cpu").suits_one_thread for name in names)
    assert not tiny_dimp().suits_one_thread


def test_rts50_ytvos_has_its_own_weights_or_else_rts50s(monkeypatch, tmp_path):
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path))
    (tmp_path / "rts50.pth").write_bytes(b"x")
    assert [f.name for f in weights_files("rts50_ytvos")] == ["rts50.pth"]
    (tmp_path / "rts50_ytvos.safetensors").write_bytes(b"x")
    assert [f.name for f in weights_files("rts50_ytvos")] == ["rts50_ytvos.safetensors"]
    assert [f.name for f in weights_files("rts50")] == ["rts50.pth"]
