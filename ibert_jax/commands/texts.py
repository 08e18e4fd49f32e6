"""Sentences from files and streams, read strictly: what is not UTF-8 is named by its line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
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


@dataclass(frozen=True)
class Labelled:
    """Sentences with what they should be called. labels: indices into the model's labels."""

    texts: list[str]
    labels: list[int]


def read_labelled(
    path: str | Path,
    label2id: Mapping[str, int],
    *,
    text_column: str = "sentence",
    label_column: str = "label",
) -> Labelled:
    """Read a tab-separated file with a header line, quotes meaning nothing (as GLUE has it).

    label2id: the model's labels; a cell holds either such a name or an index. Raises ValueError
    naming the line where a column is missing or a label unknown.
    """
    lines = not_blank(read_lines(path), str(path))
    header = next(lines).text.split("\t")
    columns = {name.strip(): index for index, name in enumerate(header)}
    for wanted in (text_column, label_column):
        if wanted not in columns:
            raise ValueError(
                f"expected a column {wanted!r} in the first line of {path}, got "
                f"{', '.join(columns)}; name it with --text-column or --label-column"
            )
    texts: list[str] = []
    labels: list[int] = []
    for line in lines:
        cells = line.text.split("\t")
        if len(cells) != len(header):
            raise ValueError(
                f"expected {len(header)} cells separated by tabs, as in the header, got "
                f"{len(cells)} in line {line.number} of {path}"
            )
        texts.append(cells[columns[text_column]])
        labels.append(_label(cells[columns[label_column]].strip(), label2id, line, path))
    if not texts:
        raise ValueError(f"expected at least one sentence, {path} holds only a header")
    return Labelled(texts, labels)


def _label(cell: str, label2id: Mapping[str, int], line: Line, path: str | Path) -> int:
    """A label's index, given by name or as the index itself."""
    if cell in label2id:
        return label2id[cell]
    if cell.isdecimal() and int(cell) < len(label2id):
        return int(cell)
    raise ValueError(
        f"expected one of the model's labels ({', '.join(label2id)}) or an index below "
        f"{len(label2id)}, got {cell!r} in line {line.number} of {path}"
    )
