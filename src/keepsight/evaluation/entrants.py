"""One door for every tracker that is measured: ours, OpenCV's, and any class with got10k's interface.

Example::

    entrant = parse_entrant("opencv:KCF").open()
    entrant.init(frame, (10, 20, 30, 40), seed=0)
    entrant.update(frame).box

What a tracker is called:

========================================  ==================================================================================
``dimp-lite``, ``superdimp``              a tracker of this library with its own weights
``dimp18@random``, ``dimp18@FILE``        the same with random or other weights; ``FILE.safetensors`` says its tracker itself;
                                          the file of a second network is looked for beside FILE first
``opencv:CSRT`` ``KCF`` ``MIL``           OpenCV's (CSRT and KCF: its contrib build)
``opencv:Nano@FOLDER``                    OpenCV's NanoTrack with the two .onnx files in FOLDER
``python:package.module:Class``           a class with ``init(image, box)`` and ``update(image) -> box`` (got10k's interface)
``path/to/file.py:Class``                 the same from a file
``NAME=...``                              any of these under another name
========================================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, KeepsightError, nearest_names
from .guest import OPENCV_TRACKERS, GuestError, open_guest, receive, send

Box = tuple[float, float, float, float]


class TrackerError(KeepsightError, RuntimeError):
    """A tracker that is not ours raised an error or died."""


@dataclass(frozen=True)
class Answer:
    """What a tracker says about one frame."""

    box: Box
    """x, y, w, h in pixels; it may reach over the frame's border. Nan where the tracker gave none."""
    presence: float | None = None
    """Confidence that the target is in view, larger is surer; None from trackers that have none."""
    lost: bool | None = None
    """The tracker's own word that the target is absent; None from trackers that do not say."""
    mask: np.ndarray | None = None
    """(H, W) bool."""
    seconds: float | None = None
    """Time the tracker took, where the caller's clock would count more than that (another process)."""


class Entrant(ABC):
    """A tracker to be measured. ``init`` forgets everything before it, so sequences do not depend on their order."""

    name: str
    """What result folders and tables call it."""
    deterministic: bool = False
    """Equal input gives equal output, whatever the seed: one repetition tells everything."""
    gives_masks: bool = False
    """It answers with masks, and ``begin``, ``join`` and ``follow`` are there."""

    @abstractmethod
    def init(self, frame: np.ndarray, box: Box, *, seed: int = 0) -> float | None:
        """Begin with the target's ``box`` in ``frame``, RGB uint8 (H, W, 3); seconds if it knows better than the caller."""

    @abstractmethod
    def update(self, frame: np.ndarray) -> Answer:
        """The target in the next frame."""

    def begin(self, frame: np.ndarray, boxes: Sequence[Box], masks: Sequence[np.ndarray], *, seed: int = 0) -> None:
        """Begin with several objects by their boxes and their masks (H, W) bool."""
        raise InputError(f"{self.name} answers with boxes only")

    def join(self, frame: np.ndarray, boxes: Sequence[Box], masks: Sequence[np.ndarray]) -> None:
        """More objects, in the frame that was shown last."""
        raise InputError(f"{self.name} answers with boxes only")

    def follow(self, frame: np.ndarray) -> list[Answer]:
        """Every object in the next frame, in the order in which they came."""
        raise InputError(f"{self.name} answers with boxes only")

    def close(self) -> None:  # noqa: B027
        """Let go of other processes; the entrant may be started again."""


@dataclass(frozen=True)
class Description:
    """What must be known of a tracker before it runs."""

    deterministic: bool
    identity: Mapping[str, str]
    """What its results depend on: versions and sums of weights and code."""
    gives_masks: bool = False


@dataclass(frozen=True)
class EntrantSpec:
    """A tracker by its parts; travels to worker processes, where :meth:`open` makes the tracker."""

    name: str
    kind: str
    """``own``, ``opencv`` or ``python``."""
    target: str
    """Our name, OpenCV's name, or ``module:Class``."""
    weights: str | None = None
    """File, folder, or ``random``."""
    python: str | None = None
    """Interpreter to run it in; None: this one."""

    @property
    def text(self) -> str:
        """As it was given, without the name before ``=``."""
        prefix = "" if self.kind == "own" else f"{self.kind}:"
        return prefix + self.target + (f"@{self.weights}" if self.weights else "")

    def open(self, device: str = "cpu", seed: int = 0) -> Entrant:
        """The tracker itself. ``seed``: of random weights. Raises :class:`InputError` and :class:`WeightsError`."""
        if self.kind == "own":
            return OwnEntrant(self, device, seed)
        return RemoteEntrant(self) if self.python else GuestEntrant(self)

    def describe(self) -> Description:
        """Checks that the tracker can be had, as cheaply as that goes; raises what :meth:`open` raises."""
        if self.kind == "own":
            return Description(False, _own_identity(self), _own_gives_masks(self))
        entrant = RemoteEntrant(self) if self.python else GuestEntrant(self)
        try:
            return entrant.describe()
        finally:
            entrant.close()


def parse_entrants(text: str, python: str | None = None) -> tuple[EntrantSpec, ...]:
    """The trackers of a comma-separated list; raises :class:`InputError` if two have the same name."""
    specs = tuple(parse_entrant(part, python) for part in text.split(",") if part.strip())
    if not specs:
        raise InputError("no tracker is named; see keepsight.tracker_names(), e.g. dimp-lite")
    return distinct(specs)


def distinct(specs: Sequence[EntrantSpec]) -> tuple[EntrantSpec, ...]:
    """The same; raises :class:`InputError` if two have one name, as their results would mix."""
    names = [spec.name for spec in specs]
    for spec in specs:
        if names.count(spec.name) > 1:
            raise InputError(f"two trackers are called {spec.name!r}; rename one: NAME={spec.text}")
    return tuple(specs)


def parse_entrant(text: str, python: str | None = None) -> EntrantSpec:
    """One tracker by the names above; ``python``: interpreter for those that are not ours.

    Raises :class:`InputError` with the nearest names for one that is not known. Nothing is loaded yet.
    """
    text = text.strip()
    named = re.match(r"([\w.+-]+)=(.+)", text)
    spec = _parse(named[2] if named else text, python)
    return replace(spec, name=named[1]) if named else spec


def _parse(text: str, python: str | None) -> EntrantSpec:
    if python is not None and not Path(python).expanduser().is_file():
        raise InputError(f"there is no interpreter {python!r}; give a path such as other-environment/bin/python")
    if text.startswith("opencv:"):
        target, _, weights = text.removeprefix("opencv:").partition("@")
        if target not in OPENCV_TRACKERS:
            near = nearest_names(target, OPENCV_TRACKERS)
            raise InputError(f"no tracker {text!r}; {near} (after opencv:)")
        if python is None:
            _need_module("cv2", text)
        return EntrantSpec(f"opencv-{target}", "opencv", target, weights or None, python)
    if text.startswith("python:") or re.search(r"\.py:\w+$", text):
        target = text.removeprefix("python:")
        return EntrantSpec(target.rpartition(":")[2] or target, "python", target, None, python)
    return _parse_own(text)


def _parse_own(text: str) -> EntrantSpec:
    from ..trackers.registry import RANDOM, tracker_names

    if Path(text).suffix in (".safetensors", ".pth", ".tar", ".pt") and "@" not in Path(text).parts[0]:
        if not Path(text).expanduser().is_file():
            raise InputError(f"there is no weights file {text!r}; give a tracker's name or the path of its weights")
        return EntrantSpec(Path(text).name.split(".")[0], "own", text)
    target, _, weights = text.partition("@")
    if target not in tracker_names():
        known = [*tracker_names(), *(f"opencv:{n}" for n in OPENCV_TRACKERS)]
        raise InputError(f"no tracker {target!r}; {nearest_names(target, known)}; a class: python:package.module:Class")
    if not weights:
        return EntrantSpec(target, "own", target)
    label = RANDOM if weights == RANDOM else Path(weights).name.split(".")[0]
    return EntrantSpec(f"{target}@{label}", "own", target, weights)


def _need_module(name: str, wanted_by: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise InputError(f"{wanted_by} needs the module {name!r}; pip install opencv-python-headless")


# --- ours ---------------------------------------------------------------------------------------------------------------


class OwnEntrant(Entrant):
    """A tracker of this library; the network is loaded once."""

    def __init__(self, spec: EntrantSpec, device: str, seed: int) -> None:
        from ..trackers.registry import load

        self.name = spec.name
        self._tracker = load(spec.target, weights=spec.weights, device=device, seed=seed)
        self.gives_masks = self._tracker.gives_masks

    def init(self, frame: np.ndarray, box: Box, *, seed: int = 0) -> None:
        self._fresh(seed)
        self._tracker.init(frame, box=box)

    def update(self, frame: np.ndarray) -> Answer:
        return self.follow(frame)[0]

    def begin(self, frame: np.ndarray, boxes: Sequence[Box], masks: Sequence[np.ndarray], *, seed: int = 0) -> None:
        self._fresh(seed)
        self._tracker.init(frame, boxes=boxes, masks=masks)

    def join(self, frame: np.ndarray, boxes: Sequence[Box], masks: Sequence[np.ndarray]) -> None:
        self._tracker.add(frame, boxes=boxes, masks=masks)

    def follow(self, frame: np.ndarray) -> list[Answer]:
        # The unclipped box is what the published trackers write to their result files.
        return [
            Answer(r.box_unclipped, r.presence, r.status.value == "lost", r.mask)
            for r in self._tracker.update_all(frame)
        ]

    def _fresh(self, seed: int) -> None:
        self._tracker.reset()
        self._tracker.seed = seed


def _own_gives_masks(spec: EntrantSpec) -> bool:
    from ..trackers import registry

    known = spec.target in registry.tracker_names()
    return registry.gives_masks(spec.target if known else registry.tracker_of_weights(Path(spec.target).expanduser()))


def _own_identity(spec: EntrantSpec) -> dict[str, str]:
    """Sums of the weights and of the code that tracks, and the versions of what computes."""
    import cv2
    import torch

    from .. import __version__
    from ..online.presence import weights_sum
    from ..trackers.registry import RANDOM

    identity = {"keepsight": __version__, "code_sha256": tracking_code_sha256(), "torch": torch.__version__}
    identity |= {"numpy": np.__version__, "opencv": cv2.__version__}
    if spec.weights == RANDOM:
        return identity | {"weights_sha256": RANDOM}
    return identity | {"weights_sha256": weights_sum(*_weights_files(spec))}


def _weights_files(spec: EntrantSpec) -> tuple[Path, ...]:
    """Of all networks, as :func:`keepsight.load` finds them."""
    from ..trackers import registry

    if spec.weights is not None or spec.target not in registry.tracker_names():
        path = Path(spec.weights or spec.target).expanduser()
        if not path.is_file():
            raise InputError(f"there is no weights file {path}, which {spec.text} names; check the path")
    return registry.weights_files(spec.target, spec.weights)


def tracking_code_sha256() -> str:
    """16 hexadecimal digits of all our code that a tracker's boxes depend on (not of what scores or prints them)."""
    root = Path(__file__).parents[1]
    folders = ("models", "nn", "online", "trackers")
    files = [root / "boxes.py", root / "images.py", *(f for name in folders for f in (root / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in sorted(files):
        text = file.read_bytes().replace(b"\r\n", b"\n")
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(text).digest())
    return digest.hexdigest()[:16]


# --- others, in this process --------------------------------------------------------------------------------------------


class GuestEntrant(Entrant):
    """A tracker that is not ours, in this process."""

    def __init__(self, spec: EntrantSpec) -> None:
        self.name, self._spec = spec.name, spec
        try:
            with redirect_stdout(sys.stderr):  # what others print is not what the caller was asked for
                self._guest = open_guest(spec.kind, spec.target, spec.weights)
        except GuestError as error:
            raise InputError(str(error)) from error
        except (Exception, SystemExit) as error:  # a script that is no module ends its interpreter
            raise _failed(spec, "when it was made", error) from error
        self.deterministic = self._guest.deterministic

    def describe(self) -> Description:
        return Description(self._guest.deterministic, self._guest.identity)

    def init(self, frame: np.ndarray, box: Box, *, seed: int = 0) -> None:
        try:
            with redirect_stdout(sys.stderr):
                self._guest.init(frame, box, seed)
        except (Exception, SystemExit) as error:
            raise _failed(self._spec, "in init", error) from error

    def update(self, frame: np.ndarray) -> Answer:
        try:
            with redirect_stdout(sys.stderr):
                return _answer(self._guest.update(frame))
        except (Exception, SystemExit) as error:
            raise _failed(self._spec, "in update", error) from error


def _answer(said: Mapping[str, Any]) -> Answer:
    x, y, w, h = said["box"]
    return Answer((x, y, w, h), said["presence"], said["lost"], None, said.get("seconds"))


def _failed(spec: EntrantSpec, where: str, error: BaseException) -> TrackerError:
    if isinstance(error, GuestError):
        return TrackerError(str(error))
    return TrackerError(f"the tracker {spec.text} failed {where}: {type(error).__name__}: {error}")


# --- others, in another interpreter -------------------------------------------------------------------------------------


class RemoteEntrant(Entrant):
    """A tracker that is not ours, in the interpreter ``spec.python``; started when it is first needed, again if it died."""

    def __init__(self, spec: EntrantSpec) -> None:
        self.name, self._spec = spec.name, spec
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._about: dict[str, Any] = {}

    def describe(self) -> Description:
        said = self._ensure()
        return Description(said["deterministic"], said["identity"])

    def init(self, frame: np.ndarray, box: Box, *, seed: int = 0) -> float:
        self._ensure()
        return float(self._ask({"do": "init", "box": [float(v) for v in box], "seed": seed}, frame)["seconds"])

    def update(self, frame: np.ndarray) -> Answer:
        return _answer(self._ask({"do": "update"}, frame))

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._errors.close()
        self._process = None

    def _ensure(self) -> dict[str, Any]:
        """Start the process if there is none; what it says about its tracker."""
        if self._process is not None and self._process.poll() is None:
            return self._about
        self.close()
        script = str(Path(__file__).with_name("guest.py"))
        command = [str(Path(self._spec.python or "").expanduser()), script]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise InputError(f"{command[0]} cannot be started: {error.strerror or error}; see --python") from None
        weakref.finalize(self, _end, self._process)
        spec = self._spec
        request = {"do": "open", "kind": spec.kind, "target": spec.target, "weights": spec.weights}
        self._about = self._ask(request)
        self.deterministic = bool(self._about["deterministic"])
        return self._about

    def _ask(self, request: dict[str, Any], frame: np.ndarray | None = None) -> dict[str, Any]:
        if self._process is None:
            raise TrackerError(f"the tracker {self._spec.text} is not running; start it on a first frame")
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            if frame is None:
                send(requests, request)
            else:
                pixels = np.ascontiguousarray(frame)
                send(requests, {**request, "shape": list(pixels.shape)}, pixels.data.cast("B"))
            message = receive(answers)
        except OSError:
            message = None
        if message is None:
            raise TrackerError(self._obituary(request["do"]))
        header, _ = message
        if "error" in header:
            if header["input"] and request["do"] == "open":
                raise InputError(header["error"])
            raise TrackerError(
                f"the tracker {self._spec.text} failed in {request['do']}: {header['error']}{self._tail()}"
            )
        return header

    def _obituary(self, doing: str) -> str:
        """What is known of a process that has ended."""
        assert self._process is not None
        try:
            status: int | str = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            status = "unknown"
        text = f"the tracker {self._spec.text} died in {doing} (exit status {status}) under {self._spec.python}{self._tail()}"
        self.close()
        return text

    def _tail(self) -> str:
        """The last lines of its standard error."""
        self._errors.seek(0, 2)
        self._errors.seek(max(0, self._errors.tell() - 4000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-8:]
        return "".join(f"\n  | {line}" for line in lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its input, which ends it; kill it if it does not."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
