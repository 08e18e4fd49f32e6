"""Ranges where random ones seldom end: edges, turns of a loop, clamped starts, fills."""

import itertools
import operator

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ibert_jax.proof.intervals import Bounded, analyze


def dot(x, w):
    return lax.dot_general(x, w, (((0,), (0,)), ((), ())), preferred_element_type=jnp.int32)


COLUMN = np.array([[0], [1], [7]], np.int32)

# Name -> (function, (dtype, least, most) of each operand of three rows [3, 1], what it must reach).
EDGES = {
    "clamped start": (
        lambda x: lax.dynamic_slice(x, (5, 0), (2, 1)),
        [(np.int32, COLUMN, COLUMN)],
        (1, 7),
    ),
    "start below": (
        lambda x: lax.dynamic_slice(x, (-5, 0), (2, 1)),
        [(np.int32, COLUMN, COLUMN)],
        (0, 1),
    ),
    "or": (lambda x, y: x | y, [(np.int32, 1, 5), (np.int32, 1, 2)], (1, 7)),
    "mask with a gap": (lambda x: x & 10, [(np.int32, 5, 7)], (0, 2)),
    "sign of one row": (
        lambda x: x ^ np.array([[-(2**31)], [0], [0]], np.int32),
        [(np.int32, 0, 5)],
        (-(2**31), 5),
    ),
    "remainder that is zero": (lambda x: lax.rem(x, jnp.int32(3)), [(np.int32, -9, -3)], (-2, 0)),
    "limits that cross": (lambda x: lax.clamp(9, x, 5), [(np.int32, 0, 20)], (5, 5)),
    "one of three": (
        lambda w, x: lax.select_n(w, x, x + 100, x + 1),
        [(np.int32, 0, 2), (np.int32, 0, 0)],
        (0, 100),
    ),
    "two of three": (
        lambda w, x: lax.select_n(w, x, x + 100, x + 1),
        [(np.int32, 1, 2), (np.int32, 0, 0)],
        (1, 100),
    ),
    "filled": (lambda i: jnp.take(jnp.arange(4), i, fill_value=-7), [(np.int32, 0, 9)], (-7, 3)),
    "filled below": (
        lambda i: jnp.take(jnp.arange(4), i, fill_value=-7),
        [(np.int32, -9, 0)],
        (-7, 3),
    ),
    "filled as unsigned numbers are": (
        lambda i: jnp.take(jnp.arange(4, dtype=jnp.uint8), i, mode="fill"),
        [(np.int32, 0, 9)],
        (0, 255),
    ),
    "last index": (
        lambda i: jnp.take(jnp.arange(4), i, fill_value=-7),
        [(np.int32, 0, 4)],
        (-7, 3),
    ),
    "an index of two": (
        lambda i: jnp.zeros((2, 9), jnp.int32).at[i, i].get(mode="fill", fill_value=-7),
        [(np.int32, 0, 5)],
        (-7, 0),
    ),
    "zero as unsigned": (
        lambda x: lax.bitcast_convert_type(x, jnp.uint32),
        [(np.int32, -5, 0)],
        (0, 2**32 - 1),
    ),
    "not of unsigned": (lambda x: ~x, [(np.uint8, 0, 3)], (252, 255)),
    "rows of a scan whose carry rests": (
        lambda c, y: lax.scan(lambda c, row: (c, row * 2), c[0], y)[1],
        [(np.int32, 0, 0), (np.int32, COLUMN, COLUMN)],
        (0, 14),
    ),
    "last row of a scan": (
        lambda y: lax.scan(lambda c, row: (row, None), y[1], y)[0],
        [(np.int32, COLUMN, COLUMN)],
        (7, 7),
    ),
    "last row of a reversed scan": (
        lambda y: lax.scan(lambda c, row: (row, None), y[1], y, reverse=True)[0],
        [(np.int32, COLUMN, COLUMN)],
        (0, 0),
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_ranges_reach_their_ends(name):
    function, operands, (least, most) = EDGES[name]
    proof = analyze(function, *(Bounded((3, 1), *operand) for operand in operands))
    assert proof.ok, proof.problems
    (result,) = proof.results
    assert (result.least <= least, result.most >= most) == (True, True), (result.least, result.most)
    if name in ("clamped start", "last row of a reversed scan", "not of unsigned"):
        assert (result.least, result.most) == (least, most)


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_what_a_comparison_of_ranges_that_meet_may_be(name):
    ranges = [(0, 5), (4, 9), (5, 9), (6, 9), (5, 5)]
    for (a, b), (c, d) in itertools.product(ranges, repeat=2):
        bounded = Bounded((), np.int32, a, b), Bounded((), np.int32, c, d)
        (result,) = analyze(getattr(lax, name), *bounded).results
        drawn = itertools.product(range(a, b + 1), range(c, d + 1))
        found = {getattr(operator, name)(x, y) for x, y in drawn}
        assert (result.least, result.most) == (min(found), max(found)), (a, b, c, d)


def test_a_power_beyond_64_bits_is_not_proved():
    assert not analyze(lambda x: x**3, Bounded((3,), np.int32, 2**22, 2**22)).ok


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        ([2**30 + 1, 2**30 + 2], [2**30 + 1, -(2**30)]),
        ([2**30 + 1, 2**30 + 2], [2**25 + 1, -(2**25)]),
        ([*[2**30 + 1] * 2, 1, *[2**30 + 2] * 2], [*[2**22 + 1] * 2, 1, *[-(2**22)] * 2]),
    ],
)
def test_large_terms_that_cancel_are_summed_exactly(x, weight):
    """A float of 64 bits holds neither the first's terms, nor the second's, nor the third's sum."""
    bounded = Bounded((len(x),), np.int32, x, x)
    (result,) = analyze(dot, bounded, np.array(weight, np.int32)).results
    assert result.least <= sum(a * b for a, b in zip(x, weight, strict=True)) <= result.most


def test_a_step_of_a_loop_is_its_widest_and_its_clip_the_closest():
    def narrower(x):
        return lax.fori_loop(0, 3, lambda i, c: c >> 1, x)

    proof = analyze(narrower, Bounded((2,), np.int32, -100, 100))
    assert [(s.lo, s.hi) for s in proof.steps if s.operation == "shift_right_arithmetic"] == [
        (-50, 50)
    ]

    def wider(x):
        return lax.scan(lambda c, h: (jnp.clip(c, -h, h), None), x, np.array([5, 100], np.int32))[0]

    (clip,) = analyze(wider, Bounded((2,), np.int32, -50, 50)).clips
    assert clip.limits == (-5, 5) and clip.acts
