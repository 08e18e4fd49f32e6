"""Padded lengths: which there are, and when a closer one pays."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax.inference import Predictor
from ibert_jax.inference.lengths import (
    GrowingLengths,
    closest_lengths,
    lengths_up_to,
    next_of,
    two_lengths,
)
from ibert_jax.inference.price import Price
from ibert_jax.tokenizer import Tokenizer

from .conftest import CountingProgram, never_compile_more, priced_at

ROWS = 8


def test_a_fixed_few() -> None:
    assert lengths_up_to(128) == (16, 24, 32, 48, 64, 96, 128)
    assert lengths_up_to(100) == (16, 24, 32, 48, 64, 96, 100)
    assert lengths_up_to(10) == (10,)


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), max_size=30))
def test_two_lengths_are_the_best(lengths: list[int]) -> None:
    """Against every two of the fixed few."""
    allowed = lengths_up_to(100)

    def padded(chosen: tuple[int, ...]) -> int:
        return sum(next_of(chosen, length) for length in lengths)

    found = two_lengths(lengths, 100)
    assert 1 <= len(found) <= 2
    assert set(found) <= set(allowed)
    needed = max(lengths, default=1)
    pairs = [pair for pair in itertools.combinations(allowed, 2) if pair[-1] >= needed]
    assert padded(found) == min(map(padded, pairs))


@pytest.mark.parametrize("longest", [3, 12, 16, 17, 64, 100, 128, 510, 512, 8190])
def test_closest_lengths(longest: int) -> None:
    lengths = closest_lengths(longest)
    assert lengths == tuple(sorted(set(lengths))) and lengths[-1] == longest
    assert all(b / a <= 1.25 for a, b in itertools.pairwise(lengths) if a >= 16)
    assert all(n % 4 == 0 and (n <= 64 or n % 16 == 0) for n in lengths[:-1])


@pytest.mark.parametrize(("longest", "few"), [(100, {16, 32, 64, 100}), (16, {16}), (10, {10})])
def test_few_lengths_at_first(longest: int, few: set[int]) -> None:
    """Without knowing what anything costs, and also where compiling would never pay."""
    price = Price()
    lengths = GrowingLengths(longest, price)
    assert {lengths.choose(ROWS, n) for n in range(1, longest + 1)} == few
    price.compiled(1e9)
    price.computed(1, 1.0)
    assert {lengths.choose(ROWS, n) for n in range(1, longest + 1)} == few


def test_a_price_is_unknown_until_something_was_compiled_and_computed() -> None:
    compiled, computed = Price(), Price()
    compiled.compiled(2.0)
    computed.computed(1000, 2.5)
    assert compiled.tokens() == computed.tokens() == math.inf


def test_a_length_joins_when_it_would_have_paid() -> None:
    price = Price()
    price.compiled(9.0)  # a first one, which takes longer
    price.compiled(2.0)
    price.computed(1000, 2.5)
    price.computed(1000, 2.5)  # 2 seconds are 800 tokens: 8 rows of 25 times 4 tokens
    lengths = GrowingLengths(128, price)
    assert [lengths.choose(ROWS, 60) for _ in range(26)] == [64] * 24 + [60] * 2
    assert lengths.choose(1, 60) == 64, "with other rows it would be another program"
    assert lengths.choose(ROWS, 57) == 60
    assert lengths.choose(ROWS, 61) == 64


@settings(max_examples=200, deadline=None)
@given(
    batches=st.lists(st.integers(1, 128), min_size=1, max_size=400),
    price=st.integers(0, 5000),
)
def test_a_closer_length_costs_no_more_than_was_wasted(batches: list[int], price: int) -> None:
    """Whatever comes: every batch fits, and what is compiled had been paid for by padding."""
    lengths = GrowingLengths(128, priced_at(price))
    few, wasted, seen = {16, 32, 64, 128}, 0, set()
    for longest in batches:
        length = lengths.choose(ROWS, longest)
        assert longest <= length <= 2 ** max(4, math.ceil(math.log2(longest)))
        assert length in closest_lengths(128)
        wasted += ROWS * (2 ** max(4, math.ceil(math.log2(longest))) - longest)
        seen.add(length)
    assert len(seen - few) * price <= wasted


def test_a_long_job_pads_less_and_answers_the_same(
    program: CountingProgram, tokenizer: Tokenizer
) -> None:
    texts = ["good " * (index % 5) + "film " * 18 for index in range(256)]
    predictor = Predictor(program, tokenizer, batch_size=4)  # windows of 128 texts, 20 to 24 tokens
    assert isinstance(predictor._engine._lengths, GrowingLengths)
    never_compile_more(predictor)
    answers = predictor.logits(texts)
    assert predictor.statistics.padded_tokens == 256 * 32
    predictor._engine._lengths = GrowingLengths(48, priced_at(0))  # and now compiling costs nothing
    predictor.reset_statistics()
    np.testing.assert_array_equal(predictor.logits(texts), answers)
    assert predictor.statistics.padded_tokens < 256 * 25


def test_floats_are_padded_by_their_batch_alone(tiny_checkpoint: Path) -> None:
    """Their last bits depend on it, and a run taken up again must end with the same bytes."""
    predictor = Predictor.load(tiny_checkpoint, batch_size=4)
    assert not isinstance(predictor._engine._lengths, GrowingLengths)


def test_a_length_that_joined_takes_what_it_spared_along() -> None:
    """What other lengths would have spared is counted anew from the new one."""
    lengths = GrowingLengths(128, priced_at(800))
    assert [lengths.choose(8, 49) for _ in range(9)] == [64] * 8 + [52]
    assert [lengths.choose(8, 53) for _ in range(13)] == [64] * 12 + [56]
    lengths = GrowingLengths(128, priced_at(800))
    assert [lengths.choose(8, 20) for _ in range(8)] == [32] * 8
    assert [lengths.choose(8, 49) for _ in range(9)] == [64] * 8 + [52]
    assert lengths.choose(8, 20) == 20, "what would have spared elsewhere still counts"


def test_the_length_that_spares_most_joins_first() -> None:
    lengths = GrowingLengths(128, priced_at(800))  # of two rows 52 spares 96 tokens, 56 128
    assert [lengths.choose(8, n) for n in [49, 53] * 6 + [49]] == [64] * 12 + [56]
