"""A linear layer and what follows it in one GPU kernel, for results that never visit memory.

``q @ weight.T + bias`` is an int32 array four times the size of the int8 one that a requantization
makes of it. For RoBERTa-base at 128 x 128 tokens on an H200 (4.3 TB/s measured for a copy), the
first half of the feed-forward is 77 G int8 operations, 39 us at the peak of 1,979 TOP/s; writing
its 201 MB of accumulators and reading them again is 94 us. Here a tile of accumulators stays in
registers, the *epilogue* (GELU, requantization: ordinary functions of this package on int32 arrays)
is computed on it there, and 50 MB of int8 are written: 12 us.

What one program does: a tile of 128 x 128 results, the operands passing through shared memory in
slices of 128 along K, three in flight (98 KiB, so that two programs fit a multiprocessor). Triton
makes of the int8 product Hopper's ``wgmma.m64n128k32.s32.s8.s8``. Programs next to each other read
the same rows of ``q``, which thus come from device memory once; the weights of a layer stay in the
L2 cache.

Measured on an H200 (benchmarks/README): 122 us, of which 84 are the product, that is the L2 cache,
of which 604 MB are read at 7 to 8 TB/s. The rest is the epilogue's own arithmetic, not overlapped
with it as two programs a multiprocessor might: shifts, minima, additions and logic share a pipe
that retires 64 a cycle in each multiprocessor, 15.5 T/s in all. Folded constants
(``frozen.folding``) made it 150 -> 122.

Integer sums do not depend on their order, none of their parts is larger than K 2^14 (with the bias
below 2^31 for K up to 2^16), and the epilogue is the very function of the plain path: the integers
are the same. The kernels are Pallas for the Triton backend: it takes 8-bit integers
in ``dot`` and every operation that the epilogues are made of, on Ampere and later. Large products
on an H100 or H200 are ``pallas_hopper``'s, where JAX is of the version that they know.
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

from ibert_jax.integer.dyadic import align
from ibert_jax.integer.pallas_constants import (
    SUMMED,
    pack_constants,
    pad_to,
    power_of_two,
    type_of,
)

Epilogue = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The shape of one program's work: powers of two, at least 16; ``depth`` at least 32.

    Attributes:
        rows, columns: of the results.
        depth: along K, of a slice in shared memory.
        warps: of 32 threads each.
        stages: slices in flight.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 128
    warps: int = 4
    stages: int = 3

    def for_shape(self, rows: int, columns: int, depth: int) -> Tiles:
        """Smaller ones for operands that would fill only part of a tile, or of the GPU."""
        high, wide = min(self.rows, power_of_two(rows)), min(self.columns, power_of_two(columns))
        while -(-rows // high) * -(-columns // wide) < ENOUGH and max(high, wide) > SMALLEST:
            high, wide = (high // 2, wide) if high > wide else (high, wide // 2)
        as_asked = (high, wide) == (self.rows, self.columns)
        warps = self.warps if as_asked else max(min(self.warps, high * wide // RESULTS_A_WARP), 1)
        slices = min(self.depth, power_of_two(depth, SUMMED))
        return dataclasses.replace(self, rows=high, columns=wide, depth=slices, warps=warps)


ENOUGH = 128
"""Programs: with fewer, multiprocessors of a large GPU have nothing to do."""
SMALLEST = 32
"""Rows or columns of a tile; smaller ones read their operands too often."""
RESULTS_A_WARP = 2048
DEFAULT_TILES = Tiles()
HOPPERS = ("H100", "H200")
MOSAIC = (0, 11)
"""The JAX whose Mosaic GPU ``pallas_hopper`` was run by; its interface changes with every one."""


def on_hopper() -> bool:
    """Whether what is being traced is for a GPU that has ``pallas_hopper``'s instructions.

    The default device's kind decides, or that of the mesh for which is lowered.
    """
    if jax.__version_info__[: len(MOSAIC)] != MOSAIC:
        return False
    described = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if described is not None:
        kind = described.device_kind
    elif jax.default_backend() == "gpu":
        kind = jax.devices()[0].device_kind
    else:
        return False
    return any(name in kind for name in HOPPERS)


def fused_linear(
    q: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    epilogue: Epilogue,
    constants: Any,
    *,
    by_row: bool = False,
    tiles: Tiles = DEFAULT_TILES,
    interpret: bool = False,
) -> jax.Array:
    """epilogue(q @ weight.T + bias, constants), computed tile by tile.

    Args:
        q: int8 [..., K].
        weight: int8 [N, K].
        bias: int32 [N], |bias| <= 2^30; None, nothing is added.
        epilogue: works element by element on int32 [R, C] accumulators and returns an array
            [R, C]; it may be shown any tile, in any order.
        constants: a pytree of int32 arrays, scalars or one value a column [N]; the epilogue gets
            it with the columns of its tile.
        by_row: whether bias and constants belong to rows, [M] of int8 [M, K], in place of columns;
            the epilogue then gets arrays [R, 1].
        tiles: how the work is cut; the results do not depend on it.
        interpret: run by Pallas' interpreter, on any platform.

    Returns:
        [..., N], of the epilogue's type.
    """
    lead, depth, columns = q.shape[:-1], q.shape[-1], weight.shape[0]
    rows = math.prod(lead)
    tiles = tiles.for_shape(rows, columns, depth)
    height, width, along = (
        -(-size // step) * step
        for size, step in (
            (rows, tiles.rows), (columns, tiles.columns), (depth, tiles.depth)
        )
    )  # fmt: skip
    tile = (tiles.rows, tiles.columns)
    packed = pack_constants((bias, constants))
    tile_spec = pl.BlockSpec(tile, lambda column, row: (row, column))
    found = pl.pallas_call(
        partial(
            _kernel, epilogue=epilogue, unpack=packed.unpack, slice_size=tiles.depth, by_row=by_row
        ),
        # Neighbours share rows of q: columns run first.
        grid=(width // tiles.columns, height // tiles.rows),
        in_specs=[
            pl.BlockSpec((tiles.rows, along), lambda column, row: (row, 0)),
            pl.BlockSpec((tiles.columns, along), lambda column, row: (column, 0)),
            pl.BlockSpec(packed.table.shape, lambda column, row: (0,)),
        ],
        out_specs=tile_spec,
        out_shape=jax.ShapeDtypeStruct((height, width), type_of(epilogue, tile, constants)),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="fused_linear",
    )(
        # Zeros up to whole tiles: they add nothing to a sum, and what they make is cut off.
        pad_to(q.reshape(rows, depth), (height, along)),
        pad_to(weight, (width, along)),
        packed.table,
    )
    return found[:rows, :columns].reshape(*lead, columns)


def _kernel(
    x: Any,
    w: Any,
    table: Any,
    out: Any,
    *,
    epilogue: Epilogue,
    unpack: Callable[..., Any],
    slice_size: int,
    by_row: bool,
) -> None:
    def add_slice(index: jax.Array, accumulators: jax.Array) -> jax.Array:
        along = pl.ds(index * slice_size, slice_size)
        product = lax.dot_general(
            x[:, along], w[:, along], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        return accumulators + product

    slices = x.shape[1] // slice_size
    accumulators = lax.fori_loop(0, slices, add_slice, jnp.zeros(out.shape, jnp.int32))
    size = out.shape[0 if by_row else 1]
    bias, constants = unpack(table, pl.program_id(1 if by_row else 0) * size, size)
    if by_row:
        bias, constants = jax.tree.map(
            lambda x: x.reshape(-1, 1) if x.ndim else x, (bias, constants)
        )
    if bias is not None:
        accumulators = accumulators + align(bias, 2)
    out[...] = epilogue(accumulators, constants)
