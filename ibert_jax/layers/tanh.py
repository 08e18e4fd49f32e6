"""tanh."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ibert_jax.layers.leaf import Leaf


class IntTanh(Leaf):
    """tanh."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x)
