"""Dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.layers.leaf import Leaf


class Dropout(Leaf):
    """Zeroes elements with probability ``rate`` while training and scales up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError(
                "the model is in training mode, so a call needs dropout keys; got rngs=None: "
                "pass rngs=nnx.Rngs(dropout=key), or call model.eval() first"
            )
        keep = jax.random.bernoulli(rngs.dropout(), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0.0)
