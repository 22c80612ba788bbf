"""Frozen dataclasses as JSON and back, and typed changes of one field by its path: ``optim.lr=1e-3``.

Types understood in fields: bool, int, float, str, None, tuples of one or several types, dataclasses, and unions of these.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar, Union, get_args, get_origin

from ..errors import InputError, nearest_names

T = TypeVar("T")
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def to_plain(value: Any) -> Any:
    """JSON values only: dataclasses become dictionaries with their class's name, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **content}
    if isinstance(value, (tuple, list)):
        return [to_plain(v) for v in value]
    return value


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """The inverse of :func:`to_plain`; fields that are absent keep their defaults.

    ``kind``: the dataclass (or any field type) expected. Raises :class:`InputError` that names the place for unknown names,
    wrong types and values that the dataclass refuses.
    """
    found: T = _from_plain(kind, value, where)
    return found


def override(value: T, changes: Sequence[str]) -> T:
    """``value``, a frozen dataclass, with ``changes`` such as ``"optim.lr=1e-3"`` or ``"data.batch_size=8"`` made in order.

    A path names fields, separated by dots; an element of a tuple by its position from 0 or its ``name``. The text after the
    first ``=`` is read as the field's type: ``none`` for None, ``a,b,c`` or JSON for tuples, JSON for a whole dataclass.
    Raises :class:`InputError` for an unknown name (with the nearest one) and a value of another type.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path.strip():
            raise InputError(f"{change!r} is not a change of a setting; write NAME=VALUE, e.g. optim.lr=1e-3")
        value = _changed(type(value), value, path.strip().split("."), text.strip(), path.strip())
    return value


def _changed(kind: Any, value: Any, path: list[str], text: str, where: str) -> Any:
    if not path:
        return _parse(kind, text, where)
    name, rest = path[0], path[1:]
    if dataclasses.is_dataclass(value):
        hints = _hints(type(value))
        if name not in hints:
            raise InputError(f"{where}: {type(value).__name__} has no setting {name!r}; {nearest_names(name, hints)}")
        return _replaced(value, {name: _changed(hints[name], getattr(value, name), rest, text, where)}, where)
    if isinstance(value, tuple):
        index, rest = _index(value, path, where)
        element = _changed(_element_kind(kind, index), value[index], rest, text, where)
        return (*value[:index], element, *value[index + 1 :])
    raise InputError(f"{where}: nothing is called {name!r} inside the value {value!r}; leave out '.{'.'.join(path)}'")


def _index(value: tuple[Any, ...], path: list[str], where: str) -> tuple[int, list[str]]:
    """Position of the element that ``path`` begins with, and the rest of the path; names of elements may have dots."""
    names = [str(getattr(v, "name", i)) for i, v in enumerate(value)]
    for length in range(len(path), 0, -1):
        name = ".".join(path[:length])
        if name in names:
            return names.index(name), path[length:]
    if path[0].isdigit() and int(path[0]) < len(value):
        return int(path[0]), path[1:]
    known = nearest_names(".".join(path), names) if names else "there is none"
    raise InputError(f"{where}: no element {path[0]!r}; {known}")


def _replaced(value: Any, changes: dict[str, Any], where: str) -> Any:
    try:
        return dataclasses.replace(value, **changes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _parse(kind: Any, text: str, where: str) -> Any:
    """``text`` of a command line as a value of ``kind``."""
    options = _options(kind)
    if type(None) in options and text.lower() == "none":
        return None
    for option in options:
        if option is bool and text.lower() in _BOOLS:
            return _BOOLS[text.lower()]
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        if option is str:
            return text
        if get_origin(option) is tuple:
            return _from_plain(option, _parse_list(option, text, where), where)
        if dataclasses.is_dataclass(option):
            if hasattr(option, "parse"):
                return option.parse(text)
            if text.startswith("{"):
                return _from_plain(kind, _json(text, where), where)
    inner = [o for o in options if dataclasses.is_dataclass(o)]
    if inner:
        names = ", ".join(f.name for o in inner for f in dataclasses.fields(o))
        raise InputError(f"{where} is a group of settings; change one of its own: {names}")
    raise InputError(f"{where}: {text!r} is not {_describe(kind)}")


def _parse_list(kind: Any, text: str, where: str) -> list[Any]:
    if text.startswith("["):
        return list(_json(text, where))
    parts = [p.strip() for p in text.strip("()").split(",") if p.strip()]
    return [to_plain(_parse(_element_kind(kind, i), part, where)) for i, part in enumerate(parts)]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: {text!r} is not JSON ({error})") from None


def _from_plain(kind: Any, value: Any, where: str) -> Any:
    options = _options(kind)
    here = where or getattr(kind, "__name__", str(kind))
    for option in options:
        if option is Any or (option is type(None) and value is None):
            return value
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if get_origin(option) is tuple and isinstance(value, (list, tuple)):
            return _tuple(option, value, where)
    classes: dict[str, Any] = {o.__name__: o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)}
    if classes and isinstance(value, dict):
        name = value.get("class", next(iter(classes)) if len(classes) == 1 else None)
        if name not in classes:
            raise InputError(f"{here}: class {name!r} is unknown; expected one of {sorted(classes)}")
        return _dataclass(classes[name], value, where)
    if classes and isinstance(value, str) and len(classes) == 1:
        only = next(iter(classes.values()))
        if hasattr(only, "parse"):
            return only.parse(value)
    raise InputError(f"{here}: {value!r} is not {_describe(kind)}")


def _dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    unknown = [k for k in value if k not in hints and k != "class"]
    if unknown:
        raise InputError(
            f"{where or kind.__name__}: {kind.__name__} has no setting {unknown[0]!r}; {nearest_names(unknown[0], hints)}"
        )
    prefix = where + "." if where else ""
    given = {k: _from_plain(hints[k], v, prefix + k) for k, v in value.items() if k != "class"}
    try:
        return kind(**given)
    except TypeError as error:  # a field without default is absent
        raise InputError(f"{where or kind.__name__}: {error}") from None


def _tuple(kind: Any, value: Sequence[Any], where: str) -> tuple[Any, ...]:
    inner = get_args(kind)
    if inner and inner[-1] is not Ellipsis and len(inner) != len(value):
        raise InputError(f"{where}: {len(value)} values given, {_describe(kind)} has {len(inner)}")
    return tuple(_from_plain(_element_kind(kind, i), v, f"{where}.{i}") for i, v in enumerate(value))


def _element_kind(kind: Any, index: int) -> Any:
    """Type of element ``index`` of the tuple among the options of ``kind``."""
    inner: tuple[Any, ...] = next((get_args(o) for o in _options(kind) if get_origin(o) is tuple), (Any,))
    if len(inner) == 2 and inner[1] is Ellipsis:
        return inner[0]
    return inner[index] if index < len(inner) else Any


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _describe(kind: Any) -> str:
    words = {bool: "true or false", int: "an integer", float: "a number", str: "a text", type(None): "none"}

    def one(option: Any) -> str:
        if get_origin(option) is tuple:
            inner = [a for a in get_args(option) if a is not Ellipsis]
            return "a list of " + ", ".join(dict.fromkeys(_describe(a) for a in inner))
        return words.get(option, f"a {getattr(option, '__name__', option)}")

    return " or ".join(one(o) for o in _options(kind))
