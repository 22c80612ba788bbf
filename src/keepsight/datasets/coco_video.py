"""Videos in COCO's JSON form, for one's own data as for YouTube-VIS, TAO and others. Each track is one element.

Two forms are understood. Per image::

    videos: {id, name}    images: {id, video_id, file_name, frame_index | frame_id, width, height}
    annotations: {image_id, track_id | instance_id, bbox: [x, y, w, h], category_id, segmentation?}

and per video, as YouTube-VIS has it::

    videos: {id, file_names: [..], width, height}
    annotations: {video_id, id, category_id, bboxes: [[x, y, w, h] | null, ..], segmentations?: [.. | null, ..]}

An element has all listed frames of its video; boxes are nan where the track has none.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .coco import category_names, image_size, whole
from .coco_masks import SegmentationMasks
from .frames import ImageFrames
from .json_scan import read_light
from .sequence import Annotation, Sequence
from .tracks import TrainingSet
from .training_entry import TrainingEntry, pack_names, unpack_name, usable_box

_IMAGE_FOLDERS = ("", "images", "JPEGImages", "frames", "{stem}", "{stem}/JPEGImages")
"""Below the annotation file's folder, then below the one above it."""

Box = tuple[float, float, float, float]
Mark = tuple[Any, Any, Any, int, Box, int]
"""Video id, track id, category id, frame, box, byte of its segmentation (-1: none)."""


class VideoTracks(TrainingSet):
    """Tracks of one annotation file.

    Left out and counted in ``skipped``: crowds, boxes without area or that are none, entries without a track id or of a
    frame that is not listed.

    Args:
        name: e.g. ``coco_video:mine.json``.
        path: the file. Raises :class:`VideoError` or :class:`InputError` if it cannot be read or is of neither form.
        images: folder that file names start from; None: looked for beside the file, by the first frame of the list.
    """

    is_video = True

    def __init__(self, name: str, path: Path, images: Path | None = None) -> None:
        self.name, self.path = name, path
        content = read_light(path, _as_it_is)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(k), list) for k in ("videos", "annotations")
        ):
            raise InputError(
                f"{path} has no lists 'videos' and 'annotations'; give a file of COCO's form for videos "
                "(videos, images, annotations with track_id and image_id)"
            )
        skipped: Counter[str] = Counter()
        self.per_video = not isinstance(content.get("images"), list) or not content["images"]
        videos = _videos_of_names(content) if self.per_video else _videos_of_images(content, skipped)
        numbers = {video: k for k, video in enumerate(videos)}
        self.files = pack_names(f for video in videos.values() for f in video.files)  # (F,) of all videos, end to end
        self.begins = np.cumsum([0] + [len(v.files) for v in videos.values()])  # (V + 1,)
        self.sizes = np.array([v.size for v in videos.values()], dtype=np.int64).reshape(-1, 2)
        self.video_names = pack_names(v.name for v in videos.values())
        marks = (_marks_of_videos if self.per_video else _marks_of_images)(content["annotations"], videos, skipped)
        self._take(marks, numbers, skipped)
        self.categories = category_names(content.get("categories"))
        self.skipped: dict[str, int] = dict(skipped)
        self.images = images if images is not None else self._find_images()

    def _take(self, marks: Iterator[Mark], numbers: dict[Any, int], skipped: Counter[str]) -> None:
        """Marks into arrays, ordered by track and frame."""
        tracks: dict[tuple[int, str], int] = {}
        owner, frames, boxes, places, categories = array("q"), array("q"), array("d"), array("q"), array("q")
        for video, track, category, frame, box, place in marks:
            key = (numbers[video], str(track))
            if key not in tracks:
                categories.append(whole(category, -1))
            owner.append(tracks.setdefault(key, len(tracks)))
            frames.append(frame)
            boxes.extend(box)
            places.append(place)
        order = np.lexsort((frames, owner))
        whose, when = np.array(owner, dtype=np.int64)[order], np.array(frames, dtype=np.int64)[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (whose[1:] != whose[:-1]) | (when[1:] != when[:-1])
        if not new.all():
            skipped["second box of a track in one frame"] += int((~new).sum())
        self.when = when[new]  # (B,) frame within the video
        self.boxes = np.array(boxes).reshape(-1, 4)[order][new]  # (B, 4)
        self.places = np.array(places, dtype=np.int64)[order][new]  # (B,)
        self.rows = np.searchsorted(whose[new], np.arange(len(tracks) + 1))  # (M + 1,)
        self.video = np.array([video for video, _ in tracks], dtype=np.int64)  # (M,)
        self.tracks = pack_names(track for _, track in tracks)
        self.category = np.array(categories, dtype=np.int64)

    def _find_images(self) -> Path:
        if not len(self.files):
            return self.path.parent
        first = unpack_name(self.files, 0)
        folders = [f.format(stem=self.path.stem) for f in _IMAGE_FOLDERS]
        places = [base / f for base in (self.path.parent, self.path.parent.parent) for f in folders]
        for place in places:
            if (place / first).is_file():
                return place
        looked = "\n".join(f"  {place}" for place in places)
        raise InputError(f"{self.path} names the frame {first!r}, which is in none of these folders:\n{looked}")

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, index: int) -> Sequence:
        index = range(len(self))[index]
        video = int(self.video[index])
        rows = slice(int(self.rows[index]), int(self.rows[index + 1]))
        files = [unpack_name(self.files, k) for k in range(int(self.begins[video]), int(self.begins[video + 1]))]
        boxes = np.full((len(files), 4), np.nan)
        boxes[self.when[rows]] = self.boxes[rows]
        places = np.full(len(files), -1, dtype=np.int64)
        places[self.when[rows]] = self.places[rows]
        size = (int(self.sizes[video, 0]), int(self.sizes[video, 1]))
        label = self.categories.get(int(self.category[index]))
        return Sequence(
            name=f"{unpack_name(self.video_names, video)}/{unpack_name(self.tracks, index)}",
            dataset=self.name,
            frames=ImageFrames(self.images / f for f in files),
            read=partial(_annotation, boxes, self.path, places, size, self.per_video),
            attributes=frozenset() if label is None else frozenset({label}),
        )


def _annotation(
    boxes: np.ndarray, path: Path, places: np.ndarray, size: tuple[int, int], per_video: bool
) -> Annotation:
    known = size if min(size) > 0 else None
    masks = None
    if known is not None and (places >= 0).any():
        items = range(len(places)) if per_video else None
        masks = SegmentationMasks(path, places.tolist(), known, items)
    return Annotation(
        boxes=boxes,
        visible=np.isfinite(boxes[:, 0]),
        masks=masks,
        objects=() if masks is None else (1,),
        image_size=known,
    )


class _Video:
    """A video while the file is read."""

    def __init__(self, name: str, files: list[str], size: tuple[int, int]) -> None:
        self.name, self.files, self.size = name, files, size
        self.place: dict[Any, int] = {}  # image id -> frame


def _as_it_is(found: dict[str, Any]) -> Any:
    return found


def _entries(content: Any) -> Iterator[dict[str, Any]]:
    return (e for e in content if isinstance(e, dict))


def _hashable(number: Any) -> Any:
    return number if isinstance(number, int | str) else str(number)


def _videos_of_names(content: dict[str, Any]) -> dict[Any, _Video]:
    videos = {}
    for entry in _entries(content["videos"]):
        names = entry.get("file_names")
        files = [str(f) for f in names] if isinstance(names, list) else []
        if "id" in entry and files:
            name = str(entry.get("name") or Path(files[0]).parent.as_posix())
            videos[_hashable(entry["id"])] = _Video(name, files, image_size(entry))
    return videos


def _videos_of_images(content: dict[str, Any], skipped: Counter[str]) -> dict[Any, _Video]:
    listed: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for position, image in enumerate(_entries(content["images"])):
        if not isinstance(image.get("file_name"), str) or "id" not in image or "video_id" not in image:
            skipped["image without id, video_id or file_name"] += 1
            continue
        number = image.get("frame_index", image.get("frame_id"))
        listed.setdefault(_hashable(image["video_id"]), []).append(
            (number if isinstance(number, int) else position, image)
        )
    names = {_hashable(e["id"]): str(e.get("name", e["id"])) for e in _entries(content["videos"]) if "id" in e}
    videos = {}
    for number, images in listed.items():
        images.sort(key=lambda pair: pair[0])
        files = [image["file_name"] for _, image in images]
        videos[number] = _Video(names.get(number, str(number)), files, image_size(images[0][1]))
        videos[number].place = {_hashable(image["id"]): k for k, (_, image) in enumerate(images)}
    return videos


def _usable(box: Any, skipped: Counter[str]) -> Box | None:
    found = usable_box(box)
    if found is None or found[2] <= 0 or found[3] <= 0:
        skipped["no usable box" if found is None else "box without area"] += 1
        return None
    return found


def _marks_of_videos(annotations: list[Any], videos: dict[Any, _Video], skipped: Counter[str]) -> Iterator[Mark]:
    for number, entry in enumerate(_entries(annotations)):
        video, boxes = _hashable(entry.get("video_id")), entry.get("bboxes")
        if entry.get("iscrowd"):
            skipped["crowd"] += 1
            continue
        if video not in videos or not isinstance(boxes, list) or len(boxes) != len(videos[video].files):
            skipped["track that does not fit its video"] += 1
            continue
        place = entry.get("segmentations")
        for frame, box in enumerate(boxes):
            usable = _usable(box, skipped) if box else None  # null or empty: not in view
            if usable is not None:
                track = entry.get("id", number)
                yield video, track, entry.get("category_id"), frame, usable, place if isinstance(place, int) else -1


def _marks_of_images(annotations: list[Any], videos: dict[Any, _Video], skipped: Counter[str]) -> Iterator[Mark]:
    where = {image: (video, frame) for video, v in videos.items() for image, frame in v.place.items()}
    for entry in _entries(annotations):
        track = entry.get("track_id", entry.get("instance_id"))
        video, frame = where.get(_hashable(entry.get("image_id")), (None, -1))
        reason = (
            "crowd"
            if entry.get("iscrowd")
            else "no track_id or instance_id"
            if track is None
            else "image not listed"
            if frame < 0
            else ""
        )
        if reason:
            skipped[reason] += 1
            continue
        box = _usable(entry.get("bbox"), skipped)
        if box is not None:
            place = entry.get("segmentation")
            yield video, track, entry.get("category_id"), frame, box, place if isinstance(place, int) else -1


def open_coco_video(root: Path, file: str) -> VideoTracks:
    """``file`` may be relative to ``root``."""
    path = root / Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return VideoTracks(f"coco_video:{file}", path)


TRAINING = (
    TrainingEntry(
        name="coco_video",
        title="own data, COCO's JSON form for videos",
        open=open_coco_video,
        folders=(),
        marks=(),
        layout="""\
FILE.json                     videos, images (video_id, file_name, frame_index), annotations (image_id, track_id, bbox)
images/ or JPEGImages/ or frames/ .. beside it, or beside its folder: what file_name starts from""",
        source="your own annotation tool; YouTube-VIS and TAO have this form",
        takes_path=True,
    ),
)
