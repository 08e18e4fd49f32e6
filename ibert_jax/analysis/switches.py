"""A network each of whose leaves is quantized or float as a traced flag says.

Floats pass between the leaves. A leaf that is switched on rounds as its integer form does:
weights and activations to their integers and back, nonlinear functions through their integer
kernels. One compilation then serves every choice of leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.frozen.network import wrap_leaves
from ibert_jax.integer.dyadic import align
from ibert_jax.layers.activation import QuantAct, add
from ibert_jax.layers.decoder import QuantDecoder
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.embedding import QuantEmbedding, look_up, quantize_embedding
from ibert_jax.layers.gelu import IntGELU
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.layers.leaf import leaves_of, set_life
from ibert_jax.layers.linear import QuantLinear, linear, quantize_linear
from ibert_jax.layers.softmax import IntSoftmax
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.quantize.constants import scale_of_range
from ibert_jax.quantize.schemes import LAYERNORM_INPUT_BITS
from ibert_jax.quantize.tensor import QuantizedTensor, dequantize, value_of

_ACCUMULATOR_BITS = 24
_KERNELS: dict[type, tuple[str, int]] = {
    IntGELU: ("gelu", _ACCUMULATOR_BITS),
    IntSoftmax: ("softmax", _ACCUMULATOR_BITS),
    IntLayerNorm: ("layernorm", LAYERNORM_INPUT_BITS),
    IntTanh: ("tanh", _ACCUMULATOR_BITS),
}
"""Nonlinear leaf -> its kind, and the bits of the integers that it is given here."""
_TARGETS = ("labels", "start_positions", "end_positions")


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch without what a loss is computed from: here only outputs are looked at."""
    return {name: value for name, value in batch.items() if name not in _TARGETS}


def kind_of(leaf: Any) -> str | None:
    """What a leaf does, in a word; None if it loses nothing (or is not there) when quantized."""
    if isinstance(leaf, QuantAct):
        return None if leaf.form.bits is None else "activation"
    if isinstance(leaf, QuantLinear):
        return "linear"
    if isinstance(leaf, QuantEmbedding | QuantDecoder):
        return "embedding"
    if getattr(leaf, "in_float", False):  # force_dequant
        return None
    return _KERNELS[type(leaf)][0] if type(leaf) in _KERNELS else None


def is_wire(leaf: Any) -> bool:
    """Whether a leaf hands its operand on as it is (dropout is off here)."""
    return isinstance(leaf, Dropout) or (isinstance(leaf, QuantAct) and leaf.form.bits is None)


def switchable(model: nnx.Module) -> dict[str, Any]:
    """The leaves that a flag can switch, by path."""
    return {path: leaf for path, leaf in leaves_of(model).items() if kind_of(leaf) is not None}


def switch_leaves(network: Any, paths: Sequence[str], flags: jax.Array) -> None:
    """Let ``flags`` (bool [N], traced) say which of ``paths`` round; all others are float."""
    set_life(network, quantized=False, observing=False, deterministic=True, recording=False)
    index = {path: place for place, path in enumerate(paths)}

    def wrap(path: str, leaf: Any) -> Any:
        return Switched(leaf, flags[index[path]] if path in index else None)

    wrap_leaves(network, wrap)


class Switched:
    """Stands in a leaf's place; ``flag`` None: the leaf stays float."""

    def __init__(self, leaf: Any, flag: jax.Array | None) -> None:
        self._leaf, self._flag = leaf, flag

    def __call__(self, *operands: Any) -> Any:
        leaf, flag = self._leaf, self._flag
        if is_wire(leaf):
            return operands[0]
        if flag is None:
            return leaf(*(value_of(x) for x in operands))
        if isinstance(leaf, QuantAct):
            return _activation(leaf, flag, [value_of(x) for x in operands])
        if isinstance(leaf, QuantLinear):
            return _linear(leaf, flag, *operands)
        if isinstance(leaf, QuantEmbedding):
            (ids,) = operands
            return look_up(_table(leaf, flag), ids)
        if isinstance(leaf, QuantDecoder):
            x, table = operands
            return linear(value_of(x), _table(getattr(table, "_leaf", table), flag), leaf.bias[...])
        return _kernel(leaf, flag, *operands)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._leaf, name)


def _activation(leaf: QuantAct, flag: jax.Array, values: list[jax.Array]) -> QuantizedTensor:
    """The sum, rounded or not, with the scale for whose sake weights are rounded."""
    assert leaf.form.bits is not None
    highest = 2 ** (leaf.form.bits - 1) - 1
    scale, total = leaf.scale(), add(*values)
    steps = jnp.clip(jnp.round(total / align(scale, total.ndim)), -highest - 1, highest)
    total = jnp.where(flag, steps * align(scale, total.ndim), total)
    return QuantizedTensor(total, scale, total)


def _linear(leaf: QuantLinear, flag: jax.Array, x: QuantizedTensor) -> jax.Array:
    weight, bias = leaf.weight[...], leaf.bias[...]

    def rounded() -> tuple[jax.Array, jax.Array]:
        integer, scale = quantize_linear(weight, bias, x.scale, leaf.bits, leaf.per_channel)
        rows = jnp.broadcast_to(scale, bias.shape)
        columns = jnp.broadcast_to(x.scale, weight.shape[1:])
        floats = integer.weight.astype(jnp.float32) * rows[:, None] / columns[None]
        return floats, integer.bias.astype(jnp.float32) * rows

    return linear(x.value, *lax.cond(flag, rounded, lambda: (weight, bias)))


def _table(leaf: QuantEmbedding, flag: jax.Array) -> jax.Array:
    """The rows of an embedding table, rounded or not: float32 [V, C]."""
    weight = leaf.weight[...]

    def rounded() -> jax.Array:
        integer, scale = quantize_embedding(weight, leaf.bits, leaf.per_row)
        return dequantize(integer(jnp.arange(weight.shape[0])), scale)

    return lax.cond(flag, rounded, lambda: weight)


def _kernel(leaf: Any, flag: jax.Array, x: Any, *others: Any) -> jax.Array:
    """A nonlinear function, by its integer kernel or in float."""
    value, bits = value_of(x), _KERNELS[type(leaf)][1]

    def rounded() -> jax.Array:
        scale = scale_of_range(jnp.max(jnp.abs(value)), bits=bits)
        limit = 2 ** (bits - 1) - 1
        q = jnp.clip(jnp.round(value / scale), -limit, limit).astype(jnp.int32)
        return value_of(leaf(QuantizedTensor(q, scale, value), *others))

    return lax.cond(flag, rounded, lambda: leaf(value, *others))
