"""Every rule against what JAX computes: results lie inside the range, and wraps are never missed.

Strategy: for each operation draw random ranges (scalar, per channel, or an exact array), analyze,
then draw inputs at and between the ends of the ranges. If the analysis finds no problem, no result
may lie outside its range; the same function in exact int64 arithmetic must then agree with the one
in its own narrow type, so a wrap that went unnoticed fails the test.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ibert_jax.proof import rules_matmul
from ibert_jax.proof.intervals import Bounded, analyze

SHAPE = (2, 3, 4)
DRAWS = 6


def dot(x, y, dims):
    return lax.dot_general(x, y, dims, preferred_element_type=jnp.int32)


ROWS = ((2,), (2,)), ((0,), (0,))
TABLE = (((2,), (1,)), ((), ()))

# Name -> (function of one or two int32 arrays of SHAPE, largest magnitude of its operands).
CASES = {
    "add": (lambda x, y: x + y, 2**31),
    "sub": (lambda x, y: x - y, 2**31),
    "mul": (lambda x, y: x * y, 2**17),
    "square": (lambda x, y: x * x + 0 * y, 2**17),
    "neg": (lambda x, y: -x + 0 * y, 2**31),
    "abs": (lambda x, y: abs(x) + 0 * y, 2**31),
    "sign": (lambda x, y: jnp.sign(x) + jnp.sign(y), 9),
    "max": (lambda x, y: jnp.maximum(x, y), 2**31),
    "min": (lambda x, y: jnp.minimum(x, y), 2**31),
    "clip": (lambda x, y: jnp.clip(x, -300, 77) + jnp.clip(y, 5, 9), 1000),
    "clamp": (lambda x, y: lax.clamp(jnp.minimum(x, 0), y, jnp.abs(x)), 1000),
    "and": (lambda x, y: x & y, 200),
    "and mask": (lambda x, y: (x & 0xFFFF) + (y & 7), 2**24),
    "or": (lambda x, y: x | y, 200),
    "xor": (lambda x, y: x ^ y, 200),
    "not": (lambda x, y: ~x + ~y, 200),
    "shift left": (lambda x, y: x << (y & 7), 2**25),
    "shift right": (lambda x, y: x >> (y & 31), 2**31),
    "logical shift": (lambda x, y: lax.shift_right_logical(x, y & 31), 2**31),
    "logical shift of sum": (lambda x, y: lax.shift_right_logical(x, (y & 7) + 3), 2**31),
    "divide": (lambda x, y: x // (jnp.abs(y) + 1), 2**30),
    "truncating divide": (lambda x, y: lax.div(x, jnp.abs(y) + 3), 2**30),
    "divide by negative": (lambda x, y: lax.div(x, -jnp.abs(y) - 3), 2**30),
    "remainder": (lambda x, y: lax.rem(x, jnp.abs(y) + 3), 2**30),
    "power": (lambda x, y: x**3 + y**2, 1000),
    "clz": (lambda x, y: lax.clz(x) + lax.clz(y), 2**31),
    "compare": (lambda x, y: jnp.where(x < y, x, y) + jnp.where(x >= 3, 1, -1), 50),
    "equal": (lambda x, y: jnp.where((x == y) | (x != 2), 5, y), 4),
    "logic": (lambda x, y: jnp.where((x > 1) & ~(y > 2) ^ (x <= y), x, y), 9),
    "to int8": (lambda x, y: (x & 127).astype(jnp.int8).astype(jnp.int32) + y, 2**20),
    "to bool": (lambda x, y: jnp.where(x.astype(bool), y, 7), 9),
    "unsigned": (lambda x, y: ((x & 0xFFFF).astype(jnp.uint32) >> 3).astype(jnp.int32), 2**31),
    "sign bit": (
        lambda x, y: lax.bitcast_convert_type(
            (x >> 24).astype(jnp.int8) ^ np.int8(-128), jnp.uint8
        ).astype(jnp.int32),
        2**31,
    ),
    "sign bit back": (
        lambda x, y: (
            lax.bitcast_convert_type((x & 255).astype(jnp.uint8), jnp.int8) ^ np.int8(-128)
        ).astype(jnp.int32),
        2**31,
    ),
    "bitcast": (lambda x, y: lax.bitcast_convert_type(x, jnp.uint32) >> 7, 2**31),
    "bitcast back": (
        lambda x, y: lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint32), jnp.int32),
        2**31,
    ),
    "reduce sum": (lambda x, y: jnp.sum(x, axis=(0, 2)) + jnp.sum(y), 2**26),
    "reduce max": (lambda x, y: jnp.max(x, axis=1) - jnp.min(y, axis=1), 2**29),
    "reduce any": (lambda x, y: jnp.where(jnp.any(x > 3, axis=2, keepdims=True), x, y), 9),
    "reduce all": (lambda x, y: jnp.where(jnp.all(x > 0, axis=1, keepdims=True), x, y), 9),
    "argmax": (lambda x, y: jnp.argmax(x, axis=2).astype(jnp.int32), 9),
    "cumsum": (lambda x, y: jnp.cumsum(x, axis=2) + jnp.cumsum(y, axis=0), 2**27),
    "reverse cumsum": (lambda x, y: lax.cumsum(x, axis=1, reverse=True), 2**27),
    "cummax": (lambda x, y: lax.cummax(x, axis=1), 2**27),
    "sort": (lambda x, y: jnp.sort(x, axis=2), 2**27),
    "transpose": (lambda x, y: jnp.transpose(x, (2, 0, 1)), 2**27),
    "reshape": (lambda x, y: x.reshape(6, 4) + y.reshape(6, 1, 4)[:, 0], 2**27),
    "reshape across": (lambda x, y: x.reshape(2, 12) - y.reshape(1, 2, 12)[0], 2**27),
    "split channel": (lambda x, y: x.reshape(2, 3, 2, 2).transpose(0, 2, 1, 3), 2**27),
    "slice": (lambda x, y: x[:, 1:, ::2], 2**27),
    "reverse": (lambda x, y: x[:, :, ::-1], 2**27),
    "concatenate": (lambda x, y: jnp.concatenate([x, y, x], axis=2), 2**27),
    "concatenate rows": (lambda x, y: jnp.concatenate([x, y], axis=0), 2**27),
    "split": (lambda x, y: lax.split(x, (2, 2), 2)[1] - y[:, :, :2], 2**27),
    "stack": (lambda x, y: jnp.stack([x, y], axis=1), 2**27),
    "unstack": (lambda x, y: jnp.unstack(x, axis=1)[2], 2**27),
    "pad": (lambda x, y: jnp.pad(x, ((0, 0), (1, 2), (0, 0)), constant_values=-5), 2**27),
    "tile": (lambda x, y: jnp.tile(x, (1, 2, 3)), 2**27),
    "take": (lambda x, y: jnp.take(x[0], y & 1, axis=0, mode="clip"), 2**27),
    "take fill": (lambda x, y: jnp.take(x[0, 0], y, fill_value=-7), 2**7),
    "index": (lambda x, y: x[:, 1, jnp.array([0, 3])], 2**27),
    "dynamic slice": (lambda x, y: lax.dynamic_slice(x, (0, y[0, 0, 0], 0), (2, 2, 4)), 2**27),
    "dynamic slices": (lambda x, y: lax.dynamic_slice(x, (0, y[0, 0, 0], 1), (2, 2, 2)), 2**27),
    "update slice": (lambda x, y: lax.dynamic_update_slice(x, y[:, :2], (0, 1, 0)), 2**27),
    "scatter": (lambda x, y: x.at[:, 1].set(y[:, 0]), 2**27),
    "iota": (lambda x, y: lax.broadcasted_iota(jnp.int32, SHAPE, 2) * x, 2**27),
    "batched dot": (lambda x, y: dot(x, y, ROWS), 2**14),
    "dot": (lambda x, y: dot(x, y[0], TABLE), 2**14),
    "dot of known": (lambda x, y: dot(x, jnp.arange(-10, 10).reshape(5, 4), TABLE), 2**24),
    "dot from known": (
        lambda x, y: dot(jnp.arange(-10, 10).reshape(5, 4), x[1], (((1,), (1,)), ((), ()))),
        2**24,
    ),
    "dot over two": (lambda x, y: dot(x, y, (((1, 2), (1, 2)), ((0,), (0,)))), 2**13),
    "scan": (lambda x, y: lax.fori_loop(0, 3, lambda i, c: c + y + i, x), 2**28),
    "scan rows": (lambda x, y: lax.scan(lambda c, row: (c + row, c * 2), x[0], y)[1], 2**28),
    "while": (
        lambda x, y: lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] - y), (0, x))[1],
        2**28,
    ),
    "open while": (
        lambda x, y: lax.while_loop(lambda c: jnp.any(c > 9), lambda c: c >> 1, jnp.abs(x)), 2**28
    ),
    "cond": (lambda x, y: lax.cond(x[0, 0, 0] > 2, lambda v: v + 1, lambda v: v * 2, y), 2**28),
    "switch": (lambda x, y: lax.switch(x[0, 0, 0] & 1, [lambda v: v, jnp.negative], y), 2**28),
    "checkpoint": (jax.checkpoint(lambda x, y: x - 2 * y), 2**28),
}  # fmt: skip


BOUNDS = ((), (4,), (3, 1), SHAPE)
"""Shapes of bounds: one for all, per channel, per row, per element."""


def draw_bounds(rng, magnitude, shape):
    """Random lo <= hi, some of them exact."""
    ends = rng.integers(-magnitude, magnitude, (2, *shape), dtype=np.int64)
    scale = rng.choice([1, 1, 16, 4096])
    return np.sort(ends // scale, axis=0) if rng.random() < 0.9 else np.stack([ends[0], ends[0]])


def draw_inputs(rng, lo, hi):
    """Elements anywhere in the range, half of them at its ends."""
    values = rng.integers(lo, hi, SHAPE, dtype=np.int64, endpoint=True)
    ends = np.where(rng.random(SHAPE) < 0.5, lo, hi)
    return np.where(rng.random(SHAPE) < 0.5, values, ends).astype(np.int32)


@pytest.mark.parametrize("name", CASES)
def test_results_lie_in_their_ranges(name):
    function, magnitude = CASES[name]
    jitted = jax.jit(function)
    rng = np.random.default_rng(sum(map(ord, name)))
    proved = 0
    for draw in range(DRAWS):
        x = draw_bounds(rng, magnitude, BOUNDS[draw % 4])
        y = draw_bounds(rng, magnitude, BOUNDS[rng.integers(4)])
        proof = analyze(function, *(Bounded(SHAPE, np.int32, *b) for b in (x, y)))
        (result,) = proof.results
        proved += proof.ok
        for _ in range(4):
            out = np.asarray(jitted(draw_inputs(rng, *x), draw_inputs(rng, *y))).astype(np.int64)
            assert np.broadcast_shapes(result.lo.shape, result.hi.shape, out.shape) == out.shape
            assert np.ndim(result.lo) == out.ndim
            assert np.all(result.lo <= out), f"{name}: {out.min()} under {result.least}"
            assert np.all(out <= result.hi), f"{name}: {out.max()} over {result.most}"
    assert proved > 0


WRAPPING = {
    "add": (lambda x, y: x + y),
    "sub": (lambda x, y: x - y),
    "mul": (lambda x, y: x * y),
    "neg": (lambda x, y: -x),
    "abs": (lambda x, y: abs(x)),
    "shift": (lambda x, y: x << 3),
    "sum": (lambda x, y: x.sum(axis=1, keepdims=True, dtype=x.dtype)),
    "cumsum": (lambda x, y: x.cumsum(axis=2, dtype=x.dtype)),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (name, dtype)
        for name in WRAPPING
        for dtype in (np.int8, np.uint8, np.int32, np.uint32)
        if not (name in ("neg", "abs") and np.dtype(dtype).kind == "u")
    ],
)
def test_a_proof_fails_exactly_where_a_wrap_can_occur(name, dtype):
    """For single operations the ends of the ranges reach the ends of the result's range."""
    function = WRAPPING[name]
    info = np.iinfo(dtype)
    rng = np.random.default_rng(len(name))
    outcomes = set()
    for draw in range(30):
        shrink = 2 ** rng.integers(0, info.bits, (2, 1, 1, 1, 1))
        ends = rng.integers(info.min, info.max, (2, 2, 1, 1, 4), dtype=np.int64, endpoint=True)
        ends = np.sort(ends // shrink, axis=1)
        if draw % 10 == 0:
            ends[:, 0] = info.min
        elif draw % 10 == 1:
            ends[1] = 0
        elif draw % 10 == 2:
            ends[:, 1] = info.max
        proof = analyze(function, *(Bounded(SHAPE, dtype, *pair) for pair in ends))
        wraps = False
        for x, y in itertools.product(*ends.astype(object) if name == "mul" else ends):
            true = function(np.broadcast_to(x, SHAPE), np.broadcast_to(y, SHAPE))
            wraps |= bool(np.any(true < info.min) or np.any(true > info.max))
        assert proof.ok != wraps, f"draw {draw}: proof {proof.ok}, wrap {wraps}: {proof}"
        outcomes.add(proof.ok)
    assert outcomes == {True, False}


HALVES = np.full((1, 1, 1), 0.5, np.float32)


def test_known_columns_are_bounded_exactly():
    """Both ends of every column of a product with a known matrix are reached."""
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (6, 40), dtype=np.int8)
    lo = rng.integers(-128, 0, 40)
    hi = rng.integers(0, 127, 40)
    x = Bounded((5, 40), np.int8, lo, hi)
    proof = analyze(lambda x, w: dot(x, w, (((1,), (1,)), ((), ()))), x, weight)
    (result,) = proof.results
    wide = weight.astype(int)
    most = np.where(wide > 0, hi, lo)
    least = np.where(wide > 0, lo, hi)
    assert np.array_equal(result.hi, (most * wide).sum(1)[None])
    assert np.array_equal(result.lo, (least * wide).sum(1)[None])


@pytest.mark.parametrize("largest", [rules_matmul._LARGEST, 5])
def test_products_of_batches_that_vary_apart(largest, monkeypatch):
    """Also where one bound must do for all rows of a batch, or there would be too many."""
    monkeypatch.setattr(rules_matmul, "_LARGEST", largest)
    shape, dims = (2, 2, 3, 4), (((3,), (3,)), ((0, 1), (0, 1)))
    x, y = (np.arange(3, 5).reshape(own) for own in ((2, 1, 1, 1), (1, 2, 1, 1)))
    ranges = Bounded(shape, np.int32, -x, x), Bounded(shape, np.int32, -y, y)
    (result,) = analyze(lambda x, y: dot(x, y, dims), *ranges).results
    assert np.all(result.hi >= 4 * x * y) and np.all(result.lo <= -4 * x * y)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: lax.div(x, x), "may be zero"),
        (lambda x: lax.div(x, jnp.minimum(x, 0)), "divisor in [-1000, 0] may be zero"),
        (lambda x: lax.rem(x, jnp.maximum(x, 0)), "divisor in [0, 1000] may be zero"),
        (lambda x: x << x, "leaves [0, 31]"),
        (lambda x: x >> 32, "leaves [0, 31]"),
        (lambda x: x >> jnp.clip(x, -1, 3), "shift by [-1, 3] leaves [0, 31]"),
        (lambda x: x.astype(jnp.int8), "leaves int8"),
        (lambda x: x.astype(jnp.uint32), "leaves uint32"),
        (lambda x: x.astype(jnp.float32), "not an integer type"),
        (lambda x: jax.random.bits(jax.random.key(x[0, 0, 0])), "not an integer type"),
        (lambda x: lax.population_count(x), "no rule"),
        (lambda x: lax.while_loop(lambda c: jnp.any(c < 5), lambda c: c + 1, x), "still grow"),
        (lambda x: lax.fori_loop(0, 10**6, lambda i, c: c, x), "turns"),
        (lambda x: jax.pure_callback(lambda v: v, x, x), "no rule"),
        (lambda x: x.astype(jnp.int4).astype(jnp.int32), "not an integer type of 8 to 64 bits"),
        (lambda x: x + jnp.asarray(HALVES).astype(jnp.int32), "float32 is not an integer type"),
        (lambda x: lax.bitcast_convert_type((x & 1).astype(jnp.int8), jnp.int32), "bitcast from"),
        (lambda x: lax.reduce(x, np.int32(0), lax.bitwise_or, (1,)), "bitwise reduction"),
        (lambda x: x.at[0].apply(lambda v: v * np.int32(2**26)), "a scatter that applies"),
        (lambda x: lax.reshape(x, x.shape[::-1], (2, 0, 1)), "a reshape that transposes"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_proved_is_named(function, reason):
    proof = analyze(function, Bounded(SHAPE, np.int32, -1000, 1000))
    assert not proof.ok
    assert any(reason in problem.reason for problem in proof.problems), str(proof)
    assert "test_interval_rules.py" in proof.problems[0].where
