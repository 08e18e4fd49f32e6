"""The encoder with its embeddings and, if wanted, its pooler."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.integer.compiled import on_device
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.models.embeddings import IBertEmbeddings
from ibert_jax.models.encoder import IBertEncoder
from ibert_jax.models.inputs import Life, encoder_inputs
from ibert_jax.models.outputs import BaseModelOutputWithPoolingAndCrossAttentions
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
    structure = ("add_pooling_layer",)

    def __init__(
        self, config: IBertConfig, add_pooling_layer: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, rngs)
        forms = SCHEMES[config.quantization.scheme]
        self.embeddings = IBertEmbeddings(config, rngs=rngs)
        self.encoder = IBertEncoder(config, rngs=rngs)
        self.output_act = QuantAct(
            forms["hidden_state"], config.hidden_size, config.quantization.momentum
        )
        self.pooler = nnx.data(IBertPooler(config, rngs=rngs) if add_pooling_layer else None)

    def __call__(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **unknown: Any,
    ) -> Any:
        """Run the encoder.

        Args:
            input_ids: integers [B, T] in [0, vocab_size).
            attention_mask: 0/1 [B, T], 1 where a token counts; all ones if None.
            token_type_ids: integers [B, T] in [0, type_vocab_size); zeros if None.
            position_ids: integers [B, T], rows of the table, of which a sequence's first is
                ``pad_token_id + 1``, whatever the checkpoint was; if None counted from there, over
                the ``input_ids`` that are no padding, or over all ``inputs_embeds``.
            head_mask: [H] or [L, H], 1 where an attention head counts and 0 where not (in the
                float life, its weight).
            inputs_embeds: floats [B, T, C] in place of ``input_ids``: rows in place of those of
                the word embeddings. Quantized, they become integers as those rows do, and
                saturate at the table's largest element.
            output_attentions, output_hidden_states, return_dict: whether to return every
                layer's attention weights, every layer's output, and named fields rather than a
                tuple; the configuration's if None.
            rngs: dropout keys, needed in training mode only.

        Returns:
            ``BaseModelOutputWithPoolingAndCrossAttentions``, or a tuple of the last hidden
            state, the pooler's output or None, and the hidden states and attentions asked for.

        Raises:
            ValueError, TypeError: an argument of the wrong shape, dtype or values, or unknown.
        """
        self.refuse_unknown(unknown)
        named = self.option("return_dict", return_dict)
        inputs = encoder_inputs(
            self.config,
            self.life,
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )
        inputs = jax.tree.map(on_device, inputs)
        hidden, states, attentions = self.encoder(
            self.embeddings(
                inputs.input_ids,
                inputs.inputs_embeds,
                inputs.token_type_ids,
                inputs.position_ids,
                rngs,
            ),
            inputs.attention_mask,
            rngs,
            head_mask=inputs.head_mask,
            output_attentions=self.option("output_attentions", output_attentions),
            output_hidden_states=self.option("output_hidden_states", output_hidden_states),
        )
        hidden = self.output_act(hidden)
        if states is not None:
            states = (*states[:-1], hidden)
        pooled = None if self.pooler is None else self.pooler(hidden[:, 0])
        if named:
            return BaseModelOutputWithPoolingAndCrossAttentions(
                hidden, pooled, states, attentions=attentions
            )
        return (hidden, pooled, *(x for x in (states, attentions) if x is not None))

    def get_input_embeddings(self) -> QuantEmbedding:
        """The table of the words."""
        return self.embeddings.word_embeddings

    @property
    def life(self) -> Life:
        """Which of its three lives the network is in."""
        table: Any = self.embeddings.word_embeddings
        if not isinstance(table, QuantEmbedding):
            return "frozen"
        return "quantized" if table.quantized else "float"
