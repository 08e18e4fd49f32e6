"""Leaves that are computed with what they read, or with what reads them, in one kernel.

They stand in the places of a network's integer leaves (``frozen.fused``) and hand on pending values
(``frozen.pending``). Every number comes from the leaves that they hold.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.frozen.folding import FoldedLeaf
from ibert_jax.frozen.pending import (
    Normalized,
    PendingContext,
    PendingLinear,
    PendingRows,
    PendingRowSum,
    PendingScores,
    PendingSlice,
    PendingSum,
    PendingWeights,
    Transposed,
    fused_norm,
    settled,
    unless_in_place,
)
from ibert_jax.layers.attention import IntegerContext, IntegerScores
from ibert_jax.layers.embedding import IntegerEmbedding
from ibert_jax.layers.linear import IntegerLinear

PALLAS, INTERPRETED = FUSING = ("pallas", "pallas-interpreted")
"""``pallas``: the fused kernels on NVIDIA GPUs; on other platforms everything is settled.
``pallas-interpreted``: the fused kernels anywhere, run by Pallas' interpreter, slowly, for tests.
"""


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
class FusedEmbedding:
    """An embedding table whose rows are looked up by what reads them."""

    leaf: IntegerEmbedding

    def __call__(self, ids: jax.Array) -> PendingRows:
        return PendingRows(ids, self.leaf)

    def rows(self, q: jax.Array) -> jax.Array:
        return self.leaf.rows(q)

    @property
    def weight(self) -> jax.Array:
        """Of the table, to which a vocabulary's scores may be tied."""
        return self.leaf.weight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedRowSum:
    """A sum of rows that is left to the LayerNorm."""

    leaf: Any

    def __call__(self, *operands: Any) -> Any:
        if all(isinstance(each, PendingRows) for each in operands):
            return PendingRowSum(operands, self.leaf)
        return self.leaf(*map(settled, operands))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FusedLayerNorm:
    """A LayerNorm in one kernel, its row held in registers.

    Attributes:
        leaf: the LayerNorm.
        copy: what makes an 8-bit copy of its result in the same kernel, or None.
        act: what requantizes its result before that, or None; the embeddings' alone has one.
    """

    leaf: FoldedLeaf
    copy: Any
    kernels: str = dataclasses.field(metadata={"static": True})
    act: Any = None

    def __call__(self, q: Any) -> jax.Array | Normalized:
        def fused(q: Any, norm: FusedLayerNorm, interpret: bool = False) -> tuple[jax.Array, ...]:
            leaves = norm.leaf, norm.act, norm.copy
            if isinstance(q, PendingSum | PendingRowSum):
                return q.normalized(*leaves, interpret=interpret)
            return fused_norm((q,), *leaves, interpret=interpret)

        def apart(q: Any, norm: FusedLayerNorm) -> tuple[jax.Array, ...]:
            whole = norm.leaf(settled(q))
            whole = whole if norm.act is None else norm.act(whole)
            return (whole,) if norm.copy is None else (whole, norm.copy(whole))

        q = q if isinstance(q, PendingSum | PendingRowSum) else settled(q)
        if self.kernels == INTERPRETED:
            found = fused(q, self, interpret=True)
        else:
            found = lax.platform_dependent(q, self, cuda=fused, default=apart)
        return found[0] if self.copy is None else Normalized(*found)
