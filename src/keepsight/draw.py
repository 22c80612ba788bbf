"""Draw tracking results and predicted densities on frames, with OpenCV; no display is needed."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from .online.densities import Densities
    from .online.state import Candidate, Result

Colour = tuple[int, int, int]

# Okabe and Ito's colours that stay apart for colour-blind eyes (Color Universal Design, 2008), without black.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermillion
)
LOST_COLOUR: Colour = (190, 190, 190)
TRUTH_COLOUR: Colour = (255, 255, 255)
_DARK: Colour = (20, 20, 20)
_LIGHT: Colour = (235, 235, 235)


def draw_results(
    image: np.ndarray,
    results: Sequence[Result],
    *,
    labels: Sequence[str] | None = None,
    colours: Sequence[Colour] | None = None,
    truths: Sequence[Sequence[float] | None] = (),
    candidates: bool = False,
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) uint8 RGB with one box and label per target.

    A found target has a solid box, an uncertain one a dashed box, a lost one a grey dashed box at its last known place.
    The label says which target, its status and its presence; it is shortened where the frame is too narrow. Lines and
    letters grow with the frame. A mask, if a result has one, is tinted in the target's colour and outlined.

    ``labels``: one per target instead of ``#0``, ``#1``, ...; ``colours``: RGB, instead of :data:`PALETTE`, repeated as
    needed; ``truths``: ground-truth boxes drawn in thin white; None or NaN where there is none; ``candidates``: draw a ring
    with its number around each peak of the score map that the tracker follows (``Result.candidates``), the same colour for
    the same identity over time, and a filled disc inside the one taken for the target. Each target has
    identities of its own.
    """
    _check_image(image)
    if labels is not None and len(labels) != len(results):
        raise InputError(f"{len(labels)} labels for {len(results)} results; give one label per result")
    palette = tuple(colours or PALETTE)
    out = np.ascontiguousarray(image).copy()
    height, width = out.shape[:2]
    line = max(2 if min(height, width) >= 120 else 1, round(math.hypot(height, width) / 550))
    for truth in truths:
        if truth is not None:
            _box(out, truth, TRUTH_COLOUR, max(1, line // 2), dashed=False)
    taken: list[tuple[int, int, int, int]] = []
    for i, result in enumerate(
        results
    ):  # masks, then all boxes: a label must not disappear under the next target's box
        if result.mask is not None and result.mask.shape == (height, width):
            _mask(out, result.mask, _colour(palette, i, result), line)
    for i, result in enumerate(results):
        _box(out, result.box, _colour(palette, i, result), line, dashed=str(result.status) != "found")
    for i, result in enumerate(results):
        name = f"#{i}" if labels is None else labels[i]
        texts = [f"{name} {result.status} {result.presence:.2f}", f"{name} {result.presence:.2f}", name]
        _label(out, texts, result.box, _colour(palette, i, result), line, taken)
    if candidates:
        for result in results:
            for candidate in reversed(result.candidates):  # the best on top
                _candidate(out, candidate, line)
    return out


def identity_colour(id: int) -> Colour:
    """Of :data:`PALETTE` first; further ones have hues of their own, as far as possible from those before them."""
    if id < len(PALETTE):
        return PALETTE[id]
    number = id - len(PALETTE)
    hue = (0.07 + number * 0.6180339887) % 1.0  # golden section: new hues fall between the old
    r, g, b = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * (number // 8 % 2), 0.95 - 0.25 * (number // 16 % 2))
    return round(255 * r), round(255 * g), round(255 * b)


def _candidate(image: np.ndarray, candidate: Candidate, line: int) -> None:
    """Ring, number and, for the target, disc, all with a dark rim."""
    import cv2

    radius, (x, y) = 4 * line, candidate.position
    height, width = image.shape[:2]
    if not (-radius <= x <= width + radius and -radius <= y <= height + radius):  # nothing to see, or NaN
        return
    centre, rim = (round(x), round(y)), line + 2 * max(1, line // 2)
    colour = identity_colour(candidate.id)
    cv2.circle(image, centre, radius, _DARK, rim)
    if candidate.is_target:
        cv2.circle(image, centre, 2 * line + 1, _DARK, -1)
        cv2.circle(image, centre, 2 * line, colour, -1)
    cv2.circle(image, centre, radius, colour, line)
    scale = max(0.5, math.hypot(height, width) / 1800)
    stroke = max(1, round(1.6 * scale))
    place = (centre[0] + radius + line, centre[1] + radius)
    for shade, thickness in ((_DARK, 4 * stroke), (colour, stroke)):
        cv2.putText(image, str(candidate.id), place, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, thickness, cv2.LINE_AA)


def _colour(palette: tuple[Colour, ...], target: int, result: Result) -> Colour:
    return LOST_COLOUR if str(result.status) == "lost" else palette[target % len(palette)]


def _mask(image: np.ndarray, mask: np.ndarray, colour: Colour, line: int) -> None:
    """Tint, and an outline with a dark rim outside it, so that it is seen on bright and dark ground."""
    import cv2

    image[mask] = (0.65 * image[mask] + 0.35 * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rim = line + 2 * max(1, line // 2)
    for shade, thickness in ((_DARK, rim), (colour, line)):
        cv2.drawContours(image, outlines, -1, shade, thickness)


def _check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"image to draw on is {given}; give uint8 (H, W, 3) RGB")


def _corners(box: Sequence[float]) -> tuple[int, int, int, int] | None:
    """First and last pixel (x0, y0, x1, y1) of the continuous rectangle; None if it is not finite."""
    if not all(math.isfinite(v) for v in box):
        return None
    x, y, w, h = (min(max(float(v), -1e6), 1e6) for v in box)
    x0, y0 = round(x), round(y)
    return x0, y0, max(x0, round(x + w) - 1), max(y0, round(y + h) - 1)


def _box(image: np.ndarray, box: Sequence[float], colour: Colour, line: int, *, dashed: bool) -> None:
    """Rectangle with a dark rim, so that it is seen on bright and dark ground."""
    import cv2

    corners = _corners(box)
    if corners is None:
        return
    x0, y0, x1, y1 = corners
    rim = line + 2 * max(1, line // 2)
    # Drawn in its own piece of the image: far-away corners cost nothing and cannot overflow.
    height, width = image.shape[:2]
    x0, x1 = max(x0, -rim - 1), min(x1, width + rim)
    y0, y1 = max(y0, -rim - 1), min(y1, height + rim)
    if x0 > x1 or y0 > y1:
        return
    if not dashed:
        cv2.rectangle(image, (x0, y0), (x1, y1), _DARK, rim)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, line)
        return
    dashes = [
        *_dashes((x0, y0), (x1, y0), line),
        *_dashes((x0, y1), (x1, y1), line),
        *_dashes((x0, y0), (x0, y1), line),
        *_dashes((x1, y0), (x1, y1), line),
    ]
    for shade, thickness in ((_DARK, rim), (colour, line)):
        for start, stop in dashes:
            cv2.line(image, start, stop, shade, thickness)


def _dashes(start: tuple[int, int], stop: tuple[int, int], line: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """An odd number of equal dashes and gaps, so that a side begins and ends with a dash and corners stay closed."""
    length = max(abs(stop[0] - start[0]), abs(stop[1] - start[1]))
    count = max(1, round(length / (5 * line + 3)))
    count += count % 2 == 0
    points = [
        (round(start[0] + (stop[0] - start[0]) * k / count), round(start[1] + (stop[1] - start[1]) * k / count))
        for k in range(count + 1)
    ]
    return [(points[k], points[k + 1]) for k in range(0, count, 2)]


def _label(
    image: np.ndarray,
    texts: list[str],
    box: Sequence[float],
    colour: Colour,
    line: int,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """The longest of ``texts`` that fits the image, above, below or inside ``box``, off the labels in ``taken``."""
    import cv2

    corners = _corners(box)
    if corners is None:
        return
    height, width = image.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.36, math.hypot(height, width) / 2100)
    stroke, pad = max(1, round(1.6 * scale)), max(2, round(5 * scale))
    for text in texts:
        (w, h), base = cv2.getTextSize(text, font, scale, stroke)
        w, h = w + 2 * pad, h + base // 2 + 2 * pad
        if w <= 0.75 * width and h <= 0.3 * height:
            break
    else:
        return  # a frame too small for letters: the box alone must do
    x0, y0, _, y1 = corners
    rim = line // 2 + max(1, line // 2)
    left = min(max(x0 - rim, 0), width - w)
    tops = (y0 - rim - h, y1 + rim + 1, y0 + rim + 1, y0 - rim - 2 * h, y1 + rim + 1 + h)
    places = [(left, min(max(top, 0), height - h)) for top in tops]
    inside = [p for p, top in zip(places, tops, strict=True) if p[1] == top] or places
    free = [p for p in inside if not any(_overlap((*p, w, h), t) for t in taken)]
    x, y = (free or inside)[0]
    taken.append((x, y, w, h))
    cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), colour, -1)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 110
    place = (x + pad, y + h - pad - base // 2)
    cv2.putText(image, text, place, font, scale, _DARK if bright else (255, 255, 255), stroke, cv2.LINE_AA)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


# ----------------------------------------------------------------------------------------------------------- densities


def density_panels(image: np.ndarray, densities: Densities, *, height: int = 360) -> np.ndarray:
    """Three panels in one picture: PrDiMP's predicted densities of one target in one frame (supplement §4).

    Left: the frame, p(centre) over the search region laid over it, the estimated box. Middle: p(box centre) with the
    size fixed, over one box size each way. Right: p(size) with the centre fixed, from a third to three times the
    estimate. Each map runs from black (0) to bright yellow (its own maximum, printed above it); a cross marks the
    maximum, the outline the estimate.

    ``image``: (H, W, 3) uint8 RGB; ``height``: of the maps in pixels. Returns uint8 RGB with
    margins around the panels.
    """
    _check_image(image)
    if height < 64:
        raise InputError(f"height is {height}; panels need at least 64 pixels")
    frame = _frame_panel(image, densities, height)
    position = _map_panel(densities.position, height)
    size = _map_panel(densities.size[::-1], height)  # larger heights on top, as in plots
    n = len(densities.position_offsets)
    at = [int(_place(densities.position_offsets, o, n, height)) for o in (-0.5, 0.5)]
    _box(position, (at[0], at[0], at[1] - at[0], at[1] - at[0]), PALETTE[1], 1, dashed=False)
    m = len(densities.size_factors)
    logs = np.log(densities.size_factors)
    one = int(_place(logs, 0.0, m, height))
    _ring(size, (one, height - 1 - one))
    offsets = ((-1, "-1"), (-0.5, "-1/2"), (0, "0"), (0.5, "+1/2"), (1, "+1"))
    factors = ((1 / 3, "1/3"), (0.5, "1/2"), (1, "1"), (2, "2"), (3, "3"))
    ticks_b = [(_place(densities.position_offsets, o, n, height), text) for o, text in offsets]
    ticks_c = [(_place(logs, math.log(f), m, height), text) for f, text in factors]
    flipped = [(height - 1 - at, text) for at, text in ticks_c]
    return _side_by_side(
        [
            _with_axes(frame, "p(centre)", densities.centre, [], [], "", ""),
            _with_axes(
                position, "p(box centre)", densities.position, ticks_b, ticks_b, "offset / width", "offset / height"
            ),
            _with_axes(size, "p(size)", densities.size, ticks_c, flipped, "width factor", "height factor"),
        ]
    )


def _heat(density: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3) uint8 RGB, from black at 0 to yellow at the maximum."""
    import cv2

    top = float(density.max())
    scaled = np.clip(density * (255 / top if top > 0 else 0), 0, 255)
    return cv2.cvtColor(cv2.applyColorMap(np.round(scaled).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _frame_panel(image: np.ndarray, densities: Densities, height: int) -> np.ndarray:
    """The frame at the panels' height under the map of p(centre); where the density is low the frame shines through."""
    import cv2

    scale = height / image.shape[0]
    width = max(1, round(image.shape[1] * scale))
    frame = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    rows, cols = densities.centre.shape
    x, y, w, h = densities.centre_region
    # Map cell (i, j) has its centre at x + (j + 0.5) w / cols; pixel k of the panel has its own at k + 0.5.
    step_x, step_y = w / cols * scale, h / rows * scale
    affine = np.array([[step_x, 0, x * scale + step_x / 2 - 0.5], [0, step_y, y * scale + step_y / 2 - 0.5]])
    peak = float(densities.centre.max())
    relative = (densities.centre / peak if peak > 0 else densities.centre).astype(np.float32)
    shown = cv2.warpAffine(relative, affine, (width, height), flags=cv2.INTER_LINEAR)  # (height, width), 0 to 1
    heat = cv2.cvtColor(
        cv2.applyColorMap(np.round(shown * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    opacity = (0.85 * np.sqrt(np.clip(shown, 0, 1)))[..., None]
    panel = ((1 - opacity) * frame + opacity * heat).round().astype(np.uint8)
    _box(panel, [v * scale for v in densities.centre_region], _LIGHT, 1, dashed=True)
    _box(panel, [v * scale for v in densities.box], PALETTE[1], max(1, height // 240), dashed=False)
    return panel


def _map_panel(density: np.ndarray, height: int) -> np.ndarray:
    """A density as a square picture with a cross at its maximum."""
    import cv2

    smooth = cv2.resize(
        np.ascontiguousarray(density, dtype=np.float32), (height, height), interpolation=cv2.INTER_LINEAR
    )
    panel = _heat(smooth)
    row, col = np.unravel_index(int(np.argmax(density)), density.shape)
    centre = (int((col + 0.5) * height / density.shape[1]), int((row + 0.5) * height / density.shape[0]))
    for colour, thickness in ((_DARK, 3), ((255, 255, 255), 1)):
        cv2.drawMarker(panel, centre, colour, cv2.MARKER_CROSS, max(9, height // 26), thickness)
    return panel


def _ring(panel: np.ndarray, centre: tuple[int, int]) -> None:
    """The estimate in the map of sizes."""
    import cv2

    radius = max(5, panel.shape[0] // 45)
    cv2.circle(panel, centre, radius, _DARK, 3, cv2.LINE_AA)
    cv2.circle(panel, centre, radius, PALETTE[1], 1, cv2.LINE_AA)


def _place(grid: np.ndarray, value: float, count: int, height: int) -> float:
    """Pixel of ``value`` on an axis whose ``count`` cells have their centres at ``grid``."""
    index = float(np.interp(value, grid, np.arange(count)))
    return min((index + 0.5) * height / count, height - 1)


def _with_axes(
    panel: np.ndarray,
    title: str,
    density: np.ndarray,
    ticks_x: list[tuple[float, str]],
    ticks_y: list[tuple[float, str]],
    name_x: str,
    name_y: str,
) -> np.ndarray:
    """``panel`` on a dark ground with a title above, tick labels and axis names."""
    import cv2

    height, width = panel.shape[:2]
    scale = max(0.36, height / 800)
    unit = round(36 * scale)  # height of a line of text
    left = round(3.1 * unit) if ticks_y else unit // 2
    top, right, bottom = round(1.5 * unit), unit // 2, round(2.2 * unit)
    canvas = np.full((top + height + bottom, left + width + right, 3), _DARK, np.uint8)
    canvas[top : top + height, left : left + width] = panel

    def write(text: str, x: float, y: float, anchor: float, colour: Colour = _LIGHT, turn: bool = False) -> None:
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        patch = np.full((h + base + 4, w + 4, 3), _DARK, np.uint8)
        cv2.putText(patch, text, (2, h + 2), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
        patch = np.rot90(patch) if turn else patch
        x0 = round(min(max(x - anchor * patch.shape[1], 0), max(0, canvas.shape[1] - patch.shape[1])))
        y0 = round(min(max(y - patch.shape[0] / 2, 0), max(0, canvas.shape[0] - patch.shape[0])))
        area = canvas[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]]
        area[:] = np.maximum(area, patch[: area.shape[0], : area.shape[1]])

    write(title, left, top / 2, 0.0)
    write(f"max {density.max():.2g}", left + width, top / 2, 1.0, (160, 160, 160))
    for at, text in ticks_x:
        cv2.line(canvas, (left + round(at), top + height), (left + round(at), top + height + unit // 5), _LIGHT, 1)
        write(text, left + at, top + height + unit * 0.65, 0.5)
    for at, text in ticks_y:
        cv2.line(canvas, (left - unit // 5, top + round(at)), (left, top + round(at)), _LIGHT, 1)
        write(text, left - unit * 0.35, top + at, 1.0)
    if name_x:
        write(name_x, left + width / 2, top + height + unit * 1.55, 0.5, (160, 160, 160))
    if name_y:
        write(name_y, unit * 0.45, top + height / 2, 0.5, (160, 160, 160), turn=True)
    return canvas


def _side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.concatenate(panels, axis=1))
