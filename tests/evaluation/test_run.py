"""The runner: everything once, the same whatever happens meanwhile."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from running import dataset, files, pictures, sequence, tracker

from keepsight.datasets.frames import ArrayFrames
from keepsight.errors import InputError, VideoError
from keepsight.evaluation import executors
from keepsight.evaluation import run as runner
from keepsight.evaluation.run import RunError, run, seed_of
from keepsight.evaluation.store import Claim, Key, ResultsError, ResultStore

JITTER, STILL = tracker("Jitter"), tracker("Still")


def made(**options):
    return dataset(sequence("a", 6, 0), sequence("b", 9, 1), sequence("c/d", 4, 2), **options)


def serial(trackers, data, results, **options):
    return run(trackers, data, results=results, executor="serial", devices=["cpu"], **options)


class BadFrames(ArrayFrames):
    """Frame 3 cannot be read."""

    def __getitem__(self, index):
        if index == 3:
            raise VideoError("there is no file frame3.png")
        return super().__getitem__(index)


def bad_sequence(name="bad"):
    one = sequence(name, 7)
    return replace(one, frames=BadFrames(one.frames.images))


# --- the ordinary way ---------------------------------------------------------------------------------------------------


def test_every_tracker_sequence_and_repetition_once(tmp_path):
    events = []
    report = serial([JITTER, STILL], made(), tmp_path, repetitions=2, progress=events.append)
    assert (report.tracked, report.present, report.failures) == (9, 0, ())  # Still is deterministic
    runs = report.runs("Jitter")
    assert {name: [len(r.boxes) for r in found] for name, found in runs.items()} == {
        "a": [6, 6],
        "b": [9, 9],
        "c/d": [4, 4],
    }
    assert not np.array_equal(runs["a"][0].boxes, runs["a"][1].boxes)  # repetitions have seeds of their own
    assert runs["a"][0].seconds.shape == (6,)
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob(".locks"))
    assert (events[0].done, events[0].remaining) == (0, None)
    assert (events[-1].done, events[-1].total, events[-1].remaining) == (9, 9, 0)
    assert events[-1].frames == 2 * 19 + 19
    again = serial([JITTER, STILL], made(), tmp_path, repetitions=2)
    assert (again.tracked, again.present) == (0, 9)


def test_the_longest_sequences_come_first(tmp_path):
    shown = []
    serial([STILL], made(), tmp_path, progress=lambda p: shown.append(p.done))
    store = ResultStore(tmp_path)
    when = {n: store.path(Key("Still", "made", "ope", n)).stat().st_mtime_ns for n in ("a", "b", "c/d")}
    assert sorted(when, key=when.get) == ["b", "a", "c/d"]


def test_results_depend_on_nothing_but_their_own_key(tmp_path):
    """Not on processes, order, other trackers, other sequences or earlier interruptions."""
    serial([JITTER], made(), tmp_path / "one", repetitions=2)
    run([STILL, JITTER], made(), results=tmp_path / "two", processes=2, devices=["cpu"], repetitions=2)
    serial([JITTER], made(), tmp_path / "parts", repetitions=1, only="c/*")
    serial([JITTER], made(), tmp_path / "parts", repetitions=2)
    one, two, parts = (files(tmp_path / n / "made/ope/Jitter") for n in ("one", "two", "parts"))
    assert one == two == parts
    assert len(one) == 7


def test_seeds_are_documented_numbers():
    assert seed_of(0, "otb100", "David", 1) == 4791945553338493769
    keys = [(s, d, n, r) for s in (0, 1) for d in ("x", "y") for n in ("a", "b") for r in (1, 2)]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)


def test_three_equal_repetitions_are_enough(tmp_path):
    report = serial([tracker("Undeclared"), JITTER], dataset(sequence("a", 4)), tmp_path, repetitions=5)
    assert len(report.runs("Undeclared")["a"]) == 3
    assert len(report.runs("Jitter")["a"]) == 5
    again = serial([tracker("Undeclared"), JITTER], dataset(sequence("a", 4)), tmp_path, repetitions=5)
    assert again.tracked == 0
    assert serial([JITTER], dataset(sequence("a", 4)), tmp_path, repetitions=6).tracked == 1


def test_frames_only_and_overwrite(tmp_path):
    report = serial([STILL], made(), tmp_path, frames=3, only="[ab]")
    assert {n: len(r[0].boxes) for n, r in report.runs("Still").items()} == {"a": 3, "b": 3}
    assert [len(s) for s in report.sequences] == [3, 3]
    with pytest.raises(ResultsError, match="frames: 3 there, None now"):
        serial([STILL], made(), tmp_path)
    assert serial([STILL], made(), tmp_path, overwrite=True).tracked == 3
    assert serial([STILL], made(), tmp_path, overwrite=True, only="a").tracked == 1
    assert serial([STILL], made(), tmp_path).present == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "z*"}, "no sequence of made matches"),
        ({"protocol": "opo"}, "did you mean 'ope'"),
        ({"executor": "process"}, "did you mean 'processes'"),
        ({"processes": 0}, "0 processes; give at least 1"),
        ({"repetitions": 0}, "0 repetitions; give at least 1"),
        ({"devices": ["cpu", "meta"]}, "kinds cpu, meta"),
        ({"protocol": "vos"}, "boxes only"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run([STILL], made(), **{"results": tmp_path, "executor": "serial", "devices": ["cpu"], **options})
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.parametrize("protocol", ["longterm", "supervised", "multistart"])
def test_other_protocols(tmp_path, protocol):
    one = sequence("a", 6, anchors=np.array([1, 0, 0, 0, -1, 0]))
    report = serial([STILL], dataset(one, protocol=protocol), tmp_path)
    runs = report.runs("Still")["a"]
    assert report.protocol == protocol
    if protocol == "multistart":
        assert [(r.anchor, len(r.boxes)) for r in runs] == [(0, 6), (4, 5)]
    elif protocol == "supervised":
        assert runs[0].regions[0].code == 1
    else:
        assert runs[0].presence[1] == 1
    assert serial([STILL], dataset(one, protocol=protocol), tmp_path).tracked == 0


# --- failures -----------------------------------------------------------------------------------------------------------


def test_unreadable_frames_fail_their_sequence_only(tmp_path):
    data = dataset(bad_sequence(), *made().sequences.values())
    report = serial([STILL], data, tmp_path)
    assert [str(f) for f in report.failures] == ["Still on made/bad, repetition 1: there is no file frame3.png"]
    assert report.tracked == 3
    assert "bad" not in report.runs("Still")
    with pytest.raises(RunError, match="frame3"):
        serial([STILL], data, tmp_path, on_error="stop")


def test_annotations_that_cannot_be_read_fail_their_sequence_only(tmp_path):
    def broken():
        raise InputError("groundtruth.txt, line 3: 'x' is not a number")

    boxes = pictures(5)[1]
    boxes[0] = np.nan
    data = dataset(
        replace(sequence("bad"), read=broken), sequence("none", 5, boxes=boxes), sequence("empty", 0), sequence("ok")
    )
    report = serial([STILL], data, tmp_path)
    assert {f.key.sequence for f in report.failures} == {"bad", "none", "empty"}
    assert report.tracked == 1
    anchors = serial([STILL], dataset(sequence("ok"), protocol="multistart"), tmp_path)
    assert "no anchors" in anchors.failures[0].reason


def test_errors_of_trackers_fail_their_runs_only(tmp_path):
    report = serial([tracker("Raises"), STILL], dataset(sequence("a", 4)), tmp_path)
    assert "ValueError: no such thing" in report.failures[0].reason
    assert report.tracked == 1


def test_unforeseen_errors_come_with_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "lead", lambda *_: 1 / 0)
    failure = serial([STILL], dataset(sequence("a", 4)), tmp_path).failures[0]
    assert failure.reason.startswith("ZeroDivisionError")
    assert "in track" in failure.trace


def test_a_worker_that_dies_is_tried_twice_and_takes_nothing_with_it(tmp_path):
    frames, boxes = pictures(3, width=80)
    wide = replace(sequence("wide", 3, boxes=boxes), frames=ArrayFrames(frames))
    report = run(
        [tracker("Dies")], dataset(wide, sequence("a"), sequence("b")), results=tmp_path, processes=1, devices=["cpu"]
    )
    assert report.tracked == 2
    assert [f.key.sequence for f in report.failures] == ["wide"]
    assert "died 2 times" in report.failures[0].reason
    assert not list(tmp_path.rglob(".locks"))


# --- interruptions ------------------------------------------------------------------------------------------------------


def test_damaged_results_are_tracked_again(tmp_path):
    serial([JITTER], made(), tmp_path)
    before = files(tmp_path)
    store = ResultStore(tmp_path)
    cut = store.path(Key("Jitter", "made", "ope", "a"))
    cut.write_bytes(cut.read_bytes()[:-30])
    store.time_path(Key("Jitter", "made", "ope", "b")).write_text("x")
    store.path(Key("Jitter", "made", "ope", "c/d")).with_name(".d_001.txt.xyz.part").write_text("half")
    assert serial([JITTER], made(), tmp_path).tracked == 2
    assert files(tmp_path) == before


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, monkeypatch):
    serial([JITTER], made(), tmp_path / "whole")
    count, replace_file = [0], os.replace

    def full(source, target):
        count[0] += 1
        if count[0] > 3:  # times and result of the first, times of the second
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResultsError, match="no space left on device"):
        serial([JITTER], made(), tmp_path / "full")
    monkeypatch.undo()
    assert len(list((tmp_path / "full").rglob("*_001.txt"))) == 1
    assert not list((tmp_path / "full").rglob(".*"))
    assert serial([JITTER], made(), tmp_path / "full").tracked == 2
    assert files(tmp_path / "full") == files(tmp_path / "whole")


def test_interruption_keeps_results_and_releases_locks(tmp_path):
    def interrupt(progress):
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([JITTER], made(), results=tmp_path, processes=1, devices=["cpu"], progress=interrupt)
    assert len(list(tmp_path.rglob("*_001.txt"))) == 1
    assert not list(tmp_path.rglob(".locks"))
    serial([JITTER], made(), tmp_path)
    serial([JITTER], made(), tmp_path / "whole")
    whole = files(tmp_path / "whole")
    assert {k: v for k, v in files(tmp_path).items() if not k.startswith("whole")} == whole


def test_two_runs_at_once_share_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNNING_SLEEP", "0.01")
    data = dataset(*(sequence(f"s{i}", 8, i) for i in range(6)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)

        def one():
            barrier.wait()
            return run([JITTER], data, results=tmp_path, processes=1, devices=["cpu"])

        reports = [future.result() for future in [pool.submit(one), pool.submit(one)]]
    assert sum(r.tracked for r in reports) == 6  # nothing twice
    assert all(r.tracked + r.present == 6 for r in reports)  # both end with all of it
    assert all(len(r.runs("Jitter")) == 6 for r in reports)


def test_what_another_machine_tracks_is_waited_for(tmp_path):
    whole = tmp_path / "whole"
    serial([STILL], made(), whole)
    store = ResultStore(tmp_path / "shared")
    key = Key("Still", "made", "ope", "b")
    claim = store.claim(key)
    claim.path.write_text('{"host": "elsewhere", "pid": 1}')
    notes = []

    def progress(state):
        notes.append(state.note)
        if len(notes) == 8:  # the other machine has done it
            store.write(key, ResultStore(whole).read(key))
            claim.release()

    report = serial([STILL], made(), store.root, progress=progress)
    assert (report.tracked, report.present) == (2, 1)
    assert any(note.startswith("waiting for process 1 on elsewhere") for note in notes)


def test_a_script_without_main_guard_is_told(monkeypatch):
    """Workers import the script that starts them; one that starts a run on import would start workers without end."""
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(_inheriting=True))
    with pytest.raises(InputError, match="__main__"):
        executors.open_engine("processes", ["cpu"], 1)


# --- ours ---------------------------------------------------------------------------------------------------------------


def test_dimp_lite_on_two_processes_is_dimp_lite_on_one(tmp_path):
    data = dataset(sequence("a", 5, 0), sequence("b", 4, 1))
    report = run(["dimp-lite"], data, results=tmp_path / "two", processes=2, devices=["cpu"])
    assert report.failures == ()
    serial(["dimp-lite"], data, tmp_path / "one")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    runs = report.runs("dimp-lite")
    assert runs["a"][0].presence[1] > 0.5
    assert runs["a"][0].lost.dtype == bool


# --- engines ------------------------------------------------------------------------------------------------------------


class Threads(executors.Engine):
    """An engine of the tests' own: what the runner asks of one, and no more."""

    def __init__(self, devices, address=None):
        self.devices, self.stopped = tuple(devices), False
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self.deaths = 1

    def submit(self, slot, function, *arguments):
        return self._pool.submit(function, *arguments)

    def wait(self, handles, seconds):
        return list(concurrent.futures.wait(handles, seconds, concurrent.futures.FIRST_COMPLETED).done)

    def result(self, handle):
        if self.deaths:
            self.deaths -= 1
            raise executors.WorkerDied("once")
        return handle.result()

    def stop(self):
        self.stopped = True
        self._pool.shutdown()


@pytest.mark.parametrize("name", ["Ray", "Dask"])
def test_other_engines_through_the_same_interface(tmp_path, monkeypatch, name):
    engines = []
    monkeypatch.setattr(executors, name, lambda *a: engines.append(Threads(*a)) or engines[-1])
    report = run(
        [JITTER], made(), results=tmp_path / "other", executor=f"{name.lower()}:address", devices=["cpu"], processes=2
    )
    assert report.tracked == 3
    assert engines[0].stopped
    serial([JITTER], made(), tmp_path / "serial")
    assert files(tmp_path / "other") == files(tmp_path / "serial")


def test_locks_are_renewed(tmp_path, monkeypatch):
    renewed = []
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0)
    monkeypatch.setattr(executors, "Dask", Threads)
    monkeypatch.setattr(Threads, "wait", lambda self, handles, _: [h for h in handles if h.done()])
    monkeypatch.setattr(Claim, "renew", lambda claim: renewed.append(claim.path.name))
    run([JITTER], dataset(sequence("a", 5)), results=tmp_path, executor="dask", devices=["cpu"])
    assert "a_001" in renewed


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_engines_that_are_absent_name_the_command(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "distributed" if name == "dask" else name, None)
    with pytest.raises(InputError, match=f"pip install.*{name}"):
        run([STILL], made(), results=tmp_path, executor=name, devices=["cpu"])


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_real_engines(tmp_path, name, monkeypatch):
    pytest.importorskip("distributed" if name == "dask" else name)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))  # workers import these tests' helpers
    report = run([JITTER], made(), results=tmp_path / "other", executor=name, devices=["cpu"], processes=2)
    assert report.failures == ()
    serial([JITTER], made(), tmp_path / "serial")
    assert files(tmp_path / "other") == files(tmp_path / "serial")


def test_sequences_that_cannot_travel_are_named(tmp_path):
    truth = sequence("a", 4).annotation
    data = dataset(replace(sequence("a", 4), read=lambda: truth), sequence("b", 4))
    report = run([STILL], data, results=tmp_path, processes=1, devices=["cpu"])
    assert report.tracked == 1
    assert "could not be run in a worker" in report.failures[0].reason
    assert "lambda" in report.failures[0].reason


def test_devices_are_dealt_in_turn():
    engine = executors.open_engine("processes", ("cuda:0", "cuda:1"), 5)
    assert engine.devices == ("cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0")
    engine.stop()


def test_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with executors.one_thread_environment():
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "1")
    assert "MKL_NUM_THREADS" not in os.environ


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may make a small disk")
def test_a_disk_that_is_really_full(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        data = dataset(*(sequence(f"s{i}", 30, i) for i in range(12)))
        with pytest.raises(ResultsError, match="no space left"):
            serial([JITTER], data, folder)
        done = list(folder.rglob("*_001.txt"))
        assert done
        report = ResultStore(folder)
        assert all(len(report.read(Key("Jitter", "made", "ope", f.name[:-8])).boxes) == 30 for f in done)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
