"""Batches: every sentence once an epoch, few shapes, little padding, the order from the seed."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibert_jax.training.batches import Batch, Batcher, bucket_lengths
from ibert_jax.training.features import TokenizedExamples
from ibert_jax.training.masking import Masking

PAD = 1


def make_examples(lengths: list[int]) -> TokenizedExamples:
    """Sentence i is all tokens i + 2, its label is i."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(len(lengths), dtype=np.int32) + 2, lengths)
    labels = np.arange(len(lengths), dtype=np.int32)
    return TokenizedExamples(tokens=tokens, starts=starts, targets={"labels": labels})


def real_labels(batches: list[Batch]) -> list[int]:
    return [int(label) for b in batches for label in b.targets["labels"][b.weights > 0]]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_an_epoch(lengths: list[int], batch_size: int, buckets: int, seed: int) -> None:
    batcher = Batcher(
        make_examples(lengths), batch_size=batch_size, pad_token_id=PAD, buckets=buckets
    )
    batches = list(batcher.epoch((seed, 0, 0)))
    assert len(batches) == batcher.steps_per_epoch
    assert sorted(real_labels(batches)) == list(range(len(lengths)))
    assert len({batch.inputs["input_ids"].shape for batch in batches}) <= buckets
    for batch in batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        labels = batch.targets["labels"]
        assert ids.shape == mask.shape
        assert ids.shape[0] == batch_size
        assert ids.dtype == mask.dtype == np.int32
        np.testing.assert_array_equal(ids, np.where(mask == 1, (labels + 2)[:, None], PAD))
        np.testing.assert_array_equal(mask.sum(axis=1), [lengths[label] for label in labels])
        assert batch.tokens == sum(lengths[label] for label in real_labels([batch]))
        assert batch.sentences == len(real_labels([batch]))


@pytest.fixture
def batcher() -> Batcher:
    lengths = np.random.default_rng(0).integers(3, 40, 100).tolist()
    return Batcher(make_examples(lengths), batch_size=8, pad_token_id=PAD, buckets=3)


def test_order_depends_on_the_seed_alone(batcher: Batcher) -> None:
    def order(*seed: int) -> list[int]:
        return real_labels(list(batcher.epoch(seed)))

    assert order(0, 0, 1) == order(0, 0, 1)
    assert len({tuple(order(0, 0, 1)), tuple(order(0, 0, 2)), tuple(order(1, 0, 1))}) == 3


def test_an_epoch_can_be_entered_anywhere(batcher: Batcher) -> None:
    whole = list(batcher.epoch((0, 1, 2)))
    for start in (0, 5, len(whole) - 1, len(whole)):
        rest = list(batcher.epoch((0, 1, 2), start))
        assert real_labels(rest) == real_labels(whole[start:])


def test_lengths_are_mixed_over_an_epoch(batcher: Batcher) -> None:
    widths = [batch.inputs["input_ids"].shape[1] for batch in batcher.epoch((0,))]
    assert widths != sorted(widths)


@pytest.mark.parametrize(("batch_size", "buckets"), [(1, 3), (4, 1), (32, 2)])
def test_what_is_masked_to_evaluate_depends_on_the_example_alone(
    batch_size: int, buckets: int
) -> None:
    lengths = np.random.default_rng(0).integers(4, 60, 30)
    found = make_examples(lengths.tolist())
    found = dataclasses.replace(found, token_targets=found.tokens)
    masking = Masking(0.15, 99, 90)
    batcher = Batcher(
        found, batch_size=batch_size, pad_token_id=PAD, buckets=buckets, masking=masking
    )
    want = {}
    for number, tokens in enumerate(np.split(found.tokens, found.starts[1:-1])):
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((number,))))
        want[number] = masking(tokens, tokens, random)[0].tolist()
    for batch, members in batcher.in_order():
        for row, number in zip(batch.inputs["input_ids"], members.tolist(), strict=False):
            assert row[: lengths[number]].tolist() == want[number]
            assert (row[lengths[number] :] == PAD).all()


def test_in_order_names_its_sentences(batcher: Batcher) -> None:
    seen: Counter[int] = Counter()
    for batch, members in batcher.in_order():
        np.testing.assert_array_equal(batch.targets["labels"][: len(members)], members)
        seen.update(members.tolist())
    assert seen == Counter(range(100))


@settings(deadline=None)
@given(st.lists(st.integers(1, 33), min_size=1, max_size=40), st.integers(1, 4))
def test_bucket_lengths_are_the_best(lengths: list[int], buckets: int) -> None:
    """Against every choice there is."""

    def padded(chosen: tuple[int, ...]) -> int:
        return sum(min(c for c in chosen if c >= length) for length in lengths)

    found = bucket_lengths(np.asarray(lengths), buckets)
    assert len(found) <= buckets
    assert list(found) == sorted(set(found))
    assert all(length % 4 == 0 for length in found)
    longest = -(-max(lengths) // 4) * 4
    candidates = range(4, longest, 4)
    best = min(
        padded((*some, longest))
        for count in range(min(buckets, len(candidates) + 1))
        for some in itertools.combinations(candidates, count)
    )
    assert padded(found) == best


@pytest.mark.parametrize("lengths", [(3,), (8, 4), ()])
def test_an_example_longer_than_every_bucket_is_not_lost(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending lengths up to at least 7 tokens"):
        Batcher(make_examples([2, 7]), batch_size=2, pad_token_id=PAD, lengths=lengths)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"batch_size": 2.0}, {"buckets": 0}])
def test_batches_of_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be an integer"):
        Batcher(make_examples([2, 7]), **{"batch_size": 2, "pad_token_id": PAD, **given})
