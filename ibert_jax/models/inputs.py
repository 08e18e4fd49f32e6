"""The models' arguments, made int32 and bool; what is wrong with them is said on the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax import checks
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
    ids, mask, types, positions = (
        x if x is None or isinstance(x, jax.Array) else np.asarray(x)
        for x in (input_ids, attention_mask, token_type_ids, position_ids)
    )
    checks.check_one_input(ids, None)
    assert ids is not None
    checks.check_token_ids(ids, config.vocab_size)
    checks.check_length(ids.shape[1], config.max_sequence_length)
    ids = as_int32(ids)
    if mask is None:
        mask = jnp.ones(ids.shape, bool)
    else:
        checks.check_mask(mask, ids.shape)
        mask = jnp.asarray(mask) if mask.dtype == bool else as_int32(mask) != 0
    if types is None:
        types = jnp.zeros(ids.shape, jnp.int32)
    else:
        checks.check_token_types(types, ids.shape, config.type_vocab_size)
        types = jnp.broadcast_to(as_int32(types), ids.shape)
    if positions is None:
        return ids, mask, types, position_ids_from_input_ids(ids, config.pad_token_id)
    checks.check_position_ids(positions, ids.shape, config.max_position_embeddings)
    return ids, mask, types, jnp.broadcast_to(as_int32(positions), ids.shape)


def as_int32(values: Any) -> jax.Array:
    """An int32 array of ``values``; Python and NumPy integers lose nothing on the way."""
    if isinstance(values, jax.Array):
        return values.astype(jnp.int32)
    return jnp.asarray(np.asarray(values).astype(np.int32))
