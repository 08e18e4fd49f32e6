"""Losses of the heads, as the PyTorch models compute them."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, ignore: int = -100) -> jax.Array:
    """Mean over the labels that are not ``ignore`` of -log softmax(logits)[label].

    Args:
        logits: float32 [..., C].
        labels: integers [...] in [0, C) or ``ignore``.

    Returns:
        float32 scalar; 0 where every label is ignored (PyTorch: NaN).
    """
    counted = labels != ignore
    picked = jnp.where(counted, labels, 0)[..., None]
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    losses = -jnp.take_along_axis(log_probabilities, picked, axis=-1, mode="clip")[..., 0]
    count = jnp.maximum(jnp.sum(counted, dtype=jnp.int32), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(counted, losses, 0.0)) / count


def span_loss(
    start_logits: jax.Array, end_logits: jax.Array, start: jax.Array, end: jax.Array
) -> jax.Array:
    """Mean of the cross entropies of where an answer starts and where it ends.

    Args:
        start_logits, end_logits: float32 [B, T].
        start, end: int32 [B] or [B, 1]; clamped to 0..T, and T (the answer is not in this text)
            takes no part.
    """
    length = start_logits.shape[1]

    def loss(logits: jax.Array, positions: jax.Array) -> jax.Array:
        return cross_entropy(logits, jnp.clip(positions.reshape(-1), 0, length), ignore=length)

    return (loss(start_logits, start) + loss(end_logits, end)) / 2


def mean_squared_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of (logits - labels)^2 over two float32 arrays of one shape."""
    difference = logits - labels.astype(jnp.float32)
    return jnp.mean(difference * difference)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross entropy of float32 ``logits`` against 0/1 ``labels``, same shape."""
    targets = labels.astype(jnp.float32)
    return jnp.mean(jax.nn.softplus(logits) - targets * logits)
