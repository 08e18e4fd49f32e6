"""How often activations saturate: on real text, of which ranges know nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.frozen.network import watch_leaves
from ibert_jax.layers.activation import IntegerAct, IntegerNarrowAct
from ibert_jax.quantize.kept_tokens import kept_tokens


def saturation(program: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """For each quantized activation by path, the share of elements at either end of its range.

    Args:
      program: an `IntegerModel`.
      batches: its arguments by name, compiled for each shape anew; tokens that the attention mask
        excludes do not count.
    """

    @jax.jit
    def count(program: Any, batch: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
        found: dict[str, tuple[jax.Array, jax.Array]] = {}
        network = program.network

        def record(path: str, leaf: Any, q: Any) -> None:
            if isinstance(leaf, IntegerAct | IntegerNarrowAct):
                found[path] = at_the_ends(q, leaf.highest, batch)

        watch_leaves(network, record)
        network(**batch)
        return found

    ends: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for batch in batches:
        program.kind.check_batch(program.config, batch)
        arrays = {name: np.asarray(value) for name, value in batch.items()}
        for path, (at_end, size) in jax.device_get(count(program, arrays)).items():
            ends[path] = ends.get(path, 0) + int(at_end)
            sizes[path] = sizes.get(path, 0) + int(size)
    return {path: ends[path] / sizes[path] for path in ends if sizes[path]}


def at_the_ends(
    q: jax.Array, highest: int | jax.Array, batch: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """How many elements are ``highest`` or its opposite, and how many there are, int32 scalars.

    Args:
      q: integers: [B, T, C], of tokens, or anything else, all of which counts.
      highest: the largest that ``q`` may be.
      batch: the arguments by name, whose attention mask says which tokens count.
    """
    at_end = (q <= ~highest) | (q >= highest)
    kept = kept_tokens(batch, q.shape[:2]) if q.ndim == 3 else None
    counted = jnp.ones_like(at_end)
    if kept is not None:
        counted &= kept.reshape(*kept.shape, 1)
    return jnp.sum(at_end & counted, dtype=jnp.int32), jnp.sum(counted, dtype=jnp.int32)
