"""Images in: checked frames, search-region crops, normalisation and the augmentation of the first frame.

Everything follows spec/dimp-atom.md §7.2 (patch sampling) and §7.3 (first-frame augmentation). Positions, sizes and
shifts are (row, column) here, pixels are RGB in [0, 255] until :func:`normalise`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, nearest_names

BORDER_MODES = ("replicate", "inside", "inside_major")
PATCH_ARITHMETICS = ("integer", "float")
TRANSFORM_KINDS = ("identity", "translation", "fliplr", "flipud", "blur", "scale", "rotate")

_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of pixels in [0, 1]
_STD = (0.229, 0.224, 0.225)
_MEAN_BGR = (102.9801, 115.9465, 122.7717)  # Mask R-CNN's in Caffe2, of pixels in [0, 255]
_MAX_CROP_PIXELS = 2**26  # before resizing; only a sample size of absurd aspect, or without an output size, reaches it


# ---------------------------------------------------------------------------------------------------------------------
# Frames


def check_frame(frame: Any) -> np.ndarray:
    """The frame as (H, W, 3) uint8 RGB, without copying pixels where possible (so it may be a read-only view).

    ``frame``: uint8 numpy array or torch tensor, (H, W, 3) RGB; (H, W) or (H, W, 1) grey, which is repeated on three
    channels; (H, W, 4) RGBA, whose alpha is dropped. Any memory layout. BGR cannot be told from RGB.
    Raises :class:`InputError` on anything else.
    """
    if isinstance(frame, Tensor):
        if frame.dtype != torch.uint8:
            raise InputError(_wrong_dtype(f"a torch tensor of {str(frame.dtype).removeprefix('torch.')}"))
        frame = frame.detach().cpu().numpy()
    if not isinstance(frame, np.ndarray):
        raise InputError(
            f"the frame is {'None' if frame is None else 'of type ' + type(frame).__name__}; expected a uint8 array "
            "(H, W, 3) in RGB order; convert it with numpy.asarray(image), and check that the source gave a frame"
        )
    if frame.dtype != np.uint8:
        raise InputError(_wrong_dtype(f"an array of {frame.dtype}"))
    shape = tuple(frame.shape)
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 3, 4):
        hint = "give one frame at a time"
        if frame.ndim == 3 and shape[0] in (1, 3, 4):
            hint = "channels come last: use frame.transpose(1, 2, 0) (torch: frame.permute(1, 2, 0))"
        elif frame.ndim == 3:
            hint = "keep the three RGB channels only"
        raise InputError(f"the frame has shape {shape}; expected (H, W, 3) RGB, (H, W) grey or (H, W, 4) RGBA; {hint}")
    if 0 in shape:
        raise InputError(f"the frame has shape {shape}, so it has no pixels; give a frame of at least 1 × 1 pixels")
    if frame.shape[2] == 1:
        return np.broadcast_to(frame, (*shape[:2], 3))
    return frame[:, :, :3]


def _wrong_dtype(given: str) -> str:
    hint = "convert it with .astype(numpy.uint8) (torch: .to(torch.uint8)) if its values are 0 to 255"
    if "float" in given:
        hint = "multiply a float image in [0, 1] by 255 and convert it to uint8"
    elif "bool" in given:
        hint = "multiply a bool image by 255 and convert it to uint8"
    return f"the frame is {given}; expected uint8 values from 0 to 255, shape (H, W, 3), RGB; {hint}"


def frame_to_tensor(
    frame: Any, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:  # (1, 3, H, W)
    """The whole frame as (1, 3, H, W), RGB in [0, 255]; what :func:`check_frame` takes and raises.

    Only needed for whole-image work: :func:`sample_patch` takes the uint8 frame and converts no more than the crop.
    """
    return _pixels_of(check_frame(frame), torch.device(device), dtype)


def _pixels_of(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(H, W, C) array of any layout -> (1, C, H, W) of ``dtype``, channels-last in memory, which convolutions like."""
    array = array.copy(order="C")  # torch takes neither negative strides nor read-only memory
    return torch.from_numpy(array).to(device).permute(2, 0, 1)[None].to(dtype)


def normalise(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in [0, 255] -> the input of ImageNet backbones, in the same floating dtype; spec §1."""
    mean = torch.tensor(_MEAN, dtype=pixels.dtype, device=pixels.device)[:, None, None]  # (3, 1, 1)
    std = torch.tensor(_STD, dtype=pixels.dtype, device=pixels.device)[:, None, None]  # (3, 1, 1)
    return (pixels / 255).sub_(mean).div_(std)


def normalise_bgr(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in [0, 255] -> BGR less the mean, the input of LWL and RTS; spec/keeptrack-rts-lwl.md §0."""
    mean = torch.tensor(_MEAN_BGR, dtype=pixels.dtype, device=pixels.device)[:, None, None]  # (3, 1, 1)
    return pixels.flip(-3) - mean


# ---------------------------------------------------------------------------------------------------------------------
# Crops: where the pixels of a patch lie


@dataclass(frozen=True)
class CropConfig:
    """How a search region becomes a patch (spec §7.2)."""

    border_mode: str = "replicate"
    """``replicate``: pixels over the border repeat it. ``inside``: shrink and move the region until it lies in the
    image. ``inside_major``: the same, but only until its smaller overhang vanishes."""
    max_scale_change: float | None = None
    """Largest factor, at least 1, by which the inside modes may shrink the region; None: no limit."""
    patch_arithmetic: str = "integer"
    """``integer``, with which the published results were made, or ``float`` (the reference since May 2022, quirk Q3b:
    even crops away from the border get one more row and column, and coordinates are off by up to half a pixel)."""

    def __post_init__(self) -> None:
        _check_choice("border_mode", self.border_mode, BORDER_MODES)
        _check_choice("patch_arithmetic", self.patch_arithmetic, PATCH_ARITHMETICS)
        if self.max_scale_change is not None and not self.max_scale_change >= 1:
            raise InputError(f"max_scale_change is {self.max_scale_change}; give a factor of at least 1, or None")


def _check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{field} is {value!r}; {nearest_names(str(value), choices)}")


@dataclass(frozen=True)
class Span:
    """One axis of a crop: the pixels to read, and how many to add before and after them."""

    read: slice
    """Pixels of the image, at least one; its step is the downsampling stride."""
    before: int
    after: int
    outside: bool = False
    """Whether the crop does not touch the image at all; ``read`` is then the nearest border pixel."""


@dataclass(frozen=True)
class Crop:
    """The plan of one crop; made by :func:`plan_crop`, carried out by :func:`sample_patch`."""

    rows: Span
    cols: Span
    coordinates: tuple[float, float, float, float]
    """(top, left, bottom, right) in image pixels, end-exclusive, as the published trackers use them: without the phase
    of the downsampling stride (quirk Q3)."""


def _strided_length(length: int, stride: int, offset: int) -> int:
    """Pixels of an axis at ``offset``, ``offset + stride``, ...; one if the first of them lies beyond its end."""
    return max(1, -((offset - length) // stride))


def _span(start: int, stop: int, length: int, stride: int = 1, offset: int = 0) -> Span:
    """Read [start, stop) of every ``stride``-th pixel from ``offset`` of an axis of ``length``, clamped to its ends."""
    strided = _strided_length(length, stride, offset)
    offset = min(offset, length - 1)  # a stride larger than the image can step over it: take its last pixel
    first, last = min(max(start, 0), strided - 1), min(max(stop, 1), strided)  # at least one pixel
    before = min(max(-start, 0), stop - start - 1)
    after = (stop - start) - (last - first) - before
    begin = offset + first * stride
    read = slice(begin, begin + (last - first - 1) * stride + 1, min(stride, length))
    return Span(read, before, after, outside=stop <= 0 or start >= strided)


def plan_crop(
    height: int,
    width: int,
    pos: Sequence[float],
    sample_size: Sequence[float],
    output_size: Sequence[int] | None,
    config: CropConfig,
) -> Crop:
    """Which pixels of a ``height × width`` image make the patch; steps 1–9 of spec §7.2, in Python floats.

    ``pos``: (row, column) of the region's centre; ``sample_size``: its (h, w) in pixels; ``output_size``: (h, w) of the
    patch, None to keep the crop's own size. Raises :class:`InputError` for values that are not finite or positive.
    """
    lengths = (height, width)
    sizes = [float(s) for s in sample_size]
    centre = [float(p) for p in pos]
    if not all(map(math.isfinite, (*sizes, *centre))) or min(sizes) <= 0:
        raise InputError(
            f"a region of size {tuple(sizes)} around {tuple(centre)} cannot be sampled; "
            "position (row, column) must be finite, size (h, w) finite and positive"
        )
    inside = config.border_mode != "replicate"
    if inside:
        ratios = [size / length for size, length in zip(sizes, lengths, strict=True)]
        shrink = max(1.0, max(ratios) if config.border_mode == "inside" else min(ratios))
        if config.max_scale_change is not None:
            shrink = min(shrink, config.max_scale_change)
        sizes = [float(math.trunc(size / shrink)) for size in sizes]

    stride = 1  # a large region is cheaply downsampled to between one and two times the patch
    if output_size is not None:
        stride = max(1, math.trunc(min(size / out for size, out in zip(sizes, output_size, strict=True)) - 0.1))

    counts = [max(round(size / stride), 2) for size in sizes]  # pixels of the crop per axis
    if math.prod(counts) > _MAX_CROP_PIXELS:
        raise InputError(
            f"a region of size {tuple(sizes)} would be read as {counts[0]} × {counts[1]} pixels; "
            "give an output size of about the same aspect, so that it can be downsampled"
        )
    spans, lows, highs = [], [], []
    for length, p, n in zip(lengths, centre, counts, strict=True):
        position, offset = divmod(math.trunc(p), stride)
        strided = _strided_length(length, stride, offset)
        low, high = _half_pixel_ends(position, n, strided, inside, config.patch_arithmetic)
        spans.append(_span(_halve(low), _halve(high), length, stride, offset))
        lows.append(stride * low / 2)
        highs.append(stride * high / 2)
    return Crop(spans[0], spans[1], (lows[0], lows[1], highs[0], highs[1]))


def _half_pixel_ends(p: int, n: int, length: int, inside: bool, arithmetic: str) -> tuple[int, int]:
    """Begin and end of ``n`` pixels around ``p``, in HALF pixels: exact in both arithmetics, however far out."""
    if arithmetic == "integer":
        low, high = 2 * (p - (n - 1) // 2), 2 * (p + n // 2 + 1)
    else:
        low, high = 2 * p - (n - 1), 2 * p + n + 2
    if inside:
        move = max(0, -low) - max(0, high - 2 * length)
        low, high = low + move, high + move
        excess = (max(0, -low) + max(0, high - 2 * length)) // 4  # whole pixels over each border if split evenly
        if excess > 0:
            low, high = -2 * excess, high - low - 2 * excess
    return low, high


def _halve(half_pixels: int) -> int:
    """Half pixels to pixels, rounded towards zero: this decides on which side float arithmetic's extra pixel falls."""
    return half_pixels // 2 if half_pixels >= 0 else -(-half_pixels // 2)


# ---------------------------------------------------------------------------------------------------------------------
# Patches: the pixels


@dataclass(frozen=True)
class Patch:
    """A sampled patch and where it came from."""

    pixels: Tensor
    """(1, C, h, w), in [0, 255] (a mask keeps its own values)."""
    coordinates: tuple[float, float, float, float]
    """(top, left, bottom, right) in image pixels, end-exclusive; see :class:`Crop`."""

    @property
    def position(self) -> tuple[float, float]:
        """(row, column) pixel index in the image of the patch's centre."""
        top, left, bottom, right = self.coordinates
        return 0.5 * (top + bottom - 1), 0.5 * (left + right - 1)

    @property
    def scale(self) -> float:
        """Image pixels per patch pixel (geometric mean of both axes)."""
        top, left, bottom, right = self.coordinates
        height, width = self.pixels.shape[-2:]
        return math.sqrt((bottom - top) / height * ((right - left) / width))


def sample_patch(
    image: Tensor | np.ndarray,
    pos: Sequence[float],
    sample_size: Sequence[float],
    output_size: Sequence[int] | None,
    config: CropConfig,
    *,
    mask: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Patch:
    """Cut the region of ``sample_size`` (h, w) around ``pos`` (row, column) out of the image and resize it; spec §7.2.

    ``image``: (H, W, C) array, such as the uint8 frame of :func:`check_frame` (fast: only the crop is converted), or a
    (1, C, H, W) tensor; both give the same numbers. ``output_size``: (h, w) of the patch; None keeps the crop's size.
    ``mask``: resize to the nearest pixel and fill with zeros beyond the border, instead of bilinearly and repeating the
    border; an array may then be (H, W). ``device`` and ``dtype`` of the patch: by default where the image lies, and
    float32 unless the image is a floating tensor or a float64 array. Positions far outside the image and regions far
    larger than it are fine.
    Raises :class:`InputError` as :func:`plan_crop` does.
    """
    if isinstance(image, np.ndarray):
        image = image[:, :, None] if image.ndim == 2 else image
        height, width = image.shape[:2]
    else:
        height, width = image.shape[-2:]
    crop = plan_crop(height, width, pos, sample_size, output_size, config)
    pixels = _cut(image, crop, mask, device, dtype)  # (1, C, rows, columns)
    if output_size is not None and tuple(pixels.shape[-2:]) != tuple(output_size):
        size = [int(s) for s in output_size]
        pixels = F.interpolate(pixels, size, mode="nearest") if mask else _resize(pixels, size)  # (1, C, h, w)
    else:
        pixels = pixels.clone()  # never a view of the caller's image
    return Patch(pixels, crop.coordinates)


def sample_scales(
    image: Tensor | np.ndarray,
    pos: Sequence[float],
    scales: Sequence[float],
    size: Sequence[int],
    config: CropConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, list[Patch]]:
    """One patch of ``size`` (h, w) per scale (image pixels per patch pixel), as :func:`sample_patch` makes them.

    Returns their pixels, (S, C, h, w), and the S patches.
    """
    patches = [
        sample_patch(image, pos, [scale * s for s in size], size, config, device=device, dtype=dtype)
        for scale in scales
    ]
    if len(patches) == 1:
        return patches[0].pixels, patches
    return torch.cat([patch.pixels for patch in patches]), patches  # (S, C, h, w)


def _cut(
    image: Tensor | np.ndarray, crop: Crop, zeros: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    """The crop's pixels, (1, C, h, w), floating; beyond the border the border repeated, or zeros."""
    rows, cols = crop.rows, crop.cols
    if isinstance(image, np.ndarray):  # extended while still uint8: a quarter of the memory traffic
        part = image[rows.read, cols.read]  # (h, w, C), a view
        if zeros and (rows.outside or cols.outside):
            part = np.zeros_like(part)
        if rows.before or rows.after or cols.before or cols.after:
            margins = ((rows.before, rows.after), (cols.before, cols.after), (0, 0))
            part = np.pad(part, margins, mode="constant" if zeros else "edge")
        if dtype is None:
            dtype = torch.float64 if part.dtype == np.float64 else torch.float32
        return _pixels_of(part, torch.device(device or "cpu"), dtype)
    if dtype is None:
        dtype = image.dtype if image.is_floating_point() else torch.float32
    pixels = image[..., rows.read, cols.read].to(device=device or image.device, dtype=dtype)
    return _extend(pixels, rows, cols, zeros)


def _extend(pixels: Tensor, rows: Span, cols: Span, zeros: bool = False) -> Tensor:
    """Add the pixels beyond the border: repeat the border, or zeros."""
    margins = (cols.before, cols.after, rows.before, rows.after)
    if zeros and (rows.outside or cols.outside):
        pixels = torch.zeros_like(pixels)
    if not any(margins):
        return pixels
    return F.pad(pixels, margins, mode="constant" if zeros else "replicate")


def _resize(pixels: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(pixels, tuple(size), mode="bilinear", align_corners=False)


# ---------------------------------------------------------------------------------------------------------------------
# First-frame augmentation (spec §7.3)


@dataclass(frozen=True)
class Transform:
    """One augmentation of the first frame's patch."""

    kind: str = "identity"
    """One of ``identity``, ``translation``, ``fliplr``, ``flipud``, ``blur``, ``scale``, ``rotate``."""
    shift: tuple[int, int] = (0, 0)
    """(rows, columns) in patch pixels by which the content, hence the target box, moves down and right."""
    sigma: tuple[float, float] = (0.0, 0.0)
    """``blur``: standard deviations (vertical, horizontal) of the Gaussian, pixels; 0 leaves that axis alone."""
    factor: float = 1.0
    """``scale``: the content becomes smaller by this factor."""
    angle: float = 0.0
    """``rotate``: degrees, counter-clockwise as seen on the screen."""

    def __post_init__(self) -> None:
        _check_choice("kind of the transform", self.kind, TRANSFORM_KINDS)
        if any(not isinstance(s, int) for s in self.shift) or len(self.shift) != 2:
            raise InputError(f"shift is {self.shift!r}; give two whole numbers (rows, columns)")
        _check_blur(self.sigma)
        _check_factor("factor", self.factor)
        if not math.isfinite(self.angle):
            raise InputError(f"angle is {self.angle}; give finite degrees")


def _check_blur(sigma: Sequence[float]) -> None:
    if len(sigma) != 2 or not all(0 <= s < math.inf for s in sigma):
        raise InputError(f"blur is {tuple(sigma)}; give two deviations (vertical, horizontal) in pixels, at least 0")


def _check_factor(field: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{field} is {value}; give a finite factor above 0")


@dataclass(frozen=True)
class AugmentationConfig:
    """Which augmentations of the first frame train the target model; defaults of DiMP (spec §7.3, §7.9)."""

    fliplr: bool = True
    """Add the horizontal mirror image."""
    rotate: tuple[float, ...] = (10, -10, 45, -45)
    """Degrees of rotation."""
    blur: tuple[tuple[float, float], ...] = ((3, 1), (1, 3), (2, 2))
    """Standard deviations (vertical, horizontal) of Gaussian blurs, patch pixels."""
    scale: tuple[float, ...] = ()
    """Factors by which the content becomes smaller."""
    shift: tuple[tuple[int, int], ...] = ()
    """Translations (rows, columns), patch pixels."""
    relativeshift: tuple[tuple[float, float], ...] = ((0.6, 0.6), (-0.6, 0.6), (0.6, -0.6), (-0.6, -0.6))
    """Translations (rows, columns) relative to half the patch size."""
    dropout: tuple[int, float] | None = (2, 0.2)
    """(number of copies, probability) of channel dropout on the identity sample's features; None: no copies."""
    expansion_factor: float | None = 2.0
    """Size of the patch the transforms act on, relative to what is cut from it; None: the same size."""
    random_shift_factor: float = 1 / 3
    """Width of the uniform random shift of mirrored, blurred, scaled and rotated patches, relative to their size."""

    def __post_init__(self) -> None:
        for sigma in self.blur:
            _check_blur(sigma)
        for factor in self.scale:
            _check_factor("scale", factor)
        for pair in (*self.shift, *self.relativeshift):
            if len(pair) != 2 or not all(map(math.isfinite, pair)):
                raise InputError(f"shift or relativeshift has {tuple(pair)}; give pairs (rows, columns)")
        if not all(map(math.isfinite, self.rotate)):
            raise InputError(f"rotate is {self.rotate}; give finite degrees")
        if self.dropout is not None and not (self.dropout[0] >= 0 and 0 <= self.dropout[1] < 1):
            raise InputError(f"dropout is {self.dropout}; give (copies ≥ 0, probability in [0, 1)), or None")
        if self.expansion_factor is not None and not 1 <= self.expansion_factor < math.inf:
            raise InputError(f"expansion_factor is {self.expansion_factor}; give a finite factor ≥ 1, or None")
        if not 0 <= self.random_shift_factor < math.inf:
            raise InputError(f"random_shift_factor is {self.random_shift_factor}; give a finite factor ≥ 0")


def expanded_size(output_size: Sequence[int], expansion_factor: float | None) -> tuple[int, int]:
    """(h, w) of the patch to sample for :func:`apply_transforms`: larger by the factor, with equal margins."""
    if expansion_factor is None:
        return int(output_size[0]), int(output_size[1])
    sizes = [(math.trunc(z * expansion_factor), z) for z in output_size]
    return tuple(e + (e - z) % 2 for e, z in sizes)  # type: ignore[return-value]


def make_transforms(
    config: AugmentationConfig, output_size: Sequence[int], draw: Callable[[int], Sequence[float] | Tensor]
) -> list[Transform]:
    """The first frame's transforms in the published order: identity, shifts, mirror, blurs, scales, rotations.

    ``output_size``: (h, w) of the patches in the end; ``draw(2)`` returns two uniform numbers in [0, 1), and is called
    once per mirror, blur, scale and rotation in list order (never if ``random_shift_factor`` is 0).
    The dropout copies are not in the list: they repeat the identity sample's features, not its pixels.
    """

    def random_shift() -> tuple[int, int]:
        if config.random_shift_factor == 0:
            return 0, 0
        u = draw(2)
        rows, cols = ((float(u[i]) - 0.5) * output_size[i] * config.random_shift_factor for i in (0, 1))
        return math.trunc(rows), math.trunc(cols)

    transforms = [Transform()]
    for rows, cols in config.shift:
        transforms.append(Transform("translation", (int(rows), int(cols))))
    for pair in config.relativeshift:
        rows, cols = (math.trunc(v * z / 2) for v, z in zip(pair, output_size, strict=True))
        transforms.append(Transform("translation", (rows, cols)))
    if config.fliplr:
        transforms.append(Transform("fliplr", random_shift()))
    transforms.extend(Transform("blur", random_shift(), sigma=sigma) for sigma in config.blur)
    transforms.extend(Transform("scale", random_shift(), factor=factor) for factor in config.scale)
    transforms.extend(Transform("rotate", random_shift(), angle=angle) for angle in config.rotate)
    return transforms


def apply_transforms(patch: Tensor, transforms: Sequence[Transform], output_size: Sequence[int] | None) -> Tensor:
    """Every transform of ``patch`` (1, C, E, E'), cut to ``output_size`` about its shifted centre: (N, C, h, w).

    ``output_size``: (h, w), None keeps the patch's size. Cuts that reach over the patch repeat its border. Each
    transform is computed on the cut only, with the numbers it has on the whole patch. Rotations run in float32 on the
    CPU.
    """
    height, width = output_size if output_size is not None else patch.shape[-2:]
    out = patch.new_empty((len(transforms), patch.shape[1], height, width))  # (N, C, h, w)
    for n, transform in enumerate(transforms):
        source = _rescaled(patch, transform.factor) if transform.kind == "scale" else patch
        rows = _cut_span(source.shape[-2], height, transform.shift[0], mirror=transform.kind == "flipud")
        cols = _cut_span(source.shape[-1], width, transform.shift[1], mirror=transform.kind == "fliplr")
        if transform.kind == "blur":
            pixels = _blurred(source, rows.read, cols.read, transform.sigma)
        elif transform.kind == "rotate":
            pixels = _rotated(source, rows.read, cols.read, transform.angle)
        else:
            pixels = source[..., rows.read, cols.read]
        pixels = _extend(pixels, rows, cols)  # (1, C, h, w)
        if transform.kind in ("fliplr", "flipud"):
            pixels = pixels.flip(-1 if transform.kind == "fliplr" else -2)
        out[n] = pixels[0]
    return out


def _cut_span(length: int, size: int, shift: int, mirror: bool) -> Span:
    """The ``size`` pixels of an axis of ``length`` that a shift of the content by ``shift`` brings to the middle."""
    margin = size - length
    start, stop = -(margin // 2 + shift), length - (-margin // 2) - shift
    if mirror:  # cut first, mirror then: the same pixels counted from the other end
        start, stop = length - stop, length - start
    return _span(start, stop, length)


def _rescaled(patch: Tensor, factor: float) -> Tensor:
    """The patch made smaller by ``factor``, of the same parity, so that both margins of the cut stay equal."""
    sizes = [max(1, round(length / factor)) for length in patch.shape[-2:]]
    return _resize(patch, [s + (s - length) % 2 for s, length in zip(sizes, patch.shape[-2:], strict=True)])


def _blurred(patch: Tensor, rows: slice, cols: slice, sigma: Sequence[float]) -> Tensor:
    """Those rows and columns of the patch blurred by a separable Gaussian; beyond the patch lie zeros."""
    channels = patch.shape[1]
    taps_y, taps_x = (_gaussian_taps(s, patch) for s in sigma)
    rows, margin_y = _with_context(rows, len(taps_y) // 2, patch.shape[-2])
    cols, margin_x = _with_context(cols, len(taps_x) // 2, patch.shape[-1])
    pixels = F.pad(patch[..., rows, cols], (*margin_x, *margin_y))  # (1, C, h + 2 r_y, w + 2 r_x)
    pixels = pixels.transpose(0, 1)  # (C, 1, ...): every channel by itself
    pixels = F.conv2d(F.conv2d(pixels, taps_y[None, None, :, None]), taps_x[None, None, None, :])  # (C, 1, h, w)
    return pixels.reshape(1, channels, *pixels.shape[-2:])


def _gaussian_taps(sigma: float, like: Tensor) -> Tensor:
    """(2 ceil(2 sigma) + 1,) taps that sum to one; a single one for sigma 0."""
    radius = math.ceil(2 * sigma)
    taps = [math.exp(-(t**2) / (2 * sigma**2)) if t else 1.0 for t in range(-radius, radius + 1)]
    return torch.tensor([t / sum(taps) for t in taps], dtype=like.dtype, device=like.device)


def _with_context(read: slice, radius: int, length: int) -> tuple[slice, tuple[int, int]]:
    """The slice widened by ``radius`` as far as an axis of ``length`` goes, and how much is missing on either side."""
    start, stop = max(read.start - radius, 0), min(read.stop + radius, length)
    return slice(start, stop), (start - (read.start - radius), read.stop + radius - stop)


def _rotated(patch: Tensor, rows: slice, cols: slice, angle: float) -> Tensor:
    """Those rows and columns of the patch rotated about its centre; bilinear, repeating the border."""
    import cv2

    height, width = patch.shape[-2:]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    rotation = np.array([[cos, sin], [-sin, cos]])  # on (x, y), source to destination
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre - rotation @ centre
    # the whole patch, then the cut: OpenCV's float32 coordinates would round otherwise if the origin moved
    warped = cv2.warpAffine(
        patch[0].permute(1, 2, 0).to(device="cpu", dtype=torch.float32).contiguous().numpy(),  # (E, E', C)
        np.concatenate((rotation, offset[:, None]), axis=1),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).reshape(height, width, -1)[rows, cols]
    return torch.from_numpy(warped).to(patch).permute(2, 0, 1)[None]  # (1, C, h, w)
