"""The proof accepts kernels that fit and names the ones that were made a bit too small.

Strategy: a small quantized layer and small kernels that fit their types with little to spare,
proved; then one mutation at a time (a width, a multiplier, a shift, a clip, a domain), each of
which must be named at its operation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ibert_jax.proof.intervals import (
    Bounded,
    Contract,
    OverflowProof,
    Step,
    always,
    analyze,
    between,
)

INT32 = (-(2**31), 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Constants of a small integer network; the defaults fit int32, barely."""

    multiplier: int = 32767
    low_bits: int = 16
    shift: int = 9
    clip: int = 127
    square_bits: int = 15
    sum_shift: int = 6
    rows: int = 64


def network(layer, weight, ids, table, mask):
    """Embedding, matmul, requantization in limbs, masked sum of squares, a residual loop."""
    low = (1 << layer.low_bits) - 1
    x = jnp.take(table, ids, axis=0, mode="clip")
    y = lax.dot_general(x, weight, (((2,), (1,)), ((), ())), preferred_element_type=jnp.int32)
    y = (y >> 16) * layer.multiplier + (((y & low) * layer.multiplier) >> 16)
    q = jnp.clip(y >> layer.shift, -layer.clip - 1, layer.clip).astype(jnp.int8)
    wide = q.astype(jnp.int32) << (layer.square_bits - 7)
    squares = jnp.where(mask[..., None] > 0, (wide * wide) >> layer.sum_shift, 0)
    total = jnp.sum(squares, axis=1, dtype=jnp.int32)
    carry = lax.fori_loop(0, 3, lambda i, c: (c >> 1) + i, total)
    return carry, q


def prove(layer) -> OverflowProof:
    rng = np.random.default_rng(0)
    return analyze(
        lambda *arguments: network(layer, *arguments),
        rng.integers(-127, 128, (24, 300), dtype=np.int8),
        Bounded((2, layer.rows), np.int32, 0, 99),
        rng.integers(-128, 128, (100, 300), dtype=np.int8),
        Bounded((2, layer.rows), np.int32, 0, 1),
    )


def test_a_network_that_fits_is_proved():
    proof = prove(Layer())
    assert proof.ok, proof.problems
    assert str(proof).startswith("no overflow: ") and "\n" not in str(proof)
    carry, q = proof.results
    assert (q.least, q.most) == (-128, 127)
    assert carry.least >= 0 and carry.most < 2**28


@pytest.mark.parametrize(
    ("mutation", "operation", "reason"),
    [
        ({"multiplier": 2 * 32767}, "mul", "leaves int32"),
        ({"low_bits": 17}, "mul", "leaves int32"),
        ({"shift": 32}, "shift_right_arithmetic", "leaves [0, 31]"),
        ({"clip": 255}, "convert_element_type", "leaves int8"),
        ({"square_bits": 16}, "mul", "leaves int32"),
        ({"sum_shift": 4}, "reduce_sum", "leaves int32"),
        ({"rows": 128}, "reduce_sum", "leaves int32"),
    ],
)
def test_a_mutation_is_named_at_its_operation(mutation, operation, reason):
    proof = prove(dataclasses.replace(Layer(), **mutation))
    first = proof.problems[0]
    assert (first.operation, reason in first.reason) == (operation, True), str(first)
    assert "test_intervals.py" in first.where and "(network)" in first.where
    assert str(first) in str(proof)


def test_the_range_depends_on_the_weights_and_not_on_their_type_alone():
    x = Bounded((5, 3), np.int32, -(2**20), 2**20)
    dims = (((1,), (1,)), ((), ()))

    def matmul(x, w):
        return lax.dot_general(x, w, dims, preferred_element_type=jnp.int32)

    small, large = np.full((2, 3), 600, np.int32), np.full((2, 3), 700, np.int32)
    assert analyze(matmul, x, small).ok
    assert not analyze(matmul, x, large).ok
    mixed = analyze(matmul, x, np.stack([small[0], large[0]]))
    (result,) = mixed.results
    assert result.hi.shape == (1, 2)
    assert result.hi[0, 0] == 1800 * 2**20  # the first column still fits
    assert result.hi[0, 1] == INT32[1]  # the second may be anything


def test_a_square_is_not_negative_and_a_difference_with_itself_is_nothing():
    proof = analyze(lambda x: (x * x, x - x, x**2), Bounded((2,), np.int32, -9, 5))
    assert [(r.least, r.most) for r in proof.results] == [(0, 81), (0, 0), (0, 81)]


def test_wraps_of_narrow_types_are_seen():
    x = Bounded((2,), np.int8, -100, 100)
    assert "leaves int8" in str(analyze(lambda x: x + np.int8(28), x))
    assert analyze(lambda x: x + np.int8(27), x).ok
    assert "leaves uint32" in str(
        analyze(lambda x: x - jnp.uint32(1), Bounded((2,), np.uint32, 0, 3))
    )


@jax.jit
def limb_product(a, b):
    """(a * b) mod 2^32: wraps by design."""
    return a * b


@jax.jit
def root(n):
    """A stand-in for a square root whose inside subtracts below zero, unselected."""
    return jnp.where(n > 4, n - jnp.uint32(5), n)


LOW_PRODUCT = Contract(
    limb_product,
    ((0, 2**32 - 1), None),
    always((0, 2**32 - 1)),
    "the low word of a 64-bit product, modulo 2^32 by definition",
)
ROOT = Contract(
    root,
    ((0, 2**20),),
    lambda n: [between(np.minimum(n.lo, 5), n.hi)],
    "subtracts only where it fits",
)
UNSIGNED = Bounded((3,), np.uint32, 0, 2**32 - 1)


def test_contracts_speak_for_what_wraps_by_design():
    assert not analyze(limb_product, UNSIGNED, UNSIGNED).ok
    proof = analyze(limb_product, UNSIGNED, UNSIGNED, contracts=[LOW_PRODUCT])
    assert proof.ok and proof.contracts == {"limb_product": 1}
    assert "1 kernels by contract" in str(proof)


def test_a_caller_that_leaves_the_domain_is_named():
    small = Bounded((3,), np.uint32, 0, 1000)
    proof = analyze(lambda n: root(n * 1000) + root(n), small, contracts=[ROOT])
    assert proof.ok and proof.contracts == {"root": 2}
    outside = analyze(lambda n: root(n * 2000) + 1, small, contracts=[ROOT])
    assert "operand 0 in [0, 2000000] leaves the domain [0, 1048576]" in str(outside)
    assert outside.contracts == {}
    (result,) = outside.results
    assert result.most == 2**32 - 1  # nothing is known of it then


def test_a_contract_may_not_promise_more_than_its_type_holds():
    lie = dataclasses.replace(ROOT, result=always((0, 2**33)))
    assert "leaves uint32" in str(analyze(root, Bounded((3,), np.uint32, 0, 9), contracts=[lie]))
    wrong = dataclasses.replace(ROOT, domain=(None, None))
    assert "speaks of 2 operands" in str(
        analyze(root, Bounded((3,), np.uint32, 0, 9), contracts=[wrong])
    )


def test_clips_tell_whether_they_act():
    def clipped(x):
        return jnp.clip(x, -8, 7) + jnp.clip(x, -100, 100) + lax.clamp(-20, x, 5)

    proof = analyze(clipped, Bounded((4,), np.int32, -20, 20))
    assert [(clip.limits, clip.acts) for clip in proof.clips] == [
        ((-8, 7), True),
        ((-100, 100), False),
        ((-20, 5), True),
    ]
    assert all(clip.reached == (-20, 20) for clip in proof.clips)


def test_a_clip_whose_limits_are_ranges_lets_through_what_the_closest_do():
    low, high = Bounded((4,), np.int32, -10, -5), Bounded((4,), np.int32, 5, 10)
    (clip,) = analyze(lax.clamp, low, Bounded((4,), np.int32, -7, 7), high).clips
    assert clip.limits == (-5, 5) and clip.acts


def test_steps_tell_the_bits_they_need():
    def steps(x):
        return (x + 100) * 1000

    proof = analyze(steps, Bounded((4,), np.int32, -50, 50))
    add, mul = proof.steps
    assert (add.operation, add.lo, add.hi, add.bits, add.spare) == ("add", 50, 150, 8, 23)
    assert (mul.lo, mul.hi, mul.bits, mul.spare) == (50_000, 150_000, 18, 13)
    assert [step.operation for step in proof.tightest()] == ["mul", "add"]


@pytest.mark.parametrize(
    ("dtype", "lo", "hi", "bits", "spare"),
    [
        ("int32", -(2**31), 0, 32, 0),
        ("int32", 0, 2**31 - 1, 31, 0),
        ("int32", 0, 2**31, 32, -1),
        ("int32", -(2**31) - 1, 0, 33, -1),
        ("uint32", 0, 2**32 - 1, 32, 0),
        ("uint32", -1, 3, 3, -1),
        ("int8", -3, 3, 3, 5),
        ("int8", 0, 0, 1, 7),
    ],
)
def test_bits_and_spare_bits(dtype, lo, hi, bits, spare):
    step = Step("add", "here", dtype, lo, hi)
    assert (step.bits, step.spare) == (bits, spare)


def test_a_step_in_a_loop_is_recorded_once_with_all_its_turns():
    proof = analyze(
        lambda x: lax.fori_loop(0, 10, lambda i, c: c + x, x), Bounded((2,), np.int32, 0, 10)
    )
    adds = [step for step in proof.steps if step.operation == "add" and step.hi > 20]
    assert [(step.lo, step.hi) for step in adds] == [(0, 110)]
    bad = analyze(
        lambda x: lax.fori_loop(0, 40, lambda i, c: c * 2, x), Bounded((2,), np.int32, 0, 1)
    )
    assert len(bad.problems) == 1 and bad.problems[0].operation == "mul"
    assert "scan" in bad.problems[0].where


def test_both_platforms_of_a_dependent_product_are_proved():
    def either(x):
        return lax.platform_dependent(x, cpu=lambda v: v + 1, default=lambda v: v * 100)

    assert analyze(either, Bounded((2,), np.int32, 0, 10**6)).ok
    proof = analyze(either, Bounded((2,), np.int32, 0, 10**8))
    assert [problem.operation for problem in proof.problems] == ["mul"]


def test_arguments_that_are_only_shapes_may_hold_anything():
    anything = jax.ShapeDtypeStruct((3,), np.int32)
    assert analyze(lambda x: x >> 1, anything).ok
    assert not analyze(lambda x: x + 1, anything).ok
