"""A model taken apart into arrays by name, as training, checkpoints and jit want it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

Arrays = dict[str, jax.Array]


class TrainState(NamedTuple):
    """Everything a training step changes.

    params: parameters by name, float32. others: the model's other variables by name (activation
    ranges). optimizer: optax's state. step: int32 scalar, steps done in the stage.
    """

    params: Arrays
    others: Arrays
    optimizer: Any
    step: jax.Array


class Skeleton:
    """A model without its arrays: `join` puts arrays in, inside jit or outside.

    What is static in the model (its life, dropout on or off) is fixed when the skeleton is taken.
    """

    def __init__(self, model: nnx.Module) -> None:
        self._graph, *states = nnx.split(model, nnx.Param, ...)
        self._paths = [
            {name: path for name, (path, _) in _by_name(state).items()} for state in states
        ]

    def join(self, params: Arrays, others: Arrays) -> Any:
        """A model over the given arrays."""
        return nnx.merge(self._graph, *self._states(params, others))

    def put_into(self, model: nnx.Module, params: Arrays, others: Arrays) -> None:
        """Set the variables of the model, in place, to copies of the given arrays."""
        nnx.update(model, *self._states(_copies(params), _copies(others)))

    def _states(self, *arrays: Arrays) -> list[nnx.State]:
        return [
            nnx.from_flat_state([(path, named[name]) for name, path in paths.items()])
            for paths, named in zip(self._paths, arrays, strict=True)
        ]


def take_apart(model: nnx.Module, *, copy: bool) -> tuple[Arrays, Arrays]:
    """The model's parameters and its other variables, by name (`a.b.0.weight`).

    copy: whether the arrays may be given away (donated) without harm to the model.
    """
    _, *states = nnx.split(model, nnx.Param, ...)
    params, others = (
        {name: variable[...] for name, (_, variable) in _by_name(state).items()} for state in states
    )
    return (_copies(params), _copies(others)) if copy else (params, others)


def _by_name(state: nnx.State) -> dict[str, tuple[tuple[Any, ...], Any]]:
    return {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}


def _copies(arrays: Arrays) -> Arrays:
    return {name: jnp.array(array, copy=True) for name, array in arrays.items()}
