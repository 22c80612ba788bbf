"""Official formats: what stands in them, that they read back equal, and that nothing is half written."""

from __future__ import annotations

import errno
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError, VideoError
from keepsight.evaluation import formats
from keepsight.evaluation.foreign import read_results
from keepsight.evaluation.formats import Export, export, format_names
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vot_files import run_regions
from keepsight.regions import Code, Rectangle, Region, Special

from .vos_parts import Given, mask_sequence, sequence

COUNTS = {"a": 4, "b": 7}
OXUVA_SIZE = (200, 100)


def sequences(**more: object) -> dict[str, Sequence]:
    annotation = Annotation(boxes=np.ones((1, 4)), **more)  # type: ignore[arg-type]
    return {name: sequence(name, annotation, n) for name, n in COUNTS.items()}


def run(count: int, seed: int = 0, nan_at: int | None = None) -> Run:
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(1, 60, (count, 4)).round(2)
    if nan_at is not None:
        boxes[nan_at] = np.nan
    return Run(boxes=boxes, presence=rng.random(count).round(6), seconds=rng.random(count).round(6))


def runs(repetitions: int = 1, nan_at: int | None = None) -> dict[str, list[Run]]:
    return {
        name: [run(n, 10 * i + k, nan_at) for k in range(repetitions)] for i, (name, n) in enumerate(COUNTS.items())
    }


def names_in(path: Path) -> list[str]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def lines(path: Path, member: str) -> list[str]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(member).decode().splitlines()
    return (path / member).read_text().splitlines()


@pytest.fixture(params=["out", "out.zip"], ids=["folder", "zip"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "new" / request.param


def nothing_left(out: Path) -> bool:
    return not out.exists() and not (out.parent.exists() and any(out.parent.iterdir()))


# --- every format ---------------------------------------------------------------------------------------------------------


def test_got10k(out: Path) -> None:
    given = runs(repetitions=3)
    done = export("got10k", sequences(), given, out)
    assert (done.path, done.sequences, done.notes) == (out, 2, ())
    wanted = [f"{s}/{s}_{end}.txt" for s in "ab" for end in ("001", "002", "003", "time")]
    assert names_in(out) == wanted
    assert lines(out, "a/a_002.txt")[0] == ",".join(f"{v:.3f}" for v in given["a"][1].boxes[0])
    assert len(lines(out, "b/b_001.txt")) == COUNTS["b"]
    found = read_results(out, sequences())
    assert (found.layout, len(found.runs)) == ("got10k", 2)
    for name, own in given.items():
        for ours, back in zip(own, found.runs[name], strict=True):
            np.testing.assert_array_equal(back.boxes, ours.boxes)
            np.testing.assert_array_equal(back.seconds, ours.seconds)


def test_got10k_takes_three_repetitions_and_zeros_for_nan(out: Path) -> None:
    with pytest.raises(InputError, match="at most 3 repetitions"):
        export("got10k", sequences(), runs(repetitions=4), out)
    assert nothing_left(out)
    done = export("got10k", sequences(), {k: [replace(r, seconds=None) for r in v] for k, v in runs(1, 2).items()}, out)
    assert lines(out, "a/a_001.txt")[2] == "0.000,0.000,0.000,0.000"
    assert not any("time" in n for n in names_in(out))
    assert sum("written as 0,0,0,0" in n for n in done.notes) == 2
    assert sum("times were not recorded" in n for n in done.notes) == 1


def test_trackingnet(out: Path) -> None:
    given = runs(repetitions=2)
    export("trackingnet", sequences(), given, out, repetition=1)
    assert names_in(out) == ["a.txt", "b.txt"]
    assert [len(lines(out, f"{n}.txt")) for n in COUNTS] == list(COUNTS.values())
    assert lines(out, "a.txt")[1] == ",".join(f"{v:.2f}" for v in given["a"][1].boxes[1])
    found = read_results(out, sequences())
    for name, own in given.items():
        np.testing.assert_array_equal(found.runs[name][0].boxes, own[1].boxes)


@pytest.mark.parametrize(("name", "place"), [("otb", ""), ("lasot", "Mine_tracking_result/")])
def test_text_of_otb_and_lasot_keeps_nan(out: Path, name: str, place: str) -> None:
    given = runs(nan_at=2)
    export(name, sequences(), given, out, tracker="Mine")
    assert names_in(out) == [f"{place}a.txt", f"{place}b.txt"]
    found = read_results(out, sequences())
    assert found.layout == name
    assert name == "otb" or found.tracker == "Mine"
    for key, own in given.items():
        np.testing.assert_array_equal(found.runs[key][0].boxes, own[0].boxes)


def test_pytracking_writes_whole_pixels(out: Path) -> None:
    given = runs(repetitions=2)
    given["a"][0].boxes[1] = [-3.7, 2.9, 10.99, 5]
    export("pytracking", sequences(), given, out, tracker="dimp", param="mine")
    ends = (".txt", "_object_presence_scores.txt", "_time.txt")
    assert names_in(out) == [f"dimp/mine_00{k}/{s}{e}" for k in (0, 1) for s in "ab" for e in ends]
    assert lines(out, "dimp/mine_000/a.txt")[1] == "-3\t2\t10\t5"
    found = read_results(out, sequences())
    assert (found.layout, found.tracker) == ("pytracking", "dimp/mine")
    for key, own in given.items():
        for ours, back in zip(own, found.runs[key], strict=True):
            np.testing.assert_array_equal(back.boxes, np.trunc(ours.boxes))
            np.testing.assert_array_equal(back.presence, ours.presence)
            np.testing.assert_array_equal(back.seconds, ours.seconds)


def test_vot(out: Path) -> None:
    start, failed, between = Special(Code.INITIALISATION), Special(Code.FAILURE), Special(Code.UNKNOWN)
    rows: dict[str, tuple[Region, ...]] = {
        "a": (start, Rectangle(1, 2, 3, 4), failed, between),
        "b": (start, *(Rectangle(i, 2, 3.25, 4) for i in range(6))),
    }
    given = {n: [Run(boxes=np.full((len(r), 4), np.nan), regions=r)] * 2 for n, r in rows.items()}
    export("vot", sequences(), given, out, tracker="Mine")
    assert names_in(out) == [f"Mine/baseline/{s}/{s}_00{k}.txt" for s in "ab" for k in (1, 2)]
    found = read_results(out, sequences())
    assert (found.layout, found.tracker) == ("vot", "Mine")
    assert [r.regions for own in found.runs.values() for r in own] == [rows[n] for n in "aabb"]


def test_vot_longterm_from_boxes(out: Path) -> None:
    given = {n: [replace(own[0], lost=None)] for n, own in runs(nan_at=2).items()}
    export("vot", sequences(), given, out, tracker="Mine", experiment="longterm")
    found = read_results(out, sequences())
    for name, own in given.items():
        back = found.runs[name][0]
        assert back.regions[2] == Special(Code.UNKNOWN)
        np.testing.assert_allclose(back.boxes[1:], own[0].boxes[1:], atol=1e-4)
        np.testing.assert_array_equal(back.presence, own[0].presence)
        assert back.regions[1] == run_regions(own[0])[1]


def test_oxuva(out: Path) -> None:
    tracks = {f"vid_{n}": sequence(f"vid_{n}", Annotation(boxes=np.ones((k, 4)), image_size=OXUVA_SIZE), k, start=30)
              for n, k in COUNTS.items()}  # fmt: skip
    given = {f"vid_{n}": own for n, own in runs().items()}
    first = replace(given["vid_a"][0], lost=np.array([False, False, True, False]))
    first.boxes[1] = [-20, 50, 40, 80]  # beyond the left and lower edge
    first.boxes[3] = np.nan  # no prediction: no line
    given["vid_a"] = [first]
    done = export("oxuva", tracks, given, out)
    assert names_in(out) == ["vid_a.csv", "vid_b.csv"]
    rows = lines(out, "vid_a.csv")
    assert rows[0].startswith("vid,a,31,true,")
    assert rows[0].endswith("0.000000,0.100000,0.500000,1.000000")
    assert rows[1].startswith("vid,a,32,false,")
    assert len(rows) == 2
    assert any("1 frames without a prediction" in n for n in done.notes)
    found = read_results(out, tracks)
    assert found.layout == "oxuva"
    back = found.runs["vid_b"][0]
    inside = given["vid_b"][0].boxes[1:]
    clipped = np.minimum(inside[:, :2] + inside[:, 2:], OXUVA_SIZE) - inside[:, :2]
    np.testing.assert_allclose(back.boxes[1:], np.concatenate((inside[:, :2], clipped), axis=1), atol=2e-4)
    np.testing.assert_array_equal(back.presence[1:], given["vid_b"][0].presence[1:])
    assert found.runs["vid_a"][0].lost.tolist() == [False, False, True, False]


def masks(count: int, seed: int = 0) -> list[np.ndarray | None]:
    return list(np.random.default_rng(seed).integers(0, 5, (count, 6, 8), dtype=np.uint8))


def mask_runs(*lists: list[np.ndarray | None]) -> list[Run]:
    return [Run(boxes=np.full((len(ids), 4), np.nan), masks=Given(ids)) for ids in lists]


@pytest.mark.parametrize(("name", "place"), [("davis", ""), ("youtubevos", "Annotations/")])
def test_masks(out: Path, name: str, place: str) -> None:
    frames = ("00000", "00005", "00010")
    ids = masks(3)
    annotation = Annotation(boxes=np.ones((3, 4)), masks=Given(masks(3, 1)))
    videos = {"v": sequence("v", annotation, 3, frame_names=frames)}
    export(name, videos, {"v": mask_runs([None, *ids[1:]])}, out)
    assert names_in(out) == [f"{place}v/{f}.png" for f in frames]
    found = read_results(out, videos)
    back = found.runs["v"][0].masks
    assert found.layout == "masks"
    np.testing.assert_array_equal(back[0], masks(3, 1)[0])  # the given mask, which the tracker did not repeat
    for i in (1, 2):
        np.testing.assert_array_equal(back[i], ids[i])


def test_youtube_with_all_frames_keeps_those_that_count(out: Path) -> None:
    scored = np.array([True, False, False, False, False, True])
    annotation = Annotation(boxes=np.ones((6, 4)), masks=Given(masks(6)), tags={"scored": scored})
    videos = {"v": sequence("v", annotation, 6)}
    export("youtubevos", videos, {"v": mask_runs(masks(6))}, out)
    assert names_in(out) == ["Annotations/v/00000.png", "Annotations/v/00005.png"]


def test_davis_with_missing_masks(out: Path) -> None:
    videos = {"v": mask_sequence("v", masks(3)), "w": mask_sequence("w", masks(3)), "x": mask_sequence("x", masks(3))}
    hole = masks(3)
    hole[1] = None
    given = {"v": mask_runs(masks(3)), "w": mask_runs(hole), "x": [run(3)]}
    with pytest.raises(InputError, match=r"w \(1 masks missing\), x \(no masks\)"):
        export("davis", videos, given, out)
    assert nothing_left(out)
    assert export("davis", videos, given, out, allow_missing=True).sequences == 1


# --- complete or not at all -----------------------------------------------------------------------------------------------


def test_every_format_has_a_test() -> None:
    tested = {"got10k", "trackingnet", "otb", "lasot", "pytracking", "vot", "oxuva", "davis", "youtubevos"}
    assert set(format_names()) == tested
    with pytest.raises(InputError, match="did you mean 'got10k'"):
        export("got-10k", sequences(), runs(), "out")


@pytest.mark.parametrize("name", ["got10k", "trackingnet", "otb", "lasot", "pytracking", "vot"])
def test_incomplete_submissions_name_what_is_missing(name: str, out: Path) -> None:
    given = {"a": runs()["a"]}
    with pytest.raises(InputError, match=r"1 of 2 sequences .* b \(no result\)"):
        export(name, sequences(), given, out)
    assert nothing_left(out)
    done = export(name, sequences(), given, out, allow_missing=True)
    assert done.sequences == 1
    assert any("left out: b (no result)" in n for n in done.notes)
    assert list(read_results(out, sequences()).runs) == ["a"]
    with pytest.raises(InputError, match="nothing to write"):
        export(name, sequences(), {}, out.with_name("other"), allow_missing=True)


def test_rows_that_do_not_fit_the_frames(out: Path) -> None:
    given = runs() | {"b": [run(COUNTS["b"] - 1)]}
    with pytest.raises(InputError, match=r"b \(6 rows for 7 frames\)"):
        export("trackingnet", sequences(), given, out)
    with pytest.raises(InputError, match=r"a \(no repetition 1\)"):
        export("trackingnet", sequences(), runs(), out, repetition=1)
    assert nothing_left(out)


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    for k in (1, 2):
        export("got10k", sequences(), runs(2), tmp_path / f"{k}.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_what_is_there_is_not_overwritten_unless_asked(out: Path) -> None:
    export("otb", sequences(), runs(), out)
    before = lines(out, "a.txt")
    other = {n: [run(k, 99)] for n, k in COUNTS.items()}
    with pytest.raises(InputError, match="exists already"):
        export("otb", sequences(), other, out)
    assert lines(out, "a.txt") == before
    done = export("otb", sequences(), other, out, overwrite=True)
    assert isinstance(done, Export)
    assert not done.notes
    assert lines(out, "a.txt") != before
    assert names_in(out) == ["a.txt", "b.txt"]
    assert [p.name for p in out.parent.iterdir()] == [out.name]  # nothing temporary is left


def test_files_that_stay_in_a_folder_are_named(tmp_path: Path) -> None:
    export("otb", sequences(), runs(), tmp_path / "out")
    some = {"b": runs()["b"]}
    done = export("otb", sequences(), some, tmp_path / "out", overwrite=True, allow_missing=True)
    assert any("1 other files were in" in n and "a.txt" in n for n in done.notes)


def test_a_full_disk_leaves_nothing_behind(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(formats.os, "replace", full)
    monkeypatch.setattr(formats.shutil, "move", full)
    with pytest.raises(VideoError, match=r"results were not written to .*out.*no space left on device"):
        export("otb", sequences(), runs(), out)
    monkeypatch.undo()
    assert nothing_left(out)


def test_a_disk_that_fills_up_while_an_old_zip_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.zip"
    export("otb", sequences(), runs(), out)
    before = out.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(VideoError, match="no space left"):
        export("otb", sequences(), {n: [run(k, 99)] for n, k in COUNTS.items()}, out, overwrite=True)
    monkeypatch.undo()
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a\\b"])
def test_names_that_would_lead_elsewhere(out: Path, bad: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        export("lasot", sequences(), runs(), out, tracker=bad)
    assert nothing_left(out)
