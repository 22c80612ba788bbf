"""Keep sight of one object in a video.

import keepsight as ks

tracker = ks.load("dimp-lite")             # see ks.tracker_names()
tracker.init(frame, box=(x, y, w, h))      # RGB uint8 (H, W, 3); box in pixels, top-left corner
result = tracker.update(frame)             # .box .score .presence .status .updated
"""

from .boxes import Box
from .errors import InputError, KeepsightError, StateError, VideoError, WeightsError
from .online.densities import Densities
from .online.presence import Calibration, read_calibration
from .online.state import Candidate, Result, Status
from .trackers.base import Tracker
from .trackers.registry import load, tracker_names

__version__ = "0.1.0"

__all__ = [
    "Box",
    "Calibration",
    "Candidate",
    "Densities",
    "InputError",
    "KeepsightError",
    "Result",
    "StateError",
    "Status",
    "Tracker",
    "VideoError",
    "WeightsError",
    "__version__",
    "load",
    "read_calibration",
    "tracker_names",
]
