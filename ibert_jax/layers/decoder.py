"""The decoder of a language model: the embedding table once more, as a linear layer."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.integer.barrier import materialized
from ibert_jax.integer.dyadic import Multiplier, pack, rescale, unpack
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.layers.embedding import IntegerEmbedding, QuantEmbedding, quantize_embedding
from ibert_jax.layers.leaf import Leaf
from ibert_jax.layers.linear import linear
from ibert_jax.quantize.constants import (
    RANGE_FLOOR,
    multiplier,
    reciprocal,
    short_up,
    steps_per_unit,
)
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

LOGIT_BITS = 28
"""Magnitude of the largest product that any input can give, in bits: far above the 20 or so that
a vocabulary's logits need to be told apart, two below what a multiplier can hand out."""
BIAS_BITS = 26
"""Magnitude of the largest bias, in bits."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerDecoder:
    """The frozen decoder; the int8 weights are those of the embedding and not stored again.

    A row's accumulator has the row's own scale. Logits are compared among themselves, so each is
    brought to one common scale, and the bias is added on the way.

    Attributes:
        multiplier: narrow, one per row [V]; its offset is the bias.
        shifted_bias: int32 [V], -128 sum_k weight[v, k] (inputs that travel as uint8).
    """

    multiplier: Multiplier
    shifted_bias: jax.Array

    def __call__(self, q: jax.Array, table: IntegerEmbedding) -> jax.Array:
        """int8 [..., C], table [V, C] -> int32 [..., V], below 2^30."""
        zero = jnp.zeros_like(self.shifted_bias)
        accumulated = int8_linear(q, table.weight, zero, self.shifted_bias)
        return rescale(accumulated, self.multiplier, wide=False)


class QuantDecoder(Leaf):
    """``x @ table.T + bias``: the logits of every vocabulary entry.

    Args:
        vocabulary: V.

    ``bias`` float32 [V]. Quantized, the input is an int8 tensor with one short scale: the table
    is shared with the look-up, so it cannot absorb a scale per channel.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.bias = nnx.Param(jnp.zeros((vocabulary,), jnp.float32))

    def __call__(
        self, x: jax.Array | QuantizedTensor, table: QuantEmbedding
    ) -> jax.Array | QuantizedTensor:
        """Tensor [..., C] -> [..., V]."""
        weight, bias = table.weight[...], self.bias[...]
        if not isinstance(x, QuantizedTensor):
            return linear(x, weight, bias)
        fixed = lax.stop_gradient(weight)
        integers, _ = quantize_embedding(fixed, table.bits, table.per_row)
        largest = jnp.max(jnp.abs(fixed), axis=1)
        if not table.per_row:
            largest = jnp.broadcast_to(jnp.max(largest), largest.shape)
        packed, scale = _constants(
            largest, x.scale, lax.stop_gradient(bias), bits=table.bits, channels=weight.shape[1]
        )
        shifted = shift_bias(integers.weight, jnp.zeros_like(integers.ratio))
        q = self.record(IntegerDecoder(unpack(packed), shifted))(x.q, integers)
        value = straight_through(linear, dequantize(q, scale), x.value, weight, bias)
        return QuantizedTensor(q, scale, value)


@materialized
def _constants(
    largest: jax.Array, scale: jax.Array, bias: jax.Array, *, bits: int, channels: int
) -> tuple[jax.Array, jax.Array]:
    """Packed multiplier of each row, from its largest weight, and the common scale."""
    steps = steps_per_unit(jnp.maximum(largest, RANGE_FLOOR), bits=bits)
    accumulator = reciprocal(steps) * scale
    # The sum of C products of at most 2^7 times 2^(bits - 1) takes this many bits.
    width = (channels << (6 + bits)).bit_length()
    finest = jnp.max(accumulator) * 2.0 ** (width - LOGIT_BITS)
    common = short_up(jnp.maximum(finest, jnp.max(jnp.abs(bias)) * 2.0**-BIAS_BITS))
    return pack(multiplier(accumulator, common, wide=False, offset=bias)), common
