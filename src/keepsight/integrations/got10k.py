"""A keepsight tracker for the GOT-10k toolkit (``pip install got10k``), and for everything else with that interface.

Example::

    from got10k.experiments import ExperimentGOT10k
    from keepsight.integrations.got10k import Got10kTracker

    tracker = Got10kTracker("dimp-lite")
    experiment = ExperimentGOT10k("data/GOT-10k", subset="val")
    experiment.run(tracker)
    experiment.report([tracker.name])
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..trackers.base import Tracker
from ..trackers.registry import load
from ..video import read_image

_Base: Any
try:  # the toolkit never asks for its own class, but other code may
    from got10k.trackers import Tracker as _Base  # type: ignore
except Exception:  # absent, or older than the numpy beside it: the interface below is all that is needed
    _Base = object


class Got10kTracker(_Base):
    """``name``, ``is_deterministic``, ``init``, ``update``, ``track``: what the toolkit's experiments ask for.

    Every ``init`` starts anew from the tracker's own seed, so a sequence gets the same boxes whatever ran before it, and
    ``is_deterministic`` is True: the toolkit then runs one repetition. The toolkit does not say which sequence or repetition it
    runs, so keepsight's runner, which draws a seed for each of them, can differ for trackers that draw random numbers.
    """

    is_deterministic = True

    def __init__(
        self,
        tracker: str | Tracker[Any] = "dimp-lite",
        *,
        name: str | None = None,
        weights: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        """``tracker``: a name or weights file for :func:`keepsight.load`, which also takes ``weights``, ``device`` and ``seed``;
        or a loaded tracker. ``name``: of the toolkit's result folder, by default the tracker's.

        Raises :class:`InputError` for unknown names, :class:`WeightsError` for weights that cannot be used.
        """
        if isinstance(tracker, Tracker):
            self.tracker: Tracker[Any] = tracker
        else:
            self.tracker = load(tracker, weights=weights, device=device, seed=seed)
        self.name = name or self.tracker.name

    def init(self, image: Any, box: Sequence[float]) -> None:
        """``image``: PIL image, or uint8 RGB array (H, W, 3). ``box``: x, y, w, h in pixels."""
        self.tracker.init(_pixels(image), box=[float(v) for v in box])

    def update(self, image: Any) -> npt.NDArray[np.float64]:
        """(4,) x, y, w, h of the target in the next frame, not clipped to it (the toolkit's rules clip)."""
        return np.array(self.tracker.update(_pixels(image)).box_unclipped, dtype=np.float64)

    def track(
        self, img_files: Sequence[str | Path], box: Sequence[float], visualize: bool = False
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """One sequence -> boxes (N, 4) xywh, of which the first is ``box``, and seconds (N,) without reading the files.

        ``visualize`` shows each frame with the toolkit's own viewer. Raises :class:`VideoError` for a file that cannot be read.
        """
        if not img_files:
            raise InputError("img_files is empty; give the paths of the frames in order")
        boxes, seconds = np.zeros((len(img_files), 4)), np.zeros(len(img_files))
        for i, path in enumerate(img_files):
            image = read_image(path)  # (H, W, 3)
            start = time.perf_counter()
            if i == 0:
                self.init(image, box)
                boxes[0] = box
            else:
                boxes[i] = self.update(image)
            seconds[i] = time.perf_counter() - start
            if visualize:
                _show(image, boxes[i])
        return boxes, seconds


def _pixels(image: Any) -> Any:
    """A PIL image as (H, W, 3) uint8 RGB; anything else as it is, for the tracker to check."""
    return np.asarray(image.convert("RGB")) if hasattr(image, "convert") else image


def _show(image: np.ndarray, box: np.ndarray) -> None:
    try:
        from got10k.utils.viz import show_frame
        from PIL import Image
    except ImportError:
        raise InputError("visualize=True needs the toolkit's viewer: run `pip install got10k`") from None
    show_frame(Image.fromarray(image), box)
