"""Fused GPU kernels, run by Pallas' interpreter: the integers of the plain path, however cut."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh

from ibert_jax.frozen.pending import PendingRows, PendingRowSum
from ibert_jax.integer.dyadic import Multiplier, requantize, requantize_sum
from ibert_jax.integer.gelu import igelu
from ibert_jax.integer.layernorm import normalize
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.integer.pallas_attention import AttentionTiles, fused_attention
from ibert_jax.integer.pallas_layernorm import fused_normalize, parts_of
from ibert_jax.integer.pallas_linear import Tiles, fused_linear
from ibert_jax.layers.activation import IntegerAct
from ibert_jax.layers.attention import IntegerContext, IntegerScores
from ibert_jax.layers.embedding import IntegerEmbedding
from ibert_jax.layers.layernorm import IntegerLayerNorm
from ibert_jax.layers.softmax import IntegerSoftmax

SMALL = Tiles(rows=16, columns=32, depth=32)


def multiplier(rng: np.random.Generator, shifts: tuple[int, int], shape: Any = (), bits: int = 15):
    """Random constants; one channel in two is shifted left first."""
    shift = rng.integers(*shifts, shape)
    parts = (rng.integers(2 ** (bits - 1), 2**bits, shape), 1 << (shift - 1), shift)
    return Multiplier(*(jnp.asarray(x, jnp.int32) for x in (*parts, rng.integers(0, 2, shape))))


def to_8_bits(x: jax.Array, constants: Multiplier) -> jax.Array:
    return requantize(x, constants, 8, wide=False)


def gelu_to_8_bits(x: jax.Array, constants: tuple[Multiplier, jax.Array, Multiplier]) -> jax.Array:
    entry, grid, leave = constants
    return to_8_bits(igelu(requantize(x, entry, 16, wide=False), grid), leave)


def linear_case(rows: int, k: int, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q [rows, 1, K], the first at the end of its range, as the first weights."""
    rng = np.random.default_rng(rows + k + n)
    q, weight = rng.integers(-128, 128, (rows, 1, k)), rng.integers(-127, 128, (n, k))
    q[0], weight[0] = -128, -127
    bias = rng.integers(-(2**20), 2**20, n)
    bias[-1] = 2**30
    return jnp.asarray(q, jnp.int8), jnp.asarray(weight, jnp.int8), jnp.asarray(bias, jnp.int32)


@settings(max_examples=3, deadline=None)
@given(*[st.integers(1, 70)] * 3)
@example(16, 64, 32)  # whole tiles
def test_linear_with_gelu_of_any_shape(rows: int, k: int, n: int) -> None:
    q, weight, bias = linear_case(rows, k, n)
    rng = np.random.default_rng(k)
    constants = (
        multiplier(rng, (4, 10), (n,)),
        jnp.int32(rng.integers(7, 14)),
        multiplier(rng, (16, 24), (n,)),
    )

    @jax.jit
    def both(*x: Any) -> tuple[jax.Array, jax.Array]:
        q, weight, bias, constants = x
        plain = gelu_to_8_bits(int8_linear(q, weight, bias, shift_bias(weight, bias)), constants)
        return plain, fused_linear(
            q, weight, bias, gelu_to_8_bits, constants, tiles=SMALL, interpret=True
        )

    plain, fused = both(q, weight, bias, constants)
    assert fused.dtype == np.int8
    assert np.array_equal(fused, plain)


def test_linear_transposed() -> None:
    """The weights as rows: constants and bias belong to them."""
    q, weight, bias = linear_case(37, 24, 20)
    rng = np.random.default_rng(0)
    constants = multiplier(rng, (4, 10), (20,)), jnp.int32(9), multiplier(rng, (16, 24), (20,))

    def run(*operands: jax.Array, by_row: bool) -> jax.Array:
        return fused_linear(
            *operands, bias, gelu_to_8_bits, constants, by_row=by_row, tiles=SMALL, interpret=True
        )

    rows = q[:, 0]
    found = run(weight, rows, by_row=True)
    assert np.array_equal(found.T, run(rows, weight, by_row=False))


def test_tiles_leave_no_multiprocessor_idle() -> None:
    assert Tiles().for_shape(16384, 768, 768) == Tiles()
    assert Tiles().for_shape(128, 768, 3072) == Tiles(rows=32, columns=32, warps=1)
    assert Tiles().for_shape(1024, 3072, 768) == Tiles()
    assert Tiles().for_shape(7, 20, 20) == Tiles(rows=16, columns=32, depth=32, warps=1)


def attention_case(batch: int, length: int, channels: int, seed: int) -> Any:
    """int8 query, key, value and a mask; the last row keeps no key, the first all."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(-128, 128, (batch, length, channels)) for _ in range(3)]
    mask = rng.random((batch, length)) < 0.6
    mask[-1], mask[0] = False, True
    return *(jnp.asarray(x, jnp.int8) for x in parts), jnp.asarray(mask)


@pytest.mark.parametrize("published", [False, True])
@settings(max_examples=2, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 3), st.sampled_from([8, 12, 32]))
@example(2, 64, 2, 32)  # whole slices
def test_attention_of_any_shape(
    published: bool, batch: int, length: int, heads: int, width: int
) -> None:
    query, key, value, mask = attention_case(batch, length, heads * width, length)
    rng = np.random.default_rng(width)
    softmax = IntegerSoftmax(multiplier(rng, (1, 5)), published)
    constants = multiplier(rng, (20, 24), (heads * width,))
    kept = jnp.arange(heads) != 1

    @jax.jit
    def both(*x: Any) -> tuple[jax.Array, jax.Array]:
        query, key, value, mask, softmax, constants, kept = x
        weights = softmax(IntegerScores(heads)(query, key), mask[:, None, None, :], kept)
        plain = to_8_bits(IntegerContext(heads)(weights, value), constants)
        return plain, fused_attention(
            query,
            key,
            jnp.moveaxis(value, -1, 0),
            mask,
            softmax.multiplier,
            to_8_bits,
            constants,
            heads=heads,
            kept_heads=kept,
            published=published,
            tiles=AttentionTiles(queries=16, keys=32),
            interpret=True,
        )

    plain, fused = both(query, key, value, mask, softmax, constants, kept)
    assert fused.dtype == np.int8
    assert np.array_equal(fused, plain)


def test_attention_reads_slices_in_place() -> None:
    """Query and key side by side in one array, a half each."""
    query, key, value, mask = attention_case(2, 40, 24, 0)
    rng = np.random.default_rng(0)
    constants = multiplier(rng, (1, 5)), multiplier(rng, (20, 24), (24,))

    def run(*arrays: jax.Array, **where: Any) -> jax.Array:
        return fused_attention(
            *arrays, mask, constants[0], to_8_bits, constants[1], heads=3, interpret=True, **where
        )

    whole, value = jnp.concatenate([query, key], axis=-1), jnp.moveaxis(value, -1, 0)
    found = run(whole, whole, value, slices=(0, 1), of=2)
    assert np.array_equal(found, run(query, key, value))


def rows_case(shape: tuple[int, ...]) -> np.ndarray:
    """Loud rows, quiet and constant ones; in every second one the largest is negative."""
    rng = np.random.default_rng(shape[-1])
    x = rng.integers(-(2**19), 2**19, shape)
    x[0] = 2**19 - 1
    x[1] = rng.integers(-3, 4, shape[1:])
    x[2] >>= 9
    x[::2, ..., 1] = -(2**19)
    return x


EPS = ((0, -64), (2**30 + 12345, -24), (2**31 - 1, 2))
"""None, and a large one."""


@pytest.mark.parametrize("shape", [(5, 2, 24), (3, 768), (7, 1100)])
def test_rows_are_normalized_alike(shape: tuple[int, ...]) -> None:
    x = rows_case(shape)

    @jax.jit
    def both(*x: Any) -> tuple[jax.Array, jax.Array]:
        (fused,) = fused_normalize(x[:1], *x[1:], interpret=True)
        return normalize(*x), fused

    for eps in EPS:
        plain, fused = both(jnp.asarray(x, jnp.int32), *map(jnp.int32, eps))
        assert np.array_equal(fused, plain)
        assert len(np.unique(plain)) > 100


@pytest.mark.parametrize("channels", [24, 384, 768])
def test_sum_normalization_and_copy_in_one(channels: int) -> None:
    """As in a layer: accumulators with their bias and a residual before, 8 bits after."""
    x = rows_case((6, 2, channels))
    rng = np.random.default_rng(channels)
    residual = jnp.asarray(rng.integers(-(2**21), 2**21, x.shape), jnp.int32)
    bias = jnp.asarray(rng.integers(-(2**20), 2**20, channels), jnp.int32)
    sums = [
        multiplier(rng, (1, 4), (channels,), bits=31),
        multiplier(rng, (2, 5), bits=31),
    ]
    copy = multiplier(rng, (4, 8), (channels,))

    def before(x: jax.Array, residual: jax.Array, constants: Any) -> jax.Array:
        return requantize_sum(
            (x + constants[0].reshape((1,) * (x.ndim - 1) + (-1,)), residual),
            constants[1],
            20,
            wide=True,
        )

    @jax.jit
    def both(x: jax.Array, residual: jax.Array, eps: Any, constants: Any, copy: Any) -> Any:
        plain = normalize(before(x, residual, constants), *eps)
        return (plain, to_8_bits(plain, copy)), fused_normalize(
            (x, residual),
            *eps,
            before=before,
            constants=constants,
            after=lambda x, constants: (x, to_8_bits(x, constants)),
            after_constants=copy,
            interpret=True,
        )

    eps = tuple(map(jnp.int32, EPS[1]))
    plain, fused = both(jnp.asarray(x, jnp.int32), residual, eps, (bias, sums), copy)
    assert fused[1].dtype == np.int8
    assert len(np.unique(plain[1])) > 100
    jax.tree.map(np.testing.assert_array_equal, fused, plain)


@pytest.mark.parametrize("channels", [128, 384, 24, 1152])
def test_embeddings_in_one(channels: int) -> None:
    """Rows looked up, in the kernel or, of an odd width, before; added, normalized, requantized,
    copied."""
    rng = np.random.default_rng(channels)

    def table(rows: int) -> IntegerEmbedding:
        weight = rng.integers(-127, 128, (rows, channels), np.int8)
        return IntegerEmbedding(
            jnp.asarray(weight), jnp.asarray(rng.integers(0, 2**20, rows), jnp.int32)
        )

    ids = jnp.asarray(rng.integers(0, 90, (3, 7)), jnp.int32).at[0, 0].set(1000)  # clipped
    positions = jnp.arange(7, dtype=jnp.int32)[None]
    tables = (table(90), table(2), table(8))
    rows = tuple(map(PendingRows, (ids, ids % 2, positions), tables))
    total = IntegerAct(tuple(multiplier(rng, (3, 5), bits=31) for _ in rows), 20)
    act = IntegerAct((multiplier(rng, (1, 3), (channels,), bits=31),), 22)
    copy = IntegerAct((multiplier(rng, (5, 7), (channels,)),), 8)
    norm = IntegerLayerNorm(jnp.int32(2**30 + 12345), jnp.int32(-24))

    @jax.jit
    def both(rows: Any, total: Any, act: Any, copy: Any) -> Any:
        pending = PendingRowSum(rows, total)
        whole = act(norm(pending.settle()))
        return (whole, copy(whole)), pending.normalized(norm, act, copy, interpret=True)

    plain, fused = both(rows, total, act, copy)
    assert fused[1].dtype == np.int8
    assert min(len(np.unique(each)) for each in plain) > 50
    jax.tree.map(np.testing.assert_array_equal, fused, plain)


def test_parts_of_a_row() -> None:
    assert [parts_of(n, 1) for n in (24, 128, 768)] == [[128], [128], [128] * 6]
    assert [parts_of(n, 2) for n in (24, 1100, 1536)] == [[256], [256] * 5, [256] * 6]


def test_kernels_lower_to_triton_without_a_gpu() -> None:
    """Every operation in them has a rule there, and their products stay 8-bit."""

    def array(shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

    def constants(shape: tuple[int, ...]) -> Multiplier:
        return Multiplier(*[array(shape, "int32")] * 4)

    def run(q: Any, weight: Any, bias: Any, gelu: Any, softmax: Any, act: Any, mask: Any) -> Any:
        inner = fused_linear(q, weight, bias, gelu_to_8_bits, gelu)
        values = jnp.moveaxis(inner, -1, 0)
        context = fused_attention(
            inner, inner, values, mask, softmax, to_8_bits, act, heads=4, published=True
        )
        context = fused_attention(
            context, inner, values, mask, softmax, to_8_bits, act, heads=4, published=False
        )
        return fused_normalize((context.astype(jnp.int32),), bias[0], bias[1])[0]

    n, b, t = 256, 2, 300
    arguments = (
        array((b, t, 128), "int8"),
        array((n, 128), "int8"),
        array((n,), "int32"),
        (constants((n,)), array((), "int32"), constants((n,))),
        constants(()),
        constants((n,)),
        array((b, t), "bool"),
    )
    h200 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
    with jax.sharding.use_abstract_mesh(h200), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of JAX 0.11, of the backend
        lowered = jax.jit(run).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("custom_call @__gpu$xla.gpu.triton") == 4
