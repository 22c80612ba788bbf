"""The data sets by name: where they lie, how they look, how they are scored, and opening them.

Example::

    dataset = open_dataset("otb100", root="/data/OTB100")   # or no root: see roots.py
    dataset["David"].frames[0]
    dataset.rule, dataset.protocol                          # 'pytracking', 'ope'

A name may choose a split after a colon (``got10k:test``, ``lasot:train``), and ``+`` joins data sets
(``nfs30+uav123``). Opening reads no annotation and no frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path

from ..errors import InputError, KeepsightError, VideoError, nearest_names
from .sequence import Sequence

_MODULES = (
    "otb",
    "nfs",
    "uav",
    "lasot",
    "trackingnet",
    "got10k",
    "vot",
    "oxuva",
    "davis",
    "youtube_vos",
    "segtrack",
    "tld",
    "folder",
)
"""Modules of this folder with ``ENTRIES``, in the order of ``keepsight data list``."""

UNIONS: Mapping[str, tuple[str, str]] = {
    "nuo323": ("nfs30+uav123+otb100", "NUO323: NFS30, UAV123 and OTB-100 together")
}
"""Names for joined data sets: (the joined names, title)."""


@dataclass(frozen=True)
class Expected:
    """The size of a data set, or of one split, as published. None: not known, or it depends on the copy."""

    sequences: int | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Entry:
    """One data set. Each reader module of this folder exports ``ENTRIES: tuple[Entry, ...]``.

    A reader is ``read(root, split) -> list[Sequence]``: official order, only sequences whose annotation is there, no
    annotation file opened (a list file or a folder listing may be read). ``split`` is one of ``splits``, or None where
    there are none. The catalog sets ``Sequence.dataset`` and adds ``attributes.csv``.
    """

    name: str
    """Lower-case letters, digits and ``_``."""
    title: str
    """As people write it, e.g. ``OTB-100``."""
    read: Callable[[Path, str | None], list[Sequence]]
    """Module-level function ``read(root, split)``; raises :class:`InputError` for a root that cannot be used."""
    folders: tuple[str, ...]
    """Usual names of its folder, e.g. ``("OTB100", "OTB-100")``; upper and lower case, ``-`` and ``_`` do not matter."""
    marks: tuple[str, ...]
    """Glob patterns below the root; a folder in which one of them matches is taken for the root."""
    layout: str
    """What the root should look like, a few lines of text."""
    source: str
    """Where one gets it, in words."""
    rule: str = "pytracking"
    """Default scoring rule."""
    protocol: str = "ope"
    """``ope``, ``supervised``, ``multistart``, ``longterm`` or ``vos``."""
    splits: tuple[str, ...] = ()
    """Names after the colon; the first is the default."""
    expected: Mapping[str, Expected] = field(default_factory=dict)
    """Split (or ``""`` where there are no splits) -> size."""
    official: Callable[[str | None], tuple[str, ...]] | None = None
    """``official(split)``: names of all its sequences in order, where they are known without the data."""

    def size(self, split: str | None) -> Expected:
        """The published size of a split; unknown numbers are None."""
        known = self.expected.get(split or "", Expected())
        if known.sequences is None and self.official is not None:
            known = replace(known, sequences=len(self.official(split)) or None)
        return known


@dataclass(frozen=True, eq=False)
class Dataset(Mapping[str, Sequence]):
    """Sequences by name, in the data set's own order."""

    name: str
    """The name that opens it: ``otb100``, ``got10k:test``, ``nuo323``."""
    title: str
    root: Path
    """Where it lies; of joined data sets: where the first one lies."""
    rule: str
    """Default scoring rule."""
    protocol: str
    sequences: Mapping[str, Sequence] = field(repr=False)
    missing: tuple[str, ...] = ()
    """Sequences that belong to it and are not there; a score without them is not the data set's score."""
    notes: tuple[str, ...] = ()
    """What must stand beside every score of this copy: missing sequences."""

    def __getitem__(self, name: str) -> Sequence:
        try:
            return self.sequences[name]
        except KeyError:
            raise UnknownSequence(
                f"{self.name} has no sequence {name!r} under {self.root}; {nearest_names(name, self.sequences)}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.sequences)

    def __len__(self) -> int:
        return len(self.sequences)


class UnknownSequence(InputError, KeyError):
    """A sequence that the data set does not have; a KeyError too, so that ``in`` and ``get`` work."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


@cache
def entries() -> Mapping[str, Entry]:
    """Every data set by name."""
    found: dict[str, Entry] = {}
    for module in _MODULES:
        for entry in import_module(f".{module}", __package__).ENTRIES:
            found[entry.name] = entry
    return found


def dataset_names() -> tuple[str, ...]:
    """The names that :func:`open_dataset` takes, without splits."""
    return (*entries(), *UNIONS)


def parse_name(name: str) -> tuple[tuple[Entry, str | None], ...]:
    """``"nfs30+got10k:val"`` -> the data sets and splits it stands for. Raises :class:`InputError`."""
    parts = UNIONS[name][0] if name in UNIONS else name
    return tuple(_parse_one(part) for part in parts.split("+"))


def full_name(entry: Entry, split: str | None) -> str:
    """``got10k:test``; the default split is not named."""
    return entry.name if split is None or split == entry.splits[0] else f"{entry.name}:{split}"


def open_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Find a data set and list its sequences; annotations and frames are read when they are asked for.

    ``root``: the data set's own folder, or the folder that holds it under a usual name; None: see :mod:`.roots`. For
    joined data sets the folder that holds all of them.

    Sequences that are not there are left out and named in ``Dataset.missing``; none at all is an error.
    Raises :class:`InputError` for an unknown name, a folder that is not found or that holds nothing of it.
    """
    members = parse_name(name)
    opened = [_open_one(entry, split, root) for entry, split in members]
    return opened[0] if len(opened) == 1 else _joined(name, opened)


def _parse_one(name: str) -> tuple[Entry, str | None]:
    base, _, split = name.partition(":")
    if base not in entries():
        raise InputError(
            f"unknown data set {base!r}; {nearest_names(base, dataset_names())} (see `keepsight data list`)"
        )
    entry = entries()[base]
    if not split:
        return entry, entry.splits[0] if entry.splits else None
    if not entry.splits:
        raise InputError(f"{name!r}: {base} has no splits; give {base!r}")
    if split not in entry.splits:
        raise InputError(f"{name!r}: {base} has no split {split!r}; {nearest_names(split, entry.splits)}")
    return entry, split


def _open_one(entry: Entry, split: str | None, root: str | Path | None) -> Dataset:
    from .attributes import with_attributes
    from .roots import find_root

    name = full_name(entry, split)
    found = find_root(entry.name, root).path
    try:
        listed = with_attributes(entry.read(found, split), found)
    except KeepsightError:
        raise
    except OSError as error:  # of a small file beside the main ones
        raise VideoError(f"{error.filename} cannot be read: {error.strerror}; check its permissions") from None
    sequences = {s.name: replace(s, dataset=name) for s in listed}
    if not sequences:
        raise InputError(
            f"{name}: no sequence found under {found}; the folder should look like this:\n{entry.layout}\n"
            f"`keepsight data check {name}` tells more"
        )
    official = entry.official(split) if entry.official else ()
    missing = tuple(s for s in official if s not in sequences)
    notes = _notes(name, len(sequences), entry.size(split).sequences, missing)
    return Dataset(name, entry.title, found, entry.rule, entry.protocol, sequences, missing, notes)


def _notes(name: str, there: int, published: int | None, missing: tuple[str, ...]) -> tuple[str, ...]:
    if not missing and there >= (published or 0):
        return ()
    named = ", ".join(missing[:5]) + (", .." if len(missing) > 5 else "")
    return (f"{name}: only {there} of {published} sequences are there" + (f"; missing: {named}" if named else ""),)


def _joined(name: str, parts: list[Dataset]) -> Dataset:
    sequences: dict[str, Sequence] = {}
    for part in parts:
        if part.protocol != parts[0].protocol or part.rule != parts[0].rule:
            raise InputError(
                f"{name!r}: {parts[0].name} is scored by {parts[0].protocol}/{parts[0].rule}, "
                f"{part.name} by {part.protocol}/{part.rule}; evaluate them one by one"
            )
        twice = [s for s in part if s in sequences]
        if twice:
            raise InputError(f"{name!r}: {part.name} has sequences of the same name as another part: {twice[0]!r}, ..")
        sequences.update(part)
    title = UNIONS[name][1] if name in UNIONS else " + ".join(part.title for part in parts)
    missing = tuple(s for part in parts for s in part.missing)
    notes = tuple(note for part in parts for note in part.notes)
    return Dataset(name, title, parts[0].root, parts[0].rule, parts[0].protocol, sequences, missing, notes)
