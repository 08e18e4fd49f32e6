"""Rows of text that a command measures something on: of a text file or of a table's columns."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibert_jax.inference import Sample
    from ibert_jax.inference.tasks import Task

FORMATS = (
    "UTF-8 text, one sentence a line, .conll, or .tsv, .csv, .jsonl, .json, .parquet (--column)"
)
"""What `read_rows` reads, for the help of an option."""

_PLAIN = (("sentence",), ("text",))


def add_column(parser: argparse.ArgumentParser) -> None:
    """Which columns of a table the texts are in."""
    parser.add_argument(
        "--column",
        action="append",
        metavar="NAME",
        help="the table's column of sentences, given again for the second of a pair, the context "
        "of a question or the choices of a prompt (default: what such columns are often called, "
        "as for `predict`, or the only one)",
    )


def read_rows(
    path: str | Path,
    columns: Sequence[str] | None,
    rows: int,
    task: Task,
) -> list[Any]:
    """A file's first `rows` rows, as `row_of` makes them; those without any text are left out.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: no such column, a row that cannot be read, or no sentence at all.
    """
    from ibert_jax.inference import Source, row_of

    known = tuple(dict.fromkeys((*task.columns, *_PLAIN)))
    found: list[Any] = []
    for row in Source(path, columns=tuple(columns or ()), known=known):
        if row.empty:
            continue
        try:
            if row.cells is None:
                raise ValueError(row.problem)
            found.append(row_of(task, row.cells))
        except (TypeError, ValueError) as problem:
            where = f"line {row.number} of {path}"
            raise ValueError(f"{where}: {problem}; mend it or take it out") from None
        if len(found) == rows:
            break
    if not found:
        raise ValueError(f"expected at least one sentence, {path} holds none")
    return found


def read_sample(
    path: str | Path,
    columns: Sequence[str] | None,
    rows: int,
    model: Any,
    tokenizer: Any,
    max_length: int | None,
) -> Sample:
    """A file's first rows as the model's head is asked, cut to what its positions allow."""
    from ibert_jax.inference import Sample, task_for

    longest = model.config.max_sequence_length
    usual = tokenizer.model_max_length or longest
    task = task_for(model, tokenizer, min(max_length or usual, longest))
    return Sample.of(task, read_rows(path, columns, rows, task))
