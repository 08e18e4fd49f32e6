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
from ibert_jax.models.attention import IBertAttention, IBertSelfOutput
from ibert_jax.quantize.schemes import SCHEMES


class IBertIntermediate(nnx.Module):
    """The feed-forward's first half."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.intermediate_size
        self.dense = QuantLinear(
            config.hidden_size, size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.intermediate_act_fn = IntGELU(config.quantization.momentum)
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

    def __call__(self, hidden: Any, mask: jax.Array, rngs: nnx.Rngs | None) -> tuple[Any, Any]:
        """Tensor [B, T, C], bool mask [B, T] -> tensor [B, T, C], weights [B, H, T, T]."""
        x = self.input_act(hidden)
        attended, weights = self.attention(x, x if self.narrow_residual else hidden, mask, rngs)
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

    A frozen encoder is *stacked*: one layer whose arrays have a leading axis of layers, run by
    a scan, so that what is compiled is one layer however deep the network.
    """

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        self.layer = nnx.List(
            [IBertLayer(config, rngs=rngs) for _ in range(config.num_hidden_layers)]
        )
        self.stacked: IBertLayer | None = nnx.data(None)

    def __call__(
        self, hidden: Any, mask: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        """Last hidden state, every layer's input and output, every layer's weights."""
        if self.stacked is not None:
            return self._scan(hidden, mask)
        states, attentions = [hidden], []
        for layer in self.layer:
            hidden, weights = layer(hidden, mask, rngs)
            states.append(hidden)
            attentions.append(weights)
        return hidden, tuple(states), tuple(attentions)

    def stack(self, layers: list[IBertLayer]) -> None:
        """Replace the layers by one of stacked arrays; all must have one structure."""
        self.stacked = nnx.data(jax.tree.map(lambda *arrays: jnp.stack(arrays), *layers))
        self.layer = nnx.List([])

    def _scan(self, hidden: Any, mask: jax.Array) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
        def step(hidden: Any, layer: IBertLayer) -> tuple[Any, None]:
            return layer(hidden, mask, None)[0], None

        hidden, _ = jax.lax.scan(step, hidden, self.stacked)
        return hidden, (), ()
