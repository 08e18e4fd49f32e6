"""Files of every layout give the same rows; what is wrong with one is told beside it."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ibert_jax import lines
from ibert_jax.inference import Row, Source

ROWS = [("1", "good film"), ("2", 'a "bad" one, é'), ("3", "東京 🙂 \u2028 still")]


def _good(source: Source) -> list[tuple[Any, ...]]:
    rows = list(source)
    assert [row.problem for row in rows] == [None] * len(rows)
    return [(row.number, row.cells, row.kept) for row in rows]


def _problems(path: Path, **options: Any) -> dict[int, str | None]:
    return {row.number: row.problem for row in Source(path, **options)}


TABLES = {
    "tsv": "id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in ROWS),
    "csv": "id,text\n"
    + "".join(f'{i},"{text.replace(chr(34), chr(34) * 2)}"\n' for i, text in ROWS),
    "jsonl": "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in ROWS),
}


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("layout", list(TABLES))
def test_tables(tmp_path: Path, layout: str, ending: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress
    }  # fmt: skip
    path = tmp_path / f"rows.{layout}{ending}"
    path.write_bytes(packers[ending](TABLES[layout].encode()))
    first = 1 if layout == "jsonl" else 2  # after the header
    expected = [(first + k, (text,), {"id": i}) for k, (i, text) in enumerate(ROWS)]
    source = Source(path, columns=["text"], keep=["id"])
    assert (source.position, source.format) == (0, layout)
    assert _good(source) == expected
    assert source.position == source.size
    assert _good(Source(path, known=[("question", "context"), ("text",)], keep=["id"])) == expected


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    texts = arrow.array([b"good", b"caf\xe9", None, b"last"], arrow.binary())
    table = arrow.table({
        "text": arrow.Array.from_buffers(arrow.string(), 4, texts.buffers()),
        "choices": [["a", "b"], ["c"], [], None],
    })  # fmt: skip
    parquet.write_table(table, path, row_group_size=2)
    rows = list(Source(path, columns=["text"]))
    assert [row.cells for row in rows] == [("good",), None, None, ("last",)]
    assert rows[1].problem == "byte 0xe9 at place 4 is not UTF-8"
    assert rows[2] == Row(3, None, {}, "no value for text")
    first = next(iter(Source(path, columns=["text", "choices"])))
    assert first.cells == ("good", ["a", "b"])
    twice = arrow.Table.from_arrays([table[0], table[0]], ["text", "text"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="one column 'text'"):
        list(Source(tmp_path / "twice.parquet", columns=["text"]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="expected a Parquet file"):
        list(Source(path, columns=["text"]))


def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 20)
    path = tmp_path / "rows"
    data = b"\xef\xbb\xbfone\r\n\n \xe2\x80\xa8\ncaf\xe9 x\n" + b"y" * 20 + b"\n" + b"z" * 99
    path.write_bytes(data + b"\n\x00\x1b[31m\nlast")
    rows = list(Source(path))
    assert [(row.number, row.cells) for row in rows if row.problem is None] == [
        (1, ("one",)),
        (7, ("\x00\x1b[31m",)),
        (8, ("last",)),
    ]
    assert _problems(path) == {
        1: None,
        2: "the line is empty",
        3: "the line is empty",
        4: "byte 0xe9 at place 4 is not UTF-8",
        5: "the line has 21 bytes, more than the 20 that are read",
        6: "the line has 100 bytes, more than the 20 that are read",
        7: None,
        8: None,
    }
    stream = Source(None, stream=io.BytesIO(data))
    assert (stream.size, [row.number for row in stream]) == (None, [1, 2, 3, 4, 5, 6])


def test_bad_rows_of_tables(tmp_path: Path) -> None:
    tsv = tmp_path / "rows.tsv"
    tsv.write_bytes(b'id\ttext\n1\ta\n2\n\n3\tb\tc\n4\tcaf\xe9\n5\t"b\n')
    assert _problems(tsv, columns=["text"]) == {
        2: None,
        3: "expected 2 cells, as in the header, got 1",
        4: "the line is empty",
        5: "expected 2 cells, as in the header, got 3",
        6: "byte 0xe9 at place 6 is not UTF-8",
        7: None,
    }
    jsonl = tmp_path / "rows.jsonl"
    deep = "[" * 100_000
    jsonl.write_text('{"text": "a"}\n{"text"\n[1]\n{"a": 1}\n' + deep + '\n\n{"text": null}\n')
    found = _problems(jsonl, columns=["text"])
    assert (found[1], found[3], found[4]) == (
        None,
        "expected a JSON object, got list",
        "no value for text",
    )
    assert all("not JSON" in str(found[number]) for number in (2, 5))
    assert (found[6], found[7]) == ("the line is empty", "no value for text")


def test_words_of_conll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.conll"
    path.write_text(
        "-DOCSTART- O\n\nEmpire\tO\nState Building\tB-location\n\n\n"
        "alone\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    )
    expected = [(3, ("Empire State Building",), {}), (7, ("alone EU rejects",), {})]
    assert _good(Source(path)) == expected
    assert _good(Source(None, stream=io.BytesIO(path.read_bytes()), format="conll")) == expected
    path.write_bytes(b"caf\xe9\tO\nb\tO\n\n\tO\nc\tO\n\ngood\tO\n")
    assert _problems(path) == {
        1: "line 1: byte 0xe9 at place 4 is not UTF-8",
        4: "line 4: expected a word in its first column",
        7: None,
    }
    monkeypatch.setattr("ibert_jax.inference.sources.LONGEST_LINE", 30)
    path.write_text("word\n" * 20 + "\ngood\n")
    assert _problems(path) == {1: "a sentence of more than 30 characters", 22: None}
    with pytest.raises(ValueError, match="is read as conll; name its format"):
        Source(path, columns=["text"])


def test_one_json_document(tmp_path: Path) -> None:
    questions = [{"id": str(i), "question": f"Who {i}?", "answers": []} for i in range(3)]
    questions[1]["question"] = " "
    nested = {"data": [{"paragraphs": [{"context": "An ox.", "qas": questions}]}]}
    path = tmp_path / "squad.json"
    for indent in (None, 2):
        path.write_text(json.dumps(nested, indent=indent))
        source = Source(path, known=[("question", "context")], keep=["id"])
        expected = Row(1, ("Who 0?", "An ox."), {"id": "0"}, None)
        empty, last = (
            Row(2, None, {}, "a cell to be read is empty"),
            expected._replace(number=3, cells=("Who 2?", "An ox."), kept={"id": "2"}),
        )
        assert list(source) == [expected, empty, last]
        packed = tmp_path / "squad.json.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert list(Source(packed, known=[("question", "context")], keep=["id"]))[2] == last
    stream = io.BytesIO(b'[{"text": "a"}, {"text": "b"}, {"other": 1}]')
    rows = list(Source(None, stream=stream, format="jsonl"))
    assert [row.cells for row in rows] == [("a",), ("b",), None]
    path.write_text('[{"text": "a"},\n{"text" ')
    with pytest.raises(ValueError, match=r"expected JSON in .*squad\.json, .*line 2"):
        list(Source(path))


def test_csv_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,text\n1,"two\nlines"\n2,"caf\xe9\nx"\n3,a\rb\n4,good\n')
    rows = list(Source(path, columns=["text"]))
    assert [(row.number, row.cells) for row in rows] == [
        (2, ("two\nlines",)),
        (4, None),
        (6, None),
        (7, ("good",)),
    ]
    assert rows[1].problem == "byte 0xe9 at place 7 is not UTF-8"
    # A quote that nobody closes takes the lines behind it along, but not all of the file.
    monkeypatch.setattr("ibert_jax.inference.sources.LONGEST_LINE", 30)
    path.write_text('id,text\n1,"open\n' + "2,row\n" * 20)
    rows = list(Source(path, columns=["text"]))
    assert rows[0].number == 2
    assert (
        rows[0].problem == "a record of more than 30 characters, to line 6; a quote is not closed"
    )
    assert [row.number for row in rows[1:]] == list(range(7, 23))


def test_what_stops_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Source(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        Source(tmp_path)
    (tmp_path / "rows.csv.zst").touch()
    with pytest.raises(ValueError, match=r"plain or ends in \.gz, \.bz2, \.xz, got .*\.zst; dec"):
        Source(tmp_path / "rows.csv.zst", columns=["text"])
    with pytest.raises(ValueError, match="from standard input"):
        Source(None, format="parquet")
    path = tmp_path / "rows.tsv"
    path.write_text("id\ttext\n1\ta\n")
    with pytest.raises(ValueError, match=r"expected a column 'review' in .* got id, text; name"):
        list(Source(path, columns=["review"]))
    with pytest.raises(ValueError, match=r"expected a column a or question\+context in .* got id"):
        list(Source(path, known=[("a",), ("question", "context")]))
    with pytest.raises(ValueError, match="read as text"):
        Source(path, format="text", columns=["text"])
    utf16 = tmp_path / "utf16.txt"
    utf16.write_text("one\n", encoding="utf-16")
    with pytest.raises(ValueError, match="UTF-16; convert"):
        list(Source(utf16))


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_damaged_compression(tmp_path: Path, ending: str) -> None:
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending]
    whole = pack(("row of some words\n" * 10_000).encode())
    path = tmp_path / f"rows.txt{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"expected a whole {ending} file.*copy it again"):
        list(Source(path))


def test_one_column_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("review\ngood\n")
    assert [row.cells for row in Source(path, known=[("sentence",)])] == [("good",)]


def test_a_quote_that_is_not_closed_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('id,text\n0,fine\n1,"good\n2,bad\n3,worse\n')
    good, bad = Source(path, columns=["text"])
    assert good.cells == ("fine",)
    assert bad.cells is None


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,text\ngood,bad\n")
    with pytest.raises(ValueError, match=r"one column 'text' in .*; rename the others"):
        list(Source(path, columns=["text"]))


@pytest.mark.parametrize(("sign", "called"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_are_not_taken_for_commas(tmp_path: Path, sign: str, called: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"review{sign}stars\ngood film{sign}1\n")
    with pytest.raises(ValueError, match=rf"expected commas .* got {called}; save it with commas"):
        list(Source(path))
    path.write_text(f'"a{sign} b"\ngood\n')
    assert [row.cells for row in Source(path, columns=[f"a{sign} b"])] == [("good",)]
    path.write_text(f"review\ngood{sign} film\n")
    assert [row.cells for row in Source(path)] == [(f"good{sign} film",)]


def test_a_long_cell_of_csv(tmp_path: Path) -> None:
    before = csv.field_size_limit(2**17)
    try:
        path = tmp_path / "rows.csv"
        path.write_text("text\n" + "good " * 40_000 + "\n")
        assert [len(row.cells[0]) for row in Source(path)] == [200_000]
    finally:
        csv.field_size_limit(before)


def test_a_kept_value_that_is_missing_spoils_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "id": 1}\n{"text": "b"}\n{"text": "c", "id": null}\n')
    rows = list(Source(path, columns=["text"], keep=["id"]))
    assert [row.problem for row in rows] == [None, "no value for id", "no value for id"]
