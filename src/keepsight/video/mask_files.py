"""Masks out: indexed pictures, or one COCO file of run lengths; on disk frame by frame."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, VideoError
from .readers import IMAGE_SUFFIXES, VIDEO_SUFFIXES, words
from .writer import folder_advice

if TYPE_CHECKING:
    from ..online.state import Result


class MaskWriter:
    """Write the masks of every frame while the tracker runs. A frame is on disk before ``write`` returns.

    By suffix of ``path``:

    * ``.json``: COCO's ``{"info", "categories", "annotations", "images"}``, valid JSON after each frame. One annotation per frame
      and object, also where its mask is empty: ``image_id`` and ``frame`` (number of the frame in its source), ``category_id``
      and ``object_id``, ``segmentation`` (``size``, and ``counts`` as COCO compresses run lengths), ``area``, ``bbox``
      (x, y, w, h), ``score`` (the result's presence), ``status``;
    * anything else is a folder (made if it is absent): for each frame an indexed PNG whose pixels are object ids, 0 for the
      background, with the colours of the published trackers. It is called as the frame's image, else ``00000.png``, ... by
      number. The first of objects that claim a pixel has it.

    ``ids``: number of each object, 1 to 255. Raises :class:`InputError` for ids or masks that do not fit, :class:`VideoError` at
    once when the output cannot be written; all frames before stay readable then.
    """

    def __init__(self, path: str | Path, ids: Sequence[int] = (1,), metadata: Mapping[str, Any] | None = None) -> None:
        self.path, self.ids = Path(path).expanduser(), tuple(int(i) for i in ids)
        if not self.ids or len(set(self.ids)) < len(self.ids) or not all(1 <= i <= 255 for i in self.ids):
            raise InputError(f"object ids are {self.ids}; give each object a number of its own, from 1 to 255")
        self.frames = 0
        """Frames written so far."""
        self._last: int | None = None
        self._file: IO[bytes] | None = None
        if self.path.suffix.lower() == ".json":
            self._start_json(dict(metadata or {}))
        elif self.path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".txt", ".csv", ".zip"):
            raise VideoError(f"{path}: masks are written into a folder, or as one .json file; give one of these")
        else:
            _make_folder(self.path)

    def write(self, frame_index: int, results: Sequence[Result], *, name: str | None = None) -> None:
        """One frame, a result with a mask for each object. ``name``: file name of the frame's image, where it has one."""
        masks = [r.mask for r in results]
        if len(masks) != len(self.ids) or any(m is None or m.dtype != bool or m.ndim != 2 for m in masks):
            raise InputError(
                f"frame {frame_index}: expected {len(self.ids)} results, each with a mask (H, W) of bool; trackers that make "
                "masks have gives_masks"
            )
        shape = masks[0].shape  # type: ignore[union-attr]
        if any(m.shape != shape for m in masks):  # type: ignore[union-attr]
            raise InputError(f"frame {frame_index}: the masks have different sizes")
        if frame_index < 0 or (self._last is not None and frame_index <= self._last):
            raise InputError(f"frame {frame_index} comes after frame {self._last}; write frames in order")
        if self.path.suffix.lower() == ".json":
            self._write_json(frame_index, results, shape, name)
        else:
            self._write_picture(frame_index, masks, shape, name)  # type: ignore[arg-type]
        self._last = frame_index
        self.frames += 1

    # --- pictures ----------------------------------------------------------------------------------------------------

    def _write_picture(
        self, frame_index: int, masks: Sequence[np.ndarray], shape: tuple[int, int], name: str | None
    ) -> None:
        from ..datasets.masks import save_indexed_png, tracker_palette

        labels = np.zeros(shape, np.uint8)  # (H, W)
        for number, mask in reversed(list(zip(self.ids, masks, strict=True))):
            labels[mask] = number
        file = self.path / (f"{frame_index:05d}.png" if name is None else f"{Path(name).stem}.png")
        if _is_picture(file):
            raise VideoError(
                f"{file} is a picture and no mask, so it is not replaced; give another folder ({self.frames} frames were "
                "written before)"
            )
        try:
            save_indexed_png(file, labels, tracker_palette())
        except VideoError as error:
            raise VideoError(f"{error}; {self.frames} frames were written before") from None

    # --- run lengths -------------------------------------------------------------------------------------------------

    def _start_json(self, metadata: dict[str, Any]) -> None:
        info = {"description": "masks of keepsight", "version": "1", **metadata}
        categories = [{"id": i, "name": f"object {i}"} for i in self.ids]
        try:
            head = json.dumps({"info": info, "categories": categories}, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"metadata cannot be written as JSON ({error}); give plain finite values") from None
        try:
            self._file = open(self.path, "w+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise VideoError(f"{self.path} cannot be written: {words(error)}; {folder_advice(self.path)}") from None
        self._images = bytearray()
        self._count = 0
        try:
            start = head[:-1].encode() + b',\n"annotations": [\n'
            self._put(0, start + self._tail())
            self._end = len(start)
        except BaseException:
            self.close()
            raise

    def _write_json(
        self, frame_index: int, results: Sequence[Result], shape: tuple[int, int], name: str | None
    ) -> None:
        from ..datasets.coco_masks import encode_segmentation
        from ..datasets.masks import boxes_of_mask

        if self._file is None:
            raise VideoError(f"{self.path} is closed; open a new MaskWriter to write more")
        height, width = shape
        image = {
            "id": int(frame_index),
            "width": width,
            "height": height,
            "file_name": name or f"{frame_index:05d}.jpg",
        }
        rows, count = [], self._count
        for number, result in zip(self.ids, results, strict=True):
            assert result.mask is not None  # for the type checker
            count += 1
            area = int(result.mask.sum())
            rows.append(
                {
                    "id": count, "image_id": int(frame_index), "category_id": number, "frame": int(frame_index),
                    "object_id": number, "segmentation": encode_segmentation(result.mask), "area": area,
                    "bbox": boxes_of_mask(result.mask) if area else (0, 0, 0, 0), "iscrowd": 0,
                    "score": float(result.presence), "status": str(result.status),
                }
            )  # fmt: skip
        text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
        new = (b"," if self._count else b"") + text.encode()
        before = len(self._images)
        self._images += (b",\n" if self.frames else b"") + json.dumps(image, ensure_ascii=False).encode()
        try:
            self._put(self._end, new + self._tail())
        except VideoError:  # the places that held the old end are still the file's own
            del self._images[before:]
            with suppress(OSError, VideoError):
                self._put(self._end, self._tail())
                self._file.truncate()
            raise
        self._end, self._count = self._end + len(new), count

    def _tail(self) -> bytes:
        """What follows the annotations: every frame's image, 70 bytes each, written again with every frame."""
        return b'],\n"images": [\n' + bytes(self._images) + b"\n]}\n"

    def _put(self, place: int, data: bytes) -> None:
        assert self._file is not None
        try:
            self._file.seek(place)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise VideoError(
                f"{self.path} cannot be written: {words(error)}; {self.frames} frames were written before"
            ) from None

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise VideoError(f"folder {folder} cannot be written: {words(error)}; {folder_advice(folder)}") from None


def _is_picture(file: Path) -> bool:
    """Whether there is a file that is no indexed PNG: one of the video's own frames, perhaps."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(26)
    except OSError:
        return False
    return not (head[:4] == b"\x89PNG" and head[25:26] == b"\x03")
