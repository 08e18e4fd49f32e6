"""Ranges in training; and the example of a training loop of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from examples.own_training_loop import train
from ibert_jax.layers.activation import QuantAct
from ibert_jax.quantize.ranges import is_empty, moving_bounds
from ibert_jax.quantize.schemes import ActivationFormat
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 30, (8, 8))
BATCH = {"input_ids": IDS, "labels": (IDS[:, 1] > 15).astype(np.int32)}


@pytest.mark.usefixtures("unoptimized")
def test_a_loop_of_ones_own() -> None:
    config = ib.IBertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.2,
    )
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    act: Any = model.ibert.encoder.layer[0].pre_output_act
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam divides by an int32 step
        # Frozen from the start: one compilation is enough here.
        losses = train(model, [BATCH] * 30, freeze_at=0)
    assert losses[-1] < losses[0] * 0.6
    before = np.asarray(act.x_max[...])
    ib.calibrate(model, [{"input_ids": IDS}])
    assert not np.array_equal(before, act.x_max[...])  # the weights moved, the ranges had not


def test_observers() -> None:
    act = QuantAct(ActivationFormat(8), 4, momentum=0.5)

    def see(largest: float) -> float:
        q = np.full((1, 4), largest * 1000, np.int32)
        scale = np.float32(1e-3)
        act(QuantizedTensor(q, scale, dequantize(q, scale)))
        return float(act.x_max[...])

    act.quantized, act.deterministic = True, False
    assert see(4.0) == 4.0  # the first observation as it is
    assert see(8.0) == 6.0
    ib.set_observers(act, "ema", momentum=0.75)
    assert see(10.0) == 7.0
    ib.set_observers(act, "minmax")
    assert [see(9.0), see(1.0)] == [9.0, 9.0]
    ib.set_observers(act, "frozen")
    assert see(20.0) == 9.0
    ib.set_observers(act, "minmax")
    assert see(20.0) == 20.0
    act.deterministic = True
    assert see(30.0) == 20.0


def test_the_first_observation_is_taken_as_it_is() -> None:
    nothing = jnp.float32(jnp.inf), jnp.float32(-jnp.inf)
    seen = jnp.float32(-3.1), jnp.float32(2.7)
    assert moving_bounds(nothing, seen, 0.95) == seen


def test_a_range_of_nan_is_none() -> None:
    assert is_empty(jnp.float32(jnp.nan), jnp.float32(jnp.nan))
    assert is_empty(jnp.asarray([0.0, jnp.inf]), jnp.asarray([1.0, -jnp.inf]))
    assert not is_empty(jnp.zeros(2), jnp.zeros(2))


def test_what_observers_do_not_know_is_refused() -> None:
    act = QuantAct(ActivationFormat(8), 4)
    with pytest.raises(ValueError, match="kind must be one of ema, minmax, frozen, got 'mean'"):
        ib.set_observers(act, "mean")
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1, got 1"):
        ib.set_observers(act, "ema", momentum=1)


@pytest.mark.parametrize("model", ["model", None, nnx.Linear(2, 2, rngs=nnx.Rngs(0))])
def test_what_has_no_ranges_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="expected a model of this package"):
        ib.set_observers(model, "ema")


def test_a_range_of_nothing_is_learnt_before_it_answers() -> None:
    """It would make zeros of all; who trains from scratch has it from the first batch."""
    act = QuantAct(ActivationFormat(8), 4)
    act.quantized = True
    q, scale = np.full((1, 4), 1000, np.int32), np.float32(1e-3)
    x = QuantizedTensor(q, scale, dequantize(q, scale))
    with pytest.raises(ValueError, match=r"got one that was never calibrated; call ib\.calibrate"):
        act(x)
    act.deterministic, act.frozen = False, True
    with pytest.raises(ValueError, match="never calibrated"):
        act(x)
    act.frozen = False
    act(x)
    act.deterministic = True
    assert float(act(x).value[0, 0]) == pytest.approx(1.0, rel=2**-8)  # type: ignore[union-attr]
