"""The networks' training calls: shapes, what depends on what, and gradients against finite differences."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from keepsight.errors import InputError, WeightsError
from keepsight.models.atom import AtomNet, AtomNetConfig, atom_config_from_constructor
from keepsight.models.dimp import DiMPNet, network_config

KINDS = ("dimp18", "dimp50", "prdimp18", "super_dimp_simple")
ATOM = {
    "atom": {}, "none": {"reference": "none"}, "concatenation": {"reference": "concatenation"},
    "siamese": {"reference": "siamese"}, "block3": {"levels": (3,)}, "block4": {"levels": (4,)},
}  # fmt: skip
"""ATOM's network and the others of its paper's Table 1."""


def small(name: str, **changes) -> DiMPNet:
    torch.manual_seed(0)
    config = network_config(name)
    config = replace(config, backbone=config.backbone + "-narrow", classifier_dim=8, **changes)
    return DiMPNet(config).double()


def inputs(frames: int = 2, sequences: int = 2, proposals: int = 3, side: int = 64) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)

    def boxes(*shape: int) -> Tensor:
        return 12 + 20 * torch.rand(*shape, 4, generator=rng, dtype=torch.float64)

    images = torch.randn(2, frames, sequences, 3, side, side, generator=rng, dtype=torch.float64)
    cells = side // 16 + 1
    return {
        "train_images": images[0], "test_images": images[1], "train_boxes": boxes(frames, sequences),
        "proposals": boxes(frames, sequences, proposals),
        "train_label": torch.rand(frames, sequences, cells, cells, generator=rng, dtype=torch.float64),
    }  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_shapes(name):
    out = small(name)(**inputs(frames=3, sequences=2, proposals=4), iterations=2)
    assert [tuple(s.shape) for s in out.scores] == [(3, 2, 5, 5)] * 3
    assert out.boxes.shape == (3, 2, 4)
    given = {**inputs(), "proposals": None}
    assert small(name)(**given).boxes is None


def test_sequences_do_not_see_each_other():
    net, given = small("dimp18").eval(), inputs()
    both = net(**given)
    for s in (0, 1):
        alone = net(**{k: v[:, s : s + 1] for k, v in given.items()})
        torch.testing.assert_close(alone.boxes, both.boxes[:, s : s + 1])
        for one, two in zip(alone.scores, both.scores, strict=True):
            torch.testing.assert_close(one, two[:, s : s + 1])


def test_box_branch_sees_the_first_train_frame_only_and_the_filter_all():
    net, given = small("dimp18").eval(), inputs()
    before = net(**given)
    images, boxes = given["train_images"].clone(), given["train_boxes"].clone()
    images[1] += 1
    boxes[1] += 3
    after = net(**{**given, "train_images": images, "train_boxes": boxes})
    assert torch.equal(after.boxes, before.boxes)
    assert not torch.allclose(after.scores[-1], before.scores[-1])
    images[0] += 1
    assert not torch.allclose(net(**{**given, "train_images": images}).boxes, before.boxes)


def test_simple_networks_need_their_label():
    with pytest.raises(InputError, match="train_label"):
        small("super_dimp_simple")(**{**inputs(), "train_label": None})


@pytest.mark.parametrize("name", KINDS)
def test_gradients_through_the_unrolled_filter(name):
    """By the features of both sides, and by the learned numbers of the optimiser."""
    net, given = small(name, filter_size=2), inputs(frames=2, sequences=2, side=32)
    rng = torch.Generator().manual_seed(2)
    train, test = (torch.randn(2, 2, 8, 2, 2, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    label = torch.rand(2, 2, 3, 3, generator=rng, dtype=torch.float64)
    torch.nn.init.normal_(net.classifier.filter_initializer.filter_conv.weight, std=0.3, generator=rng)
    # PrDiMP starts with its regulariser at the lower limit, where a central difference sees half a kink
    learned = [(p.detach() + 0.02).requires_grad_() for p in net.classifier.filter_optimizer.parameters()]
    names = [n for n, _ in net.classifier.filter_optimizer.named_parameters()]

    def scores(train: Tensor, test: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        changed = {f"classifier.filter_optimizer.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(
            _Fit(net), {f"net.{k}": v for k, v in changed.items()}, (train, test, given["train_boxes"], label)
        )

    assert torch.autograd.gradcheck(scores, (train, test, *learned), fast_mode=True)


class _Fit(torch.nn.Module):
    """Only the filter's part of the training call."""

    def __init__(self, net: DiMPNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, train: Tensor, test: Tensor, boxes: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return self.net.filter_scores(train, test, boxes, label, 3)


@pytest.mark.parametrize("kind", [*KINDS, *ATOM])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradient_of_the_whole_network(kind, training):
    """Along a random direction of all parameters at once, against a central difference."""
    torch.manual_seed(0)
    net = AtomNet(AtomNetConfig("resnet18-narrow", **ATOM[kind])).double() if kind in ATOM else small(kind)
    net.train(training)
    given = inputs(sequences=3)
    if kind in ATOM:
        given.pop("train_label")
    with torch.no_grad():  # PrDiMP's initialiser starts from zeros
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))

    def value() -> Tensor:
        out = net(**given)
        return out.boxes.square().mean() + sum(s.tanh().mean() for s in out.scores)

    unused = ["layer4", "extractor.fc", *(["extractor.layer3"] if kind == "block3" else [])]
    used = [p for n, p in net.named_parameters() if not any(part in n for part in unused)]
    gradients = torch.autograd.grad(value(), used)
    direction = [torch.randn_like(p) * p.abs().mean() for p in used]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step, found = 1e-8, []  # so short that hardly a ReLU turns on the way
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(used, direction, strict=True):
                p.add_(sign * step * d)
            found.append(value())
    assert ((found[0] - found[1]) / (2 * step)).item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6)


def test_autocast_keeps_the_fit_and_the_pooling_in_float32():
    torch.manual_seed(0)
    net = small("dimp18").float().eval()
    given = {k: v.float() for k, v in inputs().items()}
    exact = net(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(**given)
    assert {s.dtype for s in out.scores} == {torch.float32}
    assert out.boxes.dtype == torch.float32
    torch.testing.assert_close(out.scores[-1], exact.scores[-1], atol=0.05, rtol=0.05)
    sum(s.square().mean() for s in (*out.scores, out.boxes)).backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "backbone"), [("atom", "resnet18"), ("atom_resnet50", "resnet50")])
def test_atom_has_the_published_names(golden, name, backbone):
    keys = golden.parent / "spec" / "keys" / f"{name}.json"
    if not keys.is_file():
        pytest.skip(f"no key list at {keys}")
    want = {k: tuple(v) for k, v in json.loads(keys.read_text()).items()}
    with torch.device("meta"):
        net = AtomNet(AtomNetConfig(backbone))
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == want
    assert list(net.state_dict()) == list(want)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "resnet500"}, "resnet50"),
        ({"reference": "concatenate"}, "concatenation"),
        ({"levels": (3, 5)}, r"\(3, 4\)"),
        ({"levels": 3}, "unknown"),
    ],
)
def test_unknown_settings_of_atom(settings, words):
    with pytest.raises(InputError, match=words):
        AtomNetConfig(**settings)


def test_atoms_settings_come_back_from_json():
    config = AtomNetConfig(reference="siamese", levels=(4,))
    assert AtomNetConfig(**json.loads(json.dumps(asdict(config)))) == config
    assert hash(AtomNetConfig(levels=[3])) == hash(AtomNetConfig(levels=(3,)))


@pytest.mark.parametrize(
    ("fun_name", "keywords", "backbone"),
    [
        ("atom_resnet18", {"backbone_pretrained": True}, "resnet18"),
        ("atom_resnet18", {"iou_input_dim": (256, 256), "iou_inter_dim": [256, 256]}, "resnet18"),
        ("atom_resnet50", {}, "resnet50"),
    ],
)
def test_atoms_constructors(fun_name, keywords, backbone):
    assert atom_config_from_constructor(fun_name, keywords) == AtomNetConfig(backbone)


@pytest.mark.parametrize(
    ("fun_name", "keywords", "words"),
    [
        ("dimpnet18", {}, "atom_resnet18"),
        ("atom_resnet18", {"filter_size": 4}, "filter_size"),
        ("atom_resnet18", {"iou_inter_dim": (256, 128)}, r"iou_inter_dim=\(256, 128\)"),
        ("atom_resnet50", {"iou_input_dim": 256}, "iou_input_dim=256"),
    ],
)
def test_refused_constructors_of_atom(fun_name, keywords, words):
    with pytest.raises(WeightsError, match=words):
        atom_config_from_constructor(fun_name, keywords)
