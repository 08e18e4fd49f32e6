"""Products of 8-bit matrices, accumulated in int32: those of a network.

On CPU an int8 activation travels as uint8, for the sake of the mixed product (``mixed.py``), whose
zero point the bias takes up; elsewhere as it is. Weights may be laid out for oneDNN
(``packed.py``), or be one of several matrices, among whose products is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ibert_jax.integer.barrier import materialize
from ibert_jax.integer.mixed import ZERO_POINT, dot_s8, dot_u8_s8, to_unsigned
from ibert_jax.integer.packed import Packed, dot_u8_packed

COPIES = 4
"""Equal rows or columns of a matmul that stands for a vector: XLA runs a lone one in int32."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneOf:
    """The matrix at ``index``, an int32 that is computed, of several of one shape and type.

    A product with it is chosen among the products (``of_matrix``): nothing is copied.
    """

    matrices: tuple[jax.Array | Packed, ...]
    index: jax.Array


Matrix = jax.Array | Packed | OneOf
"""A matrix as it is, laid out for oneDNN, or as one of several."""


def of_matrix(matrix: Matrix, function: Callable[[Any], jax.Array]) -> jax.Array:
    """``function`` of a matrix; of one of several, chosen among the function's results."""
    if isinstance(matrix, OneOf):
        return lax.switch(matrix.index, [partial(function, each) for each in matrix.matrices])
    return function(matrix)


def int8_linear(
    q: jax.Array, weight: Matrix, bias: jax.Array, shifted_bias: jax.Array
) -> jax.Array:
    """q @ weight.T + bias in int32.

    Args:
        q: int8 [..., K].
        weight: int8 [N, K], or laid out for oneDNN, or one of several such.
        bias: int32 [N], |bias| < 2^30.
        shifted_bias: int32 [N], bias - 128 sum_k weight[n, k]: what ``shift_bias`` gives.

    Returns:
        int32 [..., N]; |result| < 2^31 for K up to 2^16.
    """
    dimensions = (((q.ndim - 1,), (1,)), ((), ()))
    shape = (1,) * (q.ndim - 1) + (-1,)

    def unsigned(q: jax.Array, weight: Matrix, bias: jax.Array, shifted: jax.Array) -> jax.Array:
        a = to_unsigned(q)
        surplus = (bias - shifted).reshape(shape)  # 128 sum_k weight: known, whatever lowers it
        if alone := q.ndim > 1 and all(isinstance(n, int) and n == 1 for n in q.shape[:-1]):
            a = jnp.broadcast_to(a, (*a.shape[:-2], COPIES, a.shape[-1]))
        product = of_matrix(
            weight,
            lambda w: (
                dot_u8_packed(a, w)
                if isinstance(w, Packed)
                else dot_u8_s8(a, w, dimensions, surplus)
            ),
        )
        return (product[..., :1, :] if alone else product) + shifted.reshape(shape)

    def signed(q: jax.Array, weight: Matrix, bias: jax.Array, _: jax.Array) -> jax.Array:
        product = of_matrix(
            weight, lambda w: dot_s8(q, w.matrix() if isinstance(w, Packed) else w, dimensions)
        )
        return product + bias.reshape(shape)

    return lax.platform_dependent(q, weight, bias, shifted_bias, cpu=unsigned, default=signed)


def int8_scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """query . key of every pair of rows: int8 [N, Q, D] and [N, T, D] -> int32 [N, Q, T]."""
    dimensions = (((2,), (2,)), ((0,), (0,)))

    def unsigned(query: jax.Array, key: jax.Array) -> jax.Array:
        # 128 sum_d key, for each key: of all heads' keys as the rows of one matrix, which are read
        # as they lie, while the right operand of each head's product is packed first. Written
        # apart, for whoever reads every fourth number of that product pays more than was saved.
        ones = jnp.ones((COPIES, key.shape[2]), jnp.int8)
        sums = dot_s8(key.reshape(-1, key.shape[2]), ones, (((1,), (1,)), ((), ())))[:, 0]
        surplus = materialize(ZERO_POINT * sums.reshape(key.shape[0], 1, key.shape[1]))
        return dot_u8_s8(to_unsigned(query), key, dimensions, surplus) - surplus

    def signed(query: jax.Array, key: jax.Array) -> jax.Array:
        return dot_s8(query, key, dimensions)

    return lax.platform_dependent(query, key, cpu=unsigned, default=signed)


def row_sum_u8(x: jax.Array) -> jax.Array:
    """uint8 [..., N] -> int32 [..., 1].

    On CPU by a matmul with ones: it reads its operand once from memory, while a sum would be
    fused with, and repeat, what computes the operand.
    """

    def by_matmul(x: jax.Array) -> jax.Array:
        folded = x.reshape(-1, *x.shape[-2:])
        ones = jnp.ones((folded.shape[0], COPIES, x.shape[-1]), jnp.int8)
        sums = dot_u8_s8(folded, ones, (((2,), (2,)), ((0,), (0,))))[..., :1]
        return sums.reshape(*x.shape[:-1], 1)

    def plainly(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.int32)

    return lax.platform_dependent(x, cpu=by_matmul, default=plainly)


def shift_bias(weight: jax.Array, bias: jax.Array) -> jax.Array:
    """bias - 128 sum_k weight[n, k]: the bias beside which activations travel as uint8."""
    return bias - ZERO_POINT * jnp.sum(weight, axis=1, dtype=jnp.int32)
