"""Whole stages of an encoder layer as single kernels, for platforms where memory is the limit.

The graph of a layer is made of leaves that each turn arrays into arrays. Between some of them the
arrays are large and short-lived: a linear layer's int32 accumulators, attention's scores. Fused
leaves take their places (``fuse_leaves``) and hand on a *pending* value (``frozen.pending``) that
remembers what it is to be computed from; the activation that reads it computes all in one kernel.
The graph is untouched, and every number comes from the leaves' own arithmetic: the kernels of
``integer.pallas_linear`` and ``pallas_attention`` are given the leaves as their epilogues.

Query and key, which read the same operand, are one product; the values are one with the channels
first, as attention reads them. LayerNorm, which passes over its rows several times, is one kernel
with the residual sum before it and the 8-bit copy after it (``frozen.copies``); the product of such
a sum is XLA's. The LayerNorm of the embeddings looks its rows up, too. Whatever else reads a
pending value settles it: it is computed leaf by leaf, as without fusion.

Kernels requantize by folded constants (``frozen.folding``), which stand in one array a layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.frozen.copies import (
    CopyingEncoder,
    copy_for_next_layer,
    copy_of_embeddings,
    copy_within,
)
from ibert_jax.frozen.folding import FoldedLeaf, folded_as_is, has_bias, plain
from ibert_jax.frozen.fused_leaves import (
    FusedAct,
    FusedContext,
    FusedGELU,
    FusedLayerNorm,
    FusedLinear,
    FusedProjections,
    FusedScores,
    FusedSoftmax,
    Settling,
    TakeCopy,
)
from ibert_jax.frozen.network import encoder_layers, integer_leaves, put_leaf
from ibert_jax.layers.activation import IntegerAct, IntegerPass
from ibert_jax.layers.attention import IntegerContext, IntegerScores
from ibert_jax.layers.dropout import IntegerDropout
from ibert_jax.layers.gelu import IntegerGELU
from ibert_jax.layers.layernorm import IntegerLayerNorm
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.layers.softmax import IntegerSoftmax
from ibert_jax.models.embeddings import IBertEmbeddings
from ibert_jax.models.encoder import IBertEncoder

ALREADY = FusedLayerNorm | FusedProjections | TakeCopy
"""Leaves that were put where they are with their neighbours."""
FUSED: dict[type, Any] = {
    IntegerContext: FusedContext,
    IntegerGELU: FusedGELU,
    IntegerLinear: FusedLinear,
    IntegerScores: FusedScores,
    IntegerSoftmax: FusedSoftmax,
}


def check_pallas() -> None:
    """Refuse, in a sentence, a JAX without what the kernels are compiled by.

    They are traced on every platform, and chosen when it is known which one it is.
    """
    try:
        from ibert_jax.integer import pallas_attention, pallas_layernorm, pallas_linear  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the fused kernels need Pallas' Triton backend, which JAX {jax.__version__} does not "
            f"have ({error}); run the program by kernels 'xla'"
        ) from None


def fuse_leaves(network: nnx.Module, kernels: str, *, attention: bool = True) -> None:
    """Put fused leaves in the places of the encoder's integer leaves, in place.

    Args:
        network: of integer leaves, stacked or not.
        kernels: one of ``FUSING``.
        attention: whether attention is fused too, which then has no weights to return.
    """
    for path, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            first = copy_for_next_layer(module, kernels)
            for layer in encoder_layers(module):
                if attention:
                    _join_projections(layer.attention.self, kernels)
                copy_within(layer, kernels)
                for place, leaf in integer_leaves(layer).items():
                    put_leaf(layer, place, nnx.data(_fused(leaf, kernels, attention)))
            if module.stacked is not None:
                module.stacked = nnx.data(_placed(module.stacked, module.depth))
            if first is not None:
                for _, other in list(nnx.iter_modules(network)):
                    if isinstance(other, IBertEmbeddings):
                        copy_of_embeddings(other, first, kernels)
                put_leaf(network, ".".join(map(str, path)), CopyingEncoder(module, first))
    for path, leaf in integer_leaves(network).items():
        if isinstance(leaf, IntegerLayerNorm):  # outside of layers
            put_leaf(network, path, nnx.data(FusedLayerNorm(folded_as_is(leaf), None, kernels)))


def _placed(stacked: Any, depth: int) -> Any:
    """A stack of layers with the constants of its kernels in one array."""
    from ibert_jax.integer.pallas_constants import place

    leaves, structure = jax.tree.flatten(stacked, is_leaf=_is_folded)
    arrays = [leaf.in_kernel for leaf in leaves if _is_folded(leaf)]
    flat, shape = jax.tree.flatten(arrays)
    placed = iter(jax.tree.unflatten(shape, place(flat, "layer", (depth,))))
    leaves = [
        dataclasses.replace(leaf, in_kernel=next(placed)) if _is_folded(leaf) else leaf
        for leaf in leaves
    ]
    return jax.tree.unflatten(structure, leaves)


def _is_folded(node: Any) -> bool:
    return isinstance(node, FoldedLeaf)


def _fused(leaf: Any, kernels: str, attention: bool) -> Any:
    own = plain(leaf)
    if isinstance(leaf, IntegerPass | IntegerDropout | ALREADY):  # which hand anything on
        return leaf
    if isinstance(own, IntegerScores | IntegerSoftmax | IntegerContext) and not attention:
        return Settling(own)
    if isinstance(own, IntegerAct):
        return FusedAct(leaf, kernels)
    if isinstance(leaf, IntegerLayerNorm):
        return FusedLayerNorm(folded_as_is(leaf), None, kernels)
    return FUSED.get(type(own), Settling)(leaf)


def _join_projections(attention: Any, kernels: str) -> None:
    """Let query and key be one product, where they are alike but for their numbers.

    The values are another, with the channels first.
    """
    names = ("query", "key", "value")
    projections = [getattr(attention, name) for name in names]
    acts = [getattr(attention, f"{name}_activation") for name in names]
    own = [plain(act) for act in acts]
    alike = all(isinstance(act, IntegerAct) and len(act.multipliers) == 1 for act in own)
    usual = all(
        isinstance(leaf, IntegerLinear) and hasattr(leaf.weight, "shape") for leaf in projections
    )
    if not alike or not usual or len({act.bits for act in own}) > 1:
        return
    shape = projections[0].weight.shape[:-1]  # of a value a channel, for every layer of a stack
    *first, value_act = acts
    act: Any = IntegerAct((_joined([act.multipliers[0] for act in own[:-1]], shape),), own[0].bits)
    if all(isinstance(act, FoldedLeaf) for act in first):
        folded = _joined([act.in_kernel.multipliers[0] for act in first], shape)
        in_kernels = dataclasses.replace(act, multipliers=(folded,))
        act = FoldedLeaf(act, in_kernels, has_bias(first[0]))
    linear = IntegerLinear(
        jnp.concatenate([leaf.weight for leaf in projections[:-1]], axis=-2),
        *(
            jnp.concatenate([getattr(leaf, name) for leaf in projections[:-1]], axis=-1)
            for name in ("bias", "shifted_bias")
        ),
    )
    attention.query = nnx.data(
        FusedProjections(linear, act, projections[-1], value_act, len(first), kernels)
    )
    attention.key = attention.value = nnx.data(None)
    for name in names:
        setattr(attention, f"{name}_activation", nnx.data(IntegerPass()))


def _joined(multipliers: list[Any], shape: tuple[int, ...]) -> Any:
    """Multipliers of one kind as that of their channels one after the other."""

    def row(constant: jax.Array) -> jax.Array:
        """A scalar as a value a channel."""
        return jnp.broadcast_to(constant.reshape(*shape[:-1], -1), shape)

    def joined(values: list[Any]) -> Any:
        if all(value is None for value in values):
            return None
        rows = [jnp.zeros(shape, jnp.int32) if value is None else row(value) for value in values]
        return jnp.concatenate(rows, axis=-1)

    kind = type(multipliers[0])
    return kind(
        **{
            field.name: joined([getattr(each, field.name) for each in multipliers])
            for field in dataclasses.fields(kind)
        }
    )
