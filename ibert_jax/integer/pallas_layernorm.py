"""i-LayerNorm of a row in one pass over memory, with what stands before and after it.

XLA reduces a row three times (mean, largest element, squares) and then reads it once more: for
RoBERTa-base at 128 x 128 tokens four times 50 MB in and 50 MB out, 58 us on an H200. Here a program
holds its rows in registers from the first sum to the last shift. In an encoder layer it also adds
the two operands of the residual sum before (a product's accumulators, their bias, and the residual)
and makes the 8-bit copy after that enters the next product: 100 MB in, 63 out, in place of another
150 MB for the sum and another 63 for the copy. At the speed of memory that is 38 us.

How long a row takes counts as much, for a multiprocessor has few of them at a time. An earlier form
took 66 us: by the disassembled kernel it waited for memory two or three times in turn and had 19
barriers, 506 instructions and 56 registers a thread. This one asks for all of a row first, joins
its parts before it reduces them, and loads the copy's constants when the row is done: 8, 446 and
34. It was not measured. (Of the earlier form, several rows one after the other in a program, which
keeps the constants, took longer.)

The steps are those of ``layernorm.normalize``, with sums and maxima over a row's elements, in parts
of a power of two each. They are written out with int32 operations where Triton has none for
unsigned integers (leading zeros), and without the clips that never act there. A row's largest
|element| is found as in ``rows.row_largest``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ibert_jax.integer.isqrt import isqrt
from ibert_jax.integer.layernorm import golden_step, halvings_of, numerator
from ibert_jax.integer.pallas_constants import Constants, Placed, pack_constants, pad_to

WARPS = 4
"""Of a row, which is a program. An earlier form took, on an H200 in one run, 78 us with four
warps if there is a copy to be made, 93 with two; 60 and 66 if there is none."""
SMALLEST_PART = 128
"""Channels; a row is padded to a multiple of them."""
Elementwise = Callable[..., jax.Array]


def first_of(x: jax.Array, _: Any) -> jax.Array:
    """The one operand, where nothing stands before."""
    return x


def fused_normalize(
    operands: Sequence[jax.Array],
    eps_mantissa: jax.Array | Placed,
    eps_exponent: jax.Array | Placed,
    *,
    before: Elementwise = first_of,
    constants: Any = (),
    after: Elementwise | None = None,
    after_constants: Any = (),
    warps: int = WARPS,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """``after(normalize(before(operands)))``, and what is between.

    Args:
        operands: integer arrays [..., C].
        eps_mantissa, eps_exponent: as ``layernorm.normalize`` takes them.
        before: makes int32 of 20 bits of the operands and ``constants``, element by element.
        after: makes int8 of normalized elements, int32, and ``after_constants``; None, nothing.
        constants, after_constants: pytrees of int32 arrays, scalars or one value a channel [C].
        warps: of 32 threads, a row's; the results do not depend on it.
        interpret: run by Pallas' interpreter, on any platform.

    Returns:
        ``layernorm.normalize`` of what ``before`` made, int32 [..., C], the same integers; and, if
        there is an ``after``, what it made of them, int8 [..., C].
    """
    channels, lead = operands[0].shape[-1], operands[0].shape[:-1]
    parts = parts_of(channels)
    width, count = sum(parts), math.prod(lead)
    row = pl.BlockSpec((None, width), lambda i: (i, 0))
    packed = pack_constants(((eps_mantissa, eps_exponent), constants, after_constants))
    types = (jnp.int32,) if after is None else (jnp.int32, jnp.int8)
    found = pl.pallas_call(
        partial(
            _kernel,
            before=before,
            after=after,
            constants=packed.members(),
            channels=channels,
            parts=parts,
            interpret=interpret,
        ),
        grid=(count,),
        in_specs=[
            pl.BlockSpec(packed.table.shape, lambda i: (0,)),
            *(row for _ in operands),
        ],
        out_specs=[row for _ in types],
        out_shape=[jax.ShapeDtypeStruct((count, width), kind) for kind in types],
        compiler_params=triton.CompilerParams(num_warps=warps),
        interpret=interpret,
        name="fused_normalize",
    )(
        packed.table,
        *(pad_to(x.reshape(count, channels), (count, width)) for x in operands),
    )
    return tuple(x[:, :channels].reshape(*lead, channels) for x in found)


def parts_of(channels: int) -> list[int]:
    """The largest equal powers of two that together hold a row: 768 as three of 256."""
    whole = -(-channels // SMALLEST_PART) * SMALLEST_PART
    part = whole & -whole
    return [part] * (whole // part)


def _kernel(
    table: Any,
    *refs: Any,
    before: Elementwise,
    after: Elementwise | None,
    constants: list[Constants],
    channels: int,
    parts: list[int],
    interpret: bool,
) -> None:
    inputs, outputs = (refs[:-1], refs[-1:]) if after is None else (refs[:-2], refs[-2:])
    starts = [sum(parts[:index]) for index in range(len(parts))]
    cuts = list(zip(starts, parts, strict=True))
    places = [pl.ds(*cut) for cut in cuts]
    # All of the row is asked for before any of it is waited for: left to itself, the compiler asks
    # for a part when it has computed the one before.
    operands = [[x[place] for x in inputs] for place in places]
    if not interpret:
        triton.debug_barrier()
    of_eps, of_before, of_after = (each.unpack for each in constants)
    elements = [
        before(*own, of_before(table, *cut)) for own, cut in zip(operands, cuts, strict=True)
    ]
    columns = [start + lax.broadcasted_iota(jnp.int32, (size,), 0) for start, size in cuts]
    normalized = _normalized(elements, columns, channels, of_eps(table, 0, 1))
    for place, cut, part in zip(places, cuts, normalized, strict=True):
        outputs[0][place] = part
        if after is not None:
            outputs[1][place] = after(part, of_after(table, *cut))


def _normalized(
    parts: list[jax.Array], columns: list[jax.Array], channels: int, eps: Any
) -> list[jax.Array]:
    """Of the equal parts of a row, int32 [W] each; beyond its channels are zeros."""

    def kept(values: list[jax.Array]) -> list[jax.Array]:
        if channels % SMALLEST_PART == 0:
            return values
        return [
            jnp.where(column < channels, part, 0)
            for part, column in zip(values, columns, strict=True)
        ]

    def over_row(reduce: Callable[..., jax.Array], join: Elementwise, values: Any) -> jax.Array:
        return reduce(functools.reduce(join, values))

    sum_of = partial(over_row, partial(jnp.sum, dtype=jnp.int32), jnp.add)
    parts = kept(parts)
    total = sum_of(parts)
    mean = total // channels
    centred = kept([part - mean for part in parts])
    highest = over_row(jnp.max, jnp.maximum, centred)
    largest = jnp.maximum(highest, -over_row(jnp.min, jnp.minimum, centred))
    shift = jnp.minimum(15 - (32 - lax.clz(largest + 1)), jnp.right_shift(-eps[1], 1))
    shift = jnp.maximum(shift, -31)
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    carried = ((total - mean * channels) << left) // channels
    y = kept([((part << left) - carried) >> right for part in centred])

    halvings = halvings_of(channels)
    step, below = golden_step(channels), (1 << halvings) - 1
    # Up to 2^32 - 1 with eps: the bits of the sum, whatever int32 makes of the highest.
    squares = sum_of(
        kept(
            [
                (part * part + ((column * step) & below)) >> halvings
                for part, column in zip(y, columns, strict=True)
            ]
        )
    )
    eps_shift = jnp.clip(halvings - eps[1] - 2 * shift, 0, 31)
    squares = squares + jnp.right_shift(eps[0], eps_shift)
    squares = jnp.where(squares == 0, 1, squares)
    zeros = lax.clz(squares)
    top = lax.shift_right_logical(squares << zeros, zeros & 1)
    root = isqrt(top.astype(jnp.uint32)).astype(jnp.int32)
    factor, down = (numerator(channels) + (root >> 1)) // root, 16 - (zeros >> 1)
    return [(part * factor + ((1 << down) >> 1)) >> down for part in y]
