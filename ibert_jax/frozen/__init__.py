"""The third life: the integer model."""

from ibert_jax.frozen.freeze import freeze
from ibert_jax.frozen.program import IntegerModel

__all__ = ["IntegerModel", "freeze"]
