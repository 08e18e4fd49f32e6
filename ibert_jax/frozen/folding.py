"""Requantizations folded into one multiplication and one addition, for the fused GPU kernels.

``dyadic`` computes ``(floor((x + bias) m 2^-16) + offset) 2^-shift``: on a GPU a sum, the high half
of a product, a sum and a shift, with four constants a channel. A GPU has an instruction that
multiplies 32 by 32 bits and adds 64, and its results are pairs of registers, of which the high half
need not be fetched: ``floor((x m' + addend) 2^-32)``, with the bias, the offset and the shift in
the constants, is the same integer. Where the ratio of the scales is from 1/2 on it does not fit
and stays as it was. (``dyadic`` saturates x before a left shift, as large ratios need in 32 bits;
what it would saturate is beyond every output width either way.)

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

from ibert_jax.frozen.network import integer_leaves, put_leaf
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FoldedLeaf:
    """A leaf, with its multiplier folded for kernels that compute it.

    Attributes:
        leaf: as it was frozen, which computes everywhere else.
        folded: its one multiplier.
        with_bias: whether the bias of the linear layer that the leaf reads is folded, too.
    """

    leaf: Any
    folded: Folded
    with_bias: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, *operands: Any) -> Any:
        return self.leaf(*operands)

    @property
    def in_kernel(self) -> Any:
        """The leaf with the folded multiplier; it leaves out the bias, if that is folded."""
        if isinstance(self.leaf, IntegerAct):
            return dataclasses.replace(self.leaf, multipliers=(self.folded,))
        return dataclasses.replace(self.leaf, multiplier=self.folded)


def fold_constants(network: nnx.Module) -> None:
    """Fold what the encoder's fused kernels requantize by, where it fits, in place.

    Args:
        network: of integer leaves, stacked or not; arrays that are being traced stay as they are.
    """
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            layers: list[Any] = [*module.layer] if module.stacked is None else [module.stacked]
            for layer in layers:
                leaves = integer_leaves(layer)
                for path, leaf in leaves.items():
                    found = _folded(leaf, leaves.get(AFTER_LINEAR.get(path, "")))
                    if found is not None:
                        put_leaf(layer, path, nnx.data(found))


def unfold_constants(network: nnx.Module) -> None:
    """The inverse of ``fold_constants``."""
    for path, leaf in integer_leaves(network).items():
        if isinstance(leaf, FoldedLeaf):
            put_leaf(network, path, nnx.data(leaf.leaf))


def in_kernel(leaf: Any) -> Any:
    """The leaf as a kernel computes it."""
    return leaf.in_kernel if isinstance(leaf, FoldedLeaf) else leaf


def has_bias(leaf: Any) -> bool:
    """Whether a leaf has taken over the bias of what it reads."""
    return isinstance(leaf, FoldedLeaf) and leaf.with_bias


def _folded(leaf: Any, reads: Any) -> FoldedLeaf | None:
    multiplier = None
    if isinstance(leaf, IntegerAct) and leaf.bits <= WIDEST_NARROW and len(leaf.multipliers) == 1:
        multiplier = leaf.multipliers[0]
    elif isinstance(leaf, IntegerNarrowAct | IntegerGELU | IntegerSoftmax):
        multiplier = leaf.multiplier
    bias = reads.bias if isinstance(reads, IntegerLinear) else None
    if multiplier is None or isinstance(jax.tree.leaves((multiplier, bias))[0], Tracer):
        return None
    folded = fold(multiplier, bias)
    return None if folded is None else FoldedLeaf(leaf, folded, bias is not None)


def fold(multiplier: Multiplier, bias: Any = None) -> Folded | None:
    """A narrow multiplier, and the bias of what it is applied to, if any.

    Args:
        multiplier: of arrays [...] or [..., C].
        bias: int32 [..., C], |bias| <= 2^30.

    Returns:
        Of NumPy's arrays; None where some ratio is 1/2 and above.
    """
    shift = np.asarray(multiplier.shift, np.int64)
    pre = np.asarray(0 if multiplier.pre is None else multiplier.pre, np.int64)
    exponent = HIGHEST - shift + pre
    if (exponent > HIGHEST).any():
        return None
    left, right = np.maximum(exponent, 0), np.maximum(-exponent, 0)
    m = np.asarray(multiplier.m, np.int64) << left
    addend = np.asarray(multiplier.offset, np.int64) << (HIGHEST - pre + left)
    if bias is not None:
        wide = np.asarray(bias, np.int64)
        each = [x.reshape(*x.shape, *[1] * (wide.ndim - x.ndim)) for x in (m, addend, right)]
        m, addend, right = np.broadcast_arrays(*each, wide)[:3]
        addend = addend + wide * m
    low = (addend & (2**32 - 1)).astype(np.uint32).view(np.int32)
    constants: list[Any] = [m.astype(np.int32), (addend >> 32).astype(np.int32), low]
    return Folded(*constants, right.astype(np.int32) if right.any() else None)  # type: ignore[arg-type]
