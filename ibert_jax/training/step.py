"""One training step: a single jitted function whose arrays are updated in place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ibert_jax.training.batches import Batch
from ibert_jax.training.kinds import Summed
from ibert_jax.training.sharding import Sharing
from ibert_jax.training.state import Arrays, Skeleton, TrainState, take_apart

_GENERATOR = "rbg"
"""Of the dropout bits: XLA's own generator, several times as fast on a CPU as JAX's default. For
one backend and version its bits depend on the key alone, which is what resuming needs."""
_BFLOAT16 = "BF16_BF16_F32"
"""Products of operands rounded to bfloat16, summed in float32, where the hardware has them."""

Loss = Callable[[Any, dict[str, jax.Array], jax.Array], Summed]
"""(the model's output, targets, weights [B]) -> sum of the losses, how many were summed."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, jax.Array]]


def dropout_key(seed: int, stage: int) -> jax.Array:
    """The key of a stage; step n uses this key folded with n, whenever the run was resumed."""
    return jax.random.fold_in(jax.random.key(seed, impl=_GENERATOR), stage)


def initial_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before a stage's first step."""
    params, others = take_apart(model, copy=True)
    return TrainState(params, others, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    loss: Loss,
    *,
    parts: int = 1,
    bfloat16: bool = False,
    sharing: Sharing | None = None,
) -> TrainStep:
    """A function (state, batch) -> (next state, mean loss) for the model's present life.

    The state handed in is donated: use it no more. One compilation for each shape of a batch.

    Args:
      model: its static side is used (set dropout and observers beforehand), never its arrays.
      optimizer: over a dict of named parameters.
      key: see `dropout_key`.
      loss: of the task's kind.
      parts: into how many equal parts a batch is cut, computed one after the other, to save
        memory. A step stays a step of the optimizer on the gradient of the whole batch; schedule,
        data order and checkpoints know nothing of parts. (`optax.MultiSteps` would make a step of
        each part, and of batches of different lengths a mean of unequal means.) Dropout draws
        anew and ranges move on with every part.
      bfloat16: let GPUs and TPUs round the operands of matmuls to bfloat16; sums, activations,
        parameters and the optimizer's state stay float32. CPUs compute as without.
      sharing: the devices that share a batch's rows; the state is replicated on them. Dropout
        draws other bits for another number of devices.
    """
    skeleton = Skeleton(model)

    def mean_loss(
        params: Arrays, others: Arrays, batch: dict[str, Any], dropout: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Arrays]]:
        joined: Any = skeleton.join(params, others)
        output = joined(**batch["inputs"], return_dict=True, rngs=nnx.Rngs(dropout=dropout))
        total, count = loss(output, batch["targets"], batch["weights"])
        return total / jnp.maximum(count, 1.0), (count, take_apart(joined, copy=False)[1])

    graded = jax.value_and_grad(mean_loss, has_aux=True)

    def graded_in_parts(
        params: Arrays, others: Arrays, batch: dict[str, Any], dropout: jax.Array
    ) -> tuple[tuple[jax.Array, tuple[jax.Array, Arrays]], Arrays]:
        # Part k has the rows k, k + parts, ...: where devices share the rows, none has to move.
        cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(carry: tuple[Any, ...], part: tuple[Any, jax.Array]) -> tuple[Any, None]:
            others, total, counted, sums = carry
            (mean, (count, others)), gradients = graded(params, others, *part)
            sums = jax.tree.map(lambda x, more: x + count * more, sums, gradients)
            return (others, total + count * mean, counted + count, sums), None

        zero = jnp.float32(0)
        start = (others, zero, zero, jax.tree.map(jnp.zeros_like, params))
        keys = jax.random.split(dropout, parts)
        (others, total, counted, sums), _ = jax.lax.scan(add, start, (cut, keys))
        least = jnp.maximum(counted, 1.0)
        return (total / least, (counted, others)), jax.tree.map(lambda x: x / least, sums)

    def step(
        state: TrainState, batch: dict[str, Any], key: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        dropout = jax.random.fold_in(key, state.step)
        with jax.default_matmul_precision(_BFLOAT16) if bfloat16 else nullcontext():
            (mean, (_, others)), gradients = (graded if parts == 1 else graded_in_parts)(
                state.params, state.others, batch, dropout
            )
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        return TrainState(params, others, moments, state.step + 1), mean

    placed: dict[str, Any] = {}
    if sharing is not None:
        placed["out_shardings"] = sharing.everywhere
        # Computed where it is wanted: a key cannot be put on devices of other processes.
        key = jax.jit(lambda given=key: given, out_shardings=sharing.everywhere)()
    jitted = jax.jit(step, donate_argnums=0, **placed)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        arrays = vars(batch) if sharing is None else sharing.share(vars(batch))
        # An argument, not a constant: runs of other seeds find the step compiled.
        return jitted(state, arrays, key)

    train_step.jitted = jitted  # type: ignore[attr-defined]
    return train_step
