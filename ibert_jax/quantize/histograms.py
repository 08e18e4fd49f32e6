"""Histograms of activations: arrays of fixed size, filled batch by batch inside one jitted pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.quantize.kept_tokens import kept_tokens

POOLED_BINS, CHANNEL_BINS = 2048, 256
"""Of one histogram for the whole tensor, and of those of its channels."""


def histograms(
    model: nnx.Module,
    batches: Iterable[Mapping[str, Any]],
    units: Mapping[str, np.ndarray],
    *,
    pooled: Mapping[str, bool],
) -> dict[str, np.ndarray]:
    """Count the absolute values that reach the activations of a float model.

    Tokens that the attention mask excludes do not count.

    Args:
        model: in the float life, in evaluation.
        batches: its arguments by name.
        units: path of an activation -> the range that fills its histogram, float32 scalar or
            [C]; what is larger counts in the last bin.
        pooled: path -> whether all channels share one histogram.

    Returns:
        path -> int64 [B], or [C, B] where not pooled.
    """
    graph, state = nnx.split(model)

    @jax.jit
    def count(state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        network = nnx.merge(graph, state)
        found: dict[str, jax.Array] = {}
        activation: Any
        for path, activation in nnx.iter_modules(network):
            name = ".".join(map(str, path))
            if name in units:
                activation.observe = _Counter(found, name, units[name], pooled[name], batch)
        network(**batch)
        return found

    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        arrays = {name: np.asarray(value) for name, value in batch.items()}
        for name, counts in jax.device_get(count(state, arrays)).items():
            totals[name] = totals.get(name, 0) + counts.astype(np.int64)
    return totals


class _Counter:
    """Stands in for an activation's ``observe`` while its histogram is taken."""

    def __init__(
        self,
        found: dict[str, jax.Array],
        name: str,
        unit: np.ndarray,
        pooled: bool,
        batch: Mapping[str, jax.Array],
    ) -> None:
        self._found, self._name, self._unit, self._pooled = found, name, unit, pooled
        self._batch = batch

    def __call__(self, value: jax.Array) -> None:
        kept = kept_tokens(self._batch, value.shape[:-1]) if value.ndim == 3 else None
        counted = jnp.ones(value.shape[:-1], bool) if kept is None else kept
        self._found[self._name] = _count(value, counted, jnp.asarray(self._unit), self._pooled)


def _count(value: jax.Array, counted: jax.Array, unit: jax.Array, pooled: bool) -> jax.Array:
    """A histogram of float32 [..., C]: int32 [B] or [C, B]; ``counted`` bool [...]."""
    bins, channels = POOLED_BINS if pooled else CHANNEL_BINS, value.shape[-1]
    share = jnp.abs(value).reshape(-1, channels) / jnp.broadcast_to(unit, (1, channels))
    index = jnp.clip((share * bins).astype(jnp.int32), 0, bins - 1)
    added = jnp.broadcast_to(counted.astype(jnp.int32).reshape(-1, 1), index.shape).reshape(-1)
    if not pooled:
        index = index + bins * jnp.arange(channels, dtype=jnp.int32)[None]
    size = bins if pooled else bins * channels
    flat = jnp.zeros(size, jnp.int32).at[index.reshape(-1)]
    counts = flat.add(added, mode="promise_in_bounds")  # clipped above; half the time
    return counts if pooled else counts.reshape(channels, bins)
