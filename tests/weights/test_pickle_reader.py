"""Reading foreign checkpoints: both containers, every kind of tensor, the constructor's values, other files."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_checkpoints import (
    NUMBERS,
    call,
    dictionary,
    fake_modules,
    name,
    some_tensors,
    storage,
    tensor,
    text,
    training_file,
    tup,
    write_both,
    write_legacy,
    write_zip,
)

from keepsight.errors import WeightsError
from keepsight.weights import Inert, non_finite, read_any, read_checkpoint

containers = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def save(path: Path, value: object, new: bool, protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    return path


def assert_same(read: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(read) == list(expected)
    for key, value in expected.items():
        assert read[key].dtype == value.dtype, key
        assert read[key].shape == value.shape, key
        assert read[key].is_contiguous(), key
        assert torch.equal(torch.nan_to_num(read[key]), torch.nan_to_num(value.detach())), key


@containers
@pytest.mark.parametrize("package", ["ltr.admin", "dlframework.common.utils"])
def test_training_file(tmp_path: Path, new: bool, package: str) -> None:
    legacy_prefix = "dlframework." if package.startswith("dlframework") else ""
    with fake_modules(package) as classes:
        content = training_file(classes, some_tensors(), legacy_prefix + "ltr.models.tracking.dimpnet")
        path = save(tmp_path / "dimp.pth.tar", content, new)
        expected = torch.load(path, weights_only=False)["net"]
    before = set(sys.modules)
    read = read_checkpoint(path)
    assert not [m for m in set(sys.modules) - before if m.startswith(("ltr", "dlframework"))]
    assert read.format == ("zip" if new else "legacy")
    assert_same(read.tensors, expected)
    assert (read.net_type, read.epoch) == ("DiMPnet", 50)
    assert read.constructor is not None
    assert read.constructor.fun_name == "klcedimpnet18"
    assert read.constructor.fun_module == "ltr.models.tracking.dimpnet"
    assert read.constructor.args == ()
    assert read.constructor.kwds == content["constructor"].kwds
    assert type(read.constructor.kwds["gauss_sigma"]) is float
    assert set(read.other) == {"actor_type", "net_info", "optimizer", "stats", "settings"}


@containers
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, new: bool, protocol: int) -> None:
    tensors = some_tensors()
    assert_same(read_checkpoint(save(tmp_path / "a.pth", tensors, new, protocol)).tensors, tensors)


@containers
@pytest.mark.parametrize("key", ["net", "state_dict", "model", None])
def test_where_the_state_dict_lies(tmp_path: Path, new: bool, key: str | None) -> None:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3)}
    content = tensors if key is None else {key: tensors, "epoch": 3, "arch": "x"}
    read = read_checkpoint(save(tmp_path / "a.pth", content, new))
    assert_same(read.tensors, tensors)
    assert read.constructor is None
    assert read.epoch == (None if key is None else 3)
    assert read.other == ({} if key is None else {"arch": "'x'"})


@containers
def test_module_state_dict_with_metadata(tmp_path: Path, new: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    read = read_checkpoint(save(tmp_path / "a.pth", module.state_dict(), new))
    assert_same(read.tensors, module.state_dict())


@containers
def test_tensors_have_memory_of_their_own(tmp_path: Path, new: bool) -> None:
    tensors = read_checkpoint(save(tmp_path / "a.pth", some_tensors(), new)).tensors
    before = tensors["shared.again"].clone()
    tensors["shared.whole"].zero_()
    tensors["shared.row"].zero_()
    assert torch.equal(tensors["shared.again"], before)


@containers
def test_not_finite_values_are_reported(tmp_path: Path, new: bool) -> None:
    read = read_checkpoint(save(tmp_path / "a.pth", some_tensors(), new))
    assert non_finite(read.tensors) == {"not_finite": 2}


@containers
def test_unknown_classes_are_inert_and_named(tmp_path: Path, new: bool) -> None:
    with fake_modules("elsewhere.admin") as classes:
        content = training_file(classes, {"w": torch.ones(2)})
        content["constructor"].kwds["backbone"] = classes["Settings"]
        content["constructor"].kwds["object"] = classes["Settings"]()
        path = save(tmp_path / "a.pth", content, new)
    read = read_checkpoint(path)
    assert "class elsewhere.admin.settings.Settings" in read.other
    assert read.constructor is not None
    assert read.constructor.kwds["backbone"] == Inert("name elsewhere.admin.settings.Settings")
    assert read.constructor.kwds["object"] == Inert("object of class elsewhere.admin.settings.Settings")


def test_big_endian_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + dictionary(w=tensor()) + b".")
        archive.writestr("x/byteorder", "big")
        archive.writestr("x/data/0", np.array([1, 2, 3, 4], dtype=">f4").tobytes())
    assert read_checkpoint(path).tensors["w"].tolist() == [1, 2, 3, 4]


def test_python2_text_and_views_of_old_files(tmp_path: Path) -> None:
    view = tup(text("1"), b"K\x01", b"K\x02")
    where = tup(text("storage"), name("torch", "FloatStorage"), text("0"), text("cuda:0"), b"K\x04", view) + b"Q"
    old = call("torch._utils", "_rebuild_tensor", where, b"K\x00", tup(b"K\x02"), tup(b"K\x01"))
    state = name("collections", "OrderedDict") + b"(]](U\x01w" + old + b"eatR"  # OrderedDict([["w", tensor]])
    path = write_legacy(tmp_path / "a.pth", dictionary(net=state, epoch=b"I7\n"))
    read = read_checkpoint(path)
    assert read.tensors["w"].tolist() == [2, 3]
    assert read.epoch == 7


def test_any_byte_is_a_bool(tmp_path: Path) -> None:
    root = dictionary(w=tensor(where=storage(kind="BoolStorage")))
    read = read_checkpoint(write_zip(tmp_path / "a.pth", root, {"0": b"\x00\x01\x02\xff"}))
    assert read.tensors["w"].tolist() == [False, True, True, True]
    assert read.tensors["w"].view(torch.uint8).tolist() == [0, 1, 1, 1]


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    return file.getvalue()


def zip_bytes(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry in names:
            archive.writestr(entry, b"hello")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>", "web page"),
        (b"  \n<html>quota</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"Not Found", "text file"),
        (b'{"message": "Not Found"}', "text file"),
        (gzip.compress(b"hello"), "gunzip"),
        (tar_bytes(), "tar archive"),
        (zip_bytes(), "empty zip"),
        (zip_bytes("dimp50.pth"), "no data.pkl; it holds dimp50.pth"),
        (zip_bytes("a/data.pkl", "b/data.pkl"), "same name"),
        (zip_bytes("a/data.pkl", "a/constants.pkl"), "TorchScript"),
        (pickle.dumps({"a": 1}), "not of torch.save"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (bytes(range(200, 256)), "first bytes"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "dimp50.pth"
    path.write_bytes(data)
    for read in (read_checkpoint, read_any):
        with pytest.raises(WeightsError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


def test_absent_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        read_checkpoint(tmp_path / "no.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_checkpoint(tmp_path)


@containers
@pytest.mark.parametrize("content", [{"a": 1}, [torch.ones(2)], {}, {"net": {}}, 5, {"net": torch.ones(2)}])
def test_no_state_dict(tmp_path: Path, new: bool, content: object) -> None:
    if isinstance(content, dict) and isinstance(content.get("net"), torch.Tensor):
        assert list(read_checkpoint(save(tmp_path / "a.pth", content, new)).tensors) == ["net"]
        return
    with pytest.raises(WeightsError, match="state dict"):
        read_checkpoint(save(tmp_path / "a.pth", content, new))


@containers
def test_whole_pickled_module(tmp_path: Path, new: bool) -> None:
    with pytest.raises(WeightsError, match=r"whole pickled object of class torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(save(tmp_path / "a.pth", torch.nn.Linear(2, 2), new))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (tensor((5,), (1,)), "reaches element 4"),
        (tensor((2, 2), (2, 2)), "reaches element 4"),
        (tensor((4,), (1,), 1), "reaches element 4"),
        (tensor((4,), (1,), -1), "impossible"),
        (tensor((-4,), (1,)), "impossible"),
        (tensor((4,), (-1,)), "impossible"),
        (tensor((4,), (1, 1)), "impossible"),
        (tensor((1 << 60,), (0,)), "impossible"),
        (tensor((0, 1 << 40, 1 << 40), (1, 1, 1)), "impossible"),
        (tensor((1 << 40,), (0,)), "far more than the file"),
        (tensor((1 << 20, 1 << 20), (0, 0)), "far more than the file"),
        (tensor(where=storage(numel=1 << 40)), "are declared"),
        (tensor((1 << 40,), (1,), where=storage(numel=1 << 40)), "far more than the file"),
        (tensor((2,), (1,), where=storage(numel=3)), "are declared"),
        (tensor((2,), (1,), where=storage(kind="DoubleStorage")), "are declared"),
        (tensor(where=storage(key="7")), "not in the file"),
        (tensor(where=storage(key="../../etc/passwd")), "not in the file"),
        (tensor(where=storage(kind="QInt8Storage")), "QInt8Storage"),
    ],
)
def test_hostile_sizes(tmp_path: Path, part: bytes, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        read_checkpoint(write_zip(tmp_path / "a.pth", dictionary(net=dictionary(w=part))))


@pytest.mark.parametrize("count", [-1, 3, 5, 1 << 60])
def test_hostile_counts_of_old_files(tmp_path: Path, count: int) -> None:
    root = dictionary(net=dictionary(w=tensor(legacy=True)))
    with pytest.raises(WeightsError):
        read_checkpoint(write_legacy(tmp_path / "a.pth", root, tail=struct.pack("<q", count) + NUMBERS))


@pytest.mark.parametrize("keys", [("0", "0"), ("1",), (), (0,), 5, ("0", "1")])
def test_hostile_storage_lists_of_old_files(tmp_path: Path, keys: object) -> None:
    with pytest.raises(WeightsError):
        read_checkpoint(write_legacy(tmp_path / "a.pth", dictionary(net=dictionary(w=tensor(legacy=True))), keys))


def test_one_storage_under_two_types(tmp_path: Path) -> None:
    root = dictionary(a=tensor(), b=tensor((2,), (1,), where=storage(kind="DoubleStorage", numel=2)))
    read = read_checkpoint(write_zip(tmp_path / "a.pth", root))  # as torch allows in the container of today
    assert read.tensors["b"].tolist() == list(struct.unpack("<2d", NUMBERS))


def test_compressed_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", dictionary(w=tensor()), {"0": bytes(10 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(path)


def test_zip_parts_larger_than_the_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", dictionary(w=tensor()), {"0": bytes(160)})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 18), (b"PK\x01\x02", 20)):  # both sizes, in every header of that kind
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            if data[start + at : start + at + 4] == struct.pack("<I", 160):
                data[start + at : start + at + 8] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="larger than the whole file"):
        read_checkpoint(path)


@containers
def test_damaged_files_give_only_weights_errors(tmp_path: Path, new: bool) -> None:
    """Truncation everywhere, and random bytes overwritten: a WeightsError or a successful reading, nothing else."""
    with fake_modules("ltr.admin") as classes:
        path = save(tmp_path / "a.pth", training_file(classes, {"w": torch.ones(40), "n": torch.tensor(1)}), new)
    good = path.read_bytes()
    read_checkpoint(path)
    rng = np.random.default_rng(0)
    for end in [*range(0, 64), *rng.integers(64, len(good) - 1, 150).tolist()]:
        path.write_bytes(good[:end])
        with pytest.raises(WeightsError):
            read_checkpoint(path)
    outcomes = set()
    for _ in range(400):
        data = bytearray(good)
        for place in rng.integers(0, len(good), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            read_checkpoint(path)
            outcomes.add("read")
        except WeightsError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_random_opcodes_give_only_weights_errors(tmp_path: Path) -> None:
    """Soup of valid pieces in a good container (whose checksum is right, unlike after random damage)."""
    pieces = [
        *(bytes([b]) for b in b"(.012NtlsadueboR})]\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94Q"),
        b"K\x05", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"M\x00\x01", b"I1\n", b"F1.5\n", b"L5L\n", b"G" + bytes(8),
        text("a"), text("collections"), text("OrderedDict"), b"B\x02\x00\x00\x00ab", storage(), tensor(),
        b"\x95" + bytes(8),
        name("collections", "OrderedDict"), name("torch._utils", "_rebuild_tensor_v2"), name("ltr", "Thing"),
        name("torch", "Size"), name("numpy.core.multiarray", "scalar"), name("copyreg", "_reconstructor"),
        name("_codecs", "encode"), name("torch._tensor", "_rebuild_from_type_v2"), name("numpy", "dtype"),
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    for i in range(1500):
        soup = b"".join(pieces[k] for k in rng.integers(0, len(pieces), rng.integers(1, 30)))
        path = tmp_path / "a.pth"
        root = dictionary(net=dictionary(w=tensor()), stats=soup) if i % 2 else soup
        with contextlib.suppress(WeightsError):
            read_checkpoint(write_zip(path, root))


def test_wrong_arguments_of_known_names(tmp_path: Path) -> None:
    known = [
        ("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "set"), ("builtins", "bytes"),
        ("_codecs", "encode"), ("torch", "Size"), ("torch._utils", "_rebuild_tensor"), ("numpy", "dtype"),
        ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
        ("numpy.core.multiarray", "scalar"), ("copyreg", "_reconstructor"), ("torch._tensor", "_rebuild_from_type_v2"),
    ]  # fmt: skip
    arguments = [(), (b"N",), (b"K\x01",) * 4, (text("a"), text("b")), (b"]", b"}"), (b"}",) * 9]
    for module, attribute in known:
        for given in arguments:
            for path in write_both(tmp_path, stats=call(module, attribute, *given)):
                with contextlib.suppress(WeightsError):
                    read_checkpoint(path)
