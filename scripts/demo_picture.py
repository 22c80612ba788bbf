"""Make ``docs/demo.png``, the README's picture, from what ``keepsight demo`` wrote.

keepsight demo && python scripts/demo_picture.py keepsight-demo docs/demo.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from keepsight.video import open_source, read_boxes

FRAMES = (20, 62, 108)  # in the open, behind the post, beside the look-alike
WIDTH, HEIGHT = 320, 240  # of one panel, a piece of the frame around the target


def main(folder: str, out: str) -> None:
    truth = read_boxes(Path(folder, "clip", "groundtruth.txt"))  # (N, 4)
    panels = []
    with open_source(Path(folder, "tracked.mp4")) as source:
        for frame in source:
            if frame.index in FRAMES:
                x, y, w, h = truth[frame.index]
                left = int(np.clip(x + w / 2 - WIDTH / 2, 0, source.size[0] - WIDTH))
                top = int(np.clip(y + h / 2 - HEIGHT / 2, 0, source.size[1] - HEIGHT))
                smooth = cv2.bilateralFilter(frame.image, 5, 25, 2)  # noise would make the file large
                panels.append(smooth[top : top + HEIGHT, left : left + WIDTH])
    strip = np.hstack([np.pad(p, ((0, 0), (0, 4), (0, 0)), constant_values=255) for p in panels])[:, :-4]
    few = np.clip((strip.astype(np.int32) + 4) // 8 * 8, 0, 255).astype(np.uint8)  # (H, W, 3), fewer levels: smaller
    cv2.imwrite(out, few[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
