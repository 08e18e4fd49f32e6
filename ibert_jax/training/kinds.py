"""What each kind of task asks of a model: its head, its loss, its answers, its measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ibert_jax import models
from ibert_jax.answers import best_spans
from ibert_jax.checks import IGNORED_LABEL
from ibert_jax.quantize.tensor import value_of
from ibert_jax.training import scores
from ibert_jax.training.features import TokenizedExamples
from ibert_jax.training.tasks import Task

Arrays = Mapping[str, jax.Array]
Rows = Mapping[str, Sequence[np.ndarray]]
Summed = tuple[jax.Array, jax.Array]
"""A sum, and how much was summed."""


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
      head: the model's class.
      settings: what its configuration must say.
      loss: (the model's output, targets, weights [B]) -> the sum of the losses and how many were
        summed, float32 scalars; filler does not count. Their quotient is the loss of a batch.
      raw: (output, targets) -> what is brought to the host of each example, by name, [B, ...].
      answers: (that by name, one row an example; the examples; label names) -> one answer for
        each of the examples' source, in its order.
      measure: (answers, source, label names) -> measures by name.
    """

    head: type[Any]
    settings: Mapping[str, Any]
    loss: Callable[[Any, Arrays, jax.Array], Summed]
    raw: Callable[[Any, Arrays], dict[str, jax.Array]]
    answers: Callable[[Rows, TokenizedExamples, list[str]], list[Any]]
    measure: Callable[[Sequence[Any], Sequence[Any], list[str]], dict[str, float]]


def summed_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Summed:
    """Weighted sum of -log softmax(logits)[label], and the sum of the weights that count.

    logits: float32 [..., C]. labels: int32 [...] in 0..C-1, or -100 for what does not count.
    weights: float32 [...].
    """
    weights = jnp.where(labels == IGNORED_LABEL, 0.0, weights)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(losses * weights), jnp.sum(weights)


def _label_loss(output: Any, targets: Arrays, weights: jax.Array) -> Summed:
    return summed_cross_entropy(value_of(output.logits), targets["labels"], weights)


def _token_loss(output: Any, targets: Arrays, weights: jax.Array) -> Summed:
    labels = targets["labels"]
    each = jnp.broadcast_to(weights[:, None], labels.shape)
    return summed_cross_entropy(value_of(output.logits), labels, each)


def _number_loss(output: Any, targets: Arrays, weights: jax.Array) -> Summed:
    difference = value_of(output.logits)[:, 0] - targets["labels"]
    return jnp.sum(difference * difference * weights), jnp.sum(weights)


def _span_loss(output: Any, targets: Arrays, weights: jax.Array) -> Summed:
    (starts, count), (ends, _) = (
        summed_cross_entropy(
            value_of(getattr(output, f"{end}_logits")), targets[f"{end}_positions"], weights
        )
        for end in ("start", "end")
    )
    return (starts + ends) / 2, count  # an answer has both ends or none


def _best(output: Any, targets: Arrays) -> dict[str, jax.Array]:
    del targets
    return {"best": value_of(output.logits).argmax(axis=-1)}


def _number(output: Any, targets: Arrays) -> dict[str, jax.Array]:
    del targets
    return {"number": value_of(output.logits)[:, 0]}


def _span(output: Any, targets: Arrays) -> dict[str, jax.Array]:
    del targets
    return {"start": value_of(output.start_logits), "end": value_of(output.end_logits)}


def _masked(output: Any, targets: Arrays) -> dict[str, jax.Array]:
    logits, labels = value_of(output.logits), targets["labels"]
    counted = labels != IGNORED_LABEL
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    hits = counted & (logits.argmax(axis=-1) == labels)
    return {
        "loss": jnp.sum(jnp.where(counted, losses, 0.0), axis=1),
        "hits": jnp.sum(hits, axis=1, dtype=jnp.int32),
        "count": jnp.sum(counted, axis=1, dtype=jnp.int32),
    }


def _label_answers(rows: Rows, data: TokenizedExamples, names: list[str]) -> list[Any]:
    del data, names
    return [int(best) for best in rows["best"]]


def _number_answers(rows: Rows, data: TokenizedExamples, names: list[str]) -> list[Any]:
    del data, names
    return [float(number) for number in rows["number"]]


def _tag_answers(rows: Rows, data: TokenizedExamples, names: list[str]) -> list[Any]:
    """Tags of words; O for those that were cut off, or that the tokenizer drops."""
    assert data.places is not None
    answers = []
    for index, example in enumerate(data.source):
        word = data.places[data.starts[index] : data.starts[index + 1]]
        tags = ["O"] * len(example.words)
        for place in np.flatnonzero(word >= 0):
            tags[word[place]] = names[int(rows["best"][index][place])]
        answers.append(tuple(tags))
    return answers


def _span_answers(rows: Rows, data: TokenizedExamples, names: list[str]) -> list[Any]:
    """The best span of each question's windows, as the context writes it."""
    del names
    assert data.places is not None and data.owners is not None
    answers = [""] * len(data.source)
    scores_so_far = np.full(len(data.source), -np.inf)
    for index, owner in enumerate(data.owners):
        offsets = data.places[data.starts[index] : data.starts[index + 1]]
        inside = np.flatnonzero(offsets[:, 0] >= 0)
        start, end = (rows[name][index][inside] for name in ("start", "end"))
        for score, first, last in best_spans(start, end, 1):  # none of an empty context
            if score > scores_so_far[owner]:
                scores_so_far[owner] = score
                places = offsets[inside[first], 0], offsets[inside[last], 1]
                answers[owner] = data.source[owner].context[slice(*places)]
    return answers


def _masked_answers(rows: Rows, data: TokenizedExamples, names: list[str]) -> list[Any]:
    del data, names
    columns = (rows["loss"], rows["hits"], rows["count"])
    return [(float(a), int(b), int(c)) for a, b, c in zip(*columns, strict=True)]


def _measure_labels(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    del names
    right = np.asarray([example.label for example in source])
    return scores.classification_scores(np.asarray(answers), right)


def _measure_choices(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    found = _measure_labels(answers, source, names)
    return {name: found[name] for name in ("accuracy", "correct", "total")}


def _measure_numbers(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    del names
    right = np.asarray([example.label for example in source], np.float64)
    return scores.correlations(np.asarray(answers, np.float64), right)


def _measure_tags(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    right = [tuple(names[label] for label in example.labels) for example in source]
    return scores.entity_scores(answers, right)


def _measure_spans(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    del names
    return scores.answer_scores(answers, [example.answers for example in source])


def _measure_masked(
    answers: Sequence[Any], source: Sequence[Any], names: list[str]
) -> dict[str, float]:
    del source, names
    return scores.masked_scores(answers)


KINDS: Mapping[str, Kind] = {
    "classification": Kind(
        models.IBertForSequenceClassification,
        {"problem_type": "single_label_classification"},
        _label_loss,
        _best,
        _label_answers,
        _measure_labels,
    ),
    "regression": Kind(
        models.IBertForSequenceClassification,
        {"num_labels": 1, "problem_type": "regression"},
        _number_loss,
        _number,
        _number_answers,
        _measure_numbers,
    ),
    "token_classification": Kind(
        models.IBertForTokenClassification, {}, _token_loss, _best, _tag_answers, _measure_tags
    ),
    "question_answering": Kind(
        models.IBertForQuestionAnswering,
        {"num_labels": 2},
        _span_loss,
        _span,
        _span_answers,
        _measure_spans,
    ),
    "multiple_choice": Kind(
        models.IBertForMultipleChoice, {}, _label_loss, _best, _label_answers, _measure_choices
    ),
    "masked_lm": Kind(
        models.IBertForMaskedLM, {}, _token_loss, _masked, _masked_answers, _measure_masked
    ),
}


def kind_of(task: Task) -> Kind:
    """The task's kind."""
    return KINDS[task.kind]
