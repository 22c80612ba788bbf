"""VOT readers: three protocols, copies with and without the toolkit's header, damage."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from keepsight.datasets import lines, vot
from keepsight.datasets.catalog import open_dataset
from keepsight.errors import InputError, VideoError
from keepsight.regions import Code, Mask, Polygon, Rectangle, Special, polygon_to_box

POLYGON = (10.0, 10.0, 30.0, 12.0, 28.0, 32.0, 8.0, 30.0)


def text(values: tuple[float, ...]) -> str:
    return ",".join(map(str, values))


def make(
    root: Path,
    name: str = "bag",
    truth: str | None = None,
    images: str | None = "color",
    header: bool = True,
    n: int = 4,
) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "groundtruth.txt").write_text("\n".join([text(POLYGON)] * n) + "\n" if truth is None else truth)
    if header:
        head = f"channels.color=color/%08d.jpg\nname={name}\nfps=30\nwidth=40\nheight=36\nlength={n}\n"
        (folder / "sequence").write_text(head)
    if images is not None:
        (folder / images).mkdir(exist_ok=True)
        for i in range(1, n + 1):
            cv2.imwrite(str(folder / images / f"{i:08d}.jpg"), np.full((36, 40, 3), 20 * i, np.uint8))
    with open(root / "list.txt", "a") as file:
        file.write(name + "\n")
    return folder


def only(root: Path, **options: Any) -> Any:
    (sequence,) = vot.read_vot(root, **options)
    return sequence


# ------------------------------------------------------------------------------------------------------- golden folders


def data(golden: Path, name: str) -> Path:
    folder = golden / "metrics" / name / "data"
    if not folder.is_dir():
        pytest.skip(f"{golden} has no metrics/{name}/data")
    return folder


def raw(folder: Path) -> list[str]:
    return (folder / "groundtruth.txt").read_text().split()


@pytest.mark.parametrize("name", ["vot_supervised", "vot_multistart", "vot_longterm"])
def test_golden_folders(golden: Path, name: str) -> None:
    root = data(golden, name)
    sequences = vot.read_vot(root, longterm=name == "vot_longterm")
    assert [s.name for s in sequences] == (root / "list.txt").read_text().split()
    for sequence in sequences:
        folder, n = root / sequence.name, len(sequence)
        annotation = pickle.loads(pickle.dumps(sequence)).annotation
        rows = raw(folder)
        assert n == len(rows)
        assert annotation.boxes.shape == (n, 4)
        assert len(annotation.regions) == n
        header = dict(line.split("=") for line in (folder / "sequence").read_text().split())
        assert annotation.image_size == (int(header["width"]), int(header["height"]))
        absent = np.array(["nan" in row.lower() or row == "0" for row in rows])
        np.testing.assert_array_equal(np.isnan(annotation.boxes).all(axis=1), absent)
        assert set(annotation.tags) == {p.stem for p in folder.glob("*.tag")}
        for tag, flags in annotation.tags.items():
            np.testing.assert_array_equal(flags, np.loadtxt(folder / f"{tag}.tag", ndmin=1) == 1)
        if (folder / "anchor.value").is_file():
            np.testing.assert_array_equal(annotation.anchors, np.loadtxt(folder / "anchor.value"))
        if name == "vot_longterm":
            np.testing.assert_array_equal(annotation.visible, ~absent)
        for region, row, box in zip(annotation.regions, rows, annotation.boxes, strict=True):
            if isinstance(region, Mask):
                assert row[0] == "m"
                assert region.pixels.sum() == sum(map(int, row[1:].split(",")[5::2]))
                assert tuple(box[2:]) == region.pixels.shape[::-1]
            elif isinstance(region, Polygon):
                np.testing.assert_array_equal(box, polygon_to_box(np.array(row.split(","), float), "area"))


# --------------------------------------------------------------------------------------------------------------- layouts


def test_toolkit_layout(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "bag" / "occlusion.tag").write_text("0\n1\n")  # stops early, as some do
    (tmp_path / "bag" / "practical.value").write_text("0.5\n")
    sequence = pickle.loads(pickle.dumps(only(tmp_path)))
    assert (sequence.name, len(sequence), sequence.start) == ("bag", 4, 1)
    assert abs(int(sequence.frames[2][0, 0, 0]) - 60) < 3
    assert sequence.frames.paths[3] == tmp_path / "bag" / "color" / "00000004.jpg"
    annotation = sequence.annotation
    np.testing.assert_array_equal(annotation.polygons, [POLYGON] * 4)
    np.testing.assert_array_equal(annotation.boxes[0], polygon_to_box(POLYGON, "area"))
    np.testing.assert_array_equal(annotation.tags["occlusion"], [False, True, False, False])
    assert list(annotation.tags) == ["occlusion"]
    assert annotation.anchors is None
    assert annotation.visible is None
    assert annotation.image_size == (40, 36)


def test_union_boxes_on_request(tmp_path: Path) -> None:
    make(tmp_path)
    np.testing.assert_array_equal(only(tmp_path, how="union").boxes[0], [8, 10, 22, 22])
    assert (only(tmp_path).boxes[0] != [8, 10, 22, 22]).any()


@pytest.mark.parametrize("images", ["color", "."])
def test_older_copies_without_header(tmp_path: Path, images: str) -> None:
    make(tmp_path, images=images, header=False)
    sequence = only(tmp_path)
    assert len(sequence) == 4
    assert abs(int(sequence.frames[3][0, 0, 0]) - 80) < 3
    assert sequence.annotation.image_size is None
    assert len(sequence.boxes) == 4


@pytest.mark.parametrize("header", [True, False])
def test_without_images(tmp_path: Path, header: bool) -> None:
    make(tmp_path, images=None, header=header)
    sequence = only(tmp_path)
    assert len(sequence) == 4
    assert len(sequence.boxes) == 4
    with pytest.raises(InputError, match="no pictures"):
        sequence.frames[0]


def test_workspace_of_the_toolkit(tmp_path: Path) -> None:
    make(tmp_path / "sequences")
    (tmp_path / "config.yaml").write_text("stack: vot2018/shortterm\n")
    assert only(tmp_path).name == "bag"
    assert list(open_dataset("vot2018", tmp_path)) == ["bag"]


def test_without_list_the_folders_by_name(tmp_path: Path) -> None:
    for name in ("dinosaur", "bag"):
        make(tmp_path, name)
    assert [s.name for s in vot.read_vot(tmp_path)] == ["dinosaur", "bag"]
    (tmp_path / "list.txt").unlink()
    (tmp_path / "notes").mkdir()
    assert [s.name for s in vot.read_vot(tmp_path)] == ["bag", "dinosaur"]


def test_other_channels_are_passed_over(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "sequence").write_text("channels.depth=depth/%08d.png\nchannels.color=color/%08d.jpg\nlength=4\n")
    (folder / "depth").mkdir()
    assert only(tmp_path).frames.paths[0].parent.name == "color"


def test_regions_codes_and_masks(tmp_path: Path) -> None:
    truth = "1,2,3,4\nnan,nan,nan,nan\nm5,6,2,2,1,3\n" + text((*POLYGON, 5.0, 20.0))
    folder = make(tmp_path, truth=truth)
    (folder / "anchor.value").write_text("1.0\n0.0\n-1.0\n")
    annotation = only(tmp_path).annotation
    kinds = [type(r) for r in annotation.regions]
    assert kinds == [Rectangle, Special, Mask, Polygon]
    assert annotation.regions[1].code == Code.UNKNOWN
    np.testing.assert_array_equal(annotation.boxes[:3], [[1, 2, 3, 4], [np.nan] * 4, [5, 6, 2, 2]])
    assert annotation.polygons is None  # five corners do not fit
    np.testing.assert_array_equal(annotation.anchors, [1, 0, -1, 0])


def test_long_term_absence(tmp_path: Path) -> None:
    make(tmp_path, truth="1,2,3,4\r\nnan,nan,nan,nan\r\n1;2;3;4\r\n1\t2\t3\t4\r\n\r\n")
    np.testing.assert_array_equal(only(tmp_path, longterm=True).annotation.visible, [True, False, True, True])


def test_every_name_opens_with_its_rule(tmp_path: Path) -> None:
    make(tmp_path)
    want = {f"vot{y}": ("vot-supervised", "supervised") for y in range(2015, 2020)}
    want |= dict.fromkeys(("vot2020", "vot2021", "vot2022", "vot2022_box"), ("vot-multistart", "multistart"))
    want |= {f"votlt{y}": ("vot-lt", "longterm") for y in (2018, 2019, 2020)}
    assert {e.name for e in vot.ENTRIES} == set(want)
    for name, (rule, protocol) in want.items():
        dataset = open_dataset(name, tmp_path)
        assert (dataset.rule, dataset.protocol, dataset["bag"].dataset) == (rule, protocol, name)
        assert (dataset["bag"].annotation.visible is not None) == (protocol == "longterm")


def test_opening_reads_no_annotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr(vot, "read_lines", lambda p, **k: opened.append(p.name) or lines.read_lines(p, **k))
    sequence = only(tmp_path)
    assert len(sequence) == 4
    assert sorted(opened) == ["list.txt", "sequence"]
    assert len(sequence.boxes) == 4
    assert opened[-1] == "groundtruth.txt"


# ---------------------------------------------------------------------------------------------------------------- damage


def test_list_names_what_is_not_there(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "list.txt").write_text("bag\nbolt1\n")
    with pytest.raises(InputError, match="names 'bolt1', but there is no such folder"):
        vot.read_vot(tmp_path)
    (tmp_path / "bolt1").mkdir()
    with pytest.raises(InputError, match=r"no groundtruth\.txt in it"):
        vot.read_vot(tmp_path)
    (tmp_path / "list.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"list\.txt is empty"):
        vot.read_vot(tmp_path)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("", r"groundtruth\.txt is empty"),
        ("1,2,3,4\n" * 3, r"groundtruth\.txt has 3 lines for 4 frames"),
        ("1,2,3,4\n" * 5, r"groundtruth\.txt has 5 lines for 4 frames"),
        ("1,2,3,4\n1,2,3\n1,2,3,4\n1,2,3,4\n", r"groundtruth\.txt, line 2: "),
        ("1,2,3,4\n1,2,3,4\n\n1,2,3,4\n", r"groundtruth\.txt, line 3: "),
        ("1,2,3,4\n1|2|3|4\n1,2,3,4\n1,2,3,4\n", r"groundtruth\.txt, line 2: "),
        ("1,2,3,4\n1,2,3,4\n1,2,3,4\nm5,6,2,2,1,2\n", r"groundtruth\.txt, line 4: .*cut off"),
    ],
)
def test_damaged_ground_truth(tmp_path: Path, truth: str, message: str) -> None:
    make(tmp_path, truth=truth)
    with pytest.raises(InputError, match=message):
        _ = only(tmp_path).annotation


def test_damaged_side_files(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "anchor.value").write_text("1\n0\n2\n0\n")
    with pytest.raises(InputError, match=r"anchor\.value, line 3 is 2"):
        _ = only(tmp_path).annotation
    (folder / "anchor.value").write_text("1\n0\n0\n0\n-1\n")
    with pytest.raises(InputError, match=r"anchor\.value has 5 lines for 4 frames"):
        _ = only(tmp_path).annotation
    (folder / "anchor.value").unlink()
    (folder / "occlusion.tag").write_text("0\nyes\n")
    with pytest.raises(InputError, match=r"occlusion\.tag, line 2"):
        _ = only(tmp_path).annotation
    (folder / "occlusion.tag").write_text("")
    np.testing.assert_array_equal(only(tmp_path).annotation.tags["occlusion"], [False] * 4)


def test_damaged_header_and_frames(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (folder / "color" / "00000002.jpg").unlink()
    sequence = only(tmp_path)
    assert len(sequence) == 4  # the others keep their numbers
    assert abs(int(sequence.frames[2][0, 0, 0]) - 60) < 3
    with pytest.raises(VideoError, match=r"00000002\.jpg"):
        sequence.frames[1]
    (folder / "sequence").write_text("length=many\n")
    with pytest.raises(InputError, match="length=many"):
        vot.read_vot(tmp_path)
    (folder / "sequence").write_text("length=4\nchannels.color=color/first.jpg\n")
    with pytest.raises(InputError, match=r"channels\.color=color/first\.jpg"):
        vot.read_vot(tmp_path)
    (folder / "sequence").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        vot.read_vot(tmp_path)
