"""The context requantized head by head, for CPUs.

A token's heads lie apart in what attention's product leaves. A loop over all of its channels, as
XLA compiles it, reads them element by element; a loop over its heads and each one's channels reads
whole vectors. The leaves and their numbers are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax import lax

from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.frozen.parts import known_tokens
from ibert_jax.integer.barrier import materialize
from ibert_jax.layers.activation import IntegerAct
from ibert_jax.layers.attention import IntegerContext

CONTEXT, ACTIVATION = "context", "output_activation"
"""The leaf that leaves the heads apart, and the one that merges them, by name."""
WORTH_IT = 512
"""Tokens from which on it takes less time (benchmarks/README)."""


def requantize_by_head(network: nnx.Module, shape: Sequence[Any]) -> None:
    """Let the context's activations read it head by head, if that pays, in place.

    A context that another leaf has taken the place of, or whose activation has layers of several
    widths, stays as it is.

    Args:
        network: of integer leaves, stacked or not.
        shape: of the tokens, [..., T]; of an export, some of it symbols, which leave all as it is.
    """
    if known_tokens(shape) < WORTH_IT:
        return
    leaves = integer_leaves(network)
    for path in [path for path, leaf in leaves.items() if type(leaf) is IntegerContext]:
        activation = path.removesuffix(CONTEXT) + ACTIVATION
        if type(leaves[activation]) is IntegerAct:
            put_leaf(network, path, nnx.data(ContextOfHeads(leaves[path])))
            put_leaf(network, activation, nnx.data(ActOfHeads(leaves[activation])))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContextOfHeads:
    """A weighted mean of the values that leaves the heads apart."""

    leaf: IntegerContext

    def __call__(self, weights: tuple[jax.Array, jax.Array], value: jax.Array) -> jax.Array:
        """As the leaf's, but int32 [B, T, H, D]."""
        return self.leaf.of_heads(weights, value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActOfHeads:
    """An activation that merges the heads it reads."""

    leaf: IntegerAct

    def __call__(self, q: jax.Array) -> jax.Array:
        """int32 [B, T, H, D] -> int8 [B, T, H * D]."""

        def by_head(q: jax.Array) -> jax.Array:
            act = jax.tree.map(
                lambda constant: (
                    constant.reshape(1, 1, *q.shape[2:]) if constant.ndim else constant
                ),
                self.leaf,
            )
            # Written before the heads are merged, or that loop would be over all channels again.
            return merged(materialize(act(q)))

        return lax.platform_dependent(q, cpu=by_head, default=lambda q: self.leaf(merged(q)))


def merged(x: jax.Array) -> jax.Array:
    """[B, T, H, D] -> [B, T, H * D]."""
    return x.reshape(*x.shape[:2], -1)
