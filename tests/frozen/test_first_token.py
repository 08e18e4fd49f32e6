"""The last layer for the first token alone: the same integers, fewer of them computed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen import blocked, by_head, parts, program
from ibert_jax.frozen.network import stack_layers, unstack_layers
from ibert_jax.frozen.packing import JointLinear
from ibert_jax.models import layer_stack
from ibert_jax.proof import examine

from .conftest import case, inputs, make, ragged

pytestmark = pytest.mark.usefixtures("forget")

ALL = dict.fromkeys(program.FIRST_TOKEN_FROM, 0)
"""As if it were always worth it."""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "FIRST_TOKEN_FROM", ALL)
    jax.clear_caches()


def whole(model: ib.IntegerModel) -> ib.IntegerModel:
    return dataclasses.replace(model, whole_layers=True)


def sparing(model: ib.IntegerModel) -> ib.IntegerModel:
    return dataclasses.replace(model, whole_layers=False)


@functools.cache
def deep() -> ib.IntegerModel:
    """Three layers, of sizes that oneDNN takes; made once a process."""
    sizes = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 128}
    return sparing(ib.freeze(ib.calibrate(make("channel", **sizes), [inputs(9, 24)])))


def laid_out_again(model: ib.IntegerModel, *, stacked: bool = True) -> ib.IntegerModel:
    network = model.network
    unstack_layers(network)
    if stacked:
        stack_layers(network)
    return sparing(ib.IntegerModel.of(network, model.config, dict(model.scales), model.states))


def assert_same(model: ib.IntegerModel, given: dict[str, Any]) -> None:
    spared, all_of_it = (each.integers(**given) for each in (sparing(model), whole(model)))
    jax.tree.map(np.testing.assert_array_equal, spared, all_of_it)
    assert len(np.unique(spared.logits)) > 1


def middles(model: ib.IntegerModel, batch: int, length: int) -> list[int]:
    """Of how many tokens each feed-forward's middle is computed, in the order of the program."""
    ids = np.ones((batch, length), np.int32)
    text = str(jax.make_jaxpr(lambda p: p.integers(ids))(model))
    width = model.config.intermediate_size
    return [n for n in (length, 1) if f"i8[{batch},{n},{width}]" in text]


@pytest.mark.parametrize("apart", [0, 2**30])
def test_the_same_integers(always: None, monkeypatch: pytest.MonkeyPatch, apart: int) -> None:
    """Rows of all lengths, one without a token; a head of the last layer does not count."""
    monkeypatch.setattr(layer_stack, "LARGE", apart)
    model, given = laid_out_again(deep()), inputs(9, 24, 5)
    given["attention_mask"][4] = 0
    given["head_mask"] = np.ones((3, 4), np.int32)
    every_head = model.integers(**given).logits
    given["head_mask"][-1, 2] = 0
    assert_same(model, given)
    assert (model.integers(**given).logits != every_head).any()
    assert middles(model, 9, 24) == [24, 1]
    assert middles(whole(model), 9, 24) == [24]


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_as_simulated(always: None, scheme: str) -> None:
    """What was trained is what runs, whichever tokens are computed."""
    found = case(scheme)
    model = sparing(found.program)
    np.testing.assert_array_equal(model.integers(**found.batch).logits, found.simulated.q)
    assert middles(model, 9, 24) == [1]  # there is one layer


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_short_sequences(always: None, length: int) -> None:
    assert_same(case("channel").program, inputs(5, length))


def test_choices(always: None, tiny_choices: ib.IntegerModel) -> None:
    assert_same(tiny_choices, ragged(4, 3, 8))


def test_layers_one_by_one(always: None) -> None:
    apart = laid_out_again(deep(), stacked=False)
    assert_same(apart, inputs(9, 24, 5))
    assert middles(apart, 9, 24) == [24, 1]


def test_weights_laid_out_for_onednn(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibert_jax.frozen.packing.answers", lambda *_: True)
    model = deep().with_kernels("onednn")
    assert isinstance(model._laid_out.ibert.encoder.stacked.attention.self.query, JointLinear)
    assert_same(model, inputs(9, 24, 5))
    assert middles(model, 9, 24) == [24, 1]


def test_beside_the_other_forms(always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in parts, attention by blocks, the context by heads: in the layers before."""
    monkeypatch.setattr(parts, "WORTH_IT", 100)
    monkeypatch.setattr(parts, "LEAST", 10)
    monkeypatch.setattr(parts, "MOST", 100)
    monkeypatch.setattr(blocked, "WORTH_IT", 0)
    monkeypatch.setattr(blocked, "CACHE", 0)
    monkeypatch.setattr(by_head, "WORTH_IT", 0)
    assert_same(deep(), inputs(8, 24, 5))


def test_its_program_is_certified(always: None) -> None:
    model = deep()
    spared, all_of_it = examine(model, 3, 24), examine(whole(model), 3, 24)
    assert spared.ok and all_of_it.ok
    # The layers before the last are still one.
    assert spared.operations["jaxpr"]["scan"] == all_of_it.operations["jaxpr"]["scan"] == 1
    assert (
        sum(spared.operations["jaxpr"].values()) / sum(all_of_it.operations["jaxpr"].values()) > 1.5
    )


@pytest.mark.parametrize("wanted", ["output_hidden_states", "output_attentions"])
def test_what_is_wanted_of_every_token_is(always: None, wanted: str) -> None:
    outputs = deep().integers(**inputs(3, 12), **{wanted: True})
    if wanted == "output_hidden_states":
        assert outputs.hidden_states[-1].shape == (3, 12, 64)
    else:
        assert outputs.attentions[-1][0].shape == (3, 4, 12, 12)


def test_a_head_that_reads_every_token() -> None:
    config = make("channel").config
    for kind in (ib.IBertForTokenClassification, ib.IBertModel):
        model = ib.freeze(ib.calibrate(kind(config, rngs=nnx.Rngs(0)), [inputs(9, 24)]))
        assert not sparing(model).spares_last_layer((32, 128))


@pytest.mark.parametrize(
    ("kernels", "shape", "spared"),
    [
        ("xla", (4, 128), True),
        ("xla", (4, 127), False),
        ("xla", ("batch", 128), False),  # an export's
        ("onednn", (1, 128), True),
        ("onednn", (1, 127), False),
        ("pallas-interpreted", (32, 128), False),
    ],
)
def test_where_it_pays(kernels: str, shape: tuple[Any, ...], spared: bool) -> None:
    model = case("channel").program.with_kernels(kernels)
    assert sparing(model).spares_last_layer(shape) is spared
    assert not whole(model).spares_last_layer(shape)
    assert model.spares_last_layer(shape) is (spared and kernels == "onednn"), "unless told"
    assert whole(model).with_kernels("onednn").whole_layers


def test_where_a_part_is_in_float_all_is_computed() -> None:
    """Fewer rows might give floats with other last bits."""
    exact = sparing(case("channel").program)
    partly = dataclasses.replace(exact.config, force_dequant="softmax")
    assert exact.spares_last_layer((32, 128))
    assert not dataclasses.replace(exact, config=partly).spares_last_layer((32, 128))
