"""A batch in streams: the same integers, and whole wherever that is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ibert_jax as ib
from ibert_jax.frozen import streamed
from ibert_jax.integer.streams import dispatch

from .conftest import ragged

MODELS = Path(__file__).parents[1] / "data" / "hashes"
WHOLE = {"output_hidden_states": False, "output_attentions": False}


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[tuple[int, ...]]]:
    """Lets a batch of any size go in so many streams; returns the shapes that they will run."""

    def into(count: int) -> list[tuple[int, ...]]:
        ran: list[tuple[int, ...]] = []

        def spy(stream: int, function: Any, given: dict[str, np.ndarray]) -> Any:
            ran.append(given["input_ids"].shape)
            assert stream == (len(ran) - 1) % count
            return dispatch(stream, function, given)

        monkeypatch.setattr(streamed, "LEAST", 0)
        monkeypatch.setattr(streamed, "streams", lambda: count)
        monkeypatch.setattr(streamed, "dispatch", spy)
        return ran

    return into


@pytest.mark.parametrize("kernels", ["xla", "onednn"])
@pytest.mark.parametrize("scheme", ["channel", "reference"])
def test_streams_give_the_same_integers(
    scheme: str, kernels: str, cut: Callable[[int], list[tuple[int, ...]]]
) -> None:
    program, given = ib.IntegerModel.load(MODELS / scheme).with_kernels(kernels), ragged(6, 20)
    given["head_mask"] = np.array([[1, 1], [0, 1]])
    given["position_ids"] = np.broadcast_to(np.arange(2, 22), (6, 20))
    plain = program.integers(**given, **WHOLE)
    for count in (2, 3):
        ran = cut(count)
        found = program.integers(**given, **WHOLE)
        assert ran == [(6 // count, 20)] * count
        jax.tree.map(np.testing.assert_array_equal, found, plain)
        assert len(np.unique(jax.tree.leaves(found)[0])) > 100
        arrays = {name: jax.numpy.asarray(value) for name, value in given.items()}
        jax.tree.map(np.testing.assert_array_equal, program.integers(**arrays, **WHOLE), plain)
        assert len(ran) == 2 * count


def test_whole_where_rows_or_wishes_do_not_fit(
    cut: Callable[[int], list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, given = ib.IntegerModel.load(MODELS / "channel"), ragged(6, 20)
    ran = cut(4)
    program.integers(**given, **WHOLE)
    assert ran == [], "six rows are not four times as many"
    ran = cut(2)
    assert len(program.integers(**given, output_hidden_states=True).hidden_states) == 3
    assert ran == []
    monkeypatch.setattr(streamed, "LEAST", 61)
    program.integers(**given, **WHOLE)
    assert ran == [], "sixty tokens are too few"
    monkeypatch.setattr(streamed, "LEAST", 60)
    program.integers(**given, **WHOLE)
    assert ran == [(3, 20)] * 2


def test_choices_go_with_their_prompts(
    tiny_choices: ib.IntegerModel, cut: Callable[[int], list[tuple[int, ...]]]
) -> None:
    program, given = tiny_choices, ragged(6, 3, 8)
    plain = program.integers(**given).logits
    ran = cut(3)
    np.testing.assert_array_equal(program.integers(**given).logits, plain)
    assert ran == [(2, 3, 8)] * 3
    assert plain.shape == (6, 3) and len(np.unique(plain)) > 1


def test_scored_tokens_go_with_their_rows(cut: Callable[[int], list[tuple[int, ...]]]) -> None:
    program, given = ib.IntegerModel.load(MODELS / "channel"), ragged(6, 20)
    scored = np.arange(12).reshape(6, 2)
    plain = program.integers(**given, scored_tokens=scored, **WHOLE).logits
    ran = cut(2)
    found = program.integers(**given, scored_tokens=scored, **WHOLE).logits
    np.testing.assert_array_equal(found, plain)
    assert ran and plain.shape[:2] == (6, 2)
