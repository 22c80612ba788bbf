"""Checkpoint files made for the tests: with stand-ins for the authors' classes, and assembled opcode by opcode."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

CLASSES = {
    "model_constructor": ("NetConstructor",),
    "stats": ("AverageMeter", "StatValue"),
    "settings": ("Settings",),
    "local": ("EnvironmentSettings",),
}


@contextmanager
def fake_modules(package: str) -> Iterator[dict[str, type]]:
    """The authors' classes under ``package`` for as long as the block runs; pickle finds them by name."""
    made: dict[str, type] = {}
    names = []
    parts = package.split(".")
    for i in range(len(parts)):
        names.append(".".join(parts[: i + 1]))
    names += [f"{package}.{module}" for module in CLASSES]
    assert not any(name in sys.modules for name in names)
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for module, classes in CLASSES.items():
        for name in classes:
            made[name] = type(name, (), {"__module__": f"{package}.{module}", "__qualname__": name})
            setattr(sys.modules[f"{package}.{module}"], name, made[name])
    try:
        yield made
    finally:
        for name in names:
            del sys.modules[name]


def fill(instance: Any, **attributes: Any) -> Any:
    instance.__dict__.update(attributes)
    return instance


def some_tensors() -> OrderedDict[str, torch.Tensor]:
    """A state dict with every kind of tensor a file may hold."""
    g = torch.Generator().manual_seed(3)
    shared = torch.randn(4, 6, generator=g)
    return OrderedDict(
        {
            "conv.weight": torch.randn(2, 3, 3, 3, generator=g),
            "conv.parameter": torch.nn.Parameter(torch.randn(5, generator=g)),
            "bn.num_batches_tracked": torch.tensor(7),
            "shared.whole": shared,
            "shared.row": shared[2],
            "shared.again": shared,
            "transposed": torch.randn(3, 5, generator=g).t(),
            "strided": torch.randn(8, 8, generator=g)[1::2, ::3],
            "channels_last": torch.randn(1, 4, 3, 2, generator=g).contiguous(memory_format=torch.channels_last),
            "expanded": torch.tensor([1.5]).expand(3, 2),
            "empty": torch.empty(0, 3),
            "half": torch.randn(3, generator=g).half(),
            "bfloat16": torch.randn(3, generator=g).bfloat16(),
            "double": torch.randn(3, generator=g, dtype=torch.float64),
            "int32": torch.tensor([1, -2], dtype=torch.int32),
            "int16": torch.tensor([1, -2], dtype=torch.int16),
            "int8": torch.tensor([1, -2], dtype=torch.int8),
            "uint8": torch.tensor([1, 255], dtype=torch.uint8),
            "bool": torch.tensor([True, False, True]),
            "not_finite": torch.tensor([float("nan"), float("inf"), 1.0]),
        }
    )


def training_file(
    classes: dict[str, type], net: Any, fun_module: str = "ltr.models.tracking.dimpnet"
) -> dict[str, Any]:
    """All entries that the trainer writes (spec/dimp-atom.md §8)."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.Adam([parameter], lr=1e-3)
    parameter.grad = torch.ones(3)
    optimiser.step()
    constructor = fill(
        classes["NetConstructor"](),
        fun_name="klcedimpnet18",
        fun_module=fun_module,
        args=(),
        kwds={
            "filter_size": 4,
            "backbone_pretrained": True,
            "optim_iter": 5,
            "gauss_sigma": np.float64(0.9),
            "frozen_backbone_layers": ["conv1", "bn1"],
            "normalize_label": True,
            "score_act": "relu",
            "softmax_reg": None,
            "out_feature_dim": np.int64(256),
        },
    )
    meter = fill(classes["AverageMeter"](), history=[np.float64(0.5), np.float32(0.25)], avg=np.float64(0.1), count=3)
    local = fill(classes["EnvironmentSettings"](), workspace_dir="/somewhere", got10k_dir="")
    return {
        "epoch": 50,
        "actor_type": "KLDiMPActor",
        "net_type": "DiMPnet",
        "net": net,
        "net_info": None,
        "constructor": constructor,
        "optimizer": optimiser.state_dict(),
        "stats": OrderedDict(train=OrderedDict(loss=meter, value=fill(classes["StatValue"](), val=np.zeros(2)))),
        "settings": fill(classes["Settings"](), env=local, print_stats=["Loss"], device=torch.device("cpu")),
    }


# Opcodes, protocol 2 unless said otherwise ----------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tup(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + tup(*arguments) + b"R"


def dictionary(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(key: str = "0", kind: str = "FloatStorage", numel: int = 4, *, legacy: bool = False) -> bytes:
    view = (b"N",) if legacy else ()
    return tup(text("storage"), name("torch", kind), text(key), text("cpu"), integer(numel), *view) + b"Q"


def tensor(
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    where: bytes | None = None,
    *,
    legacy: bool = False,
) -> bytes:
    where = storage(legacy=legacy) if where is None else where
    sides = tup(*map(integer, size)), tup(*map(integer, stride))
    hooks = name("collections", "OrderedDict") + b")R"
    return call("torch._utils", "_rebuild_tensor_v2", where, integer(offset), *sides, b"\x89", hooks)


NUMBERS = struct.pack("<4f", 1, 2, 3, 4)


def write_zip(path: Path, root: bytes, storages: dict[str, bytes] | None = None, compression: int = 0) -> Path:
    """A file in the container of today; ``root``: opcodes that leave one value."""
    storages = {"0": NUMBERS} if storages is None else storages
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + root + b".")
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, root: bytes, keys: Any = ("0",), tail: bytes | None = None) -> Path:
    """A file in the container of torch before 1.6."""
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(value, file, protocol=2)
    file.write(b"\x80\x02" + root + b".")
    pickle.dump(list(keys) if isinstance(keys, tuple) else keys, file, protocol=2)
    file.write(struct.pack("<q", 4) + NUMBERS if tail is None else tail)
    path.write_bytes(file.getvalue())
    return path


def write_both(folder: Path, **parts: bytes) -> list[Path]:
    """The same dictionary with a good ``net`` in both containers."""
    return [
        write_zip(folder / "new.pth", dictionary(**parts, net=dictionary(w=tensor()))),
        write_legacy(folder / "old.pth", dictionary(**parts, net=dictionary(w=tensor(legacy=True)))),
    ]
