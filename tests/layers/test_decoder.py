"""The vocabulary matmul: its specification, close to floats, on the embedding's integers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ibert_jax import spec
from ibert_jax.layers.decoder import QuantDecoder
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.leaf import set_life
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

ROWS, CHANNELS = 60, 24


def leaves(size: float, bias: float) -> tuple[QuantEmbedding, QuantDecoder]:
    """A table with a loud row, a quiet one and one of zeros; random biases."""
    table = QuantEmbedding(ROWS, CHANNELS, initializer_range=size, rngs=nnx.Rngs(0))
    table.weight[...] = table.weight[...].at[3].multiply(30.0).at[4].set(0.0).at[5].multiply(1e-3)
    decoder = QuantDecoder(ROWS)
    drawn = np.random.default_rng(1).standard_normal(ROWS).astype(np.float32)
    decoder.bias[...] = jnp.asarray(drawn * np.float32(bias))
    set_life(table, quantized=True, recording=True)
    set_life(decoder, quantized=True, recording=True)
    return table, decoder


def activation(scale: float) -> QuantizedTensor:
    q = np.random.default_rng(2).integers(-128, 128, (4, 5, CHANNELS)).astype(np.int8)
    q[0, 0], q[0, 1] = 127, -128
    x, s = jnp.asarray(q), jnp.float32(spec.short_up(scale))
    return QuantizedTensor(x, s, dequantize(x, s))


@pytest.mark.parametrize(
    ("size", "bias", "scale"),
    [(0.05, 1.0, 0.02), (1e-6, 1.0, 1e-8), (30.0, 0.0, 40.0), (1e-3, 1e4, 1e-3)],
)
def test_equals_the_specification(size: float, bias: float, scale: float) -> None:
    table, decoder = leaves(size, bias)
    x = activation(scale)
    got: Any = jax.jit(lambda decoder, table, x: decoder(x, table))(decoder, table, x)
    weight = np.asarray(table.weight[...])
    steps = [spec.steps_per_unit(max(float(np.abs(r).max()), spec.RANGE_FLOOR), 8) for r in weight]
    integers = np.clip(np.round(weight * np.float32(steps)[:, None]), -127, 127).astype(int)
    accumulators = [
        float(np.float32(spec.reciprocal(s)) * np.float32(float(x.scale))) for s in steps
    ]
    width = (CHANNELS * 2**14).bit_length()
    largest = max(abs(float(b)) for b in decoder.bias[...])
    common = spec.short_up(max(max(accumulators) * 2.0 ** (width - 28), largest * 2.0**-26))
    assert float(got.scale) == common
    biases = np.asarray(decoder.bias[...]).tolist()
    constants = [
        spec.multiplier(a, common, wide=False, offset=b)
        for a, b in zip(accumulators, biases, strict=True)
    ]
    products = np.asarray(x.q).astype(int).reshape(-1, CHANNELS) @ integers.T
    want = [
        [spec.rescale(int(p), c, wide=False) for p, c in zip(line, constants, strict=True)]
        for line in products
    ]
    assert np.asarray(got.q).reshape(-1, ROWS).tolist() == want
    assert np.abs(np.array(want)).max() < 2**30


@pytest.mark.parametrize(("size", "bias", "scale"), [(0.05, 1.0, 0.02), (30.0, 100.0, 1.0)])
def test_close_to_floats(size: float, bias: float, scale: float) -> None:
    table, decoder = leaves(size, bias)
    x = activation(scale)
    got: Any = jax.jit(lambda decoder, table, x: decoder(x, table))(decoder, table, x)
    weight = np.asarray(table.weight[...]).astype(np.float64)
    exact = np.asarray(x.value).astype(np.float64) @ weight.T + np.asarray(decoder.bias[...])
    row_step = np.abs(weight).max(1) / 127
    # Half a step of every weight, the multiplier's 15 bits, and a step of the logits.
    slack = np.abs(np.asarray(x.value)).sum(-1)[..., None] * row_step * 0.51
    slack = slack + np.abs(exact) * 2.0**-13 + 2 * float(got.scale)
    assert (np.abs(np.asarray(got.value) - exact) <= slack).all()


def test_gradients_are_those_of_floats() -> None:
    """To the table, the bias and the input, straight through."""
    table, decoder = leaves(0.05, 1.0)
    x = activation(0.02)
    graph, params, rest = nnx.split((table, decoder), nnx.Param, ...)

    def total(params: Any, value: jax.Array, quantized: bool) -> jax.Array:
        table, decoder = nnx.merge(graph, params, rest)
        given = QuantizedTensor(x.q, x.scale, value) if quantized else value
        out: Any = decoder(given, table)
        logits = out.value if quantized else out
        return jnp.sum(logits * jnp.sin(x.value[..., :1]))

    got, want = (jax.grad(total, (0, 1))(params, x.value, life) for life in (True, False))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-6)
