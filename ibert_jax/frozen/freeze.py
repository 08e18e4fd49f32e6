"""From the quantization-aware life to the integer one."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.checks import check_model
from ibert_jax.frozen.network import replace_leaves, stack_layers
from ibert_jax.frozen.program import EMBEDS, IntegerModel
from ibert_jax.frozen.states import StateScales
from ibert_jax.integer.dyadic import Multiplier
from ibert_jax.layers.activation import IntegerAct, of_one_structure
from ibert_jax.layers.leaf import check_calibrated, check_finite, recorded, set_life
from ibert_jax.layers.widths import set_widths
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.tensor import QuantizedTensor


def freeze(model: IBertPreTrainedModel) -> IntegerModel:
    """The integer model of a calibrated one.

    The quantization-aware forward pass runs once, and every leaf hands over the integer leaf
    it computed with; the graph around them stays the same. ``model`` is not changed.

    Raises:
        ValueError: parameters or ranges that are not finite, activation ranges that were never
            calibrated, by name; overrides of bits that change nothing.
        TypeError: what is no model.
    """
    check_model(model)
    check_finite(model)
    check_calibrated(model.leaves())
    network = nnx.clone(model)
    set_widths(network, model.config.quantization)
    set_life(network, quantized=True, observing=False, deterministic=True, recording=True)
    leaves, scales, states = jax.device_get(_record(network))
    leaves = _alike(leaves)
    config = dataclasses.replace(model.config, quant_mode=True)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, IBertPreTrainedModel):
            module.config = config
    replace_leaves(network, {path: _without_idle_shifts(leaves, path) for path in leaves})
    stack_layers(network)
    scales = {name: float(scale) for name, scale in scales.items()}
    return IntegerModel.of(network, config, scales, StateScales(*states))


@jax.jit
def _record(
    network: Any,
) -> tuple[dict[str, Any], dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
    """Every integer leaf by path, the scales of the outputs, those of the hidden states.

    Compiled as one program, of which XLA keeps the constants and drops the forward pass.
    """
    length = min(2, network.config.max_sequence_length)  # nothing that is kept depends on it
    ids = jnp.zeros(network.input_shape(1, length), jnp.int32)
    outputs = network(ids, output_hidden_states=True, output_attentions=False, return_dict=True)
    scales = {
        name: tensor.scale
        for name, tensor in vars(outputs).items()
        if isinstance(tensor, QuantizedTensor)
    }
    scales[EMBEDS] = network.get_input_embeddings().scale()
    shape = (network.config.hidden_size,)
    states = [
        (jnp.broadcast_to(state.scale, shape), jnp.broadcast_to(_offset(state), shape))
        for state in outputs.hidden_states
    ]
    scale, offset = (jnp.stack(arrays) for arrays in zip(*states, strict=True))
    return recorded(network), scales, (scale, offset)


def _offset(tensor: QuantizedTensor) -> jax.Array:
    return jnp.float32(0) if tensor.offset is None else tensor.offset


def _alike(leaves: dict[str, Any]) -> dict[str, Any]:
    """The integer leaves, activations of different widths at one place made of one structure."""
    acts = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, IntegerAct)}
    places: dict[str, list[str]] = {}
    for path in acts:
        places.setdefault(_place(path), []).append(path)
    made = {
        path: act
        for paths in places.values()
        for path, act in zip(paths, of_one_structure(acts[p] for p in paths), strict=True)
    }
    return {**leaves, **made}


def _without_idle_shifts(leaves: dict[str, Any], path: str) -> Any:
    """The integer leaf at ``path``, its left shifts left out where none of its kind shifts.

    Its kind: the leaves at the same place of every layer, which must keep one structure.
    """
    kind = [leaf for other, leaf in leaves.items() if _place(other) == _place(path)]

    def shifts(node: Any) -> bool:
        return isinstance(node, Multiplier) and bool(np.any(node.pre))

    def is_multiplier(node: Any) -> bool:
        return isinstance(node, Multiplier)

    if not any(map(shifts, jax.tree.leaves(kind, is_leaf=is_multiplier))):
        return jax.tree.map(
            lambda n: dataclasses.replace(n, pre=None) if is_multiplier(n) else n,
            leaves[path],
            is_leaf=is_multiplier,
        )
    return leaves[path]


def _place(path: str) -> str:
    return ".".join("*" if step.isdigit() else step for step in path.split("."))
