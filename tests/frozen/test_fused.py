"""Fused kernels in the places of leaves: the same integers, and a census that sees inside."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

import ibert_jax as ib
from ibert_jax.proof import examine
from ibert_jax.proof.walk_jaxpr import walk_jaxpr
from ibert_jax.proof.walk_stablehlo import walk_stablehlo

KERNELS = 8
"""In a layer: query and key, value, attention, two LayerNorms with their sums, the feed-forward's
first half. Outside of layers: the LayerNorm of the embeddings and the language model's."""
RESULTS = 4 + 2 * (2 + 2 + 2 + 1)
"""Of a LayerNorm two rows; those of a layer and of the embeddings make a copy each, too."""
MODELS = Path(__file__).parents[1] / "data" / "hashes"


@cache
def program(scheme: str) -> ib.IntegerModel:
    """A committed model of two layers and two heads, which returns every hidden state."""
    return ib.IntegerModel.load(MODELS / scheme)


def batch(rows: int = 4, length: int = 20) -> dict[str, np.ndarray]:
    """Random tokens; one row is full, one has a single token, one none."""
    ids = np.random.default_rng(0).integers(3, 100, (rows, length), dtype=np.int32)
    mask = np.arange(length) < np.array([length, 1, 0, 13])[:, None]
    return {"input_ids": np.where(mask, ids, 1), "attention_mask": mask.astype(np.int32)}


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_fused_kernels_give_the_same_integers(scheme: str) -> None:
    """Every element of every state, one head of the second layer left out."""
    heads = np.array([[1, 1], [0, 1]])
    plain = program(scheme).integers(**batch(), head_mask=heads)
    fused = program(scheme).with_kernels("pallas-interpreted")
    jax.tree.map(np.testing.assert_array_equal, fused.integers(**batch(), head_mask=heads), plain)
    assert len(np.unique(plain.hidden_states[-1])) > 100


def test_elsewhere_pending_values_are_computed_leaf_by_leaf() -> None:
    """On other platforms; and attention wherever its weights are wanted."""
    plain = program("channel").integers(**batch(), output_attentions=True)
    fused = program("channel").with_kernels("pallas")
    jax.tree.map(
        np.testing.assert_array_equal, fused.integers(**batch(), output_attentions=True), plain
    )


def test_fused_program_is_certified_where_it_runs() -> None:
    """The kernels' insides are counted, of those too that only a GPU would run."""
    certificate = examine(program("channel").with_kernels("pallas"), 2, 16)
    assert certificate.ok
    operations = certificate.operations["jaxpr"]
    assert operations["pallas_call"] == KERNELS
    assert operations["swap"] == RESULTS
    assert operations["dot_general (int8, int8) -> int32"] >= KERNELS


def test_constants_are_put_together_before_the_layers_run() -> None:
    """Once for all kernels of a layer; in a layer none puts its own together."""
    traced = jax.make_jaxpr(lambda: program("channel").with_kernels("pallas").integers(**batch()))()
    found = [x.where() for x in walk_jaxpr(traced) if x.name == "concatenate"]
    inside = [where for where in found if "scan" in where and "pallas_call" not in where]
    assert found
    assert inside == []


@pytest.mark.parametrize(("kernels", "count"), [("xla", 0), ("pallas", KERNELS)])
def test_program_lowers_for_a_gpu(kernels: str, count: int) -> None:
    """Without one; and the census allows every operation in it."""
    fused = program("channel").with_kernels(kernels)
    ids = jax.ShapeDtypeStruct((2, 16), np.int32)

    def run(program: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return program.integers(ids, attention_mask=mask).logits

    h200 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
    with jax.sharding.use_abstract_mesh(h200), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of JAX 0.11, of the Triton backend
        lowered = jax.jit(run).trace(fused, ids, ids).lower(lowering_platforms=("cuda",))
    operations = list(walk_stablehlo(lowered.compiler_ir("stablehlo")))
    assert [x for x in operations if x.objection()] == []
    found = [x for x in operations if x.opaque and "triton" in x.opaque]
    assert len(found) == count


def test_unknown_kernels_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="kernels must be one of xla, onednn, pallas"):
        program("channel").with_kernels("cuda")
