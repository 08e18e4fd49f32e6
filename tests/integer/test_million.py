"""A million random elements through every kernel whose domain is too large to exhaust.

The kernel is compared with an int64 twin of its specification, and the twin with ``spec`` itself
on some thousand of the same elements: equality, both times.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import spec
from ibert_jax.integer import layernorm, softmax
from ibert_jax.integer.dyadic import Multiplier, requantize
from ibert_jax.integer.matmul import int8_linear, shift_bias
from ibert_jax.integer.wide import multiply_high, multiply_high_15

from . import twins

SHAPE = (1024, 1024)
INT32 = np.iinfo(np.int32)


def int32s(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """All magnitudes alike likely, the ends of the range among them."""
    x = rng.integers(INT32.min, INT32.max, shape, endpoint=True) >> rng.integers(0, 32, shape)
    x.flat[:: x.size // 8] = [INT32.min, INT32.max, 0, 1, -1, 65535, -65536, 65536]
    return x


def random_constants(rng: np.random.Generator, wide: bool) -> list[spec.Multiplier]:
    """One per channel; every eighth with a left shift."""
    limit = 2**31 if wide else 2**15
    result = []
    for channel in range(SHAPE[1]):
        shift = 1 if channel % 8 == 0 else int(rng.integers(1, 31))
        pre = int(rng.integers(1, 25)) if channel % 8 == 0 else 0
        offset = int(rng.integers(-(2**30), 2**30 + 1)) >> int(rng.integers(0, 30))
        m = int(rng.integers(1 - limit, limit)) >> int(rng.integers(0, 12))
        result.append((m, offset, shift, pre))
    return result


def columns(constants: list[spec.Multiplier]) -> twins.Constants:
    m, offset, shift, pre = (np.array(c, np.int64) for c in zip(*constants, strict=True))
    return m, offset, shift, pre


def as_multiplier(constants: twins.Constants) -> Multiplier:
    return Multiplier(*(jnp.asarray(c, jnp.int32) for c in constants))


@pytest.mark.parametrize(("wide", "bits"), [(False, 8), (False, 16), (True, 20)])
def test_requantize(wide: bool, bits: int) -> None:
    rng = np.random.default_rng(bits)
    constants, x = random_constants(rng, wide), int32s(rng, SHAPE)
    want = twins.requantize(x, columns(constants), bits, wide=wide)
    for row in (0, 128, 500, 1023):
        specified = [
            spec.requantize(q, c, bits, wide=wide)
            for q, c in zip(x[row].tolist(), constants, strict=True)
        ]
        assert want[row].tolist() == specified
    run = jax.jit(functools.partial(requantize, bits=bits, wide=wide))
    got = run(jnp.asarray(x, jnp.int32), as_multiplier(columns(constants)))
    assert np.array_equal(got, want)
    assert len(np.unique(want)) > 250  # not all of them saturated


def test_wide_products() -> None:
    """NumPy's int64 and uint64 hold each product exactly."""
    rng = np.random.default_rng(1)
    x, y = int32s(rng, SHAPE), int32s(rng, SHAPE)
    narrow, wide = y >> 16, y.clip(1 - 2**31)
    narrow = narrow.clip(1 - 2**15)
    x32 = jnp.asarray(x, jnp.int32)
    got = jax.jit(multiply_high_15)(x32, jnp.asarray(narrow, jnp.int32))
    assert np.array_equal(got, x * narrow >> 16)
    got = jax.jit(multiply_high)(x32, jnp.asarray(wide, jnp.int32))
    assert np.array_equal(got, x * wide >> 32)
    a, b = (v.astype(np.uint32) for v in (x, y))
    got = jax.jit(multiply_high)(jnp.asarray(a), jnp.asarray(b))
    assert np.array_equal(got, (a.astype(np.uint64) * b.astype(np.uint64) >> 32).astype(np.uint32))


@pytest.mark.parametrize("channels", [1024, 768])
def test_layernorm(channels: int) -> None:
    """Rows of every loudness, on any mean, some with an outlier; with and without eps."""
    rng = np.random.default_rng(channels)
    rows = 2**20 // channels + 1
    x = rng.standard_normal((rows, channels)) * 2.0 ** rng.uniform(-2, 18, (rows, 1))
    x += rng.uniform(-(2**18), 2**18, (rows, 1))
    outliers = rng.integers(0, channels, rows)
    x[::4][np.arange(len(x[::4])), outliers[::4]] *= 50
    x = x.round().clip(-(2**19), 2**19 - 1).astype(np.int64)
    run = jax.jit(layernorm.normalize)
    for eps in ((0, -64), (2**30 + 987654, -9)):
        want = twins.layernorm(x, eps)
        for row in (0, 1, 2, 3, rows // 2, rows - 1):
            assert want[row].tolist() == spec.layernorm(x[row].tolist(), eps)
        got = run(jnp.asarray(x, jnp.int32), jnp.int32(eps[0]), jnp.int32(eps[1]))
        assert np.array_equal(got, want)


@pytest.mark.parametrize("name", ["softmax_numerators", "softmax_reference"])
def test_softmax(name: str) -> None:
    """4,096 rows of 256 keys of every sharpness, under a mask that is another for each head."""
    rng = np.random.default_rng(2)
    shape = (16, 4, 64, 256)
    spread = 2.0 ** rng.uniform(0, 24, (*shape[:3], 1))
    scores = (rng.standard_normal(shape) * spread).round().clip(1 - 2**30, 2**30 - 1)
    scores = scores.astype(np.int64)
    mask = rng.random((16, 1, 1, 256)) < np.linspace(0, 1, 16).reshape(-1, 1, 1, 1)
    constants = spec.multiplier(0.0031, 1.0, wide=False, factor=(2**30 + 2**29, -18))
    each = columns([constants])
    numerators, sums = getattr(twins, name)(scores, mask, each)
    specified = getattr(spec, name)
    for index in ((0, 0, 0), (3, 1, 20), (7, 2, 63), (11, 0, 5), (15, 3, 33)):
        want, total = specified(scores[index].tolist(), mask[index[0], 0, 0].tolist(), constants)
        assert numerators[index].tolist() == want
        assert sums[index].tolist() == [total]
    scalar = Multiplier(*(jnp.int32(v) for v in constants))
    run = jax.jit(getattr(softmax, name))
    got, totals = run(jnp.asarray(scores, jnp.int32), jnp.asarray(mask), scalar)
    assert np.array_equal(got, numerators)
    assert np.array_equal(totals, sums)


def test_division_by_the_row_sum() -> None:
    """Every sum that rows of up to 512 keys can have, and larger ones; any weighted mean."""
    rng = np.random.default_rng(3)
    row_sum = rng.integers(255, 255 * 512, SHAPE[0], endpoint=True)
    row_sum[::16] = rng.integers(255, 2**23, len(row_sum[::16]))
    row_sum[:2] = 0, 2**23 - 1
    row_sum = row_sum[:, None]
    total = np.rint(rng.uniform(-128, 128, SHAPE) * row_sum).astype(np.int64)
    total[:, 0], total[:, 1] = -128 * row_sum[:, 0], 127 * row_sum[:, 0]
    want = twins.divide_by_row_sum(total, row_sum)
    for row in (0, 1, 500, 1023):
        s = int(row_sum[row, 0])
        assert want[row].tolist() == [spec.divide_by_row_sum(t, s) for t in total[row].tolist()]
    run = jax.jit(softmax.divide_by_row_sum)
    got = run(jnp.asarray(total, jnp.int32), jnp.asarray(row_sum, jnp.int32))
    assert np.array_equal(got, want)


def test_linear() -> None:
    """A million accumulators of 64 products; weights and inputs at their ends in the first row."""
    rng = np.random.default_rng(4)
    q, weight = rng.integers(-128, 128, (1024, 64)), rng.integers(-127, 128, (1024, 64))
    q[0], weight[0] = -128, 127
    bias = rng.integers(-(2**30), 2**30, 1024, endpoint=True)
    want = q @ weight.T + bias
    for row in (0, 77, 1023):
        assert want[row].tolist() == spec.linear(q[row].tolist(), weight.tolist(), bias.tolist())
    arrays = jnp.asarray(weight, jnp.int8), jnp.asarray(bias, jnp.int32)
    got = jax.jit(int8_linear)(jnp.asarray(q, jnp.int8), *arrays, shift_bias(*arrays))
    assert np.array_equal(got, want)
