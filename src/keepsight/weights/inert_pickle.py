"""Read a pickle as data: an interpreter of the pickle opcodes that imports nothing and calls nothing.

``pickletools`` of the standard library splits the stream into opcodes and plain arguments; the machine here keeps the
stack and the memo. A name in the file (``GLOBAL``) becomes a :class:`Global`, which is two strings. "Calling" it looks
the name up in a short table of rebuild rules (ordered dictionaries, tensors, numpy scalars) or makes an inert
:class:`Record`; what a name would mean in Python is never looked at. Attributes are never traversed, ``__setstate__``
and ``__reduce__`` do not exist here, and every cost (bytes, opcodes, copies, integer length) is bounded.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ..errors import WeightsError

MAX_PICKLE_BYTES = 64 << 20
"""Longest pickle read, in bytes; a published checkpoint's is below one megabyte (tensors lie outside of it)."""
MAX_OPCODES = 2_000_000
"""Most opcodes and copied items; a checkpoint of 400 tensors with its optimiser state has about 60,000."""
MAX_LINE = 64 << 10
"""Longest text line (protocol 0), in bytes."""
MAX_INT_BITS = 128
"""Longest integer; torch's magic number has 77 bits."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle mentions; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What stands where the pickle wanted an object of some class: the class's name and the data given to it."""

    kind: str
    """Full name of the class."""
    args: tuple[Any, ...] = ()
    state: Any = None
    """What the object's ``__setstate__`` would have received, usually a dict of attributes."""
    items: list[Any] = field(default_factory=list)
    """What would have been appended or set, for subclasses of list and dict."""


@dataclass(frozen=True)
class StorageRef:
    """Where a tensor's numbers lie in the file."""

    key: str
    type_name: str
    """Name of torch's storage class, e.g. ``FloatStorage``."""
    numel: int
    """Elements of the whole storage."""
    view_offset: int = 0
    """First element of the view on it (old files only)."""
    view_numel: int | None = None


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor that has not been read yet: all figures are the file's claims and are not checked here."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype_name: str | None = None
    """Given for untyped storages only."""


def printable(text: str) -> str:
    """Foreign text for a message: at most 100 characters, control characters and non-ASCII escaped."""
    return text[:100].encode("unicode_escape").decode("ascii")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Naming one of these is reason enough to refuse a file: no checkpoint needs them, exploits do.
_DANGEROUS_MODULES = _words(
    "os posix nt sys subprocess shutil socket importlib imp runpy pickle _pickle cPickle marshal ctypes _ctypes code "
    "codeop pty commands webbrowser urllib http ftplib smtplib operator _operator types inspect multiprocessing "
    "threading asyncio signal tempfile io _io pip pdb bdb cProfile profile timeit trace doctest pydoc ensurepip venv "
    "zipimport zipfile tarfile sqlite3 gc atexit linecache dill cloudpickle joblib requests paramiko"
)
_SAFE_BUILTINS = _words(
    "set frozenset list dict tuple bytearray bytes int float bool str complex object slice range type NoneType "
    "unicode long"
)
# Lower-case names that are classes or constructors of plain data: recorded, not refused.
_DATA_CALLABLES = _words(
    "numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct "
    "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer torch.device collections.deque "
    "datetime.datetime datetime.date datetime.time datetime.timedelta functools.partial "
    "torch._utils._rebuild_sparse_tensor torch._utils._rebuild_qtensor torch._utils._rebuild_meta_tensor_no_storage "
    "torch._utils._rebuild_device_tensor_from_numpy torch._utils._rebuild_nested_tensor"
)
# spec/dimp-atom.md §8: the classes that published checkpoints are known to hold.
_KNOWN_CLASSES = frozenset(
    f"{package}.{name}"
    for package in ("ltr.admin", "dlframework.common.utils")
    for name in (
        "model_constructor.NetConstructor",
        "stats.AverageMeter",
        "stats.StatValue",
        "settings.Settings",
        "local.EnvironmentSettings",
    )
)
_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MARK = object()


class InertUnpickler:
    """Reads one pickle from ``stream`` (at most ``limit`` bytes) with :meth:`load`; see the module's description.

    ``unknown``: names of classes outside of spec/dimp-atom.md §8 that became records. ``storages``: the first reference
    to each storage, by key.
    """

    def __init__(self, stream: BinaryIO, limit: int = MAX_PICKLE_BYTES) -> None:
        self._stream = _BoundedReader(stream, min(limit, MAX_PICKLE_BYTES))
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._work = 0
        self.unknown: set[str] = set()
        self.storages: dict[str, StorageRef] = {}

    def load(self) -> Any:
        """The pickle's object, made of plain values, :class:`Record`, :class:`Global` and :class:`TensorRef`.

        Raises :class:`WeightsError` if the stream is damaged, asks for something dangerous, or costs too much.
        """
        try:
            for opcode, argument, _ in pickletools.genops(cast(BinaryIO, self._stream)):
                self._charge(1)
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except (ValueError, LookupError, TypeError, OverflowError, AssertionError, struct.error) as error:
            told = f"{type(error).__name__}: {printable(str(error))}"
            raise WeightsError(f"the pickle in the file is damaged ({told}); download it again") from None
        raise WeightsError("the pickle in the file ends without its end mark; download it again")

    def _charge(self, amount: int) -> None:
        self._work += amount
        if self._work > MAX_OPCODES:
            raise WeightsError(
                f"the pickle in the file needs more than {MAX_OPCODES:,} steps, far more than any checkpoint; refused"
            )

    def _step(self, name: str, argument: Any) -> None:
        if name in _IGNORED:
            if name == "PROTO" and argument > 5:
                raise ValueError(f"pickle protocol {argument}")
        elif name in _PUSH_ARGUMENT:
            if isinstance(argument, int) and argument.bit_length() > MAX_INT_BITS:
                raise ValueError(f"integer of {argument.bit_length()} bits")
            self._stack.append(bytes(argument) if isinstance(argument, bytearray) else argument)
        elif name in _PUSH_NEW:
            self._stack.append(_PUSH_NEW[name]())
        elif name in _MEMO_GET:
            self._stack.append(self._memo[argument])
        elif name in _MEMO_PUT:
            self._memo[argument] = self._top()
        elif name in _HANDLERS:
            _HANDLERS[name](self, argument)
        else:  # EXT1, EXT2, EXT4 (registered extensions) and out-of-band buffers
            raise WeightsError(f"the file uses the pickle instruction {name}, which no checkpoint needs; refused")

    # The stack ------------------------------------------------------------------------------------------------------

    def _top(self) -> Any:
        if self._stack[-1] is _MARK:
            raise ValueError("mark where a value was expected")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_to_mark(self) -> list[Any]:
        """Values above the topmost mark; linear in their number, which the opcodes that pushed them have paid for."""
        start = len(self._stack) - 1
        while self._stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark on the stack")
        values = self._stack[start + 1 :]
        del self._stack[start:]
        return values

    # Opcodes --------------------------------------------------------------------------------------------------------

    def _op_memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _op_pop(self, _: Any) -> None:
        self._stack.pop()

    def _op_pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _op_dup(self, _: Any) -> None:
        self._stack.append(self._top())

    def _op_tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _op_list(self, _: Any) -> None:
        self._stack.append(self._pop_to_mark())

    def _op_frozenset(self, _: Any) -> None:
        self._stack.append({_as_key(v) for v in self._pop_to_mark()})

    def _op_dict(self, _: Any) -> None:
        values = self._pop_to_mark()
        made: dict[Any, Any] = {}
        _set_items(made, values)
        self._stack.append(made)

    def _op_short_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(values)))

    def _op_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, list):
            raise TypeError("append to something that is not a list")
        target.extend(values)

    def _op_setitem(self, _: Any) -> None:
        value = self._pop()
        key = self._pop()
        self._set([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._set(self._pop_to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Record):
            target.items.extend(values)
        elif isinstance(target, dict):
            _set_items(target, values)
        else:
            raise TypeError("item set on something that is not a dictionary")

    def _op_additems(self, _: Any) -> None:
        values = self._pop_to_mark()
        target = self._top()
        if not isinstance(target, set):
            raise TypeError("items added to something that is not a set")
        target.update(_as_key(v) for v in values)

    def _op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")  # pickletools joins the two lines by a space
        self._stack.append(_look_up(module, name))

    def _op_stack_global(self, _: Any) -> None:
        name = self._pop()
        module = self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global's name is not text")
        self._stack.append(_look_up(module, name))

    def _op_reduce(self, _: Any) -> None:
        args = self._pop()
        function = self._pop()
        self._stack.append(self._call(function, args))

    def _op_newobj_ex(self, _: Any) -> None:
        kwargs = self._pop()
        args = self._pop()
        made = self._call(self._pop(), args)
        if isinstance(made, Record):
            made.state = kwargs
        self._stack.append(made)

    def _op_obj(self, _: Any) -> None:
        function, *args = self._pop_to_mark()
        self._stack.append(self._call(function, tuple(args)))

    def _op_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(_look_up(module, name), tuple(self._pop_to_mark())))

    def _op_build(self, _: Any) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Record):
            # (attributes, slots) pairs are reduced to the attributes; a later BUILD replaces an earlier one
            is_pair = isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict)
            target.state = state[0] if is_pair else state
        elif not isinstance(target, (dict, TensorRef)):  # those carry attributes (_metadata) that nothing here needs
            raise WeightsError(f"the file sets attributes on {_short(target)}, which is not an object; refused")

    def _op_persid(self, _: Any) -> None:
        raise WeightsError("the file refers to a tensor by text (protocol 0), which torch.save never does; refused")

    def _op_binpersid(self, _: Any) -> None:
        value = _storage(self._pop())
        if isinstance(value, StorageRef):
            self.storages.setdefault(value.key, value)
        self._stack.append(value)

    # "Calls" --------------------------------------------------------------------------------------------------------

    def _call(self, function: Any, args: Any) -> Any:
        """What stands for ``function(*args)``; the only calls ever made are to the rules in this file."""
        if not isinstance(function, Global):
            raise WeightsError(f"the file asks to call {_short(function)}, which is not a named class; refused")
        if not isinstance(args, tuple):
            raise TypeError("arguments are not a tuple")
        name = str(function)
        rule = _RULES.get(name)
        if rule is not None:
            self._charge(_length(args))
            return rule(*args)
        if name in ("copyreg._reconstructor", "copyreg.__newobj__"):
            return self._call(args[0], ())
        if name == "torch._tensor._rebuild_from_type_v2":  # (function, class, arguments, state)
            return _TENSOR_RULES[str(args[0])](*args[2])
        last = function.name.rpartition(".")[2].lstrip("_")
        if name not in _KNOWN_CLASSES and name not in _DATA_CALLABLES:
            if not last[:1].isupper():
                raise WeightsError(f"the file asks to run {printable(name)}; refused, nothing was run")
            self.unknown.add(name)
        return Record(name, args)


class _BoundedReader:
    """``read``, ``readline`` and ``tell`` for ``pickletools``, never asking the file for more than is allowed."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int) -> bytes:
        # a declared length of terabytes must not become a buffer of terabytes
        data = self._stream.read(max(0, min(size, self._left)))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._stream.readline(min(MAX_LINE, self._left))
        self._left -= len(data)
        return data


def _look_up(module: str, name: str) -> Global:
    """The inert stand-in for a name, or an error if only an exploit would use it."""
    module = _PYTHON2_MODULES.get(module, module)
    is_unsafe_builtin = module == "builtins" and name not in _SAFE_BUILTINS
    is_dangerous = module.partition(".")[0] in _DANGEROUS_MODULES and (module, name) != ("types", "SimpleNamespace")
    if is_dangerous or is_unsafe_builtin:
        raise WeightsError(f"the file asks to run {printable(f'{module}.{name}')}; refused, nothing was run")
    return Global(module, name)


def _as_key(value: Any) -> Any:
    """A dictionary key whose hash costs constant time; anything else becomes a record (equal only to itself).

    Nested tuples hash in exponential time when their parts are shared, and long integers can be made to collide.
    """
    if value is None or isinstance(value, (str, bytes, bool, float, Record, Global)):
        return value
    if isinstance(value, int) and value.bit_length() <= 64:
        return value
    return Record(f"key of type {type(value).__name__}")


def _set_items(target: dict[Any, Any], values: list[Any]) -> None:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[_as_key(key)] = value


def _length(args: tuple[Any, ...]) -> int:
    """Items that a rule may copy: the cost of calling it."""
    return sum(len(a) for a in args if isinstance(a, (str, bytes, list, tuple, dict, set)))


def _short(value: Any) -> str:
    """Few words for an error message; never the value's own text, which may be endless."""
    if isinstance(value, Global):
        return printable(str(value))
    if isinstance(value, Record):
        return f"a {printable(value.kind)}"
    return f"a value of type {type(value).__name__}"


# Rebuild rules: module-level functions of plain arguments -------------------------------------------------------------


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    pairs = items.items() if isinstance(items, dict) else items
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError("an ordered dictionary's item is not a pair")
        made[_as_key(pair[0])] = pair[1]
    return made


def _default_dict(_factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _ordered_dict(items)


def _set(items: Any = ()) -> set[Any]:
    return {_as_key(v) for v in _sequence(items)}


def _list(items: Any = ()) -> list[Any]:
    return list(_sequence(items))


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(_sequence(items))


def _sequence(items: Any) -> Any:
    if not isinstance(items, (list, tuple, set)):
        raise TypeError("items are not a list")
    return items


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Python 2's way of writing bytes: ``_codecs.encode(text, "latin1")``."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise TypeError("text encoding")
    return text.encode(encoding)


def _bytes(*args: Any) -> bytes:
    if not args:
        return b""
    return args[0] if len(args) == 1 and isinstance(args[0], bytes) else _encode(*args)


def _storage(saved: Any) -> Any:
    """A persistent id: ``("storage", class, key, location, numel[, view])`` or ``("module", class, file, source)``."""
    if isinstance(saved, tuple) and len(saved) == 4 and saved[0] == "module" and isinstance(saved[1], Global):
        return saved[1]
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        raise WeightsError("the file refers to outside data in a way torch.save never does; refused")
    kind, key, _location, numel = saved[1:5]
    view = saved[5] if len(saved) == 6 else None
    if not isinstance(kind, Global) or not isinstance(key, str) or type(numel) is not int:
        raise TypeError("storage reference")
    if view is None:
        return StorageRef(key, kind.name, numel)
    _view_key, offset, count = view
    if type(offset) is not int or type(count) is not int:
        raise TypeError("storage view")
    return StorageRef(key, kind.name, numel, offset, count)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> TensorRef:
    """``_rebuild_tensor`` and ``_rebuild_tensor_v2`` (the rest: requires_grad, hooks, metadata)."""
    if not isinstance(storage, StorageRef) or type(offset) is not int:
        raise TypeError("tensor without a storage")
    return TensorRef(storage, offset, _integers(size), _integers(stride))


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_rest: Any
) -> TensorRef:
    plain = _tensor(storage, offset, size, stride)
    if not isinstance(dtype, Global):
        raise TypeError("tensor without a dtype")
    return TensorRef(plain.storage, plain.offset, plain.size, plain.stride, dtype.name)


def _parameter(data: Any, *_rest: Any) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise TypeError("parameter without a tensor")
    return data


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > 32 or any(type(v) is not int for v in values):
        raise TypeError("tensor size or stride")
    return tuple(values)


_NUMPY_CODES = {  # numpy's dtype code -> struct's
    "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
    "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?",
}  # fmt: skip


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    """A Python number for a numpy scalar; other dtypes (text, dates) stay records."""
    is_dtype = isinstance(dtype, Record) and dtype.kind == "numpy.dtype" and dtype.args
    code = _NUMPY_CODES.get(dtype.args[0]) if is_dtype and isinstance(dtype.args[0], str) else None
    if code is None or not isinstance(data, bytes):
        return Record("numpy scalar", (dtype, data))
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    return struct.unpack((">" if order == ">" else "<") + code, data)[0]


_TENSOR_RULES: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_RULES: dict[str, Callable[..., Any]] = _TENSOR_RULES | {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _ordered_dict,
    "builtins.dict": _ordered_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.list": _list,
    "builtins.tuple": _tuple,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _encode,
    "torch.Size": _tuple,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}

_IGNORED = frozenset(("PROTO", "FRAME"))
_PUSH_ARGUMENT = _words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT"
)
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_MEMO_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MEMO_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_HANDLERS: dict[str, Callable[[InertUnpickler, Any], None]] = {
    "MEMOIZE": InertUnpickler._op_memoize,
    "POP": InertUnpickler._op_pop,
    "POP_MARK": InertUnpickler._op_pop_mark,
    "DUP": InertUnpickler._op_dup,
    "TUPLE": InertUnpickler._op_tuple,
    "TUPLE1": lambda machine, _: machine._op_short_tuple(1),
    "TUPLE2": lambda machine, _: machine._op_short_tuple(2),
    "TUPLE3": lambda machine, _: machine._op_short_tuple(3),
    "LIST": InertUnpickler._op_list,
    "FROZENSET": InertUnpickler._op_frozenset,
    "DICT": InertUnpickler._op_dict,
    "APPEND": InertUnpickler._op_append,
    "APPENDS": InertUnpickler._op_appends,
    "SETITEM": InertUnpickler._op_setitem,
    "SETITEMS": InertUnpickler._op_setitems,
    "ADDITEMS": InertUnpickler._op_additems,
    "GLOBAL": InertUnpickler._op_global,
    "STACK_GLOBAL": InertUnpickler._op_stack_global,
    "REDUCE": InertUnpickler._op_reduce,
    "NEWOBJ": InertUnpickler._op_reduce,
    "NEWOBJ_EX": InertUnpickler._op_newobj_ex,
    "OBJ": InertUnpickler._op_obj,
    "INST": InertUnpickler._op_inst,
    "BUILD": InertUnpickler._op_build,
    "PERSID": InertUnpickler._op_persid,
    "BINPERSID": InertUnpickler._op_binpersid,
}
