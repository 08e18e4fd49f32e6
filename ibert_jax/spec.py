"""The specification: every integer operation, in plain Python integers.

This module imports nothing of the package, no NumPy and no JAX: integers here have no width,
so what is written is what is meant. The kernels in ``integer/`` and the constants in
``quantize/constants.py`` are tested against it for equality. It is also what to read before
building the arithmetic in hardware; the width plan stands beside each operation.

Rounding is stated once: integers are rounded to nearest, halves upward (``shift_round``);
``//`` and ``>>`` are floors. The only other roundings are that of LayerNorm's squares (see
there) and that of weights and biases, from float: one float32 multiplication, then to nearest,
halves to even.

A *number* is a pair (mantissa, exponent) of value mantissa * 2^exponent, with mantissa 0 or
in [2^30, 2^31). A *multiplier* is (m, offset, shift, pre).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Number = tuple[int, int]
Multiplier = tuple[int, int, int, int]

INT32_MAX = 2**31 - 1
RANGE_FLOOR = 9.99999993922529e-09
"""1e-8, as the float32 nearest to it."""

# ---------------------------------------------------------------------------- rounding


def shift_round(x: int, shift: int) -> int:
    """x / 2^shift to nearest, halves upward."""
    return (x + (1 << shift >> 1)) >> shift


def clip(x: int, low: int, high: int) -> int:
    """The element of [low, high] nearest to x."""
    return max(low, min(high, x))


def clip_bits(x: int, bits: int) -> int:
    """Saturation to a two's complement width."""
    return clip(x, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# ------------------------------------------------------------------ numbers and scales


def normalized(mantissa: int, exponent: int) -> Number:
    """A number of any positive mantissa, cut off to 31 bits; 0 stays 0."""
    if mantissa == 0:
        return 0, exponent
    excess = mantissa.bit_length() - 31
    return (mantissa >> excess if excess > 0 else mantissa << -excess), exponent + excess


def number(x: float) -> Number:
    """|x| of a float32 (held exactly by a Python float); below 2^-126 it counts as zero."""
    if abs(x) < 2.0**-126:
        return 0, -200
    fraction, exponent = math.frexp(abs(x))
    return int(fraction * 2**31), exponent - 31


def to_float(n: Number) -> float:
    """A number cut off to the 24 bits of a float32."""
    return math.ldexp(n[0] >> 7, n[1] + 7)


def short_up(x: float) -> float:
    """The smallest number of 12 bits that is at least x >= 0: a *short* float."""
    mantissa, exponent = number(x)
    return math.ldexp(-(-mantissa >> 19), exponent + 19)


def short_down(x: float) -> float:
    """The largest number of 12 bits that is at most x >= 0."""
    mantissa, exponent = number(x)
    return math.ldexp(mantissa >> 19, exponent + 19)


def multiply(a: Number, b: Number) -> Number:
    """The product, cut off to 31 bits."""
    return normalized(a[0] * b[0], a[1] + b[1]) if a[0] and b[0] else (0, a[1] + b[1])


def divide(a: Number, short: float) -> Number:
    """a over a short float, cut off to 31 bits.

    Width plan: the divisor has 12 bits, so two division steps of 32 by 12 bits give a
    quotient of 31 or 32 bits; cutting that off to 31 is cutting off the exact quotient.
    """
    mantissa, exponent = number(short)
    if a[0] == 0:
        return 0, a[1] - exponent
    return normalized((a[0] << 40) // mantissa, a[1] - exponent - 40)


def scale_of_range(absolute: float, bits: int) -> float:
    """The short scale at which ``bits``-wide integers cover +-absolute (floor 1e-8)."""
    covered = short_up(max(absolute, RANGE_FLOOR))
    if bits <= 12:
        return short_up(to_float(divide(number(covered), float(2 ** (bits - 1) - 1))))
    return math.ldexp(covered, 1 - bits)


def steps_per_unit(absolute: float, bits: int) -> float:
    """The short number of steps to a unit at which +-absolute fits ``bits``."""
    return short_down(to_float(divide(number(float(2 ** (bits - 1) - 1)), short_up(absolute))))


def reciprocal(short: float) -> float:
    """1 / x of a short float, cut off to 24 bits."""
    return to_float(divide(number(1.0), short))


# ---------------------------------------------------------------------- requantization


def multiplier(
    numerator: float,
    denominator: float,
    *,
    wide: bool,
    factor: Number | None = None,
    offset: float = 0.0,
) -> Multiplier:
    """Constants of x * numerator * factor / denominator + offset / denominator.

    Width plan: |m| < 2^15 (narrow) or 2^31 (wide); 1 <= shift <= 30; |offset| <= 2^30.
    """
    mantissa, exponent = divide(number(numerator), denominator)
    if factor is not None:
        mantissa, exponent = multiply((mantissa, exponent), factor)
    m = mantissa if wide else min((mantissa + 2**15) >> 16, 2**15 - 1)
    exact = 30 if mantissa == 0 else -(exponent + 32)
    m >>= clip(exact - 30, 0, 31)
    pre, shift = clip(1 - exact, 0, 24), clip(exact, 1, 30)
    added = 0
    if offset != 0.0:
        value, power = divide(number(offset), denominator)
        room = clip(min(shift, -2 - power), 1, 30)
        right = -(power + room)
        added = 2**29 if right < 2 else min(shift_round(value, right), 2**29)
        m >>= shift - room
        shift = room
        added = -added if offset < 0 else added
    return (-m if numerator < 0 else m), added + (1 << (shift - 1)), shift, pre


def rescale(x: int, constants: Multiplier, *, wide: bool) -> int:
    """x times a ratio plus an offset, rounded; x saturates where the ratio is 1/4 or more.

    Width plan: x is int32. Narrow: x m needs 46 bits; wide: 62. What remains after the shift by 16
    (32) is below 2^30, the offset is at most 2^30.
    """
    m, offset, shift, pre = constants
    limit = INT32_MAX >> pre
    x = clip(x, -limit, limit) << pre if pre else x
    return ((x * m >> (32 if wide else 16)) + offset) >> shift


def requantize(x: int, constants: Multiplier, bits: int, *, wide: bool) -> int:
    """``rescale``, saturated to ``bits``."""
    return clip_bits(rescale(x, constants, wide=wide), bits)


def activation(operands: Sequence[int], constants: Sequence[Multiplier], bits: int) -> int:
    """One element of a ``QuantAct``: operands requantized, added, saturated.

    Widths: with several operands each gets one bit more than the sum, so that the sum of
    three 20-bit operands is below 2^22.
    """
    wide = bits > 16
    width = bits if len(operands) == 1 else bits + 1
    parts = (requantize(x, c, width, wide=wide) for x, c in zip(operands, constants, strict=True))
    return clip_bits(sum(parts), bits)


# -------------------------------------------------------------------- matmul, embedding


def linear(row: Sequence[int], weight: Sequence[Sequence[int]], bias: Sequence[int]) -> list[int]:
    """weight . row + bias: int8 by int8 into int32, K at most 2^16, |bias| <= 2^30."""
    return [
        sum(a * b for a, b in zip(row, w, strict=True)) + c
        for w, c in zip(weight, bias, strict=True)
    ]


def embedding(row: Sequence[int], ratio: int) -> list[int]:
    """A table's int8 row at the table's 16-bit scale: ratio < 2^21 has 12 fractional bits."""
    return [shift_round(q * ratio, 12) for q in row]


# -------------------------------------------------------------------- square root, exp


def isqrt(n: int) -> int:
    """floor(sqrt(n)) for 0 <= n < 2^32."""
    return math.isqrt(n)


def iexp(t: int) -> int:
    """2^15 exp(t ln2 / 2^11) for -30 * 2^11 <= t <= 0 (Kim et al., eq. 13).

    -t = 2^11 z + u; exp = 2^-z (1 - v (0.69.. - 0.17.. v)), v = u / 2^11.
    Widths: 45109 u < 2^27; 176186 u < 2^29; result at most 2^15.
    """
    z, u = -t >> 11, -t & 2047
    slope = 176186 - shift_round(45109 * u, 11)
    return shift_round(2**15 - shift_round(slope * u, 14), z)


# ----------------------------------------------------------------------------- softmax


def row_powers(scores: Sequence[int], mask: Sequence[bool], constants: Multiplier) -> list[int]:
    """2^15 exp(score - largest) of the keys in ``mask``, exactly 0 for the others.

    Widths: |score| < 2^30, so that a difference is an int32.
    """
    kept = [s if k else -(2**30) for s, k in zip(scores, mask, strict=True)]
    peak = max(kept)
    grid = (clip(rescale(s - peak, constants, wide=False), -30 << 11, 0) for s in kept)
    return [iexp(t) if k else 0 for t, k in zip(grid, mask, strict=True)]


def softmax_numerators(
    scores: Sequence[int], mask: Sequence[bool], constants: Multiplier
) -> tuple[list[int], int]:
    """One row: numerators in [0, 255], the largest 255, and their sum."""
    scaled = [shift_round(p * 255, 15) for p in row_powers(scores, mask, constants)]
    return scaled, sum(scaled)


def reciprocal_15(n: int) -> tuple[int, int]:
    """(z, r) with 1/n = r 2^(z - 46) to 15 bits: z leading zeros of 32, n in [1, 2^31)."""
    zeros = 32 - n.bit_length()
    top = n << zeros >> 16
    return zeros, min((2**30 + (top >> 1)) // top, 2**15 - 1)


def softmax_reference(
    scores: Sequence[int], mask: Sequence[bool], constants: Multiplier
) -> tuple[list[int], int]:
    """One row as published: floor(256 p), at most 255; the sum to divide by is 256."""
    powers = row_powers(scores, mask, constants)
    zeros, r = reciprocal_15(max(sum(powers), 1))
    return [min((p << (zeros - 2)) * r >> 16 >> 20, 255) for p in powers], 256


def divide_by_row_sum(total: int, row_sum: int) -> int:
    """2^21 total / row_sum; 0 for an empty row.

    Lemma: total = sum of numerator * value with |value| <= 128, hence |total| <= 128 row_sum:
    shifted left by (zeros - 9) it is at most 2^30. The kernel clips at that bound.
    """
    zeros, r = reciprocal_15(max(row_sum, 255))
    limit = 2**30 >> (zeros - 9)
    return (clip(total, -limit, limit) << (zeros - 9)) * r >> 16


# -------------------------------------------------------------------------- GELU, tanh


def igelu(q: int, k: int) -> int:
    """2^(k + 15) GELU(q / 2^k) on the grid 7 <= k <= 13, |q| <= 2^15 (Kim et al., eq. 8).

    erf(x / sqrt 2) = sign(x) (1 - 0.1444 (2.5017 - min(|x|, 2.5017))^2).
    Widths: u^2 < 2^29; w < 2^16; w 18927 < 2^30; the result is at most 2^30.
    """
    threshold = shift_round(20494, 13 - k)
    u = threshold - min(abs(q), threshold)
    w = shift_round(u * u, 2 * k - 13)
    erf = 2**14 - shift_round(w * 18927, 16)
    return q * (2**14 + (-erf if q < 0 else erf))


def finest_grid(absolute: float) -> int:
    """The largest k from 7 to 13 at which 16-bit integers cover +-absolute."""
    mantissa, exponent = number(absolute)
    return clip(15 - (exponent + 30 + (mantissa > 2**30)), 7, 13)


def itanh(q: int) -> int:
    """2^15 tanh(q ln2 / 2^12), |q| <= 2^15, by (1 - e) / (1 + e), e = exp(-2|x|).

    Widths: the numerator is at most 2^30 + 2^15.
    """
    power = iexp(-abs(q))
    ratio = (((2**15 - power) << 15) + ((2**15 + power) >> 1)) // (2**15 + power)
    return -ratio if q < 0 else ratio


# --------------------------------------------------------------------------- LayerNorm


def layernorm(row: Sequence[int], eps: Number) -> list[int]:
    """2^14 (x - mean) / sqrt(variance + eps) of a row of 20-bit integers.

    ``eps`` is C eps in squared input steps (exponent at most 60; -64 with mantissa 0 for none).

    Width plan for C <= 4095 channels:
    * the sum of a row: C 2^19 < 2^31;
    * y = (x - mean) 2^shift has 15 bits, |y| < 2^15: the row's own shift brings its largest
      there (or stops where eps would leave 31 bits);
    * (y^2 + r_c) >> halvings, halvings = ceil(log2 C) - 1: the sum is at most 2^31; plus eps
      below 2^32. r_c in [0, 2^halvings) goes round in golden steps from channel to channel, so
      that the errors of equal squares cancel;
    * root in [2^15, 2^16), factor below 2^15.5 + 1, y factor below 2^31.

    Lemma |y| <= ||y||: the result is at most 2^14 sqrt(C) (1 + 2^-13), below 2^21.
    """
    channels = len(row)
    total = sum(row)
    mean, fraction = divmod(total, channels)
    length = (max(abs(x - mean) for x in row) + 1).bit_length()
    shift = max(min(15 - length, -eps[1] >> 1), -31)
    left, right = max(shift, 0), max(-shift, 0)
    carried = (fraction << left) // channels
    y = [(((x - mean) << left) - carried) >> right for x in row]
    halvings = max(math.ceil(math.log2(channels)) - 1, 0)
    size = 1 << halvings
    step = (40503 * size >> 16) | 1
    squares = sum((a * a + c * step % size) >> halvings for c, a in enumerate(y))
    variance = max(squares + (eps[0] >> clip(halvings - eps[1] - 2 * shift, 0, 31)), 1)
    even = (32 - variance.bit_length()) & ~1
    root = isqrt(variance << even)
    factor = (math.isqrt((channels << 60) >> halvings) + (root >> 1)) // root
    return [shift_round(a * factor, 16 - even // 2) for a in y]


def layernorm_eps(eps: float, channels: int, scale: float) -> Number:
    """C eps in squared steps of a short scale, as ``layernorm`` wants it."""
    squared = multiply(number(eps), number(float(channels)))
    mantissa, exponent = divide(divide(squared, scale), scale)
    if mantissa == 0 or exponent < -64:
        return 0, -64
    return mantissa, min(exponent, 60)
