"""Weights laid out for oneDNN: the same integers, files and certificate as without."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen.network import integer_leaves, unstack_layers
from ibert_jax.frozen.packing import JointLinear
from ibert_jax.integer import packed
from ibert_jax.integer.packed import Packed, answers
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.proof import examine
from ibert_jax.proof.operations import HLO, STABLEHLO
from ibert_jax.proof.walk_hlo import walk_hlo
from ibert_jax.proof.walk_stablehlo import walk_stablehlo

from .conftest import inputs, make

LAYERS = 2
HERE = answers(4, (64, 64))
CALL = f"custom-call[{packed.TARGET}]"


@functools.cache
def programs(scheme: str) -> tuple[ib.IntegerModel, ib.IntegerModel]:
    """A program as XLA compiles it, and the same for oneDNN."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS}
    model = ib.calibrate(make(scheme, **sizes), [inputs(6, 20, seed) for seed in range(2)])
    program = ib.freeze(model)
    return program, program.with_kernels("onednn")


def same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def weights(program: ib.IntegerModel) -> list[Any]:
    network = program._laid_out
    unstack_layers(network)
    leaves = integer_leaves(network).values()
    linear = [leaf.linear if isinstance(leaf, JointLinear) else leaf for leaf in leaves]
    return [leaf.weight for leaf in linear if isinstance(leaf, IntegerLinear)]


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_every_integer_is_the_same(scheme: str) -> None:
    """Of every state and every attention weight, one head left out, and of a lone token."""
    plain, laid_out = programs(scheme)
    batch = inputs(5, 24, 7)
    batch["attention_mask"][3] = 0
    heads = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])
    wanted = {"output_hidden_states": True, "output_attentions": True, "head_mask": heads}
    found = plain.integers(**batch, **wanted)
    same(laid_out.integers(**batch, **wanted), found)
    assert len(np.unique(found.hidden_states[-1])) > 100
    same(laid_out.integers(**batch), plain.integers(**batch))
    lone = np.array([[5]])
    same(laid_out.integers(lone), plain.integers(lone))


def test_layers_weights_are_laid_out_where_onednn_answers() -> None:
    plain, laid_out = programs("channel")
    assert not any(isinstance(weight, Packed) for weight in weights(plain))
    count = sum(isinstance(weight, Packed) for weight in weights(laid_out))
    # Query, key and value together, the output's, and two of the feed-forward.
    assert count == (4 * LAYERS if HERE else 0)


def test_where_onednn_does_not_answer_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = programs("channel")
    monkeypatch.setattr("ibert_jax.frozen.packing.answers", lambda *_: False)
    assert not any(isinstance(w, Packed) for w in weights(plain.with_kernels("onednn")))


def test_form_is_not_part_of_the_model(tmp_path: Path) -> None:
    """Neither of its hash nor of its files; and it can be taken back."""
    plain, laid_out = programs("channel")
    assert laid_out.sha256() == plain.sha256()
    for name, program in (("plain", plain), ("laid out", laid_out)):
        program.save(tmp_path / name)
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "laid out" / file.name).read_bytes()
    back = laid_out.with_kernels("xla")
    assert jax.tree.structure(back) == jax.tree.structure(plain)
    same(back, plain)
    same(jax.tree.leaves(laid_out.network), jax.tree.leaves(plain.network))


def test_program_is_certified_as_it_runs() -> None:
    _, laid_out = programs("channel")
    certificate = examine(laid_out, 2, 16)
    assert certificate.ok
    assert certificate.operations[HLO].get(CALL, 0) == (4 * LAYERS if HERE else 0)
    called = f"stablehlo.custom_call[{packed.TARGET}]"
    assert (called in certificate.operations[STABLEHLO]) == HERE


def test_in_a_function_of_ones_own_it_is_the_plain_product() -> None:
    """Which others may cache, export and map."""
    plain, laid_out = programs("channel")
    ids = inputs(4, 16)["input_ids"]
    jitted = jax.jit(lambda program, ids: program.integers(ids).logits)
    assert packed.TARGET not in jitted.lower(laid_out, ids).as_text()
    want = plain.integers(ids).logits
    same(jitted(laid_out, ids), want)
    mapped = jax.vmap(lambda row: laid_out.integers(row[None]).logits[0])(jax.numpy.asarray(ids))
    same(mapped, want)


def test_a_call_that_does_more_than_multiply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted the other way round: the call is ours, what is expected of it is not."""
    if not HERE:
        pytest.skip("oneDNN does not answer on this machine")
    a, matrix = np.ones((8, 64), np.uint8), Packed.of(np.ones((64, 64), np.int8))
    with packed.own_program():
        lowered = jax.jit(lambda a, m: packed.dot_u8_packed(a, m)).lower(a, matrix)
        modules = lowered.compile().runtime_executable().hlo_modules()

    def objections() -> list[str | None]:
        walked = [*walk_stablehlo(lowered.compiler_ir("stablehlo")), *walk_hlo(modules[0])]
        return [operation.objection() for operation in walked]

    assert set(objections()) == {None}
    monkeypatch.setattr(packed, "CONFIG", {})
    assert objections().count("opaque kernel, its inside cannot be checked") == 2
