"""Sums and maxima of rows: the folded form is the plain one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.integer.layernorm import normalize
from ibert_jax.integer.rows import _parts, row_largest, row_max, row_sum

LENGTHS = [1, 7, 31, 32, 33, 48, 128, 200, 384, 512, 768, 1024, 3072, 4096]


@pytest.mark.parametrize("length", LENGTHS)
def test_folded_rows_are_rows(length: int) -> None:
    x = np.random.default_rng(length).integers(-(2**18), 2**18, (3, 2, length)).astype(np.int32)
    assert np.array_equal(jax.jit(row_sum)(x), x.sum(-1, keepdims=True))
    assert np.array_equal(jax.jit(row_max)(x), x.max(-1, keepdims=True))
    assert np.array_equal(jax.jit(row_largest)(x), abs(x).max(-1, keepdims=True))


def test_unsigned_sums_fill_their_type() -> None:
    x = np.full((1, 2048), 2**21 - 1, np.uint32)
    assert row_sum(jnp.asarray(x)).item() == x.astype(np.int64).sum() > 2**31


def test_no_long_row_is_left_to_xla() -> None:
    """Lengths that are used: a fold into at most 32 parts, of whole vectors."""
    for length in (64, 128, 256, 384, 512, 768, 1024):
        assert 1 < _parts(length) <= 32 and length // _parts(length) % 16 == 0
    text = jax.jit(lambda x: row_sum(x * 3)).lower(jnp.zeros((8, 768), jnp.int32)).compile()
    assert "reduce-window" not in text.as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_only_cpus_take_the_largest_of_absolute_values(platform: str) -> None:
    """XLA compiles it to something else for NVIDIA GPUs (see ``row_largest``)."""
    x = np.array([[3, -9, 4], [0, 0, -1], [-(2**20), 5, 2**20 - 1]], np.int32)
    both = np.maximum(x.max(-1), -x.min(-1))  # what is lowered elsewhere
    assert both.tolist() == jax.jit(row_largest)(x)[:, 0].tolist() == [9, 1, 2**20]
    traced = jax.jit(normalize).trace(np.zeros((4, 384), np.int32), np.int32(0), np.int32(-64))
    assert "stablehlo.abs" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.abs" in traced.lower(lowering_platforms=("cpu",)).as_text()
