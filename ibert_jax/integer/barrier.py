"""Fences for XLA's fusion on CPU.

XLA's CPU backend fuses elementwise work into whatever reads it, and copies it where there are
several readers: what belongs to a row is then recomputed for each of its elements, a sum of
residuals once for each of LayerNorm's passes over it, and the computation of a constant in
every kernel that uses it (minutes of compilation, kernels of thousands of operations). It has
no regard for an ``optimization_barrier`` there, but it never fuses across a conditional.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Arrays = TypeVar("Arrays")


def materialized(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function``, compiled apart, its results written to memory before anything reads them.

    The function takes arrays (or pytrees of them) by position; keyword-only arguments are
    static. On CPU it runs inside a conditional whose predicate always holds but which XLA
    cannot know to hold; elsewhere it is called as it is. The values are the same.
    """
    parameters = inspect.signature(function).parameters.values()
    static_names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    apart = jax.jit(function, static_argnames=static_names)

    # Jitted itself, so that an eager call compiles once and not each time.
    @partial(jax.jit, static_argnames=static_names)
    @wraps(function)
    def fenced(*arguments: Arguments.args, **static: Arguments.kwargs) -> Result:
        leaves, structure = jax.tree.flatten(arguments)

        def plain(*leaves: jax.Array) -> Result:
            return apart(*jax.tree.unflatten(structure, leaves), **static)

        def zeros(*leaves: jax.Array) -> Result:
            shapes = jax.eval_shape(plain, *leaves)
            return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

        def conditional(*leaves: jax.Array) -> Result:
            if not leaves[0].size:  # nothing to read, nor anything to fence off
                return plain(*leaves)
            return lax.cond(_always(leaves[0]), plain, zeros, *leaves)

        return lax.platform_dependent(*leaves, cpu=conditional, default=plain)

    return fenced


@materialized
def materialize(x: Arrays) -> Arrays:
    """``x`` (arrays in any pytree), computed before anything reads it; the identity."""
    return x


def row_major(x: Arrays) -> Arrays:
    """``x`` as laid out by its shape: keeps XLA from folding a transpose into the matmul that
    reads it, which then falls back to int32 and a plain loop, 20 times slower."""
    return lax.optimization_barrier(x)


def _always(x: jax.Array) -> jax.Array:
    """True, in a way that XLA does not see through: nothing has more than 32 leading zeros."""
    head = x[(0,) * x.ndim]
    bits = lax.bitcast_convert_type(head, jnp.uint32) if head.dtype == jnp.float32 else head
    return lax.clz(bits.astype(jnp.int32)) <= 32
