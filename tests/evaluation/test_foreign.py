"""Result folders of other toolkits: every layout, names, damaged files, hostile archives, and the published results."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError, VideoError
from keepsight.evaluation import file_tree
from keepsight.evaluation.foreign import LAYOUTS, ForeignResults, read_results
from keepsight.evaluation.formats import export
from keepsight.evaluation.runs import Run
from keepsight.evaluation.score import score
from keepsight.regions import Code, Polygon, Rectangle, Special

from . import published_sets
from .vos_parts import sequence

BOXES = np.array([[1, 2, 10, 20], [2.5, 3, 11, 21], [np.nan] * 4, [4, 5, 12, 22]])


def dataset(*names: str, count: int = 4, **more: object) -> dict[str, Sequence]:
    return {n: sequence(n, Annotation(boxes=np.ones((count, 4)), **more), count) for n in names}  # type: ignore[arg-type]


def text(rows: np.ndarray = BOXES, separator: str = ",") -> str:
    return "".join(separator.join(f"{v:g}" for v in row) + "\n" for row in rows)


def put(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def zipped(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def check(found: ForeignResults, layout: str, tracker: str, repetitions: int = 1) -> None:
    assert (found.layout, found.tracker) == (layout, tracker)
    assert [len(own) for own in found.runs.values()] == [repetitions] * len(found.runs)
    for own in found.runs.values():
        for run in own:
            np.testing.assert_array_equal(run.boxes, BOXES)
    assert found.notes[0].startswith(f"read as {layout}: {len(found.runs)} of ")


# --- layouts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_plain_folder_of_text(tmp_path: Path, pack: bool, separator: str) -> None:
    files: dict[str, str | bytes] = {f"{n}.txt": text(separator=separator) for n in ("a", "b")}
    place = zipped(tmp_path / "KCF.zip", files) if pack else put(tmp_path / "KCF", files)
    check(read_results(place, dataset("a", "b")), "otb", "KCF")
    nested = {f"KCF/{k}": v for k, v in files.items()}
    place = zipped(tmp_path / "all.zip", nested) if pack else put(tmp_path / "all", nested)
    check(read_results(place, dataset("a", "b")), "otb", "KCF")


def test_pytracking_repetitions_times_and_presence(tmp_path: Path) -> None:
    for k in range(3):
        folder = f"dimp/dimp50_{k:03d}"
        put(tmp_path, {f"{folder}/a.txt": text(separator="\t"), f"{folder}/a_time.txt": f"{k}\n0.1\n0.1\n0.1\n"})
        put(tmp_path, {f"{folder}/a_object_presence_scores.txt": "1\n0.5\n0.25\n0\n"})
    for place in (tmp_path, tmp_path / "dimp"):
        found = read_results(place, dataset("a"))
        check(found, "pytracking", "dimp/dimp50", repetitions=3)
        assert [run.seconds[0] for run in found.runs["a"]] == [0, 1, 2]
        assert found.runs["a"][1].presence.tolist() == [1, 0.5, 0.25, 0]
    check(read_results(tmp_path / "dimp" / "dimp50_001", dataset("a")), "pytracking", "dimp/dimp50")
    put(tmp_path, {"dimp/super/a.txt": text()})
    with pytest.raises(InputError, match=r"results of dimp/dimp50, dimp/super; give the folder"):
        read_results(tmp_path, dataset("a"))
    check(read_results(tmp_path, dataset("a"), tracker="dimp50"), "pytracking", "dimp/dimp50", repetitions=3)


def test_pysot_and_lasot(tmp_path: Path) -> None:
    put(tmp_path / "OTB100", {"SiamRPN/a.txt": text(), "ATOM/a.txt": text()})
    check(read_results(tmp_path, dataset("a"), "pysot", tracker="ATOM"), "pysot", "ATOM")
    put(tmp_path / "lasot", {"ECO_tracking_result/a.txt": text()})
    check(read_results(tmp_path / "lasot", dataset("a")), "lasot", "ECO")
    check(read_results(tmp_path / "lasot" / "ECO_tracking_result", dataset("a"), "lasot"), "lasot", "ECO")


def test_got10k_with_times(tmp_path: Path) -> None:
    put(tmp_path / "Mine", {f"s/s_{k:03d}.txt": text() for k in (1, 2)} | {"s/s_time.txt": "1,2\n3,4\n5,6\n7,8\n"})
    found = read_results(tmp_path / "Mine", dataset("s"))
    check(found, "got10k", "Mine", repetitions=2)
    assert found.runs["s"][1].seconds.tolist() == [2, 4, 6, 8]
    put(tmp_path / "OTB", {"Old/s.txt": text(), "Old/times/s_time.txt": "1\n1\n1\n1\n"})
    found = read_results(tmp_path / "OTB", dataset("s"))
    check(found, "got10k", "Old")
    assert found.runs["s"][0].seconds.tolist() == [1, 1, 1, 1]


def test_vot_codes_confidences_and_experiments(tmp_path: Path) -> None:
    lines = "1\n10,20,5,5\n2\n0\n1,1,9,1,9,9,1,9\n"
    put(
        tmp_path / "T",
        {
            "baseline/s/s_001.txt": lines,
            "baseline/s/s_002.txt": lines,
            "baseline/s/s_time.txt": "1,2\n" * 5,
            "longterm/s/s_001.txt": "1\n" + text(BOXES[:1]) * 4,
            "longterm/s/s_001_confidence.value": "\n0.9\n0.1\n\n0.3\n",
        },
    )
    found = read_results(tmp_path / "T", dataset("s", count=5))
    assert (found.layout, found.tracker, len(found.runs["s"])) == ("vot", "T", 2)
    assert any("experiment baseline was read, not longterm" in n for n in found.notes)
    run = found.runs["s"][1]
    assert run.regions[0] == Special(Code.INITIALISATION)
    assert run.regions[1] == Rectangle(10, 20, 5, 5)
    assert isinstance(run.regions[4], Polygon)
    assert np.isnan(run.boxes[[0, 2, 3]]).all()
    assert run.seconds.tolist() == [2] * 5
    longterm = read_results(tmp_path / "T", dataset("s", count=5), experiment="longterm").runs["s"][0]
    np.testing.assert_array_equal(longterm.presence, [np.nan, 0.9, 0.1, np.nan, 0.3])
    check_name = read_results(tmp_path / "T" / "baseline", dataset("s", count=5))
    assert (check_name.layout, check_name.tracker) == ("vot", "T")
    with pytest.raises(InputError, match="no experiment 'realtime'"):
        read_results(tmp_path / "T", dataset("s"), experiment="realtime")


@pytest.mark.parametrize("start", [0, 1])
def test_repetitions_that_count_from_0_or_1(tmp_path: Path, start: int) -> None:
    files = {f"baseline/s/s_{start + k:03d}.txt": f"1\n{k},20,5,5\n" for k in range(3)}
    put(tmp_path / "T", files | {"baseline/s/s_time.txt": "1,2,3\n" * 2})
    found = read_results(tmp_path / "T", dataset("s", count=2)).runs["s"]
    assert [(run.boxes[1, 0], run.seconds[1]) for run in found] == [(0, 1), (1, 2), (2, 3)]


def test_two_trackers_in_a_zip_and_links_in_a_folder(tmp_path: Path) -> None:
    both = zipped(tmp_path / "both.zip", {"A/s.txt": text(), "B/s.txt": text()})
    with pytest.raises(InputError, match="holds results of A, B; give"):
        read_results(both, dataset("s"))
    check(read_results(both, dataset("s"), tracker="B"), "otb", "B")
    put(tmp_path, {"outside/secret.txt": "root:x:0\n"})
    (tmp_path / "C").mkdir()
    (tmp_path / "C" / "loop").symlink_to(tmp_path / "C")
    (tmp_path / "C" / "s.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    with pytest.raises(InputError, match=r"s\.txt, line 1"):
        read_results(tmp_path / "C", dataset("s"))


def test_relative_corners_are_not_taken_for_pixels(tmp_path: Path) -> None:
    tracks = {"v_o": sequence("v_o", Annotation(boxes=np.full((5, 4), 30.0)), 5)}
    put(tmp_path / "T", {"v_o.csv": "v,o,1,present,0.5,0.1,0.3,0.2,0.6\n"})
    with pytest.raises(InputError, match="fractions of the image, whose size is not known"):
        read_results(tmp_path / "T", tracks)
    with pytest.raises(InputError, match="fractions of the image, whose size is not known"):
        export("oxuva", tracks, {"v_o": [Run(np.full((5, 4), 30.0))]}, tmp_path / "out")


def test_vot_anchors(tmp_path: Path) -> None:
    put(tmp_path / "T" / "baseline" / "s", {"s_00000000.txt": "1\n1,2,3,4\n", "s_00000050.txt": "1\n1,2,3,4\n"})
    assert [run.anchor for run in read_results(tmp_path / "T", dataset("s")).runs["s"]] == [0, 50]


def test_oxuva_lines(tmp_path: Path) -> None:
    rows = "v,o,11,present,0.5,0.1,0.3,0.2,0.6\nv,o,13,absent,0.25,,,,\n"
    tracks = {"v_o": sequence("v_o", Annotation(boxes=np.ones((5, 4)), image_size=(100, 50)), 5, start=10)}
    put(tmp_path / "T", {"v_o.csv": rows})
    found = read_results(tmp_path / "T", tracks)
    assert (found.layout, found.tracker) == ("oxuva", "T")
    (run,) = found.runs["v_o"]
    np.testing.assert_allclose(run.boxes[1], [10, 10, 20, 20])
    assert run.lost.tolist() == [False, False, False, True, False]
    assert np.isnan(run.boxes[[0, 2, 3, 4]]).all()
    put(tmp_path / "T", {"v_o.csv": "video,object,frame_num,present,score,xmin,xmax,ymin,ymax\n" + rows})
    np.testing.assert_array_equal(read_results(tmp_path / "T", tracks).runs["v_o"][0].boxes, run.boxes)
    for bad, message in (
        ("v,o,11,maybe,0.5,0.1,0.3,0.2,0.6", "line 1: present is 'maybe'"),
        ("v,o,11,true,0.5,0.1,0.3", "line 1 has 7 cells instead of 9"),
        ("v,o,15,true,0.5,0.1,0.3,0.2,0.6", "frame 15 is outside 10..14"),
        ("v,o,11,true,0.5,0.1,x,0.2,0.6", "line 1: could not convert"),
        ("v,p,11,true,0.5,0.1,0.3,0.2,0.6", "is of v_p"),
        ("v,o,11,true,1,0,1,0,1\nv,o,11,true,1,0,1,0,1", "line 2: frame 11 stands twice"),
        ("", "holds no predictions"),
    ):
        put(tmp_path / "T", {"v_o.csv": bad})
        with pytest.raises(InputError, match=message):
            read_results(tmp_path / "T", tracks)


def png(ids: np.ndarray, mode: str = "P") -> bytes:
    image = Image.fromarray(ids, mode="L")
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("pack", [False, True], ids=["folder", "zip"])
def test_masks(tmp_path: Path, pack: bool) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    files: dict[str, str | bytes] = {f"Annotations/v/{n}.png": png(ids + k) for k, n in enumerate(("00000", "00010"))}
    place = zipped(tmp_path / "Mine.zip", files) if pack else put(tmp_path / "Mine", files)
    videos = {"v": sequence("v", Annotation(boxes=np.ones((3, 4))), 3, frame_names=("00000", "00005", "00010"))}
    found = read_results(place, videos)
    assert (found.layout, found.tracker) == ("masks", "Mine")
    masks = pickle.loads(pickle.dumps(found.runs["v"][0])).masks  # travels to workers
    np.testing.assert_array_equal(masks[0], ids)
    assert masks[1] is None
    np.testing.assert_array_equal(masks[2], ids + 2 - 1)
    videos = {"v": sequence("v", Annotation(boxes=np.ones((1, 4))), 1, frame_names=("frame1",))}
    with pytest.raises(InputError, match="no mask file of v is named like a frame"):
        read_results(place, videos)


def test_grey_masks_in_a_zip_are_not_guessed(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    place = zipped(
        tmp_path / "m.zip", {"v/00000.png": png(ids, "L"), "v/00001.png": png((ids > 3) * np.uint8(255), "L")}
    )
    masks = read_results(place, dataset("v", count=2)).runs["v"][0].masks
    np.testing.assert_array_equal(masks[1], ids > 3)
    with pytest.raises(InputError, match="not an indexed one"):
        masks[0]


# --- names ----------------------------------------------------------------------------------------------------------------


def test_names_are_matched_across_spellings(tmp_path: Path) -> None:
    names = ("Jogging-1", "Jogging-2", "Skating2-2", "Human4-2", "David", "car11", "car1_1", "bike1")
    files = {"jogging.1": "Jogging-1", "Jogging(2)": "Jogging-2", "Skating2.2": "Skating2-2", "Human4": "Human4-2"}
    files |= {"david": "David", "car11": "car11", "uav_car1_1": "car1_1", "uav_bike1": "bike1"}
    put(tmp_path, {f"{name}.txt": f"{i},1,1,1\n" for i, name in enumerate(files)})
    found = read_results(tmp_path, dataset(*names))
    assert {found.runs[name][0].boxes[0, 0]: name for name in names} == dict(enumerate(files.values()))
    assert list(found.runs) == list(names)  # the data set's order
    put(tmp_path / "x", {"Basketball.txt": text()})
    assert list(read_results(tmp_path / "x", dataset("nfs_basketball")).runs) == ["nfs_basketball"]


def test_exact_names_win(tmp_path: Path) -> None:
    put(tmp_path, {"a-1.txt": text(), "A-1.txt": "9,9,9,9\n", "a.1.txt": "8,8,8,8\n"})
    found = read_results(tmp_path, dataset("A-1", "a-1", "a_1"))
    assert found.runs["A-1"][0].boxes[0, 0] == 9
    assert found.runs["a-1"][0].boxes[0, 0] == 1
    assert "a_1" not in found.runs  # a.1 could be any of them
    assert any("no result for a_1" in n for n in found.notes)
    assert any("a.1.txt" in n for n in found.notes)


def test_unmatched_missing_and_double_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": text(), "A.txt": text(), "elsewhere.txt": text(), "readme.md": "x"})
    notes = read_results(tmp_path, dataset("a", "b")).notes
    assert any("no result for b" in n for n in notes)
    assert any("match no sequence: elsewhere.txt" in n for n in notes)
    assert any("not used: A.txt" in n for n in notes)


# --- damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2,3,4\n5,6,7", r"a\.txt, line 2 has 3 numbers"),
        ("1,2,3,4\n5,6,7,8,9\n", r"a\.txt, line 2 has 5 numbers"),
        ("1:2:3:4\n", r"a\.txt, line 1: .* is not a number"),
        ("1,2,3,4\n5,,7,8\n", r"line 2 has an empty place"),
        ("", r"a\.txt holds no numbers"),
        (b"\xff\xfe\x00", r"a\.txt, line 1: byte 0xff"),
    ],
)
@pytest.mark.parametrize("pack", [False, True], ids=["folder", "zip"])
def test_damaged_files_are_named_errors(tmp_path: Path, content: str | bytes, message: str, pack: bool) -> None:
    files: dict[str, str | bytes] = {"a.txt": content}
    place = zipped(tmp_path / "r.zip", files) if pack else put(tmp_path / "r", files)
    with pytest.raises(InputError, match=message):
        read_results(place, dataset("a"))


def test_longer_and_shorter_files_are_kept_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": "1,2,3,4\n" * 7, "b.txt": "1,2,3,4\n" * 2, "b_time.txt": "1\n" * 3})
    found = read_results(tmp_path, dataset("a", "b"))
    assert [len(found.runs[n][0].boxes) for n in "ab"] == [7, 2]
    assert len(found.runs["b"][0].seconds) == 2
    assert any("b_time.txt has 3 lines for 2 boxes" in n for n in found.notes)


def test_unknown_layouts_list_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path, {"notes.doc": "x"})
    with pytest.raises(InputError) as error:
        read_results(tmp_path, dataset("a"))
    assert all(name in str(error.value) for name in LAYOUTS)
    assert "notes.doc" in str(error.value)
    with pytest.raises(InputError, match=r"MATLAB files are not read.*writematrix"):
        read_results(put(tmp_path / "m", {"a.mat": "x"}), dataset("a"))
    with pytest.raises(InputError, match="no result layout 'motchallenge'"):
        read_results(tmp_path, dataset("a"), "motchallenge")
    with pytest.raises(VideoError, match="does not exist"):
        read_results(tmp_path / "none", dataset("a"))
    with pytest.raises(VideoError, match="neither a folder nor a zip"):
        read_results(put(tmp_path, {"a.txt": text()}) / "a.txt", dataset("a"))


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_files_that_may_not_be_read(tmp_path: Path) -> None:
    put(tmp_path, {"a.txt": text()})
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(VideoError, match=r"a\.txt cannot be read: permission denied"):
        read_results(tmp_path, dataset("a"))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.txt": text()})

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VideoError, match=r"a\.txt cannot be read: permission denied"):
        read_results(tmp_path, dataset("a"))


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "x/../../a.txt", "C:/a.txt", "x\\a.txt"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    place = zipped(tmp_path / "r.zip", {name: text()})
    with pytest.raises(InputError, match="leads out of it"):
        read_results(place, dataset("a"))


def test_bombs_and_broken_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = zipped(tmp_path / "r.zip", {"a.txt": "1,2,3,4\n" * 1000, "b.txt": text()})
    monkeypatch.setattr(file_tree, "MAX_TOTAL_BYTES", 5000)
    with pytest.raises(InputError, match="unpacks to"):
        read_results(place, dataset("a"))
    monkeypatch.setattr(file_tree, "MAX_MEMBER_BYTES", 4000)
    with pytest.raises(InputError, match=r"a\.txt unpacks to"):
        read_results(place, dataset("a"))
    monkeypatch.undo()
    data = place.read_bytes()
    place.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="was it copied completely"):
        read_results(place, dataset("a"))
    place.write_bytes(data[:40] + b"\x00\x00\x00\x00\x00" + data[45:])
    with pytest.raises(VideoError, match=r"a\.txt cannot be unpacked"):
        read_results(place, dataset("a"))


# --- published results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("otb100", "otb"),
        ("uav123_10fps", "otb"),
        ("got10k_val", "got10k"),
        ("vot2018", "vot"),
        ("vot2019", "vot"),
        ("ltb35", "vot"),
    ],
)
def test_published_results(name: str, layout: str) -> None:
    sequences = published_sets.sequences(name)
    for path in published_sets.result_files(name):
        found = read_results(path, sequences)
        assert (found.layout, found.tracker) == (layout, path.stem)
        assert list(found.runs) == list(sequences)
        assert not any("match no sequence" in n for n in found.notes)
        for key, own in found.runs.items():
            for run in own:
                # MDNet's files lack a last row here and there (the results' README)
                assert len(sequences[key]) - 1 <= len(run.boxes) <= len(sequences[key]), (path, key)
                if layout == "vot":
                    assert run.regions[0] == Special(Code.INITIALISATION)
                assert layout != "got10k" or run.seconds is not None
                if name == "ltb35":  # no confidence in the first frame, nan where the tracker is lost
                    assert np.isnan(run.presence[0])
                    assert np.isfinite(run.presence).mean() > 0.5


# --- golden folders -------------------------------------------------------------------------------------------------------


def test_one_of_several_trackers_in_golden_folders(golden: Path) -> None:
    folder = golden / "metrics" / "ope" / "otb"
    if not folder.is_dir():
        pytest.skip(f"{golden} has no metrics/ope/otb")
    groups: dict[str, list[Path]] = {}
    for place in sorted((folder / "results").iterdir()):
        groups.setdefault(place.name.rsplit("_", 1)[0] if place.name[-3:].isdigit() else place.name, []).append(place)
    names = sorted(p.stem for p in next(iter(groups.values()))[0].glob("*.txt"))
    sequences = dataset(*names)
    with pytest.raises(InputError, match="give the folder of one tracker"):
        read_results(folder / "results", sequences)
    for tracker, places in groups.items():
        found = read_results(folder / "results", sequences, tracker=tracker)
        assert found.tracker.split("/")[-1] == tracker
        assert {n: len(own) for n, own in found.runs.items()} == dict.fromkeys(names, len(places))


def test_published_zip_to_score() -> None:
    """The whole way for a user: a downloaded zip, a data set, the number that its publisher printed."""
    sequences = published_sets.sequences("otb100")
    expected = json.loads((published_sets.FOLDER / "expected.json").read_text())["otb100"]
    path = min(published_sets.result_files("otb100"), key=lambda p: p.stat().st_size)
    found = read_results(path, sequences)
    scores = score(sequences.values(), found.runs, tracker=found.tracker, dataset="otb100", rule="otb")
    for metric, value in expected[found.tracker]["recomputed"]["otb"].items():
        assert scores.values[metric] == pytest.approx(value, abs=1e-6), metric
