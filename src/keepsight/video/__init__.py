"""Frames in, results out: video files, image folders, cameras and streams; annotated video, files of boxes and masks.

Example::

    with open_source("clip.mp4") as frames, VideoWriter("out.mp4", fps=frames.fps) as video:
        for frame in frames:
            video.write(frame.image)

Reading keeps one frame in memory at a time. OpenCV and PyAV are imported when the first source or writer needs them.
"""

from .box_files import BOX_COLUMNS, BoxWriter, read_boxes
from .mask_files import MaskWriter
from .readers import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, read_image
from .source import FrameSource, open_source
from .writer import VideoWriter

__all__ = [
    "BOX_COLUMNS",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "BoxWriter",
    "Frame",
    "FrameSource",
    "MaskWriter",
    "VideoWriter",
    "open_source",
    "read_boxes",
    "read_image",
]
