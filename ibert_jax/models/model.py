"""The encoder with its embeddings and, if wanted, its pooler."""

from __future__ import annotations

from typing import Any

from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.models.embeddings import IBertEmbeddings
from ibert_jax.models.encoder import IBertEncoder
from ibert_jax.models.inputs import encoder_inputs
from ibert_jax.models.outputs import BaseModelOutputWithPooling
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.schemes import SCHEMES


class IBertPooler(nnx.Module):
    """Linear and tanh on the first token."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum = config.quantization.momentum
        self.input_act = QuantAct(forms["head_input"], size, momentum)
        self.dense = QuantLinear(size, size, initializer_range=config.initializer_range, rngs=rngs)
        self.activation = IntTanh()

    def __call__(self, first: Any) -> Any:
        """Tensor [B, C] -> [B, C]."""
        return self.activation(self.dense(self.input_act(first)))


class IBertModel(IBertPreTrainedModel):
    """The encoder: token ids in, hidden states out."""

    head = "model"

    def __init__(
        self, config: IBertConfig, add_pooling_layer: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config)
        forms = SCHEMES[config.quantization.scheme]
        self.embeddings = IBertEmbeddings(config, rngs=rngs)
        self.encoder = IBertEncoder(config, rngs=rngs)
        self.output_act = QuantAct(
            forms["hidden_state"], config.hidden_size, config.quantization.momentum
        )
        self.pooler = nnx.data(IBertPooler(config, rngs=rngs) if add_pooling_layer else None)

    def __call__(
        self,
        input_ids: Any,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> BaseModelOutputWithPooling:
        """Run the encoder.

        Args:
            input_ids: integers [B, T] in [0, vocab_size).
            attention_mask: 0/1 [B, T], 1 where a token counts; all ones if None.
            token_type_ids: integers [B, T] in [0, type_vocab_size); zeros if None.
            position_ids: integers [B, T]; counted from ``input_ids`` if None.
            rngs: dropout keys, needed in training mode only.
        """
        ids, mask, types, positions = encoder_inputs(
            self.config, input_ids, attention_mask, token_type_ids, position_ids
        )
        embedded = self.embeddings(ids, types, positions, rngs)
        hidden, states, attentions = self.encoder(embedded, mask, rngs)
        hidden = self.output_act(hidden)
        pooled = None if self.pooler is None else self.pooler(hidden[:, 0])
        return BaseModelOutputWithPooling(hidden, pooled, states, attentions)
