"""Derived ranges are facts: searched for counterexamples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ibert_jax.checkpoints.derived import (
    GELU_SHORTFALL,
    derived_ranges,
    gelu_input,
    layer_norm_output,
    linear_output,
)
from ibert_jax.config import IBertConfig


def gelu(x: np.ndarray) -> np.ndarray:
    return x * np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


def test_the_shortfall_of_gelu():
    x = np.linspace(0, 10, 200_001)
    shortfall = x - gelu(x)
    assert GELU_SHORTFALL - 1e-5 < shortfall.max() <= GELU_SHORTFALL
    np.testing.assert_allclose(gelu(-x), -shortfall, atol=1e-12)


@pytest.mark.parametrize("low, high", [(-0.17, 3.0), (-0.17, 0.05), (-0.1, 60.0)])
def test_what_exceeds_gelus_input_range_saturates_its_output(low: float, high: float):
    _, covered = gelu_input((np.float32(low).reshape(()), np.float32(high).reshape(())))
    beyond = np.linspace(covered, covered + 5, 1001)
    assert (gelu(beyond) >= max(-low, high) * (1 - 1e-6)).all()
    assert covered <= max(-low, high) + 0.1701  # and no wider than that


def test_layer_norm_reaches_its_bound_and_no_more():
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(2, 16)).astype(np.float32)
    low, high = layer_norm_output(weight, bias)
    extremes = np.eye(16)  # one channel differs from all others
    rows = np.concatenate([extremes, -extremes, random.normal(size=(2000, 16)) ** 3])
    normal = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    output = normal * weight + bias
    np.testing.assert_allclose([output.min(), output.max()], [low, high], rtol=1e-6)


def test_a_linear_layer_reaches_its_bound_and_no_more():
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(6, 5)).astype(np.float32), np.ones(6, np.float32)
    low, high = linear_output(weight, bias, np.float32(3).reshape(()))
    worst = 3 * np.sign(weight)  # row n drives output n as far as it goes
    reached = (worst * weight).sum(1) + bias
    np.testing.assert_allclose(reached.max(), high, rtol=1e-6)
    assert low == -high
    draws = random.uniform(-3, 3, size=(1000, 5)) @ weight.T + bias
    assert (np.abs(draws) <= high).all()


SMALL = IBertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)


def filled(*leaves: str) -> dict[str, np.ndarray]:
    bounds = {"x_min": np.float32(-1).reshape(()), "x_max": np.float32(2).reshape(())}
    return {f"{leaf}.{end}": bound for leaf in leaves for end, bound in bounds.items()}


def test_nothing_follows_from_nothing():
    assert derived_ranges(SMALL, "sequence_classification", {}, {}) == {}


def test_only_what_has_a_source_follows():
    ranges = filled("encoder.layer.1.intermediate.output_activation")
    found = derived_ranges(SMALL, "model", ranges, {})
    assert {name.rpartition(".")[0] for name in found} == {
        "encoder.layer.1.intermediate.intermediate_act_fn"
    }
    assert all(bound.shape == () and bound.dtype == np.float32 for bound in found.values())


@pytest.mark.parametrize(
    ("head", "leaves"),
    [
        ("sequence_classification", {"classifier.hidden_act"}),
        ("multiple_choice", {"hidden_act"}),
        ("token_classification", set()),
        ("question_answering", set()),
        ("masked_lm", {"lm_head.activation", "lm_head.ln_input_act", "lm_head.output_act"}),
    ],
)
def test_heads(head: str, leaves: set[str]):
    ranges = filled("encoder.layer.1.output.output_activation")
    vector, matrix = np.ones(8, np.float32), np.ones((8, 8), np.float32)
    tensors = {
        "lm_head.dense.weight": matrix,
        "lm_head.dense.bias": vector,
        "lm_head.layer_norm.weight": vector,
        "lm_head.layer_norm.bias": vector,
    }
    found = derived_ranges(SMALL, head, ranges, tensors)
    assert {name.rpartition(".")[0] for name in found} == leaves
    if head == "masked_lm":
        assert found["lm_head.activation.x_max"] == 8 * 2 + 1
        assert derived_ranges(SMALL, head, ranges, {}) == {}
