"""Softmax."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ibert_jax.layers.leaf import Leaf


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the keys that ``mask`` [B, 1, 1, T] (bool) keeps; others get exactly 0.

    A row with no key at all is all zeros.
    """
    kept = jnp.where(mask, scores, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.max(kept, axis=-1, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    powers = jnp.where(mask, jnp.exp(jnp.where(mask, scores - peak, 0.0)), 0.0)
    return powers / jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True), 1e-30)


class IntSoftmax(Leaf):
    """Softmax of attention scores.

    Args:
        width: D, the channels of a head; the scores are divided by sqrt(D).
        scheme: ``channel`` or ``reference``, whose integer softmax is the published one.
    """

    def __init__(self, width: int, scheme: str) -> None:
        super().__init__()
        self.width = width
        self.scheme = scheme

    def __call__(self, scores: jax.Array, mask: jax.Array) -> jax.Array:
        return masked_softmax(scores / math.sqrt(self.width), mask)
