"""Masks made of boxes, for training on data sets that have boxes only; spec/keeptrack-rts-lwl.md §8.1.

Files as :mod:`keepsight.datasets.pseudo_masks` reads them: ``OUT/<sequence>/00000001.png``, numbered from 1 as the frames are,
grey, 0 and 1. Files that are there are not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..datasets.masks import save_grey_png
from ..datasets.pseudo_masks import LASOT_FRAMES, LASOT_STEP
from ..datasets.sequence import Sequence
from ..errors import InputError, KeepsightError, VideoError
from ..text import write_atomically
from ..trackers.sta import BoxToMask

RECORD = "masks.json"
"""Beside the sequences: which weights made the masks."""


@dataclass
class Made:
    """What :func:`make_masks` did."""

    sequences: int = 0
    """Done, those of earlier runs too."""
    made: int = 0
    """Masks, of which ..."""
    empty: int = 0
    """... so many have no pixel: the network saw nothing in the box."""
    present: int = 0
    """Frames whose masks were there."""
    absent: int = 0
    """Frames without a box, or where the target is out of view: they have no mask."""
    failures: list[str] = field(default_factory=list)
    """Sequences and frames that could not be read, or boxes that could not be used."""


def usual_frames(dataset: str) -> tuple[int, int | None]:
    """Every how many frames a mask is made, and of how many frames at most: LaSOT has masks of few, other data sets of all."""
    return (LASOT_STEP, LASOT_FRAMES) if dataset.partition(":")[0] == "lasot" else (1, None)


def make_masks(
    sequences: Iterable[Sequence],
    model: BoxToMask,
    out: str | Path,
    *,
    weights: str,
    step: int = 1,
    most: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Sequence, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Made:
    """A mask for every annotated frame of ``sequences``.

    Args:
        out: folder; made if it is absent.
        weights: what the masks depend on; masks of others in ``out`` are an error.
        step, most: every ``step``-th of the first ``most`` frames.
        overwrite: make masks again, also over those of other weights.
        progress: called with a sequence, how many of its frames are done, and their number.
        stop: asked between two frames; True ends it.

    Sequences that cannot be read are in ``failures``. Raises :class:`InputError` for settings that cannot be used, and
    :class:`VideoError` if ``out`` cannot be written; finished files stay.
    """
    if step < 1 or (most is not None and most < 1):
        raise InputError(f"step is {step} and most {most}; give whole numbers from 1 on")
    out, done = Path(out).expanduser(), Made()
    _check_record(out, weights, overwrite)
    for sequence in sequences:
        try:
            known = sequence.annotation
            seen = np.asarray((known.boxes[:, 2:] > 0).all(axis=1) & np.isfinite(known.boxes).all(axis=1))  # (N,)
            if known.visible is not None:
                seen = seen & known.visible[: len(seen)]
        except KeepsightError as error:
            done.failures.append(f"{sequence.name}: {error}")
            continue
        frames = range(min(len(seen), len(sequence)))[:most:step]
        for count, i in enumerate(frames, 1):
            if stop is not None and stop():
                return done
            file = out / sequence.name / f"{i + 1:08d}.png"
            if not seen[i]:
                done.absent += 1
            elif not overwrite and file.is_file():
                done.present += 1
            else:
                _make(sequence, i, model, file, done)
            if progress is not None:
                progress(sequence, count, len(frames))
        done.sequences += 1
    return done


def _make(sequence: Sequence, index: int, model: BoxToMask, file: Path, done: Made) -> None:
    try:
        mask = model.mask(sequence.frames[index], sequence.boxes[index].tolist())
    except KeepsightError as error:
        done.failures.append(f"{sequence.name}, frame {sequence.start + index}: {error}")
        return
    save_grey_png(file, mask)
    done.made += 1
    done.empty += not mask.any()


def _check_record(out: Path, weights: str, overwrite: bool) -> None:
    path, before = out / RECORD, None
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["weights_sha256"]
        except OSError:
            raise
        except (ValueError, KeyError, TypeError):
            raise VideoError(f"{path} is damaged; remove it if all masks in {out} are to be kept") from None
    if before not in (None, weights) and not overwrite:
        raise InputError(
            f"the masks in {out} were made with the weights {before}, and these are {weights}; give another folder, or "
            "--overwrite to make them again"
        )
    write_atomically(path, json.dumps({"format": "keepsight masks", "version": 1, "weights_sha256": weights}) + "\n")
