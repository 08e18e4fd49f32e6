"""The two matmuls of attention."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.integer.barrier import row_major
from ibert_jax.integer.matmul import int8_scores
from ibert_jax.integer.mixed import dot_u8_s8
from ibert_jax.integer.softmax import divide_by_row_sum
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, round_onto, value_of

CONTEXT_FRACTION_BITS = 21
_SCORES = (((3,), (3,)), ((0, 1), (0, 1)))
_CONTEXT = (((3,), (2,)), ((0, 1), (0, 1)))


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, heads * D] -> [B, heads, T, D]."""
    batch, length, channels = x.shape
    return x.reshape(batch, length, heads, channels // heads).transpose(0, 2, 1, 3)


def fold_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, T, heads * D] -> [B * heads, T, D]: one batch axis, which XLA's fast matmul wants."""
    split = split_heads(x, heads)
    return split.reshape(-1, *split.shape[2:])


def merge_heads(x: jax.Array) -> jax.Array:
    """[B, heads, T, D] -> [B, T, heads * D]."""
    batch, heads, length, width = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerScores:
    """Frozen attention scores: no constants."""

    heads: int = dataclasses.field(metadata={"static": True})

    def __call__(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """int8 [B, Q, H * D] and [B, T, H * D] -> int32 [B, H, Q, T]."""
        q, k = (row_major(fold_heads(x, self.heads)) for x in (query, key))
        scores = int8_scores(q, k)
        return scores.reshape(-1, self.heads, *scores.shape[1:])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerContext:
    """Frozen weighted mean of the values: no constants."""

    heads: int = dataclasses.field(metadata={"static": True})

    def __call__(self, weights: tuple[jax.Array, jax.Array], value: jax.Array) -> jax.Array:
        """The mean for each query.

        Args:
            weights: uint8 numerators [B, H, Q, T], int32 row sums [B, H, Q, 1].
            value: int8 [B, T, H * D].

        Returns:
            int32 [B, Q, H * D], at 2^-21 of the values' steps.
        """
        mean = self.of_heads(weights, value)
        return mean.reshape(*mean.shape[:2], -1)

    def of_heads(self, weights: tuple[jax.Array, jax.Array], value: jax.Array) -> jax.Array:
        """The same with the heads apart: int32 [B, Q, H, D]."""
        numerators, row_sum = weights
        batch, heads, queries, _ = numerators.shape
        v = row_major(fold_heads(value, heads))
        folded = numerators.reshape(batch * heads, queries, -1)
        total = dot_u8_s8(folded, v, (((2,), (1,)), ((0,), (0,))))
        mean = divide_by_row_sum(total.reshape(batch, heads, queries, -1), row_sum)
        return mean.transpose(0, 2, 1, 3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatContext:
    """A frozen weighted mean whose weights a float softmax made (``force_dequant``)."""

    heads: int = dataclasses.field(metadata={"static": True})

    def __call__(self, weights: tuple[jax.Array, jax.Array], value: jax.Array) -> jax.Array:
        """float32 weights, ones; int8 [B, T, H * D] -> int32 at 2^-21 value steps."""
        mean = weighted_mean(weights[0], value.astype(jnp.float32), self.heads)
        # At most the largest value times the sum of a row's weights, one: 2^28.
        return round_onto(mean, 2.0**CONTEXT_FRACTION_BITS, 2**28)


def weighted_mean(weights: jax.Array, value: jax.Array, heads: int) -> jax.Array:
    """float32 weights [B, H, T, T], value [B, T, H * D] -> [B, T, H * D]."""
    return merge_heads(lax.dot_general(weights, split_heads(value, heads), _CONTEXT))


class AttentionScores(Leaf):
    """query . key for every head (softmax divides by sqrt(D))."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def __call__(
        self, query: jax.Array | QuantizedTensor, key: jax.Array | QuantizedTensor
    ) -> jax.Array | QuantizedTensor:
        """query, key [B, T, H * D] -> scores [B, H, T, T]."""
        if not isinstance(query, QuantizedTensor) or not isinstance(key, QuantizedTensor):
            return self._float(value_of(query), value_of(key))
        q = self.record(IntegerScores(self.heads))(query.q, key.q)
        scale = query.scale * key.scale
        value = straight_through(self._float, dequantize(q, scale), query.value, key.value)
        return QuantizedTensor(q, scale, value)

    def _float(self, query: jax.Array, key: jax.Array) -> jax.Array:
        q, k = split_heads(query, self.heads), split_heads(key, self.heads)
        return lax.dot_general(q, k, _SCORES)


class AttentionContext(Leaf):
    """The attention-weighted mean of the values.

    Args:
        heads: H.
        in_float: whether the weights stay in float once quantized (``force_dequant``).
    """

    def __init__(self, heads: int, *, in_float: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.in_float = in_float

    def __call__(
        self, weights: jax.Array | QuantizedTensor, value: jax.Array | QuantizedTensor
    ) -> jax.Array | QuantizedTensor:
        """weights [B, H, T, T], value [B, T, H * D] -> [B, T, H * D]."""
        if not isinstance(weights, QuantizedTensor) or not isinstance(value, QuantizedTensor):
            return self._float(value_of(weights), value_of(value))
        assert weights.row_sum is not None
        kind = FloatContext if self.in_float else IntegerContext
        q = self.record(kind(self.heads))((weights.q, weights.row_sum), value.q)
        # Two short scales and a power of two: exact, dropout's scale included.
        scale = weights.scale * value.scale * 2.0**-CONTEXT_FRACTION_BITS
        result = straight_through(self._float, dequantize(q, scale), weights.value, value.value)
        return QuantizedTensor(q, scale, result)

    def _float(self, weights: jax.Array, value: jax.Array) -> jax.Array:
        return weighted_mean(weights, value, self.heads)
