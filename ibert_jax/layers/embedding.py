"""The embedding table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.layers.leaf import Leaf


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of ``table`` [V, C] at ``ids`` [...]: [..., C]; ids are in range by contract."""
    return table.at[ids].get(mode="clip")


class QuantEmbedding(Leaf):
    """An embedding table: ``weight`` float32 [V, C]."""

    def __init__(
        self, rows: int, channels: int, *, initializer_range: float = 0.02, rngs: nnx.Rngs
    ) -> None:
        super().__init__()
        table = initializer_range * jax.random.normal(rngs.params(), (rows, channels), jnp.float32)
        self.weight = nnx.Param(table)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return look_up(self.weight[...], ids)
