"""Ranges of integer arrays: what every element is known to lie between, per channel where known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Bounds = np.ndarray[Any, np.dtype[Any]]

RANGED_TYPES = frozenset(
    ["bool"] + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
"""The element types whose arrays have ranges: those that NumPy itself knows as integers."""


@dataclass(frozen=True)
class Interval:
    """Elementwise bounds of one array.

    Invariants:
      * `lo` and `hi` have the array's rank; an axis on which the bounds do not vary has length 1;
      * they hold integers (any NumPy integer type, or Python integers as objects), lo <= hi;
      * `lo is hi` means that the array is known exactly.

    `recast` bounds the same bits read in the other signedness, where that is known better than
    `lo` and `hi` tell: x ^ -128, read as uint8, is x + 128.
    """

    lo: Bounds
    hi: Bounds
    recast: tuple[Bounds, Bounds] | None = None

    @property
    def exact(self) -> bool:
        """True if every element is known."""
        return self.lo is self.hi

    @property
    def least(self) -> int:
        """The smallest value that any element may have."""
        return int(self.lo.min())

    @property
    def most(self) -> int:
        """The largest value that any element may have."""
        return int(self.hi.max())

    def wide(self) -> tuple[Bounds, Bounds]:
        """Both bounds in a type that a sum of two of them cannot leave; see `widened`."""
        if self.exact:
            known = widened(self.lo)
            return known, known
        return widened(self.lo), widened(self.hi)


def exactly(values: Any) -> Interval:
    """The interval of a known array; booleans count as 0 and 1."""
    array = np.asarray(values)
    array = array.astype(np.int8) if array.dtype == bool else array
    return Interval(array, array)


def between(lo: Any, hi: Any) -> Interval:
    """The interval of two bounds; exact if they agree everywhere."""
    lo, hi = np.asarray(lo), np.asarray(hi)
    if lo is hi or (lo.shape == hi.shape and bool(np.all(lo == hi))):
        return Interval(lo, lo)
    return Interval(lo, hi)


def join(*parts: Interval) -> Interval:
    """The smallest interval that holds all parts, which must have one rank."""
    lo, hi = parts[0].wide()
    for part in parts[1:]:
        other_lo, other_hi = part.wide()
        lo, hi = np.minimum(lo, other_lo), np.maximum(hi, other_hi)
    return between(lo, hi)


def flatten_axes(x: Interval, axes: tuple[int, ...]) -> Interval:
    """The same bounds for every index along `axes`, which keep length 1."""
    axes = tuple(axis for axis in axes if x.lo.shape[axis] != 1)
    if not axes:
        return Interval(x.lo, x.hi)
    return between(x.lo.min(axis=axes, keepdims=True), x.hi.max(axis=axes, keepdims=True))


def widened(bounds: Bounds, times: int = 1) -> Bounds:
    """int64, or Python integers where a sum of two, each `times` as large, might leave that.

    NumPy's int64 wraps without a word, and what wrapped would be taken for a proof.
    """
    bounds = np.asarray(bounds)  # what is computed of a lone Python integer is one
    small = bounds.dtype != object and bounds.dtype.itemsize <= 4 and times < 2**30
    if small or magnitude(bounds) * times < 2**62:
        return bounds.astype(np.int64)
    return bounds.astype(object)


def product(a: Bounds, b: Bounds) -> Bounds:
    """a * b without ever leaving the type: Python integers where int64 might not do."""
    if magnitude(a) * magnitude(b) >= 2**62:
        a, b = a.astype(object), b.astype(object)
    return np.asarray(a * b)


def corners(operation: Any, x: Interval, y: Interval) -> Interval:
    """The range of an operation that is monotone in each operand with the other held fixed."""
    (a, b), (c, d) = x.wide(), y.wide()
    if x.exact and y.exact:
        return exactly(operation(a, c))
    values = [operation(p, q) for p in {id(a): a, id(b): b}.values()
              for q in {id(c): c, id(d): d}.values()]  # fmt: skip
    lo, hi = values[0], values[0]
    for value in values[1:]:
        lo, hi = np.minimum(lo, value), np.maximum(hi, value)
    return between(lo, hi)


def type_range(dtype: Any) -> tuple[int, int]:
    """Least and largest value of an integer or boolean type."""
    if np.dtype(dtype) == bool:
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def bits_of(dtype: Any) -> int:
    """The width of an integer type."""
    return 1 if np.dtype(dtype) == bool else np.iinfo(dtype).bits


def bits_needed(lo: int, hi: int) -> int:
    """The fewest bits of a two's complement (or, if lo >= 0, unsigned) type that hold a range."""
    if lo >= 0:
        return max(hi.bit_length(), 1)
    return max((-lo - 1).bit_length(), hi.bit_length() if hi > 0 else 0) + 1


def magnitude(bounds: Bounds) -> int:
    """The largest absolute value of any element; 0 if there is none."""
    bounds = np.asarray(bounds)
    if bounds.size == 0:
        return 0
    return max(abs(int(bounds.min())), abs(int(bounds.max())))
