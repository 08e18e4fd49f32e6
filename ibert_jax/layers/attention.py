"""The two matmuls of attention."""

from __future__ import annotations

import jax
from jax import lax

from ibert_jax.layers.leaf import Leaf


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, heads * D] -> [B, heads, T, D]."""
    batch, length, channels = x.shape
    return x.reshape(batch, length, heads, channels // heads).transpose(0, 2, 1, 3)


def merge_heads(x: jax.Array) -> jax.Array:
    """[B, heads, T, D] -> [B, T, heads * D]."""
    batch, heads, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


class AttentionScores(Leaf):
    """query . key for every head (softmax divides by sqrt(D))."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def __call__(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """query, key [B, T, H * D] -> scores [B, H, T, T]."""
        q, k = split_heads(query, self.heads), split_heads(key, self.heads)
        return lax.dot_general(q, k, (((3,), (3,)), ((0, 1), (0, 1))))


class AttentionContext(Leaf):
    """The attention-weighted mean of the values."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def __call__(self, probabilities: jax.Array, value: jax.Array) -> jax.Array:
        """probabilities [B, H, T, T], value [B, T, H * D] -> [B, T, H * D]."""
        v = split_heads(value, self.heads)
        context = lax.dot_general(probabilities, v, (((3,), (2,)), ((0, 1), (0, 1))))
        return merge_heads(context)
