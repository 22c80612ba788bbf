"""Foreign checkpoints (files of ``torch.save``) read without executing anything in them; spec/dimp-atom.md §8.

Both of torch's containers are read: the zip of today and the plain stream of files before torch 1.6. The pickle inside
is interpreted as data (:mod:`.inert_pickle`); the tensors' numbers are read by this module, each size checked against
the file before memory is taken. Only the network's own tensors are read; an optimiser's state stays on disk.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import torch
from torch import Tensor

from ..errors import WeightsError
from .inert_pickle import MAX_PICKLE_BYTES, Global, InertUnpickler, Record, StorageRef, TensorRef, printable

Format = Literal["zip", "legacy", "safetensors"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickled value of torch's old container; the second is 1001, the protocol version."""
STATE_DICT_KEYS = ("net", "state_dict", "model", "model_state_dict")
"""Where trainers put the network's state dict: pytracking, pysot, and two common habits."""
MAX_PLAIN_NODES = 10_000
MAX_PLAIN_DEPTH = 32
MAX_TENSORS = 100_000
TENSOR_SLACK = 16 << 20
"""Bytes that expanded (stride 0) or shared tensors may claim beyond four times the file's size."""

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_NAMED_DTYPES = {str(d).removeprefix("torch."): d for d in (*_STORAGE_DTYPES.values(), torch.uint16, torch.uint32)}


@dataclass(frozen=True)
class Inert:
    """Stands in a constructor's arguments for a value that is not plain data (a class, a tensor, an object)."""

    name: str


@dataclass(frozen=True)
class Constructor:
    """How the file says its network is built; names only, nothing is imported (spec/dimp-atom.md §8)."""

    fun_name: str
    """Such as ``dimpnet50`` or ``klcedimpnet18``."""
    fun_module: str
    """Such as ``ltr.models.tracking.dimpnet``; the legacy prefix ``dlframework.`` is stripped."""
    args: tuple[Any, ...]
    kwds: Mapping[str, Any]
    """Plain values (numbers, text, lists, dicts); settings such as PrDiMP's σ live only here."""


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What a weights file holds."""

    tensors: dict[str, Tensor]
    """The network's state dict in file order, on the CPU, contiguous, each with memory of its own."""
    constructor: Constructor | None
    net_type: str | None
    """Such as ``DiMPnet`` or ``ATOMnet``."""
    epoch: int | None
    other: dict[str, str]
    """Short descriptions of what was not read: other entries, unknown classes."""
    format: Format
    metadata: dict[str, str] = field(default_factory=dict)
    """Text entries of a safetensors file's header; empty for torch files."""


def read_checkpoint(path: str | Path) -> ForeignCheckpoint:
    """Read a file of ``torch.save`` (either container) without running anything that it asks for.

    The state dict may be the file's whole content or lie under ``net``, ``state_dict``, ``model`` or
    ``model_state_dict``. Raises :class:`WeightsError` if the file is absent, truncated, hostile or something else.
    NaN and infinity are not errors here: see :func:`~keepsight.weights.non_finite`.
    """
    path = Path(path)
    with open_weights(path) as file:
        looks = identify(file)
        if looks == "zip":
            return _read_zip(file, path)
        if looks == "legacy":
            return _read_legacy(file, path)
    if looks == "safetensors":
        raise WeightsError(
            f"{path} is a safetensors file, not a checkpoint of torch.save; use read_any or load_weights"
        )
    raise WeightsError(f"{path} holds no weights that can be read: {looks}")


@contextmanager
def open_weights(path: Path) -> Iterator[BinaryIO]:
    """Open for reading; absent and unreadable files and read errors become :class:`WeightsError` naming the path."""
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; check the path, or see `keepsight weights list`") from None
    except IsADirectoryError:
        raise WeightsError(f"{path} is a folder; give the weights file inside it") from None
    except WeightsError as error:
        text = str(error)
        raise error if str(path) in text else WeightsError(f"{path}: {text}") from None
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions and disk"
        ) from None
    except MemoryError:
        raise WeightsError(f"{path} needs more memory than there is") from None


_SIGNATURES = (  # first bytes -> what such a file is and what to do
    (b"version https://git-lfs", "it is a git-lfs pointer, not the file itself; run `git lfs pull` where it came from"),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it first (gunzip)"),
    (b"BZh", "it is compressed by bzip2; unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "it is compressed by xz; unpack it first (unxz)"),
    (b"7z\xbc\xaf", "it is a 7z archive; unpack it first and give the file inside"),
    (b"Rar!", "it is a rar archive; unpack it first and give the file inside"),
    (b"\x89HDF", "it is an HDF5 file (Keras or MATLAB), not a torch checkpoint"),
    (b"\x93NUMPY", "it is a numpy array, not a torch checkpoint"),
    (b"PK\x05\x06", "it is an empty zip archive; download it again"),
)


def identify(file: BinaryIO) -> str:
    """``"zip"``, ``"legacy"`` or ``"safetensors"`` by content; else a sentence on what the file looks like instead."""
    file.seek(0)
    head = file.read(1024)
    size = _file_size(file)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty; the download failed, try again"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    for signature, sentence in _SIGNATURES:
        if head.startswith(signature):
            return sentence
    if text.startswith(b"<"):
        return (
            "it is a web page, not the file: the download link wants a login or confirmation; "
            "open the link in a browser, or take the file from the authors' model zoo again"
        )
    if head[257:262] == b"ustar":
        return (
            "it is a tar archive; unpack it and give the file inside "
            "(published .pth.tar files are torch files despite their name)"
        )
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8:
        return "safetensors"
    if head[:1] == b"\x80" or head.startswith(f"L{LEGACY_MAGIC}L".encode()):  # pickle protocol 2 and up, or 0 and 1
        return "legacy"
    if head.isascii():
        return "it is a text file; download the weights again"
    return f"its first bytes are {head[:8].hex(' ')}, neither torch's nor safetensors'; download it again"


# The two containers ---------------------------------------------------------------------------------------------------


class _Storages(Protocol):
    """Access to the raw storages of one file."""

    big_endian: bool

    def read(self, key: str, size: int) -> bytearray:
        """All bytes of a storage; its size in the file must be ``size``, which a hostile file may have made up."""
        ...


class _ZipStorages:
    def __init__(self, archive: zipfile.ZipFile, prefix: str, big_endian: bool) -> None:
        self._archive, self._prefix, self.big_endian = archive, prefix, big_endian

    def read(self, key: str, size: int) -> bytearray:
        info = self._archive.NameToInfo.get(f"{self._prefix}data/{key}")
        _check_storage(key, size, None if info is None else info.file_size)
        return bytearray(self._archive.read(f"{self._prefix}data/{key}"))


_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, ValueError, LookupError, EOFError, OverflowError,
)  # fmt: skip


def _read_zip(file: BinaryIO, path: Path) -> ForeignCheckpoint:
    size = _file_size(file)
    try:
        with zipfile.ZipFile(file) as archive:
            prefix = _zip_prefix(archive, size)
            order = archive.read(prefix + "byteorder") if prefix + "byteorder" in archive.NameToInfo else b"little"
            if archive.getinfo(prefix + "data.pkl").file_size > MAX_PICKLE_BYTES:
                raise WeightsError(
                    f"its pickle is longer than {MAX_PICKLE_BYTES:,} bytes, unlike any checkpoint's; refused"
                )
            unpickler = InertUnpickler(io.BytesIO(archive.read(prefix + "data.pkl")))
            root = unpickler.load()
            storages = _ZipStorages(archive, prefix, big_endian=order.strip() == b"big")
            return _assemble(root, unpickler.unknown, storages, size, "zip")
    except _ZIP_ERRORS as error:
        raise WeightsError(
            f"{path} is a zip file (torch's container) but damaged or cut short ({str(error)[:100]}); download it again"
        ) from None
    except RuntimeError as error:  # zipfile's word for encrypted entries
        raise (
            error if isinstance(error, WeightsError) else WeightsError(f"{path} cannot be unpacked: {error}")
        ) from None


def _zip_prefix(archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside the archive that holds ``data.pkl``, after checks against bombs and look-alikes."""
    entries = archive.infolist()
    # torch stores without compression, so that all entries together are smaller than the file
    if any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        raise WeightsError("its parts are compressed, which torch.save never does: unpack it and give the file inside")
    if sum(e.file_size for e in entries) > size:
        raise WeightsError("its parts claim to be larger than the whole file; refused")
    names = [e.filename for e in entries]
    pickles = [n for n in names if n == "data.pkl" or (n.endswith("/data.pkl") and n.count("/") == 1)]
    if len(set(names)) != len(names) or len(pickles) > 1:
        raise WeightsError("it is a zip file with parts of the same name; refused")
    if not pickles:
        shown = ", ".join(printable(n) for n in names[:5]) or "nothing"
        raise WeightsError(f"it is a zip file but not of torch.save (no data.pkl; it holds {shown}); unpack it first")
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "constants.pkl" in names:
        raise WeightsError("it is a TorchScript program, not a checkpoint; give the checkpoint it was made from")
    return prefix


class _LegacyStorages:
    """Raw storages after the pickles: for each key an 8-byte count of elements, then the elements."""

    def __init__(self, file: BinaryIO, start: int, keys: list[Any], itemsizes: Mapping[str, int], little: bool) -> None:
        self._file, self.big_endian = file, not little
        self._places: dict[str, tuple[int, int]] = {}  # key -> (position, bytes)
        size, position = _file_size(file), start
        for key in keys:
            if not isinstance(key, str) or key in self._places or key not in itemsizes:
                raise WeightsError("its list of storages is damaged; download it again")
            file.seek(position)
            header = file.read(8)
            count = int.from_bytes(header, "little" if little else "big", signed=True)
            end = position + 8 + count * itemsizes[key]
            if len(header) < 8 or count < 0 or end > size:
                raise WeightsError(
                    f"it ends after {size} bytes, in the middle of its tensors: the download is incomplete; try again"
                )
            self._places[key] = (position + 8, count * itemsizes[key])
            position = end

    def read(self, key: str, size: int) -> bytearray:
        position, found = self._places.get(key, (0, None))
        _check_storage(key, size, found)
        data = bytearray(size)
        self._file.seek(position)
        if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise WeightsError("it ends in the middle of its tensors: the download is incomplete; try again")
        return data


def _check_storage(key: str, declared: int, found: int | None) -> None:
    if found is None:
        raise WeightsError(f"storage {printable(key)!r} is not in the file; download it again")
    if found != declared:
        raise WeightsError(
            f"storage {printable(key)!r} has {found} bytes, {declared} are declared; the file is damaged"
        )


def _read_legacy(file: BinaryIO, path: Path) -> ForeignCheckpoint:
    file.seek(0)
    magic = _first_value(file)
    if magic != LEGACY_MAGIC or _next_pickle(file).load() != 1001:
        raise WeightsError(
            f"{path} is a pickle, but not of torch.save; plain pickles are not read, since they can hold anything"
        )
    system = _next_pickle(file).load()
    little = not isinstance(system, dict) or system.get("little_endian") is not False
    unpickler = _next_pickle(file)
    root = unpickler.load()
    keys = _next_pickle(file).load()
    if not isinstance(keys, list):
        raise WeightsError(f"{path}: its list of storages is damaged; download it again")
    # the layout of the rest cannot be followed without each storage's element size, which only the pickle tells
    itemsizes = {key: _storage_dtype(ref).itemsize for key, ref in unpickler.storages.items()}
    storages = _LegacyStorages(file, file.tell(), keys, itemsizes, little)
    return _assemble(root, unpickler.unknown, storages, _file_size(file), "legacy")


def _next_pickle(file: BinaryIO) -> InertUnpickler:
    return InertUnpickler(file, limit=_file_size(file) - file.tell())


def _first_value(file: BinaryIO) -> Any:
    try:
        return InertUnpickler(file, limit=64).load()
    except WeightsError:
        return None


# From references to tensors -------------------------------------------------------------------------------------------


def _assemble(root: Any, unknown: set[str], storages: _Storages, size: int, kind: Format) -> ForeignCheckpoint:
    """Pick the parts that matter out of the file's object and read the network's tensors."""
    if isinstance(root, Record):
        raise WeightsError(
            f"it holds one whole pickled object of class {printable(root.kind)}, not a state dict; "
            "where that class can be imported, save `model.state_dict()` instead"
        )
    if not isinstance(root, dict):
        raise WeightsError(f"it holds {_describe(root)}, not a state dict")
    name, state_dict = _find_state_dict(root)
    refs = {key: value for key, value in state_dict.items() if isinstance(value, TensorRef)}
    other: dict[str, str] = {}
    if name is not None:
        read = (name, "constructor", "net_type", "epoch")
        other.update({_text(key): _describe(value) for key, value in root.items() if key not in read})
    prefix = "" if name is None else f"{name}."
    other.update({prefix + _text(key): _describe(state_dict[key]) for key in state_dict if key not in refs})
    other.update({f"class {_text(c)}": "unknown class, kept as inert data" for c in sorted(unknown)})
    bad = [key for key in refs if not isinstance(key, str)]
    if bad:
        raise WeightsError(
            f"its state dict has a name that is not text ({_describe(bad[0])}); not a network's state dict"
        )
    constructor = _constructor(root["constructor"]) if name is not None and "constructor" in root else None
    if name is not None and constructor is None and root.get("constructor") is not None:
        other["constructor"] = _describe(root["constructor"])
    net_type, epoch = (root.get("net_type"), root.get("epoch")) if name is not None else (None, None)
    return ForeignCheckpoint(
        tensors=_read_tensors(refs, storages, size),
        constructor=constructor,
        net_type=net_type if isinstance(net_type, str) else None,
        epoch=epoch if type(epoch) is int else None,
        other=other,
        format=kind,
    )


def _find_state_dict(root: dict[Any, Any]) -> tuple[str | None, dict[Any, Any]]:
    for name in STATE_DICT_KEYS:
        value = root.get(name)
        if isinstance(value, dict) and any(isinstance(v, TensorRef) for v in value.values()):
            return name, value
    if any(isinstance(v, TensorRef) for v in root.values()):
        return None, root
    keys = ", ".join(_text(k) for k in list(root)[:8]) or "nothing"
    raise WeightsError(f"it holds no state dict; expected one under {', '.join(STATE_DICT_KEYS)}; found {keys}")


def _read_tensors(refs: Mapping[str, TensorRef], storages: _Storages, size: int) -> dict[str, Tensor]:
    claimed = 0
    for name, ref in refs.items():
        _check_bounds(name, ref)
        claimed += math.prod(ref.size) * _dtype(ref).itemsize
    if claimed > 4 * size + TENSOR_SLACK or len(refs) > MAX_TENSORS:
        raise WeightsError(
            f"its {len(refs)} tensors claim {claimed:,} bytes, far more than the file's {size:,}; refused"
        )
    raw: dict[str, Tensor] = {}  # storage key -> (bytes,) uint8, read once
    taken: set[str] = set()
    tensors = {}
    for name, ref in refs.items():
        key, declared = ref.storage.key, ref.storage.numel * _storage_dtype(ref.storage).itemsize
        if key not in raw:
            data = storages.read(key, declared)
            raw[key] = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        _check_storage(key, declared, raw[key].numel())
        tensor = _view(ref, raw[key], storages.big_endian)
        # memory of its own for every tensor but a storage's first and only full user, which needs no copy
        is_whole = tensor.is_contiguous() and tensor.numel() * tensor.element_size() == declared
        needs_copy = key in taken or not is_whole
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format) if needs_copy else tensor
        taken.add(key)
    return tensors


def _check_bounds(name: str, ref: TensorRef) -> None:
    """Every element that size, stride and offset can reach lies in the storage (or its view)."""
    dtype, storage = _dtype(ref), ref.storage
    per_element = dtype.itemsize // _storage_dtype(storage).itemsize  # above 1 for untyped storages only
    available = storage.numel if storage.view_numel is None else storage.view_numel
    values = (*ref.size, *ref.stride, ref.offset, storage.numel, storage.view_offset, available)
    fits_view = storage.view_offset + available <= storage.numel
    is_vast = math.prod(max(n, 1) for n in ref.size) >= 1 << 48  # overflows even when another side is 0
    if len(ref.size) != len(ref.stride) or any(not 0 <= v < 1 << 48 for v in values) or not fits_view or is_vast:
        raise WeightsError(f"tensor {printable(name)!r} has an impossible shape, stride or offset; the file is damaged")
    last = ref.offset + sum((n - 1) * s for n, s in zip(ref.size, ref.stride, strict=True))
    if 0 not in ref.size and (last + 1) * max(per_element, 1) > available:
        raise WeightsError(
            f"tensor {printable(name)!r} of shape {ref.size} reaches element {last} of a storage with {available}; "
            "the file is damaged"
        )


def _view(ref: TensorRef, raw: Tensor, big_endian: bool) -> Tensor:
    """The tensor as a view of its storage's bytes; bounds have been checked."""
    dtype = _dtype(ref)
    if 0 in ref.size:
        return torch.empty(ref.size, dtype=dtype)
    if big_endian and dtype.itemsize > 1:
        raw = raw.view(-1, dtype.itemsize).flip(1).reshape(-1)
    if dtype == torch.bool:  # any byte but 0 and 1 would be undefined behaviour later on
        raw = raw != 0
    usable = raw.numel() // dtype.itemsize * dtype.itemsize
    elements = raw if dtype == torch.bool else raw[:usable].view(dtype)
    view_offset = ref.storage.view_offset * _storage_dtype(ref.storage).itemsize // dtype.itemsize
    return elements.as_strided(ref.size, ref.stride, view_offset + ref.offset)


def _storage_dtype(storage: StorageRef) -> torch.dtype:
    dtype = _STORAGE_DTYPES.get(storage.type_name.rpartition(".")[2])
    if dtype is None:
        raise WeightsError(
            f"it has tensors of type {printable(storage.type_name)}, which no tracker uses; cannot be read"
        )
    return dtype


def _dtype(ref: TensorRef) -> torch.dtype:
    if ref.dtype_name is None:
        return _storage_dtype(ref.storage)
    dtype = _NAMED_DTYPES.get(ref.dtype_name)
    if dtype is None or _storage_dtype(ref.storage) != torch.uint8:
        raise WeightsError(f"it has tensors of type {printable(ref.dtype_name)}, which no tracker uses; cannot be read")
    return dtype


# The constructor and the rest -----------------------------------------------------------------------------------------


def _constructor(value: Any) -> Constructor | None:
    """The pickled ``NetConstructor``'s four attributes as plain values; None for anything else."""
    state = value.state if isinstance(value, Record) else None
    if not isinstance(state, dict):
        return None
    name, module = state.get("fun_name"), state.get("fun_module")
    args, kwds = state.get("args", ()), state.get("kwds", {})
    if not isinstance(name, str) or not isinstance(module, str) or not isinstance(args, (tuple, list)):
        return None
    if not isinstance(kwds, dict) or any(not isinstance(k, str) for k in kwds):
        return None
    budget = [MAX_PLAIN_NODES]
    return Constructor(
        fun_name=name,
        fun_module=module.removeprefix("dlframework."),
        args=tuple(_plain(a, budget) for a in args),
        kwds={k: _plain(v, budget) for k, v in kwds.items()},
    )


def _plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """A copy of plain values; objects become :class:`Inert`. Bounded, since shared parts may nest without end."""
    budget[0] -= 1
    if budget[0] < 0 or depth > MAX_PLAIN_DEPTH:
        raise WeightsError("its constructor's arguments are nested deeper or longer than any network's; refused")
    if isinstance(value, dict):
        return {_plain_key(k): _plain(v, budget, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(v, budget, depth + 1) for v in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, set):
        return {v if isinstance(v, (str, int, float)) else Inert(_describe(v)) for v in value}
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    return Inert(_describe(value))


def _plain_key(key: Any) -> Any:
    return key if key is None or isinstance(key, (str, int, float, bool, bytes)) else Inert(_describe(key))


def _describe(value: Any) -> str:
    """A few words on a value that is not read."""
    if value is None or isinstance(value, (bool, float)):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f"{printable(value[:60])!r}"
    if isinstance(value, TensorRef):
        return f"tensor of shape {value.size}"
    if isinstance(value, Record):
        return f"object of class {printable(value.kind)}"
    if isinstance(value, Global):
        return f"name {printable(str(value))}"
    if isinstance(value, (dict, list, tuple, set, bytes)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _text(key: Any) -> str:
    return printable(key) if isinstance(key, str) else _describe(key)


def _file_size(file: BinaryIO) -> int:
    """Size in bytes; the position is kept."""
    position = file.tell()
    size = file.seek(0, 2)
    file.seek(position)
    return size
