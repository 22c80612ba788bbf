"""Our own weights files: round trips, damage, failing writes, and the strict check of names and shapes."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from keepsight.errors import WeightsError
from keepsight.weights import (
    WeightsHeader,
    check_keys,
    load_weights,
    parse_header,
    read_any,
    read_checkpoint,
    save_weights,
)

HEADER = WeightsHeader(
    family="dimp", preset="prdimp18", config={"gauss_sigma": 0.9, "normalize_label": True, "layers": ["layer3"]},
    source_file="prdimp18.pth.tar", source_sha256="ab" * 32, source="the authors' model zoo", licence="ask the authors",
)  # fmt: skip


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(12.0).view(3, 4)
    return {
        "weight": base,
        "tied": base,
        "transposed": base.t(),
        "counter": torch.tensor(3),
        "half": torch.tensor([1.5]).bfloat16(),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "new folder" / "a.safetensors", tensors(), HEADER)
    read = load_weights(path)
    assert read.tensors.keys() == tensors().keys()
    for name, value in tensors().items():
        assert read.tensors[name].dtype == value.dtype
        assert torch.equal(read.tensors[name], value), name
    assert read.header.keepsight_version
    assert {**vars(read.header), "keepsight_version": ""} == vars(HEADER)
    assert os.listdir(path.parent) == ["a.safetensors"]
    any_file = read_any(path)
    assert any_file.format == "safetensors"
    assert parse_header(any_file.metadata, path) == read.header


def test_overwrite_keeps_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_weights(tmp_path / "a.safetensors", tensors(), HEADER)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        save_weights(path, {"other": torch.ones(3)}, HEADER)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_new_file_takes_the_old_ones_place_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_weights(tmp_path / "a.safetensors", tensors(), HEADER)
    before = path.read_bytes()
    seen = []

    def refuse(source: Path, target: Path) -> None:
        seen.append((load_weights(source).header.preset, Path(target)))  # whole before it is moved
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WeightsError, match="Permission denied"):
        save_weights(path, {"other": torch.ones(3)}, HEADER)
    assert seen == [("prdimp18", path)]
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_real_write_that_fails_half_way(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes are a matter of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(WeightsError, match="cannot be written"):
            save_weights(tmp_path / "a.safetensors", {"a": torch.zeros(100_000)}, HEADER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_unwritable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "file" / "a.safetensors", tmp_path / "folder.safetensors"):
        with pytest.raises(WeightsError, match="cannot be written"):
            save_weights(path, tensors(), HEADER)
    real = builtins.open

    def denied(path: Any, mode: str = "r", *args: Any) -> Any:  # root may write anywhere, so the refusal is played
        if "x" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, *args)

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(WeightsError, match="Permission denied"):
        save_weights(tmp_path / "a.safetensors", tensors(), HEADER)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


@pytest.mark.parametrize("config", [{"a": object()}, {"a": float("nan")}, {"a": torch.ones(1)}])
def test_config_must_be_json(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match="cannot be stored"):
        save_weights(tmp_path / "a.safetensors", tensors(), WeightsHeader("dimp", "x", config))
    assert os.listdir(tmp_path) == []


def test_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="empty"):
        save_weights(tmp_path / "a.safetensors", {}, HEADER)


def test_damaged_files_give_only_weights_errors(tmp_path: Path) -> None:
    path = save_weights(tmp_path / "a.safetensors", tensors(), HEADER)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for end in range(0, len(good) - 1, 7):
        path.write_bytes(good[:end])
        with pytest.raises(WeightsError):
            load_weights(path)
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, len(good), 2):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        with contextlib.suppress(WeightsError):
            load_weights(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "without keepsight's header"),
        ({"keepsight": "{"}, "damaged header"),
        ({"keepsight": "[" * 100_000}, "damaged header"),
        ({"keepsight": "[]"}, "damaged header"),
        ({"keepsight": '{"format_version": 1}'}, "damaged header"),
        ({"keepsight": '{"format_version": 1, "family": 3, "preset": "a"}'}, "damaged header"),
        ({"keepsight": '{"format_version": 1, "family": "a", "preset": "a", "config": 3}'}, "damaged header"),
        ({"keepsight": '{"format_version": 99, "family": "a", "preset": "a"}'}, "pip install --upgrade"),
        ({"keepsight": '{"format_version": "1", "family": "a", "preset": "a"}'}, "pip install --upgrade"),
    ],
)
def test_headers(tmp_path: Path, metadata: dict[str, str], words: str) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(WeightsError, match=words):
        load_weights(path)
    assert torch.equal(read_any(path).tensors["w"], torch.ones(2))  # the tensors themselves are fine


def test_later_fields_of_the_header_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"format_version": 1, "family": "dimp", "preset": "x", "mood": "good"})
    safetensors.torch.save_file({"w": torch.ones(2)}, path, metadata={"keepsight": header})
    assert load_weights(path).header.preset == "x"


def test_told_apart_by_content_not_by_suffix(tmp_path: Path) -> None:
    wrong_suffix = tmp_path / "a.safetensors"
    torch.save({"w": torch.ones(2)}, wrong_suffix)
    assert read_any(wrong_suffix).format == "zip"
    with pytest.raises(WeightsError, match="keepsight weights convert"):
        load_weights(wrong_suffix)
    ours = save_weights(tmp_path / "b.pth", tensors(), HEADER)
    assert read_any(ours).format == "safetensors"
    with pytest.raises(WeightsError, match="safetensors file"):
        read_checkpoint(ours)


EXPECTED = {"conv.weight": (2, 3), "bn.weight": (2,), "bn.num_batches_tracked": ()}


def state_dict(prefix: str = "") -> dict[str, torch.Tensor]:
    values = {"bn.num_batches_tracked": torch.tensor(5), "bn.weight": torch.ones(2), "conv.weight": torch.ones(2, 3)}
    return {prefix + name: value for name, value in values.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_check_keys_accepts(prefix: str) -> None:
    checked = check_keys(state_dict(prefix), EXPECTED, what="dimp18")
    assert list(checked) == list(EXPECTED)
    assert checked["bn.num_batches_tracked"] == 5


def test_absent_counters_become_zero() -> None:
    given = state_dict()
    del given["bn.num_batches_tracked"]
    counter = check_keys(given, EXPECTED, what="dimp18")["bn.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert counter.shape == ()
    assert counter == 0


def test_check_keys_names_what_is_wrong() -> None:
    given = {**state_dict(), "conv.weight": torch.ones(3, 2), "fc.bias": torch.ones(1)}
    del given["bn.weight"]
    with pytest.raises(WeightsError) as caught:
        check_keys(given, EXPECTED, what="dimp18")
    message = str(caught.value)
    assert "not of dimp18" in message
    assert "1 missing: bn.weight" in message
    assert "1 unexpected: fc.bias" in message
    assert "1 of another shape: conv.weight is (3, 2), expected (2, 3)" in message


def test_check_keys_shows_eight_names_and_the_count() -> None:
    with pytest.raises(WeightsError, match=r"20 missing: n00, n01, n02, n03, n04, n05, n06, n07 and 12 more"):
        check_keys({}, {f"n{i:02}": (1,) for i in range(20)}, what="x")


def test_a_module_prefix_on_some_names_only_is_not_stripped() -> None:
    with pytest.raises(WeightsError, match="unexpected"):
        check_keys({**state_dict("module."), "fc.bias": torch.ones(1)}, EXPECTED, what="x")
