"""The encoder: a stack of layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.gelu import IntGELU
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.models import layer_stack
from ibert_jax.models.attention import IBertAttention, IBertSelfOutput
from ibert_jax.quantize.schemes import SCHEMES


class IBertIntermediate(nnx.Module):
    """The feed-forward's first half."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.intermediate_size
        self.dense = QuantLinear(
            config.hidden_size, size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.intermediate_act_fn = IntGELU(
            config.quantization.momentum, in_float=config.keeps_float("gelu")
        )
        self.output_activation = QuantAct(
            forms["intermediate_output"], size, config.quantization.momentum
        )

    def __call__(self, x: Any) -> Any:
        """Tensor [B, T, C] -> [B, T, F]."""
        return self.output_activation(self.intermediate_act_fn(self.dense(x)))


class IBertLayer(nnx.Module):
    """One encoder layer.

    The residual stream is what LayerNorm left (the ``channel`` scheme) or the 8-bit operand
    of the matmul (the ``reference`` scheme, as published).
    """

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, momentum = SCHEMES[config.quantization.scheme], config.quantization.momentum
        size = config.hidden_size
        self.narrow_residual = config.quantization.scheme == "reference"
        self.migration = config.quantization.layernorm_migration
        self.input_act = QuantAct(forms["layer_input"], size, momentum)
        self.attention = IBertAttention(config, rngs=rngs)
        self.pre_intermediate_act = QuantAct(forms["intermediate_input"], size, momentum)
        self.intermediate = IBertIntermediate(config, rngs=rngs)
        self.pre_output_act = QuantAct(forms["output_input"], config.intermediate_size, momentum)
        self.output = IBertSelfOutput(config, config.intermediate_size, "layer_output", rngs=rngs)

    def __call__(
        self, hidden: Any, mask: jax.Array, rngs: nnx.Rngs | None, heads: Any = None
    ) -> tuple[Any, Any]:
        """Tensor [B, T, C], bool mask [B, T], heads [H] -> tensor [B, T, C], weights [B, H, T, T].

        ``heads`` is 1 where a head counts; None, all do.
        """
        x = self.input_act(hidden)
        residual = x if self.narrow_residual else hidden
        attended, weights = self.attention(x, residual, mask, rngs, heads)
        x = self.pre_intermediate_act(attended)
        residual = x if self.narrow_residual else attended
        x = self.pre_output_act(self.intermediate(x))
        return self.output(x, residual, rngs), weights

    def balance(self) -> None:
        """Choose the channel factors of the two matmul inputs that follow a LayerNorm."""
        attention = self.attention.self
        self.input_act.balance_for(
            [attention.query, attention.key, attention.value], self.migration
        )
        self.pre_intermediate_act.balance_for([self.intermediate.dense], self.migration)


class IBertEncoder(nnx.Module):
    """``num_hidden_layers`` layers, one after the other.

    A frozen encoder is *stacked* (see ``layer_stack``): one layer that a scan runs, so that what
    is compiled is one layer however deep the network. (In training a scan saves no compilation
    worth having, and its steps take a fifth longer.)
    """

    last: Any = None
    """The last layer, where it computes otherwise than those before it (``frozen.first_token``)."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        self.depth = config.num_hidden_layers
        self.heads = config.num_attention_heads
        self.layer = nnx.List([IBertLayer(config, rngs=rngs) for _ in range(self.depth)])
        self.stacked: IBertLayer | None = nnx.data(None)

    def __call__(
        self,
        hidden: Any,
        mask: jax.Array,
        rngs: nnx.Rngs | None,
        *,
        head_mask: jax.Array | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[Any, tuple[Any, ...] | None, tuple[Any, ...] | None]:
        """Run every layer.

        Args:
            hidden: tensor [B, T, C], the embeddings.
            mask: bool [B, T].
            rngs: dropout keys, needed in training mode only.
            head_mask: [H] or [L, H], 1 where a head counts (in the float life, its weight).
            output_attentions, output_hidden_states: whether to return them.

        Returns:
            The last hidden state; the embeddings and every layer's output, or None; every
            layer's attention weights, or None.
        """
        heads = None if head_mask is None else jnp.broadcast_to(head_mask, (self.depth, self.heads))

        def run(hidden: Any, layer_and_heads: tuple[IBertLayer, Any]) -> tuple[Any, Any]:
            layer, kept = layer_and_heads
            hidden, weights = layer(hidden, mask, rngs, kept)
            return hidden, (
                hidden if output_hidden_states else None,
                weights if output_attentions else None,
            )

        last, emitted = hidden, []
        if self.stacked is not None:
            depth = self.depth - (self.last is not None)
            rows, layer_of = layer_stack.turns(self.stacked, depth)
            scanned = rows, None if heads is None else heads[:depth]
            last, stacked = jax.lax.scan(
                lambda hidden, row: run(hidden, (layer_of(row[0]), row[1])), hidden, scanned
            )
            emitted = [_row(stacked, index) for index in range(depth)]
        apart = [*self.layer] if self.last is None else [self.last]
        for index, layer in enumerate(apart, start=len(emitted)):
            last, wanted = run(last, (layer, _row(heads, index)))
            emitted.append(wanted)
        states, attentions = ([layer[which] for layer in emitted] for which in (0, 1))
        return (
            last,
            (hidden, *states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    def stack(self, layers: list[IBertLayer]) -> None:
        """Replace the layers by one of stacked arrays; all must have one structure, of integers."""
        self.depth = len(layers)
        self.stacked = nnx.data(layer_stack.stack(layers))
        self.layer = nnx.List([])

    def unstack(self) -> None:
        """The inverse of ``stack``."""
        if self.stacked is not None:
            self.layer = nnx.List(layer_stack.unstack(self.stacked))
            self.stacked = nnx.data(None)


def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda array: array[index], tree)
