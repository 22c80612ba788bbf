"""Segmentations on disk: indexed PNG files as DAVIS and YouTube-VOS have them, grey pictures, videos of masks.

An object id is a pixel's palette index, not its colour. Tools that look at colours (and ``cv2.imread``) destroy ids,
so files are read with Pillow, and a picture whose ids cannot be told for certain is an error, never a guess.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError, VideoError
from ..text import write_atomically
from .frames import VideoFrames, list_images
from .sequence import Array, Masks

VOID = 255
"""Pixels that the annotator left undecided."""
MAX_GREY_ID = 127
"""Grey files hold ids up to here as they are; brighter greys can only be a drawing of one object."""

Ids = npt.NDArray[np.uint8]


class MaskFiles(Masks):
    """One picture per frame; None for frames without one. Files are opened when they are indexed.

    Args:
        paths: one per frame, None where the data set has no mask.
        binary: every file shows one object, whatever its value: ids become 1. Greys above 127 belong to it (SegTrack
            and DAVIS 2016, where some files have soft edges), of indexed pictures everything that is not index 0.
    """

    def __init__(self, paths: Sequence[Path | None], binary: bool = False) -> None:
        self.paths = tuple(paths)
        self.binary = binary

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Ids | None:
        path = self.paths[index]
        return None if path is None else read_mask(path, self.binary)


class MaskVideo(Masks):
    """One object drawn bright on dark in a video file (compression makes greys of it). Ids are 0 and 1."""

    def __init__(self, path: str | Path, count: int | None = None, threshold: int = 127) -> None:
        """``count``: number of frames; None: found by decoding the video once more."""
        self.path, self.threshold = Path(path), threshold
        self._frames = VideoFrames(self.path, count)

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Ids:
        green = self._frames[index][..., 1]  # (H, W); grey drawings have three equal channels
        return (green > self.threshold).astype(np.uint8)


def list_pictures(folder: Path) -> tuple[Path, ...]:
    """Image files of a folder in natural order; none if there is no such folder."""
    return list_images(folder) if folder.is_dir() else ()


def read_mask(path: str | Path, binary: bool = False) -> Ids:
    """Object ids (H, W) uint8 of one picture, 0 is background, 255 is void.

    Indexed pictures: their indices. Grey ones: 0/255 is one object (id 1), values up to 127 are ids and 255 is then
    void. Colour pictures: black and white as grey, colours of the DAVIS palette as its indices.
    ``binary``: see :class:`MaskFiles`. Raises :class:`VideoError` if the file cannot be read and :class:`InputError` if
    its ids cannot be told.
    """
    indexed, pixels = _read_picture(Path(path))
    if pixels.ndim == 3:
        pixels = pixels[..., :3]
        if (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        else:
            pixels, indexed = _indices_of_colours(pixels, path), True
    if binary:
        return np.greater(pixels, 0 if indexed or pixels.max(initial=0) <= MAX_GREY_ID else 127).astype(np.uint8)
    return pixels if indexed else _ids_of_grey(pixels, path)


def _read_picture(path: Path) -> tuple[bool, Ids]:
    """Whether the values are palette indices, and (H, W) or (H, W, C) uint8."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode == "LA":
                picture = picture.convert("L")
            pixels = np.array(picture)
            mode = picture.mode
    except FileNotFoundError:
        raise VideoError(f"there is no mask file {path}; restore it, or check the folder's path") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise VideoError(f"mask file {path} cannot be read: {error}; copy it from the data set again") from None
    if mode == "1":
        return True, pixels.astype(np.uint8)
    if pixels.dtype != np.uint8 or mode not in ("P", "L", "RGB", "RGBA"):
        raise InputError(f"mask file {path} has pixels of kind {mode!r}; give an indexed or 8-bit grey PNG")
    return mode == "P", pixels


def _ids_of_grey(pixels: Ids, path: str | Path) -> Ids:
    values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
    if set(values) <= {0, VOID}:
        return (pixels > 0).astype(np.uint8)
    if (values[values != VOID] <= MAX_GREY_ID).all():
        return pixels
    raise InputError(
        f"mask file {path} is grey with {len(values)} levels, so its object ids cannot be told (soft edges?); save it as "
        "an indexed PNG, or as 0 and 255 for one object"
    )


def _indices_of_colours(pixels: Ids, path: str | Path) -> Ids:
    """(H, W, 3) -> (H, W) indices of the DAVIS palette, whose 256 colours are all different."""
    weights = np.array([1 << 16, 1 << 8, 1])
    codes = davis_palette().astype(np.int64) @ weights  # (256,)
    order = np.argsort(codes)
    wanted = np.where(pixels == 191, 192, pixels).astype(np.int64) @ weights  # (H, W); see tracker_palette
    found = order[np.searchsorted(codes[order], wanted).clip(max=255)]
    if (codes[found] != wanted).any():
        y, x = np.argwhere(codes[found] != wanted)[0]
        colour = tuple(int(v) for v in pixels[y, x])
        raise InputError(
            f"mask file {path} is a colour picture, and {colour} at x={x}, y={y} is no colour of the DAVIS palette, so the "
            "object ids cannot be told; save it as an indexed PNG (Pillow keeps the palette, OpenCV does not)"
        )
    return found.astype(np.uint8)


def davis_palette() -> Ids:
    """(256, 3) RGB: the bits of an id, dealt in turn to red, green and blue, highest colour bit first (Pascal VOC, DAVIS)."""
    ids = np.arange(256)[:, None]  # (256, 1)
    channel = np.arange(3)  # (3,)
    colours = np.zeros((256, 3), np.int64)
    for k in range(3):  # bits k*3, k*3+1, k*3+2 of the id
        colours |= (ids >> (3 * k + channel) & 1) << (7 - k)
    return colours.astype(np.uint8)


def tracker_palette() -> Ids:
    """(256, 3) RGB that the published trackers of masks write: 22 of DAVIS's colours, in which 192 became 191, then greys.

    spec/keeptrack-rts-lwl.md §12.
    """
    colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # (256, 3)
    colours[:22] = davis_palette()[:22]
    colours[colours == 192] = 191
    colours[192] = 192  # a grey, which stays
    return colours


def save_indexed_png(path: str | Path, ids: np.ndarray, palette: Ids | None = None) -> None:
    """Write object ids (H, W), 0..255, as an indexed PNG: what the benchmarks' servers read.

    ``palette``: (256, 3) RGB; None: :func:`davis_palette`. The file appears whole or not at all; its folder is made. Raises
    :class:`InputError` for ids that do not fit and :class:`VideoError` if it cannot be written.
    """
    _save_png(path, ids, davis_palette() if palette is None else palette)


def save_grey_png(path: str | Path, ids: np.ndarray) -> None:
    """As :func:`save_indexed_png`, with grey pixels of the ids' values, for readers that take a colour channel for the id."""
    _save_png(path, ids, None)


def _save_png(path: str | Path, ids: np.ndarray, palette: Ids | None) -> None:
    from PIL import Image

    path, ids = Path(path), np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "bui":
        raise InputError(f"ids for {path} are {ids.dtype} of shape {ids.shape}; give whole numbers of shape (H, W)")
    if ids.min() < 0 or ids.max() > 255:
        raise InputError(f"ids for {path} go from {ids.min()} to {ids.max()}; a PNG palette holds 0..255")
    picture = Image.fromarray(np.ascontiguousarray(ids, dtype=np.uint8))
    if palette is not None:
        picture.putpalette(palette.tobytes(), "RGB")  # grey becomes indexed, values stay
    png = io.BytesIO()
    picture.save(png, format="PNG")
    write_atomically(path, png.getvalue())


def boxes_of_mask(ids: np.ndarray, object_id: int = 1) -> tuple[float, float, float, float]:
    """x, y, w, h of the object's pixels, counted (one pixel is 1 wide); four nan where it has none. ``ids``: (H, W)."""
    mask = np.asarray(ids) == object_id  # (H, W)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (np.nan, np.nan, np.nan, np.nan)
    x, y = columns[0], rows[0]
    return float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)


def boxes_of_masks(masks: Masks, object_id: int = 1) -> Array:
    """(N, 4) xywh of one object; nan where it has no pixels or the frame no mask. Reads every mask file once."""
    nothing = (np.nan,) * 4
    every = (masks[i] for i in range(len(masks)))
    rows = [nothing if ids is None else boxes_of_mask(ids, object_id) for ids in every]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def object_ids(ids: np.ndarray) -> tuple[int, ...]:
    """1..the largest id of ``ids`` (void aside): the objects of a DAVIS video by its first mask (spec/evaluation.md §10)."""
    values = np.unique(ids)
    values = values[values != VOID]
    return tuple(range(1, int(values[-1]) + 1)) if len(values) else ()
