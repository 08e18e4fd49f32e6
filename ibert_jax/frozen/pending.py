"""Values that are computed by whoever reads them: what fused leaves hand to each other.

A pending value remembers leaves and what they read. It is computed in one kernel with what follows
(``fused``, ``normalized``), or *settled*: leaf by leaf, as without fusion.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ibert_jax.frozen.folding import has_bias, in_kernel
from ibert_jax.integer.dyadic import align, requantize_sum, rescale
from ibert_jax.integer.matmul import of_matrix
from ibert_jax.integer.mixed import dot_s8
from ibert_jax.layers.activation import WIDEST_NARROW, IntegerAct
from ibert_jax.layers.attention import IntegerContext, IntegerScores
from ibert_jax.layers.embedding import IntegerEmbedding, to_output_scale
from ibert_jax.layers.gelu import IntegerGELU
from ibert_jax.layers.linear import IntegerLinear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingSlice:
    """One of equally wide slices along the last axis of what was computed in one."""

    whole: jax.Array
    index: int = dataclasses.field(metadata={"static": True})
    count: int = dataclasses.field(metadata={"static": True})

    def settle(self) -> jax.Array:
        return jnp.split(self.whole, self.count, axis=-1)[self.index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transposed:
    """An array [..., C] with its channels first, as attention reads values."""

    channels_first: jax.Array

    def settle(self) -> jax.Array:
        return jnp.moveaxis(self.channels_first, 0, -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalized:
    """What a LayerNorm left, int32 [..., C], and its 8-bit copy."""

    whole: jax.Array
    copy: jax.Array

    def settle(self) -> jax.Array:
        return self.whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingLinear:
    """gelu(linear(q)), or linear(q): int32 [..., N]."""

    q: jax.Array
    linear: IntegerLinear
    gelu: Any = None

    def settle(self) -> jax.Array:
        accumulators = self.linear(self.q)
        return accumulators if self.gelu is None else self.gelu(accumulators)

    def fused(self, act: Any, *, interpret: bool, channels_first: bool = False) -> jax.Array:
        """act(self) as one kernel; int8 [..., N], or [N, ...]."""
        # Not before it is needed: Pallas is slow to import and its Triton backend not for ever.
        from ibert_jax.integer.pallas_linear import fused_linear, on_hopper

        weight = of_matrix(self.linear.weight, lambda matrix: matrix)
        bias = None if has_bias(act if self.gelu is None else self.gelu) else self.linear.bias
        constants = in_kernel(self.gelu), in_kernel(act)
        lead, tokens = self.q.shape[:-1], self.q.reshape(-1, self.q.shape[-1])
        rows, columns = (weight, tokens) if channels_first else (tokens, weight)
        if bias is None and in_kernel(act).bits == 8 and not interpret and on_hopper():
            from ibert_jax.integer.pallas_hopper import fits, hopper_linear

            if fits(rows.shape[0], rows.shape[1], columns.shape[0]):
                found = hopper_linear(rows, columns, _rescaled, constants, by_row=channels_first)
                return found.reshape((-1, *lead) if channels_first else (*lead, -1))
        found = fused_linear(
            rows, columns, bias, _finish, constants, by_row=channels_first, interpret=interpret
        )
        return found.reshape((-1, *lead) if channels_first else (*lead, -1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingSum:
    """act(linear(q), *others): int32 [..., C]."""

    product: PendingLinear
    others: tuple[jax.Array, ...]
    act: Any

    def settle(self) -> jax.Array:
        return self.act(self.product.settle(), *self.others)

    def normalized(self, norm: Any, act: Any, copy: Any, *, interpret: bool) -> Any:
        """As ``fused_norm`` gives it, by a product and one kernel."""
        q, linear = self.product.q, self.product.linear
        weight = of_matrix(linear.weight, lambda matrix: matrix)
        accumulators = dot_s8(q, weight, (((q.ndim - 1,), (1,)), ((), ())))
        return fused_norm(
            (accumulators, *self.others),
            *(norm, act, copy),
            interpret=interpret,
            before=_add_bias_and_sum,
            constants=(None if has_bias(self.act) else linear.bias, in_kernel(self.act)),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingRows:
    """embedding(ids): int32 [..., C]."""

    ids: jax.Array
    leaf: IntegerEmbedding

    def settle(self) -> jax.Array:
        return self.leaf(self.ids)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingRowSum:
    """act(*rows): int32 [..., C]."""

    rows: tuple[PendingRows, ...]
    act: Any

    def settle(self) -> jax.Array:
        return self.act(*(each.settle() for each in self.rows))

    def normalized(self, norm: Any, act: Any, copy: Any, *, interpret: bool) -> Any:
        """As ``fused_norm`` gives it, by one kernel."""
        from ibert_jax.integer.pallas_layernorm import Rows, may_look_up

        lead = jnp.broadcast_shapes(*(each.ids.shape for each in self.rows))

        def operand(each: PendingRows) -> jax.Array | Rows:
            ids, weight = jnp.broadcast_to(each.ids, lead), each.leaf.weight
            if not may_look_up(weight.shape[-1]):
                return each.leaf(ids)
            return Rows(weight, each.leaf.ratio, jnp.clip(ids, 0, weight.shape[0] - 1))

        return fused_norm(
            tuple(map(operand, self.rows)),
            *(norm, act, copy),
            interpret=interpret,
            before=_add_rows,
            constants=in_kernel(self.act),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingScores:
    """query . key: int32 [B, H, T, T] of int8 [B, T, H * D]."""

    query: jax.Array | PendingSlice
    key: jax.Array | PendingSlice
    leaf: IntegerScores

    def settle(self) -> jax.Array:
        return self.leaf(settled(self.query), settled(self.key))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingWeights:
    """Softmax of the scores: numerators and row sums."""

    scores: PendingScores
    mask: jax.Array
    kept_heads: jax.Array | None
    softmax: Any

    def settle(self) -> tuple[jax.Array, jax.Array]:
        return self.softmax(self.scores.settle(), self.mask, self.kept_heads)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PendingContext:
    """The weighted mean of the values: int32 [B, T, H * D]."""

    weights: PendingWeights
    value: jax.Array | PendingSlice | Transposed
    leaf: IntegerContext

    def settle(self) -> jax.Array:
        return self.leaf(self.weights.settle(), settled(self.value))

    def fused(self, act: Any, *, interpret: bool) -> jax.Array:
        """act(self) as one kernel."""
        from ibert_jax.integer.pallas_attention import fused_attention

        scores, softmax = self.weights.scores, in_kernel(self.weights.softmax)
        slices, of, (query, key) = slices_of(scores.query, scores.key)
        value = self.value
        if isinstance(value, Transposed):
            value = value.channels_first
        else:
            value = jnp.moveaxis(settled(value), -1, 0)
        return fused_attention(
            query,
            key,
            value,
            self.weights.mask[:, 0, 0, :],
            softmax.multiplier,
            _finish,
            (None, in_kernel(act)),
            heads=self.leaf.heads,
            slices=slices,
            of=of,
            kept_heads=self.weights.kept_heads,
            published=softmax.published,
            interpret=interpret,
        )


PENDING = (
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
)


def settled(value: Any) -> Any:
    """``value``, computed if it is pending."""
    return value.settle() if isinstance(value, PENDING) else value


def unless_in_place(value: Any) -> Any:
    """``value``, computed if it is pending; what attention reads in place stays as it is."""
    return value if isinstance(value, PendingSlice | Transposed) else settled(value)


def slices_of(
    *values: jax.Array | PendingSlice,
) -> tuple[tuple[int, ...], int, list[jax.Array]]:
    """Which slice of each array is meant, of how many, and the arrays."""
    counts = {value.count for value in values if isinstance(value, PendingSlice)}
    if len(counts) == 1 and all(isinstance(value, PendingSlice) for value in values):
        slices = [value for value in values if isinstance(value, PendingSlice)]
        return tuple(x.index for x in slices), counts.pop(), [x.whole for x in slices]
    return (0,) * len(values), 1, [settled(value) for value in values]


def fused_norm(
    operands: Any, norm: Any, act: Any, copy: Any, *, interpret: bool, **before: Any
) -> tuple[jax.Array, ...]:
    """What a LayerNorm makes of operands, by one kernel: int32 [..., C], and int8 [..., C].

    Args:
        operands, interpret, before: as ``fused_normalize`` takes them, ``before`` with its
            constants.
        norm: the LayerNorm.
        act: what requantizes its result before it is handed on, or None.
        copy: what makes the 8-bit copy of that, or None, and there is none.
    """
    from ibert_jax.integer.pallas_layernorm import fused_normalize

    return fused_normalize(
        operands,
        in_kernel(norm).eps_mantissa,
        in_kernel(norm).eps_exponent,
        after=_handed_on,
        after_constants=(in_kernel(act), in_kernel(copy)),
        interpret=interpret,
        **before,
    )


def _rescaled(x: jax.Array, leaves: tuple[IntegerGELU | None, IntegerAct]) -> jax.Array:
    """As ``_finish``, before it is saturated."""
    gelu, act = leaves
    (multiplier,) = act.multipliers
    return rescale(x if gelu is None else gelu(x), multiplier, wide=act.bits > WIDEST_NARROW)


def _finish(x: jax.Array, leaves: tuple[IntegerGELU | None, IntegerAct]) -> jax.Array:
    """What follows the accumulators of a tile, by the leaves with the constants of its columns."""
    gelu, act = leaves
    return _requantized((x if gelu is None else gelu(x),), act)


def _add_bias_and_sum(accumulators: jax.Array, *rest: Any) -> jax.Array:
    """What a LayerNorm reads, of the accumulators before their bias and the residual."""
    *others, (bias, act) = rest
    if bias is not None:
        accumulators = accumulators + align(bias, accumulators.ndim)
    return _requantized((accumulators, *others), act)


def _add_rows(*operands: Any) -> jax.Array:
    """What the LayerNorm of the embeddings reads, of rows with their ratios or as looked up."""
    *rows, act = operands
    scaled = (
        to_output_scale(each[0].astype(jnp.int32), each[1]) if isinstance(each, tuple) else each
        for each in rows
    )
    return _requantized(tuple(scaled), act)


def _handed_on(
    normalized: jax.Array, leaves: tuple[IntegerAct | None, IntegerAct | None]
) -> tuple[jax.Array, ...]:
    act, copy = leaves
    whole = normalized if act is None else _requantized((normalized,), act)
    return (whole,) if copy is None else (whole, _requantized((whole,), copy))


def _requantized(operands: tuple[jax.Array, ...], act: IntegerAct) -> jax.Array:
    return requantize_sum(operands, act.multipliers, act.bits, wide=act.bits > WIDEST_NARROW)
