"""A large batch in parts, one after the other, for CPUs: what a layer hands on stays in the cache.

Past some thousand tokens the feed-forward's int32 accumulators (12 KiB a token in BERT-base) are
written to memory and read back by whatever requantizes them. Rows do not mix, so that a batch may
as well be computed a few examples at a time; the leaves and their numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

MOST = 512
"""Tokens of a part, at most."""
LEAST = 256
"""Tokens of a part, at least: smaller products are slower."""
WORTH_IT = 2048
"""Tokens of a batch from which on it is cut."""
SHARED = "head_mask"
"""The argument that has no rows."""


def known_tokens(shape: Sequence[Any]) -> int:
    """How many tokens a shape [..., T] has; of an export's, some of it symbols, 0."""
    return math.prod(shape) if all(isinstance(n, int) for n in shape) else 0


def parts_of(shape: Sequence[Any]) -> int:
    """Into how many parts of equally many rows a batch is cut; 1 where that does not pay.

    On other platforms than CPUs it does not, nor where no number of rows makes parts of that size.

    Args:
        shape: of the tokens, [..., T]; of an export, some of it symbols, which leave it whole.
    """
    tokens, rows = known_tokens(shape), shape[0]
    if tokens < WORTH_IT or jax.default_backend() != "cpu":
        return 1
    fits = (n for n in range(2, rows + 1) if rows % n == 0 and LEAST <= tokens // n <= MOST)
    return next(fits, 1)


def in_parts(
    function: Callable[[dict[str, jax.Array]], Any], inputs: dict[str, jax.Array], parts: int
) -> Any:
    """``function`` of arrays [B, ...] by name, in so many parts; so are its results.

    A part takes each ``parts``-th row, so that devices which share the rows share each part.
    """
    if parts == 1:
        return function(inputs)
    rows = {name: array for name, array in inputs.items() if name != SHARED}

    def cut(array: jax.Array) -> jax.Array:
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    def joined(array: jax.Array) -> jax.Array:
        return array.swapaxes(0, 1).reshape(-1, *array.shape[2:])

    results = lax.map(lambda part: function({**inputs, **part}), jax.tree.map(cut, rows))
    return jax.tree.map(joined, results)
