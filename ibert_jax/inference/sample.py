"""Rows of text as a model's arguments: what it is calibrated, or otherwise measured, on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ibert_jax.inference.buckets import make_batches
from ibert_jax.inference.lengths import FixedLengths, lengths_up_to, next_of, two_lengths
from ibert_jax.inference.tasks import Task
from ibert_jax.tokenizer import Encoding, check_text

Arguments = dict[str, np.ndarray]
"""A model's arguments by name: int32 [B, T], or as its head wants them."""


@dataclass(frozen=True)
class Sample:
    """Some rows, tokenized as a task asks its model. parts: the encodings of each row."""

    task: Task
    parts: list[list[Encoding]]

    @classmethod
    def of(cls, task: Task, rows: Sequence[Any]) -> Self:
        """Tokenize rows as ``row_of`` makes them: lone texts, or the task's rows."""
        if all(isinstance(row, str) for row in rows):
            return cls(task, Task.encode(task, rows))
        return cls(task, task.encode(rows))

    def last(self, rows: int) -> Self:
        """The last so many rows."""
        return replace(self, parts=self.parts[-rows:])

    def batches(self, batch_size: int, length: int | None = None) -> Iterator[Arguments]:
        """All of it, padded to two lengths at most, or to one, which no encoding must exceed.

        Whoever measures a model compiles far more than a forward pass for each, and computes
        little.
        """
        encodings = self._encodings()
        if length is not None:
            return self._batches(encodings, (length,), batch_size)
        lengths = two_lengths([len(e.ids) for e in encodings], self.task.max_length)
        return self._batches(encodings, lengths, batch_size)

    def of_one_shape(self, batch_size: int) -> list[Arguments]:
        """Full batches of one shape; a rest that would not fill one is left out."""
        encodings = self._encodings()
        size = min(batch_size, len(encodings))
        needed = max(len(encoding.ids) for encoding in encodings)
        length = next_of(lengths_up_to(self.task.max_length), needed)
        return list(self._batches(encodings[: len(encodings) // size * size], (length,), size))

    def _encodings(self) -> list[Encoding]:
        return [encoding for part in self.parts for encoding in part]

    def _batches(
        self, encodings: Sequence[Encoding], lengths: Sequence[int], batch_size: int
    ) -> Iterator[Arguments]:
        pad = self.task.config.pad_token_id
        fixed = FixedLengths(lengths)
        for batch in make_batches(encodings, fixed, batch_size, pad_token_id=pad):
            arrays: Any = {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "token_type_ids": self.task.known_types(batch.token_type_ids),
            }
            yield self.task.arguments(arrays)


def row_of(task: Task, cells: Sequence[Any]) -> Any:
    """The row to measure on that a file's cells make.

    A lone text, which will do for every task, or what the task makes a row of: a pair of texts, a
    question and a context, a prompt and its choices.

    Raises ValueError or TypeError, in one sentence, for what is neither.
    """
    if len(cells) == 1:
        check_text(cells[0], "the text")
        return cells[0]
    row = task.row(cells)
    task.check(row)
    return row
