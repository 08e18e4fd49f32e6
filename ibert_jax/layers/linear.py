"""The linear layer: int8 weights, int32 biases and accumulators (Kim et al., section 3.1)."""

from __future__ import annotations

import dataclasses
from typing import overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.integer.barrier import materialized
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.layers.initial import initial_normal
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.constants import reciprocal, round_to, steps_per_unit
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

BIAS_LIMIT = 2**30
SMALLEST_ROW = 2.0**-60
"""Rows whose largest weight (times the input's scale) is below this count as zeros."""


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """``x @ weight.T + bias`` in float32: x [..., K], weight [N, K], bias [N] -> [..., N]."""
    product = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return product + jnp.reshape(bias, (1,) * (x.ndim - 1) + (-1,))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerLinear:
    """The frozen linear layer.

    Attributes:
        weight: int8 [N, K] in [-127, 127]; the input's scale is already in it. In a scan over
            layers it may be ``OneOf`` their weights.
        bias: int32 [N], |bias| <= 2^30, in units of the accumulator's scale.
        shifted_bias: int32 [N], bias - 128 sum_k weight[n, k] (inputs that travel as uint8).
    """

    weight: jax.Array
    bias: jax.Array
    shifted_bias: jax.Array

    def __call__(self, q: jax.Array) -> jax.Array:
        """int8 [..., K] -> int32 [..., N]."""
        return int8_linear(q, self.weight, self.bias, self.shifted_bias)


def quantize_linear(
    weight: jax.Array, bias: jax.Array, input_scale: jax.Array, bits: int, per_channel: bool
) -> tuple[IntegerLinear, jax.Array]:
    """Integers of a linear layer for an input of the given scale.

    The input's scale (scalar or [K]) is absorbed by the weight, so that channels may have
    scales of their own; the accumulator's scale then belongs to the output channels alone. A
    row so small that its bias would overflow int32 gets a larger scale.

    Args:
        weight: float32 [N, K].
        bias: float32 [N].
        input_scale: short float32, scalar or [K].
        bits: weight width, 2 to 8.
        per_channel: a scale per row, or one for all.

    Returns:
        The integer leaf and the accumulator's scale, float32 [N] or scalar.
    """
    limit = 2 ** (bits - 1) - 1
    scale = jnp.broadcast_to(input_scale, weight.shape[1:])[None, :]
    largest = jnp.max(jnp.abs(weight * scale), axis=1)
    # |bias| * steps <= 2^30 * (127 / 2^23) / limit: far from overflow for every width.
    largest = jnp.maximum(largest, jnp.abs(bias) * (limit / 127 * 2.0**-23))
    largest = jnp.maximum(largest if per_channel else jnp.max(largest), SMALLEST_ROW)
    steps, accumulator_scale = _steps_and_scale(largest, bits=bits)
    rows = jnp.broadcast_to(steps, weight.shape[:1])
    integers = round_to(weight, scale * rows[:, None], limit).astype(jnp.int8)
    bias_integers = round_to(bias, rows, BIAS_LIMIT)
    leaf = IntegerLinear(integers, bias_integers, shift_bias(integers, bias_integers))
    return leaf, accumulator_scale


@materialized
def _steps_and_scale(largest: jax.Array, *, bits: int) -> tuple[jax.Array, jax.Array]:
    steps = steps_per_unit(largest, bits=bits)
    return steps, reciprocal(steps)


class QuantLinear(Leaf):
    """A linear layer whose matmul is int8 x int8 -> int32 once quantized.

    Args:
        in_features: K, the input channels.
        out_features: N, the output channels.
        initializer_range: standard deviation of the initial weights.
        per_channel: a weight scale per output channel; one for all where the int32 results
            must be comparable among themselves (logits).
        bits: width of the integer weights.
        rngs: the ``params`` stream draws the initial weight.

    ``weight`` float32 [N, K] and ``bias`` float32 [N] are laid out as in PyTorch. Quantized,
    the input is an int8 tensor with a short scale, and the result an int32 one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initializer_range: float = 0.02,
        per_channel: bool = True,
        bits: int = 8,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.bits = bits
        self.weight = initial_normal(rngs, (out_features, in_features), initializer_range)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    @overload
    def __call__(self, x: jax.Array) -> jax.Array: ...
    @overload
    def __call__(self, x: QuantizedTensor) -> QuantizedTensor: ...
    def __call__(self, x: jax.Array | QuantizedTensor) -> jax.Array | QuantizedTensor:
        weight, bias = self.weight[...], self.bias[...]
        if not isinstance(x, QuantizedTensor):
            return linear(x, weight, bias)
        integer, scale = quantize_linear(
            lax.stop_gradient(weight), lax.stop_gradient(bias), x.scale, self.bits, self.per_channel
        )
        q = self.record(integer)(x.q)
        value = straight_through(linear, dequantize(q, scale), x.value, weight, bias)
        return QuantizedTensor(q, scale, value)
