"""Segmentations as COCO, LVIS, YouTube-VIS and TAO write them: polygons, and run lengths plain or compressed.

Run lengths go down the columns, zeros first. The compressed string holds each number in groups of five bits, lowest
first, as characters from ``0`` on; bit 32 says that more follow, bit 16 of the last group is the sign. From the fourth
number on, the difference to the number two places before is stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..regions import decode_runs, encode_runs
from .json_scan import read_value
from .sequence import Masks

Bits = npt.NDArray[np.bool_]


class SegmentationMasks(Masks):
    """Masks of one object, each read from its place in the annotation file when it is indexed; ids are 0 and 1.

    ``places``: one per frame, a byte position, or -1 where there is none. ``items``: where the value at the position is
    a list with one segmentation per frame (YouTube-VIS), which one; None: the value is the segmentation.
    """

    def __init__(
        self, path: Path, places: SequenceOf[int], size: tuple[int, int], items: SequenceOf[int] | None = None
    ) -> None:
        self.path, self.places, self.size, self.items = path, tuple(places), size, items

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | None:
        """Raises :class:`InputError` for a segmentation that cannot be understood; it names file and place."""
        place = self.places[index]
        value = read_value(self.path, place) if place >= 0 else None
        if value is not None and self.items is not None:
            value = value[self.items[index]]
        if not value:
            return None
        try:
            return decode_segmentation(value, *self.size).astype(np.uint8)
        except InputError as error:
            raise InputError(f"{self.path}, byte {place}: {error}") from None


def decode_segmentation(segmentation: Any, width: int, height: int) -> Bits:
    """One annotation's ``segmentation`` -> (height, width) bool. Raises :class:`InputError` if it is none."""
    if isinstance(segmentation, dict):
        return _decode_rle(segmentation, width, height)
    if isinstance(segmentation, list) and segmentation:
        parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
        try:
            outlines = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts]  # (K, 2) each
        except (ValueError, TypeError):
            raise InputError("segmentation holds a polygon that is no list of x, y, x, y, ..") from None
        return np.logical_or.reduce([fill_polygon(outline, width, height) for outline in outlines])
    raise InputError(
        f"segmentation is {str(segmentation)[:60]!r}; expected polygons or run lengths with counts and size"
    )


def _decode_rle(rle: dict[str, Any], width: int, height: int) -> Bits:
    try:
        rows, columns = (int(v) for v in rle["size"])
        counts = rle["counts"]
        runs = uncompress(counts) if isinstance(counts, str) else [int(v) for v in counts]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"run lengths without usable counts and size ({type(error).__name__}: {error})") from None
    if (columns, rows) != (width, height):
        raise InputError(f"run lengths are for {columns} x {rows} pixels, the image has {width} x {height}")
    return decode_runs(runs, width=rows, height=columns).T  # columns first


def encode_segmentation(mask: Bits) -> dict[str, Any]:
    """(H, W) bool -> ``{"size": [H, W], "counts": ..}`` with the compressed string, as COCO's tools read and write it."""
    return {"size": list(mask.shape), "counts": compress(encode_runs(mask.T))}


def compress(runs: SequenceOf[int]) -> str:
    """Inverse of :func:`uncompress`."""
    text = bytearray()
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        while not -16 <= value < 16:
            text.append(48 + (value & 31) + 32)
            value >>= 5
        text.append(48 + (value & 31))
    return text.decode("ascii")


def uncompress(counts: str) -> list[int]:
    """Compressed counts -> run lengths. Raises :class:`InputError` for a string that is cut or holds other characters."""
    if re.search(r"[^0-o]", counts):
        raise InputError(f"compressed run lengths {counts[:40]!r} hold characters beyond '0'..'o'")
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("ascii"):
        group = code - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError(f"compressed run lengths {counts[:40]!r} end within a number: was the file cut off?")
    return runs


def fill_polygon(outline: npt.NDArray[np.float64], width: int, height: int) -> Bits:
    """Pixels whose centres lie inside the closed outline (K, 2) of x, y, by the even-odd rule -> (height, width).

    Pixel (column i, row j) has its centre at (i + 1/2, j + 1/2).
    """
    if len(outline) < 3 or not np.isfinite(outline).all():
        return np.zeros((height, width), dtype=bool)
    begin, end = outline, np.roll(outline, -1, axis=0)  # (K, 2)
    down = (begin[:, 1] <= end[:, 1])[:, None]
    top, bottom = np.where(down, begin, end), np.where(down, end, begin)
    first = np.ceil(top[:, 1] - 0.5).clip(0, height).astype(np.int64)  # (K,) rows whose centre line an edge crosses
    last = np.ceil(bottom[:, 1] - 0.5).clip(0, height).astype(np.int64)
    counts = last - first
    edge = np.repeat(np.arange(len(outline)), counts)  # (X,) one per crossing
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    along = (row + 0.5 - top[edge, 1]) / (bottom[edge, 1] - top[edge, 1])
    x = top[edge, 0] + along * (bottom[edge, 0] - top[edge, 0])
    column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)  # first centre right of the crossing
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(crossings[:, :width], axis=1) % 2 == 1)
