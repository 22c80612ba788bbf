"""Names, places, recognition against the published key lists, and conversion."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from fake_checkpoints import fake_modules, training_file

from keepsight.errors import WeightsError
from keepsight.weights import (
    CATALOG,
    Constructor,
    WeightsHeader,
    catalog,
    check_keys,
    convert,
    describe,
    find_weights,
    list_weights,
    load_weights,
    recognise,
    save_weights,
    weights_folder,
)

TOGETHER = {
    "dimp50": "dimp50 or super_dimp",
    "super_dimp": "dimp50 or super_dimp",
    "lwl_stage1": "lwl_stage1 or lwl_stage2",
    "lwl_stage2": "lwl_stage1 or lwl_stage2",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture(scope="session")
def key_lists(golden: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Network name -> (tensor name -> shape) of every published list beside the golden numbers."""
    keys = golden.parent / "spec" / "keys"
    if not keys.is_dir():
        pytest.skip(f"no key lists at {keys}")
    lists = {}
    for path in sorted(keys.glob("*.json")):
        content = json.loads(path.read_text())
        if "state_dict" in content:
            lists[path.stem] = {e["name"]: tuple(e["shape"]) for e in content["state_dict"]}
        elif all(isinstance(shape, list) for shape in content.values()):
            lists[path.stem] = {name: tuple(shape) for name, shape in content.items()}
    assert len(lists) >= 10
    return lists


def without_numbers(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_recognise_every_published_list(key_lists: dict[str, dict[str, tuple[int, ...]]]) -> None:
    for name, shapes in key_lists.items():
        assert recognise(without_numbers(shapes)) == TOGETHER.get(name, name)
        assert recognise({f"module.{k}": v for k, v in without_numbers(shapes).items()}) == TOGETHER.get(name, name)


def test_recognise_other_networks() -> None:
    assert recognise({}) is None
    assert recognise(torch.nn.Linear(2, 2).state_dict()) is None


def test_every_list_passes_its_own_check_and_fails_the_others(key_lists: dict[str, dict[str, tuple[int, ...]]]) -> None:
    for name, shapes in key_lists.items():
        tensors = without_numbers(shapes)
        counters = {k for k in shapes if k.endswith("num_batches_tracked")}
        assert list(check_keys({k: v for k, v in tensors.items() if k not in counters}, shapes, what=name)) == list(
            shapes
        )
        for other, expected in key_lists.items():
            if expected == shapes:
                assert list(check_keys(tensors, expected, what=other)) == list(expected)
            else:
                with pytest.raises(WeightsError, match=f"not of {other}"):
                    check_keys(tensors, expected, what=other)


def test_one_wrong_shape_is_named(key_lists: dict[str, dict[str, tuple[int, ...]]]) -> None:
    shapes = key_lists["dimp18"]
    tensors = without_numbers(shapes)
    tensors["bb_regressor.iou_predictor.weight"] = torch.empty((1, 513), device="meta")
    with pytest.raises(WeightsError, match=r"1 of another shape: bb_regressor\.iou_predictor\.weight is \(1, 513\)"):
        check_keys(tensors, shapes, what="dimp18")


def test_absent_weights_say_where_from_and_what_to_do(folder: Path) -> None:
    for entry in CATALOG:
        if entry.packaged:
            continue
        with pytest.raises(WeightsError) as caught:
            find_weights(entry.name)
        message = str(caught.value)
        target = folder / f"{entry.name}.safetensors"
        assert repr(entry.name) in message
        assert str(target) in message
        if entry.published_file is None:
            assert f"keepsight train {entry.name.replace('-', '_')}" in message
            continue
        assert "authors' model zoo" in message
        assert (
            f"keepsight weights convert {entry.published_file} --name {entry.name} --out {shlex.quote(str(target))}"
            in message
        )
        assert f"must lie at {target}" in message


def test_find_converted_then_published(folder: Path) -> None:
    published = folder / "super_dimp.pth.tar"
    published.write_bytes(b"x")
    assert find_weights("super_dimp") == published
    assert find_weights("superdimp") == published  # the tracker's name
    converted = folder / "super_dimp.safetensors"
    converted.write_bytes(b"xy")
    assert find_weights("super_dimp") == converted
    (folder / "prdimp18.pth").write_bytes(b"x")  # either suffix
    assert find_weights("prdimp18").name == "prdimp18.pth"
    with pytest.raises(WeightsError):
        find_weights("super_dimp_simple")


def test_a_folder_that_is_looked_into_first(folder: Path, tmp_path: Path) -> None:
    (folder / "super_dimp.safetensors").write_bytes(b"x")
    assert find_weights("super_dimp", tmp_path).parent == folder
    for name in ("super_dimp.pth", "super_dimp.pth.tar", "super_dimp.safetensors"):  # the last comes first
        (tmp_path / name).write_bytes(b"x")
        assert find_weights("super_dimp", tmp_path) == tmp_path / name
    (tmp_path / "dimp-lite.safetensors").write_bytes(b"x")
    assert find_weights("dimp-lite", tmp_path).parent == tmp_path
    assert find_weights("dimp-lite").parent.name == "files"


def test_unknown_name_has_nearest_names() -> None:
    with pytest.raises(WeightsError, match="did you mean 'dimp50'"):
        find_weights("dimp51")


def test_packaged_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "__file__", str(tmp_path / "package" / "catalog.py"))
    with pytest.raises(WeightsError, match="reinstall"):
        find_weights("dimp-lite")
    file = tmp_path / "package" / "files" / "dimp-lite.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    assert find_weights("dimp-lite") == file


def test_list(folder: Path) -> None:
    (folder / "dimp50.safetensors").write_bytes(b"12345")
    statuses = {s.name: s for s in list_weights()}
    assert list(statuses) == [e.name for e in CATALOG]
    assert statuses["dimp50"].found
    assert statuses["dimp50"].size == 5
    assert not statuses["dimp18"].found
    assert statuses["dimp18"].size is None
    assert statuses["dimp18"].path == folder / "dimp18.safetensors"
    assert statuses["dimp-lite"].packaged


def test_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", "~/here")
    assert weights_folder() == Path.home() / "here"
    monkeypatch.delenv("KEEPSIGHT_WEIGHTS")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "keepsight" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == Path.home() / ".cache" / "keepsight" / "weights"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert weights_folder() == tmp_path / "local" / "keepsight" / "weights"


SHAPES = {
    "feature_extractor.conv1.weight": (2, 3),
    "bb_regressor.iou_predictor.weight": (1, 2),
    "bn.running_mean": (2,),
}


def published(path: Path, *, new: bool = False, bad: bool = False) -> Path:
    """A file like the authors': a training file with classes of theirs, in the old container."""
    net = {f"module.{name}": torch.full(shape, 0.5) for name, shape in SHAPES.items()}
    if bad:
        net["module.bn.running_mean"][0] = float("nan")
    with fake_modules("ltr.admin") as classes:
        torch.save(training_file(classes, net), path, _use_new_zipfile_serialization=new)
    return path


def validate(tensors: dict[str, torch.Tensor], constructor: Constructor | None) -> WeightsHeader:
    check_keys(tensors, SHAPES, what="a small network")
    assert constructor is not None
    return WeightsHeader("dimp", "small", {"gauss_sigma": constructor.kwds["gauss_sigma"]}, licence="theirs")


@pytest.mark.parametrize("new", [True, False])
def test_convert(tmp_path: Path, new: bool) -> None:
    source = published(tmp_path / "small.pth.tar", new=new)
    out = tmp_path / "out" / "small.safetensors"
    header = convert(source, out, validate=validate)
    read = load_weights(out)
    assert set(read.tensors) == set(SHAPES)
    assert header.source_file == read.header.source_file == "small.pth.tar"
    assert read.header.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert read.header.config == {"gauss_sigma": 0.9}
    assert read.header.licence == "theirs"


def test_convert_refuses(tmp_path: Path) -> None:
    source = published(tmp_path / "small.pth")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        convert(source, tmp_path / "out.pth", validate=validate)
    with pytest.raises(WeightsError, match=r"holds weights of atom, not of dimp18; it needs dimp18\.pth"):
        convert(source, tmp_path / "out.safetensors", validate=validate, name="dimp18")
    with pytest.raises(WeightsError, match=r"NaN or infinite values in 1 tensors, first bn\.running_mean"):
        convert(published(tmp_path / "bad.pth", bad=True), tmp_path / "out.safetensors", validate=validate)
    with pytest.raises(WeightsError, match="does not exist"):
        convert(tmp_path / "no.pth", tmp_path / "out.safetensors", validate=validate)
    assert not (tmp_path / "out.safetensors").exists()


def test_describe_foreign(tmp_path: Path) -> None:
    info = describe(published(tmp_path / "small.pth", bad=True))
    assert (info.format, info.architecture, info.tensors, info.parameters) == ("legacy", "atom", 3, 8)
    assert info.constructor is not None
    assert info.constructor.kwds["optim_iter"] == 5
    assert (info.net_type, info.epoch, info.header) == ("DiMPnet", 50, None)
    assert info.non_finite == {"module.bn.running_mean": 1}
    assert "optimizer" in info.other


def test_describe_ours(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "a.safetensors", {"w": torch.ones(3)}, WeightsHeader("dimp", "dimp18", source="x"))
    info = describe(path)
    assert info.format == "safetensors"
    assert info.header is not None
    assert info.header.preset == "dimp18"
    assert info.architecture is None
