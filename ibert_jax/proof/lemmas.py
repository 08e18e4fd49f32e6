"""The kernels whose bounds rest on more than ranges, and what is known of each.

A range forgets how values depend on each other: that a shift was counted from the very number
it moves, that a root is the root of its operand. Each of these functions is as small as it can
be, stands in a jitted function of its own, and is taken at its word where its operands lie in
its domain; everything around it is proved by ranges. The tests hold each one against spec.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ibert_jax.integer.isqrt import isqrt
from ibert_jax.integer.layernorm import MAX_CHANNELS, lift_row
from ibert_jax.integer.softmax import LOWEST, iexp
from ibert_jax.integer.wide import leading_one, shift_left_saturating
from ibert_jax.proof.interval import Interval, between
from ibert_jax.proof.overflow import Contract, always
from ibert_jax.proof.rules_elementwise import Unprovable


def _shifted_up(n: Interval) -> list[Interval]:
    zeros = [np.asarray(32 - int(bound).bit_length()) for bound in (n.most, n.least)]
    return [between(np.asarray(2**31), np.asarray(2**32 - 1)), between(*zeros)]


def _root(n: Interval) -> list[Interval]:
    lo, hi = (np.vectorize(math.isqrt, otypes=[np.int64])(bound) for bound in n.wide())
    return [between(lo, hi)]


def _below_channels(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Of rows along the last axis; a ``vmap`` may have put another one there."""
    rows, fractions = shapes[:2]
    if fractions != (*rows[:-1], 1):
        raise Unprovable(f"expected a fraction for each row of {rows}, got {fractions}")
    return 0, min(rows[-1], MAX_CHANNELS) - 1


LEMMAS = (
    Contract(
        leading_one,
        ((1, 2**32 - 1),),
        _shifted_up,
        "n has as many leading zeros as it is shifted by, so its first one ends up in front",
    ),
    Contract(
        shift_left_saturating,
        ((-(2**31), 2**31 - 1), (0, 31)),
        always((-(2**30), 2**30)),
        "|x| <= floor(2^30 / 2^s) after the clip, so |x| 2^s <= 2^30",
    ),
    Contract(
        isqrt,
        ((0, 2**32 - 1),),
        _root,
        "the floor of a square root is monotone; no step subtracts more than is left",
    ),
    Contract(
        iexp,
        ((LOWEST, 0),),
        always((0, 2**15)),
        "all 61,441 inputs are tested: the power is at most 2^15 before it is halved z times",
    ),
    Contract(
        lift_row,
        ((-(2**20), 2**20), _below_channels, (-64, 60)),
        always((-(2**15), 2**15), (-31, 15)),
        "the shift brings the row's largest |x| + 1 to 15 bits, and the carried fraction is "
        "below one unit before the shift",
    ),
)
