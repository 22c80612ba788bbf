"""One annotated video, whatever data set it comes from: the type every reader makes and everything else takes.

Nothing is read before it is asked for: a frame when it is indexed, the annotation when it is first used. Sequences
travel to worker processes, so readers give module-level functions (``functools.partial(read_it, path)``), no lambdas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import InputError, KeepsightError, VideoError
from ..regions import Region

Array = npt.NDArray[np.float64]


class Frames(ABC):
    """The pictures of a sequence, read one at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Frame ``index`` (0 is the first), RGB uint8 (H, W, 3). Raises :class:`VideoError` if it cannot be read."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def paths(self) -> tuple[Path, ...] | None:
        """The image files, one per frame; None if the frames lie in a video file."""
        return None


class Masks(ABC):
    """The segmentations of a sequence, read one at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray | None:
        """Object ids (H, W) uint8 of frame ``index``, 0 is background, 255 is void; None where there is no mask file."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known about the target. N is the number of frames; what a data set does not have is None.

    Boxes are x, y, w, h in pixels exactly as the data set distributes them (OTB, VOT, LaSOT, GOT-10k, UAV123 and
    TrackingNet count pixels from their own origins: nothing is subtracted).
    """

    boxes: Array
    """(N, 4) xywh; nan where there is none. Test sets with hidden ground truth have (1, 4): the first frame only."""
    visible: npt.NDArray[np.bool_] | None = None
    """(N,) the data set's own word that the target is in view (LaSOT, OxUvA, VOT-LT, GOT-10k's absence labels)."""
    annotated: npt.NDArray[np.bool_] | None = None
    """(N,) frames that have an annotation at all (OxUvA and YouTube-VOS: some); None: all."""
    polygons: Array | None = None
    """(N, 8) x1, y1, .., x4, y4 (VOT); nan where there is none."""
    regions: tuple[Region, ...] | None = None
    """N regions (VOT: the ground truth as the toolkit reads it)."""
    masks: Masks | None = None
    """Object ids per frame (DAVIS, YouTube-VOS, SegTrack, own data)."""
    objects: tuple[int, ...] = ()
    """Ids of the objects in ``masks``."""
    first_seen: Mapping[int, int] = field(default_factory=dict)
    """Object id -> frame of its first annotation (YouTube-VOS: objects may start late)."""
    cover: npt.NDArray[np.int64] | None = None
    """(N,) visible eighths of the target, 0..8 (GOT-10k)."""
    tags: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """Per-frame attributes, (N,) each (VOT: camera_motion, illum_change, motion_change, occlusion, size_change)."""
    anchors: npt.NDArray[np.int64] | None = None
    """(N,) +1 start forward here, -1 start backward, 0 none (VOT2020 and later)."""
    image_size: tuple[int, int] | None = None
    """Width, height of the frames in pixels, where a file says so."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """One annotated video. ``annotation`` is read at first use and kept.

    Example::

        sequence = open_dataset("otb100")["David"]
        tracker.init(sequence.frames[0], box=sequence.first_box)
    """

    name: str
    """Unique in its data set; may hold ``/`` (own data: the folder below the root)."""
    dataset: str
    """Name of the data set, e.g. ``otb100``."""
    frames: Frames
    """The pictures; ``len(sequence)`` of them."""
    read: Callable[[], Annotation] = field(repr=False)
    """Reads the annotation; must survive pickling."""
    attributes: frozenset[str] = frozenset()
    """The data set's attributes of the whole video, by their short names (OTB: IV, SV, OCC, ...)."""
    start: int = 0
    """Number that the data set gives the first frame (David of OTB: 300); for messages and official files."""
    frame_names: tuple[str, ...] | None = field(default=None, repr=False)
    """Name of each frame in official result files (masks: 00000, 00005, ...); None: counted."""

    @cached_property
    def annotation(self) -> Annotation:
        """Raises :class:`InputError` and :class:`VideoError` that name the file, if it cannot be used."""
        try:
            return self.read()
        except KeepsightError:
            raise
        except OSError as error:  # of a small file beside the main one
            raise VideoError(f"{error.filename} cannot be read: {error.strerror}; check its permissions") from None

    @property
    def boxes(self) -> Array:
        """(N, 4) or (1, 4) xywh, see :class:`Annotation`."""
        return self.annotation.boxes

    @property
    def first_box(self) -> tuple[float, float, float, float]:
        """What a tracker is started with. Raises :class:`InputError` if the first frame has no box."""
        x, y, w, h = (float(v) for v in self.boxes[0])
        if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
            raise InputError(
                f"{self.dataset}/{self.name}: the first frame's box is ({x:g}, {y:g}, {w:g}, {h:g}), so no tracker can be "
                f"started; run `keepsight data check {self.dataset}`"
            )
        return x, y, w, h

    def __len__(self) -> int:
        return len(self.frames)
