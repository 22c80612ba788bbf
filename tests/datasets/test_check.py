"""``check``: every kind of damage is a finding that names its place, and nothing makes it crash."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import layouts
import numpy as np
import pytest

from keepsight.datasets.check import CheckReport, check, list_datasets
from keepsight.datasets.masks import save_indexed_png
from keepsight.errors import InputError


@pytest.fixture
def lasot(tmp_path: Path) -> Path:
    return layouts.lasot(tmp_path / "LaSOT", ("airplane-1", "airplane-9", "bear-2"), frames=4)


def messages(report: CheckReport, sequence: str, level: str = "error") -> str:
    return "\n".join(f"{f.file}: {f.message}" for f in report.findings if f.sequence == sequence and f.level == level)


def test_sound_copy(lasot: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check("lasot", lasot.parent, progress=lambda *n: calls.append(n))
    assert (report.root, report.how, report.sequences, report.frames) == (lasot, "given", 3, 12)
    assert (report.expected.sequences, report.expected.frames, len(report.missing)) == (280, 685_360, 277)
    assert not report.errors
    assert messages(report, "airplane-1", "note") == "None: 1 of 4 rows have a width or height of 0 or less"
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert not report.ok  # 277 are missing


def test_a_complete_copy_is_ok(tmp_path: Path) -> None:
    report = check("folder", layouts.own(tmp_path, "a"))
    assert report.ok
    assert report.findings == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: (s / "img/00000001.jpg").unlink(), r"1 of 4 images are missing (the first): 00000001.jpg"),
        (lambda s: (s / "img/00000003.jpg").unlink(), r"1 of 4 images are missing (between): 00000003.jpg"),
        (lambda s: (s / "img/00000004.jpg").unlink(), r"groundtruth.txt has 4 lines, but"),
        (lambda s: shutil.rmtree(s / "img"), r"none of the 4 images is there (expected 00000001.jpg, ..)"),
        (lambda s: (s / "img/00000002.jpg").write_bytes(b""), r"00000002.jpg: image file is empty"),
        (lambda s: (s / "img/00000004.jpg").write_bytes(b"no image"), r"00000004.jpg cannot be decoded"),
        (lambda s: (s / "groundtruth.txt").write_text("1,2,3,4\n" * 5), r"has 5 lines, but"),
        (lambda s: (s / "groundtruth.txt").write_text("1/2/3/4\n" * 4), r"groundtruth.txt, line 1"),
        (lambda s: (s / "groundtruth.txt").write_text(""), r"groundtruth.txt"),
        (lambda s: (s / "groundtruth.txt").write_bytes(b"\xff\xfe\x00"), r"groundtruth.txt"),
        (lambda s: layouts.write(s / "groundtruth.txt", [[0, 0, 0, 0]] * 4), r"the first frame's box is 0, 0, 0, 0"),
        (lambda s: layouts.write(s / "groundtruth.txt", [[np.nan] * 4] * 4), r"the first frame's box is nan, nan"),
        (
            lambda s: layouts.write(s / "groundtruth.txt", [[1, 2, 3, 4]] * 3 + [[np.inf] * 4]),
            r"line 4: [inf, inf, inf, inf] are no pixels",
        ),
        (lambda s: (s / "out_of_view.txt").unlink(), r"out_of_view.txt"),
        (lambda s: (s / "full_occlusion.txt").write_text("0,0"), r"full_occlusion.txt has 2 numbers"),
        (lambda s: shutil.rmtree(s), ""),
    ],
)
def test_damage_is_found_and_named(damage, message: str, lasot: Path) -> None:
    damage(lasot / "airplane/airplane-1")
    report = check("lasot", lasot)
    assert message in messages(report, "airplane-1")
    assert (report.sequences, "airplane-1" in report.missing) == ((3, False) if message else (2, True))
    assert {f.sequence for f in report.errors} <= {"airplane-1"}
    assert len({f.message for f in report.errors}) == len(report.errors)  # nothing twice


def test_pictures_of_two_sizes(lasot: Path) -> None:
    import cv2

    cv2.imwrite(str(lasot / "bear/bear-2/img/00000004.jpg"), np.zeros((10, 12, 3), np.uint8))
    assert "the first picture is 24x16, the last 12x10" in messages(check("lasot", lasot), "bear-2", "note")


def test_gap_in_a_folder_without_a_list(tmp_path: Path) -> None:
    layouts.trackingnet(tmp_path, "TEST", "a", 12, 1)
    layouts.trackingnet(tmp_path, "TEST", "b", 12, 1)
    (tmp_path / "TEST/frames/a/7.jpg").unlink()
    report = check("trackingnet", tmp_path)
    assert "the file numbers leave out 7" in messages(report, "a")
    assert not messages(report, "b")


def test_short_video(tmp_path: Path) -> None:
    from keepsight.video import VideoWriter

    layouts.write(tmp_path / "a/groundtruth.txt", layouts.boxes(6))
    with VideoWriter(tmp_path / "a/video.mp4", fps=10) as writer:
        for _ in range(4):
            writer.write(np.zeros((32, 48, 3), np.uint8))
    assert "6 lines" in messages(check("folder", tmp_path), "a")


def test_not_found_is_a_finding(tmp_path: Path) -> None:
    report = check("otb100", tmp_path)
    assert (report.root, report.sequences, report.ok) == (None, 0, False)
    assert "OTB-100 is not found" in report.findings[0].message
    assert len(report.missing) == 100
    with pytest.raises(InputError, match="did you mean"):
        check("otb10", tmp_path)


def test_broken_list_is_a_finding(tmp_path: Path) -> None:
    layouts.got10k(tmp_path, "val", 1)
    (tmp_path / "val/list.txt").write_text("nonsense\n")
    report = check("got10k", tmp_path)
    assert report.root == tmp_path
    assert "list.txt holds 'nonsense'" in report.findings[0].message


def test_a_bug_in_a_reader_does_not_end_the_report(lasot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keepsight.datasets.lasot as reader

    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(reader, "read_labels", broken)
    report = check("lasot", lasot)
    assert len(report.errors) == 3
    assert "annotation: ZeroDivisionError: oh" in messages(report, "bear-2")


def test_joined(tmp_path: Path) -> None:
    layouts.nfs(tmp_path / "nfs", ("nfs_zebra_fish",))
    layouts.uav(tmp_path / "UAV123", ("uav_bike1",))
    report = check("nfs30+uav123", tmp_path)
    assert (report.sequences, report.expected.sequences, report.expected.frames) == (2, 223, 47_953 + 112_578)
    assert [p.name for p in report.parts] == ["nfs30", "uav123"]
    assert "667 of 671 images are missing (between)" in messages(report, "nfs_zebra_fish")
    assert check("nuo323", tmp_path).root is None


def test_list(tmp_path: Path, lasot: Path) -> None:
    layouts.got10k(tmp_path / "got10k", "val", 2)
    (tmp_path / "got10k/val/list.txt").write_text("nonsense\n")
    status = {s.name: s for s in list_datasets(tmp_path)}
    assert (status["lasot"].root, status["lasot"].how, status["lasot"].sequences) == (lasot, "given", 3)
    assert status["lasot"].expected.sequences == 280
    assert (status["otb100"].root, status["otb100"].sequences, status["otb100"].problem) == (None, None, "")
    assert status["got10k"].sequences is None
    assert "nonsense" in status["got10k"].problem


def test_first_boxes_that_say_something(tmp_path: Path) -> None:
    layouts.own(tmp_path, "outside", rows=layouts.boxes(4) + np.array([90, 0, 0, 0]))
    layouts.own(tmp_path, "hidden", rows=layouts.boxes(1))
    report = check("folder", tmp_path)
    assert "91, 2, 10, 8 lies outside the picture of 24x16" in messages(report, "outside")
    assert not messages(report, "hidden")
    assert "only the first frame has a box" in messages(report, "hidden", "note")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_only_files_are_images(tmp_path: Path) -> None:
    layouts.own(tmp_path, "a")
    image = tmp_path / "a/img/00002.jpg"
    image.unlink()
    image.mkdir()
    assert "1 of 4 images are missing (between): 00002.jpg" in messages(check("folder", tmp_path), "a")
    image.rmdir()
    image.symlink_to(tmp_path / "nowhere")
    assert "1 of 4 images are missing (between): 00002.jpg" in messages(check("folder", tmp_path), "a")


def test_an_empty_first_mask_is_no_start(tmp_path: Path) -> None:
    for i in range(3):
        layouts.picture(tmp_path / f"JPEGImages/frog/{i}.png", i)
        ids = np.zeros((layouts.HEIGHT, layouts.WIDTH), np.uint8)
        ids[2:5, 2:5] = int(i > 0)
        save_indexed_png(tmp_path / f"GroundTruth/frog/{i}.png", ids)
    assert "the first frame's box is nan, nan, nan, nan" in messages(check("segtrackv2", tmp_path), "frog")
