"""i-LayerNorm of a row in one pass over memory.

XLA reduces a row three times (mean, largest element, squares) and then reads it once more: for
RoBERTa-base at 128 x 128 tokens four times 50 MB in and 50 MB out, 58 us on an H200. Here a program
holds its rows in registers from the first sum to the last shift: 50 MB in, 50 MB out, 23 us.

The steps are those of ``layernorm.normalize``, with sums and maxima over a row's elements, padded
with zeros to a power of two. They are written out with int32 operations where Triton has none for
unsigned integers (leading zeros), and without the clips that never act there.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ibert_jax.integer.isqrt import isqrt
from ibert_jax.integer.layernorm import golden_step, halvings_of, numerator
from ibert_jax.integer.pallas_constants import power_of_two

ELEMENTS = 4096
"""Of one program: 32 registers a thread for each array of them."""
WARPS = 4


def fused_normalize(
    x: jax.Array, eps_mantissa: jax.Array, eps_exponent: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """``layernorm.normalize``: int32 [..., C] of 20 bits -> int32 [..., C], the same integers.

    Args:
        x, eps_mantissa, eps_exponent: as there.
        interpret: run by Pallas' interpreter, on any platform.
    """
    channels, lead = x.shape[-1], x.shape[:-1]
    width, count = power_of_two(channels), math.prod(lead)
    rows = max(1, ELEMENTS // width)
    whole = pl.BlockSpec((rows, width), lambda i: (i, 0))
    found = pl.pallas_call(
        partial(_kernel, channels=channels, count=count),
        grid=(-(-count // rows),),
        in_specs=[whole, pl.BlockSpec((2,), lambda i: (0,))],
        out_specs=whole,
        out_shape=jax.ShapeDtypeStruct((count, channels), jnp.int32),
        compiler_params=triton.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="fused_normalize",
    )(x.reshape(count, channels), jnp.stack([eps_mantissa, eps_exponent]))
    return found.reshape(*lead, channels)


def _kernel(x: Any, eps: Any, out: Any, *, channels: int, count: int) -> None:
    shape = x.shape
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    row = pl.program_id(0) * shape[0] + lax.broadcasted_iota(jnp.int32, shape, 0)
    there = (column < channels) & (row < count)

    def kept(values: jax.Array) -> jax.Array:
        return jnp.where(there, values, 0)

    def total_of(values: jax.Array) -> jax.Array:
        return jnp.sum(values, axis=1, keepdims=True, dtype=jnp.int32)

    elements = triton.load(x, mask=there, other=0)
    total = total_of(elements)
    mean = total // channels
    centred = kept(elements - mean)
    largest = jnp.max(jnp.abs(centred), axis=1, keepdims=True)
    shift = jnp.minimum(15 - (32 - lax.clz(largest + 1)), jnp.right_shift(-eps[1], 1))
    shift = jnp.maximum(shift, -31)
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    carried = ((total - mean * channels) << left) // channels
    y = kept(((centred << left) - carried) >> right)

    halvings = halvings_of(channels)
    rounding = (column * golden_step(channels)) & ((1 << halvings) - 1)
    # Up to 2^32 - 1 with eps: the bits of the sum, whatever int32 makes of the highest.
    squares = total_of(kept((y * y + rounding) >> halvings))
    eps_shift = jnp.clip(halvings - eps[1] - 2 * shift, 0, 31)
    squares = squares + jnp.right_shift(eps[0], eps_shift)
    squares = jnp.where(squares == 0, 1, squares)
    zeros = lax.clz(squares)
    top = lax.shift_right_logical(squares << zeros, zeros & 1)
    root = isqrt(top.astype(jnp.uint32)).astype(jnp.int32)
    factor, down = (numerator(channels) + (root >> 1)) // root, 16 - (zeros >> 1)
    triton.store(out, (y * factor + ((1 << down) >> 1)) >> down, mask=there)
