"""Examples as tokens, all in one array, ready to be cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ibert_jax.checks import IGNORED_LABEL
from ibert_jax.tokenizer import Encoding, Tokenizer
from ibert_jax.training.tasks import LEAST_LENGTH, Task

_NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class TokenizedExamples:
    """Tokenized texts, all in one array: text i is `tokens[starts[i] : starts[i + 1]]`.

    An example is one text, or `choices` texts that follow each other. (A question with a long
    context becomes several examples, one a window.)

    Attributes:
      tokens: int32 [tokens], special tokens included. types: their token types, int32 [tokens];
        None where all are 0.
      starts: int64 [texts + 1].
      targets: what the model should say of each example, by name, int32 or float32 [examples].
      token_targets: what it should say of each token, int32 [tokens], -100 where that does not
        matter; None where no token has a target of its own.
      choices: texts an example.
      truncated: how many examples lost tokens at their end.
      left_out: how many could not be learned from.
      source: what is answered: the examples, from `read_examples`, or, where lines were joined, the
        tokens of each example. places: where in these a token stands, int32 [tokens] or
        [tokens, 2], -1 for none: its word, if it is the first of that word, or the characters of
        the context at which it starts and ends. owners: int64 [examples], to which of `source` an
        example belongs.
    """

    tokens: np.ndarray
    starts: np.ndarray
    targets: Mapping[str, np.ndarray]
    token_targets: np.ndarray | None = None
    types: np.ndarray | None = None
    choices: int = 1
    truncated: int = 0
    left_out: int = 0
    source: Sequence[Any] = field(default=(), repr=False)
    places: np.ndarray | None = None
    owners: np.ndarray | None = None

    def __len__(self) -> int:
        return (len(self.starts) - 1) // self.choices

    @property
    def lengths(self) -> np.ndarray:
        """int64 [examples], tokens in each, in its longest text where it has several."""
        return np.diff(self.starts).reshape(-1, self.choices).max(axis=1)

    def select(self, indices: np.ndarray) -> TokenizedExamples:
        """The examples with these numbers, in this order; `truncated` is not told for them."""
        texts = (indices[:, None] * self.choices + np.arange(self.choices)).reshape(-1)
        pieces = [np.arange(self.starts[i], self.starts[i + 1]) for i in texts]
        where = np.concatenate(pieces)

        def picked(array: np.ndarray | None, by: np.ndarray) -> np.ndarray | None:
            return None if array is None else array[by]

        return TokenizedExamples(
            tokens=self.tokens[where],
            types=picked(self.types, where),
            starts=np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]),
            targets={name: values[indices] for name, values in self.targets.items()},
            token_targets=picked(self.token_targets, where),
            choices=self.choices,
            source=self.source,
            places=picked(self.places, where),
            owners=picked(self.owners, indices),
        )


def tokenize(
    examples: Sequence[Any],
    tokenizer: Tokenizer,
    task: Task,
    *,
    max_length: int,
    learning: bool = False,
) -> TokenizedExamples:
    """Tokenize examples, cutting each to `max_length` tokens, special tokens included.

    A context of a question is not cut but read in windows, as a `Predictor` reads it, which overlap
    by `task.stride` tokens, or by a third of their room where that is less. Lines of text (masked
    language modelling) are joined and cut into examples of `max_length`.

    Args:
      examples: from `read_examples`, of the task's kind; at least one.
      learning: leave out what can only be evaluated on: questions whose answer's place is not
        known.

    Raises:
      ValueError: `max_length` leaves no room beside the special tokens; no example to learn from.
    """
    if max_length < LEAST_LENGTH[task.kind]:
        raise ValueError(
            f"expected a max_length of at least {LEAST_LENGTH[task.kind]} for {task.kind}, got "
            f"{max_length}, the task's, or all that the model has positions for"
        )
    if task.kind == "question_answering":
        return _windows(examples, tokenizer, task, max_length, learning)
    return _TOKENIZERS[task.kind](examples, tokenizer, max_length)


def _texts(examples: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> TokenizedExamples:
    """Sentences or pairs, each with one label."""
    pairs = None if examples[0].pair is None else [example.pair for example in examples]
    texts = [example.text for example in examples]
    encodings = tokenizer.encode(texts, pairs, max_length=max_length)
    labels = [example.label for example in examples]
    return TokenizedExamples(
        **_joined(encodings, [encoding.truncated for encoding in encodings]),
        targets={"labels": _array(labels)},
        source=examples,
    )


def _choices(examples: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> TokenizedExamples:
    count = len(examples[0].choices)
    other = next((e for e in examples if len(e.choices) != count), None)
    if other is not None:
        raise ValueError(
            f"expected as many choices for every example, got {count} and, for {other.text!r}, "
            f"{len(other.choices)}"
        )
    texts = [example.text for example in examples for _ in example.choices]
    pairs = [choice for example in examples for choice in example.choices]
    encodings = tokenizer.encode(texts, pairs, max_length=max_length)
    cut = [
        any(encoding.truncated for encoding in encodings[i : i + count])
        for i in range(0, len(encodings), count)
    ]
    return TokenizedExamples(
        **_joined(encodings, cut),
        targets={"labels": _array([example.label for example in examples])},
        choices=count,
        source=examples,
    )


def _words(examples: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> TokenizedExamples:
    """Words with a tag each, which the first token of the word learns.

    The words are joined by blanks, so that every tokenizer sees a sentence as it knows them.
    """
    texts = [" ".join(example.words) for example in examples]
    cut = tokenizer.stretches(texts, max_length=max_length, overlap=None)
    encodings = [first for (first,) in cut]
    places, targets = [], []
    for example, encoding in zip(examples, encodings, strict=True):
        ends = np.cumsum([len(word) + 1 for word in example.words])
        # By a token's last character: its first may be the blank before the word.
        begin, end = encoding.spans.T
        word = np.searchsorted(ends, end - 1, side="right")
        word[(encoding.texts < 0) | (end <= begin)] = _NOWHERE
        first = np.concatenate([[True], word[1:] != word[:-1]]) & (word >= 0)
        places.append(np.where(first, word, _NOWHERE))
        tags = np.asarray((*example.labels, IGNORED_LABEL))
        targets.append(np.where(first, tags[word], IGNORED_LABEL))
    return TokenizedExamples(
        **_joined(encodings, [encoding.truncated for encoding in encodings]),
        targets={},
        token_targets=np.concatenate(targets).astype(np.int32),
        places=np.concatenate(places).astype(np.int32),
        source=examples,
    )


def _windows(
    examples: Sequence[Any], tokenizer: Tokenizer, task: Task, max_length: int, learning: bool
) -> TokenizedExamples:
    """Every question with windows of its context, which overlap.

    Targets are the tokens at which the answer starts and ends; the first token stands for an
    answer that is not in the window.
    """
    kept = [e for e in examples if e.start is not None] if learning else list(examples)
    if not kept:
        raise ValueError(
            f"none of {len(examples)} answers has a place: give answer_start, or answers that "
            "occur exactly once in their context"
        )
    windows = tokenizer.stretches(
        [example.question for example in kept],
        [example.context for example in kept],
        max_length=max_length,
        overlap=task.stride,
    )
    owners = [index for index, own in enumerate(windows) for _ in own]
    encodings = [window for own in windows for window in own]
    places, starts, ends = [], [], []
    for owner, window in zip(owners, encodings, strict=True):
        offsets = np.where((window.texts == 1)[:, None], window.spans, _NOWHERE)
        places.append(offsets)
        start, end = _span(offsets, kept[owner].start, len(kept[owner].answers[0]))
        starts.append(start)
        ends.append(end)
    return TokenizedExamples(
        **_joined(encodings, [False]),
        targets={"start_positions": _array(starts), "end_positions": _array(ends)},
        places=np.concatenate(places).astype(np.int32),
        owners=np.asarray(owners, np.int64),
        source=kept,
        left_out=len(examples) - len(kept),
    )


def _span(offsets: np.ndarray, start: int | None, length: int) -> tuple[int, int]:
    """The first and last token of an answer; (0, 0) where it is not wholly in the window."""
    if start is None:
        return 0, 0
    touching = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < start + length))
    if not len(touching):
        return 0, 0
    first, last = int(touching[0]), int(touching[-1])
    whole = offsets[first, 0] <= start and offsets[last, 1] >= start + length
    return (first, last) if whole else (0, 0)


def _lines(examples: Sequence[Any], tokenizer: Tokenizer, max_length: int) -> TokenizedExamples:
    """Lines joined and cut into examples of the longest length; only the last may be shorter."""
    before, after = _special_tokens(tokenizer)
    lines = tokenizer.encode([example.text for example in examples], special_tokens=False)
    stream = np.concatenate([line.ids for line in lines])
    room = max_length - len(before) - len(after)
    pieces = [stream[start : start + room] for start in range(0, len(stream), room)]
    tokens, targets = [], []
    for piece in pieces:
        tokens.append(np.concatenate([before, piece, after]))
        ignored = [np.full(len(some), IGNORED_LABEL, np.int32) for some in (before, after)]
        targets.append(np.concatenate([ignored[0], piece, ignored[1]]))
    starts = np.concatenate([[0], np.cumsum([len(some) for some in tokens])])
    return TokenizedExamples(
        tokens=np.concatenate(tokens),
        starts=starts,
        targets={},
        token_targets=np.concatenate(targets),
        source=pieces,
    )


def _special_tokens(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The ids that a tokenizer puts before and behind a text."""
    (bare,) = tokenizer.encode(["a"], special_tokens=False)
    (whole,) = tokenizer.encode(["a"])
    count = len(bare.ids)
    pieces = np.lib.stride_tricks.sliding_window_view(whole.ids, count)
    first = int(np.argmax((pieces == bare.ids).all(axis=1)))
    return whole.ids[:first], whole.ids[first + count :]


def _joined(encodings: Sequence[Encoding], truncated: Sequence[Any]) -> dict[str, Any]:
    """The arrays of encodings one after the other."""
    starts = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum([len(encoding.ids) for encoding in encodings], out=starts[1:])
    types = np.concatenate([encoding.type_ids for encoding in encodings])
    return {
        "tokens": np.concatenate([encoding.ids for encoding in encodings]),
        "starts": starts,
        "types": types if types.any() else None,
        "truncated": int(np.sum(truncated)),
    }


def _array(values: Sequence[Any]) -> np.ndarray:
    """int32, or float32 where there is a float."""
    array = np.asarray(values)
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int32)


_TOKENIZERS: dict[str, Callable[[Sequence[Any], Tokenizer, int], TokenizedExamples]] = {
    "classification": _texts,
    "regression": _texts,
    "token_classification": _words,
    "multiple_choice": _choices,
    "masked_lm": _lines,
}
