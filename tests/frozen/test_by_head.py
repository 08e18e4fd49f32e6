"""The context requantized head by head: the same integers, and a certificate that sees inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen import by_head
from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.layers.activation import IntegerNarrowAct
from ibert_jax.layers.attention import IntegerContext
from ibert_jax.proof import examine

from .conftest import ragged

MODELS = Path(__file__).parents[1] / "data" / "hashes"
APART = "i32[6,20,2,8] = shift_right_arithmetic"  # requantizing six examples, 20 tokens, two heads


pytestmark = pytest.mark.usefixtures("forget")


def worth_it_from(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """JAX must not remember how it was without."""
    monkeypatch.setattr(by_head, "WORTH_IT", tokens)
    jax.clear_caches()


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_heads_apart_give_the_same_integers(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, given = ib.IntegerModel.load(MODELS / scheme), ragged(6, 20)
    given["head_mask"] = np.array([[1, 1], [0, 1]])
    worth_it_from(monkeypatch, 6 * 20 + 1)
    assert APART not in str(jax.make_jaxpr(lambda p: p.integers(**given))(program))
    merged = program.integers(**given)
    worth_it_from(monkeypatch, 6 * 20)
    assert APART in str(jax.make_jaxpr(lambda p: p.integers(**given))(program))
    jax.tree.map(np.testing.assert_array_equal, program.integers(**given), merged)
    assert len(np.unique(merged.hidden_states[-1])) > 100


def test_a_program_of_heads_apart_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ib.IntegerModel.load(MODELS / "channel")
    worth_it_from(monkeypatch, 3 * 24 + 1)
    merged = examine(program, 3, 24)
    worth_it_from(monkeypatch, 0)
    apart = examine(program, 3, 24)
    assert merged.ok
    assert apart.ok
    # The choice by which the heads are written before they are merged, and two of the platform.
    assert apart.operations["jaxpr"]["cond"] == merged.operations["jaxpr"]["cond"] + 3


@pytest.mark.parametrize(
    ("shape", "narrow", "apart"),
    [
        ((4, 128), False, True),
        ((3, 128), False, False),
        (("b", 512), False, False),  # an export's
        ((4, 128), True, False),
    ],
)
def test_where_heads_are_left_apart(shape: tuple[Any, ...], narrow: bool, apart: bool) -> None:
    network = ib.IntegerModel.load(MODELS / "channel").network
    attention = "ibert.encoder.stacked.attention.self."
    if narrow:  # layers of several widths
        act = integer_leaves(network)[attention + by_head.ACTIVATION]
        of_several = IntegerNarrowAct(act.multipliers[0], jnp.int8(127), act.bits)
        put_leaf(network, attention + by_head.ACTIVATION, nnx.data(of_several))
    by_head.requantize_by_head(network, shape)
    context = integer_leaves(network)[attention + by_head.CONTEXT]
    assert type(context) is (by_head.ContextOfHeads if apart else IntegerContext)
