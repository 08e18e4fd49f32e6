"""8-bit copies of what a LayerNorm leaves, made in its kernel for those that read them.

The feed-forward reads the LayerNorm after attention in 8 bits, the next layer the one after the
feed-forward: by itself a pass over memory, 50 MB in and 13 out at 128 x 128 tokens of RoBERTa-base,
where the kernel that normalizes (``frozen.fused``) writes 13 more.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.frozen.folding import folded_as_is, plain
from ibert_jax.frozen.fused_leaves import FusedEmbedding, FusedLayerNorm, FusedRowSum, TakeCopy
from ibert_jax.frozen.pending import Normalized, settled
from ibert_jax.layers.activation import IntegerAct, IntegerPass
from ibert_jax.layers.embedding import IntegerEmbedding
from ibert_jax.layers.layernorm import IntegerLayerNorm
from ibert_jax.models.embeddings import IBertEmbeddings
from ibert_jax.models.encoder import IBertEncoder


def copy_within(layer: Any, kernels: str) -> None:
    """Let attention's LayerNorm make the copy that the feed-forward reads, if it can, in place."""
    block, copy = layer.attention.output, layer.pre_intermediate_act
    if _may_copy(block, copy):
        block.LayerNorm = nnx.data(FusedLayerNorm(folded_as_is(block.LayerNorm), copy, kernels))
        layer.pre_intermediate_act = nnx.data(TakeCopy(copy))


def copy_for_next_layer(encoder: IBertEncoder, kernels: str) -> Any:
    """Let each layer of a stack make the copy that the next one reads, if it can, in place.

    Returns:
        What makes the first layer's, of the embeddings, for ``CopyingEncoder``; None if nothing
        was changed.
    """
    layer: Any = encoder.stacked
    if layer is None or not _may_copy(layer.output, layer.input_act):
        return None
    # The last layer makes one that nobody reads: layers of a stack are alike.
    following = jax.tree.map(lambda constants: jnp.roll(constants, -1, axis=0), layer.input_act)
    first = jax.tree.map(lambda constants: constants[0], plain(layer.input_act))
    norm = folded_as_is(layer.output.LayerNorm)
    layer.output.LayerNorm = nnx.data(FusedLayerNorm(norm, following, kernels))
    layer.input_act = nnx.data(TakeCopy(layer.input_act))
    return first


def copy_of_embeddings(embeddings: IBertEmbeddings, copy: Any, kernels: str) -> None:
    """Let one kernel make all that enters the first layer, if it can, in place.

    Rows are looked up, added, normalized and requantized in it.

    Args:
        copy: what makes the 8-bit copy, as ``copy_for_next_layer`` returns it.
    """
    module: Any = embeddings
    tables = ("word_embeddings", "token_type_embeddings", "position_embeddings")
    usual = (
        isinstance(module.LayerNorm, IntegerLayerNorm)
        and isinstance(module.embeddings_act1, IntegerAct)
        and isinstance(module.output_activation, IntegerAct | IntegerPass)
        and all(isinstance(getattr(module, name), IntegerEmbedding) for name in tables)
    )
    if not usual:
        return
    act = module.output_activation if isinstance(module.output_activation, IntegerAct) else None
    for name in tables:
        setattr(module, name, nnx.data(FusedEmbedding(getattr(module, name))))
    module.embeddings_act1 = nnx.data(FusedRowSum(module.embeddings_act1))
    module.LayerNorm = nnx.data(FusedLayerNorm(folded_as_is(module.LayerNorm), copy, kernels, act))
    module.output_activation = nnx.data(IntegerPass())


def _may_copy(block: Any, copy: Any) -> bool:
    """Whether what a block ends with is what ``copy`` reads, and 8 bits are what it makes."""
    return (
        isinstance(block.LayerNorm, IntegerLayerNorm)
        and isinstance(block.output_activation, IntegerPass)
        and isinstance(plain(copy), IntegerAct)
        and plain(copy).bits <= 8
    )


class CopyingEncoder(IBertEncoder):
    """An encoder whose layers take and leave a hidden state with its 8-bit copy."""

    def __init__(self, encoder: IBertEncoder, first: Any) -> None:
        self.depth, self.heads = encoder.depth, encoder.heads
        self.layer, self.stacked = encoder.layer, nnx.data(encoder.stacked)
        self.first_copy = nnx.data(first)

    def __call__(self, hidden: Any, *arguments: Any, **options: Any) -> Any:
        """As ``IBertEncoder``: arrays in, arrays out."""
        if not isinstance(hidden, Normalized):
            hidden = Normalized(hidden, self.first_copy(hidden))
        last, states, attentions = super().__call__(hidden, *arguments, **options)
        return settled(last), states and tuple(map(settled, states)), attentions
