"""i-LayerNorm: rows of integers to zero mean and unit variance, in integers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.integer.barrier import materialize, materialized
from ibert_jax.integer.dyadic import align, bounded
from ibert_jax.integer.isqrt import isqrt
from ibert_jax.integer.rows import row_largest, row_sum
from ibert_jax.integer.wide import leading_one

INPUT_BITS = 20
FRACTION_BITS = 14
"""Results have 14 fractional bits."""
GOLDEN = 40503
"""2^16 over the golden ratio, cut off."""
MAX_CHANNELS = 4095
"""A row of 20-bit integers must sum inside int32."""


def normalize(x: jax.Array, eps_mantissa: jax.Array, eps_exponent: jax.Array) -> jax.Array:
    """2^14 (x - mean) / sqrt(variance + eps) over the last axis.

    Args:
        x: int32 [..., C], 20 bits, C at most 4,095.
        eps_mantissa, eps_exponent: int32 scalars; C eps in squared input steps is
            ``eps_mantissa 2^eps_exponent``, mantissa in [2^30, 2^31) and exponent in [-64, 60],
            or 0 and -64 for none.

    Returns:
        int32 [..., C], |result| <= 2^14 sqrt(C) (1 + 2^-13), the lemma |y| <= ||y||: below 2^21.

    Each row gets its own shift, so that a quiet row keeps as many digits as a loud one:

    * y = (x - mean) 2^s with s chosen to bring the row's largest |y| to 15 bits; the fraction
      of the mean is carried into the new digits;
    * sum y^2 needs 30 + log2 C bits, so each y^2 is first shifted right by ceil(log2 C) - 1:
      the sum is at most 2^31, and with eps (below 2^31) inside uint32. What is added before
      the shift differs from channel to channel (``rounding``): a row of equal elements would
      otherwise lose, or gain, the same fraction C times;
    * the sum is normalized to [2^30, 2^32) by an even shift, its root r to [2^15, 2^16);
    * y * (K / r) is the result up to a shift: 15 by 15.5 bits, inside int32.

    A constant row is all zeros.
    """
    y, shift = _centred(x, eps_exponent)
    factor, down = _inverse_deviation(y, shift, eps_mantissa, eps_exponent)
    largest = largest_result(x.shape[-1])
    return bounded((y * factor + ((1 << down) >> 1)) >> down, -largest, largest)


@materialized
def _centred(x: jax.Array, eps_exponent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x - mean) 2^shift in 15 bits, and each row's shift."""
    channels = x.shape[-1]
    total = row_sum(x)
    mean = materialize(total // channels)
    return lift_row(x - mean, bounded(total % channels, 0, channels - 1), eps_exponent)


@jax.jit
def lift_row(
    centred: jax.Array, fraction: jax.Array, eps_exponent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(centred - fraction / C) 2^shift with the shift that brings each row to 15 bits.

    Args:
        centred: int32 [..., C], |centred| <= 2^20, a row less the floor of its mean.
        fraction: int32 [..., 1] in [0, C), C times what the floor cut off.
        eps_exponent: int32 scalar in [-64, 60].

    Returns:
        int32 [..., C], |y| <= 2^15, and the shifts, int32 [..., 1] in [-31, 15]. A lemma
        (proof/lemmas.py): the shift belongs to the row's largest element.
    """
    length = 32 - lax.clz(row_largest(centred) + 1)
    # eps must stay below 2^31 in the shifted row: 31 + exponent + 2 shift <= 31.
    shift = jnp.maximum(jnp.minimum(15 - length, jnp.right_shift(-eps_exponent, 1)), -31)
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    carried = (fraction << left) // centred.shape[-1]
    left, right, carried = materialize((left, right, carried))
    return ((centred << left) - carried) >> right, shift


@materialized
def _inverse_deviation(
    y: jax.Array, shift: jax.Array, eps_mantissa: jax.Array, eps_exponent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(factor, down): y * factor / 2^down is y over its row's deviation, to 14 bits."""
    halvings = halvings_of(y.shape[-1])
    constants = jnp.asarray(rounding(y.shape[-1]), jnp.int32)
    squares = ((y * y + align(constants, y.ndim)) >> halvings).astype(jnp.uint32)
    total = row_sum(squares)
    eps_shift = jnp.clip(halvings - eps_exponent - 2 * shift, 0, 31)
    eps = jnp.right_shift(eps_mantissa, eps_shift)
    top, zeros = leading_one(jnp.maximum(total + eps.astype(jnp.uint32), jnp.uint32(1)))
    odd = zeros & 1
    root = isqrt(top >> odd.astype(jnp.uint32)).astype(jnp.int32)
    return (numerator(y.shape[-1]) + (root >> 1)) // root, 16 - (zeros >> 1)


def halvings_of(channels: int) -> int:
    """How far squares are shifted right so that a row of them sums below 2^31."""
    return max(math.ceil(math.log2(channels)) - 1, 0)


def rounding(channels: int) -> list[int]:
    """What is added to each channel's square before the shift: a sequence of golden steps.

    It spreads evenly over [0, 2^halvings) from any channel on, so that the errors of equal
    squares cancel.
    """
    size, step = 1 << halvings_of(channels), golden_step(channels)
    return [channel * step % size for channel in range(channels)]


def golden_step(channels: int) -> int:
    """From one channel's rounding to the next one's: odd, so that all are met."""
    return (GOLDEN << halvings_of(channels)) >> 16 | 1


def numerator(channels: int) -> int:
    """floor(2^30 sqrt(C / 2^halvings)), in [2^30, 2^30.5]: the constant over the root."""
    return math.isqrt((channels << 60) >> halvings_of(channels))


def largest_result(channels: int) -> int:
    """2^14 sqrt(C) (1 + 2^-13), rounded up: the lemma |y| <= ||y|| with all that is rounded."""
    norm = math.isqrt(channels << 28)
    return norm + (norm >> 13) + 2
