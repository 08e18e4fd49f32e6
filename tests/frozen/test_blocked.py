"""Attention block by block: the same integers, and a certificate that sees inside."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen import blocked
from ibert_jax.proof import examine

from .conftest import ragged

MODELS = Path(__file__).parents[1] / "data" / "hashes"


pytestmark = pytest.mark.usefixtures("forget")


def cut_into(monkeypatch: pytest.MonkeyPatch, *, block_bytes: int) -> None:
    """Blocks of so many bytes, whatever it is worth; JAX must not remember how it was without."""
    monkeypatch.setattr(blocked, "WORTH_IT", 0)
    monkeypatch.setattr(blocked, "CACHE", block_bytes)
    jax.clear_caches()


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_blocks_give_the_same_integers(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, given = ib.IntegerModel.load(MODELS / scheme), ragged(6, 20)
    given["head_mask"] = np.array([[1, 1], [0, 1]])
    plain = program.integers(**given)
    cut_into(monkeypatch, block_bytes=2 * 4 * 2 * 20 * 20)  # two examples
    text = str(jax.make_jaxpr(lambda p: p.integers(**given))(program))
    assert "i8[3,2,20" in text  # queries, of six examples in blocks of two
    jax.tree.map(np.testing.assert_array_equal, program.integers(**given), plain)
    assert len(np.unique(plain.hidden_states[-1])) > 100


def test_blocked_program_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into(monkeypatch, block_bytes=0)
    certificate = examine(ib.IntegerModel.load(MODELS / "channel"), 3, 24)
    assert certificate.ok
    assert certificate.operations["jaxpr"]["scan"] == 2  # layers, and blocks within one


def test_blocks_divide_a_batch_and_fit_the_cache() -> None:
    each = 4 * 12 * 512 * 512
    assert blocked.examples_a_block(8, each) == 1
    assert blocked.examples_a_block(1, each) == 1
    small = 4 * 12 * 128 * 128
    assert blocked.examples_a_block(8, small) == 8  # too little to be worth it
    assert blocked.examples_a_block(60, small) == 5
    assert blocked.examples_a_block(61, small) == 1


def test_weights_that_are_wanted_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into(monkeypatch, block_bytes=0)
    program = ib.IntegerModel.load(MODELS / "channel")
    outputs = program.integers(**ragged(2, 12), output_attentions=True)
    weights, row_sums = outputs.attentions[0]
    assert weights.shape == (2, 2, 12, 12)
    assert jnp.array_equal(weights.astype(jnp.int32).sum(-1, keepdims=True), row_sums)
