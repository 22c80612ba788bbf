"""Tiny copies of the box data sets in their official layouts.

A picture is one grey that tells its file number; box row i (from 0) is (i + 1, 2, 10, 8). Of long sequences only the
first and last two pictures are made: nothing may look at the others.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from keepsight.datasets.lists import frame_ranges

WIDTH, HEIGHT = 24, 16


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    good, data = cv2.imencode(path.suffix, np.full((HEIGHT, WIDTH, 3), grey(number), np.uint8))
    assert good
    path.write_bytes(data.tobytes())


def grey(number: int) -> int:
    return number % 251


def pictures(folder: Path, first: int, last: int, digits: int, suffix: str = ".jpg", every: bool = False) -> None:
    wanted = range(first, last + 1)
    for number in wanted if every or len(wanted) < 5 else [first, first + 1, last - 1, last]:
        picture(folder / f"{number:0{digits}d}{suffix}", number)


def boxes(count: int) -> np.ndarray:
    return np.array([(i + 1, 2, 10, 8) for i in range(count)], np.float64)


def write(path: Path, rows: np.ndarray | list, separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(f"{v:g}" for v in row) + "\n" for row in np.atleast_2d(rows)))


def otb(root: Path, names: tuple[str, ...], separator: str = ",") -> Path:
    for r in frame_ranges("otb100"):
        if r.name in names:
            pictures(root / r.path, r.first_frame, r.last_frame, r.digits, f".{r.extension}")
            write(root / r.annotation, boxes(len(r)), separator)
    return root


def nfs(root: Path, names: tuple[str, ...]) -> Path:
    for r in frame_ranges("nfs30"):
        if r.name in names:
            pictures(root / r.path, 1, r.last_frame, 5)
            write(root / r.annotation, boxes(len(r)), "\t")
    return root


def nfs_distributed(root: Path, name: str, images: int, lines: int) -> Path:
    folder = root / name / "30"
    pictures(folder / name, 1, images, 5, every=True)
    rows = [f'0 {k} 2 {k + 10} 10 {k} 0 0 {int(k % 8 != 0)} "the ball"' for k in range(lines)]
    (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return root


def uav(root: Path, names: tuple[str, ...]) -> Path:
    for r in frame_ranges("uav123"):
        if r.name in names:
            pictures(root / r.path, r.first_frame, r.last_frame, r.digits)
            rows = boxes(len(r))
            rows[1] = np.nan
            write(root / r.annotation, rows)
    return root


def lasot(root: Path, names: tuple[str, ...], frames: int = 4, flat: bool = False) -> Path:
    for name in names:
        folder = root / name if flat else root / name.rpartition("-")[0] / name
        pictures(folder / "img", 1, frames, 8)
        rows = boxes(frames)
        rows[2] = 0
        write(folder / "groundtruth.txt", rows)
        (folder / "full_occlusion.txt").write_text(",".join("001" + "0" * (frames - 3)))
        (folder / "out_of_view.txt").write_text(",".join("0" * (frames - 1) + "1") + "\n")
    return root


def trackingnet(root: Path, part: str, name: str, frames: int, rows: int) -> Path:
    pictures(root / part / "frames" / name, 0, frames - 1, 1, every=True)
    write(root / part / f"anno/{name}.txt", boxes(rows))
    return root


def got10k(root: Path, subset: str, count: int, frames: int = 4) -> Path:
    names = [f"GOT-10k_{subset.capitalize()}_{i:06d}" for i in range(1, count + 1)]
    (root / subset).mkdir(parents=True, exist_ok=True)
    (root / subset / "list.txt").write_text("\n".join(names) + "\n")
    for name in names:
        folder = root / subset / name
        pictures(folder, 1, frames, 8)
        (folder / "meta_info.ini").write_text(f"[METAINFO]\nurl: x\nresolution: ({WIDTH}, {HEIGHT})\nclass: dog\n")
        if subset == "test":
            write(folder / "groundtruth.txt", boxes(1))
            continue
        write(folder / "groundtruth.txt", boxes(frames))
        labels = {
            "absence": "01" + "0" * (frames - 2),
            "cover": "80" + "7" * (frames - 2),
            "cut_by_image": "1" * frames,
        }
        for label, values in labels.items():
            (folder / f"{label}.label").write_text("\n".join(values) + "\n")
    return root


def own(root: Path, name: str, frames: int = 4, images: str = "img", rows: np.ndarray | None = None) -> Path:
    pictures(root / name / images, 1, frames, 5, every=True)
    write(root / name / "groundtruth.txt", boxes(frames) if rows is None else rows)
    return root
