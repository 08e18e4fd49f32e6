"""Beside a program: embeddings that come from outside, the scales of hidden states."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen.states import StateScales

pytestmark = pytest.mark.usefixtures("unoptimized")


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
