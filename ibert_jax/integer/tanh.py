"""i-tanh, through i-exp."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ibert_jax.integer.softmax import iexp


def itanh(q: jax.Array) -> jax.Array:
    """2^15 tanh(q ln2 / 2^12) for int32 ``|q| <= 2^15``: int32, |result| <= 2^15.

    tanh(x) = (1 - e) / (1 + e) with e = exp(-2|x|): on this grid 2|x| is |q| units of i-exp's
    own. The poolers and heads that use it are small, so one integer division an element is
    affordable. Widths: numerator below 2^30.
    """
    power = iexp(-jnp.abs(q))
    ratio = (((2**15 - power) << 15) + ((2**15 + power) >> 1)) // (2**15 + power)
    return jnp.where(q < 0, -ratio, ratio)
