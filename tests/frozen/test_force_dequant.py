"""force_dequant: chosen nonlinearities stay in float, everything around them in integers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.commands.freeze import certified
from ibert_jax.frozen.network import integer_leaves
from ibert_jax.layers.attention import AttentionContext
from ibert_jax.layers.gelu import IntGELU, gelu
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.layers.leaf import Leaf, set_life
from ibert_jax.layers.softmax import IntSoftmax, scaled_softmax
from ibert_jax.proof import CertificateError, examine
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, value_of

from .conftest import inputs, make

FLOAT_LEAVES = {
    "gelu": {"FloatGELU"},
    "softmax": {"FloatSoftmax", "FloatContext"},
    "layernorm": {"FloatLayerNorm"},
    "nonlinear": {"FloatGELU", "FloatSoftmax", "FloatContext", "FloatLayerNorm"},
}


@functools.cache
def quantized_model(force_dequant: str) -> ib.IBertForSequenceClassification:
    config = dataclasses.replace(make("channel").config, force_dequant=force_dequant)
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    return ib.calibrate(model, [inputs(9, 24, seed) for seed in range(2)])


@pytest.mark.parametrize("force_dequant", FLOAT_LEAVES)
def test_the_chosen_nonlinearities_alone_stay_in_float(force_dequant: str, tmp_path: Path) -> None:
    model, batch = quantized_model(force_dequant), inputs(9, 24, 5)
    program = ib.freeze(model)
    kinds = {path: type(x).__name__ for path, x in integer_leaves(program.network).items()}
    assert {kind for kind in kinds.values() if kind.startswith("Float")} == (
        FLOAT_LEAVES[force_dequant]
    )
    # XLA may round a float operation otherwise in another program, and the next 8-bit step may
    # then be the neighbour: equal up to such steps, of which the logits have hundreds.
    simulated = jax.jit(lambda m, **b: value_of(m(**b).logits))(model, **batch)
    got = program(**batch).logits
    assert np.abs(got - simulated).max() < 0.02 * np.abs(simulated).max()
    program.save(tmp_path, examine(program, 2, 8))
    loaded = ib.IntegerModel.load(tmp_path)
    assert loaded.sha256() == program.sha256()
    np.testing.assert_array_equal(loaded.integers(**batch).logits, program.integers(**batch).logits)


def test_the_certificate_says_so() -> None:
    program = ib.freeze(quantized_model("gelu"))
    with pytest.raises(CertificateError, match=r"force_dequant='gelu'.*freeze one with 'none'"):
        ib.certify(program, 2, 8)
    certificate = certified(program, [])
    assert not certificate.ok
    assert certificate.overflow is None
    assert "NOT integer-only" in str(certificate)
    assert "(force_dequant='gelu' leaves operations in float)" in str(certificate)
    assert certificate == type(certificate).from_json(certificate.to_json())


def frozen(layer: Leaf, *operands: Any) -> Any:
    set_life(layer, quantized=True, recording=True)
    layer(*operands)
    return layer.integer


def test_float_gelu_is_gelu_on_the_same_grid() -> None:
    value = jnp.linspace(-6, 6, 4096, dtype=jnp.float32).reshape(2, -1, 8)
    scale = jnp.float32(2.0**-20)
    x = QuantizedTensor(jnp.round(value / scale).astype(jnp.int32), scale, value)
    layer = IntGELU(in_float=True)
    set_life(layer, observing=True)
    layer(value)
    set_life(layer, observing=False, quantized=True)
    result: Any = layer(x)
    step = float(result.scale)
    exact = gelu(dequantize(x.q, scale))
    # float32 itself rounds by up to 2^-22 below 8, which is more than the grid does.
    np.testing.assert_allclose(result.value, exact, rtol=0, atol=step + 2.0**-21)
    beyond = frozen(layer, x)(jnp.int32([2**30, -(2**30)]))  # saturates as the integer one
    np.testing.assert_allclose(np.asarray(beyond) * step, [8, 0], atol=1e-5)


def test_float_layer_norm_keeps_fourteen_fractional_bits() -> None:
    rng = np.random.default_rng(0)
    value = jnp.asarray(rng.standard_normal((3, 5, 48)), jnp.float32)
    scale = jnp.float32(2.0**-16)
    x = QuantizedTensor(jnp.round(value / scale).astype(jnp.int32), scale, value)
    layer = IntLayerNorm(48, 1e-5, in_float=True)
    layer.weight[...] = jnp.asarray(rng.standard_normal(48), jnp.float32)
    exact = layer(dequantize(x.q, scale))
    set_life(layer, quantized=True)
    result: Any = layer(x)
    assert result.q.dtype == jnp.int32
    distance = np.abs(np.asarray(result.value) - np.asarray(exact))
    assert (distance <= np.abs(np.asarray(layer.weight[...])) * 2.0**-15 + 1e-6).all()


def test_float_softmax_and_context_weigh_in_float() -> None:
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.integers(-400, 400, (2, 3, 7, 7)), jnp.int32)
    values = jnp.asarray(rng.integers(-128, 128, (2, 7, 12)), jnp.int8)
    mask = jnp.ones((2, 1, 1, 7), bool).at[1, ..., 4:].set(False)
    scale, heads = jnp.float32(2.0**-7), jnp.asarray([True, False, True])
    x = QuantizedTensor(scores, scale, dequantize(scores, scale))
    softmax = IntSoftmax(4, "channel", in_float=True)
    weights, ones = frozen(softmax, x, mask, heads)(scores, mask, heads)
    expected = scaled_softmax(dequantize(scores, scale), mask, jnp.float32(4), heads)
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-7)
    assert (np.asarray(ones) == 1).all()
    assert (np.asarray(weights)[1, ..., 4:] == 0).all()
    v = QuantizedTensor(values, jnp.float32(1), dequantize(values, jnp.float32(1)))
    context = AttentionContext(3, in_float=True)
    set_life(softmax, recording=False)
    set_life(context, quantized=True)
    result: Any = context(softmax(x, mask, heads), v)
    exact = AttentionContext(3)(expected, v.value)
    np.testing.assert_allclose(result.value, exact, rtol=0, atol=1e-4)
