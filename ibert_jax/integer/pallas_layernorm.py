"""i-LayerNorm of a row in one pass over memory, with what stands before and after it.

XLA reduces a row three times (mean, largest element, squares) and then reads it once more: for
RoBERTa-base at 128 x 128 tokens four times 50 MB in and 50 MB out, 58 us on an H200. Here a program
holds its rows in registers from the first sum to the last shift. In an encoder layer it also adds
the two operands of the residual sum before (a product's accumulators, their bias, and the residual)
and makes the 8-bit copy after that enters the next product: 100 MB in, 63 out, in place of another
150 MB for the sum and another 63 for the copy. At the speed of memory that is 38 us.

It took 62 and 69 us with all of that, 22 to 28 without (an H200; one row a program, by two or four
warps). What it waited for was, to judge by that, not the rows but the constants: nine or ten
numbers a channel, loaded for every row, are 450 MB from a cache that gives 8 to 9 TB/s. So a
program has two rows now and loads them once for both. It is one warp, which reduces a row without
barriers, and the rows are the first to leave the cache next to it, for nobody reads them again. Of
1,182 instructions a row 875 are left, by the disassembled kernel. This form was not measured.

The steps are those of ``layernorm.normalize``, with sums and maxima over a row's elements, in parts
of a power of two each. They are written out with int32 operations where Triton has none for
unsigned integers (leading zeros), and without the clips that never act there. A row's largest
|element| is found as in ``rows.row_largest``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
from ibert_jax.integer.pallas_constants import (
    Constants,
    Placed,
    pack_constants,
    pad_to,
    power_of_two,
    type_of,
)

ROWS = 2
"""Of a program, which loads the constants once for all of them."""
OF_A_WARP = 1024
"""Channels of a row that one warp holds in registers; it waits for no other, by no barriers."""
READ_AT_ONCE = 128
"""Numbers that a warp reads by one instruction, four a thread; rows are in parts of them."""
Elementwise = Callable[..., jax.Array]
Finish = Callable[..., tuple[jax.Array, ...]]


@dataclasses.dataclass(frozen=True)
class Rows:
    """An operand of which each row is looked up.

    Attributes:
        table: int8 [V, C], of such a C that ``may_look_up``.
        ratio: int32 [V], a number a row, which ``before`` is given with it.
        ids: int32 [...] in [0, V).
    """

    table: jax.Array
    ratio: jax.Array
    ids: jax.Array


def first_of(x: jax.Array, _: Any) -> jax.Array:
    """The one operand, where nothing stands before."""
    return x


def alone(normalized: jax.Array, _: Any) -> tuple[jax.Array, ...]:
    """What was normalized, where nothing stands after."""
    return (normalized,)


def fused_normalize(
    operands: Sequence[jax.Array | Rows],
    eps_mantissa: jax.Array | Placed,
    eps_exponent: jax.Array | Placed,
    *,
    before: Elementwise = first_of,
    constants: Any = (),
    after: Finish = alone,
    after_constants: Any = (),
    rows: int = ROWS,
    warps: int | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """``after(normalize(before(operands)))``.

    Args:
        operands: integer arrays [..., C]; or all of them rows looked up, each a pair of the row and
            its ratio to ``before``.
        eps_mantissa, eps_exponent: as ``layernorm.normalize`` takes them.
        before: makes int32 of 20 bits of the operands and ``constants``, element by element.
        after: makes what is written, a tuple, of what ``layernorm.normalize`` makes, int32, and
            ``after_constants``, element by element.
        constants, after_constants: pytrees of int32 arrays, scalars or one value a channel [C].
        rows: of a program, at most; fewer where they would not come out even.
        warps: of 32 threads, a program's; None, as few as hold the channels. The results depend on
            neither.
        interpret: run by Pallas' interpreter, on any platform.

    Returns:
        What ``after`` made, [..., C] each.
    """
    first = operands[0]
    lead, channels = (
        (first.ids.shape, first.table.shape[-1])
        if isinstance(first, Rows)
        else (first.shape[:-1], first.shape[-1])
    )
    warps = warps or warps_of(channels)
    parts = parts_of(channels, warps)
    width, count = sum(parts), math.prod(lead)
    rows = math.gcd(rows, count)
    tile = pl.BlockSpec((rows, width), lambda i: (i, 0))
    packed = pack_constants(((eps_mantissa, eps_exponent), constants, after_constants))
    types = type_of(after, (width,), after_constants)

    def inputs(x: jax.Array | Rows) -> tuple[list[jax.Array], list[pl.BlockSpec]]:
        if not isinstance(x, Rows):
            return [pad_to(x.reshape(count, channels), (count, width))], [tile]
        whole = [pl.BlockSpec(a.shape, lambda i, n=a.ndim: (0,) * n) for a in (x.table, x.ratio)]
        own = pl.BlockSpec((rows,), lambda i: (i,))
        return [x.table, x.ratio, x.ids.reshape(count)], [*whole, own]

    arrays, specs = zip(*map(inputs, operands), strict=True)
    found = pl.pallas_call(
        partial(
            _kernel,
            before=before,
            after=after,
            constants=packed.members(),
            sizes=[len(each) for each in arrays],
            rows=rows,
            channels=channels,
            parts=parts,
            interpret=interpret,
        ),
        grid=(count // rows,),
        in_specs=[
            pl.BlockSpec(packed.table.shape, lambda i: (0,)),
            *itertools.chain(*specs),
        ],
        out_specs=[tile for _ in types],
        out_shape=[jax.ShapeDtypeStruct((count, width), kind) for kind in types],
        compiler_params=triton.CompilerParams(num_warps=warps),
        interpret=interpret,
        name="fused_normalize",
    )(
        packed.table,
        *itertools.chain(*arrays),
    )
    return tuple(x[:, :channels].reshape(*lead, channels) for x in found)


def warps_of(channels: int) -> int:
    """As few as hold a row."""
    return power_of_two(-(-channels // OF_A_WARP), 1)


def may_look_up(channels: int) -> bool:
    """Whether the parts of a row are its channels and no more: nobody reads beyond a table."""
    return sum(parts_of(channels, warps_of(channels))) == channels


def parts_of(channels: int, warps: int) -> list[int]:
    """What so many warps read at once, as often as holds a row: 768 by one warp as six of 128."""
    part = READ_AT_ONCE * warps
    return [part] * -(-channels // part)


def _kernel(
    table: Any,
    *refs: Any,
    before: Elementwise,
    after: Finish,
    constants: list[Constants],
    sizes: list[int],
    rows: int,
    channels: int,
    parts: list[int],
    interpret: bool,
) -> None:
    own_refs = iter(refs)
    inputs = [list(itertools.islice(own_refs, size)) for size in sizes]
    outputs = list(own_refs)
    starts = [sum(parts[:index]) for index in range(len(parts))]
    cuts = list(zip(starts, parts, strict=True))
    places = [pl.ds(*cut) for cut in cuts]
    # Rows are asked for as a whole before any part is waited for: left to itself, the compiler asks
    # for a part when it has computed the one before. Nobody reads them again, so they are the first
    # to leave the cache next to the multiprocessor, which is for the constants.
    operands = [[[_read(x, row, place) for x in inputs] for row in range(rows)] for place in places]
    if not interpret:
        triton.debug_barrier()
    of_eps, of_before, of_after = (each.unpack for each in constants)
    eps, elements = of_eps(table, 0, 1), []
    for part, cut in zip(operands, cuts, strict=True):
        numbers = of_before(table, *cut)
        elements.append([before(*own, numbers) for own in part])
    columns = [start + lax.broadcasted_iota(jnp.int32, (size,), 0) for start, size in cuts]
    normalized = [
        _normalized(list(row), columns, channels, eps) for row in zip(*elements, strict=True)
    ]
    for index, (place, cut) in enumerate(zip(places, cuts, strict=True)):
        numbers = of_after(table, *cut)
        for row in range(rows):
            made = after(normalized[row][index], numbers)
            for output, part in zip(outputs, made, strict=True):
                output[row, place] = part


def _read(refs: list[Any], row: int, place: Any) -> Any:
    if len(refs) == 1:
        return triton.load(refs[0].at[jnp.int32(row), place], eviction_policy="evict_first")
    table, ratio, ids = refs
    at = ids[row]
    return table[at, place], ratio[at]


def _normalized(
    parts: list[jax.Array], columns: list[jax.Array], channels: int, eps: Any
) -> list[jax.Array]:
    """Of the equal parts of a row, int32 [W] each; beyond its channels are zeros."""

    def kept(values: list[jax.Array]) -> list[jax.Array]:
        if channels == sum(part.shape[0] for part in parts):
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
