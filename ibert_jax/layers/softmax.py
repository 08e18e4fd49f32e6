"""Softmax of attention scores (Kim et al., section 3.5)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.integer.softmax import GRID_BITS, softmax_numerators, softmax_reference
from ibert_jax.layers.grids import to_grid
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.numbers import python_number
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize


def masked_softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the keys that ``mask`` [B, 1, 1, T] (bool) keeps; others get exactly 0.

    A row with no key at all is all zeros.
    """
    kept = jnp.where(mask, scores, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.max(kept, axis=-1, keepdims=True))
    peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    powers = jnp.where(mask, jnp.exp(jnp.where(mask, scores - peak, 0.0)), 0.0)
    return powers / jnp.maximum(jnp.sum(powers, axis=-1, keepdims=True), 1e-30)


def scaled_softmax(
    scores: jax.Array, mask: jax.Array, width: jax.Array, heads: jax.Array | None
) -> jax.Array:
    """Softmax of scores / sqrt(width), times ``heads`` [H] where given."""
    weights = masked_softmax(scores / jnp.sqrt(width), mask)
    return weights if heads is None else weights * heads.astype(jnp.float32).reshape(1, -1, 1, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerSoftmax:
    """The frozen softmax: ``multiplier`` leads from the scores' scale to ln2 / 2^11."""

    multiplier: Multiplier
    published: bool = dataclasses.field(metadata={"static": True})

    def __call__(
        self, scores: jax.Array, mask: jax.Array, heads: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """int32 [B, H, T, T], bool [B, 1, 1, T] -> uint8 numerators, int32 sums [B, H, T, 1].

        ``heads`` bool [H] clears the numerators of heads that do not count.
        """
        kernel = softmax_reference if self.published else softmax_numerators
        numerators, row_sum = kernel(scores, mask, self.multiplier)
        if heads is not None:
            numerators = jnp.where(heads.reshape(1, -1, 1, 1), numerators, jnp.uint8(0))
        return numerators, row_sum


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatSoftmax:
    """A frozen softmax that was left in float (``force_dequant``).

    Attributes:
        scale: float32 scalar, that of the scores, with sqrt(D) divided out.
    """

    scale: jax.Array

    def __call__(
        self, scores: jax.Array, mask: jax.Array, heads: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """int32 [B, H, T, T], bool [B, 1, 1, T] -> float32 weights, int32 ones [B, H, T, 1].

        The ones stand where the integer softmax has its row sums: nothing is left to divide by.
        """
        weights = scaled_softmax(dequantize(scores, self.scale), mask, jnp.float32(1), heads)
        return weights, jnp.ones((*scores.shape[:-1], 1), jnp.int32)


class IntSoftmax(Leaf):
    """Softmax of attention scores over sqrt(D).

    Args:
        width: D, the channels of a head.
        scheme: ``channel``, where the row sum is divided out after the matmul with the
            values; or ``reference``, the published softmax, which floors each weight to 8 bits.
        in_float: whether it stays in float once quantized (``force_dequant``); its weights are
            floats then, for an ``AttentionContext`` that is in float as well.
    """

    def __init__(self, width: int, scheme: str, *, in_float: bool = False) -> None:
        super().__init__()
        self.in_float = in_float
        self.width = width
        self.scheme = scheme

    def __call__(
        self,
        scores: jax.Array | QuantizedTensor,
        mask: jax.Array,
        heads: jax.Array | None = None,
    ) -> jax.Array | QuantizedTensor:
        """Scores [B, H, T, T], mask bool [B, 1, 1, T], heads [H] -> weights [B, H, T, T]."""
        width = jnp.float32(self.width)
        if not isinstance(scores, QuantizedTensor):
            return scaled_softmax(scores, mask, width, heads)
        heads = None if heads is None else heads.astype(jnp.bool_)
        q, row_sum = self.record(self._frozen(scores.scale))(scores.q, mask, heads)
        scale = jnp.float32(1)
        value = straight_through(
            scaled_softmax, dequantize(q, scale, row_sum=row_sum), scores.value, mask, width, heads
        )
        return QuantizedTensor(q, scale, value, row_sum=row_sum)

    def _frozen(self, scale: jax.Array) -> IntegerSoftmax | FloatSoftmax:
        if self.in_float:
            return FloatSoftmax(scale / jnp.sqrt(jnp.float32(self.width)))
        grid = python_number(2**GRID_BITS / (math.log(2) * math.sqrt(self.width)))
        return IntegerSoftmax(to_grid(scale, grid), self.scheme == "reference")
