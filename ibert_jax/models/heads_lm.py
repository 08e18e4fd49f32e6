"""Masked language modelling: a score for every vocabulary entry, at every token or at some."""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.decoder import QuantDecoder
from ibert_jax.layers.gelu import IntGELU
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.models.heads import IBertHeadModel, token_loss
from ibert_jax.models.inputs import Array, EncoderArguments, Life, as_array, as_int32
from ibert_jax.models.outputs import MaskedLMOutput
from ibert_jax.quantize.schemes import SCHEMES
from ibert_jax.quantize.tensor import QuantizedTensor, value_of


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
    own_arguments = ("scored_tokens",)

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.lm_head = IBertLMHead(config, rngs=rngs)

    @classmethod
    def prepared(
        cls, config: IBertConfig, life: Life, *, scored_tokens: Any = None, **arguments: Any
    ) -> dict[str, Array]:
        """The arguments of a call by name, checked, with defaults filled in."""
        inputs = super().prepared(config, life, **arguments)
        if scored_tokens is not None:
            tokens = as_array(scored_tokens)
            checks.check_scored_tokens(tokens, inputs["attention_mask"].shape)
            inputs["scored_tokens"] = tokens.astype(np.int32)
        return inputs

    def __call__(
        self,
        input_ids: Any = None,
        *,
        scored_tokens: Any = None,
        labels: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Score the vocabulary at every token, or at some.

        Args:
            input_ids, arguments, return_dict, rngs: see ``IBertModel``.
            scored_tokens: integers [B, S] in [0, T), which tokens of each example are scored; all
                if None. A vocabulary's scores take a third of the time, and most of the memory,
                so who asks for a few masks does well to say which.
            labels: integers [B, T], [B, S] with ``scored_tokens``, in [0, vocab_size) or -100
                (ignored).

        Returns:
            ``MaskedLMOutput``, or its tuple; logits [B, T, vocab_size] or [B, S, vocab_size].
        """
        hidden = self.encode(input_ids, arguments, rngs)
        states = hidden.last_hidden_state
        if scored_tokens is not None:
            tokens = as_array(scored_tokens)
            checks.check_scored_tokens(tokens, states.shape[:2])
            states = at_tokens(states, as_int32(tokens))
        logits = self.lm_head(states, self.get_input_embeddings())
        hint = f"the vocabulary has {self.config.vocab_size} entries"
        loss = None if labels is None else token_loss(value_of(logits), labels, hint)
        output = MaskedLMOutput(loss, logits, hidden.hidden_states, hidden.attentions)
        return self.returned(output, return_dict)


def at_tokens(states: Any, tokens: jax.Array) -> Any:
    """Tensor [B, T, C] and int32 [B, S], in range by contract -> [B, S, C]."""
    rows = jnp.arange(tokens.shape[0], dtype=jnp.int32)[:, None]

    def picked(array: jax.Array) -> jax.Array:
        return array.at[rows, tokens].get(mode="clip")

    if isinstance(states, QuantizedTensor):
        return dataclasses.replace(states, q=picked(states.q), value=picked(states.value))
    return picked(states)
