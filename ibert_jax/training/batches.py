"""Batches of few shapes and little padding, the same for the same seed and epoch.

Every shape is compiled once, which costs seconds; every padded token costs time in every epoch. So
sentences are grouped into buckets by length, at most a given number of them, whose lengths are
chosen so that the least padding is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ibert_jax.training.data import TokenizedExamples

_MULTIPLE = 4
"""Bucket lengths are multiples of this: matmuls like whole vectors."""


@dataclass(frozen=True)
class Batch:
    """Rows of one shape, ready for the model.

    input_ids, attention_mask: int32 [B, T]. labels: int32 [B].
    weights: float32 [B], 1 for a sentence and 0 for filler. Filler rows repeat the first sentence,
    so that neither activation ranges nor attention meet anything unusual in them.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @property
    def sentences(self) -> int:
        """How many rows are not filler."""
        return int(self.weights.sum())

    @property
    def tokens(self) -> int:
        """How many tokens are neither padding nor filler."""
        return int(self.attention_mask[self.weights > 0].sum())


class Batcher:
    """Cuts tokenized sentences into batches, all of `batch_size` rows.

    Attributes:
      lengths: the bucket lengths in use, ascending.
      steps_per_epoch: batches in a pass over the data, the same for every epoch.
    """

    def __init__(
        self,
        examples: TokenizedExamples,
        *,
        batch_size: int,
        pad_token_id: int,
        buckets: int = 8,
        lengths: tuple[int, ...] | None = None,
    ) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.pad_token_id = pad_token_id
        self.lengths = lengths or bucket_lengths(examples.lengths, buckets)
        bucket = np.searchsorted(np.asarray(self.lengths), examples.lengths)
        self._members = [np.flatnonzero(bucket == index) for index in range(len(self.lengths))]
        self.steps_per_epoch = sum(-(-len(members) // batch_size) for members in self._members)

    def epoch(self, seed: tuple[int, ...], start: int = 0) -> Iterator[Batch]:
        """The batches of one shuffled pass from number `start` on; every sentence occurs once.

        seed: non-negative integers (a run's seed, stage, epoch) that alone decide the order.
        """
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        groups = self._groups([random.permutation(members) for members in self._members])
        for index in random.permutation(len(groups))[start:]:
            yield self._batch(*groups[index])

    def in_order(self) -> Iterator[tuple[Batch, np.ndarray]]:
        """The batches by bucket, unshuffled, each with its sentences' numbers, int64."""
        for length, members in self._groups(self._members):
            yield self._batch(length, members), members

    def _groups(self, members: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
        return [
            (length, some[start : start + self.batch_size])
            for length, some in zip(self.lengths, members, strict=True)
            for start in range(0, len(some), self.batch_size)
        ]

    def _batch(self, length: int, members: np.ndarray) -> Batch:
        rows = np.resize(members[:1], self.batch_size)
        rows[: len(members)] = members
        starts, ends = self.examples.starts[rows], self.examples.starts[rows + 1]
        columns = starts[:, None] + np.arange(length)
        present = columns < ends[:, None]
        last = len(self.examples.tokens) - 1
        tokens = self.examples.tokens[np.minimum(columns, last)]
        return Batch(
            input_ids=np.where(present, tokens, np.int32(self.pad_token_id)),
            attention_mask=present.astype(np.int32),
            labels=self.examples.labels[rows],
            weights=(np.arange(self.batch_size) < len(members)).astype(np.float32),
        )


def bucket_lengths(lengths: np.ndarray, buckets: int) -> tuple[int, ...]:
    """At most `buckets` padded lengths, chosen so that padding to them wastes the fewest tokens.

    lengths: integers [sentences], tokens in each. Returns ascending multiples of 4, the last one
    at least as long as every sentence.
    """
    rounded = -(-np.asarray(lengths, np.int64) // _MULTIPLE) * _MULTIPLE
    sizes, counts = np.unique(rounded, return_counts=True)
    up_to = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded tokens of all sentences no longer than sizes[j - 1], in as many buckets as
    # there were rounds; a bucket over sizes[i:j] pads its sentences to sizes[j - 1].
    bucket_cost = np.full((len(sizes) + 1, len(sizes) + 1), np.inf)
    for end in range(1, len(sizes) + 1):
        bucket_cost[:end, end] = (up_to[end] - up_to[:end]) * sizes[end - 1]
    cost = np.full(len(sizes) + 1, np.inf)
    cost[0] = 0
    cuts: list[np.ndarray] = []
    for _ in range(min(buckets, len(sizes))):
        totals = cost[:, None] + bucket_cost
        cuts.append(np.argmin(totals, axis=0))
        cost = totals.min(axis=0)
    chosen: list[int] = []
    end = len(sizes)
    for cut in reversed(cuts):
        chosen.append(int(sizes[end - 1]))
        end = int(cut[end])
    return tuple(reversed(chosen))
