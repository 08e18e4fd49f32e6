"""Whole stages of an encoder layer as single kernels, for platforms where memory is the limit.

The graph of a layer is made of leaves that each turn arrays into arrays. Between some of them the
arrays are large and short-lived: a linear layer's int32 accumulators, attention's scores. Fused
leaves take their places (``fuse_leaves``) and hand on a *pending* value (``frozen.pending``) that
remembers what it is to be computed from; the activation that reads it computes all in one kernel.
The graph is untouched, and every number comes from the leaves' own arithmetic: the kernels of
``integer.pallas_linear`` and ``pallas_attention`` are given the leaves as their epilogues.

Query and key, which read the same operand, are one product; the values are one with the channels
first, as attention reads them. LayerNorm, which passes over its rows several times, is one kernel
with the residual sum before it and, where an 8-bit copy follows in the layer, that; the product of
such a sum is XLA's. Whatever else reads a pending value settles it: it is computed leaf by leaf, as
without fusion.

Kernels requantize by folded constants (``frozen.folding``), which stand in one array a layer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from ibert_jax.frozen.folding import FoldedLeaf, has_bias, in_kernel
from ibert_jax.frozen.network import encoder_layers, integer_leaves, put_leaf
from ibert_jax.frozen.pending import (
    Normalized,
    PendingContext,
    PendingLinear,
    PendingScores,
    PendingSlice,
    PendingSum,
    PendingWeights,
    Transposed,
    copied,
    settled,
    unless_in_place,
)
from ibert_jax.layers.activation import IntegerAct, IntegerPass
from ibert_jax.layers.attention import IntegerContext, IntegerScores
from ibert_jax.layers.dropout import IntegerDropout
from ibert_jax.layers.gelu import IntegerGELU
from ibert_jax.layers.layernorm import IntegerLayerNorm
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.layers.softmax import IntegerSoftmax
from ibert_jax.models.encoder import IBertEncoder

PALLAS, INTERPRETED = FUSING = ("pallas", "pallas-interpreted")
"""``pallas``: the fused kernels on NVIDIA GPUs; on other platforms everything is settled.
``pallas-interpreted``: the fused kernels anywhere, run by Pallas' interpreter, slowly, for tests.
"""


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
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            for layer in encoder_layers(module):
                if attention:
                    _join_projections(layer.attention.self, kernels)
                _copy_when_normalized(layer, kernels)
                for path, leaf in integer_leaves(layer).items():
                    put_leaf(layer, path, nnx.data(_fused(leaf, kernels, attention)))
            if module.stacked is not None:
                module.stacked = nnx.data(_placed(module.stacked, module.depth))
    for path, leaf in integer_leaves(network).items():
        if isinstance(leaf, IntegerLayerNorm):  # outside of layers
            put_leaf(network, path, nnx.data(FusedLayerNorm(_unfolded(leaf), None, kernels)))


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
    plain = _plain(leaf)
    if isinstance(leaf, IntegerPass | IntegerDropout | ALREADY):  # which hand anything on
        return leaf
    if isinstance(plain, IntegerScores | IntegerSoftmax | IntegerContext) and not attention:
        return Settling(plain)
    if isinstance(plain, IntegerAct):
        return FusedAct(leaf, kernels)
    if isinstance(leaf, IntegerLayerNorm):
        return FusedLayerNorm(_unfolded(leaf), None, kernels)
    return FUSED.get(type(plain), Settling)(leaf)


def _unfolded(leaf: Any) -> FoldedLeaf:
    """A leaf that kernels compute as it is."""
    return FoldedLeaf(leaf, leaf, with_bias=False)


def _plain(leaf: Any) -> Any:
    return leaf.leaf if isinstance(leaf, FoldedLeaf) else leaf


def _join_projections(attention: Any, kernels: str) -> None:
    """Let query and key be one product, where they are alike but for their numbers.

    The values are another, with the channels first.
    """
    names = ("query", "key", "value")
    projections = [getattr(attention, name) for name in names]
    acts = [getattr(attention, f"{name}_activation") for name in names]
    plain = [_plain(act) for act in acts]
    alike = all(isinstance(act, IntegerAct) and len(act.multipliers) == 1 for act in plain)
    usual = all(
        isinstance(leaf, IntegerLinear) and hasattr(leaf.weight, "shape") for leaf in projections
    )
    if not alike or not usual or len({act.bits for act in plain}) > 1:
        return
    shape = projections[0].weight.shape[:-1]  # of a value a channel, for every layer of a stack
    *first, value_act = acts
    act: Any = IntegerAct(
        (_joined([act.multipliers[0] for act in plain[:-1]], shape),), plain[0].bits
    )
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


def _copy_when_normalized(layer: Any, kernels: str) -> None:
    """Let attention's LayerNorm make the 8-bit copy that the feed-forward reads."""
    block, copy = layer.attention.output, layer.pre_intermediate_act
    if (
        isinstance(block.LayerNorm, IntegerLayerNorm)
        and isinstance(block.output_activation, IntegerPass)
        and isinstance(_plain(copy), IntegerAct)
        and _plain(copy).bits <= 8
    ):
        block.LayerNorm = nnx.data(FusedLayerNorm(_unfolded(block.LayerNorm), copy, kernels))
        layer.pre_intermediate_act = nnx.data(TakeCopy(copy))


# ------------------------------------------------------------------------------- fused leaves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settling:
    """A leaf that settles what it reads."""

    leaf: Any

    def __call__(self, *operands: Any) -> Any:
        return self.leaf(*map(settled, operands))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedLinear:
    """A linear layer that leaves its product to what reads it."""

    leaf: IntegerLinear

    def __call__(self, q: Any) -> PendingLinear:
        return PendingLinear(settled(q), self.leaf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedGELU:
    """A GELU that becomes part of what it reads."""

    leaf: Any

    def __call__(self, q: Any) -> Any:
        if isinstance(q, PendingLinear) and q.gelu is None:
            return dataclasses.replace(q, gelu=self.leaf)
        return self.leaf(settled(q))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedScores:
    """Attention scores that are left to the context."""

    leaf: IntegerScores

    def __call__(self, query: Any, key: Any) -> PendingScores:
        return PendingScores(unless_in_place(query), unless_in_place(key), self.leaf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedSoftmax:
    """A softmax that is left to the context."""

    leaf: Any

    def __call__(self, scores: Any, mask: jax.Array, heads: jax.Array | None = None) -> Any:
        if isinstance(scores, PendingScores):
            return PendingWeights(scores, mask, heads, self.leaf)
        return self.leaf(scores, mask, heads)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedContext:
    """A context that is left to its activation."""

    leaf: IntegerContext

    def __call__(self, weights: Any, value: Any) -> Any:
        if isinstance(weights, PendingWeights):
            return PendingContext(weights, unless_in_place(value), self.leaf)
        return self.leaf(weights, settled(value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedProjections:
    """Linear layers of one operand, each with its activation, as two kernels.

    Attributes:
        linear: the outputs of all but the values one after the other.
        act: of all of them.
        value: the values.
        value_act: theirs.
        count: how many ``linear`` stands for, equally wide.
    """

    linear: IntegerLinear
    act: Any
    value: IntegerLinear
    value_act: Any
    count: int = dataclasses.field(metadata={"static": True})
    kernels: str = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Any) -> tuple[PendingSlice | Transposed, ...]:
        q = settled(q)
        whole = FusedAct(self.act, self.kernels)(PendingLinear(q, self.linear))
        slices = (PendingSlice(whole, index, self.count) for index in range(self.count))
        values = PendingLinear(q, self.value)

        def fused(values: PendingLinear, act: Any, interpret: bool = False) -> jax.Array:
            return values.fused(act, interpret=interpret, channels_first=True)

        def apart(values: PendingLinear, act: Any) -> jax.Array:
            return jnp.moveaxis(act(values.settle()), -1, 0)

        if self.kernels == INTERPRETED:
            found = fused(values, self.value_act, interpret=True)
        else:
            found = lax.platform_dependent(values, self.value_act, cuda=fused, default=apart)
        return *slices, Transposed(found)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TakeCopy:
    """An activation whose result was computed with what it reads."""

    leaf: Any

    def __call__(self, value: Any) -> jax.Array:
        return value.copy if isinstance(value, Normalized) else self.leaf(settled(value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedAct:
    """An activation that computes what it reads and itself in one kernel."""

    leaf: Any
    kernels: str = dataclasses.field(metadata={"static": True})

    def __call__(self, first: Any, *others: Any) -> Any:
        others = tuple(map(settled, others))
        if isinstance(first, PendingLinear) and others and first.gelu is None:
            return PendingSum(first, others, self.leaf)
        if others or not isinstance(first, PendingLinear | PendingContext):
            return self.leaf(settled(first), *others)
        if self.kernels == INTERPRETED:
            return first.fused(self.leaf, interpret=True)

        def fused(first: Any, leaf: Any) -> jax.Array:
            return first.fused(leaf, interpret=False)

        def apart(first: Any, leaf: Any) -> jax.Array:
            return leaf(first.settle())

        return lax.platform_dependent(first, self.leaf, cuda=fused, default=apart)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedLayerNorm:
    """A LayerNorm in one kernel, its row held in registers.

    Attributes:
        leaf: the LayerNorm.
        copy: what makes an 8-bit copy of its result in the same kernel, or None.
    """

    leaf: FoldedLeaf
    copy: Any
    kernels: str = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Any) -> jax.Array | Normalized:
        def fused(q: Any, norm: FusedLayerNorm, interpret: bool = False) -> tuple[jax.Array, ...]:
            if isinstance(q, PendingSum):
                return q.normalized(norm.leaf, norm.copy, interpret=interpret)
            from ibert_jax.integer.pallas_layernorm import fused_normalize

            return fused_normalize(
                (q,),
                in_kernel(norm.leaf).eps_mantissa,
                in_kernel(norm.leaf).eps_exponent,
                after=None if norm.copy is None else copied,
                after_constants=in_kernel(norm.copy),
                interpret=interpret,
            )

        def apart(q: Any, norm: FusedLayerNorm) -> tuple[jax.Array, ...]:
            whole = norm.leaf(settled(q))
            return (whole,) if norm.copy is None else (whole, norm.copy(whole))

        q = q if isinstance(q, PendingSum) else settled(q)
        if self.kernels == INTERPRETED:
            found = fused(q, self, interpret=True)
        else:
            found = lax.platform_dependent(q, self, cuda=fused, default=apart)
        return found[0] if self.copy is None else Normalized(*found)


ALREADY = FusedLayerNorm | FusedProjections | TakeCopy
"""Leaves that were put where they are with their neighbours."""
FUSED: dict[type, Any] = {
    IntegerContext: FusedContext,
    IntegerGELU: FusedGELU,
    IntegerLinear: FusedLinear,
    IntegerScores: FusedScores,
    IntegerSoftmax: FusedSoftmax,
}
