"""What a `Predictor` answers: one dataclass a kind of task.

Every answer begins with what was asked, says how many tokens the model saw for it, and whether
something was cut off (`truncated`), so that its end was not seen. Characters are counted as Python
counts them: `text[entity.start : entity.end]` is the entity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text, or about a pair of texts.

    text: the text as given. label: the most probable label, for a model of several independent
        labels the list of those above one half joined by ", ", for a regression the empty string.
    score: the label's probability (of several, or of none above one half, the largest), or a
        regression's value, of several the first. probabilities: label to probability, in the
        model's order; for a regression of several values those, for one nothing.
    tokens: how many tokens the model saw.
    truncated: whether the text was longer than the model reads, so that its end was not seen.
    pair: the second text, None where there was one only.
    """

    text: str
    label: str
    score: float
    probabilities: Mapping[str, float]
    tokens: int
    truncated: bool
    pair: str | None = None


@dataclass(frozen=True)
class Entity:
    """Words of one kind that follow each other. label: without B- or I-. score: the mean
    probability of its words' labels. start, end: its characters in the text."""

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Entities:
    """The entities of a text, in its order; a long text is read in overlapping stretches."""

    text: str
    entities: tuple[Entity, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Span:
    """A stretch of a context that may be the answer. score: its probability, begin and end being
    independent of each other. start, end: its characters in the context."""

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Answer:
    """The answer to a question in a context; a long context is read in overlapping stretches.

    answer, score, start, end: the best span; the empty string at 0 where the context holds no
    answer. others: the next best, best first. truncated: whether the question was longer than half
    of what the model reads.
    """

    question: str
    context: str
    answer: str
    score: float
    start: int
    end: int
    others: tuple[Span, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Candidate:
    """A vocabulary entry that may stand at a mask, with its probability."""

    token: str
    token_id: int
    score: float


@dataclass(frozen=True)
class Mask:
    """A mask in a text: its characters, and what may stand there, most probable first."""

    start: int
    end: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Filled:
    """A text with its masks filled; none of them if the text holds no mask.

    filled: the text with the best candidate at every mask, as the tokenizer writes it.
    """

    text: str
    filled: str
    masks: tuple[Mask, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Choice:
    """Which of several choices continues a prompt best. index: of the choice, from 0."""

    prompt: str
    choices: tuple[str, ...]
    choice: str
    index: int
    score: float
    probabilities: tuple[float, ...]
    tokens: int
    truncated: bool


@dataclass(frozen=True, eq=False)
class Embedding:
    """A text as a vector, float32 [hidden_size]: the mean of the last hidden states over its
    tokens, of length 1 only where the task was asked to ``normalize``."""

    text: str
    vector: np.ndarray
    tokens: int
    truncated: bool


Result = Prediction | Entities | Answer | Filled | Choice | Embedding


@dataclass(frozen=True)
class Refused:
    """A row that was not answered, and why."""

    reason: str


INPUTS = ("text", "pair", "question", "context", "prompt", "choices")
"""The fields that repeat what was asked."""


def record(result: Result, *, inputs: bool = True) -> dict[str, Any]:
    """A result as plain values, ready for JSON. inputs: whether to repeat what was asked."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.name in INPUTS and (not inputs or value is None):
            continue
        values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | dict):
        return value
    if isinstance(value, np.ndarray):
        return [float(str(number)) for number in value]  # the fewest digits that give it back
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_plain(each) for each in value]
