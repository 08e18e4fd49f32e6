"""Files of every layout: what is read, and what is refused in which words."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ibert_jax.training.examples import (
    ChoiceExample,
    QuestionExample,
    TextExample,
    WordsExample,
    load_examples,
    read_examples,
    read_tags,
)
from ibert_jax.training.tasks import Task, load_task

LABELS = {"negative": 0, "positive": 1}
SENTENCES = load_task("classification")


def write(path: Path, content: Any) -> Path:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, task: Task = SENTENCES, labels: Any = LABELS) -> list[Any]:
    return read_examples([path], task, labels)


def test_tsv_means_nothing_by_quotes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tsv", 'sentence\tlabel\n"so so \t1\n\nit\u2028is "bad" \tnegative\r\n'
    )
    assert read(path) == [
        TextExample('"so so ', None, 1),
        TextExample('it\u2028is "bad" ', None, 0),
    ]


def test_tsv_without_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'gj04\t1\t\tThe "rope.\ngj04\t0\t*\tRope the.\n')
    found = read(path, load_task("cola"), {"unacceptable": 0, "acceptable": 1})
    assert found == [TextExample('The "rope.', None, 1), TextExample("Rope the.", None, 0)]


def test_csv_has_quotes_and_other_columns(tmp_path: Path) -> None:
    text = 'id,mark,text,id\n7,positive,"good, ""very"" good\nindeed",8\n'
    path = write(tmp_path / "a.csv", text)
    task = SENTENCES.replace(text="text", label="mark")
    assert read(path, task) == [TextExample('good, "very" good\nindeed', None, 1)]


def test_json_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"sentence": "a\\tb", "label": 1}\n\n{"label":"negative","sentence":"c"}',
    )
    assert read(path) == [TextExample("a\tb", None, 1), TextExample("c", None, 0)]


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = arrow.table({"sentence": ["a", "b"], "label": [1, 0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [TextExample("a", None, 1), TextExample("b", None, 0)]
    write(tmp_path / "b.parquet", "sentence")
    with pytest.raises(ValueError, match="could not read"):
        read(tmp_path / "b.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="needs pyarrow"):
        read(tmp_path / "a.parquet")


def test_pairs_and_rows_without_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "premise\thypothesis\tlabel\na\tb\t2\nc\td\t-1\n")
    task = load_task("snli")
    assert task.labels is not None
    labels = {name: index for index, name in enumerate(task.labels)}
    assert read(path, task, labels) == [TextExample("a", "b", 2)]


def test_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence1\tsentence2\tlabel\na\tb\t2.5\nc\td\tmuch\n")
    with pytest.raises(ValueError, match="expected a number, got 'much' in line 3"):
        read(path, load_task("stsb"))
    path = write(path, "sentence1\tsentence2\tlabel\na\tb\tnan\n")
    with pytest.raises(ValueError, match="expected a number, got 'nan' in line 2"):
        read(path, load_task("stsb"))
    path = write(path, "sentence1\tsentence2\tlabel\na\tb\t2.5\n")
    assert read(path, load_task("stsb")) == [TextExample("a", "b", 2.5)]


def test_conll(tmp_path: Path) -> None:
    """A line of a tab alone ends a sentence, too; a no-break space is part of a token."""
    path = write(tmp_path / "a.any", "EU\tB-x\nis\tO\n\t\n\n-DOCSTART- O\n\nNew X\tI-x\n")
    task = load_task("ner")
    tags = read_tags([path], task)
    assert tags == ("O", "B-x", "I-x")
    found = read(path, task, {tag: index for index, tag in enumerate(tags)})
    assert found == [WordsExample(("EU", "is"), (1, 0)), WordsExample(("New X",), (2,))]
    path = write(tmp_path / "b.conll", "EU NNP B-x\nis\n")
    with pytest.raises(ValueError, match="a token and its tag in line 2 of"):
        read(path, task, {"O": 0, "B-x": 1})


QUESTION = QuestionExample("7", "Who?", "An ox, an ass.", ("ox",), 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "squad.json",
            {
                "data": [
                    {
                        "paragraphs": [
                            {
                                "context": "An ox, an ass.",
                                "qas": [
                                    {
                                        "id": "7",
                                        "question": "Who?",
                                        "answers": [{"text": "ox", "answer_start": 3}],
                                    }
                                ],
                            }
                        ]
                    }
                ]
            },
        ),
        (
            "nested.json",
            [
                {
                    "context": "An ox, an ass.",
                    "qas": [{"question": "Who?", "answer": "ox", "id": 7}],
                    "other": [1],
                }
            ],
        ),
        ("flat.json", [{"context": "An ox, an ass.", "question": "Who?", "answer": "ox", "id": 7}]),
        (
            "lines.jsonl",
            {
                "id": "7",
                "context": "An ox, an ass.",
                "question": "Who?",
                "answers": {"text": ["ox"], "answer_start": [3]},
            },
        ),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_questions(tmp_path: Path, name: str, content: Any, indent: int | None) -> None:
    if indent and name.endswith("l"):
        indent = None
    path = write(tmp_path / name, json.dumps(content, indent=indent))
    assert read(path, load_task("squad"), {}) == [QUESTION]


@pytest.mark.parametrize(
    ("answer", "start"),
    [
        ("an", None),
        ("cow", None),
        ([{"text": "an", "answer_start": 7}], 7),
        ({"text": "an", "answer_start": 7}, 7),
        ({"text": "an owl"}, 15),
        ({"text": ["an owl"], "answer_start": None}, 15),
        ([], "none"),
        (None, "none"),
    ],
)
def test_answers_have_a_place_where_they_occur_once(
    tmp_path: Path, answer: Any, start: Any
) -> None:
    """ "an" occurs twice: without an offset it could stand for either."""
    row = {"context": "An ox, an ass, an owl.", "question": "Who?", "answers": answer}
    path = write(tmp_path / "a.json", [row, {**row, "answers": "ox"}])
    found = read(path, load_task("squad"), {})
    assert [example.start for example in found] == ([3] if start == "none" else [start, 3])


@pytest.mark.parametrize("start", [0.0, "0", True])
def test_an_answer_starts_at_a_whole_number(tmp_path: Path, start: Any) -> None:
    answers = [{"text": "An", "answer_start": start}]
    row = {"context": "An ox.", "question": "Who?", "answers": answers}
    with pytest.raises(ValueError, match=f"whole number of characters in .*, got {start!r}"):
        read(write(tmp_path / "a.json", [row]), load_task("squad"), {})


def test_choices(tmp_path: Path) -> None:
    row = {
        "answerKey": "B",
        "question": {
            "stem": "Where?",
            "choices": [{"label": "A", "text": "here"}, {"label": "B", "text": "there"}],
        },
    }
    expected = ChoiceExample("Where?", ("here", "there"), 1)
    assert read(write(tmp_path / "a.jsonl", row), load_task("commonsenseqa"), {}) == [expected]
    swag = {"sent1": "s", "sent2": "He", "label": 3, **{f"ending{i}": f"e{i}" for i in range(4)}}
    (found,) = read(write(tmp_path / "b.jsonl", swag), load_task("swag"), {})
    assert found == ChoiceExample("s", ("He e0", "He e1", "He e2", "He e3"), 3)
    with pytest.raises(ValueError, match="labels A, B or an index below 2, got 'C' in line 1"):
        read(write(tmp_path / "a.jsonl", {**row, "answerKey": "C"}), load_task("commonsenseqa"), {})


def test_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", " = Title = \n \n Text .\n")
    found = read(path, load_task("wikitext2"), {})
    assert found == [TextExample("= Title ="), TextExample("Text .")]


def test_files_follow_each_other_up_to_a_limit(tmp_path: Path) -> None:
    one = write(tmp_path / "1.tsv", "sentence\tlabel\na\t0\n")
    two = write(tmp_path / "2.tsv", "label\tsentence\n1\tb\n1\tc\n")
    found = read_examples([one, two], SENTENCES, LABELS, limit=2)
    assert found == [TextExample("a", None, 0), TextExample("b", None, 1)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "expected at least one labelled example"),
        ("a.tsv", "sentence\tlabel\n", "expected at least one labelled example"),
        ("a.tsv", "text\tlabel\na\t1\n", "expected 'sentence' in line 2 .* fields text, label"),
        ("a.tsv", "sentence\tlabel\na\t0\nb\t2\n", "got '2' in line 3 of"),
        ("a.tsv", "sentence\tlabel\na\tneutral\n", "labels negative, positive or an index below 2"),
        ("a.tsv", "sentence\tlabel\na\t-1\n", "got '-1' in line 2"),
        ("a.tsv", "sentence\tlabel\na\n", r"2 cells \(sentence, label\), got 1 in line 2"),
        ("a.tsv", b"sentence\tlabel\na\t0\n\xff\t1\n", "UTF-8 text, got byte 0xff in line 3"),
        ("a.tsv", "sentence\tlabel\tlabel\na\t0\t1\n", "one column 'label' in .*a.tsv, there are"),
        ("a.csv", "sentence;label\na;1\n", "commas between the columns of .*, got semicolons"),
        ("a.csv", "sentence\tlabel\na\t1\n", "got tabs; save it with commas, or name it .tsv"),
        (
            "a.tsv.zst",
            b"\x28\xb5\x2f\xfd",
            r"plain or ends in \.gz, \.bz2, \.xz, got .*\.zst",
        ),
        ("a.jsonl", "", "expected at least one labelled example"),
        ("a.jsonl", '{"sentence": "a", "label": 1}\n{"sen', "line 2 of .* is none"),
        ("a.jsonl", '{"sentence": "a", "label": 1}\n[1]', "line 2 of .* is none"),
        ("a.jsonl", '{"sentence": "a"}', "expected 'label' in line 1"),
        ("a.jsonl", '{"sentence": 3, "label": 1}', "to be a string in line 1"),
        ("a.json", "[1]", "expected a list of objects"),
        ("a.json", "{", "could not read it"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / name, content))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "none.tsv")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the library, which needs a network."""
    asked: list[Any] = []

    def load_dataset(*names: str, split: str) -> list[dict[str, Any]]:
        asked.append((*names, split))
        if names[0] == "stanfordnlp/snli":
            raise ConnectionError("Couldn't reach the hub\nand more")
        return [{"idx": 0, "sentence": "good", "label": 1}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = load_examples(load_task("sst2"), "train", LABELS)
    assert found == [TextExample("good", None, 1)]
    assert asked == [("nyu-mll/glue", "sst2", "train")]
    with pytest.raises(ValueError, match=r"could not load test of stanfordnlp/snli .*a network\?"):
        load_examples(load_task("snli"), "test", LABELS)
    with pytest.raises(ValueError, match="wnut17 names no data set"):
        load_examples(load_task("wnut17"), "train", LABELS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"install it, as by pip install 'ibert-jax\[datasets\]'"):
        load_examples(load_task("sst2"), "train", LABELS)


def test_what_the_readers_of_tables_share_with_predict(tmp_path: Path) -> None:
    """Compressed files, long cells, JSON by another name; and a sentence where none can be read."""
    table = tmp_path / "long.csv.gz"
    text = "word " * 40_000
    table.write_bytes(gzip.compress(f'sentence,label\n"{text}",positive\n'.encode()))
    assert read_examples([table], SENTENCES, LABELS)[0].text == text
    objects = tmp_path / "rows.ndjson"
    objects.write_text('{"sentence": "a", "label": "positive"}\n' + "[" * 100_000 + "\n")
    assert read_examples([objects], SENTENCES, LABELS, limit=1)[0].text == "a"  # no more is read
    with pytest.raises(ValueError, match=r"line 2 of .* is none"):
        read_examples([objects], SENTENCES, LABELS)
    broken = tmp_path / "broken.csv"
    broken.write_text('sentence,label\n"never ends,good\n' + "x" * 2**21)
    with pytest.raises(ValueError, match="expected CSV, could not read"):
        read_examples([broken], SENTENCES, LABELS)
