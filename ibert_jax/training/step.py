"""One training step: a single jitted function whose arrays are updated in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ibert_jax.training.batches import Batch
from ibert_jax.training.state import Arrays, Skeleton, TrainState, take_apart

_GENERATOR = "rbg"
"""Of the dropout bits: XLA's own generator, several times as fast on a CPU as JAX's default. For
one backend and version its bits depend on the key alone, which is what resuming needs."""

Loss = Callable[[Any, dict[str, jax.Array], jax.Array], jax.Array]
"""(the model's output, targets, weights [B]) -> float32 scalar."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def dropout_key(seed: int, stage: int) -> jax.Array:
    """The key of a stage; step n uses this key folded with n, whenever the run was resumed."""
    return jax.random.fold_in(jax.random.key(seed, impl=_GENERATOR), stage)


def initial_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before a stage's first step."""
    params, others = take_apart(model, copy=True)
    return TrainState(params, others, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    model: nnx.Module, optimizer: optax.GradientTransformation, key: jax.Array, loss: Loss
) -> TrainStep:
    """A function (state, batch) -> (next state, loss) for the model's present life.

    model: its static side is used (set dropout and observers beforehand), never its arrays.
    optimizer: over a dict of named parameters. key: see `dropout_key`. loss: of the task's kind.

    The state handed in is donated: use it no more. One compilation for each shape of a batch.
    """
    skeleton = Skeleton(model)

    def loss_of(
        params: Arrays, others: Arrays, batch: dict[str, Any], dropout: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        joined: Any = skeleton.join(params, others)
        output = joined(**batch["inputs"], return_dict=True, rngs=nnx.Rngs(dropout=dropout))
        found = loss(output, batch["targets"], batch["weights"])
        return found, take_apart(joined, copy=False)[1]

    def step(
        state: TrainState, batch: dict[str, Any], key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        dropout = jax.random.fold_in(key, state.step)
        (mean, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.others, batch, dropout
        )
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return TrainState(params, others, moments, state.step + 1), mean

    jitted = jax.jit(step, donate_argnums=0)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        # An argument, not a constant: runs of other seeds find the step compiled.
        return jitted(state, vars(batch), key)

    train_step.compilations = jitted._cache_size  # type: ignore[attr-defined]
    return train_step
