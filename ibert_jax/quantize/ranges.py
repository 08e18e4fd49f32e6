"""Range statistics of activations: all that quantization learns besides the weights.

A range is a pair of float32 arrays ``x_min <= x_max``; an *empty* range (``+inf, -inf``) says
that nothing was ever observed, which is how an uncalibrated model is told from a calibrated
one.  Names and meaning follow the published checkpoints (``x_min``, ``x_max``, exponential
moving average with momentum 0.95, or the running minimum and maximum for momentum -1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class RangeStatistic(nnx.Variable):
    """A float32 range bound of an activation: learned by observing, never by gradient."""


def empty_bounds(shape: tuple[int, ...]) -> tuple[RangeStatistic, RangeStatistic]:
    """The range of nothing: (+inf, -inf) of ``shape`` (``()`` a tensor, ``(C,)`` channels)."""
    return (
        RangeStatistic(jnp.full(shape, jnp.inf, jnp.float32)),
        RangeStatistic(jnp.full(shape, -jnp.inf, jnp.float32)),
    )


def observed_bounds(value: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Smallest and largest element of ``value`` [..., C], float32.

    ``shape`` is ``()`` for one range or ``(C,)`` for a range per channel.
    """
    axes = tuple(range(value.ndim)) if shape == () else tuple(range(value.ndim - 1))
    return jnp.min(value, axes), jnp.max(value, axes)


def moving_bounds(
    old: tuple[jax.Array, jax.Array], new: tuple[jax.Array, jax.Array], momentum: float
) -> tuple[jax.Array, jax.Array]:
    """Advance a range by one observation.

    ``momentum`` in [0, 1): exponential moving average, the first observation taken as it is.
    ``momentum`` -1: the running minimum and maximum.
    """
    if momentum == -1:
        return jnp.minimum(old[0], new[0]), jnp.maximum(old[1], new[1])
    first = old[0] > old[1]
    kept = jnp.where(first, new[0], old[0]), jnp.where(first, new[1], old[1])
    low = momentum * kept[0] + (1 - momentum) * new[0]
    high = momentum * kept[1] + (1 - momentum) * new[1]
    return jnp.where(first, new[0], low), jnp.where(first, new[1], high)


def is_empty(x_min: jax.Array, x_max: jax.Array) -> bool:
    """Whether any part of a range is none: never observed, or NaN (host check, concrete arrays)."""
    return not np.all(np.asarray(x_min) <= np.asarray(x_max))
