"""Embeddings from outside are the table's own integers; hidden scales and spans at their ends."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen.states import StateScales
from ibert_jax.models.losses import span_loss

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_positions_outside_of_the_text() -> None:
    """Beyond its end an answer takes no part, wherever; before its start it is the start."""
    rng = np.random.default_rng(0)
    start, end = jnp.asarray(rng.standard_normal((2, 2, 4)), jnp.float32)

    def loss(*positions: int) -> float:
        array = jnp.asarray(positions, jnp.int32)
        return float(span_loss(start, end, array, array))

    assert loss(1, 9) == loss(1, 4) != loss(1, 3)
    assert loss(1, -5) == loss(1, 0)


def test_states_are_told_apart_by_their_offsets() -> None:
    scale, offset = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert StateScales(scale, offset) == StateScales(scale, offset.copy())
    assert StateScales(scale, offset) != StateScales(scale, offset + 1)


@pytest.mark.parametrize(("scheme", "bits"), [("reference", 8), ("channel", 4)])
def test_rows_of_the_table_become_what_is_looked_up(scheme: str, bits: int) -> None:
    config = ib.IBertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=12,
        quantization=ib.QuantConfig(scheme=scheme, weight_bits=bits),
    )  # fmt: skip
    model = ib.IBertModel(config, rngs=nnx.Rngs(0))
    ids = np.arange(3, 13).reshape(1, 10)
    program = ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))
    rows = np.asarray(model.get_input_embeddings().weight[...])[ids]
    looked_up = program.network.embeddings.word_embeddings(jnp.asarray(ids))
    np.testing.assert_array_equal(program.quantize_embeds(rows), looked_up)
