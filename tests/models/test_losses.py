"""Losses at their ends."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ibert_jax.models.losses import span_loss


def test_positions_outside_of_the_text() -> None:
    """Beyond its end an answer takes no part, wherever; before its start it is the start."""
    rng = np.random.default_rng(0)
    start, end = jnp.asarray(rng.standard_normal((2, 2, 4)), jnp.float32)

    def loss(*positions: int) -> float:
        array = jnp.asarray(positions, jnp.int32)
        return float(span_loss(start, end, array, array))

    assert loss(1, 9) == loss(1, 4) != loss(1, 3)
    assert loss(1, -5) == loss(1, 0)
