"""The last layer for the first token alone, where nothing else of it is read, for CPUs.

A classifier reads one token of the last hidden state. Attention's keys and values are still every
token's; its query, and all that follows it, need be that token's only: four fifths of a layer are
spared, at the price of a second layer to compile. The leaves and their numbers are the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx

from ibert_jax.integer.matmul import COPIES
from ibert_jax.models import layer_stack
from ibert_jax.models.encoder import IBertEncoder


def compute_first_token(network: nnx.Module) -> None:
    """Let the last layer compute the first token alone, in place.

    Args:
        network: of integer leaves, stacked or not; its head reads the first token alone.
    """
    for _, encoder in list(nnx.iter_modules(network)):
        if isinstance(encoder, IBertEncoder):
            last = _last_layer(encoder)
            attention, block = last.attention.self, last.attention.output
            # Query, key and value may be one leaf, whose results are cut then.
            query = "query" if attention.key is not None else "query_activation"
            # As many as a product needs not to be a vector's; one of them goes on.
            some = FirstTokens(getattr(attention, query), COPIES)
            setattr(attention, query, nnx.data(some))
            attention.context = nnx.data(FirstContext(attention.context))
            block.ln_input_act = nnx.data(FirstTokens(block.ln_input_act, 1))


def _last_layer(encoder: IBertEncoder) -> Any:
    """The last layer of an encoder, apart from the others in place."""
    if encoder.stacked is None:
        return encoder.layer[-1]
    encoder.last = nnx.data(layer_stack.last_of(encoder.stacked))
    if encoder.depth == 1:
        encoder.stacked = nnx.data(None)
    return encoder.last


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FirstTokens:
    """A leaf that computes a sequence's first tokens."""

    leaf: Any
    count: int = dataclasses.field(metadata={"static": True})

    def __call__(self, *operands: jax.Array) -> jax.Array:
        """[B, T, C] each -> as the leaf's, of so many tokens."""
        return self.leaf(*(x[:, : self.count] for x in operands))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FirstContext:
    """The mean of the values for the first of some queries."""

    leaf: Any

    def __call__(self, weights: tuple[jax.Array, jax.Array], value: jax.Array) -> jax.Array:
        """As the leaf's, but int32 [B, 1, H * D]."""
        return self.leaf(weights, value)[:, :1]
