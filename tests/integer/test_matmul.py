"""8-bit products: exact by every path, under every transformation."""

from __future__ import annotations

import os
import platform
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import spec
from ibert_jax.integer import mixed
from ibert_jax.integer.compiled import cpu_features
from ibert_jax.integer.matmul import int8_linear, int8_scores, row_sum_u8, shift_bias
from ibert_jax.integer.mixed import dot_u8_s8

BATCHED = (((2,), (1,)), ((0,), (0,)))


def linear_case(rows: int, k: int, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(rows + k)
    q = rng.integers(-128, 128, (rows, k))
    weight = rng.integers(-127, 128, (n, k))
    q[0], weight[0] = -128, 127
    bias = rng.integers(-(2**30), 2**30, n)
    return jnp.asarray(q, jnp.int8), jnp.asarray(weight, jnp.int8), jnp.asarray(bias, jnp.int32)


@pytest.mark.parametrize(("rows", "k", "n"), [(1, 1, 1), (3, 7, 5), (250, 48, 96), (5, 3072, 33)])
def test_linear_is_the_specification(rows: int, k: int, n: int) -> None:
    q, weight, bias = linear_case(rows, k, n)
    got = int8_linear(q, weight, bias, shift_bias(weight, bias))
    exact = np.asarray(q).astype(np.int64) @ np.asarray(weight).T.astype(np.int64) + np.asarray(
        bias
    )
    assert np.array_equal(got, exact)
    want = [spec.linear(row, weight.tolist(), bias.tolist()) for row in q.tolist()]
    assert got.tolist() == want


def test_eager_jitted_and_mapped_agree() -> None:
    q, weight, bias = linear_case(12, 40, 9)
    shifted = shift_bias(weight, bias)
    want = np.asarray(int8_linear(q, weight, bias, shifted))
    assert np.array_equal(jax.jit(int8_linear)(q, weight, bias, shifted), want)
    mapped = jax.vmap(int8_linear, (0, None, None, None))(
        q.reshape(3, 4, 40), weight, bias, shifted
    )
    assert np.array_equal(mapped.reshape(12, 9), want)


def mixed_case() -> tuple[jax.Array, jax.Array, np.ndarray]:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (6, 5, 16)), rng.integers(-128, 128, (6, 16, 8))
    exact = np.einsum("brk,bkn->brn", a, b)
    return jnp.asarray(a, jnp.uint8), jnp.asarray(b, jnp.int8), exact


def test_mixed_product_and_its_plain_form_agree() -> None:
    a, b, exact = mixed_case()
    assert np.array_equal(dot_u8_s8(a, b, BATCHED), exact)
    # What other platforms lower to.
    assert np.array_equal(mixed._plain(a, b, dimensions=BATCHED), exact)


def test_mixed_product_under_vmap() -> None:
    a, b, exact = mixed_case()
    single = (((1,), (0,)), ((), ()))
    mapped = jax.vmap(lambda x, y: dot_u8_s8(x, y, single))(a, b)
    assert np.array_equal(mapped, exact)
    one_side = jax.vmap(lambda x: dot_u8_s8(x, b[0], single))(a)
    assert np.array_equal(one_side, np.einsum("brk,kn->brn", np.asarray(a).astype(int), b[0]))


def test_mixed_product_refuses_other_types() -> None:
    _, b, _ = mixed_case()
    with pytest.raises(TypeError, match="uint8 and int8"):
        dot_u8_s8(b, b, BATCHED)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 1, 8), np.uint32), ((6, 8), np.int32),
                                              ((6, 1, 4), np.int32)])  # fmt: skip
def test_mixed_product_refuses_another_surplus(shape: tuple[int, ...], dtype: type) -> None:
    """On this machine it may never be read."""
    a, b, _ = mixed_case()
    with pytest.raises(TypeError, match=r"a surplus of int32 that broadcasts to \(6, 5, 8\)"):
        dot_u8_s8(a, b, BATCHED, jnp.zeros(shape, dtype))


def test_products_are_the_same_on_every_processor(vectorized: bool) -> None:
    a, b, exact = mixed_case()
    sums = mixed.ZERO_POINT * np.asarray(b).astype(np.int32).sum(axis=1, keepdims=True)
    known = partial(dot_u8_s8, dimensions=BATCHED, surplus=jnp.asarray(sums))
    found = [partial(dot_u8_s8, dimensions=BATCHED), known]
    assert all(np.array_equal(jax.jit(product)(a, b), exact) for product in found)
    single = partial(dot_u8_s8, dimensions=(((1,), (0,)), ((), ())))
    mapped = jax.vmap(lambda x, y, s: single(x, y, surplus=s))(a, b, jnp.asarray(sums))
    assert np.array_equal(mapped, exact)
    for rows in (1, 12):
        q, weight, bias = linear_case(rows, 40, 9)
        want = np.asarray(q, np.int64) @ np.asarray(weight).T.astype(np.int64) + np.asarray(bias)
        linear = jax.jit(int8_linear)
        assert np.array_equal(linear(q, weight, bias, shift_bias(weight, bias)), want)


def test_products_stay_8_bit_on_every_processor(vectorized: bool) -> None:
    """XLA would run a lone row, or operands of a layout that it does not like, in int32."""
    q, weights = jnp.zeros((12, 64, 64), jnp.int8), jnp.zeros((12, 64, 64), jnp.uint8)
    matrix, bias = jnp.zeros((64, 64), jnp.int8), jnp.zeros(64, jnp.int32)
    for lowered in (
        jax.jit(int8_scores).lower(q, q),
        jax.jit(row_sum_u8).lower(weights),
        jax.jit(partial(dot_u8_s8, dimensions=BATCHED)).lower(weights, q),
        jax.jit(int8_linear).lower(q[0], matrix, bias, bias),
        jax.jit(int8_linear).lower(q[0, :1], matrix, bias, bias),
    ):
        left = "xui8>" if vectorized else "xi8>"
        products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
        assert products and re.search(rf"{left}, tensor<[0-9x]*xi8>\) ->", products[-1])
        compiled = lowered.compile().as_text()
        assert "__ynn_fusion" in compiled and " dot(s32" not in compiled


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not Path("/proc/cpuinfo").exists(),
    reason="a choice on x86, and Linux tells what there is",
)
def test_processor_is_known() -> None:
    """Or it would be given the slower products without anyone noticing."""
    told = Path("/proc/cpuinfo").read_text()
    limited = "xla_cpu_max_isa" in os.environ.get("XLA_FLAGS", "")
    assert cpu_features() and mixed.vectorized() == ("avx512_vnni" in told and not limited)


def test_a_processor_that_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_backend(**_: object) -> None:
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", no_backend)
    assert cpu_features.__wrapped__() == frozenset()


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 16), (4, 48, 64)])
def test_scores_are_the_products_of_all_pairs(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(shape[1])
    query, key = (rng.integers(-128, 128, shape).astype(np.int8) for _ in range(2))
    query[0, 0], key[0, 0] = -128, -128
    exact = np.einsum("nqd,nkd->nqk", query.astype(np.int64), key)
    assert np.array_equal(jax.jit(int8_scores)(query, key), exact)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 5, 40)])
def test_row_sums_of_bytes(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    x[0] = 255
    assert np.array_equal(jax.jit(row_sum_u8)(x), x.astype(np.int64).sum(-1, keepdims=True))
