"""Accuracy of a model on labelled sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from ibert_jax.quantize.tensor import value_of
from ibert_jax.training.batches import Batcher
from ibert_jax.training.state import Arrays, Skeleton, take_apart


class Accuracy(NamedTuple):
    """correct of total sentences got their label."""

    correct: int
    total: int

    @property
    def share(self) -> float:
        """correct / total."""
        return self.correct / self.total


Predict = Callable[[Arrays, Arrays, np.ndarray, np.ndarray], jax.Array]


def make_predict(model: nnx.Module) -> Predict:
    """A jitted function (params, others, input_ids, attention_mask) -> int32 [B], best labels.

    model: only its static side is used, in the life it is in; it should be in evaluation.
    """
    skeleton = Skeleton(model)

    def predict(params: Arrays, others: Arrays, ids: jax.Array, mask: jax.Array) -> jax.Array:
        joined: Any = skeleton.join(params, others)
        return value_of(joined(ids, attention_mask=mask, return_dict=True).logits).argmax(axis=-1)

    return jax.jit(predict)


def count_correct(predict: Predict, params: Arrays, others: Arrays, data: Batcher) -> Accuracy:
    """Run a function of `make_predict` over labelled sentences; filler rows do not count."""
    correct = 0
    for batch, members in data.in_order():
        best = np.asarray(predict(params, others, batch.input_ids, batch.attention_mask))
        correct += int((best == batch.labels)[: len(members)].sum())
    return Accuracy(correct, len(data.examples))


def evaluate(model: nnx.Module, data: Batcher) -> Accuracy:
    """The accuracy of a model, float or quantization-aware, in evaluation mode."""
    return count_correct(make_predict(model), *take_apart(model, copy=False), data)
