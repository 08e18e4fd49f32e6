"""Integer attention in one GPU kernel: no array of scores in memory, whatever the length.

The plain path writes, for every head, [T, T] int32 scores and uint8 numerators and reads them
again: for RoBERTa-base at 128 x 128 tokens 101 MB of scores a layer, for 32 x 512 tokens 403 MB.
Here a program has 32 queries of one head, walks over the keys and writes 32 rows of context,
already requantized; what remains is to read query, key and value (38 MB) and to write 13 MB.

This is exact by the definition of the softmax, not by luck. Its numerators are relative to the
row's *final* maximum, so the keys are walked over twice, once for the maximum, once for numerators,
their sum and their product with the values. (The single walk of float kernels, which rescales what
it has when a larger score turns up, would round elsewhere.) Maxima and integer sums do not depend
on how a row is cut; a key that is masked or padded gets no weight by selection; and the division by
the row sum comes last in the plain path too. The published softmax floors shares of the sum, so it
needs the sum first: a third walk. Where all keys fit one slice, nothing is computed twice.

Triton's ``dot`` takes signed operands only, so numerators n in [0, 255] travel as n - 128 and
128 sum_k v[k] is added: the sums by another product, with ones, which costs nothing where adding
them up would cost more than two operations a score.

25 M scores a layer take 69 us of an H200. A score is 40 instructions in the disassembled kernel,
which would fill 35 us; four fewer of them made no difference, values that need not be transposed
did (78 -> 72, both as a kernel alone).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ibert_jax.integer.dyadic import Folded, Multiplier, rescale
from ibert_jax.integer.pallas_constants import (
    SUMMED,
    pack_constants,
    pad_to,
    power_of_two,
    type_of,
)
from ibert_jax.integer.pallas_linear import Epilogue
from ibert_jax.integer.softmax import (
    LOWEST,
    MASKED,
    NUMERATOR_MAX,
    PUBLISHED_SUM,
    iexp,
    numerators_of,
    quotient_of,
    reciprocal_of,
    shares_of,
)
from ibert_jax.integer.wide import per_element


@dataclasses.dataclass(frozen=True)
class AttentionTiles:
    """How much one program holds: powers of two, at least 16; ``keys`` at least 32.

    Attributes:
        queries: rows of the results.
        keys: of a slice.
        warps: of 32 threads each.
        stages: slices in flight.
    """

    queries: int = 32
    keys: int = 128
    warps: int = 2
    stages: int = 2


DEFAULT_TILES = AttentionTiles()


def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    multiplier: Multiplier | Folded,
    epilogue: Epilogue,
    constants: Any,
    *,
    heads: int,
    slices: tuple[int, ...] = (0, 0),
    of: int = 1,
    kept_heads: jax.Array | None = None,
    published: bool = False,
    tiles: AttentionTiles = DEFAULT_TILES,
    interpret: bool = False,
) -> jax.Array:
    """epilogue(softmax(query . key) . value, constants), head by head.

    Args:
        query, key: int8 [B, T, of * H * D].
        value: int8 [H * D, B, T]: a product with the weights sums over tokens, which an
            instruction wants next to each other; here they would be transposed byte by byte.
        mask: bool [B, T], True for a key that counts.
        multiplier: scalars, narrow: from the scores' scale to ln2 / 2^11.
        epilogue: works element by element on int32 [R, C], the context in 2^-21 of a value's
            step; see ``pallas_linear``.
        constants: a pytree of int32 arrays, scalars or one value a channel [H * D].
        heads: H.
        slices: which H * D channels of query and key count: of one array that holds both, 0, 1.
        of: how many times H * D channels each of them has.
        kept_heads: bool [H], True for a head that counts; None, all do.
        published: whether the softmax is the published one (``softmax_reference``).
        tiles: how the work is cut; the results do not depend on it.
        interpret: run by Pallas' interpreter, on any platform.

    Returns:
        [B, T, H * D], of the epilogue's type: what ``softmax_numerators``, ``dot_u8_s8`` and
        ``divide_by_row_sum`` give.
    """
    batch, length = query.shape[:2]
    channels = query.shape[2] // of
    width = channels // heads
    depth = power_of_two(width, SUMMED)  # zeros in a dot product change nothing
    slice_size = min(tiles.keys, power_of_two(length, SUMMED))
    rows = min(tiles.queries, slice_size)
    padded = -(-length // slice_size) * slice_size

    def split(x: jax.Array) -> jax.Array:
        shape = (batch, length, of * heads, width)
        return pad_to(x.reshape(shape), (batch, padded, of * heads, depth))

    packed = pack_constants((multiplier, constants))
    if kept_heads is None:
        # Not all alike, or XLA would fill an array in each turn of a loop over layers.
        kept_heads = jnp.asarray(np.arange(1, heads + 1, dtype=np.int32))
    first = [index * heads for index in slices]
    tile = pl.BlockSpec((None, rows, None, depth), lambda i, h, b: (b, i, h, 0))
    queries = pl.BlockSpec((None, rows, None, depth), lambda i, h, b: (b, i, first[0] + h, 0))
    keys = pl.BlockSpec((None, padded, None, depth), lambda i, h, b: (b, 0, first[1] + h, 0))
    values = pl.BlockSpec((None, depth, None, padded), lambda i, h, b: (h, 0, b, 0))
    found = pl.pallas_call(
        partial(
            _kernel,
            epilogue=epilogue,
            unpack=packed.unpack,
            published=published,
            slice_size=slice_size,
            width=width,
        ),
        grid=(padded // rows, heads, batch),
        in_specs=[
            queries,
            keys,
            values,
            pl.BlockSpec((None, padded), lambda i, h, b: (b, 0)),
            pl.BlockSpec((1,), lambda i, h, b: (h,)),
            pl.BlockSpec(packed.table.shape, lambda i, h, b: (0,)),
        ],
        out_specs=tile,
        out_shape=jax.ShapeDtypeStruct(
            (batch, padded, heads, depth), type_of(epilogue, (rows, depth), constants)
        ),
        compiler_params=triton.CompilerParams(num_warps=tiles.warps, num_stages=tiles.stages),
        interpret=interpret,
        name="fused_attention",
    )(
        split(query),
        split(key),
        pad_to(value.reshape(heads, width, batch, length), (heads, depth, batch, padded)),
        pad_to(mask, (batch, padded)),
        kept_heads.astype(jnp.int32),
        packed.table,
    )
    return found[:, :length, :, :width].reshape(batch, length, channels)


def _kernel(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    kept_head: Any,
    table: Any,
    out: Any,
    *,
    epilogue: Epilogue,
    unpack: Callable[..., Any],
    published: bool,
    slice_size: int,
    width: int,
) -> None:
    multiplier, constants = unpack(table, pl.program_id(1) * width, out.shape[-1])
    queries = q[...]
    odd = kept_head[0] | 1  # LLVM, if it knew a mask's values, would select, with 15 registers more
    count = k.shape[0] // slice_size

    def scores(index: Any) -> tuple[jax.Array, jax.Array]:
        """[R, S] scores of a slice of keys, and 1 for each of them that counts, else 0, [1, S]."""
        along = pl.ds(index * slice_size, slice_size)
        counts = (mask[along].astype(jnp.int32) & odd).reshape(1, slice_size)
        found = lax.dot_general(
            queries, k[along, :], (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        return found, counts

    only = scores(0) if count == 1 else None

    def walk(body: Any, start: Any) -> Any:
        return body(0, start) if count == 1 else lax.fori_loop(0, count, body, start)

    def highest(index: Any, top: jax.Array) -> jax.Array:
        found, counts = only or scores(index)
        kept = found + (1 - counts) * MASKED  # below every score
        return jnp.maximum(top, jnp.max(kept, axis=1, keepdims=True))

    column = (queries.shape[0], 1)
    top = walk(highest, jnp.full(column, MASKED, jnp.int32))
    powers_below = _powers_below(top, multiplier)

    def sum_of(weights: jax.Array, total: jax.Array) -> jax.Array:
        return total + jnp.sum(weights, axis=1, keepdims=True, dtype=jnp.int32)

    nothing = jnp.zeros(column, jnp.int32)
    if published:

        def powers(index: Any) -> jax.Array:
            found, counts = only or scores(index)
            return powers_below(found) * counts

        total = walk(lambda index, total: sum_of(powers(index), total), nothing)
        shares = _reciprocal(jnp.maximum(total, 1))

    def signed_weights(index: Any) -> jax.Array:
        """Weights less 128."""
        if published:
            return shares_of(powers(index), *shares) - 128
        found, counts = only or scores(index)
        return numerators_of(powers_below(found), counts * NUMERATOR_MAX, less=128)

    def weigh(index: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        weights = signed_weights(index)
        values = v[:, pl.ds(index * slice_size, slice_size)]
        ones = jnp.ones(weights.shape, jnp.int8)
        product, surplus = (
            lax.dot_general(
                left, values, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
            )
            for left in (weights.astype(jnp.int8), ones)
        )
        return sum_of(weights, state[0]) + 128 * slice_size, state[1] + product + (surplus << 7)

    row_sum, context = walk(weigh, (nothing, jnp.zeros(out.shape, jnp.int32)))
    if published:
        row_sum = jnp.full(column, PUBLISHED_SUM, jnp.int32)
    shift, reciprocal = _reciprocal(jnp.maximum(row_sum, NUMERATOR_MAX))
    mean = quotient_of(context, shift, per_element(reciprocal, context))
    out[...] = epilogue(jnp.where(kept_head[0] != 0, mean, 0), constants)


def _powers_below(
    top: jax.Array, multiplier: Multiplier | Folded
) -> Callable[[jax.Array], jax.Array]:
    """What makes 2^15 exp of scores [R, S] less their row's largest [R, 1], where they are below.

    Folded, the largest goes into the addend.
    """
    if isinstance(multiplier, Folded):
        negative = multiplier.negative_below(top)
        return lambda scores: iexp(-jnp.clip(negative(scores), 0, -LOWEST))
    return lambda scores: iexp(jnp.clip(rescale(scores - top, multiplier, wide=False), LOWEST, 0))


def _reciprocal(n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Leading zeros and reciprocal of int32 ``n`` in [1, 2^31), as in ``softmax``.

    By int32 operations only: Triton counts no leading zeros of unsigned integers.
    """
    shift = lax.clz(n)
    return shift, reciprocal_of((n << (shift - 1)) >> 15)
