"""Every tracker through one door: ours, OpenCV's, got10k's interface, other interpreters."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from running import pictures, tracker
from small import matcher_file

from keepsight.errors import InputError, WeightsError
from keepsight.evaluation.entrants import TrackerError, parse_entrant, parse_entrants, tracking_code_sha256
from keepsight.online.presence import read_calibration
from keepsight.weights import find_weights

BOX = (4.0, 16.0, 14.0, 14.0)


@pytest.mark.parametrize(
    ("text", "name", "kind", "target", "weights"),
    [
        ("dimp-lite", "dimp-lite", "own", "dimp-lite", None),
        ("dimp18@random", "dimp18@random", "own", "dimp18", "random"),
        ("dimp18@a/b/mine.pth.tar", "dimp18@mine", "own", "dimp18", "a/b/mine.pth.tar"),
        ("opencv:MIL", "opencv-MIL", "opencv", "MIL", None),
        ("opencv:Nano@some/folder", "opencv-Nano", "opencv", "Nano", "some/folder"),
        ("python:package.module:Class", "Class", "python", "package.module:Class", None),
        ("some/file.py:Class", "Class", "python", "some/file.py:Class", None),
        ("other=dimp-lite", "other", "own", "dimp-lite", None),
    ],
)
def test_names(text, name, kind, target, weights):
    spec = parse_entrant(text)
    assert (spec.name, spec.kind, spec.target, spec.weights) == (name, kind, target, weights)
    assert parse_entrant(spec.text).target == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimp-light", "did you mean 'dimp-lite'"),
        ("CSRT", "opencv:CSRT"),
        ("opencv:CRST", "did you mean 'CSRT'"),
        ("nowhere/file.safetensors", "no weights file"),
        ("", "no tracker"),
    ],
)
def test_unknown_names(text, message):
    with pytest.raises(InputError, match=message):
        parse_entrants(text)


def test_two_of_one_name_are_refused():
    with pytest.raises(InputError, match="rename one"):
        parse_entrants("dimp-lite, dimp-lite")
    assert [s.name for s in parse_entrants("dimp-lite, b=dimp-lite")] == ["dimp-lite", "b"]


def test_own_trackers_are_described_without_loading():
    spec = parse_entrant("dimp-lite")
    identity = spec.describe().identity
    assert len(identity["weights_sha256"]) == 16
    assert identity["code_sha256"] == tracking_code_sha256()
    assert parse_entrant("dimp18@random").describe().identity["weights_sha256"] == "random"
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        parse_entrant("dimp18@nowhere.pth").describe()


def test_the_sum_of_one_network_is_what_it_was():
    """The packaged calibration, and results that are stored, name it so."""
    file = find_weights("dimp-lite")
    fitted = read_calibration(file.with_name("dimp-lite.presence.json")).weights_sha256
    for text in ("dimp-lite", f"dimp-lite@{file}", str(file)):
        assert parse_entrant(text).describe().identity["weights_sha256"] == fitted


def test_results_depend_on_both_networks(tmp_path):
    def said(text):
        return parse_entrant(text).describe().identity["weights_sha256"]

    matcher = matcher_file(tmp_path / "m" / "keeptrack-lite.safetensors", seed=0)
    first = said(f"keeptrack-lite@{matcher}")
    assert said(str(matcher)) == first, "the same files"
    assert first not in (said("dimp-lite"), said("keeptrack-lite"))
    matcher_file(matcher, seed=1)
    assert said(str(matcher)) != first
    matcher_file(matcher, seed=0)
    assert said(str(matcher)) == first
    base = tmp_path / "other" / "base.safetensors"
    base.parent.mkdir()
    base.write_bytes(find_weights("dimp-lite").read_bytes())
    assert said(f"keeptrack-lite@{base}") == said("keeptrack-lite"), "the matcher is in the package"
    matcher_file(base.with_name("keeptrack-lite.safetensors"), seed=0)
    assert said(f"keeptrack-lite@{base}") == first, "now one lies beside it"


def test_own_without_weights_says_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("KEEPSIGHT_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="convert"):
        parse_entrant("prdimp50").describe()


def test_own_tracker_does_not_remember_earlier_sequences():
    frames, boxes = pictures(4)
    entrant = parse_entrant("dimp-lite").open()

    def answers(seed):
        entrant.init(frames[0], tuple(boxes[0]), seed=seed)
        return [entrant.update(f).box for f in frames[1:]]

    first = answers(1)
    answers(2)
    assert answers(1) == first
    assert entrant.update(frames[0]).lost in (True, False)
    assert 0 <= entrant.update(frames[0]).presence <= 1


def follow(entrant, seed=0):
    frames, _ = pictures(5)
    entrant.init(frames[0], BOX, seed=seed)
    return [entrant.update(frame) for frame in frames[1:]]


def test_opencv():
    spec = parse_entrant("opencv:MIL")
    said = spec.describe()
    assert not said.deterministic
    assert "opencv" in said.identity
    answers = follow(spec.open())
    assert answers[0].lost is False
    assert all(0 <= a.box[0] < 64 and a.box[2] == 14 for a in answers)


def test_opencv_without_contrib_names_the_way_out():
    import cv2

    if hasattr(cv2, "TrackerCSRT"):
        pytest.skip("this OpenCV has CSRT")
    with pytest.raises(InputError, match="--python"):
        parse_entrant("opencv:CSRT").open()


def test_nano_needs_its_files(tmp_path):
    with pytest.raises(InputError, match="opencv:Nano@FOLDER"):
        parse_entrant("opencv:Nano").describe()
    with pytest.raises(InputError, match="lacks the model files"):
        parse_entrant(f"opencv:Nano@{tmp_path}").describe()


def test_a_class_with_got10ks_interface():
    spec = parse_entrant(tracker("Jitter"))
    said = spec.describe()
    assert not said.deterministic
    assert len(said.identity["source_sha256"]) == 16
    boxes = [a.box for a in follow(spec.open(), 5)]
    assert boxes == [a.box for a in follow(spec.open(), 5)]
    assert boxes != [a.box for a in follow(spec.open(), 6)]
    assert parse_entrant(tracker("Still")).describe().deterministic


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (tracker("NoTracker"), "no init and no update"),
        (tracker("Absent"), "has no 'Absent'"),
        ("python:no.such.module:X", "cannot be imported"),
        ("nowhere/file.py:X", "no file"),
        ("python:json", "names no class"),
    ],
)
@pytest.mark.parametrize("python", [None, sys.executable])
def test_classes_that_cannot_be_used(name, message, python):
    if python and "NoTracker" not in name:
        pytest.skip("one is enough for the other interpreter")
    with pytest.raises(InputError, match=message):
        parse_entrant(name, python).describe()


def test_wrong_answers_and_errors_are_named():
    frames, _ = pictures(2)
    for name, message in (
        ("Wrong", "expected four numbers"),
        ("Points", "expected four numbers"),
        ("Raises", "ValueError: no such thing"),
        ("Exits", "SystemExit: 3"),
    ):
        entrant = parse_entrant(tracker(name)).open()
        entrant.init(frames[0], BOX)
        with pytest.raises(TrackerError, match=message):
            entrant.update(frames[1])


# --- another interpreter ------------------------------------------------------------------------------------------------


def test_another_interpreter_gives_the_same():
    spec = parse_entrant(tracker("Jitter"), sys.executable)
    assert spec.describe().identity == parse_entrant(tracker("Jitter")).describe().identity
    remote = spec.open()
    there, here = follow(remote, 5), follow(parse_entrant(tracker("Jitter")).open(), 5)
    assert [a.box for a in there] == [a.box for a in here]
    assert all(a.seconds > 0 for a in there)
    assert [a.box for a in follow(remote, 5)] == [a.box for a in here]
    remote.close()


def test_what_a_tracker_prints_does_not_disturb():
    remote = parse_entrant(tracker("Still"), sys.executable).open()
    assert follow(remote)[-1].box == BOX
    remote.close()


def test_death_of_the_interpreter_is_named_and_survived():
    remote = parse_entrant(tracker("Dies"), sys.executable).open()
    frames, _ = pictures(2)
    wide = np.zeros((48, 80, 3), np.uint8)
    remote.init(frames[0], BOX)
    remote.update(frames[1])
    with pytest.raises(TrackerError, match=r"(?s)died in update \(exit status 9\).*last words"):
        remote.update(wide)
    with pytest.raises(TrackerError, match="not running"):
        remote.update(frames[1])
    remote.init(frames[0], BOX)  # starts it again
    assert remote.update(frames[1]).box == BOX
    process = remote._process
    remote.close()
    assert process.returncode is not None


def test_errors_in_the_other_interpreter_come_with_its_words():
    remote = parse_entrant(tracker("Raises"), sys.executable).open()
    frames, _ = pictures(2)
    remote.init(frames[0], BOX)
    with pytest.raises(TrackerError, match=r"(?s)ValueError: no such thing.*\| Traceback|running\.py"):
        remote.update(frames[1])
    remote.close()


def test_no_such_interpreter():
    with pytest.raises(InputError, match="no interpreter"):
        parse_entrant("opencv:MIL", "/nowhere/python")


def test_the_worker_file_needs_nothing_of_keepsight(tmp_path):
    """It must run where torch and keepsight are absent."""
    import subprocess

    from keepsight.evaluation import guest

    script = "import sys, runpy; sys.modules['torch'] = None; sys.modules['keepsight'] = None\n"
    script += f"runpy.run_path({guest.__file__!r}, run_name='worker'); print('well')"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "well\n", done.stderr


def test_messages_survive_every_cut(tmp_path):
    from keepsight.evaluation.guest import receive, send

    path = tmp_path / "message"
    with open(path, "wb") as file:
        send(file, {"do": "update", "shape": [1, 2, 3]}, b"abcdef")
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with open(path, "rb") as file:
            message = receive(file)
        assert message == (({"do": "update", "shape": [1, 2, 3]}, b"abcdef") if length == len(whole) else None)
    assert json.loads(whole[4 : whole.index(b"}") + 1])["bytes"] == 6
