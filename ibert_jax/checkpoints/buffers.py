"""Buffers of the published implementation that mean nothing here, kept for the way back.

Hugging Face's I-BERT stores integers and scales (``weight_integer``, ``act_scaling_factor``,
``shift``, ...) that every forward pass derives anew, and ranges that nothing reads. A checkpoint
that comes and goes unchanged must keep them bit by bit, though they may lag behind the weights by
the optimizer's last step, so that they cannot be computed. Once a leaf's own tensors have
changed, its buffers are void, and the published initial values are written instead.

They are kept beside the models, not in them: no computation depends on them.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ibert_jax.checkpoints import keys


@dataclass(frozen=True)
class PublishedBuffers:
    """Buffers by our names, as a checkpoint held them.

    Attributes:
      values: only those that differ from ``keys.buffer_value``; whole numbers as float16 where
        that loses nothing.
      digests: of the tensors of each leaf at the time; empty, the buffers hold whatever comes.
    """

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict)

    def still_valid(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those of leaves whose parameters and ranges are still the same, as float32."""
        now = digests(self.values, tensors) if self.digests else {}
        return {
            name: value.astype(np.float32)
            for name, value in self.values.items()
            if now.get(leaf := keys.leaf_of(name)) == self.digests.get(leaf)
        }


def keep(buffers: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> PublishedBuffers:
    """The buffers (float32) of a checkpoint, bound to its parameters and ranges."""
    values = {
        name: _compact(value)
        for name, value in buffers.items()
        if _bits(value) != _bits(np.full(value.shape, keys.buffer_value(name), np.float32))
    }
    return PublishedBuffers(values, digests(values, tensors))


def digests(names: Iterable[str], tensors: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """A digest, for the leaf of every name, of the tensors that its buffers follow from."""
    by_leaf: dict[str, list[str]] = {}
    for name in sorted(tensors):
        by_leaf.setdefault(keys.leaf_of(name), []).append(name)
    found = {}
    for leaf in {keys.leaf_of(name) for name in names}:
        digest = hashlib.blake2b()
        for source in _sources(leaf):
            for name in by_leaf.get(source, []):
                digest.update(f"{name}\0".encode() + _bits(np.asarray(tensors[name])))
        found[leaf] = digest.digest()
    return found


def _sources(leaf: str) -> tuple[str, ...]:
    """Whose tensors a leaf's buffers follow from: its own, or those of query and key."""
    if not leaf.endswith(keys.SOFTMAX):
        return (leaf,)
    attention = leaf.removesuffix(keys.SOFTMAX)
    return (f"{attention}query_activation", f"{attention}key_activation")


def _bits(array: np.ndarray) -> bytes:
    return np.asarray(array, order="C").tobytes()


def _compact(value: np.ndarray) -> np.ndarray:
    """float16 where it holds every bit (integers below 2,048, signed zeros), else float32."""
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return half if _bits(half.astype(np.float32)) == _bits(value) else value


_kept: weakref.WeakKeyDictionary[Any, PublishedBuffers] = weakref.WeakKeyDictionary()


def remember(model: object, published: PublishedBuffers) -> None:
    """Keep the buffers that came with a model, for as long as it lives."""
    _kept[model] = published


def recall(model: object) -> PublishedBuffers:
    """The buffers that came with a model; none if it was not read from a checkpoint."""
    return _kept.get(model, PublishedBuffers())
