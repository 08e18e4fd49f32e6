"""The quantized tensor."""

from __future__ import annotations

from typing import Any

import jax


def value_of(x: Any) -> jax.Array:
    """The float32 value of a tensor of the float or the quantization-aware life."""
    return x if isinstance(x, jax.Array) else x.value
