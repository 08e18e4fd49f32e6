"""Sums and maxima of rows, in the form that vectorizes.

XLA's CPU backend rewrites the reduction of an axis longer than 32 into two windowed ones over
memory (its way to keep float sums accurate), and reduces a last axis one element at a time. Rows
are therefore folded: first over an axis of at most 32 beside which a vector's worth of lanes
lies, then over those lanes. Integer sums and maxima are the same in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

LONGEST = 32
"""XLA leaves reductions of axes up to this length as they are."""
LANES = 16
"""int32 elements of the widest vector register."""


def row_sum(x: jax.Array) -> jax.Array:
    """int32 or uint32 [..., N] -> [..., 1] of the same type, which must hold the sum."""
    return lax.platform_dependent(x, cpu=partial(_folded, _sum), default=_sum)


def row_max(x: jax.Array) -> jax.Array:
    """int32 [..., N] -> int32 [..., 1]."""
    return lax.platform_dependent(x, cpu=partial(_folded, _max), default=_max)


def row_largest(x: jax.Array) -> jax.Array:
    """The largest |x| of a row: int32 [..., N] above -2^31 -> int32 [..., 1].

    Elsewhere than on CPU of the largest and the smallest element. For NVIDIA GPUs XLA (JAX 0.11.2)
    compiles the maximum of absolute values of int32 rows to a kernel that takes the absolute value
    of some of them only: of rows of 384, three in five came out wrong on an H200.
    """

    def of_both(x: jax.Array) -> jax.Array:
        return jnp.maximum(_max(x), -jnp.min(x, axis=-1, keepdims=True))

    return lax.platform_dependent(x, cpu=lambda x: _folded(_max, jnp.abs(x)), default=of_both)


def _sum(x: jax.Array, axis: int = -1) -> jax.Array:
    return jnp.sum(x, axis=axis, keepdims=True, dtype=x.dtype)


def _max(x: jax.Array, axis: int = -1) -> jax.Array:
    return jnp.max(x, axis=axis, keepdims=True)


def _folded(reduce: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    while (parts := _parts(x.shape[-1])) > 1:
        rows, length = x.shape[:-1], x.shape[-1]
        folded = reduce(x.reshape(*rows, parts, length // parts), axis=-2)
        # Or XLA puts the two reductions together again.
        x = lax.optimization_barrier(jnp.squeeze(folded, -2))
    return reduce(x)


def _parts(length: int) -> int:
    """Into how many parts a row is folded: the most that leaves whole vectors of lanes."""
    if not isinstance(length, int) or length <= LONGEST:  # a symbolic length is left as it is
        return 1
    fits = (n for n in range(LONGEST, 1, -1) if length % (n * LANES) == 0)
    return next(fits, 1)
