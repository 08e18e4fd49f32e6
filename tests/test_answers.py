"""Spans of tokens by their scores."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ibert_jax.answers import best_spans

LOGITS = st.integers(-3, 3)  # so few that many spans are equally good


@given(st.lists(st.tuples(LOGITS, LOGITS), max_size=12), st.integers(1, 5), st.integers(1, 5))
def test_best_spans_are_the_best(logits: list[tuple[int, int]], longest: int, count: int) -> None:
    """Against every span there is."""
    start, end = np.reshape(np.asarray(logits, np.float32), (-1, 2)).T
    tokens = len(logits)
    spans = [
        (float(start[first] + end[last]), first, last)
        for first in range(tokens)
        for last in range(first, min(first + longest, tokens))
    ]
    spans.sort(key=lambda span: (-span[0], *span[1:]))
    assert best_spans(start, end, count, longest) == spans[:count]
