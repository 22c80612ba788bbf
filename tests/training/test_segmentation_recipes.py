"""LWL's and RTS's recipes against the published table, their objectives term by term, and that small variants learn."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from keepsight.errors import InputError, WeightsError
from keepsight.models.segmentation import LWLBoxNet, LWLNet, RTSNet
from keepsight.nn.correlation import Samples, apply_filter
from keepsight.training import segmentation, segmentation_recipes
from keepsight.training.batch import Batch
from keepsight.training.data import Draw
from keepsight.training.job import LoopConfig, job_of, weights_header
from keepsight.training.loop import train
from keepsight.training.losses import jaccard, lb_hinge, lovasz_loss
from keepsight.training.objectives import BoxMaskObjective, MaskObjective, RTSObjective
from keepsight.training.recipe import OptimConfig, ParameterGroup
from keepsight.training.recipes import find_recipe, override, segmentation_recipe_names
from keepsight.training.segmentation import MaskBatch
from keepsight.training.segmentation_recipes import CORRECTED, MASK_RCNN, SegmentationRecipe
from keepsight.weights import load_weights

PUBLISHED = ("lwl_stage1", "lwl_stage2", "lwl_boxinit", "rts50")
TABLE = {  # §5, 8: epochs, batch, samples, drops, weight of the masks, initial weights
    "lwl_stage1": (70, 20, 20000, {40}, 100, MASK_RCNN),
    "lwl_stage2": (80, 20, 20000, {25, 75}, 100, "lwl_stage1"),
    "lwl_boxinit": (50, 8, 8000, {20, 40}, 10, "lwl_stage2"),
    "rts50": (200, 15, 15000, {25, 115, 160}, 10, "lwl_stage2"),
}
RATES = {
    "lwl_stage1": {
        "target_model.feature_extractor": 2e-5, "target_model.filter_optimizer": 1e-4, "decoder": 1e-4, "label_encoder": 2e-4,
    },
    "lwl_stage2": dict.fromkeys(
        ("target_model", "decoder", "label_encoder", *(f"feature_extractor.layer{i}" for i in (2, 3, 4))), 2e-5
    ),
    "lwl_boxinit": {"box_label_encoder": 1e-3},
    "rts50": {
        **{f"feature_extractor.layer{i}": 4e-5 for i in (2, 3, 4)},
        **dict.fromkeys(("target_model", "label_encoder", "decoder"), 8e-5),
        **dict.fromkeys(("clf_encoder", "classifier.filter_initializer", "classifier.feature_extractor"), 2e-4),
    },
}  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name):
    recipe = find_recipe(name)
    epochs, batch, samples, drops, weight, init = TABLE[name]
    data, objective = recipe.data, recipe.objective
    assert (recipe.epochs, data.batch_size, data.samples_per_epoch, objective.mask_weight) == (
        epochs,
        batch,
        samples,
        weight,
    )
    assert (recipe.init, objective.cross_entropy_weight) == (init, 0)
    factors = [recipe.optim.factor(e, epochs) for e in range(epochs)]
    assert {e for e in range(1, epochs) if factors[e] < factors[e - 1]} == drops
    assert factors[-1] == pytest.approx(0.2 ** len(drops))
    sampler = data.sampler
    assert (sampler.n_train, sampler.n_test, sampler.max_gap, sampler.gap_growth) == (
        1,
        1 if "box" in name else 3,
        100,
        5,
    )
    assert (sampler.mode, sampler.mask_pixels, sampler.visible_factor) == ("causal", 10, 2.0)
    c = data.processing
    assert (c.output_size, c.search_factor, c.crop_mode, c.max_scale_change) == ((832, 480), 5.0, "inside_major", None)
    assert (c.scale_jitter_train, c.scale_jitter_test) == (0.25, 0.5)
    assert (c.centre_jitter_train, c.centre_jitter_test) == ((3, 3), (5.5, 4.5))
    assert (c.grey_probability, c.flip_probability, c.brightness_jitter, c.pixels) == (0.05, 0.5, 0.2, "bgr")
    assert (c.rotation, c.scale) == ((0, 0) if "box" in name else (15, 0.2))
    assert data.validation_samples == 100 * batch
    assert recipe.validate_every == 5
    assert [s.name for s in data.validation] == ["youtubevos2019:jjvalid"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rates_and_frozen_parts(name):
    recipe = replace(find_recipe(name), init="random")
    with torch.device("meta"):
        net = recipe.build_network()
    wanted = {}
    for parameter, p in net.named_parameters():
        found = [lr for part, lr in RATES[name].items() if parameter == part or parameter.startswith(part + ".")]
        assert p.requires_grad == bool(found), parameter
        if found:
            wanted[id(p)] = found[0]
    given = {id(p): g["lr"] for g in recipe.parameter_groups(net) for p in g["params"]}
    assert given == wanted
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_training_sets_and_their_shares():
    shares = {s.name: s.weight for s in find_recipe("rts50").data.train}
    assert shares == {
        "youtubevos2019:jjtrain": 6, "davis2017:train": 1, "got10k_masks:vot_train": 6, "lasot_masks:train": 6
    }  # fmt: skip
    for name in ("lwl_stage1", "lwl_stage2"):
        assert [(s.name, s.weight) for s in find_recipe(name).data.train] == list(shares.items())[:2]
    assert {s.name: s.weight for s in find_recipe("lwl_boxinit").data.train} == {
        "youtubevos2019:jjtrain": 1, "coco:train2014": 1
    }  # fmt: skip
    objective = find_recipe("rts50").objective
    assert (objective.final_weight, objective.initial_weight, objective.iteration_weight) == (100, 100, 400)
    assert find_recipe("rts50").data.processing.label_sigma_factor == 0.05


def test_rts50_ytvos_goes_on_from_rts50_on_youtube_vos_alone():
    """§8.2."""
    recipe, base = find_recipe("rts50_ytvos"), find_recipe("rts50")
    assert (recipe.init, recipe.fresh, recipe.epochs) == ("rts50", (), 50)
    assert [(s.name, s.weight) for s in recipe.data.train] == [("youtubevos2019:train", 1.0)]
    assert (recipe.network, recipe.objective, recipe.frozen) == (base.network, base.objective, base.frozen)
    assert recipe.data.processing == base.data.processing
    assert [recipe.optim.lr_factor * recipe.optim.factor(e, 50) for e in (0, 24, 25, 49)] == pytest.approx(
        [0.2, 0.2, 0.04, 0.04]
    )


def test_corrected_variants_differ_in_the_named_mistakes_alone():
    assert set(segmentation_recipe_names()) == {*PUBLISHED, "rts50_ytvos", *(n + CORRECTED for n in PUBLISHED)}
    changes = {
        "lwl_stage1": {("objective", "refits", 2)},
        "lwl_stage2": {("objective", "refits", 2)},
        "lwl_boxinit": {("network", "wrap_boxes", False)},
        "rts50": {("objective", "refits", 2), ("network", "clf_pool_stride", 32)},
    }
    for name, wanted in changes.items():
        published, corrected = find_recipe(name), find_recipe(name + CORRECTED)
        found = {
            (part, f.name, getattr(getattr(corrected, part), f.name))
            for part in ("network", "objective")
            for f in fields(getattr(published, part))
            if getattr(getattr(published, part), f.name) != getattr(getattr(corrected, part), f.name)
        }
        assert found == wanted
        same = replace(corrected, name=published.name, network=published.network, objective=published.objective)
        assert same == published


@pytest.mark.parametrize("name", [n + d for n in segmentation_recipe_names() for d in ("", "-debug")])
def test_as_json_and_back(name):
    recipe = find_recipe(name)
    assert SegmentationRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    changed = override(recipe, ["data.processing.output_size=416,256", "objective.mask_weight=7"])
    assert (changed.data.processing.output_size, changed.objective.mask_weight) == ((416, 256), 7)


def test_drops_at_named_epochs():
    optim = OptimConfig((ParameterGroup("decoder", 1.0),), step_at=(25, 75))
    assert [round(optim.factor(e, 80), 3) for e in (0, 24.9, 25, 74, 75, 79)] == [1, 1, 0.2, 0.2, 0.04, 0.04]


# --- initial weights -----------------------------------------------------------------------------------------------------


def test_each_stage_begins_with_the_one_before(tmp_path):
    small = find_recipe("lwl_stage1-debug")
    torch.manual_seed(1)
    first = small.build_network()
    torch.save(first.state_dict(), tmp_path / "lwl.pth")
    for name in ("lwl_boxinit", "rts50"):
        published, recipe = find_recipe(name), find_recipe(f"{name}-debug")
        recipe = replace(recipe, init=str(tmp_path / "lwl.pth"), fresh=published.fresh)
        torch.manual_seed(2)
        net = recipe.build_network()
        for key, value in net.state_dict().items():
            if key in first.state_dict():
                assert torch.equal(value, first.state_dict()[key]), key
            else:
                assert key.startswith(published.fresh)
        with pytest.raises(WeightsError, match=r"box_label_encoder|clf_encoder|classifier"):
            replace(recipe, fresh=()).build_network()


def test_a_file_with_a_backbone_fills_the_backbone(tmp_path):
    small = find_recipe("lwl_stage1-debug")
    torch.manual_seed(1)
    backbone = small.build_network().feature_extractor.state_dict()
    torch.save(backbone, tmp_path / "rcnn.pkl")
    torch.manual_seed(2)
    net = replace(small, init=str(tmp_path / "rcnn.pkl")).build_network()
    assert all(torch.equal(v, backbone[k]) for k, v in net.feature_extractor.state_dict().items())


def test_mask_rcnns_file_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(WeightsError, match=r"e2e_mask_rcnn_R_50_FPN_1x_converted\.pkl in "):
        find_recipe("lwl_stage1").initial_path()


def test_header_names_the_network():
    header = weights_header(find_recipe("rts50_corrected-debug"))
    assert (header["family"], header["preset"]) == ("segmentation", "rts50")
    assert header["config"]["clf_pool_stride"] == 32


# --- objectives ----------------------------------------------------------------------------------------------------------


def small(name: str, changes: tuple[str, ...] = ()) -> SegmentationRecipe:
    return override(find_recipe(f"{name}-debug"), ["data.processing.output_size=96,64", "data.batch_size=2", *changes])


def net_and_batch(recipe: SegmentationRecipe) -> tuple[LWLNet, Batch]:
    torch.manual_seed(0)
    net = recipe.build_network().eval()
    generator = torch.Generator().manual_seed(3)
    masks = torch.zeros(4, 2, 64, 96)
    boxes = torch.zeros(4, 2, 4)
    for i in range(4):
        for s in range(2):
            x, y = 20 + 6 * i + 10 * s, 15 + 3 * i
            masks[i, s, y : y + 24, x : x + 30] = 1
            boxes[i, s] = torch.tensor((x, y, 30.0, 24.0))
    images = 60 * torch.randn(4, 2, 3, 64, 96, generator=generator) + 80 * masks[:, :, None]
    label = torch.rand(4, 2, 3, 4, generator=generator) ** 4
    n = recipe.data.sampler.n_test
    batch = MaskBatch(
        images[:1], images[1 : 1 + n], boxes[:1], boxes[1 : 1 + n], train_masks=masks[:1], test_masks=masks[1 : 1 + n],
        train_label=label[:1], test_label=label[1 : 1 + n], identities=["a", "b"],
    )  # fmt: skip
    return net, batch


def decoded(net: LWLNet, batch: Batch, bank: torch.Tensor, frame: int) -> torch.Tensor:
    """Logits (S, H, W) of one test frame, by the network's parts alone."""
    layers = net.extract(batch.test_images[frame])
    encoding = net.apply_filter(bank, net.target_features(layers["layer3"])[None])
    return net.decode(encoding, layers, (64, 96))[:, 0]


def first_filter(net: LWLNet, batch: Batch) -> torch.Tensor:
    features = net.target_features(net.extract(batch.train_images[0])["layer3"])[None]
    return net.fit_filter(net.zero_filter(2), features, *net.label_encoder(batch.train_masks), 5)


def test_published_objective_uses_the_train_frames_filter_for_every_test_frame():
    """Quirk Q9: in the published code nothing that is fitted afterwards reaches an output."""
    net, batch = net_and_batch(small("lwl_stage1"))
    bank = first_filter(net, batch)
    logits = torch.stack([decoded(net, batch, bank, i) for i in range(3)])  # (I, S, H, W)
    found = MaskObjective()(net, batch)
    assert found.parts["mask"].item() == pytest.approx(100 * lovasz_loss(logits, batch.test_masks).item(), rel=1e-4)
    assert found.statistics["jaccard"].item() == pytest.approx(jaccard(logits, batch.test_masks).mean().item())
    assert list(found.parts) == ["mask"]
    both = replace(MaskObjective(), cross_entropy_weight=3.0)(net, batch)
    assert both.total.item() == pytest.approx(sum(p.item() for p in both.parts.values()), rel=1e-6)
    crossed = nn.functional.binary_cross_entropy_with_logits(logits, batch.test_masks)
    assert both.parts["cross_entropy"].item() == pytest.approx(3 * crossed.item(), rel=1e-4)


def test_corrected_objective_fits_the_filter_to_predicted_masks():
    net, batch = net_and_batch(small("lwl_stage1"))
    bank = first_filter(net, batch)
    features = [net.target_features(net.extract(batch.train_images[0])["layer3"])[None]]
    labels, weights = ([part] for part in net.label_encoder(batch.train_masks))
    logits = [decoded(net, batch, bank, 0)]
    for i in (1, 2):
        features.append(net.target_features(net.extract(batch.test_images[i - 1])["layer3"])[None])
        found = net.label_encoder(torch.sigmoid(logits[-1])[None])
        labels.append(found.labels)
        weights.append(found.weights)
        bank = net.fit_filter(bank, torch.cat(features), torch.cat(labels), torch.cat(weights), 2)
        logits.append(decoded(net, batch, bank, i))
    wanted = 100 * lovasz_loss(torch.stack(logits), batch.test_masks).item()
    assert MaskObjective(refits=2)(net, batch).parts["mask"].item() == pytest.approx(wanted, rel=1e-4)
    assert MaskObjective()(net, batch).parts["mask"].item() != pytest.approx(wanted, rel=1e-5)


def test_gradients_do_not_run_through_predicted_masks():
    net, batch = net_and_batch(small("lwl_stage1"))
    given = []
    net.label_encoder.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    found = MaskObjective(refits=2)(net, batch)
    assert [m.shape[0] for m in given] == [1, 1, 1], "the train frame's, and two predicted ones"
    assert torch.equal(given[0], batch.train_masks)
    assert not any(m.requires_grad for m in given)
    assert found.total.requires_grad


@pytest.mark.parametrize("refits", [0, 2])
def test_gradients_reach_every_part_through_the_learner(refits):
    net, batch = net_and_batch(small("lwl_stage1"))
    MaskObjective(refits=refits)(net, batch).total.backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_box_objective_reads_the_train_frame_and_teaches_the_box_encoder_alone():
    recipe = replace(small("lwl_boxinit"), frozen=find_recipe("lwl_boxinit").frozen)
    net, batch = net_and_batch(recipe)
    assert isinstance(net, LWLBoxNet)
    found = BoxMaskObjective()(net, batch)
    layers = net.extract(batch.train_images[0])
    encoding = net.box_encoding(net.target_features(layers["layer3"]), batch.train_boxes[0], (64, 96))
    logits = net.decode(encoding, layers, (64, 96))[:, 0]
    assert found.parts["mask"].item() == pytest.approx(
        10 * lovasz_loss(logits[None], batch.train_masks).item(), rel=1e-5
    )
    found.total.backward()
    assert {name.partition(".")[0] for name, p in net.named_parameters() if p.grad is not None} == {"box_label_encoder"}


def classifier_filters(net: RTSNet, batch: Batch) -> tuple[torch.Tensor, ...]:
    """The initialiser's filter, and those after each of the five steps of training (§7, 8), (S, D, k, k) each."""
    known = net.classifier_features(net.extract(batch.train_images[0])["layer3"])[None]
    start = net.classifier.filter_initializer(known, batch.train_boxes)
    fit = net.classifier.filter_optimizer(
        start, Samples.from_maps(known), batch.train_label, None, 5, keep_iterates=True
    )
    assert torch.equal(fit.iterates[0], start)
    return fit.iterates


def test_rts_objective_term_by_term():
    assert find_recipe("rts50").network.iterations == 5
    net, batch = net_and_batch(small("rts50"))
    assert isinstance(net, RTSNet)
    found = RTSObjective()(net, batch)
    scores = []

    def spy(encoding, given):
        scores.append(given)
        return RTSNet.fuse(net, encoding, given)

    net.fuse = spy  # type: ignore[method-assign]
    again = RTSObjective()(net, batch)
    (last,) = scores
    assert last.shape == (3, 2, 3, 4)
    hinge = lb_hinge(last, batch.test_label, 0.05).item()
    assert found.parts["classifier"].item() == pytest.approx(100 * hinge, rel=1e-5)
    assert set(found.parts) == {"mask", "classifier", "classifier_initial", "classifier_iterations"}
    assert found.total.item() == pytest.approx(sum(p.item() for p in found.parts.values()), rel=1e-6)
    assert again.total.item() == found.total.item()
    filters = classifier_filters(net, batch)
    assert len(filters) == 6
    judged = net.classifier_features(net.extract(batch.test_images.flatten(0, 1))["layer3"]).unflatten(0, (3, 2))
    each = [
        lb_hinge(apply_filter(Samples.from_maps(judged), f).transpose(0, 1), batch.test_label, 0.05).item()
        for f in filters
    ]
    assert len({round(e, 6) for e in each}) == 6, "all differ, so that none stands for another"
    for name, wanted in (
        ("classifier_initial", 100 * each[0]), ("classifier_iterations", 400 * sum(each[1:5]) / 4), ("classifier", 100 * each[5]),
    ):  # fmt: skip
        assert found.parts[name].item() == pytest.approx(wanted, rel=1e-4)
    doubled = RTSObjective(mask_weight=20, final_weight=200, initial_weight=50, iteration_weight=100)(net, batch)
    for name, factor in (("mask", 2), ("classifier", 2), ("classifier_initial", 0.5), ("classifier_iterations", 0.25)):
        assert doubled.parts[name].item() == pytest.approx(factor * found.parts[name].item(), rel=1e-5)


def test_the_masks_loss_reaches_the_classifier():
    net, batch = net_and_batch(small("rts50"))
    RTSObjective(final_weight=0, initial_weight=0, iteration_weight=0)(net, batch).total.backward()
    for part in (net.classifier.filter_initializer, net.classifier.feature_extractor, net.clf_encoder.label_pred):
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0


@pytest.mark.parametrize(
    ("objective", "name"), [(RTSObjective(), "lwl_stage1"), (BoxMaskObjective(), "lwl_stage1")], ids=["rts", "box"]
)
def test_objectives_refuse_other_networks(objective, name):
    net, batch = net_and_batch(small(name))
    with pytest.raises(InputError, match="this objective needs"):
        objective(net, batch)
    with pytest.raises(InputError, match="LWL's network"):
        MaskObjective()(nn.Linear(1, 1), batch)


def test_batches_without_masks_are_refused():
    net, batch = net_and_batch(small("lwl_stage1"))
    with pytest.raises(InputError, match="the batch has no test_masks"):
        MaskObjective()(net, replace(batch, test_masks=None))


def test_jaccard():
    a = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]], [[2.0, -1.0], [0.5, 1.0]]])
    b = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])
    assert jaccard(a, b).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


# --- the whole pipeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PUBLISHED, "rts50_corrected"])
def test_debug_variant_trains_validates_and_saves(name, tmp_path):
    recipe = small(name, ("data.samples_per_epoch=2", "data.validation_samples=2", "epochs=1"))
    job = job_of(recipe)
    before = {k: v.clone() for k, v in job.net.state_dict().items()}
    outcome = train(job, LoopConfig(out=str(tmp_path), device="cpu", workers=0, tensorboard=False, log_every=1))
    assert outcome.best is not None
    found = load_weights(outcome.weights)
    assert (found.header.family, found.header.preset) == ("segmentation", name.removesuffix(CORRECTED))
    assert set(found.tensors) == set(before)
    assert any(not torch.equal(found.tensors[k], v) for k, v in before.items())
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all("jaccard" in r["statistics"] for r in records if "statistics" in r)
    assert sum("best" in r and "losses" in r for r in records) == 1


def test_learns_a_fixed_batch():
    """Loss falls and J rises on one batch, gone over again and again; with rates of 0 nothing moves."""
    recipe = small("lwl_stage1")
    assert learned(recipe, 15) > 0.1
    assert learned(override(recipe, ["optim.lr_factor=0"]), 2) == pytest.approx(0, abs=1e-6)


def learned(recipe: SegmentationRecipe, steps: int) -> float:
    """By how much J grows."""
    job = job_of(recipe)
    batch = job.source.collate([job.source.sample(Draw(0, k)).sample for k in range(2)]).as_floats()
    values = []
    for _ in range(steps):
        job.optimiser.zero_grad()
        losses = job.objective(job.net, batch)
        losses.total.backward()
        job.optimiser.step()
        values.append((losses.total.item(), losses.statistics["jaccard"].item()))
    assert values[-1][0] <= values[0][0]
    return values[-1][1] - values[0][1]


def test_documented_fields():
    for kind, module in (
        (segmentation.MaskProcessingConfig, segmentation), (MaskObjective, None), (RTSObjective, None),
        (segmentation_recipes.SegmentationRecipe, segmentation_recipes),
    ):  # fmt: skip
        source = Path((module or __import__(kind.__module__, fromlist=["x"])).__file__).read_text()
        body = source.split(f"class {kind.__name__}")[1].split("\n@dataclass")[0]
        for name in kind.__annotations__:
            assert f"    {name}: " in body
            assert '"""' in body.split(f"    {name}: ")[1].split("\n")[1], name
