"""Token, type and position embeddings."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.quantize.schemes import SCHEMES


def position_ids_from_input_ids(input_ids: Any, padding_idx: int) -> Any:
    """RoBERTa's positions: tokens so far + ``padding_idx``; ``padding_idx`` where padded.

    Args:
        input_ids: int32 [B, T], of NumPy or JAX.

    Returns:
        int32 [B, T], of the same.
    """
    present = (input_ids != padding_idx).astype(np.int32)
    positions = present.cumsum(axis=1, dtype=np.int32) * present + padding_idx
    # On GPUs XLA would fuse the sum into what reads it, and count again for each channel.
    return lax.optimization_barrier(positions) if isinstance(positions, jax.Array) else positions


class IBertEmbeddings(nnx.Module):
    """Sum of three tables, normalized: what enters the encoder."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum, spread = config.quantization.momentum, config.initializer_range
        norm_in_float = config.keeps_float("layernorm")

        def table(rows: int, padding_idx: int | None = None) -> QuantEmbedding:
            return QuantEmbedding(
                rows,
                size,
                initializer_range=spread,
                per_row=config.quantization.scheme != "reference",  # published: one scale a table
                padding_idx=padding_idx,
                rngs=rngs,
            )

        self.word_embeddings = table(config.vocab_size, config.pad_token_id)
        self.token_type_embeddings = table(config.type_vocab_size)
        self.position_embeddings = table(config.max_position_embeddings, config.pad_token_id)
        self.embeddings_act1 = QuantAct(forms["embedding_sum"], size, momentum)
        self.LayerNorm = IntLayerNorm(size, config.layer_norm_eps, in_float=norm_in_float)
        self.output_activation = QuantAct(forms["embedding_output"], size, momentum)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def __call__(
        self,
        input_ids: jax.Array | None,
        inputs_embeds: Any,
        token_type_ids: jax.Array,
        position_ids: jax.Array,
        rngs: nnx.Rngs | None,
    ) -> Any:
        """int32 ids [B, T], or rows [B, T, C] in place of the words' -> tensor [B, T, C]."""
        table = self.word_embeddings
        total = self.embeddings_act1(
            table.rows(inputs_embeds) if input_ids is None else table(input_ids),
            self.token_type_embeddings(token_type_ids),
            self.position_embeddings(position_ids),
        )
        return self.dropout(self.output_activation(self.LayerNorm(total)), rngs)
