"""Multipliers that lead to a fixed grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ibert_jax.integer.barrier import materialized
from ibert_jax.integer.dyadic import Multiplier, pack, unpack
from ibert_jax.quantize.constants import multiplier


def to_grid(scale: jax.Array, steps_per_unit: tuple[int, int]) -> Multiplier:
    """From ``scale`` to a grid of so many steps a unit (a number in Python integers); narrow."""
    return unpack(_packed(scale, steps_per_unit=steps_per_unit))


@materialized
def _packed(scale: jax.Array, *, steps_per_unit: tuple[int, int]) -> jax.Array:
    return pack(multiplier(scale, jnp.float32(1), wide=False, factor=steps_per_unit))
