"""The integer square root: every perfect square and its neighbours."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from ibert_jax.integer.isqrt import isqrt


def test_around_every_perfect_square() -> None:
    roots = np.arange(1, 2**16, dtype=np.uint64)
    squares = roots * roots
    for offset, expected in ((-1, roots - 1), (0, roots), (1, roots)):
        got = isqrt(jnp.asarray((squares.astype(np.int64) + offset).astype(np.uint32)))
        assert np.array_equal(got, expected)


def test_ends_of_the_range_and_random_inputs() -> None:
    rng = np.random.default_rng(0)
    n = np.concatenate([[0, 1, 2, 3, 1179510328, 2**32 - 1], rng.integers(0, 2**32, 20_000)])
    got = isqrt(jnp.asarray(n.astype(np.uint32)))
    assert got.tolist() == [math.isqrt(int(v)) for v in n]
