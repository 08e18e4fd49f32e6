"""Every tensor of a tiny network: the frozen program's and plain Python's are the same integers;
and where two runs differ, the first difference is named."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax import spec_network
from ibert_jax.proof import Divergence, integer_tensors, plain_leaves

SCHEMES = ["channel", "reference"]
COMMITTED = Path(__file__).parents[1] / "data" / "hashes"
LAYER = "ibert.encoder.layer"


@dataclasses.dataclass(frozen=True)
class Case:
    program: ib.IntegerModel
    batch: dict[str, np.ndarray]
    tensors: dict[str, np.ndarray]


def batch(vocabulary: int) -> dict[str, np.ndarray]:
    """Four sentences: a full one, a padded one, one without a token and one of a single token."""
    mask = np.arange(6) < np.array([[6], [4], [0], [1]])
    ids = np.where(mask, np.random.default_rng(0).integers(3, vocabulary, mask.shape), 1)
    return {"input_ids": ids, "attention_mask": mask}


@functools.cache
def case(scheme: str) -> Case:
    """A committed tiny program and every one of its integers: a language model in the channel
    scheme, an encoder with its pooler in the reference scheme; every operation is in one."""
    program = ib.IntegerModel.load(COMMITTED / scheme)
    inputs = batch(program.config.vocab_size)
    return Case(program, inputs, integer_tensors(program, **inputs))


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
    outputs = made.program.integers(**made.batch)
    last, path = (
        (outputs.logits, "lm_head.decoder")
        if scheme == "channel"
        else (outputs.pooler_output, "pooler.activation")
    )
    assert last.tolist() == plain[path]
    assert len(np.unique(last)) > last.size / 4  # or equality would say little


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
    assert found == Divergence(path, (0, 0, 5), before, before + 1, 4 * 6, 4 * 6 * 32)


def test_the_earliest_tensor_and_index_are_named() -> None:
    tensors = case("channel").tensors
    changed = {path: tensor.astype(np.int64) for path, tensor in tensors.items()}
    late, early = f"{LAYER}.1.output.dense", f"{LAYER}.0.attention.self.softmax"
    changed[late] += 1
    changed[early][2, 1, 3, 4] = -7
    changed[early][3, 0, 0, 0] = -7
    found = ib.first_divergence(tensors, changed)
    before = int(tensors[early][2, 1, 3, 4])
    assert found == Divergence(early, (2, 1, 3, 4), before, -7, 2, 4 * 2 * 6 * 6)
    assert str(found) == (
        f"{early}[2, 1, 3, 4] is {before} in the first run and -7 in the second; "
        "2 of its 288 elements differ"
    )


def test_runs_that_cannot_be_compared_get_a_sentence() -> None:
    tensors = case("channel").tensors
    path = "lm_head.dense"
    with pytest.raises(ValueError, match=r"same tensors: lm_head\.dense is in one"):
        ib.first_divergence(tensors, {k: v for k, v in tensors.items() if k != path})
    with pytest.raises(ValueError, match=r"lm_head\.dense has shape \(4, 6, 16\)"):
        ib.first_divergence(tensors, {**tensors, path: tensors[path][:2]})
    floating = ib.IBertForMaskedLM(case("channel").program.config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="got a float model"):
        ib.first_divergence(tensors, floating.quantize(False), **case("channel").batch)


def test_a_tensor_of_the_second_run_alone_is_named():
    run = {"a": np.zeros(2, np.int64)}
    with pytest.raises(ValueError, match="same tensors: b is in one"):
        ib.first_divergence(run, {**run, "b": run["a"]})


def test_runs_without_integers_do_not_agree():
    """Or two runs of floats would, of which only whole parts were compared."""
    with pytest.raises(TypeError, match="expected integers in a, got float64"):
        ib.first_divergence({"a": np.array([1.7])}, {"a": np.array([1.2])})
    with pytest.raises(ValueError, match="two without any"):
        ib.first_divergence({}, {})
