"""The straight-through estimator: integers forward, the float operation's gradient backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def straight_through(
    surrogate: Callable[..., jax.Array], value: jax.Array, *inputs: jax.Array | None
) -> jax.Array:
    """``value`` in the forward pass; in the backward pass the gradient of ``surrogate(*inputs)``.

    Args:
        surrogate: the operation in floats, differentiable; it must not close over arrays that
            are being traced (hand those in as inputs).
        value: what the integers stand for, of the shape that ``surrogate`` returns.
        inputs: arrays; None and integer and bool ones get no gradient.
    """
    return _straight_through(surrogate, value, *inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(
    surrogate: Callable[..., jax.Array], value: jax.Array, *inputs: jax.Array | None
) -> Any:
    del surrogate, inputs
    return value


def _forward(
    surrogate: Callable[..., jax.Array], value: jax.Array, *inputs: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    del surrogate
    return value, inputs


def _backward(
    surrogate: Callable[..., jax.Array], inputs: tuple[jax.Array | None, ...], cotangent: jax.Array
) -> tuple[Any, ...]:
    _, pull_back = jax.vjp(surrogate, *inputs)
    return (jnp.zeros_like(cotangent), *pull_back(cotangent))


_straight_through.defvjp(_forward, _backward)
