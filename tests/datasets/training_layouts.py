"""Tiny copies of the data sets that are for training only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from keepsight.datasets.masks import save_indexed_png

WIDTH, HEIGHT = 40, 30


def image(path: Path, grey: int = 100, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(path.suffix.lower(), np.full((size[1], size[0], 3), grey, np.uint8))
    assert good
    path.write_bytes(data.tobytes())


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def slow_rle(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, zeros first: one pixel after the other."""
    runs, last = [0], 0
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != last:
                runs.append(0)
                last = mask[y, x]
            runs[-1] += 1
    return runs


def compress(runs: list[int]) -> str:
    """COCO's string of run lengths, from the description of its format."""
    text = ""
    for k, run in enumerate(runs):
        value = run - runs[k - 2] if k > 2 else run
        while True:
            group, value = value & 31, value >> 5
            done = value == (-1 if group & 16 else 0)
            text += chr(48 + group + (0 if done else 32))
            if done:
                break
    return text


def blob() -> np.ndarray:
    """(HEIGHT, WIDTH) bool: two pieces, one with a hole, one at the border."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:20, 8:25] = True
    mask[9:12, 12:20] = False
    mask[25:, 36:] = True
    return mask


def coco(root: Path, split: str = "train2014", images: int = 2) -> Path:
    """Annotations: a polygon, a plain RLE, a compressed one, a crowd, and bad ones."""
    runs = slow_rle(blob())
    size = [HEIGHT, WIDTH]
    usual = {"iscrowd": 0, "category_id": 18}
    objects = [
        {"segmentation": [[4, 4, 14, 4, 14, 9, 4, 9]], "image_id": 9, "bbox": [4, 4, 10, 5], "id": 71, **usual},
        {"id": 72, **usual, "image_id": 25, "bbox": [8.25, 5, 32, 25], "segmentation": {"counts": runs, "size": size}},
        {
            "bbox": [8.25, 5, 32, 25],
            "image_id": 25,
            "segmentation": {"size": size, "counts": compress(runs)},
            "id": 73,
            **usual,
        },
        {"segmentation": {"counts": runs, "size": size}, "iscrowd": 1, "image_id": 9, "bbox": [1, 1, 5, 5], "id": 74},
        {"segmentation": [], "image_id": 9, "bbox": [1, 1, 5, 0], "id": 75, **usual},
        {"segmentation": [], "image_id": 9, "bbox": [1, 1, 5], "id": 76, **usual},
        {"segmentation": [], "image_id": 9, "bbox": [1, None, 5, 4], "id": 77, **usual},
        {"segmentation": [], "image_id": 4711, "bbox": [1, 1, 5, 5], "id": 78, **usual},
        {"segmentation": [], "image_id": 9, "bbox": [2, 2, 6, 6], "id": 79, **usual},
    ]
    entries = [
        {"id": number, "file_name": f"COCO_{split}_{number:012d}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in (25, 9)[:images]
    ]
    for entry in entries:
        image(root / "images" / split / str(entry["file_name"]), int(entry["id"]))
    content = {
        "info": {"description": 'a "segmentation": [ in a text'},
        "images": entries,
        "annotations": objects,
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }
    save(root / f"annotations/instances_{split}.json", content)
    return root


def lvis(root: Path, version: str) -> Path:
    entry: dict[str, Any] = {"id": 5, "width": WIDTH, "height": HEIGHT, "not_exhaustive_category_ids": []}
    if version == "v1":
        entry["coco_url"] = "http://images.cocodataset.org/val2017/000000000005.jpg"
        image(root / "val2017/000000000005.jpg", 200)
        (root / "train2017").mkdir(exist_ok=True)
    else:
        entry["file_name"] = "COCO_train2014_000000000005.jpg"
        image(root / "train2017/000000000005.jpg", 50)
    objects = [
        {"id": 1, "image_id": 5, "bbox": [3, 3, 9.5, 7], "category_id": 2, "segmentation": [[3, 3, 12, 3, 12, 10]]}
    ]
    content = {"images": [entry], "annotations": objects, "categories": [{"id": 2, "name": "aerosol_can"}]}
    save(root / f"lvis_{version}_train.json", content)
    return root


def _xml(objects: list[str]) -> str:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    return f"<annotation><folder>x</folder>{size}{''.join(objects)}</annotation>"


def xml_object(label: str, box: tuple[object, ...], track: int | None = None, occluded: int = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmax", "xmin", "ymax", "ymin"), box, strict=True))
    trackid = "" if track is None else f"<trackid>{track}</trackid>"
    return f"<object>{trackid}<name>{label}</name><bndbox>{corners}</bndbox><occluded>{occluded}</occluded></object>"


def vid(root: Path) -> Path:
    """Track 0 in frames 0-2 and 4-5, track 1 in 1-2, track 2 in frame 3 only; frame 6 cannot be read."""
    snippet = "ILSVRC2015_VID_train_0000/ILSVRC2015_train_00000000"
    for k in range(7):
        objects = []
        if k in (0, 1, 2, 4, 5):
            objects.append(xml_object("n1", (20 + k, 10 + k, 15, 5), 0, int(k == 1)))
        if k in (1, 2):
            objects.append(xml_object("n2", (9, 1, 9, 2), 1))
        if k == 3:
            objects += [xml_object("n2", (9, 1, 9, 2), 2), xml_object("n2", (9, 9, 9, 2), 3)]
        text = _xml(objects) if k < 6 else "<annotation><obj"
        save(root / f"Annotations/VID/train/{snippet}/{k:06d}.xml", text)
        image(root / f"Data/VID/train/{snippet}/{k:06d}.JPEG", 20 * k)
    return root


def det(root: Path) -> Path:
    good, bad = "ILSVRC2013_train/n01/n01_7", "ILSVRC2014_train_0000/ILSVRC2014_train_00000001"
    objects = [xml_object("n01", (19, 10, 15, 5)), xml_object("n02", (30, 1, 20, 2))]
    save(root / f"Annotations/DET/train/{good}.xml", _xml(objects))
    save(root / f"Annotations/DET/train/{bad}.xml", _xml([xml_object("n02", ("?", 1, 20, 2))]))
    image(root / f"Data/DET/train/{good}.JPEG", 33)
    return root


def youtube_bb(root: Path) -> Path:
    """Video A: two objects, absent in the last row; one frame is not there. Video B has no pictures."""
    present, absent = "present", "absent"
    rows = [
        ("A", 2000, 0, "person", 0, present, 0.25, 0.5, 0.1, 0.4),
        ("A", 1000, 0, "person", 0, present, 0.0, 0.5, 0.1, 0.3),
        ("A", 1000, 0, "person", 1, present, 0.5, 1.0, 0.0, 1.0),
        ("A", 3000, 0, "person", 0, absent, -1, -1, -1, -1),
        ("A", 4000, 0, "person", 0, present, 0.1, 0.2, 0.1, 0.2),
        ("B", 1000, 3, "bird", 0, present, 0.1, 0.2, 0.1, 0.2),
        ("A", "x", 0, "person", 0, present, 0.1, 0.2, 0.1, 0.2),
    ]
    save(root / "yt_bb_detection_train.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))
    for time in (1000, 2000, 3000):
        image(root / f"train/A/{time}.jpg", time // 50)
    return root


def saliency(root: Path, images: str, masks: str, suffix: str) -> Path:
    for k in (1, 2):
        image(root / images / f"{k:04d}{suffix}", 50 * k)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[3:9, 5 : 15 + k] = 255
        mask[2, 5:15] = 90  # a soft edge
        (root / masks).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / masks / f"{k:04d}.png"), mask)
    image(root / images / f"0003{suffix}")
    return root


def shared(root: Path) -> Path:
    """Three sources: free, research only, and one that the table lacks."""
    table = [
        "| source repository | images used | licence as found |",
        "|---|---|---|",
        "| a/free | 1 (mask) | MIT (LICENSE) |",
        "| b/study | 1 (box) | Creative Commons, personal and research use only |",
        "| c/photos | 1 (background) | CC BY 4.0 |",
        "| d/photos | 2 (background) | ImageNet terms (research) |",
        "| a/tracks | tracks | none stated |",
    ]
    save(root / "README.md", "# Images\n\n" + "\n".join(table) + "\n")
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[2:8, 3:13], ids[5:10, 10:20] = 1, 2
    save_indexed_png(root / "masks/1.png", ids)
    first = [{"bbox": [3, 2, 10, 6], "label": "cup", "mask": 1}, {"bbox": [10, 5, 10, 5], "label": "jar", "mask": 2}]
    rows: list[Any] = [
        {"image": "images/1.jpg", "source": "a/free", "objects": first, "masks": "masks/1.png"},
        {"image": "images/2.jpg", "source": "b/study", "objects": [{"bbox": [1, 1, 5, 5], "label": "car"}]},
        {"image": "images/3.jpg", "source": "e/unknown", "objects": [{"bbox": [1, 1, 5, 5], "label": "car"}]},
        {
            "image": "images/4.jpg",
            "source": "a/free",
            "objects": [{"bbox": [1, 1, 5, 0]}, {"bbox": [1, 1, 9, 9], "label": "cup"}],
        },
    ]
    for k, row in enumerate(rows, 1):
        row |= {"width": WIDTH, "height": HEIGHT}
        image(root / f"images/{k}.jpg", 40 * k)
    save(root / "index.jsonl", "\n".join(map(json.dumps, rows)) + "\nno json\n")
    tracks = [
        {
            "source": "a/tracks (part one)",
            "label": "bolt",
            "frames": [[f"tracks/t/{k}.jpg", k, 2, 6, 5] for k in (1, 2)],
        },
        {"source": "b/study", "label": "bolt", "frames": [[f"tracks/t/{k}.jpg", k, 2, 6, 5] for k in (1, 2)]},
        {"source": "a/tracks", "label": "nut", "frames": [["tracks/t/1.jpg", 1, 2, 6, 5]]},
    ]
    for k in (1, 2):
        image(root / f"tracks/t/{k}.jpg", 70 * k)
    save(root / "tracks.jsonl", "\n".join(map(json.dumps, tracks)) + "\n")
    for k in (1, 2, 3):
        image(root / f"backgrounds/{k:05d}.jpg")
    return root
