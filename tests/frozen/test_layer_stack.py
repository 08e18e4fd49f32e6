"""Layers stacked whole, with their large matrices apart, and one by one: the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen.network import unstack_layers
from ibert_jax.models import layer_stack
from ibert_jax.models.layer_stack import Apart
from ibert_jax.proof import examine
from ibert_jax.proof.census import census
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS
from ibert_jax.proof.operations import HLO
from ibert_jax.proof.overflow import OverflowProof

MODELS = Path(__file__).parents[1] / "data" / "hashes"


def loaded(scheme: str, monkeypatch: pytest.MonkeyPatch, *, apart: bool) -> ib.IntegerModel:
    monkeypatch.setattr(layer_stack, "LARGE", 0 if apart else 2**30)
    return ib.IntegerModel.load(MODELS / scheme)


def encoder(program: ib.IntegerModel) -> Any:
    network = program.network
    return getattr(network, "ibert", network).encoder


def weight(program: ib.IntegerModel) -> Any:
    return encoder(program).stacked.intermediate.dense.weight


def prove(program: ib.IntegerModel) -> OverflowProof:
    """Of the program as it would be traced now."""
    jax.clear_caches()
    ids = Bounded((1, 8), np.int32, 0, program.config.vocab_size - 1)
    mask = Bounded((1, 8), np.int32, 0, 1)
    return analyze(
        lambda p, ids, mask: p.integers(ids, attention_mask=mask),
        program,
        ids,
        mask,
        contracts=LEMMAS,
    )


@pytest.mark.parametrize("scheme", ["channel", "reference"])
@pytest.mark.parametrize("kernels", ["xla", "pallas-interpreted"])
def test_every_form_gives_the_same_integers(
    scheme: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = loaded(scheme, monkeypatch, apart=True)
    whole = loaded(scheme, monkeypatch, apart=False)
    network = apart.network
    unstack_layers(network)
    unrolled = ib.IntegerModel.of(network, apart.config, dict(apart.scales), apart.states)
    assert isinstance(weight(apart), Apart)
    assert weight(whole).ndim == 3
    assert encoder(unrolled).stacked is None

    ids = np.random.default_rng(0).integers(3, 100, (5, 14))
    given = {"attention_mask": np.arange(14) < np.array([[14], [1], [0], [7], [13]])}
    integers = [
        program.with_kernels(kernels).integers(ids, **given) for program in (apart, whole, unrolled)
    ]
    jax.tree.map(np.testing.assert_array_equal, *integers[:2])
    jax.tree.map(np.testing.assert_array_equal, *integers[1:])
    assert len(np.unique(integers[0][0])) > 50


def test_a_form_is_not_part_of_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither of its hash nor of its files."""
    hashes = set()
    for form in (True, False):
        program = loaded("channel", monkeypatch, apart=form)
        hashes.add(program.sha256())
        program.save(tmp_path / str(form))
    assert len(hashes) == 1
    for file in (tmp_path / "True").iterdir():
        assert file.read_bytes() == (tmp_path / "False" / file.name).read_bytes()
    tensors = "integer_model.safetensors"
    written = (tmp_path / "True" / tensors).read_bytes()
    assert written == (MODELS / "channel" / tensors).read_bytes()


def test_ranges_are_each_layers_own_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    apart, whole = (prove(loaded("channel", monkeypatch, apart=form)) for form in (True, False))
    assert apart.ok
    assert apart.tensors == whole.tensors
    assert len(apart.clips) == len(whole.clips)  # the number of the turn saturates nothing
    layers = [t for t in apart.tensors if t.name.endswith("intermediate.dense")]
    assert len({(t.lo, t.hi) for t in layers}) == len(layers) > 1


def test_a_chosen_product_is_certified_and_stays_8_bit(
    vectorized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = loaded("channel", monkeypatch, apart=True)
    assert examine(program, 2, 16).ok
    ids = jax.ShapeDtypeStruct((2, 16), np.int32)
    found = census(lambda p, ids: p.integers(ids, attention_mask=ids), program, ids)
    products = {kind: n for kind, n in found.operations[HLO].items() if kind.startswith("dot")}
    # Of each layer query, key, value, output, and two of the feed-forward; of all of them scores,
    # row sums and context, and the keys' sums for the scores' zero point; two of the head.
    mixed, signed = 6 * encoder(program).depth + 3 + 2, 1
    assert products == (
        {"dot (uint8, int8) -> int32": mixed, "dot (int8, int8) -> int32": signed}
        if vectorized
        else {"dot (int8, int8) -> int32": mixed + signed}
    )
