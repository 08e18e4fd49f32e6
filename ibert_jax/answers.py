"""Answers in scored tokens: what scores and predicts them picks the same spans."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST_ANSWER = 30
"""Tokens, unless told otherwise; as in the published evaluation of BERT on SQuAD."""


class TokenSpan(NamedTuple):
    """A span of tokens, the last one included, with the sum of its two logits."""

    logit: float
    first: int
    last: int


def best_spans(
    start: np.ndarray, end: np.ndarray, count: int, longest: int = LONGEST_ANSWER
) -> list[TokenSpan]:
    """The best spans of at most `longest` tokens, best first; of equals the first, then shortest.

    start, end: float [T], a model's logits for each token of a context. count: how many, at most.
    """
    found: list[TokenSpan] = []
    tokens = len(start)
    start, end = start.astype(np.float64), end.astype(np.float64)
    for more in range(min(longest, tokens)):
        sums = start[: tokens - more] + end[more:]
        for first in np.argsort(-sums, kind="stable")[:count].tolist():
            found.append(TokenSpan(float(sums[first]), first, first + more))
    found.sort(key=lambda span: (-span.logit, span.first, span.last))
    return found[:count]
