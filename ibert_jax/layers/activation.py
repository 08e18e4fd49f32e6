"""QuantAct: where activations get their ranges and their few bits."""

from __future__ import annotations

import jax

from ibert_jax.layers.leaf import Leaf
from ibert_jax.quantize.ranges import empty_bounds, moving_bounds, observed_bounds
from ibert_jax.quantize.schemes import ActivationFormat


class QuantAct(Leaf):
    """Adds its operands and quantizes the sum to the range it has observed."""

    def __init__(self, form: ActivationFormat, channels: int, momentum: float = 0.95) -> None:
        super().__init__()
        self.bits = form.bits
        self.granularity = form.granularity
        self.momentum = momentum
        if form.bits is not None:
            shape = () if form.granularity == "tensor" else (channels,)
            self.x_min, self.x_max = empty_bounds(shape)

    def __call__(self, *operands: jax.Array) -> jax.Array:
        total = operands[0]
        for operand in operands[1:]:
            total = total + operand
        if self.bits is not None and self.observing:
            old = self.x_min[...], self.x_max[...]
            new = observed_bounds(jax.lax.stop_gradient(total), old[0].shape)
            self.x_min[...], self.x_max[...] = moving_bounds(old, new, self.momentum)
        return total
