"""The quantized tensor: what flows through the network in the quantization-aware life."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp

from ibert_jax.integer.dyadic import align


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """Integers, what they stand for, and a float that carries gradients.

    Invariants:
        * ``q``: integers [..., C] (int8, uint8 or int32), the very ones of the frozen program
          (float32 only behind a softmax that ``force_dequant`` left in float);
        * ``scale``: float32, scalar or per channel [C];
        * ``offset``: float32 [C] or None; what LayerNorm's bias adds to every channel;
        * ``row_sum``: int32 [..., 1] or None; a division that is still to be done;
        * ``value`` = q * scale / row_sum + offset, float32 [..., C]; its gradient is that of
          the operation in floats (straight-through). No integer ever depends on it.
    """

    q: jax.Array
    scale: jax.Array
    value: jax.Array
    offset: jax.Array | None = None
    row_sum: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.q.shape

    def __getitem__(self, index: Any) -> Self:
        """Positions of the leading dimensions; channels stay."""
        return dataclasses.replace(self, q=self.q[index], value=self.value[index])


def dequantize(
    q: jax.Array,
    scale: jax.Array,
    offset: jax.Array | None = None,
    row_sum: jax.Array | None = None,
) -> jax.Array:
    """The float32 that integers stand for: q * scale / row_sum + offset."""
    value = q.astype(jnp.float32) * align(scale, q.ndim)
    if row_sum is not None:
        value = value / jnp.maximum(row_sum, 1).astype(jnp.float32)
    return value if offset is None else value + align(offset, q.ndim)


def round_onto(value: jax.Array, steps_per_unit: jax.Array | float, limit: int) -> jax.Array:
    """int32 integers of a float32 ``value`` that an operation left in float has computed.

    Args:
        value: float32 [..., C].
        steps_per_unit: float32 scalar, a power of two: the inverse of the result's scale.
        limit: 1 to 2^30; the integers lie in [-limit, limit].
    """
    steps = jnp.round(value * steps_per_unit)
    return jnp.clip(steps, -float(limit), float(limit)).astype(jnp.int32)


def value_of(x: jax.Array | QuantizedTensor) -> jax.Array:
    """The float32 value of a tensor of the float or the quantization-aware life."""
    return x.value if isinstance(x, QuantizedTensor) else x
