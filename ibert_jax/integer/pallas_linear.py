"""A linear layer and what follows it in one GPU kernel, for results that never visit memory.

``q @ weight.T + bias`` is an int32 array four times the size of the int8 one that a requantization
makes of it. For RoBERTa-base at 128 x 128 tokens on an H200 (4.3 TB/s measured for a copy), the
first half of the feed-forward is 77 G int8 operations, 39 us at the peak of 1,979 TOP/s; writing
its 201 MB of accumulators and reading them again is 94 us. Here a tile of accumulators stays in
registers, the *epilogue* (GELU, requantization, residual sum: ordinary functions of this package
on int32 arrays) is computed on it there, and 50 MB of int8 are written: 12 us.

What one program does: a tile of 128 x 128 results, the operands passing through shared memory in
slices of 128 along K, three in flight (98 KiB, so two programs fit a multiprocessor and one's
epilogue overlaps the other's products). Triton makes of the int8 product Hopper's
``wgmma.m64n128k32.s32.s8.s8``. Programs next to each other read the same rows of ``q``, which thus
come from device memory once; the weights of a layer stay in the L2 cache.

What is left to pay is the epilogue's own arithmetic: a multiprocessor retires 64 int32 operations
a cycle, about 16 T/s in all. GELU between two requantizations is about 32 of them an element:
0.1 ms of those 50 M elements, more than the product itself.

Integer sums do not depend on their order, and the epilogue is the very function of the plain path:
the integers are the same. The kernels are Pallas for the Triton backend: it takes 8-bit integers
in ``dot`` and every operation that the epilogues are made of, on Ampere and later. (Pallas' other
backend, Mosaic GPU, reaches Hopper's copy engine, but its matrix product is another instruction
for each generation.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

Epilogue = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The shape of one program's work: powers of two, the first two and ``depth`` at least 16.

    Attributes:
        rows, columns: of the results.
        depth: along K, of a slice in shared memory.
        warps: of 32 threads each.
        stages: slices in flight.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 128
    warps: int = 8
    stages: int = 3

    def for_shape(self, rows: int, columns: int, depth: int) -> Tiles:
        """Smaller ones for an operand that would fill only part of a tile."""
        return dataclasses.replace(
            self,
            rows=min(self.rows, _power_of_two(rows)),
            columns=min(self.columns, _power_of_two(columns)),
            depth=min(self.depth, _power_of_two(depth)),
        )


DEFAULT_TILES = Tiles()


def fused_linear(
    q: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    epilogue: Epilogue,
    constants: Any,
    *operands: jax.Array,
    tiles: Tiles = DEFAULT_TILES,
    interpret: bool = False,
) -> jax.Array:
    """epilogue(q @ weight.T + bias, constants, *operands), computed tile by tile.

    Args:
        q: int8 [..., K].
        weight: int8 [N, K].
        bias: int32 [N], |bias| <= 2^30.
        epilogue: works element by element on int32 [R, C] accumulators and on tiles [R, C] of
            the operands, and returns an array [R, C]; it may be shown any tile, in any order.
        constants: a pytree of integer arrays, scalars or one value a column [N]; the epilogue
            gets it with the columns of its tile.
        operands: integer arrays [..., N].
        tiles: how the work is cut; the results do not depend on it.
        interpret: run by Pallas' interpreter, on any platform.

    Returns:
        [..., N], of the epilogue's type.
    """
    lead, depth, columns = q.shape[:-1], q.shape[-1], weight.shape[0]
    rows = math.prod(lead)
    tiles = tiles.for_shape(rows, columns, depth)
    leaves, structure = jax.tree.flatten((bias, constants))
    scalar = [leaf.ndim == 0 for leaf in leaves]
    # Zeros up to whole tiles: they add nothing to a sum, and results that they make are cut off.
    x = _padded(q.reshape(rows, depth), (tiles.rows, tiles.depth))
    w = _padded(weight, (tiles.columns, tiles.depth))
    values = [
        _padded(leaf.reshape(-1), (1 if leaf.ndim == 0 else tiles.columns,)) for leaf in leaves
    ]
    others = [_padded(y.reshape(rows, columns), (tiles.rows, tiles.columns)) for y in operands]

    def apply(accumulators: jax.Array, loaded: list[jax.Array], *parts: jax.Array) -> jax.Array:
        offset, rest = jax.tree.unflatten(structure, loaded)
        return epilogue(accumulators + offset.reshape(1, -1), rest, *parts)

    tile = (tiles.rows, tiles.columns)
    result = jax.eval_shape(
        apply,
        jax.ShapeDtypeStruct(tile, jnp.int32),
        [_tile_of(value, alone, tiles) for value, alone in zip(values, scalar, strict=True)],
        *(jax.ShapeDtypeStruct(tile, y.dtype) for y in others),
    )

    def of_rows(column: Any, row: Any) -> tuple[Any, int]:
        return row, 0

    def of_columns(column: Any, row: Any) -> tuple[Any, int]:
        return column, 0

    def of_column(column: Any, row: Any) -> tuple[Any]:
        return (column,)

    def of_tile(column: Any, row: Any) -> tuple[Any, Any]:
        return row, column

    def first(column: Any, row: Any) -> tuple[int]:
        return (0,)

    found = pl.pallas_call(
        partial(_kernel, apply=apply, scalar=scalar, slice_size=tiles.depth),
        # Neighbours share rows of q: columns run first.
        grid=(w.shape[0] // tiles.columns, x.shape[0] // tiles.rows),
        in_specs=[
            pl.BlockSpec((tiles.rows, x.shape[1]), of_rows),
            pl.BlockSpec((tiles.columns, w.shape[1]), of_columns),
            *(
                pl.BlockSpec((1,), first) if alone else pl.BlockSpec((tiles.columns,), of_column)
                for alone in scalar
            ),
            *(pl.BlockSpec(tile, of_tile) for _ in others),
        ],
        out_specs=pl.BlockSpec(tile, of_tile),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], w.shape[0]), result.dtype),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="fused_linear",
    )(x, w, *values, *others)
    return found[:rows, :columns].reshape(*lead, columns)


def _kernel(
    x: Any, w: Any, *refs: Any, apply: Callable[..., jax.Array], scalar: list[bool], slice_size: int
) -> None:
    constants, operands, out = refs[: len(scalar)], refs[len(scalar) : -1], refs[-1]

    def add_slice(index: jax.Array, accumulators: jax.Array) -> jax.Array:
        along = pl.ds(index * slice_size, slice_size)
        product = lax.dot_general(
            x[:, along], w[:, along], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        return accumulators + product

    slices = x.shape[1] // slice_size
    accumulators = lax.fori_loop(0, slices, add_slice, jnp.zeros(out.shape, jnp.int32))
    loaded = [
        ref[0] if alone else ref[...] for ref, alone in zip(constants, scalar, strict=True)
    ]  # fmt: skip
    out[...] = apply(accumulators, loaded, *(ref[...] for ref in operands))


def _tile_of(value: jax.Array, alone: bool, tiles: Tiles) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(() if alone else (tiles.columns,), value.dtype)


def _padded(x: jax.Array, multiples: tuple[int, ...]) -> jax.Array:
    """``x`` with zeros at the end of each axis, up to a multiple."""
    room = [(0, -size % multiple) for size, multiple in zip(x.shape, multiples, strict=True)]
    return jnp.pad(x, room) if any(end for _, end in room) else x


def _power_of_two(size: int) -> int:
    """The least power of two from 16 on that holds ``size``."""
    return max(16, 1 << (size - 1).bit_length())
