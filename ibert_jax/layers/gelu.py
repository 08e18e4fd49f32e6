"""GELU (Kim et al., section 3.4)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.integer.barrier import materialized
from ibert_jax.integer.dyadic import Multiplier, pack, rescale, unpack
from ibert_jax.integer.gelu import GRIDS, igelu
from ibert_jax.layers.leaf import ObservingLeaf
from ibert_jax.quantize.constants import multiplier, number, power_of_two
from ibert_jax.quantize.straight_through import straight_through
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, round_onto

INPUT_BITS = 16


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x) in float32."""
    return jax.nn.gelu(x, approximate=False)


def igelu_float(x: jax.Array) -> jax.Array:
    """The published polynomial in floats: what the integers follow, hence their gradient."""
    clipped = jnp.minimum(jnp.abs(x) / 1.4142, 1.769) - 1.769
    erf = jnp.sign(x) * (1 - 0.2888 * clipped * clipped)
    return 0.5 * x * (1 + erf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerGELU:
    """The frozen GELU.

    Attributes:
        multiplier: from the accumulator's scale to the grid.
        grid: int32 scalar k; inputs are integers at 2^-k.
    """

    multiplier: Multiplier
    grid: jax.Array

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., F] -> int32 [..., F] at 2^-(k + 15), below 2^30."""
        return igelu(rescale(q, self.multiplier, wide=False), self.grid)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FloatGELU:
    """A frozen GELU that was left in float (``force_dequant``): floats inside, integers around.

    Attributes:
        scale: float32, scalar or [F]; the accumulator's.
        grid: int32 scalar k, as of ``IntegerGELU``, whose output has the same scale.
    """

    scale: jax.Array
    grid: jax.Array

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [..., F] -> int32 [..., F] at 2^-(k + 15), below 2^30."""
        largest = power_of_two(INPUT_BITS - 1 - self.grid)
        x = jnp.clip(dequantize(q, self.scale), -largest, largest)
        return round_onto(gelu(x), power_of_two(self.grid + 15), 2**30)


def finest_grid(absolute: jax.Array) -> jax.Array:
    """The largest k of the grids whose 16 bits cover +-``absolute``: 2^(15 - k) >= absolute."""
    n = number(absolute)
    log2 = n.exponent + 30 + (n.mantissa > 2**30).astype(jnp.int32)  # rounded up
    return jnp.clip(INPUT_BITS - 1 - log2, *GRIDS)


@materialized
def _constants(scale: jax.Array, highest: jax.Array) -> tuple[jax.Array, jax.Array]:
    grid = finest_grid(jnp.maximum(highest, 0.0))
    return pack(multiplier(scale, power_of_two(-grid), wide=False)), grid


class IntGELU(ObservingLeaf):
    """GELU; quantized, the i-GELU polynomial on the finest grid that covers its input's range.

    Args:
        momentum: of the range's moving average; -1 for running minimum and maximum.
        in_float: whether it stays in float once quantized (``force_dequant``).

    Below -2.5 the polynomial is exactly 0, so only the upper end of the range matters; beyond
    256 the input saturates.
    """

    def __init__(self, momentum: float = 0.95, *, in_float: bool = False) -> None:
        super().__init__((), momentum)
        self.in_float = in_float

    def __call__(self, x: jax.Array | QuantizedTensor) -> jax.Array | QuantizedTensor:
        """Tensor [..., F] -> [..., F]."""
        if not isinstance(x, QuantizedTensor):
            self.observe(x)
            return gelu(x)
        self.observe(x.value)
        packed, grid = _constants(x.scale, self.x_max[...])
        if self.in_float:
            frozen, surrogate = FloatGELU(x.scale, grid), gelu
        else:
            frozen, surrogate = IntegerGELU(unpack(packed), grid), igelu_float
        q = self.record(frozen)(x.q)
        scale = power_of_two(-grid - 15)
        value = straight_through(surrogate, dequantize(q, scale), x.value)
        return QuantizedTensor(q, lax.stop_gradient(scale), value)
