"""Pickles that try to run something: nothing runs, the message names what was asked for, and costs are bounded."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
import time
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_checkpoints import call, dictionary, integer, name, tensor, text, tup, write_both, write_legacy, write_zip

from keepsight.errors import WeightsError
from keepsight.weights import inert_pickle, read_checkpoint


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists as soon as anything hostile has run."""
    return tmp_path / "canary"


@pytest.fixture
def evil(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importable module ``evil`` whose classes touch the canary however they are made or filled."""

    def touch(*_args: object, **_kwargs: object) -> None:
        canary.touch()

    def make(cls: type, *_args: object, **_kwargs: object) -> object:
        canary.touch()
        return object.__new__(cls)

    module = types.ModuleType("evil")
    module.New = type("New", (), {"__new__": make})  # type: ignore[attr-defined]
    module.Call = type("Call", (), {"__init__": touch})  # type: ignore[attr-defined]
    module.State = type("State", (), {"__setstate__": touch})  # type: ignore[attr-defined]
    module.Attribute = type("Attribute", (), {"__setattr__": touch})  # type: ignore[attr-defined]
    module.List = type("List", (), {"append": touch, "extend": touch})  # type: ignore[attr-defined]
    module.Dict = type("Dict", (), {"__setitem__": touch})  # type: ignore[attr-defined]
    module.Hash = type("Hash", (), {"__hash__": lambda _: touch() or 1})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evil", module)


def python(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def shell(canary: Path) -> str:
    return f"touch {canary}"


REFUSED: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "reduce os.system": (lambda c: call("os", "system", text(shell(c))), r"os\.system"),
    "reduce posix.system": (lambda c: call("posix", "system", text(shell(c))), r"posix\.system"),
    "reduce eval": (lambda c: call("builtins", "eval", text(python(c))), r"builtins\.eval"),
    "python 2 exec": (lambda c: call("__builtin__", "exec", text(python(c))), r"builtins\.exec"),
    "subprocess class": (lambda c: call("subprocess", "Popen", b"](" + text("touch") + text(str(c)) + b"e"), "Popen"),
    "inst": (lambda c: b"(" + text(shell(c)) + b"ios\nsystem\n", r"os\.system"),
    "obj": (lambda c: b"(" + name("os", "system") + text(shell(c)) + b"o", r"os\.system"),
    "newobj": (lambda c: name("subprocess", "Popen") + tup(text(shell(c))) + b"\x81", r"subprocess\.Popen"),
    "stack global": (lambda c: text("os") + text("system") + b"\x93" + tup(text(shell(c))) + b"R", r"os\.system"),
    "dotted name": (
        lambda c: text("torch") + text("serialization.os.system") + b"\x93" + tup(text(shell(c))) + b"R",
        r"torch\.serialization\.os\.system",
    ),
    "getattr": (
        lambda c: (
            call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
            + tup(text(shell(c)))
            + b"R"
        ),
        r"builtins\.getattr",
    ),
    "partial": (lambda c: call("functools", "partial", name("os", "system"), text(shell(c))) + b")R", r"os\.system"),
    "map": (lambda c: call("builtins", "map", name("builtins", "eval"), b"](" + text(python(c)) + b"e"), "map"),
    "torch.load": (lambda c: call("torch", "load", text(str(c) + ".pth")), r"torch\.load"),
    "load from bytes": (lambda c: call("torch.storage", "_load_from_bytes", b"C\x01."), "_load_from_bytes"),
    "numpy gadget": (
        lambda c: call("numpy.testing._private.utils", "runstring", text(python(c)), b"}"),
        "runstring",
    ),
    "runpy": (lambda c: call("runpy", "_run_code", text(python(c)), b"}"), r"runpy\._run_code"),
    "attribute of a class": (lambda c: name("collections", "OrderedDict") + b"}b", "sets attributes"),
    "call of a record": (lambda c: call("a", "B") + b")R", "asks to call a a.B"),
    "text persistent id": (lambda c: b"Pos.system\n", "refers to a tensor by text"),
    "odd persistent id": (lambda c: text("whatever") + b"Q", "outside data"),
    "persistent id with a name": (lambda c: tup(name("os", "system"), text(shell(c))) + b"Q", r"os\.system"),
    "persistent id of another kind": (
        lambda c: tup(text("file"), b"N", text(str(c)), b"N", b"N") + b"Q",
        "outside data",
    ),
    "extension": (lambda c: b"\x82\xf0" + tup(text(shell(c))) + b"R", "EXT1"),
    "buffer": (lambda c: b"\x97", "NEXT_BUFFER"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_and_named(tmp_path: Path, canary: Path, kind: str) -> None:
    make, words = REFUSED[kind]
    for path in write_both(tmp_path, stats=make(canary)):
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the payloads are shell commands of POSIX")
@pytest.mark.parametrize("kind", ["reduce os.system", "reduce eval", "inst", "obj", "stack global", "getattr"])
def test_payloads_are_live(canary: Path, kind: str) -> None:
    """The same bytes do run under ``pickle``: what the tests above guard against is real."""
    pickle.loads(REFUSED[kind][0](canary) + b".")
    for _ in range(50):
        if canary.exists():
            break
        time.sleep(0.02)
    assert canary.exists()


def test_registered_extension_is_not_used(tmp_path: Path, canary: Path) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        with pytest.raises(WeightsError, match="EXT1"):
            read_checkpoint(write_both(tmp_path, stats=REFUSED["extension"][0](canary))[0])
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
    assert not canary.exists()


INERT: dict[str, bytes] = {
    "reduce": call("evil", "Call"),
    "newobj": name("evil", "New") + b")\x81",
    "newobj_ex": name("evil", "New") + b")" + dictionary(a=b"K\x01") + b"\x92",
    "inst": b"(ievil\nNew\n",
    "obj": b"(" + name("evil", "Call") + b"o",
    "setstate": name("evil", "State") + b")\x81}b",
    "setstate of text": name("evil", "State") + b")\x81" + text("x") + b"b",
    "setattr": name("evil", "Attribute") + b")\x81" + tup(b"N", dictionary(a=b"K\x01")) + b"b",
    "dict trick": name("evil", "Attribute") + b")\x81" + dictionary(__class__=b"K\x01", __dict__=b"}") + b"b",
    "append": name("evil", "List") + b")\x81(K\x01K\x02e",
    "append one": name("evil", "List") + b")\x81K\x01a",
    "setitem": name("evil", "Dict") + b")\x81K\x01K\x02s",
    "hash": b"}" + name("evil", "Hash") + b")\x81Ns",
    "reconstructor": call("copyreg", "_reconstructor", name("evil", "New"), name("builtins", "object"), b"N"),
    "numpy object scalar": call(
        "numpy.core.multiarray", "scalar", call("numpy", "dtype", text("O8"), b"\x89", b"\x88"),
        b"B" + struct.pack("<I", 14) + b"cevil\nCall\n)R.",
    ),
    "extra attribute of a dict": name("collections", "OrderedDict") + b")R" + dictionary(__reduce_ex__=b"N") + b"b",
}  # fmt: skip


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("kind", INERT)
def test_unknown_objects_stay_inert(tmp_path: Path, canary: Path, kind: str) -> None:
    for path in write_both(tmp_path, stats=INERT[kind]):
        read = read_checkpoint(path)
        assert read.tensors["w"].tolist() == [1, 2, 3, 4]
        is_named = any(key.startswith("class evil.") for key in read.other)
        assert is_named == (kind not in ("numpy object scalar", "extra attribute of a dict"))
    assert not canary.exists()


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("kind", ["reduce", "newobj", "setstate", "append", "setitem"])
def test_inert_payloads_are_live_under_pickle(canary: Path, kind: str) -> None:
    pickle.loads(INERT[kind] + b".")
    assert canary.exists()


@pytest.mark.usefixtures("evil")
def test_torch_save_of_a_hostile_object(tmp_path: Path, canary: Path) -> None:
    class Gadget:
        def __reduce__(self) -> tuple[object, ...]:
            import os

            return os.system, (shell(canary),)

    for new in (True, False):
        path = tmp_path / f"{new}.pth"
        torch.save({"net": {"w": torch.ones(2)}, "stats": Gadget()}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(WeightsError, match="system; refused, nothing was run"):
            read_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("part", ["magic", "system", "keys"])
def test_hostile_pickles_around_the_old_container(tmp_path: Path, canary: Path, part: str) -> None:
    bad = b"\x80\x02" + call("os", "system", text(shell(canary))) + b"."
    file = io.BytesIO()
    for kind, value in (("magic", 0x1950A86A20F9469CFC6C), ("version", 1001), ("system", {})):
        file.write(bad if kind == part else pickle.dumps(value, 2))
    file.write(b"\x80\x02" + dictionary(w=tensor(legacy=True)) + b".")
    file.write(bad)
    path = tmp_path / "a.pth"
    path.write_bytes(file.getvalue())
    with pytest.raises(WeightsError):
        read_checkpoint(path)
    assert not canary.exists()


def test_control_characters_do_not_reach_the_message(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", dictionary(stats=text("os") + text("\x1b[31msystem") + b"\x93"))
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert "\x1b" not in str(caught.value)


# Costs ----------------------------------------------------------------------------------------------------------------

doubled = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))  # each holds the last one twice
double_tuple = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))

CHEAP = {  # odd but harmless outside of the network: read
    "doubled lists": b"(" + doubled + b"l",
    "tuple key with endless hash": b"(" + double_tuple + b"l0}" + b"h\x3cNs",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep tuples": b")" + b"\x85" * 100_000,
    "deep records": b"N" + b"".join([b"\x85" + b"q\x00" + b"0" + name("a", "B") + b"h\x00" + b"\x81"] * 20_000),
    "high memo index": b"Nr\xff\xff\xff\xff",
    "a list in itself": b"]q\x00h\x00a",
    "colliding integer keys": b"}(" + b"".join(integer((2**61 - 1) * i) + b"N" for i in range(3000)) + b"u",
}  # fmt: skip


@pytest.mark.parametrize("kind", CHEAP)
def test_odd_but_harmless(tmp_path: Path, kind: str) -> None:
    start = time.perf_counter()
    for path in write_both(tmp_path, stats=CHEAP[kind]):
        assert read_checkpoint(path).tensors["w"].tolist() == [1, 2, 3, 4]
    assert time.perf_counter() - start < 10


big_list = b"](" + b"N" * 5000 + b"eq\x00"
COSTLY = {
    "many opcodes": b"N0" * 40_000 + b"N",
    "copies": b"(" + big_list + b"".join([name("torch", "Size") + b"h\x00\x85R"] * 100) + b"l",
    "text of 2^62 bytes": b"\x8d" + struct.pack("<Q", 1 << 62),
    "bytes of 2^62 bytes": b"\x8e" + struct.pack("<Q", 1 << 62),
    "bytes of 2^31 bytes": b"B" + struct.pack("<I", (1 << 31) + 5),
    "bytearray of 2^40 bytes": b"\x96" + struct.pack("<Q", 1 << 40),
    "integer of 2^31 bytes": b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    "integer of 250 bytes": b"\x8a\xfa" + b"\x11" * 250,
    "integer of 60000 digits": b"L" + b"9" * 60_000 + b"L\n",
    "endless line": b"S'" + b"a" * 200_000,
    "protocol 99": b"\x80\x63N",
}


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_pickles_are_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_OPCODES", 60_000)  # the real limit is the same code, only slower to reach
    paths = write_both(tmp_path, stats=COSTLY[kind])
    tracemalloc.start()
    try:
        for path in paths:
            with pytest.raises(WeightsError):
                read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value", [b"(" + doubled + b"l", b"(" + double_tuple + b"l", b"]" * 5000 + b"a" * 4999, b"]q\x01h\x01a"]
)
def test_endless_constructor(tmp_path: Path, value: bytes) -> None:
    state = dictionary(fun_name=text("f"), fun_module=text("m"), args=b")", kwds=dictionary(a=value))
    built = name("ltr.admin.model_constructor", "NetConstructor") + b")\x81" + state + b"b"
    for path in write_both(tmp_path, constructor=built):
        with pytest.raises(WeightsError, match="constructor"):
            read_checkpoint(path)


def test_long_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_PICKLE_BYTES", 1000)
    long = b"B" + struct.pack("<I", 2000) + bytes(2000)
    path = write_legacy(tmp_path / "a.pth", dictionary(stats=long, net=dictionary(w=tensor(legacy=True))))
    with pytest.raises(WeightsError):
        read_checkpoint(path)
