"""Result trees of the VOT toolkits (MATLAB, pysot, vot-toolkit), read and written (spec/evaluation.md §6, §7, §9, §12).

One tracker's folder::

    <experiment>/<sequence>/<sequence>_001.txt | .bin       one repetition: a region or code per frame
    <experiment>/<sequence>/<sequence>_00000025.txt | .bin  the run from the anchor at frame 25 (multi-start)
    <experiment>/<sequence>/<stem>_confidence.value         long-term: one number per frame, the first line empty
    <experiment>/<sequence>/<stem>_time.value               vot-toolkit: seconds per frame
    <experiment>/<sequence>/<sequence>_time.txt             MATLAB, pysot: a column of seconds per repetition

Experiments are ``baseline``, ``realtime``, ``unsupervised``, ``longterm``. Binary trajectories hold float32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..datasets.sequence import Sequence
from ..errors import InputError, VideoError
from ..regions import (
    Code,
    Mask,
    Polygon,
    Rectangle,
    Region,
    Special,
    decode_runs,
    encode_runs,
    format_region,
    parse_region,
)
from ..text import write_atomically
from .runs import Run

Array = npt.NDArray[np.float64]

_VERSION = 1
_LONGEST_RUN = 65025
"""vot-toolkit cuts longer runs of mask pixels with a run of 0 between the parts."""


# --- one trajectory -----------------------------------------------------------------------------------------------------


def read_regions(path: str | Path) -> tuple[Region, ...]:
    """The regions of a ``.bin`` or text trajectory. Text cuts masks to their pixels, binary keeps the stored part.

    Raises:
        VideoError: the file cannot be read.
        InputError: damaged, cut off, or no trajectory; names the line (text) or the region's number (binary).
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}; check the path") from None
    return decode_regions(data, str(path)) if path.suffix == ".bin" else parse_regions(data, str(path))


def parse_regions(data: bytes, name: str = "the given text") -> tuple[Region, ...]:
    """A text trajectory, one region or code per line; ``name`` stands in the messages. Raises :class:`InputError`."""
    try:
        lines = data.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{name} is not text; binary trajectories must be called .bin") from None
    regions = []
    for number, line in enumerate(lines, 1):
        try:
            regions.append(parse_region(line))
        except InputError as error:
            raise InputError(f"{name}, line {number}: {error}") from None
    if not regions:
        raise InputError(f"{name} is empty; expected a region or code per line: run this sequence again")
    return tuple(regions)


def write_regions(path: str | Path, regions: Iterable[Region], digits: int | None = None) -> None:
    """Write a trajectory, binary if the path ends in ``.bin``; complete or not at all. ``digits``: decimals of text."""
    path = Path(path)
    if path.suffix == ".bin":
        write_atomically(path, encode_regions(tuple(regions)))
    else:
        write_atomically(path, "".join(format_region(r, digits) + "\n" for r in regions))


def encode_regions(regions: tuple[Region, ...]) -> bytes:
    """A binary trajectory: little endian, version and count, then for each region a byte for its type and its data."""
    out = [struct.pack("<hI", _VERSION, len(regions))]
    for region in regions:
        if isinstance(region, Special):
            out.append(struct.pack("<BI", 0, int(region.code)))
        elif isinstance(region, Rectangle):
            out.append(struct.pack("<Bffff", 1, region.x, region.y, region.w, region.h))
        elif isinstance(region, Polygon):
            points = region.points.ravel()
            out.append(struct.pack(f"<BH{len(points)}f", 2, len(region.points), *points))
        else:
            out.append(_encode_mask(region))
    return b"".join(out)


def _encode_mask(mask: Mask) -> bytes:
    runs: list[int] = []
    for run in encode_runs(mask.pixels):
        while run > _LONGEST_RUN:
            runs += [_LONGEST_RUN, 0]
            run -= _LONGEST_RUN
        runs.append(run)
    h, w = mask.pixels.shape
    if len(runs) > 0xFFFF or max(h, w) > 0xFFFF or not all(-0x8000 <= v < 0x8000 for v in (mask.x, mask.y)):
        raise InputError(f"mask of {w} x {h} pixels with {len(runs)} runs does not fit VOT's binary format; write text")
    return struct.pack(f"<BhhHHH{len(runs)}H", 3, mask.x, mask.y, w, h, len(runs), *runs)


def decode_regions(data: bytes, name: str = "the given bytes") -> tuple[Region, ...]:
    """Inverse of :func:`encode_regions`; ``name`` stands in the messages.

    Raises :class:`InputError` for another version, an unknown type, or data that end too early or too late.
    """
    reader = _Reader(data, name)
    version, count = reader.take("<hI")
    if version != _VERSION:
        raise InputError(f"{name}: version {version} of a binary trajectory; version {_VERSION} is known")
    regions = tuple(_decode_region(reader) for _ in range(count))
    if reader.at != len(data):
        raise InputError(
            f"{name}: {len(data) - reader.at} bytes follow the last of {count} regions; the file is damaged"
        )
    return regions


class _Reader:
    """Takes packed numbers from bytes, one format after the other."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at, self.number = data, name, 0, 0

    def take(self, form: str) -> tuple:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise InputError(f"{self.name} ends inside region {self.number}: it was cut off; run this sequence again")
        self.at += size
        return struct.unpack_from(form, self.data, self.at - size)


def _decode_region(reader: _Reader) -> Region:
    reader.number += 1
    (kind,) = reader.take("<B")
    if kind == 0:
        return Special(reader.take("<I")[0])
    if kind in (1, 2):
        numbers = reader.take("<4f") if kind == 1 else reader.take(f"<{2 * reader.take('<H')[0]}f")
        if np.isnan(numbers).any():
            return Special(Code.UNKNOWN)
        if not np.isfinite(numbers).all() or len(numbers) < 4 or (kind == 2 and len(numbers) < 6):
            raise InputError(f"{reader.name}, region {reader.number}: {numbers} is no region of finite pixels")
        return Rectangle(*numbers) if kind == 1 else Polygon(np.array(numbers).reshape(-1, 2))
    if kind == 3:
        x, y, w, h, count = reader.take("<hhHHH")
        runs = reader.take(f"<{count}H")
        try:
            return Mask(x, y, decode_runs(runs, w, h))
        except InputError as error:
            raise InputError(f"{reader.name}, region {reader.number}: {error}") from None
    what = "a point, which no rule here scores" if kind == 4 else "unknown"
    raise InputError(f"{reader.name}, region {reader.number} has type {kind}: {what}")


# --- one tracker's folder -----------------------------------------------------------------------------------------------


def write_vot_results(
    folder: str | Path,
    sequences: Iterable[Sequence],
    runs: Mapping[str, list[Run]],
    experiment: str = "baseline",
    *,
    binary: bool = False,
    digits: int | None = 4,
) -> list[Path]:
    """Write one tracker's runs below ``folder`` (``results/<tracker>``) as VOT's toolkits keep them; the files written.

    Runs without regions (one-pass, long-term) get code 1 in their first line and code 0 where there is no box. Confidences
    and times are written where they are known. Each file is written whole or not at all.

    Raises :class:`InputError` for a sequence without runs or masks too large for ``binary``.
    """
    written: list[Path] = []
    for sequence in sequences:
        if not runs.get(sequence.name):
            raise InputError(f"{sequence.dataset}/{sequence.name} has no result; run the tracker on it first")
        stem = sequence.name.split("/")[-1]
        for number, run in enumerate(runs[sequence.name], 1):
            label = f"{stem}_{number:03d}" if run.anchor is None else f"{stem}_{run.anchor:08d}"
            path = Path(folder) / experiment / sequence.name / (label + (".bin" if binary else ".txt"))
            write_regions(path, run_regions(run), digits)
            written.append(path)
            for what, values in (("confidence", run.presence), ("time", run.seconds)):
                if values is not None:
                    beside = path.with_name(f"{label}_{what}.value")
                    write_atomically(beside, "".join("\n" if np.isnan(v) else f"{v!r}\n" for v in values.tolist()))
                    written.append(beside)
    return written


def run_regions(run: Run) -> tuple[Region, ...]:
    """The run's regions; made from its boxes where it has none: code 1 first, code 0 where there is no box."""
    if run.regions is not None:
        return run.regions
    unknown = Special(Code.UNKNOWN)
    regions: list[Region] = [unknown if np.isnan(b).any() else Rectangle(*map(float, b)) for b in run.boxes]
    regions[:1] = [Special(Code.INITIALISATION)]
    return tuple(regions)
