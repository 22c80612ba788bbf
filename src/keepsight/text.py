"""Number files in and out: what trackers and data sets write as lines of numbers, read fast and read strictly.

Example::

    boxes = read_rows("results/dimp50/David.txt")              # (N, 4) float64
    truth = read_rows("groundtruth.txt", columns=(4, 8))       # rectangles or polygons
    write_rows("out/David.txt", boxes, fmt="%.4f", delimiter=",")

Needs numpy only.
"""

from __future__ import annotations

import io
import math
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from .errors import InputError, VideoError

Array = npt.NDArray[np.float64]
Blank = Literal["refuse", "skip", "nan"]

_NUMBER = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE | re.ASCII
)
_BETWEEN = re.compile(r"[ \t]*[,;][ \t]*|[ \t]+")
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_rows(
    source: str | Path | IO[bytes] | IO[str], columns: int | tuple[int, ...] | None = 4, *, blank: Blank = "refuse"
) -> Array:
    """The numbers of a text file, one row per line, as (N, columns) float64.

    Between the numbers of a line stand commas, semicolons, tabs or blanks; ``nan``, ``NaN`` and ``inf`` are numbers; a
    byte-order mark, Windows line ends, one separator at a line's end and empty lines at the end are accepted.
    ``columns``: how many numbers a line must have; a tuple of allowed counts; None for any. It is the same count in all
    lines of a file. ``blank``: what an empty line before the last row means: ``"refuse"`` (a lost row would shift all
    that follow), ``"skip"`` (also skips lines that start with ``#``), ``"nan"`` (a row of nan, as in VOT confidences).

    Raises :class:`VideoError` if the file cannot be read, and :class:`InputError` that names file and line if it holds
    anything else than such numbers, or none at all. What is not understood is never guessed.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        try:
            data = path.read_bytes()
        except OSError as error:
            what = "does not exist; check the path" if isinstance(error, FileNotFoundError) else _cannot("read", error)
            raise VideoError(f"{path} {what}") from None
        return parse_rows(data, str(path), columns, blank=blank)
    given = source.read()
    data = given.encode() if isinstance(given, str) else given
    return parse_rows(data, str(getattr(source, "name", "the given file")), columns, blank=blank)


def parse_rows(
    data: bytes, name: str = "the given text", columns: int | tuple[int, ...] | None = 4, *, blank: Blank = "refuse"
) -> Array:
    """:func:`read_rows` of text that is in memory already; ``name`` stands in the messages."""
    counts = (columns,) if isinstance(columns, int) else columns
    rows = _plain(data)
    if rows is not None and (counts is None or rows.shape[1] in counts):
        return rows
    return _line_by_line(data, name, counts, blank)


# --- fast: files without anything odd -----------------------------------------------------------------------------------


def _plain(data: bytes) -> Array | None:
    """Rows of a file whose every line has the same separators between well-formed numbers; None for any other file."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    data = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n") + b"\n"
    first = data[: data.index(b"\n")]
    if not first.strip():
        return None
    separators = first.translate(None, b"0123456789+-.eEnaNAiIfF")
    if separators and separators != separators[:1] * len(separators):
        return None
    delimiter, width = separators[:1], len(separators) + 1
    if delimiter not in (b"", b",", b";", b"\t", b" "):
        return None
    rows = _fixed_point(data, delimiter, width)
    if rows is None and not data.translate(None, b"0123456789-+.eEnaNAiIfF\n" + delimiter):
        rows = _any_numbers(data, delimiter, width)
    return rows


def _fixed_point(data: bytes, delimiter: bytes, width: int) -> Array | None:
    """(N, width) of integers, or of numbers that all have the same count of decimals; else None.

    Several times as fast as numpy's loadtxt, and as exact: up to 15 digits and their power of ten are floats without
    rounding, so one division rounds correctly.
    """
    if b"." in data:
        decimals = _decimals(data, delimiter)
        if decimals is None:
            return None
        rows = _fixed_point(data.translate(None, b"."), delimiter, width)
        return None if rows is None else rows / 10.0**decimals
    text = np.frombuffer(data, np.uint8)
    digit = text - np.uint8(ord("0"))  # (bytes,) above 9, by wrapping around, for everything else
    is_digit = digit < 10
    line_end = text == ord("\n")
    between = line_end | (text == delimiter[0]) if delimiter else line_end
    ends = np.flatnonzero(between)  # one behind each number
    lengths = np.diff(ends, prepend=-1) - 1
    minuses = len(data) - np.count_nonzero(is_digit) - len(ends)  # or something that is no part of an integer
    if len(ends) % width or not line_end[ends[width - 1 :: width]].all():
        return None
    if np.count_nonzero(line_end) * width != len(ends) or lengths.min() < 1 or lengths.max() > 15:
        return None
    digit *= is_digit
    pair = digit.copy()
    pair[1:] += 10 * digit[:-1]  # (bytes,) the number of two digits that ends here
    values = pair.take(ends - 1).astype(np.float64)  # a separator or minus before a single digit is a 0 by now
    for place in range(2, int(lengths.max()), 2):
        values += pair.take(ends - (place + 1), mode="clip") * (lengths > place) * 10.0**place
    if minuses:
        starts = ends - lengths
        negative = text.take(starts) == ord("-")
        if np.count_nonzero(negative) != minuses or (negative & (lengths < 2)).any():
            return None
        np.negative(values, out=values, where=negative)
    return values.reshape(-1, width)


def _decimals(data: bytes, delimiter: bytes) -> int | None:
    """How many digits stand behind every number's point; None if they differ or a number has no point or two."""
    text = np.frombuffer(data, np.uint8)
    between = text == ord("\n")
    if delimiter:
        between |= text == delimiter[0]
    ends, points = np.flatnonzero(between), np.flatnonzero(text == ord("."))
    if len(points) != len(ends):
        return None
    behind = ends - points - 1
    before = points - np.concatenate(([-1], ends[:-1])) - 1
    if before.min() < 1 or behind.min() < 1 or behind.min() != behind.max() or (text[points + 1] == ord("-")).any():
        return None
    return int(behind[0])


def _any_numbers(data: bytes, delimiter: bytes, width: int) -> Array | None:
    """(N, width) of any numbers, by numpy's reader; None if it stumbles, skips lines or finds numbers too large."""
    try:
        rows = np.loadtxt(io.StringIO(data.decode()), delimiter=delimiter.decode() or None, ndmin=2, comments=None)
    except (ValueError, OverflowError):
        return None
    if rows.shape != (data.count(b"\n"), width) or np.isinf(rows).any():
        return None
    return np.asarray(rows, dtype=np.float64)


# --- careful: everything else -------------------------------------------------------------------------------------------


def _line_by_line(data: bytes, name: str, counts: tuple[int, ...] | None, blank: Blank) -> Array:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        broken = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{name}, line {broken}: byte 0x{data[error.start]:02x} is not text; give a UTF-8 or ASCII file of numbers"
        ) from None
    wanted = f"give {_words(counts)} per line, separated by commas, semicolons, tabs or blanks"
    rows: list[list[float] | None] = []
    width, width_line = 0, 0
    lines = _LINE_END.split(text)
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    for number, line in enumerate(lines, 1):
        line = line.strip(" \t")
        if not line and blank == "refuse":
            raise InputError(f"{name}, line {number} is empty, and rows follow; {wanted}, without gaps")
        if not line or (blank == "skip" and line.startswith("#")):
            if blank == "nan":
                rows.append(None)
            continue
        cells = _BETWEEN.split(line)
        if not cells[-1]:
            cells.pop()  # one separator at the end
        values = [_value(cell, name, number, line, wanted) for cell in cells]
        if counts is not None and len(values) not in counts:
            raise InputError(
                f"{name}, line {number} has {len(values)} number{'s' * (len(values) != 1)}: {_short(line)}; {wanted}"
            )
        if width and len(values) != width:
            raise InputError(
                f"{name}, line {number} has {len(values)} number{'s' * (len(values) != 1)}, line {width_line} has {width}: "
                f"{_short(line)}; give the same count in every line"
            )
        width, width_line = len(values), width_line or number
        rows.append(values)
    if not width:
        raise InputError(f"{name} holds no numbers; {wanted}")
    return np.array([[math.nan] * width if row is None else row for row in rows], dtype=np.float64)  # (N, columns)


def _value(cell: str, name: str, number: int, line: str, wanted: str) -> float:
    if not cell:
        raise InputError(f"{name}, line {number} has an empty place between two separators: {_short(line)}; {wanted}")
    if not _NUMBER.fullmatch(cell):
        raise InputError(f"{name}, line {number}: {_short(cell)} is not a number; {wanted}")
    value = float(cell)
    if math.isinf(value) and "n" not in cell.lower():
        raise InputError(f"{name}, line {number}: {_short(cell)} is larger than a 64-bit float holds; {wanted}")
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _words(counts: tuple[int, ...] | None) -> str:
    if counts is None:
        return "numbers"
    return " or ".join(map(str, counts)) + (" number" if counts == (1,) else " numbers")


# --- writing ------------------------------------------------------------------------------------------------------------


def write_rows(path: str | Path, rows: npt.ArrayLike, fmt: str = "%.4f", delimiter: str = ",") -> None:
    """Write (N, columns) or (N,) numbers, one row per line; the file is complete or unchanged.

    ``fmt``: a %-format of one number; ``"%d"`` truncates toward zero. Nan becomes ``nan``.
    Raises :class:`InputError` for another shape and for nan under ``%d``; :class:`VideoError` if it cannot be written.
    """
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise InputError(f"rows have shape {values.shape}; give (N, columns) or (N,)")
    line = delimiter.join([fmt] * values.shape[1]) + "\n"
    try:
        text = (line * len(values)) % tuple(values.ravel().tolist())
    except (ValueError, OverflowError):
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError(
            f"{path}: row {bad} is {values[bad].tolist()}, which {fmt} cannot write; give finite numbers or another format"
        ) from None
    write_atomically(path, text)


def write_atomically(path: str | Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a file so that it is either complete or as it was before: a temporary file beside it takes its place.

    Text is written as UTF-8 with ``\\n`` line ends. Makes the folder. A full disk or an interruption leaves the old file
    and nothing else. Raises :class:`VideoError` if it cannot be written.
    """
    path = Path(path).expanduser()
    pieces = (content.encode(),) if isinstance(content, str) else (content,) if isinstance(content, bytes) else content
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
        with suppress(OSError):  # where there is an old file, its permissions stay
            os.chmod(temporary, path.stat().st_mode & 0o777)
        os.replace(temporary, path)
    except OSError as error:
        raise VideoError(f"{path} {_cannot('written', error)}; the old content, if any, is unchanged") from None
    finally:
        with suppress(OSError):  # gone already when the replacement succeeded
            os.unlink(temporary)


def _cannot(verb: str, error: OSError) -> str:
    return f"cannot be {verb}: {(error.strerror or str(error)).rstrip('.').lower()}"
