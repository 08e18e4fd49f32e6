"""Initial values of parameters, drawn at once or left open until it is known who needs them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.checks import check_kind


def check_rngs(rngs: Any) -> None:
    """Refuse what gives no keys, such as a bare seed."""
    check_kind("rngs", rngs, nnx.Rngs, "nnx.Rngs(0)")


class LateRngs(nnx.Rngs):
    """Takes its keys from ``rngs``; what is initialised with it is a ``Late`` value.

    A checkpoint overwrites most of a model: drawing 125 million numbers for it takes seconds.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__()
        self.params = rngs.params


@dataclasses.dataclass(frozen=True, eq=False)
class Late:
    """A float32 parameter that has a shape and a key, and no values yet."""

    key: jax.Array
    shape: tuple[int, ...]
    spread: float
    dtype = jnp.dtype(jnp.float32)

    def draw(self) -> jax.Array:
        """The values that would have been drawn at once."""
        return self.spread * jax.random.normal(self.key, self.shape, jnp.float32)


def initial_normal(rngs: nnx.Rngs, shape: tuple[int, ...], spread: float) -> nnx.Param:
    """A parameter, float32 ``shape``, normal around 0 with standard deviation ``spread``.

    Args:
        rngs: the ``params`` stream gives the key.
    """
    late = Late(rngs.params(), shape, spread)
    return nnx.Param(late if isinstance(rngs, LateRngs) else late.draw())


def is_late(variable: nnx.Variable) -> bool:
    """Whether nobody has given the parameter values yet."""
    return isinstance(variable.get_value(), Late)


def draw_late(variable: nnx.Variable) -> None:
    """Draw the values of a parameter that nobody has given any, in place."""
    if is_late(variable):
        variable.set_value(variable.get_value().draw())
