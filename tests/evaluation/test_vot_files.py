"""Result trees of the VOT toolkits: round trips, other toolkits' habits, damaged files."""

from __future__ import annotations

import contextlib
import struct
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from vot_results import read_vot_results

from keepsight.datasets.frames import NoFrames
from keepsight.datasets.sequence import Annotation, Sequence
from keepsight.errors import InputError, VideoError
from keepsight.evaluation.runs import Run
from keepsight.evaluation.vot_files import (
    decode_regions,
    encode_regions,
    read_regions,
    write_regions,
    write_vot_results,
)
from keepsight.regions import Mask, Polygon, Rectangle, Special, format_region, region_to_box

START, FAILED, UNKNOWN = Special(1), Special(2), Special(0)
LINES = (START, Rectangle(1.5, 2.25, 10, 20), Polygon(np.array([[0.0, 0], [4, 1], [2, 5]])), FAILED, UNKNOWN)

single = st.floats(-1e6, 1e6, width=32)
regions = st.one_of(
    st.integers(0, 2).map(Special),
    st.builds(Rectangle, single, single, single, single),
    st.lists(st.tuples(single, single), min_size=3, max_size=6).map(lambda p: Polygon(np.array(p))),
    st.builds(
        Mask,
        st.integers(-300, 300),
        st.integers(-300, 300),
        hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)),
    ),
)


def _same(annotation):
    return annotation


def sequence(name="a", count=5):
    return Sequence(name, "made", NoFrames(count), partial(_same, Annotation(np.zeros((count, 4)))))


def run(lines=LINES, **more):
    return Run(np.array([region_to_box(r) for r in lines]), regions=tuple(lines), **more)


def texts(lines):
    return [format_region(r) for r in lines]


# --- trajectories ---------------------------------------------------------------------------------------------------------


@given(st.lists(regions, max_size=6))
def test_binary_round_trip(lines):
    assert texts(decode_regions(encode_regions(tuple(lines)))) == texts(lines)


def test_long_runs_are_cut():
    pixels = np.zeros((600, 400), dtype=bool)
    pixels[599, 399] = pixels[0, 1] = True  # runs of 1, 1, 239997, 1 pixels
    data = encode_regions((Mask(2, 3, pixels),))
    runs = struct.unpack_from("<H", data, 15)[0]
    assert runs == 4 + 2 * (239997 // 65025)
    (mask,) = decode_regions(data)
    assert np.array_equal(mask.pixels, pixels)


def test_masks_too_large_for_binary(tmp_path):
    noise = np.random.default_rng(0).random((500, 500)) > 0.5
    with pytest.raises(InputError, match="write text"):
        write_regions(tmp_path / "a.bin", [Mask(0, 0, noise)])
    assert not (tmp_path / "a.bin").exists()
    write_regions(tmp_path / "a.txt", [Mask(0, 0, noise)])
    (mask,) = read_regions(tmp_path / "a.txt")
    assert mask.pixels.sum() == noise.sum()


@pytest.mark.parametrize("cut", range(1, 30))
def test_cut_off_binary_files(tmp_path, cut):
    path = tmp_path / "a.bin"
    path.write_bytes(encode_regions(LINES)[:-cut])
    with pytest.raises(InputError, match=r"a\.bin ends inside region \d"):
        read_regions(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (struct.pack("<hI", 7, 0), "version 7"),
        (struct.pack("<hIB", 1, 1, 9), "region 1 has type 9"),
        (struct.pack("<hIBff", 1, 1, 4, 0, 0), "a point"),
        (struct.pack("<hIBffff", 1, 1, 1, 0, 0, 1, float("inf")), "finite"),
        (struct.pack("<hIBH4f", 1, 1, 2, 2, 0, 0, 1, 1), "no region"),
        (struct.pack("<hIBhhHHH2H", 1, 1, 3, 0, 0, 2, 2, 2, 1, 1), "cover 2 pixels"),
        (encode_regions(LINES) + b"\0", "1 bytes follow"),
    ],
)
def test_damaged_binary_files(data, said):
    with pytest.raises(InputError, match=said):
        decode_regions(data, "x.bin")


@given(st.binary(max_size=60))
def test_any_bytes_are_regions_or_a_named_error(data):
    with contextlib.suppress(InputError):
        decode_regions(struct.pack("<h", 1) + data)


def test_nan_in_binary_is_unknown():
    (region,) = decode_regions(struct.pack("<hIBffff", 1, 1, 1, *[float("nan")] * 4))
    assert region == UNKNOWN


def test_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf1\r\n1,2,3,4\r\n2\r\n0\r\n\r\n")
    assert read_regions(path) == (START, Rectangle(1, 2, 3, 4), FAILED, UNKNOWN)
    path.write_text("1\n1,2,3,4\n\n1,2,3,4\n")
    with pytest.raises(InputError, match=r"a\.txt, line 3: '' is no region"):
        read_regions(path)
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        read_regions(path)
    path.write_bytes(encode_regions((UNKNOWN, Rectangle(1, 2, -3.7, 4))))
    with pytest.raises(InputError, match=r"\.bin"):
        read_regions(path)
    with pytest.raises(VideoError, match="cannot be read"):
        read_regions(tmp_path / "b.txt")


# --- trees ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [False, True])
def test_trees_round_trip(tmp_path, binary):
    presence = np.array([np.nan, 0.25, 1 / 3, np.nan, np.nan])
    seconds = np.array([0.5, 0.01, 0.02, 0.03, np.nan])
    runs = {
        "a": [run(presence=presence, seconds=seconds), run(LINES[:3] + LINES[1:3])],
        "b": [run(anchor=0), run(LINES[:2], anchor=4)],
    }
    both = [sequence("a"), sequence("b")]
    files = write_vot_results(tmp_path / "t", both, runs, "longterm", binary=binary, digits=None)
    suffix = "bin" if binary else "txt"
    assert (tmp_path / "t" / "longterm" / "b" / f"b_00000004.{suffix}") in files
    assert all(path.is_file() for path in files)
    assert (tmp_path / "t" / "longterm" / "a" / "a_001_confidence.value").read_text().startswith("\n0.25\n")
    for where in (tmp_path / "t", tmp_path / "t" / "longterm"):
        got = read_vot_results(where, both, "longterm")
        assert list(got) == ["a", "b"]
        assert [r.anchor for r in got["a"] + got["b"]] == [None, None, 0, 4]
        for name in runs:
            for mine, theirs in zip(runs[name], got[name], strict=True):
                assert texts(mine.regions) == texts(theirs.regions)
                np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        np.testing.assert_array_equal(got["a"][0].presence, presence)
        np.testing.assert_array_equal(got["a"][0].seconds, seconds)
        assert got["a"][1].presence is None


def test_runs_without_regions_get_codes(tmp_path):
    boxes = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [np.nan] * 4])
    write_vot_results(tmp_path, [sequence(count=3)], {"a": [Run(boxes)]}, "longterm")
    assert (tmp_path / "longterm/a/a_001.txt").read_text() == "1\n1.0000,2.0000,3.0000,4.0000\n0\n"
    with pytest.raises(InputError, match="made/b has no result"):
        write_vot_results(tmp_path, [sequence("b")], {})


def test_time_tables_of_the_matlab_toolkit(tmp_path):
    for number in (1, 2):
        write_regions(tmp_path / f"baseline/a/a_{number:03d}.txt", LINES)
    (tmp_path / "baseline/a/a_time.txt").write_text("".join(f"{k},{10 * k},0\n" for k in range(5)))
    runs = read_vot_results(tmp_path, [sequence()])["a"]
    assert runs[0].seconds.tolist() == [0, 1, 2, 3, 4]
    assert runs[1].seconds.tolist() == [0, 10, 20, 30, 40]


def test_binary_wins_over_text(tmp_path):
    write_regions(tmp_path / "baseline/a/a_001.txt", LINES)
    write_regions(tmp_path / "baseline/a/a_001.bin", LINES[:2])
    (only,) = read_vot_results(tmp_path, [sequence()])["a"]
    assert len(only.regions) == 2


def test_other_files_and_sequences_are_left_alone(tmp_path):
    write_regions(tmp_path / "baseline/a/a_001.txt", LINES)
    write_regions(tmp_path / "baseline/a/ab_001.txt", LINES)
    (tmp_path / "baseline/a/a_001_object.txt").write_text("x")
    got = read_vot_results(tmp_path, [sequence("a"), sequence("zebra")])
    assert {name: len(runs) for name, runs in got.items()} == {"a": 1}


@pytest.mark.parametrize("lines", ["\n0.5\n0.5\n", "\n" + "0.5\n" * 5])
def test_confidences_that_do_not_fit(tmp_path, lines):
    write_regions(tmp_path / "longterm/a/a_001.txt", LINES)
    (tmp_path / "longterm/a/a_001_confidence.value").write_text(lines)
    with pytest.raises(InputError, match=r"a_001_confidence\.value has \d lines for 5 frames"):
        read_vot_results(tmp_path, [sequence()], "longterm")
