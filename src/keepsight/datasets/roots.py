"""Where data sets lie on this machine.

Looked at in this order; the first that names a place decides:

1. the root given in the call or on the command line (``--data-root``): the data set's own folder, or the folder that
   holds it under a usual name (``OTB100``, ``otb-100``, ..);
2. the environment: ``KEEPSIGHT_DATA_OTB100`` (one data set's folder; name in capitals), then ``KEEPSIGHT_DATA`` (the
   folder that holds data sets under their usual names);
3. one file, ``~/.config/keepsight/data.toml`` (or what ``KEEPSIGHT_CONFIG`` names)::

       [data]
       root = "/data/tracking"       # holds data sets under their usual names
       otb100 = "/ssd/OTB100"        # one data set's own folder
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, nearest_names
from .catalog import entries, parse_name


class Located(Protocol):
    """What finding a folder needs to know: an :class:`~.catalog.Entry` or a :class:`~.training_entry.TrainingEntry`."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def folders(self) -> tuple[str, ...]: ...
    @property
    def marks(self) -> tuple[str, ...]: ...
    @property
    def layout(self) -> str: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class Root:
    """A folder that holds a data set."""

    path: Path
    how: str
    """What named it: ``given``, an environment variable, or the TOML file."""


@dataclass(frozen=True)
class _Place:
    """One candidate: a folder that somebody named."""

    path: Path
    how: str
    own: bool
    """The data set's own folder may be meant, not only one that holds it."""
    binding: bool
    """Named for this data set: if it is not there, that is an error and no other place is looked at."""


def find_root(name: str, root: str | Path | None = None) -> Root:
    """The folder of a data set (a split may be given; it does not matter here).

    Raises :class:`InputError` for an unknown name and for one that is not found: the message lists the places looked at
    and how the folder should look.
    """
    members = parse_name(name)
    if len(members) > 1:
        raise InputError(f"{name!r} stands for {len(members)} data sets; ask for their roots one by one")
    return root_of(members[0][0], root)


def root_of(entry: Located, root: str | Path | None = None) -> Root:
    """:func:`find_root` for an entry. Raises :class:`InputError` if its data is not found."""
    looked: list[str] = []
    for place in _places(entry, root):
        found = _look(entry, place, looked)
        if found is not None:
            return Root(found.absolute(), place.how)  # trackers may change the working directory
        if place.binding:
            break
    raise InputError(_not_found(entry, looked))


def environment_name(entry: Located) -> str:
    """The variable for one data set: ``KEEPSIGHT_DATA_UAV123_10FPS``."""
    return "KEEPSIGHT_DATA_" + re.sub(r"[^A-Z0-9]+", "_", entry.name.upper())


def config_path() -> Path:
    """The TOML file, whether or not it is there."""
    return Path(os.environ.get("KEEPSIGHT_CONFIG") or Path.home() / ".config/keepsight/data.toml").expanduser()


def read_config() -> dict[str, Path]:
    """``root`` and data sets -> folder, from the TOML file; empty if there is none.

    Relative paths count from the file's folder. Raises :class:`InputError` for anything that is not understood.
    """
    path = config_path()
    if not path.is_file():
        if os.environ.get("KEEPSIGHT_CONFIG"):
            raise InputError(f"KEEPSIGHT_CONFIG names {path}, which is not there; make it, or unset the variable")
        return {}
    toml = _toml_reader()
    try:
        content: dict[str, Any] = toml.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise InputError(
            f'{path} is not a TOML file: {error}; write [data] and lines such as otb100 = "/data/OTB100"'
        ) from None
    for key in content:
        if key != "data" or not isinstance(content[key], dict):
            raise InputError(f"{path}: unknown key {key!r}; did you mean a table [data]? It is all that the file holds")
    from .training_sets import training_entries

    known = ("root", *entries(), *training_entries())
    folders: dict[str, Path] = {}
    for key, value in content.get("data", {}).items():
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r} in [data]; {nearest_names(key, known)}")
        if not isinstance(value, str) or not value:
            raise InputError(f"{path}: {key} is {value!r}; give a folder in quotes")
        folders[key] = path.parent / Path(value).expanduser()
    return folders


def _toml_reader() -> Any:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"Python 3.10 reads {config_path()} with the package tomli; run `pip install tomli`") from None


def _places(entry: Located, root: str | Path | None) -> Iterator[_Place]:
    if root is not None:
        yield _Place(Path(root).expanduser(), "given", own=True, binding=True)
        return
    variable = environment_name(entry)
    if os.environ.get(variable):
        yield _Place(
            Path(os.environ[variable]).expanduser(), f"environment variable {variable}", own=True, binding=True
        )
    if os.environ.get("KEEPSIGHT_DATA"):
        shared = Path(os.environ["KEEPSIGHT_DATA"]).expanduser()
        yield _Place(shared, "environment variable KEEPSIGHT_DATA", own=False, binding=False)
    config = read_config()
    if entry.name in config:
        yield _Place(config[entry.name], f"{entry.name} in {config_path()}", own=True, binding=True)
    if "root" in config:
        yield _Place(config["root"], f"root in {config_path()}", own=False, binding=False)


def _look(entry: Located, place: _Place, looked: list[str]) -> Path | None:
    """The root at this place; else what was looked at is added to ``looked``."""
    if not place.path.is_dir():
        looked.append(f"{place.path} ({place.how}): no such folder")
        return None
    for folder in _named_inside(place.path, entry):
        if _has_marks(folder, entry):
            return folder
        looked.append(f"{folder} ({place.how}): nothing of {entry.title} in it")
        deeper = next((f for f in _named_inside(folder, entry) if _has_marks(f, entry)), None)
        if deeper is not None:
            return deeper
    if place.own and _has_marks(place.path, entry):
        return place.path
    what = "neither the data set nor a folder of a usual name" if place.own else "no folder of a usual name"
    looked.append(f"{place.path} ({place.how}): {what}")
    return None


def _named_inside(folder: Path, entry: Located) -> list[Path]:
    """Sub-folders that bear a usual name of the data set, in the order of those names."""
    wanted = [_plain(n) for n in (*entry.folders, entry.name)]
    try:
        names = {_plain(n): n for n in sorted(os.listdir(folder), reverse=True)}
    except OSError:
        return []
    found = dict.fromkeys(names[w] for w in wanted if w in names)
    return [folder / n for n in found if (folder / n).is_dir()]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _has_marks(folder: Path, entry: Located) -> bool:
    try:
        return any(next(folder.glob(mark), None) is not None for mark in entry.marks)
    except OSError:
        return False


def _not_found(entry: Located, looked: list[str]) -> str:
    if looked:
        head = f"{entry.title} is not found. Looked at:\n" + "\n".join(f"  {line}" for line in looked)
    else:
        head = f"nothing says where {entry.title} lies"
    return (
        f"{head}\nThe folder should look like this ({', '.join(entry.folders)}):\n"
        + "\n".join(f"  {line}" for line in entry.layout.strip().splitlines())
        + f"\nSay where it is with --data-root (or root=), {environment_name(entry)}, KEEPSIGHT_DATA, or in {config_path()}: "
        f'[data] {entry.name} = "/folder"\nIt can be obtained from: {entry.source}'
    )
