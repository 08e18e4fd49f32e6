"""Batches hold every row once, in few shapes, and waste little."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax.inference.buckets import make_batches, row_counts
from ibert_jax.inference.lengths import FixedLengths, lengths_up_to
from ibert_jax.tokenizer import Encoding

PAD = 7


def _encoding(length: int, value: int) -> Encoding:
    return Encoding(np.full(length, value, np.int32), np.zeros(length, np.int32), False)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=70),
    batch_size=st.integers(1, 40),
)
def test_every_row_once(lengths: list[int], batch_size: int) -> None:
    encodings = [_encoding(length, 100 + index) for index, length in enumerate(lengths)]
    allowed = lengths_up_to(128)
    seen: list[int] = []
    for batch in make_batches(encodings, FixedLengths(allowed), batch_size, pad_token_id=PAD):
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert batch.input_ids.shape[0] in row_counts(batch_size)
        assert batch.input_ids.shape[1] in allowed
        assert batch.attention_mask.any(axis=1).all(), "a filler row is never empty"
        for row, position in enumerate(batch.positions):
            real = batch.attention_mask[row] == 1
            np.testing.assert_array_equal(batch.input_ids[row][real], encodings[position].ids)
            assert (batch.input_ids[row][~real] == PAD).all()
        seen += batch.positions.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_row_counts() -> None:
    assert row_counts(32) == (1, 8, 32)
    assert row_counts(8) == (1, 8)
    assert row_counts(1) == (1,)


def test_rows_are_padded_as_little_as_the_lengths_allow() -> None:
    encodings = [_encoding(length, 1) for length in (3, 90, 17, 4)]
    batches = list(make_batches(encodings, FixedLengths(lengths_up_to(128)), 2, pad_token_id=PAD))
    assert [batch.positions.tolist() for batch in batches] == [[1, 2], [3, 0]]
    assert [batch.input_ids.shape for batch in batches] == [(2, 96), (2, 16)]
