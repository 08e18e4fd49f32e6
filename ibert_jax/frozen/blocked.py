"""Attention of long sequences block by block, for CPUs: its scores need not leave the cache.

The int32 scores of a batch (8 x 512 tokens, 12 heads: 100 MB) are written once and read twice.
A few examples at a time, scores, softmax and context are computed one after the other before the
next examples' begin. The leaves and their numbers are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax import lax

from ibert_jax.frozen.fused_leaves import FusedScores, FusedSoftmax
from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.frozen.pending import PendingWeights
from ibert_jax.layers.attention import IntegerContext
from ibert_jax.layers.softmax import IntegerSoftmax

LEAVES = ("scores", "softmax", "context")
"""Attention's leaves by name."""
CACHE = 2**22
"""Bytes of scores that a block may have, but for a single example of more."""
WORTH_IT = 2**24
"""Bytes of scores from which on a batch is cut."""


def block_attention(network: nnx.Module, shape: Sequence[Any]) -> None:
    """Let the integer leaves of attention work block by block, if that pays, in place.

    Attention then has no weights to return. One whose softmax was left in float stays as it is.

    Args:
        network: of integer leaves, stacked or not.
        shape: of the tokens, [..., T]; of an export, some of it symbols, which leave it whole.
    """
    leaves = integer_leaves(network)
    for path in [path for path, leaf in leaves.items() if type(leaf) is IntegerContext]:
        attention = path.removesuffix("context")
        scores, softmax, context = (leaves[attention + name] for name in LEAVES)
        if type(softmax) is not IntegerSoftmax or not all(isinstance(n, int) for n in shape):
            continue
        examples, length = math.prod(shape[:-1]), shape[-1]
        block = examples_a_block(examples, 4 * context.heads * length * length)
        if block < examples:
            blocked = FusedScores(scores), FusedSoftmax(softmax), BlockedContext(context, block)
            for name, leaf in zip(LEAVES, blocked, strict=True):
                put_leaf(network, attention + name, nnx.data(leaf))


def examples_a_block(examples: int, bytes_each: int) -> int:
    """Into blocks of how many examples a batch is cut: a divisor of their number."""
    if examples * bytes_each < WORTH_IT:
        return examples
    fits = (n for n in range(examples, 1, -1) if examples % n == 0 and n * bytes_each <= CACHE)
    return next(fits, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockedContext:
    """A weighted mean of the values that computes the weights it reads, block by block."""

    leaf: IntegerContext
    block: int = dataclasses.field(metadata={"static": True})

    def __call__(self, weights: PendingWeights, value: jax.Array) -> jax.Array:
        """int8 [B, T, H * D] -> int32 [B, T, H * D]."""

        def in_blocks(weights: PendingWeights, value: jax.Array) -> jax.Array:
            scores = weights.scores

            def one(block: tuple[jax.Array, ...]) -> jax.Array:
                query, key, mask, value = block
                own = dataclasses.replace(scores, query=query, key=key)
                return self._whole(dataclasses.replace(weights, scores=own, mask=mask), value)

            batch = (scores.query, scores.key, weights.mask, value)
            cut = jax.tree.map(lambda x: x.reshape(-1, self.block, *x.shape[1:]), batch)
            return lax.map(one, cut).reshape(value.shape)

        return lax.platform_dependent(weights, value, cpu=in_blocks, default=self._whole)

    def _whole(self, weights: PendingWeights, value: jax.Array) -> jax.Array:
        return self.leaf(weights.settle(), value)
