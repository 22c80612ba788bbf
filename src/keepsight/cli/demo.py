"""``keepsight demo``: a synthetic clip with exact ground truth, tracked and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, VideoError
from .console import say, tell
from .outputs import given, make_folder
from .progress import Progress
from .track import one_thread

if TYPE_CHECKING:
    from . import Demo


def demo(command: Demo) -> int:
    from ..datasets.synthetic import render_clip
    from ..draw import draw_results
    from ..evaluation.metrics import mean_iou, success_auc
    from ..trackers.registry import load
    from ..video import BoxWriter, VideoWriter

    if command.frames < 2:
        raise InputError(f"--frames is {command.frames}; give at least 2, the first one shows the target")
    tracker = load(command.tracker)
    clip = render_clip(frames=command.frames)
    folder = make_folder(command.out)
    sequence = make_folder(str(folder / "clip"))  # laid out as one's own data is: `keepsight eval` takes the folder
    width, height = clip.size
    tell(f"rendering and tracking {len(clip)} frames of {width}×{height} with {tracker.name} ...")
    tracked, milliseconds = [], 0.0
    with (
        one_thread(tracker),
        VideoWriter(sequence / "video.mp4", clip.fps) as plain,
        VideoWriter(folder / "tracked.mp4", clip.fps) as video,
        BoxWriter(folder / "boxes.csv") as boxes,
        Progress(len(clip)) as progress,
    ):
        for frame in clip:
            plain.write(frame.image)
            if frame.index == 0:
                tracker.init(frame.image, frame.box)
                result = given(frame.box)
                boxes.write_init(0, 0, frame.box)
            else:
                result = tracker.update(frame.image)
                boxes.write(frame.index, 0, result)
                progress.advance([result])
            milliseconds += result.milliseconds
            tracked.append(result.box)
            video.write(draw_results(frame.image, [result], labels=["target"], truths=[frame.box]))
    truth = sequence / "groundtruth.txt"
    _write_text(truth, "".join(f"{x:g},{y:g},{w:g},{h:g}\n" for x, y, w, h in clip.boxes))
    auc, overlap = (measure(tracked[1:], clip.boxes[1:]) for measure in (success_auc, mean_iou))
    rate = 1000 * (len(clip) - 1) / milliseconds
    say(f"success AUC {auc:.3f}, mean overlap {overlap:.3f} over {len(clip) - 1} frames (exact ground truth)")
    say(f"{rate:.1f} frames/s on {tracker.device} (tracker alone: without rendering and writing)")
    say(f"{video.path}   tracked box in colour, ground truth in white")
    say(f"{boxes.path}   one row per frame")
    say(f"{truth}   ground truth, x,y,w,h")
    say(f"{plain.path}   the clip itself; the same by hand:")
    x, y, w, h = clip.boxes[0]
    say(f"  keepsight track {plain.path} --box {x:g},{y:g},{w:g},{h:g} --save out.mp4")
    return 0


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VideoError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None
