"""Ranges of the elementwise operations: from operands' intervals to the unwrapped result's.

A rule computes as if integers had no width; the analysis then asks whether the result fits its
type. Operands of one equation have one shape, but for scalars that JAX leaves unbroadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ibert_jax.proof.interval import (
    Bounds,
    Interval,
    between,
    bits_of,
    corners,
    exactly,
    join,
    magnitude,
    product,
    type_range,
)


class Unprovable(Exception):
    """An operation for which no range can be given; the text says why."""


def add(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x.wide(), y.wide()
    return between(a + c, b + d)


def sub(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x.wide(), y.wide()
    return between(a - d, b - c)


def mul(x: Interval, y: Interval) -> Interval:
    return corners(product, x, y)


def square(x: Interval) -> Interval:
    return mul(absolute(x), absolute(x))


def power(x: Interval, exponent: int) -> Interval:
    if exponent < 0:
        raise Unprovable(f"integer power {exponent}")
    base, result = (absolute(x) if exponent % 2 == 0 else x), exactly(np.ones_like(x.lo))
    for _ in range(exponent):
        result = mul(result, base)
    return result


def negative(x: Interval) -> Interval:
    lo, hi = x.wide()
    return between(-hi, -lo)


def absolute(x: Interval) -> Interval:
    lo, hi = x.wide()
    if x.exact:
        return exactly(np.abs(lo))
    return between(np.maximum(np.maximum(lo, -hi), 0), np.maximum(-lo, hi))


def sign(x: Interval) -> Interval:
    return between(np.sign(x.wide()[0]), np.sign(x.wide()[1]))


def maximum(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x.wide(), y.wide()
    return between(np.maximum(a, c), np.maximum(b, d))


def minimum(x: Interval, y: Interval) -> Interval:
    (a, b), (c, d) = x.wide(), y.wide()
    return between(np.minimum(a, c), np.minimum(b, d))


def clamp(low: Interval, x: Interval, high: Interval) -> Interval:
    return minimum(maximum(x, low), high)


def divide(x: Interval, y: Interval) -> Interval:
    """Truncating division, as XLA's."""
    if y.least <= 0 <= y.most:
        raise Unprovable(f"divisor in [{y.least}, {y.most}] may be zero")
    return corners(_truncated, x, y)


def remainder(x: Interval, y: Interval) -> Interval:
    """The remainder of truncating division: it has the dividend's sign."""
    if y.least <= 0 <= y.most:
        raise Unprovable(f"divisor in [{y.least}, {y.most}] may be zero")
    if x.exact and y.exact:
        a, b = x.wide()[0], y.wide()[0]
        return exactly(a - product(_truncated(a, b), b))
    lo, hi = x.wide()
    below = absolute(y).wide()[1] - 1
    return between(np.maximum(np.minimum(lo, 0), -below), np.minimum(np.maximum(hi, 0), below))


def shift_left(x: Interval, amount: Interval, bits: int) -> Interval:
    _check_shift(amount, bits)
    return corners(lambda a, n: product(a, _power_of_two(n)), x, amount)


def shift_right_arithmetic(x: Interval, amount: Interval, bits: int, dtype: Any) -> Interval:
    _check_shift(amount, bits)
    if type_range(dtype)[0] == 0 and x.most >= 1 << (bits - 1):
        raise Unprovable(f"{dtype} up to {x.most} is shifted as if its first bit were a sign")
    return corners(np.right_shift, x, amount)


def shift_right_logical(x: Interval, amount: Interval, bits: int) -> Interval:
    """Zeros move in; a negative int is its unsigned reading, which fits again if shifted at all."""
    _check_shift(amount, bits)
    if x.least >= 0:
        return corners(np.right_shift, x, amount)
    lo, hi = x.wide()
    if amount.least == 0:
        both = corners(np.right_shift, as_unsigned(lo, hi, bits), between(1, max(amount.most, 1)))
        return join(both, between(lo, hi))
    return corners(np.right_shift, as_unsigned(lo, hi, bits), amount)


def bit_and(x: Interval, y: Interval) -> Interval:
    if x.exact and y.exact:
        return exactly(x.wide()[0] & y.wide()[0])
    (a, b), (c, d) = x.wide(), y.wide()
    # A non-negative operand bounds the result by itself; two negatives stay above a power of two.
    hi = np.where(a >= 0, np.where(c >= 0, np.minimum(b, d), b), np.where(c >= 0, d,
                  np.maximum(b, d)))  # fmt: skip
    lo = np.where((a >= 0) | (c >= 0), 0, -_power_above(np.maximum(-a - 1, -c - 1)))
    # A mask of low ones leaves alone what already fits under it.
    for value, (m, n) in ((x.wide(), y.wide()), (y.wide(), x.wide())):
        whole = (m == n) & (n >= 0) & ((n & (n + 1)) == 0) & (value[0] >= 0) & (value[1] <= n)
        lo, hi = np.where(whole, value[0], lo), np.where(whole, value[1], hi)
    return between(lo, hi)


def bit_or(x: Interval, y: Interval) -> Interval:
    """a | b = ~(~a & ~b)."""
    return _bit_not(bit_and(_bit_not(x), _bit_not(y))) if x.least < 0 or y.least < 0 else (
        _nonnegative_or(x, y)
    )  # fmt: skip


def bit_xor(x: Interval, y: Interval, dtype: Any) -> Interval:
    if x.exact and y.exact:
        return exactly(x.wide()[0] ^ y.wide()[0])
    bits = bits_of(dtype)
    flip = type_range(dtype)[0] or 1 << (bits - 1)
    for value, mask in ((x, y), (y, x)):
        if mask.exact and bool(np.all(mask.lo == flip)) and bits > 1:
            return _flip_top_bit(value, bits, signed=flip < 0)
    (a, b), (c, d) = x.wide(), y.wide()
    top = _power_above(np.maximum(np.maximum(b, -a - 1), np.maximum(d, -c - 1)))
    lo = np.where((a >= 0) & (c >= 0), 0, -top)
    return between(lo, top - 1)


def bit_not(x: Interval, dtype: Any) -> Interval:
    if type_range(dtype)[0] == 0:
        return sub(exactly(np.asarray(type_range(dtype)[1])), x)
    return _bit_not(x)


def leading_zeros(x: Interval, bits: int) -> Interval:
    lo, hi = x.wide()

    def count(bounds: Bounds) -> Bounds:
        return np.where(bounds < 0, 0, bits - _bit_length(np.maximum(bounds, 0)))

    if x.exact:
        return exactly(count(lo))
    return between(np.where(lo < 0, 0, count(hi)), count(np.maximum(lo, 0)))


def select(which: Interval, cases: list[Interval]) -> Interval:
    """The case that `which` may choose, elementwise."""
    if which.least < 0 or which.most >= len(cases):
        raise Unprovable(f"case [{which.least}, {which.most}] of {len(cases)}")
    a, b = which.wide()
    lo = hi = None
    for index, case in enumerate(cases):
        low, high = case.wide()
        possible = (a <= index) & (index <= b)
        if lo is None or hi is None:
            lo, hi, seen = low, high, possible
        else:
            lo = np.where(possible, np.where(seen, np.minimum(lo, low), low), lo)
            hi = np.where(possible, np.where(seen, np.maximum(hi, high), high), hi)
            seen = seen | possible
    return between(lo, hi)


def compare(name: str, x: Interval, y: Interval) -> Interval:
    """A comparison's 0 or 1 where the ranges decide it, both elsewhere."""
    (a, b), (c, d) = x.wide(), y.wide()
    surely, never = {
        "lt": (b < c, a >= d),
        "le": (b <= c, a > d),
        "gt": (a > d, b <= c),
        "ge": (a >= d, b < c),
        "eq": ((a == b) & (c == d) & (a == c), (b < c) | (a > d)),
        "ne": ((b < c) | (a > d), (a == b) & (c == d) & (a == c)),
    }[name]
    return between(np.where(surely, 1, 0), np.where(never, 0, 1))


def _check_shift(amount: Interval, bits: int) -> None:
    if amount.least < 0 or amount.most >= bits:
        raise Unprovable(f"shift by [{amount.least}, {amount.most}] leaves [0, {bits - 1}]")


def _truncated(a: Bounds, b: Bounds) -> Bounds:
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))


def as_unsigned(lo: Bounds, hi: Bounds, bits: int) -> Interval:
    """The bits of a signed range read as unsigned."""
    lo, hi = roomy(bits, lo, hi)
    wrap = 1 << bits
    low = np.where(lo >= 0, lo, np.where(hi < 0, lo + wrap, 0))
    return between(low, np.where(lo >= 0, hi, np.where(hi < 0, hi + wrap, wrap - 1)))


def roomy(bits: int, lo: Bounds, hi: Bounds) -> tuple[Bounds, Bounds]:
    """Bounds to which 2^bits can be added: Python integers where int64 would not do."""
    return (lo, hi) if bits < 62 else (lo.astype(object), hi.astype(object))


def _flip_top_bit(x: Interval, bits: int, *, signed: bool) -> Interval:
    """x ^ its type's top bit: an offset by half the range once the bits are read the other way."""
    half = 1 << (bits - 1)
    lo, hi = roomy(bits, *x.wide())
    move = half if signed else -half
    crosses = (lo < 0) & (hi >= 0) if signed else (lo < half) & (hi >= half)
    full = (-half, half - 1) if signed else (0, 2 * half - 1)
    upper = lo >= 0 if signed else lo >= half
    step = np.where(upper, *(np.asarray(each, lo.dtype) for each in (-half, half)))
    return Interval(
        np.where(crosses, full[0], lo + step),
        np.where(crosses, full[1], hi + step),
        recast=(lo + move, hi + move),
    )


def _bit_not(x: Interval) -> Interval:
    lo, hi = x.wide()
    return between(-1 - hi, -1 - lo)


def _nonnegative_or(x: Interval, y: Interval) -> Interval:
    if x.exact and y.exact:
        return exactly(x.wide()[0] | y.wide()[0])
    (a, b), (c, d) = x.wide(), y.wide()
    return between(np.maximum(a, c), np.minimum(_power_above(np.maximum(b, d)) - 1, b + d))


def _power_above(values: Bounds) -> Bounds:
    """The least power of two above each value (1 for those below 1)."""
    return _power_of_two(_bit_length(np.maximum(values, 0)))


def _power_of_two(exponents: Bounds) -> Bounds:
    if exponents.size and exponents.max() >= 62:
        exponents = exponents.astype(object)
    return np.asarray(np.left_shift(np.ones_like(exponents), exponents))


def _bit_length(values: Bounds) -> Bounds:
    """Bits of each non-negative value."""
    if magnitude(values) < 2**53:
        return np.frexp(values.astype(np.float64))[1].astype(np.int64)
    return np.vectorize(lambda value: int(value).bit_length(), otypes=[np.int64])(values)
