"""Labelled sentences: read strictly from files, tokenized once."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.lines import read_lines
from ibert_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class Examples:
    """Sentences with their labels. labels: indices, one a text."""

    texts: list[str]
    labels: list[int]


@dataclass(frozen=True)
class TokenizedExamples:
    """Tokenized sentences, all in one array: sentence i is `tokens[starts[i] : starts[i + 1]]`.

    tokens: int32, special tokens included. starts: int64 [sentences + 1].
    labels: int32 [sentences]. truncated: how many sentences lost tokens at their end.
    """

    tokens: np.ndarray
    starts: np.ndarray
    labels: np.ndarray
    truncated: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [sentences], tokens in each."""
        return np.diff(self.starts)

    def select(self, indices: np.ndarray) -> TokenizedExamples:
        """The sentences with these numbers, in this order; `truncated` is not told for them."""
        pieces = [self.tokens[self.starts[i] : self.starts[i + 1]] for i in indices]
        starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])
        return TokenizedExamples(np.concatenate(pieces), starts, self.labels[indices], 0)


def tokenize(examples: Examples, tokenizer: Tokenizer, *, max_length: int) -> TokenizedExamples:
    """Tokenize every sentence, cutting it to `max_length` tokens, special tokens included."""
    encodings = tokenizer.encode(examples.texts, max_length=max_length)
    starts = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum([len(encoding.ids) for encoding in encodings], out=starts[1:])
    return TokenizedExamples(
        tokens=np.concatenate([encoding.ids for encoding in encodings]),
        starts=starts,
        labels=np.asarray(examples.labels, np.int32),
        truncated=sum(encoding.truncated for encoding in encodings),
    )


def read_examples(
    paths: Sequence[str | Path],
    label2id: Mapping[str, int],
    *,
    text_column: str = "sentence",
    label_column: str = "label",
) -> Examples:
    """Read labelled sentences from .tsv, .csv or .jsonl files, one after the other.

    A .tsv has a header line and means nothing by quotes (as GLUE has it); a .csv has a header line
    and quotes; a .jsonl holds one object a line. Blank lines are passed over.

    Args:
      label2id: the model's labels; a cell holds either such a name or an index.

    Raises:
      FileNotFoundError, IsADirectoryError: no such file.
      ValueError: not UTF-8, a column missing, a label unknown, a line malformed, no sentence at
        all; the message names file and line.
    """
    texts: list[str] = []
    labels: list[int] = []
    for path in map(Path, paths):
        before = len(texts)
        for number, text, label in _read_rows(path, text_column, label_column):
            texts.append(text)
            labels.append(_label(label, label2id, number, path))
        if len(texts) == before:
            raise ValueError(f"expected at least one labelled sentence in {path}, it holds none")
    return Examples(texts, labels)


_Row = tuple[int, str, Any]  # line number, sentence, label as written


def _read_rows(path: Path, text_column: str, label_column: str) -> Iterator[_Row]:
    readers = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _json_rows}
    reader = readers.get(path.suffix.lower(), _tsv_rows)
    return reader(path, text_column, label_column)


def _tsv_rows(path: Path, text_column: str, label_column: str) -> Iterator[_Row]:
    rows = ((number, line.split("\t")) for number, line in read_lines(path) if line.strip())
    return _columns(rows, path, text_column, label_column)


def _csv_rows(path: Path, text_column: str, label_column: str) -> Iterator[_Row]:
    reader = csv.reader(line + "\n" for _, line in read_lines(path))
    rows = ((reader.line_num, cells) for cells in reader if cells)
    return _columns(rows, path, text_column, label_column)


def _columns(
    rows: Iterator[tuple[int, list[str]]], path: Path, text_column: str, label_column: str
) -> Iterator[_Row]:
    """Pick two columns by the names in the first row."""
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    for wanted in (text_column, label_column):
        if wanted not in names:
            found = ", ".join(names) if any(names) else "an empty file"
            raise ValueError(
                f"expected a column {wanted!r} in the first line of {path}, got {found}; "
                "name the columns with text_column and label_column"
            )
    text_index, label_index = names.index(text_column), names.index(label_column)
    for number, cells in rows:
        if len(cells) != len(names):
            raise ValueError(
                f"expected {len(names)} cells, as in the header, got {len(cells)} in line "
                f"{number} of {path}"
            )
        yield number, cells[text_index], cells[label_index].strip()


def _json_rows(path: Path, text_column: str, label_column: str) -> Iterator[_Row]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"expected one JSON object a line, line {number} of {path} is none ({error.msg})"
            ) from None
        if not isinstance(row, dict) or not {text_column, label_column} <= row.keys():
            raise ValueError(
                f"expected an object with the keys {text_column!r} and {label_column!r} in line "
                f"{number} of {path}; name the keys with text_column and label_column"
            )
        if not isinstance(row[text_column], str):
            raise ValueError(
                f"expected {text_column!r} to be a string in line {number} of {path}, got "
                f"{row[text_column]!r}"
            )
        yield number, row[text_column], row[label_column]


def _label(cell: Any, label2id: Mapping[str, int], number: int, path: Path) -> int:
    """A label's index, given by name or as the index itself."""
    text = str(cell)
    if text in label2id:
        return label2id[text]
    if text.isdecimal() and int(text) < len(label2id):
        return int(text)
    raise ValueError(
        f"expected one of the labels {', '.join(label2id)} or an index below {len(label2id)}, got "
        f"{text!r} in line {number} of {path}; other labels can be named in the options"
    )
