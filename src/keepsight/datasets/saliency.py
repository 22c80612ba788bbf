"""Salient objects in still images, one mask each: MSRA10K (Cheng et al., PAMI 2015), ECSSD (Shi et al., PAMI 2016), HKU-IS
(Li and Yu, CVPR 2015). One element per image; the box is that of the mask's pixels, however many pieces it has."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import InputError
from .frames import ImageFrames, list_images
from .masks import MaskFiles, boxes_of_masks
from .sequence import Annotation, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, pack_names, unpack_name


class SalientObjects(TrainingSet):
    """Images and masks of equal names. Images without a mask, and masks without an image, are counted in ``skipped``.

    ``images`` and ``masks`` may be one folder: its JPEG files are then images, its PNG files masks. Masks are bright on
    dark; greys above 127 belong to the object.
    """

    is_video = False

    def __init__(self, name: str, images: Path, masks: Path) -> None:
        self.name, self.images, self.masks = name, images, masks
        files, answers = list_images(images), list_images(masks)
        if images == masks:
            files = tuple(f for f in files if f.suffix.lower() != ".png")
            answers = tuple(a for a in answers if a.suffix.lower() == ".png")
        by_stem = {a.stem: a.name for a in answers}
        pairs = [(f.name, by_stem.pop(f.stem)) for f in files if f.stem in by_stem]
        counts = {"image without a mask": len(files) - len(pairs), "mask without an image": len(by_stem)}
        self.skipped: dict[str, int] = {reason: n for reason, n in counts.items() if n}
        self.files, self.answers = pack_names(p[0] for p in pairs), pack_names(p[1] for p in pairs)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        file = self.images / unpack_name(self.files, index)
        read = partial(_read, self.masks / unpack_name(self.answers, index))
        return Sequence(name=file.stem, dataset=self.name, frames=ImageFrames([file]), read=read)


def _read(path: Path) -> Annotation:
    masks = MaskFiles([path], binary=True)
    return Annotation(boxes=boxes_of_masks(masks), masks=masks, objects=(1,))


_FOLDERS = {  # pairs of folders, as the archives and common copies have them
    "msra10k": (("Imgs", "Imgs"), ("MSRA10K_Imgs_GT/Imgs", "MSRA10K_Imgs_GT/Imgs"), ("images", "masks")),
    "ecssd": (("images", "ground_truth_mask"), ("images", "masks")),
    "hku_is": (("imgs", "gt"), ("images", "masks")),
}


def _open(name: str, root: Path, split: str) -> SalientObjects:
    for images, masks in _FOLDERS[name]:
        if (root / images).is_dir() and (root / masks).is_dir():
            return SalientObjects(name, root / images, root / masks)
    pairs = "; ".join(f"{i} and {m}" if i != m else i for i, m in _FOLDERS[name])
    raise InputError(f"{root} has no folders of images and masks ({pairs})")


def _entry(name: str, title: str, folders: tuple[str, ...], layout: str, source: str) -> TrainingEntry:
    marks = tuple(dict.fromkeys(masks for _, masks in _FOLDERS[name]))
    return TrainingEntry(name, title, partial(_open, name), folders, marks, layout, source)


TRAINING = (
    _entry(
        "msra10k",
        "MSRA10K",
        ("MSRA10K", "MSRA10K_Imgs_GT", "MSRA10K_Imgs"),
        "Imgs/1_29_29133.jpg, Imgs/1_29_29133.png ..        (or images/ and masks/)",
        "the project page of MSRA10K (M.-M. Cheng, Nankai University)",
    ),
    _entry(
        "ecssd",
        "ECSSD",
        ("ECSSD",),
        "images/0001.jpg ..\nground_truth_mask/0001.png ..                      (or masks/)",
        "the project page of ECSSD (Chinese University of Hong Kong)",
    ),
    _entry(
        "hku_is",
        "HKU-IS",
        ("HKU-IS",),
        "imgs/0004.png ..\ngt/0004.png ..                                     (or images/ and masks/)",
        "the project page of HKU-IS (G. Li, University of Hong Kong)",
    ),
)
