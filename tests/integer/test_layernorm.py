"""i-LayerNorm against the specification and against float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import spec
from ibert_jax.integer.layernorm import normalize

NO_EPS = (0, -64)


def run(x: np.ndarray, eps: spec.Number) -> np.ndarray:
    return np.asarray(normalize(jnp.asarray(x, jnp.int32), jnp.int32(eps[0]), jnp.int32(eps[1])))


def loud_and_quiet(channels: int, seed: int) -> np.ndarray:
    """Rows from the full 20 bits down to a few steps, some with an outlier, some constant."""
    rng = np.random.default_rng(seed)
    spread = np.array([2.0**18, 2.0**15, 500, 40, 3, 0.4, 0, 0])[:, None]
    x = rng.standard_normal((8, channels)) * spread + rng.uniform(-1e5, 1e5, (8, 1))
    x[1, 0] = 2**19 - 1
    x[2, -1] = -(2**19)
    return np.clip(np.round(x), -(2**19), 2**19 - 1).astype(np.int64)


@pytest.mark.parametrize("channels", [1, 2, 3, 31, 384, 768, 1024, 4095])
def test_layernorm_is_the_specification(channels: int) -> None:
    for seed, eps in enumerate((NO_EPS, (2**30 + 12345, -20), (2**31 - 1, 30), (2**30, 60))):
        x = loud_and_quiet(channels, seed)
        want = [spec.layernorm(row.tolist(), eps) for row in x]
        assert np.array_equal(run(x, eps), want)


def test_extreme_rows() -> None:
    low, high = -(2**19), 2**19 - 1
    x = np.array([[low] * 8, [high] * 8, [low, high] * 4, [low] * 7 + [high], [0] * 7 + [1]])
    for eps in (NO_EPS, (2**31 - 1, 60)):
        assert np.array_equal(run(x, eps), [spec.layernorm(row.tolist(), eps) for row in x])
    assert not run(x, NO_EPS)[:2].any()


@pytest.mark.parametrize("channels", [64, 384, 768, 1024])
def test_error_down_to_a_thousandth_of_the_range(channels: int) -> None:
    rng = np.random.default_rng(channels)
    spread = 2.0 ** rng.uniform(17.5 - 10, 17.5, (2000, 1))
    x = np.round(rng.standard_normal((2000, channels)) * spread).clip(-(2**19), 2**19 - 1)
    exact = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    error = np.abs(run(x.astype(np.int64), NO_EPS) / 2**14 - exact)
    assert error.max() <= 0.003


def test_lemma_bounds_the_result() -> None:
    """|y| <= ||y||: no row leaves 2^14 sqrt(C) by more than the reciprocal's rounding."""
    for channels in (2, 384, 1024):
        x = np.zeros((3, channels), np.int64)
        x[0, 0], x[1, 0], x[2, 0] = 2**19 - 1, 1, -(2**19)
        bound = 2**14 * channels**0.5 * (1 + 2**-13) + 1
        assert np.abs(run(x, NO_EPS)).max() <= bound
