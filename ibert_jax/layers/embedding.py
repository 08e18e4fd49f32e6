"""The embedding table: int8 rows with a multiplier each."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.integer.barrier import materialized
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


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of ``table`` [V, ...] at ``ids`` [...]; ids are in range by contract."""
    return table.at[ids].get(mode="clip")


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
        wide = rows * look_up(self.ratio, ids)[..., None]
        return (wide + 2 ** (RATIO_BITS - 1)) >> RATIO_BITS


def quantize_embedding(
    weight: jax.Array, bits: int, per_row: bool
) -> tuple[IntegerEmbedding, jax.Array]:
    """Integers of a table, float32 [V, C]: per row or (as published) per tensor.

    Returns:
        The integer leaf and the scale of its 16-bit results, a float32 scalar.
    """
    largest = jnp.max(jnp.abs(weight), axis=1)
    rows = largest if per_row else jnp.broadcast_to(jnp.max(largest), largest.shape)
    steps, ratio, output = _row_constants(rows, bits=bits)
    integers = round_to(weight, steps[:, None], 2 ** (bits - 1) - 1).astype(jnp.int8)
    return IntegerEmbedding(integers, ratio), output


@materialized
def _row_constants(rows: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Steps per unit and ratio of each row, from its largest element; the output's scale."""
    output = scale_of_range(jnp.max(rows), bits=OUTPUT_BITS)
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
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__()
        self.per_row = per_row
        self.bits = bits
        table = initializer_range * jax.random.normal(rngs.params(), (rows, channels), jnp.float32)
        self.weight = nnx.Param(table)

    def __call__(self, ids: jax.Array) -> jax.Array | QuantizedTensor:
        """int32 ids [B, T] -> [B, T, C]."""
        weight = self.weight[...]
        if not self.quantized:
            return look_up(weight, ids)
        integer, scale = quantize_embedding(lax.stop_gradient(weight), self.bits, self.per_row)
        q = self.record(integer)(ids)
        value = straight_through(look_up, dequantize(q, scale), weight, ids)
        return QuantizedTensor(q, scale, value)
