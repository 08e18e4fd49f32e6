"""When a classifier's last layer is computed for the first token alone in a job."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax.frozen import program as frozen_program
from ibert_jax.inference import Predictor
from ibert_jax.inference.last_layer import LastLayer
from ibert_jax.inference.price import Price

from .conftest import never_compile_more, priced_at

LAYERS, LEAST = 4, 64
SHAPES = [(4, 8), (4, 16), (8, 16), (8, 64)]


def chooser(price: Price) -> LastLayer:
    return LastLayer(lambda shape: shape[0] * shape[1] >= LEAST, LAYERS, price)


def test_whole_until_it_would_have_paid() -> None:
    last_layer = chooser(priced_at(100))  # a fifth of 128 tokens is spared each time
    assert [last_layer.whole((8, 16)) for _ in range(6)] == [True] * 3 + [False] * 3
    assert last_layer.whole((4, 16)), "another shape would be another program"
    assert not any(last_layer.whole((4, 8)) for _ in range(100)), "there is no other of this shape"


def test_whole_where_nothing_is_known_of_the_price() -> None:
    last_layer = chooser(Price())
    assert all(last_layer.whole((8, 64)) for _ in range(100))


@settings(deadline=None)
@given(st.lists(st.sampled_from(SHAPES), max_size=200), st.integers(1, 2000))
def test_a_program_costs_no_more_than_was_spent_for_want_of_it(
    shapes: list[tuple[int, int]], price: int
) -> None:
    last_layer, spent, compiled = chooser(priced_at(price)), 0.0, set()
    for shape in shapes:
        spent += shape[0] * shape[1] / LAYERS
        if not last_layer.whole(shape) and shape[0] * shape[1] >= LEAST:
            compiled.add(shape)
    assert len(compiled) * price <= spent


def test_a_long_job_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both programs, of the packaged model; a batch is of 4 rows of 16 tokens."""
    monkeypatch.setattr(frozen_program, "FIRST_TOKEN_FROM", {"xla": LEAST})
    texts = [f"a {word} film" for word in ("good", "bad", "tired", "moving")] * 12
    predictor = Predictor.default(batch_size=4)
    never_compile_more(predictor)
    answers = predictor.logits(texts)
    assert {whole for _, whole in predictor._engine._compiled} == {True}
    assert predictor._engine._last_layer is not None
    predictor._engine._last_layer._price = priced_at(0)
    np.testing.assert_array_equal(predictor.logits(texts), answers)
    assert {whole for _, whole in predictor._engine._compiled} == {True, False}
    assert len(np.unique(answers)) > 4


@pytest.mark.parametrize("whole", [True, False])
def test_as_the_program_was_told(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr(frozen_program, "FIRST_TOKEN_FROM", {"xla": LEAST})
    default = Predictor.default()
    program = dataclasses.replace(default._engine._parameters, whole_layers=whole)
    predictor = Predictor(program, default.tokenizer, batch_size=4)
    predictor.logits(["a good film"] * 40)
    assert {choice for _, choice in predictor._engine._compiled} == {None}
