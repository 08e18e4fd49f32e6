"""Ranges of matrix products: exact per column where one side is known.

With weights w known and activations x[k] in [lo[k], hi[k]], a column's sum lies between
sum_k max(w, 0) lo + min(w, 0) hi and sum_k max(w, 0) hi + min(w, 0) lo, and both ends are
reached: no smaller int32 range holds for all inputs of these ranges.
"""

from __future__ import annotations

import numpy as np

from ibert_jax.proof.interval import (
    Bounds,
    Interval,
    between,
    flatten_axes,
    magnitude,
    product,
    widened,
)

Axes = tuple[int, ...]
Dimensions = tuple[tuple[Axes, Axes], tuple[Axes, Axes]]
_EXACT_FLOAT = 2**53
_LARGEST = 20_000_000  # products formed one by one where neither side is known


def dot_general(
    x: Interval, y: Interval, shapes: tuple[tuple[int, ...], tuple[int, ...]], dims: Dimensions
) -> Interval:
    """Bounds of `lax.dot_general`, axes in its order: batch, x's free axes, y's free axes."""
    (contract_x, contract_y), (batch_x, batch_y) = dims
    count = int(np.prod([shapes[0][axis] for axis in contract_x], dtype=int))
    batch = tuple(max(x.lo.shape[i], y.lo.shape[j]) for i, j in zip(batch_x, batch_y, strict=True))
    left, left_free = _arrange(x, contract_x, batch_x, batch, count, shapes[0])
    right, right_free = _arrange(y, contract_y, batch_y, batch, count, shapes[1])
    if right.exact:
        lo, hi = _known(left, right)
    elif left.exact:
        lo, hi = (np.swapaxes(side, 1, 2) for side in _known(right, left))
    else:
        lo, hi = _unknown(left, right, count)
    shape = (*batch, *left_free, *right_free)
    return between(lo.reshape(shape), hi.reshape(shape))


def _arrange(
    x: Interval, contract: Axes, batch: Axes, batch_sizes: Axes, count: int, shape: Axes
) -> tuple[Interval, tuple[int, ...]]:
    """Bounds as [batch, free, contracted], and the lengths of the free axes.

    The contracted axes are spread to their true length if the bounds vary on any of them.
    """
    free = tuple(axis for axis in range(len(shape)) if axis not in (*contract, *batch))

    def move(bounds: Bounds) -> Bounds:
        if any(bounds.shape[axis] != 1 for axis in contract):
            full = [shape[a] if a in contract else n for a, n in enumerate(bounds.shape)]
            bounds = np.broadcast_to(bounds, full)
        moved = np.transpose(bounds, (*batch, *free, *contract))
        if any(bounds.shape[axis] != 1 for axis in batch):
            moved = np.broadcast_to(moved, (*batch_sizes, *moved.shape[len(batch) :]))
        sizes = [int(np.prod(moved.shape[: len(batch)], dtype=int)),
                 int(np.prod([bounds.shape[axis] for axis in free], dtype=int)), -1]  # fmt: skip
        moved = moved.reshape(sizes)
        # Known arrays are multiplied as matrices, which need every term.
        return np.broadcast_to(moved, (*moved.shape[:2], count)) if x.exact else moved

    lo = move(x.lo)
    hi = lo if x.exact else move(x.hi)
    return Interval(lo, hi), tuple(x.lo.shape[axis] for axis in free)


def _known(x: Interval, known: Interval) -> tuple[Bounds, Bounds]:
    """[B, F, K or 1] with a known [B, N, K]: bounds [B, F, N]."""
    lo, hi = x.wide()
    biggest = max(magnitude(lo), magnitude(hi)) * magnitude(known.lo)
    terms = known.lo.shape[-1]
    kind = np.float64 if biggest * terms < _EXACT_FLOAT else object
    up = np.swapaxes(np.maximum(known.lo, 0), 1, 2).astype(kind)
    down = np.swapaxes(np.minimum(known.lo, 0), 1, 2).astype(kind)
    lo, hi = (np.broadcast_to(b, (*b.shape[:2], terms)).astype(kind) for b in (lo, hi))
    result = lo @ up + hi @ down, hi @ up + lo @ down
    if kind is object:
        return result
    return result[0].astype(np.int64), result[1].astype(np.int64)


def _unknown(x: Interval, y: Interval, count: int) -> tuple[Bounds, Bounds]:
    """Two unknown sides: the extreme corner of each term, summed."""
    sizes = (max(x.lo.shape[0], y.lo.shape[0]), x.lo.shape[1], y.lo.shape[1])
    terms = max(x.lo.shape[2], y.lo.shape[2])
    shape = (*sizes, terms)
    if int(np.prod(shape)) > _LARGEST:  # one bound for all rows of each matrix, then
        rows, columns = x.lo.shape[1], y.lo.shape[1]
        lo, hi = _unknown(flatten_axes(x, (0, 1)), flatten_axes(y, (0, 1)), count)
        full = (sizes[0], rows, columns)
        return np.broadcast_to(lo, full), np.broadcast_to(hi, full)
    (a, b), (c, d) = x.wide(), y.wide()
    values = [
        product(p[:, :, None, :], q[:, None, :, :]) for p in (a, b) for q in (c, d)
    ]  # fmt: skip
    lo = np.minimum(np.minimum(values[0], values[1]), np.minimum(values[2], values[3]))
    hi = np.maximum(np.maximum(values[0], values[1]), np.maximum(values[2], values[3]))
    lo, hi = (widened(np.asarray(side), count) for side in (lo, hi))
    if terms == 1:
        return lo[..., 0] * count, hi[..., 0] * count
    return lo.sum(axis=-1), hi.sum(axis=-1)
