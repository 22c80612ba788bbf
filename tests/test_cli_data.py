"""``keepsight data``: what it says about complete, incomplete, damaged and absent data sets, and its exit status."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from keepsight.cli import data, main
from keepsight.datasets.check import list_datasets
from keepsight.datasets.masks import save_indexed_png

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on this machine says where data sets lie."""
    settings = tmp_path / "settings" / "data.toml"
    settings.parent.mkdir()
    settings.write_text("")
    monkeypatch.setenv("KEEPSIGHT_CONFIG", str(settings))
    for name in ("KEEPSIGHT_DATA", "KEEPSIGHT_DATA_VOT2018", "KEEPSIGHT_DATA_SEGTRACKV2"):
        monkeypatch.delenv(name, raising=False)


def vot(root: Path, names: tuple[str, ...] = ("bag",), n: int = 3) -> Path:
    for name in names:
        (root / name / "color").mkdir(parents=True)
        (root / name / "groundtruth.txt").write_text("4,4,9,9\n" * n)
        (root / name / "anchor.value").write_text("1\n" + "0\n" * (n - 1))
        (root / name / "sequence").write_text(f"length={n}\nchannels.color=color/%08d.jpg\n")
        for i in range(n):
            cv2.imwrite(str(root / name / "color" / f"{i + 1:08d}.jpg"), np.full((24, 32, 3), 90, np.uint8))
    (root / "list.txt").write_text("\n".join(names))
    return root


def segtrack(root: Path) -> Path:
    """24 objects, as many as published."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 1
    (root / "JPEGImages" / "penguin").mkdir(parents=True)
    cv2.imwrite(str(root / "JPEGImages" / "penguin" / "1.png"), np.zeros((8, 8, 3), np.uint8))
    for number in range(1, 25):
        save_indexed_png(root / "GroundTruth" / "penguin" / str(number) / "1.png", mask)
    return root


def test_list(tmp_path: Path, capsys: Capture) -> None:
    vot(tmp_path / "VOT2018", ("bag", "bolt1"))
    (tmp_path / "VOT2019").mkdir()
    (tmp_path / "VOT2019" / "list.txt").write_text("bag\n")
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert {status.name for status in list_datasets()} <= set(rows)
    assert rows["vot2018"].split()[1:4] == ["VOT2018", "here", "2/60"]
    assert str(tmp_path / "VOT2018") in rows["vot2018"]
    assert rows["vot2019"].split()[2:4] == ["broken", "-/60"]
    assert "names 'bag', but there is no such folder" in rows["vot2019"]
    assert rows["vot2017"].split()[2:4] == ["absent", "-/60"]
    assert "vot initialize vot2017/shortterm" in rows["vot2017"]
    assert "splits: val, train, test-dev" in rows["davis2017"]
    assert rows["trackingnet"].endswith("more")
    assert rows["ecssd"].split()[1:3] == ["ECSSD", "absent"]
    assert "parts: train2014, train2017" in rows["coco"]
    assert "nuo323 is nfs30+uav123+otb100" in lines[-2]
    assert "--data-root" in lines[-1]


def test_check_of_a_complete_copy(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "check", "segtrackv2", "--data-root", str(segtrack(tmp_path)), "--frames"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path} (given)" in out
    assert "sequences   24 of 24" in out
    assert "frames      24\n" in out
    assert out.endswith("\ncomplete\n")
    assert "should look like" not in out


def test_check_without_a_published_number(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "check", "vot2022", "--data-root", str(vot(tmp_path))]) == 0
    assert "nothing is wrong (how many sequences there should be is not known)" in capsys.readouterr().out


def test_check_of_a_multi_start_set_without_anchors(tmp_path: Path, capsys: Capture) -> None:
    (vot(tmp_path) / "bag/anchor.value").unlink()
    assert main(["data", "check", "vot2022", "--data-root", str(tmp_path)]) == 2
    assert "bag: no anchors (anchor.value)" in capsys.readouterr().out


def test_check_that_finds_no_sequence(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a/groundtruth.txt").mkdir(parents=True)
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "nothing is wrong" not in capsys.readouterr().out


def test_check_of_an_incomplete_copy(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "check", "vot2018", "--data-root", str(vot(tmp_path))]) == 2
    out = capsys.readouterr().out
    assert "sequences   1 of 60" in out
    assert "frames      3 of 21,356" in out
    assert "\nnot complete\n" in out
    assert "The folder of VOT2018 should look like this:\n  list.txt\n" in out
    assert "It can be obtained from: pip install vot-toolkit" in out


def test_check_names_every_fault(tmp_path: Path, capsys: Capture) -> None:
    vot(tmp_path, ("bag", "bolt1", "car", "dog"), n=4)
    (tmp_path / "bag" / "groundtruth.txt").write_text("4,4,9,9\n" * 3)
    (tmp_path / "bolt1" / "color" / "00000002.jpg").unlink()
    for name in ("00000002.jpg", "00000003.jpg"):
        (tmp_path / "car" / "color" / name).write_bytes(b"")
    (tmp_path / "dog" / "groundtruth.txt").write_text("4,4,9,9\n1,2\n4,4,9,9\n4,4,9,9\n")
    assert main(["data", "check", "vot2018", "--data-root", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    errors = [line for line in out.splitlines() if line.startswith("error")]
    assert len(errors) == 4
    assert "groundtruth.txt has 3 lines for 4 frames" in errors[0]
    assert "bolt1" in errors[1]
    assert "00000002.jpg" in errors[1]
    assert "2 files (00000002.jpg, 00000003.jpg)" in errors[2]
    assert "groundtruth.txt, line 2" in errors[3]
    assert "not complete, 5 errors" in out


def test_frames_decodes_what_lies_between(tmp_path: Path, capsys: Capture) -> None:
    vot(tmp_path)
    image = tmp_path / "bag" / "color" / "00000002.jpg"
    image.write_bytes(b"not a picture")
    command = ["data", "check", "vot2022", "--data-root", str(tmp_path)]
    assert main(command) == 0
    assert "complete" not in capsys.readouterr().out
    assert main([*command, "--frames"]) == 2
    out = capsys.readouterr().out
    (error,) = [line for line in out.splitlines() if line.startswith("error")]
    assert error.startswith("error       bag: ")
    assert str(image) in error
    assert "not complete, 1 error\n" in out


def test_the_same_note_is_told_once(tmp_path: Path, capsys: Capture) -> None:
    names = tuple(f"s{i}" for i in range(8))
    vot(tmp_path, names)
    for name in names:
        for image in (tmp_path / name / "color").iterdir():
            image.unlink()
        (tmp_path / name / "color").rmdir()
    assert main(["data", "check", "vot2022", "--data-root", str(tmp_path), "--frames"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes == ["note        s0, s1, s2, s3, s4 and 3 more: annotation only, no images"]


def test_many_notes_are_cut(tmp_path: Path, capsys: Capture) -> None:
    names = tuple(f"s{i}" for i in range(15))
    vot(tmp_path, names, n=20)
    for i, name in enumerate(names):
        (tmp_path / name / "groundtruth.txt").write_text("4,4,9,9\n" * (19 - i) + "nan,nan,nan,nan\n" * (i + 1))
    assert main(["data", "check", "votlt2018", "--data-root", str(tmp_path)]) == 2
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(notes) == data.NOTES_SHOWN + 1
    assert notes[-1] == "note        .. and 5 more, ordinary for many data sets"


def test_check_of_an_absent_data_set(capsys: Capture) -> None:
    assert main(["data", "check", "vot2018"]) == 2
    out = capsys.readouterr().out
    assert "folder      not found" in out
    assert "KEEPSIGHT_DATA_VOT2018" in out
    assert out.count("bag/groundtruth.txt") == 1  # the layout is shown once
    assert out.count("It can be obtained from") == 1


def test_check_of_joined_data_sets(tmp_path: Path, capsys: Capture) -> None:
    vot(tmp_path / "VOT2018")
    assert main(["data", "check", "vot2018+vot2017", "--data-root", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    assert f"folder      {tmp_path / 'VOT2018'} (given), VOT2018" in out
    assert "folder      not found, VOT2017" in out
    assert "sequences   1 of 120" in out
    assert out.count("The folder of") == 1


def test_unknown_names(capsys: Capture) -> None:
    assert main(["data", "check", "vot1999"]) == 2
    assert "unknown data set 'vot1999'; did you mean" in capsys.readouterr().err
    assert main(["data", "check", "davis2017:vol"]) == 2
    assert "no split 'vol'; did you mean 'val'" in capsys.readouterr().err


def test_news_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    clock = iter((0.0, 5.0, 12.0, 12.5, 13.0))
    monkeypatch.setattr(data.time, "monotonic", lambda: next(clock))
    news = data._News("sequences")
    news(1, 9)  # after 5 s
    news(2, 9)  # after 12 s, told at 12.5 s
    news(3, 9)
    assert capsys.readouterr().err == "2 of 9 sequences\n"


def test_help_names_the_options(capsys: Capture) -> None:
    assert main(["data", "--help"]) == 0
    assert "keepsight data list" in capsys.readouterr().out
    assert main(["data", "check", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--frames" in out
    assert "--data-root DIR" in out


def test_check_of_a_folder_of_ones_own(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "videos" / "a"
    folder.mkdir(parents=True)
    (folder / "groundtruth.txt").write_text("1,2,3,inf\n1,2,3,4\n")
    assert main(["data", "check", str(tmp_path / "videos")]) == 2
    assert "groundtruth.txt, line 1: [1.0, 2.0, 3.0, inf] are no pixels" in capsys.readouterr().out
