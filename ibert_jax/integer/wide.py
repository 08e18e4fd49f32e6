"""Exact products wider than 32 bits, from 32-bit operations.

JAX runs without 64-bit types here. A product is taken in 16-bit limbs, of which only the high
part is ever needed: requantization shifts the low part away.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

LOW16 = 0xFFFF


def multiply_high_15(x: jax.Array, m: jax.Array) -> jax.Array:
    """floor(x * m / 2^16) for int32 ``x`` and int32 ``|m| < 2^15``: int32, below 2^30.

    Two multiplications: with a 15-bit ``m`` neither limb product leaves int32
    (|x >> 16| <= 2^15 and x & 0xFFFF < 2^16).
    """
    return (x >> 16) * m + (((x & LOW16) * m) >> 16)


def multiply_high_31(x: jax.Array, m: jax.Array) -> jax.Array:
    """floor(x * m / 2^32) for int32 ``x`` and int32 ``|m| < 2^31``: int32, below 2^30.

    Four limb products. Width plan, with x = xh 2^16 + xl and m = mh 2^16 + ml (xh, mh signed
    in [-2^15, 2^15), xl, ml in [0, 2^16)):

    * ``xl * ml`` < 2^32 in uint32; its high half, < 2^16, is all that is kept;
    * ``xh * ml`` in [-2^31, 2^31), ``mh * xl`` likewise;
    * their sum would need 33 bits, so each is split in halves before the sum.
    """
    xh, xl = x >> 16, x & LOW16
    mh, ml = m >> 16, m & LOW16
    low = _as_int32((_as_uint32(xl) * _as_uint32(ml)) >> 16)
    a, b = xh * ml, mh * xl
    middle = (a & LOW16) + (b & LOW16) + low
    return xh * mh + (a >> 16) + (b >> 16) + (middle >> 16)


def multiply_unsigned(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The exact 64-bit product of two uint32 arrays as (high, low), both uint32."""
    ah, al = a >> 16, a & LOW16
    bh, bl = b >> 16, b & LOW16
    low, mid1, mid2 = al * bl, ah * bl, al * bh
    middle = (low >> 16) + (mid1 & LOW16) + (mid2 & LOW16)
    high = ah * bh + (mid1 >> 16) + (mid2 >> 16) + (middle >> 16)
    return high, (middle << 16) | (low & LOW16)


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


def _as_uint32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.uint32)


def _as_int32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.int32)
