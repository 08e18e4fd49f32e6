"""Every tensor of a tiny network: the frozen program's, the quantization-aware model's, and plain
Python's are the same integers; and where two runs differ, the first difference is named."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax import spec_network
from ibert_jax.proof import Divergence, integer_tensors, plain_leaves

SCHEMES = ["channel", "reference"]
LAYER = "ibert.encoder.layer"


@dataclasses.dataclass(frozen=True)
class Case:
    model: ib.IBertForSequenceClassification
    program: ib.IntegerModel
    batch: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]


@functools.cache
def case(scheme: str) -> Case:
    """A calibrated model of two layers, and every integer of its program for four sentences: a
    full one, a padded one, one without a token and one of a single token."""
    config = ib.IBertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        num_labels=3,
        initializer_range=0.3,
        quantization=ib.QuantConfig(scheme=scheme),
    )
    model = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    mask = np.arange(6) < np.array([[6], [4], [0], [1]])
    ids = np.where(mask, np.random.default_rng(0).integers(3, 40, mask.shape), 1)
    batch = {"input_ids": ids, "attention_mask": mask}
    ib.calibrate(model, [batch])
    program = ib.freeze(model)
    return Case(model, program, batch, integer_tensors(program, **batch))


def reference(program: ib.IntegerModel, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    return spec_network.run(
        plain_leaves(program),
        batch["input_ids"].tolist(),
        batch["attention_mask"].tolist(),
        padding=program.config.pad_token_id,
        narrow_residual=program.config.quantization.scheme == "reference",
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_program_equals_plain_python(scheme: str) -> None:
    """Every leaf of the unrolled program, and the logits of the scanned one."""
    made = case(scheme)
    plain = reference(made.program, made.batch)
    assert list(plain) == list(made.tensors)
    for path, tensor in made.tensors.items():
        assert np.array_equal(tensor, plain[path]), path
    assert ib.first_divergence(made.program, plain, **made.batch) is None
    logits = made.program.integers(**made.batch).logits
    assert logits.tolist() == plain["classifier.out_proj"]
    assert len(np.unique(logits)) == logits.size  # or equality would say little


def test_trained_equals_run_in_every_tensor() -> None:
    made = case("channel")
    trained = integer_tensors(made.model, **made.batch)
    assert list(trained) == list(made.tensors)
    assert ib.first_divergence(trained, made.tensors, **made.batch) is None


def test_a_changed_constant_is_found() -> None:
    """One bias of the second layer, by one."""
    made = case("channel")
    network = made.program.network
    intermediate = network.ibert.encoder.stacked.intermediate
    one = jnp.zeros_like(intermediate.dense.bias).at[1, 5].set(1)
    changed = dataclasses.replace(
        intermediate.dense,
        bias=intermediate.dense.bias + one,
        shifted_bias=intermediate.dense.shifted_bias + one,
    )
    intermediate.dense = nnx.data(changed)
    program = ib.IntegerModel.of(network, made.program.config, dict(made.program.scales))
    found = ib.first_divergence(made.tensors, program, **made.batch)
    path = f"{LAYER}.1.intermediate.dense"
    before = int(made.tensors[path][0, 0, 5])
    assert found == Divergence(path, (0, 0, 5), before, before + 1, 4 * 6, 4 * 6 * 24)


def test_the_earliest_tensor_and_index_are_named() -> None:
    tensors = case("channel").tensors
    changed = {path: tensor.astype(np.int64) for path, tensor in tensors.items()}
    late, early = f"{LAYER}.1.output.dense", f"{LAYER}.0.attention.self.softmax"
    changed[late] += 1
    changed[early][2, 1, 3, 4] = -7
    changed[early][3, 0, 0, 0] = -7
    found = ib.first_divergence(tensors, changed, None)
    before = int(tensors[early][2, 1, 3, 4])
    assert found == Divergence(early, (2, 1, 3, 4), before, -7, 2, 4 * 2 * 6 * 6)
    assert str(found) == (
        f"{early}[2, 1, 3, 4] is {before} in the first run and -7 in the second; "
        "2 of its 288 elements differ"
    )


def test_runs_that_cannot_be_compared_get_a_sentence() -> None:
    tensors = case("channel").tensors
    path = "classifier.dense"
    with pytest.raises(ValueError, match=r"same tensors: classifier\.dense is in one"):
        ib.first_divergence(tensors, {k: v for k, v in tensors.items() if k != path}, None)
    with pytest.raises(ValueError, match=r"classifier\.dense has shape \(4, 16\)"):
        ib.first_divergence(tensors, {**tensors, path: tensors[path][:2]}, None)
    model = nnx.clone(case("channel").model).quantize(False)
    with pytest.raises(ValueError, match="got a float model"):
        ib.first_divergence(tensors, model, case("channel").batch["input_ids"])
