"""Quantization-aware training with a loop of one's own: plain functions on an NNX model and optax.

`ibert-jax train` does all of this and more; who studies quantization starts here. Every part may be
another: the calibration, the observers, the optimizer, what of the model is quantized.
"""

from typing import Any

import jax
import optax
from flax import nnx

import ibert_jax as ib


def train(model: Any, batches: list[dict[str, Any]], freeze_at: int) -> list[float]:
    """Train a model with a head in place, its ranges until step `freeze_at`; returns the losses.

    batches: the model's arguments, `labels` among them.
    """
    ib.calibrate(model, [{n: x for n, x in batch.items() if n != "labels"} for batch in batches])
    ib.set_observers(model, "ema", momentum=0.9)
    model.train()
    optimizer = nnx.Optimizer(model, optax.adamw(3e-3), wrt=nnx.Param)

    @nnx.jit
    def train_step(model: Any, optimizer: Any, batch: Any, key: jax.Array) -> jax.Array:
        def loss_of(model: Any) -> jax.Array:
            return model(**batch, rngs=nnx.Rngs(dropout=key)).loss

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    losses = []
    for step, batch in enumerate(batches):
        if step == freeze_at:
            ib.set_observers(model, "frozen")
        losses.append(float(train_step(model, optimizer, batch, jax.random.key(step))))
    model.eval()
    return losses
