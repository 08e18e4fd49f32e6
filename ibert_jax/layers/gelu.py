"""GELU."""

from __future__ import annotations

import jax

from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.ranges import empty_bounds


class IntGELU(Leaf):
    """GELU, x * Phi(x)."""

    def __init__(self, momentum: float = 0.95) -> None:
        super().__init__()
        self.momentum = momentum
        self.x_min, self.x_max = empty_bounds(())

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=False)
