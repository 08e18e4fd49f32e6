"""tanh, of poolers and classification heads."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from ibert_jax.integer.dyadic import Multiplier, requantize
from ibert_jax.integer.tanh import itanh
from ibert_jax.layers.grids import to_grid
from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.numbers import python_number
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize

INPUT_BITS = 16
GRID = python_number(2**12 / math.log(2))
"""The input's grid is ln2 / 2^12: +-5.5, where tanh is 1 to 15 bits."""
OUTPUT_SCALE = 2.0**-15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerTanh:
    """The frozen tanh: ``multiplier`` leads from the accumulator's scale to the grid."""

    multiplier: Multiplier

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., C] -> int32 [..., C] at 2^-15."""
        return itanh(requantize(q, self.multiplier, INPUT_BITS, wide=False))


class IntTanh(Leaf):
    """tanh; quantized, through i-exp on a fixed grid."""

    def __call__(self, x: jax.Array | QuantizedTensor) -> jax.Array | QuantizedTensor:
        """Tensor [..., C] -> [..., C]."""
        if not isinstance(x, QuantizedTensor):
            return jnp.tanh(x)
        integer = IntegerTanh(to_grid(x.scale, GRID))
        q = self.record(integer)(x.q)
        scale = jnp.float32(OUTPUT_SCALE)
        return QuantizedTensor(q, scale, straight_through(jnp.tanh, dequantize(q, scale), x.value))
