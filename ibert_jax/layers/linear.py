"""The linear layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.layers.leaf import Leaf


def linear(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """``x @ weight.T + bias`` in float32: x [..., K], weight [N, K], bias [N] -> [..., N]."""
    product = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return product + jnp.reshape(bias, (1,) * (x.ndim - 1) + (-1,))


class QuantLinear(Leaf):
    """A linear layer whose matmul is int8 x int8 -> int32 once quantized.

    Args:
        in_features: K, the input channels.
        out_features: N, the output channels.
        initializer_range: standard deviation of the initial weights.
        per_channel: a weight scale per output channel; one for all where the int32 results
            must be comparable among themselves (logits).
        rngs: the ``params`` stream draws the initial weight.

    ``weight`` float32 [N, K] and ``bias`` float32 [N] are laid out as in PyTorch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        initializer_range: float = 0.02,
        per_channel: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__()
        self.per_channel = per_channel
        weight = initializer_range * jax.random.normal(
            rngs.params(), (out_features, in_features), jnp.float32
        )
        self.weight = nnx.Param(weight)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return linear(x, self.weight[...], self.bias[...])
