"""LaSOT and GOT-10k with masks that a network made of their boxes; RTS learns from them (spec/keeptrack-rts-lwl.md §8.1).

Files, as STA's output and the published archives have them, 8-bit PNG whose pixels are 0 and 1 (or 255)::

    lasot_masks/<sequence>/00000001.png, 00000006.png, ..       every fifth frame of the first thousand
    got10k_masks/<sequence>/00000001.png, 00000002.png, ..      every frame

The folder is looked for as data sets are, and the data set itself beside it, then where it usually is. Boxes and visibility
remain the data set's own. LaSOT's other frames are left out: frame k is frame 1 + 5k of the video.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from .frames import NumberedFrames
from .masks import MaskFiles
from .roots import find_root
from .sequence import Annotation, Sequence
from .training_entry import TrainingEntry
from .training_videos import Videos, open_got10k, open_lasot
from .truth import list_folder

LASOT_STEP, LASOT_FRAMES = 5, 1000
GOT10K_LEFT_OUT = "GOT-10k_Train_004419"
"""Its masks cannot be used; the published training leaves it out."""


class PseudoMasks(MaskFiles):
    """Masks of one object, 0 and 1; :class:`VideoError` for a file that is not there, :class:`InputError` for other ids."""

    def __getitem__(self, index: int) -> np.ndarray | None:
        ids = super().__getitem__(index)
        if ids is not None and ids.max(initial=0) > 1:
            raise InputError(
                f"{self.paths[index]} holds ids up to {ids.max()}; masks of one object hold 0 and 1: make them again with "
                "`keepsight masks`"
            )
        return ids


def open_pseudo_masks(base: str, root: Path, split: str) -> Videos:
    """``base`` with the masks in ``root``. Raises :class:`InputError` if a sequence has none, or ``base`` is not found."""
    place = _beside(base, root)
    videos = (open_lasot if base == "lasot" else open_got10k)(place, split)
    sequences = [videos[k] for k in range(len(videos))]
    kept = [s for s in sequences if s.name != GOT10K_LEFT_OUT]
    there = list_folder(root)
    missing = [s.name for s in kept if s.name not in there]
    if missing:
        raise InputError(
            f"{root} has no masks of {len(missing)} of the {len(kept)} sequences of {base}:{split}, e.g. {missing[0]}; make them "
            f"with `keepsight masks`, or take a part of the data set that has them"
        )
    step, most = (LASOT_STEP, LASOT_FRAMES) if base == "lasot" else (1, None)
    found = [_with_masks(s, root / s.name, step, most) for s in kept]
    skipped = Counter(videos.skipped) + Counter({"without usable masks": len(sequences) - len(kept)})
    return Videos(f"{base}_masks:{split}", found, skipped)


def _beside(base: str, masks: Path) -> Path:
    try:
        return find_root(base, masks.parent).path
    except InputError:
        return find_root(base).path


def _with_masks(sequence: Sequence, folder: Path, step: int, most: int | None) -> Sequence:
    frames = sequence.frames
    assert isinstance(frames, NumberedFrames)  # of both data sets
    picked = NumberedFrames(frames.folder, partial(_count, frames, step, most), digits=frames.digits, step=step)
    return replace(sequence, frames=picked, read=partial(_read, sequence, folder, step, most))


def _count(frames: NumberedFrames, step: int, most: int | None) -> int:
    return len(range(len(frames))[:most:step])


def _read(sequence: Sequence, folder: Path, step: int, most: int | None) -> Annotation:
    known = sequence.read()
    count = len(known.boxes)
    return Annotation(
        boxes=known.boxes[:most:step],
        visible=None if known.visible is None else known.visible[:most:step],
        cover=None if known.cover is None else known.cover[:most:step],
        masks=PseudoMasks([folder / f"{1 + f:08d}.png" for f in range(count)[:most:step]]),
        objects=(1,),
        image_size=known.image_size,
    )


def _entry(base: str, title: str, splits: tuple[str, ...], layout: str) -> TrainingEntry:
    return TrainingEntry(
        name=f"{base}_masks",
        title=f"{title} with masks made of its boxes",
        open=partial(open_pseudo_masks, base),
        folders=(f"{base}_masks",),
        marks=("*/00000001.png",),
        layout=layout,
        source=f"`keepsight masks` makes them of {title}'s boxes",
        splits=splits,
    )


TRAINING = (
    _entry(
        "lasot", "LaSOT", ("train", "train_train", "train_val"),
        "<sequence>/00000001.png, 00000006.png, ..     (every fifth frame of the first thousand)\n(LaSOT itself beside it)",
    ),
    _entry(
        "got10k", "GOT-10k", ("vot_train", "vot_val", "train", "train_without_vot", "train_split", "val_split"),
        "<sequence>/00000001.png, 00000002.png, ..\n(GOT-10k itself beside it)",
    ),
)  # fmt: skip
