"""From scales to integer constants, by integer arithmetic alone.

Chained float operations give other last bits eager, jitted and fused, and one bit in a scale
changes integers. So a scale is read as the integers it is made of (mantissa and exponent, by
bitcast) and every constant is computed from those: the same bits everywhere. ``spec.py``
defines each function here once more in Python integers.

A *number* is a pair (mantissa, exponent) of uint32 and int32 arrays, of value
``mantissa * 2^exponent``: mantissa 0, or normalized to [2^30, 2^31). A *short* float32 has a
12-bit mantissa; activation scales are short, so that dividing by one takes two 32-bit
divisions, and so that the product of two is exact in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.wide import multiply_high

RANGE_FLOOR = 1e-8
"""No absolute range is taken to be smaller than this (as in I-BERT's published code)."""
SHORT_BITS = 12
_DROPPED = 24 - SHORT_BITS
_ZERO_EXPONENT = -200


class Number(NamedTuple):
    """``mantissa * 2^exponent``: uint32 in {0} or [2^30, 2^31), and int32."""

    mantissa: jax.Array
    exponent: jax.Array


def short_up(x: jax.Array) -> jax.Array:
    """The smallest short float32 that is at least ``x`` >= 0 (below 2^127)."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    rounded = (bits + ((1 << _DROPPED) - 1)) >> _DROPPED << _DROPPED
    return lax.bitcast_convert_type(rounded, jnp.float32)


def short_down(x: jax.Array) -> jax.Array:
    """The largest short float32 that is at most ``x`` >= 0."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return lax.bitcast_convert_type(bits >> _DROPPED << _DROPPED, jnp.float32)


def number(x: jax.Array) -> Number:
    """|x| of a float32 as a number; subnormals count as zero."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    field = (bits >> 23) & 0xFF
    mantissa = ((bits & 0x7FFFFF) | 0x800000) << 7
    zero = field == 0
    return Number(
        jnp.where(zero, jnp.uint32(0), mantissa),
        jnp.where(zero, _ZERO_EXPONENT, field.astype(jnp.int32) - 157),
    )


def to_float(n: Number) -> jax.Array:
    """The float32 of a number, cut off to 24 bits; exponents are in float32's normal range."""
    field = (n.exponent + 156).astype(jnp.uint32) << 23
    bits = jnp.where(n.mantissa == 0, jnp.uint32(0), field + (n.mantissa >> 7))
    return lax.bitcast_convert_type(bits, jnp.float32)


def multiply(a: Number, b: Number) -> Number:
    """The product, cut off to 31 bits."""
    high = multiply_high(a.mantissa << 1, b.mantissa << 1)  # product / 2^30
    return _normalized(high, a.exponent + b.exponent + 30)


def divide(a: Number, short: jax.Array) -> Number:
    """``a`` over a positive short float32, cut off to 31 bits: long division in two digits."""
    divisor = number(short)
    d = divisor.mantissa >> (31 - SHORT_BITS)  # in [2^11, 2^12)
    high, rest = a.mantissa // d, a.mantissa % d
    quotient = (high << 12) + (rest << 12) // d  # a / d * 2^12, in (2^30, 2^32)
    return _normalized(quotient, a.exponent - divisor.exponent - (31 - SHORT_BITS) - 12)


def _normalized(mantissa: jax.Array, exponent: jax.Array) -> Number:
    """A number of a mantissa in {0} or [2^30, 2^32)."""
    high = mantissa >> 31
    return Number(mantissa >> high, exponent + high.astype(jnp.int32))


def scale_of_range(absolute: jax.Array, *, bits: int) -> jax.Array:
    """The short scale at which ``bits``-wide signed integers cover +-``absolute``.

    Up to 12 bits the largest integer stands for the range itself (127 steps for 8 bits);
    beyond, the range is 2^(bits - 1) steps, and its very end saturates by one step.

    Args:
        absolute: float32, any shape, >= 0; taken as at least ``RANGE_FLOOR``.
    """
    covered = number(short_up(jnp.maximum(absolute, RANGE_FLOOR)))
    if bits <= SHORT_BITS:
        steps = jnp.float32(2 ** (bits - 1) - 1)
        return short_up(to_float(divide(covered, steps)))
    return to_float(covered._replace(exponent=covered.exponent - (bits - 1)))


def steps_per_unit(absolute: jax.Array, *, bits: int) -> jax.Array:
    """How many steps make one unit so that +-``absolute`` fits ``bits``: short float32.

    The reciprocal of a scale: weights are multiplied by it, which is the one operation that
    rounds. ``absolute`` float32 in (2^-100, 2^100).
    """
    steps = jnp.full_like(absolute, 2 ** (bits - 1) - 1)
    return short_down(to_float(divide(number(steps), short_up(absolute))))


def reciprocal(short: jax.Array) -> jax.Array:
    """1 / x of a short float32, cut off to 24 bits."""
    return to_float(divide(number(jnp.ones_like(short)), short))


def multiplier(
    numerator: jax.Array,
    denominator: jax.Array,
    *,
    wide: bool,
    factor: tuple[int, int] | None = None,
    offset: jax.Array | None = None,
) -> Multiplier:
    """The requantization ``x * numerator * factor / denominator + offset / denominator``.

    Args:
        numerator: float32, of either sign: the scale (or weight) of what comes in.
        denominator: short positive float32: the scale of what goes out.
        wide: a 31-bit ``m`` rather than a 15-bit one.
        factor: a number in Python integers.
        offset: float32, what is to be added, in units of the value.

    Returns:
        Constants of the shape that the arguments broadcast to (scalar or [C]).
    """
    ratio = divide(number(numerator), denominator)
    if factor is not None:
        ratio = multiply(ratio, Number(jnp.uint32(factor[0]), jnp.int32(factor[1])))
    mantissa = ratio.mantissa.astype(jnp.int32)
    m = mantissa if wide else jnp.minimum((mantissa + 2**15) >> 16, 2**15 - 1)
    exact = jnp.where(mantissa == 0, 30, -(ratio.exponent + 32))
    m = jnp.right_shift(m, jnp.clip(exact - 30, 0, 31))
    pre, shift = jnp.clip(1 - exact, 0, 24), jnp.clip(exact, 1, 30)
    if offset is None:
        added = jnp.zeros_like(shift)
    else:
        added, room = _offset_at(divide(number(offset), denominator), shift)
        m, shift = jnp.right_shift(m, shift - room), room
        added = jnp.where(offset < 0, -added, added)
    half = jnp.left_shift(1, shift - 1)
    m = jnp.where(numerator < 0, -m, m)
    m, added, shift, pre = jnp.broadcast_arrays(m, added + half, shift, pre)
    return Multiplier(m, added, shift, pre)


def _offset_at(value: Number, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``value * 2^shift`` as int32 of at most 2^29, and the shift at which it fits."""
    room = jnp.clip(jnp.minimum(shift, -2 - value.exponent), 1, 30)
    right = -(value.exponent + room)
    shifted = jnp.right_shift(value.mantissa.astype(jnp.int32), jnp.clip(right - 1, 0, 31))
    rounded = jnp.minimum((shifted + 1) >> 1, 2**29)
    return jnp.where(right < 2, 2**29, rounded), room


def power_of_two(exponent: jax.Array) -> jax.Array:
    """2^exponent as float32, exact, for int32 exponents in [-126, 127]."""
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def round_to(x: jax.Array, steps: jax.Array, limit: int) -> jax.Array:
    """round(x * steps), halves to even, clipped to +-``limit``: int32.

    One multiplication is rounded, nothing is added, so that no compiler can contract or
    reorder it: the one float operation between weights and integers.
    """
    return jnp.clip(jnp.round(x * steps), -limit, limit).astype(jnp.int32)
