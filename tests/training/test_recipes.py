"""Recipes hold the published table number by number, change by typed overrides, and go through JSON unchanged."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from keepsight.errors import InputError, WeightsError
from keepsight.models.atom import AtomNetConfig
from keepsight.training.job import weights_header
from keepsight.training.objectives import AtomObjective, PrDiMPObjective, SuperDiMPObjective
from keepsight.training.recipes import (
    DataConfig,
    OptimConfig,
    ParameterGroup,
    Recipe,
    WeightedSet,
    debug,
    find_recipe,
    override,
    recipe_names,
)
from keepsight.weights.store import WeightsHeader, save_weights

COLUMNS = {"super_dimp": "superdimp", "super_dimp_simple": "superdimp_simple"}
LEFT = "←"
ABLATIONS = {
    "atom_no_reference": {"reference": "none"}, "atom_concatenation": {"reference": "concatenation"},
    "atom_siamese": {"reference": "siamese"}, "atom_block3": {"levels": (3,)}, "atom_block4": {"levels": (4,)},
}  # fmt: skip
"""Table 1 of ATOM's paper, by what of the network differs."""
PUBLISHED = tuple(name for name in recipe_names() if name not in ("dimp_lite", *ABLATIONS))
"""Those of the specification's table; dimp_lite is the library's own."""


@pytest.fixture(scope="module")
def table(request) -> dict[str, dict[str, str]]:
    """Spec §5: recipe -> row -> cell, "same as left" filled in."""
    spec = Path(__file__).resolve().parents[3] / "shared" / "spec" / "dimp-atom.md"
    if not spec.is_file():
        pytest.skip(f"no specification at {spec}")
    section = spec.read_text().split("## 5. Training settings")[1].split("\n## 6.")[0]
    rows = [[c.strip() for c in line.strip("| ").split("|")] for line in section.splitlines() if line.startswith("|")]
    names = [COLUMNS.get(n, n) for n in section.splitlines()[next_table(section)].split("|")[2:-1] for n in [n.strip()]]
    cells: dict[str, dict[str, str]] = {name: {} for name in names}
    for row in rows[2:]:
        title, values = row[0], row[1:]
        assert len(values) == len(names), title
        for i, (name, value) in enumerate(zip(names, values, strict=True)):
            left = cells[names[i - 1]].get(title, "") if i else ""
            same_as = {"same": "atom", "as atom": "atom", "= dimp18": "dimp18", "= super": "superdimp"}
            aliases = {LEFT: left, **{words: cells[other].get(title, value) for words, other in same_as.items()}}
            cells[name][title] = aliases.get(value, left + value[1:] if value.startswith(LEFT) else value)
    return cells


def next_table(section: str) -> int:
    return next(i for i, line in enumerate(section.splitlines()) if line.startswith("|"))


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"(?<![\w.])-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?", text.replace("–", " "))]


@pytest.fixture(params=PUBLISHED)
def cell(request, table):
    return find_recipe(request.param), table[request.param]


def test_names(table):
    assert sorted(table) == sorted(PUBLISHED)
    assert set(recipe_names()) - set(PUBLISHED) == {"dimp_lite", *ABLATIONS}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_differ_from_atom_in_the_network_alone(name):
    recipe, atom = find_recipe(name), find_recipe("atom")
    assert recipe.network == AtomNetConfig("resnet18", **ABLATIONS[name]) != atom.network
    assert replace(recipe, name="atom", network=atom.network) == atom
    small = find_recipe(f"{name}-debug")
    assert small.network == AtomNetConfig("resnet18-narrow", **ABLATIONS[name])


def test_network_of_the_table(cell):
    recipe, row = cell
    kind, deep = {
        "atom_resnet18": ("atom", False), "dimpnet18": ("dimp", False), "dimpnet50": ("dimp", True),
        "klcedimpnet18": ("prdimp", False), "klcedimpnet50": ("prdimp", True), "dimpnet50_simple": ("simple", True),
    }[row["net"]]  # fmt: skip
    assert recipe.network.backbone == recipe.init == ("resnet50" if deep else "resnet18")
    assert getattr(recipe.network, "optimiser", "atom") == kind
    options, net = row["net options"], recipe.network
    if kind == "atom":
        assert options == "–"
        return
    assert net.filter_size == 4
    assert net.classifier_dim == (512 if deep else 256)
    if options.startswith("iters 5, step .9"):
        assert numbers(options) == [5, net.init_step, net.init_filter_reg, net.num_dist_bins, net.bin_displacement,
                                    net.mask_init_factor]  # fmt: skip
        assert net.gauss_sigma == 0.9
    elif options.startswith("step 1.0"):
        assert options.endswith("zero init")
        assert numbers(options) == [net.init_step, net.init_filter_reg, net.min_filter_reg, net.alpha_eps]
        assert net.zero_init
    elif options.startswith("as dimp50"):
        assert net.gauss_sigma == pytest.approx(numbers(options)[-1], abs=5e-5)
        assert replace(net, gauss_sigma=0.9) == find_recipe("dimp50").network
    else:
        assert options == "reg .1, hinge .05, leak .1"
        assert (net.init_filter_reg, net.hinge_threshold, net.activation_leak) == (0.1, 0.05, 0.1)


def test_data_sets_of_the_table(cell):
    recipe, row = cell
    names = {"LaSOT": "lasot:train", "GOT10k-vottrain": "got10k:vot_train", "TrackingNet 0–3": "trackingnet:train_0-3",
             "TrackingNet 0–10": "trackingnet:train_0-10", "COCO": "coco:train2014", "GOT10k-votval": "got10k:vot_val",
             "TrackingNet 11": "trackingnet:train_11"}  # fmt: skip
    text, weights = re.fullmatch(r"(.*) \((.*)\)", row["train sets (weights)"]).groups()
    sets = ["LaSOT", "GOT10k-vottrain", "TrackingNet 0–3", "COCO"] if "4 sets" in text else text.split(", ")
    want = tuple(WeightedSet(names[s], w) for s, w in zip(sets, numbers(weights), strict=True))
    assert recipe.data.train == want
    assert recipe.data.validation == (WeightedSet(names[row["val set"]]),)


def test_samples_of_the_table(cell):
    recipe, row = cell
    data, p = recipe.data, recipe.data.processing
    assert [float(v) for v in row["frames train/test"].split("/")] == [data.sampler.n_train, data.sampler.n_test]
    mode, gap = row["sampler mode, max gap"].split()
    assert (data.sampler.mode, data.sampler.max_gap) == (mode, int(gap))
    assert numbers(row["search factor / crop"].replace("/", " ")) == [p.search_factor, p.output_size]
    crop = row["crop routine"]
    if crop.startswith("ATOM"):
        assert (p.crop, p.crop_mode) == ("atom", "replicate")
    else:
        assert (p.crop, p.crop_mode) == ("adaptive", re.search("'(.*)'", crop).group(1))
        assert p.max_scale_change == (1.5 if "max 1.5" in crop else None)
    assert numbers(row["centre jitter train/test"].replace("/", " ")) == [p.centre_jitter_train, p.centre_jitter_test]
    assert numbers(row["scale jitter train/test"].replace("/", " ")) == [p.scale_jitter_train, p.scale_jitter_test]
    assert numbers(row["batch"]) == [data.batch_size]
    assert numbers(row["samples/epoch train/val"].replace("/", " ")) == [
        data.samples_per_epoch,
        data.validation_samples,
    ]
    flips = 0.5 if "joint flip p=.5" in row["extra augmentation"] else 0.0
    assert p.joint_flip_probability == p.flip_probability == flips
    assert (p.grey_probability, p.brightness_jitter, p.normalise) == (0.05, 0.2, True)
    assert p.validation().brightness_jitter == p.validation().flip_probability == 0


def test_labels_and_proposals_of_the_table(cell):
    recipe, row = cell
    p = recipe.data.processing
    proposals = row["proposals/frame"]
    assert p.proposal_number == numbers(proposals)[0]
    assert p.proposals == ("gmm" if "GMM" in proposals else "sigma_list")
    assert p.gmm_add_mean_box == ("GT box" in proposals)
    if p.proposals == "gmm":
        spread = row["GMM σ (centre,size)"]
        if spread != "–" and not spread.startswith("same"):
            assert numbers(spread.split(";")[0]) == [v for pair in p.gmm_sigmas for v in pair]
        assert p.gmm_sigmas == ((0.05, 0.05), (0.5, 0.5))
        if "gt σ" in spread:
            assert numbers(spread.split("gt σ")[1]) == list(p.gmm_gt_sigma)
    else:
        assert p.proposal_min_iou == 0.1
        assert p.proposal_sigmas == (0.01, 0.05, 0.1, 0.2, 0.3)
    sigma = row["label σ factor"]
    if sigma == "–":
        assert p.label_sigma_factor is None
    else:
        above, below = re.match(r"(\.\d+)/(\d)", sigma).groups()
        assert p.label_sigma_factor == float(above) / float(below)
    assert p.label_density == ("density" in sigma)


def test_losses_of_the_table(cell):
    recipe, row = cell
    objective = recipe.build_objective()
    name, *weight = row["box loss"].split(" ×")
    assert objective.box_loss == {"MSE": "mse", "ML": "ml", "KL": "kl", "×1": "mse"}[name]
    assert objective.box_weight == (float(weight[0]) if weight else 1.0)
    text = row["clf loss"]
    if text == "–":
        assert isinstance(objective, AtomObjective)
        return
    final, initial, between = (float(v) for v in text.split()[-1].split("/"))
    assert (objective.final_weight, objective.initial_weight, objective.iteration_weight) == (final, initial, between)
    assert isinstance(objective, PrDiMPObjective) == ("grid KL" in text)
    if "LBHinge" in text:
        assert objective.hinge_threshold == 0.05


def test_learning_rates_of_the_table(cell):
    recipe, row = cell
    net = _skeleton(recipe)
    rates = {g["name"]: g["lr"] for g in recipe.parameter_groups(net)}
    whole = "classifier" in rates
    want = {}
    for title, name in (
        ("lr filter_initializer", "classifier" if whole else "classifier.filter_initializer"),
        ("lr filter_optimizer", "classifier.filter_optimizer"),
        ("lr clf feature head", "classifier.feature_extractor"),
        ("lr IoU-Net", "bb_regressor"),
        ("lr backbone", "feature_extractor.layer3" if "layer3 only" in row["lr backbone"] else "feature_extractor"),
    ):
        text = row[title]
        if text in ("–", "frozen") or text.startswith("("):
            continue
        want[name] = numbers(text.replace("layer3", ""))[0]
    assert rates == want
    assert list(rates) == list(want)  # the documented order
    assert ("feature_extractor" in recipe.frozen) == (row["lr backbone"] == "frozen")


def test_what_all_share():
    for name in PUBLISHED:
        recipe = find_recipe(name)
        optim = recipe.optim
        assert (recipe.epochs, recipe.validate_every, recipe.name) == (50, 5, name)
        assert (optim.schedule, optim.step_epochs, optim.step_factor) == ("step", 15, 0.2)
        assert (optim.betas, optim.weight_decay, optim.clip_norm, optim.lr_factor) == ((0.9, 0.999), 0, None, 1)
        drops = [round(-torch.tensor(optim.factor(e, 50)).log().item() / 1.6094379) for e in range(50)]
        assert drops == [0] * 15 + [1] * 15 + [2] * 15 + [3] * 5  # epochs 1-15, 16-30, 31-45, 46-50


@cache
def _skeleton(recipe: Recipe) -> torch.nn.Module:
    with torch.device("meta"):
        return replace(recipe, init="random").build_network()


# --- what is trained -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PUBLISHED, *ABLATIONS])
def test_trained_and_still_parts(name):
    recipe = find_recipe(name)
    net = _skeleton(recipe)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    training = {n for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training}
    backbone = {n for n in trained if n.startswith("feature_extractor.")}
    if name.startswith("atom"):
        assert not backbone
        assert "feature_extractor.layer1.0.bn1" in training  # quirk Q1
    elif name.startswith("super"):
        assert {n.split(".")[1] for n in backbone} == {"layer3"}
        assert {n.split(".")[1] for n in training if n.startswith("feature_extractor.")} == {"layer3", "layer4"}
    else:
        assert {n.split(".")[1] for n in backbone} == {"conv1", "bn1", "layer1", "layer2", "layer3"}
        assert "feature_extractor.bn1" in training
    assert {n for n in trained if n.startswith("bb_")} == {n for n, _ in net.named_parameters() if n.startswith("bb_")}
    grouped = [p for g in recipe.parameter_groups(net) for p in g["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(trained)
    recipe.train_mode(net.eval())
    assert training == {n for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training}


def test_trained_and_still_parts_of_dimp_lite():
    recipe = find_recipe("dimp_lite")
    net = _skeleton(recipe)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    blocks = {n.split(".")[2] for n in trained if n.startswith("backbone.")}
    assert blocks == {"5", "6", "7", "8", "9", "10"}  # what lies behind the fine tap
    heads = {n for n, _ in net.named_parameters() if not n.startswith("backbone.")}
    assert heads < trained
    training = {n for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training}
    assert {n.split(".")[0] for n in training} == {"residual", "box_net"}
    recipe.train_mode(net.eval())
    assert training == {n for n, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d) and m.training}
    groups = recipe.parameter_groups(net)
    assert [g["name"] for g in groups] == ["projection", "residual", "filter_optimizer", "box_net", "backbone"]
    assert sum(len(g["params"]) for g in groups) == len(trained)


def test_groups_that_do_not_fit_are_errors():
    recipe = find_recipe("dimp18-debug")
    net = recipe.build_network()
    with pytest.raises(InputError, match="in no group"):
        replace(recipe, optim=OptimConfig((ParameterGroup("bb_regressor", 1e-3),))).parameter_groups(net)
    misspelt = replace(recipe.optim, groups=(ParameterGroup("bb_regresor", 1e-3), *recipe.optim.groups))
    with pytest.raises(InputError, match="did you mean 'bb_regressor'"):
        replace(recipe, optim=misspelt).parameter_groups(net)
    with pytest.raises(InputError, match="fixed_statistics"):
        replace(recipe, fixed_statistics=("feature_extractor.layer9",)).build_network()


def test_optimiser_and_schedule():
    recipe = override(find_recipe("dimp18-debug"), ["optim.lr_factor=1", "optim.schedule=cosine", "epochs=10"])
    net = recipe.build_network()
    optimiser = recipe.build_optimiser(net)
    assert type(optimiser) is torch.optim.Adam
    assert [g["lr"] for g in optimiser.param_groups] == [5e-5, 5e-4, 5e-5, 1e-3, 2e-4]
    recipe.set_learning_rates(optimiser, 5)
    assert [g["lr"] for g in optimiser.param_groups] == pytest.approx([2.5e-5, 2.5e-4, 2.5e-5, 5e-4, 1e-4])
    recipe.set_learning_rates(optimiser, 0)
    assert optimiser.param_groups[3]["lr"] == 1e-3
    decayed = override(recipe, ["optim.weight_decay=0.01"]).build_optimiser(net)
    assert type(decayed) is torch.optim.AdamW


# --- names, JSON, overrides ----------------------------------------------------------------------------------------------


def test_names_and_unknown_names():
    assert find_recipe("super_dimp") == find_recipe("superdimp")
    assert find_recipe("dimp18-debug") == debug(find_recipe("dimp18"))
    assert find_recipe("dimp18") == find_recipe("dimp18")
    assert find_recipe("dimp18") != find_recipe("dimp50")
    with pytest.raises(InputError, match="dimp18"):
        find_recipe("dimp81")


@pytest.mark.parametrize("name", [*recipe_names(), "prdimp50-debug", "atom-debug", "dimp_lite-debug"])
def test_json_round_trip(name):
    recipe = find_recipe(name)
    text = json.dumps(recipe.to_dict())
    assert Recipe.from_dict(json.loads(text)) == recipe
    changed = json.loads(text)
    changed["data"]["batchsize"] = 3
    with pytest.raises(InputError, match="batch_size"):
        Recipe.from_dict(changed)
    changed = json.loads(text)
    changed["epochs"] = "many"
    with pytest.raises(InputError, match="epochs"):
        Recipe.from_dict(changed)
    changed = json.loads(text)
    del changed["network"]
    with pytest.raises(InputError, match="network"):
        Recipe.from_dict(changed)


def test_every_field_is_documented():
    for kind in (Recipe, DataConfig, OptimConfig, ParameterGroup, WeightedSet, AtomNetConfig, SuperDiMPObjective):
        body = ""  # of the class and its bases, which document what they add
        for base in (c for c in kind.__mro__ if dataclasses.is_dataclass(c)):
            source = Path(__import__(base.__module__, fromlist=["x"]).__file__).read_text()
            body += source.split(f"class {base.__name__}")[1].split("\nclass ")[0]
        for f in dataclasses.fields(kind):
            assert re.search(rf"\n    {f.name}: [^\n]*\n    \"\"\"", body), f"{kind.__name__}.{f.name} has no docstring"


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("optim.lr=1e-3", "optim.lr", 1e-3),
        ("optim.lr = 5", "optim.lr", 5.0),
        ("optim.betas=0.8,0.9", "optim.betas", (0.8, 0.9)),
        ("optim.clip_norm=2", "optim.clip_norm", 2.0),
        ("optim.clip_norm=none", "optim.clip_norm", None),
        ("data.sampler.mode=interval", "data.sampler.mode", "interval"),
        ("data.processing.exact_flip=yes", "data.processing.exact_flip", True),
        ("data.processing.label_sigma_factor=none", "data.processing.label_sigma_factor", None),
        ("data.processing.gmm_sigmas=[[0.1, 0.2]]", "data.processing.gmm_sigmas", ((0.1, 0.2),)),
        ("frozen=feature_extractor", "frozen", ("feature_extractor",)),
        ("frozen=", "frozen", ()),
        ("init=/files/a=b.pth", "init", "/files/a=b.pth"),
        ("data.train=coco:train2014*0.5,folder:/x/y", "data.train",
         (WeightedSet("coco:train2014", 0.5), WeightedSet("folder:/x/y"))),
        ("objective.box_weight=2", "objective.box_weight", 2.0),
        ("network.num_dist_bins=50", "network.num_dist_bins", 50),
    ],
)  # fmt: skip
def test_overrides(change, path, value):
    before = find_recipe("dimp18")
    found = after = override(before, [change])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert Recipe.from_dict(after.to_dict()) == after
    assert before == find_recipe("dimp18")


def test_overrides_of_elements():
    recipe = override(
        find_recipe("dimp50"),
        ["optim.groups.classifier.filter_optimizer.lr=1", "optim.groups.3.lr=2", "data.train.lasot:train.weight=3",
         "optim.lr_factor=0.5", "optim.lr_factor=0.25"],
    )  # fmt: skip
    assert [g.lr for g in recipe.optim.groups] == [5e-5, 1, 5e-5, 2, 2e-5]
    assert recipe.data.train[0] == WeightedSet("lasot:train", 3)
    assert recipe.optim.lr_factor == 0.25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optim.lrate=1", "lr_factor|lr_"),
        ("optimm.lr=1", "'optim'"),
        ("epochs", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("epochs=1.5", "an integer"),
        ("epochs=0", "at least 1"),
        ("optim.lr=fast", "a number"),
        ("optim=1", "group of settings.*betas"),
        ("optim.betas=0.9", "has 2"),
        ("optim.lr.x=1", "nothing is called 'x'"),
        ("optim.schedule=steps", "'step'"),
        ("data.train.lasot.weight=1", "lasot:train"),
        ("data.train=lasot:train*many", "NAME\\*WEIGHT"),
        ("data.train.lasot:train.weight=-1", "at least 0"),
        ("data.train=", "no training set"),
        ("data.batch_size=30000", "samples_per_epoch"),
        ("data.processing.masks=maybe", "true or false"),
        ("data.processing.crop=atomic", "'atom'"),
        ("network.backbone=resnet19", "resnet18"),
        ('objective={"class": "Dimp"}', "DiMPObjective"),
        ("objective={", "not JSON"),
        ("optim.groups.neck.lr=1", "no element"),
        ("optim.step_epochs=0", "step_epochs"),
    ],
)
def test_refused_overrides(change, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        override(find_recipe("dimp18"), [change])


def test_a_rate_without_effect_is_refused():
    with pytest.raises(InputError, match=r"no effect.*optim\.lr_factor"):
        override(find_recipe("superdimp"), ["optim.lr=1e-3"])
    with pytest.raises(InputError, match="has no learning rate"):
        override(find_recipe("dimp50"), ["optim.lr=none"])


def test_atoms_network_can_be_exchanged():
    recipe = override(find_recipe("atom"), ["network.reference=siamese", "network.levels=3"])
    assert recipe.network == AtomNetConfig("resnet18", "siamese", (3,))
    with pytest.raises(InputError, match=r"network.*\(3, 4\)"):
        override(recipe, ["network.levels=4,3"])


def test_an_objective_can_be_exchanged():
    recipe = override(find_recipe("dimp18"), ['objective={"class": "PrDiMPObjective", "box_weight": 1}'])
    assert recipe.objective == PrDiMPObjective(box_weight=1.0)


# --- initial weights -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_here(monkeypatch, tmp_path):
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_absent_imagenet_weights_say_what_is_expected(nothing_here):
    with pytest.raises(WeightsError, match=r"(?s)resnet50-19c8e357\.pth.*--set init=PATH.*init=random"):
        find_recipe("dimp50").build_network()
    with pytest.raises(WeightsError, match="no file"):
        replace(find_recipe("dimp18"), init="resnet19").build_network()
    assert find_recipe("dimp18").build_network(weights=False) is not None


def test_imagenet_weights_fill_the_backbone(nothing_here):
    recipe = find_recipe("dimp18-debug")
    source = recipe.build_network()
    folder = nothing_here / "weights"
    folder.mkdir()
    backbone = {k: v for k, v in source.feature_extractor.state_dict().items() if "num_batches" not in k}
    torch.save(backbone, folder / "resnet18-5c106cde.pth")  # as old torchvision files: no counters
    net = replace(recipe, init="resnet18").build_network()
    assert torch.equal(net.feature_extractor.layer2[0].conv1.weight, source.feature_extractor.layer2[0].conv1.weight)
    assert not torch.equal(net.bb_regressor.fc3_rt.linear.weight, source.bb_regressor.fc3_rt.linear.weight)
    with pytest.raises(WeightsError, match="not of a resnet50-narrow backbone"):
        replace(find_recipe("dimp50-debug"), init=str(folder / "resnet18-5c106cde.pth")).build_network()
    torch.save({"net": source.state_dict()}, nothing_here / "whole.pth")
    net = replace(recipe, init=str(nothing_here / "whole.pth")).build_network()
    for name, value in source.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)


def test_weights_that_dimp_lite_starts_from(tmp_path):
    """Features and the filter's optimiser, or the whole network; what the file lacks is made anew."""
    recipe = find_recipe("dimp_lite-debug")
    source = recipe.build_network()
    whole = source.state_dict()
    start = {n: t for n, t in whole.items() if not n.startswith(("residual.", "box_net."))}
    save_weights(tmp_path / "start.safetensors", start, WeightsHeader("lite", "dimp-lite"))
    net = replace(recipe, init=str(tmp_path / "start.safetensors")).build_network()
    assert all(torch.equal(net.state_dict()[n], t) for n, t in start.items())
    assert not net.residual[-1].weight.any()
    assert not torch.equal(net.box_net.looks.weight, source.box_net.looks.weight)
    save_weights(tmp_path / "whole.safetensors", whole, WeightsHeader("lite", "dimp-lite"))
    net = replace(recipe, init=str(tmp_path / "whole.safetensors")).build_network()
    assert all(torch.equal(net.state_dict()[n], t) for n, t in whole.items())
    torch.nn.init.ones_(source.residual[-1].weight)
    branch = {n: t for n, t in source.state_dict().items() if not n.startswith("box_net.")}
    save_weights(tmp_path / "branch.safetensors", branch, WeightsHeader("lite", "dimp-lite"))
    net = replace(recipe, init=str(tmp_path / "branch.safetensors")).build_network()
    assert net.residual[-1].weight.eq(1).all()
    save_weights(
        tmp_path / "part.safetensors",
        {n: t for n, t in whole.items() if "looks" not in n},
        WeightsHeader("lite", "dimp-lite"),
    )
    with pytest.raises(WeightsError, match=r"dimp-lite's network(?s:.)*looks"):
        replace(recipe, init=str(tmp_path / "part.safetensors")).build_network()


@pytest.mark.parametrize(
    ("name", "family", "preset"),
    [("dimp_lite", "lite", "dimp-lite"), ("dimp_lite-debug", "lite", "dimp-lite"), ("superdimp", "dimp", "super_dimp"),
     ("prdimp18-debug", "dimp", "prdimp18"), ("atom_paper", "atom", "atom_paper"),
     ("atom_block3", "atom", "atom_block3"), ("atom_siamese-debug", "atom", "atom_siamese")],
)  # fmt: skip
def test_header_of_the_weights_file(name, family, preset):
    recipe = find_recipe(name)
    header = json.loads(json.dumps(weights_header(recipe)))
    assert (header["family"], header["preset"]) == (family, preset)
    assert type(recipe.network)(**header["config"]) == recipe.network


# --- debug variants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_debug_variants_are_small_and_otherwise_the_same(name):
    recipe, small = find_recipe(name), find_recipe(f"{name}-debug")
    assert small.objective == recipe.objective
    own = [g.name.removesuffix(".layer3") for g in recipe.optim.groups]  # random layers below are nothing to keep
    assert [g.name for g in small.optim.groups] == own
    if not name.startswith(("super", "dimp_lite")):  # of these, too, the whole backbone learns
        assert small.frozen == recipe.frozen
    assert small.data.sampler == recipe.data.sampler
    assert small.data.batch_size <= 4
    assert small.init == "random"
    p, q = recipe.data.processing, small.data.processing
    if p.label_sigma_factor is not None:
        cells = p.label_sigma_factor * p.output_size
        assert q.label_sigma_factor * q.output_size == pytest.approx(cells)  # as wide in cells
    assert sum(v.numel() for v in _skeleton(small).parameters()) < 8e6
