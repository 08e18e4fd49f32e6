"""Exact products wider than 32 bits.

JAX runs without 64-bit types here, but for the two steps between a product and its high half: every
compiler knows them, and makes the instruction of them that multiplies and keeps the high half.
Nothing wider than 32 bits is ever kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def multiply_high(x: jax.Array, y: jax.Array) -> jax.Array:
    """floor(x * y / 2^32), both int32 or both uint32, of shapes that broadcast: of the same type.

    The product is exact: below 2^64, and for int32 with |y| < 2^31 below 2^62, the result 2^30.
    """
    wide = jnp.dtype(f"{x.dtype.kind}8")
    with jax.enable_x64(True):
        a, b = lax.convert_element_type(x, wide), lax.convert_element_type(y, wide)
        return lax.convert_element_type((a * b) >> wide.type(32), x.dtype)


def multiply_add_high(x: jax.Array, m: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """floor((x * m + addend) / 2^32) for int32, the addend in two words: high 2^32 + low unsigned.

    Exact where the sum is within 64 bits and the result within 32.
    """
    m = per_element(m, x)
    with jax.enable_x64(True):
        return _high(_int64(x) * _int64(m) + _words(high, low))


def per_element(m: jax.Array, x: jax.Array) -> jax.Array:
    """``m``, laid out as ``x`` is, to which it broadcasts: for kernels that multiply the two.

    The instruction is of a product of 32 by 32 bits. Triton would extend m to 64 before it lays it
    out for all rows of x, and LLVM then not see that it was 32. What makes it one number an element
    before is a zero that only LLVM sees through.
    """
    return m + ((x & 1) >> 1)


def multiply_add_high_below(
    top: jax.Array,
    left: jax.Array | int,
    m: jax.Array,
    high: jax.Array,
    low: jax.Array | int,
    shift: jax.Array | int,
) -> Callable[[jax.Array], jax.Array]:
    """What makes -floor(((x - top 2^left) * m + addend) / 2^(32 + shift)) of x, all int32.

    For many x beside one ``top`` [R, 1], which enters the addend: negated, and with what makes
    rounding up of rounding down, x is again multiplied and added to once.
    """
    with jax.enable_x64(True):
        up = (np.int64(1) << (_int64(shift) + np.int64(32))) - np.int64(1)
        addend = (_int64(top) << _int64(left)) * _int64(m) - _words(high, low) + up

    def negative(x: jax.Array) -> jax.Array:
        with jax.enable_x64(True):
            found = _high(_int64(x) * _int64(-m) + addend)
        return found >> shift

    return negative


def _int64(x: Any) -> jax.Array:
    return lax.convert_element_type(x, np.int64)


def _words(high: jax.Array, low: jax.Array | int) -> jax.Array:
    return (_int64(high) << np.int64(32)) | (_int64(low) & np.int64(2**32 - 1))


def _high(x: jax.Array) -> jax.Array:
    return lax.convert_element_type(x >> np.int64(32), np.int32)


def multiply_high_15(x: jax.Array, m: jax.Array) -> jax.Array:
    """floor(x * m / 2^16) for int32 ``x`` and int32 ``|m| < 2^15``: int32, below 2^30."""
    return multiply_high(x, m << 16)


@jax.jit
def leading_one(n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(n 2^zeros, zeros) with ``zeros`` the leading zeros of uint32 ``n`` >= 1.

    The product, uint32, is in [2^31, 2^32); ``zeros``, int32, in [0, 31]. That no bit is lost
    is what ``zeros`` means, and more than ranges can tell: one of the lemmas (proof/lemmas.py).
    """
    zeros = lax.clz(n)
    return n << zeros, zeros.astype(jnp.int32)


@jax.jit
def shift_left_saturating(x: jax.Array, shift: jax.Array) -> jax.Array:
    """x 2^shift, ``x`` first saturated to +-floor(2^30 / 2^shift): int32, |result| <= 2^30.

    ``x`` int32, ``shift`` int32 in [0, 31], of shapes that broadcast.
    """
    limit = jnp.right_shift(jnp.int32(2**30), shift)
    return jnp.clip(x, -limit, limit) << shift
