"""The embedding table: int8 rows with a multiplier each."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.integer.barrier import materialized
from ibert_jax.layers.initial import initial_normal
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.constants import (
    RANGE_FLOOR,
    multiplier,
    reciprocal,
    round_to,
    scale_of_range,
    steps_per_unit,
)
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

OUTPUT_BITS = 16
RATIO_BITS = 12
"""Fractional bits of a row's multiplier: from its own 8-bit scale to the table's 16-bit one."""


def look_up(table: jax.Array, ids: jax.Array, padding_idx: int | None = None) -> jax.Array:
    """Rows of ``table`` [V, ...] at ``ids`` [...]; ids are in range by contract.

    No gradient reaches the row ``padding_idx`` of a float table [V, C].
    """
    rows = table.at[ids].get(mode="clip")
    if padding_idx is None:
        return rows
    return jnp.where((ids == padding_idx)[..., None], lax.stop_gradient(rows), rows)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerEmbedding:
    """The frozen table.

    Attributes:
        weight: int8 [V, C].
        ratio: int32 [V] in [0, 2^21): a row's scale over the output scale, times 2^12.
    """

    weight: jax.Array
    ratio: jax.Array

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int32 ids [B, T] -> int32 [B, T, C], at most 2^15 (1 + 2^-10): 8 + 21 bits inside."""
        rows = look_up(self.weight, ids).astype(jnp.int32)
        return to_output_scale(rows, look_up(self.ratio, ids)[..., None])

    def rows(self, q: jax.Array) -> jax.Array:
        """Rows that come from outside, int32 [B, T, C] as ``quantize_rows`` makes them."""
        return q


def to_output_scale(rows: jax.Array, ratio: jax.Array) -> jax.Array:
    """Rows int32 [..., C] with their multipliers, int32, to the scale of the table's results."""
    wide = rows * ratio
    return (wide + 2 ** (RATIO_BITS - 1)) >> RATIO_BITS


def quantize_embedding(
    weight: jax.Array, bits: int, per_row: bool
) -> tuple[IntegerEmbedding, jax.Array]:
    """Integers of a table, float32 [V, C]: per row or (as published) per tensor.

    Returns:
        The integer leaf and the scale of its 16-bit results, a float32 scalar.
    """
    largest = jnp.max(jnp.abs(weight), axis=1)
    limit = jnp.max(largest)
    rows = largest if per_row else jnp.broadcast_to(limit, largest.shape)
    steps, ratio, output = _row_constants(rows, limit, bits=bits)
    integers = round_to(weight, steps[:, None], 2 ** (bits - 1) - 1).astype(jnp.int8)
    return IntegerEmbedding(integers, ratio), output


def quantize_rows(
    rows: jax.Array, output: jax.Array, bits: int = 8, per_row: bool = True
) -> jax.Array:
    """Rows that are not of the table, made integers as the table's own are.

    Args:
        rows: float32 [B, T, C]; saturates at the table's largest element.
        output: the table's scale, as ``quantize_embedding`` returns it.
        bits, per_row: of the table.

    Returns:
        int32 [B, T, C] at the scale ``output``: for rows of the table, what a look-up gives.
    """
    limit = output * 2.0 ** (OUTPUT_BITS - 1)
    largest = jnp.minimum(jnp.max(jnp.abs(rows), axis=-1), limit)
    largest = largest if per_row else jnp.broadcast_to(limit, largest.shape)
    steps, ratio, _ = _row_constants(largest, limit, bits=bits)
    integers = round_to(rows, steps[..., None], 2 ** (bits - 1) - 1)
    return to_output_scale(integers, ratio[..., None])


@materialized
def _row_constants(
    rows: jax.Array, limit: jax.Array, *, bits: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Steps per unit and ratio of rows, from the largest element of each; the output's scale.

    ``limit`` is the largest element of the table, no less than any of ``rows``.
    """
    output = scale_of_range(limit, bits=OUTPUT_BITS)
    steps = steps_per_unit(jnp.maximum(rows, RANGE_FLOOR), bits=bits)
    constants = multiplier(reciprocal(steps), output, wide=True)
    assert constants.pre is not None
    # m 2^-(32 + shift - pre) is the ratio, wanted at 12 fractional bits.
    right = 32 - RATIO_BITS + constants.shift - constants.pre
    ratio = (jnp.right_shift(constants.m, jnp.clip(right - 1, 0, 31)) + 1) >> 1
    return steps, ratio, output


class QuantEmbedding(Leaf):
    """An embedding table: ``weight`` float32 [V, C].

    Args:
        rows: V.
        channels: C.
        initializer_range: standard deviation of the initial rows.
        per_row: a scale per row rather than one for the table.
        bits: width of the integers.
        padding_idx: a row to which look-ups send no gradient, as in PyTorch.
        rngs: the ``params`` stream draws the initial table.
    """

    def __init__(
        self,
        rows: int,
        channels: int,
        *,
        initializer_range: float = 0.02,
        per_row: bool = True,
        bits: int = 8,
        padding_idx: int | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__()
        self.per_row = per_row
        self.bits = bits
        self.padding_idx = padding_idx
        self.weight = initial_normal(rngs, (rows, channels), initializer_range)

    def scale(self) -> jax.Array:
        """The scale of the table's 16-bit integers, a short float32 scalar."""
        return quantize_embedding(lax.stop_gradient(self.weight[...]), self.bits, self.per_row)[1]

    def __call__(self, ids: jax.Array) -> jax.Array | QuantizedTensor:
        """int32 ids [B, T] -> [B, T, C]."""
        weight, surrogate = self.weight[...], partial(look_up, padding_idx=self.padding_idx)
        if not self.quantized:
            return surrogate(weight, ids)
        integer, scale = quantize_embedding(lax.stop_gradient(weight), self.bits, self.per_row)
        q = self.record(integer)(ids)
        value = straight_through(surrogate, dequantize(q, scale), weight, ids)
        return QuantizedTensor(q, scale, value)

    def rows(self, rows: jax.Array) -> jax.Array | QuantizedTensor:
        """Rows [B, T, C] that take the place of looked up ones, in their format."""
        if not self.quantized:
            return rows
        scale = self.scale()
        q = quantize_rows(lax.stop_gradient(rows), scale, self.bits, self.per_row)
        return QuantizedTensor(q, scale, straight_through(lambda x: x, dequantize(q, scale), rows))
