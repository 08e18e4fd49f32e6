"""The layers of a frozen encoder as one layer of stacked arrays, over which a scan runs.

What is compiled is one layer, however deep the network. A scan cuts each turn's arrays out of the
stack, which XLA's CPU backend does by copying them: for a single sentence, up to half of the work
(benchmarks/README). On CPU large matrices therefore stay apart, an array a layer, and each product
is chosen among the layers' products by the number of the turn (``integer.matmul``); so do matrices
laid out for oneDNN, whatever their size. On other platforms, where a choice may have to wait for
the host, all is stacked. Either form runs everywhere, to the same integers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ibert_jax.integer.compiled import on_device
from ibert_jax.integer.matmul import OneOf
from ibert_jax.integer.packed import Packed

Layer = TypeVar("Layer")

LARGE = 2**20
"""Elements, each a byte, up to which a matrix is stacked: of BERT-base's, all but the
feed-forward's. A copy so small is read from the cache, and each product among which is chosen costs
4 ms of a first call."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Apart:
    """A matrix of each layer, as an array of its own; for NumPy one array [L, N, K].

    Attributes:
        matrices: int8 [N, K] each, or ``Packed``.
    """

    matrices: tuple[Any, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack(self.matrices, dtype=dtype)


def stack(layers: Sequence[Layer]) -> Layer:
    """Layers of one structure as a layer of stacked arrays."""

    def joined(*arrays: Any) -> Any:
        if isinstance(arrays[0], Packed):
            return Apart(arrays)
        if _stays_apart(arrays[0].shape):
            return _apart(arrays)
        return (np if isinstance(arrays[0], np.ndarray) else jnp).stack(arrays)

    return jax.tree.map(joined, *layers, is_leaf=lambda node: isinstance(node, Packed))


def laid_out(stacked: Layer) -> Layer:
    """A layer of arrays [L, ...] of NumPy's, as ``stack`` makes it on this platform."""
    return jax.tree.map(
        lambda array: _apart(array) if _stays_apart(array.shape[1:]) else array, stacked
    )


def unstack(stacked: Layer) -> list[Layer]:
    """The layers again."""
    parts, structure = _flat(stacked)
    rows = zip(*(p.matrices if isinstance(p, Apart) else p for p in parts), strict=True)
    return [jax.tree.unflatten(structure, row) for row in rows]


def last_of(stacked: Layer) -> Layer:
    """The last of the layers."""
    parts, structure = _flat(stacked)
    rows = [part.matrices[-1] if isinstance(part, Apart) else part[-1] for part in parts]
    return jax.tree.unflatten(structure, rows)


def turns(stacked: Layer, depth: int) -> tuple[Any, Callable[[Any], Layer]]:
    """What a scan goes through, each turn's number and arrays; and what makes a layer of them.

    Of fewer layers than there are, the first, it is the numbers alone: to cut the others off the
    arrays would be to copy these.
    """
    parts, structure = _flat(stacked)
    # What stands at several places is cut once.
    arrays = {id(part): part for part in parts if not isinstance(part, Apart)}
    stacks = list(arrays.values())
    fewer = any(len(array) > depth for array in stacks)

    def layer(row: Any) -> Layer:
        index, cut = row
        if fewer:
            cut = [lax.dynamic_index_in_dim(array, index, keepdims=False) for array in stacks]
        own = dict(zip(arrays, cut, strict=True))
        chosen = [
            OneOf(part.matrices[:depth], index) if isinstance(part, Apart) else own[id(part)]
            for part in parts
        ]
        return jax.tree.unflatten(structure, chosen)

    return (np.arange(depth, dtype=np.int32), [] if fewer else stacks), layer


def _stays_apart(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and math.prod(shape) > LARGE and jax.default_backend() == "cpu"


def _apart(arrays: Iterable[Any]) -> Apart:
    return Apart(tuple(map(on_device, arrays)))


def _flat(stacked: Any) -> Any:
    return jax.tree.flatten(stacked, is_leaf=lambda node: isinstance(node, Apart))
