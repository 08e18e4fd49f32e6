"""Requantizations whose channels share one shift, for CPUs.

``dyadic`` computes ``floor((floor(x 2^pre m 2^-16) + offset) 2^-shift)`` with four constants a
channel, and a loop over a row reads them all again for every row: 98 KB for GELU and the activation
behind it in BERT-base, where the first-level cache has 32. But m has 15 bits where 31 cost the
same. It can take up so much of each channel's shift that the rest is the same for all, and the
rounding half with it; and where x, by what is known on the host, has room for its left shift, it
need not be saturated before. What is left is a multiplier a channel and two numbers. (Multipliers
of 31 bits keep their shifts, which are the same for all channels as they come.) An offset that
holds more than the rounding half may not be a multiple of what m would take: such a multiplier
stays as it was, and so does one that has no channels.

It is done on the host, where the constants are known, and every integer is the same. What is saved,
hashed or read is the plain network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.frozen.folding import (
    AFTER_LINEAR,
    HIGHEST,
    LARGEST_PRODUCT,
    LARGEST_RESIDUAL,
    SUMS,
    FoldedLeaf,
    constants_alike,
    is_traced,
    word,
)
from ibert_jax.frozen.network import encoder_layers, integer_leaves, put_leaf
from ibert_jax.integer.dyadic import Folded, Multiplier
from ibert_jax.layers.activation import WIDEST_NARROW, IntegerAct, IntegerNarrowAct
from ibert_jax.layers.gelu import IntegerGELU
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.models.encoder import IBertEncoder
from ibert_jax.models.layer_stack import Apart


def share_shifts(network: nnx.Module) -> None:
    """Let the channels of the encoder's requantizations share their shifts, in place.

    Args:
        network: of integer leaves, stacked or not; arrays that are being traced stay as they are.
    """
    for encoder in [m for _, m in nnx.iter_modules(network) if isinstance(m, IBertEncoder)]:
        for layer in encoder_layers(encoder):
            leaves = integer_leaves(layer)
            for path, leaf in leaves.items():
                found = _shared(path, leaves, stacked=encoder.stacked is not None)
                if found is not None:
                    put_leaf(layer, path, nnx.data(FoldedLeaf(leaf, found, with_bias=False)))


def _shared(path: str, leaves: Mapping[str, Any], *, stacked: bool) -> Any:
    """The leaf at ``path`` with what multipliers share their shifts; None if none does."""
    leaf = leaves[path]
    if isinstance(leaf, IntegerAct):
        multipliers, wide = leaf.multipliers, leaf.bits > WIDEST_NARROW
    elif isinstance(leaf, IntegerNarrowAct | IntegerGELU):
        multipliers, wide = (leaf.multiplier,), False
    else:
        return None
    largest = _largest(path, leaves, len(multipliers))
    found = [
        share(multiplier, bound, wide=wide, stacked=stacked)
        for multiplier, bound in zip(multipliers, largest, strict=True)
    ]
    if all(each is None for each in found):
        return None
    made = tuple(new or old for new, old in zip(found, multipliers, strict=True))
    if isinstance(leaf, IntegerAct):
        return dataclasses.replace(leaf, multipliers=made)
    return dataclasses.replace(leaf, multiplier=made[0])


def _largest(path: str, leaves: Mapping[str, Any], count: int) -> Sequence[int]:
    """What each operand of a leaf is no larger than."""
    reads = leaves.get({**AFTER_LINEAR, **SUMS}.get(path, ""))
    if not isinstance(reads, IntegerLinear) or is_traced(reads.bias):
        return [2**31] * count
    weight = reads.weight.matrices[0] if isinstance(reads.weight, Apart) else reads.weight
    bias = int(np.abs(np.asarray(reads.bias, np.int64)).max())
    return [weight.shape[-1] * LARGEST_PRODUCT + bias, *[LARGEST_RESIDUAL] * (count - 1)]


def share(multiplier: Multiplier, largest: int, *, wide: bool, stacked: bool) -> Folded | None:
    """A multiplier with one shift for all channels.

    Args:
        multiplier: of arrays [C], or, ``stacked``, [L, C].
        largest: what is multiplied is no larger; at most 2^31.
        wide: whether m has 31 bits.

    Returns:
        Of NumPy's arrays; None where it stays as it is.
    """
    if is_traced(multiplier):
        return None
    m, offset, shift, pre = constants_alike(
        multiplier.m, multiplier.offset, multiplier.shift, multiplier.pre
    )
    if m.ndim < 1 + stacked:  # of one number, or one a layer
        return None
    spare = 0 if wide else HIGHEST
    if not _is_valid(m, offset, shift, pre, bits=31 - spare):
        return None
    common = shift if wide else np.maximum((shift - pre).max(-1, keepdims=True) - spare, 1)
    taken = shift - common
    exponent = spare + pre - taken
    left = np.maximum(exponent - spare, 0)
    if (taken < 0).any() or (offset % (1 << np.maximum(taken, 0))).any():
        return None
    if left.any() and largest << int(left.max()) >= 2**31:
        return None
    return Folded(
        word(m << (exponent - left)),
        _same(offset >> taken),
        left=word(left) if left.any() else None,
        shift=_same(np.broadcast_to(common, shift.shape)),
    )


def _is_valid(
    m: np.ndarray, offset: np.ndarray, shift: np.ndarray, pre: np.ndarray, *, bits: int
) -> bool:
    """Whether constants are what ``Multiplier`` says, with which nothing overflows, whatever x is.

    What is proved of a program that shares shifts then holds of the plain one, too. Others are left
    for a proof to find.
    """
    return bool(
        (np.abs(m) < 2**bits).all()
        and (np.abs(offset) <= 2**30).all()
        and ((shift >= 1) & (shift <= 30)).all()
        and ((pre >= 0) & (pre <= 24)).all()
    )


def _same(array: np.ndarray) -> jax.Array:
    """An array [..., C] as it is, or as [...] where all channels have the same."""
    return word(array[..., 0] if (array == array[..., :1]).all() else array)
