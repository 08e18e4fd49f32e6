"""Scales and constants against the specification: equality, eager and jitted."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax import spec
from ibert_jax.quantize import constants
from ibert_jax.quantize.numbers import python_number

COUNT = 20_000


def floats(seed: int, low: float = -40, high: float = 40, count: int = COUNT) -> np.ndarray:
    """Positive float32 over many octaves, with powers of two and their neighbours."""
    rng = np.random.default_rng(seed)
    x = np.exp2(rng.uniform(low, high, count)).astype(np.float32)
    powers = np.exp2(np.arange(int(low), int(high))).astype(np.float32)
    edges = [powers, np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(np.inf))]
    return np.concatenate([x, *edges])


def shorts(seed: int, count: int, low: float = -40, high: float = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(2**11, 2**12, count) * np.exp2(rng.integers(low, high, count))).astype(
        np.float32
    )


@pytest.mark.parametrize("function", ["short_up", "short_down"])
def test_short_floats(function: str) -> None:
    x = floats(0)
    got = getattr(constants, function)(jnp.asarray(x))
    assert np.asarray(got).tolist() == [getattr(spec, function)(float(v)) for v in x]


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 20])
def test_scale_of_range(bits: int) -> None:
    x = np.concatenate([floats(1), np.float32([0, 1e-38, 1e-9, 1e-8])])
    got = np.asarray(constants.scale_of_range(jnp.asarray(x), bits=bits))
    assert got.tolist() == [spec.scale_of_range(float(v), bits) for v in x]
    # It covers the range, and costs no more than 0.1% of it.
    covered = got.astype(np.float64) * (2 ** (bits - 1) - (1 if bits <= 12 else 0))
    asked = np.maximum(x.astype(np.float64), spec.RANGE_FLOOR)
    assert (covered >= asked * (1 - 2**-23)).all() and (covered <= asked * 1.001).all()


def test_steps_per_unit_and_reciprocal() -> None:
    x = floats(2)
    steps = np.asarray(constants.steps_per_unit(jnp.asarray(x), bits=8))
    assert steps.tolist() == [spec.steps_per_unit(float(v), 8) for v in x]
    assert (steps.astype(np.float64) * x <= 127).all()
    inverse = np.asarray(constants.reciprocal(jnp.asarray(steps)))
    assert inverse.tolist() == [spec.reciprocal(float(v)) for v in steps]


def cases(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators of both signs (and zeros), short denominators, offsets (some zero or huge)."""
    rng = np.random.default_rng(seed)
    numerator = floats(seed, -45, 20) * rng.choice(np.float32([-1, 1]), COUNT + 3 * 65)
    numerator[:5] = [0.0, -0.0, 1e-39, 1.0, -1.0]
    denominator = shorts(seed + 1, numerator.size, -40, 10)
    offset = floats(seed + 2, -45, 20) * rng.choice(np.float32([-1, 0, 1]), numerator.size)
    return numerator, denominator, offset


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("with_offset", [False, True])
def test_multiplier_is_the_specification(wide: bool, with_offset: bool) -> None:
    numerator, denominator, offset = cases(3)
    got = constants.multiplier(
        jnp.asarray(numerator),
        jnp.asarray(denominator),
        wide=wide,
        offset=jnp.asarray(offset) if with_offset else None,
    )
    assert got.pre is not None
    rows = zip(
        *(np.asarray(a).tolist() for a in (got.m, got.offset, got.shift, got.pre)), strict=True
    )
    for row, n, d, o in zip(rows, numerator, denominator, offset, strict=True):
        o = float(o) if with_offset else 0.0
        assert row == spec.multiplier(float(n), float(d), wide=wide, offset=o), (n, d, o)


def test_multiplier_with_a_factor() -> None:
    numerator, denominator, _ = cases(4)
    factor = python_number(2**11 / math.log(2) / 8)
    got = constants.multiplier(
        jnp.asarray(numerator), jnp.asarray(denominator), wide=False, factor=factor
    )
    want = [
        spec.multiplier(float(n), float(d), wide=False, factor=factor)
        for n, d in zip(numerator, denominator, strict=True)
    ]
    assert np.asarray(got.m).tolist() == [w[0] for w in want]
    assert np.asarray(got.shift).tolist() == [w[2] for w in want]


@settings(deadline=None, max_examples=100)
@given(
    ratio=st.floats(2.0**-25, 2.0**3),
    offset=st.floats(-100, 100),
    x=st.integers(-(2**20), 2**20),
)
def test_rescaling_is_what_it_should_be(ratio: float, offset: float, x: int) -> None:
    """The constants mean ``x * ratio + offset``: within rounding of it, for any values."""
    numerator = float(np.float32(ratio))
    values = spec.multiplier(numerator, 1.0, wide=True, offset=offset)
    exact = x * numerator + offset
    # Half a step; product and offset have ``shift`` fractional bits, one floored, one rounded;
    # an offset of up to 2^7 leaves the multiplier at least 20 bits.
    slack = 0.5 + 1.5 * 2.0 ** -values[2] + abs(x * numerator) * 2.0**-20
    assert abs(spec.rescale(x, values, wide=True) - exact) <= slack


def test_constants_do_not_depend_on_compilation() -> None:
    numerator, denominator, offset = map(jnp.asarray, cases(5))

    def build(n, d, o):
        scale = constants.scale_of_range(jnp.abs(n), bits=8)
        return constants.multiplier(n * 0.5, scale, wide=True, offset=o), scale

    eager, jitted = (
        build(numerator, denominator, offset),
        jax.jit(build)(numerator, denominator, offset),
    )
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
        assert np.array_equal(a, b)
