"""Channels that share one shift: the integers of a requantization that has one for each."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ibert_jax as ib
from ibert_jax.frozen import program as programs
from ibert_jax.frozen.folding import FoldedLeaf
from ibert_jax.frozen.network import integer_leaves, unstack_layers
from ibert_jax.frozen.shared_shift import _largest, share, share_shifts
from ibert_jax.integer.dyadic import Multiplier, clip_bits, rescale
from ibert_jax.layers.linear import IntegerLinear

from .conftest import ragged
from .test_folding import MODELS, NARROW, WIDE, integers, multipliers, on_device

LARGEST = 2**24


def rounding(multiplier: Multiplier) -> Multiplier:
    """The multiplier with nothing but the rounding half to be added."""
    half = np.int32(1) << (multiplier.shift - np.int32(1))
    return dataclasses.replace(multiplier, offset=half)  # type: ignore[arg-type]


def shifts(multiplier: Multiplier) -> tuple[np.ndarray, np.ndarray]:
    pre = 0 if multiplier.pre is None else multiplier.pre
    return np.asarray(multiplier.shift), np.broadcast_to(np.asarray(pre), multiplier.shift.shape)


def check_alike(multiplier: Multiplier, x: np.ndarray, bits: int, *, wide: bool) -> Any:
    shared = share(multiplier, LARGEST, wide=wide, stacked=False)
    if shared is not None:
        plain = rescale(jnp.asarray(x), on_device(multiplier), wide=wide)
        found = rescale(jnp.asarray(x), on_device(shared), wide=wide)
        assert clip_bits(found, bits).tolist() == clip_bits(plain, bits).tolist()
    return shared


@settings(deadline=None)  # the first of them compiles
@given(multipliers(15), integers(-LARGEST, LARGEST))
def test_narrow_multipliers_that_round(multiplier: Multiplier, x: np.ndarray) -> None:
    """Shifts that differ by more than m has room for are left as they are, and nothing else is."""
    multiplier = rounding(multiplier)
    shift, pre = shifts(multiplier)
    for bits in (NARROW, 16):
        shared = check_alike(multiplier, x, bits, wide=False)
        common = max(int((shift - pre).max()) - 16, 1)
        left = np.maximum(pre - shift + common, 0)
        assert (shared is None) == bool((shift < common).any() or LARGEST << left.max() >= 2**31)
        if shared is not None:
            assert shared.shift == common
            assert shared.high == 2 ** (common - 1)
            assert shared.low is None
            assert (shared.left is None) == (not left.any())


@settings(deadline=None)
@given(multipliers(15), integers(-LARGEST, LARGEST))
def test_narrow_multipliers_with_any_offset(multiplier: Multiplier, x: np.ndarray) -> None:
    """Taken where it loses no bit of the offset: alike wherever it is taken."""
    check_alike(multiplier, x, NARROW, wide=False)


@settings(deadline=None)
@given(multipliers(31), st.booleans(), integers(-LARGEST, LARGEST))
def test_wide_multipliers(multiplier: Multiplier, rounds: bool, x: np.ndarray) -> None:
    """They keep their shifts; a left shift saturates no more, where there is room for it."""
    multiplier = rounding(multiplier) if rounds else multiplier
    shared = check_alike(multiplier, x, WIDE, wide=True)
    _, pre = shifts(multiplier)
    assert (shared is None) == (LARGEST << int(pre.max()) >= 2**31)


def test_layers_have_shifts_of_their_own() -> None:
    m = np.array([[16384, 32767], [20000, 30000]], np.int32)
    shift = np.array([[3, 7], [18, 20]], np.int32)
    stack = rounding(Multiplier(m, m, shift))  # type: ignore[arg-type]
    shared = share(stack, 2**31, wide=False, stacked=True)
    assert shared is not None
    assert shared.shift is not None
    assert shared.shift.tolist() == [1, 4]
    assert shared.high.tolist() == [1, 8]
    x = np.array([-(2**31), -12345, 0, 777, 2**31 - 1], np.int32)[:, None]
    for layer in range(2):
        alone, one = (
            jax.tree.map(lambda array, layer=layer: jnp.asarray(array[layer]), each)
            for each in (stack, shared)
        )
        found, plain = (rescale(jnp.asarray(x), each, wide=False) for each in (one, alone))
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("m", 2**15), ("m", -(2**15)), ("offset", 2**30 + 1), ("shift", 0), ("shift", 31),
        ("pre", -1), ("pre", 25),
    ],
)  # fmt: skip
def test_constants_that_might_overflow_are_left_for_a_proof(changed: str, value: int) -> None:
    constants = {"m": 20000, "offset": 1, "shift": 1, "pre": 0}
    arrays = {name: np.array([each, each], np.int32) for name, each in constants.items()}
    assert share(Multiplier(**arrays), 2**20, wide=False, stacked=False) is not None  # type: ignore[arg-type]
    arrays[changed][1] = value
    assert share(Multiplier(**arrays), 2**20, wide=False, stacked=False) is None  # type: ignore[arg-type]


def test_the_bounds_of_a_sum_s_operands_are_reached() -> None:
    """By a row and weights of -128 and the largest bias: no smaller bound would do."""
    leaves = integer_leaves(ib.IntegerModel.load(MODELS / "channel").network).values()
    dense = next(leaf for leaf in leaves if isinstance(leaf, IntegerLinear))
    weight = np.full((3, 40), -128, np.int8)
    dense = dataclasses.replace(dense, weight=weight, bias=np.array([5, 700, -9], np.int32))
    reached = weight[1].astype(int) @ np.full(40, -128) + 700
    assert _largest("output.ln_input_act", {"output.dense": dense}, 2) == [reached, 2**21]
    assert _largest("output.ln_input_act", {}, 2) == [2**31] * 2, "nothing is known"


def plain_program(program: ib.IntegerModel, monkeypatch: pytest.MonkeyPatch) -> ib.IntegerModel:
    """The same model without shared shifts."""
    with monkeypatch.context() as patch:
        patch.setattr(programs, "share_shifts", lambda network: None)
        return ib.IntegerModel.of(
            program.network, program.config, dict(program.scales), program.states
        )


def shared_leaves(network: Any) -> dict[str, FoldedLeaf]:
    leaves = integer_leaves(network)
    return {path: leaf for path, leaf in leaves.items() if isinstance(leaf, FoldedLeaf)}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs")
@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_a_program_computes_with_them_and_is_the_same(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, given = ib.IntegerModel.load(MODELS / scheme), ragged(4, 20)
    plain = plain_program(program, monkeypatch)
    shared = shared_leaves(program._laid_out)
    names = ["query_activation", "key_activation", "value_activation", "intermediate_act_fn"]
    for name in [*names, "output.ln_input_act"]:
        assert any(path.endswith(name) for path in shared), name
    assert not shared_leaves(plain._laid_out)
    assert not shared_leaves(program.network)
    assert program.sha256() == plain.sha256()
    for options in ({}, {"output_attentions": True, "output_hidden_states": True}):
        found, expected = (each.integers(**given, **options) for each in (program, plain))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    unrolled = program.network
    unstack_layers(unrolled)
    unrolled = ib.IntegerModel.of(unrolled, program.config, dict(program.scales))
    assert len(shared_leaves(unrolled._laid_out)) == program.config.num_hidden_layers * len(shared)
    jax.tree.map(np.testing.assert_array_equal, unrolled.integers(**given), plain.integers(**given))


def test_what_is_being_traced_stays_as_it_is() -> None:
    program = ib.IntegerModel.load(MODELS / "channel")

    def shared(tensors: Any) -> Any:
        network = dataclasses.replace(program, tensors=tensors).network
        share_shifts(network)
        assert not shared_leaves(network)
        return tensors[0]

    jax.eval_shape(shared, program.tensors)
