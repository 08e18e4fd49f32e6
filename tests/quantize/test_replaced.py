"""A calibration replaces the one before, and padding is no part of it."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.proof.saturation import saturation

pytestmark = pytest.mark.usefixtures("unoptimized")


def batch(filler: int, low: int = 3, high: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = (np.arange(9) < rng.integers(1, 6, (4, 1))).astype(np.int32)
    return {
        "input_ids": np.where(mask, rng.integers(low, high, (4, 9)), filler),
        "attention_mask": mask,
    }


def make():
    config = ib.IBertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    return ib.IBertModel(config, rngs=nnx.Rngs(0))


def test_ranges_of_a_former_calibration_are_replaced() -> None:
    again, fresh = make(), make()
    table = again.get_input_embeddings().weight
    loud = table[...]
    table[...] = loud * 10
    ib.calibrate(again, [batch(7)])
    table[...] = loud
    ib.calibrate(again, [batch(7)])
    ib.calibrate(fresh, [batch(7)])
    for name, value in fresh.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], value, err_msg=name)


def test_a_certificates_saturation_is_of_the_tokens_that_count() -> None:
    program = ib.freeze(ib.calibrate(make(), [batch(7, high=20)]))
    one, other = saturation(program, [batch(7)]), saturation(program, [batch(40)])
    per_token = {path for path in one if not path.startswith("pooler")}
    assert {p: one[p] for p in per_token} == {p: other[p] for p in per_token}
    assert max(one.values()) > 0


def test_the_exponent_is_searched_on_the_tokens_that_count() -> None:
    from ibert_jax.quantize.migration import search_migration

    model = ib.calibrate(make(), [batch(7)])
    one, other = search_migration(model, [batch(7)]), search_migration(model, [batch(40)])
    assert one == pytest.approx(other, rel=1e-4)
