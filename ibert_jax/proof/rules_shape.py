"""Ranges of the operations that move, select and sum elements.

Bounds stay as small as their axes allow (see `Interval`): an axis on which nothing is known has
length 1 whatever the array's own length, so RoBERTa's activations are vectors of channels here.
Every rule takes the array's true shape beside its interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ibert_jax.proof.interval import (
    Bounds,
    Interval,
    between,
    exactly,
    flatten_axes,
    join,
    type_range,
    widened,
)
from ibert_jax.proof.rules_elementwise import Unprovable

Shape = tuple[int, ...]


def each(x: Interval, move: Any) -> Interval:
    """The same move of both bounds."""
    lo = move(x.lo)
    return Interval(lo, lo if x.exact else move(x.hi))


def broadcast_in_dim(x: Interval, shape: Shape, dimensions: tuple[int, ...]) -> Interval:
    def move(bounds: Bounds) -> Bounds:
        sizes = [1] * len(shape)
        for axis, target in enumerate(dimensions):
            sizes[target] = bounds.shape[axis]
        return bounds.reshape(sizes)

    return each(x, move)


def reshape(x: Interval, old: Shape, new: Shape) -> Interval:
    """Axes are matched in groups of equal size; within a group, bounds that vary are spread out."""

    def move(bounds: Bounds) -> Bounds:
        spread, sizes = [], []
        for here, there in _groups(old, new):
            varies = [axis for axis in here if bounds.shape[axis] != 1]
            spread += [old[axis] if varies else 1 for axis in here]
            if len(varies) == 1 and old[varies[0]] == np.prod([new[a] for a in there], dtype=int):
                spread[-len(here) :] = [bounds.shape[axis] for axis in here]
            sizes += [new[axis] if varies else 1 for axis in there]
        return np.broadcast_to(bounds, spread).reshape(sizes)

    return each(x, move)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The finest split of both shapes into runs of axes of equal size."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        here, there, left, right = [], [], 1, 1
        while (not here and not there) or left != right:
            if i < len(old) and (left <= right or j >= len(new)):
                here.append(i)
                left *= old[i]
                i += 1
            else:
                there.append(j)
                right *= new[j]
                j += 1
        # Axes of length 1 go with whatever stands before them.
        while i < len(old) and old[i] == 1:
            here.append(i)
            i += 1
        while j < len(new) and new[j] == 1:
            there.append(j)
            j += 1
        groups.append((here, there))
    return groups


def cut(x: Interval, starts: Shape, limits: Shape, strides: Shape | None) -> Interval:
    def move(bounds: Bounds) -> Bounds:
        steps = strides or (1,) * bounds.ndim
        return bounds[tuple(
            slice(None) if size == 1 else slice(a, b, step)
            for size, a, b, step in zip(bounds.shape, starts, limits, steps, strict=True)
        )]  # fmt: skip

    return each(x, move)


def dynamic_slice(x: Interval, starts: list[Interval], old: Shape, sizes: Shape) -> Interval:
    moving = [a for a, size in enumerate(sizes) if size != old[a]]
    if all(starts[axis].exact for axis in moving):  # XLA clamps starts into the array
        at = [min(max(s.least, 0), n - m) for s, n, m in zip(starts, old, sizes, strict=True)]
        return cut(x, tuple(at), tuple(a + m for a, m in zip(at, sizes, strict=True)), None)
    return flatten_axes(x, tuple(moving))


def dynamic_update_slice(x: Interval, update: Interval, old: Shape, new: Shape) -> Interval:
    partial = tuple(axis for axis, size in enumerate(new) if size != old[axis])
    return join(flatten_axes(x, partial), flatten_axes(update, partial))


def concatenate(parts: list[Interval], shapes: list[Shape], axis: int) -> Interval:
    if all(part.lo.shape[axis] == 1 for part in parts) and not all(s[axis] == 1 for s in shapes):
        return join(*parts)
    ndim = len(shapes[0])
    common = [max(part.lo.shape[a] for part in parts) for a in range(ndim)]

    def side(bounds: list[Bounds]) -> Bounds:
        return np.concatenate([
            np.broadcast_to(b, [*common[:axis], shape[axis], *common[axis + 1 :]])
            for b, shape in zip(bounds, shapes, strict=True)
        ], axis=axis)  # fmt: skip

    return between(side([part.lo for part in parts]), side([part.hi for part in parts]))


def stack(parts: list[Interval], axis: int) -> Interval:
    lifted = [each(part, lambda bounds: np.expand_dims(bounds, axis)) for part in parts]
    shapes = [tuple(part.lo.shape) for part in lifted]
    return join(*lifted) if len(set(shapes)) > 1 else concatenate(lifted, shapes, axis)


def unstack(x: Interval, axis: int, count: int) -> list[Interval]:
    varies = x.lo.shape[axis] != 1
    return [
        each(x, lambda bounds, i=i: np.take(bounds, i if varies else 0, axis=axis))
        for i in range(count)
    ]


def pad(x: Interval, value: Interval, config: Any) -> Interval:
    axes = tuple(axis for axis, amounts in enumerate(config) if tuple(amounts) != (0, 0, 0))
    fill = each(value, lambda bounds: bounds.reshape((1,) * x.lo.ndim))
    return join(flatten_axes(x, axes), fill)


def gather(x: Interval, indices: Interval, out: Shape, params: dict[str, Any], dtype: Any,
           shapes: tuple[Shape, Shape]) -> Interval:  # fmt: skip
    """Rows of a table: per-channel bounds survive on the axes that are taken whole."""
    numbers, sizes, (old, _) = params["dimension_numbers"], params["slice_sizes"], shapes
    dropped = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    moving = [axis for axis, size in enumerate(sizes) if size != old[axis] or axis in dropped]
    kept = [axis for axis in range(len(old)) if axis not in dropped]
    flat = flatten_axes(x, tuple(moving))

    def move(bounds: Bounds) -> Bounds:
        sizes_out = [1] * len(out)
        for axis, target in zip(kept, numbers.offset_dims, strict=True):
            sizes_out[target] = bounds.shape[axis]
        return bounds.reshape(sizes_out)

    taken = each(flat, move)
    room = min((old[a] - sizes[a] for a in numbers.start_index_map), default=0)
    inside = indices.least >= 0 and indices.most <= room
    if inside or "FILL" not in str(params["mode"]):
        return taken
    fill = params["fill_value"]
    if fill is None:
        low, high = type_range(dtype)
        fill = low if low < 0 else high
    return join(taken, exactly(np.full((1,) * len(out), int(fill))))


def reduce_sum(x: Interval, axes: tuple[int, ...], shape: Shape) -> Interval:
    def move(bounds: Bounds) -> Bounds:
        times = int(np.prod([shape[a] for a in axes if bounds.shape[a] == 1], dtype=int))
        bounds = widened(bounds, int(np.prod([shape[a] for a in axes], dtype=int)))
        return np.asarray(bounds.sum(axis=axes) * times)

    return between(move(x.lo), move(x.hi))


def reduce_extreme(x: Interval, axes: tuple[int, ...], shape: Shape, *, largest: bool) -> Interval:
    if any(shape[axis] == 0 for axis in axes):
        raise Unprovable("the extreme of an empty axis")
    lo, hi = x.wide()
    if largest:
        return between(lo.max(axis=axes), hi.max(axis=axes))
    return between(lo.min(axis=axes), hi.min(axis=axes))


def cumulative_sum(x: Interval, axis: int, shape: Shape, *, reverse: bool) -> Interval:
    def move(bounds: Bounds) -> Bounds:
        full = [shape[a] if a == axis else n for a, n in enumerate(bounds.shape)]
        spread = np.broadcast_to(widened(bounds, shape[axis]), full)
        if reverse:
            return np.flip(np.cumsum(np.flip(spread, axis), axis), axis)
        return np.cumsum(spread, axis)

    return between(move(x.lo), move(x.hi))


def iota(shape: Shape, dimension: int) -> Interval:
    sizes = [1] * len(shape)
    sizes[dimension] = shape[dimension]
    return exactly(np.arange(shape[dimension]).reshape(sizes))


def tile(x: Interval, reps: Shape) -> Interval:
    return each(x, lambda bounds: np.tile(
        bounds, [1 if size == 1 else n for size, n in zip(bounds.shape, reps, strict=True)]
    ))  # fmt: skip


def index_in(shape: Shape, axes: tuple[int, ...], ndim: int) -> Interval:
    """The range of argmax and argmin."""
    (axis,) = axes
    if shape[axis] == 0:
        raise Unprovable("argmax over an empty axis")
    ones = np.ones((1,) * ndim, np.int64)
    return between(0 * ones, (shape[axis] - 1) * ones)
