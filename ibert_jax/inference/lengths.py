"""The lengths, in tokens, that batches are padded to.

Every length is a program to compile, which takes as long as computing some thousand tokens; padding
takes time too. `lengths_up_to` are a fixed few, `two_lengths` the best two of them for some rows.
`GrowingLengths` begin with fewer and end with more: a closer length joins them when the padding
that it would have spared has cost as much as it will cost itself.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from ibert_jax.inference.price import Price

_SHORTEST = 16


def lengths_up_to(longest: int) -> tuple[int, ...]:
    """A few lengths, in tokens, each at most half as long again as the one before.

    >>> lengths_up_to(100)
    (16, 24, 32, 48, 64, 96, 100)
    """
    lengths = []
    power = _SHORTEST
    while power < longest:
        lengths += [power, power + power // 2]
        power *= 2
    return (*(length for length in lengths if length < longest), longest)


def two_lengths(lengths: Sequence[int], longest: int) -> tuple[int, ...]:
    """Of `lengths_up_to` the one or two that pad rows of these lengths, in tokens, the least.

    >>> two_lengths([9, 10, 20, 60], 128)
    (24, 64)
    """
    allowed = lengths_up_to(longest)
    last = next_of(allowed, max(lengths, default=1))
    pairs = [(first, last) for first in allowed if first <= last]
    best = min(pairs, key=lambda pair: sum(next_of(pair, length) for length in lengths))
    return tuple(sorted(set(best)))


class Lengths(Protocol):
    """Chooses the length that a batch is padded to."""

    def choose(self, rows: int, longest: int) -> int:
        """The length, in tokens, for so many rows the longest of which has so many tokens."""
        ...


class FixedLengths:
    """The next of these, ascending: what a batch is padded to depends on nothing but the batch."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths

    def choose(self, rows: int, longest: int) -> int:
        del rows
        return next_of(self._lengths, longest)


class GrowingLengths:
    """Few lengths at first, and closer ones as they are found to pay.

    How many rows will come nobody knows beforehand. So, of renting and buying skis, the old rule:
    a closer length is compiled once the padding that was computed for want of it has cost as much.
    So compiling them never takes longer than the padding that went before, and in a long job little
    is padded. Where padding changes no integer, neither does the choice; floats it may change in
    their last bits.

    longest: tokens, the longest length of all. price: of a program.
    """

    def __init__(self, longest: int, price: Price) -> None:
        self._price = price
        self._all = closest_lengths(longest)
        few = lengths_up_to(longest)
        self._few = [n for n in few if n.bit_count() == 1 or n == longest]
        self._in_use: dict[int, list[int]] = {}
        self._spared: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))

    def choose(self, rows: int, longest: int) -> int:
        in_use = self._in_use.setdefault(rows, list(self._few))
        length = next_of(in_use, longest)
        closer = [n for n in self._all if longest <= n < length]
        spared = self._spared[rows]
        for n in closer:
            spared[n] += rows * (length - n)
        best = max(closer, key=spared.__getitem__, default=length)
        if best == length or spared[best] < self._price.tokens():
            return length
        # What others would have spared was counted from the length that was the next one until now.
        shorter = max((n for n in in_use if n < longest), default=0)
        self._spared[rows] = defaultdict(
            int, {n: count for n, count in spared.items() if not shorter < n < length}
        )
        bisect.insort(in_use, best)
        return best


def closest_lengths(longest: int) -> tuple[int, ...]:
    """The padded lengths that may come into use: from 16 on at most a quarter apart.

    From 64 on they are multiples of 16, of which rows fold into whole vectors.

    >>> closest_lengths(100)
    (8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 80, 96, 100)
    """
    lengths = [*range(8, 64, 4), *range(64, 256, 16), *range(256, longest, 32)]
    return (*(length for length in lengths if length < longest), longest)


def next_of(lengths: Sequence[int], longest: int) -> int:
    """The first of these, ascending, that is at least so long."""
    return next(length for length in lengths if length >= longest)
