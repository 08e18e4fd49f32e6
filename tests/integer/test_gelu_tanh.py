"""i-GELU and i-tanh over every input of every grid."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax import spec
from ibert_jax.integer.gelu import igelu
from ibert_jax.integer.tanh import itanh

INPUTS = np.arange(-(2**15), 2**15)


@pytest.mark.parametrize("k", range(7, 14))
def test_igelu_everywhere(k: int) -> None:
    got = np.asarray(igelu(jnp.asarray(INPUTS, jnp.int32), jnp.int32(k)))
    assert got.tolist() == [spec.igelu(int(q), k) for q in INPUTS]
    x = INPUTS / 2**k
    exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    error = np.abs(got / 2.0 ** (k + 15) - exact)
    assert error.max() <= 0.0185  # the real-valued polynomial has 0.01815
    near = error[np.abs(x) <= 4]
    assert math.sqrt((near**2).mean()) <= 0.0083  # and 0.00819


def test_itanh_everywhere() -> None:
    got = np.asarray(itanh(jnp.asarray(INPUTS, jnp.int32)))
    assert got.tolist() == [spec.itanh(int(q)) for q in INPUTS]
    error = np.abs(got / 2**15 - np.tanh(INPUTS * math.log(2) / 2**12))
    assert error.max() <= 2.0e-3  # i-exp's, halved at worst, and rounding
