"""``spec``'s operations once more, on int64 arrays: fast enough for a million elements.

A twin counts for nothing by itself: ``test_million.py`` shows each equal to ``spec`` on thousands
of elements before a kernel is compared with it on a million.
"""

from __future__ import annotations

import math

import numpy as np

from ibert_jax import spec

Constants = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""m, offset, shift, pre: int64, one per channel (the last axis)."""


def shift_round(x: np.ndarray, shift: np.ndarray | int) -> np.ndarray:
    shift = np.asarray(shift)
    return (x + (np.left_shift(1, shift) >> 1)) >> shift


def rescale(x: np.ndarray, constants: Constants, *, wide: bool) -> np.ndarray:
    """|x| <= 2^31 and |m| < 2^31: the product fits int64."""
    m, offset, shift, pre = constants
    limit = spec.INT32_MAX >> pre
    x = np.where(pre > 0, np.clip(x, -limit, limit) << pre, x)
    return ((x * m >> (32 if wide else 16)) + offset) >> shift


def requantize(x: np.ndarray, constants: Constants, bits: int, *, wide: bool) -> np.ndarray:
    return rescale(x, constants, wide=wide).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def bit_length(n: np.ndarray) -> np.ndarray:
    """Of 0 <= n < 2^53."""
    return np.frexp(n.astype(np.float64))[1].astype(np.int64)


def isqrt(n: np.ndarray) -> np.ndarray:
    """float64's root of n < 2^52 is right to a unit: corrected, it is the floor."""
    root = np.sqrt(n.astype(np.float64)).astype(np.int64)
    root -= root * root > n
    return root + ((root + 1) ** 2 <= n)


def iexp(t: np.ndarray) -> np.ndarray:
    z, u = -t >> 11, -t & 2047
    slope = 176186 - shift_round(45109 * u, 11)
    return shift_round(2**15 - shift_round(slope * u, 14), z)


def row_powers(scores: np.ndarray, mask: np.ndarray, constants: Constants) -> np.ndarray:
    """Rows along the last axis; ``constants`` of one channel."""
    kept = np.where(mask, scores, -(2**30))
    below = kept - kept.max(-1, keepdims=True)
    grid = rescale(below, constants, wide=False).clip(-30 << 11, 0)
    return np.where(mask, iexp(grid), 0)


def softmax_numerators(
    scores: np.ndarray, mask: np.ndarray, constants: Constants
) -> tuple[np.ndarray, np.ndarray]:
    scaled = shift_round(row_powers(scores, mask, constants) * 255, 15)
    return scaled, scaled.sum(-1, keepdims=True)


def reciprocal_15(n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    zeros = 32 - bit_length(n)
    top = n << zeros >> 16
    return zeros, np.minimum((2**30 + (top >> 1)) // top, 2**15 - 1)


def softmax_reference(
    scores: np.ndarray, mask: np.ndarray, constants: Constants
) -> tuple[np.ndarray, np.ndarray]:
    powers = row_powers(scores, mask, constants)
    total = powers.sum(-1, keepdims=True)
    zeros, r = reciprocal_15(np.maximum(total, 1))
    weights = np.minimum((powers << (zeros - 2)) * r >> 16 >> 20, 255)
    return weights, np.full_like(total, 256)


def divide_by_row_sum(total: np.ndarray, row_sum: np.ndarray) -> np.ndarray:
    zeros, r = reciprocal_15(np.maximum(row_sum, 255))
    limit = 2**30 >> (zeros - 9)
    return (np.clip(total, -limit, limit) << (zeros - 9)) * r >> 16


def layernorm(x: np.ndarray, eps: spec.Number) -> np.ndarray:
    channels = x.shape[-1]
    total = x.sum(-1, keepdims=True)
    mean, fraction = total // channels, total % channels
    length = bit_length(np.abs(x - mean).max(-1, keepdims=True) + 1)
    shift = np.maximum(np.minimum(15 - length, -eps[1] >> 1), -31)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    y = (((x - mean) << left) - (fraction << left) // channels) >> right
    halvings = max(math.ceil(math.log2(channels)) - 1, 0)
    size = 1 << halvings
    added = np.arange(channels) * ((40503 * size >> 16) | 1) % size
    squares = ((y * y + added) >> halvings).sum(-1, keepdims=True)
    eps_part = eps[0] >> np.clip(halvings - eps[1] - 2 * shift, 0, 31)
    variance = np.maximum(squares + eps_part, 1)
    even = (32 - bit_length(variance)) & ~1
    root = isqrt(variance << even)
    factor = (math.isqrt((channels << 60) >> halvings) + (root >> 1)) // root
    return shift_round(y * factor, 16 - even // 2)
