"""Number files: what is read, what is refused and in which words, and that nothing is ever guessed."""

from __future__ import annotations

import errno
import io
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepsight import text as text_module
from keepsight.errors import InputError, VideoError
from keepsight.text import parse_rows, read_rows, write_atomically, write_rows

NAN = math.nan


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3.5,-4\n-0.25,nan,inf,1e3\n",
        "1\t2\t3.5\t-4\r\n-.25\tNaN\tInf\t1000\r\n",
        "1 2 3.5 -4\n-0.25 NAN infinity +1E3",
        "\ufeff1;2;3.5;-4\n-0.25;nan;+inf;1000.\n\n\n",
        "  1,  2 , 3.5,-4 ,\n-0.25, nan inf\t1000\n \n",
        "1,2,3.5,-4\r-0.25,nan,inf,1000\r",
    ],
)
def test_spellings_of_the_same_rows(text: str) -> None:
    np.testing.assert_array_equal(parse_rows(text.encode()), [[1, 2, 3.5, -4], [-0.25, NAN, math.inf, 1000]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3,4\n1,2,3\n", r"line 2 has 3 numbers: '1,2,3'; give 4 numbers per line"),
        ("1,2,3,4\n1,2,3,4,5\n", r"line 2 has 5 numbers"),
        ("1 2 3\n4 5 6 7 8\n", r"line 1 has 3 numbers"),
        ("1,2,3,4\n\n5,6,7,8\n", r"line 2 is empty, and rows follow"),
        ("1,,3,4\n", r"line 1 has an empty place between two separators"),
        ("1,2,3,x4\n", r"line 1: 'x4' is not a number"),
        ("1,2,3,1_0\n", r"'1_0' is not a number"),
        ("1,2,3,0x10\n", r"'0x10' is not a number"),
        ("1,2,3,１\n", r"'１' is not a number"),
        ("1,2,3,--4\n", r"'--4' is not a number"),
        ("1,2,3,4-5\n", r"'4-5' is not a number"),
        ("1,2,3,-\n", r"'-' is not a number"),
        ("1,2,3,4.5.6\n", r"'4.5.6' is not a number"),
        ("1,2,3,1e999\n", r"'1e999' is larger than a 64-bit float holds"),
        ("1,2,3,nano\n", r"'nano' is not a number"),
        ("1.5,2.5;3,5;4\n", r"line 1 has 5 numbers"),
        ("#1,2,3,4\n1,2,3,4\n", r"line 1: '#1' is not a number"),
        ("", r"holds no numbers"),
        (" \n\n", r"holds no numbers"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=r"^some\.txt") as caught:
        parse_rows(text.encode(), "some.txt")
    assert re.search(words, str(caught.value)), caught.value


def test_bytes_that_are_not_text() -> None:
    with pytest.raises(InputError, match=r"line 2: byte 0xff is not text"):
        parse_rows(b"1,2,3,4\n\xff\xfe\n", "some.txt")
    with pytest.raises(InputError, match="is not a number"):
        parse_rows("1,2,3,4\n".encode("utf-16-le"), "some.txt")


def test_columns() -> None:
    polygon = b"1,2,3,4,5,6,7,8\n" * 2
    assert parse_rows(polygon, columns=(4, 8)).shape == (2, 8)
    assert parse_rows(polygon, columns=None).shape == (2, 8)
    assert parse_rows(b"1\n2\n3\n", columns=1).tolist() == [[1], [2], [3]]
    assert parse_rows(b"0.5\n2.5\n", columns=1).tolist() == [[0.5], [2.5]]
    assert parse_rows(b"0,1,1,0", columns=None).shape == (1, 4)
    with pytest.raises(InputError, match=r"line 1 has 3 numbers.*give 4 or 8 numbers"):
        parse_rows(b"1,2,3\n", columns=(4, 8))
    with pytest.raises(InputError, match=r"line 2 has 8 numbers, line 1 has 4"):
        parse_rows(b"1,2,3,4\n" + polygon, columns=(4, 8))
    with pytest.raises(InputError, match=r"line 1 has 4 numbers.*give 1 number per line"):
        parse_rows(b"1,2,3,4\n", columns=1)


def test_empty_lines_by_their_meaning() -> None:
    data = b"# confidences\n\n0.5\n\n0.25\n"
    assert parse_rows(data, columns=1, blank="skip").tolist() == [[0.5], [0.25]]
    np.testing.assert_array_equal(
        parse_rows(b"\n0.5\n\n0.25\n\n", columns=1, blank="nan"), [[NAN], [0.5], [NAN], [0.25]]
    )
    with pytest.raises(InputError, match="line 1 is empty"):
        parse_rows(b"\n0.5\n", columns=1)


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\n")
    expected = [[1, 2, 3, 4]]
    assert read_rows(path).tolist() == read_rows(str(path)).tolist() == expected
    assert read_rows(io.BytesIO(b"1,2,3,4")).tolist() == read_rows(io.StringIO("1 2 3 4")).tolist() == expected
    with pytest.raises(VideoError, match=r"b\.txt does not exist"):
        read_rows(tmp_path / "b.txt")
    with pytest.raises(VideoError, match="cannot be read"):
        read_rows(tmp_path)
    path.write_text("1,2,3\n")
    with open(path) as file, pytest.raises(InputError, match=r"a\.txt, line 1"):
        read_rows(file)


NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)"


def plainly(data: bytes, columns: int) -> list[list[float]] | None:
    """The rules once more, as simply as they can be said; None: refused."""
    try:
        lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    rows = []
    for line in lines:
        line = re.sub(r"[ \t]*[,;][ \t]*|[ \t]+", ",", line.strip(" \t"))
        cells = line.removesuffix(",").split(",")
        if not all(re.fullmatch(NUMBER, c, re.ASCII | re.IGNORECASE) for c in cells) or len(cells) != columns:
            return None
        rows.append([float(c) for c in cells])
        if any(math.isinf(v) and "n" not in c.lower() for v, c in zip(rows[-1], cells, strict=True)):
            return None
    return rows or None


garbage = st.text("0123456789.,;+-eE \t\r\n#nNaif", max_size=40).map(str.encode) | st.binary(max_size=40)
decimal = st.integers(-(10**6), 10**6).map(str) | st.floats(-1e6, 1e6).map(lambda v: f"{v:.3f}")
cell = (
    decimal
    | st.floats(allow_nan=True).map(repr)
    | st.sampled_from(["-0", "00012", "1" * 15, "9" * 17, "-.5", "5.", "1e-310"])
)


@settings(max_examples=400)
@given(garbage, st.integers(1, 3))
def test_garbage_gives_the_plain_answer_or_an_input_error(data: bytes, columns: int) -> None:
    expected = plainly(data, columns)
    try:
        found = parse_rows(data, "x", columns)
    except InputError as error:
        assert expected is None, (expected, error)
    else:
        assert expected is not None
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=300)
@given(st.data(), st.integers(1, 4), st.sampled_from([",", "\t", " ", ";", ", "]), st.sampled_from(["\n", "\r\n"]))
def test_numbers_come_back_to_the_bit(data: st.DataObject, columns: int, delimiter: str, end: str) -> None:
    """One kind of number per file, which the fast ways take, or any mixture, which they must leave alone."""
    kind = data.draw(
        st.sampled_from([st.integers(-(10**6), 10**6).map(str), st.floats(-1e9, 1e9).map(lambda v: f"{v:.4f}"), cell])
    )
    rows = data.draw(st.lists(st.lists(kind, min_size=columns, max_size=columns), min_size=1, max_size=6))
    found = parse_rows((end.join(delimiter.join(row) for row in rows) + end).encode(), "x", columns)
    np.testing.assert_array_equal(found, [[float(c) for c in row] for row in rows])


def test_usual_files_take_the_fast_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def careful(*_: object) -> None:
        raise AssertionError("the slow way was taken")

    monkeypatch.setattr(text_module, "_line_by_line", careful)
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-50, 2000, (50, 4))
    for delimiter in (",", "\t", " ", ";"):
        for fmt in ("%d", "%.2f", "%.4f", "%.17g"):
            lines = "".join(delimiter.join(fmt % v for v in row) + "\r\n" for row in boxes)
            expected = [[float(fmt % v) for v in row] for row in boxes]
            np.testing.assert_array_equal(parse_rows(lines.encode()), expected)


def test_write_and_read_back(tmp_path: Path) -> None:
    rows = np.array([[1, -2.5, 3, 4], [NAN, 1e-3, 7, 1e6]])
    write_rows(tmp_path / "new" / "out.txt", rows)
    assert (
        tmp_path / "new" / "out.txt"
    ).read_text() == "1.0000,-2.5000,3.0000,4.0000\nnan,0.0010,7.0000,1000000.0000\n"
    np.testing.assert_array_equal(read_rows(tmp_path / "new" / "out.txt"), rows)
    write_rows(tmp_path / "ints.txt", [[1.9, -1.9]], fmt="%d", delimiter="\t")
    assert (tmp_path / "ints.txt").read_text() == "1\t-1\n"
    write_rows(tmp_path / "column.txt", [0.5, 1], fmt="%g")
    assert (tmp_path / "column.txt").read_text() == "0.5\n1\n"
    with pytest.raises(InputError, match=r"row 1 is .*nan.*%d cannot write"):
        write_rows(tmp_path / "ints.txt", rows, fmt="%d")
    assert (tmp_path / "ints.txt").read_text() == "1\t-1\n"
    with pytest.raises(InputError, match="shape"):
        write_rows(tmp_path / "x.txt", np.zeros((2, 2, 2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["column.txt", "ints.txt", "new"]


def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def pieces() -> object:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(VideoError, match=r"a\.txt cannot be written: no space left on device; the old content"):
        write_atomically(path, pieces())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]

    def interrupted() -> object:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_written_files_have_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"x")
    (tmp_path / "b.txt").write_bytes(b"x")
    assert path.stat().st_mode == (tmp_path / "b.txt").stat().st_mode
    path.chmod(0o600)
    write_atomically(path, "y")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(VideoError, match="cannot be written"):
        write_atomically(path / "below", "z")
