"""Dropout."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.layers.initial import check_rngs
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.constants import short_up
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerDropout:
    """Frozen dropout: nothing."""

    def __call__(self, q: Any, rngs: None = None) -> Any:
        return q


class Dropout(Leaf):
    """Zeroes elements with probability ``rate``, 0 to 1, while training and scales up the others.

    A quantized tensor has its integers zeroed and its scale divided (rounded to a short one,
    within 0.05%). It must not carry an offset, which the zeroing would miss.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def __call__(
        self, x: jax.Array | QuantizedTensor, rngs: nnx.Rngs | None
    ) -> jax.Array | QuantizedTensor:
        """Tensor of any shape -> the same shape; ``rngs`` has a ``dropout`` stream."""
        if self.deterministic or self.rate == 0:
            self.record(IntegerDropout())
            return x
        if rngs is None:
            raise ValueError(
                "the model is in training mode, so a call needs dropout keys, got rngs=None; "
                "pass rngs=nnx.Rngs(dropout=key), or call model.eval() first"
            )
        check_rngs(rngs)
        dropped = round(self.rate * 2**16)
        if dropped == 2**16:
            keep, factor = jnp.zeros(x.shape, bool), jnp.float32(1)
        else:
            # 16 random bits an element, compared as integers: half the price of a float32 draw.
            keep = jax.random.bits(rngs.dropout(), x.shape, jnp.uint16) >= jnp.uint16(dropped)
            factor = jnp.float32(1 / (1 - self.rate))
        if not isinstance(x, QuantizedTensor):
            return drop(x, keep, factor)
        assert x.offset is None
        q = jnp.where(keep, x.q, jnp.zeros_like(x.q))
        scale = short_up(x.scale * factor)
        value = dequantize(q, scale, row_sum=x.row_sum)
        value = straight_through(drop, value, x.value, keep, factor)
        return QuantizedTensor(q, scale, value, row_sum=x.row_sum)


def drop(x: jax.Array, keep: jax.Array, factor: jax.Array) -> jax.Array:
    """x * factor where ``keep``, else 0."""
    return jnp.where(keep, x * factor, 0.0)
