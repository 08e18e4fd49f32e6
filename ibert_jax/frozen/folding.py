"""Requantizations folded into one multiplication and one addition, for the fused GPU kernels.

``dyadic`` computes ``(floor((x + bias) m 2^-16) + offset) 2^-shift``: on a GPU a sum, the high half
of a product, a sum and a shift, with four constants a channel. A GPU has an instruction that
multiplies 32 by 32 bits and adds 64, and its results are pairs of registers, of which the high half
need not be fetched: ``floor((x m' + addend) 2^-32)``, with the bias, the offset and the shift in
the constants, is the same integer. Where the ratio of the scales is from 1/2 on, x is shifted to
the left before, if what it can be, known on the host, leaves room for that. (``dyadic`` saturates x
before a left shift; what it would saturate is beyond every output width either way.) The sums
before a LayerNorm have multipliers of 31 bits, which leave no room for a shift: there it is the
saturation that is saved, and the bias. What does not fit stays as it was.

It is done on the host, where the constants are known. What is saved, hashed or run elsewhere is the
plain network again.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from ibert_jax.frozen.network import encoder_layers, integer_leaves, put_leaf
from ibert_jax.integer.dyadic import Folded, Multiplier
from ibert_jax.layers.activation import WIDEST_NARROW, IntegerAct, IntegerNarrowAct
from ibert_jax.layers.gelu import IntegerGELU
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.layers.softmax import IntegerSoftmax
from ibert_jax.models.encoder import IBertEncoder

HIGHEST = 16
"""Bits that m, of 15, may be shifted to the left."""
AFTER_LINEAR = {
    "attention.self.query_activation": "attention.self.query",
    "attention.self.key_activation": "attention.self.key",
    "attention.self.value_activation": "attention.self.value",
    "intermediate.intermediate_act_fn": "intermediate.dense",
}
"""Leaves of a layer that read a linear layer alone, whose bias they take over."""
SCORES = "attention.self.query"
"""A linear layer as wide as the rows whose products, head by head, the softmax reads."""
SUMS = {
    "attention.output.ln_input_act": "attention.output.dense",
    "output.ln_input_act": "output.dense",
}
"""Sums of a linear layer and the residual."""
LARGEST_RESIDUAL = 2**21
"""A residual is a requantization to 22 bits at most, or what a LayerNorm leaves, within 20."""
LARGEST_PRODUCT = 128**2
"""Of two 8-bit integers."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedLeaf:
    """A leaf as it was frozen, and as it is computed where its constants were folded for.

    Attributes:
        leaf: computes everywhere else.
        in_kernel: the same of folded multipliers; it leaves out the bias, if that is folded.
        with_bias: whether the bias of the linear layer that the leaf reads is folded, too.
    """

    leaf: Any
    in_kernel: Any
    with_bias: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, *operands: Any) -> Any:
        return self.leaf(*operands)


def fold_constants(network: nnx.Module) -> None:
    """Fold what the encoder's fused kernels requantize by, where it fits, in place.

    Args:
        network: of integer leaves, stacked or not; arrays that are being traced stay as they are.
    """
    encoders = [m for _, m in nnx.iter_modules(network) if isinstance(m, IBertEncoder)]
    for layer in [layer for encoder in encoders for layer in encoder_layers(encoder)]:
        leaves = integer_leaves(layer)
        for path, leaf in leaves.items():
            if isinstance(leaf, IntegerAct) and path in SUMS:
                found = _folded_sum(leaf, leaves[SUMS[path]])
            else:
                reads = leaves.get(AFTER_LINEAR.get(path, ""))
                found = _folded(leaf, reads, leaves.get(SCORES))
            if found is not None:
                put_leaf(layer, path, nnx.data(found))


def unfold_constants(network: nnx.Module) -> None:
    """Every leaf as it was frozen again, in place."""
    for path, leaf in integer_leaves(network).items():
        if isinstance(leaf, FoldedLeaf):
            put_leaf(network, path, nnx.data(leaf.leaf))


def take_folded(network: nnx.Module) -> None:
    """Let leaves be computed as they were folded, but for those whose bias was, in place."""
    for path, leaf in integer_leaves(network).items():
        if isinstance(leaf, FoldedLeaf) and not leaf.with_bias:
            put_leaf(network, path, nnx.data(leaf.in_kernel))


def in_kernel(leaf: Any) -> Any:
    """The leaf as a kernel computes it."""
    return leaf.in_kernel if isinstance(leaf, FoldedLeaf) else leaf


def plain(leaf: Any) -> Any:
    """The leaf as it was frozen."""
    return leaf.leaf if isinstance(leaf, FoldedLeaf) else leaf


def folded_as_is(leaf: Any) -> FoldedLeaf:
    """A leaf that kernels compute as it was frozen."""
    return FoldedLeaf(leaf, leaf, with_bias=False)


def has_bias(leaf: Any) -> bool:
    """Whether a leaf has taken over the bias of what it reads."""
    return isinstance(leaf, FoldedLeaf) and leaf.with_bias


def _folded(leaf: Any, reads: Any, scores: Any) -> FoldedLeaf | None:
    """A leaf that may read a linear layer alone, or the products of rows that ``scores`` makes."""
    multiplier, bias, largest = None, None, 2**31
    if isinstance(leaf, IntegerAct) and leaf.bits <= WIDEST_NARROW and len(leaf.multipliers) == 1:
        multiplier = leaf.multipliers[0]
    elif isinstance(leaf, IntegerNarrowAct | IntegerGELU | IntegerSoftmax):
        multiplier = leaf.multiplier
    if _is_plain(reads):
        bias, largest = reads.bias, reads.weight.shape[-1] * LARGEST_PRODUCT
    elif isinstance(leaf, IntegerSoftmax) and _is_plain(scores):
        largest = scores.weight.shape[-2] * LARGEST_PRODUCT
    if multiplier is None or is_traced((multiplier, bias)):
        return None
    folded = fold(multiplier, largest, bias)
    if folded is None:
        return None
    one = {"multipliers": (folded,)} if isinstance(leaf, IntegerAct) else {"multiplier": folded}
    return FoldedLeaf(leaf, dataclasses.replace(leaf, **one), bias is not None)


def _is_plain(leaf: Any) -> bool:
    """Whether it is a linear layer with its matrix, or the stack of them, in one array."""
    return isinstance(leaf, IntegerLinear) and hasattr(leaf.weight, "shape")


def _folded_sum(leaf: IntegerAct, reads: Any) -> FoldedLeaf | None:
    """A sum of a linear layer, ``reads``, and the residual."""
    if not _is_plain(reads) or len(leaf.multipliers) != 2 or leaf.bits <= WIDEST_NARROW:
        return None
    if is_traced((leaf, reads)):
        return None
    product, residual = leaf.multipliers
    largest = reads.weight.shape[-1] * LARGEST_PRODUCT
    folded = fold_wide(product, largest, reads.bias), fold_wide(residual, LARGEST_RESIDUAL)
    if any(each is None for each in folded):
        return None
    return FoldedLeaf(leaf, dataclasses.replace(leaf, multipliers=folded), True)  # type: ignore[arg-type]


def is_traced(tree: Any) -> bool:
    """Whether what a tree holds is being traced, and not known."""
    return any(isinstance(array, Tracer) for array in jax.tree.leaves(tree))


def fold(multiplier: Multiplier, largest: int, bias: Any = None) -> Folded | None:
    """A narrow multiplier of what is no larger than ``largest``, and its bias, if any.

    Args:
        multiplier: of arrays [...] or [..., C].
        largest: at most 2^31.
        bias: int32 [..., C], |bias| <= 2^30.

    Returns:
        Of NumPy's arrays; None where there is no room for a left shift.
    """
    m, offset, shift, pre, bias = constants_alike(
        multiplier.m, multiplier.offset, multiplier.shift, multiplier.pre, bias
    )
    exponent = HIGHEST - shift + pre
    left, up = np.maximum(exponent - HIGHEST, 0), np.clip(exponent, 0, HIGHEST)
    right = np.maximum(-exponent, 0)
    common = right.max(axis=-1, keepdims=True, initial=0) if right.ndim > 1 else right
    if (up + common - right <= HIGHEST).all():  # in a layer, where m has room, one for all channels
        up, right = up + common - right, common
    if left.any() and (((largest + np.abs(bias)) << left) >= 2**31).any():
        return None
    m = m << up
    addend = (offset << (HIGHEST - pre + left + up)) + (bias << left) * m
    return Folded(
        word(m),
        *_words(addend),
        left=word(left) if left.any() else None,
        shift=_one_a_layer(word(right)) if right.any() else None,
    )


def fold_wide(multiplier: Multiplier, largest: int, bias: Any = None) -> Folded | None:
    """A wide multiplier of what is no larger than ``largest``, and its bias, if any.

    Returns:
        As ``fold``; None where there is no room for the left shift.
    """
    m, offset, shift, pre, bias = constants_alike(
        multiplier.m, multiplier.offset, multiplier.shift, multiplier.pre, bias
    )
    if (((largest + np.abs(bias)) << pre) >= 2**31).any():
        return None
    high, low = _words((offset << 32) + (bias << pre) * m)
    return Folded(
        word(m),
        high,
        low if bias.any() else None,
        left=word(pre) if pre.any() else None,
        shift=_one_a_layer(word(shift)),
    )


def _one_a_layer(shift: np.ndarray) -> Any:
    """Shifts of which each layer has one, [L, C], as a number a layer, [L]; others as they are."""
    return shift[:, 0] if shift.ndim > 1 and (shift == shift[:, :1]).all() else shift


def constants_alike(*constants: Any) -> tuple[np.ndarray, ...]:
    """Constants [L], [C] or [L, C] of one place of a network, scalars or None, which is 0: int64,
    all of one shape.
    """
    arrays = [np.asarray(0 if each is None else each, np.int64) for each in constants]
    rank = max(array.ndim for array in arrays)
    return tuple(
        np.broadcast_arrays(
            *(x.reshape(*x.shape, *[1] * (rank - x.ndim)) if x.ndim else x for x in arrays)
        )
    )


def word(array: np.ndarray) -> Any:
    """int32."""
    return array.astype(np.int32)


def _words(array: np.ndarray) -> tuple[Any, Any]:
    """High and low."""
    return word(array >> 32), (array & (2**32 - 1)).astype(np.uint32).view(np.int32)
