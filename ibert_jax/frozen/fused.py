"""Whole stages of an encoder layer as single kernels, for platforms where memory is the limit.

The graph of a layer is made of leaves that each turn arrays into arrays. Between some of them the
arrays are large and short-lived: a linear layer's int32 accumulators, attention's scores. Fused
leaves take their places (``fuse_leaves``) and hand on a *pending* value instead, which remembers
what it is to be computed from; the activation that reads it computes all in one kernel. The graph
is untouched, and every number comes from the leaves' own arithmetic: the kernels of
``integer.pallas_linear`` and ``pallas_attention`` are given the leaves as their epilogues.
LayerNorm, which passes over its rows several times, is a kernel of its own.

Whatever else reads a pending value *settles* it: it is computed leaf by leaf, as without fusion.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax import lax

from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.integer.dyadic import requantize_sum
from ibert_jax.integer.matmul import of_matrix
from ibert_jax.layers.activation import WIDEST_NARROW, IntegerAct, IntegerPass
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


def fuse_leaves(network: nnx.Module, kernels: str, *, attention: bool = True) -> None:
    """Put fused leaves in the places of the encoder's integer leaves, in place.

    Args:
        network: of integer leaves, stacked or not.
        kernels: one of ``FUSING``.
        attention: whether attention is fused too, which then has no weights to return.
    """
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            layers = [*module.layer] if module.stacked is None else [module.stacked]
            for layer in layers:
                for path, leaf in integer_leaves(layer).items():
                    put_leaf(layer, path, nnx.data(_fused(leaf, kernels, attention)))


def _fused(leaf: Any, kernels: str, attention: bool) -> Any:
    if isinstance(leaf, IntegerPass | IntegerDropout):  # which hand anything on
        return leaf
    if isinstance(leaf, IntegerScores | IntegerSoftmax | IntegerContext) and not attention:
        return Settling(leaf)
    if isinstance(leaf, IntegerAct):
        return FusedAct(leaf, kernels)
    if isinstance(leaf, IntegerLayerNorm):
        return FusedLayerNorm(leaf, kernels)
    return FUSED.get(type(leaf), Settling)(leaf)


def settled(value: Any) -> Any:
    """``value``, computed if it is pending."""
    return value.settle() if isinstance(value, PENDING) else value


# ----------------------------------------------------------------------------- pending values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingLinear:
    """gelu(linear(q)), or linear(q): int32 [..., N]."""

    q: jax.Array
    linear: IntegerLinear
    gelu: IntegerGELU | None = None

    def settle(self) -> jax.Array:
        accumulators = self.linear(self.q)
        return accumulators if self.gelu is None else self.gelu(accumulators)

    def fused(self, act: IntegerAct, *others: jax.Array, interpret: bool) -> jax.Array:
        """act(self, *others) as one kernel."""
        # Not before it is needed: Pallas is slow to import and its Triton backend not for ever.
        from ibert_jax.integer.pallas_linear import fused_linear

        return fused_linear(
            self.q,
            of_matrix(self.linear.weight, lambda matrix: matrix),
            self.linear.bias,
            _finish,
            (self.gelu, act),
            *others,
            interpret=interpret,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingScores:
    """query . key: int32 [B, H, T, T] of int8 [B, T, H * D]."""

    query: jax.Array
    key: jax.Array
    leaf: IntegerScores

    def settle(self) -> jax.Array:
        return self.leaf(self.query, self.key)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingWeights:
    """Softmax of the scores: numerators and row sums."""

    scores: PendingScores
    mask: jax.Array
    kept_heads: jax.Array | None
    softmax: IntegerSoftmax

    def settle(self) -> tuple[jax.Array, jax.Array]:
        return self.softmax(self.scores.settle(), self.mask, self.kept_heads)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingContext:
    """The weighted mean of the values: int32 [B, T, H * D]."""

    weights: PendingWeights
    value: jax.Array
    leaf: IntegerContext

    def settle(self) -> jax.Array:
        return self.leaf(self.weights.settle(), self.value)

    def fused(self, act: IntegerAct, *others: jax.Array, interpret: bool) -> jax.Array:
        """act(self) as one kernel; with others to add, leaf by leaf."""
        from ibert_jax.integer.pallas_attention import fused_attention

        if others:
            return act(self.settle(), *others)
        scores, softmax = self.weights.scores, self.weights.softmax
        return fused_attention(
            scores.query,
            scores.key,
            self.value,
            self.weights.mask[:, 0, 0, :],
            softmax.multiplier,
            _finish,
            (None, act),
            heads=self.leaf.heads,
            kept_heads=self.weights.kept_heads,
            published=softmax.published,
            interpret=interpret,
        )


PENDING = (PendingLinear, PendingScores, PendingWeights, PendingContext)


def _finish(
    x: jax.Array, leaves: tuple[IntegerGELU | None, IntegerAct], *others: jax.Array
) -> jax.Array:
    """What follows the accumulators of a tile, by the leaves with the constants of its columns."""
    gelu, act = leaves
    x = x if gelu is None else gelu(x)
    return requantize_sum((x, *others), act.multipliers, act.bits, wide=act.bits > WIDEST_NARROW)


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

    leaf: IntegerGELU

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
        return PendingScores(settled(query), settled(key), self.leaf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedSoftmax:
    """A softmax that is left to the context."""

    leaf: IntegerSoftmax

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
            return PendingContext(weights, settled(value), self.leaf)
        return self.leaf(weights, settled(value))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedAct:
    """An activation that computes what it reads and itself in one kernel."""

    leaf: IntegerAct
    kernels: str = dataclasses.field(metadata={"static": True})

    def __call__(self, first: Any, *others: Any) -> jax.Array:
        others = tuple(map(settled, others))
        if not isinstance(first, PendingLinear | PendingContext):
            return self.leaf(settled(first), *others)
        if self.kernels == INTERPRETED:
            return first.fused(self.leaf, *others, interpret=True)

        def fused(first: Any, leaf: IntegerAct, *others: jax.Array) -> jax.Array:
            return first.fused(leaf, *others, interpret=False)

        def apart(first: Any, leaf: IntegerAct, *others: jax.Array) -> jax.Array:
            return leaf(first.settle(), *others)

        return lax.platform_dependent(first, self.leaf, *others, cuda=fused, default=apart)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedLayerNorm:
    """A LayerNorm in one kernel, its row held in registers."""

    leaf: IntegerLayerNorm
    kernels: str = dataclasses.field(metadata={"static": True})

    def __call__(self, q: Any) -> jax.Array:
        from ibert_jax.integer.pallas_layernorm import fused_normalize

        def fused(q: jax.Array, leaf: IntegerLayerNorm, interpret: bool = False) -> jax.Array:
            return fused_normalize(q, leaf.eps_mantissa, leaf.eps_exponent, interpret=interpret)

        def apart(q: jax.Array, leaf: IntegerLayerNorm) -> jax.Array:
            return leaf(q)

        q = settled(q)
        if self.kernels == INTERPRETED:
            return fused(q, self.leaf, interpret=True)
        return lax.platform_dependent(q, self.leaf, cuda=fused, default=apart)


FUSED: dict[type, Any] = {
    IntegerContext: FusedContext,
    IntegerGELU: FusedGELU,
    IntegerLinear: FusedLinear,
    IntegerScores: FusedScores,
    IntegerSoftmax: FusedSoftmax,
}
