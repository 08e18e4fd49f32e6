"""Proves that no integer operation of a program leaves its type, by interval analysis.

The jaxpr is run on ranges instead of numbers: token ids anywhere in the vocabulary, a mask of
zeros and ones, weights as the numbers they are. Every integer result gets the least and the
largest value it may take, per channel where that is known; the first one that leaves its type is
the proof's failure, named with its range and source line. Loops run for their fixed number of
turns, or to a fixed point. A sum is judged as a whole: integers wrap, so that in whatever order it
is computed, what a part of it may wrap to is undone by the rest.

Intervals forget how values depend on each other. Where a kernel is right for a reason that they
cannot see (a shift counted from the number it moves, a square root, y / std), it stands in a jitted
function of its own and a `Contract` speaks for it: its operands must lie in the domain, its
result gets the stated range, its body is not looked at. The contract itself is for tests to hold
against the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ibert_jax.proof.interpret import Analysis
from ibert_jax.proof.interval import Interval, between, exactly, type_range
from ibert_jax.proof.overflow import Clip, Contract, OverflowProof, Problem, Step, always
from ibert_jax.proof.tracing import unremembered

__all__ = [
    "Bounded",
    "Clip",
    "Contract",
    "Interval",
    "OverflowProof",
    "Problem",
    "Step",
    "always",
    "analyze",
]


@dataclass(frozen=True)
class Bounded:
    """An argument of which only the range is known: `lo` <= every element <= `hi`.

    `lo` and `hi` are integers, or arrays that broadcast to `shape`.
    """

    shape: tuple[int, ...]
    dtype: Any
    lo: Any
    hi: Any


def analyze(
    function: Callable[..., Any], *arguments: Any, contracts: Iterable[Contract] = ()
) -> OverflowProof:
    """Propagates ranges through `function` and checks every integer result against its type.

    Args:
      function: a jittable function of integer arrays.
      *arguments: pytrees of `Bounded` (ranges), arrays (known exactly: weights), and
        `jax.ShapeDtypeStruct`s (anything their type holds).
      contracts: kernels that are taken at their word inside their domain, by jitted name.
    """
    leaves, tree = jax.tree.flatten(arguments, is_leaf=lambda x: isinstance(x, Bounded))
    abstract = [jax.ShapeDtypeStruct(np.shape(x), _dtype(x)) for x in leaves]
    closed = jax.jit(unremembered(function)).trace(*jax.tree.unflatten(tree, abstract)).jaxpr
    analysis = Analysis({contract.name: contract for contract in contracts})
    results = analysis.run(closed.jaxpr, closed.consts, [_argument(leaf) for leaf in leaves])
    return analysis.proof(results)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _argument(x: Any) -> Interval:
    ones = (1,) * len(np.shape(x))
    if isinstance(x, Bounded):
        lo, hi = (np.asarray(b) for b in (x.lo, x.hi))
        return between(*(b.reshape(ones[: len(ones) - b.ndim] + b.shape) for b in (lo, hi)))
    if isinstance(x, jax.ShapeDtypeStruct):
        lo, hi = type_range(x.dtype)
        return between(np.full(ones, lo), np.full(ones, hi))
    return exactly(x)
