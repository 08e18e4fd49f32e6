"""Folded constants: one multiplication and one addition give what a requantization gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ibert_jax as ib
from ibert_jax.frozen.folding import HIGHEST, FoldedLeaf, fold, fold_wide
from ibert_jax.frozen.network import integer_leaves
from ibert_jax.integer.dyadic import Folded, Multiplier, clip_bits, rescale

MODELS = Path(__file__).parents[1] / "data" / "hashes"
COUNT = 5
"""Channels."""
NARROW, WIDE = 8, 21
"""The most bits of an output that comes of each kind of multiplier, but for GELU's 16."""


def integers(low: int, high: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(low, high), min_size=COUNT, max_size=COUNT).map(
        lambda values: np.array(values, np.int32)
    )


@st.composite
def multipliers(draw: st.DrawFn, bits: int) -> Multiplier:
    """As ``quantize.constants`` makes them: normalized, a left shift at the largest ratios only."""
    m = draw(integers(2 ** (bits - 1), 2**bits - 1)) * draw(st.sampled_from([1, -1]))
    pre = draw(st.one_of(st.none(), integers(0, 6)))
    shift = draw(integers(1, 30))
    if pre is not None:
        shift = np.where(pre > 0, 1, shift).astype(np.int32)
    offset = draw(integers(-(2**30), 2**30))
    return Multiplier(m, offset, shift, pre)  # type: ignore[arg-type]


def on_device(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def check_alike(
    folded: Folded,
    multiplier: Multiplier,
    x: np.ndarray,
    bias: np.ndarray,
    bits: int,
    *,
    wide: bool,
) -> None:
    plain = rescale(jnp.asarray(x + bias), on_device(multiplier), wide=wide)
    found = on_device(folded)(jnp.asarray(x))
    assert clip_bits(found, bits).tolist() == clip_bits(plain, bits).tolist()


@settings(deadline=None)  # the first of them compiles
@given(multipliers(15), integers(-(2**24), 2**24), integers(-(2**30), 2**30))
def test_narrow_multipliers_with_their_bias(
    multiplier: Multiplier, x: np.ndarray, bias: np.ndarray
) -> None:
    """Where a ratio is from 1/2 on, only if there is room for a left shift."""
    folded = fold(multiplier, 2**24, bias)
    pre = np.zeros(COUNT, np.int64) if multiplier.pre is None else multiplier.pre.astype(np.int64)
    left = np.maximum(pre - multiplier.shift, 0)
    no_room = left.any() and np.any((2**24 + np.abs(bias.astype(np.int64))) << left >= 2**31)
    assert (folded is None) == no_room
    if folded is not None:
        for bits in (NARROW, 16):
            check_alike(folded, multiplier, x, bias, bits, wide=False)


@settings(deadline=None)
@given(multipliers(15), multipliers(15), integers(-(2**24), 2**24))
def test_channels_of_a_layer_share_a_right_shift(
    first: Multiplier, second: Multiplier, x: np.ndarray
) -> None:
    """Of layers in a stack, wherever the largest shift leaves each multiplier its room."""
    layers = [dataclasses.replace(each, pre=None) for each in (first, second)]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *layers)
    folded = fold(stacked, 2**24)
    assert folded is not None
    right = np.maximum(stacked.shift - HIGHEST, 0)
    moved = np.clip(HIGHEST - stacked.shift, 0, HIGHEST) + right.max(-1, keepdims=True) - right
    if right.any():
        one = (moved <= HIGHEST).all() or (right == right[:, :1]).all()
        assert np.shape(folded.shift) == ((2,) if one else (2, COUNT))
    for index, layer in enumerate(layers):
        own = jax.tree.map(lambda part, i=index: part[i], folded)
        for bits in (NARROW, 16):
            check_alike(own, layer, x, np.zeros(COUNT, np.int32), bits, wide=False)


@settings(deadline=None)
@given(multipliers(31), integers(-(2**24), 2**24), integers(-(2**30), 2**30))
def test_wide_multipliers_with_their_bias(
    multiplier: Multiplier, x: np.ndarray, bias: np.ndarray
) -> None:
    folded = fold_wide(multiplier, 2**24, bias)
    pre = np.zeros(COUNT, np.int64) if multiplier.pre is None else multiplier.pre.astype(np.int64)
    no_room = np.any((2**24 + np.abs(bias.astype(np.int64))) << pre >= 2**31)
    assert (folded is None) == bool(no_room)
    if folded is not None:
        check_alike(folded, multiplier, x, bias, WIDE, wide=True)


@settings(deadline=None)
@given(multipliers(15), st.integers(-(2**20), 2**20), integers(-(2**20), 2**20))
def test_below_a_largest(multiplier: Multiplier, top: int, x: np.ndarray) -> None:
    """The negative exponent of a score less its row's largest, one constant for all."""
    scalar = jax.tree.map(lambda array: np.int32(abs(array[0])), multiplier)
    folded = fold(scalar, 2**20)
    assert folded is not None
    plain = rescale(jnp.asarray(x) - top, on_device(scalar), wide=False)
    found = on_device(folded).negative_below(jnp.int32(top))(jnp.asarray(x))
    limits = -(30 << 11), 30 << 11
    assert (-np.clip(plain, *limits)).tolist() == np.clip(found, *limits).tolist()


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_a_model_is_folded_for_fused_kernels_and_whole_again(scheme: str) -> None:
    program = ib.IntegerModel.load(MODELS / scheme)
    fused = program.with_kernels("pallas")
    leaves = integer_leaves(fused._laid_out)
    folded = {path for path, leaf in leaves.items() if isinstance(leaf, FoldedLeaf)}
    narrow = ("self.query_activation", "self.softmax", "intermediate.intermediate_act_fn")
    wide = ("attention.output.ln_input_act", ".output.ln_input_act") if scheme == "channel" else ()
    for name in (*narrow, *wide):
        assert any(path.endswith(name) for path in folded), name
    for again in (fused.network, fused.with_kernels("xla").network):
        kept = integer_leaves(again)
        assert not any(isinstance(leaf, FoldedLeaf) for leaf in kept.values())
        assert not any(isinstance(x, Folded) for x in jax.tree.leaves(kept, is_leaf=_is_folded))
        jax.tree.map(np.testing.assert_array_equal, kept, integer_leaves(program.network))
    assert fused.sha256() == program.sha256()


def _is_folded(node: object) -> bool:
    return isinstance(node, Folded)
