"""A large batch in parts: the same integers, and a certificate that sees inside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen import parts
from ibert_jax.proof import examine

from .conftest import ragged

MODELS = Path(__file__).parents[1] / "data" / "hashes"


pytestmark = pytest.mark.usefixtures("forget")


def cut_small(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Parts of at most so many tokens, of whatever batch."""
    monkeypatch.setattr(parts, "WORTH_IT", 0)
    monkeypatch.setattr(parts, "LEAST", 0)
    monkeypatch.setattr(parts, "MOST", tokens)
    jax.clear_caches()


@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_parts_give_the_same_integers(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, given = ib.IntegerModel.load(MODELS / scheme), ragged(6, 20)
    given["head_mask"] = np.array([[1, 1], [0, 1]])
    options = {"output_hidden_states": False, "output_attentions": False}
    plain = program.integers(**given, **options)
    cut_small(monkeypatch, 40)
    text = str(jax.make_jaxpr(lambda p: p.integers(**given, **options))(program))
    assert "i32[3,2,20]" in text  # ids of six examples, in three parts of two
    jax.tree.map(np.testing.assert_array_equal, program.integers(**given, **options), plain)
    states = program.integers(**given, output_hidden_states=True).hidden_states
    assert len(states) == 3 and states[0].shape[:2] == (6, 20), "whole, where all is wanted"


def test_choices_are_cut_by_their_prompts(
    tiny_choices: ib.IntegerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ragged(6, 3, 8)
    plain = tiny_choices.integers(**given).logits
    cut_small(monkeypatch, 48)
    assert parts.parts_of((6, 3, 8)) == 3
    np.testing.assert_array_equal(tiny_choices.integers(**given).logits, plain)
    assert plain.shape == (6, 3) and len(np.unique(plain)) > 1


def test_a_program_in_parts_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch, 48)
    program = ib.IntegerModel.load(MODELS / "channel")
    config = program.config.replace(output_hidden_states=False, output_attentions=False)
    certificate = examine(dataclasses.replace(program, config=config), 6, 24)
    assert certificate.ok
    assert certificate.operations["jaxpr"]["scan"] == 2  # parts, and layers within one


def test_parts_are_of_some_hundred_tokens() -> None:
    assert parts.parts_of((8, 128)) == 1
    assert parts.parts_of((8, 512)) == 8
    assert parts.parts_of((32, 128)) == 8
    assert parts.parts_of((32, 32)) == 1
    assert parts.parts_of((32, 2, 64)) == 8
    assert parts.parts_of((61, 512)) == 61
    assert parts.parts_of((61, 64)) == 1, "a prime number of rows, too few tokens in each"
    assert parts.parts_of((1, 4096)) == 1
