"""The training step: what counts in it, what it depends on, what it compiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ibert_jax.layers.leaf import set_life
from ibert_jax.models import IBertForSequenceClassification
from ibert_jax.training.batches import Batch
from ibert_jax.training.kinds import KINDS, summed_cross_entropy
from ibert_jax.training.state import Skeleton, TrainState, take_apart
from ibert_jax.training.step import (
    dropout_key,
    initial_state,
    make_train_step,
)

pytestmark = pytest.mark.usefixtures("unoptimized")
LOSS = KINDS["classification"].loss
SGD = optax.sgd(0.1)


def make_batch(rows: int = 4, length: int = 8, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    ids = random.integers(4, 22, (rows, length)).astype(np.int32)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": np.ones_like(ids)},
        targets={"labels": random.integers(0, 2, rows).astype(np.int32)},
        weights=np.ones(rows, np.float32),
    )


@pytest.fixture
def model(model_directory: Path) -> IBertForSequenceClassification:
    """In training, its ranges at rest, as in the float stage."""
    found = IBertForSequenceClassification.from_pretrained(model_directory)
    found.train()
    set_life(found, observing=False)
    return found


@pytest.fixture(scope="module")
def step(model_directory: Path) -> Any:
    """A step of plain descent in the float life, whose compilations the tests share."""
    found = IBertForSequenceClassification.from_pretrained(model_directory)
    found.train()
    set_life(found, observing=False)
    return make_train_step(found, SGD, dropout_key(0, 0), LOSS)


def equal(mine: dict[str, jax.Array], theirs: dict[str, jax.Array]) -> bool:
    return all(bool(jnp.array_equal(mine[name], theirs[name])) for name in mine)


def test_loss_is_the_weighted_mean() -> None:
    logits = jnp.asarray([[1.0, 3.0], [2.0, 0.0], [50.0, -50.0]], jnp.float32)
    labels = jnp.asarray([1, 1, 1], jnp.int32)
    weights = jnp.asarray([1.0, 1.0, 0.0], jnp.float32)
    both = np.log1p(np.exp(-2)) + np.log1p(np.exp(2))
    np.testing.assert_allclose(summed_cross_entropy(logits, labels, weights), (both, 2), rtol=1e-6)
    ignored = jnp.asarray([1, -100, 1], jnp.int32)
    np.testing.assert_allclose(
        summed_cross_entropy(logits, ignored, weights), (np.log1p(np.exp(-2)), 1), rtol=1e-6
    )
    assert summed_cross_entropy(logits, jnp.full(3, -100, jnp.int32), weights) == (0, 0)


def test_filler_changes_nothing(model: IBertForSequenceClassification, step: Any) -> None:
    batch, other = make_batch(), make_batch(seed=1)
    weights = np.asarray([1, 1, 1, 0], np.float32)
    ids, labels = batch.inputs["input_ids"], batch.targets["labels"]
    changed = np.where(weights[:, None] > 0, ids, other.inputs["input_ids"])
    assert not np.array_equal(ids, changed)
    refilled = Batch(
        {**batch.inputs, "input_ids": changed},
        {"labels": np.where(weights > 0, labels, 1 - labels)},
        weights,
    )
    mine, my_loss = step(initial_state(model, SGD), replace(batch, weights=weights))
    theirs, their_loss = step(initial_state(model, SGD), refilled)
    np.testing.assert_allclose(my_loss, their_loss, rtol=1e-6)
    for name, value in mine.params.items():
        np.testing.assert_allclose(value, theirs.params[name], rtol=1e-5, atol=1e-7)


def test_dropout_depends_on_seed_and_step_alone(
    model: IBertForSequenceClassification, step: Any
) -> None:
    batch = make_batch()

    def after(number: int) -> TrainState:
        start = initial_state(model, SGD)._replace(step=jnp.int32(number))
        return step(start, batch)[0]

    assert equal(after(0).params, after(0).params)
    assert not equal(after(0).params, after(1).params)
    keys = [dropout_key(0, 0), dropout_key(0, 1), dropout_key(1, 0)]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 3


def test_one_compilation_a_shape_and_arrays_given_away(
    model: IBertForSequenceClassification, step: Any
) -> None:
    state = initial_state(model, SGD)
    old = state
    for seed, length in enumerate((8, 12, 8, 12, 8)):
        state, _ = step(state, make_batch(length=length, seed=seed))
    assert step.jitted._cache_size() == 2  # other tests have batches of the first shape
    assert int(state.step) == 5
    assert all(array.is_deleted() for array in old.params.values())
    assert model.ibert.embeddings.word_embeddings.weight[...].shape  # the model keeps its own


def test_parts_add_up_to_the_whole(model: IBertForSequenceClassification) -> None:
    """Parts of unequal weight, one of filler alone: the loss and gradient of the whole batch."""
    model.eval()  # dropout would draw other bits
    batch = replace(make_batch(rows=6), weights=np.asarray([1, 1, 0, 1, 0, 0], np.float32))
    found = {}
    for parts in (1, 3):
        step = make_train_step(model, SGD, dropout_key(0, 0), LOSS, parts=parts)
        found[parts] = step(initial_state(model, SGD), batch)
    np.testing.assert_allclose(found[3][1], found[1][1], rtol=1e-6)
    for name, value in found[1][0].params.items():
        np.testing.assert_allclose(found[3][0].params[name], value, rtol=1e-5, atol=1e-7)


def test_bfloat16_is_of_every_matmul(model: IBertForSequenceClassification) -> None:
    """In what is handed to the compiler: CPUs have no such products, and leave it at float32."""
    arguments = initial_state(model, SGD), vars(make_batch()), dropout_key(0, 0)

    def matmuls(bfloat16: bool) -> list[str]:
        step: Any = make_train_step(model, SGD, dropout_key(0, 0), LOSS, bfloat16=bfloat16)
        text = step.jitted.lower(*arguments).as_text()
        return [line for line in text.splitlines() if "stablehlo.dot_general" in line]

    plain, rounded = matmuls(False), matmuls(True)
    assert len(plain) == len(rounded) > 20
    assert not any("bf16" in line for line in plain)
    asked = "lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32"
    assert all(asked in line for line in rounded)


def test_ranges_move_where_observed(model: IBertForSequenceClassification) -> None:
    set_life(model, observing=True)
    before = initial_state(model, SGD)
    name = "ibert.embeddings.embeddings_act1.x_max"
    assert np.asarray(before.others[name]) == -np.inf
    step = make_train_step(model, SGD, dropout_key(0, 0), LOSS)
    after, _ = step(before, make_batch())
    assert np.isfinite(after.others[name])


def test_a_skeleton_puts_arrays_back(model: IBertForSequenceClassification) -> None:
    params, others = take_apart(model, copy=False)
    doubled = {name: 2 * value for name, value in params.items()}
    skeleton = Skeleton(model)
    skeleton.put_into(model, doubled, others)
    assert equal(take_apart(model, copy=False)[0], doubled)
    assert equal(take_apart(skeleton.join(params, others), copy=False)[0], params)


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
