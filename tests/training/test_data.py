"""Files of labelled sentences: what is read, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training.data import Examples, read_examples, tokenize

LABELS = {"negative": 0, "positive": 1}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_tsv_means_nothing_by_quotes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tsv", 'sentence\tlabel\n"so so \t1\n\nit\u2028is "bad" \tnegative\r\n'
    )
    assert read_examples([path], LABELS) == Examples(['"so so ', 'it\u2028is "bad" '], [1, 0])


def test_csv_has_quotes_and_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,mark,text\n7,positive,"good, ""very"" good\nindeed"\n')
    found = read_examples([path], LABELS, text_column="text", label_column="mark")
    assert found == Examples(['good, "very" good\nindeed'], [1])


def test_json_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        '{"sentence": "a\\tb", "label": 1}\n\n{"label":"negative","sentence":"c"}',
    )
    assert read_examples([path], LABELS) == Examples(["a\tb", "c"], [1, 0])


def test_files_follow_each_other(tmp_path: Path) -> None:
    one = write(tmp_path / "1.tsv", "sentence\tlabel\na\t0\n")
    two = write(tmp_path / "2.tsv", "label\tsentence\n1\tb\n")
    assert read_examples([one, two], LABELS) == Examples(["a", "b"], [0, 1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "expected a column 'sentence' in the first line"),
        ("a.tsv", "sentence\tlabel\n", "expected at least one labelled sentence"),
        ("a.tsv", "text\tlabel\na\t1\n", "expected a column 'sentence' .* got text, label"),
        ("a.tsv", "sentence\tlabel\na\t0\nb\t2\n", "got '2' in line 3 of"),
        ("a.tsv", "sentence\tlabel\na\tneutral\n", "labels negative, positive or an index below 2"),
        ("a.tsv", "sentence\tlabel\na\t-1\n", "got '-1' in line 2"),
        ("a.tsv", "sentence\tlabel\na\n", "expected 2 cells, as in the header, got 1 in line 2"),
        ("a.tsv", b"sentence\tlabel\na\t0\n\xff\t1\n", "UTF-8 text, got byte 0xff in line 3"),
        ("a.csv", "", "expected a column 'sentence'"),
        ("a.jsonl", "", "expected at least one labelled sentence"),
        ("a.jsonl", '{"sentence": "a", "label": 1}\n{"sen', "line 2 of .* is none"),
        ("a.jsonl", '{"sentence": "a"}', "the keys 'sentence' and 'label' in line 1"),
        ("a.jsonl", '{"sentence": 3, "label": 1}', "to be a string in line 1"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_examples([write(tmp_path / name, content)], LABELS)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_examples([tmp_path / "none.tsv"], LABELS)


def test_tokenized_and_cut(tokenizer: Tokenizer) -> None:
    examples = Examples(["the film is good", "bad"], [1, 0])
    found = tokenize(examples, tokenizer, max_length=5)
    ids = tokenizer.backend.get_vocab()
    first = [ids[word] for word in ("[CLS]", "the", "film", "is", "[SEP]")]
    np.testing.assert_array_equal(found.tokens, [*first, ids["[CLS]"], ids["bad"], ids["[SEP]"]])
    np.testing.assert_array_equal(found.lengths, [5, 3])
    assert (found.truncated, found.tokens.dtype, found.labels.dtype) == (1, np.int32, np.int32)
    picked = found.select(np.asarray([1, 0]))
    np.testing.assert_array_equal(picked.tokens, [*found.tokens[5:], *found.tokens[:5]])
    np.testing.assert_array_equal(picked.labels, [0, 1])
