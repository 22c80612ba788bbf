"""Training sets by name.

Example::

    objects = open_training_set("coco:train2014", root="/data")     # root: as for evaluation, see roots.py
    len(objects), objects[0].frames[0], objects[0].boxes

=====================================================================  ==================================================
``lasot:train``, ``:train_train``, ``:train_val``                      boxes and presence
``got10k:train``, ``:vot_train``, ``:vot_val``, ``:train_without_vot``  without VOT's videos, by list files
``trackingnet:train``, ``:train_0``, ``:train_0-3``, ``:train_0,4,7``  the parts named
``youtubevos2018:train``, ``youtubevos2019:train``, ``davis2017:train``  one element per object, with masks
``segtrackv2``                                                         one element per object, with masks
``lasot_masks:train``, ``got10k_masks:vot_train``                      boxes, and masks made of them
``coco:train2014``, ``coco:train2017``, ``lvis:train``                 images, boxes and masks
``imagenet_vid:train``, ``imagenet_det:train``, ``youtube_bb:train``   boxes
``msra10k``, ``ecssd``, ``hku_is``                                     images, one mask each
``folder:PATH``, ``coco_video:FILE.json``                              one's own data
``composite:procedural``, ``composite:shared``                         synthetic videos, see :mod:`.composite`
``composite:stills``                                                   one photograph per video, see :mod:`.stills`
``shared:images``, ``shared:tracks`` (``_all``: research-only too)     many small sources
=====================================================================  ==================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np

from ..errors import InputError, KeepsightError, nearest_names
from .sequence import Sequence
from .tracks import TrainingSet, visible_frames
from .training_entry import TrainingEntry

_MODULES = (
    "training_videos",
    "pseudo_masks",
    "coco",
    "lvis",
    "imagenet",
    "youtube_bb",
    "saliency",
    "coco_video",
    "shared_train",
)
"""Modules of this folder with ``TRAINING``."""


@cache
def training_entries() -> Mapping[str, TrainingEntry]:
    """Every data set to train on, by the name before the colon."""
    found: dict[str, TrainingEntry] = {}
    for module in _MODULES:
        for entry in import_module(f".{module}", __package__).TRAINING:
            found[entry.name] = entry
    shared = found["shared"]
    found["composite"] = TrainingEntry(
        name="composite",
        title="synthetic videos",
        open=_open_composite,
        folders=shared.folders,
        marks=shared.marks,
        layout=shared.layout,
        source=f"drawn while training; with photographs: {shared.source}",
        splits=("procedural", "shared", "shared_all", "stills", "stills_all"),
        root_name="shared",
        without_root=("procedural",),
    )
    return found


@dataclass(frozen=True)
class TrainingStatus:
    """One line of ``keepsight data list``."""

    name: str
    title: str
    splits: tuple[str, ...]
    source: str
    root: Path | None
    """None: not found."""
    how: str
    """What named the root; empty if there is none."""


def list_training_sets(root: str | Path | None = None) -> tuple[TrainingStatus, ...]:
    """The data sets with a folder that are only for training, and whether they are there."""
    from .roots import root_of

    found = []
    for entry in training_entries().values():
        if entry.root_name or not entry.folders:
            continue
        place, how = None, ""
        with suppress(InputError):
            named = root_of(entry, root)
            place, how = named.path, named.how
        found.append(TrainingStatus(entry.name, entry.title, entry.splits, entry.source, place, how))
    return tuple(found)


def _open_composite(root: Path, split: str) -> TrainingSet:
    from .composite import CompositeConfig, CompositeSet
    from .cutouts import Backgrounds, CutOuts
    from .shared_train import SharedObjects, backgrounds
    from .stills import StillVideos

    name = f"composite:{split}"
    if split == "procedural":
        return CompositeSet(name=name)
    shipping = not split.endswith("_all")
    if split.startswith("stills"):
        return StillVideos(name, SharedObjects(name, root, commercial_only=shipping))
    objects = SharedObjects(name, root, commercial_only=shipping, masks_only=True)
    # photographs with objects in them are places, too, and there are many more of them
    photographs = Backgrounds((*backgrounds(root, commercial_only=shipping), *objects.files()))
    # Photographs hold still, animals do not: more change of shape than objects drawn by arithmetic need. The reference frame
    # is drawn like any other, so a frame must show half of the target.
    config = CompositeConfig(
        aspect=0.4,
        deformation=(0.0, 0.15),
        turn=(0.0, 3.0),
        spin=0.1,
        distractors=(0.25, 0.35, 0.25, 0.15),
        in_view=0.45,
    )
    return CompositeSet(name=name, config=config, cutouts=CutOuts(objects), backgrounds=photographs)


def training_set_names() -> tuple[str, ...]:
    """All names that :func:`open_training_set` takes, ranges and paths aside: ``lasot:train``, .., ``ecssd``, .."""
    return tuple(f"{e.name}:{s}" if s else e.name for e in training_entries().values() for s in e.splits)


def open_training_set(spec: str, root: str | Path | None = None) -> TrainingSet:
    """A training set by name: lists and indices are read, images and masks when elements are used.

    ``root``: the data set's own folder, or the one that holds it under a usual name; None: see :mod:`.roots`. For
    ``folder:PATH`` and ``coco_video:FILE`` what relative paths start from.

    What is left out, and why, is counted in ``skipped`` of the result. Raises :class:`InputError` for an unknown name, for
    data that is not found (the message says where was looked and how the folder should look) or holds nothing usable.
    """
    entry, split = _parse(spec)
    place = _place(entry, split, root)
    try:
        opened = entry.open(place, split)
    except KeepsightError as error:
        raise InputError(f"{spec}: {error}\n{_how(entry)}") from None
    if len(opened) == 0:
        counted = "; ".join(f"{reason}: {n}" for reason, n in getattr(opened, "skipped", {}).items())
        left_out = f" (left out: {counted})" if counted else ""
        raise InputError(f"{spec}: nothing to train on in {place}{left_out}\n{_how(entry)}")
    return opened


def _parse(spec: str) -> tuple[TrainingEntry, str]:
    base, _, split = spec.partition(":")
    known = training_entries()
    if base not in known:
        raise InputError(f"unknown training set {spec!r}; {nearest_names(spec, training_set_names())}")
    entry = known[base]
    if entry.takes_path or split in entry.splits:
        return entry, split
    if not split:
        return entry, entry.splits[0]
    if entry.any_split is not None and entry.any_split(split):
        return entry, split
    if entry.splits == ("",):
        raise InputError(f"{spec!r}: {base} has no parts; give {base!r}")
    raise InputError(f"{spec!r}: {base} has no part {split!r}; {nearest_names(split, entry.splits)}")


def _place(entry: TrainingEntry, split: str, root: str | Path | None) -> Path:
    from .roots import find_root, root_of

    if split in entry.without_root:
        return Path()
    if entry.takes_path and split:
        return Path(root if root is not None else ".").expanduser()
    if not entry.folders:
        raise InputError(f"{entry.name!r} needs a path: {entry.name}:FILE\n{_how(entry)}")
    if entry.root_name == entry.name:  # one folder for evaluation and training
        return find_root(entry.name, root).path
    return root_of(training_entries()[entry.root_name or entry.name], root).path


def _how(entry: TrainingEntry) -> str:
    layout = "\n".join(f"  {line}" for line in entry.layout.strip().splitlines())
    return f"The folder should look like this:\n{layout}\nIt can be obtained from: {entry.source}"


def audit(training_set: TrainingSet, limit: int | None = None) -> dict[str, int]:
    """What is wrong with elements, counted: annotations that cannot be read, no drawable frame, one frame only in a video,
    boxes that lie outside the image, image files that are not there. No image is decoded.

    ``limit``: look at that many elements, evenly spread; None: at all. Counts what opening left out as well.
    """
    found: Counter[str] = Counter(getattr(training_set, "skipped", {}))
    count = len(training_set)
    looked = range(count) if limit is None or limit >= count else np.linspace(0, count - 1, limit).astype(int).tolist()
    for index in looked:
        try:
            found.update(_findings(training_set[index], training_set.is_video))
        except KeepsightError as error:
            found[f"{type(error).__name__} when read"] += 1
    return dict(found)


def _findings(sequence: Sequence, is_video: bool) -> set[str]:
    known, found = sequence.annotation, set()
    drawable = visible_frames(sequence)  # (N,)
    if not drawable.any():
        found.add("no frame with a box")
    elif is_video and drawable.sum() == 1:
        found.add("one frame with a box")
    if known.image_size is not None and drawable.any():
        low, high = known.boxes[drawable, :2], known.boxes[drawable, :2] + known.boxes[drawable, 2:]
        if ((high <= 0) | (low >= known.image_size)).any():
            found.add("box outside the image")
    paths = sequence.frames.paths
    if paths is not None and not all(path.is_file() for path in paths):
        found.add("image file not there")
    return found
