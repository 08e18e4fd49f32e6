"""Lines of text: what is not UTF-8 is named by file and line, or told beside the line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

LONGEST_LINE = 2**20
"""Bytes of a line that `readable_lines` reads."""
_COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_NOT_READ = (".zst", ".lz4", ".lzma", ".zip", ".7z")
COMPRESSED = (*_COMPRESSED, *_NOT_READ)
"""What the names of compressed files end in, read here or not."""


class Line(NamedTuple):
    """One line of input. number: counted from 1. text: without its line ending."""

    number: int
    text: str


def read_lines(path: str | Path) -> Iterator[Line]:
    """Decode a file line by line, holding one line at a time.

    Raises FileNotFoundError, IsADirectoryError or ValueError (not UTF-8, or a compressed file that
    is damaged or of another kind) naming file and line.
    """
    with opened(path) as stream:
        yield from decode_lines(stream, str(path))


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if need be.

    Raises FileNotFoundError, IsADirectoryError or ValueError (damaged, or compressed otherwise)
    naming it.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"expected a text file, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(f"expected a text file, {path} does not exist")
    check_compression(path)
    with path.open("rb") as raw, decompressed(raw, path) as stream:
        yield stream


@contextmanager
def decompressed(raw: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """A file's stream, or if its name ends in .gz, .bz2 or .xz what is compressed in it.

    Raises ValueError for a damaged one, wherever in the reading that is found.
    """
    opener = _COMPRESSED.get(path.suffix.lower())
    if opener is None:
        yield raw
        return
    try:
        stream: Any = io.BufferedReader(opener(raw), 2**16)
        yield stream
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:  # gzip's are of the last
        raise ValueError(
            f"expected a whole {path.suffix} file, {path} is damaged or cut short ({error}); copy "
            "it again"
        ) from None


def check_compression(path: Path) -> None:
    """Raise ValueError for a file whose name says that it is compressed as is not read here."""
    if path.suffix.lower() in _NOT_READ:
        raise ValueError(
            f"expected a file that is plain or ends in {', '.join(_COMPRESSED)}, got {path}; "
            "decompress it, or compress it as one of these"
        )


def plain_name(path: Path) -> Path:
    """A file's name without what says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


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


def check_columns(names: Sequence[str], used: Iterable[str], table: str) -> None:
    """Raise ValueError where a column that is used is there twice. table: its name for people."""
    for name in used:
        if names.count(name) > 1:
            raise ValueError(
                f"expected one column {name!r} in {table}, there are several; rename the others"
            )


def check_commas(names: Sequence[str], table: str) -> None:
    """Raise ValueError for a header of CSV, one name, whose columns something else separates."""
    for sign, called, advice in ((";", "semicolons", ""), ("\t", "tabs", ", or name it .tsv")):
        if len(names) == 1 and sign in names[0]:
            raise ValueError(
                f"expected commas between the columns of {table}, got {called}; save it with "
                f"commas{advice}"
            )


def conll_cells(text: str) -> list[str] | None:
    """The cells of a line of CoNLL's, between tabs or else blanks; None between sentences."""
    if not text.strip() or text.startswith("-DOCSTART-"):
        return None
    return [cell.strip() for cell in (text.split("\t") if "\t" in text else text.split())]


class ReadLine(NamedTuple):
    """One line of input, readable or not. number: counted from 1. text: without its line ending.

    problem: why it is no text, else None.
    """

    number: int
    text: str
    problem: str | None


def readable_lines(stream: Any, name: str) -> Iterator[ReadLine]:
    """Read a binary stream leniently, holding no more than `LONGEST_LINE` bytes of a line.

    Lines end, and a byte order mark is dropped, as in `decode_lines`. Raises ValueError for what
    begins as UTF-16 does. name: what to call the stream in that error.
    """
    number = 0
    while raw := stream.readline(LONGEST_LINE + 1):
        number += 1
        length, rest = len(raw), raw
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(LONGEST_LINE + 1)
            length += len(rest)
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ValueError(f"expected UTF-8 text, {name} is UTF-16; convert it to UTF-8")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if length > LONGEST_LINE:
            problem = f"the line has {length} bytes, more than the {LONGEST_LINE} that are read"
            yield ReadLine(number, "", problem)
            continue
        try:
            yield ReadLine(number, raw.decode().rstrip("\r\n"), None)
        except UnicodeDecodeError as error:
            problem = f"byte 0x{raw[error.start]:02x} at place {error.start + 1} is not UTF-8"
            # What can be read of it tells a CSV reader where the record ends.
            yield ReadLine(number, raw.decode(errors="replace").rstrip("\r\n"), problem)
