"""One JSON document, a piece at a time: the objects that the standard library reads of it whole."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibert_jax import documents
from ibert_jax.documents import read_objects, sniff

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(
    st.dictionaries(TEXT.filter(lambda key: key not in ("paragraphs", "qas")), VALUES, max_size=3)
)


class OneByte(io.BytesIO):
    """A stream that gives a byte at a time: whatever can be cut is cut."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(1)


def _read(data: bytes | str) -> list[dict[str, Any]]:
    data = data.encode() if isinstance(data, str) else data
    return list(read_objects(io.BytesIO(data), "a.json"))


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans(), st.booleans())
def test_a_list_is_read_as_the_standard_library_reads_it(
    objects: list[dict[str, Any]], indent: int | None, ascii: bool, named: bool
) -> None:
    whole = {"version": "1", "data": objects, "n": [2.5e3]} if named else objects
    data = json.dumps(whole, indent=indent, ensure_ascii=ascii).encode()
    assert _read(data) == objects
    assert list(read_objects(OneByte(data), "a.json")) == objects
    if objects or not named:
        is_document, stream = sniff(io.BytesIO(data))
        assert is_document
        assert list(read_objects(stream, "a.json")) == objects


def test_values_longer_than_what_is_read_at_once() -> None:
    objects = [{"text": "äö" * size, "n": size} for size in (3, 70_000, 5, 400_000)]
    assert _read(json.dumps(objects, ensure_ascii=False)) == objects
    assert _read("[" + " " * 200_000 + '{"n": 1}' + "\n" * 200_000 + "]") == [{"n": 1}]


def test_questions_out_of_articles_and_paragraphs() -> None:
    one, two = {"id": "1", "question": "Who?"}, {"id": "2", "question": "Why?", "context": "own"}
    paragraphs = [{"context": "c", "qas": [one, two]}, {"context": "d", "qas": []}]
    articles = [{"title": "t", "paragraphs": paragraphs}, {"title": "u", "paragraphs": []}]
    expected = [{"title": "t", "context": "c", **one}, {"title": "t", **two}]
    assert _read(json.dumps({"data": articles, "version": "v2.0"})) == expected
    assert _read(json.dumps(paragraphs)) == [{"context": "c", **one}, two]


@pytest.mark.parametrize(
    ("head", "is_document"),
    [
        ('[{"a": 1}]', True),
        ("\ufeff[\n", True),
        ("\n \n[\n", True),
        ("{\n", True),
        ('{"version": "v2.0",\n"data": [', True),
        ('{"data": [{"a": 1}], "version": "1"}', True),
        ('{"text": "a"}\n{"text": "b"}', False),
        ('{"text": "a", "data": [1, 2]}\n', False),
        ('{"text": "a", "data": []}\n', False),
        ('{"version": "1.1", "data": []}', True),
        ('{"text": a}\n', False),
        ('{"text": "a\n', False),
        ('{"a": ' * 50_000 + "\n", False),
        ("words", False),
        ("", False),
    ],
)
def test_documents_and_lines_are_told_apart(head: str, is_document: bool) -> None:
    found, stream = sniff(io.BytesIO(head.encode()))
    assert found == is_document
    again = b"".join(iter(lambda: stream.readline(3), b""))
    assert again == head.encode()


def test_a_long_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "LONGEST_LINE", 40)
    document = {"version": "1.1", "data": [{"a": i} for i in range(9)]}
    found, stream = sniff(io.BytesIO(json.dumps(document).encode()))
    assert found
    assert list(read_objects(stream, "a.json")) == document["data"]
    assert not sniff(io.BytesIO(json.dumps({"text": "a" * 50}).encode()))[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"expected a list of objects, or SQuAD's nesting .* in a\.json"),
        ('[{"qas": [1]}]', "expected a list of objects"),
        ('{"version": 1}', "expected a list of objects"),
        ("{}", "expected a list of objects"),
        ("", "line 1: it ends too early"),
        ("{", "line 1: it ends too early"),
        ('[\n{"a": 1},\n{"b": ', "line 3: Expecting value"),
        ('[\n{"a": 1}\n', "line 3: it ends too early"),
        ('[{"a": 1},]', "line 1: Expecting value"),
        ('[{"a": 1}\n{"b": 1}]', "line 2: unexpected '{'"),
        ('{"data": [{"a": 1}]', "it ends too early"),
        ('[{"a": "b', r"\(line 1: Unterminated string\)"),
        ('[{"a": 1}]\n[]', "line 2: something follows its end"),
        ('{"data": [], "n": 1, x}', "Expecting value"),
        ("[" * 100_000, "recursion"),
        (b'[{"a": "caf\xe9"}]', r"UTF-8 text, got byte 0xe9 in a\.json; convert"),
        (b'[{"a": 1}] \xc3', r"got byte 0xc3 in a\.json"),
    ],
)
def test_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(text)


def test_what_came_before_the_damage_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_objects(io.BytesIO(b'[{"a": 1},\n{"a": 2},\n{"a" 3}]'), "a.json")
    assert [next(found), next(found)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match="line 3: Expecting ':' delimiter"):
        next(found)
    monkeypatch.setattr(documents, "LONGEST_VALUE", 1000)
    endless = io.BytesIO(b'[{"a": "' + b"x" * 10_000_000)
    with pytest.raises(ValueError, match="line 1: no whole value in 1000 characters"):
        list(read_objects(endless, "a.json"))
    assert endless.tell() < 3_000_000  # the rest was not read


def test_a_number_may_go_on_in_what_is_read_next() -> None:
    for places in range(4):
        head = '{"n": '
        text = head + " " * (2**16 - len(head) - places) + '123, "data": [{"a": 1}]}'
        assert list(read_objects(OneByte(text.encode()), "a.json")) == [{"a": 1}]
