"""Annotation files of hundreds of megabytes, read without keeping what fills them: the segmentations.

A value such as ``"segmentation": [[..]]`` is replaced by its place in the file before the JSON is parsed, and read from
there when its mask is asked for. COCO's 450 MB for 600,000 objects so become 100 MB of text to parse, and each parsed
object goes into arrays at once (``hook``).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError, VideoError

_HEAVY = re.compile(rb'"segmentations?"\s*:\s*')
_BRACKET = re.compile(rb'[\[\]{}]|"(?:[^"\\]|\\.)*"')  # strings are stepped over: what they hold is no bracket
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,\]}]*')

Source = bytes | mmap.mmap


def read_light(path: Path, hook: Callable[[dict[str, Any]], Any]) -> Any:
    """The JSON of ``path`` with every segmentation replaced by its byte position (for :func:`read_value`).

    ``hook`` gets each JSON object and returns what stands in its place, as ``json.loads(object_hook=..)``.
    Raises :class:`VideoError` if the file cannot be read and :class:`InputError` if it is no JSON.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text = _lightened(data)
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}; check the path") from None
    except ValueError:  # mmap of an empty file
        raise InputError(f"{path} is empty; get the file again") from None
    try:
        return json.loads(text.decode("utf-8-sig"), object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file: {error}; get the file again") from None


def read_value(path: Path, position: int) -> Any:
    """The JSON value that begins at a byte of the file. Raises as :func:`read_light`."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            text = data[position : value_end(data, position)]
        return json.loads(text)
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}; check the path") from None
    except ValueError as error:
        raise InputError(f"{path}: no JSON value at byte {position} ({error}); was the file changed?") from None


def value_end(data: Source, start: int) -> int:
    """Where the JSON value that begins at ``start`` ends; the end of the file if it is cut short."""
    if data[start : start + 1] not in (b"[", b"{"):
        scalar = _SCALAR.match(data, start)
        return scalar.end() if scalar else start
    end = data.find(b"]]", start) if data[start : start + 2] == b"[[" else -1
    if end >= 0 and all(data.find(odd, start + 1, end) < 0 for odd in (b"[[", b"{", b'"')):
        return end + 2  # polygons, the usual case, at the speed of a search
    depth = 0
    for token in _BRACKET.finditer(data, start):
        kind = data[token.start()]
        if kind in b"[{":
            depth += 1
        elif kind in b"]}":
            depth -= 1
            if depth == 0:
                return token.end()
    return len(data)


def _lightened(data: Source) -> bytes:
    pieces, done = [], 0
    while (found := _HEAVY.search(data, done)) is not None:
        start = found.end()
        pieces.append(data[done:start])
        pieces.append(b"%d" % start)
        done = value_end(data, start)
    pieces.append(data[done:])
    return b"".join(pieces)
