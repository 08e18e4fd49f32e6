"""Sentences that a command measures something on: from a text file or from a column of a table."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = "UTF-8 text, one sentence a line, or .tsv, .csv, .jsonl, .parquet (see --column)"
"""What `read_texts` reads, for the help of an option."""

_KNOWN = (("sentence",), ("text",))


def add_column(parser: argparse.ArgumentParser) -> None:
    """Which column of a table the sentences are in."""
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="the table's column of sentences (default: sentence or text, or the only one)",
    )


def read_texts(path: str | Path, column: str | None, rows: int) -> list[str]:
    """The first `rows` sentences of a file; rows without any text are left out.

    Raises:
        FileNotFoundError, IsADirectoryError: there is no such file.
        ValueError: no such column, a row that cannot be read, or no sentence at all.
    """
    from ibert_jax.inference import Source

    source = Source(path, columns=() if column is None else (column,), known=_KNOWN)
    texts: list[str] = []
    for row in source:
        if row.empty:
            continue
        if row.cells is None:
            raise ValueError(f"line {row.number} of {path}: {row.problem}; mend it or take it out")
        texts.append(str(row.cells[0]))
        if len(texts) == rows:
            break
    if not texts:
        raise ValueError(f"expected at least one sentence, {path} holds none")
    return texts
