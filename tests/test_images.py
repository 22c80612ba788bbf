"""Frames, crops, normalisation and augmentation, against plain slow references written here from spec §7.2 and §7.3."""

from __future__ import annotations

import math
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keepsight.errors import InputError
from keepsight.images import (
    TRANSFORM_KINDS,
    AugmentationConfig,
    CropConfig,
    Patch,
    Transform,
    apply_transforms,
    check_frame,
    expanded_size,
    frame_to_tensor,
    make_transforms,
    normalise,
    plan_crop,
    sample_patch,
    sample_scales,
)

REPLICATE = CropConfig()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# Frames


def test_frame_kinds() -> None:
    rgb = noise(5, 7)
    rgba = noise(5, 7, 4)
    assert check_frame(rgb) is not None
    np.testing.assert_array_equal(check_frame(rgb), rgb)
    assert np.shares_memory(check_frame(rgb), rgb)
    np.testing.assert_array_equal(check_frame(rgba), rgba[..., :3])
    for grey in (rgb[..., 0], rgb[..., :1]):
        np.testing.assert_array_equal(check_frame(grey), np.stack([rgb[..., 0]] * 3, axis=-1))
    for view in (rgb[::-1], rgb[:, ::-2], rgb[..., ::-1], np.asfortranarray(rgb), rgb.transpose(1, 0, 2)):
        np.testing.assert_array_equal(check_frame(view), view)
        np.testing.assert_array_equal(check_frame(torch.from_numpy(view.copy())), view)
    assert check_frame(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (None, ["None", "numpy.asarray"]),
        ([[1, 2], [3, 4]], ["list", "(H, W, 3)"]),
        ("image.png", ["str"]),
        (np.zeros((4, 4, 3)), ["float64", "multiply", "255"]),
        (np.zeros((4, 4, 3), np.float32), ["float32", "multiply"]),
        (torch.zeros(4, 4, 3), ["float32", "multiply"]),
        (np.zeros((4, 4, 3), np.int64), ["int64", "astype"]),
        (np.zeros((4, 4), bool), ["bool", "255"]),
        (np.array([[None]]), ["object"]),
        (np.zeros((4, 4, 2), np.uint8), ["(4, 4, 2)", "(H, W, 3)"]),
        (np.zeros((3, 4, 5), np.uint8), ["(3, 4, 5)", "transpose"]),
        (np.zeros((1, 4, 4, 3), np.uint8), ["(1, 4, 4, 3)", "one frame at a time"]),
        (np.zeros(4, np.uint8), ["(4,)"]),
        (np.zeros((), np.uint8), ["()"]),
        (np.zeros((0, 4, 3), np.uint8), ["(0, 4, 3)", "no pixels"]),
        (np.zeros((4, 0), np.uint8), ["(4, 0)", "no pixels"]),
    ],
)
def test_frame_errors(frame: Any, words: list[str]) -> None:
    for function in (check_frame, frame_to_tensor):
        with pytest.raises(InputError) as error:
            function(frame)
        for word in (*words, "expected" if "no pixels" not in words else "give"):
            assert word in str(error.value)


def test_frame_to_tensor() -> None:
    frame = noise(6, 9)
    frame.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of read-only memory
        for dtype in (torch.float32, torch.float64):
            tensor = frame_to_tensor(frame[:, ::-1], "cpu", dtype)
            assert tensor.shape == (1, 3, 6, 9)
            assert tensor.dtype == dtype
            np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), frame[:, ::-1])
        sample_patch(frame, (2, 3), (6, 9), None, REPLICATE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_normalise(dtype: torch.dtype) -> None:
    pixels = torch.from_numpy(noise(4, 5).transpose(2, 0, 1).copy())[None].to(dtype)
    before = pixels.clone()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((pixels[0].permute(1, 2, 0).double().numpy() / 255 - mean) / std).transpose(2, 0, 1)
    got = normalise(pixels)
    assert got.dtype == dtype
    np.testing.assert_allclose(got[0].numpy(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)
    assert torch.equal(pixels, before)


# Crops


def reference_patch(
    image: np.ndarray, pos: Any, sample_size: Any, output: Any, config: CropConfig, mask: bool
) -> tuple[torch.Tensor, list[float]]:
    """Spec §7.2 step by step on the whole float64 (H, W, C) image, padded generously with np.pad."""
    p = np.trunc(pos)  # 1
    size = np.array(sample_size, dtype=float)
    inside = config.border_mode.startswith("inside")
    if inside:  # 2
        ratio = size / image.shape[:2]
        shrink = ratio.max() if config.border_mode == "inside" else ratio.min()
        size = np.trunc(size / np.clip(shrink, 1, config.max_scale_change or np.inf))
    df = 1 if output is None else max(1, int(np.trunc((size / output).min() - 0.1)))  # 3
    o = (p % df).astype(int)  # 4
    p = (p - o) / df
    image = image[o[0] :: df, o[1] :: df]
    n = np.maximum(np.rint(size / df), 2)  # 5
    if config.patch_arithmetic == "integer":  # 6
        low, high = p - (n - 1) // 2, p + n // 2 + 1
    else:
        low, high = p - (n - 1) / 2, p + n / 2 + 1
    extent = np.array(image.shape[:2])
    if inside:  # 7
        shift = np.maximum(0, -low) - np.maximum(0, high - extent)
        low, high = low + shift, high + shift
        e = (np.maximum(0, -low) + np.maximum(0, high - extent)) // 2
        move = np.where(e > 0, -low - e, 0)
        low, high = low + move, high + move
    begin, end = np.trunc(low).astype(int), np.trunc(high).astype(int)  # 8
    margin = int(max(np.abs(begin).max(), np.abs(end).max())) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="constant" if mask else "edge")
    cut = padded[margin + begin[0] : margin + end[0], margin + begin[1] : margin + end[1]]
    pixels = torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))[None]
    if output is not None:  # 10
        if mask:
            pixels = F.interpolate(pixels, output, mode="nearest")
        else:
            pixels = F.interpolate(pixels, output, mode="bilinear", align_corners=False)
    return pixels, (df * np.concatenate((low, high))).tolist()


configs = st.builds(
    CropConfig,
    st.sampled_from(["replicate", "inside", "inside_major"]),
    st.sampled_from([None, 1.0, 1.2, 1.5]),
    st.sampled_from(["integer", "float"]),
)
coordinate = st.one_of(st.floats(-60, 120), st.integers(-60, 120).map(lambda v: v + 0.5), st.floats(-1000, 1000))
length = st.one_of(st.floats(0.1, 80), st.integers(1, 80).map(float), st.floats(0.1, 400))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    pos=st.tuples(coordinate, coordinate),
    size=st.tuples(length, length),
    output=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    config=configs,
    mask=st.booleans(),
    flip=st.booleans(),
)
def test_crop_paths_agree_with_reference(
    shape: Any, pos: Any, size: Any, output: Any, config: CropConfig, mask: bool, flip: bool
) -> None:
    frame = noise(*shape)
    if flip:
        frame = frame[::-1, ::-1]  # negative strides
    fast = sample_patch(frame, pos, size, output, config, mask=mask)
    slow = sample_patch(frame_to_tensor(frame), pos, size, output, config, mask=mask)
    exact = sample_patch(frame_to_tensor(frame, "cpu", torch.float64), pos, size, output, config, mask=mask)
    assert fast.coordinates == slow.coordinates == exact.coordinates
    assert fast.pixels.dtype == slow.pixels.dtype == torch.float32
    assert exact.pixels.dtype == torch.float64
    torch.testing.assert_close(fast.pixels, slow.pixels, rtol=0, atol=1e-5)

    top, left, bottom, right = fast.coordinates
    scale = (
        fast.scale
    )  # the stride is at most the larger of the two real scales; the reference pads no stepped-over image
    assert scale > 0
    if output is None or min(s / o for s, o in zip(size, output, strict=True)) < min(shape):
        pixels, coordinates = reference_patch(frame.astype(float), pos, size, output, config, mask)
        np.testing.assert_allclose(fast.coordinates, coordinates, rtol=0, atol=1e-9)
        torch.testing.assert_close(exact.pixels, pixels, rtol=0, atol=1e-9)
        torch.testing.assert_close(slow.pixels.double(), pixels, rtol=0, atol=2e-2 if output else 0)
    if output is not None:
        assert fast.pixels.shape == (1, 3, *output)
    assert fast.position == (0.5 * (top + bottom - 1), 0.5 * (left + right - 1))
    assert bottom > top
    assert right > left


@pytest.mark.parametrize("arithmetic", ["integer", "float"])
@pytest.mark.parametrize("mode", ["replicate", "inside", "inside_major"])
@pytest.mark.parametrize("mask", [False, True])
def test_extreme_crops(arithmetic: str, mode: str, mask: bool) -> None:
    """One-pixel images, positions far away and regions of any size give a patch of the wanted size, quickly."""
    config = CropConfig(mode, None, arithmetic)
    for shape in ((1, 1), (1, 50), (7, 5)):
        frame = noise(*shape)
        for image in (frame, frame_to_tensor(frame), frame_to_tensor(frame, "cpu", torch.float64)):
            for pos in ((0.0, 0.0), (-1e9, 1e9), (1e18, -1e300), (3.7, 2.5)):
                for size in ((1.0, 1.0), (1e-9, 1e-9), (1e6, 1e6), (1e18, 1e18), (1e300, 1e300)):
                    patch = sample_patch(image, pos, size, (12, 9), config, mask=mask)
                    assert patch.pixels.shape == (1, 3, 12, 9)
                    assert patch.pixels.isfinite().all()
                    low, high = (0 if mask else frame.min()), frame.max()
                    assert (patch.pixels >= low - 1e-3).all()
                    assert (patch.pixels <= high + 1e-3).all()
                    assert all(map(math.isfinite, (*patch.position, *patch.coordinates)))


def test_outside_the_image() -> None:
    frame = noise(20, 30)
    patch = sample_patch(frame, (-500, 1000), (8, 8), (8, 8), REPLICATE)
    assert (patch.pixels[0] == torch.from_numpy(frame[0, -1].astype(np.float32))[:, None, None]).all()
    assert patch.coordinates == (-503, 997, -495, 1005)
    mask = np.ones((20, 30), np.uint8)
    assert sample_patch(mask, (-500, 10), (8, 8), (8, 8), REPLICATE, mask=True).pixels.sum() == 0
    assert sample_patch(mask, (0, 10), (8, 8), (8, 8), REPLICATE, mask=True).pixels.sum() == 5 * 8


def test_crop_errors() -> None:
    frame = noise(20, 30)
    for pos, size in [
        ((math.nan, 1), (5, 5)),
        ((1, math.inf), (5, 5)),
        ((1, 1), (0, 5)),
        ((1, 1), (5, -1)),
        ((1, 1), (math.nan, 5)),
        ((1, 1), (math.inf, 5)),
    ]:
        with pytest.raises(InputError, match="cannot be sampled"):
            sample_patch(frame, pos, size, (8, 8), REPLICATE)
    with pytest.raises(InputError, match="output size"):  # 10^12 pixels
        plan_crop(20, 30, (1, 1), (1e6, 1e6), None, REPLICATE)
    with pytest.raises(InputError, match="same aspect"):
        sample_patch(frame, (1, 1), (10, 1e9), (288, 288), REPLICATE)
    for wrong in ({"border_mode": "insde"}, {"patch_arithmetic": "int"}, {"max_scale_change": 0.5}):
        with pytest.raises(InputError, match=str(next(iter(wrong)))):
            CropConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'inside'"):
        CropConfig(border_mode="insde")


def test_patch_is_never_a_view() -> None:
    image = torch.rand(1, 3, 10, 10)
    mask = np.ones((10, 10), np.float32)
    for source in (image, mask):
        patch = sample_patch(source, (4, 4), (10, 10), None, REPLICATE)
        assert patch.pixels.shape[-2:] == (10, 10)
        patch.pixels.fill_(-1)
        assert (source >= 0).all()


def test_position_and_scale() -> None:
    """In integer arithmetic the patch's position and scale map its pixels to the image's exactly (spec §7.2, end)."""
    frame = noise(200, 200)
    for n, expected in ((40, 100.5), (41, 100.0)):
        patch = sample_patch(frame, (100.9, 100.2), (n, n), (20, 20), REPLICATE)
        assert patch.position == (expected, expected)
        assert patch.scale == pytest.approx(n / 20, abs=1e-12)
    patch = sample_patch(frame, (100, 100), (40, 40), (20, 20), CropConfig(patch_arithmetic="float"))
    assert patch.position == (100.25, 100.25)
    assert patch.scale == pytest.approx(40.5 / 20, abs=1e-12)
    # a stride of two: 61 → 30 pixels of every second one, centre index 2 · (p + 1) − ½ (quirk Q3: no phase)
    patch = sample_patch(frame, (101, 100), (60, 60), (20, 20), REPLICATE)
    assert patch.position == (2 * 51 - 0.5, 2 * 51 - 0.5)
    oblong = Patch(torch.zeros(1, 3, 10, 20), (0.0, 0.0, 20.0, 80.0))
    assert oblong.scale == pytest.approx(math.sqrt(2 * 4))


def test_sample_scales() -> None:
    frame = noise(90, 120)
    pixels, patches = sample_scales(frame, (40, 50), (0.7, 1.0, 1.3), (32, 24), REPLICATE)
    assert pixels.shape == (3, 3, 32, 24)
    for scale, row, patch in zip((0.7, 1.0, 1.3), pixels, patches, strict=True):
        single = sample_patch(frame, (40, 50), (scale * 32, scale * 24), (32, 24), REPLICATE)
        assert torch.equal(row, single.pixels[0])
        assert patch.coordinates == single.coordinates
    one, patches = sample_scales(frame, (40, 50), (1.0,), (32, 24), REPLICATE, dtype=torch.float64)
    assert one.dtype == torch.float64
    assert len(patches) == len(one) == 1


# Augmentation


def whole_patch_reference(patch: np.ndarray, transform: Transform, output: tuple[int, int]) -> np.ndarray:
    """Transform the whole (H, W, 3) float64 patch, then cut with generous np.pad (spec §7.3)."""
    height, width = patch.shape[:2]
    if transform.kind == "fliplr":
        patch = patch[:, ::-1]
    elif transform.kind == "flipud":
        patch = patch[::-1]
    elif transform.kind == "blur":
        for axis, sigma in enumerate(transform.sigma):
            radius = math.ceil(2 * sigma)
            if radius:
                taps = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
                taps /= taps.sum()
                zeros = np.pad(patch, [(radius, radius) if a == axis else (0, 0) for a in range(3)])
                patch = np.apply_along_axis(np.convolve, axis, zeros, taps, mode="valid")
    elif transform.kind == "scale":
        sizes = [max(1, round(s / transform.factor)) for s in (height, width)]
        sizes = [n + (n - s) % 2 for n, s in zip(sizes, (height, width), strict=True)]
        tensor = torch.from_numpy(patch.transpose(2, 0, 1).copy())[None]
        patch = F.interpolate(tensor, sizes, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    elif transform.kind == "rotate":
        a = math.radians(transform.angle)
        c = np.array([(width - 1) / 2, (height - 1) / 2])
        r = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
        matrix = np.column_stack((r, c - r @ c))
        patch = cv2.warpAffine(patch.astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    spans = []
    for size, out, shift in zip(patch.shape[:2], output, transform.shift, strict=True):
        pad = (out - size) / 2
        spans.append((-(math.floor(pad) + shift), size + math.ceil(pad) - shift))
    margin = max(abs(v) for span in spans for v in span) + 1
    padded = np.pad(patch, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    (y0, y1), (x0, x1) = spans
    return padded[margin + y0 : margin + y1, margin + x0 : margin + x1]


@pytest.mark.parametrize("kind", TRANSFORM_KINDS)
@settings(max_examples=60, deadline=None, derandomize=True)
@example(side=(40, 30), output=(16, 12), shift=(3, -15), sigma=(0.2, 2.5), factor=0.7, angle=10.0)
@example(side=(30, 40), output=None, shift=(-8, 2), sigma=(6, 0.2), factor=1.3, angle=-45.0)
@given(
    side=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    output=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
    shift=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    sigma=st.tuples(st.sampled_from([0, 0.2, 1, 2.5, 6]), st.sampled_from([0, 0.2, 1, 2.5, 6])),
    factor=st.floats(0.3, 3),
    angle=st.floats(-200, 200),
)
def test_transforms_agree_with_whole_patch(
    kind: str, side: Any, output: Any, shift: Any, sigma: Any, factor: float, angle: float
) -> None:
    """Working on the cut only changes no number."""
    y, x = np.mgrid[: side[0], : side[1]]
    smooth = [128 + 60 * np.sin(0.09 * x + c) + 60 * np.cos(0.07 * y - c) for c in range(3)]
    image = np.stack(smooth, axis=-1)  # smooth: OpenCV 4 rotates in steps of 1/32 pixel
    transform = Transform(kind, shift, sigma=sigma, factor=factor, angle=angle)
    patch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    got = apply_transforms(patch, [transform], output)
    expected = whole_patch_reference(image, transform, output or side)
    assert got.shape == (1, 3, *expected.shape[:2])
    atol = (1e-3 if int(cv2.__version__.split(".")[0]) >= 5 else 0.5) if kind == "rotate" else 1e-9
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), expected, rtol=0, atol=atol)


def test_shift_moves_the_target() -> None:
    """A bright pixel in the middle of the patch appears ``shift`` further down and right."""
    patch = torch.zeros(1, 3, 61, 61)
    patch[..., 30, 30] = 1000
    kinds = [Transform(k, (3, -5)) for k in ("identity", "translation", "fliplr", "flipud")]
    kinds += [Transform("blur", (3, -5), sigma=(2, 1)), Transform("rotate", (3, -5), angle=33)]
    kinds += [Transform("scale", (3, -5), factor=1.0)]
    out = apply_transforms(patch, kinds, (31, 31))
    assert out.shape == (len(kinds), 3, 31, 31)
    for transform, pixels in zip(kinds, out, strict=True):
        y, x = divmod(int(pixels[0].argmax()), 31)
        assert (y, x) == (15 + 3, 15 - 5), transform


def test_rotation_direction() -> None:
    """A point right of the centre moves up for a positive angle: counter-clockwise on the screen."""
    patch = torch.zeros(1, 3, 61, 61)
    patch[..., 30, 50] = 1000
    out = apply_transforms(patch, [Transform("rotate", angle=90)], None)
    assert divmod(int(out[0, 0].argmax()), 61) == (10, 30)


def test_expanded_size() -> None:
    assert expanded_size((288, 352), 2.0) == (576, 704)
    assert expanded_size((256, 256), 1.4) == (358, 358)
    assert expanded_size((255, 288), 1.5) == (383, 432)
    assert expanded_size((255, 255), 2.0) == (511, 511)  # 510 would leave margins of 127.5
    assert expanded_size((100, 90), None) == (100, 90)


def test_make_transforms_order_and_draws() -> None:
    config = AugmentationConfig(
        rotate=(10, -45), blur=((3, 1),), scale=(1.2,), shift=((7, -8),), relativeshift=((0.6, -0.6),)
    )
    draws = iter([(0.0, 0.999), (0.25, 0.5), (0.75, 0.1), (0.9, 0.9), (0.5, 0.51)])
    asked = []

    def draw(n: int) -> tuple[float, float]:
        asked.append(n)
        return next(draws)

    transforms = make_transforms(config, (288, 352), draw)
    assert asked == [2] * 5
    assert [t.kind for t in transforms] == [
        "identity",
        "translation",
        "translation",
        "fliplr",
        "blur",
        "scale",
        "rotate",
        "rotate",
    ]
    assert [t.shift for t in transforms] == [
        (0, 0),
        (7, -8),
        (86, -105),  # 86.4, 105.6 towards zero
        (-48, 58),  # (u − ½) · Z / 3
        (-24, 0),
        (24, -46),
        (38, 46),
        (0, 1),
    ]
    assert (transforms[4].sigma, transforms[5].factor) == ((3, 1), 1.2)
    assert [t.angle for t in transforms[6:]] == [10, -45]


def test_make_transforms_counts() -> None:
    """1 + 4 + 1 + 3 + 4 transforms for DiMP (spec §7.3, without the dropout copies)."""
    generator = torch.Generator().manual_seed(0)
    transforms = make_transforms(AugmentationConfig(), (288, 288), lambda n: torch.rand(n, generator=generator))
    assert len(transforms) == 13
    assert all(isinstance(s, int) for t in transforms for s in t.shift)
    assert [t.shift for t in transforms[1:5]] == [(86, 86), (-86, 86), (86, -86), (-86, -86)]

    def never(n: int) -> list[float]:
        raise AssertionError("no draw is needed")

    still = make_transforms(AugmentationConfig(random_shift_factor=0), (288, 288), never)
    assert all(t.shift == (0, 0) for t in still if t.kind != "translation")
    plain = AugmentationConfig(fliplr=False, rotate=(), blur=(), relativeshift=())
    assert make_transforms(plain, (288, 288), never) == [Transform()]


def test_augmentation_errors() -> None:
    wrong: list[tuple[type, dict[str, Any], str]] = [
        (Transform, {"kind": "flip"}, "did you mean"),
        (Transform, {"shift": (0.5, 1)}, "whole numbers"),
        (Transform, {"kind": "blur", "sigma": (-1, 1)}, "blur"),
        (Transform, {"kind": "scale", "factor": 0}, "factor"),
        (Transform, {"kind": "rotate", "angle": math.nan}, "angle"),
        (AugmentationConfig, {"blur": ((1, 2, 3),)}, "blur"),
        (AugmentationConfig, {"scale": (-1,)}, "scale"),
        (AugmentationConfig, {"rotate": (math.inf,)}, "rotate"),
        (AugmentationConfig, {"relativeshift": ((math.nan, 0),)}, "relativeshift"),
        (AugmentationConfig, {"dropout": (2, 1.0)}, "dropout"),
        (AugmentationConfig, {"expansion_factor": 0.5}, "expansion_factor"),
        (AugmentationConfig, {"random_shift_factor": -1}, "random_shift_factor"),
    ]
    for cls, values, words in wrong:
        with pytest.raises(InputError, match=words):
            cls(**values)
