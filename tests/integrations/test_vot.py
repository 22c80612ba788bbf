"""The VOT adapters: a TraX session played to the server's own process, trax's client against it, the in-process class."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import keepsight as ks
from keepsight.datasets.synthetic import ClipConfig, SyntheticClip
from keepsight.integrations import vot
from keepsight.regions import Mask, Polygon, Rectangle, Special
from keepsight.trackers.base import Outcome
from keepsight.video import read_image

SERVER = [sys.executable, "-m", "keepsight.integrations.vot", "--device", "cpu"]
needs_trax = pytest.mark.skipif(importlib.util.find_spec("trax") is None, reason="vot-trax is not installed")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], np.ndarray]:
    """Paths of four small frames, and the target's boxes (4, 4)."""
    folder = tmp_path_factory.mktemp("clip with blanks")
    synthetic = SyntheticClip(ClipConfig(seed=1, frames=40, size=(160, 120), object_size=0.3))
    paths = [folder / f"{i + 1:08d}.jpg" for i in range(4)]
    for path, frame in zip(paths, synthetic, strict=False):
        assert cv2.imwrite(str(path), frame.image[:, :, ::-1])
    return paths, synthetic.boxes[:4]


def environment() -> dict[str, str]:
    source = Path(ks.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"} | {"PYTHONUTF8": "1"}


def talk(lines: str) -> tuple[list[str], subprocess.CompletedProcess[str]]:
    """What the server says to ``lines``, and how it ended."""
    done = subprocess.run(SERVER, input=lines, capture_output=True, text=True, timeout=60, env=environment())
    return [line for line in done.stdout.splitlines() if line.startswith("@@TRAX:")], done


def words(line: str) -> tuple[str, list[str], dict[str, str]]:
    """A TraX line -> type, arguments, properties."""
    kind, _, rest = line.removeprefix("@@TRAX:").partition(" ")
    arguments, properties = [], {}
    for quoted in re.findall(r'"((?:[^"\\]|\\.)*)"', rest):
        key, equals, value = quoted.partition("=")
        if equals and re.fullmatch(r"[A-Za-z0-9._]{1,64}", key):
            properties[key] = value
        else:
            arguments.append(quoted)
    return kind, arguments, properties


def tracked(paths: list[Path], box: Any) -> list[tuple[float, ...]]:
    tracker = ks.load("dimp-lite", device="cpu")
    tracker.init(read_image(paths[0]), box=box)
    return [tuple(tracker.update(read_image(p)).box_unclipped) for p in paths[1:]]


# --- TraX: text in, text out --------------------------------------------------------------------------------------------


@needs_trax
def test_a_captured_session_gets_answers_of_the_same_form(
    golden: Path, clip: tuple[list[Path], np.ndarray], tmp_path: Path
) -> None:
    files = sorted((golden / "metrics" / "trax").glob("session_v4*.json"))
    if not files:
        pytest.skip(f"{golden} has no metrics/trax/session_v4*.json")
    session = json.loads(files[0].read_text())["session"]
    paths, _ = clip
    names: dict[str, Path] = {}

    def ours(match: re.Match[str]) -> str:  # the captured frames exist no more: others take their place
        return f"file://{names.setdefault(match[0], paths[len(names) % len(paths)])}"

    said = "".join(re.sub(r'file://[^"]+', ours, text) for who, text in session if who == "client")
    answers, done = talk(said)
    assert done.returncode == 0, done.stderr
    wanted = [words(text.strip()) for who, text in session if who == "server"]
    got = [words(line) for line in answers]
    assert [kind for kind, _, _ in got] == [kind for kind, _, _ in wanted]
    hello, golden_hello = got[0][2], wanted[0][2]
    assert set(golden_hello) - {"vot"} <= set(hello)  # "vot" marks the old wrapper, which made toolkits restart us
    assert "vot" not in hello
    assert hello["trax.version"] == golden_hello["trax.version"]
    for key in ("trax.image", "trax.region", "trax.channels"):
        assert set(golden_hello[key].split(";")) <= set(hello[key].split(";"))
    for (_, arguments, properties), (_, like, _) in zip(got[1:], wanted[1:], strict=True):
        assert len(arguments) == len(like) == 1
        assert re.fullmatch(r"-?\d+\.\d{4}(,-?\d+\.\d{4}){3}", arguments[0])
        assert set(properties) <= {"confidence"}
    assert got[1][1] == wanted[1][1]  # the first state is where the client says the target is
    assert all(0 <= float(p["confidence"]) <= 1 for kind, _, p in got[2:] if kind == "state")


@needs_trax
def test_a_bad_frame_ends_the_session_with_a_reason() -> None:
    answers, done = talk('@@TRAX:initialize "10,12,30,40"\n@@TRAX:frame "file:///nowhere/1.jpg"\n')
    reason = "image /nowhere/1.jpg cannot be read: no such file or directory"
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert words(answers[-1]) == ("quit", [], {"trax.reason": reason})


@needs_trax
def test_a_client_that_breaks_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import trax

    class BrokenOff:
        def __init__(self, *_: Any, multiobject: bool = False, **__: Any) -> None:
            assert multiobject

        def wait(self) -> None:
            raise trax.TraxException("Exception when waiting for command: Unknown")

    monkeypatch.setattr(vot, "load", lambda *_, **__: Recorder())
    monkeypatch.setattr(trax, "Server", BrokenOff)
    with pytest.raises(ks.InputError, match="broke off or said something that is not TraX 4"):
        vot.serve("dimp-lite")


# --- TraX: vot-trax's client --------------------------------------------------------------------------------------------


@contextmanager
def client() -> Iterator[Any]:
    from trax.client import Client

    process = subprocess.Popen(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # (without a log function, 4.0.2's client does not start)
        joined = Client(stream=(process.stdin.fileno(), process.stdout.fileno()), log=lambda text: None)
        yield joined
        joined.quit()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@needs_trax
def test_a_whole_session_with_every_kind_of_image_and_region(clip: tuple[list[Path], np.ndarray]) -> None:
    import trax

    paths, truth = clip
    file = lambda i: {"color": trax.FileImage.create(str(paths[i]))}  # noqa: E731
    x, y, w, h = (float(v) for v in truth[0])
    alone = tracked(paths, (x, y, w, h))
    with client() as server:
        assert server.tracker_name == "dimp-lite"
        assert set(server.image_formats) == {"path", "buffer"}
        assert server.get("multiobject") is True

        # one target; the same frames as files and as encoded data: boxes as of the tracker itself
        (state,), _ = server.initialize(file(0), [(trax.Rectangle.create(x, y, w, h), {})], {})
        assert state[0].bounds() == (x, y, w, h)
        ways = [
            file(1),
            {"color": trax.BufferImage.create(paths[2].read_bytes())},
            file(3),
        ]
        for image, wanted in zip(ways, alone, strict=True):
            ((region, properties),), _ = server.frame(image, {}, [])
            assert region.bounds() == pytest.approx(wanted, abs=1e-3)
            assert 0 < float(properties["confidence"]) <= 1

        # started again with a polygon and a mask, a third target comes later
        corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
        ones = np.ones((20, 31), np.uint8)
        both = [(trax.Polygon.create(corners), {}), (trax.Mask.create(ones, x=60, y=40), {})]
        states, _ = server.initialize(file(0), both, {})
        middle = (x + w / 2, y + h / 2)
        size = (w + 1, h + 1)  # spec §6: the published trackers' rule adds one pixel
        polygon_box = (middle[0] - size[0] / 2, middle[1] - size[1] / 2, *size)
        assert states[0][0].bounds() == pytest.approx(polygon_box, abs=1e-3)
        assert states[1][0].bounds() == (60, 40, 31, 20)
        states, _ = server.frame(file(1), {}, [(trax.Rectangle.create(5, 5, 40, 30), {})])
        assert states[2][0].bounds() == (5, 5, 40, 30)
        follow = ks.load("dimp-lite", device="cpu")
        follow.init(read_image(paths[0]), boxes=[polygon_box, (60, 40, 31, 20)])
        for got, wanted in zip(states[:2], follow.update_all(read_image(paths[1])), strict=True):
            assert got[0].bounds() == pytest.approx(wanted.box_unclipped, abs=1e-3)
        states, _ = server.frame(file(2), {}, [])
        assert len(states) == 3
        assert states[2][0].bounds() == pytest.approx(tracked(paths[1:3], (5, 5, 40, 30))[0], abs=1e-3)


# --- TraX: pieces in this process ---------------------------------------------------------------------------------------


class Recorder(ks.Tracker[Any]):
    """Keeps the frames that it is given; its targets stay where they are."""

    def __init__(self, mask: np.ndarray | None = None) -> None:
        super().__init__("recorder", torch.device("cpu"), 0)
        self.frames: list[np.ndarray] = []
        self.mask = mask

    def _start(self, frame: np.ndarray, boxes: list[ks.Box]) -> list[Any]:
        self.frames.append(frame)
        return list(boxes)

    def _advance(self, frame: np.ndarray, targets: list[Any]) -> list[Any]:
        self.frames.append(frame)
        return [
            Outcome((b.y + (b.h - 1) / 2, b.x + (b.w - 1) / 2), (b.h, b.w), 1.0, 0.25, "normal", False, "", self.mask)
            for b in targets
        ]

    def _identity(self) -> dict[str, Any]:
        return {}


class Painter(Recorder):
    """Makes masks; keeps those that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Any] = []

    @property
    def gives_masks(self) -> bool:
        return True

    def _start_with(self, frame: np.ndarray, boxes: list[ks.Box], masks: list[Any]) -> list[Any]:
        self.masks += masks
        self.mask = next((m for m in masks if m is not None), np.zeros(frame.shape[:2], bool))
        return list(boxes)


@pytest.fixture
def red_left(tmp_path: Path) -> Path:
    """A picture, red on the left and blue on the right, without loss."""
    picture = np.zeros((40, 60, 3), np.uint8)  # RGB
    picture[:, :30], picture[:, 30:] = (250, 0, 0), (0, 0, 240)
    assert cv2.imwrite(str(tmp_path / "red left.png"), picture[:, :, ::-1])
    return tmp_path / "red left.png"


@needs_trax
@pytest.mark.parametrize("way", ["path", "data"])
def test_colours_arrive_as_rgb(red_left: Path, way: str) -> None:
    import trax

    made = {
        "path": lambda: trax.FileImage.create(str(red_left)),
        "data": lambda: trax.BufferImage.create(red_left.read_bytes()),
    }[way]()
    pixels = vot._trax_image(trax, {"color": made})
    assert pixels[0, 0].tolist() == [250, 0, 0]
    assert pixels[0, -1].tolist() == [0, 0, 240]


@needs_trax
def test_bad_images_are_named() -> None:
    import trax

    with pytest.raises(ks.VideoError, match="image data in the TraX request cannot be decoded"):
        vot._trax_image(trax, {"color": trax.BufferImage.create(b"\xff\xd8\xff\xe0 no jpeg")})
    with pytest.raises(ks.InputError, match="no colour image"):
        vot._trax_image(trax, {})
    with pytest.raises(ks.InputError, match="kind 'url'"):
        vot._trax_image(trax, {"color": trax.URLImage.create("http://127.0.0.1/1.jpg")})


@needs_trax
def test_masks_go_in_and_out_over_trax(red_left: Path) -> None:
    import trax

    image = {"color": trax.FileImage.create(str(red_left))}
    targets = vot.Targets(Painter())
    given = trax.Mask.create(np.ones((6, 9), np.uint8), x=20, y=10)
    for kind, count in ((trax.TraxStatus.INITIALIZE, 1), (trax.TraxStatus.FRAME, 2)):
        states = vot._reply(trax, targets, SimpleNamespace(type=kind, image=image, objects=[(given, {})]))
        assert len(states) == count
        for region, _ in states:
            assert region.type == trax.Region.MASK
            assert (region.offset(), region.size()) == ((20, 10), (9, 6))


@needs_trax
def test_a_tracker_with_masks_answers_with_masks() -> None:
    import trax

    frame, mask = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), bool)
    mask[10:15, 20:50] = True
    tracker = Recorder(mask)
    tracker.init(frame, box=(1, 2, 30, 20))
    region = vot._trax_state(trax, tracker.update(frame))
    assert region.type == trax.Region.MASK
    assert (region.offset(), region.size()) == ((20, 10), (30, 5))
    assert region.array().all()
    tracker.mask = np.zeros((40, 60), bool)
    assert vot._trax_state(trax, tracker.update(frame)).bounds() == (0, 0, 0, 0)
    assert vot._trax_state(trax, tracker.update(frame)).type == trax.Region.RECTANGLE


def test_without_vot_trax_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    with pytest.raises(ks.InputError, match="pip install 'vot-trax>=4'"):
        vot.serve("dimp-lite")
    assert vot.main(["--tracker", "dimp-lite"]) == 2


def test_an_old_vot_trax_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        class Server:
            def __init__(self, region_formats: Any, image_formats: Any, customMetadata: Any = None) -> None: ...

    monkeypatch.setitem(sys.modules, "trax", Old)  # type: ignore[misc]
    with pytest.raises(ks.InputError, match="not vot-trax 4 or later"):
        vot.serve("dimp-lite")


# --- what both share ----------------------------------------------------------------------------------------------------


def test_regions_become_boxes_to_start_with() -> None:
    pixels = np.zeros((9, 9), bool)
    pixels[2:5, 3:8] = True
    assert vot.start_box(Rectangle(1, 2, 3, 4)) == (1, 2, 3, 4)
    assert vot.start_box(Mask(10, 20, pixels)) == (13, 22, 5, 3)
    diamond = vot.start_box(Polygon(np.array([[0, 10], [10, 0], [20, 10], [10, 20]])))
    side = 200**0.5 + 1  # half of the bounding box's area
    assert diamond == pytest.approx((10 - side / 2, 10 - side / 2, side, side))
    for nothing in (Mask(0, 0, np.zeros((4, 4), bool)), Special(0)):
        with pytest.raises(ks.InputError, match="no extent"):
            vot.start_box(nothing)


def test_targets_join_later_and_a_new_session_forgets_them() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    targets = vot.Targets(Recorder())
    assert targets.update(frame) == []
    for _ in range(2):
        targets.start(frame, [Rectangle(1, 1, 5, 5), Rectangle(2, 2, 6, 6)])
        targets.join(frame, [])
        targets.join(frame, [Rectangle(3, 3, 7, 7)])
        assert [r.box.x for r in targets.update(frame)] == [1, 2, 3]
    targets.start(frame, [Rectangle(4, 4, 8, 8)])
    assert [r.box.x for r in targets.update(frame)] == [4]


def test_trackers_of_masks_are_started_with_masks() -> None:
    frame, ones = np.zeros((40, 60, 3), np.uint8), np.ones((10, 20), bool)
    tracker = Painter()
    targets = vot.Targets(tracker)
    targets.start(frame, [Mask(30, 5, ones), Rectangle(1, 2, 8, 9)])
    targets.join(frame, [Mask(-5, 35, ones), Mask(50, -4, ones)])
    (whole, nothing), late = tracker.masks[:2], tracker.masks[2:]
    assert nothing is None
    assert (whole.shape, whole.sum(), whole[5:15, 30:50].all()) == ((40, 60), 200, True)
    assert (late[0].sum(), late[0][35:, :15].all()) == (75, True)  # what lies outside is left out
    assert (late[1].sum(), late[1][:6, 50:].all()) == (60, True)
    with pytest.raises(ks.InputError, match="no extent"):
        targets.start(frame, [Mask(0, 0, np.zeros((3, 3), bool))])
    with pytest.raises(ks.InputError, match=r"empty|outside"):
        targets.start(frame, [Mask(70, 50, ones)])


# --- the toolkit's in-process protocol ----------------------------------------------------------------------------------


def test_in_process_class_tracks_as_the_library_does(clip: tuple[list[Path], np.ndarray]) -> None:
    paths, truth = clip
    box = tuple(float(v) for v in truth[0])
    tracker = vot.VotTracker(tracker="dimp-lite", device="cpu", seed="0")  # as text, from trackers.ini
    assert tracker.multiobject is True
    assert tracker.init(str(paths[0]), [(box, {})], {}) == [(box, {})]
    for path, wanted in zip(paths[1:], tracked(paths, box), strict=True):
        ((got, properties),) = tracker.update(str(path), [], {})
        assert type(got) is tuple  # anything else is no rectangle to the toolkit
        assert all(type(v) is float for v in got)
        assert got == wanted
        assert 0 < properties["confidence"] <= 1


def test_in_process_class_takes_channels_polygons_masks_and_late_targets(
    red_left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(vot, "load", lambda *_, **__: recorder)
    tracker = vot.VotTracker()
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 10:40] = 1
    new = [([(0.0, 10.0), (10.0, 0.0), (20.0, 10.0), (10.0, 20.0)], {}), (mask, {})]
    (diamond, _), (rectangle, _) = tracker.init({"color": str(red_left), "depth": "x"}, new)
    assert diamond[2] == pytest.approx(200**0.5 + 1)
    assert rectangle == (10, 5, 30, 10)
    states = tracker.update(str(red_left), [((1.0, 2.0, 8.0, 9.0), {})])
    assert [dict(p) for _, p in states] == [{"confidence": 0.25}, {"confidence": 0.25}, {}]
    assert len(tracker.update(str(red_left))) == 3
    assert all(f[0, 0].tolist() == [250, 0, 0] for f in recorder.frames)


def test_in_process_class_answers_masks_with_masks(red_left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vot, "load", lambda *_, **__: Painter())
    tracker = vot.VotTracker()
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 10:40] = 1
    for _ in range(2):  # a new session forgets what kind its targets were
        (first, _), (box, _) = tracker.init(str(red_left), [(mask, {}), ((1.0, 2.0, 8.0, 9.0), {})])
        assert box == (1, 2, 8, 9)
        (state, properties), (other, _), (late, _) = tracker.update(str(red_left), [(mask, {})])
        for found in (first, state, late):
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, mask)
        assert properties == {"confidence": 0.25}
        assert len(other) == 4
        assert isinstance(tracker.update(str(red_left))[2][0], np.ndarray)


def test_in_process_class_raises_what_the_toolkit_passes_on(red_left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vot, "load", lambda *_, **__: Recorder())
    tracker = vot.VotTracker()
    box = ((1.0, 2.0, 8.0, 9.0), {})
    with pytest.raises(ValueError, match=r"none\.jpg cannot be read"):
        tracker.init(str(red_left.parent / "none.jpg"), [box])
    with pytest.raises(ValueError, match="gave no target"):
        tracker.init(str(red_left), [])
    with pytest.raises(ValueError, match="rectangle, a polygon or a mask"):
        tracker.init(str(red_left), [((5.0, 6.0), {})])
    with pytest.raises(ValueError, match="needs `color`"):
        tracker.init({"ir": "x"}, [box])
    with pytest.raises(ks.InputError, match="arg_seed = 'x'"):
        vot.VotTracker(seed="x")


# --- trackers.ini -------------------------------------------------------------------------------------------------------


def test_trackers_ini_reads_back_as_the_toolkit_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "50 % more.safetensors"
    text = vot.trackers_ini("Lite_1", "dimp-lite", weights) + vot.trackers_ini(
        "native", "dimp-lite", weights, protocol="python", device="cpu"
    )
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert parser["Lite_1"]["protocol"] == "trax"
    module = ["-m", "keepsight.integrations.vot"]
    command = [sys.executable, *module, "--tracker", "dimp-lite", "--weights", str(weights)]
    assert shlex.split(parser["Lite_1"]["command"]) == command
    native = parser["native"]
    name, _, attribute = native["command"].partition(":")
    assert getattr(sys.modules[name], attribute) is vot.VotTracker
    assert native["convert"] == "rectangle"
    options = {k.removeprefix("arg_"): v for k, v in native.items() if k.startswith("arg_")}
    assert options == {"tracker": "dimp-lite", "weights": str(weights), "device": "cpu"}

    both = vot.trackers_ini("Kept", "keeptrack", [weights, tmp_path / "b"])
    parser.read_string(both)
    words = shlex.split(parser["Kept"]["command"])
    assert words[-4:] == ["--weights", str(weights), "--weights", str(tmp_path / "b")]
    assert vot.main(["--print-trackers-ini", "--name", "Kept", *words[3:]]) == 0
    assert capsys.readouterr().out == both, "the command takes what it prints"
    with pytest.raises(ks.InputError, match="2 weights files, and protocol python takes one"):
        vot.trackers_ini("Kept", "keeptrack", [weights, tmp_path / "b"], protocol="python")

    assert vot.main(["--print-trackers-ini", "--name", "Lite_2"]) == 0
    parser.read_string(capsys.readouterr().out)
    assert shlex.split(parser["Lite_2"]["command"]) == [sys.executable, *module, "--tracker", "dimp-lite"]


def test_names_that_the_toolkit_refuses_are_refused_here() -> None:
    for name in ("", "a b", "a/b", "a@2"):
        with pytest.raises(ks.InputError, match="identifier"):
            vot.trackers_ini(name, "dimp-lite")
    assert vot.main(["--print-trackers-ini", "--name", "a b"]) == 2
