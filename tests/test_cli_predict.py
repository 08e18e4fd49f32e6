"""`ibert-jax predict` on files: columns in, a file out, and a sentence for what cannot be done."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import re
import sys
from pathlib import Path

import pytest

from ibert_jax.cli import main
from ibert_jax.inference import journal

ROWS = [("a1", "good film"), ("a2", "very bad film"), ("a3", ""), ("a4", "film, film")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A compressed CSV file with an empty cell, a row too short and one that is not UTF-8."""
    text = io.StringIO()
    csv.writer(text).writerows([("id", "stars", "review"), *((i, 5, t) for i, t in ROWS)])
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(
        gzip.compress(text.getvalue().encode() + b"a5\r\na6,1,caf\xe9\r\na7,2,bad\r\n")
    )
    return path


def _predict(model: Path, *arguments: object) -> int:
    return main(["predict", "--model", str(model), "--batch-size", "8", *map(str, arguments)])


def _fails(capsys: pytest.CaptureFixture[str], model: Path, *arguments: object) -> str:
    assert _predict(model, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ibert-jax: error: ")
    return err


def test_a_column_of_a_table_into_a_file(
    tiny_checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "answers.jsonl"
    chosen = ("--file", table, "--column", "review", "--keep", "id", "--output", output)
    assert _predict(tiny_checkpoint, *chosen) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "4 of 7 rows answered in" in said.err
    assert f"3 rows could not be read; {output}.bad.jsonl says which and why" in said.err
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    filled = [row for row in ROWS if row[1]]
    assert [(a["line"], a["id"], a["text"]) for a in answers] == [
        (line, *row) for line, row in zip((2, 3, 5, 8), [*filled, ("a7", "bad")], strict=True)
    ]
    problems = [json.loads(line) for line in Path(f"{output}.bad.jsonl").read_text().splitlines()]
    assert [problem["line"] for problem in problems] == [4, 6, 7]
    assert problems[0]["reason"] == "a cell to be read is empty"
    assert "exists already" in _fails(capsys, tiny_checkpoint, *chosen)
    assert _predict(tiny_checkpoint, *chosen, "--overwrite", "--no-text") == 0
    first = json.loads(output.read_text().splitlines()[0])
    assert first == {k: v for k, v in answers[0].items() if k != "text"}
    # The same answers on standard output, as JSON.
    good = tmp_path / "good.tsv"
    good.write_text("id\tsentence\n" + "".join(f"{i}\t{t}\n" for i, t in ROWS if t))
    capsys.readouterr()
    assert _predict(tiny_checkpoint, "--file", good, "--keep", "id", "--json") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = [answer for answer in answers if answer["id"] in ("a1", "a2", "a4")]
    for one, other in zip(shown, wanted, strict=True):
        assert (one["id"], one["label"]) == (other["id"], other["label"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_between_tabs_quotes_mean_nothing(
    tiny_checkpoint: Path, table: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.tsv"
    command = ("--file", table, "--column", "review", "--keep", "id", "--output", output)
    assert _predict(tiny_checkpoint, *command) == 0
    header, *rows = (line.split("\t") for line in output.read_text().splitlines())
    answers = [dict(zip(header, row, strict=True)) for row in rows]
    assert [answer["id"] for answer in answers] == ["a1", "a2", "a4", "a7"]
    for answer in answers:
        probabilities = json.loads(answer["probabilities"])
        assert float(answer["score"]) == probabilities[answer["label"]] >= 0.5


def test_standard_input_into_a_file(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "answers.jsonl"
    rows = b'{"text": "good"}\n{"text": 3}\n{"text": "bad"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    bad = tmp_path / "bad.jsonl"
    command = ("--format", "jsonl", "--output", output, "--bad-rows", bad)
    assert _predict(tiny_checkpoint, *command) == 0
    assert [json.loads(line)["line"] for line in output.read_text().splitlines()] == [1, 3]
    assert json.loads(bad.read_text()) == {
        "line": 2, "reason": "expected the text to be a string, got int"
    }  # fmt: skip


def test_vectors_of_any_checkpoint(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--task", "model", "--normalize", "--json", "good film", "bad")
    assert _predict(tiny_checkpoint, *command) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for answer in answers:
        assert sum(number**2 for number in answer["vector"]) == pytest.approx(1, abs=1e-5)
        assert len(answer["vector"]) == 32
    assert _predict(tiny_checkpoint, "--task", "model", "good film") == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "answer"
    assert row.split()[0].lstrip("-").startswith("0.") or float(row.split()[0])


def test_what_cannot_be_done(
    tiny_checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_checkpoint
    output = tmp_path / "answers.jsonl"
    text = tmp_path / "rows.txt"
    text.write_text("good\n")
    assert "no option normalize" in _fails(capsys, model, "--normalize", "good")
    assert "a head for question_answering" in _fails(
        capsys, model, "--task", "question_answering", "good"
    )
    assert "expected a task of" in _fails(capsys, model, "--task", "poetry", "good")
    assert "a head for multiple_choice" in _fails(capsys, model, "--task", "multiple_choice", "x")
    assert "a head for token_classification" in _fails(
        capsys, model, "--task", "token_classification", "good"
    )
    assert "expected --output beside --bad-rows" in _fails(capsys, model, "--bad-rows", "x")
    for option in ("--restart", "--overwrite"):
        assert f"expected --output beside {option}" in _fails(capsys, model, option, "good")
    for option in ("--keep", "--column"):
        assert f"expected --file beside {option}" in _fails(capsys, model, option, "a", "good")
    assert "put them in a file" in _fails(capsys, model, "good", "--output", output)
    assert "is read as text" in _fails(capsys, model, "--file", text, "--column", "review")
    message = _fails(capsys, model, "--file", table, "--output", output)
    assert "got id, stars, review; name the columns" in message
    message = _fails(capsys, model, "--file", table, "--column", "review")
    assert f"line 6 of {table}: expected 3 cells, as in the header, got 1; mend it" in message
    for more in (("--json",), ("--output", output)):
        kept = ("--file", table, "--column", "review", "--keep", "label", *more)
        table.write_bytes(gzip.compress(b"label,review\n0,good\n"))
        assert f"'label'; rename the column in {table}" in _fails(capsys, model, *kept)
    assert not output.exists()
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{"text": "a"}\n\n{"text": 5}',
            "line 3 of .*: expected the text to be a string",
        ),
        ('{"text": "a"}\n\n{"text": "\\ud800"}', "line 3 of .*: expected .* Unicode"),
        ('{"data": []}', "expected at least one sentence, .* holds none"),
    ],
)
def test_values_that_are_no_text_are_named_by_line(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    problem: str,
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert re.search(problem, _fails(capsys, tiny_checkpoint, "--file", path))


def test_a_closed_standard_input(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input, which is closed; give one" in _fails(capsys, tiny_checkpoint)


def test_a_full_disk_and_how_to_go_on(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows, output = tmp_path / "rows.txt", tmp_path / "answers.jsonl"
    rows.write_text("good film\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal.Output, "finish", full)
    message = _fails(capsys, tiny_checkpoint, "--file", rows, "--output", output)
    assert f"expected room for {output}, there is no more (" in message
    assert "make some; the same command goes on from there" in message
