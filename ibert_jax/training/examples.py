"""Labelled examples of every kind of task, out of rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibert_jax.training.hub import hub_rows
from ibert_jax.training.rows import Row, read_rows
from ibert_jax.training.tasks import Task


@dataclass(frozen=True)
class TextExample:
    """A sentence, or two, with a label's index or a number; a line of text has neither."""

    text: str
    pair: str | None = None
    label: float = 0


@dataclass(frozen=True)
class WordsExample:
    """Words, each with the index of its tag."""

    words: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class QuestionExample:
    """A question to a text.

    answers: every text that counts as right. start: the character of the context at which the
    first of them starts; None where it cannot be told, so that it cannot be learned from.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    start: int | None


@dataclass(frozen=True)
class ChoiceExample:
    """A text, what may follow it, and which of these is right."""

    text: str
    choices: tuple[str, ...]
    label: int


Example = TextExample | WordsExample | QuestionExample | ChoiceExample
Labels = Mapping[str, int]


def read_examples(
    paths: Sequence[str | Path], task: Task, labels: Labels, *, limit: int | None = None
) -> list[Any]:
    """The examples of files, one file after the other.

    Args:
      task: what the fields of a row mean.
      labels: the model's labels; a cell holds either such a name or an index.
      limit: how many to read at most; what comes after them is not looked at.

    Returns:
      Examples of the task's kind.

    Raises:
      FileNotFoundError, IsADirectoryError: no such file.
      ValueError: not UTF-8, a field missing, a label unknown, a line malformed, no example at
        all; the message names file and line.
    """
    return list(itertools.islice(_parsed(paths, task, labels), limit))


def load_examples(task: Task, split: str, labels: Labels, *, limit: int | None = None) -> list[Any]:
    """The same of a split of the task's data set on the Hugging Face hub."""
    return list(itertools.islice(parse(hub_rows(task, split), task, labels), limit))


def _parsed(paths: Sequence[str | Path], task: Task, labels: Labels) -> Iterator[Example]:
    for path in map(Path, paths):
        empty = True
        for example in parse(read_rows(path, task), task, labels):
            empty = False
            yield example
        if empty:
            raise ValueError(f"expected at least one labelled example in {path}, it holds none")


def parse(rows: Iterable[Row], task: Task, labels: Labels) -> Iterator[Example]:
    """An example of each row that has what the task needs."""
    make = _PARSERS[task.kind]
    for row in rows:
        example = make(row, task, labels)
        if example is not None:
            yield example


def read_tags(paths: Sequence[str | Path], task: Task) -> tuple[str, ...]:
    """Every tag in files of tagged words: O first, the others in alphabetical order."""
    found = {
        str(tag) for path in map(Path, paths) for row in read_rows(path, task)
        for tag in row.field(task.label)
    }  # fmt: skip
    return ("O", *sorted(found - {"O"}))


def _classified(row: Row, task: Task, labels: Labels) -> TextExample | None:
    cell = row.field(task.label)
    if str(cell).strip() in task.unlabelled:
        return None
    return _sentences(row, task, label_index(cell, labels, row.where))


def _regressed(row: Row, task: Task, labels: Labels) -> TextExample:
    del labels
    cell = row.field(task.label)
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, got {cell!r} in {row.where}")
    return _sentences(row, task, value)


def _sentences(row: Row, task: Task, label: float) -> TextExample:
    pair = None if task.pair is None else row.text(task.pair)
    return TextExample(row.text(task.text), pair, label)


def _tagged(row: Row, task: Task, labels: Labels) -> WordsExample | None:
    words, tags = row.field(task.text), row.field(task.label)
    for values in (words, tags):
        if not isinstance(values, list) or len(values) != len(words):
            raise ValueError(
                f"expected as many words as tags, two lists, in {row.where}, got {words!r} and "
                f"{tags!r}"
            )
    if not words:
        return None
    return WordsExample(
        tuple(map(str, words)), tuple(label_index(tag, labels, row.where) for tag in tags)
    )


def _asked(row: Row, task: Task, labels: Labels) -> QuestionExample | None:
    """Answers as SQuAD has them (texts with starts), as lists of the two, or bare strings."""
    del labels
    context = row.text(str(task.pair))
    fields = row.fields
    found = row.field(task.label if task.label in fields or "answer" not in fields else "answer")
    texts: list[Any]
    if isinstance(found, dict):
        texts, starts = (_several(found.get(name, ())) for name in ("text", "answer_start"))
    else:
        several = _several(found)
        texts = [one.get("text") if isinstance(one, dict) else one for one in several]
        starts = [one.get("answer_start") if isinstance(one, dict) else None for one in several]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected answers that are strings in {row.where}, got {found!r}")
    if not any(map(str.strip, texts)):
        return None  # unanswerable, which SQuAD 1.1 does not know
    start = starts[0] if starts else None
    if isinstance(start, bool) or not isinstance(start, int | None):
        raise ValueError(
            f"expected answers that start at a whole number of characters in {row.where}, got "
            f"{start!r}"
        )
    if start is None or not context.startswith(texts[0], start):
        start = context.index(texts[0]) if context.count(texts[0]) == 1 else None
    number = str(fields.get("id", row.where))
    return QuestionExample(number, row.text(task.text), context, tuple(texts), start)


def _several(found: Any) -> list[Any]:
    """A list, also of what stands alone; of null an empty one."""
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _chosen(row: Row, task: Task, labels: Labels) -> ChoiceExample:
    del labels
    found: list[Any] = [row.field(name) for name in task.choices]
    if len(found) == 1 and isinstance(found[0], list):
        found = found[0]
    objects = all(isinstance(one, dict) and {"text", "label"} <= one.keys() for one in found)
    texts = [one["text"] for one in found] if objects else found
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected two or more choices in {row.where}, got {found!r}")
    if task.pair is not None:
        texts = [f"{row.text(task.pair)} {text}" for text in texts]
    names = [str(one["label"]) for one in found] if objects else map(str, range(len(found)))
    numbers = {name: index for index, name in enumerate(names)}
    label = label_index(row.field(task.label), numbers, row.where)
    return ChoiceExample(row.text(task.text), tuple(texts), label)


def _line(row: Row, task: Task, labels: Labels) -> TextExample | None:
    del labels
    text = row.text(task.text).strip()
    return TextExample(text) if text else None


_PARSERS: dict[str, Callable[[Row, Task, Labels], Example | None]] = {
    "classification": _classified,
    "regression": _regressed,
    "token_classification": _tagged,
    "question_answering": _asked,
    "multiple_choice": _chosen,
    "masked_lm": _line,
}


def label_index(cell: Any, labels: Labels, where: str) -> int:
    """A label's index, given by name or as the index itself."""
    text = str(cell).strip()
    if text in labels:
        return labels[text]
    if text.isdecimal() and int(text) < len(labels):
        return int(text)
    raise ValueError(
        f"expected one of the labels {', '.join(labels)} or an index below {len(labels)}, got "
        f"{text!r} in {where}; other labels can be named in the options"
    )
