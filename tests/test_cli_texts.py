"""Sentences to measure on: a text file, or a column of a table, and never the table's raw lines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ibert_jax.commands import texts
from ibert_jax.config import IBertConfig
from ibert_jax.inference import TASKS
from ibert_jax.tokenizer import Tokenizer

FILMS = ["good film", "bad film"]
TABLE = "when\tcomment\n2026\tgood film\n2026\t \n2026\tbad film\n"


def read_rows(path: Path, columns: list[str] | None, rows: int) -> list[Any]:
    make: Any = TASKS["sequence_classification"]
    return texts.read_rows(path, columns, rows, make(config=None, tokenizer=None, max_length=16))


def _file(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_text_and_tables(tmp_path: Path) -> None:
    text = _file(tmp_path, "a.txt", "good film\n\n  \nbad film\nmore\n")
    assert read_rows(text, None, 2) == FILMS
    table = _file(tmp_path, "a.tsv", TABLE)
    assert read_rows(table, ["comment"], 9) == FILMS
    named = _file(tmp_path, "b.tsv", TABLE.replace("comment", "sentence"))
    assert read_rows(named, None, 9) == FILMS


def test_a_table_is_not_taken_for_text(tmp_path: Path) -> None:
    table = _file(tmp_path, "a.tsv", TABLE)
    with pytest.raises(ValueError, match=r"or sentence or text .* got when, comment; name"):
        read_rows(table, None, 9)
    with pytest.raises(ValueError, match=r"expected a file with columns, .*a.txt is read as text"):
        read_rows(_file(tmp_path, "a.txt", TABLE), ["comment"], 9)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = _file(tmp_path, "a.tsv", TABLE + "2026\n")
    with pytest.raises(ValueError, match=r"line 5 of .*a.tsv: expected 2 cells.*; mend it"):
        read_rows(broken, ["comment"], 9)
    for name in ("empty.txt", "empty.jsonl"):
        with pytest.raises(ValueError, match=r"expected at least one sentence, .* holds none"):
            read_rows(_file(tmp_path, name, "\n\n"), None, 9)
    number = _file(tmp_path, "number.jsonl", '{"sentence": "good"}\n{"sentence": 3}\n')
    with pytest.raises(ValueError, match=r"line 2 of .*: expected the text to be a string, got"):
        read_rows(number, None, 9)
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        read_rows(tmp_path / "absent.txt", None, 9)


def test_a_sample_is_cut_as_a_predictor_would(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint)
    program: Any = SimpleNamespace(
        config=IBertConfig.from_json_file(tiny_checkpoint / "config.json")
    )
    text = _file(tmp_path, "a.txt", "good " * 40)
    for said, asked, expected in ((None, None, 32), (5, None, 5), (5, 8, 8), (5, 99, 32)):
        tokenizer.model_max_length = said
        sample = texts.read_sample(text, None, 1, program, tokenizer, asked)
        assert len(sample.parts[0][0].ids) == expected
