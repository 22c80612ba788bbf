"""What may happen in a synthetic video of :mod:`.composite`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..errors import InputError

Range = tuple[float, float]


@dataclass(frozen=True)
class CompositeConfig:
    """What may happen in a video. A range is (lowest, highest); of every range one value is drawn for each video, unless
    the field says otherwise. *Side* is the square root of a box's area; chances are in 0..1."""

    frames: int = 60
    """Number of frames."""
    sizes: tuple[tuple[int, int], ...] = ((400, 300), (400, 224), (320, 240), (300, 400))
    """(width, height) of the frames; one is drawn for each video. Each at least 32."""

    # --- the target
    side: Range = (0.05, 0.5)
    """The target's side at first, as a share of the frame's (the square root of its area); drawn evenly in its logarithm."""
    enlarge: float = 1.3
    """Largest factor by which an object is enlarged at first; sources are asked for objects that are large enough."""
    scale_range: Range = (0.55, 1.8)
    """Smallest and largest scale relative to the first frame."""
    scale_speed: Range = (0.0, 0.03)
    """Standard deviation of the change of scale, relative, per frame; drawn with more weight on slow."""
    aspect: float = 0.12
    """Standard deviation of the change of the logarithm of width : height, as of an object that turns away."""
    tilt: float = 8.0
    """Standard deviation of the angle in the first frame, degrees."""
    turn: Range = (0.0, 1.5)
    """Standard deviation of the change of angle, degrees per frame; drawn with more weight on slow."""
    spin: float = 0.05
    """Chance that the object turns round and round, up to 12 degrees per frame."""
    deformation: Range = (0.0, 0.05)
    """Amplitude of a slow wave through the object, as a share of its shorter side; at most 0.15."""
    mirror: float = 0.5
    """Chance that an object, or the background, is shown mirrored."""
    speed: Range = (0.005, 0.18)
    """Way per frame in sides; drawn evenly in its logarithm, it changes along the path."""
    sudden: Range = (0.0, 0.3)
    """Chance, at each turn of the path, of a jump of 2 to 5 frames."""
    sudden_speed: Range = (0.25, 0.8)
    """Way per frame in such a jump, in sides; drawn for each jump."""

    # --- the camera
    magnify: Range = (1.05, 1.6)
    """How much more of the photograph there is than the frame shows; 1: as much of it as fits is seen."""
    pan: Range = (0.0, 0.012)
    """Way of the camera over the background per frame, as a share of the frame's side; drawn with more weight on slow."""
    follow: Range = (0.0, 1.0)
    """Share of the pan that the objects do not take part in: 1 is a camera that follows the object, 0 one that passes it."""
    zoom: Range = (0.0, 0.006)
    """Standard deviation of the change of zoom, relative, per frame; drawn with more weight on little."""
    roll: Range = (0.0, 0.3)
    """Standard deviation of the change of the camera's angle, degrees per frame; drawn with more weight on little."""
    shake: Range = (0.0, 0.012)
    """Standard deviation of the camera's shake, as a share of the frame's side; drawn with more weight on little."""

    # --- light
    gain: Range = (0.0, 0.3)
    """Standard deviation of the logarithm of brightness along the video; drawn with more weight on little."""
    gamma: float = 0.12
    """Standard deviation of the logarithm of the exponent that bends the grey levels."""
    cast: float = 0.05
    """Standard deviation of the logarithm of each colour's brightness."""
    shade: float = 0.25
    """Chance of a soft shadow that wanders over the picture."""
    shade_depth: Range = (0.2, 0.6)
    """How much of the light it takes."""
    drop_shadow: float = 0.35
    """Chance that objects throw a soft shadow on the background."""
    harmony: Range = (0.0, 0.5)
    """Share of the way by which an object's brightness and contrast, and by half of it its colour, approach the background's."""
    recolour: float = 0.15
    """Chance that an object gets other colours."""
    retexture: float = 0.08
    """Chance that a background is printed on the object."""

    # --- the lens
    defocus: Range = (0.0, 1.6)
    """Standard deviation of the lens blur, pixels; changes along the video, mostly small."""
    shutter: Range = (0.0, 0.9)
    """Share of the time between two frames in which light is collected: motion blur."""
    noise: Range = (0.0, 8.0)
    """Standard deviation of the sensor noise, grey levels; drawn with more weight on little."""
    jpeg: float = 0.5
    """Chance of compression."""
    jpeg_quality: tuple[int, int] = (30, 90)
    """JPEG quality, lowest and highest, 1..100."""

    # --- other things
    distractors: tuple[float, ...] = (0.35, 0.35, 0.2, 0.1)
    """Chances, up to a common factor, of 0, 1, 2, .. other objects that are not the target."""
    same: float = 0.4
    """Chance that a distractor is the target's own cut-out again, with other colours or proportions."""
    kindred: float = 0.35
    """Chance that it is another object of the same label, where the source has one; otherwise it is any object."""
    meeting: float = 0.6
    """Chance that a distractor comes close to the target once."""
    meeting_gap: Range = (0.35, 1.3)
    """Distance of the centres then, in sides of the target; below about 1 they overlap. Drawn for each distractor."""
    occluders: tuple[float, ...] = (0.55, 0.33, 0.12)
    """Chances, up to a common factor, of 0, 1, 2, .. things that pass in front of the target."""
    bars: float = 0.4
    """Chance that such a thing is a post, as wide as 0.3 to 1.2 sides of the target; otherwise a cut-out object."""
    passing: tuple[int, int] = (5, 30)
    """Frames that it takes to pass; drawn for each."""
    leave: float = 0.2
    """Chance that the target leaves the frame and returns."""
    away: tuple[int, int] = (3, 15)
    """Frames that it stays away."""
    in_view: float = 0.2
    """Share of the target that must be seen for a frame to count as one where the target is in view."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise InputError(f"frames is {self.frames}; give at least 1")
        if not self.sizes or any(len(size) != 2 or min(size) < 32 for size in self.sizes):
            raise InputError(f"sizes is {self.sizes}; give (width, height) pairs of at least 32×32 pixels")
        for name in _pairs(self):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise InputError(f"{name} is {(low, high)}; give (lowest, highest), not below 0")
        for name in ("side", "scale_range", "speed", "magnify"):
            if not getattr(self, name)[0] > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name, most in (
            ("side", 1.0),
            ("deformation", 0.15),
            ("follow", 1.0),
            ("shutter", 1.0),
            ("jpeg_quality", 100),
        ):
            if getattr(self, name)[1] > most:
                raise InputError(f"{name} is {getattr(self, name)}; give at most {most}")
        for name in ("sudden", "harmony", "shade_depth"):
            if getattr(self, name)[1] > 1:
                raise InputError(f"{name} is {getattr(self, name)}; give shares in 0..1")
        low, high = self.scale_range
        if not low <= 1 <= high:
            raise InputError(f"scale_range is {self.scale_range}; the first frame has scale 1, which must lie within")
        if self.magnify[0] < 1 or self.enlarge <= 0 or self.jpeg_quality[0] < 1:
            raise InputError(
                f"magnify is {self.magnify}, enlarge {self.enlarge}, jpeg_quality {self.jpeg_quality}; give a magnify of at "
                "least 1, an enlarge above 0 and a quality of at least 1"
            )
        for name in ("spin", "mirror", "shade", "drop_shadow", "recolour", "retexture", "jpeg", "same", "kindred"):
            _check_chance(name, getattr(self, name))
        for name in ("meeting", "bars", "leave", "in_view"):
            _check_chance(name, getattr(self, name))
        for name in ("aspect", "tilt", "gamma", "cast"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in ("distractors", "occluders"):
            chances = getattr(self, name)
            if not chances or min(chances) < 0 or not 0 < sum(chances) < math.inf:
                raise InputError(f"{name} is {chances}; give the chance of none, of one, ..; not all 0")
        if len(self.distractors) > 100:
            raise InputError(
                f"distractors allows {len(self.distractors) - 1}; a mask has room for 99 besides the target"
            )


def _pairs(config: CompositeConfig) -> list[str]:
    """Fields whose value is a pair of numbers."""
    return [
        f.name
        for f in fields(config)
        if f.name not in ("sizes", "distractors", "occluders") and isinstance(f.default, tuple)
    ]


def _check_chance(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} is {value}; give a chance in 0..1")
