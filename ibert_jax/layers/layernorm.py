"""Layer normalization (Kim et al., section 3.6)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.integer.layernorm import FRACTION_BITS, MAX_CHANNELS, normalize
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.constants import Number, divide, multiply, number
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, round_onto


def layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, eps: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis, float32."""
    shape = (1,) * (x.ndim - 1) + (-1,)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + eps) * weight.reshape(shape) + bias.reshape(shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerLayerNorm:
    """The frozen normalization; weight and bias are in the constants of what reads it.

    Attributes:
        eps_mantissa, eps_exponent: int32 scalars, C eps in squared input steps.
    """

    eps_mantissa: jax.Array
    eps_exponent: jax.Array

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., C], 20 bits -> int32 [..., C] with 14 fractional bits."""
        return normalize(q, self.eps_mantissa, self.eps_exponent)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatLayerNorm:
    """A frozen normalization that was left in float (``force_dequant``), integers around it.

    Attributes:
        scale: float32 scalar, the input's.
        eps: float32 scalar, in the square of the input's units.
    """

    scale: jax.Array
    eps: jax.Array

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., C] -> int32 [..., C] with 14 fractional bits."""
        channels = q.shape[-1]
        normal = layer_norm(
            dequantize(q, self.scale), jnp.ones(channels), jnp.zeros(channels), self.eps
        )
        # No element of C lies farther than sqrt(C - 1) standard deviations from their mean.
        return round_onto(normal, 2.0**FRACTION_BITS, math.isqrt(channels << 2 * FRACTION_BITS))


def quantize_eps(eps: jax.Array, channels: int, scale: jax.Array) -> IntegerLayerNorm:
    """C eps / scale^2 as a number: ``scale`` short float32 scalar, the input's."""
    squared = multiply(number(eps), number(jnp.float32(channels)))
    n: Number = divide(divide(squared, scale), scale)
    absent = (n.mantissa == 0) | (n.exponent < -64)
    return IntegerLayerNorm(
        jnp.where(absent, 0, n.mantissa.astype(jnp.int32)),
        jnp.where(absent, -64, jnp.minimum(n.exponent, 60)),
    )


class IntLayerNorm(Leaf):
    """Layer normalization over the last axis: ``weight`` and ``bias`` float32 [C].

    Quantized, it returns the normalized integers with the weight as their scale and the bias
    as their offset: both are applied, per channel and at no cost, by whatever requantizes
    them, so that a weight of zero is nothing special (published code divides by it).

    Args:
        channels: C.
        eps: what is added to the variance.
        in_float: whether it stays in float once quantized (``force_dequant``).

    Raises:
        ValueError: more channels than sum in 32 bits.
    """

    def __init__(self, channels: int, eps: float, *, in_float: bool = False) -> None:
        if channels > MAX_CHANNELS:
            raise ValueError(
                f"expected a LayerNorm of at most {MAX_CHANNELS} channels, whose integers sum in "
                f"32 bits, got {channels}"
            )
        super().__init__()
        self.eps = eps
        self.in_float = in_float
        self.weight = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: jax.Array | QuantizedTensor) -> jax.Array | QuantizedTensor:
        weight, bias, eps = self.weight[...], self.bias[...], jnp.float32(self.eps)
        if not isinstance(x, QuantizedTensor):
            return layer_norm(x, weight, bias, eps)
        if self.in_float:
            frozen = FloatLayerNorm(x.scale, eps)
        else:
            frozen = quantize_eps(eps, weight.shape[0], x.scale)
        q = self.record(frozen)(x.q)
        scale = lax.stop_gradient(weight) * 2.0**-FRACTION_BITS
        offset = lax.stop_gradient(bias)
        value = straight_through(
            layer_norm, dequantize(q, scale, offset), x.value, weight, bias, eps
        )
        return QuantizedTensor(q, scale, value, offset)
