# ruff: noqa: F811 (fixtures of a neighbour, by name)
"""Rows that only fill a batch, and parts that only share it, change nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ibert_jax.layers.leaf import set_life
from ibert_jax.training.kinds import KINDS
from ibert_jax.training.step import dropout_key, initial_state, make_train_step

from .test_step import LOSS, SGD, make_batch, model  # noqa: F401

pytestmark = pytest.mark.usefixtures("unoptimized")

RNG = np.random.default_rng(0)
LOGITS = {"": (2, 5, 3), "classification": (2, 3), "multiple_choice": (2, 3), "regression": (2, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_filler_takes_no_part_in_any_loss(kind: str) -> None:
    """Whatever it holds: the sum, and how much was summed."""

    def loss(filler: int, weight: float) -> Any:
        shape = LOGITS.get(kind, LOGITS[""])
        logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        logits[1] += filler
        label: Any = np.asarray([1, filler % 3], np.int32)
        if kind == "regression":
            label = label.astype(np.float32)
        elif shape == LOGITS[""]:
            label = np.tile(label[:, None], (1, 5))
        output = SimpleNamespace(logits=jnp.asarray(logits))
        targets = {"labels": jnp.asarray(label)}
        if kind == "question_answering":
            output = SimpleNamespace(
                start_logits=jnp.asarray(logits[..., 0]), end_logits=jnp.asarray(logits[..., 1])
            )
            ends = jnp.asarray([1, filler % 3], jnp.int32)
            targets = {"start_positions": ends, "end_positions": ends}
        return [
            float(x)
            for x in KINDS[kind].loss(output, targets, jnp.asarray([1, weight], jnp.float32))
        ]

    assert loss(2, 0.0) == loss(7, 0.0)
    assert loss(2, 1.0) != loss(7, 1.0)


def test_every_part_draws_its_own_dropout(model: Any) -> None:
    """The same rows in both parts: drawn alike, their logits would cancel."""
    batch = make_batch(rows=4)
    for array in (batch.inputs["input_ids"], batch.targets["labels"]):
        array[1::2] = array[::2]  # part k has the rows k, k + 2
    batch.targets["labels"][:] = [1, -1, 1, -1]

    def difference(output: Any, targets: Any, weights: Any) -> Any:
        return jnp.sum(output.logits[:, 0] * targets["labels"].astype(jnp.float32)), jnp.sum(
            weights
        )

    step = make_train_step(model, SGD, dropout_key(0, 0), difference, parts=2)
    assert abs(float(step(initial_state(model, SGD), batch)[1])) > 1e-6
    model.eval()
    step = make_train_step(model, SGD, dropout_key(0, 0), difference, parts=2)
    assert abs(float(step(initial_state(model, SGD), batch)[1])) < 1e-6


def test_ranges_move_with_every_part(model: Any) -> None:
    set_life(model, observing=True, deterministic=True)
    name = "ibert.encoder.layer.0.output.ln_input_act.x_max"
    found = {}
    for parts, rows in ((1, slice(0, 4, 2)), (1, slice(1, 4, 2)), (2, slice(None))):
        batch = make_batch()
        batch.inputs.update({n: v[rows] for n, v in batch.inputs.items()})
        batch.targets["labels"] = batch.targets["labels"][rows]
        object.__setattr__(batch, "weights", batch.weights[rows])
        step = make_train_step(model, SGD, dropout_key(0, 0), LOSS, parts=parts)
        state, _ = step(initial_state(model, SGD), batch)
        found[rows.start] = float(state.others[name])
    momentum = model.config.quantization.momentum
    expected = momentum * found[0] + (1 - momentum) * found[1]
    assert found[0] != found[1]
    np.testing.assert_allclose(found[None], expected, rtol=1e-6)
