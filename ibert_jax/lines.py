"""Lines of text, read strictly: what is not UTF-8 is named by file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """One line of input. number: counted from 1. text: without its line ending."""

    number: int
    text: str


def read_lines(path: str | Path) -> Iterator[Line]:
    """Decode a file line by line, holding one line at a time.

    Raises FileNotFoundError, IsADirectoryError or ValueError (not UTF-8) naming file and line.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected a text file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"expected a text file, {path} does not exist")
    with path.open("rb") as stream:
        yield from decode_lines(stream, str(path))


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[Line]:
    """Decode a binary stream of lines. name: what to call it in an error.

    Lines end at a newline only: other Unicode separators belong to the sentence. A byte order mark
    at the start is dropped.
    """
    for number, raw in enumerate(stream, 1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected UTF-8 text, got byte 0x{raw[error.start]:02x} in line {number} of "
                f"{name}; convert the file to UTF-8"
            ) from None
        yield Line(number, text.rstrip("\r\n"))


def not_blank(lines: Iterable[Line], name: str) -> Iterator[Line]:
    """The lines with something on them.

    Raises ValueError, at the end, where there was none at all.
    """
    found = False
    for line in lines:
        if line.text.strip():
            found = True
            yield line
    if not found:
        raise ValueError(f"expected at least one sentence, {name} holds none")
