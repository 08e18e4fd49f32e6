"""The models' arguments, made int32 and bool; what is wrong with them is said on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.config import IBertConfig
from ibert_jax.models.embeddings import position_ids_from_input_ids


def encoder_inputs(
    config: IBertConfig,
    input_ids: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """ids, mask, types, positions: int32, bool, int32, int32 [B, T], defaults filled in.

    Accepts NumPy and JAX arrays and nested lists, of any integer dtype.
    """
    ids = as_int32(input_ids)
    mask = jnp.ones(ids.shape, bool) if attention_mask is None else as_int32(attention_mask) != 0
    types = jnp.zeros(ids.shape, jnp.int32) if token_type_ids is None else as_int32(token_type_ids)
    positions = (
        position_ids_from_input_ids(ids, config.pad_token_id)
        if position_ids is None
        else as_int32(position_ids)
    )
    return ids, mask, types, positions


def as_int32(values: Any) -> jax.Array:
    """An int32 array of ``values``; Python and NumPy integers lose nothing on the way."""
    return values.astype(jnp.int32) if isinstance(values, jax.Array) else jnp.asarray(
        np.asarray(values).astype(np.int32)
    )
