"""Files of many layouts, read strictly into rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ibert_jax.documents import read_objects, sniff
from ibert_jax.lines import (
    LONGEST_LINE,
    check_columns,
    check_commas,
    conll_cells,
    opened,
    plain_name,
    read_lines,
)
from ibert_jax.training.tasks import Task

_BY_NAME = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".conll": "conll",
}
_OTHERWISE = {
    "token_classification": "conll",
    "question_answering": "json",
    "masked_lm": "lines",
}


class Row(NamedTuple):
    """One example as its file has it. where: its place, for people (`line 3 of a.tsv`)."""

    where: str
    fields: dict[str, Any]

    def field(self, name: str) -> Any:
        """A field by its name, or by keys joined by dots.

        Raises ValueError where there is none.
        """
        value: Any = self.fields
        for key in [name] if name in self.fields else name.split("."):
            if not isinstance(value, dict) or key not in value:
                raise ValueError(
                    f"expected {name!r} in {self.where}, got the fields "
                    f"{', '.join(map(str, self.fields))}; name the fields as the file does, in "
                    "the task or by the options text_column and label_column"
                )
            value = value[key]
        return value

    def text(self, name: str) -> str:
        """A field that must be a string."""
        value = self.field(name)
        if not isinstance(value, str):
            raise ValueError(f"expected {name!r} to be a string in {self.where}, got {value!r}")
        return value


def read_rows(path: Path, task: Task) -> Iterator[Row]:
    """The rows of a file in the task's layout, or in the one that its name tells.

    Files ending in .gz, .bz2 and .xz are decompressed.

    tsv: a header line (unless the task names the columns); quotes mean nothing. csv: the same
    with quotes. json: an object a line, or one list of objects, or SQuAD's nesting. parquet: needs
    pyarrow. conll: a token and its tag a line (the first and the last column), blank lines
    between sentences. lines: plain text.

    Raises:
      FileNotFoundError, IsADirectoryError: no such file.
      ValueError: not UTF-8, malformed, or a column of the task's is there twice; the message names
        file and line.
    """
    layout = task.layout or _BY_NAME.get(plain_name(path).suffix.lower())
    readers = {
        "tsv": _tsv,
        "csv": _csv,
        "json": _json,
        "parquet": _parquet,
        "conll": _conll,
        "lines": _lines,
    }
    return readers[layout or _OTHERWISE.get(task.kind, "tsv")](path, task)


def _tsv(path: Path, task: Task) -> Iterator[Row]:
    cells = ((number, line.split("\t")) for number, line in read_lines(path) if line.strip())
    return _named(cells, path, task)


def _csv(path: Path, task: Task) -> Iterator[Row]:
    return _named(_records(path), path, task, commas=True)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
    # Strict: or a quote that is not closed would swallow what follows it.
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        raise ValueError(
            f"expected CSV, could not read {path} ({error}, in the record that ends in line "
            f"{reader.line_num})"
        ) from None


def _named(
    cells: Iterator[tuple[int, list[str]]], path: Path, task: Task, *, commas: bool = False
) -> Iterator[Row]:
    """Cells under the task's column names, or those of the first line."""
    names = task.columns or tuple(name.strip() for name in next(cells, (0, []))[1])
    if commas and not task.columns:
        check_commas(names, str(path))
    check_columns(names, _used(task), str(path))
    for number, found in cells:
        if len(found) != len(names):
            raise ValueError(
                f"expected {len(names)} cells ({', '.join(names)}), got {len(found)} in line "
                f"{number} of {path}"
            )
        yield Row(f"line {number} of {path}", dict(zip(names, found, strict=True)))


def _used(task: Task) -> list[str]:
    """The fields that a task names."""
    return [name for name in (task.text, task.pair, task.label, *task.choices) if name]


def _conll(path: Path, task: Task) -> Iterator[Row]:
    words: list[str] = []
    tags: list[str] = []
    first = 1
    for number, line in read_lines(path):
        cells = conll_cells(line)
        if cells is None:
            if words:
                yield Row(f"line {first} of {path}", {task.text: words, task.label: tags})
            words, tags, first = [], [], number + 1
            continue
        if len(cells) < 2 or not cells[0] or not cells[-1]:
            raise ValueError(f"expected a token and its tag in line {number} of {path}")
        words.append(cells[0])
        tags.append(cells[-1])
    if words:
        yield Row(f"line {first} of {path}", {task.text: words, task.label: tags})


def _lines(path: Path, task: Task) -> Iterator[Row]:
    for number, line in read_lines(path):
        if line.strip():
            yield Row(f"line {number} of {path}", {task.text: line.strip()})


def _parquet(path: Path, task: Task) -> Iterator[Row]:
    del task
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"reading {path} needs pyarrow; install it, as by pip install 'ibert-jax[parquet]'"
        ) from None
    if not path.is_file():
        raise FileNotFoundError(f"expected a file, {path} is none")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own are either
        raise ValueError(f"expected a Parquet file, could not read {path} ({error})") from None
    for number, fields in enumerate(table.to_pylist(), 1):
        yield Row(f"row {number} of {path}", fields)


def _json(path: Path, task: Task) -> Iterator[Row]:
    del task
    with opened(path) as file:
        is_document, stream = sniff(file)
        if is_document:
            for number, fields in enumerate(read_objects(stream, str(path)), 1):
                yield Row(f"example {number} of {path}", fields)
            return
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            fields = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"expected one JSON object a line, {where} is none ({getattr(error, 'msg', error)})"
            ) from None
        if not isinstance(fields, dict):
            raise ValueError(f"expected one JSON object a line, {where} is none")
        yield Row(where, fields)
