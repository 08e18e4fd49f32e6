"""Which tokens count where activations and outputs are measured: those that the mask keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def kept_tokens(batch: Mapping[str, Any], shape: tuple[int, ...]) -> jax.Array | None:
    """Which rows of a tensor of tokens count, bool of ``shape``; None if all do.

    Args:
        batch: a model's arguments by name, of which ``attention_mask`` and ``scored_tokens`` are
            read.
        shape: of the tensor, without its channels: as many tokens as the mask has, [B, T], or
            those that were asked for, [B, S]; all tokens of any other count.
    """
    mask, scored = batch.get("attention_mask"), batch.get("scored_tokens")
    if mask is None:
        return None
    if scored is not None and shape == scored.shape:
        mask = jnp.take_along_axis(jnp.asarray(mask), jnp.asarray(scored), axis=1, mode="clip")
    return mask.reshape(shape) != 0 if mask.size == math.prod(shape) else None
