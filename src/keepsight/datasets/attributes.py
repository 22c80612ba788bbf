"""Attributes of whole sequences (occlusion, fast motion, ..): the data sets' own files and one table for all.

The table is ``attributes.csv`` in the data set's root: a header ``sequence,IV,OPR,..`` and one row of 0 and 1 per
sequence. It goes before the data set's own files.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..text import read_rows
from .sequence import Sequence

OTB = ("IV", "OPR", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OV", "BC", "LR")
UAV = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")
LASOT = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")

LONG_NAMES: Mapping[str, str] = {
    "ARC": "Aspect Ratio Change",
    "BC": "Background Clutter",
    "CM": "Camera Motion",
    "DEF": "Deformation",
    "FM": "Fast Motion",
    "FOC": "Full Occlusion",
    "IPR": "In-Plane Rotation",
    "IV": "Illumination Variation",
    "LR": "Low Resolution",
    "MB": "Motion Blur",
    "OCC": "Occlusion",
    "OPR": "Out-of-Plane Rotation",
    "OV": "Out-of-View",
    "POC": "Partial Occlusion",
    "ROT": "Rotation",
    "SOB": "Similar Object",
    "SV": "Scale Variation",
    "VC": "Viewpoint Change",
}
"""Short -> long names of OTB, UAV123 and LaSOT, for tables and plots."""

_OTHER_COLUMNS = frozenset({"test", "split", "frames", "length"})  # seen in published tables beside the attributes


def read_flags(path: Path, names: tuple[str, ...]) -> frozenset[str]:
    """Attributes from a file of 0 and 1, one per name (UAV123, LaSOT toolkit); empty if there is no such file."""
    if not path.is_file():
        return frozenset()
    flags = read_rows(path, columns=None).ravel()
    if len(flags) != len(names):
        raise InputError(f"{path} has {len(flags)} numbers; expected {len(names)}: {','.join(names)}")
    return frozenset(name for name, flag in zip(names, flags, strict=True) if flag == 1)


def read_words(path: Path, names: tuple[str, ...]) -> frozenset[str]:
    """Attributes from a file of short names, however separated (OTB ``attrs.txt``); empty if there is no such file."""
    if not path.is_file():
        return frozenset()
    words = re.findall(r"[A-Za-z]+", path.read_text(encoding="utf-8", errors="replace"))
    return frozenset(word.upper() for word in words if word.upper() in names)


def with_attributes(sequences: Iterable[Sequence], root: Path) -> list[Sequence]:
    """The sequences with the attributes of ``root/attributes.csv``, if it is there. Raises :class:`InputError` for a
    table that cannot be understood."""
    table = root / "attributes.csv"
    if not table.is_file():
        return list(sequences)
    known = read_table(table)
    return [replace(s, attributes=known.get(_key(s.name), s.attributes)) for s in sequences]


def read_table(path: Path) -> dict[str, frozenset[str]]:
    """Sequence -> attributes. Names are compared without case, without ``uav_``/``nfs_``, ``-`` and ``.`` as ``_``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read: {error}; give a table: sequence,IV,OPR,.. and rows of 0 and 1"
        ) from None
    if not rows or len(rows[0]) < 2:
        raise InputError(f"{path} has no header; give a table: sequence,IV,OPR,.. and rows of 0 and 1")
    header = [name.strip() for name in rows[0][1:]]
    known: dict[str, frozenset[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        flags = [cell.strip() for cell in row[1:]]
        if len(flags) != len(header) or not set(flags) <= {"0", "1"}:
            raise InputError(
                f"{path}, row {number}: expected a name and {len(header)} times 0 or 1, got {','.join(row)!r}"
            )
        pairs = zip(header, flags, strict=True)
        known[_key(row[0])] = frozenset(n for n, f in pairs if f == "1" and n.lower() not in _OTHER_COLUMNS)
    return known


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).removeprefix("uav_").removeprefix("nfs_")
