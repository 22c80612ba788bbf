"""Trackers that are not ours: OpenCV's, and any class with got10k's interface; in this process or in another interpreter.

This file needs numpy and what the tracker needs, nothing of keepsight: another interpreter runs it as a script and talks
with :mod:`.entrants` over two pipes. A message is the length of its header (4 bytes, big-endian), the header (JSON), and
``header["bytes"]`` bytes of a frame (RGB uint8, rows first).

    -> {"do": "open", "kind": "opencv", "target": "CSRT", "weights": null}      <- {"deterministic": true, "identity": {..}}
    -> {"do": "init", "shape": [H, W, 3], "box": [x, y, w, h], "seed": 7, "bytes": n}          <- {"seconds": 0.01}
    -> {"do": "update", "shape": [H, W, 3], "bytes": n}  <- {"box": [..], "presence": null, "lost": false, "seconds": 0.01}

What goes wrong is answered by ``{"error": text, "input": whether the caller can mend it}``; the end of the input ends it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import struct
import sys
import time
from pathlib import Path
from typing import IO, Any

OPENCV_TRACKERS = ("CSRT", "KCF", "MIL", "Nano")


class GuestError(Exception):
    """A tracker that cannot be had, or an answer that is none; the message says what to do."""


# --- the trackers -------------------------------------------------------------------------------------------------------


def open_guest(kind: str, target: str, weights: str | None) -> OpenCVGuest | PythonGuest:
    """``kind``: ``opencv`` (``target``: a name) or ``python`` (``target``: ``package.module:Class``, ``file.py:Class``)."""
    return OpenCVGuest(target, weights) if kind == "opencv" else PythonGuest(target)


class OpenCVGuest:
    """OpenCV's Tracker<target>. It takes whole pixels, and reports no box when it is lost: the last one is repeated."""

    def __init__(self, target: str, weights: str | None) -> None:
        import cv2

        if not hasattr(cv2, f"Tracker{target}"):
            has = ", ".join(sorted(n[7:] for n in dir(cv2) if re.fullmatch(r"Tracker[A-Za-z]+", n)))
            raise GuestError(
                f"OpenCV {cv2.__version__} under {sys.executable} has no tracker {target!r} (it has {has}); CSRT and KCF need "
                "opencv-contrib-python-headless in an environment of its own: --python ENVIRONMENT/bin/python"
            )
        self._files: tuple[Path, ...] = ()
        if target == "Nano":
            self._files = _nano_files(weights)
        elif weights is not None:
            raise GuestError(f"opencv:{target} takes no model files; leave {weights!r} out")
        self._cv2, self._target = cv2, target
        self._tracker: Any = None
        self._last: tuple[float, ...] = ()
        self.deterministic = target != "MIL"  # draws its features at random, by the clock: no seed makes it repeatable
        self.identity = {"opencv": cv2.__version__}
        if self._files:
            self.identity["weights_sha256"] = sha256_of(self._files)

    def init(self, frame: Any, box: tuple[float, ...], seed: int) -> None:
        cv2 = self._cv2
        cv2.setNumThreads(1)
        kind = getattr(cv2, f"Tracker{self._target}")
        if self._files:
            parameters = cv2.TrackerNano_Params()
            parameters.backbone, parameters.neckhead = map(str, self._files)
            cv2.utils.logging.setLogLevel(
                cv2.utils.logging.LOG_LEVEL_ERROR
            )  # it warns about its back end at every start
            self._tracker = kind.create(parameters)
        else:
            self._tracker = kind.create()
        x, y, w, h = (round(float(v)) for v in box)
        self._last = (x, y, max(w, 1), max(h, 1))
        self._tracker.init(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), self._last)

    def update(self, frame: Any) -> dict[str, Any]:
        found, box = self._tracker.update(self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2BGR))
        self._last = tuple(box) if found else self._last
        presence = float(self._tracker.getTrackingScore()) if self._target == "Nano" else None
        return {"box": [float(v) for v in self._last], "presence": presence, "lost": not found}


def _nano_files(folder: str | None) -> tuple[Path, ...]:
    """Backbone and head."""
    hint = "give the folder with its two files: opencv:Nano@FOLDER (*backbone*.onnx and *head*.onnx)"
    if folder is None:
        raise GuestError(f"opencv:Nano needs model files; {hint}")
    files = [sorted(Path(folder).expanduser().glob(f"*{part}*.onnx")) for part in ("backbone", "head")]
    if not all(files):
        raise GuestError(f"{folder} lacks the model files of opencv:Nano; {hint}")
    return tuple(found[0] for found in files)


class PythonGuest:
    """A class with got10k's interface: ``init(PIL RGB image, box)``, ``update(image) -> box``; made once, used again."""

    def __init__(self, target: str) -> None:
        kind, source = _load_class(target)
        missing = [verb for verb in ("init", "update") if not callable(getattr(kind, verb, None))]
        if missing:
            raise GuestError(
                f"{target} has no {' and no '.join(missing)}; a tracker class has init(image, box) and update(image) -> box, "
                "images are PIL RGB, boxes x, y, w, h"
            )
        self._tracker, self._target = kind(), target
        self.deterministic = bool(getattr(self._tracker, "is_deterministic", False))
        self.identity = {"source_sha256": sha256_of((source,))} if source else {}

    def init(self, frame: Any, box: tuple[float, ...], seed: int) -> None:
        import numpy as np
        from PIL import Image

        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(seed)
        self._tracker.init(Image.fromarray(frame), np.array(box, dtype=np.float64))

    def update(self, frame: Any) -> dict[str, Any]:
        import numpy as np
        from PIL import Image

        said = self._tracker.update(Image.fromarray(frame))
        try:
            values = np.asarray(said, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.size != 4 or 4 not in values.shape:  # (2, 2) would be two points, or anything
            raise GuestError(f"{self._target}.update returned {str(said)[:80]!r}; expected four numbers x, y, w, h")
        return {"box": values.ravel().tolist(), "presence": None, "lost": None}


def _load_class(target: str) -> tuple[Any, Path | None]:
    """The class, and the file that it stands in."""
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise GuestError(f"python:{target} names no class; give python:package.module:Class or path/to/file.py:Class")
    try:
        if place.endswith(".py"):
            path = Path(place).expanduser().resolve()
            if str(path.parent) not in sys.path:
                sys.path.append(str(path.parent))  # for what the file imports from beside it
            spec = importlib.util.spec_from_file_location(f"tracker_file_{path.stem}", path)  # hides no other module
            if spec is None or spec.loader is None or not path.is_file():
                raise GuestError(f"there is no file {path}; give path/to/file.py:Class")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look there
            spec.loader.exec_module(module)
        else:
            if os.getcwd() not in sys.path:
                sys.path.append(os.getcwd())
            module = importlib.import_module(place)
    except ImportError as error:
        raise GuestError(
            f"{target} cannot be imported under {sys.executable}: {error}; install what it needs there, or name another "
            "interpreter with --python"
        ) from error
    if not hasattr(module, name):
        raise GuestError(f"{place} has no {name!r}; give the tracker's class after the colon")
    file = getattr(module, "__file__", None)
    return getattr(module, name), None if file is None else Path(file)


def sha256_of(files: tuple[Path, ...]) -> str:
    """16 hexadecimal digits of the files' contents, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


# --- the messages -------------------------------------------------------------------------------------------------------


def send(stream: IO[bytes], header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """One message; ``payload`` is a frame's bytes."""
    text = json.dumps({**header, "bytes": len(payload)}).encode()
    stream.write(struct.pack(">I", len(text)) + text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """One message; None when the other side has ended, also in the middle of one."""
    size = _exactly(stream, 4)
    text = _exactly(stream, struct.unpack(">I", size)[0]) if size is not None else None
    if text is None:
        return None
    header = json.loads(text)
    payload = _exactly(stream, header.pop("bytes"))
    return None if payload is None else (header, payload)


def _exactly(stream: IO[bytes], count: int) -> bytes | None:
    data = stream.read(count)
    return data if len(data) == count else None


# --- the other interpreter ----------------------------------------------------------------------------------------------


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the input ends."""
    guest: Any = None
    while (message := receive(requests)) is not None:
        header, payload = message
        try:
            if header["do"] == "open":
                guest = open_guest(header["kind"], header["target"], header["weights"])
                answer = {"deterministic": guest.deterministic, "identity": guest.identity}
            else:
                answer = _act(guest, header, payload)
        except GuestError as error:
            answer = {"error": str(error), "input": True}
        except Exception as error:
            import traceback

            traceback.print_exc()  # to standard error, whose end the other side shows
            answer = {"error": f"{type(error).__name__}: {error}", "input": False}
        send(answers, answer)


def _act(guest: Any, header: dict[str, Any], payload: bytes) -> dict[str, Any]:
    import numpy as np

    frame = np.frombuffer(payload, np.uint8).reshape(header["shape"]).copy()  # (H, W, 3), writable
    start = time.perf_counter()
    if header["do"] == "init":
        guest.init(frame, tuple(header["box"]), header["seed"])
        answer: dict[str, Any] = {}
    else:
        answer = guest.update(frame)
    return {**answer, "seconds": time.perf_counter() - start}


def main() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the other side decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the tracker prints must not come between the messages
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # the other side was killed
        os._exit(1)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # this file's neighbours are no modules of the tracker's
    main()
