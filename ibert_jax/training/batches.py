"""Batches of few shapes and little padding, the same for the same seed and epoch.

Every shape is compiled once, which costs seconds; every padded token costs time in every epoch. So
examples are grouped into buckets by length, at most a given number of them, whose lengths are
chosen so that the least padding is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ibert_jax.checks import IGNORED_LABEL
from ibert_jax.settings import number_problem, raise_if_any
from ibert_jax.training.features import TokenizedExamples
from ibert_jax.training.masking import MULTIPLE, Masking, guesses


@dataclass(frozen=True)
class Batch:
    """Examples of one shape, ready for the model.

    Attributes:
      inputs: the model's arguments, int32 [B, T], or [B, choices, T]: `input_ids`,
        `attention_mask`, and `token_type_ids` where any is not 0; where some are to be guessed,
        `scored_tokens` [B, S], which: all that the head sees, and that its ranges follow.
      targets: what it should say, int32 or float32: [B], or [B, T] with -100 for what is ignored,
        or [B, S] of the scored tokens.
      weights: float32 [B], 1 for an example and 0 for filler. Filler repeats the first example,
        so that neither activation ranges nor attention meet anything unusual in it.
    """

    inputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    weights: np.ndarray

    @property
    def sentences(self) -> int:
        """How many examples are not filler."""
        return int(self.weights.sum())

    @property
    def tokens(self) -> int:
        """How many tokens are neither padding nor filler."""
        return int(np.sum(self.inputs["attention_mask"][self.weights > 0]))


class Batcher:
    """Cuts tokenized examples into batches, all of `batch_size` of them.

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
        masking: Masking | None = None,
    ) -> None:
        """Takes the lengths of the buckets, ascending, or how many there may be.

        Raises:
          ValueError: no whole number of at least 1, or an example longer than every bucket.
        """
        counts = {"batch_size": batch_size, "buckets": buckets}
        raise_if_any("Batcher", [number_problem(k, v, 1, math.inf, int) for k, v in counts.items()])
        longest = int(max(examples.lengths, default=0))
        if lengths is not None and (sorted({*lengths}) != [*lengths] or lengths[-1:] < (longest,)):
            raise ValueError(
                f"Batcher: expected ascending lengths up to at least {longest} tokens, as long as "
                f"the longest example, got {lengths}"
            )
        self.examples = examples
        self.batch_size = batch_size
        self.pad_token_id = pad_token_id
        self.masking = masking
        self.lengths = lengths if lengths is not None else bucket_lengths(examples.lengths, buckets)
        bucket = np.searchsorted(np.asarray(self.lengths), examples.lengths)
        self._members = [np.flatnonzero(bucket == index) for index in range(len(self.lengths))]
        self.steps_per_epoch = sum(-(-len(members) // batch_size) for members in self._members)

    def epoch(self, seed: tuple[int, ...], start: int = 0) -> Iterator[Batch]:
        """The batches of one shuffled pass from number `start` on; every example occurs once.

        seed: non-negative integers (a run's seed, stage, epoch) that alone decide the order, and
            what is masked.
        """
        random = _random(seed)
        groups = self._groups([random.permutation(members) for members in self._members])
        order = random.permutation(len(groups))
        for number, index in enumerate(order[start:], start):
            length, members = groups[index]
            yield self._batch(length, members, (*seed, number))

    def in_order(self) -> Iterator[tuple[Batch, np.ndarray]]:
        """The batches by bucket, unshuffled, each with its examples' numbers, int64.

        What is masked in an example depends on it and its number alone.
        """
        for length, members in self._groups(self._members):
            yield self._batch(length, members), members

    def _groups(self, members: list[np.ndarray]) -> list[tuple[int, np.ndarray]]:
        return [
            (length, some[start : start + self.batch_size])
            for length, some in zip(self.lengths, members, strict=True)
            for start in range(0, len(some), self.batch_size)
        ]

    def _batch(
        self, length: int, members: np.ndarray, seed: tuple[int, ...] | None = None
    ) -> Batch:
        """seed: of what is masked in all examples together; None, in each by itself."""
        examples, choices = self.examples, self.examples.choices
        rows = np.resize(members[:1], self.batch_size)
        rows[: len(members)] = members
        texts = rows if choices == 1 else rows[:, None] * choices + np.arange(choices)
        columns = examples.starts[texts][..., None] + np.arange(length)
        present = columns < examples.starts[texts + 1][..., None]
        columns = np.minimum(columns, len(examples.tokens) - 1)

        def padded(values: np.ndarray, filler: int) -> np.ndarray:
            return np.where(present, values[columns], np.int32(filler))

        ids = padded(examples.tokens, self.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": present.astype(np.int32)}
        targets = {name: values[rows] for name, values in examples.targets.items()}
        if examples.token_targets is not None:
            labels = padded(examples.token_targets, IGNORED_LABEL)
            if self.masking is not None:
                if seed is None:
                    ids, labels = self._masked_alone(rows, ids, labels)
                else:
                    ids, labels = self.masking(ids, labels, _random(seed))
                inputs["input_ids"] = ids
                inputs["scored_tokens"], labels = guesses(labels, self.masking.room(length))
            targets["labels"] = labels
        if examples.types is not None:
            inputs["token_type_ids"] = padded(examples.types, 0)
        weights = (np.arange(self.batch_size) < len(members)).astype(np.float32)
        return Batch(inputs, targets, weights)

    def _masked_alone(
        self, rows: np.ndarray, ids: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each row masked as the example of its number, whatever is beside it, and its padding."""
        assert self.masking is not None
        ids, labels = ids.copy(), labels.copy()
        for row, number in enumerate(rows.tolist()):
            own = row, slice(int(self.examples.lengths[number]))
            ids[own], labels[own] = self.masking(ids[own], labels[own], _random((number,)))
        return ids, labels


def _random(seed: tuple[int, ...]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def bucket_lengths(lengths: np.ndarray, buckets: int) -> tuple[int, ...]:
    """At most `buckets` padded lengths, chosen so that padding to them wastes the fewest tokens.

    lengths: integers [examples], tokens in each. Returns ascending multiples of 4, the last one
    at least as long as every example.
    """
    rounded = -(-np.asarray(lengths, np.int64) // MULTIPLE) * MULTIPLE
    sizes, counts = np.unique(rounded, return_counts=True)
    up_to = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded tokens of all examples no longer than sizes[j - 1], in as many buckets as
    # there were rounds; a bucket over sizes[i:j] pads its examples to sizes[j - 1].
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
