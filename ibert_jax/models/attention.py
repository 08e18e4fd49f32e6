"""Self-attention and its output projection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.attention import AttentionContext, AttentionScores
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.layers.softmax import IntSoftmax
from ibert_jax.quantize.schemes import SCHEMES


class IBertSelfAttention(nnx.Module):
    """Multi-head attention up to the quantized context."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum, heads = config.quantization.momentum, config.num_attention_heads

        def projection() -> QuantLinear:
            return QuantLinear(size, size, initializer_range=config.initializer_range, rngs=rngs)

        self.query, self.key, self.value = projection(), projection(), projection()
        self.query_activation = QuantAct(forms["query"], size, momentum)
        self.key_activation = QuantAct(forms["key"], size, momentum)
        self.value_activation = QuantAct(forms["value"], size, momentum)
        self.scores = AttentionScores(heads)
        self.softmax = IntSoftmax(
            size // heads, config.quantization.scheme, in_float=config.keeps_float("softmax")
        )
        self.dropout = Dropout(config.attention_probs_dropout_prob)
        self.context = AttentionContext(heads, in_float=config.keeps_float("softmax"))
        self.output_activation = QuantAct(forms["context"], size, momentum)

    def __call__(
        self, x: Any, mask: jax.Array, rngs: nnx.Rngs | None, heads: Any = None
    ) -> tuple[Any, Any]:
        """Tensor [B, T, C], bool mask [B, T] -> context [B, T, C], weights [B, H, T, T]."""
        activations = self.query_activation, self.key_activation, self.value_activation
        query, key, value = (
            activation(projection)
            for activation, projection in zip(activations, self._projections(x), strict=True)
        )
        weights = self.softmax(self.scores(query, key), mask[:, None, None, :], heads)
        context = self.context(self.dropout(weights, rngs), value)
        return self.output_activation(context), weights

    def _projections(self, x: Any) -> Iterator[Any]:
        """Query, key and value; in a frozen network they may be one leaf (``frozen.packing``)."""
        if self.key is None:
            yield from self.query(x)
        else:
            yield from (leaf(x) for leaf in (self.query, self.key, self.value))


class IBertSelfOutput(nnx.Module):
    """Projection, residual sum, LayerNorm: after attention and after the feed-forward."""

    def __init__(self, config: IBertConfig, in_features: int, role: str, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum = config.quantization.momentum
        norm_in_float = config.keeps_float("layernorm")
        self.dense = QuantLinear(
            in_features, size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.ln_input_act = QuantAct(forms["residual_sum"], size, momentum)
        self.LayerNorm = IntLayerNorm(size, config.layer_norm_eps, in_float=norm_in_float)
        self.output_activation = QuantAct(forms[role], size, momentum)

    def __call__(self, x: Any, residual: Any, rngs: nnx.Rngs | None) -> Any:
        """Tensors [B, T, K] and [B, T, C] -> [B, T, C]."""
        total = self.ln_input_act(self.dropout(self.dense(x), rngs), residual)
        return self.output_activation(self.LayerNorm(total))


class IBertAttention(nnx.Module):
    """Self-attention with its output block."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        self.self = IBertSelfAttention(config, rngs=rngs)
        self.output = IBertSelfOutput(config, config.hidden_size, "attention_output", rngs=rngs)

    def __call__(
        self, x: Any, residual: Any, mask: jax.Array, rngs: nnx.Rngs | None, heads: Any = None
    ) -> tuple[Any, Any]:
        context, weights = self.self(x, mask, rngs, heads)
        return self.output(context, residual, rngs), weights
