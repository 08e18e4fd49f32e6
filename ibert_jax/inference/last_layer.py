"""Which of a job's batches are computed by programs that spare most of the last layer.

A classifier reads a sequence's first token alone, and its last layer may be computed for that token
(`frozen.first_token`), by a program that takes longer to be compiled. As with closer lengths
(`lengths.GrowingLengths`), it is compiled once what it would have spared has cost as much.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

from ibert_jax.inference.price import Price

_SPARED = 0.8
"""Of a layer's work."""


class LastLayer:
    """Chooses between a program of whole layers and one that spares most of the last.

    spares: whether the latter does so for a shape (`IntegerModel.spares_last_layer`). layers: how
        many there are. price: of a program.
    """

    def __init__(
        self, spares: Callable[[tuple[int, ...]], bool], layers: int, price: Price
    ) -> None:
        self._spares = spares
        self._share = _SPARED / layers
        self._price = price
        self._spared: dict[tuple[int, ...], float] = defaultdict(float)
        self._in_use: set[tuple[int, ...]] = set()

    def whole(self, shape: tuple[int, ...]) -> bool:
        """Whether the next batch of this shape, [..., T], is computed by whole layers."""
        if not self._spares(shape):
            return False  # there is no other
        if shape not in self._in_use:
            self._spared[shape] += math.prod(shape) * self._share
            if self._spared[shape] >= self._price.tokens():
                self._in_use.add(shape)
        return shape not in self._in_use
