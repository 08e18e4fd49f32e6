"""Leaves in their three lives: close to floats, equal to their frozen selves, differentiable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ibert_jax import spec
from ibert_jax.layers.activation import QUIETEST_CHANNEL, QuantAct
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.gelu import IntGELU, finest_grid
from ibert_jax.layers.layernorm import IntLayerNorm, quantize_eps
from ibert_jax.layers.leaf import set_life
from ibert_jax.layers.linear import QuantLinear, quantize_linear
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.quantize.schemes import ActivationFormat
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

RANGES = [1e-8, 1e-5, 1e-2, 1.0, 30.0, 1e3]


def quantized(value: np.ndarray, form: ActivationFormat) -> QuantizedTensor:
    """A tensor as a calibrated ``QuantAct`` hands it on: from 24-bit integers near the value."""
    x = jnp.asarray(value, jnp.float32)
    act = QuantAct(form, value.shape[-1])
    act.observing = True
    act(x)
    act.observing, act.quantized = False, True
    scale = jnp.float32(2.0 ** (np.ceil(np.log2(np.abs(value).max() + 1e-30)) - 23))
    q = jnp.round(x / scale).astype(jnp.int32)
    result = act(QuantizedTensor(q, scale, dequantize(q, scale)))
    assert isinstance(result, QuantizedTensor)
    return result


def frozen_equals(leaf: Any, *operands: QuantizedTensor) -> QuantizedTensor:
    """The leaf's result, after checking that its integer leaf alone gives the same integers."""
    set_life(leaf, quantized=True, recording=True)
    result = leaf(*operands)
    assert np.array_equal(leaf.integer(*(x.q for x in operands)), result.q)
    jitted = jax.jit(lambda leaf, *xs: leaf(*xs).q)(leaf, *operands)
    assert np.array_equal(jitted, result.q)
    assert leaf.integer(*(x.q[:0] for x in operands)).shape == (0, *result.q.shape[1:])
    return result


@pytest.mark.parametrize("size", RANGES)
@pytest.mark.parametrize(
    "form",
    [
        ActivationFormat(8),
        ActivationFormat(8, "channel"),
        ActivationFormat(8, "balanced"),
        ActivationFormat(16),
    ],
)
def test_activation(size: float, form: ActivationFormat) -> None:
    value = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32) * size
    x = quantized(value, form)
    assert form.bits is not None
    assert x.q.dtype == (jnp.int8 if form.bits <= 8 else jnp.int32)
    step = np.broadcast_to(np.asarray(x.scale), value.shape)
    assert (np.abs(np.asarray(x.value) - value) <= step * 1.02).all()


def test_activation_of_a_sum_is_the_specification() -> None:
    rng = np.random.default_rng(1)
    form = ActivationFormat(20)
    a, b = (
        quantized(rng.standard_normal((40, 80, 8)) * s, ActivationFormat(16)) for s in (1.0, 40.0)
    )
    act = QuantAct(form, 8)
    set_life(act, observing=True)
    act(a.value, b.value)
    set_life(act, observing=False)
    got = frozen_equals(act, a, b)
    scale = float(act.scale())
    constants = [spec.multiplier(float(x.scale), scale, wide=True) for x in (a, b)]
    pairs = zip(np.asarray(a.q).ravel().tolist(), np.asarray(b.q).ravel().tolist(), strict=True)
    want = [spec.activation(pair, constants, 20) for pair in pairs]
    assert np.asarray(got.q).ravel().tolist() == want


@pytest.mark.parametrize("size", RANGES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_linear(size: float, per_channel: bool) -> None:
    rng = np.random.default_rng(2)
    layer = QuantLinear(24, 10, per_channel=per_channel, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray(rng.standard_normal(10), jnp.float32)
    x = quantized(rng.standard_normal((4, 6, 24)) * size, ActivationFormat(8, "channel"))
    exact = np.asarray(layer(x.value))
    got = frozen_equals(layer, x)
    # Half a step of every weight times its input's scale, and half a step of the bias.
    slack = np.abs(np.asarray(x.q)).sum(-1, keepdims=True) * np.asarray(got.scale) * 0.51
    assert (np.abs(np.asarray(got.value) - exact) <= slack + np.abs(exact) * 1e-5).all()


def test_linear_bias_cannot_overflow() -> None:
    weight = jnp.asarray(np.full((3, 4), 1e-12), jnp.float32).at[1].set(0.0)
    bias = jnp.asarray([1e6, -1e6, 0.0], jnp.float32)
    integer, scale = quantize_linear(weight, bias, jnp.float32(2.0**-33), 8, True)
    assert (np.abs(np.asarray(integer.bias).astype(np.int64)) <= 2**30).all()
    assert np.allclose(np.asarray(integer.bias) * np.asarray(scale), np.asarray(bias), rtol=1e-4)


def test_embedding() -> None:
    layer = QuantEmbedding(50, 16, rngs=nnx.Rngs(0))
    layer.weight[...] = layer.weight[...].at[3].multiply(40.0).at[4].set(0.0)
    ids = jnp.asarray(np.random.default_rng(8).integers(0, 50, (40, 40)), jnp.int32)
    ids = ids.at[0, :4].set(jnp.asarray([0, 3, 4, 49], jnp.int32))
    exact = np.asarray(layer(ids))
    set_life(layer, quantized=True, recording=True)
    got: Any = layer(ids)
    integer: Any = layer.integer
    assert np.array_equal(integer(ids), got.q)
    assert np.abs(np.asarray(got.q)).max() <= 2**15 * (1 + 2**-10)  # scales are short
    weight, ratio = np.asarray(integer.weight).tolist(), np.asarray(integer.ratio).tolist()
    for row, token in zip(
        np.asarray(got.q).reshape(-1, 16).tolist(), ids.ravel().tolist(), strict=True
    ):
        assert row == spec.embedding(weight[token], ratio[token])
    row_steps = np.abs(exact).max(-1, keepdims=True) / 127
    assert (np.abs(np.asarray(got.value) - exact) <= row_steps * 0.52 + float(got.scale)).all()


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize("size", RANGES)
def test_layernorm(size: float, eps: float) -> None:
    rng = np.random.default_rng(3)
    layer = IntLayerNorm(48, eps)
    layer.weight[...] = jnp.asarray(rng.uniform(-1.5, 1.5, 48), jnp.float32).at[5].set(0.0)
    layer.bias[...] = jnp.asarray(rng.standard_normal(48), jnp.float32)
    x = quantized(rng.standard_normal((3, 5, 48)) * size, ActivationFormat(20))
    exact = np.asarray(layer(x.value))
    got = frozen_equals(layer, x)
    assert np.abs(np.asarray(got.value) - exact).max() <= 0.003 * 1.5
    assert np.isfinite(np.asarray(got.value)).all()
    # Read by a requantization, weight, bias and all.
    act = QuantAct(ActivationFormat(8, "channel"), 48)
    set_life(act, observing=True)
    act(got.value)
    set_life(act, observing=False)
    read = frozen_equals_with_offset(act, got)
    assert (np.abs(np.asarray(read.value) - exact) <= np.asarray(read.scale) * 0.52 + 0.0045).all()


def frozen_equals_with_offset(act: QuantAct, x: QuantizedTensor) -> QuantizedTensor:
    set_life(act, quantized=True, recording=True)
    result: Any = act(x)
    integer: Any = act.integer
    assert np.array_equal(integer(x.q), result.q)
    return result


def test_more_channels_than_can_be_summed_are_refused() -> None:
    IntLayerNorm(4095, 1e-5)
    with pytest.raises(ValueError, match=r"at most 4095 channels, .* got 4096"):
        IntLayerNorm(4096, 1e-5)


def test_layernorm_eps_is_the_specification() -> None:
    for eps in (0.0, 1e-12, 1e-5, 1.0):
        for scale in (2.0**-52, 2.0**-16 * 1.5, 0.25, 2.0**20):
            got = quantize_eps(jnp.float32(eps), 384, jnp.float32(scale))
            want = spec.layernorm_eps(float(np.float32(eps)), 384, scale)
            assert (int(got.eps_mantissa), int(got.eps_exponent)) == want


@pytest.mark.parametrize("size", RANGES[:-1])
def test_gelu(size: float) -> None:
    value = np.random.default_rng(4).standard_normal((4, 9, 8)).astype(np.float32) * size
    x = quantized(value, ActivationFormat(16))
    layer = IntGELU()
    set_life(layer, observing=True)
    exact = np.asarray(layer(x.value))
    set_life(layer, observing=False)
    got = frozen_equals(layer, x)
    assert np.abs(np.asarray(got.value) - exact).max() <= 0.0185 + size * 2e-4


def test_finest_grid_is_the_specification() -> None:
    values = np.float32([1e-8, 0.5, 2.0, 3.99, 4.0, 4.01, 8.0, 100.0, 256.0, 257.0, 1e6])
    got = [int(finest_grid(jnp.float32(v))) for v in values]
    assert got == [spec.finest_grid(float(v)) for v in values]


def test_tanh() -> None:
    x = quantized(np.linspace(-9, 9, 60).reshape(1, 3, 20), ActivationFormat(16))
    got = frozen_equals(IntTanh(), x)
    assert np.abs(np.asarray(got.value) - np.tanh(np.asarray(x.value))).max() <= 2.5e-3


def test_gradients_are_those_of_floats() -> None:
    """Straight through: a quantized linear layer has the float layer's gradients."""
    rng = np.random.default_rng(5)
    layer = QuantLinear(8, 4, rngs=nnx.Rngs(0))
    x = quantized(rng.standard_normal((2, 3, 8)), ActivationFormat(8))

    def loss(weight: jax.Array, value: jax.Array, life: bool) -> jax.Array:
        copy = nnx.clone(layer)
        copy.weight[...] = weight
        set_life(copy, quantized=life)
        result: Any = copy(QuantizedTensor(x.q, x.scale, value) if life else value)
        out = result.value if life else result
        return jnp.sum(out * jnp.cos(jnp.arange(4.0).reshape(1, 1, 4)))

    for argument in (0, 1):
        inside, outside = (
            jax.grad(loss, argument)(layer.weight[...], x.value, life) for life in (True, False)
        )
        np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-6)


def test_dropout_zeroes_integers_and_keeps_the_mean() -> None:
    x = quantized(np.random.default_rng(6).standard_normal((20, 50, 8)), ActivationFormat(8))
    layer = Dropout(0.25)
    set_life(layer, deterministic=False, quantized=True)
    got: Any = layer(x, nnx.Rngs(dropout=1))
    kept = np.asarray(got.q) == np.asarray(x.q)
    assert ((np.asarray(got.q) == 0) | kept).all()
    share = (np.asarray(got.value)[np.asarray(x.q) != 0] == 0).mean()
    assert abs(share - 0.25) < 0.02
    assert np.array_equal(dequantize(got.q, got.scale), got.value)
    assert abs(float(got.scale) / float(x.scale) * 0.75 - 1) < 1e-3


@pytest.mark.parametrize("rate", [1.0, 1 - 1e-6])
def test_dropout_of_everything(rate: float) -> None:
    x = quantized(np.random.default_rng(6).standard_normal((2, 3, 8)), ActivationFormat(8))
    layer = Dropout(rate)
    set_life(layer, deterministic=False)
    got: Any = layer(x, nnx.Rngs(dropout=1))
    assert not got.q.any() and not got.value.any()
    gradient = jax.grad(lambda value: jnp.sum(layer(value, nnx.Rngs(dropout=1))))(x.value)
    assert not gradient.any()


def test_dropout_needs_keys_in_training() -> None:
    layer = Dropout(0.1)
    set_life(layer, deterministic=False)
    with pytest.raises(ValueError, match=r"rngs=nnx\.Rngs"):
        layer(jnp.ones((2, 2)), None)


def test_a_silent_channel_keeps_a_share_of_the_widest() -> None:
    act = QuantAct(ActivationFormat(8, "channel"), 3)
    act.x_min[...] = jnp.asarray([-8.0, 0.0, -1.0], jnp.float32)
    act.x_max[...] = jnp.asarray([2.0, 0.0, 1.0], jnp.float32)
    np.testing.assert_array_equal(act.covered(), np.float32([8, 8 * QUIETEST_CHANNEL, 1]))
    assert act.scale()[1] * 127 >= 8 * QUIETEST_CHANNEL
