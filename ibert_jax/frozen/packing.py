"""Weights of an encoder laid out for oneDNN (``integer.packed``), for CPUs.

What is laid out beforehand need not be arranged at every call, which for few tokens is a large part
of the work. A call of oneDNN costs more than one of XLA's own products, tens of microseconds, so
that query, key and value, which read the same operand, become one product. The numbers are the
same, and what runs elsewhere, is saved or hashed is the plain network again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.frozen.network import integer_leaves, put_leaf
from ibert_jax.integer.compiled import on_device
from ibert_jax.integer.matmul import COPIES
from ibert_jax.integer.packed import BLOCK, Packed, answers
from ibert_jax.layers.linear import IntegerLinear
from ibert_jax.models.attention import IBertSelfAttention
from ibert_jax.models.encoder import IBertEncoder

PROJECTIONS = ("query", "key", "value")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JointLinear:
    """Linear layers of the same operand as one.

    Attributes:
        linear: their outputs one after the other.
        parts: how many there are, equally wide.
    """

    linear: IntegerLinear
    parts: int = dataclasses.field(metadata={"static": True})

    def __call__(self, q: jax.Array) -> tuple[jax.Array, ...]:
        """int8 [..., K] -> int32 [..., N] of each."""
        return tuple(jnp.split(self.linear(q), self.parts, axis=-1))


def pack_matrices(network: nnx.Module) -> None:
    """Lay out the weights of every layer of the encoder, where oneDNN takes them so, in place.

    Args:
        network: of integer leaves of NumPy's arrays, stacked or not.
    """

    def pack(layer: Any) -> None:
        for attention in _attentions(layer):
            _join(attention)
        for path, leaf in integer_leaves(layer).items():
            if isinstance(leaf, IntegerLinear):
                put_leaf(layer, path, nnx.data(_packed(leaf)))

    if jax.default_backend() == "cpu" and answers(COPIES, (BLOCK, BLOCK)):
        _in_each_layer(network, pack)


def unpack_matrices(network: nnx.Module) -> None:
    """The inverse of ``pack_matrices``."""

    def unpack(layer: Any) -> None:
        for attention in _attentions(layer):
            if isinstance(attention.query, JointLinear):
                _part(attention)
        for path, leaf in integer_leaves(layer).items():
            if isinstance(leaf, IntegerLinear):
                put_leaf(layer, path, nnx.data(_plain(leaf)))

    _in_each_layer(network, unpack)


def _in_each_layer(network: nnx.Module, change: Callable[[Any], None]) -> None:
    for _, encoder in list(nnx.iter_modules(network)):
        if isinstance(encoder, IBertEncoder):
            stacked = encoder.stacked is not None
            encoder.unstack()
            for layer in encoder.layer:
                change(layer)
            if stacked:
                encoder.stack(list(encoder.layer))


def _attentions(layer: nnx.Module) -> Iterator[IBertSelfAttention]:
    for _, module in list(nnx.iter_modules(layer)):
        if isinstance(module, IBertSelfAttention):
            yield module


def _join(attention: Any) -> None:
    leaves = [getattr(attention, name) for name in PROJECTIONS]
    if not all(
        isinstance(leaf, IntegerLinear) and Packed.fits(leaf.weight.shape) for leaf in leaves
    ):
        return
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *leaves)
    attention.query = nnx.data(JointLinear(_packed(joined), len(leaves)))
    attention.key = attention.value = nnx.data(None)


def _part(attention: Any) -> None:
    joined = attention.query
    linear = _plain(joined.linear)
    rows = linear.weight.shape[0] // joined.parts
    for index, name in enumerate(PROJECTIONS):
        own = slice(index * rows, (index + 1) * rows)
        part = jax.tree.map(lambda array, own=own: array[own], linear)
        setattr(attention, name, nnx.data(part))


def _packed(leaf: IntegerLinear) -> IntegerLinear:
    if not Packed.fits(leaf.weight.shape):
        return leaf
    # On the device one by one: all of them as NumPy's arrays first would be memory taken twice.
    return dataclasses.replace(leaf, weight=jax.tree.map(on_device, Packed.of(leaf.weight)))


def _plain(leaf: IntegerLinear) -> IntegerLinear:
    if not isinstance(leaf.weight, Packed):
        return leaf
    return dataclasses.replace(leaf, weight=leaf.weight.matrix())
