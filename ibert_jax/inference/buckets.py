"""Batches of few shapes: rows sorted by length, padded to one of a few lengths and row counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ibert_jax.inference.lengths import Lengths, next_of
from ibert_jax.tokenizer import Encoding


@dataclass(frozen=True)
class Batch:
    """Rows of one shape, ready for the model.

    input_ids, attention_mask, token_type_ids: int32 [B, T]; rows beyond `len(positions)` are filler
    and repeat the first row. positions: int64 [rows], where each real row stood among the
    encodings.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray
    positions: np.ndarray

    @property
    def sources(self) -> np.ndarray:
        """int64 [B]: where each row, filler too, stood among the encodings."""
        filler = len(self.input_ids) - len(self.positions)
        return np.concatenate([self.positions, np.repeat(self.positions[:1], filler)])


def row_counts(batch_size: int, devices: int = 1) -> tuple[int, ...]:
    """The padded numbers of rows in use: 1, 8 (a few sentences stay cheap) and `batch_size`.

    Each is rounded up to a multiple of the number of devices that share the rows.
    """
    counts = (*(count for count in (1, 8) if count < batch_size), batch_size)
    return tuple(sorted({-(-count // devices) * devices for count in counts}))


def make_batches(
    encodings: Sequence[Encoding],
    lengths: Lengths,
    batch_size: int,
    *,
    pad_token_id: int,
    devices: int = 1,
) -> Iterator[Batch]:
    """Sort encodings by length and cut them into batches, the longest first.

    Longest first, because only the last batch is partly filled, and filler rows cost least where
    they are short.
    """
    order = np.argsort([-len(encoding.ids) for encoding in encodings], kind="stable")
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        longest = len(encodings[positions[0]].ids)
        rows = next_of(row_counts(batch_size, devices), len(positions))
        length = lengths.choose(rows, longest)
        ids = np.full((rows, length), pad_token_id, np.int32)
        mask, types = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
        batch = Batch(ids, mask, types, positions)
        # Filler repeats a real row: an input that the model is known to accept.
        for row, source in enumerate(batch.sources):
            encoding = encodings[source]
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
            types[row, : len(encoding.ids)] = encoding.type_ids
        yield batch
