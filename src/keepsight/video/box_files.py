"""Boxes out and in: csv, json and plain text, on disk row by row."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, VideoError
from ..text import parse_rows
from .readers import not_found, words
from .writer import folder_advice

if TYPE_CHECKING:
    from ..online.state import Result

BOX_COLUMNS = (
    "frame",
    "target",
    "x",
    "y",
    "w",
    "h",
    "score",
    "presence",
    "status",
    "flag",
    "updated",
    "update_reason",
    "milliseconds",
)


class BoxWriter:
    """Write one row per frame and target while the tracker runs. Every row is on disk before ``write`` returns.

    By suffix of ``path``:

    * ``.csv``: columns :data:`BOX_COLUMNS`, numbers with all their digits;
    * ``.json``: ``{"format", "version", "targets", "metadata", "frames": [row, ...]}``, valid JSON after each row;
    * ``.txt``: ``x,y,w,h`` with four decimals, one line per frame from the first written, as benchmarks expect. With
      several targets one file each, ``out_0.txt``, ``out_1.txt``, ... Frames passed over become ``nan,nan,nan,nan``, so
      that line numbers stay right.

    Boxes are ``Result.box``: pixels, top-left corner, clipped to the frame. The given box of the first frame has status
    ``given`` and no score. ``probability``: with a last column, ``presence_probability``. ``candidates``: each row of a ``.json``
    ends with a list of them, the fields of :class:`keepsight.Candidate`. Raises :class:`VideoError` at once when the output
    cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        targets: int = 1,
        metadata: Mapping[str, Any] | None = None,
        *,
        probability: bool = False,
        candidates: bool = False,
    ) -> None:
        self.path = Path(path).expanduser()
        self.kind = self.path.suffix.lower()
        if self.kind not in (".csv", ".json", ".txt"):
            raise VideoError(f"{path} has the suffix {self.path.suffix!r}; boxes are written as .csv .json .txt")
        if targets < 1:
            raise InputError(f"targets is {targets}; give how many boxes each frame has, at least 1")
        self.targets = targets
        self._more = ("presence_probability",) if probability else ()
        self._candidates = candidates and self.kind == ".json"
        self.paths: tuple[Path, ...] = (self.path,)
        """The files that are written."""
        if self.kind == ".txt" and targets > 1:
            self.paths = tuple(self.path.with_name(f"{self.path.stem}_{i}{self.path.suffix}") for i in range(targets))
        self._last: list[int | None] = [None] * targets
        self._rows = 0
        self._files: list[IO[str]] = []
        try:
            for file in self.paths:
                self._files.append(open(file, "w", encoding="utf-8", newline=""))  # noqa: SIM115
        except OSError as error:
            self.close()
            raise VideoError(f"{file} cannot be written: {words(error)}; {folder_advice(file)}") from None
        try:
            self._start(dict(metadata or {}))
        except BaseException:
            self.close()
            raise

    def _start(self, metadata: dict[str, Any]) -> None:
        if self.kind == ".csv":
            self._put(0, ",".join((*BOX_COLUMNS, *self._more)) + "\n")
        elif self.kind == ".json":
            head = {"format": "keepsight boxes", "version": 1, "targets": self.targets, "metadata": metadata}
            try:
                text = json.dumps(head, ensure_ascii=False, indent=1, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise InputError(f"metadata cannot be written as JSON ({error}); give plain finite values") from None
            self._put(0, text[:-2] + ',\n "frames": [\n')
            self._end = self._files[0].tell()
            self._put(0, "]}\n")

    def write_init(self, frame_index: int, target: int, box: tuple[float, float, float, float]) -> None:
        """Row of the frame in which ``box`` was given."""
        given: dict[str, Any] = {"score": None, "presence": 1.0, "status": "given", "flag": "given"}
        given |= {"updated": True, "update_reason": "first frame", "milliseconds": None}
        given |= dict.fromkeys(self._more, 1.0)
        given |= {"candidates": []} if self._candidates else {}
        self._write(frame_index, target, box, given)

    def write(self, frame_index: int, target: int, result: Result) -> None:
        """Row of one target in one frame; frames in rising order for each target."""
        row: dict[str, Any] = {"score": float(result.score), "presence": float(result.presence)}
        row |= {"status": str(result.status), "flag": str(result.flag), "updated": bool(result.updated)}
        row |= {"update_reason": str(result.update_reason), "milliseconds": float(result.milliseconds)}
        row |= {name: getattr(result, name) for name in self._more}
        if self._candidates:
            row["candidates"] = [asdict(candidate) for candidate in result.candidates]
        self._write(frame_index, target, result.box, row)

    def _write(self, frame_index: int, target: int, box: tuple[float, ...], rest: dict[str, Any]) -> None:
        if not self._files:
            raise VideoError(f"{self.path} is closed; open a new BoxWriter to write more")
        if not 0 <= target < self.targets:
            raise InputError(f"target is {target}; this writer has targets 0 to {self.targets - 1}")
        last = self._last[target]
        if frame_index < 0 or (last is not None and frame_index <= last):
            raise InputError(f"frame {frame_index} of target {target} comes after frame {last}; write frames in order")
        x, y, w, h = (float(v) for v in box)
        if self.kind == ".txt":
            missed = 0 if last is None else frame_index - last - 1
            self._put(target, "nan,nan,nan,nan\n" * missed + f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n")
        else:
            row = {"frame": int(frame_index), "target": int(target), "x": x, "y": y, "w": w, "h": h, **rest}
            self._put_csv(row) if self.kind == ".csv" else self._put_json(row)
        self._last[target] = frame_index
        self._rows += 1

    def _put_csv(self, row: dict[str, Any]) -> None:
        cells = ["" if v is None else repr(v) if isinstance(v, float) else str(v) for v in row.values()]
        self._put(0, ",".join(f'"{c.replace(chr(34), chr(34) * 2)}"' if _needs_quotes(c) else c for c in cells) + "\n")

    def _put_json(self, row: dict[str, Any]) -> None:
        text = ("," if self._rows else "") + "  " + json.dumps(_finite(row), ensure_ascii=False) + "\n"
        self._files[0].seek(self._end)  # over the closing brackets, which follow again in the same write
        self._put(0, text + "]}\n")
        self._end += len(text.encode())

    def _put(self, file: int, text: str) -> None:
        try:
            self._files[file].write(text)
            self._files[file].flush()
        except OSError as error:
            raise VideoError(
                f"{self.paths[file]} cannot be written: {words(error)}; {self._rows} rows were written before"
            ) from None

    def close(self) -> None:
        """Close the files; may be called twice."""
        for file in self._files:
            with suppress(OSError):  # rows that could not be written have been reported by `write`
                file.close()
        self._files = []

    def __enter__(self) -> BoxWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _finite(value: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _needs_quotes(cell: str) -> bool:
    return any(c in cell for c in ',"\n\r')


def read_boxes(path: str | Path, target: int = 0) -> np.ndarray:
    """Boxes of a file as (N, 4) float64, x, y, w, h; NaN where the target is absent or the frame was passed over.

    Reads what :class:`BoxWriter` writes (row 0 is the first frame in the file) and ground-truth files: four numbers per
    line, separated by commas, semicolons, tabs or blanks, ``nan`` allowed. Raises :class:`VideoError` when the file
    cannot be read and :class:`InputError` when its contents are not boxes.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise VideoError(not_found(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"box file {path} cannot be read: {words(error)}") from None
    if not text.strip():
        raise InputError(f"{path} holds no boxes; give a file with x,y,w,h on each line")
    if text.lstrip().startswith("{"):
        return _in_frame_order(_json_rows(path, text), path, target)
    if text.lstrip().startswith("frame,"):
        return _in_frame_order(list(csv.DictReader(text.splitlines())), path, target)
    return parse_rows(text.encode(), str(path), blank="skip")


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)["frames"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a box file of keepsight: no list 'frames' in it") from None
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise InputError(f"{path} is not a box file of keepsight: 'frames' is not a list of rows")
    return rows


def _in_frame_order(rows: list[dict[str, Any]], path: Path, target: int) -> np.ndarray:
    """Rows of one target, one per frame from the first to the last; frames without a row become NaN."""
    try:
        boxes = {
            int(r["frame"]): [math.nan if r[k] is None else float(r[k]) for k in "xywh"]
            for r in rows
            if int(r["target"]) == target
        }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} has a row without a proper frame, target, x, y, w or h ({error})") from None
    if not boxes:
        raise InputError(f"{path} holds no boxes of target {target}")
    first, last = min(boxes), max(boxes)
    if last - first > 10_000_000:
        raise InputError(f"{path} counts frames from {first} to {last}; at most ten million are read")
    return np.array([boxes.get(i, [math.nan] * 4) for i in range(first, last + 1)], dtype=np.float64)  # (N, 4)
