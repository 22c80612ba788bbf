"""Masks in memory, mask files, and sequences made of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from keepsight.datasets.sequence import Annotation, Frames, Masks, Sequence
from keepsight.evaluation.runs import Run


class NoPictures(Frames):
    """The length of a sequence whose pictures are not there."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        raise AssertionError("scoring must not read frames")


class Given(Masks):
    """Masks from arrays; None where there is no file."""

    def __init__(self, ids: list[np.ndarray | None]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> np.ndarray | None:
        return self.ids[index]


class Pngs(Masks):
    """Indexed PNG files of a folder, read with Pillow alone."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray | None:
        path = self.folder / f"{self.names[index]}.png"
        return np.array(Image.open(path)) if path.exists() else None


def same(annotation: Annotation) -> Annotation:
    return annotation


def sequence(name: str, annotation: Annotation, count: int, **more: object) -> Sequence:
    return Sequence(name, "test", NoPictures(count), partial(same, annotation), **more)  # type: ignore[arg-type]


def mask_sequence(name: str, ids: list[np.ndarray | None], **more: object) -> Sequence:
    """A sequence whose ground truth is these masks."""
    annotation = Annotation(boxes=np.full((len(ids), 4), np.nan), masks=Given(ids), **more)  # type: ignore[arg-type]
    return sequence(name, annotation, len(ids))


def mask_run(ids: list[np.ndarray | None]) -> Run:
    return Run(boxes=np.full((len(ids), 4), np.nan), masks=Given(ids))


def davis_sequences(root: Path) -> dict[str, Sequence]:
    """The sequences of a DAVIS folder, by its list."""
    out = {}
    for name in next(root.glob("ImageSets/*/*.txt")).read_text().split():
        folder = next(root.glob("Annotations/*")) / name
        names = tuple(sorted(p.stem for p in folder.glob("*.png")))
        annotation = Annotation(boxes=np.full((len(names), 4), np.nan), masks=Pngs(folder, names))
        out[name] = sequence(name, annotation, len(names), frame_names=names)
    return out


def davis_runs(folder: Path, sequences: Mapping[str, Sequence]) -> dict[str, list[Run]]:
    """Result PNGs of one tracker."""
    return {
        name: [Run(boxes=np.full((len(s), 4), np.nan), masks=Pngs(folder / name, s.frame_names or ()))]
        for name, s in sequences.items()
        if (folder / name).is_dir()
    }
