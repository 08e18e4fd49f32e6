"""Masked language modelling: a score for every vocabulary entry at every token."""

from __future__ import annotations

from typing import Any, Unpack

from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.decoder import QuantDecoder
from ibert_jax.layers.gelu import IntGELU
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.models.heads import IBertHeadModel, token_loss
from ibert_jax.models.inputs import EncoderArguments
from ibert_jax.models.outputs import MaskedLMOutput
from ibert_jax.quantize.schemes import SCHEMES
from ibert_jax.quantize.tensor import value_of


class IBertLMHead(nnx.Module):
    """Linear, GELU, LayerNorm, and the word embeddings as the last linear layer."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum = config.quantization.momentum
        norm_in_float = config.keeps_float("layernorm")
        self.input_act = QuantAct(forms["head_input"], size, momentum)
        self.dense = QuantLinear(size, size, initializer_range=config.initializer_range, rngs=rngs)
        self.activation = IntGELU(momentum, in_float=config.keeps_float("gelu"))
        self.ln_input_act = QuantAct(forms["residual_sum"], size, momentum)
        self.layer_norm = IntLayerNorm(size, config.layer_norm_eps, in_float=norm_in_float)
        self.output_act = QuantAct(forms["decoder_input"], size, momentum)
        self.decoder = QuantDecoder(config.vocab_size)

    def __call__(self, x: Any, table: Any) -> Any:
        """Tensor [B, T, C] and the word embeddings' leaf -> [B, T, vocab_size]."""
        x = self.activation(self.dense(self.input_act(x)))
        return self.decoder(self.output_act(self.layer_norm(self.ln_input_act(x))), table)


class IBertForMaskedLM(IBertHeadModel):
    """What stands where a token was masked."""

    head = "masked_lm"

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.lm_head = IBertLMHead(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Any = None,
        *,
        labels: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Score the vocabulary at every token.

        Args:
            input_ids, arguments, return_dict, rngs: see ``IBertModel``.
            labels: integers [B, T] in [0, vocab_size) or -100 (ignored).

        Returns:
            ``MaskedLMOutput``, or its tuple.
        """
        hidden = self.encode(input_ids, arguments, rngs)
        logits = self.lm_head(hidden.last_hidden_state, self.get_input_embeddings())
        hint = f"the vocabulary has {self.config.vocab_size} entries"
        loss = None if labels is None else token_loss(value_of(logits), labels, hint)
        output = MaskedLMOutput(loss, logits, hidden.hidden_states, hidden.attentions)
        return self.returned(output, return_dict)
