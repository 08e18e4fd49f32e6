"""Wide products and requantization against the specification, equality."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax import spec
from ibert_jax.integer.dyadic import Multiplier, requantize, rescale
from ibert_jax.integer.wide import multiply_high, multiply_high_15

INT32 = np.iinfo(np.int32)
EDGES = np.array(
    [INT32.min, INT32.min + 1, -65537, -65536, -65535, -1, 0, 1, 65535, 65536, INT32.max]
)


def operands(limit: int, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of edges, then random int32 x and |m| < limit, all magnitudes alike likely."""
    rng = np.random.default_rng(7)
    x = rng.integers(INT32.min, INT32.max, count, endpoint=True) >> rng.integers(0, 31, count)
    m = rng.integers(-limit + 1, limit, count) >> rng.integers(0, 14, count)
    edges = np.array([1 - limit, -1, 0, 1, limit - 1])
    pairs = np.array([(a, b) for a in EDGES for b in edges])
    return np.concatenate([pairs[:, 0], x]), np.concatenate([pairs[:, 1], m])


def test_narrow_product() -> None:
    x, m = operands(2**15)
    got = multiply_high_15(jnp.asarray(x, jnp.int32), jnp.asarray(m, jnp.int32))
    assert np.array_equal(got, (x * m) >> 16)


def test_wide_product() -> None:
    x, m = operands(2**31)
    got = multiply_high(jnp.asarray(x, jnp.int32), jnp.asarray(m, jnp.int32))
    want = [int(a) * int(b) >> 32 for a, b in zip(x, m, strict=True)]
    assert np.array_equal(got, want)


def test_unsigned_product() -> None:
    rng = np.random.default_rng(3)
    edges = np.array([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1], np.uint32)
    a = np.concatenate([np.repeat(edges, 6), rng.integers(0, 2**32, 20_000, np.uint32)])
    b = np.concatenate([np.tile(edges, 6), rng.integers(0, 2**32, 20_000, np.uint32)])
    got = multiply_high(jnp.asarray(a), jnp.asarray(b))
    assert got.dtype == np.uint32
    assert np.array_equal(np.asarray(got).astype(object), a.astype(object) * b.astype(object) >> 32)


@pytest.mark.parametrize("wide", [False, True])
def test_nothing_of_64_bits_is_written_to_memory(wide: bool) -> None:
    """The product lives between two operations of one loop."""
    x, constants = jnp.zeros((64, 256), jnp.int32), Multiplier(*jnp.ones((3, 256), jnp.int32))
    compiled = jax.jit(requantize, static_argnames=("bits", "wide"))
    text = compiled.lower(x, constants, bits=8, wide=wide).compile().as_text()
    assert "s64[64,256]" in text
    assert "s64" not in text[text.index("ENTRY") :]


def test_64_bits_stay_inside() -> None:
    """JAX's types are what they were, also for what is traced next."""
    x = jnp.arange(4, dtype=jnp.int32)
    assert jax.jit(lambda x: multiply_high(x, x) + jnp.arange(4))(x).dtype == jnp.int32
    assert not jax.config.jax_enable_x64


def random_constants(rng: np.random.Generator, wide: bool, channels: int) -> list[spec.Multiplier]:
    limit = 2**31 if wide else 2**15
    result = []
    for _ in range(channels):
        shift = int(rng.integers(1, 31))
        pre = int(rng.integers(0, 25)) if shift == 1 else 0
        offset = int(rng.integers(-(2**30), 2**30 + 1)) >> int(rng.integers(0, 30))
        result.append((int(rng.integers(1 - limit, limit)), offset, shift, pre))
    return result


def stacked(constants: list[spec.Multiplier]) -> Multiplier:
    return Multiplier(*(jnp.asarray(column, jnp.int32) for column in zip(*constants, strict=True)))


def check_requantize(wide: bool, bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    constants = random_constants(rng, wide, 64)
    x = rng.integers(INT32.min, INT32.max, (160, 64), endpoint=True) >> rng.integers(
        0, 31, (160, 64)
    )
    x[0] = rng.choice(EDGES, 64)
    got = requantize(jnp.asarray(x, jnp.int32), stacked(constants), bits, wide=wide)
    want = [
        [spec.requantize(int(v), c, bits, wide=wide) for v, c in zip(row, constants, strict=True)]
        for row in x
    ]
    assert got.dtype == (jnp.int8 if bits <= 8 else jnp.int32)
    assert np.array_equal(got, want)


def test_requantize_is_the_specification() -> None:
    for wide, bits, seed in ((False, 8, 0), (False, 16, 1), (True, 20, 2), (True, 21, 3)):
        check_requantize(wide, bits, seed)


def test_no_left_shift_is_a_left_shift_of_zero() -> None:
    rng = np.random.default_rng(5)
    constants = stacked([c for c in random_constants(rng, False, 200) if c[3] == 0])
    x = jnp.asarray(rng.integers(INT32.min, INT32.max, (50, constants.m.shape[0])), jnp.int32)
    without = dataclasses.replace(constants, pre=None)
    assert np.array_equal(rescale(x, constants, wide=False), rescale(x, without, wide=False))


@settings(deadline=None, max_examples=50)
@given(
    x=st.integers(INT32.min, INT32.max),
    m=st.integers(1 - 2**31, 2**31 - 1),
    shift=st.integers(1, 30),
    pre=st.integers(0, 24),
)
def test_rescale_of_any_scalar(x: int, m: int, shift: int, pre: int) -> None:
    constants = (m, 1 << (shift - 1), shift, pre)
    got = jax.jit(rescale, static_argnames="wide")(
        jnp.asarray([x], jnp.int32), stacked([constants]), wide=True
    )
    assert int(got[0]) == spec.rescale(x, constants, wide=True)
