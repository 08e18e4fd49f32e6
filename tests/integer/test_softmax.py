"""i-exp over its whole domain, softmax rows and the division by the row sum."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import spec
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.softmax import (
    LOWEST,
    divide_by_row_sum,
    iexp,
    softmax_numerators,
    softmax_reference,
)
from ibert_jax.quantize.numbers import python_number

DOMAIN = np.arange(LOWEST, 1)
GRID = np.log(2) / 2**11


def test_iexp_is_the_specification_everywhere() -> None:
    assert iexp(jnp.asarray(DOMAIN, jnp.int32)).tolist() == [spec.iexp(int(t)) for t in DOMAIN]


def test_iexp_error() -> None:
    error = np.abs(np.asarray(iexp(jnp.asarray(DOMAIN, jnp.int32))) / 2**15 - np.exp(DOMAIN * GRID))
    assert error.max() <= 2.0e-3  # the real-valued polynomial has 1.913e-3


def constants(step: float) -> spec.Multiplier:
    """From scores of the given step to the grid."""
    return spec.multiplier(step, 1.0, wide=False, factor=python_number(1 / GRID))


def as_arrays(values: spec.Multiplier) -> Multiplier:
    return Multiplier(*(jnp.int32(v) for v in values))


def rows(keys: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 scores [8, 3, 2, keys] of several sharpnesses and a mask; row 7 keeps no key."""
    rng = np.random.default_rng(seed)
    spread = np.array([0, 10, 300, 3000, 30_000, 10**6, 2**20, 5]).reshape(8, 1, 1, 1)
    scores = (rng.standard_normal((8, 3, 2, keys)) * spread).astype(np.int64)
    mask = rng.random((8, 1, 1, keys)) < 0.7
    mask[0], mask[7] = True, False
    mask[1:7, :, :, 0] = True
    return scores.clip(-(2**30) + 1, 2**30 - 1), mask


@pytest.mark.parametrize("keys", [1, 2, 17, 512])
@pytest.mark.parametrize("kernel", [softmax_numerators, softmax_reference])
def test_softmax_is_the_specification(keys: int, kernel) -> None:
    scores, mask = rows(keys, keys)
    values = constants(0.003)
    got, sums = kernel(jnp.asarray(scores, jnp.int32), jnp.asarray(mask), as_arrays(values))
    specified = getattr(spec, kernel.__name__)
    for index in np.ndindex(scores.shape[:-1]):
        want, total = specified(scores[index].tolist(), mask[index[0], 0, 0].tolist(), values)
        assert got[index].tolist() == want
        assert int(sums[index][0]) == total


@pytest.mark.parametrize("keys", [8, 128, 512])
def test_rows_sum_to_one(keys: int) -> None:
    """Within a unit of the last place of 8 bits, as weights over their own sum."""
    rng = np.random.default_rng(keys)
    step = 0.003
    scores = (rng.standard_normal((4, 2, keys, keys)) * 1000).astype(np.int32)
    mask = jnp.ones((4, 1, 1, keys), bool)
    numerators, sums = softmax_numerators(jnp.asarray(scores), mask, as_arrays(constants(step)))
    # What the context sees: every weight times one, divided by the row sum.
    ones = divide_by_row_sum(sums, sums)
    assert np.abs(np.asarray(ones) / 2.0**21 - 1).max() < 2**-13
    weights = np.asarray(numerators).astype(np.float64) / np.asarray(sums)
    assert np.abs(weights.sum(-1) - 1).max() < 1e-12
    # Relative to the row's largest: i-exp's error and half a step of the numerator.
    exact = np.exp((scores - scores.max(-1, keepdims=True)) * step)
    assert np.abs(np.asarray(numerators) / 255 - exact).max() <= 2.0e-3 + 0.5 / 255


def test_excluded_keys_get_nothing_and_empty_rows_give_zero() -> None:
    scores, mask = rows(32, 1)
    got, sums = softmax_numerators(
        jnp.asarray(scores, jnp.int32), jnp.asarray(mask), as_arrays(constants(1e-9))
    )
    assert not np.asarray(got)[~np.broadcast_to(mask, scores.shape)].any()
    assert not np.asarray(sums)[7].any()
    assert not np.asarray(divide_by_row_sum(jnp.zeros_like(sums), sums))[7].any()


def test_division_is_the_specification_and_its_clip_never_acts() -> None:
    rng = np.random.default_rng(9)
    row_sum = np.concatenate([[0, 255, 256, 2**23 - 1], rng.integers(255, 2**18, 20_000)])
    total = (rng.uniform(-128, 128, row_sum.size) * row_sum).astype(np.int64)
    total[:4] = [0, -128 * 255, 128 * 256, -128 * (2**23 - 1)]
    got = divide_by_row_sum(
        jnp.asarray(total, jnp.int32)[:, None], jnp.asarray(row_sum, jnp.int32)[:, None]
    )[:, 0]
    want = [spec.divide_by_row_sum(int(t), int(s)) for t, s in zip(total, row_sum, strict=True)]
    assert got.tolist() == want
    for t, s in zip(total.tolist(), row_sum.tolist(), strict=True):
        zeros, _ = spec.reciprocal_15(max(s, 255))
        assert abs(t) <= 2**30 >> (zeros - 9)
    inside = row_sum > 0
    exact = total[inside] / row_sum[inside]
    assert np.abs(np.asarray(got)[inside] / 2**21 - exact).max() <= 128 * 2**-14
