"""How often activations saturate: on real text, of which ranges know nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.frozen.network import wrap_leaves
from ibert_jax.layers.activation import IntegerAct


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
        mask = batch.get("attention_mask")
        wrap_leaves(network, lambda path, leaf: _Counter(leaf, path, mask, found))
        network(**batch)
        return found

    ends: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for batch in batches:
        arrays = {name: np.asarray(value) for name, value in batch.items()}
        for path, (at_end, size) in jax.device_get(count(program, arrays)).items():
            ends[path] = ends.get(path, 0) + int(at_end)
            sizes[path] = sizes.get(path, 0) + int(size)
    return {path: ends[path] / sizes[path] for path in ends if sizes[path]}


class _Counter:
    """Stands in a leaf's place, calls it and counts an activation's elements at its ends."""

    def __init__(self, leaf: Any, path: str, mask: Any, found: dict[str, Any]) -> None:
        self.leaf, self.path, self.mask, self.found = leaf, path, mask, found

    def __call__(self, *operands: Any) -> Any:
        result = self.leaf(*operands)
        if isinstance(self.leaf, IntegerAct):
            limit = 2 ** (self.leaf.bits - 1)
            at_end = (result <= -limit) | (result >= limit - 1)
            counted = jnp.ones_like(at_end)
            if self.mask is not None and result.shape[: self.mask.ndim] == self.mask.shape:
                extra = (1,) * (result.ndim - self.mask.ndim)
                counted = counted & (self.mask != 0).reshape(*self.mask.shape, *extra)
            self.found[self.path] = (
                jnp.sum(at_end & counted, dtype=jnp.int32),
                jnp.sum(counted, dtype=jnp.int32),
            )
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leaf, name)
