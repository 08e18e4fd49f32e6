"""Ways in which a proof could lie, planted here, and refused or bounded rightly.

What wraps in NumPy, what holds for the first turn of a loop only, what is known of bits and
forgotten too late, what is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ibert_jax as ib
from ibert_jax.integer.layernorm import lift_row
from ibert_jax.integer.mixed import MOST_TERMS, dot_u8_s8
from ibert_jax.integer.wide import shift_left_saturating
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS

M = 2**31 - 1
I32, I8, U8, U32 = np.int32, np.int8, np.uint8, np.uint32
ROWS = (((1,), (1,)), ((), ()))


def refused(function: Callable[..., Any], *arguments: Any) -> str:
    """The first problem that is found; there must be one."""
    proof = analyze(function, *arguments, contracts=LEMMAS)
    assert not proof.ok
    return str(proof.problems[0])


def holds(function: Callable[..., Any], arguments: tuple[Any, ...], *drawn: Any) -> None:
    """The analysis is content, and what is computed lies in its ranges."""
    proof = analyze(function, *arguments, contracts=LEMMAS)
    assert proof.ok, proof
    got = jax.tree.leaves(jax.jit(function)(*drawn))
    for interval, value in zip(proof.results, got, strict=True):
        assert interval.least <= int(value.min()) and int(value.max()) <= interval.most


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    return lax.dot_general(x, y, ROWS, preferred_element_type=jnp.int32)


@pytest.mark.parametrize(("terms", "highest"), [(2, M), (3, M), (4, M), (8, M), (256, 2**28)])
def test_products_that_leave_int64_too(terms: int, highest: int) -> None:
    """4 times 2^31 squared is 0 for NumPy's int64."""
    for lowest in (0, -highest):
        x = Bounded((2, terms), I32, lowest, highest)
        assert "leaves int32" in refused(product, x, x)


def test_channels_without_bounds_hide_no_others() -> None:
    """The largest of the lower ends is 0; eight others of a row sum to -2^64, 0 for NumPy."""
    lowest = np.array([*[-(2**31)] * 8, 0])
    x, y = Bounded((2, 9), I32, lowest, 0), Bounded((2, 9), I32, 0, 2**30)
    assert "leaves int32" in refused(product, x, y)


def test_sums_that_leave_int64_too() -> None:
    big = Bounded((16,), np.int64, 0, 2**62)
    with jax.enable_x64(True):
        for function in (
            lambda x: jnp.sum(x),
            lambda x: jnp.cumsum(x),
            lambda x: x + x,
            lambda x: x << np.int64(1),
            lambda x: x * np.int64(4),
            lambda x: -(-x - x),
        ):
            assert "leaves int64" in refused(function, big)
        for function in (jnp.sum, jnp.cumsum):  # of 2^64, which is 0 for NumPy
            assert "leaves int64" in refused(function, Bounded((16,), np.int64, 0, 2**60))
        flags = Bounded((2,), np.int64, 0, 1)
        assert "leaves int64" in refused(lambda x: x << np.int64(63), flags)
    many = Bounded((2**34,), I32, 0, 2**30)
    assert "leaves int32" in refused(lambda x: jnp.sum(x, dtype=jnp.int32), many)


def test_integers_of_64_bits_keep_their_ranges() -> None:
    with jax.enable_x64(True):
        wide, unsigned = jax.ShapeDtypeStruct((3,), np.int64), jax.ShapeDtypeStruct((3,), np.uint64)
        draw = np.array([-(2**63), 2**54 - 1, 2**63 - 1])
        flipped = np.int64(-(2**63))
        for function in (
            lax.clz,
            lambda x: x ^ 5,
            lambda x: x ^ flipped,
            lambda x: lax.bitcast_convert_type(x, np.uint64),
            lambda x: lax.bitcast_convert_type(x ^ flipped, np.uint64),
            lambda x: x >> 3,
            lambda x: x & 2**60,
        ):
            proof = analyze(function, wide)
            got = jax.jit(function)(draw)
            assert proof.results[0].least <= int(got.min())
            assert int(got.max()) <= proof.results[0].most
        holds(lax.clz, (Bounded((1,), np.int64, 2**54 - 1, 2**54 - 1),), draw[1:2])
        read = analyze(lambda x: lax.bitcast_convert_type(x, np.int64), unsigned).results[0]
        assert (read.least, read.most) == (-(2**63), 2**63 - 1)
        assert analyze(lambda x: x, unsigned).results[0].most == 2**64 - 1


def test_the_condition_of_a_loop_holds_in_every_turn() -> None:
    """It wraps, or divides by zero, for values that the state takes later only."""

    def shifted(x: jax.Array, n: jax.Array) -> Any:
        return lax.while_loop(lambda s: (s << 22) != n, lambda s: jnp.minimum(2 * s + 1, 1023), x)

    one, any_n = Bounded((), I32, 0, 1), Bounded((), I32, -(2**22), 2**22)
    assert "leaves int32" in refused(shifted, one, any_n)

    def divided(x: jax.Array, n: jax.Array) -> Any:
        return lax.while_loop(
            lambda s: lax.div(jnp.int32(100), 4 - s) > n, lambda s: jnp.minimum(s + 1, 4), x
        )

    assert "may be zero" in refused(divided, one, any_n)


def test_bits_read_otherwise_are_those_of_their_own_width() -> None:
    def widened(x: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type((x ^ np.int8(-128)).astype(jnp.int32), jnp.uint32)

    holds(widened, (Bounded((4,), I8, -128, 127),), np.array([-128, -1, 0, 127], I8))


def test_bits_read_otherwise_are_not_those_of_the_turn_before() -> None:
    start, other = Bounded((4,), I8, -1, 1), jax.ShapeDtypeStruct((4,), I8)
    drawn = np.array([-1, 0, 1, 1], I8), np.array([-128, 0, 1, 127], I8)

    def scanned(x: jax.Array, z: jax.Array) -> Any:
        def body(carry: jax.Array, _: None) -> Any:
            return z, lax.bitcast_convert_type(carry, jnp.uint8)

        return lax.scan(body, x ^ np.int8(-128), None, length=3)

    holds(scanned, (start, other), *drawn)

    def looped(x: jax.Array, z: jax.Array, n: jax.Array) -> Any:
        def body(state: Any) -> Any:
            i, carry, seen = state
            return i + 1 & 3, z, seen | lax.bitcast_convert_type(carry, jnp.uint8)

        zeros = jnp.zeros(4, jnp.uint8)
        return lax.while_loop(
            lambda state: state[0] < n, body, (jnp.int32(0), x ^ np.int8(-128), zeros)
        )

    holds(looped, (start, other, Bounded((), I32, 0, 3)), *drawn, I32(3))


def test_bits_read_otherwise_are_those_that_a_loop_leaves() -> None:
    """Ranges stand still, while the numbers that they are of change places."""
    start, other = Bounded((4,), I8, -1, 1), jax.ShapeDtypeStruct((4,), I8)
    drawn = np.array([-1, 0, 1, 1], I8), np.array([-128, 0, 1, 127], I8)

    def scanned(x: jax.Array, z: jax.Array) -> Any:
        def body(carry: Any, _: None) -> Any:
            return (carry[1], carry[0] ^ np.int8(-128)), None

        (first, _), _ = lax.scan(body, (x, z), None, length=3)
        return lax.bitcast_convert_type(first, jnp.uint8)

    holds(scanned, (start, other), *drawn)

    def looped(x: jax.Array, z: jax.Array, n: jax.Array) -> Any:
        state = n, x ^ np.int8(-128)
        _, last = lax.while_loop(lambda s: s[0] > 0, lambda s: (s[0] >> 1, z), state)
        return lax.bitcast_convert_type(last, jnp.uint8)

    holds(looped, (start, other, Bounded((), I32, 0, 1)), *drawn, I32(1))

    def looped_later(x: jax.Array, z: jax.Array, n: jax.Array) -> Any:
        def body(state: Any) -> Any:
            return state[0] >> 1, state[2] ^ np.int8(-128), z

        _, last, _ = lax.while_loop(lambda state: state[0] > 0, body, (n, z, x))
        return lax.bitcast_convert_type(last, jnp.uint8)

    holds(looped_later, (start, other, Bounded((), I32, 1, 3)), *drawn, I32(3))


def test_an_unsigned_number_shifted_with_its_sign() -> None:
    def shift(x: jax.Array) -> jax.Array:
        return lax.shift_right_arithmetic(x, jnp.uint32(4))

    assert "first bit" in refused(shift, Bounded((2,), U32, 0, M + 1))
    holds(shift, (Bounded((2,), U32, 0, M),), np.array([0, M], U32))


def test_a_surplus_is_what_the_other_lowering_adds() -> None:
    weight = np.array([[1, -2, 3], [4, 5, -6]], I8)
    right = 128 * weight.sum(1, dtype=I32)[None]
    a = Bounded((4, 3), U8, 0, 255)

    def mixed(a: jax.Array, weight: jax.Array, surplus: jax.Array) -> jax.Array:
        return dot_u8_s8(a, weight, ROWS, surplus)

    holds(mixed, (a, weight, right), np.full((4, 3), 255, U8), weight, right)
    assert "not 128 times" in refused(mixed, a, weight, right + np.array([[0, 1]], I32))
    unknown = Bounded((2, 3), I8, -128, 127)
    assert "by int8 operands" in refused(mixed, a, unknown, Bounded((1, 2), I32, M, M))
    assert "by int8 operands" in refused(mixed, a, weight, Bounded((1, 2), I32, right, M))
    assert "by int8 operands" in refused(mixed, a, unknown, Bounded((1, 2), I32, -M, -M))
    zeros = Bounded((4, 3), U8, 0, 0)  # -128 as int8
    assert "by int8 operands" in refused(mixed, zeros, unknown, Bounded((1, 2), I32, M, M))
    many = Bounded((1, MOST_TERMS + 1), U8, 0, 1)
    assert "more than" in refused(mixed, many, np.ones((1, MOST_TERMS + 1), I8), right[:, :1])


def test_lemmas_are_asked_inside_their_domain() -> None:
    row, eps = Bounded((1, 3), I32, -4, 4), Bounded((), I32, -64, 60)
    assert "leaves the domain" in refused(lift_row, row, Bounded((1, 1), I32, 0, 3), eps)
    assert analyze(lift_row, row, Bounded((1, 1), I32, 0, 2), eps, contracts=LEMMAS).ok
    with jax.numpy_dtype_promotion("standard"):
        above = jax.ShapeDtypeStruct((2,), U32)
        assert "leaves the domain" in refused(
            shift_left_saturating, above, Bounded((2,), I32, 0, 31)
        )


def test_what_has_no_one_meaning_is_not_proved() -> None:
    cases = [Bounded((2,), I32, v, v + 1) for v in (0, 10, 20)]
    for least, most in ((0, 3), (-1, 2)):
        assert "of 3" in refused(lax.select_n, Bounded((2,), I32, least, most), *cases)
    assert "no range" in refused(lambda x: x + 1, Bounded((2,), I32, 5, 3))
    flags = np.ones((1, 3), bool)
    assert "booleans" in refused(lambda x, y: lax.dot_general(x, y, ROWS), flags, flags)
    empty = Bounded((2, 0), I32, 0, 5)
    assert "empty axis" in refused(
        lambda x: lax.reduce_max_p.bind(x, axes=(1,), out_sharding=None), empty
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A frozen model on disk, with its certificate."""
    from flax import nnx

    config = ib.IBertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        initializer_range=0.3,
    )
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    ids = np.random.default_rng(0).integers(3, 50, (6, 9))
    program = ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))
    path = tmp_path_factory.mktemp("frozen")
    program.save(path, ib.certify(program, 2, 8))
    return path


def test_a_planted_sum_beyond_64_bits_is_named(
    folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole program, one kernel of which squares what it should not."""
    from ibert_jax.layers import gelu

    igelu = gelu.igelu

    def planted(q: jax.Array, *constants: Any) -> jax.Array:
        y = igelu(q, *constants)
        large = shift_left_saturating(y, jnp.int32(4))
        square = lax.dot_general(
            large, large, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.int32
        )
        return y ^ jnp.max(square, keepdims=True)

    monkeypatch.setattr(gelu, "igelu", planted)
    jax.clear_caches()
    try:
        with pytest.raises(ib.proof.CertificateError, match="dot_general"):
            ib.certify(ib.IntegerModel.load(folder), 2, 8)
    finally:
        jax.clear_caches()
