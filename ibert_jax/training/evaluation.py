"""Answers of a model in any of its lives, and how good they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.frozen import IntegerModel
from ibert_jax.integer.compiled import jit_program
from ibert_jax.layers.leaf import check_answering
from ibert_jax.training.batches import Batch, Batcher
from ibert_jax.training.kinds import kind_of
from ibert_jax.training.sharding import Sharing
from ibert_jax.training.state import Arrays, Skeleton, take_apart
from ibert_jax.training.tasks import Task

Answer = Callable[[Batch], dict[str, jax.Array]]
"""What is needed of the model's output for a batch, by name, [B, ...]."""
Predict = Callable[[Arrays, Arrays, dict[str, Any], dict[str, Any]], dict[str, jax.Array]]


@dataclass(frozen=True)
class Evaluation:
    """What a model said and how good it is.

    answers: one an example, in the examples' order: a label's index, a number, tags, a text; for
    masked language modelling, what its measures need. measures: by name; `Task.metric` says which
    of them count, `primary` is their mean.
    """

    answers: list[Any]
    measures: dict[str, float]
    primary: float


def make_predict(model: nnx.Module, task: Task) -> Predict:
    """A jitted function (params, others, inputs, targets) -> arrays of the task's kind.

    model: only its static side is used, in the life it is in; it should be in evaluation.
    """
    skeleton, raw = Skeleton(model), kind_of(task).raw

    def predict(
        params: Arrays, others: Arrays, inputs: dict[str, Any], targets: dict[str, Any]
    ) -> dict[str, jax.Array]:
        joined: Any = skeleton.join(params, others)
        return raw(joined(**inputs, return_dict=True), targets)

    return jax.jit(predict)


def answering(model: nnx.Module | IntegerModel, task: Task) -> Answer:
    """A function from a batch to what is needed of the answers of a model or a program."""
    if isinstance(model, nnx.Module):
        check_answering(model)
        predict, arrays = make_predict(model, task), take_apart(model, copy=False)
        return lambda batch: predict(*arrays, batch.inputs, batch.targets)
    raw = kind_of(task).raw

    @jit_program
    def run(program: Any, inputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, jax.Array]:
        return raw(program(**inputs, return_dict=True), targets)

    return lambda batch: run(model, batch.inputs, batch.targets)


def answers_of(predict: Predict, arrays: tuple[Arrays, Arrays], sharing: Sharing | None) -> Answer:
    """The same of `make_predict` and arrays, which devices may share the batches of."""
    if sharing is None:
        return lambda batch: predict(*arrays, batch.inputs, batch.targets)
    spread = sharing.replicate(arrays)
    return lambda batch: predict(*spread, *sharing.share((batch.inputs, batch.targets)))


def evaluate(model: nnx.Module | IntegerModel, data: Batcher, task: Task) -> Evaluation:
    """The answers and measures of a model, float or quantization-aware, or of a program.

    data: batches of examples tokenized for the task (not with `learning`).
    """
    network: Any = model
    return measured(answering(model, task), data, task, network.config.id2label)


def measured(answer: Answer, data: Batcher, task: Task, names: Any) -> Evaluation:
    """The same with a function that answers. names: the labels' by index."""
    kind, count = kind_of(task), len(data.examples)
    rows: dict[str, list[Any]] = {}
    for batch, members in data.in_order():
        for name, found in answer(batch).items():
            mine = rows.setdefault(name, [None] * count)
            for number, row in zip(members, np.asarray(found), strict=False):  # filler is last
                mine[number] = row
    labels = [names[index] for index in range(len(names))]
    answers = kind.answers(rows, data.examples, labels)
    measures = kind.measure(answers, data.examples.source, labels)
    return Evaluation(answers, measures, task.primary(measures))


def difference_error(
    first: Sequence[Any],
    second: Sequence[Any],
    source: Sequence[Any],
    task: Task,
    names: list[str],
    *,
    resamples: int = 100,
) -> float:
    """Standard error of how much better one model's answers are than another's.

    By the paired bootstrap: both are measured on examples drawn again, with replacement, and the
    spread of their difference is told (Efron and Tibshirani, An Introduction to the Bootstrap,
    chapter 6). The same answers give 0; the same call always gives the same.

    first, second: one answer an example, of `Evaluation.answers`. source: the examples. names: the
    labels' in their order. resamples: 100 tell the error to about 7 percent of itself.

    Returns the error of the task's measure, in its own unit: 0.01 is a point of accuracy.
    """
    kind, count = kind_of(task), len(source)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(resamples):
        drawn = random.integers(count, size=count)
        examples = [source[i] for i in drawn]
        one, other = (
            task.primary(kind.measure([answers[i] for i in drawn], examples, names))
            for answers in (first, second)
        )
        differences.append(other - one)
    return float(np.std(differences, ddof=1))
