"""Trained equals run, for models that nobody would train: every hidden state and every logit.

All variants are one network with other numbers in it, and all inputs one shape, so that each
life is compiled once. The rows: random, padded, without a token, of a single token, and one
token repeated 512 times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.models.embeddings import position_ids_from_input_ids

LENGTH = 512
SCHEMES = ("channel", "reference")
Tensors = dict[str, np.ndarray]
Integers = list[np.ndarray]


def inputs() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(1)
    ids, mask = rng.integers(3, 60, (5, LENGTH)), np.ones((5, LENGTH), bool)
    mask[1, 9:], mask[2], mask[3, 1:] = False, False, False
    ids[4] = 7
    return jnp.asarray(np.where(mask, ids, 1), jnp.int32), jnp.asarray(mask)


@functools.cache
def calibrated(scheme: str) -> ib.IBertForSequenceClassification:
    config = ib.IBertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=LENGTH + 2,
        num_labels=3,
        initializer_range=0.3,
        output_hidden_states=True,
        quantization=ib.QuantConfig(scheme=scheme),
    )
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids, mask = inputs()
    return ib.calibrate(model, [{"input_ids": ids[:2, :24], "attention_mask": mask[:2, :24]}])


def integers_of(output: Any) -> tuple[Any, ...]:
    """The integers of the logits and of every hidden state, in the quantization-aware life."""
    return output.logits.q, *(state.q for state in output.hidden_states)


def trained(model: ib.IBertForSequenceClassification) -> Integers:
    found = _simulate(model, *inputs())
    return [np.asarray(q) for q in found]


@jax.jit
def _simulate(model: Any, ids: jax.Array, mask: jax.Array) -> tuple[Any, ...]:
    return integers_of(model(ids, attention_mask=mask))


def run(model: ib.IBertForSequenceClassification) -> Integers:
    ids, mask = inputs()
    output = ib.freeze(model).integers(ids, attention_mask=mask)
    return [np.asarray(q) for q in (output.logits, *output.hidden_states)]


def assert_equal(mine: Integers, theirs: Integers) -> None:
    assert len(mine) == len(theirs) == 4  # logits, embeddings, two layers
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype.kind == b.dtype.kind == "i"
        assert np.array_equal(a, b)


# ---------------------------------------------------------------------------------- variants


def ranges(tensors: Tensors, of: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    """Other absolute ranges: +-of(the old one)."""
    found: Tensors = {}
    for name in tensors:
        if name.endswith(".x_max"):
            low = name.removesuffix("x_max") + "x_min"
            absolute = of(np.maximum(np.abs(tensors[name]), np.abs(tensors[low])))
            found |= {low: -absolute, name: absolute}
    return found


def zero_layernorm_weights(tensors: Tensors) -> Tensors:
    """All of one LayerNorm's weights, so that its results are constant; one of every other's."""
    found = {}
    for name, value in tensors.items():
        if name.endswith("LayerNorm.weight"):
            found[name] = value * (np.arange(value.size) != 3)
    found["encoder.layer.0.output.LayerNorm.weight"] = np.zeros(16, np.float32)
    return found


def zero_rows(tensors: Tensors) -> Tensors:
    """A row of every matrix and table with its bias; one matrix altogether."""
    found = {}
    for name, value in tensors.items():
        if value.ndim == 2:
            found[name] = value * (np.arange(len(value)) != 1)[:, None]
            bias = name.removesuffix("weight") + "bias"
            if bias in tensors:
                found[bias] = tensors[bias] * (np.arange(len(value)) != 1)
    found["encoder.layer.1.attention.self.query.weight"] = np.zeros((16, 16), np.float32)
    return found


def constant_activations(tensors: Tensors) -> Tensors:
    """Every token alike from the embeddings on, whatever it is and wherever it stands."""
    return {"embeddings.LayerNorm.weight": np.zeros_like(tensors["embeddings.LayerNorm.weight"])}


def smallest_ranges(tensors: Tensors) -> Tensors:
    return ranges(tensors, lambda absolute: np.full_like(absolute, 1e-8))


def empty_of_activity(tensors: Tensors) -> Tensors:
    """Ranges that saw nothing but zeros."""
    return ranges(tensors, np.zeros_like)


def ten_orders(tensors: Tensors) -> Tensors:
    """Every row of weights, every bias and every range by its own factor, 1e-5 to 1e5."""
    rng = np.random.default_rng(2)
    found = ranges(tensors, lambda absolute: absolute * 10.0 ** rng.uniform(-5, 5, absolute.shape))
    for name, value in tensors.items():
        if name.endswith(("weight", "bias")):
            rows = (len(value), *[1] * (value.ndim - 1))
            found[name] = value * 10.0 ** rng.uniform(-5, 5, rows)
    return found


VARIANTS = (zero_layernorm_weights, zero_rows, constant_activations, ten_orders)
RANGES = (smallest_ranges, empty_of_activity)


@functools.cache
def altered(scheme: str, variant: Callable[[Tensors], Tensors]) -> Any:
    model = nnx.clone(calibrated(scheme))
    tensors = {name: np.asarray(value) for name, value in model.tensors().items()}
    changed = {name: np.float32(value) for name, value in variant(tensors).items()}
    assert changed
    model.load_tensors(changed)
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_model(scheme: str) -> None:
    found = trained(calibrated(scheme))
    assert_equal(found, run(calibrated(scheme)))
    assert len(np.unique(found[3])) > 200  # or equality would say little


@pytest.mark.parametrize(
    ("scheme", "variant"),
    [*((scheme, v) for scheme in SCHEMES for v in VARIANTS), *(("channel", v) for v in RANGES)],
)
def test_degenerate_model(scheme: str, variant: Callable[[Tensors], Tensors]) -> None:
    model = altered(scheme, variant)
    assert_equal(trained(model), run(model))


def test_every_tensor() -> None:
    """Not the hidden states alone: the result of every leaf."""
    model = altered("channel", zero_rows)
    ids, mask = inputs()
    found = ib.first_divergence(model, ib.freeze(model), ids[:, :6], attention_mask=mask[:, :6])
    assert found is None


def test_eager_is_jitted() -> None:
    """Embeddings and the first layer, operation by operation: every leaf that layers have."""
    model = altered("channel", zero_layernorm_weights)
    ids, mask = inputs()
    positions = position_ids_from_input_ids(ids, model.config.pad_token_id)
    embedded = model.ibert.embeddings(ids, None, jnp.zeros_like(ids), positions, None)
    hidden, _ = model.ibert.encoder.layer[0](embedded, mask, None)
    _, *states = trained(model)
    assert np.array_equal(embedded.q, states[0])
    assert np.array_equal(hidden.q, states[1])


@jax.jit
def _train_step(model: Any, ids: jax.Array, mask: jax.Array, labels: jax.Array) -> Any:
    """One step of gradient descent, and the integers that its forward pass computed."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters: Any) -> Any:
        output = nnx.merge(graph, parameters, rest)(ids, attention_mask=mask, labels=labels)
        return output.loss, integers_of(output)

    gradients, integers = jax.grad(loss, has_aux=True)(parameters)
    return integers, jax.tree.map(lambda p, g: p - 0.05 * g, parameters, gradients)


def test_inside_a_train_step_and_briefly_trained() -> None:
    model = nnx.clone(calibrated("channel"))
    labels = jnp.asarray([0, 1, 2, 1, 0], jnp.int32)
    for _ in range(3):
        integers, parameters = _train_step(model, *inputs(), labels)
        assert_equal([np.asarray(q) for q in integers], trained(model))
        nnx.update(model, parameters)
    assert not np.array_equal(trained(model)[0], trained(calibrated("channel"))[0])
    assert_equal(trained(model), run(model))
