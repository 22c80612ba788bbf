"""Tiny sequences and trackers for the tests of the runner."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from keepsight.datasets.frames import ArrayFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.evaluation.entrants import Answer, Entrant

HERE = Path(__file__).resolve()


def tracker(name: str) -> str:
    """How a class below is asked for."""
    return f"{HERE}:{name}"


def pictures(count: int, seed: int = 0, height: int = 48, width: int = 64) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (H, W, 3) with a textured square that moves 2 pixels a frame, and its boxes (N, 4)."""
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
    texture = rng.integers(120, 255, (14, 14, 3), dtype=np.uint8)
    frames, boxes = [], []
    for i in range(count):
        frame, x = background.copy(), 4 + 2 * i % (width - 20)
        frame[16:30, x : x + 14] = texture
        frames.append(frame)
        boxes.append((x, 16, 14, 14))
    return frames, np.array(boxes, dtype=np.float64)


def annotation(**fields) -> Annotation:
    return Annotation(**fields)


def sequence(name: str = "one", count: int = 8, seed: int = 0, **fields) -> Sequence:
    """In memory."""
    frames, boxes = pictures(count, seed)
    read = partial(annotation, **{"boxes": boxes, **fields})
    return Sequence(name=name, dataset="made", frames=ArrayFrames(frames), read=read)


def dataset(*sequences: Sequence, protocol: str = "ope", name: str = "made") -> SimpleNamespace:
    """Enough of a data set for the runner."""
    return SimpleNamespace(name=name, root=Path("/made"), protocol=protocol, sequences={s.name: s for s in sequences})


def write_folder(root: Path, lengths: dict[str, int]) -> Path:
    """One's own data: a folder for each sequence, its name and number of frames."""
    import cv2

    for seed, (name, count) in enumerate(lengths.items()):
        (root / name / "img").mkdir(parents=True)
        frames, boxes = pictures(count, seed)
        for i, frame in enumerate(frames):
            cv2.imwrite(str(root / name / "img" / f"{i + 1:05d}.png"), frame[..., ::-1])
        np.savetxt(root / name / "groundtruth.txt", boxes, fmt="%g", delimiter=",")
    return root


def files(folder: Path) -> dict[str, bytes]:
    """All results below a folder, times aside."""
    found = (f for f in folder.rglob("*") if f.is_file() and not f.name.endswith(".time.txt"))
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


class Scripted(Entrant):
    """Answers with given boxes, one per ``update``; remembers where it was started."""

    name = "scripted"

    def __init__(self, answers) -> None:
        self.answers, self.started = list(answers), []

    def init(self, frame, box, *, seed=0):
        self.started.append((tuple(box), seed))

    def update(self, frame) -> Answer:
        said = self.answers.pop(0)
        return said if isinstance(said, Answer) else Answer(tuple(said))


# --- got10k's interface -------------------------------------------------------------------------------------------------


class Jitter:
    """The given box, moved at random and by the picture's brightness. RUNNING_SLEEP: seconds per frame."""

    is_deterministic = False

    def init(self, image, box):
        assert image.mode == "RGB"
        self.box = np.array(box)

    def update(self, image):
        time.sleep(float(os.environ.get("RUNNING_SLEEP", "0")))
        self.box[:2] += np.random.uniform(-1, 1, 2) + np.asarray(image).mean() / 1000  # noqa: NPY002
        return self.box


class Still:
    """Never moves; prints, as many do."""

    is_deterministic = True

    def init(self, image, box):
        print("starting")
        self.box = box

    def update(self, image):
        return self.box


class Undeclared(Still):
    is_deterministic = False


class Raises(Still):
    def update(self, image):
        raise ValueError("no such thing")


class Dies(Still):
    """Ends its process on pictures of another width than 64."""

    def update(self, image):
        if image.width != 64:
            print("last words", flush=True)
            os._exit(9)
        return self.box


class Wrong(Still):
    def update(self, image):
        return (1, 2, 3)


class Points(Still):
    def update(self, image):
        return [[1, 2], [3, 4]]


class Exits(Still):
    def update(self, image):
        raise SystemExit(3)


class NoTracker:
    pass
