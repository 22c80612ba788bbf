"""keepsight trackers for the VOT toolkit: a TraX server, and a class for the toolkit's in-process ``python`` protocol.

``python -m keepsight.integrations.vot --tracker dimp-lite`` is the command that ``trackers.ini`` names; it speaks TraX 4 over
standard input and output (or over the socket that TRAX_SOCKET names) by way of vot-trax. :func:`trackers_ini` writes the
file. The toolkit itself is never imported. What holds and what does not in which version: docs/integrations.md.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ..errors import InputError, KeepsightError, VideoError
from ..online.state import Result
from ..regions import Mask, Polygon, Rectangle, Region, crop_mask, region_to_box
from ..trackers.base import Tracker
from ..trackers.registry import load
from ..video import read_image

Protocol: TypeAlias = Literal["trax", "python"]
BoxTuple: TypeAlias = tuple[float, float, float, float]
State: TypeAlias = BoxTuple | np.ndarray
"""x, y, w, h, or a mask (H, W) uint8."""


# ---------------------------------------------------------------------------------------------------------------------
# What both protocols share


class Targets:
    """A tracker whose targets may start at different frames."""

    def __init__(self, tracker: Tracker[Any]) -> None:
        self.tracker = tracker

    def start(self, frame: np.ndarray, regions: Sequence[Region]) -> None:
        """Forget all targets and begin with those of ``regions``."""
        self.tracker.reset()
        self.join(frame, regions)

    def join(self, frame: np.ndarray, regions: Sequence[Region]) -> None:
        """More targets from this frame on, possibly none; they come after the earlier ones. Masks stay masks where they can."""
        if not regions:
            return
        boxes = [start_box(region) for region in regions]
        masks = [_pixels(r, frame) if self.tracker.gives_masks and isinstance(r, Mask) else None for r in regions]
        (self.tracker.add if self.tracker.target_count else self.tracker.init)(frame, boxes=boxes, masks=masks)

    def update(self, frame: np.ndarray) -> list[Result]:
        """Every target in the next frame, in the order in which they came."""
        return self.tracker.update_all(frame) if self.tracker.target_count else []


def _pixels(mask: Mask, frame: np.ndarray) -> np.ndarray:
    """(H, W) bool of the whole frame; what lies outside is left out."""
    height, width = frame.shape[:2]
    whole = np.zeros((height, width), bool)
    top, left = max(mask.y, 0), max(mask.x, 0)
    rows, columns = max(height - top, 0), max(width - left, 0)
    part = mask.pixels[top - mask.y :, left - mask.x :][:rows, :columns]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def start_box(region: Region) -> BoxTuple:
    """The box that a tracker is started with: a polygon's keeps its area (spec/evaluation.md §6), a mask's bounds its pixels.

    Raises :class:`InputError` for a region without extent, such as an empty mask or a code.
    """
    box = region_to_box(region, how="area")
    if not all(math.isfinite(v) for v in box):
        raise InputError(f"the target's region {region!r} has no extent, so no tracker can be started with it")
    return box


def _confidence(result: Result) -> float:
    """What VOT's long-term measures sort by."""
    return round(result.presence, 6)


# ---------------------------------------------------------------------------------------------------------------------
# In-process protocol of vot-toolkit 0.8 and later


class VotTracker:
    """For ``protocol = python``: ``command = keepsight.integrations.vot:VotTracker``, options as ``arg_...`` lines.

    The toolkit makes one object in a process of its own and calls ``init`` and ``update`` with an image path (or with a
    dictionary of channels), the new targets and properties. A target is ``(region, properties)``, a region x, y, w, h or a
    list of corners or an (H, W) mask; the answer is a list of such pairs, one per target in the order in which they came. To
    a mask a tracker of masks answers with masks (uint8, 0 and 1), all else is answered with x, y, w, h.
    """

    multiobject = True

    def __init__(
        self,
        tracker: str = "dimp-lite",
        weights: str | None = None,
        device: str = "auto",
        seed: int | str = 0,
    ) -> None:
        """As :func:`keepsight.load`; options from a file arrive as text."""
        try:
            number = int(seed)
        except ValueError:
            raise InputError(f"arg_seed = {seed!r} is not a whole number") from None
        self._targets = Targets(load(tracker, weights=weights, device=device, seed=number))
        self._are_masks: list[bool] = []  # of each target

    def init(self, frame: Any, new: Any = None, properties: Any = None) -> list[tuple[State, dict[str, float]]]:
        """Start with the targets ``new`` in ``frame``; answers where they are."""
        regions = _regions(new)
        if not regions:
            raise InputError("the toolkit gave no target to start with")
        image = _native_image(frame)
        self._targets.start(image, regions)
        self._are_masks = []
        return self._began(image, regions)

    def update(self, frame: Any, new: Any = None, properties: Any = None) -> list[tuple[State, dict[str, float]]]:
        """The targets in the next frame, and the targets ``new`` that start in it."""
        image, regions = _native_image(frame), _regions(new)
        states: list[tuple[State, dict[str, float]]] = []
        for result, is_mask in zip(self._targets.update(image), self._are_masks, strict=True):
            state = (
                result.mask.astype(np.uint8) if is_mask and result.mask is not None else _floats(result.box_unclipped)
            )
            states.append((state, {"confidence": _confidence(result)}))
        self._targets.join(image, regions)
        return [*states, *self._began(image, regions)]

    def _began(self, image: np.ndarray, regions: list[Region]) -> list[tuple[State, dict[str, float]]]:
        """What is said of targets in their first frame: where the toolkit says they are."""
        states: list[tuple[State, dict[str, float]]] = []
        for region in regions:
            self._are_masks.append(isinstance(region, Mask) and self._targets.tracker.gives_masks)
            is_mask = self._are_masks[-1] and isinstance(region, Mask)
            states.append((_pixels(region, image).astype(np.uint8) if is_mask else start_box(region), {}))  # type: ignore[arg-type]
        return states


def _regions(new: Any) -> list[Region]:
    pairs = [new] if isinstance(new, tuple) else list(new or [])
    return [_native_region(region) for region, _ in pairs]


def _floats(box: Sequence[float]) -> BoxTuple:
    x, y, w, h = (float(v) for v in box)  # plain numbers in a plain tuple: what the toolkit takes for a rectangle
    return x, y, w, h


def _native_region(region: Any) -> Region:
    if isinstance(region, np.ndarray):
        return Mask(0, 0, region > 0)  # (H, W)
    if isinstance(region, tuple) and len(region) == 4:
        return Rectangle(*_floats(region))
    if isinstance(region, list) and len(region) > 2:
        return Polygon(np.array(region, dtype=np.float64))  # (K, 2)
    raise InputError(f"the target is given as {region!r}; keepsight starts with a rectangle, a polygon or a mask")


def _native_image(frame: Any) -> np.ndarray:
    """(H, W, 3) RGB of a path, or of the colour channel of several."""
    if isinstance(frame, dict):
        if "color" not in frame:
            raise InputError(f"the sequence has the channels {sorted(frame)}; keepsight needs `color`")
        frame = frame["color"]
    if isinstance(frame, np.ndarray):
        return frame  # the toolkit decodes to RGB
    try:
        return read_image(frame)
    except VideoError as error:  # the toolkit passes on a ValueError; an OSError would end its worker without a word
        raise InputError(str(error)) from error


# ---------------------------------------------------------------------------------------------------------------------
# TraX


def serve(
    tracker: str = "dimp-lite",
    *,
    weights: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Be a TraX server until the client quits: one or several targets, started again or joined by others at any time.

    Each ``state`` is a rectangle (a mask, if the tracker makes masks) with the property ``confidence`` in 0..1.
    Images are taken as files and as encoded data, the two kinds that libtrax 4.0.2 hands over whole: of an address it keeps the
    part before the colon, and it writes past the end of a raw image whose bytes are 8 more than a multiple of 16.

    Raises :class:`InputError` if vot-trax is absent or older than 4, if the client breaks off without a word or gives a target
    that no tracker can be started with, and :class:`VideoError` for an image that cannot be read; the client is told the reason.
    """
    trax = _trax()
    targets = Targets(load(tracker, weights=weights, device=device, seed=seed))
    image, region = trax.Image, trax.Region
    server = trax.Server(
        [region.RECTANGLE, region.POLYGON, region.MASK],
        [image.PATH, image.BUFFER],
        tracker_name=tracker,
        tracker_description="keepsight",
        multiobject=True,
    )
    status = trax.TraxStatus
    try:
        while (request := server.wait()).type in (status.INITIALIZE, status.FRAME):
            server.status(_reply(trax, targets, request))
    except KeepsightError as error:
        server.quit(str(error))
        raise
    except trax.TraxException as error:
        raise InputError(
            f"the TraX client broke off or said something that is not TraX 4 (vot-trax: {error})"
        ) from None
    server.quit()


def _reply(trax: Any, targets: Targets, request: Any) -> list[tuple[Any, dict[str, float]]]:
    """States of all targets after one request, in the order in which they came."""
    frame = _trax_image(trax, request.image)  # (H, W, 3)
    regions = [_trax_region(trax, region) for region, _ in request.objects or ()]
    if request.type == trax.TraxStatus.INITIALIZE:
        targets.start(frame, regions)
        results = []
    else:
        results = targets.update(frame)
        targets.join(frame, regions)
    states = [(_trax_state(trax, r), {"confidence": _confidence(r)}) for r in results]
    return [*states, *((_trax_start(trax, r, targets.tracker.gives_masks), {}) for r in regions)]


def _trax_start(trax: Any, region: Region, gives_masks: bool) -> Any:
    """What is said of a target in its first frame: where the client says it is."""
    if gives_masks and isinstance(region, Mask):
        return _trax_mask(trax, region)
    return trax.Rectangle.create(*start_box(region))


def _trax() -> Any:
    advice = "run `pip install 'vot-trax>=4'`"
    try:
        trax = importlib.import_module("trax")
    except ImportError:
        raise InputError(f"a TraX server needs vot-trax, which is not installed; {advice}") from None
    if not hasattr(trax, "Server") or "multiobject" not in inspect.signature(trax.Server.__init__).parameters:
        raise InputError(f"{getattr(trax, '__file__', 'trax')} is not vot-trax 4 or later; {advice}")
    return trax


def _trax_image(trax: Any, images: Any) -> np.ndarray:
    """(H, W, 3) RGB of a request's colour image."""
    image = images.get("color") if images else None
    if image is None:
        raise InputError("the TraX request has no colour image")
    if image.type() == trax.Image.PATH:
        return read_image(image.path())
    if image.type() == trax.Image.BUFFER:
        return _decoded(image.buffer(), "image data in the TraX request")
    raise InputError(f"the TraX request has an image of kind {image.type()!r}; send a path or encoded data")


def _decoded(data: bytes, what: str) -> np.ndarray:
    """(H, W, 3) RGB of a JPEG or PNG file's bytes."""
    import cv2

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None  # (H, W, 3) BGR
    if picture is None:
        raise VideoError(f"{what} cannot be decoded ({len(data)} bytes); it is damaged or not an image")
    return np.ascontiguousarray(picture[:, :, ::-1])


def _trax_region(trax: Any, region: Any) -> Region:
    kinds = trax.Region
    if region.type == kinds.RECTANGLE:
        return Rectangle(*region.bounds())
    if region.type == kinds.POLYGON:
        return Polygon(np.array(list(region), dtype=np.float64))  # (K, 2)
    if region.type == kinds.MASK:
        x, y = region.offset()
        return Mask(x, y, region.array() > 0)
    raise InputError(f"the target is given as {region}; keepsight starts with a rectangle, a polygon or a mask")


def _trax_state(trax: Any, result: Result) -> Any:
    if result.mask is None:
        return trax.Rectangle.create(*_floats(result.box_unclipped))
    return _trax_mask(trax, Mask(0, 0, result.mask))


def _trax_mask(trax: Any, mask: Mask) -> Any:
    part = crop_mask(mask)
    if part.pixels.size == 0:
        return trax.Rectangle.create(0, 0, 0, 0)  # TraX has no empty mask
    return trax.Mask.create(np.ascontiguousarray(part.pixels, dtype=np.uint8), x=part.x, y=part.y)


# ---------------------------------------------------------------------------------------------------------------------
# trackers.ini and the command


def trackers_ini(
    name: str,
    tracker: str,
    weights: str | Path | Sequence[str | Path] | None = None,
    *,
    protocol: Protocol = "trax",
    device: str = "auto",
) -> str:
    """An entry of the toolkit's ``trackers.ini`` that runs ``tracker`` with this very Python.

    ``name``: identifier in the toolkit, letters, digits, ``-`` and ``_``. ``protocol``: ``trax`` (any environment), or ``python``
    (keepsight must be installed beside the toolkit, which then turns masks and polygons into their bounding boxes).
    Raises :class:`InputError` for a name that the toolkit would not take, and for several weights files with ``python``, whose
    options stand once each.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"{name!r} cannot be a tracker's identifier; use letters, digits, - and _ only")
    if protocol not in ("trax", "python"):
        raise InputError(f"protocol is {protocol!r}; give trax or python")
    given = [] if weights is None else [weights] if isinstance(weights, (str, Path)) else list(weights)
    if len(given) > 1 and protocol == "python":
        raise InputError(f"{len(given)} weights files, and protocol python takes one; put the others beside it")
    options = [("tracker", tracker)]
    options += [("weights", str(w) if str(w) == "random" else str(Path(w).resolve())) for w in given]
    if device != "auto":
        options.append(("device", device))
    lines = [f"[{name}]", f"label = {tracker} (keepsight)", f"protocol = {protocol}"]
    if protocol == "trax":
        flags = [word for option, value in options for word in (f"--{option}", value)]
        lines.append("command = " + shlex.join([sys.executable, "-m", "keepsight.integrations.vot", *flags]))
    else:
        lines.append("command = keepsight.integrations.vot:VotTracker")
        lines.append("convert = rectangle")  # toolkit 0.9.0 cannot send masks over this protocol
        lines += [f"arg_{option} = {value}" for option, value in options]
    lines.append("timeout = 120")  # seconds for one answer; the first may have to wait for CUDA
    return "\n".join(lines).replace("%", "%%") + "\n"  # the toolkit's reader expands single percent signs


@dataclass(frozen=True)
class Serve:
    """Speak TraX over standard input and output, for the VOT toolkit; or print what to write into its trackers.ini.

    python -m keepsight.integrations.vot --print-trackers-ini --tracker dimp-lite >> trackers.ini
    """

    tracker: str = "dimp-lite"
    """Tracker, or a weights file that says which tracker it is for."""
    weights: tuple[str, ...] = ()
    """Weights file instead of the tracker's own; 'random' for seeded random numbers (tests, speed). Repeat it for a tracker with
    two networks."""
    device: str = "auto"
    """auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Of every random draw; same input and seed, same boxes."""
    print_trackers_ini: bool = False
    """Print an entry of trackers.ini and stop."""
    name: str = "keepsight"
    """Identifier of that entry."""
    protocol: Protocol = "trax"
    """Of that entry: trax, or python (in the toolkit's own environment)."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 0, or 2 with a message on standard error for what the user can mend."""
    import tyro

    from ..cli.console import complain, say

    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction)
    options = tyro.cli(Serve, prog="python -m keepsight.integrations.vot", args=argv, config=config)
    try:
        if options.print_trackers_ini:
            entry = trackers_ini(
                options.name, options.tracker, options.weights or None, protocol=options.protocol, device=options.device
            )
            say(entry.rstrip())
        else:
            serve(options.tracker, weights=options.weights or None, device=options.device, seed=options.seed)
    except KeepsightError as error:
        complain(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
