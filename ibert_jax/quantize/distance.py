"""How far a model's outputs are from what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ibert_jax.quantize.kept_tokens import kept_tokens
from ibert_jax.quantize.tensor import value_of

_PER_TOKEN = ("start_logits", "end_logits")
_OUTPUTS = ("logits", *_PER_TOKEN, "last_hidden_state")


def outputs_of(result: Any) -> dict[str, jax.Array]:
    """The float32 outputs of a call with ``return_dict=True``, by name: logits, else states."""
    found = {name: getattr(result, name, None) for name in _OUTPUTS}
    return {name: value_of(tensor) for name, tensor in found.items() if tensor is not None}


def squares(
    got: Mapping[str, jax.Array], wanted: Mapping[str, jax.Array], batch: Mapping[str, Any]
) -> jax.Array:
    """Float32 [2]: the sum of squared differences, and that of the squared wanted values.

    Tokens that the mask of ``batch``, the arguments by name, excludes do not count.
    """
    total = jnp.zeros(2, jnp.float32)
    for name, want in wanted.items():
        pair = jnp.stack([jnp.square(got[name] - want), jnp.square(want)])
        tokens = want.ndim == 3 or name in _PER_TOKEN
        kept = kept_tokens(batch, want.shape[:2]) if tokens else None
        if kept is not None:
            pair = pair * kept.astype(jnp.float32).reshape(1, *kept.shape, *(1,) * (want.ndim - 2))
        total += jnp.sum(pair, axis=tuple(range(1, pair.ndim)))
    return total
