"""Results on disk: nothing is lost by writing, and nothing damaged is taken for a result."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import sequence

from keepsight.errors import InputError
from keepsight.evaluation import store as store_module
from keepsight.evaluation.protocols import MaskArrays
from keepsight.evaluation.runs import Run
from keepsight.evaluation.store import Key, Manifest, ResultsError, ResultStore, read_runs
from keepsight.regions import Polygon, Rectangle, Special

KEY = Key("mine", "otb100", "ope", "David")
MANIFEST = Manifest("mine", "mine@random", {"torch": "2.13"}, "otb100", "ope", "/data", None, 0, "cpu")


def a_run(count: int = 5, **fields) -> Run:
    boxes = np.random.default_rng(0).normal(50, 30, (count, 4))
    boxes[0] = 10, 20, 30, 40
    return Run(boxes=boxes, **fields)


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_everything_comes_back(store):
    presence = np.array([np.nan, 0.1, 0.2, 1 / 3, 1])
    lost = np.array([False, True, False, False, True])
    run = a_run(presence=presence, lost=lost, seconds=np.array([0.5, 0.25, np.nan, 0.1, 0.1]))
    store.write(KEY, run)
    back = store.read(KEY)
    np.testing.assert_array_equal(back.boxes, run.boxes)  # all digits
    np.testing.assert_array_equal(back.presence, presence)
    np.testing.assert_array_equal(back.lost, lost)
    np.testing.assert_array_equal(back.seconds, run.seconds)
    assert back.regions is None


def test_other_tools_can_read_it(store):
    run = a_run(lost=np.zeros(5, bool))
    path = store.write(KEY, run)
    assert path == store.root / "otb100/ope/mine/David_001.txt"
    rows = np.loadtxt(path, delimiter=",")
    np.testing.assert_array_equal(rows[:, :4], run.boxes)
    assert path.read_text().splitlines()[2] == "10,20,30,40,0"


def test_codes_and_anchor_come_back(store):
    key = Key("mine", "vot2020", "multistart", "ants", anchor=50)
    regions = (Special(1), Rectangle(1.5, 2.0, 3.0, 4.0), Special(2), Special(0))
    boxes = np.array([[np.nan] * 4, [1.5, 2, 3, 4], [np.nan] * 4, [np.nan] * 4])
    path = store.write(key, Run(boxes=boxes, regions=regions, anchor=50))
    assert path.name == "ants_001_00000050.txt"
    back = store.read(key)
    assert back.regions == regions
    assert back.anchor == 50
    np.testing.assert_array_equal(back.boxes, boxes)


def test_polygons_are_refused(store):
    with pytest.raises(InputError, match="Polygon"):
        store.write(KEY, Run(boxes=np.zeros((1, 4)), regions=(Polygon(np.zeros((4, 2))),)))


def test_masks_come_back(store):
    ids = [np.eye(4, 6, k, dtype=np.uint8) * 3 for k in range(3)]
    store.write(KEY, Run(boxes=np.zeros((3, 4)), masks=MaskArrays(ids)))
    back = store.read(KEY).masks
    assert len(back) == 3
    for i in range(3):
        np.testing.assert_array_equal(back[i], ids[i])


def test_equal_runs_make_equal_files(store, tmp_path):
    other = ResultStore(tmp_path / "other")
    paths = [s.write(KEY, a_run(seconds=np.random.rand(5))) for s in (store, other)]  # noqa: NPY002
    assert paths[0].read_bytes() == paths[1].read_bytes()


@given(st.lists(st.floats(allow_infinity=False, width=64), min_size=4, max_size=4))
@settings(max_examples=60)
def test_any_number_keeps_its_digits(numbers):
    text = store_module._format(KEY, Run(boxes=np.array([numbers])))
    rows, _ = store_module._parse(text.encode(), store_module.Path("x"), "otb100/David, repetition 1")
    np.testing.assert_array_equal(rows, [numbers])


# --- damage -------------------------------------------------------------------------------------------------------------


def test_every_cut_is_noticed(store):
    path = store.write(KEY, a_run(3))
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # without the last line end nothing is lost
        path.write_bytes(whole[:length])
        assert not store.is_done(KEY, 3)
        with pytest.raises(ResultsError, match=re.escape(str(path))):
            store.read(KEY)
    path.write_bytes(whole)
    assert store.is_done(KEY, 3)


def test_changes_are_noticed_and_line_ends_are_not(store):
    path = store.write(KEY, a_run(3))
    whole = path.read_text()
    path.write_text(whole.replace("10,20,30,40", "10,20,30,41"))
    with pytest.raises(ResultsError, match="changed or damaged"):
        store.read(KEY)
    path.write_bytes(whole.replace("\n", "\r\n").encode())
    assert len(store.read(KEY).boxes) == 3
    path.write_text("1,2,3,4\n")
    with pytest.raises(ResultsError, match="no keepsight result"):
        store.read(KEY)


def test_length_must_fit_the_sequence(store):
    store.write(KEY, a_run(3))
    assert store.is_done(KEY, 3)
    assert not store.is_done(KEY, 4)
    assert not store.is_done(Key("mine", "otb100", "ope", "Girl"), 3)


def test_a_run_that_was_started_with_another_box_is_not_done(store):
    first = tuple(a_run(3).boxes[0].tolist())
    store.write(KEY, a_run(3))
    assert store.is_done(KEY, 3, first)
    assert not store.is_done(KEY, 3, (*first[:3], first[3] + 1))


def test_the_file_of_another_sequence_is_refused(store):
    girl = replace(KEY, sequence="Girl")
    store.path(girl).write_bytes(store.write(KEY, a_run(3)).read_bytes())
    with pytest.raises(ResultsError, match="holds the result of otb100/David, repetition 1, not of otb100/Girl"):
        store.read(girl)


@pytest.mark.parametrize("name", ["two\nlines", "a\u2028b", "tab\t", "Ünï cödé [x]*"])
def test_odd_names_of_sequences(store, name):
    key = replace(KEY, sequence=name)
    store.write(key, a_run(3))
    assert store.is_done(key, 3)


def test_a_directory_in_a_files_place_is_named(store):
    path = store.path(KEY)
    path.mkdir(parents=True)
    with pytest.raises(ResultsError, match=re.escape(f"{path} cannot be read")):
        store.read(KEY)
    with pytest.raises(ResultsError, match=re.escape(f"{path} cannot be replaced")):
        store.discard(KEY)
    path.rmdir()
    store.write(KEY, a_run(3))
    store.time_path(KEY).mkdir()
    with pytest.raises(ResultsError, match=re.escape(f"{store.time_path(KEY)} cannot be read")):
        store.read(KEY)


def test_damaged_times_are_a_named_error(store):
    store.write(KEY, a_run(3, seconds=np.ones(3)))
    store.time_path(KEY).write_text("0.1\n0.2\n")
    with pytest.raises(ResultsError, match="2 times for 3 frames"):
        store.read(KEY)
    store.time_path(KEY).unlink()
    assert store.read(KEY).seconds is None


def test_full_disk_leaves_the_old_result(store, monkeypatch):
    store.write(KEY, a_run(3))
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResultsError, match=r"(?s)mine on otb100/David.*no space left"):
        store.write(KEY, a_run(4, seconds=np.ones(4)))
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_that_is_really_full():
    from keepsight.text import write_atomically

    with pytest.raises(OSError):
        write_atomically("/dev/full/x", "1")


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["otb/David", "..", ".", "a b", "ünïcode", "a:b*c?", "../../etc/passwd", "x/../y", "a%2Fb"]
)
def test_any_name_stays_below_the_root_and_is_kept_apart(store, name):
    key = Key(name.replace("/", "_"), "d:s", "ope", name)
    path = store.write(key, a_run(2))
    assert path.resolve().is_relative_to(store.root.resolve())
    assert len(store.read(key).boxes) == 2
    assert store.repetitions(key)[0].boxes.shape == (2, 4)
    others = {"otb/David", "..", ".", "a b", "a%2Fb", "otb%2FDavid"} - {name}
    assert all(store.path(Key(key.tracker, "d:s", "ope", other)) != path for other in others)


def test_repetitions_with_a_gap(store):
    for number in (1, 3, 12):
        run = a_run(number + 1)
        run.boxes[0] = sequence().first_box
        store.write(Key("mine", "otb100", "ope", "David", number), run)
    store.write(Key("mine", "otb100", "ope", "David_001", 2), a_run(9))
    assert [len(r.boxes) for r in store.repetitions(KEY)] == [2, 4, 13]
    runs = read_runs(store, "mine", "otb100", "ope", [sequence(n) for n in ("David", "Girl")])
    assert list(runs) == ["David"]


# --- what belongs together ----------------------------------------------------------------------------------------------


def test_another_configuration_is_refused_by_name(store):
    store.begin(MANIFEST)
    store.begin(MANIFEST)  # the same goes on
    assert store.trackers("otb100", "ope") == ("mine",)
    assert store.manifests() == [MANIFEST]
    store.write(KEY, a_run(3))
    other = Manifest("mine", "mine@random", {"torch": "2.14"}, "otb100", "ope", "/data", None, 1, "cpu")
    with pytest.raises(ResultsError) as error:
        store.begin(other)
    assert "torch: '2.13' there, '2.14' now" in str(error.value)
    assert "seed: 0 there, 1 now" in str(error.value)
    assert "device" not in str(error.value)
    assert store.is_done(KEY, 3)
    store.begin(other, overwrite=True)
    assert not store.is_done(KEY, 3)
    assert store.manifest("otb100", "ope", "mine") == other


def test_overwriting_waits_for_others(store):
    store.begin(MANIFEST)
    claim = store.claim(KEY)
    other = Manifest("mine", "mine", {}, "otb100", "ope", "/data")
    with pytest.raises(ResultsError, match=f"process {os.getpid()}"):
        store.begin(other, overwrite=True)
    claim.release()
    store.begin(other, overwrite=True)


def test_results_without_a_manifest_are_not_adopted(store):
    store.begin(MANIFEST)
    store.write(KEY, a_run(3))
    (store.folder("otb100", "ope", "mine") / "run.json").unlink()
    with pytest.raises(ResultsError, match=r"results without a run\.json"):
        store.begin(MANIFEST)
    assert store.is_done(KEY, 3)
    store.begin(MANIFEST, overwrite=True)
    assert not store.is_done(KEY, 3)


@pytest.mark.parametrize("change", [{"frames": "x"}, {"identity": 3}, {"identity": {"a": 1}}, {"seed": None}])
def test_a_manifest_of_wrong_types_is_a_named_error(store, change):
    store.begin(MANIFEST)
    path = store.folder("otb100", "ope", "mine") / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ResultsError, match=r"run\.json"):
        store.begin(MANIFEST)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other", "version": 1}', '{"format": "keepsight run"}'])
def test_a_damaged_manifest_is_a_named_error(store, text):
    folder = store.folder("otb100", "ope", "mine")
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text)
    with pytest.raises(ResultsError, match=r"run\.json"):
        store.begin(MANIFEST)


# --- locks --------------------------------------------------------------------------------------------------------------


def test_only_one_has_the_lock(store):
    first = store.claim(KEY)
    assert first is not None
    assert store.claim(KEY) is None
    assert f"process {os.getpid()}" in store.owner(KEY)
    first.release()
    first.release()
    second = store.claim(KEY)
    assert second is not None


def test_locks_of_dead_processes_count_for_nothing(store):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = store.claim(KEY).path
    for owner in ({"host": socket.gethostname(), "pid": dead.pid}, {"host": socket.gethostname(), "pid": "x"}, {}):
        lock.write_text(json.dumps(owner))
        claim = store.claim(KEY)
        assert claim is not None
        claim.release()
        lock.write_text(json.dumps(owner))
        store.sweep("otb100", "ope", "mine")
        assert not lock.parent.exists()
        lock.parent.mkdir()
    lock.write_text(json.dumps({"host": "elsewhere", "pid": dead.pid}))
    assert store.claim(KEY) is None  # of another machine's process one knows nothing
    store.sweep("otb100", "ope", "mine")
    assert lock.exists()
    old = time.time() - store_module.STALE_SECONDS - 1  # unless it is silent for long
    os.utime(lock, (old, old))
    store_module.Claim(lock).renew()
    assert not store.claimable(KEY)
    os.utime(lock, (old, old))
    assert store.claim(KEY) is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_process_number_that_was_used_again(store):
    lock = store.claim(KEY).path
    owner = json.loads(lock.read_text())
    assert store.claim(KEY) is None
    lock.write_text(json.dumps({**owner, "started": "1"}))
    assert store.claim(KEY) is not None


def test_sweep_removes_unfinished_files_unless_someone_works(store):
    store.begin(MANIFEST)
    left = store.path(KEY).with_name(".David_001.txt.abc.part")
    left.write_text("half")
    claim = store.claim(KEY)
    store.sweep("otb100", "ope", "mine")
    assert left.exists()
    claim.release()
    store.sweep("otb100", "ope", "mine")
    assert not left.exists()
    left.write_text("half")
    store.discard(KEY)
    assert not left.exists()
