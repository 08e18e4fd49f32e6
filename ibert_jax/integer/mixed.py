"""uint8 by int8 products, accumulated in int32.

One meaning, and per machine the fastest exact lowering. XLA's CPU backend runs
``u8 x s8 -> s32`` on the VNNI instructions of AVX-512, at more than twice the speed of ``s8 x s8``;
but ``lax.dot_general`` converts operands of two types to int32 first and loses both. HLO itself
accepts the mixed product, so ``dot_u8_s8`` is a primitive of our own that emits it. Elsewhere, on
GPU, TPU and all other CPUs, ``s8 x s8`` is the fast one, and the primitive lowers to that with the
zero point put back. That is decided when it is lowered, so that what is traced, and proved, is the
same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import stablehlo as hlo
from jax.interpreters import batching, mlir

from ibert_jax.integer.compiled import cpu_features

DotDimensions = tuple[
    tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]
]
ZERO_POINT = 128
"""What is added to an int8 activation so that it travels as uint8."""
MOST_TERMS = 65_793
"""Products of uint8 by int8 that sum inside int32, whatever they are: 2^31 / (255 * 128)."""


def dot_s8(a: jax.Array, b: jax.Array, dimensions: DotDimensions) -> jax.Array:
    """int8 by int8 -> int32, ``dimensions`` as in ``lax.dot_general``."""
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.int32)


def dot_u8_s8(
    a: jax.Array, b: jax.Array, dimensions: DotDimensions, surplus: jax.Array | None = None
) -> jax.Array:
    """uint8 by int8 -> int32.

    Exact while the sum of products fits int32: up to ``MOST_TERMS`` of them.

    Args:
        a, b, dimensions: as in ``lax.dot_general``.
        surplus: 128 times the sums of ``b`` over what is contracted, where they are known: int32,
            of the result's shape or with 1 in place of a dimension. Machines that multiply int8 by
            int8 put the zero point back by them, and compute them for each call if not given them;
            others do not read them.

    Raises:
        TypeError: operands of other types, a surplus of another type or shape.
    """
    known = () if surplus is None else (surplus,)
    return _dot_u8_s8.bind(a, b, *known, dimensions=dimensions)


@cache
def vectorized() -> bool:
    """Whether XLA's CPU backend has more than a plain loop for the mixed product on this machine.

    XLA's library of products (YNNPACK, 2026) has kernels for the mixed product with AVX-512's VNNI
    and with AMX, whose processors all have the former, and a plain loop for AVX2, AVX-VNNI and ARM,
    for which it has kernels for int8 by int8: eight times as fast with AVX2.
    """
    return "avx512vnni" in cpu_features()


def to_unsigned(q: jax.Array) -> jax.Array:
    """int8 q -> uint8 q + 128."""
    return lax.bitcast_convert_type(q ^ np.int8(-128), jnp.uint8)


def to_signed(a: jax.Array) -> jax.Array:
    """uint8 a -> int8 a - 128."""
    return lax.bitcast_convert_type(a, jnp.int8) ^ np.int8(-128)


def _plain(a: jax.Array, b: jax.Array, *known: jax.Array, dimensions: DotDimensions) -> jax.Array:
    """The same product by int8 operands: (a - 128) . b + 128 sum(b)."""
    product = dot_s8(to_signed(a), b, dimensions)
    if known:
        return product + known[0]
    ((_, contract), (_, batch)) = dimensions
    total = jnp.sum(b, axis=contract, dtype=jnp.int32) * ZERO_POINT
    rows = a.ndim - len(contract) - len(batch)
    shape = total.shape[: len(batch)] + (1,) * rows + total.shape[len(batch) :]
    return product + total.reshape(shape)


def _abstract(a: Any, b: Any, *known: Any, dimensions: DotDimensions) -> Any:
    if a.dtype != np.uint8 or b.dtype != np.int8:
        raise TypeError(f"dot_u8_s8 takes uint8 and int8 operands, got {a.dtype} and {b.dtype}")
    shape = jax.eval_shape(
        partial(dot_s8, dimensions=dimensions), a.update(dtype=np.dtype(np.int8)), b
    ).shape
    for surplus in known:
        fits = len(surplus.shape) == len(shape) and all(
            own in (1, size) for own, size in zip(surplus.shape, shape, strict=True)
        )
        if surplus.dtype != np.int32 or not fits:
            raise TypeError(
                f"expected a surplus of int32 that broadcasts to {shape}, got {surplus.dtype} "
                f"{surplus.shape}"
            )
    return a.update(shape=shape, dtype=np.dtype(np.int32))


def _lower_on_cpu(
    ctx: Any, a: Any, b: Any, *known: Any, dimensions: DotDimensions
) -> Sequence[Any]:
    if not vectorized():
        return _lower_plain(ctx, a, b, *known, dimensions=dimensions)
    ((a_contract, b_contract), (a_batch, b_batch)) = dimensions
    numbers = hlo.DotDimensionNumbers.get(
        lhs_batching_dimensions=list(a_batch),
        rhs_batching_dimensions=list(b_batch),
        lhs_contracting_dimensions=list(a_contract),
        rhs_contracting_dimensions=list(b_contract),
    )
    result = mlir.aval_to_ir_type(ctx.module_context, ctx.avals_out[0])  # of symbolic shapes, too
    return [hlo.dot_general(result, a, b, numbers)]


def _batch(args: Sequence[Any], dims: Sequence[Any], *, dimensions: DotDimensions) -> Any:
    """A vmapped operand becomes one more batch dimension, in front."""
    size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    a, b, *known = (
        jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    )

    def up(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(axis + 1 for axis in axes)

    ((a_contract, b_contract), (a_batch, b_batch)) = dimensions
    raised = (
        (up(a_contract), up(b_contract)),
        ((0, *up(a_batch)), (0, *up(b_batch))),
    )
    return dot_u8_s8(a, b, raised, *known), 0


def _run(*operands: jax.Array, dimensions: DotDimensions) -> jax.Array:
    """Eagerly: compiled by itself, also where a debugger has disabled jit."""
    with jax.disable_jit(False):
        return _compiled(*operands, dimensions=dimensions)


_lower_plain = mlir.lower_fun(_plain, multiple_results=False)
_dot_u8_s8 = Primitive("dot_u8_s8")
_compiled = jax.jit(_dot_u8_s8.bind, static_argnames="dimensions")
_dot_u8_s8.def_abstract_eval(_abstract)
_dot_u8_s8.def_impl(_run)
mlir.register_lowering(_dot_u8_s8, _lower_plain)
mlir.register_lowering(_dot_u8_s8, _lower_on_cpu, platform="cpu")
batching.primitive_batchers[_dot_u8_s8] = _batch
