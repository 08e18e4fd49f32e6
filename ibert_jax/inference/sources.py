"""Rows of files of any size: text, TSV, CSV, JSON, Parquet, CoNLL; gzip, bzip2, xz too.

Read leniently: what is wrong with one row is told beside it, and the next row is read. Memory does
not grow with the file, nor with a line of it.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ibert_jax.documents import Stream, read_objects, sniff
from ibert_jax.lines import (
    LONGEST_LINE,
    ReadLine,
    check_columns,
    check_commas,
    check_compression,
    conll_cells,
    decompressed,
    plain_name,
    readable_lines,
)

FORMATS = ("text", "tsv", "csv", "jsonl", "parquet", "conll")
_BY_NAME = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
}
EMPTY_LINE, EMPTY_CELL = "the line is empty", "a cell to be read is empty"


class Row(NamedTuple):
    """A row of a file. number: its line (where it begins), or which row it is in Parquet and in
    one JSON document, from 1.

    cells: what stands in the columns that were asked for; None where there is a problem.
    kept: what stands in those to be handed on. problem: why the row cannot be read, else None.
    """

    number: int
    cells: tuple[Any, ...] | None
    kept: dict[str, Any]
    problem: str | None

    @property
    def empty(self) -> bool:
        """Whether it cannot be read because there is nothing to read."""
        return self.problem in (EMPTY_LINE, EMPTY_CELL)


_Found = tuple[int, str | None, dict[str, Any] | None]  # an object's number, its problem, itself


class Source:
    """The rows of a file, or of a stream of lines.

    path: of the file; None for `stream`. format: one of `FORMATS`; by default what the file's name
        says, else text. columns: the names of the columns to read; by default the first of `known`
        that are all there, or the only column there is. known: names that such columns often have.
    keep: columns to hand on beside them.

    Raises FileNotFoundError, IsADirectoryError and ValueError before anything is read, and
    ValueError while reading where a compressed file is damaged, or a header lacks a column, has one
    twice, or has semicolons or tabs for commas.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        stream: BinaryIO | None = None,
        format: str | None = None,
        columns: Sequence[str] = (),
        known: Sequence[Sequence[str]] = (),
        keep: Sequence[str] = (),
    ) -> None:
        self.name = "standard input" if path is None else str(path)
        self._path = None if path is None else _existing(Path(path))
        self._stream = stream
        self.format = format or ("text" if path is None else format_of(Path(path)))
        if self.format not in FORMATS:
            raise ValueError(f"expected a format of {', '.join(FORMATS)}, got {self.format!r}")
        if self.format == "parquet" and path is None:
            raise ValueError("expected Parquet in a file, it cannot be read from standard input")
        if self.format in ("text", "conll") and (columns or keep):
            raise ValueError(
                f"expected a file with columns, {self.name} is read as {self.format}; "
                "name its format"
            )
        self._columns, self._keep = tuple(columns), tuple(keep)
        self.known = known
        self.size = None if self._path is None else self._path.stat().st_size
        """Bytes of the file as it lies there; None for a stream."""
        self._raw: BinaryIO | None = None
        self._share = 0.0

    @property
    def path(self) -> Path | None:
        """The file that is read; None for a stream."""
        return self._path

    @property
    def position(self) -> int:
        """How many of those bytes have been read."""
        if self._raw is not None and not self._raw.closed:
            return self._raw.tell()
        return int(self._share * (self.size or 0))

    def described(self) -> dict[str, Any]:
        """How the rows are read, as plain values."""
        return {"format": self.format, "columns": [*self._columns], "keep": [*self._keep]}

    def fingerprint(self, sample: int) -> str:
        """Tells this file from others: a hash of its size and of `sample` bytes of either end."""
        if self._path is None or self.size is None:
            return self.name
        with self._path.open("rb") as file:
            head = file.read(sample)
            file.seek(max(self.size - sample, 0))
            return hashlib.sha256(str(self.size).encode() + head + file.read()).hexdigest()

    def __iter__(self) -> Iterator[Row]:
        return self._parquet() if self.format == "parquet" else self._read()

    def _read(self) -> Iterator[Row]:
        if self._path is None:
            assert self._stream is not None, "a path or a stream"
            yield from self._rows(self._stream)
            return
        with self._path.open("rb") as raw, decompressed(raw, self._path) as stream:
            self._raw = raw
            yield from self._rows(stream)
        self._raw, self._share = None, 1.0

    def _rows(self, stream: Stream) -> Iterator[Row]:
        if self.format == "jsonl":
            is_document, stream = sniff(stream)
            if is_document:
                found = enumerate(read_objects(stream, self.name), 1)
                return self._objects((number, None, each) for number, each in found)
        reader = {
            "text": _text,
            "tsv": self._tsv,
            "csv": self._csv,
            "jsonl": self._json,
            "conll": _conll,
        }
        return reader[self.format](readable_lines(stream, self.name))

    def _chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names of the columns to read, of those that there are."""
        missing = [name for name in (*self._columns, *self._keep) if name not in names]
        if not missing and self._columns:
            return self._columns
        for group in self.known if not missing else ():
            if all(name in names for name in group):
                return tuple(group)
        if not missing and len(names) == 1:
            return tuple(names)
        wanted = " and ".join(map(repr, missing)) or " or ".join("+".join(g) for g in self.known)
        found = ", ".join(names) if any(names) else "nothing"
        raise ValueError(
            f"expected a column {wanted} in {self.name}, got {found}; name the columns to read"
        )

    def _tsv(self, lines: Iterator[ReadLine]) -> Iterator[Row]:
        # Quotes mean nothing here, as GLUE has it.
        return self._table((line.number, line.problem, line.text.split("\t")) for line in lines)

    def _csv(self, lines: Iterator[ReadLine]) -> Iterator[Row]:
        return self._table(_records(lines))

    def _table(self, records: Iterator[tuple[int, str | None, list[str]]]) -> Iterator[Row]:
        """Rows of records (line, problem, cells), the first of which names the columns."""
        _, problem, header = next(records, (1, None, []))
        names = [name.strip() for name in header]
        if problem is not None:
            raise ValueError(f"expected the names of columns in {self.name}: {problem}")
        if self.format == "csv" and not set(self._columns) & set(names):
            check_commas(names, self.name)
        chosen = self._chosen(names)
        check_columns(names, (*chosen, *self._keep), self.name)
        columns = [names.index(name) for name in chosen]
        keep = {name: names.index(name) for name in self._keep}
        for number, problem, cells in records:
            if problem is None and not any(cells):
                problem = EMPTY_LINE
            elif problem is None and len(cells) != len(names):
                problem = f"expected {len(names)} cells, as in the header, got {len(cells)}"
            elif problem is None and not all(cells[index].strip() for index in columns):
                problem = EMPTY_CELL
            if problem is not None:
                yield Row(number, None, {}, problem)
                continue
            kept = {name: cells[index] for name, index in keep.items()}
            yield Row(number, tuple(cells[index] for index in columns), kept, None)

    def _json(self, lines: Iterator[ReadLine]) -> Iterator[Row]:
        def objects() -> Iterator[_Found]:
            for line in lines:
                problem, found = line.problem, None
                if problem is None:
                    problem, found = _object(line.text)
                yield line.number, problem, found

        return self._objects(objects())

    def _objects(self, objects: Iterable[_Found]) -> Iterator[Row]:
        """Rows of objects (number, problem, object), the first of which names the columns."""
        columns = self._columns
        for number, problem, found in objects:
            if problem is None and not columns:
                columns = self._chosen(list(found or ()))
            yield _picked(number, problem, found, columns, self._keep)

    def _parquet(self) -> Iterator[Row]:
        try:
            import pyarrow as arrow
            import pyarrow.parquet
        except ImportError:
            raise ValueError(
                "reading Parquet needs pyarrow; pip install 'ibert-jax[parquet]'"
            ) from None
        number = 0
        try:
            with closing(pyarrow.parquet.ParquetFile(self._path)) as file:
                columns = self._chosen(file.schema_arrow.names)
                wanted = list(dict.fromkeys([*columns, *self._keep]))
                check_columns(file.schema_arrow.names, wanted, self.name)
                for batch in file.iter_batches(batch_size=1024, columns=wanted):
                    for values in zip(*(_values(arrow, each) for each in batch), strict=True):
                        number += 1
                        found = dict(zip(batch.schema.names, values, strict=True))
                        yield _picked(number, None, found, columns, self._keep)
                    self._share = number / max(file.metadata.num_rows, 1)
        except arrow.ArrowException as error:
            raise ValueError(
                f"expected a Parquet file, {self.name} could not be read after row {number} "
                f"({error}); copy it again"
            ) from None


def format_of(path: Path) -> str:
    """The format that a file's name says, its compression aside; text if it says none."""
    return _BY_NAME.get(plain_name(path).suffix.lower(), "text")


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of rows, {path} is a folder")
    if not path.exists():
        raise FileNotFoundError(
            f"expected a file of rows, {path} does not exist; check the path for a typo"
        )
    check_compression(path)
    return path


def _text(lines: Iterator[ReadLine]) -> Iterator[Row]:
    for line in lines:
        problem = line.problem
        if problem is None and not line.text.strip():
            problem = EMPTY_LINE
        yield Row(line.number, None if problem else (line.text,), {}, problem)


def _conll(lines: Iterator[ReadLine]) -> Iterator[Row]:
    """Sentences of a word a line, its first column; tags, if there are any, are not read."""
    words: list[str] = []
    first, held, problem = 0, 0, None

    def sentence() -> Row:
        return Row(first, None if problem else (" ".join(words),), {}, problem)

    for line in lines:
        cells = conll_cells(line.text) if line.problem is None else [""]
        if cells is None:
            if first:
                yield sentence()
            words, first, held, problem = [], 0, 0, None
            continue
        first, held = first or line.number, held + len(cells[0]) + 1
        if line.problem is not None:
            problem = problem or f"line {line.number}: {line.problem}"
        elif held > LONGEST_LINE:  # no blank line in sight
            problem = problem or f"a sentence of more than {LONGEST_LINE} characters"
            words.clear()
        elif not cells[0]:
            problem = problem or f"line {line.number}: expected a word in its first column"
        if problem is None:
            words.append(cells[0])
    if first:
        yield sentence()


class _Overlong(Exception):
    """A record that has not ended after `LONGEST_LINE` characters."""


def _records(lines: Iterator[ReadLine]) -> Iterator[tuple[int, str | None, list[str]]]:
    """CSV records with the line that each begins in; quotes may hold line breaks."""
    taken: list[ReadLine] = []  # what the record being read consists of
    held = 0

    def fed() -> Iterator[str]:
        nonlocal held
        for line in lines:
            taken.append(line._replace(text=""))
            held += len(line.text) + 1
            if held > LONGEST_LINE:
                raise _Overlong
            yield line.text + "\n"

    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    while True:
        reader = csv.reader(fed(), strict=True)  # or a quote not closed swallows what follows it
        problem, cells = None, None
        try:
            cells = next(reader, None)
        except _Overlong:
            problem = (
                f"a record of more than {LONGEST_LINE} characters, to line {taken[-1].number}; "
                "a quote is not closed"
            )
        except csv.Error as error:
            problem = str(error)
        if cells is None and problem is None:
            return
        problem = next((line.problem for line in taken if line.problem), problem)
        yield taken[0].number, problem, cells or []
        taken.clear()
        held = 0


def _object(text: str) -> tuple[str | None, dict[str, Any] | None]:
    """A problem, or the JSON object in a line."""
    if not text.strip():
        return EMPTY_LINE, None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({getattr(error, 'msg', error)})", None
    if not isinstance(found, dict):
        return f"expected a JSON object, got {type(found).__name__}", None
    return None, found


def _picked(
    number: int,
    problem: str | None,
    found: dict[str, Any] | None,
    columns: Sequence[str],
    keep: Sequence[str],
) -> Row:
    """A row of named values."""
    if problem is None and found is not None:
        missing = [name for name in (*columns, *keep) if found.get(name) is None]
        if missing:
            problem = f"no value for {', '.join(missing)}"
        elif any(isinstance(found[name], str) and not found[name].strip() for name in columns):
            problem = EMPTY_CELL
        for value in found.values():
            if isinstance(value, ValueError):
                problem = str(value)
    if problem is not None or found is None:
        return Row(number, None, {}, problem)
    cells = tuple(found[name] for name in columns)
    return Row(number, cells, {name: found[name] for name in keep}, None)


def _values(arrow: Any, column: Any) -> list[Any]:
    """A column's values; text that is not UTF-8 becomes the error that says so."""
    if not (arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type)):
        return column.to_pylist()
    return [_decoded(value) for value in column.cast(arrow.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | ValueError | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        return ValueError(
            f"byte 0x{value[error.start] if value else 0:02x} at place {error.start + 1} is not "
            "UTF-8"
        )
