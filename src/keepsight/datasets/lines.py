"""Small text files of data sets: lists of names, headers, regions."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError, VideoError


def read_lines(path: Path, keep_blank: bool = False) -> list[str]:
    """Lines of a UTF-8 text file without blanks around them. Empty lines are dropped; ``keep_blank``: at the end only.

    Raises :class:`VideoError` if the file cannot be read, :class:`InputError` if it holds nothing or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; copy it from the data set again") from None
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}; check the path") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    lines = lines if keep_blank else [line for line in lines if line]
    if not any(lines):
        raise InputError(f"{path} is empty; copy it from the data set again")
    return lines
